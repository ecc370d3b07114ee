//! The threads of a writer: workers that encode, and one that writes what they made, in order.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};

use crate::dataset::inspect::FieldReport;
use crate::error::{Error, Result};
use crate::fault;
use crate::format::forever::DEFAULT_PIECE_BYTES;
use crate::format::manifest::ShardRecord;
use crate::format::schema::Schema;
use crate::shard::{ChunkBlock, EncodedChunk, encode_chunk};
use crate::sync::channel::{Receiver, Sender, bounded, unbounded};
use crate::sync::thread::{self, JoinHandle};
use crate::sync::{AtomicBool, Mutex, num_cores};

use super::builder::ShardWriterBuilder;
use super::files::ShardFiles;

/// Blocks with more memory than this are not kept: a chunk of a ragged dataset can outgrow the others by far.
const SPARE_BYTES: usize = 8 << 20;

/// State shared with the threads.
#[derive(Debug, Default)]
pub(super) struct Shared {
    pub(super) error: Mutex<Option<Error>>,
    pub(super) failed: AtomicBool,
    pub(super) sealed: Mutex<Vec<ShardRecord>>,
    pub(super) reports: Mutex<Vec<FieldReport>>,
    pub(super) raw_bytes: AtomicU64,
    pub(super) stored_bytes: AtomicU64,
}

impl Shared {
    pub(super) fn fail(&self, error: Error) {
        self.error
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get_or_insert(error);
        self.failed.store(true, Ordering::Release);
    }
}

/// One chunk to encode.
pub(super) struct Task {
    pub(super) seq: u64,
    pub(super) samples_per_chunk: u32,
    pub(super) block: ChunkBlock,
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
pub(super) struct Pipeline {
    tasks: Option<Sender<Task>>,
    results: Sender<Message>,
    /// One token for each chunk that may be between `append` and the file.
    tokens: Receiver<()>,
    /// Blocks that are encoded, for their memory.
    spares: Receiver<ChunkBlock>,
    threads: Vec<JoinHandle<()>>,
}

impl Pipeline {
    pub(super) fn start(
        options: &ShardWriterBuilder,
        schema: &Arc<Schema>,
        files: ShardFiles,
    ) -> Result<Self> {
        let workers = match options.num_workers {
            0 => num_cores(),
            n => n,
        };
        let in_flight = 2 * workers + 2;
        let (tasks, task_queue) = bounded::<Task>(in_flight);
        let (results, result_queue) = unbounded::<Message>();
        let (token_sender, tokens) = bounded(in_flight);
        let (spare_sender, spares) = bounded(in_flight);
        for _ in 0..in_flight {
            token_sender.send(()).ok();
        }
        let mut threads = Vec::new();
        let spawn = |name: String, body: Box<dyn FnOnce() + Send>| {
            thread::Builder::new()
                .name(name)
                .spawn(body)
                .map_err(|e| Error::io("start a thread", "", e))
        };
        for i in 0..workers {
            let (task_queue, results, schema, folder, spare_sender) = (
                task_queue.clone(),
                results.clone(),
                Arc::clone(schema),
                files.folder().to_owned(),
                spare_sender.clone(),
            );
            let body = move || {
                for mut task in task_queue {
                    let encode = || {
                        fault::at(&folder, "encode", task.seq)?;
                        encode_chunk(&schema, DEFAULT_PIECE_BYTES, &task.block)
                    };
                    let encoded = catch_unwind(AssertUnwindSafe(encode))
                        .unwrap_or_else(|payload| Err(Error::panicked("encode", payload.as_ref())));
                    let message = Message::Chunk {
                        seq: task.seq,
                        samples_per_chunk: task.samples_per_chunk,
                        encoded,
                    };
                    if task.block.capacity() <= SPARE_BYTES {
                        task.block.clear();
                        spare_sender.try_send(task.block).ok();
                    }
                    if results.send(message).is_err() {
                        return;
                    }
                }
            };
            threads.push(spawn(format!("tensorshard-encode-{i}"), Box::new(body))?);
        }
        let shared = files.shared();
        let body = move || {
            let work = || write_in_order(files, &shared, &result_queue, &token_sender);
            if let Err(payload) = catch_unwind(AssertUnwindSafe(work)) {
                shared.fail(Error::panicked("write", payload.as_ref()));
            }
        };
        threads.push(spawn("tensorshard-write".to_owned(), Box::new(body))?);
        Ok(Self {
            tasks: Some(tasks),
            results,
            tokens,
            spares,
            threads,
        })
    }

    /// A cleared block, if there is one.
    pub(super) fn spare(&self) -> Option<ChunkBlock> {
        self.spares.try_recv().ok()
    }

    /// Closes the current shard after what was sent, and acknowledges when all shards are durable. False if the
    /// threads are gone.
    pub(super) fn seal(&self, seq: u64, ack: Sender<()>) -> bool {
        self.results.send(Message::Seal { seq, ack }).is_ok()
    }

    /// False if the threads are gone.
    pub(super) fn send(&self, task: Task) -> bool {
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

fn write_in_order(
    mut files: ShardFiles,
    shared: &Shared,
    queue: &Receiver<Message>,
    tokens: &Sender<()>,
) {
    let mut waiting = BTreeMap::new();
    let mut next = 0u64;
    for message in queue {
        waiting.insert(message.seq(), message);
        while let Some(message) = waiting.remove(&next) {
            next += 1;
            let mut acknowledge = None;
            let result = match message {
                Message::Chunk {
                    samples_per_chunk,
                    encoded,
                    ..
                } => {
                    let result = encoded.and_then(|chunk| files.write(&chunk, samples_per_chunk));
                    tokens.try_send(()).ok();
                    result
                }
                Message::Seal { ack, .. } => {
                    acknowledge = Some(ack);
                    files.seal()
                }
            };
            if let Err(error) = result {
                files.abandon();
                shared.fail(error);
            }
            // Whoever waits looks for the error next: it must be there by then.
            if let Some(ack) = acknowledge {
                files.acknowledge(ack);
            }
        }
    }
}
