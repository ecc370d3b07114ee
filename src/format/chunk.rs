//! The chunk header: stream table, stats and piece table (format-spec 10).

use crate::checksum::{Context, checksum};
use crate::codec;
use crate::error::{Error, Result};
use crate::filter::{FilterSpec, PredictMode};
use crate::quant::ErrorSums;
use crate::tensor::num_elements;

use super::forever::{ALIGN, CHUNK_MAGIC, SMALL_ALIGN, SMALL_STREAM};
use super::header::expect_checksum;
use super::index::IndexEntry;
use super::schema::{Field, Schema};
use super::shard_id::ShardId;
use super::wire::{Cursor, Put, expect_eq, expect_limit, to_u32};
use super::{align, limits};

const CHUNK_FIXED: u64 = 48;
const STREAM_ENTRY: u64 = 16;
const STATS_RECORD: u64 = 48;
const PIECE_ENTRY: u64 = 12;

/// What a stream holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Role {
    /// The stored elements, or a plane of them.
    Plane,
    Scales,
    ZeroPoints,
    Shapes,
    Patches,
}

impl Role {
    fn id(self) -> u8 {
        match self {
            Self::Plane => 0,
            Self::Scales => 1,
            Self::ZeroPoints => 2,
            Self::Shapes => 3,
            Self::Patches => 4,
        }
    }

    fn from_id(id: u8) -> Result<Self> {
        Ok(match id {
            0 => Self::Plane,
            1 => Self::Scales,
            2 => Self::ZeroPoints,
            3 => Self::Shapes,
            4 => Self::Patches,
            _ => return Err(Error::corrupt("role of a stream", "0 to 4", id)),
        })
    }
}

/// One piece of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) raw_len: u32,
    pub(crate) stored_len: u32,
    pub(crate) crc: u32,
}

/// One stream of a chunk. What is below the line is derived, not on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stream {
    pub(crate) field: u16,
    pub(crate) role: Role,
    /// Which plane of the stored elements; 0 for other roles.
    pub(crate) plane: u8,
    pub(crate) codec: u16,
    /// What a plane was predicted with, if chunks of the field choose; else `None`.
    pub(crate) predict_mode: PredictMode,
    pub(crate) num_pieces: u32,
    // ---
    /// Index of the first piece in the piece table.
    pub(crate) first_piece: usize,
    /// Offset of the stream from the start of the chunk.
    pub(crate) offset: u64,
    pub(crate) stored_len: u64,
    pub(crate) raw_len: u64,
    /// Where the stream before it ends: from there to `offset` is padding.
    pub(crate) padding_from: u64,
}

/// The recorded error of a lossy field in a chunk (format-spec 10.4).
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Stats {
    pub(crate) field: u16,
    pub(crate) count: u64,
    pub(crate) non_finite: u64,
    pub(crate) max_abs_error: f64,
    pub(crate) rmse: f64,
    pub(crate) rms: f64,
}

impl Stats {
    /// Every element of the field in the chunk was measured.
    pub(crate) fn check_count(&self, elements: u64) -> Result<()> {
        expect_eq(
            "elements in the stats",
            elements,
            self.count.saturating_add(self.non_finite),
        )
    }

    pub(crate) fn new(field: u16, sums: &ErrorSums) -> Self {
        let mean = |sum: f64| {
            if sums.count == 0 {
                0.0
            } else {
                (sum / sums.count as f64).sqrt()
            }
        };
        Self {
            field,
            count: sums.count,
            non_finite: sums.non_finite,
            max_abs_error: sums.max_abs_error,
            rmse: mean(sums.sum_sq_error).min(f64::MAX),
            rms: mean(sums.sum_sq_source).min(f64::MAX),
        }
    }
}

/// A parsed, checked chunk header.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ChunkHeader {
    pub(crate) chunk: u32,
    pub(crate) num_samples: u32,
    pub(crate) first_sample: u64,
    pub(crate) chunk_len: u64,
    pub(crate) streams: Vec<Stream>,
    pub(crate) stats: Vec<Stats>,
    pub(crate) pieces: Vec<Piece>,
    pub(crate) header_len: u32,
    /// Where the last stream ends: from there to `chunk_len` is padding.
    pub(crate) streams_end: u64,
}

/// Where a stream of `stored_len` bytes starts if the one before it ends at `end`.
pub(crate) fn stream_offset(end: u64, stored_len: u64) -> u64 {
    align(
        end,
        if stored_len < SMALL_STREAM {
            SMALL_ALIGN
        } else {
            ALIGN
        },
    )
}

/// `header_len` for these counts; saturating.
pub(crate) fn header_len(num_streams: u64, num_stats: u64, num_pieces: u64) -> u64 {
    CHUNK_FIXED
        .saturating_add(num_streams.saturating_mul(STREAM_ENTRY))
        .saturating_add(num_stats.saturating_mul(STATS_RECORD))
        .saturating_add(num_pieces.saturating_mul(PIECE_ENTRY))
        .saturating_add(4)
}

/// What the first bytes of something that looks like a chunk header say, before anything of it is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Claim {
    pub(crate) chunk: u32,
    pub(crate) num_samples: u32,
    pub(crate) first_sample: u64,
    pub(crate) chunk_len: u64,
    pub(crate) header_len: u32,
}

impl Claim {
    /// Bytes that are looked at.
    pub(crate) const LEN: u64 = CHUNK_FIXED;

    /// The claim of these bytes; `None` if they cannot be the start of a chunk header.
    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        let mut c = Cursor::new(bytes, "chunk header");
        if c.array().ok()? != CHUNK_MAGIC {
            return None;
        }
        let claim = Self {
            header_len: c.u32().ok()?,
            chunk: c.u32().ok()?,
            num_samples: c.u32().ok()?,
            first_sample: c.u64().ok()?,
            chunk_len: c.u64().ok()?,
        };
        let counts = [c.u32().ok()?, c.u32().ok()?, c.u32().ok()?];
        let [num_streams, num_stats, num_pieces] = counts.map(u64::from);
        c.reserved(4).ok()?;
        let len = u64::from(claim.header_len);
        let fits = header_len(num_streams, num_stats, num_pieces) == len
            && len < claim.chunk_len
            && len <= limits::CHUNK_HEADER
            && claim.chunk_len.checked_rem(ALIGN) == Some(0)
            && claim.num_samples > 0;
        fits.then_some(claim)
    }
}

impl ChunkHeader {
    /// The header's bytes (without padding), and its stored checksum.
    pub(crate) fn encode(&self, shard_id: ShardId) -> Result<(Vec<u8>, u32)> {
        let len = header_len(
            self.streams.len() as u64,
            self.stats.len() as u64,
            self.pieces.len() as u64,
        );
        expect_limit("chunk header", limits::CHUNK_HEADER, len)?;
        let mut out = Vec::new();
        out.put(&CHUNK_MAGIC);
        out.put_u32(u32::try_from(len).unwrap_or(u32::MAX));
        out.put_u32(self.chunk);
        out.put_u32(self.num_samples);
        out.put_u64(self.first_sample);
        out.put_u64(self.chunk_len);
        out.put_u32(to_u32("streams", self.streams.len())?);
        out.put_u32(to_u32("stats", self.stats.len())?);
        out.put_u32(to_u32("pieces", self.pieces.len())?);
        out.put_u32(0);
        for stream in &self.streams {
            out.put_u16(stream.field);
            out.put_u8(stream.role.id());
            out.put_u8(stream.plane);
            out.put_u16(stream.codec);
            out.put_u16(u16::from(stream.predict_mode.id()));
            out.put_u32(stream.num_pieces);
            out.put_u32(0);
        }
        for stats in &self.stats {
            out.put_u16(stats.field);
            out.put_u16(0);
            out.put_u32(0);
            out.put_u64(stats.count);
            out.put_u64(stats.non_finite);
            out.put_f64(stats.max_abs_error);
            out.put_f64(stats.rmse);
            out.put_f64(stats.rms);
        }
        for piece in &self.pieces {
            out.put_u32(piece.raw_len);
            out.put_u32(piece.stored_len);
            out.put_u32(piece.crc);
        }
        let crc = checksum(
            &Context::chunk_header(shard_id.0, u64::from(self.chunk)),
            &out,
        );
        out.put_u32(crc);
        Ok((out, crc))
    }

    /// Parses and checks the header of chunk `chunk`, `entry.header_len` bytes, against its index record and schema.
    pub(crate) fn parse(
        bytes: &[u8],
        shard_id: ShardId,
        chunk: u64,
        entry: &IndexEntry,
        samples: (u64, u32),
        schema: &Schema,
    ) -> Result<Self> {
        let Some((body, crc)) = bytes.split_last_chunk::<4>() else {
            return Err(Error::corrupt(
                "length of the chunk header",
                "at least 52",
                bytes.len(),
            ));
        };
        let stored = u32::from_le_bytes(*crc);
        expect_checksum("header_crc in the index", stored, entry.header_crc)?;
        let expected = checksum(&Context::chunk_header(shard_id.0, chunk), body);
        expect_checksum("checksum of the chunk header", expected, stored)?;
        let mut c = Cursor::new(body, "chunk header");
        let magic: [u8; 4] = c.array()?;
        if magic != CHUNK_MAGIC {
            return Err(Error::corrupt(
                "magic of the chunk",
                "TSCK",
                format_args!("{magic:02x?}"),
            ));
        }
        let header_len_field = c.u32()?;
        let chunk_field = c.u32()?;
        let num_samples = c.u32()?;
        let first_sample = c.u64()?;
        let chunk_len = c.u64()?;
        let (num_streams, num_stats, num_pieces) = (c.u32()?, c.u32()?, c.u32()?);
        c.reserved(4)?;
        expect_eq(
            "header_len",
            bytes.len() as u64,
            u64::from(header_len_field),
        )?;
        expect_eq("chunk", chunk, u64::from(chunk_field))?;
        expect_eq("first_sample", samples.0, first_sample)?;
        expect_eq("num_samples", samples.1, num_samples)?;
        expect_eq("chunk_len", entry.chunk_len, chunk_len)?;
        let counted = header_len(
            u64::from(num_streams),
            u64::from(num_stats),
            u64::from(num_pieces),
        );
        expect_eq("header_len for these counts", counted, bytes.len() as u64)?;

        // From here the counts are no more than the bytes present.
        let mut streams = Vec::with_capacity(num_streams as usize);
        for _ in 0..num_streams {
            streams.push(read_stream(&mut c)?);
        }
        let mut stats = Vec::with_capacity(num_stats as usize);
        for _ in 0..num_stats {
            stats.push(read_stats(&mut c)?);
        }
        let mut pieces = Vec::with_capacity(num_pieces as usize);
        for _ in 0..num_pieces {
            pieces.push(read_piece(&mut c)?);
        }
        c.finish()?;
        let mut header = Self {
            chunk: chunk_field,
            num_samples,
            first_sample,
            chunk_len,
            streams,
            stats,
            pieces,
            header_len: header_len_field,
            streams_end: 0,
        };
        header.lay_out()?;
        expect_eq(
            "chunk_len for these streams",
            align(header.streams_end, ALIGN),
            chunk_len,
        )?;
        header.check_presence(schema)?;
        Ok(header)
    }

    /// Derives where streams are from the piece table.
    fn lay_out(&mut self) -> Result<()> {
        let mut first_piece = 0usize;
        let mut end = u64::from(self.header_len);
        for stream in &mut self.streams {
            let pieces = self
                .pieces
                .get(first_piece..)
                .and_then(|rest| rest.get(..stream.num_pieces as usize));
            let Some(pieces) = pieces else {
                return Err(Error::corrupt(
                    "num_pieces of a stream",
                    "pieces of the piece table",
                    stream.num_pieces,
                ));
            };
            stream.first_piece = first_piece;
            stream.stored_len = pieces.iter().map(|piece| u64::from(piece.stored_len)).sum();
            stream.raw_len = pieces.iter().map(|piece| u64::from(piece.raw_len)).sum();
            expect_limit("bytes of a stream", limits::STREAM_RAW, stream.raw_len)?;
            if let Ok(codec) = codec::by_id(stream.codec) {
                check_expansion(codec.max_expansion(), pieces)?;
            }
            stream.padding_from = end;
            stream.offset = stream_offset(end, stream.stored_len);
            end = stream.offset.saturating_add(stream.stored_len);
            first_piece = first_piece.saturating_add(pieces.len());
        }
        expect_eq(
            "pieces of all streams",
            first_piece as u64,
            self.pieces.len() as u64,
        )?;
        self.streams_end = end;
        Ok(())
    }

    /// Streams and stats are those that the schema asks for, in order.
    fn check_presence(&self, schema: &Schema) -> Result<()> {
        let mut streams = self.streams.iter().peekable();
        let mut stats = self.stats.iter();
        for (ordinal, field) in (0u16..).zip(schema.fields()) {
            // The same in all planes.
            let chosen = streams
                .peek()
                .filter(|_| field.filters().iter().any(FilterSpec::is_per_chunk))
                .map_or(PredictMode::None, |stream| stream.predict_mode);
            for (plane, codec) in (0u8..).zip(field.codecs()) {
                let found = streams.next();
                let here =
                    found.filter(|s| (s.field, s.role, s.plane) == (ordinal, Role::Plane, plane));
                let checked = match here {
                    Some(stream) => expect_mode(chosen, stream.predict_mode)
                        .and_then(|()| self.check_plane(field, codec.id().get(), stream)),
                    None => Err(Error::corrupt(
                        "stream table",
                        format_args!("plane {plane}"),
                        describe(found),
                    )),
                };
                checked.map_err(|e| e.in_field(field.name()))?;
            }
            let wanted = [
                (Role::Scales, field.has_scales_stream()),
                (
                    Role::ZeroPoints,
                    field.has_scales_stream() && field.quant.has_zero_points(),
                ),
                (Role::Shapes, field.is_ragged()),
            ];
            for (role, _) in wanted.iter().filter(|(_, present)| *present) {
                let found = streams.next();
                let here = found.filter(|s| s.field == ordinal && s.role == *role);
                let checked = match here {
                    // Its codec is known, also where no piece needs it.
                    Some(stream) => codec::by_id(stream.codec).map(|_| ()),
                    None => Err(Error::corrupt(
                        "stream table",
                        format_args!("a {role:?} stream"),
                        describe(found),
                    )),
                };
                checked.map_err(|e| e.in_field(field.name()))?;
            }
            let is_patches =
                |s: &&Stream| s.field == ordinal && s.role == Role::Patches && s.num_pieces > 0;
            if field.quantizer().allows_patches()
                && let Some(stream) = streams.next_if(is_patches)
            {
                codec::by_id(stream.codec).map_err(|e| e.in_field(field.name()))?;
            }
            if !field.is_lossy() {
                continue;
            }
            let Some(record) = stats.next().filter(|record| record.field == ordinal) else {
                return Err(
                    Error::corrupt("stats", "one record for every lossy field", "none")
                        .in_field(field.name()),
                );
            };
            if let Some(shape) = field.fixed_shape() {
                let elements = num_elements(&shape).map_or(u64::MAX, |n| n as u64);
                let elements = elements.saturating_mul(u64::from(self.num_samples));
                record
                    .check_count(elements)
                    .map_err(|e| e.in_field(field.name()))?;
            }
        }
        if let Some(stream) = streams.next() {
            return Err(Error::corrupt(
                "stream table",
                "no more streams",
                describe(Some(stream)),
            ));
        }
        if let Some(extra) = stats.next() {
            return Err(Error::corrupt(
                "stats",
                "no more records",
                format_args!("a record of field {}", extra.field),
            ));
        }
        Ok(())
    }

    /// A plane has the codec of the schema, and its part of the bytes of fixed samples.
    fn check_plane(&self, field: &Field, codec: u16, stream: &Stream) -> Result<()> {
        expect_eq("codec of a plane", codec, stream.codec)?;
        if let Some(sample) = field.fixed_stored_bytes() {
            let bytes = sample.saturating_mul(u64::from(self.num_samples));
            let planes = stream.raw_len.saturating_mul(field.codecs().len() as u64);
            expect_eq("bytes of the planes", bytes, planes)?;
        }
        Ok(())
    }

    /// Ordinals and entries of the planes of a field, in order.
    pub(crate) fn planes(&self, field: usize) -> impl Iterator<Item = (u32, &Stream)> {
        (0u32..)
            .zip(&self.streams)
            .skip_while(move |(_, stream)| usize::from(stream.field) < field)
            .take_while(move |(_, stream)| {
                usize::from(stream.field) == field && stream.role == Role::Plane
            })
    }

    /// Ordinal and entry of a stream; of a plane, the first.
    pub(crate) fn stream(&self, field: usize, role: Role) -> Option<(u32, &Stream)> {
        (0u32..)
            .zip(&self.streams)
            .find(|(_, stream)| usize::from(stream.field) == field && stream.role == role)
    }

    /// The pieces of a stream.
    pub(crate) fn stream_pieces(&self, stream: &Stream) -> &[Piece] {
        let rest = self.pieces.get(stream.first_piece..).unwrap_or_default();
        rest.get(..stream.num_pieces as usize).unwrap_or_default()
    }
}

fn expect_mode(expected: PredictMode, found: PredictMode) -> Result<()> {
    expect_eq("predict_mode of a stream", expected.id(), found.id())
}

/// No piece claims more than its codec can make of it.
fn check_expansion(max_expansion: u64, pieces: &[Piece]) -> Result<()> {
    let honest = |piece: &&Piece| {
        let most = u64::from(piece.stored_len)
            .saturating_mul(max_expansion)
            .max(u64::from(piece.stored_len));
        u64::from(piece.raw_len) <= most
    };
    match pieces.iter().find(|piece| !honest(piece)) {
        None => Ok(()),
        Some(piece) => Err(Error::corrupt(
            "raw_len of a piece",
            format_args!(
                "at most {max_expansion} times its {} stored bytes",
                piece.stored_len
            ),
            piece.raw_len,
        )),
    }
}

fn describe(stream: Option<&Stream>) -> String {
    stream.map_or_else(
        || "nothing".to_owned(),
        |s| match s.role {
            Role::Plane => format!("plane {} of field {}", s.plane, s.field),
            role => format!("a {role:?} stream of field {}", s.field),
        },
    )
}

fn read_stream(c: &mut Cursor<'_>) -> Result<Stream> {
    let field = c.u16()?;
    let role = Role::from_id(c.u8()?)?;
    let plane = c.u8()?;
    let codec = c.u16()?;
    let predict_mode = PredictMode::of_chunk(c.u16()?)?;
    let num_pieces = c.u32()?;
    c.reserved(4)?;
    if role != Role::Plane {
        expect_eq("plane of a stream", 0, plane)?;
        expect_mode(PredictMode::None, predict_mode)?;
    }
    Ok(Stream {
        field,
        role,
        plane,
        codec,
        predict_mode,
        num_pieces,
        first_piece: 0,
        offset: 0,
        stored_len: 0,
        raw_len: 0,
        padding_from: 0,
    })
}

fn read_stats(c: &mut Cursor<'_>) -> Result<Stats> {
    let field = c.u16()?;
    c.reserved(6)?;
    let stats = Stats {
        field,
        count: c.u64()?,
        non_finite: c.u64()?,
        max_abs_error: c.f64()?,
        rmse: c.f64()?,
        rms: c.f64()?,
    };
    for x in [stats.max_abs_error, stats.rmse, stats.rms] {
        if !(x.is_finite() && x >= 0.0 && !(stats.count == 0 && x > 0.0)) {
            return Err(Error::corrupt(
                "stats",
                "finite numbers that are not negative",
                x,
            ));
        }
    }
    Ok(stats)
}

fn read_piece(c: &mut Cursor<'_>) -> Result<Piece> {
    let piece = Piece {
        raw_len: c.u32()?,
        stored_len: c.u32()?,
        crc: c.u32()?,
    };
    expect_limit(
        "raw_len of a piece",
        limits::PIECE_MAX,
        u64::from(piece.raw_len),
    )?;
    if piece.stored_len == 0 || piece.stored_len > piece.raw_len {
        return Err(Error::corrupt(
            "stored_len of a piece",
            format_args!("1 to raw_len = {}", piece.raw_len),
            piece.stored_len,
        ));
    }
    Ok(piece)
}

#[cfg(test)]
mod tests;
