//! How long samples are: from shapes alone, values are not read.

use crate::error::{Error, Result};
use crate::format::schema::Field;
use crate::format::shapes::Shapes;

use super::Dataset;

/// Reads the lengths of one field's samples.
pub(crate) struct LengthReader<'a> {
    dataset: &'a Dataset,
    field: &'a Field,
    ordinal: usize,
}

impl<'a> LengthReader<'a> {
    /// # Errors
    /// `InvalidArgument` if there is no such field, or its samples have one shape.
    pub(crate) fn new(dataset: &'a Dataset, name: &str) -> Result<Self> {
        let schema = dataset.schema();
        let mut fields = schema.fields().iter().enumerate();
        let (ordinal, field) = fields
            .find(|(_, field)| field.name() == name)
            .ok_or_else(|| schema.no_such_field(name))?;
        if field.dims().is_some_and(|dims| !dims.contains(&None)) {
            let message = "every sample of this field has the same length";
            return Err(Error::invalid(message).in_field(name));
        }
        Ok(Self {
            dataset,
            field,
            ordinal,
        })
    }

    /// Appends the lengths of a chunk's samples.
    ///
    /// # Errors
    /// Those of reading shapes.
    pub(crate) fn read(&self, shard: u64, chunk: u64, out: &mut Vec<u32>) -> Result<()> {
        let dims = self.field.dims();
        for shapes in self.dataset.shapes(shard, chunk, &[self.ordinal])? {
            out.extend((0..shapes.len()).map(|row| length(dims, shapes.shape(row))));
        }
        Ok(())
    }
}

impl Dataset {
    /// The shapes of a chunk's samples, of each of these ragged fields (ordinals of the schema).
    ///
    /// # Errors
    /// Those of reading.
    pub(crate) fn shapes(&self, shard: u64, chunk: u64, fields: &[usize]) -> Result<Vec<Shapes>> {
        let shard = self.shard(shard)?;
        let mut scratch = self.take_scratch();
        let chunk = shard.chunk(chunk, &mut scratch.io)?;
        let shapes = fields.iter();
        let shapes = shapes.map(|&field| shard.decode_shapes(&chunk, field, &mut scratch));
        let shapes = shapes.collect();
        self.put_scratch(scratch);
        shapes
    }
}

/// The product of the dims that vary: all of them, where the rank does. `u32::MAX` if it is larger.
fn length(dims: Option<&[Option<usize>]>, shape: &[usize]) -> u32 {
    let varies = |i: usize| dims.is_none_or(|dims| dims.get(i).is_some_and(Option::is_none));
    let varying = || (0..).zip(shape).filter(|&(i, _)| varies(i));
    if varying().any(|(_, &dim)| dim == 0) {
        return 0;
    }
    let product = varying().fold(1u64, |n, (_, &dim)| n.saturating_mul(dim as u64));
    u32::try_from(product).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_products_of_the_dims_that_vary() {
        let rows = [None, Some(3)];
        assert_eq!(length(Some(&rows), &[7, 3]), 7);
        assert_eq!(length(Some(&[Some(3), None, None]), &[3, 4, 5]), 20);
        assert_eq!(length(None, &[]), 1);
        assert_eq!(length(None, &[3, 4]), 12);
        assert_eq!(length(None, &[1 << 40, 1 << 40, 0]), 0);
        assert_eq!(length(None, &[1 << 40, 1 << 40]), u32::MAX);
    }
}
