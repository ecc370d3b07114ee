//! Copies of what is delivered. Past the caches, for memory that is in none of them: the windowed order scatters samples over
//! more batches than a cache holds, and an ordinary store first fetches the line that it is about to overwrite. And copies
//! that fetch what is copied next.
#![cfg_attr(
    target_arch = "x86_64",
    expect(unsafe_code, reason = "non-temporal stores and hints")
)]

#[cfg(target_arch = "x86_64")]
use super::simd::{Level, level};

/// Shorter runs are copied in the ordinary way.
pub(crate) const MIN: usize = 512;

/// A cache line.
pub(crate) const LINE: usize = 64;

/// True if streaming pays on this machine. Measured where more batches are open than caches hold: 2 to 3 times the speed of
/// ordinary stores on AMD Zen 4, 1.2 to 1.5 times on Intel Sapphire Rapids. Elsewhere there are only ordinary stores.
pub(crate) const PAYS: bool = cfg!(target_arch = "x86_64");

/// Bytes after the copied ones that are asked for at most: a photo of 12 KiB and the next one fit into the first cache.
const AHEAD: usize = 16 << 10;

/// Copies `src` to `dst`, past the caches if `cold`: then [`fence`] must follow before another thread is told of the bytes.
///
/// # Panics
/// If the lengths differ.
pub(crate) fn copy(src: &[u8], dst: &mut [u8], cold: bool) {
    assert_eq!(src.len(), dst.len(), "a copy of another length");
    if cold && src.len() >= MIN {
        copy_lines_of::<false>(src, dst, cold);
    } else {
        dst.copy_from_slice(src);
    }
}

/// As [`copy`], of bytes that lie in memory one after the other: those that follow `src`, as many, are fetched meanwhile.
/// What is checked before it is copied comes in blocks, within which processors do not fetch far ahead by themselves, and
/// a checksum that waits for memory lets it idle while the block before is stored: 20 against 13 GB/s with checksums on
/// AMD Zen 5.
///
/// # Panics
/// If the lengths differ.
pub(crate) fn copy_on(src: &[u8], dst: &mut [u8], cold: bool) {
    assert_eq!(src.len(), dst.len(), "a copy of another length");
    if src.len() >= MIN {
        copy_lines_of::<true>(src, dst, cold);
    } else {
        dst.copy_from_slice(src);
    }
}

/// What makes lines of f32s on their way to memory.
pub(crate) trait Lines {
    /// The elements of line `i`.
    fn line(&self, i: usize) -> [f32; LINE / 4];
}

/// Makes lines straight into `dst`, past the caches: [`fence`] must follow before another thread is told of the bytes.
///
/// # Panics
/// If `dst` does not begin at a cache line.
pub(crate) fn put(lines: &impl Lines, dst: &mut [[u8; LINE]]) {
    let at = dst.as_ptr() as usize;
    assert!(at.is_multiple_of(LINE), "lines that begin within another");
    #[cfg(target_arch = "x86_64")]
    match level() {
        // SAFETY: a level is at most what `Level::best` found on this machine.
        Level::Avx512 => unsafe { x86::put_512(lines, dst) },
        // SAFETY: as above.
        Level::Avx2 => unsafe { x86::put_256(lines, dst) },
        Level::Scalar => x86::put_128(lines, dst),
    }
    #[cfg(not(target_arch = "x86_64"))]
    for (i, dst) in dst.iter_mut().enumerate() {
        for (dst, x) in dst.as_chunks_mut::<4>().0.iter_mut().zip(lines.line(i)) {
            *dst = x.to_le_bytes();
        }
    }
}

/// Asks for as many bytes as `src` has, `ahead` bytes after it, to be in the second cache soon.
pub(crate) fn fetch(src: &[u8], ahead: usize) {
    #[cfg(target_arch = "x86_64")]
    for line in src.chunks(LINE) {
        x86::fetch_later(line.as_ptr().wrapping_add(ahead).cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (src, ahead);
}

/// Whole lines of `dst` in vectors; their neighbours may belong to other samples.
fn copy_lines_of<const FETCH: bool>(src: &[u8], dst: &mut [u8], cold: bool) {
    let ahead = src.len().min(AHEAD);
    let head = dst.as_ptr().align_offset(LINE).min(dst.len());
    let (src_head, src) = src.split_at(head);
    let (dst_head, dst) = dst.split_at_mut(head);
    dst_head.copy_from_slice(src_head);
    let (dst_lines, dst_tail) = dst.as_chunks_mut::<LINE>();
    let (src_lines, src_tail) = src.as_chunks::<LINE>();
    if cold {
        copy_lines::<true, FETCH>(src_lines, dst_lines, ahead);
    } else {
        copy_lines::<false, FETCH>(src_lines, dst_lines, ahead);
    }
    dst_tail.copy_from_slice(src_tail);
}

/// Stores wait in a queue of some number of them, whatever their size: the larger they are, the more of them are on their
/// way to memory while the next bytes are computed.
#[cfg(target_arch = "x86_64")]
fn copy_lines<const COLD: bool, const FETCH: bool>(
    src: &[[u8; LINE]],
    dst: &mut [[u8; LINE]],
    ahead: usize,
) {
    match level() {
        // SAFETY: a level is at most what `Level::best` found on this machine.
        Level::Avx512 => unsafe { x86::lines_512::<COLD, FETCH>(src, dst, ahead) },
        // SAFETY: as above.
        Level::Avx2 => unsafe { x86::lines_256::<COLD, FETCH>(src, dst, ahead) },
        Level::Scalar => x86::lines_128::<COLD, FETCH>(src, dst, ahead),
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn copy_lines<const COLD: bool, const FETCH: bool>(
    src: &[[u8; LINE]],
    dst: &mut [[u8; LINE]],
    _ahead: usize,
) {
    dst.copy_from_slice(src);
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{LINE, Lines};

    #[inline(always)]
    fn fetch(at: *const i8) {
        // SAFETY: a hint for any address, valid or not; SSE is part of x86-64.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at) };
    }

    #[inline(always)]
    pub(super) fn fetch_later(at: *const i8) {
        // SAFETY: as above.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(at) };
    }

    macro_rules! lines {
        ($name:ident, $put:ident, $vector:ty, $load:ident, $store:ident, $stream:ident $(, $feature:literal)?) => {
            $(#[target_feature(enable = $feature)])?
            pub(super) fn $name<const COLD: bool, const FETCH: bool>(
                src: &[[u8; LINE]],
                dst: &mut [[u8; LINE]],
                ahead: usize,
            ) {
                for (src, dst) in src.iter().zip(dst) {
                    let (src, dst): (*const $vector, *mut $vector) =
                        (src.as_ptr().cast(), dst.as_mut_ptr().cast());
                    debug_assert_eq!(dst as usize % LINE, 0, "a line that is not aligned");
                    if FETCH {
                        fetch(src.wrapping_byte_add(ahead).cast());
                    }
                    // SAFETY: both are 64 bytes, read and written in vectors; `dst` is aligned: `copy` starts at a line.
                    // That streams are ordered before what publishes them is the duty of `fence`, as said at `copy`.
                    unsafe {
                        for i in 0..LINE / size_of::<$vector>() {
                            let x = $load(src.add(i));
                            if COLD {
                                $stream(dst.add(i), x);
                            } else {
                                $store(dst.add(i), x);
                            }
                        }
                    }
                }
            }

            $(#[target_feature(enable = $feature)])?
            pub(super) fn $put(lines: &impl Lines, dst: &mut [[u8; LINE]]) {
                for (i, dst) in dst.iter_mut().enumerate() {
                    let line = lines.line(i);
                    let (src, dst): (*const $vector, *mut $vector) =
                        (line.as_ptr().cast(), dst.as_mut_ptr().cast());
                    debug_assert_eq!(dst as usize % LINE, 0, "a line that is not aligned");
                    // SAFETY: both are 64 bytes, read and written in vectors; `put` asserts that the first line of `dst` is
                    // aligned, and so are those after it. `fence` as above.
                    unsafe {
                        for i in 0..LINE / size_of::<$vector>() {
                            $stream(dst.add(i), $load(src.add(i)));
                        }
                    }
                }
            }
        };
    }
    lines!(
        lines_512,
        put_512,
        __m512i,
        _mm512_loadu_si512,
        _mm512_storeu_si512,
        _mm512_stream_si512,
        "avx512f"
    );
    lines!(
        lines_256,
        put_256,
        __m256i,
        _mm256_loadu_si256,
        _mm256_storeu_si256,
        _mm256_stream_si256,
        "avx2"
    );
    lines!(
        lines_128,
        put_128,
        __m128i,
        _mm_loadu_si128,
        _mm_storeu_si128,
        _mm_stream_si128
    );
}

/// Orders streamed bytes before everything that this thread does next.
pub(crate) fn fence() {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: SSE is part of x86-64.
    unsafe {
        std::arch::x86_64::_mm_sfence();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_at_every_alignment_is_copied_and_nothing_else() {
        use crate::kernel::simd::{FORCED, Level};
        let src: Vec<u8> = (1..=255).cycle().take(400).collect();
        let levels = Level::available();
        let cases = levels
            .into_iter()
            .flat_map(|level| (0..LINE).map(move |start| (level, start)));
        for (level, start) in cases {
            FORCED.set(Some(level));
            for len in (0..200).chain([256, 300]) {
                for (which, copy) in [copy, copy_on, copy].into_iter().enumerate() {
                    let mut dst = vec![0u8; 1100];
                    copy(&src[..len], &mut dst[start..start + len], which != 2);
                    fence();
                    assert_eq!(dst[start..start + len], src[..len]);
                    assert!(
                        dst[..start]
                            .iter()
                            .chain(&dst[start + len..])
                            .all(|&byte| byte == 0)
                    );
                }
            }
        }
        FORCED.set(None);
    }
}
