//! The list of keys, printed page by page as it comes.

use std::ops::ControlFlow;

use dkv::api::{Folder, ListReply, ListedRecord};
use dkv::client::{Client, ListOptions};

use crate::failure::Failure;
use crate::output::{Printer, notice};
use crate::text::printable;

/// Prints every page the moment it is there, so that any number of keys needs the memory of one page.
pub fn show(
    client: &Client,
    options: &ListOptions,
    limit: Option<u64>,
    printer: &Printer,
) -> Result<(), Failure> {
    let mut listing = Listing {
        printer,
        descending: options.descending,
        keys: 0,
        folders: Vec::new(),
        more: false,
        cursor: None,
        started: false,
        unwanted: false,
        broken: None,
    };
    let end = client.list_all(options, limit, |page| {
        match listing.page(&page) {
            Ok(true) => return ControlFlow::Continue(()),
            Ok(false) => listing.unwanted = true,
            Err(failure) => listing.broken = Some(failure),
        }
        ControlFlow::Break(())
    });
    if listing.more && limit.is_none() {
        notice(
            "there are more keys: a list with --sort shows 10,000 at most; --prefix and the filters make it smaller",
        );
    }
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
    descending: bool,
    keys: u64,
    /// Of all pages: they stand at the end of the document.
    folders: Vec<Folder>,
    /// A sorted list has more rows than were asked for.
    more: bool,
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
        let text =
            if self.printer.is_json() { self.json_rows(page) } else { plain_rows(page, self.descending) };
        self.started = true;
        self.keys += page.kvs.len() as u64;
        self.folders.extend(page.folders.iter().cloned());
        self.more |= page.more;
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
        let folders = match self.folders.is_empty() {
            true => String::new(),
            false => {
                let folders = serde_json::to_string(&self.folders).expect("plain data serialises");
                format!(",\"folders\":{folders}")
            }
        };
        let more = if self.more { ",\"more\":true" } else { "" };
        let count = self.keys + self.folders.len() as u64;
        format!("],\"count\":{count}{folders}{more}{}}}\n", cursor.unwrap_or_default())
    }
}

/// A line for each key, in the given order, and one for each folder where its name belongs among the keys.
fn plain_rows(page: &ListReply, descending: bool) -> String {
    let mut text = String::new();
    let mut folders = page.folders.iter().peekable();
    for row in &page.kvs {
        let is_before = |folder: &&Folder| if descending { folder.0 > row.key } else { folder.0 < row.key };
        while let Some(folder) = folders.next_if(|folder| is_before(folder)) {
            text.push_str(&folder_line(folder));
        }
        text.push_str(&row_line(row));
    }
    folders.for_each(|folder| text.push_str(&folder_line(folder)));
    text
}

fn folder_line(folder: &Folder) -> String {
    format!("{}\n", printable(&folder.0))
}

fn row_line(row: &ListedRecord) -> String {
    let value = row.value.as_ref().map(|value| format!("\t{}", printable(value)));
    format!("{}{}\n", printable(&row.key), value.unwrap_or_default())
}
