//! What a user may ask of the error, and the grid that follows from it (format-spec 9.6).

use super::{AbsErrorParams, NonFinite};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::kernel::abs_error::down_to_f32;

/// The largest error that decoded values may have.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum ErrorBound {
    /// At most this for every element.
    Absolute(f64),
    /// At most this fraction of the field's range, largest less smallest finite value.
    Relative(f64),
    /// A ratio of the field's range to the root mean square of the error, in decibels, if errors are spread evenly; the
    /// bound for every element that follows is sqrt(3) * range * 10^(-dB/20).
    Psnr(f64),
}

/// A bound, and what is known of the field.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct BoundRequest {
    pub(super) bound: ErrorBound,
    /// Bits of a stored element, if not to be chosen.
    pub(super) bits: Option<u8>,
    /// Smallest and largest finite value.
    pub(super) range: Option<(f64, f64)>,
    pub(super) non_finite: NonFinite,
}

/// The largest zero_point, in size: with any q it stays below 2^51.
pub(super) const LARGEST_ZERO_POINT: i64 = 1 << 50;

/// What a step is smaller than twice the error by, so that roundings in f64 do not matter. It is also rounded down to a
/// number of f32's precision: then elements are decoded in f32, to the same bits.
const SLACK: f64 = 1.0 - 1.0 / 1_048_576.0;

/// Mantissa bits of a float dtype, and the exponent of its smallest normal.
fn precision(dtype: DType) -> (i32, i32) {
    match dtype {
        DType::F16 => (10, -14),
        DType::BF16 => (7, -126),
        DType::F64 => (52, -1022),
        _ => (23, -126),
    }
}

/// The distance of values of this dtype around `x`.
pub(super) fn spacing(dtype: DType, x: f64) -> f64 {
    let (mantissa, smallest) = precision(dtype);
    let exponent = i32::try_from((x.to_bits() >> 52) & 0x7FF).unwrap_or(0) - 1023;
    // Two factors: the power can be below the normal ones.
    let exponent = exponent.max(smallest) - mantissa;
    2f64.powi(exponent / 2) * 2f64.powi(exponent - exponent / 2)
}

/// The largest error before decoded values are rounded to the field's dtype that is still `max_error` after it, for
/// elements up to `largest` in size.
///
/// Elements of spacing s lie on multiples of s and so do their decoded values: the error is rounded to a multiple of s,
/// which is at most `max_error` if it was below (floor(max_error / s) + 1/2) * s.
fn before_rounding(dtype: DType, max_error: f64, largest: f64) -> f64 {
    let mut best = max_error;
    let mut s = spacing(dtype, largest);
    while s > max_error / 33_554_432.0 && s > 0.0 {
        best = best.min(((max_error / s).floor() + 0.5) * s);
        s /= 2.0;
    }
    best
}

impl BoundRequest {
    pub(super) fn new(bound: ErrorBound) -> Self {
        Self {
            bound,
            bits: None,
            range: None,
            non_finite: NonFinite::Patch,
        }
    }

    /// True if the field's range must be known.
    pub(super) fn needs_range(&self) -> bool {
        let absolute = matches!(self.bound, ErrorBound::Absolute(_));
        self.range.is_none() && !(absolute && self.bits.is_some())
    }

    /// The largest error of an element.
    fn max_error(&self) -> Result<f64> {
        let width = self.range.map(|(low, high)| high - low);
        let known = || {
            width.ok_or_else(|| {
                Error::invalid(
                    "a largest error relative to the range of the field needs that range: give it, or take a first pass \
                     (`Calibrator`)",
                )
            })
        };
        let (asked, max_error) = match self.bound {
            ErrorBound::Absolute(error) => (error, error),
            ErrorBound::Relative(fraction) => (fraction, fraction * known()?),
            ErrorBound::Psnr(decibels) if decibels.is_nan() || decibels.abs() > 1000.0 => {
                return Err(Error::invalid(format!(
                    "a ratio of {decibels} dB cannot be asked for; -1000 to 1000 can"
                )));
            }
            ErrorBound::Psnr(decibels) => {
                let rms = known()? * 10f64.powf(-decibels / 20.0);
                (1.0, 3f64.sqrt() * rms)
            }
        };
        // Of a constant field the relative error is 0: it is stored exactly.
        let constant = width == Some(0.0) && max_error == 0.0;
        if asked > 0.0
            && asked.is_finite()
            && (max_error > 0.0 || constant)
            && max_error.is_finite()
        {
            return Ok(max_error);
        }
        Err(Error::invalid(format!(
            "a largest error of {max_error} cannot be asked for; it is a positive number"
        )))
    }

    /// The fact that follows from this request.
    pub(super) fn resolve(&self, dtype: DType) -> Result<AbsErrorParams> {
        if let Some((low, high)) = self.range
            && !(low <= high && low.is_finite() && high.is_finite())
        {
            return Err(Error::invalid(format!(
                "{low} to {high} is not the range of a field: its ends are finite, the smaller one first"
            )));
        }
        if self.needs_range() {
            return Err(Error::invalid(
                "the width of the stored integers follows from the range of the field: give that range or the width, or \
                 take a first pass (`Calibrator`)",
            ));
        }
        let max_error = self.max_error()?;
        let (low, high) = self.range.unwrap_or((0.0, 0.0));
        let largest = low.abs().max(high.abs());
        let step = if max_error == 0.0 {
            // Constant: one step from 0.
            if largest > 0.0 { largest } else { 1.0 }
        } else if self.range.is_some() {
            down_to_f32(2.0 * before_rounding(dtype, max_error, largest) * SLACK)
        } else {
            down_to_f32(2.0 * max_error * SLACK)
        };
        if !step.is_normal() {
            return Err(Error::invalid(format!(
                "a largest error of {max_error:e} needs steps that f64 does not have"
            )));
        }
        let (bits, zero_point) = self.width(low / step, high / step);
        Ok(AbsErrorParams {
            bits,
            zero_point,
            step,
            max_error,
            non_finite: self.non_finite,
        })
    }

    /// The narrowest integers that hold RNE(low) to RNE(high), and their zero_point; the widest (or those asked for) if
    /// none do.
    fn width(&self, low: f64, high: f64) -> (u8, i64) {
        let (low, high) = (low.round_ties_even(), high.round_ties_even());
        let widths = [8u8, 16, 32];
        let last = self.bits.unwrap_or(32);
        let mut allowed = widths
            .into_iter()
            .filter(|bits| self.bits.is_none_or(|asked| asked == *bits));
        let fitting = allowed.find_map(|bits| {
            let half = 2f64.powi(i32::from(bits) - 1);
            let fits = |middle: f64| low - middle >= -half && high - middle <= half - 1.0;
            if fits(0.0) {
                return Some((bits, 0));
            }
            let middle = low + ((high - low) / 2.0).ceil();
            let small = middle.abs() <= LARGEST_ZERO_POINT as f64;
            #[expect(
                clippy::cast_possible_truncation,
                reason = "an integer of at most 2^50"
            )]
            (small && fits(middle)).then_some((bits, -middle as i64))
        });
        fitting.unwrap_or((last, 0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn absolute(max_error: f64, bits: Option<u8>, range: Option<(f64, f64)>) -> BoundRequest {
        BoundRequest {
            bits,
            range,
            ..BoundRequest::new(ErrorBound::Absolute(max_error))
        }
    }

    #[test]
    fn spacing_is_a_unit_in_the_last_place() {
        assert_eq!(spacing(DType::F32, 1.0), f64::from(f32::EPSILON));
        assert_eq!(spacing(DType::F32, -3.9), 2.0 * f64::from(f32::EPSILON));
        assert_eq!(spacing(DType::F32, 0.0), f64::from(f32::from_bits(1)));
        assert_eq!(spacing(DType::F16, 65504.0), 32.0);
        assert_eq!(spacing(DType::BF16, 256.0), 2.0);
        assert_eq!(spacing(DType::F64, 0.0), f64::from_bits(1));
        assert_eq!(spacing(DType::F64, 1e300), 1e300f64.next_up() - 1e300);
    }

    #[test]
    fn the_narrowest_width_is_taken_and_far_ranges_get_a_zero_point() -> Result<()> {
        for (error, range, bits, zero_point) in [
            (0.5, (-128.0, 127.0), 8, 0),
            (0.5, (-128.0, 129.0), 16, 0),
            (0.5, (220.0, 320.0), 8, -270),
            (0.25, (220.0, 320.0), 8, -540),
            (0.05, (220.0, 320.0), 16, 0),
            (0.01, (101_000.0, 101_500.0), 16, -5_062_505),
            (1e-3, (-1.0, 1.0), 16, 0),
            (1e-6, (-1.0, 1.0), 32, 0),
            (1e-30, (-1.0, 1.0), 32, 0),
        ] {
            let p = absolute(error, None, Some(range)).resolve(DType::F64)?;
            assert_eq!(
                (p.bits, p.zero_point),
                (bits, zero_point),
                "{error} {range:?}"
            );
            assert_eq!(p.max_error, error);
            assert!(p.step <= 2.0 * error && p.step > 0.999 * error);
        }
        let p = absolute(0.5, Some(16), Some((0.0, 1.0))).resolve(DType::F32)?;
        assert_eq!((p.bits, p.zero_point), (16, 0));
        let p = absolute(0.5, Some(8), None).resolve(DType::F32)?;
        assert_eq!((p.bits, p.step), (8, SLACK));
        Ok(())
    }

    #[test]
    fn relative_bounds_follow_from_the_range() -> Result<()> {
        let with_range = |bound, range| BoundRequest {
            range: Some(range),
            ..BoundRequest::new(bound)
        };
        let p = with_range(ErrorBound::Relative(1e-3), (-2.0, 8.0)).resolve(DType::F64)?;
        assert_eq!((p.max_error, p.bits), (0.01, 16));
        let p = with_range(ErrorBound::Psnr(60.0), (0.0, 10.0)).resolve(DType::F64)?;
        assert!((p.max_error - 3f64.sqrt() * 0.01).abs() < 1e-12);
        for constant in [0.0, 7.25, -1e-30] {
            let p = with_range(ErrorBound::Relative(0.1), (constant, constant));
            let p = p.resolve(DType::F64)?;
            assert_eq!((p.max_error, p.bits, p.zero_point), (0.0, 8, 0));
            assert_eq!((constant / p.step).abs() * p.step, constant.abs());
        }
        assert!(
            BoundRequest::new(ErrorBound::Relative(0.1))
                .resolve(DType::F32)
                .is_err()
        );
        Ok(())
    }

    #[test]
    fn what_cannot_be_a_bound_is_refused() {
        for bad in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e-320, 1.7e308] {
            assert!(absolute(bad, Some(8), None).resolve(DType::F32).is_err());
        }
        for range in [(1.0, 0.0), (f64::NAN, 1.0), (0.0, f64::INFINITY)] {
            assert!(
                absolute(1.0, None, Some(range))
                    .resolve(DType::F32)
                    .is_err()
            );
        }
        assert!(absolute(1.0, None, None).resolve(DType::F32).is_err());
        for decibels in [f64::NAN, 2000.0, f64::INFINITY] {
            let request = BoundRequest {
                range: Some((0.0, 1.0)),
                ..BoundRequest::new(ErrorBound::Psnr(decibels))
            };
            assert!(request.resolve(DType::F32).is_err());
        }
    }

    #[test]
    fn steps_leave_room_for_the_rounding_of_the_dtype() -> Result<()> {
        // Multiples of the spacing: the error is rounded down to one, or up to one that is still allowed.
        let p = absolute(2f64.powi(-10), None, Some((-1.0, 1000.0))).resolve(DType::F32)?;
        assert_eq!(p.step, 2f64.powi(-9) * SLACK);
        let p = absolute(1e-3, None, Some((-1.0, 1000.0))).resolve(DType::F32)?;
        let s = spacing(DType::F32, 1000.0);
        assert!(p.step < 2e-3 * SLACK && p.step > 2.0 * (1e-3 - s / 2.0) * SLACK);
        Ok(())
    }
}
