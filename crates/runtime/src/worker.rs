//! [`Worker`]: one enclave with a package loaded, which takes flights through their secure segments.

use std::collections::HashSet;
use std::sync::Arc;

use cordon_protocol::{LoadReport, MAX_OPEN_REQUESTS, MemoryUse, Profile, SLACK};

use crate::backend::{Death, Resources};
use crate::client::Enclave;
use crate::device::Device;
use crate::error::RuntimeError;
use crate::flight::{Flight, Next};
use crate::package_file::PackageFile;
use crate::route::Route;

/// Owns one enclave, drives it and starts it anew after a death, on the thread that calls it.
pub(crate) struct Worker {
    file: Arc<PackageFile>,
    route: Arc<Route>,
    grant: Vec<u8>,
    device: Device,
    resources: Resources,
    enclave: Option<Loaded>,
    /// How the last enclave ended, and why it could not be started anew.
    end: (Death, Option<Arc<RuntimeError>>),
}

/// An enclave that serves.
struct Loaded {
    enclave: Enclave,
    report: LoadReport,
    /// Requests that are open in it, and how many may be.
    open: HashSet<u64>,
    most: usize,
}

impl Worker {
    /// Starts an enclave with `resources` and loads the package, unless no segment is secure. `grant` is empty when there is none.
    pub(crate) fn new(
        file: Arc<PackageFile>,
        route: Arc<Route>,
        grant: Vec<u8>,
        device: Device,
        resources: Resources,
    ) -> Result<Self, RuntimeError> {
        let end = (Death::default(), None);
        let mut worker = Self { file, route, grant, device, resources, enclave: None, end };
        if worker.route.has_secure(0) {
            worker.enclave = Some(worker.start()?);
        }
        Ok(worker)
    }

    /// The package.
    pub(crate) fn package(&self) -> &Arc<PackageFile> {
        &self.file
    }

    /// What predictions for the device's platform rest on.
    pub(crate) fn profile(&self) -> &'static Profile {
        self.device.backend().profile()
    }

    /// The enclave, while one lives.
    pub(crate) fn enclave(&self) -> Option<&Enclave> {
        self.enclave.as_ref().map(|loaded| &loaded.enclave)
    }

    /// What loading came to.
    pub(crate) fn load_report(&self) -> Option<&LoadReport> {
        self.enclave.as_ref().map(|loaded| &loaded.report)
    }

    /// Whether the enclave takes another request beside those that are open.
    pub(crate) fn has_room(&self) -> bool {
        self.enclave.as_ref().is_none_or(|loaded| loaded.open.len() < loaded.most)
    }

    /// Takes a flight through its secure segments up to a normal one or the end, while it is `wanted`.
    ///
    /// When it is wanted no more, and after an error, nothing of it is left in the enclave. When the enclave dies it is
    /// started anew, once, before the error comes back; flights that had a request open in it get theirs when they come here
    /// again.
    pub(crate) fn drive(&mut self, flight: &mut Flight, wanted: impl Fn() -> bool) -> Result<(), RuntimeError> {
        if let Some(request) = flight.request()
            && !self.enclave.as_ref().is_some_and(|loaded| loaded.open.contains(&request))
        {
            flight.abandon();
            return Err(self.died(flight.doing()));
        }
        let loaded = match self.enclave.take() {
            Some(loaded) => loaded,
            None => self.start()?,
        };
        let (device, header) = (&self.device, self.file.header());
        let keep = |state: &[u8]| device.keep_state(header, Some(state));
        match self.enclave.insert(loaded).advance(flight, wanted, keep) {
            Ok(()) if !matches!(flight.next(), Next::Command(_)) => Ok(()),
            Err(RuntimeError::Died { doing, death, .. }) => {
                flight.abandon();
                self.bury(death);
                Err(self.died(doing))
            }
            unwanted_or_failed => {
                self.abort(flight);
                unwanted_or_failed
            }
        }
    }

    /// Closes what a flight has open in the enclave.
    pub(crate) fn abort(&mut self, flight: &mut Flight) {
        let (Some(loaded), Some(request)) = (&mut self.enclave, flight.abandon()) else { return };
        if loaded.open.remove(&request)
            && let Err(RuntimeError::Died { death, .. }) = loaded.enclave.abort(request)
        {
            self.bury(death);
        }
    }

    fn start(&self) -> Result<Loaded, RuntimeError> {
        let header = self.file.header();
        let mut enclave = Enclave::greet(self.device.start(self.resources)?)?;
        let (report, state) = enclave.load(&self.file, &self.grant, &self.device.state(header)?)?;
        self.device.keep_state(header, state.as_deref())?;
        let most = most_open(report.memory, self.route.retained_bytes());
        Ok(Loaded { enclave, report, open: HashSet::new(), most })
    }

    /// Replaces a dead enclave.
    fn bury(&mut self, death: Death) {
        // Its process, if any is left, goes before the next one starts.
        self.enclave = None;
        self.end = (death, None);
        match self.start() {
            Ok(loaded) => self.enclave = Some(loaded),
            Err(error) => self.end.1 = Some(Arc::new(error)),
        }
    }

    fn died(&self, doing: &'static str) -> RuntimeError {
        let (death, restart) = &self.end;
        let restart = restart.clone().filter(|_| self.enclave.is_none());
        RuntimeError::Died { doing, death: *death, restart }
    }
}

impl Loaded {
    fn advance(
        &mut self,
        flight: &mut Flight,
        wanted: impl Fn() -> bool,
        keep: impl Fn(&[u8]) -> Result<(), RuntimeError>,
    ) -> Result<(), RuntimeError> {
        while let Next::Command(command) = flight.next()
            && wanted()
        {
            let before = flight.request();
            let state = self.enclave.answer(flight, command)?;
            match (before, flight.request()) {
                (None, Some(begun)) => drop(self.open.insert(begun)),
                (Some(closed), None) => drop(self.open.remove(&closed)),
                _ => {}
            }
            // Before anything that depends on it goes on.
            state.map_or(Ok(()), |state| keep(&state))?;
        }
        Ok(())
    }
}

/// Requests that may be open at once: as many as the budget has room for what each retains, with twice the slack that one
/// request needs for frames, ranked outputs and small objects. One always fits: it is counted in what a package needs.
fn most_open(memory: MemoryUse, retained: u64) -> usize {
    let room = memory.limit.saturating_sub(memory.used).saturating_sub(2 * SLACK);
    let fit = room.checked_div(retained).and_then(|fit| usize::try_from(fit).ok());
    fit.unwrap_or(usize::MAX).clamp(1, MAX_OPEN_REQUESTS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_requests_are_open_as_have_room() {
        let memory =
            |free: u64| MemoryUse { used: 1 << 20, limit: (1 << 20) + 2 * SLACK + free, ..MemoryUse::default() };
        assert_eq!(most_open(memory(0), 0), MAX_OPEN_REQUESTS, "nothing is retained");
        assert_eq!(most_open(memory(100), 1000), 1, "one request always fits");
        assert_eq!(most_open(memory(3999), 1000), 3);
        assert_eq!(most_open(memory(u64::MAX >> 1), 1), MAX_OPEN_REQUESTS);
    }
}
