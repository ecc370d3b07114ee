//! What a user asks of a quantizer, and its syntax on the command line.

use std::fmt;

use super::bound::BoundRequest;
use super::codebook::NF4;
use super::{
    AffineParams, CodebookParams, ErrorBound, Fp8Params, Granularity, MxFormat, MxParams,
    NonFinite, QuantParams, Scales,
};
use crate::dtype::DType;
use crate::error::{Error, Result};

/// Which quantizer a field shall have. Start with [`identity`](Self::identity), [`cast`](Self::cast), an integer
/// type or a largest error, then refine: `QuantSpec::int4().per_group(32).scale_dtype(DType::F16)`.
///
/// Defaults: symmetric, one scale per sample, f32 scales, elements that cannot be represented are errors (with a
/// largest error: patched).
#[derive(Clone, Debug, PartialEq)]
pub struct QuantSpec {
    request: Request,
    scales: Option<Scales>,
    /// An option that was set although the quantizer does not have it.
    misplaced: Option<&'static str>,
}

/// What is asked for: parameters as they are stored, or what they follow from.
#[derive(Clone, Debug, PartialEq)]
enum Request {
    Params(QuantParams),
    Bound(BoundRequest),
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

/// One row an MX format: its name with what follows it, and its elements.
const MX: [(&str, MxFormat); 4] = [
    ("mxfp8", MxFormat::Fp8E4M3),
    ("mxfp8-e5m2", MxFormat::Fp8E5M2),
    ("mxint8", MxFormat::Int8),
    ("mxfp4", MxFormat::Fp4),
];

/// One row an 8-bit float of the `fp8` quantizer.
const FP8: [(&str, DType); 2] = [("fp8", DType::F8E4M3FN), ("fp8-e5m2", DType::F8E5M2)];

/// Elements that share a scale in bitsandbytes' NF4.
const NF4_GROUP: u32 = 64;

/// A bound of this size.
type Bound = fn(f64) -> ErrorBound;

/// One row a kind of bound: its name, and what it is of a number.
const BOUNDS: [(&str, Bound); 3] = [
    ("abs_error", ErrorBound::Absolute),
    ("rel_error", ErrorBound::Relative),
    ("psnr", ErrorBound::Psnr),
];

const SYNTAX: &str = "identity, f32, f16, bf16, f8e4m3fn or f8e5m2; int4, uint4, int8, uint8, int16, uint16, fp8, fp8-e5m2, nf4 or \
                      codebook:VALUE,VALUE,.. then any of :asym (integers), :per-tensor, :per-channel=AXIS, :per-sample, \
                      :per-group=N, :scale=f16; mxfp8, mxfp8-e5m2, mxint8 or mxfp4; each with :saturate or :patch; \
                      or abs_error:E, rel_error:FRACTION or psnr:DECIBELS, then any of :bits=8|16|32, :range=LOW..HIGH, \
                      :error";

impl QuantSpec {
    fn new(params: QuantParams) -> Self {
        Self {
            request: Request::Params(params),
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

    /// 8-bit floats, f8e4m3fn or f8e5m2, with scales. Without scales: [`cast`](Self::cast).
    pub fn fp8(dtype: DType) -> Self {
        Self::new(QuantParams::Fp8(Fp8Params {
            dtype,
            granularity: Granularity::PerSample,
            non_finite: NonFinite::Error,
            scale_dtype: DType::F32,
        }))
    }

    /// Indices into a table of 16 (4 bits) or 256 (8 bits) ascending values, with scales.
    pub fn codebook(table: &[f32]) -> Self {
        Self::new(QuantParams::Codebook(CodebookParams {
            table: table.into(),
            granularity: Granularity::PerSample,
            non_finite: NonFinite::Error,
            scale_dtype: DType::F32,
        }))
    }

    /// The [`codebook`](Self::codebook) NF4 of QLoRA, with a scale for each 64 elements.
    pub fn nf4() -> Self {
        Self::codebook(&NF4).per_group(NF4_GROUP)
    }

    /// OCP Microscaling: elements of 8 or 4 bits, and a power of two for each 32 elements along the last axis.
    pub fn mx(format: MxFormat) -> Self {
        Self::new(QuantParams::Mx(MxParams {
            format,
            non_finite: NonFinite::Error,
        }))
    }

    /// Integers on a grid, predictable and verified: no decoded element is further from its source than the bound. The
    /// width of the integers follows from the range of the field, found in a first pass unless [given](Self::range).
    /// Elements that the integers cannot hold within the bound are stored losslessly beside them, NaN and infinities
    /// included; too many of them are an error.
    pub fn bounded(bound: ErrorBound) -> Self {
        Self {
            request: Request::Bound(BoundRequest::new(bound)),
            scales: None,
            misplaced: None,
        }
    }

    /// [`bounded`](Self::bounded) by an [absolute](ErrorBound::Absolute) error.
    pub fn abs_error(max_error: f64) -> Self {
        Self::bounded(ErrorBound::Absolute(max_error))
    }

    /// [`bounded`](Self::bounded) by a [fraction](ErrorBound::Relative) of the field's range.
    pub fn rel_error(fraction: f64) -> Self {
        Self::bounded(ErrorBound::Relative(fraction))
    }

    /// [`bounded`](Self::bounded) by a [peak signal-to-noise ratio](ErrorBound::Psnr) in decibels.
    pub fn psnr(decibels: f64) -> Self {
        Self::bounded(ErrorBound::Psnr(decibels))
    }

    fn affine(mut self, option: &'static str, set: impl FnOnce(&mut AffineParams)) -> Self {
        match &mut self.request {
            Request::Params(QuantParams::Affine(params)) => set(params),
            _ => self.misplaced = Some(option),
        }
        self
    }

    fn request(mut self, option: &'static str, set: impl FnOnce(&mut BoundRequest)) -> Self {
        match &mut self.request {
            Request::Bound(request) => set(request),
            Request::Params(_) => self.misplaced = Some(option),
        }
        self
    }

    /// Bits of the integers of a [`bounded`](Self::bounded) quantizer, 8, 16 or 32, instead of the fewest that hold
    /// the range.
    pub fn bits(self, bits: u8) -> Self {
        self.request("bits", |request| request.bits = Some(bits))
    }

    /// The smallest and the largest value of a [`bounded`](Self::bounded) field, instead of a first pass. Elements
    /// beyond it still keep the bound.
    pub fn range(self, low: f64, high: f64) -> Self {
        self.request("range", |request| request.range = Some((low, high)))
    }

    /// A zero_point of its own for every scale, so that the range need not be centred at 0.
    pub fn asymmetric(self) -> Self {
        self.affine("asymmetric", |p| p.symmetric = false)
    }

    fn scaled(
        mut self,
        option: &'static str,
        set: impl FnOnce(&mut Granularity, &mut DType),
    ) -> Self {
        match &mut self.request {
            Request::Params(QuantParams::Affine(p)) => set(&mut p.granularity, &mut p.scale_dtype),
            Request::Params(QuantParams::Fp8(p)) => set(&mut p.granularity, &mut p.scale_dtype),
            Request::Params(QuantParams::Codebook(p)) => {
                set(&mut p.granularity, &mut p.scale_dtype);
            }
            _ => self.misplaced = Some(option),
        }
        self
    }

    /// One scale for the whole field, found in a first pass unless [given](Self::scales).
    pub fn per_tensor(self) -> Self {
        self.scaled("per_tensor", |g, _| *g = Granularity::PerTensor)
    }

    /// One scale for each index along an axis of the sample, found in a first pass unless [given](Self::scales).
    pub fn per_channel(self, axis: u8) -> Self {
        self.scaled("per_channel", |g, _| *g = Granularity::PerChannel { axis })
    }

    /// One scale for each sample.
    pub fn per_sample(self) -> Self {
        self.scaled("per_sample", |g, _| *g = Granularity::PerSample)
    }

    /// One scale for each `size` elements along the last axis.
    pub fn per_group(self, size: u32) -> Self {
        self.scaled("per_group", |g, _| *g = Granularity::PerGroup { size })
    }

    /// The dtype scales are stored in: f32, f16 or bf16.
    pub fn scale_dtype(self, dtype: DType) -> Self {
        self.scaled("scale_dtype", |_, scale_dtype| *scale_dtype = dtype)
    }

    /// What to do with elements that cannot be represented.
    pub fn non_finite(mut self, policy: NonFinite) -> Self {
        match &mut self.request {
            Request::Params(QuantParams::Identity) => self.misplaced = Some("non_finite"),
            Request::Params(QuantParams::Cast { non_finite, .. }) => *non_finite = policy,
            Request::Params(QuantParams::Affine(params)) => params.non_finite = policy,
            Request::Params(QuantParams::AbsError(params)) => params.non_finite = policy,
            Request::Params(QuantParams::Fp8(params)) => params.non_finite = policy,
            Request::Params(QuantParams::Codebook(params)) => params.non_finite = policy,
            Request::Params(QuantParams::Mx(params)) => params.non_finite = policy,
            Request::Bound(request) => request.non_finite = policy,
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
        let params = match &self.request {
            Request::Params(params) => params.clone(),
            Request::Bound(request) => QuantParams::AbsError(request.resolve(dtype)?),
        };
        params.quantizer().check(&params, dtype, rank)?;
        if let Some(given) = &self.scales {
            let scaling = params.scaling().filter(|scaling| {
                let granularity = scaling.granularity;
                matches!(
                    granularity,
                    Granularity::PerTensor | Granularity::PerChannel { .. }
                )
            });
            let Some(scaling) = scaling else {
                return Err(Error::invalid(
                    "scales can be given only for scales per tensor or per channel",
                ));
            };
            let pairs = if params.has_zero_points() {
                given.scales.len()
            } else {
                0
            };
            let one = scaling.granularity != Granularity::PerTensor || given.scales.len() == 1;
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
            scaling.format.validate(&given.scales).map_err(bad)?;
            params
                .validate_zero_points(&given.zero_points)
                .map_err(bad)?;
        }
        Ok(params)
    }

    /// True if something about all of the data must be known before it is written, and was not given: a
    /// [`Calibrator`](super::Calibrator) finds it in a first pass. `ragged` fields have no static scales per channel.
    pub fn needs_calibration(&self, ragged: bool) -> bool {
        match &self.request {
            Request::Params(params) => params.static_scales(ragged) && self.scales.is_none(),
            Request::Bound(request) => request.needs_range(),
        }
    }

    /// True if the elements are stored as they are.
    pub fn is_identity(&self) -> bool {
        self.request == Request::Params(QuantParams::Identity)
    }

    /// True if the width of stored elements depends on data not seen yet.
    pub fn is_bounded(&self) -> bool {
        matches!(self.request, Request::Bound(_))
    }

    /// Reads the syntax of the command line: `int8`, `bf16:saturate`, `int4:per-group=32:scale=f16`.
    ///
    /// # Errors
    /// `InvalidArgument` that shows the syntax.
    pub fn parse(text: &str) -> Result<Self> {
        let wrong = || Error::invalid(format!("{text:?} is not a quantizer; write {SYNTAX}"));
        let mut parts = text.split(':');
        let name = parts.next().unwrap_or_default();
        let number = |text: Option<&str>| -> Result<f64> {
            text.and_then(|text| text.parse().ok()).ok_or_else(wrong)
        };
        let mut spec = if name == "identity" {
            Self::identity()
        } else if let Some((_, format)) = MX.iter().find(|row| row.0 == name) {
            Self::mx(*format)
        } else if let Some((_, dtype)) = FP8.iter().find(|row| row.0 == name) {
            Self::fp8(*dtype)
        } else if name == "nf4" {
            Self::nf4()
        } else if name == "codebook" {
            let values = parts.next().unwrap_or_default().split(',');
            let values: Option<Vec<f32>> = values.map(|value| value.trim().parse().ok()).collect();
            Self::codebook(&values.ok_or_else(wrong)?)
        } else if let Some((_, bound)) = BOUNDS.iter().find(|row| row.0 == name) {
            Self::bounded(bound(number(parts.next())?))
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
                ("error", "") => spec.non_finite(NonFinite::Error),
                ("bits", bits) => spec.bits(bits.parse().map_err(|_| wrong())?),
                ("range", range) => {
                    let (low, high) = range.split_once("..").ok_or_else(wrong)?;
                    spec.range(number(Some(low))?, number(Some(high))?)
                }
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

impl From<QuantParams> for QuantSpec {
    /// The request that is answered with these parameters.
    fn from(params: QuantParams) -> Self {
        Self::new(params)
    }
}

impl fmt::Display for QuantSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.request {
            Request::Params(params) => params.fmt(f),
            Request::Bound(request) => request.fmt(f),
        }
    }
}

/// A number in the shorter of its two notations.
struct Number(f64);

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0.0 || (1e-3..1e6).contains(&self.0.abs()) {
            write!(f, "{}", self.0)
        } else {
            write!(f, "{:e}", self.0)
        }
    }
}

impl fmt::Display for BoundRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.bound {
            ErrorBound::Absolute(error) => write!(f, "abs_error:{}", Number(error)),
            ErrorBound::Relative(fraction) => write!(f, "rel_error:{}", Number(fraction)),
            ErrorBound::Psnr(decibels) => write!(f, "psnr:{}", Number(decibels)),
        }?;
        if let Some(bits) = self.bits {
            write!(f, ":bits={bits}")?;
        }
        if let Some((low, high)) = self.range {
            write!(f, ":range={}..{}", Number(low), Number(high))?;
        }
        bounded_policy(self.non_finite, f)
    }
}

/// The policy of a bound, if it is not the usual one, patch.
fn bounded_policy(policy: NonFinite, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match policy {
        NonFinite::Error => f.write_str(":error"),
        NonFinite::Saturate => f.write_str(":saturate"),
        NonFinite::Patch => Ok(()),
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
                scales(p.granularity, Granularity::PerSample, p.scale_dtype, f)?;
                p.non_finite
            }
            Self::AbsError(p) => {
                write!(f, "abs_error:{}:bits={}", Number(p.max_error), p.bits)?;
                if p.zero_point != 0 {
                    write!(f, ":zero-point={}", p.zero_point)?;
                }
                return bounded_policy(p.non_finite, f);
            }
            Self::Fp8(p) => {
                let row = FP8.iter().find(|row| row.1 == p.dtype);
                f.write_str(row.map_or("fp8", |row| row.0))?;
                scales(p.granularity, Granularity::PerSample, p.scale_dtype, f)?;
                p.non_finite
            }
            Self::Codebook(p) if *p.table == NF4 => {
                f.write_str("nf4")?;
                let usual = Granularity::PerGroup { size: NF4_GROUP };
                scales(p.granularity, usual, p.scale_dtype, f)?;
                p.non_finite
            }
            Self::Codebook(p) => {
                f.write_str("codebook:")?;
                for (i, value) in p.table.iter().enumerate() {
                    write!(f, "{}{value}", if i == 0 { "" } else { "," })?;
                }
                scales(p.granularity, Granularity::PerSample, p.scale_dtype, f)?;
                p.non_finite
            }
            Self::Mx(p) => {
                let row = MX.iter().find(|row| row.1 == p.format);
                f.write_str(row.map_or("mx", |row| row.0))?;
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

/// How scales are shared and stored, where it is not the usual way.
fn scales(
    granularity: Granularity,
    usual: Granularity,
    scale_dtype: DType,
    f: &mut fmt::Formatter<'_>,
) -> fmt::Result {
    match granularity {
        _ if granularity == usual => {}
        Granularity::PerTensor => f.write_str(":per-tensor")?,
        Granularity::PerChannel { axis } => write!(f, ":per-channel={axis}")?,
        Granularity::PerSample => f.write_str(":per-sample")?,
        Granularity::PerGroup { size } => write!(f, ":per-group={size}")?,
    }
    if scale_dtype != DType::F32 {
        write!(f, ":scale={scale_dtype}")?;
    }
    Ok(())
}
