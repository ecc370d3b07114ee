//! Files that change under a live map: right data or a typed error, never a signal (R11, R12).
#![cfg(any(target_os = "linux", target_os = "macos"))]
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use common::{asked, random};
use tensorshard::{
    DType, Dataset, FieldSpec, IoMode, Loader, Result, ShardWriter, TensorView, import,
};

/// 96 samples of 16 KiB: sample i is full of i.
fn dataset(path: &Path, codec: &str) -> Result<PathBuf> {
    let codec = tensorshard::CodecSpec::parse(codec)?;
    let mut writer = ShardWriter::builder()
        .field(FieldSpec::new("x", DType::U8, [16384]).codec(codec))
        .samples_per_chunk(8)
        .create(path)?;
    for i in 0..96 {
        let values: Vec<u8> = (0..16384)
            .map(|j| if j % 61 == 0 { 200 } else { i })
            .collect();
        writer.append(&[("x", TensorView::new(DType::U8, &[16384], &values)?)])?;
    }
    writer.finish()?;
    let report = Dataset::open(path)?.inspect()?;
    Ok(path.join(&report.shards.first().unwrap().file_name))
}

fn is_sample(id: u64, values: &[u8]) -> bool {
    let right = |(j, &x): (usize, &u8)| u64::from(x) == if j % 61 == 0 { 200 } else { id };
    values.iter().enumerate().all(right)
}

/// Races: TENSORSHARD_RACES, or a number that takes about a second.
fn races() -> u64 {
    asked("TENSORSHARD_RACES", 100) as u64
}

#[test]
fn a_file_that_is_truncated_while_it_is_read_is_an_error() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let mut random = random(11);
    let failed = AtomicU64::new(0);
    for codec in ["none", "lz4"] {
        let shard = dataset(&folder.path().join(codec), codec)?;
        let intact = fs::read(&shard).unwrap();
        for race in 0..races() / 2 {
            let path = folder.path().join(codec);
            fs::write(&shard, &intact).unwrap();
            let loader = Loader::builder()
                .num_workers(2)
                .io(IoMode::Mmap)
                .open(&path)?;
            let len = random.below(intact.len()) as u64;
            let pause = Duration::from_micros(random.below(3000) as u64);
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    std::thread::sleep(pause);
                    let file = fs::File::options().write(true).open(&shard).unwrap();
                    file.set_len(len).unwrap();
                });
                for batch in loader.batches(4) {
                    let batch = match batch {
                        Ok(batch) => batch,
                        Err(error) => {
                            assert!(error.is_corrupt(), "race {race}: {error}");
                            assert_eq!(error.path(), Some(shard.as_path()));
                            failed.fetch_add(1, Ordering::Relaxed);
                            break;
                        }
                    };
                    let values = batch.field("x").unwrap().as_slice::<u8>().unwrap();
                    for (&id, values) in batch.sample_ids().iter().zip(values.chunks(16384)) {
                        assert!(is_sample(id, values), "race {race}: wrong data");
                    }
                }
            });
        }
    }
    assert!(failed.load(Ordering::Relaxed) > 0, "no race was lost");
    Ok(())
}

#[test]
fn an_unchecked_map_is_checked_for_truncation() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let shard = dataset(&folder.path().join("d"), "none")?;
    let dataset = Dataset::builder()
        .io(IoMode::Mmap)
        .verify_checksums(false)
        .open(folder.path().join("d"))?;
    assert!(dataset.get(0).is_ok());
    let file = fs::File::options().write(true).open(&shard).unwrap();
    file.set_len(500_000).unwrap();
    let error = dataset.get(90).unwrap_err();
    assert!(error.to_string().contains("length of the file"), "{error}");
    assert!(error.location().offset.is_some_and(|at| at >= 499_712));
    Ok(())
}

#[test]
fn a_shard_that_is_replaced_while_it_is_read_is_read_to_its_end() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("d");
    let shard = dataset(&path, "lz4")?;
    for io in [IoMode::Mmap, IoMode::Read] {
        let intact = fs::read(&shard).unwrap();
        let mut seen = 0;
        for (i, batch) in Loader::builder().io(io).open(&path)?.batches(4).enumerate() {
            if i == 2 {
                let other = path.join("other");
                fs::write(&other, vec![0; intact.len()]).unwrap();
                fs::rename(&other, &shard).unwrap();
            }
            let batch = batch?;
            let values = batch.field("x")?.as_slice::<u8>()?;
            for (&id, values) in batch.sample_ids().iter().zip(values.chunks(16384)) {
                assert!(is_sample(id, values));
                seen += 1;
            }
        }
        assert_eq!(seen, 96);
        fs::write(&shard, intact).unwrap();
    }
    Ok(())
}

#[test]
fn a_shard_that_is_written_in_place_never_gives_wrong_data() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("d");
    let shard = dataset(&path, "none")?;
    let intact = fs::read(&shard).unwrap();
    let mut random = random(12);
    for io in [IoMode::Mmap, IoMode::Read] {
        for _ in 0..races() / 4 {
            let stop = AtomicBool::new(false);
            let at = random.below(intact.len());
            let loader = Loader::builder().num_workers(2).io(io).open(&path)?;
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    let file = fs::File::options().write(true).open(&shard).unwrap();
                    while !stop.load(Ordering::Relaxed) {
                        for byte in [intact[at] ^ 1, intact[at]] {
                            std::os::unix::fs::FileExt::write_at(&file, &[byte], at as u64)
                                .unwrap();
                        }
                    }
                    std::os::unix::fs::FileExt::write_at(&file, &intact, 0).unwrap();
                });
                let mut wrong = 0;
                for batch in loader.batches(4) {
                    match batch {
                        Ok(batch) => {
                            let values = batch.field("x").unwrap().as_slice::<u8>().unwrap();
                            for (&id, values) in batch.sample_ids().iter().zip(values.chunks(16384))
                            {
                                wrong += u32::from(!is_sample(id, values));
                            }
                        }
                        Err(error) => assert!(error.is_corrupt(), "{error}"),
                    }
                }
                stop.store(true, Ordering::Relaxed);
                // A byte that changes between its checksum and its copy cannot be told in a map.
                assert!(io == IoMode::Mmap || wrong == 0, "{wrong} wrong samples");
            });
        }
    }
    Ok(())
}

#[test]
fn an_array_that_is_truncated_while_it_is_imported_is_an_error() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.npy");
    let header = "{'descr': '|u1', 'fortran_order': False, 'shape': (100, 4096), }";
    let mut bytes = b"\x93NUMPY\x01\x00\x76\x00".to_vec();
    bytes.extend(format!("{header:<117}\n").bytes());
    bytes.resize(128 + 409_600, 7);
    fs::write(&path, &bytes).unwrap();
    let mut input = import::open(&path, &import::ImportOptions::default())?;
    let mut samples = import::Samples::default();
    let source = &mut input.fields[0].source;
    source.read(0, 10, &mut samples)?;
    let file = fs::File::options().write(true).open(&path).unwrap();
    file.set_len(200_001).unwrap();
    for first in [0, 48, 90] {
        let error = source.read(first, 10, &mut samples).unwrap_err();
        assert!(error.is_corrupt(), "{error}");
    }
    Ok(())
}

/// The handler leaves what is not its own to the one before it, or to the default.
#[cfg(target_os = "linux")]
#[test]
fn a_bus_error_of_others_still_ends_the_process() -> Result<()> {
    use std::os::unix::process::ExitStatusExt;
    if std::env::var_os("TENSORSHARD_TEST_SIGNAL").is_some() {
        let folder = tempfile::tempdir().unwrap();
        dataset(&folder.path().join("d"), "none")?;
        Dataset::builder()
            .io(IoMode::Mmap)
            .open(folder.path().join("d"))?
            .get(0)?;
        // The handler of Rust's runtime, which was there before, restores the default at the first.
        for _ in 0..2 {
            std::process::Command::new("kill")
                .args(["-BUS", &std::process::id().to_string()])
                .status()
                .unwrap();
            std::thread::sleep(Duration::from_millis(100));
        }
        return Ok(());
    }
    let test = "a_bus_error_of_others_still_ends_the_process";
    let status = std::process::Command::new(std::env::current_exe().unwrap())
        .args([test, "--exact", "--test-threads=1"])
        .env("TENSORSHARD_TEST_SIGNAL", "1")
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .status()
        .unwrap();
    assert_eq!(status.signal(), Some(7));
    Ok(())
}
