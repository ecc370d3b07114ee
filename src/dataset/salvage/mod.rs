//! A readable dataset from what an interrupted writer or a damaged disk has left: every chunk whose checksums hold.

mod files;

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::format::forever::MANIFEST_NAME;
use crate::format::index::IndexEntry;
use crate::format::manifest::{Manifest, ShardRecord};
use crate::format::schema::Schema;
use crate::format::shard_id::ShardId;
use crate::shard::recover::{self, Ends, Scan};
use crate::shard::{Scratch, ShardFileWriter, ShardReader};
use crate::storage::{self, FileSink, IoMode, Sink, Storage, create_folder, lock_folder, publish};

use super::merge::copy;
use super::metadata;
use super::verify::check_chunk;
use files::{Source, Sources};

/// Whether shards that the manifest does not list are salvaged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unlisted {
    /// If there is no readable manifest, or it says that its writer did not finish. The default.
    #[default]
    Auto,
    /// Always: also what an interrupted writer has added to a finished dataset, or one that is being replaced.
    Include,
    /// Never.
    Exclude,
}

/// Chunks of a shard that could not be salvaged.
#[derive(Debug)]
#[non_exhaustive]
pub struct MissingChunks {
    /// Ordinals in the shard.
    pub chunks: Range<u64>,
    /// Samples in the shard, counted from its first; in a listed shard of the damaged dataset, its `first_sample` is
    /// to be added.
    pub samples: Range<u64>,
    /// What is wrong with the first of them.
    pub error: Error,
}

/// One file of the damaged dataset, for [`SalvageReport`].
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct SalvagedShard {
    /// The file's name.
    pub file_name: String,
    /// The file it became; `None` if nothing of it was salvaged.
    pub new_file_name: Option<String>,
    /// True if the manifest lists it.
    pub listed: bool,
    /// Its first sample in the damaged dataset, if a manifest says so.
    pub first_sample: Option<u64>,
    /// Samples that it had, if its end or a manifest says so.
    pub num_samples: Option<u64>,
    /// Samples that were salvaged.
    pub salvaged_samples: u64,
    /// Chunks that were salvaged.
    pub salvaged_chunks: u64,
    /// Chunks that are lost.
    pub missing: Vec<MissingChunks>,
    /// Bytes at the end that are no whole chunk: what was being written when the writer was interrupted, or cut off.
    pub tail_bytes: u64,
    /// Why nothing of it was salvaged.
    pub error: Option<Error>,
}

impl SalvagedShard {
    /// True if it is known what it had, and nothing of it is lost.
    pub fn is_whole(&self) -> bool {
        self.num_samples.is_some()
            && self.missing.is_empty()
            && self.tail_bytes == 0
            && self.error.is_none()
    }
}

/// What [`salvage`] did.
#[derive(Debug)]
#[non_exhaustive]
pub struct SalvageReport {
    /// The new dataset.
    pub path: PathBuf,
    /// Why the manifest of the damaged dataset could not be used.
    pub manifest_error: Option<Error>,
    /// Samples that were salvaged.
    pub num_samples: u64,
    /// Shards of the new dataset.
    pub num_shards: u64,
    /// Each file that was looked through, in the order of the new dataset.
    pub shards: Vec<SalvagedShard>,
    /// Files that look like shards and were left out because the manifest does not list them.
    pub unlisted: Vec<String>,
}

impl SalvageReport {
    /// True if it is known what the dataset had, and nothing of it is lost: not without a manifest, nor if a shard that
    /// no manifest lists has lost its end.
    pub fn is_whole(&self) -> bool {
        self.manifest_error.is_none() && self.shards.iter().all(SalvagedShard::is_whole)
    }
}

/// Makes a new dataset `out` of every chunk of `source` (a dataset's folder or one shard, damaged or not finished) that
/// is intact: its checksums hold, and all of its fields can be decoded. `source` is only read.
///
/// Shards come in the order of the manifest, whatever their names; others after them, by the time of their last change,
/// then by name: without a manifest, a copy that did not keep times has another order. An intact shard that is there
/// twice is taken once. Files that an interrupted writer left under temporary names are looked through as well. An intact shard
/// is copied; of another, the intact chunks go to a new shard, so that samples move up.
///
/// # Errors
/// `InvalidArgument` if `out` exists and is not an empty folder; `Corrupt` if there is nothing to salvage; `Io`. Then
/// there is no new dataset.
pub fn salvage(
    source: impl AsRef<Path>,
    out: impl AsRef<Path>,
    unlisted: Unlisted,
) -> Result<SalvageReport> {
    let (source, out) = (source.as_ref(), out.as_ref());
    let mut sources = Sources::find(source, unlisted)?;
    let schema = sources.schema()?;
    check_out(source, out)?;
    create_folder(out)?;
    let _lock = lock_folder(out)?;
    let mut work = Work {
        out,
        schema,
        listed: sources.listed()?,
        records: Vec::new(),
        scratch: Scratch::default(),
    };
    let mut reports = Vec::new();
    for source in std::mem::take(&mut sources.files) {
        let mut report = SalvagedShard {
            file_name: source.file_name.clone(),
            listed: source.record.is_some(),
            first_sample: source.record.map(|record| record.first_sample),
            num_samples: source.record.map(|record| record.num_samples),
            ..SalvagedShard::default()
        };
        if let Err(error) = work.salvage_shard(&source, &mut report) {
            // What cannot be written ends the salvage; what cannot be read is reported.
            if error.path().is_some_and(|path| path.starts_with(out)) {
                return Err(error);
            }
            report.error = Some(error);
        }
        reports.push((source.record.map(|record| record.shard_id), report));
    }
    // In another file.
    let is_found = |id| work.records.iter().any(|(_, record)| record.shard_id == id);
    reports.retain(|(id, report)| report.error.is_none() || !id.is_some_and(is_found));
    let mut shards: Vec<SalvagedShard> = reports.into_iter().map(|(_, report)| report).collect();
    shards.sort_by_key(|report| report.first_sample.unwrap_or(u64::MAX));
    work.records.sort_by_key(|(first_sample, _)| *first_sample);
    let records: Vec<ShardRecord> = work.records.into_iter().map(|(_, r)| r).collect();
    if records.is_empty() {
        fs::remove_dir(out).ok();
        let error = shards.into_iter().find_map(|shard| {
            let first = shard.missing.into_iter().next();
            shard.error.or(first.map(|missing| missing.error))
        });
        return Err(error.unwrap_or_else(|| {
            Error::corrupt("dataset", "at least one intact chunk", "none").in_file(source)
        }));
    }
    let bytes = Manifest::encode(
        &work.schema.1,
        &metadata::encode(&sources.metadata)?,
        &records,
        false,
    )?;
    publish(&out.join(MANIFEST_NAME), &bytes)?;
    Ok(SalvageReport {
        path: out.to_owned(),
        manifest_error: sources.manifest_error,
        num_samples: records.iter().map(|record| record.num_samples).sum(),
        num_shards: records.len() as u64,
        shards,
        unlisted: sources.left_out,
    })
}

fn check_out(source: &Path, out: &Path) -> Result<()> {
    let mut folder = source;
    // That of a file, if it is a dataset's: other folders are free.
    if source.is_file() && storage::parent(source).join(MANIFEST_NAME).exists() {
        folder = storage::parent(source);
    }
    if real(out)?.starts_with(real(folder)?) {
        return Err(
            Error::invalid("this is in the damaged dataset, which stays as it is").in_file(out),
        );
    }
    let taken = match fs::read_dir(out) {
        Ok(mut entries) => entries.next().is_some(),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => false,
        Err(e) if e.kind() == std::io::ErrorKind::NotADirectory => true,
        Err(e) => return Err(Error::io("open", out, e)),
    };
    if taken {
        return Err(Error::invalid(
            "there is something already; salvage writes to a new or empty folder",
        )
        .in_file(out));
    }
    Ok(())
}

/// Where a path leads to, links followed as far as it is there.
fn real(path: &Path) -> Result<PathBuf> {
    let absolute = std::path::absolute(path).map_err(|e| Error::io("open", path, e))?;
    for there in absolute.ancestors() {
        if let Ok(real) = fs::canonicalize(there) {
            let rest = absolute.strip_prefix(there).unwrap_or(Path::new(""));
            return Ok(real.join(rest));
        }
    }
    Ok(absolute)
}

/// A chunk that is intact, and where it is.
struct Intact {
    number: u64,
    entry: IndexEntry,
    num_samples: u32,
}

struct Work<'a> {
    out: &'a Path,
    schema: (Arc<Schema>, Vec<u8>),
    /// The shards of the damaged dataset.
    listed: Vec<ShardRecord>,
    /// The shards of the new dataset, with what they are ordered by: their first sample in the damaged one.
    records: Vec<(u64, ShardRecord)>,
    scratch: Scratch,
}

impl Work<'_> {
    fn salvage_shard(&mut self, source: &Source, report: &mut SalvagedShard) -> Result<()> {
        // Read, not mapped: a damaged disk answers with an error then, and not with a signal.
        let storage = storage::open(&source.path, IoMode::Read)?;
        if self.copy_intact(source, &storage, report)? {
            return Ok(());
        }
        let ends = Ends::read(storage.as_ref())?;
        if let Some((header, _)) = &ends.header
            && header.schema_bytes != self.schema.1
        {
            return Err(
                Error::invalid("its fields are not those of the dataset").in_file(&source.path)
            );
        }
        let shard_id = ends.shard_id().or(source.named_id());
        let Some(shard_id) = shard_id else {
            return Err(Error::corrupt(
                "shard",
                "a shard id in its header, its footer or its name",
                "none",
            )
            .in_file(&source.path));
        };
        if let Some(record) = &source.record
            && record.shard_id != shard_id
        {
            return Err(Error::corrupt("shard_id", record.shard_id, shard_id).in_file(&source.path));
        }
        self.salvage_chunks(source, storage, shard_id, &ends, report)
    }

    /// Copies a shard if all of it is intact.
    fn copy_intact(
        &mut self,
        source: &Source,
        storage: &Arc<dyn Storage>,
        report: &mut SalvagedShard,
    ) -> Result<bool> {
        let Ok(shard) = ShardReader::open(Arc::clone(storage), true) else {
            return Ok(false);
        };
        let record = shard.record();
        // Whatever its name.
        let mut listed = self.listed.iter();
        let listed = listed.find(|listed| {
            (record.shard_id, record.footer_crc) == (listed.shard_id, listed.footer_crc)
        });
        if let (Some(listed), None) = (&source.record, listed) {
            return Err(Error::corrupt(
                "shard",
                format_args!(
                    "the shard that the manifest lists (footer_crc {:08x})",
                    listed.footer_crc
                ),
                format_args!(
                    "shard {} with footer_crc {:08x}",
                    record.shard_id, record.footer_crc
                ),
            )
            .in_file(&source.path));
        }
        if shard.schema_bytes() != self.schema.1 {
            return Ok(false);
        }
        for number in 0..shard.num_chunks() {
            let chunk = shard.chunk(number, &mut self.scratch.io);
            if chunk
                .and_then(|chunk| check_chunk(&shard, &chunk, &mut self.scratch))
                .is_err()
            {
                return Ok(false);
            }
        }
        let name = record.shard_id.file_name();
        report.listed = listed.is_some();
        report.first_sample = listed.map(|listed| listed.first_sample);
        report.num_samples = Some(record.num_samples);
        let mut copied = self.records.iter();
        if copied.any(|(_, copied)| copied.shard_id == record.shard_id) {
            report.new_file_name = Some(name);
            return Ok(true);
        }
        copy(&source.path, self.out.join(&name))?;
        report.new_file_name = Some(name);
        report.salvaged_samples = record.num_samples;
        report.salvaged_chunks = shard.num_chunks();
        let first_sample = report.first_sample.unwrap_or(u64::MAX);
        self.records.push((first_sample, record));
        Ok(true)
    }

    /// Finds the intact chunks, and writes them to a new shard.
    fn salvage_chunks(
        &mut self,
        source: &Source,
        storage: Arc<dyn Storage>,
        shard_id: ShardId,
        ends: &Ends,
        report: &mut SalvagedShard,
    ) -> Result<()> {
        let file_len = storage.len();
        let mut scan = Scan::new(storage, shard_id, ends, &self.schema.0, &self.schema.1)?;
        let mut intact: Vec<Intact> = Vec::new();
        let mut errors: BTreeMap<u64, Error> = BTreeMap::new();
        let mut samples_per_chunk = source.record.map(|record| record.samples_per_chunk).or(ends
            .header
            .as_ref()
            .map(|(header, _)| header.samples_per_chunk));
        let mut end = 0;
        while let Some(found) = scan.next_chunk(&mut self.scratch.io)? {
            let header = &found.chunk.header;
            let number = u64::from(header.chunk);
            // Without header and manifest: what the chunk's place says.
            let per_chunk = u64::from(*samples_per_chunk.get_or_insert_with(|| {
                let before = header.first_sample.checked_div(number);
                before
                    .and_then(|n| u32::try_from(n).ok())
                    .unwrap_or(header.num_samples)
            }));
            let fits = header.first_sample == number.saturating_mul(per_chunk)
                && u64::from(header.num_samples) <= per_chunk;
            if !fits {
                continue;
            }
            match check_chunk(scan.reader(), &found.chunk, &mut self.scratch) {
                Ok(num_samples) => {
                    scan.skip(&found);
                    end = end.max(found.range.end);
                    intact.push(Intact {
                        number,
                        entry: found.chunk.entry,
                        num_samples,
                    });
                }
                Err(error) => {
                    errors.entry(number).or_insert(error);
                }
            }
        }
        intact.sort_by_key(|chunk| chunk.number);
        intact.dedup_by_key(|chunk| chunk.number);
        let per_chunk = samples_per_chunk.unwrap_or(1);
        // Only the last chunk of a shard may be shorter.
        let last = intact.last().map(|chunk| chunk.number);
        intact.retain(|chunk| chunk.num_samples == per_chunk || Some(chunk.number) == last);
        let known = source.record.map(|record| record.num_samples);
        let known = known.or(ends.footer.as_ref().map(|footer| footer.num_samples));
        report.num_samples = known;
        if known.is_none() {
            report.tail_bytes = file_len.saturating_sub(end);
        }
        list_missing(
            source,
            &intact,
            &mut errors,
            u64::from(per_chunk),
            known,
            report,
        );
        if intact.is_empty() {
            return Ok(());
        }
        let new_id = derived_id(shard_id, &intact);
        let sink = FileSink::create(self.out.join(new_id.file_name()))?;
        let header = recover::header_like(scan.reader(), new_id, per_chunk);
        let mut writer = ShardFileWriter::create(sink, &header)?;
        for chunk in &intact {
            let first_sample = chunk.number.saturating_mul(u64::from(per_chunk));
            let samples = (first_sample, chunk.num_samples);
            let encoded = recover::encoded(
                scan.reader(),
                chunk.number,
                chunk.entry,
                samples,
                &mut self.scratch.io,
            )?;
            writer.append(&encoded)?;
        }
        let (record, mut sink) = writer.finish()?;
        sink.commit()?;
        report.new_file_name = Some(new_id.file_name());
        report.salvaged_samples = record.num_samples;
        report.salvaged_chunks = intact.len() as u64;
        let first_sample = report.first_sample.unwrap_or(u64::MAX);
        self.records.push((first_sample, record));
        Ok(())
    }
}

/// Lists the chunks between those that are intact, and after them if it is known how many there were.
fn list_missing(
    source: &Source,
    intact: &[Intact],
    errors: &mut BTreeMap<u64, Error>,
    per_chunk: u64,
    num_samples: Option<u64>,
    report: &mut SalvagedShard,
) {
    let after = |chunk: &Intact| chunk.number.saturating_add(1);
    let damaged_end = errors
        .last_key_value()
        .map_or(0, |(last, _)| last.saturating_add(1));
    let num_chunks = match num_samples {
        Some(n) => n.div_ceil(per_chunk.max(1)),
        None => intact.last().map_or(0, after).max(damaged_end),
    };
    let mut from = 0;
    for to in intact.iter().map(|chunk| chunk.number).chain([num_chunks]) {
        if from < to {
            // Not chunk by chunk: a forged ordinal may be far away.
            let first = errors.range(from..to).next().map(|(&chunk, _)| chunk);
            let first = first.and_then(|chunk| errors.remove(&chunk));
            let error = first.unwrap_or_else(|| {
                Error::corrupt("chunk", "an intact header", "none")
                    .in_file(&source.path)
                    .in_chunk(from)
            });
            let clip = |sample: u64| num_samples.map_or(sample, |n| sample.min(n));
            report.missing.push(MissingChunks {
                chunks: from..to,
                samples: clip(from.saturating_mul(per_chunk))..clip(to.saturating_mul(per_chunk)),
                error,
            });
        }
        from = to.saturating_add(1);
    }
}

/// The id of the shard that gets these chunks of another: the same chunks, the same id.
fn derived_id(shard_id: ShardId, intact: &[Intact]) -> ShardId {
    let mut hash = 0xCBF2_9CE4_8422_2325u64;
    for chunk in intact {
        for word in [chunk.number, u64::from(chunk.entry.header_crc)] {
            hash = super::writer::mix(hash ^ word);
        }
    }
    let mut id = shard_id.0;
    let more = super::writer::mix(hash);
    for (byte, x) in id
        .iter_mut()
        .zip(hash.to_le_bytes().into_iter().chain(more.to_le_bytes()))
    {
        *byte ^= x;
    }
    ShardId(id)
}
