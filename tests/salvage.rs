//! `salvage`: every intact chunk of a damaged or interrupted dataset, and a list of what is missing.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{Random, small_dataset};
use tensorshard::{Dataset, ErrorKind, Result, ShardWriter, Unlisted, salvage};

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// 100 samples in chunks of 8 and shards of a few chunks.
fn dataset(path: &Path) -> Result<Dataset> {
    let builder = ShardWriter::builder()
        .samples_per_chunk(8)
        .max_shard_len(10_000)
        .shard_ids_from(1)
        .metadata("name", "salvaged");
    small_dataset(path, 100, builder)
}

/// The shards in the order of the dataset, with the samples of each.
fn shards(path: &Path) -> Result<Vec<(PathBuf, u64)>> {
    let report = Dataset::open(path)?.inspect()?;
    Ok(report
        .shards
        .iter()
        .map(|shard| (path.join(&shard.file_name), shard.num_samples))
        .collect())
}

/// Everything in a folder: salvage must not change it.
fn contents(folder: &Path) -> Vec<(String, Vec<u8>)> {
    names(folder)
        .into_iter()
        .map(|name| {
            let bytes = fs::read(folder.join(&name)).unwrap();
            (name, bytes)
        })
        .collect()
}

/// The samples of `salvaged` are samples of `original`, in order; returns which.
fn found_in(original: &Dataset, salvaged: &Dataset) -> Result<Vec<u64>> {
    assert!(salvaged.verify(&|_| ()).is_intact());
    let mut next = 0;
    let mut found = Vec::new();
    for i in 0..salvaged.len() {
        let sample = salvaged.get(i)?;
        while !original.get(next)?.same_values(&sample) {
            next += 1;
        }
        found.push(next);
        next += 1;
    }
    Ok(found)
}

#[test]
fn an_intact_dataset_is_copied_whole() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let (path, out) = (folder.path().join("d"), folder.path().join("out"));
    let original = dataset(&path)?;
    let before = contents(&path);
    let report = salvage(&path, &out, Unlisted::Auto)?;
    assert!(report.is_whole());
    assert_eq!(report.num_samples, 100);
    assert!(report.num_shards > 2);
    let salvaged = Dataset::open(&out)?;
    assert_eq!(found_in(&original, &salvaged)?.len(), 100);
    assert_eq!(salvaged.metadata(), original.metadata());
    assert_eq!(contents(&path), before);
    assert_eq!(contents(&out), before);
    Ok(())
}

#[test]
fn damaged_chunks_are_left_out_and_listed() -> Result<()> {
    let mut random = Random(7);
    for round in 0..40 {
        let folder = tempfile::tempdir().unwrap();
        let (path, out) = (folder.path().join("d"), folder.path().join("out"));
        let original = dataset(&path)?;
        let intact_copy = folder.path().join("copy");
        fs::create_dir(&intact_copy).unwrap();
        for name in names(&path) {
            fs::copy(path.join(&name), intact_copy.join(&name)).unwrap();
        }
        let files = shards(&path)?;
        for _ in 0..=round % 3 {
            let file = &files[random.below(files.len())].0;
            let mut bytes = fs::read(file).unwrap();
            let at = random.below(bytes.len());
            match round % 4 {
                0 => bytes[at] ^= 1,
                1 => {
                    let sector = at / 512 * 512;
                    let end = bytes.len().min(sector + 512);
                    bytes[sector..end].fill(0);
                }
                2 => bytes.truncate(at),
                // A sector that is gone: what follows has moved.
                _ => {
                    let sector = at / 512 * 512;
                    let end = bytes.len().min(sector + 512);
                    bytes.drain(sector..end);
                }
            }
            fs::write(file, bytes).unwrap();
        }
        let before = contents(&path);
        let verified = Dataset::open(&path)?.verify(&|_| ());
        let report = salvage(&path, &out, Unlisted::Auto)?;
        assert_eq!(contents(&path), before);
        let original_copy = Dataset::open(&intact_copy)?;
        let found = found_in(&original_copy, &Dataset::open(&out)?)?;
        // Salvage finds at least what verify calls intact: it does not need header, index and footer.
        assert!(
            found.len() as u64 >= verified.intact_samples,
            "round {round}"
        );
        assert_eq!(report.num_samples, found.len() as u64);
        // What is missing and what was found is everything.
        let mut all: Vec<u64> = found;
        for shard in &report.shards {
            assert!(shard.listed && shard.error.is_none());
            for missing in &shard.missing {
                let samples = missing.samples.start..missing.samples.end;
                all.extend(samples.map(|sample| sample + shard.first_sample.unwrap()));
                assert!(missing.error.path().is_some());
            }
        }
        all.sort_unstable();
        assert_eq!(
            all,
            (0..original.len()).collect::<Vec<_>>(),
            "round {round}"
        );
    }
    Ok(())
}

#[test]
fn a_shard_without_header_index_and_footer_is_salvaged() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let (path, out) = (folder.path().join("d"), folder.path().join("out"));
    let original = dataset(&path)?;
    // What is in memory is as it was: the copy is read before it is damaged.
    let all: Vec<_> = original.get_many(&(0..100).collect::<Vec<_>>())?;
    for (file, _) in shards(&path)? {
        let mut bytes = fs::read(&file).unwrap();
        bytes[..64].fill(0);
        let footer = bytes.len() - 120;
        bytes[footer..].fill(0);
        fs::write(&file, bytes).unwrap();
    }
    let report = salvage(&path, &out, Unlisted::Auto)?;
    assert_eq!(report.num_samples, 100);
    let salvaged = Dataset::open(&out)?;
    for (i, sample) in (0..).zip(&all) {
        assert!(salvaged.get(i)?.same_values(sample));
    }
    Ok(())
}

#[test]
fn what_an_interrupted_writer_left_is_salvaged() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let (path, out) = (folder.path().join("d"), folder.path().join("out"));
    let original = dataset(&path)?;
    // As if its writer had been killed: no manifest, the last shard under its temporary name, and not whole.
    fs::remove_file(path.join("manifest.tsm")).unwrap();
    let files = names(&path);
    let last = &files[files.len() - 1];
    let bytes = fs::read(path.join(last)).unwrap();
    fs::write(
        path.join(format!("{last}.tmp-123-00000000000000ab")),
        &bytes[..bytes.len() - 200],
    )
    .unwrap();
    fs::remove_file(path.join(last)).unwrap();
    let report = salvage(&path, &out, Unlisted::Auto)?;
    assert!(report.manifest_error.is_some());
    assert_eq!(report.shards.len(), files.len());
    assert!(report.shards.iter().all(|shard| !shard.listed));
    assert!(report.num_samples > 80);
    assert_eq!(Dataset::open(&out)?.len(), report.num_samples);
    assert!(Dataset::open(&out)?.verify(&|_| ()).is_intact());
    drop(original);
    Ok(())
}

#[test]
fn one_shard_alone_is_salvaged() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let (path, out) = (folder.path().join("d"), folder.path().join("out"));
    dataset(&path)?;
    let (file, num_samples) = shards(&path)?.remove(1);
    let bytes = fs::read(&file).unwrap();
    fs::write(folder.path().join("x"), &bytes[..bytes.len() - 10]).unwrap();
    let report = salvage(folder.path().join("x"), &out, Unlisted::Auto)?;
    assert_eq!(report.num_samples, num_samples);
    assert_eq!(report.shards[0].num_samples, None);
    assert!(report.shards[0].tail_bytes > 0);
    Ok(())
}

#[test]
fn a_finished_dataset_keeps_others_shards_out() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("d");
    dataset(&path)?;
    let other = folder.path().join("other");
    small_dataset(&other, 8, ShardWriter::builder().shard_ids_from(9))?;
    let (file, _) = shards(&other)?.remove(0);
    let name = file.file_name().unwrap().to_str().unwrap().to_owned();
    fs::copy(&file, path.join(&name)).unwrap();
    let report = salvage(&path, folder.path().join("a"), Unlisted::Auto)?;
    assert_eq!((report.num_samples, report.unlisted), (100, vec![name]));
    let report = salvage(&path, folder.path().join("b"), Unlisted::Include)?;
    assert_eq!(report.num_samples, 108);
    // Without a manifest they cannot be told apart; the caller may.
    fs::remove_file(path.join("manifest.tsm")).unwrap();
    let report = salvage(&path, folder.path().join("c"), Unlisted::Auto)?;
    assert_eq!(report.num_samples, 108);
    Ok(())
}

#[test]
fn what_is_not_known_to_be_whole_is_not_called_whole() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("d");
    dataset(&path)?;
    let (first, num_samples) = shards(&path)?.remove(0);
    let bytes = fs::read(&first).unwrap();
    // Cut wherever it may be: also where a chunk ends.
    let lone = folder.path().join("lone.tshard");
    let mut salvaged = Vec::new();
    for len in (0..bytes.len()).rev().step_by(8) {
        fs::write(&lone, &bytes[..len]).unwrap();
        let out = folder.path().join(format!("{len}"));
        let Ok(report) = salvage(&lone, &out, Unlisted::Auto) else {
            continue;
        };
        assert!(!report.is_whole(), "cut to {len} bytes");
        salvaged.push(report.num_samples);
    }
    assert!(salvaged.contains(&num_samples) && salvaged.contains(&8));
    // Without its manifest, nobody knows what a dataset had.
    fs::remove_file(path.join("manifest.tsm")).unwrap();
    fs::remove_file(&first).unwrap();
    let report = salvage(&path, folder.path().join("out"), Unlisted::Auto)?;
    assert!(!report.is_whole() && report.manifest_error.is_some());
    assert_eq!(report.num_samples, 100 - num_samples);
    Ok(())
}

#[test]
fn shards_are_known_whatever_their_names() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("d");
    let original = dataset(&folder.path().join("original"))?;
    dataset(&path)?;
    let files = shards(&path)?;
    let (a, b, c) = (&files[0].0, &files[1].0, &files[2].0);
    fs::rename(a, path.join("x")).unwrap();
    fs::rename(b, a).unwrap();
    fs::rename(path.join("x"), b).unwrap();
    fs::copy(c, path.join("copy.tshard")).unwrap();
    let finds_all = |name: &str| -> Result<()> {
        let out = folder.path().join(name);
        assert!(salvage(&path, &out, Unlisted::Include)?.is_whole());
        let found = found_in(&original, &Dataset::open(out)?)?;
        assert_eq!(found, (0..100).collect::<Vec<u64>>());
        Ok(())
    };
    finds_all("swapped")?;
    fs::remove_file(c).unwrap();
    finds_all("renamed")
}

#[cfg(unix)]
#[test]
fn no_path_leads_into_the_damaged_dataset() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("d");
    dataset(&path)?;
    let before = contents(&path);
    let link = folder.path().join("link");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    fs::create_dir(folder.path().join("x")).unwrap();
    let shard = shards(&path)?.remove(0).0;
    for (source, out) in [
        (&path, link.join("out")),
        (&path, link.join("a/b")),
        (&link, path.join("out")),
        (&path, folder.path().join("x/../d/out")),
        (&path.join("manifest.tsm"), path.join("out")),
        (&shard, path.join("out")),
        (&shard, link.join("out")),
    ] {
        let error = salvage(source, &out, Unlisted::Auto).unwrap_err();
        assert!(
            error.to_string().contains("which stays as it is"),
            "{}: {error}",
            out.display()
        );
    }
    assert_eq!(contents(&path), before);
    // From within: the name of a file alone.
    for (out, code) in [("out", 2), ("../beside", 0)] {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_tensorshard"))
            .current_dir(&path)
            .args(["salvage".as_ref(), shard.file_name().unwrap(), out.as_ref()])
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(code), "{output:?}");
    }
    assert_eq!(contents(&path), before);
    // A shard that is in no dataset may lie beside what is made of it.
    let lone = folder.path().join("x/lone.tshard");
    fs::copy(&shard, &lone).unwrap();
    assert!(salvage(&lone, folder.path().join("x/out"), Unlisted::Auto)?.is_whole());
    Ok(())
}

#[test]
fn a_stale_shard_under_the_right_name_is_not_taken_for_the_right_one() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("d");
    dataset(&path)?;
    let other = folder.path().join("other");
    let builder = ShardWriter::builder()
        .samples_per_chunk(8)
        .shard_ids_from(1);
    small_dataset(&other, 30, builder)?;
    let stale = &shards(&other)?[0].0;
    fs::copy(stale, path.join(stale.file_name().unwrap())).unwrap();
    let report = salvage(&path, folder.path().join("out"), Unlisted::Auto)?;
    assert!(!report.is_whole());
    assert!(report.shards[0].error.as_ref().unwrap().is_corrupt());
    assert_eq!(report.shards[0].salvaged_samples, 0);
    Ok(())
}

#[test]
fn nothing_is_overwritten_and_nothing_is_made_of_nothing() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("d");
    dataset(&path)?;
    let invalid = |error: tensorshard::Error| {
        assert!(
            matches!(error.kind(), ErrorKind::InvalidArgument { .. }),
            "{error}"
        );
    };
    for out in [path.clone(), path.join("sub")] {
        invalid(salvage(&path, out, Unlisted::Auto).unwrap_err());
    }
    let full = folder.path().join("full");
    fs::create_dir(&full).unwrap();
    fs::write(full.join("x"), "x").unwrap();
    invalid(salvage(&path, &full, Unlisted::Auto).unwrap_err());
    let out = folder.path().join("out");
    let empty = folder.path().join("empty");
    fs::create_dir(&empty).unwrap();
    assert!(salvage(&empty, &out, Unlisted::Auto).is_err());
    assert!(
        salvage(folder.path().join("no"), &out, Unlisted::Auto)
            .unwrap_err()
            .is_io()
    );
    fs::write(empty.join("x.tshard"), vec![0; 1000]).unwrap();
    assert!(salvage(&empty, &out, Unlisted::Auto).is_err());
    assert!(!out.exists());
    Ok(())
}

#[cfg(feature = "cli")]
#[test]
fn the_command_reports_what_is_lost_and_ends_with_1() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let (path, out) = (folder.path().join("d"), folder.path().join("out"));
    dataset(&path)?;
    let run = |out: &Path| {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_tensorshard"))
            .args(["salvage", "--json"])
            .args([&path, out])
            .output()
            .unwrap();
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        (output.status.code(), report)
    };
    let (code, report) = run(&folder.path().join("whole"));
    assert_eq!((code, &report["whole"]), (Some(0), &true.into()));
    let file = &shards(&path)?[0].0;
    let mut bytes = fs::read(file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(file, bytes).unwrap();
    let (code, report) = run(&out);
    assert_eq!((code, &report["num_samples"]), (Some(1), &92.into()));
    let missing = &report["shards"][0]["missing"][0];
    let samples = missing["samples"].as_array().unwrap();
    assert_eq!(
        samples[1].as_u64().unwrap() - samples[0].as_u64().unwrap(),
        8
    );
    assert!(missing["message"].as_str().unwrap().contains("checksum"));
    assert_eq!(run(&out).0, Some(2));
    Ok(())
}

/// The header is not needed where the manifest lists the shard: not for its version either.
#[test]
fn no_byte_of_a_header_loses_a_chunk() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("d");
    dataset(&path)?;
    let file = &shards(&path)?[0].0;
    let original = fs::read(file).unwrap();
    let header_len = usize::try_from(u32::from_le_bytes(original[12..16].try_into().unwrap()));
    let header_len = header_len.unwrap();
    for at in (0..24).chain((24..header_len).step_by(31)) {
        let mut bytes = original.clone();
        bytes[at] ^= 0x11;
        fs::write(file, bytes).unwrap();
        let out = folder.path().join("out");
        let report = salvage(&path, &out, Unlisted::Auto)?;
        assert_eq!(report.num_samples, 100, "byte {at}");
        assert!(report.is_whole(), "byte {at}");
        assert!(Dataset::open(&out)?.verify(&|_| ()).is_intact());
        fs::remove_dir_all(&out).unwrap();
    }
    Ok(())
}

/// A header of another version whose checksum holds is no damage.
#[test]
fn a_newer_shard_is_not_taken_for_a_damaged_one() -> Result<()> {
    use common::forge::Forge;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("d");
    dataset(&path)?;
    let file = &shards(&path)?[0].0;
    let mut forge = Forge::new(fs::read(file).unwrap());
    forge.bytes[8] = 2;
    forge.sign();
    fs::write(file, &forge.bytes).unwrap();
    let report = salvage(&path, folder.path().join("out"), Unlisted::Auto)?;
    let error = report.shards[0].error.as_ref().unwrap();
    assert!(error.is_unsupported(), "{error}");
    assert!(report.num_samples < 100);
    // Alone, with a checksum that does not hold, it may be either.
    forge.bytes[30] ^= 1;
    let alone = folder.path().join("x");
    fs::write(&alone, &forge.bytes).unwrap();
    let error = salvage(&alone, folder.path().join("out2"), Unlisted::Auto).unwrap_err();
    assert!(error.is_unsupported(), "{error}");
    assert!(!folder.path().join("out2").exists());
    Ok(())
}

#[test]
fn a_whole_copy_is_taken_once_in_place_of_a_damaged_shard() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("d");
    let original = dataset(&folder.path().join("original"))?;
    dataset(&path)?;
    let files = shards(&path)?;
    for (name, file) in [("copy.tshard", &files[0].0), ("a.tshard", &files[2].0)] {
        fs::copy(file, path.join(name)).unwrap();
        let mut bytes = fs::read(file).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(file, bytes).unwrap();
    }
    let finds_all = |name: &str| -> Result<()> {
        let out = folder.path().join(name);
        let report = salvage(&path, &out, Unlisted::Include)?;
        assert_eq!(
            (report.num_samples, report.shards.len()),
            (100, files.len())
        );
        let salvaged = Dataset::open(&out)?;
        let found: Vec<u64> = if name == "listed" {
            assert!(report.is_whole());
            found_in(&original, &salvaged)?
        } else {
            (0..salvaged.len()).collect()
        };
        assert_eq!(found, (0..100).collect::<Vec<u64>>());
        assert!(salvaged.verify(&|_| ()).is_intact());
        Ok(())
    };
    finds_all("listed")?;
    // Without a manifest as well.
    fs::remove_file(path.join("manifest.tsm")).unwrap();
    finds_all("unlisted")
}

/// Of two damaged copies, every chunk that one of them has, once.
#[test]
fn damaged_copies_of_a_shard_make_up_for_each_other() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("d");
    let original = dataset(&folder.path().join("original"))?;
    let all = original.get_many(&(0..100).collect::<Vec<_>>())?;
    dataset(&path)?;
    let file = &shards(&path)?[0].0;
    let whole = fs::read(file).unwrap();
    let damage = |name: &str, at: usize| {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        fs::write(path.join(name), bytes).unwrap();
    };
    let middle = whole.len() / 2;
    damage(&file.file_name().unwrap().to_string_lossy(), middle);
    // The same damage twice: what is lost is lost, what is there is there once.
    damage("a.tshard", middle);
    let report = salvage(&path, folder.path().join("same"), Unlisted::Include)?;
    assert_eq!(report.num_samples, 92);
    assert_eq!(
        found_in(&original, &Dataset::open(&report.path)?)?.len(),
        92
    );
    // Another: everything is there, where the shard was.
    damage("a.tshard", 1000);
    let report = salvage(&path, folder.path().join("other"), Unlisted::Include)?;
    assert_eq!(report.num_samples, 100);
    let salvaged = Dataset::open(&report.path)?;
    assert!(salvaged.verify(&|_| ()).is_intact());
    for i in 0..100 {
        let sample = salvaged.get(i)?;
        assert!(all.iter().any(|other| other.same_values(&sample)), "{i}");
    }
    let last = usize::try_from(report.num_samples - 1).unwrap();
    assert!(salvaged.get(99)?.same_values(&all[last]));
    Ok(())
}

/// A damaged shard under the name of another, which is whole elsewhere, is salvaged as what it is.
#[test]
fn a_damaged_shard_under_the_name_of_another_is_salvaged() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("d");
    let original = dataset(&folder.path().join("original"))?;
    dataset(&path)?;
    let files = shards(&path)?;
    let (a, b) = (&files[0].0, &files[1].0);
    let (bytes_a, mut bytes_b) = (fs::read(a).unwrap(), fs::read(b).unwrap());
    let middle = bytes_b.len() / 2;
    bytes_b[middle] ^= 1;
    fs::write(a, &bytes_b).unwrap();
    fs::write(b, &bytes_a).unwrap();
    let out = folder.path().join("out");
    let report = salvage(&path, &out, Unlisted::Auto)?;
    assert!(!report.is_whole());
    assert_eq!(report.num_samples, 92);
    let found = found_in(&original, &Dataset::open(&out)?)?;
    assert_eq!(found.len(), 92);
    assert!(found.starts_with(&(0..files[0].1).collect::<Vec<_>>()));
    // It is told what is lost also where it is all.
    fs::write(a, &bytes_a).unwrap();
    fs::write(b, &bytes_a).unwrap();
    let report = salvage(&path, folder.path().join("out2"), Unlisted::Auto)?;
    assert!(!report.is_whole());
    assert_eq!(report.num_samples, 100 - files[1].1);
    let lost = report.shards.iter().find(|shard| shard.error.is_some());
    assert_eq!(lost.unwrap().first_sample, Some(files[0].1));
    Ok(())
}

/// Holes are passed over, where the system tells of them.
#[cfg(target_os = "linux")]
#[test]
fn a_sparse_file_takes_no_time() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let (path, out) = (folder.path().join("d"), folder.path().join("out"));
    dataset(&path)?;
    let file = &shards(&path)?[0].0;
    let file = fs::OpenOptions::new().write(true).open(file).unwrap();
    file.set_len(1 << 35).unwrap();
    let report = salvage(&path, &out, Unlisted::Auto)?;
    assert_eq!(report.num_samples, 100);
    Ok(())
}

/// Found by fuzzing: the chunks in between were looked at one by one.
#[test]
fn a_forged_chunk_that_says_it_is_far_away_takes_no_time() -> Result<()> {
    use common::forge::{Forge, crc};
    const FAR: u32 = u32::MAX;
    let folder = tempfile::tempdir().unwrap();
    let (path, out) = (folder.path().join("d"), folder.path().join("out"));
    dataset(&path)?;
    let (file, num_samples) = shards(&path)?.remove(0);
    let mut forge = Forge::new(fs::read(&file).unwrap());
    let id = forge.bytes[24..40].to_vec();
    let chunk = forge.chunks[1].clone();
    forge.bytes[chunk.at + 8..chunk.at + 12].copy_from_slice(&FAR.to_le_bytes());
    let first_sample = u64::from(FAR) * 8;
    forge.bytes[chunk.at + 16..chunk.at + 24].copy_from_slice(&first_sample.to_le_bytes());
    for (ordinal, stream) in (0..).zip(&chunk.streams) {
        for (piece, place) in (0..).zip(stream) {
            let data = &forge.bytes[place.data.clone()];
            let crc = crc(&id, u64::from(FAR), ordinal, piece, data);
            forge.bytes[place.entry + 8..place.entry + 12].copy_from_slice(&crc.to_le_bytes());
        }
    }
    let end = chunk.at + chunk.header_len - 4;
    let crc = crc(
        &id,
        u64::from(FAR),
        u32::MAX,
        2,
        &forge.bytes[chunk.at..end],
    );
    forge.bytes[end..end + 4].copy_from_slice(&crc.to_le_bytes());
    // The end of the shard does not say how many chunks there are.
    let len = forge.footer;
    forge.bytes.truncate(len);
    fs::write(folder.path().join("x"), &forge.bytes).unwrap();
    let report = salvage(folder.path().join("x"), &out, Unlisted::Auto)?;
    assert_eq!(report.num_samples, num_samples);
    let gaps: Vec<_> = report.shards[0]
        .missing
        .iter()
        .map(|m| m.chunks.clone())
        .collect();
    assert_eq!(gaps.last().unwrap().end, u64::from(FAR));
    Ok(())
}
