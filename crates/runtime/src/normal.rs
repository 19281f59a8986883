//! Normal segments: ordinary ONNX models on an ordinary engine.

use std::collections::HashMap;
use std::time::Instant;

use cordon_executor::{Declared, Executor, ModelSource, Session, Tensor, signature};
use cordon_package::{Placement, SectionKind};

use crate::error::RuntimeError;
use crate::flight::{Flight, Next};
use crate::package_file::PackageFile;

/// The normal segments of a package, loaded; `None` where a segment is secure.
pub(crate) struct NormalSegments(Vec<Option<NormalSegment>>);

struct NormalSegment {
    session: Box<dyn Session>,
    /// Value index and name in the segment's own model, in the manifest's order.
    inputs: Vec<(u32, String)>,
    outputs: Vec<(u32, String)>,
}

impl NormalSegments {
    /// Loads every normal segment of a package.
    pub(crate) fn load(file: &PackageFile, executor: &dyn Executor) -> Result<Self, RuntimeError> {
        let segments = file.manifest().segments.iter().enumerate();
        let segments = segments.map(|(index, segment)| match segment.placement {
            Placement::Secure(_) => Ok(None),
            Placement::Normal => NormalSegment::load(file, executor, index).map(Some),
        });
        Ok(Self(segments.collect::<Result<_, _>>()?))
    }

    /// Takes a flight through its normal segments up to a secure one or the end.
    pub(crate) fn drive(&mut self, flight: &mut Flight) -> Result<(), RuntimeError> {
        while let Next::Normal(index) = flight.next() {
            let segment = self.0.get_mut(index).and_then(Option::as_mut);
            let segment = segment.ok_or(RuntimeError::Protocol("a normal segment that was not loaded"))?;
            let computed = segment.compute(index, flight.values())?;
            flight.computed(computed, Instant::now());
        }
        Ok(())
    }
}

impl NormalSegment {
    fn load(file: &PackageFile, executor: &dyn Executor, index: usize) -> Result<Self, RuntimeError> {
        let failed = |source| RuntimeError::Executor { segment: index, source };
        let segment = &file.manifest().segments[index];
        let number = u16::try_from(index).map_err(|_| RuntimeError::Protocol("too many segments"))?;
        let missing = RuntimeError::Protocol("a normal segment without a model");
        let onnx = file.public(SectionKind::NormalModel, number).ok_or(missing)?;
        let data = file.public(SectionKind::NormalData, number);
        let (inputs, outputs) = signature(onnx.clone()).map_err(|error| failed(error.into()))?;
        if inputs.len() != segment.inputs.len() || outputs.len() != segment.outputs.len() {
            return Err(RuntimeError::Protocol("a normal model whose inputs and outputs are not the manifest's"));
        }
        let source = ModelSource { onnx, data: data.map(|data| (cordon_package::NORMAL_DATA_LOCATION.into(), data)) };
        let session = executor.load(&source).map_err(failed)?;
        Ok(Self { session, inputs: named(&segment.inputs, inputs), outputs: named(&segment.outputs, outputs) })
    }

    /// Runs the segment on `values` and returns what it computes, by value index.
    fn compute(&mut self, index: usize, values: &HashMap<u32, Tensor>) -> Result<Vec<(u32, Tensor)>, RuntimeError> {
        let fed = self.inputs.iter().map(|(value, name)| {
            let tensor = values.get(value).ok_or(RuntimeError::Protocol("a normal segment before its inputs"))?;
            Ok((name.as_str(), tensor))
        });
        let fed = fed.collect::<Result<Vec<_>, RuntimeError>>()?;
        let wanted: Vec<&str> = self.outputs.iter().map(|(_, name)| name.as_str()).collect();
        let failed = |source| RuntimeError::Executor { segment: index, source };
        let computed = self.session.run(&fed, &wanted).map_err(failed)?;
        Ok(self.outputs.iter().map(|(value, _)| *value).zip(computed).collect())
    }
}

/// Value indices of the manifest with the names of the model, both in the segment's order.
fn named(values: &[u32], declared: Declared) -> Vec<(u32, String)> {
    values.iter().copied().zip(declared.into_iter().map(|(name, _)| name)).collect()
}
