//! Listings of connections, and their timers.

use std::collections::HashMap;

use weir::clock::TICKS_PER_SECOND;

use super::{Replay, carried::same, shell};

/// Hundredths that a recording's real clock may have gone on since the packet: it ran through every event.
const LAG: u32 = 25;
/// Hundredths that Linux's timer wheel may be late each time that a persistence template waits again.
const TEMPLATE_LATE: u32 = 210;

fn seconds(expire: &str) -> Result<u32, String> {
    let part = |part: &str| part.parse::<u32>().map_err(|_| format!("{expire} is no time"));
    expire.split(':').try_fold(0, |total, p| Ok(total * 60 + part(p)?))
}

/// Whether a timer with so many ticks left may have been recorded as `expire`, which is cut to seconds.
pub fn same_time(ours: u32, expire: &str, late: u32) -> Result<(), String> {
    let recorded = seconds(expire)?;
    let earliest = ours.saturating_sub(LAG) / TICKS_PER_SECOND;
    let latest = (ours + late) / TICKS_PER_SECOND;
    let fits = (earliest..=latest).contains(&recorded);
    if fits { Ok(()) } else { Err(format!("expires in {ours} hundredths, recorded {expire}")) }
}

/// A line without its timer, whose columns must be the same, and the timer.
struct Line {
    text: String,
    expire: String,
}

impl Line {
    fn read(line: &str) -> Result<Self, String> {
        let wrong = || format!("{line:?} isn't a line of -Lnc");
        let expire = line.split_whitespace().nth(1).ok_or_else(wrong)?;
        seconds(expire).map_err(|_| wrong())?;
        let at = line.find(expire).ok_or_else(wrong)?;
        let mut text = line.trim_end().to_owned();
        text.replace_range(at..at + expire.len(), &"-".repeat(expire.len()));
        Ok(Self { text, expire: expire.to_owned() })
    }

    fn server(&self) -> String {
        self.text.split_whitespace().nth(5).unwrap_or_default().to_owned()
    }
}

/// How often templates have waited again, as far as the recording shows.
#[derive(Default)]
pub struct Templates(HashMap<String, (u32, u32)>);

impl Templates {
    /// Hundredths that a listed template may be late.
    fn late(&mut self, line: &Line) -> Result<u32, String> {
        let now = seconds(&line.expire)?;
        let (before, times) = self.0.entry(line.text.clone()).or_insert((now, 1));
        if now > *before {
            *times += 1;
        }
        *before = now;
        Ok(*times * TEMPLATE_LATE)
    }
}

impl Replay<'_> {
    /// Compares a listing of connections, whose order is that of a hash table in the kernel.
    pub(super) fn listing(
        &mut self,
        command: &str,
        recorded: &[&str],
        header: &[&str],
    ) -> Result<(), String> {
        let (status, stdout, stderr) = shell::run(&mut self.rig, command, &mut self.nft)?;
        same("status", &(status, stderr.as_str()), &(0, ""))?;
        let ours: Vec<&str> = stdout.lines().collect();
        let (ours_header, ours) = ours.split_at(2.min(ours.len()));
        let trimmed =
            |lines: &[&str]| -> Vec<String> { lines.iter().map(|l| l.trim_end().to_owned()).collect() };
        // A recording shows both lines, or that of the columns.
        let from = ours_header.len().saturating_sub(header.len().min(2));
        same("header", &trimmed(&ours_header[from..]), &trimmed(header))?;
        let sessions = self.rig.sessions();
        same("lines", &ours.len(), &sessions.len())?;
        let read = |line: &&str| Line::read(line);
        let mut ours: Vec<(Line, u32)> = ours
            .iter()
            .zip(&sessions)
            .map(|(line, session)| Ok((read(&self.aliases.recorded_line(line).as_str())?, session.expires)))
            .collect::<Result<_, String>>()?;
        for line in recorded.iter().map(read) {
            let line = line?;
            let late = if is_template(&line.text) { self.templates.late(&line)? } else { 0 };
            let fits = |(l, expires): &(Line, u32)| {
                l.text == line.text && same_time(*expires, &line.expire, late).is_ok()
            };
            match ours.iter().position(fits) {
                Some(at) => drop(ours.remove(at)),
                None if line.expire == "00:00" => *self.lingering.entry(line.server()).or_default() += 1,
                None => {
                    let near = ours.iter().map(|(l, expires)| format!("{} {expires}", l.text));
                    return Err(format!(
                        "{} {} isn't here: {:#?}",
                        line.text,
                        line.expire,
                        near.collect::<Vec<_>>()
                    ));
                }
            }
        }
        let rest: Vec<_> = ours.iter().map(|(line, _)| &line.text).collect();
        if rest.is_empty() { Ok(()) } else { Err(format!("sessions here only: {rest:?}")) }
    }
}

/// Templates have no client's port.
fn is_template(line: &str) -> bool {
    line.split_whitespace().nth(3).is_some_and(|client| client.ends_with(":0"))
}
