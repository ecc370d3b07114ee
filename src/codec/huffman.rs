//! Huffman: the lengths of canonical codes, then eight streams of codes (format-spec 7.2). The loops are in
//! `kernel::huffman`.

use super::{Codec, CodecId, wrong_piece};
use crate::error::Result;
use crate::kernel::huffman::{self, MAX_BITS, STREAMS};

pub(super) struct Huffman;

impl Codec for Huffman {
    fn id(&self) -> CodecId {
        CodecId::HUFFMAN
    }

    fn name(&self) -> &'static str {
        "huffman"
    }

    fn since_minor(&self) -> u16 {
        1
    }

    fn max_expansion(&self) -> u64 {
        // No code is shorter than one bit.
        8
    }

    fn encode(&self, _level: u8, src: &[u8], dst: &mut Vec<u8>) -> Result<()> {
        if src.is_empty() {
            return Ok(());
        }
        let lens = code_lens(&huffman::counts(src));
        put_lens(&lens, dst);
        let codes = huffman::codes(&lens);
        let sizes = dst.len();
        let behind_sizes = sizes + 4 * (STREAMS - 1);
        dst.resize(behind_sizes, 0);
        for i in 0..STREAMS {
            let start = dst.len();
            huffman::encode(&codes, src, i, dst);
            let size = u32::try_from(dst.len() - start)
                .map_err(|e| super::encoder_failed("huffman", src.len(), e))?;
            if let Some(slot) = dst[sizes..behind_sizes].as_chunks_mut().0.get_mut(i) {
                *slot = size.to_le_bytes();
            }
        }
        Ok(())
    }

    fn decode(&self, src: &[u8], dst: &mut [u8]) -> Result<()> {
        let len = dst.len();
        let wrong = |found| wrong_piece("huffman piece", len, found);
        if src.is_empty() && len == 0 {
            return Ok(());
        }
        if len == 0 {
            return Err(wrong("at least one byte"));
        }
        let (lens, rest) = take_lens(src).ok_or_else(|| wrong("damaged code lengths"))?;
        if !huffman::is_complete(&lens) {
            return Err(wrong("code lengths of no complete code"));
        }
        let streams = take_streams(rest).ok_or_else(|| wrong("streams that are cut off"))?;
        let mut windows = huffman::windows(&huffman::codes(&lens));
        if huffman::decode(&mut windows, &streams, dst) {
            Ok(())
        } else {
            Err(wrong("another number of codes"))
        }
    }
}

/// The streams behind the code lengths: the sizes of all but the last, then the streams.
fn take_streams(src: &[u8]) -> Option<[&[u8]; STREAMS]> {
    let (sizes, mut rest) = src.split_at_checked(4 * (STREAMS - 1))?;
    let mut streams = [&[][..]; STREAMS];
    for (stream, size) in streams.iter_mut().zip(sizes.as_chunks().0) {
        let size = usize::try_from(u32::from_le_bytes(*size)).ok()?;
        (*stream, rest) = rest.split_at_checked(size)?;
    }
    streams[STREAMS - 1] = rest;
    Some(streams)
}

/// A run of at least this many equal lengths is written as one.
const MIN_RUN: usize = 3;
/// Nibbles up to `MAX_BITS` are lengths. This and another n: the length before (0 at the start), n + 3 times.
const SAME: u8 = 12;
/// This and two others, the lower first: length 0, their number + 3 times.
const NONE: u8 = 13;

/// Appends the code lengths: nibbles, the low one of a byte first.
fn put_lens(lens: &[u8; 256], dst: &mut Vec<u8>) {
    let mut nibbles = Vec::with_capacity(256);
    let mut before = 0;
    let mut rest = lens.as_slice();
    while let Some(&len) = rest.first() {
        let run = rest.iter().take_while(|other| **other == len).count();
        let extra = run.wrapping_sub(MIN_RUN);
        let done = match u8::try_from(extra) {
            // At most 256 lengths: `extra` is below 256 or wrapped around.
            Ok(extra) if len == 0 && (extra > 15 || before != 0) => {
                nibbles.extend([NONE, extra & 15, extra >> 4]);
                run
            }
            Ok(extra) if len == before => {
                nibbles.extend([SAME, extra.min(15)]);
                MIN_RUN + usize::from(extra.min(15))
            }
            _ => {
                nibbles.push(len);
                1
            }
        };
        before = len;
        rest = &rest[done..];
    }
    dst.extend(
        nibbles
            .chunks(2)
            .map(|pair| pair[0] | pair.get(1).unwrap_or(&0) << 4),
    );
}

/// Nibbles of bytes, the low one first.
struct Nibbles<'a> {
    src: &'a [u8],
    taken: usize,
}

impl<'a> Nibbles<'a> {
    fn take(&mut self) -> Option<u8> {
        let byte = *self.src.get(self.taken / 2)?;
        self.taken += 1;
        Some(if self.taken % 2 == 1 {
            byte & 15
        } else {
            byte >> 4
        })
    }

    /// The bytes behind; `None` if a nibble is left and not zero.
    fn finish(mut self) -> Option<&'a [u8]> {
        if self.taken % 2 == 1 && self.take()? != 0 {
            return None;
        }
        self.src.get(self.taken / 2..)
    }
}

/// Reads the code lengths; `None` if they are not exactly 256.
fn take_lens(src: &[u8]) -> Option<([u8; 256], &[u8])> {
    let mut nibbles = Nibbles { src, taken: 0 };
    let mut lens = [0; 256];
    let (mut known, mut before) = (0, 0);
    while known < 256 {
        let (len, n) = match nibbles.take()? {
            SAME => (before, MIN_RUN + usize::from(nibbles.take()?)),
            NONE => {
                let low = nibbles.take()?;
                (0, MIN_RUN + usize::from(low | nibbles.take()? << 4))
            }
            len if u32::from(len) <= MAX_BITS => (len, 1),
            _ => return None,
        };
        lens[known..].get_mut(..n)?.fill(len);
        known += n;
        before = len;
    }
    Some((lens, nibbles.finish()?))
}

/// The lengths of the best code of at most `MAX_BITS` bits, by package-merge (Larmore, Hirschberg: A fast algorithm
/// for optimal length-limited Huffman codes, 1990). A single byte gets company: a code needs two.
fn code_lens(counts: &[u64; 256]) -> [u8; 256] {
    let mut leaves: Vec<(u64, u8)> = (0..=255u8)
        .zip(counts)
        .filter(|(_, count)| **count > 0)
        .map(|(byte, count)| (*count, byte))
        .collect();
    leaves.sort_unstable();
    let mut lens = [0; 256];
    if let &[(_, byte)] = leaves.as_slice() {
        lens[usize::from(byte)] = 1;
        lens[usize::from(byte ^ 1)] = 1;
        return lens;
    }
    // Level by level, deepest first: leaves and packages of two items of the level below, by weight. What has to be
    // kept of a level is which items are leaves.
    let mut levels: Vec<Vec<bool>> = Vec::with_capacity(MAX_BITS as usize);
    let mut packages: Vec<u64> = Vec::new();
    for _ in 0..MAX_BITS {
        let (mut weights, mut is_leaf) = (Vec::with_capacity(512), Vec::with_capacity(512));
        let (mut leaf, mut package) = (leaves.iter().peekable(), packages.iter().peekable());
        loop {
            let (weight, from_leaf) = match (leaf.peek(), package.peek()) {
                (Some((weight, _)), Some(package)) if weight > *package => (**package, false),
                (Some((weight, _)), _) => (*weight, true),
                (None, Some(package)) => (**package, false),
                (None, None) => break,
            };
            if from_leaf {
                leaf.next();
            } else {
                package.next();
            }
            weights.push(weight);
            is_leaf.push(from_leaf);
        }
        packages = weights.as_chunks().0.iter().map(|[a, b]| a + b).collect();
        levels.push(is_leaf);
    }
    // The first 2 n - 2 items of the last level, and what their packages are made of. A byte's code is as long as it
    // is there often.
    let mut items = 2 * leaves.len().saturating_sub(1);
    for is_leaf in levels.iter().rev() {
        let taken = is_leaf.iter().take(items).filter(|leaf| **leaf).count();
        for (_, byte) in &leaves[..taken] {
            lens[usize::from(*byte)] += 1;
        }
        items = 2 * (items - taken);
    }
    lens
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encode(src: &[u8]) -> Vec<u8> {
        let mut piece = Vec::new();
        Huffman.encode(0, src, &mut piece).unwrap();
        piece
    }

    fn decode(piece: &[u8], len: usize) -> Result<Vec<u8>> {
        let mut out = vec![0xA5; len];
        Huffman.decode(piece, &mut out)?;
        Ok(out)
    }

    /// `n` bytes, `counts[i]` of every sum of counts being `i`, mixed.
    fn histogram(counts: &[usize], n: usize) -> Vec<u8> {
        let total: usize = counts.iter().sum();
        (0..n)
            .map(|i| {
                // A stride without common divisors, so that a whole round meets every place once.
                let mut place = i.wrapping_mul(7_368_787) % total;
                let mut byte = 0;
                while place >= counts[byte] {
                    place -= counts[byte];
                    byte += 1;
                }
                u8::try_from(byte).unwrap()
            })
            .collect()
    }

    #[test]
    fn hostile_histograms_round_trip() -> Result<()> {
        let mut fibonacci = vec![1usize, 1];
        while fibonacci.len() < 30 {
            fibonacci.push(fibonacci[fibonacci.len() - 1] + fibonacci[fibonacci.len() - 2]);
        }
        let mut skewed = vec![1; 256];
        skewed[77] = 100_000;
        for counts in [
            vec![1],
            vec![1, 1],
            vec![1, 1000],
            vec![0, 0, 5],
            vec![1; 3],
            vec![1; 255],
            vec![1; 256],
            fibonacci,
            skewed,
        ] {
            for n in (0..=200).chain([2000, 61_440, 65_537]) {
                let src = histogram(&counts, n);
                let piece = encode(&src);
                assert_eq!(decode(&piece, n)?, src, "{counts:?}, {n}");
                assert!(n as u64 <= Huffman.max_expansion() * piece.len() as u64);
            }
        }
        Ok(())
    }

    #[test]
    fn codes_are_complete_short_and_the_best() {
        for shift in 0..20 {
            let counts: [u64; 256] = std::array::from_fn(|i| {
                let i = i as u64;
                ((i * i * 2_654_435_761) >> 7) % 1000 / (1 << (i % 20).min(shift))
            });
            let lens = code_lens(&counts);
            assert!(huffman::is_complete(&lens));
            assert!(
                counts
                    .iter()
                    .zip(&lens)
                    .all(|(n, len)| (*n > 0) == (*len > 0))
            );
        }
        // 1, 1, 2, 4, ..: without a limit, the code of 13 bytes has 12 bits.
        let doubling: [u64; 256] =
            std::array::from_fn(|i| if i < 13 { 1 << i.saturating_sub(1) } else { 0 });
        let lens = code_lens(&doubling);
        assert!(huffman::is_complete(&lens));
        assert_eq!(lens[..13], [11, 11, 11, 11, 9, 8, 7, 6, 5, 4, 3, 2, 1]);
        // With one byte less the limit is not met, and the code is Huffman's.
        let lens = code_lens(&std::array::from_fn(
            |i| if i < 12 { doubling[i] } else { 0 },
        ));
        assert_eq!(lens[..12], [11, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1]);
    }

    #[test]
    fn code_lengths_round_trip_and_are_checked() {
        let mut random = 1u32;
        for round in 0..500 {
            let lens: [u8; 256] = std::array::from_fn(|i| {
                random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let run = i / (1 + round % 40);
                match round % 3 {
                    0 => u8::try_from(random >> 24).unwrap() % 12,
                    1 => u8::try_from(run * 5 % 12).unwrap(),
                    _ => u8::from(run % 7 == 3) * 4,
                }
            });
            let mut bytes = Vec::new();
            put_lens(&lens, &mut bytes);
            assert!(bytes.len() <= 128);
            bytes.push(0xEE);
            assert_eq!(take_lens(&bytes), Some((lens, &[0xEE][..])));
            for cut in 0..bytes.len() - 1 {
                assert_eq!(take_lens(&bytes[..cut]), None);
            }
        }
        // 256 bytes without a code are lengths, if of no code.
        assert_eq!(take_lens(&[0xDD, 0x0F]), Some(([0; 256], &[][..])));
        // A nibble left that is not zero; 258 lengths; nibbles without a meaning.
        for wrong in [&[0xDD, 0x1F][..], &[0xFD, 0x0F], &[0x0E; 200], &[0xF0; 200]] {
            assert_eq!(take_lens(wrong), None);
        }
    }

    #[test]
    fn incomplete_and_overfull_codes_are_corrupt() -> Result<()> {
        let src = histogram(&[5, 3, 2, 1, 1], 3000);
        let piece = encode(&src);
        let (lens, rest) = take_lens(&piece).unwrap();
        for (byte, len) in [
            (0, 0),
            (0, lens[0] + 1),
            (4, lens[4] - 1),
            (9, 5),
            (200, 11),
        ] {
            let mut wrong = lens;
            wrong[byte] = len;
            let mut bytes = Vec::new();
            put_lens(&wrong, &mut bytes);
            bytes.extend_from_slice(rest);
            assert!(decode(&bytes, 3000).unwrap_err().is_corrupt());
        }
        assert_eq!(decode(&piece, 3000)?, src);
        Ok(())
    }

    #[test]
    fn the_example_of_the_specification() -> Result<()> {
        let piece = encode(b"abracadabra abracadabra");
        let hex: Vec<String> = piece.iter().map(|byte| format!("{byte:02X}")).collect();
        let hex = hex.join(" ");
        let spec = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/format-spec.md"));
        assert!(spec.is_ok_and(|spec| spec.contains(&hex)), "{hex}");
        assert_eq!(decode(&piece, 23)?, b"abracadabra abracadabra");
        Ok(())
    }
}
