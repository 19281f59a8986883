//! The one error type of the crate.

use core::fmt;

use cordon_codec::DecodeError;

use crate::section::SectionKind;

/// Why a package, key or grant was refused. Messages name the place, never secret values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PackageError {
    /// The file does not begin with the magic bytes of what it should be.
    BadMagic,
    /// The file or header is shorter than its own header says.
    Truncated,
    /// Bytes follow the last section, or padding is not zero.
    Trailing,
    /// The header, a manifest or a segment's secret part is not validly encoded.
    Malformed(DecodeError),
    /// The owner's signature does not match.
    Signature,
    /// A section's bytes do not match the root in the signed header.
    Digest {
        /// Which section.
        kind: SectionKind,
        /// Its segment.
        segment: u16,
    },
    /// A chunk matches the signed root but does not decrypt under the segment's key.
    Chunk {
        /// Which section.
        kind: SectionKind,
        /// Its segment.
        segment: u16,
        /// The chunk.
        index: u32,
    },
    /// The manifest breaks one of its rules.
    Manifest {
        /// The rule.
        rule: &'static str,
        /// Index of the value or segment at fault.
        index: u32,
    },
    /// A wrapped key addressed to this device does not open.
    Unwrap,
    /// The format version is not the one this reader knows.
    UnsupportedFormat(u16),
    /// The cipher suite is not one this reader knows.
    UnsupportedSuite(u16),
    /// Something else this version does not know.
    Unsupported(&'static str),
    /// The owner is not among the pinned ones.
    UnpinnedOwner,
    /// `not_after` has passed.
    Expired {
        /// Seconds since 1970-01-01 UTC.
        not_after: u64,
    },
    /// A newer version of the same name was accepted before.
    OlderVersion {
        /// The package's.
        version: u64,
        /// Smallest accepted.
        minimum: u64,
    },
    /// Marked `development`, which the verifier does not accept.
    Development,
    /// No wrapped key in the package or grant is for this device.
    NotARecipient,
    /// The grant belongs to another package.
    OtherPackage,
    /// A key or key file is not validly written.
    BadKey(&'static str),
    /// The caller asked for something that cannot be.
    Misuse(&'static str),
    /// The source of randomness failed.
    Random,
    /// The sink refused bytes; it knows why.
    Sink,
}

/// What to do about a [`PackageError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The bytes are damaged or forged.
    Hostile,
    /// Valid for all we know, but beyond this version.
    Unsupported,
    /// Authentic, but not acceptable here: owner, version, expiry, recipient.
    Refused,
    /// The caller's mistake.
    Misuse,
    /// Randomness or output failed.
    Resource,
}

impl PackageError {
    /// The fixed word for this error: what `vectors/index.txt` and the second reader name it.
    pub fn class(&self) -> &'static str {
        match self {
            Self::BadMagic => "magic",
            Self::Truncated => "truncated",
            Self::Trailing => "trailing",
            Self::Malformed(DecodeError::TooLong(_)) => "limit",
            Self::Malformed(_) => "malformed",
            Self::Signature => "signature",
            Self::Digest { .. } => "digest",
            Self::Chunk { .. } => "chunk",
            Self::Manifest { .. } => "manifest",
            Self::Unwrap => "unwrap",
            Self::UnsupportedFormat(_) | Self::UnsupportedSuite(_) | Self::Unsupported(_) => "unsupported",
            Self::UnpinnedOwner => "owner",
            Self::Expired { .. } => "expired",
            Self::OlderVersion { .. } => "rollback",
            Self::Development => "development",
            Self::NotARecipient => "recipient",
            Self::OtherPackage => "other-package",
            Self::BadKey(_) => "key",
            Self::Misuse(_) => "misuse",
            Self::Random => "random",
            Self::Sink => "sink",
        }
    }

    /// The kind of the error.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::BadMagic
            | Self::Truncated
            | Self::Trailing
            | Self::Malformed(_)
            | Self::Signature
            | Self::Digest { .. }
            | Self::Chunk { .. }
            | Self::Manifest { .. }
            | Self::Unwrap => ErrorKind::Hostile,
            Self::UnsupportedFormat(_) | Self::UnsupportedSuite(_) | Self::Unsupported(_) => ErrorKind::Unsupported,
            Self::UnpinnedOwner
            | Self::Expired { .. }
            | Self::OlderVersion { .. }
            | Self::Development
            | Self::NotARecipient
            | Self::OtherPackage => ErrorKind::Refused,
            Self::BadKey(_) | Self::Misuse(_) => ErrorKind::Misuse,
            Self::Random | Self::Sink => ErrorKind::Resource,
        }
    }
}

impl fmt::Display for PackageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadMagic => f.write_str("not a Cordon file of this kind; check the path"),
            Self::Truncated => f.write_str("the file is shorter than its header says; copy it again"),
            Self::Trailing => {
                f.write_str("bytes lie outside every section; the file was altered or joined with another")
            }
            Self::Malformed(e) => write!(f, "malformed: {e}"),
            Self::Signature => f.write_str("the owner's signature does not match; the file was altered"),
            Self::Digest { kind, segment } => {
                write!(f, "{kind} of segment {segment} does not match the signed header; the file was altered")
            }
            Self::Chunk { kind, segment, index } => {
                write!(f, "chunk {index} of {kind} of segment {segment} does not decrypt; have the owner seal again")
            }
            Self::Manifest { rule, index } => write!(f, "manifest: {rule} (index {index}); have the owner seal again"),
            Self::Unwrap => f.write_str("the key wrapped for this device does not open; have the owner seal again"),
            Self::UnsupportedFormat(v) => write!(f, "format version {v} is not supported; update Cordon"),
            Self::UnsupportedSuite(v) => write!(f, "cipher suite {v} is not supported; update Cordon"),
            Self::Unsupported(what) => write!(f, "{what} is not supported by this version; update Cordon"),
            Self::UnpinnedOwner => f.write_str(
                "the package's owner is not pinned on this device; pin it with `cordon device init --owner`",
            ),
            Self::Expired { not_after } => {
                write!(f, "the package expired at Unix time {not_after}; ask its owner for a newer one")
            }
            Self::OlderVersion { version, minimum } => {
                write!(f, "version {version} is older than {minimum}, which was accepted before; use the newer package")
            }
            Self::Development => f.write_str("the package is marked development, which is not accepted here"),
            Self::NotARecipient => {
                f.write_str("the package is not sealed to this device; ask its owner for `cordon grant`")
            }
            Self::OtherPackage => f.write_str("the grant belongs to another package"),
            Self::BadKey(what) => write!(f, "not a valid key: {what}"),
            Self::Misuse(what) => f.write_str(what),
            Self::Random => f.write_str("the source of randomness failed"),
            Self::Sink => f.write_str("the output refused the bytes"),
        }
    }
}

impl core::error::Error for PackageError {}

impl From<DecodeError> for PackageError {
    fn from(e: DecodeError) -> Self {
        Self::Malformed(e)
    }
}
