//! Peer links: a connection between two members that carries calls of one kind without HTTP around each of them.
//!
//! A link begins as an ordinary request, `POST /raft/link`, which goes through the edge, tiny_http and the peer port's
//! checks, and is answered 101. From then on the socket carries [frames](frame) in both directions. The caller has one
//! call under way at a time. The number of an answer says which call it belongs to, so an answer that comes after its
//! call has timed out is dropped, and a timeout does not end the link.
//!
//! - **A link for each kind of call.** Votes, appends and TimeoutNow share one; forwarded writes and read indexes have
//!   their own. To cancel a call is to shut its link down, and no call of another kind becomes unknown by that.
//! - **A call that was not written whole was surely not executed**: the other side never has the whole frame.
//! - **Every frame is checked as the same call over HTTP is**: cluster, target, removed sender. A right does not outlive
//!   its reason.
//! - **Any failure falls back to the HTTP call**, which also says why.

mod caller;
pub mod frame;
mod host;
mod opening;
mod place;

pub(super) use caller::{CallFailed, Caller};
pub(super) use host::{End, Hosted, nobody_listens};
pub(super) use opening::{KeepingConnector, Kept};
pub(super) use place::{LinkPlace, NotOpened, Outcome};

use serde::{Deserialize, Serialize};

use super::codec;

/// The protocol that a link switches to.
pub(super) const PROTOCOL: &str = "dkv-link/1";

/// Which calls a link carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LinkKind {
    /// Votes, appends and TimeoutNow.
    Core,
    /// Forwarded writes.
    Forwards,
    /// Read indexes.
    ReadIndexes,
}

impl LinkKind {
    /// The kind of link that carries calls of this route; `None` when none does.
    pub fn of(route: &str) -> Option<LinkKind> {
        Some(match route {
            codec::REQUEST_VOTE | codec::APPEND_ENTRIES | codec::TIMEOUT_NOW => LinkKind::Core,
            codec::FORWARD => LinkKind::Forwards,
            codec::READ_INDEX => LinkKind::ReadIndexes,
            _ => return None,
        })
    }

    /// The route with this number, when this kind carries it.
    pub fn route(self, number: u16) -> Option<&'static str> {
        numbered_route(number).filter(|route| LinkKind::of(route) == Some(self))
    }
}

/// The routes that links carry. The number of a route is its place here, from 1; numbers are never given to another
/// route.
const ROUTES: [&str; 5] =
    [codec::REQUEST_VOTE, codec::APPEND_ENTRIES, codec::TIMEOUT_NOW, codec::FORWARD, codec::READ_INDEX];

/// The number of a route, when links carry it.
pub(super) fn route_number(route: &str) -> Option<u16> {
    ROUTES.iter().position(|known| *known == route).map(|at| at as u16 + 1)
}

fn numbered_route(number: u16) -> Option<&'static str> {
    ROUTES.get(usize::from(number).checked_sub(1)?).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_of_links_has_its_number() {
        for (route, number) in ROUTES.iter().zip(1..) {
            assert_eq!(route_number(route), Some(number));
            let kind = LinkKind::of(route).expect("a kind carries it");
            assert_eq!(kind.route(number), Some(*route));
        }
        assert_eq!(
            (route_number(codec::INSTALL_SNAPSHOT), numbered_route(0), numbered_route(6)),
            (None, None, None)
        );
        assert_eq!(LinkKind::Forwards.route(1), None, "a vote");
    }
}
