//! Absolute error: stored elements are integers on a grid whose step follows from the largest error asked for, and
//! every element is checked on write (format-spec 9.6).

use super::bound::{LARGEST_ZERO_POINT, spacing};
use super::{
    AbsErrorParams, Block, NonFinite, QuantId, QuantParams, Quantized, Quantizer, Scales,
    elements_of, write_f32, wrong_length, wrong_params,
};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::kernel::BLOCK;
use crate::kernel::abs_error::{
    Grid, Width, misses, narrow, one_scale, quantize, to_f32, to_f64 as dequantize_f64, within,
};
use crate::kernel::convert::{from_f32, round_to, to_f64};
use crate::kernel::dequant::OneScale;

pub(super) struct AbsError;

fn parts(params: &QuantParams) -> Result<&AbsErrorParams> {
    match params {
        QuantParams::AbsError(p) => Ok(p),
        _ => Err(wrong_params("abs_error", params)),
    }
}

fn grid(p: &AbsErrorParams) -> Grid {
    let half = 2f64.powi(i32::from(p.bits) - 1);
    let zero_point = p.zero_point as f64;
    Grid {
        step: p.step,
        zero_point,
        low: -half - zero_point,
        high: half - 1.0 - zero_point,
    }
}

/// What is wrong with parameters, whoever made them.
fn check_params(p: &AbsErrorParams) -> Result<(), (&'static str, &'static str, String)> {
    if ![8, 16, 32].contains(&p.bits) {
        return Err((
            "bits of quantizer abs_error",
            "8, 16 or 32",
            p.bits.to_string(),
        ));
    }
    if p.non_finite == NonFinite::Saturate {
        return Err((
            "non_finite of quantizer abs_error",
            "error or patch: saturated elements would miss the bound",
            "saturate".to_owned(),
        ));
    }
    if p.zero_point.unsigned_abs() > LARGEST_ZERO_POINT.unsigned_abs() {
        return Err((
            "zero_point of quantizer abs_error",
            "at most 2^50 in size",
            p.zero_point.to_string(),
        ));
    }
    if !(p.step.is_normal() && p.step > 0.0) {
        return Err((
            "step of quantizer abs_error",
            "a positive, finite, normal f64",
            p.step.to_string(),
        ));
    }
    if !(p.max_error >= 0.0 && p.max_error.is_finite()) || p.max_error.is_sign_negative() {
        return Err((
            "max_error of quantizer abs_error",
            "a finite f64 that is not negative",
            p.max_error.to_string(),
        ));
    }
    Ok(())
}

/// Elements quantized at a time: their arrays stay in the L1 cache.
const PART: usize = 256;

/// Rounds decoded values to the field's dtype, as a reader does.
fn round_decoded(dtype: DType, decoded: &mut [f64]) {
    if dtype == DType::F64 {
        return;
    }
    let mut x = [0.0f32; PART];
    let x = &mut x[..decoded.len()];
    narrow(decoded, x);
    round_to(dtype, x);
    for (wide, x) in decoded.iter_mut().zip(x) {
        *wide = f64::from(*x);
    }
}

fn put_codes(bits: u8, q: &[i32], out: &mut Vec<u8>) {
    let bytes = q.iter().map(|q| q.to_le_bytes());
    match bits {
        8 => out.extend(bytes.map(|b| b[0])),
        16 => out.extend(bytes.flat_map(|b| [b[0], b[1]])),
        _ => out.extend(bytes.flatten()),
    }
}

/// Elements that are not within the bound: patches, or an error.
#[expect(
    clippy::too_many_arguments,
    reason = "each is a different fact about the elements, and there is one caller"
)]
fn patch(
    p: &AbsErrorParams,
    at: impl Fn(usize) -> (u64, u64),
    source: &[f64],
    src: &[u8],
    before: i32,
    q: &mut [i32],
    decoded: &mut [f64],
    out: &mut Quantized,
) -> Result<()> {
    let size = src.len() / source.len();
    let (qmin, qmax) = (i32::MIN >> (32 - p.bits), i32::MAX >> (32 - p.bits));
    for i in 0..source.len() {
        if within(source[i], decoded[i], p.max_error) {
            continue;
        }
        let (element, sample) = at(i);
        if p.non_finite == NonFinite::Error {
            let reason = format!("it is not within {:e} of a stored value", p.max_error);
            return Err(Error::unrepresentable(source[i], sample, reason));
        }
        if source[i].is_finite() {
            out.missed += 1;
            out.largest_missed = out.largest_missed.max(source[i].abs());
        }
        if q[i] == qmin || q[i] == qmax {
            // Any q will do: one that is easy to predict compresses well.
            q[i] = i.checked_sub(1).map_or(before, |before| q[before]);
        }
        decoded[i] = source[i];
        out.patch_indices.push(element);
        out.patch_values
            .extend_from_slice(&src[i * size..(i + 1) * size]);
    }
    Ok(())
}

impl Quantizer for AbsError {
    fn id(&self) -> QuantId {
        QuantId::ABS_ERROR
    }

    fn name(&self) -> &'static str {
        "abs_error"
    }

    fn since_minor(&self) -> u16 {
        1
    }

    fn parse(&self, params: &[u8]) -> Result<QuantParams> {
        let wrong = |found: String| {
            Error::corrupt(
                "parameters of quantizer abs_error",
                "32 bytes, the reserved ones 0",
                found,
            )
        };
        let ([head, zero_point, step, max_error], []) = params.as_chunks::<8>() else {
            return Err(wrong(format!("{} bytes", params.len())));
        };
        let [bits, non_finite, reserved @ ..] = *head;
        if reserved != [0; 6] {
            return Err(wrong(format!("{reserved:?}")));
        }
        let p = AbsErrorParams {
            bits,
            zero_point: i64::from_le_bytes(*zero_point),
            step: f64::from_le_bytes(*step),
            max_error: f64::from_le_bytes(*max_error),
            non_finite: NonFinite::from_byte(non_finite)?,
        };
        check_params(&p)
            .map_err(|(what, expected, found)| Error::corrupt(what, expected, found))?;
        Ok(QuantParams::AbsError(p))
    }

    fn emit(&self, params: &QuantParams, out: &mut Vec<u8>) {
        if let QuantParams::AbsError(p) = params {
            out.extend_from_slice(&[p.bits, p.non_finite.to_byte(), 0, 0, 0, 0, 0, 0]);
            out.extend_from_slice(&p.zero_point.to_le_bytes());
            out.extend_from_slice(&p.step.to_le_bytes());
            out.extend_from_slice(&p.max_error.to_le_bytes());
        }
    }

    fn check(&self, params: &QuantParams, dtype: DType, _rank: Option<usize>) -> Result<()> {
        let p = parts(params)?;
        if !matches!(dtype, DType::F16 | DType::BF16 | DType::F32 | DType::F64) {
            return Err(Error::invalid(format!(
                "the error of a {dtype} field cannot be bounded; that of f16, bf16, f32 and f64 fields can"
            )));
        }
        check_params(p).map_err(|(what, expected, found)| {
            Error::invalid(format!("{what}: {expected}, not {found}"))
        })
    }

    fn stored_bits(&self, params: &QuantParams, dtype: DType) -> u32 {
        match params {
            QuantParams::AbsError(p) => u32::from(p.bits),
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
        _statics: Option<&Scales>,
        out: &mut Quantized,
    ) -> Result<()> {
        let p = parts(params)?;
        self.check(params, dtype, None)?;
        let n = elements_of(dtype, shape, num_samples, src)?;
        let grid = grid(p);
        let (mut source, mut decoded, mut q) = ([0.0f64; PART], [0.0f64; PART], [0i32; PART]);
        let mut before = 0;
        for (part, src) in src.chunks(PART * dtype.size()).enumerate() {
            let count = src.len() / dtype.size();
            let (source, decoded) = (&mut source[..count], &mut decoded[..count]);
            let q = &mut q[..count];
            to_f64(dtype, src, source);
            quantize(source, &grid, q, decoded);
            round_decoded(dtype, decoded);
            if misses(source, decoded, p.max_error) == 0 {
                out.errors.add_finite(source, decoded);
            } else {
                let (elements, samples) = (out.num_elements, out.num_samples);
                let at = |i: usize| {
                    let element = part * PART + i;
                    (elements + element as u64, samples + (element / n) as u64)
                };
                patch(p, at, source, src, before, q, decoded, out)?;
                out.errors.add(source, decoded);
            }
            put_codes(p.bits, q, &mut out.codes);
            before = q.last().copied().unwrap_or(0);
        }
        out.num_samples += num_samples as u64;
        out.num_elements += (n * num_samples) as u64;
        Ok(())
    }

    fn review(&self, params: &QuantParams, dtype: DType, out: &Quantized) -> Result<()> {
        let p = parts(params)?;
        if out.missed < MANY || out.missed <= out.errors.count / 2 {
            return Ok(());
        }
        let largest = out.largest_missed;
        let apart = spacing(dtype, largest);
        let reach = grid(p).high * p.step;
        // Half the distance of two values, or what the integers reach: whichever asks for more, and a little more still,
        // because two digits are printed.
        let reaching = largest / (2f64.powi(i32::from(p.bits) - 1) - 1.0) / 2.0;
        let workable = (apart / 2.0).max(if largest > reach { reaching } else { 0.0 }) * 1.06;
        Err(Error::invalid(format!(
            "{} of {} elements cannot be stored as {}-bit integers within {:e}: they reach {largest:e}, where {dtype} \
             values are {apart:e} apart and the integers reach {reach:e}; allow an error of at least {workable:.1e}, take \
             more bits, or store the field losslessly",
            out.missed, out.errors.count, p.bits, p.max_error
        )))
    }

    fn dequantize(
        &self,
        params: &QuantParams,
        block: &Block<'_>,
        dtype_out: DType,
        dst: &mut [u8],
    ) -> Result<()> {
        let p = parts(params)?;
        let width = Width::new(p.bits);
        let len = block.count.saturating_mul(width.size());
        if block.codes.len() != len {
            return Err(wrong_length("stored elements", len, block.codes.len()));
        }
        let len = block.count.saturating_mul(dtype_out.size());
        if dst.len() != len {
            return Err(wrong_length("dequantized elements", len, dst.len()));
        }
        write_f32(dtype_out, &[], &mut [])?;
        let grid = grid(p);
        match (block.dtype, dtype_out) {
            (DType::F32 | DType::F64, DType::F32) => {
                to_f32(width, block.codes, &grid, dst.as_chunks_mut::<4>().0);
            }
            (DType::F64, DType::F64) => {
                dequantize_f64(width, block.codes, &grid, dst.as_chunks_mut::<8>().0);
            }
            _ => {
                let mut x = [0.0f32; BLOCK];
                let codes = block.codes.chunks(BLOCK * width.size());
                for (codes, dst) in codes.zip(dst.chunks_mut(BLOCK * dtype_out.size())) {
                    let x = &mut x[..codes.len() / width.size()];
                    to_f32(width, codes, &grid, x);
                    if block.dtype != dtype_out {
                        round_to(block.dtype, x);
                    }
                    from_f32(dtype_out, x, dst)?;
                }
            }
        }
        Ok(())
    }

    fn one_scale(
        &self,
        params: &QuantParams,
        block: &Block<'_>,
        dtype_out: DType,
    ) -> Option<(OneScale, usize)> {
        let p = parts(params).ok()?;
        let width = Width::new(p.bits);
        let exact = matches!(block.dtype, DType::F32 | DType::F64) && dtype_out == DType::F32;
        let there = block.codes.len() == block.count.checked_mul(width.size())?;
        if !exact || !there {
            return None;
        }
        Some((one_scale(width, &grid(p))?, block.count))
    }
}

/// Fewer patches than this in a chunk are never too many.
const MANY: u64 = 64;
