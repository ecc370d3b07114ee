//! [`Planner`]: measures encodings on a sample of a field, on this machine, and picks one.

mod candidates;
mod choose;
mod measure;
mod sample;

use std::fmt;
use std::ops::Range;

use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::quant::NonFinite;
use crate::tensor::TensorView;

use super::{ErrorReport, FieldSpec};
use choose::Request;
use sample::Sample;

/// What a [`Planner`] optimizes.
///
/// Of the encodings that meet the request, it picks the one with the lowest `stored / raw + lambda * memcpy / decode`,
/// where the last term is the decode speed as measured, as a fraction of that of a memcpy of the same bytes. In other
/// words: bytes plus decode time, where lambda is the bytes that a source delivers while a memcpy delivers one. Scores
/// within 3% of the best count as equal; of these the smallest is taken, and the simplest where sizes differ by less than
/// 1% of the raw bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Goal {
    /// lambda = 1: data that is read from memory, over and over.
    Fast,
    /// lambda = 0.1: data that comes from a local disk of about 1 GB/s a core.
    #[default]
    Balanced,
    /// lambda = 0: the fewest bytes, whatever it takes to decode them. The choice depends on no clock.
    Small,
}

/// One row a goal: name, lambda.
const GOALS: [(Goal, &str, f64); 3] = [
    (Goal::Fast, "fast", 1.0),
    (Goal::Balanced, "balanced", 0.1),
    (Goal::Small, "small", 0.0),
];

impl Goal {
    /// Every goal.
    pub fn all() -> impl Iterator<Item = Self> {
        GOALS.iter().map(|row| row.0)
    }

    /// The name in the CLI.
    pub fn name(self) -> &'static str {
        GOALS[self as usize].1
    }

    /// Bytes that the source of the data delivers while a memcpy delivers one.
    pub fn lambda(self) -> f64 {
        GOALS[self as usize].2
    }

    /// The goal with this name.
    ///
    /// # Errors
    /// `InvalidArgument` that lists the names there are.
    pub fn parse(name: &str) -> Result<Self> {
        let row = GOALS.iter().find(|row| row.1 == name);
        row.map(|row| row.0).ok_or_else(|| {
            Error::invalid(format!(
                "there is no goal {name:?}; the goals are fast, balanced and small"
            ))
        })
    }
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Picks encodings by measuring them on a sample of the data. Defaults: lossless, [`Goal::Balanced`].
///
/// ```
/// use tensorshard::{DType, FieldSpec, Goal, Planner, TensorView, to_le_bytes};
/// # fn main() -> tensorshard::Result<()> {
/// let field = FieldSpec::new("tokens", DType::I64, [128]);
/// let tokens: Vec<i64> = (0..64 * 128).map(|i| i * i % 5000).collect();
/// let bytes = to_le_bytes(&tokens);
/// let sample = TensorView::new(DType::I64, &[64, 128], &bytes)?;
/// let plan = Planner::new(Goal::Small).plan(&field, &[sample])?;
/// assert!(plan.pick(Goal::Small).ratio() > 2.0);
/// let field = plan.field(); // for a ShardWriter
/// # assert_eq!(field.name(), "tokens");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct Planner {
    goal: Goal,
    request: Request,
    all_encodings: bool,
    non_finite: NonFinite,
}

impl Default for Planner {
    fn default() -> Self {
        Self {
            goal: Goal::default(),
            request: Request::Lossless,
            all_encodings: false,
            // One NaN in all the data must not end a conversion that was planned on a sample without it.
            non_finite: NonFinite::Patch,
        }
    }
}

impl Planner {
    /// Bytes of a range that [`Planner::sample_ranges`] chooses, unless a sample is larger.
    const RANGE_BYTES: u64 = 128 << 10;
    /// Ranges that are spread over the data.
    const RANGES: u64 = 16;

    /// A planner of lossless encodings.
    pub fn new(goal: Goal) -> Self {
        Self {
            goal,
            ..Self::default()
        }
    }

    /// Asks for the largest |decoded - source| that an element of a float field may have, as a guarantee for every
    /// element: encodings that merely happened to stay below it on the sample do not count. Fields that are no floats
    /// stay lossless.
    pub fn max_error(mut self, bound: f64) -> Self {
        self.request = Request::MaxError(bound);
        self
    }

    /// Asks for the least error in at most this many stored bits for each value of a float field, scales included (and
    /// 1% more). Encodings within 1 dB of the best signal-to-noise ratio count as equal; the goal decides among them.
    /// Fields that are no floats stay lossless.
    pub fn target_bits(mut self, bits: f64) -> Self {
        self.request = Request::TargetBits(bits);
        self
    }

    /// What quantizers do with elements they cannot represent: [`NonFinite::Patch`] by default.
    pub fn non_finite(mut self, policy: NonFinite) -> Self {
        self.non_finite = policy;
        self
    }

    /// Also measures encodings that cannot meet the request, for comparison. They are never picked.
    pub fn all_encodings(mut self, all: bool) -> Self {
        self.all_encodings = all;
        self
    }

    /// Which samples to look at: ranges of whole samples, spread evenly, 2 MiB in all (all samples if they are fewer,
    /// more if a sample is large).
    pub fn sample_ranges(num_samples: u64, raw_bytes: u64) -> Vec<Range<u64>> {
        let sample_bytes = raw_bytes.div_ceil(num_samples.max(1)).max(1);
        let length = (Self::RANGE_BYTES / sample_bytes).max(1);
        let count = (Self::RANGES * Self::RANGE_BYTES)
            .div_ceil(length.saturating_mul(sample_bytes))
            .min(Self::RANGES);
        if num_samples <= length.saturating_mul(count) {
            return std::iter::once(0..num_samples)
                .filter(|range| !range.is_empty())
                .collect();
        }
        let last = num_samples - length;
        (0..count)
            .map(|i| {
                let first = if count == 1 {
                    last / 2
                } else {
                    // No more than `last`.
                    let first = u128::from(last) * u128::from(i) / u128::from(count - 1);
                    u64::try_from(first).unwrap_or(last)
                };
                first..first + length
            })
            .collect()
    }

    /// Measures encodings of `field` on `blocks` and picks one. A block of a field of fixed shape is an array whose
    /// first axis counts samples; a block of a ragged field is one sample. Stages that were set on the field are kept.
    ///
    /// # Errors
    /// `InvalidArgument` if there is nothing to measure, blocks do not fit the field, the request makes no sense, or no
    /// encoding meets it.
    pub fn plan(&self, field: &FieldSpec, blocks: &[TensorView<'_>]) -> Result<Plan> {
        self.plan_watched(field, blocks, &|_, _| ())
    }

    /// [`Planner::plan`], which calls `watch` with the number of steps that are done and of all.
    ///
    /// # Errors
    /// As [`Planner::plan`].
    pub fn plan_watched(
        &self,
        field: &FieldSpec,
        blocks: &[TensorView<'_>],
        watch: &dyn Fn(u64, u64),
    ) -> Result<Plan> {
        let in_field = |e: Error| e.in_field(field.name());
        self.request.check().map_err(in_field)?;
        let request = self.request.of(field);
        let sample = Sample::new(field, blocks).map_err(in_field)?;
        let all = self.all_encodings;
        let candidates =
            candidates::list(field, request, all, self.non_finite, &sample).map_err(in_field)?;
        let (mut encodings, memcpy_bytes_per_s) =
            measure::measure(&candidates, &sample, watch).map_err(in_field)?;
        for encoding in &mut encodings {
            encoding.meets = request.is_met_by(encoding);
        }
        choose::mark_pareto(request, &mut encodings);
        let mut picks = [0; GOALS.len()];
        for goal in Goal::all() {
            picks[goal as usize] = choose::pick(goal, request, &encodings, memcpy_bytes_per_s)
                .ok_or_else(|| choose::unmet(request, &encodings))
                .map_err(in_field)?;
        }
        Ok(Plan {
            goal: self.goal,
            request,
            sample_bytes: sample.raw_bytes(),
            memcpy_bytes_per_s,
            encodings,
            picks,
        })
    }
}

/// One encoding, measured on a sample.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct MeasuredEncoding {
    /// The field in this encoding. Static scales are not set: they need a pass over all data.
    pub field: FieldSpec,
    /// Quantizer, filters and codec, for people.
    pub encoding: String,
    /// Bytes of the sample as they were given.
    pub raw_bytes: u64,
    /// Bytes of the encoded sample, scales and shapes included.
    pub stored_bytes: u64,
    /// Elements of the sample.
    pub num_elements: u64,
    /// Delivered bytes a second of one thread: checksum, codec, filters, dequantizing, into a buffer that is in no cache.
    pub decode_bytes_per_s: f64,
    /// Source bytes a second of one thread.
    pub encode_bytes_per_s: f64,
    /// The measured error; `None` if decoded bytes equal source bytes.
    pub error: Option<ErrorReport>,
    /// True if the request is met.
    pub meets: bool,
    /// True if it meets the request (with target bits: about as well as any), and no other encoding that does is both
    /// smaller and faster to decode.
    pub pareto: bool,
    /// The quantizer promises the requested bound for every element, or none is needed.
    bounded: bool,
}

impl MeasuredEncoding {
    /// raw_bytes / stored_bytes.
    pub fn ratio(&self) -> f64 {
        self.raw_bytes as f64 / (self.stored_bytes as f64).max(1.0)
    }

    /// Stored bits for each value, scales included.
    pub fn bits_per_value(&self) -> f64 {
        self.stored_bytes as f64 * 8.0 / (self.num_elements as f64).max(1.0)
    }

    /// The largest |decoded - source|; 0 if lossless.
    pub fn max_abs_error(&self) -> f64 {
        self.error.map_or(0.0, |error| error.max_abs_error)
    }

    /// The signal-to-noise ratio in dB; infinite if lossless.
    pub fn snr_db(&self) -> f64 {
        self.error.map_or(f64::INFINITY, |error| error.snr_db())
    }

    /// The options of `tensorshard convert` that ask for this encoding.
    pub fn options(&self) -> String {
        self.field.options()
    }
}

/// Encodings that were measured, and which of them to take: made by [`Planner::plan`].
#[derive(Clone, Debug)]
pub struct Plan {
    goal: Goal,
    request: Request,
    sample_bytes: u64,
    memcpy_bytes_per_s: f64,
    encodings: Vec<MeasuredEncoding>,
    picks: [usize; GOALS.len()],
}

impl Plan {
    /// Every encoding that was measured, simple ones first.
    pub fn encodings(&self) -> &[MeasuredEncoding] {
        &self.encodings
    }

    /// The encoding to take for a goal.
    pub fn pick(&self, goal: Goal) -> &MeasuredEncoding {
        &self.encodings[self.picks[goal as usize]]
    }

    /// The field in the encoding of the planner's goal. A writer records [`Plan::reasons`] with it.
    pub fn field(&self) -> FieldSpec {
        self.pick(self.goal)
            .field
            .clone()
            .with_reasons(self.reasons())
    }

    /// The planner's goal.
    pub fn goal(&self) -> Goal {
        self.goal
    }

    /// What was asked for: `lossless`, `max-error 0.1`, `target-bits 8`.
    pub fn request(&self) -> String {
        self.request.to_string()
    }

    /// Bytes of the sample.
    pub fn sample_bytes(&self) -> u64 {
        self.sample_bytes
    }

    /// What a memcpy of the sample did, measured in turn with the encodings.
    pub fn memcpy_bytes_per_s(&self) -> f64 {
        self.memcpy_bytes_per_s
    }

    /// Why: the request, what was picked, and the Pareto choices. For people; it never steers reading. Without speeds
    /// for [`Goal::Small`], for which they played no part.
    pub fn reasons(&self) -> Value {
        let timed = self.goal != Goal::Small;
        let row = |encoding: &MeasuredEncoding| {
            let mut row = json!({
                "encoding": encoding.encoding,
                "ratio": rounded(encoding.ratio(), 4),
            });
            if encoding.error.is_some() {
                row["max_error"] = json!(rounded(encoding.max_abs_error(), 4));
                row["snr_db"] = json!(rounded(encoding.snr_db(), 4));
            }
            if timed {
                let times = encoding.decode_bytes_per_s / self.memcpy_bytes_per_s;
                row["decode_gb_per_s"] = json!(rounded(encoding.decode_bytes_per_s / 1e9, 3));
                row["times_memcpy"] = json!(rounded(times, 3));
            }
            row
        };
        let picked = self.pick(self.goal);
        let others: Vec<Value> = self
            .encodings
            .iter()
            .filter(|other| {
                other.meets && other.encoding != picked.encoding && (other.pareto || !timed)
            })
            .map(row)
            .collect();
        json!({
            "request": self.request.to_string(),
            "goal": self.goal.name(),
            "sample_bytes": self.sample_bytes,
            "picked": row(picked),
            "others": others,
        })
    }
}

/// To this many significant digits: a figure measured is not more exact than that.
fn rounded(x: f64, digits: usize) -> f64 {
    format!("{x:.*e}", digits.saturating_sub(1))
        .parse()
        .unwrap_or(x)
}

#[cfg(test)]
mod tests;
