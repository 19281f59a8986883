//! Runs a lowered segment on the trusted engine in this process: for tests, golden checks and benchmarks on the owner's
//! machine. Nothing is protected here.

use crate::emit::Lowered;
use crate::error::LowerError;
use cordon_engine::program::{DType, Port};
use cordon_engine::{CHUNK, Compute, KernelSet, Limits, MemoryReport, Prepared, Reply, Residency, Step, ValueRef};
use cordon_graph::{ElemType, Tensor};
use std::collections::HashMap;

/// A segment loaded into an engine of its own, weights resident.
pub struct Local {
    engine: Prepared,
    ports: Vec<Port>,
    outputs: Vec<ElemType>,
}

/// Feeds `inputs` in port order and returns the outputs in port order, with the best kernels of this CPU.
pub fn run_lowered(lowered: &Lowered, inputs: &[Tensor]) -> Result<Vec<Tensor>, LowerError> {
    Local::new(lowered, KernelSet::detect())?.run(inputs)
}

impl Local {
    /// Validates the program and loads the weights, packing them on the way.
    pub fn new(lowered: &Lowered, compute: impl Into<Compute>) -> Result<Self, LowerError> {
        let (program, weights) = (lowered.program.clone(), lowered.weights.clone());
        let ports = program.inputs.clone();
        let limits = Limits { instruction_work: u64::MAX, ..Limits::new(u64::MAX) };
        let mut engine = Prepared::new(program, weights, compute, Residency::All, limits).map_err(refused)?;
        let mut step = wanted(engine.step(Reply::Go).map_err(refused)?);
        let mut loader = Loader { chunk: Vec::with_capacity(CHUNK), index: 0, failed: None };
        lowered.write_weights(&mut |bytes| loader.push(bytes, &mut engine, &mut step));
        loader.flush(&mut engine, &mut step);
        if let Some(error) = loader.failed {
            return Err(error);
        }
        if step.is_some() {
            return Err(LowerError::Engine("it asks for chunks past the end of the weight stream".into()));
        }
        engine.reset();
        Ok(Self { engine, ports, outputs: lowered.outputs.clone() })
    }

    /// One request.
    pub fn run(&mut self, inputs: &[Tensor]) -> Result<Vec<Tensor>, LowerError> {
        self.run_observed(inputs, &mut |_| ())
    }

    /// One request; `ran` gets the index of every instruction right after it was executed, to take the time.
    pub fn run_observed(&mut self, inputs: &[Tensor], ran: &mut dyn FnMut(u32)) -> Result<Vec<Tensor>, LowerError> {
        if inputs.len() != self.ports.len() {
            let (got, want) = (inputs.len(), self.ports.len());
            return Err(LowerError::Misuse(format!("{got} inputs for {want} input ports")));
        }
        let result = self.drive(inputs, ran);
        self.engine.reset();
        result
    }

    /// Secure memory the segment would take with all weights resident.
    pub fn memory(&self) -> MemoryReport {
        self.engine.memory()
    }

    fn drive(&mut self, inputs: &[Tensor], ran: &mut dyn FnMut(u32)) -> Result<Vec<Tensor>, LowerError> {
        enum Next {
            Go,
            Input(usize),
            Output(Vec<usize>),
            Spill(u32),
            Restore(u32),
        }
        let mut outputs = Vec::new();
        // Values outside the arena, as they are: nothing is protected here.
        let mut outside: HashMap<u32, Vec<u8>> = HashMap::new();
        let mut fed = 0;
        let mut next = Next::Go;
        loop {
            let step = match next {
                Next::Go => self.engine.step(Reply::Go),
                Next::Input(index) => feed(&mut self.engine, &inputs[index], &self.ports[index])?,
                Next::Spill(slot) => {
                    let value = self.engine.output().ok_or_else(|| LowerError::Engine("a value is gone".into()))?;
                    outside.insert(slot, tensor(&[value.len()], value, None).data.to_vec());
                    self.engine.step(Reply::Go)
                }
                Next::Restore(slot) => {
                    let value = outside.remove(&slot).unwrap_or_default();
                    self.engine.fill(&value).map_err(refused)?;
                    self.engine.step(Reply::Filled)
                }
                Next::Output(dims) => {
                    let value = self.engine.output().ok_or_else(|| LowerError::Engine("an output is gone".into()))?;
                    let elem = self.outputs.get(outputs.len()).copied();
                    outputs.push(tensor(&dims, value, elem));
                    self.engine.step(Reply::Go)
                }
            };
            next = match step.map_err(refused)? {
                Step::Ran { instruction } => {
                    ran(instruction);
                    Next::Go
                }
                Step::Input(_) => {
                    fed += 1;
                    Next::Input(fed - 1)
                }
                Step::Output(port) => Next::Output(port.shape.iter().map(|&extent| extent as usize).collect()),
                Step::Spill(moved) => Next::Spill(moved.slot),
                Step::Restore(moved) => Next::Restore(moved.slot),
                Step::Done => return Ok(outputs),
                Step::NeedChunks { .. } | Step::NeedPieces { .. } => {
                    return Err(LowerError::Engine("resident weights are gone".into()));
                }
            };
        }
    }
}

fn refused(error: cordon_engine::EngineError) -> LowerError {
    LowerError::Engine(error.to_string())
}

/// The first chunk a step asks for.
fn wanted(step: Step<'_>) -> Option<u32> {
    match step {
        Step::NeedChunks { first, .. } => Some(first),
        _ => None,
    }
}

/// Cuts the weight stream into chunks and hands the engine those it asks for, which it does in ascending order.
struct Loader {
    chunk: Vec<u8>,
    index: u32,
    failed: Option<LowerError>,
}

impl Loader {
    fn push(&mut self, mut bytes: &[u8], engine: &mut Prepared, step: &mut Option<u32>) {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(CHUNK - self.chunk.len()));
            self.chunk.extend_from_slice(now);
            bytes = later;
            if self.chunk.len() == CHUNK {
                self.flush(engine, step);
            }
        }
    }

    fn flush(&mut self, engine: &mut Prepared, step: &mut Option<u32>) {
        if self.chunk.is_empty() || self.failed.is_some() {
            return;
        }
        if *step == Some(self.index) {
            match engine.step(Reply::Chunk { index: self.index, plain: &self.chunk }) {
                Ok(next) => *step = wanted(next),
                Err(error) => self.failed = Some(refused(error)),
            }
        }
        self.index += 1;
        self.chunk.clear();
    }
}

/// Hands one input over after checking it against its port.
fn feed<'e>(
    engine: &'e mut Prepared,
    input: &Tensor,
    port: &Port,
) -> Result<Result<Step<'e>, cordon_engine::EngineError>, LowerError> {
    let extents: Vec<usize> = port.shape.iter().map(|&extent| extent as usize).collect();
    if input.dims != extents {
        return Err(LowerError::Misuse(format!("an input of extents {:?} where {extents:?} belong", input.dims)));
    }
    Ok(match port.region.dtype {
        DType::F32 => engine.step(Reply::Value(ValueRef::F32(&input.to_f32().map_err(LowerError::Misuse)?))),
        DType::I64 => engine.step(Reply::Value(ValueRef::I64(&input.to_i64().map_err(LowerError::Misuse)?))),
        DType::Bool => engine.step(Reply::Value(ValueRef::Bool(&input.to_mask().map_err(LowerError::Misuse)?))),
        DType::U8 => engine.step(Reply::Value(ValueRef::U8(&input.data))),
    })
}

fn tensor(dims: &[usize], value: ValueRef<'_>, elem: Option<ElemType>) -> Tensor {
    match value {
        ValueRef::F32(data) => Tensor::from_f32(dims, data),
        ValueRef::I64(data) => Tensor::from_i64(dims, data),
        ValueRef::U8(data) => {
            let elem = elem.unwrap_or(ElemType::Uint8);
            Tensor { elem, dims: dims.to_vec(), data: data.to_vec().into() }
        }
        ValueRef::Bool(data) => Tensor { elem: ElemType::Bool, dims: dims.to_vec(), data: data.to_vec().into() },
    }
}
