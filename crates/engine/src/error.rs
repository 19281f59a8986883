//! What can go wrong in the engine. Messages name the place and never a value.

use core::fmt;

use cordon_codec::DecodeError;
use cordon_fault::Next;

/// The part of a Program an error is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The Program as a whole.
    Program,
    /// An entry of the weight table.
    Weight(u32),
    /// An input port.
    Input(u32),
    /// An output port.
    Output(u32),
    /// An instruction.
    Instruction {
        /// Its index in the Program.
        index: u32,
        /// Its kind.
        name: &'static str,
    },
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Program => f.write_str("the program"),
            Self::Weight(i) => write!(f, "weight tensor {i}"),
            Self::Input(i) => write!(f, "input port {i}"),
            Self::Output(i) => write!(f, "output port {i}"),
            Self::Instruction { index, name } => write!(f, "instruction {index} ({name})"),
        }
    }
}

/// Every way the engine refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EngineError {
    /// Hostile or damaged bytes: not the encoding of a Program or a weight table.
    Malformed(DecodeError),
    /// A Program of another instruction set than [`crate::program::INSTRUCTION_SET`].
    Version {
        /// The version found.
        found: u16,
    },
    /// Well-formed, but breaks a rule every Program must keep: hostile, or a bug of the compiler.
    Invalid {
        /// Where.
        at: Place,
        /// Field of the place.
        field: &'static str,
        /// The rule.
        rule: &'static str,
    },
    /// More work in one instruction than [`crate::Limits::instruction_work`] allows.
    Work {
        /// Where.
        at: Place,
        /// Elementary operations asked for; saturates.
        needed: u64,
        /// Elementary operations allowed.
        available: u64,
    },
    /// More secure memory than the budget allows.
    Memory {
        /// The instruction that asked, or the whole Program.
        at: Place,
        /// What the memory is for.
        what: &'static str,
        /// Bytes needed.
        needed: u64,
        /// Bytes available.
        available: u64,
    },
    /// The allocator refused although the budget allows it.
    Allocation {
        /// What the memory is for.
        what: &'static str,
        /// Bytes asked for.
        needed: u64,
    },
    /// A reply that does not answer the step before it.
    Reply(&'static str),
    /// A piece of streamed weights that its source refused.
    Piece {
        /// Its index.
        index: u32,
    },
    /// Data met while running that an instruction cannot accept.
    Data {
        /// Where.
        at: Place,
        /// The rule it breaks.
        rule: &'static str,
    },
    /// The run ended or failed before: [`crate::Prepared::reset`] first.
    NeedsReset,
    /// A state validation excludes: a bug in this crate.
    Bug(&'static str),
}

cordon_fault::faults! {
    EngineError;
    wraps {}
    entries {
        Self::Malformed(_) => "program-malformed", Hostile, Next::SealAgain, "Not the encoding of a Program or a weight table.";
        Self::Version { .. } => "program-instruction-set", Unsupported, Next::Update,
            "A Program of another instruction set than the engine's.";
        Self::Invalid { .. } => "program-rule", Bug, Next::Report, "A Program breaks a rule that all must keep.";
        Self::Work { .. } => "program-work", Unsupported, Next::Smaller, "One instruction computes more than is allowed.";
        Self::Memory { .. } => "program-memory", Resource, Next::MoreMemory { enough: None, cut: None },
            "A Program needs more secure memory than the budget allows.";
        Self::Allocation { .. } => "program-allocation", Resource, Next::MoreMemory { enough: None, cut: None },
            "The allocator refused although the budget allows it.";
        Self::Reply(_) => "program-reply", Bug, Next::Report, "A reply does not answer the step before it.";
        Self::Piece { .. } => "program-piece", Hostile, Next::OtherHost,
            "A piece of streamed weights is not what was stored.";
        Self::Data { .. } => "program-data", Misuse, Next::CheckInput, "An instruction met data that it cannot accept.";
        Self::NeedsReset => "program-reset", Bug, Next::Report, "A step was asked for after the run had ended.";
        Self::Bug(_) => "program-bug", Bug, Next::Report, "A state that validation excludes.";
    }
    next {}
    place {}
}

impl From<DecodeError> for EngineError {
    fn from(error: DecodeError) -> Self {
        Self::Malformed(error)
    }
}

impl fmt::Display for EngineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed(error) => write!(f, "not a valid program: {error}"),
            Self::Version { found } => write!(
                f,
                "the program uses instruction set {found}, this engine runs {}",
                crate::program::INSTRUCTION_SET
            ),
            Self::Invalid { at, field, rule } => {
                write!(f, "{at}: {field}: {rule}")
            }
            Self::Work { at, needed, available } => {
                write!(f, "{at} takes {needed} operations in one step, {available} are allowed")
            }
            Self::Memory { at, what, needed, available } => {
                write!(f, "{at} needs {needed} bytes of secure memory for {what}, {available} are available")
            }
            Self::Allocation { what, needed } => write!(f, "the platform refused {needed} bytes for {what}"),
            Self::Piece { index } => write!(f, "piece {index} of the streamed weights is not what was stored"),
            Self::Reply(why) => write!(f, "reply does not fit the step: {why}"),
            Self::Data { at, rule } => write!(f, "{at}: {rule}"),
            Self::NeedsReset => f.write_str("the run is over or has failed and was not reset"),
            Self::Bug(what) => write!(f, "internal error in the engine: {what}"),
        }
    }
}

impl core::error::Error for EngineError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            Self::Malformed(error) => Some(error),
            _ => None,
        }
    }
}
