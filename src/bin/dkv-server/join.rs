//! A node that joins asks to be let in until it is.

use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded};
use dkv::api::{ChangeReply, ErrorCode, ErrorDetail, NewMember};
use dkv::client::{Client, ClientError};
use dkv::server::{Joining, PROTOCOL, ServerError};

use crate::CONFIG_ERROR;

/// Longest wait for one attempt, with all the nodes it asks.
const ATTEMPT: Duration = Duration::from_secs(10);

/// How long to wait before the cluster is asked again.
const ASK_EVERY: Duration = Duration::from_millis(500);

/// How often it says for what it waits, when that stays the same.
const SAY_EVERY: Duration = Duration::from_secs(5);

/// Exit code when the cluster refuses this node for good.
const IDENTITY_REFUSED: u8 = 4;

/// Exit code when the cluster needs another program of this node.
const OTHER_PROGRAM: u8 = 5;

/// Which cluster, and how.
pub struct Join {
    through: String,
    client: Client,
    promote: bool,
}

impl Join {
    /// Through the member whose client address this is; as a learner that stays one, or becomes a voter.
    ///
    /// It joins the cluster that this member belongs to, and no other than `cluster` when that is given.
    ///
    /// # Errors
    /// That is no address, or no cluster id.
    pub fn new(through: &str, cluster: Option<&str>, promote: bool) -> Result<Join, ClientError> {
        let client = Client::new(&[through], ATTEMPT)?.with_notices(|text| log::warn!("{text}"));
        let client = match cluster {
            Some(cluster) => client.keep_to(cluster)?,
            None => client,
        };
        Ok(Join { through: through.to_owned(), client, promote })
    }

    /// Asks in a thread of its own until the node is a member. The receiver gets the error of a cluster that refuses it
    /// for good.
    pub fn spawn(self, node: &dkv::config::Peer, joining: Joining) -> std::io::Result<Receiver<ServerError>> {
        let new = NewMember {
            node_id: node.node_id.clone(),
            member_id: Some(joining.member_id()),
            protocol: Some(PROTOCOL),
            raft_addr: node.raft_addr.clone(),
            http_addr: node.http_addr.clone(),
            promote: self.promote,
        };
        let (fail, failures) = bounded(1);
        std::thread::Builder::new().name("join".to_owned()).spawn(move || {
            match self.ask(&new, &joining) {
                // Kept to the end of the process: a receiver without a sender would look like a failure.
                Ok(()) => std::mem::forget(fail),
                Err(e) => drop(fail.send(e)),
            }
        })?;
        Ok(failures)
    }

    /// The node learns which cluster it joins before that cluster hears of it, so that no other one can take it in.
    fn let_in(&self, new: &NewMember, joining: &Joining) -> Result<ChangeReply, ClientError> {
        let until = Instant::now() + ATTEMPT;
        if self.client.cluster_id().is_none() {
            self.client.members(until)?;
        }
        let Some(cluster_id) = self.client.cluster_id() else {
            let text = format!("{} belongs to no cluster yet", self.through);
            return Err(ClientError::Unavailable(text));
        };
        joining.tell(&cluster_id);
        self.client.add_member(new, until)
    }

    fn ask(&self, new: &NewMember, joining: &Joining) -> Result<(), ServerError> {
        let mut said: Option<(String, Instant)> = None;
        loop {
            let trouble = match self.let_in(new, joining) {
                Ok(done) => {
                    log::info!(
                        "let into cluster {} by entry {}: its leader hands the cluster over",
                        self.client.cluster_id().unwrap_or_default(),
                        done.index
                    );
                    return Ok(());
                }
                Err(ClientError::Refused(detail)) if detail.temporary => detail.message,
                Err(ClientError::Refused(detail)) => return Err(self.refused(new, &detail)),
                Err(e) => e.to_string(),
            };
            if said.as_ref().is_none_or(|(text, at)| *text != trouble || at.elapsed() >= SAY_EVERY) {
                log::warn!("not let in through {} yet: {trouble}", self.through);
                said = Some((trouble, Instant::now()));
            }
            std::thread::sleep(ASK_EVERY);
        }
    }

    fn refused(&self, new: &NewMember, detail: &ErrorDetail) -> ServerError {
        let (through, name) = (&self.through, &new.node_id);
        let said = format!("the cluster of {through} does not let {name} in: {}", detail.message);
        let (exit_code, repair) = match detail.code {
            ErrorCode::Conflict => {
                let repair = format!(
                    "take another name and other addresses; or, if the member of that name is lost, run dkv-cli \
                     --endpoints {through} member replace {name} {name} and start this node again"
                );
                (IDENTITY_REFUSED, repair)
            }
            ErrorCode::Unsupported => (OTHER_PROGRAM, format!("this program speaks protocol {PROTOCOL}")),
            ErrorCode::UnknownRoute => (CONFIG_ERROR, "--join takes the http_addr of a member".to_owned()),
            _ => (CONFIG_ERROR, "correct the command line".to_owned()),
        };
        ServerError { exit_code, text: format!("{said}; {repair}") }
    }
}
