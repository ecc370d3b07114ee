//! [`LoaderState`]: where an epoch stands, in a few numbers.

use std::fmt;

use serde_json::{Map, Value};

use crate::dataset::Dataset;
use crate::error::{Error, Result};

use super::order::ORDER_VERSION;
use super::order::bijection::hash;

const FORMAT: &str = "tensorshard.loader_state";
const VERSION: u64 = 1;
/// A state is below 1 KiB; anything much larger is none.
const MAX_LEN: usize = 1 << 16;

/// Where an epoch stands: enough to go on exactly there, in another process, with other threads, another memory budget,
/// another number of ranks, and after samples were appended to the dataset. JSON of less than 1 KiB.
///
/// All ranks have the same state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoaderState {
    /// Of the schema and of the shards that the epoch is made of.
    pub(crate) fingerprint: u64,
    pub(crate) num_shards: u64,
    pub(crate) num_samples: u64,
    pub(crate) seed: u64,
    pub(crate) epoch: u64,
    pub(crate) consumed: u64,
    /// The options that the order depends on, by name.
    pub(crate) options: Vec<(String, String)>,
}

impl LoaderState {
    /// The epoch.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Samples of the epoch that all ranks together have delivered to their training loops, not those decoded ahead.
    pub fn consumed(&self) -> u64 {
        self.consumed
    }

    /// Samples of the epoch.
    pub fn num_samples(&self) -> u64 {
        self.num_samples
    }

    /// An option that the order depends on.
    pub(crate) fn option(&self, name: &str) -> Option<&str> {
        let found = self.options.iter().find(|(n, _)| n == name);
        found.map(|(_, value)| value.as_str())
    }

    /// As JSON on one line.
    pub fn to_json(&self) -> String {
        let options: Map<String, Value> = self
            .options
            .iter()
            .map(|(name, value)| (name.clone(), Value::from(value.as_str())))
            .collect();
        let fields = [
            ("format", Value::from(FORMAT)),
            ("version", Value::from(VERSION)),
            ("order_version", Value::from(ORDER_VERSION)),
            ("fingerprint", Value::from(hex(self.fingerprint))),
            ("num_shards", Value::from(self.num_shards)),
            ("num_samples", Value::from(self.num_samples)),
            ("seed", Value::from(self.seed)),
            ("epoch", Value::from(self.epoch)),
            ("consumed", Value::from(self.consumed)),
            ("options", Value::from(options)),
        ];
        let fields: Map<String, Value> = fields
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect();
        Value::from(fields).to_string()
    }

    /// From what [`LoaderState::to_json`] has returned.
    ///
    /// # Errors
    /// `InvalidArgument` if it is no state; `Unsupported` if it is one of a version that is not known.
    pub fn from_json(json: &str) -> Result<Self> {
        let no_state = |why: String| Error::invalid(format!("this is no loader state: {why}"));
        if json.len() > MAX_LEN {
            return Err(no_state(format!("{} bytes", json.len())));
        }
        let value: Value = serde_json::from_str(json).map_err(|e| no_state(e.to_string()))?;
        if value.get("format").and_then(Value::as_str) != Some(FORMAT) {
            return Err(no_state(format!("its format is not {FORMAT:?}")));
        }
        let number = |name: &str| {
            value
                .get(name)
                .and_then(Value::as_u64)
                .ok_or_else(|| no_state(format!("{name} is missing, or no number")))
        };
        for (name, known) in [
            ("version", VERSION),
            ("order_version", u64::from(ORDER_VERSION)),
        ] {
            let found = number(name)?;
            if found != known {
                return Err(Error::unsupported(
                    format!("loader state of {name} {found}"),
                    format!(
                        "this release knows {known}; finish the epoch with the release that made it"
                    ),
                ));
            }
        }
        let fingerprint = value
            .get("fingerprint")
            .and_then(Value::as_str)
            .and_then(|digits| u64::from_str_radix(digits, 16).ok())
            .ok_or_else(|| no_state("fingerprint is missing, or not hexadecimal".to_owned()))?;
        let mut options = Vec::new();
        for (name, value) in value
            .get("options")
            .and_then(Value::as_object)
            .ok_or_else(|| no_state("options are missing".to_owned()))?
        {
            let value = value
                .as_str()
                .ok_or_else(|| no_state(format!("option {name} is no text")))?;
            options.push((name.clone(), value.to_owned()));
        }
        Ok(Self {
            fingerprint,
            num_shards: number("num_shards")?,
            num_samples: number("num_samples")?,
            seed: number("seed")?,
            epoch: number("epoch")?,
            consumed: number("consumed")?,
            options,
        })
    }

    /// Refuses a loader with other options: `options` are those that it has.
    pub(crate) fn check_options(&self, seed: u64, options: &[(String, String)]) -> Result<()> {
        if seed != self.seed {
            return Err(Error::state_mismatch("seed", self.seed, seed));
        }
        let value = |options: &[(String, String)], name: &str| {
            let found = options.iter().find(|(n, _)| n == name);
            found.map_or_else(|| "not set".to_owned(), |(_, value)| value.clone())
        };
        // The shuffle first: others follow from it.
        let names = self
            .options
            .iter()
            .chain(options)
            .map(|(name, _)| name.as_str());
        for name in std::iter::once("shuffle").chain(names) {
            let (state, here) = (value(&self.options, name), value(options, name));
            if state != here {
                return Err(Error::state_mismatch(name, state, here));
            }
        }
        Ok(())
    }
}

impl fmt::Display for LoaderState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_json())
    }
}

/// 16 digits.
pub(crate) fn hex(x: u64) -> String {
    format!("{x:016x}")
}

/// A number that depends on the schema and on the first `num_shards` shards (format-spec 13.7).
pub(crate) fn fingerprint(digest: u64, dataset: &Dataset, num_shards: u64) -> Result<u64> {
    let mut digest = hash_bytes(digest, &dataset.manifest().schema_bytes);
    for ordinal in 0..num_shards {
        let record = dataset.shard_record(ordinal)?;
        digest = hash_bytes(digest, &record.shard_id.bytes());
        digest = hash(digest, record.num_samples);
    }
    Ok(digest)
}

/// The length, then little-endian words of 8 bytes, the last one filled up with zeros.
pub(crate) fn hash_bytes(digest: u64, bytes: &[u8]) -> u64 {
    bytes
        .chunks(8)
        .fold(hash(digest, bytes.len() as u64), |digest, chunk| {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            hash(digest, u64::from_le_bytes(word))
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    fn state() -> LoaderState {
        LoaderState {
            fingerprint: 0x00ab_cdef_0123_4567,
            num_shards: u64::MAX,
            num_samples: u64::MAX,
            seed: u64::MAX,
            epoch: u64::MAX,
            consumed: u64::MAX - 1,
            options: vec![("shuffle".to_owned(), "windowed".to_owned())],
        }
    }

    #[test]
    fn json_and_back_is_the_same_and_small() -> Result<()> {
        let state = state();
        let json = state.to_json();
        assert!(json.len() < 1024);
        assert_eq!(LoaderState::from_json(&json)?, state);
        assert_eq!(LoaderState::from_json(&json)?.to_json(), json);
        Ok(())
    }

    #[test]
    fn what_is_no_state_is_refused() {
        let json = state().to_json();
        for bad in [
            "",
            "{}",
            "[]",
            "null",
            "{\"format\":1}",
            &"x".repeat(1 << 17),
        ] {
            let error = LoaderState::from_json(bad).unwrap_err();
            assert!(error.to_string().contains("no loader state"), "{error}");
        }
        for field in [
            "seed",
            "epoch",
            "consumed",
            "num_shards",
            "num_samples",
            "options",
            "fingerprint",
        ] {
            let broken = json.replace(&format!("\"{field}\""), "\"other\"");
            assert!(LoaderState::from_json(&broken).is_err(), "{field}");
        }
        for end in 0..json.len() {
            assert!(LoaderState::from_json(&json[..end]).is_err());
        }
        let newer = json.replace("\"order_version\":1", "\"order_version\":2");
        assert!(LoaderState::from_json(&newer).unwrap_err().is_unsupported());
    }

    #[test]
    fn other_options_are_named() {
        let state = state();
        assert!(
            state
                .check_options(u64::MAX, &state.options.clone())
                .is_ok()
        );
        let error = state.check_options(1, &state.options.clone()).unwrap_err();
        assert!(error.to_string().contains("seed"), "{error}");
        let other = [("shuffle".to_owned(), "exact".to_owned())];
        let error = state.check_options(u64::MAX, &other).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::StateMismatch { .. }));
        assert!(error.to_string().contains("windowed") && error.to_string().contains("exact"));
        let more = [
            state.options[0].clone(),
            ("repeat".to_owned(), "2".to_owned()),
        ];
        assert!(state.check_options(u64::MAX, &more).is_err());
    }
}
