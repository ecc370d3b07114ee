//! From the byte order and element order of a file to little-endian, row-major bytes.

use super::npy_header::NpyHeader;
use crate::dtype::DType;
use crate::error::{Error, Result};

/// Features (elements of a sample) gathered at a time: their part of a sample is about a cache line or two.
const TILE_FEATURES: usize = 32;
/// Samples gathered at a time: with [`TILE_FEATURES`] lines each, a tile stays in the first-level cache.
const TILE_SAMPLES: usize = 128;

/// Turns elements as the file has them into elements as a sample has them, in place: little-endian, bools 0 or 1.
pub(super) fn normalize(header: &NpyHeader, data: &mut [u8]) {
    if header.big_endian {
        match header.dtype.size() {
            2 => reverse_each::<2>(data),
            4 => reverse_each::<4>(data),
            8 => reverse_each::<8>(data),
            _ => {}
        }
    }
    if header.dtype == DType::Bool {
        // NumPy takes any byte that is not 0 for true.
        data.iter_mut()
            .for_each(|byte| *byte = u8::from(*byte != 0));
    }
}

fn reverse_each<const SIZE: usize>(data: &mut [u8]) {
    let (elements, _) = data.as_chunks_mut::<SIZE>();
    elements.iter_mut().for_each(|element| element.reverse());
}

/// Copies samples `first..` of a Fortran-order array into `out`, row by row until `out` is full.
///
/// `src` has `num_samples` samples of shape `dims` with elements of `size` bytes; element `f` (in Fortran order) of
/// sample `n` is element `f * num_samples + n` of `src`.
///
/// # Errors
/// `Corrupt` if `src` is shorter than that.
pub(super) fn gather(
    src: &[u8],
    num_samples: usize,
    first: usize,
    dims: &[usize],
    size: usize,
    out: &mut [u8],
) -> Result<()> {
    let gathered = match size {
        1 => gather_sized::<1>(src, num_samples, first, dims, out),
        2 => gather_sized::<2>(src, num_samples, first, dims, out),
        4 => gather_sized::<4>(src, num_samples, first, dims, out),
        8 => gather_sized::<8>(src, num_samples, first, dims, out),
        _ => None,
    };
    gathered.ok_or_else(|| {
        Error::corrupt(
            "length of the array",
            format!("{num_samples} samples of shape {dims:?}"),
            format!("{} bytes", src.len()),
        )
    })
}

fn gather_sized<const SIZE: usize>(
    src: &[u8],
    num_samples: usize,
    first: usize,
    dims: &[usize],
    out: &mut [u8],
) -> Option<()> {
    let num_features = dims.iter().try_fold(1usize, |n, &d| n.checked_mul(d))?;
    let sample_elements = num_features.checked_mul(SIZE)?;
    if out.is_empty() {
        return Some(());
    }
    let (src, _) = src.as_chunks::<SIZE>();
    let mut walk = FortranWalk::new(dims)?;
    let mut feature = 0usize;
    while feature < num_features {
        let mut tile = [0usize; TILE_FEATURES];
        let width = TILE_FEATURES.min(num_features.checked_sub(feature)?);
        let tile = tile.get_mut(..width)?;
        for position in tile.iter_mut() {
            *position = walk
                .next_position()?
                .checked_mul(num_samples)?
                .checked_add(first)?;
        }
        let column = feature.checked_mul(SIZE)?;
        let tile_bytes = sample_elements.checked_mul(TILE_SAMPLES)?;
        let mut done = 0usize;
        for rows in out.chunks_mut(tile_bytes) {
            let num_rows = rows.len().checked_div(sample_elements)?;
            for (i, &position) in tile.iter().enumerate() {
                let from = position.checked_add(done)?;
                let run = src.get(from..from.checked_add(num_rows)?)?;
                let at = i.checked_mul(SIZE)?.checked_add(column)?;
                let to = at.checked_add(SIZE)?;
                for (row, element) in rows.chunks_exact_mut(sample_elements).zip(run) {
                    row.get_mut(at..to)?.copy_from_slice(element);
                }
            }
            done = done.checked_add(num_rows)?;
        }
        feature = feature.checked_add(width)?;
    }
    Some(())
}

/// Walks the elements of a shape in row-major order and gives the position of each in Fortran order.
struct FortranWalk {
    /// (index, dim, stride), innermost dim first.
    axes: Vec<(usize, usize, usize)>,
    position: usize,
}

impl FortranWalk {
    fn new(dims: &[usize]) -> Option<Self> {
        let mut stride = 1usize;
        let mut axes = Vec::with_capacity(dims.len());
        for &dim in dims {
            axes.push((0, dim, stride));
            stride = stride.checked_mul(dim)?;
        }
        axes.reverse();
        Some(Self { axes, position: 0 })
    }

    fn next_position(&mut self) -> Option<usize> {
        let current = self.position;
        for (index, dim, stride) in &mut self.axes {
            *index = index.checked_add(1)?;
            if *index < *dim {
                self.position = self.position.checked_add(*stride)?;
                break;
            }
            *index = 0;
            self.position = self
                .position
                .checked_sub(dim.checked_sub(1)?.checked_mul(*stride)?)?;
        }
        Some(current)
    }
}
