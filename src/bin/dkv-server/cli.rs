//! The server's command line: what can be written, and the help that says so. The man pages are made from it too.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// A heading of the help's own kind. Clap takes the escape codes out again where there is no colour.
macro_rules! heading {
    ($text:literal) => {
        concat!("\x1b[1m\x1b[4m", $text, "\x1b[0m\n")
    };
}

const MAIN_HELP: &str = concat!(
    heading!("Examples:"),
    "  dkv-server                           a store of one node, to try things
  dkv-server cluster configs/node*.yaml
                                       five nodes on this machine
  dkv-server --config /etc/dkv/node1.yaml
                                       one node of a cluster
  dkv-server --config node1.yaml --check-config
  dkv-server --config node1.yaml --restore dkv.backup
                                       a new cluster with an old one's state
  dkv-server --join 10.0.0.1:8081 --node-id n6 --data-dir /var/lib/dkv \\
      --raft-addr 10.0.0.6:18081 --http-addr 10.0.0.6:8081
                                       a new member of the cluster of 10.0.0.1
  dkv-server fsck data/node1           is what a stopped node has on disk whole?

",
    heading!("Signals:"),
    "  SIGTERM and SIGINT stop it: what is in flight is finished for at most 5
  seconds, a leader transfers its leadership, and the log is sealed. A second
  signal ends it at once. Nothing that was acknowledged is lost either way.
  SIGHUP opens the log file again. Where standard error is a terminal it stops
  the node, as does the window that is closed. SIGUSR1 and SIGUSR2 are ignored
  with a line.

",
    heading!("Exit codes:"),
    "  0  stopped
  1  failed at run time, or a port, an address, a name or the data directory
     was not there for start_timeout_s; the last lines of the log say why
  2  the configuration is refused; nothing was touched
  3  the data is corrupt
  4  the identity is refused, or this member was removed
  5  another program is needed: the last line says which one"
);

const CLUSTER_HELP: &str = concat!(
    heading!("Examples:"),
    "  dkv-server cluster configs/node*.yaml
  dkv-server cluster one.yaml two.yaml three.yaml

  Every line of a node is printed with its name in front. When one node ends the
  others go on. Data stays in the directories that the files name; LOCK in each
  of them holds the node's process id, which is printed too. Closing the window
  (SIGHUP) stops them all, unless it was started with nohup."
);

const RECOVER_HELP: &str = concat!(
    heading!("Examples:"),
    "  dkv-server recover --config node1.yaml
                                       what is there, and what would be lost
  dkv-server recover --config node1.yaml --force-new-cluster

  Only for when the majority of a cluster is gone for good: what the other
  members acknowledged and this one never received is lost. Everything in the
  log of this node is kept, committed or not. The node must be stopped. Its old
  files are moved to before-recovery-N in the data directory; nothing is
  deleted. A run that was cut short is finished by the same command.

  Afterwards the node starts with its configuration as a cluster of one member,
  with a new cluster id, and grows by dkv-server --join. The old members never
  take part in it: empty their data directories and let them join.

",
    heading!("Exit codes:"),
    "  0  done
  1  failed at run time
  2  refused; nothing was changed
  3  the data is corrupt
  4  the data directory belongs to another node
  5  another program is needed: the last line says which one"
);

const FSCK_HELP: &str = concat!(
    heading!("Verdicts and exit codes:"),
    "  0  clean      a start finds everything whole
  0  torn tail  the last write was not finished; a start cuts it off, and
                nothing that was acknowledged is lost
  0  damaged snapshot
                a start does without it: an older one and the log stand in
  1  refused    a file cannot be read
  2             DATA_DIR is none, or a process uses it
  3  rot        what was synced is damaged or gone: a start refuses
  4  refused    the log is another member's
  5  refused    only a later program reads it

  The first bad byte is printed with its file, and the last index, the term and
  the vote, and up to where the log itself proves that it was synced."
);

/// A replicated key-value store.
///
/// Without arguments: a store of one node, node1 on 127.0.0.1:8081, with its data in ./data/single.
#[derive(Parser)]
#[command(name = "dkv-server", version, max_term_width = 80, after_long_help = MAIN_HELP)]
#[command(subcommand_value_name = "COMMAND")]
#[command(after_help = "`dkv-server --help` says more, with examples.")]
pub struct Cli {
    /// The node's configuration, a file or a pipe; configs/sample.yaml shows every key.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Check the configuration, say what is wrong, and end: nothing is touched.
    #[arg(long)]
    pub check_config: bool,

    /// Stop when standard input ends: the process that holds its other end may die in any way.
    #[arg(long)]
    pub exit_with_stdin: bool,

    /// Bootstrap the cluster with the state of this backup; the data directory must be empty.
    ///
    /// Every initial member is started with the same file. The cluster gets a new cluster id; keys, revisions, history
    /// and idempotency keys are those of the backup. A file that is cut short or altered is refused before anything is
    /// written, and so is standard input: a backup is read more than once. Once the node is initialized the option has
    /// nothing more to do and can be left out.
    #[arg(long, value_name = "BACKUP", conflicts_with_all = ["join", "check_config"])]
    pub restore: Option<PathBuf>,

    /// How a node joins a cluster that runs.
    #[command(flatten)]
    pub join: JoinArgs,

    /// What to do instead of running one node.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// How a node joins a cluster that runs.
#[derive(Args)]
#[command(next_help_heading = "To join a cluster")]
pub struct JoinArgs {
    /// Join the cluster of the node whose http_addr this is; any member will do.
    ///
    /// It is let in as a learner, brought up to date, and becomes a voter by itself. Once it is a member this only says
    /// that it was not bootstrapped with the others, so that it can be started with the same command line every time.
    #[arg(long, value_name = "HOST:PORT")]
    pub join: Option<String>,

    /// Join this cluster and no other: its cluster id, 16 hexadecimal digits.
    ///
    /// By default the environment variable DKV_CLUSTER, and without that the cluster that the node of --join belongs to.
    #[arg(long, value_name = "ID", requires = "join")]
    pub cluster: Option<String>,

    /// Its name, which no other member has.
    #[arg(long, value_name = "NAME", requires = "join")]
    pub node_id: Option<String>,

    /// Where the members reach it.
    #[arg(long, value_name = "HOST:PORT", requires = "join")]
    pub raft_addr: Option<String>,

    /// Where clients reach it.
    #[arg(long, value_name = "HOST:PORT", requires = "join")]
    pub http_addr: Option<String>,

    /// Where it keeps its data: an empty directory at first.
    #[arg(long, value_name = "DIR", requires = "join")]
    pub data_dir: Option<PathBuf>,

    /// Stay a learner: a read replica that counts for no majority.
    #[arg(long, requires = "join")]
    pub learner: bool,
}

/// What can be done instead of running one node.
#[derive(Subcommand)]
pub enum Command {
    /// Start one node per file on this machine, in the foreground; Ctrl-C stops them all.
    #[command(after_long_help = CLUSTER_HELP)]
    Cluster {
        /// The nodes' configurations, configs/node*.yaml for instance.
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
        /// The program to start for each node, as PROGRAM --config FILE --exit-with-stdin; by default this one.
        #[arg(long)]
        program: Option<PathBuf>,
    },
    /// Make a new cluster of one member from the data directory of a node whose cluster is lost.
    #[command(after_long_help = RECOVER_HELP)]
    Recover {
        /// The configuration of the node whose data directory is left.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// Do it. Without this the command says what it found, changes nothing, and ends with 2.
        #[arg(long)]
        force_new_cluster: bool,
        /// Do not ask; needed where standard input is no terminal.
        #[arg(long)]
        yes: bool,
    },
    /// Read a data directory as a start would, say what is wrong with it, and change nothing.
    #[command(after_long_help = FSCK_HELP)]
    Fsck {
        /// The data directory of a node that is not running.
        data_dir: PathBuf,
    },
}
