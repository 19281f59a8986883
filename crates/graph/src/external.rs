//! External tensor data: files beside the model, named by the model, which may be hostile.
//!
//! Four defences, all of them (they answer CVE-2022-25882, CVE-2024-27318, CVE-2026-27489 and their kin): the canonical
//! path stays below the model's directory, no component is a symbolic link, the file is opened without following links,
//! and it has one name only (no hard link to something elsewhere).

use crate::error::GraphError;
use crate::onnx::tensor_proto::DataLocation;
use crate::onnx::{AttributeProto, GraphProto, ModelProto, SparseTensorProto, TensorProto};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, File};
use std::path::{Component, Path, PathBuf};

/// What a tensor says about its data file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Reference<'a> {
    pub(crate) location: &'a str,
    pub(crate) offset: u64,
    pub(crate) length: Option<u64>,
}

impl<'a> Reference<'a> {
    /// Reads the key-value pairs; keys other than `location`, `offset` and `length` have no effect.
    pub(crate) fn read(tensor: &'a TensorProto) -> Result<Self, GraphError> {
        let mut found: [Option<&str>; 3] = [None; 3];
        for entry in &tensor.external_data {
            let Some(slot) = ["location", "offset", "length"].iter().position(|&key| key == entry.key()) else {
                continue;
            };
            if found[slot].replace(entry.value()).is_some() {
                return Err(GraphError::malformed(format!("external data gives `{}` twice", entry.key())));
            }
        }
        let number = |text: Option<&str>, key: &str| match text {
            None => Ok(None),
            Some(text) => text
                .parse::<u64>()
                .map(Some)
                .map_err(|_| GraphError::malformed(format!("external data has {key} `{}`", text.escape_debug()))),
        };
        Ok(Self {
            location: found[0].ok_or_else(|| GraphError::malformed("external data names no location"))?,
            offset: number(found[1], "offset")?.unwrap_or(0),
            length: number(found[2], "length")?,
        })
    }
}

/// Every data file that tensors of a model name: those of subgraphs, attributes and functions included.
pub(crate) fn locations(model: &ModelProto) -> Result<BTreeSet<&str>, GraphError> {
    let mut graphs: Vec<&GraphProto> = model.graph.iter().collect();
    let mut nodes: Vec<_> = model.functions.iter().flat_map(|function| &function.node).collect();
    let mut tensors: Vec<&TensorProto> = Vec::new();
    let mut attributes: Vec<&AttributeProto> =
        model.functions.iter().flat_map(|function| &function.attribute_proto).collect();
    loop {
        for graph in graphs.drain(..) {
            tensors.extend(graph.initializer.iter().chain(graph.sparse_initializer.iter().flat_map(parts)));
            nodes.extend(&graph.node);
        }
        attributes.extend(nodes.drain(..).flat_map(|node| &node.attribute));
        for attribute in attributes.drain(..) {
            tensors.extend(attribute.t.as_deref().into_iter().chain(&attribute.tensors));
            let sparse = attribute.sparse_tensor.as_deref().into_iter().chain(&attribute.sparse_tensors);
            tensors.extend(sparse.flat_map(parts));
            graphs.extend(attribute.g.as_deref().into_iter().chain(&attribute.graphs));
        }
        if graphs.is_empty() {
            break;
        }
    }
    let external = tensors.into_iter().filter(|tensor| tensor.data_location() == DataLocation::External);
    external.map(|tensor| Ok(Reference::read(tensor)?.location)).collect()
}

fn parts(sparse: &SparseTensorProto) -> impl Iterator<Item = &TensorProto> {
    sparse.values.iter().chain(&sparse.indices)
}

/// Opens and keeps the data files of one model.
pub(crate) struct External {
    directory: Option<PathBuf>,
    files: HashMap<String, Bytes>,
}

impl External {
    /// Data files below `directory`, or already in memory.
    pub(crate) fn new(directory: Option<&Path>, memory: &BTreeMap<String, Bytes>) -> Self {
        Self {
            directory: directory.map(Path::to_path_buf),
            files: memory.iter().map(|(location, bytes)| (location.clone(), bytes.clone())).collect(),
        }
    }

    /// The `size` bytes a tensor refers to, as a view of the mapped file.
    pub(crate) fn read(&mut self, reference: &Reference<'_>, size: u64) -> Result<Bytes, GraphError> {
        let location = reference.location;
        let file = self.file(location)?;
        if reference.length.is_some_and(|length| length != size) {
            return Err(GraphError::malformed(format!(
                "external data in `{location}` has length {} where the extents need {size}",
                reference.length.unwrap_or(0)
            )));
        }
        let end = reference.offset.checked_add(size).filter(|&end| end <= file.len() as u64);
        let end = end.ok_or_else(|| {
            GraphError::malformed(format!(
                "external data at {} of {size} bytes reaches beyond the end of `{location}` ({} bytes)",
                reference.offset,
                file.len()
            ))
        })?;
        Ok(file.slice(reference.offset as usize..end as usize))
    }

    fn file(&mut self, location: &str) -> Result<Bytes, GraphError> {
        if let Some(bytes) = self.files.get(location) {
            return Ok(bytes.clone());
        }
        let directory = self.directory.as_deref().ok_or_else(|| {
            GraphError::Misuse(format!("the model keeps tensor data in `{location}`: import it from its file"))
        })?;
        let (file, path) = open(directory, location)?;
        let bytes = cordon_mapped::file(&file).map_err(|error| GraphError::Io { path, error })?;
        self.files.insert(location.to_owned(), bytes.clone());
        Ok(bytes)
    }
}

/// Opens a data file below `directory` under the four defences.
pub(crate) fn open(directory: &Path, location: &str) -> Result<(File, PathBuf), GraphError> {
    let relative = Path::new(location);
    let normal = relative.components().all(|part| matches!(part, Component::Normal(_)));
    if location.is_empty() || location.contains('\0') || !normal {
        return Err(GraphError::malformed(format!(
            "external data location `{}` is not a relative path below the model",
            location.escape_debug()
        )));
    }
    let io = |path: &Path, error| GraphError::Io { path: path.to_path_buf(), error };
    let base = match directory.as_os_str().is_empty() {
        true => Path::new("."),
        false => directory,
    };
    let base = fs::canonicalize(base).map_err(|error| io(base, error))?;
    let mut path = base.clone();
    for part in relative.components() {
        path.push(part);
        let about = fs::symlink_metadata(&path).map_err(|error| io(&path, error))?;
        if about.file_type().is_symlink() {
            return Err(refused(location, "is reached through a symbolic link", "copy the file there"));
        }
    }
    let canonical = fs::canonicalize(&path).map_err(|error| io(&path, error))?;
    if !canonical.starts_with(&base) {
        return Err(refused(location, "lies outside the model's directory", "copy the file there"));
    }
    let file = open_no_follow(&canonical).map_err(|error| io(&canonical, error))?;
    let about = file.metadata().map_err(|error| io(&canonical, error))?;
    if !about.is_file() {
        return Err(refused(location, "is not a regular file", "name a regular file"));
    }
    if links(&about) != 1 {
        return Err(refused(location, "has other names (hard links)", "replace it by a copy"));
    }
    Ok((file, canonical))
}

fn refused(location: &str, why: &str, next: &str) -> GraphError {
    GraphError::malformed(format!("external data `{}` {why}; {next}", location.escape_debug()))
}

#[cfg(unix)]
fn open_no_follow(path: &Path) -> std::io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt as _;
    // O_NONBLOCK: opening a FIFO must not wait for a writer; it has no effect on regular files.
    fs::OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)
}

#[cfg(unix)]
fn links(about: &fs::Metadata) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    about.nlink()
}
