//! Inputs for the golden check.

use crate::SealError;
use cordon_executor::{ElemType, ExecutorError, Tensor};
use cordon_plan::Model;

/// One request: a name for people, and every input of the model.
#[derive(Clone, Debug)]
pub struct Probe {
    /// What it is.
    pub label: String,
    /// Name and value of each input.
    pub inputs: Vec<(String, Tensor)>,
}

impl Probe {
    /// The inputs as engines and deployments take them.
    pub fn request(&self) -> Vec<(&str, &Tensor)> {
        self.inputs.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect()
    }
}

/// `count` seeded probes: floats roughly normal, integers and masks 0 or 1 (valid indices of any axis that has two
/// entries). The same model gets the same probes everywhere.
pub fn seeded(model: &Model, count: u64) -> Result<Vec<Probe>, SealError> {
    (0..count)
        .map(|seed| {
            let mut state = Noise(0x9e37_79b9_7f4a_7c15 ^ (seed + 1).wrapping_mul(0xd1b5_4a32_d192_ed03));
            let inputs = model.graph.inputs.iter().map(|&id| {
                let value = model.graph.value(id);
                let ty = value.ty.as_ref().ok_or_else(|| SealError::OpenShape { input: value.name.clone() })?;
                let n = ty.dims.iter().product();
                let tensor = match ty.elem {
                    ElemType::Float => {
                        Tensor::from_f32(ty.dims.clone(), &(0..n).map(|_| state.normal()).collect::<Vec<_>>())
                    }
                    ElemType::Int64 => {
                        Tensor::from_i64(ty.dims.clone(), &(0..n).map(|_| i64::from(state.bit())).collect::<Vec<_>>())
                    }
                    ElemType::Bool => {
                        Tensor::from_bool(ty.dims.clone(), &(0..n).map(|_| state.bit() != 0).collect::<Vec<_>>())
                    }
                    _ => {
                        return Err(SealError::Probes(format!(
                            "no probe can be made up for input `{}` of type {}",
                            value.name, ty.elem
                        )));
                    }
                };
                Ok((value.name.clone(), tensor.map_err(ExecutorError::from)?))
            });
            Ok(Probe { label: format!("seed {seed}"), inputs: inputs.collect::<Result<_, _>>()? })
        })
        .collect()
}

/// SplitMix64.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn bit(&mut self) -> u8 {
        u8::from(self.next() >> 63 == 1)
    }

    /// Sum of four uniform numbers, scaled to variance one.
    fn normal(&mut self) -> f32 {
        let bits = self.next();
        let sum: f32 = (0..4).map(|i| f32::from(((bits >> (16 * i)) & 0xffff) as u16) / 65_535.0 - 0.5).sum();
        sum * 3f32.sqrt()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_has_mean_zero_and_variance_one() {
        let mut noise = Noise(7);
        let values: Vec<f32> = (0..20_000).map(|_| noise.normal()).collect();
        let mean = values.iter().sum::<f32>() / 20_000.0;
        let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f32>() / 20_000.0;
        assert!(mean.abs() < 0.03 && (variance - 1.0).abs() < 0.05, "{mean} {variance}");
    }
}
