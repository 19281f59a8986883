//! An enclave that reads the package itself: the same results with fewer commands, and nothing believed of the file.

mod support;

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use cordon_package::SectionKind;
use cordon_protocol::Code;
use cordon_runtime::{Deployment, PackageFile, ProcessBackend, RuntimeError, Tensor};
use support::{STREAMING, World, X, assert_serves, deployment, run};

/// A deployment whose enclave reads `file`, whatever that is.
fn reading(world: &World, file: &Path) -> Deployment {
    let package = PackageFile::open(world.package()).expect("a good package");
    let backend = ProcessBackend::new(world.key(), Some(STREAMING)).threads(2);
    let backend = Box::new(backend.package(File::open(file).expect("it is there")));
    let executor = cordon_executor::open("rten", &cordon_executor::Options::default()).expect("always there");
    Deployment::with_backend(package, vec![], world.device.clone(), backend, executor.as_ref()).expect("opens")
}

/// A copy of the package, and where each stored chunk of its weights begins.
fn copy(world: &World) -> (PathBuf, Vec<u64>) {
    let path = world.package().with_extension("copy");
    std::fs::copy(world.package(), &path).expect("writable");
    let package = PackageFile::open(world.package()).expect("a good package");
    let weights = package.header().section(SectionKind::Weights, 0).expect("it has weights").clone();
    (path, (0..weights.chunks()).map(|index| weights.chunk(index).expect("a chunk").0).collect())
}

fn refused(model: &mut Deployment) -> Code {
    match run(model).expect_err("the file is not the package") {
        RuntimeError::Refused { refusal, .. } => refusal.code,
        other => panic!("{other}"),
    }
}

#[test]
fn results_are_the_same_and_chunks_are_not_asked_for() {
    let world = World::new();
    let x = Tensor::from_f32(vec![1, 4], &X).expect("four values");
    let (mut asking, _) = deployment(&world, STREAMING);
    let mut reading = reading(&world, &world.package());
    for _ in 0..3 {
        let (asked, read) = (asking.run(&[("x", &x)]).expect("runs"), reading.run(&[("x", &x)]).expect("runs"));
        assert_eq!(asked.outputs, read.outputs);
        let (asked, read) = (asked.segments[0], read.segments[0]);
        assert!(read.weight_bytes > 0 && read.weight_bytes == asked.weight_bytes, "{read:?} {asked:?}");
        assert!(read.commands < asked.commands, "{} and {}", read.commands, asked.commands);
    }
    let guards = |model: &Deployment| {
        let greeting = model.greeting().expect("secure");
        greeting.protections.iter().map(|line| (line.guard, line.is_in_force())).collect::<Vec<_>>()
    };
    assert_eq!(guards(&asking), guards(&reading), "the map costs no protection");
}

#[test]
fn a_file_that_changes_under_the_enclave_is_noticed() {
    let world = World::new();
    let (path, chunks) = copy(&world);
    let file = OpenOptions::new().read(true).write(true).open(&path).expect("writable");
    let mut model = reading(&world, &path);
    for round in 0..2 {
        for at in [0, 1001] {
            // Which chunks stay inside depends on the budget, so all of them change.
            let flip = || {
                for chunk in &chunks {
                    let mut byte = [0];
                    file.read_exact_at(&mut byte, chunk + at).expect("inside");
                    file.write_all_at(&[byte[0] ^ 1], chunk + at).expect("writable");
                }
            };
            flip();
            assert_eq!(refused(&mut model), Code::CorruptChunk, "round {round}, byte {at}");
            flip();
            // From the second round on every chunk has been seen once, and marks decide.
            assert_serves(&mut model);
        }
    }
}

#[test]
fn another_file_and_a_short_one_are_refused() {
    let world = World::new();
    let (path, chunks) = copy(&world);
    let good = std::fs::read(&path).expect("readable");
    let shifted = [&[0; 8][..], &good].concat();
    let short = &good[..chunks[0] as usize + 10];
    for (name, bytes) in [("zeros", &vec![0; good.len()][..]), ("shifted", &shifted), ("short", short)] {
        std::fs::write(&path, bytes).expect("writable");
        assert_eq!(refused(&mut reading(&world, &path)), Code::CorruptChunk, "{name}");
    }
}

#[test]
fn a_file_that_is_cut_under_the_enclave_ends_it_and_the_next_one_serves() {
    let world = World::new();
    let (path, chunks) = copy(&world);
    let whole = std::fs::read(&path).expect("readable");
    let mut model = reading(&world, &path);
    assert_serves(&mut model);
    let file = File::options().write(true).open(&path).expect("writable");
    file.set_len(chunks[0]).expect("shorter");
    let error = run(&mut model).expect_err("pages are gone");
    assert!(matches!(error, RuntimeError::Died { .. }), "{error}");
    file.write_all_at(&whole, 0).expect("writable");
    assert_serves(&mut reading(&world, &path));
}
