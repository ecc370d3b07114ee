//! Encoding: histogram, choice of the table, words.

use super::header::{self, Groups, Map};
use super::table::{Code, Words};
use super::{LANES, Level, MAX_LEN, ROW, level, scalar};
#[cfg(target_arch = "x86_64")]
use super::{avx2, avx512};

/// Writes the words of `src` at the end of `out` and returns where they start. `out` must have the room that
/// [`words_bound`] tells. Every byte of `src` has a code word.
pub(super) type Encoder = fn(&Words, &[u8], &mut [u8]) -> usize;

/// Appends a stream that decodes to `src`. It is longer than `src` where the code would not save a twentieth.
pub(crate) fn encode(src: &[u8], out: &mut Vec<u8>) {
    match Plan::choose(src) {
        Some(plan) if plan.is_worth_it(src.len()) => plan.encode(src, out),
        _ => {
            header::emit_raw(out);
            out.extend_from_slice(src);
        }
    }
}

/// Appends a stream of so many groups, whether it is worth it or not; false if there is none.
#[cfg(test)]
pub(super) fn encode_with(groups: Groups, src: &[u8], out: &mut Vec<u8>) -> bool {
    let plan = Plan::choose(src).map(|plan| Plan { groups, ..plan });
    plan.as_ref()
        .inspect(|plan| plan.encode(src, out))
        .is_some()
}

/// How to encode one piece.
struct Plan {
    map: Map,
    code: Code,
    groups: Groups,
    /// Bits of all code words.
    cost: u64,
}

impl Plan {
    /// The shortest code. None for lengths that no stream has.
    fn choose(src: &[u8]) -> Option<Self> {
        if src.is_empty() || src.len() > MAX_LEN {
            return None;
        }
        let counts = histogram(src);
        let natural = Code::quick(&counts).unwrap_or_else(|| Code::greedy(&counts));
        let mut best = Self {
            cost: natural.cost(&counts),
            map: Map::Natural,
            code: natural,
            groups: groups_for(src.len()),
        };
        let zigzag = Map::Zigzag.symbols(&counts);
        if let Some(code) = Code::quick(&zigzag) {
            best.improve(Map::Zigzag, code, &zigzag, 0);
        }
        // The list costs bytes, and the decoder some time.
        let num_listed = counts.iter().filter(|count| **count > 0).count();
        let price = 8 * (num_listed as u64 + 1) + best.cost / 64;
        if best.cost > lower_bound(&counts, src.len()) + price {
            let listed = by_count(&counts);
            let symbols = listed.symbols(&counts);
            best.improve(listed, Code::greedy(&symbols), &symbols, price);
        } else {
            let symbols = best.map.symbols(&counts);
            best.improve(best.map.clone(), Code::greedy(&symbols), &symbols, 0);
        }
        Some(best)
    }

    /// Takes another code, for these counts of symbols, if it saves more than `price` bits.
    fn improve(&mut self, map: Map, code: Code, symbols: &[u32; 256], price: u64) {
        let cost = code.cost(symbols);
        if cost + price < self.cost {
            (self.map, self.code, self.cost) = (map, code, cost);
        }
    }

    /// False for pieces that are better left as they are.
    fn is_worth_it(&self, len: usize) -> bool {
        if self.cost == 0 {
            return len > 20;
        }
        // What lanes hold at the end and do not need is about 2 bytes each, a table about 40 bytes.
        let overhead = 2 * LANES * self.groups.get() + 40;
        self.cost / 8 + (overhead as u64) < (len - len / 20) as u64
    }

    fn encode(&self, src: &[u8], out: &mut Vec<u8>) {
        /// A list of bytes and a table, and little else.
        const MAX_HEADER: usize = 512;
        let table = self.code.table(&self.map);
        if table.only_byte().is_some() {
            header::emit(&self.map, self.groups, src.len(), 0, &self.code, out);
            return;
        }
        let words = table.words();
        let row = 2 * LANES * self.groups.get();
        // The words come at the end of the buffer, backwards, and then move to the header.
        let begin = out.len();
        let end = begin + MAX_HEADER + words_bound(self.cost, row);
        out.resize(end, 0);
        let room = &mut out[begin + MAX_HEADER..];
        let start = begin + MAX_HEADER + encoder(self.groups)(&words, src, room);
        let mut num_words = (end - start) / 2;
        while num_words > 0 && out[start + 2 * num_words - 2..start + 2 * num_words] == [0, 0] {
            num_words -= 1;
        }
        let mut header = Vec::with_capacity(MAX_HEADER);
        header::emit(
            &self.map,
            self.groups,
            src.len(),
            num_words,
            &self.code,
            &mut header,
        );
        let after = begin + header.len();
        out[begin..after].copy_from_slice(&header);
        out.copy_within(start..start + 2 * num_words, after);
        out.truncate(after + 2 * num_words);
    }
}

/// The entropy in bits, as a whole and rounded down: no code that gives each byte a word of its own takes fewer.
fn lower_bound(counts: &[u32; 256], len: usize) -> u64 {
    let log2 = (len as f32).log2();
    let bits: f32 = counts
        .iter()
        .filter(|count| **count > 0)
        .map(|count| *count as f32 * (log2 - (*count as f32).log2()))
        .sum();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between 0 and 8 bits a byte"
    )]
    let bits = (0.999 * bits) as u64;
    bits
}

/// Few lanes for short pieces: each costs about 2 bytes.
pub(super) fn groups_for(len: usize) -> Groups {
    match len {
        0..8192 => Groups::One,
        8192..32768 => Groups::Two,
        _ => Groups::Four,
    }
}

pub(super) fn encoder(groups: Groups) -> Encoder {
    match level() {
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => avx512::encoder(groups),
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => avx2::encoder(groups),
        _ => scalar::encoder(groups),
    }
}

/// An upper bound of the bytes of all words, with room for one more row.
fn words_bound(cost: u64, row: usize) -> usize {
    /// The longest code word, in bits.
    const MAX_BITS: usize = 14;
    // Bits of the code words, those of the padding of the last row, and for each lane (half a byte of a row) up to two
    // words that are not full.
    let padding = row * MAX_BITS / 8;
    let unused = row / 2 * 4;
    usize::try_from(cost / 8).unwrap_or(usize::MAX / 2) + padding + unused + 2 * ROW
}

/// The bytes after the last whole row, padded by a byte that exists.
pub(super) fn last_row(words: &Words, src: &[u8], row: usize) -> [u8; ROW] {
    let mut last = [words.shortest(); ROW];
    let rest = &src[src.len() - src.len() % row..];
    last[..rest.len()].copy_from_slice(rest);
    last
}

/// Counts bytes in several tables: equal bytes in a row would wait for each other.
fn histogram(src: &[u8]) -> [u32; 256] {
    let mut tables = [[0u32; 256]; 8];
    let (eights, rest) = src.as_chunks::<8>();
    for eight in eights {
        let mut bytes = u64::from_le_bytes(*eight);
        for table in &mut tables {
            table[(bytes & 255) as usize] += 1;
            bytes >>= 8;
        }
    }
    for byte in rest {
        tables[0][usize::from(*byte)] += 1;
    }
    std::array::from_fn(|byte| tables.iter().map(|table| table[byte]).sum())
}

/// The bytes that occur, by descending count.
fn by_count(counts: &[u32; 256]) -> Map {
    let mut listed: Vec<u8> = (0..=255u8)
        .filter(|byte| counts[usize::from(*byte)] > 0)
        .collect();
    listed.sort_by_key(|byte| std::cmp::Reverse(counts[usize::from(*byte)]));
    Map::Listed(listed)
}
