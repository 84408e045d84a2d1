//! What a request costs on its way through edge, tiny_http, worker and responder, with a handler that does nothing,
//! next to a bare thread-per-connection loop in the same run: `cargo run --release --example edge_price [SECONDS]`.
//!
//! The load (64 keep-alive connections, PUT with 256 bytes, one request at a time each) comes from a child process,
//! so that the CPU time counted is the server's alone.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use dkv::server::edge::{self, Handler, HttpServer, PortOptions, Reply, Request, Response, RunDir};

const CONNECTIONS: usize = 64;
const VALUE_BYTES: usize = 256;
/// `/proc/self/stat` counts CPU time in these; it is 100 on every Linux.
const TICKS_PER_S: f64 = 100.0;

struct Nothing;

impl Handler for Nothing {
    fn handle(&self, _request: Request, reply: Reply) {
        reply.send(|| Response::new(200, "text/plain", b"ok".to_vec()));
    }
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.as_slice() {
        [word, address, seconds] if word == "load" => load(address.parse()?, seconds.parse()?),
        [] => compare(5),
        [seconds] => compare(seconds.parse().context("the argument is a number of seconds")?),
        _ => bail!("usage: edge_price [SECONDS]"),
    }
}

fn compare(seconds: u64) -> Result<()> {
    let bare_listener = TcpListener::bind("127.0.0.1:0")?;
    let bare_address = bare_listener.local_addr()?;
    thread::spawn(move || {
        for stream in bare_listener.incoming().flatten() {
            thread::spawn(move || bare(stream));
        }
    });
    let dir = std::env::temp_dir().join(format!("dkv-edge-price-{}", std::process::id()));
    let options = PortOptions::client(Arc::new(RunDir::prepare(&dir)?), 512);
    let listener = edge::bind("127.0.0.1:0".parse()?)?;
    let edge_address = listener.local_addr()?;
    let started = Instant::now();
    let server = HttpServer::start(listener, options, Arc::new(Nothing))?;
    println!("start: {:.1} ms", started.elapsed().as_secs_f64() * 1e3);

    let bare = measure("bare loop", bare_address, seconds)?;
    let edge = measure("edge", edge_address, seconds)?;
    println!("the edge costs {:.1} times the CPU time of the bare loop", edge / bare);
    server.shutdown(Duration::from_secs(5));
    std::fs::remove_dir_all(&dir)?;
    Ok(())
}

/// Runs the load against `address` and prints what this process did meanwhile; returns its CPU µs per request.
fn measure(name: &str, address: SocketAddr, seconds: u64) -> Result<f64> {
    let before = cpu_seconds()?;
    let child = Command::new(std::env::current_exe()?)
        .args(["load", &address.to_string(), &seconds.to_string()])
        .output()?;
    let cpu = cpu_seconds()? - before;
    let printed = String::from_utf8(child.stdout)?;
    let mut figures = printed.split_whitespace();
    let mut next =
        || figures.next().context("the load printed no result")?.parse::<f64>().map_err(anyhow::Error::from);
    let (requests, median_us, worst_us) = (next()?, next()?, next()?);
    let cpu_us = cpu * 1e6 / requests;
    println!(
        "{name:10} {:8.0} requests/s, {cpu_us:6.1} CPU-us per request in the server, median {median_us:.0} us, 99% {worst_us:.0} us",
        requests / seconds as f64
    );
    Ok(cpu_us)
}

fn cpu_seconds() -> Result<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let (_, fields) = stat.rsplit_once(')').context("a process name in parentheses")?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    Ok((fields[11].parse::<f64>()? + fields[12].parse::<f64>()?) / TICKS_PER_S)
}

/// The child: prints how many requests were answered, their median and their 99th percentile in microseconds.
fn load(address: SocketAddr, seconds: u64) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(seconds);
    let clients: Vec<_> = (0..CONNECTIONS)
        .map(|_| {
            thread::spawn(move || -> std::io::Result<Vec<u32>> {
                let mut stream = TcpStream::connect(address)?;
                stream.set_nodelay(true)?;
                let mut request = format!(
                    "PUT /v1/kv/some-key HTTP/1.1\r\nHost: {address}\r\nContent-Length: {VALUE_BYTES}\r\n\r\n"
                )
                .into_bytes();
                request.resize(request.len() + VALUE_BYTES, b'v');
                let mut buffer = [0; 4096];
                let mut taken_us = Vec::new();
                while Instant::now() < end {
                    let sent = Instant::now();
                    stream.write_all(&request)?;
                    // The answers are small and written whole: one read is one answer.
                    if stream.read(&mut buffer)? == 0 || !buffer.starts_with(b"HTTP/1.1 200") {
                        return Err(std::io::Error::other("not answered with 200"));
                    }
                    taken_us.push(sent.elapsed().as_micros() as u32);
                }
                Ok(taken_us)
            })
        })
        .collect();
    let mut taken_us = Vec::new();
    for client in clients {
        taken_us.extend(client.join().map_err(|_| anyhow::anyhow!("a client panicked"))??);
    }
    taken_us.sort_unstable();
    let at = |share: f64| taken_us[((taken_us.len() - 1) as f64 * share) as usize];
    println!("{} {} {}", taken_us.len(), at(0.5), at(0.99));
    Ok(())
}

/// Reads requests of the known form and answers each, with nothing in between.
fn bare(mut stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    let mut buffer = vec![0; 8192];
    let mut filled = 0;
    loop {
        let head = buffer[..filled].windows(4).position(|window| window == b"\r\n\r\n");
        match head.map(|at| at + 4 + VALUE_BYTES) {
            Some(total) if filled >= total => {
                buffer.copy_within(total..filled, 0);
                filled -= total;
                let answer = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nok";
                if stream.write_all(answer).is_err() {
                    return;
                }
            }
            _ => match stream.read(&mut buffer[filled..]) {
                Ok(read) if read > 0 => filled += read,
                _ => return,
            },
        }
    }
}
