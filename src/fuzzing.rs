//! Doors for fuzz targets: what the rest of the library reaches only through whole files.

use bytes::Bytes;

use crate::dtype::DType;
use crate::error::Result;
use crate::format::footer::{FOOTER_LEN, Footer};
use crate::format::header::ShardHeader;
use crate::format::index::Index;
use crate::quant::{Block, QuantParams, QuantSpec, Scales, ScalesView};

/// Parses a shard header, and encodes it and its schema again.
pub fn header(bytes: &[u8]) -> Result<Vec<u8>> {
    let (header, schema, _) = ShardHeader::parse(bytes)?;
    let again = ShardHeader {
        schema_bytes: schema.encode()?,
        ..header
    };
    Ok(again.encode()?.0)
}

/// Parses the end of a shard of `file_len` bytes, the index and the footer, and encodes it again. Returns each chunk's
/// offset, length and header length as well.
pub fn index_and_footer(
    end: &[u8],
    file_len: u64,
    chunks_start: u64,
    samples_per_chunk: u32,
) -> Result<(Vec<u8>, Vec<[u64; 3]>)> {
    let (index, footer) = end.split_at(end.len().saturating_sub(FOOTER_LEN));
    let (footer, _) = Footer::parse(footer, file_len)?;
    // A reader takes what is between the two.
    if file_len - footer.index_offset != end.len() as u64 {
        return Ok((end.to_vec(), Vec::new()));
    }
    let index = Index::validate(
        Bytes::copy_from_slice(index),
        &footer,
        chunks_start,
        samples_per_chunk,
    )?;
    let mut again = Vec::new();
    let mut chunks = Vec::new();
    for chunk in 0..index.len() {
        let entry = index.get(chunk)?;
        entry.put(&mut again);
        chunks.push([entry.offset, entry.chunk_len, u64::from(entry.header_len)]);
    }
    again.extend(footer.encode().0);
    Ok((again, chunks))
}

/// The id and the stored parameters of a quantizer.
pub fn quantizer(text: &str, dtype: DType, rank: usize) -> Result<(u16, Vec<u8>)> {
    let params = QuantSpec::parse(text)?.resolve(dtype, Some(rank))?;
    Ok((params.id().get(), emit_quantizer(&params)))
}

/// Parses the parameters of a quantizer, for a field of this dtype and rank.
pub fn parse_quantizer(id: u16, params: &[u8], dtype: DType, rank: usize) -> Result<QuantParams> {
    let params = QuantParams::parse_stage(id, params)?;
    params.quantizer().check(&params, dtype, Some(rank))?;
    Ok(params)
}

/// The parameters of a quantizer as they are stored.
pub fn emit_quantizer(params: &QuantParams) -> Vec<u8> {
    let mut out = Vec::new();
    params.emit(&mut out);
    out
}

/// Reads stored scales of `num_samples` samples; of as many bytes as there are. Returns how many there must be as well.
pub fn read_scales(
    params: &QuantParams,
    shape: &[usize],
    num_samples: usize,
    stored: &[u8],
) -> (Vec<f32>, usize) {
    let Some(scaling) = params.scaling() else {
        return (Vec::new(), 0);
    };
    let mut scales = vec![0.0; stored.len() / scaling.format.size()];
    scaling.format.read(stored, &mut scales);
    let tables = if params.static_scales(false) {
        1
    } else {
        num_samples
    };
    // A table has one at least.
    (scales, tables * params.scales_per_sample(shape).max(1))
}

/// Checks scales and zero points as those of a file are checked.
pub fn check_scales(params: &QuantParams, scales: &Scales) -> Result<()> {
    params.validate(scales)
}

/// Dequantizes `count` elements from element `first` on.
#[expect(clippy::too_many_arguments, reason = "as the quantizer's")]
pub fn dequantize(
    params: &QuantParams,
    dtype: DType,
    shape: &[usize],
    (first, count): (usize, usize),
    codes: &[u8],
    scales: &Scales,
    to: DType,
    dst: &mut [u8],
) -> Result<()> {
    let block = Block {
        dtype,
        shape,
        first,
        count,
        codes,
        scales: ScalesView {
            scales: &scales.scales,
            zero_points: &scales.zero_points,
        },
    };
    params.quantizer().dequantize(params, &block, to, dst)
}
