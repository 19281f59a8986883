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
        Ok(Self::of(request, small, large))
    }

    /// From the times of a request with small values, and of its segment with small and with large ones.
    fn of(request: f64, small: f64, large: f64) -> Self {
        // Two crossings in each run: the value goes in and comes out.
        let mib = 2.0 * ((LARGE - SMALL) * 4) as f64 / f64::from(1 << 20);
        Self { request, fixed: small / 2.0, per_mib: (large - small).max(0.0) / mib }
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
    fn costs_follow_from_the_times_of_small_and_large_values() {
        let cost = CrossingCost::of(90.0, 30.0, 530.0);
        assert_eq!((cost.request, cost.fixed), (90.0, 15.0));
        assert!((cost.per_mib - 250.0).abs() < 0.1, "500 us for almost 2 MiB: {cost:?}");
        assert_eq!(CrossingCost::of(90.0, 30.0, 20.0).per_mib, 0.0, "a machine busy with other work");
        assert_eq!(cost.total(4, 0), 60.0);
        assert!((cost.total(2, 1 << 20) - 280.0).abs() < 0.1);
    }

    /// How long it takes is for a benchmark to say.
    #[test]
    fn the_model_that_measures_runs_in_an_enclave() {
        let scratch = Scratch::new(backend::open(backend::DEFAULT).expect("known")).expect("an enclave starts");
        let options = cordon_executor::Options { threads: Some(1), library: None };
        let cost = CrossingCost::measure(&scratch, ("rten", &options)).expect("measured");
        assert!(cost.fixed > 0.0 && cost.request > 0.0, "{cost:?}");
    }
}
