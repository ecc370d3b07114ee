//! Zstandard: one frame (RFC 8878) that states its content size.

use std::cell::RefCell;

use zstd_safe::{CCtx, CParameter, DCtx};

use super::{Codec, CodecId, encoder_failed, wrong_piece};
use crate::error::{Error, Result};

const MAGIC: [u8; 4] = [0x28, 0xB5, 0x2F, 0xFD];
const MAX_WINDOW_LOG: u32 = 23;

thread_local! {
    static ENCODER: RefCell<Option<CCtx<'static>>> = const { RefCell::new(None) };
    static DECODER: RefCell<Option<DCtx<'static>>> = const { RefCell::new(None) };
}

pub(super) struct Zstd;

fn wrong_frame(expected: &'static str, found: impl std::fmt::Display) -> Error {
    Error::corrupt("zstd frame", expected, found)
}

/// Checks what format-spec 7 demands of the frame header, beyond what the decoder checks.
fn check_frame(src: &[u8], len: usize) -> Result<()> {
    let (Some(magic), Some(&descriptor)) = (src.first_chunk::<4>(), src.get(4)) else {
        return Err(wrong_piece(
            "zstd piece",
            len,
            format!("{} stored bytes", src.len()),
        ));
    };
    if *magic != MAGIC {
        return Err(wrong_frame("magic 28 B5 2F FD", format!("{magic:02X?}")));
    }
    if descriptor & 3 != 0 {
        return Err(wrong_frame("no dictionary", "a dictionary id"));
    }
    let single_segment = descriptor & 0x20 != 0;
    if !single_segment {
        let Some(&window) = src.get(5) else {
            return Err(wrong_piece(
                "zstd piece",
                len,
                format!("{} stored bytes", src.len()),
            ));
        };
        let base = 1u64 << (10 + (window >> 3));
        let window = base + base / 8 * u64::from(window & 7);
        if window > 1 << MAX_WINDOW_LOG {
            return Err(wrong_frame("a window of at most 8388608 bytes", window));
        }
    }
    match zstd_safe::get_frame_content_size(src) {
        Ok(Some(stated)) if stated == len as u64 => {}
        Ok(Some(stated)) => {
            return Err(wrong_piece(
                "zstd piece",
                len,
                format!("a frame of {stated} bytes"),
            ));
        }
        Ok(None) => {
            return Err(wrong_piece(
                "zstd piece",
                len,
                "a frame without content size",
            ));
        }
        Err(_) => return Err(wrong_piece("zstd piece", len, "a damaged frame header")),
    }
    if single_segment && len > 1 << MAX_WINDOW_LOG {
        return Err(wrong_frame("a window of at most 8388608 bytes", len));
    }
    match zstd_safe::find_frame_compressed_size(src) {
        Ok(stored) if stored == src.len() => Ok(()),
        Ok(stored) => Err(wrong_piece(
            "zstd piece",
            len,
            format!("{} bytes after the frame", src.len() - stored),
        )),
        Err(code) => Err(wrong_piece(
            "zstd piece",
            len,
            zstd_safe::get_error_name(code),
        )),
    }
}

impl Codec for Zstd {
    fn id(&self) -> CodecId {
        CodecId::ZSTD
    }

    fn name(&self) -> &'static str {
        "zstd"
    }

    fn levels(&self) -> Option<std::ops::RangeInclusive<u8>> {
        Some(1..=22)
    }

    fn default_level(&self) -> u8 {
        3
    }

    fn max_expansion(&self) -> u64 {
        // An RLE block of 128 KiB takes 4 bytes.
        65536
    }

    fn encode(&self, level: u8, src: &[u8], dst: &mut Vec<u8>) -> Result<()> {
        ENCODER.with_borrow_mut(|slot| {
            let failed = |code| encoder_failed("zstd", src.len(), zstd_safe::get_error_name(code));
            if slot.is_none() {
                *slot = CCtx::try_create();
            }
            let Some(encoder) = slot.as_mut() else {
                return Err(encoder_failed("zstd", src.len(), "out of memory"));
            };
            encoder
                .set_parameter(CParameter::CompressionLevel(i32::from(level)))
                .map_err(failed)?;
            // 0 = as the level says; a window is never larger than the source needs.
            let window_log = if src.len() > 1 << MAX_WINDOW_LOG {
                MAX_WINDOW_LOG
            } else {
                0
            };
            encoder
                .set_parameter(CParameter::WindowLog(window_log))
                .map_err(failed)?;
            let start = dst.len();
            dst.resize(start + zstd_safe::compress_bound(src.len()), 0);
            let written = encoder.compress2(&mut dst[start..], src).map_err(failed)?;
            dst.truncate(start + written);
            Ok(())
        })
    }

    fn decode(&self, src: &[u8], dst: &mut [u8]) -> Result<()> {
        check_frame(src, dst.len())?;
        DECODER.with_borrow_mut(|slot| {
            if slot.is_none() {
                *slot = DCtx::try_create();
            }
            let Some(decoder) = slot.as_mut() else {
                return Err(encoder_failed("zstd", dst.len(), "out of memory"));
            };
            let len = dst.len();
            let written = decoder
                .decompress(dst, src)
                .map_err(|code| wrong_piece("zstd piece", len, zstd_safe::get_error_name(code)))?;
            if written != len {
                return Err(wrong_piece("zstd piece", len, format!("{written} bytes")));
            }
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode_error(src: &[u8], len: usize) -> String {
        Zstd.decode(src, &mut vec![0; len]).unwrap_err().to_string()
    }

    #[test]
    fn frames_that_the_format_forbids_are_refused() -> Result<()> {
        let mut frame = Vec::new();
        Zstd.encode(3, &[7; 100], &mut frame)?;

        let mut two = frame.clone();
        two.extend_from_slice(&frame);
        assert!(decode_error(&two, 100).contains("bytes after the frame"));
        assert!(decode_error(&two, 200).contains("a frame of 100 bytes"));

        let skippable = [0x50, 0x2A, 0x4D, 0x18, 2, 0, 0, 0, 1, 2];
        assert!(decode_error(&skippable, 0).contains("magic"));
        let mut after_skippable = skippable.to_vec();
        after_skippable.extend_from_slice(&frame);
        assert!(decode_error(&after_skippable, 100).contains("magic"));

        // Raw block of 3 bytes, without content size: descriptor 0, window 1 KiB.
        let raw = [0x28, 0xB5, 0x2F, 0xFD, 0, 0, 0x19, 0, 0, 1, 2, 3];
        assert!(decode_error(&raw, 3).contains("without content size"));
        // Window 1 << (10 + 14) = 16 MiB, 2-byte content size.
        let wide = [
            0x28,
            0xB5,
            0x2F,
            0xFD,
            0x40,
            14 << 3,
            0,
            0,
            0x19,
            0,
            0,
            1,
            2,
            3,
        ];
        assert!(decode_error(&wide, 256).contains("window"));
        // One-byte dictionary id.
        let dictionary = [0x28, 0xB5, 0x2F, 0xFD, 0x21, 5, 3, 0x19, 0, 0, 1, 2, 3];
        assert!(decode_error(&dictionary, 3).contains("dictionary"));
        Ok(())
    }

    #[test]
    fn highest_level_stays_within_the_window() -> Result<()> {
        let src = vec![1; (8 << 20) + 5];
        let mut frame = Vec::new();
        Zstd.encode(22, &src, &mut frame)?;
        let mut back = vec![0; src.len()];
        Zstd.decode(&frame, &mut back)?;
        assert_eq!(back, src);
        Ok(())
    }
}
