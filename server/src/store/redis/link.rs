//! The connection to Redis: to one server, to the current master by Sentinel, or to a cluster. All commands share one multiplexed
//! connection. It is made at the first use, and again with backoff after it is lost. Every wait is bounded.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionInfo, ErrorKind, IntoConnectionInfo, Pipeline, ProtocolVersion,
    RedisConnectionInfo, RedisError, RedisFuture, RedisResult, ServerErrorKind, TlsMode, Value,
    aio::{AsyncPushSender, ConnectionLike, MultiplexedConnection},
    cluster::ClusterClientBuilder,
    cluster_async::ClusterConnection,
    io::tcp::TcpSettings,
    sentinel::{SentinelClient, SentinelNodeConnectionInfo, SentinelServerType},
};
use tokio::{sync::Mutex, time::timeout};

use crate::store::StoreError;

/// The maximum of commands that wait for the connection's task. Further commands wait for room.
const PIPELINE: usize = 1024;
/// After this many unanswered commands in a row the connection counts as lost: the server may have vanished without closing it.
const MAX_TIMEOUTS: u32 = 3;
const MAX_BACKOFF: Duration = Duration::from_secs(1);

/// The reason why a URL is invalid. Never contains the URL, which may contain a password.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct UrlError(String);

enum Target {
    Single(Box<Client>),
    Sentinel(Box<Mutex<SentinelClient>>),
    Cluster(Vec<ConnectionInfo>),
}

/// The name and password of a user; empty if there is none.
#[derive(Clone, Default)]
pub struct Credentials {
    pub user: String,
    pub password: String,
}

impl Credentials {
    fn settings(&self) -> RedisConnectionInfo {
        let mut settings = RedisConnectionInfo::default();
        if !self.user.is_empty() {
            settings = settings.set_username(self.user.clone());
        }
        if !self.password.is_empty() {
            settings = settings.set_password(self.password.clone());
        }
        settings
    }
}

/// A connection to a server or a cluster.
#[derive(Clone)]
pub enum RedisConnection {
    Single(MultiplexedConnection),
    Cluster(ClusterConnection),
}

pub struct Link {
    target: Target,
    /// The URL without user, password and options, for logs.
    shown: String,
    timeout: Duration,
    state: Mutex<LinkState>,
}

#[derive(Default)]
struct LinkState {
    current: Option<Arc<Current>>,
    failures: u32,
    /// When and why the last attempt to connect failed.
    failed: Option<(Instant, StoreError)>,
}

struct Current {
    connection: RedisConnection,
    /// Unanswered commands since the last answer.
    timeouts: AtomicU32,
}

impl Link {
    /// `redis://`, `rediss://` (TLS) and `redis+unix://` name one server, `redis+sentinel://HOST,HOST/MASTER` and
    /// `redis+cluster://HOST,HOST` several (with TLS `rediss+…`); each may begin with `USER:PASSWORD@`.
    /// `sentinel`: the credentials for sentinels. Those of the URL are for the master.
    pub fn new(url: &str, sentinel: &Credentials, timeout: Duration) -> Result<Self, UrlError> {
        let wrong = |what: &str| UrlError(what.into());
        let (scheme, rest) = url.split_once("://").ok_or_else(|| wrong("it has no scheme, such as redis://"))?;
        let (scheme, kind) = match scheme.split_once('+') {
            Some((scheme, kind @ ("sentinel" | "cluster"))) => (scheme, kind),
            _ => (scheme, "single"),
        };
        if scheme.starts_with("rediss") {
            // Chooses the process' provider of TLS, unless another part has chosen one before.
            let _ = rustls::crypto::ring::default_provider().install_default();
        }
        let several = |rest: &str| -> Result<Vec<ConnectionInfo>, UrlError> {
            let (user, hosts) = rest.rsplit_once('@').map_or(("", rest), |(user, hosts)| (user, hosts));
            let at = if user.is_empty() { "" } else { "@" };
            hosts.split(',').map(|host| info(&format!("{scheme}://{user}{at}{host}"))).collect()
        };
        let target = match kind {
            "sentinel" => {
                let (hosts, path) = rest.rsplit_once('/').ok_or_else(|| wrong("it does not name the master"))?;
                let (hosts, master, db) = match hosts.rsplit_once('/') {
                    Some((hosts, master)) => (hosts, master, path),
                    None => (hosts, path, "0"),
                };
                let db: i64 = db.parse().map_err(|_| wrong("what follows the master is no database number"))?;
                if master.is_empty() {
                    return Err(wrong("it does not name the master"));
                }
                let nodes = several(hosts)?;
                let first = nodes.first().ok_or_else(|| wrong("it names no host"))?;
                let mut node = SentinelNodeConnectionInfo::default()
                    .set_redis_connection_info(first.redis_settings().clone().set_db(db))
                    .set_tcp_settings(tcp());
                if scheme == "rediss" {
                    node = node.set_tls_mode(TlsMode::Secure);
                }
                let sentinels: Vec<ConnectionInfo> =
                    nodes.into_iter().map(|node| node.set_redis_settings(sentinel.settings())).collect();
                let client = SentinelClient::build(sentinels, master, Some(node), SentinelServerType::Master);
                Target::Sentinel(Box::new(Mutex::new(client.map_err(url_error)?)))
            }
            "cluster" => Target::Cluster(several(rest.trim_end_matches('/'))?),
            _ => Target::Single(Box::new(Client::open(info(url)?).map_err(url_error)?)),
        };
        Ok(Self { target, shown: without_secrets(url), timeout, state: Mutex::default() })
    }

    /// Returns whether a command may touch the keys of one slot only.
    pub fn is_cluster(&self) -> bool {
        matches!(self.target, Target::Cluster(_))
    }

    /// Runs an idempotent operation. Repeats it once if the connection was lost meanwhile.
    pub async fn run<T, F>(&self, operation: impl Fn(RedisConnection) -> F) -> Result<T, StoreError>
    where
        F: Future<Output = RedisResult<T>>,
    {
        let outcome = self.attempt(&operation).await;
        let outcome = match outcome {
            Err((_, true)) => self.attempt(&operation).await,
            other => other,
        };
        outcome.map_err(|(error, _)| error)
    }

    /// Runs an operation once. The error says whether to repeat it at once.
    async fn attempt<T, F>(&self, operation: &impl Fn(RedisConnection) -> F) -> Result<T, (StoreError, bool)>
    where
        F: Future<Output = RedisResult<T>>,
    {
        let current = self.current().await.map_err(|error| (error, false))?;
        match timeout(self.timeout, operation(current.connection.clone())).await {
            Ok(Ok(value)) => {
                current.timeouts.store(0, Ordering::Relaxed);
                Ok(value)
            }
            Ok(Err(error)) => {
                let lost = error.is_unrecoverable_error() || error.is_connection_dropped();
                // This master was demoted. A new connection finds the new master.
                let demoted = error.kind() == ErrorKind::Server(ServerErrorKind::ReadOnly);
                if lost || demoted {
                    self.discard(&current).await;
                }
                Err((unavailable(&error), lost))
            }
            Err(_) => {
                if current.timeouts.fetch_add(1, Ordering::Relaxed) + 1 >= MAX_TIMEOUTS {
                    self.discard(&current).await;
                }
                Err((StoreError::Unavailable(format!("no answer within {:?}", self.timeout)), false))
            }
        }
    }

    /// Returns the connection, or makes one. Fails at once shortly after a failed attempt.
    async fn current(&self) -> Result<Arc<Current>, StoreError> {
        let mut state = self.state.lock().await;
        if let Some(current) = &state.current {
            return Ok(current.clone());
        }
        let backoff = MAX_BACKOFF.min(Duration::from_millis(25) * 2u32.saturating_pow(state.failures.min(8)));
        if let Some((at, error)) = &state.failed
            && at.elapsed() < backoff
        {
            return Err(error.clone());
        }
        match self.connect(None::<fn(redis::PushInfo) -> Result<(), ()>>).await {
            Ok(connection) => {
                let current = Arc::new(Current { connection, timeouts: AtomicU32::new(0) });
                *state = LinkState { current: Some(current.clone()), ..LinkState::default() };
                Ok(current)
            }
            Err(error) => {
                state.failures += 1;
                state.failed = Some((Instant::now(), error.clone()));
                Err(error)
            }
        }
    }

    async fn discard(&self, lost: &Arc<Current>) {
        let mut state = self.state.lock().await;
        if state.current.as_ref().is_some_and(|current| Arc::ptr_eq(current, lost)) {
            state.current = None;
        }
    }

    /// Makes a separate connection. `pushes` receives the messages that the server pushes.
    pub async fn connect(&self, pushes: Option<impl AsyncPushSender>) -> Result<RedisConnection, StoreError> {
        match timeout(self.timeout, self.connect_unbounded(pushes)).await {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(error)) => Err(self.unreachable(&error)),
            Err(_) => Err(self.unreachable(&format_args!("no connection within {:?}", self.timeout))),
        }
    }

    fn unreachable(&self, reason: &dyn std::fmt::Display) -> StoreError {
        StoreError::Unavailable(format!("store.redis.url: {} cannot be reached: {reason}", self.shown))
    }

    async fn connect_unbounded(&self, pushes: Option<impl AsyncPushSender>) -> RedisResult<RedisConnection> {
        // The timeouts of the client are off: each operation here has its own bound.
        let mut config = AsyncConnectionConfig::new()
            .set_connection_timeout(None)
            .set_response_timeout(None)
            .set_pipeline_buffer_size(PIPELINE);
        let client = match &self.target {
            Target::Single(client) => (**client).clone(),
            Target::Sentinel(client) => client.lock().await.async_get_client().await?,
            Target::Cluster(nodes) => {
                let mut builder = ClusterClientBuilder::new(nodes.clone())
                    .use_protocol(ProtocolVersion::RESP3)
                    .tcp_settings(tcp())
                    .connection_timeout(self.timeout)
                    .response_timeout(self.timeout)
                    .retries(2);
                if let Some(pushes) = pushes {
                    builder = builder.push_sender(pushes);
                }
                return Ok(RedisConnection::Cluster(builder.build()?.get_async_connection().await?));
            }
        };
        if let Some(pushes) = pushes {
            config = config.set_push_sender(pushes);
        }
        Ok(RedisConnection::Single(client.get_multiplexed_async_connection_with_config(&config).await?))
    }
}

/// Returns a URL without secrets, for logs.
fn without_secrets(url: &str) -> String {
    let url = url.split('?').next().unwrap_or_default();
    match (url.split_once("://"), url.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, hosts))) => format!("{scheme}://{hosts}"),
        _ => url.to_owned(),
    }
}

fn tcp() -> TcpSettings {
    // Each token is a small packet, which must not wait for the next one.
    TcpSettings::default().set_nodelay(true)
}

fn info(url: &str) -> Result<ConnectionInfo, UrlError> {
    let info = url.into_connection_info().map_err(url_error)?.set_tcp_settings(tcp());
    let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
    Ok(info.set_redis_settings(settings))
}

fn url_error(error: RedisError) -> UrlError {
    UrlError(format!("{error}"))
}

/// Maps an error of Redis. Every refusal can be temporary: Redis loads its data, fails over, is full or was just promoted.
fn unavailable(error: &RedisError) -> StoreError {
    match error.code() {
        Some("OOM") => StoreError::StoreFull("Redis has as much memory as its maxmemory allows".into()),
        _ => StoreError::Unavailable(error.to_string()),
    }
}

impl ConnectionLike for RedisConnection {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        match self {
            Self::Single(connection) => connection.req_packed_command(command),
            Self::Cluster(connection) => connection.req_packed_command(command),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match self {
            Self::Single(connection) => connection.req_packed_commands(pipeline, offset, count),
            Self::Cluster(connection) => connection.req_packed_commands(pipeline, offset, count),
        }
    }

    fn get_db(&self) -> i64 {
        match self {
            Self::Single(connection) => connection.get_db(),
            Self::Cluster(connection) => connection.get_db(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_shown_without_what_opens_it() {
        for (url, shown) in [
            ("redis://127.0.0.1:6379/1", "redis://127.0.0.1:6379/1"),
            ("rediss://user:p@ss@host:6379", "rediss://host:6379"),
            ("redis+sentinel://:pass@a:1,b:2/master", "redis+sentinel://a:1,b:2/master"),
            ("redis+unix:///run/redis.sock?pass=secret", "redis+unix:///run/redis.sock"),
        ] {
            assert_eq!(without_secrets(url), shown);
        }
    }
}
