//! Snappy: one raw block with its varint length, no framing. Encoded by `snap`, decoded by `kernel::snappy`.

use std::cell::RefCell;

use super::{Codec, CodecId, encoder_failed, wrong_piece};
use crate::error::Result;
use crate::kernel::snappy;

thread_local! {
    // The encoder holds a hash table of up to 32 KiB.
    static ENCODER: RefCell<snap::raw::Encoder> = RefCell::new(snap::raw::Encoder::new());
}

pub(super) struct Snappy;

impl Codec for Snappy {
    fn id(&self) -> CodecId {
        CodecId::SNAPPY
    }

    fn name(&self) -> &'static str {
        "snappy"
    }

    fn max_expansion(&self) -> u64 {
        // A copy of 64 bytes takes 3; rounded up.
        64
    }

    fn encode(&self, _level: u8, src: &[u8], dst: &mut Vec<u8>) -> Result<()> {
        let start = dst.len();
        dst.resize(start + snap::raw::max_compress_len(src.len()), 0);
        let written = ENCODER
            .with_borrow_mut(|encoder| encoder.compress(src, &mut dst[start..]))
            .map_err(|e| encoder_failed("snappy", src.len(), e))?;
        dst.truncate(start + written);
        Ok(())
    }

    fn decode(&self, src: &[u8], dst: &mut [u8]) -> Result<()> {
        let Some((stated, elements)) = block_len(src) else {
            return Err(wrong_piece("snappy piece", dst.len(), "no length"));
        };
        if stated != dst.len() as u64 {
            return Err(wrong_piece(
                "snappy piece",
                dst.len(),
                format!("a block of {stated} bytes"),
            ));
        }
        snappy::decode(elements, dst).map_err(|e| wrong_piece("snappy piece", dst.len(), e))
    }
}

/// The stated length of a block, a varint of at most five bytes below 2^32, and the rest of the block.
fn block_len(src: &[u8]) -> Option<(u64, &[u8])> {
    let n = src.iter().take(5).position(|byte| *byte < 0x80)? + 1;
    let (varint, elements) = src.split_at(n);
    let len = varint
        .iter()
        .rev()
        .fold(0, |len, byte| len << 7 | u64::from(byte & 0x7F));
    (len <= u64::from(u32::MAX)).then_some((len, elements))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::simd::{FORCED, Level};

    /// The bytes of a length, an offset or a random number, lowest first.
    fn bytes(n: usize) -> [u8; 8] {
        u64::try_from(n).unwrap().to_le_bytes()
    }

    fn xorshift(mut state: u64) -> impl FnMut() -> usize {
        move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            usize::try_from(state >> 20).unwrap()
        }
    }

    /// Our decoder at every level of this machine, into the middle of a larger buffer: it must do what `snap` does, and
    /// nothing outside.
    fn agrees_with_snap(block: &[u8], len: usize, what: &str) {
        let mut want = vec![0; len];
        // `snap` fills the front of a longer buffer, and takes an empty input for an empty block.
        let accepted = !block.is_empty()
            && snap::raw::decompress_len(block).is_ok_and(|stated| stated == len)
            && snap::raw::Decoder::new()
                .decompress(block, &mut want)
                .is_ok();
        for level in Level::available() {
            let mut buffer = vec![0xA5; len + 128];
            FORCED.set(Some(level));
            let result = Snappy.decode(block, &mut buffer[64..64 + len]);
            FORCED.set(None);
            assert_eq!(result.is_ok(), accepted, "{what}, {level:?}: {result:?}");
            assert!(result.is_ok() || result.is_err_and(|e| e.is_corrupt()));
            let (before, rest) = buffer.split_at(64);
            let (decoded, behind) = rest.split_at(len);
            assert!(!accepted || decoded == want, "{what}, {level:?}");
            assert!(before.iter().chain(behind).all(|byte| *byte == 0xA5));
        }
    }

    fn encode(src: &[u8]) -> Vec<u8> {
        let mut block = Vec::new();
        Snappy.encode(0, src, &mut block).unwrap();
        block
    }

    /// A block of random elements. Most are well-formed; `wild` ones often are not.
    fn random_block(
        random: &mut impl FnMut() -> usize,
        elements: usize,
        wild: bool,
    ) -> (Vec<u8>, usize) {
        let (mut body, mut len) = (Vec::new(), 0);
        for _ in 0..elements {
            let offset = match random() % 4 {
                0 => random() % 20,
                1 => random() % 100,
                _ => random() % 70_000,
            };
            let offset = if wild { offset } else { offset.min(len).max(1) };
            match random() % 8 {
                kind @ 1..=3 if len > 0 && offset < 2048 && kind < 3 => {
                    let n = random() % 8;
                    body.push(u8::try_from(offset >> 8 << 5 | n << 2 | 1).unwrap());
                    body.push(bytes(offset)[0]);
                    len += n + 4;
                }
                1..=5 if len > 0 => {
                    let n = random() % 64;
                    let four = offset > 65_535 || random().is_multiple_of(50);
                    body.push(u8::try_from(n << 2 | if four { 3 } else { 2 }).unwrap());
                    body.extend(&bytes(offset)[..if four { 4 } else { 2 }]);
                    len += n + 1;
                }
                _ => {
                    let n = match random() % 8 {
                        0 => random() % 1000,
                        1 => random() % 70,
                        _ => random() % 6,
                    };
                    let extra = match n {
                        0..60 => random() % 20 / 16,
                        60..256 => 1 + random() % 4,
                        _ => 2 + random() % 3,
                    };
                    if extra == 0 {
                        body.push(u8::try_from(n << 2).unwrap());
                    } else {
                        body.push(u8::try_from((59 + extra) << 2).unwrap());
                        body.extend(&bytes(n)[..extra]);
                    }
                    body.extend((0..=n).map(|_| bytes(random())[0]));
                    len += n + 1;
                }
            }
        }
        let mut block = Vec::new();
        let mut rest = len;
        while rest >= 0x80 {
            block.push(bytes(rest)[0] | 0x80);
            rest >>= 7;
        }
        block.push(u8::try_from(rest).unwrap());
        block.extend(body);
        (block, len)
    }

    #[test]
    fn random_elements_decode_as_with_snap() {
        let mut random = xorshift(1);
        for round in 0..3000 {
            let elements = random() % [4, 20, 300][round % 3];
            let (mut block, len) = random_block(&mut random, elements, round % 4 == 3);
            agrees_with_snap(&block, len, "random elements");
            let at = random() % block.len();
            block[at] ^= bytes(random())[0];
            agrees_with_snap(&block, len, "a changed byte");
            block.truncate(random() % block.len());
            agrees_with_snap(&block, len, "cut");
        }
    }

    #[test]
    fn every_copy_repeats_correctly_at_every_distance_from_the_end() {
        let mut random = xorshift(2);
        let start: Vec<u8> = (0..100).map(|_| bytes(random())[0]).collect();
        for offset in 1..=100usize {
            for len in 1..=64usize {
                let behind = random() % 200;
                let mut block = vec![];
                let total = 100 + len + behind;
                block.extend([
                    bytes(total)[0] & 0x7F | 0x80,
                    u8::try_from(total >> 7).unwrap(),
                ]);
                block.extend([60 << 2, 99]);
                block.extend(&start);
                block.extend([
                    u8::try_from((len - 1) << 2 | 2).unwrap(),
                    bytes(offset)[0],
                    0,
                ]);
                for i in 0..behind {
                    block.extend([0, bytes(i)[0]]);
                }
                agrees_with_snap(&block, total, &format!("offset {offset}, {len} bytes"));
            }
        }
    }

    #[test]
    fn pieces_of_every_length_decode_as_with_snap() {
        let mut random = xorshift(3);
        for len in (0..700).chain([4096, 61_440, 65_536, 70_000]) {
            let src: Vec<u8> = (0..len)
                .map(|i| match random() % 12 {
                    0 => bytes(random())[0],
                    1 => 7,
                    _ => b"prediction residuals"[i % 20],
                })
                .collect();
            let mut block = encode(&src);
            agrees_with_snap(&block, len, "whole");
            agrees_with_snap(&block, len + 1, "too long");
            block.push(0);
            agrees_with_snap(&block, len, "something follows");
            block.push(0);
            agrees_with_snap(&block, len + 1, "something follows, and is there in full");
        }
    }

    #[test]
    fn lengths_are_read_as_by_snap() {
        for header in [
            &[][..],
            &[0],
            &[0x80],
            &[0x80, 0],
            &[1],
            &[0x81, 0],
            &[0x81, 0x80, 0x80, 0x80, 0],
            &[0x81, 0x80, 0x80, 0x80, 0x80, 0],
            &[0x81, 0x80, 0x80, 0x80, 0x10],
            &[0x81, 0x80, 0x80, 0x80, 0x0F],
            &[0xFF, 0xFF, 0xFF, 0xFF, 0xFF],
        ] {
            for len in 0..2 {
                agrees_with_snap(header, len, &format!("{header:?} alone"));
                let block = [header, &[0, 7]].concat();
                agrees_with_snap(&block, len, &format!("{header:?}"));
            }
        }
    }
}
