//! What an epoch does with damaged chunks: ends with an error, or leaves them out and says which.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use crate::dataset::{Dataset, FieldLayout};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::shard::{Scratch, Shapes};
use crate::sync::{AtomicBool, Mutex};

use super::Store;
use super::order::geometry::ChunkPlace;

/// What happens to chunks whose checksums do not hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Damaged {
    /// The epoch ends with the error. The default.
    #[default]
    Error,
    /// Their samples are left out, and listed in [`crate::Batches::skipped`]: batches are shorter by them, and one of
    /// which nothing is left is not delivered (or delivered empty, where ranks share the epoch). Which chunks are skipped depends on the files alone, so that an epoch is
    /// the same whatever the number of workers. Every chunk is checked as a whole before it is decoded.
    ///
    /// It is for damage: a shard that is missing, or that cannot be read, stays an error, and so does a chunk that
    /// cannot be decoded although its checksums hold.
    Skip,
}

/// A chunk that was left out.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SkippedChunk {
    /// The shard.
    pub path: Option<PathBuf>,
    /// Ordinal of the chunk in its shard.
    pub chunk: u64,
    /// Index of its first sample in the dataset; in a mixture, in that of the shard.
    pub first_sample: u64,
    /// Samples that were left out.
    pub num_samples: u64,
    /// What is wrong with it.
    pub message: String,
}

/// The chunks of one iteration that were checked. Shared by its workers.
#[derive(Debug, Default)]
pub(super) struct Skips {
    policy: Damaged,
    /// Something was skipped.
    any: AtomicBool,
    checked: Mutex<Checked>,
}

#[derive(Debug, Default)]
struct Checked {
    /// Ids of the first samples of chunks that are intact.
    intact: HashSet<u64>,
    /// By the id of the first sample.
    skipped: BTreeMap<u64, SkippedChunk>,
}

impl Skips {
    pub(super) fn new(policy: Damaged) -> Self {
        Self {
            policy,
            ..Self::default()
        }
    }

    /// True if epochs may have fewer batches than planned.
    pub(super) fn may_skip(&self) -> bool {
        self.policy == Damaged::Skip
    }

    /// True if the chunk is damaged and to be left out.
    ///
    /// # Errors
    /// What is no damage: `Io`, `Unsupported`.
    pub(super) fn skips(
        &self,
        place: ChunkPlace,
        store: &Store,
        scratch: &mut Scratch,
    ) -> Result<bool> {
        if self.policy == Damaged::Error {
            return Ok(false);
        }
        let Store {
            dataset, layouts, ..
        } = store;
        let first_id = store.first_id + place.first_sample;
        {
            let checked = self.checked.lock().unwrap_or_else(PoisonError::into_inner);
            if checked.intact.contains(&first_id) {
                return Ok(false);
            }
            if checked.skipped.contains_key(&first_id) {
                return Ok(true);
            }
        }
        let result = dataset.shard(place.shard).and_then(|shard| {
            let chunk = shard.chunk(place.chunk, &mut scratch.io)?;
            let mut fields = layouts.iter().map(|layout| layout.ordinal);
            fields.try_for_each(|field| shard.check_stored(&chunk, field, &mut scratch.io))
        });
        let mut checked = self.checked.lock().unwrap_or_else(PoisonError::into_inner);
        match result {
            Ok(()) => {
                checked.intact.insert(first_id);
                Ok(false)
            }
            Err(error) if error.is_corrupt() => {
                let skipped = SkippedChunk {
                    path: error.path().map(Into::into),
                    chunk: place.chunk,
                    first_sample: place.first_sample,
                    num_samples: u64::from(place.num_samples),
                    message: error.to_string(),
                };
                checked.skipped.insert(first_id, skipped);
                self.any.store(true, Ordering::Release);
                Ok(true)
            }
            Err(error) => Err(error),
        }
    }

    /// Which of these samples are delivered; `None` if all are.
    pub(super) fn kept(&self, sample_ids: &[u64]) -> Option<Vec<bool>> {
        if !self.any.load(Ordering::Acquire) {
            return None;
        }
        let checked = self.checked.lock().unwrap_or_else(PoisonError::into_inner);
        let kept: Vec<bool> = sample_ids
            .iter()
            .map(|&id| {
                let before = checked.skipped.range(..=id).next_back();
                before.is_none_or(|(first, chunk)| id - first >= chunk.num_samples)
            })
            .collect();
        kept.contains(&false).then_some(kept)
    }

    /// What was left out so far, by sample.
    pub(super) fn list(&self) -> Vec<SkippedChunk> {
        let checked = self.checked.lock().unwrap_or_else(PoisonError::into_inner);
        checked.skipped.values().cloned().collect()
    }
}

/// Shapes of samples that are left out: they take no room in a batch.
pub(super) fn no_shapes(
    place: ChunkPlace,
    dataset: &Dataset,
    layout: &FieldLayout,
) -> Result<Shapes> {
    let field = dataset
        .schema()
        .fields()
        .get(layout.ordinal)
        .ok_or_else(|| Error::invalid("a field that is not there: this is a bug"))?;
    let shape: Vec<usize> = match field.dims() {
        Some(dims) => dims.iter().map(|dim| dim.unwrap_or(0)).collect(),
        None => vec![0],
    };
    let own = field.dtype().is_none().then_some(DType::U8);
    let mut shapes = Shapes::default();
    for _ in 0..place.num_samples {
        shapes.push(&shape, own)?;
    }
    Ok(shapes)
}
