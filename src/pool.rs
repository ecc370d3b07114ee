//! Recycled, reference-counted buffers: a batch that its consumer has dropped is memory for the next one.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// A cache line: buffers are aligned for every element type and vector width.
const ALIGN: usize = 64;

/// Memory that starts somewhere before the first cache line that is used. An aligned allocation would be zeroed by
/// hand, by the thread that plans; this one is zeroed by the system, page by page, when a worker first writes to it.
#[derive(Debug, Default)]
struct Memory(Vec<u8>);

impl Memory {
    /// `len` is a multiple of [`ALIGN`].
    fn zeroed(len: usize) -> Self {
        Self(vec![0; len + ALIGN - 1])
    }

    /// Usable bytes.
    fn len(&self) -> usize {
        (self.0.len() + 1).saturating_sub(ALIGN)
    }

    fn start(&self) -> usize {
        self.0.as_ptr().align_offset(ALIGN)
    }
}

/// A pool of buffers. Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct BufferPool {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    free: Mutex<Vec<Memory>>,
    in_use: AtomicU64,
    peak: AtomicU64,
    hits: AtomicU64,
    misses: AtomicU64,
    /// Buffers beyond this many bytes in the pool are freed instead of kept.
    keep: AtomicU64,
}

/// A buffer on loan. Its bytes are initialized, but may be those of its last use.
pub(crate) struct PooledBuffer {
    memory: Memory,
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

impl BufferPool {
    /// A pool that keeps up to `keep` bytes of returned buffers.
    pub(crate) fn new(keep: u64) -> Self {
        let pool = Self::default();
        pool.inner.keep.store(keep, Ordering::Relaxed);
        pool
    }

    /// A buffer of `len` bytes.
    pub(crate) fn take(&self, len: usize) -> PooledBuffer {
        let need = len.next_multiple_of(ALIGN);
        let recycled = {
            let mut free = self
                .inner
                .free
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            // The smallest that is large enough, and not wastefully larger.
            let fit =
                |memory: &Memory| memory.len() >= need && memory.len() / 2 <= need.max(64 * ALIGN);
            let best = free
                .iter()
                .enumerate()
                .filter(|(_, memory)| fit(memory))
                .min_by_key(|(_, memory)| memory.len());
            best.map(|(i, _)| i).map(|i| free.swap_remove(i))
        };
        let counter = if recycled.is_some() {
            &self.inner.hits
        } else {
            &self.inner.misses
        };
        counter.fetch_add(1, Ordering::Relaxed);
        let memory = recycled.unwrap_or_else(|| Memory::zeroed(need));
        let bytes = memory.len() as u64;
        let in_use = self.inner.in_use.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.inner.peak.fetch_max(in_use, Ordering::Relaxed);
        PooledBuffer {
            memory,
            len,
            pool: Arc::clone(&self.inner),
        }
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

impl AsMut<[u8]> for PooledBuffer {
    fn as_mut(&mut self) -> &mut [u8] {
        let start = self.memory.start();
        &mut self.memory.0[start..start + self.len]
    }
}

impl AsRef<[u8]> for PooledBuffer {
    fn as_ref(&self) -> &[u8] {
        let start = self.memory.start();
        &self.memory.0[start..start + self.len]
    }
}

impl Drop for PooledBuffer {
    fn drop(&mut self) {
        let memory = std::mem::take(&mut self.memory);
        let bytes = memory.len() as u64;
        self.pool.in_use.fetch_sub(bytes, Ordering::Relaxed);
        if bytes == 0 {
            return;
        }
        let mut free = self
            .pool
            .free
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let kept: u64 = free.iter().map(|memory| memory.len() as u64).sum();
        if kept + bytes <= self.pool.keep.load(Ordering::Relaxed) {
            free.push(memory);
        }
    }
}

impl std::fmt::Debug for PooledBuffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PooledBuffer")
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_recycled_and_aligned() {
        let pool = BufferPool::new(1 << 20);
        let mut a = pool.take(1000);
        a.as_mut().fill(7);
        let address = a.as_ref().as_ptr();
        assert_eq!(address as usize % 64, 0);
        drop(a);
        let b = pool.take(990);
        assert_eq!((b.as_ref().as_ptr(), b.as_ref().len()), (address, 990));
        let stats = pool.stats();
        assert_eq!((stats.hits, stats.misses, stats.in_use), (1, 1, 1024));
    }

    #[test]
    fn no_more_is_kept_than_was_asked_for() {
        let pool = BufferPool::new(2048);
        drop((pool.take(1024), pool.take(1024), pool.take(1024)));
        drop((pool.take(1024), pool.take(1024), pool.take(1024)));
        assert_eq!(pool.stats().hits, 2);
        assert_eq!(pool.stats().in_use, 0);
    }
}
