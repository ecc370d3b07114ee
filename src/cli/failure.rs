//! Why the command ends without success, and with which exit code.

use std::io;
use std::path::{Path, PathBuf};

use tensorshard::Error;

/// The reason for an exit code other than 0.
#[derive(Debug)]
pub(crate) enum Failure {
    /// An error of the library.
    Library(Error),
    /// The command line asks for something that cannot be done.
    Usage(String),
    /// The operating system refused an operation.
    Io {
        op: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    /// The report on stdout says what is wrong; this is the exit code.
    Reported(u8),
    /// Nobody reads stdout any more: not an error.
    BrokenPipe,
    /// The user does not want to wait any longer.
    Interrupted,
    /// A panic.
    Bug(String),
}

impl Failure {
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::Usage(message.into())
    }

    pub(crate) fn io(op: &'static str, path: impl AsRef<Path>, source: io::Error) -> Self {
        let path = path.as_ref().to_owned();
        Self::Io { op, path, source }
    }

    /// The line for stderr, if there is something to say.
    pub(crate) fn message(&self) -> Option<String> {
        let text = match self {
            Self::Library(error) => error.to_string(),
            Self::Usage(message) => message.clone(),
            Self::Io { op, path, source } => format!("cannot {op} {}: {source}", path.display()),
            Self::Reported(_) | Self::BrokenPipe => return None,
            Self::Interrupted => "interrupted; what was not complete was removed".to_owned(),
            Self::Bug(message) => {
                format!("internal error: {message}; this is a bug, please report it")
            }
        };
        // Paths may hold line breaks; the message is one line.
        Some(text.replace(['\n', '\r'], " "))
    }

    /// The exit code for a program that called a verb, or its error.
    pub(crate) fn into_code(self) -> Result<u8, Error> {
        match self {
            Self::Library(error) => Err(error),
            Self::Usage(message) => Err(Error::invalid(message)),
            Self::Io { op, path, source } => Err(Error::io(op, path, source)),
            Self::Bug(message) => Err(Error::panicked("the command", &message)),
            Self::Reported(_) | Self::BrokenPipe | Self::Interrupted => Ok(self.exit_code()),
        }
    }

    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Library(error) => error.exit_code(),
            Self::Usage(_) => 2,
            Self::Io { .. } | Self::Bug(_) => 3,
            Self::Reported(code) => *code,
            // 128 + SIGINT, as shells have it.
            Self::Interrupted => 130,
            Self::BrokenPipe => 0,
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Library(error)
    }
}

/// Errors of writing to stdout; files are handled by [`Failure::io`].
impl From<io::Error> for Failure {
    fn from(source: io::Error) -> Self {
        if source.kind() == io::ErrorKind::BrokenPipe {
            Self::BrokenPipe
        } else {
            Self::io("write to", "standard output", source)
        }
    }
}
