//! `Bitmap`: a set of samples, made once and kept.

use std::sync::Arc;

use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::error::raise;

/// Which samples of a dataset are in a set.
#[pyclass(frozen, from_py_object, module = "tensorshard._tensorshard")]
#[derive(Clone)]
pub(crate) struct Bitmap {
    pub(crate) samples: Arc<tensorshard::Bitmap>,
}

#[pymethods]
impl Bitmap {
    /// One byte for each sample: in the set unless it is 0.
    #[new]
    fn new(mask: &[u8]) -> Self {
        let mask: Vec<bool> = mask.iter().map(|&byte| byte != 0).collect();
        Self {
            samples: Arc::new(tensorshard::Bitmap::from_mask(&mask)),
        }
    }

    #[staticmethod]
    fn from_bytes(bytes: &[u8]) -> PyResult<Self> {
        let samples = tensorshard::Bitmap::from_bytes(bytes).map_err(raise)?;
        Ok(Self {
            samples: Arc::new(samples),
        })
    }

    fn to_bytes<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.samples.to_bytes())
    }

    /// One byte for each sample.
    fn mask<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        let contains = |sample| u8::from(self.samples.contains(sample));
        let mask: Vec<u8> = (0..self.samples.len()).map(contains).collect();
        PyBytes::new(py, &mask)
    }

    /// Samples of the dataset that it was made for.
    #[getter]
    fn num_samples(&self) -> u64 {
        self.samples.len()
    }

    /// Samples in the set.
    #[getter]
    fn count(&self) -> u64 {
        self.samples.count()
    }

    #[getter]
    fn digest(&self) -> u64 {
        self.samples.digest()
    }

    fn contains(&self, sample: u64) -> bool {
        self.samples.contains(sample)
    }
}
