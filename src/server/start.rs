//! From a configuration to a running server: the order in which things are opened, and in which they end.

use std::net::TcpListener;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};

use super::ServerError;
use super::edge::{EdgeLimits, ErrorHeaders, HttpServer, PortOptions, RunDir, fdlimit};
use super::peer::{HttpBootstrap, HttpPeers, PeerApi};
use super::restore::Restore;
use super::routes;
use super::shared::Shared;
use super::start_wait::StartWait;
use crate::api::is_cluster_id;
use crate::config::Config;
use crate::node::bootstrap::{Bootstrap, BootstrapInbox, BootstrapPort, bootstrap_port};
use crate::node::data_dir::{IdentityConfig, Initialized, Opened, open};
use crate::node::recover::check_finished;
use crate::node::{BootstrapSender, Listeners, Node, NodeOptions, PeerList};
use crate::raft::{ClusterId, PROTOCOL, Settings};
use crate::store::disk::RealDisk;
use crate::store::identity::DataDirLock;
use crate::store::wal::WalOptions;

/// A node that joins has room for at least this many members.
const LIKELY_MEMBERS: usize = 5;

/// How long a leader that stops waits for another leader.
const TRANSFER_PATIENCE: Duration = Duration::from_secs(1);

/// A running server. [`Server::stop`] ends it in order.
pub struct Server {
    shared: Arc<Shared>,
    client_port: HttpServer,
    peer_port: HttpServer,
    peer_api: Arc<PeerApi>,
    bootstrap: Option<JoinHandle<()>>,
    failures: Receiver<ServerError>,
    /// Kept, so that `failures` never ends by itself when the bootstrap does.
    _fail: Sender<ServerError>,
    lock: DataDirLock,
}

/// A node that waits to be let into a cluster.
pub struct Joining(BootstrapPort);

impl Joining {
    /// Its identity.
    pub fn member_id(&self) -> String {
        self.0.uninitialized().member_id.to_string()
    }

    /// Which cluster it joins, by its id: it is initialized into no other, even when another one lists it as a member.
    /// The first word counts.
    pub fn tell(&self, cluster_id: &str) {
        if let Some(id) =
            is_cluster_id(cluster_id).then(|| u64::from_str_radix(cluster_id, 16).ok()).flatten()
        {
            self.0.join(ClusterId(id));
        }
    }
}

impl Server {
    /// Opens ports, data directory and log, in the order in which a mistake in the configuration is found before
    /// anything is touched, and serves. A node without a log waits in the background to be initialized; one that
    /// `joins` a cluster never bootstraps one, and waits until that cluster has let it in. With `restore` the cluster
    /// that is initialized begins with that backup. What is not there yet is waited for as long as `wait` says.
    ///
    /// # Errors
    /// With the exit code and a line for the operator.
    pub fn start(
        config: Config,
        joins: bool,
        restore: Option<&Path>,
        wait: &mut StartWait<'_>,
    ) -> Result<Server, ServerError> {
        let ports = Ports::bind(&config, joins, wait)?;
        let directory = Directory::open(&config, joins, restore, wait)?;
        let Directory { lock, opened, restore, run_dir } = directory;
        let shared = Arc::new(Shared::new(config, joins));
        let peer_api = Arc::new(PeerApi::default());
        let (fail, failures) = bounded(1);
        // A node that is asked before it is initialized must be able to say that it is not initialized.
        let uninitialized = wire(&shared, &peer_api, opened, restore, &fail)?;
        let (client_port, peer_port) = ports.serve(&shared, &peer_api, run_dir)?;
        log::info!(
            "{} serves clients on {} and members on {}",
            shared.config().node_id,
            shared.config().listen_http(),
            shared.config().listen_raft()
        );
        let bootstrap = uninitialized
            .map(|(bootstrap, inbox)| spawn_bootstrap(&shared, &peer_api, *bootstrap, inbox, fail.clone()))
            .transpose()
            .map_err(no_thread)?;
        Ok(Server { shared, client_port, peer_port, peer_api, bootstrap, failures, _fail: fail, lock })
    }

    #[cfg(test)]
    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// What a node that is not initialized yet has to be told when it joins a cluster; nothing once it is initialized.
    pub fn joining(&self) -> Option<Joining> {
        if self.shared.node().is_some() {
            return None;
        }
        self.shared.bootstrap().cloned().map(Joining)
    }

    /// Receives the error that ends a server which is already running.
    pub fn failures(&self) -> &Receiver<ServerError> {
        &self.failures
    }

    /// Stops accepting, lets what is in flight finish for at most `grace`, seals the log.
    pub fn stop(self, grace: Duration) {
        self.shared.begin_stop();
        if let Some(node) = self.shared.node() {
            node.begin_stop();
        }
        // The next leader is found immediately instead of after an election timeout, and serves the requests that
        // wait here. An only voter has no member to transfer the leadership to.
        if let Some(node) = self.shared.node()
            && node.membership().voters().count() > 1
            && !node.transfer_leadership(TRANSFER_PATIENCE)
        {
            log::info!("nobody took the leadership over: the others elect a leader when this node is gone");
        }
        self.client_port.shutdown(grace);
        if let Some(bootstrap) = self.bootstrap {
            self.shared.stop_bootstrap();
            // At most it is inside a call to a peer, and every call is bounded.
            let _ = bootstrap.join();
        }
        // Until here it took part: its clients' last writes needed it.
        self.peer_api.begin_stop();
        if let Some(node) = self.shared.node()
            && !node.stop(grace)
        {
            log::warn!("a thread did not end in {grace:?}: it ends with the process");
            // It may still write: no other process may open the directory before the kernel has ended this one.
            std::mem::forget(self.lock);
        }
        self.peer_port.shutdown(Duration::from_millis(500));
    }
}

fn no_thread(e: std::io::Error) -> ServerError {
    ServerError::new(1, format!("cannot start a thread: {e}"))
}

/// Both listeners, and how many connections there is room for.
struct Ports {
    client: TcpListener,
    peer: TcpListener,
    members: usize,
    plan: fdlimit::Plan,
}

impl Ports {
    /// Takes the addresses of the configuration, before anything on the disk is touched.
    fn bind(config: &Config, joins: bool, wait: &mut StartWait<'_>) -> Result<Ports, ServerError> {
        // The members of the other cluster are not known yet.
        let members = if joins { config.peers.len().max(LIKELY_MEMBERS) } else { config.peers.len() };
        let [client, peer] = wait.ports(config)?;
        let limit =
            fdlimit::raise().map_err(|e| ServerError::new(1, format!("cannot raise the file limit: {e}")))?;
        let plan = fdlimit::plan(limit, members, config.limits.max_connections)
            .map_err(|e| ServerError::new(2, e.to_string()))?;
        if plan.is_reduced {
            log::warn!(
                "only {limit} open files are allowed: {} client connections are served at a time instead of {}; raise `ulimit -n`",
                plan.client_connections,
                config.limits.max_connections
            );
        }
        Ok(Ports { client, peer, members, plan })
    }

    /// Serves both: first the members', whose first answers say whether this node is initialized.
    fn serve(
        self,
        shared: &Arc<Shared>,
        peer_api: &Arc<PeerApi>,
        run_dir: Arc<RunDir>,
    ) -> Result<(HttpServer, HttpServer), ServerError> {
        let Ports { client, peer, members, plan } = self;
        let failed = |e: std::io::Error| ServerError::new(1, format!("cannot serve the ports: {e}"));
        let mut options = PortOptions::peer(run_dir.clone(), members);
        options.takes_over = PeerApi::takes_over;
        options.limits.max_connections = plan.peer_connections;
        options.limits.answer_timeout = answer_timeout(shared);
        let peer_port = HttpServer::start(peer, options, peer_api.clone()).map_err(failed)?;
        let handler = routes::start(shared).map_err(no_thread)?;
        let options = client_options(shared, &plan, run_dir);
        let client_port = HttpServer::start(client, options, Arc::new(handler)).map_err(failed)?;
        shared.set_ports([client_port.counters(), peer_port.counters()]);
        Ok((client_port, peer_port))
    }
}

/// A handler answers by the request's deadline. After this additional time no answer is expected.
fn answer_timeout(shared: &Shared) -> Duration {
    shared.request_timeout() + Duration::from_secs(5)
}

fn client_options(shared: &Arc<Shared>, plan: &fdlimit::Plan, run_dir: Arc<RunDir>) -> PortOptions {
    let limits = shared.limits();
    let mut options = PortOptions::client(run_dir, limits.max_requests_inside);
    options.limits = EdgeLimits {
        max_connections: plan.client_connections,
        max_body_bytes: limits.max_request_bytes,
        head_timeout: Duration::from_millis(limits.transfer_timeout_ms.min(5_000)),
        body_timeout: Duration::from_millis(limits.transfer_timeout_ms),
        write_timeout: Duration::from_millis(limits.transfer_timeout_ms),
        idle_timeout: Duration::from_millis(limits.idle_timeout_ms),
        max_slow_writers: limits.max_slow_writers,
        answer_timeout: answer_timeout(shared),
        ..EdgeLimits::default()
    };
    options.lanes[0].waiting_limit = options.lanes[0].waiting_limit.min(limits.max_parked);
    options.headers = routes::headers();
    options.takes_over = routes::takes_over;
    // Weak, because the shared state also refers to the ports.
    let of_node = Arc::downgrade(shared);
    options.error_headers =
        ErrorHeaders::new(move || of_node.upgrade().map_or_else(Vec::new, |shared| shared.headers()));
    options
}

/// The data directory, locked and read.
struct Directory {
    lock: DataDirLock,
    opened: Opened,
    /// The backup that the cluster is to begin with.
    restore: Option<Restore>,
    /// Where the sockets go.
    run_dir: Arc<RunDir>,
}

impl Directory {
    fn open(
        config: &Config,
        joins: bool,
        restore: Option<&Path>,
        wait: &mut StartWait<'_>,
    ) -> Result<Directory, ServerError> {
        let restore = restore.map(|path| Restore::prepare(path, &config.data_dir)).transpose()?;
        let lock = wait.lock(config)?;
        check_finished(&config.data_dir).map_err(|text| ServerError::new(2, text))?;
        if let Some(line) = lock.make_private() {
            log::warn!("{line}");
        }
        let runtime = |what: &'static str| {
            let dir = config.data_dir.display().to_string();
            move |e: std::io::Error| ServerError::new(1, format!("{dir}: cannot {what}: {e}"))
        };
        let disk = Arc::new(RealDisk::open(&config.data_dir).map_err(runtime("open it"))?);
        let opened = open(disk, WalOptions::new(config.segment_bytes), &identity_config(config, joins))?;
        let run_dir = Arc::new(
            RunDir::prepare(&config.data_dir.join("run"))
                .map_err(runtime("make its directory for sockets"))?,
        );
        Ok(Directory { lock, opened, restore, run_dir })
    }
}

/// Makes what was opened answer the peer port: a member runs from now on, a node without a log says so and is returned, to
/// be initialized.
fn wire(
    shared: &Arc<Shared>,
    peer_api: &PeerApi,
    opened: Opened,
    restore: Option<Restore>,
    fail: &Sender<ServerError>,
) -> Result<Option<(Box<Bootstrap>, BootstrapInbox)>, ServerError> {
    match opened {
        Opened::Initialized(initialized) => {
            if let Some(restore) = restore {
                let genesis = initialized.genesis.genesis().expect("checked when it was opened");
                restore.check_initialized(&shared.config().data_dir, genesis.restored)?;
            }
            start_node(shared, peer_api, *initialized, fail)?;
            Ok(None)
        }
        Opened::Uninitialized(mut bootstrap) => {
            if let Some(backup) = restore.and_then(Restore::into_backup) {
                log::info!("the cluster is to begin with a backup: {}", backup.restored());
                bootstrap.restore(backup);
            }
            let (port, inbox) = bootstrap_port(&bootstrap);
            peer_api.become_uninitialized(port.clone());
            shared.set_bootstrap(port);
            Ok(Some((bootstrap, inbox)))
        }
    }
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
            idempotency_bytes: config.idempotency_bytes,
        },
        listen_raft: config.listen_raft.is_some(),
        joins,
    }
}

/// Waits to be initialized, then runs the node; an error ends the server.
fn spawn_bootstrap(
    shared: &Arc<Shared>,
    peer_api: &Arc<PeerApi>,
    bootstrap: Bootstrap,
    inbox: BootstrapInbox,
    fail: Sender<ServerError>,
) -> std::io::Result<JoinHandle<()>> {
    let (shared, peer_api) = (shared.clone(), peer_api.clone());
    std::thread::Builder::new().name("bootstrap".to_owned()).spawn(move || {
        let be_initialized = || match bootstrap.run(&inbox, &HttpBootstrap::default()) {
            Ok(Some(initialized)) => start_node(&shared, &peer_api, initialized, &fail),
            Ok(None) => Ok(()),
            Err(e) => Err(e.into()),
        };
        // Without this thread the node would wait without end, so the server ends with this thread.
        let defect = |_| Err(ServerError::new(1, "the bootstrap thread panicked: the text above says where"));
        if let Err(e) = catch_unwind(AssertUnwindSafe(be_initialized)).unwrap_or_else(defect) {
            // The first failure ends the server; a second one has nothing to add.
            drop(fail.try_send(e));
        }
    })
}

fn start_node(
    shared: &Arc<Shared>,
    peer_api: &PeerApi,
    initialized: Initialized,
    fail: &Sender<ServerError>,
) -> Result<(), ServerError> {
    peer_api.become_starting();
    initialized.warnings.iter().for_each(|warning| log::warn!("{warning}"));
    let config = shared.config();
    let bootstrap_record = initialized.bootstrap_record();
    let options = NodeOptions {
        cluster_id: initialized.ids.cluster_id,
        node_id: config.node_id.clone(),
        member_id: initialized.ids.member_id,
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
    let peers = Arc::new(HttpPeers::new(&bootstrap_record));
    let bootstrap_sender = BootstrapSender::new(bootstrap_record.clone(), Box::new(HttpBootstrap::default()));
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
        on_uninitialized: bootstrap_sender.on_uninitialized(),
        // One place: the first failure ends the server, and a second one has nothing to add.
        on_removed: Box::new(move || drop(fail.try_send(ServerError::new(4, removed.clone())))),
        on_members_changed: Box::new({
            let peer_api = peer_api.clone();
            move |is_removed| peer_api.end_links_of(is_removed)
        }),
    };
    let node = Node::start(options, initialized.stored, peers, listeners)
        .map_err(|e| ServerError::new(1, format!("cannot start a thread: {e}")))?;
    if initialized.is_new_cluster {
        node.begin_first_term();
    }
    peer_api.become_initialized(bootstrap_record, Arc::new(node.clone()));
    shared.set_node(node);
    Ok(())
}
