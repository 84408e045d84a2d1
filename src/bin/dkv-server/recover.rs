//! `dkv-server recover`: offline, and only on purpose.

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use dkv::config::Config;
use dkv::node::Peer;
use dkv::node::recover::{RecoverError, Recovery, Survivor};
use dkv::store::wal::WalOptions;

use crate::CONFIG_ERROR;

/// Why nothing was done: the exit code, and a sentence.
struct Refused(u8, String);

impl From<RecoverError> for Refused {
    fn from(error: RecoverError) -> Refused {
        Refused(error.exit_code(), error.to_string())
    }
}

/// Runs the command.
pub fn run(config: &Path, is_forced: bool, is_confirmed: bool) -> ExitCode {
    match recover(config, is_forced, is_confirmed) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Refused(code, text)) => {
            eprintln!("dkv-server: {text}");
            ExitCode::from(code)
        }
    }
}

fn recover(file: &Path, is_forced: bool, is_confirmed: bool) -> Result<(), Refused> {
    let config = Config::load(file).map_err(|e| Refused(CONFIG_ERROR, e.to_string()))?;
    let me = config.me();
    let options = WalOptions::new(config.segment_bytes);
    let recovery = Recovery::open(&config.data_dir, options)?;
    if recovery.is_under_way()? {
        println!("an earlier run was cut short; it is finished now");
    } else {
        let survivor = recovery.survivor(&config.node_id)?;
        describe(&survivor, &config);
        if !is_forced {
            let text = "nothing was changed; to do it, say --force-new-cluster".to_owned();
            return Err(Refused(CONFIG_ERROR, text));
        }
        if !is_confirmed && !confirm()? {
            return Err(Refused(CONFIG_ERROR, "not confirmed; nothing was changed".to_owned()));
        }
        let me = Peer {
            node_id: me.node_id.clone(),
            raft_addr: me.raft_addr.clone(),
            http_addr: me.http_addr.clone(),
        };
        let cluster_id = recovery.build(survivor, &me)?;
        println!("the new cluster is {cluster_id}");
    }
    while recovery.step()? {}
    let old: Vec<PathBuf> = recovery.old_files()?;
    if let Some(old) = old.last() {
        println!("the old files are in {}", old.display());
    }
    println!("start it: dkv-server --config {}", file.display());
    println!(
        "then add members: dkv-server --join {} --node-id NAME ... (with empty data directories, also where old members were)",
        me.http_addr
    );
    Ok(())
}

fn describe(survivor: &Survivor, config: &Config) {
    let Survivor { ids, membership, snapshot, last, warnings, .. } = survivor;
    let kv = survivor.kv();
    let others: Vec<&str> = (membership.members.iter())
        .filter(|member| member.member_id != ids.member_id)
        .map(|member| member.node_id.as_str())
        .collect();
    warnings.iter().for_each(|warning| println!("warning: {warning}"));
    println!("{} holds {}, member {}", config.data_dir.display(), config.node_id, ids.member_id);
    println!("  of cluster {} with {}", ids.cluster_id, others.join(", "));
    let begin = snapshot.map_or("no snapshot".to_owned(), |at| format!("a snapshot through {at}"));
    println!("  {begin}, a log through {last}: revision {}, {} keys", kv.revision(), kv.size().keys);
    println!(
        "What the others acknowledged and this node never received is lost. Everything in this log is kept,"
    );
    println!(
        "also entries of which nobody knows any more whether they were committed. The others must never"
    );
    println!(
        "run again as this cluster: stop them, and let them join the new one with empty data directories."
    );
}

fn confirm() -> Result<bool, Refused> {
    if !io::stdin().is_terminal() {
        let text = "standard input is no terminal: say --yes; nothing was changed".to_owned();
        return Err(Refused(CONFIG_ERROR, text));
    }
    print!("Make this a new cluster of one member? Type yes: ");
    let failed = |e: io::Error| Refused(1, format!("cannot ask: {e}"));
    io::stdout().flush().map_err(failed)?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer).map_err(failed)?;
    Ok(answer.trim() == "yes")
}
