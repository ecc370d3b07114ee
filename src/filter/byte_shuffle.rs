//! Byte shuffle: all first bytes of the elements, then all second bytes, and so on (format-spec 8).

use crate::kernel::byte_shuffle;

use super::{Filter, FilterId};

pub(super) struct ByteShuffle;

impl Filter for ByteShuffle {
    fn id(&self) -> FilterId {
        FilterId::BYTE_SHUFFLE
    }

    fn name(&self) -> &'static str {
        "byte_shuffle"
    }

    fn apply(&self, elem_size: usize, src: &[u8], dst: &mut [u8]) {
        byte_shuffle::apply(elem_size, src, dst);
    }

    fn undo(&self, elem_size: usize, src: &[u8], dst: &mut [u8]) {
        byte_shuffle::undo(elem_size, src, dst);
    }
}
