//! What is where, and the answers' headers.

use std::{convert::Infallible, sync::Arc, time::Duration};

use hyper::{
    Method, Request, Response, StatusCode,
    body::{Body as _, Incoming},
    header::{
        ACCEPT, ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, ETAG, HeaderValue, RETRY_AFTER,
        WWW_AUTHENTICATE,
    },
};
use serde_json::json;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{
    asker::{Asker, Unanswered},
    body::Body,
    documents, events, health, metrics, openapi, page,
    rules::Writers,
    stub_status,
};

/// Pages and documents that are sent at a time: each holds a look.
const LARGE: usize = 4;
/// The same for scrapes, which pages mustn't keep waiting.
const SCRAPES: usize = 4;
/// Streams of events at a time: browsers that watch the page.
const STREAMS: usize = 50;
/// How long an answer may take to begin.
const ANSWER_TIME: Duration = Duration::from_secs(30);

const JSON: &str = "application/json";
const PLAIN: &str = "text/plain; charset=utf-8";

/// What is at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Page,
    Metrics,
    Health,
    Readiness,
    StubStatus,
    Events,
    Names,
    Description,
    Rules,
}

/// What is at a path, and what is said of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Route {
    pub path: &'static str,
    /// Its name in the description.
    pub id: &'static str,
    place: Place,
    /// Media type of the answer.
    pub kind: &'static str,
    pub parameters: &'static [&'static str],
    pub what: &'static str,
}

const fn route(
    path: &'static str,
    id: &'static str,
    place: Place,
    kind: &'static str,
    parameters: &'static [&'static str],
    what: &'static str,
) -> Route {
    Route { path, id, place, kind, parameters, what }
}

/// Everything but the documents.
pub(super) const ROUTES: [Route; 9] = [
    route("/", "page", Place::Page, "text/html", &["q", "part"], "The status page"),
    route("/metrics", "metrics", Place::Metrics, "text/plain", &[], "Metrics for Prometheus"),
    route(
        "/healthz",
        "health",
        Place::Health,
        JSON,
        &[],
        "Whether the gateway and all workers live, and why not",
    ),
    route(
        "/readyz",
        "readiness",
        Place::Readiness,
        JSON,
        &[],
        "Whether it should be sent traffic, and why not",
    ),
    route(
        "/stub_status",
        "stub-status",
        Place::StubStatus,
        "text/plain",
        &[],
        "The four lines of nginx's stub_status",
    ),
    route(
        "/events",
        "event-stream",
        Place::Events,
        "text/event-stream",
        &[],
        "What happens, as server-sent events",
    ),
    route("/v1/", "names", Place::Names, JSON, &[], "The paths of the documents"),
    route("/v1/openapi.json", "description", Place::Description, JSON, &[], "This description"),
    route(
        "/v1/rules",
        "rules",
        Place::Rules,
        "text/plain",
        &[],
        "The configuration as a file; ETag is its generation",
    ),
];

/// What answers requests.
pub(super) struct Site {
    pub asker: Asker,
    /// Who may change things, if anybody may.
    writers: Option<Writers>,
    large: Arc<Semaphore>,
    scrapes: Arc<Semaphore>,
    streams: Arc<Semaphore>,
}

type Reply = Response<Body>;

/// A status and why.
#[derive(Debug)]
pub(super) struct Problem(pub StatusCode, pub String);

impl From<Unanswered> for Problem {
    fn from(error: Unanswered) -> Self {
        let status = match error {
            Unanswered::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
            Unanswered::Wrong(_) => StatusCode::BAD_REQUEST,
            Unanswered::Refused(_) => StatusCode::NOT_FOUND,
            Unanswered::Stale(_) => StatusCode::PRECONDITION_FAILED,
        };
        Self(status, error.to_string())
    }
}

impl Site {
    pub(super) fn new(asker: Asker, writers: Option<Writers>) -> Self {
        let semaphore = |n| Arc::new(Semaphore::new(n));
        let (large, scrapes, streams) = (semaphore(LARGE), semaphore(SCRAPES), semaphore(STREAMS));
        Self { asker, writers, large, scrapes, streams }
    }

    fn permit(of: &Arc<Semaphore>, what: &str) -> Result<OwnedSemaphorePermit, Problem> {
        let full = |_| Problem(StatusCode::SERVICE_UNAVAILABLE, format!("too many {what} at a time"));
        of.clone().try_acquire_owned().map_err(full)
    }
}

/// Answers a request.
pub(super) async fn answer(site: Arc<Site>, request: Request<Incoming>) -> Result<Reply, Infallible> {
    let json = wants_json(request.uri().path());
    let late = || Problem(StatusCode::SERVICE_UNAVAILABLE, "the answer took too long".into());
    let answered = match tokio::time::timeout(ANSWER_TIME, reply(site, request)).await {
        Ok(answered) => answered,
        Err(_) => Err(late()),
    };
    let mut response = answered.unwrap_or_else(|Problem(status, why)| problem(status, &why, json));
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    Ok(response)
}

fn wants_json(path: &str) -> bool {
    path.starts_with("/v1/") || path == "/healthz" || path == "/readyz"
}

fn problem(status: StatusCode, why: &str, as_json: bool) -> Reply {
    let (kind, text) =
        if as_json { (JSON, json!({ "error": why }).to_string()) } else { (PLAIN, why.to_owned()) };
    let mut response = respond(status, kind, format!("{text}\n"));
    let headers = response.headers_mut();
    match status {
        StatusCode::SERVICE_UNAVAILABLE => drop(headers.insert(RETRY_AFTER, HeaderValue::from_static("1"))),
        StatusCode::METHOD_NOT_ALLOWED => drop(headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD"))),
        StatusCode::UNAUTHORIZED => {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        // What follows isn't read.
        StatusCode::PAYLOAD_TOO_LARGE => drop(headers.insert(CONNECTION, HeaderValue::from_static("close"))),
        _ => {}
    }
    response
}

fn respond(status: StatusCode, kind: &'static str, body: impl Into<Body>) -> Reply {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

async fn reply(site: Arc<Site>, request: Request<Incoming>) -> Result<Reply, Problem> {
    let of = |route: &&Route| {
        route.path == request.uri().path() || request.uri().path() == "/v1" && route.path == "/v1/"
    };
    let place = ROUTES.iter().find(of).map(|route| route.place);
    if let (&Method::PUT, Some(Place::Rules), Some(writers)) = (request.method(), place, &site.writers) {
        let written = writers.put(&site, request).await?;
        return Ok(tagged(respond(StatusCode::OK, JSON, written.text), written.generation));
    }
    if ![Method::GET, Method::HEAD].contains(request.method()) {
        return Err(Problem(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD are answered".into()));
    }
    if !request.body().is_end_stream() {
        return Err(Problem(StatusCode::PAYLOAD_TOO_LARGE, "a request has no body here".into()));
    }
    match place {
        Some(place) => at(place, site, &request).await,
        None => document(&site, request.uri().path(), request.uri().query().unwrap_or_default()).await,
    }
}

async fn at(place: Place, site: Arc<Site>, request: &Request<Incoming>) -> Result<Reply, Problem> {
    match place {
        Place::Page => {
            let query = request.uri().query().unwrap_or_default();
            let asked = page::Asked::read(query).map_err(Unanswered::Wrong)?;
            let permit = Site::permit(&site.large, "pages")?;
            Ok(page::reply(site.asker.look().await, asked, permit))
        }
        Place::Metrics => {
            let accept = request.headers().get(ACCEPT).and_then(|value| value.to_str().ok());
            let format = metrics::Format::accepted(accept.unwrap_or_default());
            let permit = Site::permit(&site.scrapes, "scrapes")?;
            let pieces = Box::new(metrics::pieces(site.asker.look().await?, format));
            Ok(respond(StatusCode::OK, format.content_type(), Body::Pieces { pieces, _permit: permit }))
        }
        Place::Health => Ok(checked("healthy", site.asker.brief().await.map(|brief| health::health(&brief)))),
        Place::Readiness => {
            Ok(checked("ready", site.asker.brief().await.map(|brief| health::readiness(&brief))))
        }
        Place::StubStatus => {
            Ok(respond(StatusCode::OK, PLAIN, stub_status::page(&*site.asker.look().await?)))
        }
        Place::Events => {
            let permit = Site::permit(&site.streams, "streams of events")?;
            let events = Body::Events { events: events::stream(site), _permit: permit };
            Ok(respond(StatusCode::OK, "text/event-stream", events))
        }
        Place::Names => {
            let names: Vec<String> = documents::names().map(|name| format!("/v1/{name}")).collect();
            Ok(respond(StatusCode::OK, JSON, format!("{}\n", json!({ "documents": names }))))
        }
        Place::Description => Ok(respond(StatusCode::OK, JSON, format!("{}\n", openapi::description()))),
        Place::Rules => {
            small_enough(&site).await?;
            let permit = Site::permit(&site.large, "documents")?;
            let written = site.asker.rules().await?;
            let pieces = Box::new(std::iter::once(written.text.into()));
            let reply = respond(StatusCode::OK, PLAIN, Body::Pieces { pieces, _permit: permit });
            Ok(tagged(reply, written.generation))
        }
    }
}

/// With the generation of the configuration that it is about.
fn tagged(mut reply: Reply, generation: u64) -> Reply {
    if let Ok(tag) = HeaderValue::try_from(format!("\"{generation}\"")) {
        reply.headers_mut().insert(ETAG, tag);
    }
    reply
}

fn checked(what: &str, reasons: Result<Vec<String>, Unanswered>) -> Reply {
    let reasons = reasons.unwrap_or_else(|error| vec![error.to_string()]);
    let status = if reasons.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    respond(status, JSON, format!("{}\n", health::document(what, &reasons)))
}

/// Whatever isn't, to the letter, the name of a document isn't there.
async fn document(site: &Site, path: &str, query: &str) -> Result<Reply, Problem> {
    let command = path.strip_prefix("/v1/").and_then(|name| documents::command(name, query));
    let not_found = || Problem(StatusCode::NOT_FOUND, "there is nothing here".into());
    let (command, whole) = command.ok_or_else(not_found)??;
    if whole {
        small_enough(site).await?;
    }
    let permit = Site::permit(&site.large, "documents")?;
    let text = site.asker.document(command).await?;
    let pieces = Box::new(std::iter::once(text.into()));
    Ok(respond(StatusCode::OK, JSON, Body::Pieces { pieces, _permit: permit }))
}

/// Whether a document may have all servers.
async fn small_enough(site: &Site) -> Result<(), Problem> {
    let (servers, most) = (site.asker.brief().await?.status.servers, documents::MAX_SERVERS);
    if servers > most {
        let why = format!(
            "{servers} servers are too many for one document, at most {most}: see /metrics, or weirctl"
        );
        return Err(Problem(StatusCode::SERVICE_UNAVAILABLE, why));
    }
    Ok(())
}
