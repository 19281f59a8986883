//! `onnxruntime`: Microsoft's engine, loaded at run time; the reference for equality and speed, and the way to a GPU.

use std::borrow::Cow;
use std::sync::{Arc, Mutex, PoisonError};

use half::{bf16, f16};
use ort::environment::Environment;
use ort::ep::{CUDA, ExecutionProvider};
use ort::session::builder::GraphOptimizationLevel;
use ort::session::{OutputSelector, RunOptions, SessionInputValue};
use ort::value::{DynValue, TensorElementType, ValueType};

use cordon_graph::{ElemType, Tensor};

use crate::{Executor, ExecutorError, ModelSource, Options, Session, locate};

const NAME: &str = "onnxruntime";

/// The library can be loaded once per process, so the first path to be opened decides.
static LOADED: Mutex<Option<(std::path::PathBuf, Environment)>> = Mutex::new(None);

/// ONNX Runtime with its CPU or CUDA execution provider.
pub(crate) struct OnnxRuntime {
    environment: Environment,
    threads: Option<usize>,
    cuda: bool,
}

impl OnnxRuntime {
    pub(crate) fn new(options: &Options, cuda: bool) -> Result<Self, ExecutorError> {
        let path = locate::library(options.library.as_deref())?;
        let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
        let environment = match &*loaded {
            Some((first, environment)) if *first == path => environment.clone(),
            Some((first, _)) => {
                return Err(ExecutorError::Misuse(format!(
                    "one ONNX Runtime per process: {} is loaded, {} was asked for",
                    first.display(),
                    path.display()
                )));
            }
            None => {
                let builder = ort::init_from(&path).map_err(|e| engine(format!("{}: {e}", path.display())))?;
                let environment = builder.with_name("cordon").with_telemetry(false).build().map_err(engine)?;
                // Every failure comes back as an error; the library must not print it as well.
                environment.set_log_level(ort::logging::LogLevel::Fatal);
                *loaded = Some((path.clone(), environment.clone()));
                environment
            }
        };
        if cuda && !CUDA::is_available().map_err(engine)? {
            return Err(ExecutorError::NotInstalled(format!(
                "the ONNX Runtime at {} has no CUDA provider",
                path.display()
            )));
        }
        Ok(Self { environment, threads: options.threads, cuda })
    }
}

impl Executor for OnnxRuntime {
    fn name(&self) -> &str {
        if self.cuda { "onnxruntime:cuda" } else { "onnxruntime:cpu" }
    }

    fn load(&self, model: &ModelSource) -> Result<Box<dyn Session>, ExecutorError> {
        let builder = ort::session::Session::builder(&self.environment).map_err(engine)?;
        // Said although they are defaults: what is measured here is the engine at its best.
        let mut builder = builder.with_optimization_level(GraphOptimizationLevel::All).map_err(engine)?;
        // Its threads spin between the parallel parts of one run, for speed, but not past its end: there the core belongs
        // to whoever comes next, often an enclave.
        builder = builder.with_config_entry("session.force_spinning_stop", "1").map_err(engine)?;
        if let Some(threads) = self.threads {
            builder = builder.with_intra_threads(threads).map_err(engine)?;
        }
        if self.cuda {
            // A provider that cannot start must fail here: the default is to go on with the CPU.
            builder = builder.with_execution_providers([CUDA::default().build().error_on_failure()]).map_err(engine)?;
        }
        if let Some((location, data)) = &model.data {
            builder =
                builder.with_external_initializer_file_in_memory(location, Arc::from(data.as_ref())).map_err(engine)?;
        }
        let session = builder.commit_from_memory(&model.onnx).map_err(engine)?;
        Ok(Box::new(OrtSession { session }))
    }
}

struct OrtSession {
    session: ort::session::Session,
}

impl Session for OrtSession {
    fn run(&mut self, inputs: &[(&str, &Tensor)], outputs: &[&str]) -> Result<Vec<Tensor>, ExecutorError> {
        let known: Vec<String> = self.session.outputs().iter().map(|o| o.name().to_owned()).collect();
        let mut selector = OutputSelector::no_default();
        for (i, name) in outputs.iter().enumerate() {
            if !known.iter().any(|k| k == name) {
                return Err(ExecutorError::Misuse(format!("`{name}` is no output of the model, which has {known:?}")));
            }
            if !outputs[..i].contains(name) {
                selector = selector.with(*name);
            }
        }
        let fed = inputs
            .iter()
            .map(|(name, tensor)| Ok((Cow::Borrowed(*name), SessionInputValue::Owned(to_ort(name, tensor)?))))
            .collect::<Result<Vec<_>, ExecutorError>>()?;
        let options = RunOptions::new().map_err(engine)?.with_outputs(selector);
        let values = self.session.run_with_options(fed, &options).map_err(engine)?;
        outputs
            .iter()
            .map(|name| {
                let value = values.get(name).ok_or_else(|| engine(format!("output `{name}` is missing")))?;
                from_ort(name, value)
            })
            .collect()
    }
}

fn engine(message: impl ToString) -> ExecutorError {
    ExecutorError::Engine { engine: NAME, message: message.to_string() }
}

fn unsupported(name: &str, what: &dyn core::fmt::Display) -> ExecutorError {
    ExecutorError::Unsupported(format!("`{name}` is {what}, and executors carry dense tensors of numbers and booleans"))
}

/// The element types that cross, each with its Rust type: one list for both directions.
macro_rules! for_each_type {
    ($($code:ident, $ort:ident, $ty:ty;)*) => {
        fn to_ort(name: &str, tensor: &Tensor) -> Result<DynValue, ExecutorError> {
            match tensor.elem {
                $(ElemType::$code => {
                    let values: Vec<$ty> =
                        tensor.data.as_chunks().0.iter().map(|b| <$ty>::from_le_bytes(*b)).collect();
                    make(tensor, values)
                })*
                ElemType::Bool => make(tensor, tensor.data.iter().map(|b| *b != 0).collect::<Vec<bool>>()),
                other => Err(unsupported(name, &format!("a tensor of {other}"))),
            }
        }

        fn from_ort(name: &str, value: &DynValue) -> Result<Tensor, ExecutorError> {
            let ValueType::Tensor { ty, shape, .. } = value.dtype() else {
                return Err(unsupported(name, value.dtype()));
            };
            let dims: Result<Vec<usize>, _> = shape.iter().map(|d| usize::try_from(*d)).collect();
            let dims = dims.map_err(|_| engine(format!("output `{name}` has shape {shape:?}")))?;
            match ty {
                $(TensorElementType::$ort => {
                    let (_, values) = value.try_extract_tensor::<$ty>().map_err(engine)?;
                    Ok(Tensor::from_elements(ElemType::$code, dims, values.iter().map(|v| v.to_le_bytes()))?)
                })*
                TensorElementType::Bool => {
                    let (_, values) = value.try_extract_tensor::<bool>().map_err(engine)?;
                    Ok(Tensor::from_bool(dims, values)?)
                }
                other => Err(unsupported(name, &format!("a tensor of {other}"))),
            }
        }
    };
}

for_each_type! {
    Float, Float32, f32;
    Uint8, Uint8, u8;
    Int8, Int8, i8;
    Uint16, Uint16, u16;
    Int16, Int16, i16;
    Int32, Int32, i32;
    Int64, Int64, i64;
    Float16, Float16, f16;
    Double, Float64, f64;
    Uint32, Uint32, u32;
    Uint64, Uint64, u64;
    Bfloat16, Bfloat16, bf16;
}

fn make<T>(tensor: &Tensor, values: Vec<T>) -> Result<DynValue, ExecutorError>
where
    T: ort::value::PrimitiveTensorElementType + core::fmt::Debug + Clone + 'static,
{
    if values.is_empty() {
        // An empty buffer has no address that the library accepts; it allocates the empty tensor itself.
        let allocator = ort::memory::Allocator::default();
        let empty = ort::value::Tensor::<T>::new(&allocator, tensor.dims.clone()).map_err(engine)?;
        return Ok(empty.into_dyn());
    }
    ort::value::Tensor::from_array((tensor.dims.clone(), values)).map(|t| t.into_dyn()).map_err(engine)
}
