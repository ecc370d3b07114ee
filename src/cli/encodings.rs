//! The options that choose encodings, for all fields or for one: a field's own option counts before one for all
//! fields, and that before the preset.

use clap::Args;
use tensorshard::{
    CodecSpec, DType, FieldSpec, FilterId, FilterSpec, Goal, NonFinite, Planner, Preset, QuantSpec,
    SplitId,
};

use super::failure::Failure;

/// Encodings. Each option is for all fields, or as NAME=VALUE for the field NAME, and may be repeated. A field's own
/// option counts before one for all fields, and that before the preset.
#[derive(Args, Clone, Debug, Default)]
#[command(
    next_help_heading = "Encodings (VALUE, or NAME=VALUE for the field NAME; may be repeated)"
)]
pub(crate) struct EncodingArgs {
    /// lossless (the default), f16, bf16, int8, int8-per-channel, int4-group32, int4-group64, int4-group128, nf4, mxfp8,
    /// mxint8, mxfp4, fp8 or article: touches float fields only. Or auto: measures lossless encodings on a sample of
    /// the field and picks one.
    #[arg(long, value_name = "PRESET")]
    preset: Vec<String>,
    /// As --preset auto, but float fields may be stored with an error of at most E (absolute) an element: a guarantee.
    #[arg(long, value_name = "E")]
    max_error: Vec<String>,
    /// As --preset auto, but float fields are stored with the least error in at most B bits a value.
    #[arg(long, value_name = "B")]
    target_bits: Vec<String>,
    /// What auto, --max-error and --target-bits pick for: fast, balanced (the default) or small.
    #[arg(long, value_name = "GOAL")]
    goal: Vec<String>,
    /// identity, f16, bf16, f8e4m3fn, f8e5m2; int4, uint4, int8, uint8, int16, uint16, fp8, fp8-e5m2 or nf4 with :asym
    /// (integers), :per-sample, :per-tensor, :per-channel=AXIS, :per-group=N, :scale=DTYPE; mxfp8, mxfp8-e5m2, mxint8, mxfp4; or a
    /// largest error, verified for every element: abs_error:E, rel_error:FRACTION of the field's range,
    /// psnr:DECIBELS. Without NAME: float fields.
    #[arg(long, value_name = "SPEC")]
    quantize: Vec<String>,
    /// byte_shuffle, bit_shuffle, delta, float_order, predict (with :left, :up, :2d, :3d, or :chunk for the best of
    /// them in every chunk, :channel=AXIS, :reference=CHANNEL, :zigzag), several with commas, or none.
    #[arg(long, value_name = "LIST")]
    filter: Vec<String>,
    /// float_split, byte_split or none (the default): elements of 2, 4 or 8 bytes as planes of bytes. Without NAME: float
    /// fields.
    #[arg(long, value_name = "SPLIT")]
    split: Vec<String>,
    /// none, snappy (the default), deflate, gzip, lz4, zstd, prefix, huffman or lzo (if built in), with a level as in zstd:3. With a split one for each
    /// plane, the most significant first, with commas; the last one is for all planes that follow, and fields that are
    /// not split keep theirs.
    #[arg(long, value_name = "SPEC")]
    codec: Vec<String>,
    /// What a quantizer does with NaN, infinities and overflow: error (the default), saturate or patch.
    #[arg(long, value_name = "POLICY")]
    non_finite: Vec<String>,
}

/// Values of one option.
#[derive(Clone, Debug)]
struct Choice<T> {
    all: Option<T>,
    fields: Vec<(String, T)>,
}

impl<T> Choice<T> {
    fn parse(
        option: &str,
        texts: &[String],
        parse: impl Fn(&str) -> Result<T, Failure>,
    ) -> Result<Self, Failure> {
        let mut out = Self {
            all: None,
            fields: Vec::new(),
        };
        for text in texts {
            // In `int4:per-group=32` the sign belongs to the value.
            let named = text
                .split_once('=')
                .filter(|(name, _)| !name.is_empty() && !name.contains([':', ',']));
            let twice = match named {
                Some((name, value)) => {
                    let before = out.of(name).is_some();
                    out.fields.push((name.to_owned(), parse(value)?));
                    before
                }
                None => out.all.replace(parse(text)?).is_some(),
            };
            if twice {
                return Err(Failure::usage(format!(
                    "--{option} {text} is the second value for the same fields"
                )));
            }
        }
        Ok(out)
    }

    /// Takes the values of another option that says something about the same thing.
    fn merge(&mut self, other: Self) -> Result<(), Failure> {
        let same = other
            .fields
            .iter()
            .find(|(name, _)| self.of(name).is_some());
        if let Some((name, _)) = same {
            return Err(Failure::usage(format!(
                "--preset, --max-error and --target-bits exclude each other; give field {name:?} one of them"
            )));
        }
        self.fields.extend(other.fields);
        if other.all.is_some() && std::mem::replace(&mut self.all, other.all).is_some() {
            return Err(Failure::usage(
                "--preset, --max-error and --target-bits exclude each other; for single fields write NAME=VALUE",
            ));
        }
        Ok(())
    }

    /// Every value.
    fn values(&self) -> impl Iterator<Item = &T> {
        self.all
            .iter()
            .chain(self.fields.iter().map(|(_, value)| value))
    }

    /// The field's own value.
    fn of(&self, field: &str) -> Option<&T> {
        self.fields
            .iter()
            .find(|(name, _)| name == field)
            .map(|(_, value)| value)
    }

    /// The field's own value, or that for all.
    fn get(&self, field: &str) -> Option<&T> {
        self.of(field).or(self.all.as_ref())
    }
}

/// A quantizer as it was asked for.
#[derive(Clone, Debug)]
struct Quantize {
    spec: QuantSpec,
    /// The specification itself says what is done with non-finite elements.
    has_policy: bool,
}

/// What `--preset`, `--max-error` or `--target-bits` asked for: at most one of them counts for a field.
#[derive(Clone, Copy, Debug)]
enum Request {
    Preset(Preset),
    Auto,
    MaxError(f64),
    TargetBits(f64),
}

impl Request {
    fn parse_preset(text: &str) -> Result<Self, Failure> {
        if text == AUTO {
            return Ok(Self::Auto);
        }
        match Preset::parse(text) {
            Ok(preset) => Ok(Self::Preset(preset)),
            Err(error) => Err(Failure::usage(format!("{error}, or {AUTO}"))),
        }
    }

    fn is_planned(self) -> bool {
        !matches!(self, Self::Preset(_))
    }

    fn planner(self, goal: Goal) -> Option<Planner> {
        let planner = Planner::new(goal);
        match self {
            Self::Preset(_) => None,
            Self::Auto => Some(planner),
            Self::MaxError(bound) => Some(planner.max_error(bound)),
            Self::TargetBits(bits) => Some(planner.target_bits(bits)),
        }
    }
}

/// The preset that is chosen by measuring.
const AUTO: &str = "auto";

/// A number above 0.
pub(crate) fn parse_number(option: &str, text: &str) -> Result<f64, Failure> {
    match text.parse::<f64>() {
        Ok(x) if x > 0.0 && x.is_finite() => Ok(x),
        _ => Err(Failure::usage(format!(
            "--{option} is a number above 0, as in --{option} 0.5 or --{option} NAME=0.5, not {text:?}"
        ))),
    }
}

/// The options, read.
#[derive(Clone, Debug)]
pub(crate) struct Encodings {
    request: Choice<Request>,
    goal: Choice<Goal>,
    quantize: Choice<Quantize>,
    filter: Choice<Vec<FilterSpec>>,
    split: Choice<Option<SplitId>>,
    codec: Choice<Vec<CodecSpec>>,
    non_finite: Choice<NonFinite>,
}

impl EncodingArgs {
    /// True if nothing was asked for.
    pub(crate) fn is_empty(&self) -> bool {
        [
            &self.preset,
            &self.max_error,
            &self.target_bits,
            &self.goal,
            &self.quantize,
            &self.filter,
            &self.split,
            &self.codec,
            &self.non_finite,
        ]
        .into_iter()
        .all(Vec::is_empty)
    }

    /// Reads the options.
    pub(crate) fn parse(&self) -> Result<Encodings, Failure> {
        let mut request = Choice::parse("preset", &self.preset, Request::parse_preset)?;
        request.merge(Choice::parse("max-error", &self.max_error, |text| {
            Ok(Request::MaxError(parse_number("max-error", text)?))
        })?)?;
        request.merge(Choice::parse("target-bits", &self.target_bits, |text| {
            Ok(Request::TargetBits(parse_number("target-bits", text)?))
        })?)?;
        let goal = Choice::parse("goal", &self.goal, |text| Ok(Goal::parse(text)?))?;
        let planned = request.values().any(|request| request.is_planned());
        if !planned && goal.values().next().is_some() {
            return Err(Failure::usage(
                "--goal says what --preset auto, --max-error or --target-bits pick for; add one of them",
            ));
        }
        Ok(Encodings {
            request,
            goal,
            quantize: Choice::parse("quantize", &self.quantize, |text| {
                Ok(Quantize {
                    spec: QuantSpec::parse(text)?,
                    has_policy: text
                        .split(':')
                        .any(|part| matches!(part, "error" | "saturate" | "patch")),
                })
            })?,
            filter: Choice::parse("filter", &self.filter, parse_filters)?,
            split: Choice::parse("split", &self.split, |text| match text {
                "none" => Ok(None),
                _ => Ok(Some(SplitId::parse(text)?)),
            })?,
            codec: Choice::parse("codec", &self.codec, parse_codecs)?,
            non_finite: Choice::parse("non-finite", &self.non_finite, parse_policy)?,
        })
    }
}

fn parse_filters(text: &str) -> Result<Vec<FilterSpec>, Failure> {
    if text == "none" {
        return Ok(Vec::new());
    }
    text.split(',')
        .map(|filter| {
            FilterSpec::parse(filter.trim())
                .map_err(|error| Failure::usage(format!("{error}, or none")))
        })
        .collect()
}

fn parse_codecs(text: &str) -> Result<Vec<CodecSpec>, Failure> {
    text.split(',')
        .map(|codec| Ok(CodecSpec::parse(codec.trim())?))
        .collect()
}

fn parse_policy(text: &str) -> Result<NonFinite, Failure> {
    match text {
        "error" => Ok(NonFinite::Error),
        "saturate" => Ok(NonFinite::Saturate),
        "patch" => Ok(NonFinite::Patch),
        _ => Err(Failure::usage(format!(
            "{text:?} is no policy for non-finite elements; they are error, saturate and patch"
        ))),
    }
}

/// A field without its encoding.
#[derive(Clone, Debug)]
pub(crate) struct PlainField {
    pub(crate) spec: FieldSpec,
    pub(crate) is_text: bool,
    /// Samples are single elements.
    pub(crate) is_scalar: bool,
}

impl PlainField {
    /// A float that quantizers for all fields apply to.
    fn is_float(&self) -> bool {
        !self.is_text
            && matches!(
                self.spec.dtype(),
                Some(DType::F16 | DType::BF16 | DType::F32 | DType::F64)
            )
    }
}

impl Encodings {
    /// Gives every field its encoding.
    pub(crate) fn apply(&self, fields: Vec<PlainField>) -> Result<Vec<FieldSpec>, Failure> {
        self.check_names(&fields)?;
        let floats = fields.iter().filter(|field| field.is_float());
        let (scalars, arrays): (Vec<_>, Vec<_>) = floats.partition(|field| field.is_scalar);
        if self.quantize.all.is_some() && scalars.is_empty() && arrays.is_empty() {
            return Err(Failure::usage(
                "--quantize without a field name is for float fields, and there are none; write --quantize NAME=SPEC",
            ));
        }
        // Labels and other scalars are spared as long as there is something else to quantize.
        let quantize_scalars = arrays.is_empty();
        fields
            .into_iter()
            .map(|field| self.apply_to(field, quantize_scalars))
            .collect()
    }

    fn apply_to(&self, field: PlainField, quantize_scalars: bool) -> Result<FieldSpec, Failure> {
        let name = field.spec.name().to_owned();
        let is_float = field.is_float();
        let for_all = is_float && (quantize_scalars || !field.is_scalar);
        let PlainField {
            mut spec, is_text, ..
        } = field;
        let policy = self.non_finite.get(&name).copied();
        // A preset of its own counts before a quantizer for all fields.
        let own_preset = self.request.of(&name).is_some();
        let quantize = self.quantize.of(&name).or_else(|| {
            self.quantize
                .all
                .as_ref()
                .filter(|_| for_all && !own_preset)
        });
        if let Some(quantize) = quantize {
            let mut quant = quantize.spec.clone();
            if let Some(policy) = policy
                && !quantize.has_policy
                && !quant.is_identity()
            {
                quant = quant.non_finite(policy);
            }
            spec = spec.quantize(quant);
        } else if let Some(Request::Preset(preset)) = self.request.get(&name) {
            spec = preset.apply(spec, policy.unwrap_or_default());
        }
        let mut is_split = false;
        let split = self.split.of(&name);
        if let Some(split) = split.or(self.split.all.as_ref().filter(|_| is_float)) {
            is_split = split.is_some();
            spec = spec.split(*split);
        }
        // Codecs of several planes are for all fields that have planes.
        let codecs = self.codec.of(&name);
        let for_all = self.codec.all.as_ref();
        if let Some(codecs) = codecs.or(for_all.filter(|all| is_split || all.len() == 1)) {
            spec = spec.codecs(codecs);
        }
        if let Some(own) = self.filter.of(&name) {
            spec = spec.filter_specs(own);
        } else if let Some(all) = &self.filter.all
            && !is_text
        {
            // As by default: bytes are not shuffled where an element is one.
            let bits = match spec.dtype() {
                // Not known yet, and no harm is done.
                Some(_) if spec.needs_calibration() && spec.quant().is_bounded() => 16,
                Some(dtype) => spec.quant_params()?.stored_bits(dtype),
                None => 8,
            };
            let fits = |filter: &&FilterSpec| bits > 8 || filter.id() != FilterId::BYTE_SHUFFLE;
            spec = spec.filter_specs(all.iter().filter(fits).copied().collect::<Vec<_>>());
        }
        Ok(spec)
    }

    /// The planner of a field, if its encoding shall be chosen by measuring. A quantizer of its own leaves nothing that
    /// the requests of all fields could be about.
    pub(crate) fn planner(&self, field: &str) -> Option<Planner> {
        let all = self.quantize.of(field).is_none();
        let request = self
            .request
            .of(field)
            .or(self.request.all.as_ref().filter(|_| all))?;
        let goal = self.goal.get(field).copied().unwrap_or_default();
        let planner = request.planner(goal)?;
        Some(match self.non_finite.get(field) {
            Some(policy) => planner.non_finite(*policy),
            None => planner,
        })
    }

    /// True if something is asked for, and all of it is to be chosen by measuring.
    pub(crate) fn is_only_planned(&self) -> bool {
        fn empty<T>(choice: &Choice<T>) -> bool {
            choice.values().next().is_none()
        }
        let mut requests = self.request.values().peekable();
        requests.peek().is_some()
            && requests.all(|request| request.is_planned())
            && empty(&self.quantize)
            && empty(&self.filter)
            && empty(&self.split)
            && empty(&self.codec)
            && empty(&self.non_finite)
    }

    /// True if something is to be chosen by measuring.
    pub(crate) fn is_planned(&self) -> bool {
        self.request.values().any(|request| request.is_planned())
    }

    fn check_names(&self, fields: &[PlainField]) -> Result<(), Failure> {
        fn names<T>(choice: &Choice<T>) -> impl Iterator<Item = &str> {
            choice.fields.iter().map(|(name, _)| name.as_str())
        }
        let known: Vec<&str> = fields.iter().map(|field| field.spec.name()).collect();
        let unknown = names(&self.request)
            .chain(names(&self.goal))
            .chain(names(&self.quantize))
            .chain(names(&self.filter))
            .chain(names(&self.split))
            .chain(names(&self.codec))
            .chain(names(&self.non_finite))
            .find(|name| !known.contains(name));
        match unknown {
            None => Ok(()),
            Some(name) => Err(Failure::usage(format!(
                "there is no field {name:?} to set an encoding of; the fields are {}",
                known.join(", ")
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields() -> Vec<PlainField> {
        let plain = |spec, is_text, is_scalar| PlainField {
            spec,
            is_text,
            is_scalar,
        };
        vec![
            plain(FieldSpec::new("latent", DType::F32, [4, 8]), false, false),
            plain(FieldSpec::new("mel", DType::F32, [80]), false, false),
            plain(FieldSpec::new("score", DType::F32, []), false, true),
            plain(FieldSpec::new("label", DType::I64, []), false, true),
            plain(FieldSpec::key("key"), true, false),
        ]
    }

    fn quantizers(args: &EncodingArgs) -> Result<Vec<String>, Failure> {
        let specs = args.parse()?.apply(fields())?;
        Ok(specs.iter().map(|spec| spec.quant().to_string()).collect())
    }

    fn texts(list: &[&str]) -> Vec<String> {
        list.iter().map(|&text| text.to_owned()).collect()
    }

    #[test]
    fn field_counts_before_all_fields_and_that_before_the_preset() {
        let args = EncodingArgs {
            preset: texts(&["int8", "mel=bf16"]),
            quantize: texts(&["int4:per-group=4"]),
            ..EncodingArgs::default()
        };
        let expected = [
            "int4:per-group=4",
            "bf16",
            "identity",
            "identity",
            "identity",
        ];
        assert_eq!(quantizers(&args).unwrap(), expected);
        let args = EncodingArgs {
            preset: texts(&["int8"]),
            quantize: texts(&["mel=int16", "score=int16:per-tensor"]),
            non_finite: texts(&["patch", "mel=saturate"]),
            ..EncodingArgs::default()
        };
        let expected = [
            "int8:patch",
            "int16:saturate",
            "int16:per-tensor:patch",
            "identity",
            "identity",
        ];
        assert_eq!(quantizers(&args).unwrap(), expected);
    }

    #[test]
    fn mistakes_are_usage_errors() {
        for (preset, quantize, filter) in [
            ("nope", "int8", "none"),
            ("int8", "int9", "none"),
            ("int8", "int8", "zip"),
            ("nobody=int8", "int8", "none"),
        ] {
            let args = EncodingArgs {
                preset: texts(&[preset]),
                quantize: texts(&[quantize]),
                filter: texts(&[filter]),
                ..EncodingArgs::default()
            };
            assert_eq!(quantizers(&args).unwrap_err().exit_code(), 2);
        }
        let twice = EncodingArgs {
            codec: texts(&["zstd", "lz4"]),
            ..EncodingArgs::default()
        };
        assert!(twice.parse().is_err());
    }

    #[test]
    fn planned_fields_are_those_that_nothing_of_their_own_settles() {
        let args = EncodingArgs {
            preset: texts(&["auto", "mel=int8"]),
            max_error: texts(&["score=0.1"]),
            quantize: texts(&["latent=int4"]),
            goal: texts(&["small"]),
            ..EncodingArgs::default()
        };
        let encodings = args.parse().unwrap();
        let planned = |name| encodings.planner(name).is_some();
        assert_eq!(
            ["latent", "mel", "score", "label"].map(planned),
            [false, false, true, true]
        );
        assert!(encodings.is_planned() && !encodings.is_only_planned());
        assert_eq!(quantizers(&args).unwrap()[..2], ["int4", "int8"]);
    }

    #[test]
    fn requests_that_contradict_each_other_are_usage_errors() {
        for (preset, max_error, target_bits, goal) in [
            (&["auto"][..], &["0.1"][..], &[][..], &[][..]),
            (&["x=f16"], &[], &["x=4"], &[]),
            (&[], &["0"], &[], &[]),
            (&[], &[], &["many"], &[]),
            (&["int8"], &[], &[], &["small"]),
            (&["auto"], &[], &[], &["cheap"]),
        ] {
            let args = EncodingArgs {
                preset: texts(preset),
                max_error: texts(max_error),
                target_bits: texts(target_bits),
                goal: texts(goal),
                ..EncodingArgs::default()
            };
            assert_eq!(args.parse().unwrap_err().exit_code(), 2, "{args:?}");
        }
    }
}
