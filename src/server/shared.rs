//! The state that both ports share: the configuration, and the node once it is initialized.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use super::edge::{Header, PortCounters, Response};
use crate::api::{
    self, ErrorBody, ErrorCode, LeaderRef, MemberInfo, PeerMode, PeerStatus, RoleName, StatusReply,
};
use crate::config::{Config, Limits, Peer};
use crate::node::Node;
use crate::node::bootstrap::BootstrapPort;
use crate::raft::{Mode, PROTOCOL, RoleKind};
use crate::store::FIRST_REVISION;

/// Shared by the handlers of both ports.
pub(super) struct Shared {
    config: Config,
    joins: bool,
    started: Instant,
    bootstrap: OnceLock<BootstrapPort>,
    node: OnceLock<Arc<Node>>,
    ports: OnceLock<[PortCounters; 2]>,
    is_stopping: AtomicBool,
}

impl Shared {
    /// Nothing is initialized yet; `joins` when this node waits to be added to a cluster instead of bootstrapping
    /// one.
    pub(super) fn new(config: Config, joins: bool) -> Shared {
        Shared {
            config,
            joins,
            started: Instant::now(),
            bootstrap: OnceLock::new(),
            node: OnceLock::new(),
            ports: OnceLock::new(),
            is_stopping: AtomicBool::new(false),
        }
    }

    /// The node's configuration file.
    pub(super) fn config(&self) -> &Config {
        &self.config
    }

    /// The limits of client requests.
    pub(super) fn limits(&self) -> &Limits {
        &self.config.limits
    }

    /// How long a client's request may take.
    pub(super) fn request_timeout(&self) -> Duration {
        Duration::from_millis(self.config.request_timeout_ms)
    }

    /// The running member, once initialized.
    pub(super) fn node(&self) -> Option<&Arc<Node>> {
        self.node.get()
    }

    pub(super) fn set_node(&self, node: Arc<Node>) {
        assert!(self.node.set(node).is_ok(), "a node is initialized once");
    }

    /// What the client port and the peer port count, once both are served.
    pub(super) fn ports(&self) -> Option<&[PortCounters; 2]> {
        self.ports.get()
    }

    pub(super) fn set_ports(&self, ports: [PortCounters; 2]) {
        assert!(self.ports.set(ports).is_ok(), "ports are opened once");
    }

    /// What a node that is not initialized answers its peers.
    pub(super) fn bootstrap(&self) -> Option<&BootstrapPort> {
        self.bootstrap.get()
    }

    pub(super) fn set_bootstrap(&self, port: BootstrapPort) {
        assert!(self.bootstrap.set(port).is_ok(), "one bootstrap");
    }

    pub(super) fn stop_bootstrap(&self) {
        if let Some(port) = self.bootstrap.get() {
            port.stop();
        }
    }

    pub(super) fn begin_stop(&self) {
        self.is_stopping.store(true, Ordering::Relaxed);
    }

    /// Whether the server is stopping.
    pub(super) fn is_stopping(&self) -> bool {
        self.is_stopping.load(Ordering::Relaxed)
    }

    /// The leader, as far as this node knows.
    pub(super) fn leader(&self) -> Option<LeaderRef> {
        let leader = self.node()?.leader()?;
        Some(LeaderRef { node_id: leader.node_id.clone(), http_addr: leader.http_addr.clone() })
    }

    /// The headers that every answer has. They say what this node knows, nothing that a request said.
    pub(super) fn headers(&self) -> Vec<Header> {
        let mut headers = vec![(api::NODE_HEADER, self.config.node_id.clone())];
        headers.extend(self.node().map(|node| (api::CLUSTER_HEADER, node.cluster_id().to_string())));
        let leader = self.node().and_then(|node| node.leader());
        headers.extend(leader.map(|leader| (api::LEADER_HEADER, leader.http_addr.clone())));
        headers
    }

    /// Adds the headers that every answer has.
    pub(super) fn decorate(&self, mut response: Response) -> Response {
        response.headers.extend(self.headers());
        response
    }

    /// The answer to a request for data before the cluster is initialized.
    pub(super) fn uninitialized_error(&self) -> ErrorBody {
        let text = match self.joins {
            true => "this node is not let into its cluster yet: it waits for that cluster's leader",
            false if self.config.peers.len() == 1 => {
                "the store is not initialized yet: the first start is under way"
            }
            false => "the cluster is not initialized yet: every node of `peers` must have been started once",
        };
        ErrorBody::new(ErrorCode::Unavailable, text)
    }

    /// The members that this node knows. Before a bootstrap these are the members of the configuration file; a node
    /// that waits to join knows none.
    pub(super) fn members(&self) -> Vec<MemberInfo> {
        match self.node() {
            Some(node) => node.membership().members.iter().map(MemberInfo::from).collect(),
            None if self.joins => Vec::new(),
            None => {
                let bootstrap = |p: &Peer| MemberInfo {
                    node_id: p.node_id.clone(),
                    member_id: None,
                    raft_addr: p.raft_addr.clone(),
                    http_addr: p.http_addr.clone(),
                    voter: true,
                    promote: false,
                };
                self.config.peers.iter().map(bootstrap).collect()
            }
        }
    }

    /// Why `/readyz` fails.
    pub(super) fn not_ready(&self) -> Option<String> {
        if self.is_stopping() {
            return Some("the node is stopping".to_owned());
        }
        match self.node() {
            None => Some(self.uninitialized_error().error.message),
            Some(node) => node.ready().err(),
        }
    }

    /// `GET /v1/status`.
    pub(super) fn status(&self) -> StatusReply {
        let uptime_ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let version = env!("CARGO_PKG_VERSION").to_owned();
        let Some(node) = self.node() else {
            let member_id = self.bootstrap().map(|port| port.uninitialized().member_id.to_string());
            return StatusReply {
                node_id: self.config.node_id.clone(),
                member_id: member_id.unwrap_or_default(),
                cluster_id: None,
                role: RoleName::Uninitialized,
                term: 0,
                leader: None,
                commit: 0,
                applied: 0,
                persisted: 0,
                last: 0,
                revision: FIRST_REVISION,
                floor: FIRST_REVISION,
                state_hash: String::new(),
                uptime_ms,
                version,
                protocol: PROTOCOL,
                protocol_in_force: None,
                peers: Vec::new(),
            };
        };
        let status = node.status();
        let leader = status.leader.as_ref();
        StatusReply {
            node_id: status.node_id,
            member_id: status.member_id.to_string(),
            cluster_id: Some(status.cluster_id.to_string()),
            role: match status.role {
                RoleKind::Follower => RoleName::Follower,
                RoleKind::PreCandidate => RoleName::PreCandidate,
                RoleKind::Candidate => RoleName::Candidate,
                RoleKind::Leader => RoleName::Leader,
            },
            term: status.term,
            leader: leader.map(LeaderRef::from),
            commit: status.commit_index,
            applied: status.store_index,
            persisted: status.persisted_index,
            last: status.last_index,
            revision: status.revision,
            floor: status.floor,
            state_hash: format!("{:032x}", status.state_hash),
            uptime_ms,
            version,
            protocol: status.protocol,
            protocol_in_force: Some(status.version),
            peers: (status.peers.iter())
                .map(|p| PeerStatus {
                    node_id: p.node_id.clone(),
                    member_id: p.member_id.to_string(),
                    voter: p.voter,
                    mode: Some(match p.mode {
                        Mode::Probe => PeerMode::Probe,
                        Mode::Replicate => PeerMode::Replicate,
                        Mode::Snapshot => PeerMode::Snapshot,
                        Mode::Lost => PeerMode::Lost,
                    }),
                    match_index: p.match_index,
                    lag: p.match_index.map(|_| p.lag),
                    reachable: p.is_reachable,
                    protocol: p.protocol,
                    has_lost_entries: p.mode == Mode::Lost,
                })
                .collect(),
        }
    }
}
