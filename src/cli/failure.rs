//! Why the command ends without success, and with which exit code.

use std::io;
use std::path::Path;

use serde_json::{Value, json};
use tensorshard::{Error, ErrorKind};

/// The reason for an exit code other than 0.
#[derive(Debug)]
pub(crate) enum Failure {
    /// An error of the library.
    Library(Error),
    /// The command line asks for something that cannot be done.
    Usage(String),
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
        Self::Library(Error::io(op, path.as_ref(), source))
    }

    /// The line for stderr, if there is something to say.
    pub(crate) fn message(&self) -> Option<String> {
        let text = match self {
            Self::Library(error) => error.to_string(),
            Self::Usage(message) => message.clone(),
            Self::Reported(_) | Self::BrokenPipe => return None,
            Self::Interrupted => "interrupted; what was not complete was removed".to_owned(),
            Self::Bug(message) => {
                format!("internal error: {message}; this is a bug, please report it")
            }
        };
        // Paths may hold line breaks; the message is one line.
        Some(text.replace(['\n', '\r'], " "))
    }

    /// The object `{"error": ...}` for standard output, if there is something to say.
    pub(crate) fn as_json(&self) -> Option<Value> {
        let message = self.message()?;
        let kind = match self {
            Self::Library(error) => return Some(json!({ "error": error_json(error) })),
            Self::Usage(_) => "usage",
            Self::Interrupted => "interrupted",
            Self::Reported(_) | Self::BrokenPipe | Self::Bug(_) => "bug",
        };
        let exit_code = self.exit_code();
        Some(json!({ "error": { "kind": kind, "exit_code": exit_code, "message": message } }))
    }

    /// The exit code for a program that called a verb, or its error.
    pub(crate) fn into_code(self) -> Result<u8, Error> {
        match self {
            Self::Library(error) => Err(error),
            Self::Usage(message) => Err(Error::invalid(message)),
            Self::Bug(message) => Err(Error::panicked("the command", &message)),
            Self::Reported(_) | Self::BrokenPipe | Self::Interrupted => Ok(self.exit_code()),
        }
    }

    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Library(error) => error.exit_code(),
            Self::Usage(_) => 2,
            Self::Bug(_) => 3,
            Self::Reported(code) => *code,
            // 128 + SIGINT, as shells have it.
            Self::Interrupted => 130,
            Self::BrokenPipe => 0,
        }
    }
}

/// An error as JSON: its kind, where it is as far as known, and the message.
pub(crate) fn error_json(error: &Error) -> Value {
    let location = error.location();
    let path = location.path.as_ref().map(|path| path.to_string_lossy());
    json!({
        "kind": kind_name(error.kind()),
        "exit_code": error.exit_code(),
        "path": path,
        "shard": location.shard,
        "chunk": location.chunk,
        "field": location.field,
        "offset": location.offset,
        "message": error.to_string(),
    })
}

fn kind_name(kind: &ErrorKind) -> &'static str {
    match kind {
        ErrorKind::Io { .. } => "io",
        ErrorKind::Corrupt { .. } => "corrupt",
        ErrorKind::LimitExceeded { .. } => "limit_exceeded",
        ErrorKind::Unsupported { .. } => "unsupported",
        ErrorKind::InvalidArgument { .. } => "invalid_argument",
        ErrorKind::Unrepresentable { .. } => "unrepresentable",
        ErrorKind::WorkerPanicked { .. } => "worker_panicked",
        ErrorKind::MapFailed { .. } => "map_failed",
        ErrorKind::StateMismatch { .. } => "state_mismatch",
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
