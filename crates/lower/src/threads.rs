//! Threads for engines in this process.

use cordon_engine::{Compute, KernelSet, Parallel, Task};

/// A number of threads, the extra ones made anew for every run: some 30 us each. An enclave keeps its threads; here, in
/// safe Rust, a thread that outlives a run cannot be lent what the run borrows.
struct Threads(usize);

/// One of each number a deployment may have.
static THREADS: [Threads; 16] = {
    let mut all = [const { Threads(1) }; 16];
    let mut index = 0;
    while index < all.len() {
        all[index] = Threads(index + 1);
        index += 1;
    }
    all
};

/// This many threads, at least one and at most 16, and a kernel set.
pub fn with_threads(set: KernelSet, threads: usize) -> Compute {
    Compute { set, workers: &THREADS[threads.clamp(1, THREADS.len()) - 1] }
}

impl Parallel for Threads {
    fn threads(&self) -> usize {
        self.0
    }

    fn run(&self, tasks: &mut [Task<'_>]) {
        std::thread::scope(|scope| {
            let mut tasks = tasks.iter_mut();
            let own = tasks.next();
            for task in tasks {
                scope.spawn(task);
            }
            if let Some(task) = own {
                task();
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Local;
    use crate::testing::{OneNode, noise};

    /// Every instruction large enough that its kernel cuts it, where it can: convolutions of all kinds, element-wise,
    /// pooling, products, normalisation.
    fn network() -> OneNode {
        OneNode::new("Conv", 13)
            .input(noise(&[1, 3, 64, 64], 1))
            .constant(noise(&[48, 3, 3, 3], 2))
            .ints("pads", &[1, 1, 1, 1])
            .then("Relu")
            .then("Conv")
            .constant(noise(&[48, 1, 5, 5], 3))
            .int("group", 48)
            .ints("pads", &[2, 2, 2, 2])
            .then("Conv")
            .constant(noise(&[64, 48, 1, 1], 4))
            .then("Sigmoid")
            .then("Conv")
            .constant(noise(&[64, 64, 3, 3], 5))
            .ints("strides", &[2, 2])
            .ints("pads", &[1, 1, 1, 1])
            .then("MaxPool")
            .ints("kernel_shape", &[3, 3])
            .ints("strides", &[2, 2])
            .ints("pads", &[1, 1, 1, 1])
            .then("Flatten")
            .then("Gemm")
            .constant(noise(&[16384, 250], 6))
            .constant(noise(&[250], 7))
            .then("Softmax")
            .int("axis", 1)
    }

    /// Attention over 197 positions, as a vision transformer has it.
    fn attention() -> OneNode {
        OneNode::new("MatMul", 13)
            .input(noise(&[6, 197, 64], 1))
            .constant(noise(&[6, 64, 197], 2))
            .then("Softmax")
            .int("axis", -1)
            .then("MatMul")
            .constant(noise(&[6, 197, 64], 3))
            .then("Tanh")
            .then("Transpose")
            .ints("perm", &[1, 0, 2])
    }

    #[test]
    fn any_number_of_threads_gives_the_same_bits() {
        for (index, build) in [network(), attention()].into_iter().enumerate() {
            let lowered = build.lower().expect("lowers");
            for set in KernelSet::all_available() {
                let run = |threads| {
                    let mut local = Local::new(&lowered, with_threads(set, threads)).expect("loads");
                    local.run(build.inputs()).expect("runs").remove(0).data
                };
                let one = run(1);
                for threads in [2, 3, 16] {
                    assert!(run(threads) == one, "network {index}, {} kernels, {threads} threads", set.name());
                }
            }
        }
    }
}
