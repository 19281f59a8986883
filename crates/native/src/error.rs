//! Why a Program cannot be loaded or run here.

use cordon_engine::EngineError;
use cordon_fault::Next;
use cordon_graph::TensorError;
use core::fmt;

/// Error of this crate.
#[derive(Debug)]
#[non_exhaustive]
pub enum NativeError {
    /// The engine refused the Program, its weights or a step.
    Engine(EngineError),
    /// The engine asked for something that resident weights rule out.
    Unexpected(&'static str),
    /// The inputs do not fit the Program.
    Misuse(String),
}

impl fmt::Display for NativeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Engine(error) => error.fmt(f),
            Self::Unexpected(what) => f.write_str(what),
            Self::Misuse(what) => f.write_str(what),
        }
    }
}

cordon_fault::faults! {
    NativeError;
    wraps { Self::Engine(error) => error; }
    entries {
        Self::Unexpected(_) => "native-unexpected", Bug, Next::Report,
            "The engine asked for something that resident weights rule out.";
        Self::Misuse(_) => "native-input", Misuse, Next::CheckInput, "The inputs do not fit the Program.";
    }
    next {}
    place {}
}

impl core::error::Error for NativeError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            Self::Engine(error) => Some(error),
            _ => None,
        }
    }
}

impl From<EngineError> for NativeError {
    fn from(error: EngineError) -> Self {
        Self::Engine(error)
    }
}

impl From<TensorError> for NativeError {
    fn from(error: TensorError) -> Self {
        Self::Misuse(error.to_string())
    }
}
