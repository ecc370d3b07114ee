//! Windows and packed samples of every encoding, of datasets that grow, and of files that are damaged or made to do harm.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]
#![expect(
    clippy::cast_possible_truncation,
    reason = "small numbers made for tests"
)]

mod common;

use std::fs;
use std::path::Path;

use common::forge::{Forge, first_shard};
use common::{CODECS, Random, elements};
use tensorshard::{
    Batch, CodecSpec, DType, Damaged, Dataset, Error, ErrorKind, FieldSpec, FilterId, Loader,
    LoaderBuilder, Pack, QuantSpec, Result, Sample, ShardWriter, Shuffle, SplitId, TensorView,
    Windows, to_le_bytes,
};

/// Compares the windows of field `x` with slices of whole samples.
fn check(batch: &Batch, samples: &[Sample], length: usize) -> Result<()> {
    let starts = batch.window_starts().unwrap();
    for (i, (&id, &start)) in batch.sample_ids().iter().zip(starts).enumerate() {
        let whole = samples[id as usize].tensor("x")?;
        let step = whole.data().len() / whole.shape()[0];
        let part = &whole.data()[start as usize * step..][..length * step];
        assert_eq!(batch.field("x")?.sample(i)?.data(), part, "{id} {start}");
    }
    Ok(())
}

#[test]
fn windows_of_every_encoding_are_slices_of_whole_samples() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    // Samples of about 8 pieces, and of a few in a piece.
    for steps in [2_000, 40] {
        let f32s = |shape: [Option<usize>; 2]| FieldSpec::ragged("x", DType::F32, shape);
        let fixed = || f32s([Some(steps), Some(64)]);
        let ragged = || f32s([None, Some(64)]);
        let quantized =
            |spec: &str| -> Result<FieldSpec> { Ok(fixed().quantize(QuantSpec::parse(spec)?)) };
        let fields = [
            fixed().codec(CodecSpec::parse("none")?),
            fixed(),
            ragged(),
            fixed()
                .filters([FilterId::DELTA])
                .codec(CodecSpec::parse("lz4")?),
            ragged().filters([FilterId::BYTE_SHUFFLE]),
            fixed().split(SplitId::FLOAT_SPLIT),
            ragged().split(SplitId::FLOAT_SPLIT),
            quantized("int8")?,
            quantized("int8:per-group=48")?,
            quantized("int4:per-group=32")?,
            quantized("uint8:asym:per-channel=1")?,
            quantized("abs_error:1e-2")?,
            ragged().quantize(QuantSpec::parse("int8:per-sample")?),
            ragged().quantize(QuantSpec::parse("int4:per-group=6")?),
        ];
        for (n, field) in fields.into_iter().enumerate() {
            let path = dir.path().join(format!("{steps}-{n}"));
            let mut random = Random(n as u64);
            let data: Vec<Vec<u8>> = (0..5)
                .map(|_| elements(DType::F32, steps * 64, &mut random))
                .collect();
            let mut field = field;
            if field.needs_calibration() {
                let mut calibrator = field.calibrator()?;
                data.iter().try_for_each(|x| calibrator.observe(x))?;
                field = field.quantize(calibrator.finish());
            }
            let mut writer = ShardWriter::builder()
                .samples_per_chunk(2)
                .field(field)
                .create(&path)?;
            for x in &data {
                writer.append(&[("x", TensorView::new(DType::F32, &[steps, 64], x)?)])?;
            }
            writer.finish()?;
            let dataset = Dataset::open(&path)?;
            let samples = dataset.get_many(&[0, 1, 2, 3, 4])?;
            for shuffle in [Shuffle::Windowed { window: 2 }, Shuffle::Exact] {
                // Few of the windows, so that pieces are left out, and all.
                for stride in [steps / 3, 19] {
                    let loader = Loader::builder()
                        .windows(Windows::new(13).stride(stride))
                        .shuffle(shuffle)
                        .prefetch(2)
                        .num_workers(2)
                        .open_dataset(&dataset)?;
                    let mut seen = 0;
                    for batch in loader.batches(4) {
                        let batch = batch?;
                        check(&batch, &samples, 13)?;
                        seen += batch.len();
                    }
                    assert_eq!(seen, 5 * ((steps - 13) / stride + 1), "{n}");
                }
            }
        }
    }
    Ok(())
}

/// Appends samples of so many tokens.
fn append(path: &Path, grown: bool, lens: &[usize]) -> Result<()> {
    let builder = ShardWriter::builder().samples_per_chunk(3);
    let mut writer = match grown {
        true => builder.append_to(path)?,
        false => builder
            .field(FieldSpec::ragged("x", DType::U16, [None]))
            .create(path)?,
    };
    for (i, &n) in lens.iter().enumerate() {
        let values: Vec<u16> = (0..n).map(|t| (i * 100 + t) as u16).collect();
        writer.append(&[(
            "x",
            TensorView::new(DType::U16, &[n], &to_le_bytes(&values))?,
        )])?;
    }
    writer.finish()?;
    Ok(())
}

#[test]
fn a_resumed_epoch_ends_on_the_samples_it_began_with() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    type Cut = fn(LoaderBuilder) -> LoaderBuilder;
    let cuts: [Cut; 2] = [
        |b| b.windows(Windows::new(4).stride(1)),
        |b| b.pack(Pack::new("x", 7).separator(1).pad(0)),
    ];
    for (n, cut) in cuts.into_iter().enumerate() {
        for (m, shuffle) in [Shuffle::None, Shuffle::windowed(), Shuffle::Exact]
            .into_iter()
            .enumerate()
        {
            let path = dir.path().join(format!("{n}{m}"));
            let lens: Vec<usize> = (0..40).map(|i| i * 7 % 11).collect();
            append(&path, false, &lens)?;
            let open = || cut(Loader::builder()).shuffle(shuffle).open(&path);
            let content = |batches: &[Batch]| -> Vec<(u64, Vec<u64>, Vec<u8>)> {
                let of = |b: &Batch| {
                    let data = b.field("x").unwrap().data().to_vec();
                    (b.index(), b.sample_ids().to_vec(), data)
                };
                batches.iter().map(of).collect()
            };
            let before = open()?;
            let expected = content(&before.batches(5).collect::<Result<Vec<_>>>()?);
            before.batches(5).take(2).collect::<Result<Vec<_>>>()?;
            let state = before.state()?;
            // Longer samples than all before: more windows a sample.
            append(&path, true, &[30, 0, 25])?;
            let mut after = open()?;
            assert!(after.num_samples() > before.num_samples());
            after.load_state(&state)?;
            assert_eq!(after.num_samples(), before.num_samples());
            let found = content(&after.batches(5).collect::<Result<Vec<_>>>()?);
            assert_eq!(found, expected[2..]);
            after.set_epoch(1);
            assert!(after.num_samples() > before.num_samples());
            assert!(after.batches(5).all(|batch| batch.is_ok()));
        }
    }
    Ok(())
}

#[test]
fn damaged_chunks_are_skipped_with_all_their_windows() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("d");
    let mut writer = ShardWriter::builder()
        .samples_per_chunk(4)
        .field(FieldSpec::new("x", DType::U8, [9]).codec(CodecSpec::parse("none")?))
        .create(&path)?;
    for i in 0..20 {
        writer.append(&[("x", TensorView::new(DType::U8, &[9], &[200 + i; 9])?)])?;
    }
    writer.finish()?;
    let shard = fs::read_dir(&path)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some_and(|e| e == "tshard"))
        .unwrap();
    let mut bytes = fs::read(&shard).unwrap();
    let at = bytes.windows(9).position(|w| w == [206; 9]).unwrap();
    bytes[at] ^= 1;
    fs::write(&shard, bytes).unwrap();
    let base = || Loader::builder().windows(Windows::new(4).stride(2));
    for shuffle in [Shuffle::None, Shuffle::windowed(), Shuffle::Exact] {
        let strict = base().shuffle(shuffle).open(&path)?;
        let error = strict.batches(6).find_map(Result::err).unwrap();
        assert!(error.is_corrupt(), "{error}");
        let loader = base().shuffle(shuffle).damaged(Damaged::Skip).open(&path)?;
        let mut batches = loader.batches(6);
        let mut seen = Vec::new();
        for batch in &mut batches {
            let batch = batch?;
            let starts = batch.window_starts().unwrap().to_vec();
            assert_eq!(starts.len(), batch.len());
            for (i, (&id, start)) in batch.sample_ids().iter().zip(starts).enumerate() {
                assert_eq!(batch.field("x")?.sample(i)?.data(), [200 + id as u8; 4]);
                seen.push((id, start));
            }
        }
        seen.sort_unstable();
        let intact = (0..4).chain(8..20);
        assert!(
            seen.into_iter()
                .eq(intact.flat_map(|id| [0, 2, 4].map(|start| (id, start))))
        );
        let skipped = batches.skipped();
        assert_eq!(
            (
                skipped.len(),
                skipped[0].first_sample,
                skipped[0].num_samples
            ),
            (1, 4, 4)
        );
    }
    Ok(())
}

fn assert_typed(error: &Error, what: &str) {
    let typed = matches!(
        error.kind(),
        ErrorKind::Corrupt { .. }
            | ErrorKind::LimitExceeded { .. }
            | ErrorKind::Unsupported { .. }
            | ErrorKind::InvalidArgument { .. }
    );
    assert!(typed, "{what}: {error:?}");
}

#[test]
fn signed_mutants_are_typed_errors_or_slices_of_what_is_read() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let mut random = Random(11);
    let mut forges = Vec::new();
    for (n, codec) in CODECS.iter().enumerate() {
        let path = dir.path().join(n.to_string());
        let codec = CodecSpec::parse(codec)?;
        let mut writer = ShardWriter::builder()
            .samples_per_chunk(3)
            .num_workers(1)
            .field(FieldSpec::ragged("x", DType::I32, [None, Some(2)]).codec(codec))
            .field(FieldSpec::ragged("y", DType::U8, [None]).codec(codec))
            .create(&path)?;
        for i in 0..8 {
            let steps = i * 5 % 13;
            let x: Vec<i32> = (0..steps as i32 * 2).collect();
            writer.append(&[
                (
                    "x",
                    TensorView::new(DType::I32, &[steps, 2], &to_le_bytes(&x))?,
                ),
                ("y", TensorView::new(DType::U8, &[steps], &vec![7; steps])?),
            ])?;
        }
        writer.finish()?;
        forges.push(Forge::new(first_shard(&path)));
    }
    let (mut accepted, mut refused) = (0, 0);
    for mutant in 0..4_000 {
        let mut forged = forges[mutant % forges.len()].clone();
        for _ in 0..=random.below(2) {
            // Shapes are the payloads of small streams; headers of chunks have the rest.
            let chunk = &forged.chunks[random.below(forged.chunks.len())];
            let at = match random.below(3) {
                0 => random.below(forged.header_len),
                1 => chunk.at + random.below(chunk.header_len),
                _ => chunk.at + chunk.header_len + random.below(chunk.len - chunk.header_len),
            };
            let value = [
                random.next(),
                u64::MAX >> random.below(64),
                1 << random.below(64),
            ];
            let width = [1, 2, 4][random.below(3)].min(forged.bytes.len() - at);
            let value = value[random.below(3)].to_le_bytes();
            forged.bytes[at..at + width].copy_from_slice(&value[..width]);
        }
        forged.sign();
        let what = format!("mutant {mutant}");
        let Ok(dataset) = Dataset::builder().open_bytes(forged.bytes.clone()) else {
            continue;
        };
        let read = dataset.get_many(&(0..dataset.len()).collect::<Vec<_>>());
        // Names may have changed as well.
        let named = dataset.fields().map(|field| field.name()).eq(["x", "y"]);
        let shuffle = [Shuffle::None, Shuffle::windowed(), Shuffle::Exact][random.below(3)];
        let base = || Loader::builder().num_workers(1).shuffle(shuffle);
        let windows = base().windows(Windows::new(3).stride(2));
        let packed = base().pack(Pack::new("x", 6).with("y").separator(1).pad(0));
        for options in [windows, packed] {
            let loader = match options.open_dataset(&dataset) {
                Ok(loader) => loader,
                Err(error) => {
                    refused += 1;
                    assert_typed(&error, &what);
                    continue;
                }
            };
            for batch in loader.batches(3).take(500) {
                match (batch, &read) {
                    (Ok(batch), Ok(samples)) => {
                        accepted += 1;
                        if named && batch.window_starts().is_some() {
                            check(&batch, samples, 3)?;
                        }
                    }
                    (Ok(_), Err(_)) => {}
                    (Err(error), _) => assert_typed(&error, &what),
                }
            }
        }
    }
    assert!(accepted > 1_000 && refused > 100, "{accepted} {refused}");
    Ok(())
}
