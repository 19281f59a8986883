//! [`PlainModel`]: one model, one engine, some of its values.

use cordon_executor::{Executor, ExecutorError, ModelSource, Session, Tensor};
use cordon_graph::{Graph, ModelFile, NamePolicy, ValueId, export, segment};
use std::path::Path;

/// What an engine was given to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The model's own file, with its outputs or with some more.
    File,
    /// The graph that was read from it, written again; why the file itself would not do.
    Graph(String),
}

/// A model on an engine, ready to hand out the values it was opened for.
pub struct PlainModel {
    session: Box<dyn Session>,
    names: Vec<String>,
    origin: Origin,
}

impl PlainModel {
    /// Opens a model file for `values` of the `graph` that was read from it: its outputs, or anything its nodes compute.
    ///
    /// Where the file cannot be run as it is (a value is not in the file, its weights lie in several files, the engine
    /// refuses it), the graph is written again and run; [`PlainModel::origin`] says so.
    pub fn open(file: &Path, graph: &Graph, values: &[ValueId], engine: &dyn Executor) -> Result<Self, ExecutorError> {
        match original(file, graph, values).and_then(|source| engine.load(&source)) {
            Ok(session) => {
                let names = values.iter().map(|&id| graph.value(id).name.clone()).collect();
                Ok(Self { session, names, origin: Origin::File })
            }
            Err(why) => Ok(Self { origin: Origin::Graph(why.to_string()), ..Self::of_graph(graph, values, engine)? }),
        }
    }

    /// Opens a graph that has no file.
    pub fn of_graph(graph: &Graph, values: &[ValueId], engine: &dyn Executor) -> Result<Self, ExecutorError> {
        let mut whole = segment(graph, graph.node_ids());
        whole.inputs.clone_from(&graph.inputs);
        whole.outputs = values.to_vec();
        let exported = export(graph, &whole, &NamePolicy::Original)?;
        let session = engine.load(&ModelSource::from(&exported))?;
        let names = exported.outputs.into_iter().map(|(_, name)| name).collect();
        Ok(Self { session, names, origin: Origin::Graph("the model has no file".into()) })
    }

    /// The values it was opened for, in that order.
    pub fn run(&mut self, inputs: &[(&str, &Tensor)]) -> Result<Vec<Tensor>, ExecutorError> {
        let names: Vec<&str> = self.names.iter().map(String::as_str).collect();
        self.session.run(inputs, &names)
    }

    /// What the engine runs.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }
}

/// The file as every engine takes it, with `values` among its outputs.
fn original(path: &Path, graph: &Graph, values: &[ValueId]) -> Result<ModelSource, ExecutorError> {
    let file = ModelFile::open(path)?;
    let onnx = file.with_outputs(graph, values)?;
    let mut data = file.data.into_iter();
    match (data.next(), data.next()) {
        (data, None) => Ok(ModelSource { onnx, data }),
        _ => Err(ExecutorError::Unsupported("weights in several files".into())),
    }
}
