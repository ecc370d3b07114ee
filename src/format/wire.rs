//! The only code that takes untrusted bytes apart: a bounded little-endian cursor, and its mirror for writing.

use crate::error::{Error, Result};

/// Reads little-endian values from the front of a slice. Every read is checked.
pub(crate) struct Cursor<'a> {
    rest: &'a [u8],
    /// What is being read, for messages.
    what: &'static str,
    /// Offset of `rest` in the structure.
    at: u64,
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(bytes: &'a [u8], what: &'static str) -> Self {
        Self {
            rest: bytes,
            what,
            at: 0,
        }
    }

    /// How much was read.
    pub(crate) fn at(&self) -> u64 {
        self.at
    }

    pub(crate) fn take(&mut self, len: usize) -> Result<&'a [u8]> {
        let Some((head, tail)) = self.rest.split_at_checked(len) else {
            return Err(Error::corrupt(
                format!("length of the {}", self.what),
                format_args!("{len} more bytes at offset {}", self.at),
                format_args!("{} bytes", self.rest.len()),
            ));
        };
        self.rest = tail;
        self.at = self.at.saturating_add(len as u64);
        Ok(head)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N)?);
        Ok(out)
    }

    pub(crate) fn u8(&mut self) -> Result<u8> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    pub(crate) fn u16(&mut self) -> Result<u16> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub(crate) fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub(crate) fn i32(&mut self) -> Result<i32> {
        Ok(i32::from_le_bytes(self.array()?))
    }

    pub(crate) fn f32(&mut self) -> Result<f32> {
        Ok(f32::from_le_bytes(self.array()?))
    }

    pub(crate) fn f64(&mut self) -> Result<f64> {
        Ok(f64::from_le_bytes(self.array()?))
    }

    /// Reserved bytes: must be zero.
    pub(crate) fn reserved(&mut self, len: usize) -> Result<()> {
        let at = self.at;
        let bytes = self.take(len)?;
        if bytes.iter().any(|&b| b != 0) {
            return Err(Error::corrupt(
                format!("reserved bytes of the {}", self.what),
                "zeros",
                format_args!("{bytes:02x?}"),
            )
            .at_offset(at));
        }
        Ok(())
    }

    /// Demands that everything was read.
    pub(crate) fn finish(self) -> Result<()> {
        if self.rest.is_empty() {
            return Ok(());
        }
        Err(Error::corrupt(
            format!("length of the {}", self.what),
            format_args!("{} bytes", self.at),
            format_args!("{} more", self.rest.len()),
        ))
    }

    pub(crate) fn remaining(&self) -> usize {
        self.rest.len()
    }
}

/// Demands `found == expected`.
pub(crate) fn expect_eq<T: PartialEq + std::fmt::Display>(
    what: &'static str,
    expected: T,
    found: T,
) -> Result<()> {
    if expected == found {
        return Ok(());
    }
    Err(Error::corrupt(what, expected, found))
}

/// Demands `found <= limit`.
pub(crate) fn expect_limit(what: &'static str, limit: u64, found: u64) -> Result<()> {
    if found <= limit {
        return Ok(());
    }
    Err(Error::limit(what, limit, found))
}

/// A length from a file as a `usize`, for addressing bytes that are in memory.
pub(crate) fn to_usize(what: &'static str, x: u64) -> Result<usize> {
    usize::try_from(x).map_err(|_| Error::limit(what, usize::MAX as u64, x))
}

/// A count from memory as a `u32` on disk.
pub(crate) fn to_u32(what: &'static str, x: usize) -> Result<u32> {
    u32::try_from(x).map_err(|_| Error::limit(what, u64::from(u32::MAX), x as u64))
}

/// Appends little-endian values to a `Vec`; infallible mirror of [`Cursor`].
pub(crate) trait Put {
    fn put(&mut self, bytes: &[u8]);

    fn put_u8(&mut self, x: u8) {
        self.put(&[x]);
    }
    fn put_u16(&mut self, x: u16) {
        self.put(&x.to_le_bytes());
    }
    fn put_u32(&mut self, x: u32) {
        self.put(&x.to_le_bytes());
    }
    fn put_u64(&mut self, x: u64) {
        self.put(&x.to_le_bytes());
    }
    fn put_i32(&mut self, x: i32) {
        self.put(&x.to_le_bytes());
    }
    fn put_f32(&mut self, x: f32) {
        self.put(&x.to_le_bytes());
    }
    fn put_f64(&mut self, x: f64) {
        self.put(&x.to_le_bytes());
    }
    /// Zeros up to the next multiple of `to`.
    fn pad_to(&mut self, to: u64);
}

impl Put for Vec<u8> {
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }

    fn pad_to(&mut self, to: u64) {
        let len = super::align(self.len() as u64, to);
        // Lengths of what we hold in memory fit usize.
        self.resize(usize::try_from(len).unwrap_or(self.len()), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursor_is_bounded_and_demands_everything() {
        let mut c = Cursor::new(&[1, 2, 0, 0, 0, 9], "thing");
        assert_eq!(c.u8().unwrap(), 1);
        assert_eq!(c.u32().unwrap(), 2);
        assert!(c.u16().unwrap_err().is_corrupt());
        assert_eq!(c.remaining(), 1);
        assert!(c.finish().unwrap_err().is_corrupt());
        assert!(
            Cursor::new(&[0, 1], "thing")
                .reserved(2)
                .unwrap_err()
                .is_corrupt()
        );
    }

    #[test]
    fn put_mirrors_cursor() -> Result<()> {
        let mut out = Vec::new();
        out.put_u16(7);
        out.put_f64(-0.5);
        out.pad_to(16);
        assert_eq!(out.len(), 16);
        let mut c = Cursor::new(&out, "thing");
        assert_eq!((c.u16()?, c.f64()?), (7, -0.5));
        c.reserved(6)?;
        c.finish()
    }
}
