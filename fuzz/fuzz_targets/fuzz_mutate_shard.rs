//! Valid shards with edits: the first byte chooses the shard, the rest lists the edits.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::arbitrary::Unstructured;
use libfuzzer_sys::fuzz_target;
use tensorshard::Dataset;
use tensorshard_fuzz::{edit, exercise, valid_shards};

static SHARDS: LazyLock<Vec<Vec<u8>>> = LazyLock::new(valid_shards);

fuzz_target!(|data: &[u8]| {
    let Some((choice, edits)) = data.split_first() else {
        return;
    };
    let mut shard = SHARDS[usize::from(*choice) % SHARDS.len()].clone();
    if edit(&mut shard, &mut Unstructured::new(edits)).is_err() {
        return;
    }
    match Dataset::builder().open_bytes(shard) {
        Ok(dataset) => exercise(&dataset),
        Err(_) => assert!(!edits.is_empty(), "a valid shard is refused"),
    }
});
