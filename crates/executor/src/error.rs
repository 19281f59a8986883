use cordon_fault::Next;
use core::fmt;

use cordon_graph::{GraphError, TensorError};

/// Why an executor could not do what it was asked.
#[derive(Debug)]
#[non_exhaustive]
pub enum ExecutorError {
    /// A file or model is not what it claims to be.
    Malformed(String),
    /// A valid request that this engine or file format cannot serve.
    Unsupported(String),
    /// No engine has this name.
    UnknownEngine(String),
    /// The caller asked for something that cannot be meant.
    Misuse(String),
    /// The engine's library is not installed; the text names the places searched.
    NotInstalled(String),
    /// The engine refused the model or failed while running it.
    Engine {
        /// The engine's name.
        engine: &'static str,
        /// What it said.
        message: String,
    },
    /// Reading or writing a file failed.
    Io {
        /// The file.
        path: std::path::PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
}

impl From<GraphError> for ExecutorError {
    fn from(error: GraphError) -> Self {
        match error {
            GraphError::Unsupported(fault) | GraphError::Limit(fault) => Self::Unsupported(fault.to_string()),
            GraphError::Malformed(fault) => Self::Malformed(fault.to_string()),
            other => Self::Malformed(other.to_string()),
        }
    }
}

/// Values that cannot form a tensor.
impl From<TensorError> for ExecutorError {
    fn from(error: TensorError) -> Self {
        match error {
            TensorError::Type { .. } => Self::Misuse(error.to_string()),
            _ => Self::Malformed(error.to_string()),
        }
    }
}

impl fmt::Display for ExecutorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed(what) => write!(f, "malformed: {what}"),
            Self::Unsupported(what) => write!(f, "not supported: {what}"),
            Self::UnknownEngine(name) => write!(f, "unknown executor `{name}`"),
            Self::Misuse(what) | Self::NotInstalled(what) => f.write_str(what),
            Self::Engine { engine, message } => write!(f, "{engine}: {message}"),
            Self::Io { path, source } => write!(f, "{}: {source}", path.display()),
        }
    }
}

cordon_fault::faults! {
    ExecutorError;
    wraps {}
    entries {
        Self::Malformed(_) => "data-malformed", Hostile, Next::WriteAgain, "A file or model is not what it claims to be.";
        Self::Unsupported(_) => "data-unsupported", Unsupported, Next::ConvertData,
            "A valid request that this engine or file format cannot serve.";
        Self::UnknownEngine(_) => "engine-unknown", Misuse, Next::NameEngine, "No engine has this name.";
        Self::Misuse(_) => "engine-misuse", Misuse, Next::CheckCall, "What was asked of an engine cannot be meant.";
        Self::NotInstalled(_) => "engine-not-installed", Resource, Next::InstallEngine,
            "The engine's library is not installed.";
        Self::Engine { .. } => "engine-failed", Resource, Next::OtherEngine,
            "The engine refused the model or failed while running it.";
        Self::Io { .. } => "data-file", Resource, Next::CheckPath, "A data file could not be read or written.";
    }
    next {}
    place {}
}

impl core::error::Error for ExecutorError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}
