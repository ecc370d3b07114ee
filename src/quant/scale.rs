//! Scales: the numbers that stored elements are multiplied by, and how they are stored (format-spec 9.3, 9.9).

use super::{Granularity, NonFinite};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::kernel::convert::{f32_to_bf16, f32_to_f16, f64_to_f32, largest, round_to, to_f32};

/// How the scales of a field are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ScaleFormat {
    /// As f32, f16 or bf16: positive, finite, normal.
    Float(DType),
    /// One byte e for 2^(e - 127), 255 for NaN.
    E8M0,
}

/// What quantizers with scales have in common.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scaling {
    /// How many elements share a scale.
    pub(crate) granularity: Granularity,
    /// How scales are stored.
    pub(crate) format: ScaleFormat,
    /// Zero points are stored beside the scales.
    pub(crate) zero_points: bool,
    pub(super) non_finite: NonFinite,
}

impl ScaleFormat {
    /// Bytes of a stored scale.
    pub(crate) fn size(self) -> usize {
        match self {
            Self::Float(dtype) => dtype.size(),
            Self::E8M0 => 1,
        }
    }

    /// Stored scales to f32, exactly. Stops at the shorter of the two.
    pub(crate) fn read(self, bytes: &[u8], scales: &mut [f32]) {
        match self {
            Self::Float(dtype) => to_f32(dtype, bytes, scales),
            Self::E8M0 => {
                for (scale, &e) in scales.iter_mut().zip(bytes) {
                    *scale = from_e8m0(e);
                }
            }
        }
    }

    /// Appends a stored scale, which it is exact in.
    pub(super) fn put(self, scale: f32, out: &mut Vec<u8>) {
        match self {
            Self::Float(DType::F16) => out.extend_from_slice(&f32_to_f16(scale).to_le_bytes()),
            Self::Float(DType::BF16) => out.extend_from_slice(&f32_to_bf16(scale).to_le_bytes()),
            Self::Float(_) => out.extend_from_slice(&scale.to_le_bytes()),
            Self::E8M0 => out.push((scale.to_bits() >> 23).to_le_bytes()[0]),
        }
    }

    /// Checks scales read from a file.
    ///
    /// # Errors
    /// `Corrupt` if one is not finite, positive, normal and exact in its dtype; every E8M0 is a scale.
    pub(crate) fn validate(self, scales: &[f32]) -> Result<()> {
        match self {
            Self::Float(dtype) => validate_scales(scales, dtype),
            Self::E8M0 => Ok(()),
        }
    }
}

/// 2^(e - 127); NaN for 255.
pub(super) fn from_e8m0(e: u8) -> f32 {
    f32::from_bits(match e {
        // Subnormal: half of the smallest normal.
        0 => 1 << 22,
        255 => 0x7FC0_0000,
        e => u32::from(e) << 23,
    })
}

/// The smallest positive normal value of a scale dtype.
pub(super) fn smallest_normal(scale_dtype: DType) -> f32 {
    match scale_dtype {
        // 2^-14
        DType::F16 => f32::from_bits((127 - 14) << 23),
        _ => f32::MIN_POSITIVE,
    }
}

/// Checks scales read from a file: finite, positive, normal and representable in `scale_dtype`.
///
/// # Errors
/// `Corrupt` if one is not.
pub(super) fn validate_scales(scales: &[f32], scale_dtype: DType) -> Result<()> {
    let smallest = smallest_normal(scale_dtype);
    let good = |scale: f32| {
        let mut rounded = [scale];
        round_to(scale_dtype, &mut rounded);
        (scale >= smallest) & (scale <= f32::MAX) & (rounded[0].to_bits() == scale.to_bits())
    };
    match scales.iter().find(|scale| !good(**scale)) {
        None => Ok(()),
        Some(found) => Err(Error::corrupt(
            "scale",
            format!("a positive, finite, normal {scale_dtype}"),
            found,
        )),
    }
}

/// The neighbour of a positive scale, one unit in the last place of its dtype away.
pub(super) fn neighbour(scale_dtype: DType, scale: f32, up: bool) -> f32 {
    let unit = match scale_dtype {
        DType::F16 => 1 << 13,
        DType::BF16 => 1 << 16,
        _ => 1,
    };
    f32::from_bits(if up {
        scale.to_bits() + unit
    } else {
        scale.to_bits() - unit
    })
}

/// Rounds up to a scale: at least the smallest normal of its dtype, at most the largest.
pub(super) fn round_up(x: f64, scale_dtype: DType) -> f32 {
    let (smallest, largest) = (smallest_normal(scale_dtype), largest(scale_dtype));
    if x <= f64::from(smallest) {
        return smallest;
    }
    if x >= f64::from(largest) {
        return largest;
    }
    let mut scale = [f64_to_f32(x)];
    round_to(scale_dtype, &mut scale);
    let mut scale = scale[0].min(largest);
    // Rounding twice may be off by one in either direction.
    while f64::from(scale) < x {
        scale = neighbour(scale_dtype, scale, true);
    }
    while scale > smallest && f64::from(neighbour(scale_dtype, scale, false)) >= x {
        scale = neighbour(scale_dtype, scale, false);
    }
    scale
}

/// The scale with which the largest element in size, `amax`, gets the largest value of a stored element: rounded up,
/// but so that this value does not decode to an infinity in the field's dtype. 1 if all elements are 0.
pub(super) fn scale_for(amax: f32, value: f32, scale_dtype: DType, field: DType) -> f32 {
    if amax == 0.0 {
        return 1.0;
    }
    let scale = round_up(f64::from(amax) / f64::from(value), scale_dtype);
    let mut decoded = [value * scale];
    round_to(field, &mut decoded);
    if decoded[0].is_finite() || scale <= smallest_normal(scale_dtype) {
        scale
    } else {
        neighbour(scale_dtype, scale, false)
    }
}

/// The part of a stage's parameters that is about scales: bytes 3 to 15 of 16.
pub(super) struct Header {
    pub(super) granularity: Granularity,
    pub(super) non_finite: NonFinite,
    pub(super) scale_dtype: DType,
}

impl Header {
    /// Reads it. `head` are the bytes from `granularity` on.
    pub(super) fn parse(head: &[u8; 13]) -> Result<Self> {
        let [
            granularity,
            axis,
            non_finite,
            s0,
            s1,
            g0,
            g1,
            g2,
            g3,
            reserved @ ..,
        ] = *head;
        let size = u32::from_le_bytes([g0, g1, g2, g3]);
        let granularity = match (granularity, axis, size) {
            (0, 0, 0) => Granularity::PerTensor,
            (1, 0..16, 0) => Granularity::PerChannel { axis },
            (2, 0, 0) => Granularity::PerSample,
            (3, 0, 1..) => Granularity::PerGroup { size },
            _ => {
                return Err(Error::corrupt(
                    "granularity of a quantizer",
                    "0 to 3 with the axis or group_size that belongs to it",
                    format!("{granularity} with axis {axis} and group_size {size}"),
                ));
            }
        };
        let id = u16::from_le_bytes([s0, s1]);
        let Some(scale_dtype) = DType::from_id(id).filter(|dtype| is_scale_dtype(*dtype)) else {
            return Err(Error::corrupt(
                "scale_dtype of a quantizer",
                "f32, f16 or bf16",
                id,
            ));
        };
        if reserved != [0; 4] {
            return Err(Error::corrupt(
                "reserved bytes of a quantizer",
                0,
                format!("{reserved:?}"),
            ));
        }
        Ok(Self {
            granularity,
            non_finite: NonFinite::from_byte(non_finite)?,
            scale_dtype,
        })
    }

    /// Appends it.
    pub(super) fn emit(&self, out: &mut Vec<u8>) {
        let (granularity, axis, size) = match self.granularity {
            Granularity::PerTensor => (0, 0, 0),
            Granularity::PerChannel { axis } => (1, axis, 0),
            Granularity::PerSample => (2, 0, 0),
            Granularity::PerGroup { size } => (3, 0, size),
        };
        out.extend_from_slice(&[granularity, axis, self.non_finite.to_byte()]);
        out.extend_from_slice(&self.scale_dtype.id().to_le_bytes());
        out.extend_from_slice(&size.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
    }

    /// Checks that it fits a field of this dtype and rank.
    pub(super) fn check(&self, dtype: DType, rank: Option<usize>) -> Result<()> {
        check_source(dtype)?;
        if !is_scale_dtype(self.scale_dtype) {
            return Err(Error::invalid(format!(
                "scales cannot be {}; f32, f16 and bf16 are possible",
                self.scale_dtype
            )));
        }
        match (self.granularity, rank) {
            (Granularity::PerGroup { size: 0 }, _) => {
                Err(Error::invalid("a group needs at least 1 element"))
            }
            (Granularity::PerChannel { .. }, None) => Err(Error::invalid(
                "a field of variable rank has no axis for scales per channel; take them per sample",
            )),
            (Granularity::PerChannel { axis }, Some(rank)) if usize::from(axis) >= rank => {
                Err(Error::invalid(format!(
                    "samples of rank {rank} have no axis {axis} for scales per channel; axis 0 is the outermost"
                )))
            }
            _ => Ok(()),
        }
    }
}

fn is_scale_dtype(dtype: DType) -> bool {
    matches!(dtype, DType::F32 | DType::F16 | DType::BF16)
}

/// Checks that a field of this dtype can be quantized with scales.
pub(super) fn check_source(dtype: DType) -> Result<()> {
    if matches!(dtype, DType::F16 | DType::BF16 | DType::F32 | DType::F64) {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "a {dtype} field cannot be quantized with scales; f16, bf16, f32 and f64 fields can"
    )))
}
