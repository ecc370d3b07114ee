//! Compressed tensor shards.

mod checksum;
pub mod codec;
pub mod dtype;
pub mod error;
pub mod filter;
mod kernel;
pub mod quant;
pub mod tensor;
