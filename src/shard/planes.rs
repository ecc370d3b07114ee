//! The planes of one field of one chunk: their pieces are checked, decoded, and merged into stored elements if the
//! field is split.

use std::borrow::Cow;
use std::ops::Range;

use crate::checksum;
use crate::codec::CodecId;
use crate::error::{Error, Result};
use crate::filter::{FilterSpec, PredictMode, Steps, in_chunk};
use crate::format::chunk::Stream;
use crate::format::pieces::Span;
use crate::format::schema::Field;
use crate::kernel::planes::Stores;
use crate::kernel::prefix;
use crate::split::{MAX_PLANES, Split};

use super::decode::{check_cut, decode_piece};
use super::reader::{Chunk, ShardReader, StoredPiece};
use super::rows::grow;

/// Elements that are merged at a time: their planes are still in the L1 cache after they were checked and decoded.
const TILE: usize = 2048;

/// How far ahead stored bytes are fetched: two blocks of a checksum, which would wait for memory.
const FETCHED: usize = 2 * checksum::BLOCK;

/// Bytes that are decoded ahead of use at most, unless a step needs more: two steps and some, of which one begins anywhere.
const WINDOW: usize = 20 << 10;

/// Buffers for the pieces of one plane.
#[derive(Debug, Default)]
pub(super) struct PlaneScratch {
    /// Stored bytes, if the storage cannot hand them out in place.
    io: Vec<u8>,
    decoded: Vec<u8>,
    decoder: prefix::Room,
}

/// One plane, on the way through its pieces.
pub(super) struct Plane<'a> {
    pub(super) ordinal: u32,
    pub(super) stream: &'a Stream,
    /// Where the next piece is in the file.
    pub(super) offset: u64,
}

/// The planes of a field, on the way through their pieces.
pub(super) struct Planes<'a> {
    reader: &'a ShardReader,
    chunk: &'a Chunk,
    pub(super) split: Option<&'static dyn Split>,
    /// As they are in this chunk.
    pub(super) filters: Cow<'a, [FilterSpec]>,
    planes: Vec<Plane<'a>>,
}

impl<'a> Planes<'a> {
    pub(super) fn new(
        reader: &'a ShardReader,
        chunk: &'a Chunk,
        ordinal: usize,
        field: &'a Field,
    ) -> Result<Self> {
        let planes: Vec<Plane<'_>> = chunk
            .header
            .planes(ordinal)
            .map(|(ordinal, stream)| Plane {
                ordinal,
                stream,
                offset: chunk.entry.offset + stream.offset,
            })
            .collect();
        if planes.len() != field.codecs().len() || planes.len() > MAX_PLANES {
            return Err(not_there());
        }
        let split = field.split().map(|split| split.split()).transpose()?;
        let chosen = planes.first().map(|plane| plane.stream.predict_mode);
        Ok(Self {
            reader,
            chunk,
            split,
            filters: in_chunk(field.filters(), chosen.unwrap_or(PredictMode::None)),
            planes,
        })
    }

    /// The padding before the planes is zero, and their pieces are those of the cutting rule.
    pub(super) fn check(&self, spans: &[Span], io: &mut Vec<u8>) -> Result<()> {
        let count = u32::try_from(self.planes.len()).unwrap_or(1);
        for plane in &self.planes {
            self.reader.check_padding(self.chunk, plane.stream, io)?;
            let pieces = self.chunk.header.stream_pieces(plane.stream);
            let lens = spans
                .iter()
                .map(|span| span.len / count)
                .zip(pieces.iter().map(|piece| piece.raw_len));
            check_cut(spans.len(), pieces.len(), lens)?;
        }
        Ok(())
    }

    /// The first plane (the only one without a split), and how many bytes piece `piece` has in the file, in all planes.
    pub(super) fn first(&self, piece: u32) -> Result<(&Plane<'a>, usize)> {
        let plane = self.planes.first().ok_or_else(not_there)?;
        let lens = self
            .planes
            .iter()
            .map(|plane| self.stored_len(plane, piece));
        Ok((plane, lens.map(|len| len as usize).sum()))
    }

    fn stored_len(&self, plane: &Plane<'_>, piece: u32) -> u32 {
        let pieces = self.chunk.header.stream_pieces(plane.stream);
        pieces.get(piece as usize).map_or(0, |p| p.stored_len)
    }

    /// Moves on, after piece `piece`.
    pub(super) fn advance(&mut self, piece: u32) {
        for i in 0..self.planes.len() {
            let stored = self.stored_len(&self.planes[i], piece);
            self.planes[i].offset += u64::from(stored);
        }
    }

    /// Reads piece `piece`, of `raw_len` bytes over all planes. Planes with a codec are checked, and decoded now or as they
    /// are used; stored ones are checked as they are used, and used where they lie.
    pub(super) fn load<'s>(
        &'s self,
        piece: u32,
        raw_len: usize,
        scratch: &'s mut [PlaneScratch; MAX_PLANES],
    ) -> Result<Loaded<'s>> {
        let len = raw_len / self.planes.len().max(1);
        let mut loaded = Loaded {
            split: self.split,
            parts: Default::default(),
            count: self.planes.len(),
            len,
            merged_from: 0,
        };
        // Merging fetches a few planes itself.
        let ahead = if (2..=4).contains(&self.planes.len()) {
            0
        } else {
            FETCHED
        };
        for ((plane, scratch), part) in self.planes.iter().zip(scratch).zip(&mut loaded.parts) {
            let PlaneScratch {
                io,
                decoded,
                decoder,
            } = scratch;
            let source = self
                .reader
                .piece(self.chunk, plane.ordinal, piece, plane.offset, io)?;
            let stored = source.bytes;
            if stored.len() == len {
                *part = Part {
                    bytes: stored,
                    unchecked: Some(source),
                    ahead,
                    rows: None,
                };
                continue;
            }
            source.finish()?;
            if plane.stream.codec == CodecId::PREFIX.get() {
                let decoder = prefix::Decoder::new(stored, len, decoder)
                    .map_err(|damage| bad_prefix(len, damage).at_offset(plane.offset))?;
                part.rows = Some(Rows {
                    decoder,
                    len,
                    window: decoded,
                    start: 0,
                    from: 0,
                    done: 0,
                    offset: plane.offset,
                });
                continue;
            }
            grow(decoded, len);
            let decoded = &mut decoded[..len];
            decode_piece(plane.stream, stored, decoded).map_err(|e| e.at_offset(plane.offset))?;
            part.bytes = decoded;
        }
        Ok(loaded)
    }
}

/// A piece of one plane.
#[derive(Default)]
struct Part<'a> {
    /// Stored or decoded.
    bytes: &'a [u8],
    /// The piece itself, if it is stored as it is and to be checked as it is used.
    unchecked: Option<StoredPiece<'a>>,
    /// As for [`StoredPiece::check_to`].
    ahead: usize,
    /// In place of `bytes`, if it is decoded as it is used.
    rows: Option<Rows<'a>>,
}

/// A piece of codec prefix, decoded some rows at a time. Of what is decoded only what is needed is kept, in a window
/// that stays in the L1 cache.
struct Rows<'a> {
    decoder: prefix::Decoder<'a>,
    /// Elements.
    len: usize,
    window: &'a mut Vec<u8>,
    /// Elements `from..done` are in the window, from its byte `start` on.
    start: usize,
    from: usize,
    done: usize,
    offset: u64,
}

impl Rows<'_> {
    /// Where decoding stops that needs elements up to `end`.
    fn end(&self, end: usize) -> usize {
        end.next_multiple_of(prefix::ROW)
            .min(self.len)
            .max(self.done)
    }

    /// Elements that are in the window.
    fn get(&self, elements: Range<usize>) -> Option<&[u8]> {
        let start = self.start + elements.start.checked_sub(self.from)?;
        let end = self.start + elements.end.checked_sub(self.from)?;
        let used = self.window.get(..self.start + (self.done - self.from))?;
        used.get(start..end)
    }

    /// Forgets the elements before `first`, and makes room for more behind the others, which go to the front.
    fn keep_from(&mut self, first: usize) {
        let first = first.clamp(self.from, self.done);
        let kept = self.start + (first - self.from)..self.start + (self.done - self.from);
        if kept.start > 0 {
            self.window.copy_within(kept, 0);
        }
        (self.start, self.from) = (0, first);
    }

    /// Decodes up to the end of `elements`, and forgets what is before them. As many bytes at `to` will be written soon.
    fn decode_to(&mut self, elements: Range<usize>, to: Option<*const u8>) {
        let end = self.end(elements.end);
        if end == self.done {
            return;
        }
        self.keep_from(elements.start);
        let (at, len) = (self.done - self.from, end - self.done);
        grow(self.window, at + len);
        let next = &mut self.window[at..at + len];
        let to = to.unwrap_or(next.as_ptr());
        self.decoder.decode(next, to, None);
        self.done = end;
    }

    /// Undoes a step of what is decoded. Decodes what is needed next meanwhile, if that goes beside.
    fn undo(&mut self, step: Undo<'_>, ahead: &Ahead) -> Result<()> {
        let missing = self.end(ahead.bytes.end) - self.done;
        let first = step.bytes.start;
        // Before the step, if nothing after it is there yet, else behind what is.
        let before = self.done == step.bytes.end && self.start + (first - self.from) >= missing;
        let end = self.start + (self.done - self.from);
        if !before && end + missing > WINDOW {
            self.keep_from(first);
        }
        let at = self.start + (first - self.from);
        let end = self.start + (self.done - self.from);
        let (src, next) = if before {
            let (room, rest) = self.window.split_at_mut(at);
            (rest.get(..step.bytes.len()), room)
        } else {
            grow(self.window, end + missing);
            let (rest, room) = self.window.split_at_mut(end);
            (rest.get(at..at + step.bytes.len()), room)
        };
        let (src, next) = (src.ok_or_else(not_there)?, &mut next[..missing]);
        if let Some(mut sums) = step.filter.beside(step.first, src, &mut *step.dst) {
            let to = ahead.to.unwrap_or(next.as_ptr());
            self.decoder.decode(next, to, Some(&mut sums));
            sums.finish();
            if before {
                (self.start, self.from) = (0, self.done);
            }
            self.done += missing;
        } else {
            step.filter.undo(step.first, src, step.dst);
        }
        Ok(())
    }
}

/// A step of a filter.
pub(super) struct Undo<'a> {
    pub(super) filter: &'a dyn Steps,
    /// Of the piece.
    pub(super) bytes: Range<usize>,
    /// As for [`Steps::undo`].
    pub(super) first: usize,
    pub(super) dst: &'a mut [u8],
}

/// The step that follows.
pub(super) struct Ahead {
    /// Of the piece.
    pub(super) bytes: Range<usize>,
    /// What it will be written to soon.
    pub(super) to: Option<*const u8>,
}

impl Part<'_> {
    /// Checks and decodes elements, which will be written to `to`, if it is to be in the caches then. Those before them are
    /// not asked for again.
    fn ready(&mut self, elements: Range<usize>, to: Option<*const u8>) {
        if let Some(stored) = &mut self.unchecked {
            stored.check_to(elements.end, self.ahead);
        }
        if let Some(rows) = &mut self.rows {
            rows.decode_to(elements, to);
        }
    }

    /// Elements that are ready.
    fn get(&self, elements: Range<usize>) -> Result<&[u8]> {
        let elements = match &self.rows {
            Some(rows) => rows.get(elements),
            None => self.bytes.get(elements),
        };
        elements.ok_or_else(not_there)
    }

    fn finish(self) -> Result<()> {
        if let Some(rows) = self.rows
            && rows.done == rows.len
        {
            let end = rows.decoder.finish();
            end.map_err(|e| bad_prefix(rows.done, e).at_offset(rows.offset))?;
        }
        self.unchecked.map_or(Ok(()), StoredPiece::finish)
    }
}

fn bad_prefix(len: usize, damage: prefix::Damage) -> Error {
    Error::corrupt(
        "prefix piece",
        format_args!("exactly {len} bytes"),
        damage.0,
    )
}

/// A piece of a field. Nothing of it may be handed out before [`Loaded::finish`].
pub(super) struct Loaded<'a> {
    split: Option<&'static dyn Split>,
    parts: [Part<'a>; MAX_PLANES],
    count: usize,
    /// Elements.
    len: usize,
    /// The byte of the piece that is the first of those merged last.
    merged_from: usize,
}

impl Loaded<'_> {
    /// Makes the bytes of a range of the piece, at the beginning of `merged` if planes are merged. Ranges ascend: what is
    /// before them is not there any more. What will be written to `to` soon is fetched meanwhile.
    pub(super) fn ready(
        &mut self,
        range: Range<usize>,
        merged: &mut Vec<u8>,
        to: Option<*const u8>,
    ) -> Result<()> {
        if self.split.is_none() {
            self.parts[0].ready(range, to);
            return Ok(());
        }
        grow(merged, range.len());
        self.merged_from = range.start;
        self.merge(range.start, &mut merged[..range.len()], Stores::Cached)
    }

    /// The bytes of a range that [`Loaded::ready`] made.
    pub(super) fn bytes<'s>(&'s self, range: Range<usize>, merged: &'s [u8]) -> Result<&'s [u8]> {
        if self.split.is_none() {
            return self.parts[0].get(range);
        }
        let start = range.start.checked_sub(self.merged_from);
        let bytes = start.and_then(|start| merged.get(start..start + range.len()));
        bytes.ok_or_else(not_there)
    }

    /// Undoes the first filter of a step whose bytes are ready. Without a split, the next step is decoded meanwhile, if that
    /// goes beside.
    pub(super) fn undo(
        &mut self,
        step: Undo<'_>,
        ahead: Option<&Ahead>,
        merged: &[u8],
    ) -> Result<()> {
        if self.split.is_none() {
            let part = &mut self.parts[0];
            if let (Some(rows), Some(ahead)) = (&mut part.rows, ahead) {
                return rows.undo(step, ahead);
            }
        }
        let src = self.bytes(step.bytes, merged)?;
        step.filter.undo(step.first, src, step.dst);
        Ok(())
    }

    /// Checks what is stored as it is and would be checked as it is used.
    pub(super) fn check(&mut self) -> Result<()> {
        let mut unchecked = self.parts.iter_mut().filter_map(|p| p.unchecked.take());
        unchecked.try_for_each(StoredPiece::finish)
    }

    /// Merges elements into all of `dst`. The first one is at byte `start` of the piece.
    pub(super) fn merge(&mut self, start: usize, dst: &mut [u8], stores: Stores) -> Result<()> {
        let split = self.split.ok_or_else(not_there)?;
        let mut first = start / self.count;
        if first + dst.len() / self.count > self.len || !dst.len().is_multiple_of(self.count) {
            return Err(not_there());
        }
        for tile in dst.chunks_mut(TILE * self.count) {
            let elements = first..first + tile.len() / self.count;
            first = elements.end;
            let to = (stores == Stores::Cached).then_some(tile.as_ptr());
            let mut planes: [&[u8]; MAX_PLANES] = [&[]; MAX_PLANES];
            let planes = &mut planes[..self.count];
            for (plane, part) in planes.iter_mut().zip(&mut self.parts) {
                part.ready(elements.clone(), to);
                *plane = part.get(elements.clone())?;
            }
            split.merge(planes, tile, stores);
        }
        Ok(())
    }

    /// Checks what is left of the planes.
    ///
    /// # Errors
    /// `Corrupt` if a checksum or the end of an encoding is wrong: what was merged must not be used.
    pub(super) fn finish(self) -> Result<()> {
        self.parts.into_iter().try_for_each(Part::finish)
    }
}

fn not_there() -> Error {
    Error::invalid("planes or elements that are not there: this is a bug, please report it")
}
