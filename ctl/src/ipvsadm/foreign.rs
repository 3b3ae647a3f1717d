//! Rules that were saved from DPVS or LVS FULLNAT, whose ipvsadm have options of their own.
//!
//! What such an option asks for and Weir has, is taken; what Weir hasn't is named, and as much of its line is
//! taken as means the same without. The options are looked for only in lines that ipvsadm 1.31 refuses.
//! Sources: DPVS 1.9 and 1.10 (tools/ipvsadm/ipvsadm.c), LVS FULLNAT (tools/ipvsadm/ipvsadm.c).

/// What a line becomes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Translated {
    /// The line as ipvsadm 1.31 with weir's extensions takes it; absent if nothing of it can be.
    pub words: Option<Vec<String>>,
    /// What was left out, a text each.
    pub left_out: Vec<String>,
}

/// What is done about an option.
enum Treatment {
    /// It means what is so anyway.
    Meant,
    /// It is written otherwise here.
    Written(Vec<String>),
    /// It is left out, and this is said.
    Out(&'static str),
    /// The whole line is left out, and this is said.
    Line(&'static str),
}

/// How many words belong to an option.
const ALONE: usize = 1;
const WITH_VALUE: usize = 2;

/// Whether a line that means something else there could be taken for one of ipvsadm's.
pub(super) fn passes_for_ipvsadm(words: &[String]) -> bool {
    words.iter().any(|word| word == "conhash")
}

/// Options with which a line can only have been written for DPVS or LVS FULLNAT.
///
/// `None` if the line has none of them.
pub(super) fn translate(words: &[String]) -> Option<Translated> {
    let of_service = matches!(words.first()?.as_str(), "-A" | "-E" | "--add-service" | "--edit-service");
    let (mut kept, mut left_out, mut whole, mut any) = (Vec::new(), Vec::new(), true, false);
    let mut rest = words;
    while let Some(word) = rest.first() {
        let value = rest.get(1).map_or("", String::as_str);
        let (name, attached) = match word.split_once('=') {
            Some((name, value)) if name.starts_with("--") => (name, Some(value)),
            _ => (word.as_str(), None),
        };
        let found = fate(name, attached.unwrap_or(value), of_service);
        let Some((fate, length)) = found else {
            kept.push(word.clone());
            rest = &rest[1..];
            continue;
        };
        any = true;
        let length = if attached.is_some() { ALONE } else { length.min(rest.len()) };
        let written = rest[..length].join(" ");
        match fate {
            Treatment::Meant => {}
            Treatment::Written(words) => kept.extend(words),
            Treatment::Out(what) => left_out.push(format!("`{written}': {what}")),
            Treatment::Line(what) => {
                left_out.push(format!("`{written}': {what}; the line is left out"));
                whole = false;
            }
        }
        rest = &rest[length..];
    }
    any.then(|| Translated { words: whole.then_some(kept), left_out })
}

fn fate(name: &str, value: &str, of_service: bool) -> Option<(Treatment, usize)> {
    let number = !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit());
    let fate = match name {
        "-j" | "--synproxy" => match value {
            "disable" | "off" => Treatment::Meant,
            "enable" | "on" => Treatment::Out("weir has no SYN proxy"),
            _ => return None,
        },
        "-V" | "--vsestablish-timeout" if of_service && number => {
            Treatment::Out("weir's time-outs are the gateway's (--set), not a service's")
        }
        "--conn-timeout" => Treatment::Out("weir's time-outs are the gateway's (--set), not a service's"),
        "--dest-check" => Treatment::Out("weir doesn't check servers: leave that to keepalived"),
        "--proxy-protocol" => match value {
            "disable" => Treatment::Meant,
            _ => Treatment::Out("use weirctl client-address SERVICE proxy-v1 or proxy-v2"),
        },
        "--hash-target" => Treatment::Out("conhash's hash target; mh hashes the client's address"),
        "--cpu" | "--sockpair" => return None,
        "-s" | "--scheduler" if of_service && value == "conhash" => {
            Treatment::Line("weir has no scheduler conhash; mh is the consistent hash that the kernel has")
        }
        "--laddr" => Treatment::Written(vec!["-z".into(), value.into()]),
        "-H" | "--match" => Treatment::Line("weir has SNAT rules instead of match services: weirctl snat"),
        "-q" | "--icmp-service" | "-1" | "--icmpv6-service" => {
            Treatment::Line("weir has no services for ICMP: the kernel answers it")
        }
        "-k" | "--blklst" => Treatment::Line("weir has no deny list: use the firewall's"),
        "-2" | "--whtlst" => Treatment::Line("weir has no allow list: use the firewall's"),
        _ => return alone(name, of_service),
    };
    Some((fate, WITH_VALUE))
}

/// Options without a value, and LVS FULLNAT's words without dashes.
fn alone(name: &str, of_service: bool) -> Option<(Treatment, usize)> {
    let fate = match name {
        "--expire-quiescent" => {
            Treatment::Out("weir sets it for all services: [ipvs] expire_quiescent_template in weir.toml")
        }
        "--quic" => Treatment::Out("weir doesn't support QUIC connection IDs"),
        "-J" | "--snat" => Treatment::Line("weir has SNAT rules instead: weirctl snat"),
        // As these two save one-packet scheduling and persistence engines.
        "ops" if of_service => Treatment::Written(vec!["-o".into()]),
        "pe" if of_service => Treatment::Written(vec!["--pe".into()]),
        _ => return None,
    };
    Some((fate, ALONE))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn translated(line: &str) -> Option<(Option<String>, Vec<String>)> {
        let words: Vec<String> = line.split(' ').map(Into::into).collect();
        translate(&words).map(|t| (t.words.map(|w| w.join(" ")), t.left_out))
    }

    #[test]
    fn lines_of_ipvsadm_are_left_alone() {
        for line in [
            "-A -t 192.0.2.10:80 -s wlc -p 60",
            "-A -t 192.0.2.10:80 -j",
            "-A -t 192.0.2.10:80 -j maybe",
            "-a -t 192.0.2.10:80 -r 10.0.0.1 -b -w 1",
            "-a -t 192.0.2.10:80 -r ops -V 3",
        ] {
            assert_eq!(translated(line), None, "{line}");
        }
    }

    #[test]
    fn what_means_the_same_is_taken() {
        let line = "-A -t 192.0.2.10:80 -s wrr -p 60 pe sip ops -j disable";
        let taken = "-A -t 192.0.2.10:80 -s wrr -p 60 --pe sip -o";
        assert_eq!(translated(line), Some((Some(taken.into()), vec![])));
        let line = "-P -t 192.0.2.10:80 --laddr=10.0.0.4 -F dpdk0";
        let taken = "-P -t 192.0.2.10:80 -z 10.0.0.4 -F dpdk0";
        assert_eq!(translated(line), Some((Some(taken.into()), vec![])));
    }

    #[test]
    fn what_is_missing_is_named() {
        let (taken, out) = translated("-A -t 192.0.2.10:80 -s wrr -j enable -V 90 --quic").unwrap();
        assert_eq!(taken.as_deref(), Some("-A -t 192.0.2.10:80 -s wrr"));
        assert_eq!(out.len(), 3);
        assert_eq!(out[0], "`-j enable': weir has no SYN proxy");
        assert!(out[1].starts_with("`-V 90': weir's time-outs"));
        for line in [
            "-A -H proto=tcp,src-range=10.0.0.0-10.0.0.9 -s rr",
            "-a -t 192.0.2.10:80 -r 10.0.0.1:80 -J -w 1",
            "-A -q 192.0.2.10 -s rr",
            "-A -t 192.0.2.10:80 -s conhash",
            "-U -t 192.0.2.10:80 -k 10.9.9.9",
        ] {
            let (taken, out) = translated(line).unwrap();
            assert_eq!((taken, out.len()), (None, 1), "{line}");
            assert!(out[0].ends_with("the line is left out"), "{out:?}");
        }
    }
}
