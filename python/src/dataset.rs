//! `Dataset`: samples by index.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use pyo3::prelude::*;
use pyo3::types::PyList;
use serde_json::Value;

use crate::batch::{Delivery, RaggedAs};
use crate::error::raise;
use crate::field;
use crate::fork::Local;
use crate::loader::io_of;

/// Samples of a dataset by index.
#[pyclass(frozen, module = "tensorshard._tensorshard")]
pub(crate) struct Dataset {
    path: PathBuf,
    fields: Option<Vec<String>>,
    options: tensorshard::DatasetBuilder,
    delivery: Delivery,
    /// Opened again in a forked process.
    open: Mutex<Local<tensorshard::Dataset>>,
}

fn open(
    options: tensorshard::DatasetBuilder,
    path: &PathBuf,
    fields: Option<&Vec<String>>,
) -> tensorshard::Result<tensorshard::Dataset> {
    let dataset = options.open(path)?;
    match fields {
        Some(fields) => dataset.select(fields),
        None => Ok(dataset),
    }
}

impl Dataset {
    /// The dataset of this process.
    fn current(&self, py: Python<'_>) -> PyResult<tensorshard::Dataset> {
        // Held only with the interpreter's lock, so that no fork can come in between.
        let held = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(dataset) = held.get() {
            return Ok(dataset.clone());
        }
        drop(held);
        let options = self.options.clone();
        let dataset = py
            .detach(|| open(options, &self.path, self.fields.as_ref()))
            .map_err(raise)?;
        let mut held = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        *held = Local::new(dataset.clone());
        Ok(dataset)
    }
}

#[pymethods]
impl Dataset {
    #[new]
    #[pyo3(signature = (path, *, fields=None, io="auto", verify_checksums=true, dlpack=false, sample_ids=false))]
    fn new(
        py: Python<'_>,
        path: PathBuf,
        fields: Option<Vec<String>>,
        io: &str,
        verify_checksums: bool,
        dlpack: bool,
        sample_ids: bool,
    ) -> PyResult<Self> {
        let options = tensorshard::Dataset::builder()
            .io(io_of(io)?)
            .verify_checksums(verify_checksums);
        let first = options.clone();
        let dataset = py
            .detach(|| open(first, &path, fields.as_ref()))
            .map_err(raise)?;
        let forms = dataset.fields().map(|field| (field, RaggedAs::List, None));
        let delivery = Delivery::new(py, forms, dlpack, sample_ids)?;
        Ok(Self {
            path,
            fields,
            options,
            delivery,
            open: Mutex::new(Local::new(dataset)),
        })
    }

    fn __len__(&self, py: Python<'_>) -> PyResult<usize> {
        Ok(usize::try_from(self.current(py)?.len())?)
    }

    #[getter]
    fn num_shards(&self, py: Python<'_>) -> PyResult<u64> {
        Ok(self.current(py)?.num_shards())
    }

    #[getter]
    fn unfinished(&self, py: Python<'_>) -> PyResult<bool> {
        Ok(self.current(py)?.is_unfinished())
    }

    /// The selected fields.
    fn fields<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let dataset = self.current(py)?;
        let list = PyList::empty(py);
        for field in dataset.fields() {
            list.append(field::describe(py, field)?)?;
        }
        Ok(list)
    }

    /// The user's metadata, as JSON.
    fn metadata(&self, py: Python<'_>) -> PyResult<String> {
        let dataset = self.current(py)?;
        Ok(Value::Object(dataset.metadata().clone()).to_string())
    }

    /// Samples in the order of `indices`, as dicts.
    fn get<'py>(&self, py: Python<'py>, indices: Vec<u64>) -> PyResult<Bound<'py, PyList>> {
        let dataset = self.current(py)?;
        let samples = py.detach(|| dataset.get_many(&indices)).map_err(raise)?;
        let list = PyList::empty(py);
        let mut seen = HashSet::new();
        for sample in &samples {
            let tensors: Vec<_> = sample.fields().map(|(_, tensor)| tensor).collect();
            let again = !seen.insert(sample.id());
            list.append(self.delivery.sample(py, sample.id(), &tensors, again)?)?;
        }
        Ok(list)
    }
}
