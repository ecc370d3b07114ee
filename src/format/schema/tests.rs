use super::*;
use crate::quant::NonFinite;

/// A field of u8 with these dims, stored as it is.
pub(in crate::format) fn field(dims: &[Option<usize>]) -> Field {
    Field {
        name: "x".to_owned(),
        kind: Kind::Tensor,
        key: false,
        dtype: Some(DType::U8),
        dims: Some(dims.to_vec()),
        quant: QuantParams::Identity,
        filters: Vec::new(),
        split: None,
        codecs: vec![CodecSpec::parse("none").unwrap()],
        scales: Scales::default(),
    }
}

fn text() -> Field {
    Field {
        kind: Kind::String,
        ..field(&[None])
    }
}

fn filters(list: &[&str]) -> Vec<FilterSpec> {
    list.iter()
        .map(|text| FilterSpec::parse(text).unwrap().over(1).unwrap())
        .collect()
}

#[test]
fn fields_that_can_be() {
    let any = Field {
        dtype: None,
        dims: None,
        ..field(&[])
    };
    let largest = 1usize << 18;
    for good in [
        field(&[]),
        field(&[Some(3), None]),
        field(&[Some(1); 16]),
        field(&[Some(largest), Some(largest)]),
        field(&[Some(0), Some(largest), Some(largest), Some(largest)]),
        Field {
            name: "n".repeat(255),
            ..field(&[])
        },
        Field {
            kind: Kind::Bytes,
            key: true,
            ..text()
        },
        text(),
        any,
        Field {
            filters: filters(&["delta", "delta", "delta", "predict:chunk"]),
            ..field(&[Some(8)])
        },
    ] {
        assert_eq!(good.check(), Ok(()), "{good:?}");
    }
}

#[test]
fn fields_that_cannot_be_say_why() {
    let any = || Field {
        dtype: None,
        dims: None,
        ..field(&[])
    };
    let named = |name: &str| Field {
        name: name.to_owned(),
        ..field(&[])
    };
    let largest = 1usize << 18;
    for (bad, why) in [
        (named(""), "1 to 255 bytes"),
        (named(&"n".repeat(256)), "1 to 255 bytes"),
        (named("a\nb"), "control characters"),
        (named("a\u{7f}"), "control characters"),
        (
            Field {
                dtype: Some(DType::I8),
                ..text()
            },
            "u8 with one variable dim",
        ),
        (
            Field {
                kind: Kind::Bytes,
                ..field(&[Some(3)])
            },
            "u8 with one variable dim",
        ),
        (
            Field {
                dims: None,
                ..text()
            },
            "u8 with one variable dim",
        ),
        (
            Field {
                key: true,
                ..field(&[None])
            },
            "a key is",
        ),
        (
            Field {
                quant: QuantParams::Cast {
                    dtype: DType::F16,
                    non_finite: NonFinite::Error,
                },
                ..any()
            },
            "a dtype per sample",
        ),
        (
            Field {
                filters: filters(&["delta"]),
                ..any()
            },
            "a dtype per sample",
        ),
        (field(&[Some(1); 17]), "rank 17"),
        (field(&[Some(largest), Some(largest), Some(2)]), "2^36"),
        (field(&[Some(1 << 36)]), "2^36"),
        (field(&[None, Some(1 << 40)]), "2^36"),
        (field(&[Some(0), Some(1 << 36)]), "2^36"),
        (field(&[Some(usize::MAX), Some(usize::MAX)]), "2^36"),
        (
            Field {
                filters: filters(&["delta"; 5]),
                ..field(&[Some(8)])
            },
            "more than 4 filters",
        ),
        (
            Field {
                filters: filters(&["predict:chunk", "predict:chunk"]),
                ..field(&[Some(8)])
            },
            "more than one filter whose mode",
        ),
        (
            Field {
                codecs: Vec::new(),
                ..field(&[])
            },
            "0 codecs",
        ),
        (
            Field {
                scales: Scales {
                    scales: vec![1.0],
                    ..Scales::default()
                },
                ..field(&[])
            },
            "0 static scales",
        ),
    ] {
        let message = bad.check().unwrap_err();
        assert!(message.contains(why), "{message}");
    }
}

#[test]
fn schemas_have_up_to_4096_fields_of_different_names() {
    let fields = |n: usize| {
        let named = |i: usize| Field {
            name: i.to_string(),
            ..field(&[])
        };
        Schema::new((0..n).map(named).collect())
    };
    assert!(fields(1).is_ok() && fields(4096).is_ok());
    for bad in [0, 4097] {
        let said = fields(bad).unwrap_err().to_string();
        assert!(said.contains("1 to 4096 fields"), "{said}");
    }
    let twice = Schema::new(vec![field(&[]), field(&[])]).unwrap_err();
    assert!(twice.to_string().contains("\"x\" is used twice"));
}
