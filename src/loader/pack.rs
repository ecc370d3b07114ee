//! [`Pack`]: samples one after the other, cut in windows of a fixed length.

use crate::dataset::{Dataset, FieldLayout, Segment};
use crate::error::{Error, Result};

use super::order::bijection::hash;
use super::order::geometry::{ChunkPlace, Geometry, Selected};
use super::parts::{Part, PartVisit, What};
use super::plan::{Entry, Visit};
use super::state::hex;
use super::steps::Steps;

/// Packs the samples of a ragged field, as documents of tokens, into windows of a fixed length: the selected samples, in
/// the order of the dataset (or of `indices`), are one stream, which is cut every `length` tokens. The windows are what a
/// loader orders, shuffles, deals out to ranks and counts: where its documentation says samples of an epoch, windows are
/// meant. The windowed shuffle takes as many consecutive windows for a chunk as chunks have on average.
///
/// ```no_run
/// # fn main() -> tensorshard::Result<()> {
/// use tensorshard::{Loader, Pack, Shuffle};
/// let loader = Loader::builder()
///     .fields(["tokens"])
///     .pack(Pack::new("tokens", 2048).separator(0))
///     .shuffle(Shuffle::windowed())
///     .open("texts")?;
/// for batch in loader.batches(8) {
///     let batch = batch?;
///     assert_eq!(batch.field("tokens")?.shape(), [8, 2048]);
///     for segment in batch.segments(0) {
///         println!("sample {}, from token {}", segment.sample_id, segment.first);
///     }
/// }
/// # Ok(())
/// # }
/// ```
///
/// [`crate::Batch::segments`] says what a window is made of; [`crate::Batch::segment_ids`] and
/// [`crate::Batch::positions`] say it for each token, for attention masks. [`crate::Batch::sample_ids`] has the sample of
/// each window's first token.
///
/// Only packed fields can be delivered. Opening reads the shapes of all chunks; the loader keeps 4 bytes a sample, and 8
/// for each selected one. Tokens may be vectors: fields of shape `[tokens, ..]`.
#[derive(Clone, Debug, PartialEq)]
#[must_use]
pub struct Pack {
    fields: Vec<String>,
    length: usize,
    separator: Option<f64>,
    pad: Option<f64>,
}

impl Pack {
    /// Windows of `length` tokens of a field, without separators; what does not fill the last one is left out.
    pub fn new(field: impl Into<String>, length: usize) -> Self {
        Self {
            fields: vec![field.into()],
            length,
            separator: None,
            pad: None,
        }
    }

    /// Packs another field in the same way, as a mask of the loss: it has as many tokens in every sample. Where the
    /// first field has separators and padding, it has zeros.
    pub fn with(mut self, field: impl Into<String>) -> Self {
        self.fields.push(field.into());
        self
    }

    /// Puts this token after each sample. It counts as the sample's last token.
    pub fn separator(mut self, value: impl Into<f64>) -> Self {
        self.separator = Some(value.into());
        self
    }

    /// Fills the last window up with this token, instead of leaving it out.
    pub fn pad(mut self, value: impl Into<f64>) -> Self {
        self.pad = Some(value.into());
        self
    }

    /// Cuts the layouts of a dataset, and learns how long its samples are.
    pub(super) fn resolve(
        &self,
        dataset: &Dataset,
        layouts: &mut [FieldLayout],
    ) -> Result<PackSteps> {
        if self.length == 0 || u32::try_from(self.length).is_err() {
            return Err(Error::invalid(format!(
                "packed windows have 1 to 4294967295 tokens, not {}",
                self.length
            )));
        }
        let schema = dataset.schema().fields();
        let mut fields = Vec::new();
        for layout in layouts.iter_mut() {
            let name = schema[layout.ordinal].name();
            let Some(at) = self.fields.iter().position(|field| field == name) else {
                return Err(Error::invalid(format!(
                    "field {name:?} is not packed, and cannot be delivered beside packed windows: select the fields {}",
                    self.fields.join(", ")
                )));
            };
            // Values are of the first field, whatever order fields are delivered in.
            let value = |value: Option<f64>| if at == 0 { value.unwrap_or(0.0) } else { 0.0 };
            let fills = [value(self.separator), value(self.pad)];
            *layout = layout.clone().cut(self.length)?.with_fills(fills)?;
            fields.push(layout.ordinal);
        }
        if fields.len() != self.fields.len() {
            return Err(Error::invalid(format!(
                "the fields {} are packed, but not all of them are delivered",
                self.fields.join(", ")
            )));
        }
        let steps = Steps::read(dataset, &fields)?;
        let longest = match &steps {
            Steps::Same(steps) => *steps,
            Steps::Each(each) => each.iter().copied().max().unwrap_or(0).into(),
        };
        if i32::try_from(longest.saturating_add(1)).is_err() {
            return Err(Error::limit(
                "tokens of a packed sample",
                2_147_483_646,
                longest,
            ));
        }
        Ok(PackSteps {
            options: self.clone(),
            steps,
        })
    }
}

/// The lengths of all samples of a dataset.
#[derive(Debug)]
pub(super) struct PackSteps {
    options: Pack,
    steps: Steps,
}

impl PackSteps {
    /// The windows of the samples that `resolve` selects of the first `num_shards` shards: their table and geometry, and
    /// the selection in a word.
    pub(super) fn table(
        &self,
        dataset: &Dataset,
        num_shards: u64,
        resolve: impl FnOnce(u64) -> Result<(Selected, String)>,
    ) -> Result<(PackTable, Geometry, String)> {
        let samples = Geometry::new(dataset, num_shards)?;
        let (selected, word) = resolve(samples.total())?;
        let samples = samples.select(selected);
        let table = PackTable::new(samples, &self.options, &self.steps)?;
        let geometry = Geometry::of_blocks(table.num_windows, table.block);
        Ok((table, geometry, word))
    }
}

/// The stream of the selected samples, and its windows.
#[derive(Debug)]
pub(super) struct PackTable {
    /// Where samples are, and which are selected.
    samples: Geometry,
    length: u64,
    /// 1 if there are separators.
    separator: u64,
    ends: Ends,
    num_windows: u64,
    /// Windows that count as a chunk.
    block: u32,
    word: String,
}

/// Where samples end in the stream.
#[derive(Debug)]
enum Ends {
    /// All are as long: with separators.
    Same(u64),
    Each(Vec<u64>),
}

impl PackTable {
    fn new(samples: Geometry, options: &Pack, steps: &Steps) -> Result<Self> {
        let separator = u64::from(options.separator.is_some());
        let n = samples.len();
        let too_long = || Error::limit("tokens of packed samples", u64::MAX, u64::MAX);
        let (ends, total) = match steps {
            Steps::Same(steps) => {
                let each = steps.saturating_add(separator);
                (Ends::Same(each), each.checked_mul(n).ok_or_else(too_long)?)
            }
            Steps::Each(each) => {
                let mut ends = Vec::new();
                let mut end = 0u64;
                for i in 0..n {
                    let sample = usize::try_from(samples.selected().get(i));
                    let steps = sample.ok().and_then(|sample| each.get(sample));
                    let steps = u64::from(steps.copied().unwrap_or(0)) + separator;
                    end = end.checked_add(steps).ok_or_else(too_long)?;
                    ends.push(end);
                }
                (Ends::Each(ends), end)
            }
        };
        let length = options.length as u64;
        let num_windows = match options.pad {
            Some(_) => total.div_ceil(length),
            None => total / length,
        };
        let block = num_windows.div_ceil(samples.num_chunks().max(1)).max(1);
        let block = u32::try_from(block).map_err(|_| {
            Error::invalid("chunks have more than 4294967295 packed windows: choose longer ones")
        })?;
        let value = |value: Option<f64>| value.map_or("none".to_owned(), |x| x.to_string());
        let mut word = format!(
            "{length}, separator {}, pad {}",
            value(options.separator),
            value(options.pad)
        );
        if let Ends::Each(ends) = &ends {
            let digest = ends.iter().fold(5, |digest, &end| hash(digest, end));
            word = format!("{word}, {}", hex(digest));
        }
        Ok(Self {
            samples,
            length,
            separator,
            ends,
            num_windows,
            block,
            word,
        })
    }

    /// Tokens of a window.
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    pub(super) fn num_windows(&self) -> u64 {
        self.num_windows
    }

    /// Options and lengths in a word, for states.
    pub(super) fn word(&self) -> &str {
        &self.word
    }

    /// Where the `i`-th sample begins and ends in the stream.
    fn extent(&self, i: u64) -> (u64, u64) {
        match &self.ends {
            Ends::Same(each) => (i * each, (i + 1) * each),
            Ends::Each(ends) => {
                let end = |i: u64| usize::try_from(i).ok().and_then(|i| ends.get(i).copied());
                let start = i.checked_sub(1).and_then(end).unwrap_or(0);
                (start, end(i).unwrap_or(start))
            }
        }
    }

    /// The sample that holds a token of the stream; the last one if none does.
    fn find(&self, token: u64) -> u64 {
        let i = match &self.ends {
            Ends::Same(each) => token / each.max(&1),
            Ends::Each(ends) => ends.partition_point(|&end| end <= token) as u64,
        };
        i.min(self.samples.len().saturating_sub(1))
    }

    /// What a window is made of.
    pub(super) fn segments(&self, window: u64) -> Vec<Segment> {
        let start = window * self.length;
        let end = start.saturating_add(self.length);
        let mut segments = Vec::new();
        let mut i = self.find(start);
        let mut at = start;
        while at < end && i < self.samples.len() {
            let (from, to) = self.extent(i);
            let len = to.min(end).saturating_sub(at);
            if len > 0 {
                // Below the length, a u32.
                let small = |x: u64| usize::try_from(x).unwrap_or(usize::MAX);
                let sample = self.samples.selected().get(i);
                let segment = Segment::new(sample, at - from, small(at - start), small(len));
                segments.push(segment);
            }
            at += len;
            i += 1;
        }
        segments
    }

    /// The sample of a window's first token.
    pub(super) fn sample_of(&self, window: u64) -> u64 {
        self.samples.selected().get(self.find(window * self.length))
    }

    /// The visits of chunks that a visit of windows is. Slots are tokens.
    pub(super) fn visits(&self, visit: &Visit) -> Vec<PartVisit> {
        let mut found: Vec<(ChunkPlace, Part, Entry)> = Vec::new();
        for entry in &visit.entries {
            for i in 0..entry.count {
                let window = visit.place.first_sample + u64::from(entry.row + i);
                self.take(window, entry.batch, entry.slot + i, &mut found);
            }
        }
        let key = |(place, part, _): &(ChunkPlace, Part, Entry)| {
            (place.first_sample, part.row, part.first)
        };
        found.sort_by_key(key);
        let mut visits: Vec<PartVisit> = Vec::new();
        for (place, part, entry) in found {
            let place = ChunkPlace {
                source: visit.place.source,
                ..place
            };
            if visits.last().is_none_or(|last| last.place != place) {
                visits.push(PartVisit {
                    place,
                    entries: Vec::new(),
                    keeps: Vec::new(),
                    parts: Vec::new(),
                    sparse: false,
                });
            }
            if let Some(last) = visits.last_mut() {
                last.entries.push(entry);
                last.parts.push(part);
            }
        }
        for visit in &mut visits {
            let rows = visit.parts.chunk_by(|a, b| a.row == b.row).count() as u64;
            let samples = u64::from(visit.place.num_samples);
            // How much of a single sample there is, is not known.
            visit.sparse = samples == 1 || rows * 2 < samples;
        }
        visits
    }

    /// Lists what goes to the slots of a window.
    fn take(&self, window: u64, batch: u64, slot: u32, found: &mut Vec<(ChunkPlace, Part, Entry)>) {
        let first_slot = u64::from(slot) * self.length;
        let mut push = |place: ChunkPlace, sample: u64, what, first: u64, at: u64, len: u64| {
            let row = narrow(sample - place.first_sample);
            let part = Part {
                row,
                first,
                len,
                what,
            };
            let entry = Entry {
                row,
                count: narrow(len),
                batch,
                slot: narrow(first_slot + at),
            };
            if len > 0 {
                found.push((place, part, entry));
            }
        };
        let mut filled = 0;
        for segment in self.segments(window) {
            let (sample, first) = (segment.sample_id, segment.first);
            let (at, len) = (segment.position as u64, segment.len as u64);
            filled = at + len;
            let place = self.samples.locate(sample);
            // The separator is the last token of its sample, which is the end of this segment or beyond it.
            let steps = self.steps_of(window * self.length + at);
            let values = steps.saturating_sub(first).min(len);
            push(place, sample, What::Steps, first, at, values);
            push(
                place,
                sample,
                What::Separator,
                steps,
                at + values,
                len - values,
            );
        }
        if filled < self.length {
            let sample = self.sample_of(window);
            let place = self.samples.locate(sample);
            push(
                place,
                sample,
                What::Padding,
                0,
                filled,
                self.length - filled,
            );
        }
    }

    /// The tokens of the sample that holds a token of the stream, without the separator.
    fn steps_of(&self, token: u64) -> u64 {
        let (from, to) = self.extent(self.find(token));
        to - from - self.separator
    }
}

/// Rows and slots are a u32: checked when batches begin.
fn narrow(x: u64) -> u32 {
    u32::try_from(x).unwrap_or(u32::MAX)
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "small numbers")]
mod tests {
    use super::*;
    use crate::loader::order::golden;

    #[test]
    fn golden_orders_of_packed_windows_are_reproduced() {
        let cases = golden::cases(include_str!("../../tests/data/orders/packed.json"));
        assert!(cases.len() > 30);
        for case in cases {
            let mut options = Pack::new("tokens", case.number("length") as usize);
            if case.number("separator") == 1 {
                options = options.separator(1);
            }
            if case.get("pad").as_bool().unwrap() {
                options = options.pad(0);
            }
            let steps = case.list("steps").into_iter().map(|n| n as u32).collect();
            let steps = Steps::Each(steps);
            let table = PackTable::new(case.geometry(), &options, &steps).unwrap();
            let windows = case.get("windows").as_array().unwrap();
            assert_eq!(table.num_windows, windows.len() as u64);
            for (i, window) in (0..).zip(windows) {
                let expected = window.as_array().unwrap().iter().map(golden::list);
                let found = table.segments(i).into_iter().map(|segment| {
                    let (position, len) = (segment.position as u64, segment.len as u64);
                    vec![segment.sample_id, segment.first, position, len]
                });
                let found: Vec<Vec<u64>> = found.collect();
                assert_eq!(found, expected.collect::<Vec<_>>());
            }
            let blocks = Geometry::of_blocks(table.num_windows, table.block);
            let (mut track, n) = case.track(blocks);
            let order: Vec<u64> = (0..n).map(|i| track.at(i).unwrap()).collect();
            assert_eq!(order, case.list("order"));
        }
    }

    #[test]
    fn samples_of_one_length_are_packed_as_those_that_happen_to_have_it() {
        let geometry = || Geometry::of(&[(8, 4), (5, 4)]);
        let options = Pack::new("tokens", 4).separator(1).pad(0);
        let same = PackTable::new(geometry(), &options, &Steps::Same(6)).unwrap();
        let each = PackTable::new(geometry(), &options, &Steps::Each(vec![6; 13])).unwrap();
        assert_eq!(same.num_windows, each.num_windows);
        for token in 0..13 * 7 + 5 {
            assert_eq!(same.find(token), each.find(token));
            assert_eq!(same.find(token), (token / 7).min(12));
            assert_eq!(same.steps_of(token), 6);
        }
        for window in 0..same.num_windows {
            let segments = |table: &PackTable| format!("{:?}", table.segments(window));
            assert_eq!(segments(&same), segments(&each));
        }
    }

    #[test]
    fn chunks_of_which_little_is_wanted_are_sparse() {
        let options = Pack::new("tokens", 6);
        let table = PackTable::new(Geometry::of(&[(8, 4)]), &options, &Steps::Same(6)).unwrap();
        let visit = |windows: &[u32]| {
            let entry = |(slot, &row): (u32, &u32)| Entry {
                row,
                count: 1,
                batch: 0,
                slot,
            };
            Visit {
                place: ChunkPlace {
                    source: 0,
                    shard: 0,
                    chunk: 0,
                    first_sample: 0,
                    num_samples: 8,
                },
                entries: (0..).zip(windows).map(entry).collect(),
                keeps: Vec::new(),
            }
        };
        let sparse = |windows: &[u32]| {
            let visits = table.visits(&visit(windows));
            visits.iter().map(|visit| visit.sparse).collect::<Vec<_>>()
        };
        assert_eq!(sparse(&[0, 1, 2, 3]), [false]);
        assert_eq!(sparse(&[2]), [true]);
        assert_eq!(sparse(&[1, 3, 4]), [false, true]);
        // Three of ten samples, or of six.
        for (num_samples, is_sparse) in [(10, true), (6, false)] {
            let geometry = Geometry::of(&[(num_samples.into(), num_samples)]);
            let table = PackTable::new(geometry, &options, &Steps::Same(6)).unwrap();
            let mut visit = visit(&[0, 1, 2]);
            visit.place.num_samples = num_samples;
            assert_eq!(table.visits(&visit)[0].sparse, is_sparse, "{num_samples}");
        }
    }
}
