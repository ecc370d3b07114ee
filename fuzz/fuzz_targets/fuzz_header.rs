//! Shard headers: one of a valid shard with edits if the first byte is even, else any bytes. What is accepted is what
//! would be written, but for the checksum.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use tensorshard::fuzzing;
use tensorshard_fuzz::{edit, header_len, valid_shards};

static HEADERS: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let shards = valid_shards().into_iter();
    shards
        .map(|mut shard| {
            shard.truncate(header_len(&shard));
            shard
        })
        .collect()
});

fn run(mut input: Unstructured<'_>) -> Result<()> {
    let header = if input.arbitrary::<u8>()? % 2 == 0 {
        let mut header = input.choose(&HEADERS)?.clone();
        let is_valid = input.is_empty();
        edit(&mut header, &mut input)?;
        assert!(
            !is_valid || fuzzing::header(&header).is_ok(),
            "a valid header is refused"
        );
        header
    } else {
        input.take_rest().to_vec()
    };
    if let Ok(again) = fuzzing::header(&header) {
        let end = header.len() - 4;
        assert!(again[..end] == header[..end], "another would be written");
    }
    Ok(())
}

fuzz_target!(|data: &[u8]| {
    let _ = run(Unstructured::new(data));
});
