//! Where ONNX Runtime's shared library is.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::ExecutorError;

/// Environment variables that name the library, in order of precedence.
const VARIABLES: [&str; 2] = ["CORDON_ONNXRUNTIME", "ORT_DYLIB_PATH"];

/// The library to load. What is named explicitly is used or refused; only then are Python packages searched.
pub(crate) fn library(explicit: Option<&Path>) -> Result<PathBuf, ExecutorError> {
    if let Some(path) = explicit {
        return existing(path, "the path given");
    }
    for variable in VARIABLES {
        if let Some(path) = std::env::var_os(variable).filter(|v| !v.is_empty()) {
            return existing(Path::new(&path), variable);
        }
    }
    let folders = python_folders();
    if let Some(found) = folders.iter().find_map(|folder| newest_in(&folder.join("onnxruntime/capi"))) {
        return Ok(found);
    }
    let searched = folders.iter().map(|f| format!("\n  {}", f.display())).collect::<String>();
    Err(ExecutorError::NotInstalled(format!(
        "ONNX Runtime is not installed: neither {} nor an `onnxruntime` package for Python was found.{}",
        VARIABLES.join(", "),
        if searched.is_empty() {
            String::from(" No python3 answered either.")
        } else {
            format!(" Searched:{searched}")
        }
    )))
}

/// A folder stands for the library inside it.
fn existing(path: &Path, named_by: &str) -> Result<PathBuf, ExecutorError> {
    if path.is_file() {
        // The loader looks up bare names in its own search path, so the path must be absolute.
        return std::path::absolute(path).map_err(|source| ExecutorError::Io { path: path.into(), source });
    }
    newest_in(path)
        .ok_or_else(|| ExecutorError::NotInstalled(format!("ONNX Runtime is not at {} ({named_by})", path.display())))
}

/// `libonnxruntime.so` or its highest versioned name. The provider libraries beside it have other names.
fn newest_in(folder: &Path) -> Option<PathBuf> {
    let mut found: Vec<(Vec<u32>, PathBuf)> = std::fs::read_dir(folder)
        .ok()?
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let version = path.file_name()?.to_str()?.strip_prefix("libonnxruntime.so")?;
            let version = version.split('.').filter(|part| !part.is_empty()).map(str::parse).collect::<Result<_, _>>();
            Some((version.ok()?, path))
        })
        .collect();
    found.sort();
    found.pop().map(|(_, path)| path)
}

/// The package folders of an active virtual environment and of `python3`.
fn python_folders() -> Vec<PathBuf> {
    let mut folders = Vec::new();
    let interpreters = std::env::var_os("VIRTUAL_ENV")
        .map(|venv| Path::new(&venv).join("bin/python3").into_os_string())
        .into_iter()
        .chain(["python3".into()]);
    for interpreter in interpreters {
        // Isolated (-I), so nothing in the working directory is run or listed.
        let output = Command::new(interpreter)
            .args(["-I", "-c", "import sys; print('\\n'.join(p for p in sys.path if p.endswith('-packages')))"])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .output();
        let Ok(output) = output else { continue };
        for line in String::from_utf8_lossy(&output.stdout).lines().map(PathBuf::from) {
            if !folders.contains(&line) {
                folders.push(line);
            }
        }
    }
    folders
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_version_wins_by_number() {
        let dir = tempfile::tempdir().expect("temporary folder");
        assert_eq!(newest_in(dir.path()), None);
        for name in
            ["libonnxruntime.so.1.9.0", "libonnxruntime.so.1.31.1", "libonnxruntime_providers_shared.so", "x.so"]
        {
            std::fs::write(dir.path().join(name), b"").expect("writable");
        }
        assert_eq!(newest_in(dir.path()), Some(dir.path().join("libonnxruntime.so.1.31.1")));
        assert_eq!(
            library(Some(dir.path())).expect("a folder stands for its library"),
            dir.path().join("libonnxruntime.so.1.31.1")
        );
    }
}
