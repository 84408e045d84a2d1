//! The list of keys, printed page by page as it comes.

use std::ops::ControlFlow;

use dkv::api::ListReply;
use dkv::client::{Client, ListOptions};

use crate::failure::Failure;
use crate::output::Printer;
use crate::text::printable;

/// Prints every page the moment it is there, so that any number of keys needs the memory of one page.
pub fn show(
    client: &Client,
    options: &ListOptions,
    limit: Option<u64>,
    printer: &Printer,
) -> Result<(), Failure> {
    let mut listing =
        Listing { printer, keys: 0, cursor: None, started: false, unwanted: false, broken: None };
    let end = client.list_all(options, limit, |page| {
        match listing.page(&page) {
            Ok(true) => return ControlFlow::Continue(()),
            Ok(false) => listing.unwanted = true,
            Err(failure) => listing.broken = Some(failure),
        }
        ControlFlow::Break(())
    });
    match (end, listing.broken.take()) {
        (_, Some(failure)) => Err(failure),
        (Err(error), None) if listing.started => Err(Failure::Incomplete(listing.keys, error)),
        (Err(error), None) => Err(error.into()),
        (Ok(()), None) if listing.unwanted || !printer.is_json() => Ok(()),
        (Ok(()), None) => printer.bytes(listing.tail().as_bytes()),
    }
}

/// How far the output is.
struct Listing<'a> {
    printer: &'a Printer,
    keys: u64,
    /// Of the last page: says that the limit has left keys out.
    cursor: Option<String>,
    started: bool,
    /// The reader has gone.
    unwanted: bool,
    broken: Option<Failure>,
}

impl Listing<'_> {
    /// Prints one page; false when nobody reads.
    fn page(&mut self, page: &ListReply) -> Result<bool, Failure> {
        let text = if self.printer.is_json() { self.json_rows(page) } else { plain_rows(page) };
        self.started = true;
        self.keys += page.kvs.len() as u64;
        self.cursor = page.cursor.clone();
        self.printer.offer(text.as_bytes())
    }

    /// All pages become one document of the API's form.
    fn json_rows(&self, page: &ListReply) -> String {
        let mut text = String::new();
        if !self.started {
            text = format!("{{\"revision\":{},\"kvs\":[", page.revision);
        }
        for (n, row) in page.kvs.iter().enumerate() {
            if self.keys + n as u64 > 0 {
                text.push(',');
            }
            text.push_str(&serde_json::to_string(row).expect("plain data serialises"));
        }
        text
    }

    /// What closes the document.
    fn tail(&self) -> String {
        let cursor = self.cursor.as_ref().map(|cursor| {
            format!(",\"cursor\":{}", serde_json::to_string(cursor).expect("a string serialises"))
        });
        format!("],\"count\":{}{}}}\n", self.keys, cursor.unwrap_or_default())
    }
}

fn plain_rows(page: &ListReply) -> String {
    let mut text = String::new();
    for row in &page.kvs {
        text.push_str(&printable(&row.key));
        if let Some(value) = &row.value {
            text.push('\t');
            text.push_str(&printable(value));
        }
        text.push('\n');
    }
    text
}
