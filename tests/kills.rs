//! A writing process that is killed, or that the system refuses something, at any system call (R8, R10).
//!
//! Two tools do that. A library of ours (tests/kills/shim.c, made with the C compiler and loaded before libc) stands in
//! for functions of libc, counts the calls of all threads that concern the dataset, and tries each. strace, where it is
//! installed and may trace, sees calls that do not pass through libc as well, but counts those of each thread for itself,
//! so that of the n-th calls it meets only the first. A session under both shows that the shim misses none.
//! `TENSORSHARD_KILLS=shim` or `=strace` leaves the other out.
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

/// Other calls that change the disk: a writer makes none of them.
const OTHER_CALLS: &[&str] = &[
    "creat",
    "pwrite64",
    "pwritev",
    "pwritev2",
    "truncate",
    "ftruncate",
    "fallocate",
    "copy_file_range",
    "sendfile",
    "splice",
    "sync_file_range",
    "syncfs",
    "renameat",
    "renameat2",
    "mkdirat",
    "unlinkat",
    "link",
    "linkat",
    "symlink",
    "symlinkat",
];

/// What happens at a call.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Killed,
    /// It fails with this error.
    Fails(&'static str),
}

/// What is done to the child: at its n-th call of a kind, from 1.
#[derive(Clone, Copy, Debug)]
struct Rule {
    call: &'static str,
    when: usize,
    fate: Fate,
}

/// What does it.
#[derive(Debug)]
enum Tool {
    Strace,
    /// The library, in a folder of its own.
    Shim(tempfile::TempDir),
}

impl Tool {
    /// The shim, and strace where it works; or what `TENSORSHARD_KILLS` says.
    fn all() -> Vec<Self> {
        match std::env::var("TENSORSHARD_KILLS").as_deref() {
            Ok("strace") => vec![Self::Strace],
            Err(_) if strace_works() => vec![Self::shim(), Self::Strace],
            asked => {
                assert!(
                    asked.is_err() || asked == Ok("shim"),
                    "TENSORSHARD_KILLS is strace or shim"
                );
                vec![Self::shim()]
            }
        }
    }

    fn shim() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kills/shim.c");
        let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
        let made = Command::new(&compiler)
            .args(["-shared", "-fPIC", "-O1", "-Wall", "-o"])
            .arg(folder.path().join("shim.so"))
            .arg(source)
            .arg("-ldl")
            .status();
        assert!(
            made.as_ref().is_ok_and(std::process::ExitStatus::success),
            "the C compiler {} makes no library: {made:?}",
            compiler.display()
        );
        Self::Shim(folder)
    }

    /// The child, with one rule for its calls.
    fn command(&self, path: &Path, rule: Option<Rule>) -> Command {
        let child = std::env::current_exe().unwrap();
        let mut command = match self {
            Self::Strace => {
                let mut command = Command::new("strace");
                command.args(["-f", "-qq", "-o"]);
                command.arg(path.with_extension("calls"));
                if let Some(Rule { call, when, fate }) = rule {
                    let fate = match fate {
                        Fate::Killed => "signal=SIGKILL".to_owned(),
                        Fate::Fails(error) => format!("error={error}"),
                    };
                    command.args(["-e", &format!("trace={call}")]);
                    command.args(["-e", &format!("inject={call}:{fate}:when={when}")]);
                }
                command.arg(child);
                command
            }
            Self::Shim(folder) => {
                let mut command = Command::new(child);
                command
                    .env("LD_PRELOAD", folder.path().join("shim.so"))
                    .env("SHIM_FOLDER", path)
                    .env("SHIM_COUNTS", path.with_extension("calls"));
                if let Some(Rule { call, when, fate }) = rule {
                    command
                        .env("SHIM_CALL", call)
                        .env("SHIM_WHEN", when.to_string());
                    if let Fate::Fails(error) = fate {
                        command.env("SHIM_ERROR", error);
                    }
                }
                command
            }
        };
        command
            .args(["child_writes", "--exact", "--ignored", "--test-threads=1"])
            .env("TENSORSHARD_TEST_FOLDER", path)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command
    }

    /// Runs the child with one rule for its calls.
    fn run(&self, folder: &Path, rule: Rule) -> (PathBuf, Outcome) {
        // As the system names it.
        let path = folder.canonicalize().unwrap().join("d");
        fs::remove_dir_all(&path).ok();
        for extension in ["log", "error", "calls"] {
            fs::remove_file(path.with_extension(extension)).ok();
        }
        let status = self.command(&path, Some(rule)).status().unwrap();
        let log = fs::read_to_string(path.with_extension("log")).unwrap_or_default();
        let last = log.lines().last().and_then(|line| line.split(' ').nth(1));
        let killed = status.signal() == Some(9) || status.code() == Some(137);
        let calls = fs::read_to_string(path.with_extension("calls")).unwrap_or_default();
        let outcome = Outcome {
            killed,
            met: killed
                || match self {
                    Self::Strace => calls.contains("(INJECTED)"),
                    Self::Shim(_) => counted(&calls, rule.call) >= rule.when,
                },
            promised: last.map_or(0, |n| n.parse().unwrap()),
            error: fs::read_to_string(path.with_extension("error")).ok(),
        };
        (path, outcome)
    }
}

/// The number of a kind of calls among those that the shim has counted.
fn counted(calls: &str, call: &str) -> usize {
    let lines = calls.lines().filter_map(|line| line.split_once(' '));
    let mut counts = lines.filter(|(name, _)| *name == call);
    counts.next().map_or(0, |(_, count)| count.parse().unwrap())
}

/// strace is there, and may do what it is asked to.
fn strace_works() -> bool {
    let folder = tempfile::tempdir().unwrap();
    let rule = Rule {
        call: "mkdir",
        when: 1,
        fate: Fate::Killed,
    };
    let path = folder.path().join("d");
    let status = Tool::Strace.command(&path, Some(rule)).status();
    status.is_ok_and(|status| status.signal() == Some(9) || status.code() == Some(137))
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
    /// There were as many calls as the rule counts.
    met: bool,
    /// Samples that the child was told are durable.
    promised: u64,
    error: Option<String>,
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

/// Every which call of a session is tried: 1 is all.
fn step() -> usize {
    let asked = std::env::var("TENSORSHARD_KILL_STEP").ok();
    asked.and_then(|n| n.parse().ok()).unwrap_or(1)
}

/// Kills the child at every `step`-th call of each kind. Returns how often.
fn kill_at_every_call(tool: &Tool, step: usize) -> Result<usize> {
    let folder = tempfile::tempdir().unwrap();
    let mut kills = 0;
    for call in CALLS {
        let mut when = 1;
        loop {
            let fate = Fate::Killed;
            let rule = Rule { call, when, fate };
            let (path, outcome) = tool.run(folder.path(), rule);
            let what = format!("{tool:?}, {rule:?}");
            check(&path, &outcome, &what)?;
            if !outcome.met {
                assert_eq!(outcome.promised, 30, "{what}: {:?}", outcome.error);
                break;
            }
            assert!(outcome.killed, "{what}");
            kills += 1;
            when += step;
        }
    }
    Ok(kills)
}

/// Has every `step`-th call of some kinds fail. Returns how often that was an error.
fn fail_at_every_call(tool: &Tool, step: usize) -> Result<usize> {
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
    for (call, error) in cases {
        let mut when = 1;
        loop {
            let fate = Fate::Fails(error);
            let rule = Rule { call, when, fate };
            let (path, outcome) = tool.run(folder.path(), rule);
            let what = format!("{tool:?}, {rule:?}");
            check(&path, &outcome, &what)?;
            if let Some(error) = &outcome.error {
                failures += 1;
                // The folder that a new one is in is synced as well.
                let named = error.contains(path.parent().unwrap().to_str().unwrap());
                assert!(named, "{what}: {error}");
                assert!(outcome.promised < 30, "{what}: {error}");
            } else if !outcome.met {
                assert_eq!(outcome.promised, 30, "{what}");
                break;
            } else {
                // A folder that cannot be opened cannot be locked, which is no error. strace also meets calls of the
                // program's start, and of this test.
                assert_eq!(call, "openat", "{what}");
            }
            when += step;
        }
    }
    // An interrupted call is made again.
    let rule = Rule {
        call: "writev",
        when: 1,
        fate: Fate::Fails("EINTR"),
    };
    let (path, outcome) = tool.run(folder.path(), rule);
    check(&path, &outcome, "EINTR")?;
    assert_eq!((outcome.promised, outcome.error), (30, None));
    Ok(failures)
}

#[test]
fn a_writer_that_is_killed_at_any_system_call_loses_nothing_it_promised() -> Result<()> {
    for tool in Tool::all() {
        let kills = kill_at_every_call(&tool, step())?;
        let least = if matches!(tool, Tool::Strace) { 30 } else { 39 };
        assert!(kills * step() >= least, "{tool:?}: {kills} kills");
    }
    Ok(())
}

#[test]
fn a_call_that_fails_is_an_error_and_nothing_that_was_promised_is_lost() -> Result<()> {
    for tool in Tool::all() {
        let failures = fail_at_every_call(&tool, step())?;
        let least = if matches!(tool, Tool::Strace) { 50 } else { 78 };
        assert!(failures * step() >= least, "{tool:?}: {failures} failures");
    }
    Ok(())
}

/// In one session. Without strace only what the shim counts is looked at.
#[test]
fn the_shim_sees_every_call_that_strace_sees() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().canonicalize().unwrap().join("d");
    let (counts, trace) = (path.with_extension("counts"), path.with_extension("trace"));
    let tool = Tool::shim();
    let Tool::Shim(library) = &tool else {
        unreachable!()
    };
    let traced = strace_works();
    let mut command = if traced {
        let mut command = Command::new("strace");
        let calls = [CALLS, OTHER_CALLS].concat().join(",?");
        // Before the program's own start, so that strace itself is not counted.
        let preload = format!("LD_PRELOAD={}", library.path().join("shim.so").display());
        command
            .args(["-f", "-qq", "-y", "-s", "0", "-o"])
            .arg(&trace)
            .args(["-e", &format!("trace=?{calls}"), "-E", &preload])
            .arg(std::env::current_exe().unwrap())
            .args(["child_writes", "--exact", "--ignored", "--test-threads=1"])
            .env("TENSORSHARD_TEST_FOLDER", &path)
            .env("SHIM_FOLDER", &path)
            .stdout(Stdio::null());
        command
    } else {
        tool.command(&path, None)
    };
    let status = command.env("SHIM_COUNTS", &counts).status().unwrap();
    assert!(status.success());
    let counts = fs::read_to_string(counts).unwrap();
    for (call, least) in [("openat", 8), ("writev", 10), ("fsync", 7), ("rename", 4)] {
        assert!(counted(&counts, call) >= least, "{counts}");
    }
    if !traced {
        return;
    }
    let trace = fs::read_to_string(trace).unwrap();
    let (own, above) = (path.display(), path.parent().unwrap().display());
    let marks = [
        format!("\"{own}\""),
        format!("\"{own}/"),
        format!("<{own}>"),
        format!("<{own}/"),
        format!("\"{above}\""),
        format!("<{above}>"),
    ];
    let seen = |call: &str| {
        let begins = format!(" {call}(");
        let calls = trace.lines().filter(|line| line.contains(&begins));
        calls
            .filter(|line| marks.iter().any(|mark| line.contains(mark)))
            .count()
    };
    for call in CALLS {
        assert_eq!(
            seen(call),
            counted(&counts, call),
            "{call}:\n{counts}{trace}"
        );
    }
    for call in OTHER_CALLS {
        assert_eq!(
            seen(call),
            0,
            "a writer makes {call}, which no rule covers:\n{trace}"
        );
    }
}
