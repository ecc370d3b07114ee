//! Writing: quantize, filter, compress, checksum, to files.
#![expect(clippy::expect_used, reason = "benches stop at the first error")]

mod common;

use common::{field, latents, memcpy, photos};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use tensorshard::{FieldSpec, QuantSpec, ShardWriter, TensorView};

fn writer(c: &mut Criterion) {
    for (name, array, quant) in [
        ("photos snappy", photos(), None),
        ("latents int8 snappy", latents(), Some(QuantSpec::int8())),
    ] {
        let mut group = c.benchmark_group(format!("writer/{name}"));
        group.sample_size(10);
        let len = array.data.len();
        memcpy(&mut group, 64 << 10, len, len);
        for num_workers in [1, 2] {
            let mut spec: FieldSpec = field(&array);
            if let Some(quant) = &quant {
                spec = spec.quantize(quant.clone());
            }
            group.throughput(Throughput::Bytes(array.data.len() as u64));
            group.bench_function(format!("{num_workers} workers"), |b| {
                b.iter_batched(
                    || tempfile::tempdir().expect("a temporary folder"),
                    |folder| {
                        let builder = ShardWriter::builder()
                            .num_workers(num_workers)
                            .field(spec.clone());
                        let mut writer = builder.create(folder.path().join("d")).expect("a writer");
                        let view = TensorView::new(array.dtype, &array.shape, &array.data)
                            .expect("a view");
                        writer.extend(&[("x", view)]).expect("samples");
                        writer.finish().expect("a dataset");
                        folder
                    },
                    BatchSize::PerIteration,
                );
            });
        }
        group.finish();
    }
}

criterion_group!(benches, writer);
criterion_main!(benches);
