//! Local files: positional reads, and writes under a temporary name until they are durable.

use std::fs::{self, File};
use std::io::{IoSlice, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use crate::error::{Error, Result};
use crate::fault;

use super::{Sink, Storage, check_range, holes, record};

/// A file read by position.
#[derive(Debug)]
pub(crate) struct FileStorage {
    path: PathBuf,
    file: File,
    len: u64,
}

impl FileStorage {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let (file, len) = open_regular(path)?;
        Ok(Self {
            path: path.to_owned(),
            file,
            len,
        })
    }

    fn read_exact_at(&self, dst: &mut [u8], offset: u64) -> Result<()> {
        let read = read_exact_at(&self.file, dst, offset);
        read.map_err(|e| match e.kind() {
            std::io::ErrorKind::UnexpectedEof => Error::corrupt(
                "length of the file",
                format_args!("{} bytes, as when it was opened", self.len),
                "less",
            )
            .at_offset(offset)
            .in_file(&self.path),
            _ => Error::io("read", &self.path, e).at_offset(offset),
        })
    }
}

#[cfg(unix)]
fn read_exact_at(file: &File, dst: &mut [u8], offset: u64) -> std::io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, dst, offset)
}

#[cfg(windows)]
fn read_exact_at(file: &File, mut dst: &mut [u8], mut offset: u64) -> std::io::Result<()> {
    while !dst.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, dst, offset)? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            n => {
                dst = &mut dst[n..];
                offset += n as u64;
            }
        }
    }
    Ok(())
}

/// Opens `path` for reading, if it is a regular file (or a link to one), and returns its length.
///
/// # Errors
/// `Io`, also for a folder, pipe, socket or device, none of which is opened.
pub(crate) fn open_regular(path: &Path) -> Result<(File, u64)> {
    // Asked before opening: opening a pipe waits for its writer, opening a device may do anything.
    let metadata = fs::metadata(path).map_err(|e| Error::io("open", path, e))?;
    if !metadata.is_file() {
        let what = kind_of(metadata.file_type());
        let reason = format!("this is {what}, and only a regular file can be read; check the path");
        let error = std::io::Error::new(std::io::ErrorKind::InvalidInput, reason);
        return Err(Error::io("open", path, error));
    }
    let file = File::open(path).map_err(|e| Error::io("open", path, e))?;
    let len = file
        .metadata()
        .map_err(|e| Error::io("open", path, e))?
        .len();
    Ok((file, len))
}

/// What something is that is no regular file.
fn kind_of(file_type: fs::FileType) -> &'static str {
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt;
        if file_type.is_fifo() {
            return "a pipe";
        }
        if file_type.is_socket() {
            return "a socket";
        }
        if file_type.is_block_device() || file_type.is_char_device() {
            return "a device";
        }
    }
    if file_type.is_dir() {
        "a folder"
    } else {
        "something else"
    }
}

impl Storage for FileStorage {
    fn path(&self) -> &Path {
        &self.path
    }

    fn len(&self) -> u64 {
        self.len
    }

    fn in_place(&self, range: Range<u64>) -> Result<Option<&[u8]>> {
        check_range(&self.path, self.len, &range)?;
        Ok(None)
    }

    fn read_into(&self, offset: u64, dst: &mut [u8]) -> Result<()> {
        let range = offset..offset.saturating_add(dst.len() as u64);
        check_range(&self.path, self.len, &range)?;
        self.read_exact_at(dst, offset)
    }

    fn next_data(&self, offset: u64) -> u64 {
        holes::next_data(&self.file, offset)
            .map_or(offset, |at| at.clamp(offset, self.len.max(offset)))
    }

    fn bytes(&self, range: Range<u64>) -> Result<Bytes> {
        let mut out = Vec::new();
        let len = self.read(range, &mut out)?.len();
        out.truncate(len);
        Ok(out.into())
    }
}

/// Reads a whole file of at most `limit` bytes.
pub(crate) fn read_file(path: &Path, limit: u64) -> Result<Bytes> {
    let storage = FileStorage::open(path)?;
    if storage.len > limit {
        return Err(Error::limit("file", limit, storage.len).in_file(path));
    }
    storage.bytes(0..storage.len)
}

/// A file that is written under a temporary name and renamed when it is durable. Dropped before, it is removed.
#[derive(Debug)]
pub(crate) struct FileSink {
    temporary: PathBuf,
    path: PathBuf,
    file: Option<File>,
}

impl FileSink {
    /// Starts a file that will be called `path`.
    pub(crate) fn create(path: PathBuf) -> Result<Self> {
        let temporary = temporary_name(&path)?;
        let file = File::options()
            .write(true)
            .create_new(true)
            .open(&temporary);
        let file = file.map_err(|e| Error::io("create", &temporary, e))?;
        record::create(&temporary);
        Ok(Self {
            temporary,
            path,
            file: Some(file),
        })
    }
}

impl FileSink {
    /// A call that puts on the disk what was written until then: for another thread. `None` if it cannot be made, or
    /// the file is not open any more.
    pub(crate) fn sync_later(&self) -> Option<impl FnOnce() -> Result<()> + Send + use<>> {
        let file = self.file.as_ref()?.try_clone().ok()?;
        let temporary = self.temporary.clone();
        Some(move || {
            let before = record::sync_begins(&temporary);
            file.sync_data()
                .map_err(|e| Error::io("sync", &temporary, e))?;
            record::synced(&temporary, before);
            Ok(())
        })
    }
}

/// Writes all of `parts`, in as few calls as the system takes.
fn write_all_parts(file: &mut File, mut parts: &mut [IoSlice<'_>]) -> std::io::Result<()> {
    // Empty ones at the front would look like a file that takes nothing.
    IoSlice::advance_slices(&mut parts, 0);
    while !parts.is_empty() {
        match file.write_vectored(parts) {
            Ok(0) => return Err(std::io::ErrorKind::WriteZero.into()),
            Ok(n) => IoSlice::advance_slices(&mut parts, n),
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

impl Sink for FileSink {
    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.append_all(&mut [IoSlice::new(bytes)])
    }

    fn append_all(&mut self, parts: &mut [IoSlice<'_>]) -> Result<()> {
        let Some(file) = &mut self.file else {
            return Err(
                Error::invalid("this file was committed, or a write to it failed")
                    .in_file(&self.path),
            );
        };
        record::write(&self.temporary, parts);
        let written = write_all_parts(file, parts);
        if written.is_err() {
            self.file = None;
        }
        written.map_err(|e| Error::io("write", &self.temporary, e))
    }

    fn commit(&mut self) -> Result<()> {
        let Some(file) = self.file.take() else {
            return Err(
                Error::invalid("this file was committed, or a write to it failed")
                    .in_file(&self.path),
            );
        };
        // A failed fsync is not retried: the pages may already be marked clean.
        let before = record::sync_begins(&self.temporary);
        file.sync_all()
            .map_err(|e| Error::io("sync", &self.temporary, e))?;
        record::synced(&self.temporary, before);
        drop(file);
        fs::rename(&self.temporary, &self.path)
            .map_err(|e| Error::io("rename", &self.temporary, e))?;
        record::rename(&self.temporary, &self.path);
        self.temporary = PathBuf::new();
        let folder = parent(&self.path);
        fault::after_rename(folder, &self.path)?;
        sync_folder(folder)
    }
}

impl Drop for FileSink {
    fn drop(&mut self) {
        if !self.temporary.as_os_str().is_empty() {
            // Nothing useful can be done about a failure: the name says that it is a leftover.
            remove_file(&self.temporary).ok();
        }
    }
}

/// Removes a file.
pub(crate) fn remove_file(path: &Path) -> std::io::Result<()> {
    fs::remove_file(path)?;
    record::remove(path);
    Ok(())
}

/// Refuses the empty path: joined with a name it would be the current folder, which nobody has asked for.
///
/// # Errors
/// `Io`, as the system says of such a path.
pub(crate) fn check_not_empty(operation: &'static str, path: &Path) -> Result<()> {
    if !path.as_os_str().is_empty() {
        return Ok(());
    }
    let error = std::io::Error::new(
        std::io::ErrorKind::NotFound,
        "the path is empty; `.` is the current folder",
    );
    Err(Error::io(operation, path, error))
}

/// Makes a folder and those it is in, durable in the one that was there.
///
/// # Errors
/// `Io`.
pub(crate) fn create_folder(path: &Path) -> Result<()> {
    check_not_empty("create folder", path)?;
    let missing: Vec<&Path> = path
        .ancestors()
        .take_while(|folder| !folder.as_os_str().is_empty() && !folder.exists())
        .collect();
    fs::create_dir_all(path).map_err(|e| Error::io("create folder", path, e))?;
    for folder in missing.into_iter().rev() {
        record::create(folder);
        sync_folder(parent(folder))?;
    }
    Ok(())
}

/// Keeps other writers out of a folder until it is dropped.
#[derive(Debug)]
pub(crate) struct FolderLock {
    folder: File,
}

impl Drop for FolderLock {
    fn drop(&mut self) {
        // Closing is not enough: a process that was forked meanwhile has the file open as well.
        self.folder.unlock().ok();
    }
}

/// Locks a folder for writing until what is returned is dropped, or the process ends. `None` where the file system has
/// no such locks.
///
/// # Errors
/// `Io` if another writer has locked it.
pub(crate) fn lock_folder(path: &Path) -> Result<Option<FolderLock>> {
    // Not everywhere can a folder be opened.
    let Ok(folder) = File::open(path) else {
        return Ok(None);
    };
    match folder.try_lock() {
        Ok(()) => Ok(Some(FolderLock { folder })),
        Err(fs::TryLockError::WouldBlock) => Err(Error::io(
            "lock",
            path,
            std::io::Error::new(
                std::io::ErrorKind::ResourceBusy,
                "another writer is at work in this folder; wait for it, or write parts and merge them",
            ),
        )),
        Err(fs::TryLockError::Error(_)) => Ok(None),
    }
}

/// Atomically puts a small file in place, durably.
pub(crate) fn publish(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut sink = FileSink::create(path.to_owned())?;
    sink.append(bytes)?;
    sink.commit()
}

/// The folder that a file is in.
pub(crate) fn parent(path: &Path) -> &Path {
    path.parent()
        .filter(|p| !p.as_os_str().is_empty())
        .unwrap_or(Path::new("."))
}

/// Makes the names in a folder durable.
pub(crate) fn sync_folder(folder: &Path) -> Result<()> {
    if cfg!(unix) {
        let folder_file = File::open(folder).map_err(|e| Error::io("open", folder, e))?;
        folder_file
            .sync_all()
            .map_err(|e| Error::io("sync", folder, e))?;
        record::sync_folder(folder);
    }
    Ok(())
}

/// What follows a file's name while it is written; the process id and a random number come after it.
const TEMPORARY: &str = ".tmp-";

/// True for the name of a file that is being written, or that an interrupted writer has left.
pub(crate) fn is_temporary_name(name: &str) -> bool {
    let digits = |text: &str, radix| {
        !text.is_empty() && text.chars().all(|c| c.is_digit(radix) && !c.is_uppercase())
    };
    name.rsplit_once(TEMPORARY)
        .and_then(|(_, tail)| tail.split_once('-'))
        .is_some_and(|(process, random)| digits(process, 10) && digits(random, 16))
}

fn temporary_name(path: &Path) -> Result<PathBuf> {
    let mut random = [0; 8];
    getrandom::fill(&mut random)
        .map_err(|e| Error::io("get random bytes for", path, std::io::Error::other(e)))?;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(
        "{TEMPORARY}{}-{:016x}",
        std::process::id(),
        u64::from_le_bytes(random)
    ));
    Ok(path.with_file_name(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_ends_with_its_owner_although_a_forked_process_has_the_file_open() -> Result<()> {
        let folder = tempfile::tempdir().unwrap();
        let Some(lock) = lock_folder(folder.path())? else {
            return Ok(());
        };
        // What a fork does.
        let also_open = lock.folder.try_clone().unwrap();
        assert!(lock_folder(folder.path()).unwrap_err().is_io());
        drop(lock);
        assert!(lock_folder(folder.path())?.is_some());
        drop(also_open);
        Ok(())
    }
}
