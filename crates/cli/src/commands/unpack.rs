//! `cordon unpack`: the public parts, so that any ONNX tool opens the normal segments.

use crate::failure::{Failure, Outcome, own};
use crate::package::MappedPackage;
use crate::ui::Ui;
use crate::{commands::verify, files, keys};
use cordon_package::{SectionKind, stored};
use serde_json::json;
use std::path::{Path, PathBuf};

/// Arguments.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The package
    package: PathBuf,

    /// The owner it must be signed by; without it the signature is checked against the key the package itself names
    #[arg(long, value_name = "PUB")]
    owner: Option<String>,

    /// A folder that does not exist yet; PACKAGE without its extension by default
    #[arg(short, long, value_name = "DIR")]
    output: Option<PathBuf>,
}

/// Runs the command.
pub(crate) fn run(args: &Args, ui: Ui) -> Outcome {
    let package = MappedPackage::open(&args.package)?;
    let owner = match &args.owner {
        Some(text) => keys::owner_public(text)?,
        None => package.claimed_owner()?,
    };
    let checked = package.verify(&[owner])?;
    let output = args.output.clone().unwrap_or_else(|| args.package.with_extension(""));
    let failed = |path: &Path, error: std::io::Error| {
        Failure::new(
            &own::UNWRITABLE,
            format!("cannot write {}: {error}", path.display()),
            "choose another folder with --output",
        )
    };
    if output.exists() {
        return Err(Failure::new(
            &own::EXISTS,
            format!("{} exists", output.display()),
            "choose another folder with --output",
        ));
    }
    let parent = output.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // Filled beside its final place, then renamed: the folder appears whole or not at all.
    let staging =
        tempfile::Builder::new().prefix(".cordon-").tempdir_in(parent).map_err(|error| failed(parent, error))?;
    let mut written = vec!["manifest.json".to_owned(), "plan.txt".to_owned()];
    files::write(&staging.path().join("manifest.json"), format!("{:#}\n", verify::as_json(&checked)).as_bytes())?;
    files::write(&staging.path().join("plan.txt"), checked.manifest.plan_text.as_bytes())?;
    for section in &checked.verified.header().sections {
        let name = match section.kind() {
            SectionKind::NormalModel => "model.onnx",
            SectionKind::NormalData => cordon_graph::ExportedModel::LOCATION,
            SectionKind::PublicWeights => "public-weights.bin",
            _ => continue,
        };
        let folder = format!("segment-{}", section.segment());
        let path = staging.path().join(&folder);
        std::fs::create_dir_all(&path).map_err(|error| failed(&path, error))?;
        files::write(&path.join(name), stored(&package.bytes, section)?)?;
        written.push(format!("{folder}/{name}"));
    }
    std::fs::rename(staging.path(), &output).map_err(|error| failed(&output, error))?;
    // The name it had is gone: nothing is left to remove.
    let _ = staging.keep();
    open_to_readers(&output);
    if args.owner.is_none() {
        ui.line(ui.warn("No --owner was given: the signature is right, but nothing says whose it is."));
    }
    written.iter().for_each(|name| ui.line(output.join(name).display().to_string()));
    ui.json(
        &json!({ "folder": output.display().to_string(), "files": written, "owner_checked": args.owner.is_some() }),
    );
    Ok(())
}

/// A temporary folder is private; this one holds public parts.
fn open_to_readers(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    // Cosmetic: the parts are readable for their writer in any case.
    let _ = std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755));
}
