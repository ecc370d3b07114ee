//! Dependencies are at least the versions in which known faults are mended (R33).
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

/// Crate, the first good version, the advisory.
const FLOORS: &[(&str, [u64; 3], &str)] = &[
    ("bytes", [1, 11, 1], "RUSTSEC-2026-0007"),
    ("crossbeam-channel", [0, 5, 15], "RUSTSEC-2025-0024"),
    ("lz4_flex", [0, 12, 1], "RUSTSEC-2026-0041"),
    ("memmap2", [0, 9, 11], "RUSTSEC-2026-0186"),
    ("pyo3", [0, 29, 0], "RUSTSEC-2026-0177"),
];

fn version(text: &str) -> [u64; 3] {
    let plain = text.split(['-', '+']).next().unwrap();
    let mut parts = plain.split('.').map(|part| part.parse().unwrap());
    [(); 3].map(|()| parts.next().unwrap())
}

#[test]
fn dependencies_are_at_their_floors() {
    let lock = include_str!("../Cargo.lock");
    for (name, floor, advisory) in FLOORS {
        let entry = format!("name = \"{name}\"\nversion = \"");
        for (at, _) in lock.match_indices(&entry) {
            let found = lock[at + entry.len()..].split('"').next().unwrap();
            assert!(version(found) >= *floor, "{name} {found}: {advisory}");
        }
    }
    assert!(version("1.2.10") > version("1.2.9-alpha"));
}
