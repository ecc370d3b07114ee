//! Bytes on disk to structs and back. Pure: no I/O, no threads, no codec is run here.
//!
//! | format-spec | file |
//! |---|---|
//! | 1, 1.1 | `wire.rs` (and `checksum.rs`, one level up) |
//! | 2, 3 | `manifest.rs`, `shard_id.rs` |
//! | 4.1 | `header.rs` |
//! | 4.2, 4.3 | `index.rs`, `footer.rs` |
//! | 5 | `schema.rs` |
//! | 10 | `chunk.rs` |
//! | 10.1 | `pieces.rs` |
//! | 10.3 | `shapes.rs` |
//! | 11, 12 | `version.rs`, `limits` here |
#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic
)]

pub(crate) mod chunk;
pub(crate) mod footer;
pub(crate) mod header;
pub(crate) mod index;
pub(crate) mod manifest;
pub(crate) mod pieces;
pub(crate) mod schema;
pub(crate) mod shapes;
pub(crate) mod shard_id;
pub(crate) mod version;
pub(crate) mod wire;

/// Constants that never change: they are in files.
pub(crate) mod forever {
    pub(crate) const MANIFEST_MAGIC: [u8; 8] = *b"\x89TSM\r\n\x1a\n";
    pub(crate) const SHARD_MAGIC: [u8; 8] = *b"\x89TSH\r\n\x1a\n";
    pub(crate) const END_MAGIC: [u8; 8] = *b"\x89TSE\r\n\x1a\n";
    pub(crate) const CHUNK_MAGIC: [u8; 4] = *b"TSCK";
    pub(crate) const MANIFEST_NAME: &str = "manifest.tsm";
    pub(crate) const SHARD_SUFFIX: &str = ".tshard";
    /// Alignment of the header's end, of chunks, and of streams of at least [`SMALL_STREAM`] bytes.
    pub(crate) const ALIGN: u64 = 64;
    pub(crate) const SMALL_STREAM: u64 = 4096;
    pub(crate) const SMALL_ALIGN: u64 = 8;
    pub(crate) const DEFAULT_PIECE_BYTES: u32 = 65536;
    /// In a schema: this dim differs from sample to sample.
    pub(crate) const VARIABLE_DIM: u64 = u64::MAX;
    /// In a schema: the rank differs from sample to sample.
    pub(crate) const VARIABLE_RANK: u8 = 255;
}

/// Limits of format-spec 12.
pub(crate) mod limits {
    pub(crate) const SCHEMA: u64 = 16 << 20;
    pub(crate) const METADATA: u64 = 16 << 20;
    pub(crate) const METADATA_DEPTH: usize = 64;
    pub(crate) const SHARDS: u64 = 1 << 24;
    pub(crate) const FIELDS: u64 = 4096;
    pub(crate) const FIELD_NAME: u64 = 255;
    pub(crate) const MAX_RANK: usize = 16;
    pub(crate) const RANK: u64 = MAX_RANK as u64;
    pub(crate) const SAMPLES_PER_CHUNK: u64 = 1 << 24;
    pub(crate) const SAMPLES: u64 = 1 << 48;
    pub(crate) const CHUNK_HEADER: u64 = 256 << 20;
    pub(crate) const PIECE_MIN: u64 = 16 << 10;
    pub(crate) const PIECE_MAX: u64 = 4 << 20;
    pub(crate) const SAMPLE_ELEMENTS: u64 = 1 << 36;
    pub(crate) const STREAM_RAW: u64 = 1 << 38;
    pub(crate) const FILTERS: u64 = 4;
    pub(crate) const PLANES: u64 = 8;
    pub(crate) const STATIC_SCALES: u64 = 1 << 20;
}

/// `x` rounded up to a multiple of `to`, a power of two; saturating, so that a forged length stays too large.
pub(crate) fn align(x: u64, to: u64) -> u64 {
    x.saturating_add(to.wrapping_sub(1)) & !to.wrapping_sub(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_change_these_constants() {
        assert_eq!(
            forever::MANIFEST_MAGIC,
            [0x89, 0x54, 0x53, 0x4D, 0x0D, 0x0A, 0x1A, 0x0A]
        );
        assert_eq!(
            forever::SHARD_MAGIC,
            [0x89, 0x54, 0x53, 0x48, 0x0D, 0x0A, 0x1A, 0x0A]
        );
        assert_eq!(
            forever::END_MAGIC,
            [0x89, 0x54, 0x53, 0x45, 0x0D, 0x0A, 0x1A, 0x0A]
        );
        assert_eq!(forever::CHUNK_MAGIC, [0x54, 0x53, 0x43, 0x4B]);
        assert_eq!(forever::DEFAULT_PIECE_BYTES, 65536);
    }

    #[test]
    fn align_rounds_up_and_saturates() {
        assert_eq!(align(0, 64), 0);
        assert_eq!(align(1, 64), 64);
        assert_eq!(align(64, 64), 64);
        assert_eq!(align(u64::MAX, 64), !63);
    }
}
