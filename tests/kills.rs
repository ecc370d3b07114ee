//! A writing process that is killed, or that the system refuses something, at any system call (R8, R10). Needs strace;
//! without it these tests say so and pass.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tensorshard::{DType, Dataset, FieldSpec, Result, ShardWriter, TensorView, Unlisted, salvage};

/// The system calls with which a writer changes the disk.
const CALLS: &[&str] = &[
    "openat",
    "write",
    "writev",
    "fsync",
    "fdatasync",
    "rename",
    "mkdir",
    "unlink",
    "rmdir",
    "flock",
];

fn has_strace() -> bool {
    let found = Command::new("strace")
        .arg("-V")
        .stdout(Stdio::null())
        .status();
    let found = found.is_ok_and(|status| status.success());
    if !found {
        #[expect(clippy::print_stderr, reason = "somebody should know")]
        {
            eprintln!("strace is not installed: nothing is checked");
        }
    }
    found
}

fn append(writer: &mut ShardWriter, range: std::ops::Range<u32>) -> Result<()> {
    for i in range {
        let values: Vec<u8> = (0..64u32)
            .flat_map(|j| (i * 64 + j).to_le_bytes())
            .collect();
        writer.append(&[("x", TensorView::new(DType::U32, &[64], &values)?)])?;
    }
    Ok(())
}

/// What the child writes: flushed samples, more, a finish; then a line for each step that succeeded.
fn session(path: &Path, log: &Path) -> Result<()> {
    let done = |what: &str| {
        let before = fs::read_to_string(log).unwrap_or_default();
        // Written beside the dataset; calls on it are not counted.
        fs::write(log, format!("{before}{what}\n")).unwrap();
    };
    let builder = ShardWriter::builder()
        .field(FieldSpec::new("x", DType::U32, [64]))
        .samples_per_chunk(4)
        .max_shard_len(3000)
        .num_workers(1);
    let mut writer = builder.create(path)?;
    append(&mut writer, 0..10)?;
    writer.flush()?;
    done("flush 10");
    append(&mut writer, 10..30)?;
    writer.finish()?;
    done("finish 30");
    Ok(())
}

#[test]
#[ignore = "a child of the tests below"]
fn child_writes() {
    let Some(path) = std::env::var_os("TENSORSHARD_TEST_FOLDER").map(PathBuf::from) else {
        return;
    };
    let log = path.with_extension("log");
    if let Err(error) = session(&path, &log) {
        fs::write(path.with_extension("error"), error.to_string()).unwrap();
    }
}

struct Outcome {
    killed: bool,
    /// Samples that the child was told are durable.
    promised: u64,
    error: Option<String>,
}

/// Runs the child with one rule for the calls that concern its folder.
fn run(folder: &Path, rule: &str) -> (PathBuf, Outcome) {
    let path = folder.join("d");
    fs::remove_dir_all(&path).ok();
    for extension in ["log", "error"] {
        fs::remove_file(path.with_extension(extension)).ok();
    }
    let status = Command::new("strace")
        .args(["-f", "-qq", "-o", "/dev/null", "-e", rule])
        .arg(std::env::current_exe().unwrap())
        .args(["child_writes", "--exact", "--ignored", "--test-threads=1"])
        .env("TENSORSHARD_TEST_FOLDER", &path)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    let log = fs::read_to_string(path.with_extension("log")).unwrap_or_default();
    let last = log.lines().last().and_then(|line| line.split(' ').nth(1));
    let outcome = Outcome {
        killed: status.signal() == Some(9) || status.code() == Some(137),
        promised: last.map_or(0, |n| n.parse().unwrap()),
        error: fs::read_to_string(path.with_extension("error")).ok(),
    };
    (path, outcome)
}

/// What is left is nothing, or a readable dataset with all that was promised, and salvage finds no less.
fn check(path: &Path, outcome: &Outcome, what: &str) -> Result<()> {
    let out = path.with_extension("salvaged");
    fs::remove_dir_all(&out).ok();
    let salvaged = salvage(path, &out, Unlisted::Auto);
    let there = if path.join("manifest.tsm").exists() {
        let dataset = Dataset::open(path)?;
        let report = dataset.verify(&|_| ());
        assert!(report.is_intact(), "{what}: {:?}", report.damage);
        for i in 0..dataset.len() {
            let first = dataset.get(i)?.tensor("x")?.to_vec::<u32>()?[0];
            assert_eq!(u64::from(first), i * 64, "{what}");
        }
        dataset.len()
    } else {
        0
    };
    assert!([0, 10, 30].contains(&there), "{what}: {there} samples");
    assert!(
        there >= outcome.promised,
        "{what}: {there} of {} promised",
        outcome.promised
    );
    match salvaged {
        Ok(report) => {
            assert!(report.num_samples >= there, "{what}");
            assert!(Dataset::open(&out)?.verify(&|_| ()).is_intact(), "{what}");
        }
        Err(error) => assert_eq!(there, 0, "{what}: {error}"),
    }
    Ok(())
}

/// How often a call is made in a whole session; every which of them is tried: 1 is all.
fn step() -> usize {
    let asked = std::env::var("TENSORSHARD_KILL_STEP").ok();
    asked.and_then(|n| n.parse().ok()).unwrap_or(1)
}

#[test]
fn a_writer_that_is_killed_at_any_system_call_loses_nothing_it_promised() -> Result<()> {
    if !has_strace() {
        return Ok(());
    }
    let folder = tempfile::tempdir().unwrap();
    let mut kills = 0;
    for call in CALLS {
        let mut when = 1;
        loop {
            let rule = format!("inject={call}:signal=SIGKILL:when={when}");
            let (path, outcome) = run(folder.path(), &rule);
            check(&path, &outcome, &rule)?;
            if !outcome.killed {
                assert_eq!(outcome.promised, 30, "{rule}: {:?}", outcome.error);
                break;
            }
            kills += 1;
            when += step();
        }
    }
    assert!(kills >= CALLS.len() / 2, "{kills} kills");
    Ok(())
}

#[test]
fn a_call_that_fails_is_an_error_and_nothing_that_was_promised_is_lost() -> Result<()> {
    if !has_strace() {
        return Ok(());
    }
    let folder = tempfile::tempdir().unwrap();
    let cases = [
        ("writev", "ENOSPC"),
        ("writev", "EIO"),
        ("writev", "EDQUOT"),
        ("fsync", "EIO"),
        ("fsync", "ENOSPC"),
        ("fdatasync", "EIO"),
        ("rename", "EIO"),
        ("rename", "ENOSPC"),
        ("mkdir", "EACCES"),
        ("openat", "EMFILE"),
    ];
    let mut failures = 0;
    for (call, errno) in cases {
        let mut when = 1;
        // The calls of the program's start are the same without a writer: a file that cannot be opened then is no
        // error of ours.
        for _ in 0..200 {
            let rule = format!("inject={call}:error={errno}:when={when}");
            let (path, outcome) = run(folder.path(), &rule);
            check(&path, &outcome, &rule)?;
            if let Some(error) = &outcome.error {
                failures += 1;
                // The folder that a new one is in is synced as well.
                let named = error.contains(&folder.path().to_string_lossy().into_owned());
                assert!(named, "{rule}: {error}");
                assert!(outcome.promised < 30, "{rule}: {error}");
            } else if outcome.promised == 30 && (when > 100 || call != "openat") {
                break;
            }
            when += step();
        }
    }
    assert!(failures > 0);
    // An interrupted call is made again.
    let (path, outcome) = run(folder.path(), "inject=writev:error=EINTR:when=1");
    check(&path, &outcome, "EINTR")?;
    assert_eq!((outcome.promised, outcome.error), (30, None));
    Ok(())
}
