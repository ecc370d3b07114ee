//! Parts of mapped files that will be read soon: the disk brings them while others are decoded.

use std::ops::Range;

/// Asks the system to bring `range` of `map` into memory, if it is not there already as far as its first page tells. A
/// hint: where it is refused, or the system has no such call, the pages come when they are touched.
#[cfg(target_os = "linux")]
pub(super) fn will_read(map: &memmap2::Mmap, range: Range<usize>) {
    if !range.is_empty() && range.end <= map.len() && is_absent(map, range.start) {
        map.advise_range(memmap2::Advice::WillNeed, range.start, range.len())
            .ok();
    }
}

#[cfg(not(target_os = "linux"))]
pub(super) fn will_read(_: &memmap2::Mmap, _: Range<usize>) {}

/// True if the page with this offset is not in memory. Asking costs far less than a hint that is not needed.
#[cfg(target_os = "linux")]
fn is_absent(map: &memmap2::Mmap, offset: usize) -> bool {
    use std::sync::OnceLock;
    static PAGE: OnceLock<usize> = OnceLock::new();
    let page = *PAGE.get_or_init(|| {
        #[expect(unsafe_code, reason = "system calls")]
        // SAFETY: `sysconf` takes a number.
        let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        usize::try_from(page).unwrap_or(4096).max(1)
    });
    let Some(byte) = map.get(offset - offset % page..) else {
        return false;
    };
    let mut state = 0u8;
    #[expect(unsafe_code, reason = "system calls")]
    // SAFETY: the address is that of a page of a live map, which starts at a page; the answer for one byte is one byte,
    // which `state` has room for. Nothing is read from the page.
    let result = unsafe { libc::mincore(byte.as_ptr().cast_mut().cast(), 1, &raw mut state) };
    result == 0 && state & 1 == 0
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::fs::File;
    use std::io::Write;

    use super::*;

    #[test]
    fn what_is_absent_is_asked_for_and_any_range_will_do() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        let mut file = File::create(&path).unwrap();
        file.write_all(&vec![3; 1 << 20]).unwrap();
        file.sync_all().unwrap();
        #[expect(unsafe_code, reason = "a map of a file of our own")]
        // SAFETY: nobody else knows the file.
        let map = unsafe { memmap2::Mmap::map(&File::open(&path).unwrap()) }.unwrap();
        for (from, to) in [
            (0, 1 << 20),
            (5, 5),
            (4097, 9000),
            (1 << 20, 1 << 20),
            (7, (1 << 20) + 1),
        ] {
            will_read(&map, from..to);
        }
        // What was touched is there.
        assert_eq!(map[700_000], 3);
        assert!(!is_absent(&map, 700_000));
    }
}
