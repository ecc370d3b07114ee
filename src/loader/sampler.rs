//! The order of an epoch. Pure: a function of (geometry, seed, epoch, shuffle), and of nothing else.
//!
//! `order_version` 0: not yet frozen (format-spec 13).

use crate::dataset::Dataset;
use crate::error::{Error, Result};

/// How samples are ordered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Shuffle {
    /// As they were written.
    #[default]
    None,
    /// Chunks in random order, and their samples mixed within a window of chunks. Every chunk is decoded once per
    /// epoch.
    Windowed {
        /// Chunks that are mixed with each other, at least 1.
        window: u32,
    },
    /// Uniform over all samples. Costs about one decoded piece per sample.
    Exact,
}

impl Shuffle {
    /// The windowed shuffle with a window of 32 chunks.
    pub fn windowed() -> Self {
        Self::Windowed { window: 32 }
    }
}

/// Where the chunks of a dataset are.
#[derive(Debug)]
pub(crate) struct Geometry {
    shards: Vec<ShardGeometry>,
    num_samples: u64,
    num_chunks: u64,
}

#[derive(Debug)]
struct ShardGeometry {
    first_sample: u64,
    first_chunk: u64,
    samples_per_chunk: u32,
}

/// A chunk, and which samples of the dataset it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ChunkPlace {
    pub(crate) shard: u64,
    pub(crate) chunk: u64,
    pub(crate) first_sample: u64,
    pub(crate) num_samples: u32,
}

impl Geometry {
    pub(crate) fn new(dataset: &Dataset) -> Result<Self> {
        let mut shards = Vec::new();
        let (mut num_samples, mut num_chunks) = (0, 0);
        for record in dataset.shard_records()? {
            let samples_per_chunk = record.samples_per_chunk;
            shards.push(ShardGeometry {
                first_sample: num_samples,
                first_chunk: num_chunks,
                samples_per_chunk,
            });
            num_samples += record.num_samples;
            num_chunks += record.num_chunks();
        }
        Ok(Self {
            shards,
            num_samples,
            num_chunks,
        })
    }

    pub(crate) fn num_samples(&self) -> u64 {
        self.num_samples
    }

    /// The `ordinal`-th chunk of the dataset.
    pub(crate) fn chunk(&self, ordinal: u64) -> ChunkPlace {
        let shard = self
            .shards
            .partition_point(|shard| shard.first_chunk <= ordinal)
            .saturating_sub(1);
        self.place(shard, ordinal - self.shards[shard].first_chunk)
    }

    fn place(&self, shard: usize, chunk: u64) -> ChunkPlace {
        let geometry = &self.shards[shard];
        let first_sample = geometry.first_sample + chunk * u64::from(geometry.samples_per_chunk);
        let end = self
            .shards
            .get(shard + 1)
            .map_or(self.num_samples, |next| next.first_sample);
        let num_samples = (end - first_sample).min(u64::from(geometry.samples_per_chunk));
        // Bounded by samples_per_chunk, a u32.
        let num_samples = u32::try_from(num_samples).unwrap_or(u32::MAX);
        ChunkPlace {
            shard: shard as u64,
            chunk,
            first_sample,
            num_samples,
        }
    }

    /// The chunk that holds a sample, and the sample's row in it.
    pub(crate) fn locate(&self, sample: u64) -> (ChunkPlace, u32) {
        let shard = self
            .shards
            .partition_point(|shard| shard.first_sample <= sample)
            .saturating_sub(1);
        let geometry = &self.shards[shard];
        let within = sample - geometry.first_sample;
        let spc = u64::from(geometry.samples_per_chunk);
        (
            self.place(shard, within / spc),
            u32::try_from(within % spc).unwrap_or(u32::MAX),
        )
    }

    /// The most samples that `window` chunks can hold.
    pub(crate) fn window_samples(&self, window: u32) -> u64 {
        let largest = self
            .shards
            .iter()
            .map(|shard| shard.samples_per_chunk)
            .max()
            .unwrap_or(0);
        u64::from(largest)
            .saturating_mul(u64::from(window))
            .min(self.num_samples)
    }
}

/// A stretch of the epoch: some chunks, and the order in which their samples are delivered.
#[derive(Debug)]
pub(crate) struct Round {
    pub(crate) places: Vec<ChunkPlace>,
    pub(crate) order: RoundOrder,
}

#[derive(Debug)]
pub(crate) enum RoundOrder {
    /// All samples of the places, one after the other.
    Sequential,
    /// (index in `places`, row) of each sample.
    Listed(Vec<(u32, u32)>),
}

/// The rounds of one epoch.
#[derive(Debug)]
pub(crate) struct Rounds {
    shuffle: Shuffle,
    key: u64,
    /// The next chunk (none, windowed) or position (exact).
    next: u64,
    rounds_done: u32,
    permutation: Permutation,
    /// Positions of a round of the exact shuffle: how much is decoded together, without influence on the order.
    exact_span: u64,
}

impl Rounds {
    pub(crate) fn new(
        geometry: &Geometry,
        shuffle: Shuffle,
        seed: u64,
        epoch: u64,
        exact_span: u64,
    ) -> Result<Self> {
        if shuffle == (Shuffle::Windowed { window: 0 }) {
            return Err(Error::invalid("the shuffle window has at least 1 chunk"));
        }
        let key = mix(mix(seed) ^ epoch);
        let over = if shuffle == Shuffle::Exact {
            geometry.num_samples
        } else {
            geometry.num_chunks
        };
        let permutation = Permutation::new(over, key);
        Ok(Self {
            shuffle,
            key,
            next: 0,
            rounds_done: 0,
            permutation,
            exact_span: exact_span.max(1),
        })
    }

    pub(crate) fn next_round(&mut self, geometry: &Geometry) -> Option<Round> {
        let round = match self.shuffle {
            Shuffle::None => self.sequential(geometry),
            Shuffle::Windowed { window } => self.windowed(geometry, window),
            Shuffle::Exact => self.exact(geometry),
        };
        self.rounds_done = self.rounds_done.saturating_add(1);
        round
    }

    /// Where in the epoch the exact shuffle delivers a sample.
    pub(crate) fn position_of(&self, sample: u64) -> u64 {
        self.permutation.invert(sample)
    }

    fn sequential(&mut self, geometry: &Geometry) -> Option<Round> {
        if self.next >= geometry.num_chunks {
            return None;
        }
        let places = vec![geometry.chunk(self.next)];
        self.next += 1;
        Some(Round {
            places,
            order: RoundOrder::Sequential,
        })
    }

    fn windowed(&mut self, geometry: &Geometry, window: u32) -> Option<Round> {
        // The window ramps up, so that the first batch does not wait for a full one.
        let window = u64::from(window.min(1u32.checked_shl(self.rounds_done).unwrap_or(u32::MAX)));
        let end = self.next.saturating_add(window).min(geometry.num_chunks);
        if self.next >= end {
            return None;
        }
        let places: Vec<ChunkPlace> = (self.next..end)
            .map(|i| geometry.chunk(self.permutation.get(i)))
            .collect();
        let mut order: Vec<(u32, u32)> = (0u32..)
            .zip(&places)
            .flat_map(|(i, place)| (0..place.num_samples).map(move |row| (i, row)))
            .collect();
        let mut random = Random(mix(self.key ^ mix(self.next)));
        for i in (1..order.len()).rev() {
            order.swap(i, random.below(i + 1));
        }
        self.next = end;
        Some(Round {
            places,
            order: RoundOrder::Listed(order),
        })
    }

    fn exact(&mut self, geometry: &Geometry) -> Option<Round> {
        let end = self
            .next
            .saturating_add(self.exact_span)
            .min(geometry.num_samples);
        if self.next >= end {
            return None;
        }
        let mut located: Vec<(u64, usize)> = (self.next..end)
            .map(|position| self.permutation.get(position))
            .zip(0..)
            .collect();
        located.sort_unstable();
        let mut places: Vec<ChunkPlace> = Vec::new();
        let mut order = vec![(0, 0); located.len()];
        for (sample, position) in located {
            let inside =
                |place: &ChunkPlace| sample < place.first_sample + u64::from(place.num_samples);
            if !places.last().is_some_and(inside) {
                places.push(geometry.locate(sample).0);
            }
            let place = places.len() - 1;
            let row = sample - places[place].first_sample;
            order[position] = (
                u32::try_from(place).unwrap_or(u32::MAX),
                u32::try_from(row).unwrap_or(u32::MAX),
            );
        }
        self.next = end;
        Some(Round {
            places,
            order: RoundOrder::Listed(order),
        })
    }
}

/// A keyed bijection of 0..n without memory: a Feistel network over the next power of four, walking cycles until the
/// result is below n (Black and Rogaway, "Ciphers with arbitrary finite domains", 2002).
#[derive(Clone, Debug)]
struct Permutation {
    n: u64,
    half_bits: u32,
    keys: [u64; 8],
}

impl Permutation {
    fn new(n: u64, key: u64) -> Self {
        let bits = 64 - n.saturating_sub(1).leading_zeros();
        let half_bits = bits.div_ceil(2).max(1);
        let mut random = Random(key);
        Self {
            n,
            half_bits,
            keys: std::array::from_fn(|_| random.next()),
        }
    }

    /// The `i` that [`Permutation::get`] maps to `x`.
    fn invert(&self, mut x: u64) -> u64 {
        let mask = (1u64 << self.half_bits) - 1;
        loop {
            let (mut left, mut right) = (x >> self.half_bits, x & mask);
            for key in self.keys.iter().rev() {
                (left, right) = (right ^ (mix(left ^ key) & mask), left);
            }
            x = (left << self.half_bits) | right;
            if x < self.n {
                return x;
            }
        }
    }

    fn get(&self, i: u64) -> u64 {
        let mask = (1u64 << self.half_bits) - 1;
        let mut x = i;
        loop {
            let (mut left, mut right) = (x >> self.half_bits, x & mask);
            for key in self.keys {
                (left, right) = (right, left ^ (mix(right ^ key) & mask));
            }
            x = (left << self.half_bits) | right;
            if x < self.n {
                return x;
            }
        }
    }
}

/// The finalizer of SplitMix64 (Steele, Lea, Flood 2014).
fn mix(x: u64) -> u64 {
    let mut z = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mix(self.0)
    }

    /// Uniform in 0..n (Lemire's multiply; its bias of n / 2^64 does not matter here).
    fn below(&mut self, n: usize) -> usize {
        let wide = u128::from(self.next()) * n as u128;
        usize::try_from(wide >> 64).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn geometry(shards: &[(u64, u32)]) -> Geometry {
        let (mut num_samples, mut num_chunks) = (0, 0);
        let shards = shards
            .iter()
            .map(|&(n, samples_per_chunk)| {
                let shard = ShardGeometry {
                    first_sample: num_samples,
                    first_chunk: num_chunks,
                    samples_per_chunk,
                };
                num_samples += n;
                num_chunks += n.div_ceil(u64::from(samples_per_chunk));
                shard
            })
            .collect();
        Geometry {
            shards,
            num_samples,
            num_chunks,
        }
    }

    fn order(g: &Geometry, shuffle: Shuffle, seed: u64, epoch: u64, span: u64) -> Vec<u64> {
        let mut rounds = Rounds::new(g, shuffle, seed, epoch, span).unwrap();
        let mut out = Vec::new();
        while let Some(round) = rounds.next_round(g) {
            match round.order {
                RoundOrder::Sequential => {
                    for place in &round.places {
                        out.extend(
                            (0..u64::from(place.num_samples)).map(|row| place.first_sample + row),
                        );
                    }
                }
                RoundOrder::Listed(list) => {
                    out.extend(
                        list.iter().map(|&(i, row)| {
                            round.places[i as usize].first_sample + u64::from(row)
                        }),
                    );
                }
            }
        }
        out
    }

    #[test]
    fn permutation_is_a_bijection_for_every_small_size() {
        for n in 1..300 {
            let permutation = Permutation::new(n, 7);
            assert!((0..n).all(|i| permutation.invert(permutation.get(i)) == i));
            let mut all: Vec<u64> = (0..n).map(|i| permutation.get(i)).collect();
            all.sort_unstable();
            assert_eq!(all, (0..n).collect::<Vec<_>>());
        }
    }

    #[test]
    fn every_mode_delivers_each_sample_once() {
        let g = geometry(&[(100, 7), (1, 16), (64, 16), (33, 5)]);
        for shuffle in [
            Shuffle::None,
            Shuffle::Windowed { window: 1 },
            Shuffle::windowed(),
            Shuffle::Exact,
        ] {
            let mut all = order(&g, shuffle, 1, 2, 50);
            if shuffle == Shuffle::None {
                assert_eq!(all, (0..198).collect::<Vec<_>>());
            }
            all.sort_unstable();
            assert_eq!(all, (0..198).collect::<Vec<_>>(), "{shuffle:?}");
        }
    }

    #[test]
    fn seed_and_epoch_change_the_order_and_nothing_else_does() {
        let g = geometry(&[(1000, 16), (500, 32)]);
        for shuffle in [Shuffle::Windowed { window: 4 }, Shuffle::Exact] {
            let base = order(&g, shuffle, 1, 0, 64);
            assert_eq!(base, order(&g, shuffle, 1, 0, 999));
            assert_ne!(base, order(&g, shuffle, 1, 1, 64));
            assert_ne!(base, order(&g, shuffle, 2, 0, 64));
        }
    }

    #[test]
    fn locate_agrees_with_chunk() {
        let g = geometry(&[(100, 7), (1, 16), (64, 16)]);
        for ordinal in 0..g.num_chunks {
            let place = g.chunk(ordinal);
            for row in 0..place.num_samples {
                assert_eq!(g.locate(place.first_sample + u64::from(row)), (place, row));
            }
        }
    }
}
