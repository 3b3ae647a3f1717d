//! Queries of the data plane, one file each; the query's other parts have the same name.
//!
//! | query | request | of workers | printed by `weirctl` |
//! | --- | --- | --- | --- |
//! | [`sessions`] | `Sessions` | `path::admin::update::Listing` | `-Lc` |
//! | [`search`] | `FindSessions`, `KillSessions` | `path::admin::search` | `sessions` |
//! | [`explain`] | `Explain` | `path::admin::explain` | `explain` |
//! | [`trace`] | `Trace`, `Traced`, `EndTrace` | `path::admin::trace` | `trace` |
//! | [`session_log`] | `SessionLog` | `path::admin::session_log` | `log sessions` |
//! | [`status`] | `Status` | their counters | `status` |
//! | [`counters`] | `Counters` | their counters | `stats` |
//! | [`census`] | none: for `status`' warnings | `path::admin::census` | `status` |
//! | [`hops_in_use`] | none: for the kernel | `path::admin::hops_in_use` | |
//!
//! A query that only workers can answer takes three steps, so that the configuration isn't locked meanwhile:
//!
//! ```text
//! begin: Query::prepare  --Inquiry-->  ask: Query::ask  --Told-->  finish: Query::respond  -->  Response
//! ```
//!
//! CONTRIBUTING says how to add one.

mod census;
mod counters;
mod explain;
mod hops_in_use;
mod pages;
mod search;
mod session_log;
mod sessions;
pub mod status;
mod trace;

use std::sync::Arc;

use weir_api::{
    model::ServiceKey,
    protocol::{ErrorCode, Refusal, Request, Response},
};

use super::{
    error::{PlaneError, Unsupported},
    plane::Plane,
    workers::Ask,
};
use crate::{id::ServerId, path::admin::update::Update};

/// A request that only workers can answer.
trait Query: Sized + 'static {
    /// What the request says.
    type Request;
    /// What the workers say, put together.
    type Answer: 'static;

    /// Makes up what workers are asked.
    ///
    /// # Errors
    /// The configuration has no such thing, or the plane can't say.
    fn prepare(request: Self::Request, held: &mut dyn Configuration) -> Result<Self, Refusal>;

    /// Asks the workers, one or all, and puts their answers together. Nothing is locked meanwhile.
    ///
    /// # Errors
    /// A worker doesn't answer.
    fn ask(&mut self, workers: &dyn Ask) -> Result<Self::Answer, PlaneError>;

    /// Makes a response of the answer, or of there being none.
    ///
    /// # Errors
    /// There is none.
    fn respond(
        self,
        answer: Result<Self::Answer, PlaneError>,
        held: &mut dyn Configuration,
    ) -> Result<Response, PlaneError>;
}

/// What goes to one worker and comes back answered.
trait WorkerQuestion: Sized {
    /// As workers take it.
    fn update(self) -> Update;

    /// What came back; none: it is something else.
    fn answered(update: Update) -> Option<Self>;
}

/// Asks one worker.
fn put<Q: WorkerQuestion>(workers: &dyn Ask, worker: u16, question: Q) -> Result<Q, PlaneError> {
    let update = workers.ask(worker, question.update())?;
    Q::answered(update).ok_or(Unsupported::OtherAnswer(worker).into())
}

/// What queries need of the configuration, while they hold it.
pub(super) trait Configuration {
    /// The data plane.
    fn plane(&self) -> &dyn Plane;

    /// The data plane.
    fn plane_mut(&mut self) -> &mut dyn Plane;

    /// Numbers of a service's servers in ascending order, with those deleted that sessions still refer to.
    ///
    /// # Errors
    /// There is no such service.
    fn servers_of(&self, service: &ServiceKey) -> Result<Arc<[ServerId]>, Refusal>;

    /// The service of a server, configured or deleted, to which sessions may refer.
    fn service_of(&self, server: ServerId) -> Option<ServiceKey>;

    /// How much there is.
    fn extent(&self) -> ConfigurationSize;
}

/// How much is configured.
pub(super) struct ConfigurationSize {
    /// The configuration's generation.
    pub generation: u64,
    /// Services.
    pub services: u32,
    /// Servers of all services.
    pub servers: u32,
}

/// How a request goes on.
pub enum QueryStep {
    /// It is answered.
    Answered(Response),
    /// Workers have to be asked.
    Asks(Inquiry),
}

/// A question to workers, to be asked while nothing is locked.
pub struct Inquiry(Box<dyn FnOnce() -> WorkersAnswer>);

/// Makes the response of what workers said.
type Finish = Box<dyn FnOnce(&mut dyn Configuration) -> Response>;

/// What workers said.
pub struct WorkersAnswer(Finish);

impl Inquiry {
    fn new<Q: Query>(mut query: Q, workers: Arc<dyn Ask>) -> Self {
        Self(Box::new(move || {
            let answer = query.ask(&*workers);
            WorkersAnswer(Box::new(move |held| response(query.respond(answer, held))))
        }))
    }

    /// Waits for the workers' answers.
    #[must_use]
    pub fn ask(self) -> WorkersAnswer {
        (self.0)()
    }
}

impl WorkersAnswer {
    /// The response to the request.
    pub(super) fn finish(self, held: &mut dyn Configuration) -> Response {
        (self.0)(held)
    }
}

/// What queries keep that are put to workers again and again, or go on.
#[derive(Default)]
pub(super) struct Ongoing {
    census: census::Censuses,
    hops_in_use: hops_in_use::Inquiries,
    trace: trace::Traces,
    session_log: session_log::SessionLogs,
}

/// Answers a query, or says what workers have to be asked for it.
///
/// # Errors
/// The request, if it is none.
pub(super) fn begin(request: Request, held: &mut dyn Configuration) -> Result<QueryStep, Request> {
    Ok(match request {
        Request::Sessions { from, max } => asks::<sessions::ListSessions>((from, max), held),
        Request::FindSessions { filter, from, max } => {
            asks::<search::FindSessions>((filter, from, max), held)
        }
        Request::KillSessions { filter, from } => asks::<search::KillSessions>((filter, from), held),
        Request::Explain(question) => asks::<explain::ExplainPacket>(question, held),
        Request::Trace(filter) => asks::<trace::BeginTrace>(filter, held),
        Request::Traced { trace } => QueryStep::Answered(response(trace::take(trace, false, held))),
        Request::EndTrace { trace } => QueryStep::Answered(response(trace::take(trace, true, held))),
        Request::SessionLog { filter, from, max } => {
            session_log::read(session_log::Wanted { filter, from, max }, held)
        }
        Request::Status => QueryStep::Answered(Response::Status(status::status(held))),
        Request::Counters => QueryStep::Answered(Response::Counters(counters::counters(held))),
        // The configuration's; a request that nobody has a place for yet doesn't compile.
        Request::Info
        | Request::Apply(_)
        | Request::List(_)
        | Request::Timeouts
        | Request::Stage(_)
        | Request::Subscribe
        | Request::Marks
        | Request::ClientAddresses
        | Request::Masquerade
        | Request::DefaultLocalAddresses
        | Request::Snat
        | Request::InitialTimeouts
        | Request::Events { .. } => return Err(request),
    })
}

fn asks<Q: Query>(request: Q::Request, held: &mut dyn Configuration) -> QueryStep {
    match Q::prepare(request, held) {
        Ok(query) => QueryStep::Asks(Inquiry::new(query, held.plane().asker())),
        Err(refusal) => QueryStep::Answered(Response::Refused(refusal)),
    }
}

fn response(answered: Result<Response, PlaneError>) -> Response {
    answered.unwrap_or_else(|error| Response::Refused(error.into()))
}

/// Whether there is a port of this name, where one is named.
fn check_port(name: Option<&str>, held: &dyn Configuration) -> Result<(), Refusal> {
    match name.filter(|name| !held.plane().has_port(name)) {
        Some(name) => Err(Refusal::new(ErrorCode::NoSuchPort, name)),
        None => Ok(()),
    }
}
