//! A function of batches on worker threads: its results come in order, whatever the workers; its failures are errors.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::small_dataset;
use tensorshard::{
    Batch, Dataset, ErrorKind, Limit, Loader, LoaderBuilder, Result, ShardWriter, Shuffle,
};

const MODES: [Shuffle; 3] = [
    Shuffle::None,
    Shuffle::Windowed { window: 8 },
    Shuffle::Exact,
];

fn dataset(path: &Path) -> Result<Dataset> {
    let builder = ShardWriter::builder()
        .samples_per_chunk(5)
        .max_shard_len(13_000);
    small_dataset(path, 157, builder)
}

fn options(shuffle: Shuffle, workers: usize) -> LoaderBuilder {
    Loader::builder()
        .shuffle(shuffle)
        .seed(4)
        .epoch(2)
        .num_workers(workers)
}

type Content = (u64, u64, Vec<u64>, Vec<f32>, Vec<u8>);

/// Step, ids and values.
fn content(batch: &Batch) -> Result<Content> {
    Ok((
        batch.epoch(),
        batch.index(),
        batch.sample_ids().to_vec(),
        batch.field("latent")?.as_slice()?.to_vec(),
        batch.field("tokens")?.data().to_vec(),
    ))
}

/// As a training set is augmented: in place, by epoch and sample.
fn augment(batch: &mut Batch) -> Result<()> {
    let (epoch, ids) = (batch.epoch(), batch.sample_ids().to_vec());
    let values = batch.field_mut("latent")?.as_mut_slice::<f32>()?;
    for (values, id) in values.chunks_mut(24).zip(ids) {
        values
            .iter_mut()
            .for_each(|x| *x += (id * 10 + epoch) as f32);
    }
    Ok(())
}

#[test]
fn results_come_in_order_and_are_the_same_for_any_number_of_workers() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let dataset = dataset(&dir.path().join("d"))?;
    for shuffle in MODES {
        let mut expected = Vec::new();
        for batch in options(shuffle, 1).open_dataset(&dataset)?.batches(10) {
            let mut batch = batch?;
            augment(&mut batch)?;
            expected.push(content(&batch)?);
        }
        for (workers, prefetch) in [(1, 1), (2, 3), (3, 8), (8, 20)] {
            let calls = Arc::new(AtomicU64::new(0));
            let counted = Arc::clone(&calls);
            let loader = options(shuffle, workers)
                .prefetch(prefetch)
                .open_dataset(&dataset)?;
            let mapped = loader.batches(10).map_ordered(move |mut batch| {
                counted.fetch_add(1, Ordering::Relaxed);
                // Later batches are done earlier, as far as workers go.
                std::thread::sleep(Duration::from_millis(3 * ((batch.index() + 1) % 3)));
                augment(&mut batch)?;
                Ok(content(&batch)?)
            });
            let found: Vec<Content> = mapped.collect::<Result<_>>()?;
            assert!(found == expected, "{shuffle:?}, {workers} workers");
            assert_eq!(calls.load(Ordering::Relaxed), 16);
            let stats = loader.stats();
            assert_eq!((stats.batches, stats.samples), (16, 157));
            assert!(stats.worker_mapping >= Duration::from_millis(3));
        }
    }
    Ok(())
}

#[test]
fn state_counts_results_that_were_delivered() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let dataset = dataset(&dir.path().join("d"))?;
    for shuffle in MODES {
        let open = |workers| options(shuffle, workers).open_dataset(&dataset);
        let map = |loader: &Loader| loader.batches(10).map_ordered(|batch| Ok(content(&batch)?));
        let expected: Vec<Content> = map(&open(2)?).collect::<Result<_>>()?;
        for taken in [0, 1, 7, 15, 16] {
            let loader = open(3)?;
            let mut mapped = map(&loader);
            let before: Vec<Content> = mapped.by_ref().take(taken).collect::<Result<_>>()?;
            let state = loader.state()?;
            assert_eq!(state.consumed(), (taken as u64 * 10).min(157));
            drop(mapped);
            assert_eq!(loader.state()?, state);
            let mut other = open(1)?;
            other.load_state(&state)?;
            let after: Vec<Content> = map(&other).collect::<Result<_>>()?;
            assert!([before, after].concat() == expected, "{shuffle:?} {taken}");
        }
    }
    Ok(())
}

/// What a function does at step `at`.
fn failing(
    at: u64,
    panics: bool,
) -> impl Fn(Batch) -> std::result::Result<u64, Box<dyn std::error::Error + Send + Sync>> {
    move |batch| {
        if batch.index() != at {
            return Ok(batch.index());
        }
        assert!(!panics, "step {at} is bad");
        Ok("seven".parse()?)
    }
}

#[test]
fn errors_and_panics_are_delivered_in_their_place_and_name_the_step() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let dataset = dataset(&dir.path().join("d"))?;
    for shuffle in MODES {
        for workers in [1, 3] {
            for at in [0, 1, 9, 15] {
                for panics in [false, true] {
                    let loader = options(shuffle, workers).open_dataset(&dataset)?;
                    let mut mapped = loader.batches(10).map_ordered(failing(at, panics));
                    let results: Vec<Result<u64>> = mapped.by_ref().collect();
                    let (last, before) = results.split_last().unwrap();
                    let steps: Vec<u64> = before.iter().map(|r| *r.as_ref().unwrap()).collect();
                    assert_eq!(steps, (0..at).collect::<Vec<_>>());
                    let error = last.as_ref().unwrap_err();
                    let ErrorKind::MapFailed {
                        epoch,
                        step,
                        source,
                    } = error.kind()
                    else {
                        panic!("{error}");
                    };
                    assert_eq!((*epoch, *step), (2, at));
                    assert_eq!(source.is::<std::num::ParseIntError>(), !panics);
                    let message = error.to_string();
                    assert!(
                        message.contains(&format!("step {at} of epoch 2")),
                        "{message}"
                    );
                    assert!(!panics || message.contains(&format!("step {at} is bad")));
                    assert!(mapped.next().is_none());
                    assert_eq!(loader.state()?.consumed(), at * 10);
                    // Nothing is poisoned, and the step can be left out.
                    let mut loader = loader;
                    loader.seek(at + 1, 10)?;
                    let rest = loader.batches(10).map_ordered(failing(at, panics));
                    let rest: Vec<u64> = rest.collect::<Result<_>>()?;
                    assert_eq!(rest, (at + 1..16).collect::<Vec<_>>());
                }
            }
        }
    }
    Ok(())
}

#[test]
fn errors_of_options_and_files_pass_through() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("d");
    let dataset = dataset(&path)?;
    let loader = options(Shuffle::None, 2).open_dataset(&dataset)?;
    let mut mapped = loader.batches(0).map_ordered(Ok);
    assert!(matches!(
        mapped.next().unwrap().unwrap_err().kind(),
        ErrorKind::InvalidArgument { .. }
    ));
    assert!(mapped.next().is_none());
    let shard = &dataset.inspect()?.shards[1];
    std::fs::remove_file(path.join(&shard.file_name)).unwrap();
    let loader = options(Shuffle::None, 2).open(&path)?;
    let results: Vec<_> = loader.batches(10).map_ordered(Ok).collect();
    let (last, before) = results.split_last().unwrap();
    assert!(last.as_ref().unwrap_err().is_io() && !before.is_empty());
    assert!(before.iter().all(Result::is_ok));
    Ok(())
}

#[test]
fn memory_budget_holds_with_a_function() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let dataset = dataset(&dir.path().join("d"))?;
    for shuffle in MODES {
        let budget = 60_000;
        let loader = options(shuffle, 4)
            .fields(["image", "label"])
            .prefetch(100)
            .memory_budget(budget)
            .open_dataset(&dataset)?;
        let mapped = loader.batches(10).map_ordered(Ok);
        let mut delivered = 0;
        for batch in mapped {
            delivered += batch?.len();
        }
        assert_eq!(delivered, 157);
        assert!(loader.stats().peak_batch_bytes <= budget, "{shuffle:?}");
    }
    Ok(())
}

#[test]
fn dropping_and_waiting_for_a_while_lose_nothing() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let dataset = dataset(&dir.path().join("d"))?;
    let loader = options(Shuffle::None, 2).open_dataset(&dataset)?;
    let dropped = Arc::new(Mutex::new(Vec::new()));
    for taken in 0..5 {
        let seen = Arc::clone(&dropped);
        let mut mapped = loader.batches(10).map_ordered(move |batch| {
            seen.lock().unwrap().push(batch.index());
            Ok(batch)
        });
        for result in mapped.by_ref().take(taken) {
            result?;
        }
        drop(mapped);
        // No call runs any more.
        dropped.lock().unwrap().clear();
    }
    assert!(dropped.lock().unwrap().is_empty());
    let mut mapped = loader.batches(10).map_ordered(|batch| Ok(batch.index()));
    let mut found = Vec::new();
    loop {
        match mapped.next_timeout(Duration::from_millis(1)) {
            std::task::Poll::Pending => {}
            std::task::Poll::Ready(Some(step)) => found.push(step?),
            std::task::Poll::Ready(None) => break,
        }
    }
    assert_eq!(found, (0..16).collect::<Vec<_>>());
    assert_ne!(loader.stats().limit(), Limit::Unknown);
    Ok(())
}
