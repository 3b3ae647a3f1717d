//! The bytes of the messages that came with version 10.

use super::{Change, Request, Response, golden::pinned};
use crate::model::{Family, Forwarding, Masquerade, MasqueradeSettings, Server, ServiceKey};

const MARK: ServiceKey = ServiceKey::Mark { mark: 7, family: Family::V4 };

fn server(forwarding: Forwarding) -> Server {
    Server { address: [10, 0, 0, 1].into(), port: 80, forwarding, weight: 5, upper: 0, lower: 0 }
}

#[test]
fn requests() {
    let add = Change::AddMasqueraded { service: MARK, server: server(Forwarding::Nat) };
    let edit = Change::EditMasqueraded { service: MARK, server: server(Forwarding::FullNat) };
    let set = |how| Change::SetMasquerade { service: MARK, how };
    pinned(vec![
        (Request::Masquerade, "15"),
        (Request::DefaultLocalAddresses, "16"),
        (Request::Stage(vec![add]), "090115010700000a0000015002050000"),
        (Request::Stage(vec![edit]), "090116010700000a0000015003050000"),
        (
            Request::Stage(vec![set(None), set(Some(Masquerade::Nat)), set(Some(Masquerade::FullNat))]),
            "09031701070000170107000100170107000101",
        ),
    ]);
}

#[test]
fn responses() {
    let services = vec![(MARK, Masquerade::Nat)];
    pinned(vec![
        (
            Response::Masquerade(MasqueradeSettings { default: Masquerade::FullNat, services }),
            "14010101070000",
        ),
        (Response::DefaultLocalAddresses(vec![[10, 0, 0, 4].into()]), "1501000a000004"),
    ]);
}
