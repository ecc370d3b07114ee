//! The `tensorshard` command, run as a program.

use std::error::Error;
use std::fs;
#[cfg(target_os = "linux")]
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;
use tensorshard::import::emit_header;
use tensorshard::to_le_bytes;

type TestResult = Result<(), Box<dyn Error>>;

/// A folder to work in, and the command.
struct Cli {
    dir: TempDir,
}

impl Cli {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            dir: tempfile::tempdir()?,
        })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tensorshard"));
        command
            .arg("--quiet")
            .args(args)
            .current_dir(self.dir.path());
        command
    }

    fn run(&self, args: &[&str]) -> std::io::Result<Output> {
        self.command(args).output()
    }

    /// Runs it, demands success and a silent stderr, returns stdout.
    fn ok(&self, args: &[&str]) -> Result<String, Box<dyn Error>> {
        let output = self.run(args)?;
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{args:?}: {stderr}");
        assert_eq!(stderr, "", "{args:?}");
        Ok(String::from_utf8(output.stdout)?)
    }

    fn json(&self, args: &[&str]) -> Result<Value, Box<dyn Error>> {
        Ok(serde_json::from_str(&self.ok(args)?)?)
    }

    /// Runs it, demands this exit code and one line on stderr, returns the line.
    fn fails(&self, code: i32, args: &[&str]) -> Result<String, Box<dyn Error>> {
        let output = self.run(args)?;
        let stderr = String::from_utf8(output.stderr)?;
        assert_eq!(output.status.code(), Some(code), "{args:?}: {stderr}");
        assert!(stderr.starts_with("error: "), "{args:?}: {stderr}");
        assert_eq!(stderr.lines().count(), 1, "{args:?}: {stderr}");
        assert!(!stderr.contains("panicked"), "{stderr}");
        Ok(stderr)
    }

    /// Names of everything in the folder, sorted.
    fn names(&self, folder: &str) -> std::io::Result<Vec<String>> {
        let mut names: Vec<String> = fs::read_dir(self.path(folder))?
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect::<std::io::Result<_>>()?;
        names.sort();
        Ok(names)
    }

    fn write(&self, name: &str, array: &[u8]) -> std::io::Result<()> {
        let path = self.path(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(path, array)
    }

    fn read(&self, name: &str) -> std::io::Result<Vec<u8>> {
        fs::read(self.path(name))
    }
}

/// The bytes of a `.npy` file.
fn npy(descr: &str, shape: &[usize], data: &[u8]) -> Vec<u8> {
    let mut out = emit_header(descr, shape);
    out.extend_from_slice(data);
    out
}

/// A wave with some noise.
fn wave(n: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
    let mut noise = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        f32::from(u16::try_from(state >> 16).unwrap_or(0)) / 65536.0
    };
    (0..n)
        .map(|i| (i as f32 * 0.03).sin() + 0.1 * noise())
        .collect()
}

fn f32_npy(shape: &[usize], seed: u32) -> Vec<u8> {
    npy(
        "<f4",
        shape,
        &to_le_bytes(&wave(shape.iter().product(), seed)),
    )
}

fn i64_npy(n: usize) -> Vec<u8> {
    let labels: Vec<i64> = (0..n).map(|i| i64::try_from(i % 10).unwrap_or(0)).collect();
    npy("<i8", &[n], &to_le_bytes(&labels))
}

/// The values of a `.npy` file of f32.
fn f32_values(file: &[u8]) -> Vec<f32> {
    let start = 10 + usize::from(u16::from_le_bytes([file[8], file[9]]));
    let words = file[start..].chunks_exact(4);
    words
        .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
        .collect()
}

fn field<'v>(value: &'v Value, name: &str) -> &'v Value {
    value["fields"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|field| field["name"] == name)
        .unwrap_or(&Value::Null)
}

#[test]
fn array_goes_in_and_comes_out_bit_for_bit() -> TestResult {
    let cli = Cli::new()?;
    let array = f32_npy(&[300, 4, 8, 8], 1);
    cli.write("latents.npy", &array)?;
    let table = cli.ok(&["convert", "latents.npy", "out"])?;
    assert!(
        table.contains("identity + byte_shuffle + snappy"),
        "{table}"
    );
    assert!(table.contains("lossless"), "{table}");
    cli.ok(&["export", "out", "back.npy"])?;
    assert_eq!(cli.read("back.npy")?, array);
    // A range takes another way through the reader.
    cli.ok(&["export", "out", "some.npy", "--range", "10..20"])?;
    let (all, some) = (f32_values(&array), f32_values(&cli.read("some.npy")?));
    assert_eq!(some, all[10 * 256..20 * 256]);
    cli.ok(&[
        "export", "out", "wide.npy", "--range", "10..20", "--dtype", "f64",
    ])?;
    let wide: Vec<f64> = some.iter().map(|&x| f64::from(x)).collect();
    assert_eq!(
        cli.read("wide.npy")?,
        npy("<f8", &[10, 4, 8, 8], &to_le_bytes(&wide))
    );
    Ok(())
}

#[test]
fn every_preset_reports_its_true_error() -> TestResult {
    let cli = Cli::new()?;
    let array = f32_npy(&[40, 4, 64], 2);
    cli.write("x.npy", &array)?;
    let source = f32_values(&array);
    for preset in [
        "lossless",
        "f16",
        "bf16",
        "int8",
        "int8-per-channel",
        "int4-group32",
        "fp8",
        "article",
    ] {
        let summary = cli.json(&["convert", "x.npy", preset, "--preset", preset, "--json"])?;
        let back = format!("{preset}.npy");
        cli.ok(&["export", preset, &back])?;
        let worst = source
            .iter()
            .zip(f32_values(&cli.read(&back)?))
            .map(|(&a, b)| (f64::from(a) - f64::from(b)).abs())
            .fold(0.0, f64::max);
        let x = field(&summary, "x");
        assert_eq!(x["max_abs_error"].as_f64(), Some(worst), "{preset}");
        assert_eq!(worst == 0.0, preset == "lossless", "{preset}");
        assert_eq!(x["lossy"], preset != "lossless");
        // What was recorded is what was printed.
        let inspected = cli.json(&["inspect", preset, "--json"])?;
        assert_eq!(field(&inspected, "x")["max_abs_error"], x["max_abs_error"]);
        assert_eq!(field(&inspected, "x")["snr_db"], x["snr_db"]);
        assert_eq!(inspected["stored_bytes"], summary["stored_bytes"]);
        cli.ok(&["verify", preset])?;
    }
    Ok(())
}

#[test]
fn fields_have_encodings_of_their_own() -> TestResult {
    let cli = Cli::new()?;
    cli.write("a.npy", &f32_npy(&[50, 8, 8], 3))?;
    cli.write("b.npy", &f32_npy(&[50, 64], 4))?;
    cli.write("labels.npy", &i64_npy(50))?;
    let input = [
        "--field",
        "a=a.npy",
        "--field",
        "b=b.npy",
        "--field",
        "label=labels.npy",
    ];
    let options = [
        "convert",
        "out",
        "--preset",
        "int8",
        "--quantize",
        "b=int4:per-group=16:asym",
        "--codec",
        "zstd:3",
        "--codec",
        "label=deflate",
        "--filter",
        "label=delta,byte_shuffle",
        "--metadata",
        "source={\"model\": \"vae\"}",
        "--chunk-size",
        "4KiB",
        "--max-shard-size",
        "8KiB",
    ];
    cli.ok(&[&options[..], &input[..]].concat())?;
    let value = cli.json(&["inspect", "out", "--json"])?;
    let encoding = |name: &str| field(&value, name)["encoding"].clone();
    assert_eq!(encoding("a"), "int8 + zstd:3");
    assert_eq!(encoding("b"), "int4:asym:per-group=16 + zstd:3");
    let label = encoding("label");
    let label = label.as_str().unwrap_or_default();
    assert!(
        label.starts_with("identity + delta + byte_shuffle + deflate"),
        "{label}"
    );
    assert_eq!(value["metadata"]["source"]["model"], "vae");
    assert!(value["num_shards"].as_u64() > Some(1));
    assert!(value["num_chunks"].as_u64() > value["num_shards"].as_u64());
    assert_eq!(value["unfinished"], false);
    let text = cli.ok(&["inspect", "out"])?;
    assert!(text.contains("i64 []") && text.contains("vae"), "{text}");
    // The labels, one member of an archive, and back from it.
    cli.ok(&["export", "out", "all.npz"])?;
    cli.ok(&["convert", "all.npz", "again"])?;
    cli.ok(&["export", "again", "labels2.npy", "--fields", "label"])?;
    assert_eq!(cli.read("labels2.npy")?, cli.read("labels.npy")?);

    // A quantizer for all fields is for floats; a field's own preset counts before it.
    let options = [
        "convert",
        "out2",
        "--quantize",
        "int16",
        "--preset",
        "b=bf16",
    ];
    cli.ok(&[&options[..], &input[..]].concat())?;
    let value = cli.json(&["inspect", "out2", "--json"])?;
    let quantizer = |name: &str| field(&value, name)["quantizer"].clone();
    assert_eq!(quantizer("a"), "int16");
    assert_eq!(quantizer("b"), "bf16");
    assert_eq!(quantizer("label"), "identity");
    Ok(())
}

#[test]
fn static_scales_are_calibrated_in_a_first_pass() -> TestResult {
    let cli = Cli::new()?;
    cli.write("x.npy", &f32_npy(&[64, 3, 100], 5))?;
    for spec in [
        "int8:per-tensor",
        "uint8:asym:per-channel=0",
        "int16:per-channel=1",
    ] {
        let summary = cli.json(&[
            "convert",
            "x.npy",
            "out",
            "--quantize",
            spec,
            "--overwrite",
            "--json",
        ])?;
        let error = field(&summary, "x")["max_abs_error"]
            .as_f64()
            .unwrap_or(1.0);
        assert!(error > 0.0 && error < 0.006, "{spec}: {error}");
        // Appended samples take the scales that are there.
        cli.ok(&["convert", "x.npy", "out", "--append"])?;
        cli.ok(&["convert", "x.npy", "out", "--append", "--quantize", spec])?;
        let value = cli.json(&["verify", "out", "--json"])?;
        assert_eq!(value["intact_samples"], 3 * 64);
        let message = cli.fails(
            2,
            &["convert", "x.npy", "out", "--append", "--quantize", "f16"],
        )?;
        assert!(message.contains("fields differ"), "{message}");
    }
    Ok(())
}

#[test]
fn non_finite_elements_follow_the_policy() -> TestResult {
    let cli = Cli::new()?;
    let mut values = wave(640, 6);
    values[100] = f32::NAN;
    values[200] = f32::INFINITY;
    let array = npy("<f4", &[10, 64], &to_le_bytes(&values));
    cli.write("x.npy", &array)?;
    let message = cli.fails(2, &["convert", "x.npy", "out", "--preset", "int8"])?;
    assert!(
        message.contains("sample 1") && message.contains("patch"),
        "{message}"
    );
    assert!(!cli.path("out").exists());
    cli.ok(&[
        "convert",
        "x.npy",
        "out",
        "--preset",
        "int8",
        "--non-finite",
        "patch",
    ])?;
    cli.ok(&["export", "out", "back.npy"])?;
    let back = f32_values(&cli.read("back.npy")?);
    assert!(back[100].is_nan() && back[200] == f32::INFINITY);
    Ok(())
}

#[test]
fn folder_of_small_files_keeps_keys_and_order() -> TestResult {
    let cli = Cli::new()?;
    for i in 0..500u32 {
        cli.write(&format!("mels/utt-{i:03}.npy"), &f32_npy(&[20], i))?;
    }
    cli.write("mels/readme.txt", b"not a sample")?;
    cli.ok(&["convert", "mels", "out"])?;
    let value = cli.json(&["inspect", "out", "--json"])?;
    assert_eq!(value["num_samples"], 500);
    let line = cli.json(&[
        "cat", "out", "--range", "123..124", "--json", "--limit", "2",
    ])?;
    assert_eq!(line["sample"], 123);
    assert_eq!(line["fields"]["key"], "utt-123");
    assert_eq!(line["fields"]["data"]["shape"][0], 20);
    assert_eq!(
        line["fields"]["data"]["values"].as_array().map(Vec::len),
        Some(2)
    );
    // Back to a folder: the same files.
    cli.ok(&["export", "out", "back"])?;
    assert_eq!(cli.names("back")?.len(), 500);
    for i in [0, 123, 499] {
        let name = format!("utt-{i:03}.npy");
        assert_eq!(
            cli.read(&format!("back/{name}"))?,
            cli.read(&format!("mels/{name}"))?
        );
    }
    // A quoted pattern, or the names one by one, are the same samples.
    cli.ok(&["convert", "mels/utt-0*.npy", "some"])?;
    assert_eq!(
        cli.json(&["inspect", "some", "--json"])?["num_samples"],
        100
    );
    cli.ok(&["convert", "mels/utt-001.npy", "mels/utt-000.npy", "two"])?;
    let text = cli.ok(&["cat", "two"])?;
    assert!(text.find("utt-001") < text.find("utt-000"), "{text}");
    assert!(text.contains("f32 [20]"), "{text}");
    Ok(())
}

#[test]
fn ragged_samples_and_text_are_exported_to_folders() -> TestResult {
    let cli = Cli::new()?;
    for i in 0..30usize {
        let seed = u32::try_from(i).unwrap_or(0);
        cli.write(&format!("mels/{i:02}.npy"), &f32_npy(&[i, 4], seed))?;
    }
    cli.ok(&["convert", "mels", "out", "--quantize", "bf16"])?;
    let value = cli.json(&["inspect", "out", "--json"])?;
    assert_eq!(field(&value, "data")["shape"], serde_json::json!([null, 4]));
    let message = cli.fails(2, &["export", "out", "all.npy"])?;
    assert!(message.contains("folder"), "{message}");
    cli.fails(2, &["export", "out", "all.npz"])?;
    cli.ok(&["export", "out", "both", "--fields", "key,data"])?;
    assert_eq!(cli.read("both/key/07.txt")?, b"07");
    assert_eq!(f32_values(&cli.read("both/data/07.npy")?).len(), 28);
    cli.ok(&["export", "out", "some", "--range", "7..9"])?;
    assert_eq!(cli.names("some")?, ["07.npy", "08.npy"]);
    assert_eq!(cli.read("some/07.npy")?, cli.read("both/data/07.npy")?);
    Ok(())
}

#[test]
fn existing_datasets_are_kept_replaced_or_appended_to() -> TestResult {
    let cli = Cli::new()?;
    cli.write("a.npy", &f32_npy(&[10, 5], 1))?;
    cli.write("b.npy", &f32_npy(&[20, 5], 2))?;
    cli.write("c.npy", &f32_npy(&[20, 6], 2))?;
    let num_samples = || -> Result<Value, Box<dyn Error>> {
        Ok(cli.json(&["verify", "out", "--json"])?["num_samples"].clone())
    };
    cli.ok(&["convert", "a.npy", "out"])?;
    let message = cli.fails(2, &["convert", "b.npy", "out"])?;
    assert!(message.contains("overwrite"), "{message}");
    assert_eq!(num_samples()?, 10);
    // A lone array takes the name of the only field.
    cli.ok(&["convert", "b.npy", "out", "--append"])?;
    assert_eq!(num_samples()?, 30);
    cli.fails(2, &["convert", "c.npy", "out", "--append"])?;
    cli.fails(2, &["convert", "--field", "z=a.npy", "out", "--append"])?;
    cli.fails(2, &["convert", "a.npy", "out", "--append", "--overwrite"])?;
    cli.fails(3, &["convert", "a.npy", "nothing", "--append"])?;
    assert_eq!(num_samples()?, 30);
    // A failure leaves the old dataset as it was.
    cli.write("bad.npy", &f32_npy(&[10, 5], 1)[..200])?;
    cli.fails(1, &["convert", "bad.npy", "out", "--overwrite"])?;
    assert_eq!(num_samples()?, 30);
    cli.ok(&["convert", "b.npy", "out", "--overwrite"])?;
    assert_eq!(num_samples()?, 20);
    assert_eq!(cli.names("out")?.len(), 2, "one shard and the manifest");
    Ok(())
}

#[test]
fn seeded_shard_ids_make_equal_files() -> TestResult {
    let cli = Cli::new()?;
    cli.write("a.npy", &f32_npy(&[1000, 50], 1))?;
    for (out, workers) in [("one", "1"), ("two", "3")] {
        cli.ok(&[
            "convert",
            "a.npy",
            out,
            "--shard-ids-from",
            "7",
            "--workers",
            workers,
            "--chunk-size",
            "10KiB",
            "--max-shard-size",
            "50KiB",
        ])?;
    }
    let names = cli.names("one")?;
    assert_eq!(names, cli.names("two")?);
    assert!(names.len() > 3);
    for name in names {
        assert_eq!(
            cli.read(&format!("one/{name}"))?,
            cli.read(&format!("two/{name}"))?
        );
    }
    Ok(())
}

#[test]
fn four_processes_write_parts_of_one_dataset() -> TestResult {
    let cli = Cli::new()?;
    let mut whole = Vec::new();
    let mut children = Vec::new();
    for part in 0..4u32 {
        let array = f32_npy(&[100 + 10 * usize::try_from(part)?, 30], part);
        whole.extend(f32_values(&array));
        cli.write(&format!("in{part}.npy"), &array)?;
        let args = [
            "convert".to_owned(),
            "--field".to_owned(),
            format!("x=in{part}.npy"),
            format!("part{part}"),
        ];
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let mut command = cli.command(&args);
        children.push(
            command
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()?,
        );
    }
    for child in children {
        let output = child.wait_with_output()?;
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    let value = cli.json(&["merge", "part0", "part1", "part2", "part3", "out", "--json"])?;
    assert_eq!(value["num_samples"], 460);
    assert_eq!(value["copied_shards"], 0);
    cli.ok(&["verify", "out"])?;
    cli.ok(&["export", "out", "back.npy"])?;
    assert_eq!(f32_values(&cli.read("back.npy")?), whole);
    cli.fails(2, &["merge", "part0", "part1", "out"])?;
    cli.fails(2, &["merge", "part0", "part0", "out2"])?;
    cli.fails(3, &["merge", "part0", "nothing", "out2"])?;
    assert!(!cli.path("out2").exists());
    Ok(())
}

#[test]
fn hostile_arrays_get_one_line_and_leave_nothing() -> TestResult {
    let cli = Cli::new()?;
    let good = f32_npy(&[10, 5], 1);
    let header = |text: &str| {
        let mut out = b"\x93NUMPY\x01\x00".to_vec();
        out.extend(u16::try_from(text.len()).unwrap_or(0).to_le_bytes());
        out.extend_from_slice(text.as_bytes());
        out.extend_from_slice(&[0; 64]);
        out
    };
    let dict = |descr: &str, shape: &str| {
        header(&format!(
            "{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n"
        ))
    };
    let cases: Vec<(&str, i32, Vec<u8>)> = vec![
        ("empty", 1, Vec::new()),
        ("magic", 1, b"not an array at all".to_vec()),
        ("truncated_header", 1, good[..50].to_vec()),
        ("truncated_data", 1, good[..good.len() - 1].to_vec()),
        ("objects", 4, dict("'|O'", "(4,)")),
        (
            "structured",
            4,
            dict("[('a', '<f4'), ('b', '<i8')]", "(4,)"),
        ),
        ("text", 4, dict("'<U5'", "(3,)")),
        ("lying_shape", 1, dict("'<f4'", "(1000000000000, 1000)")),
        (
            "overflowing_shape",
            1,
            dict("'<f4'", "(4294967296, 4294967296, 4294967296)"),
        ),
        ("negative_shape", 1, dict("'<f4'", "(-1,)")),
        ("no_axis", 4, dict("'<f4'", "()")),
        ("no_dict", 1, header("import os; os.system('true')")),
        ("void", 4, dict("'|V2'", "(4,)")),
    ];
    for (name, code, bytes) in &cases {
        let file = format!("{name}.npy");
        cli.write(&file, bytes)?;
        let message = cli.fails(*code, &["convert", &file, "out"])?;
        assert!(message.contains(&file), "{message}");
        // An array is no shard.
        assert!(!message.contains("tensorshard"), "{message}");
        assert!(
            *code != 1 || message.contains("write the array again"),
            "{message}"
        );
        assert!(!cli.path("out").exists(), "{name}");
        // One bad file in a folder, after good ones.
        if *name != "no_axis" {
            cli.write("mixed/a.npy", &good)?;
            cli.write("mixed/b.npy", bytes)?;
            let message = cli.fails(*code, &["convert", "mixed", "out"])?;
            assert!(!message.contains("tensorshard"), "{message}");
            assert!(!cli.path("out").exists(), "{name}");
        }
    }
    cli.write("bad.npz", b"PK\x03\x04 and then nothing")?;
    let message = cli.fails(1, &["convert", "bad.npz", "out"])?;
    assert!(message.contains("write the array again"), "{message}");
    cli.write("data.csv", b"1,2,3")?;
    cli.fails(4, &["convert", "data.csv", "out"])?;
    cli.fails(3, &["convert", "missing.npy", "out"])?;
    assert!(!cli.path("out").exists());
    Ok(())
}

#[test]
fn usage_mistakes_exit_with_2() -> TestResult {
    let cli = Cli::new()?;
    cli.write("a.npy", &f32_npy(&[10, 5], 1))?;
    cli.write("b.npy", &f32_npy(&[11, 5], 1))?;
    cli.write("labels.npy", &i64_npy(10))?;
    cli.write("z.npz", b"anything")?;
    for args in [
        &[][..],
        &["frobnicate"],
        &["convert"],
        &["convert", "out"],
        &["convert", "a.npy", "labels.npy"],
        &["convert", "a.npy", "out", "--preset", "int9"],
        &["convert", "a.npy", "out", "--quantize", "int8:per-nothing"],
        &["convert", "a.npy", "out", "--quantize", "b=int8"],
        &["convert", "a.npy", "out", "--codec", "zip"],
        &["convert", "a.npy", "out", "--codec", "zstd:99"],
        &[
            "convert", "a.npy", "out", "--codec", "lz4", "--codec", "zstd",
        ],
        &["convert", "a.npy", "out", "--filter", "sort"],
        &["convert", "a.npy", "out", "--non-finite", "hope"],
        &["convert", "a.npy", "out", "--max-shard-size", "many"],
        &[
            "convert",
            "a.npy",
            "out",
            "--metadata",
            "key=text without quotes",
        ],
        &[
            "convert",
            "a.npy",
            "out",
            "--quantize",
            "int8:per-channel=3",
        ],
        &["convert", "labels.npy", "out", "--quantize", "int8"],
        &["convert", "--field", "a=a.npy", "--field", "b=b.npy", "out"],
        &[
            "convert",
            "--field",
            "a=a.npy",
            "--field",
            "a=labels.npy",
            "out",
        ],
        &["convert", "--field", "z=z.npz", "out"],
        &["convert", "--field", "a/b=a.npy", "out"],
        &["convert", "a.npy", "z.npz", "out"],
        &["convert", "nothing*.npy", "out"],
        &["merge", "out"],
        &["bench", "out", "--batch-size", "0"],
        &["cat", "out", "--range", "5..2"],
    ] {
        cli.fails(2, args)?;
        assert!(!cli.path("out").exists(), "{args:?}");
    }
    cli.ok(&["convert", "a.npy", "out"])?;
    for args in [
        &["cat", "out", "--range", "5..11"][..],
        &["cat", "out", "--fields", "b"],
        &["export", "out", "x.npy", "--fields", "b"],
        &["export", "out", "x.npy", "--range", "0..11"],
        &["export", "out", "x.npy", "--dtype", "i8"],
        &["export", "out", "a.npy"],
        &["export", "out", "out"],
        &["bench", "out", "--fields", "b"],
    ] {
        cli.fails(2, args)?;
    }
    assert!(!cli.path("x.npy").exists());
    assert!(cli.ok(&["--help"])?.contains("convert"));
    assert!(cli.ok(&["convert", "--help"])?.contains("--preset"));
    assert!(cli.ok(&["--version"])?.contains("tensorshard"));
    Ok(())
}

/// The one shard of a dataset.
fn shard_of(cli: &Cli, dataset: &str) -> Result<PathBuf, Box<dyn Error>> {
    let names = cli.names(dataset)?;
    let shard = names.iter().find(|name| name.ends_with(".tshard"));
    Ok(cli.path(dataset).join(shard.ok_or("no shard")?))
}

fn flip(path: &Path, at: usize) -> std::io::Result<()> {
    let mut bytes = fs::read(path)?;
    bytes[at] ^= 0x10;
    fs::write(path, bytes)
}

#[test]
fn damage_is_found_and_told_by_the_exit_code() -> TestResult {
    let cli = Cli::new()?;
    cli.write("a.npy", &f32_npy(&[1000, 50], 1))?;
    cli.ok(&["convert", "a.npy", "out", "--chunk-size", "20KiB"])?;
    let value = cli.json(&["verify", "out", "--json"])?;
    assert_eq!(value["intact"], true);
    assert_eq!(value["shards"][0]["intact"], true);
    let shard = shard_of(&cli, "out")?;
    // A single shard can be looked at as well.
    cli.ok(&["verify", &shard.to_string_lossy()])?;

    let original = fs::read(&shard)?;
    flip(&shard, original.len() / 2)?;
    let output = cli.run(&["verify", "out"])?;
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stdout)?;
    assert!(text.contains("damaged") && text.contains("chunk"), "{text}");
    let output = cli.run(&["verify", "out", "--json"])?;
    assert_eq!(output.status.code(), Some(1));
    let value: Value = serde_json::from_slice(&output.stdout)?;
    assert_eq!(value["intact"], false);
    assert_eq!(value["damage"].as_array().map(Vec::len), Some(1));
    assert!(value["intact_samples"].as_u64() > Some(800));
    // Nothing half-written from a damaged source.
    cli.fails(1, &["export", "out", "back.npy"])?;
    cli.fails(1, &["export", "out", "back"])?;
    cli.fails(1, &["bench", "out"])?;
    assert_eq!(cli.names(".")?, ["a.npy", "out"]);

    fs::write(&shard, &original[..original.len() - 10])?;
    assert_eq!(cli.run(&["verify", "out"])?.status.code(), Some(1));
    fs::remove_file(&shard)?;
    assert_eq!(cli.run(&["verify", "out"])?.status.code(), Some(3));
    cli.fails(3, &["verify", "nothing"])?;
    cli.fails(3, &["inspect", "."])?;
    cli.write(
        "other.tshard",
        b"something else entirely, long enough for a header and more",
    )?;
    cli.fails(1, &["verify", "other.tshard"])?;
    Ok(())
}

/// What is no regular file, in place of a shard, of the manifest or of the dataset, is named, and has the exit code of
/// I/O with every verb.
#[cfg(target_os = "linux")]
#[test]
fn what_cannot_be_read_exits_with_3() -> TestResult {
    let cli = Cli::new()?;
    cli.write("a.npy", &f32_npy(&[100, 50], 1))?;
    cli.ok(&["convert", "a.npy", "good"])?;
    let shard = shard_of(&cli, "good")?;
    let shard = shard.file_name().ok_or("no name")?.to_string_lossy();
    let things: [(&str, &[&str]); 4] = [
        ("a pipe", &["mkfifo"]),
        ("a folder", &["mkdir"]),
        ("a device", &["ln", "-s", "/dev/zero"]),
        ("symbolic links", &["ln", "-s", "loop"]),
    ];
    for (what, make) in things {
        for target in [&*shard, "manifest.tsm", ""] {
            let path = cli.path("d");
            fs::create_dir(&path)?;
            if target.is_empty() {
                fs::remove_dir(&path)?;
            } else {
                for name in cli.names("good")?.iter().filter(|name| *name != target) {
                    fs::copy(cli.path("good").join(name), path.join(name))?;
                }
            }
            let place = if target.is_empty() {
                path.clone()
            } else {
                path.join(target)
            };
            symlink("loop", place.with_file_name("loop"))?;
            let mut command = Command::new(make[0]);
            assert!(command.args(&make[1..]).arg(&place).status()?.success());
            // An empty folder is no pipe, but no dataset either.
            let what = if target.is_empty() && what == "a folder" {
                "manifest.tsm"
            } else {
                what
            };
            for args in [
                &["inspect", "d"][..],
                &["cat", "d"],
                &["export", "d", "out"],
            ] {
                let message = cli.fails(3, args)?;
                assert!(message.contains(what), "{args:?}: {message}");
            }
            let output = cli.run(&["verify", "d"])?;
            assert_eq!(output.status.code(), Some(3), "{what} for {target:?}");
            let said = [output.stdout, output.stderr].concat();
            let said = String::from_utf8_lossy(&said);
            assert!(said.contains(what), "{said}");
            assert!(!cli.path("out").exists());
            if target.is_empty() {
                cli.fails(
                    if what == "manifest.tsm" { 1 } else { 3 },
                    &["salvage", "d", "out"],
                )?;
            }
            fs::remove_file(place.with_file_name("loop"))?;
            if path.is_dir() {
                fs::remove_dir_all(&path)?;
            } else {
                fs::remove_file(&path)?;
            }
        }
    }
    Ok(())
}

#[test]
fn a_merge_that_fails_leaves_nothing() -> TestResult {
    let cli = Cli::new()?;
    for part in ["a", "b"] {
        let file = format!("{part}.npy");
        cli.write(&file, &f32_npy(&[100, 50], 1))?;
        cli.ok(&["convert", "--field", &format!("x={file}"), part])?;
    }
    fs::remove_file(shard_of(&cli, "b")?)?;
    cli.fails(3, &["merge", "a", "b", "out"])?;
    cli.fails(3, &["merge", "a", "b", "new/deep/out"])?;
    fs::create_dir(cli.path("there"))?;
    cli.write("there/mine", b"x")?;
    cli.fails(3, &["merge", "a", "b", "there"])?;
    assert_eq!(cli.names("there")?, ["mine"]);
    assert_eq!(cli.names(".")?, ["a", "a.npy", "b", "b.npy", "there"]);
    cli.ok(&["verify", "a"])?;
    Ok(())
}

/// Programs read why a verb failed from stdout; people still read it from stderr.
#[test]
fn failures_are_json_as_well() -> TestResult {
    let cli = Cli::new()?;
    cli.write("a.npy", &f32_npy(&[1000, 50], 1))?;
    cli.write("bad.npy", b"no array")?;
    cli.ok(&["convert", "a.npy", "out", "--chunk-size", "20KiB"])?;
    let shard = shard_of(&cli, "out")?;
    let middle = fs::read(&shard)?.len() / 2;
    flip(&shard, middle)?;
    let error = |code: i32, kind: &str, args: &[&str]| -> Result<Value, Box<dyn Error>> {
        let output = cli.run(args)?;
        assert_eq!(output.status.code(), Some(code), "{args:?}");
        let stdout = String::from_utf8(output.stdout)?;
        let last = stdout.lines().last().ok_or("nothing on stdout")?;
        let value: Value = serde_json::from_str(last)?;
        let error = value["error"].clone();
        assert_eq!(error["kind"], kind, "{args:?}: {value}");
        assert_eq!(error["exit_code"], code, "{args:?}: {value}");
        let message = error["message"].as_str().ok_or("no message")?;
        let stderr = String::from_utf8(output.stderr)?;
        assert!(stderr.contains(message), "{args:?}: {stderr}");
        Ok(error)
    };
    let shard = shard.to_string_lossy();
    for args in [
        &["cat", "out", "--json"][..],
        &["export", "out", "x.npy", "--json"],
        &["bench", "out", "--json"],
    ] {
        let error = error(1, "corrupt", args)?;
        let path = error["path"].as_str().ok_or("no path")?;
        assert!(shard.ends_with(path), "{path}");
        assert_eq!(error["field"], "a");
        assert!(
            error["chunk"].is_u64() && error["offset"].is_u64(),
            "{error}"
        );
    }
    error(3, "io", &["inspect", "nothing", "--json"])?;
    error(3, "io", &["verify", "nothing", "--json"])?;
    error(3, "io", &["merge", "nothing", "x", "--json"])?;
    error(3, "io", &["salvage", "nothing", "x", "--json"])?;
    error(2, "invalid_argument", &["salvage", "out", "out", "--json"])?;
    error(1, "corrupt", &["convert", "bad.npy", "x", "--json"])?;
    error(2, "usage", &["advise", "--frob", "--json"])?;
    error(2, "usage", &["frobnicate", "--json"])?;
    // What verify finds has the same keys, and is no failure of the verb.
    let output = cli.run(&["verify", "out", "--json"])?;
    let value: Value = serde_json::from_slice(&output.stdout)?;
    assert_eq!(value["damage"][0]["kind"], "corrupt");
    assert_eq!(value["error"], Value::Null);
    // Without --json, stdout is for results.
    assert_eq!(cli.run(&["inspect", "nothing"])?.stdout, b"");
    Ok(())
}

#[test]
fn damaged_chunks_are_skipped_if_asked_for() -> TestResult {
    let cli = Cli::new()?;
    let a = f32_npy(&[1000, 50], 1);
    cli.write("a.npy", &a)?;
    cli.write("label.npy", &i64_npy(1000))?;
    cli.ok(&[
        "convert",
        "--field",
        "a=a.npy",
        "--field",
        "label=label.npy",
        "out",
        "--chunk-size",
        "20KiB",
        "--codec",
        "none",
    ])?;
    let skip = |args: &[&str]| -> Result<Output, Box<dyn Error>> {
        Ok(cli.run(&[args, &["--damaged", "skip"]].concat())?)
    };
    // Nothing is damaged yet.
    assert_eq!(
        skip(&["export", "out", "all.npy", "--fields", "a"])?
            .status
            .code(),
        Some(0)
    );
    assert_eq!(cli.read("all.npy")?, a);
    let shard = shard_of(&cli, "out")?;
    let middle = fs::read(&shard)?.len() / 2;
    flip(&shard, middle)?;
    let report = cli.run(&["verify", "out", "--json"])?;
    let report: Value = serde_json::from_slice(&report.stdout)?;
    let intact = report["intact_samples"].as_u64().ok_or("no count")?;
    assert_eq!(report["damage"][0]["field"], "a");

    let output = skip(&["export", "out", "some.npz", "--json"])?;
    assert_eq!(output.status.code(), Some(1));
    let value: Value = serde_json::from_slice(&output.stdout)?;
    assert_eq!(value["num_samples"], intact);
    let samples = &value["skipped"][0]["samples"];
    let from = usize::try_from(samples[0].as_u64().ok_or("no first")?)?;
    let to = usize::try_from(samples[1].as_u64().ok_or("no last")?)?;
    assert_eq!(1000 - (to - from) as u64, intact);
    let stderr = String::from_utf8(output.stderr)?;
    assert!(
        stderr.starts_with(&format!(
            "skipped: samples {from} to {}: wrong checksum",
            to - 1
        )),
        "{stderr}"
    );
    // The fields stay aligned, although only one is damaged.
    cli.ok(&["convert", "some.npz", "again"])?;
    cli.ok(&["export", "again", "label2.npy", "--fields", "label"])?;
    let labels: Vec<i64> = (0..1000i64)
        .filter(|i| !(from..to).contains(&usize::try_from(*i).unwrap_or(0)))
        .map(|i| i % 10)
        .collect();
    let expected = npy("<i8", &[labels.len()], &to_le_bytes(&labels));
    assert_eq!(cli.read("label2.npy")?, expected);
    let all = f32_values(&a);
    let kept = [&all[..from * 50], &all[to * 50..]].concat();
    assert_eq!(
        skip(&["export", "out", "a2.npy", "--fields", "a"])?
            .status
            .code(),
        Some(1)
    );
    assert_eq!(f32_values(&cli.read("a2.npy")?), kept);
    // A range, by number; and one that has no damage.
    let (first, last) = (from - 1, to + 1);
    let range = format!("{first}..{last}");
    let output = skip(&[
        "export", "out", "folder", "--fields", "label", "--range", &range,
    ])?;
    assert_eq!(output.status.code(), Some(0), "the labels are intact");
    let output = skip(&["export", "out", "a", "--fields", "a", "--range", &range])?;
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        cli.names("a")?,
        [format!("{first:03}.npy"), format!("{to:03}.npy")]
    );
    let output = skip(&["cat", "out", "--range", &range, "--json", "--limit", "1"])?;
    assert_eq!(output.status.code(), Some(1));
    let lines: Vec<Value> = String::from_utf8(output.stdout)?
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()?;
    assert_eq!(lines.len(), 3);
    assert_eq!(lines[1]["sample"], to);
    assert_eq!(lines[2]["skipped"].as_array().map(Vec::len), Some(1));
    assert_eq!(
        skip(&["cat", "out", "--range", "0..1"])?.status.code(),
        Some(0)
    );
    // A damaged header leaves nothing of the shard; a missing shard is no damage.
    flip(&shard, 40)?;
    assert_eq!(
        skip(&["export", "out", "none.npy", "--fields", "a"])?
            .status
            .code(),
        Some(1)
    );
    assert_eq!(f32_values(&cli.read("none.npy")?), [0f32; 0]);
    fs::remove_file(&shard)?;
    assert_eq!(skip(&["cat", "out"])?.status.code(), Some(3));
    Ok(())
}

#[test]
fn bench_prints_its_keys() -> TestResult {
    let cli = Cli::new()?;
    cli.write("a.npy", &f32_npy(&[2000, 64], 1))?;
    cli.ok(&["convert", "a.npy", "out", "--preset", "int8"])?;
    for more in [
        &["--shuffle", "none", "--io", "read"][..],
        &["--shuffle", "windowed", "--io", "mmap", "--workers", "2"],
        &[
            "--shuffle",
            "exact",
            "--dtype",
            "bf16",
            "--epochs",
            "2",
            "--batch-size",
            "100",
            "--memory-budget",
            "4MiB",
        ],
    ] {
        let value = cli.json(&[&["bench", "out", "--json", "--fields", "a"], more].concat())?;
        for key in [
            "samples_per_s",
            "out_gb_per_s",
            "stored_gb_per_s",
            "memcpy_gb_per_s",
            "ratio_to_memcpy",
            "first_batch_ms",
        ] {
            assert!(value[key].as_f64() > Some(0.0), "{key}: {value}");
        }
        assert!(value["peak_anon_mb"].as_f64() >= Some(0.0), "{value}");
        let epochs = value["epochs"].as_u64().unwrap_or(0);
        assert_eq!(value["samples"].as_u64(), Some(2000 * epochs));
        assert_eq!(value["loader"]["delivered_bytes"], value["out_bytes"]);
        assert!(
            value["loader"]["elapsed_ms"].as_f64() > Some(0.0),
            "{value}"
        );
        assert!(value["limit"].is_string() && value["why"].is_string());
    }
    let text = cli.ok(&["bench", "out"])?;
    assert!(
        text.contains("samples/s") && text.contains(" is the limit"),
        "{text}"
    );
    cli.fails(2, &["bench", "out", "--memory-budget", "1000"])?;
    Ok(())
}

#[test]
fn no_samples_are_a_dataset_too() -> TestResult {
    let cli = Cli::new()?;
    let array = npy("<f4", &[0, 4, 8], &[]);
    cli.write("a.npy", &array)?;
    for preset in ["lossless", "int8", "int8-per-channel"] {
        cli.ok(&["convert", "a.npy", "out", "--preset", preset, "--overwrite"])?;
        cli.ok(&["verify", "out"])?;
        cli.ok(&["inspect", "out"])?;
        assert_eq!(cli.ok(&["cat", "out"])?, "");
        cli.ok(&["bench", "out"])?;
        cli.ok(&["export", "out", "back.npy", "--overwrite"])?;
        assert_eq!(cli.read("back.npy")?, array);
        fs::remove_dir_all(cli.path("folder")).ok();
        cli.ok(&["export", "out", "folder"])?;
    }
    Ok(())
}

#[test]
fn arrays_without_a_numpy_dtype_are_named_and_come_back() -> TestResult {
    let cli = Cli::new()?;
    let data: Vec<u8> = (0..=255).collect();
    cli.write("b.npy", &npy("<V2", &[4, 32], &data))?;
    cli.write("f.npy", &npy("|V1", &[4, 64], &data))?;
    for (file, dtype) in [
        ("b.npy", "bf16"),
        ("f.npy", "f8e4m3fn"),
        ("f.npy", "f8e5m2"),
    ] {
        cli.ok(&[
            "convert",
            file,
            "out",
            "--dtype-of-void",
            dtype,
            "--overwrite",
        ])?;
        let text = cli.ok(&["cat", "out", "--range", "1..2"])?;
        assert!(text.contains(dtype), "{text}");
        cli.ok(&["cat", "out", "--json"])?;
        cli.ok(&["export", "out", "back.npy", "--overwrite"])?;
        assert_eq!(cli.read("back.npy")?, cli.read(file)?);
    }
    Ok(())
}

#[test]
fn closed_pipe_ends_quietly() -> TestResult {
    let cli = Cli::new()?;
    cli.write("a.npy", &f32_npy(&[5000, 16], 1))?;
    cli.ok(&["convert", "a.npy", "out"])?;
    let mut command = cli.command(&["cat", "out"]);
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    drop(child.stdout.take());
    let output = child.wait_with_output()?;
    assert!(output.status.success());
    assert_eq!(String::from_utf8(output.stderr)?, "");
    Ok(())
}

#[test]
fn demo_tells_what_it_does_and_cleans_up() -> TestResult {
    let cli = Cli::new()?;
    let text = cli.ok(&["demo", "--keep", "kept"])?;
    for word in ["latent", "int8", "intact", "caption", "samples/s", "ratio"] {
        assert!(text.contains(word), "{word}: {text}");
    }
    assert!(text.lines().count() < 40, "{text}");
    cli.ok(&["verify", "kept/train"])?;
    let message = cli.fails(2, &["demo", "--keep", "kept"])?;
    assert!(message.contains("is there already"), "{message}");
    Ok(())
}

#[cfg(unix)]
#[test]
fn interrupted_convert_leaves_nothing() -> TestResult {
    let cli = Cli::new()?;
    // Zeros that take no space on the disk, and seconds to convert.
    let samples = 2_000_000;
    let header = emit_header("<f4", &[samples, 1024]);
    cli.write("zeros.npy", &header)?;
    let file = fs::OpenOptions::new()
        .write(true)
        .open(cli.path("zeros.npy"))?;
    file.set_len((header.len() + samples * 4096) as u64)?;
    let mut command = cli.command(&["convert", "zeros.npy", "out"]);
    let child = command
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    while !cli.path("out").exists() {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let id = child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &id]).status()?.success());
    let output = child.wait_with_output()?;
    assert_eq!(output.status.code(), Some(130));
    let stderr = String::from_utf8(output.stderr)?;
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert_eq!(cli.names(".")?, ["zeros.npy"]);
    Ok(())
}

#[test]
fn advise_prints_draws_and_picks() -> TestResult {
    let cli = Cli::new()?;
    cli.write("a.npy", &f32_npy(&[64, 4, 8], 1))?;
    cli.write("labels.npy", &i64_npy(1000))?;
    let text = cli.ok(&["advise", "a.npy", "labels.npy"])?;
    for word in [
        "ratio",
        "x memcpy",
        "SNR",
        "lossless",
        "balanced",
        "--codec",
        "f32 [4, 8]",
    ] {
        assert!(text.contains(word), "{word}: {text}");
    }
    let value = cli.json(&["advise", "a.npy", "--target-bits", "9", "--json"])?;
    let advice = &value["fields"][0];
    assert_eq!(advice["field"], "a");
    assert_eq!(advice["request"], "target-bits 9");
    let rows = advice["encodings"].as_array().ok_or("no rows")?;
    assert!(rows.iter().any(|row| row["pareto"] == true));
    // Its options make the encoding that was measured.
    for goal in ["fast", "balanced", "small"] {
        let options = advice["picks"][goal].as_str().ok_or("no pick")?;
        let row = rows
            .iter()
            .find(|row| row["options"] == options)
            .ok_or("no row")?;
        assert!(
            row["bits_per_value"]
                .as_f64()
                .is_some_and(|bits| bits <= 9.09),
            "{row}"
        );
        let mut args = vec!["convert", "a.npy", "out", "--overwrite", "--json"];
        args.extend(options.split(' '));
        let written = cli.json(&args)?;
        assert_eq!(
            written["fields"][0]["encoding"], row["encoding"],
            "{options}"
        );
    }
    let value = cli.json(&["advise", "a.npy", "labels.npy", "--json", "--plot", "p.png"])?;
    assert_eq!(value["fields"].as_array().map(Vec::len), Some(2));
    assert!(cli.read("p-a.png")?.starts_with(b"\x89PNG"));
    assert!(cli.read("p-labels.png")?.starts_with(b"\x89PNG"));
    cli.ok(&["advise", "a.npy", "--plot", "p.svg", "--max-error", "0.01"])?;
    let svg = String::from_utf8(cli.read("p.svg")?)?;
    assert!(
        svg.starts_with("<svg") && svg.contains("memcpy") && svg.contains("GB/s"),
        "{svg}"
    );
    // What cannot be is told.
    cli.write("empty.npy", &npy("<f4", &[0, 3], &[]))?;
    for args in [
        &["advise"][..],
        &["advise", "empty.npy"],
        &["advise", "a.npy", "--plot", "p.gif"],
        &["advise", "a.npy", "--max-error", "0"],
        &["advise", "a.npy", "--target-bits", "0.001"],
        &["advise", "a.npy", "--target-bits", "8", "--max-error", "1"],
    ] {
        cli.fails(2, args)?;
    }
    cli.fails(3, &["advise", "nothing.npy"])?;
    Ok(())
}

#[test]
fn planned_encodings_are_written_with_their_reasons() -> TestResult {
    let cli = Cli::new()?;
    let file = f32_npy(&[200, 4, 8], 1);
    cli.write("a.npy", &file)?;
    cli.write("n.npy", &i64_npy(200))?;
    let fields = ["--field", "a=a.npy", "--field", "n=n.npy"];
    let convert = |out: &str, more: &[&str]| {
        cli.json(&[&["convert", out, "--json"][..], &fields, more].concat())
    };
    let written = convert("auto", &["--preset", "auto", "--goal", "small"])?;
    assert_eq!(field(&written, "a")["lossy"], false);
    let plain = convert("plain", &[])?;
    for name in ["a", "n"] {
        let stored = |value: &Value| field(value, name)["stored_bytes"].as_u64();
        assert!(stored(&written) <= stored(&plain), "{name}");
    }
    cli.ok(&["verify", "auto"])?;
    cli.ok(&["export", "auto", "back.npy", "--fields", "a"])?;
    assert_eq!(cli.read("back.npy")?, file);
    let dataset = tensorshard::Dataset::open(cli.path("auto"))?;
    let reasons = &dataset.tool_metadata()["planner"]["a"];
    assert_eq!(reasons["goal"], "small");
    assert_eq!(
        reasons["picked"]["encoding"],
        field(&written, "a")["encoding"]
    );
    // Appending keeps the encodings.
    let again = convert("auto", &["--preset", "auto", "--goal", "fast", "--append"])?;
    assert_eq!(
        field(&again, "a")["encoding"],
        field(&written, "a")["encoding"]
    );
    // A bound, and bits, of single fields; static scales are calibrated over all data.
    let written = convert("bound", &["--max-error", "a=0.001", "--codec", "n=zstd"])?;
    assert!(
        field(&written, "a")["max_abs_error"]
            .as_f64()
            .is_some_and(|error| error <= 0.001)
    );
    assert!(
        field(&written, "n")["encoding"]
            .as_str()
            .is_some_and(|text| text.contains("zstd"))
    );
    let written = convert("bits", &["--target-bits", "9", "--goal", "small"])?;
    assert_eq!(field(&written, "a")["lossy"], true);
    assert_eq!(field(&written, "n")["lossy"], false);
    for more in [
        &["--goal", "small"][..],
        &["--preset", "auto", "--max-error", "1"],
        &["--max-error", "-1"],
        &["--target-bits", "0.01"],
        &["--preset", "x=auto"],
    ] {
        let args = [&["convert", "wrong"][..], &fields, more].concat();
        cli.fails(2, &args)?;
    }
    cli.fails(
        2,
        &[
            &[
                "convert", "auto", "--append", "--preset", "auto", "--codec", "lz4",
            ][..],
            &fields,
        ]
        .concat(),
    )?;
    Ok(())
}

#[test]
fn options_without_effect_are_told() -> TestResult {
    let cli = Cli::new()?;
    cli.write("a.npy", &f32_npy(&[10, 5], 1))?;
    cli.write("n.npy", &i64_npy(10))?;
    // Aligned arrays that were not named as fields.
    let output = Command::new(env!("CARGO_BIN_EXE_tensorshard"))
        .args(["convert", "a.npy", "a.npy", "two"])
        .current_dir(cli.dir.path())
        .output()?;
    assert!(String::from_utf8_lossy(&output.stderr).contains("--field NAME=PATH"));
    let message = cli.fails(4, &["convert", "a.npy", "n.npy", "two"])?;
    assert!(message.contains("--field NAME=PATH"), "{message}");
    cli.ok(&["convert", "n.npy", "n"])?;
    let message = cli.fails(2, &["bench", "n", "--dtype", "f32"])?;
    assert!(
        message.contains("--dtype f32 is for float fields"),
        "{message}"
    );
    Ok(())
}
