//! Any bytes as a NumPy file: the first byte chooses `.npy` or `.npz`, and what `|V1` is.
#![no_main]

use std::fs;
use std::path::PathBuf;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use tensorshard::DType;
use tensorshard::import::{self, ImportOptions, Samples};
use tensorshard_fuzz::scratch;

static FOLDER: LazyLock<PathBuf> = LazyLock::new(scratch);

fuzz_target!(|data: &[u8]| {
    let Some((mode, data)) = data.split_first() else {
        return;
    };
    let path = FOLDER.join(if mode % 2 == 0 { "x.npy" } else { "x.npz" });
    fs::write(&path, data).expect("the file is written");
    let options = ImportOptions {
        void_as: [None, Some(DType::BF16), Some(DType::F8E5M2)][usize::from(mode / 2) % 3],
    };
    let Ok(mut input) = import::open(&path, &options) else {
        return;
    };
    let mut samples = Samples::default();
    for field in &mut input.fields {
        let _ = field.source.raw_bytes();
        let num_samples = field.source.num_samples();
        // Samples without bytes can be many.
        for first in (0..num_samples).step_by(64).take(100) {
            let count = (num_samples - first).min(64) as usize;
            if field.source.read(first, count, &mut samples).is_err() {
                break;
            }
        }
    }
});
