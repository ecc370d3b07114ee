//! The shapes stream of ragged fields (format-spec 10.3).

use crate::dtype::DType;
use crate::error::{Error, Result};

use super::limits;
use super::schema::Field;
use super::wire::{Cursor, Put, expect_limit, to_u32};

/// The shapes of the samples of a chunk, for one ragged field.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Shapes {
    /// The dims of all samples, one after the other.
    dims: Vec<usize>,
    /// Where each sample's dims end in `dims`.
    ends: Vec<u32>,
    /// One dtype per sample if the field leaves it open, else empty.
    dtypes: Vec<DType>,
}

impl Shapes {
    /// Appends a sample.
    pub(crate) fn push(&mut self, shape: &[usize], dtype: Option<DType>) -> Result<()> {
        self.dims.extend_from_slice(shape);
        self.ends.push(to_u32("dims of a chunk", self.dims.len())?);
        self.dtypes.extend(dtype);
        Ok(())
    }

    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    /// The shape of a sample; empty beyond the end.
    pub(crate) fn shape(&self, sample: usize) -> &[usize] {
        let start = sample
            .checked_sub(1)
            .and_then(|i| self.ends.get(i))
            .copied()
            .unwrap_or(0);
        let end = self.ends.get(sample).copied().unwrap_or(start);
        self.dims
            .get(start as usize..end as usize)
            .unwrap_or_default()
    }

    /// The dtype of a sample, if the field leaves it open.
    pub(crate) fn dtype(&self, sample: usize) -> Option<DType> {
        self.dtypes.get(sample).copied()
    }

    /// The stream's bytes.
    pub(crate) fn encode(&self, field: &Field) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        self.dtypes.iter().for_each(|dtype| out.put_u16(dtype.id()));
        if field.dims().is_none() {
            for sample in 0..self.len() {
                // At most 16: checked when the sample was appended.
                out.put_u8(u8::try_from(self.shape(sample).len()).unwrap_or(u8::MAX));
            }
        }
        for sample in 0..self.len() {
            for (i, &dim) in self.shape(sample).iter().enumerate() {
                if is_variable(field, i) {
                    out.put_u32(to_u32("dim", dim)?);
                }
            }
        }
        Ok(out)
    }

    /// Parses the stream's bytes.
    pub(crate) fn parse(field: &Field, num_samples: u32, bytes: &[u8]) -> Result<Self> {
        let n = num_samples as usize;
        let mut c = Cursor::new(bytes, "shapes stream");
        let mut dtypes = Vec::new();
        if field.dtype().is_none() {
            // Each takes two bytes that are there, so this cannot allocate more than the file justifies.
            for _ in 0..n {
                let id = c.u16()?;
                dtypes.push(DType::from_id(id).ok_or_else(|| {
                    Error::unsupported(format!("dtype id {id}"), "use a newer tensorshard release")
                })?);
            }
        }
        let ranks = if field.dims().is_none() {
            Some(c.take(n)?)
        } else {
            None
        };
        let mut out = Self {
            dims: Vec::new(),
            ends: Vec::new(),
            dtypes,
        };
        for sample in 0..n {
            let rank = match (ranks, field.dims()) {
                (Some(ranks), _) => usize::from(ranks.get(sample).copied().unwrap_or(0)),
                (None, Some(dims)) => dims.len(),
                (None, None) => 0,
            };
            expect_limit("rank", limits::RANK, rank as u64)?;
            let mut elements = 1u64;
            let mut zero = false;
            for i in 0..rank {
                let dim = match field.dims().and_then(|dims| dims.get(i).copied()).flatten() {
                    Some(dim) => dim,
                    None => c.u32()? as usize,
                };
                zero |= dim == 0;
                elements = elements.saturating_mul(dim as u64);
                out.dims.push(dim);
            }
            if !zero {
                expect_limit("elements of a sample", limits::SAMPLE_ELEMENTS, elements)?;
            }
            out.ends.push(to_u32("dims of a chunk", out.dims.len())?);
        }
        c.finish()?;
        Ok(out)
    }
}

fn is_variable(field: &Field, i: usize) -> bool {
    field
        .dims()
        .is_none_or(|dims| dims.get(i).is_some_and(Option::is_none))
}

#[cfg(test)]
mod tests {
    use super::super::schema::tests::field;
    use super::*;

    #[test]
    fn samples_have_at_most_2_to_the_36_elements() {
        let field = field(&[None, None]);
        let parse = |dims: [u32; 2]| {
            let bytes = dims.map(u32::to_le_bytes).concat();
            Shapes::parse(&field, 1, &bytes)
        };
        for good in [[3, 5], [1 << 18, 1 << 18], [0, u32::MAX], [u32::MAX, 0]] {
            let shapes = parse(good).unwrap();
            assert_eq!(shapes.shape(0), good.map(|dim| dim as usize));
        }
        for bad in [[(1 << 18) + 1, 1 << 18], [u32::MAX, u32::MAX]] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }
}
