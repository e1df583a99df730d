//! A WebSocket client without a library: sends frames that no library would send, and answers no ping.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::within;

/// Returns the length in bytes of the server's first frame in `buffer`, if the frame is complete.
pub fn frame_length(buffer: &[u8]) -> Option<usize> {
    let (head, payload) = match *buffer.get(1)? & 0x7f {
        126 => (4, u16::from_be_bytes(buffer.get(2..4)?.try_into().ok()?) as usize),
        127 => (10, u64::from_be_bytes(buffer.get(2..10)?.try_into().ok()?) as usize),
        small => (2, small as usize),
    };
    (buffer.len() >= head + payload).then_some(head + payload)
}

/// A received frame.
#[derive(Debug, Clone, PartialEq)]
pub struct RawFrame {
    pub opcode: u8,
    pub payload: Vec<u8>,
}

pub struct RawSocket {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl RawSocket {
    pub async fn connect(address: SocketAddr) -> Self {
        let mut stream = TcpStream::connect(address).await.expect("the server accepts");
        let request = format!(
            "GET /v1/responses HTTP/1.1\r\nhost: {address}\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await.expect("the request can be sent");
        let mut socket = Self { stream, buffer: vec![] };
        loop {
            if let Some(end) = socket.buffer.windows(4).position(|w| w == b"\r\n\r\n") {
                let head = String::from_utf8_lossy(&socket.buffer[..end]).into_owned();
                assert!(head.starts_with("HTTP/1.1 101"), "{head}");
                socket.buffer.drain(..end + 4);
                return socket;
            }
            assert!(within("the upgrade", socket.read()).await, "the connection ended in the upgrade");
        }
    }

    async fn read(&mut self) -> bool {
        matches!(self.stream.read_buf(&mut self.buffer).await, Ok(1..))
    }

    /// Sends a masked frame. Returns `false` if the server has closed the connection.
    pub async fn send(&mut self, first_byte: u8, payload: &[u8]) -> bool {
        let mut frame = vec![first_byte];
        match payload.len() {
            small @ 0..126 => frame.push(0x80 | small as u8),
            middle @ 126..65536 => {
                frame.push(0x80 | 126);
                frame.extend((middle as u16).to_be_bytes());
            }
            large => {
                frame.push(0x80 | 127);
                frame.extend((large as u64).to_be_bytes());
            }
        }
        let mask = [0x12, 0x34, 0x56, 0x78];
        frame.extend(mask);
        frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        self.send_bytes(&frame).await
    }

    pub async fn send_bytes(&mut self, bytes: &[u8]) -> bool {
        within("room to send", self.stream.write_all(bytes)).await.is_ok()
    }

    /// Reads the next frame, including pings; `None` at the end of the connection.
    pub async fn frame(&mut self) -> Option<RawFrame> {
        loop {
            if let Some(length) = frame_length(&self.buffer) {
                let frame: Vec<u8> = self.buffer.drain(..length).collect();
                let head = match frame[1] & 0x7f {
                    126 => 4,
                    127 => 10,
                    _ => 2,
                };
                return Some(RawFrame { opcode: frame[0] & 0x0f, payload: frame[head..].to_vec() });
            }
            if !within("a frame", self.read()).await {
                return None;
            }
        }
    }

    /// Waits for the end of the connection. Returns the code of the close frame, or `None` without one.
    pub async fn closed(&mut self) -> Option<u16> {
        within("the connection to close", async {
            loop {
                let frame = self.frame().await?;
                if frame.opcode == 8 {
                    return frame.payload.get(..2).map(|code| u16::from_be_bytes([code[0], code[1]]));
                }
            }
        })
        .await
    }
}

/// Sends `request` on a new connection. Returns all data that the server sends until the end of the connection.
pub async fn exchange(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.expect("the server accepts");
    stream.write_all(request.as_bytes()).await.expect("the request can be sent");
    let mut answer = vec![];
    within("the end of the connection", stream.read_to_end(&mut answer)).await.expect("an answer");
    String::from_utf8_lossy(&answer).into_owned()
}
