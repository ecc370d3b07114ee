//! Stored elements that stand for a value each, before they are multiplied by their scale: x = value(q) * scale
//! (format-spec 9.7 to 9.9).

use super::convert::{Slot, f8e4m3fn_to_f32, f8e5m2_to_f32};
use super::simd::simd;

/// What a stored element, one byte, stands for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Values<'a> {
    /// f8e4m3fn.
    E4M3,
    /// f8e5m2.
    E5M2,
    /// An index into 16 values; the upper half of the byte does not count.
    Table16(&'a [f32; 16]),
    /// An index into 256 values.
    Table256(&'a [f32; 256]),
}

impl Values<'_> {
    /// The values of stored elements. Stops at the shorter of the two.
    pub(crate) fn of(self, codes: &[u8], dst: &mut [f32]) {
        match self {
            Self::E4M3 => e4m3(codes, dst),
            Self::E5M2 => e5m2(codes, dst),
            Self::Table16(table) => table16(codes, table, dst),
            Self::Table256(table) => table256(codes, table, dst),
        }
    }
}

simd! {
    fn e4m3(codes: &[u8], dst: &mut [f32]) {
        for (dst, code) in dst.iter_mut().zip(codes) {
            *dst = f8e4m3fn_to_f32(*code);
        }
    }
}

simd! {
    fn e5m2(codes: &[u8], dst: &mut [f32]) {
        for (dst, code) in dst.iter_mut().zip(codes) {
            *dst = f8e5m2_to_f32(*code);
        }
    }
}

simd! {
    fn table256(codes: &[u8], table: &[f32; 256], dst: &mut [f32]) {
        for (dst, code) in dst.iter_mut().zip(codes) {
            *dst = table[usize::from(*code)];
        }
    }
}

fn table16_scalar(codes: &[u8], table: &[f32; 16], dst: &mut [f32]) {
    for (dst, code) in dst.iter_mut().zip(codes) {
        *dst = table[usize::from(code & 15)];
    }
}

/// A table of 16 values fits in one vector register (AVX-512) or two (AVX2): no loads.
fn table16(codes: &[u8], table: &[f32; 16], dst: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    match super::simd::level() {
        super::simd::Level::Scalar => {}
        super::simd::Level::Avx2 => {
            #[expect(unsafe_code, reason = "calls code compiled for AVX2")]
            // SAFETY: `level` is at most what `Level::best` found on this machine.
            return unsafe { x86::table16_avx2(codes, table, dst) };
        }
        _ => {
            #[expect(unsafe_code, reason = "calls code compiled for AVX-512")]
            // SAFETY: `level` is at most what `Level::best` found on this machine.
            return unsafe { x86::table16_avx512(codes, table, dst) };
        }
    }
    table16_scalar(codes, table, dst);
}

#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "vector loads and stores")]
mod x86 {
    use std::arch::x86_64::{
        __m128i, _mm_loadl_epi64, _mm_loadu_si128, _mm256_blendv_ps, _mm256_castsi256_ps,
        _mm256_cvtepu8_epi32, _mm256_loadu_ps, _mm256_permutevar8x32_ps, _mm256_slli_epi32,
        _mm256_storeu_ps, _mm512_cvtepu8_epi32, _mm512_loadu_ps, _mm512_permutexvar_ps,
        _mm512_storeu_ps,
    };

    use super::table16_scalar;

    #[target_feature(enable = "avx512f")]
    pub(super) fn table16_avx512(codes: &[u8], table: &[f32; 16], dst: &mut [f32]) {
        // SAFETY: the table has the 16 f32 that are read.
        let values = unsafe { _mm512_loadu_ps(table.as_ptr()) };
        let n = codes.len().min(dst.len());
        let (rows, rest) = dst[..n].as_chunks_mut::<16>();
        let (code_rows, code_rest) = codes[..n].as_chunks::<16>();
        for (row, codes) in rows.iter_mut().zip(code_rows) {
            // SAFETY: the 16 bytes of `codes` are read.
            let codes = unsafe { _mm_loadu_si128(codes.as_ptr().cast::<__m128i>()) };
            // The permutation uses the lowest four bits of an index.
            let x = _mm512_permutexvar_ps(_mm512_cvtepu8_epi32(codes), values);
            // SAFETY: the 16 f32 of `row` are written.
            unsafe { _mm512_storeu_ps(row.as_mut_ptr(), x) };
        }
        table16_scalar(code_rest, table, rest);
    }

    #[target_feature(enable = "avx2")]
    pub(super) fn table16_avx2(codes: &[u8], table: &[f32; 16], dst: &mut [f32]) {
        // SAFETY: the table has the 8 f32 that are read.
        let low = unsafe { _mm256_loadu_ps(table.as_ptr()) };
        // SAFETY: the upper half of the table has the 8 f32 that are read.
        let high = unsafe { _mm256_loadu_ps(table[8..].as_ptr()) };
        let n = codes.len().min(dst.len());
        let (rows, rest) = dst[..n].as_chunks_mut::<8>();
        let (code_rows, code_rest) = codes[..n].as_chunks::<8>();
        for (row, codes) in rows.iter_mut().zip(code_rows) {
            // SAFETY: the 8 bytes of `codes` are read.
            let codes = unsafe { _mm_loadl_epi64(codes.as_ptr().cast::<__m128i>()) };
            let codes = _mm256_cvtepu8_epi32(codes);
            // The permutations use the lowest three bits of an index; the fourth, moved to the sign, chooses.
            let x = _mm256_blendv_ps(
                _mm256_permutevar8x32_ps(low, codes),
                _mm256_permutevar8x32_ps(high, codes),
                _mm256_castsi256_ps(_mm256_slli_epi32::<28>(codes)),
            );
            // SAFETY: the 8 f32 of `row` are written.
            unsafe { _mm256_storeu_ps(row.as_mut_ptr(), x) };
        }
        table16_scalar(code_rest, table, rest);
    }
}

/// A NaN among the values stays as it is; only the scale can make others.
#[inline(always)]
fn product<S: Slot>(value: f32, scale: f32) -> S {
    S::of(if value.is_nan() { value } else { value * scale })
}

simd! {
    /// Multiplies a run of values by the scale that they share. Stops at the shorter of values and `dst`.
    pub(crate) fn run<S: Slot>(values: &[f32], scale: f32, dst: &mut [S]) {
        for (dst, value) in dst.iter_mut().zip(values) {
            *dst = product(*value, scale);
        }
    }
}

/// Lanes at a time: with arrays of a known length the compiler needs no check for overlap in each group.
const LANES: usize = 16;

simd! {
    /// Multiplies whole groups of `group` values, each by the next scale. Stops at the shortest of the slices.
    pub(crate) fn groups<S: Slot>(values: &[f32], group: usize, scales: &[f32], dst: &mut [S]) {
        let groups = dst.chunks_exact_mut(group).zip(values.chunks_exact(group));
        for ((dst, values), &scale) in groups.zip(scales) {
            let (rows, rest) = dst.as_chunks_mut::<LANES>();
            let (value_rows, value_rest) = values.as_chunks::<LANES>();
            for (dst, values) in rows.iter_mut().zip(value_rows) {
                *dst = values.map(|value| product(value, scale));
            }
            for (dst, value) in rest.iter_mut().zip(value_rest) {
                *dst = product(*value, scale);
            }
        }
    }
}

simd! {
    /// Multiplies values by a scale each. Stops at the shortest of the slices.
    pub(crate) fn each<S: Slot>(values: &[f32], scales: &[f32], dst: &mut [S]) {
        for ((dst, value), scale) in dst.iter_mut().zip(values).zip(scales) {
            *dst = product(*value, *scale);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_its_value() {
        let codes: Vec<u8> = (0..=255).chain(0..77).collect();
        let small: [f32; 16] = std::array::from_fn(|i| i as f32 - 7.5);
        let large: [f32; 256] = std::array::from_fn(|i| i as f32 * 0.25);
        for n in [0, 1, 7, 8, 15, 16, 17, codes.len()] {
            let codes = &codes[codes.len() - n..];
            let mut out = vec![0.0; n];
            for (values, of) in [
                (
                    Values::E4M3,
                    &(|code| f8e4m3fn_to_f32(code)) as &dyn Fn(u8) -> f32,
                ),
                (Values::E5M2, &|code| f8e5m2_to_f32(code)),
                (Values::Table16(&small), &|code| {
                    small[usize::from(code & 15)]
                }),
                (Values::Table256(&large), &|code| large[usize::from(code)]),
            ] {
                values.of(codes, &mut out);
                for (x, &code) in out.iter().zip(codes) {
                    assert_eq!(x.to_bits(), of(code).to_bits(), "{values:?} {code}");
                }
            }
        }
    }

    #[test]
    fn nan_stays_and_scales_multiply() {
        let nan = f32::from_bits(0xFFC0_0000);
        let mut out = [0.0f32; 3];
        run(&[nan, 1.5, f32::INFINITY], 2.0, &mut out);
        assert_eq!(
            out.map(f32::to_bits),
            [0xFFC0_0000, 0x4040_0000, 0x7F80_0000]
        );
        each(&[nan, -1.5, 0.0], &[f32::NAN, f32::NAN, 1e30], &mut out);
        assert_eq!(out.map(f32::to_bits), [0xFFC0_0000, 0x7FC0_0000, 0]);
    }
}
