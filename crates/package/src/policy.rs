//! How much of the model's output leaves the enclave.

use core::fmt;
use core::str::FromStr;

use cordon_codec::{DecodeError, Reader, Writer};

use crate::error::PackageError;
use crate::limits::MAX_DECIMALS;

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
    fn other_text_is_refused() {
        for text in
            ["", "Full", "full:1", "rounded", "rounded:7", "rounded:-1", "top", "top:0", "top:70000", "top:1:2:3"]
        {
            assert!(text.parse::<OutputPolicy>().is_err(), "{text}");
        }
    }
}
