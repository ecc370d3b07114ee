//! The options of the order of samples, from Python.

use std::path::{Path, PathBuf};

use pyo3::prelude::*;
use pyo3::types::PyDict;
use tensorshard::{
    Damaged, Dataset, IoMode, LoaderBuilder, Mixture, MixtureEnd, Pack, Split, Windows,
};

use crate::bitmap::Bitmap;
use crate::error::invalid;
use crate::field::entry;

/// Where samples come from: a dataset, or several that take turns.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    path: PathBuf,
    /// The selections of each are in its options.
    mixture: Vec<(PathBuf, f64, LoaderBuilder)>,
    end: MixtureEnd,
    io: IoMode,
    verify_checksums: bool,
}

impl Origin {
    pub(crate) fn new(
        path: PathBuf,
        order: Option<&Bound<'_, PyDict>>,
        io: IoMode,
        verify_checksums: bool,
    ) -> PyResult<Self> {
        let mut origin = Self {
            path,
            mixture: Vec::new(),
            end: MixtureEnd::FirstExhausted,
            io,
            verify_checksums,
        };
        if let Some(order) = order {
            type Parts<'py> = Vec<(PathBuf, f64, Bound<'py, PyDict>)>;
            for (path, weight, part) in entry::<Parts<'_>>(order, "mixture")?.unwrap_or_default() {
                let part = select(&part, LoaderBuilder::default())?;
                origin.mixture.push((path, weight, part));
            }
            if let Some(samples) = entry(order, "num_samples")? {
                origin.end = MixtureEnd::Samples(samples);
            } else if let Some(until) = entry::<String>(order, "until")? {
                origin.end = match until.as_str() {
                    "first_exhausted" => MixtureEnd::FirstExhausted,
                    "all_exhausted" => MixtureEnd::AllExhausted,
                    _ => {
                        return Err(invalid(format!(
                            "{until:?} is no end of a mixture; they are first_exhausted, all_exhausted and a number of samples"
                        )));
                    }
                };
            }
        }
        Ok(origin)
    }

    fn dataset(&self, path: &Path) -> tensorshard::Result<Dataset> {
        Dataset::builder()
            .io(self.io)
            .verify_checksums(self.verify_checksums)
            .open(path)
    }

    pub(crate) fn open(&self, options: LoaderBuilder) -> tensorshard::Result<tensorshard::Loader> {
        if self.mixture.is_empty() {
            return options.open_dataset(&self.dataset(&self.path)?);
        }
        let mut mixture = Mixture::new().until(self.end);
        for (path, weight, part) in &self.mixture {
            mixture = mixture.add_part(&self.dataset(path)?, *weight, part);
        }
        options.open_mixture(&mixture)
    }
}

/// The options with those of the order that were given.
pub(crate) fn apply(
    dict: &Bound<'_, PyDict>,
    mut options: LoaderBuilder,
) -> PyResult<LoaderBuilder> {
    if let Some(replicas) = entry(dict, "replicas")? {
        options = options.replicas(replicas);
    }
    if let Some(samples) = entry(dict, "global_batch_size")? {
        options = options.global_batch_size(samples);
    }
    if let Some(passes) = entry(dict, "repeat")? {
        options = options.repeat(passes);
    }
    if let Some(epochs) = entry(dict, "epochs")? {
        options = options.epochs(epochs);
    }
    if let Some(damaged) = entry::<String>(dict, "damaged")? {
        options = options.damaged(match damaged.as_str() {
            "error" => Damaged::Error,
            "skip" => Damaged::Skip,
            _ => {
                return Err(invalid(format!(
                    "damaged is \"error\" or \"skip\", not {damaged:?}"
                )));
            }
        });
    }
    type WindowsOf = (usize, usize, Option<Vec<String>>);
    if let Some((length, stride, fields)) = entry::<WindowsOf>(dict, "windows")? {
        let mut windows = Windows::new(length).stride(stride);
        if let Some(fields) = fields {
            windows = windows.fields(fields);
        }
        options = options.windows(windows);
    }
    type PackOf = (Vec<String>, usize, Option<f64>, Option<f64>);
    if let Some((fields, length, separator, pad)) = entry::<PackOf>(dict, "pack")? {
        let mut fields = fields.into_iter();
        let mut packed = Pack::new(fields.next().unwrap_or_default(), length);
        for field in fields {
            packed = packed.with(field);
        }
        if let Some(value) = separator {
            packed = packed.separator(value);
        }
        if let Some(value) = pad {
            packed = packed.pad(value);
        }
        options = options.pack(packed);
    }
    if let Some(weights) = entry::<Vec<f64>>(dict, "weights")? {
        options = options.weights(weights);
    }
    if let Some((field, pool_batches)) = entry::<(String, u64)>(dict, "bucket_by_length")? {
        options = options.bucket_by_length(field, pool_batches);
    }
    select(dict, options)
}

/// The options with the samples that were selected.
fn select(dict: &Bound<'_, PyDict>, mut options: LoaderBuilder) -> PyResult<LoaderBuilder> {
    if let Some(bitmap) = entry::<Bitmap>(dict, "filter")? {
        options = options.filter(bitmap.samples);
    }
    if let Some((from, to)) = entry::<(u64, u64)>(dict, "range")? {
        options = options.range(from..to);
    }
    if let Some((n, offset)) = entry(dict, "every_nth")? {
        options = options.every_nth(n, offset);
    }
    if let Some(ids) = entry::<Vec<u64>>(dict, "indices")? {
        options = options.indices(ids);
    }
    if let Some((from, to, by, seed)) = entry::<(f64, f64, String, u64)>(dict, "split")? {
        let split = match by.as_str() {
            "id" => Split::by_id(from..to),
            "key" => Split::by_key(from..to),
            _ => return Err(invalid(format!("a split is by id or key, not {by:?}"))),
        };
        options = options.split(split.seed(seed));
    }
    Ok(options)
}
