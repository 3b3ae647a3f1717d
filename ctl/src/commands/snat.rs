//! `weirctl snat`: rules by which an inside network reaches the outside.

use weir_api::{
    documents::{Body, change::Changed, rules::Snat},
    model::snat::{SnatRow, SnatRule, SnatTimeouts},
    protocol::Change,
    rules::snat::{OWN, pool, pool_text, to_words},
};

use super::{
    Failure, World,
    cli::{SnatCommand, SnatEditArgs, SnatListArgs, SnatRuleArgs},
    fetch, json, names,
    style::{Table, Tone},
};

pub(super) fn run(what: &SnatCommand, world: &mut World<'_>) -> Result<(), Failure> {
    let (change, as_json) = match what {
        SnatCommand::Add(args) => {
            let rule = rule(args)?;
            warn(&rule, world)?;
            (Change::AddSnat(rule), args.json)
        }
        SnatCommand::Edit(args) => {
            let there = fetch::snat(world.transport)?.into_iter().find(|row| row.rule.name == args.name);
            let Some(row) = there else {
                return Err(Failure::Usage(format!("there is no SNAT rule {}", args.name)));
            };
            let rule = edited(row.rule, args)?;
            warn(&rule, world)?;
            (Change::EditSnat(rule), args.json)
        }
        SnatCommand::Delete(args) => (Change::DeleteSnat(args.name.clone()), args.json),
        SnatCommand::Clear(args) => (Change::ClearSnat, args.json),
        SnatCommand::List(args) => return list(*args, world),
    };
    let generation = fetch::apply(world.transport, &[change], None)??;
    if as_json {
        json::write(world.out, Body::Snat(Snat::Changed(Changed { generation })))?;
    }
    Ok(())
}

/// Says what can be done but shouldn't.
fn warn(rule: &SnatRule, world: &mut World<'_>) -> Result<(), Failure> {
    for warning in rule.warnings() {
        writeln!(world.err, "weirctl: warning: {warning}")?;
    }
    Ok(())
}

/// The rule with what `args` name.
fn edited(mut rule: SnatRule, args: &SnatEditArgs) -> Result<SnatRule, Failure> {
    fn set<T: Clone>(field: &mut T, value: Option<&T>) {
        if let Some(value) = value {
            field.clone_from(value);
        }
    }
    set(&mut rule.inside, args.inside.as_ref());
    set(&mut rule.port, args.port.as_ref());
    if let Some(text) = &args.pool {
        rule.masquerade = text == OWN;
        rule.pool = if rule.masquerade { Vec::new() } else { pool(text).map_err(Failure::Usage)? };
    }
    rule.protocol = args.protocol.or(rule.protocol);
    set(&mut rule.except, Some(&args.except).filter(|nets| !nets.is_empty()));
    set(&mut rule.mapping, args.mapping.as_ref());
    set(&mut rule.filtering, args.filtering.as_ref());
    set(&mut rule.pooling, args.pooling.as_ref());
    set(&mut rule.max_ports, args.max_ports.as_ref());
    set(&mut rule.max_sessions, args.max_sessions.as_ref());
    set(&mut rule.timeouts.udp, args.timeout_udp.as_ref());
    set(&mut rule.timeouts.dns, args.timeout_dns.as_ref());
    set(&mut rule.timeouts.tcp_established, args.timeout_tcp_established.as_ref());
    set(&mut rule.timeouts.tcp_transitory, args.timeout_tcp_transitory.as_ref());
    set(&mut rule.timeouts.icmp, args.timeout_icmp.as_ref());
    rule.check().map_err(Failure::Usage)?;
    Ok(rule)
}

fn rule(args: &SnatRuleArgs) -> Result<SnatRule, Failure> {
    let masquerade = args.pool == OWN;
    let rule = SnatRule {
        name: args.name.clone(),
        inside: args.inside,
        port: args.port.clone(),
        pool: if masquerade { Vec::new() } else { pool(&args.pool).map_err(Failure::Usage)? },
        protocol: args.protocol,
        except: args.except.clone(),
        mapping: args.mapping,
        filtering: args.filtering,
        pooling: args.pooling,
        max_ports: args.max_ports,
        max_sessions: args.max_sessions,
        timeouts: SnatTimeouts {
            udp: args.timeout_udp,
            dns: args.timeout_dns,
            tcp_established: args.timeout_tcp_established,
            tcp_transitory: args.timeout_tcp_transitory,
            icmp: args.timeout_icmp,
        },
        masquerade,
    };
    rule.check().map_err(Failure::Usage)?;
    Ok(rule)
}

fn list(args: SnatListArgs, world: &mut World<'_>) -> Result<(), Failure> {
    let rows = fetch::snat(world.transport)?;
    if args.json {
        let rules = rows.iter().map(Into::into).collect();
        json::write(world.out, Body::Snat(Snat::List { rules }))?;
        return Ok(());
    }
    if !args.stats {
        return Ok(rows.iter().try_for_each(|row| writeln!(world.out, "{}", to_words(&row.rule)))?);
    }
    let mut table = Table::new(
        0,
        &["NAME", "INSIDE", "POOL", ">SESSIONS", ">OPENED", ">PACKETS OUT", ">IN", ">BYTES OUT", ">IN"],
    );
    for SnatRow { rule, sessions, stats, .. } in &rows {
        let short = |n: u64| names::short(n);
        let counted =
            [stats.connections, stats.in_packets, stats.out_packets, stats.in_bytes, stats.out_bytes];
        let head = [
            rule.name.clone(),
            format!("{}/{}", rule.inside.0, rule.inside.1),
            pool_text(rule),
            sessions.to_string(),
        ];
        table.row(Tone::Plain, head.into_iter().chain(counted.map(short)).collect());
    }
    Ok(table.write(world.out, world.style)?)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::commands::cli::{Cli, Command};
    use weir_api::rules::snat;

    #[test]
    fn words_mean_here_what_they_mean_in_a_rules_file() {
        for line in [
            "add office --inside 10.0.0.0/8 --port wan --pool 192.0.2.1",
            "add home --inside 10.0.0.0/8 --port wan --pool port",
            "add lab --inside 10.9.0.0/16 --port wan --pool 192.0.2.1-192.0.2.8,192.0.2.20 --protocol icmp \
             --except 172.16.0.0/12 --except 192.168.0.0/16 --mapping address-and-port-dependent --max-ports 64 \
             --timeout-udp 121 --timeout-dns 3 --timeout-tcp-established 8000 --timeout-tcp-transitory 241 --timeout-icmp 62",
        ] {
            let words: Vec<&str> = line.split_whitespace().collect();
            let Ok(Change::AddSnat(expected)) = snat::parse(&words) else { panic!("{line}") };
            let words = ["weirctl", "snat"].into_iter().chain(words);
            let Ok(Cli { command: Command::Snat(args), .. }) = Cli::try_parse_from(words) else { panic!() };
            let SnatCommand::Add(args) = args.what else { panic!() };
            assert_eq!(rule(&args).unwrap(), expected);
        }
        let line = "weirctl snat add office --inside 10.0.0.0/8 --port wan --pool 10.0.0.1";
        let Ok(Cli { command: Command::Snat(args), .. }) = Cli::try_parse_from(line.split(' ')) else {
            panic!()
        };
        let SnatCommand::Add(args) = args.what else { panic!() };
        assert!(
            matches!(rule(&args), Err(Failure::Usage(why)) if why.contains("lies in the inside network"))
        );
    }

    #[test]
    fn an_edit_changes_what_it_names() {
        let words =
            "add lab --inside 10.9.0.0/16 --port wan --pool 192.0.2.1 --except 172.16.0.0/12 --max-ports 64";
        let Ok(Change::AddSnat(before)) = snat::parse(&words.split(' ').collect::<Vec<_>>()) else {
            panic!()
        };
        let after = |line: &str| {
            let words = ["weirctl", "snat", "edit", "lab"].into_iter().chain(line.split_whitespace());
            let Ok(Cli { command: Command::Snat(args), .. }) = Cli::try_parse_from(words) else {
                panic!("{line}")
            };
            let SnatCommand::Edit(args) = args.what else { panic!() };
            edited(before.clone(), &args)
        };
        assert_eq!(after("").unwrap(), before);
        for (line, expected) in [
            ("--max-ports 9", words.replace("64", "9")),
            ("--timeout-dns 30 --max-sessions 7", format!("{words} --max-sessions 7 --timeout-dns 30")),
            ("--pool port", words.replace("192.0.2.1", "port")),
            ("--pool 192.0.2.7-192.0.2.8", words.replace("192.0.2.1", "192.0.2.7-192.0.2.8")),
            ("--except 10.0.0.0/8", words.replace("172.16.0.0/12", "10.0.0.0/8")),
            ("--inside 10.8.0.0/16 --port dmz", words.replace("10.9.", "10.8.").replace("wan", "dmz")),
        ] {
            assert_eq!(to_words(&after(line).unwrap()), format!("snat {expected}"));
        }
        assert!(matches!(after("--max-ports 0"), Err(Failure::Usage(_))));
    }
}
