//! Batches of more than caches hold are written past them: what is in them must not depend on it.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use common::{collect, elements, random};
use tensorshard::{
    DType, FieldSpec, FilterSpec, Loader, QuantSpec, Result, Scales, ShardWriter, Shuffle,
    TensorView,
};

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
        assert_eq!(loader.batches(7).count(), kept.len());
        for (kept, batch) in kept.iter().zip(loader.batches(7)) {
            for (kept, field) in kept.fields().iter().zip(batch?.fields()) {
                // Not `assert_eq`: it would print all the bytes.
                assert!(
                    kept.data() == field.data(),
                    "other values of {}",
                    field.name()
                );
            }
        }
    }
    Ok(())
}
