//! AVX2. Lanes are u16 where words are shifted, by multiplication, and bytes where tables are looked up: a table of 64
//! is four of 16 and three choices between them. A group is 32 lanes:
//!
//! ```text
//! bytes   register of lanes 0 to 31, in order
//! u16     one register of lanes 0 to 7 and 16 to 23, one of 8 to 15 and 24 to 31: what `unpack` makes of the bytes
//! ```
//!
//! A step waits for itself: from the windows of a group to the words that it pulls are some 40 cycles, and what waits
//! fills the queues of the processor. So all groups are looked up before the first one pulls.
#![expect(unsafe_code, reason = "loads and stores by pointer, and AVX2")]

use std::arch::x86_64::*;

use super::encode::{Encoder, last_row};
use super::expand::{COLLECT, EXPAND};
use super::header::Groups;
use super::table::{Table, Words};
use super::{Fetch, Kernel, LANES, Lanes, Progress, prefetch};

/// For each length of a code word, which of the bits after a prefix of 6 bits belong to it: 2^(len - 6) - 1, or 0.
const MASKS: [u8; 16] = [0, 0, 0, 0, 0, 0, 0, 1, 3, 7, 15, 31, 63, 127, 255, 0];

pub(super) fn kernel(mode: u8, groups: Groups) -> Kernel {
    match (groups, mode) {
        (Groups::One, 0) => decode::<1, 0>,
        (Groups::One, 1) => decode::<1, 1>,
        (Groups::One, _) => decode::<1, 2>,
        (Groups::Two, 0) => decode::<2, 0>,
        (Groups::Two, 1) => decode::<2, 1>,
        (Groups::Two, _) => decode::<2, 2>,
        (Groups::Four, 0) => decode::<4, 0>,
        (Groups::Four, 1) => decode::<4, 1>,
        (Groups::Four, _) => decode::<4, 2>,
    }
}

/// State of 32 lanes.
#[derive(Clone, Copy)]
struct Group {
    a: [__m256i; 2],
    b: [__m256i; 2],
    /// Bytes.
    n: __m256i,
}

/// Two halves of 16 bytes each.
#[target_feature(enable = "avx2")]
#[inline]
fn both(table: [u8; 16]) -> __m256i {
    // SAFETY: the array has 16 bytes.
    _mm256_broadcastsi128_si256(unsafe { _mm_loadu_si128(table.as_ptr().cast()) })
}

/// 32 lanes of u16 from their low and high bytes.
#[target_feature(enable = "avx2")]
#[inline]
fn unpack(low: __m256i, high: __m256i) -> [__m256i; 2] {
    [
        _mm256_unpacklo_epi8(low, high),
        _mm256_unpackhi_epi8(low, high),
    ]
}

/// Entries of a table of 16, for indices below 16.
#[target_feature(enable = "avx2")]
#[inline]
fn look_up_16(table: [u8; 16], indices: __m256i) -> __m256i {
    _mm256_shuffle_epi8(both(table), indices)
}

/// 32 lanes in two registers of the order that `unpack` makes.
#[target_feature(enable = "avx2")]
#[inline]
fn load_lanes(lanes: &[u16]) -> [__m256i; 2] {
    let lanes = &lanes[..LANES];
    // SAFETY: the slice has 32 numbers of 2 bytes.
    let (x, y) = unsafe {
        (
            _mm256_loadu_si256(lanes.as_ptr().cast()),
            _mm256_loadu_si256(lanes.as_ptr().add(16).cast()),
        )
    };
    [
        _mm256_permute2x128_si256::<0x20>(x, y),
        _mm256_permute2x128_si256::<0x31>(x, y),
    ]
}

#[target_feature(enable = "avx2")]
#[inline]
fn store_lanes(lanes: &mut [u16], state: [__m256i; 2]) {
    let lanes = &mut lanes[..LANES];
    let [x, y] = state;
    // SAFETY: the slice has 32 numbers of 2 bytes.
    unsafe {
        _mm256_storeu_si256(
            lanes.as_mut_ptr().cast(),
            _mm256_permute2x128_si256::<0x20>(x, y),
        );
        _mm256_storeu_si256(
            lanes.as_mut_ptr().add(16).cast(),
            _mm256_permute2x128_si256::<0x31>(x, y),
        );
    }
}

/// The tables in quarters of 16.
struct Tables {
    len: [__m256i; 4],
    first: [__m256i; 4],
}

#[target_feature(enable = "avx2")]
#[inline]
fn quarters(table: &[u8; 64]) -> [__m256i; 4] {
    let quarters = table.as_chunks::<16>().0;
    [
        both(quarters[0]),
        both(quarters[1]),
        both(quarters[2]),
        both(quarters[3]),
    ]
}

/// Entries of a table of 64. `bit4` and `bit5` have these bits of the indices at the top of each byte.
#[target_feature(enable = "avx2")]
#[inline]
fn lookup(table: &[__m256i; 4], indices: __m256i, bit4: __m256i, bit5: __m256i) -> __m256i {
    let low = _mm256_blendv_epi8(
        _mm256_shuffle_epi8(table[0], indices),
        _mm256_shuffle_epi8(table[1], indices),
        bit4,
    );
    let high = _mm256_blendv_epi8(
        _mm256_shuffle_epi8(table[2], indices),
        _mm256_shuffle_epi8(table[3], indices),
        bit4,
    );
    _mm256_blendv_epi8(low, high, bit5)
}

/// The words at `at` for two times 8 lanes, and how they spread to those that pull.
///
/// # Safety
/// 16 bytes must be readable at each address.
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn words(at: [*const u8; 2], pulls: [u8; 2]) -> __m256i {
    // SAFETY: as the caller's; the entries of EXPAND have 16 bytes.
    unsafe {
        let words = _mm256_inserti128_si256::<1>(
            _mm256_castsi128_si256(_mm_loadu_si128(at[0].cast())),
            _mm_loadu_si128(at[1].cast()),
        );
        let spread = |pulls: u8| EXPAND[usize::from(pulls)].as_ptr();
        let spread = _mm256_inserti128_si256::<1>(
            _mm256_castsi128_si256(_mm_loadu_si128(spread(pulls[0]).cast())),
            _mm_loadu_si128(spread(pulls[1]).cast()),
        );
        _mm256_shuffle_epi8(words, spread)
    }
}

/// Here and not later: without this the compiler moves half of a step behind the next ones, and spills what it needs.
#[target_feature(enable = "avx2")]
#[inline]
fn settled(mut vector: __m256i) -> __m256i {
    // SAFETY: this is no instruction at all.
    unsafe {
        std::arch::asm!(
            "/* {0} */",
            inout(ymm_reg) vector,
            options(nomem, nostack, preserves_flags)
        );
    }
    vector
}

/// The symbols of 32 lanes, and how many bits each has left: it pulls if these are less than 0.
#[target_feature(enable = "avx2")]
#[inline]
fn look_up(group: &Group, tables: &Tables) -> (__m256i, __m256i) {
    let Group { a, b, n } = *group;
    // 2^n
    let power = unpack(
        look_up_16([1, 2, 4, 8, 16, 32, 64, 128, 0, 0, 0, 0, 0, 0, 0, 0], n),
        look_up_16([0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 4, 8, 16, 32, 64, 128], n),
    );
    // The upper n bits of a, then b.
    let window = |i: usize| {
        _mm256_or_si256(
            _mm256_mulhi_epu16(a[i], power[i]),
            _mm256_mullo_epi16(b[i], power[i]),
        )
    };
    let (x, y) = (window(0), window(1));
    let c63 = _mm256_set1_epi16(63);
    let cell = _mm256_packus_epi16(_mm256_and_si256(x, c63), _mm256_and_si256(y, c63));
    // The 8 bits after these 6.
    let rest = _mm256_packus_epi16(
        _mm256_srli_epi16::<8>(_mm256_slli_epi16::<2>(x)),
        _mm256_srli_epi16::<8>(_mm256_slli_epi16::<2>(y)),
    );
    let (cell, rest) = (settled(cell), settled(rest));
    let (bit4, bit5) = (_mm256_slli_epi16::<3>(cell), _mm256_slli_epi16::<2>(cell));
    let len = lookup(&tables.len, cell, bit4, bit5);
    let first = lookup(&tables.first, cell, bit4, bit5);
    let mask = look_up_16(MASKS, len);
    let symbols = _mm256_or_si256(first, _mm256_and_si256(rest, mask));
    (settled(symbols), settled(_mm256_sub_epi8(n, len)))
}

/// Gives a word to each lane that has less than 0 bits left; how many bytes they pulled.
///
/// # Safety
/// 64 bytes must be readable at `source`.
#[target_feature(enable = "avx2,popcnt")]
#[inline]
unsafe fn pull(group: &mut Group, left: __m256i, source: *const u8) -> usize {
    let Group { a, b, .. } = *group;
    let pulls = _mm256_movemask_epi8(left).cast_unsigned();
    let [p0, p1, p2, p3] = pulls.to_le_bytes();
    let after = |mask: u32| source.wrapping_add(2 * (pulls & mask).count_ones() as usize);
    // SAFETY: at most 24 lanes come before any of these, so the addresses are at most 48 after `source`.
    let (x, y) = unsafe {
        (
            words([source, after(0xFFFF)], [p0, p2]),
            words([after(0xFF), after(0xFF_FFFF)], [p1, p3]),
        )
    };
    let [pull_x, pull_y] = unpack(left, left);
    *group = Group {
        a: [
            _mm256_blendv_epi8(a[0], b[0], pull_x),
            _mm256_blendv_epi8(a[1], b[1], pull_y),
        ],
        b: [
            _mm256_blendv_epi8(b[0], x, pull_x),
            _mm256_blendv_epi8(b[1], y, pull_y),
        ],
        n: _mm256_and_si256(left, _mm256_set1_epi8(15)),
    };
    2 * pulls.count_ones() as usize
}

/// The bytes of 32 symbols, for modes 0 and 1.
#[target_feature(enable = "avx2")]
#[inline]
fn map<const MODE: u8>(symbols: __m256i) -> __m256i {
    if MODE != 1 {
        return symbols;
    }
    // Half, rounded up; with the opposite sign if the symbol is odd. The upper bit of a byte is its lowest then, and
    // what comes from the byte below is not 0 with the one.
    let half = _mm256_avg_epu8(symbols, _mm256_setzero_si256());
    let odd = _mm256_or_si256(_mm256_slli_epi16::<7>(symbols), _mm256_set1_epi8(1));
    _mm256_sign_epi8(half, odd)
}

/// Writes the bytes of two steps.
///
/// # Safety
/// `out` must have 64 bytes.
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn store<const MODE: u8>(even: __m256i, odd: __m256i, out: *mut u8) {
    let (even, odd) = (map::<MODE>(even), map::<MODE>(odd));
    let [x, y] = unpack(even, odd);
    // SAFETY: as the caller's.
    unsafe {
        _mm256_storeu_si256(out.cast(), _mm256_permute2x128_si256::<0x20>(x, y));
        _mm256_storeu_si256(out.add(32).cast(), _mm256_permute2x128_si256::<0x31>(x, y));
    }
}

/// A [`Kernel`].
fn decode<const GROUPS: usize, const MODE: u8>(
    table: &Table,
    lanes: &mut Lanes,
    src: &[u8],
    dst: &mut [u8],
    fetch: Fetch,
) -> Progress {
    // SAFETY: the kernel is chosen when `Level::best` found these features.
    unsafe { decode_rows::<GROUPS, MODE>(table, lanes, src, dst, fetch) }
}

#[target_feature(enable = "avx2,popcnt")]
fn decode_rows<const GROUPS: usize, const MODE: u8>(
    table: &Table,
    lanes: &mut Lanes,
    src: &[u8],
    dst: &mut [u8],
    fetch: Fetch,
) -> Progress {
    let tables = Tables {
        len: quarters(&table.len),
        first: quarters(&table.first),
    };
    let mut groups: [Group; GROUPS] = std::array::from_fn(|group| {
        let at = group * LANES;
        let [n0, n1] = load_lanes(&lanes.n[at..]);
        Group {
            a: load_lanes(&lanes.a[at..]),
            b: load_lanes(&lanes.b[at..]),
            n: _mm256_packus_epi16(n0, n1),
        }
    });
    let source = src.as_ptr();
    let mut done = Progress::default();
    for row in dst.chunks_exact_mut(64 * GROUPS) {
        // Two words a lane are the most that a row pulls.
        if src.len() - done.pulled < 128 * GROUPS {
            break;
        }
        let at = done.rows * 64 * GROUPS;
        for group in 0..GROUPS {
            prefetch::to_read(source.wrapping_add(done.pulled + fetch.ahead + 64 * group));
            prefetch::to_write(fetch.to_write.wrapping_add(at + 64 * group));
        }
        let out = row.as_mut_ptr();
        let mut symbols = [[_mm256_setzero_si256(); GROUPS]; 2];
        let mut left = [_mm256_setzero_si256(); GROUPS];
        // Written out for each group: as a loop it is a third slower.
        macro_rules! step {
            ($half:literal: $($group:literal)+) => {
                $( if $group < GROUPS {
                    (symbols[$half][$group], left[$group]) = look_up(&groups[$group], &tables);
                } )+
                $( if $group < GROUPS {
                    let (group, left) = (&mut groups[$group], left[$group]);
                    // SAFETY: 128 * GROUPS bytes were there before the row; each pull before this one took at most 64.
                    let pulled = unsafe { pull(group, left, source.add(done.pulled)) };
                    done.pulled += pulled;
                    if $half == 1 {
                        let [even, odd] = [symbols[0][$group], symbols[1][$group]];
                        // SAFETY: a row has 64 bytes for each group.
                        unsafe { store::<MODE>(even, odd, out.add(64 * $group)) }
                    }
                } )+
            };
        }
        step!(0: 0 1 2 3);
        step!(1: 0 1 2 3);
        if MODE == 2 {
            row.iter_mut()
                .for_each(|symbol| *symbol = table.map[usize::from(*symbol)]);
        }
        done.rows += 1;
    }
    let zero = _mm256_setzero_si256();
    for (number, group) in groups.iter().enumerate() {
        let at = number * LANES;
        store_lanes(&mut lanes.a[at..], group.a);
        store_lanes(&mut lanes.b[at..], group.b);
        store_lanes(&mut lanes.n[at..], unpack(group.n, zero));
    }
    done
}

pub(super) fn encoder(groups: Groups) -> Encoder {
    match groups {
        Groups::One => encode::<1>,
        Groups::Two => encode::<2>,
        Groups::Four => encode::<4>,
    }
}

/// Entries of a table of 256.
#[target_feature(enable = "avx2")]
#[inline]
fn lookup_256(table: &[__m256i; 16], bytes: __m256i) -> __m256i {
    let quarter = |number: usize| {
        let table = [0, 1, 2, 3].map(|part| table[4 * number + part]);
        let (bit4, bit5) = (_mm256_slli_epi16::<3>(bytes), _mm256_slli_epi16::<2>(bytes));
        let low = _mm256_and_si256(bytes, _mm256_set1_epi8(15));
        lookup(&table, low, bit4, bit5)
    };
    let bit6 = _mm256_slli_epi16::<1>(bytes);
    let low = _mm256_blendv_epi8(quarter(0), quarter(1), bit6);
    let high = _mm256_blendv_epi8(quarter(2), quarter(3), bit6);
    _mm256_blendv_epi8(low, high, bytes)
}

/// Code words of 32 bytes, twice each, and their lengths above 16 bits. In the order in which registers pack to what
/// `unpack` makes: lanes 0 to 3, 16 to 19, 4 to 7, 20 to 23, and so on.
type Entries = [u32; LANES];

/// Goes back before a symbol of each of 32 lanes; how many bytes they give back, which are written before `end`.
///
/// # Safety
/// 64 bytes before `end` must be writable.
#[target_feature(enable = "avx2,popcnt")]
#[inline]
unsafe fn give_back(group: &mut Group, entries: &Entries, end: *mut u8) -> usize {
    let Group { a, b, n } = *group;
    // SAFETY: an eighth of the array has 32 bytes.
    let entry = |i: usize| unsafe { _mm256_loadu_si256(entries.as_ptr().add(8 * i).cast()) };
    let entry = [entry(0), entry(1), entry(2), entry(3)];
    let code = |i: usize| _mm256_and_si256(entry[i], _mm256_set1_epi32(0xFFFF));
    let code = [
        _mm256_packus_epi32(code(0), code(1)),
        _mm256_packus_epi32(code(2), code(3)),
    ];
    let len = |i: usize| _mm256_srli_epi32::<16>(entry[i]);
    let len = _mm256_packus_epi16(
        _mm256_packus_epi32(len(0), len(1)),
        _mm256_packus_epi32(len(2), len(3)),
    );
    let before = _mm256_add_epi8(n, len);
    let pulled = _mm256_cmpgt_epi8(before, _mm256_set1_epi8(15));
    let pulls = _mm256_movemask_epi8(pulled).cast_unsigned();
    let [p0, p1, p2, p3] = pulls.to_le_bytes();

    let collect = |b: __m256i, low: u8, high: u8| {
        let collect = |pulls: u8| {
            // SAFETY: the entries of COLLECT have 16 bytes.
            unsafe { _mm_loadu_si128(COLLECT[usize::from(pulls)].as_ptr().cast()) }
        };
        _mm256_shuffle_epi8(b, _mm256_set_m128i(collect(high), collect(low)))
    };
    let (x, y) = (collect(b[0], p0, p2), collect(b[1], p1, p3));
    let mut at = end;
    // Of 16 bytes each the last ones stay: what is written next covers the others.
    for (words, pulls) in [
        (_mm256_extracti128_si256::<1>(y), p3),
        (_mm256_extracti128_si256::<1>(x), p2),
        (_mm256_castsi256_si128(y), p1),
        (_mm256_castsi256_si128(x), p0),
    ] {
        // SAFETY: each of the registers before this one took at most 16 bytes of the 64.
        unsafe {
            _mm_storeu_si128(at.sub(16).cast(), words);
            at = at.sub(2 * pulls.count_ones() as usize);
        }
    }

    let n = _mm256_and_si256(before, _mm256_set1_epi8(15));
    // 2^(15 - n): with twice the code word its upper half is the word above n bits, its lower half what is below.
    let power = unpack(
        look_up_16([0, 0, 0, 0, 0, 0, 0, 0, 128, 64, 32, 16, 8, 4, 2, 1], n),
        look_up_16([128, 64, 32, 16, 8, 4, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0], n),
    );
    let pulled = unpack(pulled, pulled);
    let new_a = |i: usize| {
        _mm256_or_si256(
            _mm256_andnot_si256(pulled[i], a[i]),
            _mm256_mullo_epi16(code[i], power[i]),
        )
    };
    let new_b = |i: usize| {
        _mm256_or_si256(
            _mm256_blendv_epi8(b[i], a[i], pulled[i]),
            _mm256_mulhi_epu16(code[i], power[i]),
        )
    };
    *group = Group {
        a: [new_a(0), new_a(1)],
        b: [new_b(0), new_b(1)],
        n,
    };
    2 * pulls.count_ones() as usize
}

/// An [`Encoder`].
fn encode<const GROUPS: usize>(words: &Words, src: &[u8], out: &mut [u8]) -> usize {
    // SAFETY: the encoder is chosen when `Level::best` found these features.
    unsafe { encode_rows::<GROUPS>(words, src, out) }
}

#[target_feature(enable = "avx2,popcnt")]
fn encode_rows<const GROUPS: usize>(words: &Words, src: &[u8], out: &mut [u8]) -> usize {
    let row = 2 * LANES * GROUPS;
    let entries: [u32; 256] = std::array::from_fn(|byte| {
        let word = u16::from_le_bytes([words.low[byte], words.high[byte]]);
        (2 * u32::from(word)) | (u32::from(words.len[byte]) << 16)
    });
    let last = last_row(words, src, row);
    let whole = src.chunks_exact(row);
    let last = last[..row]
        .chunks_exact(row)
        .take(usize::from(!whole.remainder().is_empty()));

    // What is left of the last word that each lane needs: of 16 lanes each, in order.
    let lens = words.len.as_chunks::<16>().0;
    let lens: [__m256i; 16] = std::array::from_fn(|part| both(lens[part]));
    let zero = _mm256_setzero_si256();
    let mut left = [[zero; 2]; GROUPS];
    for bytes in whole.clone().chain(last.clone()) {
        let parts = bytes.as_chunks::<LANES>().0;
        for (left, bytes) in left.as_flattened_mut().iter_mut().zip(parts) {
            // SAFETY: the array has 32 bytes.
            let bytes = unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) };
            let pairs = _mm256_maddubs_epi16(lookup_256(&lens, bytes), _mm256_set1_epi8(1));
            *left = _mm256_sub_epi16(*left, pairs);
        }
    }
    let mut groups = left.map(|[x, y]| {
        let c15 = _mm256_set1_epi16(15);
        let n = _mm256_packus_epi16(_mm256_and_si256(x, c15), _mm256_and_si256(y, c15));
        Group {
            a: [zero; 2],
            b: [zero; 2],
            n: _mm256_permute4x64_epi64::<0b11_01_10_00>(n),
        }
    });

    let mut at = out.len();
    let mut steps = [[[0; LANES]; GROUPS]; 2];
    for bytes in last.chain(whole.rev()) {
        assert!(at >= 2 * row, "room for what a row may take");
        // All of a row first: loads of several entries wait for the stores of each to be done.
        let [even, odd] = &mut steps;
        let pairs = bytes.as_chunks::<{ 2 * LANES }>().0;
        for ((pairs, even), odd) in pairs.iter().zip(even).zip(odd) {
            let quads = pairs.as_chunks::<8>().0;
            for (number, quad) in quads.iter().enumerate() {
                let to = 8 * (number % 4) + 4 * (number / 4);
                let (even, odd) = (&mut even[to..to + 4], &mut odd[to..to + 4]);
                for ((pair, even), odd) in quad.as_chunks::<2>().0.iter().zip(even).zip(odd) {
                    *even = entries[usize::from(pair[0])];
                    *odd = entries[usize::from(pair[1])];
                }
            }
        }
        for step in steps.iter().rev() {
            for (group, entries) in groups.iter_mut().zip(step).rev() {
                // SAFETY: of the 128 * GROUPS bytes before `at` each step before this one took at most 64.
                let given = unsafe { give_back(group, entries, out.as_mut_ptr().add(at)) };
                at -= given;
            }
        }
    }

    assert!(at >= row, "room for the first word of each lane");
    at -= row;
    let first = out[at..at + row].as_chunks_mut::<{ 2 * LANES }>().0;
    for (to, group) in first.iter_mut().zip(&groups) {
        let mut lanes = [0; LANES];
        store_lanes(&mut lanes, group.b);
        for (to, word) in to.as_chunks_mut::<2>().0.iter_mut().zip(lanes) {
            *to = word.to_le_bytes();
        }
    }
    at
}
