//! What a run gives back: outputs, what crossed, and what it cost.

use core::time::Duration;
use std::collections::HashMap;

use cordon_executor::Tensor;
use cordon_package::Placement;
use cordon_protocol::{MemoryUse, Ranked};

/// One output of the model.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// The values, rounded if the output policy says so.
    Tensor(Tensor),
    /// The best classes, if the output policy lets no more out.
    Ranked(Ranked),
}

/// What one segment of one run cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentCost {
    /// Where it ran.
    pub placement: Placement,
    /// Wall time, from the end of the segment before; in a [`Session`](crate::Session) with what it waited for its turn.
    pub elapsed: Duration,
    /// Values that crossed the boundary, in and out.
    pub crossings: u64,
    /// Their bytes.
    pub crossing_bytes: u64,
    /// Encrypted weight bytes that the enclave read back.
    pub weight_bytes: u64,
    /// Encrypted activation bytes that left for this host's memory, and came back.
    pub spilled_bytes: u64,
    /// Commands to the enclave.
    pub commands: u64,
}

impl SegmentCost {
    /// A segment that has not begun.
    pub(crate) fn nothing(placement: Placement) -> Self {
        Self {
            placement,
            elapsed: Duration::ZERO,
            crossings: 0,
            crossing_bytes: 0,
            weight_bytes: 0,
            spilled_bytes: 0,
            commands: 0,
        }
    }
}

/// The result of one run.
#[derive(Clone, Debug)]
pub struct Run {
    /// Name and value of every output, in the model's order.
    pub outputs: Vec<(String, Output)>,
    /// Values that crossed between segments, by package value index: what the host could see.
    pub exposed: HashMap<u32, Tensor>,
    /// One for each segment, in order.
    pub segments: Vec<SegmentCost>,
    /// Secure memory after the last secure segment, with its high-water mark since the enclave started; zeros without
    /// secure segments.
    pub memory: MemoryUse,
    /// Wall time of the whole.
    pub elapsed: Duration,
}

impl Run {
    /// Values that crossed the boundary.
    pub fn crossings(&self) -> u64 {
        self.segments.iter().map(|segment| segment.crossings).sum()
    }

    /// Bytes of the values that crossed the boundary.
    pub fn crossing_bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.crossing_bytes).sum()
    }
}
