use core::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use cordon_executor::ExecutorError;
use cordon_fault::{Next, Place};
use cordon_package::PackageError;
use cordon_protocol::Refusal;

use crate::backend::Death;

/// Why a sealed model did not load or run.
#[derive(Debug)]
#[non_exhaustive]
pub enum RuntimeError {
    /// The package is damaged, forged or not for this reader.
    Package(PackageError),
    /// The enclave refused.
    Refused {
        /// What was being done.
        doing: &'static str,
        /// Its code and numbers.
        refusal: Refusal,
    },
    /// The enclave died. Requests that were open in it are lost; it has been started again for the others, unless `restart`
    /// says why not.
    Died {
        /// What was being done.
        doing: &'static str,
        /// What is known.
        death: Death,
        /// Why it could not be started again.
        restart: Option<Arc<RuntimeError>>,
    },
    /// The enclave could not be started.
    Start {
        /// Which part of the start failed.
        stage: &'static str,
        /// The system's reason.
        source: io::Error,
    },
    /// The enclave answered something that does not fit; host and enclave are not of one build, or one is broken.
    Protocol(&'static str),
    /// A [`Session`](crate::Session) ended before the request did: one of its threads panicked.
    Stopped,
    /// A normal segment's engine failed.
    Executor {
        /// The segment, counted from 0.
        segment: usize,
        /// Why.
        source: ExecutorError,
    },
    /// The engine of normal segments cannot be had.
    Engine(ExecutorError),
    /// The caller's inputs do not fit the model.
    Input(String),
    /// More threads or memory than the platform offers.
    Limits(String),
    /// This build has no such backend.
    UnknownBackend(String),
    /// This host has no memory for the values that the enclave spills.
    HostMemory {
        /// Bytes asked for.
        bytes: usize,
    },
    /// The folder holds a device already.
    DeviceExists {
        /// The folder.
        dir: PathBuf,
    },
    /// The device folder is missing or not usable.
    Device {
        /// The folder.
        dir: PathBuf,
        /// What is wrong with it.
        what: &'static str,
    },
    /// A file could not be read or written.
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
}

impl RuntimeError {
    pub(crate) fn io(path: impl Into<PathBuf>, source: io::Error) -> Self {
        Self::Io { path: path.into(), source }
    }
}

impl fmt::Display for RuntimeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Package(error) => error.fmt(f),
            Self::Engine(error) => error.fmt(f),
            Self::Refused { doing, refusal } => write!(f, "the enclave refused while {doing}: {refusal}"),
            Self::Died { doing, death, restart } => {
                write!(f, "the enclave died while {doing}: {death}; this request is lost, and the enclave ")?;
                match restart {
                    None => f.write_str("was started anew"),
                    Some(error) => write!(f, "could not be started anew: {error}"),
                }
            }
            Self::Start { stage, source } => write!(f, "the enclave did not start ({stage}: {source})"),
            Self::Protocol(what) => write!(f, "the enclave answered out of protocol ({what})"),
            Self::Stopped => f.write_str("the session ended before the request did: one of its threads panicked"),
            Self::Executor { segment, source } => write!(f, "normal segment {segment}: {source}"),
            Self::Input(what) | Self::Limits(what) | Self::UnknownBackend(what) => f.write_str(what),
            Self::HostMemory { bytes } => write!(f, "this host has no memory for {bytes} bytes of spilled values"),
            Self::DeviceExists { dir } => write!(f, "device folder {}: it holds a device already", dir.display()),
            Self::Device { dir, what } => write!(f, "device folder {}: {what}", dir.display()),
            Self::Io { path, source } => write!(f, "{}: {source}", path.display()),
        }
    }
}

cordon_fault::faults! {
    RuntimeError;
    wraps {
        Self::Package(error) => error;
        Self::Engine(error) => error;
        Self::Refused { refusal, .. } => refusal;
    }
    entries {
        Self::Died { .. } => "enclave-died", Resource, Next::RunAgain, "The enclave died; the request under way is lost.";
        Self::Start { .. } => "enclave-start", Resource, Next::CheckSystem, "The enclave could not be started.";
        Self::Protocol(_) => "enclave-protocol", Bug, Next::SameVersion, "The enclave answered something that does not fit.";
        Self::Stopped => "session-stopped", Bug, Next::Report, "A thread of the session panicked; its requests are lost.";
        Self::Executor { .. } => "normal-segment", Resource, Next::OtherEngine, "The engine of a normal segment failed.";
        Self::Input(_) => "run-input", Misuse, Next::CheckInput, "The inputs do not fit the model.";
        Self::Limits(_) => "run-limits", Misuse, Next::StayWithin, "More threads or memory than the platform offers.";
        Self::UnknownBackend(_) => "backend-unknown", Misuse, Next::StayWithin, "This build has no such backend.";
        Self::HostMemory { .. } => "host-memory", Resource, Next::Smaller,
            "This host has no memory for the values that the enclave spills.";
        Self::DeviceExists { .. } => "device-exists", Misuse, Next::OtherPlace, "The folder holds a device already.";
        Self::Device { .. } => "device-folder", Misuse, Next::InitDevice { folder: "" },
            "The device folder is missing or not usable.";
        Self::Io { .. } => "runtime-file", Resource, Next::CheckPath, "A package, grant or device file could not be read or written.";
    }
    next {
        Self::Died { restart: Some(error), .. } => error.next();
        Self::Executor { source, .. } => source.next();
        Self::Device { dir, .. } => Next::InitDevice { folder: dir.to_str().unwrap_or_default() };
    }
    place { Self::Executor { segment, .. } => Place { segment: Some(*segment), ..Place::default() }; }
}

impl core::error::Error for RuntimeError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            Self::Package(error) => Some(error),
            Self::Engine(error) => Some(error),
            Self::Start { source, .. } | Self::Io { source, .. } => Some(source),
            Self::Executor { source, .. } => Some(source),
            Self::Died { restart: Some(error), .. } => Some(&**error),
            _ => None,
        }
    }
}

impl From<PackageError> for RuntimeError {
    fn from(error: PackageError) -> Self {
        Self::Package(error)
    }
}
