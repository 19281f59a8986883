//! Why there is no plan.

use cordon_fault::Next;
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
    /// The model has no such cut or node.
    UnknownCut(String),
    /// The bounds of FrontNet and BackNet contradict the goal or each other.
    Bounds {
        /// What does not go together.
        what: String,
        /// What would resolve it.
        next: Next<'static>,
    },
    /// A value without a static shape.
    OpenShape {
        /// Its name.
        value: String,
    },
    /// Preprocessing does not yield what an input takes.
    Image(String),
    /// The number of labels is not the number of classes.
    Labels(String),
    /// No segment computes this output.
    Output {
        /// Its name.
        name: String,
    },
    /// The model leaves nothing to plan.
    Nothing(&'static str),
    /// The plan file is not what it claims to be.
    Malformed(String),
    /// The plan is for another model or platform.
    Mismatch(String),
    /// The plan is for the same model with other shapes.
    OtherShapes,
    /// The secure part needs more memory than allowed.
    SecureMemory {
        /// Bytes needed at the least.
        needed: u64,
        /// Bytes allowed.
        available: u64,
        /// The segment that asks.
        segment: String,
        /// A cut after which everything inside would fit, when one is known.
        cut: Option<usize>,
    },
}

impl fmt::Display for PlanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Graph(error) => error.fmt(f),
            Self::Lower(error) => error.fmt(f),
            Self::UnknownCut(what)
            | Self::Bounds { what, .. }
            | Self::Image(what)
            | Self::Labels(what)
            | Self::Mismatch(what) => f.write_str(what),
            Self::OpenShape { value } => write!(f, "value `{value}` has no static shape"),
            Self::Output { name } => {
                write!(f, "output `{name}` is an input or a constant of the model: no segment computes it")
            }
            Self::Nothing(what) => f.write_str(what),
            Self::OtherShapes => f.write_str("the plan was made with other shapes than the model was read with"),
            Self::Malformed(what) => write!(f, "malformed plan: {what}"),
            Self::SecureMemory { needed, available, segment, .. } => {
                write!(f, "segment {segment} needs {needed} bytes of secure memory, {available} are allowed")
            }
        }
    }
}

cordon_fault::faults! {
    PlanError;
    wraps {
        Self::Graph(error) => error;
        Self::Lower(error) => error;
    }
    entries {
        Self::UnknownCut(_) => "plan-unknown-cut", Misuse, Next::InspectModel, "The model has no such cut or node.";
        Self::Bounds { .. } => "plan-bounds", Misuse, Next::ChooseBounds,
            "The bounds of FrontNet and BackNet contradict the goal or each other.";
        Self::OpenShape { .. } => "plan-open-shape", Misuse, Next::BindShape { input: None },
            "A value has no static shape.";
        Self::Image(_) => "plan-image", Misuse, Next::CheckImage, "Preprocessing does not yield what an input takes.";
        Self::Labels(_) => "plan-labels", Misuse, Next::LabelPerClass, "The number of labels is not the number of classes.";
        Self::Output { .. } => "plan-output", Unsupported, Next::RemoveOutput,
            "An output is an input or a constant of the model.";
        Self::Nothing(_) => "plan-nothing", Unsupported, Next::InspectModel, "The model leaves nothing to plan.";
        Self::Malformed(_) => "plan-malformed", Hostile, Next::PlanAgain, "The plan file is not what it claims to be.";
        Self::Mismatch(_) => "plan-mismatch", Misuse, Next::PlanAgain, "The plan is for another model or platform.";
        Self::OtherShapes => "plan-other-shapes", Misuse, Next::SameShapes,
            "The plan is for the same model with other shapes.";
        Self::SecureMemory { .. } => "plan-does-not-fit", Resource, Next::MoreMemory { enough: None, cut: None },
            "The secure part needs more memory than allowed.";
    }
    next {
        Self::Bounds { next, .. } => *next;
        Self::SecureMemory { needed, cut, .. } => Next::MoreMemory { enough: Some(*needed), cut: *cut };
    }
    place { Self::OpenShape { value } => cordon_fault::Place { value: Some(value), ..Default::default() }; }
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
