//! The shard header (format-spec 4.1).

use crate::checksum::{Context, SHARD_HEADER, checksum};
use crate::error::{Error, MAGIC_OF_SHARD, Result};

use super::forever::{ALIGN, SHARD_MAGIC};
use super::schema::Schema;
use super::shard_id::ShardId;
use super::wire::{Cursor, Put, expect_eq, expect_limit, to_u32};
use super::{align, limits, version};

/// Bytes before the schema.
pub(crate) const HEADER_FIXED: usize = 64;

/// What a shard says about itself at its start.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ShardHeader {
    pub(crate) version_minor: u16,
    /// Feature bits that a reader need not know.
    pub(crate) compat: u32,
    pub(crate) shard_id: ShardId,
    pub(crate) samples_per_chunk: u32,
    pub(crate) piece_bytes: u32,
    /// The schema's bytes, as written: they must equal the manifest's.
    pub(crate) schema_bytes: Vec<u8>,
}

impl ShardHeader {
    /// The header's bytes with padding, and its stored checksum.
    pub(crate) fn encode(&self) -> Result<(Vec<u8>, u32)> {
        let schema_len = to_u32("schema", self.schema_bytes.len())?;
        let header_len = to_u32("header", HEADER_FIXED)?
            .saturating_add(schema_len)
            .saturating_add(4);
        let mut out = Vec::new();
        out.put(&SHARD_MAGIC);
        version::put_version(self.version_minor, &mut out);
        out.put_u32(header_len);
        version::put_features(self.compat, &mut out);
        out.put(&self.shard_id.0);
        out.put_u32(self.samples_per_chunk);
        out.put_u32(self.piece_bytes);
        out.put_u32(schema_len);
        out.put_u32(0);
        out.put_u64(0);
        out.put(&self.schema_bytes);
        let crc = checksum(&Context::structure(self.shard_id.0, SHARD_HEADER), &out);
        out.put_u32(crc);
        out.pad_to(ALIGN);
        Ok((out, crc))
    }

    /// Reads `header_len` from the first [`HEADER_FIXED`] bytes, checking what must be checked before more is read.
    pub(crate) fn parse_len(fixed: &[u8]) -> Result<u64> {
        let mut c = Cursor::new(fixed, "shard header");
        read_magic(&mut c, SHARD_MAGIC, MAGIC_OF_SHARD)?;
        version::read_version(&mut c)?;
        let header_len = u64::from(c.u32()?);
        expect_limit(
            "shard header",
            limits::SCHEMA.saturating_add(128),
            header_len,
        )?;
        Ok(header_len)
    }

    /// True if the checksum of a header holds that is laid out as this version's, whatever version it names: `fixed` are
    /// its first [`HEADER_FIXED`] bytes, `read` reads as many as it has.
    pub(crate) fn checksum_holds<'a>(
        fixed: [u8; HEADER_FIXED],
        read: impl FnOnce(u64) -> Result<&'a [u8]>,
    ) -> bool {
        let mut c = Cursor::new(&fixed, "shard header");
        let checked = c.take(12).and_then(|_| c.u32()).and_then(|header_len| {
            let bytes = read(u64::from(header_len))?;
            let shard_id = c.take(8).and_then(|_| c.array())?;
            let Some((body, tail)) = bytes.split_last_chunk::<4>() else {
                return Err(Error::corrupt("header_len", "at least 68", bytes.len()));
            };
            let expected = checksum(&Context::structure(shard_id, SHARD_HEADER), body);
            expect_checksum("checksum", expected, u32::from_le_bytes(*tail))
        });
        checked.is_ok()
    }

    /// Parses `header_len` bytes. Returns the header, its schema and its stored checksum.
    pub(crate) fn parse(bytes: &[u8]) -> Result<(Self, Schema, u32)> {
        let header_len = Self::parse_len(bytes)?;
        expect_eq("header_len", bytes.len() as u64, header_len)?;
        let Some((body, tail)) = bytes.split_last_chunk::<4>() else {
            return Err(Error::corrupt("header_len", "at least 68", bytes.len()));
        };
        let stored = u32::from_le_bytes(*tail);
        let mut c = Cursor::new(body, "shard header");
        c.take(8)?;
        let version_minor = version::read_version(&mut c)?;
        c.take(4)?;
        let features = c.take(8)?;
        let shard_id = ShardId(c.array()?);
        let expected = checksum(&Context::structure(shard_id.0, SHARD_HEADER), body);
        expect_checksum("checksum of the shard header", expected, stored)?;
        let compat = version::read_features(&mut Cursor::new(features, "shard header"))?;
        let samples_per_chunk = c.u32()?;
        let piece_bytes = c.u32()?;
        let schema_len = c.u32()?;
        c.reserved(12)?;
        check_samples_per_chunk(samples_per_chunk)?;
        let bytes_ok = piece_bytes.is_power_of_two()
            && (limits::PIECE_MIN..=limits::PIECE_MAX).contains(&u64::from(piece_bytes));
        if !bytes_ok {
            return Err(Error::corrupt(
                "piece_bytes",
                "a power of two from 16384 to 4194304",
                piece_bytes,
            ));
        }
        expect_eq("schema_len", c.remaining() as u64, u64::from(schema_len))?;
        let schema_bytes = c.take(c.remaining())?.to_vec();
        let schema = Schema::parse(&schema_bytes).map_err(|e| e.within(HEADER_FIXED as u64))?;
        Ok((
            Self {
                version_minor,
                compat,
                shard_id,
                samples_per_chunk,
                piece_bytes,
                schema_bytes,
            },
            schema,
            stored,
        ))
    }

    /// Where chunk 0 starts.
    pub(crate) fn end(&self) -> u64 {
        let len = (HEADER_FIXED as u64)
            .saturating_add(self.schema_bytes.len() as u64)
            .saturating_add(4);
        align(len, ALIGN)
    }
}

pub(crate) fn check_samples_per_chunk(x: u32) -> Result<()> {
    if x == 0 {
        return Err(Error::corrupt("samples_per_chunk", "at least 1", 0));
    }
    expect_limit("samples_per_chunk", limits::SAMPLES_PER_CHUNK, u64::from(x))
}

/// Checks a magic, the one that `what` names.
pub(crate) fn read_magic(
    cursor: &mut Cursor<'_>,
    magic: [u8; 8],
    what: &'static str,
) -> Result<()> {
    let found: [u8; 8] = cursor.array()?;
    if found == magic {
        return Ok(());
    }
    let (name, ends) = found.split_at(4);
    let text_mode =
        magic.starts_with(name) && (ends.starts_with(b"\n") || ends.starts_with(b"\r\r"));
    let note = if text_mode {
        " (line endings were converted by a text-mode transfer)"
    } else {
        ""
    };
    Err(Error::corrupt(
        what,
        format_args!("{}", magic.escape_ascii()),
        format_args!("{}{note}", found.escape_ascii()),
    ))
}

/// Compares a stored checksum. Fuzzing builds skip the comparison, to get past it.
pub(crate) fn expect_checksum(what: &'static str, expected: u32, stored: u32) -> Result<()> {
    if expected == stored || cfg!(fuzzing) {
        return Ok(());
    }
    Err(Error::corrupt(
        what,
        format_args!("{expected:08x}"),
        format_args!("{stored:08x}"),
    ))
}
