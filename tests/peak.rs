//! What a loader takes at most: its budget, and for each worker a chunk as it is stored and as it is decoded (R5).
//! Measured by what the system gives to the process: batches are on pages of their own, which no allocator sees. Every
//! epoch is a process, so that nothing is left of the one before.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use tensorshard::{
    DType, FieldOutput, FieldSpec, IoMode, Loader, Ragged, Result, ShardWriter, Shuffle, TensorView,
};

const SAMPLES: u32 = 4096;
/// Elements of a sample: 16 KiB.
const ELEMENTS: u32 = 4 << 10;
/// Bytes of a decoded chunk.
const CHUNK: usize = 256 << 10;
const BATCH: usize = 16;
/// What threads, plans and the allocator's rounding take beside: twice what was measured.
const SLACK: usize = 4 << 20;

const FORMS: [Form; 3] = [Form::Fixed, Form::Ragged, Form::Padded];
const SHUFFLES: [Shuffle; 3] = [
    Shuffle::None,
    Shuffle::Windowed { window: 2 },
    Shuffle::Exact,
];

/// How samples become batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Fixed,
    /// Samples have from half to all of the elements.
    Ragged,
    /// The same, padded to a few different shapes.
    Padded,
}

/// Chunks that compress by about a half. Returns the bytes of all values.
fn write(path: &Path, samples: u32, form: Form) -> Result<usize> {
    let field = if form == Form::Fixed {
        FieldSpec::new("x", DType::F32, [ELEMENTS as usize])
    } else {
        FieldSpec::ragged("x", DType::F32, [None])
    };
    let mut writer = ShardWriter::builder()
        .field(field)
        .chunk_bytes(CHUNK as u64)
        .create(path)?;
    let mut decoded = 0;
    for i in 0..samples {
        let len = if form == Form::Fixed {
            ELEMENTS
        } else {
            ELEMENTS - i.wrapping_mul(0x9E37_79B9) % (ELEMENTS / 2)
        };
        let values: Vec<u8> = (0..len)
            .flat_map(|j| (i.wrapping_mul(j).wrapping_mul(0x9E37_79B9) >> 16).to_le_bytes())
            .collect();
        decoded += values.len();
        writer.append(&[("x", TensorView::new(DType::F32, &[len as usize], &values)?)])?;
    }
    writer.finish()?;
    Ok(decoded)
}

/// A line of /proc/self/status, in bytes.
fn status(name: &str) -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    let kib: usize = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib << 10
}

/// Loads one epoch. Returns its samples, and the most bytes of open batches.
fn epoch(
    path: &Path,
    (form, shuffle): (Form, Shuffle),
    budget: usize,
    workers: usize,
) -> Result<(usize, usize)> {
    let mut options = Loader::builder()
        .shuffle(shuffle)
        .num_workers(workers)
        .memory_budget(budget as u64)
        // The budget is the limit.
        .prefetch(1000)
        // What is read is memory of the process then, not of the system.
        .io(IoMode::Read);
    if form == Form::Padded {
        let output = FieldOutput::new().ragged(Ragged::Padded);
        options = options.output("x", output.pad_to_multiple(128));
    }
    let loader = options.open(path)?;
    let mut samples = 0;
    for batch in loader.batches(BATCH) {
        samples += batch?.len();
    }
    let open = usize::try_from(loader.stats().peak_batch_bytes).unwrap();
    Ok((samples, open))
}

#[test]
#[ignore = "a child of the test below"]
fn child_loads() -> Result<()> {
    let Ok(arguments) = std::env::var("TENSORSHARD_TEST_EPOCH") else {
        return Ok(());
    };
    let numbers = arguments.split(' ').map(|n| n.parse().unwrap());
    let [form, shuffle, budget, workers] = numbers.collect::<Vec<usize>>().try_into().unwrap();
    let kind = (FORMS[form], SHUFFLES[shuffle]);
    let folder = std::env::var_os("TENSORSHARD_TEST_FOLDER").unwrap();
    let path = Path::new(&folder);
    // Afterwards the code is in memory.
    epoch(&path.with_extension("few"), kind, 1 << 20, 1)?;
    // From here on the peak is counted again (proc_pid_clear_refs(5)). Where that is refused, it is not smaller.
    fs::write("/proc/self/clear_refs", "5").ok();
    let before = status("VmRSS:");
    let (samples, open) = epoch(path, kind, budget, workers)?;
    let taken = status("VmHWM:") - before;
    assert_eq!(samples, SAMPLES as usize);
    fs::write(path.with_extension("taken"), format!("{taken} {open}")).unwrap();
    Ok(())
}

#[test]
fn an_epoch_takes_no_more_than_its_budget_and_a_chunk_for_each_worker() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    for (f, form) in FORMS.into_iter().enumerate() {
        let path = dir.path().join(f.to_string());
        let decoded = write(&path, SAMPLES, form)?;
        write(&path.with_extension("few"), 64, form)?;
        for (budget, workers) in [6 << 20, 20 << 20]
            .into_iter()
            .flat_map(|budget| [1, 2, 8].map(|workers| (budget, workers)))
        {
            let bound = budget + workers * 2 * CHUNK + SLACK;
            // A loader that holds all values is noticed, and one that takes a fifth of them beyond its budget.
            assert!(
                bound < decoded && bound - budget < decoded / 5,
                "{bound} bytes of {decoded} tell nothing"
            );
            for (s, shuffle) in SHUFFLES.into_iter().enumerate() {
                let what = format!("{form:?}, budget {budget}, {workers} workers, {shuffle:?}");
                let child = Command::new(std::env::current_exe().unwrap())
                    .args(["child_loads", "--exact", "--ignored", "--nocapture"])
                    .env(
                        "TENSORSHARD_TEST_EPOCH",
                        format!("{f} {s} {budget} {workers}"),
                    )
                    .env("TENSORSHARD_TEST_FOLDER", &path)
                    .stdout(Stdio::null())
                    .status()
                    .unwrap();
                assert!(child.success(), "{what}");
                let report = fs::read_to_string(path.with_extension("taken")).unwrap();
                fs::remove_file(path.with_extension("taken")).unwrap();
                let numbers = report.split(' ').map(|n| n.parse().unwrap());
                let [taken, open] = numbers.collect::<Vec<usize>>().try_into().unwrap();
                assert!(taken <= bound, "{taken} bytes of {bound}: {what}");
                // The budget was needed, and was kept.
                assert!(
                    (budget / 2..=budget).contains(&open),
                    "{open} bytes of open batches: {what}"
                );
            }
        }
    }
    Ok(())
}
