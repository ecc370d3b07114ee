//! The syntax of the command line and the parameters of a stage.

use super::*;

#[test]
fn params_round_trip_and_specs_have_one_syntax() -> Result<()> {
    let mut texts = vec!["identity".to_owned()];
    for cast in ["f16", "bf16", "f8e4m3fn", "f8e5m2", "f32"] {
        texts.extend(["", ":saturate", ":patch"].map(|policy| format!("{cast}{policy}")));
    }
    for name in ["int4", "uint4", "int8", "uint8", "int16", "uint16"] {
        for asym in ["", ":asym"] {
            for granularity in ["", ":per-tensor", ":per-channel=2", ":per-group=32"] {
                for scale in ["", ":scale=f16", ":scale=bf16"] {
                    texts.push(format!("{name}{asym}{granularity}{scale}:patch"));
                }
            }
        }
    }
    for text in texts {
        let spec = QuantSpec::parse(&text)?;
        assert_eq!(spec.to_string(), text);
        let params = spec.resolve(DType::F64, Some(3))?;
        let mut bytes = Vec::new();
        params.emit(&mut bytes);
        assert_eq!(QuantParams::parse_stage(params.id().get(), &bytes)?, params);
        bytes.push(0);
        assert!(
            QuantParams::parse_stage(params.id().get(), &bytes)
                .unwrap_err()
                .is_corrupt()
        );
        for i in 0..bytes.len() - 1 {
            let mut wrong = bytes[..bytes.len() - 1].to_vec();
            wrong[i] = 0xEE;
            // Only an axis or a group size can be that large, and an axis cannot.
            let parsed = QuantParams::parse_stage(params.id().get(), &wrong);
            assert!(parsed.is_err() || (8..12).contains(&i), "{text} {i}");
        }
    }
    assert_eq!(QuantSpec::parse("int8:per-sample")?, QuantSpec::int8());
    for wrong in [
        "",
        "f64",
        "u8",
        "int5",
        "int8:",
        "int8:asym=1",
        "int8:per-group",
        "int8:per-channel=x",
        "identity:asym",
        "f16:scale=f16",
        "int8:scale=q",
        "identity:patch",
    ] {
        assert!(QuantSpec::parse(wrong).is_err(), "{wrong}");
    }
    assert!(
        QuantSpec::identity()
            .asymmetric()
            .resolve(DType::F32, None)
            .is_err()
    );
    assert!(QuantSpec::int8().resolve(DType::I32, None).is_err());
    assert!(
        QuantSpec::int8()
            .per_channel(2)
            .resolve(DType::F32, Some(2))
            .is_err()
    );
    assert!(
        QuantSpec::int8()
            .per_channel(0)
            .resolve(DType::F32, None)
            .is_err()
    );
    assert!(
        QuantSpec::int8()
            .per_group(0)
            .resolve(DType::F32, None)
            .is_err()
    );
    assert!(
        QuantSpec::int8()
            .scale_dtype(DType::F64)
            .resolve(DType::F32, None)
            .is_err()
    );
    assert!(
        QuantSpec::cast(DType::F32)
            .resolve(DType::F16, None)
            .is_err()
    );
    assert!(
        QuantParams::parse_stage(7, &[])
            .unwrap_err()
            .is_unsupported()
    );
    Ok(())
}
