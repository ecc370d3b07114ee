//! Quantizers with scales: quantizing and dequantizing, whatever the stored elements stand for (format-spec 9.3).

use super::layout::{Cursor, Layout, ranges, scales_of};
use super::scale::Scaling;
use super::{
    Block, Granularity, NonFinite, Quantized, Scales, elements_of, write_f32, wrong_length,
};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::kernel::BLOCK;
use crate::kernel::convert::{Slot, from_f32, round_to, to_f32, to_f64};
use crate::kernel::dequant::{self, Codes, OneScale};
use crate::kernel::quantize::Grids;
use crate::kernel::values::{self, Values};
use crate::tensor::num_elements;

/// What a scale makes of the stored elements: `low` and `high` bound x / scale.
#[derive(Clone, Copy, Debug)]
pub(super) struct Grid {
    pub(super) scale: f32,
    pub(super) zero_point: f32,
    pub(super) low: f32,
    pub(super) high: f32,
}

/// How a writer chooses scales and stored elements.
pub(super) trait Scheme {
    /// For messages: "affine has no code for NaN".
    const NAME: &'static str;

    /// Scale and zero_point for finite elements in `low..=high`, which is (inf, -inf) if there are none.
    fn fit(&self, low: f32, high: f32) -> (f32, i32);

    /// The grid of a scale.
    fn grid(&self, scale: f32, zero_point: i32) -> Grid;

    /// The zero_point where none is stored.
    fn fixed_zero_point(&self) -> i32 {
        0
    }

    /// Stored elements and their decoded values, before rounding to the field's dtype. True if all elements are finite
    /// and [held](Self::holds).
    fn encode(&self, x: &[f32], grids: &Grids<'_>, q: &mut [i32], decoded: &mut [f32]) -> bool;

    /// True if x = ratio * scale has a stored element as near as the quantizer promises.
    fn holds(&self, ratio: f32, low: f32, high: f32) -> bool;
}

/// Elements quantized at a time: twelve arrays of them stay in the L1 cache.
const PART: usize = 256;

/// Scratch space of one call of `quantize`.
struct Scratch {
    scale: [f32; PART],
    zero_point: [f32; PART],
    low: [f32; PART],
    high: [f32; PART],
    /// The scale that all four arrays hold throughout, if it is one.
    holds: Option<usize>,
}

impl Scratch {
    fn new() -> Self {
        let zeros = [0.0; PART];
        Self {
            scale: zeros,
            zero_point: zeros,
            low: zeros,
            high: zeros,
            holds: None,
        }
    }

    fn fill(&mut self, cursor: &mut Cursor, grids: &[Grid], count: usize) {
        let mut done = 0;
        while done < count {
            let (index, n) = cursor.next(count - done);
            if n == PART && self.holds == Some(index) {
                return;
            }
            let (grid, range) = (grids[index], done..done + n);
            self.scale[range.clone()].fill(grid.scale);
            self.zero_point[range.clone()].fill(grid.zero_point);
            self.low[range.clone()].fill(grid.low);
            self.high[range].fill(grid.high);
            done += n;
            self.holds = (n == PART).then_some(index);
        }
    }

    fn grids(&self) -> Grids<'_> {
        Grids {
            scale: &self.scale,
            zero_point: &self.zero_point,
            low: &self.low,
            high: &self.high,
        }
    }
}

fn put_codes(bits: u32, q: &[i32], out: &mut Vec<u8>) {
    match bits {
        4 => out.extend(q.chunks(2).map(|pair| {
            let high = pair.get(1).map_or(0, |q| q.to_le_bytes()[0]);
            (pair[0].to_le_bytes()[0] & 0x0F) | (high << 4)
        })),
        8 => out.extend(q.iter().map(|q| q.to_le_bytes()[0])),
        _ => out.extend(
            q.iter()
                .flat_map(|q| [q.to_le_bytes()[0], q.to_le_bytes()[1]]),
        ),
    }
}

/// Samples to quantize; see [`super::Quantizer::quantize`].
#[derive(Clone, Copy)]
pub(super) struct Source<'a> {
    pub(super) dtype: DType,
    pub(super) shape: &'a [usize],
    pub(super) num_samples: usize,
    pub(super) src: &'a [u8],
    pub(super) statics: Option<&'a Scales>,
}

/// [`super::Quantizer::quantize`] of quantizers with scales.
pub(super) fn quantize(
    scheme: &impl Scheme,
    scaling: &Scaling,
    bits: u32,
    source: &Source<'_>,
    out: &mut Quantized,
) -> Result<()> {
    let (dtype, shape) = (source.dtype, source.shape);
    let n = elements_of(dtype, shape, source.num_samples, source.src)?;
    let layout = Layout::new(scaling.granularity, shape);
    let mut grids = Vec::new();
    if let Some(table) = source.statics {
        let expected = check_statics(scaling, shape, table)?;
        let zero_point = |i| {
            let given: Option<&i32> = table.zero_points.get(i);
            given.copied().unwrap_or_else(|| scheme.fixed_zero_point())
        };
        grids.extend((0..expected).map(|i| scheme.grid(table.scales[i], zero_point(i))));
    } else if scaling.granularity == Granularity::PerTensor {
        return Err(Error::invalid(
            "scales per tensor must be given, or calibrated on a first pass",
        ));
    }
    let per_sample = scales_of(scaling.granularity, shape);
    let mut ends = Vec::new();
    let mut rest = source.src;
    for _ in 0..source.num_samples {
        let (sample, next) = rest.split_at(n * dtype.size());
        rest = next;
        if source.statics.is_none() {
            ends.clear();
            ends.resize(per_sample, (f32::INFINITY, f32::NEG_INFINITY));
            ranges(layout, dtype, sample, &mut ends);
            grids.clear();
            for &(low, high) in &ends {
                let (scale, zero_point) = scheme.fit(low, high);
                grids.push(scheme.grid(scale, zero_point));
                scaling.format.put(scale, &mut out.scales);
                if scaling.zero_points {
                    out.zero_points.extend_from_slice(&zero_point.to_le_bytes());
                }
            }
        }
        quantize_sample(
            scheme,
            scaling.non_finite,
            bits,
            dtype,
            sample,
            layout,
            &grids,
            out,
        )?;
    }
    Ok(())
}

#[expect(
    clippy::too_many_arguments,
    reason = "each is a different fact about the sample, and there is one caller"
)]
fn quantize_sample<S: Scheme>(
    scheme: &S,
    policy: NonFinite,
    bits: u32,
    dtype: DType,
    src: &[u8],
    layout: Layout,
    grids: &[Grid],
    out: &mut Quantized,
) -> Result<()> {
    let mut scratch = Scratch::new();
    let mut cursor = layout.at(0);
    let (mut x, mut q, mut decoded) = ([0.0f32; PART], [0i32; PART], [0.0f32; PART]);
    let (mut source, mut wide) = ([0.0f64; PART], [0.0f64; PART]);
    for (part, src) in src.chunks(PART * dtype.size()).enumerate() {
        let count = src.len() / dtype.size();
        let (x, q, decoded) = (&mut x[..count], &mut q[..count], &mut decoded[..count]);
        let (source, wide) = (&mut source[..count], &mut wide[..count]);
        to_f32(dtype, src, x);
        to_f64(dtype, src, source);
        scratch.fill(&mut cursor, grids, count);
        let good = scheme.encode(x, &scratch.grids(), q, decoded);
        round_to(dtype, decoded);
        for (wide, decoded) in wide.iter_mut().zip(&*decoded) {
            *wide = f64::from(*decoded);
        }
        if good {
            out.errors.add_finite(source, wide);
        } else {
            for i in 0..count {
                if scheme.holds(x[i] / scratch.scale[i], scratch.low[i], scratch.high[i]) {
                    continue;
                }
                if policy == NonFinite::Patch {
                    // q - zero_point = 0: compresses well, and the patch replaces it.
                    #[expect(
                        clippy::cast_possible_truncation,
                        reason = "an integer between qmin and qmax"
                    )]
                    let zero_point = scratch.zero_point[i] as i32;
                    q[i] = zero_point;
                    wide[i] = source[i];
                    out.patch_indices
                        .push(out.num_elements + (part * PART + i) as u64);
                    out.patch_values
                        .extend_from_slice(&src[i * dtype.size()..(i + 1) * dtype.size()]);
                } else if policy == NonFinite::Error || source[i].is_nan() {
                    let reason = if source[i].is_nan() {
                        format!("{} has no code for NaN", S::NAME)
                    } else {
                        let [low, high] =
                            [scratch.low[i], scratch.high[i]].map(|end| end * scratch.scale[i]);
                        format!("the quantizer's range is {low} to {high}")
                    };
                    return Err(Error::unrepresentable(source[i], out.num_samples, reason));
                }
            }
            out.errors.add(source, wide);
        }
        put_codes(bits, q, &mut out.codes);
    }
    out.num_elements += (src.len() / dtype.size()) as u64;
    out.num_samples += 1;
    Ok(())
}

/// Checks a static table against the parameters and the shape, and gives its length.
fn check_statics(scaling: &Scaling, shape: &[usize], table: &Scales) -> Result<usize> {
    let expected = match scaling.granularity {
        Granularity::PerTensor => 1,
        Granularity::PerChannel { .. } => scales_of(scaling.granularity, shape),
        Granularity::PerSample | Granularity::PerGroup { .. } => {
            return Err(Error::invalid(
                "scales per sample and per group are computed, they cannot be given",
            ));
        }
    };
    let zero_points = if scaling.zero_points { expected } else { 0 };
    if table.scales.len() != expected || table.zero_points.len() != zero_points {
        return Err(Error::invalid(format!(
            "samples of shape {shape:?} need {expected} scales and {zero_points} zero points, got {} and {}",
            table.scales.len(),
            table.zero_points.len()
        )));
    }
    Ok(expected)
}

/// What stored elements stand for, before they are multiplied by their scale.
#[derive(Clone, Copy)]
pub(super) enum Kind<'a> {
    /// Integers, with the zero_point where none is stored.
    Integers(Codes, f32),
    /// Values; no zero points.
    Values(Values<'a>),
}

/// Stored elements.
#[derive(Clone, Copy)]
pub(super) struct Elements<'a> {
    pub(super) kind: Kind<'a>,
    /// Bits of a stored element.
    pub(super) bits: u32,
    /// A power of two that all scales are multiplied by.
    pub(super) factor: f32,
}

impl<'a> Elements<'a> {
    pub(super) fn integers(codes: Codes, bits: u32, zero_point: f32) -> Self {
        Self {
            kind: Kind::Integers(codes, zero_point),
            bits,
            factor: 1.0,
        }
    }

    pub(super) fn values(values: Values<'a>, bits: u32) -> Self {
        Self {
            kind: Kind::Values(values),
            bits,
            factor: 1.0,
        }
    }

    /// Bytes of an element, nibbles unpacked.
    fn size(&self) -> usize {
        match self.kind {
            Kind::Integers(codes, _) => codes.size(),
            Kind::Values(_) => 1,
        }
    }

    fn signed(&self) -> bool {
        matches!(self.kind, Kind::Integers(Codes::I8, _))
    }
}

/// Groups shorter than this are dequantized by a table of scales, an entry for each element.
const SHORT: usize = 32;

/// Scales of a sample while it is dequantized.
struct Decoder<'a> {
    elements: Elements<'a>,
    scales: &'a [f32],
    zero_points: &'a [i32],
}

/// A block of elements before they meet their scales.
#[derive(Clone, Copy)]
enum Unscaled<'a> {
    Integers(Codes, &'a [u8]),
    Values(&'a [f32]),
}

impl Unscaled<'_> {
    fn run<S: Slot>(self, from: usize, scale: f32, zero_point: f32, dst: &mut [S]) {
        match self {
            Self::Integers(kind, codes) => {
                dequant::run(kind, &codes[from * kind.size()..], scale, zero_point, dst);
            }
            Self::Values(values) => values::run(&values[from..], scale, dst),
        }
    }

    fn groups<S: Slot>(self, group: usize, scales: &[f32], zero_point: f32, dst: &mut [S]) {
        match self {
            Self::Integers(kind, codes) => {
                dequant::groups(kind, codes, group, scales, zero_point, dst);
            }
            Self::Values(values) => values::groups(values, group, scales, dst),
        }
    }

    fn each<S: Slot>(self, scales: &[f32], zero_points: &[f32], dst: &mut [S]) {
        match self {
            Self::Integers(kind, codes) => dequant::each(kind, codes, scales, zero_points, dst),
            Self::Values(values) => values::each(values, scales, dst),
        }
    }
}

impl Decoder<'_> {
    fn zero_point(&self, index: usize) -> f32 {
        let fixed = match self.elements.kind {
            Kind::Integers(_, zero_point) => zero_point,
            Kind::Values(_) => 0.0,
        };
        self.zero_points.get(index).map_or(fixed, |z| *z as f32)
    }

    /// Dequantizes `dst.len()` elements, at most `BLOCK`; nibbles are unpacked already.
    fn block<S: Slot>(&self, cursor: &mut Cursor, codes: &[u8], dst: &mut [S]) {
        match self.elements.kind {
            Kind::Integers(kind, _) => self.scale(cursor, Unscaled::Integers(kind, codes), dst),
            Kind::Values(values) => {
                let mut x = [0.0; BLOCK];
                let x = &mut x[..dst.len()];
                values.of(codes, x);
                self.scale(cursor, Unscaled::Values(x), dst);
            }
        }
    }

    fn scale<S: Slot>(&self, cursor: &mut Cursor, unscaled: Unscaled<'_>, dst: &mut [S]) {
        let (count, factor) = (dst.len(), self.elements.factor);
        let mut done = 0;
        if cursor.group() >= SHORT {
            if self.zero_points.is_empty() {
                let scales = cursor.whole_groups(count);
                if !scales.is_empty() {
                    done = scales.len() * cursor.group();
                    let zero_point = self.zero_point(usize::MAX);
                    let mut multiplied = [0.0; BLOCK / SHORT];
                    let multiplied = &mut multiplied[..scales.len()];
                    for (out, scale) in multiplied.iter_mut().zip(&self.scales[scales]) {
                        *out = scale * factor;
                    }
                    let dst = &mut dst[..done];
                    unscaled.groups(cursor.group(), multiplied, zero_point, dst);
                }
            }
            while done < count {
                let (index, n) = cursor.next(count - done);
                let (scale, zero_point) = (self.scales[index] * factor, self.zero_point(index));
                unscaled.run(done, scale, zero_point, &mut dst[done..done + n]);
                done += n;
            }
            return;
        }
        let (mut scales, mut zero_points) = ([0.0f32; BLOCK], [self.zero_point(usize::MAX); BLOCK]);
        if let Some(period) = cursor
            .period()
            .filter(|period| *period <= self.scales.len())
        {
            // Channels along the last axis: whole stretches of the table.
            while done < count {
                let stretch = cursor.stretch(period, count - done);
                let n = stretch.len();
                if !self.zero_points.is_empty() {
                    for (zero_point, index) in
                        zero_points[done..done + n].iter_mut().zip(stretch.clone())
                    {
                        *zero_point = self.zero_point(index);
                    }
                }
                scales[done..done + n].copy_from_slice(&self.scales[stretch]);
                done += n;
            }
        }
        while done < count {
            let (index, n) = cursor.next(count - done);
            scales[done..done + n].fill(self.scales[index]);
            if !self.zero_points.is_empty() {
                zero_points[done..done + n].fill(self.zero_point(index));
            }
            done += n;
        }
        if factor != 1.0 {
            scales[..count]
                .iter_mut()
                .for_each(|scale| *scale *= factor);
        }
        unscaled.each(&scales, &zero_points, dst);
    }
}

/// True if there is one table for every sample. A dynamic table of several samples is longer.
fn is_static(scaling: &Scaling, block: &Block<'_>, per_sample: usize) -> bool {
    match scaling.granularity {
        Granularity::PerTensor => true,
        Granularity::PerChannel { .. } => block.scales.scales.len() == per_sample,
        Granularity::PerSample | Granularity::PerGroup { .. } => false,
    }
}

/// Channels of fewer elements are not dequantized one by one.
const LONG: usize = 256;

/// [`super::Quantizer::one_scale`] of quantizers with scales.
pub(super) fn one_scale(
    elements: &Elements<'_>,
    scaling: &Scaling,
    block: &Block<'_>,
    dtype_out: DType,
) -> Option<(OneScale, usize)> {
    let Kind::Integers(kind, fixed) = elements.kind else {
        return None;
    };
    let whole = num_elements(block.shape)?;
    let exact = matches!(block.dtype, DType::F32 | DType::F64) && dtype_out == DType::F32;
    let there = block.codes.len() == block.count.checked_mul(kind.size())?;
    if !exact || !there || whole == 0 || block.count == 0 || elements.bits == 4 {
        return None;
    }
    let sample = block.first / whole;
    let within = block.first % whole;
    let in_sample = block.count.min(whole - within);
    let table = block.scales;
    let (index, count) = match scaling.granularity {
        Granularity::PerTensor => (0, block.count),
        Granularity::PerSample => (sample, in_sample),
        Granularity::PerChannel { .. } => {
            let mut cursor = Layout::new(scaling.granularity, block.shape).at(within);
            if cursor.group() < LONG {
                return None;
            }
            let per_sample = scales_of(scaling.granularity, block.shape);
            let base = if is_static(scaling, block, per_sample) {
                0
            } else {
                sample.checked_mul(per_sample)?
            };
            let (channel, count) = cursor.next(in_sample);
            (base + channel, count)
        }
        Granularity::PerGroup { .. } => return None,
    };
    let zero_point = if scaling.zero_points {
        *table.zero_points.get(index)? as f32
    } else {
        fixed
    };
    let one = OneScale {
        kind,
        scale: *table.scales.get(index)? * elements.factor,
        zero_point,
    };
    Some((one, count))
}

/// [`super::Quantizer::dequantize`] of quantizers with scales.
pub(super) fn dequantize(
    elements: &Elements<'_>,
    scaling: &Scaling,
    block: &Block<'_>,
    dtype_out: DType,
    dst: &mut [u8],
) -> Result<()> {
    let whole = num_elements(block.shape)
        .ok_or_else(|| Error::invalid("the shape of a sample is too large"))?;
    if dst.len() != block.count.saturating_mul(dtype_out.size()) {
        return Err(wrong_length(
            "dequantized elements",
            block.count.saturating_mul(dtype_out.size()),
            dst.len(),
        ));
    }
    // Nothing to look up for each sample: what is dequantized at a time is short.
    if let Some((one, count)) = one_scale(elements, scaling, block, dtype_out)
        && count == block.count
    {
        one.run(block.codes, dst);
        return Ok(());
    }
    write_f32(dtype_out, &[], &mut [])?;
    if block.count == 0 {
        return Ok(());
    }
    if whole == 0 {
        return Err(Error::invalid(
            "a sample without elements has none to dequantize",
        ));
    }
    let Some(end) = block.first.checked_add(block.count) else {
        return Err(Error::invalid(
            "there are no elements beyond the address space",
        ));
    };
    let samples = (end - 1) / whole + 1;

    let per_sample = scales_of(scaling.granularity, block.shape).max(1);
    let is_static = is_static(scaling, block, per_sample);
    let needed = if is_static {
        Some(per_sample)
    } else {
        per_sample.checked_mul(samples)
    };
    let zero_points = block.scales.zero_points;
    let enough = |len: usize| needed.is_some_and(|needed| len >= needed);
    if !enough(block.scales.scales.len()) || (scaling.zero_points && !enough(zero_points.len())) {
        return Err(Error::invalid(format!(
            "{samples} samples of shape {:?} need {needed:?} scales, got {} and {} zero points",
            block.shape,
            block.scales.scales.len(),
            zero_points.len()
        )));
    }
    let zero_points = if scaling.zero_points {
        zero_points
    } else {
        &[][..]
    };

    // With one table, and samples of whole bytes, the samples are one long sample: the table repeats by itself.
    let nibbles = elements.bits == 4;
    let joined = is_static && !(nibbles && whole % 2 == 1);
    let whole = if joined { usize::MAX } else { whole };
    let layout = Layout::new(scaling.granularity, block.shape);
    let through_f32 = dtype_out != DType::F32 || !matches!(block.dtype, DType::F32 | DType::F64);
    let (mut codes, mut dst) = (block.codes, dst);
    let (mut first, mut left) = (block.first, block.count);
    while left > 0 {
        let (sample, within) = (first / whole, first % whole);
        if nibbles && within % 2 == 1 {
            return Err(Error::invalid(
                "4-bit elements are dequantized from an even element on",
            ));
        }
        let base = if is_static { 0 } else { sample * per_sample };
        let decoder = Decoder {
            elements: *elements,
            scales: &block.scales.scales[base..],
            zero_points: zero_points.get(base..).unwrap_or(&[]),
        };
        let mut cursor = layout.at(within);
        let mut in_sample = left.min(whole - within);
        first += in_sample;
        left -= in_sample;
        while in_sample > 0 {
            let count = in_sample.min(BLOCK);
            in_sample -= count;
            let len = if nibbles {
                count.div_ceil(2)
            } else {
                count * elements.size()
            };
            let Some((stored, rest)) = codes.split_at_checked(len) else {
                return Err(Error::invalid(
                    "there are fewer stored bytes than elements to dequantize",
                ));
            };
            codes = rest;
            let (out, rest) = std::mem::take(&mut dst).split_at_mut(count * dtype_out.size());
            dst = rest;
            // Set where they are needed only: a sample may be shorter than the time it takes to clear them.
            let (mut unpacked, mut x);
            let stored = if nibbles {
                unpacked = [0u8; BLOCK];
                dequant::unpack_nibbles(elements.signed(), stored, &mut unpacked[..count]);
                &unpacked[..count]
            } else {
                stored
            };
            if through_f32 {
                x = [0.0f32; BLOCK];
                let x = &mut x[..count];
                decoder.block(&mut cursor, stored, x);
                if block.dtype != dtype_out {
                    round_to(block.dtype, x);
                }
                from_f32(dtype_out, x, out)?;
            } else {
                decoder.block(&mut cursor, stored, out.as_chunks_mut::<4>().0);
            }
        }
    }
    if !codes.is_empty() {
        return Err(Error::invalid(format!(
            "{} stored bytes are left after dequantizing",
            codes.len()
        )));
    }
    Ok(())
}
