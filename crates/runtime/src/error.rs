use core::fmt;
use std::io;
use std::path::PathBuf;

use cordon_executor::ExecutorError;
use cordon_package::PackageError;
use cordon_protocol::{Code, Refusal};

use crate::backend::Death;

/// Why a sealed model did not load or run. The text ends with the next step.
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
    /// The enclave died. The request under way is lost; the enclave has been started again for the next one, unless
    /// `restart` says why not.
    Died {
        /// What was being done.
        doing: &'static str,
        /// What is known.
        death: Death,
        /// Why it could not be started again.
        restart: Option<Box<RuntimeError>>,
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
    /// A normal segment's engine failed.
    Executor {
        /// The segment, counted from 0.
        segment: usize,
        /// Why.
        source: ExecutorError,
    },
    /// The caller's inputs do not fit the model.
    Input(String),
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
            Self::Package(error) => write!(f, "package: {error}"),
            Self::Refused { doing, refusal } => {
                write!(f, "the enclave refused while {doing}: {refusal}")?;
                match next_step(refusal.code) {
                    Some(next) => write!(f, "\nNext: {next}"),
                    None => Ok(()),
                }
            }
            Self::Died { doing, death, restart } => {
                write!(f, "the enclave died while {doing}: {death}; this request is lost")?;
                match restart {
                    None => f.write_str("\nNext: send it again, the enclave was started anew"),
                    Some(error) => write!(f, ", and the enclave could not be started anew: {error}"),
                }
            }
            Self::Start { stage, source } => write!(
                f,
                "the enclave did not start ({stage}: {source})\nNext: `cordon doctor` shows what this system lacks"
            ),
            Self::Protocol(what) => {
                write!(f, "the enclave answered out of protocol ({what})\nNext: rebuild host and enclave together")
            }
            Self::Executor { segment, source } => write!(f, "normal segment {segment}: {source}"),
            Self::Input(what) => f.write_str(what),
            Self::Device { dir, what } => write!(
                f,
                "device folder {}: {what}\nNext: `cordon device init --owner PUB --dir {}`",
                dir.display(),
                dir.display()
            ),
            Self::Io { path, source } => write!(f, "{}: {source}", path.display()),
        }
    }
}

impl core::error::Error for RuntimeError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            Self::Package(error) => Some(error),
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

/// What a person can do about a refusal.
fn next_step(code: Code) -> Option<&'static str> {
    Some(match code {
        Code::OutOfMemory => "give more with --secure-memory, or plan with a smaller budget",
        Code::UnpinnedOwner => "initialise a device that pins this owner: `cordon device init --owner PUB`",
        Code::NotARecipient => "ask the owner for `cordon grant` with this device's recipient string",
        Code::OlderVersion => "use the newest package; an older one is never accepted again on this device",
        Code::Expired => "ask the owner for a package that is still valid",
        Code::RequestLimit => "ask the owner for a package with more requests",
        Code::PackageHostile | Code::CorruptChunk => "fetch the package again; `cordon verify` checks it",
        Code::NoDeviceKey => "`cordon device init --owner PUB` makes the device's key",
        Code::DeviceState => "the device folder was changed from outside; restore it or initialise a new device",
        Code::SealedPayload => "send the input in clear; the encrypted channel does not exist yet",
        _ => return None,
    })
}
