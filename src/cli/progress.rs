//! Progress on stderr: a bar on a terminal, a line now and then elsewhere.

use std::io::{self, IsTerminal, Write};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::size;

/// Time between two lines where stderr is no terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(10);

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    Bytes,
    Samples,
    /// Steps that say nothing to people.
    Percent,
}

/// The progress of one task.
#[derive(Debug)]
pub(crate) struct Progress {
    verb: &'static str,
    unit: Unit,
    total: u64,
    start: Instant,
    output: Output,
}

#[derive(Debug)]
enum Output {
    Quiet,
    Bar(ProgressBar),
    Lines(Mutex<Instant>),
}

impl Progress {
    pub(crate) fn new(verb: &'static str, unit: Unit, total: u64, quiet: bool) -> Self {
        let output = if quiet {
            Output::Quiet
        } else if io::stderr().is_terminal() {
            let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
            if let Ok(style) =
                ProgressStyle::with_template("{prefix} [{bar:24}] {percent:>3}%  {msg}")
            {
                bar.set_style(style.progress_chars("=> "));
            }
            bar.set_prefix(verb);
            Output::Bar(bar)
        } else {
            Output::Lines(Mutex::new(Instant::now()))
        };
        Self {
            verb,
            unit,
            total,
            start: Instant::now(),
            output,
        }
    }

    /// Shows that `done` of the total is done, and the ratio so far if there is one.
    pub(crate) fn update(&self, done: u64, ratio: Option<f64>) {
        match &self.output {
            Output::Quiet => {}
            Output::Bar(bar) => {
                bar.set_position(done);
                bar.set_message(self.describe(done, ratio));
            }
            Output::Lines(last) => {
                let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
                if last.elapsed() < LINE_INTERVAL {
                    return;
                }
                *last = Instant::now();
                let percent = done.saturating_mul(100) / self.total.max(1);
                let text = self.describe(done, ratio);
                // Progress is not worth an error.
                writeln!(io::stderr(), "{}: {percent}%, {text}", self.verb).ok();
            }
        }
    }

    fn describe(&self, done: u64, ratio: Option<f64>) -> String {
        let seconds = self.start.elapsed().as_secs_f64().max(1e-9);
        let rate = done as f64 / seconds;
        let mut text = match self.unit {
            Unit::Bytes => format!("{}, {:.0} MB/s", size::bytes(done), rate / 1e6),
            Unit::Percent => "measuring".to_owned(),
            Unit::Samples => format!("{}, {rate:.0} samples/s", size::counted(done, "sample")),
        };
        if let Some(ratio) = ratio {
            text.push_str(&format!(", ratio {ratio:.2}"));
        }
        let left = self.total.saturating_sub(done) as f64 / rate;
        if let Ok(left) = Duration::try_from_secs_f64(left) {
            text.push_str(&format!(", {} left", size::duration(left)));
        }
        text
    }

    /// Removes the bar, so that results stand alone.
    pub(crate) fn finish(&self) {
        if let Output::Bar(bar) = &self.output {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.finish();
    }
}
