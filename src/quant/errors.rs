//! The measured error of quantizing, summed up block by block (format-spec 10.4).

use super::ErrorSums;

const LANES: usize = 8;

impl ErrorSums {
    /// Adds the sums of other elements.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.count += other.count;
        self.non_finite += other.non_finite;
        self.max_abs_error = self.max_abs_error.max(other.max_abs_error);
        // The squares of f64 can overflow; the statistics of a file are finite.
        self.sum_sq_error = (self.sum_sq_error + other.sum_sq_error).min(f64::MAX);
        self.sum_sq_source = (self.sum_sq_source + other.sum_sq_source).min(f64::MAX);
    }

    /// Adds elements that are all finite, and so are their decoded values.
    pub(super) fn add_finite(&mut self, source: &[f64], decoded: &[f64]) {
        let (mut max, mut sq_error, mut sq_source) =
            ([0.0f64; LANES], [0.0f64; LANES], [0.0f64; LANES]);
        let (sources, source_rest) = source.as_chunks::<LANES>();
        let (decodeds, decoded_rest) = decoded.as_chunks::<LANES>();
        for (s, d) in sources.iter().zip(decodeds) {
            for i in 0..LANES {
                let error = (d[i] - s[i]).abs();
                max[i] = if error > max[i] { error } else { max[i] };
                sq_error[i] += error * error;
                sq_source[i] += s[i] * s[i];
            }
        }
        for (i, (s, d)) in source_rest.iter().zip(decoded_rest).enumerate() {
            let error = (d - s).abs();
            max[i] = max[i].max(error);
            sq_error[i] += error * error;
            sq_source[i] += s * s;
        }
        self.merge(&Self {
            count: source.len() as u64,
            non_finite: 0,
            max_abs_error: max.into_iter().fold(0.0, f64::max).min(f64::MAX),
            sum_sq_error: sq_error.into_iter().sum(),
            sum_sq_source: sq_source.into_iter().sum(),
        });
    }

    /// Adds elements of any kind; those whose source is not finite are only counted.
    pub(super) fn add(&mut self, source: &[f64], decoded: &[f64]) {
        for (s, d) in source.iter().zip(decoded) {
            if s.is_finite() {
                self.add_finite(std::slice::from_ref(s), std::slice::from_ref(d));
            } else {
                self.non_finite += 1;
            }
        }
    }
}
