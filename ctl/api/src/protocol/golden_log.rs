//! The encoding of the session log, byte for byte. A test that fails here means a new protocol version.

use super::{
    Request, Response,
    golden::{key, pinned, session},
};
use crate::model::{
    FoundSession, SessionFilter,
    session_log::{LoggedSession, SessionEvent, SessionLogEntry, SessionLogPage, SessionMethod},
};

fn logged(event: SessionEvent, method: SessionMethod) -> LoggedSession {
    let snat = method == SessionMethod::Snat;
    LoggedSession {
        time: 1 << 60,
        event,
        method,
        service: (!snat).then(key),
        rule: snat.then(|| "office".into()),
        found: FoundSession { session: session(), age: 300, idle: 2 },
    }
}

#[test]
fn session_log_since_version_10() {
    let filter = SessionFilter { worker: Some(1), ..SessionFilter::default() };
    pinned(vec![
        (Request::SessionLog { filter, from: None, max: 5 }, "140000000000000000000001010005"),
        (Request::SessionLog { filter, from: Some(300), max: 5 }, "1400000000000000000000010101fb2c0105"),
    ]);
    let entries = vec![
        SessionLogEntry::Session(Box::new(logged(SessionEvent::Opened, SessionMethod::FullNat))),
        SessionLogEntry::Lost(300),
        SessionLogEntry::Session(Box::new(logged(SessionEvent::Closed, SessionMethod::Snat))),
    ];
    let page = SessionLogPage { entries, next: 400, more: true };
    pinned(vec![(
        Response::SessionLog(page),
        "130300fd0000000000000010000301000000c000020a500006000a010002fb274e00c000020a50000a000004fb01040120010db8000000000000000000000001fb901f01fc905f0100010101037369700663616c6c2d31fb2c010201fb2c0100fd000000000000001001040001066f666669636506000a010002fb274e00c000020a50000a000004fb01040120010db8000000000000000000000001fb901f01fc905f0100010101037369700663616c6c2d31fb2c0102fb900101",
    )]);
    use SessionMethod as M;
    let methods = [(M::Route, "00"), (M::Tunnel, "01"), (M::Nat, "02"), (M::FullNat, "03"), (M::Snat, "04")];
    pinned(methods.to_vec());
}
