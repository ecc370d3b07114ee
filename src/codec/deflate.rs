//! DEFLATE: one raw stream (RFC 1951). Also the body of gzip.

use std::cell::RefCell;

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::{Codec, CodecId, encoder_failed, wrong_piece};
use crate::error::Result;

thread_local! {
    // 300 KiB of state; the level is fixed when it is built.
    static ENCODER: RefCell<Option<(u8, Compress)>> = const { RefCell::new(None) };
    static DECODER: RefCell<Decompress> = RefCell::new(Decompress::new(false));
}

/// Appends the raw DEFLATE stream of `src` to `dst`.
pub(super) fn deflate(what: &'static str, level: u8, src: &[u8], dst: &mut Vec<u8>) -> Result<()> {
    ENCODER.with_borrow_mut(|slot| {
        if slot.as_ref().is_none_or(|(built, _)| *built != level) {
            *slot = Some((
                level,
                Compress::new(Compression::new(u32::from(level)), false),
            ));
        }
        let Some((_, encoder)) = slot.as_mut() else {
            return Err(encoder_failed(what, src.len(), "no encoder"));
        };
        encoder.reset();
        // Stored blocks (5 bytes each for at least 16383) bound the growth; the loop covers whatever they do not.
        dst.reserve(src.len() + src.len() / 1024 + 64);
        loop {
            let done = usize::try_from(encoder.total_in()).unwrap_or(src.len());
            match encoder
                .compress_vec(&src[done..], dst, FlushCompress::Finish)
                .map_err(|e| encoder_failed(what, src.len(), e))?
            {
                Status::StreamEnd => return Ok(()),
                Status::Ok | Status::BufError => dst.reserve(src.len() / 8 + 256),
            }
        }
    })
}

/// Decodes one raw DEFLATE stream that is all of `src` and gives all of `dst`.
pub(super) fn inflate(what: &'static str, src: &[u8], dst: &mut [u8]) -> Result<()> {
    DECODER.with_borrow_mut(|decoder| {
        decoder.reset(false);
        let status = decoder
            .decompress(src, dst, FlushDecompress::Finish)
            .map_err(|e| wrong_piece(what, dst.len(), e))?;
        if status != Status::StreamEnd {
            return Err(wrong_piece(
                what,
                dst.len(),
                "a stream that does not end there",
            ));
        }
        let (read, written) = (decoder.total_in(), decoder.total_out());
        if read != src.len() as u64 {
            return Err(wrong_piece(
                what,
                dst.len(),
                format!("{} bytes after the end", src.len() as u64 - read),
            ));
        }
        if written != dst.len() as u64 {
            return Err(wrong_piece(what, dst.len(), format!("{written} bytes")));
        }
        Ok(())
    })
}

pub(super) struct Deflate;

impl Codec for Deflate {
    fn id(&self) -> CodecId {
        CodecId::DEFLATE
    }

    fn name(&self) -> &'static str {
        "deflate"
    }

    fn levels(&self) -> Option<std::ops::RangeInclusive<u8>> {
        Some(0..=9)
    }

    fn default_level(&self) -> u8 {
        6
    }

    fn max_expansion(&self) -> u64 {
        // A match of 258 bytes takes two bits at least.
        1032
    }

    fn encode(&self, level: u8, src: &[u8], dst: &mut Vec<u8>) -> Result<()> {
        deflate("deflate", level, src, dst)
    }

    fn decode(&self, src: &[u8], dst: &mut [u8]) -> Result<()> {
        inflate("deflate piece", src, dst)
    }
}
