//! The first batches of the next epoch, decoded while the one before drains.

use std::sync::{Arc, PoisonError};

use crate::error::Result;
use crate::sync::{Mutex, MutexGuard};

use super::Loader;
use super::damaged::Skips;
use super::order::Shuffle;
use super::plan::Planner;
use super::prefetch::Workers;
use super::running::{Context, Need, Options, Running};

/// What the iterations of a loader leave for the next one.
#[derive(Debug, Default)]
pub(super) struct Handover(Arc<Mutex<Left>>);

#[derive(Debug, Default)]
struct Left {
    /// The epoch that was delivered to its end last.
    ended: Option<u64>,
    begun: Option<Box<Begun>>,
}

/// An epoch whose batches are planned and decoded, as far as that has come.
#[derive(Debug)]
pub(super) struct Begun {
    pub(super) epoch: u64,
    batch_size: usize,
    pub(super) running: Running,
    pub(super) options: Options,
    pub(super) skips: Arc<Skips>,
}

/// A copy of a loader goes on by itself.
impl Clone for Handover {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl Handover {
    /// The same, for an iteration of the loader.
    pub(super) fn share(&self) -> Self {
        Self(Arc::clone(&self.0))
    }

    fn lock(&self) -> MutexGuard<'_, Left> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was begun of this epoch, if it was; of another one, it ends here.
    pub(super) fn take(&self, epoch: u64, batch_size: usize) -> Option<Box<Begun>> {
        // Threads end after the lock is free again.
        let begun = self.lock().begun.take();
        begun.filter(|begun| begun.epoch == epoch && begun.batch_size == batch_size)
    }

    /// Ends what was begun.
    pub(super) fn clear(&self) {
        let begun = self.lock().begun.take();
        drop(begun);
    }

    /// An epoch was delivered to its end.
    pub(super) fn leave(&self, ended: u64, begun: Option<Box<Begun>>) {
        let mut left = self.lock();
        left.ended = Some(ended);
        let before = std::mem::replace(&mut left.begun, begun);
        drop(left);
        drop(before);
    }

    fn ended(&self) -> Option<u64> {
        self.lock().ended
    }
}

impl Begun {
    /// Plans the loader's epoch from a position on. Nothing is decoded yet.
    pub(super) fn new(loader: &Loader, batch_size: usize, start: u64) -> Result<Self> {
        let round_samples = loader.round_samples(batch_size);
        let sample_bytes = loader.sample_bytes().unwrap_or(0);
        // A part of the window is replaced at a time; other rounds are planned as a whole.
        let round = match loader.options.shuffle {
            Shuffle::Windowed { .. } if loader.buckets.is_none() => round_samples / 8,
            _ => round_samples,
        };
        let round = round.div_ceil(batch_size as u64);
        let keeper = loader.keeper(batch_size, round_samples);
        let options = Options {
            ahead: (loader.options.prefetch as u64).max(round),
            batch_budget: loader.batch_budget(),
            batch_bytes: sample_bytes.saturating_mul(batch_size as u64),
            round_batches: loader.round_batches(),
            decoded_per_sample: keeper.as_ref().map_or(1, |keeper| keeper.group()),
            ragged: loader.stores[0].layouts.iter().any(|l| l.is_ragged()),
            sources: loader.part_sources()?,
        };
        let share = loader.share(batch_size, start);
        let planner = Planner::new(loader.epoch()?, share, round_samples, keeper)?;
        let skips = Arc::new(Skips::new(loader.options.damaged));
        let workers = Workers::start(&loader.stores, &skips, loader.options.num_workers)?;
        Ok(Self {
            epoch: loader.options.epoch,
            batch_size,
            running: Running::new(planner, workers),
            options,
            skips,
        })
    }
}

/// The epoch after one that is iterated.
#[derive(Debug)]
pub(super) struct NextEpoch {
    loader: Box<Loader>,
    batch_size: usize,
    begun: Option<Box<Begun>>,
}

impl NextEpoch {
    /// `None` if nobody is expected to ask for it.
    pub(super) fn new(loader: &Loader, batch_size: usize) -> Option<Self> {
        let epoch = loader.options.epoch.checked_add(1)?;
        let expected = match loader.options.epochs {
            Some(epochs) => epoch < epochs,
            // One epoch follows the other.
            None => loader
                .handover
                .ended()
                .is_some_and(|ended| ended.checked_add(2) == Some(epoch)),
        };
        if !expected {
            return None;
        }
        let mut loader = Box::new(loader.clone());
        loader.set_epoch(epoch);
        Some(Self {
            loader,
            batch_size,
            begun: None,
        })
    }

    /// Plans and sends out what has room beside the epoch that drains, of which this many bytes make a batch. An error
    /// is left to whoever asks for the epoch: it is planned anew then.
    pub(super) fn advance(&mut self, room: u64, batch_bytes: u64) {
        if room == 0 {
            return;
        }
        if self.begun.is_none() {
            self.begun = Begun::new(&self.loader, self.batch_size, 0)
                .ok()
                .map(Box::new);
        }
        let Some(begun) = self.begun.as_mut() else {
            return;
        };
        while let Some(report) = begun.running.poll() {
            begun.running.take_report(report);
        }
        let own = begun.options.batch_bytes;
        // Of ragged fields, nothing of this epoch has been measured yet.
        begun.options.batch_bytes = own.max(batch_bytes);
        let context = Context {
            dataset: self.loader.dataset(),
            layouts: &self.loader.stores[0].layouts,
            stores: &self.loader.stores,
            options: &begun.options,
            pool: &self.loader.pool,
            epoch: begun.epoch,
            first_index: 0,
            need: Need::Epoch(room),
        };
        let planned = begun.running.plan_ahead(&context);
        let sent = planned.and_then(|_| begun.running.send_recalls(&context));
        begun.options.batch_bytes = own;
        if sent.is_err() {
            self.begun = None;
        }
    }

    pub(super) fn into_begun(self) -> Option<Box<Begun>> {
        self.begun
    }
}
