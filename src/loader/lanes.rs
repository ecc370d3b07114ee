//! The blocks of windowed orders, one by one, in the order in which they are needed. Pure.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use crate::error::Result;

use super::order::Order;
use super::order::epoch::Epoch;
use super::order::windowed::Block;
use super::share::{Deal, Share};

/// Hands out the blocks that hold samples of one rank.
#[derive(Debug)]
pub(crate) struct LaneFeed {
    tracks: Vec<Pass>,
    /// The next block of every lane that has one.
    next: BinaryHeap<Reverse<Next>>,
}

/// Where a track is.
#[derive(Debug)]
struct Pass {
    pass: u64,
    order: Arc<Order>,
    /// Lanes of this pass that go on.
    active: u64,
    /// Indices of the track that are delivered: from .0 to .1.
    range: (u64, u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Next {
    /// No position of the block that is still to come is before this one.
    position: u64,
    track: usize,
    lane: u64,
    first: u64,
    len: u64,
}

/// A block that is due.
pub(crate) struct Due {
    pub(crate) track: usize,
    pub(crate) order: Arc<Order>,
    pub(crate) block: Block,
    /// The index in the track of the block's first sample, which is that much less than the number in .1.
    index: (u64, u64),
    /// Indices that are delivered.
    range: (u64, u64),
    step: u64,
}

impl Due {
    /// The index in the track of the `i`-th sample of the block; `None` if it is not delivered.
    pub(crate) fn index(&self, i: u64) -> Option<u64> {
        let index = (self.index.0 + i * self.step).checked_sub(self.index.1)?;
        (index >= self.range.0 && index < self.range.1).then_some(index)
    }
}

impl LaneFeed {
    pub(crate) fn new(epoch: &mut Epoch, share: &Share) -> Result<Self> {
        let mut feed = Self {
            tracks: Vec::new(),
            next: BinaryHeap::new(),
        };
        for track in 0..epoch.tracks.len() {
            let range = (
                epoch.count(track, share.start),
                epoch.count(track, share.end()),
            );
            let pass = epoch.tracks[track].locate(range.0).0;
            feed.tracks.push(Pass {
                pass,
                order: epoch.tracks[track].pass(pass)?,
                active: 0,
                range,
            });
            feed.start_pass(epoch, share, track)?;
        }
        Ok(feed)
    }

    /// Queues the first block of every lane of a pass, or of the next pass that has any.
    fn start_pass(&mut self, epoch: &mut Epoch, share: &Share, track: usize) -> Result<()> {
        loop {
            let Pass {
                pass, order, range, ..
            } = &self.tracks[track];
            let (begin, less) = pass_start(epoch, track, *pass);
            if range.0 >= range.1
                || begin >= range.1.saturating_add(less)
                || epoch.tracks[track].len() == 0
            {
                return Ok(());
            }
            let Order::Windowed(windowed) = order.as_ref() else {
                return Ok(());
            };
            let windowed_lanes = windowed.num_lanes();
            let mut active = 0;
            for lane in 0..windowed_lanes {
                if self.is_own(epoch, share, track, lane, windowed_lanes) {
                    active += u64::from(self.push(epoch, track, lane, None));
                }
            }
            let state = &mut self.tracks[track];
            state.active = active;
            if active > 0 {
                return Ok(());
            }
            // This pass is over, or holds nothing of this rank.
            state.pass += 1;
            state.order = epoch.tracks[track].pass(state.pass)?;
        }
    }

    /// False if no position of the lane is of this rank.
    fn is_own(&self, epoch: &Epoch, share: &Share, track: usize, lane: u64, lanes: u64) -> bool {
        if !epoch.is_single() || share.deal != Deal::Lanes {
            return true;
        }
        let common = gcd(lanes, share.world);
        let (begin, less) = pass_start(epoch, track, self.tracks[track].pass);
        // Positions of the lane are begin - less + lane + i * lanes.
        (begin % common + common - less % common + lane) % common == share.rank % common
    }

    /// Queues the block of a lane that begins at index `first` of the lane, or holds the first index that is delivered.
    /// False if there is none.
    fn push(&mut self, epoch: &Epoch, track: usize, lane: u64, first: Option<u64>) -> bool {
        let Pass {
            pass, order, range, ..
        } = &self.tracks[track];
        let Order::Windowed(windowed) = order.as_ref() else {
            return false;
        };
        let lanes = windowed.num_lanes();
        let (begin, less) = pass_start(epoch, track, *pass);
        // The first index of the lane at or after the start.
        let earliest = (range.0 + less)
            .saturating_sub(begin + lane)
            .div_ceil(lanes);
        let from = first.unwrap_or(0).max(earliest);
        if from >= windowed.lane_len(lane) {
            return false;
        }
        let index = begin + lane + from * lanes - less;
        if index >= range.1 {
            return false;
        }
        let block = windowed.block(lane, from);
        let position = epoch.position(track, index);
        self.next.push(Reverse(Next {
            position,
            track,
            lane,
            first: block.first,
            len: block.len,
        }));
        true
    }

    /// No position before this one is still to come; `None` if none is.
    pub(crate) fn frontier(&self) -> Option<u64> {
        self.next.peek().map(|Reverse(next)| next.position)
    }

    /// The last position of the block that comes next.
    pub(crate) fn reach(&self, epoch: &Epoch) -> Option<u64> {
        let Reverse(next) = self.next.peek()?;
        let Pass {
            pass, order, range, ..
        } = &self.tracks[next.track];
        let Order::Windowed(windowed) = order.as_ref() else {
            return None;
        };
        let (begin, less) = pass_start(epoch, next.track, *pass);
        let last = next.first + next.len - 1;
        let index = (begin + next.lane + last * windowed.num_lanes()).saturating_sub(less);
        Some(epoch.position(next.track, index.min(range.1.saturating_sub(1))))
    }

    /// The block that is needed first.
    pub(crate) fn pop(&mut self, epoch: &mut Epoch, share: &Share) -> Result<Option<Due>> {
        let Some(Reverse(next)) = self.next.pop() else {
            return Ok(None);
        };
        let Next {
            track,
            lane,
            first,
            len,
            ..
        } = next;
        let Pass {
            pass, order, range, ..
        } = &self.tracks[track];
        let (order, range) = (Arc::clone(order), *range);
        let (begin, less) = pass_start(epoch, track, *pass);
        let Order::Windowed(windowed) = order.as_ref() else {
            return Ok(None);
        };
        let step = windowed.num_lanes();
        let block = windowed.block(lane, first);
        if !self.push(epoch, track, lane, Some(first + len)) {
            self.tracks[track].active -= 1;
            if self.tracks[track].active == 0 {
                self.tracks[track].pass += 1;
                self.tracks[track].order = epoch.tracks[track].pass(self.tracks[track].pass)?;
                self.start_pass(epoch, share, track)?;
            }
        }
        Ok(Some(Due {
            track,
            order,
            block,
            index: (begin + lane + first * step, less),
            range,
            step,
        }))
    }
}

/// Where a pass begins in its track, as a difference: the first pass may have begun before index 0.
fn pass_start(epoch: &Epoch, track: usize, pass: u64) -> (u64, u64) {
    let track = &epoch.tracks[track];
    (pass.saturating_mul(track.len()), track.locate(0).1)
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}
