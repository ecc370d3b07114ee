//! A readable dataset from what an interrupted writer or a damaged disk has left: every chunk whose checksums hold.

mod files;

use std::collections::{BTreeMap, HashSet};
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
use crate::storage::{self, FileSink, IoMode, Sink, Storage};

use super::made::Made;
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
/// twice is taken once, and in place of a damaged one with its id; a chunk that several damaged copies of
/// a shard have is taken once. Files that an interrupted writer left under temporary names are looked through as well. An intact shard
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
    let mut work = Work {
        made: Made::new(out)?,
        schema,
        listed: sources.listed()?,
        records: Vec::new(),
        taken: HashSet::new(),
        scratch: Scratch::default(),
    };
    let mut reports = Vec::new();
    let mut rest = Vec::new();
    // Whole shards first: one that is damaged may lie whole under another name.
    for (place, source) in (0u64..).zip(std::mem::take(&mut sources.files)) {
        let mut report = new_report(&source);
        match work.copy_whole(place, &source, &mut report) {
            Ok(Copied::Whole) => reports.push((place, source, report)),
            Ok(Copied::Stale(whole)) => rest.push((place, source, Some(whole))),
            Ok(Copied::Damaged) => rest.push((place, source, None)),
            Err(error) => reports.push((place, source, failed(report, error, out)?)),
        }
    }
    for (place, source, whole) in rest {
        let mut report = new_report(&source);
        let result = match whole {
            Some(whole) => work
                .copy(place, &source, &whole, &mut report)
                .map(|()| true),
            None => work.salvage_shard(place, &source, &mut report),
        };
        match result {
            Ok(true) => reports.push((place, source, report)),
            // It was found whole.
            Ok(false) => {}
            Err(error) => reports.push((place, source, failed(report, error, out)?)),
        }
    }
    // In another file.
    reports.retain(|(_, source, report)| {
        let listed = source.record.map(|record| record.shard_id);
        report.error.is_none() || !listed.is_some_and(|id| work.has(id))
    });
    reports.sort_by_key(|(place, _, report)| (report.first_sample.unwrap_or(u64::MAX), *place));
    let mut shards: Vec<SalvagedShard> = reports.into_iter().map(|(.., report)| report).collect();
    work.list_absent(source, &mut shards);
    work.records.sort_by_key(|(order, _)| *order);
    let Work {
        made,
        schema,
        records,
        ..
    } = work;
    let records: Vec<ShardRecord> = records.into_iter().map(|(_, record)| record).collect();
    if records.is_empty() {
        let error = shards.into_iter().find_map(|shard| {
            let first = shard.missing.into_iter().next();
            shard.error.or(first.map(|missing| missing.error))
        });
        return Err(error.unwrap_or_else(|| {
            Error::corrupt("dataset", "at least one intact chunk", "none").in_file(source)
        }));
    }
    let bytes = Manifest::encode(
        &schema.1,
        &metadata::encode(&sources.metadata)?,
        &records,
        false,
    )?;
    made.publish(&bytes)?;
    Ok(SalvageReport {
        path: out.to_owned(),
        manifest_error: sources.manifest_error,
        num_samples: records.iter().map(|record| record.num_samples).sum(),
        num_shards: records.len() as u64,
        shards,
        unlisted: sources.left_out,
    })
}

fn new_report(source: &Source) -> SalvagedShard {
    SalvagedShard {
        file_name: source.file_name.clone(),
        listed: source.record.is_some(),
        first_sample: source.record.map(|record| record.first_sample),
        num_samples: source.record.map(|record| record.num_samples),
        ..SalvagedShard::default()
    }
}

/// The report of a shard of which nothing was salvaged. What cannot be written ends the salvage; what cannot be read is
/// reported.
fn failed(report: SalvagedShard, error: Error, out: &Path) -> Result<SalvagedShard> {
    if error.path().is_some_and(|path| path.starts_with(out)) {
        return Err(error);
    }
    Ok(SalvagedShard {
        missing: Vec::new(),
        error: Some(error),
        ..report
    })
}

fn check_out(source: &Path, out: &Path) -> Result<()> {
    let mut folder = source;
    // That of a file, if it is a dataset's: other folders are free.
    if source.is_file() && storage::parent(source).join(MANIFEST_NAME).exists() {
        folder = storage::parent(source);
    }
    if real(out)?.starts_with(real(folder)?) {
        return Err(Error::invalid(
            "this is in the damaged dataset, which stays as it is; choose another folder",
        )
        .in_file(out));
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

/// A shard all of which is intact.
struct Whole {
    record: ShardRecord,
    num_chunks: u64,
    /// In the damaged dataset, if its manifest lists the shard.
    first_sample: Option<u64>,
}

/// What became of a file that may be a whole shard.
enum Copied {
    /// It is one, and in the new dataset.
    Whole,
    /// It is one that has the id of a listed shard and is another: of an earlier build. The listed one comes first.
    Stale(Whole),
    /// It is none.
    Damaged,
}

struct Work {
    made: Made,
    schema: (Arc<Schema>, Vec<u8>),
    /// The shards of the damaged dataset.
    listed: Vec<ShardRecord>,
    /// The shards of the new dataset, with what they are ordered by: their first sample in the damaged one, and their
    /// place among the files.
    records: Vec<((u64, u64), ShardRecord)>,
    /// Chunks of damaged shards that are in them: the shard, the ordinal, and the checksum of the header.
    taken: HashSet<(ShardId, u64, u32)>,
    scratch: Scratch,
}

impl Work {
    /// True if the new dataset has a whole shard with this id.
    fn has(&self, id: ShardId) -> bool {
        self.records.iter().any(|(_, record)| record.shard_id == id)
    }

    /// Adds the listed shards that no file was: their names have others.
    fn list_absent(&self, folder: &Path, shards: &mut Vec<SalvagedShard>) {
        for listed in &self.listed {
            let first_sample = Some(listed.first_sample);
            if shards
                .iter()
                .any(|report| report.first_sample == first_sample)
            {
                continue;
            }
            let file_name = listed.shard_id.file_name();
            let error = Error::corrupt("shard", "a shard that the manifest lists", "another")
                .in_file(folder.join(&file_name));
            let at = shards.partition_point(|report| {
                report.first_sample.unwrap_or(u64::MAX) < listed.first_sample
            });
            shards.insert(
                at,
                SalvagedShard {
                    file_name,
                    listed: true,
                    first_sample,
                    num_samples: Some(listed.num_samples),
                    error: Some(error),
                    ..SalvagedShard::default()
                },
            );
        }
    }

    /// Salvages the chunks of a damaged shard. False if the shard was found whole in another file.
    fn salvage_shard(
        &mut self,
        place: u64,
        source: &Source,
        report: &mut SalvagedShard,
    ) -> Result<bool> {
        let storage = open(source)?;
        let mut ends = Ends::read(storage.as_ref())?;
        if let Some((header, _)) = &ends.header
            && header.schema_bytes != self.schema.1
        {
            return Err(Error::invalid(
                "its fields are not those of the dataset; salvage the file on its own",
            )
            .in_file(&source.path));
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
        let mut source = source.clone();
        if let Some(record) = &mut source.record
            && record.shard_id != shard_id
        {
            // Under the name of another.
            let mut listed = self.listed.iter();
            let Some(listed) = listed.find(|listed| listed.shard_id == shard_id) else {
                return Err(
                    Error::corrupt("shard_id", record.shard_id, shard_id).in_file(&source.path)
                );
            };
            *record = *listed;
            report.first_sample = Some(listed.first_sample);
            report.num_samples = Some(listed.num_samples);
        }
        if self.has(shard_id) {
            return Ok(false);
        }
        let unsupported = ends.unsupported.take();
        let is_new = self.salvage_chunks(place, &source, storage, shard_id, &ends, report)?;
        match unsupported {
            Some(error) if is_new && report.salvaged_chunks == 0 => Err(error),
            _ => Ok(is_new),
        }
    }

    /// Copies a shard if all of it is intact.
    fn copy_whole(
        &mut self,
        place: u64,
        source: &Source,
        report: &mut SalvagedShard,
    ) -> Result<Copied> {
        let Ok(shard) = ShardReader::open(open(source)?, true) else {
            return Ok(Copied::Damaged);
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
            return Ok(Copied::Damaged);
        }
        for number in 0..shard.num_chunks() {
            let chunk = shard.chunk(number, &mut self.scratch.io);
            if chunk
                .and_then(|chunk| check_chunk(&shard, &chunk, &mut self.scratch))
                .is_err()
            {
                return Ok(Copied::Damaged);
            }
        }
        let whole = Whole {
            record,
            num_chunks: shard.num_chunks(),
            first_sample: listed.map(|listed| listed.first_sample),
        };
        let mut ids = self.listed.iter().map(|listed| listed.shard_id);
        if listed.is_none() && ids.any(|id| id == record.shard_id) {
            return Ok(Copied::Stale(whole));
        }
        self.copy(place, source, &whole, report)?;
        Ok(Copied::Whole)
    }

    /// Copies a whole shard, unless one with its id was copied before.
    fn copy(
        &mut self,
        place: u64,
        source: &Source,
        whole: &Whole,
        report: &mut SalvagedShard,
    ) -> Result<()> {
        let record = whole.record;
        let name = record.shard_id.file_name();
        report.listed = whole.first_sample.is_some();
        report.first_sample = whole.first_sample;
        report.num_samples = Some(record.num_samples);
        if !self.has(record.shard_id) {
            copy(&source.path, self.made.file(&name))?;
            report.salvaged_samples = record.num_samples;
            report.salvaged_chunks = whole.num_chunks;
            let first_sample = whole.first_sample.unwrap_or(u64::MAX);
            self.records.push(((first_sample, place), record));
        }
        report.new_file_name = Some(name);
        Ok(())
    }

    /// Finds the intact chunks, and writes them to a new shard. False if other files had them all.
    fn salvage_chunks(
        &mut self,
        place: u64,
        source: &Source,
        storage: Arc<dyn Storage>,
        shard_id: ShardId,
        ends: &Ends,
        report: &mut SalvagedShard,
    ) -> Result<bool> {
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
            return Ok(true);
        }
        // What another damaged copy has is taken once.
        intact.retain(|chunk| {
            let taken = (shard_id, chunk.number, chunk.entry.header_crc);
            self.taken.insert(taken)
        });
        if intact.is_empty() {
            return Ok(false);
        }
        let new_id = derived_id(shard_id, &intact);
        let sink = FileSink::create(self.made.file(&new_id.file_name()))?;
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
        // Beside what is listed of the shard, also from a copy that is not.
        let mut listed = self.listed.iter();
        let listed = listed.find(|listed| listed.shard_id == shard_id);
        let first_sample = listed.map_or(u64::MAX, |listed| listed.first_sample);
        self.records.push(((first_sample, place), record));
        Ok(true)
    }
}

/// Opens a file to be read, not mapped: a damaged disk answers with an error then, and not with a signal.
fn open(source: &Source) -> Result<Arc<dyn Storage>> {
    storage::open(&source.path, IoMode::Read)
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
