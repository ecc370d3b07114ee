//! Loops of the bit shuffle (format-spec 8).

use super::byte_shuffle;
use super::simd::simd;

/// Groups of 8 elements handled together, so that a plane is written 8 bytes at a time.
const GROUPS: usize = 8;

/// Transposes the 8x8 bit matrix whose row r is byte r (Warren, Hacker's Delight, 7-3). Its own inverse.
#[inline(always)]
fn transpose_bits(mut x: u64) -> u64 {
    let mut t = (x ^ (x >> 7)) & 0x00AA_00AA_00AA_00AA;
    x ^= t ^ (t << 7);
    t = (x ^ (x >> 14)) & 0x0000_CCCC_0000_CCCC;
    x ^= t ^ (t << 14);
    t = (x ^ (x >> 28)) & 0x0000_0000_F0F0_F0F0;
    x ^ t ^ (t << 28)
}

/// Exchanges byte c of word r with byte r of word c.
#[inline(always)]
fn transpose_bytes(x: &mut [u64; 8]) {
    for (distance, shift, mask) in [
        (4, 32, 0x0000_0000_FFFF_FFFFu64),
        (2, 16, 0x0000_FFFF_0000_FFFF),
        (1, 8, 0x00FF_00FF_00FF_00FF),
    ] {
        for i in (0..8).filter(|i| i & distance == 0) {
            let t = ((x[i] >> shift) ^ x[i + distance]) & mask;
            x[i + distance] ^= t;
            x[i] ^= t << shift;
        }
    }
}

/// Elements handled together.
const BLOCK: usize = 8 * GROUPS;
/// Bytes of as many of the largest elements.
const SCRATCH: usize = 8 * BLOCK;

/// `src` holds a multiple of 8 elements. Each block of 64 is byte shuffled first: then 8 bytes that belong together lie
/// together.
#[inline(always)]
fn apply_planes(elem_size: usize, src: &[u8], dst: &mut [u8]) {
    let plane_len = src.len() / (8 * elem_size);
    let mut scratch = [0; SCRATCH];
    for (i, block) in src.chunks(BLOCK * elem_size).enumerate() {
        let bytes = &mut scratch[..block.len()];
        byte_shuffle::apply_inline(elem_size, block, bytes);
        let groups = block.len() / (8 * elem_size);
        for (j, plane) in bytes.chunks_exact(8 * groups).enumerate() {
            let mut words = [0; GROUPS];
            for (word, group) in words.iter_mut().zip(plane.as_chunks::<8>().0) {
                *word = transpose_bits(u64::from_le_bytes(*group));
            }
            transpose_bytes(&mut words);
            for (b, word) in words.iter().enumerate() {
                let at = (8 * j + b) * plane_len + i * GROUPS;
                // Of a length known to the compiler where it can be: +25% (`filter_speed`).
                if groups == GROUPS {
                    dst[at..at + GROUPS].copy_from_slice(&word.to_le_bytes());
                } else {
                    dst[at..at + groups].copy_from_slice(&word.to_le_bytes()[..groups]);
                }
            }
        }
    }
}

#[inline(always)]
fn undo_planes(elem_size: usize, src: &[u8], dst: &mut [u8]) {
    let plane_len = src.len() / (8 * elem_size);
    let mut scratch = [0; SCRATCH];
    for (i, block) in dst.chunks_mut(BLOCK * elem_size).enumerate() {
        let bytes = &mut scratch[..block.len()];
        let groups = block.len() / (8 * elem_size);
        for (j, plane) in bytes.chunks_exact_mut(8 * groups).enumerate() {
            let mut words = [0; GROUPS];
            for (b, word) in words.iter_mut().enumerate() {
                let at = (8 * j + b) * plane_len + i * GROUPS;
                let mut part = [0; 8];
                if groups == GROUPS {
                    part.copy_from_slice(&src[at..at + GROUPS]);
                } else {
                    part[..groups].copy_from_slice(&src[at..at + groups]);
                }
                *word = u64::from_le_bytes(part);
            }
            transpose_bytes(&mut words);
            for (group, word) in plane.as_chunks_mut::<8>().0.iter_mut().zip(words) {
                *group = transpose_bits(word).to_le_bytes();
            }
        }
        byte_shuffle::undo_inline(elem_size, bytes, block);
    }
}

simd! {
    /// Shuffles the bits of `src` into `dst`, of the same length.
    pub(crate) fn apply(elem_size: usize, src: &[u8], dst: &mut [u8]) {
        let planes = src.len() - src.len() % (8 * elem_size);
        dst[planes..].copy_from_slice(&src[planes..]);
        let (src, dst) = (&src[..planes], &mut dst[..planes]);
        apply_planes(elem_size, src, dst);
    }
}

simd! {
    /// The inverse of [`apply`].
    pub(crate) fn undo(elem_size: usize, src: &[u8], dst: &mut [u8]) {
        let planes = src.len() - src.len() % (8 * elem_size);
        dst[planes..].copy_from_slice(&src[planes..]);
        let (src, dst) = (&src[..planes], &mut dst[..planes]);
        undo_planes(elem_size, src, dst);
    }
}
