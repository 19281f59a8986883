//! Networks quantised to 8 bits against ONNX Runtime's integer kernels, in steps of the output: both compute with integers, so
//! differences are whole steps, not roundings of `f32`.

use core::time::Duration;
use std::path::Path;
use std::time::Instant;

use cordon_engine::KernelSet;
use cordon_executor::{Executor, Tensor};
use cordon_graph::{Graph, NodeView};
use cordon_plan::{Constraints, Protect};

use crate::expectations::Networks;
use crate::golden::{answers, plain, read, ternary};
use crate::place::{Enclave, InProcess, Place as _};

/// Inputs drawn per network.
const PROBES: u64 = 4;

/// What one network showed.
pub struct Row {
    /// Elements of all outputs over all draws, and those of the all-secure plan that differ at all.
    pub elements: usize,
    /// See [`Row::elements`].
    pub different: usize,
    /// Largest difference of the all-secure package, in steps.
    pub all_secure: f64,
    /// Largest difference with the middle on ONNX Runtime, in steps.
    pub ternary: f64,
    /// Wall time of the whole check.
    pub time: Duration,
}

impl Row {
    /// Whether both packages agree with ONNX Runtime.
    pub fn passed(&self, expected: Networks) -> bool {
        self.all_secure <= expected.steps && self.ternary <= expected.steps_ternary
    }
}

/// Why ONNX Runtime is no reference on this CPU, if it is none.
pub fn no_reference() -> Option<&'static str> {
    let exact = KernelSet::detect().integer_name().contains("vnni") || cfg!(target_arch = "aarch64");
    (!exact).then_some("without VNNI, ONNX Runtime adds products of bytes in 16 bits, which saturate")
}

/// Checks one quantised model of square images whose output is dequantised last. All kernel sets of this CPU must give the
/// bytes that the enclave gives.
pub fn check(file: &Path, size: usize, reference: &dyn Executor, enclave: &Enclave) -> Result<Row, String> {
    let start = Instant::now();
    let model = read(file, size)?;
    let step = output_step(&model.graph).ok_or("the output is not a DequantizeLinear of one scale")?;
    let probes = cordon_seal::seeded(&model, PROBES).map_err(|e| e.to_string())?;
    let want = answers(&mut plain(file, &model, reference)?, &probes)?;
    if want.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err("two different inputs give the same output: the network tells nothing".into());
    }
    let got = answers(&mut enclave.seal(&model, &Constraints::new(Protect::All))?, &probes)?;
    for set in KernelSet::all_available() {
        let mut other = InProcess(set.into()).load(&model.graph)?;
        if answers(&mut *other, &probes[..1])? != got[..1] {
            return Err(format!("the kernels of {} give other bytes", set.integer_name()));
        }
    }
    let ternary = answers(&mut enclave.seal(&model, &ternary(&model.graph))?, &probes)?;
    let (want, got, ternary) = (values(&want), values(&got), values(&ternary));
    Ok(Row {
        elements: want.len(),
        different: got.iter().zip(&want).filter(|(got, want)| got != want).count(),
        all_secure: steps(&got, &want, step),
        ternary: steps(&ternary, &want, step),
        time: start.elapsed(),
    })
}

/// Distance of neighbouring values of the only output.
fn output_step(graph: &Graph) -> Option<f64> {
    let [output] = graph.outputs[..] else { return None };
    let node = graph.nodes.iter().find(|node| node.outputs.contains(&Some(output)))?;
    let scale = NodeView::new(graph, node).input_const(1)?.to_f32().ok()?;
    (node.op_type == "DequantizeLinear" && scale.len() == 1).then(|| f64::from(scale[0]))
}

fn values(answers: &[Vec<Tensor>]) -> Vec<f64> {
    answers.iter().flatten().flat_map(Tensor::to_f64_lossy).collect()
}

fn steps(got: &[f64], want: &[f64], step: f64) -> f64 {
    if got.len() != want.len() {
        return f64::INFINITY;
    }
    let apart = got.iter().zip(want).map(|(got, want)| ((got - want).abs() / step).round());
    apart.fold(0.0, |most, apart| if apart.is_nan() { f64::INFINITY } else { most.max(apart) })
}
