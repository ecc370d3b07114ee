//! How fast quantizers are; not a check.

use super::*;

/// Bytes that are written in turn: more than the caches hold.
const POOL: usize = 128 << 20;
const ROUNDS: usize = 5;

/// Not a check: `cargo test --release quant_speed -- --ignored --nocapture`.
#[test]
#[ignore = "prints timings"]
#[expect(clippy::print_stderr, reason = "prints timings")]
fn quant_speed() -> Result<()> {
    let (n, samples) = (16384usize, 16);
    let x = values(n * samples, 3, 4.0);
    let gigabytes = (x.len() * 4) as f64 / 1e9;
    let (source, mut pool) = (vec![1u8; POOL], vec![2u8; POOL]);
    for text in [
        "identity",
        "f16",
        "bf16",
        "f8e4m3fn",
        "int8",
        "uint8:asym",
        "int16",
        "int4",
        "int4:per-group=32:scale=f16",
        "int4:per-group=64",
        "int4:per-group=128",
        "int8:per-channel=0",
        "int8:per-channel=1",
        "abs_error:0.001:bits=8",
        "abs_error:0.001:bits=16",
        "abs_error:0.001:bits=32",
        "fp8",
        "fp8-e5m2",
        "nf4",
        "mxfp8",
        "mxfp8-e5m2",
        "mxint8",
        "mxfp4",
    ] {
        let params = resolve(text, DType::F32, 2);
        let shape = [n / 64, 64];
        let src = f32_bytes(&x);
        let statics = Calibrator::new(&QuantSpec::from(params.clone()), DType::F32, &shape)
            .ok()
            .and_then(|mut c| c.observe(&src).map(|()| c.finish()).ok())
            .and_then(|spec| spec.given_scales().cloned());
        let start = std::time::Instant::now();
        for _ in 0..10 {
            std::hint::black_box(quantize(
                &params,
                DType::F32,
                &shape,
                samples,
                &src,
                statics.as_ref(),
            )?);
        }
        let write = 10.0 * gigabytes / start.elapsed().as_secs_f64();
        let q = quantize(&params, DType::F32, &shape, samples, &src, statics.as_ref())?;
        let scales = scales_of(&params, &q, statics.as_ref())?;
        let view = ScalesView {
            scales: &scales.scales,
            zero_points: &scales.zero_points,
        };
        let mut speeds = Vec::new();
        for to in [DType::F32, DType::F16, DType::BF16] {
            let block = Block {
                dtype: DType::F32,
                shape: &shape,
                first: 0,
                count: x.len(),
                codes: &q.codes,
                scales: view,
            };
            // In turn, each to slots that have left the cache: the best of some rounds.
            let (mut ours, mut memcpy) = (f64::INFINITY, f64::INFINITY);
            for _ in 0..ROUNDS {
                let start = std::time::Instant::now();
                for dst in pool.chunks_exact_mut(x.len() * to.size()) {
                    let block = std::hint::black_box(&block);
                    params.quantizer().dequantize(&params, block, to, dst)?;
                }
                ours = ours.min(start.elapsed().as_secs_f64());
                let start = std::time::Instant::now();
                std::hint::black_box(&mut pool).copy_from_slice(std::hint::black_box(&source));
                memcpy = memcpy.min(start.elapsed().as_secs_f64());
            }
            let speed = POOL as f64 / 1e9 / ours;
            speeds.push(format!("{to} {speed:.2} ({:.2})", memcpy / ours));
        }
        eprintln!(
            "{text}: quantize {write:.2} GB/s of f32; dequantize GB/s of output (x memcpy): {}",
            speeds.join(", ")
        );
    }
    Ok(())
}
