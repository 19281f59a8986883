//! Which kind of TEE a command uses.

use crate::failure::Outcome;
use clap::builder::{PossibleValue, PossibleValuesParser};
use cordon_runtime::{Backend, backend};
use std::sync::Arc;

/// The same in every command that starts an enclave.
#[derive(clap::Args, Clone)]
pub(crate) struct BackendArgs {
    /// Which TEE runs the secure segments
    #[arg(long, value_name = "BACKEND", default_value = backend::DEFAULT, value_parser = words())]
    backend: String,
}

impl BackendArgs {
    /// What drives it.
    pub(crate) fn open(&self) -> Outcome<Arc<dyn Backend>> {
        Ok(backend::open(&self.backend)?)
    }
}

fn words() -> PossibleValuesParser {
    let word = |backend: Arc<dyn Backend>| {
        let promise = if backend.is_development() { ": development isolation, no hardware protection" } else { "" };
        PossibleValue::new(backend.name()).help(format!("{}{promise}", backend.about()))
    };
    PossibleValuesParser::new(backend::known().map(word))
}
