//! AVX-512 with VBMI2: a group of 32 lanes is three or four registers, and the tables are three more.
//!
//! State is in named variables: arrays of them end up on the stack (4.5 against 7 GB/s).
//!
//! Where a lane finds the word that it pulls is known when it is known how many lanes before it pull: nothing takes longer,
//! and the next step begins with that word. A kernel that has nothing else to do does not wait for it. A lane that has
//! just pulled has most of its window from the word before; unless that was a code word of more than 10 bits, the next
//! prefix is in there ([`PREFIX_IS_THERE`]), and with it the length, which is all that the next pull depends on. (16.2 to
//! 19.5 GB/s on AMD Zen 5. Beside sums, which fill the wait, it only costs instructions.)
#![expect(unsafe_code, reason = "loads and stores by pointer, and AVX-512")]

use std::arch::asm;
use std::arch::x86_64::*;

use crate::kernel::predict::{Beside, Nothing, Sums, VECTORS};

use super::encode::{Encoder, last_row};
use super::header::Groups;
use super::table::{Table, Words};
use super::{BesideKernel, Fetch, Kernel, LANES, Lanes, Progress, prefetch};

pub(super) fn kernel(mode: u8, groups: Groups) -> Kernel {
    match (groups, mode) {
        (Groups::One, 0) => one::<0>,
        (Groups::One, 1) => one::<1>,
        (Groups::One, _) => one::<2>,
        (Groups::Two, 0) => two::<0>,
        (Groups::Two, 1) => two::<1>,
        (Groups::Two, _) => two::<2>,
        (Groups::Four, 0) => four::<0>,
        (Groups::Four, 1) => four::<1>,
        (Groups::Four, _) => four::<2>,
    }
}

/// The kernel that sums beside, of four groups: those that long streams have.
pub(super) fn beside_kernel(mode: u8, groups: Groups) -> Option<BesideKernel> {
    match (groups, mode) {
        (Groups::Four, 0) => Some(four_beside::<0>),
        (Groups::Four, 1) => Some(four_beside::<1>),
        (Groups::Four, _) => Some(four_beside::<2>),
        _ => None,
    }
}

fn four_beside<const MODE: u8>(
    table: &Table,
    lanes: &mut Lanes,
    src: &[u8],
    dst: &mut [u8],
    fetch: Fetch,
    sums: &mut Sums<'_>,
) -> Progress {
    // SAFETY: the kernel is chosen when `Level::best` found these features.
    unsafe {
        match sums {
            Sums::Lines(rows) => decode_four::<MODE, _>(table, lanes, src, dst, fetch, rows),
            Sums::HalfLines(rows) => decode_four::<MODE, _>(table, lanes, src, dst, fetch, rows),
        }
    }
}

/// 64 bytes as a register.
#[target_feature(enable = "avx512f")]
#[inline]
fn load(bytes: &[u8; 64]) -> __m512i {
    // SAFETY: the reference is to 64 bytes.
    unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }
}

/// State of the lanes of a group.
#[target_feature(enable = "avx512f")]
#[inline]
fn load_lanes(lanes: &[u16], group: usize) -> __m512i {
    let lanes = &lanes[group * LANES..][..LANES];
    // SAFETY: the slice has 32 numbers of 2 bytes.
    unsafe { _mm512_loadu_si512(lanes.as_ptr().cast()) }
}

#[target_feature(enable = "avx512f")]
#[inline]
fn store_lanes(lanes: &mut [u16], group: usize, state: __m512i) {
    let lanes = &mut lanes[group * LANES..][..LANES];
    // SAFETY: the slice has 32 numbers of 2 bytes.
    unsafe { _mm512_storeu_si512(lanes.as_mut_ptr().cast(), state) }
}

/// In a window the further bits of a symbol follow 6 bits of prefix. Two of them are the upper bits of the low byte, the
/// others the lower bits of the high byte: both bytes together are these bits rotated by two, without a shift. So symbols
/// are rotated by two, until they are mapped to bytes.
const fn rotated(rows: [u8; 8]) -> i64 {
    let mut rotated = rows;
    let mut row = 0;
    while row < 8 {
        rotated[row] = rows[row].rotate_right(2);
        row += 1;
    }
    i64::from_le_bytes(rotated)
}

/// Matrices over the bits of a byte: byte 7 - i is row i, which says of which bits bit i of the result is the sum.
const NATURAL: i64 = rotated([0x80, 0x40, 0x20, 0x10, 0x08, 0x04, 0x02, 0x01]);
/// `(s >> 1) ^ -(s & 1)`: bit i is bit i + 1 of the symbol plus bit 0, bit 7 is bit 0 alone.
const UNZIGZAG: i64 = rotated([0x01, 0x81, 0x41, 0x21, 0x11, 0x09, 0x05, 0x03]);

/// The high bytes of 32 lanes or pairs.
const ODD: u64 = 0xAAAA_AAAA_AAAA_AAAA;
/// The low bytes of 32 lanes.
const EVEN: u64 = !ODD;

/// Eight times, or more often, the same.
#[repr(align(64))]
struct Constant([u64; 8]);

impl Constant {
    const fn of(x: u64) -> Self {
        Self([x; 8])
    }

    /// Reads it again each time: of lanes and constants the compiler would keep the constants in registers (16.7 against
    /// 18.8 GB/s).
    #[target_feature(enable = "avx512f")]
    #[inline]
    fn get(&self) -> __m512i {
        // SAFETY: the reference is to 64 bytes, of the alignment of a vector.
        unsafe { std::ptr::read_volatile((&raw const self.0).cast()) }
    }
}

/// Which bits of a symbol are in the byte of the window that has no bits of the prefix: of the low byte of a lane the lower
/// six bits, of its high byte the upper two.
static REST: Constant = Constant::of(0xC03F_C03F_C03F_C03F);
/// [`PREFIX_IS_THERE`], less the 16 bits of the word that was pulled, as bytes.
static LEAST: Constant = Constant::of(0x0101_0101_0101_0101 * (PREFIX_IS_THERE + 240));
static MATRICES: [Constant; 2] = [
    Constant::of(NATURAL.cast_unsigned()),
    Constant::of(UNZIGZAG.cast_unsigned()),
];

/// The bytes of 64 rotated symbols.
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,gfni")]
#[inline]
fn map<const MODE: u8>(symbols: __m512i, listed: &[__m512i; 4]) -> __m512i {
    match MODE {
        0 => _mm512_gf2p8affine_epi64_epi8::<0>(symbols, MATRICES[0].get()),
        1 => _mm512_gf2p8affine_epi64_epi8::<0>(symbols, MATRICES[1].get()),
        _ => lookup(symbols, listed),
    }
}

/// Bits of the longest prefix: if a lane that has just pulled has at least so many left of the word before, the next
/// prefix is among them.
const PREFIX_IS_THERE: u64 = 6;

/// Bytes of a table of 256.
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
#[inline]
fn lookup(indices: __m512i, table: &[__m512i; 4]) -> __m512i {
    let is_high = _mm512_movepi8_mask(indices);
    let low = _mm512_permutex2var_epi8(table[0], indices, table[1]);
    let high = _mm512_permutex2var_epi8(table[2], indices, table[3]);
    _mm512_mask_mov_epi8(low, is_high, high)
}

#[target_feature(enable = "avx512f")]
#[inline]
fn load_256(bytes: &[u8; 256]) -> [__m512i; 4] {
    let quarters = bytes.as_chunks::<64>().0;
    [
        load(&quarters[0]),
        load(&quarters[1]),
        load(&quarters[2]),
        load(&quarters[3]),
    ]
}

/// Defines a [`Kernel`] for a number of groups, each with its number and names for its state and for the windows of a
/// step. Other work is done a vector after every two groups: a step waits for the one before about as long as it
/// computes, and processors do not look far enough ahead to find work elsewhere. Without any, it does not wait.
macro_rules! kernel {
    ($name:ident, $decode:ident, $groups:literal, $($group:literal $a:ident $b:ident $n:ident $early:ident $even:ident),+) => {
        fn $name<const MODE: u8>(
            table: &Table,
            lanes: &mut Lanes,
            src: &[u8],
            dst: &mut [u8],
            fetch: Fetch,
        ) -> Progress {
            // SAFETY: the kernel is chosen when `Level::best` found these features.
            unsafe { $decode::<MODE, Nothing>(table, lanes, src, dst, fetch, &mut Nothing) }
        }

        #[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vbmi2,gfni,popcnt")]
        fn $decode<const MODE: u8, B: Beside>(
            table: &Table,
            lanes: &mut Lanes,
            src: &[u8],
            dst: &mut [u8],
            fetch: Fetch,
            beside: &mut B,
        ) -> Progress {
            const ROW: usize = 64 * $groups;
            /// The most that a row pulls: two words a lane.
            const ROW_PULLS: usize = 128 * $groups;
            /// Bytes after those that are pulled: every step waits for what the one before pulled, so that these had better be
            /// in the first cache.
            const SOON: usize = 512;
            let len = load(&table.len);
            let (first, mask) = (load(&table.rotated.first), load(&table.rotated.mask));
            let listed = load_256(&table.rotated.map);
            let c16 = _mm512_set1_epi16(16);
            let c15 = _mm512_set1_epi16(15);
            $(
                let mut $a = load_lanes(&lanes.a, $group);
                let mut $b = load_lanes(&lanes.b, $group);
                let mut $n = load_lanes(&lanes.n, $group);
                // `b` before it took what the last step pulled.
                let mut $early = $b;
            )+
            let mut pulled = 0;
            let mut row = 0;
            let rows = dst.len() / ROW;
            let (source, out) = (src.as_ptr(), dst.as_mut_ptr());
            let network = beside.network();
            // The window of each lane of a group; moves on by a symbol.
            macro_rules! step {
                ($x:ident $y:ident $z:ident $w:ident $least:ident) => {{
                    let window = _mm512_shldv_epi16($y, $x, $z);
                    let early = if B::IS_WORK { window } else { _mm512_shldv_epi16($w, $x, $z) };
                    let used = _mm512_permutexvar_epi8(early, len);
                    // Of `used` only the low byte of each lane counts, of the difference its low byte or 5 bits.
                    let left = _mm512_sub_epi16($z, used);
                    if !B::IS_WORK {
                        $least = _mm512_min_epi8($least, left);
                        $w = $y;
                    }
                    $z = _mm512_and_si512(left, c15);
                    // SAFETY: the row began with at least ROW_PULLS bytes of source after `pulled`, and the
                    // 2 * $groups - 1 steps before this one in the row pulled at most 64 bytes each.
                    unsafe { pull(&mut $x, &mut $y, left, c16, source, &mut pulled) };
                    window
                }};
            }
            // Waits for the words that were pulled, if a prefix may be in one.
            macro_rules! settle {
                ($least:ident) => {
                    if !B::IS_WORK && _mm512_mask_cmplt_epi8_mask(EVEN, $least, LEAST.get()) != 0 {
                        $( $early = $b; )+
                    }
                };
            }
            // The bytes of the windows of two steps.
            macro_rules! bytes {
                ($first:ident $second:ident) => {{
                    // The high byte of each first window, the low byte of each second one.
                    let between = _mm512_shldi_epi16::<8>($second, $first);
                    let cells = _mm512_mask_mov_epi8($first, ODD, between);
                    let ends = _mm512_mask_mov_epi8($first, ODD, $second);
                    let rest = _mm512_ternarylogic_epi64::<0xCA>(REST.get(), between, ends);
                    let base = _mm512_permutexvar_epi8(cells, first);
                    let kept = _mm512_permutexvar_epi8(cells, mask);
                    // base | rest & kept
                    map::<MODE>(_mm512_ternarylogic_epi64::<0xF8>(base, rest, kept), &listed)
                }};
            }
            // Enough source for a row, whatever it pulls.
            while row < rows && src.len() - pulled >= ROW_PULLS {
                let Some(mut sums) = beside.begin() else {
                    break;
                };
                let at = row * ROW;
                $(
                    // A row pulls about 2 lines.
                    if $group < 3 {
                        prefetch::to_read(source.wrapping_add(pulled + fetch.ahead + 64 * $group));
                        prefetch::to_read_soon(source.wrapping_add(pulled + SOON + 64 * $group));
                    }
                    prefetch::to_write(fetch.to_write.wrapping_add(at + 64 * $group));
                )+
                let mut least = c15;
                $(
                    let $even = step!($a $b $n $early least);
                    if $group % 2 == 1 {
                        B::vector(&network, &mut sums, $group / 2);
                    }
                )+
                settle!(least);
                let mut least = c15;
                $(
                    let odd = step!($a $b $n $early least);
                    let bytes = bytes!($even odd);
                    // SAFETY: `row` is below `rows`, so all ROW bytes after `at` are in `dst`.
                    unsafe { _mm512_storeu_si512(out.add(at + 64 * $group).cast(), bytes) };
                    if $group % 2 == 1 {
                        B::vector(&network, &mut sums, VECTORS / 2 + $group / 2);
                    }
                )+
                settle!(least);
                B::end(sums);
                row += 1;
            }
            $(
                store_lanes(&mut lanes.a, $group, $a);
                store_lanes(&mut lanes.b, $group, $b);
                store_lanes(&mut lanes.n, $group, $n);
            )+
            Progress { rows: row, pulled }
        }
    };
}

/// Lanes that have used up `a` (bit 4 of `left` is set) move on to `b`, and pull a word each. In assembly: the compiler
/// would test the bit in two instructions, and expand straight from memory, which is slow.
///
/// # Safety
/// 64 bytes must be readable at `pulled` bytes after `source`.
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi2,popcnt")]
#[inline]
unsafe fn pull(
    a: &mut __m512i,
    b: &mut __m512i,
    left: __m512i,
    bit_4: __m512i,
    source: *const u8,
    pulled: &mut usize,
) {
    // SAFETY: reads 64 bytes, which the caller says are there, and writes to no memory.
    unsafe {
        asm!(
            "vptestmw {pulls}, {left}, {bit_4}",
            "kmovd {count:e}, {pulls}",
            "vmovdqu64 {words}, [{source} + {pulled}]",
            "vmovdqu16 {a}{{{pulls}}}, {b}",
            "vpexpandw {b}{{{pulls}}}, {words}",
            "popcnt {count:e}, {count:e}",
            "lea {pulled}, [{pulled} + 2 * {count}]",
            a = inout(zmm_reg) *a,
            b = inout(zmm_reg) *b,
            left = in(zmm_reg) left,
            bit_4 = in(zmm_reg) bit_4,
            source = in(reg) source,
            pulled = inout(reg) *pulled,
            pulls = out(kreg) _,
            words = out(zmm_reg) _,
            count = out(reg) _,
            options(nostack, readonly, pure),
        );
    }
}

kernel!(one, decode_one, 1, 0 a0 b0 n0 e0 w0);
kernel!(two, decode_two, 2, 0 a0 b0 n0 e0 w0, 1 a1 b1 n1 e1 w1);
kernel!(four, decode_four, 4, 0 a0 b0 n0 e0 w0, 1 a1 b1 n1 e1 w1, 2 a2 b2 n2 e2 w2, 3 a3 b3 n3 e3 w3);

pub(super) fn encoder(groups: Groups) -> Encoder {
    match groups {
        Groups::One => encode_one,
        Groups::Two => encode_two,
        Groups::Four => encode_four,
    }
}

/// Lengths of 64 code words as bytes, and their low and high bytes.
type Codes = (__m512i, __m512i, __m512i);

/// The length and code word of the even bytes of 32 pairs, as u16.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
fn even((len, low, high): Codes) -> (__m512i, __m512i) {
    let high = _mm512_slli_epi16::<8>(high);
    (
        _mm512_and_si512(len, _mm512_set1_epi16(0xFF)),
        _mm512_mask_mov_epi8(low, ODD, high),
    )
}

/// The same of the odd bytes.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
fn odd((len, low, high): Codes) -> (__m512i, __m512i) {
    (
        _mm512_srli_epi16::<8>(len),
        _mm512_mask_mov_epi8(_mm512_srli_epi16::<8>(low), ODD, high),
    )
}

/// Defines an [`Encoder`] for a number of groups, each with its number and names for its state and its code words; the
/// last list is the groups in reverse.
macro_rules! encoder {
    ($name:ident, $encode:ident, $groups:literal, $($group:literal $a:ident $b:ident $n:ident $codes:ident),+) => {
        fn $name(words: &Words, src: &[u8], out: &mut [u8]) -> usize {
            // SAFETY: the encoder is chosen when `Level::best` found these features.
            unsafe { $encode(words, src, out) }
        }

        #[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vbmi2,popcnt,bmi2")]
        fn $encode(words: &Words, src: &[u8], out: &mut [u8]) -> usize {
            const ROW: usize = 64 * $groups;
            let (len, low, high) = (
                load_256(&words.len),
                load_256(&words.low),
                load_256(&words.high),
            );
            let c16 = _mm512_set1_epi16(16);
            let c15 = _mm512_set1_epi16(15);
            let zero = _mm512_setzero_si512();
            let last = last_row(words, src, ROW);
            let whole = src.as_chunks::<64>().0;
            let whole = &whole[..src.len() / ROW * $groups];
            let last = if src.len().is_multiple_of(ROW) { &[][..] } else { &last.as_chunks::<64>().0[..$groups] };

            // What is left of the last word that each lane needs.
            $( let mut $n = zero; )+
            for row in whole.chunks_exact($groups).chain(last.chunks_exact($groups)) {
                $(
                    let lens = lookup(load(&row[$group]), &len);
                    let both = _mm512_add_epi16(
                        _mm512_and_si512(lens, _mm512_set1_epi16(0xFF)),
                        _mm512_srli_epi16::<8>(lens),
                    );
                    $n = _mm512_sub_epi16($n, both);
                )+
            }
            $( $n = _mm512_and_si512($n, c15); )+

            $( let (mut $a, mut $b) = (zero, zero); )+
            let mut at = out.len();
            // Goes back before a symbol of each lane of a group.
            macro_rules! step {
                ($x:ident $y:ident $z:ident $code:expr) => {{
                    let (len, code) = $code;
                    let before = _mm512_add_epi16($z, len);
                    let pulls = _mm512_test_epi16_mask(before, c16);
                    let count = pulls.count_ones();
                    at -= 2 * count as usize;
                    let words = _mm512_maskz_compress_epi16(pulls, $y);
                    // SAFETY: the row began with `at` at least 2 * ROW, a step takes at most 64 of it, and there are
                    // 2 * $groups steps in a row; `count` words after `at` are below where it was.
                    unsafe {
                        let stored = _bzhi_u32(u32::MAX, count);
                        _mm512_mask_storeu_epi16(out.as_mut_ptr().add(at).cast(), stored, words);
                    }
                    $y = _mm512_mask_mov_epi16($y, pulls, $x);
                    $x = _mm512_maskz_mov_epi16(!pulls, $x);
                    $z = _mm512_and_si512(before, c15);
                    $x = _mm512_or_si512($x, _mm512_sllv_epi16(code, _mm512_sub_epi16(c16, $z)));
                    $y = _mm512_or_si512($y, _mm512_srlv_epi16(code, $z));
                }};
            }
            for row in last.chunks_exact($groups).chain(whole.chunks_exact($groups).rev()) {
                assert!(at >= 2 * ROW, "room for what a row may take");
                $(
                    let bytes = load(&row[$group]);
                    let $codes = (
                        lookup(bytes, &len),
                        lookup(bytes, &low),
                        lookup(bytes, &high),
                    );
                )+
                encoder!(@backwards step odd $($a $b $n $codes),+);
                encoder!(@backwards step even $($a $b $n $codes),+);
            }
            assert!(at >= ROW, "room for the first word of each lane");
            at -= ROW;
            for (bytes, state) in out[at..at + ROW].as_chunks_mut::<64>().0.iter_mut().zip([$($b),+]) {
                // SAFETY: the reference is to 64 bytes.
                unsafe { _mm512_storeu_si512(bytes.as_mut_ptr().cast(), state) }
            }
            at
        }
    };
    (@backwards $step:ident $half:ident $a:ident $b:ident $n:ident $codes:ident $(, $($rest:ident)+)*) => {
        encoder!(@backwards $step $half $($($rest)+),*);
        $step!($a $b $n $half($codes));
    };
    (@backwards $step:ident $half:ident) => {};
}

encoder!(encode_one, encode_rows_one, 1, 0 a0 b0 n0 w0);
encoder!(encode_two, encode_rows_two, 2, 0 a0 b0 n0 w0, 1 a1 b1 n1 w1);
encoder!(encode_four, encode_rows_four, 4, 0 a0 b0 n0 w0, 1 a1 b1 n1 w1, 2 a2 b2 n2 w2, 3 a3 b3 n3 w3);
