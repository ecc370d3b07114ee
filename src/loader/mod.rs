//! [`Loader`]: the samples of a dataset as batches, decoded ahead by worker threads, in an order that only the dataset,
//! the seed, the epoch and the order options decide.

mod buckets;
mod builder;
mod damaged;
mod distribution;
#[cfg(test)]
mod fault_tests;
mod iter;
mod keep;
mod lanes;
mod map;
mod mixture;
mod next_epoch;
mod open;
mod order;
#[cfg(test)]
mod order_speed;
mod pack;
mod parts;
mod plan;
mod prefetch;
mod progress;
mod running;
mod selection;
mod share;
mod state;
mod stats;
mod steps;
#[cfg(feature = "tokio")]
mod stream;
mod windows;

pub use builder::LoaderBuilder;
pub use damaged::{Damaged, SkippedChunk};
pub use distribution::Distribution;
pub use iter::Batches;
pub use map::MapOrdered;
pub use mixture::{Mixture, MixtureEnd};
pub use order::Shuffle;
pub use order::bitmap::Bitmap;
pub use pack::Pack;
pub use selection::Split;
pub use share::Tail;
pub use state::LoaderState;
pub use stats::{Limit, LoaderStats};
#[cfg(feature = "tokio")]
pub use stream::BatchStream;
pub use windows::Windows;

use std::path::Path;
use std::sync::{Arc, PoisonError};

use crate::dataset::{Dataset, FieldLayout};
use crate::error::{Error, Result};
use crate::pool::BufferPool;
use crate::sync::Mutex;

use buckets::Buckets;
use keep::Keeper;
use next_epoch::Handover;
use order::bijection::hash;
use order::epoch::{Epoch, Track};
use order::epoch_key;
use order::geometry::Geometry;
use order::mixture::{Alias, Turns};
use order::windowed;
use parts::{Cut, Parts, Sources};
use progress::Progress;
use selection::Selection;
use share::{Deal, Share};

/// The share of the budget, and at most how much of it, that plans, the workers' scratch memory and the pool's rounding take.
const SET_ASIDE: u64 = 16;
const MAX_SET_ASIDE: u64 = 16 << 20;
/// Parts of a chunk, in the order of the dataset, are decoded together up to so many bytes, or more if they are prefetched.
const MIN_ROUND: u64 = 4 << 20;
/// Samples below this size are not kept by the exact shuffle: decoding them again costs less.
const MIN_KEPT: u64 = 1024;
/// Bytes that an array of a kept sample takes beside its values.
const KEPT_OVERHEAD: u64 = 512;

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
    /// One, or those of a mixture.
    stores: Arc<[Store]>,
    selections: Vec<Selection>,
    options: LoaderBuilder,
    /// What epochs are made of, for each of `stores`.
    sources: Vec<Source>,
    /// The shards that an epoch began with, if others were appended before it was resumed.
    prefix: Option<Vec<Source>>,
    turns: Arc<Turns>,
    end: MixtureEnd,
    draws: Option<Draws>,
    buckets: Option<Buckets>,
    distribution: Distribution,
    progress: Progress,
    handover: Handover,
    /// Kept from epoch to epoch, so that its memory is warm.
    pool: BufferPool,
    /// Of all iterations that have ended.
    stats: Arc<Mutex<LoaderStats>>,
}

/// A dataset, and how its fields lie in batches.
#[derive(Clone, Debug)]
struct Store {
    dataset: Dataset,
    layouts: Arc<[FieldLayout]>,
    /// How its samples are cut.
    cut: Cut,
    /// The id of its first sample among those of a mixture.
    first_id: u64,
}

impl Store {
    /// Refuses a dataset of a mixture whose batches are not those of the first.
    fn check_like(&self, first: &Self) -> Result<()> {
        let like = self.layouts.len() == first.layouts.len()
            && self
                .layouts
                .iter()
                .zip(first.layouts.iter())
                .all(|(a, b)| a.is_like(b));
        if like {
            return Ok(());
        }
        let fields = |store: &Self| {
            let fields = store.layouts.iter().map(FieldLayout::describe);
            fields.collect::<Vec<String>>().join(", ")
        };
        Err(Error::invalid(format!(
            "datasets of a mixture have the same fields; {} has {}, and {} has {}: choose fields and dtypes that they share",
            first.dataset.path().display(),
            fields(first),
            self.dataset.path().display(),
            fields(self)
        )))
    }
}

/// What draws samples by weight.
#[derive(Clone, Debug)]
struct Draws {
    alias: Arc<Alias>,
    /// The weights in a word, for states.
    word: String,
}

/// The samples of a dataset, or of its first shards, that epochs are made of.
#[derive(Clone, Debug)]
struct Source {
    num_shards: u64,
    geometry: Arc<Geometry>,
    /// The selection in a word, for states.
    selection: String,
    /// What the ids of the order are.
    parts: Parts,
    /// What the parts depend on, for states.
    option: Option<(&'static str, String)>,
}

impl Source {
    fn new(store: &Store, num_shards: u64, selection: &Selection) -> Result<Self> {
        let Store { dataset, cut, .. } = store;
        let resolve = |total| selection.resolve(total);
        let (parts, geometry, selection) = match cut {
            Cut::Whole => {
                let geometry = Geometry::new(dataset, num_shards)?;
                let (selected, word) = resolve(geometry.total())?;
                (Parts::Whole, geometry.select(selected), word)
            }
            Cut::Windows(windows) => {
                let (geometry, word) = windows.geometry(dataset, num_shards, resolve)?;
                (Parts::Windows(Arc::clone(windows)), geometry, word)
            }
            Cut::Packed(steps) => {
                let (table, geometry, word) = steps.table(dataset, num_shards, resolve)?;
                (Parts::Packed(Arc::new(table)), geometry, word)
            }
        };
        Ok(Self {
            num_shards,
            selection,
            option: parts.option(geometry.total() / geometry.per()),
            geometry: Arc::new(geometry),
            parts,
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

    /// The dataset; of a mixture, the first.
    pub fn dataset(&self) -> &Dataset {
        &self.stores[0].dataset
    }

    /// The dataset of a sample, by its place in the mixture, and the sample's index in that dataset.
    pub fn source_of(&self, sample_id: u64) -> (usize, u64) {
        let source = self
            .stores
            .partition_point(|store| store.first_id <= sample_id)
            .saturating_sub(1);
        (source, sample_id - self.stores[source].first_id)
    }

    /// The number of samples of an epoch, of all ranks together; of windows, where samples are cut.
    pub fn num_samples(&self) -> u64 {
        self.epoch_len(self.sources())
    }

    /// The number of batches of an epoch: the same for every rank.
    pub fn num_batches(&self, batch_size: usize) -> u64 {
        self.share(batch_size, 0).num_batches()
    }

    /// The process that this is, of how many.
    pub fn distribution(&self) -> Distribution {
        self.distribution
    }

    /// The batch size that makes batches of [`LoaderBuilder::global_batch_size`] samples with this world size; `None` if
    /// there is none, or none was asked for.
    pub fn batch_size(&self) -> Option<usize> {
        let (_, world) = self.distribution.share();
        let global = self.options.global_batch_size?;
        (global % world == 0).then(|| usize::try_from(global / world).ok())?
    }

    /// Sets the epoch of the iterators that are made from now on. Another epoch than before starts at its beginning, with
    /// all samples that the dataset has.
    pub fn set_epoch(&mut self, epoch: u64) {
        if epoch != self.options.epoch {
            self.options.epoch = epoch;
            self.prefix = None;
            self.progress.start_at(0);
        }
    }

    /// One epoch in batches of `batch_size` samples. Dropping the iterator ends its threads.
    ///
    /// Where one epoch follows the other, the first batches of the next one are decoded while this one drains, within the
    /// same memory budget: see [`LoaderBuilder::epochs`].
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

    /// Ends the threads and frees the batches of an epoch that was begun ahead, if there is one: after the last epoch of
    /// a loader that is kept. Nothing is lost but time.
    pub fn rest(&self) {
        self.handover.clear();
    }

    fn sources(&self) -> &[Source] {
        self.prefix.as_deref().unwrap_or(&self.sources)
    }

    /// What the ids of the order are.
    fn part_sources(&self) -> Result<Sources> {
        let samples = self.stores.iter().map(|store| store.dataset.len());
        let parts = self.sources().iter().map(|source| source.parts.clone());
        Sources::new(parts.zip(samples))
    }

    /// True if samples come from anywhere, in no order of chunks.
    fn is_listed(&self) -> bool {
        let listed = |source: &Source| source.geometry.selected().is_listed();
        match self.options.shuffle {
            _ if self.buckets.is_some() => true,
            Shuffle::Windowed { .. } => false,
            Shuffle::None => self.stores.len() > 1 || self.sources().iter().any(listed),
            Shuffle::Exact => true,
        }
    }

    /// Samples of an epoch.
    fn epoch_len(&self, sources: &[Source]) -> u64 {
        if let [source] = sources {
            return source.geometry.len().saturating_mul(self.options.repeat);
        }
        let lens = || (0..).zip(sources.iter().map(|source| source.geometry.len()));
        if lens().any(|(_, len)| len == 0) {
            return 0;
        }
        let turn = |dataset, index| self.turns.position(dataset, index);
        match self.end {
            MixtureEnd::Samples(n) => n,
            MixtureEnd::FirstExhausted => lens().map(|(i, len)| turn(i, len)).min().unwrap_or(0),
            MixtureEnd::AllExhausted => lens()
                .map(|(i, len)| turn(i, len - 1).saturating_add(1))
                .max()
                .unwrap_or(0),
        }
    }

    /// The shuffle of a dataset: of a mixture, each has its part of the window.
    fn shuffle_of(&self, source: usize) -> Shuffle {
        match self.options.shuffle {
            Shuffle::Windowed { window } if window > 0 && self.stores.len() > 1 => {
                let part = self.turns.part(source, u64::from(window)).max(1);
                Shuffle::Windowed {
                    window: u32::try_from(part).unwrap_or(window),
                }
            }
            shuffle => shuffle,
        }
    }

    /// The sequence of the epoch.
    fn epoch(&self) -> Result<Epoch> {
        let o = &self.options;
        let num_samples = self.num_samples();
        let mut tracks = Vec::new();
        for (i, source) in self.sources().iter().enumerate() {
            let (seed, each) = match self.stores.len() {
                1 => (o.seed, num_samples),
                _ => (
                    hash(o.seed, 16 + i as u64),
                    self.turns.count(i, num_samples),
                ),
            };
            // Every pass of every epoch is another.
            let before = u128::from(o.epoch).saturating_mul(u128::from(each));
            let geometry = Arc::clone(&source.geometry);
            let track = Track::new(geometry, self.shuffle_of(i), o.lanes, seed, before)?;
            tracks.push(match &self.draws {
                Some(draws) => track.drawn(Arc::clone(&draws.alias)),
                None => track,
            });
        }
        let epoch = Epoch::new(tracks, Arc::clone(&self.turns));
        let Some(buckets) = &self.buckets else {
            return Ok(epoch);
        };
        let key = (o.shuffle != Shuffle::None).then(|| hash(epoch_key(o.seed, o.epoch), 3));
        Ok(epoch.in_pools(buckets.pools(num_samples, key)))
    }

    /// What this rank delivers, from a position on.
    fn share(&self, batch_size: usize, start: u64) -> Share {
        let (rank, world) = self.distribution.share();
        let global_batch = (batch_size.max(1) as u64).saturating_mul(world);
        let deal = match self.options.shuffle {
            Shuffle::Windowed { .. } if self.buckets.is_none() => Deal::Lanes,
            Shuffle::Windowed { .. } => Deal::Runs,
            Shuffle::None | Shuffle::Exact => Deal::Runs,
        };
        let range = (start, self.num_samples());
        Share::new((rank, world), global_batch, range, self.options.tail, deal)
    }

    /// Refuses batch sizes that are none, or contradict the global one.
    fn check_batch_size(&self, batch_size: usize) -> Result<()> {
        if batch_size == 0 || u32::try_from(batch_size).is_err() {
            return Err(Error::invalid("batch_size is 1 to 4294967295"));
        }
        let slots = self.part_sources()?.slots();
        if u32::try_from((batch_size as u64).saturating_mul(slots)).is_err() {
            return Err(Error::invalid(format!(
                "batches of {batch_size} packed windows of {slots} tokens have more than 4294967295 tokens"
            )));
        }
        let Some(global) = self.options.global_batch_size else {
            return Ok(());
        };
        let (_, world) = self.distribution.share();
        if (batch_size as u64).checked_mul(world) == Some(global) {
            return Ok(());
        }
        let shares = match self.distribution.replicas() {
            1 => format!("world_size is {world}"),
            n => format!(
                "world_size / replicas is {} / {n}",
                self.distribution.world_size()
            ),
        };
        Err(Error::invalid(match self.batch_size() {
            Some(right) => format!(
                "global_batch_size is {global} and {shares}, so batch_size is {right}, not {batch_size}"
            ),
            None => format!(
                "global_batch_size is {global}, which is no multiple of the number of shares: {shares}"
            ),
        }))
    }

    /// Bytes that a sample takes in a batch, if it is the same for all.
    fn sample_bytes(&self) -> Option<u64> {
        let layouts = self.stores[0].layouts.iter();
        layouts.map(FieldLayout::sample_bytes).sum()
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
        let whole = self.stores[0].cut.is_whole();
        let single = self.stores.len() == 1 && self.draws.is_none() && whole;
        let listed = self.sources()[0].geometry.selected().is_listed();
        let exact = self.options.shuffle == Shuffle::Exact && self.buckets.is_none();
        if !exact || sample_bytes < MIN_KEPT || listed || !single {
            return None;
        }
        let Store {
            dataset, layouts, ..
        } = &self.stores[0];
        let ordinals = layouts.iter().map(|layout| layout.ordinal);
        let group = dataset.samples_per_piece(ordinals)?;
        let open = round_samples
            .saturating_mul(2)
            .saturating_add(2 * batch_size as u64)
            .saturating_mul(sample_bytes);
        let room = self.batch_budget().saturating_sub(open);
        // A kept sample has buffers of its own.
        let arrays: usize = layouts.iter().map(FieldLayout::num_arrays).sum();
        let capacity = room / (sample_bytes + KEPT_OVERHEAD * arrays as u64);
        let capacity = usize::try_from(capacity).unwrap_or(usize::MAX);
        (group > 1 && capacity > 0).then(|| Keeper::new(capacity, group))
    }

    /// Samples of this rank that one round of the order spans at most. Only where samples come from anywhere is it a
    /// choice: it decides how much is decoded together, never the order.
    fn round_samples(&self, batch_size: usize) -> u64 {
        let batch_size = batch_size as u64;
        if let Some(buckets) = &self.buckets {
            // Chunks are decoded once for a pool, if it fits.
            let longest = self.stores[0].layouts.iter().map(|layout| {
                let own = layout.name() == buckets.spec.field;
                let longest = own.then(|| layout.bytes_of_length(buckets.longest()));
                layout.sample_bytes().or(longest).unwrap_or(0)
            });
            let sample_bytes = longest.fold(0u64, u64::saturating_add);
            return self.affordable_samples(batch_size, sample_bytes, buckets.spec.pool_batches);
        }
        match self.options.shuffle {
            Shuffle::Windowed { .. } => {
                let windows = (0..self.stores.len()).map(|i| self.window_samples(i));
                let window = windows.max().unwrap_or(0).min(self.num_samples());
                window.div_ceil(self.distribution.share().1)
            }
            Shuffle::None if !self.is_listed() && !self.sources()[0].geometry.is_spread() => {
                self.sources()[0].geometry.largest_chunk()
            }
            Shuffle::None if !self.is_listed() => {
                // Parts of a chunk, which is visited as often as a round ends in it.
                let layouts = self.stores[0].layouts.iter();
                let sample_bytes = layouts.filter_map(FieldLayout::sample_bytes).sum::<u64>();
                let batch_bytes = sample_bytes.saturating_mul(batch_size).max(1);
                let most = (MIN_ROUND / batch_bytes).max(self.options.prefetch as u64);
                let chunk = self.sources()[0].geometry.largest_chunk();
                self.affordable_samples(batch_size, sample_bytes, most)
                    .min(chunk)
            }
            Shuffle::None | Shuffle::Exact => match self.sample_bytes() {
                Some(bytes) => {
                    self.affordable_samples(batch_size, bytes, self.options.prefetch as u64)
                }
                // The first batch tells how large they are: see `Options::round_batches`.
                None => batch_size,
            },
        }
    }

    /// The samples of [`affordable_batches`].
    fn affordable_samples(&self, batch_size: u64, sample_bytes: u64, most: u64) -> u64 {
        let batch_bytes = sample_bytes.saturating_mul(batch_size);
        batch_size.saturating_mul(affordable_batches(self.batch_budget(), batch_bytes, most))
    }

    /// Batches that a round spans at most, if their size is known only when they are laid out, and a round is a choice.
    fn round_batches(&self) -> Option<u64> {
        let windowed = matches!(self.options.shuffle, Shuffle::Windowed { .. });
        let chosen = !windowed && self.buckets.is_none() && self.sample_bytes().is_none();
        let in_chunks = self.options.shuffle == Shuffle::None && !self.is_listed();
        (chosen && !in_chunks).then_some(self.options.prefetch as u64)
    }

    /// Positions over which the window of a dataset reaches.
    fn window_samples(&self, source: usize) -> u64 {
        let geometry = &self.sources()[source].geometry;
        let Shuffle::Windowed { window } = self.shuffle_of(source) else {
            return 0;
        };
        let lanes = windowed::num_lanes(window, self.options.lanes, geometry);
        let block = windowed::width(window, lanes).saturating_mul(geometry.largest_chunk());
        let window = lanes.saturating_mul(block).min(geometry.len());
        match self.stores.len() {
            1 => window,
            _ => self.turns.position(source, window),
        }
    }

    /// Refuses a memory budget that cannot hold what the order needs at once: a round, and the batches at its edges.
    fn check_budget(&self, batch_size: usize, round_samples: u64) -> Result<()> {
        // Of samples that differ in size, their ids; batches are looked at when they come.
        let (what, sample_bytes) = match self.sample_bytes() {
            Some(bytes) => ("samples", bytes),
            None => ("ids of samples", 8),
        };
        // No order needs more than all samples at once, but for those that are repeated to fill a batch.
        let all = match self.options.tail {
            Tail::Pad if self.num_samples() > 0 => self.num_samples().max(batch_size as u64),
            _ => self.num_samples(),
        };
        let samples = round_samples.saturating_add(2 * batch_size as u64).min(all);
        let minimum = samples.saturating_mul(sample_bytes);
        if minimum <= self.options.memory_budget {
            return Ok(());
        }
        let window = match self.options.shuffle {
            Shuffle::Windowed { .. } => "a smaller window of the shuffle, ",
            _ => "",
        };
        Err(Error::invalid(format!(
            "memory_budget is {} bytes; this order needs at least {minimum} ({samples} {what} of \
             {sample_bytes} bytes); use smaller batches, {window}or a larger budget",
            self.options.memory_budget
        )))
    }
}

/// Up to `most` batches of a round, as long as two rounds of them and a batch on each side fit in the budget.
fn affordable_batches(budget: u64, batch_bytes: u64, most: u64) -> u64 {
    let affordable = (budget / batch_bytes.max(1)).saturating_sub(2) / 2;
    affordable.clamp(1, most)
}
