//! `/stub_status`: the four lines of nginx's module of that name, for whatever reads those.

use super::look::Look;

/// Reasons for which a session that a client wanted wasn't opened.
const REFUSED: [&str; 5] =
    ["no-server", "sessions-full", "local-ports-exhausted", "no-local-address", "method-not-built"];

/// Where nginx counts connections, sessions are counted: `Writing` are those that carry data (active), `Waiting` those
/// that are being opened or closed (inactive), `Reading` the rest of the table: of SNAT, for instance. `accepts` are
/// sessions that were wanted, `handled` those that were opened, `requests` packets forwarded.
pub(super) fn page(look: &Look) -> String {
    let servers = || look.services.iter().flat_map(|(_, servers)| servers);
    let writing: u64 = servers().map(|s| u64::from(s.active)).sum();
    let waiting: u64 = servers().map(|s| u64::from(s.inactive)).sum();
    let table: u64 = look.brief.status.workers.iter().map(|w| u64::from(w.sessions)).sum();
    let reading = table.saturating_sub(writing + waiting);
    let handled = look.brief.counter("sessions-opened");
    let refused: u64 = REFUSED.iter().map(|reason| look.brief.counter(reason)).sum();
    let requests = look.brief.counter("forwarded");
    let (active, accepts) = (reading + writing + waiting, handled + refused);
    format!(
        "Active connections: {active} \nserver accepts handled requests\n {accepts} {handled} {requests} \n\
         Reading: {reading} Writing: {writing} Waiting: {waiting} \n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::metrics::samples;

    #[test]
    fn four_lines_to_the_space() {
        let lines = [
            "Active connections: 10 ",
            "server accepts handled requests",
            " 27 21 300 ",
            "Reading: 1 Writing: 3 Waiting: 6 \n",
        ];
        assert_eq!(page(&samples::look(3, 1)), lines.join("\n"));
    }
}
