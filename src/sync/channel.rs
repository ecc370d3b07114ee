//! What crossbeam-channel does, of the locks of shuttle: the model checker then knows who waits for whom. Only in builds
//! with `--cfg shuttle`.

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError};
use std::time::Instant;

pub(crate) use crossbeam_channel::{RecvError, RecvTimeoutError, SendError, TrySendError};
use shuttle::sync::{Condvar, Mutex, MutexGuard};

use super::Either;

/// A queue. Dropping the last receiver drops what is in it, but not if it is bounded: then its last sender does. Dropping
/// the last sender leaves what is in it to be received.
struct Queue<T> {
    state: Mutex<State<T>>,
    /// Something changed.
    changed: Condvar,
}

struct State<T> {
    messages: VecDeque<T>,
    capacity: usize,
    senders: usize,
    receivers: usize,
    /// Those who wait for several queues.
    waiting: Vec<Arc<Signal>>,
}

#[derive(Default)]
struct Signal {
    raised: Mutex<bool>,
    changed: Condvar,
}

impl Signal {
    fn raise(&self) {
        *self.raised.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_all();
    }

    fn wait(&self) {
        let mut raised = self.raised.lock().unwrap_or_else(PoisonError::into_inner);
        while !*raised {
            raised = self
                .changed
                .wait(raised)
                .unwrap_or_else(PoisonError::into_inner);
        }
        *raised = false;
    }
}

impl<T> Queue<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'q>(&'q self, state: MutexGuard<'q, State<T>>) -> MutexGuard<'q, State<T>> {
        self.changed
            .wait(state)
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes everybody who waits for this queue.
    fn tell(&self, state: MutexGuard<'_, State<T>>) {
        let waiting = state.waiting.clone();
        drop(state);
        self.changed.notify_all();
        for signal in waiting {
            signal.raise();
        }
    }

    /// The next message; `None` if there is none yet.
    fn next(&self) -> Result<Option<T>, RecvError> {
        let mut state = self.lock();
        match state.messages.pop_front() {
            Some(message) => {
                self.tell(state);
                Ok(Some(message))
            }
            None if state.senders == 0 => Err(RecvError),
            None => Ok(None),
        }
    }
}

pub(crate) struct Sender<T>(Arc<Queue<T>>);

pub(crate) struct Receiver<T>(Arc<Queue<T>>);

pub(crate) fn bounded<T>(capacity: usize) -> (Sender<T>, Receiver<T>) {
    assert!(capacity > 0, "a meeting of two threads is not modelled");
    let queue = Arc::new(Queue {
        state: Mutex::new(State {
            messages: VecDeque::new(),
            capacity,
            senders: 1,
            receivers: 1,
            waiting: Vec::new(),
        }),
        changed: Condvar::new(),
    });
    (Sender(Arc::clone(&queue)), Receiver(queue))
}

pub(crate) fn unbounded<T>() -> (Sender<T>, Receiver<T>) {
    bounded(usize::MAX)
}

impl<T> Sender<T> {
    pub(crate) fn send(&self, message: T) -> Result<(), SendError<T>> {
        let mut state = self.0.lock();
        while state.receivers > 0 && state.messages.len() >= state.capacity {
            state = self.0.wait(state);
        }
        if state.receivers == 0 {
            return Err(SendError(message));
        }
        state.messages.push_back(message);
        self.0.tell(state);
        Ok(())
    }

    pub(crate) fn try_send(&self, message: T) -> Result<(), TrySendError<T>> {
        let mut state = self.0.lock();
        if state.receivers == 0 {
            return Err(TrySendError::Disconnected(message));
        }
        if state.messages.len() >= state.capacity {
            return Err(TrySendError::Full(message));
        }
        state.messages.push_back(message);
        self.0.tell(state);
        Ok(())
    }
}

impl<T> Receiver<T> {
    pub(crate) fn recv(&self) -> Result<T, RecvError> {
        let mut state = self.0.lock();
        loop {
            if let Some(message) = state.messages.pop_front() {
                self.0.tell(state);
                return Ok(message);
            }
            if state.senders == 0 {
                return Err(RecvError);
            }
            state = self.0.wait(state);
        }
    }

    pub(crate) fn try_recv(&self) -> Result<T, RecvError> {
        self.0.next()?.ok_or(RecvError)
    }

    /// Time is no part of the model: whoever finds no message has waited long enough.
    pub(crate) fn recv_deadline(&self, _: Instant) -> Result<T, RecvTimeoutError> {
        shuttle::thread::yield_now();
        match self.0.next() {
            Ok(Some(message)) => Ok(message),
            Ok(None) => Err(RecvTimeoutError::Timeout),
            Err(RecvError) => Err(RecvTimeoutError::Disconnected),
        }
    }
}

/// As that of crossbeam-channel.
pub(crate) fn recv_either<A, B>(
    first: &Receiver<A>,
    second: &Receiver<B>,
) -> Result<Either<A, B>, RecvError> {
    let signal = Arc::new(Signal::default());
    first.0.lock().waiting.push(Arc::clone(&signal));
    second.0.lock().waiting.push(Arc::clone(&signal));
    let result = loop {
        match first.0.next() {
            Ok(Some(message)) => break Ok(Either::First(message)),
            Err(error) => break Err(error),
            Ok(None) => {}
        }
        match second.0.next() {
            Ok(Some(message)) => break Ok(Either::Second(message)),
            Err(error) => break Err(error),
            Ok(None) => signal.wait(),
        }
    };
    let is_other = |other: &Arc<Signal>| !Arc::ptr_eq(other, &signal);
    first.0.lock().waiting.retain(is_other);
    second.0.lock().waiting.retain(is_other);
    result
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.0.lock().senders += 1;
        Self(Arc::clone(&self.0))
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        self.0.lock().receivers += 1;
        Self(Arc::clone(&self.0))
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.senders -= 1;
        self.0.tell(state);
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.receivers -= 1;
        let lost = match state.receivers {
            0 if state.capacity == usize::MAX => std::mem::take(&mut state.messages),
            _ => VecDeque::new(),
        };
        self.0.tell(state);
        // Messages may hold senders of other queues: not under the lock.
        drop(lost);
    }
}

impl<T> std::fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sender").finish_non_exhaustive()
    }
}

impl<T> std::fmt::Debug for Receiver<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Receiver").finish_non_exhaustive()
    }
}

impl<T> Iterator for Messages<'_, T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        match self {
            Self::Owned(queue) => queue.recv().ok(),
            Self::Borrowed(queue) => queue.recv().ok(),
        }
    }
}

/// The messages of a queue, until it has no sender.
pub(crate) enum Messages<'q, T> {
    Owned(Receiver<T>),
    Borrowed(&'q Receiver<T>),
}

impl<T: 'static> IntoIterator for Receiver<T> {
    type Item = T;
    type IntoIter = Messages<'static, T>;

    fn into_iter(self) -> Self::IntoIter {
        Messages::Owned(self)
    }
}

impl<'q, T> IntoIterator for &'q Receiver<T> {
    type Item = T;
    type IntoIter = Messages<'q, T>;

    fn into_iter(self) -> Self::IntoIter {
        Messages::Borrowed(self)
    }
}
