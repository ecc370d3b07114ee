//! The samples that encodings are measured on, as chunks.

use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::shard::{ChunkBlock, FieldBlock};
use crate::tensor::{TensorView, num_elements};

use super::FieldSpec;

/// Raw bytes of a chunk, as writers have them by default.
const CHUNK_BYTES: usize = 1 << 20;
/// Bytes of a sample above which only slabs of it are looked at.
const SLAB_BYTES: usize = 1 << 20;
/// Slabs of a large sample, spread along its first axis.
const SLABS: usize = 4;
/// Most bytes to look at, however many blocks are given.
const MAX_BYTES: usize = 16 << 20;

/// The samples, copied together.
pub(super) struct Sample {
    pub(super) dtype: DType,
    /// Shape of a sample, unless shapes vary.
    pub(super) fixed: Option<Vec<usize>>,
    pub(super) samples_per_chunk: u32,
    /// One chunk after the other.
    pub(super) chunks: Vec<ChunkBlock>,
}

impl Sample {
    pub(super) fn new(field: &FieldSpec, blocks: &[TensorView<'_>]) -> Result<Self> {
        let Some(dtype) = field.dtype() else {
            return Err(Error::invalid(
                "a field whose samples have dtypes of their own cannot be planned; name its encoding",
            ));
        };
        let fixed: Option<Vec<usize>> =
            field.dims().and_then(|dims| dims.iter().copied().collect());
        // Data, and the shape if shapes vary.
        let mut items: Vec<(Vec<usize>, &[u8])> = Vec::new();
        let mut slab: Option<Vec<usize>> = None;
        for block in blocks {
            if block.dtype() != dtype {
                return Err(Error::invalid(format!(
                    "a block of {} was given for {} field",
                    block.dtype(),
                    dtype.with_article()
                )));
            }
            let Some(shape) = &fixed else {
                if field.dims().is_some_and(|dims| !fits(dims, block.shape())) {
                    return Err(Error::invalid(format!(
                        "a sample of shape {:?} does not fit the field",
                        block.shape()
                    )));
                }
                items.push((block.shape().to_vec(), block.data()));
                continue;
            };
            if block.shape().split_first().map(|(_, rest)| rest) != Some(shape.as_slice()) {
                return Err(Error::invalid(format!(
                    "a block of samples of shape {shape:?} has the shape [samples, ..], not {:?}",
                    block.shape()
                )));
            }
            let sample_bytes = num_elements(shape)
                .unwrap_or(usize::MAX)
                .saturating_mul(dtype.size());
            if sample_bytes == 0 {
                continue;
            }
            if sample_bytes <= SLAB_BYTES {
                items.extend(
                    block
                        .data()
                        .chunks_exact(sample_bytes)
                        .map(|s| (Vec::new(), s)),
                );
                continue;
            }
            let (part, bytes) = slab_of(shape, dtype.size());
            for sample in block.data().chunks_exact(sample_bytes) {
                let whole = sample_bytes / bytes;
                let count = whole.min(SLABS);
                for i in 0..count {
                    // Whole slabs from the start, so that they are contiguous parts of the sample.
                    let at = (whole - 1) * i / (count - 1).max(1) * bytes;
                    items.push((Vec::new(), &sample[at..at + bytes]));
                }
            }
            slab = Some(part);
        }
        Self::gather(dtype, slab.or(fixed), &items)
    }

    fn gather(
        dtype: DType,
        fixed: Option<Vec<usize>>,
        items: &[(Vec<usize>, &[u8])],
    ) -> Result<Self> {
        let mut total = 0usize;
        let count = items
            .iter()
            .take_while(|(_, data)| {
                let fits = total < MAX_BYTES;
                total = total.saturating_add(data.len());
                fits
            })
            .count();
        let items = &items[..count];
        let total: usize = items.iter().map(|(_, data)| data.len()).sum();
        if total == 0 {
            return Err(Error::invalid(
                "there are no values to measure encodings on; name the encoding",
            ));
        }
        let num_chunks = total.div_ceil(CHUNK_BYTES).min(count);
        let per_chunk = count.div_ceil(num_chunks);
        let mut chunks = Vec::new();
        let mut first_sample = 0u64;
        for items in items.chunks(per_chunk) {
            let mut values = FieldBlock::default();
            for (shape, data) in items {
                if fixed.is_none() {
                    values.shapes.push(shape, None)?;
                }
                values.data.extend_from_slice(data);
            }
            chunks.push(ChunkBlock {
                num_samples: u32::try_from(items.len()).unwrap_or(u32::MAX),
                first_sample,
                fields: vec![values],
            });
            first_sample += items.len() as u64;
        }
        Ok(Self {
            dtype,
            fixed,
            samples_per_chunk: u32::try_from(per_chunk).unwrap_or(u32::MAX),
            chunks,
        })
    }

    pub(super) fn raw_bytes(&self) -> u64 {
        self.chunks.iter().map(ChunkBlock::raw_bytes).sum()
    }

    /// The source bytes of a chunk.
    pub(super) fn data(&self, chunk: usize) -> &[u8] {
        self.chunks
            .get(chunk)
            .and_then(|chunk| chunk.fields.first())
            .map_or(&[], |field| &field.data)
    }
}

fn fits(dims: &[Option<usize>], shape: &[usize]) -> bool {
    dims.len() == shape.len()
        && dims
            .iter()
            .zip(shape)
            .all(|(dim, size)| dim.is_none_or(|dim| dim == *size))
}

/// The shape and the bytes of a part of a large sample, cut along its outer axes.
fn slab_of(shape: &[usize], size: usize) -> (Vec<usize>, usize) {
    let mut part = shape.to_vec();
    for axis in 0..part.len() {
        let rest: usize = part[axis + 1..].iter().product::<usize>() * size;
        part[axis] = (SLAB_BYTES / rest.max(1)).clamp(1, part[axis]);
        if part[axis] > 1 || rest <= SLAB_BYTES {
            break;
        }
    }
    let bytes = part.iter().product::<usize>() * size;
    (part, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_samples_are_cut_along_outer_axes() {
        assert_eq!(
            slab_of(&[3, 1000, 1000], 4),
            (vec![1, 262, 1000], 1_048_000)
        );
        assert_eq!(slab_of(&[100, 100, 100], 4).0, [26, 100, 100]);
        assert_eq!(slab_of(&[1 << 30], 2).0, [1 << 19]);
    }
}
