//! What belongs to a service besides servers: how the client's address is told, what `-m` means, default local addresses.

use weir_api::model::{ClientAddress, Family, Masquerade, MasqueradeSettings};

use super::*;
use crate::control::store::ServiceDefaults;

#[test]
fn the_client_s_address_is_the_service_s_through_edits_and_refusals() {
    let mut store = Store::new(Fake::default());
    let key = VIP;
    let set = |how| Change::SetClientAddress { service: key, how };
    let told = |store: &mut Store<Fake>| match store.handle(Request::ClientAddresses, Access::ReadOnly) {
        Response::ClientAddresses(services) => services,
        other => panic!("{other:?}"),
    };
    apply(&mut store, vec![Change::AddService(service("rr")), set(ClientAddress::Toa)]).unwrap();
    assert_eq!(last_state(&store).client_address, ClientAddress::Toa);
    apply(&mut store, vec![Change::EditService(service("rr"))]).unwrap();
    assert_eq!(told(&mut store), [(key, ClientAddress::Toa)]);
    assert!(apply(&mut store, vec![set(ClientAddress::None), Change::AddService(service("rr"))]).is_err());
    assert_eq!(told(&mut store), [(key, ClientAddress::Toa)], "a refused batch changes nothing");
    apply(&mut store, vec![set(ClientAddress::None)]).unwrap();
    assert_eq!(told(&mut store), []);
}

fn masqueraded(address: &str, weight: u32) -> Change {
    // The method that is said doesn't count.
    let server = Server { forwarding: Forwarding::Route, ..server(address, weight) };
    Change::AddMasqueraded { service: VIP, server }
}

fn edited(address: &str, weight: u32) -> Change {
    Change::EditMasqueraded { service: VIP, server: server(address, weight) }
}

fn exact(address: &str, forwarding: Forwarding) -> Server {
    Server { forwarding, ..server(address, 1) }
}

fn with(masquerade: Masquerade, local_addresses: &[&str]) -> Store<Fake> {
    let local_addresses = local_addresses.iter().map(|a| a.parse().unwrap()).collect();
    let store = Store::new(Fake::default()).with_defaults(ServiceDefaults { masquerade, local_addresses });
    let mut store = store;
    apply(&mut store, [Change::AddService(service("rr"))]).unwrap();
    store
}

/// Servers' methods and weights, the newest first.
fn methods(store: &mut Store<Fake>) -> Vec<(Forwarding, u32)> {
    server_rows(store).iter().map(|row| (row.server.forwarding, row.server.weight)).collect()
}

#[test]
fn an_addition_by_masquerading_gets_what_it_means_to_the_service() {
    use Masquerade::{FullNat, Nat};
    for (default, own, method) in [
        (Nat, None, Forwarding::Nat),
        (FullNat, None, Forwarding::FullNat),
        (Nat, Some(FullNat), Forwarding::FullNat),
        (FullNat, Some(Nat), Forwarding::Nat),
        (FullNat, Some(FullNat), Forwarding::FullNat),
    ] {
        let mut store = with(default, &[]);
        let set = Change::SetMasquerade { service: VIP, how: own };
        apply(&mut store, [set, masqueraded("10.0.0.1", 3)]).unwrap();
        assert_eq!(methods(&mut store), [(method, 3)], "{default:?} {own:?}");
        // An exact method is what it is.
        let nat = Change::AddServer { service: VIP, server: exact("10.0.0.2", Forwarding::Nat) };
        let fullnat = Change::AddServer { service: VIP, server: exact("10.0.0.3", Forwarding::FullNat) };
        apply(&mut store, [nat, fullnat]).unwrap();
        assert_eq!(methods(&mut store)[..2], [(Forwarding::FullNat, 1), (Forwarding::Nat, 1)]);
    }
}

/// ldirectord and keepalived repeat `-m` with every weight.
#[test]
fn an_edit_by_masquerading_turns_neither_method_into_the_other() {
    for default in [Masquerade::Nat, Masquerade::FullNat] {
        let mut store = with(default, &[]);
        let servers = [Forwarding::Nat, Forwarding::FullNat, Forwarding::Route];
        for (n, method) in (1..).zip(servers) {
            let server = exact(&format!("10.0.0.{n}"), method);
            apply(&mut store, [Change::AddServer { service: VIP, server }]).unwrap();
        }
        apply(&mut store, (1..=3).map(|n| edited(&format!("10.0.0.{n}"), 0))).unwrap();
        let kept = [(default.forwarding(), 0), (Forwarding::FullNat, 0), (Forwarding::Nat, 0)];
        assert_eq!(methods(&mut store), kept, "{default:?}: a third method gives way");
        let nat = Change::EditServer { service: VIP, server: exact("10.0.0.2", Forwarding::Nat) };
        apply(&mut store, [nat]).unwrap();
        assert_eq!(methods(&mut store)[1], (Forwarding::Nat, 1), "an exact method is what it is");
        let missing = apply(&mut store, [edited("10.0.0.9", 0)]);
        assert_eq!(missing, Err((ErrorCode::NoSuchServer, 0)));
        apply(&mut store, [Change::DeleteService(VIP)]).unwrap();
        for change in [edited("10.0.0.1", 0), masqueraded("10.0.0.1", 0)] {
            assert_eq!(apply(&mut store, [change]), Err((ErrorCode::NoSuchService, 0)));
        }
    }
}

#[test]
fn nat_stays_within_a_family_and_fullnat_does_not() {
    let mut store = with(Masquerade::Nat, &[]);
    assert_eq!(apply(&mut store, [masqueraded("2001:db8::1", 1)]), Err((ErrorCode::InvalidOperation, 0)));
    let mut store = with(Masquerade::FullNat, &[]);
    assert_eq!(apply(&mut store, [masqueraded("2001:db8::1", 1)]), Ok(()));
}

#[test]
fn what_masquerading_means_is_the_service_s_through_edits_and_refusals() {
    let mut store = with(Masquerade::FullNat, &[]);
    let set = |how| Change::SetMasquerade { service: VIP, how };
    let told = |store: &mut Store<Fake>| match store.handle(Request::Masquerade, Access::ReadOnly) {
        Response::Masquerade(settings) => settings,
        other => panic!("{other:?}"),
    };
    let settings = |services| MasqueradeSettings { default: Masquerade::FullNat, services };
    assert_eq!(told(&mut store), settings(vec![]));
    let before = store.generation();
    apply(&mut store, [set(Some(Masquerade::Nat))]).unwrap();
    assert_eq!(store.generation(), before + 1);
    apply(&mut store, [Change::EditService(service("wlc")), set(Some(Masquerade::Nat))]).unwrap();
    assert_eq!(told(&mut store), settings(vec![(VIP, Masquerade::Nat)]));
    assert!(apply(&mut store, [set(None), masqueraded("10.0.0.1", 1), delete("10.0.0.9")]).is_err());
    assert_eq!(told(&mut store), settings(vec![(VIP, Masquerade::Nat)]), "a refused batch changes nothing");
    apply(&mut store, [masqueraded("10.0.0.1", 1), set(None)]).unwrap();
    assert_eq!(told(&mut store), settings(vec![]));
    assert_eq!(methods(&mut store), [(Forwarding::Nat, 1)], "servers keep their methods");
    let of = ServiceKey::Mark { mark: 9, family: Family::V4 };
    let nobody = Change::SetMasquerade { service: of, how: None };
    assert_eq!(apply(&mut store, [nobody]), Err((ErrorCode::NoSuchService, 0)));
    apply(&mut store, [set(Some(Masquerade::Nat)), Change::DeleteService(VIP)]).unwrap();
    apply(&mut store, [Change::AddService(service("rr"))]).unwrap();
    assert_eq!(told(&mut store), settings(vec![]), "a new service begins afresh");
}

/// The local addresses that the plane has for the service.
fn locals(store: &Store<Fake>) -> Vec<String> {
    last_state(store).local_addresses.iter().map(|local| local.address.to_string()).collect()
}

#[test]
fn fullnat_servers_without_local_addresses_use_the_default_ones_of_their_family() {
    let defaults = ["10.0.0.200", "10.0.0.201", "2001:db8::100"];
    let mut store = with(Masquerade::FullNat, &defaults);
    assert!(locals(&store).is_empty(), "no server needs any");
    let nat = Change::AddServer { service: VIP, server: exact("10.0.0.1", Forwarding::Nat) };
    apply(&mut store, [nat]).unwrap();
    assert!(locals(&store).is_empty(), "NAT doesn't either");
    apply(&mut store, [masqueraded("10.0.0.2", 1)]).unwrap();
    assert_eq!(locals(&store), defaults[..2]);
    apply(&mut store, [masqueraded("2001:db8::2", 1)]).unwrap();
    assert_eq!(locals(&store), defaults);
    apply(&mut store, [local("10.0.0.4")]).unwrap();
    assert_eq!(locals(&store), ["10.0.0.4", defaults[2]]);
    assert_eq!(service_rows(&mut store)[0].local_addresses.len(), 1, "the service's own are listed");
    let address = "10.0.0.4".parse().unwrap();
    apply(&mut store, [Change::DeleteLocalAddress { service: VIP, address }]).unwrap();
    assert_eq!(locals(&store), defaults);
    // It may be a service's own as well.
    apply(&mut store, [local(defaults[1])]).unwrap();
    assert_eq!(locals(&store), defaults[1..]);
    let told = store.handle(Request::DefaultLocalAddresses, Access::ReadOnly);
    assert_eq!(told, Response::DefaultLocalAddresses(defaults.map(|a| a.parse().unwrap()).into()));
}

#[test]
fn a_default_local_address_has_no_other_use() {
    let mut store = with(Masquerade::Nat, &["10.0.0.200", "2001:db8::100"]);
    for (address, key) in
        [("10.0.0.200", VIP), ("2001:db8::100", ServiceKey::Mark { mark: 7, family: Family::V6 })]
    {
        let address: IpAddr = address.parse().unwrap();
        let virtual_ = ServiceKey::Address { protocol: Protocol::Udp, address, port: 53 };
        let netmask = if address.is_ipv4() { u32::MAX } else { 128 };
        let of = |key| Change::AddService(Service { key, netmask, ..service("rr") });
        let server = Server { address, ..server("10.0.0.1", 1) };
        let mut changes: Vec<Change> = (key != VIP).then(|| of(key)).into_iter().collect();
        changes.push(Change::AddServer { service: key, server });
        for changes in [vec![of(virtual_)], changes] {
            let batch = Batch { changes, expect_generation: None };
            let refusal = store.apply(&batch).unwrap_err();
            assert_eq!(refusal.detail, format!("{address} is a default local address"));
        }
    }
    let check = |address: &str| with(Masquerade::Nat, &[address]).check_defaults();
    assert_eq!(check("10.0.0.200"), Ok(()));
    for wrong in ["10.0.0.254", "127.0.0.5", "2001:db8::"] {
        assert!(check(wrong).unwrap_err().starts_with(wrong), "{wrong}");
    }
}
