//! Loops of the float order (format-spec 8): sign and magnitude to integers in ascending order, and back.

use super::simd::simd;

macro_rules! order_words {
    ($apply:ident, $undo:ident, $word:ty, $signed:ty, $size:literal) => {
        #[inline(always)]
        fn $apply(src: &[u8], dst: &mut [u8]) {
            for (out, element) in dst.as_chunks_mut().0.iter_mut().zip(src.as_chunks().0) {
                let x = <$word>::from_le_bytes(*element);
                // All bits of a negative number, the sign of others.
                let flip = <$signed>::from_le_bytes(*element) >> (8 * $size - 1) | <$signed>::MIN;
                *out = (x ^ flip.cast_unsigned()).to_le_bytes();
            }
        }

        #[inline(always)]
        fn $undo(src: &[u8], dst: &mut [u8]) {
            for (out, element) in dst.as_chunks_mut().0.iter_mut().zip(src.as_chunks().0) {
                let y = <$word>::from_le_bytes(*element);
                let flip =
                    !(<$signed>::from_le_bytes(*element) >> (8 * $size - 1)) | <$signed>::MIN;
                *out = (y ^ flip.cast_unsigned()).to_le_bytes();
            }
        }
    };
}
order_words!(apply1, undo1, u8, i8, 1);
order_words!(apply2, undo2, u16, i16, 2);
order_words!(apply4, undo4, u32, i32, 4);
order_words!(apply8, undo8, u64, i64, 8);

simd! {
    /// The ordered integers of the floats in `src`, into `dst` of the same length.
    pub(crate) fn apply(elem_size: usize, src: &[u8], dst: &mut [u8]) {
        let whole = src.len() - src.len() % elem_size;
        dst[whole..].copy_from_slice(&src[whole..]);
        let (src, dst) = (&src[..whole], &mut dst[..whole]);
        match elem_size {
            2 => apply2(src, dst),
            4 => apply4(src, dst),
            8 => apply8(src, dst),
            _ => apply1(src, dst),
        }
    }
}

simd! {
    /// The inverse of [`apply`].
    pub(crate) fn undo(elem_size: usize, src: &[u8], dst: &mut [u8]) {
        let whole = src.len() - src.len() % elem_size;
        dst[whole..].copy_from_slice(&src[whole..]);
        let (src, dst) = (&src[..whole], &mut dst[..whole]);
        match elem_size {
            2 => undo2(src, dst),
            4 => undo4(src, dst),
            8 => undo8(src, dst),
            _ => undo1(src, dst),
        }
    }
}
