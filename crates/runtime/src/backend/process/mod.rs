//! The process platform: a locked-down Linux process, started from sealed memory. Development isolation, no hardware
//! protection.
//!
//! A device's folder holds the key file, which only the enclave reads and writes: it is handed over as a descriptor.

mod host;
mod transport;

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use cordon_package::{OwnerPublic, Recipient};
pub(super) use cordon_process_link::profile::PROFILE;
use cordon_protocol::{Profile, Reason};

use super::{Backend, Check, Resources, Transport};
use crate::client::Enclave;
use crate::error::RuntimeError;

/// The key file in a device's folder.
const KEY: &str = "device.key";

/// Secure memory of an enclave that makes a key and loads nothing.
const KEY_BUDGET: u64 = 8 << 20;

/// See the module.
pub(super) struct Process;

impl Backend for Process {
    fn profile(&self) -> &'static Profile {
        &PROFILE
    }

    fn about(&self) -> &'static str {
        "a locked-down Linux process"
    }

    fn is_development(&self) -> bool {
        true
    }

    fn provision(&self, dir: &Path, owners: &[OwnerPublic]) -> Result<Recipient, RuntimeError> {
        let path = dir.join(KEY);
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path);
        let file = file.map_err(|source| match source.kind() {
            std::io::ErrorKind::AlreadyExists => RuntimeError::DeviceExists { dir: dir.into() },
            _ => RuntimeError::io(&path, source),
        })?;
        let resources = Resources { secure_memory: KEY_BUDGET, threads: 1, store: 0 };
        let started = transport::start(&file, resources).and_then(|started| Enclave::greet(Box::new(started)));
        let made = started.and_then(|mut enclave| enclave.provision(owners));
        made.inspect_err(|_| self.forget(dir))
    }

    fn forget(&self, dir: &Path) {
        let _ = fs::remove_file(dir.join(KEY));
    }

    fn has_device(&self, dir: &Path) -> bool {
        dir.join(KEY).is_file()
    }

    fn start(&self, dir: &Path, resources: Resources) -> Result<Box<dyn Transport>, RuntimeError> {
        let path = dir.join(KEY);
        let key = File::open(&path).map_err(|source| RuntimeError::io(&path, source))?;
        Ok(Box::new(transport::start(&key, resources)?))
    }

    fn checks(&self) -> Vec<Check> {
        vec![host::kernel(), host::memory_lock()]
    }

    fn start_advice(&self) -> &'static str {
        "check that memfd_create, seccomp and fork are allowed here (containers often forbid them)"
    }

    fn advice(&self, missing: Reason) -> &'static str {
        match missing {
            Reason::Kernel => "a newer kernel, or one built with this feature, has it",
            Reason::Denied => "a container or security module forbids it; allow it, or run outside",
            Reason::LockLimit => "raise the limit with `ulimit -l unlimited`",
            Reason::Platform => "no process can have it: it takes a hardware TEE",
            Reason::HostControlled => "the host could replace it: it takes a hardware TEE",
            _ => "see docs/threat-model.md for what that means",
        }
    }
}
