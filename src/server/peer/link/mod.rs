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

use super::codec::{self, LinkKind};

/// The protocol that a link switches to.
pub(super) const PROTOCOL: &str = "dkv-link/1";

/// The routes that links carry. The number of a route is its place here, from 1; numbers are never given to another
/// route.
const ROUTES: [&str; 5] =
    [codec::REQUEST_VOTE, codec::APPEND_ENTRIES, codec::TIMEOUT_NOW, codec::FORWARD, codec::READ_INDEX];

/// The number of a route, when links carry it.
pub(super) fn route_number(route: &str) -> Option<u16> {
    ROUTES.iter().position(|known| *known == route).map(|at| at as u16 + 1)
}

/// The route with this number, when this kind of link carries it.
pub(super) fn carried_route(kind: LinkKind, number: u16) -> Option<&'static str> {
    let route = ROUTES.get(usize::from(number).checked_sub(1)?).copied()?;
    (LinkKind::of(route) == Some(kind)).then_some(route)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_of_links_has_its_number() {
        for (route, number) in ROUTES.iter().zip(1..) {
            assert_eq!(route_number(route), Some(number));
            let kind = LinkKind::of(route).expect("a kind carries it");
            assert_eq!(carried_route(kind, number), Some(*route));
        }
        assert_eq!(route_number(codec::INSTALL_SNAPSHOT), None);
        for number in [0, 6] {
            assert_eq!(carried_route(LinkKind::Core, number), None);
        }
        assert_eq!(carried_route(LinkKind::Forwards, 1), None, "a vote");
    }
}
