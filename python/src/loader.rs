//! `Loader` and its iterator.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use pyo3::exceptions::PyStopIteration;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};
use tensorshard::{
    Batch, FieldOutput, IoMode, LoaderBuilder, LoaderState, LoaderStats, Ragged, Shuffle,
    SkippedChunk, Tail,
};

use crate::allocator::Allocator;
use crate::batch::{Delivery, PartArray, RaggedAs};
use crate::dtype;
use crate::error::{forked, invalid, raise};
use crate::field::{self, entry};
use crate::fork::Local;
use crate::order::{self, Origin};

/// How long a wait may keep a signal waiting.
const SLICE: Duration = Duration::from_millis(50);

/// A dataset's samples in batches.
#[pyclass(frozen, module = "tensorshard._tensorshard")]
pub(crate) struct Loader {
    origin: Origin,
    options: LoaderBuilder,
    delivery: Arc<Delivery>,
    /// What the last iteration has left out.
    skipped: Mutex<Skipped>,
    /// Opened again in a forked process.
    open: Mutex<Local<tensorshard::Loader>>,
}

/// What an iteration has left out, once it has ended.
type Skipped = Arc<Mutex<Vec<SkippedChunk>>>;

fn skipped_list<'py>(py: Python<'py>, skipped: &[SkippedChunk]) -> PyResult<Bound<'py, PyList>> {
    let list = PyList::empty(py);
    for chunk in skipped {
        let dict = PyDict::new(py);
        dict.set_item(
            "path",
            chunk.path.as_ref().map(|path| path.display().to_string()),
        )?;
        dict.set_item("chunk", chunk.chunk)?;
        dict.set_item("first_sample", chunk.first_sample)?;
        dict.set_item("num_samples", chunk.num_samples)?;
        dict.set_item("message", &chunk.message)?;
        list.append(dict)?;
    }
    Ok(list)
}

fn shuffle_of(text: &str, window: Option<u32>) -> PyResult<Shuffle> {
    match (text, window) {
        ("windowed", Some(window)) => Ok(Shuffle::Windowed { window }),
        ("windowed", None) => Ok(Shuffle::windowed()),
        (_, Some(_)) => Err(invalid("shuffle_window is for the windowed shuffle")),
        ("none", None) => Ok(Shuffle::None),
        ("exact", None) => Ok(Shuffle::Exact),
        _ => Err(invalid(format!(
            "{text:?} is no shuffle; they are none, windowed and exact"
        ))),
    }
}

pub(crate) fn io_of(text: &str) -> PyResult<IoMode> {
    match text {
        "auto" => Ok(IoMode::Auto),
        "mmap" => Ok(IoMode::Mmap),
        "read" => Ok(IoMode::Read),
        _ => Err(invalid(format!(
            "{text:?} is no way to read; they are auto, mmap and read"
        ))),
    }
}

fn ragged_of(text: &str) -> PyResult<RaggedAs> {
    match text {
        "list" => Ok(RaggedAs::List),
        "concatenated" => Ok(RaggedAs::Concatenated),
        "padded" => Ok(RaggedAs::Padded),
        _ => Err(invalid(format!(
            "{text:?} is no form of ragged fields; they are list, concatenated and padded"
        ))),
    }
}

/// One field's output, from a dict of `dtype`, `ragged`, `pad_to_multiple`, `normalize`.
fn output_of(dict: &Bound<'_, PyDict>) -> PyResult<(FieldOutput, Option<RaggedAs>)> {
    let mut output = FieldOutput::new();
    if let Some(name) = entry::<String>(dict, "dtype")? {
        output = output.dtype(dtype::parse(&name)?);
    }
    let ragged: Option<String> = entry(dict, "ragged")?;
    let ragged = ragged.map(|text| ragged_of(&text)).transpose()?;
    if ragged == Some(RaggedAs::Padded) {
        output = output.ragged(Ragged::Padded);
    }
    if let Some(multiple) = entry(dict, "pad_to_multiple")? {
        output = output.pad_to_multiple(multiple);
    }
    type Normalize = (f64, Vec<f64>, Vec<f64>, usize);
    if let Some((scale, mean, std, axis)) = entry::<Normalize>(dict, "normalize")? {
        output = output.normalize(scale, &mean, &std, axis);
    }
    Ok((output, ragged))
}

fn tail_of(text: &str) -> PyResult<Tail> {
    match text {
        "short" => Ok(Tail::Short),
        "drop" => Ok(Tail::Drop),
        "pad" => Ok(Tail::Pad),
        _ => Err(invalid(format!(
            "{text:?} is no tail; they are short, drop and pad"
        ))),
    }
}

impl Loader {
    /// Does something with the loader of this process.
    fn with<T>(
        &self,
        py: Python<'_>,
        work: impl FnOnce(&mut tensorshard::Loader) -> tensorshard::Result<T>,
    ) -> PyResult<T> {
        // Held only with the interpreter's lock, so that no fork can come in between.
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.get().is_none() {
            drop(open);
            let (options, origin) = (self.options.clone(), &self.origin);
            let loader = py.detach(|| origin.open(options)).map_err(raise)?;
            open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
            *open = Local::new(loader);
        }
        let loader = open.get_mut().ok_or_else(|| forked("loader"))?;
        work(loader).map_err(raise)
    }
}

#[pymethods]
impl Loader {
    #[new]
    #[pyo3(signature = (
        path, *, fields=None, outputs=None, dtype=None, shuffle="none", shuffle_window=None, seed=0,
        num_workers=0, prefetch=None, memory_budget=None, io="auto", verify_checksums=true, ragged="list",
        quantized=false, dlpack=false, sample_ids=false, rank=None, tail="short", lanes=None,
        order=None, allocate=None
    ))]
    #[expect(clippy::too_many_arguments, reason = "they are keywords")]
    fn new(
        py: Python<'_>,
        path: PathBuf,
        fields: Option<Vec<String>>,
        outputs: Option<Vec<(String, Bound<'_, PyDict>)>>,
        dtype: Option<&str>,
        shuffle: &str,
        shuffle_window: Option<u32>,
        seed: u64,
        num_workers: usize,
        prefetch: Option<usize>,
        memory_budget: Option<u64>,
        io: &str,
        verify_checksums: bool,
        ragged: &str,
        quantized: bool,
        dlpack: bool,
        sample_ids: bool,
        rank: Option<(u64, u64)>,
        tail: &str,
        lanes: Option<u32>,
        order: Option<&Bound<'_, PyDict>>,
        allocate: Option<Py<PyAny>>,
    ) -> PyResult<Self> {
        let mut options = LoaderBuilder::default()
            .shuffle(shuffle_of(shuffle, shuffle_window)?)
            .seed(seed)
            .tail(tail_of(tail)?)
            .num_workers(num_workers)
            .io(io_of(io)?)
            .verify_checksums(verify_checksums);
        let origin = Origin::new(path, order, io_of(io)?, verify_checksums)?;
        if let Some(order) = order {
            options = order::apply(order, options)?;
        }
        if let Some(fields) = fields {
            options = options.fields(fields);
        }
        if let Some(name) = dtype {
            options = options.dtype(dtype::parse(name)?);
        }
        if let Some((rank, world_size)) = rank {
            options = options.rank(rank, world_size);
        }
        if let Some(lanes) = lanes {
            options = options.lanes(lanes);
        }
        if let Some(batches) = prefetch {
            options = options.prefetch(batches);
        }
        if let Some(bytes) = memory_budget {
            options = options.memory_budget(bytes);
        }
        if let Some(allocate) = allocate {
            options = options.allocator(Allocator::new(allocate));
        }
        let ragged = ragged_of(ragged)?;
        let mut own: Vec<(String, Option<RaggedAs>)> = Vec::new();
        for (name, dict) in outputs.unwrap_or_default() {
            let (output, as_asked) = output_of(&dict)?;
            options = options.output(name.clone(), output);
            own.push((name, as_asked));
        }
        let first = options.clone();
        let loader = py.detach(|| origin.open(first)).map_err(raise)?;
        // What depends on the fields.
        let mut again = false;
        let mut forms = Vec::new();
        for field in loader.dataset().fields() {
            let mine = own.iter().find(|(name, _)| name == field.name());
            let asked = mine.and_then(|(_, ragged)| *ragged);
            let is_tensor = field.kind() == tensorshard::Kind::Tensor;
            let mut scales = None;
            if mine.is_none() {
                scales = if quantized {
                    field::scale_shape(field)
                } else {
                    None
                };
                if scales.is_some() {
                    options = options.output(field.name(), FieldOutput::new().quantized());
                    again = true;
                } else if ragged == RaggedAs::Padded && field.is_ragged() && is_tensor {
                    let padded = FieldOutput::new().ragged(Ragged::Padded);
                    options = options.output(field.name(), padded);
                    again = true;
                }
            }
            forms.push((field, asked.unwrap_or(ragged), scales));
        }
        let mut delivery = Delivery::new(py, forms.into_iter(), dlpack, sample_ids)?;
        let has = |name: &str| order.is_some_and(|order| order.contains(name).unwrap_or(false));
        if has("windows") && sample_ids {
            delivery = delivery.with_parts(py, &[PartArray::WindowStarts])?;
        } else if has("pack") {
            delivery = delivery.with_parts(py, &[PartArray::SegmentIds, PartArray::Positions])?;
        }
        if tail == "pad" {
            delivery = delivery.with_mask(py)?;
        }
        let loader = if again {
            let options = options.clone();
            py.detach(|| origin.open(options)).map_err(raise)?
        } else {
            loader
        };
        Ok(Self {
            origin,
            options,
            delivery: Arc::new(delivery),
            skipped: Mutex::default(),
            open: Mutex::new(Local::new(loader)),
        })
    }

    /// Samples of an epoch, of all ranks together.
    #[getter]
    fn num_samples(&self, py: Python<'_>) -> PyResult<u64> {
        self.with(py, |loader| Ok(loader.num_samples()))
    }

    /// This process among those that share an epoch: rank and world size.
    #[getter]
    fn distribution(&self, py: Python<'_>) -> PyResult<(u64, u64)> {
        let found = self.with(py, |loader| Ok(loader.distribution()))?;
        Ok((found.rank(), found.world_size()))
    }

    fn num_batches(&self, py: Python<'_>, batch_size: usize) -> PyResult<u64> {
        self.with(py, |loader| Ok(loader.num_batches(batch_size)))
    }

    /// The fields that are delivered.
    fn fields<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let dataset = self.with(py, |loader| Ok(loader.dataset().clone()))?;
        let list = PyList::empty(py);
        for field in dataset.fields() {
            list.append(field::describe(py, field)?)?;
        }
        Ok(list)
    }

    /// For each field that is delivered quantized what `dequantize` must know.
    fn quantization<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let dataset = self.with(py, |loader| Ok(loader.dataset().clone()))?;
        let dict = PyDict::new(py);
        for name in self.delivery.quantized(py) {
            let field = dataset.schema().field(&name).map_err(raise)?;
            dict.set_item(&name, field::quantization(py, field)?)?;
        }
        Ok(dict)
    }

    /// The next iteration is of this epoch.
    fn set_epoch(&self, py: Python<'_>, epoch: u64) -> PyResult<()> {
        self.with(py, |loader| {
            loader.set_epoch(epoch);
            Ok(())
        })
    }

    /// One epoch, or what is left of it after `load_state`.
    fn batches(&self, py: Python<'_>, batch_size: usize, epoch: u64) -> PyResult<Batches> {
        let batches = self.with(py, |loader| {
            loader.set_epoch(epoch);
            Ok(loader.batches(batch_size))
        })?;
        let skipped = Skipped::default();
        *self.skipped.lock().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&skipped);
        Ok(Batches {
            batches: Local::new(Mutex::new(Some(batches))),
            delivery: Arc::clone(&self.delivery),
            skipped,
        })
    }

    /// Where the epoch stands, as JSON.
    fn state(&self, py: Python<'_>) -> PyResult<String> {
        self.with(py, |loader| Ok(loader.state()?.to_json()))
    }

    /// The next iteration goes on where this state was taken. Returns its epoch, and whether it has samples left.
    fn load_state(&self, py: Python<'_>, json: &str) -> PyResult<(u64, bool)> {
        let state = LoaderState::from_json(json).map_err(raise)?;
        self.with(py, |loader| loader.load_state(&state))?;
        Ok((state.epoch(), state.consumed() < state.num_samples()))
    }

    fn seek(&self, py: Python<'_>, step: u64, batch_size: usize) -> PyResult<()> {
        self.with(py, |loader| loader.seek(step, batch_size))
    }

    fn skip(&self, py: Python<'_>, batches: u64, batch_size: usize) -> PyResult<()> {
        self.with(py, |loader| loader.skip(batches, batch_size))
    }

    fn ids_for(
        &self,
        py: Python<'_>,
        step: u64,
        batch_size: usize,
        epoch: u64,
    ) -> PyResult<Vec<u64>> {
        let mut loader = self.with(py, |loader| Ok(loader.clone()))?;
        loader.set_epoch(epoch);
        py.detach(|| loader.ids_for(step, batch_size))
            .map_err(raise)
    }

    /// What the last iteration has left out, once it has ended.
    fn skipped<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let last = Arc::clone(&self.skipped.lock().unwrap_or_else(PoisonError::into_inner));
        let chunks = last.lock().unwrap_or_else(PoisonError::into_inner).clone();
        skipped_list(py, &chunks)
    }

    /// Ends what was begun of a next epoch.
    fn rest(&self) {
        // Threads that do not know the interpreter, and end within a chunk.
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(loader) = open.get() {
            loader.rest();
        }
    }

    /// What happened in the iterations that have ended.
    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        stats_dict(py, &self.with(py, |loader| Ok(loader.stats()))?)
    }
}

/// The batches of one epoch, as dicts.
#[pyclass(frozen, module = "tensorshard._tensorshard")]
pub(crate) struct Batches {
    batches: Local<Mutex<Option<tensorshard::Batches>>>,
    delivery: Arc<Delivery>,
    skipped: Skipped,
}

impl Batches {
    /// The next batch. Signals are looked at while it is waited for.
    fn advance(&self, py: Python<'_>) -> PyResult<Option<Batch>> {
        let batches = self.batches.get().ok_or_else(|| forked("iterator"))?;
        loop {
            let step = py.detach(|| {
                let mut batches = batches.lock().unwrap_or_else(PoisonError::into_inner);
                let step = batches
                    .as_mut()
                    .map_or(Poll::Ready(None), |batches| batches.next_timeout(SLICE));
                if matches!(step, Poll::Ready(None | Some(Err(_)))) {
                    self.end(&mut batches);
                }
                step
            });
            match step {
                Poll::Pending => py.check_signals()?,
                Poll::Ready(None) => return Ok(None),
                Poll::Ready(Some(Ok(batch))) => return Ok(Some(batch)),
                Poll::Ready(Some(Err(error))) => return Err(raise(error)),
            }
        }
    }

    /// Ends the threads, and keeps what was left out.
    fn end(&self, batches: &mut Option<tensorshard::Batches>) {
        if let Some(batches) = batches.take() {
            let mut skipped = self.skipped.lock().unwrap_or_else(PoisonError::into_inner);
            *skipped = batches.skipped();
        }
    }
}

#[pymethods]
impl Batches {
    fn __iter__(slf: PyRef<'_, Self>) -> PyRef<'_, Self> {
        slf
    }

    fn __next__<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyDict>>> {
        let batch = self.advance(py)?;
        batch.map(|batch| self.delivery.dict(py, batch)).transpose()
    }

    /// The next batch, and its place in the epoch.
    fn next_placed<'py>(&self, py: Python<'py>) -> PyResult<(Bound<'py, PyDict>, u64)> {
        let batch = self.advance(py)?;
        let batch = batch.ok_or_else(|| PyStopIteration::new_err(()))?;
        let step = batch.index();
        Ok((self.delivery.dict(py, batch)?, step))
    }

    /// What was left out so far.
    fn skipped<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let batches = self.batches.get().ok_or_else(|| forked("iterator"))?;
        let chunks = py.detach(|| {
            let batches = batches.lock().unwrap_or_else(PoisonError::into_inner);
            match batches.as_ref() {
                Some(batches) => batches.skipped(),
                None => {
                    let ended = self.skipped.lock().unwrap_or_else(PoisonError::into_inner);
                    ended.clone()
                }
            }
        });
        skipped_list(py, &chunks)
    }

    /// Ends the threads; the iteration is over.
    fn close(&self, py: Python<'_>) {
        if let Some(batches) = self.batches.get() {
            py.detach(|| {
                self.end(&mut batches.lock().unwrap_or_else(PoisonError::into_inner));
            });
        }
    }

    /// What happened so far.
    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let batches = self.batches.get().ok_or_else(|| forked("iterator"))?;
        let stats = py.detach(|| {
            let batches = batches.lock().unwrap_or_else(PoisonError::into_inner);
            batches.as_ref().map(tensorshard::Batches::stats)
        });
        stats_dict(py, &stats.unwrap_or_default())
    }
}

impl Drop for Batches {
    fn drop(&mut self) {
        if let Some(batches) = self.batches.take() {
            // Threads end within a chunk; others may go on meanwhile.
            let skipped = Arc::clone(&self.skipped);
            Python::attach(|py| {
                py.detach(|| {
                    let batches = batches.into_inner().unwrap_or_else(PoisonError::into_inner);
                    if let Some(batches) = batches {
                        *skipped.lock().unwrap_or_else(PoisonError::into_inner) = batches.skipped();
                    }
                });
            });
        }
    }
}

fn stats_dict<'py>(py: Python<'py>, stats: &LoaderStats) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    let counts = [
        ("batches", stats.batches),
        ("samples", stats.samples),
        ("bytes", stats.bytes),
        ("chunks", stats.chunks),
        ("stored_bytes", stats.stored_bytes),
        ("decoded_bytes", stats.decoded_bytes),
        ("visited_samples", stats.visited_samples),
        ("planned_samples", stats.planned_samples),
        ("num_workers", stats.num_workers),
        ("pool_hits", stats.pool_hits),
        ("pool_misses", stats.pool_misses),
        ("peak_batch_bytes", stats.peak_batch_bytes),
    ];
    for (name, count) in counts {
        dict.set_item(name, count)?;
    }
    let seconds = [
        ("elapsed", stats.elapsed),
        ("consumer_wait", stats.consumer_wait),
        ("first_batch_wait", stats.first_batch_wait),
        ("budget_wait", stats.budget_wait),
        ("planning", stats.planning),
        ("worker_busy", stats.worker_busy),
        ("worker_reading", stats.worker_reading),
        ("worker_mapping", stats.worker_mapping),
        ("worker_idle", stats.worker_idle),
    ];
    for (name, time) in seconds {
        dict.set_item(name, time.as_secs_f64())?;
    }
    dict.set_item("amplification", stats.amplification())?;
    dict.set_item("limit", stats.limit().name())?;
    dict.set_item("why", stats.why())?;
    Ok(dict)
}
