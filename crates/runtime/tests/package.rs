//! An enclave that reads the package itself: the same results with fewer commands, and nothing believed of the file.

mod support;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use cordon_package::SectionKind;
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

/// A copy of the package, and where the first stored chunk of its weights begins.
fn copy(world: &World) -> (PathBuf, u64) {
    let path = world.package().with_extension("copy");
    std::fs::copy(world.package(), &path).expect("writable");
    let package = PackageFile::open(world.package()).expect("a good package");
    let weights = package.header().section(SectionKind::Weights, 0).expect("it has weights").clone();
    (path, weights.chunk(0).expect("a chunk").0)
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
fn a_file_that_is_cut_under_the_enclave_ends_it_and_the_next_one_serves() {
    let world = World::new();
    let (path, first) = copy(&world);
    let whole = std::fs::read(&path).expect("readable");
    let mut model = reading(&world, &path);
    assert_serves(&mut model);
    let file = File::options().write(true).open(&path).expect("writable");
    file.set_len(first).expect("shorter");
    let error = run(&mut model).expect_err("pages are gone");
    assert!(matches!(error, RuntimeError::Died { .. }), "{error}");
    file.write_all_at(&whole, 0).expect("writable");
    assert_serves(&mut reading(&world, &path));
}
