//! The schema: which fields every sample has, and how they are encoded (format-spec 5).

use std::fmt;

use crate::codec::{self, CodecSpec};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::filter::{self, FilterSpec};
use crate::quant::{Granularity, QuantParams, Scales};
use crate::split::{self, SplitId};
use crate::tensor::num_elements;

use super::forever::{VARIABLE_DIM, VARIABLE_RANK};
use super::limits;
use super::pieces::sample_stored_bytes;
use super::wire::{Cursor, Put, expect_eq, expect_limit, to_u32};

/// Bytes of a field record before its dims.
const FIELD_FIXED: usize = 24;
/// Version of every stage of format 1.0.
const STAGE_VERSION: u16 = 1;

/// What the values of a field are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// Numbers with a shape.
    Tensor,
    /// Raw bytes of any length.
    Bytes,
    /// UTF-8 text of any length.
    String,
}

/// A named tensor of every sample, and how it is stored.
#[derive(Clone, Debug, PartialEq)]
pub struct Field {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    pub(crate) key: bool,
    pub(crate) dtype: Option<DType>,
    pub(crate) dims: Option<Vec<Option<usize>>>,
    pub(crate) quant: QuantParams,
    pub(crate) filters: Vec<FilterSpec>,
    pub(crate) split: Option<SplitId>,
    /// One for each plane.
    pub(crate) codecs: Vec<CodecSpec>,
    pub(crate) scales: Scales,
}

/// The fields of every sample of a dataset, in order.
#[derive(Clone, Debug, PartialEq)]
pub struct Schema {
    fields: Vec<Field>,
}

impl Field {
    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What the values are.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// True if the field holds the sample's key.
    pub fn is_key(&self) -> bool {
        self.key
    }

    /// The dtype of the values as they were given to the writer; `None` if every sample has its own.
    pub fn dtype(&self) -> Option<DType> {
        self.dtype
    }

    /// The dims of a sample, outermost first, `None` for a dim that varies; `None` if the rank varies.
    pub fn dims(&self) -> Option<&[Option<usize>]> {
        self.dims.as_deref()
    }

    /// The shape of every sample, if it is the same for all.
    pub fn fixed_shape(&self) -> Option<Vec<usize>> {
        self.dtype?;
        self.dims.as_ref()?.iter().copied().collect()
    }

    /// True if shape or dtype differ from sample to sample.
    pub fn is_ragged(&self) -> bool {
        self.dtype.is_none() || self.dims.as_ref().is_none_or(|dims| dims.contains(&None))
    }

    /// The quantizer.
    pub fn quantizer(&self) -> &QuantParams {
        &self.quant
    }

    /// The filters, in the order a writer applies them.
    pub fn filters(&self) -> &[FilterSpec] {
        &self.filters
    }

    /// How the values are split into planes, if they are.
    pub fn split(&self) -> Option<SplitId> {
        self.split
    }

    /// The codecs of the values: one for each plane, so one unless they are split.
    pub fn codecs(&self) -> &[CodecSpec] {
        &self.codecs
    }

    /// The codec of the streams beside the values: scales, shapes and so on. Codecs of planes expect planes.
    pub(crate) fn side_codec(&self) -> CodecSpec {
        match (self.split, self.codecs.as_slice()) {
            (None, &[codec]) => codec,
            _ => CodecSpec::default(),
        }
    }

    /// The most bytes of a piece before it is split (format-spec 10.1).
    pub(crate) fn piece_limit(&self, piece_bytes: u32) -> u32 {
        let planes = u32::try_from(self.codecs.len()).unwrap_or(u32::MAX);
        let most = u32::try_from(limits::PIECE_MAX).unwrap_or(u32::MAX);
        piece_bytes.saturating_mul(planes).min(most)
    }

    /// The static scales (per tensor, per channel); empty otherwise.
    pub fn scales(&self) -> &Scales {
        &self.scales
    }

    /// True if decoded values may differ from the source.
    pub fn is_lossy(&self) -> bool {
        self.quant != QuantParams::Identity
    }

    /// The first minor version of the format that has every stage of this field.
    fn since_minor(&self) -> Result<u16> {
        let mut minor = self.quant.quantizer().since_minor();
        for codec in &self.codecs {
            minor = minor.max(codec.codec()?.since_minor());
        }
        if let Some(split) = self.split {
            minor = minor.max(split.split()?.since_minor());
        }
        for filter in &self.filters {
            minor = minor.max(filter.filter()?.since_minor());
        }
        Ok(minor)
    }

    pub(crate) fn has_static_scales(&self) -> bool {
        self.quant.static_scales(self.is_ragged())
    }

    pub(crate) fn has_scales_stream(&self) -> bool {
        self.quant.scaling().is_some() && !self.has_static_scales()
    }

    /// Bits of a stored element, given the sample's own dtype if the field leaves it open.
    pub(crate) fn stored_bits(&self, own: Option<DType>) -> u32 {
        self.dtype
            .or(own)
            .map_or(8, |dtype| self.quant.stored_bits(dtype))
    }

    /// Stored bytes of a sample, if they are the same for all.
    pub(crate) fn fixed_stored_bytes(&self) -> Option<u64> {
        let shape = self.fixed_shape()?;
        Some(sample_stored_bytes(&shape, self.stored_bits(None)))
    }

    /// Static checks, shared by readers and writers. The error says what is wrong; a reader calls it `Corrupt`.
    pub(crate) fn check(&self) -> std::result::Result<(), String> {
        if self.name.is_empty() || self.name.len() as u64 > limits::FIELD_NAME {
            return Err(format!(
                "a field name has 1 to {} bytes, not {}",
                limits::FIELD_NAME,
                self.name.len()
            ));
        }
        if self.name.chars().any(|c| c < ' ' || c == '\u{7f}') {
            return Err(format!("field name {:?} has control characters", self.name));
        }
        let text = self.kind != Kind::Tensor;
        if text && (self.dtype != Some(DType::U8) || self.dims.as_deref() != Some(&[None])) {
            return Err(format!(
                "field {:?}: a bytes or string field is u8 with one variable dim",
                self.name
            ));
        }
        if self.key && !text {
            return Err(format!(
                "field {:?}: a key is a bytes or string field",
                self.name
            ));
        }
        if self.dtype.is_none() && (self.quant != QuantParams::Identity || !self.filters.is_empty())
        {
            return Err(format!(
                "field {:?}: a dtype per sample needs the identity quantizer and no filters",
                self.name
            ));
        }
        if let Some(dims) = &self.dims {
            if dims.len() as u64 > limits::RANK {
                return Err(format!(
                    "field {:?}: rank {} is above {}",
                    self.name,
                    dims.len(),
                    limits::RANK
                ));
            }
            let fixed: Vec<usize> = dims.iter().copied().flatten().collect();
            let too_large = !fixed.contains(&0)
                && num_elements(&fixed).is_none_or(|n| n as u64 > limits::SAMPLE_ELEMENTS);
            if too_large || fixed.iter().any(|&d| d as u64 >= limits::SAMPLE_ELEMENTS) {
                return Err(format!(
                    "field {:?}: shape {fixed:?} has more than 2^36 elements",
                    self.name
                ));
            }
        }
        if self.filters.len() as u64 > limits::FILTERS {
            return Err(format!(
                "field {:?}: more than {} filters",
                self.name,
                limits::FILTERS
            ));
        }
        let per_chunk = self.filters.iter().filter(|spec| spec.is_per_chunk());
        if per_chunk.count() > 1 {
            return Err(format!(
                "field {:?}: more than one filter whose mode chunks choose; a chunk records one",
                self.name
            ));
        }
        for spec in &self.filters {
            spec.filter()
                .map_err(|e| e.to_string())
                .and_then(|filter| {
                    filter.check(*spec, self.stored_bits(None), self.dims.as_deref())
                })
                .map_err(|e| format!("field {:?}: {e}", self.name))?;
        }
        if let Some(dtype) = self.dtype {
            let rank = self.dims.as_ref().map(Vec::len);
            self.quant
                .quantizer()
                .check(&self.quant, dtype, rank)
                .map_err(|e| format!("field {:?}: {e}", self.name))?;
        }
        self.check_planes()
            .map_err(|e| format!("field {:?}: {e}", self.name))?;
        let scales = self.static_scales_needed();
        let zero_points = if self.quant.has_zero_points() {
            scales
        } else {
            0
        };
        if self.scales.scales.len() != scales || self.scales.zero_points.len() != zero_points {
            return Err(format!(
                "field {:?}: {scales} static scales and {zero_points} zero points are needed, not {} and {}",
                self.name,
                self.scales.scales.len(),
                self.scales.zero_points.len()
            ));
        }
        Ok(())
    }

    /// A codec for each plane, and planes that fit the stored elements.
    fn check_planes(&self) -> std::result::Result<(), String> {
        match (self.split, self.codecs.len()) {
            (None, 1) => Ok(()),
            (None, n) => Err(format!("{n} codecs without a split; 1 is needed")),
            (Some(split), n) => {
                let bits = self.stored_bits(None);
                if self.dtype.is_some() && split::fits(n, bits) {
                    return Ok(());
                }
                let elements = match self.dtype {
                    Some(_) => format!("stored elements of {bits} bits"),
                    None => "a dtype per sample".to_owned(),
                };
                Err(format!(
                    "{split} into {n} planes does not fit {elements}; elements of 16, 32 and 64 bits have 2, 4 and 8 planes"
                ))
            }
        }
    }

    /// How many static scales the schema holds for this field.
    pub(crate) fn static_scales_needed(&self) -> usize {
        match (self.has_static_scales(), self.fixed_shape()) {
            (false, _) => 0,
            // Per channel: as many as the axis has indices. Per tensor: no scales of a sample's own.
            (true, Some(shape)) => self
                .quant
                .scales_per_sample(&shape)
                .max(usize::from(self.is_per_tensor())),
            (true, None) => 1,
        }
    }

    fn is_per_tensor(&self) -> bool {
        let granularity = self.quant.scaling().map(|scaling| scaling.granularity);
        granularity == Some(Granularity::PerTensor)
    }

    fn encode(&self, out: &mut Vec<u8>) -> Result<()> {
        let mut body = Vec::new();
        body.put_u16(u16::try_from(self.name.len()).unwrap_or(u16::MAX));
        body.put_u8(match self.kind {
            Kind::Tensor => 0,
            Kind::Bytes => 1,
            Kind::String => 2,
        });
        body.put_u8(u8::from(self.key));
        body.put_u16(self.dtype.map_or(0, DType::id));
        body.put_u8(self.dims.as_ref().map_or(VARIABLE_RANK, |dims| {
            u8::try_from(dims.len()).unwrap_or(VARIABLE_RANK)
        }));
        body.put_u8(u8::try_from(self.filters.len()).unwrap_or(u8::MAX));
        body.put_u8(u8::try_from(self.codecs.len()).unwrap_or(u8::MAX));
        body.put_u8(0);
        body.put_u16(0);
        body.put_u32(to_u32("static scales", self.scales.scales.len())?);
        body.put_u32(to_u32("static zero points", self.scales.zero_points.len())?);
        for dim in self.dims.iter().flatten() {
            body.put_u64(dim.map_or(VARIABLE_DIM, |d| d as u64));
        }
        body.put(self.name.as_bytes());
        put_stage(&mut body, self.quant.id().get(), |out| self.quant.emit(out));
        for filter in &self.filters {
            let stage = filter.filter()?;
            put_stage(&mut body, filter.id().get(), |out| {
                stage.emit_params(*filter, out)
            });
        }
        if let Some(split) = self.split {
            put_stage(&mut body, split.get(), |_| {});
        }
        for codec in &self.codecs {
            put_stage(&mut body, codec.id().get(), |out| {
                codec::emit_params(*codec, out)
            });
        }
        self.scales
            .scales
            .iter()
            .for_each(|&scale| body.put_f32(scale));
        self.scales
            .zero_points
            .iter()
            .for_each(|&zero_point| body.put_i32(zero_point));
        out.put_u32(to_u32("field record", body.len())?.saturating_add(4));
        out.put(&body);
        Ok(())
    }

    fn parse(record: &[u8]) -> Result<Self> {
        let mut c = Cursor::new(record, "field record");
        let name_len = usize::from(c.u16()?);
        let kind = match c.u8()? {
            0 => Kind::Tensor,
            1 => Kind::Bytes,
            2 => Kind::String,
            other => return Err(Error::corrupt("kind of a field", "0, 1 or 2", other)),
        };
        let flags = c.u8()?;
        if flags > 1 {
            return Err(Error::corrupt("flags of a field", "0 or 1", flags));
        }
        let dtype_id = c.u16()?;
        let dtype = match (dtype_id, DType::from_id(dtype_id)) {
            (0, _) => None,
            (_, Some(dtype)) => Some(dtype),
            (id, None) => {
                return Err(Error::unsupported(
                    format!("dtype id {id}"),
                    "use a newer tensorshard release",
                ));
            }
        };
        let rank = c.u8()?;
        let num_filters = c.u8()?;
        let num_planes = c.u8()?;
        c.reserved(3)?;
        let num_scales = c.u32()?;
        let num_zero_points = c.u32()?;
        expect_limit("num_filters", limits::FILTERS, u64::from(num_filters))?;
        expect_limit("num_planes", limits::PLANES, u64::from(num_planes))?;
        expect_limit("num_scales", limits::STATIC_SCALES, u64::from(num_scales))?;
        expect_limit(
            "num_zero_points",
            limits::STATIC_SCALES,
            u64::from(num_zero_points),
        )?;
        let dims = if rank == VARIABLE_RANK {
            None
        } else {
            expect_limit("rank", limits::RANK, u64::from(rank))?;
            let mut dims = Vec::new();
            for _ in 0..rank {
                let dim = c.u64()?;
                if dim != VARIABLE_DIM {
                    expect_limit("dim", limits::SAMPLE_ELEMENTS, dim)?;
                }
                dims.push(if dim == VARIABLE_DIM {
                    None
                } else {
                    Some(super::wire::to_usize("dim", dim)?)
                });
            }
            Some(dims)
        };
        let name = std::str::from_utf8(c.take(name_len)?)
            .map_err(|e| Error::corrupt("name of a field", "UTF-8", e))?
            .to_owned();
        let (id, params) = read_stage(&mut c)?;
        let quant = QuantParams::parse_stage(id, params).map_err(|e| e.in_field(&name))?;
        let mut filters = Vec::new();
        for _ in 0..num_filters {
            let (id, params) = read_stage(&mut c)?;
            filters.push(filter::parse_params(id, params).map_err(|e| e.in_field(&name))?);
        }
        if num_planes == 0 {
            return Err(Error::corrupt("num_planes", "at least 1", 0).in_field(&name));
        }
        let mut split = None;
        if num_planes > 1 {
            let (id, params) = read_stage(&mut c)?;
            split = Some(split::parse_params(id, params).map_err(|e| e.in_field(&name))?);
        }
        let mut codecs = Vec::new();
        for _ in 0..num_planes {
            let (id, params) = read_stage(&mut c)?;
            codecs.push(codec::parse_params(id, params).map_err(|e| e.in_field(&name))?);
        }
        let mut scales = Scales::default();
        for _ in 0..num_scales {
            scales.scales.push(c.f32()?);
        }
        for _ in 0..num_zero_points {
            scales.zero_points.push(c.i32()?);
        }
        c.finish()?;
        let field = Self {
            name,
            kind,
            key: flags == 1,
            dtype,
            dims,
            quant,
            filters,
            split,
            codecs,
            scales,
        };
        field
            .check()
            .map_err(|message| Error::corrupt("schema", "a valid field", message))?;
        field
            .quant
            .validate(&field.scales)
            .map_err(|e| e.in_field(&field.name))?;
        Ok(field)
    }
}

fn put_stage(out: &mut Vec<u8>, id: u16, emit: impl FnOnce(&mut Vec<u8>)) {
    let mut params = Vec::new();
    emit(&mut params);
    out.put_u16(id);
    out.put_u16(STAGE_VERSION);
    out.put_u16(u16::try_from(params.len()).unwrap_or(u16::MAX));
    out.put(&params);
}

fn read_stage<'a>(c: &mut Cursor<'a>) -> Result<(u16, &'a [u8])> {
    let (id, version, params_len) = (c.u16()?, c.u16()?, c.u16()?);
    if version != STAGE_VERSION {
        return Err(Error::unsupported(
            format!("version {version} of stage {id}"),
            "use a newer tensorshard release",
        ));
    }
    Ok((id, c.take(usize::from(params_len))?))
}

impl Schema {
    /// A schema of these fields.
    ///
    /// # Errors
    /// `InvalidArgument` if there are none or too many, names repeat, or a field contradicts itself.
    pub(crate) fn new(fields: Vec<Field>) -> Result<Self> {
        let schema = Self { fields };
        schema.check().map_err(Error::invalid)?;
        for field in &schema.fields {
            field.check().map_err(Error::invalid)?;
        }
        Ok(schema)
    }

    fn check(&self) -> std::result::Result<(), String> {
        if self.fields.is_empty() || self.fields.len() as u64 > limits::FIELDS {
            return Err(format!(
                "a schema has 1 to {} fields, not {}",
                limits::FIELDS,
                self.fields.len()
            ));
        }
        let mut names: Vec<&str> = self
            .fields
            .iter()
            .map(|field| field.name.as_str())
            .collect();
        names.sort_unstable();
        if let Some(pair) = names.windows(2).find(|pair| pair.first() == pair.last()) {
            return Err(format!(
                "field name {:?} is used twice",
                pair.first().unwrap_or(&"")
            ));
        }
        if self.fields.iter().filter(|field| field.key).count() > 1 {
            return Err("more than one key field".to_owned());
        }
        Ok(())
    }

    /// The minor version that a file with this schema is written with: the lowest that has all of its stages, so that
    /// older readers read what they can.
    ///
    /// # Errors
    /// `Unsupported` for stages that this build does not have.
    pub(crate) fn version_minor(&self) -> Result<u16> {
        let mut minor = 0;
        for field in &self.fields {
            minor = minor.max(field.since_minor()?);
        }
        Ok(minor)
    }

    /// The fields, in order.
    pub fn fields(&self) -> &[Field] {
        &self.fields
    }

    /// The ordinal of the field with this name.
    pub fn index_of(&self, name: &str) -> Option<usize> {
        self.fields.iter().position(|field| field.name == name)
    }

    /// The field with this name.
    ///
    /// # Errors
    /// `InvalidArgument` that lists the names there are.
    pub fn field(&self, name: &str) -> Result<&Field> {
        self.fields
            .iter()
            .find(|field| field.name == name)
            .ok_or_else(|| self.no_such_field(name))
    }

    pub(crate) fn no_such_field(&self, name: &str) -> Error {
        let names: Vec<&str> = self.fields.iter().map(Field::name).collect();
        Error::invalid(format!(
            "there is no field {name:?}; the fields are {}",
            names.join(", ")
        ))
    }

    /// The field that holds the samples' keys, if there is one.
    pub fn key_field(&self) -> Option<&Field> {
        self.fields.iter().find(|field| field.key)
    }

    pub(crate) fn encode(&self) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        out.put_u32(to_u32("fields", self.fields.len())?);
        for field in &self.fields {
            field.encode(&mut out)?;
        }
        expect_limit("schema", limits::SCHEMA, out.len() as u64)?;
        Ok(out)
    }

    pub(crate) fn parse(bytes: &[u8]) -> Result<Self> {
        expect_limit("schema", limits::SCHEMA, bytes.len() as u64)?;
        let mut c = Cursor::new(bytes, "schema");
        let num_fields = c.u32()?;
        expect_limit("num_fields", limits::FIELDS, u64::from(num_fields))?;
        let mut fields = Vec::new();
        for _ in 0..num_fields {
            let record_len = c.u32()? as usize;
            let body = record_len
                .checked_sub(4)
                .filter(|&len| len >= FIELD_FIXED.saturating_sub(4));
            let body = body.ok_or_else(|| {
                Error::corrupt("record_len of a field", "at least 24", record_len)
            })?;
            let start = c.at();
            fields.push(Field::parse(c.take(body)?).map_err(|e| e.within(start))?);
        }
        c.finish()?;
        let schema = Self { fields };
        schema
            .check()
            .map_err(|message| Error::corrupt("schema", "valid fields", message))?;
        let canonical = schema.encode()?;
        expect_eq(
            "length of the schema",
            canonical.len() as u64,
            bytes.len() as u64,
        )?;
        Ok(schema)
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            Kind::Tensor => {
                f.write_str(self.dtype.map_or("any", DType::name))?;
                match &self.dims {
                    None => f.write_str(" [..]"),
                    Some(dims) => {
                        let dims: Vec<String> = dims
                            .iter()
                            .map(|d| d.map_or_else(|| "?".to_owned(), |d| d.to_string()))
                            .collect();
                        write!(f, " [{}]", dims.join(", "))
                    }
                }
            }
            Kind::Bytes => f.write_str("bytes"),
            Kind::String => f.write_str(if self.key { "string (key)" } else { "string" }),
        }
    }
}

#[cfg(test)]
pub(super) mod tests;
