//! Answers `response.steer`, and handles queued input when a response has ended.

use serde_json::Value;

use super::socket::SocketConnection;
use crate::{
    edge::ws::{
        arrival::Size,
        outbox::Gone,
        steering::{PendingSteer, Verdict, explain, required},
    },
    wire::{
        response::{Response, Status},
        steer::{RefusedSteer, Returned, Steer, SteerError, SteerErrorCode, SteerEvent, Submission, WAITING},
    },
};

impl SocketConnection {
    /// Handles the inputs that were queued for a response that has ended with `last`. Returns those that a successor commits at
    /// once; otherwise notifies the client that they wait or failed.
    pub(super) async fn continued(
        &self,
        last: Option<Response>,
        id: &str,
        pending: Vec<PendingSteer>,
        stream_id: Option<&str>,
    ) -> Result<Option<Vec<PendingSteer>>, Gone> {
        if pending.is_empty() {
            return Ok(None);
        }
        let goes_on = last.filter(|response| match &response.incomplete_details {
            Some(details) => details.reason != "cancelled",
            None => response.status == Status::Completed,
        });
        let Some(response) = goes_on else {
            for pending in pending {
                let code = SteerErrorCode::ResponseNotActive;
                let error = SteerError::new(code, explain(code));
                self.steer_failed(id, Some(&pending.id), &pending.input, error, stream_id).await?;
            }
            return Ok(None);
        };
        let required_input = required(&response);
        if required_input.is_empty() {
            return Ok(Some(pending));
        }
        for pending in &pending {
            let steer = Submission { id: &pending.id, previous_response_id: id };
            let event = SteerEvent::Pending { steer, reason: WAITING, required_input: &required_input };
            self.own(event, stream_id).await?;
        }
        self.steering.wait(id, pending);
        Ok(None)
    }

    /// Queues input for a running response, and ends the response so that a successor commits the input.
    pub(super) async fn steer(&self, steer: Result<Steer, RefusedSteer>, size: Size) -> Result<(), Gone> {
        let steer = match steer {
            Ok(steer) => steer,
            Err(RefusedSteer { previous_response_id, input, message }) => {
                let stream_id = self.steering.stream_id(&previous_response_id);
                let error = SteerError::new(SteerErrorCode::InvalidInput, message);
                return self.steer_failed(&previous_response_id, None, &input, error, stream_id.as_deref()).await;
            }
        };
        let (response_id, input) = (steer.previous_response_id.clone(), steer.input.clone());
        let held = match self.arrivals.hold(&self.edge, &self.tenant, size) {
            Ok(held) => held,
            Err(refused) => {
                let stream_id = self.steering.stream_id(&response_id);
                let error = SteerError::new(SteerErrorCode::TooManyPendingSteers, refused.to_string());
                return self.steer_failed(&response_id, None, &input, error, stream_id.as_deref()).await;
            }
        };
        let Verdict { stream_id, outcome } = self.steering.queue(steer, held);
        match outcome {
            Ok(id) => {
                let steer = Submission { id: &id, previous_response_id: &response_id };
                self.own(SteerEvent::Accepted { steer }, stream_id.as_deref()).await?;
                self.edge.generations.steer(&response_id);
                Ok(())
            }
            Err(code) => {
                let error = SteerError::new(code, explain(code));
                self.steer_failed(&response_id, None, &input, error, stream_id.as_deref()).await
            }
        }
    }

    pub(super) async fn steer_failed(
        &self,
        previous_response_id: &str,
        id: Option<&str>,
        input: &Value,
        error: SteerError,
        stream_id: Option<&str>,
    ) -> Result<(), Gone> {
        self.own(SteerEvent::Failed { steer: Returned { id, previous_response_id, input }, error }, stream_id).await
    }
}
