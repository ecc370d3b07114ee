//! Prediction axis by axis, in plain loops over words: for every part of a sample, and every instruction set.
//!
//! Positions are bytes. `first` is the position of the first byte of a slice within its run of samples: what lies
//! before it is not there, and counts as 0.

use crate::kernel::simd::simd;

use super::{Axis, Channels};

/// Below this stride an axis is summed element by element, from it on line by line.
const LINE: usize = 16;

/// Elements of one size. Slices have whole elements.
pub(crate) trait Words {
    const SIZE: usize;

    /// `dst += src`, up to the shorter.
    fn add(dst: &mut [u8], src: &[u8]);
    /// `dst -= src`, up to the shorter.
    fn sub(dst: &mut [u8], src: &[u8]);
    /// Small differences of either sign to small numbers: `(r << 1) ^ (r >> (w - 1))`, the second shift arithmetic.
    fn zigzag(dst: &mut [u8]);
    /// `(z >> 1) ^ -(z & 1)`.
    fn unzigzag(dst: &mut [u8]);
    /// Adds to each element the one `stride` bytes before, in order.
    fn sum(dst: &mut [u8], stride: usize);
    /// Of each group of `len` elements, adds number `from` to the others.
    fn spread(dst: &mut [u8], len: usize, from: usize);
    /// The inverse of `spread`.
    fn gather(dst: &mut [u8], len: usize, from: usize);
}

/// For each of 8 bytes, the sum of it, those before it and `before`; and the sum of all 8 without `before`. Of every sum
/// the low byte counts.
#[inline(always)]
fn sums_of_bytes(x: u64, before: u64) -> (u64, u64) {
    const LOW: u64 = 0x00FF_00FF_00FF_00FF;
    const ONES: u64 = 0x0001_0001_0001_0001;
    // Bytes of even and of odd numbers, as u16s: the product adds to each those before it, and nothing is carried.
    let even = (x & LOW).wrapping_mul(ONES);
    let odd = (x >> 8 & LOW).wrapping_mul(ONES);
    let all = (even + odd) >> 48;
    let even = even + before * ONES;
    let sums = (even + (odd << 16)) & LOW | ((even + odd) & LOW) << 8;
    (sums, all)
}

macro_rules! words {
    ($word:ty, $size:literal) => {
        impl Words for $word {
            const SIZE: usize = $size;

            #[inline(always)]
            fn add(dst: &mut [u8], src: &[u8]) {
                let src = src.as_chunks::<$size>().0;
                for (out, x) in dst.as_chunks_mut::<$size>().0.iter_mut().zip(src) {
                    *out = <$word>::from_le_bytes(*out)
                        .wrapping_add(<$word>::from_le_bytes(*x))
                        .to_le_bytes();
                }
            }

            #[inline(always)]
            fn sub(dst: &mut [u8], src: &[u8]) {
                let src = src.as_chunks::<$size>().0;
                for (out, x) in dst.as_chunks_mut::<$size>().0.iter_mut().zip(src) {
                    *out = <$word>::from_le_bytes(*out)
                        .wrapping_sub(<$word>::from_le_bytes(*x))
                        .to_le_bytes();
                }
            }

            #[inline(always)]
            fn zigzag(dst: &mut [u8]) {
                for out in dst.as_chunks_mut::<$size>().0 {
                    let r = <$word>::from_le_bytes(*out);
                    let sign = (r >> (8 * $size - 1)).wrapping_neg();
                    *out = ((r << 1) ^ sign).to_le_bytes();
                }
            }

            #[inline(always)]
            fn unzigzag(dst: &mut [u8]) {
                for out in dst.as_chunks_mut::<$size>().0 {
                    let z = <$word>::from_le_bytes(*out);
                    *out = ((z >> 1) ^ (z & 1).wrapping_neg()).to_le_bytes();
                }
            }

            #[inline(always)]
            fn sum(dst: &mut [u8], stride: usize) {
                let step = stride / $size;
                if step == 1 {
                    let mut sum: $word = 0;
                    let bytes = if $size == 1 { dst.len() / 8 * 8 } else { 0 };
                    let (bytes, rest) = dst.split_at_mut(bytes);
                    for eight in bytes.as_chunks_mut::<8>().0 {
                        let x = u64::from_le_bytes(*eight);
                        let (sums, all) = sums_of_bytes(x, u64::from(sum));
                        *eight = sums.to_le_bytes();
                        let all = all.to_le_bytes().first_chunk().copied();
                        sum = sum.wrapping_add(<$word>::from_le_bytes(all.unwrap_or_default()));
                    }
                    for out in rest.as_chunks_mut::<$size>().0 {
                        sum = sum.wrapping_add(<$word>::from_le_bytes(*out));
                        *out = sum.to_le_bytes();
                    }
                    return;
                }
                let dst = dst.as_chunks_mut::<$size>().0;
                for i in step..dst.len() {
                    let before = <$word>::from_le_bytes(dst[i - step]);
                    dst[i] = <$word>::from_le_bytes(dst[i])
                        .wrapping_add(before)
                        .to_le_bytes();
                }
            }

            #[inline(always)]
            fn spread(dst: &mut [u8], len: usize, from: usize) {
                for group in dst.as_chunks_mut::<$size>().0.chunks_exact_mut(len) {
                    let reference = <$word>::from_le_bytes(group[from]);
                    for out in group.iter_mut() {
                        *out = <$word>::from_le_bytes(*out)
                            .wrapping_add(reference)
                            .to_le_bytes();
                    }
                    group[from] = reference.to_le_bytes();
                }
            }

            #[inline(always)]
            fn gather(dst: &mut [u8], len: usize, from: usize) {
                for group in dst.as_chunks_mut::<$size>().0.chunks_exact_mut(len) {
                    let reference = <$word>::from_le_bytes(group[from]);
                    for out in group.iter_mut() {
                        *out = <$word>::from_le_bytes(*out)
                            .wrapping_sub(reference)
                            .to_le_bytes();
                    }
                    group[from] = reference.to_le_bytes();
                }
            }
        }
    };
}
words!(u8, 1);
words!(u16, 2);
words!(u32, 4);
words!(u64, 8);

simd! {
    /// Zigzags every element.
    pub(super) fn zigzag<W: Words>(dst: &mut [u8]) {
        W::zigzag(dst);
    }
}

simd! {
    /// The inverse of [`zigzag`].
    pub(super) fn unzigzag<W: Words>(dst: &mut [u8]) {
        W::unzigzag(dst);
    }
}

/// `(start, end)` of the parts of `0..len` that do not cross a multiple of `unit`, counted from `first` bytes before.
#[inline(always)]
fn segments(
    first: usize,
    len: usize,
    unit: usize,
) -> impl DoubleEndedIterator<Item = (usize, usize)> {
    let unit = unit.max(1);
    let lines = if len == 0 {
        0..0
    } else {
        first / unit..(first + len).div_ceil(unit)
    };
    lines.map(move |line| {
        let start = (line * unit).max(first) - first;
        let end = ((line + 1) * unit).min(first + len) - first;
        (start, end)
    })
}

simd! {
    /// The inverse of [`difference_axis`], in place, of what follows the first `done` bytes.
    pub(super) fn sum_axis<W: Words>(axis: Axis, first: usize, done: usize, dst: &mut [u8]) {
        let len = dst.len() - done;
        if axis.stride < LINE {
            for (start, end) in segments(first + done, len, axis.stride * axis.len) {
                W::sum(&mut dst[done + start..done + end], axis.stride);
            }
            return;
        }
        for (start, end) in segments(first + done, len, axis.stride) {
            let (start, end) = (done + start, done + end);
            if ((first + start) / axis.stride).is_multiple_of(axis.len) || end <= axis.stride {
                continue;
            }
            let start = start.max(axis.stride);
            let (before, line) = dst[start - axis.stride..end].split_at_mut(axis.stride);
            W::add(line, before);
        }
    }
}

simd! {
    /// From each element of `src` the one before along an axis is subtracted, into `dst` of the same length.
    pub(super) fn difference_axis<W: Words>(axis: Axis, first: usize, src: &[u8], dst: &mut [u8]) {
        dst.copy_from_slice(src);
        if axis.stride >= src.len() {
            return;
        }
        W::sub(&mut dst[axis.stride..], src);
        // Where the axis starts there is nothing before.
        for (start, end) in segments(first, src.len(), axis.stride * axis.len) {
            let into = (first + start) % (axis.stride * axis.len);
            let end = end.min(start + axis.stride.saturating_sub(into));
            dst[start..end].copy_from_slice(&src[start..end]);
        }
    }
}

/// The part of a segment of channel `channel` whose elements of the reference channel are among `len` bytes, and where
/// those begin; `None` if there are none.
#[inline(always)]
fn with_reference(
    channels: &Channels,
    channel: usize,
    (start, end): (usize, usize),
    len: usize,
) -> Option<(usize, usize, usize)> {
    let stride = channels.axis.stride;
    let (start, end, from) = if channels.reference > channel {
        let ahead = (channels.reference - channel) * stride;
        (start, end.min(len.saturating_sub(ahead)), start + ahead)
    } else {
        let back = (channel - channels.reference) * stride;
        let start = start.max(back);
        (start, end, start - back)
    };
    (start < end).then_some((start, end, from))
}

/// True if the channels of a pixel are neighbours, and all of them are there.
#[inline(always)]
fn whole_pixels<W: Words>(channels: &Channels, first: usize, len: usize) -> bool {
    let pixel = channels.axis.stride * channels.axis.len;
    channels.axis.stride == W::SIZE && first.is_multiple_of(pixel) && len.is_multiple_of(pixel)
}

simd! {
    /// Subtracts the reference channel from the others in `dst`, a copy of `src`.
    pub(super) fn sub_channels<W: Words>(channels: &Channels, first: usize, src: &[u8], dst: &mut [u8]) {
        let Axis { stride, len } = channels.axis;
        if whole_pixels::<W>(channels, first, src.len()) {
            return W::gather(dst, len, channels.reference);
        }
        for segment in segments(first, src.len(), stride) {
            let channel = (first + segment.0) / stride % len;
            if channel != channels.reference
                && let Some((start, end, from)) = with_reference(channels, channel, segment, src.len())
            {
                W::sub(&mut dst[start..end], &src[from..]);
            }
        }
    }
}

simd! {
    /// The inverse of [`sub_channels`], in place.
    pub(super) fn add_channels<W: Words>(channels: &Channels, first: usize, dst: &mut [u8]) {
        let Axis { stride, len } = channels.axis;
        if whole_pixels::<W>(channels, first, dst.len()) {
            return W::spread(dst, len, channels.reference);
        }
        for segment in segments(first, dst.len(), stride) {
            let channel = (first + segment.0) / stride % len;
            if channel == channels.reference {
                continue;
            }
            let Some((start, end, from)) = with_reference(channels, channel, segment, dst.len())
            else {
                continue;
            };
            if from < start {
                let (before, rest) = dst.split_at_mut(start);
                W::add(&mut rest[..end - start], &before[from..]);
            } else {
                let (before, rest) = dst.split_at_mut(from);
                W::add(&mut before[start..end], rest);
            }
        }
    }
}
