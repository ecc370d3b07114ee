//! A borrowed or owned tensor: dtype, shape, contiguous row-major bytes.

use bytes::Bytes;
use half::{bf16, f16};

use crate::dtype::DType;
use crate::error::{Error, Result};

/// A borrowed tensor: contiguous, row-major, little-endian.
#[derive(Clone, Copy, Debug)]
pub struct TensorView<'a> {
    dtype: DType,
    shape: &'a [usize],
    data: &'a [u8],
}

/// An owned tensor whose bytes are reference counted.
#[derive(Clone, Debug)]
pub struct Tensor {
    dtype: DType,
    shape: Vec<usize>,
    data: Bytes,
}

/// The number of elements of `shape`, or `None` if it overflows.
pub(crate) fn num_elements(shape: &[usize]) -> Option<usize> {
    // A zero anywhere makes the product 0, however large the other dims are.
    if shape.contains(&0) {
        return Some(0);
    }
    shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d))
}

impl<'a> TensorView<'a> {
    /// A view of `data` as `shape` elements of `dtype`.
    ///
    /// # Errors
    /// `InvalidArgument` if `data` does not have exactly the bytes that shape and dtype need.
    pub fn new(dtype: DType, shape: &'a [usize], data: &'a [u8]) -> Result<Self> {
        let need = num_elements(shape).and_then(|n| n.checked_mul(dtype.size()));
        if need != Some(data.len()) {
            return Err(Error::invalid(format!(
                "{} tensor of shape {shape:?} does not fit {} bytes of data",
                dtype.with_article(),
                data.len()
            )));
        }
        Ok(Self { dtype, shape, data })
    }

    /// The dtype of the elements.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The dims, outermost first.
    pub fn shape(&self) -> &'a [usize] {
        self.shape
    }

    /// The bytes: row-major, little-endian.
    pub fn data(&self) -> &'a [u8] {
        self.data
    }

    /// The number of elements.
    pub fn num_elements(&self) -> usize {
        self.data.len() / self.dtype.size()
    }
}

impl Tensor {
    /// A tensor of `shape` elements of `dtype` over `data`.
    ///
    /// # Errors
    /// As [`TensorView::new`].
    pub fn new(dtype: DType, shape: Vec<usize>, data: Bytes) -> Result<Self> {
        TensorView::new(dtype, &shape, &data)?;
        Ok(Self { dtype, shape, data })
    }

    /// The dtype of the elements.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The dims, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The bytes: row-major, little-endian.
    pub fn data(&self) -> &Bytes {
        &self.data
    }

    /// A borrowed view.
    pub fn view(&self) -> TensorView<'_> {
        TensorView {
            dtype: self.dtype,
            shape: &self.shape,
            data: &self.data,
        }
    }

    /// The elements, copied into a `Vec` of the matching Rust type.
    ///
    /// # Errors
    /// `InvalidArgument` if the dtype is not `T`'s.
    pub fn to_vec<T: Element>(&self) -> Result<Vec<T>> {
        if self.dtype != T::DTYPE {
            return Err(Error::invalid(format!(
                "{} tensor was asked for as {}",
                self.dtype.with_article(),
                T::DTYPE
            )));
        }
        Ok(self
            .data
            .chunks_exact(self.dtype.size())
            .map(T::from_le)
            .collect())
    }
}

/// A Rust type that is the element type of some dtype.
pub trait Element: bytemuck::Pod + Send + Sync + private::Sealed {
    /// The dtype whose elements this type holds.
    const DTYPE: DType;
    /// The element in exactly `size_of::<Self>()` little-endian bytes.
    ///
    /// # Panics
    /// If `bytes` has another length.
    fn from_le(bytes: &[u8]) -> Self;
    /// Appends the little-endian bytes of the element.
    fn put_le(self, out: &mut Vec<u8>);
}

mod private {
    pub trait Sealed {}
}

macro_rules! elements {
    ($($type:ty => $dtype:ident),* $(,)?) => {$(
        impl private::Sealed for $type {}
        impl Element for $type {
            const DTYPE: DType = DType::$dtype;
            fn from_le(bytes: &[u8]) -> Self {
                let mut raw = [0; size_of::<$type>()];
                raw.copy_from_slice(bytes);
                <$type>::from_le_bytes(raw)
            }
            fn put_le(self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_le_bytes());
            }
        }
    )*};
}
elements!(
    u8 => U8, u16 => U16, u32 => U32, u64 => U64, i8 => I8, i16 => I16, i32 => I32, i64 => I64,
    f16 => F16, bf16 => BF16, f32 => F32, f64 => F64,
);

/// The little-endian bytes of a slice of elements, for building a [`TensorView`].
pub fn to_le_bytes<T: Element>(elements: &[T]) -> Vec<u8> {
    let mut out = Vec::with_capacity(size_of_val(elements));
    for &element in elements {
        element.put_le(&mut out);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn view_needs_exactly_the_bytes_of_its_shape() {
        assert!(TensorView::new(DType::F32, &[2, 3], &[0; 24]).is_ok());
        assert!(TensorView::new(DType::F32, &[2, 3], &[0; 23]).is_err());
        assert!(TensorView::new(DType::F32, &[usize::MAX, 2], &[0; 24]).is_err());
        assert!(TensorView::new(DType::F32, &[usize::MAX, 0], &[]).is_ok());
        assert_eq!(
            TensorView::new(DType::F32, &[], &[0; 4])
                .unwrap()
                .num_elements(),
            1
        );
    }

    #[test]
    fn elements_round_trip() -> Result<()> {
        let x = [1.5f32, -0.0, f32::NAN];
        let tensor = Tensor::new(DType::F32, vec![3], to_le_bytes(&x).into())?;
        let y = tensor.to_vec::<f32>()?;
        assert!(x.iter().zip(&y).all(|(a, b)| a.to_bits() == b.to_bits()));
        assert!(tensor.to_vec::<f64>().is_err());
        Ok(())
    }
}
