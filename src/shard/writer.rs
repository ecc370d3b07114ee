//! Writes one shard: header, chunks, index, footer, front to back.

use std::io::IoSlice;

use crate::checksum::{Context, checksum};
use crate::error::{Error, Result};
use crate::format::align;
use crate::format::chunk::{self, ChunkHeader, Piece, Stream};
use crate::format::footer::{FOOTER_LEN, Footer};
use crate::format::forever::ALIGN;
use crate::format::header::ShardHeader;
use crate::format::index::{IndexEntry, index_crc};
use crate::format::manifest::ShardRecord;
use crate::format::shard_id::ShardId;
use crate::storage::Sink;

use super::encode::EncodedChunk;

/// A shard that is being written.
pub(crate) struct ShardFileWriter<S: Sink> {
    sink: S,
    version_minor: u16,
    compat: u32,
    shard_id: ShardId,
    samples_per_chunk: u32,
    header_crc: u32,
    index: Vec<u8>,
    num_chunks: u32,
    num_samples: u64,
    /// Bytes appended so far.
    offset: u64,
}

impl<S: Sink> ShardFileWriter<S> {
    /// Writes the header.
    pub(crate) fn create(mut sink: S, header: &ShardHeader) -> Result<Self> {
        let (bytes, header_crc) = header.encode()?;
        sink.append(&bytes)?;
        Ok(Self {
            sink,
            version_minor: header.version_minor,
            compat: header.compat,
            shard_id: header.shard_id,
            samples_per_chunk: header.samples_per_chunk,
            header_crc,
            index: Vec::new(),
            num_chunks: 0,
            num_samples: 0,
            offset: bytes.len() as u64,
        })
    }

    pub(crate) fn sink(&self) -> &S {
        &self.sink
    }

    pub(crate) fn samples_per_chunk(&self) -> u32 {
        self.samples_per_chunk
    }

    /// Bytes that the shard would have if it were finished now.
    pub(crate) fn file_len(&self) -> u64 {
        self.offset + self.index.len() as u64 + FOOTER_LEN as u64
    }

    /// True if the last chunk was shorter than `samples_per_chunk`: nothing can follow it.
    pub(crate) fn is_full(&self) -> bool {
        self.num_samples != u64::from(self.num_chunks) * u64::from(self.samples_per_chunk)
    }

    /// Appends a chunk.
    pub(crate) fn append(&mut self, encoded: &EncodedChunk) -> Result<()> {
        if encoded.num_samples == 0
            || encoded.num_samples > self.samples_per_chunk
            || self.is_full()
        {
            return Err(Error::invalid(
                "a chunk that does not fit the shard: this is a bug, please report it",
            ));
        }
        let (header, header_bytes, entry) = self.lay_out(encoded)?;
        // Header and streams go to the file from where they are, with padding between them.
        let mut parts = vec![IoSlice::new(&header_bytes)];
        let mut end = header_bytes.len() as u64;
        for (stream, encoded) in header.streams.iter().zip(&encoded.streams) {
            parts.push(IoSlice::new(padding(end, stream.offset)?));
            parts.push(IoSlice::new(&encoded.data));
            end = stream.offset + stream.stored_len;
        }
        parts.push(IoSlice::new(padding(end, header.chunk_len)?));
        self.sink.append_all(&mut parts)?;
        entry.put(&mut self.index);
        self.offset += header.chunk_len;
        self.num_chunks += 1;
        self.num_samples += u64::from(encoded.num_samples);
        Ok(())
    }

    /// The header of a chunk at the current offset, its bytes, and its index record.
    fn lay_out(&self, encoded: &EncodedChunk) -> Result<(ChunkHeader, Vec<u8>, IndexEntry)> {
        let num_pieces = encoded
            .streams
            .iter()
            .map(|stream| stream.pieces.len() as u64)
            .sum();
        let header_len = chunk::header_len(
            encoded.streams.len() as u64,
            encoded.stats.len() as u64,
            num_pieces,
        );
        let mut header = ChunkHeader {
            chunk: self.num_chunks,
            num_samples: encoded.num_samples,
            first_sample: self.num_samples,
            chunk_len: 0,
            streams: Vec::with_capacity(encoded.streams.len()),
            stats: encoded.stats.clone(),
            pieces: Vec::new(),
            header_len: u32::try_from(header_len).unwrap_or(u32::MAX),
            streams_end: header_len,
        };
        for (ordinal, stream) in (0u32..).zip(&encoded.streams) {
            let mut rest = stream.data.as_slice();
            for (piece, &(raw_len, stored_len)) in (0u32..).zip(&stream.pieces) {
                let (stored, tail) = rest.split_at(stored_len as usize);
                rest = tail;
                let context = Context {
                    shard_id: self.shard_id.0,
                    chunk: u64::from(self.num_chunks),
                    stream: ordinal,
                    piece,
                };
                header.pieces.push(Piece {
                    raw_len,
                    stored_len,
                    crc: checksum(&context, stored),
                });
            }
            let stored_len = stream.data.len() as u64;
            let offset = chunk::stream_offset(header.streams_end, stored_len);
            header.streams.push(Stream {
                field: stream.field,
                role: stream.role,
                plane: stream.plane,
                codec: stream.codec,
                predict_mode: stream.predict_mode,
                num_pieces: u32::try_from(stream.pieces.len()).unwrap_or(u32::MAX),
                first_piece: 0,
                offset,
                stored_len,
                raw_len: 0,
                padding_from: header.streams_end,
            });
            header.streams_end = offset + stored_len;
        }
        header.chunk_len = align(header.streams_end, ALIGN);
        let (bytes, header_crc) = header.encode(self.shard_id)?;
        let entry = IndexEntry {
            offset: self.offset,
            chunk_len: header.chunk_len,
            header_len: header.header_len,
            header_crc,
        };
        Ok((header, bytes, entry))
    }

    /// Writes index and footer. The shard is complete when the sink is committed.
    pub(crate) fn finish(mut self) -> Result<(ShardRecord, S)> {
        let footer = Footer {
            version_minor: self.version_minor,
            compat: self.compat,
            shard_id: self.shard_id,
            num_samples: self.num_samples,
            num_chunks: u64::from(self.num_chunks),
            index_offset: self.offset,
            file_len: self.file_len(),
            index_crc: index_crc(self.shard_id.0, &self.index),
            header_crc: self.header_crc,
        };
        let (bytes, footer_crc) = footer.encode();
        self.sink
            .append_all(&mut [IoSlice::new(&self.index), IoSlice::new(&bytes)])?;
        let record = ShardRecord {
            shard_id: self.shard_id,
            first_sample: 0,
            num_samples: self.num_samples,
            samples_per_chunk: self.samples_per_chunk,
            footer_crc,
            file_len: footer.file_len,
        };
        Ok((record, self.sink))
    }
}

/// Zeros from one offset to the next.
fn padding(from: u64, to: u64) -> Result<&'static [u8]> {
    const ZEROS: [u8; 64] = [0; 64];
    const { assert!(ZEROS.len() as u64 == ALIGN) };
    to.checked_sub(from)
        .and_then(|len| ZEROS.get(..usize::try_from(len).ok()?))
        .ok_or_else(|| {
            Error::invalid("more padding than alignment needs: this is a bug, please report it")
        })
}
