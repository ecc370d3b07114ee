//! `convert`: NumPy files to a dataset.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::{Value, json};
use tensorshard::import::{ImportOptions, Samples};
use tensorshard::{
    DType, Dataset, FieldSpec, QuantSpec, ShardWriter, ShardWriterBuilder, TensorView, WriteSummary,
};

use super::encodings::{EncodingArgs, Encodings, PlainField};
use super::failure::Failure;
use super::inputs::{self, Fields};
use super::interrupt;
use super::output;
use super::progress::{Progress, Unit};
use super::{plan, size, table};

/// Source bytes that are read at a time.
const BLOCK_BYTES: u64 = 4 << 20;
/// Samples that are read at a time, however small they are.
const BLOCK_SAMPLES: u64 = 1 << 16;

/// NumPy files to a dataset. Lossless unless a preset or a quantizer is asked for.
///
/// IN is one .npy (its first axis are the samples), one .npz (each array a field), a folder of .npy files of one
/// sample each, or several such files or quoted patterns (one sample each, too). Aligned arrays are fields: name them
/// with --field.
///
///   tensorshard convert latents.npy latents --preset int8
///   tensorshard convert --field image=x.npy --field label=y.npy train
///   tensorshard convert 'mels/*.npy' mels --codec zstd:3
///   tensorshard convert fields.npy fields --max-error 1e-3 --goal small
#[derive(Debug, clap::Args)]
#[command(
    verbatim_doc_comment,
    override_usage = "tensorshard convert [OPTIONS] [IN]... OUT"
)]
pub(crate) struct Args {
    /// IN... OUT: inputs, and last the folder of the dataset.
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// One .npy file as the field NAME; repeat it for aligned arrays.
    #[arg(long = "field", value_name = "NAME=PATH", value_parser = inputs::parse_named)]
    fields: Vec<(String, PathBuf)>,
    /// What arrays without a NumPy dtype (|V1, <V2, as ml_dtypes saves them) hold: bf16, f8e4m3fn or f8e5m2.
    #[arg(long, value_name = "DTYPE", value_parser = parse_void)]
    dtype_of_void: Option<DType>,
    /// Start a new shard after this many bytes.
    #[arg(long, value_name = "BYTES", default_value = "256MiB", value_parser = size::parse, help_heading = "Output")]
    max_shard_size: u64,
    /// Bytes of a chunk before encoding, over all fields.
    #[arg(long, value_name = "BYTES", default_value = "1MiB", value_parser = size::parse, help_heading = "Output")]
    chunk_size: u64,
    /// Replace the dataset that is there; it stays readable until the new one is complete.
    #[arg(long, conflicts_with = "append", help_heading = "Output")]
    overwrite: bool,
    /// Append to the dataset that is there, in its encodings.
    #[arg(long, help_heading = "Output")]
    append: bool,
    /// An entry of the user's metadata; may be repeated.
    #[arg(long, value_name = "KEY=JSON", value_parser = parse_metadata, help_heading = "Output")]
    metadata: Vec<(String, Value)>,
    /// Derive shard ids from a seed, so that the same input gives the same files. To replace a dataset, another seed than
    /// it has: its shards stay until the new ones are complete.
    #[arg(long, value_name = "SEED", help_heading = "Output")]
    shard_ids_from: Option<u64>,
    /// Threads that encode; 0 for one a core.
    #[arg(long, value_name = "N", default_value_t = 0)]
    workers: usize,
    /// The summary as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    encodings: EncodingArgs,
}

pub(crate) fn parse_void(text: &str) -> Result<DType, String> {
    match DType::from_name(text) {
        Some(dtype @ (DType::BF16 | DType::F8E4M3FN | DType::F8E5M2)) => Ok(dtype),
        _ => Err("it is bf16, f8e4m3fn or f8e5m2".to_owned()),
    }
}

fn parse_metadata(text: &str) -> Result<(String, Value), String> {
    let (key, value) = text
        .split_once('=')
        .filter(|(key, _)| !key.is_empty())
        .ok_or_else(|| "write KEY=JSON".to_owned())?;
    match serde_json::from_str(value) {
        Ok(value) => Ok((key.to_owned(), value)),
        Err(e) => Err(format!(
            "the value is not JSON ({e}); text needs quotes: {key}='\"text\"'"
        )),
    }
}

pub(crate) fn run(args: Args, quiet: bool) -> Result<(), Failure> {
    let start = Instant::now();
    let encodings = args.encodings.parse()?;
    interrupt::catch();
    let Some((out, ins)) = args.paths.split_last() else {
        return Err(Failure::usage("name an input and the folder to write"));
    };
    if out.is_file() {
        return Err(Failure::usage(format!(
            "the last argument is the folder to write, but {} is a file",
            out.display()
        )));
    }
    let options = ImportOptions {
        void_as: args.dtype_of_void,
    };
    let mut fields = inputs::open(ins, &args.fields, &options, quiet)?;
    let previous = if args.append {
        let dataset = Dataset::open(out)?;
        adopt_names(&mut fields, &dataset);
        check_fields(&fields, &dataset)?;
        Some(dataset)
    } else {
        None
    };

    let mut builder = ShardWriter::builder()
        .max_shard_len(args.max_shard_size)
        .chunk_bytes(args.chunk_size)
        .num_workers(args.workers)
        .overwrite(args.overwrite);
    if let Some(seed) = args.shard_ids_from {
        builder = builder.shard_ids_from(seed);
    }
    for (key, value) in args.metadata {
        builder = builder.metadata(key, value);
    }
    let writer = match &previous {
        // In the encodings of the dataset: a plan was made when it was created.
        Some(_) if args.encodings.is_empty() || encodings.is_only_planned() => {
            builder.append_to(out)?
        }
        Some(_) if encodings.is_planned() => {
            return Err(Failure::usage(
                "appending keeps the encodings of the dataset; leave --preset auto, --max-error and --target-bits out, \
                 or all other options of encodings",
            ));
        }
        Some(dataset) => {
            let specs = encodings.apply(plain_fields(&fields))?;
            builder
                .fields(as_in_dataset(specs, dataset)?)
                .append_to(out)?
        }
        None => {
            let mut specs = encodings.apply(plain_fields(&fields))?;
            refuse_existing(&builder, args.overwrite, out)?;
            plan(&encodings, &mut specs, &mut fields, quiet)?;
            calibrate(&mut specs, &mut fields, quiet)?;
            builder.fields(specs).create(out)?
        }
    };
    let summary = write(writer, &mut fields, quiet)?;
    report(&summary, start, args.json)
}

/// A dataset that is there is noticed before a first pass over the data, not after it.
fn refuse_existing(
    builder: &ShardWriterBuilder,
    overwrite: bool,
    out: &Path,
) -> Result<(), Failure> {
    if !overwrite && Dataset::open(out).is_ok() {
        // The library's own message.
        builder.clone().create(out)?;
    }
    Ok(())
}

/// Fields with their default encoding.
pub(crate) fn plain_fields(fields: &Fields) -> Vec<PlainField> {
    let texts = fields.texts.iter().map(|text| PlainField {
        spec: if text.is_key {
            FieldSpec::key(&text.name)
        } else {
            FieldSpec::string(&text.name)
        },
        is_text: true,
        is_scalar: false,
    });
    let arrays = fields.arrays.iter().map(|field| {
        let (dtype, dims) = (field.source.dtype(), field.source.shape());
        let fixed: Option<Vec<usize>> = dims.iter().copied().collect();
        PlainField {
            spec: match &fixed {
                Some(shape) => FieldSpec::new(&field.name, dtype, shape),
                None => FieldSpec::ragged(&field.name, dtype, dims),
            },
            is_text: false,
            is_scalar: dims.is_empty(),
        }
    });
    texts.chain(arrays).collect()
}

/// A lone array that is named after its file takes the name of the dataset's only tensor field.
fn adopt_names(fields: &mut Fields, dataset: &Dataset) {
    let mut tensors = dataset.schema().fields().iter().filter(|f| !f.is_key());
    if let (true, Some(field), None) = (fields.named_after_file, tensors.next(), tensors.next())
        && let [array] = fields.arrays.as_mut_slice()
    {
        field.name().clone_into(&mut array.name);
    }
}

/// The same fields as those of the dataset, by name.
fn check_fields(fields: &Fields, dataset: &Dataset) -> Result<(), Failure> {
    let mut ours: Vec<&str> = fields
        .arrays
        .iter()
        .map(|field| field.name.as_str())
        .chain(fields.texts.iter().map(|text| text.name.as_str()))
        .collect();
    let mut theirs: Vec<&str> = dataset.schema().fields().iter().map(|f| f.name()).collect();
    ours.sort_unstable();
    theirs.sort_unstable();
    if ours == theirs {
        return Ok(());
    }
    Err(Failure::usage(format!(
        "the input has the fields {}, but the dataset {} has {}; name arrays with --field NAME=PATH",
        ours.join(", "),
        dataset.path().display(),
        theirs.join(", ")
    )))
}

/// In the order of the dataset, and with its static scales: what is appended must be stored as what is there.
fn as_in_dataset(specs: Vec<FieldSpec>, dataset: &Dataset) -> Result<Vec<FieldSpec>, Failure> {
    let mut out = Vec::with_capacity(specs.len());
    for field in dataset.schema().fields() {
        if let Some(spec) = specs.iter().find(|spec| spec.name() == field.name()) {
            let spec = spec.clone();
            let scales = field.scales();
            out.push(if !spec.needs_calibration() {
                spec
            } else if scales.scales.is_empty() {
                // What was found about the data then.
                spec.quantize(QuantSpec::from(field.quantizer().clone()))
            } else {
                spec.scales(scales.clone())
            });
        }
    }
    Ok(out)
}

/// Chooses encodings by measuring them, where that is asked for.
fn plan(
    encodings: &Encodings,
    specs: &mut [FieldSpec],
    fields: &mut Fields,
    quiet: bool,
) -> Result<(), Failure> {
    for field in &mut fields.arrays {
        let spec = specs.iter_mut().find(|spec| spec.name() == field.name);
        let (Some(spec), Some(planner)) = (spec, encodings.planner(&field.name)) else {
            continue;
        };
        if field.source.raw_bytes() > 0 {
            *spec = plan::plan(&planner, spec, field.source.as_mut(), quiet)?.field();
        }
        interrupt::check()?;
    }
    Ok(())
}

/// A first pass over the fields that need static scales.
pub(crate) fn calibrate(
    specs: &mut [FieldSpec],
    fields: &mut Fields,
    quiet: bool,
) -> Result<(), Failure> {
    let needed: Vec<bool> = specs.iter().map(FieldSpec::needs_calibration).collect();
    let is_needed = |name: &str| {
        specs
            .iter()
            .zip(&needed)
            .any(|(spec, needed)| *needed && spec.name() == name)
    };
    let total = fields
        .arrays
        .iter()
        .filter(|field| is_needed(&field.name))
        .map(|field| field.source.raw_bytes())
        .sum();
    let progress = Progress::new("calibrate", Unit::Bytes, total, quiet);
    let mut done = 0;
    let mut samples = Samples::default();
    for field in &mut fields.arrays {
        let Some(spec) = specs
            .iter_mut()
            .zip(&needed)
            .find_map(|(spec, needed)| (*needed && spec.name() == field.name).then_some(spec))
        else {
            continue;
        };
        let num_samples = field.source.num_samples();
        let mut calibrator = spec.calibrator()?;
        let step = block_samples(field.source.raw_bytes(), num_samples);
        let mut first = 0;
        while first < num_samples {
            let count = step.min(num_samples - first);
            field.source.read(first, to_usize(count), &mut samples)?;
            calibrator.observe(&samples.data)?;
            done += samples.data.len() as u64;
            first += count;
            progress.update(done, None);
            interrupt::check()?;
        }
        *spec = spec.clone().quantize(calibrator.finish());
    }
    Ok(())
}

/// Samples of a block.
fn block_samples(raw_bytes: u64, num_samples: u64) -> u64 {
    let sample_bytes = raw_bytes.div_ceil(num_samples.max(1)).max(1);
    (BLOCK_BYTES / sample_bytes).clamp(1, BLOCK_SAMPLES)
}

/// A number of samples of a block.
fn to_usize(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

/// Writes all samples and commits the dataset.
pub(crate) fn write(
    mut writer: ShardWriter,
    fields: &mut Fields,
    quiet: bool,
) -> Result<WriteSummary, Failure> {
    let total = fields.arrays.iter().map(|f| f.source.raw_bytes()).sum();
    let step = block_samples(total, fields.num_samples);
    let progress = Progress::new("convert", Unit::Bytes, total, quiet);
    let mut blocks: Vec<Samples> = fields.arrays.iter().map(|_| Samples::default()).collect();
    let mut done = 0u64;
    let mut first = 0;
    while first < fields.num_samples {
        let count = step.min(fields.num_samples - first);
        for (field, block) in fields.arrays.iter_mut().zip(&mut blocks) {
            field.source.read(first, to_usize(count), block)?;
            done += block.data.len() as u64;
        }
        let fixed = fields.texts.is_empty() && blocks.iter().all(|b| b.shapes.is_empty());
        if fixed {
            extend(&mut writer, fields, &blocks, to_usize(count))?;
        } else {
            append(
                &mut writer,
                fields,
                &blocks,
                to_usize(first),
                to_usize(count),
            )?;
        }
        first += count;
        interrupt::check()?;
        let so_far = writer.progress();
        progress.update(
            done,
            (so_far.stored_bytes > 0).then(|| size::ratio(so_far.raw_bytes, so_far.stored_bytes)),
        );
    }
    let summary = writer.finish()?;
    progress.finish();
    Ok(summary)
}

/// Hands over a block of arrays of fixed shape.
fn extend(
    writer: &mut ShardWriter,
    fields: &Fields,
    blocks: &[Samples],
    count: usize,
) -> Result<(), Failure> {
    let shapes: Vec<Vec<usize>> = fields
        .arrays
        .iter()
        .map(|field| {
            let dims = field.source.shape().iter().copied().flatten();
            std::iter::once(count).chain(dims).collect()
        })
        .collect();
    let mut arrays = Vec::with_capacity(blocks.len());
    for ((field, block), shape) in fields.arrays.iter().zip(blocks).zip(&shapes) {
        let view = TensorView::new(field.source.dtype(), shape, &block.data)?;
        arrays.push((field.name.as_str(), view));
    }
    Ok(writer.extend(&arrays)?)
}

/// Hands over a block sample by sample: texts, and shapes that differ.
fn append(
    writer: &mut ShardWriter,
    fields: &Fields,
    blocks: &[Samples],
    first: usize,
    count: usize,
) -> Result<(), Failure> {
    let fixed: Vec<Vec<usize>> = fields
        .arrays
        .iter()
        .map(|field| field.source.shape().iter().copied().flatten().collect())
        .collect();
    let mut at = vec![0usize; blocks.len()];
    for i in 0..count {
        let texts: Vec<&[u8]> = fields
            .texts
            .iter()
            .map(|text| text.values.get(first + i).map_or(&[][..], String::as_bytes))
            .collect();
        let lens: Vec<[usize; 1]> = texts.iter().map(|text| [text.len()]).collect();
        let mut sample = Vec::with_capacity(texts.len() + blocks.len());
        for ((field, text), len) in fields.texts.iter().zip(&texts).zip(&lens) {
            sample.push((field.name.as_str(), TensorView::new(DType::U8, len, text)?));
        }
        for (n, (field, block)) in fields.arrays.iter().zip(blocks).enumerate() {
            let shape = block.shapes.get(i).unwrap_or(&fixed[n]);
            let elements: usize = shape.iter().product();
            let end = at[n] + elements * field.source.dtype().size();
            let data = block.data.get(at[n]..end).unwrap_or_default();
            at[n] = end;
            let view = TensorView::new(field.source.dtype(), shape, data)?;
            sample.push((field.name.as_str(), view));
        }
        writer.append(&sample)?;
    }
    Ok(())
}

fn report(summary: &WriteSummary, start: Instant, json: bool) -> Result<(), Failure> {
    let raw: u64 = summary.fields.iter().map(|field| field.raw_bytes).sum();
    let seconds = start.elapsed().as_secs_f64();
    let ratio = size::ratio(raw, summary.stored_bytes);
    let mut out = output::stdout();
    if json {
        let fields: Vec<Value> = summary.fields.iter().map(table::field_json).collect();
        let value = json!({
            "path": summary.path.to_string_lossy(),
            "num_samples": summary.num_samples,
            "num_shards": summary.num_shards,
            "raw_bytes": raw,
            "stored_bytes": summary.stored_bytes,
            "ratio": ratio,
            "seconds": seconds,
            "fields": fields,
        });
        writeln!(out, "{value}")?;
        return Ok(out.flush()?);
    }
    out.write_all(table::fields(&summary.fields).as_bytes())?;
    writeln!(
        out,
        "{}: {} in {}, {} to {} (ratio {ratio:.2}), {} ({:.0} MB/s)",
        summary.path.display(),
        size::counted(summary.num_samples, "sample"),
        size::counted(summary.num_shards, "shard"),
        size::bytes(raw),
        size::bytes(summary.stored_bytes),
        size::duration(start.elapsed()),
        raw as f64 / 1e6 / seconds.max(1e-9),
    )?;
    Ok(out.flush()?)
}
