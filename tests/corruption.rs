//! Damage: every flipped, cut or swapped byte is a typed error, or the data is identical. Never a panic.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{CODECS, asked, collect, small_dataset};
use tensorshard::{
    CodecSpec, DType, Dataset, Error, ErrorKind, FieldSpec, Loader, QuantSpec, Result, Sample,
    ShardWriter, Shuffle, SplitId, TensorView, to_le_bytes,
};

fn shard_files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "tshard"))
        .collect();
    files.sort();
    files
}

/// A small shard with fixed, quantized, ragged and split fields.
fn small_shard(codec: &str, seed: u64) -> Result<Vec<u8>> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("d");
    let codec = CodecSpec::parse(codec)?;
    let mut writer = ShardWriter::builder()
        .field(FieldSpec::new("a", DType::U16, [40]).codec(codec))
        .field(
            FieldSpec::new("b", DType::F32, [4, 8])
                .codec(codec)
                .quantize(QuantSpec::int8().asymmetric()),
        )
        .field(FieldSpec::string("c").codec(codec))
        .field(
            FieldSpec::new("d", DType::F16, [20])
                .split(SplitId::FLOAT_SPLIT)
                .codecs([codec, CodecSpec::parse("none")?]),
        )
        .samples_per_chunk(3)
        .shard_ids_from(seed)
        .create(&path)?;
    for i in 0..7u16 {
        let a: Vec<u16> = (0..40).map(|j| (i + j) / 8).collect();
        let b: Vec<f32> = (0..32u16).map(|j| f32::from(i * 5 + j / 4)).collect();
        let c = "word ".repeat(usize::from(i));
        let d = vec![0x3C00 + i; 20];
        writer.append(&[
            ("a", TensorView::new(DType::U16, &[40], &to_le_bytes(&a))?),
            ("b", TensorView::new(DType::F32, &[4, 8], &to_le_bytes(&b))?),
            ("c", TensorView::new(DType::U8, &[c.len()], c.as_bytes())?),
            ("d", TensorView::new(DType::F16, &[20], &to_le_bytes(&d))?),
        ])?;
    }
    writer.finish()?;
    Ok(fs::read(&shard_files(&path)[0]).unwrap())
}

fn read_all(bytes: Vec<u8>) -> Result<Vec<Sample>> {
    let dataset = Dataset::builder().open_bytes(bytes)?;
    let all: Vec<u64> = (0..dataset.len()).collect();
    dataset.get_many(&all)
}

fn same(a: &[Sample], b: &[Sample]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.same_values(b))
}

/// The contract: typed and located, or identical.
fn check(result: Result<Vec<Sample>>, original: &[Sample], what: &str) {
    match result {
        Ok(samples) => assert!(same(&samples, original), "{what}: silently different data"),
        Err(error) => assert_typed(&error, what),
    }
}

fn assert_typed(error: &Error, what: &str) {
    let typed = matches!(
        error.kind(),
        ErrorKind::Corrupt { .. } | ErrorKind::LimitExceeded { .. } | ErrorKind::Unsupported { .. }
    );
    assert!(typed && error.path().is_some(), "{what}: {error:?}");
}

#[test]
fn every_flipped_bit_is_found() -> Result<()> {
    for codec in CODECS {
        let shard = small_shard(codec, 1)?;
        let original = read_all(shard.clone())?;
        for at in 0..shard.len() {
            for bit in 0..8 {
                let mut bytes = shard.clone();
                bytes[at] ^= 1 << bit;
                let what = format!("{codec}: bit {bit} of byte {at} of {}", shard.len());
                let result = read_all(bytes);
                assert!(result.is_err(), "{what} was not noticed");
                check(result, &original, &what);
            }
        }
    }
    Ok(())
}

/// Small shards of one field: every quantizer, split and filter that loses nothing of its own.
fn shard_of_each_kind() -> Result<Vec<(String, Vec<u8>)>> {
    let values: Vec<f32> = (0..6u16 * 64)
        .map(|i| f32::from(i % 64) * 0.25 - f32::from(i / 64))
        .collect();
    let mut shards = Vec::new();
    let mut add = |name: &str, field: FieldSpec| -> Result<()> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("d");
        let mut writer = ShardWriter::builder()
            .field(field)
            .samples_per_chunk(4)
            .num_workers(1)
            .shard_ids_from(1)
            .create(&path)?;
        for sample in values.chunks(64) {
            let bytes = to_le_bytes(sample);
            writer.append(&[("x", TensorView::new(DType::F32, &[4, 16], &bytes)?)])?;
        }
        writer.finish()?;
        shards.push((name.to_owned(), fs::read(&shard_files(&path)[0]).unwrap()));
        Ok(())
    };
    for quantizer in [
        "f16",
        "bf16",
        "int16",
        "int8",
        "uint8:asym:per-sample:patch",
        "int4:per-group=8:scale=f16",
        "fp8",
        "fp8-e5m2",
        "nf4",
        "mxint8",
        "mxfp8",
        "mxfp4",
        "abs_error:0.01:bits=16",
    ] {
        let field = FieldSpec::new("x", DType::F32, [4, 16]).quantize(QuantSpec::parse(quantizer)?);
        add(quantizer, field)?;
    }
    for split in [SplitId::FLOAT_SPLIT, SplitId::BYTE_SPLIT] {
        let field = FieldSpec::new("x", DType::F32, [4, 16]).split(split);
        add(
            &split.to_string(),
            field.codec(CodecSpec::parse("huffman")?),
        )?;
    }
    for filter in [
        "byte_shuffle",
        "bit_shuffle",
        "delta",
        "float_order",
        "predict:2d",
    ] {
        let filters = [tensorshard::FilterSpec::parse(filter)?];
        add(
            filter,
            FieldSpec::new("x", DType::F32, [4, 16]).filter_specs(filters),
        )?;
    }
    for codec in CODECS {
        let field = FieldSpec::new("x", DType::F32, [4, 16]).codec(CodecSpec::parse(codec)?);
        add(codec, field)?;
    }
    Ok(shards)
}

/// Calls `check` with every element of `0..n`, on all cores.
fn on_all_cores(n: usize, check: &(dyn Fn(usize) + Sync)) {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let next = std::sync::atomic::AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                loop {
                    let i = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    if i >= n {
                        return;
                    }
                    check(i);
                }
            });
        }
    });
}

/// R1 and R2 for each kind of shard: bytes replaced (by TENSORSHARD_SUBSTITUTIONS others, 15 unless asked, the eight
/// flipped bits among them), truncations, zeros from each byte on.
#[test]
fn every_byte_of_every_kind_of_shard_matters() -> Result<()> {
    let substitutions = asked("TENSORSHARD_SUBSTITUTIONS", 15);
    for (name, shard) in shard_of_each_kind()? {
        let original = read_all(shard.clone())?;
        on_all_cores(shard.len(), &|at| {
            let mut bytes = shard.clone();
            let bits = (0..8).map(|bit| 1u8 << bit);
            let others = (1..=255u8).filter(|x| !x.is_power_of_two());
            for change in bits.chain(others).take(substitutions) {
                bytes[at] = shard[at] ^ change;
                let what = format!("{name}: byte {at} of {} changed by {change}", shard.len());
                let result = read_all(bytes.clone());
                assert!(result.is_err(), "{what} was not noticed");
                check(result, &original, &what);
            }
            let what = format!("{name}: cut to {at}");
            assert_typed(&read_all(shard[..at].to_vec()).unwrap_err(), &what);
            let mut bytes = shard.clone();
            bytes[at..].fill(0);
            let what = format!("{name}: zeros from {at}");
            assert_typed(&read_all(bytes).unwrap_err(), &what);
        });
    }
    Ok(())
}

#[test]
fn every_truncation_and_extension_is_found() -> Result<()> {
    for codec in CODECS {
        let shard = small_shard(codec, 1)?;
        for len in 0..shard.len() {
            assert_typed(
                &read_all(shard[..len].to_vec()).unwrap_err(),
                &format!("{codec}: cut to {len}"),
            );
        }
        for more in 1..=64 {
            let mut bytes = shard.clone();
            bytes.resize(shard.len() + more, 0);
            assert_typed(
                &read_all(bytes).unwrap_err(),
                &format!("{codec}: {more} zeros more"),
            );
        }
        let twice = [shard.as_slice(), &shard].concat();
        assert_typed(&read_all(twice).unwrap_err(), "the shard twice");
    }
    Ok(())
}

#[test]
fn zeroed_and_swapped_blocks_are_found() -> Result<()> {
    for codec in CODECS {
        let shard = small_shard(codec, 1)?;
        let original = read_all(shard.clone())?;
        let blocks = shard.len() / 64;
        for block in 0..blocks {
            let mut bytes = shard.clone();
            bytes[block * 64..block * 64 + 64].fill(0);
            check(
                read_all(bytes),
                &original,
                &format!("{codec}: block {block} zeroed"),
            );
            for other in 0..blocks {
                let mut bytes = shard.clone();
                let moved = shard[other * 64..other * 64 + 64].to_vec();
                bytes[block * 64..block * 64 + 64].copy_from_slice(&moved);
                check(
                    read_all(bytes),
                    &original,
                    &format!("{codec}: block {block} replaced by {other}"),
                );
            }
        }
    }
    Ok(())
}

#[test]
fn errors_name_file_chunk_field_and_offset() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("d");
    let dataset = small_dataset(&path, 40, ShardWriter::builder().samples_per_chunk(16))?;
    let file = &shard_files(&path)[0];
    let mut bytes = fs::read(file).unwrap();
    // The second chunk's images are incompressible, so they are stored: find sample 20's.
    let image = dataset.get(20)?.tensor("image")?.data().to_vec();
    let at = bytes
        .windows(image.len())
        .position(|window| window == image)
        .unwrap();
    bytes[at] ^= 1;
    fs::write(file, bytes).unwrap();
    let error = Dataset::open(&path)?.get(20).unwrap_err();
    let location = error.location();
    assert_eq!(location.path.as_deref(), Some(file.as_path()));
    assert_eq!(location.chunk, Some(1));
    assert_eq!(location.field.as_deref(), Some("image"));
    assert!(
        location
            .offset
            .is_some_and(|offset| offset <= at as u64 && offset + 65536 > at as u64)
    );
    assert!(error.to_string().contains("checksum"));
    // Other chunks and other fields are still there.
    assert!(Dataset::open(&path)?.get(0).is_ok());
    assert!(Dataset::open(&path)?.select(["label"])?.get(20).is_ok());
    // The loader delivers what comes before, then the error, then nothing.
    let mut batches = Loader::open(&path)?.batches(8);
    assert!(batches.next().unwrap().is_ok());
    assert!(batches.next().unwrap().is_ok());
    let failed = batches.next().unwrap().unwrap_err();
    assert_eq!(failed.location().field.as_deref(), Some("image"));
    assert!(batches.next().is_none());
    // And verify agrees.
    let report = Dataset::open(&path)?.verify(&|_| ());
    assert_eq!((report.intact_chunks, report.damage.len()), (2, 1));
    assert_eq!(report.damage[0].error.location(), location);
    Ok(())
}

/// What is wrong, and where in which file; what to do next is in the message.
#[test]
fn errors_of_header_footer_and_manifest_name_the_offset_in_the_file() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("d");
    small_dataset(&path, 40, ShardWriter::builder())?;
    let (shard, manifest) = (shard_files(&path)[0].clone(), path.join("manifest.tsm"));
    let len = usize::try_from(fs::metadata(&shard).unwrap().len()).unwrap();
    let footer = len - 88;
    let cases = [
        (&shard, 45, 0, "checksum of the shard header"),
        (&shard, 0, 0, "magic of the shard"),
        (&shard, footer + 20, footer, "checksum of the footer"),
        (&shard, len - 1, len - 8, "magic of the footer"),
        (&manifest, 70, 0, "checksum of the manifest"),
        (&manifest, 3, 0, "magic of the manifest"),
    ];
    for (file, at, offset, what) in cases {
        let original = fs::read(file).unwrap();
        let mut bytes = original.clone();
        bytes[at] ^= 0x81;
        fs::write(file, bytes).unwrap();
        let error = Dataset::open(&path)
            .and_then(|dataset| dataset.get(0))
            .unwrap_err();
        fs::write(file, original).unwrap();
        let message = error.to_string();
        assert_eq!(error.path(), Some(file.as_path()), "{message}");
        assert_eq!(error.location().offset, Some(offset as u64), "{message}");
        assert!(message.starts_with(&format!("wrong {what} ")), "{message}");
        assert!(
            message.contains("tensorshard salvage DATASET OUT"),
            "{message}"
        );
        if what == "magic of the footer" {
            assert!(
                message.contains(r"expected \x89TSE\r\n\x1a\n, found \x89TSE\r\n\x1a\x8b"),
                "{message}"
            );
        }
    }
    Ok(())
}

/// Expected is what the file, or the manifest, says of its length; found is how long it is.
#[test]
fn errors_of_lengths_have_the_sides_right() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("d");
    small_dataset(&path, 40, ShardWriter::builder())?;
    for file in [path.join("manifest.tsm"), shard_files(&path)[0].clone()] {
        let original = fs::read(&file).unwrap();
        fs::write(&file, &original[..original.len() - 1]).unwrap();
        let error = Dataset::open(&path)
            .and_then(|dataset| dataset.get(0))
            .unwrap_err();
        fs::write(&file, &original).unwrap();
        let ErrorKind::Corrupt {
            expected, found, ..
        } = error.kind()
        else {
            panic!("{error}");
        };
        assert!(expected.starts_with(&original.len().to_string()), "{error}");
        assert_eq!(found, &(original.len() - 1).to_string(), "{error}");
    }
    Ok(())
}

#[test]
fn a_shard_of_another_dataset_or_build_is_refused() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    small_dataset(
        &path("a"),
        40,
        ShardWriter::builder()
            .samples_per_chunk(16)
            .shard_ids_from(1),
    )?;
    small_dataset(
        &path("b"),
        41,
        ShardWriter::builder()
            .samples_per_chunk(16)
            .shard_ids_from(1),
    )?;
    small_dataset(
        &path("c"),
        40,
        ShardWriter::builder()
            .samples_per_chunk(16)
            .shard_ids_from(2),
    )?;
    let target = &shard_files(&path("a"))[0];
    for other in ["b", "c"] {
        fs::copy(&shard_files(&path(other))[0], target).unwrap();
        let error = Dataset::open(path("a"))?.get(0).unwrap_err();
        assert!(error.is_corrupt(), "{error}");
        assert!(
            collect(Loader::builder(), &path("a"), 8)
                .unwrap_err()
                .is_corrupt()
        );
    }
    fs::remove_file(target).unwrap();
    assert!(Dataset::open(path("a"))?.get(0).unwrap_err().is_io());
    Ok(())
}

#[test]
fn every_flipped_bit_of_a_manifest_is_found() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("d");
    small_dataset(&path, 9, ShardWriter::builder().metadata("a", 1))?;
    let file = path.join("manifest.tsm");
    let manifest = fs::read(&file).unwrap();
    for at in 0..manifest.len() {
        for bit in [0, 3, 7] {
            let mut bytes = manifest.clone();
            bytes[at] ^= 1 << bit;
            fs::write(&file, bytes).unwrap();
            assert_typed(
                &Dataset::open(&path).unwrap_err(),
                &format!("bit {bit} of byte {at}"),
            );
        }
        fs::write(&file, &manifest[..at]).unwrap();
        assert_typed(&Dataset::open(&path).unwrap_err(), &format!("cut to {at}"));
    }
    Ok(())
}

#[test]
fn a_newer_major_version_is_unsupported_not_damaged() -> Result<()> {
    let mut shard = small_shard("none", 1)?;
    shard[8] = 2;
    let error = read_all(shard).unwrap_err();
    assert!(error.is_unsupported(), "{error}");
    assert_eq!(error.exit_code(), 4);
    Ok(())
}

#[test]
fn text_mode_transfer_is_named() -> Result<()> {
    let shard = small_shard("none", 1)?;
    let mut converted = Vec::new();
    for pair in shard.windows(2) {
        if pair != b"\r\n" {
            converted.push(pair[0]);
        }
    }
    let message = read_all(converted).unwrap_err().to_string();
    assert!(message.contains("text-mode"), "{message}");
    Ok(())
}

/// Ragged samples in chunks of 3, so that most batches take from two chunks.
fn ragged_bytes() -> Result<Vec<u8>> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("d");
    let mut writer = ShardWriter::builder()
        .field(FieldSpec::ragged("x", DType::U8, [None]))
        .samples_per_chunk(3)
        .shard_ids_from(1)
        .create(&path)?;
    for i in 0..7u8 {
        let len = usize::from(i % 4);
        writer.append(&[("x", TensorView::new(DType::U8, &[len], &vec![i; len])?)])?;
    }
    writer.finish()?;
    Ok(fs::read(&shard_files(&path)[0]).unwrap())
}

#[test]
fn a_damaged_ragged_shard_never_stops_the_loader() -> Result<()> {
    let bytes = ragged_bytes()?;
    for batch_size in [1, 2, 4, 5] {
        for shuffle in [Shuffle::None, Shuffle::windowed(), Shuffle::Exact] {
            let intact = Dataset::builder().open_bytes(bytes.clone())?;
            let loader = Loader::builder().shuffle(shuffle).num_workers(1);
            let intact: Vec<_> = loader
                .clone()
                .open_dataset(&intact)?
                .batches(batch_size)
                .collect::<Result<_>>()?;
            for at in 0..bytes.len() {
                let mut damaged = bytes.clone();
                damaged[at] ^= 1;
                let Ok(dataset) = Dataset::builder().open_bytes(damaged) else {
                    continue;
                };
                let batches = loader.clone().open_dataset(&dataset)?.batches(batch_size);
                let (sender, receiver) = std::sync::mpsc::channel();
                std::thread::spawn(move || sender.send(batches.collect::<Vec<_>>()));
                let results = receiver
                    .recv_timeout(std::time::Duration::from_secs(20))
                    .unwrap_or_else(|_| {
                        panic!("{shuffle:?}, batches of {batch_size}, byte {at}: the loader hangs")
                    });
                // What comes before the error is what was written, and an epoch without an error is whole.
                let is_whole = results.iter().all(Result::is_ok);
                assert!(!is_whole || results.len() == intact.len());
                for (result, intact) in results.iter().zip(&intact) {
                    let Ok(batch) = result else { break };
                    assert_eq!(batch.sample_ids(), intact.sample_ids());
                    assert_eq!(
                        batch.field("x")?.as_slice::<u8>()?,
                        intact.field("x")?.as_slice::<u8>()?
                    );
                }
            }
        }
    }
    Ok(())
}
