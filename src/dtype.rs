//! Element types and their ids on disk (format-spec 6).

use std::fmt;

/// The type of a tensor's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DType {
    /// One byte, 0 or 1.
    Bool,
    /// Unsigned 8-bit integer.
    U8,
    /// Unsigned 16-bit integer.
    U16,
    /// Unsigned 32-bit integer.
    U32,
    /// Unsigned 64-bit integer.
    U64,
    /// Signed 8-bit integer.
    I8,
    /// Signed 16-bit integer.
    I16,
    /// Signed 32-bit integer.
    I32,
    /// Signed 64-bit integer.
    I64,
    /// IEEE-754 binary16.
    F16,
    /// The upper half of a binary32.
    BF16,
    /// IEEE-754 binary32.
    F32,
    /// IEEE-754 binary64.
    F64,
    /// OCP 8-bit float with 4 exponent bits, no infinity.
    F8E4M3FN,
    /// OCP 8-bit float with 5 exponent bits.
    F8E5M2,
}

/// One row a dtype: (dtype, id on disk, bytes, name, NumPy kind and size where NumPy has the type).
const DTYPES: [(DType, u16, usize, &str, Option<&str>); 15] = [
    (DType::Bool, 1, 1, "bool", Some("|b1")),
    (DType::U8, 2, 1, "u8", Some("|u1")),
    (DType::U16, 3, 2, "u16", Some("<u2")),
    (DType::U32, 4, 4, "u32", Some("<u4")),
    (DType::U64, 5, 8, "u64", Some("<u8")),
    (DType::I8, 6, 1, "i8", Some("|i1")),
    (DType::I16, 7, 2, "i16", Some("<i2")),
    (DType::I32, 8, 4, "i32", Some("<i4")),
    (DType::I64, 9, 8, "i64", Some("<i8")),
    (DType::F16, 10, 2, "f16", Some("<f2")),
    (DType::BF16, 11, 2, "bf16", None),
    (DType::F32, 12, 4, "f32", Some("<f4")),
    (DType::F64, 13, 8, "f64", Some("<f8")),
    (DType::F8E4M3FN, 14, 1, "f8e4m3fn", None),
    (DType::F8E5M2, 15, 1, "f8e5m2", None),
];

impl DType {
    /// Every dtype, in the order of their ids.
    pub fn all() -> impl Iterator<Item = Self> {
        DTYPES.iter().map(|row| row.0)
    }

    fn row(self) -> &'static (Self, u16, usize, &'static str, Option<&'static str>) {
        // The table is in declaration order; the test below holds it to that.
        &DTYPES[self as usize]
    }

    /// The id on disk.
    pub fn id(self) -> u16 {
        self.row().1
    }

    /// The dtype with this id, if there is one.
    pub fn from_id(id: u16) -> Option<Self> {
        DTYPES.iter().find(|row| row.1 == id).map(|row| row.0)
    }

    /// Bytes of one element.
    pub fn size(self) -> usize {
        self.row().2
    }

    /// The name used in the CLI, in messages and in the specification: `f32`, `bf16`, `u8`.
    pub fn name(self) -> &'static str {
        self.row().3
    }

    /// The name with the article that is said before it: `an f16`, `a u8`.
    pub(crate) fn with_article(self) -> String {
        let name = self.name();
        // The letters f and i are said with a vowel, u is not.
        let article = if name.starts_with(['f', 'i']) {
            "an"
        } else {
            "a"
        };
        format!("{article} {name}")
    }

    /// The dtype with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        DTYPES.iter().find(|row| row.3 == name).map(|row| row.0)
    }

    /// The little-endian NumPy `descr` string, for dtypes that NumPy itself has.
    pub fn npy_descr(self) -> Option<&'static str> {
        self.row().4
    }

    /// True for f16, bf16, f32, f64, f8e4m3fn and f8e5m2.
    pub fn is_float(self) -> bool {
        matches!(
            self,
            Self::F16 | Self::BF16 | Self::F32 | Self::F64 | Self::F8E4M3FN | Self::F8E5M2
        )
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_is_in_declaration_order_and_ids_are_distinct() {
        for (i, dtype) in DType::all().enumerate() {
            assert_eq!(dtype as usize, i);
            assert_eq!(DType::from_id(dtype.id()), Some(dtype));
            assert_eq!(DType::from_name(dtype.name()), Some(dtype));
        }
        assert_eq!(DType::from_id(0), None);
        assert_eq!(DType::from_id(16), None);
    }
}
