//! The files of a damaged dataset: which there are, in what order, and what the manifest says of them.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use crate::dataset::metadata::{self, Metadata};
use crate::dataset::{MANIFEST_LIMIT, is_temporary_name};
use crate::error::{Error, Result};
use crate::format::forever::{MANIFEST_NAME, SHARD_SUFFIX};
use crate::format::manifest::{Manifest, ShardRecord};
use crate::format::schema::Schema;
use crate::format::shard_id::ShardId;
use crate::shard::recover::Ends;
use crate::storage::{self, IoMode};

use super::Unlisted;

/// One file that may hold chunks.
#[derive(Clone, Debug)]
pub(super) struct Source {
    pub(super) path: PathBuf,
    pub(super) file_name: String,
    /// What the manifest says of it.
    pub(super) record: Option<ShardRecord>,
}

impl Source {
    fn new(path: PathBuf, record: Option<ShardRecord>) -> Self {
        let name = path.file_name().unwrap_or_default();
        Self {
            file_name: name.to_string_lossy().into_owned(),
            path,
            record,
        }
    }

    /// The shard id in the file's name.
    pub(super) fn named_id(&self) -> Option<ShardId> {
        named_id(&self.file_name)
    }
}

/// The id in `<32 hexadecimal digits>.tshard` or a temporary name of it.
fn named_id(name: &str) -> Option<ShardId> {
    let digits = name.get(..32)?;
    let rest = name.get(32..)?.strip_prefix(SHARD_SUFFIX)?;
    if !rest.is_empty() && !is_temporary_name(name) {
        return None;
    }
    let mut id = [0; 16];
    for (byte, pair) in id.iter_mut().zip(digits.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(ShardId(id))
}

/// Everything that is there.
#[derive(Debug)]
pub(super) struct Sources {
    path: PathBuf,
    pub(super) files: Vec<Source>,
    /// Files that are no part of the dataset, or may not be.
    pub(super) left_out: Vec<String>,
    pub(super) metadata: Metadata,
    pub(super) manifest_error: Option<Error>,
    manifest: Option<Manifest>,
}

impl Sources {
    /// Looks at `source`: a folder, its manifest, or one shard.
    pub(super) fn find(source: &Path, unlisted: Unlisted) -> Result<Self> {
        let metadata = fs::metadata(source).map_err(|e| Error::io("open", source, e))?;
        let is_manifest = source.file_name().is_some_and(|name| name == MANIFEST_NAME);
        if metadata.is_dir() {
            Self::in_folder(source, unlisted)
        } else if is_manifest {
            Self::in_folder(storage::parent(source), unlisted)
        } else {
            // A pipe, a device: told at once.
            storage::open(source, IoMode::Read)?;
            Ok(Self {
                path: source.to_owned(),
                files: vec![Source::new(source.to_owned(), None)],
                left_out: Vec::new(),
                metadata: Metadata::default(),
                manifest_error: None,
                manifest: None,
            })
        }
    }

    fn in_folder(folder: &Path, unlisted: Unlisted) -> Result<Self> {
        let mut shards: BTreeMap<String, SystemTime> = BTreeMap::new();
        let mut manifests: Vec<(SystemTime, PathBuf)> = Vec::new();
        for entry in fs::read_dir(folder).map_err(|e| Error::io("open", folder, e))? {
            let entry = entry.map_err(|e| Error::io("read", folder, e))?;
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            // Of what a name leads to: a shard may be a link.
            let Ok(metadata) = fs::metadata(entry.path()) else {
                continue;
            };
            let changed = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            let is_temporary = is_temporary_name(&name);
            if !metadata.is_file() {
                continue;
            }
            if name.ends_with(SHARD_SUFFIX) || is_temporary && named_id(&name).is_some() {
                shards.insert(name, changed);
            } else if is_temporary && name.starts_with(MANIFEST_NAME) {
                manifests.push((changed, entry.path()));
            }
        }
        let (manifest, manifest_error) = read_manifests(folder, manifests);
        let mut found = Self {
            path: folder.to_owned(),
            files: Vec::new(),
            left_out: Vec::new(),
            metadata: Metadata::default(),
            manifest_error,
            manifest,
        };
        found.order(folder, shards, unlisted)?;
        Ok(found)
    }

    /// Listed shards first, then the others.
    fn order(
        &mut self,
        folder: &Path,
        mut shards: BTreeMap<String, SystemTime>,
        unlisted: Unlisted,
    ) -> Result<()> {
        let mut take_rest = unlisted == Unlisted::Include;
        let mut seen = Vec::new();
        if let Some(manifest) = &self.manifest {
            take_rest |= unlisted == Unlisted::Auto && manifest.unfinished;
            // What it says of samples does not depend on it.
            self.metadata = metadata::parse(&manifest.metadata).unwrap_or_default();
            for record in manifest.shards() {
                let record = record?;
                let mut name = record.shard_id.file_name();
                if shards.remove(&name).is_none() {
                    // It was not renamed yet, or only the manifest has reached the disk.
                    let temporary = shards
                        .keys()
                        .find(|name| named_id(name) == Some(record.shard_id));
                    if let Some(temporary) = temporary.cloned() {
                        shards.remove(&temporary);
                        name = temporary;
                    }
                }
                seen.push(record.shard_id);
                self.files
                    .push(Source::new(folder.join(name), Some(record)));
            }
        } else {
            take_rest |= unlisted == Unlisted::Auto;
        }
        let mut rest: Vec<(bool, SystemTime, String)> = shards
            .into_iter()
            .map(|(name, changed)| (is_temporary_name(&name), changed, name))
            .collect();
        if !take_rest {
            self.left_out = rest.into_iter().map(|(.., name)| name).collect();
            return Ok(());
        }
        // A shard that has its name was written before one that has not.
        rest.sort();
        for (.., name) in rest {
            let id = named_id(&name);
            if id.is_some_and(|id| seen.contains(&id)) {
                self.left_out.push(name);
                continue;
            }
            seen.extend(id);
            self.files.push(Source::new(folder.join(name), None));
        }
        Ok(())
    }

    /// The shards that the manifest lists.
    pub(super) fn listed(&self) -> Result<Vec<ShardRecord>> {
        let shards = self.manifest.iter().flat_map(Manifest::shards);
        shards.collect()
    }

    /// The fields of the dataset: those of the manifest, or of the shards with the most bytes.
    pub(super) fn schema(&mut self) -> Result<(Arc<Schema>, Vec<u8>)> {
        if let Some(manifest) = &self.manifest {
            let bytes = manifest.schema_bytes.to_vec();
            return Ok((Arc::new(manifest.schema.clone()), bytes));
        }
        let mut by_schema: HashMap<Vec<u8>, (u64, usize, Schema)> = HashMap::new();
        let mut unsupported = None;
        for (ordinal, source) in self.files.iter().enumerate() {
            let Ok(storage) = storage::open(&source.path, IoMode::Read) else {
                continue;
            };
            match Ends::read(storage.as_ref()) {
                Ok(Ends {
                    header: Some((header, schema)),
                    ..
                }) => {
                    let entry = by_schema.entry(header.schema_bytes);
                    entry.or_insert((0, ordinal, schema)).0 += storage.len();
                }
                Ok(ends) => unsupported = unsupported.or(ends.unsupported),
                Err(error) => unsupported = unsupported.or(Some(error)),
            }
        }
        let most = by_schema
            .into_iter()
            .max_by_key(|(_, (bytes, ordinal, _))| (*bytes, std::cmp::Reverse(*ordinal)));
        match (most, unsupported, self.manifest_error.take()) {
            (Some((bytes, (.., schema))), _, manifest_error) => {
                self.manifest_error = manifest_error;
                Ok((Arc::new(schema), bytes))
            }
            (None, Some(error), _) => Err(error),
            (None, None, Some(error)) if !error.is_io() => Err(error),
            _ => Err(Error::corrupt(
                "dataset",
                "a manifest or a shard whose header is intact",
                "neither; without the fields, chunks mean nothing",
            )
            .in_file(&self.path)),
        }
    }
}

/// The manifest; if it is missing or damaged, the newest that its writer was about to put in place.
fn read_manifests(
    folder: &Path,
    mut temporary: Vec<(SystemTime, PathBuf)>,
) -> (Option<Manifest>, Option<Error>) {
    let error = match read_manifest(&folder.join(MANIFEST_NAME)) {
        Ok(manifest) => return (Some(manifest), None),
        Err(error) => error,
    };
    temporary.sort();
    let newest = temporary
        .iter()
        .rev()
        .find_map(|(_, path)| read_manifest(path).ok());
    (newest, Some(error))
}

fn read_manifest(path: &Path) -> Result<Manifest> {
    let bytes = storage::read_file(path, MANIFEST_LIMIT)?;
    Manifest::parse(bytes).map_err(|e| e.in_file(path))
}
