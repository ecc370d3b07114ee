//! [`MapOrdered`]: a function of batches that runs on worker threads, its results in the order of the batches.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};

use crate::dataset::Batch;
use crate::error::{Error, Result, panic_message};
use crate::sync::{Mutex, MutexGuard};

use super::Batches;
use super::damaged::SkippedChunk;
use super::iter::Taken;
use super::running::Need;
use super::stats::LoaderStats;

type Source = Box<dyn std::error::Error + Send + Sync>;
type Function<T> = Arc<dyn Fn(Batch) -> Result<T, Source> + Send + Sync>;

/// What a function makes of the batches of an epoch, in their order. See [`Batches::map_ordered`].
pub struct MapOrdered<T> {
    batches: Batches,
    function: Function<T>,
    /// Calls that are under way, in the order of their batches.
    pending: VecDeque<Pending<T>>,
    /// Batches that are handed to workers at a time.
    most: usize,
    /// Nothing comes after what is pending.
    ended: bool,
}

/// A call whose result is to be delivered.
struct Pending<T> {
    taken: u64,
    samples: usize,
    bytes: usize,
    result: Arc<Mutex<Option<Result<T>>>>,
}

impl<T> std::fmt::Debug for MapOrdered<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MapOrdered")
            .field("batches", &self.batches)
            .field("pending", &self.pending.len())
            .finish_non_exhaustive()
    }
}

impl Batches {
    /// Runs a function once on every batch, on the threads that decode, and delivers what it returns in the order of
    /// the batches. It may change values in place ([`crate::FieldBatch::as_mut_slice`]) or make something else of them.
    ///
    /// Calls of several batches run at the same time, and in no particular order, so that the function has no state. For
    /// the same result on every run, whatever the number of workers and wherever an epoch is resumed, randomness has to
    /// come from what the batch says of itself: its [`Batch::epoch`], its [`Batch::index`], or, so that it does not even
    /// depend on the size of batches, each sample's id.
    ///
    /// ```no_run
    /// # fn main() -> tensorshard::Result<()> {
    /// # fn random(epoch: u64, sample: u64) -> f32 { (epoch ^ sample) as f32 }
    /// # let loader = tensorshard::Loader::open("latents")?;
    /// let noisy = loader.batches(64).map_ordered(|mut batch| {
    ///     let (epoch, ids) = (batch.epoch(), batch.sample_ids().to_vec());
    ///     let values = batch.field_mut("latent")?.as_mut_slice::<f32>()?;
    ///     let sample = values.len() / ids.len().max(1);
    ///     for (values, id) in values.chunks_mut(sample.max(1)).zip(ids) {
    ///         values.iter_mut().for_each(|x| *x += random(epoch, id));
    ///     }
    ///     Ok(batch)
    /// });
    /// for batch in noisy {
    ///     // Train.
    ///     # let _ = batch?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// A loader's state counts the results that were delivered. What is pending counts as open batches in the memory
    /// budget, as far as the results keep the batches' values. Dropping the iterator waits for the calls that run.
    ///
    /// An error or panic of the function is delivered in place of its batch, as [`crate::ErrorKind::MapFailed`], after
    /// the results before it, and ends the iteration.
    pub fn map_ordered<T, F>(self, function: F) -> MapOrdered<T>
    where
        T: Send + 'static,
        F: Fn(Batch) -> Result<T, Box<dyn std::error::Error + Send + Sync>> + Send + Sync + 'static,
    {
        let workers = self.running().map_or(1, |running| running.num_workers());
        MapOrdered {
            batches: self,
            function: Arc::new(function),
            pending: VecDeque::new(),
            // One waits for the first worker that is done.
            most: usize::try_from(workers)
                .unwrap_or(usize::MAX)
                .saturating_add(1),
            ended: false,
        }
    }
}

impl<T: Send + 'static> MapOrdered<T> {
    /// What happened so far; see [`LoaderStats::worker_mapping`].
    pub fn stats(&self) -> LoaderStats {
        self.batches.stats()
    }

    /// As [`Batches::skipped`].
    pub fn skipped(&self) -> Vec<SkippedChunk> {
        self.batches.skipped()
    }

    /// As [`Batches::next_timeout`].
    ///
    /// # Errors
    /// As those of the iterator.
    pub fn next_timeout(&mut self, timeout: Duration) -> Poll<Option<Result<T>>> {
        self.advance(Instant::now().checked_add(timeout))
    }

    fn advance(&mut self, deadline: Option<Instant>) -> Poll<Option<Result<T>>> {
        loop {
            if self.hand_out(deadline).is_pending() {
                return Poll::Pending;
            }
            let Some(front) = self.pending.front() else {
                self.batches.finish();
                return Poll::Ready(None);
            };
            let (taken, samples, bytes) = (front.taken, front.samples, front.bytes);
            // In a statement of its own, so that the lock is free again.
            let result = lock(&front.result).take();
            match result {
                Some(Ok(value)) => {
                    self.pending.pop_front();
                    self.batches.note_delivered(taken, samples, bytes);
                    return Poll::Ready(Some(Ok(value)));
                }
                Some(Err(error)) => return self.fail(error),
                None => {}
            }
            match self.batches.wait(deadline) {
                Ok(true) => {}
                Ok(false) => return Poll::Pending,
                Err(error) => return self.fail(error),
            }
        }
    }

    fn fail(&mut self, error: Error) -> Poll<Option<Result<T>>> {
        self.ended = true;
        self.pending.clear();
        self.batches.end();
        Poll::Ready(Some(Err(error)))
    }

    /// Hands batches to workers. Pending if there is nothing to wait for but batches, and none came.
    fn hand_out(&mut self, deadline: Option<Instant>) -> Poll<()> {
        while !self.ended && self.pending.len() < self.most {
            let step = if self.pending.is_empty() {
                self.batches.step(deadline, Need::Next)
            } else {
                self.batches.step(Some(Instant::now()), Need::Later)
            };
            match step {
                Poll::Pending if self.pending.is_empty() => return Poll::Pending,
                Poll::Pending => break,
                Poll::Ready(Some(Ok(taken))) => self.call(taken),
                Poll::Ready(Some(Err(error))) => {
                    // Its turn comes after those before it.
                    self.ended = true;
                    self.pending.push_back(Pending {
                        taken: 0,
                        samples: 0,
                        bytes: 0,
                        result: Arc::new(Mutex::new(Some(Err(error)))),
                    });
                }
                Poll::Ready(None) => self.ended = true,
            }
        }
        Poll::Ready(())
    }

    fn call(&mut self, (batch, taken): Taken) {
        let result = Arc::new(Mutex::new(None));
        self.pending.push_back(Pending {
            taken,
            samples: batch.len(),
            bytes: batch.num_bytes(),
            result: Arc::clone(&result),
        });
        let function = Arc::clone(&self.function);
        let call = move || {
            let (epoch, step) = (batch.epoch(), batch.index());
            let value =
                catch_unwind(AssertUnwindSafe(|| function(batch))).unwrap_or_else(|payload| {
                    Err(format!("it panicked: {}", panic_message(payload.as_ref())).into())
                });
            let value = value.map_err(|source| Error::map_failed(epoch, step, source));
            *lock(&result) = Some(value);
        };
        if let Some(running) = self.batches.running() {
            running.send_call(Box::new(call));
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<T: Send + 'static> Iterator for MapOrdered<T> {
    type Item = Result<T>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            // Without a deadline it is always ready.
            if let Poll::Ready(result) = self.advance(None) {
                return result;
            }
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let (_, left) = self.batches.size_hint();
        // Any call may fail.
        (usize::from(!self.pending.is_empty()), left)
    }
}

impl<T: Send + 'static> std::iter::FusedIterator for MapOrdered<T> {}
