//! Builders and generators shared by the integration tests.
#![expect(
    clippy::cast_possible_truncation,
    reason = "small numbers made for tests"
)]
#![allow(dead_code, reason = "every test binary uses some of these")]

pub(crate) mod forge;

use std::path::Path;

use tensorshard::{
    Batch, DType, Dataset, FieldSpec, Loader, LoaderBuilder, Result, ShardWriter,
    ShardWriterBuilder, TensorView, to_le_bytes,
};

/// Every codec of this build.
pub(crate) const CODECS: &[&str] = &[
    "none",
    "snappy",
    "deflate",
    "gzip",
    "lz4",
    "zstd",
    #[cfg(feature = "lzo")]
    "lzo",
    "huffman",
    "prefix",
];

/// A number from the environment, for longer runs; `usual` otherwise.
pub(crate) fn asked(name: &str, usual: usize) -> usize {
    let value = std::env::var(name).ok();
    value.and_then(|n| n.parse().ok()).unwrap_or(usual)
}

/// A folder in memory if possible, for tests that write very often.
pub(crate) fn scratch() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() {
        tempfile::tempdir_in(memory).unwrap()
    } else {
        tempfile::tempdir().unwrap()
    }
}

/// Threads of this process that run. The system lists a thread for a moment after it was joined: one that is exiting is
/// not counted (PF_EXITING among the flags, the ninth field of proc_pid_stat(5)).
#[cfg(target_os = "linux")]
pub(crate) fn live_threads() -> usize {
    const PF_EXITING: u64 = 4;
    let is_live = |stat: &String| {
        // The name, in parentheses, may hold anything; the third field is the first one after it.
        let (_, fields) = stat.rsplit_once(')').unwrap();
        let flags = fields.split_whitespace().nth(6).unwrap();
        flags.parse::<u64>().unwrap() & PF_EXITING == 0
    };
    std::fs::read_dir("/proc/self/task")
        .unwrap()
        .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("stat")).ok())
        .filter(is_live)
        .count()
}

/// Test data that are the same every time, or others if TENSORSHARD_SEED is given.
pub(crate) fn random(stream: u64) -> Random {
    Random(((asked("TENSORSHARD_SEED", 0) as u64) << 16) + stream)
}

/// SplitMix64: reproducible test data without a dependency.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    /// Roughly normal, mean 0, deviation 1.
    pub(crate) fn normal(&mut self) -> f64 {
        (0..12)
            .map(|_| self.next() as f64 / u64::MAX as f64)
            .sum::<f64>()
            - 6.0
    }
}

/// Bytes of `n` elements of `dtype`: all bit patterns for integers, plain numbers for floats.
pub(crate) fn elements(dtype: DType, n: usize, random: &mut Random) -> Vec<u8> {
    match dtype {
        DType::Bool => (0..n).map(|_| (random.next() & 1) as u8).collect(),
        DType::F16 => to_le_bytes(&(0..n).map(|_| half(random)).collect::<Vec<_>>()),
        DType::BF16 => to_le_bytes(
            &(0..n)
                .map(|_| half::bf16::from_f64(random.normal()))
                .collect::<Vec<_>>(),
        ),
        DType::F32 => to_le_bytes(&(0..n).map(|_| random.normal() as f32).collect::<Vec<_>>()),
        DType::F64 => to_le_bytes(&(0..n).map(|_| random.normal()).collect::<Vec<_>>()),
        other => (0..n * other.size())
            .map(|_| (random.next() >> 13) as u8)
            .collect(),
    }
}

fn half(random: &mut Random) -> half::f16 {
    half::f16::from_f64(random.normal())
}

/// Writes `samples` of (shape, bytes) of one field, one by one.
pub(crate) fn write_one_field(
    builder: ShardWriterBuilder,
    path: &Path,
    field: FieldSpec,
    dtype: DType,
    samples: &[(Vec<usize>, Vec<u8>)],
) -> Result<()> {
    let name = field.name().to_owned();
    let mut writer = builder.field(field).create(path)?;
    for (shape, bytes) in samples {
        writer.append(&[(&name, TensorView::new(dtype, shape, bytes)?)])?;
    }
    writer.finish()?;
    Ok(())
}

/// A dataset of images (u8 [3, 8, 8]), latents (f32 [4, 6] as int8), labels (i64) and captions.
pub(crate) fn small_dataset(
    path: &Path,
    num_samples: usize,
    builder: ShardWriterBuilder,
) -> Result<Dataset> {
    let mut random = Random(42);
    let mut writer: ShardWriter = builder
        .field(FieldSpec::new("image", DType::U8, [3, 8, 8]))
        .field(
            FieldSpec::new("latent", DType::F32, [4, 6]).quantize(tensorshard::QuantSpec::int8()),
        )
        .field(FieldSpec::new("label", DType::I64, []))
        .field(FieldSpec::string("caption"))
        .field(FieldSpec::ragged("tokens", DType::F16, [None, Some(3)]))
        .create(path)?;
    for i in 0..num_samples {
        let image = elements(DType::U8, 192, &mut random);
        let latent = elements(DType::F32, 24, &mut random);
        let caption = format!("sample {i} {}", "x".repeat(i % 7));
        let tokens = random.below(5);
        let values = elements(DType::F16, tokens * 3, &mut random);
        writer.append(&[
            ("image", TensorView::new(DType::U8, &[3, 8, 8], &image)?),
            ("latent", TensorView::new(DType::F32, &[4, 6], &latent)?),
            (
                "label",
                TensorView::new(DType::I64, &[], &(i as i64).to_le_bytes())?,
            ),
            (
                "caption",
                TensorView::new(DType::U8, &[caption.len()], caption.as_bytes())?,
            ),
            (
                "tokens",
                TensorView::new(DType::F16, &[tokens, 3], &values)?,
            ),
        ])?;
    }
    writer.finish()?;
    Dataset::open(path)
}

/// All batches of an epoch.
pub(crate) fn collect(
    builder: LoaderBuilder,
    path: &Path,
    batch_size: usize,
) -> Result<Vec<Batch>> {
    let loader: Loader = builder.open(path)?;
    loader.batches(batch_size).collect()
}
