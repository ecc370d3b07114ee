//! A full check of a dataset: every checksum, and a decode of everything.

use std::num::NonZero;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, Result};
use crate::format::schema::Kind;
use crate::shard::reader::Chunk;
use crate::shard::{RowRun, Scratch, ShardReader};

use super::{Dataset, decode_to_vec};

/// One thing that is wrong.
#[derive(Debug)]
#[non_exhaustive]
pub struct Damage {
    /// The shard's file name.
    pub file_name: String,
    /// What, and where.
    pub error: Error,
}

/// One shard, for [`VerifyReport`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ShardCheck {
    /// The file's name.
    pub file_name: String,
    /// Samples that the dataset has in it.
    pub num_samples: u64,
    /// Samples in intact chunks.
    pub intact_samples: u64,
    /// Chunks that are intact.
    pub intact_chunks: u64,
    /// Entries of [`VerifyReport::damage`] about it.
    pub num_damages: u64,
}

/// The result of [`Dataset::verify`].
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct VerifyReport {
    /// Shards checked.
    pub num_shards: u64,
    /// Chunks that are intact.
    pub intact_chunks: u64,
    /// Samples in intact chunks.
    pub intact_samples: u64,
    /// Bytes of all shards.
    pub stored_bytes: u64,
    /// Each shard.
    pub shards: Vec<ShardCheck>,
    /// What is wrong, by shard and chunk.
    pub damage: Vec<Damage>,
}

impl VerifyReport {
    /// True if nothing is wrong.
    pub fn is_intact(&self) -> bool {
        self.damage.is_empty()
    }
}

impl Dataset {
    /// Checks every checksum and decodes every value of every field, on all cores. `progress` is called with the
    /// number of samples done so far.
    ///
    /// Damage is reported, not returned as an error: the check goes on with the next chunk.
    pub fn verify(&self, progress: &(dyn Fn(u64) + Sync)) -> VerifyReport {
        let report = Mutex::new((VerifyReport::default(), Vec::new()));
        let next = AtomicU64::new(0);
        let done = AtomicU64::new(0);
        let workers = std::thread::available_parallelism().map_or(1, NonZero::get);
        std::thread::scope(|scope| {
            for _ in 0..workers {
                scope.spawn(|| {
                    loop {
                        let ordinal = next.fetch_add(1, Ordering::Relaxed);
                        if ordinal >= self.num_shards() {
                            return;
                        }
                        let part = self.verify_shard(ordinal, &|samples| {
                            progress(done.fetch_add(samples, Ordering::Relaxed) + samples);
                        });
                        report
                            .lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .1
                            .push((ordinal, part));
                    }
                });
            }
        });
        let (mut report, mut parts) = report.into_inner().unwrap_or_else(PoisonError::into_inner);
        parts.sort_by_key(|(ordinal, _)| *ordinal);
        for (_, part) in parts {
            report.num_shards += 1;
            report.intact_chunks += part.intact_chunks;
            report.intact_samples += part.intact_samples;
            report.stored_bytes += part.stored_bytes;
            report.shards.extend(part.shards);
            report.damage.extend(part.damage);
        }
        report
    }

    fn verify_shard(&self, ordinal: u64, progress: &(dyn Fn(u64) + Sync)) -> VerifyReport {
        let mut report = VerifyReport::default();
        let mut check = ShardCheck::default();
        if let Ok(record) = self.shard_record(ordinal) {
            check.file_name = record.shard_id.file_name();
            check.num_samples = record.num_samples;
        }
        self.verify_chunks(ordinal, &check.file_name, &mut report, progress);
        check.intact_samples = report.intact_samples;
        check.intact_chunks = report.intact_chunks;
        check.num_damages = report.damage.len() as u64;
        report.shards.push(check);
        report
    }

    fn verify_chunks(
        &self,
        ordinal: u64,
        file_name: &str,
        report: &mut VerifyReport,
        progress: &(dyn Fn(u64) + Sync),
    ) {
        let file_name = file_name.to_owned();
        let shard = match self.shard(ordinal) {
            Ok(shard) => shard,
            Err(error) => {
                report.damage.push(Damage { file_name, error });
                return;
            }
        };
        report.stored_bytes = shard.record().file_len;
        // Few shards: their chunks share the cores.
        let cores = std::thread::available_parallelism().map_or(1, NonZero::get) as u64;
        let threads = cores
            .div_ceil(self.num_shards().max(1))
            .min(shard.num_chunks());
        let next = AtomicU64::new(0);
        let results = Mutex::new(Vec::new());
        let work = || {
            let mut scratch = Scratch::default();
            loop {
                let chunk = next.fetch_add(1, Ordering::Relaxed);
                if chunk >= shard.num_chunks() {
                    return;
                }
                let result = shard
                    .chunk(chunk, &mut scratch.io)
                    .and_then(|chunk| check_chunk(&shard, &chunk, &mut scratch));
                if let Ok(samples) = &result {
                    progress(u64::from(*samples));
                }
                results
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push((chunk, result));
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..threads {
                scope.spawn(work);
            }
            work();
        });
        let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
        results.sort_by_key(|(chunk, _)| *chunk);
        for (_, result) in results {
            match result {
                Ok(samples) => {
                    report.intact_chunks += 1;
                    report.intact_samples += u64::from(samples);
                }
                Err(error) => report.damage.push(Damage {
                    file_name: file_name.clone(),
                    error,
                }),
            }
        }
    }
}

/// Decodes every value of a chunk. Returns how many samples it has.
pub(super) fn check_chunk(
    shard: &ShardReader,
    chunk: &Chunk,
    scratch: &mut Scratch,
) -> Result<u32> {
    let num_samples = chunk.header.num_samples;
    let rows: Vec<u32> = (0..num_samples).collect();
    let runs = [RowRun {
        row: 0,
        count: num_samples,
    }];
    for (ordinal, field) in shard.schema().fields().iter().enumerate() {
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
        if field.kind() == Kind::String {
            let mut from = 0;
            for end in ends {
                std::str::from_utf8(&bytes[from..end]).map_err(|e| {
                    Error::corrupt("text", "UTF-8", e)
                        .in_file(shard.path())
                        .in_chunk(u64::from(chunk.header.chunk))
                        .in_field(field.name())
                })?;
                from = end;
            }
        }
    }
    Ok(num_samples)
}
