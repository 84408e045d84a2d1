//! Clusters that begin with the state of another one, on simulated disks and in real directories: every place in which
//! such an initialization can be cut short, every backup that is refused, every step of a recovery.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dkv::node::bootstrap::{Bootstrap, BootstrapError, Received, bootstrap_port};
use dkv::node::data_dir::{DataDirError, IdentityConfig, Initialized, Opened, open};
use dkv::node::recover::{RecoverError, Recovery, check_finished};
use dkv::node::restore::{Backup, beginning};
use dkv::node::{BootstrapReply, Peer, PeerList, StoreGenesis};
use dkv::raft::{
    ClusterId, Entry, Genesis, Member, MemberId, Membership, Payload, Position, Settings, WriteOp,
};
use dkv::store::disk::RealDisk;
use dkv::store::simdisk::{Io, Loss, SimDisk};
use dkv::store::snapshot::{self, SnapshotError};
use dkv::store::wal::WalOptions;
use dkv::store::{Command, Idempotency, Kv, Op, Outcome, request_hash};

const OPTIONS: WalOptions = WalOptions::new(64 << 10);

const OLD: ClusterId = ClusterId(0xabc);

fn member(n: u64) -> Member {
    let Peer { node_id, raft_addr, http_addr } = peer(n);
    Member { node_id, member_id: MemberId(n), raft_addr, http_addr, voter: true, promote: false }
}

fn peer(n: u64) -> Peer {
    Peer {
        node_id: format!("node{n}"),
        raft_addr: format!("127.0.0.1:1808{n}"),
        http_addr: format!("127.0.0.1:808{n}"),
    }
}

fn config(n: u64, count: u64) -> IdentityConfig {
    let peers = PeerList::from((1..=count).map(peer).collect::<Vec<_>>());
    let settings = Settings::default();
    IdentityConfig { node_id: format!("node{n}"), peers, settings, listen_raft: false, joins: false }
}

fn genesis_entry(settings: Settings, members: Vec<Member>) -> Entry {
    let genesis =
        Genesis { protocol: 1, cluster_id: OLD, settings, members: Membership { members }, restored: None };
    Entry::new(Position::new(1, 1), 0, &Payload::Genesis(genesis))
}

fn keyed(key: &str, value: &str, name: &str) -> Command {
    let op = Op::put(key.into(), value.into());
    let idempotency = Some(Idempotency { key: name.to_owned(), request_hash: request_hash(&op, None) });
    Command { op, condition: None, idempotency, wall_ms: 0, actor: String::new() }
}

fn command(index: u64, term: u64, command: &Command) -> Entry {
    Entry::new(Position::new(index, term), index * 1_000_000, &Payload::Command(command.encode()))
}

/// What the old cluster had: a key with history, a key that is deleted, an idempotency key.
fn entries() -> Vec<Entry> {
    let delete = Op::Delete { key: b"b".to_vec() };
    let delete = Command { op: delete, condition: None, idempotency: None, wall_ms: 0, actor: String::new() };
    vec![
        genesis_entry(
            Settings { retention_revisions: 50, ..Settings::default() },
            (1..=3).map(member).collect(),
        ),
        command(2, 2, &keyed("a", "1", "first")),
        command(3, 2, &keyed("b", "2", "second")),
        command(4, 2, &keyed("a", "3", "third")),
        command(5, 3, &delete),
    ]
}

fn old_state() -> Kv {
    let mut kv = Kv::new(Settings::default());
    for entry in entries() {
        kv.apply(&entry);
    }
    kv
}

/// A backup file of [`old_state`].
fn backup_file(dir: &Path) -> PathBuf {
    let disk = Arc::new(RealDisk::open(dir).unwrap());
    let file = snapshot::write(disk, &mut old_state()).unwrap();
    let path = dir.join("dkv.backup");
    fs::rename(dir.join(file.name.to_string()), &path).unwrap();
    path
}

fn backup() -> Backup {
    Backup::of(old_state())
}

/// Everything that must have come over, and that it is another cluster.
fn check_state(kv: &Kv, genesis: &Entry) {
    let old = old_state();
    let record = genesis.genesis().unwrap();
    assert_eq!(kv.applied(), beginning());
    assert_eq!(
        (kv.revision(), kv.floor(), kv.cluster_time()),
        (old.revision(), old.floor(), old.cluster_time())
    );
    assert_eq!(kv.settings(), old.settings());
    assert_eq!((kv.size(), kv.genesis()), (old.size(), Some(genesis)));
    assert_ne!(record.cluster_id, OLD);
    assert_eq!(kv.cluster_id(), Some(record.cluster_id));
    assert_eq!(record.settings, *old.settings(), "the settings of the backup win over the configuration's");
    assert_eq!(record.restored, Some(backup().restored()));
    assert_eq!(**kv.membership(), record.members);
    for revision in 1..=old.revision() {
        for key in [b"a", b"b"] {
            let now = kv.get(key, Some(revision)).unwrap();
            assert_eq!(now, old.get(key, Some(revision)).unwrap(), "{key:?} at {revision}");
        }
    }
    assert!((1..=3).all(|n| kv.is_removed(MemberId(n))), "who belonged to the old cluster never returns");
}

fn uninitialized(disk: &SimDisk, config: &IdentityConfig) -> Box<Bootstrap> {
    match open(Arc::new(disk.clone()), OPTIONS, config).unwrap() {
        Opened::Uninitialized(bootstrap) => bootstrap,
        Opened::Initialized(_) => panic!("initialized already"),
    }
}

fn restoring(disk: &SimDisk, config: &IdentityConfig) -> Box<Bootstrap> {
    let mut bootstrap = uninitialized(disk, config);
    bootstrap.restore(backup());
    bootstrap
}

#[test]
fn a_restored_node_is_initialized_with_the_state_and_starts_again_with_it() {
    let disk = SimDisk::new(1);
    let initialized = restoring(&disk, &config(1, 1)).handle_answers(Vec::new()).unwrap().unwrap();
    check_state(&initialized.stored.snapshot.as_ref().unwrap().1, &initialized.genesis);
    assert_eq!(
        (initialized.stored.recovered.base, initialized.stored.recovered.entries.len()),
        (beginning(), 0)
    );
    let genesis = initialized.genesis.clone();
    drop(initialized);
    let Opened::Initialized(initialized) =
        open(Arc::new(disk.restart(Loss::Everything)), OPTIONS, &config(1, 1)).unwrap()
    else {
        panic!("initialized before")
    };
    assert_eq!((&initialized.genesis, initialized.stored.recovered.base), (&genesis, beginning()));
    let (_, mut kv) = initialized.stored.snapshot.unwrap();
    check_state(&kv, &genesis);
    // The key was used in the old cluster: it is answered from what is remembered.
    let again = Entry::new(
        Position::new(3, 2),
        kv.cluster_time() + 1,
        &Payload::Command(keyed("a", "1", "first").encode()),
    );
    let applied = kv.apply(&again).unwrap();
    assert!(applied.replayed);
    assert_eq!(applied.outcome, Outcome::Put { revision: 2, create_revision: 2, version: 1 });
}

#[test]
fn a_restored_initialization_that_is_cut_short_anywhere_is_none_or_whole() {
    let (mut none, mut whole) = (0, 0);
    let sim = SimDisk::new(2);
    let moments = sim.moments(|disk| {
        restoring(&disk, &config(1, 1)).handle_answers(Vec::new()).unwrap().unwrap();
    });
    assert!(moments.len() > 20, "{}", moments.len());
    for (n, moment) in moments.iter().enumerate() {
        let cuts = match &moment.io {
            Io::Write { data, .. } => vec![0, 1, data.len() / 2, data.len() - 1],
            _ => vec![0],
        };
        for cut in cuts {
            for loss in
                [Loss::Nothing, Loss::Everything, Loss::KeepsEverything, Loss::Random { seed: n as u64 }]
            {
                let disk = moment.cut(cut).restart(loss);
                let initialized = match open(Arc::new(disk.clone()), OPTIONS, &config(1, 1)).unwrap() {
                    Opened::Initialized(initialized) => {
                        whole += 1;
                        initialized
                    }
                    Opened::Uninitialized(mut bootstrap) => {
                        none += 1;
                        let left = snapshot::list(&(Arc::new(disk.clone()) as _)).unwrap();
                        assert!(
                            left.is_empty(),
                            "{left:?} is left of an initialization that never was, at operation {n}"
                        );
                        bootstrap.restore(backup());
                        Box::new(bootstrap.handle_answers(Vec::new()).unwrap().unwrap())
                    }
                };
                check_state(&initialized.stored.snapshot.as_ref().unwrap().1, &initialized.genesis);
                drop(initialized);
                let again = open(Arc::new(disk.restart(Loss::Everything)), OPTIONS, &config(1, 1)).unwrap();
                assert!(matches!(again, Opened::Initialized(_)), "operation {n}");
            }
        }
    }
    assert!(none > 10 && whole > 0, "{none} {whole}");
}

#[test]
fn bootstrap_refuses_other_states_and_names_both() {
    let disks: Vec<_> = (1..=3).map(|n| SimDisk::new(10 + n)).collect();
    let answer = |n: u64, bootstrap: &Bootstrap| {
        (peer(n), Ok(BootstrapReply::Uninitialized(bootstrap.uninitialized())))
    };
    for restored in [[true, false, true], [false, true, false], [true, true, false]] {
        let bootstraps: Vec<_> = (0..3)
            .map(|n| {
                let config = config(n as u64 + 1, 3);
                if restored[n] { restoring(&disks[n], &config) } else { uninitialized(&disks[n], &config) }
            })
            .collect();
        let mut bootstraps = bootstraps.into_iter();
        let mut bootstrap_node = bootstraps.next().unwrap();
        let answers = bootstraps.zip(2..).map(|(bootstrap, n)| answer(n, &bootstrap)).collect();
        let Err(error @ BootstrapError::OtherState { .. }) = bootstrap_node.handle_answers(answers) else {
            panic!("{restored:?}")
        };
        assert_eq!(error.exit_code(), 4);
        let text = error.to_string();
        let hash = format!("{:032x}", backup().restored().state_hash);
        assert!(
            text.contains("an empty state") && text.contains(&hash) && text.contains("--restore"),
            "{text}"
        );
    }
    assert!(disks.iter().all(|disk| disk.names().iter().all(|name| !name.ends_with(".wal"))));
}

#[test]
fn a_restored_cluster_is_bootstrapped_with_its_state_and_never_without() {
    let disks: Vec<_> = (1..=3).map(|n| SimDisk::new(20 + n)).collect();
    let mut bootstrap_node = restoring(&disks[0], &config(1, 3));
    let (mut second, third) = (restoring(&disks[1], &config(2, 3)), restoring(&disks[2], &config(3, 3)));
    let answers = [&second, &third].map(|f| f.uninitialized()).into_iter().zip(2..);
    let answers = answers
        .map(|(uninitialized, n)| (peer(n), Ok(BootstrapReply::Uninitialized(uninitialized))))
        .collect();
    let initialized = bootstrap_node.handle_answers(answers).unwrap().unwrap();
    let members = initialized.membership().as_ref().clone();
    let store = |bootstrap: &Bootstrap| StoreGenesis {
        target: bootstrap.uninitialized().member_id,
        entry: initialized.genesis.clone(),
        members: members.clone(),
    };
    // Started again without the backup meanwhile: it must not be initialized empty.
    drop(third);
    let mut third = uninitialized(&disks[2], &config(3, 3));
    let offer = store(&third);
    let Received::Refused(text) = third.handle_store(offer) else { panic!("taken") };
    assert!(text.contains("with --restore and that backup"), "{text}");
    // With it, it is.
    let mut third = restoring(&disks[2], &config(3, 3));
    for (bootstrap, disk) in [(&mut second, &disks[1]), (&mut third, &disks[2])] {
        let offer = store(bootstrap);
        let Received::Initialized(initialized) = bootstrap.handle_store(offer) else { panic!("refused") };
        let (_, kv) = initialized.stored.snapshot.as_ref().unwrap();
        check_state(kv, &initialized.genesis);
        assert!(disk.names().contains(&"0000000000000002-0000000000000001.snapshot".to_owned()));
    }
    // Who joins later begins with the genesis entry alone, and is sent the state.
    let disk = SimDisk::new(24);
    let joins = IdentityConfig { joins: true, peers: PeerList::from(vec![peer(4)]), ..config(4, 4) };
    let mut joiner = uninitialized(&disk, &joins);
    bootstrap_port(&joiner).0.join(initialized.ids.cluster_id);
    let mut grown = members.clone();
    grown.members.push(Member { member_id: joiner.uninitialized().member_id, voter: false, ..member(4) });
    let offer = StoreGenesis { members: grown, ..store(&joiner) };
    let Received::Initialized(initialized) = joiner.handle_store(offer) else { panic!("refused") };
    assert!(initialized.stored.snapshot.is_none());
    assert_eq!(initialized.stored.recovered.entries, std::slice::from_ref(&initialized.genesis));
    assert_eq!(initialized.genesis.genesis().unwrap().restored, Some(backup().restored()));
}

#[test]
fn a_backup_left_in_an_empty_data_dir_is_not_taken_for_the_nodes_own() {
    let disk = SimDisk::new(3);
    snapshot::write(Arc::new(disk.clone()), &mut old_state()).unwrap();
    let Err(error @ DataDirError::StraySnapshot { .. }) =
        open(Arc::new(disk.clone()), OPTIONS, &config(1, 1)).map(drop)
    else {
        panic!("opened")
    };
    assert_eq!(error.exit_code(), 3);
    assert!(error.to_string().contains("--restore"), "{error}");
    assert!(!disk.names().contains(&"identity".to_owned()), "nothing was written");
}

#[test]
fn load_refuses_every_cut_and_every_flipped_byte() {
    let dir = tempfile::tempdir().unwrap();
    let path = backup_file(dir.path());
    let bytes = fs::read(&path).unwrap();
    assert_eq!(Backup::load(&path).unwrap().restored(), backup().restored());
    let damaged = dir.path().join("damaged");
    let is_refused = |what: &str, bytes: &[u8]| {
        fs::write(&damaged, bytes).unwrap();
        match Backup::load(&damaged) {
            Err(e @ (SnapshotError::Corrupt { .. } | SnapshotError::NewerFormat { .. })) => {
                assert!(e.to_string().contains("damaged"), "names the file: {e}");
            }
            other => panic!("{what}: {other:?}"),
        }
    };
    for cut in 0..bytes.len() {
        is_refused(&format!("cut to {cut}"), &bytes[..cut]);
    }
    for at in 0..bytes.len() {
        let mut flipped = bytes.clone();
        flipped[at] ^= 1 << (at % 8);
        is_refused(&format!("byte {at} flipped"), &flipped);
    }
    is_refused("goes on", &[&bytes[..], b"x"].concat());
    is_refused("twice", &[&bytes[..], &bytes[..]].concat());
    is_refused("text", b"{\"key\":\"a\",\"value\":\"b\"}\n");
    assert!(matches!(Backup::load(dir.path()), Err(SnapshotError::Io { .. })), "a directory");
    assert!(matches!(Backup::load(&dir.path().join("none")), Err(SnapshotError::Io { .. })), "no file");
}

/// Several chunks: every border between them.
#[test]
fn load_refuses_a_backup_that_ends_at_a_chunk() {
    let dir = tempfile::tempdir().unwrap();
    let mut kv = old_state();
    for n in 0..40u64 {
        let value = vec![b'x'; 30_000];
        let op = Op::put(format!("big{n}").into_bytes(), value);
        let put = Command { op, condition: None, idempotency: None, wall_ms: 0, actor: String::new() };
        kv.apply(&command(6 + n, 3, &put));
    }
    let file = snapshot::write(Arc::new(RealDisk::open(dir.path()).unwrap()), &mut kv).unwrap();
    let path = dir.path().join(file.name.to_string());
    let bytes = fs::read(&path).unwrap();
    let number = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
    let mut at = 20 + number(12);
    let mut chunks = 0;
    loop {
        for cut in [at, at + 4, at + 8] {
            fs::write(&path, &bytes[..cut]).unwrap();
            assert!(matches!(Backup::load(&path), Err(SnapshotError::Corrupt { .. })), "cut to {cut}");
        }
        let len = number(at);
        at += 8 + len;
        if len == 0 {
            break;
        }
        chunks += 1;
    }
    assert_eq!((chunks > 3, at + 12), (true, bytes.len()));
}

// ---- recovery --------------------------------------------------------------------------------------------------------

/// The data directory of node1 of three, with all entries in its log; with a snapshot in the middle if asked for.
fn member_dir(dir: &Path) -> PathBuf {
    let path = dir.join("node1");
    let disk = Arc::new(RealDisk::open(&path).unwrap());
    let Ok(Opened::Uninitialized(mut bootstrap)) = open(disk, OPTIONS, &config(1, 3)) else { panic!() };
    let own = bootstrap.uninitialized().member_id;
    let members: Vec<Member> = vec![Member { member_id: own, ..member(1) }, member(2), member(3)];
    let entry = genesis_entry(Settings { retention_revisions: 50, ..Settings::default() }, members.clone());
    let Received::Initialized(mut initialized) =
        bootstrap.handle_store(StoreGenesis { target: own, entry, members: Membership { members } })
    else {
        panic!("refused")
    };
    initialized.stored.wal.write(&[WriteOp::Entries(entries()[1..].to_vec())]).unwrap();
    path
}

fn recovered(dir: &Path) -> Box<Initialized> {
    check_finished(dir).unwrap();
    match open(Arc::new(RealDisk::open(dir).unwrap()), OPTIONS, &config(1, 3)).unwrap() {
        Opened::Initialized(initialized) => initialized,
        Opened::Uninitialized(_) => panic!("uninitialized"),
    }
}

fn check_recovered(dir: &Path) {
    let initialized = recovered(dir);
    let (_, kv) = initialized.stored.snapshot.as_ref().unwrap();
    let old = old_state();
    assert_eq!(
        (kv.revision(), kv.size(), kv.cluster_time()),
        (old.revision(), old.size(), old.cluster_time())
    );
    assert_ne!(kv.cluster_id(), Some(OLD));
    assert_eq!(kv.membership().members.len(), 1);
    let me = &kv.membership().members[0];
    assert_eq!((me.node_id.as_str(), me.member_id, me.voter), ("node1", initialized.ids.member_id, true));
    assert!((2..=3).all(|n| kv.is_removed(MemberId(n))));
    let old = dir.join("before-recovery-5");
    assert!(old.join("identity").is_file(), "nothing is deleted");
    assert!(fs::read_dir(&old).unwrap().any(|e| e.unwrap().file_name().to_str().unwrap().ends_with(".wal")));
    let left: Vec<String> =
        fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    assert!(!left.iter().any(|name| name.starts_with("recover")), "{left:?}");
}

fn build(dir: &Path) -> Recovery {
    let recovery = Recovery::open(dir, OPTIONS).unwrap();
    let survivor = recovery.survivor("node1").unwrap();
    assert_eq!((survivor.last, survivor.kv().revision()), (Position::new(5, 3), old_state().revision()));
    recovery.build(survivor, &peer(1)).unwrap();
    recovery
}

#[test]
fn recovery_is_finished_from_wherever_it_was_cut_short() {
    let mut steps = 0;
    for cut in 0.. {
        let temp = tempfile::tempdir().unwrap();
        let dir = member_dir(temp.path());
        let recovery = build(&dir);
        let mut more = true;
        for _ in 0..cut {
            more = recovery.step().unwrap();
            if !more {
                break;
            }
        }
        drop(recovery);
        assert_eq!(
            check_finished(&dir).is_err(),
            more && steps_left(&dir),
            "no node starts in between, after {cut}"
        );
        // The same command again.
        let recovery = Recovery::open(&dir, OPTIONS).unwrap();
        if recovery.is_under_way().unwrap() {
            while recovery.step().unwrap() {}
        }
        drop(recovery);
        check_recovered(&dir);
        if !more {
            break;
        }
        steps = cut;
    }
    assert!(steps > 6, "{steps}");
}

fn steps_left(dir: &Path) -> bool {
    fs::read_dir(dir).unwrap().any(|e| {
        let name = e.unwrap().file_name().into_string().unwrap();
        name.starts_with("recovery-") || name.starts_with("recovered-")
    })
}

#[test]
fn recovery_that_was_cut_short_while_it_was_built_begins_again() {
    let temp = tempfile::tempdir().unwrap();
    let dir = member_dir(temp.path());
    fs::create_dir(dir.join("recovery.tmp")).unwrap();
    fs::write(dir.join("recovery.tmp/identity"), b"half").unwrap();
    check_finished(&dir).unwrap();
    let recovery = build(&dir);
    while recovery.step().unwrap() {}
    drop(recovery);
    check_recovered(&dir);
}

#[test]
fn recovery_refuses_what_it_is_not_for() {
    let temp = tempfile::tempdir().unwrap();
    let missing = Recovery::open(&temp.path().join("none"), OPTIONS).map(drop).unwrap_err();
    assert_eq!(missing.exit_code(), 2);
    let empty = temp.path().join("empty");
    fs::create_dir(&empty).unwrap();
    let nothing = Recovery::open(&empty, OPTIONS).unwrap().survivor("node1").unwrap_err();
    assert!(matches!(nothing, RecoverError::Nothing(_)), "{nothing}");
    let dir = member_dir(temp.path());
    let held = Recovery::open(&dir, OPTIONS).unwrap();
    let locked = Recovery::open(&dir, OPTIONS).map(drop).unwrap_err();
    assert_eq!(locked.exit_code(), 2, "{locked}");
    let other = held.survivor("node2").unwrap_err();
    assert_eq!(other.exit_code(), 4, "{other}");
    drop(held);
    let recovery = build(&dir);
    while recovery.step().unwrap() {}
    let alone = recovery.survivor("node1").unwrap_err();
    assert!(matches!(alone, RecoverError::Alone(_)), "{alone}");
    assert_eq!(alone.exit_code(), 2);
    drop(recovery);
    // Damaged: said, and nothing is touched.
    let temp = tempfile::tempdir().unwrap();
    let dir = member_dir(temp.path());
    let log = fs::read_dir(&dir).unwrap().map(|e| e.unwrap().path());
    let log = log.into_iter().find(|path| path.extension().is_some_and(|e| e == "wal")).unwrap();
    let mut bytes = fs::read(&log).unwrap();
    bytes[4096 + 100] ^= 1;
    fs::write(&log, &bytes).unwrap();
    let damaged = Recovery::open(&dir, OPTIONS).unwrap().survivor("node1").map(drop).unwrap_err();
    assert_eq!(damaged.exit_code(), 3, "{damaged}");
    assert_eq!(fs::read(&log).unwrap(), bytes);
}
