//! Requests and answers as handlers see them: plain values, nothing of tiny_http.

use crate::api::{ErrorBody, ErrorCode};

/// A request's method. Others than these are one: no route has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Method {
    Get,
    Head,
    Put,
    Post,
    Delete,
    Other,
}

impl Method {
    pub(in crate::server) fn from_token(token: &str) -> Method {
        match token {
            "GET" => Method::Get,
            "HEAD" => Method::Head,
            "PUT" => Method::Put,
            "POST" => Method::Post,
            "DELETE" => Method::Delete,
            _ => Method::Other,
        }
    }

    /// As a request line has it; empty for those that are one.
    pub fn name(self) -> &'static str {
        match self {
            Method::Get => "GET",
            Method::Head => "HEAD",
            Method::Put => "PUT",
            Method::Post => "POST",
            Method::Delete => "DELETE",
            Method::Other => "",
        }
    }

    /// Whether the answer has no body.
    pub fn is_head(self) -> bool {
        self == Method::Head
    }

    /// Whether a request with it never changes anything, so that a failed one is not done rather than unknown.
    pub fn is_read(self) -> bool {
        matches!(self, Method::Get | Method::Head)
    }
}

/// The request headers that handlers may read. The edge passes on those of a port's list and no others, so a header that is
/// not passed on cannot be asked for. None of them is about the connection: `te` would make tiny_http answer in chunks,
/// `expect`, `upgrade` and a length would change how it reads on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)]
pub enum RequestHeader {
    Accept,
    DkvCluster,
    IdempotencyKey,
    IfMatch,
    IfNoneMatch,
    IfVersion,
    LastEventId,
}

impl RequestHeader {
    /// All of them.
    pub const ALL: [RequestHeader; 7] = [
        RequestHeader::Accept,
        RequestHeader::DkvCluster,
        RequestHeader::IdempotencyKey,
        RequestHeader::IfMatch,
        RequestHeader::IfNoneMatch,
        RequestHeader::IfVersion,
        RequestHeader::LastEventId,
    ];

    /// In lower case.
    pub const fn name(self) -> &'static str {
        match self {
            RequestHeader::Accept => "accept",
            RequestHeader::DkvCluster => "dkv-cluster",
            RequestHeader::IdempotencyKey => "idempotency-key",
            RequestHeader::IfMatch => "if-match",
            RequestHeader::IfNoneMatch => "if-none-match",
            RequestHeader::IfVersion => "if-version",
            RequestHeader::LastEventId => "last-event-id",
        }
    }

    /// The one of this name, in any case.
    pub fn from_name(name: &str) -> Option<RequestHeader> {
        RequestHeader::ALL.into_iter().find(|header| header.name().eq_ignore_ascii_case(name))
    }
}

/// A request as the edge let it through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The method.
    pub method: Method,
    /// Raw path, not decoded, starting with `/`; visible ASCII.
    pub path: String,
    /// Raw query without the question mark; `None` without one.
    pub query: Option<String>,
    /// Values in printable ASCII, in the order of arrival.
    pub headers: Vec<(RequestHeader, String)>,
    /// The whole body.
    pub body: Vec<u8>,
    /// Whether the client is on this machine, as the edge saw it.
    pub from_loopback: bool,
}

impl Request {
    /// The first value of a header.
    pub fn header(&self, header: RequestHeader) -> Option<&str> {
        self.header_values(header).next()
    }

    /// All values of a header.
    pub fn header_values(&self, header: RequestHeader) -> impl Iterator<Item = &str> {
        self.headers.iter().filter(move |(have, _)| *have == header).map(|(_, value)| value.as_str())
    }
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The HTTP status.
    pub status: u16,
    /// Value of `Content-Type`.
    pub content_type: &'static str,
    /// Further headers. Values hold no control characters and nothing a client sent.
    pub headers: Vec<(&'static str, String)>,
    /// The body; Content-Length is its length.
    pub body: Vec<u8>,
}

impl Response {
    /// An answer without further headers.
    pub fn new(status: u16, content_type: &'static str, body: Vec<u8>) -> Response {
        Response { status, content_type, headers: Vec::new(), body }
    }

    /// `value` as JSON.
    pub fn json(status: u16, value: &impl serde::Serialize) -> Response {
        // Our answer types have string keys and no failing serializers: this cannot fail.
        let body = serde_json::to_vec(value).expect("an answer is plain data");
        Response::new(status, "application/json", body)
    }

    /// An error in the API's form, with its code's usual status, and Retry-After when it says to come back.
    pub fn error(body: &ErrorBody) -> Response {
        let mut response = Response::json(body.error.code.status(), body);
        if body.error.code == ErrorCode::Overloaded {
            response.headers.push(("Retry-After", "1".to_string()));
        }
        response
    }

    /// The same answer with one more header.
    pub fn with_header(mut self, name: &'static str, value: impl Into<String>) -> Response {
        self.headers.push((name, value.into()));
        self
    }
}
