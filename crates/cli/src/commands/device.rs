//! `cordon device`: the device that opens packages.

use crate::backend::BackendArgs;
use crate::failure::{Failure, Outcome, own};
use crate::ui::Ui;
use crate::{files, keys};
use cordon_runtime::Device;
use serde_json::json;
use std::path::PathBuf;

/// What to do.
#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Make this machine's device key inside the enclave and pin the owners it accepts
    Init(InitArgs),
}

/// Arguments.
#[derive(clap::Args)]
pub(crate) struct InitArgs {
    /// An owner to accept: a .pub file or `cordonowner1…`; may be repeated
    #[arg(long = "owner", required = true, value_name = "PUB")]
    owners: Vec<String>,

    /// The device's folder; the user's data folder by default
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,

    #[command(flatten)]
    backend: BackendArgs,

    /// Also write the recipient string to this file
    #[arg(long, value_name = "FILE")]
    recipient_out: Option<PathBuf>,
}

/// Runs the command.
pub(crate) fn run(command: &Command, ui: Ui) -> Outcome {
    let Command::Init(args) = command;
    let owners = args.owners.iter().map(|text| keys::owner_public(text)).collect::<Outcome<Vec<_>>>()?;
    let dir = dir(args.dir.clone())?;
    let backend = args.backend.open()?;
    let (device, recipient) = Device::init(backend.clone(), &dir, &owners)?;
    let recipient = recipient.to_string();
    if let Some(path) = &args.recipient_out {
        files::write(path, format!("{recipient}\n").as_bytes())?;
    }
    ui.line(format!("device     {}", device.dir().display()));
    ui.line(format!("accepts    {} owner(s)", owners.len()));
    ui.line(format!("recipient  {recipient}"));
    if backend.is_development() {
        ui.line(ui.warn(&format!(
            "Development isolation: {}, no hardware protection. Whoever is root here can read the key.",
            backend.about()
        )));
    }
    ui.json(&json!({
        "device": device.dir().display().to_string(),
        "platform": backend.name(),
        "development": backend.is_development(),
        "recipient": recipient,
        "owners": owners.iter().map(ToString::to_string).collect::<Vec<_>>(),
    }));
    Ok(())
}

/// The folder named, or the user's.
pub(crate) fn dir(named: Option<PathBuf>) -> Outcome<PathBuf> {
    named.or_else(Device::default_dir).ok_or_else(|| {
        Failure::new(
            &own::ARGUMENT,
            "there is no home folder to keep the device in",
            "name a folder with --dir or --device",
        )
    })
}
