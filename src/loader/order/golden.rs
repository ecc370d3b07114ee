//! Orders that an independent program (tests/python/order_oracle.py) has made of format-spec 13: tests/data/orders.
#![expect(clippy::cast_possible_truncation, reason = "small numbers")]

use std::sync::Arc;

use serde_json::Value;

use super::Shuffle;
use super::epoch::Track;
use super::geometry::{Geometry, Selected};

/// One order, and what it is an order of.
pub(crate) struct Case(Value);

/// The cases of a file.
pub(crate) fn cases(text: &str) -> Vec<Case> {
    let cases: Vec<Value> = serde_json::from_str(text).unwrap();
    cases.into_iter().map(Case).collect()
}

pub(crate) fn list(value: &Value) -> Vec<u64> {
    let items = value.as_array().unwrap().iter();
    items.map(|x| x.as_u64().unwrap()).collect()
}

impl Case {
    pub(crate) fn get(&self, name: &str) -> &Value {
        &self.0[name]
    }

    pub(crate) fn number(&self, name: &str) -> u64 {
        self.0[name].as_u64().unwrap()
    }

    pub(crate) fn list(&self, name: &str) -> Vec<u64> {
        list(&self.0[name])
    }

    pub(crate) fn lists(&self, name: &str) -> Vec<Vec<u64>> {
        self.0[name].as_array().unwrap().iter().map(list).collect()
    }

    /// Samples, and samples of a chunk, of each shard.
    pub(crate) fn shards(&self) -> Vec<(u64, u32)> {
        let pairs = self.lists("shards").into_iter();
        pairs.map(|pair| (pair[0], pair[1] as u32)).collect()
    }

    /// The selected samples, unless all are.
    pub(crate) fn selected(&self) -> Option<Selected> {
        let selected = &self.0["selected"];
        (!selected.is_null()).then(|| Selected::list(list(selected)))
    }

    /// The samples of the case.
    pub(crate) fn geometry(&self) -> Geometry {
        let geometry = Geometry::of(&self.shards());
        match self.selected() {
            Some(selected) => geometry.select(selected),
            None => geometry,
        }
    }

    pub(crate) fn shuffle(&self) -> Shuffle {
        match self.0["shuffle"].as_str().unwrap() {
            "none" => Shuffle::None,
            "exact" => Shuffle::Exact,
            _ => Shuffle::Windowed {
                window: self.number("window") as u32,
            },
        }
    }

    /// The epoch of the case over these samples or parts, and how many positions it has.
    pub(crate) fn track(&self, geometry: Geometry) -> (Track, u64) {
        let n = geometry.len() * self.0["repeat"].as_u64().unwrap_or(1);
        let before = u128::from(self.number("epoch") * n);
        let (lanes, seed) = (self.number("lanes") as u32, self.number("seed"));
        let track = Track::new(Arc::new(geometry), self.shuffle(), lanes, seed, before);
        (track.unwrap(), n)
    }
}
