//! `weirctl stats --watch`: the same again and again, with the time of day and with rates.
//!
//! On a terminal it is drawn in place, cut to its size, on a screen of its own, as watch(1) does; anywhere else one
//! block follows another.

use std::{collections::HashMap, net::IpAddr, time::Duration};

use weir_api::model::{Rates, ServiceKey, Stats};

use super::{
    Failure, Pace, Wake, World,
    cli::StatsArgs,
    stats::{self, Look},
};

/// How long to wait for news before looking anyway.
const PATIENCE: Duration = Duration::from_secs(2);
/// News that follow each other faster are taken together,
const BREATH: Duration = Duration::from_millis(100);
/// but not for longer than this.
const MOST_BREATHS: u32 = 10;

/// The gateway reads the counters of services and servers every 2 s; what stands still for longer has stopped.
const STILL: Duration = Duration::from_millis(2500);

/// A screen of its own without cursor.
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
/// All of that undone.
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";

/// Shows the statistics until somebody interrupts it, and leaves the terminal as it was.
pub(super) fn run(args: &StatsArgs, only: Option<ServiceKey>, world: &mut World<'_>) -> Result<(), Failure> {
    // What is wrong at once is told on the ordinary screen.
    let first = stats::look(only, world)?;
    world.pace.catch_interrupts()?;
    world.pace.follow_news();
    if args.json || !world.style.redraw {
        return follow(args, only, first, world);
    }
    world.pace.follow_resizes()?;
    world.out.write_all(ENTER.as_bytes())?;
    let ended = follow(args, only, first, world);
    world.out.write_all(LEAVE.as_bytes())?;
    world.out.flush()?;
    ended
}

fn follow(
    args: &StatsArgs,
    only: Option<ServiceKey>,
    mut look: Look,
    world: &mut World<'_>,
) -> Result<(), Failure> {
    let mut speeds = Speeds::default();
    loop {
        speeds.take(&mut look);
        let text = if args.json { look.document()? } else { look.block(args, only, world.style)? };
        loop {
            show(args, &text, world)?;
            match next(world.pace)? {
                AfterWait::Look => break,
                AfterWait::Redraw => {}
                AfterWait::End => return Ok(()),
            }
        }
        look = stats::look(only, world)?;
    }
}

/// What to do after a wait.
enum AfterWait {
    Look,
    Redraw,
    End,
}

fn next(pace: &mut dyn Pace) -> Result<AfterWait, Failure> {
    let mut wake = pace.wait(PATIENCE);
    for _ in 0..MOST_BREATHS {
        if wake != Wake::News {
            break;
        }
        wake = pace.wait(BREATH);
    }
    match wake {
        Wake::Time | Wake::News => Ok(AfterWait::Look),
        Wake::Resized => Ok(AfterWait::Redraw),
        Wake::Interrupt => Ok(AfterWait::End),
        Wake::Gone => {
            let at = pace.moment().time_of_day();
            Err(Failure::Unreachable(format!("the gateway has closed the connection, at {at}")))
        }
    }
}

fn show(args: &StatsArgs, text: &str, world: &mut World<'_>) -> Result<(), Failure> {
    if args.json {
        world.out.write_all(text.as_bytes())?;
    } else if world.style.redraw {
        let size = world.pace.screen().map_or((usize::MAX, usize::MAX), |(c, r)| (c.into(), r.into()));
        world.out.write_all(frame(text, size).as_bytes())?;
    } else {
        write!(world.out, "\n{text}")?;
    }
    Ok(world.out.flush()?)
}

/// The output that draws `text` over a screen of this many columns and rows. Each line clears the rest of its row,
/// and the last one the rest of the screen, so that nothing flickers.
fn frame(text: &str, (columns, rows): (usize, usize)) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let mut shown: Vec<String> = lines.iter().take(rows).map(|line| cut(line, columns)).collect();
    if lines.len() > rows
        && let Some(last) = shown.last_mut()
    {
        let more = lines.len() - rows + 1;
        *last = cut(&format!("{more} more lines: name a service, or see weirctl top"), columns);
    }
    format!("\x1b[H{}\x1b[K\x1b[J", shown.join("\x1b[K\r\n"))
}

/// As much of a line as fits into this many columns; colours aren't counted, and end where they did.
fn cut(line: &str, columns: usize) -> String {
    let (mut shown, mut in_colour) = (0, false);
    let kept = line.chars().filter(|&c| {
        let colour = in_colour || c == '\x1b';
        in_colour = colour && c != 'm';
        shown += usize::from(!colour);
        colour || shown <= columns
    });
    kept.collect()
}

/// A service, or one of its servers.
type Row = (ServiceKey, Option<(IpAddr, u16)>);

/// What was seen before, to tell how fast it grows.
#[derive(Default)]
struct Speeds {
    /// Sums of counters at the last look.
    counters: Option<(Duration, HashMap<String, u64>)>,
    /// Counters as last read, and the rates since the time before.
    rows: Option<(Duration, HashMap<Row, Stats>)>,
    rates: HashMap<Row, Rates>,
}

impl Speeds {
    /// Puts rates into a look, and remembers it. At first the services have those that the gateway estimates.
    fn take(&mut self, look: &mut Look) {
        let sums: HashMap<String, u64> =
            look.counters.iter().map(|c| (c.name.clone(), stats::sum(c))).collect();
        if let Some((at, before)) = &self.counters {
            let interval = look.at.saturating_sub(*at);
            look.interval = Some(interval);
            let rate = |(name, now): (&String, &u64)| {
                (name.clone(), per_second(*now, before.get(name).copied().unwrap_or(*now), interval))
            };
            look.counter_rates = sums.iter().map(rate).collect();
        }
        self.counters = Some((look.at, sums));
        self.take_rows(look);
        for (row, servers) in &mut look.services {
            let key = row.service.key;
            row.rates = self.rates.get(&(key, None)).copied().unwrap_or(row.rates);
            for s in servers {
                let place = Some((s.server.address, s.server.port));
                s.rates = self.rates.get(&(key, place)).copied().unwrap_or(s.rates);
            }
        }
    }

    /// The gateway reads these counters from time to time, not whenever somebody looks. Rates are over the time between two
    /// readings.
    fn take_rows(&mut self, look: &Look) {
        let rows = look.services.iter().flat_map(|(row, servers)| {
            let key = row.service.key;
            let of_servers =
                servers.iter().map(move |s| ((key, Some((s.server.address, s.server.port))), s.stats));
            std::iter::once(((key, None), row.stats)).chain(of_servers)
        });
        let rows: HashMap<Row, Stats> = rows.collect();
        if let Some((at, before)) = &self.rows {
            let interval = look.at.saturating_sub(*at);
            let both = || rows.iter().filter_map(|(row, now)| Some((row, now, before.get(row)?)));
            if both().all(|(_, now, before)| now == before) && interval <= STILL {
                return;
            }
            self.rates = both().map(|(row, now, before)| (*row, rates(now, before, interval))).collect();
        }
        self.rows = Some((look.at, rows));
    }
}

/// What has been reset meanwhile hasn't grown.
fn per_second(now: u64, before: u64, interval: Duration) -> u64 {
    let grown = now.saturating_sub(before) as f64;
    if interval.is_zero() { 0 } else { (grown / interval.as_secs_f64()).round() as u64 }
}

fn rates(now: &Stats, before: &Stats, interval: Duration) -> Rates {
    let of = |f: fn(&Stats) -> u64| per_second(f(now), f(before), interval);
    Rates {
        connections: of(|s| s.connections),
        in_packets: of(|s| s.in_packets),
        out_packets: of(|s| s.out_packets),
        in_bytes: of(|s| s.in_bytes),
        out_bytes: of(|s| s.out_bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weir_api::{
        model::{Family, PathCounter},
        protocol::ServiceRow,
    };

    #[test]
    fn frames_are_cut_to_the_screen() {
        let all = (usize::MAX, usize::MAX);
        assert_eq!(frame("a\nb\n", (1, 2)), "\x1b[Ha\x1b[K\r\nb\x1b[K\x1b[J");
        assert_eq!(frame("a\nb\n", all), frame("a\nb\n", (1, 2)));
        let short = frame("a\nb\nc\nd\n", (80, 3));
        assert!(short.starts_with("\x1b[Ha\x1b[K\r\nb\x1b[K\r\n2 more lines"), "{short:?}");
        assert_eq!(frame("a\n", (1, 0)), "\x1b[H\x1b[K\x1b[J");
        assert_eq!(cut("\x1b[1mabc\x1b[0md", 2), "\x1b[1mab\x1b[0m");
        assert_eq!(cut("abc", 3), "abc");
    }

    fn look(at: u64, packets: u64, counter: u64) -> Look {
        let key = ServiceKey::Mark { mark: 1, family: Family::V4 };
        let service = weir_api::model::Service {
            key,
            scheduler: "rr".into(),
            scheduler_flags: 0,
            persistent: None,
            netmask: u32::MAX,
            one_packet: false,
            engine: None,
        };
        let stats = Stats { in_packets: packets, ..Stats::default() };
        let rates = Rates { in_packets: 7, ..Rates::default() };
        let row = ServiceRow { service, local_addresses: Vec::new(), stats, rates };
        let counter = PathCounter { name: "forwarded".into(), advice: None, workers: vec![counter] };
        Look::new(Duration::from_millis(at), vec![(row, Vec::new())], vec![counter])
    }

    #[test]
    fn rates_are_over_the_time_between_two_looks() {
        let mut speeds = Speeds::default();
        let mut seen = |at, packets, counter| {
            let mut look = look(at, packets, counter);
            speeds.take(&mut look);
            (look.services[0].0.rates.in_packets, look.counter_rates.get("forwarded").copied())
        };
        assert_eq!(seen(0, 100, 1000), (7, None), "the gateway's estimate at first");
        assert_eq!(seen(500, 100, 1500), (7, Some(1000)), "the gateway hasn't read its counters again");
        assert_eq!(seen(2000, 300, 1500), (100, Some(0)));
        assert_eq!(seen(2500, 300, 1501), (100, Some(2)));
        assert_eq!(seen(4000, 300, 1501), (100, Some(0)));
        assert_eq!(seen(5000, 300, 1501), (0, Some(0)), "it has stopped");
        assert_eq!(seen(7000, 20, 0), (0, Some(0)), "it was reset");
        assert_eq!(seen(9000, 40, 10), (10, Some(5)));
    }
}
