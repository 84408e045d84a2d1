//! How many file descriptors the process may use, and how they are shared out.

use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors counted for one client connection: its socket, and one of slack for connections that linger or are
/// being turned away.
pub const CLIENT_DESCRIPTORS: u64 = 2;
/// For segments, snapshots, listeners, the few connections to tiny_http and whatever else.
const SPARE_DESCRIPTORS: u64 = 96;
/// For outbound calls to one peer.
const DESCRIPTORS_PER_PEER: u64 = 16;
/// Connections of one peer, in all kinds of calls, and as many of clients that are none of them.
const CONNECTIONS_PER_PEER: u64 = 16;
const PEER_CONNECTIONS: u64 = 64;

/// The fewest client connections that are worth a start.
pub const LEAST: usize = 64;
/// Fewer client connections than this, and than configured, are worth a warning.
const WANTED_CLIENTS: usize = 512;

/// How the descriptors are shared out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Connection cap of the client port, at least 64.
    pub client_connections: usize,
    /// Connection cap of the peer port.
    pub peer_connections: usize,
    /// Whether the client port has fewer than it should have: worth a warning.
    pub is_reduced: bool,
}

/// Too few descriptors for a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "this process may open {limit} files, which is too few: raise the limit to {needed} or more (ulimit -n)"
)]
pub struct TooFew {
    /// The limit there is.
    pub limit: u64,
    /// The least that is enough.
    pub needed: u64,
}

/// Shares out `limit` descriptors in a cluster of `members`. `most_clients` is the configured connection cap.
pub fn plan(limit: u64, members: usize, most_clients: usize) -> Result<Plan, TooFew> {
    let members = members as u64;
    let peer_connections = PEER_CONNECTIONS + CONNECTIONS_PER_PEER * members;
    let fixed = SPARE_DESCRIPTORS + DESCRIPTORS_PER_PEER * members + CLIENT_DESCRIPTORS * peer_connections;
    let clients = limit.saturating_sub(fixed) / CLIENT_DESCRIPTORS;
    if clients < LEAST as u64 {
        return Err(TooFew { limit, needed: fixed + CLIENT_DESCRIPTORS * LEAST as u64 });
    }
    let client_connections = usize::try_from(clients).unwrap_or(usize::MAX).min(most_clients);
    Ok(Plan {
        client_connections,
        peer_connections: peer_connections as usize,
        is_reduced: client_connections < most_clients.min(WANTED_CLIENTS),
    })
}

/// Raises the soft limit on open files to the hard one and returns it; `u64::MAX` when there is none.
pub fn raise() -> io::Result<u64> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum {
        setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?;
    }
    Ok(maximum.unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plan_with_plenty_is_capped_by_the_configuration() {
        let expected = Plan { client_connections: 4096, peer_connections: 144, is_reduced: false };
        for limit in [20_000, 1 << 20, u64::MAX] {
            assert_eq!(plan(limit, 5, 4096), Ok(expected), "{limit}");
        }
    }

    #[test]
    fn plan_keeps_within_the_limit_and_says_when_clients_are_few() {
        for limit in [4096, 3200, 1500, 1024] {
            let plan = plan(limit, 5, 4096).expect("enough for a start");
            let used = 2 * plan.client_connections + 2 * plan.peer_connections + 96 + 80;
            assert!(used as u64 <= limit && used as u64 + 2 > limit, "{limit}: {plan:?}");
            assert_eq!(plan.is_reduced, plan.client_connections < 512, "{limit}: {plan:?}");
        }
        assert!(plan(1024, 5, 4096).expect("enough for a start").is_reduced);
        assert!(!plan(1024, 5, 100).expect("enough for a start").is_reduced, "as many as configured");
    }

    #[test]
    fn plan_refuses_below_the_least_and_says_how_much_is_needed() {
        let refused = plan(256, 5, 4096).expect_err("too few");
        assert_eq!(refused.limit, 256);
        assert!(plan(refused.needed - 1, 5, 4096).is_err());
        assert_eq!(plan(refused.needed, 5, 4096).expect("just enough").client_connections, 64);
    }

    #[test]
    fn raise_leaves_the_soft_limit_at_the_hard_one() {
        let limit = raise().expect("raising to the hard limit is always allowed");
        assert_eq!(getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX), limit);
    }
}
