//! Transactions larger than a frame: changes that wait on one connection for their [`Request::Apply`].

use super::{Access, Change, ErrorCode, MAX_BATCH, MAX_TRANSACTION, Refusal, Request, Response};

/// The changes that wait on a connection.
#[derive(Debug, Default)]
pub struct StagedChanges {
    changes: Vec<Change>,
}

impl StagedChanges {
    /// Keeps the changes of [`Request::Stage`], which is answered here, and puts them before those of
    /// [`Request::Apply`]. Other requests pass.
    ///
    /// # Errors
    /// The answer, if the request goes no further.
    // The response is what the caller sends next; it is as large as any other.
    #[allow(clippy::result_large_err)]
    pub fn take(&mut self, request: Request, access: Access) -> Result<Request, Response> {
        match request {
            Request::Stage(_) if access == Access::ReadOnly => {
                Err(Response::Refused(ErrorCode::ReadOnly.into()))
            }
            Request::Stage(changes) => Err(self.add(changes)),
            Request::Apply(batch) if batch.changes.len() > MAX_BATCH => {
                self.changes = Vec::new();
                let detail = format!("{} changes in one batch, at most {MAX_BATCH}", batch.changes.len());
                Err(Response::Refused(Refusal::new(ErrorCode::BadRequest, detail)))
            }
            Request::Apply(mut batch) if !self.changes.is_empty() => {
                let mut changes = std::mem::take(&mut self.changes);
                changes.append(&mut batch.changes);
                batch.changes = changes;
                Ok(Request::Apply(batch))
            }
            other => Ok(other),
        }
    }

    fn add(&mut self, mut changes: Vec<Change>) -> Response {
        if changes.len() > MAX_BATCH || self.changes.len() + changes.len() > MAX_TRANSACTION {
            self.changes = Vec::new();
            let detail = format!("at most {MAX_BATCH} changes a frame and {MAX_TRANSACTION} at once");
            return Response::Refused(Refusal::new(ErrorCode::TooMany, detail));
        }
        self.changes.append(&mut changes);
        Response::Staged { changes: self.changes.len() as u32 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Batch;

    #[test]
    fn staged_changes_come_first_and_only_once() {
        let mut stage = StagedChanges::default();
        let zero = Change::Zero(None);
        let staged = stage.take(Request::Stage(vec![Change::Flush]), Access::ReadWrite);
        assert_eq!(staged, Err(Response::Staged { changes: 1 }));
        let apply = || Request::Apply(Batch { changes: vec![zero.clone()], expect_generation: Some(3) });
        assert_eq!(stage.take(Request::Info, Access::ReadWrite), Ok(Request::Info));
        let joined = Batch { changes: vec![Change::Flush, zero.clone()], expect_generation: Some(3) };
        assert_eq!(stage.take(apply(), Access::ReadWrite), Ok(Request::Apply(joined)));
        assert_eq!(stage.take(apply(), Access::ReadWrite), Ok(apply()));
    }

    #[test]
    fn readers_stage_nothing_and_writers_not_without_end() {
        let mut stage = StagedChanges::default();
        let refused = stage.take(Request::Stage(vec![Change::Flush]), Access::ReadOnly);
        assert_eq!(refused, Err(Response::Refused(ErrorCode::ReadOnly.into())));
        for _ in 0..MAX_TRANSACTION / MAX_BATCH {
            let full = stage.take(Request::Stage(vec![Change::Flush; MAX_BATCH]), Access::ReadWrite);
            assert!(matches!(full, Err(Response::Staged { .. })));
        }
        let Err(Response::Refused(refusal)) =
            stage.take(Request::Stage(vec![Change::Flush]), Access::ReadWrite)
        else {
            panic!("not refused")
        };
        assert_eq!(refusal.code, ErrorCode::TooMany);
        assert!(stage.changes.is_empty());
    }
}
