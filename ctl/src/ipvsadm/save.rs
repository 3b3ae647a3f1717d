//! `-S`: rules that `-R` takes back; a service's local addresses follow it, as `-P` lines. Under ipvsadm's names
//! what ipvsadm forgets is forgotten here too: thresholds, marks from 2^31, flag-3 of sh and mh. `weirctl -S` forgets
//! nothing, and what ipvsadm can't say at all stands in lines of words ([`weir_api::rules`]).

use std::io::{self, Write};

use weir_api::{
    ipvsadm::{
        names::Names,
        wording::{mark_options, options, thresholds, tunnel_options},
    },
    model::{ClientAddress, MarkRule, ServiceKey, Timeouts, snat::SnatRow},
    rules::{client_address, mark, masquerade, snat},
};

use super::{
    list::Listed,
    masquerade::Masquerades,
    print::{place, protocol_of, service_options},
};
use crate::commands::names::service as service_word;

/// The rules of a service and its servers; `own`: nothing is forgotten, not how servers learn the client's
/// address either, nor what `-m` means to it.
pub(super) fn service(
    listed: &Listed,
    numeric: bool,
    own: Option<ClientAddress>,
    masquerades: &Masquerades,
    names: &dyn Names,
    out: &mut dyn Write,
) -> io::Result<()> {
    let (row, servers) = listed;
    let key = &row.service.key;
    let name = match *key {
        ServiceKey::Mark { mark, family } if own.is_some() => mark_options(mark, family),
        _ => service_options(key, numeric, names),
    };
    writeln!(out, "-A {name} -s {}{}", row.service.scheduler, options(&row.service, own.is_some()))?;
    if let Some(how) = masquerades.own_of(key).filter(|_| own.is_some()) {
        // Before the servers, which may have `-m`.
        writeln!(out, "masquerade {} {}", service_word(key), masquerade::name(Some(how)))?;
    }
    for local in &row.local_addresses {
        let interface = local.interface.iter().map(|i| format!(" -F {i}")).collect::<String>();
        writeln!(out, "-P {name} -z {}{interface}", local.address)?;
    }
    for server in servers.iter().map(|row| &row.server) {
        let place = place(server.address, server.port, protocol_of(key), numeric, names);
        let method = server.forwarding;
        let (option, tunnel) = (masquerades.saved(key, server, own.is_some()), tunnel_options(method));
        let thresholds = if own.is_some() { thresholds(server) } else { String::new() };
        writeln!(out, "-a {name} -r {place} {option} -w {}{tunnel}{thresholds}", server.weight)?;
    }
    match own {
        None | Some(ClientAddress::None) => Ok(()),
        Some(how) => {
            writeln!(out, "client-address {} {}", service_word(key), client_address::name(how))
        }
    }
}

/// The SNAT rule.
pub(super) fn snat_rule(row: &SnatRow, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "{}", snat::to_words(&row.rule))
}

/// The rule that gives packets a mark.
pub(super) fn mark_rule(rule: &MarkRule, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "{}", mark::to_words(rule))
}

/// Time-outs, in a line that ipvsadm takes, too.
pub(super) fn timeouts(t: &Timeouts, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "--set {} {} {}", t.tcp, t.tcp_fin, t.udp)
}
