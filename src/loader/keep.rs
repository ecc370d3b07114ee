//! Which decoded samples the exact shuffle keeps for later. Pure.
//!
//! A piece is decoded for one sample, but holds several: the others are kept until their time comes, as far as memory
//! goes. The order is known, so those are kept that are needed first (Belady, "A study of replacement algorithms for a
//! virtual-storage computer", 1966). This decides how often pieces are decoded, never the order.

use std::collections::BTreeSet;

/// The samples that are kept, by the position in the epoch that they are kept for.
#[derive(Debug)]
pub(crate) struct Keeper {
    capacity: usize,
    group: u32,
    kept: BTreeSet<u64>,
}

/// What became of an offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Offer {
    /// The sample is to be kept; in place of the one at this position, if there was no room.
    Kept(Option<u64>),
    /// Everything that is kept is needed earlier, or this is kept already.
    Declined,
}

impl Keeper {
    /// Keeps up to `capacity` samples. `group` consecutive samples of a chunk are decoded together.
    pub(crate) fn new(capacity: usize, group: u32) -> Self {
        Self {
            capacity,
            group: group.max(1),
            kept: BTreeSet::new(),
        }
    }

    /// Samples that are decoded together at most.
    pub(crate) fn group(&self) -> u64 {
        u64::from(self.group)
    }

    /// The rows of a chunk of `num_samples` that are decoded together with `row`.
    pub(crate) fn group_of(&self, row: u32, num_samples: u32) -> std::ops::Range<u32> {
        let first = row - row % self.group;
        first..first.saturating_add(self.group).min(num_samples)
    }

    /// True if the sample of this position is kept; it is not any more.
    pub(crate) fn take(&mut self, position: u64) -> bool {
        self.kept.remove(&position)
    }

    /// True if the sample of this position is kept.
    pub(crate) fn holds(&self, position: u64) -> bool {
        self.kept.contains(&position)
    }

    /// Offers the sample of a later position.
    pub(crate) fn offer(&mut self, position: u64) -> Offer {
        if self.holds(position) {
            return Offer::Declined;
        }
        let mut evicted = None;
        if self.kept.len() >= self.capacity {
            match self.kept.last() {
                Some(&last) if last > position => evicted = Some(last),
                _ => return Offer::Declined,
            }
            self.kept.pop_last();
        }
        self.kept.insert(position);
        Offer::Kept(evicted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_needed_first_is_kept() {
        let mut keeper = Keeper::new(2, 5);
        assert_eq!(keeper.offer(10), Offer::Kept(None));
        assert_eq!(keeper.offer(10), Offer::Declined);
        assert_eq!(keeper.offer(30), Offer::Kept(None));
        assert_eq!(keeper.offer(40), Offer::Declined);
        assert_eq!(keeper.offer(20), Offer::Kept(Some(30)));
        assert!(keeper.take(10) && !keeper.take(10) && !keeper.holds(30) && keeper.holds(20));
        assert_eq!(keeper.offer(99), Offer::Kept(None));
        assert_eq!(Keeper::new(0, 1).offer(1), Offer::Declined);
    }

    #[test]
    fn groups_end_with_the_chunk() {
        let keeper = Keeper::new(1, 5);
        assert_eq!(keeper.group_of(7, 20), 5..10);
        assert_eq!(keeper.group_of(11, 12), 10..12);
        assert_eq!(Keeper::new(1, 0).group_of(3, 4), 3..4);
    }
}
