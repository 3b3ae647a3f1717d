//! Manual pages, made of the same definitions as the help.

use std::io;

use clap::{Command, CommandFactory};
use clap_mangen::{
    Man,
    roff::{Roff, bold, roman},
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
    command.get_subcommands().filter(|c| c.get_name() != "help").for_each(|c| describe(c, &mut roff));
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
    for (name, what) in [
        ("WEIR_SOCKET", "The control socket, if --socket isn't given."),
        ("NO_COLOR", "Set and not empty: no colours."),
    ] {
        roff.control("TP", []);
        roff.text([bold(name)]);
        roff.text([roman(what)]);
    }
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
    Ok(String::from_utf8_lossy(&text).into_owned())
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
    page(command, "weir").render(&mut text)?;
    let mut roff = Roff::new();
    roff.control("SH", ["SEE ALSO"]);
    roff.text([bold("weirctl"), roman("(8), "), bold("weir.toml"), roman("(5)")]);
    text.extend(roff.render().into_bytes());
    Ok(String::from_utf8_lossy(&text).into_owned())
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
        "weir --config FILE reads this file, in TOML. What follows is a complete one: every key with its default \
         and what it means.",
    )]);
    roff.control("nf", []);
    file.lines().for_each(|line| {
        roff.text([roman(line)]);
    });
    roff.control("fi", []);
    roff.control("SH", ["SEE ALSO"]);
    roff.text([bold("weir"), roman("(8), "), bold("weirctl"), roman("(8)")]);
    roff.render()
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
        for command in Cli::command().get_subcommands() {
            assert!(
                page.contains(&format!(".SS \"weirctl {}", command.get_name())),
                "{}\n{page}",
                command.get_name()
            );
        }
        assert_eq!(page, weirctl().unwrap());
    }
}
