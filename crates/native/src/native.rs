//! [`Native`]: a Program loaded into an engine of its own.

use crate::NativeError;
use cordon_engine::program::{DType, Program, WeightTable};
use cordon_engine::{
    CHUNK, Compute, EngineError, Limits, MemoryReport, Prepared, Reply, Residency, Step, Unloaded, ValueRef,
};
use cordon_graph::{ElemType, Tensor};
use std::collections::HashMap;

/// A Program loaded into an engine of its own, weights resident.
pub struct Native {
    engine: Prepared,
    outputs: Vec<ElemType>,
}

impl Native {
    /// Validates the Program and loads its weights. `outputs` are the ONNX types of its output ports; `stream` hands the packed
    /// weights over in order, in pieces of any size.
    pub fn load(
        program: Program,
        weights: WeightTable,
        outputs: &[ElemType],
        stream: impl FnOnce(&mut dyn FnMut(&[u8])),
        compute: impl Into<Compute>,
    ) -> Result<Self, NativeError> {
        let limits = Limits { instruction_work: u64::MAX, ..Limits::new(u64::MAX) };
        let unloaded = Unloaded::new(program, weights, compute, Residency::All, limits)?;
        let mut loader = Loader { unloaded, chunk: Vec::with_capacity(CHUNK), index: 0, loaded: Ok(()) };
        stream(&mut |bytes| loader.push(bytes));
        Ok(Self { engine: loader.finish()?, outputs: outputs.to_vec() })
    }

    /// One request: inputs in port order to outputs in port order.
    pub fn run(&mut self, inputs: &[Tensor]) -> Result<Vec<Tensor>, NativeError> {
        self.run_observed(inputs, &mut |_| ())
    }

    /// One request; `ran` gets the index of every instruction right after it was executed, to take the time.
    pub fn run_observed(&mut self, inputs: &[Tensor], ran: &mut dyn FnMut(u32)) -> Result<Vec<Tensor>, NativeError> {
        let (got, want) = (inputs.len(), self.engine.inputs().len());
        if got != want {
            return Err(NativeError::Misuse(format!("{got} inputs for {want} input ports")));
        }
        let result = self.drive(inputs, ran);
        self.engine.reset();
        result
    }

    /// Secure memory the segment would take with all weights resident.
    pub fn memory(&self) -> MemoryReport {
        self.engine.memory()
    }

    fn drive(&mut self, inputs: &[Tensor], ran: &mut dyn FnMut(u32)) -> Result<Vec<Tensor>, NativeError> {
        let mut outputs = Vec::new();
        // Values outside the arena, as they are: nothing is protected here.
        let mut outside: HashMap<u32, Vec<u8>> = HashMap::new();
        let mut step = self.engine.step(Reply::Go);
        loop {
            step = match step? {
                Step::Ran { instruction } => {
                    ran(instruction);
                    self.engine.step(Reply::Go)
                }
                Step::Input { port } => feed(&mut self.engine, &inputs[port as usize], port as usize)?,
                Step::Output { port } => {
                    let dims: Vec<usize> = extents(&self.engine.outputs()[port as usize].shape).collect();
                    let elem = self.outputs.get(port as usize).copied();
                    outputs.push(tensor(&dims, self.announced()?, elem)?);
                    self.engine.step(Reply::Go)
                }
                Step::Spill(moved) => {
                    let value = self.announced()?;
                    outside.insert(moved.slot, tensor(&[value.len()], value, None)?.data.to_vec());
                    self.engine.step(Reply::Go)
                }
                Step::Restore(moved) => {
                    let value = outside.remove(&moved.slot).unwrap_or_default();
                    self.engine.fill(&value)?;
                    self.engine.step(Reply::Filled)
                }
                Step::Done => return Ok(outputs),
                Step::NeedPieces { .. } => return Err(NativeError::Unexpected("resident weights are gone")),
            };
        }
    }

    fn announced(&self) -> Result<ValueRef<'_>, NativeError> {
        self.engine.output().ok_or(NativeError::Unexpected("an announced value is gone"))
    }
}

/// Cuts the weight stream into chunks.
struct Loader {
    unloaded: Unloaded,
    chunk: Vec<u8>,
    index: u32,
    loaded: Result<(), EngineError>,
}

impl Loader {
    fn push(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(CHUNK - self.chunk.len()));
            self.chunk.extend_from_slice(now);
            bytes = later;
            if self.chunk.len() == CHUNK {
                self.flush();
            }
        }
    }

    fn flush(&mut self) {
        if self.loaded.is_ok() {
            self.loaded = self.unloaded.accept(self.index, &self.chunk);
        }
        self.index += 1;
        self.chunk.clear();
    }

    fn finish(mut self) -> Result<Prepared, EngineError> {
        if !self.chunk.is_empty() {
            self.flush();
        }
        self.loaded?;
        self.unloaded.finish()
    }
}

fn extents(shape: &[u32]) -> impl Iterator<Item = usize> + '_ {
    shape.iter().map(|&extent| extent as usize)
}

/// Hands one input over after checking it against its port.
fn feed(engine: &mut Prepared, input: &Tensor, port: usize) -> Result<Result<Step, EngineError>, NativeError> {
    let port = &engine.inputs()[port];
    if !input.dims.iter().copied().eq(extents(&port.shape)) {
        let (got, want) = (&input.dims, &port.shape);
        return Err(NativeError::Misuse(format!("an input of extents {got:?} where {want:?} belong")));
    }
    Ok(match port.region.dtype {
        DType::F32 => engine.step(Reply::Value(ValueRef::F32(&input.to_f32()?))),
        DType::I64 => engine.step(Reply::Value(ValueRef::I64(&input.to_i64()?))),
        DType::Bool => engine.step(Reply::Value(ValueRef::Bool(&input.to_mask()?))),
        DType::U8 => engine.step(Reply::Value(ValueRef::U8(&input.data))),
    })
}

fn tensor(dims: &[usize], value: ValueRef<'_>, elem: Option<ElemType>) -> Result<Tensor, NativeError> {
    let tensor = match value {
        ValueRef::F32(data) => Tensor::from_f32(dims, data),
        ValueRef::I64(data) => Tensor::from_i64(dims, data),
        ValueRef::U8(data) => Tensor::new(elem.unwrap_or(ElemType::Uint8), dims, data.to_vec()),
        ValueRef::Bool(data) => Tensor::new(ElemType::Bool, dims, data.to_vec()),
    };
    Ok(tensor?)
}
