//! Float split: elements rotated left by one bit, so that the sign is the lowest bit, then their bytes as planes. The
//! first plane of bf16 and f32 is the exponent (format-spec 8.2).

use crate::kernel::planes::{self, Stores};

use super::{Split, SplitId};

pub(super) struct FloatSplit;

/// The sign bit moves to the other end.
const ROTATION: u32 = 1;

impl Split for FloatSplit {
    fn id(&self) -> SplitId {
        SplitId::FLOAT_SPLIT
    }

    fn name(&self) -> &'static str {
        "float_split"
    }

    fn split(&self, num_planes: usize, src: &[u8], planes: &mut [u8]) {
        planes::split(num_planes, ROTATION, src, planes);
    }

    fn merge(&self, planes: &[&[u8]], dst: &mut [u8], stores: Stores) {
        planes::merge(ROTATION, planes, dst, stores);
    }
}
