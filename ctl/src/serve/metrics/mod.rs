//! `/metrics`: node_exporter's names for IPVS, and Weir's own.
//!
//! A page is written piece by piece while it is sent, from one [`Look`]: what it takes is the look and one piece,
//! however many servers there are.

mod gateway;
mod servers;
mod text;

#[cfg(test)]
pub(super) mod samples;

use std::{ops::Range, sync::Arc};

use hyper::body::Bytes;
pub(super) use text::Format;
use text::Page;

use super::look::Look;
use servers::{Servers, Twins};

/// Bytes of a piece, roughly.
const PIECE: usize = 64 << 10;
/// Servers of a service that are written at once.
const STEP: usize = 128;

/// The metrics of a look, in pieces.
pub(super) fn pieces(look: Arc<Look>, format: Format) -> impl Iterator<Item = Bytes> + Send {
    let twins = Twins::of(&look);
    let mut place = Some(Place::default());
    std::iter::from_fn(move || {
        let mut out = String::with_capacity(PIECE + PIECE / 2);
        let mut page = Page { out: &mut out, format };
        while page.out.len() < PIECE {
            let Some(at) = place else { break };
            place = at.write(&look, &twins, &mut page);
        }
        (!out.is_empty()).then(|| out.into())
    })
}

/// What is written next.
#[derive(Clone, Copy, Default)]
struct Place {
    /// 0 is what isn't of services; then one of [`servers::ALL`] each.
    metric: usize,
    service: usize,
    server: usize,
}

impl Place {
    /// Writes what is next; the place after it, if there is one.
    fn write(self, look: &Look, twins: &Twins, page: &mut Page<'_>) -> Option<Self> {
        let Some(index) = self.metric.checked_sub(1) else {
            gateway::write(look, page);
            return Some(Self { metric: 1, ..Self::default() });
        };
        let Some(metric) = servers::ALL.get(index) else {
            page.end();
            return None;
        };
        let next_metric = Self { metric: self.metric + 1, ..Self::default() };
        if (self.service, self.server) == (0, 0) {
            page.head(&metric.metric);
        }
        let Some((row, servers)) = look.services.get(self.service) else { return Some(next_metric) };
        let range = Range { start: self.server, end: servers.len().min(self.server + STEP) };
        match &metric.of {
            Servers::Service(value) => {
                page.sample(&metric.metric, &[("service", &row.service.key)], value(row));
            }
            Servers::Each(value) => {
                for server in &servers[range.clone()] {
                    servers::sample(page, &metric.metric, &row.service.key, server, value(server));
                }
            }
            Servers::Ipvs(value) => {
                for server in &servers[range.clone()] {
                    servers::sample_ipvs(page, &metric.metric, &row.service.key, server, twins, *value);
                }
            }
        }
        if range.end < servers.len() && !matches!(metric.of, Servers::Service(_)) {
            return Some(Self { server: range.end, ..self });
        }
        Some(Self { service: self.service + 1, server: 0, ..self })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(look: Look, format: Format) -> String {
        let pieces: Vec<Bytes> = pieces(Arc::new(look), format).collect();
        assert!(pieces.iter().all(|p| p.len() < 2 * PIECE));
        String::from_utf8(pieces.concat()).unwrap()
    }

    #[test]
    fn every_metric_stands_once_with_all_its_samples() {
        let page = page(samples::look(30, 150), Format::Text);
        let (mut seen, mut now) = (std::collections::HashSet::new(), "");
        for line in page.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                now = rest.split(' ').next().unwrap();
                assert!(seen.insert(now), "{now} stands twice");
            } else if !line.starts_with('#') {
                let name = line.split(['{', ' ']).next().unwrap();
                assert_eq!(name, now);
            }
        }
        let count = |name: &str| page.lines().filter(|l| l.starts_with(name)).count();
        assert_eq!(count("node_ipvs_backend_weight{"), 30 * 150);
        assert_eq!(count("weir_server_connections_total{"), 30 * 150);
        assert_eq!(count("weir_service_connections_total{"), 30);
        let samples: Vec<&str> = page.lines().filter(|l| !l.starts_with('#')).collect();
        let series: std::collections::HashSet<&str> =
            samples.iter().map(|l| l.rsplit_once(' ').unwrap().0).collect();
        assert_eq!(series.len(), samples.len(), "a series stands twice");
    }

    #[test]
    fn names_and_labels_are_those_of_node_exporter() {
        let page = page(samples::marks(), Format::Text);
        for line in [
            "node_ipvs_connections_total 7",
            "node_ipvs_incoming_packets_total 70",
            "node_ipvs_outgoing_packets_total 60",
            "node_ipvs_incoming_bytes_total 7000",
            "node_ipvs_outgoing_bytes_total 6000",
            "node_ipvs_backend_connections_active{local_address=\"192.0.2.10\",local_port=\"80\",remote_address=\"10.0.0.1\",\
             remote_port=\"8080\",proto=\"TCP\",local_mark=\"\"} 4",
            "node_ipvs_backend_connections_inactive{local_address=\"2001:db8::10\",local_port=\"53\",\
             remote_address=\"2001:db8::1\",remote_port=\"53\",proto=\"UDP\",local_mark=\"\"} 5",
            // The same mark of both families towards one server: one series.
            "node_ipvs_backend_weight{local_address=\"\",local_port=\"0\",remote_address=\"10.0.0.1\",remote_port=\"8080\",\
             proto=\"FWM\",local_mark=\"0000001F\"} 2",
            "weir_server_weight{service=\"mark6/31\",server=\"10.0.0.1:8080\"} 1",
        ] {
            assert!(page.lines().any(|l| l == line), "{line}\n{page}");
        }
        assert_eq!(page.matches("node_ipvs_backend_weight{local_address=\"\"").count(), 1);
    }

    #[test]
    fn open_metrics_end() {
        assert!(page(samples::look(2, 2), Format::OpenMetrics).ends_with("\n# EOF\n"));
        assert!(!page(samples::look(2, 2), Format::Text).contains("EOF"));
    }

    #[test]
    fn a_hundred_thousand_servers_take_seconds_at_most() {
        let look = Arc::new(samples::look(10_000, 10));
        let start = std::time::Instant::now();
        let bytes: usize = pieces(look, Format::Text).map(|piece| piece.len()).sum();
        assert!(bytes > 50 << 20, "{bytes}");
        eprintln!("{bytes} bytes in {:?}", start.elapsed());
    }
}
