//! A server process: started on a free port, ended by its handle.

use std::{
    env,
    io::{BufRead, BufReader, Read},
    net::SocketAddr,
    path::PathBuf,
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread,
    time::{Duration, Instant},
};

use crate::{DataDir, PATIENCE};

/// A running `caudal serve`. Dropping it kills the process and fails the test if the server panicked.
pub struct App {
    pub address: SocketAddr,
    /// Deleted after the process has ended.
    _data: Option<Arc<DataDir>>,
    child: Child,
    stderr: Arc<Mutex<String>>,
}

/// How to start the binary.
#[derive(Clone, Default)]
pub struct Setup {
    settings: Vec<String>,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    data: Option<Arc<DataDir>>,
}

/// Starts a server with the scripted engine at full speed on a free port. `settings` have the form of `--set`; later ones win.
pub fn spawn_app(settings: &[&str]) -> App {
    Setup::scripted().set(settings).spawn()
}

/// Returns the path of the binary under test.
pub fn binary() -> PathBuf {
    let built = || {
        let target = env::var_os("CARGO_TARGET_DIR").map(PathBuf::from).unwrap_or_else(|| {
            let cache = env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
            let home = || PathBuf::from(env::var_os("HOME").unwrap_or_default()).join(".cache");
            cache.unwrap_or_else(home).join("caudal/target")
        });
        target.join("release/caudal")
    };
    let path = env::var_os("CAUDAL_BIN").map_or_else(built, PathBuf::from);
    assert!(path.is_file(), "there is no server at {}: run `make build`, or set CAUDAL_BIN", path.display());
    path
}

impl Setup {
    /// The scripted engine on the memory store, or on the embedded store in a new folder if `CAUDAL_TEST_STORE` is `sqlite`.
    pub fn scripted() -> Self {
        match env::var("CAUDAL_TEST_STORE").as_deref() {
            Ok("sqlite") => Self::in_folder(&Arc::new(DataDir::create())),
            _ => Self::fast().set(&["store.kind=memory"]),
        }
    }

    /// The scripted engine on the embedded store in this folder.
    pub fn in_folder(data: &Arc<DataDir>) -> Self {
        let setup = Self::fast().set(&["store.kind=sqlite"]).env("CAUDAL_DATA_DIR", &data.path().to_string_lossy());
        Self { data: Some(data.clone()), ..setup }
    }

    fn fast() -> Self {
        Self::default().set(&[
            "server.bind=127.0.0.1:0",
            "engine.kind=scripted",
            "engine.scripted.tokens=20",
            "engine.scripted.tokens_per_second=0",
        ])
    }

    /// The real engine on the default model.
    pub fn real() -> Self {
        Self::default().set(&["server.bind=127.0.0.1:0", "engine.kind=mistralrs", "store.kind=memory"])
    }

    pub fn set(mut self, settings: &[&str]) -> Self {
        self.settings.extend(settings.iter().map(|s| s.to_string()));
        self
    }

    pub fn argument(mut self, argument: &str) -> Self {
        self.arguments.push(argument.into());
        self
    }

    pub fn env(mut self, key: &str, value: &str) -> Self {
        self.environment.push((key.into(), value.into()));
        self
    }

    fn command(&self, subcommand: &str) -> Command {
        let mut command = Command::new(binary());
        // The developer's own settings must not reach the tests.
        for (key, _) in env::vars_os().filter(|(key, _)| key.to_string_lossy().starts_with("CAUDAL__")) {
            command.env_remove(key);
        }
        // The tests must not write into the data folder of the developer's own server.
        command.env("CAUDAL_DATA_DIR", DataDir::unused());
        command.arg(subcommand).args(&self.arguments).envs(self.environment.clone());
        self.settings.iter().for_each(|setting| {
            command.args(["--set", setting]);
        });
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs a subcommand to its end, such as `config`, or a `serve` that must fail.
    pub fn run(self, subcommand: &str) -> Output {
        let mut child = self.command(subcommand).spawn().expect("the binary starts");
        match wait(&mut child) {
            Some(_) => child.wait_with_output().expect("the binary's output can be read"),
            None => {
                let _ = child.kill();
                let output = child.wait_with_output().expect("the binary's output can be read");
                panic!("`caudal {subcommand}` did not end: {output:?}");
            }
        }
    }

    pub fn spawn(self) -> App {
        self.start().ready()
    }

    /// Starts the server on a free port without waiting until it is ready.
    pub fn spawn_loading(self) -> Starting {
        let free = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let address = free.expect("a free port");
        let mut starting = self.set(&[&format!("server.bind={address}")]).start();
        starting.address = Some(address);
        starting
    }

    fn start(self) -> Starting {
        let mut child = self.command("serve").spawn().expect("the binary starts");
        let stderr = Arc::new(Mutex::new(String::new()));
        let (lines, mut errors) = (stderr.clone(), child.stderr.take().expect("stderr is piped"));
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(read @ 1..) = errors.read(&mut buffer) {
                let text = String::from_utf8_lossy(&buffer[..read]).into_owned();
                lines.lock().unwrap_or_else(PoisonError::into_inner).push_str(&text);
            }
        });
        let (sender, first_line) = mpsc::channel();
        let stdout = child.stdout.take().expect("stdout is piped");
        thread::spawn(move || {
            let mut lines = BufReader::new(stdout).lines().map_while(Result::ok);
            let _ = sender.send(lines.next());
            // Reads on, so that the pipe stays open and never fills up.
            lines.for_each(drop);
        });
        Starting { address: None, child: Some(child), first_line, stderr, data: self.data }
    }
}

/// A process that was started and may still be loading its models.
pub struct Starting {
    /// The address that was chosen before the start, if there is one.
    pub address: Option<SocketAddr>,
    child: Option<Child>,
    first_line: mpsc::Receiver<Option<String>>,
    stderr: Arc<Mutex<String>>,
    data: Option<Arc<DataDir>>,
}

impl Starting {
    /// Waits until the server reports that it is ready.
    pub fn ready(mut self) -> App {
        let line = self.first_line.recv_timeout(PATIENCE * 4).ok().flatten();
        let address = line.as_deref().and_then(|l| l.strip_prefix("listening on http://")).and_then(|a| a.parse().ok());
        let Some(address) = address else {
            let stderr = self.stderr.lock().unwrap_or_else(PoisonError::into_inner).clone();
            panic!("the first line of stdout must be 'listening on http://ADDRESS', got {line:?}; stderr:\n{stderr}");
        };
        let (child, stderr) = (self.child.take().expect("a process"), self.stderr.clone());
        App { address, child, stderr, _data: self.data.take() }
    }

    /// Whether the server has reported that it is ready.
    pub fn is_ready(&self) -> bool {
        self.first_line.try_recv().is_ok()
    }

    /// Sends SIGTERM and waits until the process has ended.
    pub fn terminate(mut self) -> ExitStatus {
        let child = self.child.as_mut().expect("a process");
        let status = Command::new("kill").args(["-s", "TERM", &child.id().to_string()]).status();
        assert!(status.expect("kill runs").success());
        wait(child).expect("the server ends")
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl App {
    /// Returns the log so far.
    pub fn stderr(&self) -> String {
        self.stderr.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns the resident memory, in bytes.
    pub fn resident_bytes(&self) -> u64 {
        self.memory("VmRSS:")
    }

    /// Returns the peak of the resident memory, in bytes.
    pub fn most_resident_bytes(&self) -> u64 {
        self.memory("VmHWM:")
    }

    fn memory(&self, field: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix(field));
        line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).map_or(0, |kb: u64| kb << 10)
    }

    /// Returns the CPU time since the start, to a hundredth of a second.
    pub fn cpu_time(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap_or_default();
        // The name may have spaces. Fields 14 and 15 of proc(5), after the name, are the ticks in user and kernel mode.
        let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
        let ticks = fields.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok());
        Duration::from_millis(ticks.sum::<u64>() * 10)
    }

    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args(["-s", name, &self.child.id().to_string()]).status();
        assert!(status.expect("kill runs").success(), "kill -s {name}");
    }

    /// Waits until the process has ended without a signal of the test.
    pub fn exit(&mut self) -> ExitStatus {
        match wait(&mut self.child) {
            Some(status) => status,
            None => panic!("the server did not exit; stderr:\n{}", self.stderr()),
        }
    }

    /// Sends SIGKILL, like a power failure.
    pub fn kill(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Returns the exit status if the process has ended, and reaps it.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for App {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let stderr = self.stderr();
        let panicked = stderr.contains("panicked at");
        if std::thread::panicking() {
            let tail: Vec<&str> = stderr.lines().rev().take(30).collect();
            eprintln!("the server's last lines:\n{}", tail.into_iter().rev().collect::<Vec<_>>().join("\n"));
        } else {
            assert!(!panicked, "the server panicked:\n{stderr}");
        }
    }
}

fn wait(child: &mut Child) -> Option<ExitStatus> {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        if let Ok(Some(status)) = child.try_wait() {
            return Some(status);
        }
        thread::sleep(Duration::from_millis(5));
    }
    None
}
