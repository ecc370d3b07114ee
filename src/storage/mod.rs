//! Where bytes come from and go to: positional, stateless reading; append-only writing.

mod bus_error;
#[cfg(test)]
mod conformance;
pub(crate) mod file;
mod holes;
mod memory;
pub(crate) mod mmap;
mod read_ahead;
pub(crate) mod record;

pub(crate) use file::{
    FileSink, FileStorage, FolderLock, check_not_empty, create_folder, is_temporary_name,
    lock_folder, parent, publish, read_file, remove_file, sync_folder,
};
pub(crate) use memory::MemoryStorage;
pub(crate) use mmap::MmapStorage;

use std::fmt::Debug;
use std::io::IoSlice;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use crate::error::{Error, Result};

/// How local files are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IoMode {
    /// The faster of the two where it works: today, memory-mapped.
    #[default]
    Auto,
    /// Memory-mapped files. A file that another process truncates meanwhile, or whose disk fails, is an error: on Linux
    /// and macOS a handler of SIGBUS sees to it, which is installed with the first map and calls the one before it for
    /// all that is not its own. On other systems it ends the process.
    Mmap,
    /// Positional reads: for network and parallel file systems.
    Read,
}

/// A file that can be read at any position, by many threads at once.
pub(crate) trait Storage: Send + Sync + Debug {
    /// The name used in messages.
    fn path(&self) -> &Path;

    /// The length in bytes when it was opened.
    fn len(&self) -> u64;

    /// The bytes of `range` where they are, if this storage has them in memory.
    ///
    /// # Errors
    /// `Corrupt` if the range ends beyond the file.
    fn in_place(&self, range: Range<u64>) -> Result<Option<&[u8]>>;

    /// Fills `dst` with the bytes from `offset` on.
    ///
    /// # Errors
    /// `Corrupt` if the range ends beyond the file, `Io` if reading fails.
    fn read_into(&self, offset: u64, dst: &mut [u8]) -> Result<()>;

    /// The bytes of `range`: in place, or read into `scratch`.
    ///
    /// # Errors
    /// As [`Storage::read_into`].
    fn read<'a>(&'a self, range: Range<u64>, scratch: &'a mut Vec<u8>) -> Result<&'a [u8]> {
        if let Some(bytes) = self.in_place(range.clone())? {
            return Ok(bytes);
        }
        // Checked against the file before memory is set aside.
        let len = check_range(self.path(), self.len(), &range)?.len();
        if scratch.len() < len {
            scratch.resize(len, 0);
        }
        let dst = &mut scratch[..len];
        self.read_into(range.start, dst)?;
        Ok(dst)
    }

    /// The bytes of `range`, to keep.
    ///
    /// # Errors
    /// As [`Storage::read`].
    fn bytes(&self, range: Range<u64>) -> Result<Bytes>;

    /// Where the next bytes are, from `offset` on, that may be other than zeros: holes of sparse files are passed over
    /// where the system tells of them.
    fn next_data(&self, offset: u64) -> u64 {
        offset
    }

    /// Says that the bytes of `range` will be read soon.
    fn will_read(&self, _range: Range<u64>) {}

    /// Asked after bytes in place were used, and before what was made of them is: they may have gone meanwhile.
    ///
    /// # Errors
    /// `Corrupt` if the file was truncated, or could not be read.
    fn check(&self) -> Result<()> {
        Ok(())
    }
}

/// A place that a shard is written to, front to back.
pub(crate) trait Sink: Send {
    /// Appends bytes.
    ///
    /// # Errors
    /// `Io`; the sink is unusable afterwards.
    fn append(&mut self, bytes: &[u8]) -> Result<()>;

    /// Appends parts, one after the other.
    ///
    /// # Errors
    /// As [`Sink::append`].
    fn append_all(&mut self, parts: &mut [IoSlice<'_>]) -> Result<()>;

    /// Makes everything durable under the final name.
    ///
    /// # Errors
    /// `Io`; nothing exists under the final name then.
    fn commit(&mut self) -> Result<()>;
}

/// Opens a file for reading.
pub(crate) fn open(path: &Path, mode: IoMode) -> Result<Arc<dyn Storage>> {
    match mode {
        IoMode::Read => Ok(Arc::new(FileStorage::open(path)?)),
        IoMode::Mmap => Ok(Arc::new(MmapStorage::open(path)?)),
        IoMode::Auto => match MmapStorage::open(path) {
            Ok(storage) => Ok(Arc::new(storage)),
            // Some file systems cannot map; reading works everywhere, and reports a missing file just as well.
            Err(_) => Ok(Arc::new(FileStorage::open(path)?)),
        },
    }
}

/// The bounds of `range` in a slice of `len` bytes.
fn check_range(path: &Path, len: u64, range: &Range<u64>) -> Result<Range<usize>> {
    let bounds = (usize::try_from(range.start), usize::try_from(range.end));
    match bounds {
        (Ok(start), Ok(end)) if range.start <= range.end && range.end <= len => Ok(start..end),
        _ => Err(Error::corrupt(
            "length of the file",
            format_args!("at least {} bytes", range.end),
            len,
        )
        .at_offset(range.start)
        .in_file(path)),
    }
}
