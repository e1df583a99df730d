//! nginx with the stack's own configuration files.

use std::{
    env, fs,
    net::SocketAddr,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

/// A running nginx. Dropping the handle ends the process.
pub struct Nginx {
    pub address: SocketAddr,
    dir: PathBuf,
    child: Child,
}

impl Nginx {
    /// Starts nginx in front of three replicas. `dir` is for its files and must exist.
    pub fn spawn(dir: &Path, address: SocketAddr, replicas: [SocketAddr; 3]) -> Self {
        let config = super::config_dir().join("nginx");
        let read = |name: &str| fs::read_to_string(config.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
        let mut site = read("caudal.conf.template").replace("${LISTEN}", &address.to_string());
        // The replicas have addresses here, so no name is resolved.
        for name in ["${RESOLVER}", "${RESOLVE}"] {
            site = site.replace(name, "");
        }
        for (n, replica) in replicas.iter().enumerate() {
            site = site.replace(&format!("${{REPLICA_{}}}", n + 1), &replica.to_string());
        }
        let write = |name: &str, text: &str| {
            let path = dir.join(name);
            fs::create_dir_all(path.parent().unwrap_or(dir)).expect("a folder for nginx");
            fs::write(&path, text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        };
        write("nginx.conf", &read("nginx.conf"));
        write("conf.d/caudal.conf", &site);
        let child = command(dir)
            .args(["-g", &format!("daemon off; pid {};", dir.join("nginx.pid").display())])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::from(fs::File::create(dir.join("error.log")).expect("nginx's log")))
            .process_group(0)
            // Ctrl-C must reach the parent process only, which ends nginx itself.
            .process_group(0)
            .spawn()
            .unwrap_or_else(|e| {
                panic!("nginx does not start ({e}): install it, on Debian: apt-get install nginx-light")
            });
        Self { address, dir: dir.to_owned(), child }
    }

    /// Starts new workers with the same configuration; the old ones finish their connections, for a limited time.
    pub fn reload(&self) {
        self.signal("HUP");
    }

    fn signal(&self, name: &str) {
        let _ = Command::new("kill").args(["-s", name, &self.child.id().to_string()]).status();
    }

    /// Whether nginx runs. It ends, for instance, if it cannot listen on its address.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Returns nginx's error log.
    pub fn errors(&self) -> String {
        fs::read_to_string(self.dir.join("error.log")).unwrap_or_default()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // SIGKILL of the master would leave its workers running.
        self.signal("TERM");
        let _ = self.child.wait();
    }
}

fn command(dir: &Path) -> Command {
    // Debian installs nginx in a folder that only root's PATH has.
    let path = env::var("PATH").unwrap_or_default();
    let mut command = Command::new("nginx");
    command
        .env("PATH", format!("{path}:/usr/sbin:/usr/local/sbin"))
        .arg("-p")
        .arg(dir)
        .arg("-c")
        .arg(dir.join("nginx.conf"));
    command.args(["-e", "stderr"]);
    command
}
