//! The header of a `.npy` file: reading it without trusting it, and writing it.
//!
//! ```text
//! 0   magic        93 'N' 'U' 'M' 'P' 'Y'
//! 6   version      1.0, 2.0 or 3.0, a byte each
//! 8   header_len   u16 (version 1.0) or u32
//! 10 or 12         a Python dict literal with the keys descr, fortran_order and shape, padded with spaces
//! ```

use std::fmt::Write as _;
use std::io::Read;
use std::path::Path;

use super::{ImportOptions, read_error};
use crate::dtype::DType;
use crate::error::{Error, MAGIC_OF_NPY, Result};

const MAGIC: &[u8; 6] = b"\x93NUMPY";
/// Longest header that is read. NumPy writes a few hundred bytes for the arrays that are supported.
const MAX_HEADER_LEN: u64 = 1 << 20;
/// Most dims of an array.
const MAX_DIMS: usize = 32;
/// What the data of an array starts at a multiple of.
const ALIGN: usize = 64;

/// What the header of a `.npy` file says, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NpyHeader {
    pub(super) dtype: DType,
    /// The elements have more than one byte and are big-endian.
    pub(super) big_endian: bool,
    /// The first axis varies fastest, and there are others.
    pub(super) fortran_order: bool,
    pub(super) shape: Vec<usize>,
    /// Bytes before the data.
    pub(super) data_offset: u64,
    /// Bytes of the data; fits `usize` and `i64`.
    pub(super) data_len: u64,
}

impl NpyHeader {
    /// Reads a header from the front of `reader`, which is said to have `available` bytes, and checks that the data
    /// fits them. `path` only serves error messages.
    pub(super) fn read(
        reader: &mut dyn Read,
        available: u64,
        path: &Path,
        options: &ImportOptions,
    ) -> Result<Self> {
        Self::read_inner(reader, available, path, options).map_err(|e| e.in_file(path))
    }

    fn read_inner(
        reader: &mut dyn Read,
        available: u64,
        path: &Path,
        options: &ImportOptions,
    ) -> Result<Self> {
        let mut read = |buf: &mut [u8]| {
            reader
                .read_exact(buf)
                .map_err(|e| read_error("NumPy header", path, e))
        };
        let mut prefix = [0; 8];
        read(&mut prefix)?;
        let [magic @ .., major, minor] = prefix;
        if magic != *MAGIC {
            return Err(Error::corrupt(
                MAGIC_OF_NPY,
                "93 4e 55 4d 50 59",
                hex(&magic),
            ));
        }
        let (header_len, prefix_len) = match (major, minor) {
            (1, 0) => {
                let mut raw = [0; 2];
                read(&mut raw)?;
                (u64::from(u16::from_le_bytes(raw)), 10)
            }
            (2 | 3, 0) => {
                let mut raw = [0; 4];
                read(&mut raw)?;
                (u64::from(u32::from_le_bytes(raw)), 12)
            }
            _ => {
                return Err(Error::unsupported(
                    format!(".npy format version {major}.{minor}"),
                    "versions 1.0, 2.0 and 3.0 are known; save the array again with numpy.save",
                ));
            }
        };
        if header_len > MAX_HEADER_LEN {
            return Err(Error::limit("NumPy header", MAX_HEADER_LEN, header_len));
        }
        let data_offset = header_len.saturating_add(prefix_len);
        if data_offset > available {
            return Err(Error::corrupt(
                "length of the NumPy header",
                format!(
                    "at most the {} bytes that follow",
                    available.saturating_sub(prefix_len)
                ),
                header_len,
            ));
        }
        let mut text = vec![0; usize::try_from(header_len).unwrap_or(0)];
        read(&mut text)?;
        if major == 3 && std::str::from_utf8(&text).is_err() {
            return Err(Error::corrupt("NumPy header", "UTF-8", "other bytes"));
        }
        let dict = Parser {
            rest: &text,
            long_suffix: major < 3,
        }
        .dict()?;
        let (dtype, big_endian) = parse_descr(dict.descr, options)?;
        let data_len = data_len(&dict.shape, dtype)?;
        let found = available.saturating_sub(data_offset);
        if data_len > found {
            return Err(Error::corrupt(
                "length of the array (truncated)",
                format!("{data_len} bytes of data"),
                format!("{found}"),
            ));
        }
        let fortran_order = dict.fortran_order && dict.shape.len() > 1;
        Ok(Self {
            dtype,
            big_endian,
            fortran_order,
            shape: dict.shape,
            data_offset,
            data_len,
        })
    }
}

fn hex(bytes: &[u8]) -> String {
    let digits: Vec<_> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    digits.join(" ")
}

fn data_len(shape: &[usize], dtype: DType) -> Result<u64> {
    // As in NumPy, dims of 0 do not excuse the others: strides are computed from them.
    let nonzero = shape
        .iter()
        .filter(|&&d| d != 0)
        .try_fold(dtype.size(), |n, &d| n.checked_mul(d));
    match nonzero {
        Some(n) if isize::try_from(n).is_ok() => Ok(if shape.contains(&0) { 0 } else { n as u64 }),
        _ => Err(Error::corrupt(
            "shape",
            "an array that can be addressed",
            format!("{shape:?} of {dtype}"),
        )),
    }
}

/// The dtype that `descr` stands for, and whether it is big-endian.
fn parse_descr(descr: &str, options: &ImportOptions) -> Result<(DType, bool)> {
    let (order, code) = match descr.as_bytes().first() {
        Some(b'<' | b'>' | b'=' | b'|') => descr.split_at_checked(1).unwrap_or(("", descr)),
        _ => ("", descr),
    };
    let same = |dtype: &DType| dtype.npy_descr().and_then(|d| d.get(1..)) == Some(code);
    if let Some(dtype) = DType::all().find(same) {
        return Ok((dtype, order == ">" && dtype.size() > 1));
    }
    if code == "?" {
        return Ok((DType::Bool, false));
    }
    let kind = code.as_bytes().first().copied().unwrap_or(0);
    let rest = code.get(1..).unwrap_or("");
    let what = format!("dtype {descr:?}");
    if kind == b'V' {
        return parse_void(&what, rest, options);
    }
    let hint = match kind {
        b'O' => "arrays of Python objects are pickled code; save numbers, one array a field",
        b'S' | b'a' | b'U' => "strings are not read from .npy; save numbers",
        b'M' | b'm' => "view dates and durations as int64 before saving",
        b'c' => "view complex numbers as floats with one more axis of length 2 before saving",
        b'f' | b'g' => "there is no dtype for this float; save it as <f8 or <f4",
        _ if descr.contains([',', '(']) => {
            "save each part of a structured dtype as an array of its own"
        }
        _ => "save the array as bool, int8 to int64, uint8 to uint64, float16, float32 or float64",
    };
    Err(Error::unsupported(what, hint))
}

/// Void elements are raw bytes: NumPy saves the bf16 and 8-bit floats of `ml_dtypes` so. They have no byte order.
fn parse_void(what: &str, digits: &str, options: &ImportOptions) -> Result<(DType, bool)> {
    match options.void_as {
        Some(dtype) if dtype.size().to_string() == digits => Ok((dtype, false)),
        Some(dtype) => Err(Error::unsupported(
            what,
            format!(
                "raw bytes are to be taken as {dtype}, which has {} bytes per element",
                dtype.size()
            ),
        )),
        None if matches!(digits, "1" | "2") => Err(Error::unsupported(
            what,
            "raw bytes without a dtype; say which one it is, for example bf16 (2 bytes) or f8e4m3fn (1 byte)",
        )),
        None => Err(Error::unsupported(
            what,
            "raw bytes without a dtype; save numbers",
        )),
    }
}

struct Dict<'a> {
    descr: &'a str,
    fortran_order: bool,
    shape: Vec<usize>,
}

/// A parser of the part of Python's literals that NumPy writes: no recursion, no evaluation.
struct Parser<'a> {
    rest: &'a [u8],
    /// Python 2 wrote `1L`; NumPy accepts it up to version 2.0.
    long_suffix: bool,
}

impl<'a> Parser<'a> {
    fn dict(mut self) -> Result<Dict<'a>> {
        let (mut descr, mut fortran_order, mut shape) = (None, None, None);
        self.expect(b'{')?;
        while !self.eat(b'}') {
            let key = self.string()?;
            self.expect(b':')?;
            let twice = match key {
                "descr" => descr.replace(self.descr()?).is_some(),
                "fortran_order" => fortran_order.replace(self.boolean()?).is_some(),
                "shape" => shape.replace(self.shape()?).is_some(),
                _ => {
                    return Err(wrong(
                        "the keys descr, fortran_order and shape",
                        format!("{:?}", shorten(key)),
                    ));
                }
            };
            if twice {
                return Err(wrong("each key once", format!("{key:?} twice")));
            }
            if !self.eat(b',') {
                self.expect(b'}')?;
                break;
            }
        }
        self.skip_space();
        if !self.rest.is_empty() {
            return Err(self.unexpected("nothing after the dict"));
        }
        match (descr, fortran_order, shape) {
            (Some(descr), Some(fortran_order), Some(shape)) => Ok(Dict {
                descr,
                fortran_order,
                shape,
            }),
            _ => Err(wrong(
                "the keys descr, fortran_order and shape",
                "fewer keys",
            )),
        }
    }

    fn descr(&mut self) -> Result<&'a str> {
        match self.peek() {
            Some(b'[') => Err(Error::unsupported(
                "structured dtype",
                "save each part of it as an array of its own, or in one .npz",
            )),
            Some(b'(') => Err(Error::unsupported(
                "sub-array dtype",
                "save a plain array with one more axis",
            )),
            _ => self.string(),
        }
    }

    fn boolean(&mut self) -> Result<bool> {
        match self.word() {
            b"True" => Ok(true),
            b"False" => Ok(false),
            other => Err(wrong("True or False", found(other))),
        }
    }

    fn shape(&mut self) -> Result<Vec<usize>> {
        self.expect(b'(')?;
        let mut dims = Vec::new();
        let mut comma = true;
        while !self.eat(b')') {
            if !comma {
                return Err(self.unexpected("`,` or `)`"));
            }
            let dim = self.dim()?;
            if dims.len() == MAX_DIMS {
                return Err(wrong(format!("at most {MAX_DIMS} dims"), "more"));
            }
            dims.push(dim);
            comma = self.eat(b',');
        }
        // `(5)` is a number in Python, `(5,)` a tuple.
        if dims.len() == 1 && !comma {
            return Err(wrong("a tuple as shape", "a number in parentheses"));
        }
        Ok(dims)
    }

    fn dim(&mut self) -> Result<usize> {
        self.skip_space();
        if self.rest.starts_with(b"np.") || self.rest.starts_with(b"numpy.") {
            return Err(Error::unsupported(
                "NumPy scalar in a shape",
                "NumPy cannot load this file either; save it again with a shape of plain ints",
            ));
        }
        let word = self.word();
        let (digits, long) = match word.strip_suffix(b"L") {
            Some(digits) if self.long_suffix => (digits, true),
            _ => (word, false),
        };
        let decimal = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
        // Python has no decimal numbers with leading zeros, but `00` is 0.
        let padded =
            digits.len() > 1 && digits.starts_with(b"0") && digits.iter().any(|&d| d != b'0');
        if !decimal || padded {
            return Err(if word.is_empty() {
                self.unexpected("a dim of 0 or more")
            } else {
                wrong("a dim of 0 or more", found(word))
            });
        }
        if self.long_suffix && !long {
            self.eat(b'L');
        }
        let value = std::str::from_utf8(digits)
            .ok()
            .and_then(|digits| digits.parse().ok());
        value.ok_or_else(|| wrong("a dim that can be addressed", found(word)))
    }

    /// A quoted string without escapes.
    fn string(&mut self) -> Result<&'a str> {
        self.skip_space();
        // Python 2 with `unicode_literals`.
        if let Some(rest) = self.rest.strip_prefix(b"u")
            && matches!(rest.first(), Some(b'\'' | b'"'))
        {
            self.rest = rest;
        }
        let Some((&quote, rest)) = self
            .rest
            .split_first()
            .filter(|(quote, _)| matches!(quote, b'\'' | b'"'))
        else {
            return Err(self.unexpected("a string"));
        };
        let len = rest.iter().position(|&byte| byte == quote);
        let (text, after) = len
            .and_then(|len| rest.split_at_checked(len))
            .unwrap_or((rest, &[]));
        let plain = text
            .iter()
            .all(|&byte| matches!(byte, b' '..=b'~') && byte != b'\\');
        match (std::str::from_utf8(text), after.split_first()) {
            (Ok(text), Some((_, after))) if plain => {
                self.rest = after;
                Ok(text)
            }
            _ => Err(self.unexpected("a plain string")),
        }
    }

    /// Letters, digits, `_` and `.`; may be empty.
    fn word(&mut self) -> &'a [u8] {
        self.skip_space();
        let part = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.');
        let len = self
            .rest
            .iter()
            .position(|byte| !part(byte))
            .unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at_checked(len).unwrap_or((self.rest, &[]));
        self.rest = rest;
        word
    }

    fn peek(&mut self) -> Option<u8> {
        self.skip_space();
        self.rest.first().copied()
    }

    fn eat(&mut self, byte: u8) -> bool {
        self.skip_space();
        match self.rest.strip_prefix(&[byte]) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn expect(&mut self, byte: u8) -> Result<()> {
        if self.eat(byte) {
            Ok(())
        } else {
            Err(self.unexpected(&format!("`{}`", char::from(byte))))
        }
    }

    fn skip_space(&mut self) {
        let space = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | b'\x0c');
        let len = self
            .rest
            .iter()
            .position(|byte| !space(byte))
            .unwrap_or(self.rest.len());
        self.rest = self.rest.get(len..).unwrap_or_default();
    }

    fn unexpected(&self, expected: &str) -> Error {
        wrong(expected, found(self.rest))
    }
}

fn wrong(expected: impl std::fmt::Display, found: impl std::fmt::Display) -> Error {
    Error::corrupt("NumPy header", expected, found)
}

/// The start of `bytes`, quoted, for a message.
fn found(bytes: &[u8]) -> String {
    if bytes.is_empty() {
        return "nothing".to_owned();
    }
    format!(
        "{:?}",
        shorten(&String::from_utf8_lossy(bytes.get(..64).unwrap_or(bytes)))
    )
}

fn shorten(text: &str) -> String {
    text.chars().take(24).collect()
}

/// The `descr` string under which an array of `dtype` is saved: NumPy's own where it has the dtype, raw bytes (`<V2`,
/// `|V1`, as `ml_dtypes` saves them) for bf16 and the 8-bit floats.
pub fn npy_descr(dtype: DType) -> &'static str {
    dtype
        .npy_descr()
        .unwrap_or(if dtype.size() == 1 { "|V1" } else { "<V2" })
}

/// The bytes before the data of a row-major `.npy` file: version 1.0, or 2.0 if the header is too long for that. The
/// length is a multiple of 64.
pub fn emit_header(descr: &str, shape: &[usize]) -> Vec<u8> {
    let mut text = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': (");
    for (i, dim) in shape.iter().enumerate() {
        // Writing to a string does not fail.
        write!(text, "{}{dim}", if i == 0 { "" } else { " " }).ok();
        if shape.len() == 1 || i.saturating_add(1) < shape.len() {
            text.push(',');
        }
    }
    text.push_str("), }");
    let padded = |prefix: usize| {
        text.len()
            .saturating_add(prefix)
            .saturating_add(1)
            .next_multiple_of(ALIGN)
    };
    let mut out = MAGIC.to_vec();
    let total = match u16::try_from(padded(10).saturating_sub(10)) {
        Ok(len) => {
            out.extend([1, 0]);
            out.extend(len.to_le_bytes());
            padded(10)
        }
        Err(_) => {
            out.extend([2, 0]);
            out.extend(
                u32::try_from(padded(12).saturating_sub(12))
                    .unwrap_or(u32::MAX)
                    .to_le_bytes(),
            );
            padded(12)
        }
    };
    out.extend_from_slice(text.as_bytes());
    out.resize(total.saturating_sub(1), b' ');
    out.push(b'\n');
    out
}
