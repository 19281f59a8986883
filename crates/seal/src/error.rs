//! Why there is no package.

use cordon_executor::ExecutorError;
use cordon_fault::Next;
use cordon_graph::GraphError;
use cordon_package::PackageError;
use cordon_plan::PlanError;
use cordon_runtime::RuntimeError;
use core::fmt;
use std::path::PathBuf;

/// Error of this crate.
#[derive(Debug)]
#[non_exhaustive]
pub enum SealError {
    /// The plan does not fit the model, or a segment cannot be lowered.
    Plan(PlanError),
    /// A normal segment cannot be written.
    Graph(GraphError),
    /// The package cannot be made or read back.
    Package(PackageError),
    /// The plain model or a normal segment cannot be run.
    Executor(ExecutorError),
    /// The sealed model cannot be run in the enclave.
    Runtime(RuntimeError),
    /// A weight would be both secret and public.
    Exposed {
        /// The initializer.
        initializer: String,
        /// A secure node that uses it.
        secure: String,
        /// A normal node that uses it, or a fold of it.
        normal: String,
    },
    /// The golden check failed.
    Golden(String),
    /// The golden check failed with weights stored as float16, which may be why.
    Rounded(String),
    /// The probes prove too little, or none can be made up.
    Probes(String),
    /// An input without a static shape.
    OpenShape {
        /// Its name.
        input: String,
    },
    /// A value of this type passes between segments, which the package format does not allow.
    Crossing(String),
    /// The output policy cannot be kept with this placement.
    Policy(&'static str),
    /// The caller asked for something that does not fit the plan.
    Misuse(String),
    /// A file could not be written.
    Io {
        /// Which one.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
}

impl fmt::Display for SealError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plan(error) => error.fmt(f),
            Self::Graph(error) => error.fmt(f),
            Self::Package(error) => error.fmt(f),
            Self::Executor(error) => error.fmt(f),
            Self::Runtime(error) => error.fmt(f),
            Self::Exposed { initializer, secure, normal } => write!(
                f,
                "initializer `{initializer}` is secret in node `{secure}` but node `{normal}` of a normal segment uses it too"
            ),
            Self::Golden(what) | Self::Rounded(what) => {
                write!(f, "the sealed model does not compute what the model computes: {what}")
            }
            Self::OpenShape { input } => write!(f, "input `{input}` has no static shape"),
            Self::Probes(what) | Self::Crossing(what) | Self::Misuse(what) => f.write_str(what),
            Self::Policy(rule) => f.write_str(rule),
            Self::Io { path, error } => write!(f, "{}: {error}", path.display()),
        }
    }
}

cordon_fault::faults! {
    SealError;
    wraps {
        Self::Plan(error) => error;
        Self::Graph(error) => error;
        Self::Package(error) => error;
        Self::Executor(error) => error;
        Self::Runtime(error) => error;
    }
    entries {
        Self::Exposed { .. } => "seal-exposed", Refused, Next::UntieWeights, "A weight would be both secret and public.";
        Self::Golden(_) => "seal-golden", Bug, Next::Report,
            "The sealed model does not compute what the model computes; nothing was written.";
        Self::Rounded(_) => "seal-rounded", Unsupported, Next::FullPrecision,
            "With weights stored as float16 the results differ by more than is allowed; nothing was written.";
        Self::Probes(_) => "seal-probes", Misuse, Next::GiveProbes, "The probes prove too little, or none can be made up.";
        Self::OpenShape { .. } => "seal-open-shape", Misuse, Next::BindShape { input: None },
            "An input has no static shape.";
        Self::Crossing(_) => "seal-crossing", Unsupported, Next::MoveCut,
            "A value passes between segments whose type the package format does not allow there.";
        Self::Policy(_) => "seal-policy", Misuse, Next::PlaceEnd,
            "The output policy cannot be kept with this placement.";
        Self::Misuse(_) => "seal-misuse", Misuse, Next::CheckCall, "What was asked for does not fit the plan.";
        Self::Io { .. } => "seal-file", Resource, Next::CheckDisk, "The package could not be written.";
    }
    next { Self::OpenShape { input } => Next::BindShape { input: Some(input) }; }
    place { Self::Exposed { initializer, secure, .. } =>
        cordon_fault::Place { node: Some(secure), value: Some(initializer), ..Default::default() }; }
}

impl core::error::Error for SealError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            Self::Plan(error) => Some(error),
            Self::Graph(error) => Some(error),
            Self::Package(error) => Some(error),
            Self::Executor(error) => Some(error),
            Self::Runtime(error) => Some(error),
            Self::Io { error, .. } => Some(error),
            _ => None,
        }
    }
}

impl From<PlanError> for SealError {
    fn from(error: PlanError) -> Self {
        Self::Plan(error)
    }
}

impl From<GraphError> for SealError {
    fn from(error: GraphError) -> Self {
        Self::Graph(error)
    }
}

impl From<PackageError> for SealError {
    fn from(error: PackageError) -> Self {
        Self::Package(error)
    }
}

impl From<ExecutorError> for SealError {
    fn from(error: ExecutorError) -> Self {
        Self::Executor(error)
    }
}

impl From<RuntimeError> for SealError {
    fn from(error: RuntimeError) -> Self {
        Self::Runtime(error)
    }
}
