//! The bound of `abs_error`, element by element.

use super::*;
use crate::kernel::convert::f64_to_f32;

const DTYPES: [DType; 4] = SOURCES;

fn f64_as(x: &[f64], dtype: DType) -> Vec<u8> {
    match dtype {
        DType::F64 => x.iter().flat_map(|x| x.to_le_bytes()).collect(),
        _ => as_dtype(&x.iter().map(|&x| f64_to_f32(x)).collect::<Vec<_>>(), dtype),
    }
}

/// What a reader delivers: dequantized in the field's dtype, then patched.
fn decoded(
    params: &QuantParams,
    dtype: DType,
    shape: &[usize],
    samples: usize,
    q: &Quantized,
) -> Result<Vec<u8>> {
    let none = Scales::default();
    let mut back = dequantize(params, dtype, shape, samples, &q.codes, &none, dtype)?;
    let size = dtype.size();
    for (i, value) in q.patch_indices.iter().zip(q.patch_values.chunks(size)) {
        let at = usize::try_from(*i).unwrap() * size;
        back[at..at + size].copy_from_slice(value);
    }
    Ok(back)
}

/// Every element is within `max_error`, and what is not finite comes back bit for bit.
fn check_every_element(
    spec: &QuantSpec,
    max_error: f64,
    dtype: DType,
    src: &[u8],
) -> Result<Quantized> {
    let n = src.len() / dtype.size();
    let params = spec.resolve(dtype, Some(1))?;
    let q = quantize(&params, dtype, &[n], 1, src, None)?;
    let back = decoded(&params, dtype, &[n], 1, &q)?;
    let (source, values) = (as_f64(dtype, src), as_f64(dtype, &back));
    let bytes = src.chunks(dtype.size()).zip(back.chunks(dtype.size()));
    for (i, ((s, d), (s_bytes, d_bytes))) in source.iter().zip(&values).zip(bytes).enumerate() {
        if s.is_finite() {
            assert!(
                (s - d).abs() <= max_error,
                "{spec} of {dtype}: element {i}, {s:e} became {d:e}"
            );
        } else {
            assert_eq!(s_bytes, d_bytes, "{spec} of {dtype}: element {i}");
        }
    }
    assert!(q.errors.max_abs_error <= max_error);
    check_parts(&params, dtype, &[n], 1, &q.codes, &Scales::default())?;
    Ok(q)
}

/// Floats of every kind: zeros, subnormals, powers of ten and their neighbours, the largest, infinities, NaNs.
fn hostile() -> Vec<f64> {
    let mut x = vec![
        0.0,
        -0.0,
        f64::INFINITY,
        f64::NEG_INFINITY,
        f64::NAN,
        5e-324,
        -5e-324,
    ];
    x.extend([
        f64::MAX,
        f64::MIN,
        f64::MIN_POSITIVE,
        f64::from(f32::MAX),
        1.0 / 3.0,
        65504.0,
    ]);
    x.extend((-320..=308).step_by(4).flat_map(|e| {
        let power: f64 = format!("1e{e}").parse().unwrap();
        [power, -power, power * 1.000_000_1]
    }));
    x.extend((1..200).map(|i| f64::from(i) * 0.37 - 20.0));
    x
}

#[test]
fn the_bound_holds_for_hostile_floats_and_every_error() -> Result<()> {
    let x = hostile();
    for dtype in DTYPES {
        let src = f64_as(&x, dtype);
        for exponent in [
            -300, -150, -46, -38, -20, -9, -3, -1, 0, 1, 2, 5, 20, 38, 100, 300,
        ] {
            let max_error: f64 = format!("1.7e{exponent}").parse().unwrap();
            for bits in [8, 16, 32] {
                let spec = QuantSpec::abs_error(max_error).bits(bits);
                check_every_element(&spec, max_error, dtype, &src)?;
                let spec = spec.range(-1e10, 250_000.0);
                check_every_element(&spec, max_error, dtype, &src)?;
            }
            let spec = QuantSpec::abs_error(max_error).range(220.0, 320.0);
            check_every_element(&spec, max_error, dtype, &src)?;
        }
    }
    Ok(())
}

#[test]
fn nan_payloads_come_back_bit_for_bit() -> Result<()> {
    let bits = [
        0x7FC0_0001u32,
        0xFF80_1234,
        0x7F80_0001,
        0x7F80_0000,
        0xFF80_0000,
        0x3F80_0000,
        0x8000_0000,
    ];
    let src: Vec<u8> = bits.iter().flat_map(|b| b.to_le_bytes()).collect();
    let q = check_every_element(&QuantSpec::abs_error(0.1).bits(8), 0.1, DType::F32, &src)?;
    assert_eq!(q.patch_indices, [0, 1, 2, 3, 4]);
    assert_eq!(q.patch_values, src[..20]);
    // Patched elements repeat the code before them.
    assert_eq!(q.codes[..5], [0; 5]);
    assert_eq!((q.missed, q.errors.non_finite, q.errors.count), (0, 5, 2));
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn the_bound_holds_for_any_bits(
        bits in prop::collection::vec(any::<u64>(), 1..600),
        max_error in any::<f64>(),
        dtype in prop::sample::select(DTYPES.to_vec()),
        width in prop::sample::select(vec![8u8, 16, 32]),
        range in prop::option::of((any::<f32>(), any::<f32>())),
    ) {
        let size = dtype.size();
        let src: Vec<u8> = bits.iter().flat_map(|b| b.to_le_bytes().into_iter().take(size)).collect();
        let mut spec = QuantSpec::abs_error(max_error).bits(width);
        if let Some((a, b)) = range {
            spec = spec.range(f64::from(a.min(b)), f64::from(a.max(b)));
        }
        if spec.resolve(dtype, Some(1)).is_ok() {
            check_every_element(&spec, max_error, dtype, &src).unwrap();
        }
    }

    #[test]
    fn calibrated_bounds_hold_with_few_patches(
        dtype in prop::sample::select(DTYPES.to_vec()),
        seed in any::<u64>(),
        size in prop::sample::select(vec![1e-30f32, 1e-3, 1.0, 300.0, 1e30]),
        offset in prop::sample::select(vec![0.0f32, 0.0, 1.0, -30.0]),
        fraction in prop::sample::select(vec![0.3, 1e-2, 1e-3, 1e-4, 1e-6]),
    ) {
        let scale = if dtype == DType::F16 { size.clamp(1e-3, 300.0) } else { size };
        let x: Vec<f32> = values(2000, seed, scale).iter().map(|x| x + offset * scale).collect();
        let src = as_dtype(&x, dtype);
        let mut calibrator = Calibrator::new(&QuantSpec::rel_error(fraction), dtype, &[2000]).unwrap();
        calibrator.observe(&src).unwrap();
        let spec = calibrator.finish();
        let QuantParams::AbsError(p) = spec.resolve(dtype, Some(1)).unwrap() else { unreachable!() };
        let q = check_every_element(&spec, p.max_error, dtype, &src).unwrap();
        prop_assert!(q.missed <= 20, "{} {}", q.missed, spec);
        // The narrowest integers that can do.
        let steps = 1.0 / (2.0 * fraction);
        let most = if steps < 250.0 { 8 } else if steps < 65_000.0 { 16 } else { 32 };
        prop_assert!(p.bits <= most || dtype != DType::F32 && dtype != DType::F64, "{} bits", p.bits);
    }
}

#[test]
fn zero_points_make_narrow_integers_of_fields_far_from_zero() -> Result<()> {
    let x: Vec<f32> = values(5000, 1, 25.0)
        .iter()
        .map(|x| 270.0 + 2.0 * x)
        .collect();
    let src = f32_bytes(&x);
    let spec = QuantSpec::abs_error(0.25).range(215.0, 325.0);
    let QuantParams::AbsError(p) = spec.resolve(DType::F32, Some(1))? else {
        unreachable!()
    };
    assert_eq!((p.bits, p.zero_point), (8, -540));
    let q = check_every_element(&spec, 0.25, DType::F32, &src)?;
    assert!(q.patch_indices.is_empty());
    // Beyond the range: patched, and still within the bound.
    let beyond = f32_bytes(&[200.0, 270.0, 400.0, 270.5]);
    let q = check_every_element(&spec, 0.25, DType::F32, &beyond)?;
    assert_eq!(q.patch_indices, [0, 2]);
    Ok(())
}

#[test]
fn a_constant_field_is_exact() -> Result<()> {
    for x in [0.0, -0.1f32, 3e-39, 1e30] {
        let src = f32_bytes(&[x; 30]);
        let mut calibrator = Calibrator::new(&QuantSpec::rel_error(1e-3), DType::F32, &[30])?;
        calibrator.observe(&src)?;
        let q = check_every_element(&calibrator.finish(), 0.0, DType::F32, &src)?;
        assert!(q.patch_indices.is_empty(), "{x:e}");
    }
    Ok(())
}

#[test]
fn policy_error_refuses_what_would_be_patched() -> Result<()> {
    let params = QuantSpec::parse("abs_error:0.5:bits=8:error")?.resolve(DType::F32, Some(1))?;
    let fine = f32_bytes(&[1.0, 127.2, -128.4, 0.0]);
    assert!(
        quantize(&params, DType::F32, &[2], 2, &fine, None)?
            .patch_indices
            .is_empty()
    );
    for bad in [f32::NAN, f32::INFINITY, 128.0, -1e9] {
        let src = f32_bytes(&[1.0, 2.0, 3.0, bad]);
        let error = quantize(&params, DType::F32, &[2], 2, &src, None).unwrap_err();
        assert!(
            matches!(
                error.kind(),
                crate::error::ErrorKind::Unrepresentable { sample: 1, .. }
            ),
            "{error}"
        );
    }
    assert!(
        QuantSpec::abs_error(1.0)
            .bits(8)
            .non_finite(NonFinite::Saturate)
            .resolve(DType::F32, None)
            .is_err()
    );
    Ok(())
}

#[test]
fn bounds_that_most_elements_miss_are_refused_with_one_that_works() -> Result<()> {
    let x: Vec<f32> = values(1000, 3, 1.0).iter().map(|x| 1000.0 + x).collect();
    let src = f32_bytes(&x);
    for (spec, hint) in [
        (QuantSpec::abs_error(1e-9).bits(32), "3.2e-5"),
        (QuantSpec::abs_error(1e-3).bits(8), "4.2e0"),
        (QuantSpec::abs_error(1e-3).bits(16), "1.6e-2"),
    ] {
        let params = spec.resolve(DType::F32, Some(1))?;
        let q = quantize(&params, DType::F32, &[1000], 1, &src, None)?;
        let error = params
            .quantizer()
            .review(&params, DType::F32, &q)
            .unwrap_err();
        assert!(error.to_string().contains(hint), "{error}");
        let workable = error.to_string();
        let workable = workable.split("at least ").nth(1).unwrap();
        let workable: f64 = workable.split(',').next().unwrap().parse().unwrap();
        let QuantParams::AbsError(p) = params else {
            unreachable!()
        };
        let params = QuantSpec::abs_error(workable)
            .bits(p.bits)
            .resolve(DType::F32, Some(1))?;
        let q = quantize(&params, DType::F32, &[1000], 1, &src, None)?;
        assert!(params.quantizer().review(&params, DType::F32, &q).is_ok());
    }
    // NaN alone is never too much, and neither are a few outliers.
    let params = QuantSpec::abs_error(1e-3)
        .bits(16)
        .resolve(DType::F32, Some(1))?;
    for bad in [vec![f32::NAN; 1000], vec![1e6; 30]] {
        let q = quantize(&params, DType::F32, &[bad.len()], 1, &f32_bytes(&bad), None)?;
        assert!(params.quantizer().review(&params, DType::F32, &q).is_ok());
    }
    Ok(())
}

#[test]
fn bounds_have_one_syntax() -> Result<()> {
    for text in [
        "abs_error:0.001",
        "abs_error:1e-9:bits=32",
        "rel_error:0.01:range=-2..8",
        "psnr:60:bits=16:range=1e-9..2e9:error",
        "abs_error:1e300:range=220.5..320:error",
    ] {
        assert_eq!(QuantSpec::parse(text)?.to_string(), text);
    }
    assert_eq!(
        QuantSpec::parse("abs_error:1e-3:patch")?,
        QuantSpec::abs_error(1e-3)
    );
    for wrong in [
        "abs_error",
        "abs_error:",
        "abs_error:x",
        "abs_error:1:asym",
        "abs_error:1:bits=x",
        "int8:bits=8",
        "abs_error:1:range=1",
        "int8:range=0..1",
        "abs_error:1:per-group=32",
        "psnr",
    ] {
        assert!(QuantSpec::parse(wrong).is_err(), "{wrong}");
    }
    assert!(
        QuantSpec::abs_error(1.0)
            .bits(12)
            .resolve(DType::F32, None)
            .is_err()
    );
    assert!(
        QuantSpec::abs_error(1.0)
            .bits(8)
            .resolve(DType::I32, None)
            .is_err()
    );
    let params = QuantSpec::parse("abs_error:0.25:range=215..325")?.resolve(DType::F32, None)?;
    assert_eq!(params.to_string(), "abs_error:0.25:bits=8:zero-point=-540");
    Ok(())
}

#[test]
fn parameters_round_trip_and_damage_is_corrupt() -> Result<()> {
    for text in [
        "abs_error:0.001:bits=16",
        "abs_error:0.25:range=215..325:error",
        "rel_error:0.5:range=1..1",
    ] {
        let params = QuantSpec::parse(text)?.resolve(DType::F32, Some(1))?;
        let mut bytes = Vec::new();
        params.emit(&mut bytes);
        assert_eq!(bytes.len(), 32);
        assert_eq!(QuantParams::parse_stage(3, &bytes)?, params);
        let edits: [(usize, &[u8]); 9] = [
            (0, &[12]),
            (1, &[1]),
            (1, &[3]),
            (2, &[1]),
            (7, &[1]),
            (8, &(1i64 << 51).to_le_bytes()),
            (8, &i64::MIN.to_le_bytes()),
            (16, &0f64.to_le_bytes()),
            (24, &(-1f64).to_le_bytes()),
        ];
        for (at, edit) in edits {
            let mut wrong = bytes.clone();
            wrong[at..at + edit.len()].copy_from_slice(edit);
            assert!(
                QuantParams::parse_stage(3, &wrong)
                    .unwrap_err()
                    .is_corrupt(),
                "{text} {at}"
            );
        }
        for bad in [f64::NAN, f64::INFINITY, -1.0, 1e-310] {
            let mut wrong = bytes.clone();
            wrong[16..24].copy_from_slice(&bad.to_le_bytes());
            assert!(
                QuantParams::parse_stage(3, &wrong)
                    .unwrap_err()
                    .is_corrupt()
            );
        }
        for len in [0, 31, 33, 40] {
            bytes.resize(len, 0);
            assert!(
                QuantParams::parse_stage(3, &bytes)
                    .unwrap_err()
                    .is_corrupt()
            );
        }
    }
    Ok(())
}
