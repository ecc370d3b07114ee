//! Finds the chunks of a shard whose header, index or footer is lost: every chunk header repeats what its index record
//! says, and has a checksum of its own.

use std::ops::Range;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::format::chunk::Claim;
use crate::format::footer::{FOOTER_LEN, Footer};
use crate::format::forever::{CHUNK_MAGIC, DEFAULT_PIECE_BYTES};
use crate::format::header::{HEADER_FIXED, ShardHeader};
use crate::format::index::IndexEntry;
use crate::format::schema::Schema;
use crate::format::shard_id::ShardId;
use crate::storage::Storage;

use super::encode::{EncodedChunk, EncodedStream};
use super::reader::{Chunk, ShardReader};

/// Bytes that are looked through at a time.
const BLOCK: u64 = 1 << 20;

/// Bytes that are passed over where the disk cannot be read.
const SECTOR: u64 = 4096;

/// Headers of false chunks are read as long as they take less than this many times the file: beyond, somebody has made
/// them up.
const FALSE_HEADERS: u64 = 16;

/// What the two ends of a shard say, as far as they are intact.
#[derive(Debug, Default)]
pub(crate) struct Ends {
    pub(crate) header: Option<(ShardHeader, Schema)>,
    pub(crate) footer: Option<Footer>,
    /// What a header says whose version is unknown and whose checksum does not hold: it is damaged, or laid out in
    /// another way. Its chunks tell.
    pub(crate) unsupported: Option<Error>,
}

impl Ends {
    /// Reads both ends; what is damaged is missing. Errors of the system are errors.
    pub(crate) fn read(storage: &dyn Storage) -> Result<Self> {
        let mut scratch = Vec::new();
        let mut unsupported = None;
        let header = match read_header(storage, &mut scratch) {
            Ok(header) => Some(header),
            Err(error) if error.is_corrupt() => None,
            Err(error) if error.is_unsupported() && !header_holds(storage, &mut scratch) => {
                unsupported = Some(error.in_file(storage.path()));
                None
            }
            Err(error) => return Err(error.in_file(storage.path())),
        };
        let start = storage.len().saturating_sub(FOOTER_LEN as u64);
        let bytes = storage.read(start..storage.len(), &mut scratch)?;
        let footer = match Footer::parse(bytes, storage.len()) {
            Ok((footer, _)) => Some(footer),
            Err(error) if error.is_corrupt() => None,
            // A footer that does not agree with a header that is known.
            Err(error) if error.is_unsupported() && header.is_some() => None,
            Err(error) => return Err(error.in_file(storage.path())),
        };
        Ok(Self {
            header,
            footer,
            unsupported,
        })
    }

    /// The shard's id, if one of the ends knows it.
    pub(crate) fn shard_id(&self) -> Option<ShardId> {
        let header = self.header.as_ref().map(|(header, _)| header.shard_id);
        header.or(self.footer.as_ref().map(|footer| footer.shard_id))
    }
}

fn read_header(storage: &dyn Storage, scratch: &mut Vec<u8>) -> Result<(ShardHeader, Schema)> {
    let fixed = storage.read(0..HEADER_FIXED as u64, scratch)?;
    let len = ShardHeader::parse_len(fixed).map_err(|e| e.within(0))?;
    let bytes = storage.read(0..len, scratch)?;
    let (header, schema, _) = ShardHeader::parse(bytes).map_err(|e| e.within(0))?;
    Ok((header, schema))
}

/// True if the checksum of the header holds, whatever its version.
fn header_holds(storage: &dyn Storage, scratch: &mut Vec<u8>) -> bool {
    let mut fixed = [0; HEADER_FIXED];
    let read = storage.read_into(0, &mut fixed);
    read.is_ok() && ShardHeader::checksum_holds(fixed, |len| storage.read(0..len, scratch))
}

/// A chunk that was found: its header's checksum holds.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) chunk: Chunk,
    /// Where it is.
    pub(crate) range: Range<u64>,
}

/// A shard that is looked through from front to back.
#[derive(Debug)]
pub(crate) struct Scan {
    reader: ShardReader,
    at: u64,
    /// Bytes of headers that were read in vain.
    wasted: u64,
}

impl Scan {
    /// Looks through `storage`, the shard `shard_id` with these fields.
    pub(crate) fn new(
        storage: Arc<dyn Storage>,
        shard_id: ShardId,
        ends: &Ends,
        schema: &Arc<Schema>,
        schema_bytes: &[u8],
    ) -> Result<Self> {
        let known = ends.header.as_ref().map(|(header, _)| header.clone());
        let at = known.as_ref().map_or(0, ShardHeader::end);
        let header = match known {
            Some(header) => header,
            // What a lost header said: pieces are cut as every writer so far has cut them, or decoding them fails.
            None => ShardHeader {
                version_minor: schema.version_minor()?,
                compat: 0,
                shard_id,
                samples_per_chunk: 0,
                piece_bytes: DEFAULT_PIECE_BYTES,
                schema_bytes: schema_bytes.to_vec(),
            },
        };
        Ok(Self {
            reader: ShardReader::without_index(storage, header, Arc::clone(schema)),
            at,
            wasted: 0,
        })
    }

    /// Decodes the chunks that were found.
    pub(crate) fn reader(&self) -> &ShardReader {
        &self.reader
    }

    /// The next chunk whose header is intact.
    ///
    /// # Errors
    /// `Corrupt` if the file is made of false chunk headers.
    pub(crate) fn next_chunk(&mut self, io: &mut Vec<u8>) -> Result<Option<Found>> {
        let len = self.reader.storage().len();
        while let Some(at) = self.find_magic(io) {
            self.at = at.saturating_add(1);
            let Some(end) = at.checked_add(Claim::LEN).filter(|&end| end <= len) else {
                return Ok(None);
            };
            let storage = self.reader.storage();
            // What cannot be read is no chunk.
            let Some(claim) = storage.read(at..end, io).ok().and_then(Claim::read) else {
                continue;
            };
            let range = at..at.saturating_add(claim.chunk_len);
            let header_end = at.saturating_add(u64::from(claim.header_len));
            if header_end > len {
                continue;
            }
            let Ok(header) = storage.read(at..header_end, io) else {
                continue;
            };
            let header_crc = header.last_chunk().copied().unwrap_or_default();
            let entry = IndexEntry {
                offset: at,
                chunk_len: claim.chunk_len,
                header_len: claim.header_len,
                header_crc: u32::from_le_bytes(header_crc),
            };
            let samples = (claim.first_sample, claim.num_samples);
            let number = u64::from(claim.chunk);
            match self.reader.chunk_at(number, entry, samples, io) {
                Ok(chunk) => {
                    self.at = header_end;
                    return Ok(Some(Found { chunk, range }));
                }
                Err(_) => {
                    self.wasted = self.wasted.saturating_add(u64::from(claim.header_len));
                    if self.wasted > len.saturating_mul(FALSE_HEADERS) {
                        return Err(Error::corrupt(
                            "chunk headers",
                            "headers of chunks",
                            "bytes that only look like them",
                        )
                        .in_file(self.reader.path()));
                    }
                }
            }
        }
        Ok(None)
    }

    /// Goes on after a chunk, which is intact: what is in it cannot be another.
    pub(crate) fn skip(&mut self, found: &Found) {
        self.at = found.range.end;
    }

    /// Where the next magic of a chunk is. Sectors that cannot be read are passed over.
    fn find_magic(&self, io: &mut Vec<u8>) -> Option<u64> {
        let storage = self.reader.storage();
        let overlap = CHUNK_MAGIC.len() as u64 - 1;
        let mut at = self.at;
        // Smaller where a block cannot be read.
        let mut block = BLOCK;
        loop {
            // Holes of a sparse file are zeros, which no magic has.
            at = storage.next_data(at);
            if at.saturating_add(overlap) >= storage.len() {
                return None;
            }
            let end = storage.len().min(at + block + overlap);
            let Ok(bytes) = storage.read(at..end, io) else {
                if block == BLOCK {
                    block = SECTOR;
                } else {
                    at = (at / SECTOR + 1) * SECTOR;
                }
                continue;
            };
            let here = bytes
                .windows(CHUNK_MAGIC.len())
                .position(|window| window == CHUNK_MAGIC);
            if let Some(here) = here {
                return Some(at + here as u64);
            }
            at = end - overlap;
            if at.is_multiple_of(BLOCK) {
                block = BLOCK;
            }
        }
    }
}

/// A chunk as its writer encoded it, its checksums compared: to be written to another shard, where it gets others.
pub(crate) fn encoded(
    shard: &ShardReader,
    number: u64,
    entry: IndexEntry,
    samples: (u64, u32),
    io: &mut Vec<u8>,
) -> Result<EncodedChunk> {
    let chunk = shard.chunk_at(number, entry, samples, io)?;
    let mut streams = Vec::with_capacity(chunk.header.streams.len());
    for (ordinal, stream) in (0u32..).zip(&chunk.header.streams) {
        let mut at = entry.offset.saturating_add(stream.offset);
        let mut data = Vec::new();
        let mut pieces = Vec::new();
        for (piece, listed) in (0u32..).zip(chunk.header.stream_pieces(stream)) {
            data.extend_from_slice(shard.stored_piece(&chunk, ordinal, piece, at, io)?);
            pieces.push((listed.raw_len, listed.stored_len));
            at = at.saturating_add(u64::from(listed.stored_len));
        }
        streams.push(EncodedStream {
            field: stream.field,
            role: stream.role,
            plane: stream.plane,
            codec: stream.codec,
            predict_mode: stream.predict_mode,
            pieces,
            data,
        });
    }
    Ok(EncodedChunk {
        num_samples: chunk.header.num_samples,
        streams,
        stats: chunk.header.stats,
        raw_bytes: 0,
        field_raw_bytes: Vec::new(),
    })
}

/// The header of a shard that takes chunks of `shard`.
pub(crate) fn header_like(
    shard: &ShardReader,
    shard_id: ShardId,
    samples_per_chunk: u32,
) -> ShardHeader {
    ShardHeader {
        shard_id,
        samples_per_chunk,
        ..shard.header().clone()
    }
}
