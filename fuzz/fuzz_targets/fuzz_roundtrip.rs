//! Small datasets of any lossless schema read back as they were written.
#![no_main]

use std::fs;
use std::path::PathBuf;
use std::sync::LazyLock;

use libfuzzer_sys::arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use tensorshard::{
    CodecId, CodecSpec, DType, Dataset, FieldSpec, FilterSpec, ShardWriter, SplitId, TensorView,
};
use tensorshard_fuzz::scratch;

static FOLDER: LazyLock<PathBuf> = LazyLock::new(scratch);

const CODECS: &[CodecId] = &[
    CodecId::NONE,
    CodecId::SNAPPY,
    CodecId::DEFLATE,
    CodecId::GZIP,
    CodecId::LZ4,
    CodecId::ZSTD,
    CodecId::LZO,
    CodecId::HUFFMAN,
    CodecId::PREFIX,
];
const FILTERS: [&str; 6] = [
    "byte_shuffle",
    "bit_shuffle",
    "delta",
    "predict",
    "float_order",
    "predict:chunk",
];
const SPLITS: [Option<SplitId>; 3] = [None, Some(SplitId::FLOAT_SPLIT), Some(SplitId::BYTE_SPLIT)];

/// A field: dtype and dims, each `None` where it may differ between samples.
struct Form {
    name: String,
    text: bool,
    dtype: Option<DType>,
    dims: Option<Vec<Option<usize>>>,
}

type Value = (DType, Vec<usize>, Vec<u8>);

fn any_dtype(input: &mut Unstructured<'_>) -> Result<DType> {
    let all: Vec<DType> = DType::all().collect();
    Ok(*input.choose(&all)?)
}

fn form(i: usize, input: &mut Unstructured<'_>) -> Result<(Form, FieldSpec)> {
    let name = format!("f{i}");
    let mut form = Form {
        name: name.clone(),
        text: false,
        dtype: Some(DType::U8),
        dims: Some(vec![None]),
    };
    let mut spec = match input.int_in_range(0..=4)? {
        0 => {
            form.text = true;
            FieldSpec::string(name)
        }
        1 => FieldSpec::bytes(name),
        2 => {
            (form.dtype, form.dims) = (None, None);
            FieldSpec::any(name)
        }
        3 => {
            let dtype = any_dtype(input)?;
            (form.dtype, form.dims) = (Some(dtype), None);
            FieldSpec::any_shape(name, dtype)
        }
        _ => {
            let dtype = any_dtype(input)?;
            let mut dims = Vec::new();
            for _ in 0..input.int_in_range(0..=3)? {
                let dim = input.int_in_range(0..=6)?;
                dims.push((dim < 6).then_some(dim));
            }
            (form.dtype, form.dims) = (Some(dtype), Some(dims.clone()));
            FieldSpec::ragged(name, dtype, dims)
        }
    };
    spec = spec.codec(CodecSpec::new(*input.choose(CODECS)?));
    if form.dtype.is_some_and(|dtype| dtype.size() > 1)
        && let Some(split) = *input.choose(&SPLITS)?
    {
        let other = CodecSpec::new(*input.choose(CODECS)?);
        let first = CodecSpec::new(*input.choose(CODECS)?);
        spec = spec.split(split).codecs([first, other]);
    }
    if form.dtype.is_some() && input.arbitrary()? {
        let mut filters: Vec<FilterSpec> = Vec::new();
        for _ in 0..input.int_in_range(0..=2)? {
            let name = *input.choose(&FILTERS)?;
            let filter = FilterSpec::parse(name).expect("filters that there are");
            // A chunk records one mode.
            if name != "predict:chunk" || !filters.contains(&filter) {
                filters.push(filter);
            }
        }
        spec = spec.filter_specs(filters);
    }
    Ok((form, spec))
}

fn value(form: &Form, input: &mut Unstructured<'_>) -> Result<Value> {
    if form.text {
        let len = input.int_in_range(0..=9)?;
        let text = String::from_utf8_lossy(input.bytes(len)?).into_owned();
        return Ok((DType::U8, vec![text.len()], text.into_bytes()));
    }
    let dtype = match form.dtype {
        Some(dtype) => dtype,
        None => any_dtype(input)?,
    };
    let dims = match &form.dims {
        Some(dims) => dims.clone(),
        None => vec![None; input.int_in_range(0..=3)?],
    };
    let mut shape = Vec::new();
    for dim in dims {
        shape.push(match dim {
            Some(dim) => dim,
            None => input.int_in_range(0..=5)?,
        });
    }
    let len = shape.iter().product::<usize>() * dtype.size();
    // The input ends in zeros.
    let mut bytes = vec![0; len];
    input.fill_buffer(&mut bytes)?;
    if dtype == DType::Bool {
        bytes.iter_mut().for_each(|b| *b &= 1);
    }
    Ok((dtype, shape, bytes))
}

fn run(input: &mut Unstructured<'_>) -> Result<()> {
    let mut forms = Vec::new();
    let mut builder = ShardWriter::builder()
        .num_workers(1)
        .overwrite(true)
        .samples_per_chunk(input.int_in_range(1..=5)?);
    if input.arbitrary()? {
        builder = builder.max_shard_len(1);
    }
    for i in 0..input.int_in_range(1..=4)? {
        let (form, spec) = form(i, input)?;
        builder = builder.field(spec);
        forms.push(form);
    }
    let mut samples: Vec<Vec<Value>> = Vec::new();
    for _ in 0..input.int_in_range(0..=8)? {
        samples.push(
            forms
                .iter()
                .map(|form| value(form, input))
                .collect::<Result<_>>()?,
        );
    }
    let path = FOLDER.join("dataset");
    check(builder.create(&path), &path, &forms, &samples).expect("a valid dataset");
    let _ = fs::remove_dir_all(&path);
    Ok(())
}

fn check(
    writer: tensorshard::Result<ShardWriter>,
    path: &std::path::Path,
    forms: &[Form],
    samples: &[Vec<Value>],
) -> tensorshard::Result<()> {
    let mut writer = writer?;
    for sample in samples {
        let mut views = Vec::new();
        for (form, (dtype, shape, bytes)) in forms.iter().zip(sample) {
            views.push((form.name.as_str(), TensorView::new(*dtype, shape, bytes)?));
        }
        writer.append(&views)?;
    }
    writer.finish()?;
    let dataset = Dataset::open(path)?;
    assert_eq!(dataset.len(), samples.len() as u64);
    let all: Vec<u64> = (0..dataset.len()).collect();
    for (sample, expected) in dataset.get_many(&all)?.iter().zip(samples) {
        for (form, (dtype, shape, bytes)) in forms.iter().zip(expected) {
            let tensor = sample.tensor(&form.name)?;
            assert_eq!(tensor.dtype(), *dtype, "{}", form.name);
            assert_eq!(tensor.shape(), shape, "{}", form.name);
            assert_eq!(&tensor.data()[..], bytes, "{}", form.name);
        }
    }
    assert!(dataset.verify(&|_| ()).is_intact());
    Ok(())
}

fuzz_target!(|data: &[u8]| {
    let _ = run(&mut Unstructured::new(data));
});
