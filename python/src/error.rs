//! Errors of the crate as those of Python: the classes are in `tensorshard/_errors.py`.

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyDict;
use tensorshard::{Error, ErrorKind};

/// A class of `tensorshard._errors`.
fn class<'py>(py: Python<'py>, name: &str) -> PyResult<Bound<'py, PyAny>> {
    static MODULE: PyOnceLock<Py<PyModule>> = PyOnceLock::new();
    let module =
        MODULE.get_or_try_init(py, || py.import("tensorshard._errors").map(Bound::unbind))?;
    module.bind(py).getattr(name)
}

fn make(py: Python<'_>, error: &Error) -> PyResult<PyErr> {
    let extra = PyDict::new(py);
    let name = match error.kind() {
        ErrorKind::Io { source, .. } => {
            extra.set_item("errno", source.raw_os_error())?;
            if source.kind() == std::io::ErrorKind::NotFound {
                "NotFoundError"
            } else {
                "StorageError"
            }
        }
        ErrorKind::Corrupt { .. } => "CorruptError",
        ErrorKind::LimitExceeded { .. } => "LimitExceededError",
        ErrorKind::Unsupported { .. } => "UnsupportedError",
        ErrorKind::InvalidArgument { .. } => "InvalidArgumentError",
        ErrorKind::Unrepresentable { value, sample, .. } => {
            extra.set_item("value", value)?;
            extra.set_item("sample", sample)?;
            "UnrepresentableError"
        }
        ErrorKind::StateMismatch { .. } => "StateMismatchError",
        ErrorKind::WorkerPanicked { .. } => "WorkerPanickedError",
        _ => "TensorshardError",
    };
    let location = error.location();
    if let Some(path) = &location.path {
        extra.set_item("path", path)?;
    }
    extra.set_item("shard", &location.shard)?;
    extra.set_item("chunk", location.chunk)?;
    extra.set_item("field", &location.field)?;
    extra.set_item("offset", location.offset)?;
    let exception = class(py, name)?.call((error.to_string(),), Some(&extra))?;
    Ok(PyErr::from_value(exception))
}

/// The Python exception for an error of the crate.
#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
pub(crate) fn raise(error: Error) -> PyErr {
    Python::attach(|py| make(py, &error).unwrap_or_else(|failed| failed))
}

/// An exception of this package's own, by the name of its class.
pub(crate) fn raise_as(name: &str, message: impl Into<String>) -> PyErr {
    let message = message.into();
    Python::attach(|py| {
        class(py, name)
            .and_then(|class| class.call1((message.as_str(),)))
            .map_or_else(
                |_| PyRuntimeError::new_err(message.clone()),
                PyErr::from_value,
            )
    })
}

/// For arguments that make no sense.
pub(crate) fn invalid(message: impl Into<String>) -> PyErr {
    raise_as("InvalidArgumentError", message)
}

/// For what was made before the process forked.
pub(crate) fn forked(what: &str) -> PyErr {
    raise_as(
        "ForkError",
        format!(
            "this {what} was made before the process forked, and its threads stayed behind; make it anew"
        ),
    )
}
