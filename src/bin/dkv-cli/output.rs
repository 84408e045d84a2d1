//! What is printed, and the exit codes. A closed pipe ends the program quietly.

use std::ffi::OsStr;
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::os::unix::ffi::OsStrExt;

use dkv::api::{ErrorBody, ErrorCode, Record};
use dkv::client::ClientError;
use serde::Serialize;

use crate::Format;

/// Why the exit code is not 0.
pub enum Failure {
    /// The key is not there.
    NotFound(String),
    /// The client's error.
    Client(ClientError),
    /// What was read cannot be printed.
    Output(io::Error),
    /// Everything is said already.
    Silent(u8),
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Failure {
        Failure::Client(error)
    }
}

impl Failure {
    pub fn not_found(key: &OsStr) -> Failure {
        Failure::NotFound(format!("no such key: {}", key.as_bytes().escape_ascii()))
    }

    /// The exit code: 1 not found or condition failed, 2 refused input, 3 unavailable, 4 unknown.
    pub fn exit_code(&self) -> u8 {
        match self {
            Failure::NotFound(_) => 1,
            Failure::Client(ClientError::Refused(detail)) => match detail.code {
                ErrorCode::PreconditionFailed | ErrorCode::NotFound => 1,
                _ => 2,
            },
            Failure::Client(ClientError::Invalid(_)) | Failure::Output(_) => 2,
            Failure::Client(ClientError::Unavailable(_)) => 3,
            Failure::Client(ClientError::Unknown { .. }) => 4,
            Failure::Silent(code) => *code,
        }
    }

    /// What happened and what to do, for people.
    fn text(&self) -> String {
        match self {
            Failure::NotFound(text) => text.clone(),
            Failure::Client(ClientError::Refused(detail)) if detail.code == ErrorCode::PreconditionFailed => {
                match detail.mod_revision {
                    Some(0) => {
                        "the condition does not hold: there is no such key; nothing was changed".to_owned()
                    }
                    Some(revision) => format!(
                        "the condition does not hold: the key's modification revision is {revision}; nothing was changed"
                    ),
                    None => format!("the condition does not hold: {}; nothing was changed", detail.message),
                }
            }
            Failure::Client(error @ ClientError::Unavailable(_)) => {
                format!(
                    "{error}\nCheck that the nodes run and that --endpoints names one of them, then try again."
                )
            }
            Failure::Client(error @ ClientError::Unknown { idempotency_key, .. }) => format!(
                "{error}\nTo find out, repeat the same command with --idempotency-key {idempotency_key}: \
                 it takes effect at most once."
            ),
            Failure::Client(error) => error.to_string(),
            Failure::Output(error) => format!("cannot write to standard output: {error}"),
            Failure::Silent(_) => String::new(),
        }
    }

    /// The same in the form of the API's errors.
    fn json(&self) -> Option<serde_json::Value> {
        let body = match self {
            Failure::NotFound(text) => ErrorBody::new(ErrorCode::NotFound, text),
            Failure::Client(ClientError::Refused(detail)) => ErrorBody { error: (**detail).clone() },
            Failure::Client(ClientError::Invalid(text)) => ErrorBody::new(ErrorCode::InvalidRequest, text),
            Failure::Client(ClientError::Unavailable(text)) => ErrorBody::new(ErrorCode::Unavailable, text),
            Failure::Client(ClientError::Unknown { reason, .. }) => {
                ErrorBody::new(ErrorCode::OutcomeUnknown, reason)
            }
            Failure::Output(_) | Failure::Silent(_) => return None,
        };
        let mut json = serde_json::to_value(&body).expect("plain data serialises");
        if let Failure::Client(ClientError::Unknown { idempotency_key, .. }) = self {
            json["error"]["idempotency_key"] = idempotency_key.as_str().into();
        }
        Some(json)
    }
}

/// Prints results and failures in the chosen form.
pub struct Printer {
    format: Format,
}

impl Printer {
    pub fn new(format: Format) -> Printer {
        Printer { format }
    }

    pub fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    /// A write that is done. It stays done when this cannot be printed, so that is only said.
    pub fn written(&self, reply: &impl Serialize) -> Result<(), Failure> {
        let printed = if self.is_json() { self.json(reply) } else { self.text("OK\n") };
        if let Err(failure @ Failure::Output(_)) = printed {
            self.failure(&failure);
        }
        Ok(())
    }

    /// What was read: the bytes, and a newline on a terminal.
    pub fn record(&self, record: &Record) -> Result<(), Failure> {
        if self.is_json() {
            return self.json(record);
        }
        let mut bytes = record.value.clone();
        if io::stdout().is_terminal() {
            bytes.push(b'\n');
        }
        print(&bytes)
    }

    /// One JSON document and a newline.
    pub fn json(&self, value: &impl Serialize) -> Result<(), Failure> {
        let mut bytes = serde_json::to_vec(value).expect("plain data serialises");
        bytes.push(b'\n');
        print(&bytes)
    }

    /// Text as it is.
    pub fn text(&self, text: &str) -> Result<(), Failure> {
        print(text.as_bytes())
    }

    /// A failure, on standard error.
    pub fn failure(&self, failure: &Failure) {
        let line = match failure.json().filter(|_| self.is_json()) {
            Some(json) => json.to_string(),
            None => match failure.text() {
                text if text.is_empty() => return,
                text => format!("dkv-cli: {text}"),
            },
        };
        // When nobody reads standard error there is nobody to tell; the exit code still says it.
        let _ = writeln!(io::stderr(), "{line}");
    }
}

fn print(bytes: &[u8]) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        // The reader has seen enough, as in `dkv-cli get k | head`.
        Err(e) if e.kind() == ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(Failure::Output),
    }
}
