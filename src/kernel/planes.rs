//! Elements to planes of bytes and back (format-spec 8.2): plane j holds byte j of every element, the most significant
//! first. With a rotation, an element is first rotated left by that many bits, and back after merging.
#![cfg_attr(
    target_arch = "x86_64",
    expect(
        unsafe_code,
        reason = "loads and stores of vectors, and calls of code compiled for AVX2 and AVX-512"
    )
)]

use super::simd::simd;
#[cfg(target_arch = "x86_64")]
use super::simd::{Level, level};

/// How merging treats memory. The bytes are the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Stores {
    /// Elements are wanted soon: ordinary stores.
    #[default]
    Cached,
    /// Elements go past the caches, as far as the destination is aligned to lines (`stream.rs`): `stream::fence` must
    /// follow before another thread is told of the bytes. And the bytes of each plane that follow the ones given are
    /// fetched, as many: on the way to the caches nothing else keeps memory busy, and the pages of many planes are more
    /// than processors fetch ahead by themselves (+30%).
    Streamed,
}

/// Bytes of the widest element, and so the most planes.
pub(crate) const MAX_PLANES: usize = 8;

/// Elements of a block: one vector of bytes of every plane.
const LANES: usize = 64;

/// Bytes of a stored plane that are read at once before they are merged, by its checksum.
pub(crate) const CHECKED: usize = 4096;

/// A cache line.
const LINE: usize = 64;

macro_rules! word_planes {
    ($split:ident, $merge:ident, $word:ty, $size:literal) => {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "takes one byte out of a word"
        )]
        #[inline(always)]
        fn $split(rotation: u32, src: &[u8], planes: &mut [u8]) {
            let n = src.len() / $size;
            let (blocks, rest) = src.as_chunks::<$size>().0.as_chunks::<LANES>();
            for (j, plane) in planes.chunks_exact_mut(n).enumerate() {
                let shift = 8 * ($size - 1 - j);
                let (outs, last) = plane.as_chunks_mut::<LANES>();
                for (block, out) in blocks.iter().zip(outs) {
                    for (byte, element) in out.iter_mut().zip(block) {
                        let word = <$word>::from_le_bytes(*element).rotate_left(rotation);
                        *byte = (word >> shift) as u8;
                    }
                }
                for (byte, element) in last.iter_mut().zip(rest) {
                    let word = <$word>::from_le_bytes(*element).rotate_left(rotation);
                    *byte = (word >> shift) as u8;
                }
            }
        }

        #[inline(always)]
        fn $merge(rotation: u32, planes: &[&[u8]; $size], first: usize, dst: &mut [u8]) {
            let elements = dst.as_chunks_mut::<$size>().0;
            let planes = planes.map(|plane| plane.get(first..).unwrap_or_default());
            for (i, element) in elements.iter_mut().enumerate() {
                let mut word: $word = 0;
                for plane in &planes {
                    word = word << 8 | <$word>::from(plane.get(i).copied().unwrap_or_default());
                }
                *element = word.rotate_right(rotation).to_le_bytes();
            }
        }
    };
}
word_planes!(split2, merge2, u16, 2);
word_planes!(split4, merge4, u32, 4);
word_planes!(split8, merge8, u64, 8);

simd! {
    /// Splits whole elements of `size` bytes (2, 4 or 8) into `size` planes of `src.len() / size` bytes, one after the
    /// other in `planes`, which is as long as `src`.
    pub(crate) fn split(size: usize, rotation: u32, src: &[u8], planes: &mut [u8]) {
        debug_assert!(src.len() == planes.len() && src.len().is_multiple_of(size));
        match size {
            _ if src.is_empty() => {}
            2 => split2(rotation, src, planes),
            4 => split4(rotation, src, planes),
            8 => split8(rotation, src, planes),
            _ => {}
        }
    }
}

/// The inverse of [`split`]: elements of `planes.len()` bytes (2, 4 or 8) into `dst`, which is as long as all planes
/// together. The planes are equally long.
pub(crate) fn merge(rotation: u32, planes: &[&[u8]], dst: &mut [u8], stores: Stores) {
    let n = planes.first().map_or(0, |plane| plane.len());
    debug_assert!(planes.iter().all(|plane| plane.len() == n) && dst.len() == n * planes.len());
    let aligned = (dst.as_ptr() as usize).is_multiple_of(LINE);
    let stores = if aligned { stores } else { Stores::Cached };
    let done = merge_blocks(rotation, planes, dst, stores);
    if done == n {
        return;
    }
    if done == 0 || stores == Stores::Streamed {
        return merge_rest(rotation, planes, done, dst);
    }
    // The last block once more, up to the end.
    let first = n.saturating_sub(LANES);
    let mut last = [&[][..]; MAX_PLANES];
    for (last, plane) in last.iter_mut().zip(planes) {
        *last = plane.get(first..).unwrap_or_default();
    }
    let dst = dst.get_mut(first * planes.len()..).unwrap_or_default();
    let last = &last[..planes.len()];
    let done = merge_blocks(rotation, last, dst, stores);
    merge_rest(rotation, last, done, dst);
}

/// Elements from `first` on; this defines the bits.
fn merge_rest(rotation: u32, planes: &[&[u8]], first: usize, dst: &mut [u8]) {
    let dst = dst.get_mut(first * planes.len()..).unwrap_or_default();
    if let Ok(planes) = planes.try_into() {
        merge2(rotation, planes, first, dst);
    } else if let Ok(planes) = planes.try_into() {
        merge4(rotation, planes, first, dst);
    } else if let Ok(planes) = planes.try_into() {
        merge8(rotation, planes, first, dst);
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn merge_blocks(_rotation: u32, _planes: &[&[u8]], _dst: &mut [u8], _stores: Stores) -> usize {
    0
}

/// Merges whole blocks with vector instructions; returns how many elements are done.
#[cfg(target_arch = "x86_64")]
fn merge_blocks(rotation: u32, planes: &[&[u8]], dst: &mut [u8], stores: Stores) -> usize {
    match level() {
        // SAFETY: `level` is at most what `Level::best` found on this machine.
        Level::Avx2 => unsafe { x86::merge_avx2(rotation, planes, dst, stores) },
        // SAFETY: as above.
        Level::Avx512 => unsafe { x86::merge_avx512(rotation, planes, dst, stores) },
        _ => 0,
    }
}

/// Blocks through vector registers. Unpacking works within lanes of 16 bytes, so the bytes of each plane are first
/// put in the order in which lanes need them: then what is unpacked is in the order of the elements.
#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{CHECKED, Stores};

    /// The `N`-byte blocks of every plane; what follows the last whole block of any of them is left out.
    #[inline(always)]
    fn blocks<'a, const N: usize, const P: usize>(
        planes: &[&'a [u8]; P],
    ) -> ([&'a [[u8; N]]; P], usize) {
        let blocks = planes.map(|plane| plane.as_chunks::<N>().0);
        let count = blocks.iter().map(|plane| plane.len()).min().unwrap_or(0);
        (blocks, count)
    }

    /// Dispatches on the number of planes, the rotation and the stores.
    macro_rules! dispatch {
        ($rotation:ident, $planes:ident, $dst:ident, $stores:ident, $two:ident, $four:ident, $eight:ident) => {{
            let streamed = $stores == Stores::Streamed;
            macro_rules! with {
                ($merge:ident) => {
                    $planes
                        .try_into()
                        .map_or(0, |planes| match ($rotation, streamed) {
                            (0, false) => $merge::<0, false>(planes, $dst),
                            (0, true) => $merge::<0, true>(planes, $dst),
                            (1, false) => $merge::<1, false>(planes, $dst),
                            (1, true) => $merge::<1, true>(planes, $dst),
                            _ => 0,
                        })
                };
            }
            match $planes.len() {
                2 => with!($two),
                4 => with!($four),
                8 => with!($eight),
                _ => 0,
            }
        }};
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi")]
    pub(super) fn merge_avx512(
        rotation: u32,
        planes: &[&[u8]],
        dst: &mut [u8],
        stores: Stores,
    ) -> usize {
        dispatch!(rotation, planes, dst, stores, two_512, four_512, eight_512)
    }

    #[target_feature(enable = "avx2")]
    pub(super) fn merge_avx2(
        rotation: u32,
        planes: &[&[u8]],
        dst: &mut [u8],
        stores: Stores,
    ) -> usize {
        dispatch!(rotation, planes, dst, stores, two_256, four_256, eight_256)
    }

    /// Fetches the line that a block begins in so far ahead: what is checked next. Into the first cache, if planes are so few
    /// that it has room.
    #[inline(always)]
    fn fetch<const STREAMED: bool, const P: usize>(block: *const u8, ahead: usize) {
        if STREAMED {
            let at = block.wrapping_add(ahead).cast();
            // SAFETY: hints for any address, valid or not; SSE is part of x86-64.
            unsafe {
                if P <= 4 {
                    _mm_prefetch::<_MM_HINT_T0>(at);
                } else {
                    _mm_prefetch::<_MM_HINT_T1>(at);
                }
            }
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn load_512(block: &[u8; 64]) -> __m512i {
        // SAFETY: `block` has 64 readable bytes; the load needs no alignment.
        unsafe { _mm512_loadu_si512(block.as_ptr().cast()) }
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn store_512<const STREAMED: bool>(block: &mut [u8; 64], x: __m512i) {
        let to = block.as_mut_ptr().cast();
        if STREAMED {
            debug_assert_eq!(to as usize % 64, 0, "a line that is not aligned");
            // SAFETY: `block` has 64 writable bytes and is aligned: `merge` streams only to aligned destinations, of
            // which blocks are multiples of 64 bytes away. `Stores::Streamed` says who orders the stores.
            unsafe { _mm512_stream_si512(to, x) }
        } else {
            // SAFETY: `block` has 64 writable bytes; the store needs no alignment.
            unsafe { _mm512_storeu_si512(to, x) }
        }
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn load_256(block: &[u8; 32]) -> __m256i {
        // SAFETY: `block` has 32 readable bytes; the load needs no alignment.
        unsafe { _mm256_loadu_si256(block.as_ptr().cast()) }
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn store_256<const STREAMED: bool>(block: &mut [u8; 32], x: __m256i) {
        let to = block.as_mut_ptr().cast();
        if STREAMED {
            debug_assert_eq!(to as usize % 32, 0, "a destination that is not aligned");
            // SAFETY: `block` has 32 writable bytes and is aligned to them: `merge` streams only to aligned
            // destinations, of which blocks are multiples of 32 bytes away. `Stores::Streamed` says who orders the
            // stores.
            unsafe { _mm256_stream_si256(to, x) }
        } else {
            // SAFETY: `block` has 32 writable bytes; the store needs no alignment.
            unsafe { _mm256_storeu_si256(to, x) }
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi")]
    fn two_512<const R: u32, const STREAMED: bool>(planes: &[&[u8]; 2], dst: &mut [u8]) -> usize {
        let ([high, low], count) = blocks::<64, 2>(planes);
        let order = _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7);
        let outs = dst.as_chunks_mut::<64>().0.as_chunks_mut::<2>().0;
        let count = count.min(outs.len());
        let ahead = CHECKED.max(planes[0].len());
        for ((high, low), out) in high.iter().zip(low).zip(outs) {
            fetch::<STREAMED, 2>(high.as_ptr(), ahead);
            fetch::<STREAMED, 2>(low.as_ptr(), ahead);
            let high = _mm512_permutexvar_epi64(order, load_512(high));
            let low = _mm512_permutexvar_epi64(order, load_512(low));
            for (out, x) in out.iter_mut().zip([
                _mm512_unpacklo_epi8(low, high),
                _mm512_unpackhi_epi8(low, high),
            ]) {
                let x = match R {
                    1 => _mm512_or_si512(_mm512_srli_epi16::<1>(x), _mm512_slli_epi16::<15>(x)),
                    _ => x,
                };
                store_512::<STREAMED>(out, x);
            }
        }
        count * 64
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi")]
    fn four_512<const R: u32, const STREAMED: bool>(planes: &[&[u8]; 4], dst: &mut [u8]) -> usize {
        let ([p0, p1, p2, p3], count) = blocks::<64, 4>(planes);
        let order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
        let outs = dst.as_chunks_mut::<64>().0.as_chunks_mut::<4>().0;
        let count = count.min(outs.len());
        let ahead = CHECKED.max(planes[0].len());
        for ((((p0, p1), p2), p3), out) in p0.iter().zip(p1).zip(p2).zip(p3).zip(outs) {
            for plane in [p0, p1, p2, p3] {
                fetch::<true, 4>(plane.as_ptr(), ahead);
            }
            let p = [p3, p2, p1, p0].map(|p| _mm512_permutexvar_epi32(order, load_512(p)));
            let (a0, a1) = (
                _mm512_unpacklo_epi8(p[0], p[1]),
                _mm512_unpackhi_epi8(p[0], p[1]),
            );
            let (b0, b1) = (
                _mm512_unpacklo_epi8(p[2], p[3]),
                _mm512_unpackhi_epi8(p[2], p[3]),
            );
            for (out, x) in out.iter_mut().zip([
                _mm512_unpacklo_epi16(a0, b0),
                _mm512_unpackhi_epi16(a0, b0),
                _mm512_unpacklo_epi16(a1, b1),
                _mm512_unpackhi_epi16(a1, b1),
            ]) {
                let x = if R == 1 { _mm512_ror_epi32::<1>(x) } else { x };
                store_512::<STREAMED>(out, x);
            }
        }
        count * 64
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi")]
    fn eight_512<const R: u32, const STREAMED: bool>(planes: &[&[u8]; 8], dst: &mut [u8]) -> usize {
        let ahead = CHECKED.max(planes[0].len());
        let (planes, count) = blocks::<64, 8>(planes);
        let mut order = [0u16; 32];
        for (to, word) in (0u16..).zip(&mut order) {
            // Word 8 L + k, for lane L of output k, is word 4 k + L of the plane.
            *word = to % 8 * 4 + to / 8;
        }
        let order = load_512(bytemuck::cast_ref(&order));
        let outs = dst.as_chunks_mut::<64>().0.as_chunks_mut::<8>().0;
        let count = count.min(outs.len());
        for (i, out) in outs.iter_mut().take(count).enumerate() {
            let mut p = [_mm512_setzero_si512(); 8];
            for (p, plane) in p.iter_mut().zip(planes.iter().rev()) {
                if let Some(block) = plane.get(i) {
                    fetch::<true, 8>(block.as_ptr(), ahead);
                    *p = _mm512_permutexvar_epi16(order, load_512(block));
                }
            }
            let two = |a, b| (_mm512_unpacklo_epi8(a, b), _mm512_unpackhi_epi8(a, b));
            let four = |a, b| (_mm512_unpacklo_epi16(a, b), _mm512_unpackhi_epi16(a, b));
            let eight = |a, b| (_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
            let ((a0, a1), (b0, b1)) = (two(p[0], p[1]), two(p[2], p[3]));
            let ((c0, c1), (d0, d1)) = (two(p[4], p[5]), two(p[6], p[7]));
            let ((e0, e1), (e2, e3)) = (four(a0, b0), four(a1, b1));
            let ((f0, f1), (f2, f3)) = (four(c0, d0), four(c1, d1));
            let ((x0, x1), (x2, x3)) = (eight(e0, f0), eight(e1, f1));
            let ((x4, x5), (x6, x7)) = (eight(e2, f2), eight(e3, f3));
            for (out, x) in out.iter_mut().zip([x0, x1, x2, x3, x4, x5, x6, x7]) {
                let x = if R == 1 { _mm512_ror_epi64::<1>(x) } else { x };
                store_512::<STREAMED>(out, x);
            }
        }
        count * 64
    }

    #[target_feature(enable = "avx2")]
    fn two_256<const R: u32, const STREAMED: bool>(planes: &[&[u8]; 2], dst: &mut [u8]) -> usize {
        let ([high, low], count) = blocks::<32, 2>(planes);
        let outs = dst.as_chunks_mut::<32>().0.as_chunks_mut::<2>().0;
        let count = count.min(outs.len());
        let ahead = CHECKED.max(planes[0].len());
        for ((high, low), out) in high.iter().zip(low).zip(outs) {
            fetch::<STREAMED, 2>(high.as_ptr(), ahead);
            fetch::<STREAMED, 2>(low.as_ptr(), ahead);
            let high = _mm256_permute4x64_epi64::<0b11_01_10_00>(load_256(high));
            let low = _mm256_permute4x64_epi64::<0b11_01_10_00>(load_256(low));
            for (out, x) in out.iter_mut().zip([
                _mm256_unpacklo_epi8(low, high),
                _mm256_unpackhi_epi8(low, high),
            ]) {
                let x = match R {
                    1 => _mm256_or_si256(_mm256_srli_epi16::<1>(x), _mm256_slli_epi16::<15>(x)),
                    _ => x,
                };
                store_256::<STREAMED>(out, x);
            }
        }
        count * 32
    }

    #[target_feature(enable = "avx2")]
    fn four_256<const R: u32, const STREAMED: bool>(planes: &[&[u8]; 4], dst: &mut [u8]) -> usize {
        let ([p0, p1, p2, p3], count) = blocks::<32, 4>(planes);
        let order = _mm256_setr_epi32(0, 2, 4, 6, 1, 3, 5, 7);
        let outs = dst.as_chunks_mut::<32>().0.as_chunks_mut::<4>().0;
        let count = count.min(outs.len());
        let ahead = CHECKED.max(planes[0].len());
        for ((((p0, p1), p2), p3), out) in p0.iter().zip(p1).zip(p2).zip(p3).zip(outs) {
            for plane in [p0, p1, p2, p3] {
                fetch::<true, 4>(plane.as_ptr(), ahead);
            }
            let p = [p3, p2, p1, p0].map(|p| _mm256_permutevar8x32_epi32(load_256(p), order));
            let (a0, a1) = (
                _mm256_unpacklo_epi8(p[0], p[1]),
                _mm256_unpackhi_epi8(p[0], p[1]),
            );
            let (b0, b1) = (
                _mm256_unpacklo_epi8(p[2], p[3]),
                _mm256_unpackhi_epi8(p[2], p[3]),
            );
            for (out, x) in out.iter_mut().zip([
                _mm256_unpacklo_epi16(a0, b0),
                _mm256_unpackhi_epi16(a0, b0),
                _mm256_unpacklo_epi16(a1, b1),
                _mm256_unpackhi_epi16(a1, b1),
            ]) {
                let x = match R {
                    1 => _mm256_or_si256(_mm256_srli_epi32::<1>(x), _mm256_slli_epi32::<31>(x)),
                    _ => x,
                };
                store_256::<STREAMED>(out, x);
            }
        }
        count * 32
    }

    #[target_feature(enable = "avx2")]
    fn eight_256<const R: u32, const STREAMED: bool>(planes: &[&[u8]; 8], dst: &mut [u8]) -> usize {
        let ahead = CHECKED.max(planes[0].len());
        let (planes, count) = blocks::<32, 8>(planes);
        // Even words of a lane, then odd ones.
        let within = _mm256_broadcastsi128_si256(_mm_setr_epi8(
            0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15,
        ));
        let outs = dst.as_chunks_mut::<32>().0.as_chunks_mut::<8>().0;
        let count = count.min(outs.len());
        for (i, out) in outs.iter_mut().take(count).enumerate() {
            let mut p = [_mm256_setzero_si256(); 8];
            for (p, plane) in p.iter_mut().zip(planes.iter().rev()) {
                if let Some(block) = plane.get(i) {
                    fetch::<true, 8>(block.as_ptr(), ahead);
                    let words = _mm256_shuffle_epi8(load_256(block), within);
                    *p = _mm256_permute4x64_epi64::<0b11_01_10_00>(words);
                }
            }
            let two = |a, b| (_mm256_unpacklo_epi8(a, b), _mm256_unpackhi_epi8(a, b));
            let four = |a, b| (_mm256_unpacklo_epi16(a, b), _mm256_unpackhi_epi16(a, b));
            let eight = |a, b| (_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
            let ((a0, a1), (b0, b1)) = (two(p[0], p[1]), two(p[2], p[3]));
            let ((c0, c1), (d0, d1)) = (two(p[4], p[5]), two(p[6], p[7]));
            let ((e0, e1), (e2, e3)) = (four(a0, b0), four(a1, b1));
            let ((f0, f1), (f2, f3)) = (four(c0, d0), four(c1, d1));
            let ((x0, x1), (x2, x3)) = (eight(e0, f0), eight(e1, f1));
            let ((x4, x5), (x6, x7)) = (eight(e2, f2), eight(e3, f3));
            for (out, x) in out.iter_mut().zip([x0, x1, x2, x3, x4, x5, x6, x7]) {
                let x = match R {
                    1 => _mm256_or_si256(_mm256_srli_epi64::<1>(x), _mm256_slli_epi64::<63>(x)),
                    _ => x,
                };
                store_256::<STREAMED>(out, x);
            }
        }
        count * 32
    }
}
