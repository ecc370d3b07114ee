//! [`ShardWriter`]: samples in, a dataset out. Chunks are encoded on all cores and written in order.

mod builder;
#[cfg(test)]
mod fault_tests;
mod files;
mod pipeline;

pub use builder::ShardWriterBuilder;
pub(crate) use files::mix;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::format::forever::MANIFEST_NAME;
use crate::format::limits;
use crate::format::manifest::{Manifest, ShardRecord};
use crate::format::schema::{Field, Kind, Schema};
use crate::format::shard_id::ShardId;
use crate::shard::{ChunkBlock, FieldBlock};
use crate::storage::{FolderLock, create_folder, lock_folder, publish, remove_file};
use crate::sync::channel::bounded;
use crate::tensor::TensorView;

use super::inspect::FieldReport;
use super::metadata;

use files::{ShardFiles, ShardIds};
use pipeline::{Pipeline, Shared, Task};

/// A chunk of a ragged dataset that outgrows its budget this many times is closed early.
const CHUNK_OVERSHOOT: u64 = 64;
/// Samples of a chunk, however small they are.
const MAX_SAMPLES_PER_CHUNK: u64 = 1 << 20;

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
    /// Keeps other writers out.
    #[expect(dead_code, reason = "held, not used")]
    lock: Option<FolderLock>,
}

/// The folder of a dataset that is to be written.
struct Place {
    created_folder: bool,
    lock: Option<FolderLock>,
}

impl Place {
    /// Makes the folder if it is not there, and keeps other writers out of it.
    fn take(path: &Path) -> Result<Self> {
        let created_folder = !path.exists();
        create_folder(path)?;
        Ok(Self {
            created_folder,
            lock: lock_folder(path)?,
        })
    }
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

impl ShardWriter {
    /// A writer with options.
    pub fn builder() -> ShardWriterBuilder {
        ShardWriterBuilder::default()
    }

    fn start(
        options: ShardWriterBuilder,
        path: &Path,
        place: Place,
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
        let Place {
            created_folder,
            lock,
        } = place;
        let schema = Arc::new(schema);
        let shared = Arc::new(Shared::default());
        *shared
            .reports
            .lock()
            .unwrap_or_else(PoisonError::into_inner) =
            schema.fields().iter().map(FieldReport::new).collect();
        let ids = ShardIds::new(options.seed, previous.len() as u64);
        let files = ShardFiles::new(
            path,
            schema.version_minor()?,
            Arc::clone(&schema_bytes),
            ids,
            options.max_shard_len,
            Arc::clone(&shared),
        )?;
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
            lock,
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
        // The memory of a chunk that is encoded already: fresh memory costs more than the copy.
        let spare = self.pipeline.as_ref().and_then(Pipeline::spare);
        self.pending = spare.unwrap_or_default();
        self.pending
            .fields
            .resize_with(self.schema.fields().len(), FieldBlock::default);
        self.pending.first_sample = self.appended;
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
            Error::invalid(
                "this writer failed before; its dataset was not committed, write it again",
            )
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
        let seq = self.next_seq;
        self.next_seq += 1;
        let sent = self.pipeline.as_ref().is_some_and(|p| {
            p.send(Task {
                seq,
                samples_per_chunk,
                block,
            })
        });
        self.reset_pending();
        if sent { Ok(()) } else { self.gone() }
    }

    /// The threads ended, or dropped a request, before they were asked to: samples are lost, which must not look like
    /// success.
    fn gone(&mut self) -> Result<()> {
        // A thread may let go of its end of a channel just before it says why: the reason is there when it has ended.
        self.pipeline = None;
        self.check_failed()?;
        Err(Error::panicked("write", &"the writing thread is gone"))
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
        let sent = self.pipeline.as_ref().is_some_and(|p| p.seal(seq, ack));
        let sealed = sent && done.recv().is_ok();
        self.check_failed()?;
        if sealed { Ok(()) } else { self.gone() }
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
        let path = self.path.join(MANIFEST_NAME);
        let published = publish(&path, &bytes);
        let is_there = match &published {
            Ok(()) => true,
            // It may be in place, and only not durable: then its shards must stay.
            Err(_) => match fs::read(&path) {
                Ok(found) => found == bytes,
                Err(e) => e.kind() != std::io::ErrorKind::NotFound,
            },
        };
        if is_there {
            self.committed = sealed.len();
        }
        if published.is_err() {
            // What failed once is not tried again: what the disk holds now is not known.
            self.shared.failed.store(true, Ordering::Release);
        }
        published
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
            remove_file(&self.path.join(shard_id.file_name())).ok();
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
            remove_file(&self.path.join(shard.shard_id.file_name())).ok();
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
