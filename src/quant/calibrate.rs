//! Static scales from a first pass over the data (format-spec 9.3).

use super::affine::{Fitter, Layout, ranges, scales_of};
use super::{AffineParams, Granularity, QuantParams, Scales};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::tensor::num_elements;

/// Finds the static scales of a field: observe every sample, then finish.
#[derive(Clone, Debug)]
pub struct Calibrator {
    params: AffineParams,
    layout: Layout,
    /// Elements of a sample; `None` if scales are per tensor, where the shape does not matter.
    sample: Option<usize>,
    dtype: Option<DType>,
    /// Smallest and largest finite element of each channel.
    ranges: Vec<(f32, f32)>,
}

impl Calibrator {
    /// A calibrator for samples of this shape. Scales per tensor take samples of any shape.
    ///
    /// # Errors
    /// `InvalidArgument` if the quantizer has no static scales.
    pub fn new(params: &QuantParams, shape: &[usize]) -> Result<Self> {
        let QuantParams::Affine(affine) = *params else {
            return Err(Error::invalid(
                "only integer quantizers have scales to calibrate",
            ));
        };
        let channels = match affine.granularity {
            Granularity::PerTensor => 1,
            Granularity::PerChannel { axis } if usize::from(axis) < shape.len() => {
                scales_of(affine.granularity, shape)
            }
            Granularity::PerChannel { axis } => {
                return Err(Error::invalid(format!(
                    "samples of shape {shape:?} have no axis {axis}"
                )));
            }
            Granularity::PerSample | Granularity::PerGroup { .. } => {
                return Err(Error::invalid(
                    "scales per sample and per group are not static and need no calibration",
                ));
            }
        };
        let sample = match affine.granularity {
            Granularity::PerTensor => None,
            _ => Some(
                num_elements(shape)
                    .ok_or_else(|| Error::invalid("the shape of a sample is too large"))?,
            ),
        };
        Ok(Self {
            params: affine,
            layout: Layout::new(affine.granularity, shape),
            sample,
            dtype: None,
            ranges: vec![(f32::INFINITY, f32::NEG_INFINITY); channels],
        })
    }

    /// Takes some whole samples into account: their bytes, one sample after the other. NaN and infinities do not count.
    ///
    /// # Errors
    /// `InvalidArgument` if these are not whole samples, or not of the dtype of the samples before.
    pub fn observe(&mut self, dtype: DType, samples: &[u8]) -> Result<()> {
        let unit = self.sample.unwrap_or(1).max(1) * dtype.size();
        if !samples.len().is_multiple_of(unit) {
            return Err(Error::invalid(format!(
                "{} bytes are not whole {dtype} samples",
                samples.len()
            )));
        }
        if *self.dtype.get_or_insert(dtype) != dtype {
            return Err(Error::invalid(format!(
                "samples of {dtype} follow samples of another dtype"
            )));
        }
        // Samples are whole multiples of the channels' period, so they can be gone through as one.
        if !self.ranges.is_empty() {
            ranges(self.layout, dtype, samples, &mut self.ranges);
        }
        Ok(())
    }

    /// The scales (and zero points, if not symmetric) that cover everything observed.
    pub fn finish(&self) -> Scales {
        let fitter = Fitter::new(&self.params, self.dtype.unwrap_or(DType::F32));
        let fitted = self.ranges.iter().map(|&(low, high)| fitter.fit(low, high));
        let (scales, zero_points) = fitted.unzip();
        Scales {
            scales,
            zero_points: if self.params.symmetric {
                Vec::new()
            } else {
                zero_points
            },
        }
    }
}
