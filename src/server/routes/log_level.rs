//! `PUT /v1/log-level`: how much is logged from now on, until the process ends. For clients on this machine alone, as
//! long as there is no other way to know who asks.

use super::params::Query;
use crate::api::{ErrorBody, ErrorCode, LogLevelReply};
use crate::config::LogLevel;
use crate::files::foreign_encoding;
use crate::logging;
use crate::server::edge::{Request, Response};

/// Longest body worth looking at; the longest level has five letters.
const MAX_BODY_BYTES: usize = 16;

/// Sets the level that the body names and says so, in the answer and in the log. The method is checked by the caller.
///
/// # Errors
/// `forbidden` for a client of another machine, `invalid_request` for a parameter or another body than a level.
pub(super) fn set(request: &Request) -> Result<Response, ErrorBody> {
    if !request.from_loopback {
        let text =
            "the log level can be changed from the node's own machine only: ask there, at a loopback address";
        return Err(ErrorBody::new(ErrorCode::Forbidden, text));
    }
    Query::parse(request.query.as_deref(), &[])?;
    let level = level(&request.body).ok_or_else(|| {
        let names = LogLevel::ALL.map(LogLevel::as_str).join(", ");
        let encoding = foreign_encoding(&request.body).map_or(String::new(), |e| format!("; this one {e}"));
        let text = format!("the body is one of the levels {names}{encoding}");
        ErrorBody::new(ErrorCode::InvalidRequest, text)
    })?;
    let say =
        || log::info!("the log level is {} from now on: a client on this machine set it", level.as_str());
    // In the log when either level lets it through, and once.
    let said = log::log_enabled!(log::Level::Info);
    if said {
        say();
    }
    logging::set_level(level);
    if !said {
        say();
    }
    Ok(Response::json(200, &LogLevelReply { level: level.as_str().to_owned() }))
}

/// The level that `body` names, with or without a line end after it.
fn level(body: &[u8]) -> Option<LogLevel> {
    if body.len() > MAX_BODY_BYTES {
        return None;
    }
    LogLevel::from_name(std::str::from_utf8(body).ok()?.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::edge::Method;

    fn asked(body: &[u8], query: Option<&str>, from_loopback: bool) -> Request {
        let (path, query) = ("/v1/log-level".to_owned(), query.map(str::to_owned));
        Request { method: Method::Put, path, query, headers: Vec::new(), body: body.to_vec(), from_loopback }
    }

    #[test]
    fn set_refuses_a_client_of_another_machine() {
        let refused = set(&asked(b"debug", None, false)).unwrap_err();
        assert_eq!(refused.error.code, ErrorCode::Forbidden);
    }

    #[test]
    fn set_refuses_what_is_no_level() {
        for body in
            [&b""[..], b"loud", b"Debug", b"{\"level\":\"debug\"}", b"\xff\xfe", b" debug", &[b'x'; 100]]
        {
            let refused = set(&asked(body, None, true)).unwrap_err();
            assert_eq!(refused.error.code, ErrorCode::InvalidRequest, "{body:?}");
        }
        assert!(set(&asked(b"debug", Some("level=debug"), true)).is_err());
    }

    #[test]
    fn level_takes_each_name_and_a_line_end() {
        for expected in LogLevel::ALL {
            assert_eq!(level(expected.as_str().as_bytes()), Some(expected));
            assert_eq!(level(format!("{}\r\n", expected.as_str()).as_bytes()), Some(expected));
        }
    }
}
