//! Which prediction pays for a field: the one whose differences have the least entropy on a sample of its values.

use super::{DEFAULT_REFERENCE, FilterSpec, Predict, PredictMode, Window};
use crate::error::Result;
use crate::kernel::predict::apply;

/// Values that are looked at: enough for a histogram of bytes, whatever the shape.
const MAX_BYTES: usize = 1 << 20;
/// An axis with more indices is not taken for channels.
const MAX_CHANNELS: usize = 4;
/// A choice must save this part of the bits of the one before, which is simpler.
const MIN_GAIN: f64 = 0.01;
/// The same for the mode of a chunk: what a sample tells no better.
const MIN_GAIN_OF_MODE: f64 = 0.001;

/// The modes that there are to choose from, simple ones first, and how many axes they look along.
const MODES: [(PredictMode, usize); 5] = [
    (PredictMode::None, 0),
    (PredictMode::Left, 1),
    (PredictMode::Up, 2),
    (PredictMode::Plane, 2),
    (PredictMode::Volume, 3),
];

/// Chooses the options for a field, given some of its samples: stored elements of `elem_size` bytes (1, 2, 4 or 8), one
/// shape, sample after sample. `None` if prediction does not pay. Wider elements are zigzagged, so that their high
/// bytes are near 0.
pub(crate) fn choose(elem_size: usize, shape: &[usize], samples: &[u8]) -> Option<Predict> {
    let sample = shape
        .iter()
        .try_fold(elem_size, |n, &dim| n.checked_mul(dim))?;
    let whole = (MAX_BYTES.min(samples.len()).max(sample) / sample.max(1)).saturating_mul(sample);
    let samples = samples.get(..whole).filter(|samples| !samples.is_empty())?;
    let mut best: Option<Predict> = None;
    let mut best_bits = bits(elem_size, samples);
    let mut differences = vec![0; samples.len()];
    for predict in candidates(elem_size, shape) {
        apply(
            &predict.grid(elem_size, shape),
            0,
            samples,
            &mut differences,
        );
        let bits = bits(elem_size, &differences);
        if bits < best_bits * (1.0 - MIN_GAIN) {
            (best, best_bits) = (Some(predict), bits);
        }
    }
    best
}

/// Every prediction worth a try, simple ones first.
fn candidates(elem_size: usize, shape: &[usize]) -> impl Iterator<Item = Predict> {
    let rank = shape.len();
    let mut channels: Vec<Option<(u8, u8)>> = vec![None];
    let axes = [(0, shape.first()), (rank.saturating_sub(1), shape.last())];
    for (axis, len) in axes {
        let (Ok(axis), Some(&len), 3..) = (u8::try_from(axis), len, rank) else {
            continue;
        };
        if (2..=MAX_CHANNELS).contains(&len) {
            channels.push(Some((axis, DEFAULT_REFERENCE)));
        }
    }
    channels.into_iter().flat_map(move |channel| {
        // Neighbours are found along what is not the channel axis.
        let spatial = rank - usize::from(channel.is_some());
        MODES
            .into_iter()
            .filter(move |(mode, axes)| {
                *axes <= spatial && (*mode != PredictMode::None || channel.is_some())
            })
            .flat_map(move |(mode, _)| {
                let mut plain = Predict::new(mode);
                if elem_size > 1 {
                    plain = plain.zigzag();
                }
                let with = channel.map(|(axis, reference)| {
                    let placed = plain.channel_axis(axis);
                    // Channels at the end: the place of neighbours differs even without a reference.
                    let last = usize::from(axis) + 1 == rank && mode != PredictMode::None;
                    [last.then_some(placed), Some(placed.reference(reference))]
                });
                with.unwrap_or([Some(plain), None]).into_iter().flatten()
            })
    })
}

/// How often every byte occurs at one place of a group of bytes.
type Counts = [u32; 256];
/// Bytes of a group: tables that are counted into in turn, so that no count waits for the one before.
const GROUP: usize = 8;
/// Of the modes of a chunk, those that leave this part more than the best so far are out.
const HOPELESS: f64 = 0.04;

/// Chooses the mode of a chunk: of the filters of a field, one has a mode that chunks choose.
pub(crate) struct ModeChooser<'a> {
    /// The filters before it.
    before: &'a [FilterSpec],
    spec: FilterSpec,
    predict: Predict,
    /// Every mode that may be the best, and what it left so far.
    modes: Vec<(PredictMode, Box<[Counts; GROUP]>)>,
    scratch: Vec<u8>,
}

impl<'a> ModeChooser<'a> {
    /// `None` if there is nothing to choose: `dims` as in a schema.
    pub(crate) fn new(filters: &'a [FilterSpec], dims: Option<&[Option<usize>]>) -> Option<Self> {
        let at = filters.iter().position(FilterSpec::is_per_chunk)?;
        let (before, rest) = filters.split_at(at);
        let spec = *rest.first()?;
        let predict = spec.predict?;
        let channels = usize::from(predict.channel_axis.is_some());
        let spatial = dims.map_or(usize::MAX, |dims| dims.len().saturating_sub(channels));
        let modes = MODES
            .into_iter()
            .filter(|(_, axes)| *axes <= spatial)
            .map(|(mode, _)| (mode, Box::new([[0; 256]; GROUP])));
        Some(Self {
            before,
            spec,
            predict,
            modes: modes.collect(),
            scratch: Vec::new(),
        })
    }

    /// The prediction whose mode is to be chosen.
    pub(crate) fn predict(&self) -> &Predict {
        &self.predict
    }

    /// Counts what every mode leaves of some stored elements of the chunk.
    ///
    /// # Errors
    /// `Unsupported` if this build lacks a filter.
    pub(crate) fn add(&mut self, window: &Window<'_>) -> Result<()> {
        let elem_size = self.spec.elem_size();
        let layout = window.layout(elem_size);
        let mut filtered = window.bytes().to_vec();
        self.scratch.resize(filtered.len(), 0);
        for spec in self.before {
            spec.filter()?
                .apply(*spec, &layout, &filtered, &mut self.scratch);
            std::mem::swap(&mut filtered, &mut self.scratch);
        }
        for (mode, counts) in &mut self.modes {
            let grid = self.predict.in_chunk(*mode).grid(elem_size, layout.shape);
            apply(&grid, 0, &filtered, &mut self.scratch);
            for range in window.counted() {
                count(counts, &self.scratch[range.clone()]);
            }
        }
        Ok(())
    }

    /// After a part of the windows: drops modes that cannot become the best any more.
    pub(crate) fn drop_hopeless(&mut self) {
        let elem_size = self.spec.elem_size();
        let all: Vec<f64> = self
            .modes
            .iter()
            .map(|(_, counts)| entropy(elem_size, counts))
            .collect();
        let best = all.iter().copied().fold(f64::INFINITY, f64::min);
        let mut bits = all.iter();
        self.modes.retain(|_| {
            bits.next()
                .is_some_and(|bits| *bits <= best * (1.0 + HOPELESS))
        });
    }

    /// The mode that leaves least, or a simpler one that is as good.
    pub(crate) fn least(&self) -> PredictMode {
        let mut best = PredictMode::None;
        let mut best_bits = f64::INFINITY;
        for (mode, counts) in &self.modes {
            let bits = entropy(self.spec.elem_size(), counts);
            if bits < best_bits * (1.0 - MIN_GAIN_OF_MODE) {
                (best, best_bits) = (*mode, bits);
            }
        }
        best
    }
}

/// Order-0 entropy in bits, byte plane by byte plane.
fn bits(elem_size: usize, values: &[u8]) -> f64 {
    let mut counts = [[0; 256]; GROUP];
    count(&mut counts, values);
    entropy(elem_size, &counts)
}

/// Counts bytes, each by its place in a group.
fn count(counts: &mut [Counts; GROUP], values: &[u8]) {
    let (groups, rest) = values.as_chunks::<GROUP>();
    for group in groups {
        for (counts, &byte) in counts.iter_mut().zip(group) {
            counts[usize::from(byte)] += 1;
        }
    }
    for (counts, &byte) in counts.iter_mut().zip(rest) {
        counts[usize::from(byte)] += 1;
    }
}

/// In bits, byte plane by byte plane of the elements.
fn entropy(elem_size: usize, counts: &[Counts; GROUP]) -> f64 {
    let plane = |plane: usize| {
        let mut sums = [0u32; 256];
        for counts in counts.iter().skip(plane).step_by(elem_size) {
            for (sum, count) in sums.iter_mut().zip(counts) {
                *sum += count;
            }
        }
        let all = f64::from(sums.iter().sum::<u32>());
        -sums
            .iter()
            .filter(|count| **count > 0)
            .map(|&count| f64::from(count) * (f64::from(count) / all).log2())
            .sum::<f64>()
    };
    (0..elem_size).map(plane).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(n: usize) -> impl Iterator<Item = u64> {
        let mut state = 5u64;
        (0..n).map(move |_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            state >> 56
        })
    }

    fn byte(x: u64) -> u8 {
        x.to_le_bytes()[0]
    }

    #[test]
    fn noise_and_nothing_are_not_predicted() {
        let white: Vec<u8> = noise(65536).map(byte).collect();
        for (elem_size, shape) in [
            (1, &[4, 32, 32][..]),
            (2, &[64, 64]),
            (4, &[1024]),
            (1, &[]),
        ] {
            assert_eq!(choose(elem_size, shape, &white), None, "{shape:?}");
        }
        assert_eq!(choose(1, &[3, 0], &[]), None);
        assert_eq!(choose(1, &[100], &white[..50]), None);
    }

    #[test]
    fn smooth_fields_are_predicted_along_their_axes() {
        let walk = |n| {
            noise(n).scan(0u64, |x, step| {
                *x = x.wrapping_add(step % 3).wrapping_sub(1);
                Some(byte(*x))
            })
        };
        let lines: Vec<u8> = walk(65536).collect();
        let left = choose(1, &[65536], &lines);
        assert_eq!(left, Some(Predict::new(PredictMode::Left)));
        // A plane: the sum of a walk along each axis, and channels that follow it.
        let (rows, columns): (Vec<u8>, Vec<u8>) = (walk(64).collect(), walk(64).collect());
        let mut texture = noise(4096);
        let mut plane = Vec::new();
        for row in &rows {
            for column in &columns {
                let grain = byte(texture.next().unwrap_or(0) % 40);
                plane.push(row.wrapping_add(*column).wrapping_add(grain));
            }
        }
        let shifted = |by: u8| plane.iter().map(move |x| x.wrapping_add(by));
        let planar: Vec<u8> = shifted(9).chain(shifted(0)).chain(shifted(30)).collect();
        let green = choose(1, &[3, 64, 64], &planar);
        assert_eq!(green.and_then(|p| p.channel_axis), Some(0));
        assert_eq!(green.and_then(|p| p.reference), Some(1));
    }

    #[test]
    fn channels_at_the_end_are_found() {
        // Rows and columns that differ a lot, exactly additive: only 2d in each channel leaves nothing.
        let rows: Vec<u64> = noise(64).collect();
        let mut pixels = Vec::new();
        for row in &rows {
            for column in rows.iter().rev() {
                let x = row + column;
                pixels.extend([byte(x), byte(x * 3 + row), byte(x * 7)]);
            }
        }
        let chosen = choose(1, &[64, 64, 3], &pixels);
        assert_eq!(chosen.map(|p| p.mode), Some(PredictMode::Plane));
        assert_eq!(chosen.and_then(|p| p.channel_axis), Some(2));
    }

    #[test]
    fn wide_elements_are_zigzagged() {
        let ramp: Vec<u8> = (0..4096i32)
            .flat_map(|i| (i * 7 - 9000 + i % 5).to_le_bytes())
            .collect();
        let chosen = choose(4, &[4096], &ramp);
        assert_eq!(chosen, Some(Predict::new(PredictMode::Left).zigzag()));
    }
}
