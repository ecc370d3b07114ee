//! The queues and the shutdown of writers and loaders, checked by the model checker shuttle: it runs the code itself, the
//! threads as coroutines, and switches between them at every lock, queue, flag and join, in schedules chosen at random, by
//! PCT (few preemptions, at random points), or one after the other. A schedule in which nobody can go on is a deadlock and
//! fails; a failing schedule is printed and can be replayed.
//!
//! `.ci/models` runs them. `TENSORSHARD_SCHEDULES` says how many schedules each model has (1 000 of each kind). Without
//! `--cfg shuttle` the models run on the threads of the system, as these happen to take turns, 200 times each.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
#[cfg(not(shuttle))]
use std::sync::mpsc::RecvTimeoutError;
use std::task::Poll;
use std::time::Duration;

#[cfg(shuttle)]
use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};
#[cfg(shuttle)]
use shuttle::{Config, Runner};

use crate::error::{Error, ErrorKind, Result};
use crate::sync::thread::yield_now;
use crate::{DType, Damaged, Dataset, FieldSpec, Loader, ShardWriter, Shuffle, TensorView};

fn schedules(unasked: usize) -> usize {
    let asked = std::env::var("TENSORSHARD_SCHEDULES").ok();
    asked.map_or(unasked, |n| n.parse().unwrap())
}

/// Runs a model on the threads of the system. One that is not done after a minute hangs.
#[cfg(not(shuttle))]
fn check(model: impl Fn() + Send + 'static) {
    let (done, wait) = std::sync::mpsc::channel();
    let runs = std::thread::spawn(move || {
        for _ in 0..schedules(200) {
            model();
            done.send(()).unwrap();
        }
    });
    loop {
        match wait.recv_timeout(Duration::from_secs(60)) {
            Ok(()) => {}
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => panic!("a schedule hangs"),
        }
    }
    runs.join().unwrap();
}

#[cfg(shuttle)]
fn run<S: Scheduler + 'static>(scheduler: S, model: impl Fn() + Send + Sync + 'static) -> usize {
    let mut config = Config::new();
    // Encoding and opening files take more of it than models usually do.
    config.stack_size = 1 << 20;
    // Flags are sequentially consistent in the model: weaker orders are not looked at.
    config.silence_warnings = true;
    Runner::new(scheduler, config).run(model)
}

/// Runs what is no model, but has threads.
fn once(body: impl Fn() + Send + Sync + 'static) {
    #[cfg(shuttle)]
    run(RandomScheduler::new_from_seed(0, 1), body);
    #[cfg(not(shuttle))]
    body();
}

/// Runs a model in schedules chosen at random, and by PCT.
#[cfg(shuttle)]
fn check(model: impl Fn() + Send + Sync + Clone + 'static) {
    let n = schedules(1000);
    let mut done = run(RandomScheduler::new(n), model.clone());
    for preemptions in [1, 2, 3] {
        done += run(PctScheduler::new(preemptions, n / 3), model.clone());
    }
    assert!(done >= n, "{done} schedules");
}

/// A folder for a model; its datasets are made anew in every schedule.
struct Place {
    folder: tempfile::TempDir,
    next: AtomicU64,
}

impl Place {
    fn new() -> Arc<Self> {
        // In memory if possible: every schedule writes a dataset, and a disk would be waited for.
        let memory = tempfile::tempdir_in("/dev/shm");
        Arc::new(Self {
            folder: memory.or_else(|_| tempfile::tempdir()).unwrap(),
            next: AtomicU64::new(0),
        })
    }

    /// A folder that no other schedule has had, in which something fails as its name says.
    fn fresh(&self, name: &str) -> PathBuf {
        let n = self.next.fetch_add(1, Ordering::Relaxed);
        let folder = self.folder.path().join(n.to_string());
        std::fs::create_dir(&folder).unwrap();
        folder.join(name)
    }
}

const SAMPLE: usize = 300;

fn sample(i: u8) -> Vec<u8> {
    (0..300)
        .map(|j| (j * (j ^ 77) + u32::from(i)).to_le_bytes()[0])
        .collect()
}

fn writer(path: &Path, workers: usize) -> Result<ShardWriter> {
    ShardWriter::builder()
        .field(FieldSpec::new("x", DType::U8, [SAMPLE]))
        .samples_per_chunk(1)
        // A shard is full with its second chunk.
        .max_shard_len(900)
        .num_workers(workers)
        .shard_ids_from(1)
        .create(path)
}

fn append(writer: &mut ShardWriter, i: u8) -> Result<()> {
    writer.append(&[("x", TensorView::new(DType::U8, &[SAMPLE], &sample(i))?)])
}

/// `n` samples, each a chunk; flushed after the first `flushed`.
fn session(path: &Path, workers: usize, n: u8, flushed: Option<u8>) -> Result<()> {
    let mut writer = writer(path, workers)?;
    for i in 0..n {
        append(&mut writer, i)?;
        if flushed == Some(i + 1) {
            writer.flush()?;
        }
    }
    writer.finish()?;
    Ok(())
}

fn assert_holds(path: &Path, n: u8) {
    let dataset = Dataset::open(path).unwrap();
    assert_eq!(dataset.len(), u64::from(n));
    for i in 0..n {
        let read = dataset.get(u64::from(i)).unwrap();
        assert_eq!(read.tensor("x").unwrap().data()[..], sample(i));
    }
    assert_eq!(
        std::fs::read_dir(path).unwrap().count() as u64,
        dataset.num_shards() + 1
    );
}

fn assert_as_asked(error: &Error, panics: bool) {
    let asked = error.to_string().contains("the test asked for it");
    let kind = match error.kind() {
        ErrorKind::WorkerPanicked { .. } => panics,
        ErrorKind::Io { .. } => !panics,
        _ => false,
    };
    assert!(asked && kind, "another error: {error}");
}

#[test]
fn a_writer_ends_with_all_that_was_appended() {
    let place = Place::new();
    check(move || {
        let path = place.fresh("well");
        session(&path, 2, 5, Some(2)).unwrap();
        assert_holds(&path, 5);
        std::fs::remove_dir_all(path.parent().unwrap()).unwrap();
    });
}

#[test]
fn a_writer_that_fails_says_why_and_commits_nothing() {
    let place = Place::new();
    check(move || {
        // Another failure in each schedule.
        for how in ["fails", "panics"] {
            let stages = [
                ("encode", 2),
                ("write", 2),
                ("seal", 0),
                ("seal", 1),
                ("sync", 0),
                ("sync", 1),
            ];
            let n = place.next.load(Ordering::Relaxed);
            let (stage, ordinal) = stages[usize::try_from(n / 2).unwrap() % stages.len()];
            let path = place.fresh(&format!("{how}-in-{stage}-{ordinal}"));
            let error = session(&path, 2, 4, None).unwrap_err();
            assert_as_asked(&error, how == "panics");
            assert!(!path.exists(), "something is left");
            std::fs::remove_dir_all(path.parent().unwrap()).unwrap();
        }
    });
}

#[test]
fn a_writer_that_is_dropped_leaves_nothing() {
    let place = Place::new();
    check(move || {
        let path = place.fresh("dropped");
        let mut writer = writer(&path, 2).unwrap();
        for i in 0..3 {
            append(&mut writer, i).unwrap();
        }
        drop(writer);
        assert!(!path.exists(), "something is left");
        std::fs::remove_dir_all(path.parent().unwrap()).unwrap();
    });
}

/// A dataset that every schedule of a model reads: three chunks in two shards, and text where asked.
fn dataset(place: &Place, name: &str, text: bool) -> PathBuf {
    let path = place.fresh(name);
    let out = path.clone();
    let write = move || -> Result<()> {
        let mut builder = ShardWriter::builder().field(FieldSpec::new("x", DType::U8, [SAMPLE]));
        if text {
            builder = builder.field(FieldSpec::string("y"));
        }
        let mut writer = builder
            .samples_per_chunk(2)
            .max_shard_len(1500)
            .num_workers(1)
            .shard_ids_from(1)
            .create(&path)?;
        for i in 0..6 {
            let (bytes, letters) = (sample(i), "abcdef".as_bytes());
            let x = TensorView::new(DType::U8, &[SAMPLE], &bytes)?;
            let len = usize::from(i);
            let shape = [len];
            let y = TensorView::new(DType::U8, &shape, &letters[..len])?;
            let values = [("x", x), ("y", y)];
            writer.append(&values[..1 + usize::from(text)])?;
        }
        writer.finish()?;
        Ok(())
    };
    once(move || write().unwrap());
    out
}

fn loader(shuffle: Shuffle) -> crate::LoaderBuilder {
    Loader::builder()
        .shuffle(shuffle)
        .seed(3)
        .num_workers(2)
        .prefetch(2)
}

/// The ids of an epoch, whose values are looked at too.
fn read(loader: &Loader, batch_size: usize) -> Result<Vec<u64>> {
    let mut ids = Vec::new();
    for batch in loader.batches(batch_size) {
        let batch = batch?;
        let data = batch.field("x").unwrap().data().to_vec();
        for (i, &id) in batch.sample_ids().iter().enumerate() {
            assert_eq!(
                data[i * SAMPLE..(i + 1) * SAMPLE],
                sample(u8::try_from(id).unwrap())
            );
            ids.push(id);
        }
    }
    Ok(ids)
}

#[test]
fn an_epoch_is_the_same_in_every_schedule() {
    let place = Place::new();
    for text in [false, true] {
        let path = dataset(&place, "intact", text);
        for shuffle in [Shuffle::None, Shuffle::windowed(), Shuffle::Exact] {
            let (path, first) = (path.clone(), std::sync::OnceLock::new());
            let first = Arc::new(first);
            check(move || {
                let ids = read(&loader(shuffle).open(&path).unwrap(), 2).unwrap();
                assert_eq!(ids.len(), 6);
                assert_eq!(*first.get_or_init(|| ids.clone()), ids);
            });
        }
    }
}

#[test]
fn a_consumer_may_leave_after_any_batch() {
    let place = Place::new();
    for text in [false, true] {
        let path = dataset(&place, "intact", text);
        check(move || {
            let loader = loader(Shuffle::Exact).open(&path).unwrap();
            for taken in 0..3 {
                assert_eq!(
                    loader.batches(2).take(taken).filter(Result::is_ok).count(),
                    taken
                );
            }
        });
    }
}

#[test]
fn a_loader_that_fails_says_why_and_ends() {
    let place = Place::new();
    let stages = ["shapes", "read", "decoded", "report", "deliver"];
    for stage in stages {
        for how in ["fails", "panics"] {
            if (stage, how) == ("report", "fails") {
                continue;
            }
            let path = dataset(&place, &format!("{how}-in-{stage}-1"), true);
            check(move || {
                let mut batches = loader(Shuffle::None).open(&path).unwrap().batches(2);
                let mut delivered = 0;
                let error = loop {
                    match batches.next() {
                        Some(Ok(_)) => delivered += 1,
                        Some(Err(error)) => break error,
                        None => panic!("the epoch ended early, after {delivered} batches"),
                    }
                };
                assert_as_asked(&error, how == "panics");
                assert!(delivered <= 1);
                assert!(batches.next().is_none());
            });
        }
    }
}

#[test]
fn damaged_chunks_are_skipped_in_every_schedule() {
    let place = Place::new();
    let path = dataset(&place, "intact", true);
    // A byte of a value in the first chunk.
    let mut shards: Vec<PathBuf> = std::fs::read_dir(&path)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "tshard"))
        .collect();
    shards.sort();
    for shard in &shards {
        let mut bytes = std::fs::read(shard).unwrap();
        let value = sample(0);
        if let Some(at) = bytes.windows(20).position(|window| window == &value[..20]) {
            bytes[at] ^= 1;
            std::fs::write(shard, bytes).unwrap();
        }
    }
    check(move || {
        let loader = loader(Shuffle::Exact)
            .damaged(Damaged::Skip)
            .open(&path)
            .unwrap();
        let mut batches = loader.batches(2);
        let mut ids: Vec<u64> = Vec::new();
        for batch in batches.by_ref() {
            ids.extend_from_slice(batch.unwrap().sample_ids());
        }
        ids.sort_unstable();
        assert_eq!(ids, [2, 3, 4, 5]);
        assert_eq!(batches.skipped().len(), 1);
    });
}

#[test]
fn whoever_waits_with_a_timeout_gets_every_batch() {
    let place = Place::new();
    let path = dataset(&place, "intact", false);
    check(move || {
        let mut batches = loader(Shuffle::windowed()).open(&path).unwrap().batches(2);
        let mut delivered = 0;
        loop {
            match batches.next_timeout(Duration::ZERO) {
                Poll::Ready(Some(batch)) => delivered += batch.unwrap().len(),
                Poll::Ready(None) => break,
                Poll::Pending => yield_now(),
            }
        }
        assert_eq!(delivered, 6);
    });
}
