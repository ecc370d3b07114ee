//! Any bytes as a shard.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tensorshard::Dataset;
use tensorshard_fuzz::exercise;

fuzz_target!(|data: &[u8]| {
    if let Ok(dataset) = Dataset::builder().open_bytes(data.to_vec()) {
        exercise(&dataset);
    }
});
