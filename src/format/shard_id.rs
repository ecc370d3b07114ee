//! The 128-bit id of a shard, from which its file name is derived (format-spec 2).

use std::fmt;

use super::forever::SHARD_SUFFIX;

/// The random id of a shard.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ShardId(pub(crate) [u8; 16]);

impl ShardId {
    /// The file name: 32 hexadecimal digits and `.tshard`.
    pub fn file_name(self) -> String {
        format!("{self}{SHARD_SUFFIX}")
    }

    /// The 16 bytes.
    pub fn bytes(self) -> [u8; 16] {
        self.0
    }
}

impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_name_is_the_hexadecimal_id() {
        let id = ShardId(std::array::from_fn(|i| u8::try_from(i).unwrap() * 17));
        assert_eq!(id.file_name(), "00112233445566778899aabbccddeeff.tshard");
        assert_eq!((id.bytes()[0], id.bytes()[15]), (0, 255));
    }
}
