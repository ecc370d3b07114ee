//! What compression costs: the encodings that make files several times smaller, each decoded by one worker into batches,
//! beside a memcpy of the delivered bytes.

use std::cell::RefCell;

use tensorshard::{CodecSpec, FieldSpec, FilterSpec, QuantSpec, SplitId};

use crate::cases::{
    Bench, at_least, copies, epochs, int8_per_tensor, one, speed_of_writing, take_turns, workers,
};
use crate::common::{Array, bf16_weights, fields, latents, photos, scaled, weights};
use crate::datasets::{codec, dataset};
use crate::process::speed_at_level;
use crate::report::{Report, Target};

/// One way to store one kind of data.
struct Encoding {
    name: &'static str,
    data: fn() -> Array,
    encode: fn(FieldSpec) -> FieldSpec,
    batch_size: usize,
    /// Raw bytes over bytes of the files.
    smaller: Target,
    speed: Target,
    /// With AVX2 alone.
    avx2: Target,
}

fn filters<const N: usize>(names: [&str; N]) -> [FilterSpec; N] {
    names.map(|name| FilterSpec::parse(name).expect("a filter"))
}

/// `prefix` for the first planes, the others stored.
fn planes(coded: usize, num_planes: usize) -> Vec<CodecSpec> {
    (0..num_planes)
        .map(|plane| codec(if plane < coded { "prefix" } else { "none" }))
        .collect()
}

const ENCODINGS: &[Encoding] = &[
    Encoding {
        name: "u8 photos, predict + prefix",
        data: photos,
        encode: |field| {
            field
                .filter_specs(filters(["predict:2d:channel=0"]))
                .codec(codec("prefix"))
        },
        batch_size: 64,
        smaller: Target::AtLeast {
            must: 1.9,
            aim: 1.9,
        },
        speed: Target::AtLeast {
            must: 0.8,
            aim: 1.0,
        },
        avx2: Target::AtLeast {
            must: 0.2,
            aim: 0.4,
        },
    },
    Encoding {
        name: "int8 latents to f32, predict + prefix",
        data: latents,
        encode: |field| {
            field
                .quantize(int8_per_tensor(&latents()))
                .filter_specs(filters(["predict:2d"]))
                .codec(codec("prefix"))
        },
        batch_size: 64,
        smaller: Target::AtLeast {
            must: 6.0,
            aim: 6.0,
        },
        speed: Target::AtLeast {
            must: 1.5,
            aim: 2.5,
        },
        avx2: Target::AtLeast {
            must: 0.4,
            aim: 0.8,
        },
    },
    Encoding {
        name: "bf16 weights, float_split + prefix",
        data: bf16_weights,
        encode: |field| field.split(SplitId::FLOAT_SPLIT).codecs(planes(1, 2)),
        batch_size: 512,
        smaller: Target::AtLeast {
            must: 1.49,
            aim: 1.49,
        },
        speed: Target::AtLeast {
            must: 0.8,
            aim: 1.1,
        },
        avx2: Target::None,
    },
    Encoding {
        name: "f32 weights, float_split + prefix",
        data: weights,
        encode: |field| field.split(SplitId::FLOAT_SPLIT).codecs(planes(1, 4)),
        batch_size: 256,
        smaller: Target::AtLeast {
            must: 1.19,
            aim: 1.19,
        },
        speed: Target::AtLeast {
            must: 0.9,
            aim: 1.1,
        },
        avx2: Target::None,
    },
    Encoding {
        name: "f32 fields, float_order + predict + byte_split + prefix",
        data: plane_fields,
        encode: |field| {
            field
                .filter_specs(filters(["float_order", "predict:2d:zigzag"]))
                .split(SplitId::BYTE_SPLIT)
                .codecs(planes(2, 4))
        },
        batch_size: 4,
        smaller: Target::AtLeast {
            must: 1.25,
            aim: 1.25,
        },
        speed: Target::AtLeast {
            must: 0.7,
            aim: 1.0,
        },
        avx2: Target::None,
    },
    Encoding {
        name: "f32 fields [256, 256], abs_error 1e-3 of the range",
        data: plane_fields,
        encode: |field| bounded(field, "predict:2d"),
        batch_size: 4,
        smaller: Target::AtLeast {
            must: 10.0,
            aim: 10.0,
        },
        speed: Target::AtLeast {
            must: 1.0,
            aim: 2.0,
        },
        avx2: Target::AtLeast {
            must: 0.4,
            aim: 0.8,
        },
    },
    Encoding {
        name: "f32 fields [64, 64, 64], abs_error 1e-3 of the range",
        data: volume_fields,
        encode: |field| bounded(field, "predict:3d"),
        batch_size: 1,
        smaller: Target::AtLeast {
            must: 10.0,
            aim: 10.0,
        },
        speed: Target::AtLeast {
            must: 1.0,
            aim: 2.0,
        },
        avx2: Target::AtLeast {
            must: 0.4,
            aim: 0.8,
        },
    },
];

fn plane_fields() -> Array {
    fields(scaled(256).max(8), &[256, 256])
}

fn volume_fields() -> Array {
    fields(scaled(64).max(2), &[64, 64, 64])
}

/// The fields are within -1 to 1: 1e-3 of their range is 2e-3. Codes have 16 bits, of which the upper 8 are nearly all 0
/// once they are predicted.
fn bounded(field: FieldSpec, predict: &str) -> FieldSpec {
    field
        .quantize(QuantSpec::abs_error(2e-3).bits(16))
        .filter_specs(filters([&format!("{predict}:zigzag")]))
        .split(SplitId::BYTE_SPLIT)
        .codecs(planes(2, 2))
}

pub(crate) fn encodings(bench: &Bench, report: &mut Report) {
    for encoding in ENCODINGS {
        let array = (encoding.data)();
        let raw = array.data.len();
        let batch_bytes = raw / array.shape[0] * encoding.batch_size;
        let folder_name = encoding
            .name
            .replace(|c: char| !c.is_ascii_alphanumeric(), "-");
        let path = dataset(bench.folder(), &folder_name, || array, encoding.encode);
        let stored: u64 = std::fs::read_dir(&path)
            .expect("a folder")
            .map(|file| file.expect("a file").metadata().expect("its length").len())
            .sum();
        report.add(
            format!("{}: times smaller", encoding.name),
            "",
            encoding.smaller,
            raw as f64 / stored as f64,
            format!("{stored} bytes, manifest and checksums included"),
        );
        let memcpy = RefCell::new(copies(batch_bytes, raw));
        let subjects = [one(&memcpy), epochs(&path, workers(1), encoding.batch_size)];
        let [copy, decode] = &take_turns(bench, subjects);
        report.add(
            format!("{}: 1 thread, vs memcpy", encoding.name),
            "",
            encoding.speed,
            decode.over(copy),
            format!("{} GB/s; memcpy {} GB/s", decode.gb(), copy.gb()),
        );
        for (level, target) in [("avx2", encoding.avx2), ("scalar", Target::None)] {
            let speed = speed_at_level(level, &path, encoding.batch_size);
            report.add(
                format!("{}: 1 thread, {level} forced, vs memcpy", encoding.name),
                "",
                target,
                speed / copy.speed(),
                format!("{:.2} GB/s", speed / 1e9),
            );
        }
    }
    let photo = &ENCODINGS[0];
    let speed = speed_of_writing(bench, &photos(), photo.encode);
    report.add(
        "u8 photos, predict + prefix: writing, 1 worker",
        "GB/s",
        at_least(0.8, 0.8),
        speed / 1e9,
        "",
    );
}
