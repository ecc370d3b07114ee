//! The samples of one field of one chunk, on their way from pieces into slots.

use std::ops::Range;

use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::format::chunk::Role;
use crate::format::pieces::{Span, cut_fixed, sample_stored_bytes};
use crate::format::schema::Field;
use crate::format::shapes::Shapes;
use crate::kernel::planes::Stores;
use crate::kernel::{convert, lut, stream};
use crate::quant::{Block, Scales, ScalesView, Scaling};
use crate::tensor::num_elements;

use super::decode::{
    Before, Form, Normalize, RowRun, Scratch, Slots, Table, decode_piece, out_dtype,
    sample_out_bytes,
};
use super::encode::cut_ragged;
use super::layout::PieceLayout;
use super::planes::{Ahead, Loaded, Planes, Undo};
use super::reader::{Chunk, ShardReader};
use super::steps::{InSteps, Made, Step, Steps};

/// Bytes of a piece that are checked, decoded, unfiltered and dequantized at a time, unless a filter needs more, and
/// delivered bytes that these may become. All of it stays in the L1 cache, and what is delivered in the queue of stores:
/// the next step is computed while they are on their way to memory. From 16 KiB on one waits for the other.
const STEP: usize = 8 << 10;
const STEP_OUT: usize = 8 << 10;
/// Larger samples are dequantized one by one: they are not looked up often.
const MAX_GROUPED: usize = 16 << 10;
/// Values that are staged at a time on their way to cold slots: few enough to stay in the L2 cache.
const MAX_STAGED: usize = 128 << 10;

/// One field of one chunk.
pub(super) struct Job<'a> {
    reader: &'a ShardReader,
    chunk: &'a Chunk,
    ordinal: usize,
    field: &'a Field,
    shapes: Option<&'a Shapes>,
    form: &'a Form,
    runs: &'a [RowRun],
    fixed: Option<Fixed>,
    static_scales: bool,
    /// Delivered bytes are the stored bytes.
    plain: bool,
}

/// What is the same for all samples of a fixed field, computed once for a chunk.
struct Fixed {
    shape: Vec<usize>,
    elements: usize,
    /// Bits of a stored element.
    bits: usize,
    /// Stored bytes of a sample.
    stored: usize,
    /// Dynamic scales of a sample.
    scales: usize,
    /// Bytes of a delivered element.
    out_size: usize,
}

impl<'a> Job<'a> {
    pub(super) fn new(
        reader: &'a ShardReader,
        chunk: &'a Chunk,
        ordinal: usize,
        shapes: Option<&'a Shapes>,
        form: &'a Form,
        runs: &'a [RowRun],
    ) -> Self {
        let field = &reader.schema().fields()[ordinal];
        let fixed = field.fixed_shape().map(|shape| Fixed {
            elements: num_elements(&shape).unwrap_or(0),
            bits: field.stored_bits(None) as usize,
            stored: to_usize(sample_stored_bytes(&shape, field.stored_bits(None))),
            scales: field.quantizer().scales_per_sample(&shape),
            out_size: out_dtype(field, form, None).size(),
            shape,
        });
        let static_scales = field.has_static_scales();
        let plain = match form {
            Form::Values(dtype) => {
                !field.is_lossy() && (dtype.is_none() || *dtype == field.dtype())
            }
            Form::Normalized(_) => false,
            Form::Codes => field.stored_bits(None) >= 8,
        };
        Self {
            reader,
            chunk,
            ordinal,
            field,
            shapes,
            form,
            runs,
            fixed,
            static_scales,
            plain,
        }
    }

    pub(super) fn run(&self, slots: &mut dyn Slots, scratch: &mut Scratch) -> Result<()> {
        let header = &self.chunk.header;
        if self
            .runs
            .last()
            .is_some_and(|run| run.end() > header.num_samples)
        {
            return Err(Error::invalid(format!(
                "samples beyond the {} of the chunk",
                header.num_samples
            )));
        }
        let mut planes = Planes::new(self.reader, self.chunk, self.ordinal, self.field)?;
        let mut spans = std::mem::take(&mut scratch.spans);
        self.cut(&mut spans);
        planes.check(&spans, &mut scratch.io)?;
        let shape = self.fixed.as_ref().map(|fixed| fixed.shape.as_slice());
        let undo = shape.and_then(|shape| InSteps::new(&planes.filters, shape));
        self.load_prefix(&mut scratch.prefix);
        self.load_scales(scratch)?;
        let patches = self.load_patches(scratch)?;
        self.fill_padding(slots);
        if matches!(self.form, Form::Codes) {
            self.copy_scales(slots, scratch)?;
        }

        let mut next_run = 0;
        for (piece, span) in (0u32..).zip(&spans) {
            while self
                .runs
                .get(next_run)
                .is_some_and(|run| run.end() <= span.first)
            {
                next_run += 1;
            }
            let Some(run) = self.runs.get(next_run) else {
                break;
            };
            if run.row < span.end && self.is_wanted(span, next_run, slots) {
                let undo = undo.as_ref();
                self.piece(
                    &planes, undo, piece, span, next_run, &patches, slots, scratch,
                )?;
            }
            planes.advance(piece);
        }
        scratch.spans = spans;
        Ok(())
    }

    /// False for a piece of one sample that goes nowhere.
    fn is_wanted(&self, span: &Span, run: usize, slots: &dyn Slots) -> bool {
        if span.end - span.first != 1 || span.len == 0 || self.runs[run].count != 1 {
            return true;
        }
        let own = self
            .shapes
            .and_then(|shapes| shapes.dtype(span.first as usize));
        let bits = u64::from(self.field.stored_bits(own));
        let elements = |bytes: u64| bytes.saturating_mul(8) / bits;
        slots.wants(
            run,
            elements(span.start)..elements(span.start.saturating_add(u64::from(span.len))),
        )
    }

    fn cut(&self, spans: &mut Vec<Span>) {
        let piece_bytes = self.reader.piece_bytes();
        match (&self.fixed, self.shapes) {
            (Some(fixed), _) => {
                let bits = self.field.stored_bits(None);
                cut_fixed(
                    self.field.piece_limit(piece_bytes),
                    bits,
                    &fixed.shape,
                    self.chunk.header.num_samples,
                    spans,
                );
            }
            (None, Some(shapes)) => cut_ragged(self.field, shapes, piece_bytes, spans),
            (None, None) => spans.clear(),
        }
    }

    /// Decodes one piece and hands its samples to the slots of the runs from `first_run` on that it overlaps.
    #[expect(
        clippy::too_many_arguments,
        reason = "one straight step of the hot path, called in one place"
    )]
    fn piece(
        &self,
        planes: &Planes<'_>,
        undo: Option<&InSteps>,
        piece: u32,
        span: &Span,
        first_run: usize,
        patches: &Patches,
        slots: &mut dyn Slots,
        scratch: &mut Scratch,
    ) -> Result<()> {
        let raw_len = span.len as usize;
        let (plane, stored_len) = planes.first(piece)?;
        let reading = scratch.counts.start();
        // Delivered bytes are the stored bytes.
        let plain = self.plain && self.shapes.is_none() && patches.indices.is_empty();
        let direct = plain && planes.filters.is_empty();
        // Fast path: the piece is its values, and all of it goes to one place.
        let run = &self.runs[first_run];
        if direct && planes.split.is_none() && run.row <= span.first && run.end() >= span.end {
            let cold = slots.is_cold();
            let dst = slots.run(first_run, 0);
            let start = self.slot_offset(run, span.first, dst.len()) + to_usize(span.start);
            let dst = dst.get_mut(start..start + raw_len).ok_or_else(slot_bug)?;
            let (ordinal, offset) = (plane.ordinal, plane.offset);
            if stored_len == raw_len {
                let copied = self
                    .reader
                    .copy_piece(self.chunk, ordinal, piece, offset, dst, cold);
                scratch.counts.add(reading, stored_len, raw_len);
                return copied;
            }
            let io = &mut scratch.io;
            let stored = self
                .reader
                .stored_piece(self.chunk, ordinal, piece, offset, io)?;
            scratch.counts.add(reading, stored_len, raw_len);
            return decode_piece(plane.stream, stored, dst).map_err(|e| e.at_offset(offset));
        }
        let Scratch {
            merged,
            unfiltered,
            staging,
            planes: plane_scratch,
            scales,
            prefix,
            counts,
            ..
        } = scratch;
        let mut source = planes.load(piece, raw_len, plane_scratch)?;
        counts.add(reading, stored_len, raw_len);
        if direct && planes.split.is_some() {
            self.merge_rows(&mut source, span, first_run, slots)?;
            return source.finish();
        }
        if self.shapes.is_some() {
            // Samples are not looked for in bytes that are not checked.
            source.check()?;
        }
        if unfiltered.len() < planes.filters.len() {
            unfiltered.resize_with(planes.filters.len(), Made::default);
        }
        let layout = PieceLayout {
            field: self.field,
            fixed: self.fixed.as_ref().map(|fixed| fixed.shape.as_slice()),
            shapes: self.shapes,
            span: *span,
        };
        let undo = undo.filter(|undo| self.has_whole_units(span, undo.unit));
        let mut first_run = first_run;
        let mut steps = self.steps(span, undo);
        let mut following = steps.next();
        while let Some(step) = following {
            following = steps.next();
            first_run = self.first_run(&step, first_run);
            let Some(run) = self.runs.get(first_run) else {
                break;
            };
            if run.row >= step.rows.end {
                continue;
            }
            // Delivered codes of one plane are decoded while their slot is fetched, row by row. What is merged or dequantized
            // is not fetched: that was slower where slots are in the last cache, and elsewhere they are streamed.
            let in_place = plain && (planes.split.is_none() || !slots.is_cold());
            let beside = following.as_ref().filter(|_| planes.split.is_none());
            let ahead = beside.map(|next| {
                let run = self.first_run(next, first_run);
                let place = in_place.then(|| self.destination(next, run, slots));
                Ahead {
                    bytes: next.bytes.clone(),
                    to: place
                        .flatten()
                        .map(|(place, done)| place.as_ptr().wrapping_add(done)),
                }
            });
            let place = if in_place {
                self.destination(&step, first_run, slots)
            } else {
                None
            };
            let to = place
                .as_ref()
                .map(|(place, done)| place.as_ptr().wrapping_add(*done));
            // The last filter to undo, the first of the schema, writes into the slot, if that is where everything goes.
            let mut slot = place.map(|(place, _)| place);
            source.ready(step.bytes.clone(), merged, to)?;
            let in_slot = slot.is_some() && !planes.filters.is_empty();
            let before = step.bytes.start - step.base;
            for (i, spec) in planes.filters.iter().rev().enumerate() {
                let (sources, buffers) = unfiltered.split_at_mut(i);
                let filter = undo.and_then(|undo| undo.filters.get(i));
                let (first, dst) = match (&mut slot, buffers.first_mut()) {
                    (Some(slot), _) if i + 1 == planes.filters.len() => (step.origin, &mut **slot),
                    (_, Some(made)) => {
                        let back = filter.map_or(0, |filter| filter.looks_back().min(before));
                        let first = step.origin + (before - back);
                        let room = made.next(back, step.bytes.len());
                        (first, room.ok_or_else(slot_bug)?)
                    }
                    (_, None) => return Err(slot_bug()),
                };
                let src = match sources.last() {
                    Some(made) => made.last(),
                    None => source.bytes(step.bytes.clone(), merged)?,
                };
                match filter {
                    Some(filter) if i == 0 => {
                        let undo = Undo {
                            filter: filter.as_ref(),
                            bytes: step.bytes.clone(),
                            first,
                            dst,
                        };
                        source.undo(undo, ahead.as_ref(), merged)?;
                    }
                    Some(filter) => filter.undo(first, src, dst),
                    None => spec.filter()?.undo(*spec, &layout, src, dst),
                }
            }
            if in_slot {
                continue;
            }
            let codes = match planes.filters.len().checked_sub(1) {
                Some(last) => unfiltered.get(last).ok_or_else(slot_bug)?.last(),
                None => source.bytes(step.bytes.clone(), merged)?,
            };
            let decoded = Decoded {
                codes,
                in_file: direct && stored_len == raw_len,
                scales,
                prefix,
                patches,
            };
            self.deliver_step(&decoded, span, &step, first_run, slots, staging)?;
        }
        source.finish()
    }

    /// The run of the first sample of a step, which is `from` or after it.
    #[inline(always)]
    fn first_run(&self, step: &Step, from: usize) -> usize {
        let runs = self.runs.iter().enumerate().skip(from);
        let mut later = runs.skip_while(|(_, run)| run.end() <= step.rows.start);
        later.next().map_or(self.runs.len(), |(i, _)| i)
    }

    /// Where the samples of a step go, of which `done` bytes come before the step, if all of them go to run `i`.
    #[inline(always)]
    fn destination<'s>(
        &self,
        step: &Step,
        i: usize,
        slots: &'s mut dyn Slots,
    ) -> Option<(&'s mut [u8], usize)> {
        let (fixed, run) = (self.fixed.as_ref()?, self.runs.get(i)?);
        if run.row > step.rows.start || run.end() < step.rows.end {
            return None;
        }
        let out = |bytes: usize| Some(bytes.checked_mul(8)? / fixed.bits * fixed.out_size);
        let dst = slots.run(i, 0);
        let start = self.slot_offset(run, step.rows.start, dst.len()) + out(step.origin)?;
        let place = dst.get_mut(start..)?;
        let len = out(step.bytes.end - step.base)?;
        Some((place.get_mut(..len)?, out(step.bytes.start - step.base)?))
    }

    /// True for whole samples, and for parts of a sample that begin and end with a unit.
    fn has_whole_units(&self, span: &Span, unit: usize) -> bool {
        self.has_whole_samples(span)
            || span.end - span.first == 1
                && to_usize(span.start).is_multiple_of(unit)
                && (span.len as usize).is_multiple_of(unit)
    }

    fn has_whole_samples(&self, span: &Span) -> bool {
        let samples = (span.end - span.first) as usize;
        let stored = self.fixed.as_ref().map(|fixed| fixed.stored);
        stored.and_then(|stored| stored.checked_mul(samples)) == Some(span.len as usize)
    }

    /// The steps that a piece is decoded in: one without `undo`, else of its units.
    fn steps(&self, span: &Span, undo: Option<&InSteps>) -> Steps {
        let len = span.len as usize;
        let whole = Steps {
            rows: span.first..span.end,
            len,
            origin: to_usize(span.start),
            stored: len,
            rows_at_once: u32::MAX,
            bytes_at_once: usize::MAX,
            at: 0,
        };
        let (Some(fixed), Some(undo)) = (&self.fixed, undo) else {
            return whole;
        };
        let out = |bytes: usize| (bytes * 8 / fixed.bits.max(1)).saturating_mul(fixed.out_size);
        let most = STEP.min(STEP_OUT * STEP / out(STEP).max(1));
        let unit = undo.unit;
        Steps {
            stored: if self.has_whole_samples(span) {
                fixed.stored
            } else {
                len
            },
            rows_at_once: u32::try_from(most / fixed.stored.max(1))
                .unwrap_or(u32::MAX)
                .max(1),
            // Parts of samples, where a sample is more than a step; not where they are only copied.
            bytes_at_once: if self.plain && undo.filters.is_empty() {
                usize::MAX
            } else {
                (most / unit * unit).max(unit)
            },
            ..whole
        }
    }

    /// Hands the values of a step to the slots of the runs from `first_run` on that they belong to.
    fn deliver_step(
        &self,
        decoded: &Decoded<'_>,
        span: &Span,
        step: &Step,
        first_run: usize,
        slots: &mut dyn Slots,
        staging: &mut Vec<u8>,
    ) -> Result<()> {
        if let Some(run) = self.runs.get(first_run)
            && self.shapes.is_none()
            && run.row <= step.rows.start
            && step.rows.end <= run.end()
        {
            let rows = step.rows.clone();
            return self.fixed_rows(decoded, step, run, first_run, rows, slots, staging);
        }
        self.deliver_runs(decoded, span, step, first_run, slots, staging)
    }

    /// The same for a step of several runs.
    // Not inlined: what it needs would be loaded for every step.
    #[inline(never)]
    fn deliver_runs(
        &self,
        decoded: &Decoded<'_>,
        span: &Span,
        step: &Step,
        first_run: usize,
        slots: &mut dyn Slots,
        staging: &mut Vec<u8>,
    ) -> Result<()> {
        let mut next = first_run;
        while let Some(run) = self.runs.get(next).filter(|run| run.row < step.rows.end) {
            let i = next;
            next += 1;
            let rows = run.row.max(step.rows.start)..run.end().min(step.rows.end);
            if self.shapes.is_some() {
                self.ragged_rows(decoded, span, run, i, rows, slots)?;
                continue;
            }
            let group = self.group(i, step);
            if group > next {
                next = group;
                self.scatter(decoded, step, i..group, slots, staging)?;
                continue;
            }
            self.fixed_rows(decoded, step, run, i, rows, slots, staging)?;
        }
        Ok(())
    }

    /// Merges the samples of a split piece, whose stored elements are what is delivered, into the slots of the runs.
    fn merge_rows(
        &self,
        loaded: &mut Loaded<'_>,
        span: &Span,
        first_run: usize,
        slots: &mut dyn Slots,
    ) -> Result<()> {
        let Some(fixed) = &self.fixed else {
            return Ok(());
        };
        let stores = if slots.is_cold() {
            Stores::Streamed
        } else {
            Stores::Cached
        };
        for (i, run) in self.runs.iter().enumerate().skip(first_run) {
            if run.row >= span.end {
                break;
            }
            let rows = run.row.max(span.first)..run.end().min(span.end);
            // Whole samples, or a part of one: then there is one run, and it has all of the piece.
            let from = (rows.start - span.first) as usize * fixed.stored;
            let len = (rows.len() * fixed.stored).min(span.len as usize);
            let dst = slots.run(i, 0);
            let start = self.slot_offset(run, rows.start, dst.len()) + to_usize(span.start);
            let dst = dst.get_mut(start..start + len).ok_or_else(slot_bug)?;
            loaded.merge(from, dst, stores)?;
        }
        Ok(())
    }

    /// Byte offset of a row's slot in the `len` bytes of a run of a fixed field.
    fn slot_offset(&self, run: &RowRun, row: u32, len: usize) -> usize {
        (len / run.count as usize) * (row - run.row) as usize
    }

    /// One past the last of the runs from `first` on whose samples are dequantized together, since one sample is
    /// dequantized faster than it is looked up: neighbours in a piece that go to different places.
    fn group(&self, first: usize, step: &Step) -> usize {
        let alone = first + 1;
        let Some(fixed) = self.fixed.as_ref().filter(|_| !self.plain) else {
            return alone;
        };
        let sample = fixed.elements.saturating_mul(fixed.out_size);
        if sample == 0 || sample > MAX_GROUPED || self.runs[first].end() > step.rows.end {
            return alone;
        }
        let mut rows = self.runs[first].end() - self.runs[first].row.max(step.rows.start);
        let mut end = alone;
        while let (Some(run), before) = (self.runs.get(end), &self.runs[end - 1]) {
            let full = sample.saturating_mul((rows + run.count) as usize) > MAX_STAGED;
            if run.row != before.end() || run.end() > step.rows.end || full {
                break;
            }
            rows += run.count;
            end += 1;
        }
        end
    }

    /// Dequantizes the neighbouring samples of several runs at once, and takes each to its slot.
    fn scatter(
        &self,
        decoded: &Decoded<'_>,
        step: &Step,
        runs: Range<usize>,
        slots: &mut dyn Slots,
        staging: &mut Vec<u8>,
    ) -> Result<()> {
        let (Some(fixed), Some(first), Some(last)) = (
            &self.fixed,
            self.runs.get(runs.start),
            self.runs.get(runs.end - 1),
        ) else {
            return Ok(());
        };
        let rows = first.row.max(step.rows.start)..last.end().min(step.rows.end);
        let from = (rows.start - step.rows.start) as usize * fixed.stored;
        let codes = decoded.codes.get(from..from + rows.len() * fixed.stored);
        let block = Block {
            dtype: self.field.dtype().unwrap_or(DType::U8),
            shape: &fixed.shape,
            first: 0,
            count: fixed.elements * rows.len(),
            codes: codes.ok_or_else(slot_bug)?,
            scales: self.scales_from(decoded.scales, fixed.scales * rows.start as usize),
        };
        let sample = fixed.elements * fixed.out_size;
        let len = sample * rows.len();
        grow(staging, len);
        let mut rest = &mut staging[..len];
        let global = u64::from(rows.start) * fixed.elements as u64;
        self.deliver(&block, global, decoded.patches, rest)?;
        let cold = slots.is_cold();
        for i in runs {
            let run = &self.runs[i];
            let rows = run.row.max(step.rows.start)..run.end().min(step.rows.end);
            let dst = slots.run(i, 0);
            let start = self.slot_offset(run, rows.start, dst.len());
            let (values, after) = rest
                .split_at_mut_checked(sample * rows.len())
                .ok_or_else(slot_bug)?;
            rest = after;
            let dst = dst
                .get_mut(start..start + values.len())
                .ok_or_else(slot_bug)?;
            stream::copy(values, dst, cold);
        }
        Ok(())
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "one straight step of the hot path, called in one place"
    )]
    fn fixed_rows(
        &self,
        decoded: &Decoded<'_>,
        step: &Step,
        run: &RowRun,
        i: usize,
        rows: Range<u32>,
        slots: &mut dyn Slots,
        staging: &mut Vec<u8>,
    ) -> Result<()> {
        let Some(fixed) = &self.fixed else {
            return Ok(());
        };
        let size = fixed.out_size;
        let cold = slots.is_cold();
        let dst = slots.run(i, 0);
        let start = self.slot_offset(run, rows.start, dst.len());
        let whole = step.bytes.len() == fixed.stored * step.rows.len();
        let (first, count, codes) = if whole {
            let from = (rows.start - step.rows.start) as usize * fixed.stored;
            let codes = decoded.codes.get(from..from + rows.len() * fixed.stored);
            (0, fixed.elements * rows.len(), codes)
        } else {
            let first = step.first_byte() * 8 / fixed.bits;
            let count = (decoded.codes.len() * 8 / fixed.bits).min(fixed.elements - first);
            (first, count, Some(decoded.codes))
        };
        let dst = dst
            .get_mut(start + first * size..start + (first + count) * size)
            .ok_or_else(slot_bug)?;
        let codes = codes.ok_or_else(slot_bug)?;
        if self.plain && decoded.patches.indices.is_empty() && codes.len() == dst.len() {
            if decoded.in_file {
                stream::copy_on(codes, dst, cold);
            } else {
                stream::copy(codes, dst, cold);
            }
            return Ok(());
        }
        let block = Block {
            dtype: self.field.dtype().unwrap_or(DType::U8),
            shape: &fixed.shape,
            first,
            count,
            codes,
            scales: self.scales_from(decoded.scales, fixed.scales * rows.start as usize),
        };
        let global = u64::from(rows.start) * fixed.elements as u64 + first as u64;
        if cold
            && dst.len() >= stream::MIN
            && decoded.patches.indices.is_empty()
            && self.stream(&block, dst)
        {
            return Ok(());
        }
        if cold && (stream::MIN..=MAX_STAGED).contains(&dst.len()) {
            grow(staging, dst.len());
            let staged = &mut staging[..dst.len()];
            self.deliver(&block, global, decoded.patches, staged)?;
            stream::copy(staged, dst, cold);
            return Ok(());
        }
        self.deliver(&block, global, decoded.patches, dst)
    }

    fn ragged_rows(
        &self,
        decoded: &Decoded<'_>,
        span: &Span,
        run: &RowRun,
        i: usize,
        rows: Range<u32>,
        slots: &mut dyn Slots,
    ) -> Result<()> {
        let Some(shapes) = self.shapes else {
            return Ok(());
        };
        let padded = slots.padded_shape(i);
        let piece_start = decoded.prefix[span.first as usize].stored + span.start;
        for row in rows {
            let shape = shapes.shape(row as usize);
            let own = shapes.dtype(row as usize);
            let bits = self.field.stored_bits(own);
            let stored = sample_stored_bytes(shape, bits).saturating_sub(span.start);
            let before = decoded.prefix[row as usize];
            // Of a sample that has several pieces, the piece is all that is here.
            let at = to_usize(before.stored.saturating_sub(piece_start));
            let rest = decoded.codes.get(at..).ok_or_else(slot_bug)?;
            let codes = &rest[..rest.len().min(to_usize(stored))];
            if codes.is_empty() {
                continue;
            }
            let elements = num_elements(shape).unwrap_or(0);
            let first = to_usize(span.start) * 8 / bits as usize;
            let count = (codes.len() * 8 / bits as usize).min(elements - first);
            let size = out_dtype(self.field, self.form, own).size();
            let dtype = self.field.dtype().or(own).unwrap_or(DType::U8);
            let scales = self.scales_from(decoded.scales, before.scales);
            let block = Block {
                dtype,
                shape,
                first,
                count,
                codes,
                scales,
            };
            let dst = slots.run(i, 0);
            if let Some(padded) = &padded {
                let start = self.slot_offset(run, row, dst.len());
                let end = start + dst.len() / run.count as usize;
                let dst = dst.get_mut(start..end).ok_or_else(slot_bug)?;
                self.place(
                    &block,
                    before.elements,
                    padded.dims(),
                    size,
                    decoded.patches,
                    dst,
                )?;
            } else {
                let start = to_usize(before.out_bytes - decoded.prefix[run.row as usize].out_bytes)
                    + first * size;
                let dst = dst
                    .get_mut(start..start + count * size)
                    .ok_or_else(slot_bug)?;
                self.deliver(&block, before.elements + first as u64, decoded.patches, dst)?;
            }
        }
        Ok(())
    }

    /// Delivers a part of one sample into a slot of a larger shape.
    fn place(
        &self,
        block: &Block<'_>,
        elements_before: u64,
        padded: &[usize],
        size: usize,
        patches: &Patches,
        dst: &mut [u8],
    ) -> Result<()> {
        let bits = self.field.stored_bits(Some(block.dtype)) as usize;
        // Trailing dims that agree, and the one before them, are contiguous in both.
        let mut contiguous = 1usize;
        let mut outer = block.shape.len();
        while outer > 0 {
            outer -= 1;
            contiguous *= block.shape[outer];
            if block.shape[outer] != padded[outer] {
                break;
            }
        }
        let end = block.first + block.count;
        let mut element = block.first;
        while element < end {
            let (mut run, within) = (element / contiguous, element % contiguous);
            let mut count = (contiguous - within).min(end - element);
            if bits == 4 && count > 1 && (element - block.first) % 2 == 1 {
                count = 1;
            }
            let mut start = 0usize;
            let mut stride = 1usize;
            for dim in (0..padded.len()).rev() {
                if dim < outer {
                    start += (run % block.shape[dim]) * stride;
                    run /= block.shape[dim];
                }
                stride *= padded[dim];
            }
            let start = (start + within) * size;
            let part_dst = dst
                .get_mut(start..start + count * size)
                .ok_or_else(slot_bug)?;
            self.deliver_part(block, element, count, elements_before, patches, part_dst)?;
            element += count;
        }
        Ok(())
    }

    /// Delivers `count` elements from `element` on, of a block of one sample.
    fn deliver_part(
        &self,
        block: &Block<'_>,
        element: usize,
        count: usize,
        elements_before: u64,
        patches: &Patches,
        dst: &mut [u8],
    ) -> Result<()> {
        let bits = self.field.stored_bits(Some(block.dtype)) as usize;
        let skip = element - block.first;
        let global = elements_before + element as u64;
        if bits == 4 && skip % 2 == 1 {
            // An odd start within packed nibbles: one element through a copy of its byte.
            let byte = [block.codes[skip / 2] >> 4];
            let part = Block {
                first: element,
                count,
                codes: &byte,
                ..*block
            };
            return self.deliver(&part, global, patches, dst);
        }
        let from = skip * bits / 8;
        let codes = &block.codes[from..from + (count * bits).div_ceil(8)];
        self.deliver(
            &Block {
                first: element,
                count,
                codes,
                ..*block
            },
            global,
            patches,
            dst,
        )
    }

    /// Dequantizes a block straight into memory that is in no cache, if its values are wanted and that is all there is to do.
    fn stream(&self, block: &Block<'_>, mut dst: &mut [u8]) -> bool {
        let Form::Values(dtype) = self.form else {
            return false;
        };
        let params = self.field.quantizer();
        let dtype = dtype.unwrap_or(block.dtype);
        let mut rest = *block;
        while rest.count > 0 {
            let Some((one, count)) = params.quantizer().one_scale(params, &rest, dtype) else {
                return false;
            };
            let out = std::mem::take(&mut dst).split_at_mut_checked(count * dtype.size());
            let codes = rest.codes.split_at_checked(count * one.kind.size());
            let (Some((out, after)), Some((codes, codes_after))) = (out, codes) else {
                return false;
            };
            one.stream(codes, out);
            dst = after;
            rest = Block {
                first: rest.first + count,
                count: rest.count - count,
                codes: codes_after,
                ..rest
            };
        }
        true
    }

    /// Dequantizes a block into `dst` in the wanted form. `global` is the index of its first element in the chunk.
    fn deliver(
        &self,
        block: &Block<'_>,
        global: u64,
        patches: &Patches,
        dst: &mut [u8],
    ) -> Result<()> {
        let params = self.field.quantizer();
        match self.form {
            Form::Values(dtype) => {
                let dtype = dtype.unwrap_or(block.dtype);
                params.quantizer().dequantize(params, block, dtype, dst)?;
                patches.apply(block, global, dtype, dst)
            }
            Form::Normalized(normalize) => {
                normalize.apply(block.first, block.codes, dst);
                Ok(())
            }
            Form::Codes => {
                params.codes(block, dst);
                Ok(())
            }
        }
    }

    /// Fills the slots of samples that are smaller than their slot with zeros.
    fn fill_padding(&self, slots: &mut dyn Slots) {
        let Some(shapes) = self.shapes else { return };
        for (i, run) in self.runs.iter().enumerate() {
            let Some(padded) = slots.padded_shape(i) else {
                continue;
            };
            for row in run.row..run.end() {
                if shapes.shape(row as usize) != padded.dims() {
                    let dst = slots.run(i, 0);
                    let len = dst.len() / run.count as usize;
                    let start = self.slot_offset(run, row, dst.len());
                    dst[start..start + len].fill(0);
                }
            }
        }
    }

    fn load_prefix(&self, prefix: &mut Vec<Before>) {
        prefix.clear();
        let Some(shapes) = self.shapes else { return };
        let mut before = Before::default();
        for sample in 0..shapes.len() {
            prefix.push(before);
            let shape = shapes.shape(sample);
            before.stored +=
                sample_stored_bytes(shape, self.field.stored_bits(shapes.dtype(sample)));
            before.elements += num_elements(shape).unwrap_or(0) as u64;
            before.scales += self.field.quantizer().scales_per_sample(shape);
            before.out_bytes += sample_out_bytes(self.field, self.form, shape, shapes.dtype(sample))
                .unwrap_or(0) as u64;
        }
        prefix.push(before);
    }

    /// Decodes the scales of the chunk, unless they are static.
    fn load_scales(&self, scratch: &mut Scratch) -> Result<()> {
        scratch.scales.scales.clear();
        scratch.scales.zero_points.clear();
        let Some(scaling) = self.field.quantizer().scaling() else {
            return Ok(());
        };
        if self.static_scales {
            return Ok(());
        }
        let mut bytes = std::mem::take(&mut scratch.aux);
        let mut scales = std::mem::take(&mut scratch.scales);
        let result = self.decode_scales(&scaling, &mut bytes, &mut scales, scratch);
        scratch.aux = bytes;
        scratch.scales = scales;
        result
    }

    fn decode_scales(
        &self,
        scaling: &Scaling,
        bytes: &mut Vec<u8>,
        scales: &mut Scales,
        scratch: &mut Scratch,
    ) -> Result<()> {
        let expected = match (&self.fixed, scratch.prefix.last()) {
            (Some(fixed), _) => fixed.scales * self.chunk.header.num_samples as usize,
            (None, last) => last.map_or(0, |before| before.scales),
        };
        self.reader
            .decode_whole(self.chunk, self.ordinal, Role::Scales, bytes, scratch)?;
        if bytes.len() != expected * scaling.format.size() {
            return Err(Error::corrupt(
                "number of scales",
                expected,
                bytes.len() / scaling.format.size(),
            ));
        }
        scales.scales.resize(expected, 0.0);
        scaling.format.read(bytes, &mut scales.scales);
        if scaling.zero_points {
            self.reader
                .decode_whole(self.chunk, self.ordinal, Role::ZeroPoints, bytes, scratch)?;
            if bytes.len() != expected * 4 {
                return Err(Error::corrupt(
                    "number of zero points",
                    expected,
                    bytes.len() / 4,
                ));
            }
            let (words, _) = bytes.as_chunks::<4>();
            scales
                .zero_points
                .extend(words.iter().map(|word| i32::from_le_bytes(*word)));
        }
        self.field.quantizer().validate(scales)
    }

    fn scales_from<'s>(&'s self, dynamic: &'s Scales, before: usize) -> ScalesView<'s> {
        if self.static_scales {
            let scales = self.field.scales();
            return ScalesView {
                scales: &scales.scales,
                zero_points: &scales.zero_points,
            };
        }
        ScalesView {
            scales: dynamic.scales.get(before..).unwrap_or_default(),
            zero_points: dynamic.zero_points.get(before..).unwrap_or_default(),
        }
    }

    /// Hands out the scales of the samples of each run beside their codes.
    fn copy_scales(&self, slots: &mut dyn Slots, scratch: &Scratch) -> Result<()> {
        let n = self.fixed.as_ref().map_or(0, |fixed| fixed.scales);
        if self.static_scales || n == 0 {
            return Ok(());
        }
        for (i, run) in self.runs.iter().enumerate() {
            let range = n * run.row as usize..n * run.end() as usize;
            let scales = scratch
                .scales
                .scales
                .get(range.clone())
                .ok_or_else(slot_bug)?;
            for (dst, scale) in slots.run(i, 1).chunks_exact_mut(4).zip(scales) {
                dst.copy_from_slice(&scale.to_le_bytes());
            }
            if self.field.quantizer().has_zero_points() {
                let zero_points = scratch.scales.zero_points.get(range).ok_or_else(slot_bug)?;
                for (dst, zero_point) in slots.run(i, 2).chunks_exact_mut(4).zip(zero_points) {
                    dst.copy_from_slice(&zero_point.to_le_bytes());
                }
            }
        }
        Ok(())
    }

    fn load_patches(&self, scratch: &mut Scratch) -> Result<Patches> {
        let mut patches = Patches::default();
        let (Some(dtype), Some(_)) = (
            self.field.dtype(),
            self.chunk.header.stream(self.ordinal, Role::Patches),
        ) else {
            return Ok(patches);
        };
        let mut bytes = Vec::new();
        self.reader
            .decode_whole(self.chunk, self.ordinal, Role::Patches, &mut bytes, scratch)?;
        let n = bytes.len() / (8 + dtype.size());
        if bytes.len() != n * (8 + dtype.size()) {
            return Err(Error::corrupt(
                "length of the patches stream",
                "whole patches",
                bytes.len(),
            ));
        }
        let values = bytes.split_off(8 * n);
        let (words, _) = bytes.as_chunks::<8>();
        patches
            .indices
            .extend(words.iter().map(|word| u64::from_le_bytes(*word)));
        patches.values = values;
        let elements = match (&self.fixed, scratch.prefix.last()) {
            (Some(fixed), _) => fixed.elements as u64 * u64::from(self.chunk.header.num_samples),
            (None, last) => last.map_or(0, |before| before.elements),
        };
        let ascending = patches.indices.windows(2).all(|pair| pair[0] < pair[1]);
        if !ascending || patches.indices.last().is_some_and(|&last| last >= elements) {
            return Err(Error::corrupt(
                "patch indices",
                format_args!("ascending and below {elements}"),
                "others",
            ));
        }
        Ok(patches)
    }
}

/// A decoded step and what belongs to it.
struct Decoded<'a> {
    codes: &'a [u8],
    /// The codes are those of the file, where those of the next step follow.
    in_file: bool,
    scales: &'a Scales,
    prefix: &'a [Before],
    patches: &'a Patches,
}

/// Elements that are restored exactly (format-spec 10.5).
#[derive(Default)]
struct Patches {
    indices: Vec<u64>,
    values: Vec<u8>,
}

impl Patches {
    fn apply(&self, block: &Block<'_>, global: u64, dtype: DType, dst: &mut [u8]) -> Result<()> {
        let from = self.indices.partition_point(|&index| index < global);
        let (size, out) = (block.dtype.size(), dtype.size());
        for (i, &index) in self.indices.iter().enumerate().skip(from) {
            let at = to_usize(index - global);
            if at >= block.count {
                break;
            }
            let value = &self.values[i * size..(i + 1) * size];
            convert::convert(
                block.dtype,
                value,
                dtype,
                &mut dst[at * out..(at + 1) * out],
            )?;
        }
        Ok(())
    }
}

impl Normalize {
    fn apply(&self, first: usize, mut src: &[u8], mut dst: &mut [u8]) {
        let size = self.dtype.size();
        let mut element = first;
        while !src.is_empty() {
            let channel = element / self.stride % self.tables.len();
            let n = (self.stride - element % self.stride).min(src.len());
            let (head, tail) = src.split_at(n);
            let (head_dst, tail_dst) = std::mem::take(&mut dst).split_at_mut(n * size);
            match &self.tables[channel] {
                Table::F32(table) => lut::lut_u8_f32(head, table, head_dst),
                Table::Half(table) => lut::lut_u8_u16(head, table, head_dst),
            }
            (src, dst) = (tail, tail_dst);
            element += n;
        }
    }
}

pub(super) fn grow(buffer: &mut Vec<u8>, len: usize) {
    if buffer.len() < len {
        buffer.resize(len, 0);
    }
}

/// Lengths within a chunk that is in memory or mapped.
fn to_usize(x: u64) -> usize {
    usize::try_from(x).unwrap_or(usize::MAX)
}

fn slot_bug() -> Error {
    Error::invalid("a slot of the wrong size: this is a bug, please report it")
}
