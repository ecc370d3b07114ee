//! Which encodings meet a request, which of them are on the Pareto front, and which one a goal takes.

use std::fmt;

use crate::dtype::DType;
use crate::error::{Error, Result};

use super::{FieldSpec, Goal, MeasuredEncoding};

/// Scores within this factor of the best are equal: clocks are not better than that.
const EQUAL_SCORES: f64 = 1.03;
/// Signal-to-noise ratios within this many dB of the best are equal.
const EQUAL_SNR_DB: f64 = 1.0;
/// What scales may add to the bits that were asked for.
const BITS_TOLERANCE: f64 = 1.01;

/// What decoded values must be like.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) enum Request {
    #[default]
    Lossless,
    MaxError(f64),
    TargetBits(f64),
}

impl Request {
    pub(super) fn check(self) -> Result<()> {
        match self {
            Self::MaxError(bound) if !(bound > 0.0 && bound.is_finite()) => Err(Error::invalid(
                format!("the largest error must be above 0, not {bound}; 0 is lossless"),
            )),
            Self::TargetBits(bits) if !(bits > 0.0 && bits.is_finite()) => Err(Error::invalid(
                format!("the bits of a value must be above 0, not {bits}"),
            )),
            _ => Ok(()),
        }
    }

    /// What it means for this field.
    pub(super) fn of(self, field: &FieldSpec) -> Self {
        if is_float(field) {
            self
        } else {
            Self::Lossless
        }
    }

    pub(super) fn is_met_by(self, encoding: &MeasuredEncoding) -> bool {
        match self {
            Self::Lossless => encoding.error.is_none(),
            // The measurement cannot fail if the promise holds; if it does not, the encoding must not be taken.
            Self::MaxError(bound) => encoding.bounded && encoding.max_abs_error() <= bound,
            Self::TargetBits(bits) => encoding.bits_per_value() <= bits * BITS_TOLERANCE,
        }
    }
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lossless => f.write_str("lossless"),
            Self::MaxError(bound) => write!(f, "max-error {bound}"),
            Self::TargetBits(bits) => write!(f, "target-bits {bits}"),
        }
    }
}

/// True for tensors that quantizers apply to.
pub(super) fn is_float(field: &FieldSpec) -> bool {
    field.is_tensor()
        && matches!(
            field.dtype(),
            Some(DType::F16 | DType::BF16 | DType::F32 | DType::F64)
        )
}

/// Encodings that can be taken: they meet the request, and are smaller than the plain form of their quantizer, without
/// filters and codec. Those that are not cannot be faster either, whatever a clock says. Where bits are given, they are
/// about as exact as the most exact of them.
fn eligible(request: Request, encodings: &[MeasuredEncoding]) -> Vec<bool> {
    let beaten = |i: usize| {
        encodings[..i].iter().any(|other| {
            other.field.is_plain()
                && other.field.quant() == encodings[i].field.quant()
                && other.stored_bytes <= encodings[i].stored_bytes
        })
    };
    let least_snr = match request {
        Request::TargetBits(_) => encodings
            .iter()
            .filter(|encoding| encoding.meets)
            .map(|encoding| encoding.snr_db() - EQUAL_SNR_DB)
            .fold(f64::NEG_INFINITY, f64::max),
        Request::Lossless | Request::MaxError(_) => f64::NEG_INFINITY,
    };
    encodings
        .iter()
        .enumerate()
        .map(|(i, encoding)| {
            let snr = encoding.snr_db();
            // An SNR that is no number (a field of zeros) is as good as any.
            encoding.meets && (snr.is_nan() || snr >= least_snr) && !beaten(i)
        })
        .collect()
}

/// Marks eligible encodings that no other one beats in both size and decode speed.
pub(super) fn mark_pareto(request: Request, encodings: &mut [MeasuredEncoding]) {
    let points: Vec<(bool, u64, f64)> = encodings
        .iter()
        .zip(eligible(request, encodings))
        .map(|(e, eligible)| (eligible, e.stored_bytes, e.decode_bytes_per_s))
        .collect();
    for (encoding, &(eligible, stored, speed)) in encodings.iter_mut().zip(&points) {
        let beaten = points
            .iter()
            .any(|&(other_eligible, other_stored, other_speed)| {
                other_eligible
                    && other_stored <= stored
                    && other_speed >= speed
                    && (other_stored < stored || other_speed > speed)
            });
        encoding.pareto = eligible && !beaten;
    }
}

/// The encoding to take; `None` if none meets the request.
pub(super) fn pick(
    goal: Goal,
    request: Request,
    encodings: &[MeasuredEncoding],
    memcpy_bytes_per_s: f64,
) -> Option<usize> {
    let can = eligible(request, encodings);
    let eligible = || (0..encodings.len()).filter(|&i| can[i]);
    let part =
        |i: usize| encodings[i].stored_bytes as f64 / (encodings[i].raw_bytes as f64).max(1.0);
    if goal.lambda() == 0.0 {
        return eligible().min_by_key(|&i| (encodings[i].stored_bytes, i));
    }
    let score = |i: usize| {
        let decode = memcpy_bytes_per_s / encodings[i].decode_bytes_per_s.max(1.0);
        part(i) + goal.lambda() * decode
    };
    let best = eligible().map(score).fold(f64::INFINITY, f64::min);
    // Of equals the smallest; a difference below 1% of the raw bytes is none, and the simpler one is taken.
    let percent = |i: usize| (part(i) * 100.0).round();
    eligible()
        .filter(|&i| score(i) <= best * EQUAL_SCORES)
        .min_by(|&a, &b| percent(a).total_cmp(&percent(b)).then(a.cmp(&b)))
}

/// Nothing meets the request.
pub(super) fn unmet(request: Request, encodings: &[MeasuredEncoding]) -> Error {
    let smallest = encodings
        .iter()
        .min_by_key(|encoding| encoding.stored_bytes);
    match (request, smallest) {
        (Request::TargetBits(bits), Some(smallest)) => Error::invalid(format!(
            "no encoding takes at most {bits} bits a value; the smallest is {} with {:.2} bits",
            smallest.options(),
            smallest.bits_per_value()
        )),
        _ => Error::invalid(format!(
            "no encoding that could be measured meets the request {request}; leave the stages that were set to the \
             planner"
        )),
    }
}
