//! How good shuffles are, and what batches of like lengths save, measured: the tables of SHUFFLING.md.
//!
//! `cargo run --release --example shuffle_statistics`
//!
//! Orders of this crate come from `Loader::ids_for`; those of other loaders are computed here from their published
//! descriptions: a shuffle buffer (tf.data, WebDataset), and py1e (MosaicML Streaming).
#![expect(
    clippy::print_stdout,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a program that prints a table of small numbers"
)]

use std::collections::BTreeSet;

use tensorshard::{DType, Dataset, FieldSpec, Loader, Result, ShardWriter, Shuffle, TensorView};

/// 512 chunks of 256 samples, in shards of 32 chunks.
const CHUNK: usize = 256;
const CHUNKS: usize = 512;
const SHARD: usize = 32 * CHUNK;
const N: usize = CHUNK * CHUNKS;
const BATCH: usize = 256;
/// The dataset is sorted by class.
const CLASSES: usize = 16;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.next()) * n as u128) >> 64) as usize
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }
}

/// Samples in the order of shards, which are shuffled.
fn shards_in_random_order(random: &mut Random) -> Vec<usize> {
    let mut shards: Vec<usize> = (0..N / SHARD).collect();
    random.shuffle(&mut shards);
    let samples = shards
        .iter()
        .flat_map(|shard| shard * SHARD..(shard + 1) * SHARD);
    samples.collect()
}

/// tf.data and WebDataset: samples stream through a buffer, which gives a random one of its own for each that comes.
fn buffer(input: Vec<usize>, size: usize, random: &mut Random) -> Vec<usize> {
    let mut held: Vec<usize> = Vec::with_capacity(size);
    let mut out = Vec::with_capacity(input.len());
    for sample in input {
        if held.len() == size {
            let i = random.below(size);
            out.push(std::mem::replace(&mut held[i], sample));
        } else {
            held.push(sample);
        }
    }
    random.shuffle(&mut held);
    out.extend(held);
    out
}

/// MosaicML's py1e: shards in random order, and every sample moved by up to half a block to either side.
fn py1e(block: usize, random: &mut Random) -> Vec<usize> {
    let input = shards_in_random_order(random);
    let mut keyed: Vec<(f64, usize)> = input
        .into_iter()
        .enumerate()
        .map(|(i, sample)| {
            let shift = random.next() as f64 / u64::MAX as f64 - 0.5;
            (i as f64 + shift * block as f64, sample)
        })
        .collect();
    keyed.sort_by(|a, b| a.0.total_cmp(&b.0));
    keyed.into_iter().map(|(_, sample)| sample).collect()
}

/// An epoch of this crate.
fn ours(dataset: &Dataset, shuffle: Shuffle, epoch: u64) -> Result<Vec<usize>> {
    let loader = Loader::builder()
        .shuffle(shuffle)
        .epoch(epoch)
        .rank(0, 1)
        .open_dataset(dataset)?;
    let mut out = Vec::new();
    for step in 0..loader.num_batches(BATCH) {
        let ids = loader.ids_for(step, BATCH)?;
        out.extend(ids.into_iter().map(|id| id as usize));
    }
    Ok(out)
}

/// Averages over an order.
#[derive(Default)]
struct Statistics {
    travel: f64,
    apart: f64,
    pairs: f64,
    chunks: f64,
    classes: f64,
}

fn measure(order: &[usize]) -> Statistics {
    assert_eq!(order.len(), N);
    let mut position = vec![usize::MAX; N];
    for (p, &sample) in order.iter().enumerate() {
        assert_eq!(position[sample], usize::MAX, "a sample comes once");
        position[sample] = p;
    }
    let mut out = Statistics::default();
    for (sample, place) in position.iter().enumerate() {
        out.travel += place.abs_diff(sample) as f64 / (N * N) as f64;
    }
    for pair in position.windows(2) {
        out.apart += pair[0].abs_diff(pair[1]) as f64 / (N * N) as f64;
    }
    let batches = (N / BATCH) as f64;
    for batch in order.chunks(BATCH) {
        let mut per_chunk = vec![0usize; CHUNKS];
        let mut per_class = [0usize; CLASSES];
        for &sample in batch {
            per_chunk[sample / CHUNK] += 1;
            per_class[sample / (N / CLASSES)] += 1;
        }
        out.pairs += per_chunk
            .iter()
            .map(|&n| n * n.saturating_sub(1) / 2)
            .sum::<usize>() as f64
            / batches;
        out.chunks += per_chunk.iter().filter(|&&n| n > 0).count() as f64 / batches;
        let expected = (BATCH / CLASSES) as f64;
        let chi: f64 = per_class
            .iter()
            .map(|&n| (n as f64 - expected).powi(2) / expected)
            .sum();
        out.classes += chi / (CLASSES - 1) as f64 / batches;
    }
    out
}

/// Samples of the table of lengths, 64 in a chunk.
const TEXTS: u64 = 1 << 15;
/// Batches of the table of lengths.
const TEXT_BATCH: usize = 64;

/// Lengths as those of texts: the logarithm is normal, half are below 200, and none is above 2048.
fn text_length(random: &mut Random) -> usize {
    let uniform = |random: &mut Random| random.next() as f64 / u64::MAX as f64;
    let normal: f64 = (0..12).map(|_| uniform(random)).sum::<f64>() - 6.0;
    (200.0 * normal.exp()).clamp(1.0, 2048.0) as usize
}

/// What batches of like lengths save: elements of padded batches by those that are not padding, over an epoch.
fn lengths() -> Result<()> {
    let folder = std::env::temp_dir().join(format!("tensorshard-lengths-{}", std::process::id()));
    let mut writer = ShardWriter::builder()
        .field(FieldSpec::ragged("tokens", DType::U8, [None]))
        .samples_per_chunk(64)
        .create(&folder)?;
    let mut random = Random(1);
    let lengths: Vec<usize> = (0..TEXTS).map(|_| text_length(&mut random)).collect();
    for &length in &lengths {
        let tokens = vec![0; length];
        writer.append(&[("tokens", TensorView::new(DType::U8, &[length], &tokens)?)])?;
    }
    writer.finish()?;
    let dataset = Dataset::open(&folder)?;
    println!("\n| order | padding | padded to multiples of 64 | shapes |");
    println!("|---|---|---|---|");
    for shuffle in [Shuffle::windowed(), Shuffle::Exact] {
        for pool_batches in [None, Some(4), Some(16), Some(64), Some(512)] {
            let mut options = Loader::builder()
                .shuffle(shuffle)
                .rank(0, 1)
                .global_batch_size(TEXT_BATCH as u64);
            if let Some(pool_batches) = pool_batches {
                options = options.bucket_by_length("tokens", pool_batches);
            }
            let loader = options.open_dataset(&dataset)?;
            let (mut padded, mut in_multiples, mut shapes) = (0, 0, BTreeSet::new());
            for step in 0..loader.num_batches(TEXT_BATCH) {
                let ids = loader.ids_for(step, TEXT_BATCH)?;
                let longest = ids.iter().map(|&id| lengths[id as usize]).max();
                let longest = longest.unwrap_or(0);
                padded += longest * ids.len();
                in_multiples += longest.next_multiple_of(64) * ids.len();
                shapes.insert(longest.next_multiple_of(64));
            }
            let values: usize = lengths.iter().sum();
            let share = |padded: usize| 100.0 * (padded - values) as f64 / padded as f64;
            let name = match shuffle {
                Shuffle::Exact => "exact",
                _ => "windowed",
            };
            let pools =
                pool_batches.map_or_else(String::new, |n| format!(", pools of {n} batches"));
            println!(
                "| {name}{pools} | {:.1}% | {:.1}% | {} |",
                share(padded),
                share(in_multiples),
                shapes.len()
            );
        }
    }
    std::fs::remove_dir_all(&folder).ok();
    Ok(())
}

fn main() -> Result<()> {
    let folder = std::env::temp_dir().join(format!("tensorshard-shuffles-{}", std::process::id()));
    let mut writer = ShardWriter::builder()
        .field(FieldSpec::new("x", DType::U8, []))
        .samples_per_chunk(CHUNK as u32)
        .create(&folder)?;
    for _ in 0..N {
        writer.append(&[("x", TensorView::new(DType::U8, &[], &[0])?)])?;
    }
    writer.finish()?;
    let dataset = Dataset::open(&folder)?;
    type Make<'a> = Box<dyn Fn(u64) -> Result<Vec<usize>> + 'a>;
    let dataset = &dataset;
    let windowed = |window| -> Make<'_> {
        Box::new(move |epoch| ours(dataset, Shuffle::Windowed { window }, epoch))
    };
    let methods: Vec<(&str, Make<'_>)> = vec![
        (
            "uniform (Fisher and Yates, 8 bytes a sample)",
            Box::new(|epoch| {
                let mut all: Vec<usize> = (0..N).collect();
                Random(epoch).shuffle(&mut all);
                Ok(all)
            }),
        ),
        (
            "exact",
            Box::new(|epoch| ours(dataset, Shuffle::Exact, epoch)),
        ),
        ("windowed, 8 chunks", windowed(8)),
        ("windowed, 32 chunks", windowed(32)),
        ("windowed, 64 chunks (default)", windowed(64)),
        ("windowed, 256 chunks", windowed(256)),
        (
            "shards shuffled, buffer of 1,000 samples",
            Box::new(|epoch| {
                let mut random = Random(epoch);
                let input = shards_in_random_order(&mut random);
                Ok(buffer(input, 1_000, &mut random))
            }),
        ),
        (
            "shards shuffled, buffer of 64 chunks",
            Box::new(|epoch| {
                let mut random = Random(epoch);
                let input = shards_in_random_order(&mut random);
                Ok(buffer(input, 64 * CHUNK, &mut random))
            }),
        ),
        (
            "files in order, buffer of 64 chunks",
            Box::new(|epoch| Ok(buffer((0..N).collect(), 64 * CHUNK, &mut Random(epoch)))),
        ),
        (
            "py1e, blocks of 64 chunks",
            Box::new(|epoch| Ok(py1e(64 * CHUNK, &mut Random(epoch)))),
        ),
        (
            "none",
            Box::new(|epoch| ours(dataset, Shuffle::None, epoch)),
        ),
    ];
    println!(
        "| order | travel | neighbours apart | pairs of one chunk in a batch | chunks in a batch | classes |"
    );
    println!("|---|---|---|---|---|---|");
    for (name, make) in &methods {
        let epochs = 3;
        let mut sum = Statistics::default();
        for epoch in 0..epochs {
            let s = measure(&make(epoch)?);
            let share = 1.0 / epochs as f64;
            sum.travel += s.travel * share;
            sum.apart += s.apart * share;
            sum.pairs += s.pairs * share;
            sum.chunks += s.chunks * share;
            sum.classes += s.classes * share;
        }
        println!(
            "| {name} | {:.3} | {:.3} | {:.1} | {:.1} | {:.2} |",
            sum.travel, sum.apart, sum.pairs, sum.chunks, sum.classes
        );
    }
    std::fs::remove_dir_all(dataset.path()).ok();
    lengths()
}
