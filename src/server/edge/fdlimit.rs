//! How many file descriptors the process may use, and how they are shared out.

use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors of one upstream connection: the edge's end, tiny_http's, and tiny_http's clone of it.
pub const UPSTREAM_DESCRIPTORS: u64 = 3;
/// Descriptors counted for one client connection: its socket, and one of slack for connections that linger or are
/// being turned away.
pub const CLIENT_DESCRIPTORS: u64 = 2;
/// For segments, snapshots, outbound calls to one peer, listeners and whatever else.
const SPARE_DESCRIPTORS: u64 = 64;
const DESCRIPTORS_PER_PEER: u64 = 16;

/// Upstream connections of the client port when descriptors are plentiful.
pub const WANTED_UPSTREAM: usize = 512;
/// The fewest upstream connections, and the fewest client connections, that are worth a start.
pub const LEAST: usize = 64;
/// The client connections for which the pool is made smaller.
const WANTED_CLIENTS: u64 = 512;

/// How the descriptors are shared out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Upstream connections of the client port, 64 to 512.
    pub client_upstream: usize,
    /// Connection cap of the client port, at least 64.
    pub client_connections: usize,
    /// Connection cap of the peer port.
    pub peer_connections: usize,
}

impl Plan {
    /// Whether the pool had to be made smaller than it should be: worth a warning.
    pub fn is_reduced(&self) -> bool {
        self.client_upstream < WANTED_UPSTREAM
    }
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

/// Shares out `limit` descriptors in a cluster of `members`: the pool is halved as long as fewer than 512 client
/// connections would remain, down to 64. `most_clients` is the configured connection cap.
pub fn plan(limit: u64, members: usize, most_clients: usize) -> Result<Plan, TooFew> {
    let members = members as u64;
    let peer_upstream = 48 + (2 * members).max(16);
    let peer_connections = peer_upstream + 16 * members;
    let fixed = SPARE_DESCRIPTORS
        + DESCRIPTORS_PER_PEER * members
        + UPSTREAM_DESCRIPTORS * peer_upstream
        + CLIENT_DESCRIPTORS * peer_connections;
    let clients_beside = |upstream: usize| {
        limit.saturating_sub(fixed + UPSTREAM_DESCRIPTORS * upstream as u64) / CLIENT_DESCRIPTORS
    };
    let mut upstream = WANTED_UPSTREAM;
    while clients_beside(upstream) < WANTED_CLIENTS && upstream > LEAST {
        upstream /= 2;
    }
    let clients = clients_beside(upstream);
    if clients < LEAST as u64 {
        let needed = fixed + (UPSTREAM_DESCRIPTORS + CLIENT_DESCRIPTORS) * LEAST as u64;
        return Err(TooFew { limit, needed });
    }
    Ok(Plan {
        client_upstream: upstream,
        client_connections: usize::try_from(clients).unwrap_or(usize::MAX).min(most_clients),
        peer_connections: peer_connections as usize,
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
        let expected = Plan { client_upstream: 512, client_connections: 4096, peer_connections: 144 };
        for limit in [20_000, 1 << 20, u64::MAX] {
            assert_eq!(plan(limit, 5, 4096), Ok(expected), "{limit}");
            assert!(!expected.is_reduced());
        }
    }

    #[test]
    fn plan_halves_the_pool_while_clients_are_few() {
        let mut last = usize::MAX;
        for limit in [4096, 3200, 2600, 2200, 1024] {
            let plan = plan(limit, 5, 4096).expect("enough for a start");
            assert!(plan.client_upstream <= last, "{limit}: {plan:?}");
            assert!(plan.client_connections >= 512 || plan.client_upstream == LEAST, "{limit}: {plan:?}");
            let used = 3 * plan.client_upstream + 2 * plan.client_connections + 3 * 64 + 2 * 144 + 64 + 80;
            assert!(used as u64 <= limit, "{limit}: {plan:?}");
            last = plan.client_upstream;
        }
        assert_eq!(last, LEAST);
        assert!(plan(1024, 5, 4096).expect("enough for a start").is_reduced());
    }

    #[test]
    fn plan_refuses_below_the_least_and_says_how_much_is_needed() {
        let refused = plan(256, 5, 4096).expect_err("too few");
        assert_eq!(refused.limit, 256);
        assert!(plan(refused.needed - 1, 5, 4096).is_err());
        let least = plan(refused.needed, 5, 4096).expect("just enough");
        assert_eq!((least.client_upstream, least.client_connections), (64, 64));
    }

    #[test]
    fn raise_leaves_the_soft_limit_at_the_hard_one() {
        let limit = raise().expect("raising to the hard limit is always allowed");
        assert_eq!(getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX), limit);
    }
}
