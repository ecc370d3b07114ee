//! Filters: the bytes of one piece to as many bytes, reversibly, so that a codec finds more (format-spec 8).
//!
//! To add a filter: write `src/filter/foo.rs` with an `impl Filter`, add one line to `FILTERS` and one row to the
//! table of format-spec 8. The tests over the table then cover it; CONTRIBUTING.md
//! names the lists beside it.

mod bit_shuffle;
mod byte_shuffle;
mod delta;
mod float_order;
pub(crate) mod predict;

use std::borrow::Cow;
use std::fmt;

pub use predict::{Predict, PredictMode};

use crate::error::{Error, Result};
use crate::kernel::predict::Sums;

/// The id of a filter on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FilterId(pub(crate) u16);

impl FilterId {
    /// Byte planes.
    pub const BYTE_SHUFFLE: Self = Self(1);
    /// Bit planes.
    pub const BIT_SHUFFLE: Self = Self(2);
    /// Differences of neighbours.
    pub const DELTA: Self = Self(3);
    /// Differences of neighbours in the sample's shape.
    pub const PREDICT: Self = Self(4);
    /// Floats as integers of the same order.
    pub const FLOAT_ORDER: Self = Self(5);

    /// The number on disk.
    pub fn get(self) -> u16 {
        self.0
    }
}

impl fmt::Display for FilterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match find(self.0) {
            Some(filter) => f.write_str(filter.name()),
            None => write!(f, "{:#06x}", self.0),
        }
    }
}

/// One filter. Implementations are stateless values in [`FILTERS`]. `elem_size` is 1, 2, 4 or 8.
pub(crate) trait Filter: Sync {
    /// The id on disk; never reused.
    fn id(&self) -> FilterId;

    /// The name in the CLI and the specification.
    fn name(&self) -> &'static str;

    /// The minor version of the format (format-spec 11) that the id came with.
    fn since_minor(&self) -> u16 {
        0
    }

    /// Reads the stage parameters of format-spec 8.
    ///
    /// # Errors
    /// `Corrupt` for parameters that are not one element size.
    fn parse_params(&self, params: &[u8]) -> Result<FilterSpec> {
        match *params {
            [elem_size] if ELEM_SIZES.contains(&elem_size) => Ok(FilterSpec {
                elem_size,
                ..FilterSpec::of(self.id())
            }),
            _ => Err(Error::corrupt(
                format!("parameters of filter {}", self.name()),
                "one element size: 1, 2, 4 or 8",
                format!("{params:?}"),
            )),
        }
    }

    /// Appends the stage parameters of format-spec 8.
    fn emit_params(&self, spec: FilterSpec, out: &mut Vec<u8>) {
        out.push(spec.elem_size);
    }

    /// Checks that the filter fits a field: bits of a stored element, and dims as in a schema.
    ///
    /// # Errors
    /// Says what would fit.
    fn check(
        &self,
        _spec: FilterSpec,
        _stored_bits: u32,
        _dims: Option<&[Option<usize>]>,
    ) -> std::result::Result<(), String> {
        Ok(())
    }

    /// Filters `src`, the piece that `layout` describes, into `dst`, which has the same length. Most filters see
    /// nothing but bytes.
    fn apply(&self, spec: FilterSpec, layout: &dyn Layout, src: &[u8], dst: &mut [u8]);

    /// The inverse of [`Filter::apply`]: every input is valid.
    fn undo(&self, spec: FilterSpec, layout: &dyn Layout, src: &[u8], dst: &mut [u8]);

    /// The inverse for pieces of samples of `shape` in steps, for filters that look at few bytes at a time; `None` for
    /// those that need the whole piece.
    fn steps(&self, _spec: FilterSpec, _shape: &[usize]) -> Option<Box<dyn Steps>> {
        None
    }
}

/// The inverse of a filter, step by step: a step is used while it is in the caches.
pub(crate) trait Steps: fmt::Debug {
    /// A step is of a multiple of so many bytes, from the beginning of a sample on.
    fn unit(&self) -> usize;

    /// Bytes of what was undone before a step that it goes on from, as far as they are of the same sample.
    fn looks_back(&self) -> usize;

    /// Undoes the next step: `src` goes to the end of `dst`, which holds at least what the filter looks back at. `first` is
    /// the byte within its sample, or run of samples, where `dst` begins: a multiple of the unit.
    fn undo(&self, first: usize, src: &[u8], dst: &mut [u8]);

    /// The same, to be done beside other work. `None` if this step cannot be.
    fn beside<'a>(&'a self, _first: usize, _src: &'a [u8], _dst: &'a mut [u8]) -> Option<Sums<'a>> {
        None
    }
}

/// What a piece holds, for filters that look at shapes.
pub(crate) trait Layout {
    /// Calls `visitor` with the parts of the piece, in order.
    fn visit(&self, visitor: &mut dyn FnMut(Part<'_>));
}

/// Consecutive elements of consecutive samples of one shape.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part<'a> {
    /// The shape of a sample.
    pub(crate) shape: &'a [usize],
    /// Index of the first element within its sample: not 0 only for a part of one sample.
    pub(crate) first: usize,
    /// Number of elements.
    pub(crate) count: usize,
}

impl Layout for Part<'_> {
    fn visit(&self, visitor: &mut dyn FnMut(Part<'_>)) {
        visitor(*self);
    }
}

/// Every filter of this build, by ascending id.
pub(crate) static FILTERS: &[&dyn Filter] = &[
    &byte_shuffle::ByteShuffle,
    &bit_shuffle::BitShuffle,
    &delta::Delta,
    &predict::PredictFilter,
    &float_order::FloatOrder,
];

/// A filter and its parameters, as a field's schema records it, or as it is asked for: then the element size may be
/// left to the field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FilterSpec {
    id: FilterId,
    /// 0: that of the field's stored elements.
    elem_size: u8,
    /// For [`FilterId::PREDICT`] alone.
    predict: Option<Predict>,
}

/// The element sizes that a filter can be told, in bytes.
const ELEM_SIZES: [u8; 4] = [1, 2, 4, 8];

fn find(id: u16) -> Option<&'static dyn Filter> {
    FILTERS.iter().copied().find(|filter| filter.id().0 == id)
}

/// The filter with this id on disk.
///
/// # Errors
/// `Unsupported` if this build has none.
pub(crate) fn by_id(id: u16) -> Result<&'static dyn Filter> {
    find(id).ok_or_else(|| {
        Error::unsupported(
            format!("filter id {id:#06x}"),
            "the file was written by a newer version; upgrade tensorshard to read it",
        )
    })
}

/// The filter with this name.
///
/// # Errors
/// `InvalidArgument` that lists the filters there are.
pub(crate) fn by_name(name: &str) -> Result<&'static dyn Filter> {
    FILTERS
        .iter()
        .copied()
        .find(|filter| filter.name() == name)
        .ok_or_else(|| {
            let known: Vec<_> = names().collect();
            Error::invalid(format!(
                "there is no filter {name:?}; filters are {}",
                known.join(", ")
            ))
        })
}

/// The names of every filter of this build, by ascending id.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    FILTERS.iter().map(|filter| filter.name())
}

/// Reads the stage parameters of format-spec 8.
///
/// # Errors
/// `Unsupported` for an unknown id, `Corrupt` for parameters that the filter does not have.
pub(crate) fn parse_params(id: u16, params: &[u8]) -> Result<FilterSpec> {
    by_id(id)?.parse_params(params)
}

impl FilterSpec {
    /// This filter over the field's stored elements.
    pub fn of(id: FilterId) -> Self {
        Self {
            id,
            elem_size: 0,
            predict: (id == FilterId::PREDICT).then(Predict::default),
        }
    }

    /// This filter over elements of this many bytes.
    ///
    /// # Errors
    /// `InvalidArgument` unless `elem_size` is 1, 2, 4 or 8.
    pub fn new(id: FilterId, elem_size: usize) -> Result<Self> {
        match u8::try_from(elem_size) {
            Ok(elem_size) if ELEM_SIZES.contains(&elem_size) => Ok(Self {
                elem_size,
                ..Self::of(id)
            }),
            _ => Err(Error::invalid(format!(
                "filter {id} cannot have elements of {elem_size} bytes; 1, 2, 4 and 8 are possible"
            ))),
        }
    }

    /// The filter `predict` with these options, over the field's stored elements.
    pub fn predict(predict: Predict) -> Self {
        Self {
            predict: Some(predict),
            ..Self::of(FilterId::PREDICT)
        }
    }

    /// The filter.
    pub fn id(&self) -> FilterId {
        self.id
    }

    /// Bytes of an element; 0 if that is left to the field.
    pub fn elem_size(&self) -> usize {
        usize::from(self.elem_size)
    }

    /// Fills in the element size, if it was left to the field.
    ///
    /// # Errors
    /// As [`FilterSpec::new`].
    pub(crate) fn over(self, elem_size: usize) -> Result<Self> {
        if self.elem_size != 0 {
            return Ok(self);
        }
        let Self { elem_size, .. } = Self::new(self.id, elem_size)?;
        Ok(Self { elem_size, ..self })
    }

    /// Reads `byte_shuffle`, `byte_shuffle:4` or `predict:2d:channel=0`: a name, options, and the element size if it is
    /// not that of the field.
    ///
    /// # Errors
    /// `InvalidArgument` that lists what there is.
    pub fn parse(text: &str) -> Result<Self> {
        let (name, options) = text.split_once(':').unwrap_or((text, ""));
        let id = by_name(name)?.id();
        let mut options: Vec<&str> = options
            .split(':')
            .filter(|option| !option.is_empty())
            .collect();
        let size = options
            .iter()
            .position(|option| option.parse::<usize>().is_ok());
        let mut spec = match size.map(|at| options.remove(at)) {
            Some(size) => Self::new(id, size.parse().unwrap_or(0))?,
            None => Self::of(id),
        };
        match (spec.predict.is_some(), options.first()) {
            (true, _) => spec.predict = Some(Predict::parse(&options)?),
            (false, None) => {}
            (false, Some(option)) => {
                return Err(Error::invalid(format!(
                    "{option:?} is no option of {name}; write {name}, or {name}:N for elements of N = 1, 2, 4 or 8 bytes"
                )));
            }
        }
        Ok(spec)
    }

    /// The options of the filter `predict`.
    pub(crate) fn options(&self) -> Option<Predict> {
        self.predict
    }

    /// True if every chunk chooses a mode of its own.
    pub(crate) fn is_per_chunk(&self) -> bool {
        self.predict.is_some_and(|predict| predict.is_per_chunk())
    }

    /// The same filter with the mode that a chunk has chosen, if chunks choose one.
    fn in_chunk(self, mode: PredictMode) -> Self {
        let predict = self.predict.map(|predict| predict.in_chunk(mode));
        Self { predict, ..self }
    }

    /// The implementation.
    ///
    /// # Errors
    /// As [`by_id`].
    pub(crate) fn filter(&self) -> Result<&'static dyn Filter> {
        by_id(self.id.0)
    }
}

/// The filters of a field in a chunk that has chosen `mode`: the same, unless chunks choose one.
pub(crate) fn in_chunk(filters: &[FilterSpec], mode: PredictMode) -> Cow<'_, [FilterSpec]> {
    if filters.iter().any(FilterSpec::is_per_chunk) {
        return filters.iter().map(|spec| spec.in_chunk(mode)).collect();
    }
    Cow::Borrowed(filters)
}

impl FilterSpec {
    /// The same filter without its element size, which follows from what is stored: for people.
    pub(crate) fn without_size(self) -> Self {
        Self {
            elem_size: 0,
            ..self
        }
    }
}

impl fmt::Display for FilterSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.id)?;
        if self.elem_size != 0 {
            write!(f, ":{}", self.elem_size)?;
        }
        self.predict.map_or(Ok(()), |predict| predict.fmt(f))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(len: usize) -> Vec<u8> {
        let mut state = 1u64;
        (0..len)
            .map(|_| {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                state.to_le_bytes()[7]
            })
            .collect()
    }

    fn apply(name: &str, elem_size: usize, src: &[u8]) -> Vec<u8> {
        let spec = FilterSpec::parse(&format!("{name}:{elem_size}")).unwrap();
        let mut dst = vec![0xEE; src.len()];
        let count = src.len() / elem_size;
        let layout = Part {
            shape: &[count],
            first: 0,
            count,
        };
        spec.filter().unwrap().apply(spec, &layout, src, &mut dst);
        dst
    }

    #[test]
    fn table_is_sorted_and_names_are_distinct() {
        assert!(FILTERS.is_sorted_by(|a, b| a.id() < b.id()));
        for filter in FILTERS {
            assert_eq!(names().filter(|name| *name == filter.name()).count(), 1);
        }
    }

    #[test]
    fn every_filter_is_undone() {
        for filter in FILTERS {
            for elem_size in ELEM_SIZES.map(usize::from) {
                for len in (0..=100).chain([511, 512, 1000, 1031, 65535, 65536]) {
                    let src = bytes(len);
                    let (mut filtered, mut back) = (vec![0x55; len], vec![0xAA; len]);
                    let spec = FilterSpec::new(filter.id(), elem_size).unwrap();
                    let layout = Part {
                        shape: &[len / elem_size],
                        first: 0,
                        count: len / elem_size,
                    };
                    filter.apply(spec, &layout, &src, &mut filtered);
                    filter.undo(spec, &layout, &filtered, &mut back);
                    assert!(back == src, "{} {elem_size} {len}", filter.name());
                    // A permutation of all inputs: undoing arbitrary bytes and filtering gives them back.
                    filter.undo(spec, &layout, &src, &mut filtered);
                    filter.apply(spec, &layout, &filtered, &mut back);
                    assert!(back == src, "{} {elem_size} {len}", filter.name());
                }
            }
        }
    }

    #[test]
    fn worked_examples_of_the_specification() {
        assert_eq!(
            apply("byte_shuffle", 4, &[1, 2, 3, 4, 5, 6, 7, 8, 9]),
            [1, 5, 2, 6, 3, 7, 4, 8, 9]
        );
        assert_eq!(
            apply("delta", 2, &[0x10, 0, 0x12, 0, 0x11, 1]),
            [0x10, 0, 2, 0, 0xFF, 0]
        );
        assert_eq!(
            apply("bit_shuffle", 1, &[1, 3, 0, 0, 0, 0, 0, 0x80, 0xFF]),
            [3, 2, 0, 0, 0, 0, 0, 0x80, 0xFF]
        );
    }

    #[test]
    fn float_order_is_the_order_of_floats() {
        let floats = [
            f32::NEG_INFINITY,
            -1.0e30,
            -2.5,
            -f32::MIN_POSITIVE,
            -1.0e-45,
            -0.0,
            0.0,
            1.0e-45,
            1.0,
            3.0e38,
            f32::INFINITY,
            f32::NAN,
        ];
        let bytes: Vec<u8> = floats.iter().flat_map(|x| x.to_le_bytes()).collect();
        let ordered = apply("float_order", 4, &bytes);
        let words: Vec<u32> = ordered
            .as_chunks()
            .0
            .iter()
            .map(|b| u32::from_le_bytes(*b))
            .collect();
        assert!(words.is_sorted_by(|a, b| a < b), "{words:x?}");
        let example = [1.0f32, -1.0, 0.0, -0.0];
        let bytes: Vec<u8> = example.iter().flat_map(|x| x.to_le_bytes()).collect();
        let words = [0xBF80_0000u32, 0x407F_FFFF, 0x8000_0000, 0x7FFF_FFFF];
        let expected: Vec<u8> = words.iter().flat_map(|x| x.to_le_bytes()).collect();
        assert_eq!(apply("float_order", 4, &bytes), expected);
    }

    #[test]
    fn filters_follow_the_formulas_of_the_specification() {
        for e in ELEM_SIZES.map(usize::from) {
            for len in [0, 1, 7, 64, 99, 1000, 1031] {
                let src = bytes(len);
                let n = len / e;
                let mut shuffled = src.clone();
                for i in 0..n {
                    for j in 0..e {
                        shuffled[j * n + i] = src[i * e + j];
                    }
                }
                assert_eq!(apply("byte_shuffle", e, &src), shuffled);
                let m = n - n % 8;
                let mut planes = src.clone();
                planes[..m * e].fill(0);
                for i in 0..m {
                    for b in 0..8 * e {
                        let bit = (src[i * e + b / 8] >> (b % 8)) & 1;
                        planes[b * (m / 8) + i / 8] |= bit << (i % 8);
                    }
                }
                assert_eq!(apply("bit_shuffle", e, &src), planes);
            }
        }
    }

    #[test]
    fn specs_and_params_round_trip() -> Result<()> {
        for filter in FILTERS {
            for elem_size in ELEM_SIZES.map(usize::from) {
                let spec = FilterSpec::new(filter.id(), elem_size)?;
                assert!(
                    spec.to_string()
                        .starts_with(&format!("{}:{elem_size}", filter.name()))
                );
                assert_eq!(FilterSpec::parse(&spec.to_string())?, spec);
                let mut params = Vec::new();
                filter.emit_params(spec, &mut params);
                assert_eq!(parse_params(filter.id().get(), &params)?, spec);
            }
            for wrong in [&[][..], &[0], &[3], &[16], &[4, 0]] {
                assert!(
                    parse_params(filter.id().get(), wrong)
                        .unwrap_err()
                        .is_corrupt()
                );
            }
            assert!(FilterSpec::new(filter.id(), 3).is_err());
        }
        assert!(by_id(0x7FFF).err().unwrap().is_unsupported());
        for wrong in ["", "delta:3", "delta:x", "delta:2d", "xor:4", "predict:4d"] {
            assert!(FilterSpec::parse(wrong).is_err(), "{wrong}");
        }
        Ok(())
    }

    /// Not a check: `cargo test --release filter_speed -- --ignored --nocapture`.
    #[test]
    #[ignore = "prints timings"]
    #[expect(clippy::print_stderr, reason = "prints timings")]
    fn filter_speed() {
        use std::hint::black_box;
        let src = bytes(65536);
        let mut dst = vec![0; src.len()];
        for filter in FILTERS {
            for elem_size in ELEM_SIZES.map(usize::from) {
                let time = |f: &mut dyn FnMut()| {
                    let start = std::time::Instant::now();
                    for _ in 0..20_000 {
                        f();
                    }
                    65536.0 * 20_000.0 / start.elapsed().as_secs_f64() / 1e9
                };
                let spec = FilterSpec::new(filter.id(), elem_size).unwrap();
                let layout = Part {
                    shape: &[64, 64],
                    first: 0,
                    count: src.len() / elem_size,
                };
                let apply =
                    time(&mut || filter.apply(spec, &layout, black_box(&src), black_box(&mut dst)));
                let undo =
                    time(&mut || filter.undo(spec, &layout, black_box(&src), black_box(&mut dst)));
                eprintln!("{spec} apply {apply:.2} GB/s, undo {undo:.2} GB/s");
            }
        }
    }
}
