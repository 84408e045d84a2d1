//! The thread that carries out what operators ask, one after the other. It may wait while it does; the workers of the client
//! port never do.

use std::sync::Arc;
use std::time::Instant;

use super::errors::failed;
use super::jobs::{Jobs, PoolOptions, Worker};
use crate::api::{ChangeReply, ErrorBody, ErrorCode, HandOverReply, INDEX_HEADER, LeaderRef};
use crate::node::{AdminFailure, AdminFailureKind, Failure, OperatorReply, OperatorRequest};
use crate::server::edge::Response;
use crate::server::peer::HttpFounding;
use crate::server::shared::Shared;

/// What may wait for the thread.
const QUEUE: usize = 64;

/// Starts the thread.
///
/// # Errors
/// The thread could not be started.
pub(super) fn start(shared: &Arc<Shared>) -> std::io::Result<Jobs<OperatorRequest>> {
    let options = PoolOptions {
        name: "admin",
        threads: 1,
        queue: QUEUE,
        full: "too many changes of the cluster wait already: try again",
    };
    Jobs::start(shared, &options, || Operator { shared: shared.clone(), calls: HttpFounding::default() })
}

struct Operator {
    shared: Arc<Shared>,
    calls: HttpFounding,
}

impl Worker<OperatorRequest> for Operator {
    fn answer(&mut self, request: OperatorRequest, deadline: Instant) -> Result<Response, ErrorBody> {
        let node = self.shared.node().ok_or_else(|| self.shared.unborn_error())?;
        match node.execute(&request, &self.calls, deadline).map_err(|failure| error(&failure))? {
            OperatorReply::Changed(index) => {
                Ok(Response::json(200, &ChangeReply { index }).with_header(INDEX_HEADER, index.to_string()))
            }
            OperatorReply::LedBy(member) => {
                Ok(Response::json(200, &HandOverReply { leader: LeaderRef::from(&member) }))
            }
        }
    }

    /// A member without a vote that hears no leader asks whether it was removed.
    fn rest(&mut self) {
        if let Some(node) = self.shared.node() {
            node.ask_whether_removed();
        }
    }
}

fn error(failure: &AdminFailure) -> ErrorBody {
    let conflict = || ErrorBody::new(ErrorCode::Conflict, failure.message.clone());
    match failure.kind {
        AdminFailureKind::NotFound => ErrorBody::new(ErrorCode::NotFound, failure.message.clone()),
        AdminFailureKind::Refused => conflict(),
        AdminFailureKind::UnderWay | AdminFailureKind::Conflict => conflict().as_temporary(),
        AdminFailureKind::NotLeader => ErrorBody::new(ErrorCode::Unavailable, failure.message.clone()),
        AdminFailureKind::Failed(kind) => failed(&Failure::new(kind, failure.message.clone())),
    }
}
