//! Steps that fail on purpose, for tests.

use parking_lot::Mutex;

use super::{schedule::StepPart, sequence::Sequence};

#[derive(Debug, Clone, Copy)]
pub enum Fault {
    Error,
    Panic,
    /// The step does not return for the life of the test.
    Hang,
}

struct Armed {
    tenant: String,
    fault: Fault,
    /// Tokens that a sequence of the tenant has at least.
    tokens: usize,
    times: usize,
}

static ARMED: Mutex<Vec<Armed>> = Mutex::new(Vec::new());

/// Makes a step fail, so many times, that computes a sequence of the tenant with at least so many tokens.
pub fn arm(tenant: &str, fault: Fault, tokens: usize, times: usize) {
    ARMED.lock().push(Armed { tenant: tenant.into(), fault, tokens, times });
}

/// Fails as armed.
pub fn strike(running: &[Sequence], parts: &[StepPart]) -> candle_core::Result<()> {
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
