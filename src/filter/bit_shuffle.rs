//! Bit shuffle: bit 0 of all elements, then bit 1, and so on (format-spec 8).

use crate::kernel::bit_shuffle;

use super::{Filter, FilterId, FilterSpec, Layout};

pub(super) struct BitShuffle;

impl Filter for BitShuffle {
    fn id(&self) -> FilterId {
        FilterId::BIT_SHUFFLE
    }

    fn name(&self) -> &'static str {
        "bit_shuffle"
    }

    fn apply(&self, spec: FilterSpec, _layout: &dyn Layout, src: &[u8], dst: &mut [u8]) {
        bit_shuffle::apply(spec.elem_size(), src, dst);
    }

    fn undo(&self, spec: FilterSpec, _layout: &dyn Layout, src: &[u8], dst: &mut [u8]) {
        bit_shuffle::undo(spec.elem_size(), src, dst);
    }
}
