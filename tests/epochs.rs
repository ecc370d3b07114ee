//! Many epochs: the next one begins while one drains, and nothing but the time shows it.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::path::Path;

use common::small_dataset;
use tensorshard::{
    Batch, Dataset, Loader, LoaderBuilder, Mixture, MixtureEnd, Result, ShardWriter, Shuffle,
};

const MODES: [Shuffle; 4] = [
    Shuffle::None,
    Shuffle::Windowed { window: 1 },
    Shuffle::Windowed { window: 8 },
    Shuffle::Exact,
];

fn dataset(path: &Path) -> Result<Dataset> {
    let builder = ShardWriter::builder()
        .samples_per_chunk(5)
        .max_shard_len(13_000);
    small_dataset(path, 257, builder)
}

fn options(shuffle: Shuffle) -> LoaderBuilder {
    Loader::builder().shuffle(shuffle).seed(4).num_workers(2)
}

type Content = (u64, u64, Vec<u64>, Vec<u8>);

fn content(batch: &Batch) -> Content {
    let fields = batch.fields().iter();
    let bytes = fields.flat_map(|field| field.data().to_vec()).collect();
    let ids = batch.sample_ids().to_vec();
    (batch.epoch(), batch.index(), ids, bytes)
}

fn rest(batches: impl Iterator<Item = Result<Batch>>) -> Result<Vec<Content>> {
    batches.map(|batch| Ok(content(&batch?))).collect()
}

/// The epoch from a loader that begins nothing ahead.
fn fresh(options: LoaderBuilder, dataset: &Dataset, epoch: u64, n: usize) -> Result<Vec<Content>> {
    rest(options.epoch(epoch).open_dataset(dataset)?.batches(n))
}

/// True if the iteration began before it was asked for: something is planned, although no batch was taken.
fn begun(batches: &tensorshard::Batches) -> bool {
    batches.stats().planned_samples > 0
}

#[test]
fn epochs_that_were_begun_ahead_are_the_same() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let dataset = dataset(&dir.path().join("d"))?;
    for shuffle in MODES {
        for fields in [&["image", "label"][..], &["tokens", "caption", "latent"]] {
            for (batch_size, prefetch) in [(10, 8), (100, 8), (300, 2), (7, 1)] {
                let options = || options(shuffle).fields(fields.to_vec()).prefetch(prefetch);
                let mut loader = options().epochs(4).open_dataset(&dataset)?;
                for epoch in 0..4 {
                    loader.set_epoch(epoch);
                    let mut batches = loader.batches(batch_size);
                    // An epoch of few batches has no room for another beside it.
                    if epoch == 0 {
                        assert!(!begun(&batches));
                    } else if batch_size == 10 {
                        assert!(begun(&batches), "{shuffle:?} {fields:?} {epoch}");
                    }
                    let found = rest(batches.by_ref())?;
                    let expected = fresh(options(), &dataset, epoch, batch_size)?;
                    assert!(found == expected, "{shuffle:?} {epoch} {batch_size}");
                    let state = loader.state()?;
                    assert_eq!((state.epoch(), state.consumed()), (epoch, 257));
                }
                loader.set_epoch(4);
                assert!(!begun(&loader.batches(batch_size)), "nobody expected it");
            }
        }
    }
    Ok(())
}

#[test]
fn the_last_batch_is_the_end_although_nobody_asks_again() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let dataset = dataset(&dir.path().join("d"))?;
    for shuffle in MODES {
        let mut loader = options(shuffle).epochs(3).open_dataset(&dataset)?;
        for epoch in 0..3 {
            loader.set_epoch(epoch);
            let batches = loader.batches(10);
            assert_eq!(begun(&batches), epoch > 0);
            let found = rest(batches.take(26))?;
            assert!(found == fresh(options(shuffle), &dataset, epoch, 10)?);
        }
    }
    Ok(())
}

#[test]
fn without_a_number_epochs_are_expected_after_two_in_a_row() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let dataset = dataset(&dir.path().join("d"))?;
    let mut loader = options(Shuffle::windowed()).open_dataset(&dataset)?;
    for (epoch, ahead) in [
        (0, false),
        (1, false),
        (2, true),
        (3, true),
        (7, false),
        (8, false),
    ] {
        loader.set_epoch(epoch);
        let mut batches = loader.batches(10);
        assert_eq!(begun(&batches), ahead, "{epoch}");
        assert_eq!(rest(batches.by_ref())?.len(), 26);
    }
    // Epoch 9 was begun. A clone has nothing of it, and nobody has after a rest.
    loader.set_epoch(9);
    assert!(!begun(&loader.clone().batches(10)));
    loader.rest();
    assert!(!begun(&loader.batches(10)));
    Ok(())
}

#[test]
fn what_was_begun_is_dropped_for_anything_else() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let dataset = dataset(&dir.path().join("d"))?;
    for shuffle in MODES {
        let all = fresh(options(shuffle), &dataset, 1, 10)?;
        let state = {
            let loader = options(shuffle).epoch(1).open_dataset(&dataset)?;
            rest(loader.batches(10).take(3))?;
            loader.state()?
        };
        for case in 0..5 {
            let mut loader = options(shuffle).epochs(9).open_dataset(&dataset)?;
            rest(loader.batches(10))?;
            loader.set_epoch(1);
            let (batch_size, epoch, expected) = match case {
                0 => (10, 5, fresh(options(shuffle), &dataset, 5, 10)?),
                1 => (11, 1, fresh(options(shuffle), &dataset, 1, 11)?),
                2 => {
                    loader.load_state(&state)?;
                    (10, 1, all[3..].to_vec())
                }
                3 => {
                    loader.seek(5, 10)?;
                    (10, 1, all[5..].to_vec())
                }
                _ => (10, 1, all.clone()),
            };
            loader.set_epoch(epoch);
            let batches = loader.batches(batch_size);
            assert_eq!(begun(&batches), case == 4);
            assert!(rest(batches)? == expected, "{shuffle:?} {case}");
        }
        // An epoch that was left on the way is no end.
        let loader = options(shuffle).epochs(9).open_dataset(&dataset)?;
        rest(loader.batches(10).take(25))?;
        let mut loader = loader;
        loader.set_epoch(1);
        assert!(!begun(&loader.batches(10)));
    }
    Ok(())
}

#[test]
fn both_epochs_are_within_the_memory_budget() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let dataset = dataset(&dir.path().join("d"))?;
    for shuffle in MODES {
        for budget in [60_000, 80_000, 200_000] {
            let mut loader = options(shuffle)
                .fields(["image", "label"])
                .prefetch(100)
                .memory_budget(budget)
                .epochs(4)
                .open_dataset(&dataset)?;
            for epoch in 0..4 {
                loader.set_epoch(epoch);
                assert_eq!(rest(loader.batches(10))?.len(), 26);
            }
            let peak = loader.stats().peak_batch_bytes;
            assert!(peak <= budget, "{shuffle:?}: {peak} of {budget}");
        }
    }
    Ok(())
}

/// Visits of a block are not in the order of their first batches, and those of ragged fields wait for each other.
#[test]
fn ragged_fields_never_wait_for_a_plan_that_waits_for_them() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let dataset = dataset(&dir.path().join("d"))?;
    for window in [1, 3, 8, 30] {
        for (batch_size, epochs) in [(1, 1), (2, 2), (7, 12)] {
            for epoch in 0..epochs {
                let loader = options(Shuffle::Windowed { window })
                    .fields(["tokens"])
                    .prefetch(1)
                    .epoch(epoch);
                let batches = rest(loader.open_dataset(&dataset)?.batches(batch_size))?;
                assert_eq!(batches.len(), 257usize.div_ceil(batch_size));
            }
        }
    }
    Ok(())
}

#[test]
fn functions_ranks_and_mixtures_go_on_as_well() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let dataset = dataset(&dir.path().join("d"))?;
    let mixture = || {
        Mixture::new()
            .add(&dataset, 2.0)
            .add(&dataset, 1.0)
            .until(MixtureEnd::Samples(300))
    };
    for shuffle in MODES {
        let mapped = |loader: &Loader| {
            let mapped = loader.batches(10).map_ordered(|batch| Ok(content(&batch)));
            mapped.collect::<Result<Vec<_>>>()
        };
        let mut single = options(shuffle)
            .rank(1, 2)
            .epochs(3)
            .open_dataset(&dataset)?;
        let mut mixed = options(shuffle).epochs(3).open_mixture(&mixture())?;
        for epoch in 0..3 {
            single.set_epoch(epoch);
            mixed.set_epoch(epoch);
            let expected = fresh(options(shuffle).rank(1, 2), &dataset, epoch, 10)?;
            assert!(mapped(&single)? == expected);
            let other = options(shuffle).epoch(epoch).open_mixture(&mixture())?;
            assert!(mapped(&mixed)? == rest(other.batches(10))?);
        }
        for loader in [&mut single, &mut mixed] {
            loader.set_epoch(1);
            rest(loader.batches(10))?;
            loader.set_epoch(2);
            assert!(begun(&loader.batches(10)));
        }
    }
    Ok(())
}
