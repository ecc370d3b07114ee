//! An epoch under way: rounds of the plan become open batches and tasks of workers, and come back as batches.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::dataset::{Batch, Dataset, FieldLayout};
use crate::error::{Error, Result};
use crate::fault;
use crate::kernel::slots::{SlotClaims, SlotOwner};
use crate::pool::{BufferPool, PooledBuffer};
use crate::shard::RowRun;

use super::Store;
use super::affordable_batches;
use super::open::{OpenBatch, VisitShapes, WaitingVisit};
use super::parts::{PartVisit, Sources};
use super::plan::{Planner, Visit};
use super::prefetch::{Call, DecodeTask, Padded, RecallTask, Report, ShapesTask, Workers};
use super::share::Share;
use super::stats::LoaderStats;

#[derive(Debug, Default)]
pub(super) struct Options {
    /// Batches that may be planned ahead of the consumer: what was asked for, and at least a round of the order.
    pub(super) ahead: u64,
    /// Bytes that the open batches may take.
    pub(super) batch_budget: u64,
    /// Samples that a round may decode for one of its own: more than 1 where the exact shuffle keeps them.
    pub(super) decoded_per_sample: u64,
    /// Bytes of a batch, where samples have one size.
    pub(super) batch_bytes: u64,
    /// Batches that a round spans at most, as far as the budget allows, if samples differ in size. The first round has
    /// one.
    pub(super) round_batches: Option<u64>,
    pub(super) ragged: bool,
    /// What the ids of the order are.
    pub(super) sources: Sources,
}

#[derive(Debug)]
pub(super) struct Running {
    planner: Planner,
    workers: Workers,
    /// Batches that are planned or being filled; the first is the next to deliver.
    open: VecDeque<OpenBatch>,
    first_open: u64,
    /// Visits that wait for shapes, or for batches to be laid out.
    waiting: VecDeque<WaitingVisit>,
    next_visit: u64,
    /// Batches before this one are laid out.
    laid_out: u64,
    /// Bytes of the largest batch that was laid out, 0 before the first.
    largest: u64,
    /// Samples that were decoded before their time, by position.
    kept: HashMap<u64, SlotOwner<PooledBuffer>>,
    /// The first batch that needs shapes which could not be read: nothing from it on is delivered.
    end: u64,
    /// Time spent planning, without that in [`Running::sending`].
    planning: Duration,
    /// Time spent handing tasks to workers: where cores are few, a worker that wakes up takes the core of this thread.
    sending: Duration,
    /// Samples of the chunks that visits were planned for, and of those the samples that were asked for.
    visited_samples: u64,
    planned_samples: u64,
    /// The last plan ended because of the memory budget.
    pub(super) out_of_memory: bool,
    /// A worker is gone: what it had at hand never comes.
    gone: Option<Error>,
}

pub(super) struct Context<'a> {
    pub(super) dataset: &'a Dataset,
    pub(super) layouts: &'a Arc<[FieldLayout]>,
    pub(super) stores: &'a [Store],
    pub(super) options: &'a Options,
    pub(super) pool: &'a BufferPool,
    pub(super) epoch: u64,
    /// The batch of the epoch that the plan begins with.
    pub(super) first_index: u64,
    pub(super) need: Need,
}

/// How much is planned ahead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// The consumer waits for the next batch: a round is always admitted when nothing else can go on.
    Next,
    /// It has something to wait for already: only what the memory budget allows.
    Later,
    /// It is busy with the epoch before: so many batches, as far as memory allows.
    Epoch(u64),
}

pub(super) enum Delivery {
    Batch(Box<Batch>),
    Failed(Error),
    NotYet,
    End,
}

impl Running {
    pub(super) fn new(planner: Planner, workers: Workers) -> Self {
        Self {
            planner,
            workers,
            open: VecDeque::new(),
            first_open: 0,
            waiting: VecDeque::new(),
            next_visit: 0,
            laid_out: 0,
            largest: 0,
            kept: HashMap::new(),
            end: u64::MAX,
            planning: Duration::ZERO,
            sending: Duration::ZERO,
            out_of_memory: false,
            gone: None,
            visited_samples: 0,
            planned_samples: 0,
        }
    }

    /// A report of the workers that is there already.
    pub(super) fn poll(&self) -> Option<Report> {
        self.workers.poll()
    }

    /// The next report, if it comes by a deadline.
    pub(super) fn wait(&self, deadline: Option<Instant>) -> Result<Option<Report>> {
        let report = match deadline {
            Some(deadline) => self.workers.wait_until(deadline),
            None => self.workers.wait().map(Some),
        };
        report.map_err(|_| Error::panicked("decode", &"every worker is gone"))
    }

    /// Has a worker do this before anything else. It must not panic.
    pub(super) fn send_call(&self, call: Call) {
        self.workers.send_call(call);
    }

    pub(super) fn num_workers(&self) -> u64 {
        self.workers.num_threads()
    }

    /// True if every batch of the epoch has been planned, and has its memory.
    pub(super) fn is_planned(&self) -> bool {
        let end = self.first_open + self.open.len() as u64;
        self.planner.planned_batches() >= self.planner.num_batches() && self.laid_out >= end
    }

    /// Batches that are planned and not delivered.
    pub(super) fn num_open(&self) -> u64 {
        self.open.len() as u64
    }

    pub(super) fn share(&self) -> &Share {
        self.planner.share()
    }

    /// Batches that were delivered, or left out.
    pub(super) fn taken(&self) -> u64 {
        self.first_open
    }

    pub(super) fn add_counters(&self, stats: &mut LoaderStats) {
        let counters = &self.workers.counters;
        stats.chunks += counters.chunks.load(Ordering::Relaxed);
        stats.worker_busy += Duration::from_nanos(counters.busy_ns.load(Ordering::Relaxed));
        stats.worker_idle += Duration::from_nanos(counters.idle_ns.load(Ordering::Relaxed));
        stats.worker_reading += Duration::from_nanos(counters.read_ns.load(Ordering::Relaxed));
        stats.worker_mapping += Duration::from_nanos(counters.mapping_ns.load(Ordering::Relaxed));
        stats.visited_samples += self.visited_samples;
        stats.planned_samples += self.planned_samples;
        stats.stored_bytes += counters.stored_bytes.load(Ordering::Relaxed);
        stats.decoded_bytes += counters.decoded_bytes.load(Ordering::Relaxed);
        stats.num_workers = self.workers.num_threads();
        stats.planning += self.planning;
        stats.consumer_wait += self.sending;
    }

    fn batch_mut(&mut self, batch: u64) -> Option<&mut OpenBatch> {
        let at = usize::try_from(batch.checked_sub(self.first_open)?).ok()?;
        self.open.get_mut(at)
    }

    /// Plans rounds until enough batches are on their way, and sends out what can be decoded. True if it planned some,
    /// but not enough yet: every call plans twice the batches that a delivery takes, so that plans get ahead of the
    /// consumer, but the first batch does not wait for all of them.
    pub(super) fn plan_ahead(&mut self, context: &Context<'_>) -> Result<bool> {
        if self.open.is_empty() && self.planner.planned_batches() > self.first_open {
            // Nothing goes into a batch that is empty.
            self.open_batch(self.first_open);
        }
        self.send_ready(context)?;
        if !self.wants_round(context) {
            return Ok(false);
        }
        let (start, sending) = (Instant::now(), self.sending);
        let result = self.plan_rounds(context);
        self.planning += start.elapsed().saturating_sub(self.sending - sending);
        result
    }

    fn plan_rounds(&mut self, context: &Context<'_>) -> Result<bool> {
        let enough = self.planner.planned_batches().saturating_add(2);
        loop {
            self.send_ready(context)?;
            if !self.wants_round(context) {
                return Ok(false);
            }
            if self.planner.planned_batches() >= enough {
                return Ok(true);
            }
            let Some(round) = self.planner.next_round()? else {
                return Ok(false);
            };
            // Dropped now, or when their decoding ends.
            for position in round.evicted {
                self.kept.remove(&position);
            }
            self.planned_samples += round.recalls.len() as u64;
            for recall in round.recalls {
                self.open_batch(recall.batch);
                if let Some(batch) = self.batch_mut(recall.batch) {
                    batch.ids[recall.slot as usize] = recall.sample;
                    batch.recalls.push(recall);
                }
            }
            for visit in round.visits {
                self.admit(context, visit);
            }
        }
    }

    fn wants_round(&mut self, context: &Context<'_>) -> bool {
        self.out_of_memory = false;
        let planned = self.planner.planned_batches();
        if planned >= self.planner.num_batches() {
            return false;
        }
        // Nothing can be delivered without it.
        if planned <= self.first_open && context.need == Need::Next {
            return true;
        }
        let ahead = match context.need {
            Need::Next | Need::Later => context.options.ahead,
            Need::Epoch(0) => return false,
            Need::Epoch(batches) => batches - 1,
        };
        let last_ahead = self.first_open.saturating_add(ahead);
        // The next visit waits for a batch that only the next round completes, and those behind it for it: visits are
        // in the order of their blocks, and in a block the first may begin later than others.
        let stuck = context.options.ragged
            && context.need == Need::Next
            && self.waiting.front().is_some_and(|visit| {
                visit.shapes.get().is_some()
                    && visit.batches.last().is_some_and(|&batch| batch >= planned)
            });
        let waits = |last: u64| {
            let starts = |visit: &WaitingVisit| visit.batches.first().is_some_and(|&b| b <= last);
            stuck && self.waiting.iter().any(starts)
        };
        // The next batch waits as well.
        if waits(self.first_open) {
            return true;
        }
        if planned > last_ahead && !waits(last_ahead) {
            return false;
        }
        let open_bytes = context.pool.stats().in_use;
        // Batches that are open and take no memory yet, and those that the next round opens.
        let open_end = self.first_open + self.open.len() as u64;
        let more = (self.planner.reach() + 1)
            .max(open_end)
            .saturating_sub(self.laid_out);
        // Ragged batches: as large as the largest so far. The first tells.
        let each = context.options.batch_bytes.max(self.largest);
        if context.options.ragged && each == 0 && !self.open.is_empty() {
            return false;
        }
        let mut next_bytes = more.saturating_mul(each);
        if matches!(context.need, Need::Epoch(_)) {
            next_bytes = next_bytes.saturating_mul(context.options.decoded_per_sample);
        }
        self.out_of_memory = open_bytes.saturating_add(next_bytes) > context.options.batch_budget;
        !self.out_of_memory
    }

    /// Opens batches up to this one.
    fn open_batch(&mut self, batch: u64) {
        while self.batch_mut(batch).is_none() {
            let len = self
                .planner
                .batch_len(self.first_open + self.open.len() as u64);
            self.open
                .push_back(OpenBatch::new(usize::try_from(len).unwrap_or(usize::MAX)));
        }
    }

    fn admit(&mut self, context: &Context<'_>, visit: Visit) {
        let (parts, first_id) = context.options.sources.get(visit.place.source);
        for entry in &visit.entries {
            self.open_batch(entry.batch);
            if let Some(batch) = self.batch_mut(entry.batch) {
                batch.plan(first_id + visit.place.first_sample, entry);
            }
        }
        for visit in parts.visits(visit) {
            self.admit_chunk(context, visit);
        }
    }

    fn admit_chunk(&mut self, context: &Context<'_>, visit: PartVisit) {
        let PartVisit {
            place,
            entries,
            keeps,
            parts,
            sparse,
        } = visit;
        self.visited_samples += u64::from(place.num_samples);
        self.planned_samples += match parts.as_slice() {
            [] => entries.iter().map(|entry| u64::from(entry.count)).sum(),
            // Samples are decoded once, however many parts there are.
            parts => parts.chunk_by(|a, b| a.row == b.row).count() as u64,
        };
        let shapes = Arc::new(VisitShapes::new());
        if context.options.ragged {
            for entry in &entries {
                if let Some(batch) = self.batch_mut(entry.batch) {
                    batch.expect_shapes(entry, &shapes);
                }
            }
        }
        let (batches, of_entries) = Visit::batches(&entries);
        for &batch in &batches {
            if let Some(batch) = self.batch_mut(batch) {
                batch.pending += 1;
            }
        }
        let id = self.next_visit;
        self.next_visit += 1;
        if context.options.ragged {
            self.workers.send_shapes(ShapesTask { visit: id, place });
        }
        self.waiting.push_back(WaitingVisit {
            id,
            place,
            entries,
            keeps,
            batches,
            of_entries,
            parts,
            sparse,
            shapes,
        });
    }

    /// Lays out batches and sends visits, in order, as far as what they need is known.
    fn send_ready(&mut self, context: &Context<'_>) -> Result<()> {
        if !context.options.ragged {
            // Fixed slots need no shapes: every open batch can be laid out at once.
            let end = self.first_open + self.open.len() as u64;
            self.lay_out(context, end)?;
        } else {
            let complete = self.planner.planned_batches();
            self.lay_out(context, complete)?;
        }
        while let Some(front) = self.waiting.front_mut() {
            let laid_out = self.laid_out;
            // What goes to later batches would wait for them forever, and batches before them for it.
            front.cut(self.end);
            if front.batches.is_empty() {
                self.waiting.pop_front();
                continue;
            }
            let ready = !context.options.ragged
                || front.shapes.get().is_some()
                    && front.batches.last().is_none_or(|&batch| batch < laid_out);
            if !ready {
                break;
            }
            if let Some(visit) = self.waiting.pop_front() {
                self.send(context, visit)?;
            }
        }
        Ok(())
    }

    fn lay_out(&mut self, context: &Context<'_>, end: u64) -> Result<()> {
        while self.laid_out < end {
            let number = self.laid_out;
            let Some(batch) = self.batch_mut(number) else {
                return Ok(());
            };
            let Some(bytes) = batch.lay_out(context)? else {
                return Ok(());
            };
            self.laid_out += 1;
            self.largest = self.largest.max(bytes).max(1);
            if let Some(most) = context.options.round_batches {
                let budget = context.options.batch_budget;
                let batches = affordable_batches(budget, self.largest, most);
                self.planner.set_round(batches);
            }
        }
        Ok(())
    }

    fn send(&mut self, context: &Context<'_>, visit: WaitingVisit) -> Result<()> {
        let batches = visit.batches;
        let num_runs = visit.entries.len() + visit.keeps.len();
        let num_owners = batches.len() + visit.keeps.len();
        let mut claims = SlotClaims::with_capacity(num_owners, num_runs);
        let mut padded = Vec::with_capacity(batches.len());
        for &number in &batches {
            let batch = self.batch_mut(number).ok_or_else(plan_bug)?;
            claims.add_batch(batch.owner.as_ref().ok_or_else(plan_bug)?);
            padded.push(Arc::clone(&batch.padded));
        }
        let mut runs = Vec::with_capacity(num_runs);
        let mut keeps = visit.keeps.iter().peekable();
        for (entry, &ordinal) in visit.entries.iter().zip(&visit.of_entries) {
            while let Some(&(row, position)) = keeps.next_if(|&&(row, _)| row < entry.row) {
                self.keep(context, position, &mut claims)?;
                runs.push(RowRun { row, count: 1 });
            }
            let owner = self
                .batch_mut(entry.batch)
                .and_then(|batch| batch.owner.as_mut())
                .ok_or_else(plan_bug)?;
            owner
                .claim(entry.slot, entry.count, ordinal, &mut claims)
                .ok_or_else(plan_bug)?;
            runs.push(RowRun {
                row: entry.row,
                count: entry.count,
            });
        }
        for &(row, position) in keeps {
            self.keep(context, position, &mut claims)?;
            runs.push(RowRun { row, count: 1 });
        }
        padded.resize(num_owners, Padded::default());
        let shapes = if context.options.ragged {
            visit.shapes.get().cloned()
        } else {
            None
        };
        // The disk brings what waits for a worker. Of a chunk that is visited for a few samples, most is not needed.
        let place = visit.place;
        if !visit.sparse
            && runs.iter().map(|run| u64::from(run.count)).sum::<u64>()
                >= u64::from(place.num_samples / 2)
            && let Some(store) = context.stores.get(place.source as usize)
        {
            store.dataset.will_read(place.shard, place.chunk);
        }
        let start = Instant::now();
        self.workers.send_decode(DecodeTask {
            place: visit.place,
            shapes,
            runs,
            parts: visit.parts,
            claims,
            padded,
            batches,
            cold: context.pool.is_cold(),
        });
        self.sending += start.elapsed();
        Ok(())
    }

    /// Sets memory aside for a sample whose batch is not open yet.
    fn keep(
        &mut self,
        context: &Context<'_>,
        position: u64,
        claims: &mut SlotClaims<PooledBuffer>,
    ) -> Result<()> {
        let mut arrays = Vec::new();
        for layout in context.layouts.iter() {
            layout.allocate(
                context.dataset,
                context.pool,
                1,
                std::iter::empty(),
                &mut arrays,
            )?;
        }
        let mut owner = SlotOwner::new(1, arrays).ok_or_else(plan_bug)?;
        let ordinal = u32::try_from(claims.add_batch(&owner)).unwrap_or(u32::MAX);
        owner.claim(0, 1, ordinal, claims).ok_or_else(plan_bug)?;
        self.kept.insert(position, owner);
        Ok(())
    }

    /// Sends kept samples to the batches whose turn has come: every visit before them is decoded, so that theirs is.
    pub(super) fn send_recalls(&mut self, context: &Context<'_>) -> Result<()> {
        if self.kept.is_empty() {
            return Ok(());
        }
        let planned = self.planner.planned_batches();
        for at in 0..self.open.len() {
            let number = self.first_open + at as u64;
            let batch = &mut self.open[at];
            if number >= planned || batch.pending > 0 || batch.error.is_some() {
                break;
            }
            if batch.recalls.is_empty() {
                continue;
            }
            let recalls = std::mem::take(&mut batch.recalls);
            let owner = batch.owner.as_mut().ok_or_else(plan_bug)?;
            let mut claims = SlotClaims::with_capacity(1, recalls.len());
            let ordinal = u32::try_from(claims.add_batch(owner)).unwrap_or(u32::MAX);
            let mut sources = Vec::with_capacity(recalls.len());
            for recall in recalls {
                owner
                    .claim(recall.slot, 1, ordinal, &mut claims)
                    .ok_or_else(plan_bug)?;
                let kept = self.kept.remove(&recall.position);
                sources.push(
                    kept.and_then(SlotOwner::into_buffers)
                        .ok_or_else(plan_bug)?,
                );
            }
            batch.recalling = true;
            self.workers.send_recall(RecallTask {
                batch: number,
                sources,
                claims,
                cold: context.pool.is_cold(),
            });
        }
        Ok(())
    }

    pub(super) fn take_report(&mut self, report: Report) {
        match report {
            Report::Shapes {
                visit,
                shapes: Ok(shapes),
            } => {
                if let Some(waiting) = self.waiting.iter().find(|waiting| waiting.id == visit) {
                    waiting.shapes.set(shapes).ok();
                }
            }
            Report::Shapes {
                visit,
                shapes: Err(error),
            } => {
                // The first batch that needs the chunk carries the error; nothing after it is delivered.
                let first = self
                    .waiting
                    .iter()
                    .find(|w| w.id == visit)
                    .and_then(|w| w.batches.first().copied());
                if let Some(number) = first {
                    self.end = self.end.min(number);
                    if let Some(batch) = self.batch_mut(number) {
                        batch.error.get_or_insert(error);
                    }
                }
            }
            Report::Gone(error) => {
                self.gone.get_or_insert(error);
            }
            Report::Called => {}
            Report::Recalled { batch, result } => {
                if let Some(batch) = self.batch_mut(batch) {
                    batch.recalling = false;
                    if let Err(error) = result {
                        batch.error.get_or_insert(error);
                    }
                }
            }
            Report::Decoded { batches, result } => {
                let mut error = result.err();
                for number in batches {
                    if let Some(batch) = self.batch_mut(number) {
                        batch.pending = batch.pending.saturating_sub(1);
                        if let Some(error) = error.take() {
                            batch.error.get_or_insert(error);
                        }
                    }
                }
            }
        }
    }

    pub(super) fn deliver(&mut self, context: &Context<'_>) -> Delivery {
        if let Some(error) = self.gone.take() {
            return Delivery::Failed(error);
        }
        if self.first_open >= self.planner.num_batches() {
            return Delivery::End;
        }
        let complete = self.planner.planned_batches() > self.first_open;
        let Some(batch) = self.open.front_mut() else {
            return Delivery::NotYet;
        };
        if let Some(error) = batch.error.take() {
            return Delivery::Failed(error);
        }
        let recalls = !batch.recalls.is_empty() || batch.recalling;
        if !complete || batch.pending > 0 || recalls || batch.owner.is_none() {
            return Delivery::NotYet;
        }
        let index = context.first_index + self.first_open;
        if let Err(error) = fault::at(context.dataset.path(), "deliver", index) {
            return Delivery::Failed(error);
        }
        let num_padded = self.planner.share().num_padded(self.first_open);
        self.first_open += 1;
        match self
            .open
            .pop_front()
            .and_then(|batch| batch.finish(context, index))
        {
            Some(mut batch) => {
                batch.num_padded = usize::try_from(num_padded).unwrap_or(usize::MAX);
                Delivery::Batch(Box::new(batch))
            }
            None => Delivery::Failed(plan_bug()),
        }
    }
}

pub(super) fn plan_bug() -> Error {
    Error::invalid("the plan contradicts itself: this is a bug, please report it")
}
