//! All levels agree on valid and on damaged streams, and stay within their buffers.

use std::panic::catch_unwind;

use super::*;
#[cfg(target_arch = "x86_64")]
use crate::kernel::predict::{self, Axis, Channels, Grid, Steps};
use crate::kernel::simd::FORCED;

fn at_level<T>(level: Level, f: impl FnOnce() -> T) -> T {
    FORCED.set(Some(level));
    let result = f();
    FORCED.set(None);
    result
}

fn random(n: usize, mut seed: u64) -> impl Iterator<Item = u8> {
    (0..n).map(move |_| {
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        seed.to_le_bytes()[7]
    })
}

/// Counts that grow like the Fibonacci numbers: the longest code words there can be.
fn fibonacci(n: usize) -> Vec<u8> {
    let (mut a, mut b) = (1usize, 1usize);
    let mut out = Vec::new();
    for symbol in 0..=255 {
        out.extend(std::iter::repeat_n(symbol, a.min(n)));
        if out.len() >= n {
            break;
        }
        (a, b) = (b, a + b);
    }
    out.truncate(n);
    out
}

/// Few large and many small differences, of either sign.
fn residuals(n: usize, seed: u64) -> Vec<u8> {
    random(n, seed)
        .zip(random(n, seed + 1))
        .map(|(x, y)| (i32::from(x & y) - i32::from(y & 0x55)).to_le_bytes()[0] / (1 + (x & 15)))
        .collect()
}

fn contents(n: usize) -> Vec<(&'static str, Vec<u8>)> {
    let all: Vec<u8> = (0..=255).collect();
    vec![
        ("one", vec![7; n]),
        ("two", random(n, 1).map(|x| 200 + (x & 1)).collect()),
        (
            "nearly one",
            random(n, 2).map(|x| if x == 0 { 3 } else { 250 }).collect(),
        ),
        ("uniform", random(n, 3).collect()),
        ("all equal", all.iter().copied().cycle().take(n).collect()),
        ("65 symbols", random(n, 4).map(|x| x % 65).collect()),
        ("fibonacci", fibonacci(n)),
        (
            "scattered",
            random(n, 5)
                .map(|x| (x & x << 1 & x >> 1).wrapping_mul(83))
                .collect(),
        ),
        ("zero, then words", {
            let mut out = vec![0; n];
            out.iter_mut()
                .zip(random(n / 2, 6))
                .for_each(|(to, x)| *to = x & 7);
            out
        }),
        ("residuals", residuals(n, 7)),
    ]
}

fn lengths() -> impl Iterator<Item = usize> {
    let edges = [4096, 8192, 16384, 32768, 61440, 65536];
    (0..=600)
        .chain((601..2000).step_by(41))
        .chain(edges.into_iter().flat_map(|n| [n - 1, n, n + 1]))
}

fn encoded(src: &[u8]) -> Vec<u8> {
    let mut out = b"before".to_vec();
    encode(src, &mut out);
    out.split_off(6)
}

/// The stream of a group count that would not be chosen for this length.
fn encoded_with(groups: Groups, src: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    encode::encode_with(groups, src, &mut out).then_some(out)
}

fn decoded(stream: &[u8], len: usize, fill: u8) -> Result<Vec<u8>, Damage> {
    let mut out = vec![fill; len];
    decode(stream, &mut out).map(|()| out)
}

#[test]
fn every_level_writes_the_same_bytes_and_reads_them() {
    for n in lengths() {
        for (name, src) in contents(n) {
            let stream = at_level(Level::Scalar, || encoded(&src));
            for level in Level::available() {
                let (other, back) = at_level(level, || (encoded(&src), decoded(&stream, n, 0xA5)));
                assert!(other == stream, "{name}, {n}, encoder, {level:?}");
                assert!(back == Ok(src.clone()), "{name}, {n}, decoder, {level:?}");
            }
        }
    }
}

#[test]
fn every_number_of_groups_is_read() {
    for n in [1, 63, 64, 65, 127, 128, 129, 255, 256, 257, 5000, 65536] {
        for (name, src) in contents(n) {
            for groups in [Groups::One, Groups::Two, Groups::Four] {
                let stream = at_level(Level::Scalar, || encoded_with(groups, &src)).unwrap();
                for level in Level::available() {
                    let (other, back) = at_level(level, || {
                        (encoded_with(groups, &src), decoded(&stream, n, 0xA5))
                    });
                    assert!(
                        other.as_ref() == Some(&stream),
                        "{name}, {n}, {groups:?}, {level:?}"
                    );
                    assert!(
                        back == Ok(src.clone()),
                        "{name}, {n}, {groups:?}, {level:?}"
                    );
                }
            }
        }
    }
}

#[test]
fn rows_decode_one_by_one_as_together() {
    for n in [256, 1000, 4096, 20_000, 65_536 + 77] {
        for (name, src) in contents(n) {
            let stream = encoded(&src);
            for level in Level::available() {
                for rows in [1, 2, 7, 16] {
                    let mut out = vec![0xA5; n];
                    at_level(level, || {
                        let mut room = Room::default();
                        let mut decoder = Decoder::new(&stream, n, &mut room).unwrap();
                        for tile in out.chunks_mut(rows * ROW) {
                            decoder.decode(tile, std::ptr::null(), None);
                        }
                        decoder.finish().unwrap();
                    });
                    assert!(out == src, "{name}, {n}, {rows} rows, {level:?}");
                }
            }
        }
    }
}

/// Samples of 32 lines: of 64 bytes with three channels, and of 32.
#[cfg(target_arch = "x86_64")]
fn grids() -> [Grid; 2] {
    let axis = |stride, len| Axis { stride, len };
    let [mut lines, mut half_lines] = [Grid::new(1, 6144), Grid::new(1, 1024)];
    lines.predict_along(axis(1, 64));
    lines.predict_along(axis(64, 32));
    lines.channels = Some(Channels {
        axis: axis(2048, 3),
        reference: 1,
    });
    half_lines.predict_along(axis(1, 32));
    half_lines.predict_along(axis(32, 32));
    [lines, half_lines]
}

#[cfg(target_arch = "x86_64")]
#[test]
fn sums_that_are_done_beside_change_nothing() {
    const STEP: usize = 6144;
    for (n, lens) in [
        (6 * STEP, [STEP, 2 * STEP, 4 * STEP]),
        (4 * STEP, [256, STEP, 3 * STEP]),
    ] {
        for (name, src) in contents(n) {
            let stream = encoded(&src);
            for (grid, level) in grids()
                .into_iter()
                .flat_map(|grid| Level::available().map(move |level| (grid, level)))
            {
                let residuals = contents(STEP).remove(0).1;
                let mut expected = vec![0; STEP];
                predict::undo(&grid, 0, &residuals, &mut expected);
                at_level(level, || {
                    let steps = Steps::new(grid);
                    let mut out = vec![0xA5; n];
                    let mut room = Room::default();
                    let mut decoder = Decoder::new(&stream, n, &mut room).unwrap();
                    let mut rest = &mut out[..];
                    let mut is_beside = true;
                    for len in lens.into_iter().cycle() {
                        let (next, after) = rest.split_at_mut(len.min(rest.len()));
                        rest = after;
                        if next.is_empty() {
                            break;
                        }
                        let mut sums = vec![0x5A; STEP];
                        match steps.beside(0, &residuals, &mut sums) {
                            Some(mut sums) => {
                                decoder.decode(next, std::ptr::null(), Some(&mut sums));
                                sums.finish();
                            }
                            None => {
                                is_beside = false;
                                decoder.decode(next, std::ptr::null(), None);
                                steps.undo(0, &residuals, &mut sums);
                            }
                        }
                        assert!(sums == expected, "sums: {name}, {n}, {len}, {level:?}");
                    }
                    decoder.finish().unwrap();
                    assert!(out == src, "{name}, {n}, {level:?}");
                    assert_eq!(is_beside, level == Level::Avx512);
                });
            }
        }
    }
}

#[test]
fn damaged_streams_give_the_same_at_every_level() {
    let mut edits = random(200_000, 11);
    let mut next = || usize::from(edits.next().unwrap());
    let mut accepted = 0;
    for n in [64, 300, 700, 5000, 33_000] {
        for (name, src) in contents(n) {
            let Some(stream) = encoded_with(encode::groups_for(n * 3), &src) else {
                continue;
            };
            for _ in 0..60 {
                let mut damaged = stream.clone();
                for _ in 0..1 + next() % 3 {
                    // Headers more often than words.
                    let end = if next() % 2 == 0 { 48 } else { usize::MAX };
                    let at = (next() * 256 + next()) % damaged.len().min(end);
                    damaged[at] = u8::try_from(next()).unwrap();
                }
                let results: Vec<_> = Level::available()
                    .flat_map(|level| {
                        at_level(level, || [0, 0xFF].map(|fill| decoded(&damaged, n, fill)))
                    })
                    .collect();
                assert!(
                    results.windows(2).all(|pair| pair[0] == pair[1]),
                    "{name}, {n}"
                );
                accepted += usize::from(results[0].is_ok());
            }
        }
    }
    assert!(
        accepted > 100,
        "{accepted}: damage that is not found must agree too"
    );
}

/// Memory before which or after which nothing can be touched: a file of whole pages, mapped one page longer. Beyond the
/// end of a file there is a bus error.
#[cfg(unix)]
#[expect(unsafe_code, reason = "maps a file")]
fn guarded(bytes: usize) -> memmap2::MmapMut {
    const PAGE: usize = 1 << 16;
    let len = bytes.next_multiple_of(PAGE);
    let file = tempfile::tempfile().unwrap();
    file.set_len(len as u64).unwrap();
    // SAFETY: nobody else has the file.
    unsafe { memmap2::MmapOptions::new().len(len + PAGE).map_mut(&file) }.unwrap()
}

#[cfg(unix)]
#[test]
fn nothing_beyond_the_buffers_is_touched() {
    const ROOM: usize = 1 << 17;
    let (mut from, mut to) = (guarded(ROOM), guarded(ROOM));
    for n in [1, 64, 200, 256, 300, 1000, 4096, 9000, 40_000, 65_536] {
        for (name, src) in contents(n) {
            for groups in [Groups::One, Groups::Two, Groups::Four] {
                let stream = encoded_with(groups, &src).unwrap();
                if stream.len() > ROOM {
                    continue;
                }
                let start = ROOM - stream.len();
                for level in Level::available() {
                    // Words of all ones pull as much as there can be.
                    for ones in [false, true] {
                        from[start..ROOM].copy_from_slice(&stream);
                        if ones && stream.len() > 60 {
                            from[start + 60..ROOM].fill(0xFF);
                        }
                        let result = at_level(level, || {
                            decode(&from[start..ROOM], &mut to[ROOM - n..ROOM])
                        });
                        assert!(
                            ones || result == Ok(()) && to[ROOM - n..ROOM] == src,
                            "{name}"
                        );
                    }
                    let from = &mut from[ROOM - n..ROOM];
                    from.copy_from_slice(&src);
                    assert_eq!(
                        at_level(level, || encoded_with(groups, from)).unwrap(),
                        stream
                    );
                }
            }
        }
    }
}

#[test]
fn worked_example_of_the_specification() {
    let mut src = vec![0; 64];
    src[..4].copy_from_slice(&[1, 0, 1, 1]);
    let stream = [
        0, 64, 2, 0x11, 0x1F, 0x2F, 0x3F, 0x4F, 0x5F, 0x6F, 0x7F, 1, 0, 3, 0,
    ];
    assert_eq!(encoded_with(Groups::One, &src).unwrap(), stream);
    for level in Level::available() {
        assert_eq!(at_level(level, || decoded(&stream, 64, 7)), Ok(src.clone()));
    }
}

#[test]
fn headers_are_read_strictly() {
    // Two symbols of one bit: 0 and 1, then empty ranges of 2, 4, ... 128 symbols.
    let table = [0x11, 0x1F, 0x2F, 0x3F, 0x4F, 0x5F, 0x6F, 0x7F];
    let stream = |mode: u8, len: &[u8], num_words: u8, table: &[u8], words: &[u8]| {
        [&[mode], len, &[num_words], table, words].concat()
    };
    assert!(decoded(&stream(0, &[64], 1, &table, &[1, 0]), 64, 7).is_ok());
    let wrong: &[(&str, Vec<u8>)] = &[
        ("mode", stream(4, &[64], 1, &table, &[1, 0])),
        ("groups", stream(0x30, &[64], 1, &table, &[1, 0])),
        ("length", stream(0, &[63], 1, &table, &[1, 0])),
        ("long length", stream(0, &[0xC0, 0], 1, &table, &[1, 0])),
        ("last word is zero", stream(0, &[64], 1, &table, &[0, 0])),
        ("words", stream(0, &[64], 2, &table, &[1, 0])),
        ("odd bytes", stream(0, &[64], 1, &table, &[1, 0, 1])),
        ("short table", stream(0, &[64], 0, &table[..7], &[])),
        (
            "few cells",
            stream(
                0,
                &[64],
                1,
                &[0x12, 0x1F, 0x2F, 0x3F, 0x4F, 0x5F, 0x6F, 0x7F],
                &[1, 0],
            ),
        ),
        (
            "not aligned",
            stream(
                0,
                &[64],
                1,
                &[0x81, 0x1F, 0x2F, 0x3F, 0x4F, 0x5F, 0x6F, 0x7F],
                &[1, 0],
            ),
        ),
        (
            "listed twice",
            stream(2, &[64], 1, &[&[1, 5, 5], &table[..]].concat(), &[1, 0]),
        ),
        (
            "no words needed",
            stream(
                0,
                &[64],
                1,
                &[0xF0, 0xF0, 0xF1, 0xF2, 0xF3, 0xF4, 0xF5, 0xF6, 0x07],
                &[1, 0],
            ),
        ),
    ];
    for (what, stream) in wrong {
        assert!(decoded(stream, 64, 7).is_err(), "{what}");
    }
    // More words than 64 symbols of one bit can pull: 32 lanes hold one each and pull one each.
    let words = [1; 2 * 65];
    assert!(decoded(&stream(0, &[64], 64, &table, &words[..128]), 64, 7).is_ok());
    assert!(decoded(&stream(0, &[64], 65, &table, &words), 64, 7).is_err());
}

#[test]
fn one_symbol_takes_a_few_bytes() {
    for n in [1, 100, 65_536, MAX_LEN] {
        for byte in [0, 1, 127, 255] {
            let stream = encoded(&vec![byte; n]);
            assert!(
                stream.len() < 20,
                "{n} times {byte}: {} bytes",
                stream.len()
            );
            assert_eq!(decoded(&stream, n, 1), Ok(vec![byte; n]));
        }
    }
}

#[test]
fn long_pieces_are_coded_and_longer_ones_are_not() {
    let src = residuals(MAX_LEN, 3);
    let stream = encoded(&src);
    assert!(stream.len() < src.len());
    assert!(decoded(&stream, src.len(), 0) == Ok(src));
    let src = vec![0; MAX_LEN + 1];
    assert_eq!(encoded(&src).len(), src.len() + 1);
}

#[test]
fn encoders_refuse_too_little_room() {
    let src = residuals(5000, 1);
    for level in Level::available() {
        at_level(level, || {
            let mut words = table::Words {
                len: [14; 256],
                low: [0; 256],
                high: [0; 256],
            };
            words.len[0] = 1;
            let encoder = encode::encoder(Groups::Four);
            assert!(catch_unwind(|| encoder(&words, &src, &mut [0; 1000])).is_err());
        });
    }
}
