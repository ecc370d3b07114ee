//! Holes of sparse files: parts that were never written, and read as zeros.

use std::fs::File;

/// Where the next data of `file` are, from `offset` on: the largest number if only a hole follows. `None` where the
/// system or the file system cannot tell.
#[cfg(target_os = "linux")]
pub(super) fn next_data(file: &File, offset: u64) -> Option<u64> {
    use std::os::fd::AsRawFd;
    let start = libc::off64_t::try_from(offset).ok()?;
    #[expect(unsafe_code, reason = "system calls")]
    // SAFETY: `lseek64` takes numbers, and the descriptor is open as long as `file` is. It moves the position of the
    // file, which positional reads do not use.
    let found = unsafe { libc::lseek64(file.as_raw_fd(), start, libc::SEEK_DATA) };
    if let Ok(found) = u64::try_from(found) {
        return Some(found);
    }
    let error = std::io::Error::last_os_error();
    (error.raw_os_error() == Some(libc::ENXIO)).then_some(u64::MAX)
}

#[cfg(not(target_os = "linux"))]
pub(super) fn next_data(_: &File, _: u64) -> Option<u64> {
    None
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::io::{Seek, SeekFrom, Write};

    use super::*;

    #[test]
    fn data_after_a_hole_are_found() {
        let mut file = tempfile::tempfile().unwrap();
        file.seek(SeekFrom::Start(1 << 30)).unwrap();
        file.write_all(b"data").unwrap();
        file.set_len(1 << 31).unwrap();
        // Some file systems have no holes, or do not tell.
        let found = next_data(&file, 0).unwrap_or(0);
        assert!(found <= 1 << 30, "{found}");
        let inside = next_data(&file, (1 << 30) + 1).unwrap_or((1 << 30) + 1);
        assert_eq!(inside, (1 << 30) + 1);
        let behind = next_data(&file, (1 << 30) + (1 << 29));
        assert!(behind.is_none_or(|at| at == u64::MAX || at < 1 << 31));
    }
}
