//! The program: carries out lines, on a gateway behind any [`Transport`].

use std::{
    collections::{BTreeSet, HashMap},
    ffi::OsString,
    io::{self, BufReader, Read, Write},
};

use weir_api::{
    client::{ClientError, Transport},
    ipvsadm::{Action, FAILED, Format, Halt, Lines, List, REFUSED, names::Names, parse_line, parse_own_line},
    model::{ClientAddress, Service, ServiceKey, Timeouts},
    protocol::{Change, ListQuery, MAX_PAGE, MAX_PIPELINE, Refusal, Request, Response, Row},
    rules,
};

use super::{
    connections, foreign, help,
    list::{self, BANNER, Listed},
    masquerade::Masquerades,
    messages, print, save,
};

/// Bytes of rules that are read at once.
const READ_AHEAD: usize = 1 << 16;

/// What the program takes from its surroundings.
#[derive(Clone, Copy)]
pub struct Environment<'a> {
    /// Names of hosts and services.
    pub names: &'a dyn Names,
    /// Called by its own name, not one of ipvsadm's: `-S` forgets nothing and `-R` takes lines of words too.
    pub own: bool,
}

/// Runs ipvsadm: `args` with the program's name first, which stands in messages. The exit status.
///
/// Output that can't be written (a closed pipe) ends the program with status 1, as SIGPIPE would in effect.
pub fn ipvsadm(
    args: &[OsString],
    stdin: &mut dyn Read,
    transport: &mut dyn Transport,
    out: &mut dyn Write,
    err: &mut dyn Write,
    environment: &Environment,
) -> i32 {
    let mut words = args.iter().map(|a| a.to_string_lossy().into_owned());
    let program = words.next().unwrap_or_else(|| "ipvsadm".into());
    let words: Vec<String> = words.collect();
    let mut run =
        Run { program: &program, transport, out, err, names: environment.names, own: environment.own };
    let status = if words.is_empty() {
        run.list(List::All, &Format::default()).unwrap_or_else(|end| run.complain(&end).0)
    } else {
        run.line(&words, Some(stdin)).0
    };
    if run.out.flush().is_err() { 1 } else { status }
}

/// How a line ended early.
enum LineEnd {
    /// As ipvsadm ends it.
    Halt(Halt),
    /// The gateway is gone, or talks nonsense.
    Gateway(String),
    /// Nobody reads the output.
    Output,
}

impl From<Halt> for LineEnd {
    fn from(halt: Halt) -> Self {
        Self::Halt(halt)
    }
}

impl From<ClientError> for LineEnd {
    fn from(error: ClientError) -> Self {
        Self::Gateway(error.to_string())
    }
}

impl From<io::Error> for LineEnd {
    fn from(_: io::Error) -> Self {
        Self::Output
    }
}

struct Run<'a> {
    program: &'a str,
    transport: &'a mut dyn Transport,
    out: &'a mut dyn Write,
    err: &'a mut dyn Write,
    names: &'a dyn Names,
    own: bool,
}

/// A line of rules.
struct RuleLine {
    /// What it asks for; nothing if it is a comment or left out.
    action: Option<Result<Action, LineEnd>>,
    /// What of it Weir can't do, a text each.
    left_out: Vec<String>,
}

impl Run<'_> {
    /// One line; `stdin` unless it comes from stdin itself. Status, and whether the program ends.
    fn line(&mut self, words: &[String], stdin: Option<&mut dyn Read>) -> (i32, bool) {
        let done = match self.parse(words) {
            Ok(action) => self.action(action, stdin),
            Err(halt) => Err(halt.into()),
        };
        done.unwrap_or_else(|end| self.complain(&end))
    }

    fn parse(&self, words: &[String]) -> Result<Action, Halt> {
        let parse = if self.own { parse_own_line } else { parse_line };
        parse(self.program, words, self.names)
    }

    fn complain(&mut self, end: &LineEnd) -> (i32, bool) {
        let (message, status, ends) = match end {
            LineEnd::Halt(halt) => (halt.message.as_str(), halt.status, halt.ends),
            LineEnd::Gateway(message) => (message.as_str(), FAILED, true),
            LineEnd::Output => return (1, true),
        };
        // If even stderr is closed there is nobody left to tell.
        let _ = writeln!(self.err, "{message}");
        (status, ends)
    }

    /// As [`Self::complain`], of a line of rules: under its own name the program says which, and goes on.
    fn complain_of(&mut self, line: usize, end: LineEnd) -> (i32, bool) {
        match end {
            LineEnd::Halt(halt) if self.own => {
                let message = format!("line {line}: {}", halt.message.trim_end());
                self.complain(&LineEnd::Halt(Halt { message, ends: false, ..halt }))
            }
            end => self.complain(&end),
        }
    }

    fn action(&mut self, action: Action, stdin: Option<&mut dyn Read>) -> Result<(i32, bool), LineEnd> {
        let status = match action {
            Action::Change(change) => self.change(change)?,
            Action::List(what, format) => self.list(what, &format)?,
            Action::Save { numeric } => self.save(numeric)?,
            Action::LocalAddresses { service, numeric } => self.local_addresses(service, numeric)?,
            Action::Restore => {
                let stdin = stdin.ok_or_else(|| Halt::try_help(self.program))?;
                return self.restore(BufReader::with_capacity(READ_AHEAD, stdin));
            }
            Action::StartDaemon { .. } => {
                return Err(Halt::refuse("weir has no connection sync daemon").into());
            }
            Action::StopDaemon { .. } => return Err(Halt::refuse("No daemon is running").into()),
            Action::Help => {
                self.out.write_all(help::usage(self.program).as_bytes())?;
                return Ok((0, true));
            }
            Action::Version => {
                writeln!(self.out, "{}", help::VERSION)?;
                return Ok((0, true));
            }
        };
        Ok((status, false))
    }

    fn change(&mut self, change: Change) -> Result<i32, LineEnd> {
        let response = self.transport.call(Request::Apply(change.clone().into()))?;
        changed(&change, response, self.own)
    }

    /// Line by line; the status of the last, unless something was left out. Under its own name the program goes on after
    /// every error, and the status is the first one's. Changes that have been read already go to the gateway together, each
    /// with a status and a message of its own; a line that isn't there yet keeps none waiting.
    fn restore(&mut self, input: BufReader<impl Read>) -> Result<(i32, bool), LineEnd> {
        let mut lines = Lines::new(input);
        let (mut status, mut all_taken) = (0, true);
        let mut changes = Vec::new();
        let mut complete = rules::Completeness::default();
        let mut marks = BTreeSet::new();
        let unreadable = |e: io::Error| LineEnd::Gateway(format!("cannot read the rules: {e}"));
        while let Some((number, words)) = lines.next_line().map_err(unreadable)? {
            complete.line(&words);
            let read = self.read_line(number, &words);
            all_taken &= read.left_out.is_empty();
            if let Some(Ok(Action::Change(change))) = read.action {
                self.warn(number, &change);
                marks.extend(mark_of(&change));
                changes.push((number, change));
                if changes.len() >= MAX_PIPELINE || !lines.has_line() {
                    status = self.changes(status, std::mem::take(&mut changes))?;
                }
                self.left_out(&read.left_out);
                continue;
            }
            if !changes.is_empty() {
                status = self.changes(status, std::mem::take(&mut changes))?;
            }
            self.left_out(&read.left_out);
            let Some(action) = read.action else { continue };
            let done = action.and_then(|action| self.action(action, None));
            let (line_status, ends) = done.unwrap_or_else(|end| self.complain_of(number, end));
            status = self.together(status, line_status);
            if ends {
                return Ok((status, true));
            }
        }
        if !changes.is_empty() {
            status = self.changes(status, changes)?;
        }
        if self.own {
            let unmarked = self.unmarked(&marks)?;
            self.left_out(unmarked.as_slice());
        }
        if let Some(complaint) = complete.complaint().filter(|_| self.own) {
            self.left_out(&[format!("warning: {complaint}")]);
        }
        Ok((if all_taken { status } else { REFUSED }, false))
    }

    /// What is to be said of services of these marks, if there is no rule that gives them: the marks of iptables and nft,
    /// which IPVS goes by, don't get to the gateway.
    fn unmarked(&mut self, marks: &BTreeSet<u32>) -> Result<Option<String>, LineEnd> {
        if marks.is_empty() {
            return Ok(None);
        }
        let Response::Marks(rules) = self.transport.call(Request::Marks)? else { return Err(nonsense()) };
        let without = marks.iter().filter(|mark| rules.iter().all(|rule| rule.mark != **mark));
        let without: Vec<String> = without.map(u32::to_string).collect();
        Ok((!without.is_empty()).then(|| {
            format!(
                "warning: no rule sets mark {} (weirctl mark add); marks of iptables and nft don't reach \
                    the gateway",
                without.join(", ")
            )
        }))
    }

    /// Says what a line asks for that shouldn't be.
    fn warn(&mut self, number: usize, change: &Change) {
        let Change::AddSnat(rule) = change else { return };
        for warning in rule.warnings() {
            // If even stderr is closed there is nobody left to tell.
            let _ = writeln!(self.err, "line {number}: warning: {warning}");
        }
    }

    /// What a line of rules asks for. What only DPVS's and LVS FULLNAT's ipvsadm say is taken as far as it goes.
    fn read_line(&self, number: usize, words: &[String]) -> RuleLine {
        let read = |action| RuleLine { action, left_out: Vec::new() };
        if let Some(line) = self.own.then(|| rules::parse(words)).flatten() {
            return read(match line {
                Ok(rules::RuleLine::Comment) => None,
                Ok(rules::RuleLine::Change(change)) => Some(Ok(Action::Change(*change))),
                Err(wrong) => Some(Err(Halt::refuse(wrong).into())),
            });
        }
        let parse = |words: &[String]| self.parse(words).map_err(LineEnd::from);
        let parsed = parse(words);
        if parsed.is_ok() && !foreign::passes_for_ipvsadm(words) {
            return read(Some(parsed));
        }
        match foreign::translate(words) {
            None => read(Some(parsed)),
            Some(line) => RuleLine {
                action: line.words.map(|words| parse(&words)),
                left_out: line.left_out.into_iter().map(|what| format!("line {number}: {what}")).collect(),
            },
        }
    }

    fn left_out(&mut self, what: &[String]) {
        for what in what {
            // If even stderr is closed there is nobody left to tell.
            let _ = writeln!(self.err, "{what}");
        }
    }

    /// The status of lines, after those that had `before`.
    fn together(&self, before: i32, status: i32) -> i32 {
        if self.own && before != 0 { before } else { status }
    }

    /// Changes of lines that follow each other, after lines that had the status `before`.
    fn changes(&mut self, before: i32, changes: Vec<(usize, Change)>) -> Result<i32, LineEnd> {
        let requests = changes.iter().map(|(_, change)| Request::Apply(change.clone().into())).collect();
        let mut status = before;
        for (response, (number, change)) in self.transport.call_all(requests)?.into_iter().zip(&changes) {
            let line_status = match changed(change, response, self.own) {
                Ok(status) => status,
                Err(end @ LineEnd::Halt(_)) => self.complain_of(*number, end).0,
                Err(end) => return Err(end),
            };
            status = self.together(status, line_status);
        }
        Ok(status)
    }

    fn list(&mut self, what: List, format: &Format) -> Result<i32, LineEnd> {
        match what {
            List::All => {
                writeln!(self.out, "{BANNER}")?;
                let services = self.rows(None)?;
                self.services(services, format)?;
            }
            List::Service(key) => {
                let services = self.rows(Some(key))?;
                self.services(services, format)?;
            }
            List::Connections => self.connections(format)?,
            List::Timeouts => {
                let Response::Timeouts(t) = self.transport.call(Request::Timeouts)? else {
                    return Err(nonsense());
                };
                writeln!(self.out, "Timeout (tcp tcpfin udp): {} {} {}", t.tcp, t.tcp_fin, t.udp)?;
            }
            // Weir has no sync daemon that could be running.
            List::Daemons => {}
        }
        Ok(0)
    }

    fn services(&mut self, services: Vec<Listed>, format: &Format) -> Result<(), LineEnd> {
        let masquerades = if self.own { Masquerades::default() } else { self.masquerades()? };
        list::title(format, self.out)?;
        for mut listed in list::sorted(services, format.unsorted) {
            if !self.own {
                masquerades.hide_fullnat(&mut listed);
            }
            list::service(&listed, format, self.names, self.out)?;
        }
        Ok(())
    }

    fn save(&mut self, numeric: bool) -> Result<i32, LineEnd> {
        let services = self.rows(None)?;
        let told = if self.own { self.client_addresses()? } else { HashMap::new() };
        let masquerades = self.masquerades()?;
        let mut count = 0;
        for listed in list::sorted(services, false) {
            let key = &listed.0.service.key;
            let how = told.get(key).copied().unwrap_or_default();
            count += 1 + listed.0.local_addresses.len() + listed.1.len();
            count += usize::from(how != ClientAddress::None);
            count += usize::from(masquerades.own_of(key).is_some());
            let own = self.own.then_some(how);
            save::service(&listed, numeric, own, &masquerades, self.names, self.out)?;
        }
        if self.own {
            let Response::Marks(rules) = self.transport.call(Request::Marks)? else { return Err(nonsense()) };
            rules.iter().try_for_each(|rule| save::mark_rule(rule, self.out))?;
            let snat = match self.transport.call(Request::Snat) {
                Ok(Response::Snat(rows)) => rows,
                Err(ClientError::TooOld { .. }) => Vec::new(),
                Ok(_) => return Err(nonsense()),
                Err(error) => return Err(error.into()),
            };
            snat.iter().try_for_each(|row| save::snat_rule(row, self.out))?;
            let timeouts = self.set_timeouts()?;
            timeouts.iter().try_for_each(|t| save::timeouts(t, self.out))?;
            count += rules.len() + snat.len() + timeouts.iter().len();
            writeln!(self.out, "{}", rules::closing(count))?;
        }
        Ok(0)
    }

    /// The time-outs, if they aren't those that the gateway began with: they are in its configuration.
    fn set_timeouts(&mut self) -> Result<Option<Timeouts>, LineEnd> {
        let initial = match self.transport.call(Request::InitialTimeouts) {
            Ok(Response::Timeouts(timeouts)) => timeouts,
            Err(ClientError::TooOld { .. }) => return Ok(None),
            Ok(_) => return Err(nonsense()),
            Err(error) => return Err(error.into()),
        };
        let Response::Timeouts(now) = self.transport.call(Request::Timeouts)? else { return Err(nonsense()) };
        Ok((now != initial).then_some(now))
    }

    fn client_addresses(&mut self) -> Result<HashMap<ServiceKey, ClientAddress>, LineEnd> {
        match self.transport.call(Request::ClientAddresses) {
            Ok(Response::ClientAddresses(services)) => Ok(services.into_iter().collect()),
            // A gateway that has never heard of it tells no servers.
            Err(ClientError::TooOld { .. }) => Ok(HashMap::new()),
            Ok(_) => Err(nonsense()),
            Err(error) => Err(error.into()),
        }
    }

    fn masquerades(&mut self) -> Result<Masquerades, LineEnd> {
        match self.transport.call(Request::Masquerade) {
            Ok(Response::Masquerade(settings)) => Ok(settings.into()),
            // To a gateway that has never heard of it `-m` is NAT.
            Err(ClientError::TooOld { .. }) => Ok(Masquerades::default()),
            Ok(_) => Err(nonsense()),
            Err(error) => Err(error.into()),
        }
    }

    fn local_addresses(&mut self, service: ServiceKey, numeric: bool) -> Result<i32, LineEnd> {
        writeln!(self.out, "{:<30} {:<8} SNAT_IP", "VIP:VPORT", "TOTAL")?;
        for (row, _) in self.rows(Some(service))? {
            let name = match row.service.key {
                ServiceKey::Address { protocol, address, port } => {
                    print::place(address, port, Some(protocol), numeric, self.names)
                }
                mark @ ServiceKey::Mark { .. } => print::service_name(&mark, numeric, self.names),
            };
            writeln!(self.out, "{name:<30} {:<8} ", row.local_addresses.len())?;
            for local in &row.local_addresses {
                writeln!(self.out, "{:<39} {}", "", local.address)?;
            }
        }
        Ok(0)
    }

    fn connections(&mut self, format: &Format) -> Result<(), LineEnd> {
        connections::title(format, self.out)?;
        let mut from = None;
        loop {
            let answer = self.transport.call(Request::Sessions { from, max: MAX_PAGE })?;
            let Response::Sessions { sessions, next } = answer else { return Err(nonsense()) };
            for session in &sessions {
                connections::session(session, format, self.names, self.out)?;
            }
            from = next;
            if from.is_none() {
                return Ok(());
            }
        }
    }

    /// All services with their servers, or one.
    fn rows(&mut self, service: Option<ServiceKey>) -> Result<Vec<Listed>, LineEnd> {
        let mut all: Vec<Listed> = Vec::new();
        let mut from = None;
        loop {
            let query = ListQuery { service, from, max: MAX_PAGE };
            let (rows, next) = match self.transport.call(Request::List(query))? {
                Response::Rows { rows, next } => (rows, next),
                Response::Refused(refusal) => return Err(not_listed(&refusal)),
                _ => return Err(nonsense()),
            };
            for row in rows {
                match row {
                    Row::Service(service) => all.push((service, Vec::new())),
                    Row::Server(server) => all.last_mut().ok_or_else(nonsense)?.1.push(server),
                }
            }
            from = next;
            if from.is_none() {
                return Ok(all);
            }
        }
    }
}

/// The status of a change.
fn changed(change: &Change, response: Response, own: bool) -> Result<i32, LineEnd> {
    match response {
        Response::Done { .. } => Ok(0),
        Response::Refused(refusal) => Err(Halt::refuse(messages::refusal(change, &refusal, own)).into()),
        _ => Err(nonsense()),
    }
}

/// A listing that is refused ends ipvsadm with status 1.
fn not_listed(refusal: &Refusal) -> LineEnd {
    Halt { message: messages::list_refusal(refusal), status: 1, ends: true }.into()
}

/// The mark whose packets a new service is for.
fn mark_of(change: &Change) -> Option<u32> {
    match change {
        Change::AddService(Service { key: ServiceKey::Mark { mark, .. }, .. }) => Some(*mark),
        _ => None,
    }
}

fn nonsense() -> LineEnd {
    LineEnd::Gateway("the gateway's answer doesn't match the request".into())
}
