//! The JSON block of a manifest (format-spec 3): free for users and tools, never steering how samples are read.

use std::fmt;

use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::format::limits;

/// The key of the user's own entries.
const USER: &str = "user";

/// The block, taken apart.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Metadata {
    /// The user's own entries.
    pub(crate) user: Map<String, Value>,
    /// The entries of tools, by tool.
    pub(crate) tools: Map<String, Value>,
}

impl Metadata {
    /// Adds entries; one that is there stays as it is.
    pub(crate) fn add(&mut self, user: &Map<String, Value>, tools: &Map<String, Value>) {
        for (into, from) in [(&mut self.user, user), (&mut self.tools, tools)] {
            for (key, value) in from {
                into.entry(key.clone()).or_insert_with(|| value.clone());
            }
        }
    }
}

/// The block that holds these entries; empty if there are none.
pub(crate) fn encode(metadata: &Metadata) -> Result<Vec<u8>> {
    let mut block = metadata.tools.clone();
    if !metadata.user.is_empty() {
        block.insert(USER.to_owned(), Value::Object(metadata.user.clone()));
    }
    if block.is_empty() {
        return Ok(Vec::new());
    }
    let bytes = serde_json::to_vec(&Value::Object(block))
        .map_err(|e| Error::invalid(format!("metadata: {e}")))?;
    // What a reader would refuse is refused here.
    parse(&bytes).map_err(|e| Error::invalid(format!("metadata: {e}")))?;
    Ok(bytes)
}

/// The entries of a block.
pub(crate) fn parse(bytes: &[u8]) -> Result<Metadata> {
    if bytes.is_empty() {
        return Ok(Metadata::default());
    }
    if bytes.len() as u64 > limits::METADATA {
        return Err(Error::limit(
            "metadata",
            limits::METADATA,
            bytes.len() as u64,
        ));
    }
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = serde::de::DeserializeSeed::deserialize(
        Strict {
            depth: limits::METADATA_DEPTH,
        },
        &mut deserializer,
    )
    .and_then(|value| deserializer.end().map(|()| value))
    .map_err(|e| Error::corrupt("metadata", "one JSON object without duplicate keys", e))?;
    match value {
        Value::Object(mut tools) => match tools.remove(USER) {
            None => Ok(Metadata {
                user: Map::new(),
                tools,
            }),
            Some(Value::Object(user)) => Ok(Metadata { user, tools }),
            Some(_) => Err(Error::corrupt(
                "metadata",
                "an object under \"user\"",
                "something else",
            )),
        },
        _ => Err(Error::corrupt(
            "metadata",
            "a JSON object",
            "something else",
        )),
    }
}

/// A JSON value of bounded depth, without duplicate keys.
struct Strict {
    depth: usize,
}

impl Strict {
    /// For what an array or object holds; an error if this level is one too many.
    fn inner<E: serde::de::Error>(&self) -> std::result::Result<Self, E> {
        let depth = self
            .depth
            .checked_sub(1)
            .ok_or_else(|| E::custom("nested too deeply"))?;
        Ok(Self { depth })
    }
}

impl<'de> serde::de::DeserializeSeed<'de> for Strict {
    type Value = Value;

    fn deserialize<D: serde::Deserializer<'de>>(
        self,
        deserializer: D,
    ) -> std::result::Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> serde::de::Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, x: bool) -> std::result::Result<Value, E> {
        Ok(Value::Bool(x))
    }

    fn visit_i64<E>(self, x: i64) -> std::result::Result<Value, E> {
        Ok(x.into())
    }

    fn visit_u64<E>(self, x: u64) -> std::result::Result<Value, E> {
        Ok(x.into())
    }

    fn visit_f64<E>(self, x: f64) -> std::result::Result<Value, E> {
        Ok(x.into())
    }

    fn visit_str<E>(self, x: &str) -> std::result::Result<Value, E> {
        Ok(x.into())
    }

    fn visit_unit<E>(self) -> std::result::Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: serde::de::SeqAccess<'de>>(
        self,
        mut items: A,
    ) -> std::result::Result<Value, A::Error> {
        let mut out = Vec::new();
        self.inner::<A::Error>()?;
        while let Some(item) = items.next_element_seed(self.inner()?)? {
            out.push(item);
        }
        Ok(Value::Array(out))
    }

    fn visit_map<A: serde::de::MapAccess<'de>>(
        self,
        mut entries: A,
    ) -> std::result::Result<Value, A::Error> {
        let mut out = Map::new();
        self.inner::<A::Error>()?;
        while let Some(key) = entries.next_key::<String>()? {
            let value = entries.next_value_seed(self.inner()?)?;
            if out.insert(key, value).is_some() {
                return Err(serde::de::Error::custom("duplicate key"));
            }
        }
        Ok(Value::Object(out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_round_trip() -> Result<()> {
        let mut user = Map::new();
        user.insert("model".to_owned(), "vae".into());
        user.insert(
            "steps".to_owned(),
            Value::Array(vec![1.into(), 2.5.into(), Value::Null]),
        );
        let mut metadata = Metadata {
            user,
            tools: Map::new(),
        };
        assert_eq!(parse(&encode(&metadata)?)?, metadata);
        metadata.tools.insert("planner".to_owned(), Value::Null);
        assert_eq!(parse(&encode(&metadata)?)?, metadata);
        metadata.user.clear();
        assert_eq!(parse(&encode(&metadata)?)?, metadata);
        assert!(encode(&Metadata::default())?.is_empty());
        Ok(())
    }

    #[test]
    fn sixty_four_levels_are_allowed_and_no_more() {
        let nested = |levels: usize| {
            format!(
                "{{\"x\":{}{}}}",
                "[".repeat(levels - 1),
                "]".repeat(levels - 1)
            )
        };
        assert!(parse(nested(64).as_bytes()).is_ok());
        assert!(parse(nested(65).as_bytes()).is_err());
    }

    #[test]
    fn blocks_up_to_the_limit_are_read() {
        let block = |len: usize| format!(r#"{{"x":"{}"}}"#, "a".repeat(len - 8)).into_bytes();
        let limit = usize::try_from(limits::METADATA).unwrap();
        assert_eq!(block(limit).len(), limit);
        assert!(parse(&block(limit)).is_ok());
        assert!(parse(&block(limit + 1)).is_err());
    }

    #[test]
    fn hostile_blocks_are_refused() {
        let deep = format!("{{\"user\":{}1{}}}", "[".repeat(100), "]".repeat(100));
        for bad in [
            "[]",
            "1",
            "{",
            "{} {}",
            "{\"a\":1,\"a\":2}",
            "{\"user\":3}",
            "{\"x\":{\"a\":1,\"a\":2}}",
            &deep,
        ] {
            assert!(parse(bad.as_bytes()).unwrap_err().is_corrupt(), "{bad}");
        }
        let other = parse(b"{\"planner\":{\"a\":1}}").unwrap();
        assert!(other.user.is_empty() && other.tools.contains_key("planner"));
    }
}
