//! What a user asks of a quantizer, and its syntax on the command line.

use std::fmt;

use super::{AffineParams, Granularity, NonFinite, QuantParams, Scales, validate_scales};
use crate::dtype::DType;
use crate::error::{Error, Result};

/// Which quantizer a field shall have. Start with [`identity`](Self::identity), [`cast`](Self::cast) or an integer
/// type, then refine: `QuantSpec::int4().per_group(32).scale_dtype(DType::F16)`.
///
/// Defaults: symmetric, one scale per sample, f32 scales, elements that cannot be represented are errors.
#[derive(Clone, Debug, PartialEq)]
pub struct QuantSpec {
    params: QuantParams,
    scales: Option<Scales>,
    /// An option that was set although the quantizer does not have it.
    misplaced: Option<&'static str>,
}

impl Default for QuantSpec {
    /// Identity.
    fn default() -> Self {
        Self::identity()
    }
}

/// One row an integer type: name, bits, signed.
const INTEGERS: [(&str, u8, bool); 6] = [
    ("int8", 8, true),
    ("uint8", 8, false),
    ("int4", 4, true),
    ("uint4", 4, false),
    ("int16", 16, true),
    ("uint16", 16, false),
];

const SYNTAX: &str = "identity, f32, f16, bf16, f8e4m3fn, f8e5m2, int4, uint4, int8, uint8, int16 or uint16, then any of \
                      :asym, :per-tensor, :per-channel=AXIS, :per-sample, :per-group=N, :scale=f16, :saturate, :patch";

impl QuantSpec {
    fn new(params: QuantParams) -> Self {
        Self {
            params,
            scales: None,
            misplaced: None,
        }
    }

    fn integers(bits: u8, signed: bool) -> Self {
        Self::new(QuantParams::Affine(AffineParams {
            bits,
            signed,
            symmetric: true,
            granularity: Granularity::PerSample,
            non_finite: NonFinite::Error,
            scale_dtype: DType::F32,
        }))
    }

    /// Elements are stored as they are.
    pub fn identity() -> Self {
        Self::new(QuantParams::Identity)
    }

    /// Elements are stored as floats of this dtype.
    pub fn cast(dtype: DType) -> Self {
        Self::new(QuantParams::Cast {
            dtype,
            non_finite: NonFinite::Error,
        })
    }

    /// Signed 8-bit integers.
    pub fn int8() -> Self {
        Self::integers(8, true)
    }

    /// Unsigned 8-bit integers.
    pub fn uint8() -> Self {
        Self::integers(8, false)
    }

    /// Signed 4-bit integers, two in a byte.
    pub fn int4() -> Self {
        Self::integers(4, true)
    }

    /// Unsigned 4-bit integers, two in a byte.
    pub fn uint4() -> Self {
        Self::integers(4, false)
    }

    /// Signed 16-bit integers.
    pub fn int16() -> Self {
        Self::integers(16, true)
    }

    /// Unsigned 16-bit integers.
    pub fn uint16() -> Self {
        Self::integers(16, false)
    }

    fn affine(mut self, option: &'static str, set: impl FnOnce(&mut AffineParams)) -> Self {
        match &mut self.params {
            QuantParams::Affine(params) => set(params),
            _ => self.misplaced = Some(option),
        }
        self
    }

    /// A zero_point of its own for every scale, so that the range need not be centred at 0.
    pub fn asymmetric(self) -> Self {
        self.affine("asymmetric", |p| p.symmetric = false)
    }

    /// One scale for the whole field, found in a first pass unless [given](Self::scales).
    pub fn per_tensor(self) -> Self {
        self.affine("per_tensor", |p| p.granularity = Granularity::PerTensor)
    }

    /// One scale for each index along an axis of the sample, found in a first pass unless [given](Self::scales).
    pub fn per_channel(self, axis: u8) -> Self {
        self.affine("per_channel", |p| {
            p.granularity = Granularity::PerChannel { axis }
        })
    }

    /// One scale for each sample.
    pub fn per_sample(self) -> Self {
        self.affine("per_sample", |p| p.granularity = Granularity::PerSample)
    }

    /// One scale for each `size` elements along the last axis.
    pub fn per_group(self, size: u32) -> Self {
        self.affine("per_group", |p| {
            p.granularity = Granularity::PerGroup { size }
        })
    }

    /// The dtype scales are stored in: f32, f16 or bf16.
    pub fn scale_dtype(self, dtype: DType) -> Self {
        self.affine("scale_dtype", |p| p.scale_dtype = dtype)
    }

    /// What to do with elements that cannot be represented.
    pub fn non_finite(mut self, policy: NonFinite) -> Self {
        match &mut self.params {
            QuantParams::Identity => self.misplaced = Some("non_finite"),
            QuantParams::Cast { non_finite, .. } => *non_finite = policy,
            QuantParams::Affine(params) => params.non_finite = policy,
        }
        self
    }

    /// Static scales, for scales per tensor or per channel, instead of a first pass.
    pub fn scales(mut self, scales: Scales) -> Self {
        self.scales = Some(scales);
        self
    }

    /// The scales that were given, if any.
    pub fn given_scales(&self) -> Option<&Scales> {
        self.scales.as_ref()
    }

    /// The parameters for a field of this dtype and rank (`None`: every sample has its own rank).
    ///
    /// # Errors
    /// `InvalidArgument` that says what would fit.
    pub fn resolve(&self, dtype: DType, rank: Option<usize>) -> Result<QuantParams> {
        if let Some(option) = self.misplaced {
            return Err(Error::invalid(format!(
                "quantizer {self} has no option {option}"
            )));
        }
        self.params.quantizer().check(&self.params, dtype, rank)?;
        if let Some(given) = &self.scales {
            let QuantParams::Affine(AffineParams {
                granularity: granularity @ (Granularity::PerTensor | Granularity::PerChannel { .. }),
                scale_dtype,
                ..
            }) = self.params
            else {
                return Err(Error::invalid(
                    "scales can be given only for scales per tensor or per channel",
                ));
            };
            let pairs = if self.params.has_zero_points() {
                given.scales.len()
            } else {
                0
            };
            let one = granularity != Granularity::PerTensor || given.scales.len() == 1;
            if !one || given.zero_points.len() != pairs {
                return Err(Error::invalid(format!(
                    "{} scales and {} zero points were given; a symmetric quantizer has no zero points, another one for \
                     each scale, and per tensor there is one scale",
                    given.scales.len(),
                    given.zero_points.len()
                )));
            }
            let bad = |error: Error| {
                Error::invalid(format!("the given scales cannot be stored: {error}"))
            };
            validate_scales(&given.scales, scale_dtype).map_err(bad)?;
            self.params
                .validate_zero_points(&given.zero_points)
                .map_err(bad)?;
        }
        Ok(self.params)
    }

    /// Reads the syntax of the command line: `int8`, `bf16:saturate`, `int4:per-group=32:scale=f16`.
    ///
    /// # Errors
    /// `InvalidArgument` that shows the syntax.
    pub fn parse(text: &str) -> Result<Self> {
        let wrong = || Error::invalid(format!("{text:?} is not a quantizer; write {SYNTAX}"));
        let mut parts = text.split(':');
        let name = parts.next().unwrap_or_default();
        let mut spec = if name == "identity" {
            Self::identity()
        } else if let Some((_, bits, signed)) = INTEGERS.iter().find(|row| row.0 == name) {
            Self::integers(*bits, *signed)
        } else {
            Self::cast(
                DType::from_name(name)
                    .filter(|d| d.is_float() && *d != DType::F64)
                    .ok_or_else(wrong)?,
            )
        };
        for option in parts {
            spec = match option.split_once('=').unwrap_or((option, "")) {
                ("asym", "") => spec.asymmetric(),
                ("per-tensor", "") => spec.per_tensor(),
                ("per-sample", "") => spec.per_sample(),
                ("saturate", "") => spec.non_finite(NonFinite::Saturate),
                ("patch", "") => spec.non_finite(NonFinite::Patch),
                ("per-channel", axis) => spec.per_channel(axis.parse().map_err(|_| wrong())?),
                ("per-group", size) => spec.per_group(size.parse().map_err(|_| wrong())?),
                ("scale", dtype) => spec.scale_dtype(DType::from_name(dtype).ok_or_else(wrong)?),
                _ => return Err(wrong()),
            };
        }
        match spec.misplaced {
            None => Ok(spec),
            Some(_) => Err(wrong()),
        }
    }
}

impl fmt::Display for QuantSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.params.fmt(f)
    }
}

impl fmt::Display for QuantParams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let non_finite = match self {
            Self::Identity => return f.write_str("identity"),
            Self::Cast { dtype, non_finite } => {
                write!(f, "{dtype}")?;
                *non_finite
            }
            Self::Affine(p) => {
                write!(f, "{}int{}", if p.signed { "" } else { "u" }, p.bits)?;
                if !p.symmetric {
                    f.write_str(":asym")?;
                }
                match p.granularity {
                    Granularity::PerTensor => f.write_str(":per-tensor")?,
                    Granularity::PerChannel { axis } => write!(f, ":per-channel={axis}")?,
                    Granularity::PerSample => {}
                    Granularity::PerGroup { size } => write!(f, ":per-group={size}")?,
                }
                if p.scale_dtype != DType::F32 {
                    write!(f, ":scale={}", p.scale_dtype)?;
                }
                p.non_finite
            }
        };
        match non_finite {
            NonFinite::Error => Ok(()),
            NonFinite::Saturate => f.write_str(":saturate"),
            NonFinite::Patch => f.write_str(":patch"),
        }
    }
}
