//! An `.npz` archive: each member `name.npy` is a field, streamed from the mapped archive.
//!
//! The directory is parsed by the `zip` crate; the data of a member is decoded here, so that a source owns its stream
//! and the length and CRC of a member are checked when its last byte has been read.

use std::collections::HashMap;
use std::io::{self, Cursor, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use flate2::Crc;
use flate2::read::DeflateDecoder;
use zip::result::ZipError;
use zip::{CompressionMethod, ZipArchive};

use super::layout::{gather, normalize};
use super::npy::Array;
use super::npy_header::NpyHeader;
use super::{ImportOptions, Importer, Input, InputField, Samples, Source, field_name, read_error};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::storage::mmap::Mmap;

/// No DEFLATE stream decodes to more than this many times its length (one bit and a length code for 258 bytes).
const MAX_DEFLATE_RATIO: u64 = 1032;
/// Longest field name, as in format-spec 12.
const MAX_NAME_LEN: usize = 255;
/// Bytes of a Fortran-order member that are kept decoded: its samples are strewn over the whole stream, so that each
/// window of samples costs one pass over it.
const WINDOW_LEN: usize = 128 << 20;

pub(super) struct Npz;

impl Importer for Npz {
    fn extensions(&self) -> &'static [&'static str] {
        &["npz"]
    }

    fn open(&self, path: &Path, options: &ImportOptions) -> Result<Input> {
        open_npz(path, options, WINDOW_LEN)
    }
}

pub(super) fn open_npz(path: &Path, options: &ImportOptions, window_len: usize) -> Result<Input> {
    let map = Arc::new(Mmap::open(path)?);
    let bytes = map.bytes();
    let mut archive =
        ZipArchive::new(Cursor::new(bytes.clone())).map_err(|e| zip_error(path, e))?;
    if archive.has_duplicate_names() {
        return Err(Error::corrupt(
            "directory of the .npz",
            "distinct member names",
            "the same name twice",
        ));
    }
    // Two readers that believe different headers would see different arrays.
    archive
        .validate_header_consistency()
        .map_err(|e| zip_error(path, e))?;
    let mut fields: Vec<InputField> = Vec::new();
    let mut names: HashMap<String, usize> = HashMap::new();
    for index in 0..archive.len() {
        let (member, name) = find_member(&mut archive, index, &bytes, path)?;
        if names.insert(name.clone(), index).is_some() {
            return Err(Error::unsupported(
                format!("member names that differ only in special characters ({name:?})"),
                "give the arrays names of letters, digits, `_`, `.` and `-`",
            ));
        }
        let source = NpzSource::open(path, &map, member, options, window_len)
            .map_err(|e| e.in_field(&name))?;
        if let Some(other) = fields.first()
            && other.source.num_samples() != source.num_samples()
        {
            return Err(Error::unsupported(
                format!(
                    "arrays with different numbers of samples: {:?} has {}, {name:?} has {}",
                    other.name,
                    other.source.num_samples(),
                    source.num_samples()
                ),
                "the first axis of every array is the samples; save arrays of the same length together",
            ));
        }
        fields.push(InputField {
            name,
            source: Box::new(source),
        });
    }
    if fields.is_empty() {
        return Err(Error::invalid("there are no arrays in the archive"));
    }
    Ok(Input { fields, keys: None })
}

/// The data and the field name of a member.
fn find_member(
    archive: &mut ZipArchive<Cursor<Bytes>>,
    index: usize,
    bytes: &Bytes,
    path: &Path,
) -> Result<(Member, String)> {
    let entry = archive
        .by_index_raw(index)
        .map_err(|e| zip_error(path, e))?;
    let raw_name = entry.name().map_err(|e| zip_error(path, e))?.into_owned();
    let name = member_field_name(&raw_name)?;
    if entry.encrypted() {
        return Err(
            Error::unsupported("encrypted .npz", "save the arrays without a password")
                .in_field(name),
        );
    }
    let deflated = match entry.compression() {
        CompressionMethod::Stored => false,
        CompressionMethod::Deflated => true,
        other => {
            return Err(Error::unsupported(
                format!("compression of an .npz member ({other})"),
                "save the arrays with numpy.savez or numpy.savez_compressed",
            )
            .in_field(name));
        }
    };
    let (stored_len, len) = (entry.compressed_size(), entry.size());
    let largest = if deflated {
        stored_len.saturating_mul(MAX_DEFLATE_RATIO)
    } else {
        stored_len
    };
    if len > largest || (!deflated && len != stored_len) {
        return Err(Error::corrupt(
            "length of the member",
            format!("at most {largest} bytes from {stored_len} in the archive"),
            len,
        )
        .in_field(name));
    }
    let start = entry.data_start().unwrap_or(u64::MAX);
    match (
        usize::try_from(start),
        usize::try_from(start.saturating_add(stored_len)),
    ) {
        (Ok(from), Ok(to)) if from <= to && to <= bytes.len() => {
            let data = bytes.slice(from..to);
            Ok((
                Member {
                    data,
                    deflated,
                    len,
                    crc: entry.crc32(),
                },
                name,
            ))
        }
        _ => Err(Error::corrupt(
            "length of the member (truncated)",
            format!("{stored_len} bytes at offset {start}"),
            format!("a file of {} bytes", bytes.len()),
        )
        .in_field(name)),
    }
}

fn member_field_name(name: &str) -> Result<String> {
    let shown: String = name.chars().take(64).collect();
    let Some(stem) = name.strip_suffix(".npy") else {
        return Err(Error::unsupported(
            format!("member {shown:?} of an .npz"),
            "every member must be a .npy file",
        ));
    };
    if stem.is_empty()
        || stem.len() > MAX_NAME_LEN
        || stem.contains(|c: char| matches!(c, '/' | '\\') || c.is_control())
    {
        return Err(Error::unsupported(
            format!("array name {shown:?}"),
            "array names become field names: 1 to 255 bytes, no `/`, `\\` or control characters",
        ));
    }
    Ok(field_name(stem))
}

fn zip_error(path: &Path, error: ZipError) -> Error {
    let error = match error {
        ZipError::Io(source) => read_error("structure of the .npz", path, source),
        ZipError::UnsupportedArchive(what) => Error::unsupported(
            format!(".npz ({what})"),
            "save the arrays with numpy.savez or numpy.savez_compressed",
        ),
        other => Error::corrupt("structure of the .npz", "a consistent zip archive", other),
    };
    error.in_file(path)
}

/// The stored bytes of a member and what the directory says of them.
struct Member {
    data: Bytes,
    deflated: bool,
    len: u64,
    crc: u32,
}

impl Member {
    fn stream(&self) -> MemberStream {
        let data = Cursor::new(self.data.clone());
        let decoder = if self.deflated {
            Decoder::Deflated(DeflateDecoder::new(data))
        } else {
            Decoder::Stored(data)
        };
        MemberStream {
            decoder,
            crc: Crc::new(),
            position: 0,
        }
    }

    /// Reads what is left of `stream` and checks its length and CRC.
    fn finish(&self, stream: &mut MemberStream) -> io::Result<Result<()>> {
        let mut scratch = vec![0; 1 << 16];
        while stream.position <= self.len && stream.read(&mut scratch)? > 0 {}
        if stream.position != self.len {
            let found = format!("{} or more", stream.position);
            return Ok(Err(Error::corrupt(
                "length of the member",
                format!("{} bytes", self.len),
                found,
            )));
        }
        if stream.crc.sum() != self.crc {
            let (expected, found) = (
                format!("{:08x}", self.crc),
                format!("{:08x}", stream.crc.sum()),
            );
            return Ok(Err(Error::corrupt("CRC-32 of the member", expected, found)));
        }
        Ok(Ok(()))
    }
}

enum Decoder {
    Stored(Cursor<Bytes>),
    Deflated(DeflateDecoder<Cursor<Bytes>>),
}

/// The decoded bytes of a member, from its first on.
struct MemberStream {
    decoder: Decoder,
    crc: Crc,
    position: u64,
}

impl Read for MemberStream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = match &mut self.decoder {
            Decoder::Stored(data) => data.read(buf),
            Decoder::Deflated(decoder) => decoder.read(buf),
        }?;
        self.crc.update(buf.get(..n).unwrap_or_default());
        self.position = self.position.saturating_add(n as u64);
        Ok(n)
    }
}

impl MemberStream {
    fn skip(&mut self, len: u64) -> io::Result<()> {
        let skipped = io::copy(&mut self.by_ref().take(len), &mut io::sink())?;
        if skipped == len {
            Ok(())
        } else {
            Err(io::ErrorKind::UnexpectedEof.into())
        }
    }

    /// Appends `len` bytes to `out`, which grows with the bytes that are there, not with `len`.
    fn append(&mut self, len: usize, out: &mut Vec<u8>) -> io::Result<()> {
        let n = self.by_ref().take(len as u64).read_to_end(out)?;
        if n == len {
            Ok(())
        } else {
            Err(io::ErrorKind::UnexpectedEof.into())
        }
    }
}

struct NpzSource {
    path: PathBuf,
    map: Arc<Mmap>,
    member: Member,
    array: Array,
    window_len: usize,
    /// Row-major members: the stream, and the sample it stands at.
    stream: Option<(MemberStream, usize)>,
    window: Window,
}

/// Consecutive samples of a Fortran-order member, in Fortran order.
#[derive(Default)]
struct Window {
    first: usize,
    count: usize,
    data: Vec<u8>,
}

impl NpzSource {
    fn open(
        path: &Path,
        map: &Arc<Mmap>,
        member: Member,
        options: &ImportOptions,
        window_len: usize,
    ) -> Result<Self> {
        let mut stream = member.stream();
        let header = NpyHeader::read(&mut stream, member.len, path, options)?;
        let array = Array::new(header)?;
        if array.header.data_len == 0 {
            // No read will reach the end of the member, where it is checked.
            member
                .finish(&mut stream)
                .map_err(|e| read_error("data of the member", path, e))??;
        }
        Ok(Self {
            path: path.into(),
            map: Arc::clone(map),
            member,
            array,
            window_len,
            stream: None,
            window: Window::default(),
        })
    }

    fn read_error(&self, error: io::Error) -> Error {
        read_error("data of the member", &self.path, error)
    }

    fn read_inner(&mut self, first: u64, count: usize, out: &mut Samples) -> Result<()> {
        let (first, len) = self.array.block(first, count)?;
        out.shapes.clear();
        if len == 0 {
            out.data.clear();
            return Ok(());
        }
        if self.array.header.fortran_order {
            self.read_fortran(first, count, len, out)?;
        } else {
            self.read_rows(first, count, len, out)?;
        }
        normalize(&self.array.header, &mut out.data);
        Ok(())
    }

    fn read_rows(
        &mut self,
        first: usize,
        count: usize,
        len: usize,
        out: &mut Samples,
    ) -> Result<()> {
        // Taken out, and put back only after success: an error leaves the stream anywhere.
        let (mut stream, at) = match self.stream.take() {
            Some((stream, at)) if at <= first => (stream, at),
            _ => {
                let mut stream = self.member.stream();
                stream
                    .skip(self.array.header.data_offset)
                    .map_err(|e| self.read_error(e))?;
                (stream, 0)
            }
        };
        let ahead = first
            .saturating_sub(at)
            .saturating_mul(self.array.sample_bytes);
        stream.skip(ahead as u64).map_err(|e| self.read_error(e))?;
        out.data.clear();
        stream
            .append(len, &mut out.data)
            .map_err(|e| self.read_error(e))?;
        let next = first.saturating_add(count);
        if next == self.array.num_samples {
            self.member
                .finish(&mut stream)
                .map_err(|e| self.read_error(e))??;
        } else {
            self.stream = Some((stream, next));
        }
        Ok(())
    }

    fn read_fortran(
        &mut self,
        first: usize,
        count: usize,
        len: usize,
        out: &mut Samples,
    ) -> Result<()> {
        let end = first.saturating_add(count);
        let mut next = first;
        // Of the old content only what is overwritten stays; what is decoded decides how far it grows.
        out.data.truncate(len);
        let mut done = 0usize;
        while next < end {
            let window_end = self.window.first.saturating_add(self.window.count);
            if next < self.window.first || next >= window_end {
                self.load_window(next)?;
                continue;
            }
            let rows = end.min(window_end).saturating_sub(next);
            let to = done.saturating_add(rows.saturating_mul(self.array.sample_bytes));
            if out.data.len() < to {
                out.data.resize(to, 0);
            }
            let slot = out.data.get_mut(done..to).unwrap_or_default();
            let Window { first, count, data } = &self.window;
            gather(
                data,
                *count,
                next.saturating_sub(*first),
                &self.array.dims,
                self.array.header.dtype.size(),
                slot,
            )?;
            done = to;
            next = next.saturating_add(rows);
        }
        Ok(())
    }

    /// Decodes the whole member once, and keeps the window of samples that starts at `first`.
    fn load_window(&mut self, first: usize) -> Result<()> {
        let Array {
            header,
            num_samples,
            sample_bytes,
            ..
        } = &self.array;
        let size = header.dtype.size();
        let fit = self
            .window_len
            .checked_div(*sample_bytes)
            .unwrap_or(1)
            .max(1);
        let count = fit.min(num_samples.saturating_sub(first));
        let num_features = sample_bytes.checked_div(size).unwrap_or(0);
        let mut data = std::mem::take(&mut self.window).data;
        data.clear();
        let mut stream = self.member.stream();
        let mut load = || {
            stream.skip(header.data_offset)?;
            if count == *num_samples {
                return stream.append(count.saturating_mul(*sample_bytes), &mut data);
            }
            let before = first.saturating_mul(size) as u64;
            let after = num_samples
                .saturating_sub(first.saturating_add(count))
                .saturating_mul(size) as u64;
            for _ in 0..num_features {
                stream.skip(before)?;
                stream.append(count.saturating_mul(size), &mut data)?;
                stream.skip(after)?;
            }
            Ok(())
        };
        load().map_err(|e| self.read_error(e))?;
        self.member
            .finish(&mut stream)
            .map_err(|e| self.read_error(e))??;
        self.window = Window { first, count, data };
        Ok(())
    }
}

impl Source for NpzSource {
    fn dtype(&self) -> DType {
        self.array.header.dtype
    }

    fn shape(&self) -> &[Option<usize>] {
        &self.array.shape
    }

    fn num_samples(&self) -> u64 {
        self.array.num_samples as u64
    }

    fn raw_bytes(&self) -> u64 {
        self.array.header.data_len
    }

    fn read(&mut self, first: u64, count: usize, out: &mut Samples) -> Result<()> {
        let result = self.read_inner(first, count, out);
        // Another process may have truncated the file meanwhile.
        self.map
            .check()
            .and(result)
            .map_err(|e| e.in_file(&self.path).of_array())
    }
}
