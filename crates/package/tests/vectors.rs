//! Runs every vector, and keeps the committed ones equal to what the generator makes.
#![expect(clippy::unwrap_used, reason = "tests")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use cordon_package::{DeviceFile, PackageError, Parsed, Trust, check};

/// Where the vectors of the format that is written lie, and those of older ones.
const FOLDERS: [&str; 2] = ["", "format-1"];

fn folder(of: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../vectors").join(of)
}

fn read_in(of: &str, name: &str) -> Vec<u8> {
    std::fs::read(folder(of).join(name)).unwrap_or_else(|e| panic!("vectors/{of}/{name}: {e}"))
}

fn read(name: &str) -> Vec<u8> {
    read_in("", name)
}

fn lists(of: &str) -> Vec<String> {
    let mut lists: Vec<String> = std::fs::read_dir(folder(of))
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".txt"))
        .collect();
    lists.sort();
    lists
}

/// Class of the error the reader stops with, or `ok`.
fn run(of: &str, file: &str, options: &BTreeMap<&str, &str>) -> &'static str {
    let device = String::from_utf8(read_in(of, options.get("device").unwrap_or(&"device.key"))).unwrap();
    let device = DeviceFile::parse(&device).unwrap();
    let number = |key, default| options.get(key).map_or(default, |v| v.parse().unwrap());
    let trust = Trust {
        owners: &device.owners,
        now: Some(number("now", 3_000_000_000)),
        minimum_version: number("minimum", 7),
        dangerous_accept_development: options.get("development") != Some(&"refused"),
    };
    let bytes = read_in(of, file);
    let key = device.key.recipient_key();
    let result: Result<(), PackageError> = match options.get("grant") {
        None => check(&bytes, &trust, key).map(|_| ()),
        Some(grant) => Parsed::parse_file(&bytes)
            .and_then(|p| p.verify(&trust))
            .and_then(|v| v.open_with_grant(&read_in(of, grant), key))
            .map(|_| ()),
    };
    result.map_or_else(|e| e.class(), |()| "ok")
}

#[test]
fn every_vector_has_its_class() {
    let mut wrong = Vec::new();
    for of in FOLDERS {
        for list in lists(of) {
            let text = String::from_utf8(read_in(of, &list)).unwrap();
            for line in text.lines().filter(|l| !l.starts_with('#') && !l.is_empty()) {
                let words: Vec<&str> = line.split_whitespace().collect();
                let options = words[2..].iter().map(|o| o.split_once('=').unwrap()).collect();
                let got = run(of, words[0], &options);
                if got != words[1] {
                    wrong.push(format!("{of} {line}: got {got}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn committed_files_are_what_the_generator_makes() {
    let (files, index) = support::vectors::all();
    for (name, bytes) in &files {
        assert!(
            read(name) == *bytes,
            "vectors/{name} differs; run `cargo run -p cordon-package --example make_vectors`"
        );
    }
    assert_eq!(String::from_utf8(read("index.txt")).unwrap(), support::vectors::index_text(&index));
}

#[test]
fn every_file_is_in_a_list() {
    for of in FOLDERS {
        let words = |list: &String| {
            let text = String::from_utf8(read_in(of, list)).unwrap();
            text.split_whitespace().map(|w| w.rsplit('=').next().unwrap().to_owned()).collect::<Vec<_>>()
        };
        let listed: BTreeSet<String> = lists(of).iter().flat_map(words).collect();
        for entry in std::fs::read_dir(folder(of)).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            if name.ends_with(".cordon") || name.ends_with(".grant") {
                assert!(listed.contains(&name), "{of}/{name} is in no list");
            }
        }
    }
}
