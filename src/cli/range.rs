//! `A..B`: some of the samples.

use std::ops::Range;
use std::str::FromStr;

use super::failure::Failure;

/// Samples from `start` (0 if left out) to before `end` (all if left out).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SampleRange {
    start: u64,
    end: Option<u64>,
}

impl FromStr for SampleRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "write A..B: samples from A to before B, counted from 0".to_owned();
        let (start, end) = text.split_once("..").ok_or_else(wrong)?;
        let number = |text: &str| text.trim().parse::<u64>().map_err(|_| wrong());
        let start = if start.trim().is_empty() {
            0
        } else {
            number(start)?
        };
        let end = if end.trim().is_empty() {
            None
        } else {
            Some(number(end)?)
        };
        if end.is_some_and(|end| end < start) {
            return Err("the range ends before it starts".to_owned());
        }
        Ok(Self { start, end })
    }
}

/// The samples asked for, of a dataset that has `len`.
pub(crate) fn resolve(range: Option<SampleRange>, len: u64) -> Result<Range<u64>, Failure> {
    let Some(range) = range else {
        return Ok(0..len);
    };
    let end = range.end.unwrap_or(len.max(range.start));
    if range.start > len || end > len {
        return Err(Failure::usage(format!(
            "the range {}..{end} ends beyond the dataset, which has {len} samples",
            range.start
        )));
    }
    Ok(range.start..end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_and_checked() {
        let read = |text: &str| text.parse::<SampleRange>().ok();
        assert_eq!(resolve(read("2..5"), 10).ok(), Some(2..5));
        assert_eq!(resolve(read("2.."), 10).ok(), Some(2..10));
        assert_eq!(resolve(read("..5"), 10).ok(), Some(0..5));
        assert_eq!(resolve(None, 10).ok(), Some(0..10));
        assert!(resolve(read("2..11"), 10).is_err());
        assert!(resolve(read("11.."), 10).is_err());
        for bad in ["5", "5..2", "a..b", "-1..2"] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }
}
