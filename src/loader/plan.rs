//! The plan: rounds of the order become visits of chunks, and each sample gets a batch and a slot. Pure.

use std::sync::Arc;

use super::keep::{Keeper, Offer};
use super::sampler::{ChunkPlace, Geometry, RoundOrder, Rounds};

/// Samples of one chunk that go to consecutive slots of one batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) row: u32,
    pub(crate) count: u32,
    pub(crate) batch: u64,
    pub(crate) slot: u32,
}

/// One visit of a chunk, with entries ascending by row.
#[derive(Debug)]
pub(crate) struct Visit {
    pub(crate) place: ChunkPlace,
    pub(crate) entries: Vec<Entry>,
    /// (row, position) of samples that are kept for later, ascending.
    pub(crate) keeps: Vec<(u32, u64)>,
}

/// A kept sample that goes to its batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Recall {
    pub(crate) position: u64,
    pub(crate) sample: u64,
    pub(crate) batch: u64,
    pub(crate) slot: u32,
}

/// What a round of the order takes.
#[derive(Debug, Default)]
pub(crate) struct RoundPlan {
    pub(crate) visits: Vec<Visit>,
    /// Samples that earlier visits kept.
    pub(crate) recalls: Vec<Recall>,
    /// Positions of samples that are kept no more, for lack of room.
    pub(crate) evicted: Vec<u64>,
}

impl Visit {
    /// Puts the entries in the order of their rows.
    fn sort(&mut self) {
        if self.entries.len() != self.place.num_samples as usize {
            self.entries.sort_unstable_by_key(|entry| entry.row);
            return;
        }
        // Every row comes once, so that a row is its entry's place.
        let mut sorted = self.entries.clone();
        for entry in &self.entries {
            if let Some(place) = sorted.get_mut(entry.row as usize) {
                *place = *entry;
            }
        }
        self.entries = sorted;
    }

    /// The batches that the entries go to, ascending, and for each entry which of them.
    pub(crate) fn batches(entries: &[Entry]) -> (Vec<u64>, Vec<u32>) {
        let first = entries.iter().map(|entry| entry.batch).min().unwrap_or(0);
        let last = entries.iter().map(|entry| entry.batch).max().unwrap_or(0);
        // A visit reaches over the batches of a round, a few thousand at most: a table beats sorting.
        let place = |entry: &Entry| usize::try_from(entry.batch - first).unwrap_or(usize::MAX);
        let mut ordinals = vec![u32::MAX; usize::try_from(last - first).unwrap_or(0) + 1];
        for entry in entries {
            ordinals[place(entry)] = 0;
        }
        let mut batches = Vec::new();
        for (batch, ordinal) in (first..).zip(&mut ordinals) {
            if *ordinal == 0 {
                *ordinal = u32::try_from(batches.len()).unwrap_or(u32::MAX);
                batches.push(batch);
            }
        }
        (
            batches,
            entries.iter().map(|entry| ordinals[place(entry)]).collect(),
        )
    }
}

/// Hands out visits, round by round.
#[derive(Debug)]
pub(crate) struct Planner {
    geometry: Arc<Geometry>,
    rounds: Rounds,
    batch_size: u64,
    /// Samples that are delivered: all, or as many as fill whole batches.
    num_samples: u64,
    /// The position that comes next.
    next: u64,
    /// Exact shuffle only.
    keeper: Option<Keeper>,
}

impl Planner {
    pub(crate) fn new(
        geometry: Arc<Geometry>,
        rounds: Rounds,
        batch_size: usize,
        drop_last: bool,
        keeper: Option<Keeper>,
    ) -> Self {
        let batch_size = batch_size as u64;
        let all = geometry.num_samples();
        let num_samples = if drop_last {
            all - all % batch_size
        } else {
            all
        };
        Self {
            geometry,
            rounds,
            batch_size,
            num_samples,
            next: 0,
            keeper,
        }
    }

    /// Samples of batch `batch`.
    pub(crate) fn batch_len(&self, batch: u64) -> u64 {
        self.num_samples
            .saturating_sub(batch * self.batch_size)
            .min(self.batch_size)
    }

    pub(crate) fn num_batches(&self) -> u64 {
        self.num_samples.div_ceil(self.batch_size)
    }

    /// Batches whose every sample has been planned.
    pub(crate) fn planned_batches(&self) -> u64 {
        if self.next >= self.num_samples {
            self.num_batches()
        } else {
            self.next / self.batch_size
        }
    }

    /// What the next round takes, its visits in the order of the epoch; `None` at its end.
    pub(crate) fn next_round(&mut self) -> Option<RoundPlan> {
        if self.next >= self.num_samples {
            return None;
        }
        let round = self.rounds.next_round(&self.geometry)?;
        let mut plan = RoundPlan::default();
        let visits = &mut plan.visits;
        visits.extend(round.places.iter().map(|&place| Visit {
            place,
            entries: Vec::new(),
            keeps: Vec::new(),
        }));
        match round.order {
            RoundOrder::Sequential => {
                for visit in visits.iter_mut() {
                    self.sequential(visit);
                }
            }
            RoundOrder::Listed(order) => {
                for (place, row) in order {
                    if self.next >= self.num_samples {
                        break;
                    }
                    let (batch, slot) = (
                        self.next / self.batch_size,
                        slot(self.next % self.batch_size),
                    );
                    let visit = &mut visits[place as usize];
                    let kept = self.keeper.as_mut().map(|keeper| keeper.take(self.next));
                    if kept == Some(true) {
                        plan.recalls.push(Recall {
                            position: self.next,
                            sample: visit.place.first_sample + u64::from(row),
                            batch,
                            slot,
                        });
                    } else {
                        visit.entries.push(Entry {
                            row,
                            count: 1,
                            batch,
                            slot,
                        });
                    }
                    self.next += 1;
                }
                visits.iter_mut().for_each(Visit::sort);
            }
        }
        plan.visits.retain(|visit| !visit.entries.is_empty());
        self.keep(&mut plan);
        Some(plan)
    }

    /// Keeps samples that are decoded along with those of this round.
    fn keep(&mut self, plan: &mut RoundPlan) {
        let Some(keeper) = &mut self.keeper else {
            return;
        };
        let mut new = std::collections::BTreeSet::new();
        for visit in &mut plan.visits {
            let mut next_row = 0;
            for entry in &visit.entries {
                let rows = keeper.group_of(entry.row, visit.place.num_samples);
                for row in rows.start.max(next_row)..rows.end {
                    let sample = visit.place.first_sample + u64::from(row);
                    let position = self.rounds.position_of(sample);
                    // Of this round, or delivered, or never delivered.
                    if position < self.next || position >= self.num_samples {
                        continue;
                    }
                    if let Offer::Kept(evicted) = keeper.offer(position) {
                        visit.keeps.push((row, position));
                        new.insert(position);
                        if let Some(evicted) = evicted
                            && !new.remove(&evicted)
                        {
                            plan.evicted.push(evicted);
                        }
                    }
                }
                next_row = next_row.max(rows.end);
            }
        }
        for visit in &mut plan.visits {
            visit.keeps.retain(|(_, position)| new.contains(position));
        }
    }

    /// All rows of a chunk, one after the other, cut where batches end.
    fn sequential(&mut self, visit: &mut Visit) {
        let mut row = 0u32;
        while row < visit.place.num_samples && self.next < self.num_samples {
            let within = self.next % self.batch_size;
            let left = u64::from(visit.place.num_samples - row);
            let count = left
                .min(self.batch_size - within)
                .min(self.num_samples - self.next);
            let entry = Entry {
                row,
                count: slot(count),
                batch: self.next / self.batch_size,
                slot: slot(within),
            };
            visit.entries.push(entry);
            row += entry.count;
            self.next += count;
        }
    }
}

/// Slots and counts are below batch_size, which is checked to fit.
fn slot(x: u64) -> u32 {
    u32::try_from(x).unwrap_or(u32::MAX)
}
