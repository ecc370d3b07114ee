//! Mx: OCP Microscaling, blocks of 32 narrow elements that share a power of two (format-spec 9.9).

use super::scale::{ScaleFormat, Scaling, check_source, from_e8m0};
use super::scaled::{self, Elements, Grid, Scheme, Source};
use super::{
    Block, Granularity, MxFormat, MxParams, NonFinite, QuantId, QuantParams, Quantized, Quantizer,
    Scales, wrong_params,
};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::kernel::dequant::Codes;
use crate::kernel::minifloat::{E2M1, Format, Ratios, quantize};
use crate::kernel::quantize::Grids;
use crate::kernel::values::Values;

/// Elements that share a scale.
const GROUP: u32 = 32;

pub(super) struct Mx;

fn parts(params: &QuantParams) -> Result<&MxParams> {
    match params {
        QuantParams::Mx(p) => Ok(p),
        _ => Err(wrong_params("mx", params)),
    }
}

/// What the parameters say about scales.
pub(super) fn scaling(p: &MxParams) -> Scaling {
    Scaling {
        granularity: Granularity::PerGroup { size: GROUP },
        format: ScaleFormat::E8M0,
        zero_points: false,
        non_finite: p.non_finite,
    }
}

fn format(p: &MxParams) -> Format {
    match p.format {
        MxFormat::Fp8E4M3 => Format::E4M3,
        MxFormat::Fp8E5M2 => Format::E5M2,
        MxFormat::Int8 => Format::Int8,
        MxFormat::Fp4 => Format::E2M1,
    }
}

/// Bits of an element.
pub(super) fn bits(p: &MxParams) -> u8 {
    if p.format == MxFormat::Fp4 { 4 } else { 8 }
}

/// Chooses scales and elements.
struct Fitter(Format);

impl Fitter {
    /// The exponent of the largest power of two among the elements.
    fn largest_exponent(&self) -> i32 {
        match self.0 {
            Format::E4M3 => 8,
            Format::E5M2 => 15,
            Format::E2M1 => 2,
            Format::Int8 => 0,
        }
    }
}

/// floor(log2(x)) of a positive f32.
fn exponent(x: f32) -> i32 {
    let bits = f64::from(x).to_bits() >> 52;
    i32::try_from(bits).unwrap_or(0) - 1023
}

impl Scheme for Fitter {
    const NAME: &'static str = "this MX format";

    fn fit(&self, low: f32, high: f32) -> (f32, i32) {
        let amax = if low <= high { high.max(-low) } else { 0.0 };
        if amax == 0.0 {
            return (1.0, 0);
        }
        let e = exponent(amax) - self.largest_exponent() + 127;
        (from_e8m0(u8::try_from(e.clamp(0, 254)).unwrap_or(0)), 0)
    }

    /// Everything finite: what is beyond the largest element is as the rule has it.
    fn grid(&self, scale: f32, _zero_point: i32) -> Grid {
        Grid {
            scale,
            zero_point: 0.0,
            low: f32::MIN,
            high: f32::MAX,
        }
    }

    fn encode(&self, x: &[f32], grids: &Grids<'_>, q: &mut [i32], decoded: &mut [f32]) -> bool {
        let ratios = Ratios {
            x,
            scale: grids.scale,
            limit: grids.high,
        };
        quantize(self.0, ratios, q, decoded)
    }

    fn holds(&self, ratio: f32, _low: f32, _high: f32) -> bool {
        ratio.is_finite() || (ratio.is_nan() && self.0.has_nan())
    }
}

impl Quantizer for Mx {
    fn id(&self) -> QuantId {
        QuantId::MX
    }

    fn name(&self) -> &'static str {
        "mx"
    }

    fn since_minor(&self) -> u16 {
        1
    }

    fn parse(&self, params: &[u8]) -> Result<QuantParams> {
        let &[format @ 0..=3, non_finite, 0, 0] = params else {
            return Err(Error::corrupt(
                "parameters of quantizer mx",
                "4 bytes, the first 0 to 3, the last two 0",
                format!("{params:?}"),
            ));
        };
        Ok(QuantParams::Mx(MxParams {
            format: MxFormat::ALL[usize::from(format)],
            non_finite: NonFinite::from_byte(non_finite)?,
        }))
    }

    fn emit(&self, params: &QuantParams, out: &mut Vec<u8>) {
        if let QuantParams::Mx(p) = params {
            let format = MxFormat::ALL.iter().position(|format| *format == p.format);
            let format = format.and_then(|format| u8::try_from(format).ok());
            out.extend_from_slice(&[format.unwrap_or(0), p.non_finite.to_byte(), 0, 0]);
        }
    }

    fn check(&self, params: &QuantParams, dtype: DType, _rank: Option<usize>) -> Result<()> {
        parts(params)?;
        check_source(dtype)
    }

    fn stored_bits(&self, params: &QuantParams, dtype: DType) -> u32 {
        match params {
            QuantParams::Mx(p) => u32::from(bits(p)),
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
        self.check(params, dtype, None)?;
        let source = Source {
            dtype,
            shape,
            num_samples,
            src,
            statics,
        };
        let bits = u32::from(bits(p));
        scaled::quantize(&Fitter(format(p)), &scaling(p), bits, &source, out)
    }

    fn dequantize(
        &self,
        params: &QuantParams,
        block: &Block<'_>,
        dtype_out: DType,
        dst: &mut [u8],
    ) -> Result<()> {
        let p = parts(params)?;
        self.check(params, block.dtype, None)?;
        let bits = u32::from(bits(p));
        let elements = match p.format {
            MxFormat::Fp8E4M3 => Elements::values(Values::E4M3, bits),
            MxFormat::Fp8E5M2 => Elements::values(Values::E5M2, bits),
            MxFormat::Fp4 => Elements::values(Values::Table16(&E2M1), bits),
            // 64ths: the scale takes the factor, exactly.
            MxFormat::Int8 => Elements {
                factor: 1.0 / 64.0,
                ..Elements::integers(Codes::I8, bits, 0.0)
            },
        };
        scaled::dequantize(&elements, &scaling(p), block, dtype_out, dst)
    }
}
