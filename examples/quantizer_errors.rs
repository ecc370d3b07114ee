//! What each quantizer costs: bits a value, largest error and signal-to-noise ratio on four distributions. Prints the
//! tables of QUANTIZERS.md.
//!
//! `cargo run --release --example quantizer_errors`
#![expect(clippy::print_stdout, reason = "an example")]

use std::collections::HashMap;
use std::error::Error;

use tensorshard::{
    CodecSpec, DType, Dataset, FieldOutput, FieldSpec, Loader, QuantParams, QuantSpec, ShardWriter,
    Shuffle, TensorView, to_le_bytes,
};

type Outcome<T> = Result<T, Box<dyn Error>>;

/// Elements of a sample.
const LEN: usize = 4096;
/// Samples of each distribution.
const SAMPLES: usize = 64;

/// What is compared. One scale per sample, where nothing else is said.
const QUANTIZERS: [&str; 19] = [
    "f16",
    "bf16",
    "int16",
    "int8",
    "int8:per-group=32",
    "mxint8",
    "fp8",
    "fp8-e5m2",
    "mxfp8",
    "mxfp8-e5m2",
    "int4:per-group=32:scale=f16",
    "int4:per-group=64:scale=f16",
    "int4:per-group=128:scale=f16",
    "nf4",
    "mxfp4",
    "rel_error:0.01",
    "rel_error:0.001",
    "rel_error:0.0001",
    "psnr:60",
];

/// A source of random numbers: SplitMix64.
struct Random(u64);

impl Random {
    /// Uniform in 0 to 1, without 0.
    fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 11) as f64 / 9_007_199_254_740_992.0 + 1e-17
    }

    /// Normal: mean 0, deviation 1.
    fn normal(&mut self) -> f64 {
        let radius = (-2.0 * self.unit().ln()).sqrt();
        radius * (std::f64::consts::TAU * self.unit()).cos()
    }

    /// Student's t with 3 degrees of freedom: heavy tails.
    fn heavy(&mut self) -> f64 {
        let squares: f64 = (0..3).map(|_| self.normal().powi(2)).sum();
        self.normal() / (squares / 3.0).sqrt()
    }
}

/// A distribution: its name, and one value of it.
type Distribution = (&'static str, fn(&mut Random) -> f64);

const DISTRIBUTIONS: [Distribution; 4] = [
    ("normal, N(0, 1)", Random::normal),
    ("uniform, -1 to 1", |random| 2.0 * random.unit() - 1.0),
    (
        "heavy tails, Student's t with 3 degrees of freedom",
        Random::heavy,
    ),
    ("activations, max(N(0, 1) - 0.5, 0)", |random| {
        (random.normal() - 0.5).max(0.0)
    }),
];

/// What a quantizer makes of a distribution.
struct Row {
    quantizer: String,
    /// Bits a value of codes and scales.
    stored: f64,
    /// The same if an ideal entropy coder, order 0, took the codes.
    coded: f64,
    largest: f64,
    snr: f64,
}

/// The entropy of these symbols, in bits each.
fn entropy(symbols: impl Iterator<Item = i64>) -> f64 {
    let mut counts: HashMap<i64, u32> = HashMap::new();
    symbols.for_each(|symbol| *counts.entry(symbol).or_default() += 1);
    let total: f64 = counts.values().map(|&n| f64::from(n)).sum();
    let mut counts: Vec<u32> = counts.into_values().collect();
    // Always added up in one order.
    counts.sort_unstable();
    let bits = counts
        .into_iter()
        .map(|n| f64::from(n) * (total / f64::from(n)).log2());
    bits.sum::<f64>() / total
}

fn measure(quantizer: &str, x: &[f32]) -> Outcome<Row> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("x");
    let mut field = FieldSpec::new("x", DType::F32, [LEN])
        .quantize(QuantSpec::parse(quantizer)?)
        .filters([])
        .codec(CodecSpec::parse("none")?);
    if field.needs_calibration() {
        let mut calibrator = field.calibrator()?;
        calibrator.observe(&to_le_bytes(x))?;
        field = field.quantize(calibrator.finish());
    }
    let mut writer = ShardWriter::builder().field(field).create(&path)?;
    for sample in x.chunks(LEN) {
        let bytes = to_le_bytes(sample);
        writer.append(&[("x", TensorView::new(DType::F32, &[LEN], &bytes)?)])?;
    }
    writer.finish()?;

    let dataset = Dataset::open(&path)?;
    let report = dataset.inspect()?;
    let error = report.fields[0]
        .error
        .ok_or("every quantizer here is lossy")?;
    let params = dataset.schema().fields()[0].quantizer();
    let mut symbols: Vec<i64> = Vec::new();
    let mut scale_bits = 0.0;
    if let QuantParams::AbsError(p) = params {
        // Codes are integers here, not bytes: what a predictor and a coder of planes would be given.
        #[expect(
            clippy::cast_possible_truncation,
            reason = "an integer of at most 32 bits"
        )]
        symbols.extend(
            x.iter()
                .map(|&x| (f64::from(x) / p.step).round_ties_even() as i64),
        );
    } else {
        let loader = Loader::builder()
            .shuffle(Shuffle::None)
            .output("x", FieldOutput::new().quantized())
            .open(&path)?;
        for batch in loader.batches(16) {
            let batch = batch?;
            let codes = batch.field("x")?;
            for code in codes.data().chunks(codes.dtype().size()) {
                symbols.push(
                    code.iter()
                        .rev()
                        .fold(0, |all, &byte| (all << 8) | i64::from(byte)),
                );
            }
            if let Some(scales) = codes.scales() {
                let each = match quantizer {
                    _ if quantizer.starts_with("mx") => 8.0,
                    _ if quantizer.ends_with("scale=f16") => 16.0,
                    _ => 32.0,
                };
                scale_bits += each * scales.len() as f64;
            }
        }
    }
    let scales = scale_bits / x.len() as f64;
    Ok(Row {
        quantizer: quantizer.to_owned(),
        stored: f64::from(params.stored_bits(DType::F32)) + scales,
        coded: entropy(symbols.into_iter()) + scales,
        largest: error.max_abs_error,
        snr: error.snr_db(),
    })
}

/// All tables, in Markdown.
pub(crate) fn tables() -> Outcome<String> {
    let mut out = String::new();
    for (seed, (name, value)) in (1..).zip(DISTRIBUTIONS) {
        let mut random = Random(seed);
        #[expect(clippy::cast_possible_truncation, reason = "the data are f32")]
        let x: Vec<f32> = (0..LEN * SAMPLES)
            .map(|_| value(&mut random) as f32)
            .collect();
        out.push_str(&format!(
            "### {name}\n\n| quantizer | bits/value | after entropy coding | largest error | SNR, dB |\n|---|---|---|---|---|\n"
        ));
        for quantizer in QUANTIZERS {
            let row = measure(quantizer, &x)?;
            out.push_str(&format!(
                "| `{}` | {:.2} | {:.2} | {:.2e} | {:.1} |\n",
                row.quantizer, row.stored, row.coded, row.largest, row.snr
            ));
        }
        out.push('\n');
    }
    Ok(out)
}

fn main() -> Outcome<()> {
    print!("{}", tables()?);
    Ok(())
}
