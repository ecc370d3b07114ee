//! The sequence of an epoch: which sample of which dataset is at a position. Pure.

use std::sync::Arc;

use crate::error::Result;

use super::geometry::Geometry;
use super::mixture::{Alias, Turns};
use super::pools::Pools;
use super::{Order, Shuffle, epoch_key};

/// The samples of one dataset, pass after pass, each in another order.
#[derive(Debug)]
pub(crate) struct Track {
    pub(crate) geometry: Arc<Geometry>,
    shuffle: Shuffle,
    lanes: u32,
    seed: u64,
    /// Samples are drawn by weight.
    alias: Option<Arc<Alias>>,
    /// The pass that index 0 is in, and where in it.
    first_pass: u64,
    first_index: u64,
    /// The pass that was asked for last.
    cached: Option<(u64, Arc<Order>)>,
}

impl Track {
    /// The track whose index 0 is what comes after `before` samples.
    pub(crate) fn new(
        geometry: Arc<Geometry>,
        shuffle: Shuffle,
        lanes: u32,
        seed: u64,
        before: u128,
    ) -> Result<Self> {
        let n = u128::from(geometry.len().max(1));
        let mut track = Self {
            geometry,
            shuffle,
            lanes,
            seed,
            alias: None,
            first_pass: u64::try_from(before / n).unwrap_or(u64::MAX),
            first_index: u64::try_from(before % n).unwrap_or(0),
            cached: None,
        };
        // Options are refused here, and not on the way.
        track.pass(0)?;
        Ok(track)
    }

    /// The same samples, drawn by weight.
    pub(crate) fn drawn(mut self, alias: Arc<Alias>) -> Self {
        self.alias = Some(alias);
        self.cached = None;
        self
    }

    /// Samples of a pass.
    pub(crate) fn len(&self) -> u64 {
        self.geometry.len()
    }

    /// Pass (0 for that of index 0) and the place in it of an index.
    pub(crate) fn locate(&self, index: u64) -> (u64, u64) {
        let n = self.len().max(1);
        let (pass, rest) = (index / n, index % n);
        // Both are below n.
        match rest.checked_sub(n - self.first_index) {
            Some(rest) => (pass + 1, rest),
            None => (pass, self.first_index + rest),
        }
    }

    /// The order of a pass.
    pub(crate) fn pass(&mut self, pass: u64) -> Result<Arc<Order>> {
        if let Some((cached, order)) = &self.cached
            && *cached == pass
        {
            return Ok(Arc::clone(order));
        }
        let key = epoch_key(self.seed, self.first_pass.wrapping_add(pass));
        let order = Arc::new(match &self.alias {
            Some(alias) => Order::Drawn(Arc::clone(alias), key),
            None => Order::new(&self.geometry, self.shuffle, self.lanes, key)?,
        });
        self.cached = Some((pass, Arc::clone(&order)));
        Ok(order)
    }

    /// The sample at an index.
    pub(crate) fn at(&mut self, index: u64) -> Result<u64> {
        let (pass, place) = self.locate(index);
        let order = self.pass(pass)?;
        Ok(order.at(&self.geometry, place))
    }
}

/// The sequence of one epoch: tracks that take turns.
#[derive(Debug)]
pub(crate) struct Epoch {
    pub(crate) tracks: Vec<Track>,
    turns: Arc<Turns>,
    /// Batches of like lengths.
    pools: Option<Pools>,
}

impl Epoch {
    /// One track for each that takes turns.
    pub(crate) fn new(tracks: Vec<Track>, turns: Arc<Turns>) -> Self {
        Self {
            tracks,
            turns,
            pools: None,
        }
    }

    /// The same samples, in batches of like lengths.
    pub(crate) fn in_pools(mut self, pools: Pools) -> Self {
        self.pools = Some(pools);
        self
    }

    /// True if batches are of like lengths: their samples come from anywhere in a pool.
    pub(crate) fn has_pools(&self) -> bool {
        self.pools.is_some()
    }

    /// Track and index of a position.
    pub(crate) fn locate(&self, position: u64) -> (usize, u64) {
        if self.is_single() {
            return (0, position);
        }
        self.turns.locate(position)
    }

    /// The position of an index of a track.
    pub(crate) fn position(&self, track: usize, index: u64) -> u64 {
        if self.is_single() {
            return index;
        }
        self.turns.position(track, index)
    }

    /// The indices of a track that are before a position.
    pub(crate) fn count(&self, track: usize, position: u64) -> u64 {
        if self.is_single() {
            return position;
        }
        self.turns.count(track, position)
    }

    /// The dataset and the sample at a position.
    pub(crate) fn at(&mut self, position: u64) -> Result<(u32, u64)> {
        let Some(mut pools) = self.pools.take() else {
            return self.base_at(position);
        };
        let place = pools.at(position, |position| self.base_at(position));
        self.pools = Some(pools);
        place
    }

    /// The same without pools.
    fn base_at(&mut self, position: u64) -> Result<(u32, u64)> {
        let (track, index) = self.locate(position);
        let sample = self.tracks[track].at(index)?;
        Ok((u32::try_from(track).unwrap_or(u32::MAX), sample))
    }

    /// True if nothing is interleaved: a position is an index of the only track.
    pub(crate) fn is_single(&self) -> bool {
        self.tracks.len() == 1
    }
}
