//! Floats to integers on a grid of equal steps, and back: x = (q - zero_point) * step in f64 (format-spec 9.6).
//!
//! q and zero_point are integers below 2^51 in size, so their difference is exact in f64. One multiplication rounds,
//! and then the conversion to the field's dtype.

use super::convert::Slot;
use super::dequant::{self, Codes, OneScale};
use super::simd::simd;

/// The values that stored elements can have.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Grid {
    pub(crate) step: f64,
    pub(crate) zero_point: f64,
    /// The smallest and the largest q - zero_point.
    pub(crate) low: f64,
    pub(crate) high: f64,
}

/// Mantissa bits that f64 has more than f32.
const BITS_BEYOND_F32: u32 = f64::MANTISSA_DIGITS - f32::MANTISSA_DIGITS;

/// The next number of the precision of f32 towards 0.
pub(crate) fn down_to_f32(x: f64) -> f64 {
    f64::from_bits(x.to_bits() >> BITS_BEYOND_F32 << BITS_BEYOND_F32)
}

impl Grid {
    /// Step and zero_point for arithmetic in f32 on integers of at most 16 bits, if that gives the same: a step that f32
    /// has, times an integer below 2^24, is exact in f64, so that the one rounding is that to f32.
    fn in_f32(&self) -> Option<(f32, f32)> {
        const MOST: f64 = ((1 << 24) - (1 << 16)) as f64;
        let same = down_to_f32(self.step) == self.step
            && (f64::from(f32::MIN_POSITIVE)..=f64::from(f32::MAX)).contains(&self.step)
            && self.zero_point.abs() <= MOST;
        same.then(|| (round(self.step), round(self.zero_point)))
    }
}

/// 1.5 * 2^52: adding it to a number below 2^51 in size leaves no bits behind the point, and the FPU rounds to even.
const ROUND: f64 = 6_755_399_441_055_744.0;

simd! {
    /// `q[i] = clamp(RNE(x / step), low, high) + zero_point` and `decoded[i] = (q[i] - zero_point) * step`; NaN becomes
    /// the lowest q. Stops at the shortest of the slices.
    pub(crate) fn quantize(x: &[f64], grid: &Grid, q: &mut [i32], decoded: &mut [f64]) {
        let grid = *grid;
        for ((x, q), decoded) in x.iter().zip(q).zip(decoded) {
            let ratio = *x / grid.step;
            // The limits are integers, so clamping first gives the same.
            let ratio = if ratio > grid.low { ratio } else { grid.low };
            let ratio = if ratio < grid.high { ratio } else { grid.high };
            let difference = (ratio + ROUND) - ROUND;
            *decoded = difference * grid.step;
            *q = low_half((difference + grid.zero_point) + ROUND);
        }
    }
}

/// The lower half of the bits: of an integer plus [`ROUND`] that is the integer.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "the purpose")]
fn low_half(x: f64) -> i32 {
    (x.to_bits() as u32).cast_signed()
}

/// Bytes of a stored element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Width {
    /// 8 bits.
    One,
    /// 16 bits.
    Two,
    /// 32 bits.
    Four,
}

impl Width {
    /// The width of elements of this many bits.
    pub(crate) fn new(bits: u8) -> Self {
        match bits {
            0..=8 => Self::One,
            9..=16 => Self::Two,
            _ => Self::Four,
        }
    }

    /// Bytes of an element.
    pub(crate) fn size(self) -> usize {
        match self {
            Self::One => 1,
            Self::Two => 2,
            Self::Four => 4,
        }
    }
}

#[inline(always)]
fn each<const N: usize, T>(
    codes: &[u8],
    value: impl Fn([u8; N]) -> f64,
    grid: &Grid,
    dst: &mut [T],
    out: impl Fn(f64) -> T,
) {
    let (step, zero_point) = (grid.step, grid.zero_point);
    for (dst, code) in dst.iter_mut().zip(codes.as_chunks::<N>().0) {
        *dst = out((value(*code) - zero_point) * step);
    }
}

#[inline(always)]
fn of_width<T>(width: Width, codes: &[u8], grid: &Grid, dst: &mut [T], out: impl Fn(f64) -> T) {
    match width {
        Width::One => each(codes, |b| f64::from(i8::from_le_bytes(b)), grid, dst, out),
        Width::Two => each(codes, |b| f64::from(i16::from_le_bytes(b)), grid, dst, out),
        Width::Four => each(codes, |b| f64::from(i32::from_le_bytes(b)), grid, dst, out),
    }
}

/// Rounds to nearest even: there are no NaNs here.
#[inline(always)]
#[expect(
    clippy::cast_possible_truncation,
    reason = "the one rounding of the format"
)]
fn round(x: f64) -> f32 {
    x as f32
}

/// How to read stored elements in f32, if that gives the same.
pub(crate) fn one_scale(width: Width, grid: &Grid) -> Option<OneScale> {
    let kind = match width {
        Width::One => Codes::I8,
        Width::Two => Codes::I16,
        Width::Four => return None,
    };
    let (scale, zero_point) = grid.in_f32()?;
    Some(OneScale {
        kind,
        scale,
        zero_point,
    })
}

/// Stored elements to f32. Stops at the shorter of codes and `dst`.
pub(crate) fn to_f32<S: Slot>(width: Width, codes: &[u8], grid: &Grid, dst: &mut [S]) {
    match one_scale(width, grid) {
        Some(one) => dequant::run(one.kind, codes, one.scale, one.zero_point, dst),
        None => through_f64(width, codes, grid, dst),
    }
}

simd! {
    fn through_f64<S: Slot>(width: Width, codes: &[u8], grid: &Grid, dst: &mut [S]) {
        of_width(width, codes, grid, dst, |x| S::of(round(x)));
    }
}

simd! {
    /// Stored elements to the bytes of f64. Stops at the shorter of codes and `dst`.
    pub(crate) fn to_f64(width: Width, codes: &[u8], grid: &Grid, dst: &mut [[u8; 8]]) {
        of_width(width, codes, grid, dst, f64::to_le_bytes);
    }
}

simd! {
    /// Rounds every element to f32.
    pub(crate) fn narrow(src: &[f64], dst: &mut [f32]) {
        for (dst, src) in dst.iter_mut().zip(src) {
            *dst = round(*src);
        }
    }
}

simd! {
    /// How many elements are further than `max_error` from their decoded value, or not comparable with it (NaN).
    pub(crate) fn misses(x: &[f64], decoded: &[f64], max_error: f64) -> usize {
        let mut count = 0u64;
        for (x, decoded) in x.iter().zip(decoded) {
            count += u64::from(!within(*x, *decoded, max_error));
        }
        usize::try_from(count).unwrap_or(usize::MAX)
    }
}

/// True if a decoded value keeps the bound; never for NaN and infinities.
#[inline(always)]
pub(crate) fn within(x: f64, decoded: f64, max_error: f64) -> bool {
    (x - decoded).abs() <= max_error
}

simd! {
    /// The smallest and the largest finite value; (inf, -inf) if there are none.
    pub(crate) fn finite_range(x: &[f64]) -> (f64, f64) {
        const LANES: usize = 8;
        let (mut low, mut high) = ([f64::INFINITY; LANES], [f64::NEG_INFINITY; LANES]);
        let (blocks, rest) = x.as_chunks::<LANES>();
        for block in blocks {
            for i in 0..LANES {
                let finite = block[i].is_finite();
                let down = if finite { block[i] } else { f64::INFINITY };
                let up = if finite { block[i] } else { f64::NEG_INFINITY };
                low[i] = if down < low[i] { down } else { low[i] };
                high[i] = if up > high[i] { up } else { high[i] };
            }
        }
        let rest = rest.iter().copied().filter(|x| x.is_finite());
        let ends = rest.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), x| {
            (low.min(x), high.max(x))
        });
        (
            low.into_iter().fold(ends.0, f64::min),
            high.into_iter().fold(ends.1, f64::max),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRID: Grid = Grid {
        step: 0.1,
        zero_point: -2700.0,
        low: 2572.0,
        high: 2827.0,
    };

    #[test]
    fn quantizes_to_even_and_clamps() {
        let grid = Grid {
            step: 1.0,
            zero_point: 0.0,
            low: -128.0,
            high: 127.0,
        };
        let x = [
            0.5,
            1.5,
            -2.5,
            1e300,
            -1e300,
            f64::INFINITY,
            f64::NEG_INFINITY,
            f64::NAN,
            -0.0,
        ];
        let (mut q, mut decoded) = ([9; 9], [9.0; 9]);
        quantize(&x, &grid, &mut q, &mut decoded);
        assert_eq!(q, [0, 2, -2, 127, -128, 127, -128, -128, 0]);
        assert!(q.iter().zip(decoded).all(|(q, x)| f64::from(*q) == x));
    }

    #[test]
    fn arithmetic_in_f32_is_used_where_it_gives_the_same() {
        let codes: Vec<u8> = (i16::MIN..=i16::MAX).flat_map(i16::to_le_bytes).collect();
        let exact = f64::from(0.1f32);
        for (step, zero_point, in_f32) in [
            (exact, 0.0, true),
            (exact, -12_345.0, true),
            (exact, 16_711_680.0, true),
            (exact, 16_711_681.0, false),
            (0.1, 0.0, false),
            (down_to_f32(0.1), 7.0, true),
            (f64::from(f32::MAX), 1.0, true),
            (f64::from(f32::MIN_POSITIVE), 1.0, true),
            (f64::from(f32::MIN_POSITIVE) / 2.0, 0.0, false),
            (1e300, 0.0, false),
            (exact * 2f64.powi(-120), 3.0, true),
        ] {
            let grid = Grid {
                step,
                zero_point,
                ..GRID
            };
            assert_eq!(grid.in_f32().is_some(), in_f32, "{step:e} {zero_point}");
            let n = codes.len() / 2;
            let (mut a, mut b) = (vec![0.0f32; n], vec![1.0f32; n]);
            to_f32(Width::Two, &codes, &grid, &mut a);
            through_f64(Width::Two, &codes, &grid, &mut b);
            assert!(a.iter().zip(&b).all(|(a, b)| a.to_bits() == b.to_bits()));
            let (mut a, mut b) = (vec![0.0f32; 2 * n], vec![1.0f32; 2 * n]);
            to_f32(Width::One, &codes, &grid, &mut a);
            through_f64(Width::One, &codes, &grid, &mut b);
            assert!(a.iter().zip(&b).all(|(a, b)| a.to_bits() == b.to_bits()));
        }
    }

    #[test]
    fn zero_points_move_the_codes_and_not_the_grid() {
        let x = [270.04, 257.2, 300.0, 282.7];
        let (mut q, mut decoded) = ([0; 4], [0.0; 4]);
        quantize(&x, &GRID, &mut q, &mut decoded);
        assert_eq!(q, [0, -128, 127, 127]);
        assert_eq!(
            decoded,
            [2700.0 * 0.1, 2572.0 * 0.1, 2827.0 * 0.1, 2827.0 * 0.1]
        );
        let codes: Vec<u8> = q.iter().map(|q| q.to_le_bytes()[0]).collect();
        let mut back = [[0; 8]; 4];
        to_f64(Width::One, &codes, &GRID, &mut back);
        assert_eq!(back.map(f64::from_le_bytes), decoded);
        let mut back = [0.0f32; 4];
        to_f32(Width::One, &codes, &GRID, &mut back);
        assert_eq!(back, [270.0, 257.2, 282.7, 282.7]);
    }

    #[test]
    fn every_width_reads_its_sign() {
        let grid = Grid {
            step: 2.0,
            zero_point: 3.0,
            ..GRID
        };
        let mut out = [0.0f32; 2];
        to_f32(Width::One, &[0xFF, 0x7F], &grid, &mut out);
        assert_eq!(out, [-8.0, 248.0]);
        to_f32(Width::Two, &[0xFE, 0xFF, 0, 0x80], &grid, &mut out);
        assert_eq!(out, [-10.0, -65_542.0]);
        to_f32(Width::Four, &[0, 0, 0, 0x80, 5, 0, 0, 0], &grid, &mut out);
        assert_eq!(out, [-4_294_967_302.0, 4.0]);
    }

    #[test]
    fn misses_count_what_is_not_within() {
        let x = [1.0, f64::NAN, f64::INFINITY, 2.0];
        assert_eq!(misses(&x, &[1.5, 0.0, f64::INFINITY, 2.0], 0.5), 2);
        assert_eq!(misses(&x, &[1.5, 0.0, 0.0, 2.0], 0.0), 3);
        assert_eq!(finite_range(&x), (1.0, 2.0));
        assert_eq!(finite_range(&[]), (f64::INFINITY, f64::NEG_INFINITY));
        let mut long = vec![f64::NEG_INFINITY; 37];
        (long[5], long[36]) = (-3.0, 1e300);
        assert_eq!(finite_range(&long), (-3.0, 1e300));
    }
}
