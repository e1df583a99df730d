//! One replica of a stack, which may be down.

use std::{net::SocketAddr, thread, time::Duration};

use crate::{App, Setup, redis::free_port};

pub struct Replica {
    pub address: SocketAddr,
    settings: Vec<String>,
    app: Option<App>,
    /// The thread that starts or continues the process.
    healer: Option<thread::JoinHandle<App>>,
}

impl Replica {
    pub(super) fn spawn(redis: &str, settings: &[&str]) -> Self {
        let address = free_port();
        let own = [format!("server.bind={address}"), format!("store.redis.url={redis}")];
        let settings = settings.iter().map(|s| s.to_string()).chain(own).collect();
        let mut replica = Self { address, settings, app: None, healer: None };
        replica.app = Some(replica.setup().spawn());
        replica
    }

    fn setup(&self) -> Setup {
        let settings: Vec<&str> = self.settings.iter().map(String::as_str).collect();
        let config = super::config_dir().join("replica.toml");
        Setup::default().argument("--config").argument(&config.to_string_lossy()).set(&settings)
    }

    /// Whether the process runs, as far as this handle knows.
    pub fn is_up(&self) -> bool {
        self.app.is_some() || self.healer.as_ref().is_some_and(thread::JoinHandle::is_finished)
    }

    /// Returns the process if it is up.
    pub fn app(&mut self) -> Option<&mut App> {
        if self.is_up() {
            self.heal();
        }
        self.app.as_mut()
    }

    /// Sends SIGKILL, and starts a new process after `time`.
    pub fn kill_for(&mut self, time: Duration) {
        drop(self.take());
        self.start_after(time, || {});
    }

    /// Sends SIGTERM, and starts a new process `time` after the old one has ended.
    pub fn replace_after(&mut self, time: Duration) {
        let Some(mut old) = self.take() else { return };
        old.signal("TERM");
        self.start_after(time, move || {
            old.exit();
        });
    }

    /// Sends SIGSTOP, and SIGCONT after `time`.
    pub fn freeze_for(&mut self, time: Duration) {
        let Some(app) = self.take() else { return };
        app.signal("STOP");
        self.healer = Some(thread::spawn(move || {
            thread::sleep(time);
            app.signal("CONT");
            app
        }));
    }

    fn take(&mut self) -> Option<App> {
        if self.is_up() {
            self.heal();
        }
        self.app.take()
    }

    fn start_after(&mut self, time: Duration, first: impl FnOnce() + Send + 'static) {
        let setup = self.setup();
        self.healer = Some(thread::spawn(move || {
            first();
            thread::sleep(time);
            setup.spawn()
        }));
    }

    /// Waits until the replica is up again.
    pub fn heal(&mut self) {
        if let Some(healer) = self.healer.take() {
            self.app = Some(healer.join().expect("the replica comes back"));
        }
    }
}
