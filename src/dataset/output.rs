//! What a reader is asked for: the dtype and form in which a field is delivered.

use std::sync::Arc;

use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::format::schema::{Field, Kind};
use crate::kernel::lut;
use crate::quant::{QuantId, QuantParams};
use crate::shard::{Form, Normalize, Table};

/// How samples of different shapes become one batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ragged {
    /// Values one after the other, with offsets: nothing is wasted. The default.
    #[default]
    Concatenated,
    /// One array of the largest shape in the batch, zeros where a sample is smaller, with a mask. Not for strings,
    /// bytes, or fields of variable rank.
    Padded,
}

/// How a field is delivered. Default: dequantized, in the dtype that the writer was given.
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct FieldOutput {
    dtype: Option<DType>,
    normalize: Option<Normalization>,
    quantized: bool,
    ragged: Ragged,
    pad_to: Option<usize>,
}

#[derive(Clone, Debug)]
struct Normalization {
    scale: f64,
    mean: Vec<f64>,
    std: Vec<f64>,
    axis: usize,
}

impl FieldOutput {
    /// The default output.
    pub fn new() -> Self {
        Self::default()
    }

    /// Delivers values as f32, f16, bf16 or f64. Integers convert by value; a quantized value is first
    /// the field's own value, then converted.
    pub fn dtype(mut self, dtype: DType) -> Self {
        self.dtype = Some(dtype);
        self
    }

    /// Delivers u8 values x as `(x * scale - mean[c]) / std[c]`, c the index along `axis` of the sample, as f32 (or
    /// the dtype asked for). `mean` and `std` have one entry, or one for each index. Each of the 256 results is
    /// computed in f64 and rounded once. For images: scale 1/255, axis 0 for `[3, H, W]`.
    pub fn normalize(mut self, scale: f64, mean: &[f64], std: &[f64], axis: usize) -> Self {
        self.normalize = Some(Normalization {
            scale,
            mean: mean.to_vec(),
            std: std.to_vec(),
            axis,
        });
        self
    }

    /// Delivers stored elements with their scales and zero points, to be dequantized on the device:
    /// `x = (q - zero_point) * scale` of integers, `x = q * scale` of 8-bit floats, `x = table[q] * scale` of a codebook
    /// (the table is in the field's [`QuantParams`]); MXINT8 elements are 64ths, MXFP4 ones E2M1
    /// codes. 4-bit elements are widened to one byte each. Not for fields with patches, and not for `abs_error`, whose
    /// steps are f64.
    pub fn quantized(mut self) -> Self {
        self.quantized = true;
        self
    }

    /// How samples of different shapes become one batch.
    pub fn ragged(mut self, ragged: Ragged) -> Self {
        self.ragged = ragged;
        self
    }

    /// With [`Ragged::Padded`]: dims that vary are padded to the next multiple of `multiple`, at least 1, so that batches
    /// have few different shapes, as compiled models like it.
    pub fn pad_to_multiple(mut self, multiple: usize) -> Self {
        self.pad_to = Some(multiple);
        self
    }

    /// What dims that vary are padded to a multiple of.
    pub(crate) fn multiple(&self) -> usize {
        self.pad_to.unwrap_or(1)
    }

    /// True if nothing but the default dtype was asked for.
    pub(crate) fn with_default_dtype(&self, dtype: Option<DType>, field: &Field) -> Self {
        let mut out = self.clone();
        if out.dtype.is_none() && !out.quantized && field.dtype().is_some_and(DType::is_float) {
            out.dtype = dtype;
        }
        out
    }

    /// The form for a field.
    pub(crate) fn resolve(&self, field: &Field) -> Result<(Form, Ragged)> {
        self.resolve_inner(field)
            .map_err(|e| e.in_field(field.name()))
    }

    fn resolve_inner(&self, field: &Field) -> Result<(Form, Ragged)> {
        if let Some(multiple) = self.pad_to
            && (multiple == 0 || self.ragged != Ragged::Padded)
        {
            return Err(Error::invalid(format!(
                "pad_to_multiple({multiple}) is for padded output, and at least 1"
            )));
        }
        let rank_varies = field.dims().is_none() || field.dtype().is_none();
        if self.ragged == Ragged::Padded
            && field.is_ragged()
            && (field.kind() != Kind::Tensor || rank_varies)
        {
            return Err(Error::invalid(
                "text, bytes and tensors of variable rank cannot be padded; use Concatenated",
            ));
        }
        let Some(source) = field.dtype() else {
            if self.dtype.is_some() || self.normalize.is_some() || self.quantized {
                return Err(Error::invalid(
                    "a field whose samples have their own dtypes is delivered as it is",
                ));
            }
            return Ok((Form::Values(None), self.ragged));
        };
        if let Some(dtype) = self.dtype
            && dtype != source
            && !matches!(dtype, DType::F32 | DType::F16 | DType::BF16 | DType::F64)
        {
            return Err(Error::invalid(format!(
                "{source} values can be delivered as f32, f16, bf16 or f64, not {dtype}"
            )));
        }
        if self.quantized {
            return self.resolve_quantized(field);
        }
        if let Some(normalization) = &self.normalize {
            let table = normalization.resolve(field, self.dtype.unwrap_or(DType::F32))?;
            return Ok((Form::Normalized(Arc::new(table)), self.ragged));
        }
        Ok((
            Form::Values(Some(self.dtype.unwrap_or(source))),
            self.ragged,
        ))
    }

    fn resolve_quantized(&self, field: &Field) -> Result<(Form, Ragged)> {
        if self.dtype.is_some() || self.normalize.is_some() {
            return Err(Error::invalid(
                "quantized output has the stored dtype: ask for no other, and no normalization",
            ));
        }
        if field.quantizer() == &QuantParams::Identity {
            return Ok((Form::Values(field.dtype()), self.ragged));
        }
        if field.quantizer().id() == QuantId::ABS_ERROR {
            return Err(Error::invalid(
                "the steps of an abs_error field are f64, which the scales of quantized output are not; take it \
                 dequantized",
            ));
        }
        if field.quantizer().allows_patches() {
            return Err(Error::invalid(
                "this field has patched values, which exist only dequantized",
            ));
        }
        if field.is_ragged() {
            return Err(Error::invalid("ragged fields are delivered dequantized"));
        }
        Ok((Form::Codes, self.ragged))
    }
}

impl Normalization {
    fn resolve(&self, field: &Field, dtype: DType) -> Result<Normalize> {
        let shape = match (field.dtype(), field.quantizer(), field.fixed_shape()) {
            (Some(DType::U8), QuantParams::Identity, Some(shape)) => shape,
            _ => {
                return Err(Error::invalid(format!(
                    "only u8 fields of fixed shape are normalized, this is {field}"
                )));
            }
        };
        if !matches!(dtype, DType::F32 | DType::F16 | DType::BF16) {
            return Err(Error::invalid(format!(
                "normalized values are f32, f16 or bf16, not {dtype}"
            )));
        }
        let channels = self.mean.len().max(self.std.len());
        let entry =
            |values: &[f64], c: usize| values.get(if values.len() == 1 { 0 } else { c }).copied();
        let fits = !self.mean.is_empty()
            && !self.std.is_empty()
            && (channels == 1 || shape.get(self.axis) == Some(&channels))
            && (0..channels).all(|c| {
                entry(&self.mean, c).is_some() && entry(&self.std, c).is_some_and(|s| s != 0.0)
            });
        if !fits {
            return Err(Error::invalid(format!(
                "{} means and {} stds (not 0) do not fit axis {} of {field}",
                self.mean.len(),
                self.std.len(),
                self.axis
            )));
        }
        let stride = if channels == 1 {
            1
        } else {
            shape[self.axis + 1..].iter().product::<usize>().max(1)
        };
        let tables = (0..channels)
            .map(|c| {
                let (mean, std) = (
                    entry(&self.mean, c).unwrap_or(0.0),
                    entry(&self.std, c).unwrap_or(1.0),
                );
                let table =
                    std::array::from_fn(|x| round_to_f32((x as f64 * self.scale - mean) / std));
                match dtype {
                    DType::F16 => Table::Half(Box::new(lut::to_f16(&table))),
                    DType::BF16 => Table::Half(Box::new(lut::to_bf16(&table))),
                    _ => Table::F32(Box::new(table)),
                }
            })
            .collect();
        Ok(Normalize {
            dtype,
            stride: if channels == 1 { usize::MAX } else { stride },
            tables,
        })
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the one rounding that is documented"
)]
fn round_to_f32(x: f64) -> f32 {
    x as f32
}
