//! Other people's files as samples: `.npy`, `.npz`, folders of `.npy`.
//!
//! Every byte read here may be hostile. A length is checked against the bytes that exist before anything is allocated
//! for it, names found in a file never become paths, and nothing is written.
//!
//! To add a format: write `src/import/foo.rs` with an `impl Importer` and add one line to `IMPORTERS`.

#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic
)]

mod folder;
mod layout;
mod npy;
mod npy_header;
mod npz;
#[cfg(test)]
mod tests;

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::dtype::DType;
use crate::error::{Error, Result};

pub use npy_header::{emit_header, npy_descr};

/// Samples read from a source: contiguous, little-endian, row-major.
#[derive(Clone, Debug, Default)]
pub struct Samples {
    /// The shape of each sample, if the source is ragged; empty otherwise.
    pub shapes: Vec<Vec<usize>>,
    /// The bytes of the samples, one after the other.
    pub data: Vec<u8>,
}

/// An array whose first axis are samples, or a list of files that are one sample each.
pub trait Source: Send {
    /// The dtype of the elements.
    fn dtype(&self) -> DType;

    /// The shape of one sample; `None` is a dim that differs between samples.
    fn shape(&self) -> &[Option<usize>];

    /// The number of samples.
    fn num_samples(&self) -> u64;

    /// The bytes of all samples together.
    fn raw_bytes(&self) -> u64;

    /// Reads `count` samples from sample `first` on into `out`, whose former content is dropped.
    ///
    /// Reading from front to back is the fast way. On error `out` counts as garbage.
    ///
    /// # Errors
    /// `InvalidArgument` if there are fewer samples, `Io`, `Corrupt`.
    fn read(&mut self, first: u64, count: usize, out: &mut Samples) -> Result<()>;
}

/// One field found in an input.
pub struct InputField {
    /// Its name: letters, digits, `_`, `.` and `-` only.
    pub name: String,
    /// Its samples.
    pub source: Box<dyn Source>,
}

impl fmt::Debug for InputField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InputField")
            .field("name", &self.name)
            .field("dtype", &self.source.dtype())
            .field("shape", &self.source.shape())
            .field("num_samples", &self.source.num_samples())
            .finish_non_exhaustive()
    }
}

/// What an input holds: fields that all have the same number of samples.
#[derive(Debug)]
pub struct Input {
    /// The fields, in the order of the input.
    pub fields: Vec<InputField>,
    /// One key a sample, for inputs that have keys.
    pub keys: Option<Vec<String>>,
}

/// What the files themselves do not say.
#[derive(Clone, Debug, Default)]
pub struct ImportOptions {
    /// The dtype of arrays saved as `|V1` or `<V2`, as NumPy saves bf16 and the 8-bit floats. Such arrays are an error
    /// if this is `None` or has another size.
    pub void_as: Option<DType>,
}

/// A file format. Implementations are stateless values in [`IMPORTERS`].
pub(crate) trait Importer: Sync {
    /// The file name extensions, in lower case without the dot.
    fn extensions(&self) -> &'static [&'static str];

    /// Opens the file at `path`.
    ///
    /// # Errors
    /// `Io`, `Corrupt`, `LimitExceeded`, `Unsupported`, each naming `path`.
    fn open(&self, path: &Path, options: &ImportOptions) -> Result<Input>;
}

/// Every file format of this build.
pub(crate) static IMPORTERS: &[&dyn Importer] = &[&npy::Npy, &npz::Npz];

/// The name of the one field of an input that does not name it.
const DEFAULT_FIELD: &str = "data";

/// Opens a file, by its extension, or a folder of per-sample `.npy` files.
///
/// A lone `.npy` is one field named after the file; each array of an `.npz` is a field; the files of a folder are the
/// samples of one field `data`, in the order of their names, with the file stems as keys.
///
/// # Errors
/// `Io`, `Corrupt`, `LimitExceeded` and `Unsupported` as the file deserves, `Io` also for what is not a regular file or
/// folder; `InvalidArgument` for a folder without `.npy` files and an archive without arrays.
pub fn open(path: &Path, options: &ImportOptions) -> Result<Input> {
    open_any(path, options).map_err(Error::of_array)
}

fn open_any(path: &Path, options: &ImportOptions) -> Result<Input> {
    let metadata = fs::metadata(path).map_err(|e| Error::io("open", path, e))?;
    if metadata.is_dir() {
        return folder::open_folder(path, options);
    }
    let extension = path
        .extension()
        .map(|e| e.to_string_lossy().to_ascii_lowercase())
        .unwrap_or_default();
    match IMPORTERS
        .iter()
        .find(|importer| importer.extensions().contains(&extension.as_str()))
    {
        Some(importer) => importer.open(path, options).map_err(|e| e.in_file(path)),
        None => {
            let known: Vec<_> = IMPORTERS
                .iter()
                .flat_map(|importer| importer.extensions())
                .copied()
                .collect();
            let hint = format!(
                "the known ones are {}, and folders of .npy files",
                known.join(", ")
            );
            Err(Error::unsupported(format!("file extension {extension:?}"), hint).in_file(path))
        }
    }
}

/// Opens several per-sample `.npy` files as the samples of one field `data`, in the order given, with the file stems as
/// keys.
///
/// # Errors
/// As [`open`]; `InvalidArgument` also if two files have the same stem.
pub fn open_files(paths: &[PathBuf], options: &ImportOptions) -> Result<Input> {
    folder::open_files(paths.to_vec(), options).map_err(Error::of_array)
}

/// `name` with every character that a field name may not have replaced by `_`.
fn field_name(name: &str) -> String {
    if name.is_empty() {
        return DEFAULT_FIELD.to_owned();
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    name.chars()
        .map(|c| if allowed(c) { c } else { '_' })
        .collect()
}

/// An error met while reading `what`: the end of the input and bad compressed data are `Corrupt`, the rest is `Io`.
fn read_error(what: &'static str, path: &Path, error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput => {
            Error::corrupt(what, "readable bytes to its end", error).in_file(path)
        }
        _ => Error::io("read", path, error),
    }
}
