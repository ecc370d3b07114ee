//! Values that are kept when everything they came from is gone are still right (R29). `.ci/valgrind` runs this file.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::fs;

use common::small_dataset;
use tensorshard::{Dataset, FieldOutput, IoMode, Loader, Ragged, Result, ShardWriter, Shuffle};

#[test]
fn batches_and_tensors_outlive_their_loader_dataset_and_files() -> Result<()> {
    for io in [IoMode::Mmap, IoMode::Read] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("d");
        let builder = ShardWriter::builder()
            .samples_per_chunk(8)
            .max_shard_len(9000);
        small_dataset(&path, 40, builder)?;
        let dataset = Dataset::builder().io(io).open(&path)?;
        let sample = dataset.get(17)?;
        let tensors: Vec<_> = ["image", "latent", "tokens"]
            .iter()
            .map(|name| Ok(sample.tensor(name)?.clone()))
            .collect::<Result<_>>()?;
        let expected: Vec<Vec<u8>> = tensors.iter().map(|t| t.data().to_vec()).collect();
        let mut kept = Vec::new();
        for shuffle in [Shuffle::None, Shuffle::windowed(), Shuffle::Exact] {
            for ragged in [Ragged::Concatenated, Ragged::Padded] {
                let loader = Loader::builder()
                    .shuffle(shuffle)
                    .num_workers(2)
                    .output("tokens", FieldOutput::new().ragged(ragged))
                    .open_dataset(&dataset)?;
                let mut batches = loader.batches(6);
                let batch = batches.next().unwrap()?;
                let values: Vec<Vec<u8>> = batch
                    .fields()
                    .iter()
                    .map(|field| field.data().to_vec())
                    .collect();
                kept.push((batch, values));
                // Others are decoded into what was not kept.
                batches.by_ref().take(3).try_for_each(|b| b.map(|_| ()))?;
            }
        }
        drop((sample, dataset));
        fs::remove_dir_all(&path).unwrap();
        for (tensor, expected) in tensors.iter().zip(&expected) {
            assert_eq!(tensor.data().as_ref(), expected.as_slice());
        }
        for (batch, values) in &kept {
            for (field, values) in batch.fields().iter().zip(values) {
                assert_eq!(field.data().as_ref(), values.as_slice());
            }
        }
    }
    Ok(())
}
