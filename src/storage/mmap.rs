//! Read-only memory maps of regular files.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use crate::error::{Error, Result};

use super::file::open_regular;
use super::{Storage, check_range, read_ahead};

/// A whole file, mapped read-only.
///
/// The bytes are those of the file at the moment they are looked at: another process that changes the file changes
/// them, and where one shortens it they become zeros, which [`Mmap::check`] tells. Do not map files that others write to.
#[derive(Debug)]
pub(crate) struct Mmap {
    // Dropped before the map.
    #[cfg(any(target_os = "linux", target_os = "android", target_os = "macos"))]
    guard: Option<super::bus_error::Guard>,
    // `None` for an empty file: a map has at least one byte.
    map: Option<memmap2::Mmap>,
    path: PathBuf,
    /// Kept to ask for the length.
    file: Option<File>,
}

impl Mmap {
    /// Maps the file at `path`.
    ///
    /// # Errors
    /// `Io` if `path` is not a regular file, or cannot be opened or mapped.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let (file, len) = open_regular(path)?;
        if len == 0 {
            return Ok(Self {
                #[cfg(any(target_os = "linux", target_os = "android", target_os = "macos"))]
                guard: None,
                map: None,
                path: path.to_owned(),
                file: None,
            });
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
        Ok(Self {
            #[cfg(any(target_os = "linux", target_os = "android", target_os = "macos"))]
            guard: Some(super::bus_error::Guard::new(&map)),
            map: Some(map),
            path: path.to_owned(),
            file: Some(file),
        })
    }

    /// Closes the file, which the map does not need: [`Mmap::check`] then sees only what was met by a read.
    pub(crate) fn close_file(mut self) -> Self {
        self.file = None;
        self
    }

    /// Asked after bytes were used: whether they were those of the file.
    ///
    /// # Errors
    /// `Corrupt` if the file was truncated meanwhile, or a part of it could not be read.
    pub(crate) fn check(&self) -> Result<()> {
        #[cfg(any(target_os = "linux", target_os = "android", target_os = "macos"))]
        if let Some(offset) = self.guard.as_ref().and_then(|guard| guard.failed_at()) {
            return Err(self
                .truncated("less, or a disk that fails")
                .at_offset(offset));
        }
        // A file that ends within its last page reads as zeros from there, and no signal tells.
        if let Some(file) = &self.file {
            let len = file
                .metadata()
                .map_err(|e| Error::io("read", &self.path, e))?
                .len();
            if len < self.as_slice().len() as u64 {
                return Err(self.truncated(len).at_offset(len));
            }
        }
        Ok(())
    }

    fn truncated(&self, found: impl std::fmt::Display) -> Error {
        let expected = format_args!("{} bytes, as when it was opened", self.as_slice().len());
        Error::corrupt("length of the file", expected, found).in_file(&self.path)
    }

    /// The bytes of the file.
    pub(crate) fn as_slice(&self) -> &[u8] {
        self.map.as_deref().unwrap_or_default()
    }

    /// The bytes of the file, reference counted; the map lives as long as the last clone or slice.
    pub(crate) fn bytes(self: &Arc<Self>) -> Bytes {
        if self.map.is_none() {
            Bytes::new()
        } else {
            Bytes::from_owner(Shared(Arc::clone(self)))
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

/// The owner of bytes.
struct Shared(Arc<Mmap>);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        self.0.as_slice()
    }
}

/// A mapped file.
#[derive(Debug)]
pub(crate) struct MmapStorage {
    path: PathBuf,
    map: Arc<Mmap>,
    bytes: Bytes,
}

impl MmapStorage {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let map = Arc::new(Mmap::open(path)?.close_file());
        Ok(Self {
            path: path.to_owned(),
            bytes: map.bytes(),
            map,
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

    fn will_read(&self, range: Range<u64>) {
        if let (Some(map), Ok(range)) = (&self.map.map, check_range(&self.path, self.len(), &range))
        {
            read_ahead::will_read(map, range);
        }
    }

    fn check(&self) -> Result<()> {
        self.map.check()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn bytes_outlive_the_map_and_empty_files_are_empty() -> Result<()> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        fs::write(&path, b"abc").unwrap();
        let map = Arc::new(Mmap::open(&path)?);
        map.advise_sequential();
        assert_eq!(map.as_slice(), b"abc");
        let bytes = map.bytes();
        drop(map);
        assert_eq!(bytes.slice(1..), b"bc".as_slice());

        fs::write(&path, b"").unwrap();
        let map = Arc::new(Mmap::open(&path)?);
        map.advise_sequential();
        assert!(map.as_slice().is_empty());
        assert!(map.bytes().is_empty());
        map.check()
    }

    #[cfg(any(target_os = "linux", target_os = "macos"))]
    #[test]
    fn a_truncated_map_reads_as_zeros_and_says_so() -> Result<()> {
        let folder = tempfile::tempdir().unwrap();
        let (path, other) = (folder.path().join("x"), folder.path().join("y"));
        for path in [&path, &other] {
            fs::write(path, vec![7; 200_000]).unwrap();
        }
        let whole = Mmap::open(&other)?.close_file();
        let map = Mmap::open(&path)?.close_file();
        let file = File::options().write(true).open(&path).unwrap();
        file.set_len(100_000).unwrap();
        assert_eq!(map.as_slice()[99_999], 7);
        map.check()?;
        // Pages that are gone, read by several threads at once.
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| assert!(map.as_slice()[120_000..].iter().all(|&b| b == 0)));
            }
        });
        let error = map.check().unwrap_err();
        assert!(error.is_corrupt());
        assert_eq!(error.path(), Some(path.as_path()));
        assert!(
            error
                .location()
                .offset
                .is_some_and(|at| (100_000..=120_000).contains(&at))
        );
        // Others are as they were, and the place is free again.
        assert!(whole.as_slice().iter().all(|&b| b == 7));
        whole.check()?;
        drop(map);
        let map = Mmap::open(&path)?;
        assert!(map.as_slice().iter().all(|&b| b == 7));
        map.check()?;
        // Within a page, the system fills with zeros without a word.
        file.set_len(99_999).unwrap();
        assert!(map.check().unwrap_err().is_corrupt());
        Ok(())
    }

    #[test]
    fn only_regular_files_are_opened() {
        let folder = tempfile::tempdir().unwrap();
        let error = Mmap::open(folder.path()).unwrap_err();
        assert!(error.is_io(), "{error}");
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
            let error = Mmap::open(&path).unwrap_err();
            assert!(
                error.is_io() && error.to_string().contains("pipe"),
                "{error}"
            );
        }
    }
}
