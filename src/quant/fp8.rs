//! Fp8: stored elements are 8-bit floats with scales, x = scale * q (format-spec 9.7).

use super::scale::{Header, ScaleFormat, Scaling, scale_for};
use super::scaled::{self, Elements, Grid, Scheme, Source};
use super::{Block, Fp8Params, QuantId, QuantParams, Quantized, Quantizer, Scales, wrong_params};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::kernel::convert::round_to;
use crate::kernel::minifloat::{Format, Ratios, quantize};
use crate::kernel::quantize::Grids;
use crate::kernel::values::Values;

pub(super) struct Fp8;

fn parts(params: &QuantParams) -> Result<&Fp8Params> {
    match params {
        QuantParams::Fp8(p) => Ok(p),
        _ => Err(wrong_params("fp8", params)),
    }
}

/// What the parameters say about scales.
pub(super) fn scaling(p: &Fp8Params) -> Scaling {
    Scaling {
        granularity: p.granularity,
        format: ScaleFormat::Float(p.scale_dtype),
        zero_points: false,
        non_finite: p.non_finite,
    }
}

fn header(p: &Fp8Params) -> Header {
    Header {
        granularity: p.granularity,
        non_finite: p.non_finite,
        scale_dtype: p.scale_dtype,
    }
}

fn format(p: &Fp8Params) -> Format {
    if p.dtype == DType::F8E5M2 {
        Format::E5M2
    } else {
        Format::E4M3
    }
}

/// How scales and codes are chosen for a field of this dtype.
pub(super) fn fitter(p: &Fp8Params, dtype: DType) -> Fitter {
    Fitter {
        format: format(p),
        scale_dtype: p.scale_dtype,
        dtype,
    }
}

/// Chooses scales and codes.
pub(super) struct Fitter {
    format: Format,
    scale_dtype: DType,
    dtype: DType,
}

/// Half the distance from a value to the next larger one.
fn half_gap(format: Format, value: f32) -> f32 {
    let power = f32::from_bits(value.to_bits() & 0x7F80_0000);
    match format {
        Format::E5M2 => power / 8.0,
        _ => power / 16.0,
    }
}

impl Scheme for Fitter {
    const NAME: &'static str = "fp8";

    fn fit(&self, low: f32, high: f32) -> (f32, i32) {
        let amax = if low <= high { high.max(-low) } else { 0.0 };
        let scale = scale_for(amax, self.format.largest(), self.scale_dtype, self.dtype);
        (scale, 0)
    }

    /// All values, less those that decode to infinity in the field's dtype.
    fn grid(&self, scale: f32, _zero_point: i32) -> Grid {
        let mut high = self.format.largest();
        while high > 0.0 {
            let mut decoded = [high * scale];
            round_to(self.dtype, &mut decoded);
            if decoded[0].is_finite() {
                break;
            }
            // Of a power of two the next smaller value is at half the distance: this skips it.
            high -= 2.0 * half_gap(self.format, high);
        }
        Grid {
            scale,
            zero_point: 0.0,
            low: -high,
            high,
        }
    }

    fn encode(&self, x: &[f32], grids: &Grids<'_>, q: &mut [i32], decoded: &mut [f32]) -> bool {
        let ratios = Ratios {
            x,
            scale: grids.scale,
            limit: grids.high,
        };
        quantize(self.format, ratios, q, decoded)
    }

    fn holds(&self, ratio: f32, _low: f32, high: f32) -> bool {
        ratio.is_nan() || ratio.abs() <= high + half_gap(self.format, high)
    }
}

impl Quantizer for Fp8 {
    fn id(&self) -> QuantId {
        QuantId::FP8
    }

    fn name(&self) -> &'static str {
        "fp8"
    }

    fn since_minor(&self) -> u16 {
        1
    }

    fn parse(&self, params: &[u8]) -> Result<QuantParams> {
        let Some((&[e5m2 @ 0..=1, 0, 0], header)) = params
            .split_first_chunk::<3>()
            .and_then(|(own, header)| Some((own, header.try_into().ok()?)))
        else {
            return Err(Error::corrupt(
                "parameters of quantizer fp8",
                "16 bytes, the first 0 or 1, then two of 0",
                format!("{params:?}"),
            ));
        };
        let header = Header::parse(header)?;
        Ok(QuantParams::Fp8(Fp8Params {
            dtype: if e5m2 == 1 {
                DType::F8E5M2
            } else {
                DType::F8E4M3FN
            },
            granularity: header.granularity,
            non_finite: header.non_finite,
            scale_dtype: header.scale_dtype,
        }))
    }

    fn emit(&self, params: &QuantParams, out: &mut Vec<u8>) {
        if let QuantParams::Fp8(p) = params {
            out.extend_from_slice(&[u8::from(p.dtype == DType::F8E5M2), 0, 0]);
            header(p).emit(out);
        }
    }

    fn check(&self, params: &QuantParams, dtype: DType, rank: Option<usize>) -> Result<()> {
        let p = parts(params)?;
        if !matches!(p.dtype, DType::F8E4M3FN | DType::F8E5M2) {
            return Err(Error::invalid(format!(
                "fp8 elements are f8e4m3fn or f8e5m2, not {}",
                p.dtype
            )));
        }
        header(p).check(dtype, rank)
    }

    fn stored_bits(&self, _params: &QuantParams, _dtype: DType) -> u32 {
        8
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
        scaled::quantize(&fitter(p, dtype), &scaling(p), 8, &source, out)
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
        let values = match format(p) {
            Format::E5M2 => Values::E5M2,
            _ => Values::E4M3,
        };
        let elements = Elements::values(values, 8);
        scaled::dequantize(&elements, &scaling(p), block, dtype_out, dst)
    }
}
