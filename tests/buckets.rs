//! Batches of samples of like lengths, through the whole pipeline.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::path::Path;

use common::Random;
use tensorshard::{
    Batch, DType, Dataset, ErrorKind, FieldOutput, FieldSpec, Loader, LoaderBuilder, LoaderState,
    Mixture, MixtureEnd, Ragged, Result, ShardWriter, Shuffle, Tail, TensorView, Windows,
    to_le_bytes,
};

const MODES: [Shuffle; 3] = [
    Shuffle::None,
    Shuffle::Windowed { window: 8 },
    Shuffle::Exact,
];

/// The length of a sample: most are short, few are long.
fn length(id: u64) -> usize {
    let mut random = Random(id);
    let most = 1 << random.below(7);
    random.below(most + 1)
}

/// `n` samples of `tokens` i32 [length, 2], whose values are the sample's id.
fn write(path: &Path, first: u64, n: u64, chunk: u32) -> Result<Dataset> {
    let writer = ShardWriter::builder()
        .field(FieldSpec::ragged("tokens", DType::I32, [None, Some(2)]))
        .field(FieldSpec::new("id", DType::I64, []))
        .samples_per_chunk(chunk)
        .max_shard_len(4_000);
    let mut writer = match path.exists() {
        true => writer.append_to(path)?,
        false => writer.create(path)?,
    };
    for id in first..first + n {
        let id_bytes = to_le_bytes(&[i64::try_from(id).unwrap()]);
        let rows = length(id);
        let tokens = to_le_bytes(&vec![i32::try_from(id).unwrap(); rows * 2]);
        writer.append(&[
            ("tokens", TensorView::new(DType::I32, &[rows, 2], &tokens)?),
            ("id", TensorView::new(DType::I64, &[], &id_bytes)?),
        ])?;
    }
    writer.finish()?;
    Dataset::open(path)
}

fn padded() -> FieldOutput {
    FieldOutput::new().ragged(Ragged::Padded).pad_to_multiple(8)
}

fn base(shuffle: Shuffle, pool_batches: u64) -> LoaderBuilder {
    Loader::builder()
        .shuffle(shuffle)
        .seed(3)
        .rank(0, 1)
        .output("tokens", padded())
        .global_batch_size(24)
        .bucket_by_length("tokens", pool_batches)
}

fn ids(batches: &[Batch]) -> Vec<u64> {
    let ids = batches.iter().flat_map(Batch::sample_ids);
    ids.copied().collect()
}

fn content(batches: &[Batch]) -> Vec<(u64, Vec<u64>, Vec<u8>)> {
    let bytes = |batch: &Batch| {
        let fields = batch.fields().iter();
        fields.flat_map(|field| field.data().to_vec()).collect()
    };
    batches
        .iter()
        .map(|batch| (batch.index(), batch.sample_ids().to_vec(), bytes(batch)))
        .collect()
}

fn all(loader: &Loader) -> Result<Vec<Batch>> {
    loader.batches(loader.batch_size().unwrap()).collect()
}

/// Every value is where it belongs, and what is padded is 0.
fn check_values(batch: &Batch) -> Result<()> {
    let tokens = batch.field("tokens")?;
    let rows = tokens.shape()[1];
    let longest = batch.sample_ids().iter().map(|&id| length(id)).max();
    assert_eq!(rows, longest.unwrap_or(0).next_multiple_of(8));
    let (mask_shape, mask) = tokens.mask().unwrap();
    assert_eq!(mask_shape, [batch.len(), rows]);
    let values = tokens.as_slice::<i32>()?;
    for (i, &id) in batch.sample_ids().iter().enumerate() {
        assert_eq!(tokens.sample_shape(i).unwrap(), [length(id), 2]);
        for row in 0..rows {
            let inside = row < length(id);
            assert_eq!(mask[i * rows + row], u8::from(inside));
            let expected = if inside {
                i32::try_from(id).unwrap()
            } else {
                0
            };
            let at = (i * rows + row) * 2;
            assert_eq!(values[at..at + 2], [expected; 2]);
        }
    }
    Ok(())
}

#[test]
fn every_sample_comes_once_in_batches_of_like_lengths() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let dataset = write(&dir.path().join("d"), 0, 500, 7)?;
    assert!(dataset.num_shards() > 2);
    for shuffle in MODES {
        for tail in [Tail::Short, Tail::Drop, Tail::Pad] {
            let plain = Loader::builder()
                .shuffle(shuffle)
                .seed(3)
                .rank(0, 1)
                .tail(tail)
                .output("tokens", padded())
                .open_dataset(&dataset)?;
            let without = plain.batches(24).collect::<Result<Vec<Batch>>>()?;
            let size = |batches: &[Batch]| -> usize {
                let of = |batch: &Batch| batch.field("tokens").unwrap().shape()[1] * batch.len();
                batches.iter().map(of).sum()
            };
            let mut before = size(&without);
            for pool_batches in [1, 4, 20, 1000] {
                let loader = base(shuffle, pool_batches)
                    .tail(tail)
                    .open_dataset(&dataset)?;
                let batches = all(&loader)?;
                assert_eq!(loader.num_batches(24), batches.len() as u64);
                assert_eq!(batches.len(), without.len());
                for (step, batch) in (0..).zip(&batches) {
                    check_values(batch)?;
                    assert_eq!(loader.ids_for(step, 24)?, batch.sample_ids());
                    let values = batch.field("id")?.as_slice::<i64>()?.iter();
                    assert!(
                        values
                            .map(|&x| u64::try_from(x).unwrap())
                            .eq(ids(std::slice::from_ref(batch)))
                    );
                }
                // The same samples in every pool; a tail stays as it is.
                let pool = usize::try_from(24 * pool_batches).unwrap();
                let (order, plain) = (ids(&batches), ids(&without));
                assert_eq!(order[480..], plain[480..]);
                for (pool, plain) in order[..480].chunks(pool).zip(plain[..480].chunks(pool)) {
                    let sorted = |ids: &[u64]| {
                        let mut ids = ids.to_vec();
                        ids.sort_unstable();
                        ids
                    };
                    assert_eq!(sorted(pool), sorted(plain));
                }
                // Larger pools pad less.
                let now = size(&batches);
                assert!(
                    now <= before,
                    "{shuffle:?} {pool_batches}: {now} of {before}"
                );
                before = now;
            }
            assert!(
                2 * before < size(&without),
                "{shuffle:?} {before} {}",
                size(&without)
            );
        }
    }
    Ok(())
}

#[test]
fn an_epoch_is_resumed_at_every_batch_whatever_the_threads_and_the_memory() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let dataset = write(&dir.path().join("d"), 0, 300, 5)?;
    let mut random = Random(1);
    for shuffle in MODES {
        let mut whole = base(shuffle, 4)
            .epoch(1)
            .num_workers(1)
            .open_dataset(&dataset)?;
        let expected = content(&all(&whole)?);
        assert_eq!(expected.len(), 13);
        for taken in 0..=expected.len() {
            whole.seek(taken as u64, 24)?;
            let state = whole.state()?;
            let json = state.to_json();
            assert!(json.len() < 1024);
            let state = LoaderState::from_json(&json)?;
            let mut resumed = base(shuffle, 4)
                .num_workers([1, 2, 3, 8][random.below(4)])
                .prefetch(1 + random.below(20))
                .memory_budget(20_000 << random.below(8))
                .open_dataset(&dataset)?;
            resumed.load_state(&state)?;
            assert_eq!(resumed.state()?, state);
            assert_eq!(
                content(&all(&resumed)?)[..],
                expected[taken..],
                "{shuffle:?} {taken}"
            );
        }
    }
    Ok(())
}

#[test]
fn ranks_share_the_same_batches_and_world_sizes_may_change() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let dataset = write(&dir.path().join("d"), 0, 300, 5)?;
    for shuffle in MODES {
        let open = |rank, world| base(shuffle, 3).rank(rank, world).open_dataset(&dataset);
        let expected = ids(&all(&open(0, 1)?)?);
        for (world, resumed_world) in [(1, 8), (2, 3), (3, 1), (4, 2), (8, 4)] {
            for taken in [0, 1, 5, 12] {
                let (mut found, mut state) = (Vec::new(), None);
                for (world, steps) in [(world, taken), (resumed_world, usize::MAX)] {
                    let mut ranks = Vec::new();
                    for rank in 0..world {
                        let mut loader = open(rank, world)?;
                        if let Some(state) = &state {
                            loader.load_state(state)?;
                        }
                        ranks.push(loader);
                    }
                    let mut parts = Vec::new();
                    for loader in &ranks {
                        let batches = loader.batches(loader.batch_size().unwrap()).take(steps);
                        parts.push(batches.collect::<Result<Vec<Batch>>>()?);
                    }
                    for step in 0..parts[0].len() {
                        for part in &parts {
                            check_values(&part[step])?;
                            found.extend_from_slice(part[step].sample_ids());
                        }
                    }
                    state = Some(ranks[0].state()?);
                    assert!(
                        ranks
                            .iter()
                            .all(|rank| rank.state().unwrap() == *state.as_ref().unwrap())
                    );
                }
                // Ranks have consecutive samples of a batch.
                assert_eq!(
                    found, expected,
                    "{shuffle:?} {world} {resumed_world} {taken}"
                );
            }
        }
    }
    Ok(())
}

#[test]
fn mixtures_weights_repeats_and_selections_are_bucketed_too() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let a = write(&dir.path().join("a"), 0, 200, 7)?;
    let b = write(&dir.path().join("b"), 200, 90, 4)?;
    let weights: Vec<f64> = (0..200).map(|i| f64::from(i % 4)).collect();
    type Open<'a> = Box<dyn Fn(LoaderBuilder) -> Result<Loader> + 'a>;
    let opens: [(Shuffle, Open<'_>); 6] = [
        (
            Shuffle::Exact,
            Box::new(|options| options.weights(weights.clone()).open_dataset(&a)),
        ),
        (
            Shuffle::windowed(),
            Box::new(|options| options.repeat(3).open_dataset(&a)),
        ),
        (
            Shuffle::windowed(),
            Box::new(|options| {
                options
                    .range(20..150)
                    .every_nth(3, 1)
                    .repeat(4)
                    .open_dataset(&a)
            }),
        ),
        (
            Shuffle::None,
            Box::new(|options| {
                options
                    .indices([5, 3, 5, 199, 0])
                    .repeat(20)
                    .open_dataset(&a)
            }),
        ),
        (
            Shuffle::windowed(),
            Box::new(|options| {
                let mixture = Mixture::new().add(&a, 2.0).add(&b, 1.0);
                options.open_mixture(&mixture.until(MixtureEnd::AllExhausted))
            }),
        ),
        (
            Shuffle::None,
            Box::new(|options| options.open_mixture(&Mixture::new().add(&a, 0.3).add(&b, 0.7))),
        ),
    ];
    for (case, (shuffle, open)) in opens.iter().enumerate() {
        let plain = open(Loader::builder().shuffle(*shuffle).seed(3).rank(0, 1))?;
        let plain = ids(&plain.batches(24).collect::<Result<Vec<Batch>>>()?);
        let mut loader = open(base(*shuffle, 2))?;
        let batches = all(&loader)?;
        let order = ids(&batches);
        assert_eq!(order.len(), plain.len());
        assert_ne!(order, plain);
        for (pool, plain) in order.chunks(48).zip(plain.chunks(48)) {
            let (mut pool, mut plain) = (pool.to_vec(), plain.to_vec());
            pool.sort_unstable();
            plain.sort_unstable();
            assert_eq!(pool, plain, "{case}");
        }
        for (step, batch) in (0..).zip(&batches) {
            check_values(batch)?;
            assert_eq!(loader.ids_for(step, 24)?, batch.sample_ids());
        }
        loader.seek(3, 24)?;
        let mut resumed = open(base(*shuffle, 2))?;
        resumed.load_state(&loader.state()?)?;
        assert_eq!(content(&all(&resumed)?), content(&batches)[3..], "{case}");
    }
    Ok(())
}

#[test]
fn an_epoch_goes_on_without_samples_that_were_appended() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("d");
    let dataset = write(&path, 0, 300, 5)?;
    let mut loader = base(Shuffle::windowed(), 4).open_dataset(&dataset)?;
    let expected = content(&all(&loader)?);
    loader.seek(5, 24)?;
    let state = loader.state()?;
    let longer = write(&path, 300, 100, 5)?;
    assert_eq!(longer.len(), 400);
    let mut resumed = base(Shuffle::windowed(), 4).open_dataset(&longer)?;
    resumed.load_state(&state)?;
    assert_eq!(content(&all(&resumed)?)[..], expected[5..]);
    resumed.set_epoch(1);
    assert_eq!(ids(&all(&resumed)?).len(), 400);
    Ok(())
}

#[test]
fn what_cannot_be_bucketed_is_refused() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let dataset = write(&dir.path().join("d"), 0, 50, 5)?;
    let refused = |options: LoaderBuilder, word: &str| {
        let error = options.open_dataset(&dataset).unwrap_err();
        assert!(
            matches!(error.kind(), ErrorKind::InvalidArgument { .. }),
            "{error}"
        );
        assert!(error.to_string().contains(word), "{error}");
    };
    let alone = Loader::builder().rank(0, 1);
    refused(
        alone.clone().bucket_by_length("tokens", 3),
        "global_batch_size",
    );
    refused(base(Shuffle::None, 0), "at least 1 batch");
    refused(
        base(Shuffle::None, 1).windows(Windows::new(2)),
        "whole samples",
    );
    refused(
        base(Shuffle::None, 1).bucket_by_length("id", 1),
        "same length",
    );
    refused(base(Shuffle::None, 1).bucket_by_length("words", 1), "words");
    let output = FieldOutput::new().pad_to_multiple(8);
    refused(alone.clone().output("tokens", output), "padded");
    let output = FieldOutput::new().ragged(Ragged::Padded).pad_to_multiple(0);
    refused(alone.output("tokens", output), "at least 1");
    // Bytes that nobody has are an error, and not an end of the process.
    let huge = FieldOutput::new()
        .ragged(Ragged::Padded)
        .pad_to_multiple(usize::MAX / 2);
    let loader = base(Shuffle::None, 1)
        .output("tokens", huge)
        .open_dataset(&dataset)?;
    assert!(all(&loader).is_err());

    let state = base(Shuffle::Exact, 3).open_dataset(&dataset)?.state()?;
    for (options, name) in [
        (base(Shuffle::Exact, 4), "pool_batches"),
        (
            base(Shuffle::Exact, 3).global_batch_size(12),
            "global_batch_size",
        ),
        (
            Loader::builder().seed(3).rank(0, 1).shuffle(Shuffle::Exact),
            "bucket_by_length",
        ),
    ] {
        let error = options
            .open_dataset(&dataset)?
            .load_state(&state)
            .unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::StateMismatch { .. }));
        assert!(error.to_string().contains(name), "{error}");
    }
    // The field need not be among those that are delivered.
    let some = Loader::builder()
        .shuffle(Shuffle::Exact)
        .seed(3)
        .rank(0, 1)
        .fields(["id"])
        .global_batch_size(24)
        .bucket_by_length("tokens", 3);
    let order = ids(&all(&some.open_dataset(&dataset)?)?);
    assert_eq!(
        order,
        ids(&all(&base(Shuffle::Exact, 3).open_dataset(&dataset)?)?)
    );
    Ok(())
}

#[test]
fn chunks_are_decoded_once_for_a_pool_that_fits() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let dataset = write(&dir.path().join("d"), 0, 960, 8)?;
    let amplification = |shuffle, pool_batches, budget| -> Result<f64> {
        let loader = base(shuffle, pool_batches).memory_budget(budget);
        let loader = loader.open_dataset(&dataset)?;
        assert_eq!(ids(&all(&loader)?).len(), 960);
        Ok(loader.stats().amplification())
    };
    let ample = 1 << 30;
    // Pools are made of whole chunks here.
    assert!((amplification(Shuffle::None, 10, ample)? - 1.0).abs() < 1e-9);
    // A window reaches over several pools.
    let pools = amplification(Shuffle::windowed(), 10, ample)?;
    let whole = amplification(Shuffle::windowed(), 40, ample)?;
    assert!(whole < 1.01 && pools < 4.0, "{whole} {pools}");
    // Without room for a pool, chunks come again.
    assert!(amplification(Shuffle::None, 10, 40_000)? > 2.0);
    Ok(())
}

#[test]
fn epochs_follow_each_other_without_a_pause_and_differ() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let dataset = write(&dir.path().join("d"), 0, 300, 5)?;
    for shuffle in MODES {
        let mut loader = base(shuffle, 4).epochs(3).open_dataset(&dataset)?;
        let mut orders = Vec::new();
        for epoch in 0..3 {
            loader.set_epoch(epoch);
            let batches = all(&loader)?;
            let alone = base(shuffle, 4).epoch(epoch).open_dataset(&dataset)?;
            assert_eq!(content(&batches), content(&all(&alone)?));
            orders.push(ids(&batches));
        }
        assert_eq!(orders[0] == orders[1], shuffle == Shuffle::None);
        assert_eq!(orders[1] == orders[2], shuffle == Shuffle::None);
    }
    Ok(())
}
