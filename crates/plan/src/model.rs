//! Reading a model for planning: import, shapes, folding, shapes again.

use crate::PlanError;
use cordon_graph::{Evaluator, Graph, ImportOptions, complete_shapes, digest, fold, import, infer};
use cordon_lower::OperatorTable;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Largest constant that folding may create, in bytes.
const FOLD_CAP: u64 = 256 << 20;

/// A model ready to be placed.
#[derive(Clone, Debug)]
pub struct Model {
    /// Typed and shaped; constants folded.
    pub graph: Graph,
    /// SHA-256 of the file and its external data, in hex.
    pub sha256: String,
    /// File name without its folder.
    pub file: String,
    /// The file it was read from; `None` of a model that was made by other means.
    pub path: Option<PathBuf>,
    /// Shapes that were bound by the caller.
    pub shapes: BTreeMap<String, Vec<usize>>,
}

/// Reads a model. `evaluator` runs constant subgraphs and, where no shape rule knows better, the model itself once, on the
/// owner's machine.
pub fn prepare(
    path: &Path,
    shapes: &BTreeMap<String, Vec<usize>>,
    evaluator: &mut dyn Evaluator,
) -> Result<Model, PlanError> {
    let options = ImportOptions { shapes: shapes.clone(), ..ImportOptions::default() };
    let mut graph = import(path, &options)?;
    let mut unknown = infer(&mut graph, &OperatorTable)?;
    fold(&mut graph, evaluator, FOLD_CAP)?;
    if !unknown.is_empty() {
        unknown = infer(&mut graph, &OperatorTable)?;
    }
    if !unknown.is_empty() {
        complete_shapes(&mut graph, evaluator)?;
        fold(&mut graph, evaluator, FOLD_CAP)?;
    }
    let sha256 = digest(path).map_err(PlanError::from)?.iter().map(|byte| format!("{byte:02x}")).collect();
    let file = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    Ok(Model { graph, sha256, file, path: Some(path.to_path_buf()), shapes: shapes.clone() })
}

impl Model {
    /// A model that was read by other means; its shapes are inferred here, nothing is folded.
    pub fn new(mut graph: Graph, file: &str, sha256: &str) -> Result<Self, PlanError> {
        infer(&mut graph, &OperatorTable)?;
        Ok(Self { graph, sha256: sha256.into(), file: file.into(), path: None, shapes: BTreeMap::new() })
    }

    /// Elements of all constants that some node uses.
    pub fn parameters(&self) -> u64 {
        let used: BTreeSet<_> = self.graph.nodes.iter().flat_map(|node| node.uses()).collect();
        used.into_iter().filter_map(|id| self.graph.value(id).constant.as_ref()).map(|tensor| tensor.elements()).sum()
    }
}
