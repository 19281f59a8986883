//! An owner and a device that live as long as one command: for measuring and demonstrating, never for real packages.

use crate::failure::{Failure, Outcome};
use crate::keys;
use cordon_package::{OutputPolicy, OwnerKey, Recipient};
use cordon_plan::{Model, Plan};
use cordon_runtime::{Deployment, Device};
use cordon_seal::{Contents, Identity};
use std::path::{Path, PathBuf};

/// A temporary folder with an owner's key and a device that accepts it.
pub(crate) struct Scratch {
    folder: tempfile::TempDir,
    /// Signs.
    pub(crate) owner: OwnerKey,
    /// The device.
    pub(crate) recipient: Recipient,
}

impl Scratch {
    /// Makes both. Fails where the process enclave cannot start.
    pub(crate) fn new() -> Outcome<Self> {
        let folder = tempfile::tempdir().map_err(|error| {
            Failure::new(format!("cannot make a temporary folder: {error}"), "set TMPDIR to a folder that is writable")
        })?;
        let owner = OwnerKey::generate(&mut keys::random)?;
        let (_, recipient) = Device::init(folder.path().join("device"), &[owner.public()])?;
        Ok(Self { folder, owner, recipient })
    }

    /// The folder.
    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The device's folder.
    pub(crate) fn device(&self) -> PathBuf {
        self.folder.path().join("device")
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
            Failure::new(format!("cannot write {}: {error}", path.display()), "check that the disk has room")
        })?;
        cordon_seal::write(&Contents::new(model, plan)?, &identity, &mut file)?;
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
        let mut options = Deployment::options().device(self.device()).executor(executor.0, executor.1);
        if let Some(threads) = threads {
            options = options.threads(threads);
        }
        if let Some(limit) = plan.memory.limit {
            options = options.secure_memory(limit);
        }
        Ok(options.open(package)?)
    }
}
