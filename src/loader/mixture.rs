//! [`Mixture`]: several datasets that take turns in one epoch.

use crate::dataset::Dataset;
use crate::error::{Error, Result};

use super::LoaderBuilder;
use super::selection::Selection;

/// When an epoch of a mixture ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MixtureEnd {
    /// When the turn of a dataset comes of which every sample was delivered: none comes twice.
    #[default]
    FirstExhausted,
    /// When every sample of every dataset was delivered; those that are exhausted earlier begin again.
    AllExhausted,
    /// After so many samples; datasets that are exhausted begin again.
    Samples(u64),
}

/// Several datasets, each with a weight: their samples take turns in this proportion, as evenly as possible, so that
/// every batch is a fair part. Each dataset has an order of its own, and goes on in the next epoch where it stood.
///
/// All have the same fields as far as they are delivered; how they are stored may differ. Sample ids count on from
/// dataset to dataset: those of the second begin at the length of the first.
///
/// ```no_run
/// # fn main() -> tensorshard::Result<()> {
/// use tensorshard::{Dataset, Loader, Mixture, MixtureEnd, Shuffle};
/// let mixture = Mixture::new()
///     .add(&Dataset::open("books")?, 0.7)
///     .add(&Dataset::open("web")?, 0.3)
///     .until(MixtureEnd::AllExhausted);
/// let loader = Loader::builder().shuffle(Shuffle::windowed()).open_mixture(&mixture)?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct Mixture {
    pub(super) parts: Vec<Part>,
    pub(super) end: MixtureEnd,
}

/// One dataset of a mixture.
#[derive(Clone, Debug)]
pub(super) struct Part {
    pub(super) dataset: Dataset,
    pub(super) weight: f64,
    pub(super) selection: Selection,
}

impl Mixture {
    /// No datasets yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a dataset. Weights are relative to each other; integers of a sum up to 4096 are exact, others are rounded to
    /// 1 of 4096.
    pub fn add(self, dataset: &Dataset, weight: f64) -> Self {
        self.add_part(dataset, weight, &LoaderBuilder::default())
    }

    /// Adds a part of a dataset: the `range`, `every_nth`, `split`, `filter` or `indices` of a loader's options; its other
    /// options do not matter.
    pub fn add_part(mut self, dataset: &Dataset, weight: f64, part: &LoaderBuilder) -> Self {
        self.parts.push(Part {
            dataset: dataset.clone(),
            weight,
            selection: part.selection.clone(),
        });
        self
    }

    /// When an epoch ends.
    pub fn until(mut self, end: MixtureEnd) -> Self {
        self.end = end;
        self
    }

    /// Refuses what goes with a single dataset only.
    pub(super) fn check(&self, options: &LoaderBuilder) -> Result<()> {
        if options.selection.is_some() {
            return Err(Error::invalid(
                "samples of a mixture are selected for each dataset: use `Mixture::add_part`",
            ));
        }
        if options.repeat != 1 || options.weights.is_some() {
            return Err(Error::invalid(
                "repeat and weights are for one dataset; a mixture has its weights and `until`",
            ));
        }
        Ok(())
    }
}
