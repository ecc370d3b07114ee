//! The 64-cell prefix code (format-spec 7.1): an order-0 entropy code that decodes at memory speed.

use super::{Codec, CodecId, wrong_piece};
use crate::error::Result;
use crate::kernel::prefix;

pub(super) struct Prefix;

impl Codec for Prefix {
    fn id(&self) -> CodecId {
        CodecId::PREFIX
    }

    fn name(&self) -> &'static str {
        "prefix"
    }

    fn since_minor(&self) -> u16 {
        1
    }

    fn max_expansion(&self) -> u64 {
        // The longest stream has 4 MiB, its header at least 8 bytes.
        1 << 19
    }

    fn encode(&self, _level: u8, src: &[u8], dst: &mut Vec<u8>) -> Result<()> {
        prefix::encode(src, dst);
        Ok(())
    }

    fn decode(&self, src: &[u8], dst: &mut [u8]) -> Result<()> {
        prefix::decode(src, dst).map_err(|damage| wrong_piece("prefix piece", dst.len(), damage.0))
    }
}
