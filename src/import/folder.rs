//! A folder, or a list, of `.npy` files that are one sample each.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use super::layout::{gather, normalize};
use super::npy_header::NpyHeader;
use super::{DEFAULT_FIELD, ImportOptions, Input, InputField, Samples, Source, read_error};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::storage::file::open_regular;

/// Bytes read at a time until the data of a file starts: most headers have 128.
const HEADER_BUFFER: usize = 512;

/// Opens the `.npy` files of `folder`, in the order of the bytes of their names. Other files and folders are ignored.
pub(super) fn open_folder(folder: &Path, options: &ImportOptions) -> Result<Input> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).map_err(|e| Error::io("list", folder, e))? {
        let path = entry.map_err(|e| Error::io("list", folder, e))?.path();
        // A link that leads nowhere is kept: opening it tells.
        if path
            .extension()
            .is_some_and(|e| e.eq_ignore_ascii_case("npy"))
            && !path.is_dir()
        {
            paths.push(path);
        }
    }
    if paths.is_empty() {
        return Err(Error::invalid("there are no .npy files in the folder").in_file(folder));
    }
    let name = |path: &PathBuf| {
        path.file_name()
            .map(|name| name.as_encoded_bytes().to_vec())
    };
    paths.sort_by_cached_key(name);
    open_files(paths, options)
}

/// Opens `paths`, in the order given.
pub(super) fn open_files(paths: Vec<PathBuf>, options: &ImportOptions) -> Result<Input> {
    let keys = stems(&paths)?;
    let source = FolderSource::scan(paths, options)?;
    let fields = vec![InputField {
        name: DEFAULT_FIELD.to_owned(),
        source: Box::new(source),
    }];
    Ok(Input {
        fields,
        keys: Some(keys),
    })
}

fn stems(paths: &[PathBuf]) -> Result<Vec<String>> {
    let mut seen: HashMap<&str, &Path> = HashMap::with_capacity(paths.len());
    let mut keys = Vec::with_capacity(paths.len());
    for path in paths {
        let Some(stem) = path.file_stem().and_then(|stem| stem.to_str()) else {
            return Err(Error::unsupported(
                "file name that is not UTF-8",
                "file stems become keys; rename the file",
            )
            .in_file(path));
        };
        if let Some(other) = seen.insert(stem, path) {
            return Err(Error::invalid(format!(
                "file stems are keys and must differ, but {} has the stem of {}",
                path.display(),
                other.display()
            )));
        }
        keys.push(stem.to_owned());
    }
    Ok(keys)
}

struct FolderSource {
    paths: Vec<PathBuf>,
    options: ImportOptions,
    dtype: DType,
    /// The shape of every sample, or of the first one if they differ.
    dims: Vec<usize>,
    /// The shapes of all samples one after the other, if they differ.
    all_dims: Option<Vec<usize>>,
    shape: Vec<Option<usize>>,
    raw_bytes: u64,
}

impl FolderSource {
    /// Reads the header of every file, one file open at a time.
    fn scan(paths: Vec<PathBuf>, options: &ImportOptions) -> Result<Self> {
        let Some(first_path) = paths.first() else {
            return Err(Error::invalid("no .npy files were given"));
        };
        let (first, _) = open_file(first_path, options)?;
        let mut shape: Vec<_> = first.shape.iter().copied().map(Some).collect();
        let mut all_dims: Option<Vec<usize>> = None;
        let mut raw_bytes = 0u64;
        for (i, path) in paths.iter().enumerate() {
            let (header, _) = open_file(path, options)?;
            if header.dtype != first.dtype {
                return Err(Error::unsupported(
                    format!(
                        "files of different dtypes: {} has {}, {} has {}",
                        first_path.display(),
                        first.dtype,
                        path.display(),
                        header.dtype
                    ),
                    "files of one sample each have one dtype; name arrays that belong together as fields (`--field NAME=PATH`)",
                ));
            }
            if header.shape.len() != first.shape.len() {
                return Err(Error::unsupported(
                    format!(
                        "files with different numbers of axes: {} has {}, {} has {}",
                        first_path.display(),
                        first.shape.len(),
                        path.display(),
                        header.shape.len()
                    ),
                    "files of one sample each have the same number of axes, of any length; name arrays that belong together as \
                     fields (`--field NAME=PATH`)",
                ));
            }
            if all_dims.is_none() && header.shape != first.shape {
                all_dims = Some(first.shape.repeat(i));
            }
            if let Some(all_dims) = &mut all_dims {
                all_dims.extend_from_slice(&header.shape);
                for (dim, here) in shape.iter_mut().zip(&header.shape) {
                    *dim = dim.filter(|dim| dim == here);
                }
            }
            raw_bytes = raw_bytes.saturating_add(header.data_len);
        }
        let NpyHeader {
            dtype, shape: dims, ..
        } = first;
        Ok(Self {
            paths,
            options: options.clone(),
            dtype,
            dims,
            all_dims,
            shape,
            raw_bytes,
        })
    }

    /// The shape of sample `index`.
    fn dims(&self, index: usize) -> &[usize] {
        let rank = self.dims.len();
        let start = index.saturating_mul(rank);
        match &self.all_dims {
            Some(all) => all
                .get(start..start.saturating_add(rank))
                .unwrap_or_default(),
            None => &self.dims,
        }
    }

    /// Appends the data of one file to `data`.
    fn append(
        &self,
        index: usize,
        path: &Path,
        scratch: &mut Vec<u8>,
        data: &mut Vec<u8>,
    ) -> Result<()> {
        let (header, file) = open_file(path, &self.options)?;
        let dims = self.dims(index);
        if header.dtype != self.dtype || header.shape != dims {
            return Err(Error::corrupt(
                "array (the file changed while it was read)",
                format!("{} {dims:?}", self.dtype),
                format!("{} {:?}", header.dtype, header.shape),
            ));
        }
        // Backed by the file: the header was checked against its length.
        let len = usize::try_from(header.data_len).unwrap_or(usize::MAX);
        let start = data.len();
        let read = |out: &mut Vec<u8>| match file.take(header.data_len).read_to_end(out) {
            Ok(n) if n == len => Ok(()),
            Ok(n) => Err(Error::corrupt(
                "length of the array (truncated)",
                format!("{len} bytes of data"),
                n,
            )),
            Err(e) => Err(read_error("data of the array", path, e)),
        };
        match header.shape.split_first() {
            Some((&rows, dims)) if header.fortran_order => {
                scratch.clear();
                read(scratch)?;
                data.resize(start.saturating_add(len), 0);
                let slot = data.get_mut(start..).unwrap_or_default();
                gather(scratch, rows, 0, dims, header.dtype.size(), slot)?;
            }
            _ => read(data)?,
        }
        normalize(&header, data.get_mut(start..).unwrap_or_default());
        Ok(())
    }
}

/// Opens a file and reads its header; the reader stands at the data.
fn open_file(path: &Path, options: &ImportOptions) -> Result<(NpyHeader, BufReader<File>)> {
    let (file, len) = open_regular(path)?;
    let mut reader = BufReader::with_capacity(HEADER_BUFFER, file);
    let header = NpyHeader::read(&mut reader, len, path, options)?;
    Ok((header, reader))
}

impl Source for FolderSource {
    fn dtype(&self) -> DType {
        self.dtype
    }

    fn shape(&self) -> &[Option<usize>] {
        &self.shape
    }

    fn num_samples(&self) -> u64 {
        self.paths.len() as u64
    }

    fn raw_bytes(&self) -> u64 {
        self.raw_bytes
    }

    fn read(&mut self, first: u64, count: usize, out: &mut Samples) -> Result<()> {
        out.shapes.clear();
        out.data.clear();
        let start = usize::try_from(first).unwrap_or(usize::MAX);
        let Some(paths) = self.paths.get(start..start.saturating_add(count)) else {
            return Err(Error::invalid(format!(
                "samples {first} to {} were asked for, there are {}",
                first.saturating_add(count as u64),
                self.paths.len()
            )));
        };
        let mut scratch = Vec::new();
        for (i, path) in paths.iter().enumerate() {
            let index = start.saturating_add(i);
            self.append(index, path, &mut scratch, &mut out.data)
                .map_err(|e| e.in_file(path).of_array())?;
            if self.all_dims.is_some() {
                out.shapes.push(self.dims(index).to_vec());
            }
        }
        Ok(())
    }
}
