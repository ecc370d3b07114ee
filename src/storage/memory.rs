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

    fn read<'a>(&'a self, range: Range<u64>, _scratch: &'a mut Vec<u8>) -> Result<&'a [u8]> {
        Ok(&self.bytes[check_range(&self.name, self.len(), &range)?])
    }

    fn bytes(&self, range: Range<u64>) -> Result<Bytes> {
        Ok(self
            .bytes
            .slice(check_range(&self.name, self.len(), &range)?))
    }
}
