//! A training loop on quantized shards: a linear probe learns to tell four kinds of latents apart, by hand.
//!
//! The latents are stored as int8 with a scale per sample (a quarter of f32), shuffled in windows, and delivered as f32
//! batches that view the loader's buffers: the loop copies nothing.
//!
//! `cargo run --release --example train_loop`
#![expect(clippy::print_stdout, reason = "an example")]

use std::error::Error;
use std::path::Path;
use std::time::Instant;

use tensorshard::{
    DType, FieldSpec, Loader, QuantSpec, ShardWriter, Shuffle, TensorView, to_le_bytes,
};

const CLASSES: usize = 4;
const FEATURES: usize = 256;
const SAMPLES: usize = 4000;
const EPOCHS: u64 = 6;

fn main() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("latents");
    write(&path)?;

    let mut loader = Loader::builder()
        .shuffle(Shuffle::windowed())
        .seed(7)
        .drop_last(true)
        .open(&path)?;
    let mut probe = Probe {
        weights: vec![0.0; CLASSES * FEATURES],
        bias: [0.0; CLASSES],
    };
    for epoch in 0..EPOCHS {
        // Another epoch, another order; the same seed and epoch always give the same one.
        loader.set_epoch(epoch);
        let start = Instant::now();
        let (mut loss, mut right, mut seen) = (0.0, 0, 0);
        for batch in loader.batches(50) {
            // An error here names the damaged file, chunk and field; nothing is skipped silently.
            let batch = batch?;
            let latents: &[f32] = batch.field("latent")?.as_slice()?;
            let labels: &[i64] = batch.field("label")?.as_slice()?;
            let step = probe.step(latents, labels);
            loss += step.0;
            right += step.1;
            seen += batch.len();
        }
        println!(
            "epoch {epoch}: loss {:.4}, accuracy {:.1} %, {:.0} ms",
            loss / seen as f32,
            100.0 * right as f32 / seen as f32,
            start.elapsed().as_secs_f64() * 1e3
        );
    }
    Ok(())
}

/// A linear classifier with a softmax cross-entropy loss.
struct Probe {
    weights: Vec<f32>,
    bias: [f32; CLASSES],
}

impl Probe {
    /// One step of stochastic gradient descent. Returns the summed loss and the number of right answers.
    fn step(&mut self, latents: &[f32], labels: &[i64]) -> (f32, usize) {
        let rate = 0.1 / labels.len() as f32;
        let mut gradient = vec![0.0; CLASSES * FEATURES];
        let mut bias_gradient = [0.0; CLASSES];
        let (mut loss, mut right) = (0.0, 0);
        for (x, &label) in latents.chunks_exact(FEATURES).zip(labels) {
            let scores: [f32; CLASSES] = std::array::from_fn(|c| {
                let row = &self.weights[c * FEATURES..(c + 1) * FEATURES];
                self.bias[c] + row.iter().zip(x).map(|(w, x)| w * x).sum::<f32>()
            });
            let largest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let exps = scores.map(|score| (score - largest).exp());
            let total: f32 = exps.iter().sum();
            let label = usize::try_from(label).unwrap_or(0);
            loss -= (exps[label] / total).ln();
            right += usize::from(scores[label] == largest);
            for c in 0..CLASSES {
                let slope = exps[c] / total - if c == label { 1.0 } else { 0.0 };
                bias_gradient[c] += slope;
                let row = &mut gradient[c * FEATURES..(c + 1) * FEATURES];
                row.iter_mut().zip(x).for_each(|(g, x)| *g += slope * x);
            }
        }
        self.weights
            .iter_mut()
            .zip(&gradient)
            .for_each(|(w, g)| *w -= rate * g);
        self.bias
            .iter_mut()
            .zip(&bias_gradient)
            .for_each(|(b, g)| *b -= rate * g);
        (loss, right)
    }
}

/// Waves whose frequency is the class, under noise that is louder than they are.
fn write(path: &Path) -> Result<(), Box<dyn Error>> {
    let mut writer = ShardWriter::builder()
        .field(FieldSpec::new("latent", DType::F32, [FEATURES]).quantize(QuantSpec::int8()))
        .field(FieldSpec::new("label", DType::I64, []))
        .chunk_bytes(1 << 16)
        .create(path)?;
    let mut noise = 1u32;
    for i in 0..SAMPLES {
        let class = (i * 7919) % CLASSES;
        let latent: Vec<f32> = (0..FEATURES)
            .map(|j| {
                noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let wave = (j as f32 * 0.05 * (class + 1) as f32).sin();
                0.05 * wave + (noise as f32 / u32::MAX as f32 - 0.5)
            })
            .collect();
        writer.append(&[
            (
                "latent",
                TensorView::new(DType::F32, &[FEATURES], &to_le_bytes(&latent))?,
            ),
            (
                "label",
                TensorView::new(DType::I64, &[], &i64::try_from(class)?.to_le_bytes())?,
            ),
        ])?;
    }
    let summary = writer.finish()?;
    println!(
        "{} samples in {} bytes, ratio {:.2}",
        summary.num_samples,
        summary.stored_bytes,
        summary.fields[0].ratio()
    );
    Ok(())
}
