//! Imports point one way: `bin -> server -> node -> {store, raft}`, `store -> raft` (data types only),
//! `client -> api`, `server -> api`; `api`, `config` and `check` stand alone; `raft` knows nothing of ours and nothing that
//! could make it answer differently twice. Tests within a file are exempt.

use std::fs;
use std::path::Path;

/// What each layer may name of the others.
const LAYERS: [(&str, &[&str]); 10] = [
    ("raft", &[]),
    ("store", &["raft"]),
    ("node", &["store", "raft"]),
    ("server", &["node", "store", "raft", "api", "config", "logging"]),
    ("api", &[]),
    ("config", &[]),
    ("logging", &["config"]),
    ("client", &["api"]),
    ("check", &[]),
    ("bin", &["server", "node", "store", "api", "client", "config", "logging", "check"]),
];

/// The names of `raft` that are data: all that `store` may use.
const RAFT_DATA: [&str; 30] = [
    "FIRST_PROTOCOL",
    "PROTOCOL",
    "Protocol",
    "VersionMismatch",
    "check_version",
    "AfterSync",
    "ClusterId",
    "Entry",
    "EntryKind",
    "FRAME_HEADER_BYTES",
    "Found",
    "FrameError",
    "HardState",
    "Index",
    "MAX_PAYLOAD_BYTES",
    "Member",
    "MemberId",
    "Membership",
    "Payload",
    "Position",
    "QueuedWrite",
    "RestoredState",
    "Settings",
    "SnapshotMeta",
    "Stamp",
    "Term",
    "Time",
    "WriteBatch",
    "WriteOp",
    "WriteSeq",
];

/// Crates that only these files (or files below these folders) may name.
const RESERVED: [(&str, &[&str]); 5] = [
    ("tiny_http", &["server/http.rs", "server/http/"]),
    ("ureq", &["client/", "client.rs", "server/peer_client.rs", "server/peer_client/"]),
    ("serde_yaml", &["config.rs", "config/"]),
    ("simplelog", &["logging.rs"]),
    ("prometheus_client", &["server/metrics.rs"]),
];

/// What `raft` may not name: a source of time, chance, waiting, input or output, or of an order that varies.
const NOT_IN_RAFT: [&str; 15] = [
    "std::fs",
    "std::net",
    "std::os",
    "std::io",
    "std::env",
    "std::process",
    "std::thread",
    "std::time::Instant",
    "std::time::SystemTime",
    "std::collections::HashMap",
    "std::collections::HashSet",
    "std::collections::hash_map",
    "std::collections::hash_set",
    "getrandom",
    "rustix",
];

/// Macros that log or print.
const LOUD_MACROS: [&str; 11] =
    ["trace", "debug", "info", "warn", "error", "log", "println", "eprintln", "print", "eprint", "dbg"];

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Word(String),
    PathSeparator,
    Other(char),
}

/// The source without comments, strings, character literals and `#[cfg(test)]` items, as words and signs.
fn tokens(source: &str) -> Vec<Token> {
    let chars: Vec<char> = source.chars().collect();
    let at = |i: usize| chars.get(i).copied().unwrap_or('\0');
    let mut tokens = Vec::new();
    let mut i = 0;
    while i < chars.len() {
        let c = at(i);
        if c == '/' && at(i + 1) == '/' {
            while i < chars.len() && at(i) != '\n' {
                i += 1;
            }
        } else if c == '/' && at(i + 1) == '*' {
            while i < chars.len() && !(at(i) == '*' && at(i + 1) == '/') {
                i += 1;
            }
            i += 2;
        } else if c == '"' {
            i += 1;
            while i < chars.len() && at(i) != '"' {
                i += if at(i) == '\\' { 2 } else { 1 };
            }
            i += 1;
        } else if c == 'r' && (at(i + 1) == '"' || (at(i + 1) == '#' && matches!(at(i + 2), '"' | '#'))) {
            i = skip_raw_string(&chars, i + 1);
        } else if c == '\'' {
            // A character literal ends within a few places; a lifetime does not end at all.
            let end = if at(i + 1) == '\\' { (i + 3..i + 12).find(|j| at(*j) == '\'') } else { Some(i + 2) };
            i = end.filter(|e| at(*e) == '\'').unwrap_or(i) + 1;
        } else if c.is_alphanumeric() || c == '_' {
            let start = i;
            while at(i).is_alphanumeric() || at(i) == '_' {
                i += 1;
            }
            tokens.push(Token::Word(chars[start..i].iter().collect()));
        } else if c == ':' && at(i + 1) == ':' {
            tokens.push(Token::PathSeparator);
            i += 2;
        } else {
            if !c.is_whitespace() {
                tokens.push(Token::Other(c));
            }
            i += 1;
        }
    }
    without_tests(tokens)
}

fn skip_raw_string(chars: &[char], mut i: usize) -> usize {
    let mut hashes = 0;
    while chars.get(i) == Some(&'#') {
        hashes += 1;
        i += 1;
    }
    i += 1;
    while i < chars.len() {
        let closes =
            chars[i] == '"' && chars[i + 1..].iter().take(hashes).filter(|c| **c == '#').count() == hashes;
        i += 1;
        if closes {
            return i + hashes;
        }
    }
    i
}

/// Drops every item behind `#[cfg(test)]`: up to its `;` or the end of its braces.
fn without_tests(tokens: Vec<Token>) -> Vec<Token> {
    let word = |w: &str| Token::Word(w.to_owned());
    let mark = [
        Token::Other('#'),
        Token::Other('['),
        word("cfg"),
        Token::Other('('),
        word("test"),
        Token::Other(')'),
        Token::Other(']'),
    ];
    let mut kept = Vec::new();
    let mut i = 0;
    while i < tokens.len() {
        if !tokens[i..].starts_with(&mark) {
            kept.push(tokens[i].clone());
            i += 1;
            continue;
        }
        let mut depth = 0;
        loop {
            i += 1;
            match tokens.get(i) {
                None => break,
                Some(Token::Other('{')) => depth += 1,
                Some(Token::Other('}')) => depth -= 1,
                Some(Token::Other(';')) if depth == 0 => break,
                _ => continue,
            }
            if depth == 0 {
                break;
            }
        }
        i += 1;
    }
    kept
}

/// Every path of the file, with the groups of `use` opened: `use a::{b, c::d}` gives `a::b` and `a::c::d`.
fn paths(tokens: &[Token]) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    let mut i = 0;
    while i < tokens.len() {
        // `use<'a>` in a type says what it captures and imports nothing.
        let captures = tokens.get(i + 1) == Some(&Token::Other('<'));
        if tokens[i] == Token::Word("use".to_owned()) && !captures {
            i = open_use(tokens, i + 1, &[], &mut found);
        } else if let Token::Word(first) = &tokens[i] {
            let mut path = vec![first.clone()];
            while let (Some(Token::PathSeparator), Some(Token::Word(next))) =
                (tokens.get(i + 1), tokens.get(i + 2))
            {
                path.push(next.clone());
                i += 2;
            }
            if path.len() > 1 {
                found.push(path);
            }
            i += 1;
        } else {
            i += 1;
        }
    }
    found
}

/// Reads one tree of a `use` from `i` on; returns where it ended.
fn open_use(tokens: &[Token], mut i: usize, prefix: &[String], found: &mut Vec<Vec<String>>) -> usize {
    let mut path = prefix.to_vec();
    loop {
        match tokens.get(i) {
            Some(Token::Word(word)) if word == "as" => i += 1,
            Some(Token::Word(word)) => {
                if word != "self" || path.is_empty() {
                    path.push(word.clone());
                }
            }
            Some(Token::PathSeparator) => {}
            Some(Token::Other('*')) => path.push("*".to_owned()),
            Some(Token::Other('{')) => {
                i += 1;
                while !matches!(tokens.get(i), None | Some(Token::Other('}'))) {
                    i = open_use(tokens, i, &path, found);
                    if tokens.get(i) == Some(&Token::Other(',')) {
                        i += 1;
                    }
                }
                return i + 1;
            }
            _ => {
                found.push(path);
                return i;
            }
        }
        i += 1;
    }
}

/// The path from the crate's root, for `crate::`, `dkv::`, `self::` and `super::`; else as it stands.
fn absolute(path: &[String], module: &[String]) -> Vec<String> {
    let mut base = match path[0].as_str() {
        "crate" | "dkv" => Vec::new(),
        "self" | "super" => module.to_vec(),
        _ => return path.to_vec(),
    };
    let mut rest = path;
    while let Some(first) = rest.first() {
        match first.as_str() {
            "super" => {
                base.pop();
            }
            "self" | "crate" | "dkv" => {}
            _ => break,
        }
        rest = &rest[1..];
    }
    [&["crate".to_owned()], &base[..], rest].concat()
}

/// What is forbidden in the file at `file` (below `src/`).
fn violations(file: &str, source: &str) -> Vec<String> {
    let stem = file.strip_suffix(".rs").unwrap_or(file);
    let mut module: Vec<String> = stem.split('/').map(str::to_owned).collect();
    if module.last().is_some_and(|m| m == "mod") {
        module.pop();
    }
    if file == "lib.rs" || module.last().is_some_and(|m| m == "tests") {
        return Vec::new();
    }
    let layer = module[0].clone();
    let Some((_, allowed)) = LAYERS.iter().find(|(name, _)| *name == layer) else {
        return vec![format!("src/{file}: {layer} has no place among the layers")];
    };
    let tokens = tokens(source);
    let mut found = Vec::new();
    for path in paths(&tokens) {
        let path = absolute(&path, &module);
        let text = path.join("::");
        let mut forbid = |why: &str| found.push(format!("src/{file}: {text}: {why}"));
        if path[0] == "crate" {
            // In a program, `crate::` is the program itself and `dkv::` the library.
            let target = path.get(1).map_or("", String::as_str);
            let known = LAYERS.iter().any(|(name, _)| *name == target);
            if target != layer && known && !allowed.contains(&target) {
                forbid(&format!("{layer} may not use {target}"));
            }
            let data = path.get(2).is_some_and(|name| RAFT_DATA.contains(&name.as_str()));
            if layer == "store" && target == "raft" && !data {
                forbid("store may use the data types of raft only");
            }
            continue;
        }
        for (name, files) in RESERVED {
            if path[0] == name
                && !files.iter().any(|f| file == *f || (f.ends_with('/') && file.starts_with(f)))
            {
                forbid(&format!("{name} is for {} alone", files.join(", ")));
            }
        }
        let below = |root: &str| text == root || text.starts_with(&format!("{root}::"));
        if matches!(layer.as_str(), "api" | "config")
            && ["std::net::Tcp", "std::net::Udp", "std::thread"].iter().any(|root| text.starts_with(root))
        {
            forbid("api and config hold data only");
        }
        if layer == "check"
            && ["std::fs", "std::net", "std::thread", "std::time", "std::process"].into_iter().any(below)
        {
            forbid("the checker takes events and gives a verdict");
        }
        if layer == "raft" {
            if NOT_IN_RAFT.iter().any(|root| below(root)) {
                forbid("the core is pure");
            }
            if below("std::sync") && text != "std::sync::Arc" {
                forbid("of std::sync the core uses Arc only");
            }
            if below("std::time") && text != "std::time::Duration" {
                forbid("of std::time the core uses Duration only");
            }
            if below("fastrand") && path.get(1).is_none_or(|name| name != "Rng") {
                forbid("only a seeded generator: fastrand::Rng");
            }
            if path[0] == "log" && path.get(1).is_some_and(|name| LOUD_MACROS.contains(&name.as_str())) {
                forbid("the core emits Notes and does not log");
            }
        }
    }
    if layer == "raft" {
        for pair in tokens.windows(2) {
            if let [Token::Word(name), Token::Other('!')] = pair
                && LOUD_MACROS.contains(&name.as_str())
            {
                found.push(format!("src/{file}: {name}!: the core emits Notes and does not log"));
            }
        }
    }
    found
}

fn walk(root: &Path, dir: &Path, visit: &mut impl FnMut(&str, &str)) {
    let mut entries: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            walk(root, &path, visit);
        } else if path.extension().is_some_and(|e| e == "rs") {
            let file = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            visit(&file, &fs::read_to_string(&path).unwrap());
        }
    }
}

#[test]
fn imports_point_one_way() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    let mut files = 0;
    walk(&root, &root, &mut |file, source| {
        files += 1;
        found.extend(violations(file, source));
    });
    assert!(files > 10, "only {files} files below {}", root.display());
    assert!(found.is_empty(), "{} forbidden imports:\n{}", found.len(), found.join("\n"));
}

#[test]
fn violations_finds_each_planted_one() {
    let planted = [
        ("raft/core.rs", "use crate::store::Wal;"),
        ("raft/core.rs", "use super::super::node::Node;"),
        ("raft/core.rs", "fn f() { crate::api::x(); }"),
        ("raft/core.rs", "use std::{fmt, sync::{Arc, Mutex}};"),
        ("raft/core.rs", "use std::sync::*;"),
        ("raft/core.rs", "use std::sync::atomic::AtomicU64;"),
        ("raft/core.rs", "use std::time::{Duration, Instant};"),
        ("raft/core.rs", "use std::time;"),
        ("raft/core.rs", "let x = std::time::SystemTime::now();"),
        ("raft/core.rs", "use std::collections::{BTreeMap, HashMap as Map};"),
        ("raft/core.rs", "let m = std::collections::HashSet::new();"),
        ("raft/core.rs", "use std::{thread};"),
        ("raft/core.rs", "use std::fs as files;"),
        ("raft/core.rs", "fn f() { std::net::TcpStream::connect(a) }"),
        ("raft/core.rs", "log::info!(\"x\");"),
        ("raft/core.rs", "use log::warn;"),
        ("raft/core.rs", "fn f() { warn!(\"x\"); }"),
        ("raft/core.rs", "fn f() { println!(\"x\"); }"),
        ("raft/core.rs", "let x = fastrand::u64(..);"),
        ("raft/core.rs", "#[cfg(test)] mod tests { fn f() {} } use std::fs::File;"),
        ("raft/core.rs", "#[cfg(test)] mod tests; use std::fs::File;"),
        ("raft/core.rs", "fn f<'a>(x: &'a str) -> char { 'x' } use std::fs::File; const C: char = '\\'';"),
        ("raft/core.rs", "const S: &str = r#\"a\"b\"#; use std::fs::File;"),
        ("store/kv.rs", "use crate::raft::Raft;"),
        ("store/kv.rs", "use crate::raft::{Entry, Raft};"),
        ("store/kv.rs", "use crate::raft;"),
        ("store/kv.rs", "use crate::raft::*;"),
        ("store/wal/scan.rs", "use super::super::super::node::Node;"),
        ("node/mod.rs", "use crate::server::Server;"),
        ("node/mod.rs", "use super::api::ErrorCode;"),
        ("client/mod.rs", "use crate::{api::PutReply, node::Node};"),
        ("api/mod.rs", "use crate::raft::Term;"),
        ("config.rs", "use crate::api::ErrorCode;"),
        ("config.rs", "use std::net::TcpListener;"),
        ("server/gate.rs", "use tiny_http::Server;"),
        ("server/gate.rs", "use ureq::Agent;"),
        ("server/gate.rs", "use crate::client::Client;"),
        ("server/mod.rs", "use serde_yaml as yaml;"),
        ("bin/dkv-cli/main.rs", "use dkv::raft::Raft;"),
        ("bin/dkv-cli/main.rs", "use dkv::{client::Client, raft::Raft};"),
        ("check/order.rs", "use crate::raft::Term;"),
        ("check/mod.rs", "use std::time::Instant;"),
        ("util.rs", ""),
    ];
    for (file, source) in planted {
        assert!(!violations(file, source).is_empty(), "not found in {file}: {source}");
    }
}

#[test]
fn violations_lets_the_rest_pass() {
    let fine = [
        (
            "raft/core.rs",
            "use std::sync::Arc; use std::time::Duration; use super::log::RaftLog; use fastrand::Rng;",
        ),
        (
            "raft/core.rs",
            "// use std::fs;\n/* use std::fs; */ const S: &str = \"use std::fs; \\\" log::info!\";",
        ),
        ("raft/core.rs", "/// [`crate::store::Wal`]\nfn f() { self.log.last(); let c = '\"'; }"),
        (
            "raft/core.rs",
            "fn f() {} #[cfg(test)] mod tests { use std::collections::HashMap; fn g() { println!() } }",
        ),
        ("raft/core.rs", "fn f(&self) -> impl Iterator<Item = u64> + use<'_> { self.x.iter() }"),
        ("raft/tests.rs", "use std::fs;"),
        ("raft/mod.rs", "mod log; pub use self::log::RaftLog; use std::collections::BTreeMap;"),
        (
            "store/kv.rs",
            "use crate::raft::{Entry, Index}; use super::command::Command; use crate::store::Wal;",
        ),
        ("node/mod.rs", "use crate::raft::Raft; use crate::store::Kv; use std::sync::Mutex;"),
        ("server/http.rs", "use tiny_http::Server; use crate::node::Node; use crate::api::ErrorCode;"),
        ("server/peer_client.rs", "use ureq::Agent;"),
        ("client/exchange.rs", "use ureq::Agent; use crate::api::PutReply;"),
        ("check/history.rs", "use std::io::BufRead; use super::names::Names; use serde::Serialize;"),
        ("config.rs", "use serde_yaml::Value; use std::net::Ipv4Addr;"),
        ("bin/dkv-server/main.rs", "use dkv::server::Server; use crate::run::run;"),
    ];
    for (file, source) in fine {
        assert_eq!(violations(file, source), Vec::<String>::new(), "{file}: {source}");
    }
}

/// The links of `docs/testing.md` that name a test: `[`name`](../file)`.
fn named_tests(text: &str) -> Vec<(&str, &str)> {
    let parts = text.split("[`").skip(1).filter_map(|part| part.split_once("`](../"));
    parts.filter_map(|(name, rest)| Some((name, rest.split_once(')')?.0))).collect()
}

/// The files that a document links to, as seen from its own directory.
fn linked_files(text: &str) -> impl Iterator<Item = &str> {
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split([')', '#', ' ']).next());
    targets.filter(|target| !target.is_empty() && !target.contains("://"))
}

#[test]
fn every_file_that_the_documents_link_to_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let docs = fs::read_dir(root.join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let mut links = 0;
    for document in docs.chain([root.join("README.md")]).filter(|p| p.extension().is_some_and(|e| e == "md"))
    {
        let text = fs::read_to_string(&document).unwrap();
        for target in linked_files(&text) {
            links += 1;
            let path = document.parent().unwrap().join(target);
            assert!(path.exists(), "{} links to {target}, which is not there", document.display());
        }
    }
    assert!(links > 50, "only {links} links");
}

#[test]
fn every_test_that_the_documents_name_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(root.join("docs/testing.md")).unwrap();
    let named = named_tests(&text);
    assert!(named.len() > 25, "only {} tests are named", named.len());
    for (name, file) in named {
        let source = fs::read_to_string(root.join(file)).unwrap_or_else(|e| panic!("{file}: {e}"));
        let is_file = name == file;
        assert!(is_file || source.contains(&format!("fn {name}(")), "{file} has no test {name}");
    }
    for promise in 1..=8 {
        assert!(text.contains(&format!("| P{promise} ")), "no test is named for promise P{promise}");
    }
}
