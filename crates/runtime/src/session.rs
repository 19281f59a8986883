//! [`Session`]: one deployment, many requests at a time.

use core::time::Duration;
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use cordon_executor::Tensor;
use cordon_package::Manifest;
use cordon_protocol::{Greeting, LoadReport};

use crate::client::Enclave;
use crate::deployment::Deployment;
use crate::error::RuntimeError;
use crate::flight::{Flight, Next};
use crate::normal::NormalSegments;
use crate::package_file::PackageFile;
use crate::request::{Caller, Request};
use crate::route::Route;
use crate::run::Run;
use crate::schedule::{Schedule, Turn, World};
use crate::worker::Worker;

/// A package, loaded, for any number of threads: while one request is in a normal segment, another uses the enclave.
///
/// Two threads work: one owns the enclave, the other the normal segments. Requests go to and fro between them, each holding
/// what it has computed so far. At most [`cordon_protocol::MAX_OPEN_REQUESTS`] are open in the enclave, fewer if they retain
/// values that the budget has no room for; the others wait. Clones share one enclave; it ends with the last clone and the
/// last [`Request`].
#[derive(Clone)]
pub struct Session(Arc<Inner>);

struct Inner {
    file: Arc<PackageFile>,
    route: Arc<Route>,
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

/// What callers and both threads share.
struct Shared {
    schedule: Mutex<Schedule<Task>>,
    secure: Condvar,
    normal: Condvar,
}

/// What waits for a thread.
enum Task {
    Flight {
        flight: Box<Flight>,
        caller: Caller,
    },
    /// For the thread of the enclave.
    Question(Box<dyn FnOnce(&Worker) + Send>),
}

impl Session {
    /// Runs the model once and waits for the result, on any number of threads at a time.
    ///
    /// If the enclave dies, every request that was open in it fails with [`RuntimeError::Died`] and none is run again; the
    /// enclave is started anew for the others.
    pub fn run(&self, inputs: &[(&str, &Tensor)]) -> Result<Run, RuntimeError> {
        self.submit(inputs)?.wait()
    }

    /// Starts a run and returns at once. Inputs that do not fit the model are refused here.
    pub fn submit(&self, inputs: &[(&str, &Tensor)]) -> Result<Request, RuntimeError> {
        let flight = Box::new(Flight::new(self.0.route.clone(), inputs, Instant::now())?);
        let (request, caller) = Request::new(self.clone());
        self.0.shared.send_on(flight, caller);
        Ok(request)
    }

    /// The package's public manifest.
    pub fn manifest(&self) -> &Manifest {
        self.0.route.manifest()
    }

    /// The package.
    pub fn package(&self) -> &PackageFile {
        &self.0.file
    }

    /// What the enclave says about itself, once the segment that runs is done; `None` when no segment is secure, or the
    /// enclave died and could not be started anew.
    pub fn greeting(&self) -> Result<Option<Greeting>, RuntimeError> {
        self.ask(|worker| worker.enclave().map(|enclave| enclave.greeting().clone()))
    }

    /// What loading came to, as [`Self::greeting`].
    pub fn load_report(&self) -> Result<Option<LoadReport>, RuntimeError> {
        self.ask(|worker| worker.load_report().copied())
    }

    /// CPU time the enclave has used since it started, as [`Self::greeting`]; `None` too where the platform cannot tell.
    pub fn enclave_cpu_time(&self) -> Result<Option<Duration>, RuntimeError> {
        self.ask(|worker| worker.enclave().and_then(Enclave::cpu_time))
    }

    /// Takes cancelled requests out of the queues.
    pub(crate) fn sweep(&self) {
        // Dropped without the lock held.
        let _unwanted = self.0.shared.lock().sweep();
        self.0.shared.secure.notify_one();
    }

    fn ask<T: Send + 'static>(&self, question: impl FnOnce(&Worker) -> T + Send + 'static) -> Result<T, RuntimeError> {
        let (tell, hear) = sync_channel(1);
        let question = move |worker: &Worker| drop(tell.send(question(worker)));
        self.0.shared.put(World::Secure, Task::Question(Box::new(question)));
        hear.recv().map_err(|_| RuntimeError::Stopped)
    }
}

impl Deployment {
    /// Serves many requests at a time from now on.
    pub fn into_session(self) -> Result<Session, RuntimeError> {
        let Self { route, worker, normal } = self;
        let file = worker.package().clone();
        let shared =
            Arc::new(Shared { schedule: Mutex::new(Schedule::new()), secure: Condvar::new(), normal: Condvar::new() });
        let mut inner = Inner { file, route, shared: shared.clone(), threads: Vec::new() };
        let (secure, outside) = (Member(shared.clone()), Member(shared));
        inner.threads.push(spawn("cordon-secure", move || secure.serve_secure(worker))?);
        inner.threads.push(spawn("cordon-normal", move || outside.serve_normal(normal))?);
        Ok(Session(Arc::new(inner)))
    }
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, RuntimeError> {
    let failed = |source| RuntimeError::Start { stage: "a thread of the session", source };
    thread::Builder::new().name(name.into()).spawn(body).map_err(failed)
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Schedule<Task>> {
        self.schedule.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets a task wait. After the end it is dropped, which tells who waits for it.
    fn put(&self, world: World, task: Task) {
        let refused = self.lock().put(world, task);
        match world {
            World::Normal => self.normal.notify_one(),
            World::Secure => self.secure.notify_one(),
        }
        drop(refused);
    }

    /// Sends a flight where it goes next.
    fn send_on(&self, flight: Box<Flight>, caller: Caller) {
        let world = match flight.next() {
            _ if !caller.waits() => match flight.request() {
                // To be closed.
                Some(_) => World::Secure,
                None => return,
            },
            Next::Command(_) => World::Secure,
            Next::Normal(_) => World::Normal,
            Next::Done => return caller.answer(flight.finish(Instant::now())),
        };
        self.put(world, Task::Flight { flight, caller });
    }

    /// Waits for what `next` takes; `None` at the end.
    fn take(&self, changed: &Condvar, mut next: impl FnMut(&mut Schedule<Task>) -> Option<Task>) -> Option<Task> {
        let mut schedule = self.lock();
        loop {
            if schedule.is_closed() {
                return None;
            }
            if let Some(task) = next(&mut schedule) {
                return Some(task);
            }
            schedule = changed.wait(schedule).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn close(&self) {
        // Dropped without the lock held, which tells who waits for them.
        let _left = self.lock().close();
        self.secure.notify_all();
        self.normal.notify_all();
    }
}

/// A thread of the session. When it ends, be it by a panic, the session ends.
struct Member(Arc<Shared>);

impl Member {
    fn serve_secure(self, mut worker: Worker) {
        let Self(shared) = &self;
        while let Some(task) = shared.take(&shared.secure, |schedule| schedule.next_secure(worker.has_room())) {
            match task {
                Task::Flight { mut flight, caller } => {
                    if !caller.waits() {
                        worker.abort(&mut flight);
                    } else if let Err(error) = worker.drive(&mut flight, || caller.waits()) {
                        caller.answer(Err(error));
                    }
                    shared.send_on(flight, caller);
                }
                Task::Question(question) => question(&worker),
            }
        }
    }

    fn serve_normal(self, mut normal: NormalSegments) {
        let Self(shared) = &self;
        while let Some(task) = shared.take(&shared.normal, Schedule::next_normal) {
            let Task::Flight { mut flight, caller } = task else { continue };
            if caller.waits()
                && let Err(error) = normal.drive(&mut flight)
            {
                caller.answer(Err(error));
            }
            shared.send_on(flight, caller);
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.shared.close();
        let this = thread::current().id();
        for thread in self.threads.drain(..).filter(|thread| thread.thread().id() != this) {
            // The result says whether it panicked, which those who waited were told.
            let _ = thread.join();
        }
    }
}

impl Turn for Task {
    fn is_open(&self) -> bool {
        match self {
            Self::Flight { flight, .. } => flight.request().is_some(),
            Self::Question(_) => true,
        }
    }

    fn is_wanted(&self) -> bool {
        match self {
            Self::Flight { caller, .. } => caller.waits(),
            Self::Question(_) => true,
        }
    }
}
