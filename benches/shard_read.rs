//! Random access and opening.
#![expect(clippy::expect_used, reason = "benches stop at the first error")]

mod common;

use std::hint::black_box;

use common::{Random, field, memcpy, photos, write};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tensorshard::{CodecSpec, Dataset, Loader};

fn random_access(c: &mut Criterion) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let array = photos();
    let mut group = c.benchmark_group("get/photos");
    memcpy(&mut group, 12288, 12288, array.data.len());
    for codec in ["none", "snappy", "lz4"] {
        let spec = CodecSpec::parse(codec).expect("a codec");
        let dataset = Dataset::open(write(
            folder.path(),
            codec,
            &array,
            field(&array).codec(spec),
        ))
        .expect("a dataset");
        let mut random = Random(9);
        group.throughput(Throughput::Bytes(12288));
        group.bench_function(codec, |b| {
            b.iter(|| {
                black_box(
                    dataset
                        .get(random.next() % dataset.len())
                        .expect("a sample"),
                )
            });
        });
        group.throughput(Throughput::Bytes(64 * 12288));
        group.bench_function(format!("{codec}, 64 at once"), |b| {
            b.iter(|| {
                let indices: Vec<u64> = (0..64).map(|_| random.next() % dataset.len()).collect();
                black_box(dataset.get_many(&indices).expect("samples"))
            });
        });
    }
    group.finish();
}

fn open(c: &mut Criterion) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let array = photos();
    let path = write(folder.path(), "d", &array, field(&array));
    let mut group = c.benchmark_group("open");
    memcpy(&mut group, 64 * 12288, 64 * 12288, array.data.len());
    group.bench_function("loader and first batch of 64", |b| {
        b.iter(|| {
            let loader = Loader::open(&path).expect("a dataset");
            black_box(loader.batches(64).next())
        });
    });
    // Delivers nothing.
    group.throughput(Throughput::Elements(1));
    group.bench_function("dataset", |b| {
        b.iter(|| black_box(Dataset::open(&path).expect("a dataset")))
    });
    group.finish();
}

criterion_group!(benches, random_access, open);
criterion_main!(benches);
