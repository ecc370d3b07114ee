//! Damage as disks do it: sectors zeroed, repeated and swapped, chunks of one place in another, shards of another build
//! (R3). `verify` flags what the loader flags, and `salvage` keeps what is intact and lists the rest (R31).
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{Random, asked, random, scratch, small_dataset};
use tensorshard::{Dataset, ErrorKind, Loader, Result, Sample, ShardWriter, Unlisted, salvage};

fn builder(seed: u64) -> tensorshard::ShardWriterBuilder {
    ShardWriter::builder()
        .samples_per_chunk(8)
        .max_shard_len(16_000)
        .shard_ids_from(seed)
}

fn shards(path: &Path) -> Result<Vec<PathBuf>> {
    let report = Dataset::open(path)?.inspect()?;
    let names = report
        .shards
        .iter()
        .map(|shard| path.join(&shard.file_name));
    Ok(names.collect())
}

/// Where chunks are, by the index.
fn chunks(shard: &[u8]) -> Vec<std::ops::Range<usize>> {
    use common::forge::{u32_at, u64_at};
    let footer = shard.len() - 88;
    let index = u64_at(shard, footer + 32);
    let chunks = (index..footer).step_by(24).map(|record| {
        assert!(u32_at(shard, record + 16) > 0);
        let at = u64_at(shard, record);
        at..at + u64_at(shard, record + 8)
    });
    chunks.collect()
}

/// `salvage` keeps what `verify` calls intact, and every sample is kept, with its values, or listed.
fn check_salvage(
    dataset: &Dataset,
    path: &Path,
    out: &Path,
    all: &[Sample],
    case: usize,
) -> Result<()> {
    fs::remove_dir_all(out).ok();
    let verified = dataset.verify(&|_| ());
    let report = salvage(path, out, Unlisted::Auto)?;
    let mut kept: Vec<bool> = vec![true; all.len()];
    for (shard, check) in report.shards.iter().zip(&verified.shards) {
        assert_eq!(shard.file_name, check.file_name, "case {case}");
        assert_eq!(shard.num_samples, Some(check.num_samples), "case {case}");
        assert!(
            shard.salvaged_samples >= check.intact_samples,
            "case {case}: {} of {} intact samples of {}",
            shard.salvaged_samples,
            check.intact_samples,
            shard.file_name
        );
        let first = usize::try_from(shard.first_sample.unwrap()).unwrap();
        let mut lose = |samples: std::ops::Range<u64>| {
            for i in samples {
                kept[first + usize::try_from(i).unwrap()] = false;
            }
        };
        if shard.error.is_some() {
            lose(0..check.num_samples);
        }
        for missing in &shard.missing {
            lose(missing.samples.clone());
        }
    }
    assert_eq!(report.shards.len(), verified.shards.len(), "case {case}");
    let expected: Vec<&Sample> = all
        .iter()
        .zip(&kept)
        .filter(|(_, kept)| **kept)
        .map(|(sample, _)| sample)
        .collect();
    let salvaged = Dataset::open(out)?;
    assert_eq!(salvaged.len(), report.num_samples, "case {case}");
    assert_eq!(salvaged.len(), expected.len() as u64, "case {case}");
    for (id, expected) in (0..).zip(&expected) {
        let sample = salvaged.get(id)?;
        assert!(
            sample.same_values(expected),
            "case {case}: salvaged sample {id}"
        );
    }
    assert!(salvaged.verify(&|_| ()).is_intact(), "case {case}");
    // Where header, index or footer are damaged, nothing need be lost.
    let whole = expected.len() == all.len();
    assert_eq!(report.is_whole(), whole, "case {case}");
    Ok(())
}

#[test]
fn no_sector_damage_is_silent_and_verify_says_what_the_loader_says() -> Result<()> {
    let folder = scratch();
    let path = folder.path().join("d");
    let original = small_dataset(&path, 96, builder(1))?;
    let all: Vec<Sample> = original.get_many(&(0..96).collect::<Vec<_>>())?;
    let files = shards(&path)?;
    let intact: Vec<Vec<u8>> = files.iter().map(|file| fs::read(file).unwrap()).collect();
    drop(original);
    let mut random = random(31);
    let (mut found, mut harmless) = (0, 0);
    for case in 0..asked("TENSORSHARD_SECTORS", 1500) {
        let mut bytes = intact.clone();
        let a = random.below(bytes.len());
        let b = random.below(bytes.len());
        let sector = if random.below(4) == 0 { 4096 } else { 512 };
        let pick = |random: &mut Random, len: usize| random.below(len.div_ceil(sector)) * sector;
        let (at, from) = (
            pick(&mut random, bytes[a].len()),
            pick(&mut random, intact[b].len()),
        );
        let end = bytes[a].len().min(at + sector);
        match case % 6 {
            0 => bytes[a][at..end].fill(0),
            1 => bytes[a][at..end].fill(0xFF),
            2 => {
                // Repeated, from this shard or another.
                let source = &intact[b][from..intact[b].len().min(from + sector)];
                let len = source.len().min(end - at);
                bytes[a][at..at + len].copy_from_slice(&source[..len]);
            }
            3 => {
                let other = pick(&mut random, bytes[a].len());
                let len = sector.min(bytes[a].len() - at).min(bytes[a].len() - other);
                for i in 0..len {
                    bytes[a].swap(at + i, other + i);
                }
            }
            4 => {
                // Two chunks of this shard, or of two.
                let (x, y) = (chunks(&intact[a]), chunks(&intact[b]));
                let (x, y) = (
                    x[random.below(x.len())].clone(),
                    y[random.below(y.len())].clone(),
                );
                let len = x.len().min(y.len());
                bytes[a][x.start..x.start + len]
                    .copy_from_slice(&intact[b][y.start..y.start + len]);
            }
            _ => bytes[a].truncate(at),
        }
        let changed = bytes != intact;
        for (file, bytes) in files.iter().zip(&bytes) {
            fs::write(file, bytes).unwrap();
        }
        let dataset = Dataset::open(&path)?;
        let mut read = true;
        for (id, original) in (0..96).zip(&all) {
            match dataset.get(id) {
                Ok(sample) => assert!(sample.same_values(original), "case {case}: sample {id}"),
                Err(error) => {
                    read = false;
                    let corrupt = matches!(
                        error.kind(),
                        ErrorKind::Corrupt { .. }
                            | ErrorKind::LimitExceeded { .. }
                            | ErrorKind::Unsupported { .. }
                    );
                    assert!(corrupt && error.path().is_some(), "case {case}: {error}");
                }
            }
        }
        let verified = dataset.verify(&|_| ()).is_intact();
        assert_eq!(
            verified, !changed,
            "case {case}: a changed byte is not in any field"
        );
        let loader = Loader::builder().num_workers(1).open_dataset(&dataset)?;
        let loaded = loader.batches(8).all(|batch| batch.is_ok());
        assert_eq!((loaded, read), (verified, verified), "case {case}");
        if changed {
            found += 1;
        } else {
            harmless += 1;
        }
        check_salvage(&dataset, &path, &folder.path().join("out"), &all, case)?;
    }
    assert!(found > harmless);
    Ok(())
}
