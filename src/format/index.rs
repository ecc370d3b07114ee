//! The chunk index (format-spec 4.2): fixed-width records, used in place.

use bytes::Bytes;

use crate::checksum::{Context, INDEX, checksum};
use crate::error::{Error, Result};

use super::footer::Footer;
use super::forever::ALIGN;
use super::header::expect_checksum;
use super::wire::{Cursor, Put, to_usize};

/// Bytes of one record.
pub(crate) const INDEX_RECORD: u64 = 24;

/// Where a chunk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct IndexEntry {
    pub(crate) offset: u64,
    pub(crate) chunk_len: u64,
    pub(crate) header_len: u32,
    pub(crate) header_crc: u32,
}

impl IndexEntry {
    pub(crate) fn put(&self, out: &mut Vec<u8>) {
        out.put_u64(self.offset);
        out.put_u64(self.chunk_len);
        out.put_u32(self.header_len);
        out.put_u32(self.header_crc);
    }

    fn parse(record: &[u8]) -> Result<Self> {
        let mut c = Cursor::new(record, "index record");
        let entry = Self {
            offset: c.u64()?,
            chunk_len: c.u64()?,
            header_len: c.u32()?,
            header_crc: c.u32()?,
        };
        c.finish()?;
        Ok(entry)
    }
}

/// The checksum of a whole index.
pub(crate) fn index_crc(shard_id: [u8; 16], index: &[u8]) -> u32 {
    checksum(&Context::structure(shard_id, INDEX), index)
}

/// The index of an open shard: validated once, then used in place.
#[derive(Clone, Debug)]
pub(crate) struct Index {
    bytes: Bytes,
}

impl Index {
    /// No records: of a shard whose chunks were found without its index.
    pub(crate) fn empty() -> Self {
        Self {
            bytes: Bytes::new(),
        }
    }

    /// Validates that the records tile the file from `chunks_start` to the index.
    pub(crate) fn validate(
        bytes: Bytes,
        footer: &Footer,
        chunks_start: u64,
        samples_per_chunk: u32,
    ) -> Result<Self> {
        expect_checksum(
            "checksum of the index",
            index_crc(footer.shard_id.0, &bytes),
            footer.index_crc,
        )?;
        let chunks = footer
            .num_samples
            .div_ceil(u64::from(samples_per_chunk).max(1));
        if chunks != footer.num_chunks {
            return Err(Error::corrupt(
                "num_chunks",
                format_args!(
                    "{chunks} for {} samples in chunks of {samples_per_chunk}",
                    footer.num_samples
                ),
                footer.num_chunks,
            ));
        }
        let mut at = chunks_start;
        for (chunk, record) in (0u64..).zip(bytes.chunks(24)) {
            let entry = IndexEntry::parse(record)?;
            let end = entry.offset.checked_add(entry.chunk_len).filter(|&end| {
                entry.offset == at
                    && entry.chunk_len % ALIGN == 0
                    && u64::from(entry.header_len) < entry.chunk_len
                    && end <= footer.index_offset
            });
            let Some(end) = end else {
                return Err(Error::corrupt(
                    "index record",
                    format_args!(
                        "a chunk that starts at {at} and ends before {}",
                        footer.index_offset
                    ),
                    format_args!("{entry:?}"),
                )
                .in_chunk(chunk));
            };
            at = end;
        }
        if at != footer.index_offset {
            return Err(Error::corrupt(
                "end of the last chunk",
                footer.index_offset,
                at,
            ));
        }
        Ok(Self { bytes })
    }

    /// The record of a chunk.
    pub(crate) fn get(&self, chunk: u64) -> Result<IndexEntry> {
        let start = to_usize("chunk", chunk.saturating_mul(INDEX_RECORD))?;
        let record = self
            .bytes
            .get(start..)
            .and_then(|rest| rest.get(..24))
            .ok_or_else(|| {
                Error::invalid(format!(
                    "chunk {chunk} of a shard with {} chunks",
                    self.len()
                ))
            })?;
        IndexEntry::parse(record)
    }

    pub(crate) fn len(&self) -> u64 {
        self.bytes.len() as u64 / INDEX_RECORD
    }
}

#[cfg(test)]
mod tests {
    use super::super::shard_id::ShardId;
    use super::*;

    /// The index of two chunks of 128 and 192 bytes from byte 448 on, with a change, and a checksum that holds.
    fn validate(change: impl Fn(&mut [IndexEntry; 2])) -> Result<Index> {
        let record = |offset, chunk_len| IndexEntry {
            offset,
            chunk_len,
            header_len: 100,
            header_crc: 7,
        };
        let mut records = [record(448, 128), record(576, 192)];
        change(&mut records);
        let mut bytes = Vec::new();
        for record in &records {
            record.put(&mut bytes);
        }
        let footer = Footer {
            version_minor: 0,
            compat: 0,
            shard_id: ShardId([3; 16]),
            num_samples: 5,
            num_chunks: 2,
            index_offset: 768,
            file_len: 0,
            index_crc: index_crc([3; 16], &bytes),
            header_crc: 0,
        };
        Index::validate(bytes.into(), &footer, 448, 3)
    }

    #[test]
    fn records_tile_the_chunks() {
        let index = validate(|_| ()).unwrap();
        assert_eq!(index.len(), 2);
        assert_eq!(index.get(1).unwrap().offset, 576);
        assert!(index.get(2).is_err());
        type Change<'a> = &'a dyn Fn(&mut [IndexEntry; 2]);
        let wrong: &[Change<'_>] = &[
            &|r| r[0].offset = 512,
            &|r| r[1].offset = 512,
            &|r| r[1].offset = 640,
            &|r| r[0].chunk_len = 64,
            &|r| r[0].chunk_len = 129,
            &|r| r[1].chunk_len = 128,
            &|r| r[1].chunk_len = 256,
            &|r| r[1].chunk_len = u64::MAX - 63,
            &|r| r[0].header_len = 128,
            &|r| r[1].header_len = u32::MAX,
            // Both wrong, and the end right again.
            &|r| (r[0].chunk_len, r[1].offset, r[1].chunk_len) = (100, 548, 220),
        ];
        for change in wrong {
            assert!(validate(change).is_err());
        }
    }
}
