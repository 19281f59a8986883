//! Reading a model file the same way in every command that takes one.

use crate::failure::{Failure, Outcome, own};
use crate::ui::Ui;
use cordon_plan::Model;
use cordon_runtime::MAX_THREADS;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// The model and how to read it.
#[derive(clap::Args)]
pub(crate) struct ModelArgs {
    /// The ONNX file
    pub(crate) model: PathBuf,

    /// Bind an input's dimensions, for example input=1x3x224x224; may be repeated
    #[arg(long = "shape", value_name = "NAME=DIMS", value_parser = parse_shape)]
    shapes: Vec<(String, Vec<usize>)>,
}

/// Which engine runs normal segments, and the plain model.
#[derive(clap::Args, Clone)]
pub(crate) struct ExecutorArgs {
    /// Engine of the normal world: rten, onnxruntime, onnxruntime:cpu or onnxruntime:cuda
    #[arg(long, default_value = "rten", value_name = "ENGINE")]
    pub(crate) executor: String,

    /// ONNX Runtime's shared library; by default the environment and installed Python packages are searched
    #[arg(long, value_name = "FILE")]
    pub(crate) onnxruntime: Option<PathBuf>,

    /// Threads of the engine and of the enclave, 1 to 16; by default the engine's own choice, and at most two in the enclave
    #[arg(long, value_name = "T", value_parser = parse_threads)]
    pub(crate) threads: Option<usize>,
}

impl ExecutorArgs {
    /// The engine's options.
    pub(crate) fn options(&self) -> cordon_executor::Options {
        cordon_executor::Options { threads: self.threads, library: self.onnxruntime.clone() }
    }

    /// Opens the engine.
    pub(crate) fn open(&self) -> Outcome<Box<dyn cordon_executor::Executor>> {
        Ok(cordon_executor::open(&self.executor, &self.options())?)
    }
}

impl ModelArgs {
    /// Shapes by input name.
    pub(crate) fn shapes(&self) -> Outcome<BTreeMap<String, Vec<usize>>> {
        let mut map = BTreeMap::new();
        for (name, dims) in &self.shapes {
            if map.insert(name.clone(), dims.clone()).is_some() {
                return Err(Failure::new(
                    &own::ARGUMENT,
                    format!("--shape names `{name}` twice"),
                    "give each input once",
                ));
            }
        }
        Ok(map)
    }

    /// Reads the model: shapes inferred, constants folded.
    pub(crate) fn read(&self, executor: &ExecutorArgs, ui: Ui) -> Outcome<Model> {
        read(self, &self.shapes()?, executor, ui)
    }
}

/// Reads the model with the given shapes.
pub(crate) fn read(
    args: &ModelArgs,
    shapes: &BTreeMap<String, Vec<usize>>,
    executor: &ExecutorArgs,
    ui: Ui,
) -> Outcome<Model> {
    let bar = ui.progress(0, &format!("reading {}", args.model.display()));
    let engine = executor.open()?;
    let model = cordon_plan::prepare(&args.model, shapes, &mut cordon_plain::EngineEvaluator(engine.as_ref()));
    bar.finish_and_clear();
    Ok(model?)
}

fn parse_threads(text: &str) -> Result<usize, String> {
    let threads = text.parse().ok().filter(|threads| (1..=MAX_THREADS).contains(threads));
    threads.ok_or_else(|| format!("give a number from 1 to {MAX_THREADS}"))
}

fn parse_shape(text: &str) -> Result<(String, Vec<usize>), String> {
    let usage = || "write NAME=DIMS, for example input=1x3x224x224".to_owned();
    let (name, dims) = text.rsplit_once('=').filter(|(name, _)| !name.is_empty()).ok_or_else(usage)?;
    let dims = dims.split(['x', ',']).map(|dim| dim.parse().ok().filter(|&dim| dim > 0)).collect::<Option<Vec<_>>>();
    Ok((name.to_owned(), dims.ok_or_else(usage)?))
}
