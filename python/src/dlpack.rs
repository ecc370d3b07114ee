//! The DLPack protocol: how torch, JAX, TensorFlow and others take memory without copying it.
//! <https://dmlc.github.io/dlpack/latest/>

use std::ffi::{CStr, c_void};

use pyo3::ffi;
use pyo3::prelude::*;
use tensorshard::DType;

use crate::allocator::owner_of;
use crate::array::Span;
use crate::error::invalid;

/// `DLDeviceType` of the CPU.
const CPU: i32 = 1;
/// The versioned struct that is made here.
const VERSION: DLPackVersion = DLPackVersion { major: 1, minor: 1 };
const LEGACY_NAME: &CStr = c"dltensor";
const VERSIONED_NAME: &CStr = c"dltensor_versioned";

#[repr(C)]
struct DLPackVersion {
    major: u32,
    minor: u32,
}

#[repr(C)]
struct DLDevice {
    device_type: i32,
    device_id: i32,
}

#[repr(C)]
struct DLDataType {
    code: u8,
    bits: u8,
    lanes: u16,
}

#[repr(C)]
struct DLTensor {
    data: *mut c_void,
    device: DLDevice,
    ndim: i32,
    dtype: DLDataType,
    shape: *mut i64,
    strides: *mut i64,
    byte_offset: u64,
}

#[repr(C)]
struct DLManagedTensor {
    tensor: DLTensor,
    manager_ctx: *mut c_void,
    deleter: Option<unsafe extern "C" fn(*mut DLManagedTensor)>,
}

#[repr(C)]
struct DLManagedTensorVersioned {
    version: DLPackVersion,
    manager_ctx: *mut c_void,
    deleter: Option<unsafe extern "C" fn(*mut DLManagedTensorVersioned)>,
    flags: u64,
    tensor: DLTensor,
}

/// What a managed tensor points to.
struct Context {
    _span: Span,
    shape: Vec<i64>,
    strides: Vec<i64>,
}

/// `DLDataTypeCode` and bits.
fn data_type(dtype: DType) -> PyResult<DLDataType> {
    let code = match dtype {
        DType::I8 | DType::I16 | DType::I32 | DType::I64 => 0,
        DType::U8 | DType::U16 | DType::U32 | DType::U64 => 1,
        DType::F16 | DType::F32 | DType::F64 => 2,
        DType::BF16 => 4,
        DType::Bool => 6,
        DType::F8E4M3FN => 10,
        DType::F8E5M2 => 12,
        _ => return Err(invalid(format!("DLPack has no {dtype}"))),
    };
    let bits = u8::try_from(8 * dtype.size()).map_err(|_| invalid("an element too large"))?;
    Ok(DLDataType {
        code,
        bits,
        lanes: 1,
    })
}

/// Values of a batch or sample for `torch.from_dlpack` and its like.
#[pyclass(frozen, module = "tensorshard._tensorshard")]
#[derive(Debug)]
pub(crate) struct Tensor {
    span: Span,
}

impl Tensor {
    pub(crate) fn new(span: Span) -> Self {
        Self { span }
    }

    /// The context of a managed tensor, and a tensor that points into it.
    fn parts(&self) -> PyResult<(Box<Context>, DLTensor)> {
        let shape: Vec<i64> = self
            .span
            .shape
            .iter()
            .map(|&n| i64::try_from(n))
            .collect::<Result<_, _>>()
            .map_err(|_| invalid("a dim beyond DLPack's"))?;
        let mut strides = vec![1i64; shape.len()];
        for i in (1..shape.len()).rev() {
            strides[i - 1] = strides[i].saturating_mul(shape[i].max(1));
        }
        let mut context = Box::new(Context {
            _span: self.span.clone(),
            shape,
            strides,
        });
        let tensor = DLTensor {
            data: self.span.address() as *mut c_void,
            device: DLDevice {
                device_type: CPU,
                device_id: 0,
            },
            ndim: i32::try_from(context.shape.len()).map_err(|_| invalid("too many dims"))?,
            dtype: data_type(self.span.dtype)?,
            shape: context.shape.as_mut_ptr(),
            strides: context.strides.as_mut_ptr(),
            byte_offset: 0,
        };
        Ok((context, tensor))
    }
}

#[pymethods]
impl Tensor {
    /// The name of the dtype: `f32`, `bf16`.
    #[getter]
    fn dtype(&self) -> &'static str {
        self.span.dtype.name()
    }

    #[getter]
    fn shape(&self) -> Vec<usize> {
        self.span.shape.clone()
    }

    /// The object of an allocator that owns these bytes, and where in it they start.
    fn owner(&self, py: Python<'_>) -> Option<(Py<PyAny>, usize)> {
        let elements: usize = self.span.shape.iter().product();
        owner_of(py, self.span.address(), elements * self.span.dtype.size())
    }

    /// The same bits as unsigned integers.
    fn bits(&self) -> PyResult<Self> {
        let dtype = match self.span.dtype.size() {
            1 => DType::U8,
            2 => DType::U16,
            4 => DType::U32,
            8 => DType::U64,
            _ => return Err(invalid("no integers of this size")),
        };
        let mut span = self.span.clone();
        span.dtype = dtype;
        Ok(Self::new(span))
    }

    /// The same values as a NumPy array.
    fn numpy<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.span.numpy(py)
    }

    fn __dlpack_device__(&self) -> (i32, i32) {
        (CPU, 0)
    }

    #[pyo3(signature = (*, stream=None, max_version=None, dl_device=None, copy=None))]
    #[expect(unsafe_code, reason = "a capsule is a C struct and its destructor")]
    fn __dlpack__<'py>(
        &self,
        py: Python<'py>,
        stream: Option<Bound<'py, PyAny>>,
        max_version: Option<(u32, u32)>,
        dl_device: Option<(i32, i32)>,
        copy: Option<bool>,
    ) -> PyResult<Bound<'py, PyAny>> {
        if stream.is_some_and(|stream| !stream.is_none()) {
            return Err(invalid("memory of the CPU has no stream"));
        }
        if dl_device.is_some_and(|device| device != (CPU, 0)) || copy == Some(true) {
            return Err(pyo3::exceptions::PyBufferError::new_err(
                "values are handed over where they are, without a copy",
            ));
        }
        let (context, tensor) = self.parts()?;
        let manager_ctx = Box::into_raw(context).cast();
        if max_version.is_some_and(|(major, _)| major >= 1) {
            let managed = Box::into_raw(Box::new(DLManagedTensorVersioned {
                version: VERSION,
                manager_ctx,
                deleter: Some(delete_versioned),
                flags: 0,
                tensor,
            }));
            // SAFETY: the name is static; the capsule owns `managed` until a consumer renames it, and its destructor
            // expects exactly this struct under this name.
            return unsafe {
                let capsule = ffi::PyCapsule_New(
                    managed.cast(),
                    VERSIONED_NAME.as_ptr(),
                    Some(destroy_versioned),
                );
                if capsule.is_null() {
                    delete_versioned(managed);
                }
                Bound::from_owned_ptr_or_err(py, capsule)
            };
        }
        let managed = Box::into_raw(Box::new(DLManagedTensor {
            tensor,
            manager_ctx,
            deleter: Some(delete_legacy),
        }));
        // SAFETY: as above.
        unsafe {
            let capsule =
                ffi::PyCapsule_New(managed.cast(), LEGACY_NAME.as_ptr(), Some(destroy_legacy));
            if capsule.is_null() {
                delete_legacy(managed);
            }
            Bound::from_owned_ptr_or_err(py, capsule)
        }
    }
}

/// Frees a managed tensor. Any thread may call it, with or without the interpreter's lock.
///
/// # Safety
/// `managed` was made by [`Tensor::__dlpack__`] and is not used again.
#[expect(unsafe_code, reason = "called from C")]
unsafe extern "C" fn delete_legacy(managed: *mut DLManagedTensor) {
    // SAFETY: both pointers are those of `Box::into_raw` above, and are freed once.
    unsafe {
        let managed = Box::from_raw(managed);
        drop(Box::from_raw(managed.manager_ctx.cast::<Context>()));
    }
}

/// As [`delete_legacy`].
///
/// # Safety
/// As there.
#[expect(unsafe_code, reason = "called from C")]
unsafe extern "C" fn delete_versioned(managed: *mut DLManagedTensorVersioned) {
    // SAFETY: as above.
    unsafe {
        let managed = Box::from_raw(managed);
        drop(Box::from_raw(managed.manager_ctx.cast::<Context>()));
    }
}

/// Frees what no consumer has taken: one that does renames the capsule.
///
/// # Safety
/// `capsule` was made by [`Tensor::__dlpack__`] with this destructor.
#[expect(unsafe_code, reason = "called from C")]
unsafe extern "C" fn destroy_legacy(capsule: *mut ffi::PyObject) {
    // SAFETY: the name is static; a pointer under this name is a `DLManagedTensor` that nobody has taken.
    unsafe {
        if ffi::PyCapsule_IsValid(capsule, LEGACY_NAME.as_ptr()) == 1 {
            delete_legacy(ffi::PyCapsule_GetPointer(capsule, LEGACY_NAME.as_ptr()).cast());
        }
    }
}

/// As [`destroy_legacy`].
///
/// # Safety
/// As there.
#[expect(unsafe_code, reason = "called from C")]
unsafe extern "C" fn destroy_versioned(capsule: *mut ffi::PyObject) {
    // SAFETY: as above.
    unsafe {
        if ffi::PyCapsule_IsValid(capsule, VERSIONED_NAME.as_ptr()) == 1 {
            delete_versioned(ffi::PyCapsule_GetPointer(capsule, VERSIONED_NAME.as_ptr()).cast());
        }
    }
}
