//! `weirctl local-address`: what FULLNAT puts in place of the client's address, and how full it is.

use std::collections::HashMap;
use std::net::IpAddr;

use weir_api::{
    documents::{
        Body,
        change::Changed,
        rules::{LocalAddresses, ServiceLocalAddresses, UsedLocalAddress},
    },
    model::{LocalAddress, local::uses_defaults, status::LocalAddressUse},
    protocol::Change,
};

use super::{
    Failure, World,
    cli::{LocalAddressArgs, LocalAddressCommand, LocalAddressListArgs},
    fetch::{self, Listed},
    json, names,
    style::{Table, Tone},
};

type Uses = HashMap<IpAddr, LocalAddressUse>;

pub(super) fn run(what: &LocalAddressCommand, world: &mut World<'_>) -> Result<(), Failure> {
    match what {
        LocalAddressCommand::List(args) => list(args, world),
        LocalAddressCommand::Add { of, port } => change(of, world, |service| Change::AddLocalAddress {
            service,
            local: LocalAddress { address: of.address, interface: port.clone() },
        }),
        LocalAddressCommand::Delete { of } => {
            change(of, world, |service| Change::DeleteLocalAddress { service, address: of.address })
        }
    }
}

fn change(
    of: &LocalAddressArgs,
    world: &mut World<'_>,
    make: impl FnOnce(weir_api::model::ServiceKey) -> Change,
) -> Result<(), Failure> {
    let service = fetch::resolve(world.transport, &of.service)?;
    let generation = fetch::apply(world.transport, &[make(service)], None)??;
    if of.json {
        json::write(world.out, Body::LocalAddress(LocalAddresses::Changed(Changed { generation })))?;
    }
    Ok(())
}

fn list(args: &LocalAddressListArgs, world: &mut World<'_>) -> Result<(), Failure> {
    let services = match &args.service {
        None => fetch::services(world.transport, None)?,
        Some(name) => {
            let key = fetch::resolve(world.transport, name)?;
            vec![fetch::service(world.transport, key)?]
        }
    };
    let uses = fetch::status(world.transport)?.local_addresses;
    let defaults = Defaults(fetch::default_local_addresses(world.transport)?);
    let uses: Uses = uses.into_iter().map(|row| (row.address, row)).collect();
    if args.json {
        let services = services.iter().map(|s| document(s, &defaults, &uses));
        let services = services.filter(|s| !s.local_addresses.is_empty()).collect();
        json::write(world.out, Body::LocalAddress(LocalAddresses::List { services }))?;
        return Ok(());
    }
    let mut table = Table::new(0, &["SERVICE", "ADDRESS", "PORT", ">PORTS USED", ">BUSIEST SERVER", ">OF"]);
    for listed in &services {
        for (local, of) in defaults.and_own(listed) {
            table.row(tone(uses.get(&local.address)), cells(&listed.0, &local, of, &uses));
        }
    }
    Ok(table.write(world.out, world.style)?)
}

/// The local addresses of services without their own.
struct Defaults(Vec<IpAddr>);

/// Whose a local address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Of {
    Service,
    Default,
}

impl Defaults {
    /// The local addresses of a service: its own, and the default ones where it uses these.
    fn and_own(&self, (row, servers): &Listed) -> Vec<(LocalAddress, Of)> {
        let own = &row.local_addresses;
        let uses = [false, true].map(|ipv6| uses_defaults(own, servers.iter().map(|s| &s.server), ipv6));
        let used = self.0.iter().filter(|address| uses[usize::from(address.is_ipv6())]);
        let used = used.map(|address| (LocalAddress { address: *address, interface: None }, Of::Default));
        own.iter().cloned().map(|local| (local, Of::Service)).chain(used).collect()
    }
}

fn tone(used: Option<&LocalAddressUse>) -> Tone {
    let nearly_full = |row: &LocalAddressUse| u64::from(row.busiest) * 10 >= u64::from(row.ports.max(1)) * 9;
    if used.is_some_and(nearly_full) { Tone::Bad } else { Tone::Plain }
}

/// An address no port of which is in use has no row in the gateway's status.
fn cells(row: &weir_api::protocol::ServiceRow, local: &LocalAddress, of: Of, uses: &Uses) -> Vec<String> {
    let used = uses.get(&local.address);
    let number = |n: Option<String>| n.unwrap_or_else(|| "0".into());
    vec![
        names::service(&row.service.key),
        match of {
            Of::Service => local.address.to_string(),
            Of::Default => format!("{} (default)", local.address),
        },
        local.interface.clone().unwrap_or_else(|| "-".into()),
        number(used.map(|u| u.used.to_string())),
        number(used.map(|u| u.busiest.to_string())),
        used.map_or_else(|| "-".into(), |u| u.ports.to_string()),
    ]
}

fn document(listed: &Listed, defaults: &Defaults, uses: &Uses) -> ServiceLocalAddresses {
    let addresses = defaults.and_own(listed).into_iter().map(|(local, of)| {
        let used = uses.get(&local.address);
        UsedLocalAddress {
            address: local.address,
            port: local.interface,
            default: of == Of::Default,
            used: used.map_or(0, |u| u.used),
            busiest: used.map_or(0, |u| u.busiest),
            ports: used.map(|u| u.ports),
        }
    });
    ServiceLocalAddresses {
        service: names::service(&listed.0.service.key),
        local_addresses: addresses.collect(),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::commands::cli::{Cli, Command};

    #[test]
    fn words_are_read() {
        let parse = |line: &str| Cli::try_parse_from(line.split(' ')).map(|cli| cli.command);
        let Ok(Command::LocalAddress(args)) =
            parse("weirctl local-address add tcp/192.0.2.10:80 10.0.0.4 --port lan")
        else {
            panic!()
        };
        let LocalAddressCommand::Add { of, port } = args.what else { panic!() };
        assert_eq!((of.address, port.as_deref()), ([10, 0, 0, 4].into(), Some("lan")));
        for wrong in ["add tcp/192.0.2.10:80", "delete tcp/192.0.2.10:80 10.0.0", "list 10.0.0.4", "add"] {
            assert!(parse(&format!("weirctl local-address {wrong}")).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_full_address_stands_out() {
        let row =
            |busiest| LocalAddressUse { address: [10, 0, 0, 4].into(), used: busiest, busiest, ports: 1000 };
        assert_eq!(tone(None), Tone::Plain);
        assert_eq!(tone(Some(&row(899))), Tone::Plain);
        assert_eq!(tone(Some(&row(900))), Tone::Bad);
    }
}
