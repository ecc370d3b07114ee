//! The baseline: what a copy of the delivered bytes costs.

use std::hint::black_box;
use std::sync::Barrier;
use std::time::{Duration, Instant};

/// A memcpy of batches from a large source into rotating buffers. A run goes on where the last one ended.
pub(crate) struct Copies {
    source: Vec<u8>,
    batch_bytes: usize,
    sides: [Side; 2],
}

/// What one thread has for itself.
struct Side {
    buffers: Vec<Vec<u8>>,
    at: usize,
    turn: usize,
}

impl Side {
    fn run(&mut self, source: &[u8], batch_bytes: usize, total: usize) {
        let mut done = 0;
        while done < total {
            if self.at + batch_bytes > source.len() {
                self.at = 0;
            }
            let buffer = &mut self.buffers[self.turn];
            buffer.copy_from_slice(&source[self.at..self.at + batch_bytes]);
            black_box(buffer.as_slice());
            self.at += batch_bytes;
            self.turn = (self.turn + 1) % self.buffers.len();
            done += batch_bytes;
        }
    }
}

impl Copies {
    /// Batches of `batch_bytes`, out of `source_len` bytes, into `num_buffers` buffers (that two threads share).
    pub(crate) fn new(batch_bytes: usize, source_len: usize, num_buffers: usize) -> Self {
        // Not zeros: pages of a fresh zeroed vector are all one page of the system.
        let side = |share: usize| Side {
            buffers: (0..share.max(2)).map(|_| vec![2u8; batch_bytes]).collect(),
            at: 0,
            turn: 0,
        };
        let mut sides = [side(num_buffers.div_ceil(2)), side(num_buffers / 2)];
        let source = vec![1u8; source_len.max(batch_bytes)];
        sides[1].at = source.len() / 2 / batch_bytes * batch_bytes;
        Self {
            source,
            batch_bytes,
            sides,
        }
    }

    /// Copies `total` bytes on this thread.
    pub(crate) fn run(&mut self, total: usize) -> Duration {
        // All buffers in turn, those of the other side too.
        let start = Instant::now();
        let mut done = 0;
        while done < total {
            for side in &mut self.sides {
                let stretch = side.buffers.len() * self.batch_bytes;
                side.run(&self.source, self.batch_bytes, stretch.min(total - done));
                done += stretch.min(total - done);
            }
        }
        start.elapsed()
    }

    /// Copies half of `total` bytes on each of two threads at the same time.
    pub(crate) fn run_two(&mut self, total: usize) -> Duration {
        let (source, batch_bytes) = (&self.source, self.batch_bytes);
        let barrier = Barrier::new(2);
        std::thread::scope(|scope| {
            let [first, second] = &mut self.sides;
            let other = scope.spawn(|| {
                barrier.wait();
                second.run(source, batch_bytes, total / 2);
            });
            barrier.wait();
            let start = Instant::now();
            first.run(source, batch_bytes, total / 2);
            other.join().ok();
            start.elapsed()
        })
    }
}
