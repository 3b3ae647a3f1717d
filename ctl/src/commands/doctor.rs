//! `weirctl doctor`: what keeps the gateway from forwarding, or from its speed, and what mends it.

use std::{fs, io, io::Write};

use weir_api::{
    documents::{
        Body,
        doctor::{Doctor, Finding, Severity},
    },
    model::{Timeouts, status::Status},
};
use weir_doctor::{Facts, Machine, PortFacts, cpu_list, examine};

use super::{
    Failure, World,
    cli::DoctorArgs,
    fetch, json,
    style::{Style, Tone, clean},
};

pub(super) fn run(args: &DoctorArgs, world: &mut World<'_>) -> Result<(), Failure> {
    let machine = args.root.as_ref().map_or_else(Machine::default, Machine::at);
    let pid = world.transport.process();
    let mut findings = match fetch::status(world.transport) {
        Ok(status) => {
            let facts = facts(&status, &machine, pid);
            let timeouts = fetch::timeouts(world.transport)?;
            of_gateway(&status).chain(of_timeouts(&timeouts)).chain(examine(&machine, &facts)).collect()
        }
        Err(Failure::Unreachable(why)) => vec![finding(
            Severity::Problem,
            "gateway",
            why,
            "nothing forwards, and what it uses of the machine can't be asked; weir --check examines its configuration",
            Some("systemctl status weir; weir --check --config /etc/weir/weir.toml"),
        )],
        Err(other) => return Err(other),
    };
    findings.sort_by_key(|finding: &Finding| finding.severity);
    let summary = summary(&findings);
    let problems = findings.iter().any(|finding| finding.severity == Severity::Problem);
    let none = findings.is_empty();
    if args.json {
        json::write(world.out, Body::Doctor(Doctor { findings }))?;
    } else {
        print(&findings, args.fix_hints, world.style, world.out)?;
    }
    if none { Ok(()) } else { Err(Failure::Found { summary, problems }) }
}

fn finding(severity: Severity, topic: &str, what: String, why: &str, fix: Option<&str>) -> Finding {
    Finding { severity, topic: topic.into(), what, why: why.into(), fix: fix.map(Into::into) }
}

/// What the gateway uses of the machine.
fn facts(status: &Status, machine: &Machine, pid: Option<u32>) -> Facts {
    let port = |port: &weir_api::model::status::PortStatus| PortFacts {
        name: port.name.clone(),
        device: port.device.clone(),
    };
    let cores = pid.map(|pid| pinned(machine, pid)).unwrap_or_default();
    Facts { ports: status.ports.iter().map(port).collect(), cores, pid }
}

/// The CPUs to which one thread of a process or more is pinned: its workers'.
fn pinned(machine: &Machine, pid: u32) -> Vec<u16> {
    let tasks = fs::read_dir(machine.path(&format!("proc/{pid}/task"))).into_iter().flatten().flatten();
    let allowed = |task: fs::DirEntry| {
        let text = fs::read_to_string(task.path().join("status")).ok()?;
        let list = text.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
        let cpus = cpu_list(list);
        cpus.first().copied().filter(|_| cpus.len() == 1)
    };
    let cpus: std::collections::BTreeSet<u16> = tasks.filter_map(allowed).collect();
    cpus.into_iter().collect()
}

/// What the gateway itself knows of.
fn of_gateway(status: &Status) -> impl Iterator<Item = Finding> + use<> {
    let mut findings = Vec::new();
    for port in &status.ports {
        for fault in &port.faults {
            let what = format!("port {}: {}", port.name, clean(fault));
            findings.push(finding(Severity::Problem, "port", what, "the port doesn't forward", None));
        }
        if let Some(reason) = port.no_rss.as_ref().filter(|_| status.workers.len() > 1) {
            findings.push(finding(
                Severity::Advice,
                "rss",
                format!("port {}: {}", port.name, clean(reason)),
                "packets that reach another worker than their session's are handed over, which costs about a third of the speed",
                Some("docs/scaling.md says which NICs steer by themselves"),
            ));
        }
    }
    for warning in &status.warnings {
        findings.push(finding(Severity::Advice, "status", clean(warning), "the gateway warns of it", None));
    }
    let own = env!("CARGO_PKG_VERSION");
    if status.version != own {
        findings.push(finding(
            Severity::Advice,
            "version",
            format!("the gateway is version {}, weirctl is {own}", clean(&status.version)),
            "the newer one's features are missing until both are the same",
            Some("systemctl restart weir"),
        ));
    }
    findings.into_iter()
}

fn of_timeouts(timeouts: &Timeouts) -> Option<Finding> {
    let Timeouts { tcp, tcp_fin, .. } = *timeouts;
    (tcp_fin > tcp).then(|| {
        finding(
            Severity::Advice,
            "timeouts",
            format!("TCP connections are kept {tcp_fin} s while they close, and {tcp} s while they are open"),
            "closed connections fill the session table",
            Some("weirctl --set 0 120 0"),
        )
    })
}

fn print(findings: &[Finding], fixes: bool, style: Style, out: &mut dyn Write) -> io::Result<()> {
    for finding in findings {
        let (label, tone) = match finding.severity {
            Severity::Problem => ("problem", Tone::Bad),
            Severity::Advice => ("advice ", Tone::Care),
        };
        let what = clean(&finding.what);
        writeln!(out, "{}  {:<12} {what}", style.paint(tone, label), finding.topic)?;
        writeln!(out, "{:22}{}", "", style.paint(Tone::Faint, &clean(&finding.why)))?;
        if let Some(fix) = finding.fix.as_ref().filter(|_| fixes) {
            writeln!(out, "{:22}{}", "", style.paint(Tone::Good, &clean(fix)))?;
        }
    }
    if findings.is_empty() {
        writeln!(out, "nothing found")?;
    }
    Ok(())
}

fn summary(findings: &[Finding]) -> String {
    let count = |severity: Severity| findings.iter().filter(|f| f.severity == severity).count();
    let plural = |n: usize| if n == 1 { "" } else { "s" };
    let (problems, advice) = (count(Severity::Problem), count(Severity::Advice));
    format!("{problems} problem{}, {advice} thing{} to improve", plural(problems), plural(advice))
}
