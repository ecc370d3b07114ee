//! The loops of the codec `huffman` (format-spec 7.2): canonical codes of at most eleven bits, several streams.
//!
//! One stream is a chain: the length of a code is known when its table entry has arrived, and only then can the next
//! be looked up. Several streams are several chains, which a processor follows at the same time. Safe and portable
//! code, the same at every level of vector instructions: what is checked, is checked once for five codes.

use std::cell::Cell;

/// The longest code.
pub(crate) const MAX_BITS: u32 = 11;
/// Streams of a piece.
pub(crate) const STREAMS: usize = 8;

const WINDOWS: usize = 1 << MAX_BITS;

/// Codes decoded with one load of eight bytes: 5 * 11 bits and the 7 before them are 62.
const BURST: usize = 5;

/// For every byte the code (its first bit lowest) and, from bit `MAX_BITS` on, its length.
pub(crate) type Codes = [u16; 256];

/// For every window of `MAX_BITS` bits the byte whose code is at its beginning, and, from bit 8 on, the code's length.
pub(crate) type Windows = [u16; WINDOWS];

/// True if codes of these lengths (0: none) exist and use every window.
pub(crate) fn is_complete(lens: &[u8; 256]) -> bool {
    let used: Option<usize> = lens
        .iter()
        .filter(|len| **len > 0)
        .map(|len| Some(1usize << MAX_BITS.checked_sub(u32::from(*len))?))
        .sum();
    used == Some(WINDOWS)
}

/// The canonical codes of complete lengths: in the order of (length, byte), each is the one before plus one, continued
/// with zeros where it is longer.
pub(crate) fn codes(lens: &[u8; 256]) -> Codes {
    let mut counts = [0u16; 16];
    for len in lens {
        counts[usize::from(len & 15)] += 1;
    }
    counts[0] = 0;
    // The next code of each length.
    let mut next = [0u16; 16];
    for len in 1..=MAX_BITS as usize {
        next[len] = (next[len - 1] + counts[len - 1]) << 1;
    }
    let mut codes = [0; 256];
    for (code, &len) in codes.iter_mut().zip(lens).filter(|pair| *pair.1 > 0) {
        let next = &mut next[usize::from(len & 15)];
        *code = next.reverse_bits() >> (16 - len) | u16::from(len) << MAX_BITS;
        *next += 1;
    }
    codes
}

/// The table that decodes `codes`.
pub(crate) fn windows(codes: &Codes) -> Windows {
    let mut windows = [0; WINDOWS];
    for (byte, code) in (0..=255u8).zip(codes) {
        let (len, code) = (code >> MAX_BITS, usize::from(code & ((1 << MAX_BITS) - 1)));
        if len > 0 {
            for window in windows[code..].iter_mut().step_by(1 << len) {
                *window = len << 8 | u16::from(byte);
            }
        }
    }
    windows
}

/// How often each byte is there.
pub(crate) fn counts(src: &[u8]) -> [u64; 256] {
    // Runs of a byte would wait for their own count.
    let mut lanes = [[0u32; 256]; 4];
    let (groups, rest) = src.as_chunks::<4>();
    for group in groups {
        for (lane, &byte) in lanes.iter_mut().zip(group) {
            lane[usize::from(byte)] += 1;
        }
    }
    let mut counts: [u64; 256] =
        std::array::from_fn(|i| lanes.iter().map(|lane| u64::from(lane[i])).sum());
    for &byte in rest {
        counts[usize::from(byte)] += 1;
    }
    counts
}

/// Bits on their way to a buffer that is long enough.
struct BitWriter<'a> {
    out: &'a mut [u8],
    /// Bytes that are full.
    at: usize,
    /// The next bits, lowest first.
    word: u64,
    bits: u32,
}

impl BitWriter<'_> {
    /// Adds a code. At most [`BURST`] may be added between two flushes.
    #[inline(always)]
    fn add(&mut self, code: u16) {
        self.word |= u64::from(code & ((1 << MAX_BITS) - 1)) << self.bits;
        self.bits += u32::from(code >> MAX_BITS);
    }

    #[inline(always)]
    fn flush(&mut self) {
        if let Some(out) = self
            .out
            .get_mut(self.at..)
            .and_then(<[u8]>::first_chunk_mut)
        {
            *out = self.word.to_le_bytes();
        }
        self.at += (self.bits / 8) as usize;
        self.word >>= self.bits & !7;
        self.bits &= 7;
    }
}

/// Appends one stream: the codes of every byte of `src` whose position is `stream` modulo [`STREAMS`], a bit 1,
/// bits 0 to the end of the byte.
pub(crate) fn encode(codes: &Codes, src: &[u8], stream: usize, dst: &mut Vec<u8>) {
    let start = dst.len();
    let (rows, last_row) = src.as_chunks::<STREAMS>();
    // The longest codes, the bit 1, and what the last store of eight bytes writes too much.
    dst.resize(
        start + (rows.len() + 1).div_ceil(8) * MAX_BITS as usize + 16,
        0,
    );
    let mut writer = BitWriter {
        out: &mut dst[start..],
        at: 0,
        word: 0,
        bits: 0,
    };
    let (bursts, rest) = rows.as_chunks::<BURST>();
    for burst in bursts {
        for row in burst {
            writer.add(codes[usize::from(row[stream % STREAMS])]);
        }
        writer.flush();
    }
    for byte in rest
        .iter()
        .map(|row| row[stream % STREAMS])
        .chain(last_row.get(stream).copied())
    {
        writer.add(codes[usize::from(byte)]);
        writer.flush();
    }
    writer.word |= 1 << writer.bits;
    writer.flush();
    let len = writer.at + 1;
    dst.truncate(start + len);
}

/// The eight bytes at a bit of a stream, if they are all there, from that bit on.
#[inline(always)]
fn word_at(stream: &[u8], bit: usize) -> Option<u64> {
    let bytes = stream.get(bit / 8..)?.first_chunk()?;
    Some(u64::from_le_bytes(*bytes) >> (bit % 8))
}

/// Decodes the codes of one stream, one by one, from bit `bit` on. False if it does not end there.
#[inline(always)]
fn decode_rest<'a>(
    windows: &Windows,
    stream: &[u8],
    mut bit: usize,
    out: impl Iterator<Item = &'a mut u8>,
) -> bool {
    for out in out {
        let mut bytes = [0; 4];
        let rest = stream.get(bit / 8..).unwrap_or_default();
        let n = rest.len().min(4);
        bytes[..n].copy_from_slice(&rest[..n]);
        let window = u32::from_le_bytes(bytes) >> (bit % 8);
        let entry = windows[window as usize % WINDOWS];
        *out = entry.to_le_bytes()[0];
        bit += usize::from(entry >> 8);
    }
    // Behind the codes is a bit 1, and it is the highest of the last byte.
    stream
        .last()
        .and_then(|last| last.checked_ilog2())
        .is_some_and(|high| 8 * (stream.len() - 1) + high as usize == bit)
}

/// Decodes the streams to exactly `dst`. False if one has more or fewer codes than that.
pub(crate) fn decode(windows: &mut Windows, streams: &[&[u8]; STREAMS], dst: &mut [u8]) -> bool {
    let table = Cell::from_mut(windows.as_mut_slice()).as_slice_of_cells();
    let out = Cell::from_mut(&mut *dst).as_slice_of_cells();
    let (done, bits) = match table.first_chunk() {
        Some(table) => decode_bursts(table, streams, out),
        None => (0, [0; STREAMS]),
    };
    let mut exact = true;
    for (i, (stream, bit)) in streams.iter().zip(bits).enumerate() {
        let out = dst[done..].iter_mut().skip(i).step_by(STREAMS);
        exact &= decode_rest(windows, stream, bit, out);
    }
    exact
}

/// Decodes bursts of every stream, while there are eight bytes of each. Returns how much of the output is filled, and
/// the position in each stream.
///
/// Cells, and a function of its own, not compiled for vectors: knowing that the output is not the table, the compiler
/// looks up several rows before it stores one, and runs out of registers; with vectors it gathers the words in them,
/// only to take them apart again. Either costs up to half of the speed.
#[expect(
    clippy::cast_possible_truncation,
    reason = "only the lowest bits of a word are looked at"
)]
#[inline(never)]
fn decode_bursts(
    table: &[Cell<u16>; WINDOWS],
    streams: &[&[u8]; STREAMS],
    out: &[Cell<u8>],
) -> (usize, [usize; STREAMS]) {
    let mut bits = [0usize; STREAMS];
    let mut done = 0;
    for burst in out.as_chunks::<{ BURST * STREAMS }>().0 {
        let mut words = [0u64; STREAMS];
        for ((word, stream), bit) in words.iter_mut().zip(streams).zip(&bits) {
            let Some(next) = word_at(stream, *bit) else {
                return (done, bits);
            };
            // The highest bit is never part of a code here; it counts how far the word is shifted.
            *word = next | 1 << 63;
        }
        for row in burst.as_chunks::<STREAMS>().0 {
            for (out, word) in row.iter().zip(&mut words) {
                let entry = table[*word as usize % WINDOWS].get();
                out.set(entry.to_le_bytes()[0]);
                *word >>= entry >> 8;
            }
        }
        for (bit, word) in bits.iter_mut().zip(words) {
            *bit += word.leading_zeros() as usize;
        }
        done += burst.len();
    }
    (done, bits)
}
