//! Pages of services and servers.
//!
//! Both are listed the newest first. A cursor names the service and the server listed last by their
//! sequence numbers, so what is added or removed between two pages never shifts the rest.

use weir_api::protocol::{ErrorCode, ListCursor, ListQuery, MAX_PAGE, Response, Row, ServerRow, ServiceRow};

use super::{
    Store,
    record::{Record, ServerEntry},
};
use crate::control::plane::Plane;

/// Above every sequence number.
const NEWEST: u64 = u64::MAX;

impl<P: Plane> Store<P> {
    pub(super) fn list(&self, query: &ListQuery) -> Response {
        let only = match &query.service {
            Some(key) => match self.keys.get(key) {
                Some(&sequence) => Some(sequence),
                None => return Response::Refused(ErrorCode::NoSuchService.into()),
            },
            None => None,
        };
        let from = query.from.unwrap_or(ListCursor { service: NEWEST, server: None });
        let mut rows = Vec::new();
        let max = query.max.clamp(1, MAX_PAGE) as usize;
        let next = self.fill(&mut rows, max, from, only);
        Response::Rows { rows, next }
    }

    /// Appends rows until there are `max`; where to go on. A local address counts as a row, so that a page
    /// fits into a frame however many a service has.
    fn fill(
        &self,
        rows: &mut Vec<Row>,
        max: usize,
        from: ListCursor,
        only: Option<u64>,
    ) -> Option<ListCursor> {
        let mut size = 0;
        let services = self.services.range(..=from.service).rev();
        for (&sequence, record) in services.filter(|(s, _)| only.is_none_or(|only| only == **s)) {
            let resumed = from.server.filter(|_| sequence == from.service);
            if resumed.is_none() {
                if size >= max {
                    return Some(ListCursor { service: sequence, server: None });
                }
                rows.push(Row::Service(self.service_row(record)));
                size += 1 + record.local_addresses.len();
            }
            let mut last = resumed.unwrap_or(NEWEST);
            for (number, entry) in record.newest_first(last) {
                if size >= max {
                    return Some(ListCursor { service: sequence, server: Some(last) });
                }
                rows.push(Row::Server(self.server_row(entry)));
                size += 1;
                last = number;
            }
        }
        None
    }

    fn service_row(&self, record: &Record) -> ServiceRow {
        let estimator = self.estimators.get(&record.id).map(|f| &f.estimator);
        ServiceRow {
            service: record.service.clone(),
            local_addresses: record.local_addresses.clone(),
            stats: estimator.map(super::estimator::Estimator::stats).unwrap_or_default(),
            rates: estimator.map(super::estimator::Estimator::rates).unwrap_or_default(),
        }
    }

    fn server_row(&self, entry: &ServerEntry) -> ServerRow {
        let totals = self.plane.totals(entry.id.slot());
        let estimator = self.ledger.account(entry.id).map(|a| &a.estimator);
        ServerRow {
            server: entry.server.clone(),
            active: totals.active,
            inactive: totals.inactive,
            persistent: totals.persistent,
            stats: estimator.map(super::estimator::Estimator::stats).unwrap_or_default(),
            rates: estimator.map(super::estimator::Estimator::rates).unwrap_or_default(),
        }
    }
}
