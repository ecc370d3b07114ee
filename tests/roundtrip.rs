//! Write, then read: every dtype, encoding and shape class, through every door.

#![expect(
    clippy::cast_possible_truncation,
    reason = "small numbers made for tests"
)]
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::path::Path;

use common::{Random, collect, elements, random, small_dataset, write_one_field};
use tensorshard::{
    Batch, CodecId, CodecSpec, DType, Dataset, ErrorKind, FieldOutput, FieldSpec, FilterId,
    FilterSpec, IoMode, Kind, Loader, NonFinite, Preset, QuantParams, QuantSpec, Ragged, Result,
    ShardWriter, Shuffle, SplitId, TensorView, to_le_bytes,
};

const CODECS: &[CodecId] = &[
    CodecId::NONE,
    CodecId::SNAPPY,
    CodecId::DEFLATE,
    CodecId::GZIP,
    CodecId::LZ4,
    CodecId::ZSTD,
    CodecId::HUFFMAN,
    CodecId::PREFIX,
    #[cfg(feature = "lzo")]
    CodecId::LZO,
];

/// Shape classes: scalar, 1-d, 4-d, zero-size axis, a sample larger than a piece.
fn shapes() -> Vec<Vec<usize>> {
    vec![
        vec![],
        vec![7],
        vec![2, 3, 4, 5],
        vec![3, 0, 2],
        vec![1],
        vec![3, 150, 151],
    ]
}

fn samples(
    dtype: DType,
    shape: &[usize],
    n: usize,
    random: &mut Random,
) -> Vec<(Vec<usize>, Vec<u8>)> {
    let len = shape.iter().product();
    (0..n)
        .map(|_| (shape.to_vec(), elements(dtype, len, random)))
        .collect()
}

/// All values of a field, sample by sample, by random access.
fn by_get(dataset: &Dataset, field: &str) -> Result<Vec<Vec<u8>>> {
    (0..dataset.len())
        .map(|i| Ok(dataset.get(i)?.tensor(field)?.data().to_vec()))
        .collect()
}

/// All values of a field by the loader, in the order of sample ids.
fn by_loader(path: &Path, field: &str, shuffle: Shuffle, io: IoMode) -> Result<Vec<Vec<u8>>> {
    let builder = Loader::builder()
        .fields([field])
        .shuffle(shuffle)
        .io(io)
        .num_workers(2);
    let mut out = Vec::new();
    for batch in collect(builder, path, 5)? {
        for (i, &id) in batch.sample_ids().iter().enumerate() {
            out.push((id, batch.field(field)?.sample(i)?.data().to_vec()));
        }
    }
    out.sort_by_key(|(id, _)| *id);
    assert!(
        out.iter().map(|(id, _)| *id).eq(0..out.len() as u64),
        "every sample once"
    );
    Ok(out.into_iter().map(|(_, bytes)| bytes).collect())
}

#[test]
fn lossless_is_bit_exact_for_every_dtype_shape_codec_and_filter() -> Result<()> {
    let mut random = random(1);
    let filters: [&[FilterId]; 6] = [
        &[],
        &[FilterId::BYTE_SHUFFLE],
        &[FilterId::BIT_SHUFFLE],
        &[FilterId::DELTA],
        &[FilterId::PREDICT],
        &[
            FilterId::DELTA,
            FilterId::BYTE_SHUFFLE,
            FilterId::BIT_SHUFFLE,
        ],
    ];
    let mut case = 0;
    for dtype in DType::all() {
        for shape in shapes() {
            let n = if shape.len() == 3 && shape[1] > 1 {
                2
            } else {
                23
            };
            let data = samples(dtype, &shape, n, &mut random);
            // Every codec and filter meets every dtype over the shapes; the full product would take minutes.
            let codec = CODECS[case % CODECS.len()];
            let filter = filters[case % filters.len()];
            case += 1;
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("d");
            let field = FieldSpec::new("x", dtype, &shape)
                .codec(CodecSpec::new(codec))
                .filters(filter);
            write_one_field(
                ShardWriter::builder().samples_per_chunk(4).num_workers(2),
                &path,
                field,
                dtype,
                &data,
            )?;
            let dataset = Dataset::open(&path)?;
            let expected: Vec<Vec<u8>> = data.into_iter().map(|(_, bytes)| bytes).collect();
            assert_eq!(
                by_get(&dataset, "x")?,
                expected,
                "{dtype} {shape:?} {codec}"
            );
            for shuffle in [
                Shuffle::None,
                Shuffle::Windowed { window: 2 },
                Shuffle::Exact,
            ] {
                for io in [IoMode::Mmap, IoMode::Read] {
                    assert_eq!(
                        by_loader(&path, "x", shuffle, io)?,
                        expected,
                        "{dtype} {shape:?} {shuffle:?}"
                    );
                }
            }
            assert!(dataset.verify(&|_| ()).is_intact());
        }
    }
    Ok(())
}

/// Elements that differ little from their neighbours: codecs and filters find something.
fn smooth(dtype: DType, len: usize, random: &mut Random) -> Vec<u8> {
    let mut walk = 100i64;
    let mut out = Vec::new();
    for _ in 0..len {
        walk += i64::try_from(random.below(7)).unwrap() - 3;
        match dtype {
            DType::F32 => out.extend((walk as f32 / 16.0).to_le_bytes()),
            _ => out.extend(&walk.to_le_bytes()[..dtype.size()]),
        }
    }
    out
}

/// Pieces are decoded and unfiltered in steps of some KiB: samples of less and more, and more than a piece, with lines and
/// planes of less and more, scattered and in order.
#[test]
fn filters_are_undone_in_steps_of_any_part_of_a_sample() -> Result<()> {
    let mut random = random(21);
    let cases: [(DType, &[usize], &str, Option<usize>); 21] = [
        (DType::U8, &[3, 64, 64], "predict:2d:channel=0", None),
        (
            DType::U8,
            &[3, 64, 64],
            "predict:2d:channel=0:reference=1",
            None,
        ),
        (DType::I8, &[4, 32, 32], "predict:2d", None),
        (DType::U8, &[64, 64, 3], "predict:2d:channel=2", None),
        (DType::U8, &[4, 16, 16], "predict:2d:zigzag", None),
        (DType::U8, &[200, 100], "predict:2d:zigzag", None),
        (DType::U8, &[120, 256], "predict:2d", None),
        (DType::I8, &[7, 60, 128], "predict:3d", None),
        (DType::I16, &[160, 320], "predict:2d:zigzag", Some(2)),
        (DType::U8, &[3, 9000], "predict:left", None),
        (DType::U8, &[300, 33], "predict:up:zigzag", None),
        (DType::U8, &[1100, 64], "predict:2d", None),
        (DType::I8, &[20, 30, 31], "predict:3d", None),
        (DType::I16, &[10, 64, 64], "predict:3d:zigzag", Some(2)),
        (
            DType::I16,
            &[2, 300, 64],
            "predict:2d:channel=0:reference=none",
            None,
        ),
        (
            DType::I32,
            &[3, 20, 12],
            "predict:2d:channel=2:reference=none",
            Some(4),
        ),
        (DType::I64, &[70, 90], "predict:2d", None),
        (
            DType::F32,
            &[90, 100],
            "float_order,predict:2d:zigzag",
            Some(4),
        ),
        (
            DType::F32,
            &[200, 128],
            "float_order,predict:2d:zigzag",
            Some(4),
        ),
        (
            DType::F32,
            &[60, 50],
            "float_order,predict:2d,byte_shuffle",
            None,
        ),
        (
            DType::F32,
            &[60, 50],
            "float_order,predict:2d,predict:up",
            Some(4),
        ),
    ];
    for (case, (dtype, shape, filters, planes)) in cases.into_iter().enumerate() {
        let len: usize = shape.iter().product();
        // Of some, more than caches hold.
        let n = if len == 70_400 { 300 } else { 11 };
        let data: Vec<(Vec<usize>, Vec<u8>)> = (0..n)
            .map(|_| (shape.to_vec(), smooth(dtype, len, &mut random)))
            .collect();
        let expected: Vec<Vec<u8>> = data.iter().map(|(_, bytes)| bytes.clone()).collect();
        let specs = filters.split(',').map(FilterSpec::parse);
        let specs = specs.collect::<Result<Vec<_>>>()?;
        for codec in ["prefix", "zstd", "none"] {
            let mut field = FieldSpec::new("x", dtype, shape).filter_specs(specs.clone());
            let codec = CodecSpec::parse(codec)?;
            field = match planes {
                Some(planes) => field.split(SplitId::BYTE_SPLIT).codecs(vec![codec; planes]),
                None => field.codec(codec),
            };
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("d");
            write_one_field(ShardWriter::builder(), &path, field, dtype, &data)?;
            let what = format!("case {case}: {dtype} {shape:?} {filters} {codec}");
            let dataset = Dataset::open(&path)?;
            assert!(by_get(&dataset, "x")? == expected, "{what}, by get");
            let ids: Vec<u64> = (0..30).map(|_| random.below(n) as u64).collect();
            for (sample, id) in dataset.get_many(&ids)?.iter().zip(&ids) {
                let expected = &expected[usize::try_from(*id).unwrap()];
                let found = sample.tensor("x")?;
                assert!(found.data() == expected.as_slice(), "{what}, sample {id}");
            }
            for shuffle in [Shuffle::None, Shuffle::Windowed { window: 2 }] {
                let found = by_loader(&path, "x", shuffle, IoMode::Mmap)?;
                assert!(found == expected, "{what}, {shuffle:?}");
            }
        }
    }
    Ok(())
}

#[test]
fn splits_are_bit_exact_for_every_element_size_shape_and_filter() -> Result<()> {
    let mut random = random(11);
    let filters: [&[FilterId]; 3] = [
        &[],
        &[FilterId::FLOAT_ORDER],
        &[FilterId::FLOAT_ORDER, FilterId::DELTA],
    ];
    let codecs = [
        "snappy",
        "prefix,none",
        "none",
        "prefix,prefix,lz4",
        "zstd,none",
    ];
    let mut case = 0;
    for dtype in DType::all().filter(|dtype| dtype.size() > 1) {
        for shape in shapes() {
            let n = if shape.len() == 3 && shape[1] > 1 {
                2
            } else {
                23
            };
            let data = samples(dtype, &shape, n, &mut random);
            let split = [SplitId::FLOAT_SPLIT, SplitId::BYTE_SPLIT][case % 2];
            let filter = filters[case % filters.len()];
            let codecs: Result<Vec<CodecSpec>> = codecs[case % codecs.len()]
                .split(',')
                .take(dtype.size())
                .map(CodecSpec::parse)
                .collect();
            case += 1;
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("d");
            let field = FieldSpec::new("x", dtype, &shape)
                .split(split)
                .codecs(codecs?)
                .filters(filter);
            write_one_field(
                ShardWriter::builder().samples_per_chunk(7).num_workers(2),
                &path,
                field,
                dtype,
                &data,
            )?;
            let dataset = Dataset::open(&path)?;
            let field = dataset.schema().field("x")?;
            assert_eq!(field.split(), Some(split));
            assert_eq!(field.codecs().len(), dtype.size());
            let expected: Vec<Vec<u8>> = data.into_iter().map(|(_, bytes)| bytes).collect();
            assert_eq!(by_get(&dataset, "x")?, expected, "{dtype} {shape:?}");
            for shuffle in [
                Shuffle::None,
                Shuffle::Windowed { window: 2 },
                Shuffle::Exact,
            ] {
                for io in [IoMode::Mmap, IoMode::Read] {
                    assert_eq!(
                        by_loader(&path, "x", shuffle, io)?,
                        expected,
                        "{dtype} {shape:?} {shuffle:?}"
                    );
                }
            }
            assert!(dataset.verify(&|_| ()).is_intact());
        }
    }
    Ok(())
}

#[test]
fn ragged_and_quantized_fields_can_be_split() -> Result<()> {
    let mut random = random(12);
    let dir = tempfile::tempdir().unwrap();
    let data: Vec<(Vec<usize>, Vec<u8>)> = [0usize, 3, 1, 40_000, 5, 90_000, 0, 2]
        .map(|n| (vec![n, 2], elements(DType::F32, 2 * n, &mut random)))
        .to_vec();
    let ragged = FieldSpec::ragged("x", DType::F32, [None, Some(2)]).split(SplitId::FLOAT_SPLIT);
    let path = dir.path().join("ragged");
    let builder = || ShardWriter::builder().samples_per_chunk(3);
    write_one_field(builder(), &path, ragged, DType::F32, &data)?;
    let expected: Vec<Vec<u8>> = data.iter().map(|(_, bytes)| bytes.clone()).collect();
    assert_eq!(by_get(&Dataset::open(&path)?, "x")?, expected);
    assert_eq!(
        by_loader(&path, "x", Shuffle::Exact, IoMode::Read)?,
        expected
    );

    // Two planes of 16-bit codes read as the codes in one.
    let data = samples(DType::F32, &[3, 50], 20, &mut random);
    let mut values = Vec::new();
    for (name, split) in [("whole", None), ("split", Some(SplitId::BYTE_SPLIT))] {
        let path = dir.path().join(name);
        let field = FieldSpec::new("x", DType::F32, [3, 50])
            .quantize(QuantSpec::int16().per_group(7))
            .split(split);
        write_one_field(builder(), &path, field, DType::F32, &data)?;
        values.push(by_get(&Dataset::open(&path)?, "x")?);
    }
    assert_eq!(values[0], values[1]);
    Ok(())
}

#[test]
fn splits_that_do_not_fit_are_refused() {
    let split = |field: FieldSpec| field.split(SplitId::FLOAT_SPLIT);
    let snappy = CodecSpec::default();
    for field in [
        split(FieldSpec::new("x", DType::U8, [4])),
        split(FieldSpec::any("x")),
        split(FieldSpec::string("x")),
        split(FieldSpec::new("x", DType::F32, [4])).quantize(QuantSpec::int4().per_sample()),
        split(FieldSpec::new("x", DType::F32, [4])).quantize(QuantSpec::int8().per_sample()),
        split(FieldSpec::new("x", DType::F16, [4])).codecs([snappy; 3]),
        FieldSpec::new("x", DType::F16, [4]).codecs([snappy; 2]),
        FieldSpec::new("x", DType::F16, [4]).codecs([]),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let made = ShardWriter::builder()
            .field(field)
            .create(dir.path().join("d"));
        let error = made.err().unwrap();
        assert!(
            matches!(error.kind(), ErrorKind::InvalidArgument { .. }),
            "{error}"
        );
    }
}

fn lossy_specs() -> Vec<QuantSpec> {
    let mut out = vec![
        QuantSpec::cast(DType::F16),
        QuantSpec::cast(DType::BF16),
        QuantSpec::cast(DType::F8E5M2),
    ];
    out.push(QuantSpec::cast(DType::F8E4M3FN));
    for scaled in [
        "fp8",
        "fp8-e5m2:per-group=5",
        "nf4:per-group=3",
        "mxfp8",
        "mxint8",
        "mxfp4",
    ] {
        out.push(QuantSpec::parse(scaled).unwrap());
    }
    out.push(QuantSpec::abs_error(0.02).bits(8));
    out.push(QuantSpec::abs_error(1e-3).range(-6.0, 6.0));
    out.push(QuantSpec::rel_error(1e-6).range(-6.0, 6.0));
    for base in [
        QuantSpec::int8(),
        QuantSpec::uint8(),
        QuantSpec::int4(),
        QuantSpec::int16(),
    ] {
        out.push(base.clone().per_sample());
        out.push(base.clone().asymmetric().per_sample());
        out.push(base.clone().per_group(3).scale_dtype(DType::F16));
        out.push(base.asymmetric().per_group(32).scale_dtype(DType::BF16));
    }
    out
}

fn to_f64(dtype: DType, bytes: &[u8]) -> Vec<f64> {
    bytes
        .chunks_exact(dtype.size())
        .map(|b| match dtype {
            DType::F16 => f64::from(half::f16::from_le_bytes([b[0], b[1]])),
            DType::BF16 => f64::from(half::bf16::from_le_bytes([b[0], b[1]])),
            DType::F32 => f64::from(f32::from_le_bytes(b.try_into().unwrap())),
            _ => f64::from_le_bytes(b.try_into().unwrap()),
        })
        .collect()
}

#[test]
fn lossy_records_the_true_error_and_all_doors_agree() -> Result<()> {
    let mut random = random(2);
    for spec in lossy_specs() {
        for dtype in [DType::F16, DType::BF16, DType::F32, DType::F64] {
            if spec.resolve(dtype, Some(1)).is_err() {
                continue; // a cast to the source dtype
            }
            for shape in shapes() {
                let n = if shape.iter().product::<usize>() > 1000 {
                    2
                } else {
                    11
                };
                let data = samples(dtype, &shape, n, &mut random);
                let dir = tempfile::tempdir().unwrap();
                let path = dir.path().join("d");
                let field = FieldSpec::new("x", dtype, &shape).quantize(spec.clone());
                write_one_field(
                    ShardWriter::builder().samples_per_chunk(4),
                    &path,
                    field,
                    dtype,
                    &data,
                )?;
                let dataset = Dataset::open(&path)?;
                let got = by_get(&dataset, "x")?;
                let mut worst = 0f64;
                let mut sum = 0f64;
                let mut count = 0u64;
                for ((_, source), decoded) in data.iter().zip(&got) {
                    for (a, b) in to_f64(dtype, source)
                        .into_iter()
                        .zip(to_f64(dtype, decoded))
                    {
                        worst = worst.max((a - b).abs());
                        sum += (a - b) * (a - b);
                        count += 1;
                    }
                }
                let report = dataset.inspect()?.fields[0].error.unwrap();
                assert_eq!(report.max_abs_error, worst, "{spec} {dtype} {shape:?}");
                assert_eq!(report.count, count);
                if count > 0 {
                    let rmse = (sum / count as f64).sqrt();
                    assert!(
                        (report.rmse - rmse).abs() <= 1e-9 * rmse,
                        "{spec} {dtype} {shape:?}"
                    );
                }
                for shuffle in [Shuffle::None, Shuffle::windowed(), Shuffle::Exact] {
                    assert_eq!(
                        by_loader(&path, "x", shuffle, IoMode::Auto)?,
                        got,
                        "{spec} {dtype} {shape:?}"
                    );
                }
            }
        }
    }
    Ok(())
}

#[test]
fn static_scales_are_used_and_values_beyond_them_are_refused() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let shape = [3usize, 5];
    let data: Vec<f32> = (0..15).map(|i| i as f32 / 10.0).collect();
    let bytes = to_le_bytes(&data);
    let spec = QuantSpec::int8().per_channel(0);
    let field = FieldSpec::new("x", DType::F32, shape).quantize(spec);
    let mut calibrator = field.calibrator()?;
    calibrator.observe(&bytes)?;
    let spec = calibrator.finish();
    assert_eq!(spec.given_scales().map(|given| given.scales.len()), Some(3));
    let field = field.quantize(spec);
    let path = dir.path().join("d");
    write_one_field(
        ShardWriter::builder(),
        &path,
        field.clone(),
        DType::F32,
        &[(shape.to_vec(), bytes.clone())],
    )?;
    let got: Vec<f32> = Dataset::open(&path)?.get(0)?.tensor("x")?.to_vec()?;
    assert!(got.iter().zip(&data).all(|(a, b)| (a - b).abs() < 0.006));

    let mut beyond = data;
    beyond[7] = 100.0;
    let samples = [
        (shape.to_vec(), bytes),
        (shape.to_vec(), to_le_bytes(&beyond)),
    ];
    let refused = write_one_field(
        ShardWriter::builder(),
        &dir.path().join("e"),
        field,
        DType::F32,
        &samples,
    );
    let message = refused.unwrap_err().to_string();
    assert!(
        message.contains("100") && message.contains("sample 1") && message.contains("\"x\""),
        "{message}"
    );
    assert!(!dir.path().join("e").exists(), "nothing is left behind");
    Ok(())
}

#[test]
fn patches_restore_what_a_quantizer_cannot_hold() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("d");
    let mut values: Vec<f32> = (0..50).map(|i| (i as f32).sin()).collect();
    values[3] = f32::NAN;
    values[17] = f32::INFINITY;
    values[49] = f32::NEG_INFINITY;
    let sample = (vec![50], to_le_bytes(&values));
    let field = FieldSpec::new("x", DType::F32, [50])
        .quantize(QuantSpec::int8().non_finite(NonFinite::Patch));
    write_one_field(
        ShardWriter::builder(),
        &path,
        field,
        DType::F32,
        &[sample.clone(), sample.clone(), sample],
    )?;
    for bytes in by_get(&Dataset::open(&path)?, "x")? {
        let got = to_f64(DType::F32, &bytes);
        assert!(got[3].is_nan() && got[17] == f64::INFINITY && got[49] == f64::NEG_INFINITY);
        assert!(
            got.iter()
                .zip(&values)
                .filter(|(a, _)| a.is_finite())
                .all(|(a, &b)| (a - f64::from(b)).abs() < 0.005)
        );
    }
    for shuffle in [Shuffle::None, Shuffle::Exact] {
        let builder = Loader::builder().shuffle(shuffle).dtype(DType::F64);
        for batch in collect(builder, &path, 2)? {
            assert!(batch.field("x")?.as_slice::<f64>()?[17] == f64::INFINITY);
        }
    }
    Ok(())
}

#[test]
fn largest_errors_hold_for_every_element_of_ragged_fields_too() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let mut random = random(11);
    let field = FieldSpec::ragged("x", DType::F32, [None, Some(5)])
        .quantize(QuantSpec::psnr(50.0))
        .filters([FilterId::DELTA]);
    let mut calibrator = field.calibrator()?;
    let mut data = Vec::new();
    for i in 0..40usize {
        let rows = random.below(7);
        let mut x: Vec<f32> = (0..rows * 5)
            .map(|_| 1000.0 + random.normal() as f32)
            .collect();
        if i % 3 == 0 {
            for (x, odd) in x
                .iter_mut()
                .zip([f32::NAN, f32::INFINITY, f32::NEG_INFINITY])
            {
                *x = odd;
            }
        }
        let bytes = to_le_bytes(&x);
        calibrator.observe(&bytes)?;
        data.push((vec![rows, 5], bytes));
    }
    assert!(
        ShardWriter::builder()
            .field(field.clone())
            .create(dir.path().join("no"))
            .is_err()
    );
    let field = field.quantize(calibrator.finish());
    let path = dir.path().join("d");
    write_one_field(
        ShardWriter::builder().samples_per_chunk(7),
        &path,
        field,
        DType::F32,
        &data,
    )?;
    let dataset = Dataset::open(&path)?;
    let QuantParams::AbsError(p) = *dataset.schema().fields()[0].quantizer() else {
        panic!("another quantizer");
    };
    assert_eq!(p.bits, 8);
    assert!((-150_000..-1000).contains(&p.zero_point));
    for ((_, source), decoded) in data.iter().zip(by_get(&dataset, "x")?) {
        let both = to_f64(DType::F32, source)
            .into_iter()
            .zip(to_f64(DType::F32, &decoded));
        for (i, (a, b)) in both.enumerate() {
            assert!(
                (a - b).abs() <= p.max_error
                    || source[4 * i..4 * i + 4] == decoded[4 * i..4 * i + 4]
            );
        }
    }
    let error = dataset.inspect()?.fields[0].error.unwrap();
    assert!(error.max_abs_error <= p.max_error && error.non_finite > 0);
    let quantized = Loader::builder().output("x", FieldOutput::new().quantized());
    let message = quantized.open(&path).map(|_| ()).unwrap_err().to_string();
    assert!(message.contains("dequantized"), "{message}");
    Ok(())
}

#[test]
fn a_bound_that_most_elements_miss_names_the_field_and_a_better_one() {
    let dir = tempfile::tempdir().unwrap();
    let x: Vec<f32> = (0..1000).map(|i| 1000.0 + i as f32 * 0.37).collect();
    let field =
        FieldSpec::new("height", DType::F32, [1000]).quantize(QuantSpec::abs_error(1e-9).bits(32));
    let refused = write_one_field(
        ShardWriter::builder(),
        &dir.path().join("d"),
        field,
        DType::F32,
        &[(vec![1000], to_le_bytes(&x))],
    );
    let message = refused.unwrap_err().to_string();
    assert!(
        message.contains("\"height\"") && message.contains("at least 6.5e-5"),
        "{message}"
    );
}

#[test]
fn non_finite_values_are_an_error_by_default() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("d");
    let sample = (vec![2], to_le_bytes(&[1.0f32, f32::NAN]));
    let field = FieldSpec::new("x", DType::F32, [2]).quantize(QuantSpec::int8());
    let error =
        write_one_field(ShardWriter::builder(), &path, field, DType::F32, &[sample]).unwrap_err();
    assert!(
        matches!(error.kind(), ErrorKind::Unrepresentable { .. }),
        "{error}"
    );
    assert!(!path.exists());
}

#[test]
fn ragged_text_and_free_tensors_round_trip() -> Result<()> {
    let mut random = random(3);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("d");
    let mut writer = ShardWriter::builder()
        .field(FieldSpec::key("name"))
        .field(FieldSpec::any("weight"))
        .field(FieldSpec::bytes("raw"))
        .field(FieldSpec::any_shape("state", DType::F32).quantize(QuantSpec::int8()))
        .field(
            FieldSpec::ragged("tokens", DType::F32, [None, Some(6)])
                .quantize(QuantSpec::int4().per_group(4)),
        )
        .field(
            FieldSpec::ragged("map", DType::F16, [Some(3), None, None])
                .quantize(QuantSpec::uint8().asymmetric().per_channel(1)),
        )
        .samples_per_chunk(6)
        .create(&path)?;
    let dtypes: Vec<DType> = DType::all().collect();
    let mut expected = Vec::new();
    for i in 0..40usize {
        let dtype = dtypes[i % dtypes.len()];
        let rank = random.below(4);
        let shape: Vec<usize> = (0..rank)
            .map(|_| random.below(if i == 11 { 60 } else { 6 }))
            .collect();
        let weight = elements(dtype, shape.iter().product(), &mut random);
        let raw = elements(
            DType::U8,
            if i == 20 { 200_000 } else { random.below(30) },
            &mut random,
        );
        let tokens = random.below(9);
        let token_values = elements(DType::F32, tokens * 6, &mut random);
        let (h, w) = (random.below(5), random.below(5));
        let map = elements(DType::F16, 3 * h * w, &mut random);
        let state = elements(DType::F32, shape.iter().product(), &mut random);
        let name = format!("layer.{i}");
        writer.append(&[
            (
                "name",
                TensorView::new(DType::U8, &[name.len()], name.as_bytes())?,
            ),
            ("weight", TensorView::new(dtype, &shape, &weight)?),
            ("raw", TensorView::new(DType::U8, &[raw.len()], &raw)?),
            ("state", TensorView::new(DType::F32, &shape, &state)?),
            (
                "tokens",
                TensorView::new(DType::F32, &[tokens, 6], &token_values)?,
            ),
            ("map", TensorView::new(DType::F16, &[3, h, w], &map)?),
        ])?;
        expected.push((name, dtype, shape, weight, raw, tokens, [3, h, w]));
    }
    writer.finish()?;
    let dataset = Dataset::open(&path)?;
    assert_eq!(
        dataset.schema().key_field().map(|field| field.kind()),
        Some(Kind::String)
    );
    for (i, (name, dtype, shape, weight, raw, tokens, map)) in expected.iter().enumerate() {
        let sample = dataset.get(i as u64)?;
        assert_eq!(sample.key(), Some(name.as_bytes()));
        assert_eq!(sample.text("name")?, name);
        let tensor = sample.tensor("weight")?;
        assert_eq!(
            (tensor.dtype(), tensor.shape(), tensor.data().as_ref()),
            (*dtype, shape.as_slice(), weight.as_slice())
        );
        assert_eq!(sample.tensor("raw")?.data(), raw);
        assert_eq!(sample.tensor("tokens")?.shape(), [*tokens, 6]);
        assert_eq!(sample.tensor("map")?.shape(), map);
    }
    // Batches agree with random access.
    for shuffle in [
        Shuffle::None,
        Shuffle::Windowed { window: 3 },
        Shuffle::Exact,
    ] {
        for batch in collect(Loader::builder().shuffle(shuffle), &path, 7)? {
            for (i, &id) in batch.sample_ids().iter().enumerate() {
                let sample = dataset.get(id)?;
                for (field, tensor) in sample.fields() {
                    let view = batch.field(field.name())?.sample(i)?;
                    assert_eq!(view.shape(), tensor.shape());
                    assert_eq!(view.dtype(), tensor.dtype());
                    assert_eq!(
                        view.data(),
                        tensor.data().as_ref(),
                        "{shuffle:?} {} of {id}",
                        field.name()
                    );
                }
            }
        }
    }
    // Padded batches hold the same values, and zeros.
    let padded = FieldOutput::new().ragged(Ragged::Padded);
    for batch in collect(
        Loader::builder()
            .fields(["map"])
            .output("map", padded)
            .shuffle(Shuffle::Exact),
        &path,
        7,
    )? {
        let field = batch.field("map")?;
        let (mask_shape, mask) = field.mask().unwrap();
        assert_eq!(mask_shape[0], batch.len());
        let (height, width) = (field.shape()[2], field.shape()[3]);
        for (i, &id) in batch.sample_ids().iter().enumerate() {
            let tensor = dataset.get(id)?;
            let tensor = tensor.tensor("map")?;
            let values = tensor.data();
            let slot = field.sample(i)?.data();
            let (h, w) = (tensor.shape()[1], tensor.shape()[2]);
            for c in 0..3 {
                for y in 0..height {
                    for x in 0..width {
                        let at = ((c * height + y) * width + x) * 2;
                        let inside = y < h && x < w;
                        let from = ((c * h + y) * w + x) * 2;
                        let expected = if inside {
                            &values[from..from + 2]
                        } else {
                            &[0, 0]
                        };
                        assert_eq!(&slot[at..at + 2], expected);
                        assert_eq!(mask[(i * height + y) * width + x], u8::from(inside));
                    }
                }
            }
        }
    }
    Ok(())
}

#[test]
fn extend_and_append_write_the_same() -> Result<()> {
    let mut random = random(4);
    let dir = tempfile::tempdir().unwrap();
    let x = elements(DType::F32, 1000 * 6, &mut random);
    let y = elements(DType::U16, 1000, &mut random);
    let builder = || {
        ShardWriter::builder()
            .field(FieldSpec::new("x", DType::F32, [2, 3]))
            .field(FieldSpec::new("y", DType::U16, []))
            .samples_per_chunk(37)
            .shard_ids_from(5)
    };
    let mut one = builder().create(dir.path().join("one"))?;
    one.extend(&[
        ("x", TensorView::new(DType::F32, &[1000, 2, 3], &x)?),
        ("y", TensorView::new(DType::U16, &[1000], &y)?),
    ])?;
    one.finish()?;
    let mut two = builder().num_workers(3).create(dir.path().join("two"))?;
    for i in 0..1000 {
        two.append(&[
            ("y", TensorView::new(DType::U16, &[], &y[i * 2..i * 2 + 2])?),
            (
                "x",
                TensorView::new(DType::F32, &[2, 3], &x[i * 24..i * 24 + 24])?,
            ),
        ])?;
    }
    two.finish()?;
    let mut names: Vec<_> = std::fs::read_dir(dir.path().join("one"))
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    names.sort();
    assert_eq!(names.len(), 2);
    for name in names {
        let read = |folder: &str| std::fs::read(dir.path().join(folder).join(&name)).unwrap();
        assert!(read("one") == read("two"), "{name:?} differs");
    }
    Ok(())
}

#[test]
fn output_dtypes_convert_and_normalize() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("d");
    let dataset = small_dataset(&path, 50, ShardWriter::builder().samples_per_chunk(8))?;
    let (mean, std) = ([0.4, 0.5, 0.6], [0.2, 0.25, 0.3]);
    let output = FieldOutput::new().normalize(1.0 / 255.0, &mean, &std, 0);
    let half_output = output.clone().dtype(DType::F16);
    for batch in collect(
        Loader::builder().fields(["image"]).output("image", output),
        &path,
        16,
    )? {
        let values = batch.field("image")?.as_slice::<f32>()?;
        for (i, &id) in batch.sample_ids().iter().enumerate() {
            let source = dataset.get(id)?;
            for (j, &x) in source.tensor("image")?.data().iter().enumerate() {
                let c = j / 64;
                let expected = ((f64::from(x) * (1.0 / 255.0) - mean[c]) / std[c]) as f32;
                assert_eq!(values[i * 192 + j], expected);
            }
        }
    }
    for batch in collect(
        Loader::builder()
            .fields(["image"])
            .output("image", half_output),
        &path,
        16,
    )? {
        assert_eq!(
            batch.field("image")?.as_slice::<half::f16>()?.len(),
            batch.len() * 192
        );
    }
    // Labels as f32, latents as bf16, everything else untouched.
    let builder = Loader::builder()
        .dtype(DType::BF16)
        .output("label", FieldOutput::new().dtype(DType::F32));
    for batch in collect(builder, &path, 16)? {
        let labels = batch.field("label")?.as_slice::<f32>()?;
        assert!(
            batch
                .sample_ids()
                .iter()
                .zip(labels)
                .all(|(&id, &x)| x == id as f32)
        );
        let latents = batch.field("latent")?.as_slice::<half::bf16>()?;
        let exact = dataset
            .get(batch.sample_ids()[0])?
            .tensor("latent")?
            .to_vec::<f32>()?;
        assert!(
            exact
                .iter()
                .zip(latents)
                .all(|(&a, &b)| half::bf16::from_f32(a).to_bits() == b.to_bits())
        );
    }
    // Quantized: codes and scales give the dequantized values.
    let builder = Loader::builder()
        .fields(["latent"])
        .output("latent", FieldOutput::new().quantized());
    for batch in collect(builder.shuffle(Shuffle::windowed()), &path, 16)? {
        let field = batch.field("latent")?;
        let (codes, scales) = (field.as_slice::<i8>()?, field.scales().unwrap());
        for (i, &id) in batch.sample_ids().iter().enumerate() {
            let exact = dataset.get(id)?.tensor("latent")?.to_vec::<f32>()?;
            for (j, &x) in exact.iter().enumerate() {
                assert_eq!(f32::from(codes[i * 24 + j]) * scales[i], x);
            }
        }
    }
    Ok(())
}

#[test]
fn every_preset_writes_every_dtype() -> Result<()> {
    let mut random = random(6);
    for preset in Preset::all() {
        for dtype in DType::all() {
            for shape in [vec![], vec![5], vec![3, 4]] {
                let dir = tempfile::tempdir().unwrap();
                let path = dir.path().join("d");
                let field = preset.apply(FieldSpec::new("x", dtype, &shape), NonFinite::Error);
                let data = samples(dtype, &shape, 9, &mut random);
                let field = if field.needs_calibration() {
                    let mut calibrator = field.calibrator()?;
                    data.iter()
                        .try_for_each(|(_, bytes)| calibrator.observe(bytes))?;
                    field.quantize(calibrator.finish())
                } else {
                    field
                };
                write_one_field(ShardWriter::builder(), &path, field, dtype, &data)?;
                let dataset = Dataset::open(&path)?;
                assert_eq!(dataset.len(), 9);
                assert!(dataset.verify(&|_| ()).is_intact());
                if !dataset.schema().fields()[0].is_lossy() {
                    assert_eq!(
                        by_get(&dataset, "x")?,
                        data.into_iter().map(|(_, b)| b).collect::<Vec<_>>()
                    );
                }
            }
        }
    }
    Ok(())
}

#[test]
fn growing_ragged_samples_do_not_make_giant_chunks() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("d");
    let builder = ShardWriter::builder().chunk_bytes(1000);
    let mut samples: Vec<(Vec<usize>, Vec<u8>)> =
        (0..400).map(|_| (vec![10], vec![1; 10])).collect();
    samples.extend((0..400).map(|_| (vec![5000], vec![2; 5000])));
    write_one_field(builder, &path, FieldSpec::bytes("x"), DType::U8, &samples)?;
    let dataset = Dataset::open(&path)?;
    let report = dataset.inspect()?;
    assert!(report.shards.len() > 1);
    assert!(report.num_chunks > 300, "{} chunks", report.num_chunks);
    assert_eq!(
        by_get(&dataset, "x")?,
        samples.into_iter().map(|(_, b)| b).collect::<Vec<_>>()
    );
    Ok(())
}

#[test]
fn single_shard_opens_on_its_own() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("d");
    let dataset = small_dataset(&path, 30, ShardWriter::builder().samples_per_chunk(8))?;
    let shard = std::fs::read_dir(&path)
        .unwrap()
        .map(|e| e.unwrap().path())
        .find(|p| p.extension().is_some_and(|e| e == "tshard"));
    let shard = shard.unwrap();
    let alone = Dataset::open(&shard)?;
    let in_memory = Dataset::builder().open_bytes(std::fs::read(&shard).unwrap())?;
    for i in 0..30 {
        assert!(alone.get(i)?.same_values(&dataset.get(i)?));
        assert!(in_memory.get(i)?.same_values(&dataset.get(i)?));
    }
    Ok(())
}

#[test]
fn get_many_keeps_order_and_repeats() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let dataset = small_dataset(
        &dir.path().join("d"),
        60,
        ShardWriter::builder().samples_per_chunk(8),
    )?;
    let indices = [59, 3, 3, 17, 0, 41, 40, 3];
    let ids: Vec<u64> = dataset
        .get_many(&indices)?
        .iter()
        .map(|sample| sample.id())
        .collect();
    assert_eq!(ids, indices);
    assert!(dataset.get(60).is_err());
    assert!(dataset.get_many(&[]).unwrap().is_empty());
    let labels = dataset.select(["label"])?;
    assert_eq!(labels.get(17)?.fields().count(), 1);
    assert!(
        dataset
            .select(["nope"])
            .unwrap_err()
            .to_string()
            .contains("image")
    );
    Ok(())
}

#[test]
fn empty_dataset_is_a_dataset() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("d");
    ShardWriter::builder()
        .field(FieldSpec::new("x", DType::F32, [3]))
        .create(&path)?
        .finish()?;
    let dataset = Dataset::open(&path)?;
    assert!(dataset.is_empty());
    let batches: Vec<Batch> = collect(Loader::builder(), &path, 4)?;
    assert!(batches.is_empty());
    assert!(dataset.verify(&|_| ()).is_intact());
    Ok(())
}

#[cfg(feature = "ndarray")]
#[test]
fn batches_are_ndarray_views() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("d");
    let dataset = small_dataset(&path, 20, ShardWriter::builder())?;
    for batch in collect(Loader::builder(), &path, 8)? {
        let images = batch.field("image")?.array::<u8>()?;
        assert_eq!(images.shape(), [batch.len(), 3, 8, 8]);
        let first = dataset.get(batch.sample_ids()[0])?;
        assert_eq!(images[[0, 2, 7, 7]], first.tensor("image")?.data()[191]);
        assert!(batch.field("image")?.array::<f32>().is_err());
    }
    Ok(())
}
