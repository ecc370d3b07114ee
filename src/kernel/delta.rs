//! Loops of the delta filter (format-spec 8).

use super::simd::simd;

macro_rules! delta_words {
    ($apply:ident, $undo:ident, $word:ty, $size:literal) => {
        #[inline(always)]
        fn $apply(src: &[u8], dst: &mut [u8]) {
            let src = src.as_chunks::<$size>().0;
            let dst = dst.as_chunks_mut::<$size>().0;
            if let (Some(out), Some(first)) = (dst.first_mut(), src.first()) {
                *out = *first;
            }
            for (out, pair) in dst.iter_mut().skip(1).zip(src.windows(2)) {
                *out = <$word>::from_le_bytes(pair[1])
                    .wrapping_sub(<$word>::from_le_bytes(pair[0]))
                    .to_le_bytes();
            }
        }

        #[inline(always)]
        fn $undo(src: &[u8], dst: &mut [u8]) {
            let mut sum: $word = 0;
            for (out, step) in dst
                .as_chunks_mut::<$size>()
                .0
                .iter_mut()
                .zip(src.as_chunks::<$size>().0)
            {
                sum = sum.wrapping_add(<$word>::from_le_bytes(*step));
                *out = sum.to_le_bytes();
            }
        }
    };
}
delta_words!(apply1, undo1, u8, 1);
delta_words!(apply2, undo2, u16, 2);
delta_words!(apply4, undo4, u32, 4);
delta_words!(apply8, undo8, u64, 8);

simd! {
    /// Each element of `src` minus the one before.
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
    /// The inverse of [`apply`]: running sums.
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
