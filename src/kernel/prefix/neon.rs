//! NEON: tables of 64 are one instruction (`tbl` of four registers). A group is two halves of 16 lanes, u16 where words
//! are shifted and bytes where tables are looked up.
#![expect(unsafe_code, reason = "loads and stores by pointer")]

use std::arch::aarch64::*;

use super::expand::EXPAND;
use super::header::Groups;
use super::table::Table;
use super::{Fetch, Kernel, LANES, Lanes, Progress};

pub(super) fn kernel(mode: u8, groups: Groups) -> Kernel {
    match (groups, mode) {
        (Groups::One, 0) => decode::<1, 2, 0>,
        (Groups::One, 1) => decode::<1, 2, 1>,
        (Groups::One, _) => decode::<1, 2, 2>,
        (Groups::Two, 0) => decode::<2, 4, 0>,
        (Groups::Two, 1) => decode::<2, 4, 1>,
        (Groups::Two, _) => decode::<2, 4, 2>,
        (Groups::Four, 0) => decode::<4, 8, 0>,
        (Groups::Four, 1) => decode::<4, 8, 1>,
        (Groups::Four, _) => decode::<4, 8, 2>,
    }
}

/// State of 16 lanes: half a group.
#[derive(Clone, Copy)]
struct Half {
    a: [uint16x8_t; 2],
    b: [uint16x8_t; 2],
    n: int8x16_t,
}

struct Tables {
    len: uint8x16x4_t,
    first: uint8x16x4_t,
    mask: uint8x16x4_t,
    /// The bit of each of 8 lanes, twice.
    bits: uint8x16_t,
}

#[target_feature(enable = "neon")]
#[inline]
fn load_64(bytes: &[u8; 64]) -> uint8x16x4_t {
    // SAFETY: the reference is to 64 bytes.
    unsafe { vld1q_u8_x4(bytes.as_ptr()) }
}

#[target_feature(enable = "neon")]
#[inline]
fn load_16(bytes: &[u8; 16]) -> uint8x16_t {
    // SAFETY: the reference is to 16 bytes.
    unsafe { vld1q_u8(bytes.as_ptr()) }
}

#[target_feature(enable = "neon")]
#[inline]
fn load_lanes(lanes: &[u16]) -> [uint16x8_t; 2] {
    let lanes = &lanes[..LANES / 2];
    // SAFETY: the slice has 16 numbers.
    unsafe { [vld1q_u16(lanes.as_ptr()), vld1q_u16(lanes.as_ptr().add(8))] }
}

#[target_feature(enable = "neon")]
#[inline]
fn store_lanes(lanes: &mut [u16], state: [uint16x8_t; 2]) {
    let lanes = &mut lanes[..LANES / 2];
    // SAFETY: the slice has 16 numbers.
    unsafe {
        vst1q_u16(lanes.as_mut_ptr(), state[0]);
        vst1q_u16(lanes.as_mut_ptr().add(8), state[1]);
    }
}

/// The upper n bits of a, then b.
#[target_feature(enable = "neon")]
#[inline]
fn window(a: uint16x8_t, b: uint16x8_t, n: int16x8_t) -> uint16x8_t {
    // Negative shifts go to the right; those by 16 give 0.
    let upper = vshlq_u16(a, vsubq_s16(n, vdupq_n_s16(16)));
    vorrq_u16(vshlq_u16(b, n), upper)
}

/// The symbols of 16 lanes, and how many bytes they pulled.
///
/// # Safety
/// 32 bytes must be readable at `source`.
#[target_feature(enable = "neon")]
#[inline]
unsafe fn step(half: &mut Half, tables: &Tables, source: *const u8) -> (uint8x16_t, usize) {
    let Half { a, b, n } = *half;
    let x = window(a[0], b[0], vmovl_s8(vget_low_s8(n)));
    let y = window(a[1], b[1], vmovl_high_s8(n));
    let low = vuzp1q_u8(vreinterpretq_u8_u16(x), vreinterpretq_u8_u16(y));
    let cell = vandq_u8(low, vdupq_n_u8(63));
    let rest = vshrn_high_n_u16::<6>(vshrn_n_u16::<6>(x), y);
    let len = vqtbl4q_u8(tables.len, cell);
    let first = vqtbl4q_u8(tables.first, cell);
    let mask = vqtbl4q_u8(tables.mask, cell);
    let symbols = vorrq_u8(first, vandq_u8(rest, mask));

    let left = vsubq_s8(n, vreinterpretq_s8_u8(len));
    let pulls = vcltzq_s8(left);
    let bits = vandq_u8(pulls, tables.bits);
    let (p, q) = (vaddv_u8(vget_low_u8(bits)), vaddv_u8(vget_high_u8(bits)));
    let count = p.count_ones() as usize;
    let spread = |pulls: u8| load_16(&EXPAND[usize::from(pulls)]);
    // SAFETY: at most 8 words come before the second, so the addresses are at most 16 after `source`.
    let (p_words, q_words) = unsafe { (vld1q_u8(source), vld1q_u8(source.add(2 * count))) };
    let p_words = vreinterpretq_u16_u8(vqtbl1q_u8(p_words, spread(p)));
    let q_words = vreinterpretq_u16_u8(vqtbl1q_u8(q_words, spread(q)));
    let pulls = vreinterpretq_s8_u8(pulls);
    let pull_x = vreinterpretq_u16_s16(vmovl_s8(vget_low_s8(pulls)));
    let pull_y = vreinterpretq_u16_s16(vmovl_high_s8(pulls));
    *half = Half {
        a: [vbslq_u16(pull_x, b[0], a[0]), vbslq_u16(pull_y, b[1], a[1])],
        b: [
            vbslq_u16(pull_x, p_words, b[0]),
            vbslq_u16(pull_y, q_words, b[1]),
        ],
        n: vandq_s8(left, vdupq_n_s8(15)),
    };
    (symbols, 2 * (count + q.count_ones() as usize))
}

/// The bytes of 16 symbols, for modes 0 and 1.
#[target_feature(enable = "neon")]
#[inline]
fn map<const MODE: u8>(symbols: uint8x16_t) -> uint8x16_t {
    if MODE != 1 {
        return symbols;
    }
    let odd = vreinterpretq_s8_u8(vandq_u8(symbols, vdupq_n_u8(1)));
    veorq_u8(vshrq_n_u8::<1>(symbols), vreinterpretq_u8_s8(vnegq_s8(odd)))
}

/// A [`Kernel`].
fn decode<const GROUPS: usize, const HALVES: usize, const MODE: u8>(
    table: &Table,
    lanes: &mut Lanes,
    src: &[u8],
    dst: &mut [u8],
    _fetch: Fetch,
) -> Progress {
    // SAFETY: every aarch64 processor that runs this target has NEON.
    unsafe { decode_rows::<GROUPS, HALVES, MODE>(table, lanes, src, dst) }
}

#[target_feature(enable = "neon")]
fn decode_rows<const GROUPS: usize, const HALVES: usize, const MODE: u8>(
    table: &Table,
    lanes: &mut Lanes,
    src: &[u8],
    dst: &mut [u8],
) -> Progress {
    let tables = Tables {
        len: load_64(&table.len),
        first: load_64(&table.first),
        mask: load_64(&table.mask),
        bits: load_16(&[1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128]),
    };
    let mut halves: [Half; HALVES] = std::array::from_fn(|half| {
        let at = half * LANES / 2;
        let [n0, n1] = load_lanes(&lanes.n[at..]);
        Half {
            a: load_lanes(&lanes.a[at..]),
            b: load_lanes(&lanes.b[at..]),
            n: vreinterpretq_s8_u8(vmovn_high_u16(vmovn_u16(n0), n1)),
        }
    });
    let source = src.as_ptr();
    let mut done = Progress::default();
    for row in dst.chunks_exact_mut(64 * GROUPS) {
        // Two words a lane are the most that a row pulls.
        if src.len() - done.pulled < 128 * GROUPS {
            break;
        }
        let mut even = [vdupq_n_u8(0); HALVES];
        for (symbols, half) in even.iter_mut().zip(&mut halves) {
            // SAFETY: 128 * GROUPS bytes were there before the row; each step before this one pulled at most 32.
            let (s, pulled) = unsafe { step(half, &tables, source.add(done.pulled)) };
            *symbols = map::<MODE>(s);
            done.pulled += pulled;
        }
        let out = row.as_chunks_mut::<32>().0;
        for ((even, half), out) in even.into_iter().zip(&mut halves).zip(out) {
            // SAFETY: as before.
            let (odd, pulled) = unsafe { step(half, &tables, source.add(done.pulled)) };
            done.pulled += pulled;
            // SAFETY: the reference is to 32 bytes.
            unsafe { vst2q_u8(out.as_mut_ptr(), uint8x16x2_t(even, map::<MODE>(odd))) }
        }
        if MODE == 2 {
            row.iter_mut()
                .for_each(|symbol| *symbol = table.map[usize::from(*symbol)]);
        }
        done.rows += 1;
    }
    for (number, half) in halves.iter().enumerate() {
        let at = number * LANES / 2;
        store_lanes(&mut lanes.a[at..], half.a);
        store_lanes(&mut lanes.b[at..], half.b);
        let n = vreinterpretq_u8_s8(half.n);
        store_lanes(
            &mut lanes.n[at..],
            [vmovl_u8(vget_low_u8(n)), vmovl_high_u8(n)],
        );
    }
    done
}
