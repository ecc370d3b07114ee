//! Filters: the bytes of one piece to as many bytes, reversibly, so that a codec finds more (format-spec 8).
//!
//! To add a filter: write `src/filter/foo.rs` with an `impl Filter`, add one line to [`FILTERS`] and one row to the
//! table of format-spec 8. Every test and bench over the table then covers it.

mod bit_shuffle;
mod byte_shuffle;
mod delta;

use std::fmt;

use crate::error::{Error, Result};

/// The id of a filter on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FilterId(pub(crate) u16);

/// One filter. Implementations are stateless values in [`FILTERS`]. `elem_size` is 1, 2, 4 or 8.
pub(crate) trait Filter: Sync {
    /// The id on disk; never reused.
    fn id(&self) -> FilterId;

    /// The name in the CLI and the specification.
    fn name(&self) -> &'static str;

    /// Filters `src` into `dst`, which has the same length.
    fn apply(&self, elem_size: usize, src: &[u8], dst: &mut [u8]);

    /// The inverse of [`Filter::apply`]: every input is valid.
    fn undo(&self, elem_size: usize, src: &[u8], dst: &mut [u8]);
}

/// Every filter of this build, by ascending id.
pub(crate) static FILTERS: &[&dyn Filter] =
    &[&byte_shuffle::ByteShuffle, &bit_shuffle::BitShuffle, &delta::Delta];

/// A filter and its element size, as a field's schema records it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FilterSpec {
    id: FilterId,
    elem_size: u8,
}
