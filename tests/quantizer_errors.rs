//! The tables of QUANTIZERS.md are what the example computes.

#[path = "../examples/quantizer_errors.rs"]
#[allow(
    dead_code,
    clippy::allow_attributes,
    reason = "an example has a main function"
)]
mod quantizer_errors;

use std::fs;
use std::path::Path;

/// The cells of all table rows.
fn cells(text: &str) -> Vec<Vec<String>> {
    let rows = text.lines().filter(|line| line.starts_with("| `"));
    rows.map(|line| line.split('|').map(|cell| cell.trim().to_owned()).collect())
        .collect()
}

/// Within the rounding of the last digit that is printed, and what functions of other systems make of it.
fn agree(a: &str, b: &str) -> bool {
    match (a.parse::<f64>(), b.parse::<f64>()) {
        (Ok(a), Ok(b)) => {
            (a - b).abs() <= 0.02 * a.abs().max(1e-9) + 0.011 * f64::from(u8::from(a.abs() > 0.5))
        }
        _ => a == b,
    }
}

#[test]
fn published_tables_are_what_the_example_computes() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("QUANTIZERS.md");
    let published = cells(&fs::read_to_string(path).unwrap());
    let computed = cells(&quantizer_errors::tables().unwrap());
    assert_eq!(published.len(), computed.len());
    for (published, computed) in published.iter().zip(&computed) {
        assert_eq!(published.len(), computed.len());
        for (a, b) in published.iter().zip(computed) {
            assert!(
                agree(a, b),
                "published {published:?}, computed {computed:?}"
            );
        }
    }
}
