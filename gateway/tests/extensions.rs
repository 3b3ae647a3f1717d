//! What weir's ipvsadm understands besides: FULLNAT, local addresses and `-m` for either method, with the front straight on a
//! store.

mod fake;

use std::ffi::OsString;

use fake::FakePlane;
use weir::control::store::{ServiceDefaults, Store};
use weir_api::{ipvsadm::names::SystemNames, model::Masquerade};
use weirctl::ipvsadm::{Environment, ipvsadm};

/// One call of `ipvsadm`: status, stdout, stderr.
fn call(store: &mut Store<FakePlane>, line: &str, stdin: &str) -> (i32, String, String) {
    call_as("ipvsadm", store, line, stdin)
}

fn call_as(name: &str, store: &mut Store<FakePlane>, line: &str, stdin: &str) -> (i32, String, String) {
    let args: Vec<OsString> = [name].into_iter().chain(line.split_whitespace()).map(Into::into).collect();
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let environment = Environment { names: &SystemNames, own: name == "weirctl" };
    let status = ipvsadm(&args, &mut stdin.as_bytes(), store, &mut out, &mut err, &environment);
    (status, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
}

fn store(lines: &[&str]) -> Store<FakePlane> {
    store_with(Masquerade::Nat, lines)
}

fn store_with(masquerade: Masquerade, lines: &[&str]) -> Store<FakePlane> {
    let defaults = ServiceDefaults { masquerade, ..ServiceDefaults::default() };
    let mut store = Store::new(FakePlane::default()).with_defaults(defaults);
    for line in lines {
        assert_eq!(call(&mut store, line, ""), (0, String::new(), String::new()), "{line}");
    }
    store
}

const FULLNAT: [&str; 5] = [
    "-A -t 192.0.2.10:80 -s wlc",
    "-P -t 192.0.2.10:80 -z 10.0.0.4",
    "--add-laddr --tcp-service 192.0.2.10:80 --local-address 10.0.0.5 --ifname wan",
    "-a -t 192.0.2.10:80 -r 10.0.0.1:8080 --fullnat -w 3",
    "-a -t 192.0.2.10:80 -r 10.0.0.2 -b -w 4 -x 9",
];

#[test]
fn fullnat_is_listed_in_the_columns_of_the_others() {
    let mut store = store(&FULLNAT);
    let (status, out, _) = call(&mut store, "-Ln -t 192.0.2.10:80", "");
    let expected = "\
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port           Forward Weight ActiveConn InActConn
TCP  192.0.2.10:80 wlc
  -> 10.0.0.1:8080                FullNat 3      0          0         
  -> 10.0.0.2:80                  FullNat 4      0          0         
";
    assert_eq!((status, out.as_str()), (0, expected));
}

#[test]
fn what_is_saved_can_be_restored() {
    let mut first = store(&FULLNAT);
    let (status, rules, _) = call(&mut first, "-S -n", "");
    let expected = "\
-A -t 192.0.2.10:80 -s wlc
-P -t 192.0.2.10:80 -z 10.0.0.4
-P -t 192.0.2.10:80 -z 10.0.0.5 -F wan
-a -t 192.0.2.10:80 -r 10.0.0.1:8080 -b -w 3
-a -t 192.0.2.10:80 -r 10.0.0.2:80 -b -w 4
";
    assert_eq!((status, rules.as_str()), (0, expected));
    let mut second = store(&[]);
    assert_eq!(call(&mut second, "-R", &rules), (0, String::new(), String::new()));
    assert_eq!(call(&mut second, "-S -n", "").1, rules);
}

#[test]
fn local_addresses_come_and_go() {
    let mut store = store(&FULLNAT);
    let listed = |store: &mut Store<FakePlane>| call(store, "-G -t 192.0.2.10:80 -n", "").1;
    let expected = "\
VIP:VPORT                      TOTAL    SNAT_IP
192.0.2.10:80                  2        
                                        10.0.0.4
                                        10.0.0.5
";
    assert_eq!(listed(&mut store), expected);
    for (line, status, message) in [
        ("-P -t 192.0.2.10:80 -z 10.0.0.4", 255, "Local address already exists\n"),
        ("-Q -t 192.0.2.10:80 -z 10.0.0.9", 255, "No such local address\n"),
        ("-P -t 192.0.2.11:80 -z 10.0.0.9", 255, "No such service\n"),
        ("-P -t 192.0.2.10:80 -z 10.0.0.9 -F lan", 255, "No such device\n"),
        ("-P -t 192.0.2.10:80 -z nowhere", 2, "illegal local address `nowhere' specified\n"),
        (
            "-P -t 192.0.2.10:80",
            2,
            "You need to supply the 'local-address' option for the 'add-laddr' command\n",
        ),
        ("-G -t 192.0.2.11:80", 1, "No such service\n"),
        ("-Q -t 192.0.2.10:80 -z 10.0.0.4", 0, ""),
    ] {
        let (got, _, err) = call(&mut store, line, "");
        assert_eq!((got, err.as_str()), (status, message), "{line}");
    }
    assert!(!listed(&mut store).contains("10.0.0.4"));
}

#[test]
fn elsewhere_the_letters_mean_what_they_meant() {
    let help = "Try `ipvsadm -h' or 'ipvsadm --help' for more information.\n";
    let mut store = store(&FULLNAT[..1]);
    for (line, status, message) in [
        ("-P", 255, help),
        ("-Q -z 10.0.0.4", 255, help),
        ("-L -G", 255, "-G: unknown option\n"),
        ("-A -t 192.0.2.11:80 -z 10.0.0.4", 255, "-z: unknown option\n"),
        ("-A -t 192.0.2.11:80 --fullnat", 255, "--fullnat: unknown option\n"),
        ("-A -t 192.0.2.11:80 -b", 255, "-b: missing argument\n"),
        (
            "-a -t 192.0.2.10:80 -r 10.0.0.1 -b flag-1",
            2,
            "Illegal 'sched-flags' option with the 'add-server' command\n",
        ),
        ("-a -t 192.0.2.10:80 -r 10.0.0.1 -b -m", 2, "multiple 'forwarding-method' options specified\n"),
    ] {
        let (got, _, err) = call(&mut store, line, "");
        assert_eq!((got, err.as_str()), (status, message), "{line}");
    }
}

#[test]
fn sessions_are_listed_page_by_page() {
    let mut store = store(&[]);
    store.plane_mut().sessions = 3000;
    let (status, out, _) = call(&mut store, "-Lnc", "");
    assert_eq!((status, out.lines().count()), (0, 3002));
    assert_eq!(
        out.lines().nth(2),
        Some("TCP 15:00  ESTABLISHED 10.1.0.0:40000     192.0.2.10:80      10.0.0.1:80")
    );
}

#[test]
fn rules_of_dpvs_are_taken_as_far_as_they_go() {
    let rules = "\
-A -t 192.0.2.10:80 -s wrr -p 60 pe sip -j disable
-A -t 192.0.2.11:80 -s wlc -j enable -V 90
-P -t 192.0.2.11:80 --laddr 10.0.0.4 -F wan
-a -t 192.0.2.11:80 -r 10.0.0.1:8080 -b -w 3
-A -H proto=tcp,src-range=10.0.0.0-10.0.0.9 -s rr
-a -H proto=tcp,src-range=10.0.0.0-10.0.0.9 -r 192.0.2.99:0 -J -w 100
-A -t 192.0.2.12:80 -s conhash
-A -u 192.0.2.12:53 -s rr ops
";
    let mut store = store(&[]);
    let (status, out, err) = call(&mut store, "-R", rules);
    let lines: Vec<&str> = err.lines().collect();
    assert_eq!((status, out.as_str(), lines.len()), (255, "", 6), "{err}");
    for (line, begin) in lines.iter().zip([
        "line 2: `-j enable': weir has no SYN proxy",
        "line 2: `-V 90': weir's time-outs",
        "line 5: `-H proto=tcp,src-range=10.0.0.0-10.0.0.9': weir has SNAT rules instead",
        "line 6: `-H proto=",
        "line 6: `-J': weir has SNAT rules instead",
        "line 7: `-s conhash': weir has no scheduler conhash; mh",
    ]) {
        assert!(line.starts_with(begin), "{line}");
    }
    let taken = "\
-A -t 192.0.2.10:80 -s wrr -p 60 --pe sip
-A -t 192.0.2.11:80 -s wlc
-P -t 192.0.2.11:80 -z 10.0.0.4 -F wan
-a -t 192.0.2.11:80 -r 10.0.0.1:8080 -b -w 3
-A -u 192.0.2.12:53 -s rr -o
";
    assert_eq!(call(&mut store, "-Sn", "").1, taken);
}

#[test]
fn only_weirctl_knows_lines_of_words() {
    let rules = "# saved\nmark add 7 --destination 192.0.2.0/24\n-A -f 7\n# end of 2 rules\n";
    let mut own = store(&[]);
    assert_eq!(call_as("weirctl", &mut own, "-R", rules), (0, String::new(), String::new()));
    let saved = call_as("weirctl", &mut own, "-S", "").1;
    assert_eq!(saved, "-A -f 7 -s wlc\nmark add 7 --destination 192.0.2.0/24\n# end of 2 rules\n");
    assert_eq!(call(&mut own, "-S", "").1, "-A -f 7 -s wlc\n");
    let (status, _, err) = call_as("weirctl", &mut own, "-R", "\nmark add 0\n# end of 1 rule\n");
    assert_eq!((status, err.as_str()), (255, "line 2: `0' isn't a value for mark\n"));
    // Each error names its line, and rules that were cut are noticed; they are taken as far as they go.
    let cut = "-A -f 7\n-a -f 8 -r 10.0.0.1 -m\n\n-A -f 9 -s nosuch\n-A -f 9";
    let (status, _, err) = call_as("weirctl", &mut own, "-R", cut);
    let lines: Vec<&str> = err.lines().collect();
    // The status is the first error's.
    assert_eq!((status, lines.len()), (255, 5), "{err}");
    for (line, begin) in lines.iter().zip([
        "line 1: ",
        "line 2: ",
        "line 4: ",
        "warning: no rule",
        "warning: the rules don't end",
    ]) {
        assert!(line.starts_with(begin), "{line}");
    }
    // Whatever is wrong with a line, those after it are taken, but under ipvsadm's names as ipvsadm does.
    let wrong = "-A -t 192.0.2.10:99999\nfoo\n-X\n-A -t 192.0.2.10:80\nsnat add\n-A -t 192.0.2.10:81\n# end of 6 rules\n";
    let mut own = store(&[]);
    let (status, _, err) = call_as("weirctl", &mut own, "-R", wrong);
    let told: Vec<&str> = err.lines().filter_map(|line| line.split(": ").next()).collect();
    assert_eq!((status, told), (2, vec!["line 1", "line 2", "line 3", "line 5"]), "{err}");
    let saved = call_as("weirctl", &mut own, "-S", "").1;
    assert!(saved.ends_with("192.0.2.10:81 -s wlc\n# end of 2 rules\n"), "{saved}");
    let mut as_ipvsadm = store(&[]);
    assert_eq!(call(&mut as_ipvsadm, "-R", wrong).0, 2);
    assert_eq!(call(&mut as_ipvsadm, "-S", "").1, "");
    let (status, _, err) = call(&mut store(&[]), "-R", rules);
    assert_eq!((status, err.as_str()), (255, "Try `ipvsadm -h' or 'ipvsadm --help' for more information.\n"));
}

/// Servers as a program of this name lists them: address and method.
fn forward(name: &str, store: &mut Store<FakePlane>) -> Vec<String> {
    let (status, out, err) = call_as(name, store, "-L -n", "");
    assert_eq!((status, err.as_str()), (0, ""));
    let rows =
        out.lines().filter_map(|line| line.strip_prefix("  -> ").filter(|row| !row.starts_with("Remote")));
    rows.map(|row| row.split_whitespace().take(2).collect::<Vec<_>>().join(" ")).collect()
}

const MASQUERADED: [&str; 4] = [
    "-A -t 192.0.2.10:80 -s wlc",
    "-a -t 192.0.2.10:80 -r 10.0.0.1:8080 -m -w 3 -x 9",
    "-a -t 192.0.2.10:80 -r 10.0.0.2:80 -g",
    "--add-server --tcp-service 192.0.2.10:80 --real-server 10.0.0.3:80 --masquerading",
];

#[test]
fn masquerading_is_fullnat_where_the_gateway_says_so() {
    let mut store = store_with(Masquerade::FullNat, &MASQUERADED);
    assert_eq!(
        forward("ipvsadm", &mut store),
        ["10.0.0.1:8080 Masq", "10.0.0.2:80 Route", "10.0.0.3:80 Masq"]
    );
    let own = ["10.0.0.1:8080 FullNat", "10.0.0.2:80 Route", "10.0.0.3:80 FullNat"];
    assert_eq!(forward("weirctl", &mut store), own);
    let (_, rules, _) = call(&mut store, "-S -n", "");
    let saved = "\
-A -t 192.0.2.10:80 -s wlc
-a -t 192.0.2.10:80 -r 10.0.0.1:8080 -m -w 3
-a -t 192.0.2.10:80 -r 10.0.0.2:80 -g -w 1
-a -t 192.0.2.10:80 -r 10.0.0.3:80 -m -w 1
";
    assert_eq!(rules, saved);
    let mut second = store_with(Masquerade::FullNat, &[]);
    assert_eq!(call(&mut second, "-R", &rules), (0, String::new(), String::new()));
    assert_eq!(forward("weirctl", &mut second), own);
    // Nor does IPVS know it otherwise.
    let mut ipvs = crate::store(&[]);
    assert_eq!(call(&mut ipvs, "-R", &rules).0, 0);
    assert_eq!(
        forward("weirctl", &mut ipvs),
        ["10.0.0.1:8080 Masq", "10.0.0.2:80 Route", "10.0.0.3:80 Masq"]
    );
    let (_, rules, _) = call_as("weirctl", &mut store, "-S -n", "");
    assert!(rules.contains("-r 10.0.0.1:8080 -b -w 3 -x 9"), "{rules}");
}

#[test]
fn masquerading_is_nat_otherwise() {
    let mut store = store(&MASQUERADED);
    for name in ["ipvsadm", "weirctl"] {
        let expected = ["10.0.0.1:8080 Masq", "10.0.0.2:80 Route", "10.0.0.3:80 Masq"];
        assert_eq!(forward(name, &mut store), expected);
    }
    let (_, rules, _) = call_as("weirctl", &mut store, "-S -n", "");
    assert!(rules.contains("-r 10.0.0.1:8080 -m -w 3 -x 9") && !rules.contains("--nat"), "{rules}");
}

#[test]
fn both_families_marks_and_persistent_services_masquerade_alike() {
    let mut store = store_with(
        Masquerade::FullNat,
        &[
            "-A -t [2001:db8::10]:80 -p 60",
            "-a -t [2001:db8::10]:80 -r [2001:db8:1::1]:8080 -m",
            "-A -u 192.0.2.10:53 -o",
            "-a -u 192.0.2.10:53 -r 10.0.0.1:5353 -m",
            "-A -f 7 -6",
            "-a -f 7 -6 -r [2001:db8:1::2]:81 -m",
        ],
    );
    let mut methods = forward("weirctl", &mut store);
    methods.sort();
    let all = ["10.0.0.1:5353 FullNat", "[2001:db8:1::1]:8080 FullNat", "[2001:db8:1::2]:81 FullNat"];
    assert_eq!(methods, all);
    let line = "-a -t [2001:db8::10]:80 -r 10.0.0.1:80 -m";
    let (status, _, err) = call(&mut store, line, "");
    assert_eq!(
        (status, err.as_str()),
        (2, "Different address family is allowed only for tunneling servers\n")
    );
    // A server that only FULLNAT can reach is saved so that it comes back.
    assert_eq!(call(&mut store, "-a -t [2001:db8::10]:80 -r 10.0.0.1:80 --fullnat", "").0, 0);
    let (_, rules, _) = call(&mut store, "-S -n", "");
    assert!(rules.contains("-r 10.0.0.1:80 -b -w 1"), "{rules}");
    let mut second = store_with(Masquerade::FullNat, &[]);
    assert_eq!(call(&mut second, "-R", &rules), (0, String::new(), String::new()));
}

/// What ldirectord and keepalived do with a weight.
#[test]
fn an_edit_by_masquerading_keeps_nat_and_fullnat() {
    for masquerade in [Masquerade::Nat, Masquerade::FullNat] {
        for name in ["ipvsadm", "weirctl"] {
            let mut store = store_with(masquerade, &MASQUERADED[..1]);
            for line in ["-r 10.0.0.1:80 --nat", "-r 10.0.0.2:80 --fullnat"] {
                call_as("weirctl", &mut store, &format!("-a -t 192.0.2.10:80 {line}"), "");
            }
            for server in ["10.0.0.1:80", "10.0.0.2:80"] {
                let line = format!("-e -t 192.0.2.10:80 -r {server} -m -w 0");
                assert_eq!(call_as(name, &mut store, &line, ""), (0, String::new(), String::new()));
            }
            let (_, rules, _) = call_as("weirctl", &mut store, "-S -n", "");
            let nat = if masquerade == Masquerade::Nat { "-m" } else { "--nat" };
            assert!(rules.contains(&format!("-r 10.0.0.1:80 {nat} -w 0")), "{masquerade:?} {name}: {rules}");
            assert!(rules.contains("-r 10.0.0.2:80 -b -w 0"), "{masquerade:?} {name}: {rules}");
        }
    }
}

#[test]
fn a_service_may_mean_something_else_by_masquerading() {
    let mut store = store(&MASQUERADED[..1]);
    let set = "masquerade tcp/192.0.2.10:80 fullnat\n";
    assert_eq!(call_as("weirctl", &mut store, "-R", set).0, 0);
    assert_eq!(call(&mut store, "-E -t 192.0.2.10:80 -s rr", "").0, 0, "which an edit leaves alone");
    assert_eq!(call(&mut store, MASQUERADED[1], "").0, 0);
    assert_eq!(call_as("weirctl", &mut store, "-a -t 192.0.2.10:80 -r 10.0.0.2:80 --nat", "").0, 0);
    assert_eq!(forward("ipvsadm", &mut store), ["10.0.0.1:8080 Masq", "10.0.0.2:80 Masq"]);
    assert_eq!(forward("weirctl", &mut store), ["10.0.0.1:8080 FullNat", "10.0.0.2:80 Masq"]);
    let (_, rules, _) = call_as("weirctl", &mut store, "-S -n", "");
    let saved = "\
-A -t 192.0.2.10:80 -s rr
masquerade tcp/192.0.2.10:80 fullnat
-a -t 192.0.2.10:80 -r 10.0.0.1:8080 -b -w 3 -x 9
-a -t 192.0.2.10:80 -r 10.0.0.2:80 --nat -w 1
# end of 4 rules
";
    assert_eq!(rules, saved);
    // ipvsadm's names can't say whose service it is, so they say the method.
    let (_, rules, _) = call(&mut store, "-S -n", "");
    assert!(rules.contains("-r 10.0.0.1:8080 -b -w 3\n"), "{rules}");
    assert!(rules.contains("-r 10.0.0.2:80 -m -w 1\n"), "{rules}");
}

#[test]
fn ipvsadm_s_names_have_no_option_for_nat_alone() {
    for masquerade in [Masquerade::Nat, Masquerade::FullNat] {
        let mut store = store_with(masquerade, &MASQUERADED[..1]);
        let line = "-a -t 192.0.2.10:80 -r 10.0.0.1 --nat";
        assert_eq!(call(&mut store, line, ""), (255, String::new(), "--nat: unknown option\n".into()));
        let (status, _, err) = call(&mut store, "-R", "masquerade tcp/192.0.2.10:80 fullnat\n");
        assert_eq!((status, err.is_empty()), (255, false));
        assert_eq!(call_as("weirctl", &mut store, line, "").0, 0);
        let wrong = "-A -t 192.0.2.11:80 --nat";
        assert_eq!(call_as("weirctl", &mut store, wrong, "").2, "--nat: unknown option\n");
    }
}
