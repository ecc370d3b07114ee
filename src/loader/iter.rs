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
use super::next_epoch::{Begun, Handover, NextEpoch};
use super::progress::Tracker;
use super::running::{Context, Delivery, Need, Options, Running};
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
    epoch: u64,
    num_batches: u64,
    /// Batches of the plan that were delivered or left out.
    delivered: u64,
    /// The batch of the epoch that this iteration starts with.
    first_index: u64,
    progress: Option<Tracker>,
    /// Other ranks deliver parts of the same batches.
    shared: bool,
    /// Begins when this one drains.
    next_epoch: Option<NextEpoch>,
    handover: Handover,
    pool: BufferPool,
    /// The pool's counters when the iteration began.
    pool_before: PoolStats,
    stats: LoaderStats,
    /// When the first batch was asked for.
    started: Option<Instant>,
    /// Where the loader adds up its iterations.
    all_stats: Arc<Mutex<LoaderStats>>,
}

/// A batch that has left the plan: with it, so many have.
pub(super) type Taken = (Batch, u64);

impl Batches {
    pub(super) fn new(loader: &Loader, batch_size: usize) -> Self {
        let mut out = Self {
            dataset: loader.dataset().clone(),
            layouts: Arc::clone(&loader.stores[0].layouts),
            stores: Arc::clone(&loader.stores),
            options: Options::default(),
            skips: Arc::new(Skips::new(loader.options.damaged)),
            state: None,
            failed: None,
            epoch: loader.options.epoch,
            num_batches: 0,
            delivered: 0,
            first_index: 0,
            progress: None,
            shared: loader.distribution.world_size() > 1,
            next_epoch: None,
            handover: loader.handover.share(),
            pool: loader.pool.clone(),
            pool_before: loader.pool.stats(),
            stats: LoaderStats::default(),
            started: None,
            all_stats: Arc::clone(&loader.stats),
        };
        if let Err(error) = out.begin(loader, batch_size) {
            out.failed = Some(error);
        }
        out
    }

    fn begin(&mut self, loader: &Loader, batch_size: usize) -> Result<()> {
        loader.check_batch_size(batch_size)?;
        loader.check_budget(batch_size, loader.round_samples(batch_size))?;
        let (start, progress) = loader.progress.begin();
        self.progress = Some(progress);
        let begun = loader.handover.take(self.epoch, batch_size);
        let begun = match begun.filter(|_| start == 0 && loader.prefix.is_none()) {
            Some(begun) => *begun,
            None => Begun::new(loader, batch_size, start)?,
        };
        let share = begun.running.share();
        self.first_index = start / share.global_batch;
        self.num_batches = share.num_batches();
        self.options = begun.options;
        self.skips = begun.skips;
        self.state = Some(begun.running);
        self.next_epoch = NextEpoch::new(loader, batch_size);
        Ok(())
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

    /// Ends the threads, and hands the loader what happened and what has begun of the next epoch.
    pub(super) fn end(&mut self) {
        let Some(state) = self.state.take() else {
            return;
        };
        state.add_counters(&mut self.stats);
        drop(state);
        self.stats.elapsed = self
            .started
            .map(|start| start.elapsed())
            .unwrap_or_default();
        let stats = self.stats();
        *self
            .all_stats
            .lock()
            .unwrap_or_else(PoisonError::into_inner) += stats;
        let next_epoch = self.next_epoch.take();
        if self.delivered == self.num_batches {
            let begun = next_epoch.and_then(NextEpoch::into_begun);
            self.handover.leave(self.epoch, begun);
        }
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
        let result = match self.step(deadline, Need::Next) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(result) => result,
        };
        Poll::Ready(match result {
            Some(Ok((batch, taken))) => {
                self.note_delivered(taken, batch.len(), batch.num_bytes());
                Some(Ok(batch))
            }
            Some(Err(error)) => {
                self.end();
                Some(Err(error))
            }
            None => {
                self.finish();
                None
            }
        })
    }

    /// The batch has reached the consumer: with it, so many have left the plan.
    pub(super) fn note_delivered(&mut self, taken: u64, samples: usize, bytes: usize) {
        if self.stats.batches == 0 {
            self.stats.first_batch_wait = self.started.map(|s| s.elapsed()).unwrap_or_default();
        }
        self.set_delivered(taken);
        self.stats.batches += 1;
        self.stats.samples += samples as u64;
        self.stats.bytes += bytes as u64;
    }

    fn set_delivered(&mut self, taken: u64) {
        self.delivered = taken;
        if let (Some(progress), Some(state)) = (&self.progress, &self.state) {
            progress.set(state.share().consumed(taken));
        }
    }

    /// The epoch is over: those of its last batches that were left out count as delivered.
    pub(super) fn finish(&mut self) {
        self.set_delivered(self.num_batches);
        self.end();
    }

    pub(super) fn running(&self) -> Option<&Running> {
        self.state.as_ref()
    }

    /// Waits for a report of the workers. False if none came by the deadline.
    pub(super) fn wait(&mut self, deadline: Option<Instant>) -> Result<bool> {
        let Some(state) = self.state.as_mut() else {
            return Ok(false);
        };
        let start = Instant::now();
        let report = state.wait(deadline);
        let wait = start.elapsed();
        self.stats.consumer_wait += wait;
        if state.out_of_memory {
            self.stats.budget_wait += wait;
        }
        let report = report?;
        let came = report.is_some();
        if let Some(report) = report {
            state.take_report(report);
        }
        Ok(came)
    }

    /// The next batch that the plan completes, if it does by `deadline`. It does not count as delivered yet, and the
    /// threads go on after the end. A panic here, on the consumer's thread, is an error as one of a worker is.
    pub(super) fn step(
        &mut self,
        deadline: Option<Instant>,
        need: Need,
    ) -> Poll<Option<Result<Taken>>> {
        catch_unwind(AssertUnwindSafe(|| self.try_step(deadline, need))).unwrap_or_else(|payload| {
            Poll::Ready(Some(Err(Error::panicked("deliver", payload.as_ref()))))
        })
    }

    fn try_step(&mut self, deadline: Option<Instant>, need: Need) -> Poll<Option<Result<Taken>>> {
        if let Some(error) = self.failed.take() {
            return Poll::Ready(Some(Err(error)));
        }
        self.started.get_or_insert_with(Instant::now);
        loop {
            let Some(state) = self.state.as_mut() else {
                return Poll::Ready(None);
            };
            let context = Context {
                dataset: &self.dataset,
                layouts: &self.layouts,
                stores: &self.stores,
                options: &self.options,
                pool: &self.pool,
                epoch: self.epoch,
                first_index: self.first_index,
                need,
            };
            while let Some(report) = state.poll() {
                state.take_report(report);
            }
            let index = self.first_index + state.taken();
            let planned = fault::at(self.dataset.path(), "plan", index)
                .and_then(|()| state.plan_ahead(&context));
            let planned = match planned.and_then(|planned| {
                state.send_recalls(&context)?;
                Ok(planned)
            }) {
                Ok(planned) => planned,
                Err(error) => return Poll::Ready(Some(Err(error))),
            };
            match state.deliver(&context) {
                Delivery::Batch(mut batch) => {
                    if let Some(kept) = self.skips.kept(&batch.sample_ids) {
                        if let Err(error) = batch.retain(&kept, &self.layouts, &self.pool) {
                            return Poll::Ready(Some(Err(error)));
                        }
                        // Ranks have as many steps as each other, whatever they leave out.
                        if batch.is_empty() && !self.shared {
                            continue;
                        }
                    }
                    let taken = state.taken();
                    self.advance_next_epoch();
                    return Poll::Ready(Some(Ok((*batch, taken))));
                }
                Delivery::Failed(error) => return Poll::Ready(Some(Err(error))),
                Delivery::End => return Poll::Ready(None),
                Delivery::NotYet if planned => continue,
                Delivery::NotYet => {}
            }
            match self.wait(deadline) {
                Ok(true) => {}
                Ok(false) => return Poll::Pending,
                Err(error) => return Poll::Ready(Some(Err(error))),
            }
        }
    }

    /// Lets the next epoch begin in the room that this one leaves.
    fn advance_next_epoch(&mut self) {
        let (Some(next_epoch), Some(state)) = (&mut self.next_epoch, &self.state) else {
            return;
        };
        if !state.is_planned() {
            return;
        }
        let open = state.num_open();
        let bytes = self.pool.stats().in_use / (open + 1);
        let bytes = self.options.batch_bytes.max(bytes);
        next_epoch.advance(self.options.ahead.saturating_sub(open), bytes);
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
