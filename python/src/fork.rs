//! Processes that fork: threads do not follow, and locks may stay locked for ever.
//!
//! What has threads or locks is a [`Local`]: in a forked copy it is neither used nor dropped.

use std::sync::atomic::{AtomicU64, Ordering};

use pyo3::prelude::*;

/// Counts the forks between the first process and this one.
static GENERATION: AtomicU64 = AtomicU64::new(0);

/// Which process this is, as far as forks are concerned.
pub(crate) fn generation() -> u64 {
    GENERATION.load(Ordering::Relaxed)
}

/// Called in the child after a fork (`os.register_at_fork`).
#[pyfunction]
pub(crate) fn forked() {
    GENERATION.fetch_add(1, Ordering::Relaxed);
}

/// A value that belongs to the process that made it.
#[derive(Debug)]
pub(crate) struct Local<T> {
    value: Option<T>,
    generation: u64,
}

impl<T> Local<T> {
    pub(crate) fn new(value: T) -> Self {
        Self {
            value: Some(value),
            generation: generation(),
        }
    }

    /// The value; `None` in a forked copy.
    pub(crate) fn get(&self) -> Option<&T> {
        self.value
            .as_ref()
            .filter(|_| self.generation == generation())
    }

    /// As [`Local::get`].
    pub(crate) fn get_mut(&mut self) -> Option<&mut T> {
        let here = self.generation == generation();
        self.value.as_mut().filter(|_| here)
    }

    /// The value, wherever: only for memory that needs no lock to be read.
    pub(crate) fn get_anywhere(&self) -> Option<&T> {
        self.value.as_ref()
    }

    /// Takes the value out; `None` in a forked copy.
    pub(crate) fn take(&mut self) -> Option<T> {
        let value = self.value.take();
        if self.generation == generation() {
            return value;
        }
        std::mem::forget(value);
        None
    }
}

impl<T> Drop for Local<T> {
    fn drop(&mut self) {
        if self.generation != generation() {
            // Its threads are not here, and its locks may never open.
            std::mem::forget(self.value.take());
        }
    }
}
