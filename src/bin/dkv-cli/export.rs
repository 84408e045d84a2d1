//! Keys as JSON lines.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use dkv::client::{Client, ClientError, ListOptions, ReadOptions};

use crate::failure::Failure;
use crate::output::Printer;
use crate::progress::Progress;
use crate::snapshot::NewFile;

/// Where the lines go.
enum Sink<'a> {
    Out(&'a Printer),
    File(BufWriter<File>),
}

impl Sink<'_> {
    /// False when nobody reads any more.
    fn write(&mut self, text: &[u8]) -> Result<bool, Failure> {
        match self {
            Sink::Out(printer) => printer.offer(text),
            Sink::File(file) => file.write_all(text).map(|()| true).map_err(unwritable),
        }
    }
}

fn unwritable(error: std::io::Error) -> Failure {
    Failure::Client(ClientError::Invalid(format!("cannot write the export: {error}")))
}

/// Writes every key, page by page, all at one revision.
pub fn run(
    client: &Client,
    prefix: Vec<u8>,
    revision: Option<u64>,
    path: Option<&Path>,
    force: bool,
    printer: &Printer,
) -> Result<(), Failure> {
    let (mut new, mut sink) = (None, Sink::Out(printer));
    if let Some(path) = path {
        let (file, handle) = NewFile::create(path, force)?;
        (new, sink) = (Some(file), Sink::File(BufWriter::new(handle)));
    }
    let read = ReadOptions { revision, ..ReadOptions::default() };
    let mut options = ListOptions { prefix, read, ..ListOptions::default() };
    let (mut keys, mut progress) = (0, Progress::new());
    let revision = loop {
        // Each page has the whole timeout: how many there are, nobody knows.
        let page = client.list(&options).map_err(|e| match keys {
            0 => Failure::Client(e),
            _ => Failure::Incomplete(keys, e),
        })?;
        let mut text = Vec::new();
        for row in &page.kvs {
            serde_json::to_writer(&mut text, row).expect("plain data serialises");
            text.push(b'\n');
        }
        keys += page.kvs.len() as u64;
        if !sink.write(&text)? {
            return Ok(());
        }
        if path.is_some() {
            progress.keys(keys);
        }
        if page.cursor.is_none() {
            break page.revision;
        }
        options.cursor = page.cursor;
    };
    drop(progress);
    if let (Some(new), Sink::File(file)) = (new, sink) {
        let file = file.into_inner().map_err(|e| unwritable(e.into_error()))?;
        new.place(&file)?;
        if printer.is_json() {
            return printer.json(&serde_json::json!({ "keys": keys, "revision": revision }));
        }
        return printer.bytes(format!("{keys} keys at revision {revision}\n").as_bytes());
    }
    Ok(())
}
