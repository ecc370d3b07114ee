//! More ranks than samples: nobody waits, and all ranks have as many steps.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::task::Poll;
use std::time::{Duration, Instant};

use common::small_dataset;
use tensorshard::{
    Batch, Dataset, Loader, LoaderBuilder, Mixture, MixtureEnd, Pack, Result, ShardWriter, Shuffle,
    Tail, Windows,
};

const MODES: [Shuffle; 4] = [
    Shuffle::None,
    Shuffle::Windowed { window: 1 },
    Shuffle::Windowed { window: 64 },
    Shuffle::Exact,
];

/// An epoch, or a panic where one waits for ever.
fn epoch(loader: &Loader, batch_size: usize, what: &str) -> Result<Vec<Batch>> {
    let mut batches = loader.batches(batch_size);
    let mut out = Vec::new();
    let start = Instant::now();
    loop {
        match batches.next_timeout(Duration::from_millis(100)) {
            Poll::Ready(Some(batch)) => out.push(batch?),
            Poll::Ready(None) => return Ok(out),
            Poll::Pending => assert!(start.elapsed() < Duration::from_secs(30), "{what} waits"),
        }
    }
}

type Open = (
    &'static str,
    Box<dyn Fn(LoaderBuilder, &Dataset) -> Result<Loader>>,
);

fn opens(shuffle: Shuffle, n: usize) -> Vec<Open> {
    let mut opens: Vec<Open> = vec![
        (
            "all fields",
            Box::new(|options, dataset| options.open_dataset(dataset)),
        ),
        (
            "fixed fields",
            Box::new(|options, dataset| options.fields(["label", "image"]).open_dataset(dataset)),
        ),
        (
            "repeated",
            Box::new(|options, dataset| options.repeat(3).open_dataset(dataset)),
        ),
        (
            "bucketed",
            Box::new(|options, dataset| {
                options.bucket_by_length("tokens", 2).open_dataset(dataset)
            }),
        ),
        (
            "mixed",
            Box::new(|options, dataset| {
                let mixture = Mixture::new().add(dataset, 2.0).add(dataset, 1.0);
                options.open_mixture(&mixture.until(MixtureEnd::AllExhausted))
            }),
        ),
    ];
    opens.push((
        "windows",
        Box::new(|options, dataset| {
            let options = options.fields(["tokens"]).windows(Windows::new(2));
            options.open_dataset(dataset)
        }),
    ));
    opens.push((
        "packed",
        Box::new(|options, dataset| {
            let options = options.fields(["tokens"]).pack(Pack::new("tokens", 3));
            options.open_dataset(dataset)
        }),
    ));
    if shuffle == Shuffle::Exact && n > 0 {
        opens.push((
            "weighted",
            Box::new(move |options, dataset| options.weights(vec![1.0; n]).open_dataset(dataset)),
        ));
    }
    opens
}

#[test]
fn ranks_without_samples_have_as_many_steps_as_the_others() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    for n in [0, 1, 3, 11] {
        let path = dir.path().join(format!("d{n}"));
        let dataset = small_dataset(&path, n, ShardWriter::builder().samples_per_chunk(2))?;
        for shuffle in MODES {
            for tail in [Tail::Short, Tail::Drop, Tail::Pad] {
                for (name, open) in opens(shuffle, n) {
                    let what = format!("{n} samples, {shuffle:?}, {tail:?}, {name}");
                    let (world, batch_size) = (8, 1);
                    let mut counts = Vec::new();
                    let mut real = 0;
                    let mut num_samples = 0;
                    for rank in 0..world {
                        let options = Loader::builder()
                            .shuffle(shuffle)
                            .tail(tail)
                            .rank(rank, world)
                            .global_batch_size(8)
                            .num_workers(2);
                        let loader = open(options, &dataset)?;
                        let batches = epoch(&loader, batch_size, &what)?;
                        let len = |batch: &Batch| (batch.len() - batch.num_padded()) as u64;
                        real += batches.iter().map(len).sum::<u64>();
                        counts.push(batches.len() as u64);
                        assert_eq!(loader.num_batches(batch_size), batches.len() as u64);
                        num_samples = loader.num_samples();
                    }
                    assert!(counts.iter().all(|&count| count == counts[0]), "{what}");
                    let dropped = if tail == Tail::Drop {
                        num_samples % 8
                    } else {
                        0
                    };
                    assert_eq!(real, num_samples - dropped, "{what}");
                }
            }
        }
    }
    Ok(())
}
