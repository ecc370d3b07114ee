//! Read-only memory maps of regular files.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use bytes::Bytes;

use crate::error::{Error, Result};

/// A whole file, mapped read-only.
///
/// The bytes are those of the file at the moment they are looked at: another process that changes the file changes
/// them, and one that shortens it makes the access end with a bus error. Do not map files that others write to.
#[derive(Debug)]
pub(crate) struct Mmap {
    // `None` for an empty file: a map has at least one byte.
    map: Option<memmap2::Mmap>,
}

/// Opens `path` for reading, if it is a regular file (or a link to one), and returns its length.
///
/// # Errors
/// `InvalidArgument` for a folder, pipe, socket or device, none of which is opened; `Io` otherwise.
pub(crate) fn open_regular(path: &Path) -> Result<(File, u64)> {
    // Asked before opening: opening a pipe waits for its writer, opening a device may do anything.
    let metadata = fs::metadata(path).map_err(|e| Error::io("open", path, e))?;
    if !metadata.is_file() {
        return Err(Error::invalid(
            "only a regular file can be read, not a folder, pipe or device",
        )
        .in_file(path));
    }
    let file = File::open(path).map_err(|e| Error::io("open", path, e))?;
    let len = file
        .metadata()
        .map_err(|e| Error::io("open", path, e))?
        .len();
    Ok((file, len))
}

impl Mmap {
    /// Maps the file at `path`.
    ///
    /// # Errors
    /// `InvalidArgument` if `path` is not a regular file, `Io` if it cannot be opened or mapped.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let (file, len) = open_regular(path)?;
        if len == 0 {
            return Ok(Self { map: None });
        }
        // Only reachable on 32-bit targets.
        if usize::try_from(len).is_err() {
            return Err(Error::io("map", path, io::ErrorKind::FileTooLarge.into()));
        }
        #[expect(unsafe_code, reason = "others may change a mapped file")]
        // SAFETY: the map is private to this value, read-only and only handed out as `&[u8]`. What cannot be checked is
        // that nobody else changes or shortens the file meanwhile; the type's documentation passes that duty on.
        let map = unsafe { memmap2::Mmap::map(&file) };
        let map = map.map_err(|e| Error::io("map", path, e))?;
        Ok(Self { map: Some(map) })
    }

    /// The bytes of the file.
    pub(crate) fn as_slice(&self) -> &[u8] {
        self.map.as_deref().unwrap_or_default()
    }

    /// The bytes of the file, reference counted; the map lives as long as the last clone or slice.
    pub(crate) fn into_bytes(self) -> Bytes {
        if self.map.is_none() {
            Bytes::new()
        } else {
            Bytes::from_owner(self)
        }
    }

    /// Tells the system that the bytes will be read from front to back; nothing happens where it has no such call.
    pub(crate) fn advise_sequential(&self) {
        #[cfg(unix)]
        if let Some(map) = &self.map {
            // A hint: if it is refused, reading is only slower.
            map.advise(memmap2::Advice::Sequential).ok();
        }
    }
}

impl AsRef<[u8]> for Mmap {
    fn as_ref(&self) -> &[u8] {
        self.as_slice()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn bytes_outlive_the_map_and_empty_files_are_empty() -> Result<()> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        fs::write(&path, b"abc").unwrap();
        let map = Mmap::open(&path)?;
        map.advise_sequential();
        assert_eq!(map.as_slice(), b"abc");
        assert_eq!(map.into_bytes().slice(1..), b"bc".as_slice());

        fs::write(&path, b"").unwrap();
        let map = Mmap::open(&path)?;
        map.advise_sequential();
        assert!(map.as_slice().is_empty());
        assert!(map.into_bytes().is_empty());
        Ok(())
    }

    #[test]
    fn only_regular_files_are_opened() {
        let folder = tempfile::tempdir().unwrap();
        let error = Mmap::open(folder.path()).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::InvalidArgument { .. }));
        assert_eq!(error.path(), Some(folder.path()));
        assert!(
            Mmap::open(&folder.path().join("missing"))
                .unwrap_err()
                .is_io()
        );
    }

    #[cfg(unix)]
    #[test]
    fn a_pipe_is_refused_without_waiting() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&path).status();
        if made.is_ok_and(|status| status.success()) {
            assert!(matches!(
                Mmap::open(&path).unwrap_err().kind(),
                ErrorKind::InvalidArgument { .. }
            ));
        }
    }
}
