//! The examples and tables after the help of each command.

/// A heading of the help's own kind. Clap takes the escape codes out again where there is no colour.
macro_rules! heading {
    ($text:literal) => {
        concat!("\x1b[1m\x1b[4m", $text, "\x1b[0m\n")
    };
}

pub(super) const MAIN_HELP: &str = concat!(
    heading!("Examples:"),
    "  dkv-cli set greeting hello           store a value
  dkv-cli get greeting                 print it
  dkv-cli add visits 1                 count
  dkv-cli list                         print every key with its value
  dkv-cli delete greeting              remove it
  dkv-cli txn --if 'a = 1' --put a=2 --put b=2
                                       several keys as one step
  dkv-cli status                       see how the nodes are
  dkv-cli member list                  and who they are
  dkv-cli snapshot save dkv.backup     back everything up
  dkv-cli verify                       see whether they keep their word
  dkv-cli --endpoints 10.0.0.7:8081 status
  export DKV_ENDPOINTS=10.0.0.7:8081,10.0.0.8:8081

",
    heading!("Exit codes:"),
    "  0  done
  1  there is no such key, or the condition does not hold; nothing changed;
     status: there is a leader, but not every member answers as it should
  2  bad usage or refused input; nothing changed
  3  unavailable; surely not done
  4  outcome unknown; repeat the command with the --idempotency-key it names
  5  snapshot: the file is damaged, or no backup; verify: what the clients saw
     was not linearizable
  6  verify: undecided, the check was given up

",
    heading!("Environment:"),
    "  DKV_ENDPOINTS  the nodes to ask, unless --endpoints is given
  DKV_CLUSTER    the cluster that is meant, unless --cluster is given
  NO_COLOR       when not empty, nothing is coloured"
);

pub(super) const SET_HELP: &str = concat!(
    heading!("Examples:"),
    "  dkv-cli set greeting hello
  dkv-cli set photo < photo.jpg        any bytes, from standard input
  dkv-cli set note ''                  an empty value is a value
  date | dkv-cli set now -             whatever comes, also nothing; without the
                                       - nothing is an error
  dkv-cli set -- -k -v                 a key and a value that begin with -
  dkv-cli set lock me --if-absent      only one of many will get it
  dkv-cli set count 8 --if-revision 41
                                       only if nobody wrote it since
  dkv-cli set count 8 --if-version 3   only if that was its third value

  Revisions are what `dkv-cli get -o json` calls mod_revision."
);

pub(super) const ADD_HELP: &str = concat!(
    heading!("Examples:"),
    "  dkv-cli add visits                   one more
  dkv-cli add stock/apples -12         twelve less
  dkv-cli add visits 0                 look at it, as a write: one more version
  dkv-cli add tickets --if-version 41  only if it was changed 41 times
  dkv-cli set visits 0                 begin again

  A value that is no integer, and a sum beyond 64 bits, are refused with the
  exit code 1; nothing is changed."
);

pub(super) const GET_HELP: &str = concat!(
    heading!("Examples:"),
    "  dkv-cli get greeting
  dkv-cli get photo > photo.jpg        byte for byte
  dkv-cli get greeting -o json         with its revisions
  dkv-cli get greeting --revision 41   what it was then
  dkv-cli get greeting --stale         also without a leader, perhaps old"
);

/// Clap knows which of these exclude each other, and its own line says nothing of it.
pub(super) const DELETE_USAGE: &str = "dkv-cli delete [OPTIONS] <KEY>
       dkv-cli delete [OPTIONS] --prefix <PREFIX>
       dkv-cli delete [OPTIONS] [--start <KEY>] [--end <KEY>]
       dkv-cli delete [OPTIONS] --all";

pub(super) const MEMBER_ADD_USAGE: &str = "dkv-cli member add [OPTIONS] <NAME> \\
           --raft-addr <HOST:PORT> --http-addr <HOST:PORT>";

pub(super) const DELETE_HELP: &str = concat!(
    heading!("Examples:"),
    "  dkv-cli delete greeting
  dkv-cli delete lock --if-revision 41   only if nobody wrote it since
  dkv-cli delete --prefix app/old/       every key that begins so, all at once
  dkv-cli delete --start log/2024 --end log/2025
  dkv-cli delete --all                   every key there is

  A range of more than 100,000 keys, or of more than half of what the history
  may hold (retention_bytes), is refused: delete it in parts."
);

pub(super) const HISTORY_HELP: &str = concat!(
    heading!("Examples:"),
    "  dkv-cli history app/color            every version that is kept
  dkv-cli history app/color --limit 1  the newest one
  dkv-cli get app/color --revision 41  the value at a revision
  dkv-cli history app/color -o json | jq -r '.versions[].revision'

  Values are printed as by `dkv-cli list`. `floor` in the JSON says how far back
  the history is complete."
);

pub(super) const COMPACT_HELP: &str = concat!(
    heading!("Examples:"),
    "  dkv-cli compact 1200   reads before revision 1200 get 410 from now on

  The store forgets by itself, too: see retention_revisions and retention_bytes
  in the manual."
);

pub(super) const WATCH_HELP: &str = concat!(
    heading!("Examples:"),
    "  dkv-cli watch app/                   every change below app/
  dkv-cli watch --key app/color --from 41
  dkv-cli watch app/ -o json | jq -c .changes
  dkv-cli watch app/ -- ./reload.sh    once for each revision

  A command that fails ends the watch with its exit code, unless --keep-going is
  given. Changes older than the history that is kept end it with exit code 2."
);

pub(super) const LEASE_HELP: &str = concat!(
    heading!("Examples:"),
    "  lease=$(dkv-cli lease grant 15)
  dkv-cli set service/a 10.0.0.7:80 --lease $lease
  dkv-cli lease keep $lease &           renews it until it is killed
  dkv-cli set session/7 anna --ttl 30   a key with a lease of its own
  dkv-cli lease list

  When the time of a lease is over, all its keys go at one revision. A lease
  lives at least its time to live, counted from when a renewal was sent."
);

pub(super) const LIST_HELP: &str = concat!(
    heading!("Examples:"),
    "  dkv-cli list                         every key
  dkv-cli list --prefix app/           those that begin with app/
  dkv-cli list --keys-only | wc -l     how many there are
  dkv-cli list --prefix logs/ --order desc --limit 1
                                       the last one
  dkv-cli list --revision 41           what there was then
  dkv-cli ls app/ --separator /        what lies in app/, and not below that
  dkv-cli ls --sort mod_revision --order desc --limit 5
                                       what was written last
  dkv-cli ls --min-mod-revision 41     what was written since
  dkv-cli list -o json | jq -r '.kvs[].key'

  A tab, a newline, any other unprintable byte is printed as \\x09, \\x0a, \\xNN,
  and a backslash as \\\\, so that a line is always one key. `-o json` prints one
  document; `cursor` in it says that --limit has left keys out."
);

pub(super) const TXN_USAGE: &str = "dkv-cli txn [OPTIONS] < TRANSACTION.json
       dkv-cli txn [--if CONDITION]... [--put KEY=VALUE]... [--delete KEY]...
           [--get KEY]... [--list PREFIX]... [--else-put KEY=VALUE]...";

pub(super) const TXN_HELP: &str = concat!(
    heading!("Examples:"),
    "  dkv-cli txn --if 'job absent' --put job=me --else-get job
  dkv-cli txn --if 'a = 5' --if 'b = 0' --put a=4 --put b=1
  dkv-cli txn --if 'config version 3' --put config=new --get config
  dkv-cli txn --get a --get b            both at one revision
  echo '{\"then\":[{\"get\":{\"key\":\"a b\"}}]}' | dkv-cli txn -o json

",
    heading!("Conditions:"),
    "  KEY exists                  KEY = VALUE          KEY version N
  KEY absent                  KEY != VALUE         KEY version > N
  KEY mod_revision N          KEY < VALUE          KEY create_revision < N

  One space stands between the words; the value goes to the end of the text. The
  operators are = != < >. All conditions must hold, and they look at the store
  as it was before. What does not exist has 0 as its numbers and no value. Keys
  with a space, prefixes and ranges are for the JSON.

",
    heading!("Exit codes:"),
    "  0  all conditions hold, and the steps are done
  1  a condition does not hold; what --else options name is done
  2  refused; nothing was changed"
);

pub(super) const STATUS_HELP: &str = concat!(
    heading!("Examples:"),
    "  dkv-cli status
  dkv-cli status -o json | jq -r '.cluster.leader.node_id'
  watch -n 1 dkv-cli status

",
    heading!("Columns:"),
    "  ROLE       leader, follower, candidate, pre-candidate; uninitialized before
             the cluster's first start is complete
  TERM       the node's term: it grows with every election
  COMMIT     the last log entry that the node knows to be on a majority
  APPLIED    the last log entry in its map
  LAG        how many entries its map is behind the greatest COMMIT shown
  REACHABLE  whether it answered within 2 seconds, as the member that it is

",
    heading!("Exit codes:"),
    "  0  there is a leader, and every member answers as it should
  1  a voter or a learner does not, or another node answers at its address
  3  no member that answers leads

  `health` in `-o json` says the same: ok, degraded, no_leader."
);

pub(super) const MEMBER_HELP: &str = concat!(
    heading!("Examples:"),
    "  dkv-cli member list
  dkv-cli member add n6 --raft-addr 10.0.0.6:18081 --http-addr 10.0.0.6:8081
  dkv-cli member remove n2
  dkv-cli member replace n3 n6 --raft-addr 10.0.0.6:18081 \\
      --http-addr 10.0.0.6:8081        n3's machine is lost, n6 takes its place
  dkv-cli member replace n3 n3         n3's data is lost, its machine is not

  One member at a time is added, promoted or removed. A change that would leave
  fewer voters answering than a majority is refused. `dkv-cli help member add`
  and so on say more."
);

pub(super) const MEMBER_ADD_HELP: &str = concat!(
    heading!("Examples:"),
    "  dkv-cli member add n6 --raft-addr 10.0.0.6:18081 --http-addr 10.0.0.6:8081
  dkv-cli member add n6 --raft-addr 10.0.0.6:18081 --http-addr 10.0.0.6:8081 \\
      --learner                        a read replica
  dkv-cli member add ... --timeout 600 gives you time to start it

  Not needed for a node that is started with `dkv-server --join`: that adds
  itself."
);

pub(super) const MEMBER_REPLACE_HELP: &str = concat!(
    heading!("Examples:"),
    "  dkv-cli member replace n3 n6 --raft-addr 10.0.0.6:18081 \\
      --http-addr 10.0.0.6:8081        adds n6, waits until it votes, removes n3
  dkv-cli member replace n3 n3 --timeout 600
                                       removes n3; once n3 is started as always
                                       with an empty data_dir, adds it and waits
                                       until it votes

  With one and the same name nothing is done to a node that answers as the
  member that it is, nor to one that had less than two seconds to answer.
  Interrupted, it goes on where it was when it is run again."
);

pub(super) const TRANSFER_HELP: &str = concat!(
    heading!("Examples:"),
    "  dkv-cli transfer                     to the node whose log has come furthest
  dkv-cli transfer n2

  Nothing fails meanwhile: requests wait for the new leader. A node that is
  stopped with SIGTERM does this by itself."
);

pub(super) const SNAPSHOT_HELP: &str = concat!(
    heading!("Examples:"),
    "  dkv-cli snapshot save dkv.backup
  dkv-cli snapshot status dkv.backup
  dkv-server --config node1.yaml --restore dkv.backup"
);

pub(super) const SAVE_HELP: &str = concat!(
    heading!("Examples:"),
    "  dkv-cli snapshot save dkv.backup
  dkv-cli snapshot save /backups/dkv-$(date +%F).backup
  dkv-cli --endpoints 10.0.0.7:8081 snapshot save dkv.backup
                                       through this node first
  dkv-cli snapshot save - | ssh host 'cat > dkv.backup'
                                       then `snapshot status` there

  The backup holds everything that was acknowledged before the command: keys,
  their history as far as it is kept, idempotency keys. It is written under a
  temporary name beside FILE, verified whole, synced, and renamed; only its
  owner can read it. On a pipe it is verified while it passes: the exit code 5
  and the number of bytes written say that what passed is no backup. --timeout
  is for how long nothing comes, so that a large store needs no larger one: a
  node that is still making the backup says so, and has ten minutes for it."
);

pub(super) const SNAPSHOT_STATUS_HELP: &str = concat!(
    heading!("Examples:"),
    "  dkv-cli snapshot status dkv.backup
  dkv-cli snapshot status dkv.backup -o json | jq .revision

  Reads the whole file, or standard input, and loads it as a restore would:
  every checksum, the order of the rows, their number, the hash of the state. It
  takes about the memory of a node. The exit code is 5 when the file is damaged,
  and the text names the place."
);

pub(super) const EXPORT_HELP: &str = concat!(
    heading!("Examples:"),
    "  dkv-cli export                       every key, one JSON record a line
  dkv-cli export --prefix app/ > app.jsonl
  dkv-cli export --prefix app/ --file app.jsonl
                                       whole or not at all
  dkv-cli export --revision 41
  dkv-cli export | jq -r .key

  All lines show the store at one revision. Keys and values that are no text
  are in key_base64 and value_base64. --timeout is for each page of keys."
);

pub(super) const IMPORT_HELP: &str = concat!(
    heading!("Examples:"),
    "  dkv-cli import app.jsonl
  dkv-cli import app.jsonl --prefix app/users/
                                       only keys that begin so
  dkv-cli import app.jsonl --if-absent
                                       keys that exist stay as they are
  dkv-cli export | dkv-cli --endpoints 10.0.0.7:8081 import -

  Lines are those of `dkv-cli export`; key and value are enough. Every line of a
  file is checked before the first key is stored. Standard input and pipes are
  checked line by line while they are stored. --timeout is for each key. Lines
  with one and the same key are stored in their order, others side by side."
);

pub(super) const VERIFY_HELP: &str = concat!(
    heading!("Examples:"),
    "  dkv-cli verify                       half a minute
  dkv-cli verify --seconds 600 --clients 32 --history run.jsonl
                                       while nodes are killed and cut off
  dkv-cli verify -o json | jq -r .verdict

",
    heading!("What it does:"),
    "  Clients put, get, delete, compare and set, and list keys of their own below a
  prefix that is used once, each through one node. Every answer is recorded with
  the time of its call and its return, as one JSON object a line, and the record
  is checked twice: against the order of the log that the answers name, and,
  with no trust in that, by searching an order for each key. At the end the keys
  are removed; those of an interrupted run stay below dkv-verify/.

",
    heading!("Exit codes:"),
    "  0  linearizable
  3  nothing was done: nothing served
  5  not linearizable, or a lease ended early: report it, with the history
  6  undecided: the check was given up; try fewer clients or more keys"
);

pub(super) const COMPLETION_HELP: &str = concat!(
    heading!("Examples:"),
    "  source <(dkv-cli completion bash)    for this shell
  dkv-cli completion bash > ~/.local/share/bash-completion/completions/dkv-cli
  dkv-cli completion zsh > \"${fpath[1]}/_dkv-cli\"
  dkv-cli completion fish > ~/.config/fish/completions/dkv-cli.fish"
);
