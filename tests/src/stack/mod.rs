//! The whole stack as plain processes with the configuration files of docker-compose.yml: Redis, three replicas, nginx, and
//! Prometheus on request.

mod nginx;
mod prometheus;
mod replica;

use std::{
    env, fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use crate::{
    http,
    redis::{Redis, free_port, temp_dir},
    until,
};
use nginx::Nginx;
pub use prometheus::Prometheus;
pub use replica::Replica;

/// Returns the folder of the project's configuration files. Reads the crate's folder at run time, because several checkouts may
/// share the built binary.
pub fn config_dir() -> PathBuf {
    let folder = env::var("CARGO_MANIFEST_DIR").unwrap_or_else(|_| env!("CARGO_MANIFEST_DIR").into());
    Path::new(&folder).join("../config")
}

/// A running stack. Dropping the handle ends the processes and removes their files.
pub struct Stack {
    nginx: Nginx,
    replicas: [Replica; 3],
    redis: Redis,
    dir: PathBuf,
}

impl Stack {
    /// Starts all processes and waits until every replica is ready. `settings` have the form of `--set` and apply to each
    /// replica. nginx listens on `address`, or on a free port.
    pub async fn spawn(settings: &[&str], address: Option<SocketAddr>) -> Self {
        let redis = Redis::persistent();
        let url = redis.url();
        let replicas = [0, 1, 2].map(|_| Replica::spawn(&url, settings));
        let dir = temp_dir("stack");
        let addresses = [0, 1, 2].map(|n: usize| replicas[n].address);
        let nginx = Nginx::spawn(&dir, address.unwrap_or_else(free_port), addresses);
        let mut stack = Self { nginx, replicas, redis, dir };
        for address in addresses {
            ready(address).await;
        }
        ready(stack.address()).await;
        // If nginx has ended, another server has answered on its address.
        assert!(stack.nginx.is_running(), "nginx has ended:\n{}", stack.nginx_errors());
        stack
    }

    /// Returns the address to which clients connect: that of nginx.
    pub fn address(&self) -> SocketAddr {
        self.nginx.address
    }

    /// Starts Prometheus for the replicas, whose admin key is `key`.
    pub fn watch(&self, key: &str, interval: Option<&str>) -> Prometheus {
        Prometheus::spawn(&self.dir, &[0, 1, 2].map(|n: usize| self.replicas[n].address), key, interval)
    }

    pub fn replica(&self, n: usize) -> &Replica {
        &self.replicas[n]
    }

    pub fn replica_mut(&mut self, n: usize) -> &mut Replica {
        &mut self.replicas[n]
    }

    pub fn redis(&self) -> &Redis {
        &self.redis
    }

    pub fn redis_mut(&mut self) -> &mut Redis {
        &mut self.redis
    }

    pub fn reload_nginx(&self) {
        self.nginx.reload();
    }

    /// Starts what is down, and waits until every process is healthy.
    pub async fn heal(&mut self) {
        self.redis.start();
        for replica in &mut self.replicas {
            replica.heal();
        }
        for replica in &self.replicas {
            ready(replica.address).await;
        }
        ready(self.address()).await;
    }

    /// Returns nginx's error log.
    pub fn nginx_errors(&self) -> String {
        self.nginx.errors()
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

async fn ready(address: SocketAddr) {
    until(format!("{address} to be ready"), || async move {
        http::try_get(address, "/readyz").await.ok().filter(|answer| answer.status == 200)
    })
    .await;
}
