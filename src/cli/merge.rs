//! `merge`: datasets written in parallel become one.

use std::io::Write;
use std::path::PathBuf;

use serde_json::json;

use super::failure::Failure;
use super::output;
use super::size;

/// Parts with the same fields and encodings become one dataset, in the order given. Within one file system no data is
/// copied, and the parts stay valid.
#[derive(Debug, clap::Args)]
#[command(override_usage = "tensorshard merge [OPTIONS] PART... OUT")]
pub(crate) struct Args {
    /// PART... OUT: the parts, and last the folder of the new dataset.
    #[arg(required = true, num_args = 2.., value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// The summary as JSON.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let Some((out, parts)) = args.paths.split_last() else {
        return Err(Failure::usage("name the parts and the folder to write"));
    };
    let summary = tensorshard::merge(parts, out)?;
    let mut stdout = output::stdout();
    if args.json {
        let value = json!({
            "path": summary.path.to_string_lossy(),
            "num_samples": summary.num_samples,
            "num_shards": summary.num_shards,
            "copied_shards": summary.copied_shards,
        });
        writeln!(stdout, "{value}")?;
    } else {
        writeln!(
            stdout,
            "{}: {} in {} from {} ({} copied, the others linked)",
            summary.path.display(),
            size::counted(summary.num_samples, "sample"),
            size::counted(summary.num_shards, "shard"),
            size::counted(parts.len() as u64, "part"),
            size::count(summary.copied_shards),
        )?;
    }
    Ok(stdout.flush()?)
}
