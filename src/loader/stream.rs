//! [`BatchStream`]: the same epoch for asynchronous code.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures::Stream;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use crate::dataset::Batch;
use crate::error::{Error, Result};

use super::Batches;

/// One epoch as a [`futures::Stream`]. See [`crate::Loader::stream`].
///
/// A task on tokio's blocking pool waits for the workers, so polling never blocks. Dropping the stream ends the task
/// and the workers.
#[derive(Debug)]
pub struct BatchStream {
    batches: mpsc::Receiver<Result<Batch>>,
    left: (usize, Option<usize>),
}

impl BatchStream {
    pub(super) fn new(batches: Batches) -> Result<Self> {
        let runtime = Handle::try_current().map_err(|e| {
            Error::invalid(format!(
                "a stream needs a tokio runtime ({e}); use `batches` without one"
            ))
        })?;
        let left = batches.size_hint();
        // The loader itself prefetches: one batch in the channel is enough to keep both sides going.
        let (sender, receiver) = mpsc::channel(1);
        drop(runtime.spawn_blocking(move || {
            for batch in batches {
                if sender.blocking_send(batch).is_err() {
                    return;
                }
            }
        }));
        Ok(Self {
            batches: receiver,
            left,
        })
    }
}

impl Stream for BatchStream {
    type Item = Result<Batch>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Poll::Ready(item) = self.batches.poll_recv(context) else {
            return Poll::Pending;
        };
        let left = self.left.1.unwrap_or(0);
        let item = match item {
            // The task ended without delivering everything: an error, never an early end.
            None if left > 0 => Some(Err(Error::panicked(
                "delivery",
                &"the delivering task is gone",
            ))),
            item => item,
        };
        let left = if matches!(item, Some(Ok(_))) {
            left.saturating_sub(1)
        } else {
            0
        };
        self.left = (left.min(1), Some(left));
        Poll::Ready(item)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.left
    }
}
