//! Vectors whose bytes can be permuted freely, of the instruction sets that have them.

use crate::kernel::simd::Level;

use super::lines::Lines;
use super::words::Words;

/// Byte i of the result is byte `table[i]`, or 0 if that is 0x80. A vector of 16 bytes uses the first 16.
pub(crate) type Table = [u8; 64];

/// Bytes of the vectors of a level, the best first; none if it has none that can be permuted.
pub(super) fn lanes(level: Level) -> &'static [usize] {
    #[cfg(target_arch = "x86_64")]
    match level {
        Level::Scalar => &[],
        Level::Avx2 => &[WORDS_ONLY, 16],
        Level::Avx512 => &[64],
    }
    #[cfg(target_arch = "aarch64")]
    match level {
        Level::Neon => &[16],
        _ => &[],
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    {
        let _ = level;
        &[]
    }
}

/// Vectors of so many bytes are slow at any permutation across their halves: they are for lines whose elements
/// [`Vector::sums`] adds.
pub(super) const WORDS_ONLY: usize = 32;

/// Runs `lines` with the vectors of a level; nothing without any.
pub(super) fn run<W: Words>(level: Level, lines: Lines<'_>) {
    #[cfg(target_arch = "x86_64")]
    x86::run::<W>(level, lines);
    #[cfg(target_arch = "aarch64")]
    if level == Level::Neon {
        lines.run::<neon::V16, W>();
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = (level, lines);
}

/// [`Vector::SUMS`] of the vectors of `lanes` bytes of a level.
pub(super) fn sums(level: Level, lanes: usize) -> Sums {
    #[cfg(target_arch = "x86_64")]
    return match (level, lanes) {
        (Level::Avx512, _) => V64::SUMS,
        (Level::Avx2, WORDS_ONLY) => x86::V32::SUMS,
        _ => x86::V16::SUMS,
    };
    #[cfg(not(target_arch = "x86_64"))]
    {
        let _ = (level, lanes);
        Sums::None
    }
}

/// What [`Vector::sums`] does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sums {
    None,
    /// Elements of any size within lines of whole 16 bytes.
    Lines,
    /// Bytes within lines of whole 8 bytes, wider elements within 16 bytes.
    BytesInLines,
}

/// A vector. Its methods may only be called by code that runs where the instructions are.
pub(crate) trait Vector: Copy + std::fmt::Debug {
    type Index: Copy + std::fmt::Debug;

    /// Bytes.
    const LEN: usize;

    fn zero() -> Self;
    /// The first bytes of `src`; those that are not there are any.
    fn load(src: &[u8]) -> Self;
    /// The same of bytes that are all there. Where [`Vector::load`] would call a function for those that are not, a loop
    /// keeps no vector in a register across it.
    fn load_whole(src: &[u8]) -> Self;
    /// Stores `len` bytes, at most those of a vector. Bytes of `dst` after them may change too.
    fn store(self, dst: &mut [u8], len: usize);
    fn index(table: &Table) -> Self::Index;
    fn permute(self, index: Self::Index) -> Self;
    /// As [`Vector::permute`], of an index that takes all from the last half.
    #[inline(always)]
    fn permute_end(self, index: Self::Index) -> Self {
        self.permute(index)
    }
    fn add<W: Words>(self, other: Self) -> Self;
    fn unzigzag<W: Words>(self) -> Self;

    /// Whether [`Vector::sums`] is there, and faster than permutations; and of which elements it sums whole lines.
    const SUMS: Sums;

    /// Sums neighbouring elements: within lines if `kept` says which 8-byte words belong together (bit 8 i + j: word i
    /// adds the total of word j), else within 16 bytes.
    fn sums<W: Words>(self, kept: u64) -> Self;

    /// Sums of a vector that is all of one line, and its total in place of each element, which is what `last` takes; where
    /// that is less work than [`Vector::sums`] and [`Vector::permute_end`].
    #[inline(always)]
    fn sums_and_total<W: Words>(self, last: Self::Index) -> Option<(Self, Self)> {
        let _ = last;
        None
    }
}

#[cfg(target_arch = "x86_64")]
pub(crate) use x86::V64;

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{Level, Lines, Sums, Table, Vector, WORDS_ONLY, Words};

    pub(super) fn run<W: Words>(level: Level, lines: Lines<'_>) {
        match level {
            Level::Scalar => {}
            Level::Avx2 => {
                #[expect(unsafe_code, reason = "calls code compiled for AVX2")]
                // SAFETY: a level is at most what `Level::best` found on this machine.
                unsafe {
                    avx2::<W>(lines);
                }
            }
            Level::Avx512 => {
                #[expect(unsafe_code, reason = "calls code compiled for AVX-512")]
                // SAFETY: a level is at most what `Level::best` found on this machine.
                unsafe {
                    avx512::<W>(lines);
                }
            }
        }
    }

    /// 16 bytes, with AVX2. Wider ones cannot be permuted across their halves.
    #[derive(Clone, Copy, Debug)]
    pub(super) struct V16(__m128i);

    #[expect(unsafe_code, reason = "std::arch")]
    // SAFETY (of all blocks): `V16` is used by `avx2` alone, whose features include SSSE3. Loads and stores
    // stay within slices whose length was compared.
    impl Vector for V16 {
        type Index = __m128i;

        const LEN: usize = 16;

        const SUMS: Sums = Sums::None;

        #[inline(always)]
        fn sums<W: Words>(self, _kept: u64) -> Self {
            self
        }

        #[inline(always)]
        fn zero() -> Self {
            // SAFETY: as above.
            Self(unsafe { _mm_setzero_si128() })
        }

        #[inline(always)]
        fn load(src: &[u8]) -> Self {
            if let Some(src) = src.first_chunk::<16>() {
                // SAFETY: as above; 16 bytes are there.
                return Self(unsafe { _mm_loadu_si128(src.as_ptr().cast()) });
            }
            let mut copy = [0u8; 16];
            copy[..src.len()].copy_from_slice(src);
            // SAFETY: as above; 16 bytes are there.
            Self(unsafe { _mm_loadu_si128(copy.as_ptr().cast()) })
        }

        #[inline(always)]
        fn load_whole(src: &[u8]) -> Self {
            let src = &src[..16];
            // SAFETY: as above; 16 bytes are there.
            Self(unsafe { _mm_loadu_si128(src.as_ptr().cast()) })
        }

        #[inline(always)]
        fn store(self, dst: &mut [u8], len: usize) {
            if let Some(dst) = dst.first_chunk_mut::<16>() {
                // SAFETY: as above; 16 bytes are there.
                return unsafe { _mm_storeu_si128(dst.as_mut_ptr().cast(), self.0) };
            }
            let mut copy = [0u8; 16];
            // SAFETY: as above; 16 bytes are there.
            unsafe { _mm_storeu_si128(copy.as_mut_ptr().cast(), self.0) };
            dst[..len].copy_from_slice(&copy[..len]);
        }

        #[inline(always)]
        fn index(table: &Table) -> __m128i {
            Self::load(table).0
        }

        #[inline(always)]
        fn permute(self, index: __m128i) -> Self {
            // SAFETY: as above.
            Self(unsafe { _mm_shuffle_epi8(self.0, index) })
        }

        #[inline(always)]
        fn add<W: Words>(self, other: Self) -> Self {
            // SAFETY: as above.
            Self(unsafe {
                match W::SIZE {
                    1 => _mm_add_epi8(self.0, other.0),
                    2 => _mm_add_epi16(self.0, other.0),
                    4 => _mm_add_epi32(self.0, other.0),
                    _ => _mm_add_epi64(self.0, other.0),
                }
            })
        }

        #[inline(always)]
        fn unzigzag<W: Words>(self) -> Self {
            // SAFETY: as above.
            Self(unsafe {
                let (zero, z) = (_mm_setzero_si128(), self.0);
                match W::SIZE {
                    1 => {
                        let half = _mm_and_si128(_mm_srli_epi16::<1>(z), _mm_set1_epi8(0x7F));
                        let odd = _mm_and_si128(z, _mm_set1_epi8(1));
                        _mm_xor_si128(half, _mm_sub_epi8(zero, odd))
                    }
                    2 => {
                        let odd = _mm_and_si128(z, _mm_set1_epi16(1));
                        _mm_xor_si128(_mm_srli_epi16::<1>(z), _mm_sub_epi16(zero, odd))
                    }
                    4 => {
                        let odd = _mm_and_si128(z, _mm_set1_epi32(1));
                        _mm_xor_si128(_mm_srli_epi32::<1>(z), _mm_sub_epi32(zero, odd))
                    }
                    _ => {
                        let odd = _mm_and_si128(z, _mm_set1_epi64x(1));
                        _mm_xor_si128(_mm_srli_epi64::<1>(z), _mm_sub_epi64(zero, odd))
                    }
                }
            })
        }
    }

    /// 32 bytes, with AVX2.
    #[derive(Clone, Copy, Debug)]
    pub(super) struct V32(__m256i);

    #[expect(unsafe_code, reason = "std::arch")]
    // SAFETY (of all blocks): `V32` is used by `avx2` alone.
    impl V32 {
        /// Sums within each 16 bytes.
        #[inline(always)]
        fn sums_in_halves<W: Words>(self) -> Self {
            let mut x = self;
            // SAFETY: as above.
            unsafe {
                if W::SIZE <= 1 {
                    x = x.add::<W>(Self(_mm256_bslli_epi128::<1>(x.0)));
                }
                if W::SIZE <= 2 {
                    x = x.add::<W>(Self(_mm256_bslli_epi128::<2>(x.0)));
                }
                if W::SIZE <= 4 {
                    x = x.add::<W>(Self(_mm256_bslli_epi128::<4>(x.0)));
                }
                x.add::<W>(Self(_mm256_bslli_epi128::<8>(x.0)))
            }
        }
    }

    #[expect(unsafe_code, reason = "std::arch")]
    // SAFETY (of all blocks): `V32` is used by `avx2` alone. Loads and stores stay within slices whose length was
    // compared.
    impl Vector for V32 {
        /// Bytes that come from the lower half, and from the upper.
        type Index = [__m256i; 2];

        const LEN: usize = 32;

        const SUMS: Sums = Sums::Lines;

        #[inline(always)]
        fn sums<W: Words>(self, kept: u64) -> Self {
            let x = self.sums_in_halves::<W>();
            if kept == 0 {
                return x;
            }
            // The upper half adds the total of the lower one.
            // SAFETY: as above.
            unsafe {
                let total = match W::SIZE {
                    1 => _mm256_set1_epi8(15),
                    2 => _mm256_set1_epi16(0x0F0E),
                    4 => _mm256_set1_epi32(0x0F0E_0D0C),
                    _ => _mm256_set1_epi64x(0x0F0E_0D0C_0B0A_0908),
                };
                let low = _mm256_permute2x128_si256::<0x08>(x.0, x.0);
                x.add::<W>(Self(_mm256_shuffle_epi8(low, total)))
            }
        }

        #[inline(always)]
        fn sums_and_total<W: Words>(self, [_, last]: [__m256i; 2]) -> Option<(Self, Self)> {
            let x = self.sums_in_halves::<W>();
            // What is last in the upper half of `x`, and the same in the lower one.
            // SAFETY: as above.
            let totals = Self(unsafe { _mm256_shuffle_epi8(x.0, last) });
            // Each total in the other half, and 0: taking both at once waits twice as long.
            // SAFETY: as above.
            let (of_low, of_high) = unsafe {
                (
                    Self(_mm256_permute2x128_si256::<0x08>(totals.0, totals.0)),
                    Self(_mm256_permute2x128_si256::<0x81>(totals.0, totals.0)),
                )
            };
            Some((
                x.add::<W>(of_low),
                totals.add::<W>(of_low).add::<W>(of_high),
            ))
        }

        #[inline(always)]
        fn zero() -> Self {
            // SAFETY: as above.
            Self(unsafe { _mm256_setzero_si256() })
        }

        #[inline(always)]
        fn load(src: &[u8]) -> Self {
            if let Some(src) = src.first_chunk::<32>() {
                // SAFETY: as above; 32 bytes are there.
                return Self(unsafe { _mm256_loadu_si256(src.as_ptr().cast()) });
            }
            let mut copy = [0u8; 32];
            copy[..src.len()].copy_from_slice(src);
            // SAFETY: as above; 32 bytes are there.
            Self(unsafe { _mm256_loadu_si256(copy.as_ptr().cast()) })
        }

        #[inline(always)]
        fn load_whole(src: &[u8]) -> Self {
            let src = &src[..32];
            // SAFETY: as above; 32 bytes are there.
            Self(unsafe { _mm256_loadu_si256(src.as_ptr().cast()) })
        }

        #[inline(always)]
        fn store(self, dst: &mut [u8], len: usize) {
            if let Some(dst) = dst.first_chunk_mut::<32>() {
                // SAFETY: as above; 32 bytes are there.
                return unsafe { _mm256_storeu_si256(dst.as_mut_ptr().cast(), self.0) };
            }
            let mut copy = [0u8; 32];
            // SAFETY: as above; 32 bytes are there.
            unsafe { _mm256_storeu_si256(copy.as_mut_ptr().cast(), self.0) };
            dst[..len].copy_from_slice(&copy[..len]);
        }

        #[inline(always)]
        fn index(table: &Table) -> [__m256i; 2] {
            let index = Self::load(table).0;
            // SAFETY: as above. What is not in a half gets bit 7.
            unsafe {
                let upper = _mm256_set1_epi8(0x70);
                let in_high = _mm256_sub_epi8(index, _mm256_set1_epi8(16));
                [
                    _mm256_adds_epu8(index, upper),
                    _mm256_adds_epu8(in_high, upper),
                ]
            }
        }

        #[inline(always)]
        fn permute(self, [in_low, in_high]: [__m256i; 2]) -> Self {
            // SAFETY: as above.
            Self(unsafe {
                let low = _mm256_permute2x128_si256::<0x00>(self.0, self.0);
                let high = _mm256_permute2x128_si256::<0x11>(self.0, self.0);
                _mm256_or_si256(
                    _mm256_shuffle_epi8(low, in_low),
                    _mm256_shuffle_epi8(high, in_high),
                )
            })
        }

        #[inline(always)]
        fn permute_end(self, [_, in_high]: [__m256i; 2]) -> Self {
            // SAFETY: as above.
            Self(unsafe {
                let high = _mm256_permute2x128_si256::<0x11>(self.0, self.0);
                _mm256_shuffle_epi8(high, in_high)
            })
        }

        #[inline(always)]
        fn add<W: Words>(self, other: Self) -> Self {
            // SAFETY: as above.
            Self(unsafe {
                match W::SIZE {
                    1 => _mm256_add_epi8(self.0, other.0),
                    2 => _mm256_add_epi16(self.0, other.0),
                    4 => _mm256_add_epi32(self.0, other.0),
                    _ => _mm256_add_epi64(self.0, other.0),
                }
            })
        }

        #[inline(always)]
        fn unzigzag<W: Words>(self) -> Self {
            // SAFETY: as above.
            Self(unsafe {
                let (zero, z) = (_mm256_setzero_si256(), self.0);
                match W::SIZE {
                    1 => {
                        let half =
                            _mm256_and_si256(_mm256_srli_epi16::<1>(z), _mm256_set1_epi8(0x7F));
                        let odd = _mm256_and_si256(z, _mm256_set1_epi8(1));
                        _mm256_xor_si256(half, _mm256_sub_epi8(zero, odd))
                    }
                    2 => {
                        let odd = _mm256_and_si256(z, _mm256_set1_epi16(1));
                        _mm256_xor_si256(_mm256_srli_epi16::<1>(z), _mm256_sub_epi16(zero, odd))
                    }
                    4 => {
                        let odd = _mm256_and_si256(z, _mm256_set1_epi32(1));
                        _mm256_xor_si256(_mm256_srli_epi32::<1>(z), _mm256_sub_epi32(zero, odd))
                    }
                    _ => {
                        let odd = _mm256_and_si256(z, _mm256_set1_epi64x(1));
                        _mm256_xor_si256(_mm256_srli_epi64::<1>(z), _mm256_sub_epi64(zero, odd))
                    }
                }
            })
        }
    }

    /// 8 bytes of value 8.
    const EIGHTS: i64 = 0x0808_0808_0808_0808;

    /// 64 bytes, with AVX-512 VBMI.
    #[derive(Clone, Copy, Debug)]
    pub(crate) struct V64(__m512i);

    #[expect(unsafe_code, reason = "std::arch")]
    // SAFETY (of all blocks): `V64` is used by `avx512` alone, whose features include BW and VBMI. Loads and stores
    // are masked to the length of a slice.
    impl Vector for V64 {
        type Index = (__mmask64, __m512i);

        const LEN: usize = 64;

        const SUMS: Sums = Sums::BytesInLines;

        #[inline(always)]
        fn sums<W: Words>(self, kept: u64) -> Self {
            // SAFETY: as above.
            Self(unsafe {
                let x = self.0;
                match W::SIZE {
                    1 => {
                        // Permuting all of a vector takes twice the time of shifting: only totals are permuted.
                        let x = _mm512_add_epi8(x, _mm512_slli_epi64::<8>(x));
                        let x = _mm512_add_epi8(x, _mm512_slli_epi64::<16>(x));
                        let x = _mm512_add_epi8(x, _mm512_slli_epi64::<32>(x));
                        // In each word the totals of all words, of which those before it in its line are kept.
                        let totals =
                            _mm512_set1_epi64(i64::from_le_bytes([7, 15, 23, 31, 39, 47, 55, 63]));
                        let before = _mm512_maskz_permutexvar_epi8(kept, totals, x);
                        let before = _mm512_sad_epu8(before, _mm512_setzero_si512());
                        // The low byte of each word, 8 times.
                        let first = _mm512_set4_epi64(EIGHTS, 0, EIGHTS, 0);
                        _mm512_add_epi8(x, _mm512_shuffle_epi8(before, first))
                    }
                    2 => {
                        let x = _mm512_add_epi16(x, _mm512_bslli_epi128::<2>(x));
                        let x = _mm512_add_epi16(x, _mm512_bslli_epi128::<4>(x));
                        _mm512_add_epi16(x, _mm512_bslli_epi128::<8>(x))
                    }
                    4 => {
                        let x = _mm512_add_epi32(x, _mm512_bslli_epi128::<4>(x));
                        _mm512_add_epi32(x, _mm512_bslli_epi128::<8>(x))
                    }
                    _ => _mm512_add_epi64(x, _mm512_bslli_epi128::<8>(x)),
                }
            })
        }

        #[inline(always)]
        fn zero() -> Self {
            // SAFETY: as above.
            Self(unsafe { _mm512_setzero_si512() })
        }

        #[inline(always)]
        fn load(src: &[u8]) -> Self {
            if let Some(src) = src.first_chunk::<64>() {
                // SAFETY: as above; 64 bytes are there.
                return Self(unsafe { _mm512_loadu_si512(src.as_ptr().cast()) });
            }
            // SAFETY: as above; bytes beyond the slice are masked.
            Self(unsafe { _mm512_maskz_loadu_epi8(mask(src.len()), src.as_ptr().cast()) })
        }

        #[inline(always)]
        fn load_whole(src: &[u8]) -> Self {
            Self::load(src)
        }

        #[inline(always)]
        fn store(self, dst: &mut [u8], len: usize) {
            if len >= 64
                && let Some(dst) = dst.first_chunk_mut::<64>()
            {
                // SAFETY: as above; 64 bytes are there.
                return unsafe { _mm512_storeu_si512(dst.as_mut_ptr().cast(), self.0) };
            }
            let dst = &mut dst[..len];
            // SAFETY: as above; bytes beyond the slice are masked.
            unsafe { _mm512_mask_storeu_epi8(dst.as_mut_ptr().cast(), mask(dst.len()), self.0) };
        }

        #[inline(always)]
        fn index(table: &Table) -> (__mmask64, __m512i) {
            // SAFETY: as above; 64 bytes are there. Bit 7 of a byte says that nothing comes from anywhere.
            unsafe {
                let index = _mm512_loadu_si512(table.as_ptr().cast());
                (!_mm512_movepi8_mask(index), index)
            }
        }

        #[inline(always)]
        fn permute(self, (kept, index): (__mmask64, __m512i)) -> Self {
            // SAFETY: as above.
            Self(unsafe { _mm512_maskz_permutexvar_epi8(kept, index, self.0) })
        }

        #[inline(always)]
        fn add<W: Words>(self, other: Self) -> Self {
            // SAFETY: as above.
            Self(unsafe {
                match W::SIZE {
                    1 => _mm512_add_epi8(self.0, other.0),
                    2 => _mm512_add_epi16(self.0, other.0),
                    4 => _mm512_add_epi32(self.0, other.0),
                    _ => _mm512_add_epi64(self.0, other.0),
                }
            })
        }

        #[inline(always)]
        fn unzigzag<W: Words>(self) -> Self {
            // SAFETY: as above.
            Self(unsafe {
                let (zero, z) = (_mm512_setzero_si512(), self.0);
                match W::SIZE {
                    1 => {
                        let half =
                            _mm512_and_si512(_mm512_srli_epi16::<1>(z), _mm512_set1_epi8(0x7F));
                        let odd = _mm512_and_si512(z, _mm512_set1_epi8(1));
                        _mm512_xor_si512(half, _mm512_sub_epi8(zero, odd))
                    }
                    2 => {
                        let odd = _mm512_and_si512(z, _mm512_set1_epi16(1));
                        _mm512_xor_si512(_mm512_srli_epi16::<1>(z), _mm512_sub_epi16(zero, odd))
                    }
                    4 => {
                        let odd = _mm512_and_si512(z, _mm512_set1_epi32(1));
                        _mm512_xor_si512(_mm512_srli_epi32::<1>(z), _mm512_sub_epi32(zero, odd))
                    }
                    _ => {
                        let odd = _mm512_and_si512(z, _mm512_set1_epi64(1));
                        _mm512_xor_si512(_mm512_srli_epi64::<1>(z), _mm512_sub_epi64(zero, odd))
                    }
                }
            })
        }
    }

    /// The lowest `len` bits, at most 64.
    #[inline(always)]
    fn mask(len: usize) -> __mmask64 {
        match len {
            0 => 0,
            1..64 => u64::MAX >> (64 - len),
            _ => u64::MAX,
        }
    }

    #[target_feature(enable = "avx2,bmi2,f16c")]
    fn avx2<W: Words>(lines: Lines<'_>) {
        if lines.lanes() == WORDS_ONLY {
            lines.run::<V32, W>();
        } else {
            lines.run::<V16, W>();
        }
    }

    #[target_feature(enable = "avx2,bmi2,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi,gfni")]
    fn avx512<W: Words>(lines: Lines<'_>) {
        lines.run::<V64, W>();
    }
}

#[cfg(target_arch = "aarch64")]
mod neon {
    use std::arch::aarch64::*;

    use super::{Sums, Table, Vector, Words};

    /// 16 bytes. NEON is part of aarch64.
    #[derive(Clone, Copy, Debug)]
    pub(super) struct V16(uint8x16_t);

    #[expect(unsafe_code, reason = "std::arch")]
    // SAFETY (of all blocks): every aarch64 processor has NEON. Loads and stores stay within slices whose length was
    // compared.
    impl Vector for V16 {
        type Index = uint8x16_t;

        const LEN: usize = 16;

        const SUMS: Sums = Sums::None;

        #[inline(always)]
        fn sums<W: Words>(self, _kept: u64) -> Self {
            self
        }

        #[inline(always)]
        fn zero() -> Self {
            // SAFETY: as above.
            Self(unsafe { vdupq_n_u8(0) })
        }

        #[inline(always)]
        fn load(src: &[u8]) -> Self {
            if let Some(src) = src.first_chunk::<16>() {
                // SAFETY: as above; 16 bytes are there.
                return Self(unsafe { vld1q_u8(src.as_ptr()) });
            }
            let mut copy = [0u8; 16];
            copy[..src.len()].copy_from_slice(src);
            // SAFETY: as above; 16 bytes are there.
            Self(unsafe { vld1q_u8(copy.as_ptr()) })
        }

        #[inline(always)]
        fn load_whole(src: &[u8]) -> Self {
            let src = &src[..16];
            // SAFETY: as above; 16 bytes are there.
            Self(unsafe { vld1q_u8(src.as_ptr()) })
        }

        #[inline(always)]
        fn store(self, dst: &mut [u8], len: usize) {
            if let Some(dst) = dst.first_chunk_mut::<16>() {
                // SAFETY: as above; 16 bytes are there.
                return unsafe { vst1q_u8(dst.as_mut_ptr(), self.0) };
            }
            let mut copy = [0u8; 16];
            // SAFETY: as above; 16 bytes are there.
            unsafe { vst1q_u8(copy.as_mut_ptr(), self.0) };
            dst[..len].copy_from_slice(&copy[..len]);
        }

        #[inline(always)]
        fn index(table: &Table) -> uint8x16_t {
            Self::load(table).0
        }

        #[inline(always)]
        fn permute(self, index: uint8x16_t) -> Self {
            // SAFETY: as above. Indices from 16 on give 0.
            Self(unsafe { vqtbl1q_u8(self.0, index) })
        }

        #[inline(always)]
        fn add<W: Words>(self, other: Self) -> Self {
            let (a, b) = (self.0, other.0);
            // SAFETY: as above.
            Self(unsafe {
                match W::SIZE {
                    1 => vaddq_u8(a, b),
                    2 => vreinterpretq_u8_u16(vaddq_u16(
                        vreinterpretq_u16_u8(a),
                        vreinterpretq_u16_u8(b),
                    )),
                    4 => vreinterpretq_u8_u32(vaddq_u32(
                        vreinterpretq_u32_u8(a),
                        vreinterpretq_u32_u8(b),
                    )),
                    _ => vreinterpretq_u8_u64(vaddq_u64(
                        vreinterpretq_u64_u8(a),
                        vreinterpretq_u64_u8(b),
                    )),
                }
            })
        }

        #[inline(always)]
        fn unzigzag<W: Words>(self) -> Self {
            let z = self.0;
            // -(z & 1) is the lowest bit, moved to the top and spread by an arithmetic shift.
            // SAFETY: as above.
            Self(unsafe {
                match W::SIZE {
                    1 => {
                        let odd = vreinterpretq_s8_u8(vshlq_n_u8::<7>(z));
                        veorq_u8(
                            vshrq_n_u8::<1>(z),
                            vreinterpretq_u8_s8(vshrq_n_s8::<7>(odd)),
                        )
                    }
                    2 => {
                        let z = vreinterpretq_u16_u8(z);
                        let odd = vreinterpretq_s16_u16(vshlq_n_u16::<15>(z));
                        let odd = vreinterpretq_u16_s16(vshrq_n_s16::<15>(odd));
                        vreinterpretq_u8_u16(veorq_u16(vshrq_n_u16::<1>(z), odd))
                    }
                    4 => {
                        let z = vreinterpretq_u32_u8(z);
                        let odd = vreinterpretq_s32_u32(vshlq_n_u32::<31>(z));
                        let odd = vreinterpretq_u32_s32(vshrq_n_s32::<31>(odd));
                        vreinterpretq_u8_u32(veorq_u32(vshrq_n_u32::<1>(z), odd))
                    }
                    _ => {
                        let z = vreinterpretq_u64_u8(z);
                        let odd = vreinterpretq_s64_u64(vshlq_n_u64::<63>(z));
                        let odd = vreinterpretq_u64_s64(vshrq_n_s64::<63>(odd));
                        vreinterpretq_u8_u64(veorq_u64(vshrq_n_u64::<1>(z), odd))
                    }
                }
            })
        }
    }
}
