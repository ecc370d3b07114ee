//! AVX2. Lanes are u16 where words are shifted, by multiplication, and bytes where tables are looked up: a table of 64
//! is four of 16 and three choices between them. A group is 32 lanes:
//!
//! ```text
//! bytes   register of lanes 0 to 31, in order
//! u16     one register of lanes 0 to 7 and 16 to 23, one of 8 to 15 and 24 to 31: what `unpack` makes of the bytes
//! ```
//!
//! A step waits for itself: from the windows of a group to the words that it pulls are some 40 cycles, and what waits
//! fills the queues of the processor. So groups are looked up two by two, which loads the tables half as often, and
//! while two groups pull the other two are looked up. Shuffles, packings, shifts and insertions share two of the four
//! ports for vectors (Zen 3): what has a form for the others takes that.
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

/// 2^n of each of 32 lanes.
type Power = [__m256i; 2];

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

/// Here and not later: without this the compiler moves half of a step behind the next ones, and spills what it needs.
/// And as written: it would make more shuffles of those here.
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

/// As written, but wherever it is needed.
#[target_feature(enable = "avx2")]
#[inline]
fn as_written(mut vector: __m256i) -> __m256i {
    // SAFETY: this is no instruction at all.
    unsafe {
        std::arch::asm!(
            "/* {0} */",
            inout(ymm_reg) vector,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    vector
}

/// 16 bytes from each address, by a load and a choice: a vector is inserted by one port only.
///
/// # Safety
/// 32 bytes must be readable at `low`, 16 at `high`.
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn halves(low: *const u8, high: *const u8) -> __m256i {
    // SAFETY: as the caller's.
    unsafe {
        let high = as_written(_mm256_broadcastsi128_si256(_mm_loadu_si128(high.cast())));
        _mm256_blend_epi32::<0x0F>(high, _mm256_loadu_si256(low.cast()))
    }
}

/// The words at `at` for two times 8 lanes, and how they spread to those that pull.
///
/// # Safety
/// 32 bytes must be readable at the first address, 16 at the second.
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn words(at: [*const u8; 2], pulls: [u8; 2]) -> __m256i {
    // An entry and the 16 bytes after it.
    let spread = |pulls: u8| EXPAND[usize::from(pulls)..][..2].as_ptr().cast();
    // SAFETY: as the caller's; two entries have 32 bytes.
    unsafe {
        let words = halves(at[0], at[1]);
        _mm256_shuffle_epi8(words, halves(spread(pulls[0]), spread(pulls[1])))
    }
}

/// What 32 lanes see next, in bytes.
struct Windows {
    /// The cells that they select: 6 bits.
    cells: __m256i,
    /// The same bits as the upper ones of each byte.
    at_top: __m256i,
    /// The 8 bits after these.
    rest: __m256i,
}

#[target_feature(enable = "avx2")]
#[inline]
fn windows(group: &Group, power: &Power) -> Windows {
    // The upper n bits of a, then b; of which 14 are looked at, the most that a code word has.
    let window = |i: usize| {
        let window = _mm256_or_si256(
            _mm256_mulhi_epu16(group.a[i], power[i]),
            _mm256_mullo_epi16(group.b[i], power[i]),
        );
        // The low bytes, then the high bytes of 8 lanes.
        let bytes = both([0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15]);
        settled(_mm256_shuffle_epi8(_mm256_slli_epi16::<2>(window), bytes))
    };
    let (x, y) = (window(0), window(1));
    let at_top = settled(_mm256_unpacklo_epi64(x, y));
    Windows {
        cells: _mm256_srli_epi16::<2>(at_top),
        at_top,
        rest: settled(_mm256_unpackhi_epi64(x, y)),
    }
}

/// Entries of a table of 64, of each of two groups: by hand, so that no quarter is loaded twice and nothing is spilled.
#[target_feature(enable = "avx2")]
#[inline]
fn look_up_both(table: &[__m256i; 4], windows: &[Windows; 2]) -> [__m256i; 2] {
    let [x, y] = windows;
    let (of_x, of_y): (__m256i, __m256i);
    // SAFETY: only the table is read, which is aligned to 32 bytes.
    unsafe {
        std::arch::asm!(
            "vmovdqa {part}, [{table}]",
            "vpshufb {x}, {part}, {x_cells}",
            "vpshufb {y}, {part}, {y_cells}",
            "vmovdqa {part}, [{table} + 32]",
            "vpshufb {x_high}, {part}, {x_cells}",
            "vpshufb {y_high}, {part}, {y_cells}",
            "vpblendvb {x}, {x}, {x_high}, {x_bit4}",
            "vpblendvb {y}, {y}, {y_high}, {y_bit4}",
            "vmovdqa {part}, [{table} + 64]",
            "vpshufb {x_high}, {part}, {x_cells}",
            "vpshufb {y_high}, {part}, {y_cells}",
            "vmovdqa {part}, [{table} + 96]",
            "vpshufb {last}, {part}, {x_cells}",
            "vpblendvb {x_high}, {x_high}, {last}, {x_bit4}",
            "vpshufb {last}, {part}, {y_cells}",
            "vpblendvb {y_high}, {y_high}, {last}, {y_bit4}",
            "vpblendvb {x}, {x}, {x_high}, {x_bit5}",
            "vpblendvb {y}, {y}, {y_high}, {y_bit5}",
            table = in(reg) table.as_ptr(),
            x_cells = in(ymm_reg) x.cells,
            y_cells = in(ymm_reg) y.cells,
            x_bit4 = in(ymm_reg) _mm256_add_epi8(x.at_top, x.at_top),
            y_bit4 = in(ymm_reg) _mm256_add_epi8(y.at_top, y.at_top),
            x_bit5 = in(ymm_reg) x.at_top,
            y_bit5 = in(ymm_reg) y.at_top,
            x = out(ymm_reg) of_x,
            y = out(ymm_reg) of_y,
            x_high = out(ymm_reg) _,
            y_high = out(ymm_reg) _,
            last = out(ymm_reg) _,
            part = out(ymm_reg) _,
            options(pure, readonly, nostack, preserves_flags)
        );
    }
    [of_x, of_y]
}

/// What a step found of 32 lanes.
#[derive(Clone, Copy)]
struct Step {
    symbols: __m256i,
    /// How many bits each has left: it pulls if these are less than 0.
    left: __m256i,
}

/// A step of one group.
#[target_feature(enable = "avx2")]
#[inline]
fn look_up(group: &Group, power: &Power, tables: &Tables) -> Step {
    let windows = windows(group, power);
    let of = |table: &[__m256i; 4]| {
        let bit4 = _mm256_add_epi8(windows.at_top, windows.at_top);
        lookup(table, windows.cells, bit4, windows.at_top)
    };
    step(group, &windows, of(&tables.len), of(&tables.first))
}

/// Steps of two groups.
#[target_feature(enable = "avx2")]
#[inline]
fn look_up_two(groups: [&Group; 2], powers: [&Power; 2], tables: &Tables) -> [Step; 2] {
    let windows = [windows(groups[0], powers[0]), windows(groups[1], powers[1])];
    let len = look_up_both(&tables.len, &windows);
    let first = look_up_both(&tables.first, &windows);
    [
        step(groups[0], &windows[0], len[0], first[0]),
        step(groups[1], &windows[1], len[1], first[1]),
    ]
}

#[target_feature(enable = "avx2")]
#[inline]
fn step(group: &Group, windows: &Windows, len: __m256i, first: __m256i) -> Step {
    let left = settled(_mm256_sub_epi8(group.n, len));
    let rest = _mm256_and_si256(windows.rest, look_up_16(MASKS, len));
    let symbols = settled(_mm256_or_si256(first, rest));
    Step { symbols, left }
}

/// For each lane n and n ^ 8, or what has these as its lower bits: where a table of 2^0 to 2^7, and 0 after these, has the
/// low and the high byte of 2^n.
#[target_feature(enable = "avx2")]
#[inline]
fn power_indices(n: __m256i) -> [__m256i; 2] {
    unpack(n, _mm256_xor_si256(n, _mm256_set1_epi8(8)))
}

/// 2^n of each lane, from the lower bits of its [`power_indices`].
#[target_feature(enable = "avx2")]
#[inline]
fn power(bytes: [__m256i; 2]) -> Power {
    let power = |at| look_up_16([1, 2, 4, 8, 16, 32, 64, 128, 0, 0, 0, 0, 0, 0, 0, 0], at);
    [power(bytes[0]), power(bytes[1])]
}

/// Gives a word to each lane that has less than 0 bits left; how many bytes they pulled.
///
/// # Safety
/// 64 bytes must be readable at `source`.
#[target_feature(enable = "avx2,popcnt")]
#[inline]
unsafe fn pull(group: &mut Group, to: &mut Power, left: __m256i, source: *const u8) -> usize {
    let Group { a, b, .. } = *group;
    let pulls = _mm256_movemask_epi8(left).cast_unsigned();
    let [p0, p1, p2, p3] = pulls.to_le_bytes();
    let after = |mask: u32| source.wrapping_add(2 * (pulls & mask).count_ones() as usize);
    // SAFETY: at most 8 lanes come before the second of the first addresses, and at most 24 before any: they are at most
    // 16 and 48 after `source`.
    let (x, y) = unsafe {
        (
            words([source, after(0xFFFF)], [p0, p2]),
            words([after(0xFF), after(0xFF_FFFF)], [p1, p3]),
        )
    };
    // Bit 7 of each byte is that of `left`.
    let [both_x, both_y] = power_indices(left);
    let c15 = _mm256_set1_epi8(15);
    *to = power([_mm256_and_si256(both_x, c15), _mm256_and_si256(both_y, c15)]);
    *group = Group {
        a: [
            _mm256_blendv_epi8(a[0], b[0], both_x),
            _mm256_blendv_epi8(a[1], b[1], both_y),
        ],
        b: [
            _mm256_blendv_epi8(b[0], x, both_x),
            _mm256_blendv_epi8(b[1], y, both_y),
        ],
        n: _mm256_and_si256(left, c15),
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
    let mut powers: [Power; GROUPS] = groups.map(|group| power(power_indices(group.n)));
    let none = Step {
        symbols: _mm256_setzero_si256(),
        left: _mm256_setzero_si256(),
    };
    let mut steps = [[none; GROUPS]; 2];
    // Written out for each group: as loops they are a third slower.
    macro_rules! look_up {
        ($half:literal: $first:literal $second:literal) => {
            if $second < GROUPS {
                let [x, y] = [&groups[$first], &groups[$second]];
                let found = look_up_two([x, y], [&powers[$first], &powers[$second]], &tables);
                [steps[$half][$first], steps[$half][$second]] = found;
            } else if $first < GROUPS {
                steps[$half][$first] = look_up(&groups[$first], &powers[$first], &tables);
            }
        };
    }
    let source = src.as_ptr();
    let mut done = Progress::default();
    look_up!(0: 0 1);
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
        macro_rules! pull {
            ($half:literal: $($number:literal)+) => {
                $( if $number < GROUPS {
                    let (group, power) = (&mut groups[$number], &mut powers[$number]);
                    let left = steps[$half][$number].left;
                    // SAFETY: 128 * GROUPS bytes were there before the row; each pull before this one took at most 64.
                    let pulled = unsafe { pull(group, power, left, source.add(done.pulled)) };
                    done.pulled += pulled;
                    if $half == 1 {
                        let [even, odd] = [0, 1].map(|half| steps[half][$number].symbols);
                        // SAFETY: a row has 64 bytes for each group.
                        unsafe { store::<MODE>(even, odd, out.add(64 * $number)) }
                    }
                } )+
            };
        }
        look_up!(0: 2 3);
        pull!(0: 0 1);
        look_up!(1: 0 1);
        pull!(0: 2 3);
        look_up!(1: 2 3);
        pull!(1: 0 1);
        // Of the next row, if there is one: else what is found is not used.
        look_up!(0: 0 1);
        pull!(1: 2 3);
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
