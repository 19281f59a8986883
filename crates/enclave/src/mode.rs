//! How the values of a request travel between the enclave and whoever sent them, fixed when it begins.
//!
//! A mode is a proof that each door asks for: [`Clear`] is needed to let a value in or out as it is. A sealed request has no
//! such proof, so it can neither take nor give a clear value. Until the channel exists there is no sealed request at all.

use cordon_protocol::{Code, Payload, Refusal};

/// Of one request.
#[derive(Clone, Copy)]
pub(crate) enum Mode {
    Clear(Clear),
    #[expect(dead_code, reason = "no request is sealed before the channel exists; every match on a mode handles it")]
    Sealed(Sealed),
}

/// The request was begun in clear.
#[derive(Clone, Copy)]
pub(crate) struct Clear(());

/// The request was begun sealed.
#[derive(Clone, Copy)]
pub(crate) enum Sealed {}

impl Mode {
    /// The mode a request asks to begin in.
    pub(crate) fn begin(asked: Payload) -> Result<Self, Refusal> {
        match asked {
            Payload::Clear => Ok(Self::Clear(Clear(()))),
            Payload::Sealed => Err(Refusal::new(Code::NotSealable)),
        }
    }
}
