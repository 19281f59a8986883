//! What `--input` names, turned into requests.

use crate::failure::{Failure, Outcome, own};
use crate::{images, ui};
use cordon_executor::{ElemType, Tensor};
use cordon_package::{Manifest, Preprocessing};
use std::path::{Path, PathBuf};

/// One request: a label for people, and every input of the model.
pub(crate) struct Request {
    /// The file it came from.
    pub(crate) label: String,
    /// Name and value of each input.
    pub(crate) inputs: Vec<(String, Tensor)>,
}

/// What the model takes, from the package or from a plan.
pub(crate) struct Interface {
    /// Name, element type and extents of each input.
    pub(crate) inputs: Vec<(String, ElemType, Vec<usize>)>,
    /// How an image becomes the input of that name.
    pub(crate) preprocessing: Option<(String, Preprocessing)>,
}

impl Interface {
    /// The public interface of a package.
    pub(crate) fn of(manifest: &Manifest) -> Self {
        let inputs = manifest
            .inputs
            .iter()
            .filter_map(|&id| manifest.value(id))
            .map(|value| {
                let dims = value.shape().iter().map(|&dim| dim as usize).collect();
                (value.name.clone().unwrap_or_default(), value.elem, dims)
            })
            .collect();
        let preprocessing = manifest.preprocessing.clone().and_then(|preprocessing| {
            let name = manifest.value(preprocessing.input)?.name.clone()?;
            Some((name, preprocessing))
        });
        Self { inputs, preprocessing }
    }

    /// Requests for a list of `[NAME=]FILE|DIR`. A folder is one request per file and stands alone; otherwise all files
    /// together are one request.
    pub(crate) fn requests(&self, arguments: &[String]) -> Outcome<Vec<Request>> {
        let named: Vec<(Option<&str>, PathBuf)> = arguments.iter().map(|text| self.split(text)).collect();
        if let [(name, path)] = named.as_slice()
            && path.is_dir()
        {
            return folder(path)?.into_iter().map(|file| self.request(&[(*name, file)])).collect();
        }
        if let Some((_, path)) = named.iter().find(|(_, path)| path.is_dir()) {
            return Err(Failure::new(
                &own::ARGUMENT,
                format!("{} is a folder, and there are other inputs", path.display()),
                "give one folder alone; for models with several inputs put one .npz per request in it",
            ));
        }
        Ok(vec![self.request(&named)?])
    }

    /// `NAME=` counts only where NAME is an input, so that paths may contain `=`.
    fn split<'a>(&self, text: &'a str) -> (Option<&'a str>, PathBuf) {
        match text.split_once('=') {
            Some((name, path)) if self.inputs.iter().any(|(input, ..)| input == name) => (Some(name), path.into()),
            _ => (None, text.into()),
        }
    }

    fn request(&self, files: &[(Option<&str>, PathBuf)]) -> Outcome<Request> {
        let mut found: Vec<(String, Tensor)> = Vec::new();
        for (name, path) in files {
            for (inner, tensor) in self.read(*name, path)? {
                if found.iter().any(|(taken, _)| *taken == inner) {
                    return Err(Failure::new(
                        &own::INPUT,
                        format!("input `{inner}` is given twice"),
                        "give each input once",
                    ));
                }
                found.push((inner, tensor));
            }
        }
        for (name, elem, dims) in &self.inputs {
            let Some((_, tensor)) = found.iter().find(|(given, _)| given == name) else {
                return Err(Failure::new(
                    &own::INPUT,
                    format!("input `{name}` ({elem} {}) is missing", ui::shape(dims)),
                    format!("add --input {name}=FILE"),
                ));
            };
            if tensor.elem != *elem || tensor.dims != *dims {
                return Err(Failure::new(
                    &own::INPUT,
                    format!(
                        "input `{name}` takes {elem} {}, but {} holds {} {}",
                        ui::shape(dims),
                        label(files),
                        tensor.elem,
                        ui::shape(&tensor.dims)
                    ),
                    "convert the file; shapes are fixed when the model is planned (--shape)",
                ));
            }
        }
        Ok(Request { label: label(files), inputs: found })
    }

    fn read(&self, name: Option<&str>, path: &Path) -> Outcome<Vec<(String, Tensor)>> {
        let extension = path.extension().map(|ext| ext.to_string_lossy().to_lowercase()).unwrap_or_default();
        match extension.as_str() {
            "png" | "jpg" | "jpeg" => self.read_image(name, path),
            "npy" | "npz" | "pb" => {
                let tensors = cordon_executor::files::read(path)?;
                // Arrays of an archive, and tensors that carry an input's name, say themselves which input they are.
                tensors.into_iter().map(|(inner, tensor)| Ok((self.resolve(name, &inner, path)?, tensor))).collect()
            }
            _ => Err(Failure::new(
                &own::INPUT,
                format!("{} is no kind of input this command reads", path.display()),
                "give .png, .jpg, .npy, .npz or .pb",
            )),
        }
    }

    fn read_image(&self, name: Option<&str>, path: &Path) -> Outcome<Vec<(String, Tensor)>> {
        match &self.preprocessing {
            Some((input, preprocessing)) if name.is_none_or(|name| name == input) => {
                Ok(vec![(input.clone(), images::read(path, preprocessing)?)])
            }
            _ => Err(Failure::new(
                &own::INPUT,
                format!("{} is an image, but there is no preprocessing for this input", path.display()),
                "plan and seal with --image NAME:size=…, or give a tensor as .npy",
            )),
        }
    }

    fn resolve(&self, given: Option<&str>, inner: &str, path: &Path) -> Outcome<String> {
        if let Some(name) = given {
            return Ok(name.to_owned());
        }
        if self.inputs.iter().any(|(name, ..)| name == inner) {
            return Ok(inner.to_owned());
        }
        match self.inputs.as_slice() {
            [(only, ..)] => Ok(only.clone()),
            all => {
                let names: Vec<&str> = all.iter().map(|(name, ..)| name.as_str()).collect();
                Err(Failure::new(
                    &own::INPUT,
                    format!("which input is {}? The model has {}", path.display(), names.join(", ")),
                    format!("write --input {}={}", names.first().unwrap_or(&"NAME"), path.display()),
                ))
            }
        }
    }
}

fn label(files: &[(Option<&str>, PathBuf)]) -> String {
    let name =
        |path: &Path| path.file_name().map_or_else(|| path.display().to_string(), |n| n.to_string_lossy().into());
    files.iter().map(|(_, path)| name(path)).collect::<Vec<_>>().join(" ")
}

/// Files of a kind this command reads, by name.
fn folder(path: &Path) -> Outcome<Vec<PathBuf>> {
    let failed = |error: std::io::Error| {
        Failure::new(
            &own::UNREADABLE,
            format!("cannot read folder {}: {error}", path.display()),
            "check the path and its permissions",
        )
    };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).map_err(failed)? {
        let file = entry.map_err(failed)?.path();
        let extension = file.extension().map(|ext| ext.to_string_lossy().to_lowercase()).unwrap_or_default();
        if matches!(extension.as_str(), "png" | "jpg" | "jpeg" | "npy" | "npz" | "pb") {
            files.push(file);
        }
    }
    files.sort();
    if files.is_empty() {
        return Err(Failure::new(
            &own::INPUT,
            format!("folder {} holds no .png, .jpg, .npy, .npz or .pb file", path.display()),
            "name another folder, or a file",
        ));
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interface() -> Interface {
        Interface {
            inputs: vec![("a".into(), ElemType::Float, vec![1, 2]), ("b".into(), ElemType::Int64, vec![1])],
            preprocessing: None,
        }
    }

    #[test]
    fn every_input_must_come_once_and_fit() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let save = |name: &str, tensor: Tensor| {
            let path = dir.path().join(name);
            cordon_executor::files::write(&path, &[(String::new(), tensor)]).expect("writable");
            path.display().to_string()
        };
        let a = save("a.npy", Tensor::from_f32(vec![1, 2], &[1.0, 2.0]).expect("fits"));
        let b = save("b.npy", Tensor::from_i64(vec![1], &[3]).expect("fits"));
        let interface = interface();
        let ask = |list: &[String]| interface.requests(list).map_err(|failure| failure.to_string());
        let both = ask(&[format!("a={a}"), format!("b={b}")]).expect("complete");
        assert_eq!(both[0].inputs.len(), 2);
        let problem = |list: &[String]| ask(list).err().expect("refused");
        assert!(problem(&[format!("a={a}")]).contains("`b`"));
        assert!(problem(&[format!("a={a}"), format!("a={a}")]).contains("twice"));
        assert!(problem(&[format!("a={b}"), format!("b={b}")]).contains("takes float 1x2"));
        assert!(problem(&[a.clone(), b.clone()]).contains("which input"));
        assert!(problem(&["a=missing.npy".into()]).contains("missing.npy"));
        assert!(problem(&["thing.txt".into()]).contains(".npy"));
    }

    #[test]
    fn an_empty_folder_is_named() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let failure = interface().requests(&[dir.path().display().to_string()]).err().expect("nothing there");
        assert!(failure.to_string().contains("holds no"));
    }
}
