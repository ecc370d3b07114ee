//! Odd places and names: pipes, devices, folders and links where files should be, folders that cannot be written, and
//! names that other systems reserve (R23, R24). What cannot work is a typed error, at once; nothing outside is touched.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::small_dataset;
use tensorshard::{
    Dataset, IoMode, Loader, Result, ShardWriter, Shuffle, Unlisted, merge, salvage,
};

const SAMPLES: u64 = 40;

/// Makes something at a path.
type Make = fn(&Path);

fn builder() -> tensorshard::ShardWriterBuilder {
    ShardWriter::builder()
        .samples_per_chunk(10)
        .shard_ids_from(5)
}

fn write(path: &Path) -> Result<()> {
    small_dataset(path, 40, builder()).map(|_| ())
}

/// The names in a folder, and what is in its files.
fn snapshot(folder: &Path) -> Vec<(OsString, Option<Vec<u8>>)> {
    let mut out: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            let is_file = entry.file_type().unwrap().is_file();
            (
                entry.file_name(),
                is_file.then(|| fs::read(entry.path()).unwrap()),
            )
        })
        .collect();
    out.sort();
    out
}

/// What every reader of a dataset says: the number of samples, or the error.
fn read(path: &Path, io: IoMode) -> Vec<Result<u64>> {
    let open = || Dataset::builder().io(io).open(path);
    let epoch = || {
        let loader = Loader::builder()
            .io(io)
            .shuffle(Shuffle::windowed())
            .open(path)?;
        loader
            .batches(7)
            .try_fold(0, |n, batch| Ok(n + batch?.len() as u64))
    };
    let all = || {
        let dataset = open()?;
        let ids: Vec<u64> = (0..dataset.len()).collect();
        Ok(dataset.get_many(&ids)?.len() as u64)
    };
    vec![all(), epoch()]
}

/// Things that are no regular files, each made at a path.
fn things() -> Vec<(&'static str, Make)> {
    fn pipe(path: &Path) {
        let made = Command::new("mkfifo").arg(path).status();
        assert!(made.unwrap().success());
    }
    fn socket(path: &Path) {
        // The name stays when the listener is gone. Names of sockets are short: it is made from within its folder.
        let short = tempfile::tempdir().unwrap();
        let here = short.path().join("s");
        drop(UnixListener::bind(&here).unwrap());
        fs::rename(&here, path)
            .or_else(|_| symlink(&here, path))
            .unwrap();
    }
    vec![
        ("pipe", pipe),
        ("socket", socket),
        ("folder", |path| fs::create_dir(path).unwrap()),
        ("link to a folder", |path| {
            let empty = path.with_file_name("empty");
            fs::create_dir(&empty).unwrap();
            symlink(empty, path).unwrap();
        }),
        ("link to /dev/zero", |path| {
            symlink("/dev/zero", path).unwrap()
        }),
        ("link to /dev/null", |path| {
            symlink("/dev/null", path).unwrap()
        }),
        ("link to /dev/stdin", |path| {
            symlink("/dev/tty", path).unwrap()
        }),
        ("link to /proc/self/mem", |path| {
            symlink("/proc/self/mem", path).unwrap()
        }),
        ("link to a file without an end", |path| {
            symlink("/proc/self/pagemap", path).unwrap()
        }),
        ("link to nothing", |path| symlink("nothing", path).unwrap()),
        ("link to itself", |path| symlink(path, path).unwrap()),
        ("empty file", |path| fs::write(path, b"").unwrap()),
        ("nothing", |_| ()),
    ]
}

/// A shard, the manifest, or the dataset itself is something else.
#[test]
fn what_is_no_regular_file_is_a_typed_error_without_waiting() -> Result<()> {
    for (what, make) in things() {
        for target in ["shard", "manifest", "dataset"] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("d");
            write(&path)?;
            let shard = fs::read_dir(&path)
                .unwrap()
                .map(|entry| entry.unwrap().path());
            let shard = shard
                .into_iter()
                .find(|p| p.extension() == Some("tshard".as_ref()))
                .unwrap();
            let place = match target {
                "shard" => shard,
                "manifest" => path.join("manifest.tsm"),
                _ => path.clone(),
            };
            if target == "dataset" {
                fs::remove_dir_all(&path).unwrap();
            } else {
                fs::remove_file(&place).unwrap();
            }
            make(&place);
            for io in [IoMode::Mmap, IoMode::Read] {
                for result in read(&path, io) {
                    let error = result.unwrap_err();
                    // Regular files, as the system has it.
                    let is_file = what == "empty file"
                        || what.contains("/proc/")
                        || what.contains("without an end");
                    let typed = error.is_io() || is_file && error.is_corrupt();
                    assert!(typed, "{what} for a {target}: {error}");
                    // Nothing is there under the name: not something else.
                    let text = error.to_string();
                    let no_manifest = text.contains("there is no manifest.tsm");
                    let expected = match target {
                        "manifest" => what == "nothing",
                        "dataset" => ["folder", "link to a folder"].contains(&what),
                        _ => false,
                    };
                    assert_eq!(no_manifest, expected, "{what} for a {target}: {error}");
                    if target != "dataset" && ["pipe", "socket", "folder"].contains(&what) {
                        let named = format!("this is a {what}");
                        assert!(text.contains(&named), "{what} for a {target}: {error}");
                    }
                    let named = error.location().path.is_some() || error.to_string().contains("/d");
                    assert!(named, "{what} for a {target}: {error}");
                }
            }
            if let Ok(dataset) = Dataset::open(&path) {
                assert!(
                    !dataset.verify(&|_| ()).is_intact(),
                    "{what} for a {target}"
                );
            }
            // Salvage finds what is left, or says that there is nothing.
            let out = folder.path().join("salvaged");
            if let Ok(report) = salvage(&path, &out, Unlisted::Include) {
                let expected = if target == "manifest" { SAMPLES } else { 0 };
                assert_eq!(report.num_samples, expected, "{what} for a {target}");
            }
            // Only a folder can be written to, and no writer puts anything elsewhere.
            if target == "dataset" && !["folder", "nothing", "link to a folder"].contains(&what) {
                assert!(builder().overwrite(true).create(&path).is_err(), "{what}");
            }
        }
    }
    Ok(())
}

/// A link to a regular file is as good as the file: datasets may be put together of links.
#[test]
fn links_to_shards_are_read_and_never_written_through() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let (real, linked) = (folder.path().join("real"), folder.path().join("linked"));
    write(&real)?;
    fs::create_dir(&linked).unwrap();
    for (name, _) in snapshot(&real) {
        symlink(real.join(&name), linked.join(&name)).unwrap();
    }
    let before = snapshot(&real);
    for result in read(&linked, IoMode::Mmap)
        .into_iter()
        .chain(read(&linked, IoMode::Read))
    {
        assert_eq!(result?, SAMPLES);
    }
    small_dataset(
        &linked,
        10,
        ShardWriter::builder().samples_per_chunk(5).overwrite(true),
    )?;
    assert_eq!(snapshot(&real), before);
    Ok(())
}

/// Names of folders that programs have stumbled over.
fn names() -> Vec<OsString> {
    let mut names: Vec<OsString> = [
        "a b",
        " x",
        "x ",
        "x.",
        "...",
        "..x",
        "~",
        "-rf",
        "--help",
        "%2e%2e",
        "%00",
        "C:\\x",
        "C:",
        "\\\\server\\share",
        "\\..\\..",
        "CON",
        "con.txt",
        "NUL",
        "COM1",
        "LPT9.tshard",
        "AUX",
        "a:b",
        "a|b",
        "a*?[b]",
        "\"quoted\"",
        "'q'",
        "$HOME",
        "`id`",
        "$(id)",
        ";ls",
        "a\nb",
        "a\tb",
        "\u{1b}[31m",
        "\u{7f}",
        "ü",
        "u\u{308}",
        "ﬁ",
        "fi",
        "İ",
        "\u{202e}txt",
        "\u{200b}",
        "\u{feff}x",
        "日本語",
        "👩‍👩‍👧",
        "manifest.tsm.d",
        "x.tshard",
        "x.npy",
        "http:",
        "s3:",
        "file:",
        "nul\u{0131}",
        "0123456789abcdef0123456789abcdef.tshard.d",
        ".hidden",
        "#",
        "&",
        "a=b",
        "{x}",
        "!",
        "^",
    ]
    .iter()
    .map(OsString::from)
    .collect();
    names.push(OsString::from_vec(b"\xff\xfe not text".to_vec()));
    names.push(OsString::from_vec(b"\xed\xa0\x80".to_vec()));
    names.push(OsString::from_vec(b"\xc3".to_vec()));
    // As long as a name may be.
    names.push("n".repeat(255).into());
    names
}

#[test]
fn any_name_of_a_folder_is_a_place_for_a_dataset() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let names = names();
    let mut seen: Vec<OsString> = Vec::new();
    for name in &names {
        let path = folder.path().join(name);
        write(&path)?;
        for io in [IoMode::Mmap, IoMode::Read] {
            for result in read(&path, io) {
                assert_eq!(result?, SAMPLES, "{name:?}");
            }
        }
        let dataset = Dataset::open(&path)?;
        assert!(dataset.verify(&|_| ()).is_intact(), "{name:?}");
        assert_eq!(dataset.inspect()?.num_samples, SAMPLES);
        // Beside it, under the same name.
        let other = folder.path().join("out");
        fs::create_dir(&other).unwrap();
        let report = salvage(&path, other.join(name), Unlisted::Include)?;
        assert_eq!(report.num_samples, SAMPLES);
        assert_eq!(snapshot(&other).len(), 1);
        fs::remove_dir_all(&other).unwrap();
        seen.push(name.clone());
        let mut there: Vec<_> = snapshot(folder.path())
            .into_iter()
            .map(|(name, _)| name)
            .collect();
        there.sort();
        let mut expected = seen.clone();
        expected.sort();
        assert_eq!(there, expected, "something else was made or removed");
    }
    assert!(names.len() >= 60);
    Ok(())
}

#[test]
fn paths_that_no_system_takes_are_errors_of_the_system() {
    let folder = tempfile::tempdir().unwrap();
    let long_name = folder.path().join("n".repeat(256));
    let mut long_path = folder.path().to_owned();
    while long_path.as_os_str().len() < 5000 {
        long_path.push("n".repeat(200));
    }
    let nul = folder.path().join(OsStr::from_bytes(b"a\0b"));
    let under_file = {
        let file = folder.path().join("file");
        fs::write(&file, b"x").unwrap();
        file.join("d")
    };
    let before = snapshot(folder.path());
    for path in [&long_name, &long_path, &nul, &under_file, &PathBuf::new()] {
        for result in read(path, IoMode::Mmap) {
            assert!(result.unwrap_err().is_io(), "{path:?}");
        }
        assert!(
            small_dataset(path, 1, builder()).unwrap_err().is_io(),
            "{path:?}"
        );
        assert!(salvage(path, folder.path().join("out"), Unlisted::Include).is_err());
        assert!(merge(&[folder.path()], path).is_err());
    }
    // What was asked for is not there, and nothing else is.
    let mut after = snapshot(folder.path());
    after.retain(|(name, _)| !before.iter().any(|(n, _)| n == name));
    let text: Vec<_> = after
        .iter()
        .map(|(name, _)| name.to_string_lossy())
        .collect();
    assert!(text.iter().all(|name| name.starts_with("nnn")), "{text:?}");
}

/// Runs one test of this binary where `folder` is mounted read-only. `None` where that is not allowed.
fn where_read_only(test: &str, folder: &Path) -> Option<std::process::Output> {
    let script = "mount --bind \"$1\" \"$1\" && mount -o remount,bind,ro \"$1\" || exit 99; exec \"$2\" \"$3\" --exact --ignored";
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-c", script, "sh"])
        .arg(folder)
        .arg(std::env::current_exe().unwrap())
        .arg(test)
        .env("TENSORSHARD_TEST_FOLDER", folder)
        .output()
        .ok()?;
    let refused = matches!(output.status.code(), Some(99 | 1)) && output.stdout.is_empty();
    (!refused).then_some(output)
}

#[test]
#[ignore = "a child of a_read_only_file_system_is_read_and_refuses_writers"]
fn child_on_a_read_only_file_system() -> Result<()> {
    let Some(folder) = std::env::var_os("TENSORSHARD_TEST_FOLDER").map(PathBuf::from) else {
        return Ok(());
    };
    let path = folder.join("d");
    for result in read(&path, IoMode::Mmap)
        .into_iter()
        .chain(read(&path, IoMode::Read))
    {
        assert_eq!(result?, SAMPLES);
    }
    assert!(Dataset::open(&path)?.verify(&|_| ()).is_intact());
    let is_refused = |result: Result<()>| {
        let error = result.unwrap_err();
        assert!(error.is_io(), "{error}");
        assert!(
            error.to_string().contains(&*folder.to_string_lossy()),
            "{error}"
        );
        assert!(error.to_string().contains("Read-only"), "{error}");
    };
    is_refused(write(&folder.join("new")));
    let again = builder().shard_ids_from(6).overwrite(true);
    is_refused(small_dataset(&path, 5, again).map(|_| ()));
    is_refused(salvage(&path, folder.join("out"), Unlisted::Include).map(|_| ()));
    is_refused(merge(&[&path], folder.join("out")).map(|_| ()));
    Ok(())
}

#[test]
fn a_read_only_file_system_is_read_and_refuses_writers() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    write(&folder.path().join("d"))?;
    let before = snapshot(&folder.path().join("d"));
    let Some(output) = where_read_only("child_on_a_read_only_file_system", folder.path()) else {
        #[expect(clippy::print_stderr, reason = "somebody should know")]
        {
            eprintln!("no read-only mounts here: nothing is checked");
        }
        return Ok(());
    };
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{text}"
    );
    assert_eq!(snapshot(&folder.path().join("d")), before);
    assert_eq!(snapshot(folder.path()).len(), 1);
    Ok(())
}

/// Field names and keys become names of files when a dataset is exported, those that are safe.
#[cfg(feature = "cli")]
#[test]
fn no_name_in_a_dataset_leaves_the_folder_that_is_exported_to() -> Result<()> {
    use tensorshard::{DType, FieldSpec, TensorView};
    let hostile = [
        "../x",
        "..",
        "/etc/x",
        "a/../../x",
        "C:\\x",
        "..\\x",
        "CON",
        "x/",
        "a:b",
        " ",
        ".",
        "nul.npy",
        "a//b",
    ];
    let folder = tempfile::tempdir().unwrap();
    for name in hostile {
        let work = folder.path().join("work");
        fs::create_dir(&work).unwrap();
        let path = work.join("d");
        let mut writer = ShardWriter::builder()
            .field(FieldSpec::new(name, DType::U8, [2]))
            .field(FieldSpec::key("key"))
            .create(&path)?;
        for _ in 0..2 {
            writer.append(&[
                (name, TensorView::new(DType::U8, &[2], &[1, 2])?),
                (
                    "key",
                    TensorView::new(DType::U8, &[name.len()], name.as_bytes())?,
                ),
            ])?;
        }
        writer.finish()?;
        let npz = work.join("out.npz");
        let out = work.join("out");
        for target in [&npz, &out] {
            let args = [
                "tensorshard".as_ref(),
                "export".as_ref(),
                path.as_os_str(),
                target.as_os_str(),
            ];
            let said =
                tensorshard::cli::call(args.map(OsStr::to_owned), &std::sync::Arc::default());
            // Text has no .npz; the field alone does.
            if said.is_err() {
                let args = args.iter().map(|arg| (*arg).to_owned());
                let args = args.chain(["--fields".into(), name.into()]);
                tensorshard::cli::call(args, &std::sync::Arc::default())?;
            }
        }
        let bytes = fs::read(&npz).unwrap();
        let text = String::from_utf8_lossy(&bytes);
        assert!(text.contains("field-0.npy"), "{name:?}");
        assert!(!text.contains("../") && !text.contains("..\\"), "{name:?}");
        let there: Vec<_> = snapshot(&work).into_iter().map(|(name, _)| name).collect();
        assert_eq!(there, ["d", "out", "out.npz"], "{name:?}");
        assert_eq!(snapshot(folder.path()).len(), 1, "{name:?}");
        fs::remove_dir_all(&work).unwrap();
    }
    Ok(())
}
