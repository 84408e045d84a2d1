//! A configuration file that follows a key: written when the program starts, and again at each change.
//!
//! `cargo run --example follow -- NODE[,NODE...] KEY FILE`, with a cluster that runs.

use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use std::{fs, io};

use dkv::client::{Client, ClientError, ReadOptions, Watch, WatchKeys, WatchOptions};

/// Keeps `file` equal to the value of `key`; without the key there is no file. `written` is called after each change of
/// the file and says whether to go on.
pub fn follow(
    nodes: &[&str],
    key: &str,
    file: &Path,
    mut written: impl FnMut() -> bool,
) -> Result<(), ClientError> {
    let client = Arc::new(Client::new(nodes, Duration::from_secs(10))?);
    // First the watch: what changes after the read is shown.
    let watch =
        Watch::open(client.clone(), WatchKeys::Key(key.as_bytes().to_vec()), WatchOptions::default())?;
    let present = client.get(key.as_bytes(), &ReadOptions::default())?;
    put_in_place(file, present.map(|record| record.value).as_deref()).map_err(cannot_write)?;
    if !written() {
        return Ok(());
    }
    for event in watch {
        for change in event?.changes {
            put_in_place(file, change.put.map(|put| put.value).as_deref()).map_err(cannot_write)?;
        }
        if !written() {
            break;
        }
    }
    Ok(())
}

fn cannot_write(error: io::Error) -> ClientError {
    ClientError::Invalid(format!("the file cannot be written: {error}"))
}

/// A program that reads the file meanwhile finds the whole old value or the whole new one.
fn put_in_place(file: &Path, value: Option<&[u8]>) -> io::Result<()> {
    let Some(value) = value else {
        return match fs::remove_file(file) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        };
    };
    let part = file.with_extension("part");
    let mut new = fs::File::create(&part)?;
    new.write_all(value)?;
    new.sync_all()?;
    fs::rename(part, file)
}

fn main() -> Result<(), ClientError> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [nodes, key, file] = &arguments[..] else {
        eprintln!("usage: follow NODE[,NODE...] KEY FILE");
        std::process::exit(2);
    };
    let nodes: Vec<&str> = nodes.split(',').collect();
    follow(&nodes, key, Path::new(file), || {
        println!("{file} follows {key}");
        true
    })
}
