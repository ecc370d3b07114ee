//! Damaged chunks while training: an error, or skipped, the same way whatever the workers, and listed.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]
#![expect(
    clippy::cast_possible_truncation,
    reason = "small numbers made for tests"
)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use common::{Random, small_dataset};
use tensorshard::{
    Batch, Damaged, Dataset, FieldOutput, Loader, LoaderBuilder, Mixture, Ragged, Result,
    ShardWriter, Shuffle,
};

fn dataset(path: &Path) -> Result<Dataset> {
    let builder = ShardWriter::builder()
        .samples_per_chunk(8)
        .max_shard_len(12_000)
        .shard_ids_from(1);
    small_dataset(path, 200, builder)
}

/// Flips bytes of some chunks. Returns the samples that `verify` calls damaged, by chunk.
fn damage(path: &Path, seed: u64, flips: usize) -> Result<Vec<std::ops::Range<u64>>> {
    let mut random = Random(seed);
    let report = Dataset::open(path)?.inspect()?;
    for _ in 0..flips {
        let shard = &report.shards[random.below(report.shards.len())];
        let file = path.join(&shard.file_name);
        let mut bytes = fs::read(&file).unwrap();
        let at = 700 + random.below(bytes.len() - 1200);
        bytes[at] ^= 1 + random.below(255) as u8;
        fs::write(&file, bytes).unwrap();
    }
    let mut ranges = Vec::new();
    let verified = Dataset::open(path)?.verify(&|_| ());
    let mut first = BTreeMap::new();
    let mut next = 0;
    for shard in &report.shards {
        first.insert(shard.file_name.clone(), (next, shard.num_samples));
        next += shard.num_samples;
    }
    for damage in &verified.damage {
        let (first, len) = first[&damage.file_name];
        match damage.error.location().chunk {
            Some(chunk) => ranges.push(first + chunk * 8..first + ((chunk + 1) * 8).min(len)),
            None => ranges.push(first..first + len),
        }
    }
    Ok(ranges)
}

/// The batches of an epoch, and the samples that were skipped, from and to.
type Epoch = (Vec<Batch>, Vec<(u64, u64)>);

fn epoch(loader: LoaderBuilder, path: &Path) -> Result<Epoch> {
    let mut batches = loader.damaged(Damaged::Skip).open(path)?.batches(6);
    let mut out = Vec::new();
    for batch in batches.by_ref() {
        out.push(batch?);
    }
    let mut skipped: Vec<(u64, u64)> = Vec::new();
    for chunk in batches.skipped() {
        assert!(chunk.path.is_some() && !chunk.message.is_empty());
        skipped.push((chunk.first_sample, chunk.first_sample + chunk.num_samples));
    }
    Ok((out, skipped))
}

fn same_field(a: &Batch, b: &Batch, name: &str) -> Result<bool> {
    let (x, y) = (a.field(name)?, b.field(name)?);
    Ok(x.shape() == y.shape()
        && x.data() == y.data()
        && x.offsets() == y.offsets()
        && x.mask() == y.mask()
        && (0..x.num_samples()).all(|i| x.sample_shape(i) == y.sample_shape(i)))
}

const FIELDS: [&str; 5] = ["image", "latent", "label", "caption", "tokens"];

#[test]
fn skipping_leaves_out_what_verify_calls_damaged_whatever_the_workers() -> Result<()> {
    for round in 0..6u64 {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("d");
        let intact = dataset(&path)?;
        let all = intact.get_many(&(0..200).collect::<Vec<_>>())?;
        let damaged = damage(&path, round, 1 + round as usize)?;
        let lost = |id: u64| damaged.iter().any(|range| range.contains(&id));
        for shuffle in [Shuffle::None, Shuffle::windowed(), Shuffle::Exact] {
            for ragged in [Ragged::Concatenated, Ragged::Padded] {
                let loader = |workers| {
                    Loader::builder()
                        .shuffle(shuffle)
                        .seed(round)
                        .num_workers(workers)
                        .output("tokens", FieldOutput::new().ragged(ragged))
                };
                let (batches, skipped) = epoch(loader(1), &path)?;
                let mut ids: Vec<u64> = Vec::new();
                for batch in &batches {
                    assert!(!batch.is_empty() && batch.len() <= 6);
                    ids.extend(batch.sample_ids());
                    for (i, &id) in batch.sample_ids().iter().enumerate() {
                        let sample = &all[id as usize];
                        for name in FIELDS {
                            let field = batch.field(name)?;
                            let tensor = sample.tensor(name)?;
                            assert_eq!(field.sample_shape(i), Some(tensor.shape()));
                            if name != "tokens" || ragged == Ragged::Concatenated {
                                assert_eq!(field.sample(i)?.data(), tensor.data().as_ref());
                            }
                        }
                    }
                }
                ids.sort_unstable();
                let expected: Vec<u64> = (0..200).filter(|&id| !lost(id)).collect();
                assert_eq!(ids, expected, "round {round}, {shuffle:?}");
                let listed: u64 = skipped.iter().map(|(from, to)| to - from).sum();
                assert_eq!(listed + ids.len() as u64, 200);
                for workers in [2, 5] {
                    let (other, also) = epoch(loader(workers), &path)?;
                    assert_eq!((other.len(), &also), (batches.len(), &skipped));
                    for (a, b) in batches.iter().zip(&other) {
                        assert_eq!((a.index(), a.sample_ids()), (b.index(), b.sample_ids()));
                        for name in FIELDS {
                            assert!(same_field(a, b, name)?, "{name}");
                        }
                    }
                }
            }
        }
    }
    Ok(())
}

#[test]
fn by_default_damage_is_an_error_and_intact_datasets_skip_nothing() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("d");
    dataset(&path)?;
    let (batches, skipped) = epoch(Loader::builder(), &path)?;
    assert_eq!((batches.len(), skipped.len()), (34, 0));
    damage(&path, 3, 2)?;
    let results: Vec<_> = Loader::open(&path)?.batches(6).collect();
    assert!(results.last().unwrap().as_ref().unwrap_err().is_corrupt());
    Ok(())
}

#[test]
fn only_the_fields_that_are_asked_for_count() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("d");
    let intact = dataset(&path)?;
    let image = intact.get(20)?.tensor("image")?.data().to_vec();
    for shard in intact.inspect()?.shards {
        let file = path.join(shard.file_name);
        let mut bytes = fs::read(&file).unwrap();
        if let Some(at) = bytes.windows(192).position(|window| window == image) {
            bytes[at] ^= 1;
            fs::write(&file, bytes).unwrap();
        }
    }
    let (_, skipped) = epoch(Loader::builder(), &path)?;
    assert_eq!(skipped.len(), 1);
    let (batches, skipped) = epoch(Loader::builder().fields(["label", "caption"]), &path)?;
    assert_eq!((batches.len(), skipped.len()), (34, 0));
    Ok(())
}

#[test]
fn a_missing_shard_is_an_error_even_so() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("d");
    let report = dataset(&path)?.inspect()?;
    fs::remove_file(path.join(&report.shards[1].file_name)).unwrap();
    assert!(epoch(Loader::builder(), &path).unwrap_err().is_io());
    Ok(())
}

#[test]
fn a_dataset_of_nothing_but_damage_ends_without_batches() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("d");
    let report = dataset(&path)?.inspect()?;
    for shard in &report.shards {
        let file = path.join(&shard.file_name);
        let len = fs::metadata(&file).unwrap().len();
        fs::write(&file, vec![0; len as usize]).unwrap();
    }
    let (batches, skipped) = epoch(Loader::builder().shuffle(Shuffle::Exact), &path)?;
    assert!(batches.is_empty());
    assert_eq!(skipped.iter().map(|(from, to)| to - from).sum::<u64>(), 200);
    Ok(())
}

#[test]
fn ranks_and_mixtures_skip_the_same_chunks_in_equal_steps() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (folder.path().join("a"), folder.path().join("b"));
    dataset(&a)?;
    dataset(&b)?;
    let damaged = [damage(&a, 4, 3)?, damage(&b, 5, 4)?];
    assert!(damaged.iter().all(|ranges| !ranges.is_empty()));
    let datasets = [Dataset::open(&a)?, Dataset::open(&b)?];
    let lost = |id: u64| {
        let ranges = &damaged[(id / 200) as usize];
        ranges.iter().any(|range| range.contains(&(id % 200)))
    };
    for shuffle in [Shuffle::None, Shuffle::windowed(), Shuffle::Exact] {
        for mixed in [false, true] {
            let open = |options: LoaderBuilder| match mixed {
                false => options.open_dataset(&datasets[0]),
                true => {
                    let mixture = Mixture::new().add(&datasets[0], 1.0).add(&datasets[1], 1.0);
                    options.open_mixture(&mixture)
                }
            };
            let base = |rank, world| {
                Loader::builder()
                    .shuffle(shuffle)
                    .rank(rank, world)
                    .global_batch_size(12)
                    .damaged(Damaged::Skip)
            };
            let whole = open(base(0, 1).damaged(Damaged::Error))?;
            for world in [1, 2, 3, 4] {
                let mut seen = Vec::new();
                let mut listed = BTreeMap::new();
                for rank in 0..world {
                    let loader = open(base(rank, world))?;
                    let batch_size = loader.batch_size().unwrap();
                    let mut batches = loader.batches(batch_size);
                    let mut found = BTreeMap::new();
                    for batch in batches.by_ref() {
                        let batch = batch?;
                        found.insert(batch.index(), batch.sample_ids().to_vec());
                    }
                    for step in 0..loader.num_batches(batch_size) {
                        // As many steps as the other ranks, even if nothing is left of one; and what is left is whole.
                        let mut expected = loader.ids_for(step, batch_size)?;
                        expected.retain(|&id| !lost(id));
                        match found.remove(&step) {
                            Some(ids) => assert_eq!(ids, expected, "{shuffle:?} {mixed} {world}"),
                            None => assert!(world == 1 && expected.is_empty()),
                        }
                        seen.extend(expected);
                    }
                    assert!(found.is_empty());
                    for chunk in batches.skipped() {
                        let path = chunk.path.clone().unwrap();
                        listed.insert((path, chunk.first_sample), chunk.num_samples);
                    }
                    let state = loader.state()?;
                    assert_eq!(state.consumed(), state.num_samples());
                }
                seen.sort_unstable();
                let n = whole.num_samples();
                let all = (0..n).filter(|&id| !lost(id));
                assert_eq!(n, if mixed { 400 } else { 200 });
                assert_eq!(
                    seen,
                    all.collect::<Vec<u64>>(),
                    "{shuffle:?} {mixed} {world}"
                );
                let listed: u64 = listed.values().sum();
                assert_eq!(listed + seen.len() as u64, n);
            }
        }
    }
    Ok(())
}
