//! Data and the memcpy baseline shared by the benches. Everything is made here, with fixed seeds; or the tensors are read
//! from the folder `TENSORSHARD_BENCH_DATA`: `img.u8` (u8 `[n, 3, 64, 64]`), `lat.f32` (f32 `[n, 4, 32, 32]`) and
//! `lat.i8` (int8, the same with one scale for all).
#![expect(clippy::unwrap_used, reason = "benches stop at the first error")]
#![allow(dead_code, reason = "every bench uses some of these")]

pub(crate) mod copies;
pub(crate) mod data;

use std::hint::black_box;
use std::path::{Path, PathBuf};

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Throughput};
use tensorshard::{FieldSpec, Loader, LoaderBuilder, ShardWriter, TensorView};

use copies::Copies;
pub(crate) use data::*;

/// Writes `array` as the field `x` of a dataset.
pub(crate) fn write(folder: &Path, name: &str, array: &Array, field: FieldSpec) -> PathBuf {
    let path = folder.join(name);
    let mut writer = ShardWriter::builder().field(field).create(&path).unwrap();
    writer
        .extend(&[(
            "x",
            TensorView::new(array.dtype, &array.shape, &array.data).unwrap(),
        )])
        .unwrap();
    writer.finish().unwrap();
    path
}

/// The baseline of a group: a memcpy of `total` bytes into rotating batch buffers, from a source of `source_len` bytes
/// (those of the whole dataset as it is delivered). An iteration goes on where the last one ended: otherwise a short
/// one would copy from cache to cache.
pub(crate) fn memcpy(
    group: &mut BenchmarkGroup<'_, WallTime>,
    batch_bytes: usize,
    total: usize,
    source_len: usize,
) {
    let mut copies = Copies::new(batch_bytes, source_len, 10);
    group.throughput(Throughput::Bytes(total as u64));
    group.bench_function("memcpy", |b| b.iter(|| copies.run(total)));
}

/// The baseline of two threads: two memcpys at the same time, of half of the bytes each.
pub(crate) fn two_memcpys(
    group: &mut BenchmarkGroup<'_, WallTime>,
    batch_bytes: usize,
    total: usize,
    source_len: usize,
) {
    let mut copies = Copies::new(batch_bytes, source_len, 10);
    group.throughput(Throughput::Bytes(total as u64));
    group.bench_function("two memcpys", |b| b.iter(|| copies.run_two(total)));
}

/// Iterates an epoch; the bytes delivered.
pub(crate) fn epoch(loader: &Loader, batch_size: usize) -> usize {
    loader
        .batches(batch_size)
        .map(|batch| black_box(batch.unwrap()).num_bytes())
        .sum()
}

/// One entry of a group: epochs of `path`, its memory warmed by one.
pub(crate) fn bench_epoch(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    path: &Path,
    builder: LoaderBuilder,
    batch_size: usize,
) {
    let loader = builder.open(path).unwrap();
    let bytes = epoch(&loader, batch_size);
    group.throughput(Throughput::Bytes(bytes as u64));
    group.bench_function(name, |b| b.iter(|| epoch(&loader, batch_size)));
}
