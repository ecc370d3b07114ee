//! `cast`.

use super::*;

#[test]
fn casts_round_trip_what_they_can_hold() -> Result<()> {
    for dtype in SOURCES {
        for name in ["f16", "bf16", "f8e4m3fn", "f8e5m2", "f32"] {
            let Ok(params) = QuantSpec::parse(name)?.resolve(dtype, Some(1)) else {
                continue;
            };
            check_bound(
                &params,
                dtype,
                &[700],
                3,
                &as_dtype(&values(2100, 5, 100.0), dtype),
            )?;
            let exact = [0.0f32, -0.0, 1.0, -1.75, 0.5, 448.0, -2.0];
            let src = as_dtype(&exact, dtype);
            let q = quantize(&params, dtype, &[7], 1, &src, None)?;
            assert_eq!(
                dequantize(&params, dtype, &[7], 1, &q.codes, &Scales::default(), dtype)?,
                src
            );
            assert_eq!(q.errors.max_abs_error, 0.0);
        }
    }
    Ok(())
}

#[test]
fn cast_rounds_and_keeps_nan_and_infinity() -> Result<()> {
    let params = resolve("f16", DType::F32, 1);
    let x = [
        1.0f32 / 3.0,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::from_bits(0xFFC0_0000),
        6e-8,
        65519.0,
    ];
    let q = quantize(&params, DType::F32, &[6], 1, &f32_bytes(&x), None)?;
    let codes: Vec<u16> = q
        .codes
        .as_chunks::<2>()
        .0
        .iter()
        .map(|b| u16::from_le_bytes(*b))
        .collect();
    assert_eq!(codes, [0x3555, 0x7C00, 0xFC00, 0xFE00, 0x0001, 0x7BFF]);
    assert_eq!((q.errors.count, q.errors.non_finite), (3, 3));
    assert_eq!(q.errors.max_abs_error, 15.0);
    Ok(())
}
