//! The encodings that are worth a measurement, by dtype: simple ones first, for ties go to the first.

use crate::codec::{CodecId, CodecSpec};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::filter::{FilterId, FilterSpec, predict};
use crate::quant::{NonFinite, QuantParams, QuantSpec};
use crate::split::SplitId;

use super::FieldSpec;
use super::choose::{Request, is_float};
use super::measure::prepared;
use super::sample::Sample;

/// An encoding to measure.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    pub(super) field: FieldSpec,
    /// The quantizer promises the requested bound for every element.
    pub(super) bounded: bool,
}

/// A quantizer to try.
struct Stage {
    quant: QuantSpec,
    /// It promises the requested bound for every element.
    bounded: bool,
}

/// What follows a quantizer.
struct Pipeline {
    filters: Vec<FilterSpec>,
    split: Option<SplitId>,
    codecs: Vec<CodecSpec>,
}

/// Every encoding to measure. Stages that the field sets itself stay as they are.
///
/// # Errors
/// If no quantizer fits the field: why the first one does not.
pub(super) fn list(
    field: &FieldSpec,
    request: Request,
    all: bool,
    non_finite: NonFinite,
    sample: &Sample,
) -> Result<Vec<Candidate>> {
    let mut out: Vec<Candidate> = Vec::new();
    let mut refused: Option<Error> = None;
    for stage in quantizers(field, request, all, non_finite) {
        let plain = field.clone().planned(&stage.quant, &[], None, &[none()]);
        let stored = match Stored::of(&plain, sample) {
            Ok(stored) => stored,
            Err(e) => {
                refused.get_or_insert(e);
                continue;
            }
        };
        for pipeline in pipelines(&stored, plain.quant().is_identity(), sample) {
            let Pipeline {
                filters,
                split,
                codecs,
            } = pipeline;
            let planned = field
                .clone()
                .planned(&stage.quant, &filters, split, &codecs);
            // A quantizer that was set counts, and it promises nothing.
            let bounded = stage.bounded && planned.quant() == &stage.quant;
            let options = planned.options();
            let is_new = out.iter().all(|other| other.field.options() != options);
            // What was set need not fit what is tried.
            if is_new && prepared(&planned, sample).and_then(|p| p.resolve()).is_ok() {
                out.push(Candidate {
                    field: planned,
                    bounded,
                });
            }
        }
    }
    match (out.is_empty(), refused) {
        (true, Some(e)) => Err(e),
        (true, None) => Err(Error::invalid("no encoding fits the stages that were set")),
        _ => Ok(out),
    }
}

fn quantizers(field: &FieldSpec, request: Request, all: bool, non_finite: NonFinite) -> Vec<Stage> {
    let mut out = vec![Stage {
        quant: QuantSpec::identity(),
        bounded: true,
    }];
    let (true, Some(dtype)) = (is_float(field), field.dtype()) else {
        return out;
    };
    if let Request::MaxError(bound) = request {
        let quant = QuantSpec::abs_error(bound);
        out.push(Stage {
            quant: match non_finite {
                NonFinite::Error => quant.non_finite(non_finite),
                // All that misses the bound is patched.
                _ => quant,
            },
            bounded: true,
        });
    }
    if !all && !matches!(request, Request::TargetBits(_)) {
        return out;
    }
    let rank = field.dims().map(<[_]>::len);
    let mut specs = Vec::new();
    if dtype.size() > 2 {
        specs.extend([QuantSpec::cast(DType::F16), QuantSpec::cast(DType::BF16)]);
    }
    specs.push(QuantSpec::cast(DType::F8E4M3FN));
    if rank.is_none_or(|rank| rank > 0) {
        specs.extend([QuantSpec::int16(), QuantSpec::int8()]);
        if rank.is_some_and(|rank| rank > 1) {
            specs.push(QuantSpec::int8().per_channel(0));
        }
        specs.push(QuantSpec::int4().per_group(32).scale_dtype(DType::F16));
    }
    out.extend(specs.into_iter().map(|quant| Stage {
        quant: quant.non_finite(non_finite),
        bounded: false,
    }));
    out.extend(grids(request).map(|quant| Stage {
        quant,
        bounded: false,
    }));
    out
}

/// Errors relative to the range of the field: finer and finer ones, of which those that fit the bits that were asked for
/// can be taken; without bits one for comparison.
fn grids(request: Request) -> impl Iterator<Item = QuantSpec> {
    let exponents = match request {
        Request::TargetBits(_) => 3..=14,
        Request::Lossless | Request::MaxError(_) => 10..=10,
    };
    exponents.map(|exponent| QuantSpec::rel_error(0.5f64.powi(exponent)))
}

/// What a quantizer makes of the sample.
struct Stored {
    /// Bits of a stored element.
    bits: u32,
    is_float: bool,
}

impl Stored {
    fn of(plain: &FieldSpec, sample: &Sample) -> Result<Self> {
        let spec = prepared(plain, sample)?;
        let params = spec.quant_params()?;
        let dtype = sample.dtype;
        Ok(Self {
            bits: params.stored_bits(dtype),
            is_float: match params {
                QuantParams::Identity => dtype.is_float(),
                QuantParams::Cast { .. } => true,
                _ => false,
            },
        })
    }
}

/// Filters, splits and codecs for stored elements.
fn pipelines(stored: &Stored, is_identity: bool, sample: &Sample) -> Vec<Pipeline> {
    let bytes = stored.bits / 8;
    let of =
        |ids: &[FilterId]| -> Vec<FilterSpec> { ids.iter().copied().map(FilterSpec::of).collect() };
    let mut filters = vec![vec![]];
    if bytes > 1 {
        filters.push(of(&[FilterId::BYTE_SHUFFLE]));
    }
    if bytes > 0 && !stored.is_float {
        filters.push(of(&[FilterId::DELTA]));
        if bytes > 1 {
            filters.push(of(&[FilterId::DELTA, FilterId::BYTE_SHUFFLE]));
        }
    }
    if is_identity {
        filters.push(of(&[FilterId::BIT_SHUFFLE]));
    }
    let pipeline = |filters: &[FilterSpec], split, codecs: &[CodecSpec]| Pipeline {
        filters: filters.to_vec(),
        split,
        codecs: codecs.to_vec(),
    };
    let mut out = vec![pipeline(&[], None, &[none()])];
    for filters in &filters {
        for codec in whole_codecs(is_identity) {
            out.push(pipeline(filters, None, &[codec]));
        }
    }
    if bytes > 0 && !stored.is_float {
        let mut predictions = vec![vec![]];
        predictions
            .extend(predictions_of(bytes, is_identity, sample).map(|prediction| vec![prediction]));
        let split = (bytes > 1).then_some(SplitId::BYTE_SPLIT);
        for filters in &predictions {
            for codec in entropy_codecs() {
                out.push(pipeline(filters, split, &[codec]));
            }
        }
    }
    if bytes > 1 && is_identity {
        let split = if stored.is_float {
            SplitId::FLOAT_SPLIT
        } else {
            SplitId::BYTE_SPLIT
        };
        for codec in plane_codecs() {
            if stored.is_float {
                out.push(pipeline(&[], Some(split), &[codec, none()]));
                let ordered = of(&[FilterId::FLOAT_ORDER]);
                let top = [codec, codec, none()];
                if bytes > 2 {
                    out.push(pipeline(&ordered, Some(SplitId::BYTE_SPLIT), &top));
                    if let Ok(left) = FilterSpec::parse("predict:left:zigzag") {
                        let differences = [&ordered[..], &[left]].concat();
                        out.push(pipeline(&differences, Some(SplitId::BYTE_SPLIT), &top));
                    }
                }
            }
            out.push(pipeline(&[], Some(split), &[codec]));
        }
    }
    out
}

/// Predictions of stored integers: the best one where the sample has the integers, else those of every rank.
fn predictions_of(
    bytes: u32,
    is_identity: bool,
    sample: &Sample,
) -> impl Iterator<Item = FilterSpec> {
    let shape = sample.fixed.as_deref().unwrap_or(&[0]);
    let mut out = Vec::new();
    if is_identity && sample.fixed.is_some() {
        let values = sample.chunks.first().and_then(|chunk| chunk.fields.first());
        let elem_size = sample.dtype.size();
        out.extend(
            values
                .and_then(|values| predict::choose(elem_size, shape, &values.data))
                .map(FilterSpec::predict),
        );
    } else {
        let zigzag = if bytes > 1 { ":zigzag" } else { "" };
        let modes = ["left", "2d", "3d"].into_iter().take(shape.len());
        out.extend(
            modes.filter_map(|mode| FilterSpec::parse(&format!("predict:{mode}{zigzag}")).ok()),
        );
    }
    out.into_iter()
}

/// Codecs for elements as they are.
fn whole_codecs(is_identity: bool) -> Vec<CodecSpec> {
    if !is_identity {
        return vec![CodecSpec::new(CodecId::LZ4), zstd(3)];
    }
    vec![
        CodecSpec::new(CodecId::SNAPPY),
        CodecSpec::new(CodecId::LZ4),
        zstd(1),
        zstd(3),
        zstd(9),
    ]
}

/// Codecs for a plane of a split.
fn plane_codecs() -> [CodecSpec; 3] {
    [CodecSpec::new(CodecId::PREFIX), zstd(1), zstd(9)]
}

/// Codecs for what prediction leaves.
fn entropy_codecs() -> [CodecSpec; 3] {
    [
        CodecSpec::new(CodecId::PREFIX),
        CodecSpec::new(CodecId::HUFFMAN),
        zstd(3),
    ]
}

fn none() -> CodecSpec {
    CodecSpec::new(CodecId::NONE)
}

fn zstd(level: u8) -> CodecSpec {
    let spec = CodecSpec::new(CodecId::ZSTD);
    spec.with_level(level).unwrap_or(spec)
}
