//! Batches in asynchronous code: the loader as a `futures::Stream` on tokio, beside other work.
//!
//! Decoding stays on the loader's threads and waiting on tokio's blocking pool, so the executor is never held up.
//!
//! `cargo run --release --example stream_tokio`
#![expect(clippy::print_stdout, reason = "an example")]

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::StreamExt;
use tensorshard::{DType, FieldSpec, Loader, ShardWriter, Shuffle, TensorView};

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("frames");
    let mut writer = ShardWriter::builder()
        .field(FieldSpec::new("frame", DType::U8, [3, 64, 64]))
        .create(&path)?;
    for i in 0..2000u32 {
        let frame = [i.to_le_bytes()[0]; 3 * 64 * 64];
        writer.append(&[("frame", TensorView::new(DType::U8, &[3, 64, 64], &frame)?)])?;
    }
    writer.finish()?;

    // A heartbeat that would stumble if polling blocked.
    let beats = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&beats);
    let heart = tokio::spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_millis(1)).await;
            counter.fetch_add(1, Ordering::Relaxed);
        }
    });

    let loader = Loader::builder().shuffle(Shuffle::Exact).open(&path)?;
    let mut stream = loader.stream(64)?;
    let (mut batches, mut bytes) = (0, 0);
    while let Some(batch) = stream.next().await {
        let batch = batch?;
        batches += 1;
        bytes += batch.num_bytes();
        // Stands for a step on a device.
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    heart.abort();
    println!(
        "{batches} batches, {bytes} bytes; the heart beat {} times meanwhile",
        beats.load(Ordering::Relaxed)
    );
    Ok(())
}
