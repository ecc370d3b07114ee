//! Ctrl-C: verbs that write stop at the next block, and clean up.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::failure::Failure;
use super::output;

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

thread_local! {
    /// Set by the program that called the verb on this thread when it shall stop.
    static CANCELLED: RefCell<Option<Arc<AtomicBool>>> = const { RefCell::new(None) };
}

/// From now on an interrupt makes [`check`] fail; a second one ends the program at once. A program that called the verb
/// keeps its own handler.
pub(crate) fn catch() {
    if output::is_called() {
        return;
    }
    // Without a handler an interrupt ends the program at once, and temporary files stay behind.
    ctrlc::set_handler(|| {
        if INTERRUPTED.swap(true, Ordering::Relaxed) {
            end();
        }
    })
    .ok();
}

#[expect(
    clippy::exit,
    reason = "the user asked twice, and some thread may be stuck in the system"
)]
fn end() {
    std::process::exit(i32::from(Failure::Interrupted.exit_code()));
}

/// Runs `verb` so that [`check`] fails when `cancelled` is set.
pub(crate) fn cancellable<T>(cancelled: &Arc<AtomicBool>, verb: impl FnOnce() -> T) -> T {
    CANCELLED.set(Some(Arc::clone(cancelled)));
    let result = verb();
    CANCELLED.set(None);
    result
}

/// # Errors
/// `Interrupted` if the program was interrupted.
pub(crate) fn check() -> Result<(), Failure> {
    let cancelled = CANCELLED.with_borrow(|cancelled| {
        cancelled
            .as_ref()
            .is_some_and(|cancelled| cancelled.load(Ordering::Relaxed))
    });
    if cancelled || INTERRUPTED.load(Ordering::Relaxed) {
        Err(Failure::Interrupted)
    } else {
        Ok(())
    }
}
