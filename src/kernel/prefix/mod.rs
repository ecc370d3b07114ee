//! The 64-cell prefix code (format-spec 7.1): codec `prefix` and the planes of fused decoding.
//!
//! The low 6 bits of a lane's window select a cell, and with it the length of the code word, the first symbol of its
//! range and the mask of the bits after the prefix: three tables of 64 bytes that fit vector registers, so that a step
//! decodes 32 lanes without touching memory. 32 to 128 lanes share one stream of u16 words, from which they pull in a
//! fixed order when they need one. `scalar.rs` defines the bits; the others do the same faster.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod encode;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod expand;
mod header;
#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(target_arch = "x86_64")]
mod prefetch;
mod scalar;
mod table;
#[cfg(test)]
mod tests;

use header::{Groups, Map, Stream};
use table::Table;

pub(crate) use encode::encode;

use super::predict::Sums;
use super::simd::{Level, level};

/// The most bytes that one stream encodes other than raw.
pub(crate) const MAX_LEN: usize = 1 << 22;
/// A multiple of what every number of groups decodes at a time.
pub(crate) const ROW: usize = 256;
/// Lanes of a group.
const LANES: usize = 32;
const MAX_GROUPS: usize = 4;
/// What is wrong with a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Damage(pub(crate) &'static str);

/// What lanes remember between two steps. The window of a lane is the upper `n` bits of `a`, then `b`.
#[derive(Clone, Debug)]
#[repr(C, align(64))]
struct Lanes {
    a: [u16; LANES * MAX_GROUPS],
    b: [u16; LANES * MAX_GROUPS],
    /// 0 to 15.
    n: [u16; LANES * MAX_GROUPS],
}

impl Lanes {
    /// As a stream begins: a word for each lane.
    fn new(groups: Groups, words: &[u8]) -> Self {
        let mut lanes = Self {
            a: [0; LANES * MAX_GROUPS],
            b: [0; LANES * MAX_GROUPS],
            n: [0; LANES * MAX_GROUPS],
        };
        let first = lanes.b[..LANES * groups.get()].iter_mut();
        for (b, word) in first.zip(words.as_chunks::<2>().0) {
            *b = u16::from_le_bytes(*word);
        }
        lanes
    }
}

/// How far a kernel got.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Progress {
    /// Rows of 64 bytes a group written.
    rows: usize,
    /// Bytes of the source read.
    pulled: usize,
}

/// Decodes whole rows until the destination is full or the source might not have enough words for another one: a row
/// pulls at most 128 bytes a group, and less than that is left to the caller. Meanwhile it fetches what comes next.
type Kernel = fn(&Table, &mut Lanes, &[u8], &mut [u8], Fetch) -> Progress;

/// The same, and with every row a row of sums, as long as there are some.
type BesideKernel = fn(&Table, &mut Lanes, &[u8], &mut [u8], Fetch, &mut Sums<'_>) -> Progress;

/// Memory that is needed soon, to be fetched a row at a time. Nothing of it need be there.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(
    not(target_arch = "x86_64"),
    expect(dead_code, reason = "processors fetch by themselves")
)]
struct Fetch {
    /// To be written.
    to_write: *const u8,
    /// To be read: so far after what is read now.
    ahead: usize,
}

/// The kernel for a level, a mode and a number of groups.
fn kernel(mode: u8, groups: Groups) -> Kernel {
    match level() {
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => avx512::kernel(mode, groups),
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => avx2::kernel(mode, groups),
        #[cfg(target_arch = "aarch64")]
        Level::Neon => neon::kernel(mode, groups),
        _ => scalar::kernel(groups),
    }
}

/// The kernel that sums beside, if there is one.
fn beside_kernel(mode: u8, groups: Groups) -> Option<BesideKernel> {
    #[cfg(target_arch = "x86_64")]
    if level() == Level::Avx512 {
        return avx512::beside_kernel(mode, groups);
    }
    let _ = (mode, groups);
    None
}

/// Where a decoder keeps its table and lanes, more than a KiB: memory that stream after stream uses.
#[derive(Debug, Default)]
pub(crate) struct Room(Option<Box<State>>);

#[derive(Debug)]
struct State {
    table: Table,
    lanes: Lanes,
}

impl Room {
    fn put(&mut self, state: State) -> &mut State {
        match &mut self.0 {
            Some(kept) => {
                **kept = state;
                kept
            }
            none => none.insert(Box::new(state)),
        }
    }
}

/// Decodes one stream, some rows at a time.
#[derive(Debug)]
pub(crate) struct Decoder<'a> {
    payload: Payload<'a>,
    /// Bytes not yet handed out.
    left: usize,
}

#[derive(Debug)]
enum Payload<'a> {
    Raw(&'a [u8]),
    /// A stream of one byte only.
    Only(u8),
    Coded(Coded<'a>),
}

#[derive(Debug)]
struct Coded<'a> {
    kernel: Kernel,
    /// The same with sums beside, if there is one.
    beside: Option<BesideKernel>,
    state: &'a mut State,
    /// Bytes that a group of lanes writes in one row, times the number of groups.
    row: usize,
    words: &'a [u8],
    /// Bytes pulled; beyond `words` there are zeros.
    pulled: usize,
    /// As [`Fetch::ahead`]: the next piece, which follows this one in the file. This one was just checked, so it is in
    /// the caches.
    ahead: usize,
}

impl<'a> Decoder<'a> {
    /// Reads the header of a stream that encodes `len` bytes.
    pub(crate) fn new(src: &'a [u8], len: usize, room: &'a mut Room) -> Result<Self, Damage> {
        let payload = match header::parse(src, len)? {
            Stream::Raw(bytes) => Payload::Raw(bytes),
            Stream::Coded {
                mode,
                groups,
                table,
                words,
            } => match table.only_byte() {
                Some(byte) if words.is_empty() => Payload::Only(byte),
                Some(_) => return Err(Damage("words that are not needed")),
                None => Payload::Coded(Coded {
                    kernel: kernel(mode, groups),
                    beside: beside_kernel(mode, groups),
                    state: room.put(State {
                        table,
                        lanes: Lanes::new(groups, words),
                    }),
                    row: 2 * LANES * groups.get(),
                    words,
                    pulled: 2 * LANES * groups.get(),
                    ahead: src.len(),
                }),
            },
        };
        Ok(Self { payload, left: len })
    }

    /// Fills `dst` with the next bytes. Its length must be a multiple of [`ROW`], or exactly what is left. While it
    /// does so, as many bytes at `next` are fetched into the cache, to be written: `next` need not be valid.
    /// Does what it can of `sums` beside.
    pub(crate) fn decode(&mut self, dst: &mut [u8], next: *const u8, sums: Option<&mut Sums<'_>>) {
        debug_assert!(
            dst.len() == self.left || dst.len() < self.left && dst.len().is_multiple_of(ROW)
        );
        self.left = self.left.saturating_sub(dst.len());
        match &mut self.payload {
            Payload::Raw(bytes) => {
                let (head, tail) = bytes.split_at(dst.len().min(bytes.len()));
                dst[..head.len()].copy_from_slice(head);
                *bytes = tail;
            }
            Payload::Only(byte) => dst.fill(*byte),
            Payload::Coded(coded) => coded.decode(dst, next, sums),
        }
    }

    /// Checks that nothing remains: to be called when all bytes were decoded.
    pub(crate) fn finish(self) -> Result<(), Damage> {
        match self.payload {
            Payload::Coded(coded) if coded.pulled < coded.words.len() => {
                Err(Damage("words that are not needed"))
            }
            _ => Ok(()),
        }
    }
}

impl<'a> Coded<'a> {
    fn decode(&mut self, mut dst: &mut [u8], mut next: *const u8, sums: Option<&mut Sums<'_>>) {
        if let (Some(kernel), Some(sums)) = (self.beside, sums) {
            let at = self.rows(dst, next, |table, lanes, words, dst, fetch| {
                kernel(table, lanes, words, dst, fetch, sums)
            });
            dst = &mut dst[at..];
            next = next.wrapping_add(at);
        }
        let at = self.rows(dst, next, self.kernel);
        if at < dst.len() {
            self.decode_end(&mut dst[at..], next.wrapping_add(at));
        }
    }

    /// Runs a kernel; the bytes that it decoded.
    #[inline]
    fn rows(
        &mut self,
        dst: &mut [u8],
        next: *const u8,
        kernel: impl FnOnce(&Table, &mut Lanes, &[u8], &mut [u8], Fetch) -> Progress,
    ) -> usize {
        let words = self.words.get(self.pulled..).unwrap_or_default();
        let fetch = Fetch {
            to_write: next,
            ahead: self.ahead,
        };
        let State { table, lanes } = &mut *self.state;
        let done = kernel(table, lanes, words, dst, fetch);
        self.pulled += done.pulled;
        done.rows * self.row
    }

    /// Where the words run out, or where less than a row is asked for.
    #[cold]
    fn decode_end(&mut self, dst: &mut [u8], next: *const u8) {
        /// Twice what a row of 4 groups can pull: more rows can be decoded at a time.
        const PADDED: usize = 1024;
        let mut at = 0;
        while at < dst.len() {
            let words = self.words.get(self.pulled..).unwrap_or_default();
            let mut padded = [0; PADDED];
            let len = words.len().min(PADDED);
            padded[..len].copy_from_slice(&words[..len]);
            let mut last = [0; ROW];
            let whole = (dst.len() - at) / self.row * self.row;
            let to = if whole > 0 {
                &mut dst[at..at + whole]
            } else {
                &mut last[..self.row]
            };
            let fetch = Fetch {
                to_write: next.wrapping_add(at),
                ahead: 0,
            };
            let State { table, lanes } = &mut *self.state;
            let done = (self.kernel)(table, lanes, &padded, to, fetch);
            self.pulled += done.pulled;
            if whole == 0 {
                let end = dst.len() - at;
                dst[at..].copy_from_slice(&last[..end]);
                return;
            }
            at += done.rows * self.row;
        }
    }
}

/// Decodes a whole stream into exactly `dst`.
pub(crate) fn decode(src: &[u8], dst: &mut [u8]) -> Result<(), Damage> {
    /// Destinations follow each other in memory as a rule.
    const AHEAD: usize = 2048;
    let mut room = Room::default();
    let mut decoder = Decoder::new(src, dst.len(), &mut room)?;
    let next = dst.as_ptr().wrapping_add(AHEAD);
    decoder.decode(dst, next, None);
    decoder.finish()
}
