//! Which scale belongs to which element (format-spec 9.3).

use super::Granularity;
use crate::dtype::DType;
use crate::kernel::BLOCK;
use crate::kernel::convert::to_f32;
use crate::kernel::quantize::finite_range;
use crate::tensor::num_elements;

/// Which scale belongs to which element: rows of `row` elements are cut into groups of `group` (the last of a row may
/// be shorter), and the groups take the scales 0, 1, .. `modulus - 1` in turn.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    row: usize,
    group: usize,
    modulus: usize,
}

impl Layout {
    pub(super) fn new(granularity: Granularity, shape: &[usize]) -> Self {
        match granularity {
            Granularity::PerTensor | Granularity::PerSample => Self {
                row: usize::MAX,
                group: usize::MAX,
                modulus: 1,
            },
            Granularity::PerChannel { axis } => {
                let axis = usize::from(axis);
                let inner = shape
                    .get(axis + 1..)
                    .and_then(num_elements)
                    .unwrap_or(1)
                    .max(1);
                Self {
                    row: inner,
                    group: inner,
                    modulus: shape.get(axis).copied().unwrap_or(1).max(1),
                }
            }
            Granularity::PerGroup { size } => {
                let row = shape.last().copied().unwrap_or(1).max(1);
                let group = usize::try_from(size).unwrap_or(usize::MAX).clamp(1, row);
                Self {
                    row,
                    group,
                    modulus: usize::MAX,
                }
            }
        }
    }

    /// A cursor at this element.
    pub(super) fn at(self, element: usize) -> Cursor {
        let (row, in_row) = (element / self.row, element % self.row);
        let (group, in_group) = (in_row / self.group, in_row % self.group);
        let row_left = self.row - group * self.group;
        let groups = self.row / self.group + usize::from(!self.row.is_multiple_of(self.group));
        Cursor {
            layout: self,
            scale: (row * groups + group) % self.modulus,
            row_left,
            left: self.group.min(row_left) - in_group,
        }
    }
}

/// A position among the elements of a sample.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cursor {
    layout: Layout,
    /// Index of the current scale.
    scale: usize,
    /// Elements from the start of the current group to the end of its row.
    row_left: usize,
    /// Elements left in the current group.
    left: usize,
}

impl Cursor {
    /// Elements in a group, the last of a row apart.
    pub(super) fn group(&self) -> usize {
        self.layout.group
    }

    /// How many scales take turns, if every element has the next one.
    pub(super) fn period(&self) -> Option<usize> {
        (self.layout.row == 1).then_some(self.layout.modulus)
    }

    /// The next scales without a gap, at most `max`, where each element has the next of `period` scales.
    pub(super) fn stretch(&mut self, period: usize, max: usize) -> std::ops::Range<usize> {
        let first = self.scale;
        let n = (period - first).min(max);
        self.scale = (first + n) % period;
        first..first + n
    }

    /// The next whole groups, at most `max` elements, where they have a scale each: the scales. None unless a group
    /// begins here and rows are whole groups.
    pub(super) fn whole_groups(&mut self, max: usize) -> std::ops::Range<usize> {
        let Layout {
            row,
            group,
            modulus,
        } = self.layout;
        if self.left != group || modulus != usize::MAX || !row.is_multiple_of(group) {
            return self.scale..self.scale;
        }
        let (first, groups) = (self.scale, max / group);
        // Rows follow each other; where in a row the next group is makes no difference.
        let in_row = (row - self.row_left + groups * group) % row;
        self.scale += groups;
        self.row_left = row - in_row;
        first..first + groups
    }

    /// The next elements that share a scale, at most `max`: the index of the scale, and how many they are.
    pub(super) fn next(&mut self, max: usize) -> (usize, usize) {
        let (scale, count) = (self.scale, self.left.min(max));
        self.left -= count;
        if self.left == 0 {
            self.scale = if scale + 1 == self.layout.modulus {
                0
            } else {
                scale + 1
            };
            self.row_left -= self.layout.group.min(self.row_left);
            if self.row_left == 0 {
                self.row_left = self.layout.row;
            }
            self.left = self.layout.group.min(self.row_left);
        }
        (scale, count)
    }
}

/// The scales of one sample, as if they were dynamic; 0 for scales per tensor.
pub(super) fn scales_of(granularity: Granularity, shape: &[usize]) -> usize {
    match granularity {
        Granularity::PerTensor => 0,
        Granularity::PerChannel { axis } => shape.get(usize::from(axis)).copied().unwrap_or(0),
        Granularity::PerSample => 1,
        Granularity::PerGroup { size } => match shape.split_last() {
            None => 1,
            Some((&last, others)) => {
                let groups = last.div_ceil(usize::try_from(size).unwrap_or(usize::MAX).max(1));
                num_elements(others)
                    .and_then(|rows| rows.checked_mul(groups))
                    .unwrap_or(usize::MAX)
            }
        },
    }
}

/// Smallest and largest finite element for each scale of a sample.
pub(super) fn ranges(layout: Layout, dtype: DType, src: &[u8], out: &mut [(f32, f32)]) {
    let mut x = [0.0f32; BLOCK];
    let mut cursor = layout.at(0);
    for src in src.chunks(BLOCK * dtype.size()) {
        let x = &mut x[..src.len() / dtype.size()];
        to_f32(dtype, src, x);
        let mut done = 0;
        while done < x.len() {
            let (scale, count) = cursor.next(x.len() - done);
            let (low, high) = finite_range(&x[done..done + count]);
            let range = &mut out[scale];
            *range = (range.0.min(low), range.1.max(high));
            done += count;
        }
    }
}
