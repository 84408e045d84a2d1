//! What operators ask: the members and their changes, the leadership. Each call has a deadline of its own, since an
//! operator's command is several of them.

use std::time::Instant;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::exchange::{Answer, Request};
use super::{Client, ClientError, Kind, get, json};
use crate::api::{ChangeReply, MembersReply, NewMember, TransferReply, TransferRequest};

const MEMBERS: &str = "/v1/cluster/members";

impl Client {
    /// The members as some reachable node knows them; they become known to the client.
    pub fn members(&self, until: Instant) -> Result<MembersReply, ClientError> {
        let read = |answer: &Answer| Some((answer.cluster().is_some(), json::<MembersReply>(answer)?));
        let (is_named, reply) = self.call_until(until, &get(MEMBERS), Kind::Read, read)?;
        if is_named {
            self.known().learn_members(&reply.members);
        }
        Ok(reply)
    }

    /// Adds a member as a learner. Adding the same one again is done already.
    pub fn add_member(&self, new: &NewMember, until: Instant) -> Result<ChangeReply, ClientError> {
        self.change("POST", MEMBERS.to_owned(), Some(new), until)
    }

    /// Removes the member of this name.
    pub fn remove_member(&self, node_id: &str, until: Instant) -> Result<ChangeReply, ClientError> {
        self.change("DELETE", member_target(node_id, ""), None::<&()>, until)
    }

    /// Makes a learner a voter.
    pub fn promote_member(&self, node_id: &str, until: Instant) -> Result<ChangeReply, ClientError> {
        self.change("POST", member_target(node_id, "/promote"), None::<&()>, until)
    }

    /// Hands the leadership over, to the member of this name or to the most advanced one.
    pub fn transfer_leadership(
        &self,
        node_id: Option<&str>,
        until: Instant,
    ) -> Result<TransferReply, ClientError> {
        let body = TransferRequest { node_id: node_id.map(str::to_owned) };
        self.change("POST", "/v1/cluster/leader".to_owned(), Some(&body), until)
    }

    fn change<T: DeserializeOwned>(
        &self,
        method: &'static str,
        target: String,
        body: Option<&impl Serialize>,
        until: Instant,
    ) -> Result<T, ClientError> {
        let body = body.map(|body| serde_json::to_vec(body).expect("plain data serialises"));
        // A length belongs to every POST.
        let empty = (method == "POST").then_some(&b""[..]);
        let request = Request { method, target, headers: Vec::new(), body: body.as_deref().or(empty) };
        self.call_until(until, &request, Kind::Change, |answer: &Answer| json(answer))
    }
}

fn member_target(node_id: &str, rest: &str) -> String {
    let name = percent_encoding::percent_encode(node_id.as_bytes(), super::SEGMENT);
    format!("{MEMBERS}/{name}{rest}")
}
