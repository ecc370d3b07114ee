//! The loader: order, delivery, options, early ends.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::path::Path;
use std::task::Poll;
use std::time::Duration;

use common::{collect, small_dataset};
use tensorshard::{
    Batch, DType, ErrorKind, FieldSpec, IoMode, Loader, LoaderBuilder, Result, ShardWriter,
    Shuffle, TensorView,
};

const MODES: [Shuffle; 4] = [
    Shuffle::None,
    Shuffle::Windowed { window: 1 },
    Shuffle::Windowed { window: 5 },
    Shuffle::Exact,
];

fn write(path: &Path, num_samples: usize) -> Result<()> {
    // Several shards, and a short chunk at the end of the last.
    small_dataset(
        path,
        num_samples,
        ShardWriter::builder()
            .samples_per_chunk(7)
            .max_shard_len(20_000),
    )?;
    Ok(())
}

fn ids(batches: &[Batch]) -> Vec<u64> {
    batches
        .iter()
        .flat_map(|batch| batch.sample_ids().iter().copied())
        .collect()
}

/// Everything that a batch holds, to compare.
fn content(batches: &[Batch]) -> Vec<(Vec<u64>, Vec<Vec<u8>>)> {
    let bytes = |batch: &Batch| {
        batch
            .fields()
            .iter()
            .map(|field| field.data().to_vec())
            .collect()
    };
    batches
        .iter()
        .map(|batch| (batch.sample_ids().to_vec(), bytes(batch)))
        .collect()
}

#[test]
fn batches_do_not_depend_on_threads_prefetch_budget_or_io() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("d");
    write(&path, 257)?;
    for shuffle in MODES {
        let base = || Loader::builder().shuffle(shuffle).seed(3).epoch(1);
        let reference = content(&collect(base().num_workers(1), &path, 16)?);
        let variants: [LoaderBuilder; 5] = [
            base().num_workers(2),
            base().num_workers(8).prefetch(1),
            base().num_workers(3).prefetch(100),
            base().memory_budget(60_000).prefetch(3),
            base().io(IoMode::Read).verify_checksums(false),
        ];
        for (i, variant) in variants.into_iter().enumerate() {
            assert!(
                content(&collect(variant, &path, 16)?) == reference,
                "{shuffle:?}, variant {i}"
            );
        }
    }
    Ok(())
}

#[test]
fn every_sample_comes_once_and_drop_last_drops_the_short_batch() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("d");
    for num_samples in [1, 6, 7, 8, 64, 65, 100] {
        write(&path.join(num_samples.to_string()), num_samples)?;
        for shuffle in MODES {
            for batch_size in [1, 3, 8, 64, 1000] {
                let path = path.join(num_samples.to_string());
                let batches = collect(Loader::builder().shuffle(shuffle), &path, batch_size)?;
                let mut all = ids(&batches);
                if shuffle == Shuffle::None {
                    assert!(all.is_sorted());
                }
                all.sort_unstable();
                assert!(all.iter().copied().eq(0..num_samples as u64));
                assert!(
                    batches
                        .iter()
                        .rev()
                        .skip(1)
                        .all(|batch| batch.len() == batch_size)
                );
                assert!(
                    batches
                        .iter()
                        .enumerate()
                        .all(|(i, batch)| batch.index() == i as u64)
                );

                let dropped = collect(
                    Loader::builder().shuffle(shuffle).drop_last(true),
                    &path,
                    batch_size,
                )?;
                assert_eq!(dropped.len(), num_samples / batch_size);
                assert!(dropped.iter().all(|batch| batch.len() == batch_size));
                let keep = dropped.len() * batch_size;
                assert_eq!(ids(&dropped)[..], ids(&batches)[..keep]);
            }
        }
    }
    Ok(())
}

#[test]
fn asking_with_a_timeout_gives_the_same_batches() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("d");
    write(&path, 100)?;
    for shuffle in MODES {
        let loader = Loader::builder().shuffle(shuffle).open(&path)?;
        let expected: Vec<Batch> = loader.batches(16).collect::<Result<_>>()?;
        let mut batches = loader.batches(16);
        let mut found = Vec::new();
        loop {
            match batches.next_timeout(Duration::from_micros(1)) {
                Poll::Pending => {}
                Poll::Ready(Some(batch)) => found.push(batch?),
                Poll::Ready(None) => break,
            }
        }
        assert!(content(&found) == content(&expected), "{shuffle:?}");
    }
    Ok(())
}

#[test]
fn epochs_and_seeds_differ() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("d");
    write(&path, 200)?;
    for shuffle in [Shuffle::windowed(), Shuffle::Exact] {
        let mut loader = Loader::builder().shuffle(shuffle).open(&path)?;
        let epoch = |loader: &Loader| -> Result<Vec<u64>> {
            Ok(ids(&loader.batches(9).collect::<Result<Vec<_>>>()?))
        };
        let first = epoch(&loader)?;
        assert_eq!(first, epoch(&loader)?);
        loader.set_epoch(1);
        assert_ne!(first, epoch(&loader)?);
        let other = Loader::builder().shuffle(shuffle).seed(1).open(&path)?;
        assert_ne!(first, epoch(&other)?);
    }
    Ok(())
}

/// One test on purpose: it counts threads, and would count those of a neighbour.
#[cfg(target_os = "linux")]
#[test]
fn dropping_an_iterator_ends_its_threads() -> Result<()> {
    if std::env::var_os("TENSORSHARD_TEST_ALONE").is_none() {
        let test = "dropping_an_iterator_ends_its_threads";
        let status = std::process::Command::new(std::env::current_exe().unwrap())
            .args([test, "--exact", "--test-threads=1"])
            .env("TENSORSHARD_TEST_ALONE", "1")
            .status();
        assert!(status.unwrap().success());
        return Ok(());
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("d");
    write(&path, 500)?;
    let loader = Loader::builder()
        .shuffle(Shuffle::windowed())
        .num_workers(3)
        .open(&path)?;
    drop(loader.batches(8));
    let before = common::live_threads();
    for taken in [0, 1, 5, 62] {
        let mut batches = loader.batches(8);
        for _ in 0..taken {
            batches.next().unwrap()?;
        }
        assert!(common::live_threads() > before, "threads are not seen");
        drop(batches);
        assert_eq!(common::live_threads(), before, "after {taken} batches");
    }
    for _ in 0..100 {
        drop(loader.batches(8).next());
    }
    assert_eq!(common::live_threads(), before);
    Ok(())
}

#[test]
fn kept_batches_stay_correct_and_buffers_are_recycled() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("d");
    write(&path, 400)?;
    let loader = Loader::builder().fields(["image", "latent"]).open(&path)?;
    let mut batches = loader.batches(8);
    let first = batches.next().unwrap()?;
    let copy = content(std::slice::from_ref(&first));
    let kept = first.field("image")?.data().clone();
    let kept_bytes = kept.to_vec();
    drop(first);
    for batch in batches.by_ref() {
        drop(batch?);
    }
    let stats = batches.stats();
    assert_eq!((stats.batches, stats.samples), (50, 400));
    assert!(stats.pool_hits > 60 && stats.pool_misses < 50, "{stats:?}");
    drop((batches, loader));
    std::fs::remove_dir_all(&path).unwrap();
    assert_eq!(kept, kept_bytes);
    assert_eq!(copy[0].1[0], kept_bytes);
    Ok(())
}

#[test]
fn bad_options_are_named() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("d");
    write(&path, 50)?;
    let message = |builder: LoaderBuilder| match builder.open(&path) {
        Err(error) => error.to_string(),
        Ok(loader) => loader.batches(8).next().unwrap().unwrap_err().to_string(),
    };
    assert!(message(Loader::builder().fields(["nope"])).contains("latent"));
    assert!(message(Loader::builder().dtype(DType::I8)).contains("f32, f16, bf16 or f64"));
    assert!(
        message(Loader::builder().shuffle(Shuffle::Windowed { window: 0 })).contains("at least 1")
    );
    assert!(message(Loader::builder().fields(["image", "image"])).contains("twice"));
    assert!(message(Loader::builder().num_workers(100_000)).contains("too many"));
    let budget = Loader::builder().fields(["image"]).memory_budget(1000);
    assert!(message(budget).contains("needs at least"));
    let zero = Loader::open(&path)?.batches(0).next().unwrap().unwrap_err();
    assert!(matches!(zero.kind(), ErrorKind::InvalidArgument { .. }));
    Ok(())
}

#[test]
fn memory_stays_within_the_budget() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("d");
    let mut writer = ShardWriter::builder()
        .field(FieldSpec::new("x", DType::U8, [1000]))
        .samples_per_chunk(10)
        .create(&path)?;
    let value = vec![7u8; 1000];
    for _ in 0..3000 {
        writer.append(&[("x", TensorView::new(DType::U8, &[1000], &value)?)])?;
    }
    writer.finish()?;
    for shuffle in [
        Shuffle::None,
        Shuffle::Windowed { window: 8 },
        Shuffle::Exact,
    ] {
        let budget = 200_000;
        let loader = Loader::builder()
            .shuffle(shuffle)
            .memory_budget(budget)
            .prefetch(1000)
            .open(&path)?;
        let mut batches = loader.batches(20);
        for batch in batches.by_ref() {
            drop(batch?);
        }
        let peak = batches.stats().peak_batch_bytes;
        assert!(peak <= budget, "{shuffle:?}: {peak}");
    }
    Ok(())
}

#[test]
fn what_the_exact_shuffle_keeps_changes_nothing_but_the_work() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("d");
    let mut writer = ShardWriter::builder()
        .field(FieldSpec::new("x", DType::I16, [1500]))
        .field(FieldSpec::new("label", DType::I64, []))
        .samples_per_chunk(50)
        .create(&path)?;
    for i in 0..700i64 {
        let start = i16::try_from(i).unwrap() * 31;
        let x: Vec<i16> = (0..1500).map(|j| start + j % 77).collect();
        writer.append(&[
            (
                "x",
                TensorView::new(DType::I16, &[1500], &tensorshard::to_le_bytes(&x))?,
            ),
            ("label", TensorView::new(DType::I64, &[], &i.to_le_bytes())?),
        ])?;
    }
    writer.finish()?;
    let epoch = |budget: u64, num_workers: usize, drop_last: bool| -> Result<_> {
        let loader = Loader::builder()
            .shuffle(Shuffle::Exact)
            .memory_budget(budget)
            .num_workers(num_workers)
            .drop_last(drop_last)
            .prefetch(2)
            .open(&path)?;
        let mut batches = loader.batches(9);
        let mut all = Vec::new();
        for batch in batches.by_ref() {
            all.extend(content(&[batch?]));
        }
        Ok((all, batches.stats()))
    };
    for drop_last in [false, true] {
        let (expected, least) = epoch(200_000, 1, drop_last)?;
        let mut decoded = least.decoded_bytes;
        for budget in [400_000, 1_000_000, 10_000_000] {
            for num_workers in [1, 3] {
                let (found, stats) = epoch(budget, num_workers, drop_last)?;
                assert!(found == expected, "{budget}");
                assert!(stats.peak_batch_bytes <= budget);
                assert!(stats.decoded_bytes <= decoded, "{budget}");
                decoded = stats.decoded_bytes;
            }
        }
        // With room for all, every piece of x is decoded once.
        assert!(decoded <= 700 * 3100, "{decoded}");
        assert!(least.decoded_bytes > 3 * decoded);
    }
    Ok(())
}

#[cfg(feature = "tokio")]
mod stream {
    use futures::StreamExt;

    use super::*;

    #[tokio::test]
    async fn stream_delivers_the_same_batches() -> Result<()> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("d");
        write(&path, 100)?;
        let loader = Loader::builder().shuffle(Shuffle::windowed()).open(&path)?;
        let expected = content(&loader.batches(8).collect::<Result<Vec<_>>>()?);
        let streamed: Vec<Result<Batch>> = loader.stream(8)?.collect().await;
        assert!(content(&streamed.into_iter().collect::<Result<Vec<_>>>()?) == expected);
        // Dropped early, and again from the start.
        let mut stream = loader.stream(8)?;
        assert_eq!(stream.next().await.unwrap()?.sample_ids(), expected[0].0);
        drop(stream);
        assert_eq!(
            loader.stream(8)?.next().await.unwrap()?.sample_ids(),
            expected[0].0
        );
        Ok(())
    }

    #[test]
    fn stream_needs_a_runtime() -> Result<()> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("d");
        write(&path, 10)?;
        assert!(
            Loader::open(&path)?
                .stream(8)
                .unwrap_err()
                .to_string()
                .contains("tokio")
        );
        Ok(())
    }
}
