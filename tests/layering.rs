//! The layers of the library: which module may name which. A module is a file or folder of `src`.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::fs;
use std::path::{Path, PathBuf};

/// The modules that every other may use.
const BASE: &[&str] = &["error", "dtype", "tensor", "sync", "fault"];

/// Below: module, and the paths it may use besides itself and [`BASE`]. An arrow only points down.
const LAYERS: &[(&str, &[&str])] = &[
    // 0: values, errors and arithmetic. Kernels do not know tensors.
    ("error", &[]),
    ("dtype", &[]),
    ("tensor", &[]),
    ("kernel", &[]),
    // Threads, locks and queues, so that they can be exchanged for those of a model checker.
    ("sync", &[]),
    // Failures that unit tests ask for.
    ("fault", &[]),
    // 1: one job each. They never meet each other.
    ("codec", &["kernel"]),
    ("filter", &["kernel"]),
    ("split", &["kernel"]),
    ("quant", &["kernel"]),
    ("storage", &["kernel"]),
    ("checksum", &["kernel"]),
    ("pool", &["kernel"]),
    // 2: bytes and their meaning.
    ("format", &["codec", "filter", "split", "quant", "checksum"]),
    // 3: one shard.
    (
        "shard",
        &[
            "format", "codec", "filter", "split", "quant", "checksum", "storage", "kernel",
        ],
    ),
    // 4: many shards.
    (
        "dataset",
        &[
            "shard",
            "format",
            "storage",
            "pool",
            "quant",
            "codec",
            "filter",
            "split",
            "kernel::slots",
            "kernel::lut",
        ],
    ),
    // 5: order and prefetching. What codecs and quantizers do is decided below.
    (
        "loader",
        &[
            "dataset",
            "shard",
            "storage::IoMode",
            "pool",
            "kernel::slots",
            "kernel::stream",
        ],
    ),
    // Beside them: other people's files.
    ("import", &["storage"]),
    // Doors for fuzz targets, in their builds only.
    ("fuzzing", &["format", "quant"]),
    // The command: it says `tensorshard::`, and what follows is public (see below).
    ("cli", &[]),
];

/// Functions of their arguments: they know no files, threads, clocks or environment.
const PURE: &[&str] = &[
    "format/",
    "codec/",
    "filter/",
    "split/",
    "quant/",
    "kernel/",
    "checksum.rs",
    "loader/order/",
    "loader/share.rs",
    "loader/lanes.rs",
    "loader/plan.rs",
    "loader/keep.rs",
];

/// What of `std` a pure file does without.
const IMPURE: &[&str] = &["fs", "io", "net", "thread", "process", "time", "env"];

/// `TENSORSHARD_SIMD` is asked for once.
const PURE_EXCEPTIONS: &[(&str, &str)] = &[("kernel/simd.rs", "env")];

/// Where `unsafe` code may be.
const UNSAFE: &[&str] = &[
    "storage/bus_error.rs",
    "storage/holes.rs",
    "storage/mmap.rs",
    "storage/read_ahead.rs",
    "kernel/",
];

/// The path of a file within `src`, and its code without comments, literals and tests.
struct Source {
    path: String,
    code: String,
}

impl Source {
    /// The file or folder of `src` it belongs to.
    fn module(&self) -> &str {
        self.path.split(['/', '.']).next().unwrap()
    }

    /// True if its `super` is the crate root.
    fn is_module_root(&self) -> bool {
        !self.path.contains('/') || self.path == format!("{}/mod.rs", self.module())
    }
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut sources = Vec::new();
    let mut folders: Vec<PathBuf> = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let relative = path.strip_prefix(&root).unwrap().to_str().unwrap();
                sources.push(Source {
                    path: relative.replace('\\', "/"),
                    code: code_of(&fs::read_to_string(&path).unwrap()),
                });
            }
        }
    }
    sources.sort_by(|a, b| a.path.cmp(&b.path));
    sources
}

/// The sources of the library: no binaries, no `tests.rs`, no files in `tests/`.
fn library() -> Vec<Source> {
    let mut sources = sources();
    sources.retain(|s| {
        !s.path.starts_with("bin/") && !s.path.ends_with("tests.rs") && !s.path.contains("/tests/")
    });
    sources
}

/// `text` without comments, literals and unit tests.
fn code_of(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut code = Vec::new();
    let mut i = 0;
    while let Some(&byte) = bytes.get(i) {
        let rest = &bytes[i..];
        let skip = if rest.starts_with(b"//") {
            rest.iter().position(|&b| b == b'\n').unwrap_or(rest.len())
        } else if rest.starts_with(b"/*") {
            block_comment(rest)
        } else if byte == b'"' {
            string(rest)
        } else if byte == b'r' && !code.last().is_some_and(u8::is_ascii_alphanumeric) {
            raw_string(rest)
        } else if byte == b'\'' {
            char_literal(rest)
        } else {
            0
        };
        if skip == 0 {
            code.push(byte);
            i += 1;
        } else {
            code.push(b' ');
            i += skip;
        }
    }
    let mut code = String::from_utf8(code).unwrap();
    while let Some((start, end)) = unit_tests(&code) {
        code.replace_range(start..end, "");
    }
    code
}

/// Where a `#[cfg(test)] mod tests { .. }` is; unit tests may use everything.
fn unit_tests(code: &str) -> Option<(usize, usize)> {
    for (start, attribute) in code.match_indices("#[cfg(test)]") {
        let body = start + attribute.len();
        let item = &code[body..];
        let is_module = item.trim_start().starts_with("mod ");
        if !is_module || item.find(['{', ';']) != item.find('{') {
            continue;
        }
        let mut depth = 0;
        for (at, c) in item.char_indices() {
            match c {
                '{' => depth += 1,
                '}' if depth == 1 => return Some((start, body + at + 1)),
                '}' => depth -= 1,
                _ => {}
            }
        }
    }
    None
}

fn block_comment(text: &[u8]) -> usize {
    let (mut depth, mut i) = (0, 0);
    while i < text.len() {
        let pair = text.get(i..i + 2).unwrap_or_default();
        match pair {
            b"/*" => depth += 1,
            b"*/" => depth -= 1,
            _ => {
                i += 1;
                continue;
            }
        }
        i += 2;
        if depth == 0 {
            break;
        }
    }
    i
}

fn string(text: &[u8]) -> usize {
    let mut i = 1;
    while i < text.len() && text[i] != b'"' {
        i += if text[i] == b'\\' { 2 } else { 1 };
    }
    i + 1
}

/// 0 if this is no raw string.
fn raw_string(text: &[u8]) -> usize {
    let hashes = text[1..].iter().take_while(|&&b| b == b'#').count();
    if text.get(1 + hashes) != Some(&b'"') {
        return 0;
    }
    let end = [b"\"".as_slice(), &vec![b'#'; hashes]].concat();
    let body = &text[2 + hashes..];
    let len = body.windows(end.len()).position(|w| w == end).unwrap();
    2 + hashes + len + end.len()
}

/// 0 if this is a lifetime.
fn char_literal(text: &[u8]) -> usize {
    if text.get(1) == Some(&b'\\') {
        return 3 + text[3..].iter().position(|&b| b == b'\'').unwrap() + 1;
    }
    let width = match text.get(1) {
        Some(0xF0..) => 4,
        Some(0xE0..) => 3,
        Some(0xC0..) => 2,
        _ => 1,
    };
    if text.get(1 + width) == Some(&b'\'') {
        width + 2
    } else {
        0
    }
}

/// Every occurrence of `word` that is no part of a longer name.
fn words<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    let in_name = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(word)
        .filter(move |(at, _)| {
            !code[..*at].ends_with(in_name) && !code[at + word.len()..].starts_with(in_name)
        })
        .map(|(at, _)| at)
}

/// All paths below `crate::` in `code`, groups written out.
fn crate_paths(code: &str) -> Vec<String> {
    paths_below("crate", code)
}

/// All paths below `root::` in `code`, groups written out; `as` if `root` itself is given another name.
fn paths_below(root: &str, code: &str) -> Vec<String> {
    let compact: String = code.split_whitespace().collect::<Vec<_>>().join(" ");
    let compact = compact.replace(":: ", "::").replace(" ::", "::");
    let mut paths = Vec::new();
    for at in words(&compact, root) {
        let rest = &compact[at + root.len()..];
        if let Some(tree) = rest.strip_prefix("::") {
            expand("", tree, &mut paths);
        } else if rest.starts_with(" as ") {
            paths.push("as".to_owned());
        }
    }
    paths
}

/// Appends the paths of the use tree that `text` starts with; returns what follows it.
fn expand<'a>(prefix: &str, text: &'a str, paths: &mut Vec<String>) -> &'a str {
    let mut text = text.trim_start();
    let mut path = prefix.to_owned();
    loop {
        if let Some(mut group) = text.strip_prefix('{') {
            loop {
                group = group.trim_start_matches([' ', ',']);
                if let Some(rest) = group.strip_prefix('}') {
                    return rest;
                }
                group = expand(&path, group, paths);
            }
        }
        let name = |c: char| c.is_alphanumeric() || c == '_' || c == '*';
        let len = text.find(|c| !name(c)).unwrap_or(text.len());
        assert!(len > 0, "not a use tree: {:?}", text.get(..40));
        path.push_str(&text[..len]);
        text = &text[len..];
        match text.strip_prefix("::") {
            // A turbofish or the end of the path.
            Some(rest) if !rest.starts_with('<') => {
                path.push_str("::");
                text = rest;
            }
            _ => break,
        }
    }
    paths.push(path);
    // `as name`, up to the next entry of the group.
    &text[text.find([',', '}', ';']).unwrap_or(text.len())..]
}

/// True if `path` is `allowed` or below it.
fn is_within(path: &str, allowed: &str) -> bool {
    path.strip_prefix(allowed)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

#[test]
fn arrows_only_point_down() {
    let mut wrong = Vec::new();
    for source in library() {
        if source.path == "lib.rs" {
            continue;
        }
        let module = source.module();
        let Some((_, allowed)) = LAYERS.iter().find(|row| row.0 == module) else {
            wrong.push(format!("src/{}: {module} is in no layer", source.path));
            continue;
        };
        for path in crate_paths(&source.code) {
            // Kernels work on slices.
            let base = BASE
                .iter()
                .filter(|b| module != "kernel" || **b != "tensor");
            let fine = is_within(&path, module)
                || base.into_iter().any(|base| is_within(&path, base))
                || allowed.iter().any(|allowed| is_within(&path, allowed));
            if !fine {
                wrong.push(format!("src/{}: crate::{path}", source.path));
            }
        }
        // These would be ways around the table.
        if source.code.contains("super::super") {
            wrong.push(format!("src/{}: super::super", source.path));
        }
        if source.is_module_root() && source.code.contains("super::") {
            wrong.push(format!(
                "src/{}: super:: is the crate root here",
                source.path
            ));
        }
    }
    assert!(
        wrong.is_empty(),
        "not allowed by LAYERS:\n{}",
        wrong.join("\n")
    );
}

/// The command is a user of the crate like any other, although it is a module of it.
#[test]
fn the_command_uses_public_names() {
    let mut wrong = Vec::new();
    for source in library().iter().filter(|s| s.module() == "cli") {
        for path in paths_below("tensorshard", &source.code) {
            let name = path.split("::").next().unwrap();
            let private = LAYERS.iter().any(|(module, _)| *module == name) && name != "import";
            if private || name == "as" {
                wrong.push(format!("src/{}: tensorshard::{path}", source.path));
            }
        }
    }
    assert!(wrong.is_empty(), "not public:\n{}", wrong.join("\n"));
}

#[test]
fn pure_modules_are_pure() {
    let sources = library();
    let mut wrong = Vec::new();
    for pure in PURE {
        let files: Vec<_> = sources
            .iter()
            .filter(|s| s.path.starts_with(pure))
            .collect();
        assert!(!files.is_empty(), "no src/{pure}");
        for source in files {
            for path in paths_below("std", &source.code) {
                let name = path.split("::").next().unwrap();
                // Another name for all of std, or a glob, would hide the rest.
                let fine = !IMPURE.contains(&name) && !["as", "self", "*"].contains(&name);
                if !fine && !PURE_EXCEPTIONS.contains(&(source.path.as_str(), name)) {
                    wrong.push(format!("src/{}: std::{path}", source.path));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "not pure:\n{}", wrong.join("\n"));
}

#[test]
fn every_layer_is_there() {
    let sources = library();
    for (module, allowed) in LAYERS {
        let paths = [*module].into_iter().chain(allowed.iter().copied());
        for path in paths {
            let name = path.split("::").next().unwrap();
            assert!(sources.iter().any(|s| s.module() == name), "no src/{name}");
        }
    }
}

#[test]
fn binaries_are_crates_of_their_own() {
    for source in sources() {
        let of_library =
            source.code.contains("#[path") || words(&source.code, "include").count() > 0;
        assert!(
            !of_library,
            "src/{}: includes another crate's file",
            source.path
        );
    }
}

#[test]
fn unsafe_code_is_where_it_may_be() {
    let wrong: Vec<_> = sources()
        .into_iter()
        .filter(|s| !UNSAFE.iter().any(|allowed| s.path.starts_with(allowed)))
        .filter(|s| words(&s.code, "unsafe").count() + words(&s.code, "unsafe_code").count() > 0)
        .map(|s| s.path)
        .collect();
    assert!(wrong.is_empty(), "unsafe code in {wrong:?}");
}

#[test]
fn trees_are_written_out() {
    let code = "use crate::{a::{self, b::C as D}, e};\nfn f() { crate :: g::h::<u8>(); pub(crate) const X: u8 = 0; }";
    let paths = crate_paths(&code_of(code));
    assert_eq!(paths, ["a::self", "a::b::C", "e", "g::h"]);
    let code = "use crate as root; $crate::a::b!(); use std::{fs, io::{self, Read}}; mystd::net; std::thread::spawn";
    assert_eq!(crate_paths(&code_of(code)), ["as", "a::b"]);
    let paths = paths_below("std", &code_of(code));
    assert_eq!(paths, ["fs", "io::self", "io::Read", "thread::spawn"]);
    let code = "// crate::a\n/* crate::b */ \"crate::c \\\" \" r#\"crate::d\"# '\"' &'a crate::e '\\'' \n#[cfg(test)]\nmod tests { fn f() { crate::f } }\ncrate::g";
    assert_eq!(crate_paths(&code_of(code)), ["e", "g"]);
}
