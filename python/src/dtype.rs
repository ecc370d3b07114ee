//! Dtypes of the crate and those of NumPy.

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use tensorshard::DType;

use crate::error::{invalid, raise_as};

/// The dtype with this name of ours: `f32`, `bf16`.
pub(crate) fn parse(name: &str) -> PyResult<DType> {
    DType::from_name(name).ok_or_else(|| {
        let names: Vec<&str> = DType::all().map(DType::name).collect();
        invalid(format!(
            "there is no dtype {name:?}; dtypes are {}",
            names.join(", ")
        ))
    })
}

/// The name in `ml_dtypes` of a dtype that NumPy itself has not.
fn ml_dtypes_name(dtype: DType) -> Option<&'static str> {
    match dtype {
        DType::BF16 => Some("bfloat16"),
        DType::F8E4M3FN => Some("float8_e4m3fn"),
        DType::F8E5M2 => Some("float8_e5m2"),
        _ => None,
    }
}

fn make(py: Python<'_>, dtype: DType) -> PyResult<Py<PyAny>> {
    let numpy = py.import("numpy")?;
    let of = match (dtype.npy_descr(), ml_dtypes_name(dtype)) {
        (Some(descr), _) => numpy.getattr("dtype")?.call1((descr,))?,
        (None, Some(name)) => match py.import("ml_dtypes") {
            Ok(module) => numpy.getattr("dtype")?.call1((module.getattr(name)?,))?,
            Err(_) => {
                return Err(raise_as(
                    "UnsupportedError",
                    format!(
                        "NumPy has no {dtype}: install ml_dtypes, ask for another dtype (dtype=\"f32\"), or for \
                         output=\"torch\""
                    ),
                ));
            }
        },
        (None, None) => return Err(invalid(format!("NumPy has no {dtype}"))),
    };
    Ok(of.unbind())
}

/// NumPy's dtype object.
pub(crate) fn numpy_dtype<'py>(py: Python<'py>, dtype: DType) -> PyResult<Bound<'py, PyAny>> {
    static DTYPES: PyOnceLock<[PyOnceLock<Py<PyAny>>; 32]> = PyOnceLock::new();
    let dtypes = DTYPES.get_or_init(py, || std::array::from_fn(|_| PyOnceLock::new()));
    match dtypes.get(usize::from(dtype.id())) {
        Some(cell) => Ok(cell
            .get_or_try_init(py, || make(py, dtype))?
            .bind(py)
            .clone()),
        None => Ok(make(py, dtype)?.into_bound(py)),
    }
}
