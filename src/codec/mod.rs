//! Codecs: the bytes of one piece to fewer bytes (format-spec 7).
//!
//! To add a codec: write `src/codec/foo.rs` with an `impl Codec`, add one line to `CODECS` and one row to the table
//! of format-spec 7. The tests over the table then cover it; CONTRIBUTING.md
//! names the lists beside it.

mod deflate;
mod gzip;
mod huffman;
mod lz4;
#[cfg(feature = "lzo")]
mod lzo;
mod none;
mod prefix;
mod snappy;
mod zstd;

use std::fmt;
use std::ops::RangeInclusive;

use crate::error::{Error, Result};

/// The id of a codec on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CodecId(pub(crate) u16);

impl CodecId {
    /// Every piece is stored as it is.
    pub const NONE: Self = Self(0);
    /// Snappy.
    pub const SNAPPY: Self = Self(1);
    /// Raw DEFLATE.
    pub const DEFLATE: Self = Self(2);
    /// gzip.
    pub const GZIP: Self = Self(3);
    /// LZ4 block.
    pub const LZ4: Self = Self(4);
    /// Zstandard.
    pub const ZSTD: Self = Self(5);
    /// LZO1X; needs the Cargo feature `lzo`.
    pub const LZO: Self = Self(6);
    /// Canonical Huffman codes of bytes.
    pub const HUFFMAN: Self = Self(7);
    /// The 64-cell prefix code.
    pub const PREFIX: Self = Self(8);

    /// The number on disk.
    pub fn get(self) -> u16 {
        self.0
    }
}

impl fmt::Display for CodecId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match find(self.0) {
            Some(codec) => f.write_str(codec.name()),
            None => write!(f, "{:#06x}", self.0),
        }
    }
}

/// One codec. Implementations are stateless values in [`CODECS`].
pub(crate) trait Codec: Sync {
    /// The id on disk; never reused.
    fn id(&self) -> CodecId;

    /// The name in the CLI and the specification.
    fn name(&self) -> &'static str;

    /// The minor version of the format (format-spec 11) that the id came with.
    fn since_minor(&self) -> u16 {
        0
    }

    /// The levels that may be asked for, if the codec has any.
    fn levels(&self) -> Option<RangeInclusive<u8>> {
        None
    }

    /// The level used when none is asked for; 0 for codecs without levels.
    fn default_level(&self) -> u8 {
        0
    }

    /// The most bytes that one encoded byte can decode to: a piece that claims more is refused before any memory is
    /// set aside for it.
    fn max_expansion(&self) -> u64;

    /// Appends the encoding of `src` to `dst`. May append more bytes than `src` has: the caller then stores the piece.
    ///
    /// # Errors
    /// Only for a failure of the underlying library; every input can be encoded.
    fn encode(&self, level: u8, src: &[u8], dst: &mut Vec<u8>) -> Result<()>;

    /// Decodes `src`, which must be one whole encoding of exactly `dst.len()` bytes. On error `dst` counts as garbage.
    ///
    /// # Errors
    /// `Corrupt` for anything that is not exactly one encoding of exactly `dst.len()` bytes.
    fn decode(&self, src: &[u8], dst: &mut [u8]) -> Result<()>;
}

/// Every codec of this build, by ascending id.
pub(crate) static CODECS: &[&dyn Codec] = &[
    &none::None,
    &snappy::Snappy,
    &deflate::Deflate,
    &gzip::Gzip,
    &lz4::Lz4,
    &zstd::Zstd,
    #[cfg(feature = "lzo")]
    &lzo::Lzo,
    &huffman::Huffman,
    &prefix::Prefix,
];

/// Codecs that only some builds have, by the name of their Cargo feature, which is also theirs.
const OPTIONAL: &[(CodecId, &str)] = &[(CodecId::LZO, "lzo")];

/// A codec and its level: what a writer is asked to use, and what a field's schema records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CodecSpec {
    id: CodecId,
    level: u8,
}

fn find(id: u16) -> Option<&'static dyn Codec> {
    CODECS.iter().copied().find(|codec| codec.id().0 == id)
}

/// The codec with this id on disk.
///
/// # Errors
/// `Unsupported` if this build has none.
pub(crate) fn by_id(id: u16) -> Result<&'static dyn Codec> {
    find(id).ok_or_else(|| {
        if let Some((_, feature)) = OPTIONAL.iter().find(|(codec, _)| codec.0 == id) {
            return Error::unsupported(
                format!("codec {feature}"),
                format!(
                    "this build is without it; build tensorshard with the Cargo feature `{feature}`"
                ),
            );
        }
        Error::unsupported(
            format!("codec id {id:#06x}"),
            "the file was written by a newer version; upgrade tensorshard to read it",
        )
    })
}

/// The names of every codec of this build, by ascending id.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    CODECS.iter().map(|codec| codec.name())
}

/// Reads the stage parameters of format-spec 7.
///
/// # Errors
/// `Unsupported` for an unknown id, `Corrupt` for parameters that do not fit the codec.
pub(crate) fn parse_params(id: u16, params: &[u8]) -> Result<CodecSpec> {
    let codec = by_id(id)?;
    let level = match (codec.levels(), params) {
        (None, []) => 0,
        (Some(levels), &[level]) if levels.contains(&level) => level,
        (None, _) => {
            return Err(Error::corrupt(
                format!("parameters of codec {}", codec.name()),
                "none",
                format!("{params:?}"),
            ));
        }
        (Some(levels), _) => {
            return Err(Error::corrupt(
                format!("parameters of codec {}", codec.name()),
                format!("one level, {} to {}", levels.start(), levels.end()),
                format!("{params:?}"),
            ));
        }
    };
    Ok(CodecSpec {
        id: codec.id(),
        level,
    })
}

/// Appends the stage parameters of format-spec 7.
pub(crate) fn emit_params(spec: CodecSpec, out: &mut Vec<u8>) {
    if find(spec.id.0).is_some_and(|codec| codec.levels().is_some()) {
        out.push(spec.level);
    }
}

impl CodecSpec {
    /// This codec at its default level.
    pub fn new(id: CodecId) -> Self {
        Self {
            id,
            level: find(id.0).map_or(0, Codec::default_level),
        }
    }

    /// The same codec at another level.
    ///
    /// # Errors
    /// `InvalidArgument` if the codec has no such level.
    pub fn with_level(self, level: u8) -> Result<Self> {
        match find(self.id.0).and_then(Codec::levels) {
            Some(levels) if levels.contains(&level) => Ok(Self { level, ..self }),
            Some(levels) => Err(Error::invalid(format!(
                "codec {} has no level {level}; levels are {} to {}",
                self.id,
                levels.start(),
                levels.end()
            ))),
            None => Err(Error::invalid(format!(
                "codec {} has no levels, so {level} cannot be asked for",
                self.id
            ))),
        }
    }

    /// The codec.
    pub fn id(&self) -> CodecId {
        self.id
    }

    /// The level; 0 for codecs without levels.
    pub fn level(&self) -> u8 {
        self.level
    }

    /// The encoding of one piece, for benches.
    #[doc(hidden)]
    pub fn encode_piece(&self, piece: &[u8]) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        self.codec()?.encode(self.level, piece, &mut out)?;
        Ok(out)
    }

    /// Decodes one piece, for benches: the decoder alone is what the loader is compared with.
    #[doc(hidden)]
    pub fn decode_piece(&self, encoded: &[u8], piece: &mut [u8]) -> Result<()> {
        self.codec()?.decode(encoded, piece)
    }

    /// Reads `zstd` or `zstd:3`.
    ///
    /// # Errors
    /// `InvalidArgument` that lists the codecs or levels there are.
    pub fn parse(text: &str) -> Result<Self> {
        let (name, level) = match text.split_once(':') {
            Some((name, level)) => (name, Some(level)),
            None => (text, None),
        };
        let Some(codec) = CODECS.iter().find(|codec| codec.name() == name) else {
            if OPTIONAL.iter().any(|(_, optional)| *optional == name) {
                return Err(Error::invalid(format!(
                    "codec {name} is not in this build; build tensorshard with the Cargo feature `{name}`"
                )));
            }
            let known: Vec<_> = names().collect();
            return Err(Error::invalid(format!(
                "there is no codec {name:?}; codecs are {}",
                known.join(", ")
            )));
        };
        let spec = Self::new(codec.id());
        match level {
            None => Ok(spec),
            Some(level) => match level.parse() {
                Ok(level) => spec.with_level(level),
                Err(_) => Err(Error::invalid(format!(
                    "{level:?} is not a level; write {name}:N with a small number N"
                ))),
            },
        }
    }

    /// The implementation, for encoding and decoding.
    ///
    /// # Errors
    /// As [`by_id`].
    pub(crate) fn codec(&self) -> Result<&'static dyn Codec> {
        by_id(self.id.0)
    }
}

impl Default for CodecSpec {
    /// Snappy.
    fn default() -> Self {
        Self::new(CodecId::SNAPPY)
    }
}

impl fmt::Display for CodecSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match find(self.id.0).and_then(Codec::levels) {
            Some(_) => write!(f, "{}:{}", self.id, self.level),
            None => write!(f, "{}", self.id),
        }
    }
}

/// The error of a piece that does not decode to exactly `len` bytes.
fn wrong_piece(what: &'static str, len: usize, found: impl fmt::Display) -> Error {
    Error::corrupt(what, format!("exactly {len} bytes"), found)
}

/// The error of an encoder (or of a context that cannot be made).
fn encoder_failed(name: &str, len: usize, reason: impl fmt::Display) -> Error {
    Error::invalid(format!("codec {name} failed on {len} bytes: {reason}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A small deterministic generator, so that a failure repeats.
    fn random_bytes(len: usize, mut state: u64) -> Vec<u8> {
        (0..len)
            .map(|_| {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                state.to_le_bytes()[7]
            })
            .collect()
    }

    fn contents(len: usize) -> [Vec<u8>; 4] {
        let random = random_bytes(len, 7);
        let structured = random.iter().enumerate().map(|(i, r)| {
            if i % 16 < 13 {
                b"gradient descent"[i % 16]
            } else {
                r & 3
            }
        });
        let structured = structured.collect();
        [vec![0; len], vec![0xA5; len], random, structured]
    }

    fn encode(codec: &dyn Codec, level: u8, src: &[u8]) -> Result<Vec<u8>> {
        let mut dst = b"prefix".to_vec();
        codec.encode(level, src, &mut dst)?;
        assert_eq!(&dst[..6], b"prefix");
        Ok(dst.split_off(6))
    }

    /// Decodes twice over different garbage: the results must agree, so that no stale byte can get out.
    fn decode(codec: &dyn Codec, src: &[u8], len: usize) -> Result<Vec<u8>> {
        let (mut a, mut b) = (vec![0x00; len], vec![0xFF; len]);
        let (x, y) = (codec.decode(src, &mut a), codec.decode(src, &mut b));
        assert_eq!(x.is_ok(), y.is_ok(), "{}", codec.name());
        if let Err(error) = &x {
            assert!(error.is_corrupt(), "{error}");
        } else {
            assert_eq!(a, b, "{} handed out stale bytes", codec.name());
        }
        x.map(|()| a)
    }

    #[test]
    fn table_is_sorted_and_names_are_distinct() {
        assert!(CODECS.is_sorted_by(|a, b| a.id() < b.id()));
        for codec in CODECS {
            assert_eq!(names().filter(|name| *name == codec.name()).count(), 1);
            assert!(
                codec
                    .levels()
                    .is_none_or(|levels| levels.contains(&codec.default_level()))
            );
        }
    }

    #[test]
    fn every_codec_round_trips_every_small_length() -> Result<()> {
        for codec in CODECS {
            for len in (0..=300).chain([65535, 65536]) {
                for src in contents(len) {
                    let piece = encode(*codec, codec.default_level(), &src)?;
                    assert!(
                        decode(*codec, &piece, len)? == src,
                        "{} {len}",
                        codec.name()
                    );
                }
            }
        }
        Ok(())
    }

    #[test]
    fn every_level_round_trips() -> Result<()> {
        for codec in CODECS {
            for level in codec.levels().into_iter().flatten() {
                for src in contents(5000) {
                    let piece = encode(*codec, level, &src)?;
                    assert!(
                        decode(*codec, &piece, src.len())? == src,
                        "{} {level}",
                        codec.name()
                    );
                }
            }
        }
        Ok(())
    }

    #[test]
    fn every_truncation_and_trailing_byte_is_corrupt() -> Result<()> {
        for codec in CODECS {
            for len in [0, 1, 7, 300] {
                for src in contents(len) {
                    let piece = encode(*codec, codec.default_level(), &src)?;
                    for cut in 0..piece.len() {
                        assert!(
                            decode(*codec, &piece[..cut], len).is_err(),
                            "{} {len} cut {cut}",
                            codec.name()
                        );
                    }
                    for garbage in [&[0][..], &[0xFF], &[1, 0, 0], &[0; 8], &piece[..]] {
                        if garbage.is_empty() {
                            continue;
                        }
                        let longer = [&piece[..], garbage].concat();
                        assert!(
                            decode(*codec, &longer, len).is_err(),
                            "{} {len} + {garbage:?}",
                            codec.name()
                        );
                    }
                }
            }
        }
        Ok(())
    }

    #[test]
    fn every_wrong_length_is_corrupt() -> Result<()> {
        for codec in CODECS {
            for len in [1, 2, 100, 4096] {
                for src in contents(len) {
                    let piece = encode(*codec, codec.default_level(), &src)?;
                    for wrong in [0, len - 1, len + 1, 2 * len] {
                        assert!(
                            decode(*codec, &piece, wrong).is_err(),
                            "{} {len} as {wrong}",
                            codec.name()
                        );
                    }
                }
            }
        }
        Ok(())
    }

    #[test]
    fn changed_bytes_never_panic_and_never_leak() -> Result<()> {
        for codec in CODECS {
            for src in contents(300) {
                let mut piece = encode(*codec, codec.default_level(), &src)?;
                for i in 0..piece.len() {
                    let right = piece[i];
                    for wrong in 0..=255 {
                        piece[i] = wrong;
                        // Without a checksum of its own a codec may accept a changed byte.
                        let _accepted = decode(*codec, &piece, src.len()).is_ok();
                    }
                    piece[i] = right;
                }
            }
        }
        Ok(())
    }

    #[test]
    fn random_input_never_panics_and_never_leaks() {
        for codec in CODECS {
            for seed in 0..2000 {
                let src = random_bytes(usize::try_from(seed % 97).unwrap(), seed);
                let _accepted = decode(*codec, &src, 64).is_ok();
            }
        }
    }

    #[test]
    fn gzip_is_read_and_checked_strictly() -> Result<()> {
        let piece = encode(&gzip::Gzip, 6, b"tensor tensor")?;
        assert_eq!(piece[..10], [0x1F, 0x8B, 8, 0, 0, 0, 0, 0, 0, 255]);
        for i in (0..8).chain(piece.len() - 8..piece.len()) {
            let mut wrong = piece.clone();
            wrong[i] ^= 1;
            assert!(decode(&gzip::Gzip, &wrong, 13).is_err(), "byte {i}");
        }
        Ok(())
    }

    #[test]
    fn specs_and_params_round_trip() -> Result<()> {
        for codec in CODECS {
            let spec = CodecSpec::parse(codec.name())?;
            assert_eq!(
                (spec.id(), spec.level()),
                (codec.id(), codec.default_level())
            );
            assert_eq!(CodecSpec::parse(&spec.to_string())?, spec);
            let mut params = Vec::new();
            emit_params(spec, &mut params);
            assert_eq!(parse_params(codec.id().get(), &params)?, spec);
            params.push(0);
            assert!(
                parse_params(codec.id().get(), &params)
                    .unwrap_err()
                    .is_corrupt()
            );
        }
        assert_eq!(CodecSpec::parse("zstd:19")?.level(), 19);
        assert_eq!(CodecSpec::parse("gzip")?.to_string(), "gzip:6");
        assert_eq!(CodecSpec::default().to_string(), "snappy");
        for wrong in [
            "",
            "lzma",
            "zstd:",
            "zstd:0",
            "zstd:23",
            "zstd:x",
            "snappy:1",
            "deflate:10",
            "zstd:3:4",
        ] {
            assert!(CodecSpec::parse(wrong).is_err(), "{wrong}");
        }
        assert!(parse_params(5, &[23]).unwrap_err().is_corrupt());
        assert!(parse_params(2, &[]).unwrap_err().is_corrupt());
        Ok(())
    }

    #[test]
    fn unknown_id_is_unsupported_and_named() {
        let error = by_id(0x7FFF).err().unwrap();
        assert!(error.is_unsupported());
        assert_eq!(
            error.to_string(),
            "unsupported codec id 0x7fff: the file was written by a newer version; upgrade tensorshard to read it"
        );
    }

    #[test]
    fn an_optional_codec_names_its_feature() {
        for (id, feature) in OPTIONAL {
            if find(id.get()).is_some() {
                assert_eq!(CodecSpec::parse(feature).unwrap().id(), *id);
                continue;
            }
            let error = by_id(id.get()).err().unwrap();
            assert!(error.is_unsupported());
            let hint = format!("Cargo feature `{feature}`");
            assert!(error.to_string().ends_with(&hint), "{error}");
            let error = CodecSpec::parse(feature).unwrap_err();
            assert!(error.to_string().ends_with(&hint), "{error}");
        }
    }
}
