//! Delta: each element minus the one before, modulo 2^bits (format-spec 8).

use crate::kernel::delta;

use super::{Filter, FilterId, FilterSpec, Layout};

pub(super) struct Delta;

impl Filter for Delta {
    fn id(&self) -> FilterId {
        FilterId::DELTA
    }

    fn name(&self) -> &'static str {
        "delta"
    }

    fn apply(&self, spec: FilterSpec, _layout: &dyn Layout, src: &[u8], dst: &mut [u8]) {
        delta::apply(spec.elem_size(), src, dst);
    }

    fn undo(&self, spec: FilterSpec, _layout: &dyn Layout, src: &[u8], dst: &mut [u8]) {
        delta::undo(spec.elem_size(), src, dst);
    }
}
