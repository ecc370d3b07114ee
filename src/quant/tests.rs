//! Tests over every quantizer.

use proptest::prelude::*;

mod abs_error;
mod affine;
mod cast;
mod scaled;
mod speed;
mod syntax;

use super::*;
use crate::kernel::convert::{convert, from_f32, to_f64};
use crate::tensor::num_elements;

fn f32_bytes(x: &[f32]) -> Vec<u8> {
    x.iter().flat_map(|x| x.to_le_bytes()).collect()
}

fn as_dtype(x: &[f32], dtype: DType) -> Vec<u8> {
    let mut out = vec![0; x.len() * dtype.size()];
    from_f32(dtype, x, &mut out).unwrap();
    out
}

fn as_f64(dtype: DType, bytes: &[u8]) -> Vec<f64> {
    let mut out = vec![0.0; bytes.len() / dtype.size()];
    to_f64(dtype, bytes, &mut out);
    out
}

fn quantize(
    params: &QuantParams,
    dtype: DType,
    shape: &[usize],
    samples: usize,
    src: &[u8],
    statics: Option<&Scales>,
) -> Result<Quantized> {
    let mut out = Quantized::default();
    params
        .quantizer()
        .quantize(params, dtype, shape, samples, src, statics, &mut out)?;
    Ok(out)
}

fn scales_of(params: &QuantParams, q: &Quantized, statics: Option<&Scales>) -> Result<Scales> {
    let read = |scaling: Scaling| {
        let mut scales = vec![0.0; q.scales.len() / scaling.format.size()];
        scaling.format.read(&q.scales, &mut scales);
        scales
    };
    let scales = match (statics, params.scaling()) {
        (Some(statics), _) => statics.clone(),
        (None, Some(scaling)) => Scales {
            scales: read(scaling),
            zero_points: q
                .zero_points
                .as_chunks::<4>()
                .0
                .iter()
                .map(|z| i32::from_le_bytes(*z))
                .collect(),
        },
        (None, None) => Scales::default(),
    };
    params.validate(&scales)?;
    Ok(scales)
}

/// Dequantizes all samples at once.
fn dequantize(
    params: &QuantParams,
    dtype: DType,
    shape: &[usize],
    samples: usize,
    codes: &[u8],
    scales: &Scales,
    to: DType,
) -> Result<Vec<u8>> {
    let count = num_elements(shape).unwrap() * samples;
    let scales = ScalesView {
        scales: &scales.scales,
        zero_points: &scales.zero_points,
    };
    let mut out = vec![0xEE; count * to.size()];
    params.quantizer().dequantize(
        params,
        &Block {
            dtype,
            shape,
            first: 0,
            count,
            codes,
            scales,
        },
        to,
        &mut out,
    )?;
    Ok(out)
}

fn resolve(text: &str, dtype: DType, rank: usize) -> QuantParams {
    QuantSpec::parse(text)
        .unwrap()
        .resolve(dtype, Some(rank))
        .unwrap()
}

/// Quantizes f32 and compares stored bytes and decoded bits with those of the specification.
fn example(
    text: &str,
    x: &[f32],
    codes: &[u8],
    scales: &[u8],
    zero_points: &[u8],
    decoded: &[u32],
) -> Result<()> {
    let params = resolve(text, DType::F32, 1);
    let q = quantize(&params, DType::F32, &[x.len()], 1, &f32_bytes(x), None)?;
    assert_eq!(
        (&q.codes[..], &q.scales[..], &q.zero_points[..]),
        (codes, scales, zero_points),
        "{text}"
    );
    let back = dequantize(
        &params,
        DType::F32,
        &[x.len()],
        1,
        &q.codes,
        &scales_of(&params, &q, None)?,
        DType::F32,
    )?;
    let bits: Vec<u32> = back
        .as_chunks::<4>()
        .0
        .iter()
        .map(|b| u32::from_le_bytes(*b))
        .collect();
    assert_eq!(bits, decoded, "{text}");
    Ok(())
}

#[test]
fn worked_examples_of_the_specification() -> Result<()> {
    example(
        "int8",
        &[0.0, 1.0, -2.54, 0.3],
        &[0x00, 0x32, 0x81, 0x0F],
        &0x3CA3_D70Bu32.to_le_bytes(),
        &[],
        &[0x0000_0000, 0x3F80_0001, 0xC022_8F5D, 0x3E99_999A],
    )?;
    example(
        "uint8:asym",
        &[-1.0, 0.0, 0.5, 3.0],
        &[0, 64, 96, 255],
        &0x3C80_8081u32.to_le_bytes(),
        &64i32.to_le_bytes(),
        &[0xBF80_8081, 0x0000_0000, 0x3F00_8081, 0x403F_BFC0],
    )?;
    example(
        "int4:per-group=2:scale=f16",
        &[0.7, -0.35, 7.0, 1.0, 0.1],
        &[0xD7, 0x17, 0x07],
        &[0x67, 0x2E, 0x00, 0x3C, 0x51, 0x23],
        &[],
        &[
            0x3F33_4400,
            0xBE99_A800,
            0x40E0_0000,
            0x3F80_0000,
            0x3DCC_DC00,
        ],
    )
}

const SOURCES: [DType; 4] = [DType::F16, DType::BF16, DType::F32, DType::F64];

/// Quantizes, dequantizes to the field's dtype with patches, and checks the bound and the recorded statistics.
fn check_bound(
    params: &QuantParams,
    dtype: DType,
    shape: &[usize],
    samples: usize,
    src: &[u8],
) -> Result<()> {
    let statics = if params.static_scales(false) {
        let mut calibrator = Calibrator::new(&QuantSpec::from(params.clone()), dtype, shape)?;
        calibrator.observe(src)?;
        calibrator.finish().given_scales().cloned()
    } else {
        None
    };
    let n = num_elements(shape).unwrap();
    let q = quantize(params, dtype, shape, samples, src, statics.as_ref())?;
    let scales = scales_of(params, &q, statics.as_ref())?;
    assert_eq!(q.num_elements, (n * samples) as u64);
    assert_eq!(q.num_samples, samples as u64);
    assert_eq!(
        q.codes.len(),
        samples * (n * params.stored_bits(dtype) as usize).div_ceil(8)
    );
    if statics.is_none() {
        assert_eq!(
            scales.scales.len(),
            samples * params.scales_per_sample(shape)
        );
    }
    let back = dequantize(params, dtype, shape, samples, &q.codes, &scales, dtype)?;
    let (source, mut decoded) = (as_f64(dtype, src), as_f64(dtype, &back));
    for (i, value) in q
        .patch_indices
        .iter()
        .zip(q.patch_values.chunks(dtype.size()))
    {
        decoded[usize::try_from(*i).unwrap()] = as_f64(dtype, value)[0];
    }
    let (mut max, mut count) = (0.0f64, 0);
    let (mut sq_error, mut sq_source) = (0.0, 0.0);
    for (s, d) in source.iter().zip(&decoded).filter(|(s, _)| s.is_finite()) {
        count += 1;
        max = max.max((d - s).abs());
        sq_error += (d - s) * (d - s);
        sq_source += s * s;
    }
    assert_eq!(
        (q.errors.count, q.errors.non_finite),
        (count, source.len() as u64 - count)
    );
    assert_eq!(q.errors.max_abs_error, max);
    assert!((q.errors.sum_sq_error - sq_error).abs() <= 1e-12 * sq_error);
    assert!((q.errors.sum_sq_source - sq_source).abs() <= 1e-12 * sq_source);
    if let QuantParams::Affine(p) = params {
        let qmax = f64::from(super::affine::q_range(p).1);
        for (i, (s, d)) in source
            .iter()
            .zip(&decoded)
            .enumerate()
            .filter(|(_, (s, _))| s.is_finite())
        {
            // A slow search for the element's scale, after the text of the specification.
            let (sample, e) = (i / n, i % n);
            let scale = match p.granularity {
                Granularity::PerTensor => scales.scales[0],
                Granularity::PerSample => scales.scales[sample],
                Granularity::PerChannel { axis } => {
                    let inner: usize = shape[usize::from(axis) + 1..].iter().product();
                    scales.scales[e / inner % shape[usize::from(axis)]]
                }
                Granularity::PerGroup { size } => {
                    let row = shape.last().copied().unwrap_or(1);
                    let groups = row.div_ceil(size as usize);
                    let at = sample * params.scales_per_sample(shape);
                    scales.scales[at + e / row * groups + e % row / size as usize]
                }
            };
            let scale = f64::from(scale);
            let ulp = match dtype {
                DType::F16 => d.abs() / 1024.0 + 2f64.powi(-24),
                DType::BF16 => d.abs() / 128.0 + 2f64.powi(-133),
                _ => d.abs() / 4_194_304.0 + 2f64.powi(-149),
            };
            assert!(
                (d - s).abs() <= scale * (0.5 + qmax / 16_777_216.0) + ulp,
                "{params}: {s} became {d}, scale {scale}"
            );
        }
    }
    check_parts(params, dtype, shape, samples, &q.codes, &scales)
}

/// Dequantizing in parts, and to other dtypes, gives what dequantizing the whole gives.
fn check_parts(
    params: &QuantParams,
    dtype: DType,
    shape: &[usize],
    samples: usize,
    codes: &[u8],
    scales: &Scales,
) -> Result<()> {
    let n = num_elements(shape).unwrap();
    let bits = params.stored_bits(dtype) as usize;
    let stored = (n * bits).div_ceil(8);
    let own = dequantize(params, dtype, shape, samples, codes, scales, dtype)?;
    for to in SOURCES {
        let whole = dequantize(params, dtype, shape, samples, codes, scales, to)?;
        let mut expected = vec![0; whole.len()];
        convert(dtype, &own, to, &mut expected)?;
        assert!(whole == expected, "{params} of {dtype} to {to}");
        let view = ScalesView {
            scales: &scales.scales,
            zero_points: &scales.zero_points,
        };
        for part in [1, 2, 6, 1500].map(|part| if bits == 4 { part + part % 2 } else { part }) {
            let mut joined = Vec::new();
            for sample in 0..samples {
                for start in (0..n).step_by(part) {
                    let count = part.min(n - start);
                    let at = sample * stored + start * bits / 8;
                    let codes = &codes[at..at + (count * bits).div_ceil(8)];
                    let mut dst = vec![0xDD; count * to.size()];
                    let block = Block {
                        dtype,
                        shape,
                        first: sample * n + start,
                        count,
                        codes,
                        scales: view,
                    };
                    params
                        .quantizer()
                        .dequantize(params, &block, to, &mut dst)?;
                    joined.extend_from_slice(&dst);
                }
            }
            assert!(
                joined == whole,
                "{params} of {dtype} to {to} in parts of {part}"
            );
        }
    }
    Ok(())
}

fn values(len: usize, seed: u64, scale: f32) -> Vec<f32> {
    let mut state = seed;
    (0..len)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            ((state >> 40) as f32 / 8_388_608.0 - 0.9) * scale
        })
        .collect()
}

fn granularity() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "",
        ":per-tensor",
        ":per-channel=0",
        ":per-channel=1",
        ":per-channel=2",
        ":per-group=1",
        ":per-group=3",
        ":per-group=40",
        ":per-group=1000",
    ])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn affine_error_is_bounded_and_recorded(
        name in prop::sample::select(vec!["int4", "uint4", "int8", "uint8", "int16", "uint16"]),
        asymmetric in any::<bool>(),
        granularity in granularity(),
        scale in prop::sample::select(vec!["f32", "f16", "bf16"]),
        dtype in prop::sample::select(SOURCES.to_vec()),
        shape in prop::collection::vec(1usize..8, 3),
        wide in prop::sample::select(vec![0usize, 0, 70]),
        samples in 0usize..4,
        seed in any::<u64>(),
        size in prop::sample::select(vec![0.0f32, 1e-3, 1.0, 300.0]),
    ) {
        let mut shape = shape;
        shape[2] += wide;
        let text = format!("{name}{}{granularity}:scale={scale}", if asymmetric { ":asym" } else { "" });
        let params = resolve(&text, dtype, 3);
        let x = values(shape.iter().product::<usize>() * samples, seed, size);
        check_bound(&params, dtype, &shape, samples, &as_dtype(&x, dtype)).unwrap();
    }

    #[test]
    fn patched_elements_of_any_bits_keep_the_bound(
        bits in prop::collection::vec(any::<u32>(), 1..300),
        name in prop::sample::select(vec!["int8", "uint4:asym", "int16:per-group=32", "f8e4m3fn", "f8e5m2", "bf16", "f16"]),
        dtype in prop::sample::select(SOURCES.to_vec()),
    ) {
        let spec = QuantSpec::parse(name).unwrap().non_finite(NonFinite::Patch);
        let Ok(params) = spec.resolve(dtype, Some(1)) else { return Ok(()) };
        let x: Vec<f32> = bits.iter().map(|b| f32::from_bits(*b)).collect();
        let src = as_dtype(&x, dtype);
        check_bound(&params, dtype, &[x.len()], 1, &src).unwrap();
    }
}

fn one(text: &str, dtype: DType, x: f64) -> Result<(f64, Quantized)> {
    let src = match dtype {
        DType::F64 => x.to_le_bytes().to_vec(),
        _ => as_dtype(&[crate::kernel::convert::f64_to_f32(x)], dtype),
    };
    let src = [src, as_dtype(&[1.0], dtype)].concat();
    let params = resolve(text, dtype, 1);
    let q = quantize(&params, dtype, &[2], 1, &src, None)?;
    let back = dequantize(
        &params,
        dtype,
        &[2],
        1,
        &q.codes,
        &scales_of(&params, &q, None)?,
        dtype,
    )?;
    Ok((as_f64(dtype, &back)[0], q))
}

#[test]
fn policies_decide_about_what_cannot_be_represented() -> Result<()> {
    let f16_as_bf16_max = 65280.0;
    for (text, dtype, x, saturated) in [
        ("f16", DType::F32, 65520.0, 65504.0),
        ("f16", DType::F64, -1e300, -65504.0),
        ("f32", DType::F64, 1e300, f64::from(f32::MAX)),
        ("bf16", DType::F16, 65504.0, f16_as_bf16_max),
        ("f8e4m3fn", DType::F32, -465.0, -448.0),
        ("f8e4m3fn", DType::F32, f64::INFINITY, 448.0),
        ("f8e5m2", DType::BF16, 65536.0, 57344.0),
        ("int8", DType::F32, f64::NEG_INFINITY, -1.0),
        ("uint8:asym", DType::F16, f64::INFINITY, 1.0),
        ("int16", DType::F64, 1e200, 1.0),
    ] {
        let error = one(text, dtype, x).unwrap_err();
        assert!(error.to_string().starts_with("value "), "{error}");
        let (back, q) = one(&format!("{text}:saturate"), dtype, x)?;
        assert!(
            (back - saturated).abs() <= saturated.abs() * 1e-4,
            "{text} {back}"
        );
        assert_eq!(q.patch_indices, [] as [u64; 0]);
        assert!(q.errors.sum_sq_source.is_finite() && q.errors.sum_sq_error.is_finite());
        let (_, q) = one(&format!("{text}:patch"), dtype, x)?;
        assert_eq!(q.patch_indices, [0]);
        let value = as_f64(dtype, &q.patch_values)[0];
        assert!(value == x || (value - x).abs() < x.abs() / 100.0);
        assert!(q.errors.max_abs_error < 0.01);
    }
    assert!(one("int8:saturate", DType::F32, f64::NAN).is_err());
    let (_, q) = one("int8:patch", DType::F32, f64::NAN)?;
    assert_eq!((q.patch_indices, q.errors.non_finite), (vec![0], 1));
    assert!(one("f8e4m3fn", DType::F32, f64::NAN)?.0.is_nan());
    Ok(())
}

#[test]
fn unrepresentable_names_the_sample_and_patches_count_on() -> Result<()> {
    let mut x = vec![1.0f32; 700];
    x[650] = f32::NAN;
    let mut out = Quantized::default();
    let params = resolve("int8:patch", DType::F32, 1);
    for _ in 0..2 {
        params.quantizer().quantize(
            &params,
            DType::F32,
            &[100],
            7,
            &f32_bytes(&x),
            None,
            &mut out,
        )?;
    }
    assert_eq!(out.patch_indices, [650, 1350]);
    let params = resolve("int8", DType::F32, 1);
    let mut out = Quantized {
        num_samples: 20,
        ..Quantized::default()
    };
    let error = params.quantizer().quantize(
        &params,
        DType::F32,
        &[100],
        7,
        &f32_bytes(&x),
        None,
        &mut out,
    );
    assert!(matches!(
        error.unwrap_err().kind(),
        crate::error::ErrorKind::Unrepresentable { sample: 26, .. }
    ));
    let params = resolve("f8e4m3fn", DType::F32, 1);
    x[650] = 1e6;
    let mut out = Quantized {
        num_samples: 20,
        ..Quantized::default()
    };
    let error = params.quantizer().quantize(
        &params,
        DType::F32,
        &[100],
        7,
        &f32_bytes(&x),
        None,
        &mut out,
    );
    assert!(matches!(
        error.unwrap_err().kind(),
        crate::error::ErrorKind::Unrepresentable { sample: 26, .. }
    ));
    Ok(())
}

#[test]
fn identity_is_bit_exact_and_converts() -> Result<()> {
    for dtype in DType::all() {
        let src: Vec<u8> = (0..dtype.size() * 60)
            .map(|i| u8::try_from(i * 71 % 256).unwrap())
            .collect();
        let q = quantize(&QuantParams::Identity, dtype, &[20], 3, &src, None)?;
        assert_eq!(q.codes, src);
        assert_eq!(q.errors, ErrorSums::default());
        let none = Scales::default();
        assert_eq!(
            dequantize(
                &QuantParams::Identity,
                dtype,
                &[20],
                3,
                &q.codes,
                &none,
                dtype
            )?,
            src
        );
        dequantize(
            &QuantParams::Identity,
            dtype,
            &[20],
            3,
            &q.codes,
            &none,
            DType::F32,
        )?;
    }
    Ok(())
}

#[test]
fn wrong_lengths_are_errors_not_panics() {
    let view = ScalesView {
        scales: &[1.0; 3],
        zero_points: &[],
    };
    for text in [
        "identity",
        "f16",
        "int8",
        "int4",
        "int4:per-group=2",
        "int16:per-channel=0",
        "int8:asym",
    ] {
        let params = resolve(text, DType::F32, 1);
        for count in [0usize, 1, 3, 4, 5, 8, 9, usize::MAX] {
            for first in [0, 1, 2, 4, 5, usize::MAX] {
                for len in [0, 1, 2, 4, 16] {
                    for shape in [&[4usize][..], &[0], &[usize::MAX]] {
                        let block = Block {
                            dtype: DType::F32,
                            shape,
                            first,
                            count,
                            codes: &[1; 16][..len],
                            scales: view,
                        };
                        for size in [0, 4, 16, 20] {
                            let mut dst = vec![0; size];
                            let _done = params
                                .quantizer()
                                .dequantize(&params, &block, DType::F32, &mut dst)
                                .is_ok();
                        }
                    }
                }
            }
        }
        assert!(quantize(&params, DType::F32, &[3], 1, &[0; 11], None).is_err());
        assert!(quantize(&params, DType::F32, &[usize::MAX, 9], 1, &[0; 12], None).is_err());
    }
}

/// How many elements at a time [`Quantizer::one_scale`] tells of, over all of them.
fn told(text: &str, shape: &[usize], statics: Option<&Scales>, to: DType) -> Option<Vec<usize>> {
    let samples = 3;
    let n = num_elements(shape).unwrap() * samples;
    let x: Vec<f32> = (0..n).map(|i| ((i * 37) % 1000) as f32 * 0.01).collect();
    let params = resolve(text, DType::F32, shape.len());
    let q = quantize(&params, DType::F32, shape, samples, &f32_bytes(&x), statics).unwrap();
    let scales = scales_of(&params, &q, statics).unwrap();
    let expected = dequantize(&params, DType::F32, shape, samples, &q.codes, &scales, to).unwrap();

    let size = q.codes.len() / n;
    let (mut told, mut first) = (Vec::new(), 0);
    while first < n {
        let block = Block {
            dtype: DType::F32,
            shape,
            first,
            count: n - first,
            codes: &q.codes[first * size..],
            scales: ScalesView {
                scales: &scales.scales,
                zero_points: &scales.zero_points,
            },
        };
        let (one, count) = params.quantizer().one_scale(&params, &block, to)?;
        let mut out = vec![0; 4 * count];
        one.run(block.codes, &mut out);
        assert_eq!(out, expected[4 * first..4 * (first + count)], "{text}");
        told.push(count);
        first += count;
    }
    Some(told)
}

#[test]
fn elements_that_share_a_scale_are_read_as_they_are_dequantized() {
    let table = |n: usize, zero_points: bool| Scales {
        scales: (1..=n).map(|i| 0.1 * i as f32).collect(),
        zero_points: (0..).take(if zero_points { n } else { 0 }).collect(),
    };
    let shape = [2, 3, 100];
    let to = DType::F32;
    let tensor = table(1, false);
    assert_eq!(
        told("int8:per-tensor", &shape, Some(&tensor), to),
        Some(vec![1800])
    );
    assert_eq!(told("int8", &shape, None, to), Some(vec![600; 3]));
    assert_eq!(told("uint8:asym", &shape, None, to), Some(vec![600; 3]));
    assert_eq!(
        told("int16:per-channel=0", &shape, None, to),
        Some(vec![300; 6])
    );
    let channels = table(2, true);
    let text = "uint8:asym:per-channel=0";
    assert_eq!(told(text, &shape, Some(&channels), to), Some(vec![300; 6]));
    assert_eq!(
        told("abs_error:0.01:bits=16:range=0..10", &shape, None, to),
        Some(vec![1800])
    );
    // Short channels, groups, nibbles and other dtypes are looked up.
    assert_eq!(told("int8:per-channel=1", &shape, None, to), None);
    assert_eq!(told("int8:per-group=50", &shape, None, to), None);
    assert_eq!(told("int4", &shape, None, to), None);
    assert_eq!(told("int8", &shape, None, DType::F16), None);
}
