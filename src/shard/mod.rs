//! One shard file: encode and write, read and decode.

pub(crate) mod decode;
pub(crate) mod encode;
mod layout;
mod planes;
mod predict_mode;
pub(crate) mod reader;
pub(crate) mod recover;
mod rows;
#[cfg(test)]
mod speed_tests;
mod steps;
pub(crate) mod writer;

pub(crate) use decode::{
    Form, Normalize, ReadCounts, RowRun, Scratch, SlotShape, Slots, Table, sample_out_bytes,
};
pub(crate) use encode::{ChunkBlock, EncodedChunk, FieldBlock, encode_chunk};
pub(crate) use reader::{Chunk, ShardReader};
pub(crate) use writer::ShardFileWriter;

// What the shapes streams say: `loader` lays batches out by it, without a look at the format.
pub(crate) use crate::format::shapes::Shapes;
