//! Where segments run.

use core::fmt;
use core::str::FromStr;

use crate::error::PackageError;

/// One enclave among those a package runs in. Values are retained between segments of one domain only; what goes to another
/// domain crosses through the normal world.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Domain(pub u16);

/// The world a segment runs in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Placement {
    /// The untrusted host.
    Normal,
    /// The enclave of a domain.
    Secure(Domain),
}

impl Placement {
    /// Whether it is an enclave.
    pub fn is_secure(self) -> bool {
        self.domain().is_some()
    }

    /// Which enclave it is; `None` for the normal world.
    pub fn domain(self) -> Option<Domain> {
        match self {
            Self::Normal => None,
            Self::Secure(domain) => Some(domain),
        }
    }
}

/// `normal`, `secure`, or `secure:N` for a domain other than 0.
impl fmt::Display for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Normal => f.write_str("normal"),
            Self::Secure(Domain(0)) => f.write_str("secure"),
            Self::Secure(Domain(number)) => write!(f, "secure:{number}"),
        }
    }
}

impl FromStr for Placement {
    type Err = PackageError;

    fn from_str(text: &str) -> Result<Self, PackageError> {
        const USAGE: PackageError =
            PackageError::Misuse("a placement is normal, secure, or secure:N with a domain of 1 to 65535");
        match (text, text.strip_prefix("secure:")) {
            ("normal", _) => Ok(Self::Normal),
            ("secure", _) => Ok(Self::Secure(Domain(0))),
            (_, Some(number)) => match number.parse() {
                // One text for each placement.
                Ok(domain) if domain > 0 && !number.starts_with(['0', '+']) => Ok(Self::Secure(Domain(domain))),
                _ => Err(USAGE),
            },
            _ => Err(USAGE),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn text_round_trips_and_other_text_is_refused() {
        for text in ["normal", "secure", "secure:1", "secure:65535"] {
            assert_eq!(text.parse::<Placement>().expect(text).to_string(), text);
        }
        for text in ["", "Normal", "secure:", "secure:0", "secure:01", "secure:+1", "secure:65536", "secure:1:2"] {
            assert!(text.parse::<Placement>().is_err(), "{text}");
        }
    }
}
