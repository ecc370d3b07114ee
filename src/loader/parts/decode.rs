//! Decodes the samples of a visit once, as far as their parts reach, and takes these to the slots.

use std::ops::Range;

use crate::dataset::{Dataset, FieldLayout};
use crate::error::{Error, Result};
use crate::kernel::slots::SlotClaims;
use crate::kernel::stream;
use crate::pool::PooledBuffer;
use crate::shard::{Chunk, RowRun, Scratch, Shapes, ShardReader, Slots, sample_out_bytes};

use super::{Part, What};

/// Bytes of samples that are decoded together, unless one is larger: more are decoded in several steps, so that what a
/// worker holds does not grow with the chunk.
const TOGETHER: usize = 4 << 20;

/// Memory of one worker, used again and again.
#[derive(Debug, Default)]
pub(crate) struct PartScratch {
    values: Vec<u8>,
    /// The samples that are decoded, and where each starts in `values`.
    rows: Vec<RowRun>,
    starts: Vec<usize>,
    /// Where the parts of each begin.
    first_parts: Vec<usize>,
}

/// One field of a chunk.
pub(crate) struct FieldChunk<'a> {
    pub(crate) dataset: &'a Dataset,
    pub(crate) shard: &'a ShardReader,
    pub(crate) chunk: &'a Chunk,
    pub(crate) layout: &'a FieldLayout,
    pub(crate) shapes: Option<&'a Shapes>,
}

impl FieldChunk<'_> {
    /// Decodes `parts`, ascending by row, to the runs of `claims`, array `array`.
    pub(crate) fn decode(
        &self,
        parts: &[Part],
        claims: &mut SlotClaims<PooledBuffer>,
        array: usize,
        cold: bool,
        own: &mut PartScratch,
        scratch: &mut Scratch,
    ) -> Result<()> {
        let field = &self.dataset.schema().fields()[self.layout.ordinal];
        // Fields that are cut have no slots for their shapes: the worker reads those itself.
        let read = match (self.layout.step(), field.fixed_shape()) {
            (Some(_), None) => {
                let ordinal = self.layout.ordinal;
                Some(self.shard.decode_shapes(self.chunk, ordinal, scratch)?)
            }
            _ => None,
        };
        let shapes = read.as_ref().or(self.shapes);
        let fixed = field.fixed_shape();
        let bytes_of = |row: u32| {
            let bytes = match (&fixed, shapes) {
                (Some(shape), _) => sample_out_bytes(field, &self.layout.form, shape, None),
                (None, Some(shapes)) => sample_out_bytes(
                    field,
                    &self.layout.form,
                    shapes.shape(row as usize),
                    shapes.dtype(row as usize),
                ),
                (None, None) => None,
            };
            bytes.ok_or_else(|| Error::limit("bytes of a sample", usize::MAX as u64, u64::MAX))
        };
        self.fill(parts, claims, array);
        let mut at = 0;
        while at < parts.len() {
            own.rows.clear();
            own.starts.clear();
            own.first_parts.clear();
            let (mut total, mut end) = (0usize, at);
            while let Some(part) = parts.get(end) {
                let new = own.rows.last().is_none_or(|last| last.row != part.row);
                if new && part.what == What::Steps {
                    let bytes = bytes_of(part.row)?;
                    let after = total.saturating_add(bytes);
                    if !own.rows.is_empty() && after > TOGETHER {
                        break;
                    }
                    own.rows.push(RowRun {
                        row: part.row,
                        count: 1,
                    });
                    own.starts.push(total);
                    own.first_parts.push(end);
                    total = after;
                }
                end += 1;
            }
            own.starts.push(total);
            own.first_parts.push(end);
            if own.rows.is_empty() {
                return Ok(());
            }
            if own.values.len() < total {
                own.values.resize(total, 0);
            }
            let mut slots = Rows {
                values: &mut own.values[..total],
                starts: &own.starts,
                parts,
                ascending: is_ascending(&parts[at..end]),
                first_parts: &own.first_parts,
                step: self.layout.step_elements().map(|n| n as u64),
            };
            self.shard.decode_rows(
                self.chunk,
                self.layout.ordinal,
                shapes,
                &self.layout.form,
                &own.rows,
                &mut slots,
                scratch,
            )?;
            for (values, runs) in own.starts.windows(2).zip(own.first_parts.windows(2)) {
                let values = &own.values[values[0]..values[1]];
                for (run, part) in (runs[0]..).zip(&parts[runs[0]..runs[1]]) {
                    if part.what != What::Steps {
                        continue;
                    }
                    let dst = claims.get_mut(run, array);
                    let src = self.part_of(values, part, dst.len());
                    let src = src.ok_or_else(|| {
                        let as_before = "as many as when the loader was opened";
                        Error::corrupt("steps of a sample", as_before, "fewer")
                            .in_file(self.shard.path())
                            .in_field(field.name())
                    })?;
                    stream::copy(src, dst, cold);
                }
            }
            at = end;
        }
        if cold {
            stream::fence();
        }
        Ok(())
    }

    /// Fills the runs that no sample goes to.
    fn fill(&self, parts: &[Part], claims: &mut SlotClaims<PooledBuffer>, array: usize) {
        let [separator, padding] = self.layout.fills();
        for (run, part) in parts.iter().enumerate() {
            let element = match part.what {
                What::Steps => continue,
                What::Separator => separator,
                What::Padding => padding,
            };
            let dst = claims.get_mut(run, array);
            for out in dst.chunks_exact_mut(element.len().max(1)) {
                out.copy_from_slice(element);
            }
        }
    }

    /// A part of a sample, of `len` bytes, or all of one that is not cut.
    fn part_of<'v>(&self, values: &'v [u8], part: &Part, len: usize) -> Option<&'v [u8]> {
        let range = match self.layout.step() {
            Some(step) => {
                let bytes = |steps: u64| usize::try_from(steps).ok()?.checked_mul(step);
                let start = bytes(part.first)?;
                start..start.checked_add(bytes(part.len)?)?
            }
            None => 0..values.len(),
        };
        values.get(range).filter(|values| values.len() == len)
    }
}

/// Samples one after the other.
struct Rows<'a> {
    values: &'a mut [u8],
    starts: &'a [usize],
    parts: &'a [Part],
    first_parts: &'a [usize],
    /// Each part ends where the one before does, or behind it.
    ascending: bool,
    /// Elements of a step, of fields that are cut.
    step: Option<u64>,
}

impl Slots for Rows<'_> {
    fn run(&mut self, run: usize, _array: usize) -> &mut [u8] {
        &mut self.values[self.starts[run]..self.starts[run + 1]]
    }

    /// The pieces of a long sample between its parts are left out.
    fn wants(&self, run: usize, elements: Range<u64>) -> bool {
        let Some(step) = self.step else {
            return true;
        };
        let parts = &self.parts[self.first_parts[run]..self.first_parts[run + 1]];
        let begins = |part: &Part| part.first.saturating_mul(step);
        let ends = |part: &Part| (part.first + part.len).saturating_mul(step);
        if self.ascending {
            let next = parts.partition_point(|part| ends(part) <= elements.start);
            return parts.get(next).is_some_and(|p| begins(p) < elements.end);
        }
        parts.iter().any(|part| {
            let reaches = begins(part) < elements.end && ends(part) > elements.start;
            part.what == What::Steps && reaches
        })
    }
}

/// True if parts of samples follow each other, so that those of a piece are found without looking at all of them.
fn is_ascending(parts: &[Part]) -> bool {
    let of_row = |parts: &[Part]| parts.is_sorted_by_key(|part| part.first + part.len);
    parts.iter().all(|part| part.what == What::Steps)
        && parts.chunk_by(|a, b| a.row == b.row).all(of_row)
}
