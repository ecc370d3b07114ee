//! Loops over elements: conversions, quantizing, dequantizing, filters. Plain Rust that the compiler vectorizes, for
//! several levels of vector instructions (`simd.rs`).

pub(crate) mod abs_error;
pub(crate) mod bit_shuffle;
pub(crate) mod byte_shuffle;
pub(crate) mod codebook;
pub(crate) mod convert;
pub(crate) mod delta;
pub(crate) mod dequant;
pub(crate) mod f16c;
pub(crate) mod float_order;
pub(crate) mod huffman;
pub(crate) mod lut;
pub(crate) mod minifloat;
pub(crate) mod pages;
pub(crate) mod planes;
pub(crate) mod predict;
pub(crate) mod prefix;
pub(crate) mod quantize;
pub(crate) mod simd;
pub(crate) mod slots;
pub(crate) mod snappy;
pub(crate) mod stream;
pub(crate) mod values;

/// Elements handled at a time where a loop needs scratch space: small enough for the stack and the L1 cache.
pub(crate) const BLOCK: usize = 1024;
