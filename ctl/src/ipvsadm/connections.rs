//! `-Lc`: sessions, a page at a time.
//!
//! A FULLNAT session is listed as any other, client, virtual and real server; its local address follows
//! as one more column, where programs that read ipvsadm's six columns don't look.

use std::io::{self, Write};

use weir_api::{
    ipvsadm::{Format, names::Names},
    model::{Protocol, Session},
};

use super::print::place;

/// The lines above the sessions.
pub(super) fn title(format: &Format, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "IPVS connection entries")?;
    write!(out, "pro expire {:<11} {:<18} {:<18} ", "state", "source", "virtual")?;
    if format.persistent {
        writeln!(out, "{:<18} {:<16} pe_data", "destination", "pe name")
    } else {
        writeln!(out, "destination")
    }
}

/// One session.
pub(super) fn session(
    s: &Session,
    format: &Format,
    names: &dyn Names,
    out: &mut dyn Write,
) -> io::Result<()> {
    let (name, protocol) = match s.protocol {
        6 => ("TCP", Some(Protocol::Tcp)),
        17 => ("UDP", Some(Protocol::Udp)),
        132 => ("SCTP", Some(Protocol::Sctp)),
        _ => ("IP", None),
    };
    let place = |(address, port)| place(address, port, protocol, format.numeric, names);
    let seconds = s.expires / 100;
    let expires = format!("{:02}:{:02}", seconds / 60, seconds % 60);
    let (client, service, server) = (place(s.client), place(s.virtual_), place(s.server));
    write!(out, "{name:<3} {expires:<6} {:<11} {client:<18} {service:<18} ", s.state.name())?;
    match &s.engine {
        Some(engine) if format.persistent => {
            writeln!(out, "{server:<16} {:<18} {}", engine.name, engine.data)
        }
        _ if s.fullnat => writeln!(out, "{server:<18} {}", place(s.local)),
        _ => writeln!(out, "{server}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weir_api::{
        ipvsadm::names::SystemNames,
        model::{EngineData, SessionState},
    };

    fn session_with(f: impl FnOnce(&mut Session)) -> String {
        let mut s = Session {
            protocol: 6,
            client: ([10, 1, 0, 2].into(), 20007),
            virtual_: ([192, 0, 2, 10].into(), 80),
            local: ([10, 0, 0, 4].into(), 1025),
            server: ([10, 0, 0, 2].into(), 80),
            state: SessionState::Established,
            expires: 89_999,
            fullnat: false,
            worker: 0,
            engine: None,
        };
        f(&mut s);
        let mut out = Vec::new();
        let format = Format { numeric: true, persistent: true, ..Format::default() };
        session(&s, &format, &SystemNames, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn columns() {
        let line = "TCP 14:59  ESTABLISHED 10.1.0.2:20007     192.0.2.10:80      10.0.0.2:80";
        assert_eq!(session_with(|_| {}), format!("{line}\n"));
        assert_eq!(session_with(|s| s.fullnat = true), format!("{line}        10.0.0.4:1025\n"));
        let engine = EngineData { name: "sip".into(), data: "call-1".into() };
        assert_eq!(
            session_with(|s| s.engine = Some(engine)),
            format!("{line}      sip                call-1\n")
        );
    }
}
