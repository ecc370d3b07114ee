//! Snappy: one raw block with its varint length, no framing.

use std::cell::RefCell;

use super::{Codec, CodecId, encoder_failed, wrong_piece};
use crate::error::Result;

thread_local! {
    // The encoder holds a hash table of up to 32 KiB.
    static ENCODER: RefCell<snap::raw::Encoder> = RefCell::new(snap::raw::Encoder::new());
}

pub(super) struct Snappy;

impl Codec for Snappy {
    fn id(&self) -> CodecId {
        CodecId::SNAPPY
    }

    fn name(&self) -> &'static str {
        "snappy"
    }

    fn max_expansion(&self) -> u64 {
        // A copy of 64 bytes takes 3; rounded up.
        64
    }

    fn encode(&self, _level: u8, src: &[u8], dst: &mut Vec<u8>) -> Result<()> {
        let start = dst.len();
        dst.resize(start + snap::raw::max_compress_len(src.len()), 0);
        let written = ENCODER
            .with_borrow_mut(|encoder| encoder.compress(src, &mut dst[start..]))
            .map_err(|e| encoder_failed("snappy", src.len(), e))?;
        dst.truncate(start + written);
        Ok(())
    }

    fn decode(&self, src: &[u8], dst: &mut [u8]) -> Result<()> {
        let stated = snap::raw::decompress_len(src)
            .map_err(|e| wrong_piece("snappy piece", dst.len(), e))?;
        // `snap` reads an empty input as an empty block; the format wants the length, here one byte 0.
        if stated != dst.len() || src.is_empty() {
            return Err(wrong_piece(
                "snappy piece",
                dst.len(),
                format!("a block of {stated} bytes"),
            ));
        }
        let written = snap::raw::Decoder::new()
            .decompress(src, dst)
            .map_err(|e| wrong_piece("snappy piece", stated, e))?;
        if written != dst.len() {
            return Err(wrong_piece(
                "snappy piece",
                dst.len(),
                format!("{written} bytes"),
            ));
        }
        Ok(())
    }
}
