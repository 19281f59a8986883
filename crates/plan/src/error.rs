//! Why there is no plan.

use cordon_graph::GraphError;
use cordon_lower::LowerError;
use core::fmt;

/// Error of this crate.
#[derive(Debug)]
#[non_exhaustive]
pub enum PlanError {
    /// The model could not be read.
    Graph(GraphError),
    /// A secure segment contains something the trusted engine cannot run.
    Lower(LowerError),
    /// Constraints contradict each other or do not fit the model.
    Misuse(String),
    /// The plan file is not what it claims to be.
    Malformed(String),
    /// The plan is for another model, or for the same one with other shapes.
    Mismatch(String),
    /// The secure part needs more memory than allowed.
    SecureMemory {
        /// Bytes needed at the least.
        needed: u64,
        /// Bytes allowed.
        available: u64,
        /// The segment that asks.
        segment: String,
        /// The cheapest change that would fit, when one is known.
        advice: String,
    },
}

impl fmt::Display for PlanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Graph(error) => error.fmt(f),
            Self::Lower(error) => error.fmt(f),
            Self::Misuse(what) | Self::Mismatch(what) => f.write_str(what),
            Self::Malformed(what) => write!(f, "malformed plan: {what}"),
            Self::SecureMemory { needed, available, segment, advice } => {
                write!(f, "segment {segment} needs {needed} bytes of secure memory, {available} are allowed; {advice}")
            }
        }
    }
}

impl core::error::Error for PlanError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            Self::Graph(error) => Some(error),
            Self::Lower(error) => Some(error),
            _ => None,
        }
    }
}

impl From<GraphError> for PlanError {
    fn from(error: GraphError) -> Self {
        Self::Graph(error)
    }
}

impl From<LowerError> for PlanError {
    fn from(error: LowerError) -> Self {
        Self::Lower(error)
    }
}
