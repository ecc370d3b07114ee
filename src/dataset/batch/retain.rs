//! Takes samples out of a batch that is finished.

use std::sync::Arc;

use bytes::Bytes;

use crate::error::Result;
use crate::pool::{BufferPool, PooledBuffer};

use super::values::Values;
use super::{Batch, FieldBatch, FieldLayout, RaggedParts};

impl Batch {
    /// Keeps some of the samples, in their order; `layouts` are those of the fields.
    pub(crate) fn retain(
        &mut self,
        keep: &[bool],
        layouts: &[FieldLayout],
        pool: &BufferPool,
    ) -> Result<()> {
        for (field, layout) in self.fields.iter_mut().zip(layouts) {
            field.retain(keep, layout.scales.is_some(), pool)?;
        }
        let real = keep.len() - self.num_padded.min(keep.len());
        self.num_padded = keep[real..].iter().filter(|&&keep| keep).count();
        self.parts.retain(keep);
        let mut kept = keep.iter();
        self.sample_ids
            .retain(|_| kept.next().copied().unwrap_or(true));
        Ok(())
    }
}

impl FieldBatch {
    fn retain(&mut self, keep: &[bool], own_scales: bool, pool: &BufferPool) -> Result<()> {
        let before = self.num_samples;
        let after = keep.iter().filter(|&&keep| keep).count();
        let rows = |bytes: &[u8]| {
            let row = bytes.len().checked_div(before).unwrap_or(0);
            let ranges = kept(keep).map(|i| i * row..(i + 1) * row);
            gather(bytes, ranges, |len| pool.take(len))
        };
        let own = |bytes: &Bytes| rows(bytes).map(Bytes::from_owner);
        self.num_samples = after;
        if own_scales {
            self.scales = self.scales.as_ref().map(own).transpose()?;
            self.zero_points = self.zero_points.as_ref().map(own).transpose()?;
        }
        let Some(parts) = &self.ragged else {
            self.data = Values::new(rows(self.data.as_slice())?);
            self.shape[0] = after;
            return Ok(());
        };
        let new = parts.retain(keep, pool)?;
        if parts.padded.is_some() {
            self.data = Values::new(rows(self.data.as_slice())?);
            self.shape[0] = after;
        } else {
            let ranges = kept(keep).map(|i| parts.byte_offsets[i]..parts.byte_offsets[i + 1]);
            self.data = Values::new(gather(self.data.as_slice(), ranges, |len| pool.take(len))?);
            // Entries of the first axis: whole rows, or elements.
            let entries = new.offsets.last().copied().unwrap_or(0);
            self.shape[0] = usize::try_from(entries).unwrap_or(0);
        }
        self.ragged = Some(Arc::new(new));
        Ok(())
    }
}

impl RaggedParts {
    fn retain(&self, keep: &[bool], pool: &BufferPool) -> Result<Self> {
        let mut new = Self {
            padded: self.padded.clone(),
            variable: self.variable.clone(),
            mask_shape: self.mask_shape.clone(),
            ..Self::default()
        };
        let cells = self.mask().len().checked_div(keep.len()).unwrap_or(0);
        let ranges = kept(keep).map(|i| i * cells..(i + 1) * cells);
        if self.mask.is_some() {
            new.mask = Some(gather(self.mask(), ranges, |len| pool.take_own(len))?);
        }
        let (mut entries, mut bytes) = (0, 0);
        new.offsets.push(0);
        new.byte_offsets.push(0);
        for i in kept(keep) {
            new.dims.extend_from_slice(self.shape(i));
            new.ends.push(new.dims.len());
            new.dtypes.extend(self.dtypes.get(i));
            entries += self.offsets[i + 1] - self.offsets[i];
            bytes += self.byte_offsets[i + 1] - self.byte_offsets[i];
            new.offsets.push(entries);
            new.byte_offsets.push(bytes);
        }
        if let Some(samples) = new.mask_shape.first_mut() {
            *samples = new.ends.len();
        }
        Ok(new)
    }
}

fn kept(keep: &[bool]) -> impl Iterator<Item = usize> + Clone + '_ {
    (0..keep.len()).filter(|&i| keep[i])
}

/// Some ranges of `bytes`, one after the other, in a buffer that `take` gives.
fn gather(
    bytes: &[u8],
    ranges: impl Iterator<Item = std::ops::Range<usize>> + Clone,
    take: impl FnOnce(usize) -> Result<PooledBuffer>,
) -> Result<PooledBuffer> {
    let mut buffer = take(ranges.clone().map(|range| range.len()).sum())?;
    let mut at = 0;
    for range in ranges {
        let to = at + range.len();
        buffer.as_mut()[at..to].copy_from_slice(&bytes[range]);
        at = to;
    }
    Ok(buffer)
}
