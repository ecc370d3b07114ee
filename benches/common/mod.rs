//! Data and the memcpy baseline shared by the benches. Everything is made here, with fixed seeds; or the tensors are read
//! from the folder `TENSORSHARD_BENCH_DATA`: `img.u8` (u8 `[n, 3, 64, 64]`), `lat.f32` (f32 `[n, 4, 32, 32]`) and
//! `lat.i8` (int8, the same with one scale for all).
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "benches print ratios, and stop at the first error"
)]
#![allow(dead_code, reason = "every bench uses some of these")]

pub(crate) mod copies;
pub(crate) mod data;

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::time::Instant;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput};
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

/// A group that measures memcpys of the delivered bytes beside its entries, and prints the ratios at its end.
pub(crate) struct Group<'a> {
    group: BenchmarkGroup<'a, WallTime>,
    name: String,
    /// Bytes a second of each entry.
    speeds: Vec<(String, f64)>,
}

/// Samples that criterion takes of each entry.
const SAMPLES: usize = 10;

impl<'a> Group<'a> {
    /// A group whose entries deliver batches of `batch_bytes`, out of `source_len` bytes.
    ///
    /// Its baselines are a memcpy on one thread, and two at the same time. An iteration goes on where the last one
    /// ended: otherwise a short one would copy from cache to cache.
    pub(crate) fn new(
        c: &'a mut Criterion,
        name: &str,
        batch_bytes: usize,
        source_len: usize,
    ) -> Self {
        let mut group = c.benchmark_group(name);
        group.sample_size(SAMPLES);
        let mut out = Self {
            group,
            name: name.to_owned(),
            speeds: Vec::new(),
        };
        // As many buffers as the loader has: 8 ahead, one that is filled, one that is used.
        let mut copies = Copies::new(batch_bytes, source_len, 10);
        out.entry("memcpy", source_len, || copies.run(source_len));
        out.entry("two memcpys", source_len, || copies.run_two(source_len));
        out
    }

    /// An entry: `run` delivers `bytes`.
    pub(crate) fn entry<T>(&mut self, name: &str, bytes: usize, mut run: impl FnMut() -> T) {
        let mut speeds = Vec::new();
        self.group.throughput(Throughput::Bytes(bytes as u64));
        self.group.bench_function(name, |b| {
            b.iter_custom(|iterations| {
                let start = Instant::now();
                for _ in 0..iterations {
                    black_box(run());
                }
                let elapsed = start.elapsed();
                speeds.push(bytes as f64 * iterations as f64 / elapsed.as_secs_f64());
                elapsed
            });
        });
        // Those before were warming up.
        let mut measured = speeds.split_off(speeds.len().saturating_sub(SAMPLES));
        measured.sort_by(f64::total_cmp);
        if let Some(&median) = measured.get(measured.len() / 2) {
            self.speeds.push((name.to_owned(), median));
        }
    }

    /// Epochs of `path`, its memory warmed by one.
    pub(crate) fn epochs(
        &mut self,
        name: &str,
        path: &Path,
        builder: LoaderBuilder,
        batch_size: usize,
    ) {
        let loader = builder.open(path).unwrap();
        let bytes = epoch(&loader, batch_size);
        self.entry(name, bytes, || epoch(&loader, batch_size));
    }

    /// Prints the ratios.
    pub(crate) fn finish(self) {
        self.group.finish();
        let speed = |name: &str| self.speeds.iter().find(|s| s.0 == name).map(|s| s.1);
        let (Some(one), Some(two)) = (speed("memcpy"), speed("two memcpys")) else {
            return;
        };
        println!(
            "{}: memcpy {:.2} GB/s, two memcpys {:.2} GB/s",
            self.name,
            one / 1e9,
            two / 1e9
        );
        for (name, speed) in &self.speeds[2..] {
            println!(
                "    {name}: {:.2} GB/s, {:.2} of memcpy, {:.2} of two",
                speed / 1e9,
                speed / one,
                speed / two
            );
        }
        println!();
    }
}

/// Iterates an epoch; the bytes delivered.
pub(crate) fn epoch(loader: &Loader, batch_size: usize) -> usize {
    loader
        .batches(batch_size)
        .map(|batch| black_box(batch.unwrap()).num_bytes())
        .sum()
}
