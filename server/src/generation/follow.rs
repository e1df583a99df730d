//! The following half: reads a log and renders it, from any point, at the pace of whoever asks.

use std::{collections::VecDeque, sync::Arc};

use futures::{StreamExt, stream::BoxStream};

use super::{Follower, Generations, store_error};
use crate::{
    render::{self, Renderer},
    store::{Batch, StoreError},
    wire::{error::WireError, event::Event, response::Status},
};

/// An event with its sequence number.
type Numbered = (u64, Event);

/// A response being followed. Pull-driven: a follower that does not ask costs nothing but its place.
pub struct Follow {
    pub id: String,
    pub start: Start,
    batches: BoxStream<'static, Result<Batch, StoreError>>,
    renderer: Renderer,
    ready: VecDeque<Numbered>,
    after: Option<u64>,
    _follower: Follower,
}

/// Where the response stood when following began.
#[derive(Debug, Clone, Copy)]
pub struct Start {
    pub status: Status,
    pub last_sequence_number: u64,
}

impl Generations {
    /// Follows a response: every event after `after`, existing and to come, all of them with `None`.
    pub async fn follow(&self, tenant: &str, id: &str, after: Option<u64>) -> Result<Follow, WireError> {
        let follower = self.running.follower(id);
        let (header, entries) = self.store.read(tenant, id).await.map_err(|e| store_error(e, id))?;
        let (response, last_sequence_number) = render::response(&header, entries.iter().map(|e| &**e));
        let mut follow = Follow {
            id: id.to_owned(),
            start: Start { status: response.status, last_sequence_number },
            batches: self.store.follow(tenant, id),
            renderer: Renderer::new(Arc::clone(&header)),
            ready: VecDeque::new(),
            after,
            _follower: follower,
        };
        follow.render(|renderer, emit| renderer.begin(emit));
        Ok(follow)
    }
}

impl Follow {
    /// The next event; `None` after the last.
    pub async fn next(&mut self) -> Option<Result<Numbered, WireError>> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(Ok(event));
            }
            match self.batches.next().await? {
                Ok(batch) => {
                    for entry in &batch.entries {
                        self.render(|renderer, emit| renderer.entry(entry, emit));
                    }
                }
                Err(error) => return Some(Err(store_error(error, &self.id))),
            }
        }
    }

    fn render(&mut self, step: impl FnOnce(&mut Renderer, &mut dyn FnMut(u64, Event))) {
        let (ready, after) = (&mut self.ready, self.after);
        step(&mut self.renderer, &mut |number, event| {
            if after.is_none_or(|after| number > after) {
                ready.push_back((number, event));
            }
        });
    }
}
