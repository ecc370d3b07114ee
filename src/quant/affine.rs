//! Affine: stored elements are integers with scales, x = scale * (q - zero_point) (format-spec 9.3).

use super::{
    AffineParams, Block, Granularity, NonFinite, QuantId, QuantParams, Quantized, Quantizer,
    Scales, elements_of, smallest_normal, write_f32, wrong_length, wrong_params,
};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::kernel::BLOCK;
use crate::kernel::convert::{
    Slot, f32_to_bf16, f32_to_f16, f64_to_f32, from_f32, largest, round_to, to_f32, to_f64,
};
use crate::kernel::dequant::{self, Codes};
use crate::kernel::quantize::{Grids, finite_range, in_range, quantize};
use crate::tensor::num_elements;

pub(super) struct Affine;

fn parts(params: &QuantParams) -> Result<&AffineParams> {
    match params {
        QuantParams::Affine(affine) => Ok(affine),
        _ => Err(wrong_params("affine", params)),
    }
}

/// qmin and qmax of the table in format-spec 9.3.
pub(super) fn q_range(p: &AffineParams) -> (i32, i32) {
    let half = 1i32 << (p.bits.clamp(1, 16) - 1);
    match (p.signed, p.symmetric) {
        (true, true) => (1 - half, half - 1),
        (false, true) => (1, 2 * half - 1),
        (true, false) => (-half, half - 1),
        (false, false) => (0, 2 * half - 1),
    }
}

/// The zero_point of a symmetric quantizer.
fn fixed_zero_point(p: &AffineParams) -> i32 {
    if p.signed {
        0
    } else {
        1 << (p.bits.clamp(1, 16) - 1)
    }
}

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

/// What a scale makes of the integers: `low` and `high` bound q - zero_point.
#[derive(Clone, Copy, Debug)]
struct Grid {
    scale: f32,
    zero_point: f32,
    low: f32,
    high: f32,
}

/// Chooses scales and zero points.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fitter {
    params: AffineParams,
    dtype: DType,
    qmin: i32,
    qmax: i32,
}

/// The neighbour of a positive scale, one unit in the last place of its dtype away.
fn neighbour(scale_dtype: DType, scale: f32, up: bool) -> f32 {
    let unit = match scale_dtype {
        DType::F16 => 1 << 13,
        DType::BF16 => 1 << 16,
        _ => 1,
    };
    f32::from_bits(if up {
        scale.to_bits() + unit
    } else {
        scale.to_bits() - unit
    })
}

/// Rounds up to a scale: at least the smallest normal of its dtype, at most the largest.
fn round_up(x: f64, scale_dtype: DType) -> f32 {
    let (smallest, largest) = (smallest_normal(scale_dtype), largest(scale_dtype));
    if x <= f64::from(smallest) {
        return smallest;
    }
    if x >= f64::from(largest) {
        return largest;
    }
    let mut scale = [f64_to_f32(x)];
    round_to(scale_dtype, &mut scale);
    let mut scale = scale[0].min(largest);
    // Rounding twice may be off by one in either direction.
    while f64::from(scale) < x {
        scale = neighbour(scale_dtype, scale, true);
    }
    while scale > smallest && f64::from(neighbour(scale_dtype, scale, false)) >= x {
        scale = neighbour(scale_dtype, scale, false);
    }
    scale
}

impl Fitter {
    pub(super) fn new(params: &AffineParams, dtype: DType) -> Self {
        let (qmin, qmax) = q_range(params);
        Self {
            params: *params,
            dtype,
            qmin,
            qmax,
        }
    }

    /// True if an f32 is finite after conversion to the field's dtype.
    fn fits(&self, x: f32) -> bool {
        let mut rounded = [x];
        round_to(self.dtype, &mut rounded);
        rounded[0].is_finite()
    }

    /// Scale and zero_point for elements in `low..=high`, which is (inf, -inf) if there are none.
    pub(super) fn fit(&self, low: f32, high: f32) -> (f32, i32) {
        let (low, high) = if low <= high {
            (low.min(0.0), high.max(0.0))
        } else {
            (0.0, 0.0)
        };
        let (wide_low, wide_high) = (f64::from(low), f64::from(high));
        let ideal = if self.params.symmetric {
            wide_high.max(-wide_low) / f64::from(self.qmax - fixed_zero_point(&self.params))
        } else {
            (wide_high - wide_low) / f64::from(self.qmax - self.qmin)
        };
        if ideal == 0.0 {
            return (1.0, self.zero_point(1.0, wide_low));
        }
        let scale = round_up(ideal, self.params.scale_dtype);
        let zero_point = self.zero_point(scale, wide_low);
        // Next to the end of the field's range, rounded up, the outermost code may decode to infinity. The scale below
        // is then as good if the elements are still within half a step of its codes.
        let covers = |scale: f32, zero_point| {
            let grid = self.grid(scale, zero_point);
            in_range(low / scale, grid.low, grid.high)
                && in_range(high / scale, grid.low, grid.high)
        };
        if !covers(scale, zero_point) && scale > smallest_normal(self.params.scale_dtype) {
            let below = neighbour(self.params.scale_dtype, scale, false);
            let zero_point = self.zero_point(below, wide_low);
            if covers(below, zero_point) {
                return (below, zero_point);
            }
        }
        (scale, zero_point)
    }

    fn zero_point(&self, scale: f32, low: f64) -> i32 {
        if self.params.symmetric {
            return fixed_zero_point(&self.params);
        }
        let (qmin, qmax) = (f64::from(self.qmin), f64::from(self.qmax));
        let zero_point = (qmin - low / f64::from(scale))
            .round_ties_even()
            .clamp(qmin, qmax);
        #[expect(
            clippy::cast_possible_truncation,
            reason = "an integer between qmin and qmax"
        )]
        let zero_point = zero_point as i32;
        zero_point
    }

    /// The grid of a scale: all of qmin..qmax, less what decodes to infinity in the field's dtype.
    fn grid(&self, scale: f32, zero_point: i32) -> Grid {
        let end = |q: i32, step: f32| {
            let mut difference = (q - zero_point) as f32;
            if !self.fits(difference * scale) {
                let most = (largest(self.dtype) / scale).floor() + 1.0;
                difference = difference.clamp(-most, most);
                while difference != 0.0 && !self.fits(difference * scale) {
                    difference += step;
                }
            }
            difference
        };
        Grid {
            scale,
            zero_point: zero_point as f32,
            low: end(self.qmin, 1.0),
            high: end(self.qmax, -1.0),
        }
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

fn put_codes(bits: u8, q: &[i32], out: &mut Vec<u8>) {
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

fn quantize_sample(
    p: &AffineParams,
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
        let good = quantize(x, &scratch.grids(), q, decoded);
        round_to(dtype, decoded);
        for (wide, decoded) in wide.iter_mut().zip(&*decoded) {
            *wide = f64::from(*decoded);
        }
        if good {
            out.errors.add_finite(source, wide);
        } else {
            for i in 0..count {
                if in_range(x[i] / scratch.scale[i], scratch.low[i], scratch.high[i]) {
                    continue;
                }
                if p.non_finite == NonFinite::Patch {
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
                } else if p.non_finite == NonFinite::Error || source[i].is_nan() {
                    let reason = if source[i].is_nan() {
                        "affine has no code for NaN".to_owned()
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
        put_codes(p.bits, q, &mut out.codes);
    }
    out.num_elements += (src.len() / dtype.size()) as u64;
    out.num_samples += 1;
    Ok(())
}

/// Groups shorter than this are dequantized by a table of scales, an entry for each element.
const SHORT: usize = 32;

/// Scales of a sample while it is dequantized.
struct Decoder<'a> {
    kind: Codes,
    scales: &'a [f32],
    zero_points: &'a [i32],
    fixed: f32,
}

impl Decoder<'_> {
    fn zero_point(&self, index: usize) -> f32 {
        self.zero_points
            .get(index)
            .map_or(self.fixed, |z| *z as f32)
    }

    /// Dequantizes `dst.len()` elements, at most `BLOCK`; nibbles are unpacked already.
    fn block<S: Slot>(&self, cursor: &mut Cursor, codes: &[u8], dst: &mut [S]) {
        let (count, size) = (dst.len(), self.kind.size());
        let mut done = 0;
        if cursor.layout.group >= SHORT {
            while done < count {
                let (index, n) = cursor.next(count - done);
                let codes = &codes[done * size..];
                let zero_point = self.zero_point(index);
                dequant::run(
                    self.kind,
                    codes,
                    self.scales[index],
                    zero_point,
                    &mut dst[done..done + n],
                );
                done += n;
            }
            return;
        }
        let (mut scales, mut zero_points) = ([0.0f32; BLOCK], [self.fixed; BLOCK]);
        let period = cursor.layout.modulus;
        if cursor.layout.row == 1 && period <= self.scales.len() {
            // Channels along the last axis: whole stretches of the table.
            while done < count {
                let n = (period - cursor.scale).min(count - done);
                scales[done..done + n]
                    .copy_from_slice(&self.scales[cursor.scale..cursor.scale + n]);
                if !self.zero_points.is_empty() {
                    for (i, zero_point) in zero_points[done..done + n].iter_mut().enumerate() {
                        *zero_point = self.zero_point(cursor.scale + i);
                    }
                }
                cursor.scale = (cursor.scale + n) % period;
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
        dequant::each(self.kind, codes, &scales, &zero_points, dst);
    }
}

impl Quantizer for Affine {
    fn id(&self) -> QuantId {
        QuantId::AFFINE
    }

    fn name(&self) -> &'static str {
        "affine"
    }

    fn parse(&self, params: &[u8]) -> Result<QuantParams> {
        let Some(
            &[
                bits,
                signed,
                symmetric,
                granularity,
                axis,
                non_finite,
                s0,
                s1,
                g0,
                g1,
                g2,
                g3,
                r0,
                r1,
                r2,
                r3,
            ],
        ) = params.first_chunk::<16>().filter(|_| params.len() == 16)
        else {
            return Err(Error::corrupt(
                "parameters of quantizer affine",
                "16 bytes",
                params.len(),
            ));
        };
        let flag = |name: &'static str, byte| match byte {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Error::corrupt(name, "0 or 1", byte)),
        };
        if ![4, 8, 16].contains(&bits) {
            return Err(Error::corrupt(
                "bits of quantizer affine",
                "4, 8 or 16",
                bits,
            ));
        }
        let size = u32::from_le_bytes([g0, g1, g2, g3]);
        let granularity = match (granularity, axis, size) {
            (0, 0, 0) => Granularity::PerTensor,
            (1, 0..16, 0) => Granularity::PerChannel { axis },
            (2, 0, 0) => Granularity::PerSample,
            (3, 0, 1..) => Granularity::PerGroup { size },
            _ => {
                return Err(Error::corrupt(
                    "granularity of quantizer affine",
                    "0 to 3 with the axis or group_size that belongs to it",
                    format!("{granularity} with axis {axis} and group_size {size}"),
                ));
            }
        };
        let id = u16::from_le_bytes([s0, s1]);
        let Some(scale_dtype) =
            DType::from_id(id).filter(|d| matches!(d, DType::F32 | DType::F16 | DType::BF16))
        else {
            return Err(Error::corrupt(
                "scale_dtype of quantizer affine",
                "f32, f16 or bf16",
                id,
            ));
        };
        if [r0, r1, r2, r3] != [0; 4] {
            return Err(Error::corrupt(
                "reserved bytes of quantizer affine",
                0,
                format!("{:?}", [r0, r1, r2, r3]),
            ));
        }
        Ok(QuantParams::Affine(AffineParams {
            bits,
            signed: flag("signed of quantizer affine", signed)?,
            symmetric: flag("symmetric of quantizer affine", symmetric)?,
            granularity,
            non_finite: NonFinite::from_byte(non_finite)?,
            scale_dtype,
        }))
    }

    fn emit(&self, params: &QuantParams, out: &mut Vec<u8>) {
        let QuantParams::Affine(p) = params else {
            return;
        };
        let (granularity, axis, size) = match p.granularity {
            Granularity::PerTensor => (0, 0, 0),
            Granularity::PerChannel { axis } => (1, axis, 0),
            Granularity::PerSample => (2, 0, 0),
            Granularity::PerGroup { size } => (3, 0, size),
        };
        let flags = [u8::from(p.signed), u8::from(p.symmetric)];
        out.extend_from_slice(&[
            p.bits,
            flags[0],
            flags[1],
            granularity,
            axis,
            p.non_finite.to_byte(),
        ]);
        out.extend_from_slice(&p.scale_dtype.id().to_le_bytes());
        out.extend_from_slice(&size.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
    }

    fn check(&self, params: &QuantParams, dtype: DType, rank: Option<usize>) -> Result<()> {
        let p = parts(params)?;
        if !matches!(dtype, DType::F16 | DType::BF16 | DType::F32 | DType::F64) {
            return Err(Error::invalid(format!(
                "{} field cannot be quantized to integers; f16, bf16, f32 and f64 fields can",
                dtype.with_article()
            )));
        }
        if ![4, 8, 16].contains(&p.bits) {
            return Err(Error::invalid(format!(
                "{} bits cannot be stored; 4, 8 and 16 can",
                p.bits
            )));
        }
        if !matches!(p.scale_dtype, DType::F32 | DType::F16 | DType::BF16) {
            return Err(Error::invalid(format!(
                "scales cannot be {}; f32, f16 and bf16 are possible",
                p.scale_dtype
            )));
        }
        match (p.granularity, rank) {
            (Granularity::PerGroup { size: 0 }, _) => {
                Err(Error::invalid("a group needs at least 1 element"))
            }
            (Granularity::PerChannel { .. }, None) => Err(Error::invalid(
                "a field of variable rank has no axis for scales per channel; take them per sample",
            )),
            (Granularity::PerChannel { axis }, Some(rank)) if usize::from(axis) >= rank => {
                Err(Error::invalid(format!(
                    "samples of rank {rank} have no axis {axis} for scales per channel; axis 0 is the outermost"
                )))
            }
            _ => Ok(()),
        }
    }

    fn stored_bits(&self, params: &QuantParams, dtype: DType) -> u32 {
        match params {
            QuantParams::Affine(p) => u32::from(p.bits),
            _ => super::bits_of(dtype),
        }
    }

    fn scales_per_sample(&self, params: &QuantParams, shape: &[usize]) -> usize {
        match params {
            QuantParams::Affine(p) => scales_of(p.granularity, shape),
            _ => 0,
        }
    }

    fn quantize(
        &self,
        params: &QuantParams,
        dtype: DType,
        shape: &[usize],
        num_samples: usize,
        src: &[u8],
        statics: Option<&Scales>,
        out: &mut Quantized,
    ) -> Result<()> {
        let p = parts(params)?;
        self.check(params, dtype, Some(shape.len()))?;
        let n = elements_of(dtype, shape, num_samples, src)?;
        let layout = Layout::new(p.granularity, shape);
        let fitter = Fitter::new(p, dtype);
        let mut grids = Vec::new();
        if let Some(table) = statics {
            let expected = check_statics(p, shape, table)?;
            let zero_point = |i| {
                table
                    .zero_points
                    .get(i)
                    .copied()
                    .unwrap_or_else(|| fixed_zero_point(p))
            };
            grids.extend((0..expected).map(|i| fitter.grid(table.scales[i], zero_point(i))));
        } else if p.granularity == Granularity::PerTensor {
            return Err(Error::invalid(
                "scales per tensor must be given, or calibrated on a first pass",
            ));
        }
        let per_sample = scales_of(p.granularity, shape);
        let mut ends = Vec::new();
        let mut rest = src;
        for _ in 0..num_samples {
            let (sample, next) = rest.split_at(n * dtype.size());
            rest = next;
            if statics.is_none() {
                ends.clear();
                ends.resize(per_sample, (f32::INFINITY, f32::NEG_INFINITY));
                ranges(layout, dtype, sample, &mut ends);
                grids.clear();
                for &(low, high) in &ends {
                    let (scale, zero_point) = fitter.fit(low, high);
                    grids.push(fitter.grid(scale, zero_point));
                    match p.scale_dtype {
                        DType::F16 => out
                            .scales
                            .extend_from_slice(&f32_to_f16(scale).to_le_bytes()),
                        DType::BF16 => out
                            .scales
                            .extend_from_slice(&f32_to_bf16(scale).to_le_bytes()),
                        _ => out.scales.extend_from_slice(&scale.to_le_bytes()),
                    }
                    if !p.symmetric {
                        out.zero_points.extend_from_slice(&zero_point.to_le_bytes());
                    }
                }
            }
            quantize_sample(p, dtype, sample, layout, &grids, out)?;
        }
        Ok(())
    }

    fn dequantize(
        &self,
        params: &QuantParams,
        block: &Block<'_>,
        dtype_out: DType,
        dst: &mut [u8],
    ) -> Result<()> {
        let p = parts(params)?;
        self.check(params, block.dtype, Some(block.shape.len()))?;
        let whole = num_elements(block.shape)
            .ok_or_else(|| Error::invalid("the shape of a sample is too large"))?;
        if dst.len() != block.count.saturating_mul(dtype_out.size()) {
            return Err(wrong_length(
                "dequantized elements",
                block.count.saturating_mul(dtype_out.size()),
                dst.len(),
            ));
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

        // Static: one table for every sample. A dynamic table of several samples is longer.
        let per_sample = scales_of(p.granularity, block.shape).max(1);
        let is_static = match p.granularity {
            Granularity::PerTensor => true,
            Granularity::PerChannel { .. } => block.scales.scales.len() == per_sample,
            Granularity::PerSample | Granularity::PerGroup { .. } => false,
        };
        let needed = if is_static {
            Some(per_sample)
        } else {
            per_sample.checked_mul(samples)
        };
        let zero_points = block.scales.zero_points;
        let enough = |len: usize| needed.is_some_and(|needed| len >= needed);
        if !enough(block.scales.scales.len()) || (!p.symmetric && !enough(zero_points.len())) {
            return Err(Error::invalid(format!(
                "{samples} samples of shape {:?} need {needed:?} scales, got {} and {} zero points",
                block.shape,
                block.scales.scales.len(),
                zero_points.len()
            )));
        }
        let zero_points = if p.symmetric { &[][..] } else { zero_points };

        // With one table, and samples of whole bytes, the samples are one long sample: the table repeats by itself.
        let nibbles = p.bits == 4;
        let joined = is_static && !(nibbles && whole % 2 == 1);
        let whole = if joined { usize::MAX } else { whole };
        let layout = Layout::new(p.granularity, block.shape);
        let kind = Codes::new(p.bits, p.signed);
        let through_f32 =
            dtype_out != DType::F32 || !matches!(block.dtype, DType::F32 | DType::F64);
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
                kind,
                scales: &block.scales.scales[base..],
                zero_points: zero_points.get(base..).unwrap_or(&[]),
                fixed: fixed_zero_point(p) as f32,
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
                    count * kind.size()
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
                    dequant::unpack_nibbles(p.signed, stored, &mut unpacked[..count]);
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

/// Checks a static table against the parameters and the shape, and gives its length.
fn check_statics(p: &AffineParams, shape: &[usize], table: &Scales) -> Result<usize> {
    let expected = match p.granularity {
        Granularity::PerTensor => 1,
        Granularity::PerChannel { .. } => scales_of(p.granularity, shape),
        Granularity::PerSample | Granularity::PerGroup { .. } => {
            return Err(Error::invalid(
                "scales per sample and per group are computed, they cannot be given",
            ));
        }
    };
    let zero_points = if p.symmetric { 0 } else { expected };
    if table.scales.len() != expected || table.zero_points.len() != zero_points {
        return Err(Error::invalid(format!(
            "samples of shape {shape:?} need {expected} scales and {zero_points} zero points, got {} and {}",
            table.scales.len(),
            table.zero_points.len()
        )));
    }
    Ok(expected)
}
