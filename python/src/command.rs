//! The command, and its verbs as functions.

use std::ffi::OsString;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pyo3::prelude::*;
use tensorshard::cli;

use crate::error::raise;

/// How long a wait may keep a signal waiting.
const SLICE: Duration = Duration::from_millis(50);

/// Runs the command with the arguments of a process; returns the exit code.
#[pyfunction]
pub(crate) fn run(py: Python<'_>, args: Vec<OsString>) -> u8 {
    py.detach(|| cli::run(args))
}

/// Runs a verb: what it has said, and its exit code. A signal whose handler raises stops verbs that write, which then
/// clean up; `verify` goes on in the background.
#[pyfunction]
pub(crate) fn call(py: Python<'_>, args: Vec<OsString>) -> PyResult<(String, u8)> {
    let cancelled = Arc::new(AtomicBool::new(false));
    let writes = args.get(1).is_some_and(|verb| verb != "verify");
    let thread = {
        let cancelled = Arc::clone(&cancelled);
        std::thread::Builder::new()
            .name("tensorshard-verb".to_owned())
            .spawn(move || cli::call(args, &cancelled))?
    };
    let mut slice = Duration::from_millis(1);
    while !thread.is_finished() {
        py.detach(|| std::thread::sleep(slice));
        slice = (slice * 2).min(SLICE);
        if let Err(raised) = py.check_signals() {
            cancelled.store(true, Ordering::Relaxed);
            if writes {
                py.detach(|| thread.join()).ok();
            }
            return Err(raised);
        }
    }
    match py.detach(|| thread.join()) {
        Ok(said) => {
            let said = said.map_err(raise)?;
            Ok((said.output, said.exit_code))
        }
        Err(_) => Err(crate::error::raise_as(
            "WorkerPanickedError",
            "the verb panicked; this is a bug, please report it",
        )),
    }
}
