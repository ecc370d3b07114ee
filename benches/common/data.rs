//! The tensors that are measured.
#![expect(
    clippy::cast_possible_truncation,
    reason = "values made to fit, sums rounded once"
)]

use std::path::Path;

use tensorshard::{DType, FieldSpec, to_le_bytes};

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

    /// Roughly normal, mean 0.
    fn normal(&mut self) -> f32 {
        (0..4).map(|_| self.unit()).sum()
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
pub(crate) fn scaled(n: usize) -> usize {
    if std::env::args().any(|arg| arg == "--test") {
        n / 50
    } else {
        n
    }
}

/// Photo-like u8 [3, 64, 64]: smooth gradients, edges and a little noise.
pub(crate) fn photos() -> Array {
    photos_of(scaled(8000))
}

/// `n` photos.
pub(crate) fn photos_of(n: usize) -> Array {
    if let Some(data) = given("img.u8", n * 12288) {
        return Array {
            dtype: DType::U8,
            shape: vec![n, 3, 64, 64],
            data,
        };
    }
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

/// Latents of an image model: white noise smoothed along both axes (a Gaussian of sigma 1), of unit variance; f32
/// [4, 32, 32].
pub(crate) fn latents() -> Array {
    let n = scaled(4000);
    let shape = vec![n, 4, 32, 32];
    if let Some(data) = given("lat.f32", n * 16384) {
        return Array {
            dtype: DType::F32,
            shape,
            data,
        };
    }
    let mut random = Random(2);
    let weights: Vec<f32> = (-4..=4i8)
        .map(|x| (-0.5 * f32::from(x) * f32::from(x)).exp())
        .collect();
    let mut values: Vec<f32> = (0..n * 4096).map(|_| random.normal()).collect();
    let mut line = [0.0f32; 32 + 8];
    for plane in values.chunks_exact_mut(1024) {
        for (step, stride) in [(1, 32), (32, 1)] {
            for start in (0..32).map(|i| i * stride) {
                // Reflected at the edges.
                for (i, x) in line.iter_mut().enumerate() {
                    let at = match i {
                        0..4 => 3 - i,
                        4..36 => i - 4,
                        _ => 67 - i,
                    };
                    *x = plane[start + at * step];
                }
                for i in 0..32 {
                    let window = &line[i..i + 9];
                    plane[start + i * step] = window.iter().zip(&weights).map(|(x, w)| x * w).sum();
                }
            }
        }
    }
    let variance: f64 = values.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
    let scale = (values.len() as f64 / variance).sqrt() as f32;
    values.iter_mut().for_each(|x| *x *= scale);
    Array {
        dtype: DType::F32,
        shape,
        data: to_le_bytes(&values),
    }
}

/// The latents as symmetric int8 with one scale for all.
pub(crate) fn int8_latents() -> Array {
    let n = scaled(4000);
    let shape = vec![n, 4, 32, 32];
    let data = given("lat.i8", n * 4096).unwrap_or_else(|| {
        let latents = latents();
        let values: Vec<f32> = latents
            .data
            .chunks_exact(4)
            .map(|x| f32::from_le_bytes([x[0], x[1], x[2], x[3]]))
            .collect();
        let largest = values.iter().fold(0.0f32, |a, x| a.max(x.abs()));
        let code = |x: f32| (x / largest * 127.0).round_ties_even() as i8;
        values.iter().map(|&x| code(x).to_le_bytes()[0]).collect()
    });
    Array {
        dtype: DType::I8,
        shape,
        data,
    }
}

/// The first `len` bytes of a file of the folder `TENSORSHARD_BENCH_DATA`, from its start again where it ends.
fn given(name: &str, len: usize) -> Option<Vec<u8>> {
    let folder = std::env::var_os("TENSORSHARD_BENCH_DATA")?;
    let bytes = std::fs::read(Path::new(&folder).join(name)).ok()?;
    if bytes.is_empty() {
        return None;
    }
    Some(bytes.iter().copied().cycle().take(len).collect())
}

/// What a model's weights look like: normal, of another deviation in every layer; f32 [1024].
pub(crate) fn weights() -> Array {
    let n = scaled(16_000);
    let shape = vec![n, 1024];
    let data = given("weights.f32", n * 4096).unwrap_or_else(|| {
        let mut random = Random(4);
        let values: Vec<f32> = (0..n * 1024)
            .map(|i| {
                let layer = (i >> 16) % 7 + 1;
                0.02 * layer as f32 * random.normal()
            })
            .collect();
        to_le_bytes(&values)
    });
    Array {
        dtype: DType::F32,
        shape,
        data,
    }
}

/// The same as bf16: the upper halves, rounded to nearest, ties to even.
pub(crate) fn bf16_weights() -> Array {
    let weights = weights();
    let halves = weights.data.chunks_exact(4).flat_map(|x| {
        let bits = u32::from_le_bytes([x[0], x[1], x[2], x[3]]);
        let rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16;
        (rounded as u16).to_le_bytes()
    });
    Array {
        dtype: DType::BF16,
        data: halves.collect(),
        shape: weights.shape,
    }
}

/// Fields of a simulation: eight waves each, the shorter the weaker, within -1 to 1; f32, of this shape, in two or
/// three dimensions.
pub(crate) fn fields(n: usize, shape: &[usize]) -> Array {
    const WAVES: usize = 8;
    let mut random = Random(5);
    let mut data = Vec::new();
    let size = shape.iter().product();
    for _ in 0..n {
        let mut values = vec![0.0f32; size];
        let mut total = 0.0;
        for wave in 1..=WAVES {
            let weight = 1.0 / wave as f32;
            total += weight;
            let steps: Vec<f32> = shape
                .iter()
                .map(|&len| random.unit() * wave as f32 * 6.3 / len as f32)
                .collect();
            let start = 3.2 * random.unit();
            for (i, value) in values.iter_mut().enumerate() {
                let (mut rest, mut phase) = (i, start);
                for (step, &len) in steps.iter().zip(shape).rev() {
                    phase += step * (rest % len) as f32;
                    rest /= len;
                }
                *value += weight * phase.sin();
            }
        }
        values.iter_mut().for_each(|x| *x /= total);
        data.extend(to_le_bytes(&values));
    }
    Array {
        dtype: DType::F32,
        shape: std::iter::once(n).chain(shape.iter().copied()).collect(),
        data,
    }
}

/// White f32 [384].
pub(crate) fn embeddings() -> Array {
    floats(scaled(50_000), &[384], 3, 0.0)
}

/// i64 scalars.
pub(crate) fn labels() -> Array {
    let n = scaled(10_000_000);
    let values: Vec<i64> = (0..n).map(|i| i64::try_from(i % 1000).unwrap()).collect();
    Array {
        dtype: DType::I64,
        shape: vec![n],
        data: to_le_bytes(&values),
    }
}

/// The field `x` for `array`.
pub(crate) fn field(array: &Array) -> FieldSpec {
    FieldSpec::new("x", array.dtype, array.sample_shape())
}
