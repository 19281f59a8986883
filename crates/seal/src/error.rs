//! Why there is no package.

use cordon_executor::ExecutorError;
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
            Self::Golden(what) => write!(f, "the sealed model does not compute what the model computes: {what}"),
            Self::Misuse(what) => f.write_str(what),
            Self::Io { path, error } => write!(f, "{}: {error}", path.display()),
        }
    }
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
