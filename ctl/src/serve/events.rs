//! `/events`: server-sent events: what has happened to the gateway, and when it is time for the page to look again.

use std::{sync::Arc, time::Duration};

use hyper::body::Bytes;
use serde_json::json;
use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval},
};
use weir_api::{documents::events::Event, model::event::EventPage};

use super::route::Site;

/// How often there is one: rates are estimated as often.
const EVERY: Duration = Duration::from_secs(2);
/// A stream ends after so long, and the browser opens another.
const LIFE: Duration = Duration::from_secs(3600);

/// Events until nobody reads them.
pub(super) fn stream(site: Arc<Site>) -> mpsc::Receiver<Bytes> {
    let (send, events) = mpsc::channel(1);
    tokio::spawn(async move {
        let end = Instant::now() + LIFE;
        let mut told = None;
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while Instant::now() < end {
            tokio::select! {
                _ = ticks.tick() => {}
                () = send.closed() => return,
            }
            if send.send(message(&site, &mut told).await.into()).await.is_err() {
                return;
            }
        }
    });
    events
}

async fn message(site: &Site, told: &mut Option<(u64, u64)>) -> String {
    match site.asker.brief().await {
        Ok(brief) => {
            let data = json!({ "generation": brief.status.generation, "uptime_ms": brief.status.uptime });
            format!("{}event: look\ndata: {data}\n\n", happened(&brief.events, told))
        }
        // JSON has no line ends.
        Err(error) => format!("event: down\ndata: {}\n\n", json!({ "error": error.to_string() })),
    }
}

/// What has happened since the message before. `told` is when that gateway started and the number to go on with.
fn happened(page: &EventPage, told: &mut Option<(u64, u64)>) -> String {
    let from = match *told {
        Some((started, next)) if started == page.started => next,
        // Another gateway.
        Some(_) => 0,
        None => page.next,
    };
    *told = Some((page.started, page.next));
    let new = page.events.iter().filter(|event| event.sequence >= from);
    let text = new.filter_map(|event| {
        let data = serde_json::to_string(&Event::from(event.clone())).ok()?;
        Some(format!("id: {}\nevent: event\ndata: {data}\n\n", event.sequence))
    });
    text.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(started: u64, numbers: std::ops::Range<u64>) -> EventPage {
        let event = |sequence| weir_api::model::event::Event {
            sequence,
            time: 5,
            kind: "link-up".into(),
            fields: vec![("port".into(), "wan".into())],
            text: "up".into(),
        };
        EventPage { started, next: numbers.end, events: numbers.map(event).collect() }
    }

    #[test]
    fn each_event_is_told_once_to_whoever_was_there() {
        let mut told = None;
        let mut ids = |page: EventPage| {
            let text = happened(&page, &mut told);
            text.lines().filter_map(|line| line.strip_prefix("id: ")?.parse().ok()).collect::<Vec<u64>>()
        };
        assert_eq!(ids(page(1, 1..4)), [0; 0]);
        assert_eq!(ids(page(1, 2..6)), [4, 5]);
        assert_eq!(ids(page(1, 2..6)), [0; 0]);
        assert_eq!(ids(page(2, 1..3)), [1, 2]);
        let text = happened(&page(2, 3..4), &mut told);
        let data = r#"{"sequence":3,"time_ms":5,"event":"link-up","fields":{"port":"wan"},"text":"up"}"#;
        assert_eq!(text, format!("id: 3\nevent: event\ndata: {data}\n\n"));
    }
}
