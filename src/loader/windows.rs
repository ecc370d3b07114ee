//! [`Windows`]: samples of many steps are cut in windows of a fixed length.

use crate::dataset::{Dataset, FieldLayout};
use crate::error::{Error, Result};

use super::order::bijection::hash;
use super::order::geometry::{Geometry, Selected};
use super::state::hex;
use super::steps::Steps;

/// Sliding windows over the first axis of samples, as time: a sample of T steps (shape `[T, ..]`) has
/// `(T - length) / stride + 1` windows of shape `[length, ..]`, none if it is shorter. The windows are what a loader
/// orders, shuffles, deals out to ranks and counts: where its documentation says samples of an epoch, windows are meant.
/// Only chunks that hold windows of a batch are decoded for it.
///
/// ```no_run
/// # fn main() -> tensorshard::Result<()> {
/// use tensorshard::{Loader, Shuffle, Windows};
/// let loader = Loader::builder()
///     .windows(Windows::new(128).stride(64))
///     .shuffle(Shuffle::windowed())
///     .open("episodes")?;
/// for batch in loader.batches(32) {
///     let batch = batch?;
///     let (ids, starts) = (batch.sample_ids(), batch.window_starts().unwrap_or_default());
///     println!("{:?}: sample {}, from step {}", batch.field("state")?.shape(), ids[0], starts[0]);
/// }
/// # Ok(())
/// # }
/// ```
///
/// Fields that are cut have an equal number of steps in every sample; only their first axis may vary. Other fields
/// (labels, keys) are delivered whole, with every window of their sample. Where the number of steps varies, opening reads
/// the shapes of all chunks, and the loader keeps 12 bytes a sample (20 with `indices`).
///
/// Selections are of samples, and all windows of them. A worker needs memory for the largest sample, beside the memory
/// budget. Windows that overlap multiply what a windowed shuffle holds: choose a smaller window of chunks for it. The
/// exact shuffle decodes a sample, or the pieces of it that a window needs, for every window.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct Windows {
    length: usize,
    stride: usize,
    fields: Option<Vec<String>>,
}

impl Windows {
    /// Windows of `length` steps, one after the other: the stride is the length. Cut are all tensors whose first axis
    /// varies; if there is none, the first tensor that has an axis, and all whose first axis is as long.
    pub fn new(length: usize) -> Self {
        Self {
            length,
            stride: length,
            fields: None,
        }
    }

    /// Steps from the start of a window to that of the next one, at least 1.
    pub fn stride(mut self, steps: usize) -> Self {
        self.stride = steps;
        self
    }

    /// Only these fields are cut; others are delivered whole.
    pub fn fields<S: Into<String>>(mut self, fields: impl IntoIterator<Item = S>) -> Self {
        self.fields = Some(fields.into_iter().map(Into::into).collect());
        self
    }

    /// Cuts the layouts of a dataset, and counts its windows.
    pub(super) fn resolve(
        &self,
        dataset: &Dataset,
        layouts: &mut [FieldLayout],
    ) -> Result<WindowTable> {
        if self.length == 0 || self.stride == 0 {
            return Err(Error::invalid(format!(
                "windows of {} steps every {}: both are at least 1",
                self.length, self.stride
            )));
        }
        let cut = self.choose(dataset, layouts)?;
        let mut fields = Vec::new();
        for layout in layouts {
            if cut.contains(&layout.ordinal) {
                *layout = layout.clone().cut(self.length)?;
                fields.push(layout.ordinal);
            } else if !layout.is_plain() {
                let field = &dataset.schema().fields()[layout.ordinal];
                let message = "beside windows, whole fields are neither padded nor quantized: take it concatenated, dequantized";
                return Err(Error::invalid(message).in_field(field.name()));
            }
        }
        WindowTable::new(
            self.length as u64,
            self.stride as u64,
            Steps::read(dataset, &fields)?,
        )
    }

    /// The fields that are cut.
    fn choose(&self, dataset: &Dataset, layouts: &[FieldLayout]) -> Result<Vec<usize>> {
        let schema = dataset.schema().fields();
        let all = || layouts.iter().map(|layout| layout.ordinal);
        if let Some(names) = &self.fields {
            let named = |name: &String| {
                let found = all().find(|&ordinal| schema[ordinal].name() == name);
                found.ok_or_else(|| {
                    Error::invalid(format!(
                        "{name:?} is to be cut, but it is no field that is delivered"
                    ))
                })
            };
            return match names.as_slice() {
                [] => Err(Error::invalid("no field is cut in windows")),
                names => names.iter().map(named).collect(),
            };
        }
        let like = |dim| -> Vec<usize> {
            let alike = layouts.iter().filter(|l| l.first_dim() == Some(dim));
            alike.map(|layout| layout.ordinal).collect()
        };
        let ragged = like(None);
        if !ragged.is_empty() {
            return Ok(ragged);
        }
        match layouts.iter().find_map(FieldLayout::first_dim) {
            Some(dim) => Ok(like(dim)),
            None => Err(Error::invalid(
                "no field has a first axis that could be cut in windows",
            )),
        }
    }
}

/// The windows of the samples of a dataset. Window w of sample s has the id s * per + w.
#[derive(Debug)]
pub(super) struct WindowTable {
    length: u64,
    stride: u64,
    /// At least 1.
    per: u64,
    /// The windows of each sample, unless all have `per`.
    counts: Option<Vec<u32>>,
}

impl WindowTable {
    fn new(length: u64, stride: u64, steps: Steps) -> Result<Self> {
        let windows = |steps: u64| match steps.checked_sub(length) {
            Some(rest) => rest / stride + 1,
            None => 0,
        };
        let (per, counts) = match steps {
            Steps::Same(steps) if windows(steps) == 0 => (0, Some(Vec::new())),
            Steps::Same(steps) => (windows(steps), None),
            Steps::Each(mut each) => {
                for steps in &mut each {
                    // At most as many as steps, or 1.
                    *steps = u32::try_from(windows(u64::from(*steps))).unwrap_or(u32::MAX);
                }
                (each.iter().copied().max().unwrap_or(0).into(), Some(each))
            }
        };
        if u32::try_from(per).is_err() {
            return Err(Error::invalid(format!(
                "samples have up to {per} windows, above 4294967295: use a larger stride"
            )));
        }
        Ok(Self {
            length,
            stride,
            per: per.max(1),
            counts,
        })
    }

    /// Ids of a sample, whether it has so many windows or not.
    pub(super) fn per(&self) -> u64 {
        self.per
    }

    /// Steps of a window.
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// The sample of a window, and the step that it begins with.
    pub(super) fn locate(&self, id: u64) -> (u64, u64) {
        (id / self.per, id % self.per * self.stride)
    }

    /// True if the windows of samples differ in number.
    pub(super) fn varies(&self) -> bool {
        self.counts.is_some()
    }

    /// The windows of the samples that `resolve` selects of the first `num_shards` shards.
    pub(super) fn geometry(
        &self,
        dataset: &Dataset,
        num_shards: u64,
        resolve: impl FnOnce(u64) -> Result<(Selected, String)>,
    ) -> Result<(Geometry, String)> {
        let geometry = Geometry::in_parts(dataset, num_shards, self.per)?;
        let (selected, word) = resolve(geometry.total() / self.per)?;
        let selected = match self.counts.as_deref() {
            Some([]) => Selected::Steps {
                first: 0,
                step: 1,
                len: 0,
            },
            counts => selected.parts(self.per, counts),
        };
        Ok((geometry.select(selected), word))
    }

    /// The windows of the first samples in a word, for states.
    pub(super) fn word(&self, num_samples: u64) -> String {
        let mut word = format!("{} every {}", self.length, self.stride);
        if let Some(counts) = &self.counts {
            let first = usize::try_from(num_samples).unwrap_or(usize::MAX);
            let counts = counts.iter().take(first);
            let digest = counts.fold(4, |digest, &n| hash(digest, u64::from(n)));
            word = format!("{word} {}", hex(digest));
        }
        word
    }
}
