//! [`Batches`]: plans ahead, waits for workers, delivers in order.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};

use crate::dataset::{Batch, Dataset, Extent, FieldLayout, RaggedParts};
use crate::error::{Error, Result};
use crate::kernel::slots::{SlotClaims, SlotOwner};
use crate::pool::{BufferPool, PoolStats, PooledBuffer};
use crate::shard::{RowRun, SlotShape};

use super::damaged::{SkippedChunk, Skips};
use super::order::Shuffle;
use super::order::geometry::ChunkPlace;
use super::plan::{Entry, Planner, Recall, Visit};
use super::prefetch::{ChunkShapes, DecodeTask, Padded, RecallTask, Report, ShapesTask, Workers};
use super::progress::Tracker;
use super::stats::LoaderStats;
use super::{Loader, Store};

/// One epoch, batch by batch. See [`Loader::batches`].
#[derive(Debug)]
pub struct Batches {
    dataset: Dataset,
    layouts: Arc<[FieldLayout]>,
    stores: Arc<[Store]>,
    options: Options,
    skips: Arc<Skips>,
    /// `None` once the epoch has ended or failed.
    state: Option<State>,
    /// An error of the options, delivered first.
    failed: Option<Error>,
    num_batches: u64,
    delivered: u64,
    /// The batch of the epoch that this iteration starts with.
    first_index: u64,
    progress: Option<Tracker>,
    /// Other ranks deliver parts of the same batches.
    shared: bool,
    pool: BufferPool,
    /// The pool's counters when the iteration began.
    pool_before: PoolStats,
    stats: LoaderStats,
    /// When the first batch was asked for.
    started: Option<Instant>,
    /// Where the loader adds up its iterations.
    all_stats: Arc<Mutex<LoaderStats>>,
}

#[derive(Debug)]
struct Options {
    num_workers: usize,
    /// Batches that may be planned ahead of the consumer: what was asked for, and at least a round of the order.
    ahead: u64,
    /// Bytes that the open batches may take.
    batch_budget: u64,
    /// Bytes of a batch, where samples have one size.
    batch_bytes: u64,
    ragged: bool,
}

#[derive(Debug)]
struct State {
    planner: Planner,
    workers: Workers,
    /// Batches that are planned or being filled; the first is the next to deliver.
    open: VecDeque<OpenBatch>,
    first_open: u64,
    /// Visits that wait for shapes, or for batches to be laid out.
    waiting: VecDeque<WaitingVisit>,
    next_visit: u64,
    /// Batches before this one are laid out.
    laid_out: u64,
    /// Samples that were decoded before their time, by position.
    kept: HashMap<u64, SlotOwner<PooledBuffer>>,
    /// The first batch that needs shapes which could not be read: nothing from it on is delivered.
    end: u64,
    /// Time spent planning, without that in [`State::sending`].
    planning: Duration,
    /// Time spent handing tasks to workers: where cores are few, a worker that wakes up takes the core of this thread.
    sending: Duration,
    /// The last plan ended because of the memory budget.
    out_of_memory: bool,
}

#[derive(Debug)]
struct OpenBatch {
    sample_ids: Vec<u64>,
    /// For ragged fields: where each slot's shape is found (index in `visits`, row).
    sources: Vec<(u32, u32)>,
    /// The shapes that `sources` point into: one for each visit.
    visits: Vec<Arc<VisitShapes>>,
    /// Visits that are planned but not decoded.
    pending: u32,
    /// Kept samples that go here.
    recalls: Vec<Recall>,
    /// The kept samples are on their way.
    recalling: bool,
    error: Option<Error>,
    owner: Option<SlotOwner<PooledBuffer>>,
    ragged: Vec<Option<Arc<RaggedParts>>>,
    padded: Padded,
}

/// Shapes that come when a worker has read them.
type VisitShapes = std::sync::OnceLock<Arc<ChunkShapes>>;

#[derive(Debug)]
struct WaitingVisit {
    id: u64,
    place: ChunkPlace,
    entries: Vec<Entry>,
    /// (row, position) of samples to keep, ascending.
    keeps: Vec<(u32, u64)>,
    /// The batches of the entries, and for each entry which of them.
    batches: Vec<u64>,
    of_entries: Vec<u32>,
    shapes: Arc<VisitShapes>,
}

impl WaitingVisit {
    /// Leaves out what goes to batch `end` and those after it.
    fn cut(&mut self, end: u64) {
        let len = self.batches.partition_point(|&batch| batch < end);
        if len == self.batches.len() {
            return;
        }
        self.batches.truncate(len);
        self.entries.retain(|entry| entry.batch < end);
        self.of_entries.retain(|&ordinal| (ordinal as usize) < len);
    }
}

impl Batches {
    pub(super) fn new(loader: &Loader, batch_size: usize) -> Self {
        let mut out = Self {
            dataset: loader.dataset().clone(),
            layouts: Arc::clone(&loader.stores[0].layouts),
            stores: Arc::clone(&loader.stores),
            options: Options {
                num_workers: loader.options.num_workers,
                ahead: loader.options.prefetch as u64,
                batch_budget: loader.batch_budget(),
                batch_bytes: 0,
                ragged: loader.stores[0].layouts.iter().any(FieldLayout::is_ragged),
            },
            skips: Arc::new(Skips::new(loader.options.damaged)),
            state: None,
            failed: None,
            num_batches: 0,
            delivered: 0,
            first_index: 0,
            progress: None,
            shared: loader.distribution.world_size() > 1,
            pool: loader.pool.clone(),
            pool_before: loader.pool.stats(),
            stats: LoaderStats::default(),
            started: None,
            all_stats: Arc::clone(&loader.stats),
        };
        match out.plan(loader, batch_size) {
            Ok(num_batches) => out.num_batches = num_batches,
            Err(error) => out.failed = Some(error),
        }
        out
    }

    fn plan(&mut self, loader: &Loader, batch_size: usize) -> Result<u64> {
        loader.check_batch_size(batch_size)?;
        let round_samples = loader.round_samples(batch_size);
        loader.check_budget(batch_size, round_samples)?;
        let sample_bytes = loader.sample_bytes().unwrap_or(0);
        self.options.batch_bytes = sample_bytes.saturating_mul(batch_size as u64);
        // A part of the window is replaced at a time; other rounds are planned as a whole.
        let round = match loader.options.shuffle {
            Shuffle::Windowed { .. } => round_samples / 8,
            Shuffle::None | Shuffle::Exact => round_samples,
        };
        let round = round.div_ceil(batch_size as u64);
        self.options.ahead = self.options.ahead.max(round);
        let (start, progress) = loader.progress.begin();
        let share = loader.share(batch_size, start);
        self.first_index = start / share.global_batch;
        self.progress = Some(progress);
        let keeper = loader.keeper(batch_size, round_samples);
        let planner = Planner::new(loader.epoch()?, share, round_samples, keeper)?;
        let num_batches = planner.num_batches();
        self.state = Some(State {
            planner,
            workers: Workers::start(&self.stores, &self.skips, self.options.num_workers)?,
            open: VecDeque::new(),
            first_open: 0,
            waiting: VecDeque::new(),
            next_visit: 0,
            laid_out: 0,
            kept: HashMap::new(),
            end: u64::MAX,
            planning: Duration::ZERO,
            sending: Duration::ZERO,
            out_of_memory: false,
        });
        Ok(num_batches)
    }

    /// What happened so far. [`LoaderStats::why`] says what the loop waits for.
    pub fn stats(&self) -> LoaderStats {
        let pool = self.pool.stats();
        let mut stats = self.stats;
        stats.pool_hits = pool.hits - self.pool_before.hits;
        stats.pool_misses = pool.misses - self.pool_before.misses;
        stats.peak_batch_bytes = pool.peak;
        if let Some(state) = &self.state {
            state.add_counters(&mut stats);
            stats.elapsed = self
                .started
                .map(|start| start.elapsed())
                .unwrap_or_default();
        }
        stats
    }

    /// The chunks that were left out so far, with [`super::Damaged::Skip`]: after the last batch, all of the epoch.
    pub fn skipped(&self) -> Vec<SkippedChunk> {
        self.skips.list()
    }

    /// Ends the threads, and hands the loader what happened.
    fn end(&mut self) {
        let Some(state) = self.state.take() else {
            return;
        };
        state.add_counters(&mut self.stats);
        self.stats.elapsed = self
            .started
            .map(|start| start.elapsed())
            .unwrap_or_default();
        let stats = self.stats();
        *self
            .all_stats
            .lock()
            .unwrap_or_else(PoisonError::into_inner) += stats;
    }

    /// The next batch as from [`Iterator::next`], or [`Poll::Pending`] if it is not there after `timeout`: then call
    /// again. For callers that must look after something else now and then, as a signal.
    ///
    /// # Errors
    /// As those of the iterator.
    pub fn next_timeout(&mut self, timeout: Duration) -> Poll<Option<Result<Batch>>> {
        self.advance(Instant::now().checked_add(timeout))
    }

    /// The next batch, if it is there by `deadline`.
    fn advance(&mut self, deadline: Option<Instant>) -> Poll<Option<Result<Batch>>> {
        if let Some(error) = self.failed.take() {
            return Poll::Ready(Some(Err(error)));
        }
        let Some(state) = self.state.as_mut() else {
            return Poll::Ready(None);
        };
        let started = *self.started.get_or_insert_with(Instant::now);
        let context = Context {
            dataset: &self.dataset,
            layouts: &self.layouts,
            stores: &self.stores,
            options: &self.options,
            pool: &self.pool,
        };
        let mut waited = Duration::ZERO;
        let result = loop {
            while let Some(report) = state.workers.poll() {
                state.take_report(report);
            }
            let planned = state.plan_ahead(&context);
            let planned = match planned.and_then(|planned| {
                state.send_recalls(&context)?;
                Ok(planned)
            }) {
                Ok(planned) => planned,
                Err(error) => break Some(Err(error)),
            };
            match state.deliver(&context, self.first_index + self.delivered) {
                Delivery::Batch(mut batch) => {
                    if let Some(kept) = self.skips.kept(&batch.sample_ids) {
                        batch.retain(&kept, &self.layouts, &self.pool);
                        // Ranks have as many steps as each other, whatever they leave out.
                        if batch.is_empty() && !self.shared {
                            self.delivered += 1;
                            if let Some(progress) = &self.progress {
                                progress.set(state.planner.share().consumed(self.delivered));
                            }
                            continue;
                        }
                    }
                    break Some(Ok(*batch));
                }
                Delivery::Failed(error) => break Some(Err(error)),
                Delivery::End => break None,
                Delivery::NotYet if planned => continue,
                Delivery::NotYet => {}
            }
            let start = Instant::now();
            let report = match deadline {
                Some(deadline) => state.workers.wait_until(deadline),
                None => state.workers.wait().map(Some),
            };
            let wait = start.elapsed();
            waited += wait;
            if state.out_of_memory {
                self.stats.budget_wait += wait;
            }
            match report {
                Ok(Some(report)) => state.take_report(report),
                Ok(None) => {
                    self.stats.consumer_wait += waited;
                    return Poll::Pending;
                }
                Err(_) => break Some(Err(Error::panicked("decode", &"every worker is gone"))),
            }
        };
        self.stats.consumer_wait += waited;
        if self.delivered == 0 {
            self.stats.first_batch_wait = started.elapsed();
        }
        match &result {
            Some(Ok(batch)) => {
                self.delivered += 1;
                if let (Some(progress), Some(state)) = (&self.progress, &self.state) {
                    progress.set(state.planner.share().consumed(self.delivered));
                }
                self.stats.batches += 1;
                self.stats.samples += batch.len() as u64;
                self.stats.bytes += batch.num_bytes() as u64;
            }
            Some(Err(_)) | None => {
                self.end();
            }
        }
        Poll::Ready(result)
    }
}

impl Iterator for Batches {
    type Item = Result<Batch>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            // Without a deadline it is always ready.
            if let Poll::Ready(result) = self.advance(None) {
                return result;
            }
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        if self.failed.is_some() {
            return (1, Some(1));
        }
        if self.state.is_none() {
            return (0, Some(0));
        }
        let left = usize::try_from(self.num_batches - self.delivered).ok();
        // An error can end the iteration early, but not before it is delivered.
        let least = usize::from(!self.skips.may_skip());
        (left.unwrap_or(usize::MAX).min(least), left)
    }
}

impl std::iter::FusedIterator for Batches {}

impl Drop for Batches {
    fn drop(&mut self) {
        self.end();
    }
}

struct Context<'a> {
    dataset: &'a Dataset,
    layouts: &'a Arc<[FieldLayout]>,
    stores: &'a [Store],
    options: &'a Options,
    pool: &'a BufferPool,
}

enum Delivery {
    Batch(Box<Batch>),
    Failed(Error),
    NotYet,
    End,
}

impl State {
    fn add_counters(&self, stats: &mut LoaderStats) {
        let counters = &self.workers.counters;
        stats.chunks += counters.chunks.load(Ordering::Relaxed);
        stats.worker_busy += Duration::from_nanos(counters.busy_ns.load(Ordering::Relaxed));
        stats.worker_idle += Duration::from_nanos(counters.idle_ns.load(Ordering::Relaxed));
        stats.worker_reading += Duration::from_nanos(counters.read_ns.load(Ordering::Relaxed));
        stats.stored_bytes += counters.stored_bytes.load(Ordering::Relaxed);
        stats.decoded_bytes += counters.decoded_bytes.load(Ordering::Relaxed);
        stats.num_workers = self.workers.num_threads();
        stats.planning += self.planning;
        stats.consumer_wait += self.sending;
    }

    fn batch_mut(&mut self, batch: u64) -> Option<&mut OpenBatch> {
        let at = usize::try_from(batch.checked_sub(self.first_open)?).ok()?;
        self.open.get_mut(at)
    }

    /// Plans rounds until enough batches are on their way, and sends out what can be decoded. True if it planned some,
    /// but not enough yet: every call plans twice the batches that a delivery takes, so that plans get ahead of the
    /// consumer, but the first batch does not wait for all of them.
    fn plan_ahead(&mut self, context: &Context<'_>) -> Result<bool> {
        if self.open.is_empty() && self.planner.planned_batches() > self.first_open {
            // Nothing goes into a batch that is empty.
            self.open_batch(self.first_open);
        }
        self.send_ready(context)?;
        if !self.wants_round(context) {
            return Ok(false);
        }
        let (start, sending) = (Instant::now(), self.sending);
        let result = self.plan_rounds(context);
        self.planning += start.elapsed().saturating_sub(self.sending - sending);
        result
    }

    fn plan_rounds(&mut self, context: &Context<'_>) -> Result<bool> {
        let enough = self.planner.planned_batches().saturating_add(2);
        loop {
            self.send_ready(context)?;
            if !self.wants_round(context) {
                return Ok(false);
            }
            if self.planner.planned_batches() >= enough {
                return Ok(true);
            }
            let Some(round) = self.planner.next_round()? else {
                return Ok(false);
            };
            // Dropped now, or when their decoding ends.
            for position in round.evicted {
                self.kept.remove(&position);
            }
            for recall in round.recalls {
                self.open_batch(recall.batch);
                if let Some(batch) = self.batch_mut(recall.batch) {
                    batch.sample_ids[recall.slot as usize] = recall.sample;
                    batch.recalls.push(recall);
                }
            }
            for visit in round.visits {
                self.admit(context, visit);
            }
        }
    }

    fn wants_round(&mut self, context: &Context<'_>) -> bool {
        self.out_of_memory = false;
        let planned = self.planner.planned_batches();
        if planned >= self.planner.num_batches() {
            return false;
        }
        // Nothing can be delivered without it.
        if planned <= self.first_open {
            return true;
        }
        // The next visit waits for a batch that only the next round completes.
        let last_ahead = self.first_open.saturating_add(context.options.ahead);
        if context.options.ragged
            && self.waiting.front().is_some_and(|visit| {
                visit.shapes.get().is_some()
                    && visit.batches.last().is_some_and(|&batch| batch >= planned)
                    && visit
                        .batches
                        .first()
                        .is_some_and(|&batch| batch <= last_ahead)
            })
        {
            return true;
        }
        if planned > last_ahead {
            return false;
        }
        let open_bytes = context.pool.stats().in_use;
        // Batches that the next round opens.
        let open_end = self.first_open + self.open.len() as u64;
        let more = (self.planner.reach() + 1).saturating_sub(open_end);
        // Ragged batches: as large as those that are open.
        let average = open_bytes.checked_div(self.open.len() as u64).unwrap_or(0);
        let next_bytes = more.saturating_mul(context.options.batch_bytes.max(average));
        self.out_of_memory = open_bytes.saturating_add(next_bytes) > context.options.batch_budget;
        !self.out_of_memory
    }

    /// Opens batches up to this one.
    fn open_batch(&mut self, batch: u64) {
        while self.batch_mut(batch).is_none() {
            let len = self
                .planner
                .batch_len(self.first_open + self.open.len() as u64);
            self.open
                .push_back(OpenBatch::new(usize::try_from(len).unwrap_or(usize::MAX)));
        }
    }

    fn admit(&mut self, context: &Context<'_>, visit: Visit) {
        let Visit {
            place,
            entries,
            keeps,
        } = visit;
        let shapes = Arc::new(VisitShapes::new());
        let first_id = context.stores[place.source as usize].first_id;
        for entry in &entries {
            self.open_batch(entry.batch);
            if let Some(batch) = self.batch_mut(entry.batch) {
                let shapes = context.options.ragged.then_some(&shapes);
                batch.plan(first_id + place.first_sample, entry, shapes);
            }
        }
        let (batches, of_entries) = Visit::batches(&entries);
        for &batch in &batches {
            if let Some(batch) = self.batch_mut(batch) {
                batch.pending += 1;
            }
        }
        let id = self.next_visit;
        self.next_visit += 1;
        if context.options.ragged {
            self.workers.send_shapes(ShapesTask { visit: id, place });
        }
        self.waiting.push_back(WaitingVisit {
            id,
            place,
            entries,
            keeps,
            batches,
            of_entries,
            shapes,
        });
    }

    /// Lays out batches and sends visits, in order, as far as what they need is known.
    fn send_ready(&mut self, context: &Context<'_>) -> Result<()> {
        if !context.options.ragged {
            // Fixed slots need no shapes: every open batch can be laid out at once.
            let end = self.first_open + self.open.len() as u64;
            self.lay_out(context, end)?;
        } else {
            let complete = self.planner.planned_batches();
            self.lay_out(context, complete)?;
        }
        while let Some(front) = self.waiting.front_mut() {
            let laid_out = self.laid_out;
            // What goes to later batches would wait for them forever, and batches before them for it.
            front.cut(self.end);
            if front.batches.is_empty() {
                self.waiting.pop_front();
                continue;
            }
            let ready = !context.options.ragged
                || front.shapes.get().is_some()
                    && front.batches.last().is_none_or(|&batch| batch < laid_out);
            if !ready {
                break;
            }
            if let Some(visit) = self.waiting.pop_front() {
                self.send(context, visit)?;
            }
        }
        Ok(())
    }

    fn lay_out(&mut self, context: &Context<'_>, end: u64) -> Result<()> {
        while self.laid_out < end {
            let number = self.laid_out;
            let Some(batch) = self.batch_mut(number) else {
                return Ok(());
            };
            if !batch.lay_out(context)? {
                return Ok(());
            }
            self.laid_out += 1;
        }
        Ok(())
    }

    fn send(&mut self, context: &Context<'_>, visit: WaitingVisit) -> Result<()> {
        let batches = visit.batches;
        let num_runs = visit.entries.len() + visit.keeps.len();
        let num_owners = batches.len() + visit.keeps.len();
        let mut claims = SlotClaims::with_capacity(num_owners, num_runs);
        let mut padded = Vec::with_capacity(batches.len());
        for &number in &batches {
            let batch = self.batch_mut(number).ok_or_else(plan_bug)?;
            claims.add_batch(batch.owner.as_ref().ok_or_else(plan_bug)?);
            padded.push(Arc::clone(&batch.padded));
        }
        let mut runs = Vec::with_capacity(num_runs);
        let mut keeps = visit.keeps.iter().peekable();
        for (entry, &ordinal) in visit.entries.iter().zip(&visit.of_entries) {
            while let Some(&(row, position)) = keeps.next_if(|&&(row, _)| row < entry.row) {
                self.keep(context, position, &mut claims)?;
                runs.push(RowRun { row, count: 1 });
            }
            let owner = self
                .batch_mut(entry.batch)
                .and_then(|batch| batch.owner.as_mut())
                .ok_or_else(plan_bug)?;
            owner
                .claim(entry.slot, entry.count, ordinal, &mut claims)
                .ok_or_else(plan_bug)?;
            runs.push(RowRun {
                row: entry.row,
                count: entry.count,
            });
        }
        for &(row, position) in keeps {
            self.keep(context, position, &mut claims)?;
            runs.push(RowRun { row, count: 1 });
        }
        padded.resize(num_owners, Padded::default());
        let shapes = if context.options.ragged {
            visit.shapes.get().cloned()
        } else {
            None
        };
        let start = Instant::now();
        self.workers.send_decode(DecodeTask {
            place: visit.place,
            shapes,
            runs,
            claims,
            padded,
            batches,
            cold: context.pool.is_cold(),
        });
        self.sending += start.elapsed();
        Ok(())
    }

    /// Sets memory aside for a sample whose batch is not open yet.
    fn keep(
        &mut self,
        context: &Context<'_>,
        position: u64,
        claims: &mut SlotClaims<PooledBuffer>,
    ) -> Result<()> {
        let mut arrays = Vec::new();
        for layout in context.layouts.iter() {
            layout.allocate(
                context.dataset,
                context.pool,
                1,
                std::iter::empty(),
                &mut arrays,
            )?;
        }
        let mut owner = SlotOwner::new(1, arrays).ok_or_else(plan_bug)?;
        let ordinal = u32::try_from(claims.add_batch(&owner)).unwrap_or(u32::MAX);
        owner.claim(0, 1, ordinal, claims).ok_or_else(plan_bug)?;
        self.kept.insert(position, owner);
        Ok(())
    }

    /// Sends kept samples to the batches whose turn has come: every visit before them is decoded, so that theirs is.
    fn send_recalls(&mut self, context: &Context<'_>) -> Result<()> {
        if self.kept.is_empty() {
            return Ok(());
        }
        let planned = self.planner.planned_batches();
        for at in 0..self.open.len() {
            let number = self.first_open + at as u64;
            let batch = &mut self.open[at];
            if number >= planned || batch.pending > 0 || batch.error.is_some() {
                break;
            }
            if batch.recalls.is_empty() {
                continue;
            }
            let recalls = std::mem::take(&mut batch.recalls);
            let owner = batch.owner.as_mut().ok_or_else(plan_bug)?;
            let mut claims = SlotClaims::with_capacity(1, recalls.len());
            let ordinal = u32::try_from(claims.add_batch(owner)).unwrap_or(u32::MAX);
            let mut sources = Vec::with_capacity(recalls.len());
            for recall in recalls {
                owner
                    .claim(recall.slot, 1, ordinal, &mut claims)
                    .ok_or_else(plan_bug)?;
                let kept = self.kept.remove(&recall.position);
                sources.push(
                    kept.and_then(SlotOwner::into_buffers)
                        .ok_or_else(plan_bug)?,
                );
            }
            batch.recalling = true;
            self.workers.send_recall(RecallTask {
                batch: number,
                sources,
                claims,
                cold: context.pool.is_cold(),
            });
        }
        Ok(())
    }

    fn take_report(&mut self, report: Report) {
        match report {
            Report::Shapes {
                visit,
                shapes: Ok(shapes),
            } => {
                if let Some(waiting) = self.waiting.iter().find(|waiting| waiting.id == visit) {
                    waiting.shapes.set(shapes).ok();
                }
            }
            Report::Shapes {
                visit,
                shapes: Err(error),
            } => {
                // The first batch that needs the chunk carries the error; nothing after it is delivered.
                let first = self
                    .waiting
                    .iter()
                    .find(|w| w.id == visit)
                    .and_then(|w| w.batches.first().copied());
                if let Some(number) = first {
                    self.end = self.end.min(number);
                    if let Some(batch) = self.batch_mut(number) {
                        batch.error.get_or_insert(error);
                    }
                }
            }
            Report::Recalled { batch, result } => {
                if let Some(batch) = self.batch_mut(batch) {
                    batch.recalling = false;
                    if let Err(error) = result {
                        batch.error.get_or_insert(error);
                    }
                }
            }
            Report::Decoded { batches, result } => {
                let mut error = result.err();
                for number in batches {
                    if let Some(batch) = self.batch_mut(number) {
                        batch.pending = batch.pending.saturating_sub(1);
                        if let Some(error) = error.take() {
                            batch.error.get_or_insert(error);
                        }
                    }
                }
            }
        }
    }

    fn deliver(&mut self, context: &Context<'_>, index: u64) -> Delivery {
        if self.first_open >= self.planner.num_batches() {
            return Delivery::End;
        }
        let complete = self.planner.planned_batches() > self.first_open;
        let Some(batch) = self.open.front_mut() else {
            return Delivery::NotYet;
        };
        if let Some(error) = batch.error.take() {
            return Delivery::Failed(error);
        }
        let recalls = !batch.recalls.is_empty() || batch.recalling;
        if !complete || batch.pending > 0 || recalls || batch.owner.is_none() {
            return Delivery::NotYet;
        }
        let num_padded = self.planner.share().num_padded(self.first_open);
        self.first_open += 1;
        match self
            .open
            .pop_front()
            .and_then(|batch| batch.finish(context, index))
        {
            Some(mut batch) => {
                batch.num_padded = usize::try_from(num_padded).unwrap_or(usize::MAX);
                Delivery::Batch(Box::new(batch))
            }
            None => Delivery::Failed(plan_bug()),
        }
    }
}

impl OpenBatch {
    fn new(len: usize) -> Self {
        Self {
            sample_ids: vec![0; len],
            sources: Vec::new(),
            visits: Vec::new(),
            pending: 0,
            recalls: Vec::new(),
            recalling: false,
            error: None,
            owner: None,
            ragged: Vec::new(),
            padded: Padded::default(),
        }
    }

    fn plan(&mut self, first_sample: u64, entry: &Entry, shapes: Option<&Arc<VisitShapes>>) {
        if let Some(shapes) = shapes {
            self.sources.resize(self.sample_ids.len(), (0, 0));
            // The entries of a visit come one after the other.
            if !self
                .visits
                .last()
                .is_some_and(|last| Arc::ptr_eq(last, shapes))
            {
                self.visits.push(Arc::clone(shapes));
            }
        }
        // At most one visit a sample, and samples of a batch are a u32.
        let visit = u32::try_from(self.visits.len().saturating_sub(1)).unwrap_or(u32::MAX);
        for (slot, row) in (entry.slot..).zip(entry.row..entry.row + entry.count) {
            self.sample_ids[slot as usize] = first_sample + u64::from(row);
            if let Some(source) = self.sources.get_mut(slot as usize) {
                *source = (visit, row);
            }
        }
    }

    /// Allocates the buffers. False if shapes are still missing.
    fn lay_out(&mut self, context: &Context<'_>) -> Result<bool> {
        let shapes: Option<Vec<&Arc<ChunkShapes>>> =
            self.visits.iter().map(|visit| visit.get()).collect();
        let Some(shapes) = shapes else {
            return Ok(false);
        };
        let mut arrays = Vec::new();
        let mut padded = Vec::with_capacity(context.layouts.len());
        for (field, layout) in context.layouts.iter().enumerate() {
            let extents = self.sources.iter().filter_map(|&(visit, row)| {
                let shapes = shapes.get(visit as usize)?.get(field)?.as_ref()?;
                Some(Extent {
                    shape: shapes.shape(row as usize),
                    own: shapes.dtype(row as usize),
                })
            });
            let parts = layout.allocate(
                context.dataset,
                context.pool,
                self.sample_ids.len(),
                extents,
                &mut arrays,
            )?;
            padded.push(
                parts
                    .as_ref()
                    .and_then(|parts| SlotShape::new(parts.padded()?)),
            );
            self.ragged.push(parts);
        }
        self.sources = Vec::new();
        self.visits = Vec::new();
        self.padded = Arc::new(padded);
        self.owner = Some(SlotOwner::new(self.sample_ids.len(), arrays).ok_or_else(plan_bug)?);
        Ok(true)
    }

    fn finish(self, context: &Context<'_>, index: u64) -> Option<Batch> {
        let mut buffers = self.owner?.into_buffers()?.into_iter();
        let mut fields = Vec::with_capacity(context.layouts.len());
        for (layout, ragged) in context.layouts.iter().zip(self.ragged) {
            fields.push(layout.finish(self.sample_ids.len(), ragged, &mut buffers)?);
        }
        Some(Batch {
            index,
            num_padded: 0,
            sample_ids: self.sample_ids,
            fields,
        })
    }
}

fn plan_bug() -> Error {
    Error::invalid("the plan contradicts itself: this is a bug, please report it")
}
