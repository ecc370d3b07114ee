//! Bytes through a table of 256 floats: normalizing u8 images while they are read.

use super::convert::{f32_to_bf16, f32_to_f16};
use super::simd::simd;

simd! {
    /// `dst[i] = table[src[i]]` as f32. Stops at the shorter of `src` and `dst`.
    pub(crate) fn lut_u8_f32(src: &[u8], table: &[f32; 256], dst: &mut [u8]) {
        for (out, &code) in dst.as_chunks_mut::<4>().0.iter_mut().zip(src) {
            *out = table[usize::from(code)].to_le_bytes();
        }
    }
}

simd! {
    /// `dst[i] = table[src[i]]` for elements of two bytes; see [`to_f16`] and [`to_bf16`].
    pub(crate) fn lut_u8_u16(src: &[u8], table: &[u16; 256], dst: &mut [u8]) {
        for (out, &code) in dst.as_chunks_mut::<2>().0.iter_mut().zip(src) {
            *out = table[usize::from(code)].to_le_bytes();
        }
    }
}

/// The table in f16, for [`lut_u8_u16`].
pub(crate) fn to_f16(table: &[f32; 256]) -> [u16; 256] {
    table.map(f32_to_f16)
}

/// The table in bf16, for [`lut_u8_u16`].
pub(crate) fn to_bf16(table: &[f32; 256]) -> [u16; 256] {
    table.map(f32_to_bf16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_gets_its_entry() {
        let table: [f32; 256] = std::array::from_fn(|i| (i as f32 / 255.0 - 0.45) / 0.225);
        let src: Vec<u8> = (0..=255).rev().collect();
        let (mut wide, mut half, mut brain) = ([0; 1024], [0; 512], [0; 512]);
        lut_u8_f32(&src, &table, &mut wide);
        lut_u8_u16(&src, &to_f16(&table), &mut half);
        lut_u8_u16(&src, &to_bf16(&table), &mut brain);
        for (i, &code) in src.iter().enumerate() {
            let x = table[usize::from(code)];
            assert_eq!(wide.as_chunks::<4>().0[i], x.to_le_bytes());
            assert_eq!(
                half.as_chunks::<2>().0[i],
                half::f16::from_f32(x).to_le_bytes()
            );
            assert_eq!(
                brain.as_chunks::<2>().0[i],
                half::bf16::from_f32(x).to_le_bytes()
            );
        }
    }
}
