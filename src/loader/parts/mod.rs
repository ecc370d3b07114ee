//! What a loader orders: whole samples, or parts of them. The ids of an order become visits of chunks, and what of
//! their samples goes to which slots.

pub(super) mod decode;

use std::sync::Arc;

use crate::dataset::{BatchParts, PackedSegments};
use crate::error::{Error, Result};

use super::order::geometry::ChunkPlace;
use super::pack::{PackSteps, PackTable};
use super::plan::{Entry, Visit};
use super::windows::WindowTable;

/// How the samples of a dataset are cut.
#[derive(Clone, Debug)]
pub(super) enum Cut {
    Whole,
    Windows(Arc<WindowTable>),
    Packed(Arc<PackSteps>),
}

impl Cut {
    /// True if samples are delivered as they are.
    pub(super) fn is_whole(&self) -> bool {
        matches!(self, Self::Whole)
    }

    /// True if the number of parts depends on what is read from chunks.
    pub(super) fn varies(&self) -> bool {
        match self {
            Self::Whole => false,
            Self::Windows(windows) => windows.varies(),
            Self::Packed(_) => true,
        }
    }
}

/// What the ids of an order are.
#[derive(Clone, Debug, Default)]
pub(super) enum Parts {
    /// Samples.
    #[default]
    Whole,
    Windows(Arc<WindowTable>),
    /// Windows of packed samples.
    Packed(Arc<PackTable>),
}

/// What goes to a run of slots: steps of a sample, or what stands in for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    /// The sample's row in its chunk.
    pub(crate) row: u32,
    /// The first step, and how many.
    pub(crate) first: u64,
    pub(crate) len: u64,
    pub(crate) what: What,
}

/// What a part is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    Steps,
    Separator,
    Padding,
}

/// A visit of a chunk of samples.
#[derive(Debug)]
pub(super) struct PartVisit {
    pub(super) place: ChunkPlace,
    pub(super) entries: Vec<Entry>,
    pub(super) keeps: Vec<(u32, u64)>,
    /// What each entry takes; none if it is whole samples.
    pub(super) parts: Vec<Part>,
    /// The parts are a small part of the chunk.
    pub(super) sparse: bool,
}

impl Parts {
    /// The ids of a dataset of so many samples.
    fn num_ids(&self, samples: u64) -> u64 {
        match self {
            Self::Whole => samples,
            Self::Windows(windows) => samples.saturating_mul(windows.per()),
            Self::Packed(table) => table.num_windows(),
        }
    }

    /// Slots that an id has in a batch.
    fn slots(&self) -> u64 {
        match self {
            Self::Whole | Self::Windows(_) => 1,
            Self::Packed(table) => table.length(),
        }
    }

    /// Name and value of the option of a state.
    pub(super) fn option(&self, num_samples: u64) -> Option<(&'static str, String)> {
        match self {
            Self::Whole => None,
            Self::Windows(windows) => Some(("windows", windows.word(num_samples))),
            Self::Packed(table) => Some(("pack", table.word().to_owned())),
        }
    }

    /// The sample of an id.
    pub(super) fn sample_of(&self, id: u64) -> u64 {
        match self {
            Self::Whole => id,
            Self::Windows(windows) => windows.locate(id).0,
            Self::Packed(table) => table.sample_of(id),
        }
    }

    /// The visits of chunks that a visit of ids is.
    pub(super) fn visits(&self, visit: Visit) -> Vec<PartVisit> {
        if let Self::Packed(table) = self {
            return table.visits(&visit);
        }
        let Visit {
            place,
            entries,
            keeps,
        } = visit;
        let (mut ids, num_ids) = (0, u64::from(place.num_samples));
        let (entries, parts, place) = match self {
            Self::Whole | Self::Packed(_) => (entries, Vec::new(), place),
            Self::Windows(windows) => {
                let per = windows.per();
                let (mut out, mut parts) = (Vec::new(), Vec::new());
                for entry in entries {
                    ids += u64::from(entry.count);
                    for i in 0..entry.count {
                        let (row, first) = windows.locate(u64::from(entry.row + i));
                        let row = narrow(row);
                        parts.push(Part {
                            row,
                            first,
                            len: windows.length(),
                            what: What::Steps,
                        });
                        out.push(Entry {
                            row,
                            count: 1,
                            batch: entry.batch,
                            slot: entry.slot + i,
                        });
                    }
                }
                let place = ChunkPlace {
                    first_sample: place.first_sample / per,
                    num_samples: narrow(u64::from(place.num_samples) / per),
                    ..place
                };
                (out, parts, place)
            }
        };
        vec![PartVisit {
            place,
            entries,
            keeps,
            sparse: !parts.is_empty() && ids * 2 < num_ids,
            parts,
        }]
    }
}

/// The ids of the datasets of a mixture count on from one to the other, as their samples do.
#[derive(Clone, Debug, Default)]
pub(super) struct Sources(Arc<[PartSource]>);

/// One dataset.
#[derive(Clone, Debug)]
struct PartSource {
    parts: Parts,
    first_sample: u64,
    first_id: u64,
}

impl Sources {
    /// Of datasets of so many samples.
    ///
    /// # Errors
    /// `LimitExceeded` if there are more than 2^64 - 1 ids.
    pub(super) fn new(sources: impl Iterator<Item = (Parts, u64)>) -> Result<Self> {
        let (mut first_sample, mut first_id) = (0u64, 0u64);
        let mut all = Vec::new();
        for (parts, samples) in sources {
            let ids = parts.num_ids(samples);
            all.push(PartSource {
                first_sample,
                first_id,
                parts,
            });
            let sums = first_sample
                .checked_add(samples)
                .zip(first_id.checked_add(ids));
            let too_many = || Error::limit("parts of samples", u64::MAX, u64::MAX);
            (first_sample, first_id) = sums.ok_or_else(too_many)?;
        }
        Ok(Self(all.into()))
    }

    /// Slots that an id has in a batch.
    pub(super) fn slots(&self) -> u64 {
        self.0.first().map_or(1, |source| source.parts.slots())
    }

    /// The dataset of a visit: its parts, and its first id.
    pub(super) fn get(&self, source: u32) -> (Parts, u64) {
        let found = self.0.get(source as usize);
        found.map_or((Parts::Whole, 0), |source| {
            (source.parts.clone(), source.first_id)
        })
    }

    /// The samples that ids are of, and which parts of them they are.
    pub(super) fn describe(&self, mut ids: Vec<u64>) -> (Vec<u64>, BatchParts) {
        let mut starts = Vec::new();
        let mut packed = None;
        match self.0.first().map(|source| &source.parts) {
            None | Some(Parts::Whole) => return (ids, BatchParts::Whole),
            Some(Parts::Windows(_)) => starts.reserve(ids.len()),
            Some(Parts::Packed(table)) => packed = Some(PackedSegments::new(table.length())),
        }
        for id in &mut ids {
            let after = self.0.partition_point(|source| source.first_id <= *id);
            let Some(source) = self.0.get(after.saturating_sub(1)) else {
                continue;
            };
            let own = *id - source.first_id;
            match &source.parts {
                Parts::Whole => {}
                Parts::Windows(windows) => {
                    let (sample, start) = windows.locate(own);
                    *id = source.first_sample + sample;
                    starts.push(start);
                }
                Parts::Packed(table) => {
                    *id = source.first_sample + table.sample_of(own);
                    if let Some(packed) = &mut packed {
                        packed.push(table.segments(own), source.first_sample);
                    }
                }
            }
        }
        match packed {
            Some(packed) => (ids, BatchParts::Packed(packed)),
            None => (ids, BatchParts::Windows(starts)),
        }
    }
}

/// Rows are a u32: a chunk's samples are, and all of its ids.
fn narrow(x: u64) -> u32 {
    u32::try_from(x).unwrap_or(u32::MAX)
}
