//! One file per case under `tests/cmd`: arguments, exit status, what is said, and what must not have been written.

mod common;

use common::World;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Files the cases name.
fn world() -> World {
    let world = World::new();
    world.write("empty.onnx", "");
    world.write("garbage.onnx", "this is no model, whatever its name says");
    let model = std::fs::read(world.path("digits.onnx")).expect("readable");
    world.write("truncated.onnx", &model[..model.len() / 2]);
    // The same model with one weight changed.
    let mut other = model.clone();
    let middle = other.len() / 2;
    other[middle] ^= 1;
    world.write("other.onnx", other);
    world.write("three.txt", "a\nb\nc\n");
    world.ok(&["keygen", "owner", "-o", "owner.key"]);
    world.write("open.key", std::fs::read(world.path("owner.key")).expect("readable"));
    std::fs::set_permissions(world.path("open.key"), std::fs::Permissions::from_mode(0o644)).expect("own file");
    std::fs::copy(world.path("owner.key.pub"), world.path("owner.key.pub.private")).expect("readable");
    std::fs::set_permissions(world.path("owner.key.pub.private"), std::fs::Permissions::from_mode(0o600))
        .expect("own file");
    world.ok(&["plan", "digits.onnx", "--protect", "both", "--front", "8", "--back", "17", "-o", "plan.toml"]);
    let vector = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../vectors/secret_weight_in_normal_segment.onnx");
    world.write("shared.onnx", std::fs::read(vector).expect("readable"));
    world.ok(&["plan", "shared.onnx", "--protect", "both", "--front", "2", "--back", "4", "-o", "shared.toml"]);
    world.ok(&["plan", "digits.onnx", "--protect", "inputs", "--front", "8", "-o", "front.toml"]);
    world
}

/// Runs one case and says what differs.
fn differences(world: &World, case: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(case).expect("readable");
    let case: toml::Table = text.parse().expect("a case is TOML");
    let list = |key: &str| -> Vec<String> {
        let items = case.get(key).and_then(|value| value.as_array()).cloned().unwrap_or_default();
        items.into_iter().map(|item| item.as_str().expect("strings").to_owned()).collect()
    };
    let args = list("args");
    let before = world.listing();
    let ran = world.run(&args.iter().map(String::as_str).collect::<Vec<_>>());
    let mut problems = Vec::new();
    if case["status"].as_integer() != Some(i64::from(ran.status)) {
        problems.push(format!("status {} instead of {}", ran.status, case["status"]));
    }
    if let Some(stderr) = case.get("stderr").and_then(|value| value.as_str())
        && stderr != ran.stderr
    {
        problems.push(format!("stderr is not\n{stderr}"));
    }
    let contains = [("stderr_contains", &ran.stderr), ("stdout_contains", &ran.stdout)];
    for (key, said) in contains {
        problems
            .extend(list(key).into_iter().filter(|want| !said.contains(want)).map(|want| format!("{key}: {want:?}")));
    }
    problems.extend(
        list("absent").into_iter().filter(|name| world.path(name).exists()).map(|name| format!("{name} exists")),
    );
    if ran.status != 0 && world.listing() != before {
        problems.push(format!("files were left behind: {:?}", world.listing()));
    }
    if ran.status != 0 && ran.stderr.contains("panicked") {
        problems.push("it panicked".into());
    }
    if !problems.is_empty() {
        problems.push(format!("it printed\n{}{}", ran.stdout, ran.stderr));
    }
    // What a case that succeeds wrote must not be there for the next one.
    for name in world.listing().iter().filter(|name| !before.contains(name)) {
        std::fs::remove_file(world.path(name)).expect("own file");
    }
    problems
}

#[test]
fn every_case_says_what_its_file_says() {
    let world = world();
    let mut cases: Vec<_> = std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cmd"))
        .expect("the cases are there")
        .map(|entry| entry.expect("readable").path())
        .collect();
    cases.sort();
    assert!(cases.len() > 30);
    let mut report = String::new();
    for case in &cases {
        let problems = differences(&world, case);
        if !problems.is_empty() {
            report += &format!("--- {}\n{}\n", case.display(), problems.join("\n"));
        }
    }
    assert!(report.is_empty(), "{report}");
}
