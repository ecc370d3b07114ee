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

/// The right to write some slots of every array of some batches: runs of slots, in the order they were claimed in.
pub(crate) struct SlotClaims<B> {
    batches: Vec<Arc<Shared<B>>>,
    runs: Vec<Run>,
    /// Where array `array` of each batch is, side by side, for it is looked up for every run.
    bases: Vec<Base>,
    array: Option<usize>,
}

#[derive(Clone, Copy, Debug)]
struct Run {
    batch: u32,
    first: u32,
    count: u32,
}

#[derive(Clone, Copy)]
struct Base {
    ptr: *mut u8,
    len: usize,
    /// Bytes of a slot; `None` if the layout must be asked.
    slot: Option<usize>,
}

// SAFETY: a `Base` is only a copy of what `batches` holds, which may be sent.
unsafe impl<B: Send> Send for SlotClaims<B> {}

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

    /// Claims `count` slots from `first` on for `claims`, whose batch `batch` is this one. `None` if it is another, or a
    /// slot does not exist or was claimed before.
    pub(crate) fn claim(
        &mut self,
        first: u32,
        count: u32,
        batch: u32,
        claims: &mut SlotClaims<B>,
    ) -> Option<()> {
        let same = Arc::ptr_eq(claims.batches.get(batch as usize)?, &self.shared);
        let end = (first as usize).checked_add(count as usize)?;
        if !same || end > self.num_slots {
            return None;
        }
        for slot in first as usize..end {
            let word = self.taken.get_mut(slot / 64)?;
            if *word & (1 << (slot % 64)) != 0 {
                return None;
            }
            *word |= 1 << (slot % 64);
        }
        claims.runs.push(Run {
            batch,
            first,
            count,
        });
        Some(())
    }

    /// The buffers, once every claim is gone; `None` while one exists.
    pub(crate) fn into_buffers(self) -> Option<Vec<B>> {
        let shared = Arc::into_inner(self.shared)?;
        Some(shared.arrays.into_iter().map(|array| array.owner).collect())
    }
}

impl<B> SlotClaims<B> {
    /// No claims yet; as many are expected.
    pub(crate) fn with_capacity(batches: usize, runs: usize) -> Self {
        Self {
            batches: Vec::with_capacity(batches),
            runs: Vec::with_capacity(runs),
            bases: Vec::new(),
            array: None,
        }
    }

    /// Adds a batch that slots will be claimed of. Returns how many there were before it.
    pub(crate) fn add_batch(&mut self, owner: &SlotOwner<B>) -> usize {
        self.batches.push(Arc::clone(&owner.shared));
        self.batches.len() - 1
    }

    /// The batch of a run, in the order they were added in.
    pub(crate) fn batch(&self, run: usize) -> usize {
        self.runs[run].batch as usize
    }

    /// The bytes of a claimed run in an array.
    ///
    /// # Panics
    /// If there is no such run or array: a bug of the caller.
    pub(crate) fn get_mut(&mut self, run: usize, array: usize) -> &mut [u8] {
        if self.array != Some(array) {
            self.look_up(array);
        }
        let Run {
            batch,
            first,
            count,
        } = self.runs[run];
        let base = self.bases[batch as usize];
        let (first, count) = (first as usize, count as usize);
        let bounds = match base.slot {
            Some(slot) => SlotLayout::Fixed(slot).bounds(first, count),
            None => self.batches[batch as usize].arrays[array]
                .layout
                .bounds(first, count),
        };
        let Some((start, end)) = bounds else {
            return &mut [];
        };
        assert!(start <= end && end <= base.len, "slots beyond their buffer");
        // SAFETY: start..end is inside the buffer (asserted; `len` bytes from `ptr` belong to its owner, which `batches`
        // keeps alive and nobody touches while claims exist). Runs of different claims, and of this one, are disjoint
        // by the bitmap in `SlotOwner::claim`, and layouts are monotonic, so no other live reference covers these
        // bytes: `&mut self` lends one run of this claim at a time.
        unsafe { std::slice::from_raw_parts_mut(base.ptr.add(start), end - start) }
    }

    fn look_up(&mut self, array: usize) {
        self.bases.clear();
        self.bases.extend(self.batches.iter().map(|shared| {
            let array = &shared.arrays[array];
            Base {
                ptr: array.ptr,
                len: array.len,
                slot: match array.layout {
                    SlotLayout::Fixed(slot) => Some(slot),
                    SlotLayout::Offsets(_) => None,
                },
            }
        }));
        self.array = Some(array);
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

    fn owner(num_slots: usize) -> SlotOwner<Vec<u8>> {
        SlotOwner::new(num_slots, vec![(vec![0u8; 12], SlotLayout::Fixed(3))]).unwrap()
    }

    fn claims(owner: &SlotOwner<Vec<u8>>) -> SlotClaims<Vec<u8>> {
        let mut claims = SlotClaims::with_capacity(1, 1);
        claims.add_batch(owner);
        claims
    }

    #[test]
    fn a_slot_can_be_claimed_once_and_buffers_come_back_after_the_claims() {
        let mut owner = owner(4);
        let (mut a, mut b) = (claims(&owner), claims(&owner));
        owner.claim(0, 1, 0, &mut a).unwrap();
        owner.claim(3, 1, 0, &mut a).unwrap();
        assert!(owner.claim(3, 1, 0, &mut b).is_none());
        assert!(owner.claim(4, 1, 0, &mut b).is_none());
        assert!(owner.claim(1, 1, 1, &mut b).is_none());
        owner.claim(1, 2, 0, &mut b).unwrap();
        assert_eq!((a.batch(1), b.batch(0)), (0, 0));
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
    fn claims_reach_over_batches_and_arrays() {
        let arrays = || {
            vec![
                (vec![0u8; 4], SlotLayout::Fixed(2)),
                (vec![0u8; 5], SlotLayout::Offsets(vec![0, 1, 5])),
            ]
        };
        let mut a = SlotOwner::new(2, arrays()).unwrap();
        let mut b = SlotOwner::new(2, arrays()).unwrap();
        let mut claims = SlotClaims::with_capacity(2, 3);
        claims.add_batch(&a);
        claims.add_batch(&b);
        // A batch is only claimed by its own owner.
        assert!(a.claim(0, 1, 1, &mut claims).is_none());
        a.claim(1, 1, 0, &mut claims).unwrap();
        b.claim(0, 2, 1, &mut claims).unwrap();
        for array in [0, 1] {
            claims.get_mut(0, array).fill(7);
            claims.get_mut(1, array).fill(8);
        }
        drop(claims);
        let (a, b) = (a.into_buffers().unwrap(), b.into_buffers().unwrap());
        assert_eq!(
            (&a[0][..], &a[1][..]),
            (&[0, 0, 7, 7][..], &[0, 7, 7, 7, 7][..])
        );
        assert_eq!((&b[0][..], &b[1][..]), (&[8; 4][..], &[8; 5][..]));
    }

    #[test]
    fn buffers_stay_while_a_claim_lives() {
        let owner = owner(1);
        let _claims = claims(&owner);
        assert!(owner.into_buffers().is_none());
    }

    #[test]
    fn layouts_must_fit_and_ascend() {
        let array = |layout| vec![(vec![0u8; 12], layout)];
        assert!(SlotOwner::new(5, array(SlotLayout::Fixed(3))).is_none());
        assert!(SlotOwner::new(2, array(SlotLayout::Offsets(vec![0, 8, 4]))).is_none());
        assert!(SlotOwner::new(2, array(SlotLayout::Offsets(vec![0, 8]))).is_none());
        let mut owner = SlotOwner::new(2, array(SlotLayout::Offsets(vec![0, 8, 8]))).unwrap();
        let mut claims = claims(&owner);
        owner.claim(0, 2, 0, &mut claims).unwrap();
        assert_eq!(claims.get_mut(0, 0).len(), 8);
    }
}
