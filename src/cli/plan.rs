//! Reads a sample of an input and has a planner measure encodings on it.

use tensorshard::import::{Samples, Source};
use tensorshard::{FieldSpec, Plan, Planner, TensorView};

use super::failure::Failure;
use super::progress::{Progress, Unit};

/// Measures encodings of a field on samples from all over its source.
pub(crate) fn plan(
    planner: &Planner,
    field: &FieldSpec,
    source: &mut dyn Source,
    quiet: bool,
) -> Result<Plan, Failure> {
    let dtype = source.dtype();
    let fixed: Option<Vec<usize>> = source.shape().iter().copied().collect();
    let mut blocks: Vec<(Vec<usize>, Vec<u8>)> = Vec::new();
    let mut samples = Samples::default();
    for range in Planner::sample_ranges(source.num_samples(), source.raw_bytes()) {
        let count = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
        source.read(range.start, count, &mut samples)?;
        let data = std::mem::take(&mut samples.data);
        if let Some(shape) = &fixed {
            let shape = std::iter::once(count).chain(shape.iter().copied());
            blocks.push((shape.collect(), data));
            continue;
        }
        let mut rest = data.as_slice();
        for shape in &samples.shapes {
            let bytes = shape.iter().product::<usize>() * dtype.size();
            let (head, tail) = rest.split_at(bytes.min(rest.len()));
            blocks.push((shape.clone(), head.to_vec()));
            rest = tail;
        }
    }
    let mut views = Vec::with_capacity(blocks.len());
    for (shape, data) in &blocks {
        views.push(TensorView::new(dtype, shape, data)?);
    }
    let progress = Progress::new("plan", Unit::Percent, 100, quiet);
    let plan = planner.plan_watched(field, &views, &|done, total| {
        progress.update(done * 100 / total.max(1), None);
    })?;
    progress.finish();
    Ok(plan)
}
