//! What fields are, and what they are asked to be, as Python's plain values.

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyDictMethods};
use tensorshard::{
    CodecSpec, DType, Field, FieldSpec, FilterSpec, Granularity, Kind, MxFormat, NonFinite, Preset,
    QuantParams, QuantSpec, SplitId,
};

use crate::dtype;
use crate::error::{invalid, raise};

/// How scales lie beside the codes that they belong to, so that they broadcast.
#[derive(Clone, Debug)]
pub(crate) struct ScaleShape {
    /// Static: for all samples.
    is_static: bool,
    granularity: Granularity,
    shape: Vec<usize>,
}

impl ScaleShape {
    /// The shape of `len` scales for `n` samples.
    pub(crate) fn of(&self, n: usize, len: usize) -> Vec<usize> {
        let rank = self.shape.len();
        if self.is_static {
            let mut dims = vec![1; rank];
            if let (Granularity::PerChannel { axis }, true) = (self.granularity, len > 1)
                && let Some(dim) = dims.get_mut(usize::from(axis))
            {
                *dim = len;
            }
            return dims;
        }
        let mut dims = vec![n];
        match (self.granularity, self.shape.split_last()) {
            (Granularity::PerGroup { .. }, Some((_, outer))) => {
                dims.extend_from_slice(outer);
                let rows: usize = dims.iter().product();
                dims.push(len / rows.max(1));
            }
            _ => dims.extend(std::iter::repeat_n(1, rank)),
        }
        dims
    }
}

/// Elements of an MX group.
const MX_GROUP: u32 = 32;

/// The parameters of quantized output, if the field can be delivered so.
pub(crate) fn scale_shape(field: &Field) -> Option<ScaleShape> {
    let shape = field.fixed_shape()?;
    let (granularity, non_finite) = match field.quantizer() {
        QuantParams::Cast { non_finite, .. } => (Granularity::PerSample, *non_finite),
        QuantParams::Affine(p) => (p.granularity, p.non_finite),
        QuantParams::Fp8(p) => (p.granularity, p.non_finite),
        QuantParams::Codebook(p) => (p.granularity, p.non_finite),
        QuantParams::Mx(p) => (Granularity::PerGroup { size: MX_GROUP }, p.non_finite),
        _ => return None,
    };
    (non_finite != NonFinite::Patch).then(|| ScaleShape {
        is_static: !field.scales().scales.is_empty(),
        granularity,
        shape,
    })
}

/// What `tensorshard.torch.dequantize` must know of a field.
pub(crate) fn quantization<'py>(py: Python<'py>, field: &Field) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    let mut group = None;
    let mut of_groups = |granularity: Granularity| {
        if let Granularity::PerGroup { size } = granularity {
            group = Some(size);
        }
    };
    let kind = match field.quantizer() {
        QuantParams::Affine(p) => {
            of_groups(p.granularity);
            dict.set_item("symmetric_zero_point", symmetric_zero_point(p))?;
            "affine"
        }
        QuantParams::Fp8(p) => {
            of_groups(p.granularity);
            "scaled"
        }
        QuantParams::Codebook(p) => {
            of_groups(p.granularity);
            dict.set_item("table", p.table.to_vec())?;
            "codebook"
        }
        QuantParams::Mx(p) => {
            of_groups(Granularity::PerGroup { size: MX_GROUP });
            match p.format {
                MxFormat::Int8 => "mxint8",
                MxFormat::Fp4 => {
                    dict.set_item("table", E2M1)?;
                    "codebook"
                }
                MxFormat::Fp8E4M3 | MxFormat::Fp8E5M2 => "scaled",
            }
        }
        _ => "cast",
    };
    dict.set_item("kind", kind)?;
    dict.set_item("group_size", group)?;
    dict.set_item("dtype", field.dtype().map(DType::name))?;
    Ok(dict)
}

/// The values of the 16 codes of OCP's E2M1.
const E2M1: [f32; 16] = [
    0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0,
];

/// The zero point that a symmetric quantizer does not store.
fn symmetric_zero_point(p: &tensorshard::AffineParams) -> i64 {
    if p.signed { 0 } else { 1 << (p.bits - 1) }
}

/// A field as a dict.
pub(crate) fn describe<'py>(py: Python<'py>, field: &Field) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    dict.set_item("name", field.name())?;
    let kind = match field.kind() {
        Kind::String => "string",
        Kind::Bytes => "bytes",
        _ => "tensor",
    };
    dict.set_item("kind", kind)?;
    dict.set_item("key", field.is_key())?;
    dict.set_item("dtype", field.dtype().map(DType::name))?;
    dict.set_item("shape", field.dims().map(<[_]>::to_vec))?;
    dict.set_item("quantizer", field.quantizer().to_string())?;
    let filters: Vec<String> = field.filters().iter().map(ToString::to_string).collect();
    dict.set_item("filters", filters)?;
    dict.set_item("split", field.split().map(|split| split.to_string()))?;
    let codecs: Vec<String> = field.codecs().iter().map(ToString::to_string).collect();
    dict.set_item("codec", codecs.join(","))?;
    dict.set_item("lossy", field.is_lossy())?;
    Ok(dict)
}

/// Characters of a wrong value that a message shows.
const MAX_SHOWN: usize = 80;

/// What a value of a dict is; `None` if it is not there or None.
///
/// # Errors
/// `InvalidArgument` if it is of another type.
pub(crate) fn entry<'py, T>(dict: &Bound<'py, PyDict>, name: &str) -> PyResult<Option<T>>
where
    T: for<'a> FromPyObject<'a, 'py>,
{
    match dict.get_item(name)? {
        Some(value) if !value.is_none() => match value.extract() {
            Ok(value) => Ok(Some(value)),
            Err(error) => {
                let error: PyErr = error.into();
                let reason = error.value(dict.py());
                let mut given = value.repr()?.to_string();
                if let Some((end, _)) = given.char_indices().nth(MAX_SHOWN) {
                    given.truncate(end);
                    given.push('…');
                }
                Err(invalid(format!("{name} cannot be {given}: {reason}")))
            }
        },
        _ => Ok(None),
    }
}

fn policy(text: &str) -> PyResult<NonFinite> {
    match text {
        "error" => Ok(NonFinite::Error),
        "saturate" => Ok(NonFinite::Saturate),
        "patch" => Ok(NonFinite::Patch),
        _ => Err(invalid(format!(
            "{text:?} is no policy for non-finite elements; they are error, saturate and patch"
        ))),
    }
}

/// The request that a dict makes.
pub(crate) fn spec(dict: &Bound<'_, PyDict>) -> PyResult<FieldSpec> {
    let name: String = entry(dict, "name")?.ok_or_else(|| invalid("a field without a name"))?;
    let kind: Option<String> = entry(dict, "kind")?;
    let dtype: Option<String> = entry(dict, "dtype")?;
    let dtype = dtype.map(|name| dtype::parse(&name)).transpose()?;
    let shape: Option<Vec<Option<usize>>> = entry(dict, "shape")?;
    let mut spec = match (kind.as_deref().unwrap_or("tensor"), dtype, shape) {
        ("key", _, _) => FieldSpec::key(name),
        ("string", _, _) => FieldSpec::string(name),
        ("bytes", _, _) => FieldSpec::bytes(name),
        ("tensor", Some(dtype), Some(dims)) => FieldSpec::ragged(name, dtype, dims),
        ("tensor", Some(dtype), None) => FieldSpec::any_shape(name, dtype),
        ("tensor", None, None) => FieldSpec::any(name),
        ("tensor", None, Some(_)) => {
            return Err(invalid(format!("field {name:?} has a shape, but no dtype")));
        }
        (kind, _, _) => {
            return Err(invalid(format!(
                "{kind:?} is no kind of a field; they are tensor, string, bytes and key"
            )));
        }
    };
    let non_finite: Option<String> = entry(dict, "non_finite")?;
    let non_finite = non_finite.map(|text| policy(&text)).transpose()?;
    if let Some(preset) = entry::<String>(dict, "preset")? {
        let preset = Preset::parse(&preset).map_err(raise)?;
        spec = preset.apply(spec, non_finite.unwrap_or_default());
    }
    if let Some(quantize) = entry::<String>(dict, "quantize")? {
        let mut quant = QuantSpec::parse(&quantize).map_err(raise)?;
        if let Some(policy) = non_finite {
            quant = quant.non_finite(policy);
        }
        spec = spec.quantize(quant);
    }
    if let Some(filters) = entry::<String>(dict, "filter")? {
        let filters: Vec<FilterSpec> = if filters == "none" {
            Vec::new()
        } else {
            filters
                .split(',')
                .map(|filter| FilterSpec::parse(filter.trim()))
                .collect::<Result<_, _>>()
                .map_err(raise)?
        };
        spec = spec.filter_specs(filters);
    }
    if let Some(split) = entry::<String>(dict, "split")? {
        spec = spec.split(match split.as_str() {
            "none" => None,
            name => Some(SplitId::parse(name).map_err(raise)?),
        });
    }
    if let Some(codecs) = entry::<String>(dict, "codec")? {
        let codecs: Vec<CodecSpec> = codecs
            .split(',')
            .map(|codec| CodecSpec::parse(codec.trim()))
            .collect::<Result<_, _>>()
            .map_err(raise)?;
        spec = spec.codecs(codecs);
    }
    Ok(spec)
}
