//! The `tensorshard` command: see [`tensorshard::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(tensorshard::cli::run(std::env::args_os()))
}
