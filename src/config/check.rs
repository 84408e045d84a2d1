//! What a configuration is refused for: each check names the field, the value and what to write instead.

use std::fmt;

use super::{Config, Limits, MAX_PEERS};
use crate::files::check_name;

/// A field that is refused; the caller adds the name of the file.
pub(super) struct Refused {
    pub field: String,
    pub value: String,
    pub fix: String,
}

fn refuse<T>(
    field: impl Into<String>,
    value: impl fmt::Display,
    fix: impl Into<String>,
) -> Result<T, Refused> {
    Err(Refused { field: field.into(), value: value.to_string(), fix: fix.into() })
}

impl Config {
    /// Everything that can be checked without touching disk or network.
    pub(super) fn check(&self) -> Result<(), Refused> {
        self.check_names()
            .and_then(|()| self.check_files())
            .and_then(|()| self.check_addresses())
            .and_then(|()| self.check_timers())
            .and_then(|()| self.check_sizes())
            .and_then(|()| self.limits.check())
    }

    fn check_names(&self) -> Result<(), Refused> {
        if self.node_id.is_empty() {
            return refuse(
                "node_id",
                "missing",
                "name this node as in its entry of peers, for example node1",
            );
        }
        if self.data_dir.as_os_str().is_empty() {
            return refuse(
                "data_dir",
                "missing",
                "name a directory for this node alone, for example data/node1",
            );
        }
        if self.peers.is_empty() {
            return refuse("peers", "none", "list every initial member, this one included");
        }
        if self.peers.len() > MAX_PEERS {
            return refuse(
                "peers",
                self.peers.len(),
                format!("at most {MAX_PEERS} members; 3 or 5 are usual"),
            );
        }
        for (i, peer) in self.peers.iter().enumerate() {
            if !is_node_id(&peer.node_id) {
                let fix = "a name is 1 to 64 of A-Z a-z 0-9 . _ -";
                return refuse(format!("peers[{i}].node_id"), format!("{:?}", peer.node_id), fix);
            }
            if let Some(first) = self.peers[..i].iter().position(|p| p.node_id == peer.node_id) {
                let fix = format!("peers[{first}] has the same name; give each member its own");
                return refuse(format!("peers[{i}].node_id"), &peer.node_id, fix);
            }
        }
        if !self.peers.iter().any(|p| p.node_id == self.node_id) {
            let names: Vec<&str> = self.peers.iter().map(|p| p.node_id.as_str()).collect();
            let fix = format!("not among peers ({}); add its entry or correct the name", names.join(", "));
            return refuse("node_id", &self.node_id, fix);
        }
        Ok(())
    }

    fn check_files(&self) -> Result<(), Refused> {
        let log_file = self.log.file.as_deref().map(|file| ("log.file", file));
        for (field, path) in std::iter::once(("data_dir", self.data_dir.as_path())).chain(log_file) {
            if let Err(error) = check_name(path) {
                return refuse(field, error.path.display(), format!("it {}", error.what));
            }
        }
        Ok(())
    }

    fn check_addresses(&self) -> Result<(), Refused> {
        let mut seen: Vec<(String, &str)> = Vec::new();
        for (i, peer) in self.peers.iter().enumerate() {
            for (name, addr) in [("raft_addr", &peer.raft_addr), ("http_addr", &peer.http_addr)] {
                let field = format!("peers[{i}].{name}");
                check_address(&field, addr)?;
                if is_unspecified(addr) {
                    let fix = "others cannot reach it; advertise an address of this machine and put this one into \
                               listen_http or listen_raft";
                    return refuse(field, addr, fix);
                }
                if let Some((first, _)) = seen.iter().find(|(_, a)| is_same_address(a, addr)) {
                    return refuse(
                        field,
                        addr,
                        format!("{first} has the same address; every port needs its own"),
                    );
                }
                seen.push((field, addr));
            }
        }
        for (name, addr) in [("listen_http", &self.listen_http), ("listen_raft", &self.listen_raft)] {
            if let Some(addr) = addr {
                check_address(name, addr)?;
            }
        }
        if is_same_address(self.listen_http(), self.listen_raft()) {
            let fix = "clients and members need a port each; change one of listen_http and listen_raft";
            return refuse("listen_http", self.listen_http(), fix);
        }
        Ok(())
    }

    fn check_timers(&self) -> Result<(), Refused> {
        check_range("election_timeout_ms", self.election_timeout_ms, 15, 60_000)?;
        let third = self.election_timeout_ms / 3;
        let advice =
            format!("at most a third of election_timeout_ms ({}); {third} or less", self.election_timeout_ms);
        check_range("heartbeat_ms", self.heartbeat_ms, 1, u64::MAX)?;
        if self.heartbeat_ms > third {
            return refuse("heartbeat_ms", self.heartbeat_ms, advice);
        }
        if let Some(hold) = self.append_hold_ms {
            check_range("append_hold_ms", hold, 1, u64::MAX)?;
            if hold > third {
                return refuse("append_hold_ms", hold, advice);
            }
        }
        // At 30 s the node ends: a stall must be noticed before, and not before an election could even be over.
        check_range("disk_stall_ms", self.disk_stall_ms, self.election_timeout_ms.min(30_000), 30_000)?;
        check_range("request_timeout_ms", self.request_timeout_ms, 100, 600_000)?;
        check_range("start_timeout_s", self.start_timeout_s, 0, 86_400)
    }

    fn check_sizes(&self) -> Result<(), Refused> {
        check_range("segment_bytes", self.segment_bytes, 64 << 10, 1 << 30)?;
        check_range("snapshot_log_bytes", self.snapshot_log_bytes, 4 << 10, 1 << 40)?;
        check_range("snapshot_log_entries", self.snapshot_log_entries, 1, 1 << 40)?;
        if !self.segment_bytes.is_multiple_of(4096) {
            let near = self.segment_bytes.next_multiple_of(4096);
            return refuse(
                "segment_bytes",
                self.segment_bytes,
                format!("a multiple of 4096; {near} for example"),
            );
        }
        check_range("retention_revisions", self.retention_revisions, 1, 1_000_000_000)?;
        check_range("retention_bytes", self.retention_bytes, 1, 1 << 40)?;
        check_range("idempotency_window_s", self.idempotency_window_s, 60, 7 * 86_400)?;
        check_range("idempotency_rows", self.idempotency_rows, 1, 100_000_000)?;
        check_range("idempotency_bytes", self.idempotency_bytes, 0, 1 << 40)
    }
}

impl Limits {
    fn check(&self) -> Result<(), Refused> {
        // A key of 8 KiB escapes to 24 KiB, which a request head of 32 KiB still holds.
        check_range("limits.max_key_bytes", self.max_key_bytes as u64, 1, 8 << 10)?;
        // Key and value travel in one log entry, whose payload is at most 4 MiB.
        check_range("limits.max_value_bytes", self.max_value_bytes as u64, 1, 3 << 20)?;
        check_range("limits.max_request_bytes", self.max_request_bytes as u64, 1, 16 << 20)?;
        if self.max_request_bytes < self.max_value_bytes {
            let fix =
                format!("a request carries a value: at least max_value_bytes ({})", self.max_value_bytes);
            return refuse("limits.max_request_bytes", self.max_request_bytes, fix);
        }
        // What a transaction may have in all, whatever the configuration says.
        check_range("limits.max_txn_ops", self.max_txn_ops as u64, 1, 1_024)?;
        check_range("limits.max_connections", self.max_connections as u64, 1, 1_000_000)?;
        check_range("limits.max_requests_inside", self.max_requests_inside as u64, 64, 4_096)?;
        let most = self.max_requests_inside as u64 / 4 * 3;
        check_range("limits.max_parked", self.max_parked as u64, 1, most)?;
        check_range("limits.max_slow_writers", self.max_slow_writers as u64, 1, 4_096)?;
        check_range("limits.max_watches", self.max_watches as u64, 1, 1_000_000)?;
        check_range("limits.idle_timeout_ms", self.idle_timeout_ms, 1_000, 3_600_000)?;
        check_range("limits.transfer_timeout_ms", self.transfer_timeout_ms, 100, 600_000)
    }
}

fn check_range(field: &str, value: u64, least: u64, most: u64) -> Result<(), Refused> {
    if value < least {
        return refuse(field, value, format!("at least {least}"));
    }
    if value > most {
        return refuse(field, value, format!("at most {most}"));
    }
    Ok(())
}

/// The host and port of `host:port`, with an IPv6 host in brackets.
fn split_address(addr: &str) -> Option<(&str, u16)> {
    let (host, port) = addr.rsplit_once(':')?;
    if port.is_empty() || port.len() > 5 || !port.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let port: u16 = port.parse().ok().filter(|p| *p != 0)?;
    let ok = match host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
        Some(v6) => v6.parse::<std::net::Ipv6Addr>().is_ok(),
        None => is_host(host),
    };
    ok.then_some((host, port))
}

/// Whether `host` is an IPv4 address or may be a name. All digits and dots must be an address: `127.0.0.` and
/// `300.0.0.1` are slips, not names.
fn is_host(host: &str) -> bool {
    let name = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    if host.is_empty() || host.len() > 253 || !host.bytes().all(name) {
        return false;
    }
    if host.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return host.parse::<std::net::Ipv4Addr>().is_ok();
    }
    host.split('.').all(|label| !label.is_empty())
}

fn check_address(field: &str, addr: &str) -> Result<(), Refused> {
    match split_address(addr) {
        Some(_) => Ok(()),
        None => refuse(
            field,
            format!("{addr:?}"),
            "write host:port with a port of 1 to 65535, like 127.0.0.1:8081",
        ),
    }
}

/// Whether two addresses lead to one port, as far as that can be told without asking for names: however the letters of a
/// name, an IPv6 address and a port are written; `localhost` is 127.0.0.1.
pub fn is_same_address(one: &str, other: &str) -> bool {
    let plain = |addr: &str| {
        let (host, port) = split_address(addr)?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
        let host = match host.parse::<std::net::IpAddr>() {
            Ok(ip) => ip.to_canonical().to_string(),
            Err(_) if host == "localhost" => "127.0.0.1".to_owned(),
            Err(_) => host,
        };
        Some((host, port))
    };
    one == other || plain(one).is_some_and(|one| plain(other) == Some(one))
}

/// Whether a node may have this name: 1 to 64 of `A-Z a-z 0-9 . _ -`.
pub fn is_node_id(name: &str) -> bool {
    let ok = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    (1..=64).contains(&name.len()) && name.bytes().all(ok)
}

/// Whether others may be told to reach a node at `addr`: `host:port` of a certain host.
pub fn is_advertisable(addr: &str) -> bool {
    split_address(addr).is_some() && !is_unspecified(addr)
}

fn is_unspecified(addr: &str) -> bool {
    addr.parse::<std::net::SocketAddr>().is_ok_and(|a| a.ip().is_unspecified())
}
