//! Bucketing by length: what is asked for, and the lengths of samples.

use std::sync::Arc;

use crate::dataset::{Dataset, LengthReader};
use crate::error::{Error, Result};

use super::order::geometry::Geometry;
use super::order::pools::{Lengths, Pools};
use super::{LoaderBuilder, Source, Store};

/// What was asked for.
#[derive(Clone, Debug)]
pub(super) struct BucketSpec {
    pub(super) field: String,
    pub(super) pool_batches: u64,
}

/// Batches of like lengths.
#[derive(Clone, Debug)]
pub(super) struct Buckets {
    pub(super) spec: BucketSpec,
    /// Samples of a batch of all ranks.
    pub(super) global_batch: u64,
    lengths: Lengths,
    /// The greatest length.
    longest: u32,
}

impl Buckets {
    /// Reads the lengths of all selected samples; `None` if they do not matter.
    pub(super) fn new(
        options: &LoaderBuilder,
        stores: &[Store],
        sources: &[Source],
    ) -> Result<Option<Self>> {
        let Some(spec) = &options.buckets else {
            return Ok(None);
        };
        if spec.pool_batches == 0 {
            return Err(Error::invalid(
                "a pool of bucket_by_length has at least 1 batch",
            ));
        }
        let global_batch = options.global_batch_size.filter(|&samples| samples > 0);
        let global_batch = global_batch.ok_or_else(|| {
            Error::invalid(
                "bucket_by_length makes batches of all ranks, and its order depends on their size: give global_batch_size",
            )
        })?;
        if !stores.iter().all(|store| store.cut.is_whole()) {
            return Err(Error::invalid(
                "windows of samples have one length: bucket_by_length is for whole samples",
            ));
        }
        let mut lengths = Vec::new();
        for (store, source) in stores.iter().zip(sources) {
            lengths.push(lengths_of(&store.dataset, &spec.field, &source.geometry)?);
        }
        let longest = lengths.iter().flat_map(|lengths| lengths.iter()).max();
        Ok(Some(Self {
            spec: spec.clone(),
            global_batch,
            longest: longest.copied().unwrap_or(0),
            lengths: lengths.into(),
        }))
    }

    pub(super) fn longest(&self) -> u64 {
        u64::from(self.longest)
    }

    /// The pools of an epoch of `num_samples`.
    pub(super) fn pools(&self, num_samples: u64, key: Option<u64>) -> Pools {
        let batches = (self.global_batch, self.spec.pool_batches);
        Pools::new(Arc::clone(&self.lengths), batches, num_samples, key)
    }
}

/// The length of every sample of a dataset; 0 for those of chunks of which nothing is selected.
fn lengths_of(dataset: &Dataset, field: &str, geometry: &Geometry) -> Result<Arc<[u32]>> {
    let reader = LengthReader::new(dataset, field)?;
    let mut lengths = Vec::new();
    for ordinal in 0..geometry.num_chunks() {
        let place = geometry.chunk(ordinal);
        if geometry.ranks(&place).is_empty() {
            continue;
        }
        let first = usize::try_from(place.first_sample).unwrap_or(usize::MAX);
        // How many samples there are is only claimed so far.
        let more = first.saturating_sub(lengths.len());
        let room = lengths.try_reserve(more);
        room.map_err(|_| {
            Error::limit(
                "samples with lengths",
                lengths.len() as u64,
                place.first_sample,
            )
        })?;
        lengths.resize(first, 0);
        reader.read(place.shard, place.chunk, &mut lengths)?;
    }
    Ok(lengths.into())
}
