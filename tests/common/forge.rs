//! Shards with any bytes in them and checksums that hold: what a hostile writer could make.

use std::fs;
use std::ops::Range;
use std::path::Path;

/// A shard, and where its structures are.
#[derive(Clone)]
pub(crate) struct Forge {
    pub(crate) bytes: Vec<u8>,
    pub(crate) header_len: usize,
    pub(crate) chunks: Vec<ForgedChunk>,
    pub(crate) index: Range<usize>,
    pub(crate) footer: usize,
}

/// Where a chunk and its parts are.
#[derive(Clone)]
pub(crate) struct ForgedChunk {
    pub(crate) at: usize,
    pub(crate) len: usize,
    pub(crate) header_len: usize,
    pub(crate) streams: Vec<Vec<ForgedPiece>>,
}

/// Where the bytes of a piece are, and where its entry of the piece table is.
#[derive(Clone)]
pub(crate) struct ForgedPiece {
    pub(crate) entry: usize,
    pub(crate) data: Range<usize>,
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> usize {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> usize {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()) as usize
}

/// format-spec 1.1, written a second time.
pub(crate) fn crc(shard_id: &[u8], chunk: u64, stream: u32, piece: u32, bytes: &[u8]) -> u32 {
    let mut crc = crc32c::crc32c(shard_id);
    crc = crc32c::crc32c_append(crc, &chunk.to_le_bytes());
    crc = crc32c::crc32c_append(crc, &stream.to_le_bytes());
    crc = crc32c::crc32c_append(crc, &piece.to_le_bytes());
    crc = crc32c::crc32c_append(crc, bytes);
    crc.rotate_right(15).wrapping_add(0xA282_EAD8)
}

impl Forge {
    /// Takes a valid shard apart.
    pub(crate) fn new(bytes: Vec<u8>) -> Self {
        let footer = bytes.len() - 88;
        let index = u64_at(&bytes, footer + 32)..footer;
        let mut chunks = Vec::new();
        for record in index.clone().step_by(24) {
            let (at, len) = (u64_at(&bytes, record), u64_at(&bytes, record + 8));
            let header_len = u32_at(&bytes, record + 16);
            chunks.push(forged_chunk(&bytes, at, len, header_len));
        }
        Self {
            header_len: u32_at(&bytes, 12),
            chunks,
            index,
            footer,
            bytes,
        }
    }

    fn put_crc(&mut self, at: usize, crc: u32) {
        self.bytes[at..at + 4].copy_from_slice(&crc.to_le_bytes());
    }

    /// Computes every checksum anew, where it was in the valid shard.
    pub(crate) fn sign(&mut self) {
        const STRUCTURE: u32 = u32::MAX;
        let id = self.bytes[24..40].to_vec();
        let end = self.header_len - 4;
        let header_crc = crc(&id, 0, STRUCTURE, 1, &self.bytes[..end]);
        self.put_crc(end, header_crc);
        for (number, chunk) in (0u64..).zip(self.chunks.clone()) {
            for (ordinal, stream) in (0u32..).zip(&chunk.streams) {
                for (piece, place) in (0u32..).zip(stream) {
                    let crc = crc(&id, number, ordinal, piece, &self.bytes[place.data.clone()]);
                    self.put_crc(place.entry + 8, crc);
                }
            }
            let end = chunk.at + chunk.header_len - 4;
            let crc = crc(&id, number, STRUCTURE, 2, &self.bytes[chunk.at..end]);
            self.put_crc(end, crc);
            self.put_crc(self.index.start + 24 * number as usize + 20, crc);
        }
        let id = self.bytes[self.footer..self.footer + 16].to_vec();
        let index_crc = crc(&id, 0, STRUCTURE, 3, &self.bytes[self.index.clone()]);
        self.put_crc(self.footer + 48, index_crc);
        self.put_crc(self.footer + 52, header_crc);
        let body = self.footer..self.footer + 76;
        let footer_crc = crc(&id, 0, STRUCTURE, 4, &self.bytes[body]);
        self.put_crc(self.footer + 76, footer_crc);
    }

    /// The shard with other stored bytes in the only piece of its only stream, which claims to hold `raw_len` bytes.
    pub(crate) fn with_payload(&self, payload: &[u8], raw_len: u32) -> Vec<u8> {
        let chunk = &self.chunks[0];
        assert!(self.chunks.len() == 1 && chunk.streams.len() == 1 && chunk.streams[0].len() == 1);
        let piece = &chunk.streams[0][0];
        let mut bytes = self.bytes[..chunk.at + chunk.header_len].to_vec();
        let entry = piece.entry;
        bytes[entry..entry + 4].copy_from_slice(&raw_len.to_le_bytes());
        bytes[entry + 4..entry + 8].copy_from_slice(&(payload.len() as u32).to_le_bytes());
        let align = if payload.len() < 4096 { 8 } else { 64 };
        bytes.resize(
            (bytes.len() - chunk.at).next_multiple_of(align) + chunk.at,
            0,
        );
        let data = bytes.len()..bytes.len() + payload.len();
        bytes.extend_from_slice(payload);
        bytes.resize((bytes.len() - chunk.at).next_multiple_of(64) + chunk.at, 0);
        let chunk_len = (bytes.len() - chunk.at) as u64;
        bytes[chunk.at + 24..chunk.at + 32].copy_from_slice(&chunk_len.to_le_bytes());
        let index = bytes.len()..bytes.len() + 24;
        bytes.extend_from_slice(&self.bytes[self.index.clone()]);
        bytes[index.start + 8..index.start + 16].copy_from_slice(&chunk_len.to_le_bytes());
        let footer = bytes.len();
        bytes.extend_from_slice(&self.bytes[self.footer..]);
        bytes[footer + 32..footer + 40].copy_from_slice(&(index.start as u64).to_le_bytes());
        let file_len = bytes.len() as u64;
        bytes[footer + 40..footer + 48].copy_from_slice(&file_len.to_le_bytes());
        let mut forged = Self {
            bytes,
            header_len: self.header_len,
            chunks: vec![ForgedChunk {
                len: chunk_len as usize,
                streams: vec![vec![ForgedPiece { entry, data }]],
                ..chunk.clone()
            }],
            index,
            footer,
        };
        forged.sign();
        forged.bytes
    }

    /// The stored bytes of the only piece.
    pub(crate) fn payload(&self) -> &[u8] {
        &self.bytes[self.chunks[0].streams[0][0].data.clone()]
    }
}

fn forged_chunk(bytes: &[u8], at: usize, len: usize, header_len: usize) -> ForgedChunk {
    let counts = [32, 36].map(|offset| u32_at(bytes, at + offset));
    let table = at + 48;
    let mut entry = table + 16 * counts[0] + 48 * counts[1];
    let mut end = header_len;
    let mut streams = Vec::new();
    for stream in 0..counts[0] {
        let num_pieces = u32_at(bytes, table + 16 * stream + 8);
        let stored: usize = (0..num_pieces)
            .map(|piece| u32_at(bytes, entry + 12 * piece + 4))
            .sum();
        let mut data = at + end.next_multiple_of(if stored < 4096 { 8 } else { 64 });
        end = data - at + stored;
        let mut pieces = Vec::new();
        for _ in 0..num_pieces {
            let to = data + u32_at(bytes, entry + 4);
            pieces.push(ForgedPiece {
                entry,
                data: data..to,
            });
            data = to;
            entry += 12;
        }
        streams.push(pieces);
    }
    ForgedChunk {
        at,
        len,
        header_len,
        streams,
    }
}

/// The bytes of the first shard of a dataset.
pub(crate) fn first_shard(folder: &Path) -> Vec<u8> {
    let dataset = tensorshard::Dataset::open(folder).unwrap();
    let report = dataset.inspect().unwrap();
    fs::read(folder.join(&report.shards[0].file_name)).unwrap()
}
