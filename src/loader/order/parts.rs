//! Parts of samples as what an order is about (format-spec 13.8). Pure.
//!
//! Part w of sample s has the id s * per + w, where no sample has more than `per` parts. So the order of parts is that
//! of a dataset whose shards and chunks are `per` times as large, of which those ids are selected that exist.

use std::sync::Arc;

use super::geometry::Selected;

/// The parts of the selected samples.
#[derive(Debug)]
pub(crate) struct PartIds {
    samples: Selected,
    per: u64,
    counts: Counts,
}

/// How many parts the selected samples have.
#[derive(Debug)]
enum Counts {
    /// All the same.
    Same(u64),
    /// The parts of the first samples together, one after the other.
    Ends {
        ascending: Vec<u64>,
        /// In the order of a list.
        listed: Option<Vec<u64>>,
    },
}

impl Selected {
    /// The parts of these samples: `counts` has the number for each sample of the dataset, at most `per`; or all have
    /// `per`. Takes 8 bytes for each selected sample if counts differ, and as much again for a list.
    pub(crate) fn parts(self, per: u64, counts: Option<&[u32]>) -> Self {
        let counts = match counts {
            Some(counts) => {
                let of = |sample| {
                    let at = usize::try_from(sample).unwrap_or(usize::MAX);
                    u64::from(counts.get(at).copied().unwrap_or(0))
                };
                let ends = |get: &dyn Fn(u64) -> u64| {
                    let ends = (0..self.len()).scan(0, |end, i| {
                        *end += of(get(i));
                        Some(*end)
                    });
                    ends.collect::<Vec<u64>>()
                };
                Counts::Ends {
                    ascending: ends(&|i| self.ascending(i)),
                    listed: self.is_listed().then(|| ends(&|i| self.get(i))),
                }
            }
            None => match self {
                Self::Steps {
                    first,
                    step: 1,
                    len,
                } => {
                    return Self::Steps {
                        first: first * per,
                        step: 1,
                        len: len * per,
                    };
                }
                _ => Counts::Same(per),
            },
        };
        Self::Parts(Arc::new(PartIds {
            samples: self,
            per,
            counts,
        }))
    }
}

impl PartIds {
    pub(crate) fn len(&self) -> u64 {
        self.before(self.samples.len())
    }

    pub(crate) fn is_listed(&self) -> bool {
        self.samples.is_listed()
    }

    /// The `i`-th part in the order of the list, if there is one.
    pub(crate) fn get(&self, i: u64) -> u64 {
        let (at, first) = match &self.counts {
            Counts::Same(n) => (i / n, i / n * n),
            Counts::Ends {
                listed: Some(ends), ..
            } => find(ends, i),
            Counts::Ends { .. } => return self.ascending(i),
        };
        self.samples.get(at) * self.per + (i - first)
    }

    /// The `i`-th part in ascending order.
    pub(crate) fn ascending(&self, i: u64) -> u64 {
        let at = match &self.counts {
            Counts::Same(n) => i / n,
            Counts::Ends { ascending, .. } => find(ascending, i).0,
        };
        let sample = self.samples.ascending(at);
        let (first, end) = self.times(sample);
        // A part of a sample that is listed several times comes as often before the next part does.
        sample * self.per + (i - self.before(first)) / (end - first).max(1)
    }

    /// How many parts are below an id.
    pub(crate) fn count_below(&self, id: u64) -> u64 {
        let (sample, part) = (id / self.per, id % self.per);
        let (first, end) = self.times(sample);
        let before = self.before(first);
        if first == end {
            return before;
        }
        let count = self.before(first + 1) - before;
        before + part.min(count) * (end - first)
    }

    /// Where a sample is among the selected ones in ascending order.
    fn times(&self, sample: u64) -> (u64, u64) {
        (
            self.samples.count_below(sample),
            self.samples.count_below(sample + 1),
        )
    }

    /// The parts of the first `n` selected samples in ascending order.
    fn before(&self, n: u64) -> u64 {
        match &self.counts {
            Counts::Same(each) => n * each,
            Counts::Ends { ascending, .. } => n
                .checked_sub(1)
                .and_then(|last| ascending.get(usize::try_from(last).ok()?))
                .copied()
                .unwrap_or(0),
        }
    }
}

/// The sample that has the `i`-th part, and the parts before its own.
fn find(ends: &[u64], i: u64) -> (u64, u64) {
    let at = ends.partition_point(|&end| end <= i);
    let before = at.checked_sub(1).and_then(|last| ends.get(last));
    (at as u64, before.copied().unwrap_or(0))
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "small numbers")]
mod tests {
    use super::*;
    use crate::loader::order::bitmap::Bitmap;
    use crate::loader::order::geometry::Geometry;
    use crate::loader::order::golden;

    /// Parts of a list of samples, one by one.
    fn expected(samples: &[u64], per: u64, counts: Option<&[u32]>) -> Vec<u64> {
        let count = |s: u64| counts.map_or(per, |c| u64::from(c[s as usize]));
        let ids = |&s: &u64| (0..count(s)).map(move |w| s * per + w);
        samples.iter().flat_map(ids).collect()
    }

    #[test]
    fn parts_are_those_of_the_selected_samples_and_invert() {
        let counts: Vec<u32> = (0..40).map(|i| [3, 0, 1, 5, 0, 2][i % 6]).collect();
        let bits = |f: &dyn Fn(u64) -> bool| {
            let mut bitmap = Bitmap::new(40);
            (0..40).filter(|&i| f(i)).for_each(|i| bitmap.set(i));
            Selected::Bitmap(Arc::new(bitmap.finish()))
        };
        let steps = |first, step, len| Selected::Steps { first, step, len };
        for selected in [
            steps(0, 1, 40),
            steps(7, 1, 12),
            steps(3, 4, 9),
            steps(3, 4, 0),
            bits(&|i| i % 3 == 1),
            Selected::list(vec![9, 30, 9, 3, 39, 9, 1]),
        ] {
            for counts in [None, Some(counts.as_slice())] {
                let per = 5;
                let listed: Vec<u64> = (0..selected.len()).map(|i| selected.get(i)).collect();
                let parts = selected.clone().parts(per, counts);
                assert_eq!(parts.is_listed(), selected.is_listed());
                let ids = expected(&listed, per, counts);
                let got: Vec<u64> = (0..parts.len()).map(|i| parts.get(i)).collect();
                assert_eq!(got, ids);
                let mut sorted = ids.clone();
                sorted.sort_unstable();
                let got: Vec<u64> = (0..parts.len()).map(|i| parts.ascending(i)).collect();
                assert_eq!(got, sorted);
                for id in 0..=40 * per {
                    let below = sorted.iter().filter(|&&x| x < id).count() as u64;
                    assert_eq!(parts.count_below(id), below, "{id} of {selected:?}");
                    let index = sorted.iter().position(|&x| x == id).map(|i| i as u64);
                    if !parts.is_listed() {
                        assert_eq!(parts.index_of(id), index);
                    }
                }
            }
        }
    }

    #[test]
    fn golden_orders_of_windows_are_reproduced() {
        let cases = golden::cases(include_str!("../../../tests/data/orders/windows.json"));
        assert!(cases.len() > 60);
        for case in cases {
            let (length, stride) = (case.number("length"), case.number("stride"));
            let windows = |&steps: &u64| match steps.checked_sub(length) {
                Some(rest) => (rest / stride + 1) as u32,
                None => 0,
            };
            let counts: Vec<u32> = case.list("steps").iter().map(windows).collect();
            let per = *counts.iter().max().unwrap();
            let same = counts.iter().all(|&n| n == per);
            let shards = case.shards();
            let total = shards.iter().map(|&(samples, _)| samples).sum();
            let all = Selected::Steps {
                first: 0,
                step: 1,
                len: total,
            };
            let selected = case.selected().unwrap_or(all);
            let selected = selected.parts(per.into(), (!same).then_some(counts.as_slice()));
            let scaled = shards
                .iter()
                .map(|&(n, chunk)| (n * u64::from(per), chunk * per));
            let shards: Vec<(u64, u32)> = scaled.collect();
            let (mut track, n) = case.track(Geometry::of(&shards).select(selected));
            let found = (0..n).map(|i| {
                let (id, per) = (track.at(i).unwrap(), u64::from(per));
                vec![id / per, id % per * stride]
            });
            let found: Vec<Vec<u64>> = found.collect();
            assert_eq!(found, case.lists("order"), "{:?}", case.shuffle());
        }
    }
}
