//! `dkv-cli history`: the versions of a key, newest first.

use std::fmt::Write as _;

use dkv::api::{HistoryItem, HistoryReply, MAX_HISTORY_LIMIT};
use dkv::client::{Client, HistoryOptions};

use crate::failure::Failure;
use crate::output::Printer;
use crate::text::printable;

/// Prints the newest `limit` versions, or all that are kept: a line each, or one document of the API's form.
pub fn show(
    client: &Client,
    key: &[u8],
    limit: Option<u64>,
    stale: bool,
    printer: &Printer,
) -> Result<(), Failure> {
    let mut left = limit.unwrap_or(u64::MAX);
    let mut options = HistoryOptions { stale, ..HistoryOptions::default() };
    let mut whole: Option<HistoryReply> = None;
    loop {
        options.limit = Some(u32::try_from(left).unwrap_or(u32::MAX).min(MAX_HISTORY_LIMIT));
        let page = client.history(key, &options)?;
        left -= (page.versions.len() as u64).min(left);
        options.cursor = page.cursor.clone();
        if !printer.is_json() && !printer.offer(lines(&page).as_bytes())? {
            return Ok(());
        }
        let is_last = page.cursor.is_none() || left == 0;
        match &mut whole {
            _ if !printer.is_json() => {}
            None => whole = Some(page),
            Some(whole) => {
                whole.versions.extend(page.versions);
                whole.cursor = page.cursor;
            }
        }
        if is_last {
            return whole.map_or(Ok(()), |whole| printer.json(&whole));
        }
    }
}

/// The revision, what happened, the version and the value, with tabs between them.
fn lines(page: &HistoryReply) -> String {
    let mut text = String::new();
    for item in &page.versions {
        // A String takes everything.
        let _ = match item {
            HistoryItem::Put { revision, version, value, .. } => {
                writeln!(text, "{revision}\tput\t{version}\t{}", printable(value))
            }
            HistoryItem::Delete { revision } => writeln!(text, "{revision}\tdelete"),
        };
    }
    text
}
