//! Several writers at once, durability, appending, overwriting, and what is left after a failure.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use common::small_dataset;
use tensorshard::{
    DType, Dataset, ErrorKind, FieldSpec, Result, ShardWriter, ShardWriterBuilder, TensorView,
    merge,
};

fn builder() -> ShardWriterBuilder {
    ShardWriter::builder()
        .field(FieldSpec::new("x", DType::I64, [4]))
        .samples_per_chunk(10)
}

fn append(writer: &mut ShardWriter, range: std::ops::Range<i64>) -> Result<()> {
    for i in range {
        let value: Vec<u8> = [i, -i, i * i, 1]
            .iter()
            .flat_map(|x| x.to_le_bytes())
            .collect();
        writer.append(&[("x", TensorView::new(DType::I64, &[4], &value)?)])?;
    }
    Ok(())
}

fn first_values(dataset: &Dataset) -> Result<Vec<i64>> {
    (0..dataset.len())
        .map(|i| Ok(dataset.get(i)?.tensor("x")?.to_vec::<i64>()?[0]))
        .collect()
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// Runs one test of this binary in another process, with arguments in the environment.
fn spawn(test: &str, folder: &Path, number: i64) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args([test, "--exact", "--ignored", "--test-threads=1"])
        .env("TENSORSHARD_TEST_FOLDER", folder)
        .env("TENSORSHARD_TEST_NUMBER", number.to_string())
        .spawn()
        .unwrap()
}

fn arguments() -> Option<(PathBuf, i64)> {
    let folder = std::env::var_os("TENSORSHARD_TEST_FOLDER")?;
    Some((
        folder.into(),
        std::env::var("TENSORSHARD_TEST_NUMBER")
            .ok()?
            .parse()
            .ok()?,
    ))
}

#[test]
#[ignore = "a child of four_processes_write_parts_and_one_merge_commits_them"]
fn child_writes_a_part() -> Result<()> {
    let Some((folder, number)) = arguments() else {
        return Ok(());
    };
    let mut writer = builder().metadata("part", number).part(folder)?;
    append(&mut writer, number * 100..number * 100 + 57)?;
    writer.flush()?;
    append(&mut writer, number * 100 + 57..number * 100 + 100)?;
    writer.finish()?;
    Ok(())
}

#[test]
fn four_processes_write_parts_and_one_merge_commits_them() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let children: Vec<Child> = (0..4)
        .map(|number| spawn("child_writes_a_part", dir.path(), number))
        .collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    let mut parts: Vec<PathBuf> = names(dir.path())
        .iter()
        .map(|name| dir.path().join(name))
        .collect();
    assert_eq!(parts.len(), 4);
    // In the order of what they hold; their names are random.
    parts.sort_by_key(|part| first_values(&Dataset::open(part).unwrap()).unwrap()[0]);
    let out = dir.path().join("out");
    let summary = merge(&parts, &out)?;
    assert_eq!((summary.num_samples, summary.copied_shards), (400, 0));
    let merged = Dataset::open(&out)?;
    assert_eq!(first_values(&merged)?, (0..400).collect::<Vec<_>>());
    assert!(merged.verify(&|_| ()).is_intact());
    assert_eq!(merged.metadata()["part"], 0);
    // The parts stay valid, and are not needed.
    assert_eq!(Dataset::open(&parts[3])?.len(), 100);
    parts
        .iter()
        .for_each(|part| fs::remove_dir_all(part).unwrap());
    assert!(Dataset::open(&out)?.verify(&|_| ()).is_intact());
    Ok(())
}

#[test]
#[ignore = "a child of flushed_samples_survive_a_kill"]
fn child_flushes_and_waits() -> Result<()> {
    let Some((folder, _)) = arguments() else {
        return Ok(());
    };
    let mut writer = builder().create(folder.join("d"))?;
    append(&mut writer, 0..25)?;
    writer.flush()?;
    append(&mut writer, 25..60)?;
    writer.flush()?;
    append(&mut writer, 60..1000)?;
    fs::write(folder.join("ready"), "").unwrap();
    std::thread::sleep(std::time::Duration::from_secs(600));
    writer.finish()?;
    Ok(())
}

#[test]
fn flushed_samples_survive_a_kill() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let mut child = spawn("child_flushes_and_waits", dir.path(), 0);
    while !dir.path().join("ready").exists() {
        assert!(child.try_wait().unwrap().is_none(), "the child ended early");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let dataset = Dataset::open(dir.path().join("d"))?;
    assert!(dataset.is_unfinished());
    assert_eq!(first_values(&dataset)?, (0..60).collect::<Vec<_>>());
    assert!(dataset.verify(&|_| ()).is_intact());
    // And the work can go on.
    let mut writer = builder().append_to(dir.path().join("d"))?;
    append(&mut writer, 60..70)?;
    writer.finish()?;
    let dataset = Dataset::open(dir.path().join("d"))?;
    assert!(!dataset.is_unfinished());
    assert_eq!(first_values(&dataset)?, (0..70).collect::<Vec<_>>());
    Ok(())
}

#[test]
fn a_dropped_writer_leaves_nothing_behind() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("d");
    let mut writer = builder().max_shard_len(1).create(&path)?;
    append(&mut writer, 0..200)?;
    drop(writer);
    assert!(names(dir.path()).is_empty());
    // What was flushed stays, what came after goes.
    let mut writer = builder().max_shard_len(1).create(&path)?;
    append(&mut writer, 0..20)?;
    writer.flush()?;
    let flushed = names(&path);
    append(&mut writer, 20..200)?;
    drop(writer);
    assert_eq!(names(&path), flushed);
    assert_eq!(Dataset::open(&path)?.len(), 20);
    Ok(())
}

#[test]
fn appending_adds_shards_and_keeps_the_old_ones() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("d");
    let mut writer = builder().metadata("a", 1).create(&path)?;
    append(&mut writer, 0..25)?;
    writer.finish()?;
    let before = names(&path);
    let old = Dataset::open(&path)?;
    let mut writer = ShardWriter::builder().metadata("b", 2).append_to(&path)?;
    append(&mut writer, 25..31)?;
    writer.finish()?;
    assert!(before.iter().all(|name| names(&path).contains(name)));
    assert_eq!(
        first_values(&Dataset::open(&path)?)?,
        (0..31).collect::<Vec<_>>()
    );
    assert_eq!(Dataset::open(&path)?.metadata().len(), 2);
    // A reader that was open keeps what it saw.
    assert_eq!(first_values(&old)?, (0..25).collect::<Vec<_>>());
    let other = ShardWriter::builder()
        .field(FieldSpec::new("x", DType::I64, [5]))
        .append_to(&path);
    assert!(matches!(
        other.unwrap_err().kind(),
        ErrorKind::InvalidArgument { .. }
    ));
    Ok(())
}

#[test]
fn overwriting_replaces_everything_and_only_when_asked() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("d");
    small_dataset(&path, 20, ShardWriter::builder())?;
    assert!(
        builder()
            .create(&path)
            .unwrap_err()
            .to_string()
            .contains("already")
    );
    // A replacement that fails changes nothing.
    let mut writer = builder().overwrite(true).create(&path)?;
    append(&mut writer, 0..5)?;
    drop(writer);
    assert_eq!(Dataset::open(&path)?.len(), 20);
    let mut writer = builder().overwrite(true).create(&path)?;
    append(&mut writer, 0..5)?;
    writer.finish()?;
    assert_eq!(first_values(&Dataset::open(&path)?)?, [0, 1, 2, 3, 4]);
    assert_eq!(names(&path).len(), 2, "one shard and the manifest");
    Ok(())
}

#[test]
fn merging_what_does_not_fit_is_refused() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let mut writer = builder().create(path("a"))?;
    append(&mut writer, 0..5)?;
    writer.finish()?;
    small_dataset(&path("b"), 5, ShardWriter::builder())?;
    let refused = |parts: &[PathBuf], word: &str| {
        let message = merge(parts, path("out")).unwrap_err().to_string();
        assert!(message.contains(word), "{message}");
        assert!(!path("out").exists());
    };
    refused(&[path("a"), path("b")], "differ");
    refused(&[path("a"), path("a")], "twice");
    refused(&[path("a"), path("missing")], "missing");
    refused(&[], "at least one");
    Ok(())
}

#[test]
fn samples_that_do_not_fit_are_refused_and_nothing_is_appended() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = ShardWriter::builder()
        .field(FieldSpec::new("x", DType::U8, [2]))
        .field(FieldSpec::string("s"))
        .field(FieldSpec::new("b", DType::Bool, []))
        .create(dir.path().join("d"))?;
    let x = TensorView::new(DType::U8, &[2], &[1, 2])?;
    let s = TensorView::new(DType::U8, &[2], b"ab")?;
    let bad_s = TensorView::new(DType::U8, &[2], &[0xff, 0xfe])?;
    let b = TensorView::new(DType::Bool, &[], &[1])?;
    let bad_b = TensorView::new(DType::Bool, &[], &[2])?;
    let wide = TensorView::new(DType::U16, &[2], &[0; 4])?;
    let long = TensorView::new(DType::U8, &[3], &[0; 3])?;
    for (sample, word) in [
        (vec![("x", x), ("s", s)], "no value for field \"b\""),
        (
            vec![("x", x), ("s", s), ("b", b), ("y", x)],
            "no field \"y\"",
        ),
        (vec![("x", wide), ("s", s), ("b", b)], "u16"),
        (vec![("x", long), ("s", s), ("b", b)], "[3]"),
        (vec![("x", x), ("s", bad_s), ("b", b)], "UTF-8"),
        (vec![("x", x), ("s", s), ("b", bad_b)], "bool"),
    ] {
        let message = writer.append(&sample).unwrap_err().to_string();
        assert!(message.contains(word), "{message}");
    }
    writer.append(&[("b", b), ("x", x), ("s", s)])?;
    assert_eq!(writer.finish()?.num_samples, 1);
    Ok(())
}

#[test]
fn a_second_writer_of_a_folder_is_refused() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("d");
    let mut first = builder().create(&path)?;
    append(&mut first, 0..15)?;
    let refused = |result: Result<ShardWriter>| {
        let error = result.unwrap_err();
        assert!(error.is_io(), "{error}");
        assert!(error.to_string().contains("another writer"), "{error}");
        assert_eq!(error.path(), Some(path.as_path()));
    };
    refused(builder().create(&path));
    refused(builder().overwrite(true).create(&path));
    first.flush()?;
    refused(builder().append_to(&path));
    append(&mut first, 15..20)?;
    first.finish()?;
    // The next may.
    let mut second = builder().append_to(&path)?;
    refused(builder().append_to(&path));
    append(&mut second, 20..25)?;
    second.finish()?;
    assert_eq!(
        first_values(&Dataset::open(&path)?)?,
        (0..25).collect::<Vec<i64>>()
    );
    // One that is dropped lets go, too.
    drop(builder().append_to(&path)?);
    builder().append_to(&path)?.finish()?;
    Ok(())
}

#[test]
#[ignore = "a child of many_processes_append_at_once"]
fn child_appends() -> Result<()> {
    let Some((folder, number)) = arguments() else {
        return Ok(());
    };
    // Waits for its turn.
    loop {
        match builder().append_to(&folder) {
            Ok(mut writer) => {
                append(&mut writer, number * 10..number * 10 + 10)?;
                return writer.finish().map(|_| ());
            }
            Err(error) => assert!(error.to_string().contains("another writer"), "{error}"),
        }
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
}

#[test]
fn many_processes_append_at_once() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("d");
    let mut writer = builder().create(&path)?;
    append(&mut writer, 0..10)?;
    writer.finish()?;
    let children: Vec<Child> = (1..=8)
        .map(|number| spawn("child_appends", &path, number))
        .collect();
    // A reader meanwhile sees what some of them have committed, never a mix.
    loop {
        let dataset = Dataset::open(&path)?;
        let values = first_values(&dataset)?;
        assert_eq!(values.len() % 10, 0);
        if values.len() == 90 {
            break;
        }
    }
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    let mut values = first_values(&Dataset::open(&path)?)?;
    values.sort_unstable();
    assert_eq!(values, (0..90).collect::<Vec<i64>>());
    Ok(())
}
