//! Random access; opening, and the first batch, against the number of shards and samples.
#![expect(clippy::expect_used, reason = "benches stop at the first error")]

mod common;

use std::hint::black_box;

use common::data::photos_of;
use common::{Group, Random, field, photos, scaled, write};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tensorshard::{CodecSpec, Dataset, Loader, ShardWriter, TensorView};

fn random_access(c: &mut Criterion) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let array = photos();
    let mut group = Group::new(c, "get/photos", 12288, array.data.len());
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
        group.entry(codec, 12288, || {
            dataset
                .get(random.next() % dataset.len())
                .expect("a sample")
        });
        group.entry(&format!("{codec}, 64 at once"), 64 * 12288, || {
            let indices: Vec<u64> = (0..64).map(|_| random.next() % dataset.len()).collect();
            dataset.get_many(&indices).expect("samples")
        });
    }
    group.finish();
}

/// Photos in shards of `per_shard` samples.
fn open(c: &mut Criterion) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut group = Group::new(c, "first batch of 64/photos", 64 * 12288, 64 * 12288 * 20);
    let mut paths = Vec::new();
    for (num_samples, num_shards) in [(4000, 1), (4000, 100), (4000, 1000), (500, 1)] {
        let num_samples = scaled(num_samples).max(64);
        let array = photos_of(num_samples);
        let name = format!("{num_samples} samples, {num_shards} shards");
        let path = folder.path().join(&name);
        let mut builder = ShardWriter::builder().field(field(&array));
        if num_shards > 1 {
            let per_shard = u32::try_from(num_samples.div_ceil(num_shards)).unwrap_or(1);
            builder = builder.samples_per_chunk(per_shard).max_shard_len(1);
        }
        let mut writer = builder.create(&path).expect("a writer");
        let view = TensorView::new(array.dtype, &array.shape, &array.data).expect("a view");
        writer.extend(&[("x", view)]).expect("samples");
        writer.finish().expect("a dataset");
        group.entry(&name, 64 * 12288, || {
            let loader = Loader::open(&path).expect("a dataset");
            black_box(loader.batches(64).next())
        });
        paths.push((name, path));
    }
    group.finish();

    // Opening delivers nothing that a memcpy could be compared with.
    let mut group = c.benchmark_group("open");
    group.throughput(Throughput::Elements(1));
    for (name, path) in &paths {
        group.bench_function(name, |b| {
            b.iter(|| black_box(Dataset::open(path).expect("a dataset")));
        });
    }
    group.finish();
}

criterion_group!(benches, random_access, open);
criterion_main!(benches);
