//! The values of one field of a batch: shared by views, and changed in place by their only owner.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use crate::pool::PooledBuffer;

/// A buffer of a pool. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct Values {
    memory: Arc<PooledBuffer>,
    /// The same memory, once somebody has asked for it.
    bytes: OnceLock<Bytes>,
}

/// Keeps the buffer as long as there are views of it.
struct Shared(Arc<PooledBuffer>);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        self.0.as_ref().as_ref()
    }
}

impl Values {
    pub(super) fn new(buffer: PooledBuffer) -> Self {
        Self {
            memory: Arc::new(buffer),
            bytes: OnceLock::new(),
        }
    }

    pub(super) fn as_slice(&self) -> &[u8] {
        self.memory.as_ref().as_ref()
    }

    pub(super) fn bytes(&self) -> &Bytes {
        self.bytes
            .get_or_init(|| Bytes::from_owner(Shared(Arc::clone(&self.memory))))
    }

    /// The bytes, to be changed: in place if nobody else has them, else those of a copy.
    pub(super) fn as_mut_slice(&mut self) -> &mut [u8] {
        self.bytes.take();
        if Arc::get_mut(&mut self.memory).is_none() {
            self.memory = Arc::new(self.memory.copied());
        }
        // The only owner now, either way.
        Arc::get_mut(&mut self.memory).map_or(&mut [], PooledBuffer::as_mut)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::BufferPool;

    #[test]
    fn views_keep_what_they_saw_when_values_change() -> crate::Result<()> {
        let pool = BufferPool::new(1 << 20, None);
        let mut buffer = pool.take(4)?;
        buffer.as_mut().copy_from_slice(b"abcd");
        let mut values = Values::new(buffer);
        let at = values.as_slice().as_ptr();
        values.as_mut_slice()[0] = b'x';
        // In place: nobody else had it.
        assert_eq!(
            (values.as_slice().as_ptr(), values.as_slice()),
            (at, &b"xbcd"[..])
        );
        let (view, clone) = (values.bytes().clone(), values.clone());
        values.as_mut_slice()[1] = b'y';
        assert_eq!(values.bytes().as_ref(), b"xycd");
        assert_eq!(
            (view.as_ref(), clone.as_slice()),
            (&b"xbcd"[..], &b"xbcd"[..])
        );
        drop((view, clone, values));
        assert_eq!(pool.stats().in_use, 0);
        Ok(())
    }
}
