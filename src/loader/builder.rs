//! [`LoaderBuilder`]: the options of a loader.

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use crate::dataset::{Dataset, FieldLayout, FieldOutput};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::pool::{BufferPool, HostAllocator};
use crate::storage::IoMode;

use super::buckets::{BucketSpec, Buckets};
use super::damaged::Damaged;
use super::distribution::Distribution;
use super::mixture::{Mixture, MixtureEnd, Part};
use super::next_epoch::Handover;
use super::order::bijection::hash;
use super::order::bitmap::Bitmap;
use super::order::geometry::Geometry;
use super::order::mixture::{Alias, Turns};
use super::order::{LANES, Shuffle};
use super::pack::Pack;
use super::parts::Cut;
use super::progress::Progress;
use super::selection::{Selection, Split};
use super::share::Tail;
use super::state::hex;
use super::windows::Windows;
use super::{Draws, Loader, Source, Store};

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
    pub(super) epochs: Option<u64>,
    pub(super) repeat: u64,
    pub(super) weights: Option<Arc<[f64]>>,
    pub(super) buckets: Option<BucketSpec>,
    pub(super) selection: Selection,
    windows: Option<Windows>,
    pack: Option<Pack>,
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
    allocator: Option<Arc<dyn HostAllocator>>,
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
            epochs: None,
            repeat: 1,
            weights: None,
            buckets: None,
            selection: Selection::default(),
            windows: None,
            pack: None,
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
            allocator: None,
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

    /// How many epochs there will be: those before epoch `epochs` are expected to follow each other. While one of them
    /// drains, the first batches of the next are decoded, so that there is no pause between them; the last one begins
    /// nothing. Unless this is given, epochs are expected to go on once two have followed each other to their ends.
    ///
    /// What was begun takes a part of the same memory budget, and is decoded on threads of its own. It waits in the
    /// loader until [`Loader::batches`] asks for it, or for anything else, or until [`Loader::rest`]. States know nothing
    /// of it, and no order changes.
    pub fn epochs(mut self, epochs: u64) -> Self {
        self.epochs = Some(epochs);
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

    /// Draws as many samples as there are, each in proportion to its weight and again and again, instead of shuffling:
    /// one weight for every sample of the dataset. Takes 16 bytes for each; costs about one decoded piece per sample.
    pub fn weights(mut self, weights: impl Into<Arc<[f64]>>) -> Self {
        self.weights = Some(weights.into());
        self
    }

    /// Batches of samples of like lengths, so that little is padded: of every `pool_batches` batches of the order (of all
    /// ranks; [`LoaderBuilder::global_batch_size`] must be given), the samples are sorted by the length of this field and
    /// make new batches, which are delivered in random order; with [`Shuffle::None`], shortest first. The short batch at
    /// the end of the epoch stays as it is. Part of the order; goes with every shuffle, mixture and selection.
    ///
    /// A length is the product of the dims that vary. All are read from the chunks' shapes when the loader is opened, and
    /// take 4 bytes a sample. A pool is decoded together as far as the memory budget allows: every rank decodes nearly
    /// every chunk of it, and chunks that reach over several pools come again with each. Larger pools pad less, and take
    /// more memory.
    ///
    /// See [`FieldOutput::pad_to_multiple`] for batches of few shapes.
    pub fn bucket_by_length(mut self, field: impl Into<String>, pool_batches: u64) -> Self {
        self.buckets = Some(BucketSpec {
            field: field.into(),
            pool_batches,
        });
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

    /// Cuts samples in windows of a fixed number of steps, which take the place of samples. Not with `weights`.
    pub fn windows(mut self, windows: Windows) -> Self {
        self.windows = Some(windows);
        self
    }

    /// Packs samples into windows of a fixed number of tokens, which take the place of samples. Not with `weights`, and
    /// not with `windows`.
    pub fn pack(mut self, pack: Pack) -> Self {
        self.pack = Some(pack);
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

    /// Bytes that batches may take: those being filled, waiting for the consumer or held by it, their masks, samples
    /// that are kept for later ones, and memory that is kept to be used again. Batches of ragged fields count as much as
    /// the largest so far until their shapes are known. Beside this, each worker takes about a chunk as it is stored
    /// (but for mapped files) and as it is decoded. A single round of the order is always admitted when nothing else can
    /// go on, so `batches` refuses budgets that are too small for one, as far as samples have one size. A window of
    /// samples that differ in size is admitted whatever it takes: choose a smaller one, or smaller chunks. Never changes
    /// the order.
    pub fn memory_budget(mut self, bytes: u64) -> Self {
        self.memory_budget = bytes;
        self
    }

    /// What makes the memory that batches are decoded into, in place of the loader's own pool: pinned for a GPU, or
    /// shared with other processes. Never changes the order.
    pub fn allocator(mut self, allocator: impl HostAllocator + 'static) -> Self {
        self.allocator = Some(Arc::new(allocator));
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

    /// What happens to damaged chunks: an error, or they are skipped. Skipping needs checksums to be verified. Lengths
    /// ([`LoaderBuilder::bucket_by_length`]) that cannot be read are always an error.
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
    pub fn open_dataset(self, dataset: &Dataset) -> Result<Loader> {
        let part = Part {
            dataset: dataset.clone(),
            weight: 1.0,
            selection: self.selection.clone(),
        };
        self.open_parts(vec![part], MixtureEnd::FirstExhausted)
    }

    /// A loader over several datasets that take turns.
    ///
    /// # Errors
    /// As [`LoaderBuilder::open_dataset`], and for datasets whose fields differ.
    pub fn open_mixture(self, mixture: &Mixture) -> Result<Loader> {
        mixture.check(&self)?;
        self.open_parts(mixture.parts.clone(), mixture.end)
    }

    fn open_parts(self, parts: Vec<Part>, end: MixtureEnd) -> Result<Loader> {
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
        let distribution = match self.rank {
            Some((rank, world_size)) => Distribution::new(rank, world_size)?,
            None => Distribution::from_env()?,
        };
        let distribution = distribution.with_replicas(self.replicas)?;
        let weights: Vec<f64> = parts.iter().map(|part| part.weight).collect();
        let turns = match weights.len() {
            1 => Turns::one(),
            _ => Turns::new(&weights)?,
        };
        let (mut stores, mut selections) = (Vec::new(), Vec::new());
        let mut first_id = 0;
        for mut part in parts {
            let dataset = match &self.fields {
                Some(fields) => part.dataset.select(fields)?,
                None => part.dataset,
            };
            part.selection.prepare(&dataset)?;
            let (layouts, cut) = self.layouts(&dataset)?;
            let store = Store {
                first_id,
                layouts,
                cut,
                dataset,
            };
            if let Some(first) = stores.first() {
                store.check_like(first)?;
            }
            first_id += store.dataset.len();
            stores.push(store);
            selections.push(part.selection);
        }
        let sources = stores
            .iter()
            .zip(&selections)
            .map(|(store, selection)| Source::new(store, store.dataset.num_shards(), selection));
        let sources = sources.collect::<Result<Vec<Source>>>()?;
        let pool = BufferPool::new(self.memory_budget, self.allocator.clone());
        let draws = self.draws(&sources[0].geometry)?;
        let buckets = Buckets::new(&self, &stores, &sources)?;
        Ok(Loader {
            stores: stores.into(),
            selections,
            options: self,
            sources,
            prefix: None,
            turns: Arc::new(turns),
            end,
            draws,
            buckets,
            distribution,
            progress: Progress::default(),
            handover: Handover::default(),
            pool,
            stats: Arc::default(),
        })
    }

    /// How the fields of a dataset lie in batches, and what of its samples does.
    fn layouts(&self, dataset: &Dataset) -> Result<(Arc<[FieldLayout]>, Cut)> {
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
                dataset,
                ordinal,
                &output.with_default_dtype(self.dtype, field),
            )?);
        }
        if layouts.is_empty() {
            return Err(Error::invalid("no fields are selected"));
        }
        let cut = match (&self.windows, &self.pack) {
            (None, None) => Cut::Whole,
            (Some(windows), None) => {
                Cut::Windows(Arc::new(windows.resolve(dataset, &mut layouts)?))
            }
            (None, Some(pack)) => Cut::Packed(Arc::new(pack.resolve(dataset, &mut layouts)?)),
            (Some(_), Some(_)) => {
                return Err(Error::invalid(
                    "samples are cut in windows or packed, not both: choose one",
                ));
            }
        };
        if cut.varies() && self.damaged != Damaged::Error {
            return Err(Error::invalid(
                "damaged chunks cannot be skipped where the steps of samples vary, or are packed: salvage the dataset first",
            ));
        }
        Ok((layouts.into(), cut))
    }

    /// What draws samples by weight.
    fn draws(&self, geometry: &Geometry) -> Result<Option<Draws>> {
        let Some(weights) = &self.weights else {
            return Ok(None);
        };
        if self.windows.is_some() || self.pack.is_some() {
            return Err(Error::invalid(
                "weights are of whole samples: they do not go with windows or packing",
            ));
        }
        if weights.len() as u64 != geometry.total() {
            return Err(Error::invalid(format!(
                "there are {} weights for {} samples: give each a weight, 0 for those that are not drawn",
                weights.len(),
                geometry.total()
            )));
        }
        if self.shuffle != Shuffle::Exact {
            return Err(Error::invalid(
                "samples that are drawn by weight come from anywhere: choose the exact shuffle",
            ));
        }
        let selected = geometry.selected();
        let weight = |i| weights[usize::try_from(selected.get(i)).unwrap_or(usize::MAX)];
        let selected: Vec<f64> = (0..selected.len()).map(weight).collect();
        let digest = selected
            .iter()
            .fold(3, |digest, weight| hash(digest, weight.to_bits()));
        Ok(Some(Draws {
            alias: Arc::new(Alias::new(&selected)?),
            word: hex(digest),
        }))
    }
}
