//! Loops over elements: conversions, quantizing, dequantizing. Plain Rust that the compiler vectorizes.

pub(crate) mod convert;
pub(crate) mod dequant;
pub(crate) mod lut;
pub(crate) mod quantize;
pub(crate) mod slots;

/// Elements handled at a time where a loop needs scratch space: small enough for the stack and the L1 cache.
pub(crate) const BLOCK: usize = 1024;
