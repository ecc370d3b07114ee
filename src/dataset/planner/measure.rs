//! Encodes and decodes a sample through the real chunk path, and takes the time.

use std::hint::black_box;
use std::io::IoSlice;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use half::{bf16, f16};

use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::format::forever::DEFAULT_PIECE_BYTES;
use crate::format::header::ShardHeader;
use crate::format::schema::Schema;
use crate::format::shard_id::ShardId;
use crate::shard::{Form, RowRun, Scratch, ShardFileWriter, ShardReader, Slots, encode_chunk};
use crate::storage::{MemoryStorage, Sink};

use super::candidates::Candidate;
use super::sample::Sample;
use super::{ErrorReport, FieldSpec, MeasuredEncoding};
use crate::dataset::inspect::{FieldReport, add_chunk};

/// Passes over every encoding, in turn; the median counts. Between two passes of one encoding come those of all
/// others, so its bytes are in no cache.
const ROUNDS: u64 = 9;
/// An encoding that has taken this long sits out further rounds, from the third on.
const PATIENCE: Duration = Duration::from_millis(150);
/// Delivered bytes of a pass at least: smaller samples are decoded several times.
const PASS_BYTES: usize = 256 << 10;
/// Decoded bytes go to a ring of this size: more than a cache holds.
const RING_BYTES: usize = 32 << 20;

/// Measures every candidate that can encode the sample. Also returns the speed of a memcpy.
pub(super) fn measure(
    candidates: &[Candidate],
    sample: &Sample,
    watch: &dyn Fn(u64, u64),
) -> Result<(Vec<MeasuredEncoding>, f64)> {
    let steps = candidates.len() as u64 + ROUNDS;
    let mut trials = Vec::with_capacity(candidates.len());
    let mut refused = None;
    for (done, candidate) in (0u64..).zip(candidates) {
        watch(done, steps);
        match Trial::new(candidate, sample) {
            Ok(trial) => trials.push(trial),
            // A quantizer that does not take this dtype or these values is no candidate.
            Err(e) if !e.is_corrupt() && !candidate.field.quant().is_identity() => {
                refused.get_or_insert(e);
            }
            Err(e) => return Err(e),
        }
    }
    if let (true, Some(e)) = (trials.is_empty(), refused) {
        return Err(e);
    }
    let mut ring = Ring::new(sample);
    let mut memcpy = Vec::new();
    let mut scratch = Scratch::default();
    for round in 0..ROUNDS {
        watch(candidates.len() as u64 + round, steps);
        memcpy.push(ring.memcpy(sample));
        for trial in &mut trials {
            let spent: Duration = trial.decode.iter().sum();
            if round < 3 || spent < PATIENCE {
                let time = trial.pass(sample, &mut ring, &mut scratch)?;
                trial.decode.push(time);
            }
        }
    }
    watch(steps, steps);
    let raw_bytes = sample.raw_bytes();
    let delivered = (raw_bytes * ring.repeats as u64) as f64;
    let measured = trials.into_iter().map(|mut trial| {
        let report = trial.report;
        MeasuredEncoding {
            field: trial.field,
            encoding: report.encoding,
            raw_bytes,
            stored_bytes: report.stored_bytes,
            num_elements: raw_bytes / sample.dtype.size() as u64,
            decode_bytes_per_s: delivered / median(&mut trial.decode),
            encode_bytes_per_s: raw_bytes as f64 / trial.encode.as_secs_f64().max(1e-9),
            error: report.error,
            meets: false,
            pareto: false,
            bounded: trial.bounded,
        }
    });
    Ok((measured.collect(), delivered / median(&mut memcpy)))
}

/// In seconds.
fn median(times: &mut [Duration]) -> f64 {
    times.sort_unstable();
    times
        .get(times.len() / 2)
        .map_or(1.0, Duration::as_secs_f64)
        .max(1e-9)
}

/// The field as the sample has it: in slabs if samples are large, with scales and ranges from a pass over it.
pub(super) fn prepared(field: &FieldSpec, sample: &Sample) -> Result<FieldSpec> {
    let mut spec = field.clone();
    if let Some(shape) = &sample.fixed {
        spec = spec.with_shape(shape);
    }
    if spec.needs_calibration() {
        let mut calibrator = spec.calibrator()?;
        for chunk in 0..sample.chunks.len() {
            calibrator.observe(sample.data(chunk))?;
        }
        spec = spec.quantize(calibrator.finish());
    }
    Ok(spec)
}

/// One encoding of the sample, in memory.
struct Trial {
    field: FieldSpec,
    bounded: bool,
    shard: ShardReader,
    report: FieldReport,
    encode: Duration,
    decode: Vec<Duration>,
}

impl Trial {
    fn new(candidate: &Candidate, sample: &Sample) -> Result<Self> {
        let spec = prepared(&candidate.field, sample)?;
        let field = spec.resolve()?;
        let mut report = FieldReport::new(&field);
        let schema = Schema::new(vec![field])?;
        let header = ShardHeader {
            version_minor: schema.version_minor()?,
            compat: 0,
            shard_id: ShardId([0; 16]),
            samples_per_chunk: sample.samples_per_chunk,
            piece_bytes: DEFAULT_PIECE_BYTES,
            schema_bytes: schema.encode()?,
        };
        let mut writer = ShardFileWriter::create(Memory::default(), &header)?;
        let start = Instant::now();
        for block in &sample.chunks {
            let chunk = encode_chunk(&schema, DEFAULT_PIECE_BYTES, block)?;
            writer.append(&chunk)?;
            add_chunk(std::slice::from_mut(&mut report), &chunk);
        }
        let encode = start.elapsed();
        let (_, memory) = writer.finish()?;
        let storage = MemoryStorage::new(Path::new("<sample>"), Bytes::from(memory.0));
        let mut trial = Self {
            field: candidate.field.clone(),
            bounded: candidate.bounded,
            shard: ShardReader::open(Arc::new(storage), true)?,
            report,
            encode,
            decode: Vec::new(),
        };
        trial.check(sample)?;
        Ok(trial)
    }

    /// Compares decoded with source values.
    fn check(&mut self, sample: &Sample) -> Result<()> {
        let mut scratch = Scratch::default();
        let mut errors = Errors::default();
        let mut same = true;
        for chunk in 0..sample.chunks.len() {
            let source = sample.data(chunk);
            let mut decoded = vec![0; source.len()];
            self.decode(chunk as u64, &mut decoded, &mut scratch)?;
            if decoded != source {
                same = false;
                errors.add(sample.dtype, source, &decoded);
            } else {
                errors.add(sample.dtype, source, source);
            }
        }
        if self.report.error.is_none() && !same {
            return Err(Error::invalid(format!(
                "the lossless encoding {} changed values: this is a bug, please report it",
                self.report.encoding
            )));
        }
        self.report.error = (!same).then(|| errors.report());
        Ok(())
    }

    fn decode(&self, chunk: u64, out: &mut [u8], scratch: &mut Scratch) -> Result<()> {
        let chunk = self.shard.chunk(chunk, &mut scratch.io)?;
        let ragged = self.shard.schema().fields()[0].is_ragged();
        let shapes = ragged
            .then(|| self.shard.decode_shapes(&chunk, 0, scratch))
            .transpose()?;
        let runs = [RowRun {
            row: 0,
            count: chunk.header.num_samples,
        }];
        self.shard.decode_rows(
            &chunk,
            0,
            shapes.as_ref(),
            &Form::Values(None),
            &runs,
            &mut OneSlot(out),
            scratch,
        )
    }

    /// Decodes the sample once, or a small one several times.
    fn pass(&self, sample: &Sample, ring: &mut Ring, scratch: &mut Scratch) -> Result<Duration> {
        let start = Instant::now();
        for _ in 0..ring.repeats {
            for chunk in 0..sample.chunks.len() {
                let out = ring.next(sample.data(chunk).len());
                self.decode(chunk as u64, out, scratch)?;
                black_box(out);
            }
        }
        Ok(start.elapsed())
    }
}

/// Where decoded bytes go.
struct Ring {
    bytes: Vec<u8>,
    at: usize,
    repeats: usize,
}

impl Ring {
    fn new(sample: &Sample) -> Self {
        let largest = (0..sample.chunks.len()).map(|chunk| sample.data(chunk).len());
        let len = RING_BYTES.max(4 * largest.max().unwrap_or(0));
        let raw = usize::try_from(sample.raw_bytes()).unwrap_or(usize::MAX);
        Self {
            // Not zeros: pages of a fresh zeroed vector are all one page of the system.
            bytes: vec![1; len],
            at: 0,
            repeats: PASS_BYTES.div_ceil(raw.max(64)),
        }
    }

    fn next(&mut self, len: usize) -> &mut [u8] {
        if self.at + len > self.bytes.len() {
            self.at = 0;
        }
        let start = self.at;
        // The next one starts at a cache line.
        self.at += len.next_multiple_of(64);
        &mut self.bytes[start..start + len]
    }

    fn memcpy(&mut self, sample: &Sample) -> Duration {
        let start = Instant::now();
        for _ in 0..self.repeats {
            for chunk in 0..sample.chunks.len() {
                let source = sample.data(chunk);
                let out = self.next(source.len());
                out.copy_from_slice(source);
                black_box(out);
            }
        }
        start.elapsed()
    }
}

/// A shard in memory.
#[derive(Default)]
struct Memory(Vec<u8>);

impl Sink for Memory {
    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    fn append_all(&mut self, parts: &mut [IoSlice<'_>]) -> Result<()> {
        parts.iter().for_each(|part| self.0.extend_from_slice(part));
        Ok(())
    }

    fn commit(&mut self) -> Result<()> {
        Ok(())
    }
}

/// All samples of a chunk, one after the other.
struct OneSlot<'a>(&'a mut [u8]);

impl Slots for OneSlot<'_> {
    fn run(&mut self, _run: usize, _array: usize) -> &mut [u8] {
        self.0
    }
}

/// Sums of errors, over elements with finite source.
#[derive(Default)]
struct Errors {
    count: u64,
    non_finite: u64,
    max: f64,
    sum_sq_error: f64,
    sum_sq_source: f64,
}

impl Errors {
    fn add(&mut self, dtype: DType, source: &[u8], decoded: &[u8]) {
        let size = dtype.size();
        for (a, b) in source.chunks_exact(size).zip(decoded.chunks_exact(size)) {
            let (a, b) = (to_f64(dtype, a), to_f64(dtype, b));
            if !a.is_finite() {
                self.non_finite += 1;
                continue;
            }
            let error = (a - b).abs();
            self.count += 1;
            // NaN for a finite source is as bad as can be.
            self.max = self
                .max
                .max(if error.is_nan() { f64::INFINITY } else { error });
            self.sum_sq_error += error * error;
            self.sum_sq_source += a * a;
        }
    }

    fn report(&self) -> ErrorReport {
        let root = |sum: f64| (sum / (self.count as f64).max(1.0)).sqrt();
        ErrorReport {
            count: self.count,
            non_finite: self.non_finite,
            max_abs_error: self.max,
            rmse: root(self.sum_sq_error),
            rms: root(self.sum_sq_source),
        }
    }
}

/// The value of one element of a dtype that quantizers take; others are never lossy.
fn to_f64(dtype: DType, bytes: &[u8]) -> f64 {
    match (dtype, bytes) {
        (DType::F16, &[a, b]) => f16::from_le_bytes([a, b]).to_f64(),
        (DType::BF16, &[a, b]) => bf16::from_le_bytes([a, b]).to_f64(),
        (DType::F32, &[a, b, c, d]) => f64::from(f32::from_le_bytes([a, b, c, d])),
        (DType::F64, &[a, b, c, d, e, f, g, h]) => f64::from_le_bytes([a, b, c, d, e, f, g, h]),
        _ => f64::NAN,
    }
}
