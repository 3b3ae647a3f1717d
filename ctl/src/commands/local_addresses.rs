//! `weirctl local-address`: what FULLNAT puts in place of the client's address, and how full it is.

use std::collections::HashMap;
use std::net::IpAddr;

use weir_api::{
    documents::{
        Body,
        change::Changed,
        rules::{LocalAddresses, ServiceLocalAddresses, UsedLocalAddress},
    },
    model::{LocalAddress, status::LocalAddressUse},
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
    let uses: Uses = uses.into_iter().map(|row| (row.address, row)).collect();
    if args.json {
        let services = services.iter().filter(|s| has_any(s)).map(|s| document(s, &uses)).collect();
        json::write(world.out, Body::LocalAddress(LocalAddresses::List { services }))?;
        return Ok(());
    }
    let mut table = Table::new(0, &["SERVICE", "ADDRESS", "PORT", ">PORTS USED", ">BUSIEST SERVER", ">OF"]);
    for (row, _) in &services {
        for local in &row.local_addresses {
            table.row(tone(uses.get(&local.address)), cells(row, local, &uses));
        }
    }
    Ok(table.write(world.out, world.style)?)
}

fn has_any(listed: &Listed) -> bool {
    !listed.0.local_addresses.is_empty()
}

fn tone(used: Option<&LocalAddressUse>) -> Tone {
    let nearly_full = |row: &LocalAddressUse| u64::from(row.busiest) * 10 >= u64::from(row.ports.max(1)) * 9;
    if used.is_some_and(nearly_full) { Tone::Bad } else { Tone::Plain }
}

/// An address no port of which is in use has no row in the gateway's status.
fn cells(row: &weir_api::protocol::ServiceRow, local: &LocalAddress, uses: &Uses) -> Vec<String> {
    let used = uses.get(&local.address);
    let number = |n: Option<String>| n.unwrap_or_else(|| "0".into());
    vec![
        names::service(&row.service.key),
        local.address.to_string(),
        local.interface.clone().unwrap_or_else(|| "-".into()),
        number(used.map(|u| u.used.to_string())),
        number(used.map(|u| u.busiest.to_string())),
        used.map_or_else(|| "-".into(), |u| u.ports.to_string()),
    ]
}

fn document((row, _): &Listed, uses: &Uses) -> ServiceLocalAddresses {
    let addresses = row.local_addresses.iter().map(|local| {
        let used = uses.get(&local.address);
        UsedLocalAddress {
            address: local.address,
            port: local.interface.clone(),
            used: used.map_or(0, |u| u.used),
            busiest: used.map_or(0, |u| u.busiest),
            ports: used.map(|u| u.ports),
        }
    });
    ServiceLocalAddresses { service: names::service(&row.service.key), local_addresses: addresses.collect() }
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
