//! Saved loader states: any text is a state or a typed error; a state survives being saved again, and a loader that takes
//! it goes on from there.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use tensorshard::{Dataset, Loader, LoaderState, Shuffle};
use tensorshard_fuzz::{scratch, write_dataset};

static LOADERS: LazyLock<Vec<Loader>> = LazyLock::new(|| {
    let path = scratch().join("d");
    write_dataset(&path, "none", "identity", 1);
    let dataset = Dataset::open(&path).expect("the dataset");
    [Shuffle::None, Shuffle::windowed(), Shuffle::Exact]
        .into_iter()
        .map(|shuffle| {
            let loader = Loader::builder().shuffle(shuffle).num_workers(1);
            loader.open_dataset(&dataset).expect("a loader")
        })
        .collect()
});

fuzz_target!(|data: &[u8]| {
    let Some((choice, text)) = data.split_first() else {
        return;
    };
    let mut loader = LOADERS[usize::from(*choice) % LOADERS.len()].clone();
    if choice & 0x80 != 0 {
        // The state of this loader, with one byte replaced.
        let mut json = loader.state().expect("a state").to_json().into_bytes();
        for pair in text.chunks_exact(2).take(4) {
            let at = usize::from(pair[0]) % json.len();
            json[at] = pair[1];
        }
        take(&mut loader, &json);
    } else {
        take(&mut loader, text);
    }
});

fn take(loader: &mut Loader, json: &[u8]) {
    let Ok(json) = std::str::from_utf8(json) else {
        return;
    };
    let Ok(state) = LoaderState::from_json(json) else {
        return;
    };
    let again = LoaderState::from_json(&state.to_json()).expect("its own text");
    assert_eq!(again.to_json(), state.to_json());
    if loader.load_state(&state).is_err() {
        return;
    }
    assert!(state.consumed() <= state.num_samples());
    let left = state.num_samples() - state.consumed();
    let mut delivered = 0;
    for batch in loader.batches(2) {
        delivered += batch.expect("an intact dataset").len() as u64;
    }
    assert_eq!(delivered, left);
}
