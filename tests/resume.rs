//! Resuming, seeking and sharing an epoch, through the whole pipeline.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::path::Path;
use std::sync::Arc;

use common::{Random, small_dataset};
use tensorshard::{
    Batch, Bitmap, DType, Dataset, ErrorKind, FieldSpec, Loader, LoaderBuilder, LoaderState,
    Mixture, MixtureEnd, Result, ShardWriter, Shuffle, Split, Tail, TensorView,
};

const MODES: [Shuffle; 4] = [
    Shuffle::None,
    Shuffle::Windowed { window: 1 },
    Shuffle::Windowed { window: 8 },
    Shuffle::Exact,
];

/// 257 samples in several shards.
fn write(path: &Path) -> Result<Dataset> {
    let builder = ShardWriter::builder()
        .samples_per_chunk(5)
        .max_shard_len(13_000);
    let dataset = small_dataset(path, 257, builder)?;
    assert!(dataset.len() == 257 && dataset.num_shards() > 4);
    Ok(dataset)
}

fn ids(batches: &[Batch]) -> Vec<u64> {
    batches
        .iter()
        .flat_map(|batch| batch.sample_ids().iter().copied())
        .collect()
}

/// Sample ids and bytes of every batch.
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

fn all(loader: &Loader, batch_size: usize) -> Result<Vec<Batch>> {
    loader.batches(batch_size).collect()
}

#[test]
fn resuming_at_every_batch_gives_the_same_suffix() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let dataset = write(&dir.path().join("d"))?;
    let mut random = Random(1);
    for shuffle in MODES {
        for drop_last in [false, true] {
            for epoch in [0, 1] {
                let base = || {
                    Loader::builder()
                        .shuffle(shuffle)
                        .seed(3)
                        .drop_last(drop_last)
                };
                let mut whole = base().epoch(epoch).open_dataset(&dataset)?;
                let expected = content(&all(&whole, 16)?);
                let ended = whole.state()?;
                assert_eq!((ended.consumed(), ended.epoch()), (257, epoch));
                for taken in 0..=expected.len() {
                    let before: Result<Vec<Batch>> = whole.batches(16).take(taken).collect();
                    assert_eq!(content(&before?)[..], expected[..taken]);
                    let state = whole.state()?;
                    let json = state.to_json();
                    assert!(json.len() < 1024);
                    let state = LoaderState::from_json(&json)?;
                    let threads = [1, 2, 3, 8][random.below(4)];
                    let mut resumed = base()
                        .num_workers(threads)
                        .prefetch(1 + random.below(20))
                        .memory_budget(100_000 << random.below(8))
                        .open_dataset(&dataset)?;
                    resumed.load_state(&state)?;
                    assert_eq!(resumed.state()?, state);
                    let found = content(&all(&resumed, 16)?);
                    assert_eq!(found[..], expected[taken..], "{shuffle:?} {taken}");
                    // What comes after the resumed epoch is whole.
                    resumed.set_epoch(epoch + 1);
                    whole.set_epoch(epoch + 1);
                    if taken % 5 == 0 {
                        assert_eq!(content(&all(&resumed, 16)?), content(&all(&whole, 16)?));
                    }
                    whole.set_epoch(epoch);
                }
            }
        }
    }
    Ok(())
}

#[test]
fn chains_of_resumes_and_other_world_sizes_lose_and_repeat_nothing() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let dataset = write(&dir.path().join("d"))?;
    let mut random = Random(2);
    for shuffle in MODES {
        let open = |rank, world, state: Option<&LoaderState>| -> Result<Loader> {
            let mut loader = Loader::builder()
                .shuffle(shuffle)
                .seed(1)
                .rank(rank, world)
                .num_workers(2)
                .global_batch_size(24)
                .open_dataset(&dataset)?;
            if let Some(state) = state {
                loader.load_state(state)?;
            }
            Ok(loader)
        };
        let expected = ids(&all(&open(0, 1, None)?, 24)?);
        for _ in 0..6 {
            let mut state: Option<LoaderState> = None;
            let mut found = Vec::new();
            for chain in 0..4 {
                let world = [1, 2, 3, 4, 8][random.below(5)];
                // The last one goes on to the end.
                let steps = if chain == 3 {
                    usize::MAX
                } else {
                    random.below(4)
                };
                let mut loaders = Vec::new();
                for rank in 0..world {
                    loaders.push(open(rank, world, state.as_ref())?);
                }
                let mut iterators: Vec<_> = loaders
                    .iter()
                    .map(|loader| loader.batches(loader.batch_size().unwrap()).take(steps))
                    .collect();
                loop {
                    let step: Vec<_> = iterators.iter_mut().map(Iterator::next).collect();
                    if step.iter().any(Option::is_none) {
                        assert!(step.iter().all(Option::is_none));
                        break;
                    }
                    let mut batch = Vec::new();
                    for own in step.into_iter().flatten() {
                        batch.extend_from_slice(own?.sample_ids());
                    }
                    // The same samples as the whole batch, dealt out to ranks.
                    let mut global = expected[found.len()..(found.len() + 24).min(257)].to_vec();
                    found.extend_from_slice(&global);
                    batch.sort_unstable();
                    global.sort_unstable();
                    assert_eq!(batch, global, "{shuffle:?}, world {world}");
                }
                drop(iterators);
                let states: Vec<_> = loaders.iter().map(Loader::state).collect::<Result<_>>()?;
                assert!(states.iter().all(|state| *state == states[0]));
                state = states.into_iter().next();
            }
            assert_eq!(found, expected);
        }
    }
    Ok(())
}

#[test]
fn seek_skip_and_ids_for_agree_with_the_epoch() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let dataset = write(&dir.path().join("d"))?;
    for shuffle in MODES {
        for (rank, world) in [(0, 1), (1, 3)] {
            for tail in [Tail::Short, Tail::Drop, Tail::Pad] {
                let mut loader = Loader::builder()
                    .shuffle(shuffle)
                    .rank(rank, world)
                    .tail(tail)
                    .open_dataset(&dataset)?;
                let batches = all(&loader, 10)?;
                assert_eq!(batches.len() as u64, loader.num_batches(10));
                for (step, batch) in (0..).zip(&batches) {
                    assert_eq!(loader.ids_for(step, 10)?, batch.sample_ids());
                }
                assert!(loader.ids_for(batches.len() as u64, 10).is_err());
                for step in [0, 3, batches.len() as u64] {
                    loader.seek(step, 10)?;
                    let rest = content(&all(&loader, 10)?);
                    assert_eq!(rest, content(&batches)[usize::try_from(step).unwrap()..]);
                }
                assert!(loader.seek(batches.len() as u64 + 1, 10).is_err());
                // A bad stretch is left out.
                let mut before = loader.batches(10);
                before.next().unwrap()?;
                before.next().unwrap()?;
                drop(before);
                loader.skip(3, 10)?;
                assert_eq!(content(&all(&loader, 10)?), content(&batches)[5..]);
                assert!(loader.skip(100, 10).is_err());
            }
        }
    }
    Ok(())
}

#[test]
fn tails_are_short_dropped_or_padded() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let dataset = write(&dir.path().join("d"))?;
    for shuffle in MODES {
        for (batch_size, world) in [(16, 1), (8, 4), (64, 3), (3, 8), (85, 3)] {
            let ranks = |tail| -> Result<Vec<Vec<Batch>>> {
                (0..world)
                    .map(|rank| {
                        let loader = Loader::builder()
                            .shuffle(shuffle)
                            .rank(rank, world)
                            .tail(tail)
                            .open_dataset(&dataset)?;
                        all(&loader, batch_size)
                    })
                    .collect()
            };
            let global = batch_size * usize::try_from(world).unwrap();
            for tail in [Tail::Short, Tail::Drop, Tail::Pad] {
                let ranks = ranks(tail)?;
                let steps = match tail {
                    Tail::Drop => 257 / global,
                    _ => 257_usize.div_ceil(global),
                };
                assert!(ranks.iter().all(|batches| batches.len() == steps));
                let mut once = Vec::new();
                for batch in ranks.iter().flatten() {
                    let mask = batch.mask();
                    let padded = mask.iter().filter(|&&real| !real).count();
                    assert_eq!(padded, batch.num_padded());
                    let real = batch.sample_ids().iter().zip(mask);
                    once.extend(real.filter(|(_, real)| *real).map(|(&id, _)| id));
                    if tail != Tail::Short {
                        assert_eq!(
                            (batch.len(), batch.fields()[0].num_samples()),
                            (batch_size, batch_size)
                        );
                    }
                    // A repeated sample has its values too.
                    for (i, &id) in batch.sample_ids().iter().enumerate() {
                        let label = batch.field("label")?.as_slice::<i64>()?[i];
                        assert_eq!(u64::try_from(label).unwrap(), id);
                    }
                }
                once.sort_unstable();
                once.dedup();
                let expected = if tail == Tail::Drop {
                    steps * global
                } else {
                    257
                };
                assert_eq!(once.len(), expected, "{shuffle:?} {tail:?}");
            }
        }
    }
    Ok(())
}

#[test]
fn replicas_receive_the_same_samples() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let dataset = write(&dir.path().join("d"))?;
    let rank = |rank| -> Result<Vec<u64>> {
        let loader = Loader::builder()
            .shuffle(Shuffle::windowed())
            .rank(rank, 4)
            .replicas(2)
            .open_dataset(&dataset)?;
        assert_eq!(loader.num_batches(8), 257_u64.div_ceil(16));
        Ok(ids(&all(&loader, 8)?))
    };
    let ranks = (0..4).map(rank).collect::<Result<Vec<_>>>()?;
    assert_eq!(ranks[0], ranks[1]);
    assert_eq!(ranks[2], ranks[3]);
    let mut both = [ranks[0].clone(), ranks[2].clone()].concat();
    both.sort_unstable();
    assert_eq!(both, (0..257).collect::<Vec<_>>());
    Ok(())
}

#[test]
fn what_is_not_this_loaders_state_is_refused_and_named() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let dataset = write(&dir.path().join("d"))?;
    let other = write(&dir.path().join("other"))?;
    let open = |builder: LoaderBuilder| builder.open_dataset(&dataset);
    let windowed = || Loader::builder().shuffle(Shuffle::Windowed { window: 8 });
    let state = open(windowed())?.state()?;
    let message = |mut loader: Loader| {
        let error = loader.load_state(&state).unwrap_err();
        assert!(
            matches!(error.kind(), ErrorKind::StateMismatch { .. }),
            "{error}"
        );
        error.to_string()
    };
    assert!(message(open(windowed().seed(1))?).contains("seed is 0 in the state and 1 here"));
    assert!(message(open(Loader::builder())?).contains("shuffle"));
    let wider = Loader::builder().shuffle(Shuffle::Windowed { window: 9 });
    assert!(message(open(wider)?).contains("shuffle_window is 8 in the state and 9 here"));
    assert!(message(open(windowed().lanes(4))?).contains("lanes"));
    assert!(message(open(windowed().repeat(2))?).contains("repeat"));
    assert!(message(open(windowed().range(0..100))?).contains("selection"));
    assert!(message(windowed().open_dataset(&other)?).contains("fingerprint"));
    // Another way to get there is no other order.
    let mut same = open(windowed().num_workers(1).tail(Tail::Pad).rank(1, 2))?;
    same.load_state(&state)?;
    Ok(())
}

#[test]
fn selections_hold_together_with_shuffles_ranks_and_resumes() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let dataset = write(&dir.path().join("d"))?;
    let third = Bitmap::from_predicate(&dataset, ["label"], |batch, i| {
        Ok(batch.field("label")?.as_slice::<i64>()?[i] % 3 == 0)
    })?;
    let third = Arc::new(third);
    let split = |part: std::ops::Range<f64>| {
        move |builder: LoaderBuilder| builder.split(Split::by_id(part.clone()))
    };
    type Select = Box<dyn Fn(LoaderBuilder) -> LoaderBuilder>;
    let by_three = Arc::clone(&third);
    let selections: Vec<(Select, Option<Vec<u64>>)> = vec![
        (Box::new(|b| b.range(30..100)), Some((30..100).collect())),
        (
            Box::new(|b| b.every_nth(4, 1)),
            Some((1..257).step_by(4).collect()),
        ),
        (
            Box::new(move |b| b.filter(Arc::clone(&by_three))),
            Some((0..257).step_by(3).collect()),
        ),
        (
            Box::new(|b| b.indices(vec![200, 3, 3, 77, 200, 1])),
            Some(vec![1, 3, 3, 77, 200, 200]),
        ),
        (Box::new(split(0.0..0.7)), None),
        (Box::new(|b| b.range(0..0)), Some(Vec::new())),
    ];
    for (select, expected) in &selections {
        for shuffle in MODES {
            for repeat in [1, 2] {
                let open = |rank, world| {
                    select(Loader::builder().shuffle(shuffle).rank(rank, world))
                        .repeat(repeat)
                        .open_dataset(&dataset)
                };
                let whole = open(0, 1)?;
                let order = ids(&all(&whole, 6)?);
                if let Some(expected) = expected {
                    let n = expected.len();
                    for pass in order.chunks(n.max(1)) {
                        let mut pass = pass.to_vec();
                        pass.sort_unstable();
                        assert_eq!(pass, *expected, "{shuffle:?}");
                    }
                    assert_eq!(order.len(), n * usize::try_from(repeat).unwrap());
                    if repeat == 2 && n > 60 && shuffle != Shuffle::None {
                        assert_ne!(order[..n], order[n..]);
                    }
                }
                let mut ranks = Vec::new();
                for rank in 0..3 {
                    ranks.extend(ids(&all(&open(rank, 3)?, 2)?));
                }
                ranks.sort_unstable();
                let mut sorted = order.clone();
                sorted.sort_unstable();
                assert_eq!(ranks, sorted, "{shuffle:?}");
                let mut loader = open(0, 1)?;
                let taken: Result<Vec<Batch>> = loader.batches(6).take(4).collect();
                let taken = ids(&taken?);
                loader.load_state(&loader.state()?)?;
                assert_eq!([taken, ids(&all(&loader, 6)?)].concat(), order);
            }
        }
    }
    let key = Loader::builder().split(Split::by_key(0.0..0.5));
    let error = key.open_dataset(&dataset).unwrap_err();
    assert!(error.to_string().contains("key field"), "{error}");
    Ok(())
}

#[test]
fn an_epoch_ends_on_the_shards_it_began_with() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("d");
    let field = || FieldSpec::new("x", DType::U8, [3]);
    let fill = |mut writer: ShardWriter, n: u8| -> Result<()> {
        for i in 0..n {
            writer.append(&[("x", TensorView::new(DType::U8, &[3], &[i; 3])?)])?;
        }
        writer.finish()?;
        Ok(())
    };
    let builder = || ShardWriter::builder().samples_per_chunk(4);
    fill(builder().field(field()).create(&path)?, 50)?;
    for shuffle in MODES {
        let open = || Loader::builder().shuffle(shuffle).open(&path);
        let before = open()?;
        let n = before.num_samples();
        let expected = ids(&all(&before, 7)?);
        let taken: Result<Vec<Batch>> = before.batches(7).take(3).collect();
        drop(taken?);
        let state = before.state()?;
        fill(builder().append_to(&path)?, 30)?;
        let mut after = open()?;
        assert_eq!(after.num_samples(), n + 30);
        after.load_state(&state)?;
        assert_eq!(after.num_samples(), n);
        assert_eq!(ids(&all(&after, 7)?), expected[21..], "{shuffle:?}");
        assert_eq!(after.state()?.num_samples(), n);
        // The next epoch has what was appended.
        after.set_epoch(1);
        assert_eq!(
            all(&after, 7)?.iter().map(Batch::len).sum::<usize>() as u64,
            n + 30
        );
        // The longer dataset's state is not the shorter one's.
        let longer = after.state()?;
        assert!(after.load_state(&longer).is_ok());
        let mut short = before.clone();
        let error = short.load_state(&longer).unwrap_err();
        assert!(
            matches!(error.kind(), ErrorKind::StateMismatch { .. }),
            "{error}"
        );
    }
    Ok(())
}

#[test]
fn another_global_batch_size_goes_on_where_the_state_stands() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let dataset = write(&dir.path().join("d"))?;
    for shuffle in MODES {
        let mut loader = Loader::builder().shuffle(shuffle).open_dataset(&dataset)?;
        let expected = ids(&all(&loader, 10)?);
        let taken: Result<Vec<Batch>> = loader.batches(10).take(3).collect();
        let mut found = ids(&taken?);
        loader.load_state(&loader.state()?)?;
        found.extend(ids(&all(&loader, 7)?));
        assert_eq!(found, expected);
    }
    let wrong = Loader::builder()
        .rank(0, 2)
        .global_batch_size(20)
        .open_dataset(&dataset)?;
    assert_eq!(wrong.batch_size(), Some(10));
    let error = wrong.batches(20).next().unwrap().unwrap_err();
    assert!(
        error.to_string().contains("batch_size is 10, not 20"),
        "{error}"
    );
    let odd = Loader::builder()
        .rank(0, 3)
        .global_batch_size(20)
        .open_dataset(&dataset)?;
    assert_eq!(odd.batch_size(), None);
    assert!(odd.batches(7).next().unwrap().is_err());
    Ok(())
}

/// `n` samples of one field, an i64 that begins at `first`.
fn numbers(path: &Path, first: i64, n: i64, per_chunk: u32) -> Result<Dataset> {
    let mut writer = ShardWriter::builder()
        .field(FieldSpec::new("x", DType::I64, []))
        .samples_per_chunk(per_chunk)
        .create(path)?;
    for i in first..first + n {
        writer.append(&[("x", TensorView::new(DType::I64, &[], &i.to_le_bytes())?)])?;
    }
    writer.finish()?;
    Dataset::open(path)
}

#[test]
fn mixtures_keep_their_proportions_and_resume_like_one_dataset() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let parts = [
        numbers(&dir.path().join("a"), 0, 300, 7)?,
        numbers(&dir.path().join("b"), 300, 40, 3)?,
        numbers(&dir.path().join("c"), 340, 90, 10)?,
    ];
    let mixture = |end| {
        Mixture::new()
            .add(&parts[0], 3.0)
            .add(&parts[1], 1.0)
            .add_part(&parts[2], 2.0, &Loader::builder().range(10..90))
            .until(end)
    };
    for shuffle in MODES {
        for (end, len) in [
            (MixtureEnd::FirstExhausted, 236..=241),
            (MixtureEnd::AllExhausted, 597..=603),
            (MixtureEnd::Samples(150), 150..=150),
        ] {
            let open = |rank, world| {
                Loader::builder()
                    .shuffle(shuffle)
                    .rank(rank, world)
                    .open_mixture(&mixture(end))
            };
            let mut loader = open(0, 1)?;
            let batches = all(&loader, 12)?;
            let order = ids(&batches);
            assert!(len.contains(&order.len()), "{end:?} {}", order.len());
            assert_eq!(loader.num_samples(), order.len() as u64);
            let mut counts = [0_i64; 3];
            let mut times = vec![0; 430];
            for batch in &batches {
                let values = batch.field("x")?.as_slice::<i64>()?;
                for (&id, &value) in batch.sample_ids().iter().zip(values) {
                    assert_eq!(u64::try_from(value).unwrap(), id);
                    let (source, sample) = loader.source_of(id);
                    assert_eq!(sample, id - [0, 300, 340][source]);
                    assert!(source != 2 || sample >= 10);
                    counts[source] += 1;
                    times[usize::try_from(id).unwrap()] += 1;
                }
                if batch.len() == 12 {
                    // Every batch is a fair part.
                    let own = |source| {
                        let of = |id: &&u64| loader.source_of(**id).0 == source;
                        batch.sample_ids().iter().filter(of).count()
                    };
                    assert_eq!([own(0), own(1), own(2)], [6, 2, 4]);
                }
            }
            match end {
                MixtureEnd::FirstExhausted => assert!(times.iter().all(|&n| n <= 1)),
                MixtureEnd::AllExhausted => {
                    let all = (0..430).filter(|i| !(340..350).contains(i));
                    assert!(all.into_iter().all(|i: usize| times[i] >= 1), "{shuffle:?}");
                }
                MixtureEnd::Samples(_) => {}
            }
            // What one dataset has left comes in the next epoch, before anything comes again.
            loader.set_epoch(1);
            for (step, batch) in (0..).zip(all(&loader, 12)?) {
                assert_eq!(loader.ids_for(step, 12)?, batch.sample_ids());
                for &id in batch.sample_ids() {
                    times[usize::try_from(id).unwrap()] += 1;
                }
            }
            if end == MixtureEnd::Samples(150) {
                assert!(times[..300].iter().all(|&n| n <= 1), "{shuffle:?}");
            }
            loader.set_epoch(0);
            for (step, batch) in (0..).zip(&batches) {
                assert_eq!(loader.ids_for(step, 12)?, batch.sample_ids());
            }
            for taken in [0, 1, 5, 12] {
                let before: Result<Vec<Batch>> = loader.batches(12).take(taken).collect();
                drop(before?);
                let mut resumed = open(0, 1)?;
                resumed.load_state(&LoaderState::from_json(&loader.state()?.to_json())?)?;
                assert_eq!(content(&all(&resumed, 12)?), content(&batches)[taken..]);
            }
            let mut ranks = Vec::new();
            for rank in 0..3 {
                ranks.extend(ids(&all(&open(rank, 3)?, 4)?));
            }
            let mut sorted = order.clone();
            ranks.sort_unstable();
            sorted.sort_unstable();
            assert_eq!(ranks, sorted, "{shuffle:?} {end:?}");
            let error = loader.load_state(&Loader::builder().open_dataset(&parts[0])?.state()?);
            assert!(matches!(
                error.unwrap_err().kind(),
                ErrorKind::StateMismatch { .. }
            ));
        }
    }
    let other = write(&dir.path().join("d"))?;
    let wrong = Mixture::new().add(&parts[0], 1.0).add(&other, 1.0);
    let error = Loader::builder().open_mixture(&wrong).unwrap_err();
    assert!(error.to_string().contains("the same fields"), "{error}");
    Ok(())
}

#[test]
fn weights_draw_samples_in_proportion_and_resume() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let dataset = numbers(&dir.path().join("a"), 0, 2000, 50)?;
    let weights: Vec<f64> = (0..2000).map(|i| f64::from(i % 3)).collect();
    let open = || {
        Loader::builder()
            .shuffle(Shuffle::Exact)
            .weights(weights.clone())
            .open_dataset(&dataset)
    };
    let mut loader = open()?;
    let batches = all(&loader, 64)?;
    let order = ids(&batches);
    assert_eq!(order.len(), 2000);
    let of = |rest| order.iter().filter(|&&id| id % 3 == rest).count();
    assert_eq!(of(0), 0);
    assert!((1230..1440).contains(&of(2)), "{}", of(2));
    for (step, batch) in (0..).zip(&batches) {
        assert_eq!(loader.ids_for(step, 64)?, batch.sample_ids());
        let values = batch.field("x")?.as_slice::<i64>()?.iter();
        let ids = batch.sample_ids().iter();
        assert!(
            values
                .zip(ids)
                .all(|(&x, &id)| u64::try_from(x).unwrap() == id)
        );
    }
    loader.seek(7, 64)?;
    let mut resumed = open()?;
    resumed.load_state(&loader.state()?)?;
    assert_eq!(content(&all(&resumed, 64)?), content(&batches)[7..]);
    let few = Loader::builder().shuffle(Shuffle::Exact).weights([1.0]);
    assert!(few.open_dataset(&dataset).is_err());
    Ok(())
}

#[test]
fn weights_are_given_anew_when_samples_were_appended() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a");
    let dataset = numbers(&path, 0, 200, 10)?;
    let open = |dataset: &Dataset, weights: usize| {
        Loader::builder()
            .shuffle(Shuffle::Exact)
            .weights(vec![1.0; weights])
            .open_dataset(dataset)
    };
    let mut loader = open(&dataset, 200)?;
    loader.seek(3, 16)?;
    let state = loader.state()?;
    let mut writer = ShardWriter::builder().append_to(&path)?;
    for i in 200..230_i64 {
        writer.append(&[("x", TensorView::new(DType::I64, &[], &i.to_le_bytes())?)])?;
    }
    writer.finish()?;
    let longer = Dataset::open(&path)?;
    for weights in [200, 229, 231] {
        let error = open(&longer, weights).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::InvalidArgument { .. }));
        let message = error.to_string();
        assert!(
            message.contains(&format!("{weights} weights for 230 samples")),
            "{message}"
        );
    }
    // An epoch that was drawn from fewer samples is not continued with more of them.
    let mut longer = open(&longer, 230)?;
    let error = longer.load_state(&state).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::StateMismatch { .. }));
    assert!(error.to_string().contains("drawn by weight"), "{error}");
    assert_eq!(all(&longer, 16)?.len(), 15);
    // With the samples that it had, it is.
    let mut resumed = open(&dataset, 200)?;
    resumed.load_state(&state)?;
    assert_eq!(all(&resumed, 16)?.len(), 10);
    Ok(())
}

#[test]
fn ranks_decode_a_chunk_once_between_them_and_say_so() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let dataset = numbers(&dir.path().join("a"), 0, 16_000, 16)?;
    // Where lanes meet in a chunk it is visited twice, by one rank as by many.
    let mut alone = 0.0;
    for (world, lanes) in [(1, 48), (2, 48), (3, 48), (4, 48), (8, 48)] {
        let (mut visited, mut planned) = (0, 0);
        for rank in 0..world {
            let loader = Loader::builder()
                .shuffle(Shuffle::windowed())
                .lanes(lanes)
                .rank(rank, world)
                .global_batch_size(192)
                .open_dataset(&dataset)?;
            let num_samples: usize = all(&loader, loader.batch_size().unwrap())?
                .iter()
                .map(Batch::len)
                .sum();
            let stats = loader.stats();
            assert_eq!(stats.planned_samples, num_samples as u64);
            visited += stats.visited_samples;
            planned += stats.planned_samples;
        }
        assert_eq!(planned, 16_000);
        let amplification = visited as f64 / planned as f64;
        if world == 1 {
            alone = amplification;
        }
        assert!(amplification <= 1.1 * alone, "{world}: {amplification}");
    }
    Ok(())
}

#[test]
fn threads_and_worlds_change_nothing_of_mixtures_repeats_and_weights() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let a = numbers(&dir.path().join("a"), 0, 130, 7)?;
    let b = numbers(&dir.path().join("b"), 130, 50, 3)?;
    let weights: Vec<f64> = (0..130).map(|i| f64::from(i % 4)).collect();
    type Open<'a> = Box<dyn Fn(LoaderBuilder) -> Result<Loader> + 'a>;
    let mixture = || {
        let mixture = Mixture::new().add(&a, 2.0).add(&b, 1.0);
        mixture.until(MixtureEnd::AllExhausted)
    };
    let mut sources: Vec<(Shuffle, Open<'_>)> = Vec::new();
    for shuffle in MODES {
        sources.push((
            shuffle,
            Box::new(|options| options.open_mixture(&mixture())),
        ));
        sources.push((
            shuffle,
            Box::new(|options| options.repeat(2).open_dataset(&a)),
        ));
    }
    sources.push((
        Shuffle::Exact,
        Box::new(|options| options.weights(weights.clone()).open_dataset(&a)),
    ));
    let mut random = Random(5);
    for (case, (shuffle, open)) in sources.iter().enumerate() {
        for tail in [Tail::Short, Tail::Drop, Tail::Pad] {
            let base = || {
                let options = Loader::builder().shuffle(*shuffle).tail(tail).seed(2);
                options.epoch(1).global_batch_size(24)
            };
            let whole = open(base().rank(0, 1).num_workers(1))?;
            let expected = ids(&all(&whole, 24)?);
            let steps = whole.num_batches(24);
            for threads in [1, 2, 3, 8] {
                let worlds = [1, 2, 3, 4, 8];
                let worlds = [worlds[random.below(5)], worlds[random.below(5)]];
                let taken = random.below(usize::try_from(steps).unwrap() + 1);
                let (mut found, mut state) = (Vec::new(), None::<String>);
                for (world, steps) in worlds.into_iter().zip([taken, usize::MAX]) {
                    let mut parts = Vec::new();
                    let mut states = Vec::new();
                    for rank in 0..world {
                        let mut loader = open(base().rank(rank, world).num_workers(threads))?;
                        if let Some(json) = &state {
                            loader.load_state(&LoaderState::from_json(json)?)?;
                        }
                        let batches = loader.batches(loader.batch_size().unwrap()).take(steps);
                        parts.push(batches.collect::<Result<Vec<Batch>>>()?);
                        states.push(loader.state()?.to_json());
                    }
                    for step in 0..parts[0].len() {
                        assert!(parts.iter().all(|part| part.len() == parts[0].len()));
                        let mut batch: Vec<u64> = Vec::new();
                        for part in &parts {
                            batch.extend_from_slice(part[step].sample_ids());
                        }
                        batch.sort_unstable();
                        found.push(batch);
                    }
                    assert!(states.iter().all(|state| *state == states[0]));
                    state = states.pop();
                }
                let expected = expected.chunks(24).map(|batch| {
                    let mut batch = batch.to_vec();
                    batch.sort_unstable();
                    batch
                });
                assert!(
                    found.into_iter().eq(expected),
                    "{case} {shuffle:?} {tail:?} {threads} threads, {worlds:?} after {taken}"
                );
            }
        }
    }
    Ok(())
}
