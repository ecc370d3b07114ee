//! The windowed order (format-spec 13.4): chunks in random order are cut into lanes of equal length, which take turns;
//! each lane shuffles a few chunks at a time. Pure.
//!
//! Lanes stand at different places of their chunks, so that the window rolls: at any time a few of its chunks are
//! replaced. Position p is of lane `p mod lanes`: where world_size divides lanes, a rank owns whole lanes.

use std::ops::Range;

use super::bijection::{Permutation, Random, hash};
use super::geometry::{ChunkPlace, Geometry};

/// Keys of the parts, derived from that of the order.
const CHUNKS: u64 = 1;
const BLOCKS: u64 = 2;
/// At its start a lane shuffles this part of a chunk, then twice as much each time.
const RAMP: u64 = 8;
/// Chunks that a lane has at least: those at its ends are decoded in parts.
const MIN_CHUNKS: u64 = 8;

/// The chunks in random order, as one sequence of samples.
#[derive(Debug)]
struct ChunkOrder {
    permutation: Permutation,
    num_chunks: u64,
    num_samples: u64,
    /// The samples of a chunk that is not in `odd`.
    common: u64,
    /// Chunks with another number of samples, by place.
    odd: Vec<OddChunk>,
}

#[derive(Clone, Copy, Debug)]
struct OddChunk {
    place: u64,
    /// Where its samples start in the sequence.
    start: u64,
    len: u64,
}

impl ChunkOrder {
    fn new(geometry: &Geometry, key: u64) -> Self {
        let num_chunks = geometry.num_chunks();
        let permutation = Permutation::new(num_chunks, hash(key, CHUNKS));
        let (common, chunks) = geometry.odd_chunks();
        let mut odd: Vec<OddChunk> = chunks
            .into_iter()
            .map(|(ordinal, len)| OddChunk {
                place: permutation.invert(ordinal),
                start: 0,
                len,
            })
            .collect();
        odd.sort_unstable_by_key(|chunk| chunk.place);
        let (mut place, mut start) = (0, 0);
        for chunk in &mut odd {
            start += (chunk.place - place) * common;
            chunk.start = start;
            start += chunk.len;
            place = chunk.place + 1;
        }
        Self {
            permutation,
            num_chunks,
            num_samples: geometry.len(),
            common,
            odd,
        }
    }

    /// Where the samples of the chunk at `place` start; of all places beyond the last, where the sequence ends.
    fn start(&self, place: u64) -> u64 {
        if place >= self.num_chunks {
            return self.num_samples;
        }
        let after = self.odd.partition_point(|chunk| chunk.place < place);
        match after.checked_sub(1).and_then(|last| self.odd.get(last)) {
            Some(odd) => odd.start + odd.len + (place - odd.place - 1) * self.common,
            None => place * self.common,
        }
    }

    /// The place of the chunk that holds a sample of the sequence.
    fn place(&self, sample: u64) -> u64 {
        let after = self.odd.partition_point(|chunk| chunk.start <= sample);
        match after.checked_sub(1).and_then(|last| self.odd.get(last)) {
            Some(odd) if sample < odd.start + odd.len => odd.place,
            Some(odd) => odd.place + 1 + (sample - odd.start - odd.len) / self.common,
            None => sample / self.common,
        }
    }
}

/// One lane: a stretch of the sequence, which begins at `turn` and comes around.
#[derive(Debug)]
struct Lane {
    start: u64,
    len: u64,
    turn: u64,
}

/// The windowed order of all selected samples, once.
#[derive(Debug)]
pub(crate) struct Windowed {
    chunks: ChunkOrder,
    lanes: Vec<Lane>,
    /// Chunks that a lane shuffles at a time.
    width: u64,
    /// Samples of a lane's start that ramp up, and the first step.
    ramp: (u64, u64),
    block_key: u64,
}

/// Samples that a lane shuffles with each other: `len` of them from the lane's index `first` on, which are those from
/// `start` on in the sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Block {
    pub(crate) lane: u64,
    pub(crate) first: u64,
    pub(crate) len: u64,
    start: u64,
}

/// A block's samples: chunks, and (index of the chunk, row) of each sample in the order of delivery.
#[derive(Debug, Default)]
pub(crate) struct BlockSamples {
    pub(crate) places: Vec<ChunkPlace>,
    pub(crate) samples: Vec<(u32, u32)>,
}

/// The lanes that an order has: the largest divisor of those asked for that leaves a chunk of the window, and enough
/// chunks of the dataset, for each.
pub(crate) fn num_lanes(window: u32, lanes: u32, geometry: &Geometry) -> u64 {
    let most = u64::from(lanes)
        .min(u64::from(window))
        .min(geometry.num_chunks() / MIN_CHUNKS)
        .min(geometry.len())
        .max(1);
    (1..=most)
        .rev()
        .find(|&divisor| u64::from(lanes) % divisor == 0)
        .unwrap_or(1)
}

/// Chunks that a lane shuffles at a time.
pub(crate) fn width(window: u32, num_lanes: u64) -> u64 {
    (u64::from(window) / num_lanes).max(1)
}

impl Windowed {
    pub(crate) fn new(geometry: &Geometry, window: u32, lanes: u32, key: u64) -> Self {
        let n = geometry.len();
        let num_lanes = num_lanes(window, lanes, geometry);
        let width = width(window, num_lanes);
        let mean = n.div_ceil(geometry.num_chunks().max(1)).max(1);
        let block = width.saturating_mul(mean);
        let mut segments: Vec<(u64, u64)> = (0..num_lanes)
            .map(|lane| (reverse_digits(lane, num_lanes), lane))
            .collect();
        segments.sort_unstable();
        let mut all: Vec<Lane> = Vec::new();
        all.resize_with(segments.len(), || Lane {
            start: 0,
            len: 0,
            turn: 0,
        });
        let mut start = 0;
        for (_, lane) in segments {
            let len = n / num_lanes + u64::from(lane < n % num_lanes);
            let turn = u128::from(block.min(len)) * u128::from(lane) / u128::from(num_lanes);
            all[usize::try_from(lane).unwrap_or(usize::MAX)] = Lane {
                start,
                len,
                turn: u64::try_from(turn).unwrap_or(0),
            };
            start += len;
        }
        Self {
            chunks: ChunkOrder::new(geometry, key),
            lanes: all,
            width,
            ramp: (block, mean.div_ceil(RAMP)),
            block_key: hash(key, BLOCKS),
        }
    }

    pub(crate) fn num_lanes(&self) -> u64 {
        self.lanes.len() as u64
    }

    pub(crate) fn lane_len(&self, lane: u64) -> u64 {
        self.lane(lane).len
    }

    fn lane(&self, lane: u64) -> &Lane {
        &self.lanes[usize::try_from(lane).unwrap_or(usize::MAX)]
    }

    /// The block that holds index `i`, which is below the lane's length.
    pub(crate) fn block(&self, lane: u64, i: u64) -> Block {
        let Lane { start, len, turn } = *self.lane(lane);
        let before_turn = len - turn;
        // The stretch of the sequence, and the lane's index of its start.
        let (stretch, base) = if i < before_turn {
            (start + turn..start + len, 0)
        } else {
            (start..start + turn, before_turn)
        };
        let sample = stretch.start + (i - base);
        let first_place = self.chunks.place(stretch.start);
        let group = (self.chunks.place(sample) - first_place) / self.width;
        let group_start = first_place + group * self.width;
        let mut low = self.chunks.start(group_start).max(stretch.start);
        let mut high = self
            .chunks
            .start(group_start.saturating_add(self.width))
            .min(stretch.end);
        // Edges of the ramp: step, 2 step, 4 step, ...
        let (ramp, step) = self.ramp;
        let (from, to) = match i.min(ramp - 1) / step {
            0 => (0, step),
            steps => (step << steps.ilog2(), step << (steps.ilog2() + 1)),
        };
        if from >= base {
            low = low.max(stretch.start + (from - base));
        }
        if i < ramp && to < ramp && to >= base {
            high = high.min(stretch.start + (to - base));
        }
        Block {
            lane,
            first: base + (low - stretch.start),
            len: high - low,
            start: low,
        }
    }

    fn random(&self, block: &Block) -> Random {
        Random(hash(self.block_key, block.start))
    }

    /// Lists the samples of a block.
    pub(crate) fn samples(&self, geometry: &Geometry, block: &Block, out: &mut BlockSamples) {
        out.places.clear();
        out.samples.clear();
        let end = block.start + block.len;
        let mut sample = block.start;
        let mut place = self.chunks.place(sample);
        while sample < end {
            let start = self.chunks.start(place);
            let stop = self.chunks.start(place + 1).min(end);
            let chunk = geometry.chunk(self.chunks.permutation.get(place));
            let index = u32::try_from(out.places.len()).unwrap_or(u32::MAX);
            if stop > sample {
                out.places.push(chunk);
            }
            let rows = rows(geometry, &chunk, sample - start..stop - start);
            out.samples.extend(rows.map(|row| (index, row)));
            sample = stop.max(sample);
            place += 1;
        }
        self.random(block).shuffle(&mut out.samples);
    }

    /// The sample at a position: costs what shuffling a block costs.
    pub(crate) fn at(&self, geometry: &Geometry, position: u64) -> u64 {
        let num_lanes = self.num_lanes();
        let (lane, i) = (position % num_lanes, position / num_lanes);
        let block = self.block(lane, i);
        let mut offsets: Vec<u32> = (0..u32::try_from(block.len).unwrap_or(u32::MAX)).collect();
        self.random(&block).shuffle(&mut offsets);
        let offset = usize::try_from(i - block.first).unwrap_or(usize::MAX);
        let sample = block.start + u64::from(offsets[offset]);
        let place = self.chunks.place(sample);
        let chunk = geometry.chunk(self.chunks.permutation.get(place));
        let row = sample - self.chunks.start(place);
        let row = rows(geometry, &chunk, row..row + 1).next();
        chunk.first_sample + u64::from(row.unwrap_or(0))
    }
}

/// The rows of the `range`-th selected samples of a chunk.
fn rows<'g>(
    geometry: &'g Geometry,
    chunk: &ChunkPlace,
    range: Range<u64>,
) -> impl Iterator<Item = u32> + 'g {
    let ranks = geometry.ranks(chunk);
    let first = chunk.first_sample;
    let selected = geometry.selected();
    let (base, consecutive) = if selected.is_range() && !range.is_empty() {
        (selected.ascending(ranks.start + range.start) - first, true)
    } else {
        (0, false)
    };
    range.clone().map(move |i| {
        let row = if consecutive {
            base + (i - range.start)
        } else {
            selected.ascending(ranks.start + i) - first
        };
        // A row of a chunk.
        u32::try_from(row).unwrap_or(u32::MAX)
    })
}

/// The digits of `x` in reverse order, where the bases are the prime factors of `n`, ascending: numbers that agree
/// modulo a product of the first factors become neighbours.
fn reverse_digits(x: u64, n: u64) -> u64 {
    let (mut x, mut rest, mut out, mut factor) = (x, n, 0, 2);
    while rest > 1 {
        if factor * factor > rest {
            factor = rest;
        }
        while rest % factor == 0 {
            rest /= factor;
            out += (x % factor) * rest;
            x /= factor;
        }
        factor += 1;
    }
    out
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "small numbers")]
mod tests {
    use super::*;

    #[test]
    fn digits_are_reversed() {
        let all = |n| (0..n).map(|x| reverse_digits(x, n)).collect::<Vec<_>>();
        assert_eq!(all(8), [0, 4, 2, 6, 1, 5, 3, 7]);
        assert_eq!(all(6), [0, 3, 1, 4, 2, 5]);
        assert_eq!(all(1), [0]);
        assert_eq!(all(7), [0, 1, 2, 3, 4, 5, 6]);
        for n in 1..200 {
            let mut sorted = all(n);
            sorted.sort_unstable();
            assert_eq!(sorted, (0..n).collect::<Vec<_>>());
        }
    }

    #[test]
    fn blocks_tile_lanes_and_lanes_tile_the_epoch() {
        for shards in [
            &[(100, 7), (1, 16), (64, 16), (33, 5)][..],
            &[(1024, 8)],
            &[(5000, 7), (1, 16), (64, 16)],
            &[(1000, 1000)],
            &[(3, 1)],
        ] {
            let g = Geometry::of(shards);
            for (window, lanes) in [(1, 64), (5, 64), (6, 2), (64, 64), (300, 8)] {
                let order = Windowed::new(&g, window, lanes, 3);
                let mut seen = vec![false; usize::try_from(g.len()).unwrap()];
                let mut out = BlockSamples::default();
                for lane in 0..order.num_lanes() {
                    let mut i = 0;
                    while i < order.lane_len(lane) {
                        let block = order.block(lane, i);
                        assert_eq!(block.first, i, "{window} {lanes} {lane}");
                        assert!(block.len > 0);
                        for inside in i..i + block.len {
                            assert_eq!(order.block(lane, inside), block);
                        }
                        order.samples(&g, &block, &mut out);
                        assert_eq!(out.samples.len() as u64, block.len);
                        assert!(out.places.len() as u64 <= order.width);
                        for (at, &(place, row)) in (i..).zip(&out.samples) {
                            let sample = out.places[place as usize].first_sample + u64::from(row);
                            let position = at * order.num_lanes() + lane;
                            assert_eq!(order.at(&g, position), sample);
                            assert!(!std::mem::replace(&mut seen[sample as usize], true));
                        }
                        i += block.len;
                    }
                }
                assert!(seen.iter().all(|&seen| seen));
            }
        }
    }

    #[test]
    fn lanes_stand_at_different_places_of_their_chunks() {
        // Everything is aligned here: 64 lanes of 16 chunks of 64 samples.
        let g = Geometry::of(&[(64 * 16 * 64, 64)]);
        let order = Windowed::new(&g, 64, 64, 1);
        let mut starts = vec![0; 64 * 16];
        for lane in 0..64 {
            let mut i = 0;
            while i < order.lane_len(lane) {
                if i >= 64 {
                    starts[usize::try_from(i).unwrap()] += 1;
                }
                i += order.block(lane, i).len;
            }
        }
        // In every step of the lanes about one of them starts a chunk.
        assert!(starts.iter().skip(64).all(|&n| n <= 3), "{starts:?}");
    }
}
