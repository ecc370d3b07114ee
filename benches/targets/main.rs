//! The targets of the read path in one run: `cargo bench --bench targets`.
//!
//! Every row is a ratio within this run. What is compared takes turns, round by round, and a ratio is the median over
//! the rounds. Copies and loader write to as many bytes of rotating buffers, more than caches hold: the consumer keeps
//! its last batches, so that the pool hands out buffers that have left the cache, as a training step would see to.
//!
//! Options: words that select cases (`photos latents embeddings labels codecs encodings exact get open memory faults writer`), `--json`,
//! `--rounds N`, `--datasets FOLDER` (keeps the datasets there, for the next run; made anew if the folder is empty).
#![expect(
    clippy::expect_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program that prints figures, and stops at the first error"
)]

mod cases;
#[path = "../common/mod.rs"]
mod common;
mod datasets;
mod encodings;
mod process;
mod report;

use cases::{Bench, CASES};
use report::Report;

fn main() {
    let mut args = std::env::args().skip(1);
    let mut bench = Bench::default();
    let mut json = false;
    let mut words = Vec::new();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            // What Cargo and criterion's users pass.
            "--bench" => {}
            "--test" => bench.rounds = 1,
            "--json" => json = true,
            "--rounds" => {
                let rounds = args.next().and_then(|n| n.parse().ok());
                bench.rounds = rounds.expect("--rounds N");
            }
            "--datasets" => bench.folder = args.next().map(Into::into),
            "--child" => {
                let rest: Vec<String> = args.collect();
                return process::child(&rest);
            }
            word => words.push(word.to_owned()),
        }
    }
    let temporary = tempfile::tempdir().expect("a temporary folder");
    if bench.folder.is_none() {
        bench.folder = Some(temporary.path().to_owned());
    }
    let mut report = Report::default();
    for (name, case) in CASES {
        if words.is_empty() || words.iter().any(|word| name.contains(word.as_str())) {
            eprintln!("{name} ...");
            case(&bench, &mut report);
        }
    }
    if json {
        println!("{}", report.json());
    } else {
        print!("{report}");
    }
}
