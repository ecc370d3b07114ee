//! Epochs: kinds of data x orders x workers, in batches of 64 (embeddings 256, labels 1024).
#![expect(clippy::expect_used, reason = "benches stop at the first error")]

mod common;

use std::hint::black_box;

use common::{Array, Group, Random, embeddings, field, labels, latents, photos, write};
use criterion::{Criterion, criterion_group, criterion_main};
use tensorshard::{Calibrator, CodecSpec, DType, Dataset, FieldSpec, Loader, QuantSpec, Shuffle};

fn codec(name: &str) -> CodecSpec {
    CodecSpec::parse(name).expect("a codec")
}

/// Values as they are: no filter, no codec.
fn stored(spec: FieldSpec) -> FieldSpec {
    spec.filters([]).codec(codec("none"))
}

fn epochs(c: &mut Criterion, name: &str, array: &Array, spec: FieldSpec, batch_size: usize) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = write(folder.path(), "d", array, spec);
    let num_samples = array.shape[0];
    let sample_bytes = array.data.len() / num_samples;
    let name = format!("loader/{name}");
    let mut group = Group::new(c, &name, batch_size * sample_bytes, array.data.len());
    for (word, shuffle) in [
        ("sequential", Shuffle::None),
        ("windowed", Shuffle::windowed()),
        ("exact", Shuffle::Exact),
    ] {
        for num_workers in [1, 2] {
            let builder = Loader::builder().shuffle(shuffle).num_workers(num_workers);
            let entry = format!("{word}, {num_workers} workers");
            group.epochs(&entry, &path, builder, batch_size);
        }
    }
    // What a training loop without a loader does: any samples, batch by batch.
    let dataset = Dataset::open(&path).expect("a dataset");
    let mut random = Random(3);
    let batches = (1000 / batch_size).max(1);
    group.entry("random access", batches * batch_size * sample_bytes, || {
        for _ in 0..batches {
            let indices: Vec<u64> = (0..batch_size)
                .map(|_| random.next() % num_samples as u64)
                .collect();
            black_box(dataset.get_many(&indices).expect("samples"));
        }
    });
    group.finish();
}

/// int8 with a scale for each index of the first axis.
fn int8_per_channel(array: &Array) -> QuantSpec {
    let spec = QuantSpec::int8().per_channel(0);
    let mut calibrator =
        Calibrator::new(&spec, array.dtype, array.sample_shape()).expect("a calibrator");
    calibrator.observe(&array.data).expect("values");
    calibrator.finish()
}

fn loader(c: &mut Criterion) {
    let array = photos();
    epochs(c, "photos stored", &array, stored(field(&array)), 64);
    epochs(c, "photos snappy", &array, field(&array), 64);
    let lz4 = field(&array).codec(codec("lz4"));
    epochs(c, "photos lz4", &array, lz4, 64);

    let array = latents();
    let int8 = stored(field(&array)).quantize(int8_per_channel(&array));
    epochs(c, "latents int8 per channel", &array, int8, 64);
    epochs(c, "latents f32 lossless", &array, field(&array), 64);

    let array = embeddings();
    let int8 = stored(field(&array)).quantize(QuantSpec::int8());
    epochs(c, "embeddings int8", &array, int8, 256);
    let half = stored(field(&array)).quantize(QuantSpec::cast(DType::F16));
    epochs(c, "embeddings f16", &array, half, 256);

    let array = labels();
    epochs(c, "labels", &array, stored(field(&array)), 1024);
}

criterion_group!(benches, loader);
criterion_main!(benches);
