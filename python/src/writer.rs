//! `ShardWriter`: samples in, a dataset out.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use numpy::{PyReadonlyArray1, PyUntypedArrayMethods};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};
use tensorshard::{Calibrator, DType, FieldReport, FieldSpec, TensorView, WriteSummary};

use crate::dtype;
use crate::error::{forked, invalid, raise};
use crate::field;
use crate::fork::Local;

/// Bytes that are handed over between two looks at signals.
const BLOCK_BYTES: usize = 64 << 20;

/// Name, dtype, shape, and the bytes as a flat array.
type Value<'py> = (String, String, Vec<usize>, PyReadonlyArray1<'py, u8>);

/// How a writer starts.
struct Start {
    path: PathBuf,
    /// create, append or part.
    mode: String,
    options: tensorshard::ShardWriterBuilder,
    specs: Vec<FieldSpec>,
    calibrators: Vec<Option<Calibrator>>,
}

enum State {
    /// Nothing is written yet.
    New(Box<Start>),
    Open(Box<tensorshard::ShardWriter>),
    /// Finished, aborted, or failed to start.
    Closed,
}

/// Writes a dataset.
#[pyclass(frozen, module = "tensorshard._tensorshard")]
pub(crate) struct ShardWriter {
    state: Local<Mutex<(State, Duration)>>,
}

impl Start {
    fn start(self) -> tensorshard::Result<tensorshard::ShardWriter> {
        let mut specs = Vec::with_capacity(self.specs.len());
        for (spec, calibrator) in self.specs.into_iter().zip(self.calibrators) {
            specs.push(match calibrator {
                Some(calibrator) => spec.quantize(calibrator.finish()),
                None => spec,
            });
        }
        let options = self.options.fields(specs);
        match self.mode.as_str() {
            "append" => options.append_to(&self.path),
            "part" => options.part(&self.path),
            _ => options.create(&self.path),
        }
    }
}

impl State {
    /// The open writer, which starts now if it has not.
    fn open(&mut self) -> PyResult<&mut tensorshard::ShardWriter> {
        if matches!(self, Self::New(_)) {
            let Self::New(start) = std::mem::replace(self, Self::Closed) else {
                return Err(closed());
            };
            *self = Self::Open(Box::new(start.start().map_err(raise)?));
        }
        match self {
            Self::Open(writer) => Ok(writer),
            _ => Err(closed()),
        }
    }
}

fn closed() -> PyErr {
    invalid("this writer is closed")
}

/// Values as the crate takes them.
struct Views<'v> {
    names: Vec<&'v str>,
    dtypes: Vec<DType>,
    shapes: Vec<&'v [usize]>,
    data: Vec<&'v [u8]>,
}

impl<'v> Views<'v> {
    fn new(values: &'v [Value<'_>]) -> PyResult<Self> {
        let mut views = Self {
            names: Vec::new(),
            dtypes: Vec::new(),
            shapes: Vec::new(),
            data: Vec::new(),
        };
        for (name, dtype, shape, bytes) in values {
            if !bytes.is_c_contiguous() {
                return Err(invalid("the bytes of an array must be contiguous"));
            }
            views.names.push(name);
            views.dtypes.push(dtype::parse(dtype)?);
            views.shapes.push(shape);
            views
                .data
                .push(bytes.as_slice().map_err(|e| invalid(e.to_string()))?);
        }
        Ok(views)
    }

    fn sample(&self) -> PyResult<Vec<(&'v str, TensorView<'v>)>> {
        let mut out = Vec::with_capacity(self.names.len());
        for (i, &name) in self.names.iter().enumerate() {
            let view =
                TensorView::new(self.dtypes[i], self.shapes[i], self.data[i]).map_err(raise)?;
            out.push((name, view));
        }
        Ok(out)
    }

    /// Samples in each array, if that is the same for all.
    fn num_samples(&self) -> PyResult<usize> {
        let mut found = None;
        for (name, shape) in self.names.iter().zip(&self.shapes) {
            let n = *shape.first().ok_or_else(|| {
                invalid(format!(
                    "field {name:?}: an array of samples needs a first axis"
                ))
            })?;
            if found.replace(n).is_some_and(|other| other != n) {
                return Err(invalid(format!(
                    "field {name:?} has {n} samples, the field before it another number"
                )));
            }
        }
        Ok(found.unwrap_or(0))
    }
}

impl ShardWriter {
    fn with<T: Send>(
        &self,
        py: Python<'_>,
        work: impl FnOnce(&mut State, &mut Duration) -> PyResult<T> + Send,
    ) -> PyResult<T> {
        let state = self.state.get().ok_or_else(|| forked("writer"))?;
        py.detach(|| {
            let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
            let (state, busy) = &mut *state;
            work(state, busy)
        })
    }
}

#[pymethods]
impl ShardWriter {
    #[new]
    #[pyo3(signature = (
        path, fields, *, mode="create", overwrite=false, metadata=None, chunk_bytes=None, samples_per_chunk=None,
        max_shard_len=None, num_workers=0, shard_ids_from=None
    ))]
    #[expect(clippy::too_many_arguments, reason = "they are keywords")]
    fn new(
        path: PathBuf,
        fields: Vec<Bound<'_, PyDict>>,
        mode: &str,
        overwrite: bool,
        metadata: Option<&str>,
        chunk_bytes: Option<u64>,
        samples_per_chunk: Option<u32>,
        max_shard_len: Option<u64>,
        num_workers: usize,
        shard_ids_from: Option<u64>,
    ) -> PyResult<Self> {
        let mut options = tensorshard::ShardWriter::builder()
            .overwrite(overwrite)
            .num_workers(num_workers);
        if let Some(bytes) = chunk_bytes {
            options = options.chunk_bytes(bytes);
        }
        if let Some(samples) = samples_per_chunk {
            options = options.samples_per_chunk(samples);
        }
        if let Some(bytes) = max_shard_len {
            options = options.max_shard_len(bytes);
        }
        if let Some(seed) = shard_ids_from {
            options = options.shard_ids_from(seed);
        }
        if let Some(text) = metadata {
            let entries: serde_json::Map<String, serde_json::Value> =
                serde_json::from_str(text).map_err(|e| invalid(format!("metadata: {e}")))?;
            for (key, value) in entries {
                options = options.metadata(key, value);
            }
        }
        let specs: Vec<FieldSpec> = fields.iter().map(field::spec).collect::<PyResult<_>>()?;
        let calibrators = specs.iter().map(|_| None).collect();
        let start = Start {
            path,
            mode: mode.to_owned(),
            options,
            specs,
            calibrators,
        };
        Ok(Self {
            state: Local::new(Mutex::new((State::New(Box::new(start)), Duration::ZERO))),
        })
    }

    /// Starts to write, if it has not: what is wrong with the request is said now.
    fn start(&self, py: Python<'_>) -> PyResult<()> {
        self.with(py, |state, _| state.open().map(|_| ()))
    }

    /// The fields whose quantizers must see the data first.
    fn needs_calibration(&self, py: Python<'_>) -> PyResult<Vec<String>> {
        self.with(py, |state, _| {
            let State::New(start) = state else {
                return Ok(Vec::new());
            };
            let fields = start.specs.iter().zip(&start.calibrators);
            Ok(fields
                .filter(|(spec, calibrator)| spec.needs_calibration() && calibrator.is_none())
                .map(|(spec, _)| spec.name().to_owned())
                .collect())
        })
    }

    /// Shows data to the quantizers that must see it first.
    fn calibrate(&self, py: Python<'_>, values: Vec<Value<'_>>) -> PyResult<()> {
        let views = Views::new(&values)?;
        self.with(py, |state, _| {
            let State::New(start) = state else {
                return Err(invalid("calibrate before the first sample is appended"));
            };
            for (i, name) in views.names.iter().enumerate() {
                let fields = start.specs.iter().zip(&mut start.calibrators);
                for (spec, calibrator) in fields.filter(|(spec, _)| spec.name() == *name) {
                    if !spec.needs_calibration() {
                        continue;
                    }
                    if spec.dtype() != Some(views.dtypes[i]) {
                        return Err(invalid(format!("field {name:?} has another dtype")));
                    }
                    let calibrator = match calibrator {
                        Some(calibrator) => calibrator,
                        None => calibrator.insert(spec.calibrator().map_err(raise)?),
                    };
                    calibrator.observe(views.data[i]).map_err(raise)?;
                }
            }
            Ok(())
        })
    }

    /// Appends one sample.
    fn append(&self, py: Python<'_>, values: Vec<Value<'_>>) -> PyResult<()> {
        let views = Views::new(&values)?;
        self.with(py, |state, busy| {
            let sample = views.sample()?;
            let start = Instant::now();
            let result = state.open()?.append(&sample).map_err(raise);
            *busy += start.elapsed();
            result
        })
    }

    /// Appends many samples.
    fn extend(&self, py: Python<'_>, values: Vec<Value<'_>>) -> PyResult<()> {
        let views = Views::new(&values)?;
        let num_samples = views.num_samples()?;
        let bytes: usize = views.data.iter().map(|data| data.len()).sum();
        let step = (BLOCK_BYTES / (bytes / num_samples.max(1)).max(1)).max(1);
        let mut done = 0;
        loop {
            let count = step.min(num_samples - done);
            self.with(py, |state, busy| {
                let mut shapes: Vec<Vec<usize>> = Vec::with_capacity(views.shapes.len());
                for shape in &views.shapes {
                    let mut shape = shape.to_vec();
                    shape[0] = count;
                    shapes.push(shape);
                }
                let mut arrays = Vec::with_capacity(shapes.len());
                for (i, shape) in shapes.iter().enumerate() {
                    let sample = views.data[i].len() / num_samples.max(1);
                    let data = &views.data[i][done * sample..(done + count) * sample];
                    let view = TensorView::new(views.dtypes[i], shape, data).map_err(raise)?;
                    arrays.push((views.names[i], view));
                }
                let start = Instant::now();
                let result = state.open()?.extend(&arrays).map_err(raise);
                *busy += start.elapsed();
                result
            })?;
            done += count;
            if done >= num_samples {
                return Ok(());
            }
            py.check_signals()?;
        }
    }

    /// Commits what was appended so far.
    fn flush(&self, py: Python<'_>) -> PyResult<()> {
        self.with(py, |state, _| state.open()?.flush().map_err(raise))
    }

    /// Commits the dataset.
    fn finish<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let summary = self.with(py, |state, _| {
            state.open()?;
            match std::mem::replace(state, State::Closed) {
                State::Open(writer) => writer.finish().map_err(raise),
                _ => Err(closed()),
            }
        })?;
        summary_dict(py, &summary)
    }

    /// Leaves nothing behind.
    fn abort(&self, py: Python<'_>) -> PyResult<()> {
        self.with(py, |state, _| {
            *state = State::Closed;
            Ok(())
        })
    }

    /// Source bytes and stored bytes of the chunks written so far, and seconds spent in `append` and `extend`.
    fn progress(&self, py: Python<'_>) -> PyResult<(u64, u64, f64)> {
        self.with(py, |state, busy| {
            let progress = match state {
                State::Open(writer) => writer.progress(),
                _ => tensorshard::WriteProgress::default(),
            };
            Ok((
                progress.raw_bytes,
                progress.stored_bytes,
                busy.as_secs_f64(),
            ))
        })
    }
}

impl Drop for ShardWriter {
    fn drop(&mut self) {
        if let Some(state) = self.state.take() {
            Python::attach(|py| py.detach(|| drop(state)));
        }
    }
}

fn summary_dict<'py>(py: Python<'py>, summary: &WriteSummary) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    dict.set_item("path", summary.path.to_string_lossy())?;
    dict.set_item("num_samples", summary.num_samples)?;
    dict.set_item("num_shards", summary.num_shards)?;
    dict.set_item("stored_bytes", summary.stored_bytes)?;
    let raw: u64 = summary.fields.iter().map(|field| field.raw_bytes).sum();
    dict.set_item("raw_bytes", raw)?;
    let fields = PyList::empty(py);
    for report in &summary.fields {
        fields.append(report_dict(py, report)?)?;
    }
    dict.set_item("fields", fields)?;
    Ok(dict)
}

fn report_dict<'py>(py: Python<'py>, report: &FieldReport) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    dict.set_item("name", &report.name)?;
    dict.set_item("encoding", &report.encoding)?;
    dict.set_item("raw_bytes", report.raw_bytes)?;
    dict.set_item("stored_bytes", report.stored_bytes)?;
    dict.set_item("ratio", report.ratio())?;
    if let Some(error) = &report.error {
        dict.set_item("max_abs_error", error.max_abs_error)?;
        dict.set_item("rmse", error.rmse)?;
        dict.set_item("snr_db", error.snr_db())?;
    }
    Ok(dict)
}
