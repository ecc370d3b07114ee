//! One error type: what went wrong ([`ErrorKind`]), where ([`Location`]), and what to do next.

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// What is wrong with a file that is of another kind.
pub(crate) const MAGIC_OF_SHARD: &str = "magic of the shard";
pub(crate) const MAGIC_OF_MANIFEST: &str = "magic of the manifest";
pub(crate) const MAGIC_OF_NPY: &str = "magic of the .npy file";
/// What is wrong with a shard that does not end as it should.
pub(crate) const MAGIC_OF_FOOTER: &str = "magic of the footer";

/// The result of every fallible call of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Anything that can go wrong. One pointer wide; see [`Error::kind`] and [`Error::location`].
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    location: Location,
    origin: Origin,
}

/// Whose bytes are wrong: it decides what to do about them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    /// A dataset's.
    Dataset,
    /// An array's that is to be imported.
    Array,
    /// A saved [`crate::Bitmap`]'s.
    Bitmap,
}

/// What went wrong.
#[derive(Debug)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The operating system refused an operation.
    Io {
        /// What was attempted, as a verb: "open", "read", "rename".
        op: &'static str,
        /// The system's error.
        source: io::Error,
    },
    /// Bytes that contradict the format: the file is damaged, or not what it claims to be.
    Corrupt {
        /// The structure or number that is wrong, in the words of format-spec.md.
        what: Cow<'static, str>,
        /// What the format demands here.
        expected: String,
        /// What the file holds.
        found: String,
    },
    /// A number above a limit of format-spec.md section 12, or above a limit the caller set.
    LimitExceeded {
        /// The limited quantity.
        what: Cow<'static, str>,
        /// The largest allowed value.
        limit: u64,
        /// The value found.
        found: u64,
    },
    /// The file is well formed, but this build cannot read it (or this option is not available).
    Unsupported {
        /// The feature, id or version that is not known.
        what: String,
        /// What to do about it.
        hint: Cow<'static, str>,
    },
    /// The caller asked for something that cannot be done.
    InvalidArgument {
        /// What is wrong and what would be right.
        message: String,
    },
    /// An element that the chosen quantizer cannot represent, under the policy `error`.
    Unrepresentable {
        /// The element's value.
        value: f64,
        /// Index of the sample in the data being written.
        sample: u64,
        /// Why it cannot be represented.
        reason: Cow<'static, str>,
    },
    /// A worker thread panicked; this is a bug in this crate (or in a function given to it).
    WorkerPanicked {
        /// What the worker was doing.
        stage: &'static str,
        /// The panic message.
        message: String,
    },
    /// A function given to [`crate::Batches::map_ordered`] returned an error, or panicked.
    MapFailed {
        /// The epoch.
        epoch: u64,
        /// The batch of the epoch, as [`crate::Batch::index`].
        step: u64,
        /// What it returned, or the message of its panic.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The state of a loader that is of another dataset, or of other options.
    StateMismatch {
        /// What differs.
        what: Cow<'static, str>,
        /// In the state.
        state: String,
        /// In the loader.
        loader: String,
    },
}

/// Where it went wrong, as far as known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Location {
    /// The file.
    pub path: Option<PathBuf>,
    /// The shard's 32 hexadecimal digits.
    pub shard: Option<String>,
    /// Ordinal of the chunk in its shard.
    pub chunk: Option<u64>,
    /// The field's name.
    pub field: Option<String>,
    /// Byte offset in the file.
    pub offset: Option<u64>,
}

impl Error {
    fn new(kind: ErrorKind) -> Self {
        Self(Box::new(Inner {
            kind,
            location: Location::default(),
            origin: Origin::Dataset,
        }))
    }

    pub(crate) fn io(op: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Self {
        Self::new(ErrorKind::Io { op, source }).in_file(path)
    }

    pub(crate) fn corrupt(
        what: impl Into<Cow<'static, str>>,
        expected: impl fmt::Display,
        found: impl fmt::Display,
    ) -> Self {
        Self::new(ErrorKind::Corrupt {
            what: what.into(),
            expected: expected.to_string(),
            found: found.to_string(),
        })
    }

    pub(crate) fn limit(what: impl Into<Cow<'static, str>>, limit: u64, found: u64) -> Self {
        Self::new(ErrorKind::LimitExceeded {
            what: what.into(),
            limit,
            found,
        })
    }

    pub(crate) fn unsupported(what: impl Into<String>, hint: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Unsupported {
            what: what.into(),
            hint: hint.into(),
        })
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidArgument {
            message: message.into(),
        })
    }

    pub(crate) fn state_mismatch(
        what: impl Into<String>,
        state: impl fmt::Display,
        loader: impl fmt::Display,
    ) -> Self {
        Self::new(ErrorKind::StateMismatch {
            what: Cow::Owned(what.into()),
            state: state.to_string(),
            loader: loader.to_string(),
        })
    }

    pub(crate) fn unrepresentable(
        value: f64,
        sample: u64,
        reason: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self::new(ErrorKind::Unrepresentable {
            value,
            sample,
            reason: reason.into(),
        })
    }

    pub(crate) fn map_failed(
        epoch: u64,
        step: u64,
        source: Box<dyn std::error::Error + Send + Sync>,
    ) -> Self {
        Self::new(ErrorKind::MapFailed {
            epoch,
            step,
            source,
        })
    }

    pub(crate) fn panicked(stage: &'static str, payload: &(dyn std::any::Any + Send)) -> Self {
        let message = panic_message(payload);
        Self::new(ErrorKind::WorkerPanicked { stage, message })
    }

    /// Names the file, unless one is named already.
    pub(crate) fn in_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.0.location.path.get_or_insert_with(|| path.into());
        self
    }

    pub(crate) fn in_shard(mut self, shard: impl fmt::Display) -> Self {
        self.0
            .location
            .shard
            .get_or_insert_with(|| shard.to_string());
        self
    }

    pub(crate) fn in_chunk(mut self, chunk: u64) -> Self {
        self.0.location.chunk.get_or_insert(chunk);
        self
    }

    pub(crate) fn in_field(mut self, field: impl Into<String>) -> Self {
        self.0.location.field.get_or_insert_with(|| field.into());
        self
    }

    pub(crate) fn at_offset(mut self, offset: u64) -> Self {
        self.0.location.offset.get_or_insert(offset);
        self
    }

    /// Turns the offset in a structure, or none, to one in the file where the structure starts at `start`.
    pub(crate) fn within(mut self, start: u64) -> Self {
        let offset = self.0.location.offset.unwrap_or(0);
        self.0.location.offset = Some(start.saturating_add(offset));
        self
    }

    /// The bytes are those of an array that is to be imported, not a dataset's.
    pub(crate) fn of_array(mut self) -> Self {
        self.0.origin = Origin::Array;
        self
    }

    /// The bytes are those of a saved [`crate::Bitmap`].
    pub(crate) fn of_bitmap(mut self) -> Self {
        self.0.origin = Origin::Bitmap;
        self
    }

    /// What to do about wrong bytes.
    fn next_step(&self) -> &'static str {
        let what = match &self.0.kind {
            ErrorKind::Corrupt { what, .. } => what.as_ref(),
            _ => "",
        };
        match (self.0.origin, what) {
            (Origin::Array, MAGIC_OF_NPY) => {
                "this is no .npy file, or it is damaged: check the path, or write the array again with numpy.save"
            }
            (Origin::Array, _) => {
                "the file is damaged or not complete: compare it with its source, or write the array again"
            }
            (Origin::Bitmap, _) => "this is no saved bitmap, or it is damaged: make it again",
            (Origin::Dataset, MAGIC_OF_SHARD | MAGIC_OF_MANIFEST) => {
                "this is no tensorshard file, or it is damaged: check the path, or recover what is intact with `tensorshard salvage DATASET OUT`"
            }
            (Origin::Dataset, MAGIC_OF_FOOTER) => {
                "the file is truncated, damaged or still being written: wait for its writer, restore it, or recover what is intact with `tensorshard salvage DATASET OUT`"
            }
            (Origin::Dataset, _) => {
                "the file is damaged: restore it, or see all damage with `tensorshard verify DATASET` and recover what is intact with `tensorshard salvage DATASET OUT`"
            }
        }
    }

    /// Shifts the sample index of an [`ErrorKind::Unrepresentable`], from an index in a block to one in the data.
    pub(crate) fn sample_offset(mut self, first: u64) -> Self {
        if let ErrorKind::Unrepresentable { sample, .. } = &mut self.0.kind {
            *sample = sample.saturating_add(first);
        }
        self
    }

    /// What went wrong.
    pub fn kind(&self) -> &ErrorKind {
        &self.0.kind
    }

    /// Where it went wrong, as far as known.
    pub fn location(&self) -> &Location {
        &self.0.location
    }

    /// The file concerned, if there is one.
    pub fn path(&self) -> Option<&Path> {
        self.0.location.path.as_deref()
    }

    /// True for damaged files: [`ErrorKind::Corrupt`] and [`ErrorKind::LimitExceeded`].
    pub fn is_corrupt(&self) -> bool {
        matches!(
            self.0.kind,
            ErrorKind::Corrupt { .. } | ErrorKind::LimitExceeded { .. }
        )
    }

    /// True for files that need a newer (or differently built) reader.
    pub fn is_unsupported(&self) -> bool {
        matches!(self.0.kind, ErrorKind::Unsupported { .. })
    }

    /// True for errors of the operating system.
    pub fn is_io(&self) -> bool {
        matches!(self.0.kind, ErrorKind::Io { .. })
    }

    /// The exit code of the `tensorshard` command for this error: 1 damaged, 2 usage, 3 I/O, 4 unsupported.
    pub fn exit_code(&self) -> u8 {
        match self.0.kind {
            ErrorKind::Corrupt { .. } | ErrorKind::LimitExceeded { .. } => 1,
            ErrorKind::InvalidArgument { .. }
            | ErrorKind::Unrepresentable { .. }
            | ErrorKind::MapFailed { .. }
            | ErrorKind::StateMismatch { .. } => 2,
            ErrorKind::Io { .. } | ErrorKind::WorkerPanicked { .. } => 3,
            ErrorKind::Unsupported { .. } => 4,
        }
    }
}

/// What to do about an error of the system. Errors that this crate words say it themselves.
fn io_hint(source: &io::Error) -> &'static str {
    if source.raw_os_error().is_none() {
        return "";
    }
    match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory => {
            "; check the path"
        }
        io::ErrorKind::PermissionDenied => "; check the permissions of the file and its folders",
        io::ErrorKind::ReadOnlyFilesystem => "; write elsewhere",
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "; make room, or write elsewhere"
        }
        _ => unnamed_hint(source),
    }
}

/// The same for errors that have no kind of a stable name.
#[cfg(unix)]
fn unnamed_hint(source: &io::Error) -> &'static str {
    match source.raw_os_error() {
        Some(libc::ELOOP) => "; check the path, a link leads back to itself",
        Some(libc::EMFILE | libc::ENFILE) => "; raise the limit of open files (`ulimit -n`)",
        Some(libc::EIO) => {
            "; the disk may be failing: read the system's log, and copy what can be read elsewhere"
        }
        _ => "",
    }
}

#[cfg(not(unix))]
fn unnamed_hint(_: &io::Error) -> &'static str {
    ""
}

/// What a panic said.
pub(crate) fn panic_message(payload: &(dyn std::any::Any + Send)) -> String {
    payload
        .downcast_ref::<&str>()
        .map(ToString::to_string)
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned())
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = " in ";
        if let Some(chunk) = self.chunk {
            write!(f, "{separator}chunk {chunk}")?;
            separator = " of ";
        }
        if let Some(path) = &self.path {
            write!(f, "{separator}{}", path.display())?;
        } else if let Some(shard) = &self.shard {
            write!(f, "{separator}shard {shard}")?;
        }
        match (&self.field, self.offset) {
            (Some(field), Some(offset)) => write!(f, " (field {field:?}, offset {offset})"),
            (Some(field), None) => write!(f, " (field {field:?})"),
            (None, Some(offset)) => write!(f, " (offset {offset})"),
            (None, None) => Ok(()),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let location = &self.0.location;
        match &self.0.kind {
            ErrorKind::Io { op, source } => match (&location.path, location.chunk) {
                (Some(path), None) => {
                    write!(
                        f,
                        "cannot {op} {}: {source}{}",
                        path.display(),
                        io_hint(source)
                    )
                }
                _ => write!(f, "cannot {op}{location}: {source}{}", io_hint(source)),
            },
            ErrorKind::Corrupt {
                what,
                expected,
                found,
            } => write!(
                f,
                "wrong {what}{location}: expected {expected}, found {found}; {}",
                self.next_step()
            ),
            ErrorKind::LimitExceeded { what, limit, found } => {
                write!(
                    f,
                    "{what} too large{location}: {found} is above the limit of {limit}"
                )?;
                // Limits are met by writers as well, which have damaged nothing.
                match location.path {
                    Some(_) => write!(f, "; {}", self.next_step()),
                    None => Ok(()),
                }
            }
            ErrorKind::Unsupported { what, hint } => {
                write!(f, "unsupported {what}{location}: {hint}")
            }
            ErrorKind::InvalidArgument { message } => match (&location.path, &location.field) {
                (Some(path), None) => write!(f, "{}: {message}", path.display()),
                _ => write!(f, "{message}{location}"),
            },
            ErrorKind::Unrepresentable {
                value,
                sample,
                reason,
            } => write!(
                f,
                "value {value} of sample {sample} cannot be stored{location}: {reason}; choose another quantizer, or the non-finite policy {}",
                // There is no nearest value to NaN.
                if value.is_nan() {
                    "`patch`"
                } else {
                    "`saturate` or `patch`"
                }
            ),
            ErrorKind::StateMismatch {
                what,
                state,
                loader,
            } => write!(
                f,
                "the state is of another epoch than this loader's{location}: {what} is {state} in the state and {loader} here; open the same dataset with the same order options"
            ),
            ErrorKind::MapFailed {
                epoch,
                step,
                source,
            } => write!(
                f,
                "the function of map_ordered failed at step {step} of epoch {epoch}: {source}; mend it, or go on behind the step with `seek`"
            ),
            ErrorKind::WorkerPanicked { stage, message } => {
                write!(
                    f,
                    "a worker panicked during {stage}{location}: {message}; this is a bug, please report it"
                )
            }
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("kind", &self.0.kind)
            .field("location", &self.0.location)
            .finish()
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.0.kind {
            ErrorKind::Io { source, .. } => Some(source),
            ErrorKind::MapFailed { source, .. } => Some(source.as_ref()),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_names_place_both_sides_and_next_step() {
        let error = Error::corrupt("checksum", "1f3a", "77c0")
            .in_field("latent")
            .in_chunk(12)
            .at_offset(81920);
        let error = error.in_file("train.tshard").in_file("ignored");
        assert_eq!(
            error.to_string(),
            "wrong checksum in chunk 12 of train.tshard (field \"latent\", offset 81920): expected 1f3a, found 77c0; \
             the file is damaged: restore it, or see all damage with `tensorshard verify DATASET` and recover what is \
             intact with `tensorshard salvage DATASET OUT`"
        );
        assert!(error.is_corrupt());
        assert_eq!(error.exit_code(), 1);
    }

    #[test]
    fn next_step_fits_what_the_file_is() {
        let step = |what: &'static str| Error::corrupt(what, 1, 2).in_file("x");
        let text = step("checksum of a piece").to_string();
        assert!(text.contains("tensorshard verify DATASET"), "{text}");
        assert!(text.contains("tensorshard salvage DATASET OUT"), "{text}");
        let text = step(MAGIC_OF_FOOTER).to_string();
        assert!(text.contains("tensorshard salvage DATASET OUT"), "{text}");
        assert!(step(MAGIC_OF_SHARD).to_string().contains("check the path"));
        for what in [MAGIC_OF_NPY, "length of the array"] {
            let text = step(what).of_array().to_string();
            assert!(!text.contains("tensorshard"), "{text}");
            assert!(text.contains("write the array again"), "{text}");
        }
        let limit = Error::limit("file", 1, 2);
        assert!(!limit.to_string().contains("damaged"));
        assert!(
            limit
                .in_file("x")
                .to_string()
                .contains("tensorshard salvage")
        );
    }

    #[test]
    fn offsets_in_a_structure_become_offsets_in_the_file() {
        let wrong = || Error::corrupt("reserved bytes", 0, 1);
        assert_eq!(wrong().within(400).location().offset, Some(400));
        let nested = wrong().at_offset(8).within(64).within(400);
        assert_eq!(nested.location().offset, Some(472));
    }

    #[test]
    fn io_messages_name_the_file_plainly() {
        let missing = io::Error::from(io::ErrorKind::NotFound);
        let error = Error::io("open", "a/b.npy", missing);
        assert!(
            error.to_string().starts_with("cannot open a/b.npy: "),
            "{error}"
        );
        assert_eq!(error.exit_code(), 3);
    }

    #[test]
    fn error_is_one_pointer_wide() {
        assert_eq!(size_of::<Error>(), size_of::<usize>());
    }
}
