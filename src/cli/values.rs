//! Elements as text and as JSON.

use half::{bf16, f16};
use serde_json::Value;
use tensorshard::{DType, TensorView};

/// The `i`-th element for people; `None` if there is none.
pub(crate) fn text(view: &TensorView<'_>, i: usize) -> Option<String> {
    Some(match element(view, i)? {
        Element::Bool(x) => x.to_string(),
        Element::Unsigned(x) => x.to_string(),
        Element::Signed(x) => x.to_string(),
        // The shortest digits that name the value in its own dtype.
        Element::F32(x) => format!("{x}"),
        Element::F64(x) => format!("{x}"),
    })
}

/// The `i`-th element for programs. NaN and infinities have no JSON number: they are the strings `NaN`, `inf`, `-inf`.
pub(crate) fn json(view: &TensorView<'_>, i: usize) -> Option<Value> {
    Some(match element(view, i)? {
        Element::Bool(x) => x.into(),
        Element::Unsigned(x) => x.into(),
        Element::Signed(x) => x.into(),
        Element::F32(x) if x.is_finite() => {
            // The same digits as in text: an f32 widened to f64 would show more.
            format!("{x}").parse::<f64>().ok()?.into()
        }
        Element::F64(x) if x.is_finite() => x.into(),
        Element::F32(x) => format!("{x}").into(),
        Element::F64(x) => format!("{x}").into(),
    })
}

enum Element {
    Bool(bool),
    Unsigned(u64),
    Signed(i64),
    F32(f32),
    F64(f64),
}

fn element(view: &TensorView<'_>, i: usize) -> Option<Element> {
    let dtype = view.dtype();
    let start = i.checked_mul(dtype.size())?;
    let raw = view.data().get(start..start.checked_add(dtype.size())?)?;
    let mut wide = [0; 8];
    wide.get_mut(..raw.len())?.copy_from_slice(raw);
    let [a, b, c, d, ..] = wide;
    Some(match dtype {
        DType::Bool => Element::Bool(a != 0),
        DType::U8 | DType::U16 | DType::U32 | DType::U64 => {
            Element::Unsigned(u64::from_le_bytes(wide))
        }
        DType::I8 => Element::Signed(i8::from_le_bytes([a]).into()),
        DType::I16 => Element::Signed(i16::from_le_bytes([a, b]).into()),
        DType::I32 => Element::Signed(i32::from_le_bytes([a, b, c, d]).into()),
        DType::I64 => Element::Signed(i64::from_le_bytes(wide)),
        DType::F16 => Element::F32(f16::from_le_bytes([a, b]).to_f32()),
        DType::BF16 => Element::F32(bf16::from_le_bytes([a, b]).to_f32()),
        DType::F32 => Element::F32(f32::from_le_bytes([a, b, c, d])),
        DType::F64 => Element::F64(f64::from_le_bytes(wide)),
        DType::F8E4M3FN => Element::F32(f8e4m3fn(a)),
        // The upper byte of a binary16.
        DType::F8E5M2 => Element::F32(f16::from_le_bytes([0, a]).to_f32()),
    })
}

/// OCP 8-bit float: 4 exponent bits with bias 7, 3 mantissa bits, no infinity.
fn f8e4m3fn(bits: u8) -> f32 {
    let sign = if bits & 0x80 == 0 { 1.0 } else { -1.0 };
    let exponent = i32::from(bits >> 3 & 15);
    let mantissa = f32::from(bits & 7);
    let magnitude = match (exponent, bits & 7) {
        (15, 7) => f32::NAN,
        (0, _) => mantissa / 512.0,
        _ => (1.0 + mantissa / 8.0) * 2f32.powi(exponent - 7),
    };
    sign * magnitude
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_of_every_dtype_are_shown() {
        for dtype in DType::all() {
            let data = vec![0; 2 * dtype.size()];
            let view = TensorView::new(dtype, &[2], &data).unwrap();
            assert!(text(&view, 1).is_some(), "{dtype}");
            assert!(json(&view, 1).is_some(), "{dtype}");
            assert_eq!(text(&view, 2), None);
        }
    }

    #[test]
    fn eight_bit_floats_are_decoded() {
        assert_eq!(f8e4m3fn(0x7e), 448.0);
        assert_eq!(f8e4m3fn(0x01), 0.001953125);
        assert_eq!(f8e4m3fn(0xb8), -1.0);
        assert!(f8e4m3fn(0x7f).is_nan());
        let view = TensorView::new(DType::F8E5M2, &[2], &[0x3c, 0x7c]).unwrap();
        assert_eq!(text(&view, 0).as_deref(), Some("1"));
        assert_eq!(json(&view, 1), Some("inf".into()));
    }
}
