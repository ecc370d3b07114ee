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

#[test]
fn rounds_have_at_most_a_span_of_samples_and_reach_as_far_as_was_said() {
    let g = Geometry::of(&[(60, 30), (1, 4), (33, 2)]);
    let blocks = Arc::new(Geometry::of_blocks(93, 30));
    let g = Arc::new(g);
    for (g, shuffle) in [(&blocks, Shuffle::None), (&g, Shuffle::Exact)] {
        for (rank, world) in [(0, 1), (1, 2)] {
            for span in [1, 7, 10, 50] {
                let range = (0, g.len());
                let share = Share::new((rank, world), 24, range, Tail::Short, Deal::Runs);
                let order = epoch(&[(g, 1.0)], shuffle, 0);
                let mut planner = Planner::new(order, share, span, None).unwrap();
                let mut reach = planner.reach();
                while let Some(round) = planner.next_round().unwrap() {
                    let entries = round.visits.iter().flat_map(|visit| &visit.entries);
                    let samples: u64 = entries.clone().map(|entry| u64::from(entry.count)).sum();
                    let what = format!("{shuffle:?} {rank} {world} {span}");
                    assert!(samples <= span, "{what}: {samples}");
                    let last = entries.map(|entry| entry.batch).max();
                    if shuffle == Shuffle::Exact {
                        assert_eq!(last, Some(reach), "{what}");
                    }
                    reach = planner.reach();
                }
            }
        }
    }
}

#[test]
fn what_is_kept_is_within_the_capacity_and_each_of_it_is_wanted_later() {
    const CAPACITY: usize = 40;
    let g = Arc::new(Geometry::of(&[(160, 16), (33, 11)]));
    for (world, start) in [(1, 0), (2, 0), (1, 57), (4, 31)] {
        for rank in 0..world {
            let range = (start, g.len());
            let share = Share::new((rank, world), 24, range, Tail::Short, Deal::Runs);
            let of = || epoch(&[(&g, 1.0)], Shuffle::Exact, 2);
            let keeper = Keeper::new(CAPACITY, 4);
            let mut planner = Planner::new(of(), share.clone(), 10, Some(keeper)).unwrap();
            let mut order = of();
            let mut kept: BTreeMap<u64, u64> = BTreeMap::new();
            let mut filled = BTreeMap::new();
            while let Some(round) = planner.next_round().unwrap() {
                for recall in &round.recalls {
                    assert_eq!(kept.remove(&recall.position), Some(recall.sample));
                    assert_eq!(
                        filled.insert((recall.batch, recall.slot), recall.sample),
                        None
                    );
                }
                for visit in &round.visits {
                    for entry in &visit.entries {
                        let sample = visit.place.first_sample + u64::from(entry.row);
                        assert_eq!(filled.insert((entry.batch, entry.slot), sample), None);
                    }
                }
                for position in &round.evicted {
                    assert!(kept.remove(position).is_some());
                }
                for visit in &round.visits {
                    assert!(visit.keeps.is_sorted_by(|a, b| a.0 < b.0));
                    for &(row, position) in &visit.keeps {
                        let sample = visit.place.first_sample + u64::from(row);
                        assert_eq!(order.at(position).unwrap(), (0, sample));
                        assert_eq!(kept.insert(position, sample), None);
                    }
                }
                assert!(kept.len() <= CAPACITY);
            }
            assert!(kept.is_empty(), "{world} {rank}: {kept:?} are never wanted");
            for batch in 0..share.num_batches() {
                for (slot, position) in (0..).zip(share.slots(batch)) {
                    let sample = order.at(position).unwrap().1;
                    assert_eq!(filled.remove(&(batch, slot)), Some(sample));
                }
            }
            assert!(filled.is_empty());
        }
    }
}
