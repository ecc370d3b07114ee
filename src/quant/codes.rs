//! Stored elements as they are: for readers that dequantize elsewhere, and checks of what belongs to them.

use crate::dtype::DType;
use crate::error::Result;
use crate::kernel::dequant::unpack_nibbles;

use super::{Block, NonFinite, QuantParams, Scales, validate_scales};

impl QuantParams {
    /// The dtype of the stored elements of a field of this dtype; 4-bit ones count as one byte.
    pub(crate) fn codes_dtype(&self, source: DType) -> DType {
        match self {
            Self::Identity => source,
            Self::Cast { dtype, .. } => *dtype,
            Self::Affine(affine) => match (affine.bits, affine.signed) {
                (16, true) => DType::I16,
                (16, false) => DType::U16,
                (_, true) => DType::I8,
                (_, false) => DType::U8,
            },
            Self::AbsError(p) => match p.bits {
                8 => DType::I8,
                16 => DType::I16,
                _ => DType::I32,
            },
        }
    }

    /// True if elements may be patched (format-spec 10.5).
    pub(crate) fn allows_patches(&self) -> bool {
        match self {
            Self::Identity => false,
            Self::Cast { non_finite, .. } => *non_finite == NonFinite::Patch,
            Self::Affine(affine) => affine.non_finite == NonFinite::Patch,
            Self::AbsError(p) => p.non_finite == NonFinite::Patch,
        }
    }

    /// Copies stored elements out, widening 4-bit ones to a byte. `dst` has room for exactly `block.count` of them.
    pub(crate) fn codes(&self, block: &Block<'_>, dst: &mut [u8]) {
        let Self::Affine(affine) = self else {
            dst.copy_from_slice(block.codes);
            return;
        };
        if affine.bits != 4 {
            dst.copy_from_slice(block.codes);
            return;
        }
        // Every sample starts at a byte.
        let sample = block.shape.iter().product::<usize>().max(1);
        let mut codes = block.codes;
        let mut rest = dst;
        let mut left = sample - block.first % sample;
        while !rest.is_empty() {
            let n = left.min(rest.len());
            let (head, tail) = rest.split_at_mut(n);
            let (bytes, codes_tail) = codes.split_at(n.div_ceil(2).min(codes.len()));
            unpack_nibbles(affine.signed, bytes, head);
            (rest, codes, left) = (tail, codes_tail, sample);
        }
    }

    /// Checks scales and zero points that come from a file.
    ///
    /// # Errors
    /// `Corrupt` if one is out of range.
    pub(crate) fn validate(&self, scales: &Scales) -> Result<()> {
        if let Some(dtype) = self.scale_dtype() {
            validate_scales(&scales.scales, dtype)?;
        }
        self.validate_zero_points(&scales.zero_points)
    }
}
