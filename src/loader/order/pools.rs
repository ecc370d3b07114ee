//! Batches of samples of like lengths (format-spec 13.9). Pure.

use std::sync::Arc;

use crate::error::Result;

use super::bijection::{Random, hash};

/// The length of every sample, of one dataset or of each of a mixture.
pub(crate) type Lengths = Arc<[Arc<[u32]>]>;

/// Sorts the samples of some batches by length, and puts the batches in random order: pool after pool.
#[derive(Debug)]
pub(crate) struct Pools {
    lengths: Lengths,
    /// Samples of a batch of all ranks.
    batch: u64,
    /// Samples of a pool: whole batches.
    pool: u64,
    /// Where the last short batch begins, whose samples stay where they are.
    full: u64,
    /// `None` if batches stay in the order of lengths.
    key: Option<u64>,
    /// The pool that was asked for last, and what it delivers.
    cached: Option<(u64, Vec<Place>)>,
}

/// A dataset, and a sample of it.
type Place = (u32, u64);

impl Pools {
    /// Pools of `batches` batches of `batch` samples, both at least 1, of an epoch of `num_samples`.
    pub(crate) fn new(
        lengths: Lengths,
        (batch, batches): (u64, u64),
        num_samples: u64,
        key: Option<u64>,
    ) -> Self {
        Self {
            lengths,
            batch,
            pool: batch.saturating_mul(batches),
            full: num_samples - num_samples % batch,
            key,
            cached: None,
        }
    }

    /// What is delivered at a position; `base` says what the order without pools delivers.
    pub(crate) fn at(
        &mut self,
        position: u64,
        mut base: impl FnMut(u64) -> Result<Place>,
    ) -> Result<Place> {
        if position >= self.full {
            return base(position);
        }
        let pool = position / self.pool;
        let begin = pool * self.pool;
        let places = match self.cached.take() {
            Some((cached, places)) if cached == pool => places,
            _ => self.fill(pool, begin, base)?,
        };
        let within = usize::try_from(position - begin).unwrap_or(usize::MAX);
        let place = places.get(within).copied().unwrap_or_default();
        self.cached = Some((pool, places));
        Ok(place)
    }

    /// What a pool delivers that begins at position `begin`.
    fn fill(
        &self,
        pool: u64,
        begin: u64,
        mut base: impl FnMut(u64) -> Result<Place>,
    ) -> Result<Vec<Place>> {
        let end = self.full.min(begin.saturating_add(self.pool));
        let mut sorted = Vec::new();
        for position in begin..end {
            let (source, sample) = base(position)?;
            sorted.push((self.length(source, sample), position, (source, sample)));
        }
        sorted.sort_unstable();
        let batch = usize::try_from(self.batch).unwrap_or(usize::MAX);
        let mut batches: Vec<_> = sorted.chunks(batch).collect();
        if let Some(key) = self.key {
            Random(hash(key, pool)).shuffle(&mut batches);
        }
        let places = batches.into_iter().flatten().map(|(_, _, place)| *place);
        Ok(places.collect())
    }

    fn length(&self, source: u32, sample: u64) -> u32 {
        let lengths = self.lengths.get(source as usize);
        let sample = usize::try_from(sample).unwrap_or(usize::MAX);
        lengths
            .and_then(|lengths| lengths.get(sample))
            .copied()
            .unwrap_or(0)
    }
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "small numbers")]
mod tests {
    use super::*;
    use crate::loader::order::bijection::mix;
    use crate::loader::order::epoch::Epoch;
    use crate::loader::order::mixture::Turns;
    use crate::loader::order::{Shuffle, epoch_key, golden};

    const N: u64 = 1003;

    fn lengths() -> Lengths {
        let lengths: Vec<u32> = (0..N).map(|i| (mix(i) % 50) as u32).collect();
        [Arc::from(lengths)].into()
    }

    fn order(batches: u64, key: Option<u64>) -> Vec<u64> {
        let mut pools = Pools::new(lengths(), (16, batches), N, key);
        let base = |position: u64| Ok((0, N - 1 - position));
        let order = (0..N).map(|position| pools.at(position, base).unwrap().1);
        let order: Vec<u64> = order.collect();
        // Every position is found by itself.
        for position in (0..N).step_by(97).chain([N - 1]) {
            let mut pools = Pools::new(lengths(), (16, batches), N, key);
            assert_eq!(
                pools.at(position, base).unwrap().1,
                order[position as usize]
            );
        }
        order
    }

    #[test]
    fn pools_deliver_each_sample_once_in_batches_of_like_lengths() {
        let lengths = &lengths()[0];
        let plain: Vec<u64> = (0..N).rev().collect();
        for batches in [1, 5, 62, 63, 1 << 40, u64::MAX] {
            for key in [None, Some(1)] {
                let order = order(batches, key);
                let mut sorted = order.clone();
                sorted.sort_unstable();
                assert!((0..N).eq(sorted.iter().copied()));
                // The last, short batch is that of the order without pools.
                assert_eq!(order[992..], plain[992..]);
                let pool = usize::try_from(16 * batches.min(62)).unwrap();
                for (pool, before) in order[..992].chunks(pool).zip(plain[..992].chunks(pool)) {
                    let (mut pool, mut before) = (pool.to_vec(), before.to_vec());
                    let length = |id: &u64| lengths[*id as usize];
                    let mut batches: Vec<&[u64]> = pool.chunks(16).collect();
                    if key.is_some() && batches.len() > 20 {
                        assert!(!pool.is_sorted_by_key(length));
                    }
                    batches.sort_by_key(|batch| (length(&batch[0]), length(&batch[15])));
                    let by_length = batches.concat();
                    assert!(by_length.is_sorted_by_key(length));
                    pool.sort_unstable();
                    before.sort_unstable();
                    assert_eq!(pool, before);
                }
            }
        }
        assert_ne!(order(5, Some(1)), order(5, Some(2)));
    }

    #[test]
    fn an_epoch_shorter_than_a_batch_stays_as_it_is() {
        let mut pools = Pools::new(lengths(), (2000, 3), N, Some(1));
        for position in 0..N {
            assert_eq!(pools.at(position, |p| Ok((0, p))).unwrap(), (0, position));
        }
    }

    #[test]
    fn golden_orders_are_reproduced() {
        let cases = golden::cases(include_str!("../../../tests/data/orders/buckets.json"));
        assert!(cases.len() > 15);
        for case in cases {
            let (track, n) = case.track(case.geometry());
            let lengths = case.list("lengths").into_iter().map(|x| x as u32);
            let lengths: Lengths = [lengths.collect()].into();
            let batches = (case.number("global_batch"), case.number("pool_batches"));
            let shuffle = case.shuffle();
            let key = epoch_key(case.number("seed"), case.number("epoch"));
            let key = (shuffle != Shuffle::None).then(|| hash(key, 3));
            let mut order = Epoch::new(vec![track], Arc::new(Turns::one()))
                .in_pools(Pools::new(lengths, batches, n, key));
            let order: Vec<u64> = (0..n).map(|i| order.at(i).unwrap().1).collect();
            assert_eq!(order, case.list("order"), "{shuffle:?}");
        }
    }
}
