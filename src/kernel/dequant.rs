//! Integer codes to floats: x = scale * (q - zero_point) (format-spec 9.3).
//!
//! q and zero_point are integers below 2^17 in size, so their difference is exact in f32 and only the multiplication
//! rounds, as the format demands.

use super::convert::Slot;
use super::simd::simd;
use super::stream;

/// How a stored element is to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Codes {
    /// Unsigned, one byte (also unpacked unsigned nibbles).
    U8,
    /// Two's complement, one byte (also unpacked signed nibbles).
    I8,
    /// Unsigned, two bytes.
    U16,
    /// Two's complement, two bytes.
    I16,
}

impl Codes {
    /// The kind of elements of this many bits; nibbles count as bytes, to be unpacked with [`unpack_nibbles`].
    pub(crate) fn new(bits: u8, signed: bool) -> Self {
        match (bits == 16, signed) {
            (false, false) => Self::U8,
            (false, true) => Self::I8,
            (true, false) => Self::U16,
            (true, true) => Self::I16,
        }
    }

    /// Bytes of an element.
    pub(crate) fn size(self) -> usize {
        match self {
            Self::U8 | Self::I8 => 1,
            Self::U16 | Self::I16 => 2,
        }
    }
}

simd! {
    /// Spreads 4-bit elements over bytes, low nibble first, extending the sign of signed ones. `dst` may have one byte
    /// less than twice the bytes of `src`.
    pub(crate) fn unpack_nibbles(signed: bool, src: &[u8], dst: &mut [u8]) {
        // Two's complement: (n ^ 8) - 8 maps 8..=15 to -8..=-1 and leaves 0..=7.
        let flip = if signed { 8u8 } else { 0 };
        let (pairs, last) = dst.as_chunks_mut::<2>();
        for (pair, &byte) in pairs.iter_mut().zip(src) {
            let wide = u16::from(byte);
            let [low, high] = ((wide & 0x0F) | ((wide & 0xF0) << 4)).to_le_bytes();
            *pair = [
                (low ^ flip).wrapping_sub(flip),
                (high ^ flip).wrapping_sub(flip),
            ];
        }
        if let ([out], Some(&byte)) = (last, src.get(pairs.len())) {
            *out = ((byte & 0x0F) ^ flip).wrapping_sub(flip);
        }
    }
}

#[inline(always)]
fn one_scale<const N: usize, S: Slot>(
    codes: &[u8],
    value: impl Fn([u8; N]) -> f32,
    scale: f32,
    zero_point: f32,
    dst: &mut [S],
) {
    for (out, code) in dst.iter_mut().zip(codes.as_chunks::<N>().0) {
        *out = S::of((value(*code) - zero_point) * scale);
    }
}

simd! {
    /// Dequantizes a run of elements that share a scale. Stops at the shorter of codes and `dst`.
    pub(crate) fn run<S: Slot>(kind: Codes, codes: &[u8], scale: f32, zero_point: f32, dst: &mut [S]) {
        match kind {
            Codes::U8 => one_scale(codes, |[b]| f32::from(b), scale, zero_point, dst),
            Codes::I8 => one_scale(
                codes,
                |b| f32::from(i8::from_le_bytes(b)),
                scale,
                zero_point,
                dst,
            ),
            Codes::U16 => one_scale(
                codes,
                |b| f32::from(u16::from_le_bytes(b)),
                scale,
                zero_point,
                dst,
            ),
            Codes::I16 => one_scale(
                codes,
                |b| f32::from(i16::from_le_bytes(b)),
                scale,
                zero_point,
                dst,
            ),
        }
    }
}

/// How integers that share a scale are read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OneScale {
    pub(crate) kind: Codes,
    pub(crate) scale: f32,
    pub(crate) zero_point: f32,
}

/// Lines of such integers.
struct Lines<'a, const N: usize, F> {
    codes: &'a [[[u8; N]; stream::LINE / 4]],
    value: F,
    scale: f32,
    zero_point: f32,
}

impl<const N: usize, F: Fn([u8; N]) -> f32> stream::Lines for Lines<'_, N, F> {
    #[inline(always)]
    fn line(&self, i: usize) -> [f32; stream::LINE / 4] {
        self.codes[i].map(|code| ((self.value)(code) - self.zero_point) * self.scale)
    }
}

impl OneScale {
    /// Dequantizes `codes` to the bytes of f32s in `dst`. Stops at the shorter.
    pub(crate) fn run(self, codes: &[u8], dst: &mut [u8]) {
        let dst = dst.as_chunks_mut::<4>().0;
        run(self.kind, codes, self.scale, self.zero_point, dst);
    }

    /// The same, past the caches: [`stream::fence`] must follow before another thread is told of the bytes.
    pub(crate) fn stream(self, codes: &[u8], dst: &mut [u8]) {
        let len = dst.len().min(codes.len() / self.kind.size() * 4);
        let head = dst.as_ptr().align_offset(stream::LINE);
        if head > len || !head.is_multiple_of(4) {
            return self.run(codes, dst);
        }
        let (dst_head, dst) = dst[..len].split_at_mut(head);
        let (codes_head, codes) = codes.split_at(head / 4 * self.kind.size());
        self.run(codes_head, dst_head);
        let (lines, rest) = dst.as_chunks_mut::<{ stream::LINE }>();
        match self.kind {
            Codes::U8 => self.put(codes, |[b]| f32::from(b), lines),
            Codes::I8 => self.put(codes, |b| f32::from(i8::from_le_bytes(b)), lines),
            Codes::U16 => self.put(codes, |b| f32::from(u16::from_le_bytes(b)), lines),
            Codes::I16 => self.put(codes, |b| f32::from(i16::from_le_bytes(b)), lines),
        }
        let done = lines.len() * (stream::LINE / 4) * self.kind.size();
        self.run(&codes[done..], rest);
    }

    #[inline(always)]
    fn put<const N: usize>(
        self,
        codes: &[u8],
        value: impl Fn([u8; N]) -> f32,
        dst: &mut [[u8; stream::LINE]],
    ) {
        let lines = Lines {
            codes: codes.as_chunks().0.as_chunks().0,
            value,
            scale: self.scale,
            zero_point: self.zero_point,
        };
        stream::put(&lines, dst);
    }
}

#[inline(always)]
fn own_scales<const N: usize, S: Slot>(
    codes: &[u8],
    value: impl Fn([u8; N]) -> f32,
    scales: &[f32],
    zero_points: &[f32],
    dst: &mut [S],
) {
    for (((out, code), scale), zero_point) in dst
        .iter_mut()
        .zip(codes.as_chunks::<N>().0)
        .zip(scales)
        .zip(zero_points)
    {
        *out = S::of((value(*code) - zero_point) * scale);
    }
}

simd! {
    /// Dequantizes elements that each have their own scale. Stops at the shortest of the slices.
    pub(crate) fn each<S: Slot>(
        kind: Codes,
        codes: &[u8],
        scales: &[f32],
        zero_points: &[f32],
        dst: &mut [S],
    ) {
        match kind {
            Codes::U8 => own_scales(codes, |[b]| f32::from(b), scales, zero_points, dst),
            Codes::I8 => own_scales(
                codes,
                |b| f32::from(i8::from_le_bytes(b)),
                scales,
                zero_points,
                dst,
            ),
            Codes::U16 => own_scales(
                codes,
                |b| f32::from(u16::from_le_bytes(b)),
                scales,
                zero_points,
                dst,
            ),
            Codes::I16 => own_scales(
                codes,
                |b| f32::from(i16::from_le_bytes(b)),
                scales,
                zero_points,
                dst,
            ),
        }
    }
}

#[inline(always)]
fn one_group<const N: usize, S: Slot>(
    codes: &[u8],
    value: impl Fn([u8; N]) -> f32 + Copy,
    group: usize,
    scales: &[f32],
    zero_point: f32,
    dst: &mut [S],
) {
    let groups = dst
        .chunks_exact_mut(group)
        .zip(codes.chunks_exact(group * N));
    for ((dst, codes), scale) in groups.zip(scales) {
        one_scale(codes, value, *scale, zero_point, dst);
    }
}

simd! {
    /// Dequantizes whole groups of `group` elements, each with the next scale, that share a zero_point. Stops at the
    /// shortest of the slices.
    pub(crate) fn groups<S: Slot>(
        kind: Codes,
        codes: &[u8],
        group: usize,
        scales: &[f32],
        zero_point: f32,
        dst: &mut [S],
    ) {
        match kind {
            Codes::U8 => one_group(codes, |[b]| f32::from(b), group, scales, zero_point, dst),
            Codes::I8 => one_group(
                codes,
                |b| f32::from(i8::from_le_bytes(b)),
                group,
                scales,
                zero_point,
                dst,
            ),
            Codes::U16 => one_group(
                codes,
                |b| f32::from(u16::from_le_bytes(b)),
                group,
                scales,
                zero_point,
                dst,
            ),
            Codes::I16 => one_group(
                codes,
                |b| f32::from(i16::from_le_bytes(b)),
                group,
                scales,
                zero_point,
                dst,
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nibbles_unpack_low_first_with_their_sign() {
        let mut out = [0x55; 5];
        unpack_nibbles(true, &[0xD7, 0x18, 0x07], &mut out);
        assert_eq!(out.map(u8::cast_signed), [7, -3, -8, 1, 7]);
        unpack_nibbles(false, &[0xD7, 0x18, 0x07], &mut out);
        assert_eq!(out, [7, 13, 8, 1, 7]);
    }

    #[test]
    fn both_variants_agree_with_the_formula_for_every_code() {
        for (kind, size) in [
            (Codes::U8, 1),
            (Codes::I8, 1),
            (Codes::U16, 2),
            (Codes::I16, 2),
        ] {
            let n = 1usize << (8 * size);
            let codes: Vec<u8> = (0..n as u64)
                .flat_map(|q| q.to_le_bytes().into_iter().take(size))
                .collect();
            for (scale, zero_point) in [
                (0.1f32, 0i32),
                (3.7e-5, 37),
                (f32::MIN_POSITIVE, 128),
                (1e30, -100),
            ] {
                let (mut a, mut b) = (vec![0.0f32; n], vec![[0u8; 4]; n]);
                run(kind, &codes, scale, zero_point as f32, &mut a);
                each(
                    kind,
                    &codes,
                    &vec![scale; n],
                    &vec![zero_point as f32; n],
                    &mut b,
                );
                for (i, (a, b)) in a.iter().zip(&b).enumerate() {
                    let q = match kind {
                        Codes::U8 | Codes::U16 => i64::try_from(i).unwrap(),
                        Codes::I8 | Codes::I16 => {
                            let i = i64::try_from(i).unwrap();
                            if i < n as i64 / 2 { i } else { i - n as i64 }
                        }
                    };
                    let expected = (q - i64::from(zero_point)) as f32 * scale;
                    assert_eq!(a.to_bits(), expected.to_bits());
                    assert_eq!(*b, expected.to_le_bytes());
                }
            }
        }
    }

    #[test]
    fn what_goes_past_the_caches_is_what_is_written_in_the_ordinary_way() {
        use crate::kernel::simd::{FORCED, Level};
        let bytes: Vec<u8> = (0..=255).cycle().step_by(7).take(300).collect();
        for level in Level::available() {
            FORCED.set(Some(level));
            for kind in [Codes::U8, Codes::I8, Codes::U16, Codes::I16] {
                let one = OneScale {
                    kind,
                    scale: 0.37,
                    zero_point: 3.0,
                };
                for (start, count) in
                    (0..67).flat_map(|start| [0, 1, 15, 33, 120].map(|n| (start, n)))
                {
                    let codes = &bytes[..count * kind.size()];
                    let (mut expected, mut dst) = (vec![0; 4 * count], vec![0xAA; 700]);
                    one.run(codes, &mut expected);
                    one.stream(codes, &mut dst[start..start + 4 * count]);
                    stream::fence();
                    assert_eq!(dst[start..start + 4 * count], expected);
                    assert!(
                        dst[..start]
                            .iter()
                            .chain(&dst[start + 4 * count..])
                            .all(|b| *b == 0xAA)
                    );
                }
            }
        }
        FORCED.set(None);
    }
}
