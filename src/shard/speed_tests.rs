//! Not checks: what decoding whole chunks into slots takes, next to a memcpy of the delivered bytes.
//!
//! `cargo test --release --lib decode_speed -- --ignored --nocapture`. With `TENSORSHARD_FLOATS=file.f32` (or .f16,
//! .bf16, .f64: raw little-endian elements) the elements of a file instead of normal ones.
//!
//! `cargo test --release --lib predicted_speed -- --ignored --nocapture`. With `TENSORSHARD_BENCH_DATA`, a folder, its
//! `img.u8` (u8 `[n, 3, 64, 64]`) and `lat.f32` (f32 `[n, 4, 32, 32]`) instead of made ones.
//!
//! `cargo test --release --lib encode_speed -- --ignored --nocapture`: what a mode that chunks choose costs a writer.
//!
//! What is delivered goes in turn to `TENSORSHARD_BUFFERS` buffers of 1 MiB (default 8: a few batches, that stay in the
//! last cache; more than 16 are streamed to, as a loader does), `TENSORSHARD_ROUNDS` times. `TENSORSHARD_ONLY` is a part
//! of what is measured, dtype and name: `u8 predict, prefix`.
#![expect(clippy::print_stderr, reason = "prints timings")]
#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "makes f32 and bytes of f64"
)]

use std::hint::black_box;
use std::path::Path;
use std::time::Instant;

use crate::codec::CodecSpec;
use crate::dataset::{FieldSpec, ShardWriter};
use crate::dtype::DType;
use crate::filter::{FilterId, FilterSpec};
use crate::format::schema::Schema;
use crate::kernel::pages::{self, Part};
use crate::kernel::stream;
use crate::quant::{NonFinite, QuantSpec, Scales};
use crate::split::SplitId;
use crate::storage::{self, IoMode};
use crate::tensor::TensorView;

use super::{
    ChunkBlock, FieldBlock, Form, RowRun, Scratch, Shapes, ShardReader, Slots, encode_chunk,
};

/// Elements of a sample.
const SAMPLE: usize = 1024;
/// Delivered bytes of a run; also those that a slot buffer has.
const TOTAL: usize = 128 << 20;
const BUFFER: usize = 1 << 20;
const ROUNDS: usize = 9;

struct OneRun<'a> {
    slot: &'a mut [u8],
    is_cold: bool,
}

impl Slots for OneRun<'_> {
    fn is_cold(&self) -> bool {
        self.is_cold
    }

    fn run(&mut self, _run: usize, _array: usize) -> &mut [u8] {
        self.slot
    }
}

fn num_buffers() -> usize {
    let text = std::env::var("TENSORSHARD_BUFFERS");
    text.map_or(8, |text| text.parse().unwrap())
}

/// Roughly normal values, the deviation of a layer changing every 2^16 elements.
fn weights(n: usize) -> Vec<f64> {
    let mut state = 1u64;
    let mut unit = move || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 11) as f64 / (1u64 << 53) as f64
    };
    (0..n)
        .map(|i| {
            let layer = f64::from(u32::try_from(i >> 16).unwrap_or(0) % 7 + 1);
            let normal =
                (-2.0 * (1.0 - unit()).ln()).sqrt() * (2.0 * std::f64::consts::PI * unit()).cos();
            0.02 * layer * normal
        })
        .collect()
}

fn bytes_of(dtype: DType, values: &[f64]) -> Vec<u8> {
    let mut out = Vec::new();
    for &x in values {
        match dtype {
            DType::BF16 => out.extend(half::bf16::from_f64(x).to_le_bytes()),
            DType::F16 => out.extend(half::f16::from_f64(x).to_le_bytes()),
            DType::F64 => out.extend(x.to_le_bytes()),
            _ => out.extend((x as f32).to_le_bytes()),
        }
    }
    out
}

/// Elements repeated until there are enough for whole buffers.
fn input() -> Vec<(DType, Vec<u8>)> {
    let inputs = match std::env::var("TENSORSHARD_FLOATS") {
        Ok(path) => {
            let name = path.rsplit('.').next().unwrap();
            let dtype = DType::from_name(name).unwrap();
            vec![(dtype, std::fs::read(&path).unwrap())]
        }
        Err(_) => {
            let values = weights(1 << 20);
            [DType::BF16, DType::F16, DType::F32, DType::F64]
                .map(|dtype| (dtype, bytes_of(dtype, &values)))
                .to_vec()
        }
    };
    inputs
        .into_iter()
        .map(|(dtype, bytes)| {
            let whole = bytes.len() - bytes.len() % (SAMPLE * dtype.size());
            (dtype, bytes[..whole].repeat(TOTAL.div_ceil(whole)))
        })
        .collect()
}

fn write(path: &Path, field: FieldSpec, dtype: DType, shape: &[usize], bytes: &[u8]) -> f64 {
    let start = Instant::now();
    let mut writer = ShardWriter::builder()
        .field(field)
        .num_workers(1)
        .max_shard_len(1 << 40)
        .create(path)
        .unwrap();
    let sample = shape.iter().product::<usize>() * dtype.size();
    let shape = [&[bytes.len() / sample], shape].concat();
    writer
        .extend(&[("x", TensorView::new(dtype, &shape, bytes).unwrap())])
        .unwrap();
    writer.finish().unwrap();
    bytes.len() as f64 / start.elapsed().as_secs_f64() / 1e9
}

/// Decodes every chunk; the delivered bytes.
fn decode(reader: &ShardReader, size: usize, buffers: &mut [Part], scratch: &mut Scratch) -> usize {
    let mut done = 0;
    for chunk in 0..reader.num_chunks() {
        let chunk = reader.chunk(chunk, &mut scratch.io).unwrap();
        let count = chunk.header.num_samples;
        let len = count as usize * size;
        let turn = usize::try_from(chunk.header.chunk).unwrap() % buffers.len();
        let run = [RowRun { row: 0, count }];
        let is_cold = buffers.len() > 16 && stream::PAYS;
        let mut slots = OneRun {
            slot: &mut buffers[turn].as_mut()[..len],
            is_cold,
        };
        reader
            .decode_rows(
                &chunk,
                0,
                None,
                &Form::Values(None),
                &run,
                &mut slots,
                scratch,
            )
            .unwrap();
        black_box(buffers[turn].as_ref());
        done += len;
    }
    done
}

#[test]
#[ignore = "prints timings"]
fn decode_speed() {
    let codec = |text: &str| -> Vec<CodecSpec> {
        text.split(',')
            .map(|codec| CodecSpec::parse(codec).unwrap())
            .collect()
    };
    let coded = std::env::var("TENSORSHARD_CODECS").unwrap_or("prefix,none".to_owned());
    for (dtype, bytes) in input() {
        let plain = || FieldSpec::new("x", dtype, [SAMPLE]);
        let none = || codec("none");
        let float = || plain().split(SplitId::FLOAT_SPLIT);
        let ordered = || {
            plain()
                .filters([FilterId::FLOAT_ORDER, FilterId::DELTA])
                .split(SplitId::BYTE_SPLIT)
        };
        let specs = [
            ("stored", plain().filters([]).codecs(none())),
            ("float_split, stored", float().codecs(none())),
            ("float_split, coded", float().codecs(codec(&coded))),
            ("order+delta, stored", ordered().codecs(none())),
        ];
        compare(dtype, &[SAMPLE], &bytes, specs);
    }
}

/// Decodes what each of `specs` makes of `bytes`, samples of `shape`, next to a memcpy of them.
fn compare<const N: usize>(
    dtype: DType,
    shape: &[usize],
    bytes: &[u8],
    specs: [(&'static str, FieldSpec); N],
) {
    let size = shape.iter().product::<usize>() * dtype.size();
    let mut buffers = pages::parts(BUFFER, num_buffers());
    for buffer in &mut buffers {
        buffer.as_mut().fill(1);
    }
    let mut scratch = Scratch::default();
    let mut best = vec![f64::MAX; specs.len() + 1];
    let mut readers = Vec::new();
    let only = std::env::var("TENSORSHARD_ONLY").unwrap_or_default();
    let specs = specs.into_iter();
    for (name, spec) in specs.filter(|(name, _)| format!("{dtype} {name}").contains(&only)) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("d");
        let encode = write(&path, spec, dtype, shape, bytes);
        let shard = std::fs::read_dir(&path).unwrap().map(|e| e.unwrap().path());
        let shard = shard
            .filter(|p| p.extension().is_some_and(|e| e == "tshard"))
            .collect::<Vec<_>>();
        let file = shard[0].metadata().unwrap().len();
        let storage = storage::open(&shard[0], IoMode::Mmap).unwrap();
        let reader = ShardReader::open(storage, true).unwrap();
        readers.push((name, reader, bytes.len() as f64 / file as f64, encode, dir));
    }
    if readers.is_empty() {
        return;
    }
    let rounds = std::env::var("TENSORSHARD_ROUNDS");
    for _ in 0..rounds.map_or(ROUNDS, |text| text.parse().unwrap()) {
        let start = Instant::now();
        for (i, part) in bytes.chunks(BUFFER).enumerate() {
            let turn = i % buffers.len();
            let buffer = buffers[turn].as_mut();
            buffer[..part.len()].copy_from_slice(part);
            black_box(buffer);
        }
        best[0] = best[0].min(start.elapsed().as_secs_f64());
        for (best, (_, reader, ..)) in best[1..].iter_mut().zip(&readers) {
            let start = Instant::now();
            let done = decode(reader, size, &mut buffers, &mut scratch);
            let time = start.elapsed().as_secs_f64();
            assert_eq!(done, bytes.len());
            *best = best.min(time);
        }
    }
    let speed = |time: f64| bytes.len() as f64 / time / 1e9;
    eprintln!("{dtype}: memcpy {:.2} GB/s", speed(best[0]));
    for (time, (name, _, ratio, encode, _)) in best[1..].iter().zip(&readers) {
        eprintln!(
            "  {name:24} ratio {ratio:.3}, decode {:.2} GB/s = {:.2} x memcpy, write {encode:.2} GB/s",
            speed(*time),
            best[0] / time
        );
    }
}

/// A file of [`TENSORSHARD_BENCH_DATA`], or `make` of the index of each byte; as often as there is time for.
fn data(file: &str, sample: usize, make: impl Fn(usize) -> Vec<u8>) -> Vec<u8> {
    let bytes = match std::env::var("TENSORSHARD_BENCH_DATA") {
        Ok(folder) => std::fs::read(Path::new(&folder).join(file)).unwrap(),
        Err(_) => make(1 << 22),
    };
    let whole = bytes.len() - bytes.len() % sample;
    bytes[..whole].repeat(TOTAL.div_ceil(whole))
}

/// Photos of [`TENSORSHARD_BENCH_DATA`], or what looks a little like them.
fn photos() -> Vec<u8> {
    data("img.u8", 12_288, |n| {
        let noise = weights(n);
        (0..n)
            .map(|i| (100.0 + 40.0 * (i as f64 / 300.0).sin() + 80.0 * noise[i]) as u8)
            .collect()
    })
}

#[test]
#[ignore = "prints timings"]
fn encode_speed() {
    let shapes: [(DType, &[usize], &str); 4] = [
        (DType::U8, &[3, 64, 64], "channel=0"),
        (DType::U8, &[16, 64, 64], "zigzag"),
        (DType::I16, &[8, 64, 64], "zigzag"),
        (DType::I32, &[4, 64, 64], "zigzag"),
    ];
    let photos = photos();
    for (dtype, shape, options) in shapes {
        let samples = BUFFER / (shape.iter().product::<usize>() * dtype.size());
        let bytes = samples * shape.iter().product::<usize>();
        // Small numbers in wide elements.
        let chunks = photos.chunks_exact(bytes).take(32).map(|part| {
            let wide = |x: &u8| [*x, 0, 0, 0].into_iter().take(dtype.size());
            ChunkBlock {
                num_samples: samples as u32,
                first_sample: 0,
                fields: vec![FieldBlock {
                    data: part.iter().flat_map(wide).collect(),
                    shapes: Shapes::default(),
                }],
            }
        });
        let chunks: Vec<ChunkBlock> = chunks.collect();
        let modes = ["none", "left", "2d", "3d", "chunk"];
        let schemas = modes.map(|mode| {
            let filter = FilterSpec::parse(&format!("predict:{mode}:{options}")).unwrap();
            let mut field = FieldSpec::new("x", dtype, shape)
                .filter_specs([filter])
                .codec(CodecSpec::parse("prefix").unwrap());
            if dtype.size() > 1 {
                field = field.split(SplitId::BYTE_SPLIT);
            }
            Schema::new(vec![field.resolve().unwrap()]).unwrap()
        });
        let mut best = [f64::INFINITY; 5];
        let mut stored = [0; 5];
        for _ in 0..ROUNDS {
            for ((schema, best), stored) in schemas.iter().zip(&mut best).zip(&mut stored) {
                let start = Instant::now();
                *stored = 0;
                for chunk in &chunks {
                    let encoded = encode_chunk(schema, 1 << 16, chunk).unwrap();
                    *stored += encoded.streams.iter().map(|s| s.data.len()).sum::<usize>();
                }
                *best = best.min(start.elapsed().as_secs_f64());
            }
        }
        let total =
            (chunks.len() * samples * shape.iter().product::<usize>() * dtype.size()) as f64;
        eprintln!("{dtype} {shape:?} {options}:");
        for ((mode, time), stored) in modes.iter().zip(best).zip(stored) {
            let (ratio, speed) = (total / stored as f64, total / time / 1e9);
            eprintln!("  {mode:6} ratio {ratio:.3}, encode {speed:.2} GB/s");
        }
    }
}

#[test]
#[ignore = "prints timings"]
fn predicted_speed() {
    let predict = |text: &str| [FilterSpec::parse(text).unwrap()];
    let codec = |text: &str| CodecSpec::parse(text).unwrap();
    let photos = photos();
    let shape = [3, 64, 64];
    let photo = || FieldSpec::new("x", DType::U8, shape);
    compare(
        DType::U8,
        &shape,
        &photos,
        [
            ("stored", photo().codec(codec("none"))),
            (
                "predict, stored",
                photo()
                    .filter_specs(predict("predict:2d:channel=0"))
                    .codec(codec("none")),
            ),
            ("prefix", photo().codec(codec("prefix"))),
            (
                "predict, prefix",
                photo()
                    .filter_specs(predict("predict:2d:channel=0"))
                    .codec(codec("prefix")),
            ),
            (
                "predict chunk, prefix",
                photo()
                    .filter_specs(predict("predict:chunk:channel=0"))
                    .codec(codec("prefix")),
            ),
        ],
    );
    let latents = data("lat.f32", 16_384, |n| {
        let noise = weights(n / 4);
        let x = |i: usize| ((i as f64 / 5.0).sin() + noise[i]) as f32;
        (0..n / 4).flat_map(|i| x(i).to_le_bytes()).collect()
    });
    let shape = [4, 32, 32];
    let scales = |n: usize| Scales {
        scales: vec![0.04; n],
        zero_points: Vec::new(),
    };
    let int8 = || QuantSpec::int8().non_finite(NonFinite::Saturate);
    let quantized = |quant| {
        FieldSpec::new("x", DType::F32, shape)
            .quantize(quant)
            .filter_specs(predict("predict:2d"))
            .codec(codec("prefix"))
    };
    compare(
        DType::F32,
        &shape,
        &latents,
        [
            (
                "int8, stored",
                quantized(int8().per_tensor().scales(scales(1)))
                    .filters([])
                    .codec(codec("none")),
            ),
            (
                "int8, predict, stored",
                quantized(int8().per_tensor().scales(scales(1))).codec(codec("none")),
            ),
            (
                "int8, prefix",
                quantized(int8().per_tensor().scales(scales(1))).filters([]),
            ),
            (
                "int8, predict, prefix",
                quantized(int8().per_tensor().scales(scales(1))),
            ),
            (
                "int8, chunk, prefix",
                quantized(int8().per_tensor().scales(scales(1)))
                    .filter_specs(predict("predict:chunk")),
            ),
            (
                "per channel",
                quantized(int8().per_channel(0).scales(scales(4))),
            ),
            ("per sample", quantized(int8().per_sample())),
        ],
    );
}
