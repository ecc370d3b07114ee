//! Byte shuffle: all first bytes of the elements, then all second bytes, and so on (format-spec 8).

use crate::kernel::byte_shuffle;

use super::{Filter, FilterId, FilterSpec, Layout};

pub(super) struct ByteShuffle;

impl Filter for ByteShuffle {
    fn id(&self) -> FilterId {
        FilterId::BYTE_SHUFFLE
    }

    fn name(&self) -> &'static str {
        "byte_shuffle"
    }

    fn apply(&self, spec: FilterSpec, _layout: &dyn Layout, src: &[u8], dst: &mut [u8]) {
        byte_shuffle::apply(spec.elem_size(), src, dst);
    }

    fn undo(&self, spec: FilterSpec, _layout: &dyn Layout, src: &[u8], dst: &mut [u8]) {
        byte_shuffle::undo(spec.elem_size(), src, dst);
    }
}
