//! Output files appear whole or not at all: written beside their final place, then renamed.

use crate::failure::{Failure, own};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Writes `content` to `path` by rename.
pub(crate) fn write(path: &Path, content: &[u8]) -> Result<(), Failure> {
    write_with(path, 0o644, true, |file| file.write_all(content))
}

/// Writes a secret: mode 0600 from the first byte on, and never over an existing file.
pub(crate) fn write_secret(path: &Path, content: &[u8]) -> Result<(), Failure> {
    write_with(path, 0o600, false, |file| file.write_all(content))
}

/// Writes what `fill` produces to `path` by rename.
pub(crate) fn write_with(
    path: &Path,
    mode: u32,
    replace: bool,
    fill: impl FnOnce(&mut std::fs::File) -> std::io::Result<()>,
) -> Result<(), Failure> {
    let failed = |error: std::io::Error| {
        let (entry, next) = match error.kind() {
            std::io::ErrorKind::AlreadyExists => {
                (&own::EXISTS, "choose another name, or move the existing file away first")
            }
            _ => (&own::UNWRITABLE, "check that the folder exists and is writable, and that the disk has room"),
        };
        Failure::new(entry, format!("cannot write {}: {error}", path.display()), next)
    };
    // NamedTempFile is created with mode 0600 and removed when dropped before it is renamed.
    let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::Builder::new().prefix(".cordon-").tempfile_in(folder).map_err(failed)?;
    fill(file.as_file_mut()).map_err(failed)?;
    file.as_file().set_permissions(std::fs::Permissions::from_mode(mode & !umask())).map_err(failed)?;
    file.as_file().sync_all().map_err(failed)?;
    match replace {
        true => file.persist(path).map(drop).map_err(|error| failed(error.error)),
        false => file.persist_noclobber(path).map(drop).map_err(|error| failed(error.error)),
    }
}

/// The process's file mode mask, read without changing it.
fn umask() -> u32 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("Umask:"));
    line.and_then(|text| u32::from_str_radix(text.trim(), 8).ok()).unwrap_or(0o022)
}

/// Reads a small text file, such as a key or a plan.
pub(crate) fn read_text(path: &Path, what: &str) -> Result<String, Failure> {
    const LIMIT: u64 = 64 << 20;
    let failed = |error: std::io::Error| {
        Failure::new(
            &own::UNREADABLE,
            format!("cannot read {what} {}: {error}", path.display()),
            "check the path and its permissions",
        )
    };
    let size = std::fs::metadata(path).map_err(failed)?.len();
    if size > LIMIT {
        return Err(Failure::new(
            &own::UNREADABLE,
            format!("{what} {} has {size} bytes, which cannot be right", path.display()),
            format!("name the {what} itself"),
        ));
    }
    std::fs::read_to_string(path).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_write_leaves_nothing_behind() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("out");
        let error = write_with(&path, 0o644, true, |file| {
            file.write_all(b"half")?;
            Err(std::io::Error::other("disk full"))
        });
        assert!(error.is_err());
        assert_eq!(std::fs::read_dir(dir.path()).expect("readable").count(), 0);
    }

    #[test]
    fn secrets_are_private_and_never_overwritten() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("key");
        write_secret(&path, b"one").expect("writable");
        assert_eq!(std::fs::metadata(&path).expect("exists").permissions().mode() & 0o777, 0o600);
        assert!(write_secret(&path, b"two").is_err());
        assert_eq!(std::fs::read(&path).expect("readable"), b"one");
    }
}
