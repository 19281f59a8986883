//! `cordon grant`: one more recipient for a package that is already out.

use crate::failure::Outcome;
use crate::package::{MappedPackage, parse_date};
use crate::ui::Ui;
use crate::{files, keys};
use cordon_package::{GrantRequest, write_grant};
use serde_json::json;
use std::path::PathBuf;

/// Arguments.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The package
    package: PathBuf,

    /// The owner's secret key
    #[arg(long, value_name = "FILE")]
    owner: PathBuf,

    /// Who may open it: `cordon1…`, or a file that holds it; may be repeated
    #[arg(long = "recipient", required = true, value_name = "R")]
    recipients: Vec<String>,

    /// Tells several grants of one package apart
    #[arg(long, value_name = "N", default_value_t = 1)]
    number: u64,

    /// Last day it may be used: YYYY-MM-DD
    #[arg(long, value_name = "DATE", value_parser = parse_date)]
    not_after: Option<u64>,

    /// The grant's file; PACKAGE.grant by default
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Runs the command.
pub(crate) fn run(args: &Args, ui: Ui) -> Outcome {
    let owner = keys::owner_key(&args.owner)?;
    let recipients = args.recipients.iter().map(|text| keys::recipient(text)).collect::<Outcome<Vec<_>>>()?;
    let package = MappedPackage::open(&args.package)?;
    let verified = package.verify(&[owner.public()])?.verified;
    let opened = verified.open(owner.recipient_key())?;
    let request = GrantRequest { recipients: &recipients, number: args.number, not_after: args.not_after };
    let grant = write_grant(&opened, &owner, &request, &mut keys::random)?;
    let output = args.output.clone().unwrap_or_else(|| {
        let mut path = args.package.clone().into_os_string();
        path.push(".grant");
        path.into()
    });
    files::write(&output, &grant)?;
    ui.line(format!("{}: {} recipient(s) added to {}", output.display(), recipients.len(), args.package.display()));
    ui.line(format!("Give it to `cordon run` with --grant {}", output.display()));
    ui.json(&json!({ "grant": output.display().to_string(), "recipients": args.recipients }));
    Ok(())
}
