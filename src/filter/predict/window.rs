//! A small part of a chunk on which modes of prediction are compared.

use std::borrow::Cow;
use std::ops::Range;

use super::Predict;
use crate::filter::Part;

/// More channels than these and the reference are not looked at.
const CHANNELS: usize = 4;

/// Some samples, or a box cut out of one sample: elements of one shape.
#[derive(Debug)]
pub(crate) struct Window<'a> {
    shape: Vec<usize>,
    bytes: Cow<'a, [u8]>,
    /// Bytes that count: not those at an edge that only the box has.
    counted: Vec<Range<usize>>,
}

/// How a box is cut out of a sample.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cut {
    /// Bytes of an element.
    pub(crate) elem_size: usize,
    /// Bytes of a box at most.
    pub(crate) most: usize,
    /// Bytes of a piece: neighbours that are farther away are in another one.
    pub(crate) piece: usize,
    /// Which box of how many: they are spread.
    pub(crate) place: (usize, usize),
}

impl<'a> Window<'a> {
    /// Whole samples.
    pub(crate) fn samples(shape: &[usize], bytes: &'a [u8]) -> Self {
        Self {
            shape: shape.to_vec(),
            bytes: bytes.into(),
            counted: std::iter::once(0..bytes.len()).collect(),
        }
    }

    /// A box of a sample that is longer along the axes that neighbours are along.
    pub(crate) fn of_sample(predict: &Predict, shape: &[usize], sample: &[u8], cut: Cut) -> Self {
        let lens = lens(predict, shape, cut);
        let (place, places) = cut.place;
        let channel = predict.channel_axis.map(usize::from);
        let mut bytes = Vec::new();
        let mut counted: Vec<Range<usize>> = Vec::new();
        let rows: usize = lens.iter().rev().skip(1).product();
        let (Some(&row), Some(&whole), false) = (lens.last(), shape.last(), sample.is_empty())
        else {
            return Self::samples(shape, &[]);
        };
        let first_of = |axis: usize| {
            if channel == Some(axis) {
                return 0;
            }
            (shape[axis] - lens[axis]) * (place + 1) / (places + 1)
        };
        // An edge of the box that is none of the sample.
        let is_edge = |axis: usize, index: usize| {
            index == 0 && channel != Some(axis) && lens[axis] > 1 && lens[axis] < shape[axis]
        };
        let last = shape.len() - 1;
        for number in 0..rows {
            let (mut rest, mut from, mut stride) = (number, first_of(last), whole);
            let mut edge = false;
            for axis in (0..last).rev() {
                let index = rest % lens[axis];
                rest /= lens[axis];
                from += (first_of(axis) + index) * stride;
                stride *= shape[axis];
                edge |= is_edge(axis, index);
            }
            let from = from * cut.elem_size;
            let source = sample.get(from..from + row * cut.elem_size);
            let start = bytes.len();
            bytes.extend_from_slice(source.unwrap_or_default());
            let start = start + usize::from(is_edge(last, 0)) * cut.elem_size;
            if edge || start >= bytes.len() {
                continue;
            }
            match counted.last_mut() {
                Some(before) if before.end == start => before.end = bytes.len(),
                _ => counted.push(start..bytes.len()),
            }
        }
        Self {
            shape: lens,
            bytes: bytes.into(),
            counted,
        }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(crate) fn layout(&self, elem_size: usize) -> Part<'_> {
        Part {
            shape: &self.shape,
            first: 0,
            count: self.bytes.len() / elem_size.max(1),
        }
    }

    pub(crate) fn counted(&self) -> &[Range<usize>] {
        &self.counted
    }
}

/// The sides of a box: about as long along each of the last three axes, and one channel, or some with the reference.
fn lens(predict: &Predict, shape: &[usize], cut: Cut) -> Vec<usize> {
    let mut lens = vec![1; shape.len()];
    let channel = predict.channel_axis.map(usize::from);
    let mut strides = vec![cut.elem_size; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis].saturating_mul(shape[axis]);
    }
    if let Some(axis) = channel.filter(|&axis| axis < shape.len() && strides[axis] < cut.piece) {
        let reference = predict.reference.map_or(0, |r| usize::from(r) + 1);
        lens[axis] = shape[axis].min(reference.max(CHANNELS));
    }
    let spatial: Vec<usize> = (0..shape.len())
        .rev()
        .filter(|axis| channel != Some(*axis))
        .take(3)
        .filter(|axis| strides[*axis] < cut.piece)
        .collect();
    let mut elements = cut.elem_size * lens.iter().product::<usize>();
    loop {
        let before = elements;
        for &axis in &spatial {
            let longer = (lens[axis] * 2).min(shape[axis]);
            let grown = elements / lens[axis] * longer;
            if grown <= cut.most && longer > lens[axis] {
                (lens[axis], elements) = (longer, grown);
            }
        }
        if elements == before {
            return lens;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::PredictMode;
    use super::*;

    fn cut(most: usize) -> Cut {
        Cut {
            elem_size: 1,
            most,
            piece: 1 << 16,
            place: (0, 1),
        }
    }

    #[test]
    fn boxes_are_long_where_neighbours_are() {
        let plain = Predict::new(PredictMode::Chunk);
        let rgb = plain.channel_axis(0).reference(1);
        assert_eq!(lens(&plain, &[64, 64, 64], cut(4096)), [16, 16, 16]);
        assert_eq!(lens(&plain, &[9, 64, 64, 64], cut(8192)), [1, 16, 16, 32]);
        assert_eq!(lens(&plain, &[1000], cut(4096)), [1000]);
        assert_eq!(lens(&plain, &[4, 100_000], cut(4096)), [1, 4096]);
        assert_eq!(lens(&rgb, &[3, 64, 64], cut(4096)), [3, 32, 32]);
        assert_eq!(lens(&rgb, &[3, 640, 640], cut(4096)), [1, 64, 64]);
        assert_eq!(lens(&plain, &[4, 640, 640], cut(4096)), [1, 64, 64]);
        let last = plain.channel_axis(2);
        assert_eq!(lens(&last, &[64, 64, 3], cut(4096)), [32, 32, 3]);
    }

    #[test]
    fn edges_of_a_box_do_not_count() {
        let plain = Predict::new(PredictMode::Chunk);
        let sample: Vec<u8> = (0..=99).collect();
        let window = Window::of_sample(&plain, &[10, 10], &sample, cut(16));
        // Rows and columns 3 to 6 of 10.
        assert_eq!(window.bytes()[..5], [33, 34, 35, 36, 43]);
        assert_eq!(window.counted(), [5..8, 9..12, 13..16]);
        // What is not cut off has edges that count.
        let window = Window::of_sample(&plain, &[25, 4], &sample, cut(16));
        assert_eq!(window.layout(1).shape, [4, 4]);
        assert_eq!(
            (window.counted()[0].clone(), window.counted().len()),
            (4..16, 1)
        );
    }
}
