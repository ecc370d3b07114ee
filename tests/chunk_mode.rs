//! Predict with a mode that every chunk chooses: what it saves, that it reads back through every door, and damage.
#![expect(
    clippy::cast_possible_truncation,
    reason = "small numbers made for tests"
)]
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::fs;
use std::path::Path;

use common::forge::{Forge, first_shard};
use common::{Random, collect, elements};
use tensorshard::{
    CodecSpec, DType, Dataset, ErrorKind, FieldOutput, FieldSpec, FilterSpec, Loader, QuantSpec,
    Result, Scales, ShardWriter, Shuffle, SplitId, TensorView, Unlisted, salvage, to_le_bytes,
};

const MODES: [&str; 5] = ["none", "left", "up", "2d", "3d"];

fn filters(text: &str) -> Vec<FilterSpec> {
    text.split(',')
        .map(|filter| FilterSpec::parse(filter).unwrap())
        .collect()
}

/// A sample of shape [4, 24, 20] for which one mode is best by far.
fn sample_for(mode: &str, random: &mut Random) -> Vec<u8> {
    let mut wild = |n: usize| -> Vec<u8> { (0..n).map(|_| random.next() as u8).collect() };
    let (rows, columns, planes) = (wild(4 * 24), wild(20 * 4), wild(24 * 20));
    let grain = wild(4 * 24 * 20);
    let mut out = Vec::new();
    for z in 0..4 {
        for y in 0..24 {
            for x in 0..20 {
                let (row, column) = (rows[z * 24 + y], columns[z * 20 + x]);
                let base = match mode {
                    "none" => 0,
                    "left" => row,
                    "up" => column,
                    "2d" => row.wrapping_add(column),
                    // Of three functions of two coordinates each only the differences along all axes vanish.
                    _ => row.wrapping_add(column).wrapping_add(planes[y * 20 + x]),
                };
                out.push(base.wrapping_add(grain[out.len()] % 6));
            }
        }
    }
    out
}

/// `per_chunk` samples for each mode, mode after mode, twice.
fn mixed(per_chunk: usize) -> Vec<Vec<u8>> {
    let mut random = Random(77);
    (0..2 * MODES.len() * per_chunk)
        .map(|i| sample_for(MODES[i / per_chunk % MODES.len()], &mut random))
        .collect()
}

fn write(path: &Path, field: FieldSpec, per_chunk: u32, data: &[(Vec<usize>, Vec<u8>)]) {
    let (name, dtype) = (field.name().to_owned(), field.dtype().unwrap());
    let mut writer = ShardWriter::builder()
        .field(field)
        .samples_per_chunk(per_chunk)
        .shard_ids_from(1)
        .create(path)
        .unwrap();
    for (shape, bytes) in data {
        let view = TensorView::new(dtype, shape, bytes).unwrap();
        writer.append(&[(name.as_str(), view)]).unwrap();
    }
    writer.finish().unwrap();
}

/// Where the stream entries of a chunk are.
fn entry(shard: &Forge, chunk: usize, stream: usize) -> usize {
    shard.chunks[chunk].at + 48 + 16 * stream
}

/// What the chunks of the first shard have chosen for the first field.
fn modes_of(folder: &Path) -> Vec<u8> {
    let shard = Forge::new(first_shard(folder));
    let chunks = 0..shard.chunks.len();
    chunks
        .map(|chunk| shard.bytes[entry(&shard, chunk, 0) + 6])
        .collect()
}

#[test]
fn mixed_chunks_are_smaller_than_with_any_one_mode() {
    let dir = tempfile::tempdir().unwrap();
    let data: Vec<(Vec<usize>, Vec<u8>)> = mixed(6)
        .into_iter()
        .map(|bytes| (vec![4, 24, 20], bytes))
        .collect();
    let size = |mode: &str| {
        let path = dir.path().join(mode);
        let field = FieldSpec::new("x", DType::U8, [4, 24, 20])
            .filter_specs(filters(&format!("predict:{mode}")))
            .codec(CodecSpec::parse("prefix").unwrap());
        write(&path, field, 6, &data);
        first_shard(&path).len()
    };
    let smallest = MODES.map(size).into_iter().min().unwrap();
    let chosen = size("chunk");
    assert_eq!(
        modes_of(&dir.path().join("chunk")),
        [0, 1, 2, 3, 4, 0, 1, 2, 3, 4]
    );
    assert!(chosen * 10 < smallest * 9, "{chosen} {smallest}");
    // The choice is a function of the chunk alone.
    let again = dir.path().join("again");
    let field = FieldSpec::new("x", DType::U8, [4, 24, 20])
        .filter_specs(filters("predict:chunk"))
        .codec(CodecSpec::parse("prefix").unwrap());
    write(&again, field, 6, &data);
    assert!(first_shard(&again) == first_shard(&dir.path().join("chunk")));
}

/// Reads a field by random access, batch by batch, and sample by sample from the last to the first.
fn read_back(path: &Path) -> Result<Vec<Vec<u8>>> {
    let dataset = Dataset::open(path)?;
    assert!(dataset.verify(&|_| ()).is_intact());
    let get = |i: u64| Ok(dataset.get(i)?.tensor("x")?.data().to_vec());
    let mut values = (0..dataset.len())
        .rev()
        .map(get)
        .collect::<Result<Vec<Vec<u8>>>>()?;
    values.reverse();
    let loader = Loader::builder().shuffle(Shuffle::None);
    let mut batched = Vec::new();
    for batch in collect(loader, path, 4)? {
        for i in 0..batch.sample_ids().len() {
            batched.push(batch.field("x")?.sample(i)?.data().to_vec());
        }
    }
    assert!(batched == values);
    Ok(values)
}

#[test]
fn every_shape_and_size_reads_back() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let mut random = Random(5);
    let mut case = 0;
    let mut check = |field: FieldSpec, data: &[(Vec<usize>, Vec<u8>)], what: &str| -> Result<()> {
        case += 1;
        let path = dir.path().join(case.to_string());
        write(&path, field, 5, data);
        let back = read_back(&path)?;
        assert!(
            back.iter().eq(data.iter().map(|(_, bytes)| bytes)),
            "{what}"
        );
        fs::remove_dir_all(&path).unwrap();
        Ok(())
    };
    let shapes: [&[usize]; 13] = [
        &[],
        &[1],
        &[9],
        &[3, 0, 2],
        &[1, 1, 1],
        &[5, 7],
        &[3, 17, 9],
        &[2, 3, 4, 5],
        &[40, 41, 42],
        &[3, 150, 151],
        &[150, 151, 3],
        &[2, 70_000],
        &[70_000],
    ];
    let dtypes = [DType::U8, DType::I16, DType::U32, DType::U64];
    for (i, shape) in shapes.into_iter().enumerate() {
        let n: usize = shape.iter().product();
        for (j, dtype) in dtypes.into_iter().enumerate() {
            // Large ones once.
            if n > 10_000 && i % dtypes.len() != j {
                continue;
            }
            for text in [
                "predict:chunk",
                "predict:chunk:channel=0:zigzag",
                "delta,predict:chunk:channel=0:reference=none,byte_shuffle",
            ] {
                if text.contains("channel") && shape.first().is_none_or(|dim| *dim < 2) {
                    continue;
                }
                let data: Vec<(Vec<usize>, Vec<u8>)> = (0..7)
                    .map(|_| (shape.to_vec(), elements(dtype, n, &mut random)))
                    .collect();
                let mut field = FieldSpec::new("x", dtype, shape).filter_specs(filters(text));
                if dtype.size() > 1 && i % 2 == 0 {
                    field = field.split(SplitId::BYTE_SPLIT);
                }
                check(field, &data, &format!("{dtype} {shape:?} {text}"))?;
            }
        }
    }
    // Every number of elements, whole and in parts.
    for n in (0..70).chain([255, 256, 1000, 2000, 65_535, 65_536, 65_537, 131_073]) {
        let data: Vec<(Vec<usize>, Vec<u8>)> = (0..6)
            .map(|_| (vec![n], elements(DType::U8, n, &mut random)))
            .collect();
        let field = FieldSpec::new("x", DType::U8, [n]).filter_specs(filters("predict:chunk"));
        check(field, &data, &format!("{n}"))?;
        let ragged =
            FieldSpec::ragged("x", DType::U8, [None]).filter_specs(filters("predict:chunk"));
        check(ragged, &data, &format!("ragged {n}"))?;
    }
    // Ranks and dims of their own.
    let data: Vec<(Vec<usize>, Vec<u8>)> = (0..40)
        .map(|i| {
            let most = if i % 9 == 8 { 90 } else { 9 };
            let shape: Vec<usize> = (0..i % 4).map(|_| random.below(most)).collect();
            let bytes = elements(DType::U16, shape.iter().product(), &mut random);
            (shape, bytes)
        })
        .collect();
    let any = FieldSpec::any_shape("x", DType::U16)
        .filter_specs(filters("predict:chunk:channel=1:zigzag"));
    check(any.clone(), &data, "any shape")?;
    check(any.split(SplitId::BYTE_SPLIT), &data, "any shape, split")
}

#[test]
fn quantized_fields_choose_by_what_they_store() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("d");
    let mut random = Random(6);
    let data: Vec<(Vec<usize>, Vec<u8>)> = MODES
        .iter()
        .flat_map(|mode| {
            let sample = sample_for(mode, &mut random);
            let floats: Vec<f32> = sample.iter().map(|x| f32::from(*x as i8)).collect();
            std::iter::repeat_n((vec![4, 24, 20], to_le_bytes(&floats)), 3)
        })
        .collect();
    let field = FieldSpec::new("x", DType::F32, [4, 24, 20])
        .quantize(QuantSpec::parse("abs_error:0.5:bits=8")?)
        .filter_specs(filters("predict:chunk"))
        .codec(CodecSpec::parse("prefix")?);
    write(&path, field, 3, &data);
    assert_eq!(modes_of(&path).len(), MODES.len());
    for (back, (_, bytes)) in read_back(&path)?.iter().zip(&data) {
        let floats = |bytes: &[u8]| -> Vec<f32> {
            let words = bytes.as_chunks().0.iter();
            words.map(|word| f32::from_le_bytes(*word)).collect()
        };
        let pairs = floats(back).into_iter().zip(floats(bytes));
        assert!(pairs.into_iter().all(|(a, b)| (a - b).abs() <= 0.5));
    }
    // Codes as they are stored, too: of a scale of 1 they are the values.
    let path = dir.path().join("codes");
    let one = Scales {
        scales: vec![1.0],
        zero_points: vec![0],
    };
    let field = FieldSpec::new("x", DType::F32, [4, 24, 20])
        .quantize(QuantSpec::int8().per_tensor().asymmetric().scales(one))
        .filter_specs(filters("predict:chunk"));
    write(&path, field, 3, &data);
    let loader = Loader::builder()
        .output("x", FieldOutput::new().quantized())
        .shuffle(Shuffle::None);
    let mut read = Vec::new();
    for batch in collect(loader, &path, 4)? {
        read.extend(batch.field("x")?.as_slice::<i8>()?.to_vec());
    }
    let values = data.iter().flat_map(|(_, bytes)| bytes.as_chunks().0);
    let values: Vec<i8> = values.map(|word| f32::from_le_bytes(*word) as i8).collect();
    assert!(read == values);
    Ok(())
}

/// The shard with one byte of a stream entry changed and its checksums right.
fn with_mode(shard: &Forge, chunk: usize, stream: usize, at: usize, value: u8) -> Vec<u8> {
    let mut out = shard.clone();
    out.bytes[entry(shard, chunk, stream) + at] = value;
    out.sign();
    out.bytes
}

#[test]
fn wrong_modes_are_corrupt() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("d");
    let mut writer = ShardWriter::builder()
        .field(
            FieldSpec::new("chosen", DType::U16, [6, 8])
                .filter_specs(filters("predict:chunk"))
                .split(SplitId::BYTE_SPLIT),
        )
        .field(FieldSpec::new("fixed", DType::U8, [6]).filter_specs(filters("predict:left")))
        .field(
            FieldSpec::ragged("ragged", DType::U8, [None]).filter_specs(filters("predict:chunk")),
        )
        .samples_per_chunk(2)
        .shard_ids_from(3)
        .create(&path)?;
    for i in 0..4u8 {
        let chosen: Vec<u16> = (0..48).map(|x| u16::from(i) + x * 700).collect();
        writer.append(&[
            (
                "chosen",
                TensorView::new(DType::U16, &[6, 8], &to_le_bytes(&chosen))?,
            ),
            ("fixed", TensorView::new(DType::U8, &[6], &[i; 6])?),
            ("ragged", TensorView::new(DType::U8, &[3], &[i; 3])?),
        ])?;
    }
    writer.finish()?;
    let shard = Forge::new(first_shard(&path));
    let read = |bytes: Vec<u8>| {
        let dataset = Dataset::builder().open_bytes(bytes)?;
        dataset.get_many(&(0..dataset.len()).collect::<Vec<u64>>())
    };
    assert_eq!(read(shard.bytes.clone())?.len(), 4);
    // Streams: two planes, the plane of `fixed`, plane and shapes of `ragged`.
    assert_eq!(shard.chunks[1].streams.len(), 5);
    let mode = modes_of(&path)[1];
    assert!(with_mode(&shard, 1, 0, 6, mode) == shard.bytes);
    let mut wrong = Vec::new();
    for value in [5, 6, 255] {
        wrong.extend([(0, 6, value), (4, 6, value), (2, 6, value)]);
    }
    // Planes that differ, a mode where none is chosen, and in a stream that is no plane; the high byte.
    wrong.extend([(0, 6, 4 - mode), (1, 6, 4 - mode), (2, 6, 1), (4, 6, 1)]);
    wrong.extend((0..5).map(|entry| (entry, 7, 1)));
    for (entry, at, value) in wrong {
        let error = read(with_mode(&shard, 1, entry, at, value)).unwrap_err();
        let what = format!("{entry} {at} {value}: {error:?}");
        assert!(matches!(error.kind(), ErrorKind::Corrupt { .. }), "{what}");
        assert!(error.to_string().contains("predict_mode"), "{what}");
    }
    // Another mode in all planes is another file, not a damaged one.
    let other = with_mode(&shard, 1, 3, 6, 1);
    assert_eq!(read(other)?.len(), 4);
    Ok(())
}

#[test]
fn salvage_keeps_what_chunks_have_chosen() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let (path, out) = (dir.path().join("d"), dir.path().join("out"));
    let data: Vec<(Vec<usize>, Vec<u8>)> = mixed(3)
        .into_iter()
        .map(|bytes| (vec![4, 24, 20], bytes))
        .collect();
    let field = FieldSpec::new("x", DType::U8, [4, 24, 20])
        .filter_specs(filters("predict:chunk"))
        .codec(CodecSpec::parse("prefix")?);
    write(&path, field, 3, &data);
    // The footer, the index and a part of the last chunk are lost.
    let report = Dataset::open(&path)?.inspect()?;
    let file = path.join(&report.shards[0].file_name);
    let shard = Forge::new(fs::read(&file).unwrap());
    fs::write(&file, &shard.bytes[..shard.index.start - 100]).unwrap();
    salvage(&path, &out, Unlisted::Auto)?;
    assert_eq!(modes_of(&out), [0, 1, 2, 3, 4, 0, 1, 2, 3]);
    let back = read_back(&out)?;
    assert!(back.iter().eq(data[..27].iter().map(|(_, bytes)| bytes)));
    Ok(())
}

#[test]
fn a_field_has_one_such_filter_at_most() {
    let dir = tempfile::tempdir().unwrap();
    let field = FieldSpec::new("x", DType::U8, [8])
        .filter_specs(filters("predict:chunk,delta,predict:chunk"));
    let error = ShardWriter::builder()
        .field(field)
        .create(dir.path().join("d"))
        .err()
        .unwrap();
    assert!(
        error.to_string().contains("more than one filter"),
        "{error}"
    );
}
