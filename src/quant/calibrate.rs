//! What a writer must know of all data before the first sample is stored, from a first pass over it: static scales
//! (format-spec 9.3), the range of a field whose error is bounded (format-spec 9.6).

use super::layout::{Layout, ranges, scales_of};
use super::scaled::Scheme;
use super::{Granularity, QuantParams, QuantSpec, Scales, affine, codebook, fp8};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::kernel::BLOCK;
use crate::kernel::abs_error::finite_range;
use crate::kernel::convert::to_f64;
use crate::tensor::num_elements;

/// Finds what a field's quantizer needs to know of all data: observe every sample, then finish.
#[derive(Clone, Debug)]
pub struct Calibrator {
    spec: QuantSpec,
    dtype: DType,
    found: Found,
}

/// What was found so far.
#[derive(Clone, Debug)]
enum Found {
    /// The range of each static scale.
    Scales(Ranges),
    /// Smallest and largest finite element.
    Range(f64, f64),
}

#[derive(Clone, Debug)]
struct Ranges {
    params: QuantParams,
    layout: Layout,
    /// Elements of a sample; 1 if scales are per tensor, where the shape does not matter.
    sample: usize,
    /// Smallest and largest finite element of each channel.
    ranges: Vec<(f32, f32)>,
}

impl Ranges {
    fn new(params: QuantParams, shape: &[usize]) -> Result<Self> {
        let Some(scaling) = params.scaling() else {
            return Err(Error::invalid(format!("{params} needs no calibration")));
        };
        let granularity = scaling.granularity;
        let (channels, sample) = match granularity {
            Granularity::PerTensor => (1, Some(1)),
            Granularity::PerChannel { .. } => (scales_of(granularity, shape), num_elements(shape)),
            Granularity::PerSample | Granularity::PerGroup { .. } => {
                return Err(Error::invalid(
                    "scales per sample and per group are not static and need no calibration",
                ));
            }
        };
        Ok(Self {
            params,
            layout: Layout::new(granularity, shape),
            sample: sample
                .ok_or_else(|| Error::invalid("the shape of a sample is too large"))?
                .max(1),
            ranges: vec![(f32::INFINITY, f32::NEG_INFINITY); channels],
        })
    }

    fn fit(&self, scheme: &impl Scheme) -> Scales {
        let fitted = self.ranges.iter().map(|&(low, high)| scheme.fit(low, high));
        let (scales, zero_points) = fitted.unzip();
        Scales {
            scales,
            zero_points: if self.params.has_zero_points() {
                zero_points
            } else {
                Vec::new()
            },
        }
    }

    fn finish(&self, dtype: DType) -> Scales {
        match &self.params {
            QuantParams::Affine(p) => self.fit(&affine::Fitter::new(p, dtype)),
            QuantParams::Fp8(p) => self.fit(&fp8::fitter(p, dtype)),
            QuantParams::Codebook(p) => self.fit(&codebook::fitter(p, dtype)),
            // Refused by `new`: their scales are not static.
            _ => Scales::default(),
        }
    }
}

impl Calibrator {
    /// A calibrator for samples of this dtype and shape. Scales per tensor and ranges take samples of any shape.
    ///
    /// # Errors
    /// `InvalidArgument` if the quantizer needs no calibration, or does not fit the dtype and shape.
    pub fn new(spec: &QuantSpec, dtype: DType, shape: &[usize]) -> Result<Self> {
        let found = if spec.is_bounded() {
            Found::Range(f64::INFINITY, f64::NEG_INFINITY)
        } else {
            Found::Scales(Ranges::new(spec.resolve(dtype, Some(shape.len()))?, shape)?)
        };
        Ok(Self {
            spec: spec.clone(),
            dtype,
            found,
        })
    }

    /// Takes some whole samples into account: their bytes, one sample after the other. NaN and infinities do not count.
    ///
    /// # Errors
    /// `InvalidArgument` if these are not whole samples.
    pub fn observe(&mut self, samples: &[u8]) -> Result<()> {
        let elements = match &self.found {
            Found::Scales(ranges) => ranges.sample,
            Found::Range(..) => 1,
        };
        if !samples.len().is_multiple_of(elements * self.dtype.size()) {
            return Err(Error::invalid(format!(
                "{} bytes are not whole {} samples",
                samples.len(),
                self.dtype
            )));
        }
        match &mut self.found {
            // Samples are whole multiples of the channels' period, so they can be gone through as one.
            Found::Scales(found) if !found.ranges.is_empty() => {
                ranges(found.layout, self.dtype, samples, &mut found.ranges);
            }
            Found::Scales(_) => {}
            Found::Range(low, high) => {
                let mut x = [0.0f64; BLOCK];
                for block in samples.chunks(BLOCK * self.dtype.size()) {
                    let x = &mut x[..block.len() / self.dtype.size()];
                    to_f64(self.dtype, block, x);
                    let (least, most) = finite_range(x);
                    (*low, *high) = (low.min(least), high.max(most));
                }
            }
        }
        Ok(())
    }

    /// The quantizer with what covers everything observed: its scales (and zero points, if not symmetric), or its range.
    pub fn finish(&self) -> QuantSpec {
        let spec = self.spec.clone();
        match &self.found {
            Found::Scales(ranges) => spec.scales(ranges.finish(self.dtype)),
            Found::Range(low, high) if low <= high => spec.range(*low, *high),
            // Nothing finite was seen.
            Found::Range(..) => spec.range(0.0, 0.0),
        }
    }
}
