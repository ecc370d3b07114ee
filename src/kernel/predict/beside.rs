//! Steps that are undone beside other work. The prefix decoder waits for its own results about as long as it computes:
//! sums of what it decoded before fit in between.

use std::marker::PhantomData;

use crate::kernel::simd::Level;

use super::lines::{Network, ONE_LINE, Plan, SOME_LINES};
use super::vector::{V64, Vector};
use super::words::Words;
use super::{Grid, Steps};

/// Vectors of a row.
pub(crate) const VECTORS: usize = 4;
const ROW: usize = VECTORS * V64::LEN;

/// What is done a row at a time beside other work. May only be used by code that runs where AVX-512 with VBMI is.
pub(crate) trait Beside {
    /// Whether there is something to do.
    const IS_WORK: bool = true;

    /// What stays as it is, to be kept in registers.
    type Network: Copy;
    /// A row that was begun.
    type Row<'r>
    where
        Self: 'r;

    fn network(&self) -> Self::Network;

    /// Begins the next row; `None` after the last one.
    fn begin(&mut self) -> Option<Self::Row<'_>>;

    /// Does vector `i` of a row, after those before it.
    fn vector(network: &Self::Network, row: &mut Self::Row<'_>, i: usize);

    /// Ends a row of which all vectors are done.
    fn end(row: Self::Row<'_>);
}

/// Nothing, for ever.
#[derive(Debug)]
pub(crate) struct Nothing;

impl Beside for Nothing {
    const IS_WORK: bool = false;

    type Network = ();
    type Row<'r> = ();

    #[inline(always)]
    fn network(&self) {}

    #[inline(always)]
    fn begin(&mut self) -> Option<()> {
        Some(())
    }

    #[inline(always)]
    fn vector((): &(), (): &mut (), _: usize) {}

    #[inline(always)]
    fn end((): ()) {}
}

/// The sums of a step of bytes, of planes of whole rows.
#[derive(Debug)]
pub(crate) enum Sums<'a> {
    /// A line fills a vector.
    Lines(Rows<'a, u8, 0, ONE_LINE>),
    /// Two lines do.
    HalfLines(Rows<'a, u8, 1, SOME_LINES>),
}

impl<'a> Sums<'a> {
    /// As [`Steps::undo`]. `None` if the step cannot be undone beside other work.
    pub(super) fn new(
        steps: &'a Steps,
        first: usize,
        src: &'a [u8],
        dst: &'a mut [u8],
    ) -> Option<Self> {
        let (plan, tables) = steps.plan.as_ref()?;
        let grid = &steps.grid;
        let first = first + dst.len().checked_sub(src.len())?;
        let is_whole = |bytes: usize| bytes.is_multiple_of(ROW);
        let in_rows = steps.level == Level::Avx512
            && grid.elem_size == 1
            && !grid.zigzag
            && tables.bytes() == V64::LEN
            && is_whole(plan.plane())
            && is_whole(src.len())
            && is_whole(first)
            && plan.rest(grid).is_empty()
            && plan.channels(grid).is_none();
        if !in_rows {
            return None;
        }
        #[expect(unsafe_code, reason = "calls code compiled for AVX-512")]
        // SAFETY: a level is at most what `Level::best` found on this machine.
        unsafe {
            match (V64::LEN / plan.line(), tables.steps_after_sums()) {
                (1, Some(0)) => Some(Self::Lines(Rows::new(steps, first, src, dst)?)),
                (2, Some(1)) => Some(Self::HalfLines(Rows::new(steps, first, src, dst)?)),
                _ => None,
            }
        }
    }

    /// Does what is left.
    pub(crate) fn finish(&mut self) {
        #[expect(unsafe_code, reason = "calls code compiled for AVX-512")]
        // SAFETY: there are sums only if the level is AVX-512, which is at most what `Level::best` found.
        unsafe {
            match self {
                Self::Lines(rows) => rows.finish(),
                Self::HalfLines(rows) => rows.finish(),
            }
        }
    }
}

/// Sums of elements `W`, after `N` steps in vectors that hold what `HOLDS` says.
#[derive(Debug)]
pub(crate) struct Rows<'a, W, const N: usize, const HOLDS: u8> {
    network: Network<V64, N, true>,
    plan: &'a Plan,
    grid: &'a Grid,
    /// The byte within its sample (or run of samples) where the step begins.
    first: usize,
    /// The step.
    src: &'a [u8],
    dst: &'a mut [u8],
    /// Bytes of it whose sums were begun, in parts of planes.
    begun: usize,
    /// In the step: the next byte, the end of its part of a plane, and where the bytes are that are added to it.
    at: usize,
    end: usize,
    reference: Option<usize>,
    /// The line before, or the sum of the lines before.
    above: V64,
    /// What there is before the step.
    before: V64,
    words: PhantomData<W>,
}

/// A row of what is summed, of its sums, and of what is added to these.
#[derive(Debug)]
pub(crate) struct Row<'r> {
    src: &'r [u8; ROW],
    dst: &'r mut [u8; ROW],
    add: &'r [u8; ROW],
    above: V64,
    keep: &'r mut V64,
}

/// What is added where nothing is.
static ZEROS: [u8; ROW] = [0; ROW];

impl<'a, W: Words, const N: usize, const HOLDS: u8> Rows<'a, W, N, HOLDS> {
    #[target_feature(enable = "avx2,bmi2,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi,gfni")]
    fn new(steps: &'a Steps, first: usize, src: &'a [u8], dst: &'a mut [u8]) -> Option<Self> {
        let (plan, tables) = steps.plan.as_ref()?;
        let (before, dst) = dst.split_at_mut_checked(dst.len().checked_sub(src.len())?)?;
        Some(Self {
            network: Network::new(plan, tables, &steps.grid),
            plan,
            grid: &steps.grid,
            first,
            src,
            dst,
            begun: 0,
            at: 0,
            end: 0,
            reference: None,
            above: V64::zero(),
            before: V64::load(
                before
                    .last_chunk::<{ V64::LEN }>()
                    .unwrap_or(&[0; V64::LEN]),
            ),
            words: PhantomData,
        })
    }

    #[target_feature(enable = "avx2,bmi2,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi,gfni")]
    fn finish(&mut self) {
        let network = self.network();
        while let Some(mut row) = self.begin() {
            for i in 0..VECTORS {
                Self::vector(&network, &mut row, i);
            }
            Self::end(row);
        }
    }

    /// Goes to the next part of a plane.
    #[inline(always)]
    fn turn(&mut self) {
        // Within a plane, lines go on from what came before.
        let goes_on = self.begun == 0 && !self.first.is_multiple_of(self.plan.plane());
        self.above = if HOLDS == ONE_LINE && goes_on {
            self.before
        } else {
            V64::zero()
        };
        let len = self.src.len();
        let part = self.plan.part(self.grid, self.first, self.begun, len);
        (self.at, self.end, self.reference) = (part.start, part.end, part.reference);
        self.begun += part.end - part.start;
    }
}

impl<W: Words, const N: usize, const HOLDS: u8> Beside for Rows<'_, W, N, HOLDS> {
    type Network = Network<V64, N, true>;
    type Row<'r>
        = Row<'r>
    where
        Self: 'r;

    #[inline(always)]
    fn network(&self) -> Self::Network {
        self.network
    }

    #[inline(always)]
    fn begin(&mut self) -> Option<Row<'_>> {
        if self.at >= self.end {
            if self.begun >= self.src.len() {
                return None;
            }
            self.turn();
        }
        let row = self.at..self.at + ROW;
        self.at = row.end;
        let src = self.src.get(row.clone())?.first_chunk()?;
        let (dst, add): (&mut [u8], &[u8]) = match &mut self.reference {
            None => (self.dst.get_mut(row)?, &ZEROS),
            Some(reference) => {
                let add = *reference..*reference + ROW;
                *reference = add.end;
                let [dst, add] = self.dst.get_disjoint_mut([row, add]).ok()?;
                (dst, add)
            }
        };
        Some(Row {
            src,
            dst: dst.first_chunk_mut()?,
            add: add.first_chunk()?,
            above: self.above,
            keep: &mut self.above,
        })
    }

    #[inline(always)]
    fn vector(network: &Self::Network, row: &mut Row<'_>, i: usize) {
        let at = i * V64::LEN;
        let x = network.sums_of::<W>(V64::load(&row.src[at..]));
        let sum = x.add::<W>(row.above);
        row.above = match HOLDS {
            ONE_LINE => sum,
            _ => row.above.add::<W>(network.last(x)),
        };
        let sum = sum.add::<W>(V64::load(&row.add[at..]));
        sum.store(&mut row.dst[at..], V64::LEN);
    }

    #[inline(always)]
    fn end(row: Row<'_>) {
        *row.keep = row.above;
    }
}
