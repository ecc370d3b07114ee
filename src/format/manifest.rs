//! The manifest: which shards make up a dataset (format-spec 3). It is the dataset's commit.

use bytes::Bytes;

use crate::checksum::{Context, MANIFEST, checksum};
use crate::error::{Error, MAGIC_OF_MANIFEST, Result};

use super::forever::MANIFEST_MAGIC;
use super::header::{check_samples_per_chunk, expect_checksum, read_magic};
use super::schema::Schema;
use super::shard_id::ShardId;
use super::wire::{Cursor, Put, expect_eq, expect_limit, to_u32, to_usize};
use super::{align, limits, version};

/// Bytes of one shard record.
pub(crate) const SHARD_RECORD: u64 = 48;
const MANIFEST_FIXED: u64 = 64;
const FLAG_UNFINISHED: u32 = 1;

/// One shard of a dataset, as the manifest records it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ShardRecord {
    pub(crate) shard_id: ShardId,
    pub(crate) first_sample: u64,
    pub(crate) num_samples: u64,
    pub(crate) samples_per_chunk: u32,
    pub(crate) footer_crc: u32,
    pub(crate) file_len: u64,
}

impl ShardRecord {
    fn put(&self, out: &mut Vec<u8>) {
        out.put(&self.shard_id.0);
        out.put_u64(self.first_sample);
        out.put_u64(self.num_samples);
        out.put_u32(self.samples_per_chunk);
        out.put_u32(self.footer_crc);
        out.put_u64(self.file_len);
    }

    fn parse(record: &[u8]) -> Result<Self> {
        let mut c = Cursor::new(record, "shard record");
        let record = Self {
            shard_id: ShardId(c.array()?),
            first_sample: c.u64()?,
            num_samples: c.u64()?,
            samples_per_chunk: c.u32()?,
            footer_crc: c.u32()?,
            file_len: c.u64()?,
        };
        c.finish()?;
        Ok(record)
    }
}

/// A parsed manifest. Shard records stay where they are, in the file's bytes.
#[derive(Clone, Debug)]
pub(crate) struct Manifest {
    pub(crate) schema: Schema,
    pub(crate) schema_bytes: Bytes,
    /// Empty, or a JSON object.
    pub(crate) metadata: Bytes,
    pub(crate) num_samples: u64,
    pub(crate) unfinished: bool,
    records: Bytes,
}

impl Manifest {
    /// The bytes of a manifest with these shards; `first_sample` is filled in here.
    pub(crate) fn encode(
        schema_bytes: &[u8],
        metadata: &[u8],
        shards: &[ShardRecord],
        unfinished: bool,
    ) -> Result<Vec<u8>> {
        expect_limit("shards", limits::SHARDS, shards.len() as u64)?;
        expect_limit("metadata", limits::METADATA, metadata.len() as u64)?;
        let mut tail = Vec::new();
        tail.put(schema_bytes);
        tail.pad_to(8);
        tail.put(metadata);
        tail.pad_to(8);
        let mut num_samples = 0u64;
        for shard in shards {
            ShardRecord {
                first_sample: num_samples,
                ..*shard
            }
            .put(&mut tail);
            num_samples = num_samples.saturating_add(shard.num_samples);
        }
        expect_limit("samples", limits::SAMPLES, num_samples)?;
        let mut out = Vec::new();
        out.put(&MANIFEST_MAGIC);
        version::put_version(Schema::parse(schema_bytes)?.version_minor()?, &mut out);
        version::put_features(0, &mut out);
        out.put_u32(if unfinished { FLAG_UNFINISHED } else { 0 });
        out.put_u64(
            (tail.len() as u64)
                .saturating_add(MANIFEST_FIXED)
                .saturating_add(8),
        );
        out.put_u64(num_samples);
        out.put_u64(shards.len() as u64);
        out.put_u32(to_u32("schema", schema_bytes.len())?);
        out.put_u32(to_u32("metadata", metadata.len())?);
        out.put_u64(0);
        out.put(&tail);
        out.put_u32(0);
        let crc = checksum(&Context::structure([0; 16], MANIFEST), &out);
        out.put_u32(crc);
        Ok(out)
    }

    /// Parses and validates a whole manifest file.
    ///
    /// # Errors
    /// Their offsets are those in the file.
    pub(crate) fn parse(bytes: Bytes) -> Result<Self> {
        Self::parse_inner(bytes).map_err(|e| e.within(0))
    }

    fn parse_inner(bytes: Bytes) -> Result<Self> {
        let mut c = Cursor::new(&bytes, "manifest");
        read_magic(&mut c, MANIFEST_MAGIC, MAGIC_OF_MANIFEST)?;
        version::read_version(&mut c)?;
        let features = c.take(8)?;
        let flags = c.u32()?;
        let file_len = c.u64()?;
        expect_eq("length of the file", file_len, bytes.len() as u64)?;
        let Some((body, crc)) = bytes.split_last_chunk::<4>() else {
            return Err(Error::corrupt(
                "length of the manifest",
                "at least 72",
                bytes.len(),
            ));
        };
        let expected = checksum(&Context::structure([0; 16], MANIFEST), body);
        expect_checksum(
            "checksum of the manifest",
            expected,
            u32::from_le_bytes(*crc),
        )?;
        version::read_features(&mut Cursor::new(features, "manifest"))?;
        if flags & !FLAG_UNFINISHED != 0 {
            return Err(Error::corrupt("flags of the manifest", "0 or 1", flags));
        }
        let num_samples = c.u64()?;
        let num_shards = c.u64()?;
        let schema_len = u64::from(c.u32()?);
        let metadata_len = u64::from(c.u32()?);
        c.reserved(8)?;
        expect_limit("schema", limits::SCHEMA, schema_len)?;
        expect_limit("metadata", limits::METADATA, metadata_len)?;
        expect_limit("shards", limits::SHARDS, num_shards)?;
        expect_limit("samples", limits::SAMPLES, num_samples)?;
        let mut part = |len: u64| -> Result<Bytes> {
            let part = bytes.slice_ref(c.take(to_usize("manifest", len)?)?);
            c.reserved(to_usize("padding", align(len, 8).saturating_sub(len))?)?;
            Ok(part)
        };
        let schema_bytes = part(schema_len)?;
        let metadata = part(metadata_len)?;
        let records = part(num_shards.saturating_mul(SHARD_RECORD))?;
        c.reserved(4)?;
        c.take(4)?;
        c.finish()?;
        let schema = Schema::parse(&schema_bytes).map_err(|e| e.within(MANIFEST_FIXED))?;
        let manifest = Self {
            schema,
            schema_bytes,
            metadata,
            num_samples,
            unfinished: flags == FLAG_UNFINISHED,
            records,
        };
        manifest.validate_shards()?;
        Ok(manifest)
    }

    /// The records tile the samples.
    fn validate_shards(&self) -> Result<()> {
        let mut next = 0u64;
        for (ordinal, shard) in self.shards().enumerate() {
            let shard = shard?;
            if shard.num_samples == 0 || shard.first_sample != next {
                return Err(Error::corrupt(
                    format!("record of shard {ordinal}"),
                    format_args!("first_sample {next} and at least one sample"),
                    format_args!(
                        "first_sample {} and {} samples",
                        shard.first_sample, shard.num_samples
                    ),
                ));
            }
            check_samples_per_chunk(shard.samples_per_chunk)?;
            expect_limit("samples", limits::SAMPLES, shard.num_samples)?;
            next = next.saturating_add(shard.num_samples);
        }
        expect_eq("num_samples", next, self.num_samples)?;
        let mut ids: Vec<u128> = Vec::new();
        for shard in self.shards() {
            ids.push(u128::from_le_bytes(shard?.shard_id.0));
        }
        ids.sort_unstable();
        if ids.windows(2).any(|pair| pair.first() == pair.last()) {
            return Err(Error::corrupt(
                "shard_id",
                "another for every shard",
                "one twice",
            ));
        }
        Ok(())
    }

    pub(crate) fn num_shards(&self) -> u64 {
        self.records.len() as u64 / SHARD_RECORD
    }

    /// The record of a shard.
    pub(crate) fn shard(&self, ordinal: u64) -> Result<ShardRecord> {
        let start = to_usize("shard", ordinal.saturating_mul(SHARD_RECORD))?;
        let record = self.records.get(start..).and_then(|rest| rest.get(..48));
        ShardRecord::parse(record.ok_or_else(|| {
            Error::invalid(format!(
                "shard {ordinal} of a dataset with {} shards",
                self.num_shards()
            ))
        })?)
    }

    pub(crate) fn shards(&self) -> impl Iterator<Item = Result<ShardRecord>> {
        self.records.chunks(48).map(ShardRecord::parse)
    }

    /// The ordinal of the shard that holds a sample: a binary search in place.
    pub(crate) fn shard_of(&self, sample: u64) -> Result<u64> {
        if sample >= self.num_samples {
            return Err(Error::invalid(format!(
                "sample {sample} of a dataset with {} samples",
                self.num_samples
            )));
        }
        let (mut low, mut high) = (0u64, self.num_shards());
        while high.saturating_sub(low) > 1 {
            let middle = low.midpoint(high);
            if self.shard(middle)?.first_sample <= sample {
                low = middle;
            } else {
                high = middle;
            }
        }
        Ok(low)
    }
}
