//! `bench`: how fast a dataset feeds batches, beside a memcpy of the same bytes.

use std::hint::black_box;
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use serde_json::{Value, json};
use tensorshard::{DType, Dataset, Field, IoMode, Loader, LoaderStats, Shuffle};

use super::failure::Failure;
use super::memory::PeakMemory;
use super::output;
use super::progress::{Progress, Unit};
use super::size;

/// Bytes that the memcpy reads from, much more than caches hold.
const SOURCE_BYTES: usize = 256 << 20;
/// Buffers that the memcpy writes to in turn, as the loader's pool does.
const NUM_BUFFERS: usize = 8;
/// The memcpy copies the delivered bytes, but for at least this long, and at most [`MAX_COPY_BYTES`].
const MIN_COPY_TIME: Duration = Duration::from_millis(100);
const MAX_COPY_BYTES: u64 = 16 << 30;

/// Iterates over a dataset and prints how fast batches came, beside a memcpy of as many bytes on one thread.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A dataset's folder, or one shard.
    path: PathBuf,
    /// Samples of a batch.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    batch_size: u32,
    /// The order of samples.
    #[arg(long, value_enum, default_value_t = Order::None)]
    shuffle: Order,
    /// Threads that decode; 0 for one a core.
    #[arg(long, value_name = "N", default_value_t = 0)]
    workers: usize,
    /// Only these fields, with commas between them.
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    fields: Vec<String>,
    /// The dtype float fields are delivered in: f32, f16, bf16 or f64.
    #[arg(long, value_parser = parse_dtype)]
    dtype: Option<DType>,
    /// How files are read.
    #[arg(long, value_enum, default_value_t = Io::Auto)]
    io: Io,
    /// Memory that batches may take, such as 256MiB. A window of samples that differ in size is admitted whatever it takes.
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    memory_budget: Option<u64>,
    /// Passes over the dataset.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    epochs: u64,
    /// The result as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Order {
    /// As written.
    None,
    /// Chunks in random order, mixed within a window.
    Windowed,
    /// Uniform over all samples.
    Exact,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Io {
    Auto,
    Mmap,
    Read,
}

fn parse_dtype(text: &str) -> Result<DType, String> {
    match DType::from_name(text) {
        Some(dtype @ (DType::F32 | DType::F16 | DType::BF16 | DType::F64)) => Ok(dtype),
        _ => Err("it is f32, f16, bf16 or f64".to_owned()),
    }
}

/// What was measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Speed {
    pub(crate) samples: u64,
    pub(crate) out_bytes: u64,
    pub(crate) seconds: f64,
    pub(crate) first_batch: Duration,
}

/// Iterates `epochs` times.
pub(crate) fn iterate(
    loader: &mut Loader,
    opened: Instant,
    batch_size: usize,
    epochs: u64,
    quiet: bool,
) -> Result<Speed, Failure> {
    let total = loader.num_samples().saturating_mul(epochs);
    let progress = Progress::new("bench", Unit::Samples, total, quiet);
    let mut speed = Speed {
        samples: 0,
        out_bytes: 0,
        seconds: 0.0,
        first_batch: Duration::ZERO,
    };
    let start = Instant::now();
    for epoch in 0..epochs {
        loader.set_epoch(epoch);
        for batch in loader.batches(batch_size) {
            let batch = black_box(batch?);
            if speed.samples == 0 {
                speed.first_batch = opened.elapsed();
            }
            speed.samples += batch.len() as u64;
            speed.out_bytes += batch.num_bytes() as u64;
            if batch.index().is_multiple_of(64) {
                progress.update(speed.samples, None);
            }
        }
    }
    speed.seconds = start.elapsed().as_secs_f64().max(1e-9);
    Ok(speed)
}

/// Bytes a second that one thread copies, in batches of `batch_bytes`, over about `out_bytes`.
pub(crate) fn memcpy_bytes_per_second(out_bytes: u64, batch_bytes: usize) -> f64 {
    if out_bytes == 0 || batch_bytes == 0 {
        return 0.0;
    }
    // Not zeros: pages of a fresh zeroed vector are all one page of the system.
    let source = vec![1u8; SOURCE_BYTES.max(batch_bytes)];
    let mut buffers: Vec<Vec<u8>> = (0..NUM_BUFFERS).map(|_| vec![2u8; batch_bytes]).collect();
    let (mut copied, mut at, mut turn) = (0u64, 0usize, 0usize);
    let start = Instant::now();
    loop {
        if at + batch_bytes > source.len() {
            at = 0;
        }
        let buffer = &mut buffers[turn];
        buffer.copy_from_slice(&source[at..at + batch_bytes]);
        black_box(buffer.as_slice());
        copied += batch_bytes as u64;
        at += batch_bytes;
        turn = (turn + 1) % NUM_BUFFERS;
        let done = copied >= out_bytes.min(MAX_COPY_BYTES);
        if done && start.elapsed() >= MIN_COPY_TIME {
            return copied as f64 / start.elapsed().as_secs_f64();
        }
    }
}

/// Where the time went.
fn stats_json(stats: &LoaderStats) -> Value {
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    json!({
        "elapsed_ms": ms(stats.elapsed),
        "consumer_wait_ms": ms(stats.consumer_wait),
        "first_batch_wait_ms": ms(stats.first_batch_wait),
        "budget_wait_ms": ms(stats.budget_wait),
        "planning_ms": ms(stats.planning),
        "workers": stats.num_workers,
        "worker_busy_ms": ms(stats.worker_busy),
        "worker_reading_ms": ms(stats.worker_reading),
        "worker_idle_ms": ms(stats.worker_idle),
        "batches": stats.batches,
        "chunks": stats.chunks,
        "read_bytes": stats.stored_bytes,
        "decoded_bytes": stats.decoded_bytes,
        "delivered_bytes": stats.bytes,
        "pool_hits": stats.pool_hits,
        "pool_misses": stats.pool_misses,
        "peak_batch_bytes": stats.peak_batch_bytes,
    })
}

/// `--dtype` is for float fields: says so if there are others, and refuses it if there are no floats.
fn tell_unaffected(dtype: DType, dataset: &Dataset, quiet: bool) -> Result<(), Failure> {
    let is_float = |field: &Field| field.dtype().is_some_and(DType::is_float);
    let others: Vec<&str> = dataset
        .fields()
        .filter(|field| !is_float(field))
        .map(Field::name)
        .collect();
    let others_named = others.join(", ");
    if !dataset.fields().any(is_float) {
        return Err(Failure::usage(format!(
            "--dtype {dtype} is for float fields, and {others_named} is none; leave it out, or choose fields with \
             --fields"
        )));
    }
    if !others.is_empty() && !quiet {
        // A note is not worth an error.
        let note =
            format!("note: --dtype {dtype} is for float fields; as they are: {others_named}");
        writeln!(io::stderr(), "{note}").ok();
    }
    Ok(())
}

pub(crate) fn run(args: &Args, quiet: bool) -> Result<(), Failure> {
    let batch_size = usize::try_from(args.batch_size).unwrap_or(usize::MAX);
    let memory = PeakMemory::watch();
    let opened = Instant::now();
    let mut options = Loader::builder()
        .num_workers(args.workers)
        .io(match args.io {
            Io::Auto => IoMode::Auto,
            Io::Mmap => IoMode::Mmap,
            Io::Read => IoMode::Read,
        })
        .shuffle(match args.shuffle {
            Order::None => Shuffle::None,
            Order::Windowed => Shuffle::windowed(),
            Order::Exact => Shuffle::Exact,
        });
    if !args.fields.is_empty() {
        options = options.fields(args.fields.clone());
    }
    if let Some(dtype) = args.dtype {
        options = options.dtype(dtype);
    }
    if let Some(bytes) = args.memory_budget {
        options = options.memory_budget(bytes);
    }
    let mut loader = options.open(&args.path)?;
    if let Some(dtype) = args.dtype {
        tell_unaffected(dtype, loader.dataset(), quiet)?;
    }
    let speed = iterate(&mut loader, opened, batch_size, args.epochs, quiet)?;
    let peak_anon = memory.finish();

    let stats = loader.stats();
    let dataset = loader.dataset().clone();
    drop(loader);
    let report = dataset.inspect()?;
    let stored: u64 = report
        .fields
        .iter()
        .filter(|field| dataset.fields().any(|f| f.name() == field.name))
        .map(|field| field.stored_bytes)
        .sum();
    let batch_bytes = speed
        .out_bytes
        .saturating_mul(u64::from(args.batch_size))
        .checked_div(speed.samples)
        .unwrap_or(0)
        .min(speed.out_bytes);
    let batch_bytes = usize::try_from(batch_bytes).unwrap_or(usize::MAX);
    let memcpy = memcpy_bytes_per_second(speed.out_bytes, batch_bytes);
    let out_rate = speed.out_bytes as f64 / speed.seconds;
    let stored_rate = stored as f64 * args.epochs as f64 / speed.seconds;
    let ratio_to_memcpy = if memcpy > 0.0 { out_rate / memcpy } else { 0.0 };
    let first_batch_ms = speed.first_batch.as_secs_f64() * 1e3;

    let mut out = output::stdout();
    if args.json {
        let value = json!({
            "samples_per_s": speed.samples as f64 / speed.seconds,
            "out_gb_per_s": out_rate / 1e9,
            "stored_gb_per_s": stored_rate / 1e9,
            "memcpy_gb_per_s": memcpy / 1e9,
            "ratio_to_memcpy": ratio_to_memcpy,
            "first_batch_ms": first_batch_ms,
            "peak_anon_mb": peak_anon as f64 / 1e6,
            "samples": speed.samples,
            "out_bytes": speed.out_bytes,
            "stored_bytes": stored,
            "batch_size": args.batch_size,
            "epochs": args.epochs,
            "seconds": speed.seconds,
            "limit": stats.limit().name(),
            "why": stats.why(),
            "loader": stats_json(&stats),
        });
        writeln!(out, "{value}")?;
        return Ok(out.flush()?);
    }
    writeln!(
        out,
        "samples          {} in {:.3} s, {:.0} samples/s",
        size::count(speed.samples),
        speed.seconds,
        speed.samples as f64 / speed.seconds
    )?;
    writeln!(out, "delivered        {:.2} GB/s", out_rate / 1e9)?;
    writeln!(out, "stored           {:.2} GB/s", stored_rate / 1e9)?;
    writeln!(
        out,
        "memcpy           {:.2} GB/s (one thread, the same bytes)",
        memcpy / 1e9
    )?;
    writeln!(out, "ratio to memcpy  {ratio_to_memcpy:.3}")?;
    writeln!(
        out,
        "first batch      {first_batch_ms:.1} ms, opening included"
    )?;
    writeln!(
        out,
        "peak memory      {:.0} MB anonymous",
        peak_anon as f64 / 1e6
    )?;
    writeln!(out, "\n{stats}")?;
    Ok(out.flush()?)
}
