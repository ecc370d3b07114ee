//! [`LoaderStats`]: where the time of an iteration went, and what it waits for.

use std::fmt;
use std::ops::AddAssign;
use std::time::Duration;

/// Of an iteration's time, the share that the loop may wait before the loader counts as the limit.
const WAITING: f64 = 0.1;
/// Of the workers' time, the share from which on they count as fully used.
const BUSY: f64 = 0.6;

/// What happened so far in an iteration: see [`crate::Batches::stats`].
///
/// ```
/// # use tensorshard::{DType, FieldSpec, Loader, ShardWriter, TensorView};
/// # fn main() -> tensorshard::Result<()> {
/// # let dir = tempfile::tempdir().unwrap();
/// # let path = dir.path().join("photos");
/// # let mut writer = ShardWriter::builder().field(FieldSpec::new("x", DType::U8, [100])).create(&path)?;
/// # writer.extend(&[("x", TensorView::new(DType::U8, &[20, 100], &[7; 2000])?)])?;
/// # writer.finish()?;
/// let loader = Loader::open(&path)?;
/// let mut batches = loader.batches(4);
/// for batch in batches.by_ref() {
///     let batch = batch?;
///     // A training step takes longer than this.
///     # let _ = batch;
///     std::thread::sleep(std::time::Duration::from_millis(20));
/// }
/// let stats = batches.stats();
/// assert_eq!(stats.samples, 20);
/// // The training loop is the limit: the loader was ready 99% of the time.
/// println!("{}", stats.why());
/// // The same, after the times, bytes and buffers that it follows from.
/// println!("{stats}");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LoaderStats {
    /// Batches delivered.
    pub batches: u64,
    /// Samples delivered.
    pub samples: u64,
    /// Bytes of values delivered.
    pub bytes: u64,
    /// Chunks decoded (or partly decoded).
    pub chunks: u64,
    /// Bytes of pieces of values that were read, as they are stored.
    pub stored_bytes: u64,
    /// Bytes of these pieces when decoded, before they are dequantized. More than the dataset has if some were decoded
    /// several times.
    pub decoded_bytes: u64,
    /// Samples of the chunks that were visited, each chunk counted for every visit: see
    /// [`LoaderStats::amplification`].
    pub visited_samples: u64,
    /// Samples that chunks were visited for.
    pub planned_samples: u64,
    /// Threads that decode.
    pub num_workers: u64,
    /// Time since the iteration began, until it ended.
    pub elapsed: Duration,
    /// Time that the consumer waited for a batch, or handed work to workers: that of the first batch included.
    pub consumer_wait: Duration,
    /// Time that the consumer waited for the first batch.
    pub first_batch_wait: Duration,
    /// Time that the consumer waited while nothing more could be planned within the memory budget.
    pub budget_wait: Duration,
    /// Time that the consumer's thread spent planning.
    pub planning: Duration,
    /// Time that workers spent reading and decoding, over all workers.
    pub worker_busy: Duration,
    /// Of [`LoaderStats::worker_busy`], the time spent reading files and comparing checksums, from samples.
    pub worker_reading: Duration,
    /// Of [`LoaderStats::worker_busy`], the time spent in a function given to [`crate::Batches::map_ordered`].
    pub worker_mapping: Duration,
    /// Time that workers had nothing to do, over all workers.
    pub worker_idle: Duration,
    /// Buffers that were recycled.
    pub pool_hits: u64,
    /// Buffers that were allocated.
    pub pool_misses: u64,
    /// The most bytes that batches of this loader took at any time, those held by the consumer included.
    pub peak_batch_bytes: u64,
}

/// What keeps an iteration from being faster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Limit {
    /// Nothing was delivered yet.
    Unknown,
    /// What the consumer does between batches.
    TrainingLoop,
    /// The first batch, in an iteration that is short beside it.
    Start,
    /// Files.
    Reading,
    /// Stored bytes that are in memory already, and only copied: the speed of memory.
    Memory,
    /// Codecs, filters, quantizers, and writing to batches.
    Decoding,
    /// The function given to [`crate::Batches::map_ordered`].
    Mapping,
    /// Planning on the consumer's thread: very small batches or samples.
    Planning,
    /// The memory that open batches may take.
    MemoryBudget,
    /// Batches decoded ahead: too few to keep the workers busy.
    Prefetch,
}

impl Limit {
    /// One word for programs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::TrainingLoop => "training_loop",
            Self::Start => "start",
            Self::Reading => "reading",
            Self::Memory => "memory",
            Self::Decoding => "decoding",
            Self::Mapping => "mapping",
            Self::Planning => "planning",
            Self::MemoryBudget => "memory_budget",
            Self::Prefetch => "prefetch",
        }
    }
}

/// Bytes a second that no disk or network gives to one worker.
const MEMORY_SPEED: f64 = 3e9;

/// `part / whole`, 0 for nothing of nothing.
fn share(part: Duration, whole: Duration) -> f64 {
    if whole.is_zero() {
        return 0.0;
    }
    part.as_secs_f64() / whole.as_secs_f64()
}

impl LoaderStats {
    /// The share of the time that the consumer did not wait for the loader, 0 to 1.
    pub fn ready_share(&self) -> f64 {
        (1.0 - share(self.consumer_wait + self.planning, self.elapsed)).clamp(0.0, 1.0)
    }

    /// The share of the workers' time that they had something to do, 0 to 1.
    pub fn busy_share(&self) -> f64 {
        share(self.worker_busy, self.worker_busy + self.worker_idle)
    }

    /// Chunks that were visited for a chunk's worth of samples, 1 or more: how often chunks are decoded. Visits that
    /// take a part of a chunk count as whole ones, as where two ranks share a chunk, or two lanes meet in it. Over all
    /// ranks it is the sum of `visited_samples` divided by the sum of `planned_samples`.
    ///
    /// The exact shuffle visits a chunk for single samples and decodes single pieces: what it costs is
    /// [`LoaderStats::decoded_bytes`]. 0 before anything was planned.
    pub fn amplification(&self) -> f64 {
        if self.planned_samples == 0 {
            return 0.0;
        }
        self.visited_samples as f64 / self.planned_samples as f64
    }

    /// Stored bytes a second that a worker reads while it reads.
    fn read_speed(&self) -> f64 {
        self.stored_bytes as f64 / self.worker_reading.as_secs_f64().max(1e-9)
    }

    /// What keeps this iteration from being faster.
    pub fn limit(&self) -> Limit {
        if self.batches == 0 {
            return Limit::Unknown;
        }
        if self.ready_share() >= 1.0 - WAITING {
            return Limit::TrainingLoop;
        }
        if self.first_batch_wait * 2 > self.consumer_wait + self.planning {
            return Limit::Start;
        }
        if self.planning > self.consumer_wait {
            return Limit::Planning;
        }
        if self.busy_share() >= BUSY {
            return if self.worker_mapping * 2 > self.worker_busy {
                Limit::Mapping
            } else if self.worker_reading * 2 <= self.worker_busy {
                Limit::Decoding
            } else if self.read_speed() >= MEMORY_SPEED {
                Limit::Memory
            } else {
                Limit::Reading
            };
        }
        if self.budget_wait * 2 > self.consumer_wait {
            return Limit::MemoryBudget;
        }
        Limit::Prefetch
    }

    /// One sentence that says why the training loop waits, or that it does not.
    pub fn why(&self) -> String {
        let percent = |share: f64| format!("{:.0}%", share * 100.0);
        let waited = percent(1.0 - self.ready_share());
        let busy = percent(self.busy_share());
        let workers = match self.num_workers {
            1 => "the only worker was".to_owned(),
            n => format!("all {n} workers were"),
        };
        match self.limit() {
            Limit::Unknown => "Nothing was delivered yet.".to_owned(),
            Limit::TrainingLoop => format!(
                "The training loop is the limit: the loader was ready {} of the time.",
                percent(self.ready_share())
            ),
            Limit::Start => format!(
                "The start is the limit: the first batch of an epoch took {:.1} ms of {:.1} ms; longer epochs would \
                 hide it.",
                self.first_batch_wait.as_secs_f64() * 1e3,
                self.elapsed.as_secs_f64() * 1e3
            ),
            Limit::Reading => format!(
                "Reading is the limit: {workers} busy {busy} of the time, {} of that with files, at {:.2} GB/s each; \
                 faster storage, more memory for the page cache or a smaller encoding would help.",
                percent(share(self.worker_reading, self.worker_busy)),
                self.read_speed() / 1e9
            ),
            Limit::Memory => format!(
                "Memory is the limit: {workers} busy {busy} of the time, copying stored bytes at {:.1} GB/s each; a \
                 smaller encoding would help.",
                self.read_speed() / 1e9
            ),
            Limit::Decoding => format!(
                "Decoding is the limit: {workers} busy {busy} of the time; more workers or a faster codec would help."
            ),
            Limit::Mapping => format!(
                "The function of map_ordered is the limit: {workers} busy {busy} of the time, {} of that in it; more \
                 workers or a faster function would help.",
                percent(share(self.worker_mapping, self.worker_busy))
            ),
            Limit::Planning => format!(
                "Planning is the limit: it took {} of the time on the thread of the training loop; larger batches \
                 would help.",
                percent(share(self.planning, self.elapsed))
            ),
            Limit::MemoryBudget => format!(
                "The memory budget is the limit: the training loop waited {waited} of the time while workers were \
                 busy only {busy}; a larger memory_budget or smaller batches would help."
            ),
            Limit::Prefetch => format!(
                "Prefetching is the limit: the training loop waited {waited} of the time while workers were busy \
                 only {busy}; a larger prefetch may help."
            ),
        }
    }
}

impl AddAssign for LoaderStats {
    /// Adds an iteration that came after; peaks and the number of workers are the larger ones.
    fn add_assign(&mut self, other: Self) {
        let Self {
            batches,
            samples,
            bytes,
            chunks,
            stored_bytes,
            decoded_bytes,
            visited_samples,
            planned_samples,
            num_workers,
            elapsed,
            consumer_wait,
            first_batch_wait,
            budget_wait,
            planning,
            worker_busy,
            worker_reading,
            worker_mapping,
            worker_idle,
            pool_hits,
            pool_misses,
            peak_batch_bytes,
        } = other;
        self.batches += batches;
        self.samples += samples;
        self.bytes += bytes;
        self.chunks += chunks;
        self.stored_bytes += stored_bytes;
        self.decoded_bytes += decoded_bytes;
        self.visited_samples += visited_samples;
        self.planned_samples += planned_samples;
        self.num_workers = self.num_workers.max(num_workers);
        self.elapsed += elapsed;
        self.consumer_wait += consumer_wait;
        self.first_batch_wait += first_batch_wait;
        self.budget_wait += budget_wait;
        self.planning += planning;
        self.worker_busy += worker_busy;
        self.worker_reading += worker_reading;
        self.worker_mapping += worker_mapping;
        self.worker_idle += worker_idle;
        self.pool_hits += pool_hits;
        self.pool_misses += pool_misses;
        self.peak_batch_bytes = self.peak_batch_bytes.max(peak_batch_bytes);
    }
}

impl fmt::Display for LoaderStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |duration: Duration| duration.as_secs_f64() * 1e3;
        let mb = |bytes: u64| bytes as f64 / 1e6;
        writeln!(
            f,
            "loop     {:.1} ms: {:.1} ms waiting for batches ({:.1} ms for the first, {:.1} ms for memory), {:.1} ms \
             planning",
            ms(self.elapsed),
            ms(self.consumer_wait),
            ms(self.first_batch_wait),
            ms(self.budget_wait),
            ms(self.planning)
        )?;
        writeln!(
            f,
            "workers  {}: {:.1} ms reading, {:.1} ms decoding, {:.1} ms mapping, {:.1} ms idle",
            self.num_workers,
            ms(self.worker_reading),
            ms(self
                .worker_busy
                .saturating_sub(self.worker_reading + self.worker_mapping)),
            ms(self.worker_mapping),
            ms(self.worker_idle)
        )?;
        writeln!(
            f,
            "bytes    {:.1} MB read, {:.1} MB decoded, {:.1} MB delivered in {} batches; chunks visited {:.2} times",
            mb(self.stored_bytes),
            mb(self.decoded_bytes),
            mb(self.bytes),
            self.batches,
            self.amplification()
        )?;
        writeln!(
            f,
            "buffers  {} recycled, {} allocated, at most {:.1} MB in batches",
            self.pool_hits,
            self.pool_misses,
            mb(self.peak_batch_bytes)
        )?;
        f.write_str(&self.why())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An iteration of 100 ms with two workers, of which the loop waited `wait` ms.
    fn stats(wait: u64) -> LoaderStats {
        LoaderStats {
            batches: 10,
            num_workers: 2,
            elapsed: Duration::from_millis(100),
            consumer_wait: Duration::from_millis(wait),
            worker_idle: Duration::from_millis(200),
            ..LoaderStats::default()
        }
    }

    fn busy(stats: LoaderStats, ms: u64, reading: u64) -> LoaderStats {
        LoaderStats {
            worker_busy: Duration::from_millis(ms),
            worker_reading: Duration::from_millis(reading),
            worker_idle: Duration::from_millis(200 - ms),
            ..stats
        }
    }

    #[test]
    fn the_sentence_names_what_an_iteration_waits_for() {
        let start = LoaderStats {
            first_batch_wait: Duration::from_millis(40),
            ..stats(50)
        };
        let planning = LoaderStats {
            planning: Duration::from_millis(60),
            ..stats(20)
        };
        let budget = LoaderStats {
            budget_wait: Duration::from_millis(40),
            ..stats(50)
        };
        for (stats, limit, sentence) in [
            (LoaderStats::default(), Limit::Unknown, "Nothing was"),
            (
                stats(2),
                Limit::TrainingLoop,
                "The training loop is the limit: the loader was ready 98% of the time.",
            ),
            (
                start,
                Limit::Start,
                "The start is the limit: the first batch of an epoch took 40.0 ms of 100.0 ms",
            ),
            (
                busy(stats(90), 194, 20),
                Limit::Decoding,
                "Decoding is the limit: all 2 workers were busy 97% of the time; more workers or a faster codec",
            ),
            (
                busy(stats(90), 194, 150),
                Limit::Reading,
                "Reading is the limit: all 2 workers were busy 97% of the time, 77% of that with files, at 0.00 GB/s",
            ),
            (
                LoaderStats {
                    stored_bytes: 1_500_000_000,
                    ..busy(stats(90), 194, 150)
                },
                Limit::Memory,
                "Memory is the limit: all 2 workers were busy 97% of the time, copying stored bytes at 10.0 GB/s each",
            ),
            (
                LoaderStats {
                    worker_mapping: Duration::from_millis(150),
                    ..busy(stats(90), 194, 20)
                },
                Limit::Mapping,
                "The function of map_ordered is the limit: all 2 workers were busy 97% of the time, 77% of that in it",
            ),
            (
                planning,
                Limit::Planning,
                "Planning is the limit: it took 60% of the time",
            ),
            (
                busy(budget, 40, 0),
                Limit::MemoryBudget,
                "The memory budget is the limit: the training loop waited 50% of the time while workers were busy \
                 only 20%",
            ),
            (
                busy(stats(50), 40, 0),
                Limit::Prefetch,
                "Prefetching is the limit",
            ),
        ] {
            assert_eq!(stats.limit(), limit, "{stats}");
            assert!(stats.why().starts_with(sentence), "{}", stats.why());
            assert!(stats.to_string().ends_with(&stats.why()));
        }
        let one = LoaderStats {
            num_workers: 1,
            ..busy(stats(90), 190, 0)
        };
        assert!(one.why().contains("the only worker was busy"));
    }

    #[test]
    fn amplification_is_visits_of_chunks_per_chunk() {
        let stats = LoaderStats {
            visited_samples: 330,
            planned_samples: 300,
            ..LoaderStats::default()
        };
        assert!((stats.amplification() - 1.1).abs() < 1e-9);
        assert!(stats.to_string().contains("chunks visited 1.10 times"));
        assert_eq!(LoaderStats::default().amplification(), 0.0);
    }

    #[test]
    fn epochs_add_up() {
        let mut sum = busy(stats(50), 100, 40);
        sum += busy(stats(30), 50, 0);
        assert_eq!((sum.batches, sum.num_workers), (20, 2));
        assert_eq!(sum.consumer_wait, Duration::from_millis(80));
        assert_eq!(sum.elapsed, Duration::from_millis(200));
        assert!((sum.busy_share() - 150.0 / 400.0).abs() < 1e-9);
    }

    #[test]
    fn nothing_is_divided_by_nothing() {
        let empty = LoaderStats::default();
        assert_eq!(empty.busy_share(), 0.0);
        assert!(!empty.to_string().contains("NaN"));
    }
}
