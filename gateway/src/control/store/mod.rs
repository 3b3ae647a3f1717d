//! The configuration, with IPVS's semantics and refusals.
//!
//! The store knows *what* is configured and what each service and server has counted; it tells a
//! [`Plane`] of every change and asks it for counters. It has no clock and no threads of its own: whoever
//! owns it calls [`Store::tick`], and the socket server keeps it behind a mutex.
//!
//! | file | concern |
//! | --- | --- |
//! | `apply` | batches: each change is made at once and noted down, so that a refusal undoes the batch |
//! | `happenings` | what a batch has done, as events |
//! | `journal` | what a batch has done, to be undone or told to the plane |
//! | `record` | a service with its servers |
//! | `check` | what the kernel would refuse |
//! | `defaults` | what services have that say nothing of their own |
//! | `ledger` | numbers of services and servers; deleted servers that sessions still refer to |
//! | `estimator` | counters since the last `-Z`, and IPVS's rate estimator |
//! | `listing` | pages |
//! | `marks` | rules that mark packets |
//! | `snat` | SNAT rules and their numbers |
//! | `overlap` | addresses of sessions that are something else, too |
//! | `configuration` | what queries of the data plane learn of the configuration |
//! | `sysctl` | IPVS's sysctls by name |

mod apply;
mod check;
mod configuration;
mod defaults;
mod estimator;
mod happenings;
mod journal;
mod ledger;
mod listing;
mod marks;
mod overlap;
mod record;
mod snat;
mod sysctl;

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use weir_api::{
    client::{ClientError, Transport},
    model::{ClientAddress, MarkRule, ServiceKey, Timeouts, status::Notice},
    protocol::{Access, ErrorCode, Info, MAX_PAGE, Refusal, Request, Response, StagedChanges},
};

pub use self::{defaults::ServiceDefaults, sysctl::SysctlError};
use self::{
    estimator::{ESTIMATE_PERIOD, ServiceEstimator},
    journal::Journal,
    ledger::Ledger,
    record::{Record, SnatRules},
};
use super::{
    events::EventLog,
    notices::Notices,
    plane::Plane,
    queries::{self, QueryStep},
};
use crate::{
    clock::Tick,
    id::{ServiceId, SnatRuleId},
    path::settings::Settings,
};

/// Readings that are caught up with one by one; after a longer pause the estimator starts afresh.
const MAX_CATCH_UP: u32 = 64;

/// The configuration and the plane that it drives.
#[derive(Debug)]
pub struct Store<P> {
    plane: P,
    settings: Arc<Settings>,
    defaults: ServiceDefaults,
    /// Time-outs as they were in the beginning.
    initial_timeouts: Timeouts,
    generation: u64,
    /// Sequence number of every configured service.
    keys: HashMap<ServiceKey, u64>,
    /// Services by sequence number, so the newest is last.
    services: BTreeMap<u64, Record>,
    estimators: HashMap<ServiceId, ServiceEstimator>,
    ledger: Ledger,
    /// Mark rules, in the order in which they are tried.
    marks: Vec<MarkRule>,
    /// SNAT rules in the order in which they were added.
    snat: SnatRules,
    /// What addresses are used for, as far as it is known.
    uses: Option<overlap::Uses>,
    /// Numbers of deleted SNAT rules to which sessions may refer.
    closing: Vec<SnatRuleId>,
    /// The last sequence number given to a service or server; never reused.
    sequence: u64,
    next_estimate: Option<Tick>,
    /// How often counters have been read.
    estimates: u64,
    notices: Arc<Notices>,
    events: Arc<EventLog>,
    /// Changes staged by a caller that uses the store as a [`Transport`]; the socket's peers have a stage each.
    stage: StagedChanges,
}

impl<P: Plane> Store<P> {
    /// An empty configuration with the kernel's default settings.
    pub fn new(plane: P) -> Self {
        Self::with_settings(plane, Settings::default())
    }

    /// An empty configuration with these settings, which are sent to the plane.
    pub fn with_settings(mut plane: P, settings: Settings) -> Self {
        let settings = Arc::new(settings);
        plane.apply(vec![super::plane::PlaneChange::Settings(settings.clone())]);
        Self {
            plane,
            initial_timeouts: timeouts(&settings),
            settings,
            defaults: ServiceDefaults::default(),
            generation: 0,
            keys: HashMap::new(),
            services: BTreeMap::new(),
            estimators: HashMap::new(),
            ledger: Ledger::default(),
            marks: Vec::new(),
            snat: Vec::new(),
            uses: None,
            closing: Vec::new(),
            sequence: 0,
            next_estimate: None,
            estimates: 0,
            notices: Arc::default(),
            events: Arc::default(),
            stage: StagedChanges::default(),
        }
    }

    /// The data plane.
    pub fn plane(&self) -> &P {
        &self.plane
    }

    /// The data plane.
    pub fn plane_mut(&mut self) -> &mut P {
        &mut self.plane
    }

    /// Settings and time-outs in force.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// What services have that say nothing of their own.
    pub fn defaults(&self) -> &ServiceDefaults {
        &self.defaults
    }

    /// Grows with every batch that changes the configuration.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Where changes are announced.
    pub fn notices(&self) -> Arc<Notices> {
        self.notices.clone()
    }

    /// What has happened.
    pub fn events(&self) -> Arc<EventLog> {
        self.events.clone()
    }

    fn publish(&self) {
        self.notices.publish(Notice { generation: self.generation, tick: self.estimates });
    }

    /// Answers one request of a peer that may do what `access` says. It waits for workers where it has to:
    /// [`Store::begin`] is for those that share the store.
    pub fn handle(&mut self, request: Request, access: Access) -> Response {
        match self.begin(request, access) {
            QueryStep::Answered(response) => response,
            QueryStep::Asks(inquiry) => {
                let told = inquiry.ask();
                self.finish(told)
            }
        }
    }

    /// Answers a request, or says what workers have to be asked for it.
    pub fn begin(&mut self, request: Request, access: Access) -> QueryStep {
        if request.changes() && access == Access::ReadOnly {
            return QueryStep::Answered(Response::Refused(ErrorCode::ReadOnly.into()));
        }
        if let Err(detail) = request.check() {
            return QueryStep::Answered(Response::Refused(Refusal::new(ErrorCode::BadRequest, detail)));
        }
        queries::begin(request, self).unwrap_or_else(|request| QueryStep::Answered(self.answer(request)))
    }

    /// Answers what is no query of the data plane.
    fn answer(&mut self, request: Request) -> Response {
        match request {
            Request::Info => Response::Info(Info {
                version: env!("CARGO_PKG_VERSION").into(),
                generation: self.generation,
            }),
            Request::Apply(batch) => match self.apply(&batch) {
                Ok(generation) => Response::Done { generation },
                Err(refusal) => Response::Refused(refusal),
            },
            Request::List(query) => self.list(&query),
            Request::Timeouts => Response::Timeouts(timeouts(&self.settings)),
            Request::InitialTimeouts => Response::Timeouts(self.initial_timeouts),
            Request::Snat => self.snat_rows(),
            Request::Events { from, max } => {
                Response::Events(self.events.page(from, max.min(MAX_PAGE) as usize))
            }
            Request::Marks => Response::Marks(self.marks.clone()),
            Request::ClientAddresses => {
                let told = self.services.values().filter(|r| r.client_address != ClientAddress::None);
                Response::ClientAddresses(told.map(|r| (r.service.key, r.client_address)).collect())
            }
            Request::Masquerade => self.masquerades(),
            Request::DefaultLocalAddresses => self.default_local_addresses(),
            // `StagedChanges` and `Subscribe`: queries have been answered.
            _ => {
                let detail = "only a connection can do this";
                Response::Refused(Refusal::new(ErrorCode::Unsupported, detail))
            }
        }
    }

    /// Answers requests that came together, in their order and each as if it had come alone, but tells the plane
    /// of changes that follow each other at once.
    pub fn handle_all(&mut self, requests: Vec<Request>, access: Access) -> Vec<Response> {
        let mut journal = Journal::default();
        let mut answers = Vec::with_capacity(requests.len());
        for request in requests {
            answers.push(match request {
                Request::Apply(batch) if access == Access::ReadWrite => {
                    self.apply_checked(&mut journal, Request::Apply(batch))
                }
                other => {
                    self.commit(std::mem::take(&mut journal));
                    self.handle(other, access)
                }
            });
        }
        self.commit(journal);
        answers
    }

    fn apply_checked(&mut self, journal: &mut Journal, request: Request) -> Response {
        if let Err(detail) = request.check() {
            return Response::Refused(Refusal::new(ErrorCode::BadRequest, detail));
        }
        let Request::Apply(batch) = request else { return Response::Refused(ErrorCode::BadRequest.into()) };
        match self.apply_within(journal, &batch) {
            Ok(generation) => Response::Done { generation },
            Err(refusal) => Response::Refused(refusal),
        }
    }

    /// Lets time pass: call it a few times a second. Every 2 s the counters are read and rates estimated;
    /// servers deleted long ago that no session refers to are forgotten.
    pub fn tick(&mut self, now: Tick) {
        let mut due = *self.next_estimate.get_or_insert(now.after(ESTIMATE_PERIOD));
        if now.since(due) > ESTIMATE_PERIOD * MAX_CATCH_UP {
            due = now;
        }
        while now.reached(due) {
            self.estimate();
            self.estimates += 1;
            self.publish();
            due = due.after(ESTIMATE_PERIOD);
        }
        self.next_estimate = Some(due);
        self.forget_idle(now);
        if !self.closing.is_empty() {
            self.close_snat();
        }
    }

    fn next_sequence(&mut self) -> u64 {
        self.sequence += 1;
        self.sequence
    }
}

/// The time-outs that `--set` sets.
fn timeouts(settings: &Settings) -> Timeouts {
    let t = &settings.timeouts;
    Timeouts { tcp: t.established, tcp_fin: t.fin_wait, udp: t.udp }
}

/// Straight into the store, for whoever runs `weirctl`'s front in the same process: tests in virtual time.
impl<P: Plane> Transport for Store<P> {
    fn call(&mut self, request: Request) -> Result<Response, ClientError> {
        Ok(match self.stage.take(request, Access::ReadWrite) {
            Ok(request) => self.handle(request, Access::ReadWrite),
            Err(answer) => answer,
        })
    }
}
