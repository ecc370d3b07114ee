//! Folders with edited shards: salvage makes a dataset that is intact, or says that there is nothing; what it reads from
//! stays as it is.
#![no_main]

use std::fs;
use std::path::PathBuf;
use std::sync::LazyLock;

use libfuzzer_sys::arbitrary::Unstructured;
use libfuzzer_sys::fuzz_target;
use tensorshard::{Dataset, Unlisted, salvage};
use tensorshard_fuzz::{edit, scratch, write_dataset};

static FOLDER: LazyLock<PathBuf> = LazyLock::new(|| {
    let folder = scratch();
    write_dataset(&folder.join("d"), "lz4", "int8:patch", 1);
    folder
});

fuzz_target!(|data: &[u8]| {
    let Some((choice, edits)) = data.split_first() else {
        return;
    };
    let (intact, damaged, out) = (FOLDER.join("d"), FOLDER.join("x"), FOLDER.join("out"));
    let _ = fs::remove_dir_all(&damaged);
    let _ = fs::remove_dir_all(&out);
    fs::create_dir(&damaged).expect("a folder");
    let mut names: Vec<_> = fs::read_dir(&intact)
        .expect("the dataset")
        .map(|entry| entry.expect("an entry").file_name())
        .collect();
    names.sort();
    let edited = usize::from(choice >> 2) % names.len();
    for (i, name) in names.iter().enumerate() {
        let mut bytes = fs::read(intact.join(name)).expect("a file");
        if i == edited && edit(&mut bytes, &mut Unstructured::new(edits)).is_err() {
            return;
        }
        if name == "manifest.tsm" && choice & 1 == 1 {
            continue;
        }
        let mut name = name.clone();
        if i == edited && choice & 2 == 2 {
            name.push(".tmp-7-00000000000000ff");
        }
        fs::write(damaged.join(name), bytes).expect("a file");
    }
    let before = fs::read(damaged.join(&names[edited])).ok();
    if let Ok(report) = salvage(&damaged, &out, Unlisted::Auto) {
        let dataset = Dataset::open(&out).expect("a salvaged dataset");
        assert_eq!(dataset.len(), report.num_samples);
        let verified = dataset.verify(&|_| ());
        assert!(verified.is_intact(), "{:?}", verified.damage);
    }
    assert_eq!(fs::read(damaged.join(&names[edited])).ok(), before);
});
