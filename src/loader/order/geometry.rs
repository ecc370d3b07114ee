//! Where the samples that an order is about are: shards, chunks, and which of their samples are selected. Pure.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use crate::dataset::Dataset;
use crate::error::{Error, Result};

use super::bitmap::Bitmap;
use super::parts::PartIds;

/// The shards of a dataset, and the selected samples.
#[derive(Clone, Debug)]
pub(crate) struct Geometry {
    shards: Arc<[ShardGeometry]>,
    total: u64,
    selected: Selected,
    /// The chunks from the one of the first selected sample to the one of the last.
    chunks: Range<u64>,
    largest_chunk: u64,
    /// Ids of a sample: more than one where the order is about parts.
    per: u64,
    /// A chunk may be many times as large as what it is decoded to.
    spread: bool,
}

#[derive(Debug)]
struct ShardGeometry {
    first_sample: u64,
    first_chunk: u64,
    samples_per_chunk: u32,
}

/// The samples that an epoch is made of.
#[derive(Clone, Debug)]
pub(crate) enum Selected {
    /// `first`, `first + step`, ...
    Steps { first: u64, step: u64, len: u64 },
    /// Ascending.
    Bitmap(Arc<Bitmap>),
    /// As listed; samples may repeat. With the same in ascending order.
    List {
        listed: Arc<[u64]>,
        sorted: Arc<[u64]>,
    },
    /// Parts of samples.
    Parts(Arc<PartIds>),
}

/// A chunk, and which samples of the dataset it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ChunkPlace {
    /// The dataset of a mixture.
    pub(crate) source: u32,
    pub(crate) shard: u64,
    pub(crate) chunk: u64,
    pub(crate) first_sample: u64,
    pub(crate) num_samples: u32,
}

impl Geometry {
    /// All samples of the first `num_shards` shards.
    pub(crate) fn new(dataset: &Dataset, num_shards: u64) -> Result<Self> {
        Self::in_parts(dataset, num_shards, 1)
    }

    /// As [`Geometry::new`], with `per` ids for each sample.
    pub(crate) fn in_parts(dataset: &Dataset, num_shards: u64, per: u64) -> Result<Self> {
        let mut shards = Vec::new();
        let mut total = 0u64;
        for record in dataset.shard_records()? {
            if shards.len() as u64 == num_shards {
                break;
            }
            let mut scaled = || {
                let chunk = u64::from(record.samples_per_chunk).checked_mul(per)?;
                let samples = record.num_samples.checked_mul(per)?;
                total = total.checked_add(samples)?;
                Some((samples, u32::try_from(chunk).ok()?))
            };
            shards.push(scaled().ok_or_else(|| {
                Error::invalid(format!(
                    "chunks of {} samples of up to {per} windows each are more than 4294967295 windows: use a larger stride",
                    record.samples_per_chunk
                ))
            })?);
        }
        Ok(Self {
            per,
            spread: per > 1,
            ..Self::of(&shards)
        })
    }

    /// Shards of so many samples, and samples per chunk.
    pub(crate) fn of(shards: &[(u64, u32)]) -> Self {
        let (mut total, mut num_chunks) = (0, 0);
        let shards: Vec<ShardGeometry> = shards
            .iter()
            .map(|&(num_samples, samples_per_chunk)| {
                let shard = ShardGeometry {
                    first_sample: total,
                    first_chunk: num_chunks,
                    samples_per_chunk,
                };
                total += num_samples;
                num_chunks += num_samples.div_ceil(u64::from(samples_per_chunk.max(1)));
                shard
            })
            .collect();
        let all = Selected::Steps {
            first: 0,
            step: 1,
            len: total,
        };
        Self {
            shards: shards.into(),
            total,
            selected: all.clone(),
            chunks: 0..0,
            largest_chunk: 0,
            per: 1,
            spread: false,
        }
        .select(all)
    }

    /// The same shards with other samples, all of which exist.
    pub(crate) fn select(mut self, selected: Selected) -> Self {
        self.selected = selected;
        self.chunks = match (self.selected.lowest(), self.selected.highest()) {
            (Some(lowest), Some(highest)) => {
                self.ordinal_of(lowest)..self.ordinal_of(highest).saturating_add(1)
            }
            _ => 0..0,
        };
        self.largest_chunk = self.find_largest();
        self
    }

    /// The number of selected samples.
    pub(crate) fn len(&self) -> u64 {
        self.selected.len()
    }

    /// The number of samples, selected or not.
    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    /// Ids of a sample.
    pub(crate) fn per(&self) -> u64 {
        self.per
    }

    /// True if the samples of a chunk are not planned all at once.
    pub(crate) fn is_spread(&self) -> bool {
        self.spread
    }

    /// Blocks of parts of samples, in place of chunks.
    pub(crate) fn of_blocks(num_parts: u64, block: u32) -> Self {
        Self {
            spread: true,
            ..Self::of(&[(num_parts, block)])
        }
    }

    pub(crate) fn selected(&self) -> &Selected {
        &self.selected
    }

    /// The chunks that the selected samples span. All other ordinals are from the first of them.
    pub(crate) fn num_chunks(&self) -> u64 {
        self.chunks.end - self.chunks.start
    }

    /// The `ordinal`-th chunk.
    pub(crate) fn chunk(&self, ordinal: u64) -> ChunkPlace {
        let ordinal = self.chunks.start + ordinal;
        let shard = self
            .shards
            .partition_point(|shard| shard.first_chunk <= ordinal)
            .saturating_sub(1);
        self.place(shard, ordinal - self.shards[shard].first_chunk)
    }

    fn place(&self, shard: usize, chunk: u64) -> ChunkPlace {
        let geometry = &self.shards[shard];
        let first_sample = geometry.first_sample + chunk * u64::from(geometry.samples_per_chunk);
        let num_samples =
            (self.end(shard) - first_sample).min(u64::from(geometry.samples_per_chunk));
        ChunkPlace {
            source: 0,
            shard: shard as u64,
            chunk,
            first_sample,
            // Bounded by samples_per_chunk, a u32.
            num_samples: u32::try_from(num_samples).unwrap_or(u32::MAX),
        }
    }

    /// Where a shard's samples end.
    fn end(&self, shard: usize) -> u64 {
        self.shards
            .get(shard + 1)
            .map_or(self.total, |next| next.first_sample)
    }

    /// The chunk that holds a sample.
    pub(crate) fn locate(&self, sample: u64) -> ChunkPlace {
        let (shard, chunk) = self.find(sample);
        self.place(shard, chunk)
    }

    fn find(&self, sample: u64) -> (usize, u64) {
        let shard = self
            .shards
            .partition_point(|shard| shard.first_sample <= sample)
            .saturating_sub(1);
        let geometry = &self.shards[shard];
        let chunk = (sample - geometry.first_sample) / u64::from(geometry.samples_per_chunk.max(1));
        (shard, chunk)
    }

    /// Of all chunks of the dataset.
    fn ordinal_of(&self, sample: u64) -> u64 {
        let (shard, chunk) = self.find(sample);
        self.shards[shard].first_chunk + chunk
    }

    /// The selected samples of a chunk, as a range of all selected samples in ascending order.
    pub(crate) fn ranks(&self, place: &ChunkPlace) -> Range<u64> {
        let end = place.first_sample + u64::from(place.num_samples);
        self.selected.count_below(place.first_sample)..self.selected.count_below(end)
    }

    /// How many samples most chunks have selected, and the chunks that have another number: (ordinal, number).
    pub(crate) fn odd_chunks(&self) -> (u64, Vec<(u64, u64)>) {
        if self.num_chunks() == 0 {
            return (1, Vec::new());
        }
        let count = |ordinal| {
            let ranks = self.ranks(&self.chunk(ordinal));
            ranks.end - ranks.start
        };
        if !self.selected.is_range() {
            let counts: Vec<u64> = (0..self.num_chunks()).map(count).collect();
            let common = most_common(counts.iter().map(|&n| (n, 1)));
            let odd = (0..).zip(counts).filter(|&(_, n)| n != common).collect();
            return (common, odd);
        }
        let full = |shard: usize| {
            let geometry = &self.shards[shard];
            let spc = u64::from(geometry.samples_per_chunk.max(1));
            let samples = self.end(shard) - geometry.first_sample;
            (spc, samples / spc)
        };
        let common = most_common((0..self.shards.len()).map(full));
        let mut odd = Vec::new();
        // A shard's last chunk may be short; those at the ends of the range may be cut.
        for shard in 0..self.shards.len() {
            let geometry = &self.shards[shard];
            let (spc, num_full) = full(shard);
            let shard_end = geometry.first_chunk
                + (self.end(shard) - geometry.first_sample)
                    .div_ceil(spc)
                    .max(1);
            let (first, end) = (
                geometry.first_chunk.max(self.chunks.start),
                shard_end.min(self.chunks.end),
            );
            // Of a shard of regular chunks, only those at its end and at the ends of the range.
            let irregular = match spc == common {
                true => (geometry.first_chunk + num_full).max(first)..end,
                false => first..end,
            };
            let ends = [self.chunks.start, self.chunks.end - 1];
            let ends = ends
                .into_iter()
                .filter(|ordinal| (first..end).contains(ordinal) && !irregular.contains(ordinal));
            for ordinal in ends.chain(irregular.clone()) {
                let n = count(ordinal - self.chunks.start);
                let entry = (ordinal - self.chunks.start, n);
                if n != common && odd.last() != Some(&entry) {
                    odd.push(entry);
                }
            }
        }
        (common, odd)
    }

    /// The most samples that a chunk has selected, or a bound of it.
    pub(crate) fn largest_chunk(&self) -> u64 {
        self.largest_chunk
    }

    fn find_largest(&self) -> u64 {
        let largest = self.shards.iter().map(|shard| shard.samples_per_chunk);
        let step = match &self.selected {
            Selected::Steps { step, .. } => *step,
            _ => 1,
        };
        let largest = u64::from(largest.max().unwrap_or(0));
        match &self.selected {
            Selected::Parts(_) => {
                let ranks = (0..self.num_chunks()).map(|i| self.ranks(&self.chunk(i)));
                ranks
                    .map(|ranks| ranks.end - ranks.start)
                    .max()
                    .unwrap_or(0)
            }
            // A list may name a sample many times.
            Selected::List { sorted, .. } => {
                let mut at = 0;
                let mut most = 0;
                while let Some(&sample) = sorted.get(at) {
                    let place = self.locate(sample);
                    let end = place.first_sample + u64::from(place.num_samples);
                    let len = sorted[at..].partition_point(|&sample| sample < end);
                    most = most.max(len as u64);
                    at += len.max(1);
                }
                most
            }
            _ => largest.div_ceil(step),
        }
        .min(self.len())
    }
}

/// The value of the greatest weight; the smaller one of equals.
fn most_common(values: impl Iterator<Item = (u64, u64)>) -> u64 {
    let mut weights = BTreeMap::new();
    for (value, weight) in values {
        *weights.entry(value).or_insert(0u64) += weight;
    }
    let mut best = (0, 0);
    for (value, weight) in weights {
        if weight > best.0 && value > 0 {
            best = (weight, value);
        }
    }
    best.1.max(1)
}

impl Selected {
    pub(crate) fn list(listed: Vec<u64>) -> Self {
        let mut sorted = listed.clone();
        sorted.sort_unstable();
        Self::List {
            listed: listed.into(),
            sorted: sorted.into(),
        }
    }

    pub(crate) fn len(&self) -> u64 {
        match self {
            Self::Steps { len, .. } => *len,
            Self::Bitmap(bitmap) => bitmap.count(),
            Self::List { listed, .. } => listed.len() as u64,
            Self::Parts(parts) => parts.len(),
        }
    }

    /// True for consecutive samples.
    pub(crate) fn is_range(&self) -> bool {
        matches!(self, Self::Steps { step: 1, .. })
    }

    /// True for a list: the order of samples is not that of the dataset.
    pub(crate) fn is_listed(&self) -> bool {
        match self {
            Self::List { .. } => true,
            Self::Parts(parts) => parts.is_listed(),
            _ => false,
        }
    }

    /// The `i`-th selected sample, in the order of the list if there is one.
    pub(crate) fn get(&self, i: u64) -> u64 {
        match self {
            Self::List { listed, .. } => listed[usize::try_from(i).unwrap_or(usize::MAX)],
            Self::Parts(parts) => parts.get(i),
            _ => self.ascending(i),
        }
    }

    /// The `i`-th selected sample in ascending order.
    pub(crate) fn ascending(&self, i: u64) -> u64 {
        match self {
            Self::Steps { first, step, .. } => first + i * step,
            Self::Bitmap(bitmap) => bitmap.select(i),
            Self::List { sorted, .. } => sorted[usize::try_from(i).unwrap_or(usize::MAX)],
            Self::Parts(parts) => parts.ascending(i),
        }
    }

    /// How many selected samples are below `sample`.
    pub(crate) fn count_below(&self, sample: u64) -> u64 {
        match self {
            Self::Steps { first, step, len } => {
                sample.saturating_sub(*first).div_ceil(*step).min(*len)
            }
            Self::Bitmap(bitmap) => bitmap.rank(sample),
            Self::List { sorted, .. } => sorted.partition_point(|&x| x < sample) as u64,
            Self::Parts(parts) => parts.count_below(sample),
        }
    }

    /// The `i` of [`Selected::get`] for a sample; `None` if it is not selected, or listed.
    pub(crate) fn index_of(&self, sample: u64) -> Option<u64> {
        if self.is_listed() {
            return None;
        }
        let i = self.count_below(sample);
        (i < self.len() && self.ascending(i) == sample).then_some(i)
    }

    fn lowest(&self) -> Option<u64> {
        (self.len() > 0).then(|| self.ascending(0))
    }

    fn highest(&self) -> Option<u64> {
        Some(self.ascending(self.len().checked_sub(1)?))
    }
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "small numbers")]
mod tests {
    use super::*;

    fn samples(geometry: &Geometry) -> Vec<u64> {
        (0..geometry.len())
            .map(|i| geometry.selected().ascending(i))
            .collect()
    }

    #[test]
    fn locate_agrees_with_chunk() {
        let g = Geometry::of(&[(100, 7), (1, 16), (64, 16)]);
        for ordinal in 0..g.num_chunks() {
            let place = g.chunk(ordinal);
            for row in 0..place.num_samples {
                assert_eq!(g.locate(place.first_sample + u64::from(row)), place);
            }
        }
    }

    #[test]
    fn the_most_common_value_has_the_greatest_weight_of_all_its_parts() {
        assert_eq!(most_common([(5, 2), (7, 3), (5, 2)].into_iter()), 5);
        assert_eq!(most_common([(7, 3), (5, 2), (5, 1)].into_iter()), 5);
        assert_eq!(most_common([(0, 9), (3, 1)].into_iter()), 3);
        assert_eq!(most_common(std::iter::empty()), 1);
    }

    #[test]
    fn odd_chunks_are_those_of_another_size_than_most() {
        let bits = |f: &dyn Fn(u64) -> bool| {
            let mut bitmap = Bitmap::new(261);
            (0..261).filter(|&i| f(i)).for_each(|i| bitmap.set(i));
            Selected::Bitmap(Arc::new(bitmap.finish()))
        };
        let steps = |first, step, len| Selected::Steps { first, step, len };
        for selected in [
            steps(0, 1, 261),
            steps(5, 1, 200),
            steps(100, 1, 1),
            steps(13, 1, 8),
            steps(3, 5, 50),
            bits(&|i| i % 3 == 1),
            bits(&|i| i > 50 && i < 90),
            Selected::list(vec![5, 5, 5, 260, 0, 7, 130, 131]),
        ] {
            let g = Geometry::of(&[(100, 7), (1, 16), (0, 9), (64, 16), (96, 7)]).select(selected);
            let (common, odd) = g.odd_chunks();
            let mut found = vec![common; g.num_chunks() as usize];
            for (ordinal, n) in odd {
                assert_ne!(n, common);
                found[ordinal as usize] = n;
            }
            let all = samples(&g);
            let mut next = 0;
            for ordinal in 0..g.num_chunks() {
                let place = g.chunk(ordinal);
                let inside = place.first_sample..place.first_sample + u64::from(place.num_samples);
                let expected = all.iter().filter(|x| inside.contains(x)).count() as u64;
                assert_eq!(
                    found[ordinal as usize], expected,
                    "{ordinal} {:?}",
                    g.selected
                );
                assert_eq!(g.ranks(&place), next..next + expected);
                assert!(expected <= g.largest_chunk());
                next += expected;
            }
            assert_eq!(next, g.len());
        }
    }

    #[test]
    fn ranks_and_selections_invert_each_other() {
        let steps = Selected::Steps {
            first: 3,
            step: 4,
            len: 5,
        };
        assert_eq!(steps.index_of(11), Some(2));
        assert_eq!(steps.index_of(12), None);
        assert_eq!(steps.index_of(23), None);
        assert_eq!((steps.count_below(3), steps.count_below(4)), (0, 1));
        let list = Selected::list(vec![9, 2, 9]);
        assert_eq!((list.get(0), list.ascending(0), list.len()), (9, 2, 3));
        assert_eq!(list.index_of(9), None);
    }
}
