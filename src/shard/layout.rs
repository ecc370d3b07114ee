//! What the pieces of a plane hold, for filters that look at shapes.

use crate::filter::{Layout, Part};
use crate::format::pieces::{Span, sample_stored_bytes};
use crate::format::schema::Field;
use crate::format::shapes::Shapes;
use crate::tensor::num_elements;

/// One piece of the plane of a field.
pub(super) struct PieceLayout<'a> {
    pub(super) field: &'a Field,
    /// The shape of every sample of a fixed field.
    pub(super) fixed: Option<&'a [usize]>,
    /// The shapes of the samples of a ragged field, in the chunk.
    pub(super) shapes: Option<&'a Shapes>,
    pub(super) span: Span,
}

impl Layout for PieceLayout<'_> {
    fn visit(&self, visitor: &mut dyn FnMut(Part<'_>)) {
        let elements = |bytes: u64, bits: u32| {
            usize::try_from(bytes.saturating_mul(8) / u64::from(bits.max(1))).unwrap_or(usize::MAX)
        };
        if let Some(shape) = self.fixed {
            let bits = self.field.stored_bits(None);
            return visitor(Part {
                shape,
                first: elements(self.span.start, bits),
                count: elements(u64::from(self.span.len), bits),
            });
        }
        let Some(shapes) = self.shapes else { return };
        for row in self.span.first..self.span.end {
            let shape = shapes.shape(row as usize);
            let bits = self.field.stored_bits(shapes.dtype(row as usize));
            // Of a sample that has several pieces, the piece is all that is here.
            let part = sample_stored_bytes(shape, bits) > u64::from(self.span.len);
            let all = num_elements(shape).unwrap_or(usize::MAX);
            visitor(Part {
                shape,
                first: elements(self.span.start, bits),
                count: if part {
                    elements(u64::from(self.span.len), bits)
                } else {
                    all
                },
            });
        }
    }
}
