//! `weirctl serve`: what the gateway tells, over HTTP: metrics, health, a status page, the documents of `--json`.
//!
//! ```text
//!  Prometheus, browsers --HTTP--> connection -> route -> metrics, health, page ... --Look--> Asker --socket--> gateway
//!                       200 at most                                              two threads, one question at a time each
//! ```
//!
//! It is a process of its own and only reads, unless it is told to let those with a token change the rules: whatever happens here, the gateway goes on. One thread serves all
//! connections and never waits for the gateway; two others do that, one for what is looked at again and again and
//! one for documents. A gateway that doesn't answer is asked no more until it does, and 503 is said at once.

mod asker;
mod body;
mod bounded_stream;
mod connection;
mod documents;
mod events;
mod health;
mod look;
mod metrics;
mod openapi;
mod page;
mod query;
mod route;
mod rules;
mod stub_status;

use std::{io, path::Path, time::Duration};

use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};

use crate::commands::{Failure, cli::ServeArgs};

/// Longest that the gateway may take for one answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Serves until SIGTERM or SIGINT. The gateway behind `socket` may come and go meanwhile; it has `patience` for an
/// answer, 5 s at most.
///
/// # Errors
/// It can't listen, the token file is no good, or the system has no thread left.
pub fn run(args: &ServeArgs, socket: &Path, patience: Duration) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let writers = args.token_file.as_deref().filter(|_| args.allow_write);
    let writers = writers.map(rules::Writers::open).transpose()?;
    let asker = asker::Asker::open(socket, patience.min(PATIENCE))?;
    runtime.block_on(serve(args, route::Site::new(asker, writers)))
}

async fn serve(args: &ServeArgs, site: route::Site) -> Result<(), Failure> {
    let site = std::sync::Arc::new(site);
    let connections = connection::Connections::default();
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    for &address in &args.listen {
        let cannot = |e: io::Error| Failure::Refused(format!("cannot listen on {address}: {e}"));
        let listener = TcpListener::bind(address).await.map_err(cannot)?;
        let bound = listener.local_addr().map_err(cannot)?;
        eprintln!("weirctl: serving on http://{bound}/");
        tokio::spawn(connection::accept(listener, connections.clone(), site.clone()));
    }
    // Without systemd nobody needs to know.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}
