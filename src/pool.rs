//! Recycled, reference-counted buffers: a batch that its consumer has dropped is memory for the next one.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytemuck::{Pod, Zeroable};

/// A cache line: buffers are aligned for every element type and vector width.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// A pool of buffers. Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct BufferPool {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    free: Mutex<Vec<Vec<Line>>>,
    in_use: AtomicU64,
    peak: AtomicU64,
    hits: AtomicU64,
    misses: AtomicU64,
    /// Buffers beyond this many bytes in the pool are freed instead of kept.
    keep: AtomicU64,
}

/// A buffer on loan. Its bytes are initialized, but may be those of its last use.
pub(crate) struct PooledBuffer {
    lines: Vec<Line>,
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
        let need = len.div_ceil(64);
        let recycled = {
            let mut free = self
                .inner
                .free
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            // The smallest that is large enough, and not wastefully larger.
            let fit = |lines: &Vec<Line>| lines.len() >= need && lines.len() / 2 <= need.max(64);
            let best = free
                .iter()
                .enumerate()
                .filter(|(_, lines)| fit(lines))
                .min_by_key(|(_, lines)| lines.len());
            best.map(|(i, _)| i).map(|i| free.swap_remove(i))
        };
        let counter = if recycled.is_some() {
            &self.inner.hits
        } else {
            &self.inner.misses
        };
        counter.fetch_add(1, Ordering::Relaxed);
        let lines = recycled.unwrap_or_else(|| bytemuck::zeroed_vec(need));
        let bytes = lines.len() as u64 * 64;
        let in_use = self.inner.in_use.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.inner.peak.fetch_max(in_use, Ordering::Relaxed);
        PooledBuffer {
            lines,
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
        &mut bytemuck::cast_slice_mut(&mut self.lines)[..self.len]
    }
}

impl AsRef<[u8]> for PooledBuffer {
    fn as_ref(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.lines)[..self.len]
    }
}

impl Drop for PooledBuffer {
    fn drop(&mut self) {
        let lines = std::mem::take(&mut self.lines);
        let bytes = lines.len() as u64 * 64;
        self.pool.in_use.fetch_sub(bytes, Ordering::Relaxed);
        if bytes == 0 {
            return;
        }
        let mut free = self
            .pool
            .free
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let kept: u64 = free.iter().map(|lines| lines.len() as u64 * 64).sum();
        if kept + bytes <= self.pool.keep.load(Ordering::Relaxed) {
            free.push(lines);
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
