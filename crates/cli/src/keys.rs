//! Keys and recipients as the command line takes them. Secrets come from files only, never from arguments, which other
//! users of the machine can see.

use crate::failure::{Failure, Outcome, own};
use crate::files;
use cordon_package::{OwnerKey, OwnerPublic, PackageError, Recipient};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Fills `out` from the operating system's generator: the [`cordon_package::Random`] of this command.
pub(crate) fn random(out: &mut [u8]) -> Result<(), PackageError> {
    getrandom::fill(out).map_err(|_| PackageError::Random)
}

/// Reads an owner's secret key. A file that others may read is refused.
pub(crate) fn owner_key(path: &Path) -> Outcome<OwnerKey> {
    let text = files::read_text(path, "owner key")?;
    let mode = std::fs::metadata(path).map(|meta| meta.permissions().mode()).unwrap_or(0);
    if mode & 0o077 != 0 {
        return Err(Failure::new(
            &own::KEY,
            format!("owner key {} can be read by other users (mode {:o})", path.display(), mode & 0o777),
            format!("chmod 600 {}", path.display()),
        ));
    }
    OwnerKey::parse(&text).map_err(|error| {
        Failure::new(
            &own::KEY,
            format!("{}: {error}", path.display()),
            "give the file that `cordon keygen owner -o FILE` wrote, not its .pub file",
        )
    })
}

/// Reads an owner's public key: its text, or a file that holds it.
pub(crate) fn owner_public(text: &str) -> Outcome<OwnerPublic> {
    let content = text_or_file(text, "cordonowner1", "owner public key")?;
    OwnerPublic::parse(&content).map_err(|error| {
        Failure::new(
            &own::KEY,
            format!("{text}: {error}"),
            "give the .pub file of `cordon keygen owner`, or its text `cordonowner1…`",
        )
    })
}

/// Reads a recipient: its text, or a file that holds it.
pub(crate) fn recipient(text: &str) -> Outcome<Recipient> {
    let content = text_or_file(text, "cordon1", "recipient")?;
    Recipient::parse(&content).map_err(|error| {
        Failure::new(
            &own::KEY,
            format!("{text}: {error}"),
            "give the text `cordon1…` that `cordon device init` printed, or the file it wrote with --recipient-out",
        )
    })
}

fn text_or_file(text: &str, prefix: &str, what: &str) -> Outcome<String> {
    if text.starts_with(prefix) && !Path::new(text).exists() {
        return Ok(text.to_owned());
    }
    let content = files::read_text(Path::new(text), what)?;
    let line = content.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#'));
    Ok(line.unwrap_or_default().to_owned())
}
