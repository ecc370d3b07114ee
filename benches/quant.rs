//! Quantizers: stored codes to f32 (and other dtypes) in batches, without a codec. One worker.
#![expect(clippy::expect_used, reason = "benches stop at the first error")]

mod common;

use common::{Group, field, latents, photos, write};
use criterion::{Criterion, criterion_group, criterion_main};
use tensorshard::{CodecSpec, DType, FieldOutput, Loader, QuantSpec};

fn dequantize(c: &mut Criterion) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let array = latents();
    let mut group = Group::new(c, "dequantize/latents", 64 * 16384, array.data.len());
    let none = CodecSpec::parse("none").expect("a codec");
    for spec in [
        "f16",
        "bf16",
        "f8e4m3fn",
        "int8",
        "uint8:asym",
        "int16",
        "int4:per-group=32:scale=f16",
        "int4:per-group=128:scale=f16",
        "abs_error:0.01:bits=8:range=-4..4",
        "abs_error:0.001:bits=16",
        "fp8",
        "nf4",
        "mxfp8",
        "mxint8",
        "mxfp4",
    ] {
        let quant = QuantSpec::parse(spec).expect("a quantizer");
        let path = write(
            folder.path(),
            spec,
            &array,
            field(&array).filters([]).codec(none).quantize(quant),
        );
        group.epochs(spec, &path, Loader::builder().num_workers(1), 64);
    }
    for dtype in [DType::F16, DType::BF16] {
        let path = folder.path().join("int8");
        let name = format!("int8 to {dtype}");
        group.epochs(
            &name,
            &path,
            Loader::builder().num_workers(1).dtype(dtype),
            64,
        );
    }
    group.finish();
}

fn normalize(c: &mut Criterion) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let array = photos();
    let mut group = Group::new(c, "normalize/photos", 64 * 12288 * 4, array.data.len() * 4);
    let path = write(
        folder.path(),
        "u8",
        &array,
        field(&array).codec(CodecSpec::parse("none").expect("a codec")),
    );
    let output = FieldOutput::new().normalize(
        1.0 / 255.0,
        &[0.485, 0.456, 0.406],
        &[0.229, 0.224, 0.225],
        0,
    );
    group.epochs(
        "u8 to f32",
        &path,
        Loader::builder().num_workers(1).output("x", output),
        64,
    );
    group.finish();
}

criterion_group!(benches, dequantize, normalize);
criterion_main!(benches);
