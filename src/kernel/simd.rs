//! One source, several instruction sets: loops compiled once for each level of vector instructions.
//!
//! [`simd!`] wraps plain loops that the compiler vectorizes. All levels are the same code, so the scalar one defines
//! the bits and the others cannot differ: no loop here has reductions that may be reordered, and Rust contracts no
//! multiplication and addition. The level is chosen once; `TENSORSHARD_SIMD=scalar|avx2|avx512` forces a lower one.

use std::sync::OnceLock;

/// Vector instructions that loops are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    /// What every processor of the target has: SSE2 on x86-64. Kernels of intrinsics use none.
    Scalar,
    /// NEON by intrinsics. The compiler uses it for plain loops of level `Scalar` too.
    #[cfg(target_arch = "aarch64")]
    Neon,
    /// AVX2, BMI2, F16C, POPCNT.
    Avx2,
    /// AVX-512 F, BW, VL, DQ, VBMI, VBMI2: Ice Lake and Zen 4 onwards.
    Avx512,
}

impl Level {
    /// The levels that this machine has, lowest first.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn available() -> impl Iterator<Item = Self> {
        let best = Self::best();
        [
            Self::Scalar,
            #[cfg(target_arch = "aarch64")]
            Self::Neon,
            Self::Avx2,
            Self::Avx512,
        ]
        .into_iter()
        .filter(move |level| *level <= best)
    }

    #[cfg(target_arch = "x86_64")]
    fn best() -> Self {
        if !(is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("bmi2")
            && is_x86_feature_detected!("f16c")
            && is_x86_feature_detected!("popcnt"))
        {
            return Self::Scalar;
        }
        let wide = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vbmi")
            && is_x86_feature_detected!("avx512vbmi2")
            && is_x86_feature_detected!("gfni");
        if wide { Self::Avx512 } else { Self::Avx2 }
    }

    #[cfg(target_arch = "aarch64")]
    fn best() -> Self {
        Self::Neon
    }

    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    fn best() -> Self {
        Self::Scalar
    }

    /// The level that `TENSORSHARD_SIMD` asks for, as far as the machine has it; an unknown word asks for nothing.
    fn chosen() -> Self {
        let asked = match std::env::var("TENSORSHARD_SIMD").as_deref() {
            Ok("scalar") => Self::Scalar,
            Ok("avx2") => Self::Avx2,
            _ => Self::Avx512,
        };
        asked.min(Self::best())
    }
}

/// The level in use.
pub(crate) fn level() -> Level {
    static LEVEL: OnceLock<Level> = OnceLock::new();
    #[cfg(any(test, fuzzing))]
    if let Some(level) = FORCED.get() {
        return level;
    }
    *LEVEL.get_or_init(Level::chosen)
}

#[cfg(any(test, fuzzing))]
thread_local! {
    /// The level in use by this thread, whatever was chosen.
    pub(crate) static FORCED: std::cell::Cell<Option<Level>> = const { std::cell::Cell::new(None) };
}

/// What `f` returns at each level of this machine.
#[cfg(any(test, fuzzing))]
pub(crate) fn at_every_level<T>(mut f: impl FnMut() -> T) -> Vec<T> {
    let results = Level::available().map(|level| {
        FORCED.set(Some(level));
        f()
    });
    let results = results.collect();
    FORCED.set(None);
    results
}

/// Defines a function whose body is compiled for every [`Level`] and that runs the best one. What the body calls must
/// be `#[inline(always)]` to be compiled with it.
macro_rules! simd {
    ($(#[$meta:meta])* $vis:vis fn $name:ident $(<$g:ident: $bound:ident>)? ($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        $vis fn $name $(<$g: $bound>)? ($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            fn scalar $(<$g: $bound>)? ($($arg: $ty),*) $(-> $ret)? $body

            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2,bmi2,f16c")]
                fn avx2 $(<$g: $bound>)? ($($arg: $ty),*) $(-> $ret)? {
                    scalar $(::<$g>)? ($($arg),*)
                }
                #[target_feature(enable = "avx2,bmi2,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi")]
                fn avx512 $(<$g: $bound>)? ($($arg: $ty),*) $(-> $ret)? {
                    scalar $(::<$g>)? ($($arg),*)
                }
                match $crate::kernel::simd::level() {
                    $crate::kernel::simd::Level::Scalar => {}
                    $crate::kernel::simd::Level::Avx2 => {
                        #[expect(unsafe_code, reason = "calls code compiled for AVX2")]
                        // SAFETY: `level` is at most what `Level::best` found on this machine.
                        return unsafe { avx2 $(::<$g>)? ($($arg),*) };
                    }
                    $crate::kernel::simd::Level::Avx512 => {
                        #[expect(unsafe_code, reason = "calls code compiled for AVX-512")]
                        // SAFETY: `level` is at most what `Level::best` found on this machine.
                        return unsafe { avx512 $(::<$g>)? ($($arg),*) };
                    }
                }
            }
            scalar $(::<$g>)? ($($arg),*)
        }
    };
}
pub(crate) use simd;

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::dtype::DType;
    use crate::kernel::dequant::Codes;
    use crate::kernel::planes::Stores;
    use crate::kernel::quantize::Grids;
    use crate::kernel::{
        abs_error, bit_shuffle, byte_shuffle, codebook, convert, delta, dequant, float_order, lut,
        minifloat, planes, quantize, stream, values,
    };

    /// `f` at every level of this machine must fill `len` bytes alike.
    fn same_at_every_level(what: &str, len: usize, f: impl Fn(&mut [u8])) {
        let results = at_every_level(|| {
            let mut out = vec![0xA5; len];
            f(&mut out);
            out
        });
        assert!(results.windows(2).all(|pair| pair[0] == pair[1]), "{what}");
    }

    fn noise(n: usize, mut seed: u64) -> Vec<u8> {
        let mut out = Vec::with_capacity(n);
        while out.len() < n {
            seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            out.push(seed.to_le_bytes()[7]);
        }
        out
    }

    #[test]
    fn levels_start_at_scalar_and_the_chosen_one_is_available() {
        assert_eq!(Level::available().next(), Some(Level::Scalar));
        assert!(Level::available().any(|available| available == level()));
    }

    #[test]
    fn conversions_agree_bit_for_bit() {
        for n in [0, 1, 7, 64, 1000, 4099] {
            for from in DType::all() {
                let src = noise(n * from.size(), 1);
                for to in [DType::F32, DType::F16, DType::BF16, DType::F64] {
                    same_at_every_level(&format!("{from} to {to}, {n}"), n * to.size(), |out| {
                        convert::convert(from, &src, to, out).unwrap();
                    });
                }
            }
            // Every class of f32: noise has NaNs, infinities are rare, subnormals come from small exponents.
            let floats: Vec<f32> = noise(n * 4, 2)
                .as_chunks::<4>()
                .0
                .iter()
                .map(|b| f32::from_le_bytes(*b))
                .collect();
            for to in DType::all().filter(|dtype| dtype.is_float()) {
                same_at_every_level(&format!("f32 to {to}, {n}"), n * to.size(), |out| {
                    convert::from_f32(to, &floats, out).unwrap();
                });
            }
        }
    }

    #[test]
    fn every_f16_converts_alike() {
        let codes: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
        same_at_every_level("f16 to f32", codes.len() * 2, |out| {
            convert::convert(DType::F16, &codes, DType::F32, out).unwrap();
        });
    }

    #[test]
    fn dequantizing_agrees_bit_for_bit() {
        for n in [0, 1, 31, 32, 33, 1000] {
            let codes = noise(n * 2, 3);
            for (kind, size) in [
                (Codes::U8, 1),
                (Codes::I8, 1),
                (Codes::U16, 2),
                (Codes::I16, 2),
            ] {
                let codes = &codes[..n * size];
                let scales: Vec<f32> = (0..n).map(|i| 0.001 + i as f32).collect();
                let zero_points: Vec<f32> = (0..n).map(|i| i as f32 - 5.0).collect();
                same_at_every_level(&format!("{kind:?}, one scale, {n}"), n * 4, |out| {
                    dequant::run(kind, codes, 0.37, 11.0, out.as_chunks_mut::<4>().0);
                });
                same_at_every_level(&format!("{kind:?}, own scales, {n}"), n * 4, |out| {
                    dequant::each(
                        kind,
                        codes,
                        &scales,
                        &zero_points,
                        out.as_chunks_mut::<4>().0,
                    );
                });
            }
            for signed in [false, true] {
                same_at_every_level("nibbles", n * 2, |out| {
                    dequant::unpack_nibbles(signed, &codes[..n], out)
                });
            }
            let table: [f32; 256] = std::array::from_fn(|i| i as f32 / 255.0);
            same_at_every_level("lut", n * 8, |out| lut::lut_u8_f32(&codes, &table, out));
            same_at_every_level("lut f16", n * 4, |out| {
                lut::lut_u8_u16(&codes, &lut::to_f16(&table), out)
            });
        }
    }

    #[test]
    fn quantizing_agrees_bit_for_bit() {
        for n in [0, 1, 17, 1000] {
            let x: Vec<f32> = noise(n * 4, 4)
                .as_chunks::<4>()
                .0
                .iter()
                .map(|b| f32::from_le_bytes(*b))
                .collect();
            let (scale, zero_point) = (vec![0.01f32; n], vec![3.0f32; n]);
            let (low, high) = (vec![-131.0f32; n], vec![124.0f32; n]);
            let grids = Grids {
                scale: &scale,
                zero_point: &zero_point,
                low: &low,
                high: &high,
            };
            same_at_every_level("quantize", n * 8 + 1, |out| {
                let (mut q, mut decoded) = (vec![0i32; n], vec![0f32; n]);
                let inside = quantize::quantize(&x, &grids, &mut q, &mut decoded);
                let bytes = q
                    .iter()
                    .flat_map(|q| q.to_le_bytes())
                    .chain(decoded.iter().flat_map(|x| x.to_le_bytes()));
                out.iter_mut()
                    .zip(bytes.chain([u8::from(inside)]))
                    .for_each(|(out, byte)| *out = byte);
            });
            same_at_every_level("range", 8, |out| {
                let (low, high) = quantize::finite_range(&x);
                out[..4].copy_from_slice(&low.to_le_bytes());
                out[4..].copy_from_slice(&high.to_le_bytes());
            });
        }
    }

    #[test]
    fn grids_of_steps_agree_bit_for_bit() {
        let grid = abs_error::Grid {
            step: 0.37e-3,
            zero_point: -77.0,
            low: -51.0,
            high: 204.0,
        };
        for n in [0, 1, 7, 8, 33, 1000] {
            let x: Vec<f64> = noise(n * 8, 6)
                .as_chunks::<8>()
                .0
                .iter()
                .enumerate()
                .map(|(i, b)| match i % 2 {
                    0 => f64::from_le_bytes(*b),
                    _ => i as f64 * 0.13e-3 - 0.02,
                })
                .collect();
            same_at_every_level("to steps", n * 12, |out| {
                let (mut q, mut decoded) = (vec![0i32; n], vec![0f64; n]);
                abs_error::quantize(&x, &grid, &mut q, &mut decoded);
                let misses = abs_error::misses(&x, &decoded, 1e-4);
                let (low, high) = abs_error::finite_range(&x);
                let bytes = q.iter().flat_map(|q| q.to_le_bytes());
                let bytes = bytes.chain(decoded.iter().flat_map(|x| x.to_le_bytes()));
                for (out, byte) in out.iter_mut().zip(bytes) {
                    *out = byte;
                }
                let ends = (low.to_bits() ^ high.to_bits()).to_le_bytes();
                for (out, end) in out.iter_mut().zip(ends) {
                    *out ^= end ^ u8::try_from(misses % 251).unwrap();
                }
            });
            for width in [
                abs_error::Width::One,
                abs_error::Width::Two,
                abs_error::Width::Four,
            ] {
                let codes = noise(n * width.size(), 7);
                same_at_every_level("from steps", n * 4, |out| {
                    abs_error::to_f32(width, &codes, &grid, out.as_chunks_mut::<4>().0);
                });
                same_at_every_level("from steps to f64", n * 8, |out| {
                    abs_error::to_f64(width, &codes, &grid, out.as_chunks_mut::<8>().0);
                });
            }
        }
    }

    #[test]
    fn splits_agree_bit_for_bit() {
        for n in (0..=140).chain([191, 192, 193, 1000, 65_536]) {
            for size in [2, 4, 8] {
                let src = noise(n * size, 6);
                let planes: Vec<&[u8]> = (0..size).map(|j| &src[j * n..(j + 1) * n]).collect();
                for rotation in [0, 1] {
                    same_at_every_level("split", n * size, |out| {
                        planes::split(size, rotation, &src, out);
                    });
                    same_at_every_level("merge", n * size, |out| {
                        planes::merge(rotation, &planes, out, Stores::Cached);
                    });
                    // Aligned or not, what is streamed is the same.
                    same_at_every_level("merge, streamed", n * size, |out| {
                        let mut lines = vec![0u8; n * size + 64];
                        let start = lines.as_ptr().align_offset(64);
                        let to = &mut lines[start..][..n * size];
                        planes::merge(rotation, &planes, to, Stores::Streamed);
                        stream::fence();
                        planes::merge(rotation, &planes, out, Stores::Streamed);
                        stream::fence();
                        assert!(to == out);
                    });
                }
            }
        }
    }

    #[test]
    fn scaled_values_agree_bit_for_bit() {
        let small: [f32; 16] = std::array::from_fn(|i| i as f32 * 0.37 - 2.0);
        let large: [f32; 256] = std::array::from_fn(|i| i as f32 * 0.01 - 1.28);
        for n in [0, 1, 15, 16, 33, 1000] {
            let codes = noise(n, 8);
            let scales: Vec<f32> = (0..n).map(|i| 0.001 + i as f32).collect();
            for kind in [
                values::Values::E4M3,
                values::Values::E5M2,
                values::Values::Table16(&small),
                values::Values::Table256(&large),
            ] {
                same_at_every_level(&format!("{kind:?}, {n}"), n * 12, |out| {
                    let mut x = vec![0.0; n];
                    kind.of(&codes, &mut x);
                    let (one, rest) = out.split_at_mut(n * 4);
                    let (own, groups) = rest.split_at_mut(n * 4);
                    values::run(&x, 0.3, one.as_chunks_mut::<4>().0);
                    values::each(&x, &scales, own.as_chunks_mut::<4>().0);
                    values::groups(&x, 5, &scales, groups.as_chunks_mut::<4>().0);
                });
            }
            for kind in [Codes::U8, Codes::I8, Codes::U16, Codes::I16] {
                let codes = noise(n * kind.size(), 10);
                same_at_every_level(&format!("{kind:?}, groups, {n}"), n * 4, |out| {
                    let out = out.as_chunks_mut::<4>().0;
                    dequant::groups(kind, &codes, 32, &scales, 7.0, out);
                });
            }
            let x: Vec<f32> = noise(n * 4, 9)
                .as_chunks::<4>()
                .0
                .iter()
                .map(|b| f32::from_le_bytes(*b))
                .collect();
            let limit = vec![f32::MAX; n];
            let quantized = |out: &mut [u8], f: &dyn Fn(&mut [i32], &mut [f32]) -> bool| {
                let (mut q, mut decoded) = (vec![0i32; n], vec![0f32; n]);
                let good = f(&mut q, &mut decoded);
                let bytes = q.iter().flat_map(|q| q.to_le_bytes());
                let bytes = bytes.chain(decoded.iter().flat_map(|x| x.to_le_bytes()));
                out.iter_mut()
                    .zip(bytes.chain([u8::from(good)]))
                    .for_each(|(out, byte)| *out = byte);
            };
            for format in [
                minifloat::Format::E4M3,
                minifloat::Format::E5M2,
                minifloat::Format::E2M1,
                minifloat::Format::Int8,
            ] {
                let ratios = minifloat::Ratios {
                    x: &x,
                    scale: &scales,
                    limit: &limit,
                };
                same_at_every_level(&format!("to {format:?}, {n}"), n * 8 + 1, |out| {
                    quantized(out, &|q, decoded| {
                        minifloat::quantize(format, ratios, q, decoded)
                    });
                });
            }
            for table in [&small[..], &large] {
                let thresholds: Vec<f32> = table
                    .windows(2)
                    .map(|pair| (pair[0] + pair[1]) / 2.0)
                    .collect();
                let codebook = codebook::Codebook {
                    table,
                    thresholds: &thresholds,
                };
                same_at_every_level(&format!("to a codebook, {n}"), n * 8 + 1, |out| {
                    quantized(out, &|q, decoded| {
                        codebook::quantize(&x, &scales, &codebook, q, decoded)
                    });
                });
            }
        }
    }

    #[test]
    fn filters_agree_bit_for_bit() {
        for n in [0, 1, 15, 64, 127, 1000, 65_536] {
            let src = noise(n, 5);
            for elem_size in [1, 2, 4, 8] {
                same_at_every_level("byte shuffle", n, |out| {
                    byte_shuffle::apply(elem_size, &src, out)
                });
                same_at_every_level("byte unshuffle", n, |out| {
                    byte_shuffle::undo(elem_size, &src, out)
                });
                same_at_every_level("bit shuffle", n, |out| {
                    bit_shuffle::apply(elem_size, &src, out)
                });
                same_at_every_level("bit unshuffle", n, |out| {
                    bit_shuffle::undo(elem_size, &src, out)
                });
                same_at_every_level("delta", n, |out| delta::apply(elem_size, &src, out));
                same_at_every_level("undo delta", n, |out| delta::undo(elem_size, &src, out));
                same_at_every_level("float order", n, |out| {
                    float_order::apply(elem_size, &src, out)
                });
                same_at_every_level("undo float order", n, |out| {
                    float_order::undo(elem_size, &src, out)
                });
            }
        }
    }
}
