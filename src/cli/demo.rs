//! `demo`: the whole way on a small dataset that is made up on the spot.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use tensorshard::import::{ImportOptions, emit_header};
use tensorshard::{Dataset, Loader, Preset, ShardWriter, Shuffle};

use super::bench;
use super::convert;
use super::failure::Failure;
use super::inputs::{self, TextField};
use super::output;
use super::size;
use super::table;

const NUM_SAMPLES: usize = 2000;
const BATCH_SIZE: usize = 64;
const LATENT: [usize; 3] = [4, 32, 32];
const IMAGE: [usize; 3] = [3, 64, 64];
const SUBJECTS: [&str; 10] = [
    "a harbour",
    "a meadow",
    "a street",
    "a forest",
    "a kitchen",
    "a bridge",
    "a market",
    "a mountain",
    "a river",
    "a library",
];
const TIMES: [&str; 5] = ["at dawn", "at noon", "in the rain", "at night", "in autumn"];

/// Makes a small dataset (latents, images, labels, captions), converts it, verifies it, iterates over it, and prints
/// what happened.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Keep the files in this new folder; without it they are removed at the end.
    #[arg(long, value_name = "FOLDER")]
    keep: Option<PathBuf>,
}

/// The folder of the demo, removed at the end unless it is kept.
struct Workplace {
    path: PathBuf,
    keep: bool,
}

impl Workplace {
    fn create(keep: Option<&Path>) -> Result<Self, Failure> {
        let path = match keep {
            Some(path) => path.to_owned(),
            None => {
                let name = format!("tensorshard-demo-{}", std::process::id());
                std::env::temp_dir().join(name)
            }
        };
        fs::create_dir(&path).map_err(|e| match e.kind() {
            io::ErrorKind::AlreadyExists => Failure::usage(format!(
                "{} is there already; name a folder that is not there yet, or remove it",
                path.display()
            )),
            _ => Failure::io("create folder", &path, e),
        })?;
        Ok(Self {
            path,
            keep: keep.is_some(),
        })
    }
}

impl Drop for Workplace {
    fn drop(&mut self) {
        if !self.keep {
            // It is a temporary folder: the system removes it sooner or later.
            fs::remove_dir_all(&self.path).ok();
        }
    }
}

pub(crate) fn run(args: &Args, quiet: bool) -> Result<(), Failure> {
    let start = Instant::now();
    let workplace = Workplace::create(args.keep.as_deref())?;
    let dataset_path = workplace.path.join("train");

    say(format_args!(
        "1. Make up {} samples as .npy files",
        size::count(NUM_SAMPLES as u64)
    ))?;
    let captions = make_files(&workplace.path)?;

    say(format_args!(
        "\n2. Convert them: int8 for latents, all else lossless, snappy"
    ))?;
    let raw_rate = convert(&workplace.path, &dataset_path, captions, quiet)?;
    say(format_args!("   encoded at {:.0} MB/s", raw_rate / 1e6))?;

    let dataset = Dataset::open(&dataset_path)?;
    let clock = Instant::now();
    let report = dataset.verify(&|_| ());
    if let Some(damage) = report.damage.into_iter().next() {
        return Err(damage.error.into());
    }
    say(format_args!(
        "\n3. Verify: {} and {} intact, every checksum and value checked in {}",
        size::counted(report.intact_chunks, "chunk"),
        size::counted(report.intact_samples, "sample"),
        size::duration(clock.elapsed()),
    ))?;

    let sample = dataset.get(NUM_SAMPLES as u64 / 2)?;
    say(format_args!(
        "\n4. Read one sample: number {}, caption {:?}, latent {:?}",
        sample.id(),
        sample.text("caption")?,
        sample.tensor("latent")?.shape()
    ))?;

    let opened = Instant::now();
    let mut loader = Loader::builder()
        .fields(["latent", "image", "label"])
        .shuffle(Shuffle::windowed())
        .seed(0)
        .open(&dataset_path)?;
    let epochs = 4;
    let speed = bench::iterate(&mut loader, opened, BATCH_SIZE, epochs, true)?;
    let batch_bytes = speed.out_bytes / speed.samples.max(1) * BATCH_SIZE as u64;
    let memcpy = bench::memcpy_bytes_per_second(
        speed.out_bytes,
        usize::try_from(batch_bytes).unwrap_or(usize::MAX),
    );
    say(format_args!(
        "\n5. Iterate {epochs} shuffled epochs in batches of {BATCH_SIZE}: {:.0} samples/s, {:.2} GB/s of decoded values\n   \
         first batch after {:.1} ms; a memcpy of the same bytes on one thread does {:.2} GB/s",
        speed.samples as f64 / speed.seconds,
        speed.out_bytes as f64 / speed.seconds / 1e9,
        speed.first_batch.as_secs_f64() * 1e3,
        memcpy / 1e9,
    ))?;
    if workplace.keep {
        say(format_args!(
            "\nDone in {}. The files are in {}; go on with\n   tensorshard inspect {}",
            size::duration(start.elapsed()),
            workplace.path.display(),
            dataset_path.display()
        ))
    } else {
        say(format_args!(
            "\nDone in {}. With your own arrays:\n   tensorshard convert latents.npy latents --preset int8",
            size::duration(start.elapsed())
        ))
    }
}

/// A line on stdout, at once.
fn say(text: std::fmt::Arguments<'_>) -> Result<(), Failure> {
    let mut out = output::stdout();
    writeln!(out, "{text}")?;
    Ok(out.flush()?)
}

fn convert(folder: &Path, out: &Path, captions: Vec<String>, quiet: bool) -> Result<f64, Failure> {
    let named: Vec<(String, PathBuf)> = ["latent", "image", "label"]
        .iter()
        .map(|&name| (name.to_owned(), folder.join(format!("{name}.npy"))))
        .collect();
    let mut fields = inputs::open(&[], &named, &ImportOptions::default(), quiet)?;
    fields.texts.push(TextField {
        name: "caption".to_owned(),
        is_key: false,
        values: captions,
    });
    // int8 touches float fields only.
    let specs = convert::plain_fields(&fields)
        .into_iter()
        .map(|field| Preset::Int8.apply(field.spec, Default::default()));
    let clock = Instant::now();
    let writer = ShardWriter::builder().fields(specs).create(out)?;
    let summary = convert::write(writer, &mut fields, quiet)?;
    let seconds = clock.elapsed().as_secs_f64();
    let mut stdout = output::stdout();
    for line in table::fields(&summary.fields).lines() {
        writeln!(stdout, "   {line}")?;
    }
    let raw: u64 = summary.fields.iter().map(|field| field.raw_bytes).sum();
    writeln!(
        stdout,
        "   {} to {} (ratio {:.2})",
        size::bytes(raw),
        size::bytes(summary.stored_bytes),
        size::ratio(raw, summary.stored_bytes)
    )?;
    stdout.flush()?;
    Ok(raw as f64 / seconds.max(1e-9))
}

/// Writes the arrays; returns the captions.
fn make_files(folder: &Path) -> Result<Vec<String>, Failure> {
    let mut random = Random(20);
    let labels: Vec<usize> = (0..NUM_SAMPLES)
        .map(|_| random.below(SUBJECTS.len()))
        .collect();
    write_npy(folder, "latent", "<f4", &LATENT, |_, out| {
        for _ in 0..LATENT[0] {
            for x in smooth(&mut random, LATENT[1]) {
                out.extend_from_slice(&x.to_le_bytes());
            }
        }
    })?;
    write_npy(folder, "image", "|u1", &IMAGE, |_, out| {
        draw(&mut random, out);
    })?;
    write_npy(folder, "label", "<i8", &[], |i, out| {
        out.extend_from_slice(&(labels[i] as u64).to_le_bytes());
    })?;
    let caption = |&label: &usize| {
        format!(
            "{} {}, photograph",
            SUBJECTS[label],
            TIMES[random.below(TIMES.len())]
        )
    };
    Ok(labels.iter().map(caption).collect())
}

/// Appends a picture `[3, side, side]` of flat shapes on a background that gets darker downwards.
fn draw(random: &mut Random, out: &mut Vec<u8>) {
    let side = IMAGE[1];
    let start = out.len();
    let colour = |random: &mut Random| [(); 3].map(|()| random.byte());
    let sky = colour(random);
    for channel in sky {
        for y in 0..side {
            let shade = channel.saturating_sub(u8::try_from(y).unwrap_or(u8::MAX));
            out.extend(std::iter::repeat_n(shade, side));
        }
    }
    for _ in 0..6 {
        let (paint, is_disc) = (colour(random), random.below(2) == 0);
        let (x0, y0, radius) = (random.below(side), random.below(side), 4 + random.below(12));
        for y in y0.saturating_sub(radius)..(y0 + radius).min(side) {
            for x in x0.saturating_sub(radius)..(x0 + radius).min(side) {
                let (dx, dy) = (x.abs_diff(x0), y.abs_diff(y0));
                if is_disc && dx * dx + dy * dy > radius * radius {
                    continue;
                }
                for (c, value) in paint.into_iter().enumerate() {
                    out[start + (c * side + y) * side + x] = value;
                }
            }
        }
    }
}

fn write_npy(
    folder: &Path,
    name: &str,
    descr: &str,
    shape: &[usize],
    mut sample: impl FnMut(usize, &mut Vec<u8>),
) -> Result<(), Failure> {
    let path = folder.join(format!("{name}.npy"));
    let file = File::create_new(&path).map_err(|e| Failure::io("create", &path, e))?;
    let mut file = BufWriter::new(file);
    let mut whole = vec![NUM_SAMPLES];
    whole.extend_from_slice(shape);
    let mut bytes = emit_header(descr, &whole);
    let mut total = 0;
    for i in 0..NUM_SAMPLES {
        sample(i, &mut bytes);
        file.write_all(&bytes)
            .map_err(|e| Failure::io("write", &path, e))?;
        total += bytes.len() as u64;
        bytes.clear();
    }
    file.flush().map_err(|e| Failure::io("write", &path, e))?;
    say(format_args!(
        "   {name}.npy  {descr} {whole:?}, {}",
        size::bytes(total)
    ))
}

/// A square plane of noise, blurred so that neighbours resemble each other, with unit variance.
fn smooth(random: &mut Random, side: usize) -> Vec<f32> {
    let mut plane: Vec<f32> = (0..side * side).map(|_| random.uniform()).collect();
    let mut line = vec![0.0; side];
    for _ in 0..2 {
        for i in 0..side {
            blur(&mut plane, &mut line, i * side, 1);
        }
        for i in 0..side {
            blur(&mut plane, &mut line, i, side);
        }
    }
    let n = plane.len() as f32;
    let mean = plane.iter().sum::<f32>() / n;
    let variance = plane.iter().map(|x| (x - mean) * (x - mean)).sum::<f32>() / n;
    let deviation = variance.sqrt().max(1e-6);
    for x in &mut plane {
        *x = (*x - mean) / deviation;
    }
    plane
}

/// A moving average over one line of the plane, which is taken to go round in a circle.
fn blur(plane: &mut [f32], line: &mut [f32], start: usize, step: usize) {
    const RADIUS: usize = 1;
    let side = line.len();
    for (i, x) in line.iter_mut().enumerate() {
        *x = plane[start + i * step];
    }
    let at = |i: usize| line[i % side];
    let mut sum: f32 = (side - RADIUS..=side + RADIUS).map(at).sum();
    for i in 0..side {
        plane[start + i * step] = sum;
        sum += at(i + RADIUS + 1) - at(i + side - RADIUS);
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// In -1..1.
    fn uniform(&mut self) -> f32 {
        let bits = u16::try_from(self.next() >> 48).unwrap_or(0);
        f32::from(bits) / 32768.0 - 1.0
    }

    fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[7]
    }

    fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() % n as u64).unwrap_or(0)
    }
}
