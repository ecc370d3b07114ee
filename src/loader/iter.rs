//! [`Batches`]: waits for workers, delivers in order.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};

use crate::dataset::{Batch, Dataset, FieldLayout};
use crate::error::{Error, Result};
use crate::fault;
use crate::pool::{BufferPool, PoolStats};
use crate::sync::Mutex;

use super::damaged::{SkippedChunk, Skips};
use super::order::Shuffle;
use super::plan::Planner;
use super::prefetch::Workers;
use super::progress::Tracker;
use super::running::{Context, Delivery, Options, Running};
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
    state: Option<Running>,
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
        let workers = Workers::start(&self.stores, &self.skips, self.options.num_workers)?;
        self.state = Some(Running::new(planner, workers));
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

    /// The next batch, if it is there by `deadline`. A panic here, on the consumer's thread, is an error as one of a
    /// worker is.
    fn advance(&mut self, deadline: Option<Instant>) -> Poll<Option<Result<Batch>>> {
        catch_unwind(AssertUnwindSafe(|| self.step(deadline))).unwrap_or_else(|payload| {
            self.end();
            Poll::Ready(Some(Err(Error::panicked("deliver", payload.as_ref()))))
        })
    }

    fn step(&mut self, deadline: Option<Instant>) -> Poll<Option<Result<Batch>>> {
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
            let index = self.first_index + self.delivered;
            let planned = fault::at(self.dataset.path(), "plan", index)
                .and_then(|()| state.plan_ahead(&context));
            let planned = match planned.and_then(|planned| {
                state.send_recalls(&context)?;
                Ok(planned)
            }) {
                Ok(planned) => planned,
                Err(error) => break Some(Err(error)),
            };
            match state.deliver(&context, index) {
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
