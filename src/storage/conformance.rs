//! What every storage must do, checked over all of them.

use std::fs;
use std::path::Path;

use super::{FileStorage, MemoryStorage, MmapStorage, Storage};
use crate::error::Result;

/// The storages over the same bytes.
fn all(path: &Path, bytes: &[u8]) -> Result<Vec<Box<dyn Storage>>> {
    Ok(vec![
        Box::new(FileStorage::open(path)?),
        Box::new(MmapStorage::open(path)?),
        Box::new(MemoryStorage::new(path, bytes.to_vec().into())),
    ])
}

#[test]
fn storages_read_exactly_what_is_there() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x");
    for len in [0usize, 1, 100, 70_000] {
        let bytes: Vec<u8> = (0..=250u8).cycle().take(len).collect();
        fs::write(&path, &bytes).unwrap();
        for storage in all(&path, &bytes)? {
            assert_eq!(
                (storage.len(), storage.path()),
                (len as u64, path.as_path())
            );
            let mut scratch = vec![0xEE; 7];
            for (start, end) in [(0, len), (0, 0), (len, len), (len / 3, len / 2)] {
                let range = start as u64..end as u64;
                assert_eq!(
                    storage.read(range.clone(), &mut scratch)?,
                    &bytes[start..end]
                );
                if let Some(in_place) = storage.in_place(range.clone())? {
                    assert_eq!(in_place, &bytes[start..end]);
                }
                let mut dst = vec![0xEE; end - start];
                storage.read_into(range.start, &mut dst)?;
                assert_eq!(dst, &bytes[start..end]);
                assert_eq!(storage.bytes(range)?, &bytes[start..end]);
            }
        }
    }
    Ok(())
}

#[test]
fn ranges_beyond_the_end_are_corrupt_and_name_the_file() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x");
    fs::write(&path, [1, 2, 3]).unwrap();
    for storage in all(&path, &[1, 2, 3])? {
        #[expect(clippy::reversed_empty_ranges, reason = "hostile")]
        for range in [0..4, 3..4, 4..4, u64::MAX - 1..u64::MAX, 2..1] {
            let error = storage.read(range.clone(), &mut Vec::new()).unwrap_err();
            assert!(error.is_corrupt(), "{range:?}: {error}");
            assert_eq!(error.path(), Some(path.as_path()));
            assert!(storage.in_place(range.clone()).unwrap_err().is_corrupt());
            if let Some(len) = range.end.checked_sub(range.start) {
                let mut dst = vec![0; usize::try_from(len).unwrap()];
                assert!(
                    storage
                        .read_into(range.start, &mut dst)
                        .unwrap_err()
                        .is_corrupt()
                );
            }
            assert!(storage.bytes(range).is_err());
        }
    }
    Ok(())
}

#[test]
fn a_file_that_became_shorter_is_corrupt() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x");
    fs::write(&path, [7; 1000]).unwrap();
    let storage = FileStorage::open(&path)?;
    fs::write(&path, [7; 10]).unwrap();
    let error = storage.read(0..1000, &mut Vec::new()).unwrap_err();
    assert!(error.is_corrupt(), "{error}");
    Ok(())
}
