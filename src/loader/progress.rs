//! Where a loader's epoch stands, and the calls that read and set it.

use std::sync::{Arc, Mutex, PoisonError};

use crate::error::{Error, Result};

use super::order::Shuffle;
use super::state::{LoaderState, fingerprint, hex};
use super::{Loader, Source};

/// How far the loader's last iteration has come, shared with it.
#[derive(Debug, Default)]
pub(super) struct Progress(Arc<Mutex<Position>>);

#[derive(Clone, Copy, Debug, Default)]
struct Position {
    /// Samples that all ranks have delivered.
    consumed: u64,
    /// The next iteration starts there.
    resume: bool,
    /// The iteration that counts.
    iteration: u64,
}

/// Writes the progress of one iteration, as long as it is the last one.
#[derive(Debug)]
pub(super) struct Tracker {
    position: Arc<Mutex<Position>>,
    iteration: u64,
}

/// A copy of a loader goes on by itself.
impl Clone for Progress {
    fn clone(&self) -> Self {
        Self(Arc::new(Mutex::new(*lock(&self.0))))
    }
}

fn lock(position: &Mutex<Position>) -> std::sync::MutexGuard<'_, Position> {
    position.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Progress {
    /// The next iteration starts there.
    pub(super) fn start_at(&self, consumed: u64) {
        let mut position = lock(&self.0);
        position.consumed = consumed;
        position.resume = true;
        position.iteration += 1;
    }

    pub(super) fn consumed(&self) -> u64 {
        lock(&self.0).consumed
    }

    /// Where an iteration starts that begins now.
    pub(super) fn begin(&self) -> (u64, Tracker) {
        let mut position = lock(&self.0);
        if !std::mem::take(&mut position.resume) {
            position.consumed = 0;
        }
        position.iteration += 1;
        let tracker = Tracker {
            position: Arc::clone(&self.0),
            iteration: position.iteration,
        };
        (position.consumed, tracker)
    }
}

impl Tracker {
    pub(super) fn set(&self, consumed: u64) {
        let mut position = lock(&self.position);
        if position.iteration == self.iteration {
            position.consumed = consumed;
        }
    }
}

impl Loader {
    /// Where the epoch stands: what the last iteration has delivered, or where the next one is to start.
    ///
    /// ```no_run
    /// # fn main() -> tensorshard::Result<()> {
    /// use tensorshard::{Loader, LoaderState, Shuffle};
    /// let mut loader = Loader::builder().shuffle(Shuffle::windowed()).open("latents")?;
    /// for batch in loader.batches(64).take(10) {
    ///     batch?;
    /// }
    /// std::fs::write("loader.json", loader.state()?.to_json()).unwrap();
    ///
    /// // In another process, with any number of ranks, threads or bytes:
    /// let state = std::fs::read_to_string("loader.json").unwrap();
    /// loader.load_state(&LoaderState::from_json(&state)?)?;
    /// for batch in loader.batches(64) {
    ///     // Batch 10, 11, ...
    ///     # let _ = batch?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// `Corrupt` if the manifest is damaged.
    pub fn state(&self) -> Result<LoaderState> {
        let source = self.source();
        Ok(LoaderState {
            fingerprint: fingerprint(&self.dataset, source.num_shards)?,
            num_shards: source.num_shards,
            num_samples: self.num_samples(),
            seed: self.options.seed,
            epoch: self.options.epoch,
            consumed: self.progress.consumed().min(self.num_samples()),
            options: self.order_options(source),
        })
    }

    /// The next iteration goes on where the state was taken. If samples were appended to the dataset since, this epoch
    /// ends without them.
    ///
    /// # Errors
    /// `StateMismatch` if the state is of another dataset, or of other order options: it names what differs. Nothing has
    /// changed then.
    pub fn load_state(&mut self, state: &LoaderState) -> Result<()> {
        let available = self.dataset.num_shards();
        if state.num_shards > available {
            return Err(Error::state_mismatch(
                "the number of shards",
                state.num_shards,
                available,
            ));
        }
        let found = fingerprint(&self.dataset, state.num_shards)?;
        if found != state.fingerprint {
            return Err(Error::state_mismatch(
                "the dataset (fingerprint)",
                hex(state.fingerprint),
                hex(found),
            ));
        }
        let prefix = match state.num_shards == available {
            true => None,
            false => {
                let o = &self.options;
                Some(Source::new(&self.dataset, state.num_shards, &o.selection)?)
            }
        };
        let source = prefix.as_ref().unwrap_or(&self.source);
        state.check_options(self.options.seed, &self.order_options(source))?;
        let num_samples = source.geometry.len().saturating_mul(self.options.repeat);
        if num_samples != state.num_samples || state.consumed > num_samples {
            return Err(Error::state_mismatch(
                "the number of samples (consumed of all)",
                format!("{} of {}", state.consumed, state.num_samples),
                num_samples,
            ));
        }
        self.prefix = prefix;
        self.options.epoch = state.epoch;
        self.progress.start_at(state.consumed);
        Ok(())
    }

    /// The next iteration starts with batch `step` of the epoch. Costs the same for every step.
    ///
    /// # Errors
    /// `InvalidArgument` if the epoch has fewer batches.
    pub fn seek(&mut self, step: u64, batch_size: usize) -> Result<()> {
        self.check_batch_size(batch_size)?;
        let share = self.share(batch_size, 0);
        if step > share.num_batches() {
            return Err(Error::invalid(format!(
                "step {step} of an epoch of {} batches of {batch_size}",
                share.num_batches()
            )));
        }
        self.progress.start_at(share.consumed(step));
        Ok(())
    }

    /// The next iteration starts `batches` batches after those that were delivered last, as after a bad stretch of data.
    ///
    /// # Errors
    /// `InvalidArgument` if the epoch has fewer batches left.
    pub fn skip(&mut self, batches: u64, batch_size: usize) -> Result<()> {
        self.check_batch_size(batch_size)?;
        let share = self.share(batch_size, self.progress.consumed());
        if batches > share.num_batches() {
            return Err(Error::invalid(format!(
                "{batches} batches are skipped of {} that are left of the epoch",
                share.num_batches()
            )));
        }
        self.progress.start_at(share.consumed(batches));
        Ok(())
    }

    /// The ids of the samples of batch `step` of the epoch on this rank, without decoding anything. Costs the same for
    /// every step.
    ///
    /// # Errors
    /// `InvalidArgument` if the epoch has no such batch.
    pub fn ids_for(&self, step: u64, batch_size: usize) -> Result<Vec<u64>> {
        self.check_batch_size(batch_size)?;
        let share = self.share(batch_size, 0);
        if step >= share.num_batches() {
            return Err(Error::invalid(format!(
                "step {step} of an epoch of {} batches of {batch_size}",
                share.num_batches()
            )));
        }
        let mut epoch = self.epoch()?;
        let ids = share.slots(step).map(|position| Ok(epoch.at(position)?.1));
        ids.collect()
    }

    /// What the order depends on beside dataset, seed and epoch.
    fn order_options(&self, source: &Source) -> Vec<(String, String)> {
        let o = &self.options;
        let mut options = Vec::new();
        let mut add = |name: &str, value: String| options.push((name.to_owned(), value));
        match o.shuffle {
            Shuffle::None => add("shuffle", "none".to_owned()),
            Shuffle::Exact => add("shuffle", "exact".to_owned()),
            Shuffle::Windowed { window } => {
                add("shuffle", "windowed".to_owned());
                add("shuffle_window", window.to_string());
                add("lanes", o.lanes.to_string());
            }
        }
        add("selection", source.selection.clone());
        if o.repeat != 1 {
            add("repeat", o.repeat.to_string());
        }
        options.sort();
        options
    }
}
