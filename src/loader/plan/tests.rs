//! Plans fill every slot, whatever the position, the rank and the world size.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::*;
use crate::loader::order::epoch::Track;
use crate::loader::order::geometry::Geometry;
use crate::loader::order::mixture::Turns;
use crate::loader::order::{LANES, Shuffle};
use crate::loader::share::{Deal, Tail};

const WORLDS: [u64; 5] = [1, 2, 3, 4, 8];

fn epoch(parts: &[(&Arc<Geometry>, f64)], shuffle: Shuffle, epoch: u64) -> Epoch {
    let weights: Vec<f64> = parts.iter().map(|part| part.1).collect();
    let turns = Turns::new(&weights).unwrap();
    let tracks = (0..).zip(parts).map(|(seed, (geometry, _))| {
        let before = u128::from(epoch) * u128::from(geometry.len());
        Track::new(Arc::clone(geometry), shuffle, LANES, seed, before).unwrap()
    });
    Epoch::new(tracks.collect(), Arc::new(turns))
}

fn deal(shuffle: Shuffle) -> Deal {
    match shuffle {
        Shuffle::Windowed { .. } => Deal::Lanes,
        _ => Deal::Runs,
    }
}

/// The dataset and sample of every (batch, slot).
type Filled = BTreeMap<(u64, u32), (u32, u64)>;

/// Every slot that a plan fills, and the chunks (shard, chunk) that it visits.
fn slots(mut planner: Planner) -> (Filled, BTreeSet<(u64, u64)>) {
    let (mut filled, mut chunks) = (BTreeMap::new(), BTreeSet::new());
    let mut planned = planner.planned_batches();
    while let Some(round) = planner.next_round().unwrap() {
        for visit in round.visits {
            chunks.insert((visit.place.shard, visit.place.chunk));
            assert!(visit.entries.is_sorted_by_key(|entry| entry.row));
            for entry in &visit.entries {
                // What counts as planned is complete.
                assert!(entry.batch >= planned, "{} {planned}", entry.batch);
                for i in 0..entry.count {
                    let sample = visit.place.first_sample + u64::from(entry.row + i);
                    let place = (entry.batch, entry.slot + i);
                    assert!(filled.insert(place, (visit.place.source, sample)).is_none());
                }
            }
        }
        assert!(planner.planned_batches() >= planned);
        planned = planner.planned_batches();
    }
    assert_eq!(planned, planner.num_batches());
    (filled, chunks)
}

#[test]
fn plans_fill_every_slot_from_every_position_for_every_world() {
    let g = Arc::new(Geometry::of(&[(60, 3), (1, 4), (33, 2), (35, 5)]));
    let small = Arc::new(Geometry::of(&[(20, 3)]));
    let single: &[(&Arc<Geometry>, f64)] = &[(&g, 1.0)];
    let mixed: &[(&Arc<Geometry>, f64)] = &[(&g, 2.0), (&small, 1.0)];
    for parts in [single, mixed] {
        for (shuffle, step) in [
            (Shuffle::None, 1),
            (Shuffle::Windowed { window: 2 }, 1),
            (Shuffle::Windowed { window: 16 }, 1),
            (Shuffle::Exact, 7),
        ] {
            let n = if parts.len() == 1 { 2 * g.len() } else { 150 };
            for start in (0..=n).step_by(step) {
                let world = WORLDS[(start % 5) as usize];
                let tail = [Tail::Short, Tail::Drop, Tail::Pad][(start % 3) as usize];
                for rank in 0..world {
                    let of = || (rank, world);
                    let share = Share::new(of(), 24, (start, n), tail, deal(shuffle));
                    let mut order = epoch(parts, shuffle, 3);
                    let planner = Planner::new(epoch(parts, shuffle, 3), share.clone(), 10, None);
                    let (filled, _) = slots(planner.unwrap());
                    let mut expected = BTreeMap::new();
                    for batch in 0..share.num_batches() {
                        for (slot, position) in (0..).zip(share.slots(batch)) {
                            expected.insert((batch, slot), order.at(position).unwrap());
                        }
                    }
                    assert!(filled == expected, "{shuffle:?} {start} {rank} {world}");
                }
            }
        }
    }
}

#[test]
fn a_chunk_is_decoded_by_few_ranks() {
    let g = Arc::new(Geometry::of(&[(1000 * 16, 16), (64 * 16 + 5, 16)]));
    for world in [1, 2, 4, 8, 16, 32, 64] {
        let mut visits = 0;
        for rank in 0..world {
            let range = (0, g.len());
            let share = Share::new((rank, world), 128, range, Tail::Short, Deal::Lanes);
            let order = epoch(&[(&g, 1.0)], Shuffle::windowed(), 0);
            visits += slots(Planner::new(order, share, 1, None).unwrap()).1.len();
        }
        let amplification = visits as f64 / g.num_chunks() as f64;
        assert!(amplification <= 1.1, "{world}: {amplification}");
        if world == 1 {
            assert_eq!(visits as u64, g.num_chunks());
        }
    }
}
