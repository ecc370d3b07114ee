//! Batches of parts of samples: windows of their steps, and packed ones.

use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::format::schema::Kind;
use crate::shard::Form;
use crate::tensor::num_elements;

use super::{Batch, FieldLayout};

/// What the samples of a batch are parts of.
#[derive(Clone, Debug, Default)]
pub(crate) enum BatchParts {
    /// They are whole.
    #[default]
    Whole,
    /// The first step of each window.
    Windows(Vec<u64>),
    Packed(PackedSegments),
}

/// A part of a sample in a packed window ([`crate::Pack`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Segment {
    /// The sample.
    pub sample_id: u64,
    /// Its first token that is here: 0, unless the sample began in the window before.
    pub first: u64,
    /// Where that token is in the window.
    pub position: usize,
    /// Tokens, with the separator if it is here.
    pub len: usize,
}

impl Segment {
    pub(crate) fn new(sample_id: u64, first: u64, position: usize, len: usize) -> Self {
        Self {
            sample_id,
            first,
            position,
            len,
        }
    }
}

/// The segments of the windows of a batch.
#[derive(Clone, Debug)]
pub(crate) struct PackedSegments {
    /// Tokens of a window.
    length: usize,
    segments: Vec<Segment>,
    /// Where those of each window end.
    ends: Vec<usize>,
}

impl PackedSegments {
    /// Of no windows yet, which have so many tokens.
    pub(crate) fn new(length: u64) -> Self {
        Self {
            length: usize::try_from(length).unwrap_or(usize::MAX),
            segments: Vec::new(),
            ends: Vec::new(),
        }
    }

    /// Adds a window, whose samples are those of a dataset whose first sample has this id.
    pub(crate) fn push(&mut self, mut segments: Vec<Segment>, first_id: u64) {
        for segment in &mut segments {
            segment.sample_id += first_id;
        }
        self.segments.append(&mut segments);
        self.ends.push(self.segments.len());
    }

    fn of(&self, window: usize) -> &[Segment] {
        let Some(&end) = self.ends.get(window) else {
            return &[];
        };
        let start = window.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.segments[start..end]
    }

    /// Numbers for the tokens of every segment, of which there are at most `i32::MAX` in a sample; `outside` where there
    /// is padding.
    fn tokens(&self, outside: i32, mut fill: impl FnMut(&mut [i32], i32, &Segment)) -> Vec<i32> {
        let mut out = vec![outside; self.length.saturating_mul(self.ends.len())];
        for (window, out) in out.chunks_exact_mut(self.length.max(1)).enumerate() {
            for (i, segment) in (0..).zip(self.of(window)) {
                fill(&mut out[segment.position..][..segment.len], i, segment);
            }
        }
        out
    }

    fn retain(&mut self, keep: &[bool]) {
        let mut new = Self::new(self.length as u64);
        for window in (0..self.ends.len()).filter(|&i| keep.get(i) == Some(&true)) {
            new.push(self.of(window).to_vec(), 0);
        }
        *self = new;
    }
}

impl Batch {
    /// Where samples are cut in windows ([`crate::Windows`]): the step that each window begins with, in its sample.
    pub fn window_starts(&self) -> Option<&[u64]> {
        match &self.parts {
            BatchParts::Windows(starts) => Some(starts),
            BatchParts::Whole | BatchParts::Packed(_) => None,
        }
    }

    /// Where samples are packed ([`crate::Pack`]): what window `i` is made of, in its order; else nothing.
    pub fn segments(&self, i: usize) -> &[Segment] {
        match &self.parts {
            BatchParts::Packed(packed) => packed.of(i),
            BatchParts::Whole | BatchParts::Windows(_) => &[],
        }
    }

    /// Where samples are packed: for each token the number of its segment in its window, from 0, and -1 for padding;
    /// shape `[windows, length]`, row-major.
    pub fn segment_ids(&self) -> Option<Vec<i32>> {
        Some(self.packed()?.tokens(-1, |out, i, _| out.fill(i)))
    }

    /// Where samples are packed: for each token its place in its sample, from 0, and 0 for padding; shape
    /// `[windows, length]`, row-major.
    pub fn positions(&self) -> Option<Vec<i32>> {
        let places = |out: &mut [i32], _: i32, segment: &Segment| {
            let first = i32::try_from(segment.first).unwrap_or(i32::MAX);
            for (place, out) in (first..).zip(out) {
                *out = place;
            }
        };
        Some(self.packed()?.tokens(0, places))
    }

    fn packed(&self) -> Option<&PackedSegments> {
        match &self.parts {
            BatchParts::Packed(packed) => Some(packed),
            BatchParts::Whole | BatchParts::Windows(_) => None,
        }
    }
}

impl BatchParts {
    /// Keeps those of some of the samples.
    pub(super) fn retain(&mut self, keep: &[bool]) {
        let mut kept = keep.iter();
        match self {
            Self::Whole => {}
            Self::Windows(starts) => starts.retain(|_| kept.next().copied().unwrap_or(true)),
            Self::Packed(packed) => packed.retain(keep),
        }
    }
}

impl FieldLayout {
    /// The layout of parts of `length` steps: indices of the first axis, the only one that may vary.
    ///
    /// # Errors
    /// `InvalidArgument` for fields that have no steps, or whose steps differ.
    pub(crate) fn cut(mut self, length: usize) -> Result<Self> {
        let refuse = |why: &str| Err(Error::invalid(why.to_owned()).in_field(&*self.name));
        if self.kind != Kind::Tensor {
            return refuse("text and bytes have no steps: name the fields that are cut");
        }
        let Some((_, rest)) = self.dims.split_first() else {
            return refuse("a field that is cut has a first axis: name the fields that are cut");
        };
        let rest: Option<Vec<usize>> = rest.iter().copied().collect();
        let Some(rest) = rest else {
            return refuse("only the first axis of a field that is cut may vary");
        };
        if matches!(self.form, Form::Codes) {
            return refuse("a field that is cut is delivered dequantized");
        }
        let step = num_elements(&rest).and_then(|n| n.checked_mul(self.dtype.size()));
        let bytes = step.and_then(|step| step.checked_mul(length));
        let (Some(step), Some(bytes)) = (step, bytes) else {
            return refuse("a part would have more bytes than there are");
        };
        if step == 0 {
            return refuse("a step of a field that is cut has at least one value");
        }
        let shape = std::iter::once(length).chain(rest).collect();
        self.dims[0] = Some(length);
        self.fixed = Some((shape, bytes));
        self.step = Some(step);
        Ok(self)
    }

    /// The first dim, `None` if it varies, of a tensor that has one.
    pub(crate) fn first_dim(&self) -> Option<Option<usize>> {
        let dims = (self.kind == Kind::Tensor).then_some(&self.dims)?;
        dims.first().copied()
    }

    /// The layout of packed parts with these separators and padding.
    ///
    /// # Errors
    /// `InvalidArgument` if the dtype does not have the values.
    pub(crate) fn with_fills(mut self, values: [f64; 2]) -> Result<Self> {
        for (fill, value) in self.fills.iter_mut().zip(values) {
            *fill = element(self.dtype, value).ok_or_else(|| {
                Error::invalid(format!(
                    "{value} is no value of {}",
                    self.dtype.with_article()
                ))
                .in_field(&*self.name)
            })?;
        }
        Ok(self)
    }

    /// The bytes of the separator's and of the padding's elements.
    pub(crate) fn fills(&self) -> &[Vec<u8>; 2] {
        &self.fills
    }

    /// Bytes of a step, where parts are delivered.
    pub(crate) fn step(&self) -> Option<usize> {
        self.step
    }

    /// Elements of a step, where parts are delivered.
    pub(crate) fn step_elements(&self) -> Option<usize> {
        Some(self.step? / self.dtype.size())
    }

    /// True if samples of any shape lie in a batch as they are: each one array, without padding.
    pub(crate) fn is_plain(&self) -> bool {
        self.num_arrays() == 1 && (!self.is_ragged() || self.ragged == super::Ragged::Concatenated)
    }
}

/// The bytes of one element; `None` if the dtype has no such value.
fn element(dtype: DType, value: f64) -> Option<Vec<u8>> {
    if value == 0.0 {
        return Some(vec![0; dtype.size()]);
    }
    // By way of text: exact, and out of range is an error.
    let whole = || (value.fract() == 0.0).then(|| format!("{value:.0}"));
    Some(match dtype {
        DType::Bool => (value == 1.0).then(|| vec![1])?,
        DType::U8 => whole()?.parse::<u8>().ok()?.to_le_bytes().to_vec(),
        DType::U16 => whole()?.parse::<u16>().ok()?.to_le_bytes().to_vec(),
        DType::U32 => whole()?.parse::<u32>().ok()?.to_le_bytes().to_vec(),
        DType::U64 => whole()?.parse::<u64>().ok()?.to_le_bytes().to_vec(),
        DType::I8 => whole()?.parse::<i8>().ok()?.to_le_bytes().to_vec(),
        DType::I16 => whole()?.parse::<i16>().ok()?.to_le_bytes().to_vec(),
        DType::I32 => whole()?.parse::<i32>().ok()?.to_le_bytes().to_vec(),
        DType::I64 => whole()?.parse::<i64>().ok()?.to_le_bytes().to_vec(),
        DType::F16 => half::f16::from_f64(value).to_le_bytes().to_vec(),
        DType::BF16 => half::bf16::from_f64(value).to_le_bytes().to_vec(),
        DType::F32 => format!("{value:e}")
            .parse::<f32>()
            .ok()?
            .to_le_bytes()
            .to_vec(),
        DType::F64 => value.to_le_bytes().to_vec(),
        DType::F8E4M3FN | DType::F8E5M2 => return None,
    })
}
