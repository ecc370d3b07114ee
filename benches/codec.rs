//! Codecs: the decoder alone, piece by piece; and with filters, through the whole chunk path (checksum, codec, filter,
//! into batches) with one worker.
#![expect(clippy::expect_used, reason = "benches stop at the first error")]

mod common;

use std::hint::black_box;

use common::{Array, Group, field, int8_latents, latents, photos, write};
use criterion::{Criterion, criterion_group, criterion_main};
use tensorshard::{CodecSpec, FilterId, Loader};

const CODECS: [&str; 7] = [
    "none",
    "snappy",
    "lz4",
    "zstd:1",
    "zstd:9",
    "deflate:6",
    "gzip:6",
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
    let chains: [(&str, &[FilterId]); 4] = [
        ("none", &[]),
        ("byte_shuffle", &[FilterId::BYTE_SHUFFLE]),
        ("bit_shuffle", &[FilterId::BIT_SHUFFLE]),
        ("delta", &[FilterId::DELTA]),
    ];
    for (name, chain) in chains {
        let field = field(&array).filters(chain).codec(spec("none"));
        let path = write(folder.path(), name, &array, field);
        group.epochs(name, &path, Loader::builder().num_workers(1), 64);
    }
    group.finish();
}

criterion_group!(benches, decoders, chunks, filters);
criterion_main!(benches);
