//! Float order: the bits of floats to unsigned integers that are ordered as the floats are (format-spec 8). After it
//! neighbours that are close have small differences, also across zero.

use crate::kernel::float_order;

use super::{Filter, FilterId, FilterSpec, Layout, Steps};

pub(super) struct FloatOrder;

impl Filter for FloatOrder {
    fn id(&self) -> FilterId {
        FilterId::FLOAT_ORDER
    }

    fn name(&self) -> &'static str {
        "float_order"
    }

    fn since_minor(&self) -> u16 {
        1
    }

    fn apply(&self, spec: FilterSpec, _layout: &dyn Layout, src: &[u8], dst: &mut [u8]) {
        float_order::apply(spec.elem_size(), src, dst);
    }

    fn undo(&self, spec: FilterSpec, _layout: &dyn Layout, src: &[u8], dst: &mut [u8]) {
        float_order::undo(spec.elem_size(), src, dst);
    }

    fn steps(&self, spec: FilterSpec, _shape: &[usize]) -> Option<Box<dyn Steps>> {
        Some(Box::new(Elements {
            elem_size: spec.elem_size(),
        }))
    }
}

/// Elements do not depend on each other.
#[derive(Debug)]
struct Elements {
    elem_size: usize,
}

impl Steps for Elements {
    fn unit(&self) -> usize {
        self.elem_size
    }

    fn looks_back(&self) -> usize {
        0
    }

    fn undo(&self, _first: usize, src: &[u8], dst: &mut [u8]) {
        let start = dst.len() - src.len();
        float_order::undo(self.elem_size, src, &mut dst[start..]);
    }
}
