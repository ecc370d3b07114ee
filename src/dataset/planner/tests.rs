use super::*;
use crate::codec::{CodecId, CodecSpec};
use crate::dataset::{Dataset, ShardWriter};
use crate::dtype::DType;
use crate::filter::FilterId;
use crate::quant::QuantSpec;
use crate::tensor::to_le_bytes;

/// Numbers that look random: SplitMix64 (Steele, Lea, Flood 2014).
fn noise(n: usize) -> impl Iterator<Item = u64> {
    (1..=n as u64).map(|i| {
        let mut z = i.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    })
}

/// Smooth fields of 16 x 16.
fn smooth(samples: usize) -> Vec<f32> {
    (0..samples * 256)
        .map(|i| {
            let (n, y, x) = (i / 256, i / 16 % 16, i % 16);
            let phase = n as f32 * 0.7;
            (x as f32 * 0.3 + phase).sin() + (y as f32 * 0.2 - phase).cos()
        })
        .collect()
}

fn plan(planner: Planner, field: &FieldSpec, shape: &[usize], bytes: &[u8]) -> Result<Plan> {
    let dtype = field.dtype().unwrap_or(DType::U8);
    planner.plan(field, &[TensorView::new(dtype, shape, bytes)?])
}

#[test]
fn sample_ranges_are_spread_and_bounded() {
    let all = |n: u64, bytes: u64| Planner::sample_ranges(n, bytes);
    assert!(all(0, 0).is_empty());
    assert_eq!(all(10, 1000), std::iter::once(0..10).collect::<Vec<_>>());
    // 1 GiB of samples of 4 KiB: 16 ranges of 32.
    let ranges = all(1 << 18, 1 << 30);
    assert_eq!(ranges.len(), 16);
    assert_eq!((ranges[0].clone(), ranges[15].end), (0..32, 1 << 18));
    assert!(ranges.windows(2).all(|pair| pair[0].end <= pair[1].start));
    // Samples of 1 MiB: two of them.
    assert_eq!(all(1000, 1000 << 20), [0..1, 999..1000]);
    assert_eq!(all(3, 3 << 40).len(), 1);
    for (n, bytes) in [(1, 1 << 40), (u64::MAX, u64::MAX), (17, 17 << 17)] {
        assert!(all(n, bytes).iter().all(|range| range.end <= n));
    }
}

#[test]
fn lossless_plans_are_lossless_and_find_the_structure() -> Result<()> {
    let tokens: Vec<i64> = noise(64 * 128)
        .map(|x| i64::try_from(x % 500).unwrap_or(0))
        .collect();
    let field = FieldSpec::new("tokens", DType::I64, [128]);
    let plan = plan(
        Planner::new(Goal::Small),
        &field,
        &[64, 128],
        &to_le_bytes(&tokens),
    )?;
    assert!(
        plan.encodings()
            .iter()
            .all(|e| e.error.is_none() && e.meets)
    );
    assert!(plan.pick(Goal::Small).ratio() > 5.0);
    let smallest = plan.encodings().iter().map(|e| e.stored_bytes).min();
    assert_eq!(Some(plan.pick(Goal::Small).stored_bytes), smallest);
    assert!(plan.encodings().iter().any(|e| e.pareto));
    assert!(plan.memcpy_bytes_per_s() > 0.0);
    // Every candidate is another one.
    let mut options: Vec<String> = plan
        .encodings()
        .iter()
        .map(MeasuredEncoding::options)
        .collect();
    let count = options.len();
    options.sort();
    options.dedup();
    assert_eq!(options.len(), count);
    Ok(())
}

#[test]
fn noise_is_stored_for_every_goal() -> Result<()> {
    let bytes: Vec<u8> = noise(1 << 18).map(|x| x.to_le_bytes()[1]).collect();
    let field = FieldSpec::new("x", DType::U8, [1 << 10]);
    let plan = plan(Planner::default(), &field, &[1 << 8, 1 << 10], &bytes)?;
    for goal in Goal::all() {
        assert_eq!(
            plan.pick(goal).options(),
            "--filter none --codec none",
            "{goal}"
        );
    }
    Ok(())
}

/// Samples of 32 x 32 whose rows, or columns, are like each other.
fn stripes(samples: usize, along_rows: bool) -> Vec<u8> {
    let byte = |x: u64| x.to_le_bytes()[0];
    let lines: Vec<u8> = noise(samples * 32).map(byte).collect();
    let grain = noise(samples * 1024).enumerate();
    grain
        .map(|(i, x)| {
            let line = if along_rows { i / 32 % 32 } else { i % 32 };
            lines[i / 1024 * 32 + line].wrapping_add(byte(x % 5))
        })
        .collect()
}

#[test]
fn chunks_that_differ_choose_their_prediction() -> Result<()> {
    let planner = Planner::new(Goal::Small);
    let field = FieldSpec::new("x", DType::U8, [32, 32]);
    let is_chosen = |bytes: &[u8]| -> Result<bool> {
        let plan = plan(planner, &field, &[2048, 32, 32], bytes)?;
        let options = plan.pick(Goal::Small).options();
        Ok(options.contains("predict:chunk"))
    };
    let mixed = [stripes(1024, true), stripes(1024, false)].concat();
    assert!(is_chosen(&mixed)?);
    // Where one mode is best for all, it is taken: nothing is gained by a choice.
    assert!(!is_chosen(&stripes(2048, true))?);
    Ok(())
}

#[test]
fn the_smallest_does_not_depend_on_time() -> Result<()> {
    let values = to_le_bytes(&smooth(64));
    let field = FieldSpec::new("x", DType::F32, [16, 16]);
    let planner = Planner::new(Goal::Small).all_encodings(true);
    let first = plan(planner, &field, &[64, 16, 16], &values)?;
    let second = plan(planner, &field, &[64, 16, 16], &values)?;
    assert_eq!(first.reasons(), second.reasons());
    assert_eq!(first.field().options(), second.field().options());
    Ok(())
}

#[test]
fn target_bits_keeps_within_them_with_the_least_error() -> Result<()> {
    let values = to_le_bytes(&smooth(64));
    let field = FieldSpec::new("x", DType::F32, [16, 16]);
    for bits in [4.5, 8.5, 16.0] {
        let plan = plan(
            Planner::default().target_bits(bits),
            &field,
            &[64, 16, 16],
            &values,
        )?;
        let picked = plan.pick(Goal::Balanced);
        assert!(picked.bits_per_value() <= bits * 1.01, "{picked:?}");
        let better = plan
            .encodings()
            .iter()
            .filter(|e| e.bits_per_value() <= bits * 1.01)
            .all(|e| e.snr_db() <= picked.snr_db() + 1.0);
        assert!(better, "{picked:?}");
    }
    let error = plan(
        Planner::default().target_bits(0.001),
        &field,
        &[64, 16, 16],
        &values,
    );
    assert!(
        error
            .unwrap_err()
            .to_string()
            .contains("the smallest is --quantize")
    );
    // Integers stay lossless.
    let field = FieldSpec::new("x", DType::I32, [256]);
    let plan = plan(
        Planner::default().target_bits(1.0),
        &field,
        &[64, 256],
        &values,
    )?;
    assert!(plan.pick(Goal::Small).error.is_none());
    Ok(())
}

#[test]
fn an_error_bound_takes_only_what_promises_it() -> Result<()> {
    let values = to_le_bytes(&smooth(64));
    let field = FieldSpec::new("x", DType::F32, [16, 16]);
    let planner = Planner::default().max_error(1e-2).all_encodings(true);
    let plan = plan(planner, &field, &[64, 16, 16], &values)?;
    let int16 = |e: &&MeasuredEncoding| e.encoding.starts_with("int16");
    let other = plan.encodings().iter().find(int16);
    assert!(other.is_some_and(|e| e.max_abs_error() < 1e-2 && !e.meets && !e.pareto));
    for goal in Goal::all() {
        assert!(plan.pick(goal).max_abs_error() <= 1e-2);
    }
    for wrong in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        let planner = Planner::default().max_error(wrong);
        assert!(planner.plan(&field, &[]).is_err());
    }
    Ok(())
}

#[test]
fn stages_that_were_set_are_kept() -> Result<()> {
    let values = to_le_bytes(&smooth(16));
    let field = FieldSpec::new("x", DType::F32, [16, 16])
        .quantize(QuantSpec::int8())
        .codec(CodecSpec::new(CodecId::ZSTD));
    let view = TensorView::new(DType::F32, &[16, 16, 16], &values)?;
    // int8 is not lossless: there is nothing to pick.
    assert!(Planner::default().plan(&field, &[view]).is_err());
    let plan = Planner::default().target_bits(9.0).plan(&field, &[view])?;
    for encoding in plan.encodings() {
        assert!(
            encoding.options().starts_with("--quantize int8 --filter"),
            "{encoding:?}"
        );
        assert!(
            encoding.options().ends_with("--codec zstd:3"),
            "{encoding:?}"
        );
    }
    let field = FieldSpec::new("x", DType::F32, [16, 16]).filters([FilterId::BIT_SHUFFLE]);
    let plan = Planner::default().plan(&field, &[view])?;
    assert!(
        plan.encodings()
            .iter()
            .all(|e| e.options().starts_with("--filter bit_shuffle"))
    );
    Ok(())
}

#[test]
fn ragged_and_large_and_strange_samples_are_measured() -> Result<()> {
    let field = FieldSpec::ragged("x", DType::F32, [None, Some(4)]);
    let values = to_le_bytes(&smooth(1));
    let mut blocks = Vec::new();
    for rows in [0, 1, 5, 64, 3] {
        let bytes = &values[..rows * 16];
        blocks.push((vec![rows, 4], bytes));
    }
    let views: Vec<TensorView<'_>> = blocks
        .iter()
        .map(|(shape, bytes)| TensorView::new(DType::F32, shape, bytes))
        .collect::<Result<_>>()?;
    let planner = Planner::default().all_encodings(true);
    let plan = planner.plan(&field, &views)?;
    assert!(plan.encodings().iter().any(|e| e.error.is_some()));
    // A sample of 3 MiB is looked at in slabs.
    let large = vec![1u8; 3 << 20];
    let field = FieldSpec::new("x", DType::U8, [3 << 10, 1 << 10]);
    let view = TensorView::new(DType::U8, &[1, 3 << 10, 1 << 10], &large)?;
    assert!(planner.plan(&field, &[view])?.pick(Goal::Small).ratio() > 100.0);
    // NaN, infinities and huge ranges.
    let hostile = [
        f32::NAN,
        f32::INFINITY,
        f32::MAX,
        -1e-40,
        0.0,
        -0.0,
        1.0,
        2.0,
    ];
    let bytes = to_le_bytes(&hostile);
    let field = FieldSpec::new("x", DType::F32, [2, 4]);
    let view = TensorView::new(DType::F32, &[1, 2, 4], &bytes)?;
    assert!(
        planner
            .plan(&field, &[view])?
            .pick(Goal::Fast)
            .error
            .is_none()
    );
    // Nothing to look at, or something else than the field.
    assert!(planner.plan(&field, &[]).is_err());
    let view = TensorView::new(DType::F32, &[2, 1, 4], &bytes)?;
    assert!(planner.plan(&field, &[view]).is_err());
    assert!(planner.plan(&FieldSpec::any("x"), &[view]).is_err());
    Ok(())
}

#[test]
fn reasons_are_written_kept_and_never_needed() -> Result<()> {
    let values = to_le_bytes(&smooth(16));
    let view = TensorView::new(DType::F32, &[16, 16, 16], &values)?;
    let field = FieldSpec::new("x", DType::F32, [16, 16]);
    let plan = Planner::new(Goal::Fast).plan(&field, &[view])?;
    let dir = tempfile::tempdir().map_err(|e| Error::io("create", "", e))?;
    let path = dir.path().join("a");
    let mut writer = ShardWriter::builder().field(plan.field()).create(&path)?;
    writer.extend(&[("x", view)])?;
    writer.finish()?;
    let mut writer = ShardWriter::builder().metadata("a", 1).append_to(&path)?;
    writer.extend(&[("x", view)])?;
    writer.finish()?;
    let dataset = Dataset::open(&path)?;
    let reasons = &dataset.tool_metadata()["planner"]["x"];
    assert_eq!(reasons["goal"], "fast");
    assert_eq!(
        reasons["picked"]["encoding"],
        plan.pick(Goal::Fast).encoding
    );
    assert_eq!(dataset.metadata()["a"], 1);
    assert_eq!(dataset.len(), 32);
    Ok(())
}

#[test]
fn goals_have_names() {
    for goal in Goal::all() {
        assert_eq!(Goal::parse(goal.name()).ok(), Some(goal));
    }
    assert!(Goal::parse("cheap").is_err());
}
