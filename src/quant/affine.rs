//! Affine: stored elements are integers with scales, x = scale * (q - zero_point) (format-spec 9.3).

use super::scale::{Header, ScaleFormat, Scaling, neighbour, round_up, smallest_normal};
use super::scaled::{self, Elements, Grid, Scheme, Source};
use super::{
    AffineParams, Block, QuantId, QuantParams, Quantized, Quantizer, Scales, wrong_params,
};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::kernel::convert::{largest, round_to};
use crate::kernel::dequant::{Codes, OneScale};
use crate::kernel::quantize::{Grids, in_range, quantize};

pub(super) struct Affine;

fn parts(params: &QuantParams) -> Result<&AffineParams> {
    match params {
        QuantParams::Affine(affine) => Ok(affine),
        _ => Err(wrong_params("affine", params)),
    }
}

/// What the parameters say about scales.
pub(super) fn scaling(p: &AffineParams) -> Scaling {
    Scaling {
        granularity: p.granularity,
        format: ScaleFormat::Float(p.scale_dtype),
        zero_points: !p.symmetric,
        non_finite: p.non_finite,
    }
}

fn header(p: &AffineParams) -> Header {
    Header {
        granularity: p.granularity,
        non_finite: p.non_finite,
        scale_dtype: p.scale_dtype,
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

/// Chooses scales and zero points.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fitter {
    params: AffineParams,
    dtype: DType,
    qmin: i32,
    qmax: i32,
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
}

impl Scheme for Fitter {
    const NAME: &'static str = "affine";

    fn fit(&self, low: f32, high: f32) -> (f32, i32) {
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

    /// All of qmin..qmax, less what decodes to infinity in the field's dtype.
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

    fn fixed_zero_point(&self) -> i32 {
        fixed_zero_point(&self.params)
    }

    fn encode(&self, x: &[f32], grids: &Grids<'_>, q: &mut [i32], decoded: &mut [f32]) -> bool {
        quantize(x, grids, q, decoded)
    }

    fn holds(&self, ratio: f32, low: f32, high: f32) -> bool {
        in_range(ratio, low, high)
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
        let Some((&[bits, signed, symmetric], header)) = params
            .split_first_chunk::<3>()
            .and_then(|(own, header)| Some((own, header.try_into().ok()?)))
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
        let header = Header::parse(header)?;
        Ok(QuantParams::Affine(AffineParams {
            bits,
            signed: flag("signed of quantizer affine", signed)?,
            symmetric: flag("symmetric of quantizer affine", symmetric)?,
            granularity: header.granularity,
            non_finite: header.non_finite,
            scale_dtype: header.scale_dtype,
        }))
    }

    fn emit(&self, params: &QuantParams, out: &mut Vec<u8>) {
        if let QuantParams::Affine(p) = params {
            out.extend_from_slice(&[p.bits, u8::from(p.signed), u8::from(p.symmetric)]);
            header(p).emit(out);
        }
    }

    fn check(&self, params: &QuantParams, dtype: DType, rank: Option<usize>) -> Result<()> {
        let p = parts(params)?;
        if ![4, 8, 16].contains(&p.bits) {
            return Err(Error::invalid(format!(
                "{} bits cannot be stored; 4, 8 and 16 can",
                p.bits
            )));
        }
        header(p).check(dtype, rank)
    }

    fn stored_bits(&self, params: &QuantParams, dtype: DType) -> u32 {
        match params {
            QuantParams::Affine(p) => u32::from(p.bits),
            _ => super::bits_of(dtype),
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
        let source = Source {
            dtype,
            shape,
            num_samples,
            src,
            statics,
        };
        let bits = u32::from(p.bits);
        scaled::quantize(&Fitter::new(p, dtype), &scaling(p), bits, &source, out)
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
        scaled::dequantize(&elements(p), &scaling(p), block, dtype_out, dst)
    }

    fn one_scale(
        &self,
        params: &QuantParams,
        block: &Block<'_>,
        dtype_out: DType,
    ) -> Option<(OneScale, usize)> {
        let p = parts(params).ok()?;
        let checked = self.check(params, block.dtype, Some(block.shape.len()));
        checked.ok()?;
        scaled::one_scale(&elements(p), &scaling(p), block, dtype_out)
    }
}

/// What the stored elements stand for.
fn elements(p: &AffineParams) -> Elements<'static> {
    let codes = Codes::new(p.bits, p.signed);
    Elements::integers(codes, u32::from(p.bits), fixed_zero_point(p) as f32)
}
