//! One `.npy` file, memory-mapped: its first axis are the samples.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use super::layout::{gather, normalize};
use super::npy_header::NpyHeader;
use super::{ImportOptions, Importer, Input, InputField, Samples, Source, field_name};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::storage::mmap::Mmap;

/// Most samples of an array whose samples have no bytes: their number is backed by nothing in the file.
const MAX_EMPTY_SAMPLES: u64 = 1 << 24;

pub(super) struct Npy;

impl Importer for Npy {
    fn extensions(&self) -> &'static [&'static str] {
        &["npy"]
    }

    fn open(&self, path: &Path, options: &ImportOptions) -> Result<Input> {
        let map = Arc::new(Mmap::open(path)?);
        let mut reader = map.as_slice();
        let available = reader.len() as u64;
        let header = NpyHeader::read(&mut reader, available, path, options)?;
        let array = Array::new(header)?;
        if !array.header.fortran_order {
            map.advise_sequential();
        }
        let body = array.body(&map.bytes())?;
        map.check()?;
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        let source = Box::new(NpySource {
            path: path.into(),
            array,
            body,
            map,
        });
        Ok(Input {
            fields: vec![InputField {
                name: field_name(&stem),
                source,
            }],
            keys: None,
        })
    }
}

/// An array of samples: the header seen sample by sample.
pub(super) struct Array {
    pub(super) header: NpyHeader,
    /// The shape of a sample.
    pub(super) dims: Vec<usize>,
    /// The same, as [`Source::shape`] gives it.
    pub(super) shape: Vec<Option<usize>>,
    pub(super) num_samples: usize,
    pub(super) sample_bytes: usize,
}

impl Array {
    pub(super) fn new(header: NpyHeader) -> Result<Self> {
        let Some((&num_samples, dims)) = header.shape.split_first() else {
            return Err(Error::unsupported(
                "array without axes",
                "the first axis is the samples: save it with shape (1,), or put it in a folder of per-sample files",
            ));
        };
        // A product of some of the factors of `data_len`, or 0: it fits.
        let sample_bytes = if dims.contains(&0) {
            0
        } else {
            dims.iter()
                .fold(header.dtype.size(), |n, &d| n.saturating_mul(d))
        };
        if sample_bytes == 0 && num_samples as u64 > MAX_EMPTY_SAMPLES {
            return Err(Error::limit(
                "number of samples without elements",
                MAX_EMPTY_SAMPLES,
                num_samples as u64,
            ));
        }
        let dims = dims.to_vec();
        let shape = dims.iter().copied().map(Some).collect();
        Ok(Self {
            dims,
            shape,
            num_samples,
            sample_bytes,
            header,
        })
    }

    /// The data of the array in the bytes of its file.
    fn body(&self, file: &Bytes) -> Result<Bytes> {
        let end = self.header.data_offset.saturating_add(self.header.data_len);
        match (
            usize::try_from(self.header.data_offset),
            usize::try_from(end),
        ) {
            (Ok(start), Ok(end)) if end <= file.len() => Ok(file.slice(start..end)),
            _ => Err(Error::corrupt(
                "length of the file",
                format!("{end} bytes"),
                file.len(),
            )),
        }
    }

    /// The index of sample `first` and the bytes of `count` samples, if they exist.
    pub(super) fn block(&self, first: u64, count: usize) -> Result<(usize, usize)> {
        let inside = usize::try_from(first).ok().filter(|first| {
            first
                .checked_add(count)
                .is_some_and(|end| end <= self.num_samples)
        });
        match (inside, count.checked_mul(self.sample_bytes)) {
            (Some(first), Some(len)) => Ok((first, len)),
            _ => Err(Error::invalid(format!(
                "samples {first} to {} were asked for, there are {}",
                first.saturating_add(count as u64),
                self.num_samples
            ))),
        }
    }
}

struct NpySource {
    path: std::path::PathBuf,
    array: Array,
    body: Bytes,
    map: Arc<Mmap>,
}

impl NpySource {
    fn read_inner(&self, first: u64, count: usize, out: &mut Samples) -> Result<()> {
        let Array {
            header,
            dims,
            num_samples,
            sample_bytes,
            ..
        } = &self.array;
        let (first, len) = self.array.block(first, count)?;
        out.shapes.clear();
        if header.fortran_order {
            // Every byte is written by `gather`: what is there already need not be cleared.
            out.data.resize(len, 0);
            gather(
                &self.body,
                *num_samples,
                first,
                dims,
                header.dtype.size(),
                &mut out.data,
            )?;
        } else {
            out.data.clear();
            let start = first.saturating_mul(*sample_bytes);
            let block = self.body.get(start..start.saturating_add(len));
            out.data.extend_from_slice(block.unwrap_or_default());
        }
        normalize(header, &mut out.data);
        Ok(())
    }
}

impl Source for NpySource {
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
        self.read_inner(first, count, out)
            // Another process may have truncated the file meanwhile.
            .and_then(|()| self.map.check())
            .map_err(|e| e.in_file(&self.path).of_array())
    }
}
