//! Bounds a message by what its frames' headers announce, before a byte of it is kept: actix waits for a whole frame, of
//! whatever length, before it compares the length with its limit.

use std::{
    cell::Cell,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use actix_web::{error::PayloadError, web::Bytes};
use futures::Stream;

/// Passes bytes through and ends before the frame that makes its message too long. It ends, too, where the socket fails:
/// actix would answer an error with what it has read before still unread.
pub struct FrameGuard<S> {
    bytes: S,
    frames: Frames,
    too_large: Rc<Cell<bool>>,
}

impl<S> FrameGuard<S> {
    /// The guard, and whether it has ended for the limit.
    pub fn new(bytes: S, limit: usize) -> (Self, Rc<Cell<bool>>) {
        let too_large = Rc::new(Cell::new(false));
        let frames = Frames { limit: limit as u64, header: Vec::with_capacity(14), payload: 0, message: 0 };
        (Self { bytes, frames, too_large: too_large.clone() }, too_large)
    }
}

impl<S: Stream<Item = Result<Bytes, PayloadError>> + Unpin> Stream for FrameGuard<S> {
    type Item = S::Item;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.too_large.get() {
            return Poll::Ready(None);
        }
        match Pin::new(&mut self.bytes).poll_next(context) {
            Poll::Ready(Some(Ok(mut bytes))) => {
                if let Err(within) = self.frames.read(&bytes) {
                    self.too_large.set(true);
                    bytes.truncate(within);
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
    /// Fails when a message is longer than the limit, with how many of these bytes come before the frame that makes it so.
    fn read(&mut self, bytes: &[u8]) -> Result<(), usize> {
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
                        return Err(frame);
                    }
                    if is_final {
                        self.message = 0;
                    }
                } else if length > self.limit {
                    return Err(frame);
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
            let bytes = [frame(0x81, length), frame(0x89, 100), frame(0x01, length / 2), frame(0x80, length / 2)].concat();
            for piece in [1, 7, 4096, bytes.len()] {
                let mut frames = frames(length.max(100) as u64);
                assert!(bytes.chunks(piece).all(|piece| frames.read(piece).is_ok()), "{length} in pieces of {piece}");
                assert_eq!((frames.payload, frames.message, frames.header.len()), (0, 0, 0));
            }
        }
    }

    #[test]
    fn one_byte_more_fails_at_the_header() {
        assert_eq!(frames(300).read(&frame(0x81, 301)[..8]), Err(0));
        let first = frame(0x81, 300);
        assert_eq!(frames(300).read(&[&first[..], &frame(0x81, 301)].concat()), Err(first.len()));
        let mut fragmented = frames(300);
        assert_eq!(fragmented.read(&frame(0x01, 200)), Ok(()));
        assert_eq!(fragmented.read(&frame(0x89, 50)), Ok(()));
        assert_eq!(fragmented.read(&frame(0x80, 101)[..8]), Err(0));
    }
}
