//! `weirctl events`: what has happened, and what happens.

use std::time::Duration;

use weir_api::{
    documents::{Body, events::Events},
    model::event::{EVENT_KINDS, Event, EventPage},
};

use super::{
    Failure, Moment, Style, Wake, World,
    cli::EventsArgs,
    fetch, json,
    style::{Tone, clean},
};

/// How long to wait for news before looking anyway: not every event is news.
const PATIENCE: Duration = Duration::from_millis(500);

pub(super) fn run(args: &EventsArgs, world: &mut World<'_>) -> Result<(), Failure> {
    let mut page = fetch::events(world.transport, args.from.unwrap_or_default())?;
    if let Some(limit) = args.limit {
        shorten(&mut page, args.from.is_some(), limit);
    }
    let mut from = page.next;
    // A document says so even if there are none.
    tell(page, args.json, true, world)?;
    if !args.follow {
        return Ok(());
    }
    world.pace.catch_interrupts()?;
    world.pace.follow_news();
    loop {
        match world.pace.wait(PATIENCE) {
            Wake::Interrupt => return Ok(()),
            Wake::Gone => return Err(Failure::Unreachable("the gateway has closed the connection".into())),
            Wake::Time | Wake::News | Wake::Resized => {}
        }
        let page = fetch::events(world.transport, from)?;
        if let Some(first) = page.events.first()
            && first.sequence > from
        {
            writeln!(world.err, "weirctl: {} events were too many to be kept", first.sequence - from)?;
        }
        from = page.next;
        tell(page, args.json, false, world)?;
    }
}

/// Leaves the first events from a number on that was given, or else the last ones.
fn shorten(page: &mut EventPage, first: bool, limit: usize) {
    let more = page.events.len().saturating_sub(limit);
    if first && more > 0 {
        page.events.truncate(limit);
        page.next = page.events.last().map_or(page.next, |event| event.sequence + 1);
    } else {
        page.events.drain(..more);
    }
}

fn tell(page: EventPage, as_json: bool, always: bool, world: &mut World<'_>) -> Result<(), Failure> {
    if page.events.is_empty() && !always {
        return Ok(());
    }
    if as_json {
        return Ok(json::write(world.out, Body::Events(Events::from(page)))?);
    }
    let offset = world.pace.moment().offset;
    for event in &page.events {
        writeln!(world.out, "{}", line(event, offset, world.style))?;
    }
    Ok(world.out.flush()?)
}

fn line(event: &Event, offset: Option<i32>, style: Style) -> String {
    let at = Moment { since_1970: Duration::from_millis(event.time), offset };
    let known = EVENT_KINDS.iter().find(|(_, name, _)| *name == event.kind);
    let tone = if known.is_some_and(|(kind, ..)| kind.is_trouble()) { Tone::Bad } else { Tone::Plain };
    let kind = style.paint(tone, &format!("{:<15}", clean(&event.kind)));
    format!("{} {}  {kind}  {}", at.date(), at.time_of_day(), clean(&event.text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(numbers: std::ops::Range<u64>) -> EventPage {
        let event = |sequence| Event {
            sequence,
            time: 1_700_000_000_000,
            kind: "link-down".into(),
            fields: Vec::new(),
            text: "port wan: the link is\tdown".into(),
        };
        EventPage { started: 1, next: numbers.end, events: numbers.map(event).collect() }
    }

    fn numbers(page: &EventPage) -> Vec<u64> {
        page.events.iter().map(|event| event.sequence).collect()
    }

    #[test]
    fn so_many_are_the_last_ones_or_the_first_from_a_number_on() {
        let mut last = page(3..9);
        shorten(&mut last, false, 2);
        assert_eq!((numbers(&last), last.next), (vec![7, 8], 9));
        let mut first = page(3..9);
        shorten(&mut first, true, 2);
        assert_eq!((numbers(&first), first.next), (vec![3, 4], 5));
        let mut all = page(3..9);
        shorten(&mut all, true, 6);
        assert_eq!((numbers(&all).len(), all.next), (6, 9));
    }

    #[test]
    fn a_line_has_date_and_time() {
        let event = &page(1..2).events[0];
        let told = line(event, Some(3600), Style::default());
        assert_eq!(told, "2023-11-14 23:13:20  link-down        port wan: the link is?down");
    }
}
