//! format-spec.md and the code say the same: id tables, limits of versions, and the annotated hex dump.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::fs;
use std::path::Path;

use tensorshard::{
    CodecSpec, DType, Dataset, FieldSpec, FilterSpec, QuantSpec, Result, ShardWriter, SplitId,
    TensorView, to_le_bytes,
};

fn spec() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("format-spec.md")).unwrap()
}

/// The text from `## N.` to the next `## `.
fn section(number: u32) -> String {
    let text = spec();
    let start = text.find(&format!("\n## {number}. ")).unwrap() + 1;
    let end = text[start..]
        .find("\n## ")
        .map_or(text.len(), |len| start + len);
    text[start..end].to_owned()
}

/// (id, name) of the rows of the first table of a section whose name is in use.
fn ids(number: u32) -> Vec<(u16, String)> {
    ids_in(&section(number))
}

/// The same of the first table of `text`.
fn ids_in(text: &str) -> Vec<(u16, String)> {
    let table = text
        .lines()
        .skip_while(|line| !line.starts_with('|'))
        .take_while(|line| line.starts_with('|'));
    let mut rows = Vec::new();
    for line in table {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        if cells.len() > 3
            && let Ok(id) = cells[1].parse::<u16>()
            && !line.ends_with("reserved |")
            && cells[2]
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || c == '_')
        {
            rows.push((id, cells[2].to_owned()));
        }
    }
    rows
}

#[test]
fn dtype_table_matches() {
    let code: Vec<(u16, String)> = DType::all()
        .map(|dtype| (dtype.id(), dtype.name().to_owned()))
        .collect();
    assert_eq!(ids(6), code);
    for line in section(6).lines() {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        if let Some(dtype) = cells.get(2).and_then(|name| DType::from_name(name)) {
            assert_eq!(
                cells[3].parse::<usize>().unwrap(),
                dtype.size() * 8,
                "{dtype}"
            );
        }
    }
}

#[test]
fn codec_table_matches() -> Result<()> {
    let rows = ids(7);
    assert_eq!(rows.len(), 9);
    for (id, name) in rows {
        if name == "lzo" && cfg!(not(feature = "lzo")) {
            continue;
        }
        assert_eq!(CodecSpec::parse(&name)?.id().get(), id, "{name}");
    }
    Ok(())
}

#[test]
fn filter_table_matches() -> Result<()> {
    let rows = ids(8);
    assert_eq!(rows.len(), 5);
    for (id, name) in rows {
        assert_eq!(
            FilterSpec::parse(&format!("{name}:4"))?.id().get(),
            id,
            "{name}"
        );
    }
    Ok(())
}

#[test]
fn split_table_matches() -> Result<()> {
    let text = section(8);
    let rows = ids_in(&text[text.find("\n### 8.2 ").unwrap()..]);
    assert_eq!(rows.len(), 2);
    for (id, name) in rows {
        assert_eq!(SplitId::parse(&name)?.get(), id, "{name}");
    }
    Ok(())
}

#[test]
fn quantizer_table_matches() -> Result<()> {
    let rows = ids(9);
    assert_eq!(
        rows.iter()
            .map(|(_, name)| name.as_str())
            .collect::<Vec<_>>(),
        [
            "identity",
            "cast",
            "affine",
            "abs_error",
            "fp8",
            "codebook",
            "mx"
        ]
    );
    for (text, name) in [
        ("identity", "identity"),
        ("f16", "cast"),
        ("int8", "affine"),
        ("abs_error:0.1:bits=8", "abs_error"),
        ("fp8", "fp8"),
        ("nf4", "codebook"),
        ("mxfp4", "mx"),
    ] {
        let id = rows.iter().find(|(_, row)| row == name).unwrap().0;
        assert_eq!(
            QuantSpec::parse(text)?
                .resolve(DType::F32, Some(1))?
                .id()
                .get(),
            id
        );
    }
    Ok(())
}

/// The bytes of the first hex dump in section 15: lines `offset  bytes  words`.
fn dump() -> Vec<u8> {
    let text = section(15);
    let body = text.split("```").nth(1).unwrap();
    let mut bytes = Vec::new();
    for line in body.lines().filter(|line| !line.trim().is_empty()) {
        let (offset, rest) = line.split_once("  ").unwrap();
        assert_eq!(
            usize::from_str_radix(offset.trim(), 16).unwrap(),
            bytes.len(),
            "{line}"
        );
        let hex = rest.split("  ").next().unwrap();
        bytes.extend(
            hex.split_whitespace()
                .map(|byte| u8::from_str_radix(byte, 16).unwrap()),
        );
    }
    bytes
}

fn tiny_shard() -> Result<Vec<u8>> {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = ShardWriter::builder()
        .field(FieldSpec::new("x", DType::F32, [2]).quantize(QuantSpec::int8()))
        .samples_per_chunk(2)
        .shard_ids_from(0)
        .create(dir.path().join("d"))?;
    for pair in [[0.0f32, 1.0], [-2.54, 0.3], [0.5, 0.5]] {
        writer.append(&[("x", TensorView::new(DType::F32, &[2], &to_le_bytes(&pair))?)])?;
    }
    writer.finish()?;
    let mut files = fs::read_dir(dir.path().join("d"))
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let shard = files
        .find(|path| path.extension().is_some_and(|e| e == "tshard"))
        .unwrap();
    Ok(fs::read(shard).unwrap())
}

#[test]
fn annotated_hex_dump_is_what_the_writer_writes() -> Result<()> {
    let bytes = tiny_shard()?;
    if let Some(path) = std::env::var_os("TENSORSHARD_WRITE_TINY_SHARD") {
        fs::write(path, &bytes).unwrap();
    }
    assert_eq!(dump(), bytes);
    let dataset = Dataset::builder().open_bytes(bytes)?;
    assert_eq!(
        dataset.get(2)?.tensor("x")?.to_vec::<f32>()?,
        [0.50000006; 2]
    );
    Ok(())
}
