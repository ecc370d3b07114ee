//! How a plane is cut into pieces (format-spec 10.1). Pure arithmetic, the same for writers and readers.

use crate::tensor::num_elements;

/// One piece: some whole samples, or a part of one sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    /// The first sample of the chunk that has bytes in the piece.
    pub(crate) first: u32,
    /// One past the last sample.
    pub(crate) end: u32,
    /// Byte offset of the piece in its first sample: not 0 only for a part of one sample.
    pub(crate) start: u64,
    /// Bytes of the piece before its codec.
    pub(crate) len: u32,
}

/// The stored bytes of a sample of `shape`, `bits` per stored element; saturating.
pub(crate) fn sample_stored_bytes(shape: &[usize], bits: u32) -> u64 {
    let elements = num_elements(shape).map_or(u64::MAX, |n| n as u64);
    elements.saturating_mul(u64::from(bits)).div_ceil(8)
}

/// Cuts samples one by one.
#[derive(Debug)]
pub(crate) struct Cutter<'a> {
    piece_bytes: u64,
    bits: u32,
    spans: &'a mut Vec<Span>,
    /// The last span may take more samples.
    open: bool,
}

impl<'a> Cutter<'a> {
    pub(crate) fn new(piece_bytes: u32, bits: u32, spans: &'a mut Vec<Span>) -> Self {
        spans.clear();
        Self {
            piece_bytes: u64::from(piece_bytes),
            bits,
            spans,
            open: false,
        }
    }

    /// The next sample, number `sample` of the chunk.
    pub(crate) fn sample(&mut self, sample: u32, shape: &[usize]) {
        self.sample_with_bits(sample, shape, self.bits);
    }

    /// The next sample, if its elements have a width of their own.
    pub(crate) fn sample_with_bits(&mut self, sample: u32, shape: &[usize], bits: u32) {
        let stored = sample_stored_bytes(shape, bits);
        let end = sample.saturating_add(1);
        if stored == 0 {
            return;
        }
        if stored > self.piece_bytes {
            self.large_sample(sample, shape, bits, stored);
            return;
        }
        // At most piece_bytes, a u32.
        let len = u32::try_from(stored).unwrap_or(u32::MAX);
        if let Some(last) = self.spans.last_mut()
            && self.open
            && u64::from(last.len).saturating_add(stored) <= self.piece_bytes
        {
            last.len = last.len.saturating_add(len);
            last.end = end;
            return;
        }
        self.spans.push(Span {
            first: sample,
            end,
            start: 0,
            len,
        });
        self.open = true;
    }

    fn large_sample(&mut self, sample: u32, shape: &[usize], bits: u32, stored: u64) {
        let row = shape.last().map_or(1, |&r| r as u64);
        let row_bits = row.saturating_mul(u64::from(bits));
        let unit = if row_bits % 8 == 0 { row_bits / 8 } else { row };
        let step = match self.piece_bytes.checked_div(unit) {
            Some(units) if units > 0 => units.saturating_mul(unit),
            _ => self.piece_bytes,
        };
        let mut start = 0u64;
        while start < stored {
            let len = step.min(stored.saturating_sub(start));
            let len = u32::try_from(len).unwrap_or(u32::MAX);
            self.spans.push(Span {
                first: sample,
                end: sample.saturating_add(1),
                start,
                len,
            });
            start = start.saturating_add(u64::from(len));
        }
        self.open = false;
    }
}

/// Cuts `num_samples` samples of one shape.
pub(crate) fn cut_fixed(
    piece_bytes: u32,
    bits: u32,
    shape: &[usize],
    num_samples: u32,
    spans: &mut Vec<Span>,
) {
    let stored = sample_stored_bytes(shape, bits);
    let mut cutter = Cutter::new(piece_bytes, bits, spans);
    if stored > u64::from(piece_bytes) {
        (0..num_samples).for_each(|sample| cutter.sample(sample, shape));
        return;
    }
    let Some(per_piece) = u64::from(piece_bytes).checked_div(stored) else {
        return;
    };
    let per_piece = u32::try_from(per_piece).unwrap_or(u32::MAX).max(1);
    let mut first = 0u32;
    while first < num_samples {
        let end = first.saturating_add(per_piece).min(num_samples);
        let len = u64::from(end.saturating_sub(first)).saturating_mul(stored);
        cutter.spans.push(Span {
            first,
            end,
            start: 0,
            len: u32::try_from(len).unwrap_or(u32::MAX),
        });
        first = end;
    }
}

/// The raw lengths of the pieces of a stream that is not a plane (format-spec 10.2).
pub(crate) fn cut_bytes(piece_bytes: u32, raw_len: u64) -> impl Iterator<Item = u32> {
    let pieces = raw_len.div_ceil(u64::from(piece_bytes).max(1));
    (0..pieces).map(move |i| {
        let done = i.saturating_mul(u64::from(piece_bytes));
        u32::try_from(raw_len.saturating_sub(done))
            .unwrap_or(u32::MAX)
            .min(piece_bytes)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lens(spans: &[Span]) -> Vec<u32> {
        spans.iter().map(|s| s.len).collect()
    }

    #[test]
    fn examples_of_the_spec() {
        let mut spans = Vec::new();
        cut_fixed(65536, 32, &[3, 100, 100], 2, &mut spans);
        assert_eq!(lens(&spans), [65200, 54800, 65200, 54800]);
        assert_eq!(
            spans.last().copied().unwrap(),
            Span {
                first: 1,
                end: 2,
                start: 65200,
                len: 54800
            }
        );
        cut_fixed(65536, 32, &[384], 100, &mut spans);
        assert_eq!(
            spans.iter().map(|s| s.end - s.first).collect::<Vec<_>>(),
            [42, 42, 16]
        );
        let mut cutter = Cutter::new(65536, 8, &mut spans);
        for (i, n) in (0u32..).zip([40000, 20000, 10000, 70000, 5]) {
            cutter.sample(i, &[n]);
        }
        assert_eq!(lens(&spans), [60000, 10000, 65536, 4464, 5]);
    }

    #[test]
    fn fixed_and_one_by_one_agree() {
        for (shape, bits) in [
            (&[7usize][..], 4),
            (&[], 32),
            (&[0], 8),
            (&[300, 301], 4),
            (&[65536], 8),
            (&[65537], 8),
        ] {
            let (mut a, mut b) = (Vec::new(), Vec::new());
            cut_fixed(65536, bits, shape, 1000, &mut a);
            let mut cutter = Cutter::new(65536, bits, &mut b);
            (0..1000).for_each(|i| cutter.sample(i, shape));
            assert_eq!(a, b, "{shape:?}");
            let total: u64 = a.iter().map(|s| u64::from(s.len)).sum();
            assert_eq!(total, 1000 * sample_stored_bytes(shape, bits));
        }
    }

    #[test]
    fn odd_four_bit_rows_are_cut_in_pairs() {
        let mut spans = Vec::new();
        cut_fixed(16384, 4, &[300, 301], 1, &mut spans);
        assert_eq!(spans.first().unwrap().len % 301, 0);
        assert_eq!(spans.iter().map(|s| u64::from(s.len)).sum::<u64>(), 45150);
    }

    #[test]
    fn other_streams_are_cut_every_piece_bytes() {
        assert_eq!(cut_bytes(16384, 0).count(), 0);
        assert_eq!(
            cut_bytes(16384, 40000).collect::<Vec<_>>(),
            [16384, 16384, 7232]
        );
    }
}
