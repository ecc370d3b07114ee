//! Packed samples, compared with the stream that plain code makes of what was written.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::path::Path;

use common::Random;
use tensorshard::{
    Batch, DType, Damaged, Dataset, FieldSpec, Loader, LoaderBuilder, LoaderState, Mixture,
    MixtureEnd, Pack, Result, ShardWriter, Shuffle, TensorView, Windows, to_le_bytes,
};

const MODES: [Shuffle; 4] = [
    Shuffle::None,
    Shuffle::Windowed { window: 3 },
    Shuffle::Windowed { window: 64 },
    Shuffle::Exact,
];
const SEPARATOR: u32 = 60_001;
const PAD: u32 = 60_002;

/// Tokens and weights of samples.
struct Written {
    tokens: Vec<Vec<u16>>,
    dataset: Dataset,
}

/// The weight of a token, so that both fields can be compared.
fn weight(token: u16) -> f32 {
    f32::from(token) / 7.0
}

fn write(path: &Path, long: usize) -> Result<Written> {
    let mut writer = ShardWriter::builder()
        .samples_per_chunk(5)
        .max_shard_len(3_000)
        .field(FieldSpec::ragged("tokens", DType::U16, [None]))
        .field(FieldSpec::ragged("weights", DType::F32, [None]))
        .field(FieldSpec::new("label", DType::U8, []))
        .create(path)?;
    let mut random = Random(9);
    let mut all = Vec::new();
    for i in 0..91 {
        let n = match i % 10 {
            3 => random.below(long),
            7 => 0,
            _ => random.below(20),
        };
        let tokens: Vec<u16> = (0..n)
            .map(|_| u16::try_from(random.below(60_000)).unwrap())
            .collect();
        let weights: Vec<f32> = tokens.iter().map(|&token| weight(token)).collect();
        writer.append(&[
            (
                "tokens",
                TensorView::new(DType::U16, &[n], &to_le_bytes(&tokens))?,
            ),
            (
                "weights",
                TensorView::new(DType::F32, &[n], &to_le_bytes(&weights))?,
            ),
            ("label", TensorView::new(DType::U8, &[], &[1])?),
        ])?;
        all.push(tokens);
    }
    writer.finish()?;
    let dataset = Dataset::open(path)?;
    assert!(dataset.num_shards() > 2);
    Ok(Written {
        tokens: all,
        dataset,
    })
}

/// A token of the stream: of which sample, its place there, and what it is; a separator is none.
type Token = (u64, u64, Option<u16>);

/// The stream of some samples, in windows.
fn stream(
    written: &Written,
    samples: &[u64],
    length: usize,
    separator: bool,
    pad: bool,
) -> Vec<Vec<Token>> {
    let mut stream: Vec<Token> = Vec::new();
    for &sample in samples {
        let tokens = &written.tokens[usize::try_from(sample).unwrap()];
        let values = tokens.iter().map(|&token| Some(token));
        let values = values.chain(separator.then_some(None));
        stream.extend(
            (0..)
                .zip(values)
                .map(|(place, token)| (sample, place, token)),
        );
    }
    let mut windows: Vec<Vec<Token>> = stream.chunks(length).map(<[Token]>::to_vec).collect();
    if !pad && windows.last().is_some_and(|last| last.len() < length) {
        windows.pop();
    }
    windows
}

/// Compares a window of a batch with one of the stream.
fn is_window(batch: &Batch, i: usize, length: usize, window: &[Token]) -> bool {
    let tokens = &batch.field("tokens").unwrap().as_slice::<u16>().unwrap()[i * length..][..length];
    let weights =
        &batch.field("weights").unwrap().as_slice::<f32>().unwrap()[i * length..][..length];
    let ids = &batch.segment_ids().unwrap()[i * length..][..length];
    let positions = &batch.positions().unwrap()[i * length..][..length];
    let mut segments = batch.segments(i).iter();
    let mut left = 0;
    let mut number = -1;
    for at in 0..length {
        let Some(&(sample, place, token)) = window.get(at) else {
            if (tokens[at], ids[at], positions[at]) != (u16::try_from(PAD).unwrap(), -1, 0) {
                return false;
            }
            assert_eq!(weights[at], 0.0);
            continue;
        };
        if left == 0 {
            let Some(segment) = segments.next() else {
                return false;
            };
            if (segment.sample_id, segment.first, segment.position) != (sample, place, at) {
                return false;
            }
            (left, number) = (segment.len, number + 1);
        }
        left -= 1;
        let expected = token.unwrap_or(u16::try_from(SEPARATOR).unwrap());
        if tokens[at] != expected
            || ids[at] != number
            || i64::from(positions[at]) != i64::try_from(place).unwrap()
        {
            return false;
        }
        assert_eq!(weights[at], token.map_or(0.0, weight));
    }
    assert_eq!(batch.sample_ids()[i], window[0].0);
    left == 0 && segments.next().is_none()
}

/// Which windows batches hold, in their order.
fn numbers(batches: &[Batch], length: usize, windows: &[Vec<Token>]) -> Vec<usize> {
    let mut found = Vec::new();
    for batch in batches {
        assert_eq!(
            batch.field("tokens").unwrap().shape(),
            [batch.len(), length]
        );
        for i in 0..batch.len() {
            let number = windows
                .iter()
                .position(|window| is_window(batch, i, length, window));
            assert!(number.is_some(), "no window is {:?}", batch.segments(i));
            found.extend(number);
        }
    }
    found
}

fn packed(length: usize, separator: bool, pad: bool) -> LoaderBuilder {
    let mut pack = Pack::new("tokens", length).with("weights");
    if separator {
        pack = pack.separator(SEPARATOR);
    }
    if pad {
        pack = pack.pad(PAD);
    }
    Loader::builder().fields(["weights", "tokens"]).pack(pack)
}

fn sorted(mut all: Vec<usize>) -> Vec<usize> {
    all.sort_unstable();
    all
}

#[test]
fn windows_are_those_of_the_stream_each_once_in_every_order() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let everything: Vec<u64> = (0..91).collect();
    for long in [20, 900] {
        let written = write(&dir.path().join(long.to_string()), long)?;
        for (length, separator, pad) in [
            (8, false, false),
            (32, true, true),
            (100, true, false),
            (5_000, false, true),
            (50_000, false, false),
        ] {
            let windows = stream(&written, &everything, length, separator, pad);
            for shuffle in MODES {
                let mut order = None;
                for (workers, prefetch) in [(1, 1), (3, 8)] {
                    let loader = packed(length, separator, pad)
                        .shuffle(shuffle)
                        .seed(2)
                        .num_workers(workers)
                        .prefetch(prefetch)
                        .open_dataset(&written.dataset)?;
                    assert_eq!(loader.num_samples(), windows.len() as u64);
                    let batches: Vec<Batch> = loader.batches(6).collect::<Result<_>>()?;
                    let found = numbers(&batches, length, &windows);
                    if shuffle == Shuffle::None {
                        assert!(found.iter().copied().eq(0..windows.len()));
                    }
                    assert!(sorted(found.clone()).into_iter().eq(0..windows.len()));
                    assert_eq!(*order.get_or_insert_with(|| found.clone()), found);
                    for (step, batch) in (0..).zip(&batches) {
                        assert_eq!(loader.ids_for(step, 6)?, batch.sample_ids());
                    }
                }
            }
        }
    }
    Ok(())
}

#[test]
fn ranks_share_windows_and_states_resume_at_every_batch() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let written = write(&dir.path().join("d"), 300)?;
    let everything: Vec<u64> = (0..91).collect();
    let windows = stream(&written, &everything, 24, true, true);
    for shuffle in MODES {
        let open = |rank, world, state: Option<&LoaderState>| -> Result<Loader> {
            let mut loader = packed(24, true, true)
                .shuffle(shuffle)
                .epoch(1)
                .rank(rank, world)
                .num_workers(2)
                .global_batch_size(12)
                .open_dataset(&written.dataset)?;
            if let Some(state) = state {
                loader.load_state(state)?;
            }
            Ok(loader)
        };
        let whole = open(0, 1, None)?;
        let batches = whole.batches(12).collect::<Result<Vec<_>>>()?;
        let order = numbers(&batches, 24, &windows);
        for world in [1, 2, 3] {
            for taken in 0..=whole.num_batches(12) {
                let first = open(0, world, None)?;
                let size = first.batch_size().unwrap();
                let begun = first.batches(size).take(usize::try_from(taken).unwrap());
                begun.collect::<Result<Vec<_>>>()?;
                let state = LoaderState::from_json(&first.state()?.to_json())?;
                let next = [3, 1, 2][usize::try_from(world).unwrap() - 1];
                let mut found = Vec::new();
                for rank in 0..next {
                    let loader = open(rank, next, Some(&state))?;
                    let size = loader.batch_size().unwrap();
                    let batches = loader.batches(size).collect::<Result<Vec<_>>>()?;
                    found.extend(numbers(&batches, 24, &windows));
                }
                let rest = usize::try_from(taken * 12).unwrap().min(order.len());
                assert_eq!(sorted(found), sorted(order[rest..].to_vec()));
            }
        }
        // Other windows are another epoch.
        let state = whole.state()?;
        let mut other = packed(24, true, false)
            .shuffle(shuffle)
            .open_dataset(&written.dataset)?;
        let error = other.load_state(&state).unwrap_err().to_string();
        assert!(error.contains("pack"), "{error}");
    }
    Ok(())
}

#[test]
fn selections_and_mixtures_are_packed() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let written = write(&dir.path().join("d"), 200)?;
    type Select = fn(LoaderBuilder) -> LoaderBuilder;
    let cases: Vec<(Select, Vec<u64>)> = vec![
        (|b| b.range(10..50), (10..50).collect()),
        (|b| b.every_nth(3, 1), (1..91).step_by(3).collect()),
        (
            |b| b.indices(vec![40, 3, 3, 90, 0, 43, 3]),
            vec![40, 3, 3, 90, 0, 43, 3],
        ),
    ];
    for (select, samples) in cases {
        let windows = stream(&written, &samples, 16, true, true);
        for shuffle in MODES {
            let loader = select(packed(16, true, true))
                .shuffle(shuffle)
                .repeat(2)
                .open_dataset(&written.dataset)?;
            let batches: Vec<Batch> = loader.batches(5).collect::<Result<_>>()?;
            let found = sorted(numbers(&batches, 16, &windows));
            let twice = (0..windows.len()).flat_map(|i| [i, i]);
            // Of a list that repeats samples, two windows may be the same.
            assert_eq!(found.len(), 2 * windows.len());
            if samples.len() > 7 {
                assert!(found.into_iter().eq(twice));
            }
        }
    }
    let mixture = Mixture::new()
        .add(&written.dataset, 1.0)
        .add(&written.dataset, 2.0)
        .until(MixtureEnd::AllExhausted);
    for shuffle in MODES {
        let loader = packed(16, true, true)
            .shuffle(shuffle)
            .open_mixture(&mixture)?;
        for (step, batch) in (0..).zip(loader.batches(5)) {
            let batch = batch?;
            assert_eq!(loader.ids_for(step, 5)?, batch.sample_ids());
            let tokens: &[u16] = batch.field("tokens")?.as_slice()?;
            for i in 0..batch.len() {
                for segment in batch.segments(i) {
                    let (_, sample) = loader.source_of(segment.sample_id);
                    let sample = &written.tokens[usize::try_from(sample).unwrap()];
                    let first = usize::try_from(segment.first).unwrap();
                    let n = segment.len.min(sample.len() - first);
                    let at = i * 16 + segment.position;
                    assert_eq!(tokens[at..at + n], sample[first..first + n]);
                }
            }
        }
    }
    Ok(())
}

#[test]
fn what_cannot_be_packed_is_refused_by_name() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let written = write(&dir.path().join("d"), 50)?;
    let tokens = || Loader::builder().fields(["tokens"]);
    for (options, word) in [
        (
            Loader::builder().pack(Pack::new("tokens", 8)),
            "select the fields tokens",
        ),
        (tokens().pack(Pack::new("tokens", 0)), "1 to 4294967295"),
        (
            tokens().pack(Pack::new("tokens", 8).with("weights")),
            "not all of them",
        ),
        (
            tokens().pack(Pack::new("tokens", 8).separator(65_536)),
            "u16",
        ),
        (tokens().pack(Pack::new("tokens", 8).pad(0.5)), "u16"),
        (tokens().pack(Pack::new("tokens", 8).pad(-1)), "u16"),
        (
            Loader::builder()
                .fields(["label"])
                .pack(Pack::new("label", 8)),
            "first axis",
        ),
        (
            tokens()
                .pack(Pack::new("tokens", 8))
                .windows(Windows::new(8)),
            "not both",
        ),
        (
            tokens().pack(Pack::new("tokens", 8)).damaged(Damaged::Skip),
            "salvage",
        ),
        (
            tokens()
                .pack(Pack::new("tokens", 8))
                .shuffle(Shuffle::Exact)
                .weights(vec![1.0; 91]),
            "weights",
        ),
    ] {
        let error = options
            .open_dataset(&written.dataset)
            .unwrap_err()
            .to_string();
        assert!(error.contains(word), "{error}");
    }
    let loader = tokens()
        .pack(Pack::new("tokens", 1 << 20).pad(0))
        .open_dataset(&written.dataset)?;
    let error = loader.batches(1 << 12).next().unwrap().unwrap_err();
    assert!(error.to_string().contains("tokens"), "{error}");
    assert!(Loader::open(dir.path().join("d"))?.batches(4).all(|batch| {
        let batch = batch.unwrap();
        batch.segments(0).is_empty() && batch.positions().is_none()
    }));
    Ok(())
}
