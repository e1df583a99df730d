//! The application: builds engine, store and server from settings, runs until a signal, then drains.

mod stores;

use std::{
    net::{SocketAddr, TcpListener},
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use futures::future::join_all;
use socket2::{Domain, Socket, Type};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
    time::timeout,
};

use crate::{
    access::Access,
    cluster::Cluster,
    edge::{self, Edge, Listeners, Phase},
    engine::{Engine, ModelStatus, scripted::Scripted},
    generation::Generations,
    loading,
    settings::{AuthMode, EngineKind, Settings, StoreKind},
    store::Stores,
};

pub use stores::stores;

/// Generations that the scripted engine runs at once by default.
const SCRIPTED_MAX_RUNNING: usize = 1024;
/// `SIGXFSZ`, sent when a write exceeds the limit on the size of files (`ulimit -f`). Without a handler it ends the process.
const FILE_LIMIT_REACHED: i32 = 25;
/// How long sockets may take to close after the last stream.
const CLOSING: Duration = Duration::from_secs(2);

pub struct App {
    pub address: SocketAddr,
    /// One line for the terminal: models, store, and addresses.
    pub summary: String,
    listener: TcpListener,
    generations: Arc<Generations>,
    /// Absent if the store is lost with the process.
    cluster: Option<Arc<Cluster>>,
    access: Arc<Access>,
    /// Present if `/admin` has an address of its own.
    admin: Option<TcpListener>,
    settings: Settings,
}

impl App {
    /// Binds the address and opens the store first, so that their errors are reported before a model is loaded. Answers probes while
    /// the models load.
    pub async fn build(settings: Settings) -> anyhow::Result<Self> {
        Access::new(&settings.auth)?;
        // With a handler for the signal, a write beyond the limit fails as on a full disk, and the store waits for room.
        drop(signal(SignalKind::from_raw(FILE_LIMIT_REACHED))?);
        let listener = bound("server.bind", settings.server.bind)?;
        let stores = stores(&settings)?;
        let progress = watch::Sender::default();
        let waiting = edge::waiting::serve(listener.try_clone()?, &settings, progress.subscribe())?;
        let shown = tokio::spawn(loading::show(progress.subscribe()));
        let engine = engine(&settings, progress).await;
        shown.abort();
        let _ = shown.await;
        waiting.end().await;
        Self::with(settings, listener, stores, engine?)
    }

    /// Builds the application with a loaded engine and a bound listener.
    pub fn new(settings: Settings, listener: TcpListener, engine: Arc<dyn Engine>) -> anyhow::Result<Self> {
        let stores = stores(&settings)?;
        Self::with(settings, listener, stores, engine)
    }

    fn with(
        settings: Settings,
        listener: TcpListener,
        stores: Stores,
        engine: Arc<dyn Engine>,
    ) -> anyhow::Result<Self> {
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let models: Vec<String> = engine
            .models()
            .iter()
            .map(|m| format!("model {} · up to {} at once", m.id, engine.capacity(&m.id).sequences))
            .collect();
        let (store, fleet) = (stores.responses.clone(), stores.fleet.clone());
        let kind = match (settings.store.kind, &fleet) {
            (StoreKind::Redis, Some(fleet)) => format!("redis, as {}", fleet.me()),
            (StoreKind::Sqlite, _) => settings.store.sqlite.file().display().to_string(),
            _ => "memory".into(),
        };
        let mut summary = format!("{} · store: {kind}", models.join(" · "));
        let access = Access::new(&settings.auth)?;
        let admin = settings.server.admin_bind.map(|address| bound("server.admin_bind", address)).transpose()?;
        if let Some(admin) = &admin {
            admin.set_nonblocking(true)?;
            summary.push_str(&format!(" · admin on http://{}", admin.local_addr()?));
        }
        if settings.auth.mode == AuthMode::Open {
            summary.push_str(&format!(
                " · OPEN: every client that reaches {address} may use this server without a key (auth.mode)"
            ));
            tracing::warn!(%address, "auth.mode is \"open\": every client that reaches this address may use the server without a key");
        }
        let generations = Generations::new(engine, stores, &settings);
        let lease = Duration::from_millis(settings.cluster.lease_ms);
        let cluster = fleet.map(|fleet| Cluster::join(store, fleet, generations.clone(), lease));
        Ok(Self { address, summary, listener, generations, cluster, access, admin, settings })
    }

    /// Serves until SIGTERM or SIGINT. Then hands running generations over to other replicas; if there are none, lets them finish up to
    /// the deadline. What still runs after that is left to the next process if the store outlives this one, and cancelled otherwise.
    pub async fn run(self) -> anyhow::Result<()> {
        let (phase, watcher) = watch::channel(Phase::Serving);
        let deadline = Duration::from_millis(self.settings.server.shutdown_deadline_ms);
        self.access.spawn_rereading();
        let models = self.generations.engine().models();
        self.access.spawn_checking_models(move |name| models.iter().any(|model| model.is_called(name)));
        let edge = Edge::new(self.generations.clone(), self.settings, watcher, self.access);
        let listeners = Listeners { public: self.listener, admin: self.admin };
        let servers = edge::serve(listeners, edge).context("the server could not start")?;
        let handles: Vec<_> = servers.iter().map(|server| server.handle()).collect();
        let servers: Vec<_> = servers.into_iter().map(tokio::spawn).collect();
        interrupted().await?;
        tracing::info!("draining");
        self.generations.drain();
        phase.send_replace(Phase::Draining);
        let handed_over = match &self.cluster {
            Some(cluster) => cluster.hand_over().await,
            None => false,
        };
        let interrupted_again = interrupted();
        let finished = tokio::select! {
            finished = timeout(deadline, self.generations.finished()) => finished.is_ok(),
            _ = interrupted_again => false,
        };
        if !finished {
            tracing::warn!(
                "server.shutdown_deadline_ms has passed, or a second signal came; stopping the running generations"
            );
        }
        let outlives = self.cluster.is_some();
        if outlives {
            self.generations.hand_over();
        } else {
            self.generations.cancel_all();
        }
        let _ = timeout(CLOSING, self.generations.finished()).await;
        let _ = timeout(CLOSING, self.generations.settled()).await;
        let handed_over = handed_over || outlives && !finished;
        phase.send_replace(if handed_over { Phase::HandedOver } else { Phase::Closing });
        let _ = timeout(CLOSING * 2, join_all(handles.iter().map(|handle| handle.stop(true)))).await;
        servers.iter().for_each(tokio::task::JoinHandle::abort);
        Ok(())
    }
}

/// Bytes that the kernel buffers for a client that does not read; the default is megabytes. A stream is rendered as far as the client
/// reads, and the rendered output stays in memory for its last events.
const SEND_BUFFER: usize = 128 << 10;

/// Connections that may wait to be accepted. After a restart all clients reconnect at once, and a client that finds the queue full
/// retries only after a second. The standard library's listener has 128.
const BACKLOG: i32 = 4096;

fn bound(setting: &str, address: SocketAddr) -> anyhow::Result<TcpListener> {
    listen(address).map_err(|error| match error.kind() {
        std::io::ErrorKind::AddrInUse => anyhow::anyhow!(
            "{setting}: {address} is in use by another process; stop it, or choose another with --set {setting}=127.0.0.1:PORT (port 0 picks a free one)"
        ),
        _ => anyhow::anyhow!("{setting}: cannot listen on {address}: {error}"),
    })
}

fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    // Accepted sockets inherit the size.
    socket.set_send_buffer_size(SEND_BUFFER)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Returns at SIGTERM or SIGINT.
pub async fn interrupted() -> std::io::Result<()> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

async fn engine(settings: &Settings, progress: watch::Sender<Vec<ModelStatus>>) -> anyhow::Result<Arc<dyn Engine>> {
    match settings.engine.kind {
        EngineKind::Scripted => {
            let most =
                if settings.engine.max_running == 0 { SCRIPTED_MAX_RUNNING } else { settings.engine.max_running };
            Ok(Arc::new(Scripted::load(settings.engine.scripted.clone(), most, &progress).await))
        }
        #[cfg(not(feature = "mistralrs"))]
        EngineKind::Mistralrs => anyhow::bail!(
            "engine.kind: this binary was built without the feature `mistralrs`; build it with its default features, or use engine.kind=scripted"
        ),
        #[cfg(feature = "mistralrs")]
        EngineKind::Mistralrs => {
            use crate::engine::mistral::{KvSharing, MistralConfig, MistralEngine};

            let engine = &settings.engine;
            let sharing =
                stores::kv_store(settings)?.map(|store| KvSharing { store, encoding: settings.kv_store.encoding });
            let config = MistralConfig {
                models: engine.models.clone(),
                max_running: engine.max_running,
                threads: engine.threads,
                context_length: engine.context_length,
                kv_mb: engine.kv_mb,
                kv_type: engine.kv_type,
                gpu_memory: engine.gpu_memory,
                sharing,
            };
            Ok(Arc::new(MistralEngine::load(config, progress).await?))
        }
    }
}
