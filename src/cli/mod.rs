//! The `tensorshard` command: progress on stderr, results on stdout, exit codes 0 ok, 1 damaged, 2 usage, 3 I/O,
//! 4 unsupported.
//!
//! It is a module and no program of its own, so that the binary and the command of the Python package are the same
//! code. It uses the public names of the crate only.

mod advise;
mod bench;
mod cat;
mod convert;
mod damaged;
mod demo;
mod encodings;
mod export;
mod failure;
mod inputs;
mod inspect;
mod interrupt;
mod memory;
mod merge;
mod output;
mod plan;
mod plot;
mod progress;
mod range;
mod raster;
mod salvage;
mod size;
mod table;
mod values;
mod verify;

use std::ffi::OsString;
use std::io::{self, Write};
use std::panic::catch_unwind;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::{CommandFactory, Parser, Subcommand};

use failure::Failure;
use tensorshard::Result;

/// Compressed tensor shards: convert, check, read back, and feed to a training loop.
///
/// Exit codes: 0 ok, 1 damaged, 2 usage, 3 I/O, 4 unsupported.
///
/// With --json, a verb that fails ends its output with a line {"error": {...}}: kind, exit_code and message, and as far as
/// they are known path, shard, chunk, field and offset.
#[derive(Debug, Parser)]
#[command(name = "tensorshard", version, max_term_width = 100)]
struct Cli {
    /// No progress on stderr.
    #[arg(long, short, global = true)]
    quiet: bool,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Convert(Box<convert::Args>),
    Inspect(inspect::Args),
    Verify(verify::Args),
    Export(export::Args),
    Cat(cat::Args),
    Merge(merge::Args),
    Salvage(salvage::Args),
    Advise(advise::Args),
    Bench(bench::Args),
    Demo(demo::Args),
}

/// Runs the command: `args` are those of a process, its name first. Returns the exit code.
///
/// Silences the messages of panics in the whole process: a panic is a bug, and gets its one line from here.
pub fn run(args: impl IntoIterator<Item = OsString>) -> u8 {
    std::panic::set_hook(Box::new(|_| ()));
    let args: Vec<OsString> = args.into_iter().collect();
    let json = args.iter().any(|arg| arg == "--json");
    let result = catch_unwind(|| run_verb(args, false)).unwrap_or_else(|payload| {
        let message = payload
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| payload.downcast_ref::<&str>().copied())
            .unwrap_or("unknown");
        Err(Failure::Bug(message.to_owned()))
    });
    let Err(failure) = result else {
        return 0;
    };
    if json && let Some(value) = failure.as_json() {
        // Nothing is left to do if stdout is closed.
        writeln!(output::stdout(), "{value}").ok();
    }
    if let Some(message) = failure.message() {
        // Nothing is left to do if stderr is closed.
        writeln!(io::stderr(), "error: {message}").ok();
    }
    failure.exit_code()
}

/// What a verb that a program [called](call) has said.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Said {
    /// What the command would have written to standard output.
    pub output: String,
    /// Its exit code, if it is no error: 0, 1 for a `verify` that found damage, 130 if it was cancelled.
    pub exit_code: u8,
}

/// Runs a verb for a program: `args` are those of a process, its name first. Nothing is written to stdout or stderr, no
/// signal handler is set, and verbs that write stop, and clean up, when `cancelled` is set.
///
/// # Errors
/// Those of the verb; `InvalidArgument` for what the command calls wrong usage.
pub fn call(args: impl IntoIterator<Item = OsString>, cancelled: &Arc<AtomicBool>) -> Result<Said> {
    let args = args.into_iter().collect();
    let (result, output) =
        output::capture(|| interrupt::cancellable(cancelled, || run_verb(args, true)));
    let exit_code = match result {
        Ok(()) => 0,
        Err(failure) => failure.into_code()?,
    };
    let output = String::from_utf8_lossy(&output).into_owned();
    Ok(Said { output, exit_code })
}

fn run_verb(args: Vec<OsString>, quiet: bool) -> Result<(), Failure> {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) if error.use_stderr() => return Err(usage(&error)),
        // `--help` and `--version`.
        Err(error) => return Ok(error.print()?),
    };
    let quiet = cli.quiet || quiet;
    match cli.verb {
        Verb::Convert(args) => convert::run(*args, quiet),
        Verb::Inspect(args) => inspect::run(&args),
        Verb::Verify(args) => verify::run(&args, quiet),
        Verb::Export(args) => export::run(&args, quiet),
        Verb::Cat(args) => cat::run(&args),
        Verb::Merge(args) => merge::run(&args),
        Verb::Salvage(args) => salvage::run(&args),
        Verb::Advise(args) => advise::run(&args, quiet),
        Verb::Bench(args) => bench::run(&args, quiet),
        Verb::Demo(args) => demo::run(&args, quiet),
    }
}

/// What clap found wrong, in one line.
fn usage(error: &clap::Error) -> Failure {
    if error.kind() == clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        let verbs: Vec<String> = Cli::command()
            .get_subcommands()
            .map(|verb| verb.get_name().to_owned())
            .collect();
        return Failure::usage(format!(
            "say what to do: {}; `tensorshard --help` tells more",
            verbs.join(", ")
        ));
    }
    let text = error.render().to_string();
    let lines = text
        .lines()
        .take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more"));
    let words: Vec<&str> = lines.flat_map(str::split_whitespace).collect();
    let message = words.join(" ");
    let message = message
        .strip_prefix("error: ")
        .unwrap_or(&message)
        .replace(" tip: ", "; ");
    let shape = text.lines().find_map(|line| line.strip_prefix("Usage: "));
    let next = match shape {
        Some(shape) if error.kind() == clap::error::ErrorKind::MissingRequiredArgument => {
            format!("write {shape}")
        }
        _ => "`--help` shows what there is".to_owned(),
    };
    Failure::usage(format!("{message}; {next}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_consistent() {
        Cli::command().debug_assert();
    }
}
