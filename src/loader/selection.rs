//! Which samples of a dataset an epoch is made of.

use std::ops::Range;
use std::sync::Arc;

use crate::dataset::{Batch, Dataset};
use crate::error::{Error, Result};

use super::Loader;
use super::order::bijection::hash;
use super::order::bitmap::Bitmap;
use super::order::geometry::Selected;
use super::state::{hash_bytes, hex};

/// Samples that are looked at together.
const BATCH: usize = 1024;

/// A part of a dataset that is drawn by a hash of each sample's id or key: the same samples in every epoch, whatever is
/// appended. Parts whose ranges do not meet have no samples in common.
#[derive(Clone, Debug, PartialEq)]
pub struct Split {
    seed: u64,
    part: Range<f64>,
    by_key: bool,
}

impl Split {
    /// The samples whose hash, as a number from 0 to 1, is in `part`: 0.0..0.9 for training, 0.9..1.0 for validation.
    pub fn by_id(part: Range<f64>) -> Self {
        Self {
            seed: 0,
            part,
            by_key: false,
        }
    }

    /// As [`Split::by_id`], with the hash of the sample's key: a sample stays on its side when the dataset is written
    /// anew in another order.
    pub fn by_key(part: Range<f64>) -> Self {
        Self {
            by_key: true,
            ..Self::by_id(part)
        }
    }

    /// Draws other parts.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    fn holds(&self, hash: u64) -> bool {
        // 53 bits, exact as a float.
        let x = (hash >> 11) as f64 / (1u64 << 53) as f64;
        self.part.contains(&x)
    }

    fn check(&self) -> Result<()> {
        if self.part.start >= 0.0 && self.part.start <= self.part.end && self.part.end <= 1.0 {
            return Ok(());
        }
        Err(Error::invalid(format!(
            "the part {}..{} of a split is not within 0..1",
            self.part.start, self.part.end
        )))
    }
}

impl Bitmap {
    /// The samples for which `predicate` holds: it is asked once for every sample, with a batch of `fields` and the
    /// sample's place in it, in the order of the dataset.
    ///
    /// Nothing is asked again while an epoch goes on, so that its order, steps and state are known from the start:
    ///
    /// ```no_run
    /// # fn main() -> tensorshard::Result<()> {
    /// use std::sync::Arc;
    /// use tensorshard::{Bitmap, Dataset, Loader};
    /// let dataset = Dataset::open("latents")?;
    /// let good = Bitmap::from_predicate(&dataset, ["score"], |batch, i| {
    ///     Ok(batch.field("score")?.as_slice::<f32>()?[i] > 0.5)
    /// })?;
    /// let loader = Loader::builder().filter(Arc::new(good)).open_dataset(&dataset)?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Those of reading the fields, and those of `predicate`.
    pub fn from_predicate<S: Into<String>>(
        dataset: &Dataset,
        fields: impl IntoIterator<Item = S>,
        mut predicate: impl FnMut(&Batch, usize) -> Result<bool>,
    ) -> Result<Self> {
        let loader = Loader::builder()
            .fields(fields)
            .rank(0, 1)
            .open_dataset(dataset)?;
        let mut bitmap = Self::new(dataset.len());
        for batch in loader.batches(BATCH) {
            let batch = batch?;
            for (i, &sample) in batch.sample_ids().iter().enumerate() {
                if predicate(&batch, i)? {
                    bitmap.set(sample);
                }
            }
        }
        Ok(bitmap.finish())
    }
}

/// What was asked for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Selection {
    pub(crate) range: Option<Range<u64>>,
    pub(crate) every: Option<(u64, u64)>,
    pub(crate) split: Option<Split>,
    pub(crate) filter: Option<Arc<Bitmap>>,
    pub(crate) indices: Option<Arc<[u64]>>,
    /// The samples of a split by key.
    keys: Option<Arc<Bitmap>>,
}

impl Selection {
    /// True if not all samples are meant.
    pub(crate) fn is_some(&self) -> bool {
        self.range.is_some()
            || self.every.is_some()
            || self.split.is_some()
            || self.filter.is_some()
            || self.indices.is_some()
    }

    /// Reads what the selection depends on.
    pub(crate) fn prepare(&mut self, dataset: &Dataset) -> Result<()> {
        let Some(split) = &self.split else {
            return Ok(());
        };
        split.check()?;
        if !split.by_key {
            return Ok(());
        }
        let key = dataset
            .schema()
            .fields()
            .iter()
            .find(|field| field.is_key())
            .ok_or_else(|| {
                Error::invalid(
                    "a split by key needs a key field; this dataset has none: split by id",
                )
            })?
            .name()
            .to_owned();
        let bitmap = Bitmap::from_predicate(dataset, [key.as_str()], |batch, i| {
            let bytes = batch.field(&key)?.sample(i)?;
            Ok(split.holds(hash_bytes(split.seed, bytes.data())))
        })?;
        self.keys = Some(Arc::new(bitmap));
        Ok(())
    }

    /// The selected ones of `total` samples, and a word that tells selections apart.
    pub(crate) fn resolve(&self, total: u64) -> Result<(Selected, String)> {
        if let Some(indices) = &self.indices {
            if self.range.is_some()
                || self.every.is_some()
                || self.split.is_some()
                || self.filter.is_some()
            {
                return Err(Error::invalid(
                    "indices are given along with range, every_nth, split or filter: choose the indices so that they say all",
                ));
            }
            if let Some(beyond) = indices.iter().find(|&&index| index >= total) {
                return Err(Error::invalid(format!(
                    "index {beyond} is selected, but there are {total} samples"
                )));
            }
            let digest = indices.iter().fold(1, |digest, &index| hash(digest, index));
            let selected = Selected::list(indices.to_vec());
            return Ok((selected, format!("indices {}", hex(digest))));
        }
        let mut words = Vec::new();
        let mut range = 0..total;
        if let Some(asked) = &self.range {
            if asked.start > asked.end {
                return Err(Error::invalid(format!(
                    "the range {}..{} ends before it starts",
                    asked.start, asked.end
                )));
            }
            words.push(format!("range {}..{}", asked.start, asked.end));
            range = asked.start.min(total)..asked.end.min(total);
        }
        let (step, offset) = self.every.unwrap_or((1, 0));
        if step == 0 || offset >= step {
            return Err(Error::invalid(format!(
                "every_nth takes n of 1 or more, and an offset below n; these are {step} and {offset}"
            )));
        }
        if self.every.is_some() {
            words.push(format!("every {step} from {offset}"));
        }
        let first = (range.start + offset).min(range.end);
        let steps = Selected::Steps {
            first,
            step,
            len: (range.end - first).div_ceil(step),
        };
        if self.split.is_none() && self.filter.is_none() {
            if words.is_empty() {
                words.push("all".to_owned());
            }
            return Ok((steps, words.join(", ")));
        }
        if let Some(filter) = &self.filter
            && filter.len() < total
        {
            return Err(Error::invalid(format!(
                "the filter was made for {} samples, but there are {total}: make it again",
                filter.len()
            )));
        }
        let mut bitmap = Bitmap::new(total);
        for i in 0..steps.len() {
            let sample = steps.ascending(i);
            let in_split = match (&self.split, &self.keys) {
                (None, _) => true,
                (Some(_), Some(keys)) => keys.contains(sample),
                (Some(split), None) => split.holds(hash(split.seed, sample)),
            };
            let in_filter = self.filter.as_ref().is_none_or(|f| f.contains(sample));
            if in_split && in_filter {
                bitmap.set(sample);
            }
        }
        let bitmap = bitmap.finish();
        let word = format!("bitmap {}", hex(bitmap.digest()));
        Ok((Selected::Bitmap(Arc::new(bitmap)), word))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(selection: &Selection) -> (Vec<u64>, String) {
        let (selected, word) = selection.resolve(100).unwrap();
        ((0..selected.len()).map(|i| selected.get(i)).collect(), word)
    }

    #[test]
    fn every_kind_of_a_selection_is_one() {
        let none = Selection::default;
        assert!(!none().is_some());
        let some = [
            Selection {
                range: Some(0..100),
                ..none()
            },
            Selection {
                every: Some((1, 0)),
                ..none()
            },
            Selection {
                split: Some(Split::by_id(0.0..1.0)),
                ..none()
            },
            Selection {
                filter: Some(Arc::new(Bitmap::new(3).finish())),
                ..none()
            },
            Selection {
                indices: Some(Arc::new([])),
                ..none()
            },
        ];
        assert!(some.iter().all(Selection::is_some));
    }

    #[test]
    fn selections_combine() {
        let all = Selection::default();
        assert_eq!(resolve(&all), ((0..100).collect(), "all".to_owned()));
        let part = Selection {
            range: Some(10..200),
            every: Some((30, 5)),
            ..Selection::default()
        };
        assert_eq!(
            resolve(&part),
            (
                vec![15, 45, 75],
                "range 10..200, every 30 from 5".to_owned()
            )
        );
        let split = |part| Selection {
            split: Some(Split::by_id(part)),
            ..Selection::default()
        };
        let (train, word) = resolve(&split(0.0..0.8));
        let (rest, other) = resolve(&split(0.8..1.0));
        assert_ne!(word, other);
        let mut both = [train.clone(), rest].concat();
        both.sort_unstable();
        assert_eq!(both, (0..100).collect::<Vec<_>>());
        assert!((60..95).contains(&train.len()), "{}", train.len());
        // What is appended changes no side.
        let (longer, _) = split(0.0..0.8).resolve(200).unwrap();
        assert!((0..).zip(&train).all(|(i, &x)| longer.ascending(i) == x));
        let listed = Selection {
            indices: Some(vec![5, 99, 5].into()),
            ..Selection::default()
        };
        assert_eq!(resolve(&listed).0, [5, 99, 5]);
        // A filter for as many samples as there are, or more.
        for len in [100, 101] {
            let mut bitmap = Bitmap::new(len);
            [3, 99].into_iter().for_each(|i| bitmap.set(i));
            let filtered = Selection {
                filter: Some(Arc::new(bitmap.finish())),
                ..Selection::default()
            };
            assert_eq!(resolve(&filtered).0, [3, 99]);
        }
    }

    #[test]
    fn bad_selections_are_named() {
        let message = |selection: Selection| selection.resolve(100).unwrap_err().to_string();
        let none = Selection::default;
        let (start, end) = (5, 3);
        for (selection, word) in [
            (
                Selection {
                    range: Some(start..end),
                    ..none()
                },
                "ends before",
            ),
            (
                Selection {
                    every: Some((0, 0)),
                    ..none()
                },
                "every_nth",
            ),
            (
                Selection {
                    every: Some((3, 3)),
                    ..none()
                },
                "every_nth",
            ),
            (
                Selection {
                    indices: Some(vec![100].into()),
                    ..none()
                },
                "index 100",
            ),
            (
                Selection {
                    indices: Some(vec![1].into()),
                    range: Some(0..1),
                    ..none()
                },
                "along with",
            ),
            (
                Selection {
                    filter: Some(Arc::new(Bitmap::new(5).finish())),
                    ..none()
                },
                "made for 5",
            ),
        ] {
            let message = message(selection);
            assert!(message.contains(word), "{message}");
        }
        assert!(Split::by_id(0.5..1.5).check().is_err());
        assert!(Split::by_id(f64::NAN..1.0).check().is_err());
    }
}
