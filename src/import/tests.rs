//! Hostile files, and good ones of every kind.

#![expect(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "tests may panic"
)]

use std::io::{Cursor, Write};

use flate2::Crc;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use super::npy_header::NpyHeader;
use super::*;
use crate::error::ErrorKind;

/// The kind of an error, or that there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Good,
    Corrupt,
    Limit,
    Unsupported,
    Invalid,
    Io,
}
use Outcome::{Corrupt, Good, Invalid, Io, Limit, Unsupported};

fn outcome<T>(result: &Result<T>) -> Outcome {
    match result.as_ref().map_err(Error::kind) {
        Ok(_) => Good,
        Err(ErrorKind::Corrupt { .. }) => Corrupt,
        Err(ErrorKind::LimitExceeded { .. }) => Limit,
        Err(ErrorKind::Unsupported { .. }) => Unsupported,
        Err(ErrorKind::InvalidArgument { .. }) => Invalid,
        Err(ErrorKind::Io { .. }) => Io,
        Err(other) => panic!("{other:?}"),
    }
}

fn npy_version(version: [u8; 2], header: &[u8], body: &[u8]) -> Vec<u8> {
    let mut out = b"\x93NUMPY".to_vec();
    out.extend(version);
    if version == [1, 0] {
        out.extend(u16::try_from(header.len()).unwrap().to_le_bytes());
    } else {
        out.extend(u32::try_from(header.len()).unwrap().to_le_bytes());
    }
    out.extend_from_slice(header);
    out.extend_from_slice(body);
    out
}

fn npy(header: &str, body: &[u8]) -> Vec<u8> {
    npy_version([1, 0], header.as_bytes(), body)
}

fn npy_of(descr: &str, fortran: bool, shape: &str, body: &[u8]) -> Vec<u8> {
    let fortran = if fortran { "True" } else { "False" };
    npy(
        &format!("{{'descr': '{descr}', 'fortran_order': {fortran}, 'shape': {shape}, }}\n"),
        body,
    )
}

fn dict(descr: &str, shape: &str) -> String {
    format!("{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}")
}

fn open_bytes(name: &str, bytes: &[u8]) -> Result<Input> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    fs::write(&path, bytes).unwrap();
    let input = open(&path, &ImportOptions::default());
    if let Err(error) = &input {
        assert_eq!(error.path(), Some(path.as_path()), "{error}");
        assert!(!error.to_string().contains('\n'), "{error}");
    }
    input
}

/// All samples of a field, in blocks of `block`.
fn read_all(field: &mut InputField, block: usize) -> Result<Vec<u8>> {
    let (mut out, mut all) = (Samples::default(), Vec::new());
    let num_samples = field.source.num_samples();
    let mut first = 0;
    while first < num_samples {
        let count = block.min(usize::try_from(num_samples - first).unwrap());
        field.source.read(first, count, &mut out)?;
        all.extend_from_slice(&out.data);
        first += count as u64;
    }
    Ok(all)
}

/// Opens and reads everything.
fn consume(name: &str, bytes: &[u8]) -> Result<Vec<u8>> {
    let mut input = open_bytes(name, bytes)?;
    let mut all = Vec::new();
    for field in &mut input.fields {
        all.extend(read_all(field, 3)?);
    }
    Ok(all)
}

#[test]
fn hostile_headers_are_typed_errors() {
    let f4 = |shape: &str| dict("'<f4'", shape);
    let descr = |descr: &str| dict(descr, "(2,)");
    let nested = "(".repeat(50_000);
    let many = |n: usize| format!("({})", "1,".repeat(n));
    let cases: &[(&str, Outcome)] = &[
        (&f4("(2,)"), Good),
        (&f4("(2,3)"), Good),
        (&f4("(2, 3, )"), Good),
        (&f4("(0,)"), Good),
        (&f4("(00,)"), Good),
        (&f4("(3, 0, 99999)"), Good),
        (&f4("(1L, 2 L)"), Good),
        (&format!("  \n{}\n\n", f4("(2,)")), Good),
        (
            "{'shape':(2,),\"descr\":\"<f4\",\r\n'fortran_order'\t:True,}",
            Good,
        ),
        (
            "{u'shape':(2,),u'descr':u'<f4','fortran_order':False}",
            Good,
        ),
        // Shapes.
        (&f4("()"), Unsupported),
        (&f4("(2)"), Corrupt),
        (&f4("[2]"), Corrupt),
        (&f4("2"), Corrupt),
        (&f4("(,)"), Corrupt),
        (&f4("(2,,)"), Corrupt),
        (&f4("(2 3)"), Corrupt),
        (&f4("(2,"), Corrupt),
        (&f4("(-2,)"), Corrupt),
        (&f4("(-1,)"), Corrupt),
        (&f4("(0,-1)"), Corrupt),
        (&f4("(True,)"), Corrupt),
        (&f4("(2.0,)"), Corrupt),
        (&f4("(2e0,)"), Corrupt),
        (&f4("(02,)"), Corrupt),
        (&f4("(0x2,)"), Corrupt),
        (&f4("(2**9,)"), Corrupt),
        (&f4("(2LL,)"), Corrupt),
        (&f4("('2',)"), Corrupt),
        (&f4("((2,),)"), Corrupt),
        (&f4("(np.int64(2),)"), Unsupported),
        (&f4("(65536,65536)"), Corrupt),
        (&f4("(4294967296,4294967296)"), Corrupt),
        (&f4("(4611686018427387904,4)"), Corrupt),
        (&f4("(4611686018427387904,)"), Corrupt),
        (&f4("(0,4611686018427387904,4611686018427387904)"), Corrupt),
        (&f4("(18446744073709551616,)"), Corrupt),
        (&f4("(999999999999999999999999999999999999,)"), Corrupt),
        (&f4("(1152921504606846976,0)"), Limit),
        (&f4(&many(32)), Good),
        (&f4(&many(33)), Corrupt),
        (&f4(&many(20_000)), Corrupt),
        (&f4(&nested), Corrupt),
        // Dtypes.
        (&descr("'|O'"), Unsupported),
        (&descr("'O8'"), Unsupported),
        (&descr("'|S5'"), Unsupported),
        (&descr("'<U5'"), Unsupported),
        (&descr("'<M8[ns]'"), Unsupported),
        (&descr("'<m8[s]'"), Unsupported),
        (&descr("'<c8'"), Unsupported),
        (&descr("'<f16'"), Unsupported),
        (&descr("'<i3'"), Unsupported),
        (&descr("'|V1'"), Unsupported),
        (&descr("'<V2'"), Unsupported),
        (&descr("'|V0'"), Unsupported),
        (&descr("'<f4,<f4'"), Unsupported),
        (&descr("'(2,)<f4'"), Unsupported),
        (&descr("[('x', '<f4'), ('y', '<i2')]"), Unsupported),
        (&descr(&"[".repeat(50_000)), Unsupported),
        (&descr("('<f4', (3,))"), Unsupported),
        (&descr("''"), Unsupported),
        (&descr("'<'"), Unsupported),
        (&descr("'<f4 '"), Unsupported),
        (&descr("'<f99999999999999999999'"), Unsupported),
        (&descr("None"), Corrupt),
        (&descr("b'<f4'"), Corrupt),
        (&descr("4"), Corrupt),
        (&descr("'\\x3cf4'"), Corrupt),
        (&descr("'<f4"), Corrupt),
        // Dicts.
        ("", Corrupt),
        ("   \n", Corrupt),
        ("{}", Corrupt),
        ("{", Corrupt),
        ("[]", Corrupt),
        ("{'descr': '<f4', 'fortran_order': False}", Corrupt),
        (
            "{'descr': '<f4', 'fortran_order': 0, 'shape': (2,)}",
            Corrupt,
        ),
        (
            "{'descr': '<f4', 'fortran_order': None, 'shape': (2,)}",
            Corrupt,
        ),
        (
            "{'descr': '<f4', 'fortran_order': False, 'shape': (2,), 'x': 1}",
            Corrupt,
        ),
        (
            "{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (2,)}",
            Corrupt,
        ),
        (
            "{'descr': '<f4' 'fortran_order': False, 'shape': (2,)}",
            Corrupt,
        ),
        (
            "{'descr': '<f4', 'fortran_order': False, 'shape': (2,),,}",
            Corrupt,
        ),
        (
            "{'descr' '<f4', 'fortran_order': False, 'shape': (2,)}",
            Corrupt,
        ),
        (
            "{descr: '<f4', 'fortran_order': False, 'shape': (2,)}",
            Corrupt,
        ),
        (&format!("{} x", f4("(2,)")), Corrupt),
        (&format!("{}\0\0", f4("(2,)")), Corrupt),
        (&"{".repeat(60_000), Corrupt),
        ("__import__('os').system('true')", Corrupt),
    ];
    for (header, expected) in cases {
        let bytes = npy(header, &[0; 64]);
        let result = consume("x.npy", &bytes);
        let shown: String = header.chars().take(90).collect();
        assert_eq!(outcome(&result), *expected, "{shown}: {result:?}");
    }
}

#[test]
fn hostile_prefixes_are_typed_errors() {
    let header = dict("'<f4'", "(2,)");
    let good = npy(&header, &[7; 8]);
    let with = |at: usize, bytes: &[u8]| {
        let mut file = good.clone();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        file
    };
    let huge = |version: u8, len: u32| {
        let mut file = b"\x93NUMPY".to_vec();
        file.extend([version, 0]);
        file.extend(len.to_le_bytes());
        file.extend([b' '; 100]);
        file
    };
    let long_header = format!("{header}{}", " ".repeat(1 << 20));
    let cases: Vec<(&str, Vec<u8>, Outcome)> = vec![
        ("good", good.clone(), Good),
        ("empty file", vec![], Corrupt),
        ("magic only", good[..6].to_vec(), Corrupt),
        ("no header length", good[..8].to_vec(), Corrupt),
        ("wrong magic", with(0, b"\x92"), Corrupt),
        ("a zip", with(0, b"PK\x03\x04"), Corrupt),
        ("a pickle", with(0, b"\x80\x04\x95"), Corrupt),
        ("version 0.0", with(6, &[0, 0]), Unsupported),
        ("version 1.1", with(6, &[1, 1]), Unsupported),
        ("version 4.0", with(6, &[4, 0]), Unsupported),
        ("version 9.9", with(6, &[9, 9]), Unsupported),
        ("header_len 0", with(8, &[0, 0]), Corrupt),
        ("header_len 65535", with(8, &[0xff, 0xff]), Corrupt),
        (
            "header_len one short",
            with(8, &u16::try_from(header.len() - 1).unwrap().to_le_bytes()),
            Corrupt,
        ),
        ("v2 header_len 2^32-1", huge(2, u32::MAX), Limit),
        ("v3 header_len 2^31", huge(3, 1 << 31), Limit),
        ("v2 header_len past the end", huge(2, 1000), Corrupt),
        (
            "v2 header of more than 1 MiB",
            npy_version([2, 0], long_header.as_bytes(), &[0; 8]),
            Limit,
        ),
        ("v2", npy_version([2, 0], header.as_bytes(), &[0; 8]), Good),
        ("v3", npy_version([3, 0], header.as_bytes(), &[0; 8]), Good),
        (
            "v3 not UTF-8",
            npy_version([3, 0], b"{'descr': '\xff'}", &[0; 8]),
            Corrupt,
        ),
        (
            "v3 with the suffix of Python 2",
            npy_version([3, 0], dict("'<f4'", "(2L,)").as_bytes(), &[0; 8]),
            Corrupt,
        ),
        (
            "v2 with the suffix of Python 2",
            npy_version([2, 0], dict("'<f4'", "(2L,)").as_bytes(), &[0; 8]),
            Good,
        ),
        (
            "v1 not ASCII",
            npy_version([1, 0], b"{'descr': '\xe9'}", &[0; 8]),
            Corrupt,
        ),
        ("longer body", npy(&header, &[0; 9]), Good),
        ("body one short", npy(&header, &[0; 7]), Corrupt),
        ("no body", npy(&header, &[]), Corrupt),
    ];
    for (what, bytes, expected) in cases {
        let result = consume("x.npy", &bytes);
        assert_eq!(outcome(&result), expected, "{what}: {result:?}");
    }
}

#[test]
fn truncated_body_names_both_lengths() {
    let error = open_bytes("x.npy", &npy_of("<f4", false, "(100, 1000)", &[0; 17])).unwrap_err();
    let message = error.to_string();
    assert!(
        message.contains("truncated")
            && message.contains("400000 bytes of data")
            && message.contains("found 17")
    );
}

#[test]
fn every_cut_and_every_flip_is_typed_or_read() {
    let body: Vec<u8> = (0..24).collect();
    let archive = zip_of(&[("x.npy", npy_of("<i2", false, "(4, 3)", &body))], true);
    for (name, file) in [
        ("x.npy", npy_of("<i2", true, "(4, 3)", &body)),
        ("x.npz", archive),
    ] {
        for len in 0..file.len() {
            let result = consume(name, &file[..len]);
            assert!(
                matches!(outcome(&result), Corrupt | Limit | Unsupported),
                "{name} cut at {len}: {result:?}"
            );
        }
        for at in 0..file.len() {
            for bit in 0..8 {
                let mut damaged = file.clone();
                damaged[at] ^= 1 << bit;
                // Without a checksum (.npy) some damage is another array; with one it must not be.
                if let Ok(data) = consume(name, &damaged) {
                    assert!(
                        name == "x.npy" || data == body,
                        "{name} bit {bit} of byte {at}"
                    );
                }
            }
        }
    }
}

#[test]
fn every_dtype_and_byte_order_is_read() -> Result<()> {
    for dtype in DType::all().filter(|dtype| dtype.npy_descr().is_some() && *dtype != DType::Bool) {
        let code = &dtype.npy_descr().unwrap()[1..];
        let little: Vec<u8> = (0..6 * u8::try_from(dtype.size()).unwrap()).collect();
        let mut big = little.clone();
        big.chunks_exact_mut(dtype.size()).for_each(<[u8]>::reverse);
        for (order, body) in [("<", &little), (">", &big), ("=", &little), ("", &little)] {
            let mut input = open_bytes(
                "a b.npy",
                &npy_of(&format!("{order}{code}"), false, "(3, 2)", body),
            )?;
            let field = &mut input.fields[0];
            assert_eq!((field.name.as_str(), field.source.dtype()), ("a_b", dtype));
            assert_eq!(field.source.shape(), [Some(2)]);
            assert_eq!(field.source.raw_bytes(), little.len() as u64);
            assert_eq!(read_all(field, 2)?, little);
        }
    }
    assert_eq!(
        consume("x.npy", &npy_of("|b1", false, "(4,)", &[0, 1, 2, 255]))?,
        [0, 1, 1, 1]
    );
    Ok(())
}

#[test]
fn void_needs_a_dtype_of_its_size() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.npy");
    fs::write(&path, npy_of("<V2", false, "(2,)", &[1, 2, 3, 4])).unwrap();
    let as_dtype = |dtype| {
        open(
            &path,
            &ImportOptions {
                void_as: Some(dtype),
            },
        )
    };
    let mut input = as_dtype(DType::BF16)?;
    assert_eq!(input.fields[0].source.dtype(), DType::BF16);
    assert_eq!(read_all(&mut input.fields[0], 1)?, [1, 2, 3, 4]);
    assert!(as_dtype(DType::F8E5M2).unwrap_err().is_unsupported());
    fs::write(&path, npy_of("|V1", false, "(2,)", &[1, 2])).unwrap();
    assert_eq!(
        as_dtype(DType::F8E4M3FN)?.fields[0].source.dtype(),
        DType::F8E4M3FN
    );
    Ok(())
}

/// Fortran-order bytes of a u16 array of `shape` whose row-major elements are 0, 1, 2, ...
fn fortran(shape: &[usize]) -> (Vec<u8>, Vec<u8>) {
    let total: usize = shape.iter().product();
    let (mut rows, mut columns) = (vec![], vec![0; total * 2]);
    for n in 0..total {
        let value = u16::try_from(n % 65_521).unwrap().to_le_bytes();
        rows.extend(value);
        let (mut rest, mut at, mut stride) = (n, 0, total);
        for &dim in shape.iter().rev() {
            stride /= dim;
            at += rest % dim * stride;
            rest /= dim;
        }
        columns[at * 2..at * 2 + 2].copy_from_slice(&value);
    }
    (rows, columns)
}

#[test]
fn fortran_order_is_transposed() -> Result<()> {
    for shape in [
        vec![5],
        vec![1, 1],
        vec![4, 3],
        vec![300, 7, 11],
        vec![2, 3, 4, 5],
        vec![129, 67],
        vec![1, 40, 2],
    ] {
        let (rows, columns) = fortran(&shape);
        let text = format!("{shape:?},").replace('[', "(").replace("],", ",)");
        let file = npy_of("<u2", true, &text, &columns);
        for block in [1, 7, 1000] {
            let mut input = open_bytes("x.npy", &file)?;
            assert_eq!(
                read_all(&mut input.fields[0], block)?,
                rows,
                "{shape:?} by {block}"
            );
        }
        // Windows of all sizes: smaller than a sample, a few samples, everything.
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.npz");
        for (deflate, window_len) in [(true, 1), (false, rows.len() / 3), (true, 1 << 20)] {
            fs::write(&path, zip_of(&[("x.npy", file.clone())], deflate)).unwrap();
            let mut input = npz::open_npz(&path, &ImportOptions::default(), window_len)?;
            assert_eq!(
                read_all(&mut input.fields[0], 70)?,
                rows,
                "{shape:?} window {window_len}"
            );
        }
    }
    Ok(())
}

#[test]
fn reading_out_of_range_is_invalid() -> Result<()> {
    let mut out = Samples::default();
    let file = npy_of("<u2", false, "(3,)", &[0, 0, 1, 0, 2, 0]);
    for (name, bytes) in [
        ("x.npy", file.clone()),
        ("x.npz", zip_of(&[("x.npy", file)], false)),
    ] {
        let mut input = open_bytes(name, &bytes)?;
        let source = &mut input.fields[0].source;
        for (first, count) in [(0, 4), (3, 1), (4, 0), (u64::MAX, 1), (0, usize::MAX)] {
            assert_eq!(outcome(&source.read(first, count, &mut out)), Invalid);
        }
        source.read(2, 1, &mut out)?;
        assert_eq!(out.data, [2, 0]);
        source.read(0, 2, &mut out)?;
        assert_eq!(out.data, [0, 0, 1, 0]);
        source.read(3, 0, &mut out)?;
        assert!(out.data.is_empty());
    }
    Ok(())
}

fn zip_of(members: &[(&str, Vec<u8>)], deflate: bool) -> Vec<u8> {
    let method = if deflate {
        CompressionMethod::Deflated
    } else {
        CompressionMethod::Stored
    };
    let options = SimpleFileOptions::default().compression_method(method);
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, bytes) in members {
        writer.start_file(*name, options).unwrap();
        writer.write_all(bytes).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

/// One member of a hand-made archive: what it holds and what the archive says of it.
#[derive(Clone)]
struct RawMember {
    name: &'static str,
    data: Vec<u8>,
    method: u16,
    flags: u16,
    stored_len: u32,
    len: u32,
    crc: u32,
}

impl RawMember {
    fn stored(name: &'static str, data: Vec<u8>) -> Self {
        let len = u32::try_from(data.len()).unwrap();
        let mut crc = Crc::new();
        crc.update(&data);
        Self {
            name,
            method: 0,
            flags: 0,
            stored_len: len,
            len,
            crc: crc.sum(),
            data,
        }
    }

    fn deflated(name: &'static str, data: &[u8]) -> Self {
        let mut encoder =
            flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(data).unwrap();
        let encoded = encoder.finish().unwrap();
        let stored_len = u32::try_from(encoded.len()).unwrap();
        Self {
            method: 8,
            stored_len,
            data: encoded,
            ..Self::stored(name, data.to_vec())
        }
    }

    fn fields(&self) -> Vec<u8> {
        let mut out = vec![20, 0];
        out.extend(self.flags.to_le_bytes());
        out.extend(self.method.to_le_bytes());
        out.extend([0, 0, 33, 0]);
        for number in [self.crc, self.stored_len, self.len] {
            out.extend(number.to_le_bytes());
        }
        out.extend(u16::try_from(self.name.len()).unwrap().to_le_bytes());
        out.extend([0, 0]);
        out
    }
}

fn raw_zip(members: &[RawMember]) -> Vec<u8> {
    let (mut out, mut directory) = (Vec::new(), Vec::new());
    for member in members {
        directory.extend(b"PK\x01\x02\x14\x00");
        directory.extend(member.fields());
        directory.extend([0; 10]);
        directory.extend(u32::try_from(out.len()).unwrap().to_le_bytes());
        directory.extend(member.name.as_bytes());
        out.extend(b"PK\x03\x04");
        out.extend(member.fields());
        out.extend(member.name.as_bytes());
        out.extend(&member.data);
    }
    let (start, len) = (
        u32::try_from(out.len()).unwrap(),
        u32::try_from(directory.len()).unwrap(),
    );
    let count = u16::try_from(members.len()).unwrap().to_le_bytes();
    out.extend(directory);
    out.extend(b"PK\x05\x06\x00\x00\x00\x00");
    out.extend(count);
    out.extend(count);
    out.extend(len.to_le_bytes());
    out.extend(start.to_le_bytes());
    out.extend([0, 0]);
    out
}

#[test]
fn npz_members_are_fields() -> Result<()> {
    let x: Vec<u8> = (0..60).collect();
    let mut y = x.clone();
    y.chunks_exact_mut(4).for_each(<[u8]>::reverse);
    for deflate in [false, true] {
        let members = [
            ("x.npy", npy_of("<f4", false, "(5, 3)", &x)),
            ("y z.npy", npy_of(">i4", false, "(5, 1, 3)", &y)),
            ("e.npy", npy_of("|u1", false, "(5, 0)", &[])),
        ];
        let mut input = open_bytes("a.npz", &zip_of(&members, deflate))?;
        assert!(input.keys.is_none());
        let names: Vec<_> = input
            .fields
            .iter()
            .map(|field| field.name.as_str())
            .collect();
        assert_eq!(names, ["x", "y_z", "e"]);
        for block in [1, 2, 5] {
            assert_eq!(read_all(&mut input.fields[0], block)?, x);
            assert_eq!(read_all(&mut input.fields[1], block)?, x);
            assert!(read_all(&mut input.fields[2], block)?.is_empty());
        }
    }
    Ok(())
}

#[test]
fn hostile_archives_are_typed_errors() {
    let array = |n: usize| npy_of("|u1", false, &format!("({n},)"), &vec![9; n]);
    let stored = |name| RawMember::stored(name, array(5));
    let deflated = |name| RawMember::deflated(name, &array(5000));
    let lying = |member: RawMember, change: fn(&mut RawMember)| {
        let mut member = member;
        change(&mut member);
        raw_zip(&[member])
    };
    let named = |name| raw_zip(&[stored(name)]);
    let bomb = RawMember::deflated(
        "x.npy",
        &[npy_of("|u1", false, "(5,)", &[9; 5]), vec![0; 4 << 20]].concat(),
    );
    let claims = |shape: &str| {
        raw_zip(&[RawMember::deflated(
            "x.npy",
            &npy_of("<f8", false, shape, &[0; 64]),
        )])
    };
    let mut overlap = raw_zip(&[stored("x.npy"), stored("y.npy")]);
    let second = overlap
        .windows(4)
        .rposition(|w| w == b"PK\x01\x02")
        .unwrap();
    overlap[second + 42..second + 46].copy_from_slice(&[0; 4]);
    let mut local_name = raw_zip(&[stored("x.npy")]);
    local_name[30] = b'z';
    let mut many = raw_zip(&[stored("x.npy")]);
    let end = many.len() - 22;
    many[end + 8..end + 12].copy_from_slice(&[0xfe, 0xff, 0xfe, 0xff]);
    let cases: Vec<(&str, Vec<u8>, Outcome)> = vec![
        ("stored", raw_zip(&[stored("x.npy"), stored("y.npy")]), Good),
        ("deflated", raw_zip(&[deflated("x.npy")]), Good),
        ("empty file", vec![], Corrupt),
        ("no archive", array(5), Corrupt),
        ("no members", raw_zip(&[]), Invalid),
        ("lone end record of a huge directory", many, Corrupt),
        ("slip up", named("../../x.npy"), Unsupported),
        ("slip down", named("a/b.npy"), Unsupported),
        ("absolute", named("/etc/passwd.npy"), Unsupported),
        ("backslash", named("..\\x.npy"), Unsupported),
        ("NUL", named("x\0.npy"), Unsupported),
        ("newline", named("x\n.npy"), Unsupported),
        ("no name", named(".npy"), Unsupported),
        (
            "folder",
            raw_zip(&[RawMember::stored("x.npy/", vec![])]),
            Unsupported,
        ),
        ("not an array", named("readme.txt"), Unsupported),
        (
            "same name twice",
            raw_zip(&[stored("x.npy"), stored("x.npy")]),
            Corrupt,
        ),
        (
            "same field twice",
            raw_zip(&[stored("x y.npy"), stored("x_y.npy")]),
            Unsupported,
        ),
        ("two headers, two names", local_name, Corrupt),
        ("overlapping members", overlap, Corrupt),
        (
            "different lengths",
            raw_zip(&[stored("x.npy"), RawMember::stored("y.npy", array(6))]),
            Unsupported,
        ),
        (
            "encrypted",
            lying(stored("x.npy"), |m| m.flags = 1),
            Unsupported,
        ),
        (
            "bzip2",
            lying(stored("x.npy"), |m| m.method = 12),
            Unsupported,
        ),
        (
            "zstd",
            lying(stored("x.npy"), |m| m.method = 93),
            Unsupported,
        ),
        (
            "unknown method",
            lying(stored("x.npy"), |m| m.method = 777),
            Unsupported,
        ),
        (
            "wrong CRC, stored",
            lying(stored("x.npy"), |m| m.crc ^= 1),
            Corrupt,
        ),
        (
            "wrong CRC, deflated",
            lying(deflated("x.npy"), |m| m.crc ^= 1),
            Corrupt,
        ),
        (
            "length too large, stored",
            lying(stored("x.npy"), |m| m.len += 1),
            Corrupt,
        ),
        (
            "length too large, deflated",
            lying(deflated("x.npy"), |m| m.len += 1),
            Corrupt,
        ),
        (
            "length too small, deflated",
            lying(deflated("x.npy"), |m| m.len -= 1),
            Corrupt,
        ),
        (
            "length of 4 GiB, deflated",
            lying(deflated("x.npy"), |m| m.len = u32::MAX - 1),
            Corrupt,
        ),
        (
            "stored length past the end",
            lying(stored("x.npy"), |m| {
                (m.len, m.stored_len) = (1 << 20, 1 << 20)
            }),
            Corrupt,
        ),
        (
            "stored as deflated",
            lying(stored("x.npy"), |m| m.method = 8),
            Corrupt,
        ),
        (
            "cut stream",
            lying(deflated("x.npy"), |m| m.data[20..].fill(0xff)),
            Corrupt,
        ),
        (
            "bomb behind the array",
            raw_zip(&[RawMember { len: 128, ..bomb }]),
            Corrupt,
        ),
        ("array larger than its member", claims("(100,)"), Corrupt),
        ("array of 8 TiB", claims("(1099511627776,)"), Corrupt),
        (
            "array of Python objects",
            raw_zip(&[RawMember::stored(
                "x.npy",
                npy_of("|O", false, "(1,)", &[0; 9]),
            )]),
            Unsupported,
        ),
        (
            "no array in the member",
            raw_zip(&[RawMember::stored("x.npy", vec![0; 100])]),
            Corrupt,
        ),
        (
            "empty member",
            raw_zip(&[RawMember::stored("x.npy", vec![])]),
            Corrupt,
        ),
        (
            "array without axes",
            raw_zip(&[RawMember::stored("x.npy", npy_of("|u1", false, "()", &[0]))]),
            Unsupported,
        ),
    ];
    for (what, bytes, expected) in cases {
        let result = consume("x.npz", &bytes);
        assert_eq!(outcome(&result), expected, "{what}: {result:?}");
    }
}

fn folder_of(files: &[(&str, Vec<u8>)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        fs::write(folder.path().join(name), bytes).unwrap();
    }
    folder
}

#[test]
fn files_of_a_folder_are_samples() -> Result<()> {
    let folder = folder_of(&[
        ("b.npy", npy_of("<u2", false, "(2,)", &[1, 0, 2, 0])),
        ("a.npy", npy_of(">u2", false, "(2,)", &[0, 3, 0, 4])),
        ("B.NPY", npy_of("<u2", false, "(2,)", &[5, 0, 6, 0])),
        ("notes.txt", b"x".to_vec()),
    ]);
    fs::create_dir(folder.path().join("sub.npy")).unwrap();
    let mut input = open(folder.path(), &ImportOptions::default())?;
    assert_eq!(input.keys.unwrap(), ["B", "a", "b"]);
    let field = &mut input.fields[0];
    assert_eq!(
        (field.name.as_str(), field.source.shape()),
        ("data", [Some(2)].as_slice())
    );
    assert_eq!(field.source.raw_bytes(), 12);
    assert_eq!(read_all(field, 2)?, [5, 0, 6, 0, 3, 0, 4, 0, 1, 0, 2, 0]);
    assert_eq!(
        outcome(&field.source.read(2, 2, &mut Samples::default())),
        Invalid
    );

    // A file that changes between the two looks at it.
    fs::write(
        folder.path().join("a.npy"),
        npy_of("<u2", false, "(3,)", &[0; 6]),
    )
    .unwrap();
    assert_eq!(outcome(&read_all(field, 1)), Corrupt);
    fs::remove_file(folder.path().join("a.npy")).unwrap();
    assert_eq!(outcome(&read_all(field, 1)), Io);
    Ok(())
}

#[test]
fn dims_that_differ_are_ragged() -> Result<()> {
    let (rows, columns) = fortran(&[2, 3]);
    let folder = folder_of(&[
        ("0.npy", npy_of("<u2", false, "(2, 1)", &[1, 0, 2, 0])),
        ("1.npy", npy_of("<u2", false, "(2, 1)", &[3, 0, 4, 0])),
        ("2.npy", npy_of("<u2", true, "(2, 3)", &columns)),
        ("3.npy", npy_of("<u2", false, "(2, 0)", &[])),
    ]);
    let mut input = open(folder.path(), &ImportOptions::default())?;
    let source = &mut input.fields[0].source;
    assert_eq!(source.shape(), [Some(2), None]);
    assert_eq!(source.raw_bytes(), 20);
    let mut out = Samples::default();
    source.read(1, 3, &mut out)?;
    assert_eq!(out.shapes, [[2, 1], [2, 3], [2, 0]]);
    assert_eq!(out.data, [&[3, 0, 4, 0], rows.as_slice()].concat());
    source.read(0, 1, &mut out)?;
    assert_eq!(
        (out.shapes.as_slice(), out.data.as_slice()),
        ([vec![2, 1]].as_slice(), [1, 0, 2, 0].as_slice())
    );
    Ok(())
}

#[test]
fn per_sample_files_may_be_scalars() -> Result<()> {
    let folder = folder_of(&[
        ("0.npy", npy_of("<u2", false, "()", &[1, 0])),
        ("1.npy", npy_of("<u2", true, "()", &[2, 0])),
    ]);
    let mut input = open(folder.path(), &ImportOptions::default())?;
    assert!(input.fields[0].source.shape().is_empty());
    assert_eq!(read_all(&mut input.fields[0], 2)?, [1, 0, 2, 0]);
    Ok(())
}

#[test]
fn files_that_do_not_fit_together_are_typed_errors() {
    let options = ImportOptions::default();
    let good = npy_of("<u2", false, "(1,)", &[1, 0]);
    let cases: Vec<(&str, Vec<u8>, Outcome)> = vec![
        (
            "another dtype",
            npy_of("<i2", false, "(1,)", &[1, 0]),
            Unsupported,
        ),
        (
            "another rank",
            npy_of("<u2", false, "(1, 1)", &[1, 0]),
            Unsupported,
        ),
        ("truncated", npy_of("<u2", false, "(9,)", &[1, 0]), Corrupt),
        ("empty", vec![], Corrupt),
        ("objects", npy_of("|O", false, "(1,)", &[1, 0]), Unsupported),
    ];
    for (what, bytes, expected) in cases {
        let folder = folder_of(&[("a.npy", good.clone()), ("b.npy", bytes)]);
        let error = open(folder.path(), &options);
        assert_eq!(outcome(&error), expected, "{what}");
        assert!(error.unwrap_err().to_string().contains("b.npy"), "{what}");
    }
    let folder = folder_of(&[("a.txt", good.clone())]);
    assert_eq!(outcome(&open(folder.path(), &options)), Invalid);
    assert_eq!(
        outcome(&open(&folder.path().join("a.txt"), &options)),
        Unsupported
    );
    assert_eq!(
        outcome(&open(&folder.path().join("missing.npy"), &options)),
        Io
    );
    assert_eq!(outcome(&open_files(&[], &options)), Invalid);
    let (one, two) = (
        folder_of(&[("a.npy", good.clone())]),
        folder_of(&[("a.npy", good)]),
    );
    let paths = [one.path().join("a.npy"), two.path().join("a.npy")];
    assert_eq!(outcome(&open_files(&paths, &options)), Invalid);
    assert_eq!(
        open_files(&paths[..1], &options).unwrap().keys.unwrap(),
        ["a"]
    );
}

#[cfg(unix)]
#[test]
fn links_to_files_are_followed() {
    let other = folder_of(&[("x", npy_of("<u2", false, "(1,)", &[1, 0]))]);
    let folder = folder_of(&[]);
    std::os::unix::fs::symlink(other.path().join("x"), folder.path().join("a.npy")).unwrap();
    assert_eq!(
        open(folder.path(), &ImportOptions::default())
            .unwrap()
            .keys
            .unwrap(),
        ["a"]
    );
    std::os::unix::fs::symlink(other.path().join("nothing"), folder.path().join("b.npy")).unwrap();
    assert_eq!(outcome(&open(folder.path(), &ImportOptions::default())), Io);
}

#[test]
fn emitted_headers_are_read_back() -> Result<()> {
    let long: Vec<usize> = vec![1; 32];
    for dtype in DType::all() {
        for shape in [
            &[][..],
            &[7],
            &[0, 3],
            &[2, 3, 4],
            &[usize::MAX >> 40, 0],
            &long,
        ] {
            let options = ImportOptions {
                void_as: Some(dtype),
            };
            let file = emit_header(npy_descr(dtype), shape);
            assert_eq!(file.len() % 64, 0);
            assert_eq!((file[6], file.last().copied()), (1, Some(b'\n')));
            let header = NpyHeader::read(&mut file.as_slice(), u64::MAX, Path::new("x"), &options)?;
            assert_eq!((header.dtype, header.shape.as_slice()), (dtype, shape));
            assert_eq!(header.data_offset, file.len() as u64);
        }
    }
    let file = emit_header("<f4", &[1; 30_000]);
    assert_eq!((file.len() % 64, file[6]), (0, 2));
    assert_eq!(
        usize::try_from(u32::from_le_bytes([file[8], file[9], file[10], file[11]])).unwrap(),
        file.len() - 12
    );
    Ok(())
}
