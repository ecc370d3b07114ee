//! LZO: one LZO1X stream with its end marker (Cargo feature `lzo`). For data that has to be LZO; other codecs are faster
//! and smaller.

use std::cell::RefCell;

use lzokay::compress::{Dict, compress_no_alloc, compress_worst_size};

use super::{Codec, CodecId, encoder_failed, wrong_piece};
use crate::error::Result;

/// The end marker, which is all of an empty stream. `lzokay` 2.0.1 writes one byte before it, which no decoder accepts,
/// its own neither.
const END: [u8; 3] = [0x11, 0, 0];

thread_local! {
    // The dictionary takes more than half a MiB.
    static DICT: RefCell<Box<Dict>> = RefCell::new(Dict::new());
}

pub(super) struct Lzo;

impl Codec for Lzo {
    fn id(&self) -> CodecId {
        CodecId::LZO
    }

    fn name(&self) -> &'static str {
        "lzo"
    }

    fn since_minor(&self) -> u16 {
        1
    }

    fn max_expansion(&self) -> u64 {
        // A zero byte makes a match 255 bytes longer.
        255
    }

    fn encode(&self, _level: u8, src: &[u8], dst: &mut Vec<u8>) -> Result<()> {
        if src.is_empty() {
            dst.extend(END);
            return Ok(());
        }
        let start = dst.len();
        dst.resize(start + compress_worst_size(src.len()), 0);
        let written = DICT
            .with_borrow_mut(|dict| compress_no_alloc(src, &mut dst[start..], dict))
            .map_err(|e| encoder_failed("lzo", src.len(), e))?;
        dst.truncate(start + written);
        Ok(())
    }

    fn decode(&self, src: &[u8], dst: &mut [u8]) -> Result<()> {
        let written = lzokay::decompress::decompress(src, dst)
            .map_err(|e| wrong_piece("lzo piece", dst.len(), e))?;
        if written != dst.len() {
            return Err(wrong_piece(
                "lzo piece",
                dst.len(),
                format!("{written} bytes"),
            ));
        }
        Ok(())
    }
}
