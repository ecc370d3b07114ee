//! Loops of the byte shuffle (format-spec 8).

use super::simd::simd;

/// Elements moved at a time: small enough for registers, large enough for whole vectors.
const LANES: usize = 16;

/// A whole number of elements, viewed as words: the loops over `LANES` words become vector shifts and packs.
macro_rules! shuffle_words {
    ($apply:ident, $undo:ident, $word:ty, $size:literal) => {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "takes one byte out of a word"
        )]
        #[inline(always)]
        fn $apply(src: &[u8], dst: &mut [u8]) {
            let n = src.len() / $size;
            let (blocks, rest) = src.as_chunks::<$size>().0.as_chunks::<LANES>();
            let start = n - rest.len();
            for (j, plane) in dst.chunks_exact_mut(n).enumerate() {
                for (block, out) in blocks.iter().zip(plane.as_chunks_mut::<LANES>().0) {
                    for (byte, element) in out.iter_mut().zip(block) {
                        *byte = (<$word>::from_le_bytes(*element) >> (8 * j)) as u8;
                    }
                }
                for (byte, element) in plane[start..].iter_mut().zip(rest) {
                    *byte = element[j];
                }
            }
        }

        #[inline(always)]
        fn $undo(src: &[u8], dst: &mut [u8]) {
            let n = src.len() / $size;
            let (blocks, rest) = dst.as_chunks_mut::<$size>().0.as_chunks_mut::<LANES>();
            let start = n - rest.len();
            for (i, block) in blocks.iter_mut().enumerate() {
                let mut words = [<$word>::MIN; LANES];
                for (j, plane) in src.chunks_exact(n).enumerate() {
                    let Some(bytes) = plane[i * LANES..].first_chunk::<LANES>() else {
                        continue;
                    };
                    for (word, &byte) in words.iter_mut().zip(bytes) {
                        *word |= <$word>::from(byte) << (8 * j);
                    }
                }
                for (element, word) in block.iter_mut().zip(words) {
                    *element = word.to_le_bytes();
                }
            }
            for (i, element) in rest.iter_mut().enumerate() {
                for (j, byte) in element.iter_mut().enumerate() {
                    *byte = src[j * n + start + i];
                }
            }
        }
    };
}
shuffle_words!(apply2, undo2, u16, 2);
shuffle_words!(apply4, undo4, u32, 4);
shuffle_words!(apply8, undo8, u64, 8);

#[inline(always)]
pub(super) fn apply_inline(elem_size: usize, src: &[u8], dst: &mut [u8]) {
    let whole = src.len() - src.len() % elem_size;
    dst[whole..].copy_from_slice(&src[whole..]);
    let (src, dst) = (&src[..whole], &mut dst[..whole]);
    match elem_size {
        _ if whole == 0 => {}
        2 => apply2(src, dst),
        4 => apply4(src, dst),
        8 => apply8(src, dst),
        _ => dst.copy_from_slice(src),
    }
}

#[inline(always)]
pub(super) fn undo_inline(elem_size: usize, src: &[u8], dst: &mut [u8]) {
    let whole = src.len() - src.len() % elem_size;
    dst[whole..].copy_from_slice(&src[whole..]);
    let (src, dst) = (&src[..whole], &mut dst[..whole]);
    match elem_size {
        _ if whole == 0 => {}
        2 => undo2(src, dst),
        4 => undo4(src, dst),
        8 => undo8(src, dst),
        _ => dst.copy_from_slice(src),
    }
}

simd! {
    /// Shuffles the bytes of `src` into `dst`, of the same length.
    pub(crate) fn apply(elem_size: usize, src: &[u8], dst: &mut [u8]) {
        apply_inline(elem_size, src, dst);
    }
}

simd! {
    /// The inverse of [`apply`].
    pub(crate) fn undo(elem_size: usize, src: &[u8], dst: &mut [u8]) {
        undo_inline(elem_size, src, dst);
    }
}
