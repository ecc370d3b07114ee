//! Batches in memory of somebody else's.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use common::small_dataset;
use tensorshard::{
    Batch, ErrorKind, HostAllocator, HostMemory, Loader, LoaderBuilder, Result, ShardWriter,
    Shuffle,
};

/// Memory that counts itself.
struct Counted {
    bytes: Vec<u8>,
    skip: usize,
    alive: Arc<AtomicUsize>,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[self.skip..]
    }
}

impl AsMut<[u8]> for Counted {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.skip..]
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.alive.fetch_sub(1, Ordering::Relaxed);
    }
}

#[derive(Debug, Default)]
struct Counting {
    alive: Arc<AtomicUsize>,
    /// Addresses of what was given.
    given: Arc<Mutex<Vec<usize>>>,
    /// Allocations that succeed; the next one does not.
    budget: Option<usize>,
    misaligned: bool,
    short: bool,
}

impl HostAllocator for Counting {
    fn allocate(&self, num_bytes: usize) -> io::Result<Box<dyn HostMemory>> {
        let mut given = self.given.lock().unwrap();
        if self.budget == Some(given.len()) {
            return Err(io::Error::other("no pinned memory is left"));
        }
        let bytes = vec![0xA5; num_bytes + 128];
        let skip = bytes.as_ptr().align_offset(64) + usize::from(self.misaligned);
        let mut memory = Counted {
            bytes,
            skip,
            alive: Arc::clone(&self.alive),
        };
        if self.short {
            memory.bytes.truncate(skip + num_bytes - 1);
        }
        self.alive.fetch_add(1, Ordering::Relaxed);
        given.push(memory.as_ref().as_ptr() as usize);
        Ok(Box::new(memory))
    }
}

fn batches(builder: LoaderBuilder, path: &std::path::Path) -> Result<Vec<Batch>> {
    builder.open(path)?.batches(7).collect()
}

#[test]
fn batches_are_decoded_into_the_memory_that_was_given() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("d");
    small_dataset(&path, 40, ShardWriter::builder().samples_per_chunk(8))?;
    for shuffle in [Shuffle::None, Shuffle::windowed(), Shuffle::Exact] {
        let options = || Loader::builder().shuffle(shuffle).num_workers(2);
        let expected = batches(options(), &path)?;
        let allocator = Counting::default();
        let (alive, given) = (Arc::clone(&allocator.alive), Arc::clone(&allocator.given));
        let found = batches(options().allocator(allocator), &path)?;
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(&expected) {
            for (found, expected) in found.fields().iter().zip(expected.fields()) {
                assert_eq!(found.data(), expected.data());
                let address = found.data().as_ptr() as usize;
                assert!(found.data().is_empty() || given.lock().unwrap().contains(&address));
            }
        }
        assert!(alive.load(Ordering::Relaxed) > 0);
        drop(found);
        assert_eq!(alive.load(Ordering::Relaxed), 0);
    }
    Ok(())
}

#[test]
fn memory_that_is_refused_or_does_not_do_is_an_error() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("d");
    small_dataset(&path, 40, ShardWriter::builder().samples_per_chunk(8))?;
    let cases = [
        (
            Counting {
                budget: Some(9),
                ..Counting::default()
            },
            "no pinned memory is left",
        ),
        (
            Counting {
                misaligned: true,
                ..Counting::default()
            },
            "a multiple of 64",
        ),
        (
            Counting {
                short: true,
                ..Counting::default()
            },
            "a multiple of 64",
        ),
    ];
    for (allocator, said) in cases {
        let error = batches(Loader::builder().allocator(allocator), &path).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Io { .. }), "{error}");
        assert!(error.to_string().contains(said), "{error}");
    }
    Ok(())
}
