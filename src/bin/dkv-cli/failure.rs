//! Why the exit code is not 0: the code, and a sentence that says what to do.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;

use dkv::api::{ErrorBody, ErrorCode, ErrorDetail};
use dkv::client::ClientError;
use dkv::vocabulary::LeaseId;

use crate::text::printable;

/// Why the exit code is not 0.
pub enum Failure {
    /// The key is not there; the text says so.
    NotFound(String),
    /// The client's error.
    Client(ClientError),
    /// A list broke off after so many keys.
    Incomplete(u64, ClientError),
    /// What was read cannot be printed.
    Output(io::Error),
    /// A command of several steps waited without success. Finished steps stay done, and the text says how to
    /// continue.
    Unfinished(String),
    /// A file is no whole snapshot, or comes from a newer version; the text says which and where.
    Damaged(String),
    /// An import broke off at this line, after so many keys.
    Line(u64, u64, ClientError),
    /// Everything is said already.
    Silent(u8),
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Failure {
        Failure::Client(error)
    }
}

impl Failure {
    /// There is no such key, or was none at `revision`.
    pub fn not_found(key: &OsStr, revision: Option<u64>) -> Failure {
        let key = printable(key.as_bytes());
        Failure::NotFound(match revision {
            Some(revision) => format!("no such key at revision {revision}: {key}"),
            None => format!("no such key: {key}"),
        })
    }

    /// There is no such lease.
    pub fn no_lease(lease: LeaseId) -> Failure {
        Failure::NotFound(format!("no such lease: {lease}"))
    }

    /// The exit code: 1 not found or condition failed, 2 refused input, 3 unavailable, 4 unknown,
    /// 5 a damaged file.
    pub fn exit_code(&self) -> u8 {
        match self {
            Failure::NotFound(_) => 1,
            Failure::Client(error) | Failure::Incomplete(_, error) | Failure::Line(_, _, error) => {
                match error {
                    ClientError::Refused(detail) => match detail.code {
                        ErrorCode::PreconditionFailed
                        | ErrorCode::KeyNotFound
                        | ErrorCode::NotFound
                        | ErrorCode::LeaseNotFound
                        | ErrorCode::Conflict => 1,
                        _ => 2,
                    },
                    ClientError::Invalid(_) => 2,
                    ClientError::Unavailable(_) => 3,
                    ClientError::Unknown { .. } => 4,
                }
            }
            Failure::Output(_) => 2,
            Failure::Unfinished(_) => 3,
            Failure::Damaged(_) => 5,
            Failure::Silent(code) => *code,
        }
    }

    /// What happened and what to do, for people; empty when it is said already.
    pub fn text(&self) -> String {
        match self {
            Failure::NotFound(text) => format!("{text} (`dkv-cli list` shows those that exist)"),
            Failure::Client(error) => client_text(error),
            Failure::Incomplete(keys, error) => {
                format!("the list is incomplete, it broke off after {keys} keys: {}", client_text(error))
            }
            Failure::Output(error) => {
                format!("cannot write to standard output: {error}; the output is incomplete")
            }
            Failure::Unfinished(text) => text.clone(),
            Failure::Damaged(text) => {
                format!(
                    "{text}\nIt cannot be restored from. Take another backup, or this one from where it was copied."
                )
            }
            Failure::Line(line, stored, error) => {
                let said = match error {
                    ClientError::Invalid(text) => text.clone(),
                    ClientError::Refused(detail) => refused_text(detail),
                    other => other.to_string(),
                };
                let next = match stored {
                    0 => "Nothing was stored.".to_owned(),
                    _ => format!(
                        "{stored} keys were stored before; the same import again stores the same values."
                    ),
                };
                format!("line {line}: {said}\n{next}")
            }
            Failure::Silent(_) => String::new(),
        }
    }

    /// The same in the form of the API's errors; None where that has no form for it.
    pub fn json(&self) -> Option<serde_json::Value> {
        let error = match self {
            Failure::NotFound(text) => return to_json(&ErrorBody::new(ErrorCode::NotFound, text)),
            Failure::Unfinished(text) => return to_json(&ErrorBody::new(ErrorCode::Unavailable, text)),
            Failure::Client(error) | Failure::Incomplete(_, error) | Failure::Line(_, _, error) => error,
            Failure::Output(_) | Failure::Damaged(_) | Failure::Silent(_) => return None,
        };
        let body = match error {
            ClientError::Refused(detail) => ErrorBody { error: (**detail).clone() },
            ClientError::Invalid(text) => ErrorBody::new(ErrorCode::InvalidRequest, text),
            ClientError::Unavailable(text) => ErrorBody::new(ErrorCode::Unavailable, text),
            ClientError::Unknown { reason, .. } => ErrorBody::new(ErrorCode::OutcomeUnknown, reason),
        };
        let mut json = to_json(&body)?;
        if let ClientError::Unknown { idempotency_key: Some(key), .. } = error {
            json["error"]["idempotency_key"] = key.as_str().into();
        }
        Some(json)
    }
}

fn to_json(body: &ErrorBody) -> Option<serde_json::Value> {
    Some(serde_json::to_value(body).expect("plain data serialises"))
}

fn client_text(error: &ClientError) -> String {
    match error {
        ClientError::Invalid(text) => text.clone(),
        ClientError::Refused(detail) => refused_text(detail),
        ClientError::Unavailable(_) => {
            format!(
                "{error}\nCheck that --endpoints names a node that runs (`dkv-cli status` says which ones answer and\nhow many are needed), then try again."
            )
        }
        ClientError::Unknown { idempotency_key: Some(key), .. } => format!(
            "{error}\nTo find out, repeat the same command with --idempotency-key {key}\n\
             It takes effect at most once."
        ),
        ClientError::Unknown { idempotency_key: None, .. } => format!(
            "{error}\nLook at `dkv-cli member list`, and repeat the same command: what is done is not\ndone again."
        ),
    }
}

/// A refusal, with the next step where the code tells one.
fn refused_text(detail: &ErrorDetail) -> String {
    let ErrorDetail { code, message, mod_revision, version, revision, .. } = detail;
    let said = format!("refused: {message} ({code})");
    match (code, mod_revision, revision) {
        (ErrorCode::PreconditionFailed, Some(0), _) => "the condition does not hold: there is no such key.\n\
             Nothing was changed. To create it, use `dkv-cli set` with --if-absent."
            .to_owned(),
        (ErrorCode::PreconditionFailed, Some(now), _) => format!(
            "the condition does not hold: the key was last written at revision {now}{}.\n\
             Nothing was changed. Look at what it holds now with `dkv-cli get`, then decide\n\
             again with --if-revision {now}.",
            version.map(|version| format!(" (version {version})")).unwrap_or_default()
        ),
        (ErrorCode::PreconditionFailed, None, _) => {
            format!("the condition does not hold: {message}.\nNothing was changed.")
        }
        (ErrorCode::Compacted, _, Some(floor)) => {
            format!("{said}\nThe oldest revision that can still be read is {floor}.")
        }
        (ErrorCode::FutureRevision, _, Some(newest)) => {
            format!("{said}\nThe newest revision is {newest}; ask for that or an earlier one.")
        }
        (ErrorCode::UnknownRoute | ErrorCode::MethodNotAllowed, ..) => {
            format!("{said}\nCheck that --endpoints names dkv nodes of this version, by their http_addr.")
        }
        _ => said,
    }
}
