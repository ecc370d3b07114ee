//! The encodings that are worth a measurement, by dtype: simple ones first, for ties go to the first.

use crate::codec::{CodecId, CodecSpec};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::filter::{FilterId, FilterSpec, Predict, PredictMode, predict};
use crate::format::chunk::Role;
use crate::format::forever::DEFAULT_PIECE_BYTES;
use crate::format::schema::Schema;
use crate::quant::{MxFormat, NonFinite, QuantParams, QuantSpec};
use crate::shard::encode_chunk;
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
    /// One of many of its kind, or only for comparison: just the pipelines that are likely to be best.
    few: bool,
}

impl Stage {
    fn new(quant: QuantSpec, bounded: bool) -> Self {
        let few = false;
        Self {
            quant,
            bounded,
            few,
        }
    }
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
        for pipeline in pipelines(&stored, stage.few, sample) {
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
    let mut out = vec![Stage::new(QuantSpec::identity(), true)];
    let (true, Some(dtype)) = (is_float(field), field.dtype()) else {
        return out;
    };
    if let Request::MaxError(bound) = request {
        let quant = QuantSpec::abs_error(bound);
        let quant = match non_finite {
            NonFinite::Error => quant.non_finite(non_finite),
            // All that misses the bound is patched.
            NonFinite::Saturate | NonFinite::Patch => quant,
        };
        out.push(Stage::new(quant, true));
    }
    if !all && !matches!(request, Request::TargetBits(_)) {
        return out;
    }
    let rank = field.dims().map(<[_]>::len);
    let mut specs = Vec::new();
    if dtype.size() > 2 {
        specs.extend([QuantSpec::cast(DType::F16), QuantSpec::cast(DType::BF16)]);
    }
    if rank.is_none_or(|rank| rank > 0) {
        specs.extend([QuantSpec::int16(), QuantSpec::int8()]);
        if rank.is_some_and(|rank| rank > 1) {
            specs.push(QuantSpec::int8().per_channel(0));
        }
        specs.push(QuantSpec::int8().per_group(32).scale_dtype(DType::F16));
        specs.push(QuantSpec::fp8(DType::F8E4M3FN));
        for size in [32, 128] {
            specs.push(QuantSpec::int4().per_group(size).scale_dtype(DType::F16));
        }
        specs.push(QuantSpec::nf4());
        specs.extend([MxFormat::Fp8E4M3, MxFormat::Fp4].map(QuantSpec::mx));
    } else {
        specs.push(QuantSpec::cast(DType::F8E4M3FN));
    }
    let few = !matches!(request, Request::TargetBits(_));
    out.extend(specs.into_iter().map(|quant| Stage {
        quant: quant.non_finite(non_finite),
        bounded: false,
        few,
    }));
    out.extend(grids(request).map(|quant| Stage {
        quant,
        bounded: false,
        few: true,
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
    /// The field as the sample has it, without filters and codec.
    plain: FieldSpec,
    /// Bits of a stored element.
    bits: u32,
    is_float: bool,
    is_identity: bool,
    /// Stored elements of the first chunk.
    codes: Vec<u8>,
}

impl Stored {
    fn of(plain: &FieldSpec, sample: &Sample) -> Result<Self> {
        let spec = prepared(plain, sample)?;
        let params = spec.quant_params()?;
        let schema = Schema::new(vec![spec.resolve()?])?;
        let mut codes = Vec::new();
        if let Some(block) = sample.chunks.first() {
            let chunk = encode_chunk(&schema, DEFAULT_PIECE_BYTES, block)?;
            let planes = chunk.streams.into_iter();
            for stream in planes.filter(|stream| stream.role == Role::Plane) {
                codes.extend(stream.data);
            }
        }
        let dtype = sample.dtype;
        Ok(Self {
            bits: params.stored_bits(dtype),
            is_float: match params {
                QuantParams::Identity => dtype.is_float(),
                QuantParams::Cast { .. } => true,
                _ => false,
            },
            is_identity: params == QuantParams::Identity,
            codes,
            plain: spec,
        })
    }

    /// `filters`, which end with `predict`, if chunks of the sample choose different modes of it: else one that is the
    /// same for all is as good.
    fn if_chunks_differ(
        &self,
        before: &[FilterSpec],
        predict: Predict,
        sample: &Sample,
    ) -> Option<Vec<FilterSpec>> {
        let mut filters = before.to_vec();
        filters.push(FilterSpec::predict(predict.per_chunk()));
        let field = self.plain.clone().filter_specs(&filters);
        let schema = Schema::new(vec![field.resolve().ok()?]).ok()?;
        let mut modes = sample.chunks.iter().filter_map(|block| {
            let chunk = encode_chunk(&schema, DEFAULT_PIECE_BYTES, block).ok()?;
            chunk.streams.first().map(|stream| stream.predict_mode)
        });
        let first = modes.next()?;
        modes.any(|mode| mode != first).then_some(filters)
    }
}

/// Filters, splits and codecs for stored elements.
fn pipelines(stored: &Stored, few: bool, sample: &Sample) -> Vec<Pipeline> {
    let mut out = vec![pipeline(&[], None, &[none()])];
    if !few {
        general(stored, &mut out);
    }
    let bytes = stored.bits / 8;
    if stored.is_float && bytes > 1 {
        floats(stored, sample, &mut out);
    } else if bytes == 0 || stored.is_float {
        // Two codes in a byte, or floats of 8 bits: neighbours are not like each other.
        out.extend(entropy_codecs().map(|codec| pipeline(&[], None, &[codec])));
    } else {
        integers(bytes, stored, few, sample, &mut out);
    }
    out
}

fn pipeline(filters: &[FilterSpec], split: Option<SplitId>, codecs: &[CodecSpec]) -> Pipeline {
    Pipeline {
        filters: filters.to_vec(),
        split,
        codecs: codecs.to_vec(),
    }
}

/// What every array store has: shuffles and codecs that look for repetitions.
fn general(stored: &Stored, out: &mut Vec<Pipeline>) {
    let bytes = stored.bits / 8;
    let mut chains: Vec<&[FilterId]> = vec![&[]];
    if bytes > 1 {
        chains.push(&[FilterId::BYTE_SHUFFLE]);
    }
    if bytes > 0 && !stored.is_float {
        chains.push(&[FilterId::DELTA]);
        if bytes > 1 {
            chains.push(&[FilterId::DELTA, FilterId::BYTE_SHUFFLE]);
        }
    }
    if stored.is_identity {
        chains.push(&[FilterId::BIT_SHUFFLE]);
    }
    for chain in chains {
        let filters: Vec<FilterSpec> = chain.iter().copied().map(FilterSpec::of).collect();
        for codec in whole_codecs(stored.is_identity) {
            out.push(pipeline(&filters, None, &[codec]));
        }
    }
}

/// Integers: differences to neighbours, each byte of an element a plane of its own.
fn integers(bytes: u32, stored: &Stored, few: bool, sample: &Sample, out: &mut Vec<Pipeline>) {
    let split = (bytes > 1).then_some(SplitId::BYTE_SPLIT);
    let size = usize::try_from(bytes).unwrap_or(1);
    let mut chains = vec![vec![]];
    let chosen = predictions(size, stored, sample);
    if !few {
        let zigzag = |predict: Predict| if size > 1 { predict.zigzag() } else { predict };
        let base = chosen.first().and_then(FilterSpec::options);
        let base = base.unwrap_or_else(|| zigzag(Predict::default()));
        chains.extend(stored.if_chunks_differ(&[], base, sample));
    }
    chains.extend(chosen.into_iter().map(|predict| vec![predict]));
    if few && chains.len() > 1 {
        chains.remove(0);
    }
    for filters in &chains {
        for codec in entropy_codecs() {
            out.push(pipeline(filters, split, &[codec]));
        }
        // Small numbers in wide elements: the upper bytes are nearly all the same, which no code of whole bits can use.
        for top in [CodecSpec::new(CodecId::LZ4), zstd(1)] {
            if bytes > 1 {
                let mut codecs = vec![top; size];
                codecs[size - 1] = CodecSpec::new(CodecId::PREFIX);
                out.push(pipeline(filters, split, &codecs));
            }
        }
        if stored.is_identity {
            out.push(pipeline(filters, split, &[zstd(9)]));
        }
    }
}

/// Wide floats: the exponent apart from the mantissa, or neighbours as ordered integers.
fn floats(stored: &Stored, sample: &Sample, out: &mut Vec<Pipeline>) {
    let split = Some(SplitId::FLOAT_SPLIT);
    let prefix = CodecSpec::new(CodecId::PREFIX);
    out.push(pipeline(&[], split, &[prefix, none()]));
    if !stored.is_identity {
        return;
    }
    for codec in [CodecSpec::new(CodecId::HUFFMAN), zstd(1), zstd(9)] {
        out.push(pipeline(&[], split, &[codec, none()]));
    }
    out.extend([prefix, zstd(9)].map(|codec| pipeline(&[], split, &[codec])));
    let order = FilterSpec::of(FilterId::FLOAT_ORDER);
    let split = Some(SplitId::BYTE_SPLIT);
    let mut chains = vec![vec![order]];
    chains.extend(neighbours(sample, true).map(|predict| vec![order, predict]));
    chains.extend(stored.if_chunks_differ(&[order], Predict::default().zigzag(), sample));
    for filters in &chains {
        for codec in [prefix, CodecSpec::new(CodecId::HUFFMAN), zstd(3)] {
            if stored.bits > 16 {
                out.push(pipeline(filters, split, &[codec, codec, none()]));
            }
            out.push(pipeline(filters, split, &[codec]));
        }
    }
}

/// Predictions of stored integers of `size` bytes: the best one where samples have one shape, and a simpler one, which is
/// faster to undo; else those of every rank.
fn predictions(size: usize, stored: &Stored, sample: &Sample) -> Vec<FilterSpec> {
    let Some(shape) = &sample.fixed else {
        return neighbours(sample, size > 1).collect();
    };
    let Some(chosen) = predict::choose(size, shape, &stored.codes) else {
        return Vec::new();
    };
    let mut out = vec![FilterSpec::predict(chosen)];
    if stored.is_identity {
        let planes = shape.len() > 2 && (2..=4).contains(&shape[0]);
        let simple = if planes && size == 1 {
            // Pictures, plane by plane: green first.
            Predict::default().channel_axis(0).reference(1)
        } else {
            Predict::new(PredictMode::Left)
        };
        let simple = if size > 1 { simple.zigzag() } else { simple };
        if simple != chosen {
            out.push(FilterSpec::predict(simple));
        }
    }
    out
}

/// Predictions from neighbours along the last axes.
fn neighbours(sample: &Sample, zigzag: bool) -> impl Iterator<Item = FilterSpec> + use<> {
    use PredictMode::{Left, Plane, Volume};
    let rank = sample.fixed.as_ref().map_or(1, Vec::len);
    [Left, Plane, Volume]
        .into_iter()
        .take(rank)
        .map(move |mode| {
            let predict = Predict::new(mode);
            FilterSpec::predict(if zigzag { predict.zigzag() } else { predict })
        })
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
