//! Stored elements of every quantizer, with any parameters, scales and zero points: never a panic; of the right lengths
//! they are dequantized, to the same values at every level of vector instructions, whatever was in the buffer, and
//! sample by sample.
#![no_main]

use libfuzzer_sys::arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use tensorshard::{DType, Scales, at_every_level, fuzzing};

const SOURCES: [DType; 4] = [DType::F32, DType::F16, DType::BF16, DType::F64];
const QUANTIZERS: [&str; 19] = [
    "identity",
    "f16",
    "bf16:patch",
    "f8e5m2:saturate",
    "int8",
    "uint8:asym:per-sample",
    "int16:per-channel=0",
    "uint16:asym:per-group=7",
    "int4:per-group=5",
    "uint4:asym:per-group=3:scale=bf16",
    "uint4:per-tensor",
    "abs_error:0.01:bits=16:patch",
    "abs_error:0.5",
    "fp8:per-group=3:patch",
    "nf4:per-group=5",
    "nf4:per-channel=1",
    "mxfp8-e5m2",
    "mxint8",
    "mxfp4",
];

fn run(mut input: Unstructured<'_>) -> Result<()> {
    let dtype = *input.choose(&SOURCES)?;
    let to = *input.choose(&SOURCES)?;
    let rank = input.int_in_range(0..=3)?;
    let (id, params) = if input.ratio(7, 8)? {
        let text = *input.choose(&QUANTIZERS)?;
        // One byte of the parameters is another, most often none.
        let (at, byte) = (input.arbitrary::<u8>()?, input.arbitrary()?);
        let Ok((id, mut params)) = fuzzing::quantizer(text, dtype, rank) else {
            return Ok(());
        };
        if let Some(param) = params.get_mut(usize::from(at)) {
            *param = byte;
        }
        (id, params)
    } else {
        let len = input.int_in_range(0..=40)?;
        let params = input.bytes(len.min(input.len()))?.to_vec();
        (input.int_in_range(0..=8)?, params)
    };
    let shape: Vec<usize> = (0..rank)
        .map(|_| input.int_in_range(0..=40))
        .collect::<Result<_>>()?;
    let num_samples = input.int_in_range(0..=3)?;
    let fits = input.ratio(7, 8)?;
    let (num_scales, num_zero_points) = (input.arbitrary::<u8>()?, input.arbitrary::<u8>()?);
    let Ok(params) = fuzzing::parse_quantizer(id, &params, dtype, rank) else {
        return Ok(());
    };
    let again = fuzzing::emit_quantizer(&params);
    let again = fuzzing::parse_quantizer(id, &again, dtype, rank);
    assert!(again.is_ok_and(|again| format!("{again:?}") == format!("{params:?}")));

    let elements: usize = shape.iter().product();
    let sample_bytes = (elements * params.stored_bits(dtype) as usize).div_ceil(8);
    let stored = input.bytes(usize::from(num_scales).min(input.len()))?;
    let (mut scales, needed) = fuzzing::read_scales(&params, &shape, num_samples, stored);
    let mut zero_points: Vec<i32> = (0..num_zero_points % 16)
        .map(|_| input.arbitrary())
        .collect::<Result<_>>()?;
    let mut codes = input.take_rest().to_vec();
    if fits {
        repeat(&mut codes, num_samples * sample_bytes, 0x5A);
        repeat(&mut scales, needed, 0.5);
        let zero_points_needed = if params.has_zero_points() { needed } else { 0 };
        repeat(&mut zero_points, zero_points_needed, 1);
    }
    let scales = Scales {
        scales,
        zero_points,
    };
    let valid = fits && fuzzing::check_scales(&params, &scales).is_ok();
    let count = num_samples * elements;
    let decode = |first: usize, count: usize, codes: &[u8], fill: u8| {
        let mut dst = vec![fill; count * to.size()];
        let range = (first, count);
        let result =
            fuzzing::dequantize(&params, dtype, &shape, range, codes, &scales, to, &mut dst);
        result.map(|()| dst)
    };
    let results = at_every_level(|| [0x00, 0xFF].map(|fill| decode(0, count, &codes, fill).ok()));
    let mut results = results.into_iter().flatten();
    let whole = results.next().expect("there is a level");
    assert!(
        results.all(|other| other == whole),
        "levels or buffers differ"
    );
    if !valid {
        return Ok(());
    }
    let whole = whole.unwrap_or_else(|| {
        let error = decode(0, count, &codes, 0).err();
        panic!("{params:?} of {dtype} {shape:?} to {to}: {error:?}")
    });
    for sample in 0..num_samples {
        let codes = &codes[sample * sample_bytes..(sample + 1) * sample_bytes];
        let one = decode(sample * elements, elements, codes, 0xA5).expect("a sample of all");
        let range = sample * elements * to.size()..(sample + 1) * elements * to.size();
        assert!(one == whole[range], "a sample by itself differs");
    }
    Ok(())
}

/// Makes it `len` long, of what it has, or of `other`.
fn repeat<T: Copy>(values: &mut Vec<T>, len: usize, other: T) {
    if values.is_empty() {
        values.push(other);
    }
    *values = values.iter().copied().cycle().take(len).collect();
}

fuzz_target!(|data: &[u8]| {
    let _ = run(Unstructured::new(data));
});
