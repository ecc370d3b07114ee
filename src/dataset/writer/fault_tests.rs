//! A thread of a writer panics or fails, at each stage: some call says so, and nothing is committed (R14).

use std::path::Path;

use crate::error::{Error, ErrorKind, Result};
use crate::{DType, Dataset, FieldSpec, ShardWriter, TensorView};

/// The stages of the threads, with the ordinals of their first, middle and last time: six chunks, three shards.
const STAGES: [(&str, [u64; 3]); 4] = [
    ("encode", [0, 3, 5]),
    ("write", [0, 3, 5]),
    ("seal", [0, 1, 2]),
    ("sync", [0, 1, 2]),
];

/// Twelve samples in six chunks and three shards.
fn write(path: &Path, workers: usize) -> Result<()> {
    let mut writer = ShardWriter::builder()
        .field(FieldSpec::new("x", DType::U8, [500]))
        .samples_per_chunk(2)
        // A shard is full with its second chunk.
        .max_shard_len(1500)
        .num_workers(workers)
        .create(path)?;
    for i in 0..12u8 {
        let bytes: Vec<u8> = (0..500u32)
            .map(|j| (j * (j ^ 77) + u32::from(i)).to_le_bytes()[0])
            .collect();
        writer.append(&[("x", TensorView::new(DType::U8, &[500], &bytes)?)])?;
    }
    let summary = writer.finish()?;
    assert_eq!(summary.num_shards, 3);
    Ok(())
}

fn is_as_asked(error: &Error, panics: bool) -> bool {
    let message = error.to_string().contains("the test asked for it");
    match error.kind() {
        ErrorKind::WorkerPanicked { .. } => panics && message,
        ErrorKind::Io { .. } => !panics && message,
        _ => false,
    }
}

#[test]
fn a_writer_that_panics_or_fails_at_any_stage_says_so_and_commits_nothing() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    for (stage, ordinals) in STAGES {
        for n in ordinals {
            for workers in [1, 3] {
                for how in ["panics", "fails"] {
                    let path = dir.path().join(format!("{how}-in-{stage}-{n}"));
                    let error = write(&path, workers).unwrap_err();
                    assert!(
                        is_as_asked(&error, how == "panics"),
                        "{how} {stage} {n}: {error}"
                    );
                    assert!(!path.exists(), "{how} {stage} {n}: something is left");
                }
            }
        }
    }
    // The next writer is well.
    write(&dir.path().join("well"), 2)
}

/// The manifest may be on the disk although making its name durable failed: its shards must stay.
#[test]
fn shards_stay_where_only_the_last_fsync_of_a_commit_fails() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("fails-after-rename");
    let error = write(&path, 2).unwrap_err();
    assert!(error.is_io(), "{error}");
    let dataset = Dataset::open(&path)?;
    assert_eq!(dataset.len(), 12);
    assert!(dataset.verify(&|_| ()).is_intact());
    // It is a whole dataset: writing goes on from there.
    assert!(!dataset.is_unfinished());
    Ok(())
}
