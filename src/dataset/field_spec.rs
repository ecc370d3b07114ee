//! What a writer is asked for: the fields of a sample and their encodings.

use serde_json::Value;

use crate::codec::{CodecId, CodecSpec};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::filter::{FilterId, FilterSpec};
use crate::format::schema::{Field, Kind};
use crate::quant::{Calibrator, MxFormat, NonFinite, QuantParams, QuantSpec, Scales};
use crate::split::SplitId;

/// A field to write. Defaults: lossless (identity), byte shuffle where a stored element is wider than a byte, Snappy.
#[derive(Clone, Debug)]
pub struct FieldSpec {
    name: String,
    kind: Kind,
    key: bool,
    dtype: Option<DType>,
    dims: Option<Vec<Option<usize>>>,
    quant: QuantSpec,
    filters: Option<Vec<FilterSpec>>,
    split: Option<SplitId>,
    codecs: Vec<CodecSpec>,
    own: Own,
    /// Why a planner chose these encodings.
    reasons: Option<Value>,
}

/// Which stages were set, and are no defaults: a planner leaves them alone.
#[derive(Clone, Copy, Debug, Default)]
struct Own {
    quant: bool,
    split: bool,
    codecs: bool,
}

impl FieldSpec {
    fn with(
        name: impl Into<String>,
        kind: Kind,
        dtype: Option<DType>,
        dims: Option<Vec<Option<usize>>>,
    ) -> Self {
        let (quant, codecs) = (QuantSpec::identity(), vec![CodecSpec::default()]);
        Self {
            name: name.into(),
            kind,
            key: false,
            dtype,
            dims,
            quant,
            filters: None,
            split: None,
            codecs,
            own: Own::default(),
            reasons: None,
        }
    }

    /// A field whose samples all have this dtype and shape (`[]` for a scalar).
    pub fn new(name: impl Into<String>, dtype: DType, shape: impl AsRef<[usize]>) -> Self {
        let dims = shape.as_ref().iter().copied().map(Some).collect();
        Self::with(name, Kind::Tensor, Some(dtype), Some(dims))
    }

    /// A field whose dims vary from sample to sample where `dims` has `None`.
    pub fn ragged(
        name: impl Into<String>,
        dtype: DType,
        dims: impl AsRef<[Option<usize>]>,
    ) -> Self {
        Self::with(
            name,
            Kind::Tensor,
            Some(dtype),
            Some(dims.as_ref().to_vec()),
        )
    }

    /// A field whose samples have any rank and shape.
    pub fn any_shape(name: impl Into<String>, dtype: DType) -> Self {
        Self::with(name, Kind::Tensor, Some(dtype), None)
    }

    /// A field whose samples have any dtype, rank and shape: the tensors of a model checkpoint.
    pub fn any(name: impl Into<String>) -> Self {
        Self::with(name, Kind::Tensor, None, None)
    }

    /// A field of UTF-8 text of any length.
    pub fn string(name: impl Into<String>) -> Self {
        Self::with(name, Kind::String, Some(DType::U8), Some(vec![None]))
    }

    /// A field of raw bytes of any length.
    pub fn bytes(name: impl Into<String>) -> Self {
        Self::with(name, Kind::Bytes, Some(DType::U8), Some(vec![None]))
    }

    /// The field that holds the samples' keys: text.
    pub fn key(name: impl Into<String>) -> Self {
        Self {
            key: true,
            ..Self::string(name)
        }
    }

    /// Sets the quantizer.
    #[must_use]
    pub fn quantize(mut self, quant: QuantSpec) -> Self {
        self.quant = quant;
        self.own.quant = true;
        self
    }

    /// Sets the filters, in the order they are applied; none for an empty list.
    #[must_use]
    pub fn filters(self, filters: impl AsRef<[FilterId]>) -> Self {
        let specs: Vec<FilterSpec> = filters
            .as_ref()
            .iter()
            .copied()
            .map(FilterSpec::of)
            .collect();
        self.filter_specs(specs)
    }

    /// Sets the filters with their options, in the order they are applied: `predict` has some.
    #[must_use]
    pub fn filter_specs(mut self, filters: impl AsRef<[FilterSpec]>) -> Self {
        self.filters = Some(filters.as_ref().to_vec());
        self
    }

    /// Splits stored elements of 2, 4 or 8 bytes into as many planes, each with a codec of its own. Without a choice of
    /// filters there are none then.
    #[must_use]
    pub fn split(mut self, split: impl Into<Option<SplitId>>) -> Self {
        self.split = split.into();
        self.own.split = true;
        self
    }

    /// Sets the codec.
    #[must_use]
    pub fn codec(self, codec: CodecSpec) -> Self {
        self.codecs([codec])
    }

    /// Sets the codecs of the planes of a split, the most significant first. The last one is for all planes that
    /// follow, too.
    #[must_use]
    pub fn codecs(mut self, codecs: impl AsRef<[CodecSpec]>) -> Self {
        self.codecs = codecs.as_ref().to_vec();
        self.own.codecs = true;
        self
    }

    /// Sets static scales. (A [`crate::Calibrator`] finds them in a first pass, and gives a quantizer that has them.)
    #[must_use]
    pub fn scales(mut self, scales: Scales) -> Self {
        self.quant = self.quant.scales(scales);
        self
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The dtype; `None` if every sample has its own.
    pub fn dtype(&self) -> Option<DType> {
        self.dtype
    }

    /// The quantizer that was asked for.
    pub fn quant(&self) -> &QuantSpec {
        &self.quant
    }

    /// Dims of a sample, `None` for one that varies; `None` if the rank varies.
    pub(crate) fn dims(&self) -> Option<&[Option<usize>]> {
        self.dims.as_deref()
    }

    /// True for numbers: no text, no raw bytes.
    pub(crate) fn is_tensor(&self) -> bool {
        self.kind == Kind::Tensor
    }

    /// The same field with samples of another shape.
    pub(crate) fn with_shape(mut self, shape: &[usize]) -> Self {
        self.dims = Some(shape.iter().copied().map(Some).collect());
        self
    }

    /// The same field in another encoding, but for what was set before.
    pub(crate) fn planned(
        mut self,
        quant: &QuantSpec,
        filters: &[FilterSpec],
        split: Option<SplitId>,
        codecs: &[CodecSpec],
    ) -> Self {
        if !self.own.quant {
            self.quant = quant.clone();
        }
        self.filters.get_or_insert_with(|| filters.to_vec());
        if !self.own.split {
            self.split = split;
        }
        if !self.own.codecs {
            self.codecs = codecs.to_vec();
        }
        self
    }

    /// True if neither filters nor a codec follow the quantizer.
    pub(crate) fn is_plain(&self) -> bool {
        self.filters.as_ref().is_some_and(Vec::is_empty)
            && self.split.is_none()
            && self.codecs == [CodecSpec::new(CodecId::NONE)]
    }

    pub(crate) fn with_reasons(mut self, reasons: Value) -> Self {
        self.reasons = Some(reasons);
        self
    }

    pub(crate) fn reasons(&self) -> Option<&Value> {
        self.reasons.as_ref()
    }

    /// The options of the command that ask for this encoding.
    pub(crate) fn options(&self) -> String {
        let mut out = String::new();
        if !self.quant.is_identity() {
            out.push_str(&format!("--quantize {} ", self.quant));
        }
        if let Some(filters) = &self.filters {
            let names: Vec<String> = filters.iter().map(ToString::to_string).collect();
            let names = if names.is_empty() {
                "none".to_owned()
            } else {
                names.join(",")
            };
            out.push_str(&format!("--filter {names} "));
        }
        if let Some(split) = self.split {
            out.push_str(&format!("--split {split} "));
        }
        let codecs: Vec<String> = self.codecs.iter().map(ToString::to_string).collect();
        out + &format!("--codec {}", codecs.join(","))
    }

    /// The quantizer's parameters for this field.
    ///
    /// # Errors
    /// `InvalidArgument` if the quantizer does not fit dtype and shape.
    pub fn quant_params(&self) -> Result<QuantParams> {
        let Some(dtype) = self.dtype else {
            let identity = self.quant.resolve(DType::U8, None)?;
            return match identity {
                QuantParams::Identity => Ok(identity),
                _ => Err(Error::invalid(format!(
                    "field {:?}: a dtype per sample cannot be quantized",
                    self.name
                ))),
            };
        };
        self.quant
            .resolve(dtype, self.dims.as_ref().map(Vec::len))
            .map_err(|e| e.in_field(&self.name))
    }

    /// True if the quantizer must know something of all data that was not given, static scales or a range:
    /// [`crate::Calibrator`] finds it in a first pass.
    pub fn needs_calibration(&self) -> bool {
        let ragged = self.dims.as_ref().is_none_or(|dims| dims.contains(&None));
        self.quant.needs_calibration(ragged)
    }

    /// A calibrator for the quantizer, if it [needs](Self::needs_calibration) one; what it finds makes a quantizer that
    /// needs none: `field.quantize(calibrator.finish())`.
    ///
    /// # Errors
    /// `InvalidArgument` if it needs none, or the quantizer does not fit dtype and shape.
    pub fn calibrator(&self) -> Result<Calibrator> {
        let (Some(dtype), true) = (self.dtype, self.needs_calibration()) else {
            return Err(Error::invalid(format!(
                "field {:?} needs no calibration",
                self.name
            )));
        };
        // Where dims vary, scales are not static and ranges do not depend on them.
        let dims = self.dims.iter().flatten();
        let shape: Vec<usize> = dims.map(|dim| dim.unwrap_or(0)).collect();
        Calibrator::new(&self.quant, dtype, &shape).map_err(|e| e.in_field(&self.name))
    }

    /// One codec for each plane.
    fn codecs_of(&self, num_planes: usize) -> Result<Vec<CodecSpec>> {
        let (given, last) = (&self.codecs, self.codecs.last());
        match last {
            Some(&last) if given.len() <= num_planes => {
                let mut codecs = given.clone();
                codecs.resize(num_planes, last);
                Ok(codecs)
            }
            _ => Err(Error::invalid(format!(
                "field {:?}: {} codecs for {num_planes} planes; give one codec, or for a split up to one for each \
                 plane",
                self.name,
                given.len()
            ))),
        }
    }

    /// The fact that follows from this request.
    pub(crate) fn resolve(&self) -> Result<Field> {
        let quant = self.quant_params()?;
        let bits = self.dtype.map_or(8, |dtype| quant.stored_bits(dtype));
        let elem_size = usize::try_from(bits / 8).unwrap_or(1).max(1);
        let filters = match (&self.filters, self.dtype) {
            (Some(filters), _) => filters.clone(),
            (None, Some(_)) if bits > 8 && self.split.is_none() => {
                vec![FilterSpec::of(FilterId::BYTE_SHUFFLE)]
            }
            (None, _) => Vec::new(),
        };
        let filters: Result<Vec<FilterSpec>> = filters
            .into_iter()
            .map(|spec| spec.over(elem_size))
            .collect();
        if self.needs_calibration() {
            return Err(Error::invalid(format!(
                "field {:?} needs static scales: calibrate on a first pass (`Calibrator`), give them with \
                 `QuantSpec::scales`, or use scales per sample",
                self.name
            )));
        }
        let field = Field {
            name: self.name.clone(),
            kind: self.kind,
            key: self.key,
            dtype: self.dtype,
            dims: self.dims.clone(),
            quant,
            filters: filters?,
            split: self.split,
            codecs: self.codecs_of(if self.split.is_some() { elem_size } else { 1 })?,
            scales: self.quant.given_scales().cloned().unwrap_or_default(),
        };
        field.check().map_err(Error::invalid)?;
        Ok(field)
    }
}

/// A named choice of encodings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Preset {
    /// Identity, byte shuffle where an element is wider than a byte, Snappy. The default.
    Lossless,
    /// Floats as f16.
    F16,
    /// Floats as bf16.
    BF16,
    /// Floats as symmetric int8 with one scale for each sample.
    Int8,
    /// Floats as symmetric int8 with one scale for each index of the first axis.
    Int8PerChannel,
    /// Floats as symmetric int4 with an f16 scale for every 32 elements of the last axis.
    Int4Group32,
    /// Floats as symmetric int4 with an f16 scale for every 64 elements of the last axis.
    Int4Group64,
    /// Floats as symmetric int4 with an f16 scale for every 128 elements of the last axis.
    Int4Group128,
    /// Floats as NF4, with a scale for every 64 elements of the last axis.
    Nf4,
    /// Floats as OCP MXFP8, with f8e4m3fn elements.
    MxFp8,
    /// Floats as OCP MXINT8.
    MxInt8,
    /// Floats as OCP MXFP4.
    MxFp4,
    /// Floats as f8e4m3fn.
    Fp8,
    /// Symmetric int8 with one scale for each sample, then Snappy: the recipe of the articles.
    Article,
}

/// Name and one-line description of every preset.
const PRESETS: [(Preset, &str, &str); 14] = [
    (
        Preset::Lossless,
        "lossless",
        "bit-exact: byte shuffle + snappy",
    ),
    (Preset::F16, "f16", "floats as f16"),
    (Preset::BF16, "bf16", "floats as bf16"),
    (Preset::Int8, "int8", "floats as int8, a scale per sample"),
    (
        Preset::Int8PerChannel,
        "int8-per-channel",
        "floats as int8, a scale per index of the first axis",
    ),
    (
        Preset::Int4Group32,
        "int4-group32",
        "floats as int4, an f16 scale per 32 elements",
    ),
    (
        Preset::Int4Group64,
        "int4-group64",
        "floats as int4, an f16 scale per 64 elements",
    ),
    (
        Preset::Int4Group128,
        "int4-group128",
        "floats as int4, an f16 scale per 128 elements",
    ),
    (Preset::Nf4, "nf4", "floats as NF4, a scale per 64 elements"),
    (Preset::MxFp8, "mxfp8", "floats as OCP MXFP8 (E4M3)"),
    (Preset::MxInt8, "mxint8", "floats as OCP MXINT8"),
    (Preset::MxFp4, "mxfp4", "floats as OCP MXFP4"),
    (Preset::Fp8, "fp8", "floats as f8e4m3fn"),
    (Preset::Article, "article", "int8 per sample + snappy"),
];

impl Preset {
    /// Every preset.
    pub fn all() -> impl Iterator<Item = Self> {
        PRESETS.iter().map(|row| row.0)
    }

    fn row(self) -> (Self, &'static str, &'static str) {
        PRESETS
            .iter()
            .find(|row| row.0 == self)
            .copied()
            .unwrap_or(PRESETS[0])
    }

    /// The name in the CLI.
    pub fn name(self) -> &'static str {
        self.row().1
    }

    /// What it does, in a few words.
    pub fn description(self) -> &'static str {
        self.row().2
    }

    /// The preset with this name.
    ///
    /// # Errors
    /// `InvalidArgument` that lists the names there are.
    pub fn parse(name: &str) -> Result<Self> {
        PRESETS
            .iter()
            .find(|row| row.1 == name)
            .map(|row| row.0)
            .ok_or_else(|| {
                let names: Vec<&str> = PRESETS.iter().map(|row| row.1).collect();
                Error::invalid(format!(
                    "there is no preset {name:?}; the presets are {}",
                    names.join(", ")
                ))
            })
    }

    /// Applies the preset to a field. Quantizers touch float tensors with at least one dim; everything else stays
    /// lossless.
    #[must_use]
    pub fn apply(self, field: FieldSpec, non_finite: NonFinite) -> FieldSpec {
        let lossy = field.kind == Kind::Tensor
            && matches!(
                field.dtype,
                Some(DType::F16 | DType::BF16 | DType::F32 | DType::F64)
            )
            && field.dims.as_ref().is_some_and(|dims| !dims.is_empty());
        if !lossy {
            return field;
        }
        let quant = match self {
            Self::Lossless => return field,
            Self::F16 => QuantSpec::cast(DType::F16),
            Self::BF16 => QuantSpec::cast(DType::BF16),
            Self::Int8 | Self::Article => QuantSpec::int8().per_sample(),
            Self::Int8PerChannel => QuantSpec::int8().per_channel(0),
            Self::Int4Group32 => QuantSpec::int4().per_group(32).scale_dtype(DType::F16),
            Self::Int4Group64 => QuantSpec::int4().per_group(64).scale_dtype(DType::F16),
            Self::Int4Group128 => QuantSpec::int4().per_group(128).scale_dtype(DType::F16),
            Self::Nf4 => QuantSpec::nf4(),
            Self::MxFp8 => QuantSpec::mx(MxFormat::Fp8E4M3),
            Self::MxInt8 => QuantSpec::mx(MxFormat::Int8),
            Self::MxFp4 => QuantSpec::mx(MxFormat::Fp4),
            Self::Fp8 => QuantSpec::cast(DType::F8E4M3FN),
        };
        // f16 to f16 is no quantization at all.
        let same = matches!(
            (self, field.dtype),
            (Self::F16, Some(DType::F16)) | (Self::BF16, Some(DType::BF16))
        );
        if same {
            return field;
        }
        field.quantize(quant.non_finite(non_finite))
    }
}
