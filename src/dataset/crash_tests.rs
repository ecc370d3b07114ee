//! Power loss at every operation of a writer: what the disk may then hold is a dataset as it was before, or after, and
//! all that was promised is in it (R9).

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use crate::error::Result;
use crate::storage::record::{Operation, Recording};
use crate::{DType, Dataset, FieldSpec, ShardWriter, ShardWriterBuilder, TensorView, Unlisted};

const SECTOR: usize = 512;

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

    fn flip(&mut self) -> bool {
        self.next() & 1 == 1
    }
}

/// What of that which was not synced has reached the disk.
#[derive(Clone, Copy, Debug)]
enum Lost {
    /// Nothing has.
    All,
    /// Everything has.
    Nothing,
    /// Names and lengths have, no bytes.
    Bytes,
    /// Names have, with empty files.
    Lengths,
    /// Any sectors of files, any names.
    Some,
}

/// One version of a file that the disk may hold.
#[derive(Clone, Debug, Default)]
struct Content {
    bytes: Vec<u8>,
    /// (end of the bytes of a write, its number), in order.
    writes: Vec<(usize, usize)>,
    /// Writes before this operation are on the disk.
    synced: usize,
}

impl Content {
    /// The bytes after a power loss.
    fn after(&self, lost: Lost, random: &mut Random) -> Vec<u8> {
        let safe = self
            .writes
            .iter()
            .take_while(|(_, number)| *number < self.synced)
            .last()
            .map_or(0, |(end, _)| *end);
        let mut out = self.bytes.clone();
        match lost {
            Lost::Nothing => {}
            Lost::All | Lost::Lengths => out.truncate(safe),
            Lost::Bytes => out[safe..].fill(0),
            Lost::Some => {
                let mut end = safe;
                for at in (safe..out.len()).step_by(SECTOR) {
                    let to = out.len().min(at + SECTOR);
                    if random.flip() {
                        end = to;
                    } else {
                        out[at..to].fill(0);
                    }
                }
                // The length is that of the last sector, or longer.
                if random.flip() {
                    out.truncate(end);
                }
            }
        }
        out
    }
}

/// The files below a folder after the first `len` operations and a power loss.
fn image(
    operations: &[Operation],
    len: usize,
    before: &BTreeMap<PathBuf, Vec<u8>>,
    lost: Lost,
    random: &mut Random,
) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut contents: HashMap<PathBuf, Content> = HashMap::new();
    // What is durable under each name: a file by the name it was created with, or one that was there.
    let mut names: BTreeMap<PathBuf, Option<PathBuf>> = BTreeMap::new();
    for path in before.keys() {
        names.insert(path.clone(), None);
    }
    // Changes of names that are not durable yet, in order.
    let mut pending: Vec<Operation> = Vec::new();
    let apply = |names: &mut BTreeMap<PathBuf, Option<PathBuf>>, operation: &Operation| {
        match operation {
            Operation::Create { path } => {
                names.insert(path.clone(), Some(path.clone()));
            }
            Operation::Rename { path, to } => {
                // The file may have this name without ever having had the other on the disk.
                names.remove(path);
                names.insert(to.clone(), Some(path.clone()));
            }
            Operation::Remove { path } => {
                names.remove(path);
            }
            _ => {}
        }
    };
    for (number, operation) in operations[..len].iter().enumerate() {
        match operation {
            Operation::Create { path } => {
                contents.insert(path.clone(), Content::default());
                pending.push(operation.clone());
            }
            Operation::Write { path, bytes } => {
                let content = contents.get_mut(path).unwrap();
                content.bytes.extend_from_slice(bytes);
                content.writes.push((content.bytes.len(), number));
            }
            Operation::Sync { path, before } => {
                let content = contents.get_mut(path).unwrap();
                content.synced = content.synced.max(*before);
            }
            Operation::Rename { .. } | Operation::Remove { .. } => pending.push(operation.clone()),
            Operation::SyncFolder { path } => {
                let here = |operation: &Operation| match operation {
                    Operation::Create { path: of }
                    | Operation::Rename { path: of, .. }
                    | Operation::Remove { path: of } => of.parent() == Some(path),
                    _ => false,
                };
                for operation in pending.iter().filter(|operation| here(operation)) {
                    apply(&mut names, operation);
                }
                pending.retain(|operation| !here(operation));
            }
            Operation::Promise { .. } => {}
        }
    }
    for operation in &pending {
        let kept = match lost {
            Lost::All => false,
            Lost::Nothing | Lost::Bytes | Lost::Lengths => true,
            Lost::Some => random.flip(),
        };
        if kept {
            apply(&mut names, operation);
        }
    }
    names
        .into_iter()
        .filter_map(|(path, file)| {
            let bytes = match file {
                None => before[&path].clone(),
                Some(file) => contents.get(&file)?.after(lost, random),
            };
            Some((path, bytes))
        })
        .collect()
}

fn builder() -> ShardWriterBuilder {
    ShardWriter::builder()
        .field(FieldSpec::new("x", DType::U32, [96]))
        .samples_per_chunk(4)
        .max_shard_len(5000)
        .num_workers(1)
}

/// Sample i is 96 times i.
fn append(writer: &mut ShardWriter, range: std::ops::Range<u32>) -> Result<()> {
    for i in range {
        let values: Vec<u8> = (0..96u32)
            .flat_map(|j| (i.wrapping_mul(2_654_435_761) ^ (j * i)).to_le_bytes())
            .collect();
        writer.append(&[("x", TensorView::new(DType::U32, &[96], &values)?)])?;
    }
    Ok(())
}

fn check_samples(dataset: &Dataset) -> Result<()> {
    for sample in dataset.get_many(&(0..dataset.len()).collect::<Vec<_>>())? {
        let i = u32::try_from(sample.id()).unwrap();
        let values = sample.tensor("x")?.to_vec::<u32>()?;
        let right = |(j, &x): (u32, &u32)| x == i.wrapping_mul(2_654_435_761) ^ (j * i);
        assert!((0..).zip(&values).all(right), "sample {i}");
    }
    Ok(())
}

fn files_of(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let Ok(entries) = fs::read_dir(folder) else {
        return BTreeMap::new();
    };
    entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_file())
        .map(|path| (path.clone(), fs::read(&path).unwrap()))
        .collect()
}

/// A folder in memory if there is one: ten thousands of images are written.
fn scratch() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() {
        tempfile::tempdir_in(memory).unwrap()
    } else {
        tempfile::tempdir().unwrap()
    }
}

/// Lays an image of `folder` out in `target`. False if the folder itself is not there.
fn lay_out(image: &BTreeMap<PathBuf, Vec<u8>>, folder: &Path, target: &Path) {
    fs::remove_dir_all(target).ok();
    fs::create_dir(target).unwrap();
    for (path, bytes) in image {
        if path != folder {
            fs::write(target.join(path.file_name().unwrap()), bytes).unwrap();
        }
    }
}

/// Every crash of a session must leave a dataset of one of `states` (numbers of samples), or none if 0 is among them;
/// never fewer than were promised.
fn check_crashes(
    session: impl FnOnce(&Path, &Recording) -> Result<()>,
    before: impl FnOnce(&Path) -> Result<()>,
    states: &HashSet<u64>,
    subsets: usize,
    seed: u64,
) -> Result<u64> {
    let folder = scratch();
    let path = folder.path().join("d");
    before(&path)?;
    let already = files_of(&path);
    let recording = Recording::start(&path);
    session(&path, &recording)?;
    let operations = recording.operations();
    drop(recording);
    let mut random = Random(seed);
    let mut images = 0;
    let target = folder.path().join("image");
    for len in 0..=operations.len() {
        let promised = operations[..len]
            .iter()
            .rev()
            .find_map(|operation| match operation {
                Operation::Promise { samples } => Some(*samples),
                _ => None,
            });
        let modes = [Lost::All, Lost::Nothing, Lost::Bytes, Lost::Lengths]
            .into_iter()
            .chain(std::iter::repeat_n(Lost::Some, subsets));
        for lost in modes {
            images += 1;
            let image = image(&operations, len, &already, lost, &mut random);
            lay_out(&image, &path, &target);
            let what = format!("operation {len} of {}, lost: {lost:?}", operations.len());
            if !target.join("manifest.tsm").exists() {
                assert!(
                    states.contains(&0) && promised.is_none(),
                    "{what}: no dataset"
                );
                check_salvage(&target, folder.path(), &what)?;
                continue;
            }
            let dataset = Dataset::open(&target).unwrap_or_else(|e| panic!("{what}: {e}"));
            assert!(states.contains(&dataset.len()), "{what}: {}", dataset.len());
            assert!(
                promised.is_none_or(|n| dataset.len() >= n),
                "{what}: samples are lost"
            );
            let report = dataset.verify(&|_| ());
            assert!(report.is_intact(), "{what}: {:?}", report.damage);
            check_samples(&dataset)?;
            if images % 64 == 0 {
                check_second_crash(&target, dataset.len(), &what)?;
            }
        }
    }
    Ok(images)
}

/// Salvage of what there is finds whole chunks, or says that there is nothing.
fn check_salvage(target: &Path, folder: &Path, what: &str) -> Result<()> {
    let out = folder.join("salvaged");
    fs::remove_dir_all(&out).ok();
    match crate::salvage(target, &out, Unlisted::Auto) {
        Ok(report) => {
            let dataset = Dataset::open(&out)?;
            assert!(dataset.verify(&|_| ()).is_intact(), "{what}");
            assert_eq!(dataset.len(), report.num_samples);
        }
        Err(error) => assert!(!error.is_io(), "{what}: {error}"),
    }
    Ok(())
}

/// A writer that goes on after the crash, and crashes again.
fn check_second_crash(target: &Path, len: u64, what: &str) -> Result<()> {
    let again = target.with_extension("again");
    fs::remove_dir_all(&again).ok();
    fs::create_dir(&again).unwrap();
    for (path, bytes) in files_of(target) {
        fs::write(again.join(path.file_name().unwrap()), bytes).unwrap();
    }
    let already = files_of(&again);
    let recording = Recording::start(&again);
    let mut writer = ShardWriter::builder().num_workers(1).append_to(&again)?;
    let from = u32::try_from(len).unwrap();
    append(&mut writer, from..from + 5)?;
    writer.finish()?;
    let operations = recording.operations();
    drop(recording);
    let mut random = Random(len);
    let third = target.with_extension("third");
    for cut in 0..=operations.len() {
        let image = image(&operations, cut, &already, Lost::Some, &mut random);
        lay_out(&image, &again, &third);
        let dataset = Dataset::open(&third).unwrap_or_else(|e| panic!("{what}, again: {e}"));
        assert!(
            [len, len + 5].contains(&dataset.len()),
            "{what}, again at {cut}"
        );
        assert!(
            cut < operations.len() || dataset.len() == len + 5,
            "{what}, again"
        );
        check_samples(&dataset)?;
    }
    Ok(())
}

/// Subsets of unsynced sectors and names for each operation; TENSORSHARD_CRASH_SUBSETS asks for more.
fn subsets() -> usize {
    let asked = std::env::var("TENSORSHARD_CRASH_SUBSETS").ok();
    asked.and_then(|n| n.parse().ok()).unwrap_or(8)
}

#[test]
fn a_new_dataset_survives_a_power_loss_at_every_operation() -> Result<()> {
    let session = |path: &Path, recording: &Recording| {
        let mut writer = builder().create(path)?;
        append(&mut writer, 0..13)?;
        writer.flush()?;
        recording.promise(13);
        append(&mut writer, 13..40)?;
        writer.finish()?;
        recording.promise(40);
        Ok(())
    };
    let states = HashSet::from([0, 13, 40]);
    let images = check_crashes(session, |_| Ok(()), &states, subsets(), 1)?;
    assert!(images > 100, "{images}");
    Ok(())
}

#[test]
fn appending_survives_a_power_loss_at_every_operation() -> Result<()> {
    let before = |path: &Path| {
        let mut writer = builder().create(path)?;
        append(&mut writer, 0..20)?;
        writer.finish().map(|_| ())
    };
    let session = |path: &Path, recording: &Recording| {
        recording.promise(20);
        let mut writer = builder().append_to(path)?;
        append(&mut writer, 20..30)?;
        writer.flush()?;
        recording.promise(30);
        append(&mut writer, 30..50)?;
        writer.finish()?;
        recording.promise(50);
        Ok(())
    };
    check_crashes(session, before, &HashSet::from([20, 30, 50]), subsets(), 2)?;
    Ok(())
}

#[test]
fn overwriting_survives_a_power_loss_at_every_operation() -> Result<()> {
    let before = |path: &Path| {
        let mut writer = builder().create(path)?;
        append(&mut writer, 0..30)?;
        writer.finish().map(|_| ())
    };
    let session = |path: &Path, recording: &Recording| {
        let mut writer = builder().overwrite(true).create(path)?;
        append(&mut writer, 0..45)?;
        writer.finish()?;
        recording.promise(45);
        Ok(())
    };
    check_crashes(session, before, &HashSet::from([30, 45]), subsets(), 3)?;
    Ok(())
}

#[test]
fn a_writer_that_is_dropped_survives_a_power_loss_at_every_operation() -> Result<()> {
    let before = |path: &Path| {
        let mut writer = builder().create(path)?;
        append(&mut writer, 0..30)?;
        writer.finish().map(|_| ())
    };
    let session = |path: &Path, recording: &Recording| {
        recording.promise(30);
        let mut writer = builder().append_to(path)?;
        append(&mut writer, 30..60)?;
        drop(writer);
        Ok(())
    };
    check_crashes(session, before, &HashSet::from([30]), subsets(), 4)?;
    Ok(())
}
