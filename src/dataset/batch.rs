//! Batches: many samples in one buffer for each field, reference counted, ready to be handed over without a copy.

mod parts;
mod retain;
mod values;

use std::sync::Arc;

use bytes::Bytes;

use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::format::schema::Kind;
use crate::kernel::slots::SlotLayout;
use crate::pool::{BufferPool, PooledBuffer};
use crate::shard::Form;
use crate::shard::decode::{out_dtype, sample_out_bytes};
use crate::tensor::{Element, TensorView};

use super::{Dataset, FieldOutput, Ragged, elements};
pub use parts::Segment;
pub(crate) use parts::{BatchParts, PackedSegments};
use values::Values;

/// Consecutive samples of an epoch, delivered together.
#[derive(Clone, Debug)]
pub struct Batch {
    pub(crate) epoch: u64,
    pub(crate) index: u64,
    pub(crate) num_padded: usize,
    pub(crate) sample_ids: Vec<u64>,
    pub(crate) parts: BatchParts,
    pub(crate) fields: Vec<FieldBatch>,
}

impl Batch {
    /// The epoch.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The batch's place in the epoch, from 0.
    pub fn index(&self) -> u64 {
        self.index
    }

    /// The number of samples.
    pub fn len(&self) -> usize {
        self.sample_ids.len()
    }

    /// True if there are no samples: only of ranks that have no part of the last, short batch.
    pub fn is_empty(&self) -> bool {
        self.sample_ids.is_empty()
    }

    /// The indices of the samples in the dataset, in batch order.
    pub fn sample_ids(&self) -> &[u64] {
        &self.sample_ids
    }

    /// The number of samples at the end that repeat others, with [`crate::Tail::Pad`]. A loss leaves them out.
    pub fn num_padded(&self) -> usize {
        self.num_padded
    }

    /// For each sample, true if it counts and false if it repeats another one to fill the batch.
    pub fn mask(&self) -> Vec<bool> {
        let real = self.len() - self.num_padded.min(self.len());
        (0..self.len()).map(|i| i < real).collect()
    }

    /// The fields, in the order they were asked for.
    pub fn fields(&self) -> &[FieldBatch] {
        &self.fields
    }

    /// The values of one field, to be changed in place: see [`FieldBatch::as_mut_slice`].
    ///
    /// # Errors
    /// As [`Batch::field`].
    pub fn field_mut(&mut self, name: &str) -> Result<&mut FieldBatch> {
        match self.fields.iter().position(|field| field.name() == name) {
            Some(at) => Ok(&mut self.fields[at]),
            None => Err(self.no_field(name)),
        }
    }

    /// The values of one field.
    ///
    /// # Errors
    /// `InvalidArgument` that lists the fields there are.
    pub fn field(&self, name: &str) -> Result<&FieldBatch> {
        self.fields
            .iter()
            .find(|field| field.name() == name)
            .ok_or_else(|| self.no_field(name))
    }

    fn no_field(&self, name: &str) -> Error {
        let names: Vec<&str> = self.fields.iter().map(FieldBatch::name).collect();
        Error::invalid(format!(
            "the batch has no field {name:?}; its fields are {}",
            names.join(", ")
        ))
    }

    /// Bytes of all values, masks of padded fields left out.
    pub fn num_bytes(&self) -> usize {
        self.fields
            .iter()
            .map(|field| field.data.as_slice().len())
            .sum()
    }
}

/// The values of one field for the samples of a batch.
///
/// Fixed fields have shape `[samples, ..]`. Ragged fields are concatenated (shape `[sum of first dims, ..]` where only
/// the first dim varies, else `[elements]`) with [`FieldBatch::offsets`], or padded (`[samples, largest dims ..]`) with
/// [`FieldBatch::mask`].
#[derive(Clone, Debug)]
pub struct FieldBatch {
    name: Arc<str>,
    kind: Kind,
    dtype: DType,
    num_samples: usize,
    shape: Vec<usize>,
    data: Values,
    ragged: Option<Arc<RaggedParts>>,
    scales: Option<Bytes>,
    zero_points: Option<Bytes>,
}

/// What a ragged field has besides values.
#[derive(Debug, Default)]
pub(crate) struct RaggedParts {
    /// Dims of the samples, one after the other.
    dims: Vec<usize>,
    /// Where each sample's dims end.
    ends: Vec<usize>,
    /// The samples' own dtypes, if the field leaves them open.
    dtypes: Vec<DType>,
    /// Where samples start, in first-axis entries of `shape`; one more than samples. Concatenated only.
    offsets: Vec<i64>,
    /// Where samples start in bytes; one more than samples. Concatenated only.
    byte_offsets: Vec<usize>,
    /// The shape samples are padded to.
    padded: Option<Vec<usize>>,
    /// Which dims vary.
    variable: Vec<usize>,
    /// Padded only.
    mask: Option<PooledBuffer>,
    mask_shape: Vec<usize>,
}

impl RaggedParts {
    /// Which cells of the padded dims are values; empty if there are none.
    pub(crate) fn mask(&self) -> &[u8] {
        self.mask.as_ref().map_or(&[], AsRef::as_ref)
    }

    fn shape(&self, sample: usize) -> &[usize] {
        let start = if sample == 0 {
            0
        } else {
            self.ends[sample - 1]
        };
        &self.dims[start..self.ends[sample]]
    }

    pub(crate) fn padded(&self) -> Option<&[usize]> {
        self.padded.as_deref()
    }
}

impl FieldBatch {
    /// The field's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What the values are.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The dtype of the values. If every sample has its own, u8: the values are bytes, see [`FieldBatch::sample`].
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The number of samples.
    pub fn num_samples(&self) -> usize {
        self.num_samples
    }

    /// The shape of the whole array; see the type's documentation.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The bytes of the whole array: row-major, little-endian, 64-byte aligned. Keeping them keeps the buffer.
    pub fn data(&self) -> &Bytes {
        self.data.bytes()
    }

    /// The whole array, as a slice of its elements.
    ///
    /// # Errors
    /// `InvalidArgument` if the dtype is not `T`'s.
    pub fn as_slice<T: Element>(&self) -> Result<&[T]> {
        if self.dtype != T::DTYPE {
            let message = format!("the values are {}, not {}", self.dtype, T::DTYPE);
            return Err(Error::invalid(message).in_field(self.name()));
        }
        cast(self.data.as_slice())
    }

    /// The whole array, to be changed: in place, unless somebody else has it too (a clone of the batch, or of
    /// [`FieldBatch::data`]), who then keeps what was there.
    ///
    /// # Errors
    /// `InvalidArgument` if the dtype is not `T`'s.
    pub fn as_mut_slice<T: Element>(&mut self) -> Result<&mut [T]> {
        if self.dtype != T::DTYPE {
            let message = format!("the values are {}, not {}", self.dtype, T::DTYPE);
            return Err(Error::invalid(message).in_field(self.name()));
        }
        cast_mut(self.data.as_mut_slice())
    }

    /// One sample. Padded samples come with their padding.
    ///
    /// # Errors
    /// `InvalidArgument` if there is no such sample.
    pub fn sample(&self, i: usize) -> Result<TensorView<'_>> {
        if i >= self.num_samples {
            let message = format!("sample {i} of a batch of {}", self.num_samples);
            return Err(Error::invalid(message).in_field(self.name()));
        }
        match &self.ragged {
            Some(parts) if parts.padded.is_none() => {
                let dtype = parts.dtypes.get(i).copied().unwrap_or(self.dtype);
                TensorView::new(
                    dtype,
                    parts.shape(i),
                    &self.data.as_slice()[parts.byte_offsets[i]..parts.byte_offsets[i + 1]],
                )
            }
            _ => {
                let bytes = self.data.as_slice().len() / self.num_samples;
                TensorView::new(
                    self.dtype,
                    &self.shape[1..],
                    &self.data.as_slice()[i * bytes..(i + 1) * bytes],
                )
            }
        }
    }

    /// The shape of one sample, without padding; `None` if there is no such sample.
    pub fn sample_shape(&self, i: usize) -> Option<&[usize]> {
        if i >= self.num_samples {
            return None;
        }
        Some(
            self.ragged
                .as_ref()
                .map_or(&self.shape[1..], |parts| parts.shape(i)),
        )
    }

    /// The text of one sample of a string field.
    ///
    /// # Errors
    /// `InvalidArgument` if there is no such sample or this is no string field; `Corrupt` if it is not UTF-8.
    pub fn text(&self, i: usize) -> Result<&str> {
        if self.kind != Kind::String {
            return Err(Error::invalid("this is not a string field").in_field(self.name()));
        }
        let bytes = self.sample(i)?.data();
        std::str::from_utf8(bytes)
            .map_err(|e| Error::corrupt("text", "UTF-8", e).in_field(self.name()))
    }

    /// Concatenated fields: where samples start along the first axis of the array, and where the last one ends.
    pub fn offsets(&self) -> Option<&[i64]> {
        self.ragged
            .as_ref()
            .filter(|parts| parts.padded.is_none())
            .map(|parts| parts.offsets.as_slice())
    }

    /// Padded fields: one byte (1 = value, 0 = padding) for each index of the variable dims, and its shape
    /// `[samples, variable dims ..]`.
    pub fn mask(&self) -> Option<(&[usize], &[u8])> {
        let parts = self
            .ragged
            .as_ref()
            .filter(|parts| parts.padded.is_some())?;
        Some((&parts.mask_shape, parts.mask()))
    }

    /// Quantized output: the scales, sample after sample, or the static ones of the field.
    pub fn scales(&self) -> Option<&[f32]> {
        cast(self.scales.as_ref()?).ok()
    }

    /// Quantized output of an asymmetric quantizer: one zero point for each scale.
    pub fn zero_points(&self) -> Option<&[i32]> {
        cast(self.zero_points.as_ref()?).ok()
    }

    /// The whole array as an `ndarray` view.
    ///
    /// # Errors
    /// `InvalidArgument` if the dtype is not `T`'s.
    #[cfg(feature = "ndarray")]
    pub fn array<T: Element>(&self) -> Result<ndarray::ArrayViewD<'_, T>> {
        let values = self.as_slice::<T>()?;
        ndarray::ArrayViewD::from_shape(self.shape.as_slice(), values)
            .map_err(|e| Error::invalid(format!("no ndarray view: {e}")).in_field(self.name()))
    }
}

fn cast<T: Element>(bytes: &[u8]) -> Result<&[T]> {
    if cfg!(target_endian = "big") {
        return Err(Error::unsupported(
            "typed view on a big-endian host",
            "read the little-endian bytes",
        ));
    }
    bytemuck::try_cast_slice(bytes).map_err(|e| Error::invalid(format!("no typed view: {e}")))
}

fn cast_mut<T: Element>(bytes: &mut [u8]) -> Result<&mut [T]> {
    if cfg!(target_endian = "big") {
        return Err(Error::unsupported(
            "typed view on a big-endian host",
            "change the little-endian bytes of a copy",
        ));
    }
    bytemuck::try_cast_slice_mut(bytes).map_err(|e| Error::invalid(format!("no typed view: {e}")))
}

/// The shape of one slot of a ragged field.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Extent<'a> {
    pub(crate) shape: &'a [usize],
    pub(crate) own: Option<DType>,
}

/// How a field lies in batches.
#[derive(Clone, Debug)]
pub(crate) struct FieldLayout {
    pub(crate) ordinal: usize,
    pub(crate) form: Form,
    ragged: Ragged,
    /// Padded dims are multiples of it.
    multiple: usize,
    name: Arc<str>,
    kind: Kind,
    dtype: DType,
    dims: Vec<Option<usize>>,
    /// Shape and bytes of a sample, for fixed fields.
    fixed: Option<(Vec<usize>, usize)>,
    /// Bytes of a step, where parts of samples are delivered.
    step: Option<usize>,
    /// A separator and a padding token, where samples are packed.
    fills: [Vec<u8>; 2],
    /// Quantized output: dynamic scales of a sample, and whether they have zero points.
    scales: Option<(usize, bool)>,
    static_scales: Option<(Bytes, Option<Bytes>)>,
}

impl FieldLayout {
    pub(crate) fn new(dataset: &Dataset, ordinal: usize, output: &FieldOutput) -> Result<Self> {
        let field = &dataset.schema().fields()[ordinal];
        let (form, ragged) = output.resolve(field)?;
        let fixed = field.fixed_shape().map(|shape| {
            let bytes = sample_out_bytes(field, &form, &shape, None).unwrap_or(usize::MAX);
            (shape, bytes)
        });
        let mut scales = None;
        let mut static_scales = None;
        if let (Form::Codes, Some((shape, _))) = (&form, &fixed) {
            if field.has_static_scales() {
                let table = field.scales();
                let bytes = Bytes::from_owner(AlignedBytes::from_words(
                    table.scales.iter().map(|x| x.to_le_bytes()),
                ));
                let zero_points = (!table.zero_points.is_empty()).then(|| {
                    Bytes::from_owner(AlignedBytes::from_words(
                        table.zero_points.iter().map(|x| x.to_le_bytes()),
                    ))
                });
                static_scales = Some((bytes, zero_points));
            } else if field.has_scales_stream() {
                let n = field.quantizer().scales_per_sample(shape);
                scales = Some((n, field.quantizer().has_zero_points()));
            }
        }
        Ok(Self {
            ordinal,
            dtype: out_dtype(field, &form, None),
            form,
            ragged,
            multiple: output.multiple(),
            name: field.name().into(),
            kind: field.kind(),
            dims: field.dims().unwrap_or_default().to_vec(),
            fixed,
            step: None,
            fills: Default::default(),
            scales,
            static_scales,
        })
    }

    pub(crate) fn is_ragged(&self) -> bool {
        self.fixed.is_none()
    }

    /// True if samples of both lie in batches in the same way, and mean the same.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        let codes = |layout: &Self| layout.scales.is_some() || layout.static_scales.is_some();
        self.name == other.name
            && self.kind == other.kind
            && self.dtype == other.dtype
            && self.dims == other.dims
            && self.fixed == other.fixed
            && self.ragged == other.ragged
            && !codes(self)
            && !codes(other)
    }

    /// In a few words.
    pub(crate) fn describe(&self) -> String {
        let dims = self.dims.iter().map(|dim| match dim {
            Some(dim) => dim.to_string(),
            None => "?".to_owned(),
        });
        let dims: Vec<String> = dims.collect();
        let scales = if self.scales.is_some() || self.static_scales.is_some() {
            " with scales"
        } else {
            ""
        };
        format!("{} {} [{}]{scales}", self.name, self.dtype, dims.join(", "))
    }

    /// Bytes that a sample takes in a batch; `None` for ragged fields.
    pub(crate) fn sample_bytes(&self) -> Option<u64> {
        let (_, values) = self.fixed.as_ref()?;
        let scales = self
            .scales
            .map_or(0, |(n, zero_points)| n * if zero_points { 8 } else { 4 });
        Some(*values as u64 + scales as u64)
    }

    /// About how many bytes a sample of this length takes in a batch, where the shape varies.
    pub(crate) fn bytes_of_length(&self, length: u64) -> u64 {
        let fixed = self.dims.iter().flatten();
        fixed.fold(
            length.saturating_mul(self.dtype.size() as u64),
            |n, &dim| n.saturating_mul(dim as u64),
        )
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The number of arrays (values, scales, zero points) of this field in a batch.
    pub(crate) fn num_arrays(&self) -> usize {
        match self.scales {
            None => 1,
            Some((_, false)) => 2,
            Some((_, true)) => 3,
        }
    }

    /// Adds the buffers of this field for a batch of `num_samples`; `extents` are the samples of a ragged field.
    pub(crate) fn allocate<'e>(
        &self,
        dataset: &Dataset,
        pool: &BufferPool,
        num_samples: usize,
        extents: impl Iterator<Item = Extent<'e>>,
        arrays: &mut Vec<(PooledBuffer, SlotLayout)>,
    ) -> Result<Option<Arc<RaggedParts>>> {
        let Some((_, bytes)) = &self.fixed else {
            let mut parts = self.measure(dataset, extents)?;
            let layout = match &parts.padded {
                Some(padded) => {
                    SlotLayout::Fixed(elements(padded).saturating_mul(self.dtype.size()))
                }
                None => SlotLayout::Offsets(parts.byte_offsets.clone()),
            };
            let total = match &layout {
                SlotLayout::Fixed(bytes) => bytes.checked_mul(num_samples),
                SlotLayout::Offsets(offsets) => offsets.last().copied(),
            };
            let total = total.ok_or_else(too_large)?;
            // How long samples are is known only now.
            if let Some(budget) = pool.budget()
                && total as u64 > budget
            {
                let message = format!(
                    "a batch of ragged samples takes {total} bytes, and memory_budget is {budget}: take smaller batches, \
                     or a larger budget"
                );
                let name = dataset.schema().fields()[self.ordinal].name();
                return Err(Error::invalid(message).in_field(name));
            }
            parts.fill_mask(pool)?;
            arrays.push((pool.take(total)?, layout));
            return Ok(Some(Arc::new(parts)));
        };
        let mut push = |slot: usize| -> Result<()> {
            let total = slot.checked_mul(num_samples).ok_or_else(too_large)?;
            arrays.push((pool.take(total)?, SlotLayout::Fixed(slot)));
            Ok(())
        };
        push(*bytes)?;
        if let Some((n, zero_points)) = self.scales {
            push(4 * n)?;
            if zero_points {
                push(4 * n)?;
            }
        }
        Ok(None)
    }

    fn measure<'e>(
        &self,
        dataset: &Dataset,
        extents: impl Iterator<Item = Extent<'e>>,
    ) -> Result<RaggedParts> {
        let field = &dataset.schema().fields()[self.ordinal];
        let mut parts = RaggedParts {
            variable: (0..self.dims.len())
                .filter(|&i| self.dims[i].is_none())
                .collect(),
            ..RaggedParts::default()
        };
        let rows = parts.variable == [0] && field.dims().is_some() && field.dtype().is_some();
        let mut bytes = 0usize;
        let mut entries = 0i64;
        parts.byte_offsets.push(0);
        parts.offsets.push(0);
        for extent in extents {
            parts.dims.extend_from_slice(extent.shape);
            parts.ends.push(parts.dims.len());
            parts.dtypes.extend(extent.own);
            let sample = sample_out_bytes(field, &self.form, extent.shape, extent.own)
                .ok_or_else(too_large)?;
            bytes = bytes.checked_add(sample).ok_or_else(too_large)?;
            parts.byte_offsets.push(bytes);
            let step = if rows {
                extent.shape[0]
            } else {
                sample / self.dtype.size()
            };
            entries = entries.saturating_add(i64::try_from(step).unwrap_or(i64::MAX));
            parts.offsets.push(entries);
        }
        if self.ragged == Ragged::Padded {
            parts.pad(&self.dims, self.multiple)?;
        }
        Ok(parts)
    }

    /// The finished field of a batch from its buffers, which are taken from the front of `buffers`.
    pub(crate) fn finish(
        &self,
        num_samples: usize,
        ragged: Option<Arc<RaggedParts>>,
        buffers: &mut impl Iterator<Item = PooledBuffer>,
    ) -> Option<FieldBatch> {
        let data = Values::new(buffers.next()?);
        let (mut scales, mut zero_points) = (None, None);
        if let Some((_, has_zero_points)) = self.scales {
            scales = Some(Bytes::from_owner(buffers.next()?));
            if has_zero_points {
                zero_points = Some(Bytes::from_owner(buffers.next()?));
            }
        } else if let Some(table) = &self.static_scales {
            (scales, zero_points) = (Some(table.0.clone()), table.1.clone());
        }
        let shape = match (&self.fixed, &ragged) {
            (Some((shape, _)), _) => std::iter::once(num_samples)
                .chain(shape.iter().copied())
                .collect(),
            (None, Some(parts)) => match &parts.padded {
                Some(padded) => std::iter::once(num_samples)
                    .chain(padded.iter().copied())
                    .collect(),
                None if parts.variable == [0] && parts.dtypes.is_empty() => {
                    let rows =
                        usize::try_from(parts.offsets.last().copied().unwrap_or(0)).unwrap_or(0);
                    std::iter::once(rows)
                        .chain(self.dims.iter().skip(1).map(|dim| dim.unwrap_or(0)))
                        .collect()
                }
                None => vec![data.as_slice().len() / self.dtype.size()],
            },
            (None, None) => return None,
        };
        let (name, kind, dtype) = (Arc::clone(&self.name), self.kind, self.dtype);
        Some(FieldBatch {
            name,
            kind,
            dtype,
            num_samples,
            shape,
            data,
            ragged,
            scales,
            zero_points,
        })
    }
}

impl RaggedParts {
    fn pad(&mut self, dims: &[Option<usize>], multiple: usize) -> Result<()> {
        let num_samples = self.ends.len();
        let largest = |dim: usize| {
            (0..num_samples)
                .map(|i| self.shape(i)[dim])
                .max()
                .unwrap_or(0)
        };
        let padded: Option<Vec<usize>> = (0..dims.len())
            .map(|dim| dims[dim].or_else(|| largest(dim).checked_next_multiple_of(multiple)))
            .collect();
        self.padded = Some(padded.ok_or_else(too_large)?);
        Ok(())
    }

    /// Which cells of the padded dims are values.
    fn fill_mask(&mut self, pool: &BufferPool) -> Result<()> {
        let Some(padded) = &self.padded else {
            return Ok(());
        };
        let num_samples = self.ends.len();
        let inner: Vec<usize> = self.variable.iter().map(|&dim| padded[dim]).collect();
        let cells = elements(&inner);
        let len = cells.checked_mul(num_samples).ok_or_else(too_large)?;
        let mut mask = pool.take_own(len)?;
        for (i, cells) in mask.as_mut().chunks_exact_mut(cells.max(1)).enumerate() {
            let shape: Vec<usize> = self
                .variable
                .iter()
                .map(|&dim| self.shape(i)[dim])
                .collect();
            for (cell, value) in cells.iter_mut().enumerate() {
                let mut rest = cell;
                let inside = inner.iter().zip(&shape).rev().all(|(&size, &len)| {
                    let index = rest % size;
                    rest /= size;
                    index < len
                });
                *value = u8::from(inside);
            }
        }
        self.mask = Some(mask);
        self.mask_shape = std::iter::once(num_samples).chain(inner).collect();
        Ok(())
    }
}

fn too_large() -> Error {
    Error::invalid("a batch has more bytes than there are addresses: take smaller batches")
}

/// Bytes aligned for f32 and i32.
struct AlignedBytes(Vec<u32>);

impl AlignedBytes {
    fn from_words(words: impl Iterator<Item = [u8; 4]>) -> Self {
        Self(words.map(|word| u32::from_le_bytes(word).to_le()).collect())
    }
}

impl AsRef<[u8]> for AlignedBytes {
    fn as_ref(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }
}
