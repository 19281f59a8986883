//! `cordon keygen`: keys of model owners.

use crate::failure::{Failure, Outcome, own};
use crate::ui::Ui;
use crate::{files, keys};
use cordon_package::OwnerKey;
use serde_json::json;
use std::path::PathBuf;

/// Which key.
#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Make a model owner's signing key: FILE (secret, mode 0600) and FILE.pub
    Owner(OwnerArgs),
}

/// Arguments.
#[derive(clap::Args)]
pub(crate) struct OwnerArgs {
    /// The secret key's file; the public key goes to FILE.pub
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
}

/// Runs the command.
pub(crate) fn run(command: &Command, ui: Ui) -> Outcome {
    let Command::Owner(args) = command;
    let mut public_path = args.output.clone().into_os_string();
    public_path.push(".pub");
    let public_path = PathBuf::from(public_path);
    if public_path.exists() {
        return Err(Failure::new(
            &own::EXISTS,
            format!("{} exists", public_path.display()),
            "choose another name, or move the existing key away first",
        ));
    }
    let key = OwnerKey::generate(&mut keys::random)?;
    let public = key.public().to_string();
    let text = zeroize::Zeroizing::new(format!(
        "# Cordon owner key. Secret: whoever has it seals in your name.\n{}\n",
        *key.to_text()
    ));
    files::write_secret(&args.output, text.as_bytes())?;
    files::write(&public_path, format!("{public}\n").as_bytes())?;
    ui.line(format!("secret key  {} (mode 0600; keep it offline)", args.output.display()));
    ui.line(format!("public key  {}", public_path.display()));
    ui.line(public.clone());
    ui.json(&json!({
        "secret_key": args.output.display().to_string(),
        "public_key": public_path.display().to_string(),
        "owner": public,
    }));
    Ok(())
}
