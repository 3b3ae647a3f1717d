//! `weirctl client-address`: how FULLNAT servers learn the client's address.

use weir_api::{
    documents::{Body, change::Changed, rules::ClientAddresses},
    protocol::Change,
    rules::client_address::name,
};

use super::{Failure, World, cli::ClientAddressArgs, fetch, json, names};

pub(super) fn run(args: &ClientAddressArgs, world: &mut World<'_>) -> Result<(), Failure> {
    let (Some(service), Some(how)) = (args.service, args.how) else { return list(args.json, world) };
    let generation = fetch::apply(world.transport, &[Change::SetClientAddress { service, how }], None)??;
    if args.json {
        json::write(world.out, Body::ClientAddress(ClientAddresses::Changed(Changed { generation })))?;
    }
    Ok(())
}

fn list(as_json: bool, world: &mut World<'_>) -> Result<(), Failure> {
    let services = fetch::client_addresses(world.transport)?;
    if as_json {
        let services = services.iter().map(Into::into).collect();
        json::write(world.out, Body::ClientAddress(ClientAddresses::List { services }))?;
        return Ok(());
    }
    for (key, how) in &services {
        writeln!(world.out, "client-address {} {}", names::service(key), name(*how))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::commands::cli::{Cli, Command};
    use weir_api::rules::client_address;

    #[test]
    fn what_is_listed_is_a_line_that_is_taken() {
        for line in ["tcp/192.0.2.10:80 toa", "udp/192.0.2.10:53 proxy-v2", "mark/7 none"] {
            let words = format!("weirctl client-address {line}");
            let Command::ClientAddress(args) = Cli::try_parse_from(words.split(' ')).unwrap().command else {
                panic!("{line}")
            };
            let (service, how) = (args.service.unwrap(), args.how.unwrap());
            let words: Vec<&str> = line.split(' ').collect();
            assert_eq!(client_address::parse(&words), Ok(Change::SetClientAddress { service, how }));
            assert_eq!(format!("{} {}", names::service(&service), name(how)), line);
        }
        for wrong in ["tcp/192.0.2.10:80", "tcp/192.0.2.10 toa", "tcp/192.0.2.10:80 proxy-v3"] {
            let line = format!("weirctl client-address {wrong}");
            assert!(Cli::try_parse_from(line.split(' ')).is_err(), "{wrong}");
        }
    }
}
