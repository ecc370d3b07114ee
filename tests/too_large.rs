//! Batches that are larger than the memory budget are errors, not the end of the process.

use tensorshard::{
    DType, ErrorKind, FieldOutput, FieldSpec, Loader, Ragged, Result, ShardWriter, Tail, TensorView,
};

/// Two samples of 8 KB, `[1, 2000]` and `[2000, 1]`: padded, a batch of both takes 32 MB.
fn write(path: &std::path::Path) -> Result<()> {
    let mut writer = ShardWriter::builder()
        .field(FieldSpec::ragged("x", DType::F32, [None, None]))
        .create(path)?;
    for shape in [[1, 2000], [2000, 1]] {
        writer.append(&[("x", TensorView::new(DType::F32, &shape, &[0; 8000])?)])?;
    }
    writer.finish()?;
    Ok(())
}

#[test]
fn a_ragged_batch_beyond_the_budget_is_refused() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    write(&folder.path().join("d"))?;
    let padded = |budget| {
        Loader::builder()
            .output("x", FieldOutput::default().ragged(Ragged::Padded))
            .memory_budget(budget)
            .open(folder.path().join("d"))
    };
    let error = padded(1 << 20)?.batches(2).next().unwrap().unwrap_err();
    assert!(
        matches!(error.kind(), ErrorKind::InvalidArgument { .. }),
        "{error}"
    );
    let message = error.to_string();
    for word in ["memory_budget", "32000000", "1048576", "\"x\""] {
        assert!(message.contains(word), "{message}");
    }
    assert_eq!(padded(1 << 20)?.batches(1).count(), 2);
    let batch = padded(1 << 30)?.batches(2).next().unwrap()?;
    assert_eq!(batch.field("x")?.shape(), [2, 2000, 2000]);
    Ok(())
}

#[test]
fn a_batch_that_is_filled_up_beyond_the_budget_is_refused() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    write(&folder.path().join("d"))?;
    let loader = Loader::builder()
        .tail(Tail::Pad)
        .open(folder.path().join("d"))?;
    let error = loader.batches(1 << 31).next().unwrap().unwrap_err();
    assert!(error.to_string().contains("memory_budget"), "{error}");
    assert_eq!(loader.batches(5).count(), 1);
    Ok(())
}
