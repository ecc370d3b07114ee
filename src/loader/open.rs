//! Batches that are planned or being filled, and the visits that wait for them.

use std::sync::Arc;

use crate::dataset::{Batch, Extent, RaggedParts};
use crate::error::{Error, Result};
use crate::kernel::slots::{SlotLayout, SlotOwner};
use crate::pool::PooledBuffer;
use crate::shard::SlotShape;

use super::order::geometry::ChunkPlace;
use super::parts::Part;
use super::plan::{Entry, Recall};
use super::prefetch::{ChunkShapes, Padded};
use super::running::{Context, plan_bug};

#[derive(Debug)]
pub(super) struct OpenBatch {
    /// Of samples, or of their parts: what the order is about.
    pub(super) ids: Vec<u64>,
    /// For ragged fields: where each slot's shape is found (index in `visits`, row).
    pub(super) sources: Vec<(u32, u32)>,
    /// The shapes that `sources` point into: one for each visit.
    pub(super) visits: Vec<Arc<VisitShapes>>,
    /// Visits that are planned but not decoded.
    pub(super) pending: u32,
    /// Kept samples that go here.
    pub(super) recalls: Vec<Recall>,
    /// The kept samples are on their way.
    pub(super) recalling: bool,
    pub(super) error: Option<Error>,
    pub(super) owner: Option<SlotOwner<PooledBuffer>>,
    pub(super) ragged: Vec<Option<Arc<RaggedParts>>>,
    pub(super) padded: Padded,
}

/// Shapes that come when a worker has read them.
pub(super) type VisitShapes = std::sync::OnceLock<Arc<ChunkShapes>>;

#[derive(Debug)]
pub(super) struct WaitingVisit {
    pub(super) id: u64,
    pub(super) place: ChunkPlace,
    pub(super) entries: Vec<Entry>,
    /// (row, position) of samples to keep, ascending.
    pub(super) keeps: Vec<(u32, u64)>,
    /// The batches of the entries, and for each entry which of them.
    pub(super) batches: Vec<u64>,
    pub(super) of_entries: Vec<u32>,
    /// What each entry takes; none if it is whole samples.
    pub(super) parts: Vec<Part>,
    /// The parts are a small part of the chunk.
    pub(super) sparse: bool,
    pub(super) shapes: Arc<VisitShapes>,
}

impl WaitingVisit {
    /// Leaves out what goes to batch `end` and those after it.
    pub(super) fn cut(&mut self, end: u64) {
        let len = self.batches.partition_point(|&batch| batch < end);
        if len == self.batches.len() {
            return;
        }
        self.batches.truncate(len);
        let mut entries = self.entries.iter();
        self.parts
            .retain(|_| entries.next().is_none_or(|entry| entry.batch < end));
        self.entries.retain(|entry| entry.batch < end);
        self.of_entries.retain(|&ordinal| (ordinal as usize) < len);
    }
}

impl OpenBatch {
    pub(super) fn new(len: usize) -> Self {
        Self {
            ids: vec![0; len],
            sources: Vec::new(),
            visits: Vec::new(),
            pending: 0,
            recalls: Vec::new(),
            recalling: false,
            error: None,
            owner: None,
            ragged: Vec::new(),
            padded: Padded::default(),
        }
    }

    /// What goes to the slots of an entry whose row 0 has this id.
    pub(super) fn plan(&mut self, first_id: u64, entry: &Entry) {
        for (slot, row) in (entry.slot..).zip(entry.row..entry.row + entry.count) {
            self.ids[slot as usize] = first_id + u64::from(row);
        }
    }

    /// Where the shapes of an entry will be found.
    pub(super) fn expect_shapes(&mut self, entry: &Entry, shapes: &Arc<VisitShapes>) {
        self.sources.resize(self.ids.len(), (0, 0));
        // The entries of a visit come one after the other.
        if !self
            .visits
            .last()
            .is_some_and(|last| Arc::ptr_eq(last, shapes))
        {
            self.visits.push(Arc::clone(shapes));
        }
        // At most one visit a sample, and samples of a batch are a u32.
        let visit = u32::try_from(self.visits.len().saturating_sub(1)).unwrap_or(u32::MAX);
        for (slot, row) in (entry.slot..).zip(entry.row..entry.row + entry.count) {
            if let Some(source) = self.sources.get_mut(slot as usize) {
                *source = (visit, row);
            }
        }
    }

    /// Allocates the buffers, and returns their bytes. `None` if shapes are still missing.
    pub(super) fn lay_out(&mut self, context: &Context<'_>) -> Result<Option<u64>> {
        let shapes: Option<Vec<&Arc<ChunkShapes>>> =
            self.visits.iter().map(|visit| visit.get()).collect();
        let Some(shapes) = shapes else {
            return Ok(None);
        };
        let mut arrays = Vec::new();
        let mut padded = Vec::with_capacity(context.layouts.len());
        for (field, layout) in context.layouts.iter().enumerate() {
            let extents = self.sources.iter().filter_map(|&(visit, row)| {
                let shapes = shapes.get(visit as usize)?.get(field)?.as_ref()?;
                Some(Extent {
                    shape: shapes.shape(row as usize),
                    own: shapes.dtype(row as usize),
                })
            });
            let parts = layout.allocate(
                context.dataset,
                context.pool,
                self.ids.len(),
                extents,
                &mut arrays,
            )?;
            padded.push(
                parts
                    .as_ref()
                    .and_then(|parts| SlotShape::new(parts.padded()?)),
            );
            self.ragged.push(parts);
        }
        self.sources = Vec::new();
        self.visits = Vec::new();
        self.padded = Arc::new(padded);
        // Packed windows have a slot for each token.
        let slots = usize::try_from(context.options.sources.slots()).unwrap_or(usize::MAX);
        for (_, layout) in &mut arrays {
            if let SlotLayout::Fixed(bytes) = layout {
                *bytes /= slots;
            }
        }
        let num_slots = self.ids.len().saturating_mul(slots);
        let bytes = arrays
            .iter()
            .map(|(buffer, _)| buffer.as_ref().len() as u64);
        let masks = self.ragged.iter().flatten();
        let masks = masks.map(|parts| parts.mask().len() as u64);
        let bytes = bytes.chain(masks).sum();
        self.owner = Some(SlotOwner::new(num_slots, arrays).ok_or_else(plan_bug)?);
        Ok(Some(bytes))
    }

    pub(super) fn finish(self, context: &Context<'_>, index: u64) -> Option<Batch> {
        let mut buffers = self.owner?.into_buffers()?.into_iter();
        let mut fields = Vec::with_capacity(context.layouts.len());
        for (layout, ragged) in context.layouts.iter().zip(self.ragged) {
            fields.push(layout.finish(self.ids.len(), ragged, &mut buffers)?);
        }
        let (sample_ids, parts) = context.options.sources.describe(self.ids);
        Some(Batch {
            epoch: context.epoch,
            index,
            num_padded: 0,
            sample_ids,
            parts,
            fields,
        })
    }
}
