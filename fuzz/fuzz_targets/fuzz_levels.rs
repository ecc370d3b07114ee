//! Valid shards with edits, read at every level of vector instructions: the same values, or an error at each. Kernels
//! against their scalar twins, through the whole path from stored bytes to batches.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::arbitrary::Unstructured;
use libfuzzer_sys::fuzz_target;
use tensorshard::{Dataset, at_every_level};
use tensorshard_fuzz::{edit, valid_shards};

static SHARDS: LazyLock<Vec<Vec<u8>>> = LazyLock::new(valid_shards);

/// The bytes of every tensor of the first samples, and where reading ends with an error.
fn read(shard: &[u8]) -> Vec<Option<Vec<u8>>> {
    let Ok(dataset) = Dataset::builder().open_bytes(shard.to_vec()) else {
        return Vec::new();
    };
    let mut out = Vec::new();
    for field in dataset.schema().fields() {
        let one = dataset.select([field.name()]).expect("a field by its name");
        for id in 0..dataset.len().min(7) {
            let sample = one.get(id).ok();
            let tensor = sample.and_then(|sample| sample.tensor(field.name()).ok().cloned());
            out.push(tensor.map(|tensor| tensor.data().to_vec()));
        }
    }
    out
}

fuzz_target!(|data: &[u8]| {
    let Some((choice, edits)) = data.split_first() else {
        return;
    };
    let mut shard = SHARDS[usize::from(*choice) % SHARDS.len()].clone();
    if edit(&mut shard, &mut Unstructured::new(edits)).is_err() {
        return;
    }
    let results = at_every_level(|| read(&shard));
    assert!(
        results.windows(2).all(|pair| pair[0] == pair[1]),
        "levels differ"
    );
});
