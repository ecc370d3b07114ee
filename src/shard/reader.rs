//! Opens one shard: header, footer and index are checked once; chunks on demand.

use std::path::Path;
use std::sync::Arc;

use crate::checksum::{self, Context, Running};
use crate::error::{Error, ErrorKind, Result};
use crate::format::chunk::{ChunkHeader, Piece, Stream};
use crate::format::footer::{FOOTER_LEN, Footer};
use crate::format::header::{HEADER_FIXED, ShardHeader, expect_checksum};
use crate::format::index::{Index, IndexEntry};
use crate::format::manifest::ShardRecord;
use crate::format::schema::Schema;
use crate::kernel::stream;
use crate::storage::Storage;

/// An open shard.
#[derive(Debug)]
pub(crate) struct ShardReader {
    storage: Arc<dyn Storage>,
    header: ShardHeader,
    schema: Arc<Schema>,
    footer: Footer,
    footer_crc: u32,
    index: Index,
    verify_checksums: bool,
}

impl ShardReader {
    /// Opens a shard on its own.
    pub(crate) fn open(storage: Arc<dyn Storage>, verify_checksums: bool) -> Result<Self> {
        Self::open_here(storage, verify_checksums, None)
    }

    /// Opens a shard that a manifest lists: it must be the one that was committed.
    pub(crate) fn open_listed(
        storage: Arc<dyn Storage>,
        verify_checksums: bool,
        record: &ShardRecord,
        schema: &Arc<Schema>,
        schema_bytes: &[u8],
    ) -> Result<Self> {
        Self::open_here(
            storage,
            verify_checksums,
            Some((record, schema, schema_bytes)),
        )
        .map_err(|e| e.in_shard(record.shard_id))
    }

    fn open_here(
        storage: Arc<dyn Storage>,
        verify_checksums: bool,
        listed: Option<(&ShardRecord, &Arc<Schema>, &[u8])>,
    ) -> Result<Self> {
        let opened = Self::open_inner(Arc::clone(&storage), verify_checksums, listed);
        // Unless what was looked at was not the file any more.
        let opened = storage.check().and(opened);
        opened.map_err(|e| e.in_file(storage.path()))
    }

    fn open_inner(
        storage: Arc<dyn Storage>,
        verify_checksums: bool,
        listed: Option<(&ShardRecord, &Arc<Schema>, &[u8])>,
    ) -> Result<Self> {
        let file_len = storage.len();
        if let Some((record, ..)) = listed
            && record.file_len != file_len
        {
            return Err(Error::corrupt(
                "length of the shard",
                format_args!("{} bytes, as the manifest says", record.file_len),
                file_len,
            )
            .at_offset(record.file_len.min(file_len)));
        }
        let minimum = (HEADER_FIXED + FOOTER_LEN) as u64;
        if file_len < minimum {
            return Err(Error::corrupt(
                "length of the shard",
                format_args!("at least {minimum} bytes"),
                file_len,
            )
            .at_offset(file_len));
        }
        let mut scratch = Vec::new();
        let fixed = storage.read(0..HEADER_FIXED as u64, &mut scratch)?;
        let header_len = ShardHeader::parse_len(fixed).map_err(|e| e.within(0))?;
        let header_bytes = storage.read(0..header_len, &mut scratch)?;
        let (header, schema, header_crc) =
            ShardHeader::parse(header_bytes).map_err(|e| e.within(0))?;
        expect_zeros(storage.as_ref(), header_len, header.end(), &mut scratch)?;
        let footer_start = file_len - FOOTER_LEN as u64;
        let footer_bytes = storage.read(footer_start..file_len, &mut scratch)?;
        let (footer, footer_crc) = Footer::parse(footer_bytes, file_len).map_err(|e| {
            // The header's version and features are known.
            match e.kind() {
                ErrorKind::Unsupported { what, .. } => {
                    Error::corrupt("footer", "the version and feature bits of the header", what)
                        .at_offset(footer_start)
                }
                _ => e,
            }
        })?;
        if footer.shard_id != header.shard_id
            || footer.header_crc != header_crc
            || (footer.version_minor, footer.compat) != (header.version_minor, header.compat)
        {
            return Err(Error::corrupt(
                "footer",
                "the shard_id, header_crc, version and feature bits of the header",
                "others",
            )
            .at_offset(footer_start));
        }
        let index_bytes = storage.bytes(footer.index_offset..footer_start)?;
        let index = Index::validate(index_bytes, &footer, header.end(), header.samples_per_chunk)
            .map_err(|e| e.within(footer.index_offset))?;
        let mut schema = Arc::new(schema);
        if let Some((record, manifest_schema, schema_bytes)) = listed {
            let same = record.shard_id == header.shard_id
                && record.num_samples == footer.num_samples
                && record.samples_per_chunk == header.samples_per_chunk
                && (record.footer_crc == footer_crc || cfg!(fuzzing))
                && header.schema_bytes == schema_bytes;
            if !same {
                return Err(Error::corrupt(
                    "shard",
                    format_args!(
                        "the shard that the manifest lists (footer_crc {:08x})",
                        record.footer_crc
                    ),
                    format_args!("shard {} with footer_crc {footer_crc:08x}", header.shard_id),
                )
                .at_offset(footer_start));
            }
            schema = Arc::clone(manifest_schema);
        }
        Ok(Self {
            storage,
            header,
            schema,
            footer,
            footer_crc,
            index,
            verify_checksums,
        })
    }

    /// A reader of a shard whose index or footer is lost: its chunks are found one by one.
    pub(super) fn without_index(
        storage: Arc<dyn Storage>,
        header: ShardHeader,
        schema: Arc<Schema>,
    ) -> Self {
        let footer = Footer {
            version_minor: header.version_minor,
            compat: header.compat,
            shard_id: header.shard_id,
            num_samples: 0,
            num_chunks: 0,
            index_offset: 0,
            file_len: storage.len(),
            index_crc: 0,
            header_crc: 0,
        };
        Self {
            storage,
            header,
            schema,
            footer,
            footer_crc: 0,
            index: Index::empty(),
            verify_checksums: true,
        }
    }

    pub(crate) fn path(&self) -> &Path {
        self.storage.path()
    }

    pub(super) fn storage(&self) -> &dyn Storage {
        self.storage.as_ref()
    }

    pub(super) fn header(&self) -> &ShardHeader {
        &self.header
    }

    pub(crate) fn schema(&self) -> &Arc<Schema> {
        &self.schema
    }

    pub(crate) fn schema_bytes(&self) -> &[u8] {
        &self.header.schema_bytes
    }

    pub(crate) fn piece_bytes(&self) -> u32 {
        self.header.piece_bytes
    }

    /// The record that a manifest would hold for this shard.
    pub(crate) fn record(&self) -> ShardRecord {
        ShardRecord {
            shard_id: self.header.shard_id,
            first_sample: 0,
            num_samples: self.footer.num_samples,
            samples_per_chunk: self.header.samples_per_chunk,
            footer_crc: self.footer_crc,
            file_len: self.footer.file_len,
        }
    }

    pub(crate) fn num_chunks(&self) -> u64 {
        self.index.len()
    }

    /// `result`, unless what it was made of was not the file any more.
    pub(super) fn still_there<T>(&self, result: Result<T>) -> Result<T> {
        self.storage.check().and(result)
    }

    /// Reads and checks the header of a chunk.
    pub(crate) fn chunk(&self, chunk: u64, scratch: &mut Vec<u8>) -> Result<Chunk> {
        self.still_there(self.chunk_inner(chunk, scratch))
            .map_err(|e| e.in_file(self.path()).in_chunk(chunk))
    }

    fn chunk_inner(&self, chunk: u64, scratch: &mut Vec<u8>) -> Result<Chunk> {
        let entry = self.index.get(chunk)?;
        let first_sample = chunk * u64::from(self.header.samples_per_chunk);
        let num_samples =
            (self.footer.num_samples - first_sample).min(u64::from(self.header.samples_per_chunk));
        // Bounded by samples_per_chunk, a u32.
        let num_samples = u32::try_from(num_samples).unwrap_or(u32::MAX);
        self.chunk_at(chunk, entry, (first_sample, num_samples), scratch)
    }

    /// Says that a chunk will be read soon.
    pub(crate) fn will_read(&self, chunk: u64) {
        if let Ok(entry) = self.index.get(chunk) {
            let end = entry.offset.saturating_add(entry.chunk_len);
            self.storage.will_read(entry.offset..end);
        }
    }

    /// Reads and checks the header of a chunk that is where `entry` says and has these samples: the first, and how many.
    pub(super) fn chunk_at(
        &self,
        chunk: u64,
        entry: IndexEntry,
        samples: (u64, u32),
        scratch: &mut Vec<u8>,
    ) -> Result<Chunk> {
        let end = entry.offset.saturating_add(u64::from(entry.header_len));
        let bytes = self.storage.read(entry.offset..end, scratch)?;
        let header = ChunkHeader::parse(
            bytes,
            self.header.shard_id,
            chunk,
            &entry,
            samples,
            &self.schema,
        )
        .map_err(|e| e.within(entry.offset))?;
        Ok(Chunk { header, entry })
    }

    /// The stored bytes of one piece, checked. `offset` is where it starts in the file.
    pub(crate) fn stored_piece<'a>(
        &'a self,
        chunk: &Chunk,
        stream: u32,
        piece: u32,
        offset: u64,
        io: &'a mut Vec<u8>,
    ) -> Result<&'a [u8]> {
        let stored = self.piece(chunk, stream, piece, offset, io)?;
        let bytes = stored.bytes;
        stored.finish()?;
        Ok(bytes)
    }

    /// The stored bytes of one piece, to be checked as they are used.
    pub(super) fn piece<'a>(
        &'a self,
        chunk: &Chunk,
        stream: u32,
        piece: u32,
        offset: u64,
        io: &'a mut Vec<u8>,
    ) -> Result<StoredPiece<'a>> {
        let (entry, check) = self.piece_entry(chunk, stream, piece)?;
        let bytes = self
            .storage
            .read(offset..offset + u64::from(entry.stored_len), io)?;
        Ok(StoredPiece {
            bytes,
            check,
            checked: 0,
            offset,
        })
    }

    /// Copies a piece that is stored as it is to `dst`, past the caches if `cold`, and checks it.
    pub(super) fn copy_piece(
        &self,
        chunk: &Chunk,
        stream: u32,
        piece: u32,
        offset: u64,
        dst: &mut [u8],
        cold: bool,
    ) -> Result<()> {
        let (entry, check) = self.piece_entry(chunk, stream, piece)?;
        if entry.stored_len as usize != dst.len() {
            return Err(Error::invalid(
                "a piece of another length: this is a bug, please report it",
            ));
        }
        let in_place = self
            .storage
            .in_place(offset..offset + u64::from(entry.stored_len))?;
        let Some((mut running, expected)) = check else {
            match in_place {
                Some(bytes) => stream::copy(bytes, dst, cold),
                None => self.storage.read_into(offset, dst)?,
            }
            return Ok(());
        };
        match in_place {
            Some(bytes) => running.copy(bytes, dst, cold),
            None => {
                self.storage.read_into(offset, dst)?;
                running.update(dst);
            }
        }
        check_piece(expected, running, offset)
    }

    /// The table's entry of a piece, and what its checksum must become, if it is to be checked.
    fn piece_entry(
        &self,
        chunk: &Chunk,
        stream: u32,
        piece: u32,
    ) -> Result<(Piece, Option<(Running, u32)>)> {
        let entry = chunk.header.streams.get(stream as usize);
        let pieces = entry.map(|entry| chunk.header.stream_pieces(entry));
        let Some(&entry) = pieces.and_then(|pieces| pieces.get(piece as usize)) else {
            return Err(Error::invalid(
                "a piece that is not there: this is a bug, please report it",
            ));
        };
        let check = self.verify_checksums.then(|| {
            let context = Context {
                shard_id: self.header.shard_id.0,
                chunk: u64::from(chunk.header.chunk),
                stream,
                piece,
            };
            (Running::new(&context), entry.crc)
        });
        Ok((entry, check))
    }

    /// Compares the checksums of everything that is stored of a field in a chunk.
    pub(crate) fn check_stored(&self, chunk: &Chunk, field: usize, io: &mut Vec<u8>) -> Result<()> {
        let check = |io: &mut Vec<u8>| {
            for (ordinal, stream) in (0u32..).zip(&chunk.header.streams) {
                if usize::from(stream.field) != field {
                    continue;
                }
                self.check_padding(chunk, stream, io)?;
                let mut at = chunk.entry.offset + stream.offset;
                for (piece, entry) in (0u32..).zip(chunk.header.stream_pieces(stream)) {
                    self.stored_piece(chunk, ordinal, piece, at, io)?;
                    at += u64::from(entry.stored_len);
                }
            }
            Ok(())
        };
        self.still_there(check(io)).map_err(|e: Error| {
            let spec = self.schema.fields().get(field);
            e.in_file(self.path())
                .in_chunk(u64::from(chunk.header.chunk))
                .in_field(spec.map(|spec| spec.name().to_owned()).unwrap_or_default())
        })
    }

    /// Checks the padding in front of a stream, and after the last one.
    pub(crate) fn check_padding(
        &self,
        chunk: &Chunk,
        stream: &Stream,
        io: &mut Vec<u8>,
    ) -> Result<()> {
        let at = chunk.entry.offset;
        expect_zeros(
            self.storage.as_ref(),
            at + stream.padding_from,
            at + stream.offset,
            io,
        )?;
        if stream.offset + stream.stored_len == chunk.header.streams_end {
            expect_zeros(
                self.storage.as_ref(),
                at + chunk.header.streams_end,
                at + chunk.header.chunk_len,
                io,
            )?;
        }
        Ok(())
    }
}

/// The stored bytes of a piece, checked as far as they were used.
pub(super) struct StoredPiece<'a> {
    pub(super) bytes: &'a [u8],
    /// The checksum so far, and what it must become; `None` if nothing is to be checked.
    check: Option<(Running, u32)>,
    checked: usize,
    offset: u64,
}

impl StoredPiece<'_> {
    /// Adds the bytes before `end`, and a few more, to the checksum: just before they are used, so that they come from
    /// memory once. Meanwhile as many are fetched that are `ahead` bytes behind them in the file, unless that is 0.
    pub(super) fn check_to(&mut self, end: usize, ahead: usize) {
        let Some((running, _)) = &mut self.check else {
            return;
        };
        if end > self.checked {
            // Not in bits smaller than the checksum is fast on.
            let end = end
                .max(self.checked + checksum::BLOCK)
                .min(self.bytes.len());
            let next = &self.bytes[self.checked..end];
            if ahead > 0 {
                stream::fetch(next, ahead);
            }
            running.update(next);
            self.checked = end;
        }
    }

    /// Checks what is left.
    ///
    /// # Errors
    /// `Corrupt` if the checksum is wrong: what was made from the bytes must not be used.
    pub(super) fn finish(mut self) -> Result<()> {
        self.check_to(self.bytes.len(), 0);
        match self.check {
            Some((running, expected)) => check_piece(expected, running, self.offset),
            None => Ok(()),
        }
    }
}

fn check_piece(expected: u32, running: Running, offset: u64) -> Result<()> {
    expect_checksum("checksum of a piece", expected, running.finish())
        .map_err(|e| e.at_offset(offset))
}

/// A chunk whose header was read and checked.
#[derive(Debug)]
pub(crate) struct Chunk {
    pub(crate) header: ChunkHeader,
    pub(crate) entry: IndexEntry,
}

fn expect_zeros(storage: &dyn Storage, from: u64, to: u64, scratch: &mut Vec<u8>) -> Result<()> {
    if from >= to {
        return Ok(());
    }
    let bytes = storage.read(from..to, scratch)?;
    if bytes.iter().all(|&b| b == 0) {
        return Ok(());
    }
    Err(Error::corrupt("padding", "zeros", format_args!("{bytes:02x?}")).at_offset(from))
}
