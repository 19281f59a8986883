//! The device folder: the recipient string, the state the enclave hands out, and what the platform keeps there.

use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};
use std::fs::{self, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cordon_package::merkle::leaf;
use cordon_package::{Header, OwnerPublic, Recipient};

use crate::backend::{Backend, Resources, Transport};
use crate::error::RuntimeError;

const RECIPIENT: &str = "recipient";
const STATE: &str = "counters";

/// A device: a folder of this host, and the backend that starts the device's enclaves.
#[derive(Clone)]
pub struct Device {
    backend: Arc<dyn Backend>,
    dir: PathBuf,
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Device({}, {})", self.backend.name(), self.dir.display())
    }
}

impl Device {
    /// The folder used when none is named: `cordon/device` in the user's data folder.
    pub fn default_dir() -> Option<PathBuf> {
        let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let data = set("XDG_DATA_HOME").or_else(|| set("HOME").map(|home| home.join(".local/share")))?;
        Some(data.join("cordon/device"))
    }

    /// An initialised device folder.
    pub fn open(backend: Arc<dyn Backend>, dir: impl Into<PathBuf>) -> Result<Self, RuntimeError> {
        let dir = dir.into();
        if !backend.has_device(&dir) {
            return Err(RuntimeError::Device { dir, what: "it holds no device" });
        }
        Ok(Self { backend, dir })
    }

    /// Makes a device that accepts packages of `owners`. The key is made inside an enclave: this process never holds it.
    pub fn init(
        backend: Arc<dyn Backend>,
        dir: impl Into<PathBuf>,
        owners: &[OwnerPublic],
    ) -> Result<(Self, Recipient), RuntimeError> {
        let dir = dir.into();
        if owners.is_empty() {
            return Err(RuntimeError::Device { dir, what: "a device pins at least one owner" });
        }
        fs::create_dir_all(&dir).map_err(|source| RuntimeError::io(&dir, source))?;
        fs::set_permissions(&dir, Permissions::from_mode(0o700)).map_err(|source| RuntimeError::io(&dir, source))?;
        let recipient = backend.provision(&dir, owners)?;
        replace(&dir.join(RECIPIENT), format!("{recipient}\n").as_bytes()).inspect_err(|_| backend.forget(&dir))?;
        Ok((Self { backend, dir }, recipient))
    }

    /// What starts its enclaves.
    pub fn backend(&self) -> &Arc<dyn Backend> {
        &self.backend
    }

    /// Starts a fresh enclave.
    pub fn start(&self, resources: Resources) -> Result<Box<dyn Transport>, RuntimeError> {
        self.backend.start(&self.dir, resources)
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What packages for this device are sealed to.
    pub fn recipient(&self) -> Result<Recipient, RuntimeError> {
        let path = self.dir.join(RECIPIENT);
        let text = fs::read_to_string(&path).map_err(|source| RuntimeError::io(&path, source))?;
        Ok(Recipient::parse(text.trim_end())?)
    }

    /// What the enclave handed out last; empty on a new device.
    pub(crate) fn state(&self, of: &Header) -> Result<Vec<u8>, RuntimeError> {
        let path = self.state_file(of);
        match fs::read(&path) {
            Ok(state) => Ok(state),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(source) => Err(RuntimeError::io(&path, source)),
        }
    }

    /// Keeps a new state, before anything that depends on it goes on.
    pub(crate) fn keep_state(&self, of: &Header, state: Option<&[u8]>) -> Result<(), RuntimeError> {
        let Some(state) = state else { return Ok(()) };
        let folder = self.dir.join(STATE);
        fs::create_dir_all(&folder).map_err(|source| RuntimeError::io(&folder, source))?;
        replace(&self.state_file(of), state)
    }

    /// One file for each owner and name of a package, so that deployments of different packages do not overwrite each
    /// other's counters. Nothing depends on the host keeping this rule: the enclave authenticates what it is given.
    fn state_file(&self, of: &Header) -> PathBuf {
        let digest = leaf(&[of.owner.as_bytes(), of.name.as_bytes()].concat());
        let name: String = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        self.dir.join(STATE).join(name)
    }
}

/// Writes a file whole or not at all.
fn replace(path: &Path, bytes: &[u8]) -> Result<(), RuntimeError> {
    let failed = |source| RuntimeError::io(path, source);
    static COUNT: AtomicU64 = AtomicU64::new(0);
    // Nobody else writes to this name, so two writers leave one whole file or the other.
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let staged = path.with_extension(format!("{}-{count}.new", std::process::id()));
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&staged).map_err(failed)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(failed)?;
    fs::rename(&staged, path).map_err(|source| {
        let _ = fs::remove_file(&staged);
        failed(source)
    })
}
