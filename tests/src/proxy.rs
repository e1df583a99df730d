//! A TCP proxy between a client and the server that cuts the connection at a chosen point, like a lost network, without a close
//! frame.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy},
    net::{TcpListener, TcpStream, tcp::OwnedReadHalf, tcp::OwnedWriteHalf},
    sync::mpsc,
    time::{Instant, sleep_until},
};

use crate::raw::frame_length;

/// The point at which a connection is cut, counted in data of the server.
#[derive(Debug, Clone, Copy)]
pub enum Cut {
    /// After this many WebSocket frames.
    Frames(usize),
    /// After this many bytes, including the answer to the upgrade.
    Bytes(usize),
}

/// Forwards one connection to `upstream` and cuts it. Returns the proxy's address.
pub async fn cutting(upstream: SocketAddr, cut: Cut) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        let Ok((client, _)) = listener.accept().await else { return };
        let Ok(server) = TcpStream::connect(upstream).await else { return };
        let _ = (client.set_nodelay(true), server.set_nodelay(true));
        // The server gets a reset instead of an orderly close; the client can still read the forwarded data.
        let _ = server.set_zero_linger();
        let (mut from_client, to_client) = client.into_split();
        let (from_server, mut to_server) = server.into_split();
        let upwards = tokio::spawn(async move { copy(&mut from_client, &mut to_server).await });
        let _ = match cut {
            Cut::Bytes(bytes) => forward_bytes(from_server, to_client, bytes).await,
            Cut::Frames(frames) => forward_frames(from_server, to_client, frames).await,
        };
        upwards.abort();
    });
    address
}

/// Forwards every connection to `upstream`, each byte `delay` later. Returns the proxy's address.
pub async fn delaying(upstream: SocketAddr, delay: Duration) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let Ok(server) = TcpStream::connect(upstream).await else { return };
            let _ = (client.set_nodelay(true), server.set_nodelay(true));
            let (from_client, to_client) = client.into_split();
            let (from_server, to_server) = server.into_split();
            tokio::spawn(delay_bytes(from_client, to_server, delay));
            tokio::spawn(delay_bytes(from_server, to_client, delay));
        }
    });
    address
}

async fn delay_bytes(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, delay: Duration) {
    // Delayed data: about a second of reads, after which the sender waits.
    let (sender, mut receiver) = mpsc::channel::<(Instant, Vec<u8>)>(1024);
    tokio::spawn(async move {
        let mut buffer = [0; 16 << 10];
        while let Ok(read @ 1..) = from.read(&mut buffer).await {
            if sender.send((Instant::now() + delay, buffer[..read].to_vec())).await.is_err() {
                return;
            }
        }
    });
    while let Some((due, bytes)) = receiver.recv().await {
        sleep_until(due).await;
        if to.write_all(&bytes).await.is_err() {
            return;
        }
    }
    let _ = flush(&mut to).await;
}

async fn forward_bytes(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut left: usize) -> std::io::Result<()> {
    let mut buffer = [0; 4096];
    while left > 0 {
        let want = left.min(buffer.len());
        let read = from.read(&mut buffer[..want]).await?;
        if read == 0 {
            break;
        }
        to.write_all(&buffer[..read]).await?;
        left -= read;
    }
    flush(&mut to).await
}

async fn forward_frames(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, frames: usize) -> std::io::Result<()> {
    let (mut buffer, mut head_sent, mut sent) = (Vec::new(), false, 0);
    while sent < frames {
        let whole = if head_sent {
            frame_length(&buffer)
        } else {
            buffer.windows(4).position(|w| w == b"\r\n\r\n").map(|at| at + 4)
        };
        match whole {
            Some(length) => {
                to.write_all(&buffer[..length]).await?;
                buffer.drain(..length);
                sent += usize::from(head_sent);
                head_sent = true;
            }
            None => {
                if from.read_buf(&mut buffer).await? == 0 {
                    break;
                }
            }
        }
    }
    flush(&mut to).await
}

async fn flush(to: &mut OwnedWriteHalf) -> std::io::Result<()> {
    to.shutdown().await
}
