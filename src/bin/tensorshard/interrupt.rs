//! Ctrl-C: verbs that write stop at the next block, and clean up.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::failure::Failure;

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// From now on an interrupt makes [`check`] fail; a second one ends the program at once.
pub(crate) fn catch() {
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

/// # Errors
/// `Interrupted` if the program was interrupted.
pub(crate) fn check() -> Result<(), Failure> {
    if INTERRUPTED.load(Ordering::Relaxed) {
        Err(Failure::Interrupted)
    } else {
        Ok(())
    }
}
