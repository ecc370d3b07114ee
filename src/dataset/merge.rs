//! Several datasets (parts, written in parallel) become one: shards are linked, a manifest is committed.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::format::forever::MANIFEST_NAME;
use crate::format::manifest::{Manifest, ShardRecord};
use crate::storage::{FileSink, FileStorage, Sink, Storage, sync_folder};

use super::made::Made;
use super::metadata::Metadata;
use super::{Dataset, metadata};

/// Bytes copied at a time where a link is not possible.
const COPY_BLOCK: u64 = 8 << 20;

/// What [`merge`] did.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct MergeSummary {
    /// The merged dataset.
    pub path: PathBuf,
    /// Samples in it.
    pub num_samples: u64,
    /// Shards in it.
    pub num_shards: u64,
    /// Shards whose bytes were copied because they are on another file system.
    pub copied_shards: u64,
}

/// Merges datasets with the same fields and encodings, in the order given, into the new dataset `out`. Shards are hard
/// links to those of the parts, so no data is copied within one file system, and the parts stay valid. Metadata is that
/// of the parts, the first to name a key winning.
///
/// # Errors
/// `InvalidArgument` if schemas differ, a shard occurs twice, or `out` is a dataset already; errors of opening a part. Nothing
/// new is left in `out` then, and no folder that was not there.
pub fn merge(parts: &[impl AsRef<Path>], out: impl AsRef<Path>) -> Result<MergeSummary> {
    let out = out.as_ref();
    if out.join(MANIFEST_NAME).exists() {
        return Err(
            Error::invalid("there is a dataset already; choose another folder").in_file(out),
        );
    }
    let parts: Vec<Dataset> = parts.iter().map(Dataset::open).collect::<Result<_>>()?;
    let Some(first) = parts.first() else {
        return Err(Error::invalid("nothing to merge: name at least one part"));
    };
    let schema_bytes = first.manifest().schema_bytes.clone();
    let mut metadata = Metadata::default();
    let mut shards: Vec<(PathBuf, ShardRecord)> = Vec::new();
    let mut seen = HashSet::new();
    for part in &parts {
        if part.manifest().schema_bytes != schema_bytes {
            return Err(Error::invalid(format!(
                "its fields differ from those of {} (name, dtype, shape, encoding or static scales); write the part again with those",
                first.path().display()
            ))
            .in_file(part.path()));
        }
        metadata.add(part.metadata(), part.tool_metadata());
        for record in part.shard_records()? {
            if !seen.insert(record.shard_id) {
                return Err(Error::invalid(format!(
                    "shard {} occurs twice; name each part once",
                    record.shard_id
                ))
                .in_file(part.path()));
            }
            let folder = if part.path().is_file() {
                part.path().parent().unwrap_or(Path::new(""))
            } else {
                part.path()
            };
            shards.push((folder.join(record.shard_id.file_name()), record));
        }
    }
    let mut made = Made::new(out)?;
    let mut copied_shards = 0;
    for (source, record) in &shards {
        let name = record.shard_id.file_name();
        match fs::hard_link(source, out.join(&name)) {
            Ok(()) => {
                made.file(&name);
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                return Err(Error::io("open", source, e));
            }
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
                // Left by a merge that did not finish: the same bytes under the same random id, or the manifest's
                // checks will say so when it is opened.
            }
            Err(_) => {
                copy(source, made.file(&name))?;
                copied_shards += 1;
            }
        }
    }
    sync_folder(out)?;
    let records: Vec<ShardRecord> = shards.iter().map(|(_, record)| *record).collect();
    let bytes = Manifest::encode(
        &schema_bytes,
        &metadata::encode(&metadata)?,
        &records,
        false,
    )?;
    made.publish(&bytes)?;
    Ok(MergeSummary {
        path: out.to_owned(),
        num_samples: records.iter().map(|record| record.num_samples).sum(),
        num_shards: records.len() as u64,
        copied_shards,
    })
}

pub(super) fn copy(source: &Path, target: PathBuf) -> Result<()> {
    let storage = FileStorage::open(source)?;
    let mut sink = FileSink::create(target)?;
    let mut block = Vec::new();
    let mut at = 0;
    while at < storage.len() {
        let end = storage.len().min(at + COPY_BLOCK);
        sink.append(storage.read(at..end, &mut block)?)?;
        at = end;
    }
    sink.commit()
}
