//! Windows of long samples, compared with slices of what was written.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::path::Path;

use common::{Random, elements};
use tensorshard::{
    Batch, Bitmap, DType, Damaged, Dataset, FieldOutput, FieldSpec, Loader, LoaderBuilder,
    LoaderState, Mixture, MixtureEnd, Pack, Ragged, Result, ShardWriter, Shuffle, Split, Tail,
    TensorView, Windows,
};

const MODES: [Shuffle; 4] = [
    Shuffle::None,
    Shuffle::Windowed { window: 3 },
    Shuffle::Windowed { window: 64 },
    Shuffle::Exact,
];

/// Samples in memory: steps of 3 floats and a byte, and a caption.
struct Written {
    steps: Vec<usize>,
    x: Vec<Vec<u8>>,
    q: Vec<Vec<u8>>,
    dataset: Dataset,
}

impl Written {
    /// (sample, first step) of all windows of some samples.
    fn windows(&self, samples: &[u64], length: usize, stride: usize) -> Vec<(u64, u64)> {
        let mut all = Vec::new();
        for &sample in samples {
            let steps = self.steps[usize::try_from(sample).unwrap()];
            let starts = (0..).step_by(stride).take_while(|s| s + length <= steps);
            all.extend(starts.map(|start| (sample, start as u64)));
        }
        all
    }

    fn all(&self, length: usize, stride: usize) -> Vec<(u64, u64)> {
        let samples: Vec<u64> = (0..self.steps.len() as u64).collect();
        self.windows(&samples, length, stride)
    }

    /// Compares every value with a slice of what was written.
    fn check(&self, batch: &Batch, length: usize) {
        let starts = batch.window_starts().unwrap();
        assert_eq!(starts.len(), batch.len());
        assert_eq!(batch.field("x").unwrap().shape(), [batch.len(), length, 3]);
        assert_eq!(batch.field("q").unwrap().shape(), [batch.len(), length]);
        for (i, (&id, &start)) in batch.sample_ids().iter().zip(starts).enumerate() {
            let (id, start) = (
                usize::try_from(id).unwrap(),
                usize::try_from(start).unwrap(),
            );
            let x = batch.field("x").unwrap().sample(i).unwrap();
            assert_eq!(x.data(), &self.x[id][start * 12..(start + length) * 12]);
            let q = batch.field("q").unwrap().sample(i).unwrap();
            assert_eq!(q.data(), &self.q[id][start..start + length]);
            assert_eq!(
                batch.field("caption").unwrap().text(i).unwrap(),
                caption(id)
            );
        }
    }
}

fn caption(i: usize) -> String {
    format!("sample {i} {}", "x".repeat(i % 5))
}

fn write(path: &Path, steps: &[usize], fixed: Option<usize>) -> Result<Written> {
    let shape = |rest: &[usize]| -> Vec<Option<usize>> {
        std::iter::once(fixed)
            .chain(rest.iter().copied().map(Some))
            .collect()
    };
    let mut writer = ShardWriter::builder()
        .samples_per_chunk(5)
        .max_shard_len(7_000)
        .field(FieldSpec::ragged("x", DType::F32, shape(&[3])))
        .field(FieldSpec::ragged("q", DType::I8, shape(&[])))
        .field(FieldSpec::string("caption"))
        .create(path)?;
    let mut random = Random(7);
    let (mut xs, mut qs) = (Vec::new(), Vec::new());
    for (i, &n) in steps.iter().enumerate() {
        let x = elements(DType::F32, n * 3, &mut random);
        let q = elements(DType::I8, n, &mut random);
        let text = caption(i);
        writer.append(&[
            ("x", TensorView::new(DType::F32, &[n, 3], &x)?),
            ("q", TensorView::new(DType::I8, &[n], &q)?),
            (
                "caption",
                TensorView::new(DType::U8, &[text.len()], text.as_bytes())?,
            ),
        ])?;
        xs.push(x);
        qs.push(q);
    }
    writer.finish()?;
    let dataset = Dataset::open(path)?;
    assert!(dataset.num_shards() > 2);
    Ok(Written {
        steps: steps.to_vec(),
        x: xs,
        q: qs,
        dataset,
    })
}

fn fixed(path: &Path) -> Result<Written> {
    write(path, &[13; 83], Some(13))
}

fn ragged(path: &Path) -> Result<Written> {
    let mut random = Random(3);
    let steps: Vec<usize> = (0..83).map(|_| random.below(24)).collect();
    write(path, &steps, None)
}

/// (sample, first step) of every window, in order.
fn places(batches: &[Batch]) -> Vec<(u64, u64)> {
    let places = |batch: &Batch| {
        let starts = batch.window_starts().unwrap().to_vec();
        batch.sample_ids().to_vec().into_iter().zip(starts)
    };
    batches.iter().flat_map(places).collect()
}

fn sorted(mut all: Vec<(u64, u64)>) -> Vec<(u64, u64)> {
    all.sort_unstable();
    all
}

fn both(dir: &Path) -> Result<[Written; 2]> {
    Ok([fixed(&dir.join("fixed"))?, ragged(&dir.join("ragged"))?])
}

#[test]
fn windows_are_slices_of_samples_each_once_in_every_order() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    for written in both(dir.path())? {
        for (length, stride) in [(4, 1), (4, 4), (5, 7), (13, 1), (1, 2), (20, 3), (30, 1)] {
            let expected = written.all(length, stride);
            for shuffle in MODES {
                let base = || {
                    Loader::builder()
                        .windows(Windows::new(length).stride(stride))
                        .shuffle(shuffle)
                        .seed(5)
                };
                let mut order = None;
                for (workers, prefetch) in [(1, 1), (3, 8)] {
                    let loader = base()
                        .num_workers(workers)
                        .prefetch(prefetch)
                        .open_dataset(&written.dataset)?;
                    assert_eq!(loader.num_samples(), expected.len() as u64);
                    let batches: Vec<Batch> = loader.batches(16).collect::<Result<_>>()?;
                    batches
                        .iter()
                        .for_each(|batch| written.check(batch, length));
                    let found = places(&batches);
                    if shuffle == Shuffle::None {
                        assert_eq!(found, expected);
                    } else if expected.len() > 100 {
                        assert_ne!(found, expected);
                    }
                    assert_eq!(sorted(found.clone()), expected);
                    // Threads and prefetch change nothing.
                    assert_eq!(*order.get_or_insert_with(|| found.clone()), found);
                }
            }
        }
    }
    Ok(())
}

#[test]
fn ranks_share_windows_and_states_resume_at_every_batch() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    for written in both(dir.path())? {
        let expected = written.all(4, 2);
        for shuffle in MODES {
            let open = |rank, world, state: Option<&LoaderState>| -> Result<Loader> {
                let mut loader = Loader::builder()
                    .windows(Windows::new(4).stride(2))
                    .shuffle(shuffle)
                    .seed(1)
                    .epoch(2)
                    .rank(rank, world)
                    .num_workers(2)
                    .global_batch_size(24)
                    .open_dataset(&written.dataset)?;
                if let Some(state) = state {
                    loader.load_state(state)?;
                }
                Ok(loader)
            };
            let whole = open(0, 1, None)?;
            let order = places(&whole.batches(24).collect::<Result<Vec<_>>>()?);
            for world in [1, 2, 3] {
                for taken in 0..=whole.num_batches(24) {
                    let first = open(0, world, None)?;
                    let size = first.batch_size().unwrap();
                    let begun = first.batches(size).take(usize::try_from(taken).unwrap());
                    begun.collect::<Result<Vec<_>>>()?;
                    let state = LoaderState::from_json(&first.state()?.to_json())?;
                    // Another number of ranks goes on.
                    let next = [3, 1, 2][usize::try_from(world).unwrap() - 1];
                    let mut found = Vec::new();
                    for rank in 0..next {
                        let loader = open(rank, next, Some(&state))?;
                        let size = loader.batch_size().unwrap();
                        let batches = loader.batches(size).collect::<Result<Vec<_>>>()?;
                        batches.iter().for_each(|batch| written.check(batch, 4));
                        found.extend(places(&batches));
                    }
                    let rest = usize::try_from(taken * 24).unwrap().min(order.len());
                    assert_eq!(sorted(found), sorted(order[rest..].to_vec()));
                }
            }
            assert_eq!(sorted(order), expected);
            // Other windows are another epoch.
            let state = whole.state()?;
            let mut other = Loader::builder()
                .windows(Windows::new(4).stride(3))
                .shuffle(shuffle)
                .seed(1)
                .open_dataset(&written.dataset)?;
            let error = other.load_state(&state).unwrap_err().to_string();
            assert!(error.contains("windows"), "{error}");
        }
    }
    Ok(())
}

/// The epoch ends with the windows it began with, whatever was appended meanwhile.
#[test]
fn a_state_resumes_after_samples_were_appended() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    for written in both(dir.path())? {
        let path = written.dataset.path();
        for shuffle in MODES {
            let open = || {
                Loader::builder()
                    .windows(Windows::new(4).stride(2))
                    .shuffle(shuffle)
                    .seed(1)
                    .open(path)
            };
            let loader = open()?;
            let order = places(&loader.batches(10).collect::<Result<Vec<_>>>()?);
            let loader = open()?;
            loader.batches(10).take(3).collect::<Result<Vec<_>>>()?;
            let state = loader.state()?;
            let mut writer = ShardWriter::builder().append_to(path)?;
            let x = [0; 13 * 12];
            writer.append(&[
                ("x", TensorView::new(DType::F32, &[13, 3], &x)?),
                ("q", TensorView::new(DType::I8, &[13], &x[..13])?),
                ("caption", TensorView::new(DType::U8, &[3], b"new")?),
            ])?;
            writer.finish()?;
            let mut grown = open()?;
            grown.load_state(&state)?;
            let rest = places(&grown.batches(10).collect::<Result<Vec<_>>>()?);
            assert_eq!(rest, order[30..]);
        }
    }
    Ok(())
}

#[test]
fn selections_are_of_samples_and_all_their_windows() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    for written in both(dir.path())? {
        let mask: Vec<bool> = (0..83).map(|i| i % 3 == 1).collect();
        let filter = std::sync::Arc::new(Bitmap::from_mask(&mask));
        let listed = vec![40, 3, 3, 82, 0, 41];
        type Select = Box<dyn Fn(LoaderBuilder) -> LoaderBuilder>;
        let cases: Vec<(Select, Option<Vec<u64>>)> = vec![
            (Box::new(|b| b.range(10..35)), Some((10..35).collect())),
            (
                Box::new(|b| b.every_nth(4, 3)),
                Some((3..83).step_by(4).collect()),
            ),
            (
                Box::new(move |b| b.filter(std::sync::Arc::clone(&filter))),
                Some((1..83).step_by(3).collect()),
            ),
            (
                Box::new(|b| b.indices(vec![40, 3, 3, 82, 0, 41])),
                Some(listed),
            ),
            (Box::new(|b| b.split(Split::by_id(0.0..0.5))), None),
        ];
        for (select, samples) in cases {
            for shuffle in MODES {
                let base = Loader::builder().shuffle(shuffle);
                let samples = match &samples {
                    Some(samples) => samples.clone(),
                    None => {
                        let whole = select(Loader::builder()).open_dataset(&written.dataset)?;
                        let batches = whole.batches(100).collect::<Result<Vec<_>>>()?;
                        batches
                            .iter()
                            .flat_map(|b| b.sample_ids().to_vec())
                            .collect()
                    }
                };
                let expected = written.windows(&samples, 6, 2);
                let loader = select(base)
                    .windows(Windows::new(6).stride(2))
                    .open_dataset(&written.dataset)?;
                let batches = loader.batches(7).collect::<Result<Vec<_>>>()?;
                batches.iter().for_each(|batch| written.check(batch, 6));
                let found = places(&batches);
                if shuffle == Shuffle::None {
                    assert_eq!(found, expected);
                }
                assert_eq!(sorted(found), sorted(expected));
                for (step, batch) in (0..).zip(&batches) {
                    assert_eq!(loader.ids_for(step, 7)?, batch.sample_ids());
                }
            }
        }
    }
    Ok(())
}

#[test]
fn mixtures_take_turns_by_windows() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let [long, varied] = both(dir.path())?;
    let mixture = Mixture::new()
        .add(&long.dataset, 1.0)
        .add(&varied.dataset, 1.0)
        .until(MixtureEnd::AllExhausted);
    // The layouts of ragged and fixed fields are the same: windows.
    for shuffle in MODES {
        let loader = Loader::builder()
            .windows(Windows::new(5).stride(2))
            .shuffle(shuffle)
            .open_mixture(&mixture)?;
        let batches = loader.batches(9).collect::<Result<Vec<_>>>()?;
        let mut seen = [Vec::new(), Vec::new()];
        for (step, batch) in (0..).zip(&batches) {
            assert_eq!(loader.ids_for(step, 9)?, batch.sample_ids());
            let starts = batch.window_starts().unwrap();
            for (i, (&id, &start)) in batch.sample_ids().iter().zip(starts).enumerate() {
                let (source, sample) = loader.source_of(id);
                let written = [&long, &varied][source];
                let from = usize::try_from(start).unwrap() * 12;
                let x = &written.x[usize::try_from(sample).unwrap()];
                let found = batch.field("x")?.sample(i)?;
                assert_eq!(found.data(), &x[from..from + 60]);
                seen[source].push((sample, start));
            }
        }
        for (written, mut seen) in [&long, &varied].into_iter().zip(seen) {
            seen.sort_unstable();
            seen.dedup();
            assert_eq!(seen, written.all(5, 2));
        }
    }
    Ok(())
}

#[test]
fn repeats_tails_dtypes_and_whole_fields() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let written = ragged(&dir.path().join("d"))?;
    let n = written.all(4, 3).len() as u64;
    let base = || Loader::builder().windows(Windows::new(4).stride(3));
    let loader = base().repeat(3).open_dataset(&written.dataset)?;
    assert_eq!(loader.num_samples(), 3 * n);
    let batches = loader.batches(10).collect::<Result<Vec<_>>>()?;
    assert_eq!(places(&batches).len() as u64, 3 * n);
    let padded = base().tail(Tail::Pad).open_dataset(&written.dataset)?;
    for batch in padded.batches(64) {
        let batch = batch?;
        assert_eq!(batch.len(), 64);
        written.check(&batch, 4);
    }
    // Another dtype, and q whole: without the captions.
    let loader = Loader::builder()
        .fields(["q", "x"])
        .windows(Windows::new(4).fields(["x"]))
        .dtype(DType::F64)
        .open_dataset(&written.dataset)?;
    for batch in loader.batches(10) {
        let batch = batch?;
        let x: &[f64] = batch.field("x")?.as_slice()?;
        for (i, &id) in batch.sample_ids().iter().enumerate() {
            let id = usize::try_from(id).unwrap();
            let q = batch.field("q")?.sample(i)?;
            assert_eq!(
                (q.shape(), q.data()),
                (&[written.steps[id]][..], &written.q[id][..])
            );
            let from = usize::try_from(batch.window_starts().unwrap()[i]).unwrap() * 12;
            let values = written.x[id][from..].as_chunks::<4>().0.iter();
            let values = values.take(12).map(|b| f64::from(f32::from_le_bytes(*b)));
            assert!(values.eq(x[i * 12..(i + 1) * 12].iter().copied()));
        }
    }
    Ok(())
}

#[test]
fn only_chunks_and_pieces_that_hold_windows_are_decoded() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("long");
    // Samples of 40 pieces each: 64 KiB of 2.5 MiB.
    let steps = 10_000;
    let mut writer = ShardWriter::builder()
        .samples_per_chunk(1)
        .field(FieldSpec::ragged("x", DType::F32, [None, Some(64)]))
        .create(&path)?;
    let mut random = Random(1);
    let mut all = Vec::new();
    for _ in 0..4 {
        let x = elements(DType::F32, steps * 64, &mut random);
        writer.append(&[("x", TensorView::new(DType::F32, &[steps, 64], &x)?)])?;
        all.push(x);
    }
    writer.finish()?;
    let loader = Loader::builder()
        .windows(Windows::new(100).stride(50))
        .shuffle(Shuffle::Exact)
        .num_workers(1)
        .prefetch(1)
        .open(&path)?;
    let mut batches = loader.batches(1);
    for _ in 0..20 {
        let batch = batches.next().unwrap()?;
        let id = usize::try_from(batch.sample_ids()[0]).unwrap();
        let from = usize::try_from(batch.window_starts().unwrap()[0]).unwrap() * 256;
        let found = batch.field("x")?.sample(0)?;
        assert_eq!(found.data(), &all[id][from..from + 25_600]);
    }
    drop(batches);
    // A window of 25 KB is in one or two pieces of 64 KiB; a sample has 2.5 MB.
    let stats = loader.stats();
    assert!(
        stats.decoded_bytes < 40 * 2 * 65_536,
        "{}",
        stats.decoded_bytes
    );
    Ok(())
}

#[test]
fn a_windowed_shuffle_decodes_chunks_about_once_an_epoch() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("d");
    let mut writer = ShardWriter::builder()
        .samples_per_chunk(4)
        .field(FieldSpec::ragged("x", DType::U16, [None]))
        .create(&path)?;
    let mut random = Random(1);
    for _ in 0..800 {
        let n = 40 + random.below(20);
        let x = elements(DType::U16, n, &mut random);
        writer.append(&[("x", TensorView::new(DType::U16, &[n], &x)?)])?;
    }
    writer.finish()?;
    let windows = Loader::builder().windows(Windows::new(16).stride(4));
    let packed = Loader::builder().pack(Pack::new("x", 20));
    // Visits of the 200 chunks. Packed blocks begin and end within chunks; lanes cut blocks in both.
    for (options, most) in [(windows, 300), (packed, 700)] {
        let loader = options
            .shuffle(Shuffle::Windowed { window: 16 })
            .open(&path)?;
        for batch in loader.batches(32) {
            batch?;
        }
        let visits = loader.stats().chunks;
        assert!((200..=most).contains(&visits), "{visits} of at most {most}");
    }
    Ok(())
}

#[test]
fn what_cannot_be_cut_is_refused_by_name() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let written = ragged(&dir.path().join("d"))?;
    let message = |options: LoaderBuilder| {
        let error = options.open_dataset(&written.dataset).unwrap_err();
        assert!(
            matches!(error.kind(), tensorshard::ErrorKind::InvalidArgument { .. }),
            "{error}"
        );
        error.to_string()
    };
    let base = || Loader::builder().windows(Windows::new(4));
    for (options, word) in [
        (Loader::builder().windows(Windows::new(0)), "at least 1"),
        (
            Loader::builder().windows(Windows::new(1).stride(0)),
            "at least 1",
        ),
        (
            Loader::builder().windows(Windows::new(4).fields(["caption"])),
            "text and bytes",
        ),
        (
            Loader::builder().windows(Windows::new(4).fields(["nothing"])),
            "nothing",
        ),
        (
            Loader::builder().windows(Windows::new(4).fields(Vec::<String>::new())),
            "no field",
        ),
        (
            Loader::builder().windows(Windows::new(usize::MAX)),
            "more bytes",
        ),
        (
            base().shuffle(Shuffle::Exact).weights(vec![1.0; 83]),
            "weights",
        ),
        (base().damaged(Damaged::Skip), "damaged"),
        (
            Loader::builder()
                .windows(Windows::new(4).fields(["x"]))
                .output("q", FieldOutput::new().ragged(Ragged::Padded)),
            "neither padded",
        ),
    ] {
        let message = message(options);
        assert!(message.contains(word), "{message}");
    }
    // Two fields of other lengths, and a field that has no steps.
    let path = dir.path().join("other");
    let mut writer = ShardWriter::builder()
        .field(FieldSpec::ragged("a", DType::U8, [None]))
        .field(FieldSpec::ragged("b", DType::U8, [None]))
        .field(FieldSpec::ragged("wide", DType::U8, [None, None]))
        .field(FieldSpec::new("label", DType::U8, []))
        .create(&path)?;
    for n in [3, 4] {
        writer.append(&[
            ("a", TensorView::new(DType::U8, &[3], &[0; 3])?),
            ("b", TensorView::new(DType::U8, &[n], &vec![0; n])?),
            ("wide", TensorView::new(DType::U8, &[3, 1], &[0; 3])?),
            ("label", TensorView::new(DType::U8, &[], &[0])?),
        ])?;
    }
    writer.finish()?;
    for (fields, word) in [
        (&["a", "b"][..], "sample 1"),
        (&["wide"], "only the first axis"),
        (&["label"], "no field has a first axis"),
    ] {
        let options = base().fields(fields.iter().copied());
        let error = options.open(&path).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
    }
    let named = Windows::new(2).fields(["a"]);
    let loader = Loader::builder().windows(named).open(&path)?;
    assert_eq!(loader.num_samples(), 2);
    assert!(loader.batches(4).all(|batch| batch.is_ok()));
    // Batches of whole samples have no windows.
    let whole = Loader::open(&path)?;
    assert!(
        whole
            .batches(2)
            .all(|b| b.unwrap().window_starts().is_none())
    );
    Ok(())
}
