//! `verify`: every checksum and a full decode.

use std::io::Write;
use std::path::PathBuf;

use serde_json::{Value, json};
use tensorshard::{Dataset, VerifyReport};

use super::failure::{Failure, error_json};
use super::output;
use super::progress::{Progress, Unit};
use super::size;
use super::table::Table;

/// Checks every checksum and decodes everything; exit code 1 if something is damaged.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A dataset's folder, or one shard.
    path: PathBuf,
    /// The report as JSON.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args, quiet: bool) -> Result<(), Failure> {
    let dataset = Dataset::open(&args.path)?;
    let progress = Progress::new("verify", Unit::Samples, dataset.len(), quiet);
    let report = dataset.verify(&|samples| progress.update(samples, None));
    progress.finish();
    let text = if args.json {
        format!("{}\n", as_json(&dataset, &report))
    } else {
        as_text(&dataset, &report)
    };
    let mut out = output::stdout();
    out.write_all(text.as_bytes())?;
    out.flush()?;
    if report.is_intact() {
        Ok(())
    } else {
        Err(failure(&report))
    }
}

/// Shards that are missing or cannot be read have exit codes of their own, unless others are damaged as well.
fn failure(report: &VerifyReport) -> Failure {
    let codes = report.damage.iter().map(|damage| damage.error.exit_code());
    match codes.clone().min() {
        Some(code @ (3 | 4)) if codes.clone().all(|other| other == code) => Failure::Reported(code),
        _ => Failure::Reported(1),
    }
}

fn as_json(dataset: &Dataset, report: &VerifyReport) -> Value {
    let shards: Vec<Value> = report
        .shards
        .iter()
        .map(|shard| {
            json!({
                "file_name": shard.file_name,
                "num_samples": shard.num_samples,
                "intact_samples": shard.intact_samples,
                "intact_chunks": shard.intact_chunks,
                "intact": shard.num_damages == 0,
            })
        })
        .collect();
    let damage: Vec<Value> = report
        .damage
        .iter()
        .map(|damage| {
            let mut value = error_json(&damage.error);
            value["file_name"] = json!(damage.file_name);
            value
        })
        .collect();
    json!({
        "path": dataset.path().to_string_lossy(),
        "intact": report.is_intact(),
        "num_samples": dataset.len(),
        "intact_samples": report.intact_samples,
        "intact_chunks": report.intact_chunks,
        "num_shards": report.num_shards,
        "stored_bytes": report.stored_bytes,
        "unfinished": dataset.is_unfinished(),
        "shards": shards,
        "damage": damage,
    })
}

fn as_text(dataset: &Dataset, report: &VerifyReport) -> String {
    let mut table = Table::new(&[
        "shard",
        ">samples",
        ">intact samples",
        ">intact chunks",
        "state",
    ]);
    for shard in &report.shards {
        let state = if shard.num_damages == 0 {
            "intact"
        } else {
            "damaged"
        };
        table.row([
            shard.file_name.clone(),
            size::count(shard.num_samples),
            size::count(shard.intact_samples),
            size::count(shard.intact_chunks),
            state.to_owned(),
        ]);
    }
    let mut out = table.render();
    for damage in &report.damage {
        out.push_str(&format!(
            "damaged: {}: {}\n",
            damage.file_name, damage.error
        ));
    }
    let verdict = if report.is_intact() {
        "intact".to_owned()
    } else {
        format!(
            "damaged: {} of {} are intact",
            size::count(report.intact_samples),
            size::counted(dataset.len(), "sample")
        )
    };
    out.push_str(&format!(
        "{}: {verdict}; {} in {}, {} checked{}\n",
        dataset.path().display(),
        size::counted(dataset.len(), "sample"),
        size::counted(report.num_shards, "shard"),
        size::bytes(report.stored_bytes),
        if dataset.is_unfinished() {
            "; unfinished: its writer did not finish"
        } else {
            ""
        },
    ));
    out
}
