//! Ends of shards, index and footer: one of a valid shard with edits if the first byte is even, else any bytes of a shard
//! that they say the rest of. What is accepted is what would be written, but for the checksum, and its chunks follow each
//! other from the header to the index.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use tensorshard::fuzzing;
use tensorshard_fuzz::{edit, header_len, valid_shards};

const FOOTER_LEN: usize = 88;

/// The end of a shard, and what a reader knows before it looks there.
#[derive(Clone)]
struct End {
    bytes: Vec<u8>,
    file_len: u64,
    chunks_start: u64,
    samples_per_chunk: u32,
}

static ENDS: LazyLock<Vec<End>> = LazyLock::new(|| {
    let shards = valid_shards().into_iter();
    shards
        .map(|shard| {
            let footer = shard.len() - FOOTER_LEN;
            let index_offset = u64::from_le_bytes(shard[footer + 32..][..8].try_into().expect("8"));
            let samples_per_chunk = u32::from_le_bytes(shard[40..44].try_into().expect("4"));
            End {
                bytes: shard[index_offset as usize..].to_vec(),
                file_len: shard.len() as u64,
                chunks_start: header_len(&shard).next_multiple_of(64) as u64,
                samples_per_chunk,
            }
        })
        .collect()
});

fn run(mut input: Unstructured<'_>) -> Result<()> {
    let mut is_valid = false;
    let end = if input.arbitrary::<u8>()? % 2 == 0 {
        let mut end = input.choose(&ENDS)?.clone();
        is_valid = input.is_empty();
        edit(&mut end.bytes, &mut input)?;
        end
    } else {
        End {
            file_len: input.arbitrary()?,
            chunks_start: input.arbitrary()?,
            samples_per_chunk: input.arbitrary()?,
            bytes: input.take_rest().to_vec(),
        }
    };
    let End {
        bytes,
        file_len,
        chunks_start,
        samples_per_chunk,
    } = end;
    let Ok((again, chunks)) =
        fuzzing::index_and_footer(&bytes, file_len, chunks_start, samples_per_chunk)
    else {
        assert!(!is_valid, "a valid end is refused");
        return Ok(());
    };
    // All but the footer's checksum.
    let crc = bytes.len() - 12;
    assert!(
        again.len() == bytes.len()
            && again[..crc] == bytes[..crc]
            && again[crc + 4..] == bytes[crc + 4..],
        "another would be written"
    );
    let mut at = chunks_start;
    for [offset, len, header_len] in &chunks {
        assert!(*offset == at && header_len < len, "{chunks:?}");
        at += len;
    }
    assert!(chunks.is_empty() || at + bytes.len() as u64 == file_len);
    Ok(())
}

fuzz_target!(|data: &[u8]| {
    let _ = run(Unstructured::new(data));
});
