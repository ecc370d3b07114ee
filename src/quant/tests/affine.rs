//! `affine`: scales, zero points and nibbles.

use half::{bf16, f16};

use super::*;

#[test]
fn extreme_values_are_within_the_bound() -> Result<()> {
    let tiny = f32::from_bits(1);
    let cases: [&[f32]; 8] = [
        &[0.0; 5],
        &[-0.0; 5],
        &[7.25; 5],
        &[-7.25; 5],
        &[tiny, -tiny, 0.0, 2.0 * tiny],
        &[f32::MIN_POSITIVE, -tiny, 0.0],
        &[f32::MAX, 1.0, -f32::MAX, 0.0],
        &[f32::MAX, f32::MAX / 2.0],
    ];
    for x in cases {
        for text in [
            "int4",
            "uint4:asym",
            "int8",
            "uint8",
            "int8:asym",
            "uint8:asym",
            "int16",
            "uint16:asym",
        ] {
            for dtype in [DType::F32, DType::F64, DType::BF16] {
                let largest = crate::kernel::convert::largest(dtype);
                let x: Vec<f32> = x.iter().map(|x| x.clamp(-largest, largest)).collect();
                check_bound(
                    &resolve(text, dtype, 1),
                    dtype,
                    &[x.len()],
                    1,
                    &as_dtype(&x, dtype),
                )?;
            }
        }
    }
    let x = [65504.0, -65504.0, 3.0, 65000.0];
    for scale in ["f16", "f32"] {
        for name in ["int8", "int4", "uint8:asym", "int16"] {
            let params = resolve(&format!("{name}:scale={scale}"), DType::F16, 1);
            check_bound(&params, DType::F16, &[4], 1, &as_dtype(&x, DType::F16))?;
        }
    }
    Ok(())
}

#[test]
fn empty_samples_have_the_scales_of_the_specification() -> Result<()> {
    for (text, shape, scales) in [
        ("int8", vec![0], 1),
        ("int8:asym", vec![3, 0], 1),
        ("int8:per-group=4", vec![3, 0], 0),
        ("int8:per-group=4", vec![0, 9], 0),
        ("int8:per-group=4", vec![], 1),
        ("int8:per-group=4", vec![2, 9], 6),
        ("int4:per-channel=0", vec![3, 0], 3),
    ] {
        let params = resolve(text, DType::F32, shape.len());
        let n = num_elements(&shape).unwrap();
        let q = quantize(&params, DType::F32, &shape, 2, &vec![0; 8 * n], None)?;
        assert_eq!(q.scales.len(), 2 * 4 * scales, "{text} {shape:?}");
        assert_eq!(params.scales_per_sample(&shape), scales);
        assert!(
            q.scales
                .as_chunks::<4>()
                .0
                .iter()
                .all(|s| f32::from_le_bytes(*s) == 1.0)
        );
        dequantize(
            &params,
            DType::F32,
            &shape,
            2,
            &q.codes,
            &scales_of(&params, &q, None)?,
            DType::F32,
        )?;
    }
    Ok(())
}

#[test]
fn odd_nibbles_are_zero_and_every_sample_starts_at_a_byte() -> Result<()> {
    let params = resolve("int4", DType::F32, 1);
    let x = [7.0f32, -7.0, 1.0, 2.0, -7.0, 7.0];
    let q = quantize(&params, DType::F32, &[3], 2, &f32_bytes(&x), None)?;
    assert_eq!(q.codes, [0x97, 0x01, 0x92, 0x07]);
    check_bound(&params, DType::F32, &[3], 2, &f32_bytes(&x))
}

#[test]
fn static_scales_are_used_as_given_and_the_rest_is_policy() -> Result<()> {
    let table = Scales {
        scales: vec![0.5],
        zero_points: vec![],
    };
    let spec = QuantSpec::int8().per_tensor().scales(table.clone());
    let params = spec.resolve(DType::F32, Some(1))?;
    let q = quantize(
        &params,
        DType::F32,
        &[4],
        1,
        &f32_bytes(&[63.75, -63.5, 0.3, 1.0]),
        Some(&table),
    )?;
    assert_eq!(q.codes, [127, 0x81, 1, 2]);
    assert!(q.scales.is_empty());
    let outside = f32_bytes(&[64.0, 0.0]);
    assert!(quantize(&params, DType::F32, &[2], 1, &outside, Some(&table)).is_err());
    assert!(quantize(&params, DType::F32, &[2], 1, &outside, None).is_err());
    let params = spec
        .clone()
        .non_finite(NonFinite::Patch)
        .resolve(DType::F32, Some(1))?;
    let q = quantize(&params, DType::F32, &[2], 1, &outside, Some(&table))?;
    assert_eq!(
        (q.codes, q.patch_values, q.errors.count),
        (vec![0, 0], 64f32.to_le_bytes().to_vec(), 2)
    );
    let params = spec
        .non_finite(NonFinite::Saturate)
        .resolve(DType::F32, Some(1))?;
    let q = quantize(&params, DType::F32, &[2], 1, &outside, Some(&table))?;
    assert_eq!((q.codes, q.errors.max_abs_error), (vec![127, 0], 0.5));
    for bad in [
        vec![0.0],
        vec![-1.0],
        vec![f32::NAN],
        vec![1e-40],
        vec![1.0, 1.0],
    ] {
        let spec = QuantSpec::int8().per_tensor().scales(Scales {
            scales: bad,
            zero_points: vec![],
        });
        assert!(spec.resolve(DType::F32, Some(1)).is_err());
    }
    Ok(())
}

#[test]
fn scales_and_zero_points_of_files_are_checked() {
    for (scale, dtype, good) in [
        (1.0, DType::F32, true),
        (0.1, DType::F32, true),
        (0.1, DType::F16, false),
        (f16::MIN_POSITIVE.to_f32(), DType::F16, true),
        (f16::MIN_POSITIVE.to_f32() / 2.0, DType::F16, false),
        (bf16::MAX.to_f32(), DType::BF16, true),
        (f32::MIN_POSITIVE, DType::F32, true),
        (f32::MIN_POSITIVE / 2.0, DType::F32, false),
        (f32::INFINITY, DType::F32, false),
        (f32::NAN, DType::F32, false),
        (-1.0, DType::F32, false),
        (0.0, DType::F32, false),
    ] {
        assert_eq!(
            scale::ScaleFormat::Float(dtype)
                .validate(&[1.0, scale])
                .is_ok(),
            good,
            "{scale} {dtype}"
        );
    }
    let params = resolve("uint8:asym", DType::F32, 1);
    assert!(params.validate_zero_points(&[0, 255]).is_ok());
    assert!(
        params
            .validate_zero_points(&[256])
            .unwrap_err()
            .is_corrupt()
    );
    assert!(params.validate_zero_points(&[-1]).is_err());
}
