//! The native half of the Python package `tensorshard`: thin wrappers of the crate's public names.
//!
//! Rust does the work without the interpreter's lock; arrays are views of the crate's buffers. Everything that needs no
//! Rust is in `python/tensorshard/*.py`.

mod allocator;
mod array;
mod batch;
mod bitmap;
mod command;
mod dataset;
mod dlpack;
mod dtype;
mod error;
mod field;
mod fork;
mod loader;
mod order;
mod writer;

use numpy::PyArrayMethods;
use pyo3::prelude::*;

#[pymodule]
mod _tensorshard {
    use super::*;

    #[pymodule_export]
    use array::Buffer;
    #[pymodule_export]
    use bitmap::Bitmap;
    #[pymodule_export]
    use command::{call, run};
    #[pymodule_export]
    use dataset::Dataset;
    #[pymodule_export]
    use dlpack::Tensor;
    #[pymodule_export]
    use fork::forked;
    #[pymodule_export]
    use loader::{Batches, Loader};
    #[pymodule_export]
    use writer::ShardWriter;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        let py = module.py();
        py.import("numpy")?;
        // NumPy's C API is looked up now: later a signal could come in between, which crate numpy takes for a bug.
        drop(numpy::PyArray1::<u8>::zeros(py, 1, false).readonly());
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}
