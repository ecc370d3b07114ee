//! float16 to float32 by the instruction that x86-64 has for it: the conversion of `convert.rs` in arithmetic, which
//! defines the bits, is bound by its dozen operations.
#![cfg_attr(
    target_arch = "x86_64",
    expect(unsafe_code, reason = "instructions chosen at run time")
)]

use super::convert::Slot;

/// Elements converted at a time.
#[cfg(target_arch = "x86_64")]
const LANES: usize = 16;

/// Converts as many elements as fill whole vectors. Returns how many; 0 where there is no such instruction.
pub(crate) fn to_f32<S: Slot>(src: &[u8], dst: &mut [S]) -> usize {
    #[cfg(target_arch = "x86_64")]
    {
        use super::simd::{Level, level};
        match level() {
            Level::Scalar => 0,
            // SAFETY: `level` is at most what the machine has; AVX2 comes with F16C (`Level::best`).
            Level::Avx2 => unsafe { avx2(src, dst) },
            // SAFETY: as above, AVX-512 F.
            Level::Avx512 => unsafe { avx512(src, dst) },
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        let _unused = (src, dst);
        0
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,f16c")]
fn avx2<S: Slot>(src: &[u8], dst: &mut [S]) -> usize {
    use std::arch::x86_64::{__m128i, _mm_loadu_si128, _mm256_cvtph_ps, _mm256_storeu_ps};
    whole(src, dst, |halves, x| {
        let (source, target) = (halves.as_ptr().cast::<__m128i>(), x.as_mut_ptr());
        for half in 0..2 {
            // SAFETY: 2 times 16 bytes of 32 are read, 2 times 8 floats of 16 written.
            unsafe {
                let vector = _mm256_cvtph_ps(_mm_loadu_si128(source.add(half)));
                _mm256_storeu_ps(target.add(half * 8), vector);
            }
        }
    })
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn avx512<S: Slot>(src: &[u8], dst: &mut [S]) -> usize {
    use std::arch::x86_64::{_mm256_loadu_si256, _mm512_cvtph_ps, _mm512_storeu_ps};
    whole(src, dst, |halves, x| {
        // SAFETY: 32 bytes are read, 16 floats written: all of both arrays.
        unsafe {
            let vector = _mm512_cvtph_ps(_mm256_loadu_si256(halves.as_ptr().cast()));
            _mm512_storeu_ps(x.as_mut_ptr(), vector);
        }
    })
}

/// Runs `convert` over whole vectors.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn whole<S: Slot>(
    src: &[u8],
    dst: &mut [S],
    convert: impl Fn(&[u8; 2 * LANES], &mut [f32; LANES]),
) -> usize {
    let mut vectors = 0;
    let targets = dst.as_chunks_mut::<LANES>().0;
    for (source, target) in src.as_chunks().0.iter().zip(targets) {
        let mut x = [0.0; LANES];
        convert(source, &mut x);
        *target = x.map(S::of);
        vectors += 1;
    }
    vectors * LANES
}
