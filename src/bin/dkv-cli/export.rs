//! Keys as JSON lines.

use std::fs::File;
use std::io::{BufWriter, ErrorKind, Write};
use std::path::Path;

use dkv::client::{Client, ClientError, ListOptions, ReadOptions};
use dkv::files::Output;

use crate::failure::Failure;
use crate::interrupt;
use crate::output::Printer;
use crate::progress::Progress;

/// Where the lines go.
enum Sink<'a> {
    Out(&'a Printer),
    Pipe(File),
    File(BufWriter<&'a File>),
}

impl Sink<'_> {
    /// False when nobody reads any more.
    fn write(&mut self, text: &[u8]) -> Result<bool, Failure> {
        match self {
            Sink::Out(printer) => printer.offer(text),
            Sink::Pipe(pipe) => match pipe.write_all(text) {
                Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
                written => written.map(|()| true).map_err(unwritable),
            },
            Sink::File(file) => file.write_all(text).map(|()| true).map_err(unwritable),
        }
    }

    /// The last piece is on its way.
    fn finish(self) -> Result<(), Failure> {
        match self {
            Sink::Out(_) | Sink::Pipe(_) => Ok(()),
            Sink::File(mut file) => file.flush().map_err(unwritable),
        }
    }
}

fn unwritable(error: std::io::Error) -> Failure {
    Failure::Client(ClientError::Invalid(format!("cannot write the export: {error}")))
}

/// Writes every key, all at one revision.
pub fn run(
    client: &Client,
    prefix: Vec<u8>,
    revision: Option<u64>,
    path: Option<&Path>,
    force: bool,
    printer: &Printer,
) -> Result<(), Failure> {
    let read = ReadOptions { revision, ..ReadOptions::default() };
    let options = ListOptions { prefix, read, ..ListOptions::default() };
    let Some(path) = path else { return write_pages(client, options, Sink::Out(printer), None).map(drop) };
    interrupt::watch()?;
    let mut progress = Progress::new();
    let (keys, revision) = match Output::open(path, force)? {
        Output::Stdout => {
            return write_pages(client, options, Sink::Out(printer), Some(&mut progress)).map(drop);
        }
        Output::Pipe(pipe) => {
            let written = write_pages(client, options, Sink::Pipe(pipe), Some(&mut progress))?;
            let Some(written) = written else { return Ok(()) };
            written
        }
        Output::New(new) => {
            let sink = Sink::File(BufWriter::new(new.file()));
            let Some(written) = write_pages(client, options, sink, Some(&mut progress))? else {
                return Ok(());
            };
            if let Some(text) = new.place()? {
                eprintln!("dkv-cli: {text}");
            }
            written
        }
    };
    drop(progress);
    if printer.is_json() {
        return printer.json(&serde_json::json!({ "keys": keys, "revision": revision }));
    }
    printer.bytes(format!("{keys} keys at revision {revision}\n").as_bytes())
}

/// Page by page. Returns how many keys there were, and at which revision; None when nobody reads any more.
fn write_pages(
    client: &Client,
    mut options: ListOptions,
    mut sink: Sink<'_>,
    mut progress: Option<&mut Progress>,
) -> Result<Option<(u64, u64)>, Failure> {
    let mut keys = 0;
    loop {
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
            return Ok(None);
        }
        if let Some(progress) = &mut progress {
            progress.keys(keys);
        }
        if page.cursor.is_none() {
            sink.finish()?;
            return Ok(Some((keys, page.revision)));
        }
        options.cursor = page.cursor;
    }
}
