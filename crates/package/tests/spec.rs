//! SPEC.md and the code state the same numbers.

use std::collections::BTreeMap;

use cordon_package::limits::*;

const SPEC: &str = include_str!("../SPEC.md");
const LIMITS: &str = include_str!("../src/limits.rs");
/// Stated in the text of SPEC.md, as sizes of fields, instead of in its table.
const IN_TEXT: [&str; 6] =
    ["MAGIC", "GRANT_MAGIC", "PREFIX_BYTES", "SIGNATURE_BYTES", "HASH_BYTES", "NORMAL_DATA_LOCATION"];

macro_rules! values {
    ($($name:ident),* $(,)?) => {
        BTreeMap::from([$((stringify!($name), $name as u64)),*])
    };
}

fn table() -> BTreeMap<&'static str, u64> {
    let rows = SPEC.lines().filter_map(|line| {
        let mut cells = line.split('|').map(str::trim).skip(1);
        let name = cells.next()?.strip_prefix('`')?.strip_suffix('`')?;
        Some((name, cells.next()?.parse().ok()?))
    });
    rows.collect()
}

#[test]
fn the_table_of_limits_is_the_code_s() {
    let code = values![
        FORMAT,
        OLDEST_FORMAT,
        SUITE,
        MAX_HEADER_BYTES,
        MAX_GRANT_BYTES,
        MAX_SEGMENTS,
        MAX_SECTIONS,
        MAX_STANZAS,
        MAX_STANZA_BYTES,
        MAX_STRING_BYTES,
        MAX_KEY_ID_BYTES,
        MAX_EXTENSIONS,
        MAX_EXTENSION_BYTES,
        CHUNK_BYTES,
        TAG_BYTES,
        MAX_SECTION_BYTES,
        PAGE_BYTES,
        MAX_MANIFEST_BYTES,
        MAX_VARIANTS,
        MAX_VALUES,
        MAX_RANK,
        MAX_ELEMENTS,
        MAX_PLAN_TEXT_BYTES,
        MAX_IMAGE_SIDE,
        MAX_DECIMALS,
        MAX_SECRET_BYTES,
        MAX_PROGRAMS,
        MAX_NAMES,
        MAX_PINNED_OWNERS,
        MAX_KEY_TEXT_BYTES,
    ];
    assert_eq!(table(), code);
}

#[test]
fn every_constant_is_in_the_table() {
    let table = table();
    for line in LIMITS.lines() {
        let Some(name) = line.strip_prefix("pub const ").and_then(|l| l.split(':').next()) else { continue };
        assert!(table.contains_key(name) || IN_TEXT.contains(&name), "{name} is not in SPEC.md");
    }
}

#[test]
fn magic_bytes_and_file_names_are_the_code_s() {
    assert!(SPEC.contains(&format!("`{NORMAL_DATA_LOCATION}`")));
    for magic in [MAGIC, GRANT_MAGIC] {
        let hex: Vec<String> = magic.iter().map(|b| format!("{b:02x}")).collect();
        assert!(SPEC.contains(&hex.join(" ")), "{hex:?}");
    }
}
