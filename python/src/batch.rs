//! Batches as dicts: for each field what its samples are as Python values, over the batch's own memory.

use std::fmt;

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList, PyString};
use tensorshard::{Batch, DType, Field, FieldBatch, Kind, Tensor as SampleTensor};

use crate::array::{Memory, Shared, Span, share};
use crate::dlpack::Tensor;
use crate::error::{invalid, raise};
use crate::field::ScaleShape;

/// How samples of different shapes become values of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RaggedAs {
    /// An array for each sample.
    List,
    /// One array and where samples start in it.
    Concatenated,
    /// One array of the largest shape, and a mask.
    Padded,
}

/// What a field becomes.
#[derive(Debug)]
enum Form {
    Fixed,
    Text,
    Bytes,
    List,
    Concatenated {
        offsets: Py<PyString>,
        shapes: Option<(Py<PyString>, usize)>,
    },
    Padded {
        mask: Py<PyString>,
    },
    Quantized {
        scale: Py<PyString>,
        zero_point: Py<PyString>,
        shape: ScaleShape,
    },
}

/// A field, and how it is delivered.
#[derive(Debug)]
struct FieldForm {
    key: Py<PyString>,
    form: Form,
}

/// Turns batches into dicts.
pub(crate) struct Delivery {
    fields: Vec<FieldForm>,
    /// Arrays are DLPack tensors, not NumPy's.
    dlpack: bool,
    sample_ids: Option<Py<PyString>>,
    /// Batches say which of their samples fill them up.
    mask: Option<Py<PyString>>,
    /// Of which parts of samples they are made.
    parts: Vec<(Py<PyString>, PartArray)>,
}

/// What a batch of parts of samples has beside its fields.
#[derive(Clone, Copy, Debug)]
pub(crate) enum PartArray {
    WindowStarts,
    SegmentIds,
    Positions,
}

impl PartArray {
    fn key(self) -> &'static str {
        match self {
            Self::WindowStarts => "window_starts",
            Self::SegmentIds => "segment_ids",
            Self::Positions => "positions",
        }
    }
}

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivery")
            .field("fields", &self.fields)
            .finish_non_exhaustive()
    }
}

fn key(py: Python<'_>, name: &str) -> Py<PyString> {
    PyString::intern(py, name).unbind()
}

/// The key of the samples' indices.
const SAMPLE_IDS: &str = "sample_ids";

impl Delivery {
    /// For these fields, of which those named in `quantized` come quantized.
    pub(crate) fn new<'f>(
        py: Python<'_>,
        fields: impl Iterator<Item = (&'f Field, RaggedAs, Option<ScaleShape>)>,
        dlpack: bool,
        sample_ids: bool,
    ) -> PyResult<Self> {
        let mut out = Vec::new();
        let mut keys: Vec<String> = sample_ids
            .then(|| SAMPLE_IDS.to_owned())
            .into_iter()
            .collect();
        for (field, ragged, quantized) in fields {
            let name = field.name();
            let beside = |what: &str| format!("{name}.{what}");
            keys.push(name.to_owned());
            let form = if let Some(shape) = quantized {
                keys.extend([beside("scale"), beside("zero_point")]);
                Form::Quantized {
                    scale: key(py, &beside("scale")),
                    zero_point: key(py, &beside("zero_point")),
                    shape,
                }
            } else if field.kind() == Kind::String {
                Form::Text
            } else if field.kind() == Kind::Bytes {
                Form::Bytes
            } else if !field.is_ragged() {
                Form::Fixed
            } else {
                match ragged {
                    RaggedAs::List => Form::List,
                    RaggedAs::Padded => {
                        keys.push(beside("mask"));
                        Form::Padded {
                            mask: key(py, &beside("mask")),
                        }
                    }
                    RaggedAs::Concatenated => {
                        let (Some(dims), Some(_)) = (field.dims(), field.dtype()) else {
                            return Err(invalid(format!(
                                "samples of field {name:?} have ranks or dtypes of their own: take them with ragged=\"list\""
                            )));
                        };
                        keys.push(beside("offsets"));
                        let rows = dims.iter().skip(1).all(Option::is_some);
                        let shapes = (!rows).then(|| {
                            keys.push(beside("shapes"));
                            (key(py, &beside("shapes")), dims.len())
                        });
                        Form::Concatenated {
                            offsets: key(py, &beside("offsets")),
                            shapes,
                        }
                    }
                }
            };
            out.push(FieldForm {
                key: key(py, name),
                form,
            });
        }
        keys.sort_unstable();
        if let Some(pair) = keys.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(invalid(format!(
                "batches would have two entries {:?}: leave the field out, or take it in another form",
                pair[0]
            )));
        }
        Ok(Self {
            fields: out,
            dlpack,
            sample_ids: sample_ids.then(|| key(py, SAMPLE_IDS)),
            mask: None,
            parts: Vec::new(),
        })
    }

    /// Batches come with a mask: false where a sample is repeated to fill the batch.
    pub(crate) fn with_mask(mut self, py: Python<'_>) -> PyResult<Self> {
        let mask = key(py, "mask");
        for field in &self.fields {
            if field.key.bind(py).to_string_lossy() == "mask" {
                return Err(invalid(
                    "batches would have two entries \"mask\": leave the field out, or choose another tail than pad",
                ));
            }
        }
        self.mask = Some(mask);
        Ok(self)
    }

    /// Batches come with these arrays.
    pub(crate) fn with_parts(mut self, py: Python<'_>, parts: &[PartArray]) -> PyResult<Self> {
        for part in parts {
            let taken = |field: &&FieldForm| field.key.bind(py).to_string_lossy() == part.key();
            if self.fields.iter().find(taken).is_some() {
                return Err(invalid(format!(
                    "batches would have two entries {:?}: leave the field out",
                    part.key()
                )));
            }
            self.parts.push((key(py, part.key()), *part));
        }
        Ok(self)
    }

    /// The names of the fields that come quantized.
    pub(crate) fn quantized(&self, py: Python<'_>) -> Vec<String> {
        self.fields
            .iter()
            .filter(|field| matches!(field.form, Form::Quantized { .. }))
            .map(|field| field.key.bind(py).to_string_lossy().into_owned())
            .collect()
    }

    fn array<'py>(&self, py: Python<'py>, span: Span) -> PyResult<Bound<'py, PyAny>> {
        if self.dlpack {
            Ok(Bound::new(py, Tensor::new(span))?.into_any())
        } else {
            span.numpy(py)
        }
    }

    /// An array of i64.
    fn indices<'py>(
        &self,
        py: Python<'py>,
        values: &[i64],
        shape: Vec<usize>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let span = Span::copied(bytemuck::cast_slice(values), DType::I64, shape)?;
        self.array(py, span)
    }

    /// The dict of a batch, whose memory goes with it.
    pub(crate) fn dict<'py>(&self, py: Python<'py>, batch: Batch) -> PyResult<Bound<'py, PyDict>> {
        let dict = PyDict::new(py);
        if let Some(name) = &self.sample_ids {
            let ids: &[i64] = bytemuck::cast_slice(batch.sample_ids());
            dict.set_item(name, self.indices(py, ids, vec![ids.len()])?)?;
        }
        if let Some(name) = &self.mask {
            let mask: Vec<u8> = batch.mask().into_iter().map(u8::from).collect();
            let span = Span::copied(&mask, DType::Bool, vec![mask.len()])?;
            dict.set_item(name, self.array(py, span)?)?;
        }
        let rows = batch.len();
        let length = batch
            .fields()
            .first()
            .and_then(|field| field.shape().get(1));
        let length = length.copied().unwrap_or(0);
        for (name, part) in &self.parts {
            let of_tokens = |values: Option<Vec<i32>>| {
                let values = values.unwrap_or_default();
                let bytes = bytemuck::cast_slice(&values);
                self.array(py, Span::copied(bytes, DType::I32, vec![rows, length])?)
            };
            let array = match part {
                PartArray::WindowStarts => {
                    let starts = batch.window_starts().unwrap_or_default();
                    self.indices(py, bytemuck::cast_slice(starts), vec![starts.len()])?
                }
                PartArray::SegmentIds => of_tokens(batch.segment_ids())?,
                PartArray::Positions => of_tokens(batch.positions())?,
            };
            dict.set_item(name, array)?;
        }
        // A view of one field keeps that field alone.
        for (form, field) in self.fields.iter().zip(batch.fields()) {
            self.add(&dict, form, field.clone())?;
        }
        Ok(dict)
    }

    fn add(&self, dict: &Bound<'_, PyDict>, form: &FieldForm, field: FieldBatch) -> PyResult<()> {
        let py = dict.py();
        let (dtype, shape, n) = (field.dtype(), field.shape().to_vec(), field.num_samples());
        match &form.form {
            Form::Text => {
                let texts: Vec<&str> = (0..n)
                    .map(|i| field.text(i))
                    .collect::<Result<_, _>>()
                    .map_err(raise)?;
                return dict.set_item(&form.key, texts);
            }
            Form::Bytes => {
                let list = PyList::empty(py);
                for i in 0..n {
                    list.append(PyBytes::new(py, field.sample(i).map_err(raise)?.data()))?;
                }
                return dict.set_item(&form.key, list);
            }
            _ => {}
        }
        let memory = share(Memory::Field(field));
        let Some(Memory::Field(field)) = memory.get_anywhere() else {
            return Err(invalid("no memory"));
        };
        // A field that is cut in windows is ragged in the dataset, but not here.
        let ragged = field.offsets().is_some() || field.mask().is_some();
        if matches!(form.form, Form::List) && ragged {
            let list = PyList::empty(py);
            for i in 0..n {
                list.append(self.array(py, sample(&memory, field, i)?)?)?;
            }
            return dict.set_item(&form.key, list);
        }
        let span = Span::new(&memory, Memory::values, dtype, shape)?;
        dict.set_item(&form.key, self.array(py, span)?)?;
        match &form.form {
            Form::Concatenated { .. } | Form::Padded { .. } if !ragged => {}
            Form::Concatenated { offsets, shapes } => {
                let starts = field.offsets().unwrap_or_default();
                dict.set_item(offsets, self.indices(py, starts, vec![starts.len()])?)?;
                if let Some((shapes, rank)) = shapes {
                    let dims: Vec<i64> = (0..n)
                        .flat_map(|i| field.sample_shape(i).unwrap_or_default())
                        .map(|&dim| i64::try_from(dim).unwrap_or(i64::MAX))
                        .collect();
                    dict.set_item(shapes, self.indices(py, &dims, vec![n, *rank])?)?;
                }
            }
            Form::Padded { mask } => {
                let (shape, bytes) = field.mask().unwrap_or((&[], &[]));
                let span = Span::copied(bytes, DType::Bool, shape.to_vec())?;
                dict.set_item(mask, self.array(py, span)?)?;
            }
            Form::Quantized {
                scale,
                zero_point,
                shape,
            } => {
                if let Some(scales) = field.scales() {
                    let dims = shape.of(n, scales.len());
                    let span =
                        Span::copied(bytemuck::cast_slice(scales), DType::F32, dims.clone())?;
                    dict.set_item(scale, self.array(py, span)?)?;
                    if let Some(zero_points) = field.zero_points() {
                        let bytes = bytemuck::cast_slice(zero_points);
                        let span = Span::copied(bytes, DType::I32, dims)?;
                        dict.set_item(zero_point, self.array(py, span)?)?;
                    }
                }
            }
            Form::Fixed | Form::List | Form::Text | Form::Bytes => {}
        }
        Ok(())
    }

    /// The dict of one sample. What another sample has as well is copied.
    pub(crate) fn sample<'py>(
        &self,
        py: Python<'py>,
        id: u64,
        tensors: &[&SampleTensor],
        copy: bool,
    ) -> PyResult<Bound<'py, PyDict>> {
        let dict = PyDict::new(py);
        if let Some(name) = &self.sample_ids {
            dict.set_item(name, id)?;
        }
        for (form, tensor) in self.fields.iter().zip(tensors) {
            match form.form {
                Form::Text => {
                    let text =
                        std::str::from_utf8(tensor.data()).map_err(|e| invalid(e.to_string()))?;
                    dict.set_item(&form.key, text)?;
                }
                Form::Bytes => dict.set_item(&form.key, PyBytes::new(py, tensor.data()))?,
                _ => {
                    let (dtype, shape) = (tensor.dtype(), tensor.shape().to_vec());
                    let span = if copy {
                        Span::copied(tensor.data(), dtype, shape)?
                    } else {
                        let memory = share(Memory::Bytes(tensor.data().clone()));
                        Span::new(&memory, Memory::values, dtype, shape)?
                    };
                    dict.set_item(&form.key, self.array(py, span)?)?;
                }
            }
        }
        Ok(dict)
    }
}

/// One sample of a field.
fn sample(memory: &Shared, field: &FieldBatch, i: usize) -> PyResult<Span> {
    let view = field.sample(i).map_err(raise)?;
    let (dtype, shape) = (view.dtype(), view.shape().to_vec());
    Span::new(
        memory,
        |memory| match memory {
            Memory::Field(field) => field.sample(i).ok().map(|view| view.data()),
            Memory::Bytes(_) => None,
        },
        dtype,
        shape,
    )
}
