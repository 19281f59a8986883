//! The commands one after the other, as a person would type them, on the bundled example.

mod common;

use common::World;
use serde_json::Value;

/// JSON lines of a command's stdout.
fn lines(stdout: &str) -> Vec<Value> {
    stdout.lines().map(|line| serde_json::from_str(line).expect("one JSON value per line")).collect()
}

/// An owner, a device that accepts it, and a ternary plan.
fn prepared() -> World {
    let world = World::new();
    world.ok(&["keygen", "owner", "-o", "owner.key"]);
    let owner = ["device", "init", "--owner", "owner.key.pub", "--dir", "device", "--recipient-out", "recipient"];
    world.ok(&owner);
    let image = "image:size=32,gray,mean=0.3,std=0.35";
    let plan = ["plan", "digits.onnx", "--protect", "both", "--front", "block2.pool", "--back", "hidden"];
    world.ok(&[&plan[..], &["--image", image, "--labels", "labels.txt", "-o", "plan.toml"]].concat());
    world
}

const SEAL: [&str; 8] =
    ["seal", "digits.onnx", "--plan", "plan.toml", "--owner", "owner.key", "--recipient", "recipient"];

fn seal(world: &World, more: &[&str]) -> String {
    world.ok(&[&SEAL[..], more].concat())
}

#[test]
fn from_model_to_predictions_and_back_to_public_parts() {
    let world = prepared();
    let said = seal(&world, &["--output-policy", "top:2", "-o", "digits.cordon"]);
    assert!(said.contains("equal") && said.contains("before the policy"), "{said}");

    let verified = lines(&world.ok(&["--json", "verify", "digits.cordon", "--owner", "owner.key.pub"]));
    assert_eq!(verified[0]["output_policy"], "top:2");
    assert_eq!(verified[0]["development"], true);
    assert_eq!(verified[0]["segments"].as_array().map(Vec::len), Some(3));
    assert!(!verified[0]["words"].as_str().expect("text").contains("block"), "no inner name is public");

    let run = ["--json", "run", "digits.cordon", "--device", "device", "--input", "images", "--output", "classes.npy"];
    let results = lines(&world.ok(&run));
    assert_eq!(results.len(), 10);
    let words = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"];
    for (class, result) in results.iter().enumerate() {
        let best = &result["outputs"][0]["classes"][0];
        assert_eq!(best.as_array().map(Vec::len), Some(2), "the policy lets two classes out");
        assert_eq!((best[0]["class"].as_u64(), best[0]["label"].as_str()), (Some(class as u64), Some(words[class])));
        assert!(result["secure_memory_measured"].as_u64().expect("a number") > 0);
    }
    let classes = cordon_executor::files::read(&world.path("classes.npy")).expect("an array").remove(0).1;
    assert_eq!((classes.dims.as_slice(), classes.elements()), ([10, 2].as_slice(), 20));

    world.ok(&["unpack", "digits.cordon", "--owner", "owner.key.pub", "-o", "parts"]);
    let middle = lines(&world.ok(&["--json", "inspect", "parts/segment-1/model.onnx"]));
    assert_eq!(middle[0]["nodes"].as_array().map(Vec::len), Some(9));
    assert!(!middle[0].to_string().contains("block3"), "names of the middle are neutral");
    assert!(world.fails(&["unpack", "digits.cordon", "-o", "parts"]).contains("exists"));
}

#[test]
fn half_precision_weights_halve_the_package_and_everyone_says_so() {
    let world = prepared();
    let package = |weights: &str| {
        let (plan, package) = (format!("{weights}.toml"), format!("{weights}.cordon"));
        let image = "image:size=32,gray,mean=0.3,std=0.35";
        world.ok(&["plan", "digits.onnx", "--protect", "all", "--weights", weights, "--image", image, "-o", &plan]);
        let mut args = SEAL;
        args[3] = &plan;
        let sealed = lines(&world.ok(&[&["--json"], &args[..], &["-o", &package]].concat())).remove(0);
        let verified = lines(&world.ok(&["--json", "verify", &package, "--owner", "owner.key.pub"])).remove(0);
        (sealed, verified)
    };
    let ((plain, _), (half, verified)) = (package("f32"), package("f16"));
    let number = |value: &Value| value.as_u64().expect("a number");
    assert!(number(&half["bytes"]) * 10 < number(&plain["bytes"]) * 6, "{half}");
    assert!(number(&half["f16_weight_tensors"]) > 2 && plain["f16_weight_tensors"] == 0);
    assert_eq!((&half["same_class"]["same"], &half["same_class"]["answers"]), (&3.into(), &3.into()));
    assert_eq!(verified["segments"][0]["f16_weights"], true);
    assert!(verified["words"].as_str().expect("text").contains("stored as f16"));
    for budget in [None, Some("3MiB")] {
        let mut run = vec!["--json", "run", "f16.cordon", "--device", "device", "--input", "images"];
        run.extend(budget.iter().flat_map(|budget| ["--secure-memory", budget]));
        for result in lines(&world.ok(&run)) {
            assert_eq!(result["f16_weights"], true);
            assert!(number(&result["secure_memory_measured"]) > 0);
        }
    }
    assert!(world.ok(&["verify", "f16.cordon", "--owner", "owner.key.pub"]).contains("Weights of segment 0"));
}

#[test]
fn the_prediction_of_secure_memory_holds_and_the_least_is_enough() {
    let world = prepared();
    let all = ["plan", "digits.onnx", "--protect", "all", "-o", "all.toml"];
    let plan = lines(&world.ok(&[&["--json"], &all[..]].concat())).remove(0);
    let mut args = SEAL;
    args[3] = "all.toml";
    let sealed = lines(&world.ok(&[&["--json"], &args[..], &["-o", "all.cordon"]].concat())).remove(0);
    let number = |value: &Value| value.as_u64().expect("a number");
    assert_eq!(plan["secure_memory_predicted"], sealed["secure_memory_predicted"]);
    assert!(number(&sealed["secure_memory_measured"]) <= number(&sealed["secure_memory_predicted"]), "{sealed}");
    let error = |entry: &Value| entry["error"].as_f64().expect("a number");
    assert!(sealed["check"].as_array().expect("a list").iter().all(|entry| error(entry) <= 1e-4));

    let input = ["--json", "run", "all.cordon", "--device", "device", "--input", "x.npy"];
    let x = cordon_executor::Tensor::from_f32(vec![1, 1, 32, 32], &[0.25; 1024]).expect("fits");
    cordon_executor::files::write(&world.path("x.npy"), &[(String::new(), x)]).expect("writable");
    let resident = lines(&world.ok(&input)).remove(0);
    let predicted = number(&resident["secure_memory_predicted"]);
    assert!(number(&resident["secure_memory_measured"]) <= predicted, "{resident}");
    let least = number(&plan["secure_memory_minimum"]).to_string();
    let streamed = lines(&world.ok(&[&input[..], &["--secure-memory", &least]].concat())).remove(0);
    assert_eq!(streamed["outputs"], resident["outputs"]);
    assert!(number(&streamed["secure_memory_measured"]) <= number(&streamed["secure_memory_predicted"]), "{streamed}");
    assert!(number(&streamed["secure_memory_predicted"]) <= predicted, "{streamed}");
    let refused = world.fails(&[&input[..], &["--secure-memory", "64KiB"]].concat());
    assert!(refused.contains("memory"), "{refused}");
}

#[test]
fn scores_are_the_same_whatever_the_policy() {
    let world = prepared();
    let score = |policy: &str| {
        seal(&world, &["--output-policy", policy, "--name", policy, "-o", "out.cordon"]);
        let run = ["--json", "run", "out.cordon", "--device", "device", "--input", "images/4.png"];
        let best = lines(&world.ok(&run)).remove(0)["outputs"][0]["classes"][0][0].clone();
        assert_eq!(best["class"], 4);
        best["score"].as_f64()
    };
    let full = score("full").expect("a score");
    for policy in ["rounded:3", "top:3:3"] {
        assert!((score(policy).expect("a score") - full).abs() <= 5.1e-4, "{policy}");
    }
    assert_eq!(score("label"), None);
}

#[test]
fn a_device_accepts_only_what_is_meant_for_it() {
    let world = prepared();
    seal(&world, &["--name", "digits", "--version", "2", "-o", "two.cordon"]);
    seal(&world, &["--name", "digits", "--version", "1", "-o", "one.cordon"]);
    let run = |package: &'static str, device: &'static str| {
        vec!["run", package, "--device", device, "--input", "images/3.png"]
    };
    world.ok(&run("one.cordon", "device"));
    world.ok(&run("two.cordon", "device"));
    assert!(world.fails(&run("one.cordon", "device")).contains("version"));

    // Another device, until the owner grants it the package.
    world.ok(&["device", "init", "--owner", "owner.key.pub", "--dir", "second", "--recipient-out", "second.txt"]);
    assert!(world.fails(&run("two.cordon", "second")).contains("grant"));
    let grant = ["grant", "two.cordon", "--owner", "owner.key", "--recipient", "second.txt"];
    world.ok(&[&grant[..], &["--number", "2", "--not-after", "2020-01-01", "-o", "two.cordon.grant"]].concat());
    assert!(world.fails(&run("two.cordon", "second")).contains("expired"), "a grant ends as packages do");
    world.ok(&["grant", "two.cordon", "--owner", "owner.key", "--recipient", "second.txt", "-o", "new.grant"]);
    world.ok(&[&run("two.cordon", "second")[..], &["--grant", "new.grant"]].concat());

    // A device that pins somebody else.
    world.ok(&["keygen", "owner", "-o", "other.key"]);
    world.ok(&["device", "init", "--owner", "other.key.pub", "--dir", "third"]);
    assert!(world.fails(&run("two.cordon", "third")).contains("pin"));
    assert!(world.fails(&["verify", "two.cordon", "--owner", "other.key.pub"]).contains("pin"));

    // Every byte is covered: flip one here and there.
    let package = std::fs::read(world.path("two.cordon")).expect("readable");
    for at in [0, 40, 200, package.len() / 3, package.len() / 2, package.len() - 1] {
        let mut bytes = package.clone();
        bytes[at] ^= 4;
        world.write("bad.cordon", bytes);
        world.fails(&["run", "bad.cordon", "--device", "device", "--input", "images/3.png"]);
        world.fails(&["verify", "bad.cordon", "--owner", "owner.key.pub"]);
    }
}

#[test]
fn a_package_of_format_1_is_read_and_runs() {
    let world = World::new();
    let vectors = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../vectors/format-1");
    std::fs::create_dir(world.path("device")).expect("writable");
    let files = [("digits.cordon", "digits.cordon"), ("digits.pub", "owner.pub"), ("digits.key", "device/device.key")];
    for (from, to) in files {
        std::fs::copy(vectors.join(from), world.path(to)).expect("there");
    }
    let verified = lines(&world.ok(&["--json", "verify", "digits.cordon", "--owner", "owner.pub"])).remove(0);
    assert_eq!((&verified["output_policy"], &verified["version"]), (&"top:2".into(), &7.into()));
    let placements: Vec<_> =
        verified["segments"].as_array().expect("a list").iter().map(|it| it["placement"].clone()).collect();
    assert_eq!(placements, ["secure", "normal", "secure"]);
    let results = lines(&world.ok(&["--json", "run", "digits.cordon", "--device", "device", "--input", "images"]));
    for (class, result) in results.iter().enumerate() {
        let best = &result["outputs"][0]["classes"][0][0];
        assert_eq!(best["class"], class, "{result}");
        assert!(best["label"].is_string(), "{result}");
    }
    assert_eq!(results.len(), 10);
}

#[test]
fn limits_of_the_package_are_kept() {
    let world = prepared();
    seal(&world, &["--max-requests", "3", "-o", "three.cordon"]);
    let run = ["run", "three.cordon", "--device", "device", "--input"];
    world.ok(&[&run[..], &["images/0.png"]].concat());
    assert!(world.fails(&[&run[..], &["images"]].concat()).contains("requests"));
    // Sealing what no device would accept any more fails in the check and leaves nothing.
    let expired = world.fails(&[&SEAL[..], &["--not-after", "2020-01-01", "-o", "old.cordon"]].concat());
    assert!(expired.contains("expired"), "{expired}");
    assert!(!world.path("old.cordon").exists());
    seal(&world, &["--not-after", "2999-12-31", "-o", "new.cordon"]);
    world.ok(&["run", "new.cordon", "--device", "device", "--input", "images/0.png"]);
}

#[test]
fn bench_reports_every_variant_in_one_json_object() {
    let world = prepared();
    let bench = ["--json", "bench", "digits.onnx", "--plan", "plan.toml", "--repeat", "3", "--threads", "1"];
    let variants = lines(&world.ok(&bench));
    let names: Vec<_> = variants.iter().map(|variant| variant["variant"].as_str().expect("a name")).collect();
    assert_eq!(names, ["plain", "all-secure", "planned"]);
    for variant in &variants {
        for key in ["baseline", "median_ms", "ratio", "secure_memory_predicted", "secure_memory_measured"] {
            assert!(!variant[key].is_null(), "{key} in {variant}");
        }
        let number = |key: &str| variant[key].as_u64().expect("a number");
        assert!(number("secure_memory_measured") <= number("secure_memory_predicted"), "{variant}");
        let expected = [0, 2, 4][names.iter().position(|name| variant["variant"] == *name).expect("known")];
        assert_eq!(number("crossings"), expected, "{variant}");
    }
    assert_eq!(variants[2]["crossing_bytes"].as_u64(), Some(4096 + 8192 + 1024 + 40));
}

#[test]
fn bench_against_an_engine_compares_plans_or_budgets_and_knows_its_floor() {
    let world = World::new();
    let bench = ["--json", "bench", "digits.onnx", "--against", "rten", "--repeat", "3", "--threads", "1"];
    let names = |values: &[serde_json::Value]| -> Vec<String> {
        values.iter().map(|variant| variant["variant"].as_str().expect("a name").to_owned()).collect()
    };
    let mut budgets = lines(&world.ok(&[&bench[..], &["--secure-memory", "3MiB,4MiB"]].concat()));
    budgets.pop();
    assert_eq!(names(&budgets), ["plain", "all-secure", "all-secure in 3.0 MiB", "all-secure in 4.0 MiB"]);
    assert_eq!(budgets[2]["secure_memory_limit"], 3 << 20);
    assert!(budgets[1]["slowdown"] == 1.0 && budgets[2]["slowdown"].as_f64().is_some_and(|it| it > 0.0));
    let mut values = lines(&world.ok(&bench));
    let summary = values.pop().expect("the last line")["summary"].take();
    assert_eq!(names(&values), ["plain", "all-secure", "classifier", "ternary"]);
    for variant in &values {
        assert_eq!(variant["baseline"], "rten");
        assert!(variant["ratio_to_onnxruntime"].is_null(), "that engine did not run: {variant}");
        assert_eq!(variant["ratio_quartiles"].as_array().map(Vec::len), Some(2), "{variant}");
    }
    // The classifier is the last layer, `logits`: 64 values in, 10 scores out.
    assert_eq!((&values[2]["crossings"], &values[2]["crossing_bytes"]), (&2.into(), &(64 * 4 + 10 * 4).into()));
    let number = |value: &serde_json::Value| value.as_f64().expect("a number");
    let macs = 9 * (16 * 1024 + 16 * 32 * 256 + 32 * 32 * 64 + 32 * 64 * 16) + 256 * 64 + 64 * 10;
    assert_eq!(summary["model"]["flops"], 2 * macs);
    let rate = number(&summary["machine"]["peak_gflops"]);
    let floor = f64::from(2 * macs) / rate / 1e6;
    assert!((number(&summary["model"]["floor_of_flops_ms"]) / floor - 1.0).abs() < 1e-3, "{summary}");
    assert!(number(&summary["crossing_us"]) > 0.0 && number(&summary["empty_request_us"]) > 0.0, "{summary}");
}

#[test]
fn profile_names_every_instruction_and_its_node() {
    let world = World::new();
    let mut values =
        lines(&world.ok(&["--json", "bench", "digits.onnx", "--profile", "--repeat", "3", "--threads", "2"]));
    let profile = values.pop().expect("the last line")["profile"].take();
    assert_eq!(profile["machine"]["threads"], 2);
    assert!(profile["measured_in"].as_str().expect("said").contains("unprotected"), "{profile}");
    let nodes: Vec<_> = values.iter().filter_map(|line| line["node"].as_str()).collect();
    assert_eq!(nodes, ["block1.conv", "block2.conv", "block3.conv", "block4.conv", "hidden", "logits"]);
    let flops: u64 = values.iter().map(|line| line["flops"].as_u64().expect("a number")).sum();
    assert_eq!(profile["flops"], flops);
    assert!(values.iter().all(|line| line["median_ms"].as_f64().is_some_and(|time| time > 0.0)));
}

#[test]
fn doctor_and_demo_succeed() {
    let world = World::new();
    let checks = lines(&world.ok(&["--json", "doctor"]));
    assert!(checks.iter().any(|check| check["check"] == "process enclave" && check["verdict"] == "ok"));
    assert!(checks.iter().all(|check| check["verdict"] == "ok" || !check["advice"].as_str().unwrap_or("").is_empty()));
    let demo = lines(&world.ok(&["--json", "demo"])).remove(0);
    assert_eq!(demo["agree"], 10);
    assert!(demo["refused"]["tampered"].is_string() && demo["refused"]["older"].is_string());
}
