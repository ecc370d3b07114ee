//! `inspect`: what a dataset holds.

use std::io::Write;
use std::path::PathBuf;

use serde_json::{Value, json};
use tensorshard::{Dataset, DatasetReport, Kind};

use super::failure::Failure;
use super::output;
use super::size;
use super::table::{self, Table};

/// Shards that are listed for people.
const LISTED_SHARDS: usize = 20;

/// Schema, encodings, shards, chunks, sizes, ratios and recorded errors, without decoding values.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A dataset's folder, or one shard.
    path: PathBuf,
    /// Everything as JSON.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let dataset = Dataset::open(&args.path)?;
    let report = dataset.inspect()?;
    let text = if args.json {
        format!("{}\n", as_json(&dataset, &report))
    } else {
        as_text(&dataset, &report)
    };
    let mut out = output::stdout();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

fn as_json(dataset: &Dataset, report: &DatasetReport) -> Value {
    let fields: Vec<Value> = dataset
        .schema()
        .fields()
        .iter()
        .zip(&report.fields)
        .map(|(field, report)| {
            let mut value = table::field_json(report);
            let filters: Vec<String> = field.filters().iter().map(ToString::to_string).collect();
            let codecs: Vec<String> = field.codecs().iter().map(ToString::to_string).collect();
            if let Value::Object(entries) = &mut value {
                let kind = match field.kind() {
                    Kind::Tensor => "tensor",
                    Kind::Bytes => "bytes",
                    Kind::String => "string",
                };
                let more = [
                    ("kind", json!(kind)),
                    ("key", json!(field.is_key())),
                    ("dtype", json!(field.dtype().map(|dtype| dtype.name()))),
                    ("shape", json!(field.dims())),
                    ("quantizer", json!(field.quantizer().to_string())),
                    ("filters", json!(filters)),
                    ("split", json!(field.split().map(|split| split.to_string()))),
                    ("codec", json!(codecs.join(","))),
                ];
                entries.extend(more.map(|(key, value)| (key.to_owned(), value)));
            }
            value
        })
        .collect();
    let shards: Vec<Value> = report
        .shards
        .iter()
        .map(|shard| {
            json!({
                "file_name": shard.file_name,
                "num_samples": shard.num_samples,
                "num_chunks": shard.num_chunks,
                "samples_per_chunk": shard.samples_per_chunk,
                "stored_bytes": shard.file_len,
            })
        })
        .collect();
    json!({
        "path": dataset.path().to_string_lossy(),
        "num_samples": report.num_samples,
        "num_shards": dataset.num_shards(),
        "num_chunks": report.num_chunks,
        "raw_bytes": report.raw_bytes,
        "stored_bytes": report.stored_bytes,
        "ratio": size::ratio(report.raw_bytes, report.stored_bytes),
        "unfinished": report.unfinished,
        "metadata": dataset.metadata(),
        "fields": fields,
        "shards": shards,
    })
}

fn as_text(dataset: &Dataset, report: &DatasetReport) -> String {
    let mut out = format!(
        "{}: {} in {}, {}; {} stored in {} (ratio {:.2})\n",
        dataset.path().display(),
        size::counted(report.num_samples, "sample"),
        size::counted(dataset.num_shards(), "shard"),
        size::counted(report.num_chunks, "chunk"),
        size::bytes(report.raw_bytes),
        size::bytes(report.stored_bytes),
        size::ratio(report.raw_bytes, report.stored_bytes),
    );
    if report.unfinished {
        out.push_str(
            "unfinished: its writer flushed, but did not finish; more samples may follow\n",
        );
    }
    out.push('\n');
    out.push_str(&table::fields(&report.fields));
    if !report.shards.is_empty() {
        let mut shards = Table::new(&["shard", ">samples", ">chunks", ">samples/chunk", ">stored"]);
        for shard in report.shards.iter().take(LISTED_SHARDS) {
            shards.row([
                shard.file_name.clone(),
                size::count(shard.num_samples),
                size::count(shard.num_chunks),
                size::count(u64::from(shard.samples_per_chunk)),
                size::bytes(shard.file_len),
            ]);
        }
        out.push('\n');
        out.push_str(&shards.render());
        let more = report.shards.len().saturating_sub(LISTED_SHARDS);
        if more > 0 {
            out.push_str(&format!("and {more} more; --json lists all\n"));
        }
    }
    if !dataset.metadata().is_empty() {
        out.push_str("\nmetadata\n");
        for (key, value) in dataset.metadata() {
            out.push_str(&format!("  {key} = {value}\n"));
        }
    }
    out
}
