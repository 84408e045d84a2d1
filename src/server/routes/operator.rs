//! The thread that executes the requests of operators, one after the other. It may wait; the workers of the client
//! port never wait.

use std::sync::Arc;
use std::time::Instant;

use super::errors::failed;
use super::jobs::{Jobs, PoolOptions, Worker};
use super::params::invalid;
use crate::api::{ChangeReply, ErrorBody, ErrorCode, INDEX_HEADER, LeaderRef, TransferReply};
use crate::config::is_same_address;
use crate::node::{AdminFailure, AdminFailureKind, Failure, Newcomer, OperatorReply, OperatorRequest};
use crate::raft::Membership;
use crate::server::edge::Response;
use crate::server::peer::HttpBootstrap;
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
    Jobs::start(shared, &options, || Operator { shared: shared.clone(), calls: HttpBootstrap::default() })
}

struct Operator {
    shared: Arc<Shared>,
    calls: HttpBootstrap,
}

impl Worker<OperatorRequest> for Operator {
    fn answer(&mut self, request: OperatorRequest, deadline: Instant) -> Result<Response, ErrorBody> {
        let node = self.shared.node().ok_or_else(|| self.shared.uninitialized_error())?;
        if let OperatorRequest::Add(new) = &request {
            check_ports(&node.membership(), new)?;
        }
        match node.execute(&request, &self.calls, deadline).map_err(|failure| error(&failure))? {
            OperatorReply::Changed(index) => {
                Ok(Response::json(200, &ChangeReply { index }).with_header(INDEX_HEADER, index.to_string()))
            }
            OperatorReply::TransferredTo(member) => {
                Ok(Response::json(200, &TransferReply { leader: LeaderRef::from(&member) }))
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

/// An address at which a member has its other port is a mistake of the operator. It is reported before that address
/// is asked.
fn check_ports(membership: &Membership, new: &Newcomer) -> Result<(), ErrorBody> {
    for member in &membership.members {
        let slips = [
            ("raft_addr", &new.raft_addr, "http_addr", &member.http_addr),
            ("http_addr", &new.http_addr, "raft_addr", &member.raft_addr),
        ];
        if let Some((field, addr, other, _)) = slips.into_iter().find(|(_, a, _, b)| is_same_address(a, b)) {
            return Err(invalid(format!(
                "{field}: {addr}: it is the {other} of member {}; name the {field} of the new node, a port of its own",
                member.node_id
            )));
        }
    }
    Ok(())
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
