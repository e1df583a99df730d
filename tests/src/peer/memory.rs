//! Resident memory of a process, from `/proc`.

use std::{fs, time::Duration};

const BETWEEN_SAMPLES: Duration = Duration::from_millis(50);

/// Returns the resident memory of the process, in bytes.
fn resident(pid: u32) -> Result<u64, String> {
    let path = format!("/proc/{pid}/status");
    let status = fs::read_to_string(&path).map_err(|e| format!("{path}: {e}"))?;
    parse(&status).ok_or_else(|| format!("{path} has no VmRSS"))
}

fn parse(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib * 1024)
}

/// Awaits `work`. Returns its result and the peak of the process's resident memory meanwhile, in bytes.
pub async fn peak_during<T>(pid: u32, work: impl Future<Output = T>) -> Result<(T, u64), String> {
    let mut peak = resident(pid)?;
    tokio::pin!(work);
    loop {
        tokio::select! {
            result = &mut work => return Ok((result, peak.max(resident(pid)?))),
            () = tokio::time::sleep(BETWEEN_SAMPLES) => peak = peak.max(resident(pid)?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resident_memory_is_read_in_bytes() {
        assert_eq!(parse("Name:\tx\nVmHWM:\t  900 kB\nVmRSS:\t  812 kB\n"), Some(812 * 1024));
        assert_eq!(parse("Name:\tx\n"), None);
        assert!(resident(std::process::id()).is_ok_and(|bytes| bytes > 100_000));
    }
}
