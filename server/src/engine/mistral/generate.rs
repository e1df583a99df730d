//! One generation on the pool: takes a slot, runs the prompt in it, mends it when it broke, gives it back.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::{
    load::Shared,
    pool::{Lease, Pool},
    slot::Broken,
    step::Steps,
};
use crate::engine::{Delta, Finish, GenerateRequest};

/// One generation, from waiting for a slot to giving it back.
pub async fn generate(
    pool: Arc<Pool>,
    shared: Arc<Shared>,
    request: GenerateRequest,
    max: u64,
    sender: mpsc::Sender<Delta>,
) {
    let tokens = [request.prompt.as_slice(), &request.output].concat();
    let lease = tokio::select! {
        biased;
        () = request.cancel.cancelled() => {
            let last = Delta { finish: Some(Finish::Cancelled), ..Delta::default() };
            drop(sender.try_send(last));
            return;
        }
        lease = pool.acquire(&tokens, &request.scope) => lease,
    };
    let steps = Arc::new(Steps::new(
        &request,
        max,
        shared.tokens.bytes(),
        shared.eos.clone(),
        shared.end,
        lease.slot.helpers.clone(),
        sender,
    ));
    if !steps.finished() {
        let run = run(&lease, &shared, tokens, max, &steps);
        tokio::pin!(run);
        let ended = tokio::select! {
            ended = &mut run => ended,
            () = request.cancel.cancelled() => {
                // Said at once, even in the middle of a long prefill; the slot is free when the engine has noticed.
                steps.finish(Finish::Cancelled);
                run.await
            }
        };
        if let Err(broken) = ended {
            recover(&lease, &shared, broken, &steps).await;
        }
    }
    // The channel closes after the slot is free.
    drop(lease);
    steps.close();
}

async fn run(lease: &Lease, shared: &Shared, tokens: Vec<u32>, max: u64, steps: &Arc<Steps>) -> Result<(), Broken> {
    if lease.empty_first {
        lease.slot.empty_cache(shared).await?;
        lease.emptied();
    }
    let max_len = usize::try_from(max).unwrap_or(usize::MAX).saturating_add(2);
    lease.slot.run(tokens.clone(), max_len, shared.end, steps.clone()).await?;
    // An engine that ended by itself has not been asked to.
    steps.finish(Finish::Failed("the engine ended the sequence by itself".into()));
    lease.kept([tokens, steps.picked()].concat());
    if lease.over_limit() {
        lease.slot.empty_cache(shared).await?;
        lease.emptied();
    }
    Ok(())
}

/// Tells the reader and makes the slot usable again before it is given back.
async fn recover(lease: &Lease, shared: &Shared, broken: Broken, steps: &Steps) {
    lease.emptied();
    match broken {
        Broken::Error(error) => {
            tracing::warn!(error, "the engine refused a sequence");
            steps.finish(Finish::Failed(error));
        }
        Broken::Dead => {
            steps.finish(Finish::Failed("the engine crashed".into()));
            tracing::error!("an engine has crashed; loading it again");
            if let Err(error) = lease.slot.reload(shared).await {
                tracing::error!(%error, "the crashed engine cannot be loaded; its slot fails every generation");
            }
        }
    }
}
