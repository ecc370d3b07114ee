//! Keyed arithmetic that every order is made of (format-spec 13.1).

/// The finalizer of SplitMix64 (Steele, Lea, Flood 2014).
pub(crate) fn mix(x: u64) -> u64 {
    let mut z = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// A number that depends on both, and on their order.
pub(crate) fn hash(a: u64, b: u64) -> u64 {
    mix(mix(a) ^ b)
}

/// SplitMix64.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        let x = mix(self.0);
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        x
    }

    /// Uniform in 0..n (Lemire's multiply; its bias of n / 2^64 does not matter here).
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        below(self.next(), n)
    }

    /// Fisher and Yates, from the end.
    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            // At most i.
            let j = usize::try_from(self.below(i as u64 + 1)).unwrap_or(i);
            items.swap(i, j);
        }
    }
}

/// `x / 2^64 * n`, rounded down.
pub(crate) fn below(x: u64, n: u64) -> u64 {
    u64::try_from((u128::from(x) * u128::from(n)) >> 64).unwrap_or(0)
}

/// Two of these make a pass over both halves.
const ROUNDS: usize = 8;
/// Domains are not smaller: few bits leave too few functions for the rounds to choose from.
const MIN_BITS: u32 = 8;

/// A keyed bijection of 0..n without memory: a Feistel network over the next power of two, walking cycles until the
/// result is below n (Black and Rogaway, "Ciphers with arbitrary finite domains", 2002).
#[derive(Clone, Debug)]
pub(crate) struct Permutation {
    n: u64,
    low_bits: u32,
    low_mask: u64,
    high_mask: u64,
    keys: [u64; ROUNDS],
}

impl Permutation {
    pub(crate) fn new(n: u64, key: u64) -> Self {
        let bits = (64 - n.saturating_sub(1).leading_zeros()).max(MIN_BITS);
        let low_bits = bits / 2;
        let mut random = Random(key);
        Self {
            n,
            low_bits,
            low_mask: (1 << low_bits) - 1,
            high_mask: (1 << (bits - low_bits)) - 1,
            keys: std::array::from_fn(|_| random.next()),
        }
    }

    /// Where `i`, which is below n, goes.
    pub(crate) fn get(&self, i: u64) -> u64 {
        let mut x = i;
        loop {
            let (mut high, mut low) = (x >> self.low_bits, x & self.low_mask);
            for keys in self.keys.as_chunks::<2>().0 {
                high ^= mix(low ^ keys[0]) & self.high_mask;
                low ^= mix(high ^ keys[1]) & self.low_mask;
            }
            x = (high << self.low_bits) | low;
            if x < self.n {
                return x;
            }
        }
    }

    /// The `i` that [`Permutation::get`] maps to `x`.
    pub(crate) fn invert(&self, mut x: u64) -> u64 {
        loop {
            let (mut high, mut low) = (x >> self.low_bits, x & self.low_mask);
            for keys in self.keys.as_chunks::<2>().0.iter().rev() {
                low ^= mix(high ^ keys[1]) & self.low_mask;
                high ^= mix(low ^ keys[0]) & self.high_mask;
            }
            x = (high << self.low_bits) | low;
            if x < self.n {
                return x;
            }
        }
    }
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "small numbers")]
mod tests {
    use super::*;

    #[test]
    fn permutation_is_a_bijection_for_every_small_size() {
        for n in 1..700 {
            let permutation = Permutation::new(n, 7);
            assert!((0..n).all(|i| permutation.invert(permutation.get(i)) == i));
            let mut all: Vec<u64> = (0..n).map(|i| permutation.get(i)).collect();
            all.sort_unstable();
            assert_eq!(all, (0..n).collect::<Vec<_>>());
        }
        for n in [1 << 20, (1 << 40) + 1, 1_000_000_000_000, u64::MAX] {
            let permutation = Permutation::new(n, 9);
            for i in [0, 1, 77, n / 2, n - 1] {
                let x = permutation.get(i);
                assert!(x < n && permutation.invert(x) == i);
            }
        }
    }

    /// Chi-square with `counts.len() - 1` degrees of freedom, in deviations from its mean (normal approximation).
    fn deviation(counts: &[u64]) -> f64 {
        let total: u64 = counts.iter().sum();
        let expected = total as f64 / counts.len() as f64;
        let chi: f64 = counts
            .iter()
            .map(|&n| (n as f64 - expected).powi(2) / expected)
            .sum();
        let freedom = (counts.len() - 1) as f64;
        (chi - freedom) / (2.0 * freedom).sqrt()
    }

    #[test]
    fn every_permutation_of_five_is_as_likely() {
        let mut counts = vec![0; 120];
        for key in 0..240_000 {
            let permutation = Permutation::new(5, mix(key));
            let order: Vec<u64> = (0..5).map(|i| permutation.get(i)).collect();
            let mut code = 0;
            for (i, x) in order.iter().enumerate() {
                let smaller = order[i + 1..].iter().filter(|y| *y < x).count();
                code = code * (5 - i) + smaller;
            }
            counts[code] += 1;
        }
        assert!(deviation(&counts).abs() < 4.5, "{}", deviation(&counts));
    }

    #[test]
    fn places_and_pairs_are_uniform() {
        for n in [16, 37, 64, 100, 256] {
            let mut places = vec![0; (n * n) as usize];
            let mut pairs = vec![0; (n * n) as usize];
            let mut gaps = vec![0; (n - 1) as usize];
            for key in 0..200 * n {
                let permutation = Permutation::new(n, hash(n, key));
                let order: Vec<u64> = (0..n).map(|i| permutation.get(i)).collect();
                for (i, &x) in (0..).zip(&order) {
                    places[(i * n + x) as usize] += 1;
                }
                for pair in order.windows(2) {
                    pairs[(pair[0] * n + pair[1]) as usize] += 1;
                    gaps[((pair[1] + n - pair[0]) % n - 1) as usize] += 1;
                }
            }
            // A sample never follows itself.
            let mut pairs: Vec<u64> = pairs;
            for i in (0..n).rev() {
                assert_eq!(pairs.remove((i * n + i) as usize), 0);
            }
            for counts in [&places, &pairs, &gaps] {
                // Counts of a permutation are tied to each other, which makes chi-square smaller, never larger.
                assert!(deviation(counts) < 4.5, "{n}: {}", deviation(counts));
            }
        }
    }

    #[test]
    fn below_is_uniform() {
        let mut counts = vec![0; 10];
        let mut random = Random(5);
        for _ in 0..100_000 {
            counts[random.below(10) as usize] += 1;
        }
        assert!(deviation(&counts).abs() < 4.5);
    }
}
