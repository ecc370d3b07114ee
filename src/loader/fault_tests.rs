//! A worker panics, or fails, at each stage of an epoch: that is the error of a batch, and then the epoch is over (R14).

use std::path::Path;

use crate::error::{ErrorKind, Result};
use crate::{DType, FieldSpec, Loader, ShardWriter, Shuffle, TensorView, to_le_bytes};

const SAMPLES: u8 = 60;
const BATCH: usize = 5;
/// Elements of a sample: enough that the exact shuffle keeps what it has decoded.
const ELEMENTS: usize = 1024;

/// The stages, and what each counts: all twelve chunks and all twelve batches of an epoch.
const STAGES: [&str; 7] = [
    "shapes", "read", "decode", "decoded", "report", "plan", "deliver",
];

/// Sample `i` is full of `i`, and its text is `i` letters long.
fn write(path: &Path) -> Result<()> {
    let mut writer = ShardWriter::builder()
        .field(FieldSpec::new("x", DType::F32, [ELEMENTS]))
        .field(FieldSpec::string("y"))
        .samples_per_chunk(5)
        .create(path)?;
    for i in 0..SAMPLES {
        let text = "a".repeat(i.into());
        let x = to_le_bytes(&[f32::from(i); ELEMENTS]);
        writer.append(&[
            ("x", TensorView::new(DType::F32, &[ELEMENTS], &x)?),
            (
                "y",
                TensorView::new(DType::U8, &[text.len()], text.as_bytes())?,
            ),
        ])?;
    }
    writer.finish()?;
    Ok(())
}

fn loader(path: &Path, shuffle: Shuffle, num_workers: usize) -> Result<Loader> {
    Loader::builder()
        .shuffle(shuffle)
        .seed(7)
        .num_workers(num_workers)
        .memory_budget(40 << 20)
        .open(path)
}

fn ids(loader: &Loader) -> Result<Vec<u64>> {
    let mut ids = Vec::new();
    for batch in loader.batches(BATCH) {
        ids.extend_from_slice(batch?.sample_ids());
    }
    Ok(ids)
}

#[test]
fn a_panic_at_any_stage_is_an_error_once_and_never_an_early_end() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let intact = dir.path().join("intact");
    write(&intact)?;
    for shuffle in [Shuffle::None, Shuffle::windowed(), Shuffle::Exact] {
        let expected = ids(&loader(&intact, shuffle, 2)?)?;
        assert_eq!(expected.len(), usize::from(SAMPLES));
        for stage in STAGES {
            let mut met = 0;
            for n in [0, 5, 11] {
                for num_workers in [1, 3] {
                    let path = dir.path().join(format!("panics-in-{stage}-{n}"));
                    std::fs::rename(&intact, &path).unwrap();
                    let mut batches = loader(&path, shuffle, num_workers)?.batches(BATCH);
                    let results: Vec<_> = batches.by_ref().collect();
                    let what = format!("{stage} {n}, {num_workers} workers, {shuffle:?}");
                    let mut delivered = Vec::new();
                    let mut failed = false;
                    for result in results {
                        assert!(!failed, "{what}: something after the error");
                        match result {
                            Ok(batch) => delivered.extend_from_slice(batch.sample_ids()),
                            Err(error) => {
                                let panicked =
                                    matches!(error.kind(), ErrorKind::WorkerPanicked { .. });
                                assert!(panicked, "{what}: {error}");
                                assert!(error.to_string().contains("the test asked for it"));
                                failed = true;
                            }
                        }
                    }
                    assert!(batches.next().is_none());
                    assert_eq!(delivered, expected[..delivered.len()], "{what}");
                    assert_eq!(failed, delivered.len() < expected.len(), "{what}");
                    met += u32::from(failed);
                    // Nothing is poisoned: the same files are read by a loader of theirs.
                    std::fs::rename(&path, &intact).unwrap();
                }
            }
            assert_eq!(met, 6, "{stage}");
        }
        assert_eq!(ids(&loader(&intact, shuffle, 2)?)?, expected);
    }
    Ok(())
}

#[test]
fn an_error_at_any_stage_is_delivered_as_it_is() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let intact = dir.path().join("intact");
    write(&intact)?;
    for stage in STAGES.iter().filter(|stage| **stage != "report") {
        let path = dir.path().join(format!("fails-in-{stage}-4"));
        std::fs::rename(&intact, &path).unwrap();
        let mut batches = loader(&path, Shuffle::None, 2)?.batches(BATCH);
        let results: Vec<_> = batches.by_ref().collect();
        let (last, before) = results.split_last().unwrap();
        assert_eq!(before.len(), 4, "{stage}");
        assert!(before.iter().all(Result::is_ok));
        assert!(last.as_ref().unwrap_err().is_io(), "{stage}");
        assert!(batches.next().is_none());
        std::fs::rename(&path, &intact).unwrap();
    }
    Ok(())
}

/// The exact shuffle decodes samples before their time, and keeps them.
#[test]
fn a_panic_while_kept_samples_go_to_their_batch_is_an_error() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("intact");
    let mut writer = ShardWriter::builder()
        .field(FieldSpec::new("x", DType::F32, [ELEMENTS]))
        .samples_per_chunk(20)
        .create(&path)?;
    for i in 0..SAMPLES {
        let x = to_le_bytes(&[f32::from(i); ELEMENTS]);
        writer.append(&[("x", TensorView::new(DType::F32, &[ELEMENTS], &x)?)])?;
    }
    writer.finish()?;
    let open = |path: &Path| {
        Loader::builder()
            .shuffle(Shuffle::Exact)
            .prefetch(1)
            .num_workers(2)
            .open(path)
    };
    let expected = ids(&open(&path)?)?;
    let mut met = 0;
    for n in 0..u64::from(SAMPLES) / BATCH as u64 {
        let panics = dir.path().join(format!("panics-in-recall-{n}"));
        std::fs::rename(&path, &panics).unwrap();
        let mut batches = open(&panics)?.batches(BATCH);
        let results: Vec<_> = batches.by_ref().collect();
        let delivered = results.iter().filter(|result| result.is_ok()).count();
        if let Some(Err(error)) = results.last() {
            assert_eq!(delivered as u64, n);
            let panicked = matches!(
                error.kind(),
                ErrorKind::WorkerPanicked {
                    stage: "recall",
                    ..
                }
            );
            assert!(panicked, "{error}");
            met += 1;
        } else {
            // This batch has no kept samples.
            assert_eq!(delivered, expected.len() / BATCH);
        }
        assert!(batches.next().is_none());
        std::fs::rename(&panics, &path).unwrap();
    }
    assert!(met > 1, "{met} batches had kept samples");
    Ok(())
}
