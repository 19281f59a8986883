//! Networks quantised to 8 bits against ONNX Runtime's integer kernels, in steps of the output: both compute with integers, so
//! differences are whole steps, not roundings of `f32`.

use core::time::Duration;
use std::path::Path;
use std::time::Instant;

use cordon_engine::KernelSet;
use cordon_executor::{Executor, Tensor};
use cordon_graph::{Graph, NodeView};
use cordon_lower::{Local, lower_graph, run_lowered};

use crate::golden::{Ternary, draw, load, prepare, run};

/// Most steps an output may differ by: docs/decisions/0008-int8.md says where a single one comes from.
pub const STEPS: f64 = 3.0;
/// Most steps with the middle on ONNX Runtime. A cut may part a DequantizeLinear from its layer, which is then computed in
/// `f32` on that side; a step that comes of it grows in the layers behind.
pub const TERNARY_STEPS: f64 = 6.0;
/// Input draws per network.
const PROBES: u64 = 4;

/// What one network showed.
pub struct Row {
    /// Elements of all outputs over all draws, and those of the all-secure plan that differ at all.
    pub elements: usize,
    /// See [`Row::elements`].
    pub different: usize,
    /// Largest difference of the all-secure plan, in steps.
    pub all_secure: f64,
    /// Largest difference with the middle on ONNX Runtime, in steps.
    pub ternary: f64,
    /// Wall time of the whole check.
    pub time: Duration,
}

impl Row {
    /// Whether both plans agree with ONNX Runtime.
    pub fn passed(&self) -> bool {
        self.all_secure <= STEPS && self.ternary <= TERNARY_STEPS
    }
}

/// Why ONNX Runtime is no reference on this CPU, if it is none.
pub fn no_reference() -> Option<&'static str> {
    let exact = KernelSet::detect().integer_name().contains("vnni") || cfg!(target_arch = "aarch64");
    (!exact).then_some("without VNNI, ONNX Runtime adds products of bytes in 16 bits, which saturate")
}

/// Checks one quantised model of square images whose output is dequantised last. All kernel sets of this CPU must give the
/// same bytes.
pub fn check(model: &Path, size: usize, reference: &dyn Executor) -> Result<Row, String> {
    let start = Instant::now();
    let graph = prepare(model, size)?;
    let step = output_step(&graph).ok_or("the output is not a DequantizeLinear of one scale")?;
    let mut plain = load(model, reference)?;
    let whole = lower_graph(&graph).map_err(|e| e.to_string())?;
    let (mut ternary, _) = Ternary::new(&graph, reference)?;
    let mut row = Row { elements: 0, different: 0, all_secure: 0.0, ternary: 0.0, time: Duration::ZERO };
    let mut outputs: Vec<Vec<f64>> = Vec::new();
    for probe in 0..PROBES {
        let inputs = draw(&graph, probe)?;
        let want = values(&run(&mut *plain, &graph, &inputs)?);
        let got = run_lowered(&whole, &inputs).map_err(|e| e.to_string())?;
        if probe == 0 {
            for set in KernelSet::all_available() {
                let other = Local::new(&whole, set).and_then(|mut it| it.run(&inputs)).map_err(|e| e.to_string())?;
                if other != got {
                    return Err(format!("the kernels of {} give other bytes", set.integer_name()));
                }
            }
        }
        let got = values(&got);
        row.elements += want.len();
        row.different += got.iter().zip(&want).filter(|(got, want)| got != want).count();
        row.all_secure = row.all_secure.max(steps(&got, &want, step));
        row.ternary = row.ternary.max(steps(&values(&ternary.run(&graph, &inputs)?), &want, step));
        outputs.push(want);
    }
    if outputs.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err("two different inputs give the same output: the network tells nothing".into());
    }
    row.time = start.elapsed();
    Ok(row)
}

/// Distance of neighbouring values of the only output.
fn output_step(graph: &Graph) -> Option<f64> {
    let [output] = graph.outputs[..] else { return None };
    let node = graph.nodes.iter().find(|node| node.outputs.contains(&Some(output)))?;
    let scale = NodeView::new(graph, node).input_const(1)?.to_f32().ok()?;
    (node.op_type == "DequantizeLinear" && scale.len() == 1).then(|| f64::from(scale[0]))
}

fn values(outputs: &[Tensor]) -> Vec<f64> {
    outputs.iter().flat_map(Tensor::to_f64_lossy).collect()
}

fn steps(got: &[f64], want: &[f64], step: f64) -> f64 {
    if got.len() != want.len() {
        return f64::INFINITY;
    }
    let apart = got.iter().zip(want).map(|(got, want)| ((got - want).abs() / step).round());
    apart.fold(0.0, |most, apart| if apart.is_nan() { f64::INFINITY } else { most.max(apart) })
}
