//! What an operator asks of the cluster itself: taken apart, and whether it can be meant.

use super::params::{Query, invalid, json_body};
use crate::api::{ErrorBody, NewMember, TransferRequest};
use crate::config;
use crate::node::{Newcomer, OperatorRequest};
use crate::raft::MemberId;
use crate::server::edge::Request;

/// To add a member.
///
/// # Errors
/// `invalid_request`: nothing in it can be meant.
pub(super) fn parse_add(request: &Request) -> Result<OperatorRequest, ErrorBody> {
    no_parameters(request)?;
    let NewMember { node_id, raft_addr, http_addr, promote, member_id, protocol } =
        json_body(request, "what it should be")?;
    let node_id = named(node_id)?;
    for (field, addr) in [("raft_addr", &raft_addr), ("http_addr", &http_addr)] {
        if !config::is_advertisable(addr) {
            return Err(invalid(format!(
                "{field}: {addr:?} is no address that others can reach: write host:port, like 10.0.0.6:8081"
            )));
        }
    }
    if config::is_same_address(&raft_addr, &http_addr) {
        return Err(invalid("raft_addr and http_addr are the same: clients and members need a port each"));
    }
    let identity = |text: &str| {
        parse_member_id(text).ok_or_else(|| {
            invalid(format!("member_id: {text:?} is no identity: it has 16 hexadecimal digits"))
        })
    };
    let member_id = member_id.as_deref().map(identity).transpose()?;
    Ok(OperatorRequest::Add(Newcomer { node_id, raft_addr, http_addr, promote, member_id, protocol }))
}

/// To remove the member `name`.
///
/// # Errors
/// As [`parse_add`].
pub(super) fn parse_remove(name: &str, request: &Request) -> Result<OperatorRequest, ErrorBody> {
    bare(request)?;
    named(name.to_owned()).map(OperatorRequest::Remove)
}

/// To make the learner `name` a voter.
///
/// # Errors
/// As [`parse_add`].
pub(super) fn parse_promote(name: &str, request: &Request) -> Result<OperatorRequest, ErrorBody> {
    bare(request)?;
    named(name.to_owned()).map(OperatorRequest::Promote)
}

/// To transfer the leadership.
///
/// # Errors
/// As [`parse_add`].
pub(super) fn parse_transfer(request: &Request) -> Result<OperatorRequest, ErrorBody> {
    no_parameters(request)?;
    if request.body.is_empty() {
        return Ok(OperatorRequest::Transfer(None));
    }
    let TransferRequest { node_id } = json_body(request, "what it should be")?;
    Ok(OperatorRequest::Transfer(node_id.map(named).transpose()?))
}

fn parse_member_id(text: &str) -> Option<MemberId> {
    let is_hex = text.len() == 16 && text.bytes().all(|b| b.is_ascii_hexdigit());
    is_hex.then(|| u64::from_str_radix(text, 16).ok().map(MemberId)).flatten()
}

fn named(name: String) -> Result<String, ErrorBody> {
    match config::is_node_id(&name) {
        true => Ok(name),
        false => Err(invalid(format!("{name:?} is no node's name: it has 1 to 64 of A-Z a-z 0-9 . _ -"))),
    }
}

fn no_parameters(request: &Request) -> Result<(), ErrorBody> {
    Query::parse(request.query.as_deref(), &[]).map(|_| ())
}

fn bare(request: &Request) -> Result<(), ErrorBody> {
    no_parameters(request)?;
    match request.body.is_empty() {
        true => Ok(()),
        false => Err(invalid("this route takes no body")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::edge::Method;

    fn request(body: &str) -> Request {
        let (path, body) = ("/v1/cluster/members".to_owned(), body.as_bytes().to_vec());
        let method = Method::Post;
        Request { method, path, query: None, headers: Vec::new(), body, from_loopback: true }
    }

    fn add(body: &str) -> Result<OperatorRequest, ErrorBody> {
        parse_add(&request(body))
    }

    #[test]
    fn parse_takes_a_new_member_with_and_without_its_identity() {
        let body = r#"{"node_id":"n6","raft_addr":"10.0.0.6:1","http_addr":"10.0.0.6:2"}"#;
        let Ok(OperatorRequest::Add(Newcomer { promote: true, member_id: None, .. })) = add(body) else {
            panic!()
        };
        let body = body.replace('}', r#","member_id":"00000000000000ff","promote":false}"#);
        let Ok(OperatorRequest::Add(new)) = add(&body) else { panic!() };
        assert_eq!((new.promote, new.member_id), (false, Some(MemberId(255))));
    }

    #[test]
    fn parse_refuses_what_cannot_be_meant() {
        let good = r#"{"node_id":"n6","raft_addr":"10.0.0.6:1","http_addr":"10.0.0.6:2","member_id":"00000000000000ff"}"#;
        assert!(add(good).is_ok());
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
            assert!(add(&bad).is_err(), "{bad}");
        }
        assert_eq!(parse_remove("n1", &request("")), Ok(OperatorRequest::Remove("n1".to_owned())));
        assert_eq!(parse_promote("n1", &request("")), Ok(OperatorRequest::Promote("n1".to_owned())));
        assert!(parse_remove("", &request("")).is_err());
        assert!(parse_remove("n1", &request("x")).is_err());
        assert!(parse_promote("n/1", &request("")).is_err());
        assert!(parse_transfer(&request(r#"{"node":"n1"}"#)).is_err());
        assert!(parse_transfer(&request(r#"{"node_id":"n/1"}"#)).is_err());
        assert_eq!(parse_transfer(&request("")), Ok(OperatorRequest::Transfer(None)));
        assert_eq!(parse_transfer(&request("{}")), Ok(OperatorRequest::Transfer(None)));
        let with_parameter = Request { query: Some("x=1".to_owned()), ..request("") };
        assert!(parse_remove("n1", &with_parameter).is_err());
        assert!(parse_transfer(&with_parameter).is_err());
    }
}
