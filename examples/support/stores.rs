//! The two stores that are compared, as a client of their HTTP ports sees them: dkv's API, and the JSON gateway of etcd 3.4.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;

use serde_json::Value;

#[derive(Clone, Copy, PartialEq)]
pub enum Store {
    Dkv,
    Etcd,
}

impl Store {
    /// The name of its processes.
    pub fn process(self) -> &'static str {
        match self {
            Store::Dkv => "dkv-server",
            Store::Etcd => "etcd",
        }
    }
}

/// A connection that is kept.
pub struct Http(pub BufReader<TcpStream>);

impl Http {
    /// Connects.
    pub fn open(addr: &str) -> Http {
        let stream = TcpStream::connect(addr).expect("a node listens");
        stream.set_nodelay(true).expect("a socket takes it");
        Http(BufReader::new(stream))
    }

    /// One request and its answer.
    pub fn ask(&mut self, method: &str, path: &str, body: &str) -> Value {
        let text = self.exchange(method, path, body);
        serde_json::from_slice(&text).unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&text)))
    }

    /// The text of a page.
    pub fn text(&mut self, path: &str) -> String {
        String::from_utf8_lossy(&self.exchange("GET", path, "")).into_owned()
    }

    fn exchange(&mut self, method: &str, path: &str, body: &str) -> Vec<u8> {
        let head =
            format!("{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        self.0.get_mut().write_all(head.as_bytes()).expect("a node reads");
        let (mut length, mut is_chunked) = (0, false);
        loop {
            let line = self.line();
            let (name, value) = line.split_once(':').unwrap_or((&line, ""));
            match name.to_ascii_lowercase().as_str() {
                "" => break,
                "content-length" => length = value.trim().parse().expect("a length"),
                "transfer-encoding" => is_chunked = true,
                _ => {}
            }
        }
        let mut text = Vec::new();
        if !is_chunked {
            text = self.bytes(length);
        }
        while is_chunked {
            let size = usize::from_str_radix(self.line().trim(), 16).expect("the size of a chunk");
            text.extend(self.bytes(size));
            self.line();
            is_chunked = size > 0;
        }
        text
    }

    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).expect("a node answers");
        line.trim_end().to_owned()
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.0.read_exact(&mut bytes).expect("a node answers");
        bytes
    }
}

/// Processor time of all processes with this name, in seconds.
pub fn processor_s(name: &str) -> f64 {
    let stat = |pid: std::fs::DirEntry| std::fs::read_to_string(pid.path().join("stat")).ok();
    let processes = std::fs::read_dir("/proc").expect("Linux").flatten().filter_map(stat);
    let ticks = processes.filter_map(|stat| {
        let (start, end) = (stat.find('(')?, stat.rfind(')')?);
        let fields: Vec<&str> = stat[end + 2..].split(' ').collect();
        (&stat[start + 1..end] == name)
            .then(|| fields[11].parse::<u64>().ok()?.checked_add(fields[12].parse().ok()?))?
    });
    ticks.sum::<u64>() as f64 / 100.0
}
