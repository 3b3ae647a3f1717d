//! `weirctl masquerade`: what `-m` means to a service.

use weir_api::{
    documents::{Body, change::Changed, rules::Masquerades},
    protocol::Change,
    rules::masquerade::name,
};

use super::{Failure, World, cli::MasqueradeArgs, fetch, json, names};

pub(super) fn run(args: &MasqueradeArgs, world: &mut World<'_>) -> Result<(), Failure> {
    let (Some(service), Some(how)) = (args.service, args.how) else { return list(args.json, world) };
    let change = Change::SetMasquerade { service, how: how.0 };
    let generation = fetch::apply(world.transport, &[change], None)??;
    if args.json {
        json::write(world.out, Body::Masquerade(Masquerades::Changed(Changed { generation })))?;
    }
    Ok(())
}

/// The gateway's setting is a comment, so that the list is lines of rules.
fn list(as_json: bool, world: &mut World<'_>) -> Result<(), Failure> {
    let settings = fetch::masquerade(world.transport)?;
    if as_json {
        let services = settings.services.iter().map(Into::into).collect();
        json::write(world.out, Body::Masquerade(Masquerades::List { default: settings.default, services }))?;
        return Ok(());
    }
    writeln!(world.out, "# default {} ([ipvs] masquerade in weir.toml)", name(Some(settings.default)))?;
    for (key, how) in &settings.services {
        writeln!(world.out, "masquerade {} {}", names::service(key), name(Some(*how)))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::commands::cli::{Cli, Command};
    use weir_api::rules::masquerade;

    #[test]
    fn what_is_listed_is_a_line_that_is_taken() {
        for line in ["tcp/192.0.2.10:80 fullnat", "udp/192.0.2.10:53 nat", "mark6/7 default"] {
            let words = format!("weirctl masquerade {line}");
            let Command::Masquerade(args) = Cli::try_parse_from(words.split(' ')).unwrap().command else {
                panic!("{line}")
            };
            let (service, how) = (args.service.unwrap(), args.how.unwrap().0);
            let words: Vec<&str> = line.split(' ').collect();
            assert_eq!(masquerade::parse(&words), Ok(Change::SetMasquerade { service, how }));
            assert_eq!(format!("{} {}", names::service(&service), name(how)), line);
        }
        for wrong in ["tcp/192.0.2.10:80", "tcp/192.0.2.10 nat", "tcp/192.0.2.10:80 masq"] {
            let line = format!("weirctl masquerade {wrong}");
            assert!(Cli::try_parse_from(line.split(' ')).is_err(), "{wrong}");
        }
    }
}
