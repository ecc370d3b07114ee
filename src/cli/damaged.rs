//! `--damaged`: what verbs that read samples do about damaged chunks.

use std::io::{self, Write};
use std::ops::Range;

use serde_json::{Value, json};
use tensorshard::{Damaged, Dataset, Loader, SkippedChunk};

use super::failure::Failure;
use super::interrupt;

/// Samples of a batch while chunks are checked.
const BATCH: usize = 256;

/// What happens to damaged chunks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Choice {
    /// The verb fails.
    #[default]
    Error,
    /// Their samples are left out and listed, and the exit code is 1.
    Skip,
}

/// The samples of a range that are delivered, and the chunks that are not.
#[derive(Debug)]
pub(crate) struct Kept {
    choice: Choice,
    /// In order, none of them empty.
    ranges: Vec<Range<u64>>,
    skipped: Vec<SkippedChunk>,
}

impl Kept {
    /// With [`Choice::Skip`], reads the selected fields of the range once to find what is damaged.
    pub(crate) fn find(
        dataset: &Dataset,
        range: &Range<u64>,
        choice: Choice,
    ) -> Result<Self, Failure> {
        let mut skipped = Vec::new();
        if choice == Choice::Skip && !range.is_empty() {
            let options = Loader::builder()
                .damaged(Damaged::Skip)
                .range(range.clone())
                .prefetch(4)
                .memory_budget(u64::MAX);
            let mut batches = options.open_dataset(dataset)?.batches(BATCH);
            for batch in &mut batches {
                batch?;
                interrupt::check()?;
            }
            skipped = batches.skipped();
        }
        let mut ranges = Vec::new();
        let mut from = range.start;
        for chunk in &skipped {
            ranges.push(from..chunk.first_sample.min(range.end));
            from = from.max(chunk.first_sample.saturating_add(chunk.num_samples));
        }
        ranges.push(from..range.end);
        ranges.retain(|range| !range.is_empty());
        Ok(Self {
            choice,
            ranges,
            skipped,
        })
    }

    /// What the loader is to do about damage.
    pub(crate) fn policy(&self) -> Damaged {
        match self.choice {
            Choice::Error => Damaged::Error,
            Choice::Skip => Damaged::Skip,
        }
    }

    /// The samples that are delivered, at most so many consecutive ones at a time.
    pub(crate) fn blocks(&self, most: usize) -> impl Iterator<Item = Range<u64>> {
        self.ranges.iter().flat_map(move |range| {
            let starts = range.clone().step_by(most);
            starts.map(move |first| first..range.end.min(first.saturating_add(most as u64)))
        })
    }

    /// How many samples are delivered.
    pub(crate) fn num_samples(&self) -> u64 {
        self.ranges
            .iter()
            .map(|range| range.end - range.start)
            .sum()
    }

    /// True if the sample is delivered.
    pub(crate) fn contains(&self, sample: u64) -> bool {
        let after = self.ranges.partition_point(|range| range.start <= sample);
        let range = after.checked_sub(1).and_then(|i| self.ranges.get(i));
        range.is_some_and(|range| sample < range.end)
    }

    /// The skipped chunks, if skipping was asked for.
    pub(crate) fn as_json(&self) -> Option<Value> {
        if self.choice == Choice::Error {
            return None;
        }
        let skipped = self.skipped.iter().map(|chunk| {
            json!({
                "path": chunk.path.as_ref().map(|path| path.to_string_lossy()),
                "chunk": chunk.chunk,
                "samples": [chunk.first_sample, chunk.first_sample + chunk.num_samples],
                "message": chunk.message,
            })
        });
        Some(skipped.collect())
    }

    /// Lists on stderr what was skipped; then the exit code is 1.
    pub(crate) fn finish(&self) -> Result<(), Failure> {
        if self.skipped.is_empty() {
            return Ok(());
        }
        let mut stderr = io::stderr();
        for chunk in &self.skipped {
            let last = (chunk.first_sample + chunk.num_samples).saturating_sub(1);
            let first = chunk.first_sample;
            let message = chunk.message.replace(['\n', '\r'], " ");
            // The exit code tells, if stderr is closed.
            writeln!(stderr, "skipped: samples {first} to {last}: {message}").ok();
        }
        Err(Failure::Reported(1))
    }
}
