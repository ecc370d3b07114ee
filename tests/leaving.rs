//! Consumers that leave early: no thread, no file and no memory is left behind (R13).
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::fs;
use std::path::Path;

use common::{asked, live_threads, small_dataset};
use tensorshard::{IoMode, Loader, Result, ShardWriter, Shuffle};

fn entries(folder: &str) -> usize {
    fs::read_dir(folder).unwrap().count()
}

/// Bytes of memory of this process that are resident.
fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kib: u64 = line
        .unwrap()
        .split_whitespace()
        .nth(1)
        .unwrap()
        .parse()
        .unwrap();
    kib * 1024
}

/// Everything in one test: other tests of this process would be counted.
#[test]
fn nothing_is_left_of_iterations_that_were_not_finished() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("d");
    let builder = ShardWriter::builder()
        .samples_per_chunk(8)
        .max_shard_len(20_000);
    small_dataset(&path, 400, builder)?;
    for shuffle in [Shuffle::None, Shuffle::windowed(), Shuffle::Exact] {
        for io in [IoMode::Mmap, IoMode::Read] {
            check(&path, shuffle, io)?;
        }
    }
    Ok(())
}

fn check(path: &Path, shuffle: Shuffle, io: IoMode) -> Result<()> {
    let loader = Loader::builder()
        .shuffle(shuffle)
        .io(io)
        .num_workers(2)
        .open(path)?;
    // Once before it counts: shards are open then, and memory that is kept for other batches has been used.
    loader.batches(16).try_for_each(|batch| batch.map(|_| ()))?;
    leave(&loader, 100)?;
    let (threads, files) = (live_threads(), entries("/proc/self/fd"));
    let memory = resident();
    leave(&loader, asked("TENSORSHARD_LEAVERS", 200))?;
    assert_eq!(live_threads(), threads, "threads");
    assert_eq!(entries("/proc/self/fd"), files, "open files");
    let more = resident().saturating_sub(memory);
    assert!(more < 8 << 20, "{more} bytes more");
    // And it still works.
    assert_eq!(loader.batches(16).collect::<Result<Vec<_>>>()?.len(), 25);
    Ok(())
}

/// Starts iterations and leaves them in every way there is.
fn leave(loader: &Loader, times: usize) -> Result<()> {
    for i in 0..times {
        let mut batches = loader.batches(1 + i % 20);
        match i % 5 {
            // Never asked for anything.
            0 => drop(batches),
            // Left in the middle.
            1 => {
                batches
                    .by_ref()
                    .take(i % 7)
                    .try_for_each(|b| b.map(|_| ()))?;
            }
            // Dropped by another thread, while workers are busy.
            2 => {
                batches.next().transpose()?;
                std::thread::spawn(move || drop(batches)).join().unwrap();
            }
            // A consumer that panics.
            3 => {
                let consumer = std::thread::Builder::new().name("consumer".into());
                let consumer = consumer.spawn(move || {
                    std::panic::set_hook(Box::new(|_| ()));
                    let _batch = batches.next();
                    let values = [0u8; 3];
                    std::hint::black_box(values[std::hint::black_box(9)]);
                });
                assert!(consumer.unwrap().join().is_err());
                drop(std::panic::take_hook());
            }
            // A batch that outlives its iteration.
            _ => {
                let batch = batches.next().transpose()?;
                drop(batches);
                let batch = batch.unwrap();
                assert_eq!(batch.field("label")?.as_slice::<i64>()?.len(), batch.len());
            }
        }
    }
    Ok(())
}
