//! Elements of 8 and 4 bits that share a scale: OCP 8-bit floats, E2M1, and INT8 of the MX formats (format-spec 9.7 and
//! 9.9).

use super::convert::{f8e4m3fn_to_f32, f8e5m2_to_f32, f32_to_f8e4m3fn, f32_to_f8e5m2, narrow};
use super::simd::simd;

/// What an element without its scale is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// 1 sign, 4 exponent, 3 mantissa bits; NaN, no infinity.
    E4M3,
    /// 1 sign, 5 exponent, 2 mantissa bits; NaN and infinity.
    E5M2,
    /// 1 sign, 2 exponent, 1 mantissa bits: no NaN, no infinity.
    E2M1,
    /// Two's complement 64ths.
    Int8,
}

/// The values of E2M1 codes.
pub(crate) static E2M1: [f32; 16] = [
    0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0,
];

impl Format {
    /// The largest value.
    pub(crate) fn largest(self) -> f32 {
        match self {
            Self::E4M3 => 448.0,
            Self::E5M2 => 57344.0,
            Self::E2M1 => 6.0,
            Self::Int8 => 127.0 / 64.0,
        }
    }

    /// True if there are codes for NaN.
    pub(crate) fn has_nan(self) -> bool {
        matches!(self, Self::E4M3 | Self::E5M2)
    }
}

/// 1.5 * 2^23: adding it to a small f32 leaves no bits behind the point, and the FPU rounds to even.
const ROUND: f32 = 12_582_912.0;

/// Elements to quantize: what, by which scale, and how large the ratio may be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ratios<'a> {
    pub(crate) x: &'a [f32],
    pub(crate) scale: &'a [f32],
    pub(crate) limit: &'a [f32],
}

#[inline(always)]
fn each(
    ratios: Ratios<'_>,
    q: &mut [i32],
    decoded: &mut [f32],
    largest: f32,
    encode: impl Fn(f32) -> u8,
    decode: impl Fn(u8) -> f32,
) -> bool {
    let mut inside = 1u32;
    let elements = ratios.x.iter().zip(ratios.scale).zip(ratios.limit);
    for (((x, scale), limit), (q, decoded)) in elements.zip(q.iter_mut().zip(decoded)) {
        let ratio = *x / *scale;
        inside &= u32::from(ratio.abs() <= *limit);
        let most = if *limit < largest { *limit } else { largest };
        // Not `clamp`: NaN stays.
        let ratio = if ratio > most { most } else { ratio };
        let ratio = if ratio < -most { -most } else { ratio };
        let code = encode(ratio);
        *q = i32::from(code);
        *decoded = decode(code) * *scale;
    }
    inside == 1
}

/// The E2M1 code of at most 6 in size, rounding to nearest even; NaN becomes 6.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "at most 15")]
pub(crate) fn f32_to_e2m1(x: f32) -> u8 {
    let bits = x.to_bits();
    let code = narrow::<1, 1>(bits & 0x7FFF_FFFF).min(7);
    (code | ((bits >> 28) & 8)) as u8
}

#[inline(always)]
fn e2m1_to_f32(code: u8) -> f32 {
    E2M1[usize::from(code & 15)]
}

/// 64ths of at most 127 in size; NaN becomes 0.
#[inline(always)]
fn f32_to_int8(x: f32) -> u8 {
    let rounded = (x * 64.0 + ROUND).to_bits().wrapping_sub(ROUND.to_bits());
    if x.is_nan() {
        0
    } else {
        rounded.to_le_bytes()[0]
    }
}

#[inline(always)]
fn int8_to_f32(code: u8) -> f32 {
    f32::from(code.cast_signed()) * (1.0 / 64.0)
}

simd! {
    /// `q[i]` = the code nearest to `x / scale`, ties to even, saturating at the limit or the largest value, and
    /// `decoded[i]` its value times the scale. NaN keeps a code of its own where there is one. True if no ratio is above
    /// its limit in size or NaN. Stops at the shortest of the slices.
    pub(crate) fn quantize(format: Format, ratios: Ratios<'_>, q: &mut [i32], decoded: &mut [f32]) -> bool {
        let largest = format.largest();
        match format {
            Format::E4M3 => each(ratios, q, decoded, largest, f32_to_f8e4m3fn, f8e4m3fn_to_f32),
            Format::E5M2 => each(ratios, q, decoded, largest, f32_to_f8e5m2, f8e5m2_to_f32),
            Format::E2M1 => each(ratios, q, decoded, largest, f32_to_e2m1, e2m1_to_f32),
            Format::Int8 => each(ratios, q, decoded, largest, f32_to_int8, int8_to_f32),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ratios<'a>(x: &'a [f32], scale: &'a [f32]) -> Ratios<'a> {
        Ratios {
            x,
            scale,
            limit: &[f32::MAX; 2],
        }
    }

    /// The code of a positive value that is nearest, the even one of two; by search.
    fn nearest(values: &[f32], x: f32) -> u8 {
        let distance = |code: usize| (f64::from(values[code]) - f64::from(x)).abs();
        let best = (0..values.len()).min_by(|&a, &b| {
            let order = distance(a).total_cmp(&distance(b));
            order.then((a % 2).cmp(&(b % 2)))
        });
        u8::try_from(best.unwrap()).unwrap()
    }

    #[test]
    fn e2m1_rounds_to_the_nearest_code_ties_to_even() {
        let x = [
            0.0f32, 0.25, 0.26, 0.75, 0.74, 1.0, 1.25, 1.26, 1.75, 2.5, 2.51, 3.5, 3.49, 5.0, 5.01,
            6.0,
        ];
        let codes = [0u8, 0, 1, 2, 1, 2, 2, 3, 4, 4, 5, 6, 5, 6, 7, 7];
        for (x, code) in x.into_iter().zip(codes) {
            assert_eq!(f32_to_e2m1(x), code, "{x}");
            assert_eq!(f32_to_e2m1(-x), code | 8, "{x}");
        }
        for i in 0..6000u16 {
            let x = f32::from(i) / 1000.0;
            assert_eq!(f32_to_e2m1(x), nearest(&E2M1[..8], x), "{x}");
        }
    }

    #[test]
    fn every_code_is_its_own_nearest() {
        for (format, codes) in [
            (Format::E4M3, 256),
            (Format::E5M2, 256),
            (Format::E2M1, 16),
            (Format::Int8, 256),
        ] {
            for code in 0..codes {
                let code = u8::try_from(code).unwrap();
                let value = match format {
                    Format::E4M3 => f8e4m3fn_to_f32(code),
                    Format::E5M2 => f8e5m2_to_f32(code),
                    Format::E2M1 => e2m1_to_f32(code),
                    Format::Int8 => int8_to_f32(code),
                };
                if value.is_infinite() || (format == Format::Int8 && code == 0x80) {
                    continue;
                }
                let (mut q, mut decoded) = ([0], [0.0]);
                let good = quantize(format, ratios(&[value * 0.5], &[0.5]), &mut q, &mut decoded);
                assert_eq!(good, !value.is_nan());
                if value.is_nan() {
                    assert!(
                        decoded[0].is_nan()
                            && decoded[0].is_sign_negative() == value.is_sign_negative()
                    );
                } else {
                    assert_eq!(
                        (q[0], decoded[0]),
                        (i32::from(code), value * 0.5),
                        "{format:?}"
                    );
                }
            }
            let (mut q, mut decoded) = ([0; 2], [0.0; 2]);
            assert!(quantize(
                format,
                ratios(&[1e30, -1e30], &[1.0; 2]),
                &mut q,
                &mut decoded
            ));
            assert_eq!(decoded, [format.largest(), -format.largest()]);
        }
    }
}
