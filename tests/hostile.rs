//! Files that somebody made to do harm, with checksums that hold: typed errors or consistent data, within bounded
//! memory, and `verify` says what the loader says (R3 to R6, R31).
#![expect(clippy::unwrap_used, reason = "helpers of tests")]
#![expect(
    clippy::cast_possible_truncation,
    reason = "small numbers made for tests"
)]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};

use common::forge::{Forge, first_shard};
use common::{CODECS, Random, asked, random, scratch};
use serde_json::{Value, json};
use tensorshard::{
    CodecSpec, DType, Dataset, Error, ErrorKind, FieldSpec, Kind, Loader, QuantSpec, Result,
    Sample, ShardWriter, SplitId, TensorView, Unlisted, salvage, to_le_bytes,
};

/// Counts the largest allocation of each thread.
struct Counting;

thread_local! {
    static LARGEST: Cell<usize> = const { Cell::new(0) };
}

fn count(bytes: usize) {
    // Not while the thread ends.
    let _ = LARGEST.try_with(|largest| largest.set(largest.get().max(bytes)));
}

#[expect(unsafe_code, reason = "an allocator that counts")]
// SAFETY: everything is passed on to the system's allocator, which keeps the contract.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: as the caller's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: as the caller's.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        count(new_size);
        // SAFETY: as the caller's.
        unsafe { System.realloc(pointer, layout, new_size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as the caller's.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The result of `f`, and the largest allocation of this thread meanwhile.
fn largest_allocation<T>(f: impl FnOnce() -> T) -> (T, usize) {
    LARGEST.set(0);
    let out = f();
    (out, LARGEST.get())
}

/// A shard with fields of every kind: fixed, quantized with patches, ragged, text, free and split.
fn rich_shard(codec: &str) -> Result<Forge> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("d");
    let codec = CodecSpec::parse(codec)?;
    let mut writer = ShardWriter::builder()
        .field(FieldSpec::new("a", DType::U16, [40]).codec(codec))
        .field(
            FieldSpec::new("b", DType::F32, [4, 8])
                .codec(codec)
                .quantize(QuantSpec::parse("uint8:asym:per-sample:patch")?),
        )
        .field(FieldSpec::string("c").codec(codec))
        .field(FieldSpec::ragged("d", DType::I32, [None, Some(2)]).codec(codec))
        .field(FieldSpec::any("e").codec(codec))
        .field(
            FieldSpec::new("f", DType::F16, [12])
                .split(SplitId::FLOAT_SPLIT)
                .codecs([codec, CodecSpec::parse("none")?]),
        )
        .samples_per_chunk(3)
        .num_workers(1)
        .shard_ids_from(1)
        .create(&path)?;
    for i in 0..7u16 {
        let a: Vec<u16> = (0..40).map(|j| (i + j) / 8).collect();
        let mut b: Vec<f32> = (0..32u16).map(|j| f32::from(i * 5 + j / 4)).collect();
        b[usize::from(i)] = f32::NAN;
        let c = "word ".repeat(usize::from(i));
        let d: Vec<i32> = (0..i32::from(i % 4) * 2).collect();
        let (dtype, shape): (DType, &[usize]) = match i % 2 {
            0 => (DType::F32, &[]),
            _ => (DType::I16, &[2, 1]),
        };
        let f = [0x3C00 + i; 12];
        writer.append(&[
            ("a", TensorView::new(DType::U16, &[40], &to_le_bytes(&a))?),
            ("b", TensorView::new(DType::F32, &[4, 8], &to_le_bytes(&b))?),
            ("c", TensorView::new(DType::U8, &[c.len()], c.as_bytes())?),
            (
                "d",
                TensorView::new(DType::I32, &[d.len() / 2, 2], &to_le_bytes(&d))?,
            ),
            ("e", TensorView::new(dtype, shape, &[i as u8; 4])?),
            ("f", TensorView::new(DType::F16, &[12], &to_le_bytes(&f))?),
        ])?;
    }
    writer.finish()?;
    Ok(Forge::new(first_shard(&path)))
}

fn open(bytes: &[u8]) -> Result<Dataset> {
    Dataset::builder().open_bytes(bytes.to_vec())
}

fn read_all(dataset: &Dataset) -> Result<Vec<Sample>> {
    dataset.get_many(&(0..dataset.len()).collect::<Vec<_>>())
}

fn assert_typed(error: &Error, what: &str) {
    let typed = matches!(
        error.kind(),
        ErrorKind::Corrupt { .. } | ErrorKind::LimitExceeded { .. } | ErrorKind::Unsupported { .. }
    );
    assert!(typed && error.path().is_some(), "{what}: {error:?}");
}

/// What is accepted is what the schema says.
fn assert_consistent(dataset: &Dataset, samples: &[Sample], what: &str) {
    for sample in samples {
        for field in dataset.fields() {
            let tensor = sample.tensor(field.name()).unwrap();
            let len: usize = tensor.shape().iter().product();
            assert_eq!(tensor.data().len(), len * tensor.dtype().size(), "{what}");
            if let Some(dims) = field.dims() {
                let fits = dims.iter().zip(tensor.shape());
                let fits = fits
                    .into_iter()
                    .all(|(dim, n)| dim.is_none_or(|dim| dim == *n));
                assert!(fits && dims.len() == tensor.shape().len(), "{what}");
            }
        }
    }
}

/// Allocations are bounded by the file, not by what it claims. A piece is at most 4 MiB; of what codecs can make of the
/// bytes present, a chunk's values are bounded by their largest expansion.
fn check_bounded(bytes: &[u8], what: &str) -> Option<Dataset> {
    let (opened, largest) = largest_allocation(|| open(bytes));
    let bound = (2 * bytes.len()).max(64 << 10);
    assert!(
        largest <= bound,
        "{what}: {largest} bytes at once to open {}",
        bytes.len()
    );
    match opened {
        Ok(dataset) => Some(dataset),
        Err(error) => {
            assert_typed(&error, what);
            None
        }
    }
}

#[test]
fn the_forge_makes_what_the_writer_makes() -> Result<()> {
    for codec in CODECS {
        let mut forge = rich_shard(codec)?;
        let valid = forge.bytes.clone();
        forge.sign();
        assert_eq!(forge.bytes, valid);
        let end = forge.chunks.last().map(|chunk| chunk.at + chunk.len);
        assert_eq!(end, Some(forge.index.start));
    }
    Ok(())
}

#[test]
fn header_and_footer_agree_on_version_and_features() -> Result<()> {
    let forge = rich_shard("lz4")?;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("one.tshard");
    // Offsets of the field in the header and in the footer.
    let fields = [
        ("version_major", 8, 56),
        ("version_minor", 10, 58),
        ("incompat", 16, 60),
        ("compat", 20, 64),
    ];
    for (name, header, footer) in fields {
        let footer = forge.footer + footer;
        for (places, both) in [
            (&[header][..], false),
            (&[footer], false),
            (&[header, footer], true),
        ] {
            let mut forged = forge.clone();
            for &at in places {
                forged.bytes[at] ^= 4;
            }
            forged.sign();
            let must_know = matches!(name, "version_major" | "incompat");
            fs::write(&path, &forged.bytes).unwrap();
            let opened = open(&forged.bytes).and_then(|dataset| read_all(&dataset));
            match (opened, both) {
                (Ok(_), true) => assert!(!must_know, "{name}"),
                (Ok(_), false) => panic!("{name} at {places:?} is not noticed"),
                (Err(error), _) if must_know && places.contains(&header) => {
                    assert!(error.is_unsupported(), "{name}: {error}");
                }
                (Err(error), _) => {
                    assert!(error.is_corrupt(), "{name}: {error}");
                    assert!(error.to_string().contains("header"), "{name}: {error}");
                    // What is between the ends is intact.
                    let rescued = folder.path().join(format!("rescued-{name}-{}", places[0]));
                    let report = salvage(&path, &rescued, Unlisted::Auto)?;
                    assert_eq!(Dataset::open(&rescued)?.len(), 7, "{report:?}");
                }
            }
        }
    }
    Ok(())
}

/// A field of the format, its width in bytes, and values that it must not have.
type Case = (&'static str, usize, usize, &'static [u64]);

#[test]
fn hostile_fields_are_refused_however_they_are_signed() -> Result<()> {
    const HUGE: u64 = u64::MAX;
    let forge = rich_shard("lz4")?;
    let (footer, index, chunk) = (forge.footer, forge.index.start, forge.chunks[1].at);
    let (stream, piece) = (chunk + 48, forge.chunks[1].streams[0][0].entry);
    let stats = chunk + 48 + 16 * forge.chunks[1].streams.len();
    let chunk_at = chunk as u64;
    let overlapping = &*vec![chunk_at - 64, chunk_at + 64, 0, 64, HUGE - 63, 1 << 40].leak();
    let cases: &[Case] = &[
        ("header: major", 8, 2, &[0, 2, 0xFFFF]),
        (
            "header: header_len",
            12,
            4,
            &[0, 1, 67, 1 << 24, 0xFFFF_FFFF],
        ),
        ("header: incompatible features", 16, 4, &[1, 1 << 31]),
        (
            "header: samples_per_chunk",
            40,
            4,
            &[0, 1, 2, 4, 1 << 25, 0xFFFF_FFFF],
        ),
        (
            "header: piece_bytes",
            44,
            4,
            &[0, 1, 4096, 65535, 8 << 20, 0xFFFF_FFFF],
        ),
        ("header: schema_len", 48, 4, &[0, 1, 1 << 24, 0xFFFF_FFFF]),
        ("header: reserved", 52, 4, &[1]),
        ("header: reserved", 56, 8, &[1, HUGE]),
        ("footer: shard_id", footer, 8, &[0]),
        (
            "footer: num_samples",
            footer + 16,
            8,
            &[0, 1, 4, 6, 9, 10, 1 << 48, HUGE],
        ),
        (
            "footer: num_chunks",
            footer + 24,
            8,
            &[0, 1, 2, 4, 1 << 60, HUGE],
        ),
        (
            "footer: index_offset",
            footer + 32,
            8,
            &[0, 64, 1 << 60, HUGE],
        ),
        ("footer: file_len", footer + 40, 8, &[0, 1, HUGE]),
        ("footer: version", footer + 56, 4, &[0, 2, HUGE >> 32]),
        ("footer: features", footer + 60, 4, &[1]),
        ("footer: compat", footer + 64, 4, &[1]),
        ("footer: reserved", footer + 68, 8, &[1]),
        ("index: offset", index + 24, 8, overlapping),
        (
            "index: chunk_len",
            index + 32,
            8,
            &[0, 1, 64, HUGE, HUGE - 63, 1 << 40],
        ),
        ("index: header_len", index + 40, 4, &[0, 1, 51, 0xFFFF_FFFF]),
        ("chunk: magic", chunk, 4, &[0]),
        ("chunk: header_len", chunk + 4, 4, &[0, 48, 0xFFFF_FFFF]),
        ("chunk: chunk", chunk + 8, 4, &[0, 2, 0xFFFF_FFFF]),
        ("chunk: num_samples", chunk + 12, 4, &[0, 1, 4, 0xFFFF_FFFF]),
        ("chunk: first_sample", chunk + 16, 8, &[0, 2, HUGE]),
        ("chunk: chunk_len", chunk + 24, 8, &[0, 64, HUGE]),
        ("chunk: num_streams", chunk + 32, 4, &[0, 1, 0xFFFF_FFFF]),
        ("chunk: num_stats", chunk + 36, 4, &[0, 2, 0xFFFF_FFFF]),
        ("chunk: num_pieces", chunk + 40, 4, &[0, 1, 0xFFFF_FFFF]),
        ("chunk: reserved", chunk + 44, 4, &[1]),
        ("stream: field", stream, 2, &[1, 5, 0xFFFF]),
        ("stream: role", stream + 2, 1, &[1, 2, 3, 4, 5, 255]),
        ("stream: plane", stream + 3, 1, &[1, 255]),
        ("stream: codec", stream + 4, 2, &[0, 1, 99, 0xFFFF]),
        ("stream: reserved", stream + 6, 2, &[1]),
        ("stream: num_pieces", stream + 8, 4, &[0, 2, 0xFFFF_FFFF]),
        ("stream: reserved", stream + 12, 4, &[1]),
        ("scales: field", stream + 32, 2, &[0, 2]),
        ("scales: role", stream + 34, 1, &[0, 2, 3, 4]),
        ("scales: codec", stream + 36, 2, &[99, 0xFFFF]),
        ("zero_points: field", stream + 48, 2, &[0, 2]),
        ("zero_points: role", stream + 50, 1, &[0, 1, 3, 4]),
        ("patches: field", stream + 64, 2, &[0, 2]),
        ("patches: role", stream + 66, 1, &[0, 1, 2, 3]),
        ("patches: codec", stream + 68, 2, &[99, 0xFFFF]),
        ("stats: field", stats, 2, &[0, 2, 0xFFFF]),
        ("stats: reserved", stats + 2, 2, &[1]),
        ("stats: count", stats + 8, 8, &[0, 1, HUGE]),
        ("stats: non_finite", stats + 16, 8, &[1000, HUGE]),
        (
            "stats: max_abs_error",
            stats + 24,
            8,
            &[0x7FF8 << 48, 0x7FF0 << 48, 0xBFF0 << 48],
        ),
        (
            "stats: rmse",
            stats + 32,
            8,
            &[0x7FF8 << 48, 0x7FF0 << 48, 0xBFF0 << 48],
        ),
        (
            "stats: rms",
            stats + 40,
            8,
            &[0x7FF8 << 48, 0x7FF0 << 48, 0xBFF0 << 48],
        ),
        (
            "piece: raw_len",
            piece,
            4,
            &[0, 1, 239, 241, 1 << 23, 0xFFFF_FFFF],
        ),
        (
            "piece: stored_len",
            piece + 4,
            4,
            &[0, 1, 1 << 23, 0xFFFF_FFFF],
        ),
    ];
    let mut count = 0;
    for (name, at, width, values) in cases {
        for value in *values {
            let mut forged = forge.clone();
            forged.bytes[*at..at + width].copy_from_slice(&value.to_le_bytes()[..*width]);
            forged.sign();
            let what = format!("{name} = {value:#x}");
            count += 1;
            let Some(dataset) = check_bounded(&forged.bytes, &what) else {
                continue;
            };
            match read_all(&dataset) {
                Ok(_) => panic!("{what}: accepted"),
                Err(error) => assert_typed(&error, &what),
            }
            assert!(
                !dataset.verify(&|_| ()).is_intact(),
                "{what}: verify is content"
            );
        }
    }
    assert!(count >= 60, "{count} cases");
    Ok(())
}

/// The loader's verdict on a whole epoch.
fn loader_is_content(dataset: &Dataset) -> bool {
    let loader = Loader::builder().num_workers(1).open_dataset(dataset);
    loader.is_ok_and(|loader| loader.batches(3).all(|batch| batch.is_ok()))
}

/// Writes over some bytes. Headers and tables are a small part of them: most of the edits go there.
fn edit(forged: &mut Forge, random: &mut Random) {
    for _ in 0..=random.below(3) {
        let len = forged.bytes.len();
        let at = match random.below(4) {
            0 => random.below(forged.header_len),
            1 => forged.index.start + random.below(len - forged.index.start),
            2 => {
                let chunk = &forged.chunks[random.below(forged.chunks.len())];
                chunk.at + random.below(chunk.header_len)
            }
            _ => random.below(len),
        };
        let value = match random.below(5) {
            0 => random.next(),
            1 => u64::MAX >> random.below(64),
            2 => 1 << random.below(64),
            3 => len as u64 - random.below(100) as u64,
            _ => 0,
        };
        let width = [1, 2, 4, 8][random.below(4)].min(len - at);
        forged.bytes[at..at + width].copy_from_slice(&value.to_le_bytes()[..width]);
    }
}

/// Leaves a shard, and what we make of it, for the second reader (`tests/python/test_agreement.py`): the values of every
/// field, or nothing if `verify` finds damage.
fn record(folder: &Path, name: &str, bytes: &[u8], dataset: Option<&Dataset>) {
    let values = |dataset: &Dataset| -> Option<Value> {
        if !dataset.verify(&|_| ()).is_intact() {
            return None;
        }
        let samples = read_all(dataset).unwrap();
        let fields = dataset.fields().map(|field| {
            let values = samples.iter().map(|sample| {
                let tensor = sample.tensor(field.name()).unwrap();
                let crc = crc32c::crc32c(tensor.data());
                json!({ "shape": tensor.shape(), "crc32c": format!("{crc:08x}") })
            });
            (field.name().to_owned(), values.collect())
        });
        Some(Value::Object(fields.collect()))
    };
    fs::write(folder.join(format!("{name}.tshard")), bytes).unwrap();
    let outcome = json!({ "fields": dataset.and_then(values) });
    fs::write(folder.join(format!("{name}.json")), outcome.to_string()).unwrap();
}

/// `salvage` of a forged shard: at least what `verify` calls intact, all of it readable and as the shard's reader reads
/// it, and the rest listed. Returns the samples that were salvaged.
fn check_salvage(
    bytes: &[u8],
    dataset: Option<&Dataset>,
    folder: &Path,
    what: &str,
) -> Result<u64> {
    let (path, out) = (folder.join("mutant.tshard"), folder.join("out"));
    fs::write(&path, bytes).unwrap();
    fs::remove_dir_all(&out).ok();
    let verified = dataset.map(|dataset| dataset.verify(&|_| ()));
    let intact = verified.as_ref().map_or(0, |report| report.intact_samples);
    let report = match salvage(&path, &out, Unlisted::Auto) {
        Ok(report) => report,
        Err(error) => {
            assert_typed(&error, what);
            assert_eq!(intact, 0, "{what}: nothing is salvaged: {error}");
            return Ok(0);
        }
    };
    assert!(
        report.num_samples >= intact,
        "{what}: {} of {intact} intact samples: {report:?}",
        report.num_samples
    );
    let salvaged = Dataset::open(&out)?;
    let damage = salvaged.verify(&|_| ()).damage;
    assert!(damage.is_empty(), "{what}: {damage:?}");
    let samples = read_all(&salvaged)?;
    assert_eq!(samples.len() as u64, report.num_samples, "{what}");
    assert_consistent(&salvaged, &samples, what);
    let Some(dataset) = dataset else {
        return Ok(report.num_samples);
    };
    // Those that are not listed as missing.
    let missing = &report.shards[0].missing;
    let is_missing = |id: &u64| missing.iter().any(|missing| missing.samples.contains(id));
    // Nothing of a chunk whose values `verify` cannot read. (One that the index describes wrongly may be intact.)
    for damage in verified.iter().flat_map(|report| &report.damage) {
        let location = damage.error.location();
        if let (Some(chunk), Some(_)) = (location.chunk, &location.field) {
            assert!(
                is_missing(&(chunk * 3)),
                "{what}: chunk {chunk}: {damage:?}"
            );
        }
    }
    for (sample, id) in samples.iter().zip((0..).filter(|id| !is_missing(id))) {
        // What the index leads to may be damaged, or another chunk.
        if let Ok(original) = dataset.get(id) {
            assert!(sample.same_values(&original), "{what}: sample {id}");
        }
    }
    Ok(report.num_samples)
}

#[test]
fn signed_mutants_are_typed_errors_or_consistent_data() -> Result<()> {
    let mut random = random(5);
    let mutants = asked("TENSORSHARD_MUTANTS", 20_000);
    let forges: Vec<Forge> = CODECS
        .iter()
        .map(|c| rich_shard(c))
        .collect::<Result<_>>()?;
    let folder = std::env::var_os("TENSORSHARD_MUTANT_FOLDER").map(PathBuf::from);
    let scratch = scratch();
    let (mut accepted, mut salvaged) = (0, 0);
    for mutant in 0..mutants {
        let mut forged = forges[mutant % forges.len()].clone();
        edit(&mut forged, &mut random);
        forged.sign();
        let what = format!("mutant {mutant}");
        let dataset = check_bounded(&forged.bytes, &what);
        if mutant % 8 == 0 {
            salvaged += check_salvage(&forged.bytes, dataset.as_ref(), scratch.path(), &what)?;
        }
        if let Some(folder) = &folder
            && mutant % 4 == 0
        {
            let name = format!("mutant-{mutant}");
            record(folder, &name, &forged.bytes, dataset.as_ref());
        }
        let Some(dataset) = dataset else {
            continue;
        };
        let read = read_all(&dataset);
        match &read {
            Ok(samples) => {
                accepted += 1;
                assert_consistent(&dataset, samples, &what);
            }
            Err(error) => assert_typed(error, &what),
        }
        if mutant % 8 == 0 {
            let (verified, loaded) = (
                dataset.verify(&|_| ()).is_intact(),
                loader_is_content(&dataset),
            );
            // Text that is no UTF-8 is bytes to the loader; `verify` names it.
            let text = |error: &Error| {
                let name = error.location().field.as_deref();
                let mut fields = dataset.fields();
                fields.any(|field| Some(field.name()) == name && field.kind() == Kind::String)
            };
            let damage = dataset.verify(&|_| ()).damage;
            let only_text = damage.iter().all(|damage| text(&damage.error));
            assert!(
                verified == loaded || loaded && only_text,
                "{what}: verify {verified}, loader {loaded}: {damage:?}"
            );
        }
    }
    assert!(
        accepted > 0,
        "no mutant was accepted: the checksums must be wrong"
    );
    // Three chunks of seven samples; most mutants have an intact one.
    assert!(
        salvaged > mutants as u64 / 8 * 3,
        "{salvaged} samples salvaged"
    );
    Ok(())
}

/// The seeds of a fuzz target that takes any bytes as a shard.
#[test]
fn the_corpus_of_shards_is_read_or_refused_with_typed_errors() -> Result<()> {
    let folder = std::env::var_os("TENSORSHARD_MUTANT_FOLDER").map(PathBuf::from);
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds/fuzz_open_shard");
    let (mut read, mut refused) = (0, 0);
    for entry in fs::read_dir(corpus).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        let bytes = fs::read(entry.path()).unwrap();
        let dataset = check_bounded(&bytes, &name);
        match dataset.as_ref().map(read_all) {
            Some(Ok(samples)) => {
                assert_consistent(dataset.as_ref().unwrap(), &samples, &name);
                read += 1;
            }
            Some(Err(error)) => {
                assert_typed(&error, &name);
                refused += 1;
            }
            None => refused += 1,
        }
        if let Some(folder) = &folder {
            record(folder, &format!("corpus-{name}"), &bytes, dataset.as_ref());
        }
    }
    assert!(read > 0, "{read} read, {refused} refused");
    Ok(())
}

/// One sample of `len` bytes in one piece.
fn one_piece(codec: &str, values: &[u8]) -> Result<Forge> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("d");
    let field = FieldSpec::new("x", DType::U8, [values.len()])
        .codec(CodecSpec::parse(codec)?)
        .filters([]);
    let mut writer = ShardWriter::builder()
        .field(field)
        .num_workers(1)
        .create(&path)?;
    writer.append(&[("x", TensorView::new(DType::U8, &[values.len()], values)?)])?;
    writer.finish()?;
    Ok(Forge::new(first_shard(&path)))
}

fn text(len: usize) -> Vec<u8> {
    b"a piece of a stream of a chunk "
        .iter()
        .copied()
        .cycle()
        .take(len)
        .collect()
}

/// What a bomb may make the reader allocate: pieces have 4 MiB at most.
const DECODE_BOUND: usize = 5 << 20;

#[test]
fn bombs_are_refused_exactly() -> Result<()> {
    const LEN: usize = 4096;
    let mut random = random(6);
    for codec in CODECS {
        let forge = one_piece(codec, &text(LEN))?;
        let good = forge.payload().to_vec();
        let is_raw = good.len() == LEN;
        let payload_of = |len: usize| one_piece(codec, &text(len)).map(|f| f.payload().to_vec());
        let mut payloads: Vec<(String, Vec<u8>)> = vec![
            ("empty".into(), Vec::new()),
            ("one byte".into(), vec![0]),
            ("zeros".into(), vec![0; good.len()]),
            ("ones".into(), vec![0xFF; good.len()]),
            ("a byte more".into(), [good.as_slice(), &[0]].concat()),
            ("twice".into(), [good.as_slice(), &good].concat()),
            ("a byte less".into(), good[..good.len() - 1].to_vec()),
            ("half".into(), good[..good.len() / 2].to_vec()),
            ("no first byte".into(), good[1..].to_vec()),
        ];
        for len in [1, 100, LEN - 1, LEN + 1, 2 * LEN, 60_000] {
            payloads.push((format!("of {len} bytes"), payload_of(len)?));
        }
        for i in 0..200 {
            let len = 1 + random.below(300);
            payloads.push((
                format!("random {i}"),
                (0..len).map(|_| random.next() as u8).collect(),
            ));
        }
        // gzip: a second member, a name, an extra field; zstd: a skippable frame, a dictionary, a window of 2 GiB.
        for front in [
            &b"\x50\x2A\x4D\x18\x04\0\0\0abcd"[..],
            b"\x28\xB5\x2F\xFD\x23\x01\0\0\0\0",
            b"\x28\xB5\x2F\xFD\x00\xA8",
            b"\x1F\x8B\x08\x08\0\0\0\0\0\x03name\0",
            b"\x1F\x8B\x08\x04\0\0\0\0\0\x03\xFF\xFF",
            b"\xFF\xFF\xFF\xFF\x0F",
        ] {
            payloads.push(("prefixed".into(), [front, &good].concat()));
            payloads.push((
                "replaced".into(),
                [front, &good[front.len().min(good.len())..]].concat(),
            ));
        }
        let count = payloads.len();
        assert!(count >= 15);
        for (name, payload) in payloads {
            let what = format!("{codec}: {name}");
            let bytes = forge.with_payload(&payload, LEN as u32);
            let (result, largest) = largest_allocation(|| {
                let dataset = open(&bytes)?;
                read_all(&dataset)
            });
            assert!(largest <= DECODE_BOUND, "{what}: {largest} bytes at once");
            match result {
                Err(error) => assert_typed(&error, &what),
                // Any bytes of the right length are raw bytes.
                Ok(samples) => {
                    let right = samples[0].tensor("x")?.data().as_ref() == text(LEN);
                    assert!(
                        right || is_raw && payload.len() == LEN || name.starts_with("random"),
                        "{what}"
                    );
                }
            }
        }
        // Claims of another length, above, below and at what the codec could make of the bytes.
        for raw_len in [0, 1, LEN - 1, LEN + 1, 65536, 4 << 20, u32::MAX as usize] {
            let bytes = forge.with_payload(&good, raw_len as u32);
            let (result, largest) = largest_allocation(|| read_all(&open(&bytes)?));
            assert_typed(&result.unwrap_err(), &format!("{codec}: claims {raw_len}"));
            assert!(largest <= DECODE_BOUND, "{codec}: {largest} bytes at once");
        }
        // The true one passes.
        assert!(read_all(&open(&forge.with_payload(&good, LEN as u32))?).is_ok());
    }
    Ok(())
}

#[test]
fn every_byte_of_a_signed_payload_may_be_anything() -> Result<()> {
    for codec in CODECS {
        let forge = one_piece(codec, &text(600))?;
        let good = forge.payload().to_vec();
        let step = asked("TENSORSHARD_PAYLOAD_STEP", 5);
        for at in 0..good.len().min(400) {
            for value in (0..=255u8).step_by(step.clamp(1, 255)) {
                let mut payload = good.clone();
                payload[at] ^= value;
                let bytes = forge.with_payload(&payload, 600);
                let (result, largest) = largest_allocation(|| read_all(&open(&bytes)?));
                assert!(largest <= DECODE_BOUND, "{codec}: {largest} bytes at once");
                if let Err(error) = result {
                    assert_typed(&error, &format!("{codec}: byte {at} changed by {value}"));
                }
            }
        }
    }
    Ok(())
}

#[test]
fn zeros_of_a_gibibyte_stay_small() -> Result<()> {
    // 16 MiB of zeros in one sample are many small pieces; each is decoded within the bound, whatever it claims.
    for codec in CODECS {
        let forge = one_piece(codec, &vec![0; 65536])?;
        let payload = forge.payload().to_vec();
        // The same payload as that of 256 KiB to 1 GiB.
        for raw_len in [1usize << 18, 1 << 22, 1 << 26, 1 << 30] {
            let bytes = forge.with_payload(&payload, raw_len as u32);
            let (result, largest) = largest_allocation(|| read_all(&open(&bytes)?));
            assert_typed(&result.unwrap_err(), &format!("{codec}: claims {raw_len}"));
            assert!(largest <= DECODE_BOUND, "{codec}: {largest} bytes at once");
        }
    }
    Ok(())
}
