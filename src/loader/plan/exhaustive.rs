//! Every position, tail, rank and world size of small epochs: nothing is lost, nothing comes twice, and the order stays.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::*;
use crate::loader::order::bijection::mix;
use crate::loader::order::epoch::Track;
use crate::loader::order::geometry::{Geometry, Selected};
use crate::loader::order::mixture::{Alias, Turns};
use crate::loader::order::pools::{Lengths, Pools};
use crate::loader::order::{LANES, Shuffle, epoch_key};
use crate::loader::share::{Deal, Tail};
use crate::loader::state::LoaderState;

const WORLDS: [u64; 5] = [1, 2, 3, 4, 8];
const TAILS: [Tail; 3] = [Tail::Short, Tail::Drop, Tail::Pad];
const SHUFFLES: [Shuffle; 4] = [
    Shuffle::None,
    Shuffle::Windowed { window: 2 },
    Shuffle::Windowed { window: 16 },
    Shuffle::Exact,
];
/// Every world size divides it.
const GLOBAL_BATCH: u64 = 24;

/// A dataset and a sample of it.
type Place = (u32, u64);

/// Where samples come from.
struct Source {
    name: String,
    make: Box<dyn Fn() -> Epoch>,
    num_samples: u64,
    deal: Deal,
    /// The order that all positions have.
    order: Vec<Place>,
}

impl Source {
    fn new(
        name: String,
        num_samples: u64,
        shuffle: Shuffle,
        make: impl Fn() -> Epoch + 'static,
    ) -> Self {
        let mut epoch = make();
        let deal = match shuffle {
            Shuffle::Windowed { .. } if !epoch.has_pools() => Deal::Lanes,
            _ => Deal::Runs,
        };
        let order = (0..num_samples).map(|position| epoch.at(position).unwrap());
        Self {
            name,
            order: order.collect(),
            num_samples,
            deal,
            make: Box::new(make),
        }
    }

    fn share(&self, (rank, world): (u64, u64), global_batch: u64, start: u64, tail: Tail) -> Share {
        let range = (start, self.num_samples);
        Share::new((rank, world), global_batch, range, tail, self.deal)
    }

    fn planner(&self, share: &Share) -> Planner {
        Planner::new((self.make)(), share.clone(), 10, None).unwrap()
    }
}

fn track(geometry: &Geometry, shuffle: Shuffle, seed: u64, before: u64) -> Track {
    let geometry = Arc::new(geometry.clone());
    Track::new(geometry, shuffle, LANES, seed, u128::from(before)).unwrap()
}

fn lengths(datasets: &[&Geometry]) -> Lengths {
    let of = |g: &&Geometry| -> Arc<[u32]> {
        let samples = 0..g.total();
        samples
            .map(|i| u32::try_from(mix(i) % 9).unwrap())
            .collect()
    };
    datasets.iter().map(of).collect()
}

fn sources() -> Vec<Source> {
    let g = Geometry::of(&[(30, 3), (1, 4), (16, 2), (19, 5)]);
    let small = Geometry::of(&[(11, 3)]);
    let n = g.len();
    let mut sources = Vec::new();
    for shuffle in SHUFFLES {
        let mut add = |kind: &str, n, make: Box<dyn Fn() -> Epoch>| {
            sources.push(Source::new(format!("{kind} {shuffle:?}"), n, shuffle, make));
        };
        let one = |track| Epoch::new(vec![track], Arc::new(Turns::one()));
        let plain = g.clone();
        add(
            "plain",
            n,
            Box::new(move || one(track(&plain, shuffle, 5, 3 * n))),
        );
        let part = g
            .clone()
            .select(Selected::list(vec![9, 60, 9, 3, 40, 41, 42, 65]));
        add(
            "repeated list",
            40,
            Box::new(move || one(track(&part, shuffle, 5, 80))),
        );
        // Up to 3 windows of each sample, in every third id from the sample's first.
        let counts: Vec<u32> = (0..47)
            .map(|i| u32::try_from(mix(i) % 4).unwrap())
            .collect();
        let samples = Selected::Steps {
            first: 0,
            step: 1,
            len: 47,
        };
        let windows = Geometry::of(&[(90, 9), (3, 12), (48, 6)]);
        let windows = windows.select(samples.parts(3, Some(&counts)));
        let num_windows = windows.len();
        add(
            "windows",
            num_windows,
            Box::new(move || one(track(&windows, shuffle, 5, num_windows))),
        );
        let packed = Geometry::of_blocks(53, 4);
        add(
            "packed",
            53,
            Box::new(move || one(track(&packed, shuffle, 5, 53))),
        );
        let (a, b) = (g.clone(), small.clone());
        let turns = Arc::new(Turns::new(&[2.0, 1.0]).unwrap());
        let mixed = move || {
            let tracks = vec![track(&a, shuffle, 5, 100), track(&b, shuffle, 6, 50)];
            Epoch::new(tracks, Arc::clone(&turns))
        };
        let in_pools = {
            let (mixed, datasets) = (mixed.clone(), lengths(&[&g, &small]));
            move || {
                mixed().in_pools(Pools::new(
                    Arc::clone(&datasets),
                    (GLOBAL_BATCH, 2),
                    70,
                    None,
                ))
            }
        };
        add("mixed", 70, Box::new(mixed));
        add("bucketed mixture", 70, Box::new(in_pools));
        let (bucketed, of_g) = (g.clone(), lengths(&[&g]));
        add(
            "bucketed",
            n,
            Box::new(move || {
                let pools = Pools::new(
                    Arc::clone(&of_g),
                    (GLOBAL_BATCH, 1),
                    n,
                    Some(epoch_key(5, 3)),
                );
                one(track(&bucketed, shuffle, 5, 3 * n)).in_pools(pools)
            }),
        );
        if shuffle == Shuffle::Exact {
            let weights: Vec<f64> = (0..n).map(|i| (i % 5) as f64).collect();
            let alias = Arc::new(Alias::new(&weights).unwrap());
            let drawn = g.clone();
            add(
                "weighted",
                n,
                Box::new(move || one(track(&drawn, shuffle, 5, 3 * n).drawn(Arc::clone(&alias)))),
            );
        }
    }
    sources
}

/// What a rank's plan puts in each slot of its first batches, and that it fills each slot of these once.
fn delivered(mut planner: Planner, batches: u64) -> Vec<Vec<Place>> {
    let batches = batches.min(planner.num_batches());
    let mut filled: BTreeMap<(u64, u32), Place> = BTreeMap::new();
    while planner.planned_batches() < batches {
        let round = planner
            .next_round()
            .unwrap()
            .expect("a plan ends with its last batch");
        for visit in round.visits {
            for entry in visit.entries {
                for i in 0..entry.count {
                    let sample = visit.place.first_sample + u64::from(entry.row + i);
                    let place = (visit.place.source, sample);
                    let before = filled.insert((entry.batch, entry.slot + i), place);
                    assert_eq!(before, None);
                }
            }
        }
    }
    let mut out = Vec::new();
    for batch in 0..batches {
        let mut samples = Vec::new();
        for (slot, (&(_, found), &place)) in (0..).zip(filled.range((batch, 0)..(batch + 1, 0))) {
            assert_eq!(found, slot);
            samples.push(place);
        }
        assert_eq!(samples.len() as u64, planner.batch_len(batch));
        out.push(samples);
    }
    out
}

/// The samples of `batches` batches from a position on, as all ranks together deliver them, in the order of positions.
fn deliver(
    source: &Source,
    world: u64,
    global_batch: u64,
    (start, batches): (u64, u64),
    tail: Tail,
) -> Vec<Place> {
    let shares: Vec<Share> = (0..world)
        .map(|rank| source.share((rank, world), global_batch, start, tail))
        .collect();
    let ranks: Vec<Vec<Vec<Place>>> = shares
        .iter()
        .map(|share| delivered(source.planner(share), batches))
        .collect();
    let mut out = Vec::new();
    for batch in 0..ranks[0].len() {
        let number = batch as u64;
        // Equal steps.
        assert!(ranks.iter().all(|rank| rank.len() == ranks[0].len()));
        let mut at = BTreeMap::new();
        for (share, rank) in shares.iter().zip(&ranks) {
            let real = rank[batch].len() - usize::try_from(share.num_padded(number)).unwrap();
            for ((slot, position), &place) in share.slots(number).enumerate().zip(&rank[batch]) {
                if slot < real {
                    assert_eq!(at.insert(position, place), None);
                } else {
                    // What pads repeats a sample of the same batch.
                    assert!(share.positions(number).contains(&position));
                    assert_eq!(place, source.order[usize::try_from(position).unwrap()]);
                }
            }
        }
        assert!(shares[0].positions(number).eq(at.keys().copied()));
        out.extend(at.into_values());
    }
    out
}

#[test]
fn every_position_world_and_tail_goes_on_with_the_same_order() {
    for source in sources() {
        for start in 0..=source.num_samples {
            for world in WORLDS {
                for tail in TAILS {
                    let found = deliver(&source, world, GLOBAL_BATCH, (start, u64::MAX), tail);
                    let left = source.num_samples - start;
                    let dropped = if tail == Tail::Drop {
                        left % GLOBAL_BATCH
                    } else {
                        0
                    };
                    let end = usize::try_from(source.num_samples - dropped).unwrap();
                    let expected = &source.order[usize::try_from(start).unwrap()..end];
                    assert!(
                        found == expected,
                        "{} {start} {world} {tail:?}",
                        source.name
                    );
                }
            }
        }
    }
}

/// The position after so many batches, by way of a state, as it is the same on every rank.
fn state_after(source: &Source, world: u64, global_batch: u64, start: u64, batches: u64) -> u64 {
    let consumed: Vec<u64> = (0..world)
        .map(|rank| {
            let share = source.share((rank, world), global_batch, start, Tail::Short);
            share.consumed(batches.min(share.num_batches()))
        })
        .collect();
    assert!(consumed.iter().all(|&x| x == consumed[0]));
    let state = LoaderState {
        fingerprint: 1,
        num_shards: 1,
        num_samples: source.num_samples,
        seed: 5,
        epoch: 3,
        consumed: consumed[0],
        options: vec![("shuffle".to_owned(), source.name.clone())],
    };
    let json = state.to_json();
    let back = LoaderState::from_json(&json).unwrap();
    assert_eq!((back.to_json(), &back), (json, &state));
    back.consumed()
}

#[test]
fn chains_of_three_resumes_with_any_world_sizes_lose_and_repeat_nothing() {
    let triples = || {
        let pairs = WORLDS.iter().flat_map(|&a| WORLDS.map(|b| (a, b)));
        pairs.flat_map(|(a, b)| WORLDS.map(|c| [a, b, c]))
    };
    for source in sources() {
        for (chain, worlds) in triples().enumerate() {
            // Global batches stay, or ranks keep theirs of 3; pools are made of global batches.
            for per_rank in [None, Some(3)] {
                if per_rank.is_some() && source.name.starts_with("bucketed") {
                    continue;
                }
                let mut start = 0;
                let mut found = Vec::new();
                let last = WORLDS[chain % 5];
                for (i, world) in worlds.into_iter().chain([last]).enumerate() {
                    let global_batch = per_rank.map_or(GLOBAL_BATCH, |each| each * world);
                    // None, one or two batches, and then all that are left.
                    let batches = match i {
                        3 => u64::MAX,
                        _ => mix(chain as u64 * 3 + i as u64) % 3,
                    };
                    let run = (start, batches);
                    found.extend(deliver(&source, world, global_batch, run, Tail::Short));
                    start = state_after(&source, world, global_batch, start, batches);
                }
                assert!(found == source.order, "{} {worlds:?}", source.name);
            }
        }
    }
}

#[test]
fn epochs_deliver_each_sample_once() {
    for source in sources() {
        if ["mix", "list", "weighted", "windows "]
            .iter()
            .any(|word| source.name.contains(word))
        {
            continue;
        }
        let mut samples: Vec<u64> = source.order.iter().map(|place| place.1).collect();
        samples.sort_unstable();
        assert!(
            samples.into_iter().eq(0..source.num_samples),
            "{}",
            source.name
        );
    }
}
