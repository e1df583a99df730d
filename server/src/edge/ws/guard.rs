//! Refuses frames at their headers, and counts the bytes of unfinished messages. actix buffers a whole frame before it checks the
//! length, and reports reserved bits like text that is not UTF-8.

use std::{
    cell::Cell,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use actix_web::{error::PayloadError, web::Bytes};
use futures::Stream;
use tokio::time::Instant;

use crate::{
    generation::budget::{Budget, BudgetShare},
    limits::{FRAGMENT_BYTES, FRAGMENTS_OF_MESSAGE},
    wire::close,
};

/// Pieces up to this number of bytes are copied out of their read buffer.
const SMALL: usize = 1024;

/// The close code and the reason for a refused frame.
pub type Violation = (u16, &'static str);

const TOO_LARGE: Violation = (close::TOO_LARGE, "message too large");
const FRAGMENTS: Violation = (close::TOO_LARGE, "too many fragments");
const RESERVED: Violation = (close::PROTOCOL, "reserved bits");
pub const TOO_MUCH: Violation = (close::UNFINISHED, "too many bytes of incomplete messages");

/// Passes bytes through and ends before a refused frame. It also ends, without an error, when the socket fails: after an error
/// actix would drop the bytes that were read before.
pub struct FrameGuard<S> {
    bytes: S,
    frames: Frames,
    arriving: Rc<Arriving>,
    budget: Arc<Budget>,
    /// The share of the tenant's budget that the incomplete message holds, and the bytes of that message.
    held: Option<(BudgetShare, usize)>,
}

/// The state of the guard that the connection reads.
#[derive(Default)]
pub struct Arriving {
    violation: Cell<Option<Violation>>,
    since: Cell<Option<Instant>>,
}

impl Arriving {
    /// Returns why the guard has ended.
    pub fn violation(&self) -> Option<Violation> {
        self.violation.get()
    }

    /// Returns the time since the first byte of the incomplete message; `None` if there is none.
    pub fn unfinished(&self) -> Option<Duration> {
        self.since.get().map(|since| since.elapsed())
    }
}

impl<S> FrameGuard<S> {
    /// Returns the guard and the state for the connection. `limit`: the most bytes of a message. `budget`: the tenant's.
    pub fn new(bytes: S, limit: usize, budget: Arc<Budget>) -> (Self, Rc<Arriving>) {
        let (frames, arriving) = (Frames::new(limit as u64), Rc::<Arriving>::default());
        (Self { bytes, frames, arriving: arriving.clone(), budget, held: None }, arriving)
    }

    /// Counts arrived bytes. An error has the number of bytes before the violation, which pass.
    fn count(&mut self, bytes: &[u8]) -> Result<(), (usize, Violation)> {
        self.frames.read(bytes)?;
        let unfinished = self.frames.unfinished();
        if unfinished == 0 {
            self.held = None;
            self.arriving.since.set(None);
            return Ok(());
        }
        self.arriving.since.set(self.arriving.since.get().or_else(|| Some(Instant::now())));
        let grown = match &mut self.held {
            Some((held, bytes)) if *bytes <= unfinished => {
                let more = unfinished - std::mem::replace(bytes, unfinished);
                held.grow(more)
            }
            held => {
                *held = None;
                *held = self.budget.hold(unfinished).map(|held| (held, unfinished));
                held.is_some()
            }
        };
        if grown { Ok(()) } else { Err((0, TOO_MUCH)) }
    }
}

impl<S: Stream<Item = Result<Bytes, PayloadError>> + Unpin> Stream for FrameGuard<S> {
    type Item = S::Item;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.arriving.violation.get().is_some() {
            return Poll::Ready(None);
        }
        match Pin::new(&mut self.bytes).poll_next(context) {
            Poll::Ready(Some(Ok(mut bytes))) => {
                if let Err((before, violation)) = self.count(&bytes) {
                    self.arriving.violation.set(Some(violation));
                    self.held = None;
                    bytes.truncate(before);
                }
                // A slice keeps actix's whole read buffer of 8 KiB in memory.
                if bytes.len() <= SMALL {
                    bytes = Bytes::copy_from_slice(&bytes);
                }
                Poll::Ready(Some(Ok(bytes)))
            }
            Poll::Ready(Some(Err(_)) | None) => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    }
}

/// The position of the stream within a frame (RFC 6455, section 5.2).
struct Frames {
    limit: u64,
    /// The bytes of the header so far.
    header: Vec<u8>,
    /// Bytes of the payload that have not arrived.
    payload: u64,
    /// Payload bytes of the message that the headers of its fragments have announced.
    message: u64,
    /// Payload bytes of the message that have arrived.
    arrived: u64,
    fragments: usize,
    /// Whether the frame is part of a message, not a control frame.
    is_data: bool,
    is_final: bool,
}

impl Frames {
    fn new(limit: u64) -> Self {
        Self {
            limit,
            header: Vec::with_capacity(14),
            payload: 0,
            message: 0,
            arrived: 0,
            fragments: 0,
            is_data: false,
            is_final: false,
        }
    }

    /// Returns the bytes of memory that the incomplete message takes; 0 if there is none.
    fn unfinished(&self) -> usize {
        usize::try_from(self.arrived).unwrap_or(usize::MAX).saturating_add(self.fragments * FRAGMENT_BYTES)
    }

    /// Counts arrived bytes of a payload. Resets the counts if they complete the message.
    fn arrive(&mut self, bytes: u64) {
        self.payload -= bytes;
        if !self.is_data {
            return;
        }
        self.arrived += bytes;
        if self.payload == 0 && self.is_final {
            (self.arrived, self.fragments) = (0, 0);
        }
    }

    /// Reads bytes. An error has the number of these bytes before the refused frame.
    fn read(&mut self, bytes: &[u8]) -> Result<(), (usize, Violation)> {
        let (mut at, mut frame) = (0, 0);
        while let Some(&byte) = bytes.get(at) {
            if self.payload > 0 {
                let skipped = self.payload.min((bytes.len() - at) as u64);
                self.arrive(skipped);
                at += skipped as usize;
                continue;
            }
            if self.header.is_empty() {
                frame = at;
                if byte & 0x70 != 0 {
                    return Err((frame, RESERVED));
                }
            }
            self.header.push(byte);
            at += 1;
            if let Some(length) = self.announced() {
                let (is_final, opcode) = (self.header[0] & 0x80 != 0, self.header[0] & 0x0f);
                self.header.clear();
                self.payload = length;
                (self.is_data, self.is_final) = (opcode < 8, is_final);
                // Control frames may arrive between the fragments of a message.
                if opcode < 8 {
                    self.message = self.message.saturating_add(length);
                    self.fragments += 1;
                    if self.message > self.limit {
                        return Err((frame, TOO_LARGE));
                    }
                    if self.fragments > FRAGMENTS_OF_MESSAGE {
                        return Err((frame, FRAGMENTS));
                    }
                    if is_final {
                        self.message = 0;
                    }
                    self.arrive(0);
                } else if length > self.limit {
                    return Err((frame, TOO_LARGE));
                }
            }
        }
        Ok(())
    }

    /// Returns the length of the payload if the header is complete.
    fn announced(&self) -> Option<u64> {
        let second = *self.header.get(1)?;
        let mask = if second & 0x80 != 0 { 4 } else { 0 };
        let extended = match second & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        if self.header.len() < 2 + extended + mask {
            return None;
        }
        if extended == 0 {
            return Some(u64::from(second & 0x7f));
        }
        Some(self.header[2..2 + extended].iter().fold(0, |length, byte| length << 8 | u64::from(*byte)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(limit: u64) -> Frames {
        Frames::new(limit)
    }

    fn frame(first: u8, length: usize) -> Vec<u8> {
        let mut frame = vec![first];
        match length {
            0..126 => frame.push(0x80 | length as u8),
            126..65536 => {
                frame.push(0x80 | 126);
                frame.extend((length as u16).to_be_bytes());
            }
            _ => {
                frame.push(0x80 | 127);
                frame.extend((length as u64).to_be_bytes());
            }
        }
        frame.extend([0; 4]);
        frame.extend(vec![0x81; length]);
        frame
    }

    #[test]
    fn messages_up_to_the_limit_pass_however_they_are_cut() {
        for length in [0, 1, 125, 126, 300, 65535, 65536, 70000] {
            let bytes =
                [frame(0x81, length), frame(0x89, 100), frame(0x01, length / 2), frame(0x80, length / 2)].concat();
            for piece in [1, 7, 4096, bytes.len()] {
                let mut frames = frames(length.max(100) as u64);
                assert!(bytes.chunks(piece).all(|piece| frames.read(piece).is_ok()), "{length} in pieces of {piece}");
                assert_eq!((frames.payload, frames.message, frames.header.len()), (0, 0, 0));
            }
        }
    }

    #[test]
    fn one_byte_more_fails_at_the_header() {
        assert_eq!(frames(300).read(&frame(0x81, 301)[..8]), Err((0, TOO_LARGE)));
        let first = frame(0x81, 300);
        assert_eq!(frames(300).read(&[&first[..], &frame(0x81, 301)].concat()), Err((first.len(), TOO_LARGE)));
        let mut fragmented = frames(300);
        assert_eq!(fragmented.read(&frame(0x01, 200)), Ok(()));
        assert_eq!(fragmented.read(&frame(0x89, 50)), Ok(()));
        assert_eq!(fragmented.read(&frame(0x80, 101)[..8]), Err((0, TOO_LARGE)));
    }

    #[test]
    fn what_is_not_whole_counts_until_it_is() {
        let mut frames = frames(300);
        assert_eq!(frames.read(&[&frame(0x81, 9)[..], &frame(0x89, 100)[..50]].concat()), Ok(()));
        assert_eq!(frames.unfinished(), 0, "a complete message and half a ping");
        assert_eq!(frames.read(&[&frame(0x89, 100)[50..], &frame(0x01, 200)[..]].concat()), Ok(()));
        assert_eq!(frames.unfinished(), 200 + FRAGMENT_BYTES);
        assert_eq!(frames.read(&[&frame(0x89, 10)[..], &frame(0x80, 50)[..30]].concat()), Ok(()));
        assert_eq!(frames.unfinished(), 200 + 24 + 2 * FRAGMENT_BYTES, "the header of the second has 6 bytes");
        assert_eq!(frames.read(&frame(0x80, 50)[30..]), Ok(()));
        assert_eq!(frames.unfinished(), 0);
        let empty: Vec<u8> =
            std::iter::once(frame(0x01, 0)).chain((0..5000).map(|_| frame(0x00, 0))).flatten().collect();
        assert!(matches!(frames.read(&empty), Err((_, FRAGMENTS))));
    }

    #[test]
    fn what_is_not_whole_is_bounded_for_all_sockets_of_a_tenant() {
        // Each part has a payload of 192 bytes.
        let budget = Budget::new(700);
        let socket = || FrameGuard::new(futures::stream::empty::<Result<Bytes, PayloadError>>(), 300, budget.clone()).0;
        let mut sockets = [socket(), socket(), socket()];
        let part = &frame(0x01, 300)[..200];
        assert!(sockets[0].count(part).is_ok() && sockets[1].count(part).is_ok());
        assert_eq!(sockets[2].count(part), Err((0, TOO_MUCH)));
        assert!(sockets[0].count(&frame(0x01, 300)[200..]).is_ok() && sockets[0].count(&frame(0x80, 0)).is_ok());
        assert!(socket().count(part).is_ok(), "the first is whole, so there is room");
    }

    #[test]
    fn reserved_bits_do_not_pass() {
        assert_eq!(frames(300).read(&frame(0xc1, 3)), Err((0, RESERVED)));
    }
}
