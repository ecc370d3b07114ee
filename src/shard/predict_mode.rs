//! The mode of prediction of a chunk, where chunks choose: the one that leaves least of a few places of the chunk.

use crate::error::Result;
use crate::filter::PredictMode;
use crate::filter::predict::{Cut, ModeChooser, Window};
use crate::format::pieces::sample_stored_bytes;
use crate::format::schema::Field;
use crate::format::shapes::Shapes;

/// One byte of so many is looked at, and these at least and at most: a small part of what encoding costs.
const PART: usize = 16;
const LEAST: usize = 4 << 10;
const MOST: usize = 64 << 10;
/// Places that are looked at, at least.
const PLACES: usize = 4;
/// Elements of a place, and its bytes at least and at most: many small places know more of a chunk than a few large
/// ones, but a box has edges.
const ELEMENTS: usize = 2 << 10;
const LEAST_AT_ONCE: usize = 4 << 10;
const MOST_AT_ONCE: usize = 16 << 10;
/// Places where shapes vary: samples may be tiny.
const MOST_PLACES: usize = 64;

/// Chooses for a chunk of `num_samples`, given its stored elements and, if they vary, its shapes. `piece` is the most
/// bytes of a piece.
pub(super) fn choose(
    field: &Field,
    codes: &[u8],
    num_samples: u32,
    shapes: &Shapes,
    piece: usize,
) -> Result<PredictMode> {
    let Some(mut chooser) = ModeChooser::new(field.filters(), field.dims()) else {
        return Ok(PredictMode::None);
    };
    let count = num_samples as usize;
    let bits = field.stored_bits(None);
    let budget = (codes.len() / PART).clamp(LEAST, MOST);
    let size = bits as usize / 8;
    let most = (ELEMENTS * size).clamp(LEAST_AT_ONCE, MOST_AT_ONCE);
    let most = most.min(budget / PLACES);
    // Of a sample; if shapes vary, on average.
    let bytes = codes.len() / count.max(1);
    if bytes == 0 {
        return Ok(PredictMode::None);
    }
    let fixed = field.fixed_shape();
    // As many samples a place as fit if they have one shape, else one, or a box of one.
    let together = match fixed {
        Some(_) => (most / bytes).clamp(1, count),
        None => 1,
    };
    let places = budget / (bytes * together).min(most);
    let places = match bytes <= most {
        true => places.clamp(1, MOST_PLACES.min(count / together)),
        false => places,
    };
    let (mut sample, mut at) = (0, 0);
    for place in 0..places {
        // Always forward.
        let first = (count - together) * (2 * place + 1) / (2 * places);
        let shape = match &fixed {
            Some(shape) => {
                at = first * bytes;
                shape.as_slice()
            }
            None => {
                for passed in sample..first {
                    at += stored(shapes.shape(passed), bits);
                }
                sample = first;
                shapes.shape(first)
            }
        };
        let end = at.saturating_add(stored(shape, bits).saturating_mul(together));
        let samples = codes.get(at..end).unwrap_or_default();
        let window = if samples.len() <= most {
            Window::samples(shape, samples)
        } else {
            let cut = Cut {
                elem_size: size,
                most,
                piece,
                place: (place, places),
            };
            Window::of_sample(chooser.predict(), shape, samples, cut)
        };
        chooser.add(&window)?;
        if place + 1 == places.div_ceil(4) {
            chooser.drop_hopeless();
        }
    }
    Ok(chooser.least())
}

fn stored(shape: &[usize], bits: u32) -> usize {
    usize::try_from(sample_stored_bytes(shape, bits)).unwrap_or(usize::MAX)
}
