//! What cargo resolves.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use crate::commands::{capture, cargo};

/// A package of the resolved graph.
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) licence: Option<String>,
    /// Declared dependencies that end up in the program or its build, by name; development ones are left out.
    pub(crate) dependencies: Vec<String>,
    /// Whether the package is part of this workspace.
    pub(crate) member: bool,
}

/// Every package that the workspace at `manifest` resolves to.
pub(crate) fn packages(manifest: &Path) -> Result<Vec<Package>, String> {
    let manifest = manifest.to_string_lossy();
    let text = capture(&mut cargo(&["metadata", "--format-version", "1", "--locked", "--manifest-path", &manifest]))?;
    let metadata: Value = serde_json::from_str(&text).map_err(|e| format!("cargo metadata: {e}"))?;
    let members: BTreeMap<&str, ()> = strings(&metadata["workspace_members"]).map(|id| (id, ())).collect();
    Ok(list(&metadata["packages"])
        .map(|package| Package {
            name: text_of(&package["name"]),
            version: text_of(&package["version"]),
            licence: package["license"].as_str().map(str::to_owned),
            dependencies: list(&package["dependencies"])
                .filter(|dependency| dependency["kind"].as_str() != Some("dev"))
                .map(|dependency| text_of(&dependency["name"]))
                .collect(),
            member: package["id"].as_str().is_some_and(|id| members.contains_key(id)),
        })
        .collect())
}

/// The features of the workspace's own packages, without `default`.
pub(crate) fn features(manifest: &Path) -> Result<Vec<String>, String> {
    let manifest = manifest.to_string_lossy();
    let arguments = ["metadata", "--format-version", "1", "--locked", "--no-deps", "--manifest-path", &manifest];
    let metadata: Value =
        serde_json::from_str(&capture(&mut cargo(&arguments))?).map_err(|e| format!("cargo metadata: {e}"))?;
    let features = list(&metadata["packages"]).filter_map(|package| package["features"].as_object());
    Ok(features.flat_map(|of| of.keys()).filter(|name| *name != "default").cloned().collect())
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn strings(value: &Value) -> impl Iterator<Item = &str> {
    list(value).filter_map(Value::as_str)
}

fn text_of(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
