//! Read-only memory maps of regular files.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use crate::error::{Error, Result};

use super::file::open_regular;
use super::{Storage, check_range};

/// A whole file, mapped read-only.
///
/// The bytes are those of the file at the moment they are looked at: another process that changes the file changes
/// them, and one that shortens it makes the access end with a bus error. Do not map files that others write to.
#[derive(Debug)]
pub(crate) struct Mmap {
    // `None` for an empty file: a map has at least one byte.
    map: Option<memmap2::Mmap>,
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

/// A mapped file.
#[derive(Debug)]
pub(crate) struct MmapStorage {
    path: PathBuf,
    bytes: Bytes,
}

impl MmapStorage {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            bytes: Mmap::open(path)?.into_bytes(),
        })
    }
}

impl Storage for MmapStorage {
    fn path(&self) -> &Path {
        &self.path
    }

    fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn in_place(&self, range: Range<u64>) -> Result<Option<&[u8]>> {
        Ok(Some(
            &self.bytes[check_range(&self.path, self.len(), &range)?],
        ))
    }

    fn read_into(&self, offset: u64, dst: &mut [u8]) -> Result<()> {
        let range = offset..offset.saturating_add(dst.len() as u64);
        dst.copy_from_slice(&self.bytes[check_range(&self.path, self.len(), &range)?]);
        Ok(())
    }

    fn bytes(&self, range: Range<u64>) -> Result<Bytes> {
        Ok(self
            .bytes
            .slice(check_range(&self.path, self.len(), &range)?))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

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
