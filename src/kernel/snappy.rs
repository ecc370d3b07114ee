//! Decoding the elements of a raw Snappy block.
//!
//! The format is sequential: where an element starts is known only when the one before it has been looked at. A loop
//! over tags therefore waits for memory, twice an element. Here the distance from every byte of a window of input to
//! the next element, if the byte were a tag, is computed first, for all bytes at once (vector instructions do 16 to
//! 64 of them together). Finding the next element is then one load from that table, and everything else about an
//! element is off the critical path: short literals and copies share one branch-free way (a table says length and
//! offset; the source is selected, not branched on), which copies 32 bytes whatever the length is.
//!
//! The loop leaves long literals, four-byte offsets, damage and the last bytes of the output to [`element`], which
//! checks everything. On photos and their residuals this is 1.4 to 1.65 times the speed of the `snap` crate
//! (`benches/codec.rs`).
#![expect(
    unsafe_code,
    reason = "copies of a fixed size, whatever the length of an element is, within bounds that are checked per window and element"
)]

use std::hint::select_unpredictable;

use super::simd::simd;

/// Bytes of input that are looked at together.
const WINDOW: usize = 256;
/// The longest element of the fast loop, as output and, without its tag, as input.
const LONGEST: usize = 64;
/// A window and what elements that start in it may reach.
const INPUT: usize = WINDOW + LONGEST;
/// Bytes that one element of the fast loop may overwrite (see [`repeat`]).
const ROOM: usize = LONGEST + 16;

/// What a tag byte says.
#[derive(Clone, Copy)]
struct Tag {
    /// Bytes of output; [`STOP`] for elements that the fast loop does not take.
    len: u16,
    /// The high bits of a copy's offset. Literals have an offset that no check objects to.
    offset_high: u16,
    /// Which of the bytes that follow are the rest of the offset.
    offset_mask: u32,
}

const STOP: u16 = 255;

static TAGS: [Tag; 256] = {
    let mut tags = [Tag {
        len: STOP,
        offset_high: 0,
        offset_mask: 0,
    }; 256];
    let mut byte = 0u16;
    while byte < 256 {
        let tag = &mut tags[byte as usize];
        match byte & 3 {
            0 if byte >> 2 < 60 => {
                tag.len = (byte >> 2) + 1;
                tag.offset_high = 64; // No shorter than any literal here.
            }
            1 => {
                tag.len = ((byte >> 2) & 7) + 4;
                tag.offset_high = (byte >> 5) << 8;
                tag.offset_mask = 0xFF;
            }
            2 => {
                tag.len = (byte >> 2) + 1;
                tag.offset_mask = 0xFFFF;
            }
            _ => {}
        }
        byte += 1;
    }
    tags
};

/// How the first `offset` < 8 bytes of a word become 16 that repeat them: `(word & mask) * factor`.
#[derive(Clone, Copy)]
struct Repeat {
    mask: u64,
    factor: u128,
    /// The largest multiple of `offset` up to 16.
    step: usize,
}

static REPEATS: [Repeat; 8] = {
    let mut repeats = [Repeat {
        mask: 0,
        factor: 0,
        step: 16,
    }; 8];
    let mut offset = 1;
    while offset < 8 {
        let repeat = &mut repeats[offset];
        repeat.mask = (1 << (8 * offset)) - 1;
        repeat.step = 16 / offset * offset;
        let mut at = 0;
        while at < 16 {
            repeat.factor |= 1 << (8 * at);
            at += offset;
        }
        offset += 1;
    }
    repeats
};

/// How far the next element is from each byte, if that byte is a tag; 0 for elements that the fast loop does not
/// take.
#[inline(always)]
fn advances(input: &[u8; INPUT]) -> [u8; WINDOW] {
    let mut advances = [0; WINDOW];
    for (advance, &tag) in advances.iter_mut().zip(input) {
        let (kind, len) = (tag & 3, tag >> 2);
        let literal = if len < 60 { len + 2 } else { 0 };
        let copy = if kind == 3 { 0 } else { kind + 1 };
        *advance = if kind == 0 { literal } else { copy };
    }
    advances
}

/// Copies `N` bytes that do not overlap.
///
/// # Safety
/// `from` is readable and `to` writable for `N` bytes.
#[inline(always)]
unsafe fn copy<const N: usize>(from: *const u8, to: *mut u8) {
    // SAFETY: the caller's promise; the bytes go through a value, so overlapping would be allowed, too.
    unsafe {
        let bytes = from.cast::<[u8; N]>().read_unaligned();
        to.cast::<[u8; N]>().write_unaligned(bytes);
    }
}

/// Copies `len` bytes and whatever follows them, up to 64.
///
/// # Safety
/// `from` is readable and `to` writable for 64 bytes. Either they do not overlap, or `to` is at least `len` behind
/// `from`.
#[inline(always)]
unsafe fn copy_wide(from: *const u8, to: *mut u8, len: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        copy::<32>(from, to);
        if len > 32 {
            copy::<32>(from.add(32), to.add(32));
        }
    }
}

/// A copy of `len` bytes that reads what it writes: the `offset` bytes before `to`, again and again.
///
/// # Safety
/// 0 < `offset` < `len` <= 64; the `offset` bytes before `to` are readable, and [`ROOM`] bytes from `to` on are
/// writable.
#[inline(always)]
unsafe fn repeat(to: *mut u8, offset: usize, len: usize) {
    // SAFETY: every read and write starts at `to - offset` or behind it. In the first two ways the last one ends at
    // `to + 64`. In the third, `step` <= 16, so the four stores end at `to + 64` or before, and those of the loop
    // start before `to + len`, so they end before `to + 80`, which is `ROOM`.
    unsafe {
        let from = to.sub(offset).cast_const();
        if offset >= 16 {
            for at in [0, 16, 32, 48] {
                copy::<16>(from.add(at), to.add(at));
            }
        } else if offset >= 8 {
            copy::<8>(from, to);
            copy::<8>(from.add(8), to.add(8));
            // The period is now there twice, which is at least 16.
            for at in [16, 32, 48] {
                copy::<16>(from.add(at).sub(offset), to.add(at));
            }
        } else {
            let Repeat { mask, factor, step } = REPEATS[offset & 7];
            let word = u64::from_le_bytes(from.cast::<[u8; 8]>().read_unaligned());
            let bytes = u128::from(word & mask).wrapping_mul(factor).to_le_bytes();
            for at in [0, step, 2 * step, 3 * step] {
                to.add(at).cast::<[u8; 16]>().write_unaligned(bytes);
            }
            let mut at = 4 * step;
            while at < len {
                to.add(at).cast::<[u8; 16]>().write_unaligned(bytes);
                at += step;
            }
        }
    }
}

/// Decodes elements that start in the first `window` bytes of `input`, while [`ROOM`] bytes of output are left.
/// Returns the new positions in `input` and in `dst`, and whether the element at the first is one for [`element`].
///
/// The position may lie behind `window`, by less than `LONGEST`; if that is the end of the block, it is damaged.
#[inline(always)]
fn elements(
    input: &[u8; INPUT],
    window: usize,
    dst: &mut [u8],
    start: usize,
) -> (usize, usize, bool) {
    let window = window.min(WINDOW);
    let Some(last) = dst.len().checked_sub(ROOM).filter(|last| start <= *last) else {
        return (0, start, true);
    };
    let advances = advances(input);
    let (input, output) = (input.as_ptr(), dst.as_mut_ptr());
    let (mut at, mut end) = (0, start);
    while at < window && end <= last {
        // SAFETY: `at` < `WINDOW`, the length of `advances`, which `input` exceeds by `LONGEST`: the tag, the four
        // bytes behind it and a literal's 64 bytes are all in `input`.
        let (advance, from, tag, after) = unsafe {
            let from = input.add(at);
            let after = from.add(1).cast::<[u8; 4]>().read_unaligned();
            (*advances.as_ptr().add(at), from, usize::from(*from), after)
        };
        let entry = &TAGS[tag];
        let low = u32::from_le_bytes(after) & entry.offset_mask;
        let offset = (low | u32::from(entry.offset_high)) as usize;
        let len = usize::from(entry.len);
        let is_literal = tag & 3 == 0;
        // SAFETY: `end` <= `last` < `dst.len()`.
        let to = unsafe { output.add(end) };
        if len <= offset && offset <= end {
            let literal = from.wrapping_add(1);
            let back = to.wrapping_sub(offset).cast_const();
            let source = select_unpredictable(is_literal, literal, back);
            // SAFETY: 64 bytes from `source` on are readable: they are a literal's in `input` (above), or start in
            // the output so far and end before `to + 64`. `end` <= `last` leaves `ROOM` bytes to write. A copy's
            // `len` <= `offset` is the distance of the two.
            unsafe { copy_wide(source, to, len) };
        } else if entry.len == STOP || (offset > end && !is_literal) || offset == 0 {
            return (at, end, true);
        } else if is_literal {
            // SAFETY: as above. These are literals at the very start of a block.
            unsafe { copy_wide(from.add(1), to, len) };
        } else {
            // SAFETY: this is a copy with 0 < `offset` < `len` <= 64, as `offset` <= `end` was not what failed. Its
            // source starts in the output so far, and `end` <= `last` leaves `ROOM` bytes to write.
            unsafe { repeat(to, offset, len) };
        }
        end += len;
        at += usize::from(advance);
    }
    (at, end, end > last)
}

/// Copies a literal. For the few kilobytes that a literal of photos has, faster than the `memcpy` of the system, whose
/// string instructions are slow from odd addresses to new memory.
#[inline(always)]
fn copy_literal(from: &[u8], to: &mut [u8]) {
    let (blocks, rest) = from.as_chunks::<128>();
    let (out, out_rest) = to.as_chunks_mut::<128>();
    for (block, out) in blocks.iter().zip(out) {
        // SAFETY: both have 128 bytes.
        unsafe {
            for at in [0, 32, 64, 96] {
                copy::<32>(block.as_ptr().add(at), out.as_mut_ptr().add(at));
            }
        }
    }
    out_rest.copy_from_slice(rest);
}

/// Decodes the element at `at` with all checks. Returns the new positions.
#[inline(always)]
fn element(
    src: &[u8],
    at: usize,
    dst: &mut [u8],
    start: usize,
) -> Result<(usize, usize), &'static str> {
    const CUT: &str = "an element that is cut off";
    const LONG: &str = "an element that reaches past the end";
    let (tag, rest) = src[at..].split_first().ok_or(CUT)?;
    let (kind, code) = (tag & 3, usize::from(tag >> 2));
    if kind == 0 {
        let extra = code.saturating_sub(59);
        let mut len = [0; 4];
        len[..extra].copy_from_slice(rest.get(..extra).ok_or(CUT)?);
        let len = match extra {
            0 => code,
            _ => u32::from_le_bytes(len) as usize,
        };
        let len = len.checked_add(1).ok_or(LONG)?;
        let literal = rest[extra..].get(..len).ok_or(CUT)?;
        let out = dst[start..].get_mut(..len).ok_or(LONG)?;
        copy_literal(literal, out);
        return Ok((at + 1 + extra + len, start + len));
    }
    let (size, len, offset) = match kind {
        1 => {
            let low = usize::from(*rest.first().ok_or(CUT)?);
            (1, (code & 7) + 4, (code >> 3 << 8) | low)
        }
        2 => {
            let bytes = rest.first_chunk().ok_or(CUT)?;
            (2, code + 1, usize::from(u16::from_le_bytes(*bytes)))
        }
        _ => {
            let bytes = rest.first_chunk().ok_or(CUT)?;
            (4, code + 1, u32::from_le_bytes(*bytes) as usize)
        }
    };
    if offset == 0 || offset > start {
        return Err("a copy from outside the block");
    }
    if dst.len() - start < len {
        return Err(LONG);
    }
    let (mut done, source) = (0, start - offset);
    while done < len {
        // What is there, from `source` on, is a whole number of periods.
        let n = (len - done).min(offset + done);
        dst.copy_within(source..source + n, start + done);
        done += n;
    }
    Ok((at + 1 + size, start + len))
}

simd! {
    /// Decodes the elements of a block, without its length, to exactly `dst`.
    ///
    /// Accepts what the `snap` crate accepts, and nothing else.
    pub(crate) fn decode(src: &[u8], dst: &mut [u8]) -> Result<(), &'static str> {
        let (mut at, mut start) = (0, 0);
        let mut tail = [0; INPUT];
        while at < src.len() {
            let rest = &src[at..];
            let input = match rest.first_chunk() {
                Some(input) => input,
                None => {
                    tail[..rest.len()].copy_from_slice(rest);
                    &tail
                }
            };
            let (n, end, stop) = elements(input, rest.len(), dst, start);
            if n > rest.len() {
                return Err("an element that is cut off");
            }
            (at, start) = (at + n, end);
            if stop && at < src.len() {
                (at, start) = element(src, at, dst, start)?;
            }
        }
        if start == dst.len() { Ok(()) } else { Err("too few bytes") }
    }
}
