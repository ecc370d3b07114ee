//! A set of samples with one bit for each, and counts that make finding the n-th of them cheap. Pure.

use super::bijection::hash;
use crate::error::{Error, Result};

/// The first bytes of a set that was written.
const MAGIC: &[u8; 8] = b"tsbitmap";
/// Words that share a count.
const GROUP: usize = 8;

/// Which samples of a dataset are in a set: 1 bit a sample, and an eighth of that for counts.
#[derive(Clone, Debug)]
pub struct Bitmap {
    words: Vec<u64>,
    /// The bits before each group of words.
    before: Vec<u64>,
    len: u64,
    count: u64,
}

impl Bitmap {
    /// An empty set of `len` samples.
    pub(crate) fn new(len: u64) -> Self {
        let words = usize::try_from(len.div_ceil(64)).unwrap_or(usize::MAX);
        Self {
            words: vec![0; words],
            before: Vec::new(),
            len,
            count: 0,
        }
    }

    pub(crate) fn set(&mut self, sample: u64) {
        if let Some(word) = self.words.get_mut(word_of(sample)) {
            *word |= 1 << (sample % 64);
        }
    }

    /// Counts; to be called after the last [`Bitmap::set`].
    pub(crate) fn finish(mut self) -> Self {
        self.before = Vec::with_capacity(self.words.len().div_ceil(GROUP));
        self.count = 0;
        for group in self.words.chunks(GROUP) {
            self.before.push(self.count);
            self.count += ones(group);
        }
        self
    }

    /// The samples whose entry is true.
    pub fn from_mask(mask: &[bool]) -> Self {
        let mut bitmap = Self::new(mask.len() as u64);
        for (sample, _) in (0..).zip(mask).filter(|(_, is_in)| **is_in) {
            bitmap.set(sample);
        }
        bitmap.finish()
    }

    /// The set in bytes: `tsbitmap`, the number of samples, [`Bitmap::digest`], and words of 64 samples each, the first
    /// in the lowest bit; all little-endian.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(24 + self.words.len() * 8);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&self.len.to_le_bytes());
        out.extend_from_slice(&self.digest().to_le_bytes());
        for word in &self.words {
            out.extend_from_slice(&word.to_le_bytes());
        }
        out
    }

    /// The set that [`Bitmap::to_bytes`] has written.
    ///
    /// # Errors
    /// `Corrupt` if it is damaged, or something else.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let (words, rest) = bytes.as_chunks::<8>();
        let corrupt = |what: &'static str, expected: String, found: String| {
            Err(Error::corrupt(what, expected, found).of_bitmap())
        };
        let [magic, len, digest, words @ ..] = words else {
            return corrupt(
                "length of a bitmap",
                "24 bytes or more".to_owned(),
                bytes.len().to_string(),
            );
        };
        if magic != MAGIC {
            return corrupt(
                "first bytes of a bitmap",
                "tsbitmap".to_owned(),
                format!("{magic:?}"),
            );
        }
        let (len, digest) = (u64::from_le_bytes(*len), u64::from_le_bytes(*digest));
        if words.len() as u64 != len.div_ceil(64) || !rest.is_empty() {
            return corrupt(
                "length of a bitmap",
                format!("{} words for {len} samples", len.div_ceil(64)),
                format!("{} bytes", bytes.len() - 24),
            );
        }
        let bitmap = Self {
            words: words.iter().map(|word| u64::from_le_bytes(*word)).collect(),
            before: Vec::new(),
            len,
            count: 0,
        };
        let beyond = bitmap
            .words
            .last()
            .is_some_and(|word| len % 64 != 0 && word >> (len % 64) != 0);
        if beyond || bitmap.digest() != digest {
            return corrupt(
                "digest of a bitmap",
                format!("{digest:016x}"),
                format!("{:016x}", bitmap.digest()),
            );
        }
        Ok(bitmap.finish())
    }

    /// The number of samples of the dataset that this was made for.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// True if no sample is in the set.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The number of samples in the set.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// True if the sample is in the set.
    pub fn contains(&self, sample: u64) -> bool {
        self.words
            .get(word_of(sample))
            .is_some_and(|word| word & (1 << (sample % 64)) != 0)
    }

    /// A number that depends on every bit: part of a loader's state.
    pub fn digest(&self) -> u64 {
        self.words
            .iter()
            .fold(self.len, |digest, &word| hash(digest, word))
    }

    /// The samples of the set below `sample`.
    pub(crate) fn rank(&self, sample: u64) -> u64 {
        let sample = sample.min(self.len);
        let word = word_of(sample);
        let group = word / GROUP;
        let Some(&before) = self.before.get(group) else {
            return self.count;
        };
        let partial = self.words.get(word).map_or(0, |bits| {
            u64::from((bits & ((1 << (sample % 64)) - 1)).count_ones())
        });
        before + ones(&self.words[group * GROUP..word.min(self.words.len())]) + partial
    }

    /// The sample with `rank` others of the set below it.
    pub(crate) fn select(&self, rank: u64) -> u64 {
        let group = self
            .before
            .partition_point(|&before| before <= rank)
            .saturating_sub(1);
        let mut left = rank - self.before.get(group).copied().unwrap_or(0);
        for (i, &bits) in self.words.iter().enumerate().skip(group * GROUP) {
            let here = u64::from(bits.count_ones());
            if left < here {
                let mut bits = bits;
                for _ in 0..left {
                    bits &= bits - 1;
                }
                return i as u64 * 64 + u64::from(bits.trailing_zeros());
            }
            left -= here;
        }
        self.len
    }
}

fn word_of(sample: u64) -> usize {
    usize::try_from(sample / 64).unwrap_or(usize::MAX)
}

fn ones(words: &[u64]) -> u64 {
    words.iter().map(|word| u64::from(word.count_ones())).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rank_and_select_agree_with_counting() {
        for len in [0, 1, 63, 64, 65, 512, 513, 2000] {
            for step in [1, 3, 130] {
                let mut bitmap = Bitmap::new(len);
                let set: Vec<u64> = (0..len).filter(|i| i % step == step / 2).collect();
                set.iter().for_each(|&i| bitmap.set(i));
                let bitmap = bitmap.finish();
                assert_eq!(bitmap.count(), set.len() as u64);
                for i in 0..=len {
                    let below = set.iter().filter(|&&x| x < i).count() as u64;
                    assert_eq!(bitmap.rank(i), below, "{i} of {len}");
                    assert_eq!(bitmap.contains(i), set.contains(&i));
                }
                for (rank, &sample) in (0..).zip(&set) {
                    assert_eq!(bitmap.select(rank), sample);
                }
            }
        }
    }

    #[test]
    fn bytes_and_back_are_the_same_and_damage_is_found() -> Result<()> {
        for len in [0, 1, 64, 70, 700] {
            let mask: Vec<bool> = (0..len).map(|i| i % 3 == 1).collect();
            let bitmap = Bitmap::from_mask(&mask);
            let bytes = bitmap.to_bytes();
            let back = Bitmap::from_bytes(&bytes)?;
            assert_eq!(back.digest(), bitmap.digest());
            assert_eq!((back.len(), back.count()), (bitmap.len(), bitmap.count()));
            assert!(
                (0..)
                    .zip(&mask)
                    .all(|(i, &is_in)| back.contains(i) == is_in)
            );
            for end in 0..bytes.len() {
                let error = Bitmap::from_bytes(&bytes[..end]).unwrap_err();
                assert!(error.is_corrupt());
                assert!(error.to_string().ends_with("make it again"), "{error}");
            }
            for bit in 0..bytes.len() * 8 {
                let mut bad = bytes.clone();
                bad[bit / 8] ^= 1 << (bit % 8);
                assert!(Bitmap::from_bytes(&bad).unwrap_err().is_corrupt(), "{bit}");
            }
        }
        Ok(())
    }

    #[test]
    fn digest_depends_on_every_bit_and_the_length() {
        let digest = |len, sample: Option<u64>| {
            let mut bitmap = Bitmap::new(len);
            sample.into_iter().for_each(|i| bitmap.set(i));
            bitmap.finish().digest()
        };
        let all = [
            digest(100, None),
            digest(101, None),
            digest(100, Some(0)),
            digest(100, Some(99)),
        ];
        for (i, a) in all.iter().enumerate() {
            assert!(all[i + 1..].iter().all(|b| a != b));
        }
    }
}
