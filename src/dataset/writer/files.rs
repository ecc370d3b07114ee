//! The shard files of a writer: opened, written, and made durable by a thread of its own.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use crate::dataset::inspect::add_chunk;
use crate::error::{Error, Result};
use crate::fault;
use crate::format::forever::DEFAULT_PIECE_BYTES;
use crate::format::header::ShardHeader;
use crate::format::manifest::ShardRecord;
use crate::format::shard_id::ShardId;
use crate::shard::{EncodedChunk, ShardFileWriter};
use crate::storage::{FileSink, Sink};
use crate::sync::channel::{Receiver, Sender, bounded};
use crate::sync::thread::{self, JoinHandle};

use super::pipeline::Shared;

/// Written bytes after which the system is asked to put them on the disk, so that the disk works while chunks are
/// encoded and the last bytes of a shard are all that its end waits for.
const SYNC_BYTES: u64 = 32 << 20;

/// The shard files of one writer.
pub(super) struct ShardFiles {
    folder: PathBuf,
    version_minor: u16,
    schema_bytes: Arc<Vec<u8>>,
    ids: ShardIds,
    max_shard_len: u64,
    shared: Arc<Shared>,
    current: Option<ShardFileWriter<FileSink>>,
    /// Length of the current shard when it was last asked to be synced.
    synced_len: u64,
    syncer: Syncer,
    /// Chunks and shards so far.
    num_chunks: u64,
    num_shards: u64,
}

impl ShardFiles {
    pub(super) fn new(
        folder: &Path,
        version_minor: u16,
        schema_bytes: Arc<Vec<u8>>,
        ids: ShardIds,
        max_shard_len: u64,
        shared: Arc<Shared>,
    ) -> Result<Self> {
        Ok(Self {
            folder: folder.to_owned(),
            num_chunks: 0,
            num_shards: 0,
            version_minor,
            schema_bytes,
            ids,
            max_shard_len,
            syncer: Syncer::start(folder.to_owned(), Arc::clone(&shared))?,
            shared,
            current: None,
            synced_len: 0,
        })
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(super) fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }

    /// Drops the current shard, after an error.
    pub(super) fn abandon(&mut self) {
        self.current = None;
    }

    /// Appends a chunk to the current shard, or to a new one.
    pub(super) fn write(&mut self, chunk: &EncodedChunk, samples_per_chunk: u32) -> Result<()> {
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
        fault::at(&self.folder, "write", self.num_chunks)?;
        self.num_chunks += 1;
        let mut shard = match self.current.take() {
            Some(shard) => shard,
            None => self.open(samples_per_chunk)?,
        };
        shard.append(chunk)?;
        let full = shard.is_full() || shard.file_len() >= self.max_shard_len;
        if shard.file_len() - self.synced_len >= SYNC_BYTES && self.syncer.early(shard.sink()) {
            self.synced_len = shard.file_len();
        }
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
            compat: 0,
            shard_id,
            samples_per_chunk,
            piece_bytes: DEFAULT_PIECE_BYTES,
            schema_bytes: self.schema_bytes.as_ref().clone(),
        };
        self.synced_len = 0;
        ShardFileWriter::create(FileSink::create(path)?, &header)
    }

    /// Ends the current shard, if there is one, and has it made durable.
    pub(super) fn seal(&mut self) -> Result<()> {
        if let Some(shard) = self.current.take() {
            fault::at(&self.folder, "seal", self.num_shards)?;
            self.num_shards += 1;
            let (record, sink) = shard.finish()?;
            self.syncer.commit(record, sink);
        }
        Ok(())
    }

    /// Answers when all shards that were sealed are durable, or one of them failed.
    pub(super) fn acknowledge(&self, ack: Sender<()>) {
        self.syncer.acknowledge(ack);
    }
}

/// What the syncing thread is asked to do, in order.
enum Sync {
    /// Put what was written so far on the disk.
    Early(Box<dyn FnOnce() -> Result<()> + Send>),
    /// Make a finished shard durable under its name.
    Commit(ShardRecord, FileSink),
    /// Say that all before is done.
    Acknowledge(Sender<()>),
}

/// Waits for the disk, so that the thread that writes does not.
struct Syncer {
    queue: Option<Sender<Sync>>,
    thread: Option<JoinHandle<()>>,
}

impl Syncer {
    fn start(folder: PathBuf, shared: Arc<Shared>) -> Result<Self> {
        // One shard is synced while the next is written; a third waits for the first.
        let (queue, tasks) = bounded(1);
        let thread = thread::Builder::new()
            .name("tensorshard-sync".to_owned())
            .spawn(move || {
                let work = || sync_in_order(&folder, &shared, &tasks);
                if let Err(payload) = catch_unwind(AssertUnwindSafe(work)) {
                    shared.fail(Error::panicked("sync", payload.as_ref()));
                    // A bounded queue keeps what is in it while there are senders. Who waits for an answer would wait for
                    // ever: it is told that there is none.
                    tasks.into_iter().for_each(drop);
                }
            })
            .map_err(|e| Error::io("start a thread", "", e))?;
        Ok(Self {
            queue: Some(queue),
            thread: Some(thread),
        })
    }

    fn send(&self, task: Sync) {
        if let Some(queue) = &self.queue {
            // The thread lives as long as the queue.
            queue.send(task).ok();
        }
    }

    fn commit(&self, record: ShardRecord, sink: FileSink) {
        self.send(Sync::Commit(record, sink));
    }

    fn acknowledge(&self, ack: Sender<()>) {
        self.send(Sync::Acknowledge(ack));
    }

    /// Starts to put `sink` on the disk. False if the thread is busy.
    fn early(&self, sink: &FileSink) -> bool {
        let Some(sync) = sink.sync_later() else {
            return false;
        };
        let task = Sync::Early(Box::new(sync));
        self.queue
            .as_ref()
            .is_some_and(|queue| queue.try_send(task).is_ok())
    }
}

impl Drop for Syncer {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

fn sync_in_order(folder: &Path, shared: &Shared, tasks: &Receiver<Sync>) {
    let mut num_shards = 0;
    for task in tasks {
        let result = match task {
            Sync::Acknowledge(ack) => {
                ack.send(()).ok();
                Ok(())
            }
            // After a failure nothing is committed: the sink removes its file.
            _ if shared.failed.load(Ordering::Acquire) => Ok(()),
            // An error would not be reported again when the file is committed: it is fatal here.
            Sync::Early(sync) => sync(),
            Sync::Commit(record, mut sink) => {
                num_shards += 1;
                fault::at(folder, "sync", num_shards - 1)
                    .and_then(|()| sink.commit())
                    .map(|()| {
                        shared
                            .sealed
                            .lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .push(record);
                    })
            }
        };
        if let Err(error) = result {
            shared.fail(error);
        }
    }
}

pub(crate) fn random_id() -> Result<[u8; 16]> {
    let mut id = [0; 16];
    getrandom::fill(&mut id)
        .map_err(|e| Error::io("get random bytes", "", std::io::Error::other(e)))?;
    Ok(id)
}

/// Makes shard ids.
pub(super) struct ShardIds {
    seed: Option<u64>,
    next: u64,
}

impl ShardIds {
    /// Ids from the `next`-th on.
    pub(super) fn new(seed: Option<u64>, next: u64) -> Self {
        Self { seed, next }
    }

    fn next(&mut self) -> Result<ShardId> {
        let Some(seed) = self.seed else {
            return Ok(ShardId(random_id()?));
        };
        let n = self.next;
        self.next += 1;
        let halves = [seed, seed.wrapping_add(1)].map(|half| match n {
            0 => mix(half),
            // Scattered first: later shards of one seed are not the first ones of another.
            _ => mix(mix(half).wrapping_add(n)),
        });
        let mut id = [0; 16];
        id[..8].copy_from_slice(&halves[0].to_le_bytes());
        id[8..].copy_from_slice(&halves[1].to_le_bytes());
        Ok(ShardId(id))
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014), for reproducible ids.
pub(crate) fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn ids_of_all_seeds_differ_and_come_again() -> Result<()> {
        let ids = |seed, next| -> Result<Vec<ShardId>> {
            let mut ids = ShardIds::new(Some(seed), next);
            (next..20).map(|_| ids.next()).collect()
        };
        let mut seen = HashSet::new();
        for seed in (0..200).chain([u64::MAX - 1, u64::MAX]) {
            seen.extend(ids(seed, 0)?);
            assert_eq!(ids(seed, 0)?[7..], ids(seed, 7)?);
        }
        assert_eq!(seen.len(), 202 * 20);
        Ok(())
    }
}
