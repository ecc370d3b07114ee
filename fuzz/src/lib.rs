//! What the fuzz targets share.

use std::alloc::{GlobalAlloc, Layout, System};
use std::fs;
use std::path::PathBuf;

use libfuzzer_sys::arbitrary::{Result, Unstructured};
use tensorshard::{
    CodecSpec, DType, Dataset, FieldOutput, FieldSpec, FilterSpec, Loader, LoaderBuilder, Pack,
    QuantSpec, Ragged, ShardWriter, Shuffle, SplitId, TensorView, Windows, to_le_bytes,
};

/// Inputs have at most 64 KiB; no honest reaction to one needs more than this at once.
const MAX_ALLOCATION: usize = 256 << 20;

/// Aborts, so that the fuzzer keeps the input, when the library believes a length that is not there.
struct Watched;

#[global_allocator]
static ALLOCATOR: Watched = Watched;

fn watch(size: usize) {
    if size > MAX_ALLOCATION {
        eprintln!("allocation of {size} bytes");
        std::process::abort();
    }
}

// SAFETY: everything is passed on to the system's allocator.
unsafe impl GlobalAlloc for Watched {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        watch(layout.size());
        // SAFETY: as the caller's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        watch(layout.size());
        // SAFETY: as the caller's.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        watch(new_size);
        // SAFETY: as the caller's.
        unsafe { System.realloc(ptr, layout, new_size) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: as the caller's.
        unsafe { System.dealloc(ptr, layout) }
    }
}

/// A scratch folder of this process. `.ci/fuzz` removes it: the fuzzer's exit runs no destructors.
pub fn scratch() -> PathBuf {
    tempfile::tempdir().expect("a temporary folder").keep()
}

/// Reads what there is to read. All errors are fine.
pub fn exercise(dataset: &Dataset) {
    let _ = format!("{:?}", dataset.schema());
    let _ = dataset.inspect();
    let _ = dataset.verify(&|_| ());
    let Some(last) = dataset.len().checked_sub(1) else {
        return;
    };
    let _ = dataset.get(0);
    let _ = dataset.get(last);
    let _ = dataset.get_many(&[last, 0, last / 2, last]);
    // Ragged fields as they come, then padded where that is possible.
    let options = Loader::builder().num_workers(1).memory_budget(1 << 24);
    load(options.clone(), dataset);
    let mut padded = options.clone();
    for field in dataset.schema().fields() {
        let output = FieldOutput::new().ragged(Ragged::Padded);
        let one = options
            .clone()
            .fields([field.name()])
            .output(field.name(), output.clone());
        if one.open_dataset(dataset).is_ok() {
            padded = padded.output(field.name(), output);
        }
    }
    load(padded.shuffle(Shuffle::windowed()), dataset);
    for field in dataset.schema().fields() {
        let one = options.clone().fields([field.name()]);
        let windows = Windows::new(3).stride(2);
        load(
            one.clone().windows(windows).shuffle(Shuffle::Exact),
            dataset,
        );
        load(
            one.pack(Pack::new(field.name(), 5).separator(1).pad(0)),
            dataset,
        );
    }
}

/// The first batches. An epoch ends with its last batch or with an error, and neither earlier nor later.
fn load(options: LoaderBuilder, dataset: &Dataset) {
    let Ok(loader) = options.open_dataset(dataset) else {
        return;
    };
    let mut batches = loader.batches(4);
    // Samples without bytes can be many.
    let expected = loader.num_batches(4);
    for _ in 0..expected.min(8) {
        match batches.next().expect("as many batches as promised") {
            Ok(batch) => assert!(!batch.is_empty()),
            Err(_) => {
                assert!(batches.next().is_none(), "an error ends the epoch");
                return;
            }
        }
    }
    if expected <= 8 {
        assert!(batches.next().is_none(), "no more batches than promised");
    }
}

/// Applies the edits that the rest of the input lists: bytes and integers set, bits flipped, cuts.
pub fn edit(bytes: &mut Vec<u8>, input: &mut Unstructured<'_>) -> Result<()> {
    while !input.is_empty() && !bytes.is_empty() {
        let operation = input.arbitrary::<u8>()?;
        let at = usize::from(input.arbitrary::<u16>()?) % bytes.len();
        match operation % 6 {
            0 => bytes[at] = input.arbitrary()?,
            1 => bytes[at] ^= 1 << (input.arbitrary::<u8>()? % 8),
            2 => put(bytes, at, &input.arbitrary::<u32>()?.to_le_bytes()),
            3 => put(bytes, at, &input.arbitrary::<u64>()?.to_le_bytes()),
            4 => {
                let len = bytes.len() as u64;
                put(bytes, at, &len.to_le_bytes());
            }
            _ => bytes.truncate(at),
        }
    }
    Ok(())
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    for (to, from) in bytes[at..].iter_mut().zip(value) {
        *to = *from;
    }
}

const CODECS: [&str; 9] = [
    "none", "snappy", "deflate", "gzip", "lz4", "zstd", "prefix", "huffman", "lzo",
];
/// Each with every codec, and with some quantizers of other fields.
const FILTERS: [&str; 6] = [
    "byte_shuffle",
    "bit_shuffle",
    "delta",
    "predict:left:zigzag",
    "predict:chunk",
    "delta,byte_shuffle",
];
const QUANTIZERS: [&str; 11] = [
    "identity",
    "f16",
    "f8e5m2:saturate",
    "uint8:asym:per-sample",
    "uint4:asym:per-group=5:scale=bf16",
    "int8:patch",
    "abs_error:0.01:bits=16:patch",
    "fp8:per-group=3:patch",
    "nf4:per-group=5",
    "mxfp8-e5m2",
    "mxfp4",
];

/// Small valid shards: every codec with every quantizer and every filter, splits, and ragged fields.
pub fn valid_shards() -> Vec<Vec<u8>> {
    let folder = scratch();
    let mut shards = Vec::new();
    for codec in CODECS {
        for quantizer in QUANTIZERS {
            let path = folder.join(format!("{}", shards.len()));
            write_dataset(&path, codec, quantizer, u64::MAX);
            let shard = fs::read_dir(&path)
                .expect("the dataset")
                .map(|entry| entry.expect("an entry").path())
                .find(|path| path.extension().is_some_and(|e| e == "tshard"))
                .expect("a shard");
            shards.push(fs::read(shard).expect("the shard"));
        }
    }
    let _ = fs::remove_dir_all(folder);
    shards
}

/// The length of a shard's header.
pub fn header_len(shard: &[u8]) -> usize {
    let len = shard[12..16].try_into().expect("4 bytes");
    u32::from_le_bytes(len) as usize
}

/// Seven samples of fixed, quantized, filtered, split and ragged fields.
pub fn write_dataset(path: &std::path::Path, codec: &str, quantizer: &str, max_shard_len: u64) {
    try_write_dataset(path, codec, quantizer, max_shard_len).expect("a valid dataset");
}

fn try_write_dataset(
    path: &std::path::Path,
    codec: &str,
    quantizer: &str,
    max_shard_len: u64,
) -> tensorshard::Result<()> {
    let of = |names: &[&str], name: &str| names.iter().position(|other| *other == name);
    let turn = of(&CODECS, codec).unwrap_or(0) + of(&QUANTIZERS, quantizer).unwrap_or(0);
    let filters = |text: &str| -> tensorshard::Result<Vec<_>> {
        text.split(',').map(FilterSpec::parse).collect()
    };
    let codec = CodecSpec::parse(codec)?;
    let mut writer = ShardWriter::builder()
        .field(
            FieldSpec::new("a", DType::U16, [10])
                .filter_specs(filters(FILTERS[turn % FILTERS.len()])?)
                .codec(codec),
        )
        .field(
            FieldSpec::new("b", DType::F32, [3, 8])
                .codec(codec)
                .quantize(QuantSpec::parse(quantizer)?),
        )
        .field(FieldSpec::string("c").codec(codec))
        .field(FieldSpec::ragged("d", DType::I32, [None, Some(2)]).codec(codec))
        .field(FieldSpec::any("e").codec(codec))
        .field(
            FieldSpec::new("f", DType::F16, [12])
                .split(SplitId::FLOAT_SPLIT)
                .codecs([codec, CodecSpec::parse("none")?]),
        )
        .field(
            FieldSpec::new("g", DType::F32, [3, 8])
                .filter_specs(filters("float_order,predict:2d:zigzag")?)
                .split(SplitId::BYTE_SPLIT)
                .codecs([codec; 4]),
        )
        .samples_per_chunk(3)
        .num_workers(1)
        .shard_ids_from(1)
        .max_shard_len(max_shard_len)
        .create(path)?;
    for i in 0..7u16 {
        let a: Vec<u16> = (0..10).map(|j| (i + j) / 8).collect();
        let mut b: Vec<f32> = (0..24u16).map(|j| f32::from(i * 5 + j / 4)).collect();
        if quantizer.ends_with("patch") {
            b[usize::from(i)] = f32::NAN;
        }
        let c = "word ".repeat(usize::from(i));
        let d: Vec<i32> = (0..i32::from(i % 4) * 2).collect();
        let e = [i as u8; 4];
        let e_dtype = if i % 2 == 0 { DType::F32 } else { DType::I16 };
        let e_shape: &[usize] = if i % 2 == 0 { &[] } else { &[2, 1] };
        let f = [0x3C00 + i; 12];
        let g: Vec<f32> = (0..24u16).map(|j| f32::from(i + j) / 64.0).collect();
        writer.append(&[
            ("a", TensorView::new(DType::U16, &[10], &to_le_bytes(&a))?),
            ("b", TensorView::new(DType::F32, &[3, 8], &to_le_bytes(&b))?),
            ("c", TensorView::new(DType::U8, &[c.len()], c.as_bytes())?),
            (
                "d",
                TensorView::new(DType::I32, &[d.len() / 2, 2], &to_le_bytes(&d))?,
            ),
            ("e", TensorView::new(e_dtype, e_shape, &e)?),
            ("f", TensorView::new(DType::F16, &[12], &to_le_bytes(&f))?),
            ("g", TensorView::new(DType::F32, &[3, 8], &to_le_bytes(&g))?),
        ])?;
    }
    writer.finish()?;
    Ok(())
}
