//! Loops of the predict filter (format-spec 8.1): differences along axes of a sample, and their inverse, sums.
//!
//! Everything is arithmetic modulo 2^w, so prediction along several axes is one difference after the other, and its
//! inverse one sum after the other, in any order. `words` does that axis by axis for any part of a sample and defines
//! the bits; `lines` does the innermost axes in registers, for whole lines.

mod lines;
mod vector;
mod words;

use words::{Words, add_channels, difference_axis, sub_channels, sum_axis, unzigzag, zigzag};

use super::simd;

/// An axis that neighbours are subtracted along. A neighbour is `stride` bytes before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Axis {
    pub(crate) stride: usize,
    pub(crate) len: usize,
}

/// The channels of a sample, `axis.len` of them, and the one that the others have subtracted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Channels {
    pub(crate) axis: Axis,
    pub(crate) reference: usize,
}

/// How the samples of one shape are predicted. Lengths are in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Grid {
    /// 1, 2, 4 or 8.
    pub(crate) elem_size: usize,
    /// Bytes of a sample.
    pub(crate) sample: usize,
    pub(crate) zigzag: bool,
    pub(crate) channels: Option<Channels>,
    axes: [Axis; MAX_AXES],
    num_axes: usize,
}

/// Left, up and front.
const MAX_AXES: usize = 3;
/// Samples are summed in groups of about so many bytes: all passes over a group stay in the L1 cache.
const GROUP: usize = 16 << 10;

impl Grid {
    /// Samples of `sample` bytes without any prediction.
    pub(crate) fn new(elem_size: usize, sample: usize) -> Self {
        Self {
            elem_size,
            sample,
            zigzag: false,
            channels: None,
            axes: [Axis::default(); MAX_AXES],
            num_axes: 0,
        }
    }

    /// Predicts along one more axis, of a larger stride than those before. More than three are ignored.
    pub(crate) fn predict_along(&mut self, axis: Axis) {
        if axis.len > 1
            && let Some(slot) = self.axes.get_mut(self.num_axes)
        {
            *slot = axis;
            self.num_axes += 1;
        }
    }

    fn axes(&self) -> &[Axis] {
        &self.axes[..self.num_axes]
    }
}

/// Predicts elements and writes what remains to `dst`, of the same length. `first` is the byte within its sample (or
/// run of samples) where `src` begins.
pub(crate) fn apply(grid: &Grid, first: usize, src: &[u8], dst: &mut [u8]) {
    match grid.elem_size {
        1 => apply_words::<u8>(grid, first, src, dst),
        2 => apply_words::<u16>(grid, first, src, dst),
        4 => apply_words::<u32>(grid, first, src, dst),
        _ => apply_words::<u64>(grid, first, src, dst),
    }
}

fn apply_words<W: Words>(grid: &Grid, first: usize, src: &[u8], dst: &mut [u8]) {
    let mut x = src.to_vec();
    if let Some(channels) = &grid.channels {
        sub_channels::<W>(channels, first, src, &mut x);
    }
    for axis in grid.axes() {
        difference_axis::<W>(*axis, first, &x, dst);
        x.copy_from_slice(dst);
    }
    dst.copy_from_slice(&x);
    if grid.zigzag {
        zigzag::<W>(dst);
    }
}

/// The inverse of [`apply`]. Every input is valid.
pub(crate) fn undo(grid: &Grid, first: usize, src: &[u8], dst: &mut [u8]) {
    match grid.elem_size {
        1 => undo_words::<u8>(grid, first, src, dst),
        2 => undo_words::<u16>(grid, first, src, dst),
        4 => undo_words::<u32>(grid, first, src, dst),
        _ => undo_words::<u64>(grid, first, src, dst),
    }
}

fn undo_words<W: Words>(grid: &Grid, first: usize, src: &[u8], dst: &mut [u8]) {
    let level = simd::level();
    let plan = vector::lanes(level).iter().find_map(|&lanes| {
        lines::Plan::new(grid, first, src.len(), lanes)
            .filter(|plan| lanes != vector::WORDS_ONLY || plan.sums_words(grid))
    });
    let Some(plan) = plan else {
        return undo_by_axes::<W>(grid, first, src, dst);
    };
    let rest = plan.rest(grid);
    let channels = plan.channels(grid);
    let group = if rest.is_empty() && channels.is_none() || first != 0 || grid.sample == 0 {
        src.len()
    } else {
        (GROUP / grid.sample).max(1) * grid.sample
    };
    let mut first = first;
    for (src, dst) in src.chunks(group.max(1)).zip(dst.chunks_mut(group.max(1))) {
        lines::undo::<W>(level, &plan, grid, first, src, dst);
        for axis in rest {
            sum_axis::<W>(*axis, first, dst);
        }
        if let Some(channels) = &channels {
            add_channels::<W>(channels, first, dst);
        }
        first += src.len();
    }
}

/// The inverse axis by axis: for any part of a sample, and the definition of the bits.
fn undo_by_axes<W: Words>(grid: &Grid, first: usize, src: &[u8], dst: &mut [u8]) {
    dst.copy_from_slice(src);
    if grid.zigzag {
        unzigzag::<W>(dst);
    }
    for axis in grid.axes() {
        sum_axis::<W>(*axis, first, dst);
    }
    if let Some(channels) = &grid.channels {
        add_channels::<W>(channels, first, dst);
    }
}
