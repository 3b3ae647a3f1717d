//! Manual pages, made of the same definitions as the help.

use std::io;

use clap::{Command, CommandFactory};
use clap_mangen::{
    Man,
    roff::{Roff, bold, italic, roman},
};

use super::cli::{Cli, STATUSES};
use crate::ipvsadm::EXTENSIONS;

/// weirctl(8): all commands on one page.
///
/// # Errors
/// None that happen: it is written to memory.
pub fn weirctl() -> io::Result<String> {
    let mut command = Cli::command();
    command.build();
    let man = page(command.clone(), "weirctl");
    let mut text = Vec::new();
    man.render_title(&mut text)?;
    man.render_name_section(&mut text)?;
    man.render_synopsis_section(&mut text)?;
    man.render_description_section(&mut text)?;
    man.render_options_section(&mut text)?;
    let mut roff = Roff::new();
    roff.control("SH", ["COMMANDS"]);
    leaves(&command).for_each(|c| describe(c, &mut roff));
    roff.control("SH", ["AS IPVSADM"]);
    let (first, rest) = EXTENSIONS.split_once('\n').unwrap_or((EXTENSIONS, ""));
    roff.text([roman(first)]);
    roff.control("nf", []);
    rest.lines().for_each(|line| {
        roff.text([roman(line)]);
    });
    roff.control("fi", []);
    roff.control("SH", ["EXIT STATUS"]);
    roff.text([roman(STATUSES.trim_start_matches("Exit status: "))]);
    roff.control("SH", ["ENVIRONMENT"]);
    terms(
        &mut roff,
        &[
            ("WEIR_SOCKET", "The control socket, if --socket isn't given."),
            ("NO_COLOR", "If set and not empty: no colours."),
        ],
    );
    roff.control("SH", ["SEE ALSO"]);
    roff.text([
        bold("weir"),
        roman("(8), "),
        bold("weir.toml"),
        roman("(5), "),
        bold("ipvsadm"),
        roman("(8)"),
    ]);
    text.extend(roff.render().into_bytes());
    Ok(with_one_preamble(&String::from_utf8_lossy(&text)))
}

/// A page of section 8 for a command, without date: the same input gives the same page.
#[must_use]
pub fn page(command: Command, name: &str) -> Man {
    let version = command.get_version().unwrap_or_default().to_owned();
    Man::new(command)
        .title(name.to_uppercase())
        .section("8")
        .date("")
        .source(format!("weir {version}"))
        .manual("Weir")
}

/// weir(8), from the gateway's own command line.
///
/// # Errors
/// None that happen: it is written to memory.
pub fn weir(command: Command) -> io::Result<String> {
    let mut text = Vec::new();
    let man = page(command, "weir");
    man.render_title(&mut text)?;
    man.render_name_section(&mut text)?;
    let mut roff = Roff::new();
    roff.control("SH", ["SYNOPSIS"]);
    roff.text([bold("weir --config "), italic("FILE"), roman(" ["), bold("--check"), roman("]")]);
    text.extend(roff.render().into_bytes());
    man.render_description_section(&mut text)?;
    man.render_options_section(&mut text)?;
    let mut roff = Roff::new();
    roff.control("SH", ["ENVIRONMENT"]);
    terms(
        &mut roff,
        &[
            (
                "WEIR_LOG",
                "What is logged: error, warn, info (the default), debug or trace, or by module, as in \
                 warn,weir::host=debug.",
            ),
            (
                "NOTIFY_SOCKET",
                "The socket on which systemd gets READY=1 when `ready' is printed; systemd sets it for services of Type=notify.",
            ),
            (
                "WATCHDOG_USEC",
                "How long systemd waits for WATCHDOG=1 (WatchdogSec), which it gets while every worker polls.",
            ),
        ],
    );
    roff.control("SH", ["CAPABILITIES"]);
    roff.text([roman(
        "Run as root, or with CAP_NET_ADMIN (TAP twins, netlink), CAP_NET_RAW (net_af_packet and net_af_xdp), \
         CAP_IPC_LOCK (locked and huge pages), CAP_SYS_ADMIN (host_namespace) and access to /dev/vfio, /dev/net/tun and \
         the hugepages. Physical addresses (CAP_DAC_OVERRIDE and CAP_SYS_ADMIN for /proc/self/pagemap) are needed only \
         without an IOMMU.",
    )]);
    roff.control("SH", ["FILES"]);
    terms(
        &mut roff,
        &[("/run/weir/weir.sock", "The control socket, unless `socket' of weir.toml(5) says otherwise.")],
    );
    roff.control("SH", ["SEE ALSO"]);
    roff.text([bold("weirctl"), roman("(8), "), bold("weir.toml"), roman("(5)")]);
    text.extend(roff.render().into_bytes());
    Ok(with_one_preamble(&String::from_utf8_lossy(&text)))
}

/// Each section that is rendered by itself defines the apostrophe again; once is enough for a page. The title's empty date
/// needs its quotes, or what follows moves into its place.
fn with_one_preamble(page: &str) -> String {
    let mut lines = page.lines();
    let preamble: Vec<&str> = lines.by_ref().take(2).collect();
    let rest = lines.filter(|line| !preamble.contains(line));
    let whole = preamble.iter().copied().chain(rest);
    let quoted =
        |line: &str| if line.starts_with(".TH ") { line.replacen("  ", " \"\" ", 1) } else { line.into() };
    whole.map(|line| quoted(line) + "\n").collect()
}

/// A list of terms, and what each means.
fn terms(roff: &mut Roff, all: &[(&str, &str)]) {
    for (term, meaning) in all {
        roff.control("TP", []);
        roff.text([bold(*term)]);
        roff.text([roman(*meaning)]);
    }
}

/// weir.toml(5): the commented configuration with every key and its default.
#[must_use]
pub fn configuration(file: &str, version: &str) -> String {
    let mut roff = Roff::new();
    roff.control("TH", ["WEIR.TOML", "5", "", &format!("weir {version}"), "Weir"]);
    roff.control("SH", ["NAME"]);
    roff.text([roman("weir.toml - configuration of the gateway weir")]);
    roff.control("SH", ["DESCRIPTION"]);
    roff.text([roman(
        "weir --config FILE reads this file, in TOML. Here is a complete one: every key with its default \
            and meaning.",
    )]);
    roff.control("nf", []);
    file.lines().for_each(|line| {
        roff.text([roman(line)]);
    });
    roff.control("fi", []);
    roff.control("SH", ["SEE ALSO"]);
    roff.text([bold("weir"), roman("(8), "), bold("weirctl"), roman("(8)")]);
    with_one_preamble(&roff.render())
}

/// The commands that do something: of one with commands of its own, those.
fn leaves(command: &Command) -> Box<dyn Iterator<Item = &Command> + '_> {
    let own = command.get_subcommands().filter(|c| c.get_name() != "help");
    Box::new(own.flat_map(|c| {
        let inner: Vec<&Command> = leaves(c).collect();
        if inner.is_empty() { vec![c] } else { inner }
    }))
}

fn describe(command: &Command, roff: &mut Roff) {
    let usage = command.clone().render_usage().to_string();
    let usage = usage.trim_start_matches("Usage: ").to_owned();
    roff.control("SS", [usage.as_str()]);
    let about = command.get_long_about().or_else(|| command.get_about()).map(ToString::to_string);
    roff.text([roman(format!("{}.", about.unwrap_or_default().trim_end_matches('.')))]);
    for arg in
        command.get_arguments().filter(|a| !a.is_hide_set() && !a.is_global_set() && a.get_id() != "help")
    {
        let value = arg
            .get_value_names()
            .map(|names| names.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "));
        let takes = arg.get_action().takes_values();
        let value = value.filter(|_| takes).unwrap_or_default();
        let names = match (arg.get_short(), arg.get_long()) {
            (Some(short), Some(long)) => format!("-{short}, --{long} "),
            (None, Some(long)) => format!("--{long} "),
            (Some(short), None) => format!("-{short} "),
            (None, None) => String::new(),
        };
        roff.control("TP", []);
        roff.text([bold(format!("{names}{value}").trim_end())]);
        let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
        let possible: Vec<String> = match takes {
            true => arg.get_possible_values().iter().map(|v| v.get_name().to_owned()).collect(),
            false => Vec::new(),
        };
        let possible = if possible.is_empty() { String::new() } else { format!(": {}", possible.join(", ")) };
        roff.text([roman(format!("{}{possible}.", help.trim_end_matches('.')))]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_is_on_the_page() {
        let page = weirctl().unwrap();
        let mut cli = Cli::command();
        cli.build();
        for command in leaves(&cli) {
            let name = command.get_bin_name().unwrap();
            assert!(page.contains(&format!(".SS \"{name}")), "{name}\n{page}");
        }
        for option in ["snat add", "mark delete", "local-address add", "\\-\\-max\\-ports", "\\-\\-priority"]
        {
            assert!(page.contains(option), "{option}\n{page}");
        }
        assert_eq!(page, weirctl().unwrap());
    }

    #[test]
    fn titles_keep_their_parts_apart() {
        let page = weirctl().unwrap();
        assert!(page.contains(".TH WEIRCTL 8 \"\" \"weir "), "{page}");
        assert_eq!(page.matches(".ie ").count(), 1);
        assert!(configuration("", "1").contains(".TH WEIR.TOML 5 \"\" \"weir 1\" Weir\n"));
    }
}
