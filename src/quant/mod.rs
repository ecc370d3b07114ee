//! Quantizers: the elements of a field to stored elements, and back (format-spec 9).
//!
//! To add a quantizer: write `src/quant/foo.rs` with an `impl Quantizer`, add one variant to [`QuantParams`] and
//! [`QuantSpec`], one line to `QUANTIZERS` and one row to the table of format-spec 9. CONTRIBUTING.md names
//! the checks to call from its tests.

mod abs_error;
mod affine;
mod bound;
mod calibrate;
mod cast;
mod codebook;
mod codes;
mod errors;
mod fp8;
mod identity;
mod layout;
mod mx;
mod scale;
mod scaled;
mod spec;

use std::fmt;
use std::sync::Arc;

pub use bound::ErrorBound;
pub use calibrate::Calibrator;
pub(crate) use scale::Scaling;
pub use spec::QuantSpec;

use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::kernel::dequant::OneScale;

/// The id of a quantizer on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct QuantId(pub(crate) u16);

impl QuantId {
    /// Stored as they are.
    pub const IDENTITY: Self = Self(0);
    /// Another float dtype.
    pub const CAST: Self = Self(1);
    /// Integers with scales.
    pub const AFFINE: Self = Self(2);
    /// Integers within a largest error.
    pub const ABS_ERROR: Self = Self(3);
    /// 8-bit floats with scales.
    pub const FP8: Self = Self(4);
    /// Indices into a table, with scales.
    pub const CODEBOOK: Self = Self(5);
    /// OCP Microscaling.
    pub const MX: Self = Self(6);

    /// The number on disk.
    pub fn get(self) -> u16 {
        self.0
    }
}

impl fmt::Display for QuantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match find(self.0) {
            Some(quantizer) => f.write_str(quantizer.name()),
            None => write!(f, "{:#06x}", self.0),
        }
    }
}

/// What the writer does with elements that a quantizer cannot represent (format-spec 9).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NonFinite {
    /// Refuse them: the default.
    #[default]
    Error,
    /// Store the nearest representable value; NaN is still an error for `affine`.
    Saturate,
    /// Store them losslessly beside the quantized data.
    Patch,
}

/// How many elements share a scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Granularity {
    /// One scale for the whole field. Static: given, or calibrated on a first pass.
    PerTensor,
    /// One scale for each index along an axis of the sample. Static for fixed shapes.
    PerChannel {
        /// The axis of the sample, 0 = outermost.
        axis: u8,
    },
    /// One scale for each sample.
    PerSample,
    /// One scale for each `size` elements along the last axis.
    PerGroup {
        /// Elements in a group, at least 1.
        size: u32,
    },
}

/// Parameters of the `affine` quantizer (format-spec 9.3): x = scale * (q - zero_point).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AffineParams {
    /// Bits of a stored element: 4, 8 or 16.
    pub bits: u8,
    /// Stored elements are two's complement.
    pub signed: bool,
    /// zero_point is fixed: 0 if signed, 2^(bits-1) if not.
    pub symmetric: bool,
    /// How many elements share a scale.
    pub granularity: Granularity,
    /// What was done with elements that cannot be represented.
    pub non_finite: NonFinite,
    /// The dtype scales are stored in: f32, f16 or bf16.
    pub scale_dtype: DType,
}

/// Parameters of the `abs_error` quantizer (format-spec 9.6): x = (q - zero_point) * step in f64, and every decoded
/// element is within `max_error` of its source.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AbsErrorParams {
    /// Bits of a stored element: 8, 16 or 32, two's complement.
    pub bits: u8,
    /// The q of the value 0; it may be outside the range of q.
    pub zero_point: i64,
    /// Distance of two values: at most twice the largest error.
    pub step: f64,
    /// The largest error; 0 if the field is stored exactly.
    pub max_error: f64,
    /// What was done with elements that no q is within the error of: error or patch.
    pub non_finite: NonFinite,
}

/// Parameters of the `fp8` quantizer (format-spec 9.7): x = scale * q, q an 8-bit float.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fp8Params {
    /// f8e4m3fn or f8e5m2.
    pub dtype: DType,
    /// How many elements share a scale.
    pub granularity: Granularity,
    /// What was done with infinities and elements beyond a given scale; NaN has a code of its own.
    pub non_finite: NonFinite,
    /// The dtype scales are stored in: f32, f16 or bf16.
    pub scale_dtype: DType,
}

/// Parameters of the `codebook` quantizer (format-spec 9.8): x = scale * table\[q\].
#[derive(Clone, Debug, PartialEq)]
pub struct CodebookParams {
    /// 16 or 256 values, ascending.
    pub table: Arc<[f32]>,
    /// How many elements share a scale.
    pub granularity: Granularity,
    /// What was done with NaN, infinities and elements beyond a given scale.
    pub non_finite: NonFinite,
    /// The dtype scales are stored in: f32, f16 or bf16.
    pub scale_dtype: DType,
}

/// The element format of the `mx` quantizer (OCP Microscaling Formats, version 1.0).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MxFormat {
    /// MXFP8 with f8e4m3fn elements.
    Fp8E4M3,
    /// MXFP8 with f8e5m2 elements.
    Fp8E5M2,
    /// MXINT8: 64ths from -2 to 127/64.
    Int8,
    /// MXFP4: E2M1 elements of 4 bits.
    Fp4,
}

impl MxFormat {
    /// By the number on disk.
    const ALL: [Self; 4] = [Self::Fp8E4M3, Self::Fp8E5M2, Self::Int8, Self::Fp4];
}

/// Parameters of the `mx` quantizer (format-spec 9.9): x = v * 2^(e - 127), with an e for each 32 elements along the
/// last axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MxParams {
    /// What an element is.
    pub format: MxFormat,
    /// What was done with infinities, and with NaN where it has no code.
    pub non_finite: NonFinite,
}

/// What a file says about a field's quantizer.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum QuantParams {
    /// Stored elements are the source elements.
    Identity,
    /// Stored elements are floats of another dtype.
    Cast {
        /// The dtype of the stored elements.
        dtype: DType,
        /// What was done with elements that overflow.
        non_finite: NonFinite,
    },
    /// Stored elements are integers with scales.
    Affine(AffineParams),
    /// Stored elements are integers within a largest error.
    AbsError(AbsErrorParams),
    /// Stored elements are 8-bit floats with scales.
    Fp8(Fp8Params),
    /// Stored elements are indices into a table, with scales.
    Codebook(CodebookParams),
    /// Stored elements are those of an OCP Microscaling format.
    Mx(MxParams),
}

/// Static scales and zero points, or those of a block of samples. `zero_points` is empty for symmetric quantizers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scales {
    /// Positive, finite, normal.
    pub scales: Vec<f32>,
    /// One for each scale, or none at all if the quantizer is symmetric.
    pub zero_points: Vec<i32>,
}

/// Borrowed [`Scales`], positioned so that index 0 belongs to the first sample of the block being decoded (static
/// scales: the whole table).
#[derive(Clone, Copy, Debug)]
pub(crate) struct ScalesView<'a> {
    pub(crate) scales: &'a [f32],
    pub(crate) zero_points: &'a [i32],
}

/// The measured error of a block (format-spec 10.4), as sums so that blocks can be added up.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct ErrorSums {
    /// Elements with finite source.
    pub(crate) count: u64,
    /// Elements with NaN or infinite source.
    pub(crate) non_finite: u64,
    pub(crate) max_abs_error: f64,
    pub(crate) sum_sq_error: f64,
    pub(crate) sum_sq_source: f64,
}

/// What quantizing a block of samples appends to. One for each field and chunk.
#[derive(Debug, Default)]
pub(crate) struct Quantized {
    /// The stored bytes, sample after sample.
    pub(crate) codes: Vec<u8>,
    /// The scales stream: dynamic scales as scale_dtype.
    pub(crate) scales: Vec<u8>,
    /// The zero_points stream: i32.
    pub(crate) zero_points: Vec<u8>,
    /// Element indices (within all elements quantized so far into this value) of patched elements, ascending.
    pub(crate) patch_indices: Vec<u64>,
    /// The source bytes of the patched elements, in the same order.
    pub(crate) patch_values: Vec<u8>,
    /// Finite elements among the patched that an error bound was missed by, and the largest of them in size.
    pub(crate) missed: u64,
    pub(crate) largest_missed: f64,
    /// Elements quantized so far.
    pub(crate) num_elements: u64,
    /// Samples quantized so far.
    pub(crate) num_samples: u64,
    pub(crate) errors: ErrorSums,
}

/// One quantizer. Implementations are stateless values in [`QUANTIZERS`]; parameters come as [`QuantParams`] of the
/// matching variant (other variants are a bug of the caller and answered with `InvalidArgument`).
pub(crate) trait Quantizer: Sync {
    /// The id on disk; never reused.
    fn id(&self) -> QuantId;

    /// The name in the CLI and the specification.
    fn name(&self) -> &'static str;

    /// The minor version of the format (format-spec 11) that the id came with.
    fn since_minor(&self) -> u16 {
        0
    }

    /// Reads the stage parameters of format-spec 9 and checks them.
    ///
    /// # Errors
    /// `Corrupt` if they are out of range.
    fn parse(&self, params: &[u8]) -> Result<QuantParams>;

    /// Writes the stage parameters.
    fn emit(&self, params: &QuantParams, out: &mut Vec<u8>);

    /// Checks that the parameters fit a field of this dtype and rank (`None`: variable rank).
    ///
    /// # Errors
    /// `InvalidArgument` that says what would fit.
    fn check(&self, params: &QuantParams, dtype: DType, rank: Option<usize>) -> Result<()>;

    /// Bits of a stored element.
    fn stored_bits(&self, params: &QuantParams, dtype: DType) -> u32;

    /// Quantizes `num_samples` samples of `shape` and `dtype`, contiguous in `src`, appending to `out`. `statics` is
    /// the static table if the field has one.
    ///
    /// # Errors
    /// `Unrepresentable` under the policy `error`, with the sample's index counted by `out.num_samples`. After an error
    /// `out` counts as garbage.
    #[expect(
        clippy::too_many_arguments,
        reason = "each is a different fact about the samples, and callers are few"
    )]
    fn quantize(
        &self,
        params: &QuantParams,
        dtype: DType,
        shape: &[usize],
        num_samples: usize,
        src: &[u8],
        statics: Option<&Scales>,
        out: &mut Quantized,
    ) -> Result<()>;

    /// Looks at all of a chunk after it was quantized.
    ///
    /// # Errors
    /// `InvalidArgument` if the quantizer does not suit the data at all.
    fn review(&self, _params: &QuantParams, _dtype: DType, _out: &Quantized) -> Result<()> {
        Ok(())
    }

    /// Dequantizes elements `first .. first + count` of a run of samples of `shape`, whose stored bytes `codes` begin
    /// at element `first` (for 4-bit elements `first` is even within its sample), into `dst` as `dtype_out` (f32, f16,
    /// bf16 or f64; for identity also the source dtype). If `count` reaches over several samples, `first` is the
    /// start of a sample. `scales` starts at the run's first sample, or is the static table.
    ///
    /// # Errors
    /// `InvalidArgument` if lengths disagree or the conversion does not exist.
    fn dequantize(
        &self,
        params: &QuantParams,
        block: &Block<'_>,
        dtype_out: DType,
        dst: &mut [u8],
    ) -> Result<()>;

    /// How to read the first elements of a block, and how many of them, if they are integers of whole bytes that share a
    /// scale and become f32 as [`Quantizer::dequantize`] makes them. `first` of the block may be any.
    fn one_scale(
        &self,
        _params: &QuantParams,
        _block: &Block<'_>,
        _dtype_out: DType,
    ) -> Option<(OneScale, usize)> {
        None
    }
}

/// Stored elements to dequantize; see [`Quantizer::dequantize`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Block<'a> {
    /// The dtype of the field.
    pub(crate) dtype: DType,
    /// The shape of a sample.
    pub(crate) shape: &'a [usize],
    /// Index of the first element, within the run of samples.
    pub(crate) first: usize,
    /// Number of elements.
    pub(crate) count: usize,
    /// Their stored bytes.
    pub(crate) codes: &'a [u8],
    /// Scales of the run.
    pub(crate) scales: ScalesView<'a>,
}

/// Every quantizer of this build, by ascending id.
pub(crate) static QUANTIZERS: &[&dyn Quantizer] = &[
    &identity::Identity,
    &cast::Cast,
    &affine::Affine,
    &abs_error::AbsError,
    &fp8::Fp8,
    &codebook::Codebook,
    &mx::Mx,
];

fn find(id: u16) -> Option<&'static dyn Quantizer> {
    QUANTIZERS
        .iter()
        .copied()
        .find(|quantizer| quantizer.id().0 == id)
}

/// The quantizer with this id on disk.
///
/// # Errors
/// `Unsupported` if this build has none.
pub(crate) fn by_id(id: u16) -> Result<&'static dyn Quantizer> {
    find(id).ok_or_else(|| {
        Error::unsupported(
            format!("quantizer id {id:#06x}"),
            "the file was written by a newer version; upgrade tensorshard to read it",
        )
    })
}

impl NonFinite {
    fn to_byte(self) -> u8 {
        match self {
            Self::Error => 0,
            Self::Saturate => 1,
            Self::Patch => 2,
        }
    }

    fn from_byte(byte: u8) -> Result<Self> {
        match byte {
            0 => Ok(Self::Error),
            1 => Ok(Self::Saturate),
            2 => Ok(Self::Patch),
            _ => Err(Error::corrupt(
                "non_finite of a quantizer",
                "0, 1 or 2",
                byte,
            )),
        }
    }
}

impl QuantParams {
    /// Reads the stage parameters of format-spec 9.
    ///
    /// # Errors
    /// `Unsupported` for an unknown id, `Corrupt` for parameters out of range.
    pub(crate) fn parse_stage(id: u16, params: &[u8]) -> Result<Self> {
        by_id(id)?.parse(params)
    }

    /// Appends the stage parameters of format-spec 9.
    pub(crate) fn emit(&self, out: &mut Vec<u8>) {
        self.quantizer().emit(self, out);
    }

    /// The quantizer.
    pub fn id(&self) -> QuantId {
        self.quantizer().id()
    }

    /// The implementation.
    pub(crate) fn quantizer(&self) -> &'static dyn Quantizer {
        match self {
            Self::Identity => &identity::Identity,
            Self::Cast { .. } => &cast::Cast,
            Self::Affine(_) => &affine::Affine,
            Self::AbsError(_) => &abs_error::AbsError,
            Self::Fp8(_) => &fp8::Fp8,
            Self::Codebook(_) => &codebook::Codebook,
            Self::Mx(_) => &mx::Mx,
        }
    }

    /// Bits of a stored element of a field of this dtype.
    pub fn stored_bits(&self, dtype: DType) -> u32 {
        self.quantizer().stored_bits(self, dtype)
    }

    /// What there is to know about scales, if the quantizer has them.
    pub(crate) fn scaling(&self) -> Option<Scaling> {
        match self {
            Self::Identity | Self::Cast { .. } | Self::AbsError(_) => None,
            Self::Affine(p) => Some(affine::scaling(p)),
            Self::Fp8(p) => Some(fp8::scaling(p)),
            Self::Codebook(p) => Some(codebook::scaling(p)),
            Self::Mx(p) => Some(mx::scaling(p)),
        }
    }

    /// The scales that one sample of this shape has in its scales stream, if they are dynamic; 0 without such a stream
    /// at all.
    pub(crate) fn scales_per_sample(&self, shape: &[usize]) -> usize {
        self.scaling()
            .map_or(0, |scaling| layout::scales_of(scaling.granularity, shape))
    }

    /// True unless every value is stored as it is.
    pub fn is_lossy(&self) -> bool {
        !matches!(self, Self::Identity)
    }

    /// True if zero points are stored beside the scales.
    pub fn has_zero_points(&self) -> bool {
        self.scaling().is_some_and(|scaling| scaling.zero_points)
    }

    /// True if scales are static: one table in the schema (format-spec 9.3).
    pub(crate) fn static_scales(&self, ragged: bool) -> bool {
        match self.scaling().map(|scaling| scaling.granularity) {
            Some(Granularity::PerTensor) => true,
            Some(Granularity::PerChannel { .. }) => !ragged,
            _ => false,
        }
    }

    /// Checks zero points read from a file.
    ///
    /// # Errors
    /// `Corrupt` if one is outside qmin..qmax.
    pub(crate) fn validate_zero_points(&self, zero_points: &[i32]) -> Result<()> {
        let Self::Affine(affine) = self else {
            return Ok(());
        };
        let (low, high) = affine::q_range(affine);
        match zero_points.iter().find(|z| !(low..=high).contains(*z)) {
            None => Ok(()),
            Some(found) => Err(Error::corrupt(
                "zero_point",
                format!("{low} to {high}"),
                found,
            )),
        }
    }
}

fn bits_of(dtype: DType) -> u32 {
    match dtype.size() {
        1 => 8,
        2 => 16,
        4 => 32,
        _ => 64,
    }
}

/// Writes f32 as one of the dtypes that readers can ask for.
fn write_f32(dtype_out: DType, src: &[f32], dst: &mut [u8]) -> Result<()> {
    if !matches!(
        dtype_out,
        DType::F32 | DType::F16 | DType::BF16 | DType::F64
    ) {
        return Err(Error::invalid(format!(
            "quantized elements cannot be read as {dtype_out}; f32, f16, bf16 and f64 are possible"
        )));
    }
    crate::kernel::convert::from_f32(dtype_out, src, dst)
}

/// The parameters are those of another quantizer: a bug of the caller.
fn wrong_params(quantizer: &'static str, params: &QuantParams) -> Error {
    Error::invalid(format!(
        "quantizer {quantizer} was given the parameters {params:?}"
    ))
}

/// Bytes that do not match the number of elements: a bug of the caller.
fn wrong_length(what: &'static str, expected: usize, found: usize) -> Error {
    Error::invalid(format!("{what} need {expected} bytes, got {found}"))
}

/// Checks that `src` is `num_samples` samples of `shape`, and gives the elements of one.
fn elements_of(dtype: DType, shape: &[usize], num_samples: usize, src: &[u8]) -> Result<usize> {
    let n = crate::tensor::num_elements(shape)
        .ok_or_else(|| Error::invalid(format!("a sample of shape {shape:?} is too large")))?;
    match n
        .checked_mul(dtype.size())
        .and_then(|len| len.checked_mul(num_samples))
    {
        Some(len) if len == src.len() => Ok(n),
        _ => Err(Error::invalid(format!(
            "{num_samples} {dtype} samples of shape {shape:?} do not have {} bytes",
            src.len()
        ))),
    }
}

#[cfg(test)]
mod tests;
