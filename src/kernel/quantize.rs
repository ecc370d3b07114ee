//! Floats to integer codes, as our writer does it (format-spec 9.3), and their ranges.

use super::simd::simd;

/// For each element of a block: its scale and zero_point, and the range of q - zero_point that it may use.
#[derive(Debug)]
pub(crate) struct Grids<'a> {
    pub(crate) scale: &'a [f32],
    pub(crate) zero_point: &'a [f32],
    pub(crate) low: &'a [f32],
    pub(crate) high: &'a [f32],
}

/// 1.5 * 2^23: adding it to a small f32 leaves no bits behind the point, and the FPU rounds to even.
const ROUND: f32 = 12_582_912.0;

simd! {
    /// `q[i] = clamp(RNE(RN(x / scale)), low, high) + zero_point` and `decoded[i] = (q[i] - zero_point) * scale`. True if
    /// every x is within half a scale of its range; false if some are not, NaN among them (their q are clamped).
    pub(crate) fn quantize(x: &[f32], grids: &Grids<'_>, q: &mut [i32], decoded: &mut [f32]) -> bool {
        let n = x.len();
        let (scale, zero_point) = (&grids.scale[..n], &grids.zero_point[..n]);
        let (low, high) = (&grids.low[..n], &grids.high[..n]);
        let (q, decoded) = (&mut q[..n], &mut decoded[..n]);
        let mut outside = 0u32;
        for i in 0..n {
            let ratio = x[i] / scale[i];
            outside |= u32::from(!in_range(ratio, low[i], high[i]));
            // The limits are integers, so clamping first gives the same; NaN becomes `low`.
            let ratio = if ratio > low[i] { ratio } else { low[i] };
            let ratio = if ratio < high[i] { ratio } else { high[i] };
            let rounded = ratio + ROUND;
            decoded[i] = (rounded - ROUND) * scale[i];
            let difference = rounded
                .to_bits()
                .wrapping_sub(ROUND.to_bits())
                .cast_signed();
            // zero_point is an integer below 2^17, converted in the same way.
            q[i] = difference
                + (zero_point[i] + ROUND)
                    .to_bits()
                    .wrapping_sub(ROUND.to_bits())
                    .cast_signed();
        }
        outside == 0
    }
}

/// True if a ratio x / scale rounds into low..=high, or onto the clamped ends; false for NaN.
#[inline(always)]
pub(crate) fn in_range(ratio: f32, low: f32, high: f32) -> bool {
    (ratio >= low - 0.5) & (ratio <= high + 0.5)
}

simd! {
    /// The smallest and largest value of `x` that are finite; (inf, -inf) if there are none.
    pub(crate) fn finite_range(x: &[f32]) -> (f32, f32) {
        const LANES: usize = 16;
        let (mut low, mut high) = ([f32::INFINITY; LANES], [f32::NEG_INFINITY; LANES]);
        let (blocks, rest) = x.as_chunks::<LANES>();
        for block in blocks {
            for i in 0..LANES {
                let (down, up) = if block[i].is_finite() {
                    (block[i], block[i])
                } else {
                    (f32::INFINITY, f32::NEG_INFINITY)
                };
                low[i] = if down < low[i] { down } else { low[i] };
                high[i] = if up > high[i] { up } else { high[i] };
            }
        }
        let rest = rest.iter().copied().filter(|x| x.is_finite());
        let ends = rest.fold((f32::INFINITY, f32::NEG_INFINITY), |(low, high), x| {
            (low.min(x), high.max(x))
        });
        (
            low.into_iter().fold(ends.0, f32::min),
            high.into_iter().fold(ends.1, f32::max),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn range_skips_what_is_not_finite() {
        assert_eq!(finite_range(&[]), (f32::INFINITY, f32::NEG_INFINITY));
        let mut x = vec![f32::NAN; 53];
        x[3] = -2.0;
        x[20] = f32::INFINITY;
        x[40] = f32::NEG_INFINITY;
        x[52] = 7.0;
        assert_eq!(finite_range(&x), (-2.0, 7.0));
    }

    #[test]
    fn rounds_ties_to_even_and_clamps() {
        let x = [
            0.5f32,
            1.5,
            -0.5,
            -2.5,
            126.6,
            127.4,
            127.5,
            128.0,
            -1e30,
            f32::NAN,
        ];
        let n = x.len();
        let grids = Grids {
            scale: &vec![1.0; n],
            zero_point: &vec![3.0; n],
            low: &vec![-127.0; n],
            high: &vec![127.0; n],
        };
        let (mut q, mut decoded) = ([0; 10], [0.0; 10]);
        assert!(!quantize(&x, &grids, &mut q, &mut decoded));
        assert_eq!(q, [3, 5, 3, 1, 130, 130, 130, 130, -124, -124]);
        assert_eq!(decoded[..4], [0.0, 2.0, 0.0, -2.0]);
        assert!(quantize(&x[..7], &grids, &mut q, &mut decoded));
        assert!(!quantize(&x[7..8], &grids, &mut q, &mut decoded));
    }
}
