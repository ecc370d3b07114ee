//! Writes a dataset with several kinds of fields, then reads a sample back.
//!
//! `cargo run --release --example write_shards`
#![expect(clippy::print_stdout, reason = "an example")]

use std::error::Error;

use tensorshard::{
    CodecSpec, DType, Dataset, FieldSpec, QuantSpec, ShardWriter, TensorView, to_le_bytes,
};

fn main() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("clips");

    // A request for each field. Without more words a field is lossless: byte shuffle where an element is wider than a
    // byte, then Snappy.
    let mut writer = ShardWriter::builder()
        .field(FieldSpec::key("name"))
        .field(FieldSpec::new("frame", DType::U8, [3, 32, 32]).codec(CodecSpec::parse("zstd:3")?))
        // int8 with one scale per sample: a quarter of the bytes, and the error is recorded.
        .field(FieldSpec::new("latent", DType::F32, [4, 8, 8]).quantize(QuantSpec::int8()))
        // As many tokens as there are: ragged in its first dim.
        .field(FieldSpec::ragged("tokens", DType::F16, [None, Some(16)]))
        .metadata("encoder", "example-vae")
        .create(&path)?;

    for i in 0..500usize {
        let name = format!("clip-{i:04}");
        let frame: Vec<u8> = (0..3 * 32 * 32)
            .map(|j| u8::try_from((i + j / 7) % 256).unwrap_or(0))
            .collect();
        let latent: Vec<f32> = (0..256)
            .map(|j| {
                let phase = (i * 256 + j) as f32;
                (phase * 0.05).sin() + 0.2 * (phase * 1.7).sin()
            })
            .collect();
        let num_tokens = 1 + i % 5;
        let tokens: Vec<half::f16> = (0..num_tokens * 16)
            .map(|j| half::f16::from_f32(j as f32))
            .collect();
        writer.append(&[
            (
                "name",
                TensorView::new(DType::U8, &[name.len()], name.as_bytes())?,
            ),
            ("frame", TensorView::new(DType::U8, &[3, 32, 32], &frame)?),
            (
                "latent",
                TensorView::new(DType::F32, &[4, 8, 8], &to_le_bytes(&latent))?,
            ),
            (
                "tokens",
                TensorView::new(DType::F16, &[num_tokens, 16], &to_le_bytes(&tokens))?,
            ),
        ])?;
    }
    // Nothing is visible under `path` before this: the manifest is the commit.
    let summary = writer.finish()?;
    for field in &summary.fields {
        let error = field.error.map_or_else(
            || "lossless".to_owned(),
            |e| format!("max error {:.4}", e.max_abs_error),
        );
        println!(
            "{:8} {:14} ratio {:5.2}  {error}",
            field.name,
            field.description,
            field.ratio()
        );
    }

    let dataset = Dataset::open(&path)?;
    let sample = dataset.get(123)?;
    println!(
        "sample {} is {:?}, its tokens have shape {:?}",
        sample.id(),
        sample.text("name")?,
        sample.tensor("tokens")?.shape()
    );
    Ok(())
}
