//! Data and the memcpy baseline shared by the benches. Everything is made here, with fixed seeds.
#![expect(clippy::unwrap_used, reason = "benches stop at the first error")]
#![allow(dead_code, reason = "every bench uses some of these")]

use std::hint::black_box;
use std::path::{Path, PathBuf};

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Throughput};
use tensorshard::{DType, FieldSpec, Loader, LoaderBuilder, ShardWriter, TensorView, to_le_bytes};

/// SplitMix64.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Uniform in -1..1.
    fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u32 << 23) as f32 - 1.0
    }
}

/// An array of samples: dtype, shape with the sample axis first, bytes.
pub(crate) struct Array {
    pub(crate) dtype: DType,
    pub(crate) shape: Vec<usize>,
    pub(crate) data: Vec<u8>,
}

impl Array {
    pub(crate) fn sample_shape(&self) -> &[usize] {
        &self.shape[1..]
    }
}

/// `cargo bench -- --test` runs everything once: a small amount of data will do.
fn scaled(n: usize) -> usize {
    if std::env::args().any(|arg| arg == "--test") {
        n / 50
    } else {
        n
    }
}

/// Photo-like u8 [3, 64, 64]: smooth gradients, edges and a little noise.
pub(crate) fn photos() -> Array {
    let n = scaled(8000);
    let mut random = Random(1);
    let mut data = Vec::with_capacity(n * 12288);
    for _ in 0..n {
        let (slope_x, slope_y, edge) = (random.next() % 4, random.next() % 4, random.next() % 64);
        for channel in 0..3u64 {
            let base = random.next() % 100 + 20 * channel;
            for y in 0..64u64 {
                for x in 0..64u64 {
                    let step = if x > edge { 40 } else { 0 };
                    let noise = if random.next().is_multiple_of(4) {
                        random.next() % 3
                    } else {
                        0
                    };
                    let value = base + slope_x * x / 4 + slope_y * y / 4 + step + noise;
                    data.push(u8::try_from(value.min(255)).unwrap());
                }
            }
        }
    }
    Array {
        dtype: DType::U8,
        shape: vec![n, 3, 64, 64],
        data,
    }
}

fn floats(n: usize, shape: &[usize], seed: u64, smooth: f32) -> Array {
    let elements: usize = shape.iter().product();
    let mut random = Random(seed);
    let mut x = 0.0;
    let values: Vec<f32> = (0..n * elements)
        .map(|_| {
            x = smooth * x + (1.0 - smooth) * 3.0 * random.unit();
            x
        })
        .collect();
    let shape = std::iter::once(n).chain(shape.iter().copied()).collect();
    Array {
        dtype: DType::F32,
        shape,
        data: to_le_bytes(&values),
    }
}

/// Smooth f32 [4, 32, 32].
pub(crate) fn latents() -> Array {
    floats(scaled(4000), &[4, 32, 32], 2, 0.8)
}

/// White f32 [384].
pub(crate) fn embeddings() -> Array {
    floats(scaled(50_000), &[384], 3, 0.0)
}

/// i64 scalars.
pub(crate) fn labels() -> Array {
    let n = scaled(5_000_000);
    let values: Vec<i64> = (0..n).map(|i| i64::try_from(i % 1000).unwrap()).collect();
    Array {
        dtype: DType::I64,
        shape: vec![n],
        data: to_le_bytes(&values),
    }
}

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

/// The field `x` for `array`.
pub(crate) fn field(array: &Array) -> FieldSpec {
    FieldSpec::new("x", array.dtype, array.sample_shape())
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
    let source = vec![1u8; source_len.max(batch_bytes)];
    let mut buffers: Vec<Vec<u8>> = (0..10).map(|_| vec![1u8; batch_bytes]).collect();
    let (mut at, mut turn) = (0, 0);
    group.throughput(Throughput::Bytes(total as u64));
    group.bench_function("memcpy", |b| {
        b.iter(|| {
            let mut done = 0;
            while done < total {
                if at + batch_bytes > source.len() {
                    at = 0;
                }
                buffers[turn].copy_from_slice(&source[at..at + batch_bytes]);
                black_box(&buffers[turn]);
                at += batch_bytes;
                turn = (turn + 1) % buffers.len();
                done += batch_bytes;
            }
        });
    });
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
