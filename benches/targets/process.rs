//! What the system knows about a process: its anonymous memory and its page faults. Memory is measured in a process of
//! its own, so that nothing freed before is reused.

use std::collections::VecDeque;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tensorshard::{Loader, Shuffle};

/// Anonymous memory of this process in bytes.
fn anonymous() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("RssAnon:"));
    let kib = line.and_then(|l| l.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

/// Page faults of this process so far, minor and major: what `getrusage` tells.
pub(crate) fn page_faults() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let Some((_, rest)) = stat.rsplit_once(')') else {
        return 0;
    };
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let number = |i: usize| {
        fields
            .get(i)
            .and_then(|x| x.parse::<u64>().ok())
            .unwrap_or(0)
    };
    // Fields 10 and 12 of proc_pid_stat(5); the first here is field 3.
    number(7) + number(9)
}

/// Runs this program again to do `task`, with `level` of instructions if it is not empty; the numbers it prints.
fn in_a_child_at(level: &str, task: &[&str], path: &Path) -> Vec<f64> {
    let program = std::env::current_exe().expect("this program");
    let mut command = Command::new(program);
    if !level.is_empty() {
        command.env("TENSORSHARD_SIMD", level);
    }
    let output = command
        .arg("--child")
        .args(task)
        .arg(path)
        .output()
        .expect("a child");
    assert!(output.status.success(), "{task:?} failed: {output:?}");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.split_whitespace()
        .map(|x| x.parse().expect("numbers"))
        .collect()
}

fn in_a_child(task: &[&str], path: &Path) -> Vec<f64> {
    in_a_child_at("", task, path)
}

/// Bytes a second of epochs with one worker, in a process that uses this level of instructions at most: the median.
pub(crate) fn speed_at_level(level: &str, path: &Path, batch_size: usize) -> f64 {
    in_a_child_at(level, &["speed", &batch_size.to_string()], path)[0]
}

/// The most anonymous bytes of a process that iterates slowly, then fast, with this budget.
pub(crate) fn peak_of_epoch(path: &Path, shuffle: &str, budget: u64) -> f64 {
    in_a_child(&["epoch", shuffle, &budget.to_string()], path)[0]
}

/// Milliseconds that opening takes in a fresh process, and the anonymous bytes that it adds.
pub(crate) fn cost_of_open(path: &Path) -> (f64, f64) {
    let numbers = in_a_child(&["open"], path);
    (numbers[0], numbers[1])
}

/// What [`in_a_child`] asked for.
pub(crate) fn child(args: &[String]) {
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words[..] {
        ["epoch", shuffle, budget, path] => epoch(Path::new(path), shuffle, budget),
        ["speed", batch_size, path] => {
            let batch_size = batch_size.parse().expect("a number");
            println!("{}", median_speed(Path::new(path), batch_size));
        }
        ["open", path] => {
            let before = anonymous();
            let start = Instant::now();
            let loader = Loader::open(path).expect("a dataset");
            let elapsed = start.elapsed();
            let bytes = anonymous().saturating_sub(before);
            println!("{} {bytes}", elapsed.as_secs_f64() * 1e3);
            drop(loader);
        }
        _ => eprintln!("no such task: {words:?}"),
    }
}

/// Batches that are kept, as a training step keeps some.
const KEPT: usize = 8;

fn median_speed(path: &Path, batch_size: usize) -> f64 {
    let loader = Loader::builder().num_workers(1);
    let loader = loader.open(path).expect("a dataset");
    let mut speeds: Vec<f64> = (0..6)
        .map(|_| {
            let (mut bytes, mut kept) = (0, VecDeque::new());
            let start = Instant::now();
            for batch in loader.batches(batch_size) {
                let batch = batch.expect("a batch");
                bytes += batch.num_bytes();
                kept.push_back(batch);
                if kept.len() > KEPT {
                    kept.pop_front();
                }
            }
            bytes as f64 / start.elapsed().as_secs_f64()
        })
        .collect();
    // The first one warms up.
    speeds.remove(0);
    speeds.sort_by(f64::total_cmp);
    speeds[speeds.len() / 2]
}

fn epoch(path: &Path, shuffle: &str, budget: &str) {
    let shuffle = match shuffle {
        "sequential" => Shuffle::None,
        "windowed" => Shuffle::windowed(),
        _ => Shuffle::Exact,
    };
    let loader = Loader::builder()
        .shuffle(shuffle)
        .prefetch(1 << 20)
        .memory_budget(budget.parse().expect("bytes"))
        .open(path)
        .expect("a dataset");
    let (stop, peak) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                peak.fetch_max(anonymous(), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        for epoch in 0..2 {
            for (i, batch) in loader.batches(64).enumerate() {
                let batch = batch.expect("a batch");
                // The loader gets as far ahead as it may.
                if epoch == 0 && i < 400 {
                    std::thread::sleep(Duration::from_millis(1));
                }
                drop(batch);
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    println!("{}", peak.load(Ordering::Relaxed));
}
