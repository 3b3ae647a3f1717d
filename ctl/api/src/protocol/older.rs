//! Messages of older versions, for peers that speak them.
//!
//! [`Request::since`](super::Request::since) keeps requests from peers that don't know them or know them otherwise, but
//! for `-m`, which is NAT to a gateway before version 10 ([`request`]). Here are the answers to requests that haven't changed: [`Response::Status`], whose ports have faults since version
//! 7.

use bincode::{Decode, Encode};

use super::{
    Change, Request, Response,
    frame::{self, FrameError},
};
use crate::model::{
    Forwarding,
    status::{LocalAddressUse, PortCounters, PortStatus, Status, WorkerStatus},
};

/// The version since which ports have faults.
const FAULTS: u16 = 7;

/// The version since which `-m` may mean something other than NAT.
const MASQUERADE: u16 = 10;

/// Number of [`Response::Status`] in the encoding.
const STATUS: u32 = 7;

/// The request as a peer of `version` knows it.
#[must_use]
pub fn request(mut request: Request, version: u16) -> Request {
    if version < MASQUERADE {
        let changes = match &mut request {
            Request::Apply(batch) => batch.changes.as_mut_slice(),
            Request::Stage(changes) => changes,
            _ => &mut [],
        };
        changes.iter_mut().for_each(plain_nat);
    }
    request
}

/// Says `-m` by naming NAT.
fn plain_nat(change: &mut Change) {
    let (Change::AddMasqueraded { service, server } | Change::EditMasqueraded { service, server }) = change
    else {
        return;
    };
    let (service, mut server) = (*service, server.clone());
    server.forwarding = Forwarding::Nat;
    *change = match change {
        Change::AddMasqueraded { .. } => Change::AddServer { service, server },
        _ => Change::EditServer { service, server },
    };
}

/// The frame that carries `response` to a peer of `version`, length included.
///
/// # Errors
/// As [`frame::encode`].
pub fn encode(response: &Response, version: u16) -> Result<Vec<u8>, FrameError> {
    match response {
        Response::Status(status) if version < FAULTS => {
            frame::encode(&(STATUS, StatusBefore7::from(status.clone())))
        }
        response => frame::encode(response),
    }
}

/// The response in the frame body `body` from a peer of `version`.
///
/// # Errors
/// As [`frame::decode`].
pub fn decode(body: &[u8], version: u16) -> Result<Response, FrameError> {
    // Numbers below 251 are one byte.
    if version < FAULTS && body.first().is_some_and(|&number| u32::from(number) == STATUS) {
        let (_, status): (u32, StatusBefore7) = frame::decode(body)?;
        return Ok(Response::Status(status.into()));
    }
    frame::decode(body)
}

/// [`Status`] before version 7.
#[derive(Encode, Decode)]
struct StatusBefore7 {
    version: String,
    generation: u64,
    uptime: u64,
    services: u32,
    servers: u32,
    ports: Vec<PortBefore7>,
    workers: Vec<WorkerStatus>,
    local_addresses: Vec<LocalAddressUse>,
    warnings: Vec<String>,
}

/// [`PortStatus`] before version 7: without faults, which are among the warnings, too.
#[derive(Encode, Decode)]
struct PortBefore7 {
    name: String,
    device: String,
    driver: String,
    mac: [u8; 6],
    mtu: u16,
    up: bool,
    speed: Option<u32>,
    no_rss: Option<String>,
    rx_queues: u16,
    tx_queues: u16,
    buffers: u32,
    buffers_used: u32,
    counters: PortCounters,
}

impl From<Status> for StatusBefore7 {
    fn from(now: Status) -> Self {
        let Status { version, generation, uptime, services, servers, .. } = now;
        let Status { ports, workers, local_addresses, warnings, .. } = now;
        let ports = ports.into_iter().map(Into::into).collect();
        Self { version, generation, uptime, services, servers, ports, workers, local_addresses, warnings }
    }
}

impl From<StatusBefore7> for Status {
    fn from(then: StatusBefore7) -> Self {
        let StatusBefore7 { version, generation, uptime, services, servers, .. } = then;
        let StatusBefore7 { ports, workers, local_addresses, warnings, .. } = then;
        let ports = ports.into_iter().map(Into::into).collect();
        Self { version, generation, uptime, services, servers, ports, workers, local_addresses, warnings }
    }
}

impl From<PortStatus> for PortBefore7 {
    fn from(now: PortStatus) -> Self {
        let PortStatus { name, device, driver, mac, mtu, up, speed, .. } = now;
        let PortStatus { no_rss, rx_queues, tx_queues, buffers, buffers_used, counters, .. } = now;
        Self {
            name,
            device,
            driver,
            mac,
            mtu,
            up,
            speed,
            no_rss,
            rx_queues,
            tx_queues,
            buffers,
            buffers_used,
            counters,
        }
    }
}

impl From<PortBefore7> for PortStatus {
    fn from(then: PortBefore7) -> Self {
        let PortBefore7 { name, device, driver, mac, mtu, up, speed, .. } = then;
        let PortBefore7 { no_rss, rx_queues, tx_queues, buffers, buffers_used, counters, .. } = then;
        Self {
            name,
            device,
            driver,
            mac,
            mtu,
            up,
            speed,
            no_rss,
            rx_queues,
            tx_queues,
            buffers,
            buffers_used,
            counters,
            faults: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(faults: &[&str]) -> Response {
        let faults = faults.iter().map(|&f| f.into()).collect();
        let port = |name: &str, faults| PortStatus { name: name.into(), faults, ..PortStatus::default() };
        Response::Status(Status {
            version: "0.1.0".into(),
            ports: vec![port("a", faults), port("b", Vec::new())],
            warnings: vec!["look".into()],
            ..Status::default()
        })
    }

    #[test]
    fn ports_have_faults_since_version_7() {
        for version in [7, 8] {
            let frame = encode(&status(&["down"]), version).unwrap();
            assert_eq!(frame, frame::encode(&status(&["down"])).unwrap());
            assert_eq!(decode(&frame[4..], version).unwrap(), status(&["down"]));
        }
        for version in 1..7 {
            let frame = encode(&status(&["down"]), version).unwrap();
            assert_eq!(decode(&frame[4..], version).unwrap(), status(&[]));
            // Version 6's bytes: a name, then 24 zeros, 6 of them the MAC address and 8 the counters.
            let ports = [b'a', b'b'].map(|name| [&[1, name][..], &[0; 24]].concat()).concat();
            let body = [b"\x07\x050.1.0\x00\x00\x00\x00\x02", &ports[..], b"\x00\x00\x01\x04look"].concat();
            assert_eq!(frame[4..], body, "{:02x?}", &frame[4..]);
        }
    }

    #[test]
    fn masquerading_is_nat_before_version_10() {
        use crate::model::{Family, Masquerade, Server, ServiceKey};
        let service = ServiceKey::Mark { mark: 7, family: Family::V4 };
        let server = |forwarding| Server {
            address: [10, 0, 0, 1].into(),
            port: 80,
            forwarding,
            weight: 1,
            upper: 0,
            lower: 0,
        };
        let by_m = || {
            let server = server(Forwarding::FullNat);
            vec![
                Change::AddMasqueraded { service, server: server.clone() },
                Change::EditMasqueraded { service, server },
            ]
        };
        let by_nat = || {
            let server = server(Forwarding::Nat);
            vec![
                Change::AddServer { service, server: server.clone() },
                Change::EditServer { service, server },
            ]
        };
        assert_eq!(request(Request::Stage(by_m()), 9), Request::Stage(by_nat()));
        assert_eq!(request(Request::Stage(by_m()), 10), Request::Stage(by_m()));
        let apply = |changes| Request::Apply(super::super::Batch { changes, expect_generation: Some(3) });
        assert_eq!(request(apply(by_m()), 1), apply(by_nat()));
        let set = || apply(vec![Change::SetMasquerade { service, how: Some(Masquerade::FullNat) }]);
        assert_eq!(request(set(), 9), set(), "what it can't do isn't said otherwise");
    }

    #[test]
    fn other_responses_are_the_same_in_all_versions() {
        let done = Response::Done { generation: 300 };
        for version in 1..=super::super::VERSION {
            let frame = encode(&done, version).unwrap();
            assert_eq!(frame, frame::encode(&done).unwrap());
            assert_eq!(decode(&frame[4..], version).unwrap(), done);
        }
    }
}
