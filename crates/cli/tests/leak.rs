//! Looks for the secret weights, as the model stores them and as the engine packs them, in every file a sealed run leaves
//! and in the whole memory of the host process after it. Two controls show that the same scan finds what is there.
//!
//! The scanning process must not hold what it looks for, so patterns are handed to it masked.

mod common;

use common::World;
use cordon_graph::{NodeId, segment};
use cordon_plain::EngineEvaluator;
use cordon_plan::{Bound, Constraints, Cuts, Model, Plan, Profile, Protect, lower_plan, make, prepare};
use cordon_runtime::{Deployment, Tensor, backend};
use std::collections::{BTreeMap, HashSet};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

/// Bytes of one pattern: four floats.
const WIDTH: usize = 16;
const MASK: u8 = 0xa5;

/// Patterns with every bit pattern masked, so that holding them is not a finding.
struct Patterns {
    masked: HashSet<[u8; WIDTH]>,
    /// Which first four bytes occur, by their hash: a quick no for almost every place.
    first: Vec<u64>,
}

impl Patterns {
    fn new(masked: impl IntoIterator<Item = [u8; WIDTH]>) -> Self {
        let masked: HashSet<_> = masked.into_iter().collect();
        let mut first = vec![0u64; 1 << 12];
        for pattern in &masked {
            let slot = Self::slot([pattern[0], pattern[1], pattern[2], pattern[3]]);
            first[slot / 64] |= 1 << (slot % 64);
        }
        Self { masked, first }
    }

    fn slot(bytes: [u8; 4]) -> usize {
        (u32::from_le_bytes(bytes).wrapping_mul(0x9e37_79b1) >> 14) as usize
    }

    /// How many different patterns occur in `bytes`, at any offset.
    fn found_in(&self, bytes: &[u8], found: &mut HashSet<[u8; WIDTH]>) {
        for window in bytes.windows(WIDTH) {
            let slot = Self::slot([window[0] ^ MASK, window[1] ^ MASK, window[2] ^ MASK, window[3] ^ MASK]);
            if self.first[slot / 64] >> (slot % 64) & 1 == 0 {
                continue;
            }
            let masked: [u8; WIDTH] = core::array::from_fn(|i| window[i] ^ MASK);
            if self.masked.contains(&masked) {
                found.insert(masked);
            }
        }
    }

    fn found_in_file(&self, path: &Path) -> usize {
        let mut found = HashSet::new();
        self.found_in(&std::fs::read(path).expect("readable"), &mut found);
        found.len()
    }

    /// Every readable mapping of this process.
    fn found_in_own_memory(&self) -> usize {
        let maps = std::fs::read_to_string("/proc/self/maps").expect("Linux");
        let memory = std::fs::File::open("/proc/self/mem").expect("own memory");
        let mut found = HashSet::new();
        let mut buffer = vec![0u8; 1 << 20];
        for line in maps.lines() {
            let mut fields = line.split_whitespace();
            let (range, rights) = (fields.next().expect("a range"), fields.next().expect("rights"));
            if !rights.starts_with('r') || line.contains("[vvar") || line.contains("[vsyscall") {
                continue;
            }
            let (start, end) = range.split_once('-').expect("start-end");
            let parse = |text| u64::from_str_radix(text, 16).expect("hexadecimal");
            let (mut at, end) = (parse(start), parse(end));
            while at < end {
                let len = buffer.len().min((end - at) as usize);
                match memory.read_at(&mut buffer[..len], at) {
                    Ok(n) if n >= WIDTH => {
                        self.found_in(&buffer[..n], &mut found);
                        // The next piece overlaps, so that no pattern is cut in two.
                        at += if at + n as u64 >= end { n as u64 } else { (n - WIDTH + 1) as u64 };
                    }
                    _ => break,
                }
            }
            buffer.fill(0);
        }
        found.len()
    }
}

/// Patterns of a stretch of floats, one every 64 bytes; padding and other dull places are skipped.
fn patterns_of(bytes: &[u8]) -> impl Iterator<Item = [u8; WIDTH]> {
    bytes.chunks_exact(64).filter_map(|chunk| {
        let floats: HashSet<_> =
            chunk[..WIDTH].as_chunks::<4>().0.iter().filter(|float| float.iter().any(|&b| b != 0)).collect();
        (floats.len() == 4).then(|| core::array::from_fn(|i| chunk[i] ^ MASK))
    })
}

fn read_model(world: &World) -> Model {
    let engine = cordon_executor::open("rten", &cordon_executor::Options::default()).expect("built in");
    prepare(&world.path("digits.onnx"), &BTreeMap::new(), &mut EngineEvaluator(engine.as_ref())).expect("readable")
}

/// Weights of secure segments as the model stores them.
fn original(model: &Model, plan: &Plan) -> Vec<[u8; WIDTH]> {
    let mut at = 0;
    let mut out = Vec::new();
    for part in &plan.segments {
        let nodes = (at..at + part.nodes.len()).map(|index| NodeId(index as u32));
        at += part.nodes.len();
        if part.placement.is_secure() {
            for id in segment(&model.graph, nodes).nodes {
                let constants =
                    model.graph.node(id).uses().filter_map(|value| model.graph.value(value).constant.as_ref());
                constants.for_each(|tensor| out.extend(patterns_of(&tensor.data)));
            }
        }
    }
    out
}

/// The same weights as the engine reads them: folded, blocked, padded.
fn packed(model: &Model, plan: &Plan) -> Vec<[u8; WIDTH]> {
    let mut out = Vec::new();
    for part in lower_plan(model, plan, profile()).expect("its own model").segments {
        let mut stream = Vec::new();
        if let Some(lowered) = &part.lowered {
            lowered.write_weights(&mut |bytes| stream.extend_from_slice(bytes));
        }
        out.extend(patterns_of(&stream));
    }
    out
}

fn profile() -> &'static Profile {
    backend::open(backend::DEFAULT).expect("known").profile()
}

fn ternary() -> Constraints {
    let bound = |node: &str| Some(Bound::Node(node.into()));
    let cuts = Cuts::Ends { front: bound("block2.pool"), back: bound("hidden") };
    Constraints { cuts, ..Constraints::new(Protect::Both) }
}

/// Runs `package` in a process of its own and returns how many patterns its memory holds afterwards.
fn scan_host(world: &World, package: &str) -> usize {
    let output = Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", "host_process", "--nocapture"])
        .current_dir(world.path("."))
        .env("CORDON_LEAK_PACKAGE", package)
        .output()
        .expect("starts");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let found = said.lines().find_map(|line| line.split("patterns in memory: ").nth(1)?.trim().parse().ok());
    found.unwrap_or_else(|| panic!("{said}{}", String::from_utf8_lossy(&output.stderr)))
}

/// Not a test of its own: the host process that [`scan_host`] starts.
#[test]
fn host_process() {
    let Some(package) = std::env::var_os("CORDON_LEAK_PACKAGE") else { return };
    let mut bytes = Vec::new();
    std::fs::File::open("patterns.masked").expect("written").read_to_end(&mut bytes).expect("readable");
    let patterns = Patterns::new(bytes.as_chunks::<WIDTH>().0.iter().copied());
    let mut deployment = Deployment::options().device("device").open(Path::new(&package)).expect("opens");
    let image = Tensor::from_f32(vec![1, 1, 32, 32], &[0.5; 1024]).expect("fits");
    for _ in 0..3 {
        deployment.run(&[("image", &image)]).expect("runs");
    }
    println!("patterns in memory: {}", patterns.found_in_own_memory());
}

#[test]
fn secret_weights_are_nowhere_outside_the_enclave() {
    let world = World::new();
    world.ok(&["keygen", "owner", "-o", "owner.key"]);
    world.ok(&["device", "init", "--owner", "owner.key.pub", "--dir", "device", "--recipient-out", "recipient"]);
    let seal = |plan: &str, package: &str| {
        let args = ["--plan", plan, "--owner", "owner.key", "--recipient", "recipient", "-o", package];
        world.ok(&[&["seal", "digits.onnx"], &args[..]].concat());
    };
    world.ok(&[
        "plan",
        "digits.onnx",
        "--protect",
        "both",
        "--front",
        "block2.pool",
        "--back",
        "hidden",
        "-o",
        "plan.toml",
    ]);
    seal("plan.toml", "secure.cordon");
    world.ok(&["plan", "digits.onnx", "--protect", "none", "-o", "open.toml"]);
    seal("open.toml", "open.cordon");

    let model = read_model(&world);
    let plan = make(&model, &ternary(), profile()).expect("supported");
    let (original, packed) = (original(&model, &plan), packed(&model, &plan));
    assert!(original.len() > 200 && packed.len() > 200, "{} and {} patterns", original.len(), packed.len());
    let both: Vec<_> = original.iter().chain(&packed).copied().collect();
    world.write("patterns.masked", both.as_flattened());
    let patterns = Patterns::new(both);

    // The secret case: nothing in any file but the model itself, nothing in the host's memory.
    let public: Vec<String> =
        world.listing().into_iter().filter(|name| !matches!(name.as_str(), "digits.onnx" | "open.cordon")).collect();
    for name in public.iter().filter(|name| world.path(name).is_file()) {
        assert_eq!(patterns.found_in_file(&world.path(name)), 0, "{name}");
    }
    for entry in std::fs::read_dir(world.path("device")).expect("readable") {
        assert_eq!(patterns.found_in_file(&entry.expect("readable").path()), 0);
    }
    assert_eq!(scan_host(&world, "secure.cordon"), 0, "in the host's memory after a sealed run");

    // Controls: the scan finds the same weights where they do lie open.
    assert!(patterns.found_in_file(&world.path("digits.onnx")) >= original.len() / 2);
    assert!(patterns.found_in_file(&world.path("open.cordon")) >= original.len() / 2);
    assert!(scan_host(&world, "open.cordon") > original.len() / 2, "in the host's memory after an open run");
    let lowered = lower_plan(&model, &plan, profile()).expect("its own model");
    let mut held: Vec<Vec<u8>> = Vec::new();
    for part in &lowered.segments {
        if let Some(lowered) = &part.lowered {
            let mut stream = Vec::new();
            lowered.write_weights(&mut |bytes| stream.extend_from_slice(bytes));
            held.push(stream);
        }
    }
    let packed = Patterns::new(packed);
    assert!(packed.found_in_own_memory() >= packed.masked.len() / 2, "packed weights of {} segments", held.len());
    drop(core::hint::black_box(held));
}
