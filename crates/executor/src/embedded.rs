//! `rten`: the embedded, pure Rust engine.

use core::panic::AssertUnwindSafe;
use std::collections::HashMap;
use std::panic::catch_unwind;
use std::sync::Arc;

use cordon_graph::{ElemType, Tensor, signature};
use rten::{Model, ModelOptions, NodeId, RunOptions, ThreadPool, Value, ValueOrView};
use rten_tensor::Layout;
use rten_tensor::prelude::*;

use crate::{Executor, ExecutorError, ModelSource, Options, Session};

const NAME: &str = "rten";

/// The embedded engine.
pub(crate) struct Rten {
    threads: Option<Arc<ThreadPool>>,
}

impl Rten {
    pub(crate) fn new(options: &Options) -> Self {
        Self { threads: options.threads.map(|n| Arc::new(ThreadPool::with_num_threads(n))) }
    }
}

impl Executor for Rten {
    fn name(&self) -> &str {
        NAME
    }

    fn load(&self, model: &ModelSource) -> Result<Box<dyn Session>, ExecutorError> {
        let types = signature(model.onnx.clone())?.1.into_iter().collect();
        let mut options = ModelOptions::with_all_ops();
        if let Some((location, data)) = &model.data {
            options.external_data(location, data.to_vec());
        }
        let onnx = model.onnx.to_vec();
        let model = guarded(|| options.load(onnx).map_err(engine))?;
        Ok(Box::new(RtenSession { model, types, threads: self.threads.clone() }))
    }
}

struct RtenSession {
    model: Model,
    /// Declared element types of the graph's outputs: rten computes int64 and bool as int32.
    types: HashMap<String, Option<ElemType>>,
    threads: Option<Arc<ThreadPool>>,
}

impl Session for RtenSession {
    fn run(&mut self, inputs: &[(&str, &Tensor)], outputs: &[&str]) -> Result<Vec<Tensor>, ExecutorError> {
        let fed = inputs
            .iter()
            .map(|(name, tensor)| Ok((self.node(name)?, ValueOrView::Value(to_rten(name, tensor)?))))
            .collect::<Result<Vec<_>, ExecutorError>>()?;
        let mut wanted = Vec::with_capacity(outputs.len());
        let mut asked: Vec<NodeId> = Vec::new();
        for name in outputs {
            let elem = *self.types.get(*name).ok_or_else(|| {
                ExecutorError::Misuse(format!("`{name}` is no output of the model, which has {:?}", self.types.keys()))
            })?;
            let node = self.node(name)?;
            wanted.push((node, elem, *name));
            if !asked.contains(&node) {
                asked.push(node);
            }
        }
        let mut options = RunOptions::default();
        options.thread_pool.clone_from(&self.threads);
        let values = guarded(|| self.model.run(fed, &asked, Some(options)).map_err(engine))?;
        wanted
            .into_iter()
            .map(|(node, elem, name)| {
                let value = asked.iter().zip(&values).find(|(id, _)| **id == node).map(|(_, value)| value);
                value.map_or_else(|| Err(engine("an output is missing")), |v| from_rten(name, v, elem))
            })
            .collect()
    }
}

impl RtenSession {
    fn node(&self, name: &str) -> Result<NodeId, ExecutorError> {
        self.model.find_node(name).ok_or_else(|| ExecutorError::Misuse(format!("the model has no value `{name}`")))
    }
}

fn engine(message: impl ToString) -> ExecutorError {
    ExecutorError::Engine { engine: NAME, message: message.to_string() }
}

/// rten validates less than it indexes: a malformed model must not take the process down.
fn guarded<T>(job: impl FnOnce() -> Result<T, ExecutorError>) -> Result<T, ExecutorError> {
    catch_unwind(AssertUnwindSafe(job)).unwrap_or_else(|_| Err(engine("the engine panicked on this model")))
}

fn to_rten(name: &str, tensor: &Tensor) -> Result<Value, ExecutorError> {
    let dims = &tensor.dims;
    let value = match tensor.elem {
        ElemType::Float => Value::from_shape(dims, tensor.to_f32()?).map_err(engine)?,
        ElemType::Int32 | ElemType::Int64 => {
            let narrow: Result<Vec<i32>, _> = tensor.to_i64()?.into_iter().map(i32::try_from).collect();
            let narrow = narrow.map_err(|_| {
                ExecutorError::Unsupported(format!(
                    "{NAME} computes integers in 32 bits, and input `{name}` needs more"
                ))
            })?;
            Value::from_shape(dims, narrow).map_err(engine)?
        }
        ElemType::Bool => {
            Value::from_shape(dims, tensor.data.iter().map(|b| i32::from(*b != 0)).collect()).map_err(engine)?
        }
        ElemType::Int8 => {
            Value::from_shape(dims, tensor.data.iter().map(|b| b.cast_signed()).collect::<Vec<i8>>()).map_err(engine)?
        }
        ElemType::Uint8 => Value::from_shape(dims, tensor.data.to_vec()).map_err(engine)?,
        other => return Err(unsupported(name, other)),
    };
    Ok(value)
}

fn from_rten(name: &str, value: &Value, declared: Option<ElemType>) -> Result<Tensor, ExecutorError> {
    let tensor = match (value, declared) {
        (Value::FloatTensor(t), _) => {
            Tensor::from_elements(ElemType::Float, t.shape().to_vec(), t.iter().map(|v| v.to_le_bytes()))?
        }
        (Value::Int32Tensor(t), Some(ElemType::Bool)) => {
            Tensor::from_elements(ElemType::Bool, t.shape().to_vec(), t.iter().map(|v| [u8::from(*v != 0)]))?
        }
        (Value::Int32Tensor(t), Some(ElemType::Int64)) => {
            Tensor::from_elements(ElemType::Int64, t.shape().to_vec(), t.iter().map(|v| i64::from(*v).to_le_bytes()))?
        }
        (Value::Int32Tensor(t), _) => {
            Tensor::from_elements(ElemType::Int32, t.shape().to_vec(), t.iter().map(|v| v.to_le_bytes()))?
        }
        (Value::Int8Tensor(t), _) => {
            Tensor::from_elements(ElemType::Int8, t.shape().to_vec(), t.iter().map(|v| [v.cast_unsigned()]))?
        }
        (Value::UInt8Tensor(t), _) => {
            Tensor::from_elements(ElemType::Uint8, t.shape().to_vec(), t.iter().map(|v| [*v]))?
        }
        _ => return Err(ExecutorError::Unsupported(format!("output `{name}` is no tensor"))),
    };
    match declared {
        Some(declared) if declared != tensor.elem => Err(unsupported(name, declared)),
        _ => Ok(tensor),
    }
}

fn unsupported(name: &str, elem: ElemType) -> ExecutorError {
    ExecutorError::Unsupported(format!("{NAME} cannot carry `{name}`, a tensor of {elem}"))
}
