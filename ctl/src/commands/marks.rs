//! `weirctl mark`: rules that give packets a mark.

use weir_api::{
    documents::{Body, change::Changed, rules::Marks},
    model::MarkRule,
    protocol::Change,
    rules::mark,
};

use super::{
    Failure, World,
    cli::{MarkCommand, RuleArgs},
    fetch, json,
};

pub(super) fn run(what: &MarkCommand, world: &mut World<'_>) -> Result<(), Failure> {
    let (change, as_json) = match what {
        MarkCommand::Add(args) => (Change::AddMark(rule(args)), args.json),
        MarkCommand::Delete(args) => (Change::DeleteMark(rule(args)), args.json),
        MarkCommand::Clear(args) => (Change::ClearMarks, args.json),
        MarkCommand::List(args) => return list(args.json, world),
    };
    let generation = fetch::apply(world.transport, &[change], None)??;
    if as_json {
        json::write(world.out, Body::Mark(Marks::Changed(Changed { generation })))?;
    }
    Ok(())
}

fn list(as_json: bool, world: &mut World<'_>) -> Result<(), Failure> {
    let rules = fetch::marks(world.transport)?;
    if as_json {
        let rules = rules.iter().map(Into::into).collect();
        json::write(world.out, Body::Mark(Marks::List { rules }))?;
        return Ok(());
    }
    Ok(rules.iter().try_for_each(|rule| writeln!(world.out, "{}", mark::to_words(rule)))?)
}

fn rule(args: &RuleArgs) -> MarkRule {
    MarkRule {
        mark: args.mark,
        priority: args.priority,
        protocol: args.protocol,
        source: args.source.map(|n| (n.address, n.bits)),
        destination: args.destination.map(|n| (n.address, n.bits)),
        source_ports: args.source_ports,
        destination_ports: args.destination_ports,
        port: args.port.clone(),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use serde_json::{Value, json};
    use weir_api::documents::rules::Mark;

    use super::*;
    use crate::commands::cli::{Cli, Command};

    fn parsed(line: &str) -> MarkCommand {
        match Cli::try_parse_from(line.split_whitespace()).unwrap().command {
            Command::Mark(args) => args.what,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn words_mean_here_what_they_mean_in_a_rules_file() {
        for line in [
            "add 3 --destination 198.51.100.0/24",
            "add 0x7 --priority 7 --protocol udp --source 10.0.0.0/8 --source-ports 1024-65535 \
             --destination-ports 53 --port wan",
        ] {
            let words: Vec<&str> = line.split_whitespace().collect();
            let Ok(Change::AddMark(expected)) = mark::parse(&words) else { panic!("{line}") };
            let MarkCommand::Add(args) = parsed(&format!("weirctl mark {line}")) else { panic!("{line}") };
            assert_eq!(rule(&args), expected);
        }
        for wrong in ["add", "add 0", "add 1 --source 10.0.0.0/33", "add 1 --source-ports 9-8", "move 1"] {
            let line = format!("weirctl mark {wrong}");
            assert!(Cli::try_parse_from(line.split(' ')).is_err(), "{wrong}");
        }
    }

    #[test]
    fn json_says_what_is_not_given_too() {
        let MarkCommand::Add(args) = parsed("weirctl mark add 9 --destination-ports 80 --protocol tcp")
        else {
            panic!()
        };
        let document = serde_json::to_value(Mark::from(&rule(&args))).unwrap();
        assert_eq!(document["destination_ports"], json!([80, 80]));
        assert_eq!((&document["protocol"], &document["source"]), (&json!("tcp"), &Value::Null));
    }
}
