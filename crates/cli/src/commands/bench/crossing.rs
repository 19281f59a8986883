//! What one crossing costs: a model with next to nothing to compute, run with small and with large values.

use super::stats::median;
use crate::failure::Outcome;
use cordon_executor::Tensor;
use cordon_graph::{ElemType, Graph, Node, TensorType, Value, ValueId};
use cordon_package::OutputPolicy;
use cordon_plan::{Constraints, Model, Protect, make};
use cordon_seal::Scratch;
use core::hint::black_box;
use core::time::Duration;
use std::time::Instant;

/// Elements of the small value.
const SMALL: usize = 16;
/// Elements of the large value: 1 MiB.
const LARGE: usize = 1 << 18;
/// Runs of each.
const RUNS: usize = 101;
/// Work of the host between runs, as a normal segment would do: the enclave is asleep when its turn comes.
const BETWEEN: Duration = Duration::from_millis(1);

/// Measured costs, in microseconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct CrossingCost {
    /// A whole request whose values are 64 bytes: begin, both crossings, end, and waking the enclave each time.
    pub(super) request: f64,
    /// One crossing of a value of 64 bytes.
    pub(super) fixed: f64,
    /// What each further MiB of a value adds, one way: copying it out of shared memory or into it.
    pub(super) per_mib: f64,
}

impl CrossingCost {
    /// Measures on an enclave of its own.
    pub(super) fn measure(scratch: &Scratch, executor: (&str, &cordon_executor::Options)) -> Outcome<Self> {
        let (request, small) = times(scratch, executor, SMALL)?;
        let (_, large) = times(scratch, executor, LARGE)?;
        // Two crossings in each run: the value goes in and comes out.
        let mib = 2.0 * ((LARGE - SMALL) * 4) as f64 / f64::from(1 << 20);
        Ok(Self { request, fixed: small / 2.0, per_mib: (large - small).max(0.0) / mib })
    }

    /// What the crossings of a plan add up to.
    pub(super) fn total(&self, crossings: u64, bytes: u64) -> f64 {
        self.fixed * crossings as f64 + self.per_mib * bytes as f64 / f64::from(1 << 20)
    }
}

/// Median time of a request, and of its secure segment alone, in microseconds.
fn times(scratch: &Scratch, executor: (&str, &cordon_executor::Options), elements: usize) -> Outcome<(f64, f64)> {
    let model = Model::new(negation(elements), "crossing", &format!("{elements:064x}"))?;
    let plan = make(&model, &Constraints::new(Protect::All), scratch.device.backend().profile())?;
    let package = scratch.seal_unchecked(&model, &plan, &format!("crossing-{elements}"), 1, OutputPolicy::Full)?;
    let mut deployment = scratch.open(&package, &plan, executor)?;
    let input = Tensor::from_f32(vec![elements], &vec![1.0; elements])?;
    let (mut requests, mut segments) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        let run = deployment.run(&[("x", &input)])?;
        requests.push(run.elapsed.as_secs_f64() * 1e6);
        segments.push(run.segments.iter().map(|segment| segment.elapsed.as_secs_f64()).sum::<f64>() * 1e6);
        let between = Instant::now();
        while between.elapsed() < BETWEEN {
            black_box(&input);
        }
    }
    Ok((median(&requests), median(&segments)))
}

/// `y = -x`.
fn negation(elements: usize) -> Graph {
    let ty = || Some(TensorType::new(ElemType::Float, [elements]));
    let value = |name| Value { ty: ty(), ..Value::new(name) };
    let node = Node {
        name: "negation".into(),
        op_type: "Neg".into(),
        domain: String::new(),
        inputs: vec![Some(ValueId(0))],
        captures: Vec::new(),
        outputs: vec![Some(ValueId(1))],
        attributes: Default::default(),
    };
    Graph {
        ir_version: 8,
        opsets: [(String::new(), 17)].into(),
        values: vec![value("x"), value("y")],
        nodes: vec![node],
        inputs: vec![ValueId(0)],
        outputs: vec![ValueId(1)],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cordon_runtime::backend;

    #[test]
    fn larger_values_cost_more_and_requests_more_than_crossings() {
        let scratch = Scratch::new(backend::open(backend::DEFAULT).expect("known")).expect("an enclave starts");
        let options = cordon_executor::Options { threads: Some(1), library: None };
        let crossing = CrossingCost::measure(&scratch, ("rten", &options)).expect("measured");
        assert!(crossing.fixed > 0.0 && crossing.per_mib > 0.0 && crossing.request > crossing.fixed, "{crossing:?}");
        assert!(crossing.total(2, 1 << 20) > crossing.total(2, 0));
    }
}
