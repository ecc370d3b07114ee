//! A block of samples to the streams of a chunk: quantize, cut in pieces, filter, compress.

use std::borrow::Cow;

use crate::codec::{CodecId, CodecSpec};
use crate::error::{Error, Result};
use crate::filter::{PredictMode, in_chunk};
use crate::format::chunk::{Role, Stats};
use crate::format::pieces::{Cutter, Span, cut_bytes, cut_fixed};
use crate::format::schema::{Field, Schema};
use crate::format::shapes::Shapes;
use crate::quant::{QuantParams, Quantized};
use crate::tensor::num_elements;

use super::layout::PieceLayout;
use super::predict_mode;

/// The source values of one field for the samples of a chunk.
#[derive(Debug, Default)]
pub(crate) struct FieldBlock {
    /// Little-endian, row-major, sample after sample.
    pub(crate) data: Vec<u8>,
    /// One shape per sample for ragged fields, else empty.
    pub(crate) shapes: Shapes,
}

/// The source values of a chunk.
#[derive(Debug, Default)]
pub(crate) struct ChunkBlock {
    pub(crate) num_samples: u32,
    /// Index of the first sample in the data being written, for messages.
    pub(crate) first_sample: u64,
    pub(crate) fields: Vec<FieldBlock>,
}

impl ChunkBlock {
    /// Forgets the values, and keeps their memory.
    pub(crate) fn clear(&mut self) {
        self.num_samples = 0;
        for field in &mut self.fields {
            field.data.clear();
            field.shapes = Shapes::default();
        }
    }

    /// Bytes of memory that values take, or have taken.
    pub(crate) fn capacity(&self) -> usize {
        self.fields.iter().map(|field| field.data.capacity()).sum()
    }

    pub(crate) fn raw_bytes(&self) -> u64 {
        self.fields
            .iter()
            .map(|field| field.data.len() as u64)
            .sum()
    }
}

/// One encoded stream. Its checksums follow when its place in a shard is known.
#[derive(Debug)]
pub(crate) struct EncodedStream {
    pub(crate) field: u16,
    pub(crate) role: Role,
    pub(crate) plane: u8,
    pub(crate) codec: u16,
    /// What a plane was predicted with, if chunks of the field choose; else `None`.
    pub(crate) predict_mode: PredictMode,
    /// (raw_len, stored_len) of each piece.
    pub(crate) pieces: Vec<(u32, u32)>,
    pub(crate) data: Vec<u8>,
}

/// An encoded chunk that has no place in a shard yet.
#[derive(Debug)]
pub(crate) struct EncodedChunk {
    pub(crate) num_samples: u32,
    pub(crate) streams: Vec<EncodedStream>,
    pub(crate) stats: Vec<Stats>,
    pub(crate) raw_bytes: u64,
    /// Source bytes of each field.
    pub(crate) field_raw_bytes: Vec<u64>,
}

/// Encodes one chunk.
pub(crate) fn encode_chunk(
    schema: &Schema,
    piece_bytes: u32,
    block: &ChunkBlock,
) -> Result<EncodedChunk> {
    let mut out = EncodedChunk {
        num_samples: block.num_samples,
        streams: Vec::new(),
        stats: Vec::new(),
        raw_bytes: block.raw_bytes(),
        field_raw_bytes: block
            .fields
            .iter()
            .map(|field| field.data.len() as u64)
            .collect(),
    };
    for (ordinal, (field, values)) in (0u16..).zip(schema.fields().iter().zip(&block.fields)) {
        encode_field(ordinal, field, values, block, piece_bytes, &mut out)
            .map_err(|e| e.sample_offset(block.first_sample).in_field(field.name()))?;
    }
    Ok(out)
}

fn encode_field(
    ordinal: u16,
    field: &Field,
    values: &FieldBlock,
    block: &ChunkBlock,
    piece_bytes: u32,
    out: &mut EncodedChunk,
) -> Result<()> {
    let mut quantized = Quantized::default();
    let codes = if field.quantizer() == &QuantParams::Identity {
        Cow::Borrowed(values.data.as_slice())
    } else {
        quantize(field, values, block.num_samples, &mut quantized)?;
        Cow::Owned(std::mem::take(&mut quantized.codes))
    };
    let mut spans = Vec::new();
    cut(field, values, block.num_samples, piece_bytes, &mut spans);
    let limit = field.piece_limit(piece_bytes) as usize;
    let shape = field.fixed_shape();
    let layouts = spans.iter().map(|&span| PieceLayout {
        field,
        fixed: shape.as_deref(),
        shapes: Some(&values.shapes),
        span,
    });
    let chosen = predict_mode::choose(field, &codes, block.num_samples, &values.shapes, limit)?;
    encode_values(ordinal, field, chosen, &codes, layouts, &mut out.streams)?;
    let mut push = |role, bytes: &[u8]| -> Result<()> {
        let mut stream = EncodedStream::new(ordinal, role, 0, field.side_codec());
        let lens = cut_bytes(piece_bytes, bytes.len() as u64);
        for_each_piece(bytes, lens.map(|len| (len, ())), |piece, ()| {
            stream.push(field.side_codec(), piece)
        })?;
        out.streams.push(stream);
        Ok(())
    };
    if field.has_scales_stream() {
        push(Role::Scales, &quantized.scales)?;
        if field.quantizer().has_zero_points() {
            push(Role::ZeroPoints, &quantized.zero_points)?;
        }
    }
    if field.is_ragged() {
        push(Role::Shapes, &values.shapes.encode(field)?)?;
    }
    if !quantized.patch_indices.is_empty() {
        let mut patches: Vec<u8> = quantized
            .patch_indices
            .iter()
            .flat_map(|index| index.to_le_bytes())
            .collect();
        patches.extend_from_slice(&quantized.patch_values);
        push(Role::Patches, &patches)?;
    }
    if field.is_lossy() {
        out.stats.push(Stats::new(ordinal, &quantized.errors));
    }
    Ok(())
}

fn quantize(
    field: &Field,
    values: &FieldBlock,
    num_samples: u32,
    out: &mut Quantized,
) -> Result<()> {
    let Some(dtype) = field.dtype() else {
        return Ok(());
    };
    let params = field.quantizer();
    let statics = field.has_static_scales().then(|| field.scales());
    if let Some(shape) = field.fixed_shape() {
        let num_samples = num_samples as usize;
        params.quantizer().quantize(
            params,
            dtype,
            &shape,
            num_samples,
            &values.data,
            statics,
            out,
        )?;
        return params.quantizer().review(params, dtype, out);
    }
    let mut rest = values.data.as_slice();
    for sample in 0..values.shapes.len() {
        let shape = values.shapes.shape(sample);
        let bytes = num_elements(shape)
            .unwrap_or(usize::MAX)
            .saturating_mul(dtype.size());
        let (head, tail) = rest
            .split_at_checked(bytes)
            .ok_or_else(|| Error::invalid("shapes and data disagree"))?;
        params
            .quantizer()
            .quantize(params, dtype, shape, 1, head, statics, out)?;
        rest = tail;
    }
    params.quantizer().review(params, dtype, out)
}

/// Cuts the plane of a field.
fn cut(
    field: &Field,
    values: &FieldBlock,
    num_samples: u32,
    piece_bytes: u32,
    spans: &mut Vec<Span>,
) {
    if let Some(shape) = field.fixed_shape() {
        cut_fixed(
            field.piece_limit(piece_bytes),
            field.stored_bits(None),
            &shape,
            num_samples,
            spans,
        );
    } else {
        cut_ragged(field, &values.shapes, piece_bytes, spans);
    }
}

/// Cuts the plane of a ragged field.
pub(crate) fn cut_ragged(field: &Field, shapes: &Shapes, piece_bytes: u32, spans: &mut Vec<Span>) {
    let mut cutter = Cutter::new(
        field.piece_limit(piece_bytes),
        field.stored_bits(None),
        spans,
    );
    for (sample, row) in (0u32..).zip(0..shapes.len()) {
        let Some(own) = shapes.dtype(row) else {
            cutter.sample(sample, shapes.shape(row));
            continue;
        };
        cutter.sample_with_bits(sample, shapes.shape(row), field.stored_bits(Some(own)));
    }
}

impl EncodedStream {
    fn new(field: u16, role: Role, plane: u8, codec: CodecSpec) -> Self {
        Self {
            field,
            role,
            plane,
            codec: codec.id().get(),
            predict_mode: PredictMode::None,
            pieces: Vec::new(),
            data: Vec::new(),
        }
    }

    /// Appends a piece: encoded, or stored if it does not shrink.
    fn push(&mut self, spec: CodecSpec, piece: &[u8]) -> Result<()> {
        let start = self.data.len();
        if spec.id() != CodecId::NONE {
            spec.codec()?.encode(spec.level(), piece, &mut self.data)?;
        }
        let len = self.data.len() - start;
        if spec.id() == CodecId::NONE || len >= piece.len() {
            self.data.truncate(start);
            self.data.extend_from_slice(piece);
        }
        let stored_len = self.data.len() - start;
        // Pieces have at most 4 MiB.
        let len_of = |len| u32::try_from(len).unwrap_or(u32::MAX);
        self.pieces.push((len_of(piece.len()), len_of(stored_len)));
        Ok(())
    }
}

/// The planes of a field: its stored elements, filtered, split if the field says so, and each with its codec.
fn encode_values<'a>(
    ordinal: u16,
    field: &Field,
    chosen: PredictMode,
    codes: &[u8],
    pieces: impl Iterator<Item = PieceLayout<'a>>,
    streams: &mut Vec<EncodedStream>,
) -> Result<()> {
    let codecs = field.codecs();
    let mut planes: Vec<EncodedStream> = (0u8..)
        .zip(codecs)
        .map(|(plane, codec)| EncodedStream {
            predict_mode: chosen,
            ..EncodedStream::new(ordinal, Role::Plane, plane, *codec)
        })
        .collect();
    let filters = in_chunk(field.filters(), chosen);
    let mut scratch = Vec::new();
    let pieces = pieces.map(|layout| (layout.span.len, layout));
    for_each_piece(codes, pieces, |piece, layout| {
        let mut piece = Cow::Borrowed(piece);
        for spec in filters.iter() {
            let mut filtered = vec![0; piece.len()];
            spec.filter()?.apply(*spec, &layout, &piece, &mut filtered);
            piece = Cow::Owned(filtered);
        }
        if let Some(split) = field.split() {
            scratch.resize(piece.len(), 0);
            split.split()?.split(codecs.len(), &piece, &mut scratch);
            piece = Cow::Borrowed(&scratch);
        }
        let parts = piece.chunks(piece.len().div_ceil(codecs.len()).max(1));
        for ((plane, codec), part) in planes.iter_mut().zip(codecs).zip(parts) {
            plane.push(*codec, part)?;
        }
        Ok(())
    })?;
    streams.append(&mut planes);
    Ok(())
}

/// Cuts `bytes`, all of them, into pieces of these lengths; what is known of each goes with it.
fn for_each_piece<T>(
    mut bytes: &[u8],
    pieces: impl Iterator<Item = (u32, T)>,
    mut f: impl FnMut(&[u8], T) -> Result<()>,
) -> Result<()> {
    for (raw_len, known) in pieces {
        let Some((piece, rest)) = bytes.split_at_checked(raw_len as usize) else {
            return Err(Error::invalid("shapes and data disagree"));
        };
        bytes = rest;
        f(piece, known)?;
    }
    if bytes.is_empty() {
        return Ok(());
    }
    Err(Error::invalid("shapes and data disagree"))
}
