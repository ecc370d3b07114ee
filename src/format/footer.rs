//! The fixed-size end of a shard (format-spec 4.3).

use crate::checksum::{Context, FOOTER, checksum};
use crate::error::{Error, MAGIC_OF_FOOTER, Result};

use super::forever::END_MAGIC;
use super::header::{expect_checksum, read_magic};
use super::index::INDEX_RECORD;
use super::shard_id::ShardId;
use super::wire::{Cursor, Put, expect_eq, expect_limit};
use super::{limits, version};

/// Bytes of the footer.
pub(crate) const FOOTER_LEN: usize = 88;
/// Where the end magic is in it.
const END_MAGIC_AT: u64 = 80;
/// Where its reserved bytes are.
const RESERVED_AT: u64 = 68;

/// What a shard says about itself at its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Footer {
    pub(crate) version_minor: u16,
    /// Feature bits that a reader need not know.
    pub(crate) compat: u32,
    pub(crate) shard_id: ShardId,
    pub(crate) num_samples: u64,
    pub(crate) num_chunks: u64,
    pub(crate) index_offset: u64,
    pub(crate) file_len: u64,
    pub(crate) index_crc: u32,
    pub(crate) header_crc: u32,
}

impl Footer {
    /// The footer's bytes, and its stored checksum.
    pub(crate) fn encode(&self) -> (Vec<u8>, u32) {
        let mut out = Vec::with_capacity(FOOTER_LEN);
        out.put(&self.shard_id.0);
        out.put_u64(self.num_samples);
        out.put_u64(self.num_chunks);
        out.put_u64(self.index_offset);
        out.put_u64(self.file_len);
        out.put_u32(self.index_crc);
        out.put_u32(self.header_crc);
        version::put_version(self.version_minor, &mut out);
        version::put_features(self.compat, &mut out);
        out.put_u64(0);
        let crc = checksum(&Context::structure(self.shard_id.0, FOOTER), &out);
        out.put_u32(crc);
        out.put(&END_MAGIC);
        (out, crc)
    }

    /// Parses the last [`FOOTER_LEN`] bytes of a file of `file_len` bytes. Returns the footer and its stored checksum.
    ///
    /// # Errors
    /// Their offsets are those in the file.
    pub(crate) fn parse(bytes: &[u8], file_len: u64) -> Result<(Self, u32)> {
        let start = file_len.saturating_sub(FOOTER_LEN as u64);
        Self::parse_inner(bytes, file_len).map_err(|e| e.within(start))
    }

    fn parse_inner(bytes: &[u8], file_len: u64) -> Result<(Self, u32)> {
        let mut c = Cursor::new(bytes, "footer");
        let shard_id = ShardId(c.array()?);
        let num_samples = c.u64()?;
        let num_chunks = c.u64()?;
        let index_offset = c.u64()?;
        let claimed_len = c.u64()?;
        let index_crc = c.u32()?;
        let header_crc = c.u32()?;
        let version_and_features = c.take(12)?;
        let reserved = c.take(8)?;
        let footer_crc = c.u32()?;
        read_magic(&mut c, END_MAGIC, MAGIC_OF_FOOTER).map_err(|e| e.within(END_MAGIC_AT))?;
        c.finish()?;
        let expected = checksum(
            &Context::structure(shard_id.0, FOOTER),
            bytes.get(..76).unwrap_or_default(),
        );
        expect_checksum("checksum of the footer", expected, footer_crc)?;
        let mut v = Cursor::new(version_and_features, "footer");
        let version_minor = version::read_version(&mut v)?;
        let compat = version::read_features(&mut v)?;
        Cursor::new(reserved, "footer")
            .reserved(8)
            .map_err(|e| e.within(RESERVED_AT))?;
        expect_eq("length of the file", claimed_len, file_len)?;
        expect_limit("num_samples", limits::SAMPLES, num_samples)?;
        if num_chunks == 0 || num_samples == 0 {
            return Err(Error::corrupt(
                "num_chunks",
                "at least one chunk and one sample",
                num_chunks,
            ));
        }
        let end = num_chunks
            .checked_mul(INDEX_RECORD)
            .and_then(|len| len.checked_add(FOOTER_LEN as u64))
            .and_then(|len| len.checked_add(index_offset));
        if end != Some(file_len) {
            return Err(Error::corrupt(
                "index_offset",
                format_args!("{file_len} - {FOOTER_LEN} - {INDEX_RECORD} * num_chunks"),
                format_args!("{index_offset} with num_chunks = {num_chunks}"),
            ));
        }
        Ok((
            Self {
                version_minor,
                compat,
                shard_id,
                num_samples,
                num_chunks,
                index_offset,
                file_len,
                index_crc,
                header_crc,
            },
            footer_crc,
        ))
    }
}
