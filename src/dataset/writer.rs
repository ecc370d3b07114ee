//! [`ShardWriter`]: samples in, a dataset out. Chunks are encoded on all cores and written in order.

use std::collections::BTreeMap;
use std::fs;
use std::num::NonZero;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use serde_json::{Map, Value};

use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::format::forever::{DEFAULT_PIECE_BYTES, MANIFEST_NAME};
use crate::format::header::ShardHeader;
use crate::format::limits;
use crate::format::manifest::{Manifest, ShardRecord};
use crate::format::schema::{Field, Kind, Schema};
use crate::format::shard_id::ShardId;
use crate::shard::{ChunkBlock, EncodedChunk, FieldBlock, ShardFileWriter, encode_chunk};
use crate::storage::{FileSink, publish, sync_folder};
use crate::tensor::TensorView;

use super::inspect::{FieldReport, add_chunk};
use super::{Dataset, FieldSpec, metadata};

/// Decoded bytes of a chunk unless asked otherwise.
const CHUNK_BYTES: u64 = 1 << 20;
/// A chunk of a ragged dataset that outgrows its budget this many times is closed early.
const CHUNK_OVERSHOOT: u64 = 64;
/// Samples of a chunk, however small they are.
const MAX_SAMPLES_PER_CHUNK: u64 = 1 << 20;
const MAX_SHARD_LEN: u64 = 256 << 20;

/// Options of a [`ShardWriter`]. Defaults: chunks of 1 MiB before encoding, shards of 256 MiB, a worker per core,
/// random shard ids, an existing dataset is never touched.
#[derive(Clone, Debug)]
#[must_use]
pub struct ShardWriterBuilder {
    fields: Vec<FieldSpec>,
    metadata: Map<String, Value>,
    chunk_bytes: u64,
    samples_per_chunk: Option<u32>,
    max_shard_len: u64,
    num_workers: usize,
    seed: Option<u64>,
    overwrite: bool,
}

/// Writes a dataset. Nothing exists under its final name before [`ShardWriter::finish`] (or
/// [`ShardWriter::flush`]); a writer that is dropped before leaves nothing behind.
///
/// ```
/// use tensorshard::{DType, FieldSpec, ShardWriter, TensorView};
/// # fn main() -> tensorshard::Result<()> {
/// # let dir = tempfile::tempdir().unwrap();
/// # let path = dir.path().join("latents");
/// let mut writer = ShardWriter::builder()
///     .field(FieldSpec::new("latent", DType::F32, [4, 8, 8]))
///     .field(FieldSpec::new("label", DType::I64, []))
///     .create(&path)?;
/// for i in 0..100i64 {
///     let latent = tensorshard::to_le_bytes(&[i as f32; 256]);
///     writer.append(&[
///         ("latent", TensorView::new(DType::F32, &[4, 8, 8], &latent)?),
///         ("label", TensorView::new(DType::I64, &[], &i.to_le_bytes())?),
///     ])?;
/// }
/// let summary = writer.finish()?;
/// assert_eq!(summary.num_samples, 100);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct ShardWriter {
    path: PathBuf,
    schema: Arc<Schema>,
    schema_bytes: Arc<Vec<u8>>,
    metadata: Vec<u8>,
    options: ShardWriterBuilder,
    /// Samples that are not yet a chunk.
    pending: ChunkBlock,
    pending_bytes: u64,
    /// Fixed for the shards being written, once known.
    samples_per_chunk: Option<u32>,
    appended: u64,
    next_seq: u64,
    pipeline: Option<Pipeline>,
    shared: Arc<Shared>,
    /// Shards that were there before, when appending.
    previous: Vec<ShardRecord>,
    /// Shard files to delete after the commit, when overwriting.
    replaced: Vec<ShardId>,
    created_folder: bool,
    /// How many of the sealed shards a manifest on disk lists.
    committed: usize,
    finished: bool,
}

/// What was written.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct WriteSummary {
    /// The dataset's folder.
    pub path: PathBuf,
    /// Samples written by this writer.
    pub num_samples: u64,
    /// Shards written by this writer.
    pub num_shards: u64,
    /// Bytes of these shards, headers and indexes included.
    pub stored_bytes: u64,
    /// Sizes and errors of each field.
    pub fields: Vec<FieldReport>,
}

/// Progress so far, readable while workers are busy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct WriteProgress {
    /// Source bytes of the chunks written so far.
    pub raw_bytes: u64,
    /// Bytes of these chunks in the shards.
    pub stored_bytes: u64,
}

/// State shared with the threads.
#[derive(Debug, Default)]
struct Shared {
    error: Mutex<Option<Error>>,
    failed: std::sync::atomic::AtomicBool,
    sealed: Mutex<Vec<ShardRecord>>,
    reports: Mutex<Vec<FieldReport>>,
    raw_bytes: AtomicU64,
    stored_bytes: AtomicU64,
}

impl Shared {
    fn fail(&self, error: Error) {
        self.error
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get_or_insert(error);
        self.failed.store(true, Ordering::Release);
    }
}

impl Default for ShardWriterBuilder {
    fn default() -> Self {
        Self {
            fields: Vec::new(),
            metadata: Map::new(),
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
        self.metadata.insert(key.into(), value.into());
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

    /// Derives shard ids from a seed instead of random bytes, so that the same input gives the same files.
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
    pub fn create(self, path: impl AsRef<Path>) -> Result<ShardWriter> {
        let path = path.as_ref();
        let exists = path.join(MANIFEST_NAME).exists();
        if exists && !self.overwrite {
            return Err(Error::invalid(
                "there is a dataset already; overwrite it or append to it (`--overwrite`, `--append`)",
            )
            .in_file(path));
        }
        let mut replaced = Vec::new();
        if exists && let Ok(old) = Dataset::open(path) {
            replaced = old.shard_ids()?;
        }
        let schema = self.schema()?;
        ShardWriter::start(self, path, schema, Vec::new(), replaced)
    }

    /// Starts to append to the dataset in the folder `path`. Fields may be left out; if given they must be those of
    /// the dataset, encodings included.
    ///
    /// # Errors
    /// `InvalidArgument` if fields differ; errors of [`Dataset::open`].
    pub fn append_to(mut self, path: impl AsRef<Path>) -> Result<ShardWriter> {
        let path = path.as_ref();
        let dataset = Dataset::open(path)?;
        let schema = dataset.schema().clone();
        if !self.fields.is_empty() && self.schema()? != schema {
            return Err(Error::invalid(
                "the fields differ from those of the dataset (name, dtype, shape, encoding or static scales)",
            )
            .in_file(path));
        }
        for (key, value) in dataset.metadata() {
            self.metadata
                .entry(key.clone())
                .or_insert_with(|| value.clone());
        }
        let previous = dataset.shard_records()?;
        ShardWriter::start(self, path, schema, previous, Vec::new())
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

    fn schema(&self) -> Result<Schema> {
        Schema::new(
            self.fields
                .iter()
                .map(FieldSpec::resolve)
                .collect::<Result<_>>()?,
        )
    }
}

impl ShardWriter {
    /// A writer with options.
    pub fn builder() -> ShardWriterBuilder {
        ShardWriterBuilder::default()
    }

    fn start(
        options: ShardWriterBuilder,
        path: &Path,
        schema: Schema,
        previous: Vec<ShardRecord>,
        replaced: Vec<ShardId>,
    ) -> Result<Self> {
        if options
            .samples_per_chunk
            .is_some_and(|n| n == 0 || u64::from(n) > limits::SAMPLES_PER_CHUNK)
        {
            return Err(Error::invalid(format!(
                "samples_per_chunk is 1 to {}",
                limits::SAMPLES_PER_CHUNK
            )));
        }
        check_workers(options.num_workers)?;
        let metadata = metadata::encode(&options.metadata)?;
        let schema_bytes = Arc::new(schema.encode()?);
        let created_folder = !path.exists();
        fs::create_dir_all(path).map_err(|e| Error::io("create folder", path, e))?;
        if created_folder && let Some(parent) = path.parent().filter(|p| !p.as_os_str().is_empty())
        {
            sync_folder(parent)?;
        }
        let schema = Arc::new(schema);
        let shared = Arc::new(Shared::default());
        *shared
            .reports
            .lock()
            .unwrap_or_else(PoisonError::into_inner) =
            schema.fields().iter().map(FieldReport::new).collect();
        let files = ShardFiles {
            folder: path.to_owned(),
            version_minor: schema.version_minor()?,
            schema_bytes: Arc::clone(&schema_bytes),
            ids: ShardIds {
                seed: options.seed,
                next: previous.len() as u64,
            },
            max_shard_len: options.max_shard_len,
            shared: Arc::clone(&shared),
            current: None,
        };
        let pipeline = Pipeline::start(&options, &schema, files)?;
        let samples_per_chunk = options
            .samples_per_chunk
            .or_else(|| fixed_samples_per_chunk(&schema, options.chunk_bytes));
        let mut writer = Self {
            path: path.to_owned(),
            schema,
            schema_bytes,
            metadata,
            options,
            pending: ChunkBlock::default(),
            pending_bytes: 0,
            samples_per_chunk,
            appended: 0,
            next_seq: 0,
            pipeline: Some(pipeline),
            shared,
            previous,
            replaced,
            created_folder,
            committed: 0,
            finished: false,
        };
        writer.reset_pending();
        Ok(writer)
    }

    /// The folder that is written to.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The fields.
    pub fn schema(&self) -> &Schema {
        &self.schema
    }

    /// Progress so far.
    pub fn progress(&self) -> WriteProgress {
        WriteProgress {
            raw_bytes: self.shared.raw_bytes.load(Ordering::Relaxed),
            stored_bytes: self.shared.stored_bytes.load(Ordering::Relaxed),
        }
    }

    fn reset_pending(&mut self) {
        self.pending = ChunkBlock {
            num_samples: 0,
            first_sample: self.appended,
            fields: self
                .schema
                .fields()
                .iter()
                .map(|_| FieldBlock::default())
                .collect(),
        };
        self.pending_bytes = 0;
    }

    /// Appends one sample: a value for every field, by name.
    ///
    /// # Errors
    /// `InvalidArgument` if a field is missing, unknown, or has the wrong dtype or shape (nothing is appended then);
    /// any error of a chunk that was encoded or written in the background since the last call.
    pub fn append(&mut self, sample: &[(&str, TensorView<'_>)]) -> Result<()> {
        let views = self.by_field(sample)?;
        for (field, view) in self.schema.fields().iter().zip(&views) {
            check_value(field, view, view.shape())?;
        }
        for (ordinal, view) in views.iter().enumerate() {
            self.push(ordinal, view.shape(), view.dtype(), view.data())?;
        }
        self.after_append(1)
    }

    /// Appends many samples: for every field an array whose first axis counts samples.
    ///
    /// # Errors
    /// As [`ShardWriter::append`].
    pub fn extend(&mut self, arrays: &[(&str, TensorView<'_>)]) -> Result<()> {
        let views = self.by_field(arrays)?;
        let mut num_samples = None;
        for (field, view) in self.schema.fields().iter().zip(&views) {
            let Some((&n, shape)) = view.shape().split_first() else {
                return Err(
                    Error::invalid("an array of samples needs a first axis").in_field(field.name())
                );
            };
            check_value(field, view, shape)?;
            if num_samples.replace(n).is_some_and(|other| other != n) {
                return Err(Error::invalid(format!(
                    "{n} samples where the field before has others"
                ))
                .in_field(field.name()));
            }
        }
        let num_samples = num_samples.unwrap_or(0);
        let mut done = 0;
        while done < num_samples {
            let count = self.room().min(num_samples - done);
            for (ordinal, view) in views.iter().enumerate() {
                let sample_bytes = view.data().len() / num_samples;
                let data = &view.data()[done * sample_bytes..(done + count) * sample_bytes];
                let shape = &view.shape()[1..];
                if self.schema.fields()[ordinal].is_ragged() {
                    let step = sample_bytes.max(1);
                    let mut values = data.chunks(step);
                    for _ in 0..count {
                        self.push(ordinal, shape, view.dtype(), values.next().unwrap_or(&[]))?;
                    }
                } else {
                    self.push(ordinal, shape, view.dtype(), data)?;
                }
            }
            self.after_append(u32::try_from(count).unwrap_or(u32::MAX))?;
            done += count;
        }
        Ok(())
    }

    /// Samples that certainly fit in the pending chunk.
    fn room(&self) -> usize {
        match self.samples_per_chunk {
            Some(n) if self.schema.fields().iter().all(|field| !field.is_ragged()) => {
                (n - self.pending.num_samples) as usize
            }
            _ => 1,
        }
    }

    /// The values in the order of the schema.
    fn by_field<'v>(&self, values: &[(&str, TensorView<'v>)]) -> Result<Vec<TensorView<'v>>> {
        let fields = self.schema.fields();
        let mut out = Vec::with_capacity(fields.len());
        for (i, field) in fields.iter().enumerate() {
            let value = values
                .get(i)
                .filter(|(name, _)| *name == field.name())
                .or_else(|| values.iter().find(|(name, _)| *name == field.name()));
            let Some((_, view)) = value else {
                return Err(Error::invalid(format!(
                    "the sample has no value for field {:?}",
                    field.name()
                )));
            };
            out.push(*view);
        }
        if values.len() != fields.len() {
            let unknown = values
                .iter()
                .find(|(name, _)| self.schema.index_of(name).is_none());
            return Err(unknown.map_or_else(
                || Error::invalid("the sample has a field twice"),
                |(name, _)| self.schema.no_such_field(name),
            ));
        }
        Ok(out)
    }

    fn push(&mut self, ordinal: usize, shape: &[usize], dtype: DType, data: &[u8]) -> Result<()> {
        let field = &self.schema.fields()[ordinal];
        let block = &mut self.pending.fields[ordinal];
        if field.is_ragged() {
            block
                .shapes
                .push(shape, field.dtype().is_none().then_some(dtype))?;
        }
        block.data.extend_from_slice(data);
        self.pending_bytes += data.len() as u64;
        Ok(())
    }

    fn after_append(&mut self, count: u32) -> Result<()> {
        self.pending.num_samples += count;
        self.appended += u64::from(count);
        match self.samples_per_chunk {
            Some(n) if self.pending.num_samples >= n => self.send_chunk(),
            // Samples grew since the chunk size was chosen: close the chunk, and with it the shard, early.
            Some(_)
                if self.pending_bytes
                    >= self.options.chunk_bytes.saturating_mul(CHUNK_OVERSHOOT) =>
            {
                self.send_chunk()?;
                self.samples_per_chunk = self.options.samples_per_chunk;
                Ok(())
            }
            None if self.pending_bytes >= self.options.chunk_bytes
                || u64::from(self.pending.num_samples) >= MAX_SAMPLES_PER_CHUNK =>
            {
                self.send_chunk()
            }
            _ => self.check_failed(),
        }
    }

    fn check_failed(&self) -> Result<()> {
        if !self.shared.failed.load(Ordering::Acquire) {
            return Ok(());
        }
        let error = self
            .shared
            .error
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        Err(error.unwrap_or_else(|| {
            Error::invalid("this writer failed before; its dataset was not committed")
        }))
    }

    /// Hands the pending samples to the workers. Waits only when the queue is full.
    fn send_chunk(&mut self) -> Result<()> {
        self.check_failed()?;
        if self.pending.num_samples == 0 {
            return Ok(());
        }
        let samples_per_chunk = *self
            .samples_per_chunk
            .get_or_insert(self.pending.num_samples);
        let block = std::mem::take(&mut self.pending);
        self.reset_pending();
        let seq = self.next_seq;
        self.next_seq += 1;
        let sent = self.pipeline.as_ref().is_some_and(|p| {
            p.send(Task {
                seq,
                samples_per_chunk,
                block,
            })
        });
        if sent { Ok(()) } else { self.check_failed() }
    }

    /// Seals the current shard and commits all samples appended so far: when this returns they are durable, and the
    /// folder is a readable dataset, marked as unfinished.
    ///
    /// # Errors
    /// `Io`, or any error of a chunk encoded in the background.
    pub fn flush(&mut self) -> Result<()> {
        self.seal()?;
        self.commit(true)
    }

    /// Writes what is pending and closes the current shard.
    fn seal(&mut self) -> Result<()> {
        self.send_chunk()?;
        let (ack, done) = bounded(1);
        let seq = self.next_seq;
        self.next_seq += 1;
        let sent = self
            .pipeline
            .as_ref()
            .is_some_and(|p| p.results.send(Message::Seal { seq, ack }).is_ok());
        if sent {
            // An error here means that the writer thread is gone; it has left an error.
            done.recv().ok();
        }
        self.check_failed()
    }

    fn commit(&mut self, unfinished: bool) -> Result<()> {
        let sealed = self
            .shared
            .sealed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let shards: Vec<ShardRecord> = self.previous.iter().chain(&sealed).copied().collect();
        let bytes = Manifest::encode(&self.schema_bytes, &self.metadata, &shards, unfinished)?;
        publish(&self.path.join(MANIFEST_NAME), &bytes)?;
        self.committed = sealed.len();
        Ok(())
    }

    /// Writes everything that is pending and commits the dataset: when this returns it is complete and durable.
    ///
    /// # Errors
    /// `Io`, or any error of a chunk encoded in the background. The dataset is not committed then.
    pub fn finish(mut self) -> Result<WriteSummary> {
        self.seal()?;
        self.pipeline = None;
        self.check_failed()?;
        self.commit(false)?;
        self.finished = true;
        for shard_id in &self.replaced {
            // A leftover that is in no manifest is harmless.
            fs::remove_file(self.path.join(shard_id.file_name())).ok();
        }
        let sealed = self
            .shared
            .sealed
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        Ok(WriteSummary {
            path: self.path.clone(),
            num_samples: self.appended,
            num_shards: sealed.len() as u64,
            stored_bytes: sealed.iter().map(|shard| shard.file_len).sum(),
            fields: self
                .shared
                .reports
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone(),
        })
    }
}

impl Drop for ShardWriter {
    fn drop(&mut self) {
        // Ends the threads; a shard in progress is a temporary file that its sink removes.
        self.pipeline = None;
        if self.finished {
            return;
        }
        let sealed = self
            .shared
            .sealed
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        for shard in sealed.iter().skip(self.committed) {
            fs::remove_file(self.path.join(shard.shard_id.file_name())).ok();
        }
        if self.created_folder && self.committed == 0 {
            // Only succeeds if the folder is empty.
            fs::remove_dir(&self.path).ok();
        }
    }
}

/// Threads that may be asked for: beyond, the system runs out of address space before it says so.
const MAX_WORKERS: usize = 1024;

/// Refuses more workers than any machine can use.
pub(crate) fn check_workers(num_workers: usize) -> Result<()> {
    if num_workers <= MAX_WORKERS {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "{num_workers} workers are too many; ask for 0 (one per core) to {MAX_WORKERS}"
    )))
}

fn check_value(field: &Field, view: &TensorView<'_>, shape: &[usize]) -> Result<()> {
    let fail = |message: String| Err(Error::invalid(message).in_field(field.name()));
    if field.dtype().is_some_and(|dtype| dtype != view.dtype()) {
        return fail(format!("the value is {}, the field {field}", view.dtype()));
    }
    let fits = match field.dims() {
        None => shape.len() as u64 <= limits::RANK,
        Some(dims) => {
            dims.len() == shape.len()
                && dims
                    .iter()
                    .zip(shape)
                    .all(|(dim, &n)| dim.is_none_or(|dim| dim == n))
        }
    };
    if !fits || shape.iter().any(|&n| u32::try_from(n).is_err()) && field.is_ragged() {
        return fail(format!(
            "the value has shape {shape:?}, the field is {field}"
        ));
    }
    if field.kind() == Kind::String && std::str::from_utf8(view.data()).is_err() {
        return fail("the text is not UTF-8; use a bytes field".to_owned());
    }
    if view.dtype() == DType::Bool && view.data().iter().any(|&b| b > 1) {
        return fail("a bool is a byte 0 or 1".to_owned());
    }
    Ok(())
}

/// Samples of a chunk if all fields are fixed.
fn fixed_samples_per_chunk(schema: &Schema, chunk_bytes: u64) -> Option<u32> {
    let mut sample_bytes = 0u64;
    for field in schema.fields() {
        let elements = crate::tensor::num_elements(&field.fixed_shape()?)? as u64;
        sample_bytes =
            sample_bytes.saturating_add(elements.saturating_mul(field.dtype()?.size() as u64));
    }
    let n = chunk_bytes
        .checked_div(sample_bytes)
        .unwrap_or(MAX_SAMPLES_PER_CHUNK)
        .clamp(1, MAX_SAMPLES_PER_CHUNK);
    u32::try_from(n).ok()
}

pub(crate) fn random_id() -> Result<[u8; 16]> {
    let mut id = [0; 16];
    getrandom::fill(&mut id)
        .map_err(|e| Error::io("get random bytes", "", std::io::Error::other(e)))?;
    Ok(id)
}

/// Makes shard ids.
struct ShardIds {
    seed: Option<u64>,
    next: u64,
}

impl ShardIds {
    fn next(&mut self) -> Result<ShardId> {
        let Some(seed) = self.seed else {
            return Ok(ShardId(random_id()?));
        };
        let n = self.next;
        self.next += 1;
        let mut id = [0; 16];
        id[..8].copy_from_slice(&mix(seed.wrapping_add(n.wrapping_mul(2))).to_le_bytes());
        id[8..].copy_from_slice(
            &mix(seed.wrapping_add(n.wrapping_mul(2)).wrapping_add(1)).to_le_bytes(),
        );
        Ok(ShardId(id))
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014), for reproducible ids.
fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

struct Task {
    seq: u64,
    samples_per_chunk: u32,
    block: ChunkBlock,
}

enum Message {
    Chunk {
        seq: u64,
        samples_per_chunk: u32,
        encoded: Result<EncodedChunk>,
    },
    Seal {
        seq: u64,
        ack: Sender<()>,
    },
}

impl Message {
    fn seq(&self) -> u64 {
        match self {
            Self::Chunk { seq, .. } | Self::Seal { seq, .. } => *seq,
        }
    }
}

/// Encoding workers and the one thread that writes, in order.
struct Pipeline {
    tasks: Option<Sender<Task>>,
    results: Sender<Message>,
    /// One token for each chunk that may be between `append` and the file.
    tokens: Receiver<()>,
    threads: Vec<JoinHandle<()>>,
}

impl Pipeline {
    fn start(
        options: &ShardWriterBuilder,
        schema: &Arc<Schema>,
        files: ShardFiles,
    ) -> Result<Self> {
        let workers = match options.num_workers {
            0 => std::thread::available_parallelism().map_or(1, NonZero::get),
            n => n,
        };
        let in_flight = 2 * workers + 2;
        let (tasks, task_queue) = bounded::<Task>(in_flight);
        let (results, result_queue) = unbounded::<Message>();
        let (token_sender, tokens) = bounded(in_flight);
        for _ in 0..in_flight {
            token_sender.send(()).ok();
        }
        let mut threads = Vec::new();
        let spawn = |name: String, body: Box<dyn FnOnce() + Send>| {
            std::thread::Builder::new()
                .name(name)
                .spawn(body)
                .map_err(|e| Error::io("start a thread", "", e))
        };
        for i in 0..workers {
            let (task_queue, results, schema) =
                (task_queue.clone(), results.clone(), Arc::clone(schema));
            let body = move || {
                for task in task_queue {
                    let encode = || encode_chunk(&schema, DEFAULT_PIECE_BYTES, &task.block);
                    let encoded = catch_unwind(AssertUnwindSafe(encode))
                        .unwrap_or_else(|payload| Err(Error::panicked("encode", payload.as_ref())));
                    let message = Message::Chunk {
                        seq: task.seq,
                        samples_per_chunk: task.samples_per_chunk,
                        encoded,
                    };
                    if results.send(message).is_err() {
                        return;
                    }
                }
            };
            threads.push(spawn(format!("tensorshard-encode-{i}"), Box::new(body))?);
        }
        let body = move || write_in_order(files, &result_queue, &token_sender);
        threads.push(spawn("tensorshard-write".to_owned(), Box::new(body))?);
        Ok(Self {
            tasks: Some(tasks),
            results,
            tokens,
            threads,
        })
    }

    /// False if the threads are gone.
    fn send(&self, task: Task) -> bool {
        self.tokens.recv().is_ok()
            && self
                .tasks
                .as_ref()
                .is_some_and(|tasks| tasks.send(task).is_ok())
    }
}

impl Drop for Pipeline {
    fn drop(&mut self) {
        self.tasks = None;
        // The writer thread ends when every sender is gone: the workers' and this one.
        let (dead, _) = unbounded();
        self.results = dead;
        for thread in self.threads.drain(..) {
            thread.join().ok();
        }
    }
}

impl std::fmt::Debug for Pipeline {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pipeline")
            .field("threads", &self.threads.len())
            .finish_non_exhaustive()
    }
}

fn write_in_order(mut files: ShardFiles, queue: &Receiver<Message>, tokens: &Sender<()>) {
    let mut waiting = BTreeMap::new();
    let mut next = 0u64;
    for message in queue {
        waiting.insert(message.seq(), message);
        while let Some(message) = waiting.remove(&next) {
            next += 1;
            let (result, ack) = match message {
                Message::Chunk {
                    samples_per_chunk,
                    encoded,
                    ..
                } => {
                    let result = encoded.and_then(|chunk| files.write(&chunk, samples_per_chunk));
                    tokens.try_send(()).ok();
                    (result, None)
                }
                Message::Seal { ack, .. } => (files.seal(), Some(ack)),
            };
            if let Err(error) = result {
                files.current = None;
                files.shared.fail(error);
            }
            if let Some(ack) = ack {
                ack.send(()).ok();
            }
        }
    }
}

/// The shard files of one writer.
struct ShardFiles {
    folder: PathBuf,
    version_minor: u16,
    schema_bytes: Arc<Vec<u8>>,
    ids: ShardIds,
    max_shard_len: u64,
    shared: Arc<Shared>,
    current: Option<ShardFileWriter<FileSink>>,
}

impl ShardFiles {
    fn write(&mut self, chunk: &EncodedChunk, samples_per_chunk: u32) -> Result<()> {
        if self.shared.failed.load(Ordering::Acquire) {
            return Ok(());
        }
        if self
            .current
            .as_ref()
            .is_some_and(|shard| shard.samples_per_chunk() != samples_per_chunk)
        {
            self.seal()?;
        }
        let mut shard = match self.current.take() {
            Some(shard) => shard,
            None => self.open(samples_per_chunk)?,
        };
        shard.append(chunk)?;
        let full = shard.is_full() || shard.file_len() >= self.max_shard_len;
        self.current = Some(shard);
        self.shared
            .raw_bytes
            .fetch_add(chunk.raw_bytes, Ordering::Relaxed);
        let stored: u64 = chunk
            .streams
            .iter()
            .map(|stream| stream.data.len() as u64)
            .sum();
        self.shared
            .stored_bytes
            .fetch_add(stored, Ordering::Relaxed);
        add_chunk(
            &mut self
                .shared
                .reports
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
            chunk,
        );
        if full { self.seal() } else { Ok(()) }
    }

    fn open(&mut self, samples_per_chunk: u32) -> Result<ShardFileWriter<FileSink>> {
        let shard_id = self.ids.next()?;
        let path = self.folder.join(shard_id.file_name());
        if path.exists() {
            return Err(Error::invalid(
                "this shard exists already; use another seed for shard ids",
            )
            .in_file(path));
        }
        let header = ShardHeader {
            version_minor: self.version_minor,
            shard_id,
            samples_per_chunk,
            piece_bytes: DEFAULT_PIECE_BYTES,
            schema_bytes: self.schema_bytes.as_ref().clone(),
        };
        ShardFileWriter::create(FileSink::create(path)?, &header)
    }

    fn seal(&mut self) -> Result<()> {
        let Some(shard) = self.current.take() else {
            return Ok(());
        };
        let (record, _) = shard.finish()?;
        self.shared
            .sealed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(record);
        Ok(())
    }
}
