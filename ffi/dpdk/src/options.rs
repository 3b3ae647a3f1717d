//! EAL's options in DPDK 22.11 to 24.11 on Linux: finds errors in arguments before EAL starts.

use dpdk_sys::{RTE_VER_MONTH, RTE_VER_YEAR};

use crate::{args, device::is_pci_address, eal::EalConfig};

/// Whether an option has a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Value {
    None,
    Optional,
    Required,
}
use Value::{None as Bare, Optional, Required};

/// One-letter options with a value, and those without.
const LETTERS: (&str, &str) = ("abcdlmnrsS", "hv");

/// Long options, and whether they have values.
const LONG: [(&str, Value); 37] = [
    ("allow", Required),
    ("base-virtaddr", Required),
    ("block", Required),
    ("create-uio-dev", Bare),
    ("file-prefix", Required),
    ("force-max-simd-bitwidth", Required),
    ("help", Bare),
    ("huge-dir", Required),
    ("huge-unlink", Optional),
    ("huge-worker-stack", Optional),
    ("in-memory", Bare),
    ("iova-mode", Required),
    ("lcores", Required),
    ("legacy-mem", Bare),
    ("log-level", Required),
    ("main-lcore", Required),
    ("match-allocations", Bare),
    ("mbuf-pool-ops-name", Required),
    ("no-hpet", Bare),
    ("no-huge", Bare),
    ("no-pci", Bare),
    ("no-shconf", Bare),
    ("no-telemetry", Bare),
    ("proc-type", Required),
    ("single-file-segments", Bare),
    ("socket-limit", Required),
    ("socket-mem", Required),
    ("telemetry", Bare),
    ("trace", Required),
    ("trace-bufsz", Required),
    ("trace-dir", Required),
    ("trace-mode", Required),
    ("vdev", Required),
    ("vfio-intr", Required),
    ("vfio-vf-token", Required),
    ("vmware-tsc-map", Bare),
    ("syslog", Required),
];
/// Options that 24.11 added or changed.
const LONG_24_11: [(&str, Value); 3] =
    [("log-color", Optional), ("log-timestamp", Optional), ("syslog", Optional)];

/// The allowed values of options.
const WORDS: [(&str, &[&str]); 4] = [
    ("--iova-mode", &["pa", "va"]),
    ("--vfio-intr", &["legacy", "msi", "msix"]),
    ("--huge-unlink", &["", "existing", "always", "never"]),
    ("--proc-type", &["primary"]),
];
/// Options whose values are numbers.
const NUMBERS: [&str; 4] = ["-m", "-n", "-r", "--main-lcore"];

/// Options that EAL refuses together: with any value, or only with the value given here.
const CONTRADICTIONS: [(&[&str], &str); 13] = [
    (&["-a", "--allow"], "-b"),
    (&["-a", "--allow"], "--block"),
    (&["-c", "-l"], "--lcores"),
    (&["-c"], "-l"),
    (&["-m"], "--socket-mem"),
    (&["--no-huge"], "--socket-mem"),
    (&["--no-huge"], "--huge-unlink"),
    (&["--no-huge"], "--huge-worker-stack"),
    (&["--no-huge", "--legacy-mem"], "--match-allocations"),
    (&["--legacy-mem"], "--in-memory"),
    (&["--legacy-mem"], "--socket-limit"),
    (&["--single-file-segments"], "--huge-unlink"),
    (&["--in-memory"], "--huge-unlink=never"),
];

/// An option as given: its name with dashes, its value, and the argument's number.
struct Given<'a> {
    name: String,
    value: Option<&'a str>,
    at: usize,
}

/// Errors in the arguments of `config` that would keep EAL from starting, or be ignored: the number of the argument, if
/// one is at fault, and the reason. Numbers count `config.args` from 0. Unavailable CPUs aren't reported here.
#[must_use]
pub fn wrong_arguments(config: &EalConfig) -> Vec<(Option<usize>, String)> {
    let (given, mut wrong) = read(&config.args, (RTE_VER_YEAR, RTE_VER_MONTH));
    wrong.extend(given.iter().filter_map(|option| Some((option.at, complaint(option, config)?))));
    wrong.sort_by_key(|(at, _)| *at);
    let mut wrong: Vec<_> = wrong.into_iter().map(|(at, reason)| (Some(at), reason)).collect();
    // If no command line can be built, the reason is CPUs, not an argument.
    if wrong.is_empty()
        && let Ok(whole) = args::build(config)
    {
        wrong.extend(contradiction(&given, whole.list.get(1..).unwrap_or_default()));
    }
    wrong
}

/// The options among `args`, and whatever isn't one, as EAL of this version reads them with getopt_long(3).
fn read(args: &[String], version: (u32, u32)) -> (Vec<Given<'_>>, Vec<(usize, String)>) {
    let (mut given, mut wrong) = (Vec::new(), Vec::new());
    let mut rest = args.iter().map(String::as_str).enumerate();
    while let Some((at, arg)) = rest.next() {
        match option(arg, version) {
            Ok((name, Some(value), _)) => given.push(Given { name, value: Some(value), at }),
            Ok((name, None, Required)) => match rest.next() {
                Some((_, value)) => given.push(Given { name, value: Some(value), at }),
                None => wrong.push((at, format!("`{arg}` needs a value"))),
            },
            Ok((name, None, _)) => given.push(Given { name, value: None, at }),
            Err(reason) => wrong.push((at, reason)),
        }
    }
    (given, wrong)
}

/// An option with the value that is attached to it.
fn option(arg: &str, version: (u32, u32)) -> Result<(String, Option<&str>, Value), String> {
    if let Some(long) = arg.strip_prefix("--").filter(|long| !long.is_empty()) {
        let (name, value) = long.split_once('=').map_or((long, None), |(name, value)| (name, Some(value)));
        let kind = kind(name, version).ok_or_else(|| unknown(arg, name, version))?;
        return match (kind, value) {
            (Bare, Some(_)) => Err(format!("`--{name}` takes no value")),
            _ => Ok((format!("--{name}"), value, kind)),
        };
    }
    let letter = arg.strip_prefix('-').and_then(|letters| letters.chars().next());
    let attached = arg.get(2..).filter(|value| !value.is_empty());
    match letter {
        Some(letter) if LETTERS.0.contains(letter) => Ok((format!("-{letter}"), attached, Required)),
        Some(letter) if LETTERS.1.contains(letter) => match attached {
            Some(_) => Err(format!("`-{letter}` takes no value")),
            None => Ok((format!("-{letter}"), None, Bare)),
        },
        Some('-') => Err("`--` ends the options, and EAL ignores what follows".to_owned()),
        Some(letter) => Err(format!("`-{letter}` is no option of EAL's")),
        None => Err(format!("`{arg}` is no option, and EAL ignores it: options begin with a dash")),
    }
}

fn kind(name: &str, version: (u32, u32)) -> Option<Value> {
    let newer = LONG_24_11.iter().filter(|_| version >= (24, 11));
    newer.chain(&LONG).find(|(known, _)| *known == name).map(|(_, kind)| *kind)
}

fn unknown(arg: &str, name: &str, version: (u32, u32)) -> String {
    if let Some((word, _)) = name.split_once(char::is_whitespace)
        && kind(word, version).is_some()
    {
        return format!(
            "`{arg}` is one argument: an option and its value are two, or one with `=` between them"
        );
    }
    if LONG_24_11.iter().any(|(known, _)| *known == name) {
        return format!("`--{name}` came with DPDK 24.11, and this is {}.{}", version.0, version.1);
    }
    // getopt_long accepts unambiguous abbreviations; other readers of these arguments wouldn't.
    let longer: Vec<&str> =
        LONG.iter().map(|(known, _)| *known).filter(|known| known.starts_with(name)).collect();
    match longer.as_slice() {
        [whole] => format!("`--{name}` is short for `--{whole}`: write it out"),
        _ => format!("`--{name}` is no option of EAL's"),
    }
}

fn complaint(option: &Given<'_>, config: &EalConfig) -> Option<String> {
    let (name, value) = (option.name.as_str(), option.value.unwrap_or_default());
    if let Some((_, words)) = WORDS.iter().find(|(of, words)| *of == name && !words.contains(&value)) {
        let words: Vec<&str> = words.iter().copied().filter(|word| !word.is_empty()).collect();
        return Some(format!("`{name}`: `{value}` isn't {}", words.join(" or ")));
    }
    if NUMBERS.contains(&name)
        && !value.trim_start().parse::<u32>().is_ok_and(|n| n > 0 || name == "--main-lcore")
    {
        return Some(format!("`{name}`: `{value}` isn't a number that it takes"));
    }
    let wanted = config.cpus.workers() + 1;
    match name {
        "-c" | "-l" | "--lcores" => {
            let found = lcores(name, value)?;
            let reason = || {
                format!("`{name}`: {found} lcores, and {wanted} are needed: the main one and the workers'")
            };
            (found < wanted).then(reason)
        }
        "-h" | "--help" => Some(format!("`{name}` prints EAL's help and ends the program")),
        "--no-pci" => {
            let device = config.devices.iter().find(|device| is_pci_address(device))?;
            Some(format!("`--no-pci`: a port is the PCI device {device}"))
        }
        _ => None,
    }
}

/// The number of lcores that an option's value requests; none if it can't be determined.
fn lcores(name: &str, value: &str) -> Option<usize> {
    if name == "-c" {
        let mask = value.trim_start_matches("0x").trim_start_matches("0X");
        return u128::from_str_radix(mask, 16).ok().map(|mask| mask.count_ones() as usize);
    }
    let (mut depth, mut all, mut of_cpus) = (0, String::new(), false);
    // CPUs follow `@`, and a comma in parentheses isn't a separator.
    for c in value.chars() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            '@' => of_cpus = true,
            ',' if depth == 0 => {
                of_cpus = false;
                all.push(c);
            }
            _ if !of_cpus => all.push(c),
            _ => {}
        }
    }
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (first.trim().parse::<usize>().ok()?, last.trim().parse::<usize>().ok()?);
        Some(first.abs_diff(last) + 1)
    };
    all.split(',').map(range).sum()
}

/// Options that contradict each other; one of them may be in `whole`, the arguments that EAL will get.
fn contradiction(given: &[Given<'_>], whole: &[String]) -> Option<(Option<usize>, String)> {
    let (all, _) = read(whole, (RTE_VER_YEAR, RTE_VER_MONTH));
    let among = |list: &[Given<'_>], name: &str| {
        let (name, value) = name.split_once('=').map_or((name, None), |(name, value)| (name, Some(value)));
        list.iter().find(|o| o.name == name && (value.is_none() || o.value == value)).map(|o| o.at)
    };
    CONTRADICTIONS.iter().find_map(|(firsts, second)| {
        let first = firsts.iter().find(|first| among(&all, first).is_some())?;
        among(&all, second)?;
        let at = among(given, second).into_iter().chain(among(given, first)).max();
        let whose = match among(given, first) {
            Some(_) => "",
            None => ", which there are not enough huge pages to do without",
        };
        Some((at, format!("`{second}` can't be together with `{first}`{whose}")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eal::Cpus;

    fn wrong(args: &[&str]) -> Vec<(Option<usize>, String)> {
        wrong_for(args, "net_null0")
    }

    fn wrong_for(args: &[&str], device: &str) -> Vec<(Option<usize>, String)> {
        wrong_arguments(&EalConfig {
            name: "weir".to_owned(),
            cpus: Cpus::Floating(1),
            devices: vec![device.to_owned()],
            memory: 1 << 20,
            args: args.iter().map(ToString::to_string).collect(),
            log: None,
        })
    }

    #[test]
    fn what_eal_takes_is_taken() {
        for args in [
            &[][..],
            &["--no-huge", "-m", "256"],
            &["-m256", "--no-huge", "--log-level=lib.eal:debug", "--log-level", "pmd:info"],
            &["-v", "-n", "4", "-r2", "-d", "/nonexistent.so", "--base-virtaddr=0x100000000"],
            &["--in-memory", "--huge-unlink", "--iova-mode=va", "--telemetry", "--file-prefix", "x"],
            &["--in-memory", "--huge-worker-stack=512", "--vfio-intr", "msix", "--proc-type=primary"],
            &["-l", "0-1", "--main-lcore=0", "-a", "0000:3b:00.0"],
            &["--vdev", "net_null7"],
        ] {
            assert_eq!(wrong(args), [], "{args:?}");
        }
    }

    #[test]
    fn unknown_and_ignored_options_are_reported() {
        for (args, at, reason) in [
            (&["--no-such"][..], 0, "`--no-such` is no option of EAL's"),
            (&["-v", "-x1"], 1, "`-x` is no option of EAL's"),
            (&["-m", "64", "--telem"], 2, "`--telem` is short for `--telemetry`: write it out"),
            (&["--t"], 0, "`--t` is no option of EAL's"),
            (&["256"], 0, "`256` is no option, and EAL ignores it: options begin with a dash"),
            (&["--", "--no-huge"], 0, "`--` ends the options, and EAL ignores what follows"),
            (&["--no-huge=1"], 0, "`--no-huge` takes no value"),
            (&["-v4"], 0, "`-v` takes no value"),
            (&["-v", "-m"], 1, "`-m` needs a value"),
            (&["--file-prefix"], 0, "`--file-prefix` needs a value"),
            (
                &["--lcores 0-1"],
                0,
                "`--lcores 0-1` is one argument: an option and its value are two, or one with `=` between them",
            ),
            (&["-m", "much"], 0, "`-m`: `much` isn't a number that it takes"),
            (&["-m", "0"], 0, "`-m`: `0` isn't a number that it takes"),
            (&["--iova-mode=x"], 0, "`--iova-mode`: `x` isn't pa or va"),
            (&["--proc-type", "secondary"], 0, "`--proc-type`: `secondary` isn't primary"),
            (&["--help"], 0, "`--help` prints EAL's help and ends the program"),
        ] {
            let found = wrong(args);
            assert_eq!(found.first(), Some(&(Some(at), reason.to_owned())), "{args:?}");
        }
        assert_eq!(wrong(&["--x", "-v", "--y"]).len(), 2, "all of them");
    }

    #[test]
    fn newer_options_are_known_where_they_are() {
        let args = |arg: &str| vec![arg.to_owned()];
        for arg in ["--log-color", "--log-timestamp=iso", "--syslog"] {
            assert_eq!(read(&args(arg), (24, 11)).1, [], "{arg}");
        }
        let reason = "`--log-color` came with DPDK 24.11, and this is 22.11";
        assert_eq!(read(&args("--log-color"), (22, 11)).1, [(0, reason.to_owned())]);
        assert_eq!(read(&args("--syslog"), (22, 11)).1, [(0, "`--syslog` needs a value".to_owned())]);
    }

    #[test]
    fn workers_need_lcores() {
        for (name, value, number) in [
            ("-l", "0-3", Some(4)),
            ("-l", "0,2,5-6", Some(4)),
            ("-c", "0xf1", Some(5)),
            ("--lcores", "0@(0,1),1@0,2@1", Some(3)),
            ("--lcores", "(0-2)@1,(3,4)@(5-7)", Some(5)),
            ("-l", "all", None),
        ] {
            assert_eq!(lcores(name, value), number, "{value}");
        }
        let reason = "`-l`: 1 lcores, and 2 are needed: the main one and the workers'";
        assert_eq!(wrong(&["-l", "3"]), [(Some(0), reason.to_owned())]);
        assert_eq!(wrong(&["--lcores=0@0,1@0"]), []);
    }

    #[test]
    fn contradictions_are_reported() {
        for (args, at, reason) in [
            (&["-a", "3b:00.0", "-b", "3b:00.1"][..], 2, "`-b` can't be together with `-a`"),
            (&["--block=3b:00.1", "--allow=3b:00.0"], 1, "`--block` can't be together with `--allow`"),
            (&["-l", "0-1", "--lcores=0-1"], 2, "`--lcores` can't be together with `-l`"),
            (&["--no-huge", "--huge-unlink"], 1, "`--huge-unlink` can't be together with `--no-huge`"),
            (
                &["--in-memory", "--huge-unlink=never"],
                1,
                "`--huge-unlink=never` can't be together with `--in-memory`",
            ),
            (&["--in-memory", "--legacy-mem"], 1, "`--in-memory` can't be together with `--legacy-mem`"),
            (&["-m", "64", "--socket-mem=64"], 2, "`--socket-mem` can't be together with `-m`"),
        ] {
            assert_eq!(wrong(args), [(Some(at), reason.to_owned())], "{args:?}");
        }
        let reason = "`--no-pci`: a port is the PCI device 0000:3b:00.0";
        assert_eq!(wrong_for(&["--no-pci"], "0000:3b:00.0"), [(Some(0), reason.to_owned())]);
    }
}
