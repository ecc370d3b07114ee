//! `cat`: samples as text.

use std::io::{self, BufWriter, Write};
use std::path::PathBuf;

use serde_json::{Map, Value, json};
use tensorshard::{Dataset, Field, Kind, Sample, Tensor};

use super::damaged::{self, Kept};
use super::failure::Failure;
use super::output;
use super::range::{self, SampleRange};
use super::values;

/// Samples that are decoded at a time.
const BLOCK: usize = 256;
/// Elements of a field that are printed for people.
const SHOWN_ELEMENTS: usize = 8;

/// Prints samples.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A dataset's folder, or one shard.
    path: PathBuf,
    /// Samples from A to before B; all if left out.
    #[arg(long, value_name = "A..B")]
    range: Option<SampleRange>,
    /// Only these fields, with commas between them.
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    fields: Vec<String>,
    /// Elements printed of each field of a sample: 8 if left out, with --json all.
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// What to do about damaged chunks: `error` fails, `skip` leaves their samples out, lists them, and ends with exit
    /// code 1.
    #[arg(long, value_enum, default_value_t = damaged::Choice::Error, value_name = "WHAT")]
    damaged: damaged::Choice,
    /// One JSON object a sample and line; with --damaged skip, a last one lists what was skipped.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let mut dataset = Dataset::open(&args.path)?;
    if !args.fields.is_empty() {
        dataset = dataset.select(&args.fields)?;
    }
    let range = range::resolve(args.range, dataset.len())?;
    let mut out = BufWriter::new(output::stdout());
    let kept = Kept::find(&dataset, &range, args.damaged)?;
    for block in kept.blocks(BLOCK) {
        let indices: Vec<u64> = block.collect();
        for sample in dataset.get_many(&indices)? {
            if args.json {
                let value = as_json(&sample, args.limit.unwrap_or(usize::MAX));
                writeln!(out, "{value}")?;
            } else {
                print(&mut out, &sample, args.limit.unwrap_or(SHOWN_ELEMENTS))?;
            }
        }
    }
    if args.json
        && let Some(skipped) = kept.as_json()
    {
        writeln!(out, "{}", json!({ "skipped": skipped }))?;
    }
    out.flush()?;
    kept.finish()
}

fn print(out: &mut impl Write, sample: &Sample, limit: usize) -> io::Result<()> {
    writeln!(out, "sample {}", sample.id())?;
    for (field, tensor) in sample.fields() {
        write!(out, "  {}: ", field.name())?;
        match text_of(field, tensor) {
            Some(text) => writeln!(out, "{text:?}")?,
            None => {
                let view = tensor.view();
                write!(out, "{} {:?}", tensor.dtype(), tensor.shape())?;
                let shown = view.num_elements().min(limit);
                for i in 0..shown {
                    let value = values::text(&view, i).unwrap_or_default();
                    write!(out, " {value}")?;
                }
                writeln!(
                    out,
                    "{}",
                    if shown < view.num_elements() {
                        " ..."
                    } else {
                        ""
                    }
                )?;
            }
        }
    }
    Ok(())
}

fn as_json(sample: &Sample, limit: usize) -> Value {
    let mut fields = Map::new();
    for (field, tensor) in sample.fields() {
        let value = text_of(field, tensor).map_or_else(
            || {
                let view = tensor.view();
                let shown = 0..view.num_elements().min(limit);
                let values: Vec<Value> = shown.filter_map(|i| values::json(&view, i)).collect();
                json!({
                    "dtype": tensor.dtype().name(),
                    "shape": tensor.shape(),
                    "values": values,
                })
            },
            Value::from,
        );
        fields.insert(field.name().to_owned(), value);
    }
    json!({ "sample": sample.id(), "fields": fields })
}

/// The text of a string field.
fn text_of<'t>(field: &Field, tensor: &'t Tensor) -> Option<&'t str> {
    if field.kind() != Kind::String {
        return None;
    }
    std::str::from_utf8(tensor.data()).ok()
}
