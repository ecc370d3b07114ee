//! Elements that are indices into a table of values: x = `table[q] * scale` (format-spec 9.8).

use super::simd::simd;

/// Elements compared with a threshold at a time.
const LANES: usize = 64;

simd! {
    /// `q[i]` = the number of `thresholds` below `x / scale`, and `decoded[i] = table[q[i]] * scale`. True if every ratio
    /// is in `low..=high`. Stops at the shortest of the slices.
    ///
    /// # Panics
    /// If the table is not longer than the thresholds.
    pub(crate) fn quantize(x: &[f32], scale: &[f32], codebook: &Codebook<'_>, q: &mut [i32], decoded: &mut [f32]) -> bool {
        let n = x.len().min(scale.len()).min(q.len()).min(decoded.len());
        let (x, scale) = (&x[..n], &scale[..n]);
        let (q, decoded) = (&mut q[..n], &mut decoded[..n]);
        let (low, high) = (codebook.table[0], codebook.table[codebook.thresholds.len()]);
        let mut inside = 1u32;
        for i in 0..n {
            let ratio = x[i] / scale[i];
            inside &= u32::from((ratio >= low) & (ratio <= high));
            (decoded[i], q[i]) = (ratio, 0);
        }
        if codebook.thresholds.len() <= 16 {
            for (q, ratios) in q.chunks_mut(LANES).zip(decoded.chunks(LANES)) {
                let (mut row, mut count) = ([0.0; LANES], [0i32; LANES]);
                row[..ratios.len()].copy_from_slice(ratios);
                for threshold in codebook.thresholds {
                    for i in 0..LANES {
                        count[i] += i32::from(row[i] > *threshold);
                    }
                }
                q.copy_from_slice(&count[..q.len()]);
            }
        } else {
            for i in 0..n {
                let below = codebook.thresholds.partition_point(|threshold| decoded[i] > *threshold);
                q[i] = i32::try_from(below).unwrap_or(0);
            }
        }
        for i in 0..n {
            decoded[i] = codebook.table[usize::try_from(q[i]).unwrap_or(0)] * scale[i];
        }
        inside == 1
    }
}

/// A table, and where its entries meet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Codebook<'a> {
    /// Ascending.
    pub(crate) table: &'a [f32],
    /// One less than entries: the largest f32 that is not nearer to the next entry.
    pub(crate) thresholds: &'a [f32],
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ties_go_to_the_lower_entry() {
        let codebook = Codebook {
            table: &[-1.0, 0.0, 0.5, 1.0],
            thresholds: &[-0.5, 0.25, 0.75],
        };
        let x = [-2.0f32, -1.0, -0.5, -0.49, 0.25, 0.26, 0.75, 0.76, 1.0];
        let (mut q, mut decoded) = ([9; 9], [0.0; 9]);
        assert!(!quantize(&x, &[1.0; 9], &codebook, &mut q, &mut decoded));
        assert_eq!(q, [0, 0, 0, 1, 1, 2, 2, 3, 3]);
        assert!(quantize(
            &x[1..],
            &[1.0; 9],
            &codebook,
            &mut q,
            &mut decoded
        ));
        assert!(!quantize(
            &[f32::NAN],
            &[1.0],
            &codebook,
            &mut q,
            &mut decoded
        ));
        assert!(quantize(
            &[4.0, -1.0],
            &[4.0, 2.0],
            &codebook,
            &mut q,
            &mut decoded
        ));
        assert_eq!(decoded[..2], [4.0, -2.0]);
    }
}
