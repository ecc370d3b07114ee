//! Arrays over memory of the crate: nothing is copied, and the memory is kept as long as a view of it lives.

use std::sync::Arc;

use bytes::Bytes;
use numpy::npyffi::flags::{NPY_ARRAY_ALIGNED, NPY_ARRAY_C_CONTIGUOUS, NPY_ARRAY_WRITEABLE};
use numpy::npyffi::{self, PY_ARRAY_API, npy_intp};
use pyo3::prelude::*;
use tensorshard::{DType, FieldBatch};

use crate::dtype::numpy_dtype;
use crate::error::invalid;
use crate::fork::Local;

/// What memory belongs to.
#[derive(Debug)]
pub(crate) enum Memory {
    /// A field of a batch: values, scales and zero points.
    Field(FieldBatch),
    /// The values of a sample, or a small copy.
    Bytes(Bytes),
}

impl Memory {
    /// All values.
    pub(crate) fn values(&self) -> Option<&[u8]> {
        Some(match self {
            Self::Field(field) => field.data(),
            Self::Bytes(bytes) => bytes,
        })
    }
}

/// Memory that several arrays may share; it goes back to its pool with the last of them.
pub(crate) type Shared = Arc<Local<Memory>>;

pub(crate) fn share(memory: Memory) -> Shared {
    Arc::new(Local::new(memory))
}

/// Keeps the memory of an array: its `base`.
#[pyclass(frozen, module = "tensorshard._tensorshard")]
#[derive(Debug)]
pub(crate) struct Buffer {
    _memory: Shared,
}

/// Elements in shared memory: what an array is made of.
#[derive(Clone, Debug)]
pub(crate) struct Span {
    memory: Shared,
    address: usize,
    pub(crate) dtype: DType,
    pub(crate) shape: Vec<usize>,
}

impl Span {
    /// The elements that `choose` finds in `memory`; `None` if they are not exactly those of the shape.
    pub(crate) fn new(
        memory: &Shared,
        choose: impl FnOnce(&Memory) -> Option<&[u8]>,
        dtype: DType,
        shape: Vec<usize>,
    ) -> PyResult<Self> {
        // A forked copy of memory is still memory.
        let bytes = memory.get_anywhere().and_then(choose);
        let elements = shape
            .iter()
            .try_fold(dtype.size(), |bytes, &n| bytes.checked_mul(n));
        match bytes {
            // Samples with dtypes of their own lie where the one before ends.
            Some(bytes)
                if elements == Some(bytes.len())
                    && !(bytes.as_ptr() as usize).is_multiple_of(dtype.size()) =>
            {
                Self::copied(bytes, dtype, shape)
            }
            Some(bytes) if elements == Some(bytes.len()) => Ok(Self {
                memory: Arc::clone(memory),
                address: bytes.as_ptr() as usize,
                dtype,
                shape,
            }),
            _ => Err(invalid(format!(
                "{dtype} values of shape {shape:?} do not fit their {} bytes",
                bytes.map_or(0, <[u8]>::len)
            ))),
        }
    }

    /// A copy of small values, or of those that are shared.
    pub(crate) fn copied(bytes: &[u8], dtype: DType, shape: Vec<usize>) -> PyResult<Self> {
        let words = Words::new(bytes);
        let memory = share(Memory::Bytes(Bytes::from_owner(words)));
        // The alignment of words is that of the largest element, so this ends here.
        Self::new(&memory, Memory::values, dtype, shape)
    }

    pub(crate) fn address(&self) -> usize {
        self.address
    }

    /// A NumPy array over these elements.
    pub(crate) fn numpy<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let buffer = Bound::new(
            py,
            Buffer {
                _memory: Arc::clone(&self.memory),
            },
        )?;
        self.numpy_with_base(buffer)
    }

    #[expect(
        unsafe_code,
        reason = "NumPy's C API is the way to an array over foreign memory"
    )]
    fn numpy_with_base<'py>(&self, base: Bound<'py, Buffer>) -> PyResult<Bound<'py, PyAny>> {
        let py = base.py();
        let descr = numpy_dtype(py, self.dtype)?;
        let mut dims = [0 as npy_intp; 64];
        let rank = self.shape.len();
        for (dim, &n) in dims.iter_mut().zip(&self.shape) {
            *dim = npy_intp::try_from(n).map_err(|_| invalid("a dim beyond NumPy's"))?;
        }
        let nd = std::ffi::c_int::try_from(rank).map_err(|_| invalid("too many dims"))?;
        if rank > 32 {
            return Err(invalid("NumPy has no arrays of so many dims"));
        }
        let flags = NPY_ARRAY_C_CONTIGUOUS | NPY_ARRAY_ALIGNED | NPY_ARRAY_WRITEABLE;
        // SAFETY: `Span::new` has checked that shape and dtype need exactly the bytes at `address`, which belong to
        // `memory`; `base` keeps `memory`, and the array keeps `base` (on failure the array
        // is gone before `base`). `dims` has at least `nd` entries. NumPy takes over one reference to `descr` and one to
        // `base`, both given away by `into_ptr`. Nobody else writes: a batch was handed over, and what is shared between
        // batches is copied before it gets here.
        unsafe {
            let subtype = npyffi::get_type_object(py, npyffi::NpyTypes::PyArray_Type);
            let array = PY_ARRAY_API.PyArray_NewFromDescr(
                py,
                subtype,
                descr.into_ptr().cast(),
                nd,
                dims.as_mut_ptr(),
                std::ptr::null_mut(),
                self.address as *mut std::ffi::c_void,
                flags,
                std::ptr::null_mut(),
            );
            let array = Bound::from_owned_ptr_or_err(py, array)?;
            let failed =
                PY_ARRAY_API.PyArray_SetBaseObject(py, array.as_ptr().cast(), base.into_ptr());
            if failed != 0 {
                return Err(PyErr::fetch(py));
            }
            Ok(array)
        }
    }
}

/// Bytes with the alignment of the largest element.
struct Words {
    words: Vec<u64>,
    len: usize,
}

impl Words {
    fn new(bytes: &[u8]) -> Self {
        let mut words = vec![0u64; bytes.len().div_ceil(8)];
        bytemuck::cast_slice_mut(&mut words)[..bytes.len()].copy_from_slice(bytes);
        Self {
            words,
            len: bytes.len(),
        }
    }
}

impl AsRef<[u8]> for Words {
    fn as_ref(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.words)[..self.len]
    }
}
