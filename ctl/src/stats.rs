//! `weirctl stats`: how packets ended, and for drops what to do about it.

use std::io::{self, Write};

use crate::{
    client::{ClientError, Transport},
    protocol::{PathCounter, Request, Response},
};

/// Why there are no counters to show.
#[derive(Debug, thiserror::Error)]
pub enum StatsError {
    /// The gateway can't be asked.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The gateway answered something else.
    #[error("the gateway didn't answer with its counters")]
    Unexpected,
    /// The counters can't be written.
    #[error("cannot write: {0}")]
    Output(#[from] io::Error),
}

/// Asks the gateway and writes a line a counter: name, sum, each worker's share if there are several. Reasons
/// to drop packets are shown where there have been any, with advice.
///
/// # Errors
/// Any [`StatsError`].
pub fn stats(transport: &mut dyn Transport, out: &mut dyn Write) -> Result<(), StatsError> {
    let Response::Counters(counters) = transport.call(Request::Counters)? else {
        return Err(StatsError::Unexpected);
    };
    counters.iter().try_for_each(|counter| line(counter, out)).map_err(StatsError::Output)
}

fn line(counter: &PathCounter, out: &mut dyn Write) -> io::Result<()> {
    let sum: u64 = counter.workers.iter().fold(0, |sum, n| sum.wrapping_add(*n));
    if counter.advice.is_some() && sum == 0 {
        return Ok(());
    }
    write!(out, "{:<24} {sum:>16}", counter.name)?;
    if counter.workers.len() > 1 {
        let shares: Vec<_> = counter.workers.iter().map(u64::to_string).collect();
        write!(out, "  ({})", shares.join(" + "))?;
    }
    match &counter.advice {
        Some(advice) => writeln!(out, "  {advice}"),
        None => writeln!(out),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Gateway(Vec<PathCounter>);

    impl Transport for Gateway {
        fn call(&mut self, request: Request) -> Result<Response, ClientError> {
            assert_eq!(request, Request::Counters);
            Ok(Response::Counters(self.0.clone()))
        }
    }

    fn counter(name: &str, advice: Option<&str>, workers: &[u64]) -> PathCounter {
        PathCounter { name: name.into(), advice: advice.map(Into::into), workers: workers.into() }
    }

    #[test]
    fn lines() {
        let mut gateway = Gateway(vec![
            counter("forwarded", None, &[5]),
            counter("punted", None, &[0]),
            counter("no-route", Some("Look at the routes."), &[1, 2]),
            counter("truncated", Some("Nothing to see."), &[0, 0]),
        ]);
        let mut out = Vec::new();
        stats(&mut gateway, &mut out).unwrap();
        let lines = [
            "forwarded                               5",
            "punted                                  0",
            "no-route                                3  (1 + 2)  Look at the routes.",
        ];
        assert_eq!(String::from_utf8(out).unwrap(), lines.map(|l| format!("{l}\n")).concat());
    }
}
