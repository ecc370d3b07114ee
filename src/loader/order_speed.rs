//! What the order of a very large dataset costs.

use std::sync::Arc;
use std::time::Instant;

use super::order::bijection::{below, mix};
use super::order::epoch::{Epoch, Track};
use super::order::geometry::Geometry;
use super::order::mixture::Turns;
use super::order::{LANES, Shuffle};
use super::plan::Planner;
use super::share::{Deal, Share, Tail};

/// Memory of this process, where Linux tells.
fn resident_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let words = line.and_then(|line| line.split_whitespace().next());
    words.and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) / 1024
}

/// Run with `cargo test --release --lib order_speed -- --ignored --nocapture`.
#[test]
#[ignore = "prints timings"]
#[expect(clippy::print_stdout, reason = "prints timings")]
fn order_speed() {
    // 10^12 samples in 10,000 shards, and half of the shards end with a short chunk.
    let shards: Vec<(u64, u32)> = (0..10_000)
        .map(|i| (100_000_000 - 64 * (i % 2), 256))
        .collect();
    println!("resident at the start: {} MiB", resident_mib());
    let g = Arc::new(Geometry::of(&shards));
    let n = g.len();
    for shuffle in [Shuffle::None, Shuffle::windowed(), Shuffle::Exact] {
        let start = Instant::now();
        let mut track = Track::new(Arc::clone(&g), shuffle, LANES, 1, 0).unwrap();
        let built = start.elapsed();
        let start = Instant::now();
        let mut sum = 0u64;
        for i in 0..1_000_000 {
            sum = sum.wrapping_add(track.at(below(mix(i), n)).unwrap());
        }
        let drawn = start.elapsed() / 1_000_000;
        // What a resumed iteration does first.
        let mut resumed = Vec::new();
        for start_at in [0, n / 2, n / 10 * 9] {
            let track = Track::new(Arc::clone(&g), shuffle, LANES, 1, 0).unwrap();
            let start = Instant::now();
            let turns = Arc::new(Turns::one());
            let epoch = Epoch::new(vec![track], turns);
            let share = Share::new((0, 1), 64, (start_at, n), Tail::Short, Deal::Lanes);
            let mut planner = Planner::new(epoch, share, 512, None).unwrap();
            let mut rounds = 0;
            while planner.planned_batches() < 8 {
                planner.next_round().unwrap();
                rounds += 1;
            }
            resumed.push((start.elapsed(), rounds));
        }
        println!(
            "{shuffle:?}: built in {built:?}, a position in {drawn:?}, the first 8 batches at 0, n/2, 0.9 n planned in {resumed:?}, resident {} MiB ({sum})",
            resident_mib()
        );
    }
}
