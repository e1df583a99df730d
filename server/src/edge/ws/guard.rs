//! Judges frames by their headers, before a byte of them is kept: actix waits for a whole frame, of whatever length, before
//! it compares the length with its limit, and does not tell reserved bits from text that is not UTF-8.

use std::{
    cell::Cell,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use actix_web::{error::PayloadError, web::Bytes};
use futures::Stream;

use crate::wire::close;

/// The close code and reason of a frame that may not pass.
pub type Violation = (u16, &'static str);

const TOO_LARGE: Violation = (close::TOO_LARGE, "message too large");
const RESERVED: Violation = (close::PROTOCOL, "reserved bits");

/// Passes bytes through and ends before a frame that may not pass. It ends, too, where the socket fails:
/// actix would answer an error with what it has read before still unread.
pub struct FrameGuard<S> {
    bytes: S,
    frames: Frames,
    violation: Rc<Cell<Option<Violation>>>,
}

impl<S> FrameGuard<S> {
    /// The guard, and why it has ended.
    pub fn new(bytes: S, limit: usize) -> (Self, Rc<Cell<Option<Violation>>>) {
        let violation = Rc::default();
        let frames = Frames { limit: limit as u64, header: Vec::with_capacity(14), payload: 0, message: 0 };
        (Self { bytes, frames, violation: Rc::clone(&violation) }, violation)
    }
}

impl<S: Stream<Item = Result<Bytes, PayloadError>> + Unpin> Stream for FrameGuard<S> {
    type Item = S::Item;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.violation.get().is_some() {
            return Poll::Ready(None);
        }
        match Pin::new(&mut self.bytes).poll_next(context) {
            Poll::Ready(Some(Ok(mut bytes))) => {
                if let Err((before, violation)) = self.frames.read(&bytes) {
                    self.violation.set(Some(violation));
                    bytes.truncate(before);
                }
                Poll::Ready(Some(Ok(bytes)))
            }
            Poll::Ready(Some(Err(_)) | None) => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    }
}

/// Where in a frame the stream is (RFC 6455, section 5.2).
struct Frames {
    limit: u64,
    /// The bytes of the header so far.
    header: Vec<u8>,
    /// Bytes of the payload to come.
    payload: u64,
    /// Bytes of the message so far, all its fragments together.
    message: u64,
}

impl Frames {
    /// Fails at a frame that may not pass, with how many of these bytes come before it.
    fn read(&mut self, bytes: &[u8]) -> Result<(), (usize, Violation)> {
        let (mut at, mut frame) = (0, 0);
        while let Some(&byte) = bytes.get(at) {
            if self.payload > 0 {
                let skipped = self.payload.min((bytes.len() - at) as u64);
                self.payload -= skipped;
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
                // Control frames may come between the fragments of a message.
                if opcode < 8 {
                    self.message = self.message.saturating_add(length);
                    if self.message > self.limit {
                        return Err((frame, TOO_LARGE));
                    }
                    if is_final {
                        self.message = 0;
                    }
                } else if length > self.limit {
                    return Err((frame, TOO_LARGE));
                }
            }
        }
        Ok(())
    }

    /// The payload's length, once the header is whole.
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
        Frames { limit, header: Vec::new(), payload: 0, message: 0 }
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
    fn reserved_bits_do_not_pass() {
        assert_eq!(frames(300).read(&frame(0xc1, 3)), Err((0, RESERVED)));
    }
}
