//! What a loader takes at most: its budget, and for each worker a chunk as it is stored and as it is decoded (R5).

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use tensorshard::{DType, FieldSpec, IoMode, Loader, Result, ShardWriter, Shuffle, TensorView};

/// Bytes that are allocated, and the most that were.
static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

struct Counting;

fn more(bytes: usize) {
    let live = LIVE.fetch_add(bytes, Ordering::Relaxed) + bytes;
    PEAK.fetch_max(live, Ordering::Relaxed);
}

#[expect(unsafe_code, reason = "an allocator that counts")]
// SAFETY: everything is passed on to the system's allocator, which keeps the contract.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        more(layout.size());
        // SAFETY: as the caller's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        more(layout.size());
        // SAFETY: as the caller's.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        more(new_size);
        // SAFETY: as the caller's.
        unsafe { System.realloc(pointer, layout, new_size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as the caller's.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const SAMPLES: u32 = 512;
/// Elements of a sample: 128 KiB.
const ELEMENTS: u32 = 32 << 10;
const CHUNK: usize = 4 << 20;

/// 64 MiB in chunks of 4 MiB, that compress by about a half.
fn write(path: &Path, ragged: bool) -> Result<()> {
    let field = if ragged {
        FieldSpec::ragged("x", DType::F32, [None])
    } else {
        FieldSpec::new("x", DType::F32, [ELEMENTS as usize])
    };
    let mut writer = ShardWriter::builder()
        .field(field)
        .chunk_bytes(CHUNK as u64)
        .create(path)?;
    for i in 0..SAMPLES {
        // Ragged samples have from half to all of the elements.
        let len = if ragged {
            ELEMENTS - i % 2 * (ELEMENTS / 2)
        } else {
            ELEMENTS
        };
        let values: Vec<u8> = (0..len)
            .flat_map(|j| (i.wrapping_mul(j).wrapping_mul(0x9E37_79B9) >> 16).to_le_bytes())
            .collect();
        writer.append(&[("x", TensorView::new(DType::F32, &[len as usize], &values)?)])?;
    }
    writer.finish()?;
    Ok(())
}

/// One test, so that nothing else allocates meanwhile.
#[test]
fn an_epoch_takes_no_more_than_its_budget_and_a_chunk_for_each_worker() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    for ragged in [false, true] {
        let path = dir.path().join(ragged.to_string());
        write(&path, ragged)?;
        for budget in [24 << 20, 100 << 20] {
            for workers in [1, 2, 8] {
                for shuffle in [
                    Shuffle::None,
                    Shuffle::Windowed { window: 2 },
                    Shuffle::Exact,
                ] {
                    let before = LIVE.load(Ordering::Relaxed);
                    PEAK.store(before, Ordering::Relaxed);
                    let loader = Loader::builder()
                        .shuffle(shuffle)
                        .num_workers(workers)
                        .memory_budget(budget)
                        // What is read is allocated then, not mapped.
                        .io(IoMode::Read)
                        .open(&path)?;
                    let mut samples = 0;
                    for batch in loader.batches(16) {
                        samples += batch?.len();
                    }
                    assert_eq!(samples, SAMPLES as usize);
                    drop(loader);
                    let taken = PEAK.load(Ordering::Relaxed) - before;
                    let budget = usize::try_from(budget).unwrap();
                    let bound = budget + workers * 2 * CHUNK + (32 << 20);
                    assert!(
                        taken <= bound,
                        "{taken} bytes of {bound}: ragged {ragged}, budget {budget}, {workers} workers, {shuffle:?}"
                    );
                }
            }
        }
    }
    Ok(())
}
