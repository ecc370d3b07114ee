//! The cases of the table.

use std::collections::VecDeque;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tensorshard::{
    Batch, Calibrator, DType, Dataset, FieldSpec, IoMode, Loader, LoaderBuilder, QuantSpec,
    ShardWriter, Shuffle, TensorView,
};

use crate::common::copies::Copies;
use crate::common::data::photos_of;
use crate::common::{Array, Random, embeddings, field, labels, latents, photos, scaled};
use crate::datasets::{codec, dataset, many_shards, stored, written};
use crate::encodings::encodings;
use crate::process::{cost_of_open, page_faults, peak_of_epoch};
use crate::report::{Report, Target};

/// Bytes of the buffers that are written to in turn: twice the last-level cache of the machines in sight.
const ROTATING: usize = 64 << 20;
/// Bytes that one measurement delivers at least: short ones would measure the start of threads.
fn measured_bytes() -> usize {
    scaled(400 << 20)
}
const MIB: f64 = (1 << 20) as f64;

/// What cases share.
#[derive(Debug)]
pub(crate) struct Bench {
    pub(crate) rounds: usize,
    pub(crate) folder: Option<PathBuf>,
}

impl Default for Bench {
    fn default() -> Self {
        Self {
            rounds: 7,
            folder: None,
        }
    }
}

impl Bench {
    pub(crate) fn folder(&self) -> &Path {
        self.folder.as_deref().expect("a folder")
    }
}

type Case = fn(&Bench, &mut Report);

pub(crate) const CASES: &[(&str, Case)] = &[
    ("photos", stored_photos),
    ("latents", int8_latents_to_f32),
    ("lossless latents", lossless_latents),
    ("embeddings", small_samples),
    ("labels", labels_alone),
    ("codecs", decoders),
    ("encodings", encodings),
    ("exact", exact_shuffle),
    ("get", random_access),
    ("open", opening),
    ("memory", peak_memory),
    ("faults", faults),
    ("writer", writing),
];

pub(crate) fn at_least(must: f64, aim: f64) -> Target {
    Target::AtLeast { must, aim }
}

fn at_most(must: f64, aim: f64) -> Target {
    Target::AtMost { must, aim }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Something that is measured: its speed, round by round, in bytes (or things) a second.
pub(crate) struct Subject<'a> {
    run: Box<dyn FnMut() -> f64 + 'a>,
    speeds: Vec<f64>,
}

impl<'a> Subject<'a> {
    fn new(run: impl FnMut() -> f64 + 'a) -> Self {
        Self {
            run: Box::new(run),
            speeds: Vec::new(),
        }
    }

    pub(crate) fn speed(&self) -> f64 {
        median(self.speeds.clone())
    }

    pub(crate) fn gb(&self) -> String {
        format!("{:.2}", self.speed() / 1e9)
    }

    /// The median of the ratios of the rounds.
    pub(crate) fn over(&self, other: &Self) -> f64 {
        let ratios = self.speeds.iter().zip(&other.speeds).map(|(a, b)| a / b);
        median(ratios.collect())
    }
}

/// Measures all in turn, after one run to warm up.
pub(crate) fn take_turns<'a, const N: usize>(
    bench: &Bench,
    mut subjects: [Subject<'a>; N],
) -> [Subject<'a>; N] {
    if bench.rounds > 1 {
        for subject in &mut subjects {
            (subject.run)();
        }
    }
    for _ in 0..bench.rounds {
        for subject in &mut subjects {
            let speed = (subject.run)();
            subject.speeds.push(speed);
        }
    }
    subjects
}

/// (a2 / a1) / (b2 / b1), round by round.
fn gain(a2: &Subject<'_>, a1: &Subject<'_>, b2: &Subject<'_>, b1: &Subject<'_>) -> f64 {
    let gains =
        (0..a1.speeds.len()).map(|i| (a2.speeds[i] / a1.speeds[i]) / (b2.speeds[i] / b1.speeds[i]));
    median(gains.collect())
}

/// What [`Report::epochs`] takes.
fn over_memcpy(
    one: &Subject<'_>,
    two: &Subject<'_>,
    windowed: &Subject<'_>,
    two_memcpys: &Subject<'_>,
    memcpy: &Subject<'_>,
) -> [f64; 4] {
    [one, two, windowed, two_memcpys].map(|subject| subject.over(memcpy))
}

/// A consumer that keeps its last batches, [`ROTATING`] bytes of them.
#[derive(Default)]
struct Consumer {
    kept: VecDeque<Batch>,
    bytes: usize,
}

impl Consumer {
    fn take(&mut self, batch: Batch) -> usize {
        let len = batch.num_bytes();
        self.bytes += len;
        self.kept.push_back(black_box(batch));
        while self.bytes > ROTATING
            && let Some(oldest) = self.kept.pop_front()
        {
            self.bytes -= oldest.num_bytes();
        }
        len
    }
}

/// Bytes a second of whole epochs, at least [`measured_bytes`].
pub(crate) fn epochs<'a>(path: &Path, builder: LoaderBuilder, batch_size: usize) -> Subject<'a> {
    let loader = builder.open(path).expect("a dataset");
    let mut consumer = Consumer::default();
    Subject::new(move || {
        let start = Instant::now();
        let mut bytes = 0;
        while bytes < measured_bytes() {
            for batch in loader.batches(batch_size) {
                bytes += consumer.take(batch.expect("a batch"));
            }
        }
        bytes as f64 / start.elapsed().as_secs_f64()
    })
}

fn per_second(run: impl FnOnce(usize) -> Duration) -> f64 {
    let bytes = measured_bytes();
    bytes as f64 / run(bytes).as_secs_f64()
}

/// Memcpys of as many bytes: alone, and two at the same time.
pub(crate) fn copies(batch_bytes: usize, source: usize) -> Copies {
    Copies::new(batch_bytes, source, ROTATING / batch_bytes)
}

pub(crate) fn one(copies: &std::cell::RefCell<Copies>) -> Subject<'_> {
    Subject::new(|| per_second(|total| copies.borrow_mut().run(total)))
}

fn two(copies: &std::cell::RefCell<Copies>) -> Subject<'_> {
    Subject::new(|| per_second(|total| copies.borrow_mut().run_two(total)))
}

pub(crate) fn workers(n: usize) -> LoaderBuilder {
    Loader::builder().num_workers(n)
}

fn windowed(n: usize) -> LoaderBuilder {
    workers(n).shuffle(Shuffle::windowed())
}

fn stored_photos(bench: &Bench, report: &mut Report) {
    let path = dataset(bench.folder(), "photos-stored", photos, stored);
    let len = 12288 * scaled(8000);
    let memcpy = std::cell::RefCell::new(copies(64 * 12288, len));
    let subjects = [
        one(&memcpy),
        epochs(&path, workers(1), 64),
        epochs(&path, windowed(1), 64),
        two(&memcpy),
        epochs(&path, workers(2), 64),
        epochs(&path, windowed(2), 64),
    ];
    let [copy1, seq1, win1, copy2, seq2, win2] = &take_turns(bench, subjects);
    let memcpys = format!("memcpy {} GB/s, two {} GB/s", copy1.gb(), copy2.gb());
    report.epochs(
        "u8 photos `[3, 64, 64]`",
        "stored",
        over_memcpy(seq1, seq2, win2, copy2, copy1),
    );
    report.add(
        "stored u8 photos, 1 thread, vs memcpy",
        "",
        at_least(0.85, 1.0),
        seq1.over(copy1),
        format!("{} GB/s; {memcpys}", seq1.gb()),
    );
    report.add(
        "stored u8 photos, 1 thread, windowed, vs memcpy",
        "",
        Target::None,
        win1.over(copy1),
        format!("{} GB/s", win1.gb()),
    );
    report.add(
        "stored u8 photos, 2 threads vs 1, of what two memcpys gain",
        "",
        at_least(0.9, 1.0),
        gain(seq2, seq1, copy2, copy1),
        format!(
            "gain {:.2}, memcpys {:.2}",
            seq2.over(seq1),
            copy2.over(copy1)
        ),
    );
    report.add(
        "stored u8 photos, 2 threads, sequential, vs two memcpys",
        "",
        at_least(0.85, 1.0),
        seq2.over(copy2),
        format!("{} GB/s", seq2.gb()),
    );
    report.add(
        "stored u8 photos, 2 threads, windowed, vs two memcpys",
        "",
        at_least(0.75, 0.95),
        win2.over(copy2),
        format!("{} GB/s", win2.gb()),
    );
    report.add(
        "windowed vs sequential, 12 KB samples, 2 threads",
        "",
        at_least(0.85, 0.95),
        win2.over(seq2),
        format!("1 thread {:.2}", win1.over(seq1)),
    );
}

/// int8 with a scale for each index of the first axis.
fn int8_per_channel(array: &Array) -> QuantSpec {
    calibrated(QuantSpec::int8().per_channel(0), array)
}

/// int8 with one scale.
pub(crate) fn int8_per_tensor(array: &Array) -> QuantSpec {
    calibrated(QuantSpec::int8().per_tensor(), array)
}

fn calibrated(spec: QuantSpec, array: &Array) -> QuantSpec {
    let mut calibrator =
        Calibrator::new(&spec, array.dtype, array.sample_shape()).expect("a calibrator");
    calibrator.observe(&array.data).expect("values");
    calibrator.finish()
}

fn int8_latents_to_f32(bench: &Bench, report: &mut Report) {
    let quantized = |spec: FieldSpec| stored(spec).quantize(int8_per_channel(&latents()));
    let path = dataset(bench.folder(), "latents-int8", latents, quantized);
    let len = 16384 * scaled(4000);
    let memcpy = std::cell::RefCell::new(copies(64 * 16384, 3 * len));
    let subjects = [
        one(&memcpy),
        epochs(&path, workers(1), 64),
        two(&memcpy),
        epochs(&path, workers(2), 64),
        epochs(&path, windowed(2), 64),
    ];
    let [copy1, seq1, copy2, seq2, win2] = &take_turns(bench, subjects);
    report.epochs(
        "f32 latents `[4, 32, 32]`",
        "int8, a scale per channel",
        over_memcpy(seq1, seq2, win2, copy2, copy1),
    );
    report.add(
        "stored int8 latents to f32, scale per channel, 1 thread, vs memcpy of the f32",
        "",
        at_least(1.5, 2.4),
        seq1.over(copy1),
        format!(
            "{} GB/s; memcpy {} GB/s, two {} GB/s",
            seq1.gb(),
            copy1.gb(),
            copy2.gb()
        ),
    );
    report.add(
        "stored int8 latents to f32, 2 threads vs 1, of what two memcpys gain",
        "",
        at_least(0.9, 1.0),
        gain(seq2, seq1, copy2, copy1),
        format!(
            "gain {:.2}, memcpys {:.2}; 2 threads {} GB/s, windowed {} GB/s",
            seq2.over(seq1),
            copy2.over(copy1),
            seq2.gb(),
            win2.gb()
        ),
    );
}

fn lossless_latents(bench: &Bench, report: &mut Report) {
    let path = dataset(bench.folder(), "latents-lossless", latents, |spec| spec);
    let len = 16384 * scaled(4000);
    let memcpy = std::cell::RefCell::new(copies(64 * 16384, 3 * len));
    let subjects = [
        one(&memcpy),
        epochs(&path, workers(1), 64),
        two(&memcpy),
        epochs(&path, workers(2), 64),
        epochs(&path, windowed(2), 64),
    ];
    let [copy1, seq1, copy2, seq2, win2] = &take_turns(bench, subjects);
    report.epochs(
        "f32 latents",
        "lossless: byte shuffle, Snappy",
        over_memcpy(seq1, seq2, win2, copy2, copy1),
    );
}

fn small_samples(bench: &Bench, report: &mut Report) {
    let len = 1536 * scaled(50_000);
    for (name, stored_as, quant) in [
        ("f16", "f16", Some(QuantSpec::cast(DType::F16))),
        ("int8", "int8, a scale per sample", Some(QuantSpec::int8())),
        ("f32", "stored", None),
    ] {
        let encoded = |spec: FieldSpec| match quant {
            Some(quant) => stored(spec).quantize(quant),
            None => stored(spec),
        };
        let path = dataset(
            bench.folder(),
            &format!("embeddings-{name}"),
            embeddings,
            encoded,
        );
        let memcpy = std::cell::RefCell::new(copies(256 * 1536, 2 * len));
        let subjects = [
            one(&memcpy),
            epochs(&path, workers(1), 256),
            epochs(&path, windowed(1), 256),
            two(&memcpy),
            epochs(&path, workers(2), 256),
            epochs(&path, windowed(2), 256),
        ];
        let [copy1, seq1, win1, copy2, seq2, win2] = &take_turns(bench, subjects);
        report.epochs(
            "f32 embeddings `[384]`",
            stored_as,
            over_memcpy(seq1, seq2, win2, copy2, copy1),
        );
        let target = if name == "f32" {
            Target::None
        } else {
            at_least(0.8, 1.5)
        };
        report.add(
            format!("embeddings stored {name} to f32, batch 256, 1 thread, vs memcpy"),
            "",
            target,
            seq1.over(copy1),
            format!("{} GB/s; memcpy {} GB/s", seq1.gb(), copy1.gb()),
        );
        report.add(
            format!("embeddings stored {name}, 2 threads vs 1, of what two memcpys gain"),
            "",
            at_least(0.9, 1.0),
            gain(seq2, seq1, copy2, copy1),
            format!(
                "gain {:.2}, memcpys {:.2}",
                seq2.over(seq1),
                copy2.over(copy1)
            ),
        );
        report.add(
            format!("windowed vs sequential, 1.5 KB samples stored {name}, 2 threads"),
            "",
            at_least(0.7, 0.9),
            win2.over(seq2),
            format!(
                "{} GB/s, sequential {} GB/s; 1 thread {:.2}",
                win2.gb(),
                seq2.gb(),
                win1.over(seq1)
            ),
        );
    }
}

fn labels_alone(bench: &Bench, report: &mut Report) {
    let path = dataset(bench.folder(), "labels", labels, stored);
    let in_samples = |builder, batch_size| {
        let mut bytes = epochs(&path, builder, batch_size);
        Subject::new(move || (bytes.run)() / 8.0)
    };
    let subjects = [
        in_samples(workers(1), 1024),
        in_samples(workers(2), 1024),
        in_samples(windowed(2), 1024),
        in_samples(workers(2), 64),
    ];
    let [seq1, seq2, win2, small] = &take_turns(bench, subjects);
    report.add(
        "i64 labels alone, batch 1024, 2 threads",
        "samples/s",
        at_least(1e8, 3e8),
        seq2.speed(),
        format!(
            "1 thread {:.2e}, windowed {:.2e}, batch 64 {:.2e}",
            seq1.speed(),
            win2.speed(),
            small.speed()
        ),
    );
}

/// Decodes pieces of five photos (as the writer cuts them) one after the other into the same memory.
fn decoder<'a>(name: &str, array: &Array) -> Subject<'a> {
    const PIECE: usize = 5 * 12288;
    let spec = codec(name);
    let encoded: Vec<(Vec<u8>, usize)> = array
        .data
        .chunks(PIECE)
        .map(|piece| {
            let encoded = spec.encode_piece(piece).expect("an encoding");
            let shrinks = encoded.len() < piece.len();
            let stored = if shrinks { encoded } else { piece.to_vec() };
            (stored, piece.len())
        })
        .collect();
    let mut decoded = vec![0; PIECE];
    Subject::new(move || {
        let start = Instant::now();
        let mut bytes = 0;
        for (encoded, len) in &encoded {
            let piece = &mut decoded[..*len];
            if encoded.len() < *len {
                spec.decode_piece(encoded, piece).expect("a piece");
            } else {
                piece.copy_from_slice(encoded);
            }
            black_box(piece);
            bytes += len;
        }
        bytes as f64 / start.elapsed().as_secs_f64()
    })
}

fn decoders(bench: &Bench, report: &mut Report) {
    let array = photos();
    let memcpy = std::cell::RefCell::new(copies(64 * 12288, array.data.len()));
    for (name, stored_as) in [("snappy", "Snappy"), ("lz4", "LZ4")] {
        let path = dataset(bench.folder(), &format!("photos-{name}"), photos, |spec| {
            spec.filters([]).codec(codec(name))
        });
        let subjects = [
            one(&memcpy),
            decoder(name, &array),
            epochs(&path, workers(1), 64),
            epochs(&path, workers(2), 64),
            epochs(&path, windowed(2), 64),
            two(&memcpy),
        ];
        let [copy1, alone, seq1, seq2, win2, copy2] = &take_turns(bench, subjects);
        report.epochs(
            "u8 photos",
            stored_as,
            over_memcpy(seq1, seq2, win2, copy2, copy1),
        );
        report.add(
            format!("{name} photos, loader with 1 thread vs the decoder alone"),
            "",
            at_least(0.9, 0.97),
            seq1.over(alone),
            format!(
                "{} GB/s, decoder {} GB/s, 2 threads {} GB/s; vs memcpy {:.2}, 2 threads {:.2}",
                seq1.gb(),
                alone.gb(),
                seq2.gb(),
                seq1.over(copy1),
                seq2.over(copy1)
            ),
        );
    }
}

/// 1 GiB of photos: the same few thousand again and again.
fn gibibyte() -> Array {
    let mut array = photos_of(scaled(8192));
    let n = scaled(87_381);
    let bytes = n * 12288;
    array.data = array.data.iter().copied().cycle().take(bytes).collect();
    array.shape[0] = n;
    array
}

fn exact_shuffle(bench: &Bench, report: &mut Report) {
    let path = dataset(bench.folder(), "gibibyte-snappy", gibibyte, |spec| {
        spec.filters([]).codec(codec("snappy"))
    });
    let loader = Loader::builder()
        .shuffle(Shuffle::Exact)
        .memory_budget(256 << 20)
        .open(&path)
        .expect("a dataset");
    let start = Instant::now();
    let mut batches = loader.batches(64);
    for batch in batches.by_ref() {
        black_box(batch.expect("a batch"));
    }
    let stats = batches.stats();
    report.add(
        "exact shuffle of 12 KB samples, 256 MiB budget on 1 GiB, decodes per sample",
        "",
        at_most(2.2, 1.85),
        stats.decoded_bytes as f64 / stats.bytes as f64,
        format!(
            "snappy, default threads, {:.2} GB/s",
            stats.bytes as f64 / start.elapsed().as_secs_f64() / 1e9
        ),
    );
}

fn random_access(bench: &Bench, report: &mut Report) {
    for (name, must, aim) in [("stored", 5.0, 3.0), ("snappy", 40.0, 25.0)] {
        let path = dataset(
            bench.folder(),
            &format!("photos-{name}"),
            photos,
            |spec| match name {
                "stored" => stored(spec),
                _ => spec.filters([]).codec(codec(name)),
            },
        );
        let dataset = Dataset::open(&path).expect("a dataset");
        let mut random = Random(9);
        let mut micros: Vec<f64> = (0..3000 * bench.rounds)
            .map(|_| {
                let index = random.next() % dataset.len();
                let start = Instant::now();
                black_box(dataset.get(index).expect("a sample"));
                start.elapsed().as_secs_f64() * 1e6
            })
            .collect();
        micros.sort_by(f64::total_cmp);
        let p99 = micros[micros.len() * 99 / 100];
        report.add(
            format!("random access, one 12 KB sample, {name}, p50"),
            "us",
            at_most(must, aim),
            micros[micros.len() / 2],
            format!("p99 {p99:.1} us"),
        );
    }
}

fn opening(bench: &Bench, report: &mut Report) {
    let few = || photos_of(scaled(4000));
    let path = written(bench.folder(), "thousand-shards", few, stored, |builder| {
        builder.samples_per_chunk(4).max_shard_len(1)
    });
    let mut millis = Vec::new();
    for _ in 0..3 * bench.rounds {
        let start = Instant::now();
        let loader = Loader::open(&path).expect("a dataset");
        let mut batches = loader.batches(64);
        black_box(batches.next());
        millis.push(start.elapsed().as_secs_f64() * 1e3);
    }
    let shards = Dataset::open(&path).expect("a dataset").num_shards();
    report.add(
        format!("open and first batch, {shards} shards"),
        "ms",
        at_most(10.0, 3.0),
        median(millis),
        "of 4 photos each: a batch takes 16 shards",
    );

    let path = bench.folder().join("many-shards");
    if !path.exists() {
        let one = || photos_of(1);
        dataset(bench.folder(), "many-shards", one, stored);
        many_shards(&path, 100_000, 100_000);
    }
    let costs: Vec<(f64, f64)> = (0..bench.rounds).map(|_| cost_of_open(&path)).collect();
    report.add(
        "open 10^5 shards, 10^10 samples",
        "ms",
        at_most(50.0, 10.0),
        median(costs.iter().map(|cost| cost.0).collect()),
        "in a fresh process",
    );
    report.add(
        "open 10^5 shards, 10^10 samples, anonymous memory",
        "MB",
        at_most(64.0, 16.0),
        median(costs.iter().map(|cost| cost.1 / 1e6).collect()),
        "in a fresh process",
    );
}

fn peak_memory(bench: &Bench, report: &mut Report) {
    let path = dataset(bench.folder(), "gibibyte-snappy", gibibyte, |spec| {
        spec.filters([]).codec(codec("snappy"))
    });
    let budget = 256 << 20;
    let peaks = ["sequential", "windowed", "exact"]
        .map(|shuffle| (shuffle, peak_of_epoch(&path, shuffle, budget)));
    let worst = peaks.iter().map(|peak| peak.1).fold(0.0, f64::max);
    let detail: Vec<String> = peaks
        .iter()
        .map(|(shuffle, peak)| format!("{shuffle} {:.1} MiB", peak / MIB))
        .collect();
    report.add(
        "peak anonymous memory over a budget of 256 MiB",
        "%",
        at_most(5.0, 1.0),
        (worst / budget as f64 - 1.0) * 100.0,
        format!("the whole process; {}", detail.join(", ")),
    );
}

fn faults(bench: &Bench, report: &mut Report) {
    let path = dataset(bench.folder(), "photos-stored", photos, stored);
    for (io, name, target) in [
        (IoMode::Read, "read", at_most(0.0, 0.0)),
        (IoMode::Mmap, "mmap", Target::None),
    ] {
        let mut worst = 0.0;
        let mut details = Vec::new();
        for (order, shuffle) in [
            ("sequential", Shuffle::None),
            ("windowed", Shuffle::windowed()),
        ] {
            let builder = Loader::builder().io(io).shuffle(shuffle);
            let mut loader = builder.open(&path).expect("a dataset");
            let mut counts = Vec::new();
            for epoch in 0..=bench.rounds as u64 {
                loader.set_epoch(epoch);
                let before = page_faults();
                let mut batches = 0u64;
                for batch in loader.batches(64) {
                    black_box(batch.expect("a batch"));
                    batches += 1;
                }
                counts.push((page_faults() - before) as f64 / batches as f64);
            }
            let later = median(counts.split_off(1));
            details.push(format!("{order} {later:.2} (first epoch {:.0})", counts[0]));
            worst = later.max(worst);
        }
        report.add(
            format!("page faults per batch from the second epoch on, io={name}"),
            "",
            target,
            worst,
            format!("start of threads included; {}", details.join(", ")),
        );
    }
}

/// In memory where the system has a folder for that: it is encoding that shall scale, not the disk.
/// A folder in memory if there is one.
fn scratch_folder(bench: &Bench) -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let folder = if memory.is_dir() {
        tempfile::tempdir_in(memory)
    } else {
        tempfile::tempdir_in(bench.folder())
    };
    folder.expect("a temporary folder")
}

/// Bytes a second that `num_workers` write, `times` times the array.
fn write(path: &Path, array: &Array, spec: FieldSpec, num_workers: usize, times: usize) -> f64 {
    let builder = ShardWriter::builder()
        .num_workers(num_workers)
        .overwrite(true)
        .field(spec);
    let start = Instant::now();
    let mut writer = builder.create(path).expect("a writer");
    let view = TensorView::new(array.dtype, &array.shape, &array.data).expect("a view");
    for _ in 0..times {
        writer.extend(&[("x", view)]).expect("samples");
    }
    writer.finish().expect("a dataset");
    (times * array.data.len()) as f64 / start.elapsed().as_secs_f64()
}

/// Bytes a second that one worker writes.
pub(crate) fn speed_of_writing(
    bench: &Bench,
    array: &Array,
    encode: fn(FieldSpec) -> FieldSpec,
) -> f64 {
    let folder = scratch_folder(bench);
    let path = folder.path().join("written");
    let subject = Subject::new(|| write(&path, array, encode(field(array)), 1, 4));
    let [subject] = take_turns(bench, [subject]);
    subject.speed()
}

fn writing(bench: &Bench, report: &mut Report) {
    let folder = scratch_folder(bench);
    let int8 = || Some(QuantSpec::int8());
    for (name, array, codec_name, quant, times) in [
        ("photos, snappy", photos(), "snappy", None, 1),
        ("photos, zstd:3", photos(), "zstd:3", None, 1),
        ("latents, int8, snappy", latents(), "snappy", int8(), 4),
    ] {
        let path = folder.path().join("written");
        let write = |num_workers: usize| {
            let mut spec = field(&array).codec(codec(codec_name));
            if let Some(quant) = &quant {
                spec = spec.quantize(quant.clone());
            }
            write(&path, &array, spec, num_workers, times)
        };
        let subjects = [Subject::new(|| write(1)), Subject::new(|| write(2))];
        let [one, two] = &take_turns(bench, subjects);
        report.add(
            format!("writing {name}: 2 workers, of twice 1 worker"),
            "",
            at_least(0.7, 1.0),
            two.over(one) / 2.0,
            format!("{} GB/s, 1 worker {} GB/s", two.gb(), one.gb()),
        );
    }
}
