//! `weirctl explain`: what would happen to a packet, and why, stage by stage.

use std::{io, net::IpAddr};

use weir_api::{
    documents::{self, Body, parts::Method},
    model::{
        FoundSession, Protocol, Tuple,
        explain::{
            Answer, Back, CandidateServer, End, Explanation, Question, Scheduling, Skip, Standing, Way,
        },
    },
    protocol::{Request, Response},
    rules::mark,
};

use super::{
    Failure, World,
    cli::ExplainArgs,
    json, names,
    style::{Style, Table, Tone, clean},
};

pub(super) fn run(args: &ExplainArgs, world: &mut World<'_>) -> Result<(), Failure> {
    let question = Question {
        protocol: args.protocol.into(),
        source: args.source,
        destination: args.destination,
        port: args.port.clone(),
        opens: !args.ack,
    };
    let answer = match world.transport.call(Request::Explain(question.clone()))? {
        Response::Explained(answer) => answer,
        Response::Refused(refusal) => return Err(refusal.into()),
        _ => return Err(Failure::Refused("the gateway's answer doesn't match the request".into())),
    };
    if args.json {
        json::write(
            world.out,
            Body::Explain(documents::explain::Explanation::new(&question, &answer).into()),
        )?;
        return Ok(());
    }
    Ok(tell(&question, &answer, world.out, world.style)?)
}

/// `10.0.0.1:80`, as everywhere.
fn place((address, port): (IpAddr, u16)) -> String {
    names::endpoint(address, port)
}

fn tell(q: &Question, e: &Explanation, out: &mut dyn io::Write, style: Style) -> io::Result<()> {
    let mut line = |title: &str, text: String| {
        let title = style.paint(Tone::Strong, &format!("{title:<15}"));
        writeln!(out, "{title} {}", clean(&text))
    };
    let kind = match (q.protocol, q.opens) {
        (Protocol::Tcp, true) => "tcp SYN",
        (Protocol::Tcp, false) => "tcp ACK",
        _ => q.protocol.name(),
    };
    line("packet", format!("{kind} {} -> {}, arrives on {}", place(q.source), place(q.destination), e.port))?;
    line("worker", workers(&e.workers))?;
    if let Some(rule) = &e.mark {
        line("mark", format!("{} by the rule `{}'", rule.mark, mark::to_words(rule)))?;
    }
    match &e.session {
        Some(found) => line("session", session(found, e.reply))?,
        None => line("session", "none yet".into())?,
    }
    match &e.service {
        Some(key) => line("service", names::service(key))?,
        None if e.session.is_none() && matches!(e.end, End::Forwarded) => {
            line("service", "none, but a SNAT rule applies".into())?;
        }
        None => line("service", "none".into())?,
    }
    if let Some(template) = &e.template {
        let left = names::seconds(u64::from(template.session.expires / 100));
        let text = format!("the client is kept at {} for {left}", place(template.session.server));
        line("persistence", text)?;
    }
    if let Some(scheduling) = &e.scheduling {
        line("scheduler", format!("{}: {}", scheduling.scheduler, standing(scheduling)))?;
        candidates(scheduling, out, style)?;
    }
    let mut line = |title: &str, text: String| {
        let title = style.paint(Tone::Strong, &format!("{title:<15}"));
        writeln!(out, "{title} {}", clean(&text))
    };
    if let Some((address, port, method)) = e.server {
        line("server", format!("{} by {}", place((address, port)), Method::from(method).name()))?;
    }
    for local in &e.local_addresses {
        let text =
            format!("{}: {} of {} ports in use towards the server", local.address, local.used, local.ports);
        line("local address", text)?;
    }
    if let Some(way) = &e.way {
        line("route", route(way))?;
    }
    if let Some(leaves) = &e.leaves {
        line("leaves", tuple(leaves))?;
    }
    let (tone, text) = verdict(&e.end);
    line("verdict", style.paint(tone, &text))?;
    match &e.back {
        None => Ok(()),
        Some(Back::Itself) => {
            line("answer", "goes from the server straight to the client, not through the gateway".into())
        }
        Some(Back::Here(back)) => {
            let port = back
                .port
                .as_ref()
                .map_or(", which no route leads to".into(), |p| format!(", arrives on {p}"));
            line("answer", format!("{}{port}", tuple(&back.comes)))?;
            line("answer leaves", tuple(&back.leaves))?;
            match (&back.way, &back.refused) {
                (Some(way), _) => line("answer's route", route(way)),
                (None, Some((reason, advice))) => {
                    let text = style.paint(Tone::Bad, &format!("dropped as {reason}. {advice}"));
                    line("answer's route", text)
                }
                (None, None) => Ok(()),
            }
        }
    }
}

fn route(way: &Way) -> String {
    let next = way.mac.map_or("whose MAC address has to be resolved first".into(), |mac| {
        format!("at {}", documents::parts::mac(mac))
    });
    let route = format!("{}/{} on {}", way.network.0, way.network.1, way.port);
    format!("{route}, MTU {}, next hop {} {next}", way.mtu, way.next_hop)
}

/// A port 0 is chosen when the packet comes.
fn tuple(ends: &Tuple) -> String {
    let end = |(address, port): (IpAddr, u16)| match port {
        0 => format!("{address} (a port of its)"),
        _ => place((address, port)),
    };
    format!("{} -> {}", end(ends.0), end(ends.1))
}

fn workers(workers: &[u16]) -> String {
    match workers {
        [queue, .., owner] => format!("{owner}, after arriving at {queue} and being handed over"),
        [only] => only.to_string(),
        [] => "?".into(),
    }
}

fn session(found: &FoundSession, reply: bool) -> String {
    let s = &found.session;
    let (idle, left) = (u64::from(found.idle / 100), u64::from(s.expires / 100));
    let who = if reply { "a reply of" } else { "a request of" };
    format!(
        "{who} {} -> {} by {} to {}: {}, last packet {} ago, expires in {}",
        place(s.client),
        place(s.virtual_),
        place(s.local),
        place(s.server),
        s.state.name(),
        names::seconds(idle),
        names::seconds(left),
    )
}

fn standing(s: &Scheduling) -> String {
    let server = |n: u32| s.servers.get(n as usize).map_or("?".into(), |c| place((c.address, c.port)));
    match s.standing {
        Standing::Stateless => "decides by the counts below".into(),
        Standing::Slot { slot, slots, server: of, fallback } => {
            let of = of.map_or("no server".into(), server);
            let or = if fallback { ", others are tried if it can't take the session" } else { "" };
            format!("slot {slot} of {slots} belongs to {of}{or}")
        }
        Standing::Behind(None) => "the rotation is at the head of the list".into(),
        Standing::Behind(Some(n)) => format!("the rotation is at {}", server(n)),
        Standing::Level { level, top, step, next } => {
            let next = if next as usize >= s.servers.len() { "the end".into() } else { server(next) };
            format!("in the pass of weights from {level} up (top {top}, step {step}), next is {next}")
        }
        Standing::Remembered { servers: 1, first } => {
            format!("the destination is remembered at {}", first.map_or("a deleted server".into(), server))
        }
        Standing::Remembered { servers, first } => {
            let newest = first.map_or("a deleted one".into(), server);
            format!("the destination is remembered at {servers} servers, the newest {newest}")
        }
        Standing::Unknown => "the destination isn't remembered: the least loaded server gets it".into(),
    }
}

/// Load over weight, which schedulers that weigh loads compare.
fn ratio(c: &CandidateServer, scheduler: &str) -> Option<String> {
    let load = c.load?;
    if scheduler == "lc" || c.weight == 0 {
        return Some(load.to_string());
    }
    Some(format!("{:.2}", load as f64 / f64::from(c.weight)))
}

fn candidates(s: &Scheduling, out: &mut dyn io::Write, style: Style) -> io::Result<()> {
    let mut table =
        Table::new(16, &["", "SERVER", ">WEIGHT", ">ACTIVE", ">INACTIVE", ">OVERHEAD", "PASSED OVER"]);
    for (n, c) in s.servers.iter().enumerate() {
        let chosen = s.chosen == Some(n as u32);
        let tone = match (chosen, c.skip) {
            (true, _) => Tone::Good,
            (false, Some(_)) => Tone::Faint,
            _ => Tone::Plain,
        };
        table.row(
            tone,
            vec![
                if chosen { "->".into() } else { String::new() },
                place((c.address, c.port)),
                c.weight.to_string(),
                c.active.to_string(),
                c.inactive.to_string(),
                ratio(c, &s.scheduler).unwrap_or_else(|| "-".into()),
                c.skip.map(|skip| why(skip, c)).unwrap_or_default(),
            ],
        );
    }
    table.write(out, style)
}

fn why(skip: Skip, c: &CandidateServer) -> String {
    match skip {
        Skip::Quiesced => "weight 0".into(),
        Skip::Threshold => format!("upper threshold {} reached", c.upper),
        Skip::Overflowing => "more active sessions than weight".into(),
    }
}

fn verdict(end: &End) -> (Tone, String) {
    match end {
        End::Forwarded => (Tone::Good, "forwarded".into()),
        End::Punted => (Tone::Care, "punted: passed to the kernel through the port's twin".into()),
        End::Delivered => (
            Tone::Good,
            "delivered: the server runs on the gateway itself, and its kernel gets the \
                packet"
                .into(),
        ),
        End::Dropped { reason, advice, answer } => {
            let told = answer.map_or(String::new(), |a| format!(", answered with {}", answer_words(a)));
            (Tone::Bad, format!("dropped as {reason}{told}. {advice}"))
        }
    }
}

fn answer_words(answer: Answer) -> &'static str {
    match answer {
        Answer::Reset => "a TCP reset",
        Answer::PortUnreachable => "ICMP port unreachable",
        Answer::TimeExceeded => "ICMP time exceeded",
        Answer::TooBig => "ICMP fragmentation needed",
        Answer::Prohibited => "ICMP administratively prohibited",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use weir_api::model::explain::Return;

    use super::*;
    use weir_api::model::explain::{LocalRoom, Way};
    use weir_api::model::{Forwarding, ServiceKey};

    fn asked() -> Question {
        Question {
            protocol: Protocol::Tcp,
            source: ([10, 1, 0, 1].into(), 40_000),
            destination: ([192, 0, 2, 10].into(), 80),
            port: None,
            opens: true,
        }
    }

    fn explained() -> Explanation {
        let candidate = |last, weight, active, skip| CandidateServer {
            address: [10, 0, 0, last].into(),
            port: 8080,
            weight,
            active,
            inactive: 0,
            upper: 0,
            load: Some(u64::from(active) * 256),
            skip,
        };
        Explanation {
            port: "wan".into(),
            workers: vec![0, 1],
            mark: None,
            service: Some(ServiceKey::Address {
                protocol: Protocol::Tcp,
                address: [192, 0, 2, 10].into(),
                port: 80,
            }),
            session: None,
            reply: false,
            template: None,
            scheduling: Some(Scheduling {
                scheduler: "wlc".into(),
                standing: Standing::Stateless,
                servers: vec![candidate(2, 0, 9, Some(Skip::Quiesced)), candidate(1, 4, 2, None)],
                chosen: Some(1),
            }),
            server: Some(([10, 0, 0, 1].into(), 8080, Forwarding::FullNat)),
            local_addresses: vec![LocalRoom { address: [10, 0, 0, 240].into(), used: 7, ports: 32_256 }],
            way: Some(Way {
                port: "lan".into(),
                network: ([10, 0, 0, 0].into(), 24),
                next_hop: [10, 0, 0, 1].into(),
                mac: Some([2, 0, 0, 0, 1, 2]),
                mtu: 1500,
            }),
            end: End::Forwarded,
            leaves: Some(between(([10, 0, 0, 240], 0), ([10, 0, 0, 1], 8080))),
            back: Some(Back::Here(Box::new(Return {
                comes: between(([10, 0, 0, 1], 8080), ([10, 0, 0, 240], 0)),
                port: Some("lan".into()),
                leaves: between(([192, 0, 2, 10], 80), ([10, 1, 0, 1], 40_000)),
                way: None,
                refused: Some(("no-route".into(), "Add one.".into())),
            }))),
        }
    }

    fn between(source: ([u8; 4], u16), destination: ([u8; 4], u16)) -> Tuple {
        ((source.0.into(), source.1), (destination.0.into(), destination.1))
    }

    fn told(e: &Explanation) -> String {
        let mut out = Vec::new();
        tell(&asked(), e, &mut out, Style::default()).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn every_stage_has_its_line() {
        let text = told(&explained());
        for wanted in [
            "tcp SYN 10.1.0.1:40000 -> 192.0.2.10:80, arrives on wan",
            "1, after arriving at 0 and being handed over",
            "tcp/192.0.2.10:80",
            "weight 0",
            "128.00",
            "10.0.0.1:8080 by fullnat",
            "10.0.0.240: 7 of 32256 ports",
            "10.0.0.0/24 on lan, MTU 1500, next hop 10.0.0.1 at 02:00:00:00:01:02",
            "forwarded",
            "leaves          10.0.0.240 (a port of its) -> 10.0.0.1:8080",
            "answer          10.0.0.1:8080 -> 10.0.0.240 (a port of its), arrives on lan",
            "answer leaves   192.0.2.10:80 -> 10.1.0.1:40000",
            "answer's route  dropped as no-route. Add one.",
        ] {
            assert!(text.contains(wanted), "{wanted}\n{text}");
        }
        let chosen = text.lines().find(|l| l.contains("->") && l.contains("8080")).unwrap();
        assert!(chosen.contains("10.0.0.1:8080"), "{chosen}");
    }

    #[test]
    fn a_drop_shows_its_reason_and_the_reply() {
        let end = End::Dropped {
            reason: "no-server".into(),
            advice: "Add one.".into(),
            answer: Some(Answer::PortUnreachable),
        };
        let e = Explanation { end, way: None, server: None, ..explained() };
        assert!(told(&e).contains("dropped as no-server, answered with ICMP port unreachable. Add one."));
        let document = serde_json::to_value(documents::explain::Explanation::new(&asked(), &e)).unwrap();
        assert_eq!(
            (&document["reason"], &document["answer"]),
            (&json!("no-server"), &json!("icmp-port-unreachable"))
        );
        assert_eq!(document["scheduling"]["servers"][0]["skipped"], json!("weight-0"));
        assert_eq!(
            document["back"]["comes"]["destination"],
            json!({ "address": "10.0.0.240", "port": null })
        );
        let direct = Explanation { back: Some(Back::Itself), ..explained() };
        assert!(told(&direct).contains("straight to the client"));
    }
}
