//! How several datasets take turns and how samples are drawn by weight (format-spec 13.6). Pure.

use super::bijection::{below, hash, mix};
use crate::error::{Error, Result};

/// The period of proportions that are no small integers.
const PERIOD: u32 = 4096;

/// Turns of datasets, the same in every period: each comes as often as its quota, as evenly as possible.
#[derive(Clone, Debug)]
pub(crate) struct Turns {
    quotas: Vec<u64>,
    /// For each place of the period: whose turn it is, and how many turns of it come before.
    places: Vec<(usize, u64)>,
    /// The places of each.
    of: Vec<Vec<u64>>,
}

impl Turns {
    /// One dataset, whose turn it always is.
    pub(crate) fn one() -> Self {
        Self::of_quotas(vec![1])
    }

    /// In proportion to weights: exactly where they are integers of a sum up to 4096, else to 1 of 4096.
    pub(crate) fn new(weights: &[f64]) -> Result<Self> {
        if let Some(bad) = weights.iter().find(|w| !w.is_finite() || **w <= 0.0) {
            return Err(Error::invalid(format!(
                "the weight {bad} of a mixture is not above 0, or infinite"
            )));
        }
        if weights.is_empty() || weights.len() > PERIOD as usize {
            return Err(Error::invalid(format!(
                "a mixture has 1 to {PERIOD} datasets, not {}",
                weights.len()
            )));
        }
        let sum: f64 = weights.iter().sum();
        let integers = weights.iter().all(|w| w.fract() == 0.0) && sum <= f64::from(PERIOD);
        let quotas = if integers {
            let all: Vec<u64> = weights.iter().map(|&w| whole(w)).collect();
            let common = all.iter().copied().fold(0, gcd);
            all.iter().map(|w| w / common.max(1)).collect()
        } else {
            largest_remainders(weights, sum)
        };
        Ok(Self::of_quotas(quotas))
    }

    fn of_quotas(quotas: Vec<u64>) -> Self {
        // Turn i of a dataset with quota q is due at (2 i + 1) / 2 q of the period.
        let mut due: Vec<(u64, u64, usize, u64)> = Vec::new();
        for (dataset, &quota) in quotas.iter().enumerate() {
            due.extend((0..quota).map(|i| (2 * i + 1, 2 * quota, dataset, i)));
        }
        // By exact fractions; of equals, the earlier dataset.
        due.sort_by(|a, b| (a.0 * b.1, a.2).cmp(&(b.0 * a.1, b.2)));
        let mut of = vec![Vec::new(); quotas.len()];
        for (place, &(_, _, dataset, _)) in (0..).zip(&due) {
            of[dataset].push(place);
        }
        let places = due.into_iter().map(|(_, _, dataset, i)| (dataset, i));
        Self {
            places: places.collect(),
            of,
            quotas,
        }
    }

    fn period(&self) -> u64 {
        self.places.len() as u64
    }

    /// Whose turn a position is, and how many turns of it come before.
    pub(crate) fn locate(&self, position: u64) -> (usize, u64) {
        let (period, place) = (position / self.period(), position % self.period());
        let (dataset, before) = self.places[usize::try_from(place).unwrap_or(usize::MAX)];
        (dataset, period * self.quotas[dataset] + before)
    }

    /// The position of a turn of a dataset.
    pub(crate) fn position(&self, dataset: usize, index: u64) -> u64 {
        let quota = self.quotas[dataset];
        let within = usize::try_from(index % quota).unwrap_or(usize::MAX);
        (index / quota)
            .saturating_mul(self.period())
            .saturating_add(self.of[dataset][within])
    }

    /// How many turns of a dataset come before a position.
    pub(crate) fn count(&self, dataset: usize, position: u64) -> u64 {
        let (period, place) = (position / self.period(), position % self.period());
        let before = self.of[dataset].partition_point(|&x| x < place) as u64;
        period * self.quotas[dataset] + before
    }

    /// The part of `whole` that is a dataset's by its quota, rounded down.
    pub(crate) fn part(&self, dataset: usize, whole: u64) -> u64 {
        whole.saturating_mul(self.quotas[dataset]) / self.period()
    }

    /// The quotas, for states.
    pub(crate) fn word(&self) -> String {
        let digest = self.quotas.iter().fold(2, |digest, &q| hash(digest, q));
        format!("{} of {} {digest:016x}", self.quotas.len(), self.period())
    }
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Of a float that is 0 to 4096.
fn whole(x: f64) -> u64 {
    (0..=u64::from(PERIOD))
        .rev()
        .find(|&n| n as f64 <= x)
        .unwrap_or(0)
}

/// Quotas of at least 1 that sum to the period.
fn largest_remainders(weights: &[f64], sum: f64) -> Vec<u64> {
    let exact: Vec<f64> = weights
        .iter()
        .map(|w| w / sum * f64::from(PERIOD))
        .collect();
    let mut quotas: Vec<u64> = exact.iter().map(|&x| whole(x).max(1)).collect();
    loop {
        let total: u64 = quotas.iter().sum();
        let error = |i: &usize| exact[*i] - quotas[*i] as f64;
        let order = |a: &usize, b: &usize| error(a).total_cmp(&error(b)).then(b.cmp(a));
        let all = 0..quotas.len();
        if total < u64::from(PERIOD) {
            if let Some(i) = all.max_by(order) {
                quotas[i] += 1;
            }
        } else if total > u64::from(PERIOD) {
            match all.filter(|&i| quotas[i] > 1).min_by(order) {
                Some(i) => quotas[i] -= 1,
                None => return quotas,
            }
        } else {
            return quotas;
        }
    }
}

/// Draws samples in proportion to weights, with replacement (Walker 1977, Vose 1991): 16 bytes a sample.
#[derive(Debug)]
pub(crate) struct Alias {
    /// The column's own part, of 2^64, and what else it holds.
    columns: Vec<(u64, u64)>,
}

/// 2^64.
const WHOLE: f64 = 18_446_744_073_709_551_616.0;

impl Alias {
    pub(crate) fn new(weights: &[f64]) -> Result<Self> {
        let sum: f64 = weights.iter().sum();
        if weights.iter().any(|w| !w.is_finite() || *w < 0.0) || !sum.is_finite() || sum <= 0.0 {
            return Err(Error::invalid(
                "weights of samples are finite and not negative, and not all are 0",
            ));
        }
        let n = weights.len() as f64;
        let mut parts: Vec<f64> = weights.iter().map(|w| w / sum * n).collect();
        let mut columns: Vec<(u64, u64)> =
            (0..weights.len() as u64).map(|i| (u64::MAX, i)).collect();
        let (mut small, mut large): (Vec<usize>, Vec<usize>) =
            (0..parts.len()).partition(|&i| parts[i] < 1.0);
        while let (Some(&less), Some(&more)) = (small.last(), large.last()) {
            small.pop();
            columns[less] = (part_of(parts[less]), more as u64);
            parts[more] -= 1.0 - parts[less];
            if parts[more] < 1.0 {
                large.pop();
                small.push(more);
            }
        }
        // What rounding has left over is full; a weight of 0 is drawn by none.
        let heaviest = (0..weights.len()).max_by(|&a, &b| weights[a].total_cmp(&weights[b]));
        for i in small {
            if weights[i] == 0.0 {
                columns[i] = (0, heaviest.unwrap_or(i) as u64);
            }
        }
        Ok(Self { columns })
    }

    /// The draw at a position.
    pub(crate) fn draw(&self, key: u64, position: u64) -> u64 {
        let random = hash(key, position);
        let column = below(random, self.columns.len() as u64);
        let (own, other) = self.columns[usize::try_from(column).unwrap_or(usize::MAX)];
        if mix(random) < own { column } else { other }
    }
}

/// A part of 1 as one of 2^64.
fn part_of(part: f64) -> u64 {
    // Exact: a float below 1 has 53 bits, and is compared, not converted.
    let mut out = 0u64;
    let mut rest = part.clamp(0.0, 1.0) * WHOLE;
    for bit in (0..64).rev() {
        let value = (1u64 << bit) as f64;
        if rest >= value {
            rest -= value;
            out |= 1 << bit;
        }
    }
    out
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "small numbers")]
mod tests {
    use super::*;

    #[test]
    fn rare_datasets_have_a_turn_at_the_cost_of_the_largest() -> Result<()> {
        let weights = [vec![1e9], vec![1.5; 100]].concat();
        let turns = Turns::new(&weights)?;
        assert_eq!(turns.quotas[0], u64::from(PERIOD) - 100);
        assert!(turns.quotas[1..].iter().all(|&quota| quota == 1));
        Ok(())
    }

    #[test]
    fn turns_are_even_and_invert() -> Result<()> {
        for weights in [
            vec![1.0],
            vec![3.0, 1.0],
            vec![0.7, 0.2, 0.1],
            vec![1e-9, 1.0],
            vec![2.0, 4.0, 6.0],
            vec![3.5, 1.0, 0.25],
            vec![1e6, 2.5e5],
            vec![0.5; 100],
        ] {
            let turns = Turns::new(&weights)?;
            let sum: f64 = weights.iter().sum();
            let mut counts = vec![0; weights.len()];
            for position in 0..10_000 {
                let (dataset, index) = turns.locate(position);
                assert_eq!(index, counts[dataset]);
                assert_eq!(turns.position(dataset, index), position);
                for (t, &count) in counts.iter().enumerate().take(3) {
                    assert_eq!(turns.count(t, position), count);
                }
                counts[dataset] += 1;
            }
            for (weight, &count) in weights.iter().zip(&counts) {
                let expected = weight / sum * 10_000.0;
                assert!(
                    (count as f64 - expected).abs() < 6.0,
                    "{weights:?} {counts:?}"
                );
            }
        }
        assert_eq!(Turns::new(&[2.0, 4.0, 6.0])?.quotas, [1, 2, 3]);
        assert_eq!(Turns::new(&[0.75, 0.25])?.quotas, [3072, 1024]);
        assert_eq!(
            Turns::new(&[1.0, 3.0])?.places,
            [(1, 0), (0, 0), (1, 1), (1, 2)]
        );
        assert!(Turns::new(&[]).is_err());
        assert!(Turns::new(&[1.0, 0.0]).is_err());
        assert!(Turns::new(&[f64::NAN]).is_err());
        Ok(())
    }

    #[test]
    fn draws_follow_the_weights() -> Result<()> {
        for weights in [
            vec![1.0, 2.0, 0.0, 5.0],
            vec![1.0; 7],
            vec![3.0],
            vec![0.1, 1e6, 0.2],
        ] {
            let alias = Alias::new(&weights)?;
            let sum: f64 = weights.iter().sum();
            let n = 200_000;
            let mut counts = vec![0u64; weights.len()];
            for position in 0..n {
                counts[alias.draw(7, position) as usize] += 1;
            }
            for (weight, count) in weights.iter().zip(&counts) {
                let expected = weight / sum * n as f64;
                let deviation = expected.max(1.0).sqrt();
                assert!(
                    (*count as f64 - expected).abs() < 5.0 * deviation,
                    "{counts:?}"
                );
            }
        }
        assert!(Alias::new(&[0.0]).is_err());
        assert!(Alias::new(&[-1.0, 2.0]).is_err());
        assert_eq!(part_of(0.5), 1 << 63);
        Ok(())
    }
}
