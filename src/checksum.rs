//! Masked CRC32C with a context, so that intact bytes in a wrong place fail (format-spec 1.1).

use crc_fast::{CrcAlgorithm, Digest};

/// Structure kinds, in place of a piece ordinal.
pub(crate) const SHARD_HEADER: u32 = 1;
pub(crate) const CHUNK_HEADER: u32 = 2;
pub(crate) const INDEX: u32 = 3;
pub(crate) const FOOTER: u32 = 4;
pub(crate) const MANIFEST: u32 = 5;

/// In place of a stream ordinal, for structures that are not pieces.
const STRUCTURE: u32 = u32::MAX;

/// What the checksummed bytes are, and where they belong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Context {
    pub(crate) shard_id: [u8; 16],
    pub(crate) chunk: u64,
    pub(crate) stream: u32,
    pub(crate) piece: u32,
}

impl Context {
    /// The context of a structure of a shard that is not in a chunk.
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

    fn bytes(&self) -> [u8; 32] {
        let mut out = [0; 32];
        out[..16].copy_from_slice(&self.shard_id);
        out[16..24].copy_from_slice(&self.chunk.to_le_bytes());
        out[24..28].copy_from_slice(&self.stream.to_le_bytes());
        out[28..].copy_from_slice(&self.piece.to_le_bytes());
        out
    }
}

/// CRC32C of the parts, one after the other.
fn crc32c(parts: &[&[u8]]) -> u32 {
    let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
    parts.iter().for_each(|part| digest.update(part));
    // A 32-bit algorithm has 32-bit results.
    u32::try_from(digest.finalize()).unwrap_or(u32::MAX)
}

/// The stored checksum of `bytes` in their context.
pub(crate) fn checksum(context: &Context, bytes: &[u8]) -> u32 {
    let crc = crc32c(&[&context.bytes(), bytes]);
    // The mask of LevelDB: an index holds checksums and is itself checksummed.
    crc.rotate_right(15).wrapping_add(0xA282_EAD8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn worked_example_of_the_spec() {
        let shard_id = std::array::from_fn(|i| u8::try_from(i).unwrap());
        let context = Context {
            shard_id,
            chunk: 7,
            stream: 2,
            piece: 1,
        };
        assert_eq!(crc32c(&[b"123456789"]), 0xE306_9283);
        assert_eq!(crc32c(&[b"1234", b"", b"56789"]), 0xE306_9283);
        assert_eq!(checksum(&context, b"tensor"), 0x1EC8_B3E8);
        assert_ne!(
            checksum(
                &Context {
                    piece: 2,
                    ..context
                },
                b"tensor"
            ),
            0x1EC8_B3E8
        );
    }
}
