//! Several aligned `.npy` files (the same number of samples) become one dataset, in blocks: files larger than memory
//! work. This is what `tensorshard convert --field image=.. --field label=.. OUT` does.
//!
//! `cargo run --release --example aligned_npy`
#![expect(clippy::print_stdout, reason = "an example")]

use std::error::Error;
use std::fs;
use std::path::Path;

use tensorshard::import::{self, ImportOptions, Samples};
use tensorshard::{DType, Dataset, FieldSpec, QuantSpec, ShardWriter, TensorView, to_le_bytes};

/// Samples read at a time.
const BLOCK: usize = 256;

fn main() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let n = 1000usize;
    let embeddings: Vec<f32> = (0..n * 384).map(|i| (i as f32 * 0.37).sin()).collect();
    let labels: Vec<i64> = (0..n).map(|i| i64::try_from(i % 10).unwrap_or(0)).collect();
    save(
        &folder.path().join("embedding.npy"),
        DType::F32,
        &[n, 384],
        &to_le_bytes(&embeddings),
    )?;
    save(
        &folder.path().join("label.npy"),
        DType::I64,
        &[n],
        &to_le_bytes(&labels),
    )?;

    // Open both; each has one field, named after its file.
    let mut fields = Vec::new();
    for file in ["embedding.npy", "label.npy"] {
        let input = import::open(&folder.path().join(file), &ImportOptions::default())?;
        fields.extend(input.fields);
    }
    let specs = fields.iter().map(|field| {
        let shape: Vec<usize> = field.source.shape().iter().copied().flatten().collect();
        let spec = FieldSpec::new(&field.name, field.source.dtype(), shape);
        if field.source.dtype().is_float() {
            spec.quantize(QuantSpec::int8())
        } else {
            spec
        }
    });
    let path = folder.path().join("dataset");
    let mut writer = ShardWriter::builder().fields(specs).create(&path)?;

    let mut first = 0;
    while first < n {
        let count = BLOCK.min(n - first);
        let mut blocks = Vec::new();
        for field in &mut fields {
            let mut samples = Samples::default();
            field.source.read(first as u64, count, &mut samples)?;
            let mut shape = vec![count];
            shape.extend(field.source.shape().iter().copied().flatten());
            blocks.push((
                field.name.clone(),
                field.source.dtype(),
                shape,
                samples.data,
            ));
        }
        let views: Result<Vec<_>, tensorshard::Error> = blocks
            .iter()
            .map(|(name, dtype, shape, data)| {
                Ok((name.as_str(), TensorView::new(*dtype, shape, data)?))
            })
            .collect();
        writer.extend(&views?)?;
        first += count;
    }
    let summary = writer.finish()?;
    for field in &summary.fields {
        println!(
            "{}: {} as {}, ratio {:.2}",
            field.name,
            field.description,
            field.encoding,
            field.ratio()
        );
    }
    println!(
        "label of sample 777: {:?}",
        Dataset::open(&path)?
            .get(777)?
            .tensor("label")?
            .to_vec::<i64>()?
    );
    Ok(())
}

fn save(path: &Path, dtype: DType, shape: &[usize], data: &[u8]) -> Result<(), Box<dyn Error>> {
    let mut file = import::emit_header(import::npy_descr(dtype), shape);
    file.extend_from_slice(data);
    Ok(fs::write(path, file)?)
}
