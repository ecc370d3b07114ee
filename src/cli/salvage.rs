//! `salvage`: a readable dataset from an interrupted or damaged one.

use std::io::Write;
use std::path::PathBuf;

use serde_json::{Value, json};
use tensorshard::{SalvageReport, SalvagedShard, Unlisted, salvage};

use super::failure::Failure;
use super::output;
use super::size;

/// Makes a readable dataset of every intact chunk of a damaged or interrupted one, which is only read; exit code 1 if
/// something is lost, or may be: without a manifest it is not known what there was, and shards come in the order of their
/// last change.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The dataset's folder, or one shard. Files that an interrupted writer left are looked through as well.
    path: PathBuf,
    /// The folder of the new dataset.
    out: PathBuf,
    /// Shards that the manifest does not list: `auto` takes them if there is no readable manifest, or an unfinished one.
    #[arg(long, value_enum, default_value_t = Choice::Auto, value_name = "WHICH")]
    unlisted: Choice,
    /// The report as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Choice {
    Auto,
    Include,
    Exclude,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let unlisted = match args.unlisted {
        Choice::Auto => Unlisted::Auto,
        Choice::Include => Unlisted::Include,
        Choice::Exclude => Unlisted::Exclude,
    };
    let report = salvage(&args.path, &args.out, unlisted)?;
    let text = if args.json {
        format!("{}\n", as_json(&report))
    } else {
        as_text(&report)
    };
    let mut out = output::stdout();
    out.write_all(text.as_bytes())?;
    out.flush()?;
    if report.is_whole() {
        Ok(())
    } else {
        Err(Failure::Reported(1))
    }
}

fn as_json(report: &SalvageReport) -> Value {
    let shards: Vec<Value> = report.shards.iter().map(shard_as_json).collect();
    json!({
        "path": report.path.to_string_lossy(),
        "whole": report.is_whole(),
        "num_samples": report.num_samples,
        "num_shards": report.num_shards,
        "manifest_error": report.manifest_error.as_ref().map(ToString::to_string),
        "shards": shards,
        "unlisted": report.unlisted,
    })
}

fn shard_as_json(shard: &SalvagedShard) -> Value {
    let missing: Vec<Value> = shard
        .missing
        .iter()
        .map(|missing| {
            json!({
                "chunks": [missing.chunks.start, missing.chunks.end],
                "samples": [missing.samples.start, missing.samples.end],
                "message": missing.error.to_string(),
            })
        })
        .collect();
    json!({
        "file_name": shard.file_name,
        "new_file_name": shard.new_file_name,
        "listed": shard.listed,
        "whole": shard.is_whole(),
        "first_sample": shard.first_sample,
        "num_samples": shard.num_samples,
        "salvaged_samples": shard.salvaged_samples,
        "salvaged_chunks": shard.salvaged_chunks,
        "missing": missing,
        "tail_bytes": shard.tail_bytes,
        "message": shard.error.as_ref().map(ToString::to_string),
    })
}

fn as_text(report: &SalvageReport) -> String {
    let mut out = String::new();
    if let Some(error) = &report.manifest_error {
        out.push_str(&format!("no manifest: {error}\n"));
        if report.shards.iter().any(|shard| !shard.listed) {
            out.push_str(
                "order: shards that no manifest lists are in the order of their last change, which copies may not keep\n",
            );
        }
    }
    for shard in &report.shards {
        let name = &shard.file_name;
        if let Some(error) = &shard.error {
            out.push_str(&format!("lost: {name}: {error}\n"));
        }
        // Of a listed shard, where they were in the damaged dataset.
        let first = shard.first_sample.unwrap_or(0);
        for missing in &shard.missing {
            out.push_str(&format!(
                "lost: {name}: samples {} to {}: {}\n",
                missing.samples.start.saturating_add(first),
                missing.samples.end.saturating_add(first).saturating_sub(1),
                missing.error
            ));
        }
        if shard.tail_bytes > 0 {
            out.push_str(&format!(
                "lost: {name}: {} at the end that are no whole chunk\n",
                size::bytes(shard.tail_bytes)
            ));
        } else if shard.num_samples.is_none() && shard.error.is_none() {
            out.push_str(&format!(
                "lost: {name}: its end, and with it what followed, if anything did\n"
            ));
        }
    }
    for name in &report.unlisted {
        out.push_str(&format!(
            "left out: {name}: the manifest does not list it\n"
        ));
    }
    out.push_str(&format!(
        "{}: {} in {} salvaged{}\n",
        report.path.display(),
        size::counted(report.num_samples, "sample"),
        size::counted(report.num_shards, "shard"),
        if report.is_whole() {
            "; nothing is lost"
        } else if report.manifest_error.is_some() {
            "; without the manifest it is not known what else there was"
        } else {
            ""
        }
    ));
    out
}
