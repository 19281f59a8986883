//! One module per command; each has its arguments and a `run`.

pub(crate) mod bench;
pub(crate) mod demo;
pub(crate) mod device;
pub(crate) mod doctor;
pub(crate) mod grant;
pub(crate) mod inspect;
pub(crate) mod keygen;
pub(crate) mod plan;
pub(crate) mod run;
pub(crate) mod seal;
pub(crate) mod unpack;
pub(crate) mod verify;
