//! Normal segments: ordinary ONNX models on an ordinary engine.

use std::collections::HashMap;

use cordon_executor::{Declared, Executor, ModelSource, Session, Tensor, signature};
use cordon_package::{Placement, SectionKind};

use crate::error::RuntimeError;
use crate::package_file::PackageFile;

/// A normal segment, loaded.
pub(crate) struct NormalSegment {
    index: usize,
    session: Box<dyn Session>,
    /// Value index and name in the segment's own model, in the manifest's order.
    inputs: Vec<(u32, String)>,
    outputs: Vec<(u32, String)>,
}

impl NormalSegment {
    /// Loads every normal segment of a package; secure ones give `None`.
    pub(crate) fn load_all(
        file: &PackageFile,
        executor: &dyn Executor,
    ) -> Result<Vec<Option<NormalSegment>>, RuntimeError> {
        let segments = file.manifest().segments.iter().enumerate();
        segments
            .map(|(index, segment)| match segment.placement {
                Placement::Secure(_) => Ok(None),
                Placement::Normal => Self::load(file, executor, index).map(Some),
            })
            .collect()
    }

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
        Ok(Self { index, session, inputs: named(&segment.inputs, inputs), outputs: named(&segment.outputs, outputs) })
    }

    /// Runs the segment on `values`, adding what it computes.
    pub(crate) fn run(&mut self, values: &mut HashMap<u32, Tensor>) -> Result<(), RuntimeError> {
        let fed = self.inputs.iter().map(|(value, name)| {
            let tensor = values.get(value).ok_or(RuntimeError::Protocol("a normal segment before its inputs"))?;
            Ok((name.as_str(), tensor))
        });
        let fed = fed.collect::<Result<Vec<_>, RuntimeError>>()?;
        let wanted: Vec<&str> = self.outputs.iter().map(|(_, name)| name.as_str()).collect();
        let segment = self.index;
        let computed = self.session.run(&fed, &wanted).map_err(|source| RuntimeError::Executor { segment, source })?;
        values.extend(self.outputs.iter().map(|(value, _)| *value).zip(computed));
        Ok(())
    }
}

/// Value indices of the manifest with the names of the model, both in the segment's order.
fn named(values: &[u32], declared: Declared) -> Vec<(u32, String)> {
    values.iter().copied().zip(declared.into_iter().map(|(name, _)| name)).collect()
}
