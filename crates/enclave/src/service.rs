//! The door for commands: one frame in, one frame out, whatever the frame holds.

use alloc::boxed::Box;
use alloc::string::ToString;
use alloc::vec::Vec;

use cordon_package::limits::MAX_PINNED_OWNERS;
use cordon_package::{CHUNK_CIPHER, OwnerPublic};
use cordon_protocol::{
    Code, Command, Greeting, LoadReport, OLDEST_VERSION, Payload, Refusal, Reply, VERSION, Window, negotiate,
};

use crate::attest::Statement;
use crate::load::{Loading, Progress};
use crate::mode::Mode;
use crate::platform::Platform;
use crate::refuse;
use crate::request::Ready;
use crate::sections::Need;
use crate::store::{Brought, Store};

/// The trusted service of one platform.
pub struct Enclave<P> {
    platform: P,
    greeted: bool,
    state: State,
    /// What the next command must bring of the store.
    window: Option<Window>,
    /// Evidence that the normal world has not all of yet.
    statement: Option<Statement>,
}

enum State {
    Idle,
    Loading(Loading, Need),
    Ready(Box<Ready>),
}

impl<P: Platform> Enclave<P> {
    /// A service without a package.
    pub fn new(platform: P) -> Self {
        Self { platform, greeted: false, state: State::Idle, window: None, statement: None }
    }

    /// The platform.
    pub fn platform(&self) -> &P {
        &self.platform
    }

    /// The window of the store that the last reply named, and the next call of [`Self::handle`] is to be given.
    pub fn window(&self) -> Option<Window> {
        self.window
    }

    /// Handles one command frame, which is worked on in place; `out` becomes the reply frame. `store` is
    /// [`Self::window`], as far as the normal world brought it, and is not looked at afterwards. What was decrypted may be
    /// left in `frame`: a caller that keeps it wipes it.
    pub fn handle(&mut self, frame: &mut [u8], out: &mut Vec<u8>, store: Option<&dyn Store>) {
        let brought = self.window.take().zip(store).map(|(window, memory)| Brought::new(window, memory));
        if let Err(refusal) = self.dispatch(frame, out, brought) {
            Reply::Refused(refusal).encode(out);
        }
        self.window = match &self.state {
            State::Idle => None,
            State::Loading(loading, need) => loading.window(need),
            State::Ready(ready) => ready.window(),
        };
        Reply::set_window(out, self.window);
    }

    fn dispatch(&mut self, frame: &mut [u8], out: &mut Vec<u8>, store: Option<Brought<'_>>) -> Result<(), Refusal> {
        let (command, payload) = Command::decode(frame).map_err(|_| Refusal::new(Code::Malformed))?;
        if !self.greeted && !matches!(command, Command::Hello { .. }) {
            return Err(Refusal::new(Code::OutOfOrder));
        }
        match command {
            Command::Hello { oldest, newest } => self.hello(oldest, newest, out),
            Command::Provision => self.provision(payload, out),
            Command::Report => {
                Reply::Report(self.platform.memory()).encode(out);
                Ok(())
            }
            Command::Attest { purpose } => {
                self.statement = None;
                self.statement = Some(Statement::make(purpose, payload, &self.platform)?);
                self.state_more(0, out)
            }
            Command::AttestMore { start } => self.state_more(start, out),
            Command::LoadBegin { header_len, grant_len } => self.load_begin(header_len, grant_len, payload, out),
            Command::LoadHeader { offset } => {
                let fits = |need: &Need| matches!(need, Need::Header { offset: wanted, .. } if *wanted == offset);
                self.load_take(fits, payload, store, out)
            }
            Command::LoadSupply { section, part, first, count } => {
                let brought = Need::Section { section, part, first, count };
                self.load_take(|need| *need == brought, payload, store, out)
            }
            Command::Unload => {
                self.state = State::Idle;
                Reply::Unloaded.encode(out);
                Ok(())
            }
            Command::Begin { mode } => self.begin(mode, out),
            Command::Run { request, segment } => {
                self.in_request(request, |ready, platform| ready.run(request, segment, platform, out))
            }
            Command::Step { request, supply } => {
                self.in_request(request, |ready, platform| ready.step(request, (supply, payload), store, platform, out))
            }
            Command::End { request } => self.in_request(request, |ready, _| {
                ready.end(request)?;
                Reply::Closed.encode(out);
                Ok(())
            }),
            Command::Abort { request } => self.in_request(request, |ready, _| {
                if !ready.close(request) {
                    return Err(Refusal::new(Code::UnknownRequest));
                }
                Reply::Closed.encode(out);
                Ok(())
            }),
        }
    }

    fn hello(&mut self, oldest: u16, newest: u16, out: &mut Vec<u8>) -> Result<(), Refusal> {
        let version = negotiate((OLDEST_VERSION, VERSION), (oldest, newest)).ok_or(Refusal::new(Code::Version))?;
        self.greeted = true;
        let platform = &self.platform;
        let compute = platform.compute();
        Reply::Hello(Greeting {
            version,
            platform: platform.name().to_string(),
            kernels: compute.set.name().to_string(),
            threads: u32::try_from(compute.workers.threads()).unwrap_or(u32::MAX),
            chunk_cipher: CHUNK_CIPHER.to_string(),
            development: platform.is_development(),
            has_key: platform.device().is_some(),
            payload_limit: u32::try_from(platform.payload_limit()).unwrap_or(u32::MAX),
            protections: platform.protections(),
            memory: platform.memory(),
        })
        .encode(out);
        Ok(())
    }

    fn provision(&mut self, payload: &[u8], out: &mut Vec<u8>) -> Result<(), Refusal> {
        let malformed = Refusal::new(Code::Malformed);
        let (keys, rest) = payload.as_chunks::<32>();
        let twice = keys.iter().enumerate().any(|(i, key)| keys.iter().take(i).any(|other| other == key));
        if keys.is_empty() || keys.len() > MAX_PINNED_OWNERS || !rest.is_empty() || twice {
            return Err(malformed);
        }
        let owners = keys.iter().map(|key| OwnerPublic::from_bytes(*key)).collect();
        let recipient = self.platform.provision(owners).map_err(refuse::platform)?;
        Reply::Provisioned.encode(out);
        out.extend_from_slice(recipient.to_string().as_bytes());
        Ok(())
    }

    /// Sends a piece of the evidence just made, which is forgotten with its last.
    fn state_more(&mut self, start: u32, out: &mut Vec<u8>) -> Result<(), Refusal> {
        let statement = self.statement.as_ref().ok_or(Refusal::new(Code::OutOfOrder))?;
        if statement.send(start, self.platform.reply_limit(), out)? {
            self.statement = None;
        }
        Ok(())
    }

    fn load_begin(&mut self, header_len: u32, grant_len: u32, state: &[u8], out: &mut Vec<u8>) -> Result<(), Refusal> {
        if !matches!(self.state, State::Idle) {
            return Err(Refusal::new(Code::OutOfOrder));
        }
        if self.platform.device().is_none() {
            return Err(Refusal::new(Code::NoDeviceKey));
        }
        self.platform.restore(state).map_err(refuse::platform)?;
        let progress = Loading::begin(header_len, grant_len, &mut self.platform)?;
        self.progress(progress, out)
    }

    /// Whatever is brought must be what was asked for; any failure ends loading and wipes it.
    fn load_take(
        &mut self,
        fits: impl FnOnce(&Need) -> bool,
        payload: &mut [u8],
        store: Option<Brought<'_>>,
        out: &mut Vec<u8>,
    ) -> Result<(), Refusal> {
        match core::mem::replace(&mut self.state, State::Idle) {
            State::Loading(loading, need) if fits(&need) => {
                let progress = loading.take(need, payload, store, &mut self.platform)?;
                self.progress(progress, out)
            }
            State::Loading(..) => Err(Refusal::new(Code::WrongSupply)),
            other => {
                self.state = other;
                Err(Refusal::new(Code::OutOfOrder))
            }
        }
    }

    fn progress(&mut self, progress: Progress, out: &mut Vec<u8>) -> Result<(), Refusal> {
        match progress {
            Progress::Need(loading, need) => {
                self.state = State::Loading(loading, need);
                match need {
                    Need::Header { offset, len } => Reply::NeedHeader { offset, len }.encode(out),
                    Need::Section { section, part, first, count } => {
                        Reply::NeedSection { section, part, first, count }.encode(out);
                    }
                }
            }
            Progress::Ready(model) => {
                // Only now, when all of the package proved good, does it shut out older ones.
                self.platform.raise(&model.version_counter, model.report.version).map_err(refuse::platform)?;
                let used = self.platform.counter(&model.request_counter);
                let report = LoadReport {
                    requests_left: model.max_requests.map(|max| max.saturating_sub(used)),
                    memory: self.platform.memory(),
                    ..model.report
                };
                Reply::Loaded(report).encode(out);
                out.extend_from_slice(&self.platform.take_state().unwrap_or_default());
                self.state = State::Ready(Box::new(Ready::new(model)));
            }
        }
        Ok(())
    }

    fn begin(&mut self, mode: Payload, out: &mut Vec<u8>) -> Result<(), Refusal> {
        let State::Ready(ready) = &mut self.state else { return Err(Refusal::new(Code::OutOfOrder)) };
        let (request, requests_left) = ready.begin(Mode::begin(mode)?, &mut self.platform)?;
        Reply::Begun { request, requests_left }.encode(out);
        out.extend_from_slice(&self.platform.take_state().unwrap_or_default());
        Ok(())
    }

    /// A refused command kills the request it names.
    fn in_request(
        &mut self,
        request: u64,
        act: impl FnOnce(&mut Ready, &mut P) -> Result<(), Refusal>,
    ) -> Result<(), Refusal> {
        let State::Ready(ready) = &mut self.state else { return Err(Refusal::new(Code::OutOfOrder)) };
        let done = act(ready, &mut self.platform);
        if done.is_err() {
            ready.close(request);
        }
        done
    }
}
