//! Codecs: the decoder alone, piece by piece; and with filters, through the whole chunk path (checksum, codec, filter,
//! into batches) with one worker.
#![expect(clippy::expect_used, reason = "benches stop at the first error")]

mod common;

use std::hint::black_box;

use common::{Array, Group, Random, field, int8_latents, latents, photos, write};
use criterion::{Criterion, criterion_group, criterion_main};
use tensorshard::{CodecSpec, FilterId, Loader};

const CODECS: &[&str] = &[
    "none",
    "snappy",
    "lz4",
    "zstd:1",
    "zstd:9",
    "deflate:6",
    "gzip:6",
    #[cfg(feature = "lzo")]
    "lzo",
    "huffman",
    "prefix",
];

fn spec(name: &str) -> CodecSpec {
    CodecSpec::parse(name).expect("a codec")
}

/// Pieces, as the writer cuts them, one after the other into the same memory.
fn decoders_of(c: &mut Criterion, name: &str, array: &Array) {
    let sample_bytes = array.data.len() / array.shape[0];
    let piece_bytes = (64 << 10) / sample_bytes * sample_bytes;
    let mut group = Group::new(c, &format!("decoder/{name}"), piece_bytes, array.data.len());
    for codec in CODECS {
        let spec = spec(codec);
        let encoded: Vec<(Vec<u8>, usize)> = array
            .data
            .chunks(piece_bytes)
            .map(|piece| (spec.encode_piece(piece).expect("an encoding"), piece.len()))
            .collect();
        let mut piece = vec![0; piece_bytes];
        group.entry(codec, array.data.len(), || {
            for (encoded, len) in &encoded {
                spec.decode_piece(encoded, &mut piece[..*len])
                    .expect("a piece");
                black_box(&piece);
            }
        });
    }
    group.finish();
}

fn decoders(c: &mut Criterion) {
    decoders_of(c, "photos", &photos());
    decoders_of(c, "int8 latents", &int8_latents());
}

fn chunks(c: &mut Criterion) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let array = photos();
    let mut group = Group::new(c, "chunk/photos", 64 * 12288, array.data.len());
    for codec in CODECS {
        let path = write(
            folder.path(),
            codec,
            &array,
            field(&array).codec(spec(codec)),
        );
        group.epochs(codec, &path, Loader::builder().num_workers(1), 64);
    }
    group.finish();
}

fn filters(c: &mut Criterion) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let array = latents();
    let mut group = Group::new(c, "filter/latents", 64 * 16384, array.data.len());
    let chains: [(&str, &[FilterId]); 5] = [
        ("none", &[]),
        ("byte_shuffle", &[FilterId::BYTE_SHUFFLE]),
        ("bit_shuffle", &[FilterId::BIT_SHUFFLE]),
        ("delta", &[FilterId::DELTA]),
        ("predict", &[FilterId::PREDICT]),
    ];
    for (name, chain) in chains {
        let field = field(&array).filters(chain).codec(spec("none"));
        let path = write(folder.path(), name, &array, field);
        group.epochs(name, &path, Loader::builder().num_workers(1), 64);
    }
    group.finish();
}

/// Raw Snappy blocks decoded into rotating buffers: our decoder, and the `snap` crate as the measure.
fn snappy(c: &mut Criterion) {
    const PIECE: usize = 5 * 12288;
    for (name, data) in snappy_data() {
        let blocks: Vec<Vec<u8>> = data
            .chunks_exact(PIECE)
            .map(|piece| spec("snappy").encode_piece(piece).expect("an encoding"))
            .collect();
        let len = blocks.len() * PIECE;
        let mut group = Group::new(c, &format!("snappy/{name}"), PIECE, len);
        let mut batches = vec![1u8; 64 << 20];
        let mut turn = 0;
        let mut run = |decode: &dyn Fn(&[u8], &mut [u8])| {
            for block in &blocks {
                turn = (turn + 1) % (batches.len() / PIECE);
                decode(block, &mut batches[turn * PIECE..][..PIECE]);
            }
        };
        group.entry("snap", len, || {
            run(&|block, out| {
                let n = snap::raw::Decoder::new().decompress(block, out);
                n.expect("a block");
            });
        });
        group.entry("ours", len, || {
            run(&|block, out| spec("snappy").decode_piece(block, out).expect("a block"));
        });
        group.finish();
    }
}

/// What Snappy meets: photos, residuals of prediction, int8, integers, text, mostly zeros, runs.
fn snappy_data() -> Vec<(&'static str, Vec<u8>)> {
    let photos = photos().data;
    let int8 = int8_latents().data;
    let len = photos.len() / 2;
    let mut random = Random(5);
    let ids = (0..len / 8)
        .flat_map(|_| (random.next() % 200 * (random.next() % 200)).to_le_bytes())
        .collect();
    let words = [
        "tensor", "shard", "of", "a", "piece", "decodes", "to", "batch", "slot",
    ];
    let mut text = String::new();
    while text.len() < len {
        text.push_str(words[usize::from(random.next().to_le_bytes()[0]) % words.len()]);
        text.push(if random.next().is_multiple_of(9) {
            '\n'
        } else {
            ' '
        });
    }
    let sparse = (0..len)
        .map(|_| match random.next() % 8 {
            0 => random.next().to_le_bytes()[0] & 63,
            _ => 0,
        })
        .collect();
    let runs = (0..len as u64)
        .map(|i| (i / 1000).to_le_bytes()[0])
        .collect();
    vec![
        ("photo residuals", residuals(&photos, 64)),
        ("photos", photos),
        ("int8 residuals", residuals(&int8, 32)),
        ("int8", int8),
        ("ids", ids),
        ("text", text.into_bytes()),
        ("sparse", sparse),
        ("runs", runs),
    ]
}

/// Each byte minus left plus up minus upper left, in planes of `side` times `side`.
fn residuals(bytes: &[u8], side: usize) -> Vec<u8> {
    let mut residuals = Vec::with_capacity(bytes.len());
    for plane in bytes.chunks_exact(side * side) {
        for (i, &byte) in plane.iter().enumerate() {
            let (has_left, has_up) = (i % side > 0, i >= side);
            let left = if has_left { plane[i - 1] } else { 0 };
            let up = if has_up { plane[i - side] } else { 0 };
            let corner = if has_left && has_up {
                plane[i - side - 1]
            } else {
                0
            };
            residuals.push(byte.wrapping_sub(left.wrapping_add(up).wrapping_sub(corner)));
        }
    }
    residuals
}

criterion_group!(benches, decoders, chunks, filters, snappy);
criterion_main!(benches);
