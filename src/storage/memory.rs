//! A file that is a byte string in memory.

use std::ops::Range;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use crate::error::Result;

use super::{Storage, check_range};

/// Bytes in memory.
#[derive(Debug)]
pub(crate) struct MemoryStorage {
    name: PathBuf,
    bytes: Bytes,
}

impl MemoryStorage {
    pub(crate) fn new(name: impl Into<PathBuf>, bytes: Bytes) -> Self {
        Self {
            name: name.into(),
            bytes,
        }
    }
}

impl Storage for MemoryStorage {
    fn path(&self) -> &Path {
        &self.name
    }

    fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn in_place(&self, range: Range<u64>) -> Result<Option<&[u8]>> {
        Ok(Some(
            &self.bytes[check_range(&self.name, self.len(), &range)?],
        ))
    }

    fn read_into(&self, offset: u64, dst: &mut [u8]) -> Result<()> {
        let range = offset..offset.saturating_add(dst.len() as u64);
        dst.copy_from_slice(&self.bytes[check_range(&self.name, self.len(), &range)?]);
        Ok(())
    }

    fn bytes(&self, range: Range<u64>) -> Result<Bytes> {
        Ok(self
            .bytes
            .slice(check_range(&self.name, self.len(), &range)?))
    }
}
