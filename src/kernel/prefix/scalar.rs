//! The defining decoder and encoder: plain Rust. The decoder looks eight lanes up at a time; [`symbol`] is the definition.
#![expect(
    clippy::cast_possible_truncation,
    reason = "windows are taken apart into words and bytes"
)]

use super::encode::{Encoder, last_row};
use super::header::Groups;
use super::table::{Table, WIDE_BITS, Wide, Words};
use super::{Fetch, Kernel, LANES, Lanes, MAX_GROUPS, Progress};

pub(super) fn kernel(groups: Groups) -> Kernel {
    match groups {
        Groups::One => decode::<1, 4>,
        Groups::Two => decode::<2, 8>,
        Groups::Four => decode::<4, 8>,
    }
}

/// The length and the byte of the code word at the start of a window, by definition.
fn symbol(table: &Table, window: u32) -> [u8; 2] {
    let cell = (window & 63) as usize;
    let symbol = table.first[cell] | (window >> 6) as u8 & table.mask[cell];
    [table.len[cell], table.map[usize::from(symbol)]]
}

/// Lanes that are looked up together: what is found for each is a byte of a word.
const TOGETHER: usize = 8;
/// The lowest bit of each byte of a word.
const ONES: u64 = 0x0101_0101_0101_0101;

/// Decodes a byte of each lane. `above` is how many bits of a window there are above 16. Returns which lanes need a word,
/// as bits: their `above` is what it is with the word.
#[inline(always)]
fn look_up<const WORDS: usize>(
    table: &Table,
    wide: &Wide,
    windows: &mut [[u32; TOGETHER]; WORDS],
    above: &mut [[u8; TOGETHER]; WORDS],
    bytes: &mut [[u8; TOGETHER]; WORDS],
) -> u64 {
    const HIGHEST: u64 = ONES << 7;
    const EVEN: u64 = 0x00FF_00FF_00FF_00FF;
    let mut pulls = 0;
    for ((windows, above), bytes) in windows.iter_mut().zip(above).zip(bytes) {
        // The lengths and bytes of lanes of even and of odd numbers.
        let mut found = [0; 2];
        for (lane, window) in windows.iter_mut().enumerate() {
            let entry = wide[*window as usize % (1 << WIDE_BITS)];
            *window >>= entry & 31;
            found[lane % 2] |= u64::from(entry) << (16 * (lane / 2));
        }
        let [even, odd] = found;
        let mut lens = even & EVEN | (odd & EVEN) << 8;
        *bytes = (even >> 8 & EVEN | odd & !EVEN).to_le_bytes();
        // No length is above 14, so no byte carries into the next one: neither here nor below.
        if (lens + (HIGHEST - ONES)) & HIGHEST != HIGHEST {
            lens = look_up_long(table, windows, bytes, lens);
        }
        // The highest bit goes where fewer than 16 bits are left. As the next lower ones then count from 112, the low
        // four are right for 16 more.
        let left = (u64::from_le_bytes(*above) | HIGHEST) - lens;
        *above = (left & (15 * ONES)).to_le_bytes();
        // The product has the highest bits of all bytes in its highest byte, in their order.
        let lost = (!left & HIGHEST).wrapping_mul(0x0002_0408_1020_4081) >> 56;
        pulls = pulls >> 8 | lost << 56;
    }
    pulls >> (64 - TOGETHER * WORDS)
}

/// Looks up the lanes whose code words are too long for [`Table::wide`]: their lengths are still 0.
#[cold]
fn look_up_long(
    table: &Table,
    windows: &mut [u32; TOGETHER],
    bytes: &mut [u8; TOGETHER],
    lens: u64,
) -> u64 {
    let mut lens = lens.to_le_bytes();
    for ((window, byte), len) in windows.iter_mut().zip(bytes).zip(&mut lens) {
        if *len == 0 {
            [*len, *byte] = symbol(table, *window);
            *window >>= *len;
        }
    }
    u64::from_le_bytes(lens)
}

/// A [`Kernel`]. Of `TOGETHER * WORDS` lanes all are looked up before those pull, one by one, that need a word: few
/// do, but which ones cannot be guessed.
fn decode<const GROUPS: usize, const WORDS: usize>(
    table: &Table,
    lanes: &mut Lanes,
    src: &[u8],
    dst: &mut [u8],
    _fetch: Fetch,
) -> Progress {
    let wide = table.wide();
    let num_lanes = LANES * GROUPS;
    // The window of each lane, its next bit lowest, and how many bits of it there are above 16.
    let mut windows = [[0u32; TOGETHER]; LANES * MAX_GROUPS / TOGETHER];
    let mut above = [[0u8; TOGETHER]; LANES * MAX_GROUPS / TOGETHER];
    for lane in 0..num_lanes {
        let n = lanes.n[lane] & 15;
        let both = u32::from(lanes.a[lane]) | u32::from(lanes.b[lane]) << 16;
        windows.as_flattened_mut()[lane] = both >> (16 - n);
        above.as_flattened_mut()[lane] = n as u8;
    }
    let mut steps = [[[0; TOGETHER]; LANES * MAX_GROUPS / TOGETHER]; 2];
    let mut done = Progress::default();
    for row in dst.chunks_exact_mut(2 * num_lanes) {
        let Some(words) = src.get(done.pulled..done.pulled + 4 * num_lanes) else {
            break;
        };
        let words = words.as_chunks::<2>().0;
        let mut word = 0;
        for step in &mut steps {
            let windows = windows[..num_lanes / TOGETHER].as_chunks_mut::<WORDS>().0;
            let above = above.as_chunks_mut::<WORDS>().0;
            let bytes = step.as_chunks_mut::<WORDS>().0;
            for ((windows, above), bytes) in windows.iter_mut().zip(above).zip(bytes) {
                let mut pulls = look_up(table, wide, windows, above, bytes);
                while pulls != 0 {
                    let lane = pulls.trailing_zeros() as usize % (TOGETHER * WORDS);
                    pulls &= pulls - 1;
                    let next = u16::from_le_bytes(words[word % (2 * num_lanes)]);
                    word += 1;
                    let n = above.as_flattened()[lane] & 15;
                    windows.as_flattened_mut()[lane] |= u32::from(next) << n;
                }
            }
        }
        let [first, second] = &steps;
        let both = first.as_flattened().iter().zip(second.as_flattened());
        for (pair, (first, second)) in row.as_chunks_mut::<2>().0.iter_mut().zip(both) {
            *pair = [*first, *second];
        }
        done.pulled += 2 * word;
        done.rows += 1;
    }
    for lane in 0..num_lanes {
        // Of `a` only its upper n bits count.
        let (window, n) = (
            windows.as_flattened()[lane],
            above.as_flattened()[lane] & 15,
        );
        lanes.n[lane] = u16::from(n);
        lanes.a[lane] = (window << (16 - n)) as u16;
        lanes.b[lane] = (window >> n) as u16;
    }
    done
}

pub(super) fn encoder(groups: Groups) -> Encoder {
    match groups {
        Groups::One => encode::<1>,
        Groups::Two => encode::<2>,
        Groups::Four => encode::<4>,
    }
}

/// An [`Encoder`]: the decoder backwards. Each lane returns to its state before a symbol, which it puts into the window,
/// and gives back the word that it pulled after it.
fn encode<const GROUPS: usize>(words: &Words, src: &[u8], out: &mut [u8]) -> usize {
    let num_lanes = LANES * GROUPS;
    let row = 2 * num_lanes;
    let codes: [u32; 256] = std::array::from_fn(|byte| {
        u32::from_le_bytes([words.low[byte], words.high[byte], words.len[byte], 0])
    });
    let last = last_row(words, src, row);
    // Rows from the last to the first.
    let rows = std::iter::once(&last[..row]).chain(src.chunks_exact(row).rev());
    let rows = rows.skip(usize::from(src.len().is_multiple_of(row)));

    // What is left of the last word that each lane needs.
    let mut n = [0u32; LANES * MAX_GROUPS];
    for row in rows.clone() {
        for (n, pair) in n.iter_mut().zip(row.as_chunks::<2>().0) {
            *n += u32::from(words.len[usize::from(pair[0])]);
            *n += u32::from(words.len[usize::from(pair[1])]);
        }
    }
    for n in &mut n {
        *n = n.wrapping_neg() & 15;
    }
    // `a | b << 16`
    let mut windows = [0u32; LANES * MAX_GROUPS];
    let mut at = out.len();
    for row in rows {
        for step in [1, 0] {
            let pairs = row.as_chunks::<2>().0.iter();
            for ((pair, window), n) in pairs.zip(&mut windows).zip(&mut n).rev() {
                let [low, high, len, _] = codes[usize::from(pair[step])].to_le_bytes();
                let before = *n + u32::from(len);
                // 1 if the lane pulled: no branch, it would be often guessed wrong. A word that is not given
                // back is written over.
                let pulled = before >> 4;
                out[at - 2..at].copy_from_slice(&((*window >> 16) as u16).to_le_bytes());
                at -= 2 * pulled as usize;
                *window <<= 16 * pulled;
                *n = before & 15;
                *window |= u32::from(u16::from_le_bytes([low, high])) << (16 - *n);
            }
        }
    }
    for window in windows[..num_lanes].iter().rev() {
        at -= 2;
        out[at..at + 2].copy_from_slice(&((window >> 16) as u16).to_le_bytes());
    }
    at
}
