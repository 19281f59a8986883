//! The device folder: the key file only the enclave reads, the recipient string, and the state the enclave hands out.

use core::sync::atomic::{AtomicU64, Ordering};
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use cordon_package::merkle::leaf;
use cordon_package::{Header, OwnerPublic, Recipient};

use crate::client::Enclave;
use crate::error::RuntimeError;
use crate::process::ProcessBackend;
use crate::transport::Backend;

const KEY: &str = "device.key";
const RECIPIENT: &str = "recipient";
const STATE: &str = "counters";

/// A device of the process platform: a folder.
#[derive(Clone, Debug)]
pub struct Device {
    dir: PathBuf,
}

impl Device {
    /// The folder used when none is named: `cordon/device` in the user's data folder.
    pub fn default_dir() -> Option<PathBuf> {
        let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let data = set("XDG_DATA_HOME").or_else(|| set("HOME").map(|home| home.join(".local/share")))?;
        Some(data.join("cordon/device"))
    }

    /// An initialised device folder.
    pub fn open(dir: impl Into<PathBuf>) -> Result<Self, RuntimeError> {
        let dir = dir.into();
        if !dir.join(KEY).is_file() {
            return Err(RuntimeError::Device { dir, what: "it holds no device" });
        }
        Ok(Self { dir })
    }

    /// Makes a device that accepts packages of `owners`. The key is made inside an enclave, which writes it to the file
    /// itself: this process never holds it.
    pub fn init(dir: impl Into<PathBuf>, owners: &[OwnerPublic]) -> Result<(Self, Recipient), RuntimeError> {
        let dir = dir.into();
        if owners.is_empty() {
            return Err(RuntimeError::Device { dir, what: "a device pins at least one owner" });
        }
        fs::create_dir_all(&dir).map_err(|source| RuntimeError::io(&dir, source))?;
        fs::set_permissions(&dir, Permissions::from_mode(0o700)).map_err(|source| RuntimeError::io(&dir, source))?;
        let path = dir.join(KEY);
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path);
        let file = file.map_err(|source| match source.kind() {
            std::io::ErrorKind::AlreadyExists => {
                RuntimeError::Device { dir: dir.clone(), what: "it holds a device already" }
            }
            _ => RuntimeError::io(&path, source),
        })?;
        let made = ProcessBackend::new(file, None)
            .start(0)
            .and_then(Enclave::greet)
            .and_then(|mut enclave| enclave.provision(owners))
            .and_then(|recipient| {
                let text = format!("{recipient}\n");
                replace(&dir.join(RECIPIENT), text.as_bytes()).map(|()| recipient)
            });
        match made {
            Ok(recipient) => Ok((Self { dir }, recipient)),
            Err(error) => {
                // Half a device would block the next attempt.
                let _ = fs::remove_file(&path);
                Err(error)
            }
        }
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

    /// The key file, open for an enclave.
    pub(crate) fn key_file(&self) -> Result<File, RuntimeError> {
        let path = self.dir.join(KEY);
        File::open(&path).map_err(|source| RuntimeError::io(&path, source))
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
