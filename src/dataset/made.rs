//! What `merge` and `salvage` have made so far: it is removed again unless it is committed.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::Result;
use crate::format::forever::MANIFEST_NAME;
use crate::storage::{FolderLock, create_folder, lock_folder, publish, remove_file};

/// A dataset that is being put together. Dropped before it is published, its files are removed, and the folders that
/// were made for it.
#[derive(Debug)]
pub(super) struct Made {
    folder: PathBuf,
    /// Folders that were not there before, the innermost first.
    folders: Vec<PathBuf>,
    files: Vec<PathBuf>,
    kept: bool,
    /// Keeps other writers out, until everything is removed.
    lock: Option<FolderLock>,
}

impl Made {
    /// Makes a folder if it is not there, and keeps other writers out of it.
    pub(super) fn new(folder: &Path) -> Result<Self> {
        let missing = folder
            .ancestors()
            .take_while(|folder| !folder.as_os_str().is_empty() && !folder.exists());
        let mut made = Self {
            folder: folder.to_owned(),
            folders: missing.map(Path::to_owned).collect(),
            files: Vec::new(),
            kept: false,
            lock: None,
        };
        create_folder(folder)?;
        made.lock = lock_folder(folder)?;
        Ok(made)
    }

    /// The place of a new file with this name.
    pub(super) fn file(&mut self, name: &str) -> PathBuf {
        let path = self.folder.join(name);
        self.files.push(path.clone());
        path
    }

    /// Puts the manifest in place: what was made stays.
    pub(super) fn publish(mut self, manifest: &[u8]) -> Result<()> {
        let path = self.folder.join(MANIFEST_NAME);
        let published = publish(&path, manifest);
        // After a sync that failed the disk may have the manifest, and what it lists must be there.
        self.kept = published.is_ok() || path.exists();
        published
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        // What cannot be removed is listed by no manifest.
        for file in &self.files {
            remove_file(file).ok();
        }
        for folder in &self.folders {
            fs::remove_dir(folder).ok();
        }
    }
}
