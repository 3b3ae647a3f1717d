//! Logs what peers changed: who, and the changes as ipvsadm lines.

use tracing::info;
use weir_api::{
    ipvsadm,
    protocol::{Request, Response},
};

use super::peer::Peer;

/// Changes that are logged one by one of what a peer sends at once: a whole configuration must not push everything else
/// out of the log.
const LINES: usize = 64;

/// What requests that came together ask for.
pub(super) struct Audit {
    peer: Peer,
    /// Lines that may be logged still.
    left: usize,
    /// Changes that weren't logged.
    more: usize,
}

/// What one request asks for.
pub(super) struct Asked {
    lines: Vec<String>,
    more: usize,
}

impl Audit {
    pub fn new(peer: Peer) -> Self {
        Self { peer, left: LINES, more: 0 }
    }

    /// Takes note of a request before it is carried out.
    pub fn note(&mut self, request: &Request) -> Asked {
        let Request::Apply(batch) = request else { return Asked { lines: Vec::new(), more: 0 } };
        let lines: Vec<String> = batch.changes.iter().take(self.left).map(ipvsadm::line).collect();
        self.left -= lines.len();
        Asked { more: batch.changes.len() - lines.len(), lines }
    }

    /// Logs what was asked for if it has been done.
    pub fn tell(&mut self, asked: Asked, response: &Response) {
        let Peer { pid, uid, .. } = self.peer;
        self.done(asked, response).iter().for_each(|line| info!(pid, uid, "{line}"));
    }

    /// What is logged of a request.
    fn done(&mut self, asked: Asked, response: &Response) -> Vec<String> {
        match response {
            Response::Done { .. } => {
                self.more += asked.more;
                asked.lines.iter().map(|line| format!("changed: {line}")).collect()
            }
            Response::Killed { sessions, .. } if *sessions > 0 => vec![format!("sessions ended: {sessions}")],
            _ => {
                // What wasn't logged leaves room for others.
                self.left += asked.lines.len();
                Vec::new()
            }
        }
    }
}

impl Drop for Audit {
    fn drop(&mut self) {
        let Peer { pid, uid, .. } = self.peer;
        if self.more > 0 {
            info!(pid, uid, "changed: {} more", self.more);
        }
    }
}

#[cfg(test)]
mod tests {
    use weir_api::protocol::{Batch, Change, ErrorCode};

    use super::*;

    #[test]
    fn only_changes_are_logged() {
        let peer = Peer::example();
        let mut audit = Audit::new(peer);
        let request =
            |n| Request::Apply(Batch { changes: vec![Change::Zero(None); n], expect_generation: None });
        let refused = Response::Refused(ErrorCode::NoSuchService.into());
        let done = Response::Done { generation: 1 };
        let asked = audit.note(&request(LINES));
        assert_eq!(audit.done(asked, &refused), [""; 0]);
        let asked = audit.note(&request(1));
        assert_eq!(audit.done(asked, &done), ["changed: -Z"]);
        let asked = audit.note(&request(LINES + 5));
        assert_eq!(audit.done(asked, &done).len(), LINES - 1);
        assert_eq!(audit.more, 6);
        let asked = audit.note(&Request::Info);
        assert_eq!(audit.done(asked, &Response::Killed { sessions: 3, next: None }), ["sessions ended: 3"]);
    }
}
