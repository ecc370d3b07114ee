//! Writing: quantize, filter, compress, checksum, to files in the system's folder for temporary files.
#![expect(clippy::expect_used, reason = "benches stop at the first error")]

mod common;

use common::{Array, Group, field, latents, photos};
use criterion::{Criterion, criterion_group, criterion_main};
use tensorshard::{CodecSpec, QuantSpec, ShardWriter, TensorView};

fn writer(c: &mut Criterion) {
    let photos = photos();
    let latents = latents();
    let cases: [(&str, &Array, &str, Option<QuantSpec>); 4] = [
        ("photos stored", &photos, "none", None),
        ("photos snappy", &photos, "snappy", None),
        ("photos zstd", &photos, "zstd:3", None),
        (
            "latents int8 snappy",
            &latents,
            "snappy",
            Some(QuantSpec::int8()),
        ),
    ];
    for (name, array, codec, quant) in cases {
        let len = array.data.len();
        let mut group = Group::new(c, &format!("writer/{name}"), 1 << 20, len);
        let mut spec = field(array).codec(CodecSpec::parse(codec).expect("a codec"));
        if let Some(quant) = quant {
            spec = spec.quantize(quant);
        }
        for num_workers in [1, 2] {
            group.entry(&format!("{num_workers} workers"), len, || {
                let folder = tempfile::tempdir().expect("a temporary folder");
                let builder = ShardWriter::builder()
                    .num_workers(num_workers)
                    .field(spec.clone());
                let mut writer = builder.create(folder.path().join("d")).expect("a writer");
                let view = TensorView::new(array.dtype, &array.shape, &array.data).expect("a view");
                writer.extend(&[("x", view)]).expect("samples");
                writer.finish().expect("a dataset");
            });
        }
        group.finish();
    }
}

criterion_group!(benches, writer);
criterion_main!(benches);
