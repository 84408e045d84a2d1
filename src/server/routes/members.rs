//! The routes by which an operator changes the cluster itself: who asks for what, and whether it can be meant.

use serde::de::DeserializeOwned;

use super::params::{Query, invalid};
use crate::api::{ErrorBody, HandOverRequest, NewMember};
use crate::config;
use crate::raft::MemberId;
use crate::server::edge::{Method, Request};

/// The members: read here, added here.
pub(super) const MEMBERS: &str = "/v1/cluster/members";
const ONE_MEMBER: &str = "/v1/cluster/members/";
const PROMOTE: &str = "/promote";
const LEADER: &str = "/v1/cluster/leader";

/// A route that changes the cluster.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Route {
    Add,
    Remove(String),
    Promote(String),
    HandOver,
}

/// What an operator asks.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// To add a member; without its identity the node at its address is asked.
    Add(NewMember, Option<MemberId>),
    /// To remove the member of this name.
    Remove(String),
    /// To make the learner of this name a voter.
    Promote(String),
    /// To hand the leadership over, to the member of this name or to the most advanced one.
    HandOver(Option<String>),
}

impl Route {
    /// The route of a request; the error is the methods it has instead. None for every other route, and for reading the
    /// members.
    pub fn at(request: &Request) -> Option<Result<Route, &'static str>> {
        let only = |method: Method, route: Route, allow| match request.method == method {
            true => Ok(route),
            false => Err(allow),
        };
        if request.path == LEADER {
            return Some(only(Method::Post, Route::HandOver, "POST"));
        }
        if request.path == MEMBERS {
            return match request.method {
                Method::Get | Method::Head => None,
                _ => Some(only(Method::Post, Route::Add, "GET, HEAD, POST")),
            };
        }
        let name = request.path.strip_prefix(ONE_MEMBER)?;
        Some(match name.strip_suffix(PROMOTE) {
            Some(name) => only(Method::Post, Route::Promote(name.to_owned()), "POST"),
            None => only(Method::Delete, Route::Remove(name.to_owned()), "DELETE"),
        })
    }

    /// What is asked.
    ///
    /// # Errors
    /// `invalid_request`: nothing in it can be meant.
    pub fn parse(self, request: &Request) -> Result<Asked, ErrorBody> {
        Query::parse(request.query.as_deref(), &[])?;
        match self {
            Route::Add => parse_new(request),
            Route::Remove(name) => bodiless(request).and_then(|()| Ok(Asked::Remove(named(name)?))),
            Route::Promote(name) => bodiless(request).and_then(|()| Ok(Asked::Promote(named(name)?))),
            Route::HandOver if request.body.is_empty() => Ok(Asked::HandOver(None)),
            Route::HandOver => {
                let HandOverRequest { node_id } = json(request)?;
                Ok(Asked::HandOver(node_id.map(named).transpose()?))
            }
        }
    }
}

fn parse_new(request: &Request) -> Result<Asked, ErrorBody> {
    let new: NewMember = json(request)?;
    named(new.node_id.clone())?;
    for (field, addr) in [("raft_addr", &new.raft_addr), ("http_addr", &new.http_addr)] {
        if !config::is_advertisable(addr) {
            return Err(invalid(format!(
                "{field}: {addr:?} is no address that others can reach: write host:port, like 10.0.0.6:8081"
            )));
        }
    }
    if new.raft_addr == new.http_addr {
        return Err(invalid("raft_addr and http_addr are the same: clients and members need a port each"));
    }
    let member_id = new.member_id.as_deref().map(|text| {
        member_id(text).ok_or_else(|| {
            invalid(format!("member_id: {text:?} is no identity: it has 16 hexadecimal digits"))
        })
    });
    let member_id = member_id.transpose()?;
    Ok(Asked::Add(new, member_id))
}

fn member_id(text: &str) -> Option<MemberId> {
    let is_hex = text.len() == 16 && text.bytes().all(|b| b.is_ascii_hexdigit());
    is_hex.then(|| u64::from_str_radix(text, 16).ok().map(MemberId)).flatten()
}

fn named(name: String) -> Result<String, ErrorBody> {
    match config::is_node_id(&name) {
        true => Ok(name),
        false => Err(invalid(format!("{name:?} is no node's name: it has 1 to 64 of A-Z a-z 0-9 . _ -"))),
    }
}

fn bodiless(request: &Request) -> Result<(), ErrorBody> {
    match request.body.is_empty() {
        true => Ok(()),
        false => Err(invalid("this route takes no body")),
    }
}

fn json<T: DeserializeOwned>(request: &Request) -> Result<T, ErrorBody> {
    serde_json::from_slice(&request.body)
        .map_err(|e| invalid(format!("the body is not what it should be: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(method: Method, path: &str, body: &str) -> Request {
        let (path, body) = (path.to_owned(), body.as_bytes().to_vec());
        Request { method, path, query: None, headers: Vec::new(), body, from_loopback: true }
    }

    fn parse(method: Method, path: &str, body: &str) -> Result<Asked, ErrorBody> {
        let request = request(method, path, body);
        Route::at(&request).expect("a route").expect("a method of it").parse(&request)
    }

    #[test]
    fn at_tells_the_routes_apart() {
        let at = |method, path| Route::at(&request(method, path, ""));
        assert_eq!(at(Method::Get, MEMBERS), None);
        assert_eq!(at(Method::Put, MEMBERS), Some(Err("GET, HEAD, POST")));
        assert_eq!(at(Method::Delete, "/v1/cluster/members/a"), Some(Ok(Route::Remove("a".into()))));
        assert_eq!(at(Method::Get, "/v1/cluster/members/a"), Some(Err("DELETE")));
        assert_eq!(at(Method::Post, "/v1/cluster/members/a/promote"), Some(Ok(Route::Promote("a".into()))));
        assert_eq!(at(Method::Get, LEADER), Some(Err("POST")));
        assert_eq!(at(Method::Post, "/v1/cluster"), None);
    }

    #[test]
    fn parse_takes_a_new_member_with_and_without_its_identity() {
        let body = r#"{"node_id":"n6","raft_addr":"10.0.0.6:1","http_addr":"10.0.0.6:2"}"#;
        let Ok(Asked::Add(new, None)) = parse(Method::Post, MEMBERS, body) else { panic!() };
        assert!(new.promote);
        let body = body.replace('}', r#","member_id":"00000000000000ff","promote":false}"#);
        let Ok(Asked::Add(new, Some(MemberId(255)))) = parse(Method::Post, MEMBERS, &body) else { panic!() };
        assert!(!new.promote);
    }

    #[test]
    fn parse_refuses_what_cannot_be_meant() {
        let good = r#"{"node_id":"n6","raft_addr":"10.0.0.6:1","http_addr":"10.0.0.6:2","member_id":"00000000000000ff"}"#;
        assert!(parse(Method::Post, MEMBERS, good).is_ok());
        for (is, becomes) in [
            ("\"n6\"", "\"\""),
            ("n6", "n 6"),
            ("10.0.0.6:1", "0.0.0.0:1"),
            ("10.0.0.6:1", "10.0.0.6"),
            ("10.0.0.6:2", "10.0.0.6:1"),
            ("00ff", "ff"),
            ("00ff", "00fg"),
            ("00ff", "+0ff"),
            ("{", "{\"voter\":true,"),
            ("{", ""),
        ] {
            let bad = good.replace(is, becomes);
            assert!(parse(Method::Post, MEMBERS, &bad).is_err(), "{bad}");
        }
        assert!(parse(Method::Delete, "/v1/cluster/members/", "").is_err());
        assert!(parse(Method::Delete, "/v1/cluster/members/n1", "x").is_err());
        assert!(parse(Method::Post, LEADER, r#"{"node":"n1"}"#).is_err());
        assert!(parse(Method::Post, LEADER, r#"{"node_id":"n/1"}"#).is_err());
        assert_eq!(parse(Method::Post, LEADER, ""), Ok(Asked::HandOver(None)));
        assert_eq!(parse(Method::Post, LEADER, "{}"), Ok(Asked::HandOver(None)));
    }
}
