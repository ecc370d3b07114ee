//! Checksums: masked CRC32C over a context and the bytes it protects (format-spec 1.1).

use std::fmt;

/// `stream` of everything that is not a piece.
pub(crate) const STRUCTURE: u32 = u32::MAX;
/// `piece` of the shard header.
pub(crate) const SHARD_HEADER: u32 = 1;
/// `piece` of a chunk header.
pub(crate) const CHUNK_HEADER: u32 = 2;
/// `piece` of the index.
pub(crate) const INDEX: u32 = 3;
/// `piece` of the footer.
pub(crate) const FOOTER: u32 = 4;
/// `piece` of the manifest.
pub(crate) const MANIFEST: u32 = 5;

const MASK_DELTA: u32 = 0xA282_EAD8;

/// Where the checksummed bytes belong, so that intact bytes in a wrong place fail.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Context {
    /// The shard; zeros for the manifest.
    pub(crate) shard_id: [u8; 16],
    /// Ordinal of the chunk in the shard; 0 outside chunks.
    pub(crate) chunk: u64,
    /// Ordinal in the chunk's stream table, or [`STRUCTURE`].
    pub(crate) stream: u32,
    /// Ordinal in the stream, or which structure it is.
    pub(crate) piece: u32,
}

impl Context {
    /// The context of a structure that is not a piece and not a chunk header.
    pub(crate) fn structure(shard_id: [u8; 16], kind: u32) -> Self {
        Self {
            shard_id,
            chunk: 0,
            stream: STRUCTURE,
            piece: kind,
        }
    }

    /// The context of a chunk header.
    pub(crate) fn chunk_header(shard_id: [u8; 16], chunk: u64) -> Self {
        Self {
            shard_id,
            chunk,
            stream: STRUCTURE,
            piece: CHUNK_HEADER,
        }
    }

    fn to_bytes(self) -> [u8; 32] {
        let mut out = [0; 32];
        out[..16].copy_from_slice(&self.shard_id);
        out[16..24].copy_from_slice(&self.chunk.to_le_bytes());
        out[24..28].copy_from_slice(&self.stream.to_le_bytes());
        out[28..].copy_from_slice(&self.piece.to_le_bytes());
        out
    }
}

/// The stored checksum of `bytes` in their context.
pub(crate) fn checksum(context: &Context, bytes: &[u8]) -> u32 {
    let crc = crc32c::crc32c_append(crc32c::crc32c(&context.to_bytes()), bytes);
    crc.rotate_right(15).wrapping_add(MASK_DELTA)
}

/// A stored checksum, shown as 8 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Checksum(pub(crate) u32);

impl fmt::Display for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPEC: Context = Context {
        shard_id: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15],
        chunk: 7,
        stream: 2,
        piece: 1,
    };

    #[test]
    fn worked_example_of_the_specification() {
        assert_eq!(crc32c::crc32c(b"123456789"), 0xE306_9283);
        let mut all = SPEC.to_bytes().to_vec();
        all.extend_from_slice(b"tensor");
        assert_eq!(crc32c::crc32c(&all), 0xE488_3E22);
        assert_eq!(checksum(&SPEC, b"tensor"), 0x1EC8_B3E8);
        assert_eq!(Checksum(checksum(&SPEC, b"tensor")).to_string(), "1ec8b3e8");
    }

    #[test]
    fn every_part_of_the_context_counts() {
        let right = checksum(&SPEC, b"tensor");
        let mut other_shard = SPEC;
        other_shard.shard_id[15] ^= 1;
        for context in [
            other_shard,
            Context { chunk: 8, ..SPEC },
            Context { stream: 3, ..SPEC },
            Context { piece: 2, ..SPEC },
            Context::structure(SPEC.shard_id, INDEX),
            Context::chunk_header(SPEC.shard_id, 7),
        ] {
            assert_ne!(checksum(&context, b"tensor"), right);
        }
        assert_ne!(checksum(&SPEC, b"tensos"), right);
    }
}
