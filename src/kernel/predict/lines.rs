//! The innermost sums in registers: neighbours within a line, and lines within a plane.
//!
//! A vector holds whole pixels: several lines or planes if they are short, else a part of a line. Prefix sums take
//! log2(n) steps `x += permute(x)`; the permutations are made once for a shape. Where a line is wider than a vector,
//! the last pixel is carried on; where a plane is, the last line.

use super::vector::{self, Sums, Vector};
use super::words::Words;
use super::{Axis, Channels, Grid};

/// log2(64) for pixels and lines together, rounded up twice, and one for channels.
const MAX_STEPS: usize = 8;
/// Vectors of a line that is kept beside the destination. Room for all of them is not cleared for each step where lines are
/// short: that took as long as to sum a step of 2 KiB.
const MAX_COLUMNS: usize = 64;
const FEW_COLUMNS: usize = 16;

/// How vectors go over lines. Lengths are in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    /// Bytes of a vector.
    lanes: usize,
    /// From a pixel to the next; 0: lines are not summed within.
    pixel: usize,
    line: usize,
    /// Lines that are summed over one after the other.
    rows: usize,
    /// Axes that this plan takes care of.
    num_axes: usize,
    /// Where the reference channel is added: not here, within a pixel, or plane by plane.
    channels: Place,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Elsewhere,
    Pixels,
    Planes,
}

impl Plan {
    /// `None` if vectors of `lanes` bytes do not fit `len` bytes from `first` on.
    pub(super) fn new(grid: &Grid, first: usize, len: usize, lanes: usize) -> Option<Self> {
        let inner = grid.axes().first()?;
        let mut plan = Self {
            lanes,
            pixel: 0,
            line: inner.stride,
            rows: inner.len,
            num_axes: 1,
            channels: Place::Elsewhere,
        };
        if 2 * inner.stride <= lanes {
            plan.pixel = inner.stride;
            plan.line = inner.stride * inner.len;
            plan.rows = 1;
            let whole = |bytes: usize| first.is_multiple_of(bytes) && len.is_multiple_of(bytes);
            let in_pixels = grid.channels.is_some_and(|channels| {
                channels.axis.stride == grid.elem_size
                    && channels.axis.stride * channels.axis.len == inner.stride
                    && whole(inner.stride)
            });
            if in_pixels {
                plan.channels = Place::Pixels;
            }
            if let Some(next) = grid.axes().get(1)
                && next.stride == plan.line
                && whole(plan.line)
                && (plan.line * next.len > lanes || whole(plan.line * next.len))
            {
                plan.rows = next.len;
                plan.num_axes = 2;
            }
            let in_planes = grid.channels.is_some_and(|channels| {
                plan.plane() > lanes
                    && channels.axis.stride == plan.plane()
                    && plan.rest(grid).is_empty()
                    && whole(grid.sample)
            });
            if in_planes {
                plan.channels = Place::Planes;
            }
            return Some(plan);
        }
        let plane = plan.line * plan.rows;
        let whole = if plane <= lanes { plane } else { plan.line };
        (first.is_multiple_of(whole) && len.is_multiple_of(whole)).then_some(plan)
    }

    /// Whether neighbours are elements, in lines of whole 16 bytes or longer than vectors.
    pub(super) fn sums_words(&self, grid: &Grid) -> bool {
        self.pixel == grid.elem_size && (self.line.is_multiple_of(16) || self.line > self.lanes)
    }

    /// The axes that are left to sum along.
    pub(super) fn rest<'a>(&self, grid: &'a Grid) -> &'a [Axis] {
        &grid.axes()[self.num_axes..]
    }

    /// Planes of a volume, if the last axis is to be summed along with the planes: whole ones, of `len` bytes from `first` on.
    pub(super) fn volume(&self, grid: &Grid, first: usize, len: usize) -> Option<usize> {
        let plane = self.plane();
        let [axis] = self.rest(grid) else {
            return None;
        };
        let is_whole = first.is_multiple_of(plane) && len.is_multiple_of(plane);
        let in_vectors = self.pixel > 0 && self.rows > 1 && plane > self.lanes;
        (is_whole && in_vectors && axis.stride == plane).then_some(axis.len)
    }

    /// The channels that are left to add.
    pub(super) fn channels(&self, grid: &Grid) -> Option<Channels> {
        grid.channels.filter(|_| self.channels == Place::Elsewhere)
    }

    /// Bytes of a vector.
    pub(super) fn lanes(&self) -> usize {
        self.lanes
    }

    #[cfg(target_arch = "x86_64")]
    pub(super) fn line(&self) -> usize {
        self.line
    }

    pub(super) fn plane(&self) -> usize {
        self.line * self.rows
    }

    /// The plane, or what there is of it, that is summed when `at` of `len` bytes from `first` on are summed. With
    /// channels plane by plane the reference comes first, then those before it and those after it.
    #[inline(always)]
    pub(super) fn part(&self, grid: &Grid, first: usize, at: usize, len: usize) -> Part {
        let plane = self.plane();
        let channels = grid.channels.filter(|_| self.channels == Place::Planes);
        let Some(channels) = channels else {
            let into = (first + at) % plane;
            return Part {
                start: at,
                end: (at + plane - into).min(len),
                reference: None,
            };
        };
        let group = plane * channels.axis.len;
        let number = at % group / plane;
        let reference = at - at % group + channels.reference * plane;
        let start = match number {
            0 => reference,
            _ if number <= channels.reference => at - plane,
            _ => at,
        };
        Part {
            start,
            end: start + plane,
            reference: (number > 0).then_some(reference),
        }
    }
}

/// A plane, or a part of one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part {
    pub(super) start: usize,
    pub(super) end: usize,
    /// Where the reference channel is that is added, if one is.
    pub(super) reference: Option<usize>,
}

/// Permutations of the bytes of a vector: byte i comes from byte `table[i]`, or is 0 from 0x80 on.
#[derive(Debug)]
pub(super) struct Tables {
    steps: [vector::Table; MAX_STEPS],
    num_steps: usize,
    /// The last pixel for all pixels, or the last line for all lines.
    carry: vector::Table,
    /// Bytes of a vector that are used.
    bytes: usize,
    /// What to give [`Vector::sums`], if that comes before the steps.
    sums: Option<u64>,
}

/// The bytes of a vector by number.
const LANES: [u32; 64] = {
    let mut lanes = [0; 64];
    let mut i = 0;
    while i < 64 {
        lanes[i as usize] = i;
        i += 1;
    }
    lanes
};

/// `x / d` for each x below 64, if d is at most 64; 0 if it is more. Exact: x * (2^12 / d + 1) is at most x too much, and
/// that is less than 2^12 / 64.
#[inline(always)]
fn quotients(x: [u32; 64], d: usize) -> [u32; 64] {
    let reciprocal = (1 << 12) / to_u32(d) + 1;
    x.map(|x| (x * reciprocal) >> 12)
}

/// `x - y * d`, each.
#[inline(always)]
fn minus(x: [u32; 64], y: [u32; 64], d: usize) -> [u32; 64] {
    let d = to_u32(d);
    std::array::from_fn(|i| x[i].wrapping_sub(y[i].wrapping_mul(d)))
}

/// Lengths that are compared with 64 bytes.
#[inline(always)]
fn to_u32(x: usize) -> u32 {
    u32::try_from(x).unwrap_or(u32::MAX).clamp(1, 1 << 20)
}

impl Tables {
    /// Bytes of a vector that are used.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether elements are summed by [`Vector::sums`], before so many steps.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn steps_after_sums(&self) -> Option<usize> {
        self.sums.map(|_| self.num_steps)
    }

    #[inline(always)]
    pub(super) fn new(plan: &Plan, grid: &Grid, sums: Sums) -> Self {
        let mut tables = Self {
            steps: [[0x80; 64]; MAX_STEPS],
            num_steps: 0,
            carry: [0x80; 64],
            bytes: plan.lanes,
            sums: None,
        };
        let (pixel, line) = (plan.pixel, plan.line);
        // Lines of a vector, and its unit: whole planes, whole lines, or whole pixels.
        let (mut lines, mut unit) = (1, pixel.max(1));
        if line <= plan.lanes {
            (lines, unit) = (plan.lanes / line, line);
            if plan.plane() <= plan.lanes {
                (lines, unit) = (plan.rows, plan.plane());
            }
        }
        tables.bytes = plan.lanes / unit * unit;
        // Of each byte: its place in the line, its pixel in the line, and its line in the plane.
        let rows = quotients(LANES, line);
        let bytes = minus(LANES, rows, line);
        let pixels = quotients(bytes, pixel);
        let within = minus(bytes, pixels, pixel);
        let rows = minus(rows, quotients(rows, lines), lines);
        if plan.channels == Place::Pixels
            && let Some(channels) = &grid.channels
        {
            let reference = to_u32(channels.reference + 1) - 1;
            let channel = quotients(within, grid.elem_size);
            let (elem, step) = (to_u32(grid.elem_size), tables.push());
            for i in 0..64 {
                // Within the pixel, as far as the reference channel is from this one.
                let from = LANES[i].wrapping_sub(channel[i] * elem) + reference * elem;
                step[i] = if channel[i] == reference {
                    0x80
                } else {
                    to_lane(from)
                };
            }
        }
        let bytes_in_lines = sums == Sums::BytesInLines && pixel == 1 && grid.elem_size == 1;
        if bytes_in_lines && (line.is_multiple_of(8) || line > plan.lanes) {
            tables.sums = Some(kept_words(line.min(plan.lanes)));
        } else if sums == Sums::Lines && plan.sums_words(grid) {
            tables.sums = Some(if line > 16 { 1 } else { 0 });
        } else if sums == Sums::BytesInLines && plan.sums_words(grid) {
            tables.sums = Some(0);
            tables.push_totals(pixel, line.min(plan.lanes));
        } else if pixel > 0 {
            let mut by = 1;
            while by * pixel < line.min(tables.bytes) {
                tables.push_shift(&pixels, by, by * pixel);
                by *= 2;
            }
        }
        if plan.rows > 1 {
            let mut by = 1;
            while by < lines {
                tables.push_shift(&rows, by, by * line);
                by *= 2;
            }
        }
        let (from, offsets) = if line <= plan.lanes {
            (tables.bytes - line, &bytes)
        } else {
            (tables.bytes - pixel.min(tables.bytes), &within)
        };
        let from = to_u32(from + 1) - 1;
        for (out, offset) in tables.carry.iter_mut().zip(offsets) {
            *out = to_lane(from + offset);
        }
        tables
    }

    /// Elements of `elem` bytes in lines of `line` bytes that are summed within 16 bytes: the odd ones of these add the
    /// total of those before, then the second pair that of the first.
    #[inline(always)]
    fn push_totals(&mut self, elem: usize, line: usize) {
        for by in [1, 2] {
            if line > 16 * by {
                let step = self.push();
                for (i, from_byte) in step.iter_mut().enumerate() {
                    let place = i / 16 % (line / 16).max(1);
                    let total = 16 * (i / 16 + by - place % (2 * by)) - elem + i % elem;
                    if place & by != 0 {
                        *from_byte = to_lane(to_u32(total));
                    }
                }
            }
        }
    }

    /// One more step, of nothing.
    #[inline(always)]
    fn push(&mut self) -> &mut vector::Table {
        let at = self.num_steps.min(MAX_STEPS - 1);
        self.num_steps = at + 1;
        &mut self.steps[at]
    }

    /// One more step: from `bytes` before, where the coordinate is at least `by`.
    #[inline(always)]
    fn push_shift(&mut self, coordinates: &[u32; 64], by: usize, bytes: usize) {
        let (by, bytes, step) = (to_u32(by), to_u32(bytes), self.push());
        for i in 0..64 {
            let from = to_lane(LANES[i].wrapping_sub(bytes));
            step[i] = if coordinates[i] >= by { from } else { 0x80 };
        }
    }
}

/// For [`Vector::sums`]: each 8-byte word of a line of `line` bytes adds the totals of those before it.
#[inline(always)]
fn kept_words(line: usize) -> u64 {
    (0..8).fold(0, |kept, word| {
        let before = word % (line / 8).max(1);
        kept | ((1 << before) - 1) << (8 * word + word - before)
    })
}

/// The low byte: lanes are below 64.
#[inline(always)]
fn to_lane(lane: u32) -> u8 {
    lane.to_le_bytes()[0]
}

/// The work of one call, for vectors of any kind.
pub(super) struct Lines<'a> {
    pub(super) plan: &'a Plan,
    /// If they were made for the plan already.
    pub(super) tables: Option<&'a Tables>,
    pub(super) grid: &'a Grid,
    /// The byte of the run of samples where `src` and `dst` begin.
    pub(super) first: usize,
    /// Planes of a volume, if each is to be added to the sums of the next one: they are whole, and of several vectors.
    pub(super) volume: Option<usize>,
    /// What was summed before `dst`, of a whole line at least: the first line goes on from it. Empty: nothing was.
    pub(super) before: &'a [u8],
    /// To be summed.
    pub(super) src: &'a [u8],
    /// The sums, as many.
    pub(super) dst: &'a mut [u8],
}

impl Lines<'_> {
    /// Bytes of a vector.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn lanes(&self) -> usize {
        self.plan.lanes()
    }

    /// Steps of a number that the compiler knows stay in registers; one more that does nothing is cheap.
    #[inline(always)]
    pub(super) fn run<V: Vector, W: Words>(self) {
        let made;
        let tables = match self.tables {
            Some(tables) => tables,
            None => {
                made = Tables::new(self.plan, self.grid, V::SUMS);
                &made
            }
        };
        if V::SUMS != Sums::None && tables.sums.is_some() {
            return match tables.num_steps {
                0 => self.run_steps::<V, W, 0, true>(tables),
                1 => self.run_steps::<V, W, 1, true>(tables),
                2 => self.run_steps::<V, W, 2, true>(tables),
                _ => self.run_steps::<V, W, MAX_STEPS, true>(tables),
            };
        }
        match tables.num_steps {
            0..=4 => self.run_steps::<V, W, 4, false>(tables),
            5 => self.run_steps::<V, W, 5, false>(tables),
            6 => self.run_steps::<V, W, 6, false>(tables),
            _ => self.run_steps::<V, W, MAX_STEPS, false>(tables),
        }
    }

    #[inline(always)]
    fn run_steps<V: Vector, W: Words, const N: usize, const SUMS: bool>(self, tables: &Tables) {
        let plan = self.plan;
        let network = Network::<V, N, SUMS>::new(plan, tables, self.grid);
        if plan.line > plan.lanes && plan.pixel == 0 {
            self.planes::<V, W, N, SUMS, ROWS>(&network, &mut []);
        } else if plan.line > plan.lanes && network.columns() <= FEW_COLUMNS {
            self.planes::<V, W, N, SUMS, WIDE>(&network, &mut [V::zero(); FEW_COLUMNS]);
        } else if plan.line > plan.lanes {
            self.planes::<V, W, N, SUMS, WIDE>(&network, &mut [V::zero(); MAX_COLUMNS]);
        } else if plan.rows > 1 && plan.plane() > plan.lanes && plan.line == tables.bytes {
            self.planes::<V, W, N, SUMS, ONE_LINE>(&network, &mut []);
        } else if plan.rows > 1 && plan.plane() > plan.lanes {
            self.planes::<V, W, N, SUMS, SOME_LINES>(&network, &mut []);
        } else {
            let plane = plan.plane();
            let head = ((plane - self.first % plane) % plane).min(self.src.len());
            let (src_head, src) = self.src.split_at(head);
            let (dst_head, dst) = self.dst.split_at_mut(head);
            network.packed::<W, WHOLE_PLANES>(src_head, dst_head, None, &[]);
            network.packed::<W, WHOLE_PLANES>(src, dst, None, &[]);
        }
    }

    /// Sums every plane, and what is to be added to its sums: with channels plane by plane, the reference.
    #[inline(always)]
    fn planes<V: Vector, W: Words, const N: usize, const SUMS: bool, const HOLDS: u8>(
        self,
        network: &Network<V, N, SUMS>,
        kept: &mut [V],
    ) {
        let plane = self.plan.plane();
        let mut at = 0;
        while at < self.src.len() {
            let part = self.plan.part(self.grid, self.first, at, self.src.len());
            let Part {
                start,
                end,
                reference,
            } = part;
            let src = &self.src[start..end];
            // In a volume the plane before is added as a reference channel is: of the first one, what was summed before.
            let goes_on = self
                .volume
                .is_some_and(|planes| !((self.first + start) / plane).is_multiple_of(planes));
            let reference = if goes_on {
                start.checked_sub(plane)
            } else {
                reference
            };
            let (dst, add) = match reference {
                None => {
                    let last = self.before.len().checked_sub(plane).filter(|_| goes_on);
                    let before = last.map(|last| &self.before[last..]);
                    (&mut self.dst[start..end], before)
                }
                Some(reference) if reference < start => {
                    let (before, rest) = self.dst.split_at_mut(start);
                    (&mut rest[..plane], Some(&before[reference..][..plane]))
                }
                Some(reference) => {
                    let (before, rest) = self.dst.split_at_mut(reference);
                    (&mut before[start..end], Some(&rest[..plane]))
                }
            };
            // Within a plane, lines go on from what came before.
            let above = if at == 0 && !self.first.is_multiple_of(plane) {
                let line = self.before.len().checked_sub(network.line);
                line.map_or(&[][..], |line| &self.before[line..])
            } else {
                &[]
            };
            match HOLDS {
                ROWS => rows::<W>(network.zigzag, network.line, src, dst, above),
                WIDE => network.wide::<W>(kept, src, dst, add, above),
                _ => network.packed::<W, HOLDS>(src, dst, add, above),
            }
            at += end - start;
        }
    }
}

/// What a vector holds: planes, one or some lines of a plane, a part of a line; or lines are not summed within.
const WHOLE_PLANES: u8 = 0;
pub(super) const ONE_LINE: u8 = 1;
pub(super) const SOME_LINES: u8 = 2;
const WIDE: u8 = 3;
const ROWS: u8 = 4;

/// Sums of whole lines that are not summed within, from `above` on.
#[inline(always)]
fn rows<W: Words>(zigzag: bool, line: usize, src: &[u8], dst: &mut [u8], above: &[u8]) {
    for (i, from) in src.chunks(line).enumerate() {
        let (before, rest) = dst.split_at_mut(i * line);
        let Some(to) = rest.get_mut(..from.len()) else {
            return;
        };
        to.copy_from_slice(from);
        if zigzag {
            W::unzigzag(to);
        }
        match before.len().checked_sub(line) {
            Some(before) => {
                let (above, to) = dst[before..before + line + from.len()].split_at_mut(line);
                W::add(to, above);
            }
            None => W::add(to, above),
        }
    }
}

/// Permutations in registers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Network<V: Vector, const N: usize, const SUMS: bool> {
    /// If `SUMS`: what to give [`Vector::sums`], before the steps.
    kept: u64,
    steps: [V::Index; N],
    carry: V::Index,
    bytes: usize,
    line: usize,
    zigzag: bool,
}

impl<V: Vector, const N: usize, const SUMS: bool> Network<V, N, SUMS> {
    #[inline(always)]
    pub(super) fn new(plan: &Plan, tables: &Tables, grid: &Grid) -> Self {
        Self {
            kept: tables.sums.unwrap_or(0),
            steps: std::array::from_fn(|i| V::index(&tables.steps[i])),
            carry: V::index(&tables.carry),
            bytes: tables.bytes,
            line: plan.line,
            zigzag: grid.zigzag,
        }
    }

    /// Vectors of a line.
    #[inline(always)]
    fn columns(&self) -> usize {
        self.line.div_ceil(self.bytes)
    }

    /// The last line of a vector in place of all its lines, or its last pixel in place of all.
    #[inline(always)]
    pub(super) fn last(&self, x: V) -> V {
        x.permute_end(self.carry)
    }

    /// Sums within the vector.
    #[inline(always)]
    fn sums<W: Words>(&self, x: V) -> V {
        self.sums_of::<W>(self.residuals::<W>(x))
    }

    #[inline(always)]
    fn residuals<W: Words>(&self, x: V) -> V {
        if self.zigzag { x.unzigzag::<W>() } else { x }
    }

    /// The same, of elements that are not zigzagged.
    #[inline(always)]
    pub(super) fn sums_of<W: Words>(&self, mut x: V) -> V {
        if SUMS {
            x = x.sums::<W>(self.kept);
        }
        for step in self.steps {
            x = x.add::<W>(x.permute(step));
        }
        x
    }

    /// Whole lines or planes in each vector. Lines go on from the last one: its sum is added up beside, so that
    /// vectors wait for each other no longer than an addition takes. They go on from `line`, which is empty or one that
    /// fills a vector.
    #[inline(always)]
    fn packed<W: Words, const HOLDS: u8>(
        &self,
        src: &[u8],
        dst: &mut [u8],
        add: Option<&[u8]>,
        line: &[u8],
    ) {
        let mut above = V::zero();
        if HOLDS == ONE_LINE && !line.is_empty() {
            above = V::load(line);
        }
        // Whole vectors, without a look at what is left.
        let whole = if self.bytes == V::LEN {
            src.len() - src.len() % V::LEN
        } else {
            0
        };
        let (src, rest) = src.split_at(whole);
        let (dst, rest_dst) = dst.split_at_mut(whole);
        let vectors = src.chunks_exact(V::LEN).zip(dst.chunks_exact_mut(V::LEN));
        match add {
            Some(add) => {
                for ((src, dst), add) in vectors.zip(add.chunks_exact(V::LEN)) {
                    let x = self.lines::<W, HOLDS>(V::load(src), &mut above);
                    x.add::<W>(V::load(add)).store(dst, V::LEN);
                }
            }
            None => {
                for (src, dst) in vectors {
                    let x = self.lines::<W, HOLDS>(V::load(src), &mut above);
                    x.store(dst, V::LEN);
                }
            }
        }
        let mut at = 0;
        while at < rest.len() {
            let len = self.bytes.min(rest.len() - at);
            let mut x = self.lines::<W, HOLDS>(V::load(&rest[at..]), &mut above);
            if let Some(add) = add {
                x = x.add::<W>(V::load(&add[whole + at..]));
            }
            x.store(&mut rest_dst[at..], len);
            at += len;
        }
    }

    /// The next vector of whole lines, after those of which `above` is the sum.
    #[inline(always)]
    fn lines<W: Words, const HOLDS: u8>(&self, x: V, above: &mut V) -> V {
        let x = self.sums::<W>(x);
        match HOLDS {
            ONE_LINE => {
                *above = x.add::<W>(*above);
                *above
            }
            SOME_LINES => {
                let sum = x.add::<W>(*above);
                *above = above.add::<W>(self.last(x));
                sum
            }
            _ => x,
        }
    }

    /// The lines of one plane, each of several vectors. The last line is kept in vectors, of the place of each column:
    /// reading back what was just stored, at another alignment, would wait for it.
    #[inline(always)]
    fn wide<W: Words>(
        &self,
        kept: &mut [V],
        src: &[u8],
        dst: &mut [u8],
        add: Option<&[u8]>,
        above: &[u8],
    ) {
        let columns = self.columns();
        let Some(kept) = kept.get_mut(..columns) else {
            return self.very_wide::<W>(src, dst, add, above);
        };
        kept.fill(V::zero());
        for (kept, above) in kept.iter_mut().zip(above.chunks(self.bytes)) {
            *kept = V::load(above);
        }
        let is_whole = |bytes: usize| bytes.is_multiple_of(V::LEN);
        if self.bytes == V::LEN && is_whole(self.line) && is_whole(src.len()) {
            return self.whole::<W>(kept, src, dst, add);
        }
        let mut start = 0;
        while start < src.len() {
            let end = (start + self.line).min(src.len());
            let (mut left, mut at) = (V::zero(), start);
            for kept in kept.iter_mut() {
                if at >= end {
                    break;
                }
                let mut x = self.part_of_line::<W>(V::load(&src[at..]), &mut left, kept);
                if let Some(add) = add {
                    x = x.add::<W>(V::load(&add[at..]));
                }
                let len = self.bytes.min(end - at);
                x.store(&mut dst[at..], len);
                at += len;
            }
            start = end;
        }
    }

    /// The same for lines, and a last one, of whole vectors: without a look at what is left of one.
    #[inline(always)]
    fn whole<W: Words>(&self, kept: &mut [V], src: &[u8], dst: &mut [u8], add: Option<&[u8]>) {
        // Of a line of few vectors these stay in registers: from memory the next line would get them too late.
        match kept.len() {
            2 => self.lines_of::<W, 2>(kept, src, dst, add),
            4 => self.lines_of::<W, 4>(kept, src, dst, add),
            _ => self.whole_lines::<W>(kept, src, dst, add),
        }
    }

    /// Lines of `VECTORS` vectors, at most four, and a last one. Vectors are gone over by number: by iterators, as in
    /// [`Network::whole_lines`], two do not stay in registers, and by number many take longer.
    #[inline(always)]
    fn lines_of<W: Words, const VECTORS: usize>(
        &self,
        kept: &mut [V],
        src: &[u8],
        dst: &mut [u8],
        add: Option<&[u8]>,
    ) {
        let whole = src.len() / (VECTORS * V::LEN) * (VECTORS * V::LEN);
        let (lines, rest) = src.split_at(whole);
        let (dst, rest_dst) = dst.split_at_mut(whole);
        let (add, rest_add) = match add.and_then(|add| add.split_at_checked(whole)) {
            Some((add, rest)) => (Some(add), Some(rest)),
            None => (None, None),
        };
        let mut last: [V; VECTORS] = std::array::from_fn(|i| kept[i]);
        let lines = lines
            .chunks_exact(VECTORS * V::LEN)
            .zip(dst.chunks_exact_mut(VECTORS * V::LEN));
        // Written out: of a loop the compiler keeps the last line in memory.
        macro_rules! line {
            ($src:ident $dst:ident $add:expr; $($i:literal)+) => {{
                let (mut left, add): (V, Option<&[u8]>) = (V::zero(), $add);
                $( if $i < VECTORS {
                    let at = $i * V::LEN;
                    let x = V::load_whole(&$src[at..]);
                    let mut x = self.whole_part_of_line::<W>(x, &mut left, &mut last[$i]);
                    if let Some(add) = add {
                        x = x.add::<W>(V::load_whole(&add[at..]));
                    }
                    x.store(&mut $dst[at..], V::LEN);
                } )+
            }};
        }
        match add {
            Some(add) => {
                for ((src, dst), add) in lines.zip(add.chunks_exact(VECTORS * V::LEN)) {
                    line!(src dst Some(add); 0 1 2 3);
                }
            }
            None => {
                for (src, dst) in lines {
                    line!(src dst None; 0 1 2 3);
                }
            }
        }
        kept.copy_from_slice(&last);
        self.whole_lines::<W>(kept, rest, rest_dst, rest_add);
    }

    /// Lines of any number of vectors.
    #[inline(always)]
    fn whole_lines<W: Words>(
        &self,
        kept: &mut [V],
        src: &[u8],
        dst: &mut [u8],
        add: Option<&[u8]>,
    ) {
        let lines = src.chunks(self.line).zip(dst.chunks_mut(self.line));
        for (i, (src, dst)) in lines.enumerate() {
            let mut left = V::zero();
            let vectors = src.chunks_exact(V::LEN).zip(kept.iter_mut());
            let vectors = vectors.zip(dst.chunks_exact_mut(V::LEN));
            match add.and_then(|add| add.get(i * self.line..)) {
                Some(add) => {
                    for (((src, kept), dst), add) in vectors.zip(add.chunks_exact(V::LEN)) {
                        let x = self.whole_part_of_line::<W>(V::load_whole(src), &mut left, kept);
                        x.add::<W>(V::load_whole(add)).store(dst, V::LEN);
                    }
                }
                None => {
                    for ((src, kept), dst) in vectors {
                        self.whole_part_of_line::<W>(V::load_whole(src), &mut left, kept)
                            .store(dst, V::LEN);
                    }
                }
            }
        }
    }

    /// The next vector of a line, after those of which `left` is the sum, below `kept`.
    #[inline(always)]
    fn part_of_line<W: Words>(&self, x: V, left: &mut V, kept: &mut V) -> V {
        let x = self.sums::<W>(x);
        self.below::<W>(x, self.last(x), left, kept)
    }

    /// The same if all of the vector is of the line.
    #[inline(always)]
    fn whole_part_of_line<W: Words>(&self, x: V, left: &mut V, kept: &mut V) -> V {
        if SUMS
            && N == 0
            && let Some((x, total)) = self.residuals::<W>(x).sums_and_total::<W>(self.carry)
        {
            return self.below::<W>(x, total, left, kept);
        }
        self.part_of_line::<W>(x, left, kept)
    }

    /// Sums of a part of a line and their total, after what `left` is the sum of, below `kept`.
    #[inline(always)]
    fn below<W: Words>(&self, x: V, total: V, left: &mut V, kept: &mut V) -> V {
        *kept = x.add::<W>(*left).add::<W>(*kept);
        *left = left.add::<W>(total);
        *kept
    }

    /// As [`Network::wide`]. These lines have left the core by the time they are read back; the reference, which would
    /// be read back with them, is added last.
    #[inline(always)]
    fn very_wide<W: Words>(&self, src: &[u8], dst: &mut [u8], add: Option<&[u8]>, above: &[u8]) {
        let mut start = 0;
        while start < src.len() {
            let end = (start + self.line).min(src.len());
            let (mut left, mut at) = (V::zero(), start);
            while at < end {
                let x = self.sums::<W>(V::load(&src[at..]));
                let last = self.last(x);
                let mut x = x.add::<W>(left);
                left = left.add::<W>(last);
                if start > 0 {
                    x = x.add::<W>(V::load(&dst[at - self.line..]));
                } else if let Some(above) = above.get(at..) {
                    x = x.add::<W>(V::load(above));
                }
                let len = self.bytes.min(end - at);
                x.store(&mut dst[at..], len);
                at += len;
            }
            start = end;
        }
        if let Some(add) = add {
            W::add(dst, add);
        }
    }
}
