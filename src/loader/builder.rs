//! [`LoaderBuilder`]: the options of a loader.

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use crate::dataset::{Dataset, FieldLayout, FieldOutput};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::pool::BufferPool;
use crate::storage::IoMode;

use super::damaged::Damaged;
use super::distribution::Distribution;
use super::order::bitmap::Bitmap;
use super::order::{LANES, Shuffle};
use super::progress::Progress;
use super::selection::{Selection, Split};
use super::share::Tail;
use super::{Loader, Source};

/// Bytes of open batches unless asked otherwise.
const MEMORY_BUDGET: u64 = 1 << 30;
/// Batches that are decoded ahead unless asked otherwise.
const PREFETCH: usize = 8;

/// Options of a [`Loader`]. Defaults: all fields in the dtypes that the writer was given, all samples once, no shuffle,
/// 64 lanes, seed 0, epoch 0, the last batch is kept even if it is short, one worker per core, 8 batches ahead, 1 GiB of
/// open batches; rank and world size as torchrun, Slurm or MPI have put them in the environment, no replicas.
#[derive(Clone, Debug)]
#[must_use]
pub struct LoaderBuilder {
    fields: Option<Vec<String>>,
    outputs: HashMap<String, FieldOutput>,
    dtype: Option<DType>,
    pub(super) shuffle: Shuffle,
    pub(super) lanes: u32,
    pub(super) seed: u64,
    pub(super) epoch: u64,
    pub(super) repeat: u64,
    pub(super) selection: Selection,
    pub(super) tail: Tail,
    rank: Option<(u64, u64)>,
    replicas: u64,
    pub(super) global_batch_size: Option<u64>,
    pub(super) num_workers: usize,
    pub(super) prefetch: usize,
    pub(super) memory_budget: u64,
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
            lanes: LANES,
            seed: 0,
            epoch: 0,
            repeat: 1,
            selection: Selection::default(),
            tail: Tail::Short,
            rank: None,
            replicas: 1,
            global_batch_size: None,
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

    /// Streams of chunks that take turns in the windowed shuffle: or the largest divisor of this number for which the
    /// window has a chunk, and the dataset 8, for each. Part of the order. A chunk is decoded by one rank (but for those where lanes meet) if world_size divides `lanes`.
    pub fn lanes(mut self, lanes: u32) -> Self {
        self.lanes = lanes;
        self
    }

    /// Leaves out the last batch if it is short: [`Tail::Drop`].
    pub fn drop_last(self, drop_last: bool) -> Self {
        self.tail(if drop_last { Tail::Drop } else { Tail::Short })
    }

    /// What becomes of the samples at the end that do not fill a batch of all ranks.
    pub fn tail(mut self, tail: Tail) -> Self {
        self.tail = tail;
        self
    }

    /// This process is number `rank` of `world_size` that share an epoch: each sample goes to one of them. The order
    /// is the same for every world size. What torchrun, Slurm or MPI say counts if this is not given.
    pub fn rank(mut self, rank: u64, world_size: u64) -> Self {
        self.rank = Some((rank, world_size));
        self
    }

    /// Groups of so many consecutive ranks receive the same samples; it divides world_size.
    pub fn replicas(mut self, replicas: u64) -> Self {
        self.replicas = replicas;
        self
    }

    /// Samples of a batch of all ranks together, so that it is the same for every world size: `batches` then takes
    /// [`Loader::batch_size`], or refuses.
    pub fn global_batch_size(mut self, samples: u64) -> Self {
        self.global_batch_size = Some(samples);
        self
    }

    /// Passes over the samples in one epoch, each in another order.
    pub fn repeat(mut self, passes: u64) -> Self {
        self.repeat = passes;
        self
    }

    /// Only samples with these ids (as far as they exist). With `every_nth`, `split` and `filter`: those that all of
    /// them select.
    pub fn range(mut self, ids: Range<u64>) -> Self {
        self.selection.range = Some(ids);
        self
    }

    /// Only every `n`-th sample (of the range), beginning with sample `offset`, which is below `n`.
    pub fn every_nth(mut self, n: u64, offset: u64) -> Self {
        self.selection.every = Some((n, offset));
        self
    }

    /// Only the samples of a part that is drawn by hash, as for training and validation. Takes 1 bit for every sample of
    /// the dataset; by key, all keys are read when the loader is opened.
    pub fn split(mut self, split: Split) -> Self {
        self.selection.split = Some(split);
        self
    }

    /// Only the samples of a set; see [`Bitmap::from_predicate`].
    pub fn filter(mut self, samples: Arc<Bitmap>) -> Self {
        self.selection.filter = Some(samples);
        self
    }

    /// These samples, in this order where nothing is shuffled; they may repeat. Takes 16 bytes for each.
    pub fn indices(mut self, ids: impl Into<Arc<[u64]>>) -> Self {
        self.selection.indices = Some(ids.into());
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
    /// Those of [`Dataset::open`] and of [`LoaderBuilder::open_dataset`].
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
    /// `InvalidArgument` for fields, outputs or selections that do not fit the dataset, and for ranks that do not exist.
    pub fn open_dataset(mut self, dataset: &Dataset) -> Result<Loader> {
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
        let distribution = match self.rank {
            Some((rank, world_size)) => Distribution::new(rank, world_size)?,
            None => Distribution::from_env()?,
        };
        let distribution = distribution.with_replicas(self.replicas)?;
        self.selection.prepare(&dataset)?;
        let source = Source::new(&dataset, dataset.num_shards(), &self.selection)?;
        let pool = BufferPool::new(self.memory_budget);
        Ok(Loader {
            dataset,
            options: self,
            layouts: layouts.into(),
            source,
            prefix: None,
            distribution,
            progress: Progress::default(),
            pool,
            stats: Arc::default(),
        })
    }
}
