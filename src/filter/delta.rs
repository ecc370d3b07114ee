//! Delta: each element minus the one before, modulo 2^bits (format-spec 8).

use crate::kernel::delta;

use super::{Filter, FilterId};

pub(super) struct Delta;

impl Filter for Delta {
    fn id(&self) -> FilterId {
        FilterId::DELTA
    }

    fn name(&self) -> &'static str {
        "delta"
    }

    fn apply(&self, elem_size: usize, src: &[u8], dst: &mut [u8]) {
        delta::apply(elem_size, src, dst);
    }

    fn undo(&self, elem_size: usize, src: &[u8], dst: &mut [u8]) {
        delta::undo(elem_size, src, dst);
    }
}
