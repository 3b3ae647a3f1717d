//! An address that sessions leave from has no other use: refused in whatever order the two come, and on every way that
//! leads into the configuration.

mod fake;

use std::{ffi::OsString, net::IpAddr, path::Path};

use fake::FakePlane;
use weir::control::{
    plane::AddressKind,
    rules::RulesFile,
    store::{ServiceDefaults, Store},
};
use weir_api::ipvsadm::names::SystemNames;
use weirctl::ipvsadm::{Environment, ipvsadm};

/// A use of an address, in rules; `@` is the address and `~` the networks' family.
#[derive(Clone, Copy, Debug)]
struct Use {
    rules: &'static str,
    /// What a later use is told, and what this one is told of an earlier one: whether it must not be shared.
    from_sessions: bool,
    is: &'static str,
}

const USES: [Use; 6] = [
    Use { rules: "-A -t @:80\n", from_sessions: false, is: "a virtual service's address" },
    Use { rules: "-A -f 9 ~\n-a -f 9 ~ -r @ -m\n", from_sessions: false, is: "a real server's address" },
    Use { rules: "-A -f 8 ~\n-P -f 8 ~ -z @\n", from_sessions: true, is: "a local address of a service" },
    Use {
        rules: "snat add one --inside NET/16 --port wan --pool @\n",
        from_sessions: true,
        is: "in the pool of SNAT rule one",
    },
    Use {
        rules: "snat add two --inside NET/17 --port wan --pool PREFIX1,PREFIX4-PREFIX6\n",
        from_sessions: true,
        is: "in the pool of SNAT rule two",
    },
    Use {
        rules: "snat add three --inside NET/18 --port wan --protocol udp --pool PREFIX5\n",
        from_sessions: true,
        is: "in the pool of SNAT rule three",
    },
];

fn of_family(rules: &str, v6: bool) -> String {
    let (address, prefix, net, option) = match v6 {
        true => ("2001:db8::5", "2001:db8::", "fd00::", "-6"),
        false => ("192.0.2.5", "192.0.2.", "10.9.0.0", ""),
    };
    let in_brackets = if v6 { "-A -t [2001:db8::5]:80" } else { "-A -t 192.0.2.5:80" };
    let rules = rules.replace("-A -t @:80", in_brackets).replace('~', option);
    let rules = if v6 { rules.replace("-r @", "-r [@]:0") } else { rules };
    rules.replace('@', address).replace("PREFIX", prefix).replace("NET", net)
}

/// What the first of two uses is called to the second.
fn refusal(first: Use, second: Use, v6: bool) -> Option<String> {
    let address = if v6 { "2001:db8::5" } else { "192.0.2.5" };
    if !first.from_sessions && !second.from_sessions {
        return None;
    }
    let pools = [first, second].map(|u| u.is.strip_prefix("in the pool of SNAT rule "));
    let what = match pools {
        [Some(first), Some(second)] => format!("in the pools of SNAT rules {first} and {second}"),
        _ => first.is.to_owned(),
    };
    Some(format!("{address} is {what}"))
}

fn pairs() -> impl Iterator<Item = (Use, Use, bool)> {
    let indices = (0..USES.len()).flat_map(|a| (0..USES.len()).map(move |b| (a, b))).filter(|(a, b)| a != b);
    indices.flat_map(|(a, b)| [false, true].map(|v6| (USES[a], USES[b], v6)))
}

fn restore(store: &mut Store<FakePlane>, rules: &str) -> String {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let args: [OsString; 2] = ["weirctl", "-R"].map(Into::into);
    let environment = Environment { names: &SystemNames, own: true };
    ipvsadm(&args, &mut rules.as_bytes(), store, &mut out, &mut err, &environment);
    let err = String::from_utf8(err).unwrap();
    err.lines().filter(|line| !line.contains("warning: ")).collect()
}

#[test]
fn line_by_line() {
    for (first, second, v6) in pairs() {
        let mut store = Store::new(FakePlane::default());
        assert_eq!(restore(&mut store, &of_family(first.rules, v6)), "", "{first:?}");
        let told = restore(&mut store, &of_family(second.rules, v6));
        match refusal(first, second, v6) {
            None => assert_eq!(told, "", "{second:?} behind {first:?}"),
            Some(why) => assert!(told.ends_with(&why), "{second:?} behind {first:?}: {told}, not {why}"),
        }
    }
}

#[test]
fn in_a_rules_file() {
    for (first, second, v6) in pairs() {
        let text = of_family(&format!("{}{}", first.rules, second.rules), v6);
        let rules = RulesFile::parse(Path::new("rules"), text.as_bytes()).unwrap();
        let checked = rules.check(&["wan".into()], [], ServiceDefaults::default()).map_err(|e| e.to_string());
        let mut store = Store::new(FakePlane::default());
        let applied = rules.apply(&mut store).map_err(|e| e.to_string());
        assert_eq!(applied, checked, "{text}");
        match refusal(first, second, v6) {
            None => assert_eq!(checked, Ok(()), "{text}"),
            Some(why) => {
                let told = checked.unwrap_err();
                assert!(told.starts_with(&format!("rules:{}: ", text.lines().count())), "{text}: {told}");
                assert!(told.ends_with(&why), "{text}: {told}, not {why}");
                assert_eq!(store.generation(), 0, "nothing is taken");
            }
        }
    }
}

/// Addresses of the gateway's own, and those that can't be anybody's.
#[test]
fn pools_of_addresses_that_are_no_pool_s() {
    let kind = |address: IpAddr| match address.to_string().as_str() {
        "192.0.2.254" | "2001:db8::fe" => AddressKind::Port,
        "192.0.2.253" => AddressKind::Own,
        "192.0.2.255" => AddressKind::Broadcast,
        "2001:db8::" => AddressKind::RouterAnycast,
        _ => AddressKind::Other,
    };
    let mut store = Store::new(FakePlane { kinds: Box::new(kind), ..FakePlane::default() });
    for (pool, why) in [
        ("192.0.2.250-192.0.2.254", "192.0.2.253 is the gateway's own address: use --pool port"),
        ("192.0.2.254", "192.0.2.254 is the gateway's own address: use --pool port"),
        ("192.0.2.1,192.0.2.255", "192.0.2.255 isn't a unicast address"),
        ("224.0.0.1", "224.0.0.1 isn't a unicast address"),
        ("127.0.0.2", "127.0.0.2 is a loopback address"),
        ("0.0.0.0", "0.0.0.0 isn't a unicast address"),
        ("192.0.2.1-192.0.2.4,192.0.2.3", "192.0.2.3 is in the pool twice"),
        ("192.0.2.1,192.0.2.1", "192.0.2.1 is in the pool twice"),
    ] {
        let told =
            restore(&mut store, &format!("snat add one --inside 10.9.0.0/16 --port wan --pool {pool}\n"));
        assert!(told.contains(why), "{pool}: {told}");
    }
    for (pool, why) in [
        ("2001:db8::fe", "is the gateway's own address"),
        ("fe80::5", "isn't a unicast address"),
        ("::1", "is a loopback address"),
        ("ff02::1", "isn't a unicast address"),
        ("2001:db8::1,2001:db8::", "2001:db8:: is the subnet-router anycast address of a port's network"),
        ("2001:db8::1-2001:db8::4,2001:db8::4", "2001:db8::4 is in the pool twice"),
    ] {
        let told =
            restore(&mut store, &format!("snat add one --inside fd00::/16 --port wan --pool {pool}\n"));
        assert!(told.contains(why), "{pool}: {told}");
    }
}

/// What a batch takes away is free for what it adds, in whatever order.
#[test]
fn addresses_change_hands_in_one_batch() {
    let swap = "\
-A -f 1
-P -f 1 -z 192.0.2.5
-A -t 192.0.2.6:80
snat add one --inside 10.9.0.0/16 --port wan --pool 192.0.2.7
-P -f 1 -z 192.0.2.6
-D -t 192.0.2.6:80
-A -t 192.0.2.5:80
-Q -f 1 -z 192.0.2.5
-A -t 192.0.2.7:80
snat delete one
snat add one --inside 10.9.0.0/16 --port wan --pool 192.0.2.8
";
    let rules = RulesFile::parse(Path::new("rules"), swap.as_bytes()).unwrap();
    let mut store = Store::new(FakePlane::default());
    rules.apply(&mut store).unwrap();
    // The store knows what is used now.
    for (rule, free) in [
        ("-A -t 192.0.2.6:81", false),
        ("-A -t 192.0.2.8:81", false),
        ("-P -f 1 -z 192.0.2.7", false),
        ("-A -t 192.0.2.9:81", true),
        ("-P -f 1 -z 192.0.2.10", true),
    ] {
        assert_eq!(restore(&mut store, &format!("{rule}\n")).is_empty(), free, "{rule}");
    }
}

/// Whether or not a service uses them.
#[test]
fn default_local_addresses() {
    for v6 in [false, true] {
        let address = if v6 { "2001:db8::5" } else { "192.0.2.5" };
        let defaults = || ServiceDefaults {
            local_addresses: [address.parse().unwrap()].into(),
            ..ServiceDefaults::default()
        };
        for other in USES {
            let text = of_family(other.rules, v6);
            let rules = RulesFile::parse(Path::new("rules"), text.as_bytes()).unwrap();
            let checked = rules.check(&["wan".into()], [], defaults()).map_err(|e| e.to_string());
            let store = || Store::new(FakePlane::default()).with_defaults(defaults());
            assert_eq!(rules.apply(&mut store()).map_err(|e| e.to_string()), checked, "{text}");
            let told = restore(&mut store(), &text);
            if other.rules.contains("-P ") {
                assert_eq!((checked, told.as_str()), (Ok(()), ""), "{text}: several services may have it");
                continue;
            }
            let why = format!("{address} is a default local address");
            let checked = checked.unwrap_err();
            assert!(checked.starts_with(&format!("rules:{}: ", text.lines().count())), "{text}: {checked}");
            assert!(checked.ends_with(&why) && told.ends_with(&why), "{text}: {checked}, {told}");
        }
    }
}
