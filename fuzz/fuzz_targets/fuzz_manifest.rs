//! Manifests: a valid one with edits if the first byte is even, else any bytes.
#![no_main]

use std::fs;
use std::path::PathBuf;
use std::sync::LazyLock;

use libfuzzer_sys::arbitrary::Unstructured;
use libfuzzer_sys::fuzz_target;
use tensorshard::Dataset;
use tensorshard_fuzz::{edit, exercise, scratch, write_dataset};

/// A dataset of several shards, and its manifest.
static DATASET: LazyLock<(PathBuf, Vec<u8>)> = LazyLock::new(|| {
    let folder = scratch().join("dataset");
    write_dataset(&folder, "none", "int8:asym", 1);
    let manifest = fs::read(folder.join("manifest.tsm")).expect("the manifest");
    (folder, manifest)
});

fuzz_target!(|data: &[u8]| {
    let (folder, valid) = &*DATASET;
    let Some((mode, data)) = data.split_first() else {
        return;
    };
    let manifest = if mode % 2 == 0 {
        let mut manifest = valid.clone();
        if edit(&mut manifest, &mut Unstructured::new(data)).is_err() {
            return;
        }
        manifest
    } else {
        data.to_vec()
    };
    fs::write(folder.join("manifest.tsm"), manifest).expect("the manifest is written");
    if let Ok(dataset) = Dataset::open(folder) {
        exercise(&dataset);
    }
});
