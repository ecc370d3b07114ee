//! Predict: each element minus what its neighbours in the sample say, modulo 2^bits (format-spec 8.1).

mod choose;
mod window;

use std::fmt;

pub(crate) use choose::{ModeChooser, choose};
pub(crate) use window::{Cut, Window};

use crate::error::{Error, Result};
use crate::kernel::predict::{self, Axis, Channels, Grid, Sums};

use super::{ELEM_SIZES, Filter, FilterId, FilterSpec, Layout, Steps};

/// Which neighbours the [`FilterId::PREDICT`] filter subtracts. Axes count from the last one that is not the channel
/// axis; one that a sample does not have is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PredictMode {
    /// None: only the reference channel.
    None,
    /// The one before along the last axis.
    Left,
    /// The one before along the second last axis.
    Up,
    /// Left + up - upper left: the Lorenzo predictor of the last two axes.
    Plane,
    /// The Lorenzo predictor of the last three axes.
    Volume,
    /// Every chunk has the mode of these that pays most.
    Chunk,
}

impl PredictMode {
    /// The number on disk.
    pub(crate) fn id(self) -> u8 {
        let place = MODES.iter().position(|(mode, _)| *mode == self);
        place.and_then(|id| u8::try_from(id).ok()).unwrap_or(0)
    }

    /// The mode of a chunk with this number.
    ///
    /// # Errors
    /// `Corrupt` if there is none.
    pub(crate) fn of_chunk(id: u16) -> Result<Self> {
        let found = MODES.get(usize::from(id)).map(|(mode, _)| *mode);
        found
            .filter(|mode| *mode != Self::Chunk)
            .ok_or_else(|| Error::corrupt("predict_mode of a stream", "0 to 4", id))
    }
}

/// Name of every mode; its place is its number on disk.
const MODES: [(PredictMode, &str); 6] = [
    (PredictMode::None, "none"),
    (PredictMode::Left, "left"),
    (PredictMode::Up, "up"),
    (PredictMode::Plane, "2d"),
    (PredictMode::Volume, "3d"),
    (PredictMode::Chunk, "chunk"),
];

/// The options of the [`FilterId::PREDICT`] filter. Default: `Plane`, no channels, no zigzag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Predict {
    mode: PredictMode,
    channel_axis: Option<u8>,
    reference: Option<u8>,
    zigzag: bool,
}

/// For an axis or a channel that there is not.
const NONE: u8 = 255;
/// Bit 0 of the flags.
const ZIGZAG: u8 = 1;
/// Of red, green and blue: green.
const DEFAULT_REFERENCE: u8 = 1;

impl Default for Predict {
    fn default() -> Self {
        Self::new(PredictMode::Plane)
    }
}

impl Predict {
    /// Prediction from these neighbours.
    pub fn new(mode: PredictMode) -> Self {
        Self {
            mode,
            channel_axis: None,
            reference: None,
            zigzag: false,
        }
    }

    /// Says which axis of the sample (0 = outermost) holds channels: no neighbours are taken along it.
    #[must_use]
    pub fn channel_axis(mut self, axis: u8) -> Self {
        self.channel_axis = Some(axis);
        self
    }

    /// Subtracts channel `reference` from all others first: for images 1, green. Needs a channel axis.
    #[must_use]
    pub fn reference(mut self, reference: u8) -> Self {
        self.reference = Some(reference);
        self
    }

    /// Maps differences of small size to small numbers, whatever their sign: their high bytes are 0.
    #[must_use]
    pub fn zigzag(mut self) -> Self {
        self.zigzag = true;
        self
    }

    pub(super) fn is_per_chunk(&self) -> bool {
        self.mode == PredictMode::Chunk
    }

    /// With the mode that a chunk has chosen, if chunks choose one.
    pub(super) fn in_chunk(self, chosen: PredictMode) -> Self {
        let mode = if self.is_per_chunk() {
            chosen
        } else {
            self.mode
        };
        Self { mode, ..self }
    }

    /// The same prediction, with a mode chosen for every chunk.
    pub(crate) fn per_chunk(self) -> Self {
        Self {
            mode: PredictMode::Chunk,
            ..self
        }
    }

    /// Reads `2d:channel=0:reference=1:zigzag`, the options of `predict`.
    pub(super) fn parse(options: &[&str]) -> Result<Self> {
        let mut predict = Self::default();
        let mut reference = Some(DEFAULT_REFERENCE);
        for option in options {
            let mode = MODES.iter().find(|(_, name)| name == option);
            match (mode, option.split_once('=')) {
                (Some((mode, _)), _) => predict.mode = *mode,
                (None, Some(("channel", axis)))
                    if axis.parse().is_ok_and(|axis: u8| axis < NONE) =>
                {
                    predict.channel_axis = axis.parse().ok();
                }
                (None, Some(("reference", "none"))) => reference = None,
                (None, Some(("reference", text))) if text.parse().is_ok_and(|r: u8| r < NONE) => {
                    reference = text.parse().ok();
                }
                (None, None) if *option == "zigzag" => predict.zigzag = true,
                _ => {
                    return Err(Error::invalid(format!(
                        "{option:?} is no option of predict; they are none, left, up, 2d, 3d, chunk, channel=AXIS, \
                         reference=CHANNEL (or none) and zigzag, as in predict:2d:channel=0"
                    )));
                }
            }
        }
        predict.reference = predict.channel_axis.and(reference);
        Ok(predict)
    }

    /// How samples of this shape are predicted.
    fn grid(&self, elem_size: usize, shape: &[usize]) -> Grid {
        let sample = shape
            .iter()
            .fold(elem_size, |n, &dim| n.saturating_mul(dim));
        let mut grid = Grid::new(elem_size, sample);
        grid.zigzag = self.zigzag;
        let (mut stride, mut spatial) = (elem_size, 0);
        for (i, &len) in shape.iter().enumerate().rev() {
            let axis = Axis { stride, len };
            stride = stride.saturating_mul(len);
            if self.channel_axis.is_some_and(|axis| usize::from(axis) == i) {
                let reference = self
                    .reference
                    .map(usize::from)
                    .filter(|&r| r < len && len > 1);
                grid.channels = reference.map(|reference| Channels { axis, reference });
                continue;
            }
            let wanted = match self.mode {
                // Of a chunk: the filter has the chunk's mode by then.
                PredictMode::None | PredictMode::Chunk => false,
                PredictMode::Left => spatial == 0,
                PredictMode::Up => spatial == 1,
                PredictMode::Plane => spatial < 2,
                PredictMode::Volume => spatial < 3,
            };
            if wanted {
                grid.predict_along(axis);
            }
            spatial += 1;
        }
        grid
    }
}

/// `:2d:channel=0:reference=1:zigzag`.
impl fmt::Display for Predict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = MODES.iter().find(|(mode, _)| *mode == self.mode);
        write!(f, ":{}", name.map_or("none", |(_, name)| name))?;
        if let Some(axis) = self.channel_axis {
            write!(f, ":channel={axis}")?;
            match self.reference {
                Some(reference) => write!(f, ":reference={reference}")?,
                None => write!(f, ":reference=none")?,
            }
        }
        if self.zigzag {
            f.write_str(":zigzag")?;
        }
        Ok(())
    }
}

pub(super) struct PredictFilter;

impl PredictFilter {
    /// Calls `f` with the grid, the place and the bytes of each part of the piece.
    fn each_part(
        spec: FilterSpec,
        layout: &dyn Layout,
        mut src: &[u8],
        mut dst: &mut [u8],
        f: fn(&Grid, usize, &[u8], &mut [u8]),
    ) {
        let elem_size = spec.elem_size();
        let predict = spec.predict.unwrap_or_default();
        layout.visit(&mut |part| {
            // As many as there are: a piece always holds what its layout says.
            let bytes = part.count.saturating_mul(elem_size);
            let bytes = bytes.min(src.len() - src.len() % elem_size);
            if bytes == 0 {
                return;
            }
            let (head, tail) = src.split_at(bytes);
            let (head_dst, tail_dst) = std::mem::take(&mut dst).split_at_mut(bytes);
            let grid = predict.grid(elem_size, part.shape);
            f(&grid, part.first.saturating_mul(elem_size), head, head_dst);
            (src, dst) = (tail, tail_dst);
        });
        dst.copy_from_slice(src);
    }
}

impl Filter for PredictFilter {
    fn id(&self) -> FilterId {
        FilterId::PREDICT
    }

    fn name(&self) -> &'static str {
        "predict"
    }

    fn since_minor(&self) -> u16 {
        1
    }

    fn parse_params(&self, params: &[u8]) -> Result<FilterSpec> {
        let wrong = || {
            Error::corrupt(
                "parameters of filter predict",
                "elem_size 1, 2, 4 or 8, mode 0 to 5, channel_axis and reference or 255, flags 0 or 1, reserved 0",
                format!("{params:?}"),
            )
        };
        let [elem_size, mode, channel_axis, reference, flags, 0] = *params else {
            return Err(wrong());
        };
        let mode = MODES.get(usize::from(mode)).ok_or_else(wrong)?.0;
        let needless = channel_axis == NONE && reference != NONE;
        if !ELEM_SIZES.contains(&elem_size) || needless || flags > ZIGZAG {
            return Err(wrong());
        }
        let some = |byte: u8| (byte != NONE).then_some(byte);
        Ok(FilterSpec {
            id: self.id(),
            elem_size,
            predict: Some(Predict {
                mode,
                channel_axis: some(channel_axis),
                reference: some(reference),
                zigzag: flags == ZIGZAG,
            }),
        })
    }

    fn emit_params(&self, spec: FilterSpec, out: &mut Vec<u8>) {
        let predict = spec.predict.unwrap_or_default();
        out.extend_from_slice(&[
            spec.elem_size,
            predict.mode.id(),
            predict.channel_axis.unwrap_or(NONE),
            predict.channel_axis.and(predict.reference).unwrap_or(NONE),
            if predict.zigzag { ZIGZAG } else { 0 },
            0,
        ]);
    }

    fn check(
        &self,
        spec: FilterSpec,
        stored_bits: u32,
        dims: Option<&[Option<usize>]>,
    ) -> std::result::Result<(), String> {
        if stored_bits < 8 {
            return Err(format!(
                "predict works on stored elements of 8, 16, 32 or 64 bits, not {stored_bits}; leave it out"
            ));
        }
        if spec.elem_size() * 8 != stored_bits as usize {
            return Err(format!(
                "predict with elements of {} bytes does not fit stored elements of {stored_bits} bits",
                spec.elem_size()
            ));
        }
        let predict = spec.predict.unwrap_or_default();
        if predict.reference.is_some() && predict.channel_axis.is_none() {
            return Err("predict with a reference channel needs a channel axis".to_owned());
        }
        let (Some(axis), Some(dims)) = (predict.channel_axis, dims) else {
            return Ok(());
        };
        let Some(dim) = dims.get(usize::from(axis)) else {
            return Err(format!(
                "channel axis {axis} of predict is beyond the {} dims of a sample",
                dims.len()
            ));
        };
        match (predict.reference, dim) {
            (Some(reference), Some(dim)) if usize::from(reference) >= *dim => Err(format!(
                "reference channel {reference} of predict is beyond the {dim} channels of a sample"
            )),
            _ => Ok(()),
        }
    }

    fn apply(&self, spec: FilterSpec, layout: &dyn Layout, src: &[u8], dst: &mut [u8]) {
        Self::each_part(spec, layout, src, dst, predict::apply);
    }

    fn undo(&self, spec: FilterSpec, layout: &dyn Layout, src: &[u8], dst: &mut [u8]) {
        Self::each_part(spec, layout, src, dst, predict::undo);
    }

    fn steps(&self, spec: FilterSpec, shape: &[usize]) -> Option<Box<dyn Steps>> {
        let predict = spec.predict.unwrap_or_default();
        let grid = predict.grid(spec.elem_size(), shape);
        Some(Box::new(predict::Steps::new(grid)))
    }
}

impl Steps for predict::Steps {
    fn unit(&self) -> usize {
        self.unit()
    }

    fn looks_back(&self) -> usize {
        self.looks_back()
    }

    fn undo(&self, first: usize, src: &[u8], dst: &mut [u8]) {
        self.undo(first, src, dst);
    }

    fn beside<'a>(&'a self, first: usize, src: &'a [u8], dst: &'a mut [u8]) -> Option<Sums<'a>> {
        self.beside(first, src, dst)
    }
}

#[cfg(test)]
mod tests;
