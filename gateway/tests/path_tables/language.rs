//! The language itself: what holds, and what must fail, and how.

use libtest_mimic::Trial;

use crate::table;

/// A service whose requests leave as they come, but for addresses and ports.
const SERVICE: &str = "weirctl -A -t 192.0.2.10:80 -s rr
weirctl -P -t 192.0.2.10:80 -z 10.0.0.240
weirctl -a -t 192.0.2.10:80 -r 10.0.0.1:8080 -b
weirctl -A -u 192.0.2.10:53 -s rr
weirctl -P -u 192.0.2.10:53 -z 10.0.0.240
weirctl -a -u 192.0.2.10:53 -r 10.0.0.1:5353 -b
weirctl -A -u [2001:db8:c::10]:53 -s rr
weirctl -a -u [2001:db8:c::10]:53 -r 2001:db8:1::1 -m
";

/// Lines that don't hold behind [`SERVICE`], and the message about the last, without what it begins with.
const FAILING: &[(&str, &[&str], &str)] = &[
    ("an_unknown_word", &["> wan tcp 10.1.0.1:4000 192.0.2.10:80 S colour=red"], "no attribute colour=red"),
    ("an_unknown_line", &["receive wan"], "no line begins with receive"),
    ("an_unknown_port", &["> dmz tcp 10.1.0.1:4000 192.0.2.10:80 S"], "dmz is no port"),
    ("an_unknown_kind", &["> wan tpc 10.1.0.1:4000 192.0.2.10:80 S"], "there is no tpc"),
    ("an_unknown_name", &["> wan tcp 10.1.0.1:$p 192.0.2.10:80 S"], "10.1.0.1:$p isn't known yet"),
    ("no_flags", &["> wan tcp 10.1.0.1:4000 192.0.2.10:80"], "TCP needs flags"),
    ("two_values", &["> wan tcp 10.1.0.1:4000 192.0.2.10:80 S seq=1 seq=2"], "seq=1 and seq=2"),
    ("a_number_too_high", &["> wan tcp 10.1.0.1:4000 192.0.2.10:80 S ttl=256"], "ttl=256 isn't a number"),
    ("odd_hex", &["> wan udp 10.1.0.1:4000 192.0.2.10:53 hex=abc"], "abc isn't bytes in hex"),
    ("text_without_end", &["> wan udp 10.1.0.1:4000 192.0.2.10:53 data=\"abc"], "has no end"),
    (
        "another_checksum",
        &["> wan udp 10.1.0.1:4000 192.0.2.10:53 spoiled=tcp"],
        "udp has no checksum of tcp",
    ),
    ("an_unknown_counter", &["counter no-such 0"], "there is no counter no-such"),
    (
        "an_unknown_drop",
        &["> wan udp 10.1.0.1:4 192.0.2.10:54", "drop no-such"],
        "there is no counter no-such",
    ),
    ("a_negative_wait", &["wait -1"], "-1 isn't a number of seconds"),
    ("a_wrong_count", &["counter forwarded 1"], "expected: forwarded 1\n  got:      0"),
    (
        "a_drop_that_was_none",
        &["> wan udp 127.0.0.1:4 192.0.2.10:53", "drop bad-fragment"],
        "expected: bad-fragment moved by 1..=1\n  got:      [(\"martian\", 1)",
    ),
    (
        "too_few_drops",
        &["> wan udp 127.0.0.1:4 192.0.2.10:53 x 3", "drop martian 4"],
        "expected: martian moved by 4..=4\n  got:      [(\"martian\", 3)",
    ),
    (
        "sessions",
        &["> wan udp 10.1.0.1:4 192.0.2.10:53", "left 1", "sessions 2"],
        "expected: 2\n  got:      1",
    ),
    (
        "nothing_left",
        &["> wan udp 127.0.0.1:4 192.0.2.10:53", "< lan udp 10.0.0.240:$p 10.0.0.1:5353"],
        "got:      nothing; counted were [(\"martian\", 1)",
    ),
    (
        "left_as_well",
        &["> wan udp 10.1.0.1:4 192.0.2.10:53", "> wan udp 10.1.0.1:4 192.0.2.10:53"],
        "left as well, 1 in all: lan udp 10.0.0.240:",
    ),
    ("too_many_left", &["> wan udp 10.1.0.1:4 192.0.2.10:53 x 3", "left 2"], "expected: 2\n  got:      3"),
    (
        "not_punted",
        &["> wan udp 10.1.0.1:4 192.0.2.10:53", "left 1", "punted"],
        "expected: punted: 1..=1\n  got:      0",
    ),
    (
        "the_wrong_one_of_many",
        &["> wan udp 10.1.0.1:7 192.0.2.10:53 x 3", "< lan udp 10.0.0.240:$p 10.0.0.1:5353 id=0+ x 3"],
        "number 1: expected: lan udp",
    ),
];

/// What a packet that arrives has, and what one that leaves must then not be said to have.
const TOLD_APART: &[(&str, &str, &str)] = &[
    ("ttl", "tcp S ttl=9", "ttl=9"),
    ("tos", "tcp S tos=16", "tos=17"),
    ("flags", "tcp S", "SA"),
    ("ecn_flags", "tcp SEW", "S"),
    ("seq", "tcp S seq=7", "seq=8"),
    ("ack", "tcp S ack=7", "ack=8"),
    ("window", "tcp S window=7", "window=8"),
    ("urgent", "tcp SU urgent=7", "urgent=8"),
    ("mss", "tcp S mss=1400", "mss=1401"),
    ("sack", "tcp S sack=1-2,3-4", "sack=1-2"),
    ("option", "tcp S option=30:abcd", "option=30:abce"),
    ("no_option", "tcp S option=30:abcd", "!option=30"),
    ("df", "tcp S df", "!df"),
    ("len", "udp len=3", "len=4"),
    ("data", "udp data=\"a b|c\"", "data=\"a b|d\""),
    ("hex", "udp hex=00ff", "hex=00fe"),
    ("udp_checksum", "udp", "unchecked"),
    ("spoiled_though_right", "udp", "spoiled"),
    ("right_though_spoiled", "udp spoiled", "len=0"),
    ("tcp_right_though_spoiled", "tcp S spoiled=tcp", "S"),
    ("ip_checksum", "udp", "spoiled=ip"),
    ("ip_option", "udp ip-option=148:0000", "ip-option=148:0001"),
    ("vlan", "udp", "vlan=3"),
    ("broadcast", "udp", "broadcast"),
    ("multicast", "udp", "multicast"),
    ("hop_by_hop", "udp6 hop-by-hop", "!hop-by-hop"),
    ("destination_options", "udp6 destination-options=01040000", "destination-options=050200000100"),
    ("flow", "udp6 flow=7", "flow=8"),
];

/// The tests.
pub fn trials() -> Vec<Trial> {
    let holds = Trial::test("language::holds", || {
        Ok(table::run(
            "language.table",
            &include_str!("language.table").replace("SERVICE\n", SERVICE),
            false,
        )?)
    });
    let failing = FAILING.iter().map(|&(name, lines, message)| {
        Trial::test(format!("language::fails::{name}"), move || Ok(fails(lines, message)?))
    });
    let apart = TOLD_APART.iter().map(|&(name, arrives, not)| {
        Trial::test(format!("language::tells_apart::{name}"), move || Ok(tells_apart(arrives, not)?))
    });
    let later = Trial::test("language::later_gateways_run", || {
        let text = "table\nwait x\nwait y\ntable\nwait z\ntable\nwait 0\n";
        let wrong = table::run("f", text, false).err().unwrap_or_default();
        let due = "f:2: wait x\n  x isn't a number of seconds\nf:5: wait z\n  z isn't a number of seconds";
        Ok(same(&wrong, due)?)
    });
    [holds, later].into_iter().chain(failing).chain(apart).collect()
}

fn same(got: &str, due: &str) -> Result<(), String> {
    if got == due { Ok(()) } else { Err(format!("{got}\n  instead of\n{due}")) }
}

fn fails(lines: &[&str], message: &str) -> Result<(), String> {
    let text = format!("{SERVICE}{}\n", lines.join("\n"));
    let error = table::run("some.table", &text, false).err().ok_or("it passes")?;
    let line = SERVICE.lines().count() + lines.len();
    let begins = format!("some.table:{line}: {}", lines.last().unwrap_or(&""));
    if error.starts_with(&begins) && error.contains(message) { Ok(()) } else { Err(error) }
}

fn tells_apart(arrives: &str, not: &str) -> Result<(), String> {
    let (kind, attributes) = arrives.split_once(' ').unwrap_or((arrives, ""));
    let (ends, leaves) = match kind {
        "tcp" => ("10.1.0.1:4000 192.0.2.10:80", "lan tcp 10.0.0.240:$p 10.0.0.1:8080"),
        "udp" => ("10.1.0.1:4000 192.0.2.10:53", "lan udp 10.0.0.240:$p 10.0.0.1:5353"),
        _ => {
            ("[2001:db8:c::c1]:4000 [2001:db8:c::10]:53", "lan udp [2001:db8:c::c1]:4000 [2001:db8:1::1]:53")
        }
    };
    let kind = kind.trim_end_matches('6');
    // What is there is seen,
    let own = attributes.replace("ttl=9", "ttl=8").replace("spoiled=tcp", "spoiled");
    let arrives = format!("> wan {kind} {ends} {attributes}");
    table::run("right", &format!("{SERVICE}{arrives}\n< {leaves} {own}\n"), false)?;
    // and what isn't is missed.
    let line = format!("< {leaves} {not}");
    let error =
        table::run("wrong", &format!("{SERVICE}{arrives}\n{line}\n"), false).err().ok_or("it passes")?;
    let begins = format!("wrong:{}: {line}\n  expected: {leaves} ", SERVICE.lines().count() + 2);
    let got = format!("\n  got:      {}", leaves.split('$').next().unwrap_or_default());
    if error.starts_with(&begins) && error.contains(&got) { Ok(()) } else { Err(error) }
}
