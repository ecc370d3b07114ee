//! Pieces of a chunk into caller slots: checksum, codec, filters, dequantize, each byte written once.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::codec;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::format::chunk::{Role, Stream};
use crate::format::limits;
use crate::format::pieces::{Span, cut_bytes, sample_stored_bytes};
use crate::format::schema::Field;
use crate::format::shapes::Shapes;
use crate::kernel::stream;
use crate::quant::Scales;
use crate::split::MAX_PLANES;
use crate::tensor::num_elements;

use super::planes::PlaneScratch;
use super::reader::{Chunk, ShardReader};
use super::rows::Job;
use super::steps::Made;

/// Consecutive samples of a chunk that go to consecutive slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RowRun {
    pub(crate) row: u32,
    pub(crate) count: u32,
}

impl RowRun {
    /// One past the last row.
    pub(super) fn end(&self) -> u32 {
        self.row + self.count
    }
}

/// How the values of a field are delivered.
#[derive(Clone, Debug)]
pub(crate) enum Form {
    /// Dequantized and converted to this dtype (`None`: every sample in its own dtype, unchanged).
    Values(Option<DType>),
    /// u8 to float through one table of 256 values for each channel.
    Normalized(Arc<Normalize>),
    /// As stored: codes (4-bit ones widened to a byte), scales and zero points.
    Codes,
}

/// Tables for [`Form::Normalized`].
#[derive(Debug)]
pub(crate) struct Normalize {
    pub(crate) dtype: DType,
    /// Elements between two indices along the channel axis.
    pub(crate) stride: usize,
    pub(crate) tables: Vec<Table>,
}

/// The 256 results of one channel, in the dtype they are delivered in.
#[derive(Debug)]
pub(crate) enum Table {
    F32(Box<[f32; 256]>),
    /// f16 or bf16 bits.
    Half(Box<[u16; 256]>),
}

/// Where decoded bytes go. Run `run` is the i-th of the runs given to `decode`; array 0 holds values or codes, 1
/// scales (f32), 2 zero points (i32).
pub(crate) trait Slots {
    /// The bytes of all slots of a run.
    fn run(&mut self, run: usize, array: usize) -> &mut [u8];

    /// True if the slots are more than caches hold: what goes there is streamed past them.
    fn is_cold(&self) -> bool {
        false
    }

    /// False if these elements of the one sample of a run go nowhere: their pieces are not decoded, and what the run has
    /// there stays as it is.
    fn wants(&self, _run: usize, _elements: Range<u64>) -> bool {
        true
    }

    /// The shape every slot of a ragged field is padded to; `None`: slots are exactly as large as their samples.
    fn padded_shape(&self, _run: usize) -> Option<SlotShape> {
        None
    }
}

/// A shape that can be copied: asking for one allocates nothing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SlotShape {
    dims: [usize; limits::MAX_RANK],
    rank: usize,
}

impl SlotShape {
    /// `None` if there are more dims than the format has.
    pub(crate) fn new(shape: &[usize]) -> Option<Self> {
        let mut dims = [0; limits::MAX_RANK];
        dims.get_mut(..shape.len())?.copy_from_slice(shape);
        Some(Self {
            dims,
            rank: shape.len(),
        })
    }

    pub(crate) fn dims(&self) -> &[usize] {
        &self.dims[..self.rank]
    }
}

/// Buffers of one thread, reused from chunk to chunk.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    pub(crate) io: Vec<u8>,
    /// Elements of a piece whose planes were merged.
    pub(super) merged: Vec<u8>,
    /// What each filter leaves of a piece, in the order in which they are undone.
    pub(super) unfiltered: Vec<Made>,
    pub(super) aux: Vec<u8>,
    /// Values on their way to cold slots.
    pub(super) staging: Vec<u8>,
    pub(super) spans: Vec<Span>,
    pub(super) planes: [PlaneScratch; MAX_PLANES],
    pub(super) scales: Scales,
    /// Ragged fields: bytes of a sample in its slot, elements and scales before each sample.
    pub(super) prefix: Vec<Before>,
    pub(crate) counts: ReadCounts,
}

/// What a thread read and decoded.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ReadCounts {
    pieces: u64,
    /// Bytes of pieces as they are stored.
    pub(crate) stored_bytes: u64,
    /// Bytes of these pieces when they are decoded, before they are dequantized.
    pub(crate) decoded_bytes: u64,
    /// Time spent on reading pieces and comparing checksums, from samples.
    pub(crate) read_time: Duration,
}

/// One piece of so many has its reading timed: two looks at the clock cost a percent of copying a piece.
const TIMED_PIECES: u32 = 8;

impl ReadCounts {
    /// Before a piece is read: the time, if it is one that is timed.
    pub(super) fn start(&self) -> Option<Instant> {
        (self.pieces.is_multiple_of(u64::from(TIMED_PIECES))).then(Instant::now)
    }

    /// After a piece was read.
    pub(super) fn add(&mut self, start: Option<Instant>, stored_len: usize, decoded_len: usize) {
        self.pieces += 1;
        self.stored_bytes += stored_len as u64;
        self.decoded_bytes += decoded_len as u64;
        if let Some(start) = start {
            self.read_time += start.elapsed() * TIMED_PIECES;
        }
    }

    /// What was counted since the last call.
    pub(crate) fn take(&mut self) -> Self {
        let pieces = self.pieces;
        let taken = std::mem::take(self);
        self.pieces = pieces;
        taken
    }
}

/// What comes before a sample in its chunk.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Before {
    pub(super) elements: u64,
    pub(super) scales: usize,
    pub(super) stored: u64,
    pub(super) out_bytes: u64,
}

/// The bytes that a sample takes in a slot, unpadded.
pub(crate) fn sample_out_bytes(
    field: &Field,
    form: &Form,
    shape: &[usize],
    own: Option<DType>,
) -> Option<usize> {
    num_elements(shape)?.checked_mul(out_dtype(field, form, own).size())
}

/// The dtype that values are delivered in.
pub(crate) fn out_dtype(field: &Field, form: &Form, own: Option<DType>) -> DType {
    let source = field.dtype().or(own).unwrap_or(DType::U8);
    match form {
        Form::Values(dtype) => dtype.unwrap_or(source),
        Form::Normalized(normalize) => normalize.dtype,
        Form::Codes => field.quantizer().codes_dtype(source),
    }
}

impl ShardReader {
    /// Decodes the shapes of a ragged field.
    pub(crate) fn decode_shapes(
        &self,
        chunk: &Chunk,
        field: usize,
        scratch: &mut Scratch,
    ) -> Result<Shapes> {
        let spec = &self.schema().fields()[field];
        let result = (|| {
            let mut bytes = Vec::new();
            self.decode_whole(chunk, field, Role::Shapes, &mut bytes, scratch)?;
            let shapes = Shapes::parse(spec, chunk.header.num_samples, &bytes)?;
            let (mut total, mut elements) = (0u64, 0u64);
            for sample in 0..shapes.len() {
                let bits = spec.stored_bits(shapes.dtype(sample));
                elements += num_elements(shapes.shape(sample)).unwrap_or(usize::MAX) as u64;
                total = total.saturating_add(sample_stored_bytes(shapes.shape(sample), bits));
            }
            for (_, stream) in chunk.header.planes(field) {
                let planes = stream.raw_len.saturating_mul(spec.codecs().len() as u64);
                if total != planes {
                    return Err(Error::corrupt(
                        "bytes of the planes",
                        format_args!("{total}, as the shapes say"),
                        planes,
                    ));
                }
            }
            let stats = chunk
                .header
                .stats
                .iter()
                .find(|stats| usize::from(stats.field) == field);
            stats.map_or(Ok(()), |stats| stats.check_count(elements))?;
            Ok(shapes)
        })();
        self.still_there(result)
            .map_err(|e: Error| self.locate(e, chunk, spec))
    }

    fn locate(&self, e: Error, chunk: &Chunk, field: &Field) -> Error {
        e.in_file(self.path())
            .in_chunk(u64::from(chunk.header.chunk))
            .in_field(field.name())
    }

    /// Decodes the samples of `runs` (ascending, disjoint) of one field into `slots`.
    #[expect(
        clippy::too_many_arguments,
        reason = "the one door to decoding; each is a different thing"
    )]
    pub(crate) fn decode_rows(
        &self,
        chunk: &Chunk,
        field: usize,
        shapes: Option<&Shapes>,
        form: &Form,
        runs: &[RowRun],
        slots: &mut dyn Slots,
        scratch: &mut Scratch,
    ) -> Result<()> {
        let spec = &self.schema().fields()[field];
        let job = Job::new(self, chunk, field, shapes, form, runs);
        let result = job.run(slots, scratch);
        if slots.is_cold() {
            stream::fence();
        }
        self.still_there(result)
            .map_err(|e| self.locate(e, chunk, spec))
    }

    /// Decodes a whole stream that is not a plane.
    pub(super) fn decode_whole(
        &self,
        chunk: &Chunk,
        field: usize,
        role: Role,
        out: &mut Vec<u8>,
        scratch: &mut Scratch,
    ) -> Result<()> {
        out.clear();
        let Some((ordinal, stream)) = chunk.header.stream(field, role) else {
            return Ok(());
        };
        self.check_padding(chunk, stream, &mut scratch.io)?;
        let pieces = chunk.header.stream_pieces(stream);
        let expected: Vec<u32> = cut_bytes(self.piece_bytes(), stream.raw_len).collect();
        check_cut(
            expected.len(),
            pieces.len(),
            expected
                .iter()
                .copied()
                .zip(pieces.iter().map(|p| p.raw_len)),
        )?;
        let mut offset = chunk.entry.offset + stream.offset;
        for (piece, entry) in (0u32..).zip(pieces) {
            let stored = self.stored_piece(chunk, ordinal, piece, offset, &mut scratch.io)?;
            let start = out.len();
            // Grows piece by piece, as far as pieces decode: never by what a header merely claims.
            out.resize(start + entry.raw_len as usize, 0);
            decode_piece(stream, stored, &mut out[start..]).map_err(|e| e.at_offset(offset))?;
            offset += u64::from(entry.stored_len);
        }
        Ok(())
    }
}

/// Undoes the codec of one piece.
pub(super) fn decode_piece(stream: &Stream, stored: &[u8], dst: &mut [u8]) -> Result<()> {
    if stored.len() == dst.len() {
        dst.copy_from_slice(stored);
        return Ok(());
    }
    codec::by_id(stream.codec)?.decode(stored, dst)
}

/// The piece table must hold what the cutting rule gives.
pub(super) fn check_cut(
    expected: usize,
    found: usize,
    lens: impl Iterator<Item = (u32, u32)>,
) -> Result<()> {
    if expected != found {
        return Err(Error::corrupt("num_pieces", expected, found));
    }
    for (piece, (expected, found)) in lens.enumerate() {
        if expected != found {
            return Err(Error::corrupt(
                format!("raw_len of piece {piece}"),
                expected,
                found,
            ));
        }
    }
    Ok(())
}
