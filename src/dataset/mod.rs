//! Many shards as one dataset: opening, random access, verification, merging, writing.

mod batch;
#[cfg(test)]
mod crash_tests;
mod field_spec;
mod inspect;
mod lengths;
mod made;
mod merge;
mod metadata;
mod output;
mod planner;
mod salvage;
mod verify;
mod writer;

pub use batch::{Batch, FieldBatch, Segment};
pub use field_spec::{FieldSpec, Preset};
pub use inspect::{DatasetReport, ErrorReport, FieldReport, ShardReport};
pub use merge::{MergeSummary, merge};
pub use output::{FieldOutput, Ragged};
pub use planner::{Goal, MeasuredEncoding, Plan, Planner};
pub use salvage::{MissingChunks, SalvageReport, SalvagedShard, Unlisted, salvage};
pub use verify::{Damage, ShardCheck, VerifyReport};
pub use writer::{ShardWriter, ShardWriterBuilder, WriteProgress, WriteSummary};

use metadata::Metadata;
pub(crate) use writer::check_workers;

pub(crate) use lengths::LengthReader;

pub(crate) use batch::{BatchParts, Extent, FieldLayout, PackedSegments, RaggedParts};

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};

use bytes::Bytes;
use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::format::forever::DEFAULT_PIECE_BYTES;
use crate::format::forever::MANIFEST_NAME;
use crate::format::limits;
use crate::format::manifest::{Manifest, SHARD_RECORD, ShardRecord};
use crate::format::schema::{Field, Kind, Schema};
use crate::format::shapes::Shapes;
use crate::format::shard_id::ShardId;
use crate::shard::decode::{out_dtype, sample_out_bytes};
use crate::shard::reader::Chunk;
use crate::shard::{Form, RowRun, Scratch, ShardReader, Slots};
use crate::storage::{self, IoMode, MemoryStorage, is_temporary_name};
use crate::sync::Mutex;
use crate::tensor::{Tensor, num_elements};

/// Shards that are kept open; more are opened and closed as needed.
const OPEN_SHARDS: usize = 256;

/// Bytes of the largest manifest.
const MANIFEST_LIMIT: u64 =
    limits::SCHEMA + limits::METADATA + limits::SHARDS * SHARD_RECORD + 1024;

/// A dataset that is open for reading. Clones share everything, and are cheap.
///
/// ```no_run
/// # fn main() -> tensorshard::Result<()> {
/// let dataset = tensorshard::Dataset::open("latents")?;
/// println!("{} samples of {} fields", dataset.len(), dataset.schema().fields().len());
/// let sample = dataset.get(17)?;
/// let latent: Vec<f32> = sample.tensor("latent")?.to_vec()?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Dataset {
    inner: Arc<Inner>,
    /// Ordinals of the fields that samples have.
    selected: Arc<[usize]>,
}

#[derive(Debug)]
struct Inner {
    /// The folder, or the single shard.
    path: PathBuf,
    manifest: Manifest,
    schema: Arc<Schema>,
    metadata: Metadata,
    options: DatasetBuilder,
    /// A dataset that is one file, or one piece of memory.
    single: Option<Arc<ShardReader>>,
    open: Mutex<OpenShards>,
    scratch: Mutex<Vec<Scratch>>,
}

#[derive(Debug, Default)]
struct OpenShards {
    shards: HashMap<u64, (Arc<ShardReader>, u64)>,
    /// Counts uses, to close the shard that was not used for longest.
    clock: u64,
}

/// Options of a [`Dataset`]. Defaults: [`IoMode::Auto`], checksums verified.
#[derive(Clone, Debug)]
#[must_use]
pub struct DatasetBuilder {
    io: IoMode,
    verify_checksums: bool,
}

impl Default for DatasetBuilder {
    fn default() -> Self {
        Self {
            io: IoMode::Auto,
            verify_checksums: true,
        }
    }
}

impl DatasetBuilder {
    /// How files are read.
    pub fn io(mut self, io: IoMode) -> Self {
        self.io = io;
        self
    }

    /// Whether the checksums of pieces are compared before they are decoded. On by default; it costs little.
    pub fn verify_checksums(mut self, verify: bool) -> Self {
        self.verify_checksums = verify;
        self
    }

    /// Opens a folder with a manifest, or a single shard.
    ///
    /// # Errors
    /// `Io` if it is not there or cannot be read, `Corrupt` if it is damaged, `Unsupported` if it needs a newer reader.
    pub fn open(self, path: impl AsRef<Path>) -> Result<Dataset> {
        let path = path.as_ref();
        storage::check_not_empty("open", path)?;
        if path.file_name().is_some_and(|name| name == MANIFEST_NAME) {
            return self.open_folder(storage::parent(path));
        }
        let metadata = fs::metadata(path).map_err(|e| Error::io("open", path, e))?;
        if metadata.is_dir() {
            return self.open_folder(path);
        }
        let shard = ShardReader::open(storage::open(path, self.io)?, self.verify_checksums)?;
        self.single(path, shard)
    }

    /// Opens a single shard that is in memory.
    ///
    /// # Errors
    /// As [`DatasetBuilder::open`].
    pub fn open_bytes(self, bytes: impl Into<Bytes>) -> Result<Dataset> {
        let name = Path::new("<memory>");
        let storage = Arc::new(MemoryStorage::new(name, bytes.into()));
        let shard = ShardReader::open(storage, self.verify_checksums)?;
        self.single(name, shard)
    }

    fn single(self, path: &Path, shard: ShardReader) -> Result<Dataset> {
        let bytes = Manifest::encode(shard.schema_bytes(), &[], &[shard.record()], false)?;
        let manifest = Manifest::parse(bytes.into())?;
        Dataset::new(path, manifest, self, Some(Arc::new(shard)))
    }

    fn open_folder(self, folder: &Path) -> Result<Dataset> {
        let path = folder.join(MANIFEST_NAME);
        let bytes = storage::read_file(&path, MANIFEST_LIMIT).map_err(|error| {
            // Not a link that leads nowhere, nor a name that cannot be looked at.
            let missing = fs::symlink_metadata(&path)
                .is_err_and(|e| e.kind() == io::ErrorKind::NotFound)
                && folder.is_dir();
            if !missing {
                return error;
            }
            let reason = format!(
                "there is no {MANIFEST_NAME}; this is no tensorshard dataset, or its writer did not finish: check the \
                 path, or recover what is there with `tensorshard salvage DATASET OUT`"
            );
            let source = io::Error::new(io::ErrorKind::NotFound, reason);
            Error::io("open the dataset", folder, source)
        })?;
        let manifest = Manifest::parse(bytes).map_err(|e| e.in_file(&path))?;
        Dataset::new(folder, manifest, self, None)
    }
}

impl Dataset {
    /// Opens a folder with a manifest, or a single shard, with default options.
    ///
    /// # Errors
    /// As [`DatasetBuilder::open`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        DatasetBuilder::default().open(path)
    }

    /// Options for opening.
    pub fn builder() -> DatasetBuilder {
        DatasetBuilder::default()
    }

    fn new(
        path: &Path,
        manifest: Manifest,
        options: DatasetBuilder,
        single: Option<Arc<ShardReader>>,
    ) -> Result<Self> {
        let metadata = metadata::parse(&manifest.metadata).map_err(|e| e.in_file(path))?;
        let schema = Arc::new(manifest.schema.clone());
        let selected = (0..schema.fields().len()).collect();
        let inner = Inner {
            path: path.to_owned(),
            manifest,
            schema,
            metadata,
            options,
            single,
            open: Mutex::default(),
            scratch: Mutex::default(),
        };
        Ok(Self {
            inner: Arc::new(inner),
            selected,
        })
    }

    /// The same dataset, with only some fields: the others are never read.
    ///
    /// # Errors
    /// `InvalidArgument` for a field that is not there.
    pub fn select<S: AsRef<str>>(&self, fields: impl IntoIterator<Item = S>) -> Result<Self> {
        let ordinals: Result<Vec<usize>> = fields
            .into_iter()
            .map(|name| {
                self.schema()
                    .index_of(name.as_ref())
                    .ok_or_else(|| self.schema().no_such_field(name.as_ref()))
            })
            .collect();
        Ok(Self {
            inner: Arc::clone(&self.inner),
            selected: ordinals?.into(),
        })
    }

    /// The folder, or the file.
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// The number of samples.
    pub fn len(&self) -> u64 {
        self.inner.manifest.num_samples
    }

    /// True if there are no samples.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All fields, selected or not.
    pub fn schema(&self) -> &Schema {
        &self.inner.schema
    }

    /// The fields that samples have, in order.
    pub fn fields(&self) -> impl Iterator<Item = &Field> {
        self.selected
            .iter()
            .map(|&ordinal| &self.schema().fields()[ordinal])
    }

    pub(crate) fn selected(&self) -> &[usize] {
        &self.selected
    }

    /// The user's metadata.
    pub fn metadata(&self) -> &Map<String, Value> {
        &self.inner.metadata.user
    }

    /// The metadata of tools, by tool: under `planner`, why a [`crate::Planner`] chose the encodings it chose. It never
    /// influences how samples are read.
    pub fn tool_metadata(&self) -> &Map<String, Value> {
        &self.inner.metadata.tools
    }

    /// The number of shards.
    pub fn num_shards(&self) -> u64 {
        self.inner.manifest.num_shards()
    }

    /// True if the writer of the dataset flushed but has not finished.
    pub fn is_unfinished(&self) -> bool {
        self.inner.manifest.unfinished
    }

    /// How files are read.
    pub fn io(&self) -> IoMode {
        self.inner.options.io
    }

    pub(crate) fn shard_records(&self) -> Result<Vec<ShardRecord>> {
        self.inner.manifest.shards().collect()
    }

    pub(crate) fn shard_ids(&self) -> Result<Vec<ShardId>> {
        self.inner
            .manifest
            .shards()
            .map(|record| Ok(record?.shard_id))
            .collect()
    }

    /// The record of a shard.
    pub(crate) fn shard_record(&self, ordinal: u64) -> Result<ShardRecord> {
        self.inner.manifest.shard(ordinal)
    }

    pub(crate) fn manifest(&self) -> &Manifest {
        &self.inner.manifest
    }

    /// Samples that are decoded together, of the field among these that is the largest; `None` if its samples differ in
    /// size.
    pub(crate) fn samples_per_piece(&self, fields: impl Iterator<Item = usize>) -> Option<u32> {
        let mut largest = 0;
        for ordinal in fields {
            largest = largest.max(self.schema().fields().get(ordinal)?.fixed_stored_bytes()?);
        }
        let samples = u64::from(DEFAULT_PIECE_BYTES).checked_div(largest)?;
        Some(u32::try_from(samples).unwrap_or(u32::MAX))
    }

    /// The open reader of a shard.
    pub(crate) fn shard(&self, ordinal: u64) -> Result<Arc<ShardReader>> {
        if let Some(shard) = &self.inner.single {
            return Ok(Arc::clone(shard));
        }
        if let Some(shard) = self.open_already(ordinal) {
            return Ok(shard);
        }
        let shard = Arc::new(self.open_shard(ordinal)?);
        let mut open = self
            .inner
            .open
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if open.shards.len() >= OPEN_SHARDS
            && let Some(&oldest) = open
                .shards
                .iter()
                .min_by_key(|(_, (_, used))| used)
                .map(|(ordinal, _)| ordinal)
        {
            open.shards.remove(&oldest);
        }
        let clock = open.clock;
        // Another thread may have been faster: one reader is enough.
        Ok(Arc::clone(
            &open.shards.entry(ordinal).or_insert((shard, clock)).0,
        ))
    }

    fn open_already(&self, ordinal: u64) -> Option<Arc<ShardReader>> {
        let mut open = self
            .inner
            .open
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        open.clock += 1;
        let clock = open.clock;
        let (shard, used) = open.shards.get_mut(&ordinal)?;
        *used = clock;
        Some(Arc::clone(shard))
    }

    /// Says that a chunk will be read soon, unless only some of its fields will, or its shard is not open yet.
    pub(crate) fn will_read(&self, shard: u64, chunk: u64) {
        if self.selected().len() < self.schema().fields().len() {
            return;
        }
        let shard = match &self.inner.single {
            Some(single) => Some(Arc::clone(single)),
            None => self.open_already(shard),
        };
        if let Some(shard) = shard {
            shard.will_read(chunk);
        }
    }

    fn open_shard(&self, ordinal: u64) -> Result<ShardReader> {
        let record = self.shard_record(ordinal)?;
        let path = self.inner.path.join(record.shard_id.file_name());
        let storage = storage::open(&path, self.inner.options.io)?;
        let manifest = &self.inner.manifest;
        let verify = self.inner.options.verify_checksums;
        ShardReader::open_listed(
            storage,
            verify,
            &record,
            &self.inner.schema,
            &manifest.schema_bytes,
        )
    }

    pub(crate) fn take_scratch(&self) -> Scratch {
        self.inner
            .scratch
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop()
            .unwrap_or_default()
    }

    pub(crate) fn put_scratch(&self, scratch: Scratch) {
        self.inner
            .scratch
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(scratch);
    }

    /// Bytes of the values of a field in a chunk as they were given to the writer.
    fn raw_bytes(
        &self,
        shard: &ShardReader,
        chunk: &Chunk,
        ordinal: usize,
        field: &Field,
        scratch: &mut Scratch,
    ) -> Result<u64> {
        let form = Form::Values(None);
        if let Some(shape) = field.fixed_shape() {
            let bytes = sample_out_bytes(field, &form, &shape, None).unwrap_or(usize::MAX) as u64;
            return Ok(bytes.saturating_mul(u64::from(chunk.header.num_samples)));
        }
        let shapes = shard.decode_shapes(chunk, ordinal, scratch)?;
        let sample = |i| {
            sample_out_bytes(field, &form, shapes.shape(i), shapes.dtype(i)).unwrap_or(usize::MAX)
                as u64
        };
        Ok((0..shapes.len()).map(sample).sum())
    }

    /// One sample.
    ///
    /// # Errors
    /// `InvalidArgument` if there is no such sample; `Corrupt`, `Io`, `Unsupported`.
    pub fn get(&self, index: u64) -> Result<Sample> {
        let mut samples = self.get_many(&[index])?;
        samples.pop().ok_or_else(|| Error::invalid("no sample"))
    }

    /// Many samples, in the order of `indices` (which may repeat). Every chunk concerned is visited once.
    ///
    /// # Errors
    /// As [`Dataset::get`].
    pub fn get_many(&self, indices: &[u64]) -> Result<Vec<Sample>> {
        let mut sorted: Vec<u64> = indices.to_vec();
        sorted.sort_unstable();
        sorted.dedup();
        let mut found: HashMap<u64, Sample> = HashMap::with_capacity(sorted.len());
        let mut scratch = self.take_scratch();
        let mut rest = sorted.as_slice();
        while let Some(&first) = rest.first() {
            let ordinal = self.inner.manifest.shard_of(first)?;
            let record = self.shard_record(ordinal)?;
            let spc = u64::from(record.samples_per_chunk);
            let chunk = (first - record.first_sample) / spc;
            let start = record.first_sample + chunk * spc;
            let end = (start + spc).min(record.first_sample + record.num_samples);
            let (here, tail) = rest.split_at(rest.partition_point(|&index| index < end));
            rest = tail;
            let shard = self.shard(ordinal)?;
            let chunk = shard.chunk(chunk, &mut scratch.io)?;
            self.decode_samples(&shard, &chunk, start, here, &mut scratch, &mut found)?;
        }
        self.put_scratch(scratch);
        let missing = || Error::invalid("no sample");
        indices
            .iter()
            .map(|index| found.get(index).cloned().ok_or_else(missing))
            .collect()
    }

    /// Decodes `indices` (ascending), all in one chunk that starts at sample `start`.
    fn decode_samples(
        &self,
        shard: &ShardReader,
        chunk: &Chunk,
        start: u64,
        indices: &[u64],
        scratch: &mut Scratch,
        found: &mut HashMap<u64, Sample>,
    ) -> Result<()> {
        let rows: Vec<u32> = indices
            .iter()
            .map(|&index| u32::try_from(index - start).unwrap_or(u32::MAX))
            .collect();
        let runs = merge_rows(&rows);
        let mut samples: Vec<Vec<Tensor>> = rows
            .iter()
            .map(|_| Vec::with_capacity(self.selected.len()))
            .collect();
        for &ordinal in self.selected.iter() {
            let field = &self.schema().fields()[ordinal];
            let shapes = field
                .is_ragged()
                .then(|| shard.decode_shapes(chunk, ordinal, scratch))
                .transpose()?;
            let (bytes, ends) = decode_to_vec(
                shard,
                chunk,
                ordinal,
                shapes.as_ref(),
                &rows,
                &runs,
                scratch,
            )?;
            let bytes = Bytes::from(bytes);
            let mut from = 0;
            for ((sample, &row), end) in samples.iter_mut().zip(&rows).zip(ends) {
                let (shape, own) = match &shapes {
                    Some(shapes) => (
                        shapes.shape(row as usize).to_vec(),
                        shapes.dtype(row as usize),
                    ),
                    None => (field.fixed_shape().unwrap_or_default(), None),
                };
                let dtype = out_dtype(field, &Form::Values(None), own);
                sample.push(Tensor::new(dtype, shape, bytes.slice(from..end))?);
                from = end;
            }
        }
        for (&id, tensors) in indices.iter().zip(samples) {
            let dataset = self.clone();
            found.insert(
                id,
                Sample {
                    id,
                    tensors,
                    dataset,
                },
            );
        }
        Ok(())
    }
}

/// Ascending rows as runs.
pub(crate) fn merge_rows(rows: &[u32]) -> Vec<RowRun> {
    let mut runs: Vec<RowRun> = Vec::new();
    for &row in rows {
        match runs.last_mut() {
            Some(last) if last.row + last.count == row => last.count += 1,
            _ => runs.push(RowRun { row, count: 1 }),
        }
    }
    runs
}

/// Decodes rows of a field one after the other into one buffer. Returns it, and where each sample ends.
fn decode_to_vec(
    shard: &ShardReader,
    chunk: &Chunk,
    ordinal: usize,
    shapes: Option<&Shapes>,
    rows: &[u32],
    runs: &[RowRun],
    scratch: &mut Scratch,
) -> Result<(Vec<u8>, Vec<usize>)> {
    let field = &shard.schema().fields()[ordinal];
    let form = Form::Values(None);
    let fixed = field.fixed_shape().unwrap_or_default();
    let mut total = 0usize;
    let mut ends = Vec::with_capacity(rows.len());
    for &row in rows {
        let (shape, own) = match shapes {
            Some(shapes) => (shapes.shape(row as usize), shapes.dtype(row as usize)),
            None => (fixed.as_slice(), None),
        };
        let bytes =
            sample_out_bytes(field, &form, shape, own).and_then(|bytes| bytes.checked_add(total));
        total =
            bytes.ok_or_else(|| Error::limit("bytes of a chunk", usize::MAX as u64, u64::MAX))?;
        ends.push(total);
    }
    let mut run_ranges = Vec::with_capacity(runs.len());
    let mut done = 0usize;
    for run in runs {
        let start = if done == 0 { 0 } else { ends[done - 1] };
        done += run.count as usize;
        run_ranges.push(start..ends[done - 1]);
    }
    let mut slots = VecSlots {
        bytes: vec![0; total],
        runs: run_ranges,
    };
    shard.decode_rows(chunk, ordinal, shapes, &form, runs, &mut slots, scratch)?;
    Ok((slots.bytes, ends))
}

/// Slots that lie one after the other in a `Vec`.
struct VecSlots {
    bytes: Vec<u8>,
    runs: Vec<std::ops::Range<usize>>,
}

impl Slots for VecSlots {
    fn run(&mut self, run: usize, _array: usize) -> &mut [u8] {
        &mut self.bytes[self.runs[run].clone()]
    }
}

/// One sample: a tensor for every selected field.
#[derive(Clone, Debug)]
pub struct Sample {
    id: u64,
    tensors: Vec<Tensor>,
    dataset: Dataset,
}

impl Sample {
    /// The index of the sample in the dataset.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The selected fields and their values, in order.
    pub fn fields(&self) -> impl Iterator<Item = (&Field, &Tensor)> {
        self.dataset.fields().zip(&self.tensors)
    }

    /// The value of a field.
    ///
    /// # Errors
    /// `InvalidArgument` if the field is not there, or not selected.
    pub fn tensor(&self, field: &str) -> Result<&Tensor> {
        let found = self
            .fields()
            .find(|(f, _)| f.name() == field)
            .map(|(_, tensor)| tensor);
        found.ok_or_else(|| self.dataset.schema().no_such_field(field))
    }

    /// The value of a string field.
    ///
    /// # Errors
    /// `InvalidArgument` if it is not there or no string; `Corrupt` if it is not UTF-8.
    pub fn text(&self, field: &str) -> Result<&str> {
        if self.dataset.schema().field(field)?.kind() != Kind::String {
            return Err(Error::invalid("this is not a string field").in_field(field));
        }
        let data = self.tensor(field)?.data();
        std::str::from_utf8(data).map_err(|e| Error::corrupt("text", "UTF-8", e).in_field(field))
    }

    /// The sample's key, if the dataset has a key field and it is selected.
    pub fn key(&self) -> Option<&[u8]> {
        self.fields()
            .find(|(field, _)| field.is_key())
            .map(|(_, tensor)| tensor.data().as_ref())
    }

    /// True if all values of the fields are the same bytes with the same shapes.
    pub fn same_values(&self, other: &Self) -> bool {
        self.tensors.len() == other.tensors.len()
            && self.tensors.iter().zip(&other.tensors).all(|(a, b)| {
                a.dtype() == b.dtype() && a.shape() == b.shape() && a.data() == b.data()
            })
    }
}

/// A count that is known to be in memory.
pub(crate) fn elements(shape: &[usize]) -> usize {
    num_elements(shape).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::DType;
    use crate::loader::{Loader, Shuffle};

    /// A manifest of shards that need not exist.
    fn synthetic(path: &Path, shards: u64, num_samples: u64, samples_per_chunk: u32) -> Result<()> {
        let field = FieldSpec::new("x", DType::F32, [384]).resolve()?;
        let schema = Schema::new(vec![field])?.encode()?;
        let records: Vec<ShardRecord> = (0..shards)
            .map(|i| ShardRecord {
                shard_id: ShardId(
                    u128::from(i)
                        .wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835)
                        .to_le_bytes(),
                ),
                first_sample: 0,
                num_samples,
                samples_per_chunk,
                footer_crc: 0,
                file_len: 1 << 28,
            })
            .collect();
        fs::create_dir_all(path).map_err(|e| Error::io("create folder", path, e))?;
        storage::publish(
            &path.join(MANIFEST_NAME),
            &Manifest::encode(&schema, &[], &records, false)?,
        )
    }

    #[test]
    fn ten_billion_samples_in_a_hundred_thousand_shards_open() -> Result<()> {
        let dir = tempfile::tempdir().unwrap();
        synthetic(dir.path(), 100_000, 100_000, 682)?;
        let dataset = Dataset::open(dir.path())?;
        assert_eq!(
            (dataset.len(), dataset.num_shards()),
            (10_000_000_000, 100_000)
        );
        assert_eq!(dataset.manifest().shard_of(0)?, 0);
        assert_eq!(dataset.manifest().shard_of(4_999_999_999)?, 49_999);
        assert_eq!(dataset.manifest().shard_of(9_999_999_999)?, 99_999);
        // The shards are not there: that is found when one is touched, not before.
        assert!(dataset.get(5_000_000_000).unwrap_err().is_io());
        for shuffle in [Shuffle::None, Shuffle::windowed(), Shuffle::Exact] {
            let loader = Loader::builder().shuffle(shuffle).open_dataset(&dataset)?;
            assert_eq!(loader.num_batches(64), 156_250_000);
            assert!(
                loader
                    .batches(64)
                    .next()
                    .is_some_and(|batch| batch.is_err_and(|e| e.is_io()))
            );
        }
        Ok(())
    }

    #[test]
    fn a_shard_listed_twice_is_corrupt() -> Result<()> {
        let dir = tempfile::tempdir().unwrap();
        synthetic(dir.path(), 2, 10, 5)?;
        let manifest = Dataset::open(dir.path())?;
        let mut records = manifest.shard_records()?;
        records[1] = records[0];
        let bytes = Manifest::encode(&manifest.manifest().schema_bytes, &[], &records, false)?;
        assert!(Manifest::parse(bytes.into()).unwrap_err().is_corrupt());
        Ok(())
    }
}
