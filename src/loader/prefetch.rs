//! Worker threads that execute the plan: one task is one visit of a chunk.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::dataset::check_workers;
use crate::error::{Error, Result};
use crate::fault;
use crate::kernel::slots::SlotClaims;
use crate::kernel::stream;
use crate::pool::PooledBuffer;
use crate::shard::{ReadCounts, RowRun, Scratch, Shapes, SlotShape, Slots};
use crate::sync::channel::{Receiver, RecvError, RecvTimeoutError, Sender, recv_either, unbounded};
use crate::sync::thread::{self, JoinHandle};
use crate::sync::{AtomicBool, Either, num_cores};

use super::Store;
use super::damaged::{Skips, no_shapes};
use super::order::geometry::ChunkPlace;
use super::parts::Part;
use super::parts::decode::{FieldChunk, PartScratch};

/// The shapes of a chunk's samples, for each ragged field that is delivered.
pub(crate) type ChunkShapes = Vec<Option<Shapes>>;

/// The padded shapes of the fields of a batch.
pub(crate) type Padded = Arc<Vec<Option<SlotShape>>>;

/// Learn the shapes of a chunk.
pub(crate) struct ShapesTask {
    pub(crate) visit: u64,
    pub(crate) place: ChunkPlace,
}

/// Decode a chunk into batches.
pub(crate) struct DecodeTask {
    pub(crate) place: ChunkPlace,
    pub(crate) shapes: Option<Arc<ChunkShapes>>,
    pub(crate) runs: Vec<RowRun>,
    /// What of these samples is delivered, for each run; none if they are whole.
    pub(crate) parts: Vec<Part>,
    /// The slots of each run.
    pub(crate) claims: SlotClaims<PooledBuffer>,
    /// The padded shapes of each batch.
    pub(crate) padded: Vec<Padded>,
    /// The batches of `claims`.
    pub(crate) batches: Vec<u64>,
    /// The open batches are more than caches hold.
    pub(crate) cold: bool,
}

/// Take samples that were decoded before their time to their batch.
pub(crate) struct RecallTask {
    pub(crate) batch: u64,
    /// The arrays of each sample.
    pub(crate) sources: Vec<Vec<PooledBuffer>>,
    /// The slot of each sample.
    pub(crate) claims: SlotClaims<PooledBuffer>,
    pub(crate) cold: bool,
}

/// What somebody else wants done with a batch.
pub(crate) type Call = Box<dyn FnOnce() + Send>;

/// Work that comes before other work.
enum Urgent {
    Call(Call),
    Shapes(ShapesTask),
}

/// Work that batches wait for.
enum Work {
    Decode(DecodeTask),
    Recall(RecallTask),
}

/// What workers report.
pub(crate) enum Report {
    Shapes {
        visit: u64,
        shapes: Result<Arc<ChunkShapes>>,
    },
    Decoded {
        batches: Vec<u64>,
        result: Result<()>,
    },
    Recalled {
        batch: u64,
        result: Result<()>,
    },
    /// A worker is gone, and with it what it had at hand.
    Gone(Error),
    /// A call has returned.
    Called,
}

/// Counters of the workers.
#[derive(Debug, Default)]
pub(crate) struct WorkerCounters {
    pub(crate) busy_ns: AtomicU64,
    pub(crate) idle_ns: AtomicU64,
    pub(crate) chunks: AtomicU64,
    pub(crate) read_ns: AtomicU64,
    pub(crate) stored_bytes: AtomicU64,
    pub(crate) decoded_bytes: AtomicU64,
    pub(crate) mapping_ns: AtomicU64,
}

impl WorkerCounters {
    fn add(&self, counts: ReadCounts) {
        self.read_ns
            .fetch_add(nanos(counts.read_time), Ordering::Relaxed);
        self.stored_bytes
            .fetch_add(counts.stored_bytes, Ordering::Relaxed);
        self.decoded_bytes
            .fetch_add(counts.decoded_bytes, Ordering::Relaxed);
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// The threads of one iterator. Dropping it cancels what is queued and joins them.
pub(crate) struct Workers {
    urgent: Option<Sender<Urgent>>,
    work: Option<Sender<Work>>,
    reports: Receiver<Report>,
    cancelled: Arc<AtomicBool>,
    pub(crate) counters: Arc<WorkerCounters>,
    threads: Vec<JoinHandle<()>>,
    /// There are more processors than workers.
    may_spin: bool,
}

/// How long the consumer looks for a report before it sleeps. Whoever sleeps is woken by the worker that reports, and that
/// takes 15 us of its time on a virtual machine: as much as decoding 150 KiB.
const SPIN: Duration = Duration::from_micros(100);
/// Pauses between two looks.
const PAUSES: u32 = 32;

impl Workers {
    pub(crate) fn start(
        stores: &Arc<[Store]>,
        skips: &Arc<Skips>,
        num_workers: usize,
    ) -> Result<Self> {
        check_workers(num_workers)?;
        let cores = num_cores();
        let num_workers = match num_workers {
            0 => cores,
            n => n,
        };
        let (urgent, urgent_queue) = unbounded();
        let (work, work_queue) = unbounded();
        let (report_sender, reports) = unbounded();
        let mut workers = Self {
            urgent: Some(urgent),
            work: Some(work),
            reports,
            cancelled: Arc::default(),
            counters: Arc::default(),
            threads: Vec::new(),
            // A model has no time.
            may_spin: cfg!(not(shuttle)) && num_workers < cores,
        };
        for i in 0..num_workers {
            let worker = Worker {
                stores: Arc::clone(stores),
                skips: Arc::clone(skips),
                urgent: urgent_queue.clone(),
                work: work_queue.clone(),
                reports: report_sender.clone(),
                cancelled: Arc::clone(&workers.cancelled),
                counters: Arc::clone(&workers.counters),
                scratch: Scratch::default(),
                part_scratch: PartScratch::default(),
            };
            let thread = thread::Builder::new().name(format!("tensorshard-load-{i}"));
            let thread = thread
                .spawn(move || worker.run())
                .map_err(|e| Error::io("start a thread", "", e))?;
            workers.threads.push(thread);
        }
        Ok(workers)
    }

    pub(crate) fn num_threads(&self) -> u64 {
        self.threads.len() as u64
    }

    /// Has a worker do this before anything else. It must not panic.
    pub(crate) fn send_call(&self, call: Call) {
        if let Some(urgent) = &self.urgent {
            urgent.send(Urgent::Call(call)).ok();
        }
    }

    pub(crate) fn send_shapes(&self, task: ShapesTask) {
        if let Some(urgent) = &self.urgent {
            // Fails only when every worker is gone, which `wait` reports.
            urgent.send(Urgent::Shapes(task)).ok();
        }
    }

    pub(crate) fn send_decode(&self, task: DecodeTask) {
        if let Some(work) = &self.work {
            work.send(Work::Decode(task)).ok();
        }
    }

    pub(crate) fn send_recall(&self, task: RecallTask) {
        if let Some(work) = &self.work {
            work.send(Work::Recall(task)).ok();
        }
    }

    /// The next report; `Err` if every worker is gone.
    pub(crate) fn wait(&self) -> Result<Report, RecvError> {
        self.spin(SPIN).map_or_else(|| self.reports.recv(), Ok)
    }

    /// The next report, if it comes by `deadline`; `Err` if every worker is gone.
    pub(crate) fn wait_until(&self, deadline: Instant) -> Result<Option<Report>, RecvError> {
        let left = deadline.saturating_duration_since(Instant::now());
        if let Some(report) = self.spin(left.min(SPIN)) {
            return Ok(Some(report));
        }
        match self.reports.recv_deadline(deadline) {
            Ok(report) => Ok(Some(report)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err(RecvError),
        }
    }

    /// A report that comes soon. On machines without a processor to spare, only one that is there.
    fn spin(&self, time: Duration) -> Option<Report> {
        let start = Instant::now();
        loop {
            let report = self.poll();
            if report.is_some() || !self.may_spin || start.elapsed() >= time {
                return report;
            }
            for _ in 0..PAUSES {
                std::hint::spin_loop();
            }
        }
    }

    /// A report that is there already.
    pub(crate) fn poll(&self) -> Option<Report> {
        self.reports.try_recv().ok()
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.cancelled.store(true, Ordering::Relaxed);
        self.urgent = None;
        self.work = None;
        for thread in self.threads.drain(..) {
            thread.join().ok();
        }
    }
}

impl std::fmt::Debug for Workers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Workers")
            .field("threads", &self.threads.len())
            .finish_non_exhaustive()
    }
}

struct Worker {
    stores: Arc<[Store]>,
    skips: Arc<Skips>,
    urgent: Receiver<Urgent>,
    work: Receiver<Work>,
    reports: Sender<Report>,
    cancelled: Arc<AtomicBool>,
    counters: Arc<WorkerCounters>,
    scratch: Scratch,
    part_scratch: PartScratch,
}

impl Worker {
    fn run(mut self) {
        let work = AssertUnwindSafe(|| self.work());
        if let Err(payload) = catch_unwind(work) {
            let error = Error::panicked("load", payload.as_ref());
            self.reports.send(Report::Gone(error)).ok();
        }
    }

    fn work(&mut self) {
        loop {
            let waiting = Instant::now();
            // Urgent work first: the consumer, or whole batches, wait for it.
            let report = match recv_either(&self.urgent, &self.work) {
                Ok(Either::First(Urgent::Call(call))) => {
                    self.timed(waiting, |worker| worker.call(call))
                }
                Ok(Either::First(Urgent::Shapes(task))) => {
                    self.timed(waiting, |worker| worker.learn_shapes(&task))
                }
                Ok(Either::Second(Work::Decode(task))) => {
                    self.timed(waiting, |worker| worker.decode(task))
                }
                Ok(Either::Second(Work::Recall(task))) => {
                    self.timed(waiting, |worker| worker.recall(task))
                }
                Err(RecvError) => return,
            };
            #[cfg(test)]
            self.maybe_die(&report);
            if self.cancelled.load(Ordering::Relaxed) || self.reports.send(report).is_err() {
                return;
            }
        }
    }

    fn timed(&mut self, waiting: Instant, work: impl FnOnce(&mut Self) -> Report) -> Report {
        let start = Instant::now();
        let report = work(self);
        self.counters
            .idle_ns
            .fetch_add(nanos(start - waiting), Ordering::Relaxed);
        self.counters
            .busy_ns
            .fetch_add(nanos(start.elapsed()), Ordering::Relaxed);
        self.counters.add(self.scratch.counts.take());
        report
    }

    fn call(&self, call: Call) -> Report {
        if !self.cancelled.load(Ordering::Relaxed) {
            let start = Instant::now();
            call();
            self.counters
                .mapping_ns
                .fetch_add(nanos(start.elapsed()), Ordering::Relaxed);
        }
        Report::Called
    }

    fn learn_shapes(&mut self, task: &ShapesTask) -> Report {
        let work = || -> Result<Arc<ChunkShapes>> {
            let store = &self.stores[task.place.source as usize];
            let Store {
                dataset, layouts, ..
            } = store;
            fault::at(dataset.path(), "shapes", task.place.chunk)?;
            if self.skips.skips(task.place, store, &mut self.scratch)? {
                let shapes = layouts.iter().map(|layout| {
                    let shapes = || no_shapes(task.place, dataset, layout);
                    layout.is_ragged().then(shapes).transpose()
                });
                return Ok(Arc::new(shapes.collect::<Result<_>>()?));
            }
            let shard = dataset.shard(task.place.shard)?;
            let chunk = shard.chunk(task.place.chunk, &mut self.scratch.io)?;
            let mut out = Vec::with_capacity(layouts.len());
            for layout in layouts.iter() {
                let shapes = layout
                    .is_ragged()
                    .then(|| shard.decode_shapes(&chunk, layout.ordinal, &mut self.scratch));
                out.push(shapes.transpose()?);
            }
            Ok(Arc::new(out))
        };
        let shapes = catch_unwind(AssertUnwindSafe(work))
            .unwrap_or_else(|payload| Err(Error::panicked("reading shapes", payload.as_ref())));
        Report::Shapes {
            visit: task.visit,
            shapes,
        }
    }

    fn decode(&mut self, task: DecodeTask) -> Report {
        let DecodeTask {
            place,
            shapes,
            runs,
            parts,
            claims,
            padded,
            batches,
            cold,
        } = task;
        if self.cancelled.load(Ordering::Relaxed) {
            return Report::Decoded {
                batches,
                result: Ok(()),
            };
        }
        self.counters.chunks.fetch_add(1, Ordering::Relaxed);
        let work = || -> Result<()> {
            let store = &self.stores[place.source as usize];
            let Store {
                dataset, layouts, ..
            } = store;
            fault::at(dataset.path(), "read", place.chunk)?;
            if self.skips.skips(place, store, &mut self.scratch)? {
                return Ok(());
            }
            let shard = dataset.shard(place.shard)?;
            let chunk = shard.chunk(place.chunk, &mut self.scratch.io)?;
            fault::at(dataset.path(), "decode", place.chunk)?;
            let mut slots = TaskSlots {
                claims,
                padded,
                cold,
                field: 0,
                first_array: 0,
            };
            for (field, layout) in layouts.iter().enumerate() {
                slots.field = field;
                let shapes = shapes
                    .as_ref()
                    .and_then(|shapes| shapes.get(field))
                    .and_then(Option::as_ref);
                if !parts.is_empty() {
                    let field = FieldChunk {
                        dataset,
                        shard: &shard,
                        chunk: &chunk,
                        layout,
                        shapes,
                    };
                    let own = &mut self.part_scratch;
                    let claims = &mut slots.claims;
                    field.decode(
                        &parts,
                        claims,
                        slots.first_array,
                        cold,
                        own,
                        &mut self.scratch,
                    )?;
                    slots.first_array += layout.num_arrays();
                    continue;
                }
                shard.decode_rows(
                    &chunk,
                    layout.ordinal,
                    shapes,
                    &layout.form,
                    &runs,
                    &mut slots,
                    &mut self.scratch,
                )?;
                slots.first_array += layout.num_arrays();
            }
            fault::at(dataset.path(), "decoded", place.chunk)?;
            // The claims end here, before the report: the consumer may then take the buffers.
            Ok(())
        };
        let result = catch_unwind(AssertUnwindSafe(work))
            .unwrap_or_else(|payload| Err(Error::panicked("decode", payload.as_ref())));
        Report::Decoded { batches, result }
    }

    /// Copies kept samples to their slots.
    fn recall(&self, task: RecallTask) -> Report {
        let RecallTask {
            batch,
            sources,
            mut claims,
            cold,
        } = task;
        let work = || -> Result<()> {
            fault::at(self.stores[0].dataset.path(), "recall", batch)?;
            for (run, arrays) in sources.iter().enumerate() {
                for (array, source) in arrays.iter().enumerate() {
                    let dst = claims.get_mut(run, array);
                    let src = source.as_ref();
                    stream::copy(src, dst, cold);
                }
            }
            if cold {
                stream::fence();
            }
            // The claims end here, before the report, and so do the buffers of the samples.
            drop((claims, sources));
            Ok(())
        };
        let result = catch_unwind(AssertUnwindSafe(work))
            .unwrap_or_else(|payload| Err(Error::panicked("recall", payload.as_ref())));
        Report::Recalled { batch, result }
    }

    /// Fails where nothing is caught, as only a mistake in this file would.
    #[cfg(test)]
    fn maybe_die(&self, report: &Report) {
        let Report::Decoded { batches, .. } = report else {
            return;
        };
        for &batch in batches {
            fault::at(self.stores[0].dataset.path(), "report", batch).ok();
        }
    }
}

/// The slots of a task.
struct TaskSlots {
    claims: SlotClaims<PooledBuffer>,
    padded: Vec<Padded>,
    cold: bool,
    field: usize,
    first_array: usize,
}

impl Slots for TaskSlots {
    fn run(&mut self, run: usize, array: usize) -> &mut [u8] {
        self.claims.get_mut(run, self.first_array + array)
    }

    fn is_cold(&self) -> bool {
        self.cold
    }

    fn padded_shape(&self, run: usize) -> Option<SlotShape> {
        *self.padded[self.claims.batch(run)].get(self.field)?
    }
}
