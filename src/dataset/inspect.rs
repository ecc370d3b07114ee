//! Sizes, ratios and recorded errors of a dataset, without decoding it.

use crate::error::Result;
use crate::format::chunk::Stats;
use crate::format::schema::Field;
use crate::shard::EncodedChunk;

use super::Dataset;

/// Sizes and recorded errors of one field, over all its chunks.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct FieldReport {
    /// The field's name.
    pub name: String,
    /// Dtype and shape, for people.
    pub description: String,
    /// Quantizer, filters, split and codecs, for people.
    pub encoding: String,
    /// Bytes of the values as they were given to the writer.
    pub raw_bytes: u64,
    /// Bytes in the shards, scales and shapes included.
    pub stored_bytes: u64,
    /// For lossy fields: the measured error.
    pub error: Option<ErrorReport>,
}

/// The measured error of a lossy field against its source, over the elements whose source is finite.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct ErrorReport {
    /// Elements with finite source.
    pub count: u64,
    /// Elements with NaN or infinite source.
    pub non_finite: u64,
    /// The largest |decoded - source|.
    pub max_abs_error: f64,
    /// sqrt(mean(error^2)).
    pub rmse: f64,
    /// sqrt(mean(source^2)).
    pub rms: f64,
}

impl ErrorReport {
    /// The signal-to-noise ratio, 20 log10(rms / rmse), in dB; infinite for an error of zero.
    pub fn snr_db(&self) -> f64 {
        if self.rmse == 0.0 {
            f64::INFINITY
        } else {
            20.0 * (self.rms / self.rmse).log10()
        }
    }

    fn add(&mut self, stats: &Stats) {
        let total = self.count + stats.count;
        let mean = |a: f64, b: f64| {
            if total == 0 {
                return 0.0;
            }
            ((a * a * self.count as f64 + b * b * stats.count as f64) / total as f64).sqrt()
        };
        self.rmse = mean(self.rmse, stats.rmse);
        self.rms = mean(self.rms, stats.rms);
        self.count = total;
        self.non_finite += stats.non_finite;
        self.max_abs_error = self.max_abs_error.max(stats.max_abs_error);
    }
}

impl FieldReport {
    pub(crate) fn new(field: &Field) -> Self {
        let mut encoding = field.quantizer().to_string();
        for filter in field.filters() {
            encoding.push_str(&format!(" + {}", filter.without_size()));
        }
        if let Some(split) = field.split() {
            encoding.push_str(&format!(" + {split}"));
        }
        let codecs: Vec<String> = field.codecs().iter().map(ToString::to_string).collect();
        encoding.push_str(&format!(" + {}", codecs.join(",")));
        Self {
            name: field.name().to_owned(),
            description: field.to_string(),
            encoding,
            raw_bytes: 0,
            stored_bytes: 0,
            error: field.is_lossy().then(ErrorReport::default),
        }
    }

    /// raw_bytes / stored_bytes.
    pub fn ratio(&self) -> f64 {
        self.raw_bytes as f64 / (self.stored_bytes as f64).max(1.0)
    }
}

/// Adds an encoded chunk to the reports of its fields.
pub(crate) fn add_chunk(reports: &mut [FieldReport], chunk: &EncodedChunk) {
    for stream in &chunk.streams {
        if let Some(report) = reports.get_mut(usize::from(stream.field)) {
            report.stored_bytes += stream.data.len() as u64;
        }
    }
    for (report, raw_bytes) in reports.iter_mut().zip(&chunk.field_raw_bytes) {
        report.raw_bytes += raw_bytes;
    }
    add_stats(reports, &chunk.stats);
}

fn add_stats(reports: &mut [FieldReport], stats: &[Stats]) {
    for stats in stats {
        if let Some(error) = reports
            .get_mut(usize::from(stats.field))
            .and_then(|report| report.error.as_mut())
        {
            error.add(stats);
        }
    }
}

/// One shard, for [`DatasetReport`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ShardReport {
    /// The file's name.
    pub file_name: String,
    /// Samples in it.
    pub num_samples: u64,
    /// Chunks in it.
    pub num_chunks: u64,
    /// Samples of every chunk but the last.
    pub samples_per_chunk: u32,
    /// Bytes of the file.
    pub file_len: u64,
}

/// What a dataset holds: see [`Dataset::inspect`].
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct DatasetReport {
    /// Samples.
    pub num_samples: u64,
    /// Chunks over all shards.
    pub num_chunks: u64,
    /// Bytes of all shards, headers and indexes included.
    pub stored_bytes: u64,
    /// Bytes of the values as they were given to the writer.
    pub raw_bytes: u64,
    /// True if the writer flushed but did not finish.
    pub unfinished: bool,
    /// Each field.
    pub fields: Vec<FieldReport>,
    /// Each shard.
    pub shards: Vec<ShardReport>,
}

impl Dataset {
    /// Reads every chunk header (no values) and adds up sizes and recorded errors.
    ///
    /// # Errors
    /// `Corrupt`, `Io`, `Unsupported` as met.
    pub fn inspect(&self) -> Result<DatasetReport> {
        let mut report = DatasetReport {
            num_samples: self.len(),
            num_chunks: 0,
            stored_bytes: 0,
            raw_bytes: 0,
            unfinished: self.is_unfinished(),
            fields: self
                .schema()
                .fields()
                .iter()
                .map(FieldReport::new)
                .collect(),
            shards: Vec::new(),
        };
        let mut scratch = self.take_scratch();
        for ordinal in 0..self.num_shards() {
            let shard = self.shard(ordinal)?;
            let record = shard.record();
            for number in 0..shard.num_chunks() {
                let chunk = shard.chunk(number, &mut scratch.io)?;
                for stream in &chunk.header.streams {
                    report.fields[usize::from(stream.field)].stored_bytes += stream.stored_len;
                }
                add_stats(&mut report.fields, &chunk.header.stats);
                for (i, field) in self.schema().fields().iter().enumerate() {
                    report.fields[i].raw_bytes +=
                        self.raw_bytes(&shard, &chunk, i, field, &mut scratch)?;
                }
            }
            report.num_chunks += shard.num_chunks();
            report.stored_bytes += record.file_len;
            report.shards.push(ShardReport {
                file_name: record.shard_id.file_name(),
                num_samples: record.num_samples,
                num_chunks: shard.num_chunks(),
                samples_per_chunk: record.samples_per_chunk,
                file_len: record.file_len,
            });
        }
        report.raw_bytes = report.fields.iter().map(|field| field.raw_bytes).sum();
        self.put_scratch(scratch);
        Ok(report)
    }
}
