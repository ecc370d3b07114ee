//! Which positions of the epoch make which batch, and which of them are a rank's. Pure.

use std::ops::Range;

/// What becomes of the samples at the end of an epoch that do not fill a batch of all ranks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tail {
    /// They make a short batch, shared out as evenly as possible: ranks differ by one sample, and may get an empty
    /// batch. All ranks have the same number of batches.
    #[default]
    Short,
    /// They are left out.
    Drop,
    /// The batch is filled up by repeating its samples: see [`crate::Batch::num_padded`].
    Pad,
}

/// How the positions of an epoch are dealt out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Deal {
    /// A rank has every world_size-th position: those of its lanes.
    Lanes,
    /// A rank has consecutive positions of a batch.
    Runs,
}

/// The part of one rank of the positions from `start` on.
#[derive(Clone, Debug)]
pub(crate) struct Share {
    pub(crate) rank: u64,
    pub(crate) world: u64,
    /// Samples of a batch of all ranks.
    pub(crate) global_batch: u64,
    pub(crate) start: u64,
    /// Where the epoch ends, and where its last full or short batch does.
    pub(crate) num_samples: u64,
    end: u64,
    /// A batch that is padded begins here.
    padded: Option<u64>,
    pub(crate) deal: Deal,
}

impl Share {
    /// `global_batch` is a multiple of `world`, and at least that.
    pub(crate) fn new(
        (rank, world): (u64, u64),
        global_batch: u64,
        (start, num_samples): (u64, u64),
        tail: Tail,
        deal: Deal,
    ) -> Self {
        let start = start.min(num_samples);
        let rest = (num_samples - start) % global_batch;
        let (end, padded) = match tail {
            Tail::Short => (num_samples, None),
            Tail::Drop => (num_samples - rest, None),
            Tail::Pad if rest == 0 => (num_samples, None),
            Tail::Pad => (num_samples - rest, Some(num_samples - rest)),
        };
        Self {
            rank,
            world,
            global_batch,
            start,
            num_samples,
            end,
            padded,
            deal,
        }
    }

    /// Batches of this and of every other rank.
    pub(crate) fn num_batches(&self) -> u64 {
        self.full_batches() + u64::from(self.padded.is_some())
    }

    /// Batches without the padded one.
    pub(crate) fn full_batches(&self) -> u64 {
        (self.end - self.start).div_ceil(self.global_batch)
    }

    /// Where the positions end that are delivered as they come: without those of a padded batch.
    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    /// The positions of a batch of all ranks.
    pub(crate) fn positions(&self, batch: u64) -> Range<u64> {
        let first = self.start + batch * self.global_batch;
        let end = first.saturating_add(self.global_batch);
        match self.padded {
            Some(padded) if first == padded => first..self.num_samples,
            _ => first.min(self.end)..end.min(self.end),
        }
    }

    /// Where the epoch stands when a batch was delivered: samples that all ranks have consumed.
    pub(crate) fn consumed(&self, batches: u64) -> u64 {
        if batches >= self.num_batches() {
            return self.num_samples;
        }
        self.start + batches * self.global_batch
    }

    /// The positions that a rank delivers in a batch: every `.1`-th of the range. Of a padded batch, those beyond the
    /// end of the epoch repeat its samples.
    pub(crate) fn own(&self, batch: u64) -> (Range<u64>, u64) {
        let mut all = self.positions(batch);
        if self.padded == Some(all.start) {
            all.end = all.start + self.global_batch;
        }
        match self.deal {
            Deal::Lanes => {
                let ahead = (self.rank + self.world - all.start % self.world) % self.world;
                let first = (all.start + ahead).min(all.end);
                (first..all.end, self.world)
            }
            Deal::Runs => {
                let len = all.end - all.start;
                let (each, more) = (len / self.world, len % self.world);
                let before = self.rank * each + self.rank.min(more);
                let own = each + u64::from(self.rank < more);
                (all.start + before..all.start + before + own, 1)
            }
        }
    }

    /// Samples of a batch of this rank.
    pub(crate) fn batch_len(&self, batch: u64) -> u64 {
        let (range, step) = self.own(batch);
        (range.end - range.start).div_ceil(step)
    }

    /// The slots of a batch of this rank that repeat samples: as many at its end.
    pub(crate) fn num_padded(&self, batch: u64) -> u64 {
        let (range, step) = self.own(batch);
        let real = self.positions(batch).end;
        let before = real.saturating_sub(range.start).div_ceil(step);
        (range.end - range.start)
            .div_ceil(step)
            .saturating_sub(before)
    }

    /// The positions of a batch of this rank, slot by slot: repeated ones as those that they repeat.
    pub(crate) fn slots(&self, batch: u64) -> impl Iterator<Item = u64> {
        let (range, step) = self.own(batch);
        let real = self.positions(batch);
        let len = (real.end - real.start).max(1);
        (range.start..range.end)
            .step_by(usize::try_from(step).unwrap_or(usize::MAX))
            .map(move |position| real.start + (position - real.start) % len)
    }

    /// Batch and slot of a position that this rank delivers, in a batch that is not padded.
    pub(crate) fn place(&self, position: u64) -> Option<(u64, u32)> {
        if position < self.start || position >= self.end {
            return None;
        }
        let (batch, within) = (
            (position - self.start) / self.global_batch,
            (position - self.start) % self.global_batch,
        );
        if self.world == 1 {
            return Some((batch, slot(within)));
        }
        match self.deal {
            Deal::Lanes => {
                if position % self.world != self.rank {
                    return None;
                }
                // As many positions of this rank come before it.
                Some((batch, slot(within / self.world)))
            }
            Deal::Runs => {
                let (range, _) = self.own(batch);
                let within = range.contains(&position).then(|| position - range.start)?;
                Some((batch, slot(within)))
            }
        }
    }
}

/// Slots are below batch_size, which is checked to fit.
fn slot(x: u64) -> u32 {
    u32::try_from(x).unwrap_or(u32::MAX)
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "small numbers")]
mod tests {
    use super::*;

    #[test]
    fn ranks_share_every_batch_and_agree_on_their_number() {
        for world in [1, 2, 3, 4, 8] {
            for deal in [Deal::Lanes, Deal::Runs] {
                for tail in [Tail::Short, Tail::Drop, Tail::Pad] {
                    for (start, n, each) in [
                        (0, 100, 1),
                        (0, 0, 2),
                        (7, 100, 3),
                        (100, 100, 4),
                        (3, 50, 40),
                    ] {
                        check(world, deal, tail, (start, n), each * world);
                    }
                }
            }
        }
    }

    fn check(world: u64, deal: Deal, tail: Tail, (start, n): (u64, u64), global_batch: u64) {
        let shares: Vec<Share> = (0..world)
            .map(|rank| Share::new((rank, world), global_batch, (start, n), tail, deal))
            .collect();
        let num_batches = shares[0].num_batches();
        let left = n - start;
        let expected = match tail {
            Tail::Drop => left / global_batch,
            _ => left.div_ceil(global_batch),
        };
        assert_eq!(num_batches, expected);
        let mut times = vec![0; n as usize];
        for batch in 0..num_batches {
            let mut padded = 0;
            let mut lens = Vec::new();
            for share in &shares {
                assert_eq!(share.num_batches(), num_batches);
                let slots: Vec<u64> = share.slots(batch).collect();
                assert_eq!(slots.len() as u64, share.batch_len(batch));
                let real = slots.len() - share.num_padded(batch) as usize;
                padded += share.num_padded(batch);
                for (slot, &position) in slots.iter().enumerate() {
                    assert!(share.positions(batch).contains(&position));
                    if slot < real {
                        times[position as usize] += 1;
                        if share.padded != Some(share.positions(batch).start) {
                            assert_eq!(share.place(position), Some((batch, slot as u32)));
                        }
                    }
                }
                lens.push(slots.len());
            }
            let (least, most) = (lens.iter().min().unwrap(), lens.iter().max().unwrap());
            assert!(most - least <= usize::from(tail == Tail::Short));
            let positions = shares[0].positions(batch);
            assert_eq!(
                positions.end - positions.start + padded,
                lens.iter().sum::<usize>() as u64
            );
            if tail != Tail::Short {
                assert_eq!(lens.iter().sum::<usize>() as u64, global_batch);
            }
            assert_eq!(shares[0].consumed(batch), start + batch * global_batch);
        }
        let expected = |i: u64| {
            let dropped = tail == Tail::Drop && i >= n - left % global_batch;
            u32::from(i >= start && !dropped)
        };
        assert!(
            (0..n).all(|i| times[i as usize] == expected(i)),
            "{times:?}"
        );
        assert_eq!(shares[0].consumed(num_batches), n);
    }
}
