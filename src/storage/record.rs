//! What tests see of writing: every operation, in order, so that they can rebuild what a power loss would leave.
//! Nothing is recorded outside of unit tests.

#[cfg(test)]
pub(crate) use recording::{Operation, Recording};

use std::io::IoSlice;
use std::path::Path;

/// A file or folder has a name.
pub(super) fn create(path: &Path) {
    #[cfg(test)]
    recording::add(path, |path| Operation::Create { path });
    let _ = path;
}

/// Bytes are appended to a file.
pub(super) fn write(path: &Path, parts: &[IoSlice<'_>]) {
    #[cfg(test)]
    recording::add(path, |path| Operation::Write {
        path,
        bytes: parts.iter().flat_map(|part| part.to_vec()).collect(),
    });
    let _ = (path, parts);
}

/// What was recorded when a sync begins: only that is on the disk when it ends.
pub(super) fn sync_begins(path: &Path) -> usize {
    #[cfg(test)]
    return recording::len(path);
    #[cfg(not(test))]
    {
        let _ = path;
        0
    }
}

/// A file was put on the disk, with what was written to it before operation `before`.
pub(super) fn synced(path: &Path, before: usize) {
    #[cfg(test)]
    recording::add(path, |path| Operation::Sync { path, before });
    let _ = (path, before);
}

/// A file has another name.
pub(super) fn rename(path: &Path, to: &Path) {
    #[cfg(test)]
    recording::add(path, |path| Operation::Rename {
        path,
        to: to.to_owned(),
    });
    let _ = (path, to);
}

/// A file is gone.
pub(super) fn remove(path: &Path) {
    #[cfg(test)]
    recording::add(path, |path| Operation::Remove { path });
    let _ = path;
}

/// The names in a folder were put on the disk.
pub(super) fn sync_folder(path: &Path) {
    #[cfg(test)]
    recording::add(path, |path| Operation::SyncFolder { path });
    let _ = path;
}

#[cfg(test)]
mod recording {
    use std::path::{Path, PathBuf};
    use std::sync::{Arc, Mutex};

    /// One operation of a writer.
    #[derive(Clone, Debug)]
    pub(crate) enum Operation {
        Create {
            path: PathBuf,
        },
        Write {
            path: PathBuf,
            bytes: Vec<u8>,
        },
        Sync {
            path: PathBuf,
            before: usize,
        },
        Rename {
            path: PathBuf,
            to: PathBuf,
        },
        Remove {
            path: PathBuf,
        },
        SyncFolder {
            path: PathBuf,
        },
        /// The test says that something is promised from here on.
        Promise {
            samples: u64,
        },
    }

    type Log = Arc<Mutex<Vec<Operation>>>;

    static LOGS: Mutex<Vec<(PathBuf, Log)>> = Mutex::new(Vec::new());

    /// Records what happens below a folder, until it is dropped.
    #[derive(Debug)]
    pub(crate) struct Recording {
        folder: PathBuf,
        log: Log,
    }

    impl Recording {
        pub(crate) fn start(folder: &Path) -> Self {
            let log = Log::default();
            LOGS.lock()
                .unwrap()
                .push((folder.to_owned(), Arc::clone(&log)));
            Self {
                folder: folder.to_owned(),
                log,
            }
        }

        pub(crate) fn promise(&self, samples: u64) {
            self.log
                .lock()
                .unwrap()
                .push(Operation::Promise { samples });
        }

        pub(crate) fn operations(&self) -> Vec<Operation> {
            self.log.lock().unwrap().clone()
        }
    }

    impl Drop for Recording {
        fn drop(&mut self) {
            let mut logs = LOGS.lock().unwrap();
            logs.retain(|(folder, _)| *folder != self.folder);
        }
    }

    fn log(path: &Path) -> Option<Log> {
        let logs = LOGS.lock().unwrap();
        let found = logs.iter().find(|(folder, _)| path.starts_with(folder));
        found.map(|(_, log)| Arc::clone(log))
    }

    pub(super) fn add(path: &Path, operation: impl FnOnce(PathBuf) -> Operation) {
        if let Some(log) = log(path) {
            log.lock().unwrap().push(operation(path.to_owned()));
        }
    }

    pub(super) fn len(path: &Path) -> usize {
        log(path).map_or(0, |log| log.lock().unwrap().len())
    }
}
