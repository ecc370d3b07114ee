#![expect(clippy::indexing_slicing, reason = "bytes that the test has made")]

use super::*;

/// The first bytes of a chunk header with these counts of streams, stats and pieces.
fn claim(chunk_len: u64, counts: [u32; 3], num_samples: u32) -> Vec<u8> {
    let [streams, stats, pieces] = counts.map(u64::from);
    let len = u32::try_from(header_len(streams, stats, pieces)).unwrap_or(u32::MAX);
    let mut out = CHUNK_MAGIC.to_vec();
    out.put_u32(len);
    out.put_u32(9);
    out.put_u32(num_samples);
    out.put_u64(27);
    out.put_u64(chunk_len);
    counts.iter().for_each(|&n| out.put_u32(n));
    out.put_u32(0);
    out
}

#[test]
fn claims_are_of_chunks_that_could_be() {
    let read = Claim::read(&claim(640, [1, 1, 2], 3)).unwrap();
    assert_eq!(
        (read.chunk, read.num_samples, read.first_sample),
        (9, 3, 27)
    );
    assert_eq!((read.chunk_len, read.header_len), (640, 140));
    for (what, bytes) in [
        ("no multiple of 64", claim(641, [1, 1, 2], 3)),
        ("a header as long as its chunk", claim(640, [0, 0, 49], 3)),
        ("no samples", claim(640, [1, 1, 2], 0)),
        (
            "a header above the limit",
            claim(1 << 40, [1, 1, 1 << 28], 3),
        ),
        ("other counts", {
            let mut bytes = claim(640, [1, 1, 2], 3);
            bytes[40] += 1;
            bytes
        }),
        ("another magic", {
            let mut bytes = claim(640, [1, 1, 2], 3);
            bytes[0] ^= 1;
            bytes
        }),
        ("reserved bytes", {
            let mut bytes = claim(640, [1, 1, 2], 3);
            bytes[44] = 1;
            bytes
        }),
        ("too few bytes", claim(640, [1, 1, 2], 3)[..47].to_vec()),
    ] {
        assert_eq!(Claim::read(&bytes), None, "{what}");
    }
}

#[test]
fn errors_of_no_elements_are_zero() {
    let read = |count: u64, error: f64| {
        let mut bytes = Vec::new();
        bytes.put_u16(2);
        bytes.put(&[0; 6]);
        bytes.put_u64(count);
        bytes.put_u64(5);
        (0..3).for_each(|_| bytes.put(&error.to_le_bytes()));
        read_stats(&mut Cursor::new(&bytes, "stats"))
    };
    for (count, error) in [(0, 0.0), (4, 0.0), (4, 0.5)] {
        let stats = read(count, error).unwrap();
        assert_eq!((stats.field, stats.count, stats.rms), (2, count, error));
    }
    for (count, error) in [(0, 0.5), (4, -0.5), (4, f64::NAN), (4, f64::INFINITY)] {
        assert!(read(count, error).is_err(), "{count} elements, {error}");
    }
}
