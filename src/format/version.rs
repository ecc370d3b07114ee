//! Version and feature bits (format-spec 11).

use crate::error::{Error, Result};

use super::wire::{Cursor, Put};

/// The version that this crate writes.
pub(crate) const MAJOR: u16 = 1;
/// Feature bits that a reader must know; none exist yet.
const KNOWN_INCOMPAT: u32 = 0;

/// Reads `version_major` and `version_minor`, refusing an unknown major version. Returns the minor version.
pub(crate) fn read_version(cursor: &mut Cursor<'_>) -> Result<u16> {
    let (major, minor) = (cursor.u16()?, cursor.u16()?);
    if major != MAJOR {
        return Err(Error::unsupported(
            format!("format version {major}.{minor}"),
            format!(
                "this build reads version {MAJOR}; use a tensorshard release that reads version {major}, or, if there is \
                 none, take the file for damaged and recover what is intact with `tensorshard salvage DATASET OUT`"
            ),
        ));
    }
    Ok(minor)
}

/// Reads the `incompat` and `compat` bits, refusing unknown `incompat` bits. Returns the `compat` bits.
pub(crate) fn read_features(cursor: &mut Cursor<'_>) -> Result<u32> {
    let (incompat, compat) = (cursor.u32()?, cursor.u32()?);
    if incompat & !KNOWN_INCOMPAT != 0 {
        return Err(Error::unsupported(
            format!("format feature bits {incompat:#x}"),
            "the file needs features that this build does not know; use a newer tensorshard release",
        ));
    }
    Ok(compat)
}

/// Writes the version; `minor` is [`Schema::version_minor`](super::schema::Schema::version_minor): a file is as old as
/// what it uses.
pub(crate) fn put_version(minor: u16, out: &mut Vec<u8>) {
    out.put_u16(MAJOR);
    out.put_u16(minor);
}

pub(crate) fn put_features(compat: u32, out: &mut Vec<u8>) {
    out.put_u32(KNOWN_INCOMPAT);
    out.put_u32(compat);
}
