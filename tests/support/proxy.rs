//! A proxy in front of a node's peer port that looks at each request and lets it through or drops it, without an answer.

use std::io::{self, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::message::read_message;

/// Decides on a request by its path and body: true lets it through.
pub type Judge = Arc<dyn Fn(&str, &[u8]) -> bool + Send + Sync>;

/// Listens until it is dropped. Each accepted connection has a thread of its own, which ends with the connection.
pub struct Proxy {
    stop: Arc<AtomicBool>,
    addr: String,
}

impl Proxy {
    /// Listens on `listen` and forwards what `judge` lets through to `target`.
    pub fn start(listen: &str, target: &str, judge: Judge) -> Proxy {
        let listener = TcpListener::bind(listen).expect("the proxy's address is free");
        let addr = listener.local_addr().expect("its address").to_string();
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, target) = (stop.clone(), target.to_owned());
        std::thread::spawn(move || {
            for client in listener.incoming() {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                let (Ok(client), target, judge) = (client, target.clone(), judge.clone()) else { continue };
                std::thread::spawn(move || {
                    let _ = relay(client, &target, &judge);
                });
            }
        });
        Proxy { stop, addr }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(&self.addr);
    }
}

fn relay(client: TcpStream, target: &str, judge: &Judge) -> io::Result<()> {
    let upstream = TcpStream::connect(target)?;
    for stream in [&client, &upstream] {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    }
    let (mut client, mut upstream) = (BufReader::new(client), BufReader::new(upstream));
    loop {
        let (head, body) = read_message(&mut client)?;
        let head_text = String::from_utf8_lossy(&head);
        let path = head_text.split(' ').nth(1).unwrap_or_default();
        if !judge(path, &body) {
            return Ok(());
        }
        upstream.get_mut().write_all(&[head, body].concat())?;
        let (head, body) = read_message(&mut upstream)?;
        client.get_mut().write_all(&[head, body].concat())?;
    }
}
