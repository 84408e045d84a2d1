//! From a request to its operation.

use std::sync::Arc;

use super::api::{Call, ClientApi};
use super::calls::CallCounters;
use super::flat;
use super::params;
use super::table::{self, Dialect, Effect, Matched, OPERATIONS};
use crate::api::{ErrorBody, ErrorCode, ErrorOutcome};
use crate::server::edge::{Handler, Reply, Request, Response};
use crate::server::shared::Shared;

/// Makes the handler of the client port and starts the threads that it needs.
///
/// # Errors
/// A thread could not be started.
pub(in crate::server) fn start(shared: &Arc<Shared>) -> std::io::Result<ClientApi> {
    ClientApi::start(shared, CallCounters::new(OPERATIONS.iter().map(|operation| operation.id)))
}

impl Handler for ClientApi {
    fn handle(&self, mut request: Request, reply: Reply) {
        let error = match table::find(request.method, &request.path) {
            Matched::Operation(at, parameter) => {
                let operation = &OPERATIONS[at];
                self.calls.count(at);
                let fits = match operation.pattern.starts_with("/v1/") {
                    true => self.check_cluster(&request),
                    false => Ok(()),
                };
                request.headers.retain(|(header, _)| operation.headers.contains(header));
                let call = Call {
                    request,
                    parameter,
                    may_wait: operation.may_wait,
                    is_read: operation.effect == Effect::Read,
                };
                return match fits {
                    Ok(()) => (operation.handler)(self, call, reply),
                    Err(error) => self.send_error(reply, error, &call),
                };
            }
            Matched::OtherMethod(operation) => {
                let allow = table::allow(operation.pattern);
                let response = match operation.dialect {
                    Dialect::V1 => {
                        let text = format!("this route has the methods {allow}");
                        Response::error(&refusal(&request, ErrorCode::MethodNotAllowed, text))
                    }
                    Dialect::Flat => flat::method_not_allowed(&allow),
                };
                response.with_header("Allow", allow)
            }
            Matched::Nothing => {
                let text = format!("no such route; there are {}", table::patterns().join(", "));
                Response::error(&refusal(&request, ErrorCode::UnknownRoute, text))
            }
        };
        let shared = self.shared.clone();
        reply.send(move || shared.decorate(error));
    }
}

impl ClientApi {
    /// A client that keeps to one cluster says which: a node of another one does nothing for it.
    fn check_cluster(&self, request: &Request) -> Result<(), ErrorBody> {
        let (Some(wanted), Some(node)) = (params::meant_for(request)?, self.shared.node()) else {
            return Ok(());
        };
        let own = node.cluster_id().to_string();
        if wanted == own {
            return Ok(());
        }
        let text =
            format!("this node belongs to cluster {own}, and the request is meant for cluster {wanted}");
        Err(ErrorBody::new(ErrorCode::Conflict, text))
    }
}

fn refusal(request: &Request, code: ErrorCode, text: String) -> ErrorBody {
    let body = ErrorBody::new(code, text);
    if request.method.is_read() { body.with_outcome(ErrorOutcome::NotDone) } else { body }
}
