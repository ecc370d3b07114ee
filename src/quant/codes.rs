//! Stored elements as they are: for readers that dequantize elsewhere, and checks of what belongs to them.

use crate::dtype::DType;
use crate::error::Result;
use crate::kernel::dequant::unpack_nibbles;

use super::{Block, MxFormat, NonFinite, QuantParams, Scales};

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
            Self::Fp8(p) => p.dtype,
            Self::Codebook(_) => DType::U8,
            Self::Mx(p) => match p.format {
                MxFormat::Fp8E4M3 => DType::F8E4M3FN,
                MxFormat::Fp8E5M2 => DType::F8E5M2,
                MxFormat::Int8 => DType::I8,
                MxFormat::Fp4 => DType::U8,
            },
        }
    }

    /// True if elements may be patched (format-spec 10.5).
    pub(crate) fn allows_patches(&self) -> bool {
        self.non_finite() == Some(NonFinite::Patch)
    }

    /// What was done with elements that cannot be represented.
    fn non_finite(&self) -> Option<NonFinite> {
        match self {
            Self::Identity => None,
            Self::Cast { non_finite, .. } => Some(*non_finite),
            Self::AbsError(p) => Some(p.non_finite),
            _ => self.scaling().map(|scaling| scaling.non_finite),
        }
    }

    /// Copies stored elements out, widening 4-bit ones to a byte. `dst` has room for exactly `block.count` of them.
    pub(crate) fn codes(&self, block: &Block<'_>, dst: &mut [u8]) {
        if self.stored_bits(block.dtype) != 4 {
            dst.copy_from_slice(block.codes);
            return;
        }
        let signed = self.codes_dtype(block.dtype) == DType::I8;
        // Every sample starts at a byte.
        let sample = block.shape.iter().product::<usize>().max(1);
        let mut codes = block.codes;
        let mut rest = dst;
        let mut left = sample - block.first % sample;
        while !rest.is_empty() {
            let n = left.min(rest.len());
            let (head, tail) = rest.split_at_mut(n);
            let (bytes, codes_tail) = codes.split_at(n.div_ceil(2).min(codes.len()));
            unpack_nibbles(signed, bytes, head);
            (rest, codes, left) = (tail, codes_tail, sample);
        }
    }

    /// Checks scales and zero points that come from a file.
    ///
    /// # Errors
    /// `Corrupt` if one is out of range.
    pub(crate) fn validate(&self, scales: &Scales) -> Result<()> {
        if let Some(scaling) = self.scaling() {
            scaling.format.validate(&scales.scales)?;
        }
        self.validate_zero_points(&scales.zero_points)
    }
}
