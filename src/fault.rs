//! Failures that unit tests ask for, by the name of a dataset's folder. Nothing fails outside of unit tests.

use std::path::Path;

#[cfg(test)]
use crate::error::Error;
use crate::error::Result;

/// A file of the folder has its final name: fails for the manifest in a folder `fails-after-rename`.
///
/// # Errors
/// Only in unit tests.
pub(crate) fn after_rename(folder: &Path, file: &Path) -> Result<()> {
    #[cfg(test)]
    if folder.ends_with("fails-after-rename") && file.ends_with("manifest.tsm") {
        let error = std::io::Error::other("the test asked for it");
        return Err(Error::io("sync", folder, error));
    }
    let _ = (folder, file);
    Ok(())
}

/// The `n`-th time that something reaches `stage`: panics in a folder `panics-in-STAGE-N`, fails in `fails-in-STAGE-N`.
///
/// # Errors
/// Only in unit tests.
pub(crate) fn at(folder: &Path, stage: &str, n: u64) -> Result<()> {
    #[cfg(test)]
    {
        let name = folder.file_name().unwrap_or_default().to_string_lossy();
        if name == format!("panics-in-{stage}-{n}") {
            panic!("the test asked for it");
        }
        if name == format!("fails-in-{stage}-{n}") {
            let error = std::io::Error::other("the test asked for it");
            return Err(Error::io("go on", folder, error));
        }
    }
    let _ = (folder, stage, n);
    Ok(())
}
