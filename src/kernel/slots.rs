//! Buffers whose slots are filled by several threads at once, each slot by one of them.
//!
//! A batch buffer is one allocation, so that it can be handed to NumPy without a copy, but its samples come from
//! different chunks, decoded by different workers. Safe code cannot give `&mut` to parts of a buffer that are chosen
//! at run time. Here the planner, which alone owns [`SlotOwner`], *claims* slots; a slot can be claimed once, so two
//! [`SlotClaims`] never overlap, and the buffers come back only when every claim is gone.
#![expect(
    unsafe_code,
    reason = "disjoint mutable slices of one buffer for several threads"
)]

use std::sync::Arc;

/// How the slots of an array lie in its buffer.
#[derive(Clone, Debug)]
pub(crate) enum SlotLayout {
    /// Slot i is bytes i * n .. (i + 1) * n.
    Fixed(usize),
    /// Slot i is bytes `offsets[i] .. offsets[i + 1]`.
    Offsets(Vec<usize>),
}

impl SlotLayout {
    /// First and last byte of `count` slots from `first` on; `None` if there are no such slots.
    fn bounds(&self, first: usize, count: usize) -> Option<(usize, usize)> {
        match self {
            Self::Fixed(n) => Some((
                first.checked_mul(*n)?,
                first.checked_add(count)?.checked_mul(*n)?,
            )),
            Self::Offsets(offsets) => Some((
                *offsets.get(first)?,
                *offsets.get(first.checked_add(count)?)?,
            )),
        }
    }
}

/// One array of a batch: a buffer and where its slots are.
struct Array<B> {
    /// Keeps the memory alive; not touched while claims exist.
    owner: B,
    ptr: *mut u8,
    len: usize,
    layout: SlotLayout,
}

struct Shared<B> {
    arrays: Vec<Array<B>>,
}

// SAFETY: `ptr` is only dereferenced through `SlotClaims`, whose slots are disjoint (see `SlotOwner::claim`), and the
// owner `B` is only touched again after all claims are dropped. `B: Send` may move with its `Shared`.
unsafe impl<B: Send> Send for Shared<B> {}
// SAFETY: as above; `&Shared` alone gives access to no byte of the buffers.
unsafe impl<B: Send> Sync for Shared<B> {}

/// The one owner of the arrays of a batch, which gives out claims.
pub(crate) struct SlotOwner<B> {
    shared: Arc<Shared<B>>,
    /// One bit a slot: it was claimed.
    taken: Vec<u64>,
    num_slots: usize,
}

/// The right to write some slots of every array.
pub(crate) struct SlotClaims<B> {
    shared: Arc<Shared<B>>,
    runs: Vec<(u32, u32)>,
}

impl<B: AsMut<[u8]> + Send> SlotOwner<B> {
    /// Arrays of `num_slots` slots each. `None` if a layout does not fit its buffer.
    pub(crate) fn new(num_slots: usize, arrays: Vec<(B, SlotLayout)>) -> Option<Self> {
        let mut out = Vec::with_capacity(arrays.len());
        for (owner, layout) in arrays {
            out.push(Array {
                owner,
                ptr: std::ptr::null_mut(),
                len: 0,
                layout,
            });
        }
        let mut shared = Arc::new(Shared { arrays: out });
        // The pointers are taken where the owners will stay: moving an owner may move an inline buffer.
        for array in &mut Arc::get_mut(&mut shared)?.arrays {
            let bytes = array.owner.as_mut();
            (array.ptr, array.len) = (bytes.as_mut_ptr(), bytes.len());
            let monotonic = match &array.layout {
                SlotLayout::Fixed(_) => true,
                SlotLayout::Offsets(offsets) => offsets.windows(2).all(|pair| pair[0] <= pair[1]),
            };
            let end = array.layout.bounds(0, num_slots)?.1;
            if !monotonic || end > array.len {
                return None;
            }
        }
        Some(Self {
            shared,
            taken: vec![0; num_slots.div_ceil(64)],
            num_slots,
        })
    }

    /// Claims runs of (first slot, number of slots). `None`, and nothing is claimed further, if a slot does not exist
    /// or was claimed before.
    pub(crate) fn claim(&mut self, runs: Vec<(u32, u32)>) -> Option<SlotClaims<B>> {
        for &(first, count) in &runs {
            let end = (first as usize).checked_add(count as usize)?;
            if end > self.num_slots {
                return None;
            }
            for slot in first as usize..end {
                let word = self.taken.get_mut(slot / 64)?;
                if *word & (1 << (slot % 64)) != 0 {
                    return None;
                }
                *word |= 1 << (slot % 64);
            }
        }
        Some(SlotClaims {
            shared: Arc::clone(&self.shared),
            runs,
        })
    }

    /// The buffers, once every claim is gone; `None` while one exists.
    pub(crate) fn into_buffers(self) -> Option<Vec<B>> {
        let shared = Arc::into_inner(self.shared)?;
        Some(shared.arrays.into_iter().map(|array| array.owner).collect())
    }
}

impl<B> SlotClaims<B> {
    /// The bytes of a claimed run in an array.
    ///
    /// # Panics
    /// If there is no such run or array: a bug of the caller.
    pub(crate) fn get_mut(&mut self, run: usize, array: usize) -> &mut [u8] {
        let (first, count) = self.runs[run];
        let array = &self.shared.arrays[array];
        let Some((start, end)) = array.layout.bounds(first as usize, count as usize) else {
            return &mut [];
        };
        assert!(
            start <= end && end <= array.len,
            "slots beyond their buffer"
        );
        // SAFETY: start..end is inside the buffer (asserted; `len` bytes from `ptr` belong to `owner`, which `shared`
        // keeps alive and nobody touches while claims exist). Runs of different claims, and of this one, are disjoint
        // by the bitmap in `SlotOwner::claim`, and layouts are monotonic, so no other live reference covers these
        // bytes: `&mut self` lends one run of this claim at a time.
        unsafe { std::slice::from_raw_parts_mut(array.ptr.add(start), end - start) }
    }
}

impl<B> std::fmt::Debug for SlotOwner<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SlotOwner")
            .field("num_slots", &self.num_slots)
            .finish_non_exhaustive()
    }
}

impl<B> std::fmt::Debug for SlotClaims<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SlotClaims")
            .field("runs", &self.runs)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_can_be_claimed_once_and_buffers_come_back_after_the_claims() {
        let mut owner = SlotOwner::new(4, vec![(vec![0u8; 12], SlotLayout::Fixed(3))]).unwrap();
        let mut a = owner.claim(vec![(0, 1), (3, 1)]).unwrap();
        assert!(owner.claim(vec![(3, 1)]).is_none());
        assert!(owner.claim(vec![(4, 1)]).is_none());
        let mut b = owner.claim(vec![(1, 2)]).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| a.get_mut(1, 0).fill(1));
            scope.spawn(|| b.get_mut(0, 0).fill(2));
        });
        drop((a, b));
        assert_eq!(
            owner.into_buffers().unwrap()[0],
            [0, 0, 0, 2, 2, 2, 2, 2, 2, 1, 1, 1]
        );
    }

    #[test]
    fn buffers_stay_while_a_claim_lives() {
        let mut owner = SlotOwner::new(1, vec![(vec![0u8; 1], SlotLayout::Fixed(1))]).unwrap();
        let _claim = owner.claim(vec![(0, 1)]).unwrap();
        assert!(owner.into_buffers().is_none());
    }

    #[test]
    fn layouts_must_fit_and_ascend() {
        assert!(SlotOwner::new(5, vec![(vec![0u8; 12], SlotLayout::Fixed(3))]).is_none());
        assert!(
            SlotOwner::new(2, vec![(vec![0u8; 12], SlotLayout::Offsets(vec![0, 8, 4]))]).is_none()
        );
        assert!(
            SlotOwner::new(2, vec![(vec![0u8; 12], SlotLayout::Offsets(vec![0, 8]))]).is_none()
        );
        let mut owner =
            SlotOwner::new(2, vec![(vec![0u8; 12], SlotLayout::Offsets(vec![0, 8, 8]))]).unwrap();
        let mut claim = owner.claim(vec![(0, 2)]).unwrap();
        assert_eq!(claim.get_mut(0, 0).len(), 8);
    }
}
