//! Hints that memory will be needed soon. They read nothing, so any address will do.
#![expect(unsafe_code, reason = "hints are unsafe functions")]

use std::arch::x86_64::{_MM_HINT_ET0, _MM_HINT_T0, _MM_HINT_T1, _mm_prefetch};

/// Into the second cache: it is not needed at once.
#[inline(always)]
pub(super) fn to_read(at: *const u8) {
    // SAFETY: a hint reads nothing.
    unsafe { _mm_prefetch::<_MM_HINT_T1>(at.cast()) }
}

/// Into the first cache.
#[inline(always)]
pub(super) fn to_read_soon(at: *const u8) {
    // SAFETY: a hint reads nothing.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
}

#[inline(always)]
pub(super) fn to_write(at: *const u8) {
    // SAFETY: a hint reads nothing.
    unsafe { _mm_prefetch::<_MM_HINT_ET0>(at.cast()) }
}
