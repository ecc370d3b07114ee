//! Where a loader's epoch stands, and the calls that read and set it.

use std::sync::{Arc, PoisonError};

use crate::error::{Error, Result};
use crate::sync::{Mutex, MutexGuard};

use super::order::Shuffle;
use super::state::{LoaderState, fingerprint, hash_bytes, hex};
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

fn lock(position: &Mutex<Position>) -> MutexGuard<'_, Position> {
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
        let sources = self.sources();
        let counts: Vec<u64> = sources.iter().map(|source| source.num_shards).collect();
        Ok(LoaderState {
            fingerprint: self.fingerprint(&counts)?,
            num_shards: counts.iter().sum(),
            num_samples: self.num_samples(),
            seed: self.options.seed,
            epoch: self.options.epoch,
            consumed: self.progress.consumed().min(self.num_samples()),
            options: self.order_options(sources),
        })
    }

    /// Of the first shards of each dataset.
    fn fingerprint(&self, counts: &[u64]) -> Result<u64> {
        let mut digest = 0;
        for (store, &num_shards) in self.stores.iter().zip(counts) {
            digest = fingerprint(digest, &store.dataset, num_shards)?;
        }
        Ok(digest)
    }

    /// The next iteration goes on where the state was taken. If samples were appended to the dataset since, this epoch
    /// ends without them.
    ///
    /// # Errors
    /// `StateMismatch` if the state is of another dataset, or of other order options: it names what differs. Nothing has
    /// changed then.
    pub fn load_state(&mut self, state: &LoaderState) -> Result<()> {
        let available: Vec<u64> = self
            .stores
            .iter()
            .map(|store| store.dataset.num_shards())
            .collect();
        // Shards of each dataset that the epoch began with.
        let counts: Vec<u64> = match state.option("shards") {
            None => vec![state.num_shards],
            Some(words) => words.split(' ').filter_map(|n| n.parse().ok()).collect(),
        };
        if counts.len() != available.len() {
            return Err(Error::state_mismatch(
                "the number of datasets",
                counts.len(),
                available.len(),
            ));
        }
        for (&count, &available) in counts.iter().zip(&available) {
            if count > available {
                return Err(Error::state_mismatch(
                    "the number of shards",
                    count,
                    available,
                ));
            }
        }
        let found = self.fingerprint(&counts)?;
        if found != state.fingerprint {
            return Err(Error::state_mismatch(
                "the dataset (fingerprint)",
                hex(state.fingerprint),
                hex(found),
            ));
        }
        let prefix = if counts == available {
            None
        } else {
            if self.draws.is_some() {
                return Err(Error::state_mismatch(
                    "the number of shards, where samples are drawn by weight,",
                    counts[0],
                    available[0],
                ));
            }
            let parts = self.stores.iter().zip(&self.selections).zip(&counts);
            let sources = parts
                .map(|((store, selection), &n)| Source::new(store, n, selection))
                .collect::<Result<Vec<Source>>>();
            Some(sources?)
        };
        let sources = prefix.as_deref().unwrap_or(&self.sources);
        state.check_options(self.options.seed, &self.order_options(sources))?;
        let num_samples = self.epoch_len(sources);
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

    /// The ids of the samples of batch `step` of the epoch on this rank (of windows: those that they are of), without decoding anything. Costs the same for
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
        let ids = share.slots(step).map(|position| {
            let (source, sample) = epoch.at(position)?;
            let store = &self.stores[source as usize];
            let parts = &self.sources()[source as usize].parts;
            Ok(store.first_id + parts.sample_of(sample))
        });
        ids.collect()
    }

    /// What the order depends on beside dataset, seed and epoch.
    fn order_options(&self, sources: &[Source]) -> Vec<(String, String)> {
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
        if let [source] = sources {
            add("selection", source.selection.clone());
        } else {
            let digest = sources.iter().fold(0, |digest, source| {
                hash_bytes(digest, source.selection.as_bytes())
            });
            add(
                "selection",
                format!("{} parts {}", sources.len(), hex(digest)),
            );
            add("mixture", self.turns.word());
            add("until", format!("{:?}", self.end));
            let shards = sources.iter().map(|source| source.num_shards.to_string());
            add("shards", shards.collect::<Vec<_>>().join(" "));
        }
        if let Some(draws) = &self.draws {
            add("weights", draws.word.clone());
        }
        if let [first, rest @ ..] = sources
            && let Some((name, word)) = &first.option
        {
            let words = rest.iter().filter_map(|source| source.option.as_ref());
            let digest = |digest, (_, word): &(_, String)| hash_bytes(digest, word.as_bytes());
            match rest {
                [] => add(name, word.clone()),
                _ => add(name, format!("{word}, and {}", hex(words.fold(0, digest)))),
            }
        }
        if let Some(buckets) = &self.buckets {
            add("bucket_by_length", buckets.spec.field.clone());
            add("pool_batches", buckets.spec.pool_batches.to_string());
            add("global_batch_size", buckets.global_batch.to_string());
        }
        if o.repeat != 1 {
            add("repeat", o.repeat.to_string());
        }
        options.sort();
        options
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_where_the_other_was_and_goes_on_by_itself() {
        let progress = Progress::default();
        progress.start_at(7);
        let copy = progress.clone();
        assert_eq!(copy.consumed(), 7);
        assert_eq!(copy.begin().0, 7);
        copy.start_at(9);
        assert_eq!((progress.consumed(), copy.consumed()), (7, 9));
    }
}
