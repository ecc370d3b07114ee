//! The planes of one field of one chunk: their pieces are checked, decoded, and merged into stored elements if the
//! field is split.

use std::ops::Range;

use crate::error::{Error, Result};
use crate::format::chunk::Stream;
use crate::format::pieces::Span;
use crate::format::schema::Field;
use crate::kernel::stream;
use crate::split::{MAX_PLANES, Split};

use super::decode::{check_cut, decode_piece};
use super::reader::{Chunk, ShardReader, StoredPiece};
use super::rows::grow;

/// Elements that are merged at a time: their planes are still in the L1 cache after they were checked.
const TILE: usize = 4096;
/// The same on the way to cold slots, where merged elements are staged.
const COLD_TILE: usize = 1024;

/// Buffers for the pieces of one plane.
#[derive(Debug, Default)]
pub(super) struct PlaneScratch {
    /// Stored bytes, if the storage cannot hand them out in place.
    io: Vec<u8>,
    decoded: Vec<u8>,
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
    planes: Vec<Plane<'a>>,
}

impl<'a> Planes<'a> {
    pub(super) fn new(
        reader: &'a ShardReader,
        chunk: &'a Chunk,
        ordinal: usize,
        field: &Field,
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
        Ok(Self {
            reader,
            chunk,
            split,
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

    /// Reads piece `piece` of a split, of `raw_len` bytes over all planes. Planes with a codec are checked and decoded;
    /// stored ones are checked as they are used, and used where they lie.
    pub(super) fn load<'s>(
        &'s self,
        split: &'static dyn Split,
        piece: u32,
        raw_len: usize,
        scratch: &'s mut [PlaneScratch; MAX_PLANES],
    ) -> Result<Loaded<'s>> {
        let len = raw_len / self.planes.len().max(1);
        let mut loaded = Loaded {
            split,
            parts: Default::default(),
            count: self.planes.len(),
            len,
        };
        for ((plane, scratch), part) in self.planes.iter().zip(scratch).zip(&mut loaded.parts) {
            let source = self.reader.piece(
                self.chunk,
                plane.ordinal,
                piece,
                plane.offset,
                &mut scratch.io,
            )?;
            let stored = source.bytes;
            if stored.len() == len {
                *part = Part {
                    bytes: stored,
                    unchecked: Some(source),
                };
                continue;
            }
            source.finish()?;
            grow(&mut scratch.decoded, len);
            let decoded = &mut scratch.decoded[..len];
            decode_piece(plane.stream, stored, decoded).map_err(|e| e.at_offset(plane.offset))?;
            part.bytes = decoded;
        }
        Ok(loaded)
    }
}

/// A piece of one plane.
#[derive(Default)]
struct Part<'a> {
    bytes: &'a [u8],
    /// The piece itself, if it is stored as it is and to be checked as it is used.
    unchecked: Option<StoredPiece<'a>>,
}

impl<'a> Part<'a> {
    fn get(&mut self, elements: Range<usize>) -> Result<&'a [u8]> {
        if let Some(stored) = &mut self.unchecked {
            stored.check_to(elements.end);
        }
        self.bytes.get(elements).ok_or_else(not_there)
    }
}

/// A piece of a split field. Nothing of it may be used before [`Loaded::finish`].
pub(super) struct Loaded<'a> {
    split: &'static dyn Split,
    parts: [Part<'a>; MAX_PLANES],
    count: usize,
    /// Elements.
    len: usize,
}

impl Loaded<'_> {
    /// Merges the whole piece into `dst`, which has its length.
    pub(super) fn merge_all(&mut self, dst: &mut [u8]) -> Result<()> {
        self.merge(0, dst, None)
    }

    /// Merges elements into all of `dst`. The first one is at byte `start` of the piece. Cold slots are written past
    /// the caches, through a staging buffer.
    pub(super) fn merge(
        &mut self,
        start: usize,
        dst: &mut [u8],
        cold: Option<&mut Vec<u8>>,
    ) -> Result<()> {
        let mut first = start / self.count;
        if first + dst.len() / self.count > self.len || !dst.len().is_multiple_of(self.count) {
            return Err(not_there());
        }
        let Some(staging) = cold.filter(|_| dst.len() >= stream::MIN) else {
            for tile in dst.chunks_mut(TILE * self.count) {
                self.tile(first, tile)?;
                first += TILE;
            }
            return Ok(());
        };
        grow(staging, COLD_TILE * self.count);
        for tile in dst.chunks_mut(COLD_TILE * self.count) {
            let staged = &mut staging[..tile.len()];
            self.tile(first, staged)?;
            stream::copy(staged, tile);
            first += COLD_TILE;
        }
        Ok(())
    }

    fn tile(&mut self, first: usize, dst: &mut [u8]) -> Result<()> {
        let elements = first..first + dst.len() / self.count;
        let mut planes: [&[u8]; MAX_PLANES] = [&[]; MAX_PLANES];
        let planes = &mut planes[..self.count];
        for (plane, part) in planes.iter_mut().zip(&mut self.parts) {
            *plane = part.get(elements.clone())?;
        }
        self.split.merge(planes, dst);
        Ok(())
    }

    /// Checks what is left of stored planes.
    ///
    /// # Errors
    /// `Corrupt` if a checksum is wrong: what was merged must not be used.
    pub(super) fn finish(self) -> Result<()> {
        let mut unchecked = self.parts.into_iter().filter_map(|part| part.unchecked);
        unchecked.try_for_each(StoredPiece::finish)
    }
}

fn not_there() -> Error {
    Error::invalid("planes or elements that are not there: this is a bug, please report it")
}
