//! From a configuration to a running server: the order in which things are opened, and in which they end.

use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};

use super::admin;
use super::backups;
use super::client_api::ClientApi;
use super::fdlimit;
use super::gate::{self, ErrorHeaders, GateLimits};
use super::http::{HttpServer, PortOptions};
use super::peer_api::PeerApi;
use super::peer_client::{HttpFounding, HttpPeers};
use super::restore::Restore;
use super::shared::Shared;
use super::upstream::RunDir;
use crate::config::Config;
use crate::node::birth::{BirthError, Born, IdentityConfig, Opened, open};
use crate::node::founding::{Founding, FoundingError, FoundingInbox, founding_port};
use crate::node::recover::check_finished;
use crate::node::{Deliveries, Listeners, Node, NodeOptions, PeerList};
use crate::raft::{PROTOCOL, Settings};
use crate::store::disk::RealDisk;
use crate::store::identity::{DataDirLock, IdentityError};
use crate::store::wal::WalOptions;

/// For so many members a node that joins has room in any case.
const LIKELY_MEMBERS: usize = 5;

/// How long a leader that stops waits for another one.
const HAND_OVER_PATIENCE: Duration = Duration::from_secs(1);

/// Why a server does not start, or ends: one line for the operator, and the exit code.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub struct ServerError {
    /// 1 run-time failure, 2 configuration, 3 data corrupt, 4 identity refused, 5 another program is needed.
    pub exit_code: u8,
    /// What happened, where, and what to do.
    pub text: String,
}

impl ServerError {
    pub(super) fn new(exit_code: u8, text: impl Into<String>) -> ServerError {
        ServerError { exit_code, text: text.into() }
    }
}

impl From<IdentityError> for ServerError {
    fn from(e: IdentityError) -> ServerError {
        ServerError::new(e.exit_code(), e.to_string())
    }
}

impl From<BirthError> for ServerError {
    fn from(e: BirthError) -> ServerError {
        ServerError::new(e.exit_code(), e.to_string())
    }
}

impl From<FoundingError> for ServerError {
    fn from(e: FoundingError) -> ServerError {
        ServerError::new(e.exit_code(), e.to_string())
    }
}

/// A running server. [`Server::stop`] ends it in order.
pub struct Server {
    shared: Arc<Shared>,
    client_port: HttpServer,
    peer_port: HttpServer,
    founding: Option<JoinHandle<()>>,
    failures: Receiver<ServerError>,
    /// Kept, so that `failures` never ends by itself when the founding does.
    _fail: Sender<ServerError>,
    lock: DataDirLock,
}

impl Server {
    /// Opens ports, data directory and log, in the order in which a mistake in the configuration is found before
    /// anything is touched, and serves. A node without a log waits in the background to be born; one that `joins` a
    /// cluster never founds one, and waits until that cluster has let it in. With `restore` the cluster that is founded
    /// begins with that backup.
    ///
    /// # Errors
    /// With the exit code and a line for the operator.
    pub fn start(config: Config, joins: bool, restore: Option<&Path>) -> Result<Server, ServerError> {
        // The members of the other cluster are not known yet.
        let members = if joins { config.peers.len().max(LIKELY_MEMBERS) } else { config.peers.len() };
        let client_listener = bind("listen_http", config.listen_http())?;
        let peer_listener = bind("listen_raft", config.listen_raft())?;
        let limit =
            fdlimit::raise().map_err(|e| ServerError::new(1, format!("cannot raise the file limit: {e}")))?;
        let plan = fdlimit::plan(limit, members, config.limits.max_connections)
            .map_err(|e| ServerError::new(2, e.to_string()))?;
        if plan.is_reduced() {
            log::warn!(
                "only {limit} open files are allowed: {} requests are served at a time instead of {}; raise `ulimit -n`",
                plan.client_upstream,
                fdlimit::WANTED_UPSTREAM
            );
        }
        let restore = restore.map(|path| Restore::prepare(path, &config.data_dir)).transpose()?;
        let lock = DataDirLock::take(&config.data_dir)?;
        check_finished(&config.data_dir).map_err(|text| ServerError::new(2, text))?;
        let runtime = |what: &'static str| {
            let dir = config.data_dir.display().to_string();
            move |e: std::io::Error| ServerError::new(1, format!("{dir}: cannot {what}: {e}"))
        };
        let disk = Arc::new(RealDisk::open(&config.data_dir).map_err(runtime("open it"))?);
        let opened =
            open(disk, WalOptions { segment_bytes: config.segment_bytes }, &identity_config(&config, joins))?;
        let run_dir = Arc::new(
            RunDir::prepare(&config.data_dir.join("run"))
                .map_err(runtime("make its directory for sockets"))?,
        );
        let shared = Arc::new(Shared::new(config, joins));
        let peer_api = Arc::new(PeerApi::default());
        let (fail, failures) = bounded(1);
        // Whoever is asked before the node is born must be able to say that it is not.
        let unborn = match opened {
            Opened::Born(born) => {
                if let Some(restore) = restore {
                    let found = born.found.found().expect("checked when it was opened");
                    restore.check_born(&shared.config().data_dir, found.restored)?;
                }
                start_node(&shared, &peer_api, *born, &fail)?;
                None
            }
            Opened::Unborn(mut founding) => {
                if let Some(backup) = restore.and_then(Restore::into_backup) {
                    log::info!("the cluster is to begin with a backup: {}", backup.restored());
                    founding.restore(backup);
                }
                let (port, inbox) = founding_port(&founding);
                peer_api.become_unborn(port.clone());
                shared.set_founding(port);
                Some((founding, inbox))
            }
        };
        let limits = shared.limits();
        let gate_limits = GateLimits {
            max_connections: plan.client_connections,
            max_body_bytes: limits.max_request_bytes,
            head_timeout: Duration::from_millis(limits.transfer_timeout_ms.min(5_000)),
            body_timeout: Duration::from_millis(limits.transfer_timeout_ms),
            write_timeout: Duration::from_millis(limits.transfer_timeout_ms),
            idle_timeout: Duration::from_millis(limits.idle_timeout_ms),
            answer_timeout: shared.request_timeout() + Duration::from_secs(5),
            ..GateLimits::default()
        };
        let mut client =
            PortOptions::client(run_dir.clone(), plan.client_upstream.min(limits.upstream_connections));
        client.limits = gate_limits;
        client.lanes[0].parked_limit = client.lanes[0].parked_limit.min(limits.max_parked);
        // Weak: what is shared knows the ports, too.
        let of_node = Arc::downgrade(&shared);
        client.error_headers =
            ErrorHeaders::new(move || of_node.upgrade().map_or_else(Vec::new, |shared| shared.headers()));
        let mut peer = PortOptions::peer(run_dir, members);
        peer.limits.max_connections = plan.peer_connections;
        peer.limits.answer_timeout = shared.request_timeout() + Duration::from_secs(5);
        let port = |e: std::io::Error| ServerError::new(1, format!("cannot serve the ports: {e}"));
        let peer_port = HttpServer::start(peer_listener, peer, peer_api.clone()).map_err(port)?;
        let thread = |e| ServerError::new(1, format!("cannot start a thread: {e}"));
        let client_api = ClientApi::new(
            shared.clone(),
            admin::start(&shared).map_err(thread)?,
            backups::start(&shared).map_err(thread)?,
        );
        let client_port = HttpServer::start(client_listener, client, Arc::new(client_api)).map_err(port)?;
        shared.set_ports([client_port.counters(), peer_port.counters()]);
        log::info!(
            "{} serves clients on {} and members on {}",
            shared.config().node_id,
            shared.config().listen_http(),
            shared.config().listen_raft()
        );
        let founding = unborn
            .map(|(founding, inbox)| spawn_founding(&shared, &peer_api, *founding, inbox, fail.clone()))
            .transpose()
            .map_err(thread)?;
        Ok(Server { shared, client_port, peer_port, founding, failures, _fail: fail, lock })
    }

    /// The identity of a node that is not born yet; nothing once it is.
    pub fn unborn_member_id(&self) -> Option<String> {
        if self.shared.node().is_some() {
            return None;
        }
        self.shared.founding().map(|port| port.unborn().member_id.to_string())
    }

    /// Receives the error that ends a server which is already running.
    pub fn failures(&self) -> &Receiver<ServerError> {
        &self.failures
    }

    /// Stops accepting, lets what is in flight finish for at most `grace`, seals the log.
    pub fn stop(self, grace: Duration) {
        self.shared.begin_stop();
        // Whoever leads next is found at once instead of after an election timeout, and serves what waits here.
        if let Some(node) = self.shared.node()
            && !node.hand_over(HAND_OVER_PATIENCE)
        {
            log::info!("nobody took the leadership over: the others elect a leader when this node is gone");
        }
        self.client_port.shutdown(grace);
        if let Some(founding) = self.founding {
            self.shared.stop_founding();
            // It is inside a call to a peer at most, which is bounded.
            let _ = founding.join();
        }
        if let Some(node) = self.shared.node()
            && !node.stop(grace)
        {
            log::warn!("a thread did not end in {grace:?}: it ends with the process");
            // It may still write: nobody else may open the directory before the kernel has ended it.
            std::mem::forget(self.lock);
        }
        self.peer_port.shutdown(Duration::from_millis(500));
    }
}

fn bind(field: &str, address: &str) -> Result<TcpListener, ServerError> {
    let refused =
        |e: std::io::Error, fix: &str| ServerError::new(2, format!("{field}: {address}: {e}; {fix}"));
    let resolved: SocketAddr = address
        .to_socket_addrs()
        .map_err(|e| refused(e, "name an address of this machine"))?
        .next()
        .ok_or_else(|| ServerError::new(2, format!("{field}: {address}: the name has no address")))?;
    gate::bind(resolved).map_err(|e| match e.kind() {
        std::io::ErrorKind::AddrInUse => {
            refused(e, "another process listens there: stop it, or choose another port")
        }
        _ => refused(e, "name an address of this machine and a port that this user may use"),
    })
}

fn identity_config(config: &Config, joins: bool) -> IdentityConfig {
    let peer = |p: &crate::config::Peer| crate::node::Peer {
        node_id: p.node_id.clone(),
        raft_addr: p.raft_addr.clone(),
        http_addr: p.http_addr.clone(),
    };
    IdentityConfig {
        node_id: config.node_id.clone(),
        peers: PeerList::from(config.peers.iter().map(peer).collect::<Vec<_>>()),
        settings: Settings {
            retention_revisions: config.retention_revisions,
            retention_bytes: config.retention_bytes,
            idempotency_window_s: config.idempotency_window_s,
            idempotency_rows: config.idempotency_rows,
        },
        listen_raft: config.listen_raft.is_some(),
        joins,
    }
}

/// Waits to be born, then runs the node; an error ends the server.
fn spawn_founding(
    shared: &Arc<Shared>,
    peer_api: &Arc<PeerApi>,
    founding: Founding,
    inbox: FoundingInbox,
    fail: Sender<ServerError>,
) -> std::io::Result<JoinHandle<()>> {
    let (shared, peer_api) = (shared.clone(), peer_api.clone());
    std::thread::Builder::new().name("founding".to_owned()).spawn(move || {
        let be_born = || match founding.run(&inbox, &HttpFounding::default()) {
            Ok(Some(born)) => start_node(&shared, &peer_api, born, &fail),
            Ok(None) => Ok(()),
            Err(e) => Err(e.into()),
        };
        // Without this thread the node would wait for ever, so its end is the server's.
        let defect = |_| Err(ServerError::new(1, "the founding thread panicked: the text above says where"));
        if let Err(e) = catch_unwind(AssertUnwindSafe(be_born)).unwrap_or_else(defect) {
            // The first failure ends the server; a second one has nothing to add.
            drop(fail.try_send(e));
        }
    })
}

fn start_node(
    shared: &Arc<Shared>,
    peer_api: &PeerApi,
    born: Born,
    fail: &Sender<ServerError>,
) -> Result<(), ServerError> {
    peer_api.become_starting();
    born.warnings.iter().for_each(|warning| log::warn!("{warning}"));
    let config = shared.config();
    let birth_record = born.birth_record();
    let options = NodeOptions {
        cluster_id: born.ids.cluster_id,
        node_id: config.node_id.clone(),
        member_id: born.ids.member_id,
        heartbeat: Duration::from_millis(config.heartbeat_ms),
        election_timeout: Duration::from_millis(config.election_timeout_ms),
        append_hold: Duration::from_millis(config.append_hold_ms()),
        disk_stall: Duration::from_millis(config.disk_stall_ms),
        seed: getrandom::u64().map_err(|e| ServerError::new(1, format!("no random numbers: {e}")))?,
        snapshot_log_bytes: config.snapshot_log_bytes,
        snapshot_log_entries: config.snapshot_log_entries,
        protocol: PROTOCOL,
        hold_version: config.hold_version,
        check_invariants: config.debug.check_invariants,
    };
    let peers = Arc::new(HttpPeers::new(&birth_record));
    let deliveries = Deliveries::new(birth_record.clone(), Box::new(HttpFounding::default()));
    let removed = format!(
        "member {} ({}) was removed from cluster {}: this node has nothing more to do; to let it join again, empty {} and \
         start it with --join",
        options.node_id,
        options.member_id,
        options.cluster_id,
        config.data_dir.display()
    );
    let fail = fail.clone();
    let listeners = Listeners {
        on_unborn: deliveries.on_unborn(),
        // One place: the first failure ends the server, and a second one has nothing to add.
        on_removed: Box::new(move || drop(fail.try_send(ServerError::new(4, removed.clone())))),
    };
    let node = Node::start(options, born.stored, peers, listeners)
        .map_err(|e| ServerError::new(1, format!("cannot start a thread: {e}")))?;
    peer_api.become_born(birth_record, Arc::new(node.clone()));
    shared.set_node(node);
    Ok(())
}
