//! Masked CRC32C with a context, so that intact bytes in a wrong place fail (format-spec 1.1).

use crc_fast::{CrcAlgorithm, Digest};

use crate::kernel::{planes, stream};

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

/// Bytes that are checked before they are used: few enough that they are still in the L1 cache then.
pub(crate) const BLOCK: usize = planes::CHECKED;

/// A checksum that is computed as its bytes are used, so that they come from memory once.
pub(crate) struct Running(Digest);

impl Running {
    /// No bytes so far.
    pub(crate) fn new(context: &Context) -> Self {
        let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
        digest.update(&context.bytes());
        Self(digest)
    }

    /// Adds the next bytes.
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Adds the next bytes and copies them, as [`stream::copy_on`] does.
    ///
    /// # Panics
    /// If the lengths differ.
    pub(crate) fn copy(&mut self, src: &[u8], dst: &mut [u8], cold: bool) {
        assert_eq!(src.len(), dst.len(), "a copy of another length");
        for (src, dst) in src.chunks(BLOCK).zip(dst.chunks_mut(BLOCK)) {
            self.update(src);
            stream::copy_on(src, dst, cold);
        }
    }

    /// The stored checksum.
    pub(crate) fn finish(self) -> u32 {
        // A 32-bit algorithm has 32-bit results.
        mask(u32::try_from(self.0.finalize()).unwrap_or(u32::MAX))
    }
}

/// The mask of LevelDB: an index holds checksums and is itself checksummed.
fn mask(crc: u32) -> u32 {
    crc.rotate_right(15).wrapping_add(0xA282_EAD8)
}

/// The stored checksum of `bytes` in their context.
pub(crate) fn checksum(context: &Context, bytes: &[u8]) -> u32 {
    let mut running = Running::new(context);
    running.update(bytes);
    running.finish()
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
        let crc = crc_fast::checksum(CrcAlgorithm::Crc32Iscsi, b"123456789");
        assert_eq!(crc, 0xE306_9283);
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

    #[test]
    fn copying_computes_the_same() {
        let context = Context::structure([9; 16], INDEX);
        for len in [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 5 * BLOCK + 77] {
            let src: Vec<u8> = (0..=250u8).cycle().take(len).collect();
            let mut dst = vec![0; len];
            let mut running = Running::new(&context);
            running.copy(&src[..len / 3], &mut dst[..len / 3], false);
            running.copy(&src[len / 3..], &mut dst[len / 3..], true);
            stream::fence();
            assert_eq!(running.finish(), checksum(&context, &src));
            assert_eq!(dst, src);
        }
    }
}
