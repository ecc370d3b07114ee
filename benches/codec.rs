//! Codecs and filters, decoding through the whole chunk path: checksum, codec, filter, into batches. One worker.
#![expect(clippy::expect_used, reason = "benches stop at the first error")]

mod common;

use common::{bench_epoch, field, latents, memcpy, photos, write};
use criterion::{Criterion, criterion_group, criterion_main};
use tensorshard::{CodecSpec, FilterId, Loader};

fn codecs(c: &mut Criterion) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let array = photos();
    let mut group = c.benchmark_group("codec/photos");
    group.sample_size(10);
    let len = array.data.len();
    memcpy(&mut group, 64 * 12288, len, len);
    for codec in [
        "none",
        "snappy",
        "lz4",
        "zstd:1",
        "zstd:9",
        "deflate:6",
        "gzip:6",
    ] {
        let spec = CodecSpec::parse(codec).expect("a codec");
        let path = write(folder.path(), codec, &array, field(&array).codec(spec));
        bench_epoch(
            &mut group,
            codec,
            &path,
            Loader::builder().num_workers(1),
            64,
        );
    }
    group.finish();
}

fn filters(c: &mut Criterion) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let array = latents();
    let mut group = c.benchmark_group("filter/latents");
    group.sample_size(10);
    let len = array.data.len();
    memcpy(&mut group, 64 * 16384, len, len);
    let chains: [(&str, &[FilterId]); 4] = [
        ("none", &[]),
        ("byte_shuffle", &[FilterId::BYTE_SHUFFLE]),
        ("bit_shuffle", &[FilterId::BIT_SHUFFLE]),
        ("delta", &[FilterId::DELTA]),
    ];
    for (name, chain) in chains {
        let spec = field(&array)
            .filters(chain)
            .codec(CodecSpec::parse("none").expect("a codec"));
        let path = write(folder.path(), name, &array, spec);
        bench_epoch(
            &mut group,
            name,
            &path,
            Loader::builder().num_workers(1),
            64,
        );
    }
    group.finish();
}

criterion_group!(benches, codecs, filters);
criterion_main!(benches);
