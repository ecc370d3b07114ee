//! Where results go: to standard output, or to the program that called a verb.

use std::cell::RefCell;
use std::io::{self, StdoutLock, Write};

thread_local! {
    /// What the verb on this thread has said so far, where a program called it.
    static CALLED: RefCell<Option<Vec<u8>>> = const { RefCell::new(None) };
}

/// Standard output, or what stands in for it.
pub(crate) enum Output {
    Stdout(StdoutLock<'static>),
    Called,
}

/// Where results go.
pub(crate) fn stdout() -> Output {
    if is_called() {
        Output::Called
    } else {
        Output::Stdout(io::stdout().lock())
    }
}

/// True if a program called the verb on this thread.
pub(crate) fn is_called() -> bool {
    CALLED.with_borrow(Option::is_some)
}

/// What `verb` returns and what it says, all on this thread.
pub(crate) fn capture<T>(verb: impl FnOnce() -> T) -> (T, Vec<u8>) {
    CALLED.set(Some(Vec::new()));
    let result = verb();
    (result, CALLED.take().unwrap_or_default())
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Stdout(stdout) => stdout.write(bytes),
            Self::Called => {
                CALLED.with_borrow_mut(|called| {
                    if let Some(said) = called {
                        said.extend_from_slice(bytes);
                    }
                });
                Ok(bytes.len())
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Stdout(stdout) => stdout.flush(),
            Self::Called => Ok(()),
        }
    }
}
