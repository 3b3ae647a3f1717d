//! `weirctl apply`, `diff` and `export`.

use std::{fs::File, path::Path};

use weir_api::{
    client::Transport,
    documents::{
        Body,
        change::{Applied, Difference},
    },
    input,
    model::{SCHEDULERS, Service},
    protocol::{Change, ErrorCode, Refusal},
};

use super::{
    Failure, World,
    cli::{ApplyArgs, DiffArgs, ExportArgs},
    fetch, file, file_rules, file_write, json, names,
    plan::{self, Plan, plan},
};

/// How often `apply` starts over when somebody else changes the configuration meanwhile.
const TRIES: u32 = 5;

pub(super) fn apply(args: &ApplyArgs, world: &mut World<'_>) -> Result<(), Failure> {
    let wanted = read(&args.file, world)?;
    let (plan, generation) = carry_out(&wanted, &args.file, args.expect_generation, world.transport)?;
    report(args.json, &plan, generation, world)
}

/// Makes the configuration what `text` says, as `apply` does, if its generation is `expected`.
///
/// # Errors
/// [`Failure::Usage`] if the text is wrong, [`Failure::Stale`] if the generation is another one, and whatever `apply` says.
pub fn replace(text: &str, expected: u64, transport: &mut dyn Transport) -> Result<Applied, Failure> {
    let name = Path::new("rules");
    let wanted = parse(name, text, transport)?;
    let (plan, generation) = carry_out(&wanted, name, Some(expected), transport)?;
    Ok(applied(&plan, generation))
}

/// What was changed, and the generation that came of it.
fn carry_out(
    wanted: &file::Wanted,
    path: &Path,
    expected: Option<u64>,
    transport: &mut dyn Transport,
) -> Result<(Plan, u64), Failure> {
    for _ in 0..TRIES {
        let now = fetch::snapshot(transport)?;
        if let Some(expected) = expected.filter(|e| *e != now.generation) {
            let message = format!(
                "the configuration has generation {}, not {expected}: nothing was changed",
                now.generation
            );
            return Err(Failure::Stale(message));
        }
        let plan = plan(&now, wanted);
        if plan.changes.is_empty() {
            return Ok((plan, now.generation));
        }
        let changes: Vec<Change> = plan.changes.iter().map(|(change, _)| change.clone()).collect();
        match fetch::apply(transport, &changes, Some(now.generation))? {
            Ok(generation) => return Ok((plan, generation)),
            Err(refusal) if refusal.code == ErrorCode::StaleGeneration => {
                if expected.is_some() {
                    return Err(Failure::Stale(format!("{refusal}: nothing was changed")));
                }
            }
            Err(refusal) => return Err(refused(path, &plan, &refusal)),
        }
    }
    Err(Failure::Refused("the configuration keeps changing: nothing was changed, try again".into()))
}

/// What was refused, where in the file, and the nearest right thing.
fn refused(path: &Path, plan: &Plan, refusal: &Refusal) -> Failure {
    let planned = refusal.change.and_then(|n| plan.changes.get(n as usize));
    let place = match planned {
        Some((_, Some(line))) => format!("{}:{line}: ", path.display()),
        _ => format!("{}: ", path.display()),
    };
    let (subject, hint) =
        planned.map(|(change, _)| (subject(change), hint(change, refusal))).unwrap_or_default();
    let readers = if refusal.code == ErrorCode::ReadOnly && refusal.detail.is_empty() {
        ": only root and the socket's group may make changes"
    } else {
        ""
    };
    Failure::Refused(format!("{place}{subject}{refusal}{hint}{readers}; nothing was changed"))
}

fn subject(change: &Change) -> String {
    let service = match change {
        Change::AddService(s) | Change::EditService(s) => &s.key,
        Change::DeleteService(key) => key,
        Change::SetClientAddress { service, .. } | Change::SetMasquerade { service, .. } => service,
        Change::AddLocalAddress { service, local } => {
            return format!("{}: local address {}: ", names::service(service), local.address);
        }
        Change::AddServer { service, server } | Change::EditServer { service, server } => {
            return format!(
                "{}: {}: ",
                names::service(service),
                names::endpoint(server.address, server.port)
            );
        }
        Change::AddSnat(rule) | Change::EditSnat(rule) => return format!("SNAT rule {}: ", rule.name),
        Change::AddMark(rule) => return format!("mark rule {}: ", rule.mark),
        Change::DeleteServer { service, .. } | Change::DeleteLocalAddress { service, .. } => service,
        _ => return String::new(),
    };
    format!("{}: ", names::service(service))
}

fn hint(change: &Change, refusal: &Refusal) -> String {
    match (change, refusal.code) {
        (
            Change::AddService(Service { scheduler, .. }) | Change::EditService(Service { scheduler, .. }),
            ErrorCode::UnknownScheduler,
        ) if !SCHEDULERS.contains(&scheduler.as_str()) => match names::nearest(scheduler, &SCHEDULERS) {
            Some(near) => names::did_you_mean(Some(near)),
            None => format!(", one of {}", SCHEDULERS.join(", ")),
        },
        _ => String::new(),
    }
}

fn applied(plan: &Plan, generation: u64) -> Applied {
    Applied { changed: !plan.changes.is_empty(), generation, changes: plan.lines.clone() }
}

fn report(as_json: bool, plan: &Plan, generation: u64, world: &mut World<'_>) -> Result<(), Failure> {
    if as_json {
        return Ok(json::write(world.out, Body::Apply(applied(plan, generation)))?);
    }
    show(plan, world)?;
    match plan.changes.len() {
        0 => writeln!(world.out, "nothing to change, generation {generation}")?,
        n => writeln!(world.out, "{n} changes applied, generation {generation}")?,
    }
    Ok(())
}

fn show(plan: &Plan, world: &mut World<'_>) -> Result<(), Failure> {
    for line in &plan.lines {
        writeln!(
            world.out,
            "{}",
            world.style.paint(plan::sign(line.kind).1, &super::style::clean(&plan::text(line)))
        )?;
    }
    Ok(())
}

pub(super) fn diff(args: &DiffArgs, world: &mut World<'_>) -> Result<(), Failure> {
    let wanted = read(&args.file, world)?;
    let now = fetch::snapshot(world.transport)?;
    let plan = plan(&now, &wanted);
    if args.json {
        let different = !plan.changes.is_empty();
        let difference = Difference { different, generation: now.generation, changes: plan.lines.clone() };
        json::write(world.out, Body::Diff(difference))?;
    } else {
        show(&plan, world)?;
        match plan.changes.len() {
            0 => writeln!(world.out, "no difference, generation {}", now.generation)?,
            n => writeln!(world.out, "{n} changes to apply to generation {}", now.generation)?,
        }
    }
    if args.exit_code && !plan.changes.is_empty() {
        return Err(Failure::Unfinished(format!("{} differs from the configuration", args.file.display())));
    }
    Ok(())
}

pub(super) fn export(args: &ExportArgs, world: &mut World<'_>) -> Result<(), Failure> {
    let snapshot = fetch::snapshot(world.transport)?;
    if args.json {
        return Ok(json::write(world.out, Body::Export(file_write::document(&snapshot)))?);
    }
    let text = file_write::write(&snapshot).map_err(Failure::Refused)?;
    Ok(world.out.write_all(text.as_bytes())?)
}

fn read(path: &Path, world: &mut World<'_>) -> Result<file::Wanted, Failure> {
    let unreadable = |e: std::io::Error| Failure::Usage(format!("{}: {e}", path.display()));
    let text = if path == Path::new("-") {
        input::read_text(&mut *world.input, input::LONGEST)
    } else {
        File::open(path).and_then(|file| input::read_text(file, input::LONGEST))
    };
    parse(path, &text.map_err(unreadable)?, world.transport)
}

/// What a file says; `-m` in rules is what it means to the gateway.
fn parse(path: &Path, text: &str, transport: &mut dyn Transport) -> Result<file::Wanted, Failure> {
    let wanted = if file_rules::is(text) {
        file_rules::read(text, fetch::masquerade(transport)?.default)
    } else {
        file::read(text)
    };
    wanted.map_err(|error| {
        let line = error.line.map(|l| format!(":{l}")).unwrap_or_default();
        Failure::Usage(format!("{}{line}: {}", path.display(), error.message))
    })
}
