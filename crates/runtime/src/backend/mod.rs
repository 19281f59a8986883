//! Kinds of TEE as this host drives them: one [`Backend`] for each, opened by its word.
//!
//! A backend starts enclaves and, once for each device, has one make the device's key. Everything else the host does,
//! loading, requests, normal segments, is the same for every platform and lies outside this folder. A new platform is a
//! folder beside `process` and an entry in the list of [`known`].

mod check;
mod process;

use core::fmt;
use core::sync::atomic::AtomicU64;
use core::time::Duration;
use std::path::Path;
use std::sync::Arc;

use cordon_package::{OwnerPublic, Recipient};
use cordon_protocol::{Profile, Reason, Window};

use crate::error::RuntimeError;
pub use check::{Check, Verdict};

/// Drives one kind of TEE.
pub trait Backend: Send + Sync {
    /// What plans and predictions for the platform rest on.
    fn profile(&self) -> &'static Profile;

    /// The platform's word, as `--backend` takes it.
    fn name(&self) -> &'static str {
        self.profile().platform
    }

    /// What kind of thing an enclave is here, in a few words.
    fn about(&self) -> &'static str;

    /// Whether no hardware protects its enclaves: for development only.
    fn is_development(&self) -> bool;

    /// Threads an enclave computes with when nobody chose: the machine's, at most those that predictions are made for.
    fn default_threads(&self) -> usize {
        std::thread::available_parallelism().map_or(1, usize::from).min(self.profile().threads)
    }

    /// Has an enclave make the key of a new device that accepts packages of `owners`. The key never passes through this
    /// process. What the platform does not keep inside goes into the device's folder, which exists and is private.
    fn provision(&self, dir: &Path, owners: &[OwnerPublic]) -> Result<Recipient, RuntimeError>;

    /// Undoes [`Self::provision`] as far as the platform can: half a device would block the next attempt.
    fn forget(&self, _dir: &Path) {}

    /// Whether `dir` belongs to a device that [`Self::provision`] made.
    fn has_device(&self, dir: &Path) -> bool;

    /// Starts a fresh enclave for the device whose folder this is.
    fn start(&self, dir: &Path, resources: Resources) -> Result<Box<dyn Transport>, RuntimeError>;

    /// What this host has of what the platform needs, as far as that can be told without an enclave.
    fn checks(&self) -> Vec<Check> {
        Vec::new()
    }

    /// What to do when no enclave starts.
    fn start_advice(&self) -> &'static str {
        "see what the system says about it"
    }

    /// What to do about a protection that is missing for this reason.
    fn advice(&self, _missing: Reason) -> &'static str {
        "see docs/threat-model.md for what that means"
    }
}

/// What an enclave is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resources {
    /// Most bytes of secure memory.
    pub secure_memory: u64,
    /// Threads to compute with.
    pub threads: usize,
    /// Bytes of this host's memory set aside for encrypted weights that have no room inside.
    pub store: u64,
}

/// A running enclave. Dropping it ends the enclave.
pub trait Transport: Send {
    /// Sends the command frame in `frame` and replaces it by the reply frame. `window` is the part of the store that the
    /// reply before named: the enclave may see it until it answers, and no other. After an error the enclave is gone.
    fn call(&mut self, frame: &mut Vec<u8>, window: Option<Window>) -> Result<(), Death>;

    /// How long the answer to the next command will take, as far as is known: waiting can be made cheaper by it.
    fn expect(&mut self, _time: Duration) {}

    /// The memory set aside for encrypted weights, as the enclave sees it; empty without any.
    fn store(&self) -> &[AtomicU64] {
        &[]
    }

    /// CPU time used since the start, where the platform can tell.
    fn cpu_time(&self) -> Option<Duration> {
        None
    }
}

/// Why an enclave no longer answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Death {
    /// How it ended, where the system says so.
    pub cause: Option<Cause>,
    /// The last allocation it was refused: bytes asked for and bytes available.
    pub refused_allocation: Option<(u64, u64)>,
}

/// What a system says about the end of an enclave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cause {
    /// What the number stands for, such as `ended by signal`.
    pub what: &'static str,
    /// The number.
    pub number: i64,
}

impl fmt::Display for Death {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.cause {
            Some(Cause { what, number }) => write!(f, "{what} {number}")?,
            None => f.write_str("stopped answering")?,
        }
        if let Some((needed, available)) = self.refused_allocation {
            write!(f, " after an allocation of {needed} bytes was refused with {available} available")?;
        }
        Ok(())
    }
}

/// Word of the backend that is used when none is named.
pub const DEFAULT: &str = process::PROFILE.platform;

/// Every backend of this build.
pub fn known() -> [Arc<dyn Backend>; 1] {
    [Arc::new(process::Process)]
}

/// The backend with this word.
pub fn open(word: &str) -> Result<Arc<dyn Backend>, RuntimeError> {
    let known = known();
    match known.iter().find(|backend| backend.name() == word) {
        Some(backend) => Ok(backend.clone()),
        None => {
            let words: Vec<&str> = known.iter().map(|backend| backend.name()).collect();
            Err(RuntimeError::UnknownBackend(format!(
                "there is no backend `{word}`: this build has {}",
                words.join(", ")
            )))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backends_are_found_by_their_word_and_others_are_refused_with_the_list() {
        for backend in known() {
            assert_eq!(open(backend.name()).expect("known").about(), backend.about());
        }
        assert_eq!(open(DEFAULT).expect("known").name(), DEFAULT);
        let refused = open("enigma").err().expect("unknown").to_string();
        assert!(refused.contains("`enigma`") && known().iter().all(|it| refused.contains(it.name())), "{refused}");
    }

    #[test]
    fn a_death_says_what_the_system_said() {
        let cause = Some(Cause { what: "ended by signal", number: 9 });
        let death = Death { cause, refused_allocation: Some((70, 7)) };
        let text = "ended by signal 9 after an allocation of 70 bytes was refused with 7 available";
        assert_eq!(death.to_string(), text);
        assert_eq!(Death::default().to_string(), "stopped answering");
    }
}
