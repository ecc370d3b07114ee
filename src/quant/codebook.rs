//! Codebook: stored elements are indices into a table, x = `table[q] * scale` (format-spec 9.8).

use std::sync::Arc;

use super::scale::{Header, ScaleFormat, Scaling, scale_for};
use super::scaled::{self, Elements, Grid, Scheme, Source};
use super::{
    Block, CodebookParams, QuantId, QuantParams, Quantized, Quantizer, Scales, wrong_params,
};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::kernel::codebook::{Codebook as Table, quantize};
use crate::kernel::quantize::Grids;
use crate::kernel::values::Values;

/// NF4: quantiles of the normal distribution, from QLoRA (arXiv 2305.14314, appendix E) as bitsandbytes has them.
pub(super) const NF4: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

pub(super) struct Codebook;

fn parts(params: &QuantParams) -> Result<&CodebookParams> {
    match params {
        QuantParams::Codebook(p) => Ok(p),
        _ => Err(wrong_params("codebook", params)),
    }
}

/// What the parameters say about scales.
pub(super) fn scaling(p: &CodebookParams) -> Scaling {
    Scaling {
        granularity: p.granularity,
        format: ScaleFormat::Float(p.scale_dtype),
        zero_points: false,
        non_finite: p.non_finite,
    }
}

fn header(p: &CodebookParams) -> Header {
    Header {
        granularity: p.granularity,
        non_finite: p.non_finite,
        scale_dtype: p.scale_dtype,
    }
}

/// Bits of an index into the table.
pub(super) fn bits(p: &CodebookParams) -> u8 {
    if p.table.len() == 16 { 4 } else { 8 }
}

/// True for what a table can be: finite, ascending, and not all zeros.
fn is_table(table: &[f32]) -> bool {
    matches!(table.len(), 16 | 256)
        && table.iter().all(|x| x.is_finite())
        && table.windows(2).all(|pair| pair[0] < pair[1])
}

/// Chooses scales and indices.
pub(super) struct Fitter {
    table: Arc<[f32]>,
    thresholds: Vec<f32>,
    scale_dtype: DType,
    dtype: DType,
}

/// The largest f32 that is not above `x`.
#[expect(clippy::cast_possible_truncation, reason = "corrected")]
fn round_down(x: f64) -> f32 {
    let near = x as f32;
    if f64::from(near) > x {
        near.next_down()
    } else {
        near
    }
}

/// How scales and indices are chosen for a field of this dtype.
pub(super) fn fitter(p: &CodebookParams, dtype: DType) -> Fitter {
    let middle = |pair: &[f32]| round_down(f64::midpoint(pair[0].into(), pair[1].into()));
    Fitter {
        thresholds: p.table.windows(2).map(middle).collect(),
        table: Arc::clone(&p.table),
        scale_dtype: p.scale_dtype,
        dtype,
    }
}

impl Scheme for Fitter {
    const NAME: &'static str = "codebook";

    fn fit(&self, low: f32, high: f32) -> (f32, i32) {
        let (first, last) = (self.table[0], self.table[self.table.len() - 1]);
        let mut scale = 0.0f32;
        // Each end of the range by the end of the table on its side of 0.
        for (end, value) in [(-low, -first), (high, last)] {
            if end > 0.0 && end.is_finite() && value > 0.0 {
                scale = scale.max(scale_for(end, value, self.scale_dtype, self.dtype));
            }
        }
        (if scale > 0.0 { scale } else { 1.0 }, 0)
    }

    fn grid(&self, scale: f32, _zero_point: i32) -> Grid {
        Grid {
            scale,
            zero_point: 0.0,
            low: self.table[0],
            high: self.table[self.table.len() - 1],
        }
    }

    fn encode(&self, x: &[f32], grids: &Grids<'_>, q: &mut [i32], decoded: &mut [f32]) -> bool {
        let table = Table {
            table: &self.table,
            thresholds: &self.thresholds,
        };
        quantize(x, grids.scale, &table, q, decoded)
    }

    /// Half a step of the outermost entries beyond them, as where two entries meet.
    fn holds(&self, ratio: f32, low: f32, high: f32) -> bool {
        let n = self.table.len();
        ratio >= low - (self.table[1] - low) / 2.0
            && ratio <= high + (high - self.table[n - 2]) / 2.0
    }
}

impl Quantizer for Codebook {
    fn id(&self) -> QuantId {
        QuantId::CODEBOOK
    }

    fn name(&self) -> &'static str {
        "codebook"
    }

    fn since_minor(&self) -> u16 {
        1
    }

    fn parse(&self, params: &[u8]) -> Result<QuantParams> {
        let wrong = |found: String| {
            Error::corrupt(
                "parameters of quantizer codebook",
                "4 or 8 bits, 16 bytes and 2^bits ascending, finite f32",
                found,
            )
        };
        let Some(([bits, 0, 0], header, table)) =
            params.split_first_chunk::<3>().and_then(|(own, rest)| {
                let (header, table) = rest.split_first_chunk::<13>()?;
                Some((*own, header, table))
            })
        else {
            return Err(wrong(format!("{} bytes", params.len())));
        };
        let (entries, rest) = table.as_chunks::<4>();
        let entries: Arc<[f32]> = entries
            .iter()
            .map(|entry| f32::from_le_bytes(*entry))
            .collect();
        if !rest.is_empty() || !is_table(&entries) {
            return Err(wrong(format!("{} bytes of table", table.len())));
        }
        let header = Header::parse(header)?;
        let p = CodebookParams {
            table: entries,
            granularity: header.granularity,
            non_finite: header.non_finite,
            scale_dtype: header.scale_dtype,
        };
        if bits != self::bits(&p) {
            return Err(wrong(format!("{bits} bits")));
        }
        Ok(QuantParams::Codebook(p))
    }

    fn emit(&self, params: &QuantParams, out: &mut Vec<u8>) {
        if let QuantParams::Codebook(p) = params {
            out.extend_from_slice(&[bits(p), 0, 0]);
            header(p).emit(out);
            for entry in &*p.table {
                out.extend_from_slice(&entry.to_le_bytes());
            }
        }
    }

    fn check(&self, params: &QuantParams, dtype: DType, rank: Option<usize>) -> Result<()> {
        let p = parts(params)?;
        if !is_table(&p.table) {
            return Err(Error::invalid(
                "a codebook has 16 or 256 finite entries in ascending order",
            ));
        }
        header(p).check(dtype, rank)
    }

    fn stored_bits(&self, params: &QuantParams, dtype: DType) -> u32 {
        match params {
            QuantParams::Codebook(p) => u32::from(bits(p)),
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
        let bits = u32::from(bits(p));
        scaled::quantize(&fitter(p, dtype), &scaling(p), bits, &source, out)
    }

    fn dequantize(
        &self,
        params: &QuantParams,
        block: &Block<'_>,
        dtype_out: DType,
        dst: &mut [u8],
    ) -> Result<()> {
        let p = parts(params)?;
        header(p).check(block.dtype, Some(block.shape.len()))?;
        let values = match (p.table.first_chunk::<16>(), p.table.first_chunk::<256>()) {
            (_, Some(table)) => Values::Table256(table),
            (Some(table), None) => Values::Table16(table),
            (None, None) => return Err(wrong_params("codebook", params)),
        };
        let elements = Elements::values(values, u32::from(bits(p)));
        scaled::dequantize(&elements, &scaling(p), block, dtype_out, dst)
    }
}
