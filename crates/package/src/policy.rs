//! How much of the model's output leaves the enclave.

use alloc::vec::Vec;
use core::fmt;
use core::str::FromStr;

use cordon_codec::{DecodeError, Reader, Writer};

use crate::error::PackageError;
use crate::format::Format;
use crate::limits::{MAX_DECIMALS, MAX_VALUES};

/// Decimals of `top:K` when the text names none.
const DEFAULT_DECIMALS: u8 = 2;

/// Applied inside the enclave, after normalisation, to the model's output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputPolicy {
    /// Everything, unchanged. The strongest oracle for extraction and membership inference.
    Full,
    /// Every score, rounded.
    Rounded {
        /// Digits after the point.
        decimals: u8,
    },
    /// The `k` best classes with rounded scores, the others zero.
    TopK {
        /// Classes.
        k: u16,
        /// Digits after the point.
        decimals: u8,
    },
    /// The best class only.
    Label,
}

impl OutputPolicy {
    pub(crate) fn encode(self, w: &mut Writer) {
        match self {
            Self::Full => w.u8(0),
            Self::Rounded { decimals } => w.u8(1).u8(decimals),
            Self::TopK { k, decimals } => w.u8(2).u16(k).u8(decimals),
            Self::Label => w.u8(3),
        };
    }

    pub(crate) fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        const WHAT: &str = "output policy";
        let policy = match r.u8(WHAT)? {
            0 => Self::Full,
            1 => Self::Rounded { decimals: r.u8(WHAT)? },
            2 => Self::TopK { k: r.u16(WHAT)?, decimals: r.u8(WHAT)? },
            3 => Self::Label,
            _ => return Err(DecodeError::Invalid(WHAT)),
        };
        if policy.is_valid() { Ok(policy) } else { Err(DecodeError::Invalid(WHAT)) }
    }

    pub(crate) fn is_valid(self) -> bool {
        match self {
            Self::Full | Self::Label => true,
            Self::Rounded { decimals } => decimals <= MAX_DECIMALS,
            Self::TopK { k, decimals } => k > 0 && decimals <= MAX_DECIMALS,
        }
    }
}

/// The policy of every output of the model, in its order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OutputPolicies(
    /// Empty where every output is full, however many there are.
    Vec<OutputPolicy>,
);

impl OutputPolicies {
    /// One for each output.
    pub fn new(policies: &[OutputPolicy]) -> Self {
        let full = policies.iter().all(|policy| *policy == OutputPolicy::Full);
        Self(if full { Vec::new() } else { policies.to_vec() })
    }

    /// Whether every output is full.
    pub fn are_full(&self) -> bool {
        self.0.is_empty()
    }

    /// The policy of the output at `index`. An output that there is no policy for gives least.
    pub fn of(&self, index: usize) -> OutputPolicy {
        match self.0.get(index) {
            Some(policy) => *policy,
            None if self.are_full() => OutputPolicy::Full,
            None => OutputPolicy::Label,
        }
    }

    /// Whether they are for a model with so many outputs.
    pub(crate) fn fit(&self, outputs: usize) -> bool {
        self.are_full() || self.0.len() == outputs
    }

    pub(crate) fn are_valid(&self) -> bool {
        self.0.iter().all(|policy| policy.is_valid())
    }

    pub(crate) fn encode(&self, w: &mut Writer) {
        w.list(self.0.iter(), |w, policy| policy.encode(w));
    }

    pub(crate) fn decode(r: &mut Reader<'_>, format: Format) -> Result<Self, DecodeError> {
        if format == Format::V1 {
            return Ok(Self::new(&[OutputPolicy::decode(r)?]));
        }
        let policies: Vec<_> = r.list(1, MAX_VALUES, "output policies", OutputPolicy::decode)?;
        let decoded = Self::new(&policies);
        if decoded.0 == policies { Ok(decoded) } else { Err(DecodeError::Invalid("output policies")) }
    }
}

/// What is true of all, or the policy of each.
impl fmt::Display for OutputPolicies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.are_full() {
            return OutputPolicy::Full.fmt(f);
        }
        for (index, policy) in self.0.iter().enumerate() {
            f.write_str(if index > 0 { ", " } else { "" })?;
            policy.fmt(f)?;
        }
        Ok(())
    }
}

impl fmt::Display for OutputPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full => f.write_str("full"),
            Self::Rounded { decimals } => write!(f, "rounded:{decimals}"),
            Self::TopK { k, decimals } if *decimals == DEFAULT_DECIMALS => write!(f, "top:{k}"),
            Self::TopK { k, decimals } => write!(f, "top:{k}:{decimals}"),
            Self::Label => f.write_str("label"),
        }
    }
}

impl FromStr for OutputPolicy {
    type Err = PackageError;

    fn from_str(text: &str) -> Result<Self, PackageError> {
        const USAGE: PackageError = PackageError::Misuse(
            "an output policy is full, rounded:D, top:K, top:K:D or label, with 1 to 65535 classes K and 0 to 6 decimals D",
        );
        let number = |s: &str| s.parse::<u16>().map_err(|_| USAGE);
        let decimals = |s: &str| number(s).and_then(|d| u8::try_from(d).map_err(|_| USAGE));
        let mut words = text.split(':');
        let policy = match (words.next(), words.next(), words.next(), words.next()) {
            (Some("full"), None, None, None) => Self::Full,
            (Some("label"), None, None, None) => Self::Label,
            (Some("rounded"), Some(d), None, None) => Self::Rounded { decimals: decimals(d)? },
            (Some("top"), Some(k), None, None) => Self::TopK { k: number(k)?, decimals: DEFAULT_DECIMALS },
            (Some("top"), Some(k), Some(d), None) => Self::TopK { k: number(k)?, decimals: decimals(d)? },
            _ => return Err(USAGE),
        };
        if policy.is_valid() { Ok(policy) } else { Err(USAGE) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn text_round_trips() {
        for text in ["full", "rounded:3", "rounded:0", "top:5", "top:5:0", "top:1:6", "label"] {
            assert_eq!(text.parse::<OutputPolicy>().expect(text).to_string(), text);
        }
    }

    #[test]
    fn policies_of_several_outputs_have_one_encoding() {
        let label = OutputPolicy::Label;
        let policies = OutputPolicies::new(&[OutputPolicy::Full, label]);
        assert_eq!((policies.of(0), policies.of(1), policies.of(2)), (OutputPolicy::Full, label, label));
        assert_eq!(policies.to_string(), "full, label");
        assert!(policies.fit(2) && !policies.fit(1) && !policies.are_full());
        let full = OutputPolicies::new(&[OutputPolicy::Full; 3]);
        assert!(full.are_full() && full.fit(1) && full.fit(9) && full.of(8) == OutputPolicy::Full);
        let bytes = |policies: &OutputPolicies| {
            let mut w = Writer::new();
            policies.encode(&mut w);
            w.finish()
        };
        for policies in [policies, full] {
            assert_eq!(OutputPolicies::decode(&mut Reader::new(&bytes(&policies)), Format::V2), Ok(policies));
        }
        let refused = OutputPolicies::decode(&mut Reader::new(&[1, 0, 0, 0, 0]), Format::V2);
        assert_eq!(refused, Err(DecodeError::Invalid("output policies")), "all full has another encoding");
    }

    #[test]
    fn other_text_is_refused() {
        for text in
            ["", "Full", "full:1", "rounded", "rounded:7", "rounded:-1", "top", "top:0", "top:70000", "top:1:2:3"]
        {
            assert!(text.parse::<OutputPolicy>().is_err(), "{text}");
        }
    }
}
