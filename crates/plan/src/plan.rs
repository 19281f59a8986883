//! [`Plan`]: the file between `cordon plan` and `cordon seal`.

use crate::{ImageOptions, PlanError, Protect};
use cordon_lower::Tiling;
use cordon_package::Placement;
use core::fmt;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Version of the file; another one is refused.
pub(crate) const FORMAT: u32 = 2;

/// A segment's part in the plan, by its place among the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// The only one.
    #[serde(rename = "all")]
    All,
    /// The first of several, secure.
    FrontNet,
    /// Any in the normal world.
    #[serde(rename = "middle")]
    Middle,
    /// Secure, with others before and behind.
    #[serde(rename = "inner")]
    Inner,
    /// The last of several, secure.
    BackNet,
}

impl Role {
    /// The role of the segment at `index` of `count`.
    pub(crate) fn of(placement: Placement, index: usize, count: usize) -> Self {
        match (placement, index) {
            _ if count == 1 => Self::All,
            (Placement::Normal, _) => Self::Middle,
            (Placement::Secure(_), 0) => Self::FrontNet,
            (Placement::Secure(_), _) if index + 1 == count => Self::BackNet,
            (Placement::Secure(_), _) => Self::Inner,
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::All => "all",
            Self::FrontNet => "FrontNet",
            Self::Middle => "middle",
            Self::Inner => "inner",
            Self::BackNet => "BackNet",
        })
    }
}

/// One side of a crossing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum World {
    /// The untrusted host, the caller's inputs and outputs included.
    Normal,
    /// The enclave.
    Secure,
}

/// How weights that convolutions and products of secure segments multiply by are stored. All other constants are stored as
/// they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WeightFormat {
    /// As they are.
    #[default]
    F32,
    /// In two bytes, each rounded to the nearest IEEE 754 half precision number: half the bytes to keep, to decrypt and to
    /// send, for results that differ.
    F16,
}

impl WeightFormat {
    fn is_exact(&self) -> bool {
        *self == Self::F32
    }
}

impl fmt::Display for WeightFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
        })
    }
}

/// A placed model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// `FORMAT`.
    pub format: u32,
    /// How secure weights are stored.
    #[serde(default, skip_serializing_if = "WeightFormat::is_exact")]
    pub weights: WeightFormat,
    /// What the plan protects and what it does not, for a reader who is no expert.
    pub words: String,
    /// What the reader should not overlook. Also part of `words`.
    pub warnings: Vec<String>,
    /// The same without names from inside the model: what the package carries.
    pub public_words: String,
    /// The model it was made for.
    pub model: ModelIdentity,
    /// What was asked for.
    pub goal: Goal,
    /// Secure memory.
    pub memory: Memory,
    /// What the output means.
    pub output: OutputInfo,
    /// How an image becomes an input.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preprocessing: Option<ImageOptions>,
    /// In execution order, never empty.
    pub segments: Vec<SegmentPlan>,
    /// Every value the normal world sees enter or leave the enclave.
    pub crossings: Vec<Crossing>,
}

/// Which model, and with which shapes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelIdentity {
    /// File name, for people; `sha256` decides.
    pub file: String,
    /// SHA-256 over the model and its external data, in hex.
    pub sha256: String,
    /// Parameters (elements of constants).
    pub parameters: u64,
    /// Shapes given with `--shape`.
    pub shapes: BTreeMap<String, Vec<usize>>,
    /// Inputs with the shapes in force.
    pub inputs: Vec<ValueShape>,
    /// Outputs with the shapes in force.
    pub outputs: Vec<ValueShape>,
}

/// A value of the model's public interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ValueShape {
    /// Name.
    pub name: String,
    /// Element type, ONNX's name.
    pub elem: String,
    /// Extents.
    pub shape: Vec<usize>,
}

/// What was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Goal {
    /// What is to be protected.
    pub protect: Protect,
    /// SHA-256 of the assessment the cuts rest on, in hex; `None` where they rest on none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<String>,
    /// Whether the cuts were Cordon's default rather than the user's choice.
    pub default_cuts: bool,
}

/// Secure memory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Memory {
    /// The platform whose figures the rest is for, by its word.
    pub platform: String,
    /// Most that `run` may use, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
    /// Predicted peak in bytes: a promise, `run` measures at most this much. 0 without secure segments.
    pub predicted: u64,
    /// Least with which it runs at all, cut as it is, weights streamed.
    pub minimum: u64,
    /// Weight bytes decrypted per request because they do not stay inside.
    #[serde(default)]
    pub streamed: u64,
    /// Activation bytes that leave encrypted in a request because there is no room inside; as many come back.
    #[serde(default)]
    pub spilled: u64,
    /// Predicted milliseconds that takes; rough.
    #[serde(default)]
    pub spill_ms: f64,
    /// Predicted time of a request over that with everything inside and nothing cut; rough, one thread.
    #[serde(default = "one")]
    pub slowdown: f64,
}

fn one() -> f64 {
    1.0
}

/// What the model's first output means.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OutputInfo {
    /// Axis of the classes; output policies other than `full` need it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class_axis: Option<u32>,
    /// Whether a policy other than `full` applies Softmax first, because the model ends in logits.
    pub softmax: bool,
    /// One word per class. Encrypted in the package.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<String>,
}

/// One segment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SegmentPlan {
    /// Its part in the plan.
    pub role: Role,
    /// Where it runs.
    #[serde(with = "as_text")]
    pub placement: Placement,
    /// Cut before its first node (0: the start of the model).
    pub from_cut: usize,
    /// Cut after its last node (the number of nodes: the end of the model).
    pub to_cut: usize,
    /// Predicted peak of this segment alone, in bytes; secure segments only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secure_memory: Option<u64>,
    /// Bytes of its activations, and the largest set of them alive at one time: no placement takes less. Secure segments only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arena: Option<[u64; 2]>,
    /// Weights of one instruction are cut to about this many bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tile_weights: Option<u64>,
    /// Activations are cut to about this many bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tile_arena: Option<u64>,
    /// Activations that wait outside, encrypted, bring what is alive inside to about this many bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spill_arena: Option<u64>,
    /// Scratch memory of faster convolutions takes at most this many bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tile_scratch: Option<u64>,
    /// Bytes of its weights as stored.
    pub weight_bytes: u64,
    /// Values it takes from outside.
    pub inputs: Vec<String>,
    /// Values it gives to the outside.
    pub outputs: Vec<String>,
    /// Values it finds inside, kept by an earlier segment of its domain.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub retained_in: Vec<String>,
    /// Values it keeps inside for a later one of its domain.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub retained_out: Vec<String>,
    /// Its nodes, in order.
    pub nodes: Vec<String>,
}

/// A value that passes the boundary, once per request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Crossing {
    /// Its name.
    pub value: String,
    /// Element type, ONNX's name.
    pub elem: String,
    /// Extents.
    pub shape: Vec<usize>,
    /// Size.
    pub bytes: u64,
    /// Index of the secure segment.
    pub segment: usize,
    /// Side it goes to.
    pub to: World,
    /// What it is: `input`, `intermediate` or `output`.
    pub kind: String,
}

/// A value in the words of its own `Display` and `FromStr`.
mod as_text {
    use core::fmt::Display;
    use core::str::FromStr;
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(super) fn serialize<T: Display, S: Serializer>(value: &T, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(value)
    }

    pub(super) fn deserialize<'de, T: FromStr<Err: Display>, D: Deserializer<'de>>(from: D) -> Result<T, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}

impl SegmentPlan {
    /// How small it is cut.
    pub(crate) fn tiling(&self) -> Tiling {
        let (weights, arena, spill) = (self.tile_weights, self.tile_arena, self.spill_arena);
        Tiling { weights, arena, spill, scratch: self.tile_scratch }
    }
}

impl Plan {
    /// The file's text.
    pub fn to_toml(&self) -> Result<String, PlanError> {
        toml::to_string_pretty(self).map_err(|error| PlanError::Malformed(error.to_string()))
    }

    /// Reads the file's text. Only its form is checked here: [`crate::lower_plan`] checks it against the model.
    pub fn from_toml(text: &str) -> Result<Self, PlanError> {
        /// Its first line; another format may have other fields.
        #[derive(Deserialize)]
        struct Head {
            format: u32,
        }
        let malformed = |error: toml::de::Error| PlanError::Malformed(error.to_string());
        let Head { format } = toml::from_str(text).map_err(malformed)?;
        if format != FORMAT {
            return Err(PlanError::Malformed(format!("it has format {format}, this version reads {FORMAT}")));
        }
        let plan: Self = toml::from_str(text).map_err(malformed)?;
        if plan.segments.is_empty() {
            return Err(PlanError::Malformed("it has no segment".into()));
        }
        Ok(plan)
    }

    /// Whether some segment is secure.
    pub fn is_protected(&self) -> bool {
        self.segments.iter().any(|segment| segment.placement.is_secure())
    }

    /// Bytes that pass the boundary per request.
    pub fn crossing_bytes(&self) -> u64 {
        self.crossings.iter().map(|crossing| crossing.bytes).sum()
    }
}
