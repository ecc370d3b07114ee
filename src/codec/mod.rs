//! Codecs: the bytes of one piece to fewer bytes (format-spec 7).
//!
//! To add a codec: write `src/codec/foo.rs` with an `impl Codec`, add one line to [`CODECS`] and one row to the table
//! of format-spec 7. Every test and bench over the table then covers it.

mod deflate;
mod gzip;
mod lz4;
mod none;
mod snappy;
mod zstd;

use std::fmt;
use std::ops::RangeInclusive;

use crate::error::{Error, Result};

/// The id of a codec on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CodecId(pub(crate) u16);

/// One codec. Implementations are stateless values in [`CODECS`].
pub(crate) trait Codec: Sync {
    /// The id on disk; never reused.
    fn id(&self) -> CodecId;

    /// The name in the CLI and the specification.
    fn name(&self) -> &'static str;

    /// The levels that may be asked for, if the codec has any.
    fn levels(&self) -> Option<RangeInclusive<u8>> {
        None
    }

    /// The level used when none is asked for; 0 for codecs without levels.
    fn default_level(&self) -> u8 {
        0
    }

    /// Appends the encoding of `src` to `dst`. May append more bytes than `src` has: the caller then stores the piece.
    ///
    /// # Errors
    /// Only for a failure of the underlying library; every input can be encoded.
    fn encode(&self, level: u8, src: &[u8], dst: &mut Vec<u8>) -> Result<()>;

    /// Decodes `src`, which must be one whole encoding of exactly `dst.len()` bytes. On error `dst` counts as garbage.
    ///
    /// # Errors
    /// `Corrupt` for anything that is not exactly one encoding of exactly `dst.len()` bytes.
    fn decode(&self, src: &[u8], dst: &mut [u8]) -> Result<()>;
}

/// Every codec of this build, by ascending id.
pub(crate) static CODECS: &[&dyn Codec] = &[
    &none::None,
    &snappy::Snappy,
    &deflate::Deflate,
    &gzip::Gzip,
    &lz4::Lz4,
    &zstd::Zstd,
];

/// A codec and its level: what a writer is asked to use, and what a field's schema records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CodecSpec {
    id: CodecId,
    level: u8,
}
