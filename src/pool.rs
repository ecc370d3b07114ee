//! Recycled, reference-counted buffers: a batch that its consumer has dropped is memory for the next one. Or memory of
//! somebody else's, who recycles it: pinned for a GPU, say.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};

use crate::error::{Error, Result};
use crate::kernel::pages::{self, ALIGN, Part};
use crate::kernel::stream;
use crate::sync::Mutex;

/// Bytes of which the last-level cache may still hold enough: a share of 32 MiB, a usual size.
const CACHED: u64 = 16 << 20;
/// Buffers of one size are made together, up to so many bytes: on huge pages, which the system gives to large
/// allocations only. What is not used of them takes no memory.
const SLAB: usize = 16 << 20;
/// The most buffers that are made together.
const SLAB_BUFFERS: usize = 1024;

/// Bytes on the host that belong to somebody else, and stay where they are.
pub trait HostMemory: AsRef<[u8]> + AsMut<[u8]> + Send + Sync {}

impl<T: AsRef<[u8]> + AsMut<[u8]> + Send + Sync> HostMemory for T {}

/// Makes the memory that batches are decoded into, in place of the loader's own pool: pinned memory, from which a GPU
/// copies by itself, or memory that other processes see.
///
/// It is asked once for each array of each batch, on the thread that takes batches, and recycles memory itself: what it
/// gave is dropped with the last view of the batch.
pub trait HostAllocator: fmt::Debug + Send + Sync {
    /// At least `num_bytes` bytes, of any value, that start at a multiple of 64.
    ///
    /// # Errors
    /// Whatever kept it from doing so; the epoch ends with it.
    fn allocate(&self, num_bytes: usize) -> io::Result<Box<dyn HostMemory>>;
}

/// A pool of buffers. Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct BufferPool {
    inner: Arc<Inner>,
    allocator: Option<Arc<dyn HostAllocator>>,
}

#[derive(Debug, Default)]
struct Inner {
    free: Mutex<Free>,
    in_use: AtomicU64,
    peak: AtomicU64,
    hits: AtomicU64,
    misses: AtomicU64,
    /// Buffers that come back are freed instead of kept if they, those that are kept, and those in use would be more
    /// bytes than this.
    keep: AtomicU64,
}

#[derive(Default)]
struct Free {
    /// The last is the one that was used last, and may still be in a cache.
    buffers: Vec<Part>,
    bytes: u64,
    /// The size that was made last: where sizes repeat, several are made together.
    made: usize,
}

impl fmt::Debug for Free {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Free")
            .field("buffers", &self.buffers.len())
            .field("bytes", &self.bytes)
            .finish_non_exhaustive()
    }
}

impl Free {
    /// The smallest that is large enough, and not wastefully larger; of equal ones the one used last.
    fn recycle(&mut self, need: usize) -> Option<Part> {
        let mut best: Option<(usize, usize)> = None;
        for (i, part) in self.buffers.iter().enumerate().rev() {
            let len = part.len();
            let fits = len >= need && len / 2 <= need.max(4 * ALIGN);
            if fits && best.is_none_or(|(_, least)| len < least) {
                best = Some((i, len));
                if len == need {
                    break;
                }
            }
        }
        let (i, len) = best?;
        self.bytes -= len as u64;
        Some(self.buffers.remove(i))
    }

    /// A new buffer, within `room` bytes for it and all that are free: of those, the ones that were used longest ago make
    /// room for it. Others of its size may become free beside it.
    fn make(&mut self, need: usize, room: u64) -> Option<Part> {
        let left = room.saturating_sub(need as u64);
        let mut num_freed = 0;
        for part in &self.buffers {
            if self.bytes <= left {
                break;
            }
            self.bytes -= part.len() as u64;
            num_freed += 1;
        }
        self.buffers.drain(..num_freed);
        let count = if self.made == need {
            (SLAB / need.max(1)).clamp(1, SLAB_BUFFERS)
        } else {
            1
        };
        self.made = need;
        // What may not be kept is not made in advance.
        let spare = left.saturating_sub(self.bytes) / (need as u64).max(1);
        let count = count.min(
            usize::try_from(spare)
                .unwrap_or(usize::MAX)
                .saturating_add(1),
        );
        let mut parts = pages::parts(need, count);
        let part = parts.pop();
        self.bytes += parts.iter().map(|part| part.len() as u64).sum::<u64>();
        self.buffers.append(&mut parts);
        part
    }
}

enum Memory {
    Part(Part),
    Host(Box<dyn HostMemory>),
}

impl Memory {
    fn len(&self) -> usize {
        match self {
            Self::Part(part) => part.len(),
            Self::Host(memory) => memory.as_ref().as_ref().len(),
        }
    }
}

/// A buffer on loan. Its bytes are initialized, but may be those of its last use.
pub(crate) struct PooledBuffer {
    /// `Some` until it is dropped.
    memory: Option<Memory>,
    len: usize,
    pool: Arc<Inner>,
}

/// How a pool was used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct PoolStats {
    pub(crate) in_use: u64,
    pub(crate) peak: u64,
    pub(crate) hits: u64,
    pub(crate) misses: u64,
}

impl Inner {
    /// A buffer of the pool's own.
    fn take(self: &Arc<Self>, len: usize) -> Result<PooledBuffer> {
        let part = self.recycle(len).ok_or_else(|| {
            let why = format!("the system has no {len} bytes left; take smaller batches");
            let why = io::Error::new(io::ErrorKind::OutOfMemory, why);
            Error::io("allocate memory of a batch", "", why)
        })?;
        Ok(self.lend(Memory::Part(part), len))
    }

    fn lend(self: &Arc<Self>, memory: Memory, len: usize) -> PooledBuffer {
        let bytes = memory.len() as u64;
        let in_use = self.in_use.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.peak.fetch_max(in_use, Ordering::Relaxed);
        PooledBuffer {
            memory: Some(memory),
            len,
            pool: Arc::clone(self),
        }
    }

    fn recycle(&self, len: usize) -> Option<Part> {
        let need = len.checked_next_multiple_of(ALIGN)?;
        let keep = self.keep.load(Ordering::Relaxed);
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let recycled = free.recycle(need);
        let counter = if recycled.is_some() {
            &self.hits
        } else {
            &self.misses
        };
        counter.fetch_add(1, Ordering::Relaxed);
        recycled.or_else(|| {
            let in_use = self.in_use.load(Ordering::Relaxed);
            free.make(need, keep.saturating_sub(in_use))
        })
    }
}

impl BufferPool {
    /// A pool that keeps returned buffers as long as they and those in use are at most `keep` bytes; or an allocator in
    /// place of it.
    pub(crate) fn new(keep: u64, allocator: Option<Arc<dyn HostAllocator>>) -> Self {
        let pool = Self {
            allocator,
            ..Self::default()
        };
        pool.inner.keep.store(keep, Ordering::Relaxed);
        pool
    }

    /// A buffer of `len` bytes.
    pub(crate) fn take(&self, len: usize) -> Result<PooledBuffer> {
        match &self.allocator {
            Some(allocator) if len > 0 => {
                let memory = self.ask(allocator.as_ref(), len)?;
                Ok(self.inner.lend(Memory::Host(memory), len))
            }
            _ => self.inner.take(len),
        }
    }

    /// A buffer of the pool's own, whatever the allocator.
    pub(crate) fn take_own(&self, len: usize) -> Result<PooledBuffer> {
        self.inner.take(len)
    }

    fn ask(&self, allocator: &dyn HostAllocator, len: usize) -> Result<Box<dyn HostMemory>> {
        self.inner.misses.fetch_add(1, Ordering::Relaxed);
        let error = |e| Error::io("allocate memory of a batch", "", e);
        let memory = allocator.allocate(len).map_err(error)?;
        let bytes: &[u8] = memory.as_ref().as_ref();
        if bytes.len() < len || !(bytes.as_ptr() as usize).is_multiple_of(ALIGN) {
            return Err(error(io::Error::other(format!(
                "the allocator gave {} bytes at {:p} for {len} bytes at a multiple of {ALIGN}",
                bytes.len(),
                bytes.as_ptr()
            ))));
        }
        Ok(memory)
    }

    /// The bytes up to which it keeps returned buffers: the memory budget of a loader.
    pub(crate) fn budget(&self) -> Option<u64> {
        Some(self.inner.keep.load(Ordering::Relaxed)).filter(|&keep| keep > 0)
    }

    /// True if the buffers in use are more than caches hold, so that streaming past the caches pays.
    pub(crate) fn is_cold(&self) -> bool {
        self.inner.in_use.load(Ordering::Relaxed) > CACHED && stream::PAYS
    }

    /// How the pool was used so far.
    pub(crate) fn stats(&self) -> PoolStats {
        PoolStats {
            in_use: self.inner.in_use.load(Ordering::Relaxed),
            peak: self.inner.peak.load(Ordering::Relaxed),
            hits: self.inner.hits.load(Ordering::Relaxed),
            misses: self.inner.misses.load(Ordering::Relaxed),
        }
    }
}

impl PooledBuffer {
    /// Another buffer with the same bytes, of the pool's own.
    pub(crate) fn copied(&self) -> Self {
        match self.pool.take(self.len) {
            Ok(mut copy) => {
                copy.as_mut().copy_from_slice(self.as_ref());
                copy
            }
            // The end of a process that has no memory, as of every vector.
            Err(_) => {
                let copy = Box::new(self.as_ref().to_vec());
                self.pool.lend(Memory::Host(copy), self.len)
            }
        }
    }
}

impl AsMut<[u8]> for PooledBuffer {
    fn as_mut(&mut self) -> &mut [u8] {
        match &mut self.memory {
            Some(Memory::Part(part)) => &mut part.as_mut()[..self.len],
            Some(Memory::Host(memory)) => &mut memory.as_mut().as_mut()[..self.len],
            None => &mut [],
        }
    }
}

impl AsRef<[u8]> for PooledBuffer {
    fn as_ref(&self) -> &[u8] {
        match &self.memory {
            Some(Memory::Part(part)) => &part.as_ref()[..self.len],
            Some(Memory::Host(memory)) => &memory.as_ref().as_ref()[..self.len],
            None => &[],
        }
    }
}

impl Drop for PooledBuffer {
    fn drop(&mut self) {
        let Some(memory) = self.memory.take() else {
            return;
        };
        let bytes = memory.len() as u64;
        let in_use = self.pool.in_use.fetch_sub(bytes, Ordering::Relaxed) - bytes;
        let Memory::Part(part) = memory else {
            return;
        };
        if bytes == 0 {
            return;
        }
        let keep = self.pool.keep.load(Ordering::Relaxed);
        let mut free = self
            .pool
            .free
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if in_use.saturating_add(free.bytes + bytes) <= keep {
            free.bytes += bytes;
            free.buffers.push(part);
        }
    }
}

impl fmt::Debug for PooledBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PooledBuffer")
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_is_not_there_is_an_error() -> Result<()> {
        let pool = BufferPool::new(1 << 20, None);
        for len in [usize::MAX, usize::MAX / 2, 1 << 60] {
            let error = pool.take(len).err().map(|error| error.to_string());
            assert!(
                error.is_some_and(|e| e.contains("smaller batches")),
                "{len}"
            );
        }
        assert_eq!(pool.stats().in_use, 0);
        assert_eq!(pool.take(0)?.as_ref(), b"");
        Ok(())
    }

    #[test]
    fn buffers_are_recycled_and_aligned() -> Result<()> {
        let pool = BufferPool::new(1 << 20, None);
        let mut a = pool.take(1000)?;
        a.as_mut().fill(7);
        let address = a.as_ref().as_ptr();
        assert_eq!(address as usize % 64, 0);
        drop(a);
        let b = pool.take(990)?;
        assert_eq!((b.as_ref().as_ptr(), b.as_ref().len()), (address, 990));
        let stats = pool.stats();
        assert_eq!((stats.hits, stats.misses, stats.in_use), (1, 1, 1024));
        Ok(())
    }

    #[test]
    fn what_is_kept_and_what_is_in_use_are_no_more_than_was_asked_for() -> Result<()> {
        let pool = BufferPool::new(64 << 10, None);
        let total = || {
            let free = pool.inner.free.lock().unwrap();
            let listed: usize = free.buffers.iter().map(Part::len).sum();
            assert_eq!(listed as u64, free.bytes);
            free.bytes + pool.stats().in_use
        };
        let mut in_use = Vec::new();
        for i in 1..200usize {
            in_use.push(pool.take(1024 * (i % 7 + 1))?);
            assert!(total() <= 64 << 10, "{i}");
            // The oldest go back.
            while pool.stats().in_use > 40 << 10 {
                in_use.remove(0);
                assert!(total() <= 64 << 10, "{i}");
            }
        }
        assert!(pool.stats().hits > 100, "{:?}", pool.stats());
        Ok(())
    }

    #[test]
    fn no_more_is_kept_than_was_asked_for() -> Result<()> {
        let pool = BufferPool::new(2048, None);
        drop((pool.take(1024)?, pool.take(1024)?, pool.take(1024)?));
        let before = pool.stats();
        drop((pool.take(1024)?, pool.take(1024)?, pool.take(1024)?));
        assert_eq!(pool.stats().misses - before.misses, 1);
        assert_eq!(pool.stats().in_use, 0);
        Ok(())
    }
}
