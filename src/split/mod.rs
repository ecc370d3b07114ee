//! Splits: the elements of one piece to one plane of bytes for each of their bytes, so that each plane has a codec
//! of its own (format-spec 8.2).
//!
//! To add a split: write `src/split/foo.rs` with an `impl Split`, add one line to `SPLITS` and one row to the table of
//! format-spec 8.2. The tests over the table then cover it; CONTRIBUTING.md names the lists beside it.

mod byte_split;
mod float_split;

use std::fmt;

use crate::error::{Error, Result};
use crate::kernel::planes::{self, Stores};

/// The most planes that an element can be split into.
pub(crate) const MAX_PLANES: usize = planes::MAX_PLANES;

/// The id of a split on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SplitId(pub(crate) u16);

impl SplitId {
    /// Floats: the exponent apart from mantissa and sign.
    pub const FLOAT_SPLIT: Self = Self(1);
    /// The bytes of an element, the most significant first.
    pub const BYTE_SPLIT: Self = Self(2);

    /// The number on disk.
    pub fn get(self) -> u16 {
        self.0
    }

    /// Reads `float_split`.
    ///
    /// # Errors
    /// `InvalidArgument` that lists the splits there are.
    pub fn parse(name: &str) -> Result<Self> {
        SPLITS
            .iter()
            .find(|split| split.name() == name)
            .map(|split| split.id())
            .ok_or_else(|| {
                let known: Vec<_> = names().collect();
                Error::invalid(format!(
                    "there is no split {name:?}; splits are {}",
                    known.join(", ")
                ))
            })
    }

    /// The implementation.
    ///
    /// # Errors
    /// As [`by_id`].
    pub(crate) fn split(self) -> Result<&'static dyn Split> {
        by_id(self.0)
    }
}

impl fmt::Display for SplitId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match find(self.0) {
            Some(split) => f.write_str(split.name()),
            None => write!(f, "{:#06x}", self.0),
        }
    }
}

/// One split. Implementations are stateless values in [`SPLITS`]. Elements have 2, 4 or 8 bytes, and as many planes.
pub(crate) trait Split: Sync {
    /// The id on disk; never reused.
    fn id(&self) -> SplitId;

    /// The name in the CLI and the specification.
    fn name(&self) -> &'static str;

    /// The minor version of the format (format-spec 11) that the id came with.
    fn since_minor(&self) -> u16 {
        1
    }

    /// Splits whole elements of `num_planes` bytes. Plane j becomes the j-th `src.len() / num_planes` bytes of
    /// `planes`, which is as long as `src`.
    fn split(&self, num_planes: usize, src: &[u8], planes: &mut [u8]);

    /// The inverse of [`Split::split`]: every input is valid. The planes are equally long, `dst` as long as all of
    /// them together.
    fn merge(&self, planes: &[&[u8]], dst: &mut [u8], stores: Stores);
}

/// Every split of this build, by ascending id.
pub(crate) static SPLITS: &[&dyn Split] = &[&float_split::FloatSplit, &byte_split::ByteSplit];

/// True if elements of `bits` bits can be split into this many planes.
pub(crate) fn fits(num_planes: usize, bits: u32) -> bool {
    matches!(num_planes, 2 | 4 | 8) && num_planes as u64 * 8 == u64::from(bits)
}

fn find(id: u16) -> Option<&'static dyn Split> {
    SPLITS.iter().copied().find(|split| split.id().0 == id)
}

/// The split with this id on disk.
///
/// # Errors
/// `Unsupported` if this build has none.
pub(crate) fn by_id(id: u16) -> Result<&'static dyn Split> {
    find(id).ok_or_else(|| {
        Error::unsupported(
            format!("split id {id:#06x}"),
            "the file was written by a newer version; upgrade tensorshard to read it",
        )
    })
}

/// The names of every split of this build, by ascending id.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    SPLITS.iter().map(|split| split.name())
}

/// Reads the stage parameters of format-spec 8.2.
///
/// # Errors
/// `Unsupported` for an unknown id, `Corrupt` for parameters: splits have none.
pub(crate) fn parse_params(id: u16, params: &[u8]) -> Result<SplitId> {
    let split = by_id(id)?;
    if params.is_empty() {
        return Ok(split.id());
    }
    Err(Error::corrupt(
        format!("parameters of split {}", split.name()),
        "none",
        format!("{params:?}"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::simd::at_every_level;

    const SIZES: [usize; 3] = [2, 4, 8];

    fn noise(len: usize) -> Vec<u8> {
        let mut state = 3u64;
        (0..len)
            .map(|_| {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                state.to_le_bytes()[7]
            })
            .collect()
    }

    fn split(name: &str, num_planes: usize, src: &[u8]) -> Vec<u8> {
        let mut planes = vec![0xEE; src.len()];
        let id = SplitId::parse(name).unwrap();
        id.split().unwrap().split(num_planes, src, &mut planes);
        planes
    }

    #[test]
    fn table_is_sorted_and_names_are_distinct() {
        assert!(SPLITS.is_sorted_by(|a, b| a.id() < b.id()));
        for split in SPLITS {
            assert_eq!(names().filter(|name| *name == split.name()).count(), 1);
            assert_eq!(split.id().to_string(), split.name());
        }
    }

    #[test]
    fn every_split_is_merged_again_at_every_level() {
        for split in SPLITS {
            for size in SIZES {
                for n in (0..=200).chain([255, 256, 257, 1000, 16_384]) {
                    let src = noise(n * size);
                    let mut first: Option<Vec<u8>> = None;
                    at_every_level(|| {
                        let (mut planes, mut back) = (vec![0x55; src.len()], vec![0xAA; src.len()]);
                        split.split(size, &src, &mut planes);
                        let slices: Vec<&[u8]> = if n == 0 {
                            vec![&[]; size]
                        } else {
                            planes.chunks_exact(n).collect()
                        };
                        split.merge(&slices, &mut back, Stores::Cached);
                        assert!(back == src, "{} {size} {n}", split.name());
                        assert!(*first.get_or_insert_with(|| planes.clone()) == planes);
                    });
                }
            }
        }
    }

    #[test]
    fn splits_follow_the_formulas_of_the_specification() {
        for size in SIZES {
            for (name, rotation) in [("float_split", 1), ("byte_split", 0)] {
                let src = noise(size * 77);
                let planes = split(name, size, &src);
                let bits = 8 * u32::try_from(size).unwrap();
                for (i, element) in src.chunks_exact(size).enumerate() {
                    let mut x = 0u128;
                    for &byte in element.iter().rev() {
                        x = x << 8 | u128::from(byte);
                    }
                    x = (x << rotation | x >> (bits - rotation)) & ((1 << bits) - 1);
                    for j in 0..size {
                        let byte = x >> (8 * (size - 1 - j)) & 0xFF;
                        assert_eq!(
                            u128::from(planes[j * 77 + i]),
                            byte,
                            "{name} {size} {i} {j}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn worked_examples_of_the_specification() {
        // bf16 1.0, -1.5, 0.0, -0.0
        let bf16 = [0x80, 0x3F, 0xC0, 0xBF, 0x00, 0x00, 0x00, 0x80];
        let planes = [0x7F, 0x7F, 0x00, 0x00, 0x00, 0x81, 0x00, 0x01];
        assert_eq!(split("float_split", 2, &bf16), planes);
        // f32 1.0, -2.5
        let f32s = [0x00, 0x00, 0x80, 0x3F, 0x00, 0x00, 0x20, 0xC0];
        let planes = [0x7F, 0x80, 0x00, 0x40, 0x00, 0x00, 0x00, 0x01];
        assert_eq!(split("float_split", 4, &f32s), planes);
        let planes = [0x3F, 0xC0, 0x80, 0x20, 0x00, 0x00, 0x00, 0x00];
        assert_eq!(split("byte_split", 4, &f32s), planes);
    }

    #[test]
    fn ids_and_parameters_are_checked() {
        for split in SPLITS {
            assert_eq!(parse_params(split.id().get(), &[]).unwrap(), split.id());
            assert!(
                parse_params(split.id().get(), &[4])
                    .unwrap_err()
                    .is_corrupt()
            );
        }
        assert!(parse_params(0, &[]).unwrap_err().is_unsupported());
        assert!(parse_params(3, &[]).unwrap_err().is_unsupported());
        for wrong in ["", "bit_split", "float_split:4"] {
            assert!(SplitId::parse(wrong).is_err(), "{wrong}");
        }
        assert!(fits(4, 32) && fits(2, 16) && fits(8, 64));
        assert!(!fits(1, 8) && !fits(2, 32) && !fits(4, 4) && !fits(3, 24));
    }
}
