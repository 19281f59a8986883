//! An owner and a device that live as long as one value: for checks, measurements and demonstrations, never for real
//! packages.

use crate::write::random;
use crate::{Contents, Identity, SealError, write};
use cordon_package::{OutputPolicy, OwnerKey, OwnerPublic, Recipient};
use cordon_plan::{Model, Plan};
use cordon_runtime::{Backend, Deployment, Device, Options, Resources, Transport};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A device in a temporary folder, gone with this value.
pub struct ScratchDevice {
    folder: tempfile::TempDir,
    device: Device,
    /// What packages for it are sealed to.
    pub recipient: Recipient,
}

impl ScratchDevice {
    /// A device that accepts this owner's packages. Fails where no enclave of this kind can start.
    pub fn new(backend: Arc<dyn Backend>, owner: &OwnerPublic) -> Result<Self, SealError> {
        let folder = tempfile::tempdir().map_err(|error| SealError::Io { path: std::env::temp_dir(), error })?;
        let (device, recipient) = Device::init(backend, folder.path().join("device"), &[*owner])?;
        Ok(Self { folder, device, recipient })
    }

    /// What drives its enclaves.
    pub fn backend(&self) -> &Arc<dyn Backend> {
        self.device.backend()
    }

    /// Starts an enclave without a package.
    pub fn start(&self, resources: Resources) -> Result<Box<dyn Transport>, SealError> {
        Ok(self.device.start(resources)?)
    }

    /// The temporary folder, for packages and other files.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Opens packages on the device within the secure memory that was planned with.
    pub fn options(&self, plan: &Plan, executor: (&str, &cordon_executor::Options)) -> Options {
        let options = Deployment::options().backend(self.backend().clone()).device(self.device.dir());
        let options = options.executor(executor.0, executor.1.clone());
        match plan.memory.limit {
            Some(limit) => options.secure_memory(limit),
            None => options,
        }
    }
}

/// An owner with a [`ScratchDevice`].
pub struct Scratch {
    /// Signs.
    pub owner: OwnerKey,
    /// Opens.
    pub device: ScratchDevice,
}

impl Scratch {
    /// Makes both.
    pub fn new(backend: Arc<dyn Backend>) -> Result<Self, SealError> {
        let owner = OwnerKey::generate(&mut random)?;
        Ok(Self { device: ScratchDevice::new(backend, &owner.public())?, owner })
    }

    /// Seals what was planned, without the golden check.
    pub fn seal_unchecked(
        &self,
        model: &Model,
        plan: &Plan,
        name: &str,
        version: u64,
        policy: OutputPolicy,
    ) -> Result<PathBuf, SealError> {
        let identity = Identity {
            owner: &self.owner,
            recipients: core::slice::from_ref(&self.device.recipient),
            name,
            version,
            not_after: None,
            max_requests: None,
            policy,
        };
        let path = self.device.path().join(format!("{name}-{version}.cordon"));
        let mut file = std::fs::File::create_new(&path).map_err(|error| SealError::Io { path: path.clone(), error })?;
        write(&Contents::new(model, plan, self.device.backend().profile())?, &identity, &mut file)?;
        Ok(path)
    }

    /// Opens a package on the device, with as many threads inside as the executor is given.
    pub fn open(
        &self,
        package: &Path,
        plan: &Plan,
        executor: (&str, &cordon_executor::Options),
    ) -> Result<Deployment, SealError> {
        let options = self.device.options(plan, executor);
        let options = match executor.1.threads {
            Some(threads) => options.threads(threads),
            None => options,
        };
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
