//! A process that occupies one core while servers are measured.

use std::process::{Child, Command, Stdio};

/// The argument that makes this binary the busy process.
pub const SPIN: &str = "--spin";

/// The busy process. It is this binary with [`SPIN`]; it ends when its stdin is closed, so also when this process dies.
pub struct Busy {
    child: Child,
}

impl Busy {
    pub fn start() -> Result<Self, String> {
        let binary = std::env::current_exe().map_err(|e| format!("the busy process: {e}"))?;
        let child = Command::new(binary).arg(SPIN).stdin(Stdio::piped()).spawn();
        Ok(Self { child: child.map_err(|e| format!("the busy process: {e}"))? })
    }

    /// Ends the process; an error if it ended before, because nothing was busy then.
    pub fn end(mut self) -> Result<(), String> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(format!("the busy process ended early: {status}")),
            Err(error) => Err(format!("the busy process: {error}")),
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}
