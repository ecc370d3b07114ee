//! Datasets that are measured, made once.

use std::fs;
use std::path::{Path, PathBuf};

use tensorshard::{CodecSpec, Dataset, FieldSpec, ShardWriter, ShardWriterBuilder, TensorView};

use crate::common::{Array, field};

/// The dataset `name` in `folder`, written if it is not there.
pub(crate) fn dataset(
    folder: &Path,
    name: &str,
    make: impl FnOnce() -> Array,
    encoding: impl FnOnce(FieldSpec) -> FieldSpec,
) -> PathBuf {
    written(folder, name, make, encoding, |builder| builder)
}

/// As [`dataset`], with options of the writer.
pub(crate) fn written(
    folder: &Path,
    name: &str,
    make: impl FnOnce() -> Array,
    encoding: impl FnOnce(FieldSpec) -> FieldSpec,
    options: impl FnOnce(ShardWriterBuilder) -> ShardWriterBuilder,
) -> PathBuf {
    let path = folder.join(name);
    if path.join("manifest.tsm").exists() {
        return path;
    }
    let array = make();
    let builder = options(ShardWriter::builder().field(encoding(field(&array))));
    let mut writer = builder.create(&path).expect("a writer");
    let view = TensorView::new(array.dtype, &array.shape, &array.data).expect("a view");
    writer.extend(&[("x", view)]).expect("samples");
    writer.finish().expect("a dataset");
    path
}

/// Values as they are: no filter, no codec.
pub(crate) fn stored(field: FieldSpec) -> FieldSpec {
    field.filters([]).codec(codec("none"))
}

/// A codec by its name.
pub(crate) fn codec(name: &str) -> CodecSpec {
    CodecSpec::parse(name).expect("a codec")
}

/// Pretends that the dataset at `path`, of one shard, has `num_shards` shards of `samples` samples each: a manifest
/// that cannot be told from a real one until a shard is opened (format-spec 3).
pub(crate) fn many_shards(path: &Path, num_shards: u64, samples: u64) {
    const FIXED: usize = 64;
    let file = path.join("manifest.tsm");
    let small = fs::read(&file).expect("a manifest");
    let word = |at: usize| {
        let bytes = small[at..at + 4].try_into().expect("four bytes");
        u32::from_le_bytes(bytes) as usize
    };
    let (schema_len, metadata_len) = (word(FIXED - 16), word(FIXED - 12));
    let records = FIXED + schema_len.next_multiple_of(8) + metadata_len.next_multiple_of(8);
    let record = small[records..records + 48].to_vec();
    let mut large = small[..records].to_vec();
    for shard in 0..num_shards {
        let mut record = record.clone();
        record[..8].copy_from_slice(&shard.to_le_bytes());
        record[16..24].copy_from_slice(&(shard * samples).to_le_bytes());
        record[24..32].copy_from_slice(&samples.to_le_bytes());
        large.extend_from_slice(&record);
    }
    large.extend_from_slice(&[0; 4]);
    let file_len = large.len() as u64 + 4;
    large[24..32].copy_from_slice(&file_len.to_le_bytes());
    large[32..40].copy_from_slice(&(num_shards * samples).to_le_bytes());
    large[40..48].copy_from_slice(&num_shards.to_le_bytes());
    // The context of a manifest: shard id 0, chunk 0, no stream, kind 5; then LevelDB's mask (format-spec 1.1).
    let mut context = [0; 32];
    context[24..28].copy_from_slice(&[0xFF; 4]);
    context[28] = 5;
    let crc = crc32c::crc32c_append(crc32c::crc32c(&context), &large);
    let masked = crc.rotate_right(15).wrapping_add(0xA282_EAD8);
    large.extend_from_slice(&masked.to_le_bytes());
    fs::write(&file, large).expect("a manifest");
    let opened = Dataset::open(path).expect("a valid manifest");
    assert_eq!(
        (opened.num_shards(), opened.len()),
        (num_shards, num_shards * samples)
    );
}
