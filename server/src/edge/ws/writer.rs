//! The only code that writes to the socket.

use std::time::Duration;

use actix_ws::{CloseCode, CloseReason, Closed, Session};
use tokio::{
    sync::{mpsc, watch},
    time::timeout,
};

use super::outbox::{Closing, Frame, FrameBody};

/// The time in which a closing connection must accept the remaining frames.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// Writes frames until the connection is closed or lost.
pub async fn run(
    mut session: Session,
    mut frames: mpsc::Receiver<Frame>,
    mut closing: watch::Receiver<Option<Closing>>,
) {
    let closing = loop {
        tokio::select! {
            biased;
            closing = ended(&mut closing) => break closing,
            frame = frames.recv() => match frame {
                Some(frame) => tokio::select! {
                    biased;
                    written = write(&mut session, frame) => if written.is_err() { return },
                    // Without this branch, a client that does not read would block the write for ever.
                    closing = ended(&mut closing) => break closing,
                },
                None => return,
            },
        }
    };
    let Some(closing) = closing else { return };
    let last = async {
        if closing.flush {
            frames.close();
            while let Some(frame) = frames.recv().await {
                write(&mut session, frame).await?;
            }
        }
        session
            .close(Some(CloseReason { code: CloseCode::from(closing.code), description: Some(closing.reason.into()) }))
            .await
    };
    let _ = timeout(LAST_WORDS, last).await;
}

async fn ended(closing: &mut watch::Receiver<Option<Closing>>) -> Option<Closing> {
    closing.wait_for(Option::is_some).await.ok().and_then(|closing| *closing)
}

/// Writes a frame. Its permits return to the outbox when the socket has accepted it.
async fn write(session: &mut Session, frame: Frame) -> Result<(), Closed> {
    let Frame { body, _room } = frame;
    match body {
        FrameBody::Text(text) => session.text(text).await,
        FrameBody::Ping => session.ping(b"").await,
        FrameBody::Pong(bytes) => session.pong(&bytes).await,
    }
}
