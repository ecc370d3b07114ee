//! Threads, locks, flags and queues of everything that runs in parallel: those of std and crossbeam-channel, or those of
//! the model checker shuttle where the crate is built with `--cfg shuttle` (`.ci/models`). Counters that decide nothing
//! are plain atomics of std.

use std::num::NonZero;
use std::thread::available_parallelism;

#[cfg(not(shuttle))]
pub(crate) use std::{
    sync::{Mutex, MutexGuard, atomic::AtomicBool},
    thread,
};

#[cfg(shuttle)]
pub(crate) use shuttle::{
    sync::{Mutex, MutexGuard, atomic::AtomicBool},
    thread,
};

#[cfg(shuttle)]
pub(crate) mod channel;

/// Queues between threads.
#[cfg(not(shuttle))]
pub(crate) mod channel {
    pub(crate) use crossbeam_channel::{
        Receiver, RecvError, RecvTimeoutError, Sender, bounded, unbounded,
    };

    use crate::sync::Either;

    /// The next message of `first`, or of `second` while `first` has none. Waits until there is one.
    ///
    /// # Errors
    /// If one of the queues has no message and no sender, and the other no message.
    pub(crate) fn recv_either<A, B>(
        first: &Receiver<A>,
        second: &Receiver<B>,
    ) -> Result<Either<A, B>, RecvError> {
        crossbeam_channel::select_biased! {
            recv(first) -> message => message.map(Either::First),
            recv(second) -> message => message.map(Either::Second),
        }
    }
}

/// Processors that this process may use.
pub(crate) fn num_cores() -> usize {
    available_parallelism().map_or(1, NonZero::get)
}

/// A message of one of two queues.
pub(crate) enum Either<A, B> {
    First(A),
    Second(B),
}

#[cfg(test)]
mod model_tests;
