//! One network in every place: the same bits, whatever the kernels' threads and wherever it runs.

use cordon_conformance::place::{Enclave, InProcess, Loaded as _, Place as _};
use cordon_engine::KernelSet;
use cordon_executor::{Options, Tensor};
use cordon_native::with_threads;
use cordon_plain::{EngineEvaluator, PlainModel};
use cordon_plan::{Bound, Constraints, Cuts, Model, Protect};
use cordon_runtime::backend::DEFAULT;
use cordon_seal::Probe;
use std::path::{Path, PathBuf};

fn file() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/digits/digits.onnx")
}

fn digits() -> (Model, Probe) {
    let rten = cordon_executor::open("rten", &Options::default()).expect("built in");
    let model = cordon_plan::prepare(&file(), &Default::default(), &mut EngineEvaluator(&*rten)).expect("reads");
    let probe = cordon_seal::seeded(&model, 1).expect("floats").remove(0);
    (model, probe)
}

#[test]
fn the_enclave_computes_the_bits_of_this_process() {
    let (model, probe) = digits();
    let enclave = Enclave::open(DEFAULT, "rten", Options::default()).expect("an enclave starts");
    let sealed = enclave.load(&model.graph).expect("opens").run(&probe.request()).expect("runs");
    for threads in [1, 2, 3] {
        let here = InProcess(with_threads(KernelSet::detect(), threads)).load(&model.graph).expect("loads");
        let here = { here }.run(&probe.request()).expect("runs");
        assert_eq!(here, sealed, "{threads} threads");
    }
}

#[test]
fn three_segments_compute_what_the_plain_model_computes() {
    let (model, probe) = digits();
    let rten = cordon_executor::open("rten", &Options::default()).expect("built in");
    let mut plain = PlainModel::open(&file(), &model.graph, &model.graph.outputs, &*rten).expect("loads");
    let want: Vec<Tensor> = PlainModel::run(&mut plain, &probe.request()).expect("runs");
    let enclave = Enclave::open(DEFAULT, "rten", Options::default()).expect("an enclave starts");
    let nodes = model.graph.nodes.len();
    let cuts = Constraints {
        cuts: Cuts::Ends { front: Some(Bound::Cut(2)), back: Some(Bound::Cut(nodes - 2)) },
        ..Constraints::new(Protect::Both)
    };
    let mut sealed = enclave.seal(&model, &cuts).expect("opens");
    assert_eq!(sealed.plan.segments.len(), 3);
    let got = sealed.run(&probe.request()).expect("runs");
    let error = cordon_conformance::compare::relative_error(&got[0], &want[0]);
    assert!(error < 1e-4, "{error}");
}
