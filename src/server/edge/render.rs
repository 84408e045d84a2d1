//! Answers as bytes.

use std::cell::RefCell;
use std::io::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use time::OffsetDateTime;

use super::message::{Method, Response};

/// Writes the whole answer, head and body, into `bytes`, which is emptied first. `close`: the connection ends after it.
///
/// # Panics
/// A header's value holds a control character. That is a bug of dkv: the caller answers 500 instead.
pub(super) fn render(response: &Response, method: Method, close: bool, bytes: &mut Vec<u8>) {
    bytes.clear();
    bytes.reserve(256 + response.body.len());
    let length = response.body.len();
    common_head(response, bytes);
    // Writing to memory does not fail.
    let _ = write!(bytes, "Content-Length: {length}\r\n");
    bytes.extend_from_slice(if close { b"Connection: close\r\n\r\n" } else { b"\r\n" });
    if !method.is_head() && response.status != 204 {
        bytes.extend_from_slice(&response.body);
    }
}

/// Writes the head of an answer that is sent in parts into `bytes`, which is emptied first: in chunks (RFC 9112 §7.1), or up
/// to the end of the connection.
pub(super) fn render_stream_head(response: &Response, is_chunked: bool, bytes: &mut Vec<u8>) {
    bytes.clear();
    common_head(response, bytes);
    let framing = if is_chunked { ("Transfer-Encoding", "chunked") } else { ("Connection", "close") };
    header(bytes, framing.0, framing.1);
    bytes.extend_from_slice(b"\r\n");
}

/// What every head has: all but how the body is framed, and the empty line.
fn common_head(response: &Response, bytes: &mut Vec<u8>) {
    // Writing to memory does not fail.
    let _ = write!(bytes, "HTTP/1.1 {} {}\r\n", response.status, reason(response.status));
    with_date(|date| bytes.extend_from_slice(date));
    bytes.extend_from_slice(b"Server: dkv\r\n");
    header(bytes, "Content-Type", response.content_type);
    response.headers.iter().for_each(|(name, value)| header(bytes, name, value));
}

fn header(bytes: &mut Vec<u8>, name: &str, value: &str) {
    assert!(value.bytes().all(|byte| matches!(byte, b' '..=b'~')), "header {name} has a bad value");
    for part in [name, ": ", value, "\r\n"] {
        bytes.extend_from_slice(part.as_bytes());
    }
}

/// The `Date` line of this second (RFC 9110 §6.6.1), made once a second on each thread.
fn with_date(take: impl FnOnce(&[u8])) {
    thread_local! {
        static LINE: RefCell<(u64, String)> = const { RefCell::new((0, String::new())) };
    }
    let now_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    LINE.with_borrow_mut(|(made_s, line)| {
        if *made_s != now_s || line.is_empty() {
            (*made_s, *line) = (now_s, date_line(now_s));
        }
        take(line.as_bytes());
    });
}

fn date_line(unix_s: u64) -> String {
    let at = i64::try_from(unix_s).ok().and_then(|s| OffsetDateTime::from_unix_timestamp(s).ok());
    let at = at.unwrap_or(OffsetDateTime::UNIX_EPOCH);
    const DAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let weekday = DAYS[usize::from(at.weekday().number_days_from_monday())];
    let month = MONTHS[usize::from(u8::from(at.month()) - 1)];
    let (day, year, hour, minute, second) = (at.day(), at.year(), at.hour(), at.minute(), at.second());
    format!("Date: {weekday}, {day:02} {month} {year:04} {hour:02}:{minute:02}:{second:02} GMT\r\n")
}

/// The reason phrases of RFC 9110 for every status that dkv answers with.
fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        204 => "No Content",
        206 => "Partial Content",
        400 => "Bad Request",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        411 => "Length Required",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        422 => "Unprocessable Content",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        _ => "Unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::ErrorCode;

    fn rendered(response: &Response, method: Method, close: bool) -> String {
        let mut bytes = b"what was there before".to_vec();
        render(response, method, close, &mut bytes);
        String::from_utf8(bytes).expect("text")
    }

    #[test]
    fn render_writes_head_and_body_by_the_book() {
        let response = Response::new(200, "text/plain", b"seven".to_vec()).with_header("ETag", "\"7\"");
        let text = rendered(&response, Method::Get, false);
        let (head, body) = text.split_once("\r\n\r\n").expect("an end of the head");
        let lines: Vec<&str> = head.split("\r\n").collect();
        assert!(lines[1].starts_with("Date: ") && lines[1].ends_with(" GMT"), "{head}");
        let rest = ["Server: dkv", "Content-Type: text/plain", "ETag: \"7\"", "Content-Length: 5"];
        assert_eq!((lines[0], &lines[2..], body), ("HTTP/1.1 200 OK", &rest[..], "seven"));
        let head_only = rendered(&response, Method::Head, true);
        assert!(head_only.ends_with("Content-Length: 5\r\nConnection: close\r\n\r\n"), "{head_only}");
        let empty = rendered(&Response::new(204, "text/plain", Vec::new()), Method::Put, false);
        assert!(empty.starts_with("HTTP/1.1 204 No Content\r\n") && empty.ends_with("\r\n\r\n"));
    }

    #[test]
    fn date_line_is_that_of_the_book() {
        assert_eq!(date_line(784_111_777), "Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n");
        assert_eq!(date_line(951_782_400), "Date: Tue, 29 Feb 2000 00:00:00 GMT\r\n");
    }

    #[test]
    fn reason_knows_every_status_of_an_error() {
        for status in ErrorCode::ALL.iter().flat_map(|code| code.statuses()) {
            assert_ne!(reason(*status), "Unknown", "{status}");
        }
    }

    #[test]
    fn a_line_end_in_a_header_is_never_written() {
        let bad = Response::new(200, "text/plain", Vec::new()).with_header("X-Bad", "a\r\nX-Injected: 1");
        assert!(std::panic::catch_unwind(|| rendered(&bad, Method::Get, false)).is_err());
    }
}
