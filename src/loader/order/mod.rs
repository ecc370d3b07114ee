//! The order of an epoch. Pure: a function of (geometry, seed, epoch, options), and of nothing else. Nothing is built
//! that grows with the number of samples, and every position is found without those before it.
//!
//! `order_version` 1, frozen in format-spec 13.

pub(crate) mod bijection;
pub(crate) mod bitmap;
pub(crate) mod epoch;
pub(crate) mod geometry;
#[cfg(test)]
pub(crate) mod golden;
pub(crate) mod mixture;
pub(crate) mod parts;
pub(crate) mod pools;
pub(crate) mod windowed;

use bijection::{Permutation, hash};
use geometry::Geometry;
use mixture::Alias;
use windowed::Windowed;

use std::sync::Arc;

use crate::error::{Error, Result};

/// The version of the order, part of a loader's state.
pub(crate) const ORDER_VERSION: u32 = 1;
/// Lanes unless asked otherwise.
pub(crate) const LANES: u32 = 64;

/// How samples are ordered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Shuffle {
    /// As they were written.
    #[default]
    None,
    /// Chunks in random order, and their samples mixed within a rolling window of chunks. Every chunk is decoded once
    /// per epoch (those where two lanes meet, in two parts).
    Windowed {
        /// Chunks that are mixed with each other, at least 1.
        window: u32,
    },
    /// Uniform over all samples. Costs about one decoded piece per sample.
    Exact,
}

impl Shuffle {
    /// The windowed shuffle with a window of 64 chunks.
    pub fn windowed() -> Self {
        Self::Windowed { window: 64 }
    }
}

/// The order of all selected samples of a dataset, once.
#[derive(Debug)]
pub(crate) enum Order {
    Sequential,
    Windowed(Windowed),
    Exact(Permutation),
    /// Drawn by weight.
    Drawn(Arc<Alias>, u64),
}

impl Order {
    /// `key` is that of the epoch.
    pub(crate) fn new(geometry: &Geometry, shuffle: Shuffle, lanes: u32, key: u64) -> Result<Self> {
        Ok(match shuffle {
            Shuffle::None => Self::Sequential,
            Shuffle::Windowed { window: 0 } => {
                return Err(Error::invalid("the shuffle window has at least 1 chunk"));
            }
            Shuffle::Windowed { .. } if lanes == 0 => {
                return Err(Error::invalid("the windowed shuffle has at least 1 lane"));
            }
            Shuffle::Windowed { window } => {
                Self::Windowed(Windowed::new(geometry, window, lanes, key))
            }
            Shuffle::Exact => Self::Exact(Permutation::new(geometry.len(), key)),
        })
    }

    /// The sample at a position, which is below the number of samples.
    pub(crate) fn at(&self, geometry: &Geometry, position: u64) -> u64 {
        match self {
            Self::Sequential => geometry.selected().get(position),
            Self::Windowed(windowed) => windowed.at(geometry, position),
            Self::Exact(permutation) => geometry.selected().get(permutation.get(position)),
            Self::Drawn(alias, key) => geometry.selected().get(alias.draw(*key, position)),
        }
    }

    /// Where the exact order delivers a sample; `None` in another order, or if it is not selected.
    pub(crate) fn position_of(&self, geometry: &Geometry, sample: u64) -> Option<u64> {
        match self {
            Self::Exact(permutation) => {
                Some(permutation.invert(geometry.selected().index_of(sample)?))
            }
            _ => None,
        }
    }
}

/// The key of an epoch.
pub(crate) fn epoch_key(seed: u64, epoch: u64) -> u64 {
    hash(seed, epoch)
}

#[cfg(test)]
mod tests {
    use super::geometry::Selected;
    use super::*;

    const MODES: [Shuffle; 4] = [
        Shuffle::None,
        Shuffle::Windowed { window: 1 },
        Shuffle::Windowed { window: 64 },
        Shuffle::Exact,
    ];

    fn order(g: &Geometry, shuffle: Shuffle, lanes: u32, seed: u64, epoch: u64) -> Vec<u64> {
        let order = Order::new(g, shuffle, lanes, epoch_key(seed, epoch)).unwrap();
        (0..g.len()).map(|position| order.at(g, position)).collect()
    }

    #[test]
    fn every_mode_delivers_each_selected_sample_once() {
        for selected in [
            Selected::Steps {
                first: 0,
                step: 1,
                len: 198,
            },
            Selected::Steps {
                first: 20,
                step: 1,
                len: 101,
            },
            Selected::Steps {
                first: 2,
                step: 3,
                len: 60,
            },
            Selected::list(vec![9, 100, 9, 3, 197, 64]),
        ] {
            let g = Geometry::of(&[(100, 7), (1, 16), (64, 16), (33, 5)]).select(selected);
            let expected: Vec<u64> = (0..g.len()).map(|i| g.selected().ascending(i)).collect();
            for shuffle in MODES {
                for lanes in [1, 3, 64] {
                    let mut all = order(&g, shuffle, lanes, 1, 2);
                    if shuffle == Shuffle::None {
                        assert!((0..).zip(&all).all(|(i, &x)| g.selected().get(i) == x));
                    }
                    all.sort_unstable();
                    assert_eq!(all, expected, "{shuffle:?}");
                }
            }
        }
    }

    #[test]
    fn seed_epoch_window_and_lanes_change_the_order() {
        let g = Geometry::of(&[(1000, 16), (500, 32)]);
        for shuffle in [Shuffle::Windowed { window: 8 }, Shuffle::Exact] {
            let base = order(&g, shuffle, 4, 1, 0);
            assert_eq!(base, order(&g, shuffle, 4, 1, 0));
            assert_ne!(base, order(&g, shuffle, 4, 1, 1));
            assert_ne!(base, order(&g, shuffle, 4, 2, 0));
        }
        let windowed = |window, lanes| order(&g, Shuffle::Windowed { window }, lanes, 1, 0);
        assert_ne!(windowed(8, 4), windowed(4, 4));
        assert_ne!(windowed(8, 4), windowed(8, 8));
        assert_eq!(windowed(8, 8), windowed(8, 64));
        assert_eq!(windowed(9, 8), windowed(8, 8));
    }

    #[test]
    fn golden_orders_are_reproduced() {
        let cases = golden::cases(include_str!("../../../tests/data/orders/v1.json"));
        assert!(cases.len() > 70);
        for case in cases {
            let (mut track, n) = case.track(case.geometry());
            let order: Vec<u64> = (0..n).map(|i| track.at(i).unwrap()).collect();
            assert_eq!(order, case.list("order"), "{:?}", case.shuffle());
        }
    }
}
