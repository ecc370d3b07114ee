//! What is on the command line as inputs: files, folders, patterns, named arrays.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use tensorshard::import::{self, ImportOptions, InputField};

use super::failure::Failure;

/// The fields to convert, which all have the same number of samples.
#[derive(Debug)]
pub(crate) struct Fields {
    pub(crate) arrays: Vec<InputField>,
    pub(crate) texts: Vec<TextField>,
    pub(crate) num_samples: u64,
    /// The one array is named after its file, not by the user.
    pub(crate) named_after_file: bool,
}

/// A text for every sample.
#[derive(Debug)]
pub(crate) struct TextField {
    pub(crate) name: String,
    pub(crate) is_key: bool,
    pub(crate) values: Vec<String>,
}

/// The name of the field that holds the stems of per-sample files.
const KEY_FIELD: &str = "key";

/// Opens everything.
pub(crate) fn open(
    inputs: &[PathBuf],
    named: &[(String, PathBuf)],
    options: &ImportOptions,
    quiet: bool,
) -> Result<Fields, Failure> {
    let mut arrays = Vec::new();
    let mut texts = Vec::new();
    let mut named_after_file = false;
    if !inputs.is_empty() {
        let input = match expand(inputs)? {
            Expanded::One(path) => {
                named_after_file = named.is_empty() && has_extension(&path, "npy");
                import::open(&path, options)?
            }
            Expanded::Samples { paths, named } => {
                if named && !quiet {
                    let note = format!(
                        "note: {} .npy files are one sample each; aligned arrays are fields: --field NAME=PATH",
                        paths.len()
                    );
                    // A note is not worth an error.
                    writeln!(io::stderr(), "{note}").ok();
                }
                import::open_files(&paths, options)?
            }
        };
        arrays.extend(input.fields);
        texts.extend(input.keys.map(|values| TextField {
            name: KEY_FIELD.to_owned(),
            is_key: true,
            values,
        }));
    }
    for (name, path) in named {
        arrays.push(open_named(name, path, options)?);
    }
    let names = arrays
        .iter()
        .map(|field| field.name.as_str())
        .chain(texts.iter().map(|text| text.name.as_str()));
    let mut sorted: Vec<&str> = names.collect();
    sorted.sort_unstable();
    if let Some(pair) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(Failure::usage(format!(
            "there are two fields named {:?}; name them with --field NAME=PATH",
            pair[0]
        )));
    }
    let Some(first) = arrays.first() else {
        return Err(Failure::usage(
            "nothing to convert: name an input, or --field NAME=PATH",
        ));
    };
    let num_samples = first.source.num_samples();
    for field in &arrays {
        let other = field.source.num_samples();
        if other != num_samples {
            return Err(Failure::usage(format!(
                "fields must have the same number of samples (their first axis), but {:?} has {num_samples} and {:?} \
                 has {other}",
                first.name, field.name
            )));
        }
    }
    Ok(Fields {
        arrays,
        texts,
        num_samples,
        named_after_file,
    })
}

/// Reads `name=path`.
pub(crate) fn parse_named(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((name, path)) if !name.is_empty() && !path.is_empty() => {
            if name
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'))
            {
                Ok((name.to_owned(), path.into()))
            } else {
                Err("a field name has letters, digits, `_`, `.` and `-` only".to_owned())
            }
        }
        _ => Err("write NAME=PATH".to_owned()),
    }
}

fn open_named(name: &str, path: &Path, options: &ImportOptions) -> Result<InputField, Failure> {
    if !has_extension(path, "npy") {
        return Err(Failure::usage(format!(
            "--field {name}={} must be one .npy file; give an .npz or a folder as an input instead",
            path.display()
        )));
    }
    if path.is_dir() {
        return Err(Failure::usage(format!(
            "--field {name}={} is a folder, not a file",
            path.display()
        )));
    }
    let input = import::open(path, options)?;
    let mut fields = input.fields;
    match (fields.pop(), fields.is_empty()) {
        (Some(field), true) => Ok(InputField {
            name: name.to_owned(),
            source: field.source,
        }),
        _ => Err(Failure::usage(format!(
            "{} does not hold exactly one array",
            path.display()
        ))),
    }
}

fn has_extension(path: &Path, extension: &str) -> bool {
    path.extension()
        .is_some_and(|e| e.eq_ignore_ascii_case(extension))
}

enum Expanded {
    /// A file or a folder as it is.
    One(PathBuf),
    /// Files that are one sample each.
    Samples {
        paths: Vec<PathBuf>,
        /// Each was named on its own: they could also be meant as fields.
        named: bool,
    },
}

/// Expands patterns, and decides what several paths mean.
fn expand(inputs: &[PathBuf]) -> Result<Expanded, Failure> {
    let mut paths = Vec::new();
    let mut patterns = false;
    for input in inputs {
        let pattern = input
            .to_str()
            .filter(|text| text.contains(['*', '?', '[']) && !input.exists());
        let Some(pattern) = pattern else {
            paths.push(input.clone());
            continue;
        };
        patterns = true;
        let entries = glob::glob(pattern).map_err(|e| {
            Failure::usage(format!("{pattern:?} is neither a file nor a pattern: {e}"))
        })?;
        let before = paths.len();
        for entry in entries {
            let path = entry.map_err(|e| {
                let path = e.path().to_owned();
                Failure::io("list", path, e.into())
            })?;
            if !path.is_dir() {
                paths.push(path);
            }
        }
        if paths.len() == before {
            return Err(Failure::usage(format!("no file matches {pattern:?}")));
        }
    }
    match (paths.as_slice(), patterns) {
        ([one], false) => Ok(Expanded::One(one.clone())),
        _ => {
            // Several arrays could also be meant as fields; that is what --field says.
            if let Some(other) = paths.iter().find(|path| !has_extension(path, "npy")) {
                return Err(Failure::usage(format!(
                    "several inputs are .npy files of one sample each, but {} is none; convert it alone, or name \
                     aligned arrays with --field NAME=PATH",
                    other.display()
                )));
            }
            let named = !patterns;
            Ok(Expanded::Samples { paths, named })
        }
    }
}
