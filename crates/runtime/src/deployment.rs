//! [`Deployment`]: one package on one device, ready to run.

use core::time::Duration;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use cordon_executor::Tensor;
use cordon_package::Manifest;
use cordon_protocol::{Greeting, LoadReport, Profile};

use crate::client::Enclave;
use crate::error::RuntimeError;
use crate::flight::{Flight, Next};
use crate::normal::NormalSegments;
use crate::options::Options;
use crate::package_file::PackageFile;
use crate::route::Route;
use crate::run::Run;
use crate::worker::Worker;

/// A package, loaded: normal segments on an executor, secure ones in an enclave. One request at a time, on the thread that
/// calls; a [`Session`](crate::Session) serves many.
pub struct Deployment {
    pub(crate) route: Arc<Route>,
    pub(crate) worker: Worker,
    pub(crate) normal: NormalSegments,
}

impl Deployment {
    /// The defaults: the default backend, the user's device folder, the embedded executor, all weights resident.
    pub fn options() -> Options {
        Options::default()
    }

    /// Opens a package with the defaults of [`Deployment::options`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self, RuntimeError> {
        Self::options().open(path)
    }

    /// What predictions for the device's platform rest on.
    pub fn profile(&self) -> &'static Profile {
        self.worker.profile()
    }

    /// The package's public manifest.
    pub fn manifest(&self) -> &Manifest {
        self.route.manifest()
    }

    /// The package.
    pub fn package(&self) -> &PackageFile {
        self.worker.package()
    }

    /// What the enclave says about itself; `None` when no segment is secure.
    pub fn greeting(&self) -> Option<&Greeting> {
        self.worker.enclave().map(Enclave::greeting)
    }

    /// What loading came to; `None` when no segment is secure.
    pub fn load_report(&self) -> Option<&LoadReport> {
        self.worker.load_report()
    }

    /// CPU time the enclave has used since it started, where the platform can tell.
    pub fn enclave_cpu_time(&self) -> Option<Duration> {
        self.worker.enclave().and_then(Enclave::cpu_time)
    }

    /// Runs the model once.
    ///
    /// If the enclave dies the error says so, the enclave is started anew, and this request is lost, no other.
    pub fn run(&mut self, inputs: &[(&str, &Tensor)]) -> Result<Run, RuntimeError> {
        let mut flight = Flight::new(self.route.clone(), inputs, Instant::now())?;
        loop {
            match flight.next() {
                Next::Command(_) => self.worker.drive(&mut flight, || true)?,
                Next::Normal(_) => self.normal.drive(&mut flight).inspect_err(|_| self.worker.abort(&mut flight))?,
                Next::Done => return flight.finish(Instant::now()),
            }
        }
    }
}
