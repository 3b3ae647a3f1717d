//! `weirctl log`: what the gateway logs for as long as somebody reads it, as lines of JSON.

use std::time::Duration;

use weir_api::{
    client::Transport,
    documents::{Body, Document, log::Log},
    model::{
        SessionFilter,
        session_log::{SessionLogEntry, SessionLogPage},
    },
    protocol::{MAX_PAGE, Request, Response},
};

use super::{
    Failure, Wake, World,
    cli::{LogArgs, LogCommand, LogSessionsArgs},
    sessions,
};

/// How often the gateway is asked what it has.
const INTERVAL: Duration = Duration::from_millis(100);
/// Pages that are fetched after the end, at most: there may be new records all the time.
const LAST_PAGES: usize = 64;

pub(super) fn run(args: &LogArgs, world: &mut World<'_>) -> Result<(), Failure> {
    match &args.what {
        LogCommand::Sessions(args) => log_sessions(args, world),
    }
}

fn log_sessions(args: &LogSessionsArgs, world: &mut World<'_>) -> Result<(), Failure> {
    let filter = sessions::chosen(&args.of, world.transport)?;
    world.pace.catch_interrupts()?;
    let mut from = ask(world.transport, filter, None)?.next;
    writeln!(world.err, "weirctl: logging sessions, interrupt to stop")?;
    let end = args.timeout.map(|s| world.pace.now() + Duration::from_secs(s.into()));
    let (mut left, mut last_pages) = (args.number.unwrap_or(u64::MAX), None);
    loop {
        let page = ask(world.transport, filter, Some(from))?;
        from = page.next;
        tell(&page, &mut left, world)?;
        let is_last = last_pages == Some(0) || last_pages.is_some() && !page.more;
        if left == 0 || is_last {
            return Ok(());
        }
        let pause = if page.more { Duration::ZERO } else { INTERVAL };
        last_pages = match last_pages {
            Some(pages) => Some(pages - 1),
            None if world.pace.wait(pause) == Wake::Interrupt => Some(LAST_PAGES),
            None => end.filter(|end| world.pace.now() >= *end).map(|_| LAST_PAGES),
        };
    }
}

fn ask(
    transport: &mut dyn Transport,
    filter: SessionFilter,
    from: Option<u64>,
) -> Result<SessionLogPage, Failure> {
    match transport.call(Request::SessionLog { filter, from, max: MAX_PAGE })? {
        Response::SessionLog(page) => Ok(page),
        Response::Refused(refusal) => Err(refusal.into()),
        _ => Err(Failure::Refused("the gateway's answer doesn't match the request".into())),
    }
}

/// Writes records, whole lines at a time, with at most as many sessions as are `left`.
fn tell(page: &SessionLogPage, left: &mut u64, world: &mut World<'_>) -> Result<(), Failure> {
    let mut line = Vec::new();
    for entry in &page.entries {
        if *left == 0 {
            break;
        }
        if matches!(entry, SessionLogEntry::Session(_)) {
            *left -= 1;
        }
        line.clear();
        serde_json::to_writer(&mut line, &Document::from(Body::Log(Log::from(entry))))
            .map_err(std::io::Error::from)?;
        line.push(b'\n');
        world.out.write_all(&line)?;
    }
    Ok(world.out.flush()?)
}
