//! `/events`: server-sent events by which the page knows when to look again.

use std::{sync::Arc, time::Duration};

use hyper::body::Bytes;
use serde_json::json;
use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval},
};

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
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while Instant::now() < end {
            tokio::select! {
                _ = ticks.tick() => {}
                () = send.closed() => return,
            }
            if send.send(event(&site).await.into()).await.is_err() {
                return;
            }
        }
    });
    events
}

async fn event(site: &Site) -> String {
    match site.desk.brief().await {
        Ok(brief) => {
            let data = json!({ "generation": brief.status.generation, "uptime_ms": brief.status.uptime });
            format!("event: look\ndata: {data}\n\n")
        }
        // JSON has no line ends.
        Err(error) => format!("event: down\ndata: {}\n\n", json!({ "error": error.to_string() })),
    }
}
