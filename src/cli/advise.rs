//! `advise`: measures encodings of arrays, and says which to take.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tensorshard::import::{self, ImportOptions, InputField};
use tensorshard::{DType, FieldSpec, Goal, MeasuredEncoding, Plan, Planner};

use super::convert::parse_void;
use super::encodings::parse_number;
use super::failure::Failure;
use super::output;
use super::table::Table;
use super::{plan, plot, size};

/// Measures encodings on a sample of each array, on this machine, and says which to take.
///
/// Every file is looked at on its own: .npy, .npz (each array), or a folder of .npy files of one sample each. Pareto
/// choices (those that no other beats in both size and decode speed) have a *. Without a request, lossless encodings
/// count, and lossy ones are shown for comparison.
///
///   tensorshard advise latents.npy
///   tensorshard advise latents.npy --target-bits 8 --plot latents.svg
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Args {
    /// Files or folders.
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// The largest error (absolute) that an element of a float field may have: encodings that promise it count.
    #[arg(long, value_name = "E", value_parser = positive("max-error"), conflicts_with = "target_bits")]
    max_error: Option<f64>,
    /// Stored bits for a value of a float field: encodings that take no more count, the most exact ones first.
    #[arg(long, value_name = "B", value_parser = positive("target-bits"))]
    target_bits: Option<f64>,
    /// Draws size against decode speed into this file, .svg or .png; with several arrays, into a file for each, named
    /// FILE-FIELD.
    #[arg(long, value_name = "FILE", value_parser = parse_plot)]
    plot: Option<PathBuf>,
    /// What arrays without a NumPy dtype (|V1, <V2, as ml_dtypes saves them) hold: bf16, f8e4m3fn or f8e5m2.
    #[arg(long, value_name = "DTYPE", value_parser = parse_void)]
    dtype_of_void: Option<DType>,
    /// The result as JSON.
    #[arg(long)]
    json: bool,
}

fn positive(option: &'static str) -> impl Fn(&str) -> Result<f64, String> + Clone {
    move |text| parse_number(option, text).map_err(|failure| failure.message().unwrap_or_default())
}

fn parse_plot(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    match plot::Picture::of(&path) {
        Some(_) => Ok(path),
        None => Err("the file ends in .svg or .png".to_owned()),
    }
}

/// One array, measured.
struct Advice {
    path: PathBuf,
    field: FieldSpec,
    description: String,
    num_samples: u64,
    plan: Plan,
}

pub(crate) fn run(args: &Args, quiet: bool) -> Result<(), Failure> {
    let mut planner = Planner::new(Goal::Balanced).all_encodings(true);
    if let Some(bound) = args.max_error {
        planner = planner.max_error(bound);
    }
    if let Some(bits) = args.target_bits {
        planner = planner.target_bits(bits);
    }
    let options = ImportOptions {
        void_as: args.dtype_of_void,
    };
    let mut all = Vec::new();
    for path in &args.paths {
        for field in import::open(path, &options)?.fields {
            let advice = advise(path, field, &planner, quiet)?;
            if !args.json {
                print(&advice, all.is_empty())?;
            }
            all.push(advice);
        }
    }
    if args.json {
        let fields: Vec<Value> = all.iter().map(to_json).collect();
        let mut out = output::stdout();
        writeln!(out, "{}", json!({ "fields": fields }))?;
        out.flush()?;
    }
    if let Some(path) = &args.plot {
        draw(path, &all, args.json)?;
    }
    Ok(())
}

fn advise(
    path: &Path,
    mut input: InputField,
    planner: &Planner,
    quiet: bool,
) -> Result<Advice, Failure> {
    let (dtype, dims) = (input.source.dtype(), input.source.shape().to_vec());
    let field = FieldSpec::ragged(&input.name, dtype, &dims);
    let num_samples = input.source.num_samples();
    if input.source.raw_bytes() == 0 {
        return Err(Failure::usage(format!(
            "{}: array {:?} has no elements, so there is nothing to measure",
            path.display(),
            input.name
        )));
    }
    let sizes: Vec<String> = dims
        .iter()
        .map(|dim| dim.map_or("?".to_owned(), |dim| dim.to_string()))
        .collect();
    Ok(Advice {
        path: path.to_owned(),
        description: format!("{dtype} [{}]", sizes.join(", ")),
        num_samples,
        plan: plan::plan(planner, &field, input.source.as_mut(), quiet)?,
        field,
    })
}

/// Goals that pick this encoding.
pub(crate) fn goals_of(plan: &Plan, encoding: &MeasuredEncoding) -> Vec<&'static str> {
    let options = encoding.options();
    Goal::all()
        .filter(|goal| plan.pick(*goal).options() == options)
        .map(Goal::name)
        .collect()
}

/// Those that meet the request first, the smallest first.
fn sorted(plan: &Plan) -> Vec<&MeasuredEncoding> {
    let mut rows: Vec<&MeasuredEncoding> = plan.encodings().iter().collect();
    rows.sort_by_key(|row| (!row.meets, row.stored_bytes));
    rows
}

fn print(advice: &Advice, first: bool) -> Result<(), Failure> {
    let plan = &advice.plan;
    let memcpy = plan.memcpy_bytes_per_s();
    let mut table = Table::new(&[
        "",
        "encoding",
        ">ratio",
        ">decode GB/s",
        ">x memcpy",
        ">encode GB/s",
        ">max abs error",
        ">SNR dB",
        "picked for",
    ]);
    for row in sorted(plan) {
        let (error, snr) = match &row.error {
            None => ("0".to_owned(), "lossless".to_owned()),
            Some(error) => (
                format!("{:.3e}", error.max_abs_error),
                format!("{:.1}", error.snr_db()),
            ),
        };
        table.row([
            if row.pareto { "*" } else { "" }.to_owned(),
            row.options(),
            format!("{:.3}", row.ratio()),
            format!("{:.2}", row.decode_bytes_per_s / 1e9),
            format!("{:.2}", row.decode_bytes_per_s / memcpy),
            format!("{:.2}", row.encode_bytes_per_s / 1e9),
            error,
            snr,
            goals_of(plan, row).join(", "),
        ]);
    }
    let mut out = output::stdout();
    if !first {
        writeln!(out)?;
    }
    writeln!(
        out,
        "{}: {} {}, {}; measured on {}, one thread, memcpy {:.2} GB/s; request: {}",
        advice.path.display(),
        advice.field.name(),
        advice.description,
        size::counted(advice.num_samples, "sample"),
        size::bytes(plan.sample_bytes()),
        memcpy / 1e9,
        plan.request(),
    )?;
    out.write_all(table.render().as_bytes())?;
    for goal in Goal::all() {
        writeln!(out, "{:<9} {}", goal.name(), plan.pick(goal).options())?;
    }
    Ok(out.flush()?)
}

fn to_json(advice: &Advice) -> Value {
    let plan = &advice.plan;
    let row = |row: &MeasuredEncoding| {
        json!({
            "options": row.options(),
            "encoding": row.encoding,
            "raw_bytes": row.raw_bytes,
            "stored_bytes": row.stored_bytes,
            "ratio": row.ratio(),
            "bits_per_value": row.bits_per_value(),
            "decode_gb_per_s": row.decode_bytes_per_s / 1e9,
            "ratio_to_memcpy": row.decode_bytes_per_s / plan.memcpy_bytes_per_s(),
            "encode_gb_per_s": row.encode_bytes_per_s / 1e9,
            "lossy": row.error.is_some(),
            "max_abs_error": row.max_abs_error(),
            // An infinite SNR has no JSON number: null.
            "snr_db": row.error.map(|error| error.snr_db()),
            "meets_request": row.meets,
            "pareto": row.pareto,
            "picked_for": goals_of(plan, row),
        })
    };
    let picks: serde_json::Map<String, Value> = Goal::all()
        .map(|goal| (goal.name().to_owned(), plan.pick(goal).options().into()))
        .collect();
    json!({
        "path": advice.path.to_string_lossy(),
        "field": advice.field.name(),
        "description": advice.description,
        "num_samples": advice.num_samples,
        "sample_bytes": plan.sample_bytes(),
        "request": plan.request(),
        "memcpy_gb_per_s": plan.memcpy_bytes_per_s() / 1e9,
        "picks": picks,
        "encodings": sorted(plan).into_iter().map(row).collect::<Vec<_>>(),
    })
}

fn draw(path: &Path, all: &[Advice], json: bool) -> Result<(), Failure> {
    let Some(picture) = plot::Picture::of(path) else {
        return Err(Failure::usage("--plot FILE ends in .svg or .png"));
    };
    for (i, advice) in all.iter().enumerate() {
        let name = advice.field.name();
        let twice = all[..i].iter().any(|other| other.field.name() == name);
        let path = match all {
            [_] => path.to_owned(),
            _ if twice => with_suffix(path, &format!("{name}-{i}")),
            _ => with_suffix(path, name),
        };
        let title = format!("{name}: {}, {}", advice.description, advice.plan.request());
        let bytes = picture.draw(&title, &advice.plan)?;
        fs::write(&path, bytes).map_err(|e| Failure::io("write", &path, e))?;
        if !json {
            let mut out = output::stdout();
            writeln!(out, "plot      {}", path.display())?;
        }
    }
    Ok(())
}

/// `a/plot.svg` and `x` to `a/plot-x.svg`.
fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let part =
        |part: Option<&std::ffi::OsStr>| part.unwrap_or_default().to_string_lossy().into_owned();
    let (stem, extension) = (part(path.file_stem()), part(path.extension()));
    path.with_file_name(format!("{stem}-{suffix}.{extension}"))
}
