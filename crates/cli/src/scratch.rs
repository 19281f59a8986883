//! An owner and a device that live as long as one command: for measuring and demonstrating, never for real packages.

use crate::failure::{Failure, Outcome, own};
use crate::keys;
use cordon_package::{OutputPolicy, OwnerKey, Recipient};
use cordon_plan::{Model, Plan};
use cordon_runtime::{Backend, Deployment, Device};
use cordon_seal::{Contents, Identity};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A temporary folder with an owner's key and a device that accepts it.
pub(crate) struct Scratch {
    folder: tempfile::TempDir,
    /// Signs.
    pub(crate) owner: OwnerKey,
    /// The device.
    pub(crate) device: Device,
    /// What packages for it are sealed to.
    pub(crate) recipient: Recipient,
}

impl Scratch {
    /// Makes both. Fails where no enclave of this kind can start.
    pub(crate) fn new(backend: Arc<dyn Backend>) -> Outcome<Self> {
        let folder = tempfile::tempdir().map_err(|error| {
            Failure::new(
                &own::UNWRITABLE,
                format!("cannot make a temporary folder: {error}"),
                "set TMPDIR to a folder that is writable",
            )
        })?;
        let owner = OwnerKey::generate(&mut keys::random)?;
        let (device, recipient) = Device::init(backend, folder.path().join("device"), &[owner.public()])?;
        Ok(Self { folder, owner, device, recipient })
    }

    /// The folder.
    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Seals without the golden check.
    pub(crate) fn seal_unchecked(
        &self,
        model: &Model,
        plan: &Plan,
        name: &str,
        version: u64,
        policy: OutputPolicy,
    ) -> Outcome<PathBuf> {
        let identity = Identity {
            owner: &self.owner,
            recipients: core::slice::from_ref(&self.recipient),
            name,
            version,
            not_after: None,
            max_requests: None,
            policy,
        };
        let path = self.folder.path().join(format!("{name}-{version}.cordon"));
        let mut file = std::fs::File::create_new(&path).map_err(|error| {
            Failure::new(
                &own::UNWRITABLE,
                format!("cannot write {}: {error}", path.display()),
                "check that the disk has room",
            )
        })?;
        cordon_seal::write(&Contents::new(model, plan, self.device.backend().profile())?, &identity, &mut file)?;
        Ok(path)
    }

    /// Opens a package on the device.
    pub(crate) fn open(
        &self,
        package: &Path,
        plan: &Plan,
        executor: (&str, cordon_executor::Options),
    ) -> Outcome<Deployment> {
        let threads = executor.1.threads;
        let options = Deployment::options().backend(self.device.backend().clone()).device(self.device.dir());
        let mut options = options.executor(executor.0, executor.1);
        if let Some(threads) = threads {
            options = options.threads(threads);
        }
        if let Some(limit) = plan.memory.limit {
            options = options.secure_memory(limit);
        }
        Ok(options.open(package)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cordon_runtime::{Enclave, Resources, backend};

    /// The fixed part of every prediction: never too small, and within the room that 1.05 times leaves of 10 MiB.
    #[test]
    fn an_empty_enclave_takes_what_plan_predicts() {
        let backend = backend::open("process").expect("known");
        let scratch = Scratch::new(backend).expect("a process enclave starts here");
        let profile = scratch.device.backend().profile();
        for threads in [1, 2, 16] {
            let resources = Resources { secure_memory: 10 << 20, threads, store: 0 };
            let transport = scratch.device.start(resources).expect("starts");
            let mut enclave = Enclave::greet(transport).expect("greets");
            let measured = enclave.memory().expect("reports").peak;
            assert_eq!(enclave.greeting().payload_limit as usize, profile.payload);
            let predicted = profile.fixed_bytes(threads);
            assert!(measured <= predicted, "{threads} threads: measured {measured}, predicted {predicted}");
            assert!(predicted - measured <= (10 << 20) / 40, "{threads} threads: {measured}, predicted {predicted}");
        }
    }
}
