//! Steps that fail on purpose, for tests.

use parking_lot::Mutex;

use super::{schedule::StepPart, sequence::Sequence};

#[derive(Debug, Clone, Copy)]
pub enum Fault {
    Error,
    Panic,
    /// The step never returns.
    Hang,
}

struct Armed {
    tenant: String,
    fault: Fault,
    /// The fewest tokens of a sequence that triggers the fault.
    tokens: usize,
    /// The number of further steps that fail.
    times: usize,
}

static ARMED: Mutex<Vec<Armed>> = Mutex::new(Vec::new());

/// Makes the next `times` steps fail that compute a sequence of the tenant with at least `tokens` tokens.
pub fn arm(tenant: &str, fault: Fault, tokens: usize, times: usize) {
    ARMED.lock().push(Armed { tenant: tenant.into(), fault, tokens, times });
}

/// Fails if the step computes a sequence for which a fault is armed.
pub fn inject(running: &[Sequence], parts: &[StepPart]) -> candle_core::Result<()> {
    let mut armed = ARMED.lock();
    let strikes = |armed: &&mut Armed| {
        let meant = |part: &StepPart| {
            *running[part.at].tenant == *armed.tenant && running[part.at].tokens.len() >= armed.tokens
        };
        armed.times > 0 && parts.iter().any(meant)
    };
    let Some(fault) = armed.iter_mut().find(strikes).map(|armed| {
        armed.times -= 1;
        armed.fault
    }) else {
        return Ok(());
    };
    drop(armed);
    match fault {
        Fault::Error => candle_core::bail!("a step that fails on purpose"),
        Fault::Panic => panic!("a step that panics on purpose"),
        Fault::Hang => loop {
            std::thread::park();
        },
    }
}
