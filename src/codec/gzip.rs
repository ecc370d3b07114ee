//! gzip: one member (RFC 1952) around a raw DEFLATE stream.
//!
//! ```text
//! 0   1F 8B 08        magic, method DEFLATE
//! 3   u8   FLG        0
//! 4   u32  MTIME      0
//! 8   u8   XFL        any; we write 0
//! 9   u8   OS         any; we write 255
//! 10       DEFLATE stream
//!     u32  CRC32      of the decoded bytes
//!     u32  ISIZE      their number
//! ```

use flate2::Crc;

use super::deflate::{deflate, inflate};
use super::{Codec, CodecId, encoder_failed, wrong_piece};
use crate::error::{Error, Result};

const HEADER: [u8; 10] = [0x1F, 0x8B, 8, 0, 0, 0, 0, 0, 0, 255];
/// The bytes of the header that are the same for every member: magic, method, FLG and MTIME.
const FIXED: usize = 8;

pub(super) struct Gzip;

fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = Crc::new();
    crc.update(bytes);
    crc.sum()
}

impl Codec for Gzip {
    fn id(&self) -> CodecId {
        CodecId::GZIP
    }

    fn name(&self) -> &'static str {
        "gzip"
    }

    fn levels(&self) -> Option<std::ops::RangeInclusive<u8>> {
        Some(0..=9)
    }

    fn default_level(&self) -> u8 {
        6
    }

    fn max_expansion(&self) -> u64 {
        // As DEFLATE.
        1032
    }

    fn encode(&self, level: u8, src: &[u8], dst: &mut Vec<u8>) -> Result<()> {
        let len = u32::try_from(src.len()).map_err(|e| encoder_failed("gzip", src.len(), e))?;
        dst.extend_from_slice(&HEADER);
        deflate("gzip", level, src, dst)?;
        dst.extend_from_slice(&crc32(src).to_le_bytes());
        dst.extend_from_slice(&len.to_le_bytes());
        Ok(())
    }

    fn decode(&self, src: &[u8], dst: &mut [u8]) -> Result<()> {
        let (Some((header, rest)), true) = (src.split_first_chunk::<10>(), src.len() >= 18) else {
            return Err(wrong_piece(
                "gzip piece",
                dst.len(),
                format!("a member of {} bytes", src.len()),
            ));
        };
        if header[..FIXED] != HEADER[..FIXED] {
            return Err(Error::corrupt(
                "gzip header",
                format!("{:02X?} (no flags, no time)", &HEADER[..FIXED]),
                format!("{:02X?}", &header[..FIXED]),
            ));
        }
        let Some((body, trailer)) = rest.split_last_chunk::<8>() else {
            return Err(wrong_piece(
                "gzip piece",
                dst.len(),
                format!("a member of {} bytes", src.len()),
            ));
        };
        inflate("gzip piece", body, dst)?;
        let [c0, c1, c2, c3, l0, l1, l2, l3] = *trailer;
        let stated = u32::from_le_bytes([l0, l1, l2, l3]);
        if u64::from(stated) != dst.len() as u64 {
            return Err(Error::corrupt("gzip length", dst.len(), stated));
        }
        let (stated, found) = (u32::from_le_bytes([c0, c1, c2, c3]), crc32(dst));
        if stated != found {
            return Err(Error::corrupt(
                "gzip CRC32",
                format!("{stated:08x}"),
                format!("{found:08x}"),
            ));
        }
        Ok(())
    }
}
