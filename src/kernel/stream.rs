//! Copies past the caches, for memory that is in none of them: the windowed order scatters samples over more batches than a
//! cache holds, and an ordinary store first fetches the line that it is about to overwrite.
#![expect(unsafe_code, reason = "non-temporal stores")]

/// Shorter runs are copied in the ordinary way.
pub(crate) const MIN: usize = 512;

/// A cache line.
const LINE: usize = 64;

/// True if streaming pays on this machine. Measured where more batches are open than caches hold: 2 to 3 times the speed of
/// ordinary stores on AMD Zen 4, 1.2 to 1.5 times on Intel Sapphire Rapids. Elsewhere there are only ordinary stores.
pub(crate) const PAYS: bool = cfg!(target_arch = "x86_64");

/// Copies `src` to `dst`. [`fence`] must follow before another thread is told of the bytes.
///
/// # Panics
/// If the lengths differ.
pub(crate) fn copy(src: &[u8], dst: &mut [u8]) {
    assert_eq!(src.len(), dst.len(), "a copy of another length");
    // The lines that are filled entirely; their neighbours may belong to other samples.
    let head = dst.as_ptr().align_offset(LINE).min(dst.len());
    let (src_head, src) = src.split_at(head);
    let (dst_head, dst) = dst.split_at_mut(head);
    dst_head.copy_from_slice(src_head);
    let (dst_lines, dst_tail) = dst.as_chunks_mut::<LINE>();
    let (src_lines, src_tail) = src.as_chunks::<LINE>();
    for (src, dst) in src_lines.iter().zip(dst_lines) {
        copy_line(src, dst);
    }
    dst_tail.copy_from_slice(src_tail);
}

#[inline(always)]
fn copy_line(src: &[u8; LINE], dst: &mut [u8; LINE]) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{__m128i, _mm_loadu_si128, _mm_stream_si128};
        debug_assert_eq!(
            dst.as_ptr() as usize % LINE,
            0,
            "a line that is not aligned"
        );
        let (src, dst) = (
            src.as_ptr().cast::<__m128i>(),
            dst.as_mut_ptr().cast::<__m128i>(),
        );
        // SAFETY: both are 64 bytes, read and written as 4 times 16; `dst` is aligned: `copy` starts at a line. SSE2 is part of
        // x86-64. That the stores are ordered before what publishes them is the duty of `fence`, as said at `copy`.
        unsafe {
            for i in 0..4 {
                _mm_stream_si128(dst.add(i), _mm_loadu_si128(src.add(i)));
            }
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        *dst = *src;
    }
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
        let src: Vec<u8> = (1..=255).cycle().take(400).collect();
        for start in 0..LINE {
            for len in (0..200).chain([256, 300]) {
                let mut dst = vec![0u8; 500];
                copy(&src[..len], &mut dst[start..start + len]);
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
}
