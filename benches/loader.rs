//! Epochs: kinds of data x shuffles x workers, in batches of 64 (embeddings 256, labels 1024).
#![expect(clippy::expect_used, reason = "benches stop at the first error")]

mod common;

use std::path::Path;

use common::{Array, bench_epoch, embeddings, field, labels, latents, memcpy, photos, write};
use criterion::{Criterion, criterion_group, criterion_main};
use tensorshard::{CodecSpec, FieldSpec, Loader, QuantSpec, Shuffle};

fn epochs(
    c: &mut Criterion,
    name: &str,
    array: &Array,
    spec: FieldSpec,
    batch_size: usize,
    shuffles: &[Shuffle],
) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = write(folder.path(), "d", array, spec);
    let sample_bytes = array.data.len() / array.shape[0];
    let mut group = c.benchmark_group(format!("loader/{name}"));
    group.sample_size(10);
    let len = array.data.len();
    memcpy(&mut group, batch_size * sample_bytes, len, len);
    for &shuffle in shuffles {
        for num_workers in [1, 2] {
            let word = match shuffle {
                Shuffle::None => "sequential",
                Shuffle::Windowed { .. } => "windowed",
                Shuffle::Exact => "exact",
            };
            let builder = Loader::builder().shuffle(shuffle).num_workers(num_workers);
            let entry = format!("{word}, {num_workers} workers");
            bench_epoch(&mut group, &entry, Path::new(&path), builder, batch_size);
        }
    }
    group.finish();
}

fn loader(c: &mut Criterion) {
    let all = [Shuffle::None, Shuffle::windowed(), Shuffle::Exact];
    let some = [Shuffle::None, Shuffle::windowed()];
    let codec = |name: &str| CodecSpec::parse(name).expect("a codec");
    let array = photos();
    epochs(
        c,
        "photos stored",
        &array,
        field(&array).codec(codec("none")),
        64,
        &all,
    );
    epochs(c, "photos snappy", &array, field(&array), 64, &some);
    epochs(
        c,
        "photos lz4",
        &array,
        field(&array).codec(codec("lz4")),
        64,
        &some,
    );
    let array = latents();
    epochs(
        c,
        "latents int8",
        &array,
        field(&array)
            .codec(codec("none"))
            .quantize(QuantSpec::int8()),
        64,
        &all,
    );
    epochs(c, "latents f32 lossless", &array, field(&array), 64, &some);
    let array = embeddings();
    epochs(
        c,
        "embeddings int8",
        &array,
        field(&array)
            .codec(codec("none"))
            .quantize(QuantSpec::int8()),
        256,
        &some,
    );
    let half = QuantSpec::parse("f16").expect("a quantizer");
    epochs(
        c,
        "embeddings f16",
        &array,
        field(&array)
            .codec(codec("none"))
            .filters([])
            .quantize(half),
        256,
        &some,
    );
    let array = labels();
    epochs(
        c,
        "labels",
        &array,
        field(&array).codec(codec("none")).filters([]),
        1024,
        &some,
    );
}

criterion_group!(benches, loader);
criterion_main!(benches);
