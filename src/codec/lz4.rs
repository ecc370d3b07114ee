//! LZ4: one block, no frame, no length prefix. The safe decoder of `lz4_flex`: the unsafe one is 1.2 times as fast on
//! photos, but a thirtieth on runs.

use lz4_flex::block;

use super::{Codec, CodecId, encoder_failed, wrong_piece};
use crate::error::Result;

pub(super) struct Lz4;

impl Codec for Lz4 {
    fn id(&self) -> CodecId {
        CodecId::LZ4
    }

    fn name(&self) -> &'static str {
        "lz4"
    }

    fn max_expansion(&self) -> u64 {
        // A length byte stands for 255 bytes.
        255
    }

    fn encode(&self, _level: u8, src: &[u8], dst: &mut Vec<u8>) -> Result<()> {
        let start = dst.len();
        dst.resize(start + block::get_maximum_output_size(src.len()), 0);
        let written = block::compress_into(src, &mut dst[start..])
            .map_err(|e| encoder_failed("lz4", src.len(), e))?;
        dst.truncate(start + written);
        Ok(())
    }

    fn decode(&self, src: &[u8], dst: &mut [u8]) -> Result<()> {
        let written =
            block::decompress_into(src, dst).map_err(|e| wrong_piece("lz4 piece", dst.len(), e))?;
        if written != dst.len() {
            return Err(wrong_piece(
                "lz4 piece",
                dst.len(),
                format!("{written} bytes"),
            ));
        }
        Ok(())
    }
}
