//! Files that both programs read and write, as processes: what a name may lead to, two savers at once, signals, pipes,
//! and who may read what is there afterwards. `src/files/tests.rs` has the table itself.

use std::fs::{self, File, Permissions};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{CWD, Mode, mkfifoat};

#[path = "support/cluster.rs"]
#[allow(dead_code)]
mod cluster;

use cluster::{Cluster, fresh_ip, hear_signals, wait_for};
use dkv::store::snapshot::verify_file;

fn cli(dir: &Path, addr: &str, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dkv-cli"));
    command.env("DKV_ENDPOINTS", addr).args(args).current_dir(dir);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// The end of a process that must come; killed if it does not.
fn end_of(mut child: Child) -> Output {
    let deadline = Instant::now() + Duration::from_secs(60);
    // Both are read meanwhile: a full pipe would stop the process.
    let read = |stream: Option<Box<dyn Read + Send>>| {
        thread::spawn(move || {
            let mut bytes = Vec::new();
            stream.map(|mut stream| stream.read_to_end(&mut bytes));
            bytes
        })
    };
    let stdout = read(child.stdout.take().map(|out| Box::new(out) as _));
    let stderr = read(child.stderr.take().map(|err| Box::new(err) as _));
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if Instant::now() > deadline {
            child.kill().unwrap();
            panic!("it does not end: {}", String::from_utf8_lossy(&stderr.join().unwrap()));
        }
        thread::sleep(Duration::from_millis(5));
    };
    Output { status, stdout: stdout.join().unwrap(), stderr: stderr.join().unwrap() }
}

fn run(mut command: Command) -> (Option<i32>, Vec<u8>, String) {
    let output = end_of(command.spawn().unwrap());
    (output.status.code(), output.stdout, String::from_utf8(output.stderr).unwrap())
}

fn pipe(path: &Path) {
    mkfifoat(CWD, path, Mode::from_raw_mode(0o600)).unwrap();
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o777
}

/// Serves one snapshot of these bytes, whatever they are. With `pieces` it falls silent after so many of them.
fn snapshot_node(bytes: Vec<u8>, pieces: usize) -> String {
    let listener = TcpListener::bind("127.0.73.1:0").unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    let crc = format!("{:08x}", u32::from_le_bytes(bytes[bytes.len() - 4..].try_into().unwrap()));
    // Lives until the test's process ends: it has nothing to stop.
    thread::spawn(move || {
        let mut served = 0;
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let mut request = String::new();
            reader.read_line(&mut request).unwrap();
            let mut line = request.clone();
            while !line.trim().is_empty() {
                line.clear();
                reader.read_line(&mut line).unwrap();
            }
            let number = |name: &str| -> usize {
                let rest = request.split(&format!("{name}=")).nth(1).unwrap();
                rest.split(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap()
            };
            let (header, body) = if request.starts_with("POST /v1/snapshots") {
                let made = serde_json::json!({
                    "name": "0000000000000007-0000000000000001.snapshot", "index": 7, "term": 1,
                    "cluster_id": "00000000000000aa", "revision": 3, "keys": 1, "bytes": bytes.len(),
                    "crc32c": crc, "state_hash": "00"
                });
                (String::new(), made.to_string().into_bytes())
            } else if request.starts_with("GET /v1/snapshots/") {
                served += 1;
                if served > pieces {
                    continue;
                }
                let from = number("offset");
                let to = bytes.len().min(from + number("limit"));
                (format!("Dkv-Snapshot-Crc32c: {crc}\r\n"), bytes[from..to].to_vec())
            } else {
                ("Dkv-Index: 7\r\n".to_owned(), b"{}".to_vec())
            };
            let head = format!(
                "HTTP/1.1 200 OK\r\nConnection: close\r\nDkv-Cluster: 00000000000000aa\r\n{header}Content-Length: {}\r\n\r\n",
                body.len()
            );
            // The client may have seen enough.
            let _ = stream.write_all(&[head.as_bytes(), &body].concat());
        }
    });
    addr
}

/// A store of one node with some megabytes in it: several pieces of a backup.
fn filled() -> Cluster {
    let cluster = Cluster::start(1);
    for key in 0..4 {
        let value: String = (0..900_000).map(|_| fastrand::alphanumeric()).collect();
        assert_eq!(cluster.put(0, &format!("k/{key}"), &value).unwrap().status, 200);
    }
    cluster
}

#[test]
fn two_savers_of_one_name_at_the_same_time_leave_a_whole_backup_and_a_users_own_part_file() {
    let cluster = filled();
    let (dir, addr) = (&cluster.dir.join("backups"), cluster.http_addr(0));
    fs::create_dir(dir).unwrap();
    fs::write(dir.join("x.part"), b"a user's own").unwrap();
    fs::write(dir.join("x"), b"an old one").unwrap();
    let savers: Vec<Child> =
        (0..4).map(|_| cli(dir, &addr, &["snapshot", "save", "--force", "x"]).spawn().unwrap()).collect();
    for saver in savers {
        let output = end_of(saver);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
        // Whoever was told that it is verified finds it so, whatever the others are doing.
        verify_file(&dir.join("x")).unwrap();
    }
    assert_eq!(fs::read(dir.join("x.part")).unwrap(), b"a user's own");
    assert_eq!((names(dir), mode(&dir.join("x"))), (vec!["x".to_owned(), "x.part".to_owned()], 0o600));

    // Without --force only one of them makes it.
    let savers: Vec<Child> =
        (0..3).map(|_| cli(dir, &addr, &["snapshot", "save", "y"]).spawn().unwrap()).collect();
    let codes: Vec<Option<i32>> = savers.into_iter().map(|saver| end_of(saver).status.code()).collect();
    assert_eq!(codes.iter().filter(|code| **code == Some(0)).count(), 1, "{codes:?}");
    assert_eq!(codes.iter().filter(|code| **code == Some(2)).count(), 2, "{codes:?}");
    verify_file(&dir.join("y")).unwrap();
    assert_eq!(names(dir), ["x", "x.part", "y"]);
}

#[test]
fn backups_exports_and_histories_pass_through_pipes_and_standard_streams() {
    let cluster = filled();
    let (dir, addr) = (cluster.dir.clone(), cluster.http_addr(0));
    let dkv = |args: &[&str]| cli(&dir, &addr, args);
    let (code, out, said) = run(dkv(&["snapshot", "save", "whole"]));
    assert_eq!((code, said.as_str()), (Some(0), ""), "{}", String::from_utf8_lossy(&out));
    let whole = fs::read(dir.join("whole")).unwrap();

    // To standard output: the bytes alone, and what is said on standard error.
    let (code, out, said) = run(dkv(&["snapshot", "save", "-"]));
    assert!(code == Some(0) && out == whole, "{code:?} {} {said}", out.len());
    assert!(said.starts_with("saved revision ") && said.contains("as standard output"), "{said}");
    let (code, out, said) = run(dkv(&["snapshot", "save", "-", "-o", "json"]));
    assert!(code == Some(0) && out == whole && said.contains("\"crc32c\""), "{code:?} {said}");

    // Through a pipe with a name, which stays one.
    pipe(&dir.join("pipe"));
    for force in [&[][..], &["--force"]] {
        let from = dir.join("pipe");
        let reader = thread::spawn(move || fs::read(from).unwrap());
        let (code, out, said) = run(dkv(&[&["snapshot", "save", "pipe"], force].concat()));
        assert_eq!((code, said.as_str()), (Some(0), ""));
        assert!(String::from_utf8(out).unwrap().contains("as pipe ("));
        assert!(reader.join().unwrap() == whole);
        assert!(fs::symlink_metadata(dir.join("pipe")).unwrap().file_type().is_fifo());
    }
    // And back: a pipe is never called damaged.
    let (_, of_file, _) = run(dkv(&["snapshot", "status", "whole"]));
    let mut command = dkv(&["snapshot", "status", "-"]);
    command.stdin(File::open(dir.join("whole")).unwrap());
    assert_eq!(run(command), (Some(0), of_file.clone(), String::new()));
    let write = |bytes: Vec<u8>| {
        let to = dir.join("pipe");
        // The reader may have seen enough.
        thread::spawn(move || drop(fs::write(to, bytes)))
    };
    let writer = write(whole.clone());
    assert_eq!(run(dkv(&["snapshot", "status", "pipe"])), (Some(0), of_file, String::new()));
    writer.join().unwrap();
    for (bytes, says) in [
        (whole[..whole.len() - 1].to_vec(), "it ends in the middle"),
        ([&whole[..], b"x"].concat(), "it goes on after its end"),
        (
            whole.iter().flat_map(|b| [*b, 0]).take(3000).collect(),
            "UTF-16 text (little-endian, without a mark)",
        ),
        (b"no snapshot at all, but long enough to look at".to_vec(), "it does not begin like a snapshot"),
        (b"\xff\xfed\0k\0v\0s\0n\0a\0p\0s\0h\0o\0t\0".to_vec(), "UTF-16 text (little-endian)"),
    ] {
        let writer = write(bytes);
        let (code, _, said) = run(dkv(&["snapshot", "status", "pipe"]));
        assert!(code == Some(5) && said.contains(says), "{code:?} {said}");
        writer.join().unwrap();
    }

    // The reader goes away.
    let mut saver = dkv(&["snapshot", "save", "-"]).spawn().unwrap();
    saver.stdout.take().unwrap().read_exact(&mut [0; 10]).unwrap();
    let output = end_of(saver);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(5) && said.contains("nobody reads the backup any more; "), "{said}");
    assert!(said.contains(" bytes were written to standard output before"), "{said}");

    // Keys.
    let (_, lines, _) = run(dkv(&["export"]));
    assert_eq!(run(dkv(&["export", "--file", "-"])), (Some(0), lines.clone(), String::new()));
    let from = dir.join("pipe");
    let reader = thread::spawn(move || fs::read(from).unwrap());
    let (code, out, _) = run(dkv(&["export", "--file", "pipe"]));
    assert!(code == Some(0) && String::from_utf8(out).unwrap().starts_with("4 keys at revision "));
    assert!(reader.join().unwrap() == lines);
    let writer = write(lines);
    let (code, out, said) = run(dkv(&["import", "pipe", "--if-absent"]));
    assert_eq!((code, out, said.as_str()), (Some(0), b"stored 0 keys, left 4 that existed\n".to_vec(), ""));
    writer.join().unwrap();
    fs::write(dir.join("bom.jsonl"), "\u{feff}{\"key\":\"a\",\"value\":\"b\"}\n").unwrap();
    let (code, _, said) = run(dkv(&["import", "bom.jsonl"]));
    assert!(code == Some(2) && said.contains("line 1: it begins with a byte order mark (BOM)"), "{said}");

    // A history.
    let history = ["verify", "--seconds", "1", "--clients", "1", "--history"];
    let (code, out, said) = run(dkv(&[&history[..], &["-"]].concat()));
    assert!(code == Some(0) && said.contains("linearizable"), "{code:?} {said}");
    let lines = String::from_utf8(out).unwrap();
    assert!(lines.lines().count() > 2 && lines.lines().all(|line| line.starts_with('{')), "{lines}");
    fs::write(dir.join("history"), b"of yesterday").unwrap();
    let (code, _, said) = run(dkv(&[&history[..], &["history"]].concat()));
    assert!(code == Some(2) && said.contains("history exists already; --force replaces it"), "{said}");
    assert_eq!(fs::read(dir.join("history")).unwrap(), b"of yesterday");
}

/// A node whose disk or memory turns a bit sends what is no backup.
#[test]
fn a_backup_that_fails_on_a_pipe_ends_with_5_and_names_the_bytes_and_leaves_no_file() {
    let cluster = filled();
    let dir = &cluster.dir.join("backups");
    fs::create_dir(dir).unwrap();
    let (code, whole, _) = run(cli(dir, &cluster.http_addr(0), &["snapshot", "save", "-"]));
    assert_eq!(code, Some(0));
    let mut damaged = whole.clone();
    damaged[1_500_000] ^= 1;
    let addr = snapshot_node(damaged, usize::MAX);
    let (code, out, said) = run(cli(dir, &addr, &["snapshot", "save", "-"]));
    assert_eq!(code, Some(5), "{said}");
    assert!(said.contains("standard output is no whole snapshot, see byte "), "{said}");
    assert!(
        said.contains(&format!("; {} bytes were written to standard output before", out.len())),
        "{said}"
    );
    assert!(out.len() >= 2 << 20 && said.contains("cannot be restored from"), "{} {said}", out.len());
    let (code, _, said) = run(cli(dir, &addr, &["snapshot", "save", "x"]));
    assert!(code == Some(5) && said.contains("no whole snapshot"), "{code:?} {said}");
    assert_eq!(names(dir), [""; 0]);

    // The node falls silent in the middle, and there is no other.
    let addr = snapshot_node(whole.clone(), 1);
    let (code, out, said) = run(cli(dir, &addr, &["--timeout", "2", "snapshot", "save", "-"]));
    assert!(code == Some(5) && out == whole[..1 << 20], "{code:?} {} {said}", out.len());
    assert!(said.contains("; 1048576 bytes were written to standard output before"), "{said}");
    // Another one has the state of a later moment: what was begun cannot be finished with that.
    assert_eq!(cluster.put(0, "later", "x").unwrap().status, 200);
    let (_, later, _) = run(cli(dir, &cluster.http_addr(0), &["snapshot", "save", "-"]));
    assert!(later.len() > 2 << 20 && later != whole);
    let both = format!("{},{}", snapshot_node(whole.clone(), 1), snapshot_node(later.clone(), usize::MAX));
    let (code, out, said) = run(cli(dir, &both, &["snapshot", "save", "-"]));
    assert!(code == Some(5) && out == whole[..1 << 20], "{code:?} {} {said}", out.len());
    assert!(said.contains("a stream cannot begin again; 1048576 bytes were written"), "{said}");
    // A file can.
    let both = format!("{},{}", snapshot_node(whole.clone(), 1), snapshot_node(later.clone(), usize::MAX));
    let (code, _, said) = run(cli(dir, &both, &["snapshot", "save", "again"]));
    assert!(code == Some(0) && fs::read(dir.join("again")).unwrap() == later, "{code:?} {said}");
    // Not a byte was written: it is what it is everywhere.
    let addr = snapshot_node(whole, 0);
    let (code, out, said) = run(cli(dir, &addr, &["--timeout", "1", "snapshot", "save", "-"]));
    assert_eq!((code, out.len()), (Some(3), 0), "{said}");
}

/// A node that takes connections and never answers.
fn silent_node() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.73.1:0").unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    (listener, addr)
}

fn send(child: &Child, signal: &str) {
    assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
}

#[test]
fn a_signal_while_saving_removes_the_temporary_file() {
    let (_listener, addr) = silent_node();
    hear_signals();
    for args in [&["snapshot", "save", "x", "--force"][..], &["export", "--file", "x", "--force"]] {
        for (name, number) in [("-INT", 2), ("-TERM", 15), ("-HUP", 1)] {
            let dir = tempfile::tempdir().unwrap();
            fs::write(dir.path().join("x"), b"mine").unwrap();
            let child = cli(dir.path(), &addr, args).spawn().unwrap();
            wait_for("a temporary file", || (names(dir.path()).len() == 2).then_some(()));
            let temporary = names(dir.path()).remove(0);
            assert!(temporary.starts_with(".x.") && temporary.ends_with(".part"), "{temporary}");
            send(&child, name);
            let output = end_of(child);
            assert_eq!(output.status.signal(), Some(number), "{args:?} {name}: {output:?}");
            assert_eq!(names(dir.path()), ["x"], "{args:?} {name}");
            assert_eq!(fs::read(dir.path().join("x")).unwrap(), b"mine");
        }
    }
}

#[test]
fn a_signal_that_is_ignored_stays_ignored_while_saving() {
    let (_listener, addr) = silent_node();
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' HUP; exec \"$0\" snapshot save x", env!("CARGO_BIN_EXE_dkv-cli")]);
    command.env("DKV_ENDPOINTS", addr).current_dir(dir.path()).stdin(Stdio::null());
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_for("a temporary file", || (names(dir.path()).len() == 1).then_some(()));
    send(&child, "-HUP");
    // The one that follows ends it: were HUP heeded, that would have been first.
    thread::sleep(Duration::from_millis(200));
    send(&child, "-TERM");
    assert_eq!(end_of(child).status.signal(), Some(15));
    assert_eq!(names(dir.path()), [""; 0]);
}

#[test]
fn dkv_cli_says_what_is_wrong_with_a_file_before_any_node_is_asked() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::create_dir(at("directory")).unwrap();
    drop(UnixListener::bind(at("socket")).unwrap());
    std::os::unix::fs::symlink("nowhere", at("link")).unwrap();
    let before = names(dir.path());
    for name in ["directory", "socket", "link", "missing/x", "~/x"] {
        for args in [
            &["snapshot", "save", name][..],
            &["snapshot", "save", name, "--force"],
            &["export", "--file", name],
            &["export", "--file", name, "--force"],
            &["snapshot", "status", name],
            &["import", name],
        ] {
            let (code, out, said) = run(cli(dir.path(), "127.0.0.1:1", args));
            assert_eq!((code, out.len()), (Some(2), 0), "{args:?}: {said}");
            let names_it = said.starts_with(&format!("dkv-cli: {name} "));
            assert!(names_it && !said.contains("--force") && !said.contains("damaged"), "{args:?}: {said}");
        }
    }
    assert_eq!(names(dir.path()), before);
    assert!(fs::symlink_metadata(at("socket")).unwrap().file_type().is_socket());
}

fn server(dir: &Path, args: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dkv-server"));
    command.args(args).current_dir(dir).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let (code, out, said) = run(command);
    assert_eq!(out, b"", "{said}");
    (code, said)
}

fn one_node(extra: &str) -> String {
    let ip = fresh_ip();
    format!(
        "node_id: a\ndata_dir: data\n\
         peers: [{{ node_id: a, raft_addr: \"{ip}:18081\", http_addr: \"{ip}:8081\" }}]\n{extra}"
    )
}

#[test]
fn dkv_server_says_what_is_wrong_with_a_file_and_touches_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::write(at("x.yaml"), one_node("")).unwrap();
    fs::write(at("home.yaml"), one_node("").replace("data_dir: data", "data_dir: ~/data")).unwrap();
    fs::write(at("log.yaml"), one_node("log: { file: ~/log }\n")).unwrap();
    fs::write(at("bom.yaml"), format!("\u{feff}{}", one_node(""))).unwrap();
    let utf_16: Vec<u8> = one_node("").encode_utf16().flat_map(u16::to_le_bytes).collect();
    fs::write(at("16.yaml"), utf_16).unwrap();
    fs::create_dir(at("directory")).unwrap();
    pipe(&at("pipe"));
    drop(UnixListener::bind(at("socket")).unwrap());
    let before = names(dir.path());
    let restore = |name: &'static str| ["--config", "x.yaml", "--restore", name];
    for (args, says) in [
        (&["--config", "-"][..], "-: standard input is no configuration file"),
        (&["--config", "directory"], "directory: is a directory"),
        (&["--config", "socket"], "socket: is a socket"),
        (&["--config", "missing/x"], "missing/x: cannot be read: No such file"),
        (&["--config", "~/x.yaml"], "~/x.yaml: begins with a ~ that the shell has not expanded"),
        (&["--config", "home.yaml"], "data_dir: ~/data: it begins with a ~"),
        (&["--config", "log.yaml"], "log.file: ~/log: it begins with a ~"),
        (&["--config", "bom.yaml"], "begins with a byte order mark (BOM) of UTF-8"),
        (&["--config", "16.yaml"], "is UTF-16 text (little-endian, without a mark)"),
        (&["cluster", "-"], "(standard input) is not taken here, because each node reads it again"),
        (&["cluster", "pipe"], "pipe: is a pipe, which is not taken here, because each node reads it again"),
        (&["cluster", "x.yaml", "directory"], "directory: is a directory"),
        (&["cluster", "--program", "~/dkv", "x.yaml"], "--program: ~/dkv begins with a ~"),
        (&["fsck", "~/data"], "~/data begins with a ~ that the shell has not expanded"),
        (&["fsck", "pipe"], "cannot open it: "),
        (&["recover", "--config", "-"], "-: standard input is no configuration file"),
        (&["recover", "--config", "bom.yaml"], "begins with a byte order mark"),
        (&restore("-"), "--restore: -: standard input is no backup"),
        (&restore("~/x"), "--restore: ~/x begins with a ~"),
        (&restore("pipe"), "it is a pipe, which is not taken here, because a backup is read more than once"),
        (&restore("directory"), "it is a directory"),
        (&restore("socket"), "it is a socket"),
        (&restore("missing/x"), "cannot be read: No such file"),
    ] {
        let (code, said) = server(dir.path(), args);
        assert_eq!((code, said.lines().count()), (Some(2), 1), "{args:?}: {said}");
        assert!(said.starts_with("dkv-server: ") && said.contains(says), "{args:?}: {said}");
    }
    // A backup that a program on its way took for text.
    let text: Vec<u8> = std::iter::once(0xfeff)
        .chain("dkvsnap ".repeat(20).encode_utf16())
        .flat_map(u16::to_le_bytes)
        .collect();
    fs::write(at("backup"), text).unwrap();
    let (code, said) = server(dir.path(), &restore("backup"));
    assert!(code == Some(3) && said.contains("it is UTF-16 text (little-endian)"), "{code:?} {said}");
    fs::remove_file(at("backup")).unwrap();
    assert_eq!(names(dir.path()), before);

    // What comes out of a pipe is a configuration like any other.
    let to = at("pipe");
    let writer = thread::spawn(move || fs::write(to, one_node("")).unwrap());
    assert_eq!(server(dir.path(), &["--config", "pipe", "--check-config"]), (Some(0), String::new()));
    writer.join().unwrap();
}

/// Every file below, with its mode; sockets excluded, which their directory protects.
fn modes(dir: &Path) -> Vec<(String, u32)> {
    let mut found = vec![(dir.display().to_string(), mode(dir))];
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let kind = fs::symlink_metadata(&path).unwrap().file_type();
        if kind.is_dir() {
            found.extend(modes(&path));
        } else if kind.is_file() {
            found.push((path.display().to_string(), mode(&path)));
        }
    }
    found
}

#[test]
fn data_directories_and_logs_are_their_owners_alone_and_old_ones_are_restricted_with_a_line() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::write(at("x.yaml"), one_node("log: { file: node.log }\nsnapshot_log_entries: 2\n")).unwrap();
    let data = at("data");
    let run_once = || {
        // Nothing is taken from others by the mask: it must be dkv that does it.
        let mut command = Command::new("sh");
        command.args(["-c", "umask 000; exec \"$0\" --config x.yaml", env!("CARGO_BIN_EXE_dkv-server")]);
        command.current_dir(dir.path()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let started = fs::read_to_string(at("node.log")).unwrap_or_default().len();
        let child = command.spawn().unwrap();
        wait_for("a leader", || {
            let log = fs::read_to_string(at("node.log")).ok()?;
            log.get(started..)?.contains("leader").then_some(())
        });
        wait_for("a log", || names(&data).iter().any(|name| name.ends_with(".wal")).then_some(()));
        send(&child, "-TERM");
        let output = end_of(child);
        let log = fs::read_to_string(at("node.log")).unwrap();
        assert_eq!(output.status.code(), Some(0), "{output:?}\n{log}");
    };
    run_once();
    let log = || fs::read_to_string(at("node.log")).unwrap();
    assert!(!log().contains("others had rights"), "{}", log());
    let all_private = || {
        let found = modes(&data);
        assert!(found.len() >= 4, "{found:?}");
        let is_private = |name: &str, mode: u32| mode == if Path::new(name).is_dir() { 0o700 } else { 0o600 };
        assert!(found.iter().all(|(name, mode)| is_private(name, *mode)), "{found:?}");
        assert_eq!(mode(&at("node.log")), 0o600);
    };
    all_private();
    for (name, _) in modes(&data) {
        let open = if Path::new(&name).is_dir() { 0o755 } else { 0o644 };
        fs::set_permissions(&name, Permissions::from_mode(open)).unwrap();
    }
    fs::set_permissions(at("node.log"), Permissions::from_mode(0o644)).unwrap();
    run_once();
    assert!(
        log().contains("data_dir data: others had rights to it (mode 0755); it is restricted"),
        "{}",
        log()
    );
    assert!(log().contains("files in it were open to others"), "{}", log());
    assert!(log().contains("log.file node.log: others had rights to it (mode 0644)"), "{}", log());
    all_private();
}
