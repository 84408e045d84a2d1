//! Imports point one way: `bin -> server -> node -> {store, raft}`, `store -> raft` (data types only),
//! `client -> api`, `server -> api`; `{store, config} -> files`; `files`, `vocabulary` and `bytes` stand alone, and
//! `vocabulary` is open to all but `raft` and the configuration; `raft` knows nothing of ours but `bytes`, and nothing that
//! could make it answer differently twice. Inside a layer there are no circles of imports. Tests within a file are exempt.

#[path = "architecture/documents.rs"]
mod documents;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// What each layer may name of the others.
const LAYERS: [(&str, &[&str]); 13] = [
    ("bytes", &[]),
    ("files", &[]),
    ("vocabulary", &[]),
    ("raft", &["bytes"]),
    ("store", &["raft", "bytes", "files", "vocabulary"]),
    ("node", &["store", "raft", "vocabulary"]),
    ("server", &["node", "store", "raft", "api", "bytes", "config", "files", "logging", "vocabulary"]),
    ("api", &["vocabulary"]),
    ("config", &["files"]),
    ("logging", &["config", "files"]),
    ("client", &["api", "vocabulary"]),
    ("check", &["vocabulary"]),
    (
        "bin",
        &["server", "node", "store", "api", "client", "config", "files", "logging", "check", "vocabulary"],
    ),
];

/// The names of `raft` that are data: all that `store` may use.
const RAFT_DATA: [&str; 26] = [
    "LeftOnDisk",
    "Log",
    "FIRST_PROTOCOL",
    "PROTOCOL",
    "Protocol",
    "VersionMismatch",
    "check_version",
    "ClusterId",
    "Entry",
    "EntryKind",
    "Genesis",
    "FrameError",
    "HardState",
    "Index",
    "LogRead",
    "MAX_PAYLOAD_BYTES",
    "Member",
    "MemberId",
    "Membership",
    "Payload",
    "Position",
    "Settings",
    "SnapshotMeta",
    "ClusterTime",
    "Term",
    "WriteOp",
];

/// Crates that only these files (or files below these folders) may name.
const RESERVED: [(&str, &[&str]); 5] = [
    ("tiny_http", &["server/edge/workers.rs"]),
    ("ureq", &["client/", "client.rs", "server/peer/client.rs", "server/peer/link/opening.rs"]),
    ("serde_yaml", &["config.rs", "config/"]),
    ("simplelog", &["logging.rs"]),
    ("prometheus_client", &["server/routes/metrics.rs"]),
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

/// Files that may import each other in a circle: one `impl` over several files, each a section of the paper.
const CIRCLES: [&[&str]; 1] =
    [&["raft/raft.rs", "raft/read.rs", "raft/reply.rs", "raft/role.rs", "raft/version.rs"]];

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

/// Drops every item after `#[cfg(test)]`: up to its `;` or the end of its braces.
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

/// The module of a file below `src/`, from the crate's root; a program's from its own folder on.
fn module_of(file: &str) -> Vec<String> {
    let stem = file.strip_suffix(".rs").unwrap_or(file);
    let mut module: Vec<String> = stem.split('/').map(str::to_owned).collect();
    if module.last().is_some_and(|m| m == "mod" || (m == "main" && module[0] == "bin")) {
        module.pop();
    }
    module
}

/// Who imports whom: every file with the files that define what it names.
struct Imports {
    files: BTreeMap<Vec<String>, String>,
    /// The paths in each module, from the crate's root.
    paths: BTreeMap<Vec<String>, Vec<Vec<String>>>,
}

impl Imports {
    fn read(sources: &[(String, String)]) -> Imports {
        let mut imports = Imports { files: BTreeMap::new(), paths: BTreeMap::new() };
        for (file, source) in sources {
            let module = module_of(file);
            if file == "lib.rs" || module.last().is_some_and(|m| m == "tests") {
                continue;
            }
            let is_program = module[0] == "bin";
            let tokens = tokens(source);
            let named = paths(&tokens).into_iter().map(|path| {
                let is_own = is_program && path[0] == "crate";
                let mut path = absolute(&path, &module);
                if path[0] == "crate" {
                    path.remove(0);
                    if is_own {
                        path.splice(0..0, module[..2].iter().cloned());
                    }
                } else {
                    // A name of this module, or of its surroundings: `use` of a child, or a path through one.
                    path.splice(0..0, module.iter().cloned());
                }
                path
            });
            imports.paths.insert(module.clone(), named.collect());
            imports.files.insert(module, file.clone());
        }
        imports
    }

    /// The module that defines what `path` names, seen through what modules pass on with `pub use`.
    fn resolve(&self, path: &[String], hops: usize) -> Option<&Vec<String>> {
        let (module, rest) = (1..=path.len())
            .rev()
            .find_map(|n| self.files.get_key_value(&path[..n]).map(|(module, _)| (module, &path[n..])))?;
        let Some(name) = rest.first() else { return Some(module) };
        let passed_on = self.paths[module]
            .iter()
            .find(|used| used.len() > module.len() && used.last() == Some(name) && used[..] != *path);
        match passed_on {
            Some(used) if hops > 0 => self.resolve(used, hops - 1).or(Some(module)),
            _ => Some(module),
        }
    }

    /// Edges inside a layer. A module and those below it are one room: they may name each other.
    fn edges(&self) -> BTreeMap<&str, BTreeSet<&str>> {
        let mut edges = BTreeMap::new();
        for (module, paths) in &self.paths {
            let targets: &mut BTreeSet<&str> = edges.entry(self.files[module].as_str()).or_default();
            for target in paths.iter().filter_map(|path| self.resolve(path, 4)) {
                let is_one_room = module.starts_with(target) || target.starts_with(module);
                if !is_one_room && target[0] == module[0] {
                    targets.insert(&self.files[target]);
                }
            }
        }
        edges
    }

    /// The circles, each with its files in order.
    fn circles(&self) -> Vec<Vec<&str>> {
        let edges = self.edges();
        let reach = |from: &str| {
            let (mut seen, mut next) = (BTreeSet::new(), vec![from.to_owned()]);
            while let Some(file) = next.pop() {
                for &target in edges.get(file.as_str()).into_iter().flatten() {
                    if seen.insert(target) {
                        next.push(target.to_owned());
                    }
                }
            }
            seen
        };
        let reached: BTreeMap<&str, BTreeSet<&str>> = edges.keys().map(|file| (*file, reach(file))).collect();
        let mut circles: Vec<Vec<&str>> = Vec::new();
        for (file, targets) in &reached {
            if targets.contains(file) && !circles.iter().flatten().any(|known| known == file) {
                circles.push(targets.iter().copied().filter(|t| reached[t].contains(file)).collect());
            }
        }
        circles
    }
}

#[test]
fn no_imports_go_in_a_circle_inside_a_layer() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut sources = Vec::new();
    walk(&root, &root, &mut |file, source| sources.push((file.to_owned(), source.to_owned())));
    let imports = Imports::read(&sources);
    let edges: usize = imports.edges().values().map(BTreeSet::len).sum();
    assert!(edges > 200, "only {edges} imports inside layers are seen");
    let mut circles = imports.circles();
    for allowed in CIRCLES {
        let at = circles.iter().position(|circle| circle == allowed);
        let at = at.unwrap_or_else(|| panic!("no such circle any more: {allowed:?}; take it from the list"));
        circles.remove(at);
    }
    assert!(circles.is_empty(), "circles of imports: {circles:#?}");
}

#[test]
fn circles_are_found_through_what_modules_pass_on() {
    let files = |files: &[(&str, &str)]| -> Vec<(String, String)> {
        files.iter().map(|(file, source)| ((*file).to_owned(), (*source).to_owned())).collect()
    };
    let circles = |sources: &[(&str, &str)]| -> Vec<Vec<String>> {
        let sources = files(sources);
        let imports = Imports::read(&sources);
        let circles = imports.circles();
        circles.into_iter().map(|circle| circle.into_iter().map(str::to_owned).collect()).collect()
    };
    let planted: [&[(&str, &str)]; 4] = [
        &[("server/a.rs", "use super::b::B;"), ("server/b.rs", "fn f() { crate::server::a::g() }")],
        &[
            ("server/a.rs", "use super::b::B;"),
            ("server/b.rs", "use super::c::C;"),
            ("server/c.rs", "use super::a::A;"),
        ],
        &[
            ("server/edge/mod.rs", "mod a; mod b; pub use a::A; pub use self::b::B;"),
            ("server/edge/a.rs", "use crate::server::edge::B;"),
            ("server/edge/b.rs", "use super::{x::Y, A};"),
        ],
        &[("bin/dkv-cli/a.rs", "use crate::b::B;"), ("bin/dkv-cli/b.rs", "use crate::a::A;")],
    ];
    for sources in planted {
        let found = circles(sources);
        let expected: Vec<String> =
            sources.iter().map(|(file, _)| (*file).to_owned()).filter(|f| !f.ends_with("mod.rs")).collect();
        assert_eq!(found, [expected], "{sources:?}");
    }
    let fine: [&[(&str, &str)]; 3] = [
        // A room: a module and its children.
        &[("server/a.rs", "mod b; use b::B;"), ("server/a/b.rs", "use super::A;")],
        &[
            ("server/a.rs", "use super::b::B; use super::c::C;"),
            ("server/b.rs", "use super::c::C;"),
            ("server/c.rs", ""),
        ],
        // What a test of the file names.
        &[
            ("server/a.rs", "use super::b::B;"),
            ("server/b.rs", "#[cfg(test)] mod tests { use crate::server::a::A; }"),
        ],
    ];
    for sources in fine {
        assert_eq!(circles(sources), Vec::<Vec<String>>::new(), "{sources:?}");
    }
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
    let mut used = BTreeSet::new();
    walk(&root, &root, &mut |file, source| {
        if file.starts_with("store/") {
            let named = paths(&tokens(source)).into_iter().filter(|path| path.len() > 2 && path[1] == "raft");
            used.extend(named.map(|path| path[2].clone()));
        }
    });
    let unused: Vec<_> = RAFT_DATA.iter().filter(|name| !used.contains(**name)).collect();
    assert!(unused.is_empty(), "store uses none of {unused:?}: take them from the list");
    assert!(found.is_empty(), "{} forbidden imports:\n{}", found.len(), found.join("\n"));
}

#[test]
fn violations_finds_each_planted_one() {
    let planted = [
        ("raft/raft.rs", "use crate::store::Wal;"),
        ("raft/raft.rs", "use super::super::node::Node;"),
        ("raft/raft.rs", "fn f() { crate::api::x(); }"),
        ("raft/raft.rs", "use std::{fmt, sync::{Arc, Mutex}};"),
        ("raft/raft.rs", "use std::sync::*;"),
        ("raft/raft.rs", "use std::sync::atomic::AtomicU64;"),
        ("raft/raft.rs", "use std::time::{Duration, Instant};"),
        ("raft/raft.rs", "use std::time;"),
        ("raft/raft.rs", "let x = std::time::SystemTime::now();"),
        ("raft/raft.rs", "use std::collections::{BTreeMap, HashMap as Map};"),
        ("raft/raft.rs", "let m = std::collections::HashSet::new();"),
        ("raft/raft.rs", "use std::{thread};"),
        ("raft/raft.rs", "use std::fs as files;"),
        ("raft/raft.rs", "fn f() { std::net::TcpStream::connect(a) }"),
        ("raft/raft.rs", "log::info!(\"x\");"),
        ("raft/raft.rs", "use log::warn;"),
        ("raft/raft.rs", "fn f() { warn!(\"x\"); }"),
        ("raft/raft.rs", "fn f() { println!(\"x\"); }"),
        ("raft/raft.rs", "let x = fastrand::u64(..);"),
        ("raft/raft.rs", "#[cfg(test)] mod tests { fn f() {} } use std::fs::File;"),
        ("raft/raft.rs", "#[cfg(test)] mod tests; use std::fs::File;"),
        ("raft/raft.rs", "fn f<'a>(x: &'a str) -> char { 'x' } use std::fs::File; const C: char = '\\'';"),
        ("raft/raft.rs", "const S: &str = r#\"a\"b\"#; use std::fs::File;"),
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
        ("server/edge/listener.rs", "use tiny_http::Server;"),
        ("server/edge/listener.rs", "use ureq::Agent;"),
        ("server/edge/listener.rs", "use crate::client::Client;"),
        ("server/mod.rs", "use serde_yaml as yaml;"),
        ("bin/dkv-cli/main.rs", "use dkv::raft::Raft;"),
        ("bin/dkv-cli/main.rs", "use dkv::{client::Client, raft::Raft};"),
        ("check/order.rs", "use crate::raft::Term;"),
        ("check/order.rs", "use crate::store::Outcome;"),
        ("vocabulary/outcome.rs", "use crate::store::Kv;"),
        ("vocabulary/mod.rs", "use crate::api::ErrorCode;"),
        ("raft/raft.rs", "use crate::vocabulary::Op;"),
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
            "raft/raft.rs",
            "use std::sync::Arc; use std::time::Duration; use super::log::RaftLog; use fastrand::Rng;",
        ),
        (
            "raft/raft.rs",
            "// use std::fs;\n/* use std::fs; */ const S: &str = \"use std::fs; \\\" log::info!\";",
        ),
        ("raft/raft.rs", "/// [`crate::store::Wal`]\nfn f() { self.log.last(); let c = '\"'; }"),
        (
            "raft/raft.rs",
            "fn f() {} #[cfg(test)] mod tests { use std::collections::HashMap; fn g() { println!() } }",
        ),
        ("raft/raft.rs", "fn f(&self) -> impl Iterator<Item = u64> + use<'_> { self.x.iter() }"),
        ("raft/tests.rs", "use std::fs;"),
        ("raft/mod.rs", "mod log; pub use self::log::RaftLog; use std::collections::BTreeMap;"),
        (
            "store/kv.rs",
            "use crate::raft::{Entry, Index}; use super::command::Command; use crate::store::Wal;",
        ),
        ("node/mod.rs", "use crate::raft::Raft; use crate::store::Kv; use std::sync::Mutex;"),
        (
            "server/edge/workers.rs",
            "use tiny_http::Server; use crate::node::Node; use crate::api::ErrorCode;",
        ),
        ("server/peer/client.rs", "use ureq::Agent;"),
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
