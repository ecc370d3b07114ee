//! Batches in memory that Python objects own: pinned tensors of torch, say.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use numpy::{PyArray1, PyArrayMethods, PyUntypedArrayMethods};
use pyo3::prelude::*;
use tensorshard::{HostAllocator, HostMemory};

use crate::error::invalid;
use crate::fork::generation;

/// What keeps memory that batches are decoded into.
struct Owner {
    len: usize,
    object: Py<PyAny>,
    /// Keeps the memory as well, should the object let go of it.
    _bytes: Py<PyArray1<u8>>,
}

/// Owners by the address where their memory starts. Locked only with the interpreter's lock, so that no fork finds it
/// locked by a thread that is not there any more.
static OWNERS: Mutex<BTreeMap<usize, Owner>> = Mutex::new(BTreeMap::new());

/// A Python callable: from a number of bytes to an object and its bytes as a NumPy array.
#[derive(Debug)]
pub(crate) struct Allocator {
    allocate: Py<PyAny>,
}

impl Allocator {
    pub(crate) fn new(allocate: Py<PyAny>) -> Self {
        Self { allocate }
    }
}

impl HostAllocator for Allocator {
    fn allocate(&self, num_bytes: usize) -> io::Result<Box<dyn HostMemory>> {
        let made = Python::try_attach(|py| {
            let made = self.allocate.bind(py).call1((num_bytes,))?;
            let (object, bytes): (Py<PyAny>, Bound<'_, PyArray1<u8>>) = made.extract()?;
            Owned::new(object, &bytes)
        });
        match made {
            Some(Ok(owned)) => Ok(Box::new(owned)),
            Some(Err(error)) => Err(io::Error::other(error.to_string())),
            None => Err(io::Error::other("the interpreter is ending")),
        }
    }
}

/// Memory whose owner is registered as long as this lives.
struct Owned {
    address: usize,
    len: usize,
    generation: u64,
}

impl Owned {
    fn new(object: Py<PyAny>, bytes: &Bound<'_, PyArray1<u8>>) -> PyResult<Self> {
        // Exclusive as far as NumPy knows; refused for arrays that cannot be written.
        let address = bytes.try_readwrite()?.as_array_mut().as_mut_ptr() as usize;
        let len = bytes.len();
        if !bytes.is_c_contiguous() || len == 0 {
            return Err(invalid(
                "an allocator gives bytes that lie one after the other",
            ));
        }
        let owner = Owner {
            len,
            object,
            _bytes: bytes.clone().unbind(),
        };
        match owners().entry(address) {
            Entry::Vacant(entry) => entry.insert(owner),
            Entry::Occupied(_) => {
                return Err(invalid(
                    "an allocator gave memory that is in use: it must be new each time",
                ));
            }
        };
        Ok(Self {
            address,
            len,
            generation: generation(),
        })
    }
}

fn owners() -> MutexGuard<'static, BTreeMap<usize, Owner>> {
    OWNERS.lock().unwrap_or_else(PoisonError::into_inner)
}

impl AsRef<[u8]> for Owned {
    #[expect(unsafe_code, reason = "memory of a Python object")]
    fn as_ref(&self) -> &[u8] {
        // SAFETY: `Owned::new` was given an array with `len` contiguous bytes at `address`, which `OWNERS` keeps until
        // this is dropped. It is never resized: it does not own its memory, or has other references.
        unsafe { std::slice::from_raw_parts(self.address as *const u8, self.len) }
    }
}

impl AsMut<[u8]> for Owned {
    #[expect(unsafe_code, reason = "memory of a Python object")]
    fn as_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above; the array can be written, no other `Owned` has this address, and nobody has seen it before
        // its batch is delivered.
        unsafe { std::slice::from_raw_parts_mut(self.address as *mut u8, self.len) }
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        // In a forked copy, and when the interpreter ends, it is left alone.
        if self.generation == generation() {
            // What the owner frees is freed after the lock was given back.
            let owner = Python::try_attach(|_| owners().remove(&self.address));
            drop(owner);
        }
    }
}

/// The object that owns `len` bytes at `address`, and where they are in it.
pub(crate) fn owner_of(py: Python<'_>, address: usize, len: usize) -> Option<(Py<PyAny>, usize)> {
    let owners = owners();
    let (start, owner) = owners.range(..=address).next_back()?;
    let offset = address - start;
    (offset.checked_add(len)? <= owner.len).then(|| (owner.object.clone_ref(py), offset))
}
