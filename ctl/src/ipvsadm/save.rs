//! `-S`: rules that `-R` takes back. What ipvsadm forgets (thresholds) is forgotten here too; a service's
//! local addresses follow it, as `-P` lines.

use std::io::{self, Write};

use super::{
    list::Listed,
    names::Names,
    print::{
        forwarding_option, netmask, place, protocol_of, scheduler_flags, service_options, tunnel_options,
    },
};
use crate::model::Service;

/// The rules of a service and its servers.
pub(super) fn service(
    listed: &Listed,
    numeric: bool,
    names: &dyn Names,
    out: &mut dyn Write,
) -> io::Result<()> {
    let (row, servers) = listed;
    let key = &row.service.key;
    let name = service_options(key, numeric, names);
    writeln!(out, "-A {name} -s {}{}", row.service.scheduler, options(&row.service))?;
    for local in &row.local_addresses {
        let interface = local.interface.iter().map(|i| format!(" -F {i}")).collect::<String>();
        writeln!(out, "-P {name} -z {}{interface}", local.address)?;
    }
    for server in servers.iter().map(|row| &row.server) {
        let place = place(server.address, server.port, protocol_of(key), numeric, names);
        let method = server.forwarding;
        let (option, tunnel) = (forwarding_option(method), tunnel_options(method));
        writeln!(out, "-a {name} -r {place} {option} -w {}{tunnel}", server.weight)?;
    }
    Ok(())
}

fn options(service: &Service) -> String {
    let mut text = String::new();
    if let Some(seconds) = service.persistent {
        text += &format!(" -p {seconds}");
        if let Some(mask) = netmask(service) {
            text += &format!(" -M {mask}");
        }
    }
    if let Some(engine) = &service.engine {
        text += &format!(" --pe {engine}");
    }
    if service.one_packet {
        text += " -o";
    }
    if service.scheduler_flags & 7 != 0 {
        text += &format!(" -b {}", scheduler_flags(service));
    }
    text
}
