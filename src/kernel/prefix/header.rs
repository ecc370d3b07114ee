//! The header of a stream (format-spec 7.1): everything before its words.

use super::table::{Code, Table};
use super::{Damage, MAX_LEN};

/// Mode of the bytes as they are.
const RAW: u8 = 3;

/// What byte each symbol stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Map {
    /// Its own number.
    Natural,
    /// 0, -1, 1, -2, 2, ...: small differences of either sign become neighbours.
    Zigzag,
    /// Symbol i is the i-th byte of this list; after it come the bytes that are not in it, ascending.
    Listed(Vec<u8>),
}

const NATURAL: [u8; 256] = {
    let mut map = [0; 256];
    let mut symbol = 0u8;
    while symbol < 255 {
        symbol += 1;
        map[symbol as usize] = symbol;
    }
    map
};

const ZIGZAG: [u8; 256] = {
    let mut map = NATURAL;
    let mut i = 0;
    while i < 256 {
        map[i] = (map[i] >> 1) ^ (map[i] & 1).wrapping_neg();
        i += 1;
    }
    map
};

impl Map {
    pub(super) fn bytes(&self) -> [u8; 256] {
        match self {
            Self::Natural => NATURAL,
            Self::Zigzag => ZIGZAG,
            Self::Listed(listed) => {
                let mut map = NATURAL;
                let mut is_listed = [false; 256];
                listed
                    .iter()
                    .for_each(|byte| is_listed[usize::from(*byte)] = true);
                let others = (0..=255u8).filter(|byte| !is_listed[usize::from(*byte)]);
                map.iter_mut()
                    .zip(listed.iter().copied().chain(others))
                    .for_each(|(to, byte)| *to = byte);
                map
            }
        }
    }

    /// Counts of symbols from counts of bytes.
    pub(super) fn symbols(&self, counts: &[u32; 256]) -> [u32; 256] {
        self.bytes().map(|byte| counts[usize::from(byte)])
    }

    fn mode(&self) -> u8 {
        match self {
            Self::Natural => 0,
            Self::Zigzag => 1,
            Self::Listed(_) => 2,
        }
    }
}

/// Groups of 32 lanes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Groups {
    One,
    Two,
    Four,
}

impl Groups {
    pub(super) fn get(self) -> usize {
        match self {
            Self::One => 1,
            Self::Two => 2,
            Self::Four => 4,
        }
    }

    fn from_log2(log2: u8) -> Option<Self> {
        [Self::One, Self::Two, Self::Four]
            .get(usize::from(log2))
            .copied()
    }

    fn log2(self) -> u8 {
        match self {
            Self::One => 0,
            Self::Two => 1,
            Self::Four => 2,
        }
    }
}

/// A stream taken apart.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "lives on the stack for the time of one piece"
)]
pub(super) enum Stream<'a> {
    /// The bytes as they are.
    Raw(&'a [u8]),
    Coded {
        mode: u8,
        groups: Groups,
        table: Table,
        /// Little-endian u16s.
        words: &'a [u8],
    },
}

/// Appends the header of a stream whose bytes follow as they are.
pub(super) fn emit_raw(out: &mut Vec<u8>) {
    out.push(RAW);
}

/// Appends everything before the words.
pub(super) fn emit(
    map: &Map,
    groups: Groups,
    len: usize,
    num_words: usize,
    code: &Code,
    out: &mut Vec<u8>,
) {
    out.push(map.mode() | groups.log2() << 4);
    put_varint(len, out);
    put_varint(num_words, out);
    if let Map::Listed(listed) = map {
        #[expect(clippy::cast_possible_truncation, reason = "1 to 256 bytes are listed")]
        out.push((listed.len() - 1) as u8);
        out.extend_from_slice(listed);
    }
    code.emit(out);
}

/// Takes a stream of `len` bytes apart.
pub(super) fn parse(src: &[u8], len: usize) -> Result<Stream<'_>, Damage> {
    let (&first, mut rest) = src.split_first().ok_or(Damage("no bytes"))?;
    if first == RAW {
        return if rest.len() == len {
            Ok(Stream::Raw(rest))
        } else {
            Err(Damage("raw bytes of another number"))
        };
    }
    let mode = first & 15;
    let groups = Groups::from_log2(first >> 4).ok_or(Damage("an unknown number of groups"))?;
    if take_varint(&mut rest)? != len || len == 0 || len > MAX_LEN {
        return Err(Damage("another length"));
    }
    let num_words = take_varint(&mut rest)?;
    let map = match mode {
        0 => Map::Natural,
        1 => Map::Zigzag,
        2 => Map::Listed(take_listed(&mut rest)?),
        _ => return Err(Damage("an unknown mode")),
    };
    let (code, taken) = Code::parse(rest)?;
    let words = &rest[taken..];
    if words.len() != 2 * num_words {
        return Err(Damage("another number of words than stated"));
    }
    if let [.., 0, 0] = words {
        return Err(Damage("a last word that is zero"));
    }
    Ok(Stream::Coded {
        mode,
        groups,
        table: code.table(&map),
        words,
    })
}

fn take_listed(src: &mut &[u8]) -> Result<Vec<u8>, Damage> {
    let ends_early = Damage("a list of bytes that ends early");
    let (&last, rest) = src.split_first().ok_or(ends_early)?;
    let (listed, rest) = rest
        .split_at_checked(usize::from(last) + 1)
        .ok_or(ends_early)?;
    *src = rest;
    let mut seen = [false; 256];
    for &byte in listed {
        if std::mem::replace(&mut seen[usize::from(byte)], true) {
            return Err(Damage("a byte that is listed twice"));
        }
    }
    Ok(listed.to_vec())
}

/// Seven bits a byte, lowest first; the highest bit of each but the last is set.
#[expect(clippy::cast_possible_truncation, reason = "at most 127")]
fn put_varint(mut value: usize, out: &mut Vec<u8>) {
    while value > 127 {
        out.push(0x80 | (value & 127) as u8);
        value >>= 7;
    }
    out.push(value as u8);
}

/// At most four bytes, and no more than needed.
fn take_varint(src: &mut &[u8]) -> Result<usize, Damage> {
    let mut value = 0;
    for shift in [0, 7, 14, 21] {
        let (&byte, rest) = src
            .split_first()
            .ok_or(Damage("a number that ends early"))?;
        *src = rest;
        value |= usize::from(byte & 127) << shift;
        if byte < 128 {
            return if byte == 0 && shift > 0 {
                Err(Damage("a number longer than needed"))
            } else {
                Ok(value)
            };
        }
    }
    Err(Damage("a number of more than 28 bits"))
}
