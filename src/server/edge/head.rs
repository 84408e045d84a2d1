//! Reading a request head strictly, and writing the clean head that tiny_http gets instead.
//!
//! Everything about which two HTTP readers could disagree is refused: tiny_http reads what is written here, never
//! what the client wrote.

use std::io::Write;

use super::message::{Method, RequestHeader};
use super::slot::Ticket;
use crate::api::ErrorCode;

/// Largest head, in bytes, request line and final empty line included. A key of 4 KiB escapes to 12 KiB.
pub(super) const MAX_HEAD_BYTES: usize = 32 * 1024;
/// Most headers of one request.
pub(super) const MAX_HEADERS: usize = 64;
/// The request header by which a connection chooses its lane, read on its first request.
pub(super) const LANE_HEADER: &str = "dkv-lane";
/// The header that names the request's slot. The edge alone writes it: no handler can ask for it, so a client's is not passed
/// on.
pub(super) const TICKET_HEADER: &str = "Dkv-Ticket";

/// A request that the edge itself refuses: it never reached tiny_http, so it is surely not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    /// The HTTP status, one of `code.statuses()`.
    pub status: u16,
    /// The error code of the JSON body.
    pub code: ErrorCode,
    /// What was wrong and what to do, in one sentence. Never a byte of the request.
    pub message: &'static str,
}

impl Refusal {
    /// A malformed request.
    pub(super) const fn invalid(message: &'static str) -> Refusal {
        Refusal { status: 400, code: ErrorCode::InvalidRequest, message }
    }

    /// A malformed request with a status that says more than 400.
    pub(super) const fn with_status(status: u16, message: &'static str) -> Refusal {
        Refusal { status, code: ErrorCode::InvalidRequest, message }
    }

    const HEAD_TOO_LARGE: Refusal = Refusal {
        status: 431,
        code: ErrorCode::TooLarge,
        message: "the request line and headers are larger than 32 KiB or more than 64",
    };
    const BODY_TOO_LARGE: Refusal = Refusal {
        status: 413,
        code: ErrorCode::TooLarge,
        message: "the body is larger than this server's limit for a request",
    };
}

/// Whether a request with this method and path may take its connection over.
pub(super) type TakesOver = fn(Method, &str) -> bool;

/// What the edge needs to know about a head that it accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Head {
    /// The method.
    pub method: Method,
    /// Length of the body that follows, in bytes; within the limit.
    pub body_bytes: usize,
    /// The connection ends after this answer: HTTP/1.0, or `Connection: close`.
    pub close: bool,
    /// The client waits for `100 Continue` before it sends the body.
    pub expects_continue: bool,
    /// The value of `Dkv-Lane`, if there is exactly one.
    pub lane: Option<String>,
    /// The handler may take the connection over: what follows the request is not read as a request.
    pub takes_over: bool,
}

/// The empty line that a client may send before a request line, after the body of the request before for instance. One
/// is skipped (RFC 9112 §2.2).
pub(super) const EMPTY_LINE: &[u8] = b"\r\n";

/// Looks for the empty line that ends a head, in `bytes[from..]`; `bytes[..from]` was looked at before. Returns the
/// head's length. A line feed without carriage return is refused at once: readers disagree about it.
pub(super) fn find_end(bytes: &[u8], from: usize) -> Result<Option<usize>, Refusal> {
    match bytes {
        // This may be an incomplete part of the empty line that is skipped.
        [b'\r'] => return Ok(None),
        [b'\r' | b'\n', ..] => return Err(Refusal::invalid("the request starts with empty lines")),
        _ => {}
    }
    let from = from.min(bytes.len());
    for (offset, _) in bytes[from..].iter().enumerate().filter(|(_, byte)| **byte == b'\n') {
        let end = from + offset + 1;
        if end > MAX_HEAD_BYTES {
            break;
        }
        if !bytes[..end].ends_with(b"\r\n") {
            return Err(Refusal::invalid("a line of the head ends without carriage return"));
        }
        if bytes[..end].ends_with(b"\r\n\r\n") {
            return Ok(Some(end));
        }
    }
    if bytes.len() >= MAX_HEAD_BYTES { Err(Refusal::HEAD_TOO_LARGE) } else { Ok(None) }
}

/// Checks a whole head (it ends with the empty line) and writes the head for tiny_http into `clean`, which is emptied
/// first: the request line, the ticket and the `wanted` headers. All others stay here, and so does the body.
pub(super) fn check(
    head: &[u8],
    max_body_bytes: usize,
    wanted: &[RequestHeader],
    takes_over: TakesOver,
    ticket: Ticket,
    clean: &mut Vec<u8>,
) -> Result<Head, Refusal> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut parsed = httparse::Request::new(&mut headers);
    match parsed.parse(head) {
        Ok(httparse::Status::Complete(length)) if length == head.len() => {}
        Ok(_) => return Err(Refusal::invalid("the head is malformed")),
        Err(error) => return Err(parse_refusal(error, head)),
    }
    let (Some(name), Some(target), Some(minor)) = (parsed.method, parsed.path, parsed.version) else {
        return Err(Refusal::invalid("the request line is malformed"));
    };
    check_target(target)?;
    let framing = Framing::read(parsed.headers)?;
    if minor >= 1 && framing.hosts == 0 {
        return Err(Refusal::invalid("an HTTP/1.1 request needs a Host header"));
    }
    let method = Method::from_token(name);
    let body_bytes = framing.body_bytes(method, max_body_bytes)?;

    clean.clear();
    for part in [name, " ", target, " HTTP/1.1\r\n"] {
        clean.extend_from_slice(part.as_bytes());
    }
    // Writing to memory does not fail.
    let _ = write!(clean, "{TICKET_HEADER}: {ticket}\r\n");
    for header in parsed.headers.iter() {
        if !wanted.iter().any(|wanted| header.name.eq_ignore_ascii_case(wanted.name())) {
            continue;
        }
        clean.extend_from_slice(header.name.as_bytes());
        clean.extend_from_slice(b": ");
        clean.extend_from_slice(header.value);
        clean.extend_from_slice(b"\r\n");
    }
    clean.extend_from_slice(b"\r\n");
    Ok(Head {
        method,
        body_bytes,
        close: framing.close || minor == 0,
        expects_continue: framing.expects_continue && minor >= 1 && body_bytes > 0,
        lane: framing.lane,
        takes_over: takes_over(method, target.split('?').next().unwrap_or_default()),
    })
}

/// What an edge thread does with the head at the start of `bytes`: finds its end, checks it and writes the head for tiny_http
/// into `clean`. For the micro-benchmarks. Returns the lengths of the head and of the body that follows; `None` while the
/// head is incomplete.
///
/// # Errors
/// The HTTP status with which the edge refuses the request.
pub fn check_head(
    bytes: &[u8],
    max_body_bytes: usize,
    wanted: &[RequestHeader],
    clean: &mut Vec<u8>,
) -> Result<Option<(usize, usize)>, u16> {
    let refused = |refusal: Refusal| refusal.status;
    let Some(end) = find_end(bytes, 0).map_err(refused)? else { return Ok(None) };
    let ticket = Ticket { connection: 12, number: 345 };
    let head = check(&bytes[..end], max_body_bytes, wanted, |_, _| false, ticket, clean).map_err(refused)?;
    Ok(Some((end, head.body_bytes)))
}

fn parse_refusal(error: httparse::Error, head: &[u8]) -> Refusal {
    match error {
        httparse::Error::TooManyHeaders => Refusal::HEAD_TOO_LARGE,
        httparse::Error::Version if names_another_version(head) => {
            Refusal::with_status(505, "this server speaks HTTP/1.1")
        }
        httparse::Error::Version | httparse::Error::Token | httparse::Error::NewLine => {
            Refusal::invalid("the request line is malformed")
        }
        _ => Refusal::invalid("a header is malformed"),
    }
}

/// Whether the request line is well formed, so that only the version is wrong.
fn names_another_version(head: &[u8]) -> bool {
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let mut parts = line.split(|byte| *byte == b' ').skip(2);
    let (version, more) = (parts.next().unwrap_or_default(), parts.next());
    more.is_none()
        && matches!(version, [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
            if major.is_ascii_digit() && minor.is_ascii_digit())
}

/// Only `/path?query` in visible ASCII: absolute and asterisk forms are for proxies (and for the ping).
fn check_target(target: &str) -> Result<(), Refusal> {
    if !target.starts_with('/') {
        return Err(Refusal::invalid("the request target does not start with a slash"));
    }
    if !target.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#') {
        return Err(Refusal::invalid("the request target holds bytes that must be percent-encoded"));
    }
    Ok(())
}

/// The headers that decide where the request ends and what follows it.
#[derive(Default)]
struct Framing {
    content_length: Option<u64>,
    hosts: usize,
    close: bool,
    expects_continue: bool,
    transfer_encoding: bool,
    lane: Option<String>,
}

impl Framing {
    fn read(headers: &[httparse::Header<'_>]) -> Result<Framing, Refusal> {
        let mut framing = Framing::default();
        let mut lanes = 0;
        for header in headers {
            let Some(value) = std::str::from_utf8(header.value).ok().filter(|value| value.is_ascii()) else {
                return Err(Refusal::invalid("a header value holds bytes that are not ASCII"));
            };
            let is = |name: &str| header.name.eq_ignore_ascii_case(name);
            if is("content-length") {
                if framing.content_length.is_some() {
                    return Err(Refusal::invalid("there is more than one Content-Length"));
                }
                framing.content_length = Some(parse_length(value)?);
            } else if is("transfer-encoding") {
                framing.transfer_encoding = true;
            } else if is("host") {
                framing.hosts += 1;
                if !is_host(value) {
                    return Err(Refusal::invalid("the Host header is no host and port"));
                }
            } else if is("connection") {
                framing.close |= elements(value).any(|option| option.eq_ignore_ascii_case("close"));
            } else if is("expect") {
                if !elements(value).all(|expected| expected.eq_ignore_ascii_case("100-continue")) {
                    return Err(Refusal::invalid("the only expectation served is 100-continue"));
                }
                framing.expects_continue |= elements(value).next().is_some();
            } else if is(LANE_HEADER) {
                lanes += 1;
                framing.lane = Some(value.to_string());
            }
        }
        if framing.hosts > 1 {
            return Err(Refusal::invalid("there is more than one Host header"));
        }
        if lanes > 1 {
            return Err(Refusal::invalid("there is more than one Dkv-Lane header"));
        }
        Ok(framing)
    }

    fn body_bytes(&self, method: Method, max_body_bytes: usize) -> Result<usize, Refusal> {
        if self.transfer_encoding {
            return Err(if self.content_length.is_some() {
                Refusal::invalid("Content-Length and Transfer-Encoding exclude each other")
            } else {
                Refusal::with_status(
                    411,
                    "send the body with a Content-Length: transfer codings are not served",
                )
            });
        }
        match self.content_length {
            Some(length) => usize::try_from(length)
                .ok()
                .filter(|length| *length <= max_body_bytes)
                .ok_or(Refusal::BODY_TOO_LARGE),
            // A request without a length has no body (RFC 9112 §6.3). A put of an empty value is asked for in so many words.
            None if method == Method::Put => {
                Err(Refusal::with_status(411, "a PUT needs a Content-Length, even when it is 0"))
            }
            None => Ok(0),
        }
    }
}

/// The elements of a list (RFC 9110 §5.6.1): what is between commas, without the empty ones.
fn elements(value: &str) -> impl Iterator<Item = &str> {
    value.split(',').map(|element| element.trim_matches([' ', '\t'])).filter(|element| !element.is_empty())
}

/// Whether this may be the value of a Host header (RFC 9110 §7.2): a host and perhaps a port; empty for a target without
/// a host.
fn is_host(value: &str) -> bool {
    let (host, port) = match value.rsplit_once(':') {
        // The last colon of an IPv6 address does not begin a port.
        Some((host, port)) if !port.contains(']') => (host, port),
        _ => (value, ""),
    };
    let is_address = |host: &str| host.bytes().all(|b| b.is_ascii_hexdigit() || matches!(b, b':' | b'.'));
    let is_name =
        |host: &str| host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=".contains(&b));
    let is_host = match host.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']').is_some_and(is_address),
        None => is_name(host),
    };
    is_host && port.bytes().all(|b| b.is_ascii_digit())
}

/// Digits only: no sign, no list, no space inside. More digits than a u64 holds is just a very large body.
fn parse_length(value: &str) -> Result<u64, Refusal> {
    if value.is_empty() || !value.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Refusal::invalid("Content-Length is not a decimal number"));
    }
    value.parse().map_err(|_| Refusal::BODY_TOO_LARGE)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WANTED: [RequestHeader; 2] = [RequestHeader::IfMatch, RequestHeader::Accept];
    const TICKET: Ticket = Ticket { connection: 12, number: 345 };

    fn checked(head: &str) -> Result<(Head, String), Refusal> {
        let mut clean = b"left over".to_vec();
        let head = check(
            head.as_bytes(),
            1000,
            &WANTED,
            |method, path| (method, path) == (Method::Post, "/link"),
            TICKET,
            &mut clean,
        )?;
        Ok((head, String::from_utf8(clean).expect("ASCII")))
    }

    #[test]
    fn find_end_in_pieces_sees_what_one_look_sees() {
        let bytes = b"GET / HTTP/1.1\r\nHost: a\r\n\r\nrest";
        for from in 0..27 {
            assert_eq!(find_end(&bytes[..from], 0), Ok(None), "{from}");
            assert_eq!(find_end(bytes, from), Ok(Some(27)), "{from}");
        }
    }

    #[test]
    fn find_end_refuses_bare_line_feed_and_endless_head() {
        assert_eq!(find_end(b"GET / HTTP/1.1\nHost: a", 0).unwrap_err().status, 400);
        // The reader skips one empty line; this would be the second.
        assert_eq!(find_end(b"\r", 0), Ok(None));
        for twice in [&b"\r\n"[..], b"\r\nGET / HTTP/1.1\r\n", b"\rG", b"\n", b"\nGET / HTTP/1.1\r\n"] {
            assert_eq!(find_end(twice, 0).unwrap_err().status, 400, "{twice:?}");
        }
        assert_eq!(find_end(&vec![b'a'; MAX_HEAD_BYTES - 1], 0), Ok(None));
        assert_eq!(find_end(&vec![b'a'; MAX_HEAD_BYTES], 0).unwrap_err().status, 431);
        // A line feed after the limit, in what may be the body, is not looked at.
        let mut long = vec![b'a'; MAX_HEAD_BYTES];
        long.extend_from_slice(b"\r\n\r\n");
        assert_eq!(find_end(&long, 0).unwrap_err().status, 431);
    }

    #[test]
    fn check_writes_only_what_it_understood() {
        let (head, clean) = checked(
            "PUT /v1/kv/a%20b?x=1 HTTP/1.1\r\nHost: h\r\nTE: chunked\r\nUpgrade: h2c\r\n\
             Connection: keep-alive, Close\r\nExpect: 100-Continue\r\nIf-Match: \"7\"\r\nX-Trace: 1\r\n\
             content-length:  5 \r\n\r\n",
        )
        .expect("a good request");
        let expected = "PUT /v1/kv/a%20b?x=1 HTTP/1.1\r\nDkv-Ticket: 12.345\r\nIf-Match: \"7\"\r\n\r\n";
        assert_eq!(clean, expected);
        let expected = Head {
            method: Method::Put,
            body_bytes: 5,
            close: true,
            expects_continue: true,
            lane: None,
            takes_over: false,
        };
        assert_eq!(head, expected);
    }

    /// Values were compared as a whole, or not looked at.
    #[test]
    fn check_reads_lists_and_hosts_as_they_are_written() {
        let with = |header: &str| {
            checked(&format!("PUT / HTTP/1.1\r\n{header}\r\nContent-Length: 1\r\n\r\n")).map(|(head, _)| head)
        };
        for (value, close) in [
            ("close", true),
            ("CLOSE", true),
            (", ,close\t, x", true),
            ("closed, not-close, close-x", false),
            ("keep-alive", false),
        ] {
            let head = with(&format!("Host: h\r\nConnection: {value}")).expect("a good request");
            assert_eq!(head.close, close, "{value:?}");
        }
        for (value, expects) in
            [("100-Continue", true), ("100-continue, 100-continue,", true), ("", false), (" , ", false)]
        {
            let head = with(&format!("Host: h\r\nExpect: {value}")).expect("a good request");
            assert_eq!(head.expects_continue, expects, "{value:?}");
        }
        for value in ["100-continue, 200-ok", "100-continue;x", "\"100-continue\""] {
            assert_eq!(with(&format!("Host: h\r\nExpect: {value}")).unwrap_err().status, 400, "{value:?}");
        }
        for value in ["", "h", "h:", "h:80", "127.0.0.1:8081", "[::1]", "[::1]:8081", "a_b-c.d%2e"] {
            assert!(with(&format!("Host: {value}")).is_ok(), "{value:?}");
        }
        for value in
            ["h i", "h/a", "u@h", "http://h", "h:x", "h:80:80", "::1", "[::1", "[g]", "h\\", "h?a", "h#a"]
        {
            assert_eq!(with(&format!("Host: {value}")).unwrap_err().status, 400, "{value:?}");
        }
    }

    #[test]
    fn check_of_http_1_0_closes_and_needs_no_host() {
        let (head, clean) =
            checked("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").expect("a good request");
        assert!(head.close);
        assert_eq!(clean, "GET / HTTP/1.1\r\nDkv-Ticket: 12.345\r\n\r\n");
    }

    #[test]
    fn check_length_at_and_above_the_limit() {
        let put =
            |length: &str| checked(&format!("PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\n\r\n"));
        assert_eq!(put("1000").expect("at the limit").0.body_bytes, 1000);
        for long in ["1001", "1000000000000000", "99999999999999999999999999"] {
            assert_eq!(put(long).unwrap_err().status, 413, "{long}");
        }
    }

    /// With another one's ticket a client could have its request answered to that one.
    #[test]
    fn check_writes_the_ticket_itself_and_never_passes_a_clients_on() {
        let (_, clean) = checked("GET / HTTP/1.1\r\nHost: h\r\nDkv-Ticket: 1.1\r\nDKV-TICKET: 2.2\r\n\r\n")
            .expect("a good request");
        assert_eq!(clean, "GET / HTTP/1.1\r\nDkv-Ticket: 12.345\r\n\r\n");
        assert_eq!(RequestHeader::from_name(TICKET_HEADER), None);
        assert_eq!("12.345".parse(), Ok(TICKET));
        for bad in ["", "1", "1.", ".1", "1.2.3", "-1.2", "1.x"] {
            assert!(bad.parse::<Ticket>().is_err(), "{bad}");
        }
    }

    #[test]
    fn check_reads_the_lane() {
        let (head, clean) =
            checked("GET / HTTP/1.1\r\nHost: h\r\nDkv-Lane: core\r\n\r\n").expect("a good request");
        assert_eq!(head.lane.as_deref(), Some("core"));
        assert!(!clean.to_lowercase().contains("lane"));
    }
}
