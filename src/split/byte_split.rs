//! Byte split: the bytes of elements as planes, the most significant first (format-spec 8.2).

use crate::kernel::planes::{self, Stores};

use super::{Split, SplitId};

pub(super) struct ByteSplit;

impl Split for ByteSplit {
    fn id(&self) -> SplitId {
        SplitId::BYTE_SPLIT
    }

    fn name(&self) -> &'static str {
        "byte_split"
    }

    fn split(&self, num_planes: usize, src: &[u8], planes: &mut [u8]) {
        planes::split(num_planes, 0, src, planes);
    }

    fn merge(&self, planes: &[&[u8]], dst: &mut [u8], stores: Stores) {
        planes::merge(0, planes, dst, stores);
    }
}
