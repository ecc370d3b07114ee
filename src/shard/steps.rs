//! Pieces are decoded in steps: of all that becomes of a step, each stage finds what the one before left in the L1 cache.

use std::ops::Range;

use crate::filter::{self, FilterSpec};

use super::rows::grow;

/// The filters of fixed samples, each undone step by step.
pub(super) struct InSteps {
    /// In the order in which they are undone: the last of the schema first.
    pub(super) filters: Vec<Box<dyn filter::Steps>>,
    /// Bytes of which steps are multiples.
    pub(super) unit: usize,
}

impl InSteps {
    /// `None` if a filter needs whole pieces.
    pub(super) fn new(filters: &[FilterSpec], shape: &[usize]) -> Option<Self> {
        let mut undo = Self {
            filters: Vec::new(),
            unit: 1,
        };
        for spec in filters.iter().rev() {
            let steps = spec.filter().ok()?.steps(*spec, shape)?;
            // As a rule the one is a multiple of the other: lines of elements.
            let (a, b) = (undo.unit, steps.unit());
            undo.unit = if a.is_multiple_of(b) {
                a
            } else {
                a.checked_mul(b)?
            };
            if b.is_multiple_of(a) {
                undo.unit = b;
            }
            undo.filters.push(steps);
        }
        (undo.unit > 0).then_some(undo)
    }
}

/// What a filter makes of steps. Of earlier ones only what a step goes on from is kept: so that all of it stays in the L1
/// cache.
#[derive(Debug, Default)]
pub(super) struct Made {
    bytes: Vec<u8>,
    /// The last step.
    last: Range<usize>,
}

impl Made {
    /// Room for a step of `len` bytes, behind the `back` bytes that were made before it; `None` if there are fewer.
    pub(super) fn next(&mut self, back: usize, len: usize) -> Option<&mut [u8]> {
        let end = self.last.end;
        let kept = end.checked_sub(back)?;
        let mut start = end;
        // A line is moved to the front each time, a plane every other time.
        if 4 * back <= len || end + len > 2 * (back + len) {
            self.bytes.copy_within(kept..end, 0);
            start = back;
        }
        grow(&mut self.bytes, start + len);
        self.last = start..start + len;
        self.bytes.get_mut(start - back..start + len)
    }

    /// The last step.
    pub(super) fn last(&self) -> &[u8] {
        &self.bytes[self.last.clone()]
    }
}

/// A part of a piece that is decoded at a time: whole samples, or a part of one.
#[derive(Debug)]
pub(super) struct Step {
    pub(super) rows: Range<u32>,
    /// Of the piece.
    pub(super) bytes: Range<usize>,
    /// Where in the piece the first sample, or what the piece has of it, begins.
    pub(super) base: usize,
    /// The byte of that sample that is at `base`: not 0 only in a piece of a part of one sample.
    pub(super) origin: usize,
}

impl Step {
    /// The byte of its first sample where the step begins.
    pub(super) fn first_byte(&self) -> usize {
        self.origin + (self.bytes.start - self.base)
    }
}

/// The steps of a piece.
pub(super) struct Steps {
    /// Those that are left.
    pub(super) rows: Range<u32>,
    /// Bytes of the piece.
    pub(super) len: usize,
    pub(super) origin: usize,
    /// Bytes of a sample, or what the piece has of it.
    pub(super) stored: usize,
    /// Whole samples in a step, if a step has that many.
    pub(super) rows_at_once: u32,
    /// Bytes of a sample in a step, if one sample is more.
    pub(super) bytes_at_once: usize,
    /// The byte of the piece where the next step begins.
    pub(super) at: usize,
}

impl Iterator for Steps {
    type Item = Step;

    // Inlined, as what takes a step apart: put together in memory, it would be read back in other sizes than it was written
    // in, which waits until all stores before have reached the caches.
    #[inline(always)]
    fn next(&mut self) -> Option<Step> {
        if self.rows.is_empty() {
            return None;
        }
        let (row, start) = (self.rows.start, self.at);
        let (rows, base, end);
        if self.rows_at_once == u32::MAX {
            (rows, base, end) = (self.rows.clone(), 0, self.len);
            self.rows.start = self.rows.end;
        } else if self.stored <= self.bytes_at_once {
            rows = row..self.rows.end.min(row.saturating_add(self.rows_at_once));
            (base, end) = (start, start + self.stored * rows.len());
            self.rows.start = rows.end;
        } else {
            rows = row..row + 1;
            base = start - start % self.stored;
            end = (start + self.bytes_at_once).min(base + self.stored);
            if end == base + self.stored {
                self.rows.start = rows.end;
            }
        }
        self.at = end;
        Some(Step {
            rows,
            bytes: start..end,
            base,
            origin: self.origin,
        })
    }
}
