//! What `-m` means, and default local addresses.

use weir::control::store::{ServiceDefaults, Store};
use weir_api::model::{Forwarding, Masquerade};
use weirctl::commands::fetch;

use crate::{
    fake::FakePlane,
    world::{on, shop},
};

fn store(masquerade: Masquerade) -> Store<FakePlane> {
    let addresses = ["10.0.0.200", "2001:db8::100"].map(|a| a.parse().unwrap());
    let defaults = ServiceDefaults { masquerade, local_addresses: addresses.into() };
    Store::new(FakePlane::default()).with_defaults(defaults)
}

pub fn what_masquerading_means_is_set_and_listed() {
    let mut store = store(Masquerade::FullNat);
    shop(&mut store);
    let mut run = |line: &str| on(&mut store, line, "");
    let default = "# default fullnat ([ipvs] masquerade in weir.toml)\n";
    assert_eq!(run("masquerade").out, default);
    assert_eq!(run("masquerade tcp/192.0.2.10:80 nat").status, 0);
    assert_eq!(run("masquerade").out, format!("{default}masquerade tcp/192.0.2.10:80 nat\n"));
    let listed = run("masquerade --json").json();
    assert_eq!(
        (&listed["default"], &listed["services"][0]["masquerade"]),
        (&"fullnat".into(), &"nat".into())
    );
    let export = run("export").out;
    assert!(export.contains("masquerade = \"nat\"\n"), "{export}");
    assert!(run("masquerade tcp/192.0.2.10:80 default --json").json()["generation"].is_u64());
    assert_eq!(run("masquerade").out, default);
    let missing = run("masquerade tcp/192.0.2.99:80 nat");
    assert_eq!((missing.status, missing.err.contains("no such service")), (1, true), "{missing:?}");
    assert_eq!(run("masquerade tcp/192.0.2.10:80").status, 2);
    let applied = on(&mut store, "apply -", &export);
    assert!(applied.out.contains("masquerade default -> nat"), "{}", applied.out);
}

pub fn default_local_addresses_are_listed_where_they_are_used() {
    let mut store = store(Masquerade::Nat);
    shop(&mut store);
    let rows = |store: &mut Store<FakePlane>| -> Vec<String> {
        let out = on(store, "local-address list", "").out;
        out.lines().skip(1).map(|row| row.split_whitespace().take(3).collect::<Vec<_>>().join(" ")).collect()
    };
    assert_eq!(rows(&mut store), ["tcp/192.0.2.10:80 10.0.0.200 (default)"]);
    let listed = on(&mut store, "local-address list --json", "").json();
    let local = &listed["services"][0]["local_addresses"][0];
    assert_eq!((&local["address"], &local["default"]), (&"10.0.0.200".into(), &true.into()));
    assert!(!on(&mut store, "export", "").out.contains("10.0.0.200"), "they aren't saved");
    on(&mut store, "local-address add tcp/192.0.2.10:80 10.0.0.77", "");
    assert_eq!(rows(&mut store), ["tcp/192.0.2.10:80 10.0.0.77 -"]);
}

/// `-m` is what it means to the gateway, as when it loads the rules.
pub fn applied_rules_masquerade_as_loaded_ones() {
    let rules = "\
-A -t 192.0.2.10:80 -s rr
-a -t 192.0.2.10:80 -r 10.0.0.1:8080 -m -w 1
-a -t 192.0.2.10:80 -r 10.0.0.2:8080 --nat -w 1
-A -t 192.0.2.10:81 -s rr
masquerade tcp/192.0.2.10:81 nat
-a -t 192.0.2.10:81 -r 10.0.0.1:8080 -m -w 1
# end of 6 rules
";
    let mut store = store(Masquerade::FullNat);
    let applied = on(&mut store, "apply -", rules);
    assert_eq!((applied.status, applied.err.as_str()), (0, ""), "{applied:?}");
    let services = fetch::snapshot(&mut store).unwrap().services;
    let methods = |n: usize| services[n].1.iter().map(|row| row.server.forwarding).collect::<Vec<_>>();
    assert_eq!(methods(0), [Forwarding::Nat]);
    assert_eq!(methods(1), [Forwarding::Nat, Forwarding::FullNat]);
    assert!(on(&mut store, "apply -", rules).out.starts_with("nothing to change"));
}
