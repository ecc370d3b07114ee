//! No codec: every piece is stored as it is.

use super::{Codec, CodecId};
use crate::error::{Error, Result};

pub(super) struct None;

impl Codec for None {
    fn id(&self) -> CodecId {
        CodecId::NONE
    }

    fn name(&self) -> &'static str {
        "none"
    }

    fn max_expansion(&self) -> u64 {
        // Stored pieces are as long as they decode to.
        1
    }

    fn encode(&self, _level: u8, src: &[u8], dst: &mut Vec<u8>) -> Result<()> {
        dst.extend_from_slice(src);
        Ok(())
    }

    fn decode(&self, src: &[u8], dst: &mut [u8]) -> Result<()> {
        if src.len() != dst.len() {
            return Err(Error::corrupt(
                "stored piece",
                format!("exactly {} bytes", dst.len()),
                src.len(),
            ));
        }
        dst.copy_from_slice(src);
        Ok(())
    }
}
