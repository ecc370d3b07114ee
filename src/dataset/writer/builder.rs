//! [`ShardWriterBuilder`]: options, and the ways to start a writer.

use std::path::Path;

use serde_json::{Map, Value};

use crate::dataset::metadata::Metadata;
use crate::dataset::{Dataset, FieldSpec};
use crate::error::{Error, Result};
use crate::format::forever::MANIFEST_NAME;
use crate::format::schema::Schema;
use crate::format::shard_id::ShardId;

use super::files::random_id;
use super::{Place, ShardWriter};

/// Decoded bytes of a chunk unless asked otherwise.
const CHUNK_BYTES: u64 = 1 << 20;
const MAX_SHARD_LEN: u64 = 256 << 20;
/// The planner's entry of the metadata.
const PLANNER: &str = "planner";

/// Options of a [`ShardWriter`]. Defaults: chunks of 1 MiB before encoding, shards of 256 MiB, a worker per core,
/// random shard ids, an existing dataset is never touched.
#[derive(Clone, Debug)]
#[must_use]
pub struct ShardWriterBuilder {
    fields: Vec<FieldSpec>,
    pub(super) metadata: Metadata,
    pub(super) chunk_bytes: u64,
    pub(super) samples_per_chunk: Option<u32>,
    pub(super) max_shard_len: u64,
    pub(super) num_workers: usize,
    pub(super) seed: Option<u64>,
    overwrite: bool,
}

impl Default for ShardWriterBuilder {
    fn default() -> Self {
        Self {
            fields: Vec::new(),
            metadata: Metadata::default(),
            chunk_bytes: CHUNK_BYTES,
            samples_per_chunk: None,
            max_shard_len: MAX_SHARD_LEN,
            num_workers: 0,
            seed: None,
            overwrite: false,
        }
    }
}

impl ShardWriterBuilder {
    /// Adds a field.
    pub fn field(mut self, field: FieldSpec) -> Self {
        self.fields.push(field);
        self
    }

    /// Adds fields.
    pub fn fields(mut self, fields: impl IntoIterator<Item = FieldSpec>) -> Self {
        self.fields.extend(fields);
        self
    }

    /// Sets one entry of the user's metadata.
    pub fn metadata(mut self, key: impl Into<String>, value: impl Into<Value>) -> Self {
        self.metadata.user.insert(key.into(), value.into());
        self
    }

    /// Bytes of a chunk before encoding, over all fields: the unit of parallel work. Default 1 MiB.
    pub fn chunk_bytes(mut self, bytes: u64) -> Self {
        self.chunk_bytes = bytes.max(1);
        self
    }

    /// Samples of a chunk, instead of [`ShardWriterBuilder::chunk_bytes`].
    pub fn samples_per_chunk(mut self, samples: u32) -> Self {
        self.samples_per_chunk = Some(samples);
        self
    }

    /// Bytes after which a new shard is started. Default 256 MiB. A shard can be one chunk larger.
    pub fn max_shard_len(mut self, bytes: u64) -> Self {
        self.max_shard_len = bytes;
        self
    }

    /// Threads that encode; 0, the default, for one per core. Never changes what is written.
    pub fn num_workers(mut self, workers: usize) -> Self {
        self.num_workers = workers;
        self
    }

    /// Derives shard ids from a seed instead of random bytes, so that the same input gives the same files. Parts that will be
    /// merged, and a dataset that replaces another in its folder, need seeds of their own.
    pub fn shard_ids_from(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// Lets [`ShardWriterBuilder::create`] replace an existing dataset. It stays readable until the new one is
    /// complete.
    pub fn overwrite(mut self, overwrite: bool) -> Self {
        self.overwrite = overwrite;
        self
    }

    /// Starts a new dataset in the folder `path`.
    ///
    /// # Errors
    /// `InvalidArgument` for a contradictory schema or if a dataset is there; `Io`.
    pub fn create(mut self, path: impl AsRef<Path>) -> Result<ShardWriter> {
        let path = path.as_ref();
        // Before anything is made; and again when no other writer can be at work.
        let exists = self.may_create(path)?;
        let schema = self.schema()?;
        let place = Place::take(path)?;
        let exists = self.may_create(path)? || exists;
        let mut replaced = Vec::new();
        if exists && let Ok(old) = Dataset::open(path) {
            replaced = old.shard_ids()?;
        }
        let reasons: Map<String, Value> = self
            .fields
            .iter()
            .filter_map(|field| Some((field.name().to_owned(), field.reasons()?.clone())))
            .collect();
        if !reasons.is_empty() {
            let tools = &mut self.metadata.tools;
            tools.insert(PLANNER.to_owned(), Value::Object(reasons));
        }
        let created_folder = place.created_folder;
        let started = ShardWriter::start(self, path, place, schema, Vec::new(), replaced);
        if started.is_err() && created_folder {
            std::fs::remove_dir(path).ok();
        }
        started
    }

    /// Starts to append to the dataset in the folder `path`. Fields may be left out; if given they must be those of
    /// the dataset, encodings included.
    ///
    /// # Errors
    /// `InvalidArgument` if fields differ; errors of [`Dataset::open`].
    pub fn append_to(mut self, path: impl AsRef<Path>) -> Result<ShardWriter> {
        let path = path.as_ref();
        // Told without making a folder if there is none.
        Dataset::open(path)?;
        let place = Place::take(path)?;
        let dataset = Dataset::open(path)?;
        let schema = dataset.schema().clone();
        if !self.fields.is_empty() && self.schema()? != schema {
            return Err(Error::invalid(
                "the fields differ from those of the dataset (name, dtype, shape, encoding or static scales); append with the \
                 same, or write another dataset",
            )
            .in_file(path));
        }
        self.metadata
            .add(dataset.metadata(), dataset.tool_metadata());
        let previous = dataset.shard_records()?;
        ShardWriter::start(self, path, place, schema, previous, Vec::new())
    }

    /// Starts one of several parts of a dataset, in a new folder `path/part-<random>`: each process writes its own,
    /// and [`crate::merge`] commits them together without copying data.
    ///
    /// # Errors
    /// As [`ShardWriterBuilder::create`].
    pub fn part(self, path: impl AsRef<Path>) -> Result<ShardWriter> {
        let id = ShardId(random_id()?);
        self.create(path.as_ref().join(format!("part-{id}")))
    }

    /// Whether a dataset is there.
    fn may_create(&self, path: &Path) -> Result<bool> {
        let exists = path.join(MANIFEST_NAME).exists();
        if exists && !self.overwrite {
            return Err(Error::invalid(
                "there is a dataset already; overwrite it or append to it (`--overwrite`, `--append`)",
            )
            .in_file(path));
        }
        Ok(exists)
    }

    fn schema(&self) -> Result<Schema> {
        Schema::new(
            self.fields
                .iter()
                .map(FieldSpec::resolve)
                .collect::<Result<_>>()?,
        )
    }
}
