//! Tests the messages of `make stack`, and when it reports that it is ready.

use std::{
    io::{BufRead, BufReader, Lines},
    net::TcpListener,
    process::{ChildStderr, ChildStdout, Command, Output, Stdio},
};

use caudal_tests::redis::free_port;

fn stack(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_stack"));
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn refused(listen: &str) -> String {
    let Output { status, stdout, stderr } = stack(&["--listen", listen]).output().expect("it runs");
    assert!(!status.success() && stdout.is_empty(), "{}", String::from_utf8_lossy(&stdout));
    String::from_utf8_lossy(&stderr).into_owned()
}

fn signal(pid: &str, name: &str) {
    assert!(Command::new("kill").args(["-s", name, pid]).status().expect("kill runs").success());
}

/// Returns the first line that contains `text`.
fn line(lines: &mut Lines<impl BufRead>, text: &str) -> String {
    let mut lines = lines.map_while(Result::ok);
    lines.find(|line| line.contains(text)).unwrap_or_else(|| panic!("it has ended without '{text}'"))
}

#[test]
fn an_address_that_is_taken_or_wrong_is_refused_before_anything_starts() {
    let holder = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = holder.local_addr().expect("its address").to_string();
    let said = refused(&address);
    assert!(said.contains(&format!("cannot listen on {address}: it is in use by another process")), "{said}");
    assert!(refused("9325").contains("expected ADDRESS:PORT"));
}

#[test]
fn replicas_are_named_by_their_process_and_reported_when_they_end() {
    let address = free_port().to_string();
    let mut child = stack(&["--listen", &address, "--set", "engine.kind=scripted"]).spawn().expect("it starts");
    let out: ChildStdout = child.stdout.take().expect("stdout");
    let err: ChildStderr = child.stderr.take().expect("stderr");
    let (mut out, mut err) = (BufReader::new(out).lines(), BufReader::new(err).lines());
    assert_eq!(line(&mut out, "listening"), format!("listening on http://{address}"));
    let second = line(&mut err, "replica 2 (pid ");
    let pid = second.split(['(', ')']).nth(1).and_then(|said| said.strip_prefix("pid ")).expect("a process");
    signal(pid, "KILL");
    assert!(line(&mut err, "replica 2 has ended").contains("signal: 9"));
    signal(&child.id().to_string(), "TERM");
    assert!(child.wait().expect("it ends").success());
}
