//! [`Loader`]: the samples of a dataset as batches, decoded ahead by worker threads, in an order that only the dataset,
//! the seed, the epoch and the order options decide.

mod damaged;
mod iter;
mod keep;
mod plan;
mod prefetch;
mod sampler;
mod stats;
#[cfg(feature = "tokio")]
mod stream;

pub use damaged::{Damaged, SkippedChunk};
pub use iter::Batches;
pub use sampler::Shuffle;
pub use stats::{Limit, LoaderStats};
#[cfg(feature = "tokio")]
pub use stream::BatchStream;

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use crate::dataset::{Dataset, FieldLayout, FieldOutput};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::pool::BufferPool;
use crate::storage::IoMode;

use keep::Keeper;
use sampler::{Geometry, Rounds};

/// Bytes of open batches unless asked otherwise.
const MEMORY_BUDGET: u64 = 1 << 30;
/// The share of the budget, and at most how much of it, that plans, the workers' scratch memory and the pool's rounding take.
const SET_ASIDE: u64 = 16;
const MAX_SET_ASIDE: u64 = 16 << 20;
/// Samples below this size are not kept by the exact shuffle: decoding them again costs less.
const MIN_KEPT: u64 = 1024;
/// Bytes that an array of a kept sample takes beside its values.
const KEPT_OVERHEAD: u64 = 512;
/// Batches that are decoded ahead unless asked otherwise.
const PREFETCH: usize = 8;

/// Delivers the samples of a dataset in batches.
///
/// ```no_run
/// # fn main() -> tensorshard::Result<()> {
/// use tensorshard::{Loader, Shuffle};
/// let mut loader = Loader::builder().shuffle(Shuffle::windowed()).seed(0).open("latents")?;
/// for epoch in 0..3 {
///     loader.set_epoch(epoch);
///     for batch in loader.batches(64) {
///         let batch = batch?;
///         let latents: &[f32] = batch.field("latent")?.as_slice()?;
///         assert_eq!(latents.len() % batch.len(), 0);
///     }
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Loader {
    dataset: Dataset,
    options: LoaderBuilder,
    layouts: Arc<[FieldLayout]>,
    geometry: Arc<Geometry>,
    /// Kept from epoch to epoch, so that its memory is warm.
    pool: BufferPool,
    /// Of all iterations that have ended.
    stats: Arc<Mutex<LoaderStats>>,
}

/// Options of a [`Loader`]. Defaults: all fields in the dtypes that the writer was given, no shuffle, seed 0, epoch 0,
/// the last batch is kept even if it is short, one worker per core, 8 batches ahead, 1 GiB of open batches.
#[derive(Clone, Debug)]
#[must_use]
pub struct LoaderBuilder {
    fields: Option<Vec<String>>,
    outputs: HashMap<String, FieldOutput>,
    dtype: Option<DType>,
    shuffle: Shuffle,
    seed: u64,
    epoch: u64,
    drop_last: bool,
    num_workers: usize,
    prefetch: usize,
    memory_budget: u64,
    io: IoMode,
    verify_checksums: bool,
    pub(super) damaged: Damaged,
}

impl Default for LoaderBuilder {
    fn default() -> Self {
        Self {
            fields: None,
            outputs: HashMap::new(),
            dtype: None,
            shuffle: Shuffle::None,
            seed: 0,
            epoch: 0,
            drop_last: false,
            num_workers: 0,
            prefetch: PREFETCH,
            memory_budget: MEMORY_BUDGET,
            io: IoMode::Auto,
            verify_checksums: true,
            damaged: Damaged::Error,
        }
    }
}

impl LoaderBuilder {
    /// Only these fields, in this order; the others are never read.
    pub fn fields<S: Into<String>>(mut self, fields: impl IntoIterator<Item = S>) -> Self {
        self.fields = Some(fields.into_iter().map(Into::into).collect());
        self
    }

    /// How one field is delivered.
    pub fn output(mut self, field: impl Into<String>, output: FieldOutput) -> Self {
        self.outputs.insert(field.into(), output);
        self
    }

    /// The dtype of all float fields for which [`LoaderBuilder::output`] asks for none: f32, f16, bf16 or f64.
    pub fn dtype(mut self, dtype: DType) -> Self {
        self.dtype = Some(dtype);
        self
    }

    /// How samples are ordered.
    pub fn shuffle(mut self, shuffle: Shuffle) -> Self {
        self.shuffle = shuffle;
        self
    }

    /// The seed of the order.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// The epoch: another order for each.
    pub fn epoch(mut self, epoch: u64) -> Self {
        self.epoch = epoch;
        self
    }

    /// Leaves out the last batch if it is short.
    pub fn drop_last(mut self, drop_last: bool) -> Self {
        self.drop_last = drop_last;
        self
    }

    /// Threads that decode; 0, the default, for one per core. Never changes the order.
    pub fn num_workers(mut self, workers: usize) -> Self {
        self.num_workers = workers;
        self
    }

    /// Batches that are decoded ahead of the consumer, at least 1. Never changes the order.
    pub fn prefetch(mut self, batches: usize) -> Self {
        self.prefetch = batches.max(1);
        self
    }

    /// Bytes that open batches (planned, being filled, or waiting for the consumer) may take. A single round of the
    /// order is always admitted when nothing else can go on, so `batches` refuses budgets that are too small for one.
    /// Never changes the order.
    pub fn memory_budget(mut self, bytes: u64) -> Self {
        self.memory_budget = bytes;
        self
    }

    /// How files are read.
    pub fn io(mut self, io: IoMode) -> Self {
        self.io = io;
        self
    }

    /// Whether checksums are compared before decoding. On by default; it costs little.
    pub fn verify_checksums(mut self, verify: bool) -> Self {
        self.verify_checksums = verify;
        self
    }

    /// What happens to damaged chunks: an error, or they are skipped. Skipping needs checksums to be verified.
    pub fn damaged(mut self, damaged: Damaged) -> Self {
        self.damaged = damaged;
        self
    }

    /// Opens a dataset.
    ///
    /// # Errors
    /// Those of [`Dataset::open`], and `InvalidArgument` for fields or outputs that do not fit the dataset.
    pub fn open(self, path: impl AsRef<Path>) -> Result<Loader> {
        let dataset = Dataset::builder()
            .io(self.io)
            .verify_checksums(self.verify_checksums)
            .open(path)?;
        self.open_dataset(&dataset)
    }

    /// A loader over an open dataset (whose `io` and `verify_checksums` then count).
    ///
    /// # Errors
    /// `InvalidArgument` for fields or outputs that do not fit the dataset.
    pub fn open_dataset(self, dataset: &Dataset) -> Result<Loader> {
        if let Some(fields) = &self.fields {
            let mut names: Vec<&String> = fields.iter().collect();
            names.sort_unstable();
            if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
                return Err(Error::invalid(format!(
                    "field {:?} is asked for twice",
                    pair[0]
                )));
            }
        }
        let dataset = match &self.fields {
            Some(fields) => dataset.select(fields)?,
            None => dataset.clone(),
        };
        if let Some(unknown) = self
            .outputs
            .keys()
            .find(|name| !dataset.fields().any(|field| field.name() == *name))
        {
            return Err(dataset.schema().no_such_field(unknown));
        }
        let mut layouts = Vec::new();
        for &ordinal in dataset.selected() {
            let field = &dataset.schema().fields()[ordinal];
            let output = self.outputs.get(field.name()).cloned().unwrap_or_default();
            layouts.push(FieldLayout::new(
                &dataset,
                ordinal,
                &output.with_default_dtype(self.dtype, field),
            )?);
        }
        if layouts.is_empty() {
            return Err(Error::invalid("no fields are selected"));
        }
        let geometry = Arc::new(Geometry::new(&dataset)?);
        let pool = BufferPool::new(self.memory_budget);
        Ok(Loader {
            dataset,
            options: self,
            layouts: layouts.into(),
            geometry,
            pool,
            stats: Arc::default(),
        })
    }
}

impl Loader {
    /// Opens a dataset with default options.
    ///
    /// # Errors
    /// As [`LoaderBuilder::open`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        LoaderBuilder::default().open(path)
    }

    /// Options for opening.
    pub fn builder() -> LoaderBuilder {
        LoaderBuilder::default()
    }

    /// The dataset.
    pub fn dataset(&self) -> &Dataset {
        &self.dataset
    }

    /// The number of samples of an epoch.
    pub fn num_samples(&self) -> u64 {
        self.dataset.len()
    }

    /// The number of batches of an epoch.
    pub fn num_batches(&self, batch_size: usize) -> u64 {
        let batch_size = batch_size.max(1) as u64;
        if self.options.drop_last {
            self.num_samples() / batch_size
        } else {
            self.num_samples().div_ceil(batch_size)
        }
    }

    /// Sets the epoch of the iterators that are made from now on.
    pub fn set_epoch(&mut self, epoch: u64) {
        self.options.epoch = epoch;
    }

    /// One epoch in batches of `batch_size` samples. Threads start with the first call of `next`; dropping the
    /// iterator ends them.
    ///
    /// An error is delivered in place of the batch that it concerns, and ends the iteration.
    pub fn batches(&self, batch_size: usize) -> Batches {
        Batches::new(self, batch_size)
    }

    /// What happened in the iterations that have ended, added up: an epoch that was dropped on the way counts, one that
    /// goes on does not yet (see [`Batches::stats`]).
    ///
    /// ```no_run
    /// # fn main() -> tensorshard::Result<()> {
    /// # let mut loader = tensorshard::Loader::open("latents")?;
    /// for epoch in 0..3 {
    ///     loader.set_epoch(epoch);
    ///     for batch in loader.batches(64) {
    ///         // Train.
    ///         # let _ = batch?;
    ///     }
    /// }
    /// // Decoding is the limit: all 2 workers were busy 97% of the time; more workers or a faster codec would help.
    /// println!("{}", loader.stats().why());
    /// # Ok(())
    /// # }
    /// ```
    pub fn stats(&self) -> LoaderStats {
        *self.stats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One epoch as an asynchronous stream. Decoding stays on worker threads, and waiting for them on tokio's blocking
    /// pool: the executor is never held up.
    ///
    /// # Errors
    /// `InvalidArgument` outside a tokio runtime.
    #[cfg(feature = "tokio")]
    pub fn stream(&self, batch_size: usize) -> Result<BatchStream> {
        BatchStream::new(self.batches(batch_size))
    }

    fn rounds(&self, exact_span: u64) -> Result<Rounds> {
        let o = &self.options;
        Rounds::new(&self.geometry, o.shuffle, o.seed, o.epoch, exact_span)
    }

    /// Bytes that a sample takes in a batch, if it is the same for all.
    fn sample_bytes(&self) -> Option<u64> {
        self.layouts.iter().map(FieldLayout::sample_bytes).sum()
    }

    /// The part of the memory budget that batches may take.
    fn batch_budget(&self) -> u64 {
        let budget = self.options.memory_budget;
        budget - (budget / SET_ASIDE).min(MAX_SET_ASIDE)
    }

    /// What the exact shuffle keeps of the samples that it decodes too early: what the budget leaves beside the open
    /// batches. `None` where nothing is gained.
    fn keeper(&self, batch_size: usize, round_samples: u64) -> Option<Keeper> {
        let sample_bytes = self.sample_bytes()?;
        if self.options.shuffle != Shuffle::Exact || sample_bytes < MIN_KEPT {
            return None;
        }
        let ordinals = self.layouts.iter().map(|layout| layout.ordinal);
        let group = self.dataset.samples_per_piece(ordinals)?;
        let open = round_samples
            .saturating_mul(2)
            .saturating_add(2 * batch_size as u64)
            .saturating_mul(sample_bytes);
        let room = self.batch_budget().saturating_sub(open);
        // A kept sample has buffers of its own.
        let arrays: usize = self.layouts.iter().map(FieldLayout::num_arrays).sum();
        let capacity = room / (sample_bytes + KEPT_OVERHEAD * arrays as u64);
        let capacity = usize::try_from(capacity).unwrap_or(usize::MAX);
        (group > 1 && capacity > 0).then(|| Keeper::new(capacity, group))
    }

    /// Samples that one round of the order spans at most. Only for the exact shuffle is it a choice: it decides how
    /// much is decoded together, never the order.
    fn round_samples(&self, batch_size: usize) -> u64 {
        let batch_size = batch_size as u64;
        match self.options.shuffle {
            Shuffle::None => self.geometry.window_samples(1),
            Shuffle::Windowed { window } => self.geometry.window_samples(window),
            Shuffle::Exact => {
                let batch_bytes = self
                    .sample_bytes()
                    .unwrap_or(0)
                    .saturating_mul(batch_size)
                    .max(1);
                // Two rounds and a batch on each side fit.
                let affordable = (self.batch_budget() / batch_bytes).saturating_sub(2) / 2;
                batch_size.saturating_mul(affordable.clamp(1, self.options.prefetch as u64))
            }
        }
    }

    /// Refuses a memory budget that cannot hold what the order needs at once: a round, and the batches at its edges.
    fn check_budget(&self, batch_size: usize, round_samples: u64) -> Result<()> {
        let Some(sample_bytes) = self.sample_bytes() else {
            return Ok(());
        };
        // No order needs more than all samples at once.
        let samples = round_samples
            .saturating_add(2 * batch_size as u64)
            .min(self.num_samples());
        let minimum = samples.saturating_mul(sample_bytes);
        if minimum <= self.options.memory_budget {
            return Ok(());
        }
        Err(Error::invalid(format!(
            "memory_budget is {} bytes; this order needs at least {minimum} ({samples} samples of \
             {sample_bytes} bytes); use smaller batches, a smaller window, or a larger budget",
            self.options.memory_budget
        )))
    }
}
