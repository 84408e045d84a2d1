//! Peer links on their way through the rig. After the answer 101 a connection carries frames, and each of them meets the
//! fault of its way. A way that loses what it carries is half-open from then on: bytes vanish in one direction, nobody is
//! told, and healing the way does not bring the connection back. The end of a connection does not come through a cut either.

use std::io::{self, BufReader, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use dkv::server::peer::link_frame::{Frame, FrameError, FrameReader, Kind, encode};

use super::proxy::{Fate, Links};

/// How often a silent link is looked at.
const LOOK: Duration = Duration::from_millis(500);

/// Numbers of the routes whose calls may be made twice: votes, appends, read indexes.
const HARMLESS: [u16; 3] = [1, 2, 5];

/// Carries a link between the member that opened it and the one that answered, until it has ended in both directions.
pub fn carry(
    (caller, client): (usize, BufReader<TcpStream>),
    (called, upstream): (usize, BufReader<TcpStream>),
    links: &Arc<Links>,
    stopped: &Arc<AtomicBool>,
) -> io::Result<()> {
    links.report().links.fetch_add(1, Relaxed);
    let is_over = Arc::new(AtomicBool::new(false));
    let (to_client, to_upstream) = (client.get_ref().try_clone()?, upstream.get_ref().try_clone()?);
    let way = |from, to, reader: BufReader<TcpStream>, writer| {
        let already = reader.buffer().to_vec();
        let socket = reader.into_inner();
        socket.set_read_timeout(Some(LOOK))?;
        let (links, stopped, is_over) = (links.clone(), stopped.clone(), is_over.clone());
        io::Result::Ok(Way {
            from,
            to,
            reader: FrameReader::new(socket, already),
            writer,
            links,
            stopped,
            is_over,
        })
    };
    let there = way(caller, called, client, to_upstream)?;
    let back = way(called, caller, upstream, to_client)?;
    let back = std::thread::spawn(move || back.run());
    there.run();
    let _ = back.join();
    Ok(())
}

/// One direction of a link.
struct Way {
    from: usize,
    to: usize,
    reader: FrameReader<TcpStream>,
    writer: TcpStream,
    links: Arc<Links>,
    stopped: Arc<AtomicBool>,
    /// Set by the direction that ends first.
    is_over: Arc<AtomicBool>,
}

impl Way {
    fn run(mut self) {
        let is_half_open = self.carry_frames();
        if is_half_open {
            self.swallow();
        } else if !self.is_over.load(Relaxed) {
            // The system of the member's machine closes its listener as well when its process has ended.
            self.links.look(self.from);
            self.links.await_whole(self.from, self.to, || self.is_closed());
        }
        self.is_over.store(true, Relaxed);
        for socket in [self.reader.socket(), &self.writer] {
            // The other side may have done so.
            let _ = socket.shutdown(Shutdown::Both);
        }
    }

    fn is_closed(&self) -> bool {
        self.stopped.load(Relaxed) || self.is_over.load(Relaxed)
    }

    /// Passes frames on until the connection ends; true when nothing passes any more, and nobody is to know.
    fn carry_frames(&mut self) -> bool {
        while !self.is_closed() {
            let frame = match self.reader.read() {
                Ok(frame) => frame,
                Err(FrameError::TimedOut) => continue,
                Err(_) => return false,
            };
            match self.links.fate(self.from, self.to) {
                Fate::Arrives => {
                    if self.pass(&frame).is_err() {
                        return false;
                    }
                }
                Fate::Vanishes => {}
                Fate::HalfOpen => return true,
                Fate::Reset => return false,
            }
        }
        false
    }

    fn pass(&mut self, frame: &Frame) -> io::Result<()> {
        self.links.report().frames.fetch_add(1, Relaxed);
        let bytes = encode(frame.kind, frame.code, frame.number, &frame.body);
        let may_double = frame.kind == Kind::Call && HARMLESS.contains(&frame.code);
        let times = if may_double && self.links.is_doubled(self.from, self.to) { 2 } else { 1 };
        (0..times).try_for_each(|_| self.writer.write_all(&bytes))
    }

    /// Whatever still comes is taken and goes nowhere, its end as well, until the other direction ends.
    fn swallow(&mut self) {
        self.links.report().half_open.fetch_add(1, Relaxed);
        while !self.is_closed() {
            if !matches!(self.reader.read(), Ok(_) | Err(FrameError::TimedOut)) {
                std::thread::sleep(LOOK);
            }
        }
    }
}
