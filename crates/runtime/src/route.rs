//! The way of every request through one package: its segments in order, and the values that enter and leave.

use std::collections::HashMap;

use cordon_executor::Tensor;
use cordon_package::{Manifest, Placement};
use cordon_protocol::Ranked;

use crate::error::RuntimeError;
use crate::run::Output;

/// What all requests of a package share.
pub(crate) struct Route {
    manifest: Manifest,
    legs: Vec<Leg>,
}

/// One segment of the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leg {
    /// The normal segment of this index.
    Normal(usize),
    /// The secure segment of this index.
    Secure(u32),
}

impl Route {
    /// The way through the package of this manifest.
    pub(crate) fn new(manifest: &Manifest) -> Self {
        let legs = (0u32..).zip(&manifest.segments).map(|(index, segment)| match segment.placement {
            Placement::Normal => Leg::Normal(index as usize),
            Placement::Secure(_) => Leg::Secure(index),
        });
        Self { legs: legs.collect(), manifest: manifest.clone() }
    }

    /// The public manifest.
    pub(crate) fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The segment after so many; `None` after the last.
    pub(crate) fn leg(&self, done: usize) -> Option<Leg> {
        self.legs.get(done).copied()
    }

    /// Where the segment after so many runs; after the last, nowhere that counts.
    pub(crate) fn placement(&self, done: usize) -> Placement {
        self.manifest.segments.get(done).map_or(Placement::Normal, |segment| segment.placement)
    }

    /// Whether a segment after so many is secure.
    pub(crate) fn has_secure(&self, done: usize) -> bool {
        self.legs.iter().skip(done).any(|leg| matches!(leg, Leg::Secure(_)))
    }

    /// Bytes that the enclave retains between the segments of one request, at most.
    pub(crate) fn retained_bytes(&self) -> u64 {
        let retained = self.manifest.segments.iter().flat_map(|segment| &segment.retained_out);
        retained.map(|value| self.manifest.value_bytes(*value)).sum()
    }

    /// Checks inputs against the manifest and files them under their value index.
    pub(crate) fn bind(&self, inputs: &[(&str, &Tensor)]) -> Result<HashMap<u32, Tensor>, RuntimeError> {
        let mut values = HashMap::new();
        let mut names = Vec::new();
        for &value in &self.manifest.inputs {
            let Some((info, name)) = self.manifest.value(value).and_then(|info| Some((info, info.name.as_deref()?)))
            else {
                return Err(RuntimeError::Protocol("an input without a name"));
            };
            names.push(name);
            let Some((_, tensor)) = inputs.iter().find(|(given, _)| *given == name) else {
                return Err(RuntimeError::Input(format!("input `{name}` is missing")));
            };
            let fits = tensor.elem == info.elem
                && tensor.dims.iter().map(|&dim| dim as u64).eq(info.shape().iter().map(|&dim| u64::from(dim)));
            if !fits {
                return Err(RuntimeError::Input(format!(
                    "input `{name}` is {} of shape {:?}, but the model was sealed for {} of shape {:?}",
                    tensor.elem,
                    tensor.dims,
                    info.elem,
                    info.shape()
                )));
            }
            values.insert(value, (*tensor).clone());
        }
        match inputs.iter().find(|(given, _)| !names.contains(given)) {
            Some((given, _)) => Err(RuntimeError::Input(format!("the model has no input `{given}`: it has {names:?}"))),
            None => Ok(values),
        }
    }

    /// The model's outputs, by name and in its order.
    pub(crate) fn outputs(
        &self,
        values: &HashMap<u32, Tensor>,
        mut ranked: HashMap<u32, Ranked>,
    ) -> Result<Vec<(String, Output)>, RuntimeError> {
        let outputs = self.manifest.output_values().map(|value| {
            let name = self.manifest.value(value).and_then(|info| info.name.clone()).unwrap_or_default();
            let output = match ranked.remove(&value) {
                Some(ranked) => Output::Ranked(ranked),
                None => Output::Tensor(values.get(&value).cloned().ok_or(RuntimeError::Protocol("a missing output"))?),
            };
            Ok((name, output))
        });
        outputs.collect()
    }
}
