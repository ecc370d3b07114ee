//! Memory for batches, on huge pages where the system has them: scattered writes to 4 KiB pages miss the TLB.
//!
//! A [`Slab`] is one allocation, split into equal parts at once. Safe code cannot own parts of one allocation and write
//! to them from several threads; here every [`Part`] is made exactly once, and no two overlap.
#![expect(unsafe_code, reason = "disjoint mutable parts of one allocation")]

use std::sync::Arc;

use memmap2::MmapMut;

/// A cache line: parts are aligned for every element type and vector width.
pub(crate) const ALIGN: usize = 64;
/// A huge page of x86-64, and of aarch64 with 4 KiB pages. Smaller allocations gain nothing from them.
pub(crate) const HUGE: usize = 2 << 20;

/// The allocation. It is zero at first: by the system, page by page, when a page is first touched.
struct Slab {
    start: *mut u8,
    len: usize,
    /// Frees the memory; never touched otherwise.
    _owner: Owner,
}

/// What the memory came from.
enum Owner {
    #[expect(dead_code, reason = "held, so that it is freed at the right time")]
    Map(MmapMut),
    #[expect(dead_code, reason = "held, so that it is freed at the right time")]
    Heap(Vec<u8>),
}

// SAFETY: `start` points into the memory of `_owner`, which moves with the slab and is not touched by anyone else. Bytes are only
// reached through parts, which are disjoint.
unsafe impl Send for Slab {}
// SAFETY: as above; `&Slab` alone gives access to no byte.
unsafe impl Sync for Slab {}

/// A part of a slab, the only one over its bytes.
pub(crate) struct Part {
    slab: Arc<Slab>,
    start: usize,
    len: usize,
}

impl Slab {
    /// `len` zero bytes that start at a multiple of [`ALIGN`], of [`HUGE`] if they fill such a page. `None` if the
    /// system has not so many.
    fn new(len: usize) -> Option<Self> {
        if len >= HUGE
            && let Some(slab) = Self::map(len)
        {
            return Some(slab);
        }
        let with_skip = len.checked_add(ALIGN)?;
        let mut heap = Vec::new();
        heap.try_reserve_exact(with_skip).ok()?;
        heap.resize(with_skip, 0u8);
        let skip = heap.as_ptr().align_offset(ALIGN).min(ALIGN);
        Some(Self {
            // SAFETY: `skip` is at most ALIGN, and the vector is longer than that.
            start: unsafe { heap.as_mut_ptr().add(skip) },
            len,
            _owner: Owner::Heap(heap),
        })
    }

    /// `None` where the system maps no memory.
    fn map(len: usize) -> Option<Self> {
        let mut map =
            MmapMut::map_anon(len.checked_next_multiple_of(HUGE)?.checked_add(HUGE)?).ok()?;
        // A hint: where it is refused, pages are small.
        #[cfg(target_os = "linux")]
        map.advise(memmap2::Advice::HugePage).ok();
        let skip = map.as_ptr().align_offset(HUGE).min(HUGE);
        Some(Self {
            // SAFETY: `skip` is at most HUGE, and the map is longer than that.
            start: unsafe { map.as_mut_ptr().add(skip) },
            len,
            _owner: Owner::Map(map),
        })
    }
}

/// `count` new parts of `len` bytes each, all zero. `len` is a multiple of [`ALIGN`]; one comes if the system has no room
/// for so many, and none if it has none for one.
pub(crate) fn parts(len: usize, count: usize) -> Vec<Part> {
    let all = len
        .checked_mul(count)
        .and_then(Slab::new)
        .map(|slab| (slab, count));
    let Some((slab, count)) = all.or_else(|| Some((Slab::new(len)?, 1))) else {
        return Vec::new();
    };
    let slab = Arc::new(slab);
    let part = |i| Part {
        slab: Arc::clone(&slab),
        start: i * len,
        len,
    };
    (0..count).map(part).collect()
}

impl Part {
    /// Bytes of the part.
    pub(crate) fn len(&self) -> usize {
        self.len
    }
}

impl AsMut<[u8]> for Part {
    fn as_mut(&mut self) -> &mut [u8] {
        assert!(
            self.start + self.len <= self.slab.len,
            "a part beyond its slab"
        );
        // SAFETY: the bytes are inside the slab (asserted), initialized (zero at first), and alive as long as `slab`.
        // `parts` makes each part once and parts are not cloned, so `&mut self` is the only way to these bytes.
        unsafe { std::slice::from_raw_parts_mut(self.slab.start.add(self.start), self.len) }
    }
}

impl AsRef<[u8]> for Part {
    fn as_ref(&self) -> &[u8] {
        assert!(
            self.start + self.len <= self.slab.len,
            "a part beyond its slab"
        );
        // SAFETY: as in `as_mut`; `&self` excludes a mutable borrow of this part, and other parts are elsewhere.
        unsafe { std::slice::from_raw_parts(self.slab.start.add(self.start), self.len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_zero_aligned_disjoint_and_outlive_each_other() {
        for (len, count) in [(64, 1), (640, 9), (HUGE, 2), (HUGE / 2 + 64, 5), (0, 3)] {
            let mut all = parts(len, count);
            assert_eq!(all.len(), count);
            for (i, part) in (1u8..).zip(&mut all) {
                assert_eq!(part.len(), len);
                assert_eq!(part.as_ref().as_ptr() as usize % ALIGN, 0);
                assert!(part.as_ref().iter().all(|&byte| byte == 0));
                part.as_mut().fill(i);
            }
            let last = all.pop();
            drop(all.drain(..1.min(all.len())));
            for (i, part) in (2u8..).zip(&all) {
                assert!(part.as_ref().iter().all(|&byte| byte == i));
            }
            let count = u8::try_from(count).unwrap();
            assert!(last.is_some_and(|part| part.as_ref().iter().all(|&byte| byte == count)));
        }
    }
}
