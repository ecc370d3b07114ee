//! `export`: a dataset back to NumPy files.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, BufWriter, Seek, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde_json::json;
use tensorshard::import::{emit_header, npy_descr};
use tensorshard::{Batch, DType, Dataset, Field, FieldOutput, Kind, Loader, Sample, TensorView};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use super::damaged::{self, Kept};
use super::failure::Failure;
use super::interrupt;
use super::output;
use super::progress::{Progress, Unit};
use super::range::{self, SampleRange};
use super::size;

/// Bytes of values that are decoded at a time.
const BLOCK_BYTES: usize = 4 << 20;
/// Samples of a block whose values differ in size.
const BLOCK_SAMPLES: usize = 64;
const MAX_BLOCK_SAMPLES: usize = 1 << 16;
/// Longest key that becomes a file name, in bytes.
const MAX_NAME: usize = 200;

/// Writes samples back to NumPy files.
///
/// OUT.npy takes one field of fixed shape; OUT.npz every field of fixed shape as a member; a folder takes a file for
/// each sample, named after its key or its number: .npy, .txt for text, .bin for bytes, in a folder for each field if
/// there are several.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A dataset's folder, or one shard.
    dataset: PathBuf,
    /// The file or folder to write.
    #[arg(value_name = "OUT.npy|OUT.npz|FOLDER")]
    out: PathBuf,
    /// Only these fields, with commas between them.
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    fields: Vec<String>,
    /// Samples from A to before B; all if left out.
    #[arg(long, value_name = "A..B")]
    range: Option<SampleRange>,
    /// The dtype of float fields: f32, f16 or f64.
    #[arg(long, value_parser = parse_dtype)]
    dtype: Option<DType>,
    /// What to do about damaged chunks: `error` fails, `skip` leaves their samples out, lists them, and ends with exit
    /// code 1.
    #[arg(long, value_enum, default_value_t = damaged::Choice::Error, value_name = "WHAT")]
    damaged: damaged::Choice,
    /// Replace a file that is there.
    #[arg(long)]
    overwrite: bool,
    /// The summary as JSON.
    #[arg(long)]
    json: bool,
}

fn parse_dtype(text: &str) -> Result<DType, String> {
    match DType::from_name(text) {
        Some(dtype @ (DType::F32 | DType::F16 | DType::F64)) => Ok(dtype),
        _ => Err("it is f32, f16 or f64".to_owned()),
    }
}

/// What to write.
struct Job {
    /// The fields to write are selected.
    dataset: Dataset,
    range: Range<u64>,
    /// What is written of the range.
    kept: Kept,
    dtype: Option<DType>,
    quiet: bool,
}

pub(crate) fn run(args: &Args, quiet: bool) -> Result<(), Failure> {
    interrupt::catch();
    let dataset = Dataset::open(&args.dataset)?;
    let range = range::resolve(args.range, dataset.len())?;
    let extension = args
        .out
        .extension()
        .map(|e| e.to_string_lossy().to_ascii_lowercase());
    let target = match extension.as_deref() {
        Some("npy") => Target::Npy,
        Some("npz") => Target::Npz,
        _ => Target::Folder,
    };
    let dataset = choose_fields(&dataset, &args.fields, target)?;
    if args.dtype.is_some() && !dataset.fields().any(is_float) {
        return Err(Failure::usage(
            "--dtype is for float fields, and none is exported",
        ));
    }
    check_target(&args.out, target, args.overwrite)?;
    // What is damaged of one field is left out of all, and of the names.
    let fields = dataset.fields().map(Field::name);
    let key = dataset.schema().key_field().map(Field::name);
    let read = dataset.select(fields.chain(key.filter(|_| target == Target::Folder)))?;
    let kept = Kept::find(&read, &range, args.damaged)?;
    let job = Job {
        dataset,
        range,
        kept,
        dtype: args.dtype,
        quiet,
    };
    let bytes = match target {
        Target::Npy => job.to_npy(&args.out)?,
        Target::Npz => job.to_npz(&args.out)?,
        Target::Folder => job.to_folder(&args.out)?,
    };
    let names: Vec<&str> = job.dataset.fields().map(Field::name).collect();
    let num_samples = job.num_samples();
    let mut out = output::stdout();
    if args.json {
        let mut value = json!({
            "path": args.out.to_string_lossy(),
            "num_samples": num_samples,
            "fields": names,
            "bytes": bytes,
        });
        if let Some(skipped) = job.kept.as_json() {
            value["skipped"] = skipped;
        }
        writeln!(out, "{value}")?;
    } else {
        writeln!(
            out,
            "{}: {} of {}, {}",
            args.out.display(),
            size::counted(num_samples, "sample"),
            names.join(", "),
            size::bytes(bytes)
        )?;
    }
    out.flush()?;
    job.kept.finish()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    Npy,
    Npz,
    Folder,
}

fn is_float(field: &Field) -> bool {
    field.dtype().is_some_and(DType::is_float)
}

/// The fields that were asked for, or those that the target can take.
fn choose_fields(dataset: &Dataset, asked: &[String], target: Target) -> Result<Dataset, Failure> {
    let chosen = if asked.is_empty() {
        let (keys, values): (Vec<&Field>, Vec<&Field>) =
            dataset.schema().fields().iter().partition(|f| f.is_key());
        let fields = if values.is_empty() { keys } else { values };
        let (fit, rest): (Vec<&Field>, Vec<&Field>) = fields
            .into_iter()
            .partition(|field| target != Target::Npz || field.fixed_shape().is_some());
        if fit.is_empty() {
            return Err(no_fixed_shape(&rest));
        }
        if !rest.is_empty() {
            let names: Vec<&str> = rest.iter().map(|field| field.name()).collect();
            // Not a failure; a folder takes everything.
            writeln!(
                io::stderr(),
                "note: left out {}, whose shape varies; export to a folder to get everything",
                names.join(", ")
            )
            .ok();
        }
        dataset.select(fit.iter().map(|field| field.name()))?
    } else {
        dataset.select(asked)?
    };
    if target == Target::Folder {
        return Ok(chosen);
    }
    let fields: Vec<&Field> = chosen.fields().collect();
    if target == Target::Npy && fields.len() != 1 {
        let names: Vec<&str> = fields.iter().map(|field| field.name()).collect();
        return Err(Failure::usage(format!(
            "an .npy file takes one field; choose one of {} with --fields, or write an .npz",
            names.join(", ")
        )));
    }
    let ragged: Vec<&Field> = fields
        .into_iter()
        .filter(|f| f.fixed_shape().is_none())
        .collect();
    if ragged.is_empty() {
        Ok(chosen)
    } else {
        Err(no_fixed_shape(&ragged))
    }
}

fn no_fixed_shape(fields: &[&Field]) -> Failure {
    let names: Vec<String> = fields
        .iter()
        .map(|field| format!("{} ({field})", field.name()))
        .collect();
    Failure::usage(format!(
        "one array needs samples of one shape, which {} has not; export to a folder",
        names.join(", ")
    ))
}

fn check_target(out: &Path, target: Target, overwrite: bool) -> Result<(), Failure> {
    if !out.exists() {
        return Ok(());
    }
    let problem = match (target, out.is_dir()) {
        (Target::Folder, true) => {
            let mut entries = fs::read_dir(out).map_err(|e| Failure::io("list", out, e))?;
            if entries.next().is_none() {
                return Ok(());
            }
            "is there and not empty; choose another folder"
        }
        (Target::Folder, false) => {
            "is a file; name a folder, or a file that ends with .npy or .npz"
        }
        (_, true) => "is a folder; name a file",
        (_, false) if overwrite => return Ok(()),
        (_, false) => "is there already; ask to --overwrite it",
    };
    Err(Failure::usage(format!("{} {problem}", out.display())))
}

/// A file or folder that is removed again unless it is published.
struct Unfinished {
    path: PathBuf,
    published: bool,
}

impl Unfinished {
    /// A place beside `out`.
    fn beside(out: &Path) -> Self {
        let mut name = out.file_name().unwrap_or_default().to_owned();
        name.push(format!(".tmp-{}", std::process::id()));
        Self {
            path: out.with_file_name(name),
            published: false,
        }
    }

    fn create_file(&self) -> Result<File, Failure> {
        File::create_new(&self.path).map_err(|e| Failure::io("create", &self.path, e))
    }

    /// Gives it its final name.
    fn publish(mut self, out: &Path) -> Result<(), Failure> {
        fs::rename(&self.path, out).map_err(|e| Failure::io("rename to", out, e))?;
        self.published = true;
        Ok(())
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if self.published {
            return;
        }
        // What cannot be removed has a temporary name at least.
        if self.path.is_dir() {
            fs::remove_dir_all(&self.path).ok();
        } else {
            fs::remove_file(&self.path).ok();
        }
    }
}

impl Job {
    fn num_samples(&self) -> u64 {
        self.kept.num_samples()
    }

    fn to_npy(&self, out: &Path) -> Result<u64, Failure> {
        let unfinished = Unfinished::beside(out);
        let failed = |e| Failure::io("write", out, e);
        let mut file = BufWriter::new(unfinished.create_file()?);
        let progress = Progress::new("export", Unit::Samples, self.num_samples(), self.quiet);
        if let Some(field) = self.dataset.fields().next() {
            self.write_array(field, &self.dataset, &mut file, out, &progress, 0)?;
        }
        let mut file = file.into_inner().map_err(|e| failed(e.into_error()))?;
        let bytes = file.stream_position().map_err(failed)?;
        file.sync_all().map_err(failed)?;
        drop(file);
        unfinished.publish(out)?;
        Ok(bytes)
    }

    fn to_npz(&self, out: &Path) -> Result<u64, Failure> {
        let unfinished = Unfinished::beside(out);
        let failed = |e| Failure::io("write", out, e);
        let mut zip = ZipWriter::new(BufWriter::new(unfinished.create_file()?));
        let num_fields = self.dataset.fields().count() as u64;
        let total = self.num_samples().saturating_mul(num_fields);
        let progress = Progress::new("export", Unit::Samples, total, self.quiet);
        for (i, field) in self.dataset.fields().enumerate() {
            let options = SimpleFileOptions::default()
                .compression_method(CompressionMethod::Stored)
                .large_file(true);
            // Whoever unpacks the archive writes files of these names.
            let name = match field.name().split('/').all(is_file_name) {
                true => format!("{}.npy", field.name()),
                false => format!("field-{i}.npy"),
            };
            zip.start_file(name, options)
                .map_err(|e| failed(e.into()))?;
            let one = self.dataset.select([field.name()])?;
            let done = i as u64 * self.num_samples();
            self.write_array(field, &one, &mut zip, out, &progress, done)?;
        }
        let file = zip.finish().map_err(|e| failed(e.into()))?;
        let mut file = file.into_inner().map_err(|e| failed(e.into_error()))?;
        let bytes = file.stream_position().map_err(failed)?;
        file.sync_all().map_err(failed)?;
        drop(file);
        unfinished.publish(out)?;
        Ok(bytes)
    }

    /// Writes header and values of the one field of `dataset`.
    fn write_array(
        &self,
        field: &Field,
        dataset: &Dataset,
        file: &mut impl Write,
        out: &Path,
        progress: &Progress,
        done: u64,
    ) -> Result<(), Failure> {
        let failed = |e| Failure::io("write", out, e);
        let dtype = self
            .dtype
            .filter(|_| is_float(field))
            .or(field.dtype())
            .unwrap_or(DType::U8);
        let mut shape = vec![usize::try_from(self.num_samples()).unwrap_or(usize::MAX)];
        shape.extend(field.fixed_shape().unwrap_or_default());
        file.write_all(&emit_header(npy_descr(dtype), &shape))
            .map_err(failed)?;
        let mut done = done;
        self.for_each_block(dataset, &mut |block| {
            for i in 0..block.len() {
                file.write_all(block.value(0, i)?.data()).map_err(failed)?;
            }
            done += block.len() as u64;
            progress.update(done, None);
            Ok(())
        })
    }

    fn to_folder(&self, out: &Path) -> Result<u64, Failure> {
        let unfinished = Unfinished::beside(out);
        let root = &unfinished.path;
        fs::create_dir(root).map_err(|e| Failure::io("create folder", root, e))?;
        let fields: Vec<Field> = self.dataset.fields().cloned().collect();
        let mut folders = Vec::new();
        for (i, field) in fields.iter().enumerate() {
            let folder = match (fields.len(), is_file_name(field.name())) {
                (1, _) => root.clone(),
                (_, true) => root.join(field.name()),
                (_, false) => root.join(format!("field-{i}")),
            };
            if fields.len() > 1 {
                fs::create_dir(&folder).map_err(|e| Failure::io("create folder", &folder, e))?;
            }
            folders.push(folder);
        }
        // The key is read for the names, after the fields to write.
        let key = self.dataset.schema().key_field();
        let names = fields.iter().map(Field::name).chain(key.map(Field::name));
        let dataset = self.dataset.select(names)?;
        let progress = Progress::new("export", Unit::Samples, self.num_samples(), self.quiet);
        let mut names = Names::new(self.dataset.len());
        let (mut done, mut bytes) = (0, 0);
        self.for_each_block(&dataset, &mut |block| {
            for i in 0..block.len() {
                let key = match key {
                    Some(_) => Some(block.value(fields.len(), i)?.data()),
                    None => None,
                };
                let name = names.choose(key, block.id(i)?);
                for (n, (field, folder)) in fields.iter().zip(&folders).enumerate() {
                    bytes += write_sample(folder, &name, field, &block.value(n, i)?)?;
                }
            }
            done += block.len() as u64;
            progress.update(done, None);
            Ok(())
        })?;
        unfinished.publish(out)?;
        Ok(bytes)
    }

    /// Reads the samples of the range in order, in blocks.
    fn for_each_block(
        &self,
        dataset: &Dataset,
        body: &mut dyn FnMut(&Block<'_>) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let step = block_samples(dataset);
        let whole = self.range.start == 0 && self.range.end == dataset.len();
        if whole || self.dtype.is_some() {
            return self.for_each_batch(dataset, step, body);
        }
        for block in self.kept.blocks(step) {
            let indices: Vec<u64> = block.collect();
            interrupt::check()?;
            body(&Block::Samples(dataset.get_many(&indices)?))?;
        }
        Ok(())
    }

    /// With the loader: on all cores, and in any dtype.
    fn for_each_batch(
        &self,
        dataset: &Dataset,
        step: usize,
        body: &mut dyn FnMut(&Block<'_>) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        if self.range.is_empty() {
            return Ok(());
        }
        // What is decoded ahead is bounded by the number of batches.
        let mut options = Loader::builder()
            .damaged(self.kept.policy())
            .prefetch(4)
            .memory_budget(u64::MAX);
        for field in dataset.fields().filter(|field| is_float(field)) {
            if let Some(dtype) = self.dtype {
                options = options.output(field.name(), FieldOutput::new().dtype(dtype));
            }
        }
        for batch in options.open_dataset(dataset)?.batches(step) {
            let batch = batch?;
            interrupt::check()?;
            let ids = batch.sample_ids();
            let mut from = 0;
            for run in ids.chunk_by(|&a, &b| self.kept.contains(a) == self.kept.contains(b)) {
                let rows = from..from + run.len();
                from = rows.end;
                if run.first().is_some_and(|&id| self.kept.contains(id)) {
                    body(&Block::Batch(&batch, rows))?;
                }
            }
            if ids.last().is_some_and(|&id| id + 1 >= self.range.end) {
                break;
            }
        }
        Ok(())
    }
}

/// Consecutive samples.
enum Block<'b> {
    /// Some samples of a batch.
    Batch(&'b Batch, Range<usize>),
    Samples(Vec<Sample>),
}

impl Block<'_> {
    /// The index of a sample in the dataset.
    fn id(&self, i: usize) -> Result<u64, Failure> {
        let id = match self {
            Self::Batch(batch, range) => batch.sample_ids().get(range.start + i).copied(),
            Self::Samples(samples) => samples.get(i).map(Sample::id),
        };
        id.ok_or_else(lacks_a_value)
    }

    fn len(&self) -> usize {
        match self {
            Self::Batch(_, range) => range.len(),
            Self::Samples(samples) => samples.len(),
        }
    }

    fn value(&self, field: usize, i: usize) -> Result<TensorView<'_>, Failure> {
        let value = match self {
            Self::Batch(batch, range) => batch
                .fields()
                .get(field)
                .map(|field| field.sample(range.start + i))
                .transpose()?,
            Self::Samples(samples) => samples
                .get(i)
                .and_then(|sample| sample.fields().nth(field))
                .map(|(_, tensor)| tensor.view()),
        };
        value.ok_or_else(lacks_a_value)
    }
}

fn lacks_a_value() -> Failure {
    Failure::Bug("a block lacks a value".to_owned())
}

fn block_samples(dataset: &Dataset) -> usize {
    let bytes = |field: &Field| {
        let elements: usize = field.fixed_shape()?.iter().product();
        Some(elements.saturating_mul(field.dtype()?.size()))
    };
    match dataset.fields().map(bytes).sum::<Option<usize>>() {
        Some(bytes) => (BLOCK_BYTES / bytes.max(1)).clamp(1, MAX_BLOCK_SAMPLES),
        None => BLOCK_SAMPLES,
    }
}

/// Writes one file; returns its length.
fn write_sample(
    folder: &Path,
    name: &str,
    field: &Field,
    value: &TensorView<'_>,
) -> Result<u64, Failure> {
    let (extension, header) = match field.kind() {
        Kind::String => ("txt", Vec::new()),
        Kind::Bytes => ("bin", Vec::new()),
        _ => ("npy", emit_header(npy_descr(value.dtype()), value.shape())),
    };
    let path = folder.join(format!("{name}.{extension}"));
    let mut file = File::create_new(&path).map_err(|e| Failure::io("create", &path, e))?;
    file.write_all(&header)
        .and_then(|()| file.write_all(value.data()))
        .map_err(|e| Failure::io("write", &path, e))?;
    Ok((header.len() + value.data().len()) as u64)
}

/// File names of samples, each used once.
struct Names {
    width: usize,
    /// In lower case: some file systems do not tell cases apart.
    used: HashSet<String>,
}

impl Names {
    fn new(num_samples: u64) -> Self {
        Self {
            width: num_samples.saturating_sub(1).to_string().len(),
            used: HashSet::new(),
        }
    }

    /// The key if it can be a file name that was not used before, else the number.
    fn choose(&mut self, key: Option<&[u8]>, index: u64) -> String {
        let width = self.width;
        let Some(key) = key else {
            return format!("{index:0width$}");
        };
        let key = std::str::from_utf8(key)
            .ok()
            .filter(|key| is_file_name(key));
        let names = key.map(str::to_owned).into_iter();
        let numbers = (0..).map(|n| match n {
            0 => format!("{index:0width$}"),
            n => format!("{index:0width$}-{n}"),
        });
        let mut candidates = names.chain(numbers);
        let free = candidates.find(|name| self.used.insert(name.to_lowercase()));
        free.unwrap_or_default()
    }
}

/// True if `text` is safe as the name of a file, on every system.
fn is_file_name(text: &str) -> bool {
    let reserved = ["con", "prn", "aux", "nul"];
    let stem = text.split('.').next().unwrap_or_default().to_lowercase();
    let port = (stem.starts_with("com") || stem.starts_with("lpt")) && stem.len() == 4;
    !text.is_empty()
        && text.len() <= MAX_NAME
        && !text.starts_with(['.', ' ', '-'])
        && !text.ends_with(['.', ' '])
        && !text.contains(|c: char| c.is_control() || "/\\<>:\"|?*".contains(c))
        && !reserved.contains(&stem.as_str())
        && !port
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_safe_and_used_once() {
        for bad in [
            "", ".", "..", "a/b", "a\\b", ".hidden", "x\n", "nul", "COM1.x", "a.", "a:b",
        ] {
            assert!(!is_file_name(bad), "{bad}");
        }
        assert!(is_file_name("mel-0001.v2"));
        let mut names = Names::new(11);
        assert_eq!(names.choose(None, 3), "03");
        assert_eq!(names.choose(Some(b"cat"), 0), "cat");
        assert_eq!(names.choose(Some(b"CAT"), 1), "01");
        assert_eq!(names.choose(Some(b"02"), 2), "02");
        assert_eq!(names.choose(Some(b"../x"), 2), "02-1");
    }
}
