//! Why a segment cannot be lowered.

use cordon_engine::EngineError;
use cordon_fault::{Next, Place};
use core::fmt;

/// Every variant names the node or value.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LowerError {
    /// The trusted engine cannot run this node as it stands. It may still be placed in a normal segment.
    Unsupported {
        /// Name of the node.
        node: String,
        /// Its operator, with the domain in front when it is not ONNX's own.
        op_type: String,
        /// Version of the operator set.
        opset: i64,
        /// What exactly is missing.
        reason: String,
    },
    /// A value of the segment has no static shape yet.
    UnknownShape {
        /// Name of the value.
        value: String,
    },
    /// A value's element type does not exist in the trusted engine.
    ElementType {
        /// Name of the value.
        value: String,
        /// ONNX's name of the type.
        elem: String,
    },
    /// A tensor or the arena exceeds the 2^32 elements a `Program` can address.
    TooLarge {
        /// Name of the value, or what else it is.
        what: String,
    },
    /// A weight cannot be stored as f16.
    HalfRange {
        /// The initializer.
        weight: String,
        /// One of its elements, as it would be stored.
        value: String,
    },
    /// The caller asked for something inconsistent, such as a value id that the map lacks.
    Misuse(String),
    /// The engine refused what this crate built.
    Engine(EngineError),
}

impl fmt::Display for LowerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unsupported { node, op_type, opset, reason } => {
                write!(f, "node {node:?} ({op_type}, opset {opset}) cannot run in a secure segment: {reason}")
            }
            Self::UnknownShape { value } => write!(f, "value {value:?} has no static shape"),
            Self::ElementType { value, elem } => {
                write!(f, "value {value:?} has element type {elem}, which a secure segment does not support")
            }
            Self::TooLarge { what } => write!(f, "{what} exceeds 2^32 elements"),
            Self::HalfRange { weight, value } => write!(
                f,
                "weight {weight:?} has an element {value} (batch normalisation folded in), which f16 cannot hold: its largest \
                 number is 65504"
            ),
            Self::Misuse(what) => write!(f, "lower was called wrongly: {what}"),
            Self::Engine(error) => write!(f, "the trusted engine refused the program: {error}"),
        }
    }
}

cordon_fault::faults! {
    LowerError;
    wraps { Self::Engine(error) => error; }
    entries {
        Self::Unsupported { .. } => "node-not-secure", Unsupported, Next::MoveCut,
            "The trusted engine cannot run this node as it stands; a normal segment can.";
        Self::UnknownShape { .. } => "value-open-shape", Misuse, Next::BindShape { input: None },
            "A value of a secure segment has no static shape.";
        Self::ElementType { .. } => "value-type-not-secure", Unsupported, Next::ConvertType,
            "The trusted engine does not have this element type.";
        Self::TooLarge { .. } => "value-too-large", Unsupported, Next::Smaller,
            "A tensor or the arena exceeds the 2^32 elements a Program can address.";
        Self::HalfRange { .. } => "weight-out-of-half-range", Unsupported, Next::FullPrecision,
            "A weight cannot be stored as float16.";
        Self::Misuse(_) => "lower-misuse", Bug, Next::Report, "A segment was lowered with inconsistent arguments.";
    }
    next {}
    place {
        Self::Unsupported { node, .. } => Place { node: Some(node), ..Place::default() };
        Self::UnknownShape { value } | Self::ElementType { value, .. } => Place { value: Some(value), ..Place::default() };
        Self::HalfRange { weight, .. } => Place { value: Some(weight), ..Place::default() };
    }
}

impl core::error::Error for LowerError {}
