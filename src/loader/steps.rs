//! How many steps each sample has: the length of the first axis of its fields.

use crate::dataset::Dataset;
use crate::error::{Error, Result};

/// The steps of the samples of a dataset.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Steps {
    Same(u64),
    /// Of each sample.
    Each(Vec<u32>),
}

impl Steps {
    /// The steps of these fields (ordinals of the schema), which agree. Of ragged fields the shapes of every chunk are
    /// read; 4 bytes a sample are kept.
    ///
    /// # Errors
    /// `InvalidArgument` if fields do not agree; those of reading.
    pub(super) fn read(dataset: &Dataset, fields: &[usize]) -> Result<Self> {
        let schema = dataset.schema().fields();
        let mut same: Option<(u64, usize)> = None;
        let mut ragged = Vec::new();
        for &ordinal in fields {
            let dims = schema.get(ordinal).and_then(|field| field.dims());
            let Some(steps) = dims.and_then(|dims| *dims.first()?) else {
                ragged.push(ordinal);
                continue;
            };
            let steps = steps as u64;
            if let Some((other, first)) = same
                && other != steps
            {
                let names = (schema[first].name(), schema[ordinal].name());
                return Err(disagree(None, names, (other, steps)));
            }
            same = same.or(Some((steps, ordinal)));
        }
        if ragged.is_empty() {
            return Ok(Self::Same(same.map_or(0, |(steps, _)| steps)));
        }
        let mut each: Vec<u32> = Vec::new();
        for ordinal in 0..dataset.num_shards() {
            let record = dataset.shard_record(ordinal)?;
            let per_chunk = u64::from(record.samples_per_chunk.max(1));
            for chunk in 0..record.num_samples.div_ceil(per_chunk) {
                let before = each.len();
                let shapes = dataset.shapes(ordinal, chunk, &ragged)?;
                for (i, (&field, shapes)) in ragged.iter().zip(shapes).enumerate() {
                    for row in 0..shapes.len() {
                        let steps = shapes.shape(row).first().copied().unwrap_or(0);
                        // Dims of ragged fields are a u32 on disk.
                        let steps = u32::try_from(steps).unwrap_or(u32::MAX);
                        let sample = before + row;
                        let (first, expected) = match (i, same) {
                            (0, None) => (field, u64::from(steps)),
                            (0, Some((steps, first))) => (first, steps),
                            _ => (ragged[0], u64::from(each.get(sample).copied().unwrap_or(0))),
                        };
                        if expected != u64::from(steps) {
                            let names = (schema[first].name(), schema[field].name());
                            let found = (expected, u64::from(steps));
                            return Err(disagree(Some(sample), names, found));
                        }
                        if i == 0 {
                            each.push(steps);
                        }
                    }
                }
            }
        }
        if each.len() as u64 != dataset.len() {
            return Err(Error::corrupt(
                "samples with shapes",
                dataset.len(),
                each.len(),
            ));
        }
        Ok(Self::Each(each))
    }
}

fn disagree(sample: Option<usize>, names: (&str, &str), steps: (u64, u64)) -> Error {
    let which = sample.map_or_else(String::new, |sample| format!(" of sample {sample}"));
    Error::invalid(format!(
        "the first axes{which} do not agree: {} in field {:?}, {} in field {:?}; name the fields that are cut together",
        steps.0, names.0, steps.1, names.1
    ))
}
