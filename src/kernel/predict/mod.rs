//! Loops of the predict filter (format-spec 8.1): differences along axes of a sample, and their inverse, sums.
//!
//! Everything is arithmetic modulo 2^w, so prediction along several axes is one difference after the other, and its
//! inverse one sum after the other, in any order. `words` does that axis by axis for any part of a sample and defines
//! the bits; `lines` does the innermost axes in registers, for whole lines.

#[cfg(target_arch = "x86_64")]
mod beside;
mod lines;
mod vector;
mod words;

#[cfg(target_arch = "x86_64")]
pub(crate) use beside::{Beside, Nothing, Sums, VECTORS};
use lines::{Lines, Plan, Tables};
use words::{Words, add_channels, difference_axis, sub_channels, sum_axis, unzigzag, zigzag};

use super::simd::{self, Level};

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
/// Lines and planes below so many bytes may share a vector.
const SHORT: usize = 64;
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

    /// Bytes whose multiples can be undone one after the other, given what was undone before: what is before is summed along
    /// all axes, so that only the last axis can go on from it. Lines, or planes of three axes, and more of them where they
    /// are short.
    fn unit(&self) -> usize {
        if self.channels.is_some() {
            return self.sample;
        }
        match self.axes() {
            [] => self.elem_size,
            [.., last] if last.stride >= SHORT => last.stride,
            [.., last] => last.stride * last.len,
        }
    }

    /// Bytes before a unit that it goes on from, along the last axis.
    fn looks_back(&self) -> usize {
        match self.axes() {
            [.., last] if self.channels.is_none() && last.stride >= SHORT => last.stride,
            _ => 0,
        }
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

/// The best vectors of `level` that fit `len` bytes from `first` on.
fn plan(level: Level, grid: &Grid, first: usize, len: usize) -> Option<Plan> {
    vector::lanes(level).iter().find_map(|&lanes| {
        Plan::new(grid, first, len, lanes)
            .filter(|plan| lanes != vector::WORDS_ONLY || plan.sums_words(grid))
    })
}

fn undo_words<W: Words>(grid: &Grid, first: usize, src: &[u8], dst: &mut [u8]) {
    let level = simd::level();
    let Some(plan) = plan(level, grid, first, src.len()) else {
        return undo_by_axes::<W>(grid, first, src, dst);
    };
    let group = if plan.rest(grid).is_empty() && plan.channels(grid).is_none()
        || first != 0
        || grid.sample == 0
    {
        src.len()
    } else {
        (GROUP / grid.sample).max(1) * grid.sample
    };
    let mut first = first;
    for (src, dst) in src.chunks(group.max(1)).zip(dst.chunks_mut(group.max(1))) {
        undo_by_lines::<W>(level, (&plan, None), grid, first, src, dst);
        first += src.len();
    }
}

/// The inverse in registers as far as the plan goes. `dst` may begin before what is undone, with what was before.
fn undo_by_lines<W: Words>(
    level: Level,
    (plan, tables): (&Plan, Option<&Tables>),
    grid: &Grid,
    first: usize,
    src: &[u8],
    dst: &mut [u8],
) {
    let done = dst.len() - src.len();
    let (before, next) = dst.split_at_mut(done);
    let volume = plan.volume(grid, first + done, src.len());
    let lines = Lines {
        plan,
        tables,
        grid,
        first: first + done,
        volume,
        before,
        src,
        dst: next,
    };
    vector::run::<W>(level, lines);
    if volume.is_none() {
        for axis in plan.rest(grid) {
            sum_axis::<W>(*axis, first, done, dst);
        }
    }
    if let Some(channels) = &plan.channels(grid) {
        add_channels::<W>(channels, first + done, &mut dst[done..]);
    }
}

/// The inverse axis by axis: for any part of a sample, and the definition of the bits. `dst` may begin before what is
/// undone, with what was before.
fn undo_by_axes<W: Words>(grid: &Grid, first: usize, src: &[u8], dst: &mut [u8]) {
    let done = dst.len() - src.len();
    dst[done..].copy_from_slice(src);
    if grid.zigzag {
        unzigzag::<W>(&mut dst[done..]);
    }
    for axis in grid.axes() {
        sum_axis::<W>(*axis, first, done, dst);
    }
    if let Some(channels) = &grid.channels {
        add_channels::<W>(channels, first + done, &mut dst[done..]);
    }
}

/// A step that is undone beside other work: here none is.
#[cfg(not(target_arch = "x86_64"))]
pub(crate) struct Sums<'a>(std::marker::PhantomData<&'a mut [u8]>);

#[cfg(not(target_arch = "x86_64"))]
impl<'a> Sums<'a> {
    fn new(_steps: &'a Steps, _first: usize, _src: &'a [u8], _dst: &'a mut [u8]) -> Option<Self> {
        None
    }

    pub(crate) fn finish(&mut self) {}
}

/// The inverse of [`apply`] for samples of one shape, in steps: what a step leaves is still in the L1 cache when it is
/// used.
#[derive(Debug)]
pub(crate) struct Steps {
    grid: Grid,
    level: Level,
    plan: Option<(Plan, Tables)>,
    unit: usize,
}

impl Steps {
    pub(crate) fn new(grid: Grid) -> Self {
        let (level, unit) = (simd::level(), grid.unit());
        // Samples of no elements have no lines.
        let plan = plan(level, &grid, 0, unit).filter(|_| grid.sample > 0);
        let plan = plan.map(|plan| {
            let tables = Tables::new(&plan, &grid, vector::sums(level, plan.lanes()));
            (plan, tables)
        });
        Self {
            grid,
            level,
            plan,
            unit,
        }
    }

    /// Steps are of multiples of so many bytes, from the beginning of a sample on.
    pub(crate) fn unit(&self) -> usize {
        self.unit
    }

    /// Bytes before a step that it goes on from.
    pub(crate) fn looks_back(&self) -> usize {
        self.grid.looks_back()
    }

    /// Undoes the next step: `src` goes to the end of `dst`, which holds at least what the step looks back at, as far as
    /// that is of the same piece. `first` is the byte within its sample (or run of samples) where `dst` begins: a multiple
    /// of the unit.
    pub(crate) fn undo(&self, first: usize, src: &[u8], dst: &mut [u8]) {
        match self.grid.elem_size {
            1 => self.undo_words::<u8>(first, src, dst),
            2 => self.undo_words::<u16>(first, src, dst),
            4 => self.undo_words::<u32>(first, src, dst),
            _ => self.undo_words::<u64>(first, src, dst),
        }
    }

    /// As [`Steps::undo`], to be done beside other work. `None` if this step cannot be.
    pub(crate) fn beside<'a>(
        &'a self,
        first: usize,
        src: &'a [u8],
        dst: &'a mut [u8],
    ) -> Option<Sums<'a>> {
        Sums::new(self, first, src, dst)
    }

    fn undo_words<W: Words>(&self, first: usize, src: &[u8], dst: &mut [u8]) {
        match &self.plan {
            Some((plan, tables)) => {
                let by = (plan, Some(tables));
                undo_by_lines::<W>(self.level, by, &self.grid, first, src, dst);
            }
            None => undo_by_axes::<W>(&self.grid, first, src, dst),
        }
    }
}
