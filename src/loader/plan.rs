//! The plan: the order becomes visits of chunks, round by round, and each sample gets a batch and a slot. Pure.

use std::collections::BTreeSet;

use crate::error::Result;

use super::keep::{Keeper, Offer};
use super::lanes::LaneFeed;
use super::order::Order;
use super::order::epoch::Epoch;
use super::order::geometry::{ChunkPlace, Geometry};
use super::order::windowed::BlockSamples;
use super::share::Share;

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
    fn new(place: ChunkPlace, entries: Vec<Entry>) -> Self {
        Self {
            place,
            entries,
            keeps: Vec::new(),
        }
    }

    /// Puts the entries in the order of their rows.
    fn sort(&mut self) {
        let rows = || self.entries.iter().map(|entry| entry.row);
        let (first, last) = (rows().min().unwrap_or(0), rows().max().unwrap_or(0));
        let span = last as usize - first as usize + 1;
        if self.entries.len() != span {
            self.entries.sort_unstable_by_key(|entry| entry.row);
            return;
        }
        // Every row of a stretch comes once (or the sort below finds out), so that a row is its entry's place.
        let mut sorted = self.entries.clone();
        for entry in &self.entries {
            if let Some(place) = sorted.get_mut((entry.row - first) as usize) {
                *place = *entry;
            }
        }
        if (first..).zip(&sorted).all(|(row, entry)| entry.row == row) {
            self.entries = sorted;
        } else {
            self.entries.sort_unstable_by_key(|entry| entry.row);
        }
    }

    /// The batches that the entries go to, ascending, and for each entry which of them.
    pub(crate) fn batches(entries: &[Entry]) -> (Vec<u64>, Vec<u32>) {
        let first = entries.iter().map(|entry| entry.batch).min().unwrap_or(0);
        let last = entries.iter().map(|entry| entry.batch).max().unwrap_or(0);
        // A visit reaches over the batches of a window, a few thousand at most: a table beats sorting.
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

/// Where rounds come from.
#[derive(Debug)]
enum Feed {
    /// Chunk after chunk.
    Sequential(Cursor),
    /// Block after block of the lanes.
    Lanes(LaneFeed, BlockSamples),
    /// Some batches at a time, in any order of samples.
    Listed(Cursor),
}

/// Where in its own positions a rank is.
#[derive(Clone, Copy, Debug, Default)]
struct Cursor {
    batch: u64,
    slot: u64,
}

/// Hands out visits, round by round.
#[derive(Debug)]
pub(crate) struct Planner {
    epoch: Epoch,
    share: Share,
    feed: Feed,
    /// Slots of a round of listed samples: how much is decoded together, without influence on the order.
    span: u64,
    /// The padded batch at the end was planned.
    tail_done: bool,
    /// Exact shuffle only.
    keeper: Option<Keeper>,
}

impl Planner {
    pub(crate) fn new(
        mut epoch: Epoch,
        share: Share,
        span: u64,
        keeper: Option<Keeper>,
    ) -> Result<Self> {
        let is_single = epoch.is_single();
        let pass = epoch.tracks[0].pass(0)?;
        let listed = epoch.tracks[0].geometry.selected().is_listed();
        let feed = match pass.as_ref() {
            _ if epoch.has_pools() => Feed::Listed(Cursor::default()),
            Order::Sequential if is_single && !listed => Feed::Sequential(Cursor::default()),
            Order::Windowed(_) => {
                let lanes = LaneFeed::new(&mut epoch, &share)?;
                Feed::Lanes(lanes, BlockSamples::default())
            }
            Order::Sequential | Order::Exact(_) | Order::Drawn(..) => {
                Feed::Listed(Cursor::default())
            }
        };
        let mut planner = Self {
            epoch,
            share,
            feed,
            span: span.max(1),
            tail_done: false,
            keeper,
        };
        planner.settle();
        Ok(planner)
    }

    /// Makes rounds of listed samples span so many batches.
    pub(crate) fn set_round(&mut self, batches: u64) {
        let own = (self.share.global_batch / self.share.world).max(1);
        self.span = batches.saturating_mul(own).max(1);
    }

    /// Samples of batch `batch`.
    pub(crate) fn batch_len(&self, batch: u64) -> u64 {
        self.share.batch_len(batch)
    }

    pub(crate) fn share(&self) -> &Share {
        &self.share
    }

    pub(crate) fn num_batches(&self) -> u64 {
        self.share.num_batches()
    }

    /// Batches whose every sample has been planned.
    pub(crate) fn planned_batches(&self) -> u64 {
        let full = self.share.full_batches();
        let planned = match &self.feed {
            Feed::Sequential(cursor) | Feed::Listed(cursor) => cursor.batch,
            Feed::Lanes(lanes, _) => lanes.frontier().map_or(full, |position| {
                position.saturating_sub(self.share.start) / self.share.global_batch
            }),
        };
        if planned >= full && self.tail_done {
            self.num_batches()
        } else {
            planned.min(full)
        }
    }

    /// The last batch that the next round reaches.
    pub(crate) fn reach(&self) -> u64 {
        let last = self.num_batches().saturating_sub(1);
        let batch_of = |share: &Share, position: u64| {
            position.saturating_sub(share.start) / share.global_batch
        };
        let reach = match &self.feed {
            Feed::Sequential(cursor) => {
                let range = self.share.own(cursor.batch).0;
                let position = range.start + cursor.slot;
                let (_, index) = self.epoch.tracks[0].locate(position);
                let geometry = &self.epoch.tracks[0].geometry;
                if index >= geometry.len() || position >= self.share.end() {
                    last
                } else {
                    let ranks = geometry.ranks(&geometry.locate(geometry.selected().get(index)));
                    let most = most_of_chunk(geometry, self.span);
                    batch_of(&self.share, position + (ranks.end - index).min(most))
                }
            }
            Feed::Lanes(lanes, _) => lanes
                .reach(&self.epoch)
                .map_or(last, |position| batch_of(&self.share, position)),
            Feed::Listed(cursor) => {
                let own = (self.share.global_batch / self.share.world).max(1);
                cursor.batch + (cursor.slot + self.span - 1) / own
            }
        };
        reach.min(last)
    }

    /// Moves past batches that hold nothing more, or nothing at all, of this rank.
    fn settle(&mut self) {
        if let Feed::Sequential(cursor) | Feed::Listed(cursor) = &mut self.feed {
            while cursor.batch < self.share.full_batches()
                && cursor.slot >= self.share.batch_len(cursor.batch)
            {
                *cursor = Cursor {
                    batch: cursor.batch + 1,
                    slot: 0,
                };
            }
        }
    }

    /// What the next round takes, its visits in the order of the epoch; `None` at its end.
    pub(crate) fn next_round(&mut self) -> Result<Option<RoundPlan>> {
        let full = self.share.full_batches();
        let plan = match &mut self.feed {
            Feed::Sequential(cursor) if cursor.batch < full => {
                let mut cursor = *cursor;
                let plan = self.sequential(&mut cursor);
                self.feed = Feed::Sequential(cursor);
                Some(plan)
            }
            Feed::Listed(cursor) if cursor.batch < full => {
                let mut cursor = *cursor;
                let plan = self.listed(&mut cursor)?;
                self.feed = Feed::Listed(cursor);
                Some(plan)
            }
            Feed::Lanes(lanes, out) => {
                let due = lanes.pop(&mut self.epoch, &self.share)?;
                due.map(|due| Self::block(&mut self.epoch, &self.share, &due, out))
            }
            Feed::Sequential(_) | Feed::Listed(_) => None,
        };
        self.settle();
        if plan.is_some() {
            return Ok(plan);
        }
        if self.share.num_batches() > full && !self.tail_done {
            self.tail_done = true;
            let slots: Vec<(u64, u64, u32)> = (0..)
                .zip(self.share.slots(full))
                .map(|(slot, position)| (position, full, slot))
                .collect();
            return self.visits(&slots).map(Some);
        }
        self.tail_done = true;
        Ok(None)
    }

    /// A block of a lane.
    fn block(
        epoch: &mut Epoch,
        share: &Share,
        due: &super::lanes::Due,
        out: &mut BlockSamples,
    ) -> RoundPlan {
        let mut plan = RoundPlan::default();
        let Order::Windowed(windowed) = due.order.as_ref() else {
            return plan;
        };
        windowed.samples(&epoch.tracks[due.track].geometry, &due.block, out);
        let source = u32::try_from(due.track).unwrap_or(u32::MAX);
        let places = out.places.iter().map(|&place| {
            let entries = Vec::with_capacity(out.samples.len() / out.places.len() + 1);
            Visit::new(ChunkPlace { source, ..place }, entries)
        });
        plan.visits.extend(places);
        for (i, &(place, row)) in (0..).zip(&out.samples) {
            let Some(index) = due.index(i) else {
                continue;
            };
            let position = epoch.position(due.track, index);
            if let Some((batch, slot)) = share.place(position) {
                plan.visits[place as usize].entries.push(Entry {
                    row,
                    count: 1,
                    batch,
                    slot,
                });
            }
        }
        plan.visits.retain(|visit| !visit.entries.is_empty());
        plan.visits.iter_mut().for_each(Visit::sort);
        if epoch.tracks[due.track].geometry.selected().is_listed() {
            split_repeats(&mut plan.visits);
        }
        plan
    }

    /// All samples of a chunk that are this rank's, one after the other, cut where batches end.
    fn sequential(&self, cursor: &mut Cursor) -> RoundPlan {
        let track = &self.epoch.tracks[0];
        let selected = track.geometry.selected();
        let mut left = most_of_chunk(&track.geometry, self.span);
        let mut visit: Option<Visit> = None;
        while left > 0 && cursor.batch < self.share.full_batches() {
            let range = self.share.own(cursor.batch).0;
            let position = range.start + cursor.slot;
            if position >= range.end {
                *cursor = Cursor {
                    batch: cursor.batch + 1,
                    slot: 0,
                };
                continue;
            }
            let (_, index) = track.locate(position);
            let sample = selected.get(index);
            let visit =
                visit.get_or_insert_with(|| Visit::new(track.geometry.locate(sample), Vec::new()));
            let end = visit.place.first_sample + u64::from(visit.place.num_samples);
            let next = visit
                .entries
                .last()
                .map_or(visit.place.first_sample, |entry| {
                    visit.place.first_sample + u64::from(entry.row + entry.count)
                });
            if sample < next || sample >= end {
                break;
            }
            let count = if selected.is_range() {
                (end - sample)
                    .min(range.end - position)
                    .min(track.len() - index)
                    .min(left)
            } else {
                1
            };
            let (row, slot) = (
                narrow(sample - visit.place.first_sample),
                narrow(cursor.slot),
            );
            match visit.entries.last_mut() {
                Some(last) if last.batch == cursor.batch && last.row + last.count == row => {
                    last.count += narrow(count);
                }
                _ => visit.entries.push(Entry {
                    row,
                    count: narrow(count),
                    batch: cursor.batch,
                    slot,
                }),
            }
            cursor.slot += count;
            left -= count;
        }
        RoundPlan {
            visits: visit.into_iter().collect(),
            ..RoundPlan::default()
        }
    }

    /// The next slots of this rank, whatever samples they hold.
    fn listed(&mut self, cursor: &mut Cursor) -> Result<RoundPlan> {
        let mut slots = Vec::new();
        let mut next = 0;
        while (slots.len() as u64) < self.span && cursor.batch < self.share.full_batches() {
            let skip = usize::try_from(cursor.slot).unwrap_or(usize::MAX);
            for position in self.share.slots(cursor.batch).skip(skip) {
                if slots.len() as u64 == self.span {
                    break;
                }
                slots.push((position, cursor.batch, narrow(cursor.slot)));
                next = position + 1;
                cursor.slot += 1;
            }
            if cursor.slot >= self.share.batch_len(cursor.batch) {
                *cursor = Cursor {
                    batch: cursor.batch + 1,
                    slot: 0,
                };
            }
        }
        let mut plan = self.visits(&slots)?;
        self.keep(&mut plan, next);
        Ok(plan)
    }

    /// Visits for samples at (position, batch, slot).
    fn visits(&mut self, slots: &[(u64, u64, u32)]) -> Result<RoundPlan> {
        let mut plan = RoundPlan::default();
        let mut located = Vec::with_capacity(slots.len());
        for &(position, batch, slot) in slots {
            let (source, sample) = self.epoch.at(position)?;
            let kept = self
                .keeper
                .as_mut()
                .is_some_and(|keeper| keeper.take(position));
            if kept {
                plan.recalls.push(Recall {
                    position,
                    sample,
                    batch,
                    slot,
                });
            } else {
                located.push((source, sample, batch, slot));
            }
        }
        located.sort_unstable();
        for (source, sample, batch, slot) in located {
            let inside = |visit: &Visit| {
                visit.place.source == source
                    && sample < visit.place.first_sample + u64::from(visit.place.num_samples)
            };
            if !plan.visits.last().is_some_and(inside) {
                let place = self.epoch.tracks[source as usize].geometry.locate(sample);
                let place = ChunkPlace { source, ..place };
                plan.visits.push(Visit::new(place, Vec::new()));
            }
            if let Some(visit) = plan.visits.last_mut() {
                visit.entries.push(Entry {
                    row: narrow(sample - visit.place.first_sample),
                    count: 1,
                    batch,
                    slot,
                });
            }
        }
        split_repeats(&mut plan.visits);
        // In the order of the epoch: what is needed first comes first.
        plan.visits
            .sort_by_key(|visit| visit.entries.iter().map(|entry| entry.batch).min());
        Ok(plan)
    }

    /// Keeps samples that are decoded along with those of this round, for positions from `next` on.
    fn keep(&mut self, plan: &mut RoundPlan, next: u64) {
        let Some(keeper) = &mut self.keeper else {
            return;
        };
        let track = &mut self.epoch.tracks[0];
        let (pass, place) = track.locate(next.saturating_sub(1));
        let base = next.saturating_sub(1) - place;
        let Ok(order) = track.pass(pass) else {
            return;
        };
        let mut new = BTreeSet::new();
        for visit in &mut plan.visits {
            let mut next_row = 0;
            for entry in &visit.entries {
                let rows = keeper.group_of(entry.row, visit.place.num_samples);
                for row in rows.start.max(next_row)..rows.end {
                    let sample = visit.place.first_sample + u64::from(row);
                    let Some(position) = order.position_of(&track.geometry, sample) else {
                        continue;
                    };
                    let position = base + position;
                    // Of this round, or delivered, or never delivered, or not by this rank.
                    if position < next || self.share.place(position).is_none() {
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
}

/// Samples of a chunk that a round takes: all, but of parts, which may be many times as large as their chunk, a span.
fn most_of_chunk(geometry: &Geometry, span: u64) -> u64 {
    if geometry.is_spread() { span } else { u64::MAX }
}

/// A visit decodes a row once: rows that come again go to visits of their own.
fn split_repeats(visits: &mut Vec<Visit>) {
    let mut at = 0;
    while let Some(visit) = visits.get_mut(at) {
        let mut again = Vec::new();
        let mut last = None;
        visit.entries.retain(|entry| {
            let repeats = last == Some(entry.row);
            last = Some(entry.row);
            if repeats {
                again.push(*entry);
            }
            !repeats
        });
        if !again.is_empty() {
            let place = visit.place;
            visits.push(Visit::new(place, again));
        }
        at += 1;
    }
}

/// Rows, slots and counts fit: a chunk's samples and batch_size are u32.
fn narrow(x: u64) -> u32 {
    u32::try_from(x).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod exhaustive;
#[cfg(test)]
mod tests;
