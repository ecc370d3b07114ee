//! Golden files: bytes written once, read for ever. `tests/python` reads the same files with the second reader.
//!
//! Each case is a folder under `tests/data/golden/v1`: a dataset, and `expected.json` with the decoded values. `FILES`
//! lists every file with its CRC32C; an unlisted, missing or changed file fails. To add a case, add a function to
//! `CASES` and run `cargo test --test golden -- --ignored write_missing_cases`: existing cases are never rewritten.
#![expect(
    clippy::cast_possible_truncation,
    reason = "small numbers made for tests"
)]
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use common::{Random, elements};
use serde_json::{Value, json};
use tensorshard::{
    CodecSpec, DType, Dataset, FieldSpec, FilterId, FilterSpec, Kind, NonFinite, QuantSpec, Result,
    Sample, Scales, ShardWriter, ShardWriterBuilder, SplitId, TensorView, to_le_bytes,
};

/// Decoded values longer than this are recorded by their checksum.
const MAX_HEX: usize = 600;

type Case = fn(&Path) -> Result<()>;

const CASES: &[(&str, Case)] = &[
    ("dtypes-none", |path| dtypes(path, "none")),
    ("dtypes-snappy", |path| dtypes(path, "snappy")),
    ("dtypes-deflate", |path| dtypes(path, "deflate")),
    ("dtypes-gzip", |path| dtypes(path, "gzip")),
    ("dtypes-lz4", |path| dtypes(path, "lz4")),
    ("dtypes-zstd", |path| dtypes(path, "zstd:19")),
    ("filters", filters),
    ("casts", casts),
    ("affine", affine),
    ("static-scales", static_scales),
    ("patches", patches),
    ("ragged", ragged),
    ("large-samples", large_samples),
    ("abs-error", abs_error),
    ("abs-error-short-step", abs_error),
    ("splits", splits),
    ("prefix", prefix),
    ("predict", predict),
    ("predict-chunk", predict_chunk),
    ("scaled", scaled),
    ("huffman", |path| bytes(path, "huffman")),
    #[cfg(feature = "lzo")]
    ("lzo", |path| bytes(path, "lzo")),
];

/// Cases that the writer of today writes in another way, as the specification lets it: they are read, and there is a case
/// of what is written now.
///
/// - `abs-error`: its steps have all bits of f64.
const NO_LONGER_WRITTEN: &[&str] = &["abs-error"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/golden/v1")
}

fn builder(seed: u64) -> ShardWriterBuilder {
    ShardWriter::builder().shard_ids_from(seed)
}

/// Compressible bytes of every dtype.
fn smooth(dtype: DType, n: usize, phase: usize) -> Vec<u8> {
    let x = |i: usize| (((i + phase) / 3) % 5) as f32;
    match dtype {
        DType::F16 => to_le_bytes(
            &(0..n)
                .map(|i| half::f16::from_f32(x(i)))
                .collect::<Vec<_>>(),
        ),
        DType::BF16 => to_le_bytes(
            &(0..n)
                .map(|i| half::bf16::from_f32(x(i)))
                .collect::<Vec<_>>(),
        ),
        DType::F32 => to_le_bytes(&(0..n).map(x).collect::<Vec<_>>()),
        DType::F64 => to_le_bytes(&(0..n).map(|i| f64::from(x(i))).collect::<Vec<_>>()),
        DType::Bool => (0..n).map(|i| ((i + phase) / 4 % 2) as u8).collect(),
        _ => (0..n * dtype.size())
            .map(|i| ((i / dtype.size() + phase) / 3 % 7) as u8)
            .collect(),
    }
}

fn dtypes(path: &Path, codec: &str) -> Result<()> {
    let codec = CodecSpec::parse(codec)?;
    let fields = DType::all().map(|dtype| {
        FieldSpec::new(dtype.name(), dtype, [2, 30])
            .codec(codec)
            .filters([])
    });
    let scalars = FieldSpec::new("scalar", DType::I64, []).codec(codec);
    let empty = FieldSpec::new("empty", DType::F32, [3, 0]).codec(codec);
    let mut writer = builder(1)
        .fields(fields)
        .field(scalars)
        .field(empty)
        .samples_per_chunk(3)
        .max_shard_len(1)
        .create(path)?;
    for i in 0..5usize {
        let values: Vec<Vec<u8>> = DType::all().map(|dtype| smooth(dtype, 60, i * 7)).collect();
        let shape = [2, 30];
        let mut sample = Vec::new();
        for (dtype, value) in DType::all().zip(&values) {
            sample.push((dtype.name(), TensorView::new(dtype, &shape, value)?));
        }
        let scalar = (i as i64 - 4).to_le_bytes();
        sample.push(("scalar", TensorView::new(DType::I64, &[], &scalar)?));
        sample.push(("empty", TensorView::new(DType::F32, &[3, 0], &[])?));
        writer.append(&sample)?;
    }
    writer.finish()?;
    Ok(())
}

/// Bytes as entropy coders meet them: around zero, two values, one value, text, all values once, noise, few.
fn bytes(path: &Path, codec: &str) -> Result<()> {
    let codec = CodecSpec::parse(codec)?;
    let mut random = Random(12);
    let around_zero = |random: &mut Random| {
        let dice = random.next().to_le_bytes();
        let sum: u32 = dice.map(|byte| u32::from(byte % 4)).iter().sum();
        (sum as u8).wrapping_sub(12)
    };
    let mut fields: Vec<(&str, Vec<u8>)> = vec![
        (
            "residuals",
            (0..5000).map(|_| around_zero(&mut random)).collect(),
        ),
        (
            "sparse",
            (0..1500)
                .map(|_| u8::from(random.next().is_multiple_of(32)))
                .collect(),
        ),
        ("constant", vec![9; 1201]),
        (
            "text",
            b"tensors of many shards, shards of many pieces; ".repeat(20),
        ),
        ("all", (0..=255).rev().chain([7; 1000]).collect()),
        ("noise", (0..300).map(|_| random.next() as u8).collect()),
        ("few", vec![1, 2, 1]),
    ];
    let specs = fields
        .iter()
        .map(|(name, value)| FieldSpec::new(*name, DType::U8, [value.len()]).codec(codec));
    let mut writer = builder(12)
        .fields(specs)
        .samples_per_chunk(2)
        .create(path)?;
    for _ in 0..3 {
        let shapes: Vec<[usize; 1]> = fields.iter().map(|(_, value)| [value.len()]).collect();
        let sample: Result<Vec<_>> = fields
            .iter()
            .zip(&shapes)
            .map(|((name, value), shape)| Ok((*name, TensorView::new(DType::U8, shape, value)?)))
            .collect();
        writer.append(&sample?)?;
        for (_, value) in &mut fields {
            let middle = value.len() / 3;
            value.rotate_left(middle);
        }
    }
    writer.finish()?;
    Ok(())
}

fn filters(path: &Path) -> Result<()> {
    let chains: [(&str, &[FilterId]); 4] = [
        ("byte_shuffle", &[FilterId::BYTE_SHUFFLE]),
        ("bit_shuffle", &[FilterId::BIT_SHUFFLE]),
        ("delta", &[FilterId::DELTA]),
        (
            "delta+shuffles",
            &[
                FilterId::DELTA,
                FilterId::BYTE_SHUFFLE,
                FilterId::BIT_SHUFFLE,
            ],
        ),
    ];
    let dtypes = [DType::U8, DType::I16, DType::F32, DType::F64];
    let mut fields = Vec::new();
    for (name, chain) in chains {
        for dtype in dtypes {
            fields.push((format!("{name}.{dtype}"), dtype, chain));
        }
    }
    let specs = fields
        .iter()
        .map(|(name, dtype, chain)| FieldSpec::new(name, *dtype, [37]).filters(chain));
    let mut writer = builder(2).fields(specs).samples_per_chunk(5).create(path)?;
    let mut random = Random(2);
    for _ in 0..7 {
        let values: Vec<Vec<u8>> = fields
            .iter()
            .map(|(_, dtype, _)| elements(*dtype, 37, &mut random))
            .collect();
        let sample: Result<Vec<_>> = fields
            .iter()
            .zip(&values)
            .map(|((name, dtype, _), value)| {
                Ok((name.as_str(), TensorView::new(*dtype, &[37], value)?))
            })
            .collect();
        writer.append(&sample?)?;
    }
    writer.finish()?;
    Ok(())
}

fn write_quantized(
    path: &Path,
    seed: u64,
    fields: &[(String, DType, QuantSpec)],
    shape: &[usize],
) -> Result<()> {
    let specs = fields
        .iter()
        .map(|(name, dtype, spec)| FieldSpec::new(name, *dtype, shape).quantize(spec.clone()));
    let mut writer = builder(seed)
        .fields(specs)
        .samples_per_chunk(4)
        .create(path)?;
    let mut random = Random(seed);
    let n = shape.iter().product();
    for i in 0..6 {
        let values: Vec<Vec<u8>> = fields
            .iter()
            .map(|(_, dtype, _)| {
                if i == 3 {
                    vec![0; n * dtype.size()]
                } else {
                    elements(*dtype, n, &mut random)
                }
            })
            .collect();
        let sample: Result<Vec<_>> = fields
            .iter()
            .zip(&values)
            .map(|((name, dtype, _), value)| {
                Ok((name.as_str(), TensorView::new(*dtype, shape, value)?))
            })
            .collect();
        writer.append(&sample?)?;
    }
    writer.finish()?;
    Ok(())
}

const FLOATS: [DType; 4] = [DType::F16, DType::BF16, DType::F32, DType::F64];

fn casts(path: &Path) -> Result<()> {
    let mut fields = Vec::new();
    for to in [
        DType::F16,
        DType::BF16,
        DType::F8E4M3FN,
        DType::F8E5M2,
        DType::F32,
    ] {
        for from in FLOATS {
            let spec = QuantSpec::cast(to);
            if spec.resolve(from, Some(1)).is_ok() {
                fields.push((format!("{from}-as-{to}"), from, spec));
            }
        }
    }
    write_quantized(path, 3, &fields, &[13])
}

fn affine(path: &Path) -> Result<()> {
    let mut fields = Vec::new();
    for (i, base) in ["int8", "uint8", "int4", "uint4", "int16", "uint16"]
        .into_iter()
        .enumerate()
    {
        for (j, rest) in [
            "",
            ":asym",
            ":per-group=4:scale=f16",
            ":asym:per-group=5:scale=bf16",
        ]
        .into_iter()
        .enumerate()
        {
            let spec = QuantSpec::parse(&format!("{base}{rest}"))?;
            let dtype = FLOATS[(i + j) % 4];
            fields.push((format!("{base}{rest} {dtype}"), dtype, spec));
        }
    }
    write_quantized(path, 4, &fields, &[3, 7])
}

fn static_scales(path: &Path) -> Result<()> {
    let table = |scales: &[f32], zero_points: &[i32]| Scales {
        scales: scales.to_vec(),
        zero_points: zero_points.to_vec(),
    };
    let tensor = QuantSpec::int8().per_tensor().scales(table(&[0.0625], &[]));
    let channel = QuantSpec::uint8().asymmetric().per_channel(1);
    let channel = channel.scales(table(&[0.05, 0.06, 0.07, 0.08], &[128, 120, 100, 90]));
    let last = QuantSpec::int16()
        .per_channel(2)
        .scales(table(&[0.001; 5], &[]));
    let nibble = QuantSpec::int4()
        .per_channel(0)
        .scales(table(&[1.0, 2.0, 1.5], &[]));
    let fields = [
        ("per-tensor".to_owned(), DType::F32, tensor),
        ("per-channel-1".to_owned(), DType::F32, channel),
        ("per-channel-2".to_owned(), DType::F16, last),
        ("per-channel-0-int4".to_owned(), DType::F64, nibble),
    ];
    write_quantized(path, 5, &fields, &[3, 4, 5])
}

fn patches(path: &Path) -> Result<()> {
    let spec = QuantSpec::int8().non_finite(NonFinite::Patch);
    let narrow = QuantSpec::cast(DType::F8E4M3FN).non_finite(NonFinite::Patch);
    let saturate = QuantSpec::cast(DType::F16).non_finite(NonFinite::Saturate);
    let mut writer = builder(6)
        .field(FieldSpec::new("int8", DType::F32, [11]).quantize(spec.clone()))
        .field(FieldSpec::new("f8", DType::F32, [11]).quantize(narrow))
        .field(FieldSpec::new("f16", DType::F32, [11]).quantize(saturate))
        .field(FieldSpec::ragged("tokens", DType::F64, [None]).quantize(spec))
        .samples_per_chunk(3)
        .create(path)?;
    for i in 0..7usize {
        let mut values: Vec<f32> = (0..11).map(|j| ((i * 11 + j) as f32).sin() * 3.0).collect();
        values[i] = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e30][i % 4];
        let bytes = to_le_bytes(&values);
        let saturating: Vec<f32> = values
            .iter()
            .map(|x| if x.is_infinite() { -1e20 } else { *x })
            .collect();
        let saturating = to_le_bytes(&saturating);
        let tokens: Vec<f64> = values[..i]
            .iter()
            .chain(&[f32::NAN])
            .map(|&x| f64::from(x))
            .collect();
        let tokens = to_le_bytes(&tokens);
        writer.append(&[
            ("int8", TensorView::new(DType::F32, &[11], &bytes)?),
            ("f8", TensorView::new(DType::F32, &[11], &bytes)?),
            ("f16", TensorView::new(DType::F32, &[11], &saturating)?),
            ("tokens", TensorView::new(DType::F64, &[i + 1], &tokens)?),
        ])?;
    }
    writer.finish()?;
    Ok(())
}

fn ragged(path: &Path) -> Result<()> {
    let mut writer = builder(7)
        .field(FieldSpec::key("key"))
        .field(FieldSpec::bytes("raw").codec(CodecSpec::parse("zstd")?))
        .field(FieldSpec::any("weight"))
        .field(FieldSpec::any_shape("state", DType::F32).quantize(QuantSpec::int8()))
        .field(
            FieldSpec::ragged("tokens", DType::F32, [None, Some(6)])
                .quantize(QuantSpec::parse("int4:per-group=4")?),
        )
        .field(
            FieldSpec::ragged("map", DType::F16, [Some(2), None, None])
                .quantize(QuantSpec::parse("uint8:asym:per-channel=1")?),
        )
        .metadata("made by", "tests/golden.rs")
        .metadata("numbers", json!([1, 2.5, null]))
        .samples_per_chunk(5)
        .create(path)?;
    let mut random = Random(7);
    let dtypes: Vec<DType> = DType::all().collect();
    for i in 0..16usize {
        let dtype = dtypes[i % dtypes.len()];
        let shape: Vec<usize> = (0..random.below(4)).map(|_| random.below(4)).collect();
        let n = shape.iter().product();
        let weight = elements(dtype, n, &mut random);
        let state = elements(DType::F32, n, &mut random);
        let raw = elements(DType::U8, random.below(20), &mut random);
        let (t, h, w) = (random.below(5), random.below(4), random.below(4));
        let tokens = elements(DType::F32, t * 6, &mut random);
        let map = elements(DType::F16, 2 * h * w, &mut random);
        let key = format!("k\u{e9}y-{i}");
        writer.append(&[
            (
                "key",
                TensorView::new(DType::U8, &[key.len()], key.as_bytes())?,
            ),
            ("raw", TensorView::new(DType::U8, &[raw.len()], &raw)?),
            ("weight", TensorView::new(dtype, &shape, &weight)?),
            ("state", TensorView::new(DType::F32, &shape, &state)?),
            ("tokens", TensorView::new(DType::F32, &[t, 6], &tokens)?),
            ("map", TensorView::new(DType::F16, &[2, h, w], &map)?),
        ])?;
    }
    writer.finish()?;
    Ok(())
}

fn large_samples(path: &Path) -> Result<()> {
    let zstd = CodecSpec::parse("zstd:19")?;
    let mut writer = builder(8)
        .field(FieldSpec::new("rows", DType::F32, [3, 100, 101]).codec(zstd))
        .field(FieldSpec::new("one-row", DType::U8, [150_000]).codec(zstd))
        .field(
            FieldSpec::new("int4", DType::F32, [501, 301])
                .codec(zstd)
                .quantize(QuantSpec::parse("int4:per-group=32")?),
        )
        .field(FieldSpec::bytes("raw").codec(zstd))
        .samples_per_chunk(2)
        .create(path)?;
    for i in 0..3usize {
        let rows = smooth(DType::F32, 30_300, i);
        let one_row = smooth(DType::U8, 150_000, i);
        let wide = smooth(DType::F32, 501 * 301, i);
        let raw = smooth(DType::U8, [70_000, 5, 131_072][i], i);
        writer.append(&[
            ("rows", TensorView::new(DType::F32, &[3, 100, 101], &rows)?),
            ("one-row", TensorView::new(DType::U8, &[150_000], &one_row)?),
            ("int4", TensorView::new(DType::F32, &[501, 301], &wide)?),
            ("raw", TensorView::new(DType::U8, &[raw.len()], &raw)?),
        ])?;
    }
    writer.finish()?;
    Ok(())
}

fn abs_error(path: &Path) -> Result<()> {
    let specs = [
        "abs_error:0.02:bits=8",
        "abs_error:0.0001:bits=16",
        "abs_error:1e-6:bits=32",
        "abs_error:0.02:range=-3..5",
        "rel_error:0.01:range=100..110",
    ];
    let mut writer = builder(9);
    for spec in specs {
        let spec = QuantSpec::parse(spec)?;
        for dtype in FLOATS {
            let name = format!("{spec} {dtype}");
            writer = writer.field(FieldSpec::new(name, dtype, [3, 5]).quantize(spec.clone()));
        }
    }
    let ragged = QuantSpec::parse("abs_error:0.001:bits=16")?;
    let mut writer = writer
        .field(
            FieldSpec::ragged("ragged", DType::F32, [None])
                .quantize(ragged)
                .filters([FilterId::DELTA]),
        )
        .samples_per_chunk(3)
        .create(path)?;
    let mut random = Random(9);
    for i in 0..5usize {
        let mut values = Vec::new();
        for spec in specs {
            let offset = if spec.contains("100..110") {
                105.0
            } else {
                0.0
            };
            for dtype in FLOATS {
                let mut x: Vec<f32> = (0..15).map(|_| offset + random.normal() as f32).collect();
                x[3 * i] = [f32::NAN, -0.0, f32::INFINITY, 3e38, f32::NEG_INFINITY][i];
                let bytes = match dtype {
                    DType::F16 => to_le_bytes(
                        &x.iter()
                            .map(|&x| half::f16::from_f32(x))
                            .collect::<Vec<_>>(),
                    ),
                    DType::BF16 => to_le_bytes(
                        &x.iter()
                            .map(|&x| half::bf16::from_f32(x))
                            .collect::<Vec<_>>(),
                    ),
                    DType::F64 => to_le_bytes(&x.iter().map(|&x| f64::from(x)).collect::<Vec<_>>()),
                    _ => to_le_bytes(&x),
                };
                values.push((format!("{} {dtype}", QuantSpec::parse(spec)?), dtype, bytes));
            }
        }
        let ragged = elements(DType::F32, 3 * i, &mut random);
        let mut sample = Vec::new();
        for (name, dtype, bytes) in &values {
            sample.push((name.as_str(), TensorView::new(*dtype, &[3, 5], bytes)?));
        }
        let shape = [3 * i];
        sample.push(("ragged", TensorView::new(DType::F32, &shape, &ragged)?));
        writer.append(&sample)?;
    }
    writer.finish()?;
    Ok(())
}

fn splits(path: &Path) -> Result<()> {
    let codecs =
        |text: &str| -> Result<Vec<CodecSpec>> { text.split(',').map(CodecSpec::parse).collect() };
    let mut fields = Vec::new();
    for split in [SplitId::FLOAT_SPLIT, SplitId::BYTE_SPLIT] {
        for dtype in [DType::F16, DType::BF16, DType::F32, DType::F64, DType::I16] {
            fields.push((format!("{split}.{dtype}"), dtype, split));
        }
    }
    let mut builder = builder(9);
    for (name, dtype, split) in &fields {
        let mut spec = FieldSpec::new(name, *dtype, [3, 41]).split(*split).codecs(
            codecs("zstd:19,deflate:9,none")?
                .get(..dtype.size().min(3))
                .unwrap(),
        );
        if *split == SplitId::BYTE_SPLIT && dtype.is_float() {
            spec = spec.filters([FilterId::FLOAT_ORDER, FilterId::DELTA]);
        }
        builder = builder.field(spec);
    }
    let mut writer = builder
        .field(
            FieldSpec::new("int16", DType::F32, [3, 41])
                .quantize(QuantSpec::parse("int16:asym:per-group=8")?)
                .split(SplitId::BYTE_SPLIT)
                .codecs(codecs("deflate:9,none")?),
        )
        .field(
            FieldSpec::ragged("tokens", DType::F32, [None, Some(2)])
                .split(SplitId::FLOAT_SPLIT)
                .codecs(codecs("zstd:19")?),
        )
        .field(
            FieldSpec::new("large", DType::F64, [300, 301])
                .split(SplitId::FLOAT_SPLIT)
                .codecs(codecs("zstd:19")?),
        )
        .samples_per_chunk(2)
        .create(path)?;
    let mut random = Random(9);
    for i in 0..3usize {
        let values: Vec<Vec<u8>> = fields
            .iter()
            .map(|(_, dtype, _)| elements(*dtype, 123, &mut random))
            .collect();
        let shape = [3, 41];
        let mut sample = Vec::new();
        for ((name, dtype, _), value) in fields.iter().zip(&values) {
            sample.push((name.as_str(), TensorView::new(*dtype, &shape, value)?));
        }
        let int16 = elements(DType::F32, 123, &mut random);
        sample.push(("int16", TensorView::new(DType::F32, &shape, &int16)?));
        let n = [70_000, 3, 0][i];
        let tokens = smooth(DType::F32, 2 * n, i);
        let dims = [n, 2];
        sample.push(("tokens", TensorView::new(DType::F32, &dims, &tokens)?));
        let large = smooth(DType::F64, 300 * 301, i);
        sample.push(("large", TensorView::new(DType::F64, &[300, 301], &large)?));
        writer.append(&sample)?;
    }
    writer.finish()?;
    Ok(())
}

/// Streams of codec prefix with 1, 2 and 4 groups of lanes, every mode, one symbol only, and pieces that are stored.
fn prefix(path: &Path) -> Result<()> {
    type Content = fn(u8, usize) -> u8;
    let fields: [(&str, usize, Content); 8] = [
        ("tiny", 300, |x, _| x & x << 1 & 0x0F),
        ("one-group", 3000, |x, _| (x & x << 1 & x << 2 & 0x3F) + 100),
        ("two-groups", 10_000, |x, i| {
            (x.cast_signed() / (1 + (i % 16) as i8)).cast_unsigned()
        }),
        ("four-groups", 40_001, |x, _| {
            if x < 192 {
                x & 3
            } else {
                x.wrapping_mul(5) >> 1
            }
        }),
        ("listed", 5000, |x, _| {
            b"etaoins hrdluABC"[usize::from(x & 15 & x >> 4)]
        }),
        ("constant", 5000, |_, _| 0xE7),
        ("long-code-words", 9000, |_, i| {
            (i + 1).trailing_zeros() as u8 * 11
        }),
        ("noise", 500, |x, _| x),
    ];
    let codec = CodecSpec::parse("prefix")?;
    let specs = fields.iter().map(|(name, n, _)| {
        FieldSpec::new(*name, DType::U8, [*n])
            .codec(codec)
            .filters([])
    });
    let mut writer = builder(80)
        .fields(specs)
        .samples_per_chunk(1)
        .create(path)?;
    let mut random = Random(80);
    for _ in 0..2 {
        let values: Vec<Vec<u8>> = fields
            .iter()
            .map(|(_, n, content)| {
                let noise = elements(DType::U8, *n, &mut random);
                noise
                    .into_iter()
                    .enumerate()
                    .map(|(i, x)| content(x, i))
                    .collect()
            })
            .collect();
        let sample: Result<Vec<_>> = fields
            .iter()
            .zip(&values)
            .map(|((name, n, _), value)| {
                Ok((
                    *name,
                    TensorView::new(DType::U8, std::slice::from_ref(n), value)?,
                ))
            })
            .collect();
        writer.append(&sample?)?;
    }
    writer.finish()?;
    Ok(())
}

/// Format 1.1.
fn predict(path: &Path) -> Result<()> {
    let filters = |text: &str| -> Result<Vec<FilterSpec>> {
        text.split(',').map(FilterSpec::parse).collect()
    };
    let fixed: [(&str, DType, &[usize], &str); 9] = [
        (
            "left",
            DType::I16,
            &[37],
            "predict:left:zigzag,byte_shuffle",
        ),
        ("up", DType::U8, &[5, 7], "predict:up"),
        ("2d", DType::I8, &[2, 6, 5], "predict:2d"),
        ("3d", DType::U32, &[3, 4, 5], "predict:3d:zigzag"),
        ("3d wide", DType::U64, &[2, 3, 4], "predict:3d"),
        ("rgb", DType::U8, &[3, 4, 8], "predict:2d:channel=0"),
        (
            "rgb last",
            DType::U8,
            &[4, 8, 3],
            "predict:2d:channel=2:reference=0",
        ),
        (
            "channel between",
            DType::U16,
            &[4, 2, 5],
            "predict:3d:channel=1",
        ),
        (
            "channels alone",
            DType::U8,
            &[3, 9],
            "predict:none:channel=0:reference=2:zigzag",
        ),
    ];
    let large: [(&str, &[usize], &str); 3] = [
        ("large rgb", &[3, 160, 150], "predict:2d:channel=0"),
        ("large rgb last", &[160, 150, 3], "predict:2d:channel=2"),
        ("large row", &[2, 70_000], "predict:3d"),
    ];
    let latent = QuantSpec::int8().per_tensor().scales(Scales {
        scales: vec![0.0625],
        zero_points: Vec::new(),
    });
    let mut writer = builder(9).samples_per_chunk(3);
    for (name, dtype, shape, text) in fixed {
        writer = writer.field(FieldSpec::new(name, dtype, shape).filter_specs(filters(text)?));
    }
    let zstd = CodecSpec::parse("zstd:19")?;
    for (name, shape, text) in large {
        let field = FieldSpec::new(name, DType::U8, shape).codec(zstd);
        writer = writer.field(field.filter_specs(filters(text)?));
    }
    let mut writer = writer
        .field(
            FieldSpec::new("latent", DType::F32, [2, 8, 8])
                .quantize(latent)
                .filter_specs(filters("predict:2d")?),
        )
        .field(
            FieldSpec::any_shape("any", DType::U8)
                .filter_specs(filters("predict:2d:channel=2:reference=1")?),
        )
        .field(
            FieldSpec::ragged("map", DType::I16, [None, None])
                .filter_specs(filters("predict:2d:channel=0:zigzag")?),
        )
        .create(path)?;
    let mut random = Random(9);
    for i in 0..5usize {
        let mut values: Vec<(&str, DType, Vec<usize>, Vec<u8>)> = Vec::new();
        for (name, dtype, shape, _) in fixed {
            let data = elements(dtype, shape.iter().product(), &mut random);
            values.push((name, dtype, shape.to_vec(), data));
        }
        for (name, shape, _) in large {
            let data = smooth(DType::U8, shape.iter().product(), i);
            values.push((name, DType::U8, shape.to_vec(), data));
        }
        let waves: Vec<f32> = (0..128)
            .map(|j| ((i + j) as f32 / 9.0).sin() * 4.0)
            .collect();
        values.push(("latent", DType::F32, vec![2, 8, 8], to_le_bytes(&waves)));
        let shape: Vec<usize> = (0..i).map(|_| random.below(5)).collect();
        let data = elements(DType::U8, shape.iter().product(), &mut random);
        values.push(("any", DType::U8, shape, data));
        let (h, w) = (random.below(4), random.below(6));
        let data = elements(DType::I16, h * w, &mut random);
        values.push(("map", DType::I16, vec![h, w], data));
        let sample: Result<Vec<_>> = values
            .iter()
            .map(|(name, dtype, shape, data)| Ok((*name, TensorView::new(*dtype, shape, data)?)))
            .collect();
        writer.append(&sample?)?;
    }
    writer.finish()?;
    Ok(())
}

/// Chunks that choose their mode of prediction. Format 1.1.
fn predict_chunk(path: &Path) -> Result<()> {
    let filters = |text: &str| -> Result<Vec<FilterSpec>> {
        text.split(',').map(FilterSpec::parse).collect()
    };
    let prefix = CodecSpec::parse("prefix")?;
    let fields = [
        FieldSpec::new("rgb", DType::U8, [3, 12, 16])
            .filter_specs(filters("predict:chunk:channel=0")?)
            .codec(prefix),
        FieldSpec::new("wide", DType::I32, [6, 8, 8])
            .filter_specs(filters("predict:chunk:zigzag")?)
            .split(SplitId::BYTE_SPLIT)
            .codec(prefix),
        FieldSpec::new("floats", DType::F32, [12, 16])
            .filter_specs(filters("float_order,predict:chunk:zigzag,byte_shuffle")?)
            .codec(CodecSpec::parse("zstd:19")?),
        FieldSpec::new("error", DType::F32, [12, 16])
            .quantize(QuantSpec::parse("abs_error:0.01:bits=16")?)
            .filter_specs(filters("predict:chunk")?)
            .codec(prefix),
        FieldSpec::ragged("map", DType::I16, [None, None])
            .filter_specs(filters("predict:chunk:zigzag")?)
            .codec(prefix),
        FieldSpec::new("large", DType::U8, [264, 250])
            .filter_specs(filters("predict:chunk")?)
            .codec(prefix),
        FieldSpec::new("empty", DType::U8, [0, 3]).filter_specs(filters("predict:chunk")?),
    ];
    let mut writer = builder(11)
        .fields(fields)
        .samples_per_chunk(2)
        .create(path)?;
    // Two samples each that are best with none, left, up, 2d and 3d.
    let mut random = Random(11);
    let mut tables: Vec<[i32; 600]> = Vec::new();
    for _ in 0..6 {
        tables.push(std::array::from_fn(|_| (random.next() % 97) as i32));
    }
    let at = |mode: usize, z: usize, y: usize, x: usize| -> i32 {
        let row = tables[0][(z * 37 + y) % 600];
        let column = tables[1][(z * 41 + x) % 600];
        let depth = tables[2][(y * 43 + x) % 600];
        let grain = tables[3][(z * 211 + y * 89 + x * 7) % 600] % 3;
        let wild = tables[4][(z * 331 + y * 173 + x * 59) % 600] * 7;
        grain
            + match mode {
                0 => wild,
                1 => row,
                2 => column,
                3 => row + column,
                _ => row + column + depth,
            }
    };
    let grid = |mode: usize, [planes, rows, columns]: [usize; 3]| -> Vec<i32> {
        let index = |i: usize| (i / (rows * columns), i / columns % rows, i % columns);
        (0..planes * rows * columns)
            .map(|i| {
                let (z, y, x) = index(i);
                at(mode, z, y, x)
            })
            .collect()
    };
    let bytes = |values: &[i32]| -> Vec<u8> { values.iter().map(|x| x.to_le_bytes()[0]).collect() };
    for i in 0..10usize {
        let mode = i / 2;
        let floats: Vec<f32> = grid(mode, [1, 12, 16]).iter().map(|x| *x as f32).collect();
        let error: Vec<f32> = floats.iter().map(|x| x * 0.013).collect();
        let (h, w) = (i % 4 * 5, i % 3 * 9 + 3);
        let map: Vec<i16> = grid(mode, [1, h, w]).iter().map(|x| *x as i16).collect();
        let rgb = bytes(&grid(mode, [3, 12, 16]));
        let large: Vec<i32> = grid(mode, [1, 264, 250]).iter().map(|x| x >> 5).collect();
        let large = bytes(&large);
        writer.append(&[
            ("rgb", TensorView::new(DType::U8, &[3, 12, 16], &rgb)?),
            (
                "wide",
                TensorView::new(DType::I32, &[6, 8, 8], &to_le_bytes(&grid(mode, [6, 8, 8])))?,
            ),
            (
                "floats",
                TensorView::new(DType::F32, &[12, 16], &to_le_bytes(&floats))?,
            ),
            (
                "error",
                TensorView::new(DType::F32, &[12, 16], &to_le_bytes(&error))?,
            ),
            (
                "map",
                TensorView::new(DType::I16, &[h, w], &to_le_bytes(&map))?,
            ),
            ("large", TensorView::new(DType::U8, &[264, 250], &large)?),
            ("empty", TensorView::new(DType::U8, &[0, 3], &[])?),
        ])?;
    }
    writer.finish()?;
    Ok(())
}

fn scaled(path: &Path) -> Result<()> {
    let mut fields = Vec::new();
    for (i, base) in [
        "fp8",
        "fp8-e5m2",
        "nf4",
        "codebook:-8,-6,-4,-3,-2,-1,-0.5,0,0.5,1,2,3,4,5,6,7",
    ]
    .into_iter()
    .enumerate()
    {
        for (j, rest) in ["", ":per-group=4:scale=f16", ":per-sample:scale=bf16"]
            .into_iter()
            .enumerate()
        {
            let spec = QuantSpec::parse(&format!("{base}{rest}"))?;
            fields.push((format!("{base}{rest}"), FLOATS[(i + j) % 4], spec));
        }
    }
    for (i, name) in ["mxfp8", "mxfp8-e5m2", "mxint8", "mxfp4"]
        .into_iter()
        .enumerate()
    {
        for dtype in [
            DType::F32,
            [DType::F64, DType::F16, DType::BF16, DType::F64][i],
        ] {
            fields.push((format!("{name} {dtype}"), dtype, QuantSpec::parse(name)?));
        }
    }
    let table = Scales {
        scales: vec![0.0625],
        zero_points: vec![],
    };
    fields.push((
        "static".to_owned(),
        DType::F32,
        QuantSpec::parse("fp8:per-tensor")?.scales(table),
    ));
    let bytes: Vec<f32> = (-128..128).map(|i| i as f32 / 20.0).collect();
    fields.push(("bytes".to_owned(), DType::F32, QuantSpec::codebook(&bytes)));
    write_quantized(path, 10, &fields, &[35])
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn expected_value(sample: &Sample, field: &str) -> Result<Value> {
    let tensor = sample.tensor(field)?;
    let mut out = json!({ "shape": tensor.shape(), "dtype": tensor.dtype().name() });
    if tensor.data().len() <= MAX_HEX {
        out["hex"] = hex(tensor.data()).into();
    } else {
        out["crc32c"] = format!("{:08x}", crc32c::crc32c(tensor.data())).into();
    }
    Ok(out)
}

fn expected(dataset: &Dataset) -> Result<Value> {
    let mut fields = serde_json::Map::new();
    for field in dataset.fields() {
        let values: Result<Vec<Value>> = (0..dataset.len())
            .map(|i| expected_value(&dataset.get(i)?, field.name()))
            .collect();
        let kind = match field.kind() {
            Kind::Tensor => "tensor",
            Kind::Bytes => "bytes",
            _ => "string",
        };
        fields.insert(
            field.name().to_owned(),
            json!({ "kind": kind, "samples": values? }),
        );
    }
    Ok(json!({ "num_samples": dataset.len(), "metadata": dataset.metadata(), "fields": fields }))
}

/// Every file below the folder with its checksum, by relative path.
fn files_below(folder: &Path) -> BTreeMap<String, String> {
    let mut out = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let name = path
                .strip_prefix(folder)
                .unwrap()
                .to_string_lossy()
                .replace('\\', "/");
            out.insert(
                name,
                format!("{:08x}", crc32c::crc32c(&fs::read(path).unwrap())),
            );
        }
    }
    out.remove("FILES");
    out
}

fn listed() -> BTreeMap<String, String> {
    let text = fs::read_to_string(root().join("FILES")).unwrap_or_default();
    text.lines()
        .filter_map(|line| line.split_once("  "))
        .map(|(crc, name)| (name.to_owned(), crc.to_owned()))
        .collect()
}

#[test]
fn golden_files_are_complete_and_unchanged() {
    assert_eq!(files_below(&root()), listed());
    let folders: Vec<String> = CASES.iter().map(|(name, _)| (*name).to_owned()).collect();
    for name in listed().keys() {
        if name.starts_with("lzo/") && cfg!(not(feature = "lzo")) {
            continue;
        }
        assert!(
            folders
                .iter()
                .any(|folder| name.starts_with(&format!("{folder}/"))),
            "{name} belongs to no case"
        );
    }
    let bytes: u64 = listed()
        .keys()
        .map(|name| fs::metadata(root().join(name)).unwrap().len())
        .sum();
    assert!(bytes <= 2 << 20, "{bytes} bytes of golden files");
}

#[test]
fn golden_files_read_as_expected() -> Result<()> {
    for (name, _) in CASES {
        let dataset = Dataset::open(root().join(name))?;
        let text = fs::read_to_string(root().join(name).join("expected.json")).unwrap();
        let stored: Value = serde_json::from_str(&text).unwrap();
        assert!(expected(&dataset)? == stored, "{name} reads differently");
        assert!(dataset.verify(&|_| ()).is_intact());
    }
    Ok(())
}

/// The same input still gives the same values: files may differ (a codec crate may find shorter encodings).
#[test]
fn cases_written_today_read_the_same() -> Result<()> {
    let written = |(name, _): &&(&str, Case)| !NO_LONGER_WRITTEN.contains(name);
    for (name, write) in CASES.iter().filter(written) {
        let dir = tempfile::tempdir().unwrap();
        write(&dir.path().join("d"))?;
        let now = expected(&Dataset::open(dir.path().join("d"))?)?;
        assert!(
            now == expected(&Dataset::open(root().join(name))?)?,
            "{name} is written differently"
        );
    }
    Ok(())
}

#[test]
#[ignore = "writes golden files of new cases; run by hand"]
fn write_missing_cases() -> Result<()> {
    for (name, write) in CASES {
        let folder = root().join(name);
        if !folder.exists() {
            write(&folder)?;
            let text = serde_json::to_string(&expected(&Dataset::open(&folder)?)?).unwrap();
            fs::write(
                folder.join("expected.json"),
                text.replace("},{", "},\n{") + "\n",
            )
            .unwrap();
        }
    }
    let lines: String = files_below(&root())
        .iter()
        .map(|(name, crc)| format!("{crc}  {name}\n"))
        .collect();
    fs::write(root().join("FILES"), lines).unwrap();
    Ok(())
}
