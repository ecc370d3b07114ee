//! Bit shuffle: bit 0 of all elements, then bit 1, and so on (format-spec 8).

use super::{Filter, FilterId};

/// Groups of 8 elements handled together, so that a plane is written 8 bytes at a time.
const GROUPS: usize = 8;

pub(super) struct BitShuffle;

/// Transposes the 8x8 bit matrix whose row r is byte r (Warren, Hacker's Delight, 7-3). Its own inverse.
fn transpose_bits(mut x: u64) -> u64 {
    let mut t = (x ^ (x >> 7)) & 0x00AA_00AA_00AA_00AA;
    x ^= t ^ (t << 7);
    t = (x ^ (x >> 14)) & 0x0000_CCCC_0000_CCCC;
    x ^= t ^ (t << 14);
    t = (x ^ (x >> 28)) & 0x0000_0000_F0F0_F0F0;
    x ^ t ^ (t << 28)
}

/// Exchanges byte c of word r with byte r of word c.
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

/// `E` bytes an element; `src` holds a multiple of 8 elements.
fn apply<const E: usize>(src: &[u8], dst: &mut [u8]) {
    let elements = src.as_chunks::<E>().0;
    let plane_len = elements.len() / 8;
    let groups = elements.as_chunks::<8>().0;
    let (blocks, rest) = groups.as_chunks::<GROUPS>();
    for (i, block) in blocks.iter().enumerate() {
        for j in 0..E {
            let mut words = block
                .map(|group| transpose_bits(u64::from_le_bytes(group.map(|element| element[j]))));
            transpose_bytes(&mut words);
            for (b, word) in words.iter().enumerate() {
                let at = (8 * j + b) * plane_len + i * GROUPS;
                dst[at..at + GROUPS].copy_from_slice(&word.to_le_bytes());
            }
        }
    }
    for (i, group) in rest.iter().enumerate() {
        for j in 0..E {
            let word = transpose_bits(u64::from_le_bytes(group.map(|element| element[j])));
            for (b, byte) in word.to_le_bytes().into_iter().enumerate() {
                dst[(8 * j + b) * plane_len + blocks.len() * GROUPS + i] = byte;
            }
        }
    }
}

fn undo<const E: usize>(src: &[u8], dst: &mut [u8]) {
    let elements = dst.as_chunks_mut::<E>().0;
    let plane_len = elements.len() / 8;
    let groups = elements.as_chunks_mut::<8>().0;
    let (blocks, rest) = groups.as_chunks_mut::<GROUPS>();
    let start = blocks.len() * GROUPS;
    for (i, block) in blocks.iter_mut().enumerate() {
        for j in 0..E {
            let mut words = [0; 8];
            for (b, word) in words.iter_mut().enumerate() {
                let at = (8 * j + b) * plane_len + i * GROUPS;
                let mut bytes = [0; 8];
                bytes.copy_from_slice(&src[at..at + GROUPS]);
                *word = u64::from_le_bytes(bytes);
            }
            transpose_bytes(&mut words);
            for (group, word) in block.iter_mut().zip(words) {
                for (element, byte) in group.iter_mut().zip(transpose_bits(word).to_le_bytes()) {
                    element[j] = byte;
                }
            }
        }
    }
    for (i, group) in rest.iter_mut().enumerate() {
        for j in 0..E {
            let bytes = std::array::from_fn(|b| src[(8 * j + b) * plane_len + start + i]);
            let bytes = transpose_bits(u64::from_le_bytes(bytes)).to_le_bytes();
            for (element, byte) in group.iter_mut().zip(bytes) {
                element[j] = byte;
            }
        }
    }
}

impl Filter for BitShuffle {
    fn id(&self) -> FilterId {
        FilterId::BIT_SHUFFLE
    }

    fn name(&self) -> &'static str {
        "bit_shuffle"
    }

    fn apply(&self, elem_size: usize, src: &[u8], dst: &mut [u8]) {
        let planes = src.len() - src.len() % (8 * elem_size);
        dst[planes..].copy_from_slice(&src[planes..]);
        let (src, dst) = (&src[..planes], &mut dst[..planes]);
        match elem_size {
            2 => apply::<2>(src, dst),
            4 => apply::<4>(src, dst),
            8 => apply::<8>(src, dst),
            _ => apply::<1>(src, dst),
        }
    }

    fn undo(&self, elem_size: usize, src: &[u8], dst: &mut [u8]) {
        let planes = src.len() - src.len() % (8 * elem_size);
        dst[planes..].copy_from_slice(&src[planes..]);
        let (src, dst) = (&src[..planes], &mut dst[..planes]);
        match elem_size {
            2 => undo::<2>(src, dst),
            4 => undo::<4>(src, dst),
            8 => undo::<8>(src, dst),
            _ => undo::<1>(src, dst),
        }
    }
}
