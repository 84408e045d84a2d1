//! The frames of a peer link. The body of a call is the body that the same call has over HTTP, and the body of an
//! answer is the body of its answer, so both ways have one codec.
//!
//! ```text
//! offset  size  field     (integers little-endian)
//!      0     4  len       bytes of the body
//!      4     4  body_crc  CRC-32C of the body
//!      8     8  number    of the call; its answer repeats it
//!     16     1  kind      1 call, 2 answer, 3 goodbye
//!     17     1  zero
//!     18     2  code      of a call its route, of an answer its HTTP status
//!     20     4  crc       CRC-32C of the 20 bytes before
//!     24   len  body
//! ```
//!
//! A reader believes a length only after the checksum of the header, and never a length above the limit of bodies. What
//! does not fit this form ends the link: after it, nobody knows where the next frame begins.

use std::io::{self, Read};
use std::time::{Duration, Instant};

use super::super::codec::MAX_PEER_BODY_BYTES;
use crate::bytes::{u32_at, u64_at};

/// Bytes of a frame before its body.
pub const HEADER_BYTES: usize = 24;

/// What is read from the socket at once. The buffer grows with what has arrived, not with what a header announces.
const READ_BYTES: std::ops::RangeInclusive<usize> = 16 << 10..=256 << 10;

/// Buffers above this are given back after a frame, so that idle links stay small.
const KEPT_BUFFER_BYTES: usize = 64 << 10;

/// A frame arrives whole within this time after its first byte.
const FRAME_TIMEOUT: Duration = Duration::from_secs(10);

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A request. Its code is the number of a route.
    Call = 1,
    /// The answer to the call with the same number. Its code is the status that it would have over HTTP.
    Answer = 2,
    /// The last frame of a process that stops in order.
    Goodbye = 3,
}

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// What it is.
    pub kind: Kind,
    /// A route or a status.
    pub code: u16,
    /// The call that it belongs to.
    pub number: u64,
    /// The body.
    pub body: Vec<u8>,
}

/// Why no frame can be read.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The other side closed the connection between two frames.
    #[error("the other side closed the link")]
    Closed,
    /// The connection broke, or it ended inside a frame.
    #[error("the link broke: {0}")]
    Broken(io::Error),
    /// The time given to the socket is over. What was read is kept: the next call goes on.
    #[error("nothing more arrived in time")]
    TimedOut,
    /// Bytes that are no frame.
    #[error("not a frame of a link: {0}")]
    Malformed(&'static str),
}

/// The bytes of a frame. Panics when the body exceeds [`MAX_PEER_BODY_BYTES`]: no body of the peer port does.
pub fn encode(kind: Kind, code: u16, number: u64, body: &[u8]) -> Vec<u8> {
    assert!(body.len() <= MAX_PEER_BODY_BYTES, "a body of {} bytes exceeds every limit", body.len());
    let mut bytes = Vec::with_capacity(HEADER_BYTES + body.len());
    bytes.extend_from_slice(&(body.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&crc32c::crc32c(body).to_le_bytes());
    bytes.extend_from_slice(&number.to_le_bytes());
    bytes.extend_from_slice(&[kind as u8, 0]);
    bytes.extend_from_slice(&code.to_le_bytes());
    bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
    bytes.extend_from_slice(body);
    bytes
}

/// Reads frames from a socket, across as many calls as it takes.
pub struct FrameReader<R> {
    from: R,
    /// What was read and not yet taken.
    buffer: Vec<u8>,
    /// When the frame that is not whole began to arrive.
    begun: Option<Instant>,
    frame_timeout: Duration,
}

impl<R: Read> FrameReader<R> {
    /// A reader that begins with `already`, which was read from the same socket before.
    pub fn new(from: R, already: Vec<u8>) -> FrameReader<R> {
        FrameReader { from, buffer: already, begun: None, frame_timeout: FRAME_TIMEOUT }
    }

    /// The socket.
    pub fn socket(&self) -> &R {
        &self.from
    }

    /// The next frame. Waits for its first byte as long as the socket does, and for the rest no longer than any frame
    /// may take, however slowly it comes.
    pub fn read(&mut self) -> Result<Frame, FrameError> {
        loop {
            if let Some(frame) = self.take()? {
                self.begun = None;
                return Ok(frame);
            }
            let before = self.buffer.len();
            if before > 0 && self.begun.get_or_insert_with(Instant::now).elapsed() >= self.frame_timeout {
                return Err(FrameError::Malformed("half a frame, and the rest too slowly"));
            }
            let want = self.missing().clamp(*READ_BYTES.start(), *READ_BYTES.end());
            self.buffer.resize(before + want, 0);
            let read = self.from.read(&mut self.buffer[before..]);
            self.buffer.truncate(before + *read.as_ref().unwrap_or(&0));
            match read {
                Ok(0) if before == 0 => return Err(FrameError::Closed),
                Ok(0) => return Err(FrameError::Broken(io::ErrorKind::UnexpectedEof.into())),
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    return Err(FrameError::TimedOut);
                }
                Err(e) => return Err(FrameError::Broken(e)),
            }
        }
    }

    /// How many bytes the frame that is arriving still needs. Its header was checked by `take`.
    fn missing(&self) -> usize {
        match self.buffer.len() {
            have @ HEADER_BYTES.. => HEADER_BYTES + u32_at(&self.buffer, 0) as usize - have,
            have => HEADER_BYTES - have,
        }
    }

    /// The frame at the start of the buffer, when it is whole.
    fn take(&mut self) -> Result<Option<Frame>, FrameError> {
        let Some(header) = self.buffer.get(..HEADER_BYTES) else { return Ok(None) };
        let malformed = |why| Err(FrameError::Malformed(why));
        if crc32c::crc32c(&header[..20]) != u32_at(header, 20) {
            return malformed("the header's checksum does not match");
        }
        let len = u32_at(header, 0) as usize;
        if len > MAX_PEER_BODY_BYTES {
            return malformed("the body is longer than any body");
        }
        let kind = match header[16] {
            1 => Kind::Call,
            2 => Kind::Answer,
            3 => Kind::Goodbye,
            _ => return malformed("the kind is unknown"),
        };
        let Some(body) = self.buffer.get(HEADER_BYTES..HEADER_BYTES + len) else { return Ok(None) };
        if crc32c::crc32c(body) != u32_at(header, 4) {
            return malformed("the body's checksum does not match");
        }
        let (code, number) = (u16::from_le_bytes([header[18], header[19]]), u64_at(header, 8));
        let body = body.to_vec();
        // Almost always one frame arrives at a time, so nothing is moved.
        self.buffer.drain(..HEADER_BYTES + len);
        self.buffer.shrink_to(KEPT_BUFFER_BYTES);
        Ok(Some(Frame { kind, code, number, body }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Gives its bytes in pieces of the given sizes, with a timeout before each.
    struct Pieces {
        bytes: Vec<u8>,
        sizes: Vec<usize>,
        is_late: bool,
    }

    impl Read for Pieces {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            self.is_late = !self.is_late;
            if self.is_late {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            let size = self.sizes.pop().unwrap_or(usize::MAX).clamp(1, into.len()).min(self.bytes.len());
            self.bytes.drain(..size).zip(into).for_each(|(byte, place)| *place = byte);
            Ok(size)
        }
    }

    fn next(reader: &mut FrameReader<Pieces>) -> Result<Frame, FrameError> {
        loop {
            match reader.read() {
                Err(FrameError::TimedOut) => {}
                other => return other,
            }
        }
    }

    fn reader(bytes: Vec<u8>, sizes: Vec<usize>, already: usize) -> FrameReader<Pieces> {
        let already = already.min(bytes.len());
        let (first, rest) = bytes.split_at(already);
        FrameReader::new(Pieces { bytes: rest.to_vec(), sizes, is_late: false }, first.to_vec())
    }

    proptest! {
        #[test]
        fn frames_arrive_whole_and_in_order_however_the_bytes_are_cut(
            bodies in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..200), 1..6),
            sizes in proptest::collection::vec(1_usize..60, 0..80),
            already in 0_usize..100,
        ) {
            let mut bytes = Vec::new();
            for (number, body) in (0..).zip(&bodies) {
                bytes.extend(encode(Kind::Call, number as u16, number, body));
            }
            let mut reader = reader(bytes, sizes, already);
            for (number, body) in (0..).zip(bodies) {
                let frame = next(&mut reader).expect("a frame");
                prop_assert_eq!(frame, Frame { kind: Kind::Call, code: number as u16, number, body });
            }
            prop_assert!(matches!(next(&mut reader), Err(FrameError::Closed)));
        }

        #[test]
        fn a_flipped_bit_is_never_taken_for_a_frame(body: Vec<u8>, at: usize, bit in 0_u8..8) {
            let mut bytes = encode(Kind::Answer, 1, 7, &body);
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
            prop_assert!(matches!(next(&mut reader(bytes, vec![], 0)), Err(FrameError::Malformed(_))));
        }

        #[test]
        fn a_frame_that_is_cut_off_is_no_frame(body: Vec<u8>, cut: usize) {
            let mut bytes = encode(Kind::Call, 1, 7, &body);
            bytes.truncate(1 + cut % (bytes.len() - 1));
            prop_assert!(matches!(next(&mut reader(bytes, vec![], 0)), Err(FrameError::Broken(_))));
        }
    }

    /// A byte now and then kept a link and its thread without end: the socket's own timeout never passed.
    #[test]
    fn a_frame_that_arrives_too_slowly_ends_the_link() {
        let bytes = encode(Kind::Call, 1, 7, b"body");
        let mut slow = FrameReader { frame_timeout: Duration::ZERO, ..reader(bytes.clone(), vec![1; 40], 0) };
        let error = next(&mut slow).unwrap_err();
        assert!(matches!(error, FrameError::Malformed(why) if why.contains("slowly")), "{error}");
        let mut whole = FrameReader { frame_timeout: Duration::ZERO, ..reader(bytes, vec![], 0) };
        assert!(next(&mut whole).is_ok());
    }

    /// The length of a header was allocated at once, and what had not arrived was zeroed again with each piece.
    #[test]
    fn the_buffer_grows_with_what_arrives_and_shrinks_again() {
        let body = vec![7; 4 << 20];
        let bytes = encode(Kind::Call, 1, 7, &body);
        let mut cut = reader(bytes[..HEADER_BYTES + 1].to_vec(), vec![], 0);
        assert!(next(&mut cut).is_err());
        assert!(cut.buffer.capacity() <= 1 << 20, "{}", cut.buffer.capacity());
        let mut whole = reader(bytes, vec![50_000; 200], 0);
        assert_eq!(next(&mut whole).expect("a frame").body, body);
        assert!(whole.buffer.capacity() <= KEPT_BUFFER_BYTES, "{}", whole.buffer.capacity());
    }

    #[test]
    fn a_huge_length_with_a_good_checksum_is_refused_before_it_is_read() {
        let mut bytes = encode(Kind::Call, 1, 7, b"");
        bytes[..4].copy_from_slice(&(MAX_PEER_BODY_BYTES as u32 + 1).to_le_bytes());
        let crc = crc32c::crc32c(&bytes[..20]);
        bytes[20..24].copy_from_slice(&crc.to_le_bytes());
        let error = next(&mut reader(bytes, vec![], 0)).unwrap_err();
        assert!(matches!(error, FrameError::Malformed(why) if why.contains("longer")), "{error}");
    }
}
