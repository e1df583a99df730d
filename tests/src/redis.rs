//! A redis-server process on a free port, with its files in a temporary folder, ended by its handle.

use std::{
    env, fs,
    io::{self, BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::PATIENCE;

/// The variable that names another server to start instead of redis-server, such as valkey-server.
const SERVER: &str = "CAUDAL_REDIS_SERVER";

/// A running redis-server. Dropping the handle kills the process and removes its files.
pub struct Redis {
    pub address: SocketAddr,
    dir: PathBuf,
    arguments: Vec<String>,
    /// The password that commands of the test use.
    password: Option<String>,
    child: Option<Child>,
}

impl Redis {
    /// Starts a server that stores nothing on disk.
    pub fn spawn() -> Self {
        Self::with(&["--save", "", "--appendonly", "no"])
    }

    /// Starts a server with the stack's configuration file, so that its data survives a restart.
    pub fn persistent() -> Self {
        let config = crate::stack::config_dir().join("redis.conf");
        Self::with(&[&config.to_string_lossy()])
    }

    /// Starts a server with these command-line arguments.
    pub fn with(arguments: &[impl AsRef<str>]) -> Self {
        Self::guarded(arguments, None)
    }

    /// Starts a server that requires this password.
    fn guarded(arguments: &[impl AsRef<str>], password: Option<&str>) -> Self {
        let dir = temp_dir("redis");
        let arguments = arguments.iter().map(|a| a.as_ref().to_owned()).collect();
        let password = password.map(str::to_owned);
        let mut redis = Self { address: free_port(), dir, arguments, password, child: None };
        redis.start();
        redis
    }

    pub fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    /// Starts the server again on the same port and in the same folder. Returns when the server answers.
    pub fn start(&mut self) {
        if self.child.is_some() {
            return;
        }
        let log = fs::File::create(self.dir.join("log")).expect("redis's log");
        let server = env::var_os(SERVER).unwrap_or_else(|| "redis-server".into());
        let child = Command::new(&server)
            .args(&self.arguments)
            .args(["--port", &self.address.port().to_string(), "--bind", "127.0.0.1"])
            .arg("--dir")
            .arg(&self.dir)
            .stdin(Stdio::null())
            .stdout(Stdio::from(log))
            .stderr(Stdio::null())
            // Ctrl-C must reach the test only, which ends this process itself.
            .process_group(0)
            .spawn()
            .unwrap_or_else(|e| {
                panic!(
                    "cannot start {} ({e}): run tests/setup.sh, which installs the programs of the tests",
                    server.display()
                )
            });
        self.child = Some(child);
        let begun = Instant::now();
        while !self.command(&["PING"]).is_some_and(|answer| answer.starts_with("+PONG")) {
            let log = || fs::read_to_string(self.dir.join("log")).unwrap_or_default();
            assert!(begun.elapsed() < PATIENCE, "redis-server does not answer; its log:\n{}", log());
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Sends SIGKILL, so data that is not on disk is lost.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    pub fn signal(&self, name: &str) {
        if let Some(child) = &self.child {
            let _ = Command::new("kill").args(["-s", name, &child.id().to_string()]).status();
        }
    }

    /// Sends a command. Returns its answer as text, one line for each element.
    #[track_caller]
    pub fn ask(&self, words: &[&str]) -> String {
        let answer = self.send(words).and_then(|stream| parse(&mut BufReader::new(stream)));
        answer.unwrap_or_else(|error| panic!("redis does not answer {words:?}: {error}"))
    }

    /// Sends a command. Returns the first bytes of its raw answer, or `None` if the server does not answer.
    pub fn command(&self, words: &[&str]) -> Option<String> {
        let mut answer = vec![0; 64 << 10];
        let read = self.send(words).ok()?.read(&mut answer).ok()?;
        Some(String::from_utf8_lossy(&answer[..read]).into_owned())
    }

    /// Creates the user with the line of `docs/operations.md`, and `more` rights. Returns `NAME:PASSWORD`.
    pub fn user(&self, name: &str, more: &str) -> String {
        let line = rights(name);
        assert!(OPERATIONS.contains(&format!("`{more}")), "docs/operations.md does not name the rights `{more}`");
        let words: Vec<&str> = line.split(' ').chain(more.split_whitespace()).collect();
        assert_eq!(self.ask(&words), "OK");
        // Redis 7.0 does not have this command.
        self.ask(&["ACL", "SETUSER", name, "+client|setinfo"]);
        let password = words.iter().find_map(|word| word.strip_prefix('>')).expect("a password");
        format!("{name}:{password}")
    }

    /// Returns the commands of the user's line in `docs/operations.md` that were not used since the server started.
    pub fn unused_rights(&self, name: &str) -> Vec<&'static str> {
        let used = self.ask(&["INFO", "commandstats"]);
        let commands = rights(name).split(' ').filter_map(|word| word.strip_prefix('+'));
        commands.filter(|command| !used.contains(&format!("cmdstat_{command}:calls="))).collect()
    }

    /// Returns the commands that were refused because the user had no right to them; empty: none.
    pub fn refusals(&self) -> String {
        self.ask(&["ACL", "LOG"])
    }

    fn send(&self, words: &[&str]) -> io::Result<TcpStream> {
        let mut stream = TcpStream::connect_timeout(&self.address, Duration::from_secs(1))?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        if let Some(password) = &self.password {
            stream.write_all(encode(&["AUTH", password]).as_bytes())?;
            let mut welcome = [0; 5];
            stream.read_exact(&mut welcome)?;
        }
        stream.write_all(encode(words).as_bytes())?;
        Ok(stream)
    }
}

const OPERATIONS: &str = include_str!("../../docs/operations.md");

/// Returns the line of `docs/operations.md` that creates this user.
fn rights(name: &str) -> &'static str {
    let begin = format!("ACL SETUSER {name} ");
    OPERATIONS.lines().find(|line| line.starts_with(&begin)).expect("the user's line in docs/operations.md")
}

/// Encodes a command for the wire.
fn encode(words: &[&str]) -> String {
    let said: String = words.iter().map(|word| format!("${}\r\n{word}\r\n", word.len())).collect();
    format!("*{}\r\n{said}", words.len())
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Three masters that share the slots.
pub struct RedisCluster {
    pub nodes: [Redis; 3],
}

impl RedisCluster {
    pub fn spawn() -> Self {
        let nodes = [0, 1, 2].map(|_| {
            let bus = free_port().port().to_string();
            Redis::with(&[
                "--save",
                "",
                "--cluster-enabled",
                "yes",
                "--cluster-port",
                &bus,
                "--cluster-node-timeout",
                "5000",
            ])
        });
        let slots = [(0, 5460), (5461, 10922), (10923, 16383)];
        for (node, (from, to)) in nodes.iter().zip(slots) {
            node.ask(&["CLUSTER", "ADDSLOTSRANGE", &from.to_string(), &to.to_string()]);
            let bus = node.ask(&["CONFIG", "GET", "cluster-port"]);
            let bus = bus.lines().last().unwrap_or_default();
            let port = node.address.port().to_string();
            nodes[0].ask(&["CLUSTER", "MEET", "127.0.0.1", &port, bus]);
        }
        let begun = Instant::now();
        while !nodes.iter().all(|node| node.ask(&["CLUSTER", "INFO"]).contains("cluster_state:ok")) {
            assert!(begun.elapsed() < PATIENCE, "the nodes did not form a cluster");
            thread::sleep(Duration::from_millis(20));
        }
        Self { nodes }
    }

    pub fn url(&self) -> String {
        let nodes: Vec<String> = self.nodes.iter().map(|node| node.address.to_string()).collect();
        format!("redis+cluster://{}", nodes.join(","))
    }
}

/// A standby of a master, and a sentinel that promotes the standby if the master is gone.
pub struct Sentinel {
    pub standby: Redis,
    pub sentinel: Redis,
}

impl Sentinel {
    pub fn spawn(master: &Redis) -> Self {
        Self::guarded(master, None)
    }

    /// Starts a sentinel that requires this password; master and standby require none.
    pub fn with_password(master: &Redis, password: &str) -> Self {
        Self::guarded(master, Some(password))
    }

    fn guarded(master: &Redis, password: Option<&str>) -> Self {
        let port = master.address.port().to_string();
        let standby = Redis::with(&["--save", "", "--replicaof", &format!("127.0.0.1 {port}")]);
        let dir = temp_dir("sentinel");
        let file = dir.join("sentinel.conf");
        let config = format!(
            "sentinel monitor caudal 127.0.0.1 {port} 1\nsentinel down-after-milliseconds caudal 500\nsentinel failover-timeout caudal 3000\n"
        );
        let guard = password.map(|password| format!("requirepass {password}\n")).unwrap_or_default();
        fs::write(&file, config + &guard).expect("the sentinel's configuration");
        let sentinel = Redis::guarded(&[&file.to_string_lossy(), "--sentinel"], password);
        let begun = Instant::now();
        while !sentinel.ask(&["INFO", "sentinel"]).contains("slaves=1")
            || !standby.ask(&["INFO", "replication"]).contains("master_link_status:up")
        {
            assert!(begun.elapsed() < PATIENCE, "the sentinel did not find the standby");
            thread::sleep(Duration::from_millis(20));
        }
        let _ = fs::remove_dir_all(&dir);
        Self { standby, sentinel }
    }

    pub fn url(&self) -> String {
        format!("redis+sentinel://{}/caudal", self.sentinel.address)
    }

    /// Returns the address of the master as the sentinel reports it.
    pub fn master(&self) -> SocketAddr {
        let answer = self.sentinel.ask(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", "caudal"]);
        answer
            .replace('\n', ":")
            .parse()
            .unwrap_or_else(|e| panic!("the sentinel's answer is not an address ({e}): {answer}"))
    }
}

/// A self-signed certificate for localhost.
pub struct Tls {
    pub port: u16,
    dir: PathBuf,
}

impl Tls {
    pub fn make() -> Self {
        let dir = temp_dir("tls");
        let made = Command::new("openssl")
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"])
            .args(["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"])
            .args(["-addext", "basicConstraints=critical,CA:FALSE", "-keyout", "key.pem", "-out", "certificate.pem"])
            .current_dir(&dir)
            .output()
            .unwrap_or_else(|e| panic!("cannot start openssl ({e}): run tests/setup.sh, which installs it"));
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        Self { port: free_port().port(), dir }
    }

    pub fn certificate(&self) -> String {
        self.dir.join("certificate.pem").to_string_lossy().into_owned()
    }

    /// Returns the arguments of a server that also accepts encrypted connections.
    pub fn redis(&self) -> Vec<String> {
        let key = self.dir.join("key.pem").to_string_lossy().into_owned();
        let arguments = ["--save", "", "--tls-port", &self.port.to_string(), "--tls-auth-clients", "no"];
        let files = ["--tls-cert-file", &self.certificate(), "--tls-key-file", &key];
        arguments.iter().chain(&files).map(|argument| argument.to_string()).collect()
    }
}

impl Drop for Tls {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn parse(reader: &mut impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let (kind, rest) = line.trim_end().split_at_checked(1).ok_or(io::ErrorKind::UnexpectedEof)?;
    let count = rest.parse::<i64>().unwrap_or(-1);
    match kind {
        "$" if count >= 0 => {
            let mut bytes = vec![0; count as usize + 2];
            reader.read_exact(&mut bytes)?;
            bytes.truncate(count as usize);
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        }
        "*" => Ok((0..count).map(|_| parse(reader)).collect::<io::Result<Vec<_>>>()?.join("\n")),
        _ => Ok(rest.to_owned()),
    }
}

/// Returns an address that was free a moment ago, for processes that need an address to listen on.
pub fn free_port() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener.local_addr().expect("its address")
}

/// Creates a temporary folder.
pub fn temp_dir(name: &str) -> PathBuf {
    let unique = free_port().port();
    let dir = Path::new(&std::env::temp_dir()).join(format!("caudal-{name}-{}-{unique}", std::process::id()));
    fs::create_dir_all(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    dir
}
