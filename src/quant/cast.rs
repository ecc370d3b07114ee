//! Cast: stored elements are floats of another dtype (format-spec 9.2).

use super::{
    Block, NonFinite, QuantId, QuantParams, Quantized, Quantizer, Scales, bits_of, elements_of,
    wrong_length, wrong_params,
};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::kernel::BLOCK;
use crate::kernel::convert::{convert, from_f32, largest, round_to, to_f32, to_f64};

pub(super) struct Cast;

/// The dtypes that elements can be stored in.
const DESTINATIONS: [DType; 5] = [
    DType::F16,
    DType::BF16,
    DType::F8E4M3FN,
    DType::F8E5M2,
    DType::F32,
];

fn parts(params: &QuantParams) -> Result<(DType, NonFinite)> {
    match *params {
        QuantParams::Cast { dtype, non_finite } => Ok((dtype, non_finite)),
        _ => Err(wrong_params("cast", params)),
    }
}

/// The stored element of largest magnitude, positive, that decodes to a finite value of the field's dtype.
fn largest_stored(field: DType, stored: DType) -> Result<f32> {
    // Where the field reaches less far than the destination, its largest value may round up to what overflows it:
    // the element below is then the largest.
    let (mut code, mut x) = ([0; 4], [0.0f32]);
    let code = &mut code[..stored.size()];
    from_f32(stored, &[largest(field).min(largest(stored))], code)?;
    to_f32(stored, code, &mut x);
    round_to(field, &mut x);
    if !x[0].is_finite() {
        // Codes of positive floats are ordered as integers, and this one is not 0 in its lowest byte after borrowing.
        let below = code
            .iter()
            .rev()
            .fold(0u32, |all, byte| (all << 8) | u32::from(*byte))
            - 1;
        code.copy_from_slice(&below.to_le_bytes()[..stored.size()]);
    }
    to_f32(stored, code, &mut x);
    Ok(x[0])
}

impl Quantizer for Cast {
    fn id(&self) -> QuantId {
        QuantId::CAST
    }

    fn name(&self) -> &'static str {
        "cast"
    }

    fn parse(&self, params: &[u8]) -> Result<QuantParams> {
        let &[d0, d1, non_finite, reserved] = params else {
            return Err(Error::corrupt(
                "parameters of quantizer cast",
                "4 bytes",
                params.len(),
            ));
        };
        let id = u16::from_le_bytes([d0, d1]);
        let Some(dtype) = DType::from_id(id).filter(|dtype| DESTINATIONS.contains(dtype)) else {
            return Err(Error::corrupt(
                "dtype of quantizer cast",
                "f16, bf16, f8e4m3fn, f8e5m2 or f32",
                id,
            ));
        };
        if reserved != 0 {
            return Err(Error::corrupt(
                "reserved byte of quantizer cast",
                0,
                reserved,
            ));
        }
        Ok(QuantParams::Cast {
            dtype,
            non_finite: NonFinite::from_byte(non_finite)?,
        })
    }

    fn emit(&self, params: &QuantParams, out: &mut Vec<u8>) {
        if let QuantParams::Cast { dtype, non_finite } = params {
            out.extend_from_slice(&dtype.id().to_le_bytes());
            out.extend_from_slice(&[non_finite.to_byte(), 0]);
        }
    }

    fn check(&self, params: &QuantParams, dtype: DType, _rank: Option<usize>) -> Result<()> {
        let (stored, _) = parts(params)?;
        let source = matches!(dtype, DType::F16 | DType::BF16 | DType::F32 | DType::F64);
        let fits = DESTINATIONS.contains(&stored)
            && (stored != DType::F32 || dtype == DType::F64)
            && stored != dtype;
        if source && fits {
            return Ok(());
        }
        Err(Error::invalid(format!(
            "{} field cannot be cast to {stored}; f16, bf16, f32 and f64 fields can be cast to another one of f16, \
             bf16, f8e4m3fn and f8e5m2, and f64 to f32",
            dtype.with_article()
        )))
    }

    fn stored_bits(&self, params: &QuantParams, dtype: DType) -> u32 {
        match params {
            QuantParams::Cast { dtype, .. } => bits_of(*dtype),
            _ => bits_of(dtype),
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
        let (stored, policy) = parts(params)?;
        self.check(params, dtype, None)?;
        let n = elements_of(dtype, shape, num_samples, src)?;
        let limit = largest_stored(dtype, stored)?;
        let has_infinity = stored != DType::F8E4M3FN;
        let (mut x, mut decoded) = ([0.0f32; BLOCK], [0.0f32; BLOCK]);
        let (mut source, mut wide) = ([0.0f64; BLOCK], [0.0f64; BLOCK]);
        for (b, src) in src.chunks(BLOCK * dtype.size()).enumerate() {
            let count = src.len() / dtype.size();
            let start = out.codes.len();
            let (x, decoded) = (&mut x[..count], &mut decoded[..count]);
            let (source, wide) = (&mut source[..count], &mut wide[..count]);
            to_f32(dtype, src, x);
            to_f64(dtype, src, source);
            out.codes.resize(start + count * stored.size(), 0);
            from_f32(stored, x, &mut out.codes[start..])?;
            to_f32(stored, &out.codes[start..], decoded);
            round_to(dtype, decoded);
            let finite = decoded.iter().fold(true, |all, x| all & x.is_finite());
            let mut patched = Vec::new();
            if !finite {
                for i in 0..count {
                    let kept = source[i].is_nan()
                        || (source[i].is_infinite() && has_infinity)
                        || decoded[i].is_finite();
                    if kept {
                        continue;
                    }
                    match policy {
                        NonFinite::Error => {
                            let sample = out.num_samples + ((b * BLOCK + i) / n) as u64;
                            let reason = format!("{stored} reaches only {limit} here");
                            return Err(Error::unrepresentable(source[i], sample, reason));
                        }
                        NonFinite::Saturate => x[i] = limit.copysign(x[i]),
                        NonFinite::Patch => {
                            x[i] = 0.0;
                            patched.push(i);
                            out.patch_indices
                                .push(out.num_elements + (b * BLOCK + i) as u64);
                            let at = i * dtype.size();
                            out.patch_values
                                .extend_from_slice(&src[at..at + dtype.size()]);
                        }
                    }
                }
                from_f32(stored, x, &mut out.codes[start..])?;
                to_f32(stored, &out.codes[start..], decoded);
                round_to(dtype, decoded);
            }
            for (wide, decoded) in wide.iter_mut().zip(&*decoded) {
                *wide = f64::from(*decoded);
            }
            patched.iter().for_each(|&i| wide[i] = source[i]);
            if finite {
                out.errors.add_finite(source, wide);
            } else {
                out.errors.add(source, wide);
            }
        }
        out.num_samples += num_samples as u64;
        out.num_elements += (n * num_samples) as u64;
        Ok(())
    }

    fn dequantize(
        &self,
        params: &QuantParams,
        block: &Block<'_>,
        dtype_out: DType,
        dst: &mut [u8],
    ) -> Result<()> {
        let (stored, _) = parts(params)?;
        let len = block.count.saturating_mul(stored.size());
        if block.codes.len() != len {
            return Err(wrong_length("stored elements", len, block.codes.len()));
        }
        if matches!(block.dtype, DType::F32 | DType::F64) && stored != dtype_out {
            return convert(stored, block.codes, dtype_out, dst);
        }
        if dst.len() != block.count.saturating_mul(dtype_out.size()) {
            return Err(wrong_length(
                "dequantized elements",
                block.count.saturating_mul(dtype_out.size()),
                dst.len(),
            ));
        }
        // Through the field's dtype, which may have fewer values. (Also quiets NaN where stored and output agree.)
        let mut x = [0.0f32; BLOCK];
        let blocks = block
            .codes
            .chunks(BLOCK * stored.size())
            .zip(dst.chunks_mut(BLOCK * dtype_out.size()));
        for (codes, dst) in blocks {
            to_f32(stored, codes, &mut x);
            round_to(block.dtype, &mut x);
            super::write_f32(dtype_out, &x, dst)?;
        }
        Ok(())
    }
}
