//! The defining decoder and encoder: plain Rust, a lane at a time.
#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "windows are taken apart into words and bytes"
)]

use super::encode::{Encoder, last_row};
use super::header::Groups;
use super::table::{Table, WIDE_BITS, Words};
use super::{Fetch, Kernel, LANES, Lanes, MAX_GROUPS, Progress};

pub(super) fn kernel(groups: Groups) -> Kernel {
    match groups {
        Groups::One => decode::<1>,
        Groups::Two => decode::<2>,
        Groups::Four => decode::<4>,
    }
}

/// The byte and the length of the code word at the start of a window, by definition.
#[cold]
fn symbol(table: &Table, window: u32) -> [u8; 2] {
    let cell = (window & 63) as usize;
    let symbol = table.first[cell] | (window >> 6) as u8 & table.mask[cell];
    [table.map[usize::from(symbol)], table.len[cell]]
}

/// A [`Kernel`].
fn decode<const GROUPS: usize>(
    table: &Table,
    lanes: &mut Lanes,
    src: &[u8],
    dst: &mut [u8],
    _fetch: Fetch,
) -> Progress {
    let wide = table.wide();
    let num_lanes = LANES * GROUPS;
    // The window of each lane, its next bit lowest, and how many bits of it there are above 16.
    let mut windows = [0u32; LANES * MAX_GROUPS];
    let mut above = [0i32; LANES * MAX_GROUPS];
    for lane in 0..num_lanes {
        let both = u32::from(lanes.a[lane]) | u32::from(lanes.b[lane]) << 16;
        windows[lane] = both >> (16 - (lanes.n[lane] & 15));
        above[lane] = i32::from(lanes.n[lane] & 15);
    }
    let mut done = Progress::default();
    for row in dst.chunks_exact_mut(2 * num_lanes) {
        let Some(words) = src.get(done.pulled..done.pulled + 4 * num_lanes) else {
            break;
        };
        let words = words.as_chunks::<2>().0;
        let mut word = 0;
        for step in 0..2 {
            let pairs = row.as_chunks_mut::<2>().0;
            for ((pair, window), above) in pairs.iter_mut().zip(&mut windows).zip(&mut above) {
                let [mut byte, mut len] = wide[*window as usize % (1 << WIDE_BITS)].to_le_bytes();
                if len == 0 {
                    [byte, len] = symbol(table, *window);
                }
                pair[step] = byte;
                // All ones if fewer than 16 bits are left.
                let left = *above - i32::from(len);
                let pulls = left >> 31;
                let next = u16::from_le_bytes(words[word % (2 * num_lanes)]);
                *above = left + (16 & pulls);
                *window = *window >> len | (u32::from(next) & pulls.cast_unsigned()) << *above;
                word += (pulls & 1) as usize;
            }
        }
        done.pulled += 2 * word;
        done.rows += 1;
    }
    for lane in 0..num_lanes {
        // Of `a` only its upper n bits count.
        let n = above[lane];
        lanes.n[lane] = n as u16;
        lanes.a[lane] = (windows[lane] << (16 - n)) as u16;
        lanes.b[lane] = (windows[lane] >> n) as u16;
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
