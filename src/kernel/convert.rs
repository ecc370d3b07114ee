//! Conversions between element types (format-spec 9.2 and 9.5).
//!
//! Everything is done on bits where the result could otherwise depend on the machine (NaN payloads), and without
//! branches, so that the loops vectorize. The narrowing conversions follow F. Giesen, "float_to_half_fast3_rtne":
//! adding a power of two lets the FPU round subnormals, and integer arithmetic rounds the rest.

#![expect(
    clippy::cast_possible_truncation,
    reason = "narrowing is the purpose here, and every value was masked before"
)]

use super::simd::simd;
use super::{BLOCK, f16c};
use crate::dtype::DType;
use crate::error::{Error, Result};

const F32_SIGN: u32 = 0x8000_0000;
const F32_INF: u32 = 0x7F80_0000;
const F32_QUIET: u32 = 0x0040_0000;

/// Rounds the magnitude `abs` (f32 bits without sign) to a float with `M` mantissa bits and this exponent bias. What
/// overflows has codes above the largest exponent; NaN is not handled.
#[inline(always)]
pub(crate) fn narrow<const M: u32, const BIAS: u32>(abs: u32) -> u32 {
    let magic = (127 + 24 - BIAS - M) << 23;
    let subnormal = (f32::from_bits(abs) + f32::from_bits(magic))
        .to_bits()
        .wrapping_sub(magic);
    let odd = (abs >> (23 - M)) & 1;
    let normal = abs
        .wrapping_sub((127 - BIAS) << 23)
        .wrapping_add((1 << (22 - M)) - 1 + odd)
        >> (23 - M);
    if abs < (128 - BIAS) << 23 {
        subnormal
    } else {
        normal
    }
}

/// To binary16, rounding to nearest even; overflow gives infinity, NaN stays NaN and becomes quiet.
#[inline(always)]
pub(crate) fn f32_to_f16(x: f32) -> u16 {
    let bits = x.to_bits();
    let abs = bits & !F32_SIGN;
    let finite = narrow::<10, 15>(abs).min(0x7C00);
    let code = if abs > F32_INF {
        0x7E00 | ((abs >> 13) & 0x3FF)
    } else {
        finite
    };
    (code | ((bits & F32_SIGN) >> 16)) as u16
}

/// To bfloat16, with the rules of [`f32_to_f16`].
#[inline(always)]
pub(crate) fn f32_to_bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7FFF + ((bits >> 16) & 1)) >> 16;
    let nan = (bits >> 16) | 0x40;
    (if bits & !F32_SIGN > F32_INF {
        nan
    } else {
        rounded
    }) as u16
}

/// To f8e4m3fn, rounding to nearest even; NaN, infinity and what overflows give NaN.
#[inline(always)]
pub(crate) fn f32_to_f8e4m3fn(x: f32) -> u8 {
    let bits = x.to_bits();
    let abs = bits & !F32_SIGN;
    let finite = narrow::<3, 7>(abs).min(0x7F);
    let code = if abs >= F32_INF { 0x7F } else { finite };
    (code | ((bits & F32_SIGN) >> 24)) as u8
}

/// To f8e5m2, with the rules of [`f32_to_f16`].
#[inline(always)]
pub(crate) fn f32_to_f8e5m2(x: f32) -> u8 {
    let bits = x.to_bits();
    let abs = bits & !F32_SIGN;
    let finite = narrow::<2, 15>(abs).min(0x7C);
    let code = if abs > F32_INF {
        0x7E | ((abs >> 21) & 3)
    } else {
        finite
    };
    (code | ((bits & F32_SIGN) >> 24)) as u8
}

/// From binary16; exact, and NaN becomes quiet.
#[inline(always)]
pub(crate) fn f16_to_f32(code: u16) -> f32 {
    let code = u32::from(code);
    let shifted = (code & 0x7FFF) << 13;
    let exponent = shifted & (0x7C00 << 13);
    let normal = shifted + ((127 - 15) << 23);
    let special = normal + ((128 - 16) << 23);
    let special = if shifted > 0x7C00 << 13 {
        special | F32_QUIET
    } else {
        special
    };
    let subnormal = (f32::from_bits(normal + (1 << 23)) - f32::from_bits(113 << 23)).to_bits();
    let abs = if exponent == 0x7C00 << 13 {
        special
    } else if exponent == 0 {
        subnormal
    } else {
        normal
    };
    f32::from_bits(abs | ((code & 0x8000) << 16))
}

/// From bfloat16; exact.
#[inline(always)]
pub(crate) fn bf16_to_f32(code: u16) -> f32 {
    f32::from_bits(u32::from(code) << 16)
}

/// From f8e4m3fn; exact.
#[inline(always)]
pub(crate) fn f8e4m3fn_to_f32(code: u8) -> f32 {
    let code = u32::from(code);
    let abs = code & 0x7F;
    // m * 2^-9
    let subnormal = (abs as f32 * f32::from_bits((127 - 9) << 23)).to_bits();
    let normal = (abs << 20) + ((127 - 7) << 23);
    let finite = if abs < 8 { subnormal } else { normal };
    let abs = if abs == 0x7F {
        F32_INF | F32_QUIET
    } else {
        finite
    };
    f32::from_bits(abs | ((code & 0x80) << 24))
}

/// From f8e5m2, the upper half of a binary16; exact, and NaN becomes quiet.
#[inline(always)]
pub(crate) fn f8e5m2_to_f32(code: u8) -> f32 {
    f16_to_f32(u16::from(code) << 8)
}

/// Rounds to nearest even; NaN keeps its sign and the top bits of its mantissa, and is quiet.
#[inline(always)]
pub(crate) fn f64_to_f32(x: f64) -> f32 {
    let bits = x.to_bits();
    let sign = (bits >> 32) as u32 & F32_SIGN;
    let nan = sign | F32_INF | F32_QUIET | ((bits >> 29) as u32 & 0x007F_FFFF);
    let rounded = (x as f32).to_bits();
    f32::from_bits(if x.is_nan() { nan } else { rounded })
}

/// Exact; NaN becomes quiet.
#[inline(always)]
pub(crate) fn f32_to_f64(x: f32) -> f64 {
    let bits = u64::from(x.to_bits());
    let nan = ((bits & 0x8000_0000) << 32) | 0x7FF8_0000_0000_0000 | ((bits & 0x007F_FFFF) << 29);
    let wide = f64::from(x).to_bits();
    f64::from_bits(if x.is_nan() { nan } else { wide })
}

/// `f` over every element of `src`, into the elements of `dst`.
#[inline(always)]
fn each<const N: usize, T>(src: &[u8], dst: &mut [T], f: impl Fn([u8; N]) -> T) {
    for (out, element) in dst.iter_mut().zip(src.as_chunks::<N>().0) {
        *out = f(*element);
    }
}

/// `f` over every element of `src`, into the bytes of `dst`.
#[inline(always)]
fn each_f32<const N: usize>(src: &[f32], dst: &mut [u8], f: impl Fn(f32) -> [u8; N]) {
    for (out, &x) in dst.as_chunks_mut::<N>().0.iter_mut().zip(src) {
        *out = f(x);
    }
}

/// Something a number can be written to: an f32, or its little-endian bytes.
pub(crate) trait Slot {
    /// The slot that holds `x`.
    fn of(x: f32) -> Self;
}

impl Slot for f32 {
    #[inline(always)]
    fn of(x: f32) -> Self {
        x
    }
}

impl Slot for [u8; 4] {
    #[inline(always)]
    fn of(x: f32) -> Self {
        x.to_le_bytes()
    }
}

/// Elements of any dtype to f32, rounding to nearest even where f32 is narrower. Stops at the shorter of the two.
pub(crate) fn to_f32<S: Slot>(dtype: DType, src: &[u8], dst: &mut [S]) {
    let done = if dtype == DType::F16 {
        f16c::to_f32(src, dst)
    } else {
        0
    };
    let (src, dst) = (src.get(done * dtype.size()..), dst.get_mut(done..));
    if let (Some(src), Some(dst)) = (src, dst) {
        loop_to_f32(dtype, src, dst);
    }
}

simd! {
    fn loop_to_f32<S: Slot>(dtype: DType, src: &[u8], dst: &mut [S]) {
        match dtype {
            DType::Bool => each(src, dst, |[b]| S::of(f32::from(b.min(1)))),
            DType::U8 => each(src, dst, |[b]| S::of(f32::from(b))),
            DType::I8 => each(src, dst, |b| S::of(f32::from(i8::from_le_bytes(b)))),
            DType::U16 => each(src, dst, |b| S::of(f32::from(u16::from_le_bytes(b)))),
            DType::I16 => each(src, dst, |b| S::of(f32::from(i16::from_le_bytes(b)))),
            DType::U32 => each(src, dst, |b| S::of(u32::from_le_bytes(b) as f32)),
            DType::I32 => each(src, dst, |b| S::of(i32::from_le_bytes(b) as f32)),
            DType::U64 => each(src, dst, |b| S::of(u64::from_le_bytes(b) as f32)),
            DType::I64 => each(src, dst, |b| S::of(i64::from_le_bytes(b) as f32)),
            DType::F16 => each(src, dst, |b| S::of(f16_to_f32(u16::from_le_bytes(b)))),
            DType::BF16 => each(src, dst, |b| S::of(bf16_to_f32(u16::from_le_bytes(b)))),
            DType::F32 => each(src, dst, |b| S::of(f32::from_le_bytes(b))),
            DType::F64 => each(src, dst, |b| S::of(f64_to_f32(f64::from_le_bytes(b)))),
            DType::F8E4M3FN => each(src, dst, |[b]| S::of(f8e4m3fn_to_f32(b))),
            DType::F8E5M2 => each(src, dst, |[b]| S::of(f8e5m2_to_f32(b))),
        }
    }
}

simd! {
    /// Elements of any dtype to f64: integers directly, floats exactly.
    pub(crate) fn to_f64(dtype: DType, src: &[u8], dst: &mut [f64]) {
        match dtype {
            DType::Bool => each(src, dst, |[b]| f64::from(b.min(1))),
            DType::U8 => each(src, dst, |[b]| f64::from(b)),
            DType::I8 => each(src, dst, |b| f64::from(i8::from_le_bytes(b))),
            DType::U16 => each(src, dst, |b| f64::from(u16::from_le_bytes(b))),
            DType::I16 => each(src, dst, |b| f64::from(i16::from_le_bytes(b))),
            DType::U32 => each(src, dst, |b| f64::from(u32::from_le_bytes(b))),
            DType::I32 => each(src, dst, |b| f64::from(i32::from_le_bytes(b))),
            DType::U64 => each(src, dst, |b| u64::from_le_bytes(b) as f64),
            DType::I64 => each(src, dst, |b| i64::from_le_bytes(b) as f64),
            DType::F16 => each(src, dst, |b| f32_to_f64(f16_to_f32(u16::from_le_bytes(b)))),
            DType::BF16 => each(src, dst, |b| f32_to_f64(bf16_to_f32(u16::from_le_bytes(b)))),
            DType::F32 => each(src, dst, |b| f32_to_f64(f32::from_le_bytes(b))),
            DType::F64 => each(src, dst, f64::from_le_bytes),
            DType::F8E4M3FN => each(src, dst, |[b]| f32_to_f64(f8e4m3fn_to_f32(b))),
            DType::F8E5M2 => each(src, dst, |[b]| f32_to_f64(f8e5m2_to_f32(b))),
        }
    }
}

simd! {
    /// f32 to elements of a float dtype. Stops at the shorter of the two.
    ///
    /// # Errors
    /// `InvalidArgument` if `dtype` is not a float.
    pub(crate) fn from_f32(dtype: DType, src: &[f32], dst: &mut [u8]) -> Result<()> {
        match dtype {
            DType::F16 => each_f32(src, dst, |x| f32_to_f16(x).to_le_bytes()),
            DType::BF16 => each_f32(src, dst, |x| f32_to_bf16(x).to_le_bytes()),
            DType::F32 => each_f32(src, dst, f32::to_le_bytes),
            DType::F64 => each_f32(src, dst, |x| f32_to_f64(x).to_le_bytes()),
            DType::F8E4M3FN => each_f32(src, dst, |x| [f32_to_f8e4m3fn(x)]),
            DType::F8E5M2 => each_f32(src, dst, |x| [f32_to_f8e5m2(x)]),
            _ => {
                return Err(Error::invalid(format!(
                    "there is no conversion from f32 to {dtype}"
                )));
            }
        }
        Ok(())
    }
}

simd! {
    /// Rounds every element to the values that `dtype` has: nothing to do for f32 and f64.
    pub(crate) fn round_to(dtype: DType, x: &mut [f32]) {
        match dtype {
            DType::F16 => x.iter_mut().for_each(|x| *x = f16_to_f32(f32_to_f16(*x))),
            DType::BF16 => x.iter_mut().for_each(|x| *x = bf16_to_f32(f32_to_bf16(*x))),
            _ => {}
        }
    }
}

/// The largest finite value of a float dtype, as far as an f32 reaches.
pub(crate) fn largest(dtype: DType) -> f32 {
    match dtype {
        DType::F16 => 65504.0,
        DType::BF16 => f32::from_bits(0x7F7F_0000),
        DType::F8E4M3FN => 448.0,
        DType::F8E5M2 => 57344.0,
        _ => f32::MAX,
    }
}

/// Elements of `from` to as many elements of `to`: f32, f16, bf16, f64, or the same dtype.
///
/// # Errors
/// `InvalidArgument` if the lengths disagree or there is no such conversion.
pub(crate) fn convert(from: DType, src: &[u8], to: DType, dst: &mut [u8]) -> Result<()> {
    let n = src.len() / from.size();
    if src.len() != n * from.size() || dst.len() != n * to.size() {
        return Err(Error::invalid(format!(
            "{} bytes of {from} do not become {} bytes of {to}",
            src.len(),
            dst.len()
        )));
    }
    match to {
        _ if from == to => dst.copy_from_slice(src),
        DType::F32 => to_f32(from, src, dst.as_chunks_mut::<4>().0),
        DType::F64 => {
            let mut block = [0.0f64; BLOCK];
            for (src, dst) in src
                .chunks(BLOCK * from.size())
                .zip(dst.chunks_mut(BLOCK * 8))
            {
                to_f64(from, src, &mut block);
                for (out, x) in dst.as_chunks_mut::<8>().0.iter_mut().zip(block) {
                    *out = x.to_le_bytes();
                }
            }
        }
        DType::F16 | DType::BF16 => {
            let mut block = [0.0f32; BLOCK];
            for (src, dst) in src
                .chunks(BLOCK * from.size())
                .zip(dst.chunks_mut(BLOCK * 2))
            {
                to_f32(from, src, &mut block);
                from_f32(to, &block, dst)?;
            }
        }
        _ => {
            return Err(Error::invalid(format!(
                "there is no conversion from {from} to {to}"
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::{bf16, f16};

    fn same(a: f32, b: f32) -> bool {
        a.to_bits() == b.to_bits()
    }

    #[test]
    fn every_f16_and_bf16_widens_as_in_half() {
        for code in 0..=u16::MAX {
            assert!(
                same(f16_to_f32(code), f16::from_bits(code).to_f32()),
                "{code:04x}"
            );
            assert_eq!(bf16_to_f32(code).to_bits(), u32::from(code) << 16);
            assert_eq!(
                f32_to_f64(f16_to_f32(code)).to_bits(),
                f16::from_bits(code).to_f64().to_bits()
            );
        }
    }

    #[test]
    fn every_f8_has_the_value_of_its_formula() {
        for code in 0..=255u8 {
            let sign = if code & 0x80 == 0 { 1.0f64 } else { -1.0 };
            let (e, m) = (i32::from(code >> 3) & 15, f64::from(code & 7));
            let x = f8e4m3fn_to_f32(code);
            if code & 0x7F == 0x7F {
                assert_eq!(x.to_bits(), 0x7FC0_0000 | (u32::from(code & 0x80) << 24));
            } else if e == 0 {
                assert_eq!(
                    f64::from(x).to_bits(),
                    (sign * 2f64.powi(-6) * (m / 8.0)).to_bits()
                );
            } else {
                assert_eq!(f64::from(x), sign * 2f64.powi(e - 7) * (1.0 + m / 8.0));
            }
            assert!(same(
                f8e5m2_to_f32(code),
                f16::from_bits(u16::from(code) << 8).to_f32()
            ));
        }
        assert_eq!(f8e4m3fn_to_f32(0x7E), 448.0);
        assert_eq!(f8e5m2_to_f32(0x7B), 57344.0);
    }

    /// f32 bit patterns around everything where a rounding decision can change: every upper half with the lower
    /// halves at, next to and between its ties.
    fn interesting() -> impl Iterator<Item = f32> {
        let tails = [
            0x0000u32, 0x0001, 0x0FFF, 0x1000, 0x1001, 0x2FFF, 0x3000, 0x7FFF, 0x8000, 0x8001,
            0xFFFF,
        ];
        (0..=0xFFFFu32)
            .flat_map(move |upper| tails.map(|lower| f32::from_bits((upper << 16) | lower)))
    }

    #[test]
    fn narrowing_to_f16_and_bf16_agrees_with_half() {
        for x in interesting() {
            assert_eq!(
                f32_to_f16(x),
                f16::from_f32_const(x).to_bits(),
                "{:08x}",
                x.to_bits()
            );
            assert_eq!(
                f32_to_bf16(x),
                bf16::from_f32(x).to_bits(),
                "{:08x}",
                x.to_bits()
            );
        }
    }

    /// The nearest code by search, ties to the even code; the first overflowing code stands for infinity or NaN.
    fn nearest(x: f32, values: &[f64], overflow: f64) -> usize {
        let x = f64::from(x).abs();
        let above = values.iter().position(|v| *v >= x).unwrap_or(values.len());
        if above == 0 {
            return 0;
        }
        let (lo, hi) = (
            values[above - 1],
            values.get(above).copied().unwrap_or(overflow),
        );
        match (x - lo).partial_cmp(&(hi - x)) {
            Some(std::cmp::Ordering::Less) => above - 1,
            Some(std::cmp::Ordering::Equal) if above % 2 == 1 => above - 1,
            _ => above,
        }
    }

    #[test]
    fn narrowing_to_f8_is_nearest_even() {
        let e4m3: Vec<f64> = (0..0x7F).map(|c| f64::from(f8e4m3fn_to_f32(c))).collect();
        let e5m2: Vec<f64> = (0..0x7C).map(|c| f64::from(f8e5m2_to_f32(c))).collect();
        for x in interesting().filter(|x| x.is_finite()) {
            let sign = usize::from(x.is_sign_negative()) << 7;
            assert_eq!(
                usize::from(f32_to_f8e4m3fn(x)),
                nearest(x, &e4m3, 480.0) | sign,
                "{x:e}"
            );
            assert_eq!(
                usize::from(f32_to_f8e5m2(x)),
                nearest(x, &e5m2, 65536.0) | sign,
                "{x:e}"
            );
        }
        for x in [f32::NAN, f32::INFINITY] {
            assert_eq!((f32_to_f8e4m3fn(x), f32_to_f8e4m3fn(-x)), (0x7F, 0xFF));
        }
        assert_eq!(
            (f32_to_f8e5m2(f32::INFINITY), f32_to_f8e5m2(-f32::INFINITY)),
            (0x7C, 0xFC)
        );
        assert_eq!(f32_to_f8e5m2(f32::NAN), 0x7E);
        assert_eq!(
            (f32_to_f8e4m3fn(464.0), f32_to_f8e4m3fn(464.1)),
            (0x7E, 0x7F)
        );
    }

    #[test]
    fn every_narrow_float_survives_the_way_through_f32() {
        for code in 0..=255u8 {
            let x = f8e4m3fn_to_f32(code);
            assert_eq!(f32_to_f8e4m3fn(x), code);
            let y = f8e5m2_to_f32(code);
            if !y.is_nan() {
                assert_eq!(f32_to_f8e5m2(y), code);
            }
        }
        for code in 0..=u16::MAX {
            let quiet = if code & 0x7FFF > 0x7C00 {
                code | 0x0200
            } else {
                code
            };
            assert_eq!(f32_to_f16(f16_to_f32(code)), quiet);
            let quiet = if code & 0x7FFF > 0x7F80 {
                code | 0x0040
            } else {
                code
            };
            assert_eq!(f32_to_bf16(bf16_to_f32(code)), quiet);
        }
    }

    #[test]
    fn nan_keeps_its_sign_and_top_bits() {
        let x = f64::from_bits(0xFFF0_0000_2000_0001);
        assert_eq!(f64_to_f32(x).to_bits(), 0xFFC0_0001);
        assert_eq!(
            f32_to_f64(f32::from_bits(0xFF80_0001)).to_bits(),
            0xFFF8_0000_2000_0000
        );
        assert_eq!(f64_to_f32(1e300), f32::INFINITY);
        assert_eq!(f64_to_f32(1e-45).to_bits(), 1);
    }

    #[test]
    fn integers_convert_with_one_rounding() -> Result<()> {
        let x = [
            0i64,
            1,
            -1,
            16_777_217,
            -16_777_219,
            i64::MAX,
            i64::MIN,
            (1 << 53) + 1,
        ];
        let src: Vec<u8> = x.iter().flat_map(|x| x.to_le_bytes()).collect();
        let (mut narrow, mut wide) = ([0; 32], [0; 64]);
        convert(DType::I64, &src, DType::F32, &mut narrow)?;
        convert(DType::I64, &src, DType::F64, &mut wide)?;
        for (i, x) in x.into_iter().enumerate() {
            assert_eq!(narrow.as_chunks::<4>().0[i], (x as f32).to_le_bytes());
            assert_eq!(wide.as_chunks::<8>().0[i], (x as f64).to_le_bytes());
        }
        Ok(())
    }

    #[test]
    fn every_dtype_converts_to_the_floats_and_itself_only() -> Result<()> {
        let n = 2 * BLOCK + 3;
        for from in DType::all() {
            let src: Vec<u8> = (0..n * from.size()).map(|i| (i * 37 % 251) as u8).collect();
            let mut x = vec![0.0f32; n];
            to_f32(from, &src, &mut x);
            for to in DType::all() {
                let mut dst = vec![0xCC; n * to.size()];
                let done = convert(from, &src, to, &mut dst);
                if from == to {
                    done?;
                    assert_eq!(dst, src);
                } else if let DType::F32 | DType::F64 | DType::F16 | DType::BF16 = to {
                    done?;
                    let mut expected = vec![0; dst.len()];
                    if to == DType::F64 {
                        let mut wide = vec![0.0; n];
                        to_f64(from, &src, &mut wide);
                        expected = wide.iter().flat_map(|x| x.to_le_bytes()).collect();
                    } else {
                        from_f32(to, &x, &mut expected)?;
                    }
                    assert_eq!(dst, expected, "{from} to {to}");
                } else {
                    assert!(done.is_err());
                }
                assert!(convert(from, &src, to, &mut dst[1..]).is_err());
            }
        }
        Ok(())
    }
}
