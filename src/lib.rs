//! A streaming loader for cached tensors: activations, latents, embeddings, logits, spectrograms, pre-decoded images.
//!
//! tensorshard keeps tensors **quantized and compressed in sharded files with an index**, and feeds a training loop
//! from a memory-mapped, prefetching reader that decompresses and dequantizes batches on all cores.
//!
//! # Two doors
//!
//! * [`Loader`] is for training loops: batches in a reproducible order, decoded ahead.
//!   `Loader::open(path)?.batches(64)` is all it takes.
//! * [`Dataset`] is for everything else: the schema, single samples by index, [`Dataset::inspect`],
//!   [`Dataset::verify`].
//!
//! [`ShardWriter`] writes datasets, [`merge`] joins those that several processes have written, [`salvage`] makes a
//! readable one of what is damaged or was interrupted, and [`import`] reads
//! NumPy's files. The `tensorshard` command does all of it without a line of code.
//!
//! # Words
//!
//! A *dataset* is a folder of *shards* (files) and a *manifest*. A shard holds *chunks* of consecutive *samples*; a
//! sample has *fields* (named tensors). Inside a chunk every field has its own *streams*, cut in *pieces* of about
//! 64 KiB: the unit of codec, filter and checksum. A *quantizer* turns elements into stored elements and may lose
//! precision, a *filter* rearranges bytes, a *codec* shortens them. The format is specified in `format-spec.md`.
//!
//! # Features
//!
//! * `cli` (default): the `tensorshard` command.
//! * `tokio` (default): `Loader::stream`, batches as a `futures::Stream`.
//! * `lzo`: the codec `lzo`; without it such fields are not readable.
//! * `ndarray`: batches and samples as `ndarray` views.

// So that the command, a module of this crate, reads like any other user of it.
#[cfg(feature = "cli")]
extern crate self as tensorshard;

mod checksum;
#[cfg(feature = "cli")]
pub mod cli;
mod codec;
mod dataset;
mod dtype;
mod error;
mod fault;
mod filter;
mod format;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
pub mod import;
mod kernel;
mod loader;
mod pool;
mod quant;
mod shard;
mod split;
mod storage;
mod sync;
mod tensor;

pub use codec::{CodecId, CodecSpec};
pub use dataset::{
    Batch, Damage, Dataset, DatasetBuilder, DatasetReport, ErrorReport, FieldBatch, FieldOutput,
    FieldReport, FieldSpec, Goal, MeasuredEncoding, MergeSummary, MissingChunks, Plan, Planner,
    Preset, Ragged, SalvageReport, SalvagedShard, Sample, Segment, ShardCheck, ShardReport,
    ShardWriter, ShardWriterBuilder, Unlisted, VerifyReport, WriteProgress, WriteSummary, merge,
    salvage,
};
pub use dtype::DType;
pub use error::{Error, ErrorKind, Location, Result};
pub use filter::{FilterId, FilterSpec, Predict, PredictMode};
pub use format::schema::{Field, Kind, Schema};
pub use format::shard_id::ShardId;
#[cfg(feature = "tokio")]
pub use loader::BatchStream;
pub use loader::{
    Batches, Bitmap, Damaged, Distribution, Limit, Loader, LoaderBuilder, LoaderState, LoaderStats,
    MapOrdered, Mixture, MixtureEnd, Pack, Shuffle, SkippedChunk, Split, Tail, Windows,
};
pub use pool::{HostAllocator, HostMemory};
pub use quant::{
    AbsErrorParams, AffineParams, Calibrator, CodebookParams, ErrorBound, Fp8Params, Granularity,
    MxFormat, MxParams, NonFinite, QuantParams, QuantSpec, Scales,
};
pub use split::SplitId;
pub use storage::IoMode;
pub use tensor::{Element, Tensor, TensorView, to_le_bytes};

/// Compiles and runs the Rust code of README.md.
#[cfg(all(doctest, feature = "tokio"))]
#[doc = include_str!("../README.md")]
struct ReadmeDoctest;

/// What `f` returns at each level of vector instructions of this machine, for fuzz targets.
#[cfg(fuzzing)]
#[doc(hidden)]
pub fn at_every_level<T>(f: impl FnMut() -> T) -> Vec<T> {
    kernel::simd::at_every_level(f)
}
