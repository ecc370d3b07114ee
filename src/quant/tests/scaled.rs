//! `fp8`, `codebook` and `mx`: worked examples, bounds, hostile values.

use super::*;
use crate::kernel::minifloat::E2M1;

const NAMES: [&str; 8] = [
    "fp8",
    "fp8-e5m2",
    "nf4",
    "codebook:-3,-2,-1.5,-1,-0.5,-0.25,-0.1,0,0.1,0.25,0.5,1,1.5,2,2.5,3",
    "mxfp8",
    "mxfp8-e5m2",
    "mxint8",
    "mxfp4",
];

#[test]
fn more_worked_examples_of_the_specification() -> Result<()> {
    example(
        "fp8",
        &[448.0, -1.0, 0.3, f32::NAN, 0.0],
        &[0x7E, 0xB8, 0x2A, 0x7F, 0x00],
        &1f32.to_le_bytes(),
        &[],
        &[0x43E0_0000, 0xBF80_0000, 0x3EA0_0000, 0x7FC0_0000, 0],
    )?;
    example(
        "nf4",
        &[2.0, -0.5, 0.1, 0.0],
        &[0x4F, 0x78],
        &2f32.to_le_bytes(),
        &[],
        &[0x4000_0000, 0xBF11_A24D, 0x3E22_FAFF, 0],
    )?;
    let x = [7.0f32, -0.5, 1.25, 0.1];
    let bits = |x: [f32; 4]| x.map(f32::to_bits);
    example(
        "mxfp4",
        &x,
        &[0x97, 0x02],
        &[127],
        &[],
        &bits([6.0, -0.5, 1.0, 0.0]),
    )?;
    example(
        "mxint8",
        &x,
        &[0x70, 0xF8, 0x14, 0x02],
        &[129],
        &[],
        &bits([7.0, -0.5, 1.25, 0.125]),
    )
}

/// The largest relative error of a value between the smallest normal and the largest of a format.
fn relative(name: &str) -> f64 {
    match name.split(':').next().unwrap() {
        "fp8" | "mxfp8" => 1.0 / 16.0,
        "fp8-e5m2" | "mxfp8-e5m2" => 1.0 / 8.0,
        "mxfp4" => 1.0 / 4.0,
        _ => 0.0,
    }
}

/// Within half a step of the format, or the saturation of the OCP rule, element by element.
fn check_elements(name: &str, dtype: DType, shape: &[usize], src: &[u8]) -> Result<()> {
    let params = resolve(name, dtype, shape.len());
    check_bound(&params, dtype, shape, 1, src)?;
    if params.static_scales(false) {
        return Ok(());
    }
    let q = quantize(&params, dtype, shape, 1, src, None)?;
    let scales = scales_of(&params, &q, None)?;
    let back = dequantize(&params, dtype, shape, 1, &q.codes, &scales, dtype)?;
    let row = shape.last().copied().unwrap();
    let group = match params.scaling().unwrap().granularity {
        Granularity::PerGroup { size } => size as usize,
        _ => usize::MAX,
    };
    let (source, decoded) = (as_f64(dtype, src), as_f64(dtype, &back));
    for (i, (s, d)) in source.iter().zip(&decoded).enumerate() {
        let groups = row.div_ceil(group);
        let index = if group == usize::MAX {
            0
        } else {
            i / row * groups + i % row / group
        };
        let scale = f64::from(scales.scales[index]);
        let step = match name.split(':').next().unwrap() {
            "fp8" | "mxfp8" => 2f64.powi(-10),
            "fp8-e5m2" | "mxfp8-e5m2" => 2f64.powi(-17),
            "mxfp4" => 0.25,
            "mxint8" => 1.0 / 64.0,
            "nf4" => 0.16,
            _ => 0.51,
        };
        // OCP's floor rule: elements from 448 to 512 (6 to 8, 127/64 to 2, ..) saturate.
        let saturated = if name.starts_with("mx") && !name.contains("int8") {
            0.25
        } else {
            0.0
        };
        let bound = s.abs() * relative(name).max(saturated) + scale * step;
        let ulp = match dtype {
            DType::F16 => d.abs() / 1024.0 + 2f64.powi(-24),
            DType::BF16 => d.abs() / 128.0 + 2f64.powi(-133),
            _ => d.abs() / 4_194_304.0 + 2f64.powi(-149),
        };
        assert!(
            (s - d).abs() <= bound * 1.000_001 + ulp,
            "{name} of {dtype}: {s:e} became {d:e}, scale {scale:e}"
        );
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn errors_are_bounded_and_recorded(
        name in prop::sample::select(NAMES.to_vec()),
        granularity in granularity(),
        scale in prop::sample::select(vec!["", ":scale=f16", ":scale=bf16"]),
        dtype in prop::sample::select(SOURCES.to_vec()),
        shape in prop::collection::vec(1usize..8, 3),
        wide in prop::sample::select(vec![0usize, 0, 70]),
        seed in any::<u64>(),
        size in prop::sample::select(vec![0.0f32, 1e-2, 1.0, 300.0]),
    ) {
        let mut shape = shape;
        shape[2] += wide;
        let text = if name.starts_with("mx") { name.to_owned() } else { format!("{name}{granularity}{scale}") };
        let x = values(shape.iter().product::<usize>(), seed, size);
        check_elements(&text, dtype, &shape, &as_dtype(&x, dtype)).unwrap();
    }

    #[test]
    fn patched_elements_of_any_bits_come_back(
        bits in prop::collection::vec(any::<u32>(), 1..300),
        name in prop::sample::select(NAMES.to_vec()),
        dtype in prop::sample::select(SOURCES.to_vec()),
    ) {
        let spec = QuantSpec::parse(name).unwrap().non_finite(NonFinite::Patch);
        let params = spec.resolve(dtype, Some(1)).unwrap();
        let x: Vec<f32> = bits.iter().map(|b| f32::from_bits(*b)).collect();
        check_bound(&params, dtype, &[x.len()], 1, &as_dtype(&x, dtype)).unwrap();
    }
}

#[test]
fn extremes_do_not_overflow() -> Result<()> {
    let tiny = f32::from_bits(1);
    let cases: [&[f32]; 7] = [
        &[0.0; 5],
        &[-0.0; 5],
        &[7.25; 40],
        &[tiny, -tiny, 0.0, 2.0 * tiny],
        &[f32::MIN_POSITIVE, -tiny, 0.0],
        &[f32::MAX, 1.0, -f32::MAX, 0.0],
        &[f32::MAX, f32::MAX / 2.0],
    ];
    for x in cases {
        for name in NAMES {
            for dtype in SOURCES {
                let largest = crate::kernel::convert::largest(dtype);
                let x: Vec<f32> = x.iter().map(|x| x.clamp(-largest, largest)).collect();
                let params = resolve(name, dtype, 1);
                let src = as_dtype(&x, dtype);
                let q = quantize(&params, dtype, &[x.len()], 1, &src, None)?;
                let scales = scales_of(&params, &q, None)?;
                let back = dequantize(&params, dtype, &[x.len()], 1, &q.codes, &scales, dtype)?;
                assert!(
                    as_f64(dtype, &back).iter().all(|x| x.is_finite()),
                    "{name} {dtype} {x:?}"
                );
                check_bound(&params, dtype, &[x.len()], 1, &src)?;
            }
        }
    }
    Ok(())
}

#[test]
fn policies_of_elements_without_a_code() -> Result<()> {
    for name in NAMES {
        let has_nan = name.contains("fp8");
        assert_eq!(one(name, DType::F32, f64::NAN).is_ok(), has_nan, "{name}");
        if has_nan {
            assert!(one(name, DType::F32, f64::NAN)?.0.is_nan());
        } else {
            let error = one(&format!("{name}:saturate"), DType::F32, f64::NAN).unwrap_err();
            assert!(
                error.to_string().ends_with("the non-finite policy `patch`"),
                "{error}"
            );
            let (_, q) = one(&format!("{name}:patch"), DType::F32, f64::NAN)?;
            assert_eq!(q.patch_indices, [0]);
        }
        let error = one(name, DType::F32, f64::INFINITY).unwrap_err();
        assert!(
            error.to_string().contains("`saturate` or `patch`"),
            "{error}"
        );
        let (back, q) = one(&format!("{name}:saturate"), DType::F32, f64::NEG_INFINITY)?;
        assert!((-2.0..=-0.9).contains(&back), "{name} {back}");
        assert!(q.patch_indices.is_empty());
        let (_, q) = one(&format!("{name}:patch"), DType::F32, f64::INFINITY)?;
        assert_eq!((q.patch_indices, q.errors.non_finite), (vec![0], 1));
    }
    // Given scales: what they do not reach.
    let table = Scales {
        scales: vec![0.5],
        zero_points: vec![],
    };
    for (name, inside, outside) in [("fp8", 232.0f32, 233.0f32), ("nf4", 0.5, 0.6)] {
        let spec = QuantSpec::parse(name)?.per_tensor().scales(table.clone());
        let params = spec.resolve(DType::F32, Some(1))?;
        let quantize = |params: &QuantParams, x: f32| {
            quantize(
                params,
                DType::F32,
                &[2],
                1,
                &f32_bytes(&[x, 0.0]),
                Some(&table),
            )
        };
        assert!(quantize(&params, inside).is_ok(), "{name}");
        assert!(quantize(&params, outside).is_err(), "{name}");
        let params = spec
            .clone()
            .non_finite(NonFinite::Patch)
            .resolve(DType::F32, Some(1))?;
        assert_eq!(quantize(&params, outside)?.patch_indices, [0]);
        let params = spec
            .non_finite(NonFinite::Saturate)
            .resolve(DType::F32, Some(1))?;
        assert!(quantize(&params, outside)?.errors.max_abs_error < 10.0);
    }
    // A scale whose largest codes are infinities in f16.
    let table = Scales {
        scales: vec![1000.0],
        zero_points: vec![],
    };
    let spec = QuantSpec::fp8(DType::F8E4M3FN)
        .per_tensor()
        .scales(table.clone())
        .non_finite(NonFinite::Saturate);
    let params = spec.resolve(DType::F16, Some(1))?;
    let src = as_dtype(&[65504.0, -60000.0], DType::F16);
    let q = quantize(&params, DType::F16, &[2], 1, &src, Some(&table))?;
    let back = dequantize(&params, DType::F16, &[2], 1, &q.codes, &table, DType::F16)?;
    assert_eq!(as_f64(DType::F16, &back), [64000.0, -60000.0]);
    Ok(())
}

#[test]
fn every_code_and_exponent_of_mx_decodes_by_the_formula() -> Result<()> {
    for (name, value) in [
        (
            "mxint8",
            &(|q: u8| f64::from(q.cast_signed()) / 64.0) as &dyn Fn(u8) -> f64,
        ),
        ("mxfp8", &|q| as_f64(DType::F8E4M3FN, &[q])[0]),
        ("mxfp8-e5m2", &|q| as_f64(DType::F8E5M2, &[q])[0]),
        ("mxfp4", &|q| f64::from(E2M1[usize::from(q)])),
    ] {
        let params = resolve(name, DType::F32, 1);
        let n = 1usize << params.stored_bits(DType::F32);
        let codes: Vec<u8> = if n == 16 {
            (0..8).map(|i| (2 * i) | ((2 * i + 1) << 4)).collect()
        } else {
            (0..=255).collect()
        };
        for e in [0u8, 1, 2, 20, 120, 127, 128, 246, 250, 254, 255] {
            let mut scales = vec![0.0; n.div_ceil(32)];
            let read = params.scaling().unwrap().format;
            read.read(&vec![e; scales.len()], &mut scales);
            let scales = Scales {
                scales,
                zero_points: vec![],
            };
            params.validate(&scales)?;
            for to in [DType::F32, DType::BF16] {
                let back = dequantize(&params, DType::F32, &[n], 1, &codes, &scales, to)?;
                for (q, x) in as_f64(to, &back).into_iter().enumerate() {
                    let v = value(u8::try_from(q).unwrap());
                    if v.is_nan() || e == 255 {
                        assert!(x.is_nan(), "{name} {q} {e}");
                        continue;
                    }
                    // Exact in f64, then rounded once.
                    let exact =
                        crate::kernel::convert::f64_to_f32(v * 2f64.powi(i32::from(e) - 127));
                    let mut rounded = [exact];
                    crate::kernel::convert::round_to(to, &mut rounded);
                    assert_eq!(
                        x.to_bits(),
                        f64::from(rounded[0]).to_bits(),
                        "{name} {q} {e}"
                    );
                }
            }
        }
    }
    Ok(())
}

#[test]
fn specs_have_one_syntax_and_parameters_round_trip() -> Result<()> {
    let large: Vec<String> = (-128..128).map(|i| i.to_string()).collect();
    let mut texts: Vec<String> = Vec::new();
    for name in NAMES {
        texts.extend(["", ":saturate", ":patch"].map(|policy| format!("{name}{policy}")));
    }
    for name in [
        "fp8",
        "fp8-e5m2",
        "nf4",
        &format!("codebook:{}", large.join(",")),
    ] {
        for granularity in [":per-tensor", ":per-channel=2", ":per-group=32"] {
            for scale in ["", ":scale=f16", ":scale=bf16"] {
                texts.push(format!("{name}{granularity}{scale}:patch"));
            }
        }
    }
    texts.push("nf4:per-sample".to_owned());
    for text in texts {
        let spec = QuantSpec::parse(&text)?;
        assert_eq!(spec.to_string(), text);
        let params = spec.resolve(DType::F64, Some(3))?;
        let mut bytes = Vec::new();
        params.emit(&mut bytes);
        assert_eq!(QuantParams::parse_stage(params.id().get(), &bytes)?, params);
        for len in [0, 3, bytes.len() - 1, bytes.len() + 1] {
            let mut wrong = bytes.clone();
            wrong.resize(len, 0);
            let parsed = QuantParams::parse_stage(params.id().get(), &wrong);
            assert!(parsed.unwrap_err().is_corrupt(), "{text} {len}");
        }
        for i in 0..bytes.len().min(16) {
            let mut wrong = bytes.clone();
            wrong[i] = 0xEE;
            // Only a group size can be that large.
            let parsed = QuantParams::parse_stage(params.id().get(), &wrong);
            assert!(parsed.is_err() || (8..12).contains(&i), "{text} {i}");
        }
    }
    for wrong in [
        "fp8:asym",
        "nf4:bits=4",
        "mxfp8:per-group=32",
        "mxfp4:scale=f16",
        "mxfp6",
        "codebook",
        "codebook:",
        "codebook:x",
    ] {
        assert!(QuantSpec::parse(wrong).is_err(), "{wrong}");
    }
    for wrong in [
        "codebook:1,2",
        "codebook:0,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14",
        "codebook:0,inf,1,2,3,4,5,6,7,8,9,10,11,12,13,14",
    ] {
        assert!(
            QuantSpec::parse(wrong)?
                .resolve(DType::F32, Some(1))
                .is_err(),
            "{wrong}"
        );
    }
    for name in NAMES {
        assert!(
            QuantSpec::parse(name)?
                .resolve(DType::I32, Some(1))
                .is_err()
        );
    }
    Ok(())
}
