//! Values that are kept when everything they came from is gone are still right (R29). `.ci/valgrind` runs this file.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::fs;

use common::{collect, elements, random, small_dataset};
use tensorshard::{
    DType, Dataset, FieldOutput, FieldSpec, FilterSpec, IoMode, Loader, QuantSpec, Ragged, Result,
    Scales, ShardWriter, Shuffle, TensorView,
};

#[test]
fn batches_and_tensors_outlive_their_loader_dataset_and_files() -> Result<()> {
    for io in [IoMode::Mmap, IoMode::Read] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("d");
        let builder = ShardWriter::builder()
            .samples_per_chunk(8)
            .max_shard_len(9000);
        small_dataset(&path, 40, builder)?;
        let dataset = Dataset::builder().io(io).open(&path)?;
        let sample = dataset.get(17)?;
        let tensors: Vec<_> = ["image", "latent", "tokens"]
            .iter()
            .map(|name| Ok(sample.tensor(name)?.clone()))
            .collect::<Result<_>>()?;
        let expected: Vec<Vec<u8>> = tensors.iter().map(|t| t.data().to_vec()).collect();
        let mut kept = Vec::new();
        for shuffle in [Shuffle::None, Shuffle::windowed(), Shuffle::Exact] {
            for ragged in [Ragged::Concatenated, Ragged::Padded] {
                let loader = Loader::builder()
                    .shuffle(shuffle)
                    .num_workers(2)
                    .output("tokens", FieldOutput::new().ragged(ragged))
                    .open_dataset(&dataset)?;
                let mut batches = loader.batches(6);
                let batch = batches.next().unwrap()?;
                let values: Vec<Vec<u8>> = batch
                    .fields()
                    .iter()
                    .map(|field| field.data().to_vec())
                    .collect();
                kept.push((batch, values));
                // Others are decoded into what was not kept.
                batches.by_ref().take(3).try_for_each(|b| b.map(|_| ()))?;
            }
        }
        drop((sample, dataset));
        fs::remove_dir_all(&path).unwrap();
        for (tensor, expected) in tensors.iter().zip(&expected) {
            assert_eq!(tensor.data().as_ref(), expected.as_slice());
        }
        for (batch, values) in &kept {
            for (field, values) in batch.fields().iter().zip(values) {
                assert_eq!(field.data().as_ref(), values.as_slice());
            }
        }
    }
    Ok(())
}

/// Batches of more than a cache holds are written past the caches: what is in them must not depend on it.
#[test]
fn batches_beyond_what_caches_hold_are_those_that_were_dropped_one_by_one() -> Result<()> {
    const SAMPLES: usize = 1600;
    /// No multiple of a cache line.
    const SHAPE: [usize; 3] = [2, 3, 100];
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("d");
    let scales = |scales: &[f32], zero_points: &[i32]| Scales {
        scales: scales.to_vec(),
        zero_points: zero_points.to_vec(),
    };
    let tensor = QuantSpec::int8().per_tensor().scales(scales(&[0.05], &[]));
    let channel = QuantSpec::uint8().asymmetric().per_channel(0);
    let channel = channel.scales(scales(&[0.04, 0.05], &[120, 130]));
    let short_channel = QuantSpec::int8().per_channel(1);
    let quantizers = [
        ("tensor", tensor),
        ("sample", QuantSpec::int16().per_sample()),
        ("channel", channel),
        (
            "short_channel",
            short_channel.scales(scales(&[0.04, 0.05, 0.06], &[])),
        ),
        ("group", QuantSpec::int4().per_group(50)),
        ("bounded", QuantSpec::abs_error(1e-3).bits(16)),
        ("half", QuantSpec::cast(DType::F16)),
    ];
    let mut builder = ShardWriter::builder().samples_per_chunk(100);
    for (name, quantizer) in &quantizers {
        let field = FieldSpec::new(*name, DType::F32, SHAPE).quantize(quantizer.clone());
        builder = builder.field(match *name {
            "sample" | "bounded" => field.filter_specs([FilterSpec::parse("predict:2d")?]),
            _ => field,
        });
    }
    let mut writer = builder.create(&path)?;
    let len = SHAPE.iter().product();
    let mut random = random(77);
    for _ in 0..SAMPLES {
        let values = elements(DType::F32, len, &mut random);
        let value = TensorView::new(DType::F32, &SHAPE, &values)?;
        writer.append(&quantizers.each_ref().map(|(name, _)| (*name, value)))?;
    }
    writer.finish()?;
    for shuffle in [Shuffle::None, Shuffle::Exact] {
        let builder = || Loader::builder().shuffle(shuffle).num_workers(2);
        let kept = collect(builder(), &path, 7)?;
        let len: usize = kept.iter().map(tensorshard::Batch::num_bytes).sum();
        assert!(
            len > 24 << 20,
            "too little to leave the caches: {len} bytes"
        );
        let loader = builder().prefetch(1).open(&path)?;
        for (kept, batch) in kept.iter().zip(loader.batches(7)) {
            for (kept, field) in kept.fields().iter().zip(batch?.fields()) {
                assert_eq!(kept.data(), field.data(), "{}", field.name());
            }
        }
    }
    Ok(())
}
